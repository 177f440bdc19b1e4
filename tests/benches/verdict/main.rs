//! What a verdict costs: `cargo xtask bench verdict`.

mod figures;
mod path;
mod policy;
mod probe;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use mirror_tests::Lab;
use mirror_tests::rulesets::Shape;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::json;

use self::figures::Bars;
use self::policy::Case;

/// Rules of a policy.
const SIZES: [usize; 5] = [1, 10, 100, 1_000, 10_000];
/// Rules that nft gets too: it looks at one after the other.
const PATH_SIZES: [usize; 3] = [10, 100, 1_000];

/// How long it takes.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    packets: u32,
}

fn main() -> ExitCode {
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        // The bars say so themselves.
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and prints all; whether every bar is met.
fn measure() -> Result<bool> {
    let mut json_file = None;
    let mut only: Option<String> = None;
    let mut effort = Effort { rounds: 25, packets: 200_000 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // What cargo says to every benchmark.
            "--bench" => {}
            "--quick" => effort = Effort { rounds: 5, packets: 50_000 },
            "--json" => json_file = Some(arguments.next().context("--json: no file is named")?),
            other if !other.starts_with('-') && only.is_none() => only = Some(argument),
            other => bail!("unknown argument {other}"),
        }
    }

    let lab = Lab::new()?;
    // A program that moves from CPU to CPU finds cold caches.
    let mut cpus = CpuSet::new();
    cpus.set(cpus_last()?).context("choose a CPU")?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("stay on one CPU")?;

    let mut bars = Bars::default();
    let mut cases = Vec::new();
    for shape in Shape::ALL {
        for rules in SIZES {
            let case = Case::draw(shape, rules)?;
            if only.as_ref().is_none_or(|only| case.name().contains(only)) {
                cases.push(case);
            }
        }
    }
    let verdicts = probe::measure(&lab, &cases, effort)?;
    probe::print(&verdicts);
    probe::judge(&verdicts, &mut bars);

    let largest: Vec<_> = cases.iter().filter(|case| case.rules == 10_000).collect();
    let changes = policy::measure_change(&lab, &largest, effort)?;
    policy::print_change(&changes);
    policy::judge_change(&changes, &mut bars);

    let small: Vec<_> = cases.iter().filter(|case| case.rules == 10).collect();
    let memory = policy::measure_memory(&lab, &small)?;
    policy::print_memory(&memory);
    policy::judge_memory(&memory, &mut bars);

    let paths = path::measure(&lab, cases.iter().filter(|case| PATH_SIZES.contains(&case.rules)), effort)?;
    path::print(&paths);

    println!("\nbars");
    bars.print();
    if let Some(file) = json_file {
        let report = json!({
            "verdict": verdicts.iter().map(probe::Verdicts::json).collect::<Vec<_>>(),
            "change": changes.iter().map(policy::Change::json).collect::<Vec<_>>(),
            "memory": memory.iter().map(policy::Memory::json).collect::<Vec<_>>(),
            "path": paths.iter().map(path::Path::json).collect::<Vec<_>>(),
            "bars": bars.json(),
        });
        let text = serde_json::to_string_pretty(&report).context("write the report")?;
        fs::write(&file, text + "\n").with_context(|| format!("write {file}"))?;
    }
    Ok(bars.met())
}

/// The last CPU that this process may use: the first ones have most of a host's interrupts.
fn cpus_last() -> Result<usize> {
    let allowed = nix::sched::sched_getaffinity(Pid::from_raw(0)).context("read the CPUs of this process")?;
    (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false)).context("find a CPU")
}
