//! The commands on definitions as a shell sees them: exit status, message, and that a refusal changes nothing, neither in
//! the store nor in the kernel.

use std::fs;

use anyhow::Result;
use mirror_tests::Lab;
use mirror_tests::process::{Output, Running};
use serde_json::Value;

/// A host in a lab of its own.
struct Host {
    lab: Lab,
}

impl Host {
    fn new() -> Result<Self> {
        Ok(Self { lab: Lab::new()? })
    }

    /// Runs `mirrorctl` with these words; a word with blanks stands in single quotes.
    fn run(&self, words: &str) -> Result<Output> {
        let mut arguments = Vec::new();
        for (index, part) in words.split('\'').enumerate() {
            if index % 2 == 1 {
                arguments.push(part);
            } else {
                arguments.extend(part.split_whitespace());
            }
        }
        let command = self.lab.mirrorctl_command(&self.lab.host, &arguments)?;
        Running::start(command, format!("`mirrorctl {words}`"))?.output()
    }

    fn does(&self, words: &str) -> Result<String> {
        let output = self.run(words)?;
        assert!(output.succeeded() && output.stderr.is_empty(), "{words} should just work; {output}");
        Ok(output.stdout)
    }

    fn json(&self, words: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.does(&format!("{words} --json"))?)?)
    }

    /// Runs what must be refused, and sees to it that nothing has changed.
    fn refuses(&self, exit_status: i32, words: &str, says: &[&str]) -> Result<()> {
        let before = self.everything();
        self.run(words)?.fails(exit_status, says);
        assert!(self.everything() == before, "{words}: refused, and yet something has changed");
        Ok(())
    }

    /// The bytes of the store, if there is one, and of the record of what is in the kernel.
    fn everything(&self) -> [Option<Vec<u8>>; 2] {
        let directory = self.lab.state_directory().join("default");
        ["definitions.toml", "state.json"].map(|file| fs::read(directory.join(file)).ok())
    }

    fn file(&self, text: &str) -> Result<String> {
        let path = self.lab.scratch_directory().join("file.toml");
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    }
}

const RULE: &str = "--action accept --source-cidr 0.0.0.0/0 --destination-cidr 0.0.0.0/0";

/// Target zeek, filter web with ingress rule 100, session web-to-zeek of s0 with number 1.
fn host() -> Result<Host> {
    let host = Host::new()?;
    host.does("target create zeek --address 10.2.0.2")?;
    host.does("filter create web")?;
    host.does(&format!("rule add web --direction ingress --rule-number 100 {RULE}"))?;
    host.does("session create web-to-zeek --source s0 --target zeek --filter web --session-number 1 --vni 42")?;
    Ok(host)
}

#[test]
fn what_cannot_be_meant_is_refused_with_field_value_and_range() -> Result<()> {
    let host = host()?;
    let session = "session create two --source s0 --target zeek --filter web --session-number";
    let modify = "session modify web-to-zeek";
    let add = "rule add web --direction ingress --rule-number";
    let cidrs = "--action accept --rule-number 1 --direction ingress --source-cidr";
    let long = "x".repeat(256);
    let tags: String = (0..51).map(|number| format!(" --tag k{number}=v")).collect();
    let cases: &[(i32, String, &[&str])] = &[
        (2, format!("{session} 0"), &["--session-number", "'0'", "1 to 32766"]),
        (2, format!("{session} 32767"), &["--session-number", "'32767'", "1 to 32766"]),
        (2, format!("{session} -1"), &["--session-number", "'-1'", "1 to 32766"]),
        (2, format!("{session} 2 --vni 16777216"), &["--vni", "'16777216'", "0 to 16777215"]),
        (2, format!("{session} 2 --packet-length 0"), &["--packet-length", "'0'", "1 to 8500"]),
        (2, format!("{session} 2 --packet-length 8501"), &["--packet-length", "'8501'", "1 to 8500"]),
        (2, format!("{modify} --packet-length 8501"), &["--packet-length", "'8501'", "1 to 8500"]),
        (2, format!("{modify} --vni 1 --remove-field vni"), &["VNI", "not both"]),
        (2, format!("{modify} --source eth0"), &["--source"]),
        (2, format!("{session} 2 --tag k=1 --tag k=2"), &["tag 'k'", "twice"]),
        (2, format!("{session} 2{tags}"), &["51 tags", "at most 50"]),
        (2, format!("{session} 2 --tag team"), &["'team'", "KEY=VALUE"]),
        (2, format!("{session} 2 --description {long}"), &["--description", "255"]),
        (2, format!("{add} 0 {RULE}"), &["--rule-number", "'0'", "1 to 32766"]),
        (2, format!("{add} 32767 {RULE}"), &["--rule-number", "'32767'", "1 to 32766"]),
        (4, format!("{add} 100 {RULE}"), &["rule number 100", "web"]),
        (2, format!("{add} 1 {RULE} --protocol 256"), &["--protocol", "'256'", "0 to 255"]),
        (2, format!("{add} 1 {RULE} --protocol tpc"), &["--protocol", "'tpc'", "0 to 255"]),
        (2, format!("{add} 1 {RULE} --source-port-range 80"), &["source port range 80", "tcp", "udp"]),
        (2, format!("{add} 1 {RULE} --protocol icmp --destination-port-range 80"), &["80", "icmp"]),
        (2, format!("{add} 1 {RULE} --protocol tcp --source-port-range 443-80"), &["443-80", "backwards"]),
        (2, format!("{add} 1 {RULE} --protocol tcp --source-port-range 1-65536"), &["1-65536", "0 to 65535"]),
        (2, format!("rule add web {cidrs} 10.0.0.1/8 --destination-cidr 0.0.0.0/0"), &["10.0.0.1/8", "10.0.0.0/8"]),
        (2, format!("rule add web {cidrs} 10.0.0.0/33 --destination-cidr 0.0.0.0/0"), &["10.0.0.0/33", "0 to 32"]),
        (2, format!("rule add web {cidrs} ::/0 --destination-cidr 0.0.0.0/0"), &["::/0", "0.0.0.0/0", "one family"]),
        (2, "rule delete web --rule-number 100".into(), &["--direction"]),
        (3, "rule delete web --direction egress --rule-number 100".into(), &["egress", "100"]),
        (3, "rule delete tmfr-00000000000000000".into(), &["tmfr-00000000000000000"]),
        (3, format!("rule add wob --direction ingress --rule-number 1 {RULE}"), &["wob", "no such filter"]),
        (4, format!("{session} 1"), &["session number 1", "web-to-zeek"]),
        (
            4,
            "session create web-to-zeek --source s0 --target zeek --filter web --session-number 2".into(),
            &["already"],
        ),
        (3, "session create two --source nope0 --target zeek --filter web --session-number 2".into(), &["nope0"]),
        (3, "session create two --source s0 --target zek --filter web --session-number 2".into(), &["\"zek\""]),
        (3, "session create two --source s0 --target zeek --filter wob --session-number 2".into(), &["\"wob\""]),
        (3, "session modify two --vni 1".into(), &["two", "no such session"]),
        (3, "session delete two --yes".into(), &["two", "no such session"]),
        (2, "session delete web-to-zeek".into(), &["terminal", "hint: --yes"]),
        (4, "target create zeek --address 10.2.0.3".into(), &["zeek", "already"]),
        (2, "target create two".into(), &["--address", "--interface"]),
        (2, "target create two --address 0.0.0.0".into(), &["0.0.0.0", "one host"]),
        (3, "target create two --interface nope0".into(), &["nope0", "no such interface"]),
        (2, "target create tmt-0123456789abcdef0 --address 10.2.0.3".into(), &["look like an id"]),
        (2, "target create ' two' --address 10.2.0.3".into(), &["' two'", "1 to 255"]),
        (4, "target delete zeek".into(), &["in use", "web-to-zeek"]),
        (3, "target delete absent".into(), &["absent", "no such target"]),
        (4, "filter create web".into(), &["web", "already"]),
        (4, "filter delete web".into(), &["in use", "web-to-zeek"]),
        (3, "filter show absent".into(), &["absent", "no such filter"]),
        (2, "filter modify web --network-service ntp".into(), &["'ntp'", "dns"]),
        (3, "tag set absent a=1".into(), &["absent"]),
        (3, "tag remove zeek a".into(), &["\"a\"", "no such tag"]),
        (3, "apply -f /nonexistent".into(), &["/nonexistent"]),
    ];
    for (exit_status, command, says) in cases {
        host.refuses(*exit_status, command, says)?;
    }
    let target_is_source = Host::new()?;
    target_is_source.does("target create span --interface s0")?;
    target_is_source.does("filter create all")?;
    target_is_source.refuses(
        2,
        "session create one --source s0 --target span --filter all --session-number 1",
        &["target span", "s0", "the source itself"],
    )?;
    Ok(())
}

#[test]
fn a_refusal_leaves_no_file_behind() -> Result<()> {
    let host = Host::new()?;
    host.refuses(3, "session create one --source s0 --target zeek --filter web --session-number 1", &["zeek"])?;
    host.refuses(3, "tag set zeek a=1", &["zeek"])?;
    assert_eq!(host.does("target list")?, "no targets\n");
    let left: Vec<_> = fs::read_dir(host.lab.state_directory())?.collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn a_file_is_applied_whole_or_not_at_all() -> Result<()> {
    let host = host()?;
    let exported = host.does("export")?;
    let whole = exported.replace("vni = 42", "vni = 43\npacket_length = 128").replace("10.2.0.2", "10.2.0.3");
    for (exit_status, from, to, says) in [
        (2, "vni = 43", "vni = 16777216", &["line 22: vni = 16777216", "0 to 16777215"][..]),
        (2, "packet_length", "packet_lenght", &["line 23: unknown key 'packet_lenght'"]),
        (2, "0.0.0.0/0", "10.0.0.1/8", &["line 13: ", "10.0.0.1/8", "hint: the network is 10.0.0.0/8"]),
        (3, "source = \"s0\"", "source = \"nope0\"", &["session web-to-zeek", "nope0"]),
        (3, "target = \"zeek\"", "target = \"zek\"", &["line 16: target \"zek\""]),
        (2, "[[session]]", "[[session", &["line 16: "]),
    ] {
        let file = host.file(&whole.replacen(from, to, 1))?;
        host.refuses(exit_status, &format!("apply -f {file}"), says)?;
        host.refuses(exit_status, &format!("apply -f {file} --dry-run"), says)?;
    }

    let before = host.everything();
    let id = host.json("session show web-to-zeek")?["id"].clone();
    let file = host.file(&whole)?;
    let difference = "~ target zeek: address 10.2.0.2 -> 10.2.0.3\n\
                      ~ session web-to-zeek: vni 42 -> 43, packet_length whole packet -> 128\n";
    assert_eq!(host.does(&format!("apply -f {file} --dry-run"))?, difference);
    assert!(host.everything() == before, "a dry run changes nothing");
    assert_eq!(host.does(&format!("apply -f {file}"))?, difference);
    assert_eq!(host.does("export")?, whole);
    assert_eq!(host.json("session show web-to-zeek")?["id"], id, "what keeps its name keeps its id");
    assert_eq!(host.does(&format!("apply -f {file}"))?, "nothing to change\n");
    let empty = host.file("")?;
    host.does(&format!("apply -f {empty}"))?;
    assert_eq!(host.does("export")?, "");
    assert!(host.everything() == [None, None]);
    Ok(())
}

#[test]
fn a_name_or_an_id_will_do() -> Result<()> {
    let host = host()?;
    let id_of = |words: &str| -> Result<String> { Ok(host.json(words)?["id"].as_str().expect("an id").to_owned()) };
    let (target, filter) = (id_of("target show zeek")?, id_of("filter show web")?);
    let session = id_of("session show web-to-zeek")?;
    let rule = host.json("rule list web")?[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(id_of(&format!("target show {target}"))?, target);
    host.does(&format!("session create two --source s0 --target {target} --filter {filter} --session-number 2"))?;
    host.does(&format!("session modify {session} --session-number 3 --tag team=secops"))?;
    host.does(&format!("rule modify {rule} --rule-number 200 --action reject"))?;
    host.does(&format!("tag set {filter} a=1"))?;
    let shown = host.json(&format!("filter show {filter}"))?;
    assert_eq!((&shown["tags"]["a"], &shown["rules"][0]["rule_number"]), (&Value::from("1"), &Value::from(200)));
    assert_eq!(shown["rules"][0]["id"], Value::from(rule.as_str()));
    host.does(&format!("rule delete {rule}"))?;
    for session in [session.as_str(), "two"] {
        host.does(&format!("session delete {session} --yes"))?;
    }
    host.does(&format!("filter delete {filter}"))?;
    host.does(&format!("target delete {target}"))?;
    assert!(host.everything() == [None, None]);
    Ok(())
}
