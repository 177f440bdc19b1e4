//! What `cargo xtask bench` measures with (feature `bench`).

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, Map, MapData};
use aya::programs::links::LinkOrder;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{SchedClassifier, TcAttachType, TestRun, TestRunAttrs, TestRunOptions, Xdp};
use mirror_common::bench::TracePacket;
use mirror_common::policy::Direction;

use super::{
    AtSource, Constants, Load, TABLE, create_directory, failed, load_one, loaded_program, program, remove_pins,
    source_program, table,
};
use crate::compile::Policy;
use crate::error::{Error, Kind, Result};

const TRACE: &str = "BENCH_TRACE";
const HOOK: &str = "bench_hook";
const GENERATOR: &str = "bench_generate";

/// What is run on each packet of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Takes the next packet.
    Empty,
    /// Takes the next packet and judges it.
    Verdict,
}

impl Probe {
    const fn program(self) -> &'static str {
        match self {
            Self::Empty => "bench_empty",
            Self::Verdict => "bench_verdict",
        }
    }
}

/// Bytes of kernel memory that a map takes, as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapMemory {
    /// The map's name.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
}

/// The kernel programs with one policy.
#[derive(Debug)]
pub struct Programs(Ebpf);

fn open(policy: &Policy, directory: &Path) -> Result<Ebpf> {
    remove_pins(directory)?;
    create_directory(directory)?;
    table::create(policy, directory)?;
    let constants = Constants::NONE;
    let maps = vec![(TABLE, directory.join(TABLE))];
    let programs = load_one(&Load { constants, source: AtSource::NONE, policy, maps, ring_bytes: None })?;
    remove_pins(directory)?;
    Ok(programs)
}

impl Programs {
    /// Loads what goes through `trace`. `directory`, in bpffs, holds a pin meanwhile.
    pub fn load(policy: &Policy, trace: &[TracePacket], directory: &Path) -> Result<Self> {
        let mut programs = open(policy, directory)?;
        let what = format!("fill map {TRACE}");
        let map = programs.map_mut(TRACE).ok_or_else(|| Error::new(Kind::Failed, &what, "there is no such map"))?;
        let mut map = Array::<&mut MapData, TracePacket>::try_from(map).map_err(|error| failed(&what)(&error))?;
        for (index, packet) in trace.iter().enumerate() {
            map.set(index as u32, packet, 0).map_err(|error| failed(&what)(&error))?;
        }
        for probe in [Probe::Empty, Probe::Verdict] {
            program(&mut programs, probe.program())?;
        }
        program(&mut programs, HOOK)?;
        Ok(Self(programs))
    }

    /// Runs a probe on the next `packets` packets of the trace: the time for each, in whole nanoseconds. `frame` is what
    /// the packets' headers are written into.
    pub fn run(&mut self, probe: Probe, frame: &[u8], packets: u32) -> Result<Duration> {
        let program = loaded_program(&mut self.0, probe.program())?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = packets;
        let result = program.test_run(options).map_err(|error| failed("run a probe")(&error))?;
        Ok(result.duration)
    }

    /// Sends `packets` packets of the trace out of an interface of this network namespace.
    pub fn generate(&mut self, interface: u32, frame: &[u8], packets: u32) -> Result<()> {
        let what = format!("run kernel program {GENERATOR}");
        let program =
            self.0.program_mut(GENERATOR).ok_or_else(|| Error::new(Kind::Failed, &what, "there is no such program"))?;
        let program: &mut Xdp = program.try_into().map_err(|error| Error::failed(&what, &error))?;
        if program.fd().is_err() {
            program.load().map_err(|error| failed(&what)(&error))?;
        }
        // `struct xdp_md` of include/uapi/linux/bpf.h: data, data_end, data_meta, ingress_ifindex, and two more.
        let context: Vec<u8> =
            [0, frame.len() as u32, 0, interface, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = Some(&context);
        options.repeat = packets;
        // Live frames (Linux 5.18), as many at once as the kernel would take anyway.
        options.attrs = TestRunAttrs::new().xdp_live_frames(64);
        program.test_run(options).map_err(|error| failed(&what)(&error))?;
        Ok(())
    }

    /// Attaches the hook that judges and mirrors nothing, until the value is dropped.
    pub fn attach_hook(&mut self, interface: &str) -> Result<SchedClassifierLink> {
        let hook = loaded_program(&mut self.0, HOOK)?;
        attach(hook, interface, Direction::Ingress)
    }
}

/// The programs of a source, one for each direction, as they are attached.
#[derive(Debug)]
pub struct Source {
    programs: [Ebpf; 2],
    links: Vec<SchedClassifierLink>,
}

impl Source {
    /// Loads both directions.
    pub fn load(policies: [&Policy; 2], directory: &Path) -> Result<Self> {
        let load = |direction: Direction| {
            let mut programs = open(policies[direction as usize], directory)?;
            program(&mut programs, source_program(direction))?;
            Ok(programs)
        };
        Ok(Self { programs: [load(Direction::Ingress)?, load(Direction::Egress)?], links: Vec::new() })
    }

    /// Attaches both.
    pub fn attach(&mut self, interface: &str) -> Result<()> {
        for direction in Direction::ALL {
            let program = loaded_program(&mut self.programs[direction as usize], source_program(direction))?;
            self.links.push(attach(program, interface, direction)?);
        }
        Ok(())
    }

    /// Takes the place of another.
    pub fn replace(&mut self, mut older: Self) -> Result<()> {
        for (direction, link) in Direction::ALL.into_iter().zip(older.links.drain(..)) {
            let what = "replace a program";
            let program = loaded_program(&mut self.programs[direction as usize], source_program(direction))?;
            let link = program
                .attach_to_link(link)
                .and_then(|id| program.take_link(id))
                .map_err(|error| failed(what)(&error))?;
            self.links.push(link);
        }
        Ok(())
    }

    /// What the maps of both directions take; maps of this benchmark left out.
    pub fn memory(&self) -> Result<Vec<MapMemory>> {
        let mut memory = Vec::new();
        for programs in &self.programs {
            for (name, map) in programs.maps().filter(|(name, _)| !name.starts_with("BENCH_")) {
                if let Some(fd) = descriptor(map) {
                    memory.push(MapMemory { name: name.to_owned(), bytes: memlock(fd)? });
                }
            }
        }
        Ok(memory)
    }
}

fn attach(program: &mut SchedClassifier, interface: &str, direction: Direction) -> Result<SchedClassifierLink> {
    let place = match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    };
    program
        .attach_with_options(interface, place, TcAttachOptions::TcxOrder(LinkOrder::first()))
        .and_then(|id| program.take_link(id))
        .map_err(|error| failed(format_args!("attach to {interface}"))(&error))
}

fn descriptor(map: &Map) -> Option<i32> {
    let (Map::Array(map) | Map::PerCpuArray(map) | Map::HashMap(map) | Map::PerCpuHashMap(map)) = map else {
        return None;
    };
    Some(map.fd().as_fd().as_raw_fd())
}

/// What the kernel says that a map takes (`memlock` in its fdinfo).
fn memlock(fd: i32) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{fd}");
    let text = fs::read_to_string(&path).map_err(|error| Error::failed(format_args!("read {path}"), &error))?;
    text.lines()
        .find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
        .ok_or_else(|| Error::new(Kind::Failed, format_args!("read {path}"), "it has no line memlock"))
}
