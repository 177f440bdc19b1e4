//! Verdicts on a trace, by BPF_PROG_TEST_RUN: what they cost above a program that only goes through the trace.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use mirror_common::table::Verdict as Answer;
use mirror_tests::Lab;
use mirror_tests::oracle::{self, Verdict};
use mirror_tests::rulesets;
use mirror_user::kernel::Judge;
use mirror_user::kernel::bench::{Probe, Programs};
use serde_json::{Value, json};

use crate::Effort;
use crate::figures::{Bars, Figure, cpu_time, nanoseconds};
use crate::policy::Case;

/// The cost of one policy's verdicts.
pub struct Verdicts {
    pub name: String,
    pub shape: &'static str,
    pub rules: usize,
    /// Nanoseconds for each packet above the empty program.
    pub above: Figure,
    /// The empty program itself.
    pub empty: Figure,
    /// How many different rules the trace hits.
    pub hit: usize,
    /// How many packets no session takes.
    pub missed: usize,
}

/// Measures all cases in turns.
pub fn measure(lab: &Lab, cases: &[Case], effort: Effort) -> Result<Vec<Verdicts>> {
    let pins = lab.bpffs().context("the lab has a bpffs")?.join("probe");
    let mut loaded = Vec::new();
    for case in cases {
        let hits = check(case, &pins)?;
        loaded.push((case, hits, Programs::load(&case.policy, &case.trace, &pins)?, Vec::new(), Vec::new()));
    }
    for _ in 0..effort.rounds {
        for (case, _, programs, empties, aboves) in &mut loaded {
            let frame = rulesets::frame(&case.trace[0]);
            let mut run = |probe| -> Result<f64> {
                let ((), time) = cpu_time(|| Ok(programs.run(probe, &frame, effort.packets).map(drop)?))?;
                Ok(nanoseconds(time, effort.packets))
            };
            // Empty before and after: a host that slows down meanwhile slows both.
            let (before, verdict, after) = (run(Probe::Empty)?, run(Probe::Verdict)?, run(Probe::Empty)?);
            let empty = f64::midpoint(before, after);
            empties.push(empty);
            aboves.push(verdict - empty);
        }
    }
    Ok(loaded
        .into_iter()
        .map(|(case, (hit, missed), _, empties, aboves)| Verdicts {
            name: case.name(),
            shape: case.shape.name(),
            rules: case.rules,
            above: Figure::of(aboves),
            empty: Figure::of(empties),
            hit,
            missed,
        })
        .collect())
}

/// What is measured must be right: the kernel judges the trace as the oracle does. How many rules it hits, and how many
/// packets nobody takes.
fn check(case: &Case, pins: &std::path::Path) -> Result<(usize, usize)> {
    let mut judge = Judge::load(&case.policy, pins)?;
    let mut hit = HashSet::new();
    let mut missed = 0;
    for packet in &case.trace {
        let frame = rulesets::frame(packet);
        let place = match judge.verdict(&frame)? {
            Answer::Rule(place) => Some(case.policy.places[place as usize]),
            _ => None,
        };
        let answer = place.and_then(|place| place.rule.map(|rule| Verdict::Rule(place.session, rule)));
        // The program tells who gets a packet, and not who rejected it.
        let expected = match oracle::judge(&case.sessions, &frame) {
            Verdict::Rejected(..) => Verdict::None,
            verdict => verdict,
        };
        ensure!(
            answer.unwrap_or(Verdict::None) == expected,
            "{}: the kernel says {answer:?}, the oracle {expected:?}, of {:?}",
            case.name(),
            oracle::dissect(&frame)
        );
        match answer {
            Some(Verdict::Rule(session, rule)) => _ = hit.insert((session, rule.get())),
            _ => missed += 1,
        }
    }
    Ok((hit.len(), missed))
}

/// Prints them.
pub fn print(verdicts: &[Verdicts]) {
    println!("verdicts on a trace of 10,000 packets, above an empty program: CPU time for each packet");
    for verdict in verdicts {
        println!(
            "verdict/{:<17} time: {:<32} empty {:.1} ns, {} rules hit, {} packets for nobody",
            verdict.name,
            verdict.above.text("ns"),
            verdict.empty.median(),
            verdict.hit,
            verdict.missed
        );
    }
}

/// 10,000 rules: at most 150 ns, and 1.5 times 10 rules.
pub fn judge(verdicts: &[Verdicts], bars: &mut Bars) {
    for large in verdicts.iter().filter(|verdict| verdict.rules == 10_000) {
        let small = verdicts.iter().find(|small| small.shape == large.shape && small.rules == 10);
        if let Some(small) = small {
            let ratio = large.above.median() / small.above.median();
            bars.check(format!("{}: times 10 rules", large.name), ratio, 1.5, "times");
        }
        bars.check(format!("{}: above an empty program", large.name), large.above.median(), 150.0, "ns");
    }
}

impl Verdicts {
    /// For machines.
    pub fn json(&self) -> Value {
        json!({
            "shape": self.shape,
            "rules": self.rules,
            "above_empty_ns": self.above.json(),
            "empty_ns": self.empty.json(),
            "rules_hit": self.hit,
            "packets_for_nobody": self.missed,
        })
    }
}
