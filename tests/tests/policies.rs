//! Sessions, filters and rules end to end: commands in, copies out; what `explain` and `trace` say is what happens.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use mirror_tests::frame::{LOCAL_EXPERIMENT, Tag, VLAN};
use mirror_tests::oracle::{self, Session, Verdict};
use mirror_tests::random::Random;
use mirror_tests::wait::wait_until;
use mirror_tests::{
    COLLECTOR, Frame, GENERATOR, HOST_SOURCE, IpVersion, Lab, Running, Turn, Wanted, craft, hooks, policies, traffic,
};
use mirror_user::definitions::rule::{Action, Addresses, Rule};
use serde_json::{Value, json};

/// Applies definitions that are written to a file of the lab.
fn apply(lab: &Lab, definitions: &str) -> Result<()> {
    let file = lab.scratch_directory().join("definitions.toml");
    fs::write(&file, definitions).context("write a definitions file")?;
    lab.mirrorctl(&format!("apply -f {}", file.display()))?.ok();
    Ok(())
}

fn target() -> String {
    format!("[[target]]\nname = \"collector\"\naddress = \"{}\"\n", COLLECTOR.v4)
}

/// A filter of these ingress rules, each of a line: number, action, protocol, source, destination, destination ports.
fn filter(name: &str, settings: &str, rules: &[(u16, &str, &str, &str, &str, &str)]) -> String {
    let mut text = format!("[[filter]]\nname = \"{name}\"\n{settings}");
    for (number, action, protocol, source, destination, ports) in rules {
        let mut line = |key: &str, value: &str| {
            if !value.is_empty() {
                writeln!(text, "{key} = \"{value}\"").expect("a string grows");
            }
        };
        line("[[filter.rule]]\ndirection", "ingress");
        line("action", action);
        line("protocol", protocol);
        line("source", source);
        line("destination", destination);
        line("destination_ports", ports);
        writeln!(text, "number = {number}").expect("a string grows");
    }
    text
}

fn session(name: &str, number: u16, filter: &str, vni: u32) -> String {
    format!(
        "[[session]]\nname = \"{name}\"\nnumber = {number}\nsource = \"s0\"\ntarget = \"collector\"\nfilter = \"{filter}\"\nvni = {vni}\n"
    )
}

const ANY: &str = "0.0.0.0/0";
const ANY_V6: &str = "::/0";

/// Asserts that `frames` went, each once, to the VNI beside it; 0 is nobody.
#[track_caller]
fn assert_mirrored_to(copies: &[mirror_tests::Copy], frames: &[(Frame, u32)]) {
    let mut expected: BTreeMap<&Frame, Vec<u32>> = BTreeMap::new();
    for (frame, vni) in frames {
        let vnis = expected.entry(frame).or_default();
        if *vni != 0 {
            vnis.push(*vni);
        }
    }
    let mut found: BTreeMap<&Frame, Vec<u32>> = BTreeMap::new();
    for copy in copies.iter().filter(|copy| expected.contains_key(&copy.inner)) {
        found.entry(&copy.inner).or_default().push(copy.vni);
    }
    for (frame, mut vnis) in expected {
        vnis.sort_unstable();
        let mut copied = found.remove(frame).unwrap_or_default();
        copied.sort_unstable();
        assert_eq!(copied, vnis, "VNIs of the copies of {frame:?}");
    }
}

#[test]
fn a_packet_goes_to_the_first_session_that_accepts_it_and_to_no_other() -> Result<()> {
    for hook in hooks()? {
        let lab = Lab::new()?;
        // Names and places in the file say nothing: the numbers do.
        let definitions = [
            target(),
            session("a-last", 32766, "all", 3),
            session("z-first", 1, "web", 1),
            session("middle", 200, "udp", 2),
            filter("all", "", &[(1, "accept", "", ANY, ANY, ""), (2, "accept", "", ANY_V6, ANY_V6, "")]),
            filter("udp", "", &[(7, "reject", "icmp", ANY, ANY, ""), (9, "accept", "udp", ANY, ANY, "")]),
            filter(
                "web",
                "",
                &[
                    (20, "accept", "tcp", ANY, ANY, ""),
                    (10, "reject", "tcp", ANY, ANY, "9"),
                    (30, "reject", "udp", ANY, ANY, "1"),
                ],
            ),
        ]
        .concat();
        apply(&lab, &definitions)?;
        lab.mirrorctl("detach s0")?.ok();
        lab.mirrorctl(&format!("attach s0 --hook {hook}"))?.ok();
        let tcp = |port: u16| {
            let mut frame = craft::tcp_v4(20, 0x10);
            frame.0[36..38].copy_from_slice(&port.to_be_bytes());
            frame
        };
        let frames = [
            (tcp(80), 1),
            // Rejected by rule 10 of the first, nothing to the second: the last takes it.
            (tcp(9), 3),
            (craft::udp_v4(30), 2),
            (craft::echo_reply_v4(40), 3),
            (craft::udp(&GENERATOR, &HOST_SOURCE, IpVersion::V6, (1, 2), b"six"), 3),
            // Behind a tag, which the kernel takes off before the hook.
            (craft::tagged(&craft::udp_v4(31), &[Tag { ethertype: VLAN, control: 5 }]), 2),
            (craft::tagged(&tcp(81), &[Tag { ethertype: VLAN, control: 5 }, Tag { ethertype: VLAN, control: 6 }]), 1),
            (craft::ethernet(&GENERATOR, &HOST_SOURCE, 0x88b6, &[1; 50]), 0),
        ];
        let injected: Vec<_> = frames.iter().map(|(frame, _)| frame.clone()).collect();
        let recording = lab.record(|| lab.inject_all(GENERATOR, &injected))?;
        recording.no_strays();
        assert_mirrored_to(&recording.copies, &frames);
    }
    Ok(())
}

#[test]
fn super_packets_are_judged_like_the_packets_they_stand_for() -> Result<()> {
    let lab = Lab::new()?;
    let rule = |direction: &str, number: u16, ports: &str| {
        format!(
            "[[filter.rule]]\nnumber = {number}\ndirection = \"{direction}\"\naction = \"accept\"\nprotocol = \"tcp\"\n\
             source = \"{ANY}\"\ndestination = \"{ANY}\"\n{ports}"
        )
    };
    let definitions = [
        target(),
        "[[filter]]\nname = \"tcp\"\n".into(),
        rule("ingress", 1, ""),
        rule("egress", 2, ""),
        session("all-tcp", 5, "tcp", 42),
    ]
    .concat();
    apply(&lab, &definitions)?;
    let _turn = Turn::wait()?;
    let (generator, host) = (lab.end(GENERATOR, IpVersion::V4), lab.end(HOST_SOURCE, IpVersion::V4));
    let recording = lab.record(|| traffic::exchange_tcp(generator, host, 1_000_000))?;
    let (sent, received) = recording.super_packets();
    assert!(sent > 5 && received > 5, "the kernel should have handled super-packets: {sent} out, {received} in");
    let frames = recording.each_frame_has_one_copy(Wanted::vni(42)) as u64;
    let stats = lab.stats()?;
    let rules = stats["rules"].as_array().context("rules is an array")?;
    let decided: u64 = rules.iter().filter_map(|rule| rule["packets"].as_u64()).sum();
    assert_eq!(decided, frames, "rules count wire packets: {stats}");
    Ok(())
}

#[test]
fn frames_that_are_not_ip_go_to_the_first_session_that_takes_them() -> Result<()> {
    let lab = Lab::new()?;
    let definitions = [
        target(),
        filter("ip", "", &[(1, "accept", "", ANY, ANY, "")]),
        filter("more", "mirror_non_ip = true\n", &[]),
        session("ip", 1, "ip", 1),
        session("more", 2, "more", 2),
        session("never", 3, "more", 3),
    ]
    .concat();
    apply(&lab, &definitions)?;
    let frames = [
        (craft::ethernet(&GENERATOR, &HOST_SOURCE, 0x88cc, &[7; 60]), 2),
        (craft::ethernet(&GENERATOR, &HOST_SOURCE, 0x0806, &[0; 46]), 2),
        (craft::udp_v4(30), 1),
        (craft::udp(&GENERATOR, &HOST_SOURCE, IpVersion::V6, (1, 2), b"six"), 0),
    ];
    let injected: Vec<_> = frames.iter().map(|(frame, _)| frame.clone()).collect();
    let recording = lab.record(|| lab.inject_all(GENERATOR, &injected))?;
    assert_mirrored_to(&recording.copies, &frames);
    Ok(())
}

#[test]
fn dns_of_the_host_is_taken_ahead_of_the_rules() -> Result<()> {
    let lab = Lab::new()?;
    let resolver =
        |text: &str| fs::write(lab.scratch_directory().join("resolv.conf"), text).context("write resolv.conf");
    let definitions = [
        target(),
        filter("f", "network_services = [\"dns\"]\n", &[(1, "reject", "", ANY, ANY, "")]),
        filter("rest", "", &[(1, "accept", "", ANY, ANY, "")]),
        session("dns", 1, "f", 1),
        session("rest", 2, "rest", 2),
    ]
    .concat();
    resolver(&format!("nameserver {}\n", GENERATOR.v4))?;
    apply(&lab, &definitions)?;
    let udp = |ports| craft::udp(&GENERATOR, &HOST_SOURCE, IpVersion::V4, ports, b"answer");
    let send = |frames: &[(Frame, u32)]| {
        let injected: Vec<_> = frames.iter().map(|(frame, _)| frame.clone()).collect();
        lab.record(|| lab.inject_all(GENERATOR, &injected))
    };
    // From port 53 of the resolver; to port 53, but of the host, which is no resolver; from another port.
    let frames = [(udp((53, 1000)), 1), (udp((1000, 53)), 2), (udp((54, 1000)), 2)];
    assert_mirrored_to(&send(&frames)?.copies, &frames);
    let stats = lab.stats()?;
    let service = &stats["rules"][0];
    assert_eq!(
        (&service["filter"], &service["rule_number"], &service["packets"]),
        (&json!("f"), &Value::Null, &json!(1))
    );
    // The host has other resolvers by the next change.
    resolver(&format!("nameserver {}\n", HOST_SOURCE.v4))?;
    lab.mirrorctl("session modify dns --vni 3")?.ok();
    let frames = [(udp((53, 1000)), 2), (udp((1000, 53)), 3), (udp((54, 1000)), 2)];
    assert_mirrored_to(&send(&frames)?.copies, &frames);
    Ok(())
}

/// A random policy as a file; sessions have the VNIs 1, 2, 3 and so on.
fn written(sessions: &[Session]) -> String {
    let mut text = target();
    for (index, session) in sessions.iter().enumerate() {
        let number = index + 1;
        writeln!(text, "[[filter]]\nname = \"f{number}\"\nmirror_non_ip = {}", session.mirror_non_ip).expect("grows");
        session.rules.iter().for_each(|rule| write_rule(&mut text, rule));
        text.push_str(&self::session(&format!("s{number}"), number as u16 * 3, &format!("f{number}"), number as u32));
    }
    text
}

fn write_rule(text: &mut String, rule: &Rule) {
    let (source, destination) = match &rule.addresses {
        Addresses::V4 { source, destination } => (source.to_string(), destination.to_string()),
        Addresses::V6 { source, destination } => (source.to_string(), destination.to_string()),
    };
    let action = if rule.action == Action::Accept { "accept" } else { "reject" };
    let mut line = |key: &str, value: String| writeln!(text, "{key} = {value}").expect("a string grows");
    line("[[filter.rule]]\nnumber", rule.number.get().to_string());
    line("direction", "\"ingress\"".into());
    line("action", format!("{action:?}"));
    line("source", format!("{source:?}"));
    line("destination", format!("{destination:?}"));
    if let Some(protocol) = rule.protocol {
        line("protocol", format!("\"{protocol}\""));
    }
    for (key, range) in [("source_ports", rule.source_ports), ("destination_ports", rule.destination_ports)] {
        if let Some(range) = range {
            line(key, format!("\"{}-{}\"", range.first(), range.last()));
        }
    }
}

/// draft-ietf-opsawg-pcap: a header, then for each packet its time, its length twice, and itself.
fn pcap(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, 1] {
        bytes.extend(word.to_le_bytes());
    }
    for frame in frames {
        for word in [0, 0, frame.0.len() as u32, frame.0.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(&frame.0);
    }
    bytes
}

/// What `explain` and `trace` should say of a frame, in the fields of JSON.
fn expected(sessions: &[Session], frame: &Frame) -> Value {
    let (session, rule) = match oracle::judge(sessions, frame.bytes()) {
        Verdict::Rule(session, rule) => (Some(session), Some(rule.get())),
        Verdict::Service(session) | Verdict::NonIp(session) => (Some(session), None),
        Verdict::Rejected(..) | Verdict::None => (None, None),
    };
    json!({
        "verdict": if session.is_some() { "mirror" } else { "none" },
        "session": session.map(|session| format!("s{}", session + 1)),
        "session_number": session.map(|session| (session + 1) * 3),
        "rule_number": rule,
    })
}

/// The fields of a verdict that are not words.
fn verdict(document: &Value) -> Value {
    let field = |name: &str| document[name].clone();
    json!({
        "verdict": field("verdict"),
        "session": field("session"),
        "session_number": field("session_number"),
        "rule_number": field("rule_number"),
    })
}

#[test]
fn explain_and_trace_say_what_happens() -> Result<()> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let seed = std::env::var("MIRROR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(seed);
    let mut random = Random::new(seed);
    let lab = Lab::new()?;
    let mut sessions = policies::policy(&mut random, 6, 40);
    sessions.iter_mut().for_each(|session| session.dns.clear());
    apply(&lab, &written(&sessions))?;
    let mut frames: Vec<Frame> = Vec::new();
    while frames.len() < 300 {
        let frame = Frame(policies::frame(&mut random, &sessions));
        let layers = frame.layers().context("an Ethernet header")?;
        // The kernel drops half a tag before any hook; a third tag is more than the tap takes.
        let whole = layers.tags.len() <= 2 && layers.ethertype != VLAN && layers.ethertype != 0x88a8;
        if whole && !frames.contains(&frame) {
            frames.push(frame);
        }
    }

    let file = lab.scratch_directory().join("questions.pcap");
    fs::write(&file, pcap(&frames)).context("write a capture")?;
    let explained =
        lab.mirrorctl(&format!("--json explain --source s0 --direction ingress --pcap {}", file.display()))?;
    let explained = explained.json();
    let explained = explained.as_array().context("explain prints an array")?;
    assert_eq!(explained.len(), frames.len());
    for (frame, document) in frames.iter().zip(explained) {
        assert_eq!(verdict(document), expected(&sessions, frame), "MIRROR_SEED={seed}: {document} of {frame:?}");
    }
    let stats = lab.stats()?;
    let decided: u64 =
        stats["rules"].as_array().into_iter().flatten().filter_map(|rule| rule["packets"].as_u64()).sum();
    let before = lab.record(|| Ok(()))?;
    assert!(before.copies.iter().all(|copy| !frames.contains(&copy.inner)), "a question is no packet");
    assert_eq!(decided, 0, "questions are not counted: {stats}");

    let tracing = lab.start_mirrorctl(&lab.host, "--json trace s0 --direction ingress")?;
    wait_until("trace is attached", || Ok(lab.programs("s0")?.0 == 2))?;
    let recording = lab.record(|| lab.inject_all(GENERATOR, &frames))?;
    tracing.interrupt()?;
    let traced = tracing.output()?;
    assert!(traced.succeeded(), "Ctrl-C is the end of a trace; {}", traced.stderr);
    assert_eq!(traced.stderr, "tracing s0\n");
    let traced: Vec<Value> = serde_json::from_str(&traced.stdout).context("trace prints an array")?;
    let with_vni: Vec<_> = frames
        .iter()
        .map(|frame| {
            let number = expected(&sessions, frame)["session_number"].as_u64().unwrap_or(0);
            (frame.clone(), number as u32 / 3)
        })
        .collect();
    let mirrored = with_vni.iter().filter(|(_, vni)| *vni != 0).count();
    assert!(mirrored > 20, "MIRROR_SEED={seed}: only {mirrored} of {} frames are wanted", frames.len());
    assert_mirrored_to(&recording.copies, &with_vni);
    // Markers of the lab and what hosts say on their own account are traced too.
    let markers = format!("ethertype {LOCAL_EXPERIMENT:#06x}");
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for document in traced.iter().filter(|document| !document["summary"].to_string().contains(&markers)) {
        *counts.entry(verdict(document).to_string()).or_default() += 1;
    }
    for (frame, _) in &with_vni {
        *counts.entry(expected(&sessions, frame).to_string()).or_default() -= 1;
    }
    assert!(
        counts.values().all(|count| *count >= 0) && counts.values().sum::<i64>() <= 20,
        "MIRROR_SEED={seed}: what trace said more often, or less often, than it happened: {counts:?}"
    );
    assert_eq!(lab.programs("s0")?, (1, 1), "what traced is gone");
    Ok(())
}

#[test]
fn a_killed_trace_leaves_nothing() -> Result<()> {
    if !hooks()?.contains(&"tcx") {
        // A filter of clsact stays: it belongs to no process. The next change of the source's hooks removes it.
        return Ok(());
    }
    let lab = Lab::new()?;
    lab.mirrorctl(&format!("attach s0 --target {}", COLLECTOR.v4))?.ok();
    let before = lab.traces()?;
    let tracing: Running = lab.start_mirrorctl(&lab.host, "trace s0")?;
    wait_until("trace is attached", || Ok(lab.programs("s0")? == (2, 2)))?;
    assert!(tracing.kill()?.was_killed());
    wait_until("the kernel detaches it", || Ok(lab.programs("s0")? == (1, 1)))?;
    before.are_all_there_is(&lab.traces()?, "after a killed trace");
    Ok(())
}

#[test]
fn trace_and_explain_refuse_what_is_not_attached() -> Result<()> {
    let lab = Lab::new()?;
    let explain = "explain --source s0 --direction ingress";
    lab.mirrorctl("trace s0")?.fails(3, &["s0", "has not attached it"]);
    lab.mirrorctl(&format!("{explain} --packet {}", "00".repeat(60)))?.fails(3, &["s0", "has not attached it"]);
    lab.mirrorctl(&format!("attach s0 --target {}", COLLECTOR.v4))?.ok();
    lab.mirrorctl(&format!("{explain} --packet 0g"))?.fails(2, &["'g'", "hexadecimal"]);
    lab.mirrorctl(&format!("{explain} --packet 0011"))?.fails(2, &["2 bytes", "14"]);
    lab.mirrorctl(&format!("{explain} --pcap /nonexistent"))?.fails(3, &["/nonexistent"]);
    lab.mirrorctl(&format!("{explain} --flow tcp"))?.fails(2, &["--flow", "write 'tcp 10.0.0.1:1234 > 10.0.0.2:80'"]);
    lab.mirrorctl(explain)?.fails(2, &["--packet", "--pcap", "--flow"]);
    lab.mirrorctl("trace s0 --count 0")?.fails(2, &["count"]);
    Ok(())
}

#[test]
fn counters_are_kept_for_what_still_exists() -> Result<()> {
    let lab = Lab::new()?;
    let rules = [(1, "accept", "udp", ANY, ANY, ""), (2, "accept", "icmp", ANY, ANY, "")];
    let definitions = |vni, rules: &[_]| [target(), filter("f", "", rules), session("s", 1, "f", vni)].concat();
    apply(&lab, &definitions(5, &rules))?;
    let udp: Vec<_> = (0..10).map(|length| craft::udp_v4(length + 20)).collect();
    let count = |stats: &Value, rule: u16| {
        let rules = stats["rules"].as_array().cloned().unwrap_or_default();
        rules.iter().find(|found| found["rule_number"] == rule).map(|rule| rule["packets"].clone())
    };
    lab.inject_all(GENERATOR, &udp)?;
    lab.flush()?;
    // Another VNI, another rule: the session and rule 1 are still the same.
    apply(&lab, &definitions(6, &[rules[0], (3, "accept", "tcp", ANY, ANY, "")]))?;
    lab.inject_all(GENERATOR, &udp)?;
    lab.flush()?;
    apply(&lab, &definitions(7, &rules[..1]))?;
    lab.inject_all(GENERATOR, &udp)?;
    lab.flush()?;
    let stats = lab.stats()?;
    assert_eq!(count(&stats, 1), Some(json!(30)), "{stats}");
    assert_eq!((count(&stats, 2), count(&stats, 3)), (None, None), "what was removed is forgotten: {stats}");
    assert_eq!(stats["sessions"][0]["packets"], 30, "{stats}");
    // The session's slots of before are forgotten after a second, by the next change; its counters are not.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    apply(&lab, &definitions(8, &rules))?;
    let stats = lab.stats()?;
    assert_eq!((count(&stats, 1), count(&stats, 2)), (Some(json!(30)), Some(json!(0))), "{stats}");
    assert_eq!(stats["sessions"][0]["packets"], 30, "{stats}");
    Ok(())
}

#[test]
fn a_change_that_fails_half_way_is_undone() -> Result<()> {
    let lab = Lab::new()?;
    let on = |interface: &str, vni: u32| {
        session(&format!("on-{interface}"), 1, "udp", vni).replace("\"s0\"", &format!("{interface:?}"))
    };
    let rules = filter("udp", "", &[(1, "accept", "udp", ANY, ANY, "")]);
    let definitions = |first, second| [target(), rules.clone(), on("s0", first), on("u0", second)].concat();
    apply(&lab, &definitions(1, 2))?;
    let exported = lab.mirrorctl("export")?.ok();
    // Somebody takes a link of the second source away: the switch gets as far as that.
    let sources = lab
        .bpffs()
        .context("the lab has a bpffs")?
        .join(format!("mirrorctl/default/v{}/sources", mirror_common::LAYOUT_VERSION));
    let index = lab.host.ip("-oneline link show dev u0")?;
    let index = index.split(':').next().context("an index")?;
    fs::remove_file(sources.join(index).join("mirror_egress")).context("remove a link")?;
    let file = lab.scratch_directory().join("definitions.toml");
    fs::write(&file, definitions(3, 4)).context("write a definitions file")?;
    lab.mirrorctl(&format!("apply -f {}", file.display()))?.fails(1, &["u0", "egress"]);

    assert_eq!(lab.mirrorctl("export")?.ok(), exported, "the definitions are as before");
    let frames = [(craft::udp_v4(30), 1)];
    let recording = lab.record(|| lab.inject(GENERATOR, &frames[0].0))?;
    assert_mirrored_to(&recording.copies, &frames);
    lab.mirrorctl("detach u0")?.ok();
    lab.mirrorctl("attach u0")?.ok();
    apply(&lab, &definitions(3, 4))?;
    let frames = [(craft::udp_v4(30), 3)];
    let recording = lab.record(|| lab.inject(GENERATOR, &frames[0].0))?;
    assert_mirrored_to(&recording.copies, &frames);
    Ok(())
}

#[test]
fn a_detached_source_stays_detached_until_attach() -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.traces()?;
    let all = filter("udp", "", &[(1, "accept", "udp", ANY, ANY, "")]);
    apply(&lab, &[target(), all, session("s", 1, "udp", 9)].concat())?;
    let exported = lab.mirrorctl("export")?.ok();
    lab.mirrorctl("detach s0")?.ok();
    let status = lab.status()?;
    assert_eq!((&status["sources"][0]["state"], &status["sources"][0]["hook"]), (&json!("detached"), &Value::Null));
    assert_eq!(lab.mirrorctl("export")?.ok(), exported, "the definitions stay");
    lab.mirrorctl("session modify s --vni 10")?.ok();
    assert_eq!(lab.programs("s0")?, (0, 0), "a change attaches nothing that was detached");
    lab.mirrorctl("attach s0")?.ok();
    let frames = [(craft::udp_v4(30), 10)];
    let recording = lab.record(|| lab.inject(GENERATOR, &frames[0].0))?;
    assert_mirrored_to(&recording.copies, &frames);
    apply(&lab, "")?;
    before.are_all_there_is(&lab.traces()?, "after everything was removed from the definitions");
    Ok(())
}

#[test]
fn the_most_sessions_and_rules_are_taken_and_one_more_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    let rule = |number: usize| {
        let port = number % 60_000;
        format!(
            "[[filter.rule]]\nnumber = {number}\ndirection = \"ingress\"\naction = \"accept\"\nprotocol = \"udp\"\n\
             source = \"10.{}.{}.0/24\"\ndestination = \"{ANY}\"\ndestination_ports = \"{port}\"\n",
            number / 256 % 256,
            number % 256
        )
    };
    let sessions = |count: u16| -> String {
        (1..=count).map(|number| session(&format!("s{number}"), number, "f", u32::from(number))).collect()
    };
    let rules = |count: usize| -> String { (1..=count).map(rule).collect() };
    let definitions = |sessions: &str, rules: &str| [&target(), "[[filter]]\nname = \"f\"\n", rules, sessions].concat();
    let refused = |text: &str, says: &[&str]| -> Result<()> {
        let file = lab.scratch_directory().join("too-many.toml");
        fs::write(&file, text).context("write a definitions file")?;
        lab.mirrorctl(&format!("apply -f {}", file.display()))?.fails(2, says);
        Ok(())
    };
    // 256 sessions of 64 rules are 16,384 rules.
    apply(&lab, &definitions(&sessions(256), &rules(64)))?;
    refused(&definitions(&sessions(257), &rules(1)), &["source s0 has 256 sessions"])?;
    refused(&definitions(&sessions(256), &rules(65)), &["source s0", "ingress rules", "16384"])?;
    refused(&definitions(&sessions(1), &rules(16_385)), &["16384"])?;
    assert_eq!(lab.status()?["sources"][0]["sessions"].as_array().map(Vec::len), Some(256));
    apply(&lab, &definitions(&sessions(1), &rules(16_384)))?;
    // Rule 16,384 is of 10.64.0.0/24.
    let flow =
        ["--json", "explain", "--source", "s0", "--direction", "ingress", "--flow", "udp 10.64.0.9:1 > 10.1.0.2:16384"];
    let answer = Running::start(lab.mirrorctl_command(&lab.host, &flow)?, "explain".into())?.output()?.json();
    assert_eq!(answer["rule_number"], 16_384, "{answer}");
    Ok(())
}
