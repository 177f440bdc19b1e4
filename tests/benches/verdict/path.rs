//! The same rules on a packet's path through a veth pair: mirrorctl's classifier, an nft chain, neither.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use mirror_tests::oracle::Session;
use mirror_tests::{GENERATOR, HOST_SOURCE, Lab, rulesets};
use mirror_user::definitions::rule::{Action, Addresses, PortRange};
use mirror_user::kernel::bench::Programs;
use nix::net::if_::if_nametoindex;
use serde_json::{Value, json};

use crate::Effort;
use crate::figures::{Figure, cpu_time, nanoseconds};
use crate::policy::Case;

/// One policy on the path.
pub struct Path {
    pub name: String,
    pub nothing: Figure,
    pub mirrorctl: Figure,
    pub nft: Figure,
}

/// At the end of every path: all packets are dropped and counted.
const SINK: &str = "\
table netdev sink
delete table netdev sink
table netdev sink {
  chain ingress { type filter hook ingress device \"s0\" priority 100; policy accept; counter drop; }
}
";

/// Measures all cases; none where nft is missing.
pub fn measure<'a>(lab: &Lab, cases: impl Iterator<Item = &'a Case>, effort: Effort) -> Result<Vec<Path>> {
    if !has_nft()? {
        println!("\nnft is not installed: nothing to compare with");
        return Ok(Vec::new());
    }
    // With it a veth device takes frames by NAPI, as the generator needs.
    let mut ethtool = Command::new("ip");
    ethtool.args(["netns", "exec", lab.host.name(), "ethtool", "-K", HOST_SOURCE.interface, "gro", "on"]);
    ensure!(ethtool.status().context("run ethtool")?.success(), "switch GRO on at {}", HOST_SOURCE.interface);
    cases.map(|case| one(lab, case, effort)).collect()
}

fn one(lab: &Lab, case: &Case, effort: Effort) -> Result<Path> {
    let pins = lab.bpffs().context("the lab has a bpffs")?.join("path");
    let mut programs = Programs::load(&case.policy, &case.trace, &pins)?;
    let frame = rulesets::frame(&case.trace[0]);
    let chain = chain(&case.sessions);
    let index =
        lab.generator.enter(|| if_nametoindex(GENERATOR.interface).context("find the generator's interface"))?;
    let mut samples: [Vec<f64>; 3] = Default::default();
    let send = |programs: &mut Programs| -> Result<f64> {
        nft(lab, SINK)?;
        let ((), time) =
            lab.generator.enter(|| cpu_time(|| Ok(programs.generate(index, &frame, effort.packets)?)))?;
        let arrived = arrived(lab)?;
        ensure!(
            arrived >= u64::from(effort.packets),
            "{}: {arrived} of {} packets arrived: the figure would be too good",
            case.name(),
            effort.packets
        );
        Ok(nanoseconds(time, effort.packets))
    };
    for _ in 0..effort.rounds.min(9) {
        samples[0].push(send(&mut programs)?);
        let hook = lab.host.enter(|| Ok(programs.attach_hook(HOST_SOURCE.interface)?))?;
        samples[1].push(send(&mut programs)?);
        drop(hook);
        nft(lab, &chain)?;
        samples[2].push(send(&mut programs)?);
        nft(lab, "delete table netdev rules\n")?;
    }
    let [nothing, mirrorctl, nft] = samples.map(Figure::of);
    Ok(Path { name: case.name(), nothing, mirrorctl, nft })
}

/// The rules as a chain for each session: a rule that accepts ends the evaluation, one that rejects goes on behind its
/// session.
fn chain(sessions: &[Session]) -> String {
    let mut text = String::from("table netdev rules {\n");
    for (number, session) in sessions.iter().enumerate() {
        let _ = writeln!(text, "  chain session{number} {{");
        for rule in &session.rules {
            text.push_str("    ");
            if let Addresses::V4 { source, destination } = rule.addresses {
                for (word, net) in [("saddr", source), ("daddr", destination)] {
                    if net.prefix_len() != 0 {
                        let _ = write!(text, "ip {word} {net} ");
                    }
                }
            }
            if let Some(protocol) = rule.protocol {
                let _ = write!(text, "ip protocol {protocol} ");
            }
            let mut port = |word, range: Option<PortRange>| {
                if let Some(range) = range {
                    // `th` is TCP or UDP: the rule names which.
                    let _ = write!(text, "th {word} {range} ");
                }
            };
            port("sport", rule.source_ports);
            port("dport", rule.destination_ports);
            text.push_str(match rule.action {
                Action::Accept => "counter accept\n",
                Action::Reject => "counter return\n",
            });
        }
        text.push_str("  }\n");
    }
    text.push_str("  chain ingress {\n    type filter hook ingress device \"s0\" priority 0; policy accept;\n");
    for number in 0..sessions.len() {
        let _ = writeln!(text, "    jump session{number}");
    }
    text.push_str("  }\n}\n");
    text
}

/// How many packets came to the end of the path.
fn arrived(lab: &Lab) -> Result<u64> {
    let text = nft(lab, "list table netdev sink\n")?;
    let count = text.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    count.and_then(|count| count.parse().ok()).context("read nft's counter")
}

fn has_nft() -> Result<bool> {
    match Command::new("nft").arg("--version").stdout(Stdio::null()).status() {
        Ok(status) => Ok(status.success()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context("run nft"),
    }
}

/// Runs nft inside the lab's host.
fn nft(lab: &Lab, script: &str) -> Result<String> {
    lab.host.run("nft", &["-f", "-"], script)
}

/// Prints them.
pub fn print(paths: &[Path]) {
    if paths.is_empty() {
        return;
    }
    println!(
        "\nthe same rules on the path of a packet, sender included: CPU time for each packet above no rules at all"
    );
    println!("  {:<16} {:>12} {:>12} {:>12} {:>8}", "rules", "nothing", "mirrorctl", "nft", "nft is");
    for path in paths {
        let above = |figure: &Figure| figure.median() - path.nothing.median();
        println!(
            "  {:<16} {:>9.1} ns {:>9.1} ns {:>9.1} ns {:>6.1} x",
            path.name,
            path.nothing.median(),
            above(&path.mirrorctl),
            above(&path.nft),
            above(&path.nft) / above(&path.mirrorctl)
        );
    }
}

impl Path {
    /// For machines.
    pub fn json(&self) -> Value {
        json!({
            "name": self.name,
            "nothing_ns": self.nothing.json(),
            "mirrorctl_ns": self.mirrorctl.json(),
            "nft_ns": self.nft.json(),
        })
    }
}
