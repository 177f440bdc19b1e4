//! Policies of the benchmark: how long a change of one takes, and what it pins.

use std::time::Instant;

use anyhow::{Context, Result};
use mirror_common::bench::TracePacket;
use mirror_tests::oracle::Session;
use mirror_tests::rulesets::{self, Shape};
use mirror_tests::{HOST_SOURCE, Lab};
use mirror_user::compile::{self, Policy};
use mirror_user::kernel::bench::{MapMemory, Source};
use serde_json::{Value, json};

use crate::Effort;
use crate::figures::{Bars, Figure, milliseconds};

/// A policy and its trace.
pub struct Case {
    pub shape: Shape,
    pub rules: usize,
    pub sessions: Vec<Session>,
    pub policy: Policy,
    pub trace: Vec<TracePacket>,
}

impl Case {
    /// Draws and compiles it.
    pub fn draw(shape: Shape, rules: usize) -> Result<Self> {
        let sessions = rulesets::draw(shape, rules);
        let policy = compile(&sessions)?;
        let trace = rulesets::trace(shape, &sessions);
        Ok(Self { shape, rules, sessions, policy, trace })
    }

    /// How it is called.
    pub fn name(&self) -> String {
        format!("{}/{}", self.shape.name(), self.rules)
    }
}

fn compile(sessions: &[Session]) -> Result<Policy> {
    let sessions: Vec<_> = sessions
        .iter()
        .enumerate()
        .map(|(slot, session)| compile::Session {
            slot: slot as u32,
            rules: session.rules.iter().collect(),
            dns: &session.dns,
            mirror_non_ip: session.mirror_non_ip,
        })
        .collect();
    Ok(compile::compile(&sessions)?)
}

/// What a change of policy takes, both directions.
pub struct Change {
    pub name: String,
    pub table: usize,
    pub compile: Figure,
    pub load: Figure,
    pub switch: Figure,
    pub whole: Figure,
}

/// Changes policies at the lab's source, over and over.
pub fn measure_change(lab: &Lab, cases: &[&Case], effort: Effort) -> Result<Vec<Change>> {
    let pins = lab.bpffs().context("the lab has a bpffs")?.join("change");
    lab.host.enter(|| {
        cases
            .iter()
            .map(|case| {
                let mut samples: [Vec<f64>; 4] = Default::default();
                let mut attached: Option<Source> = None;
                for _ in 0..=effort.rounds {
                    let start = Instant::now();
                    let policies = [compile(&case.sessions)?, compile(&case.sessions)?];
                    let compiled = start.elapsed();
                    let mut source = Source::load([&policies[0], &policies[1]], &pins)?;
                    let loaded = start.elapsed();
                    match attached.take() {
                        None => source.attach(HOST_SOURCE.interface)?,
                        Some(older) => {
                            source.replace(older)?;
                            let whole = start.elapsed();
                            let steps = [compiled, loaded - compiled, whole - loaded, whole];
                            for (samples, step) in samples.iter_mut().zip(steps) {
                                samples.push(milliseconds(step));
                            }
                        }
                    }
                    attached = Some(source);
                }
                let [compile, load, switch, whole] = samples.map(Figure::of);
                let table = size_of_val(&case.policy.table[..]);
                Ok(Change { name: case.name(), table, compile, load, switch, whole })
            })
            .collect()
    })
}

/// Prints them.
pub fn print_change(changes: &[Change]) {
    println!("\nchange of policy, both directions: wall clock");
    for change in changes {
        println!("change/{:<18} time: {}", change.name, change.whole.text("ms"));
        println!("{:25} compile {}", "", change.compile.text("ms"));
        println!("{:25} load    {}", "", change.load.text("ms"));
        println!("{:25} switch  {}", "", change.switch.text("ms"));
        println!("{:25} table   {} KiB for each direction", "", change.table / 1024);
    }
}

/// At most 150 ms.
pub fn judge_change(changes: &[Change], bars: &mut Bars) {
    for change in changes {
        bars.check(format!("{}: compile, load and switch", change.name), change.whole.median(), 150.0, "ms");
    }
}

impl Change {
    /// For machines.
    pub fn json(&self) -> Value {
        json!({
            "name": self.name,
            "table_bytes": self.table,
            "compile_ms": self.compile.json(),
            "load_ms": self.load.json(),
            "switch_ms": self.switch.json(),
            "whole_ms": self.whole.json(),
        })
    }
}

/// What the maps of both directions take.
pub struct Memory {
    pub name: String,
    pub maps: Vec<MapMemory>,
}

/// Loads each policy for both directions and asks the kernel.
pub fn measure_memory(lab: &Lab, cases: &[&Case]) -> Result<Vec<Memory>> {
    let pins = lab.bpffs().context("the lab has a bpffs")?.join("memory");
    cases
        .iter()
        .map(|case| {
            let source = Source::load([&case.policy, &case.policy], &pins)?;
            Ok(Memory { name: case.name(), maps: source.memory()? })
        })
        .collect()
}

/// Prints it.
pub fn print_memory(memory: &[Memory]) {
    println!("\nmaps of a source, both directions, maps of the instance counted twice (memlock of /proc/self/fdinfo)");
    for memory in memory {
        println!("maps/{:<20} {:.1} KiB", memory.name, memory.bytes() as f64 / 1024.0);
        for map in &memory.maps[..memory.maps.len() / 2] {
            println!("{:25} {:<18} {:>8}", "", map.name, map.bytes);
        }
    }
}

/// At most 256 KiB.
pub fn judge_memory(memory: &[Memory], bars: &mut Bars) {
    for memory in memory {
        bars.check(format!("{}: maps", memory.name), memory.bytes() as f64 / 1024.0, 256.0, "KiB");
    }
}

impl Memory {
    fn bytes(&self) -> u64 {
        self.maps.iter().map(|map| map.bytes).sum()
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let maps: Vec<_> = self.maps.iter().map(|map| json!({ "name": map.name, "bytes": map.bytes })).collect();
        json!({ "name": self.name, "bytes": self.bytes(), "maps": maps })
    }
}
