//! Live verdicts: a program in front of the attached ones that judges by the same table and tells of it. It is there only
//! while a [`Tracer`] lives.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::programs::tc::SchedClassifierLink;
use mirror_common::policy::Direction;
use mirror_common::table::{RuleEntry, Verdict};
use mirror_common::trace::Traced;

use super::{
    Answer, AtSource, Constants, Generation, Kernel, Load, POLICY_MAPS, TABLE, TRACE, TRACE_LOST, TRACE_PROGRAM,
    failed, hook, load, loaded_program, program, table, typed,
};
use crate::compile::Policy;
use crate::error::{Error, Kind, Result};
use crate::instance::Instance;
use crate::links::Link;

/// Bytes of the ring of a direction: some 8,000 verdicts.
const RING_BYTES: u32 = 1 << 20;

/// Traces a source.
pub struct Tracer {
    directions: Vec<Traces>,
    lost_before: u64,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").finish_non_exhaustive()
    }
}

/// The tracing of one direction.
struct Traces {
    direction: Direction,
    rules: Vec<RuleEntry>,
    ring: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
    link: Option<SchedClassifierLink>,
}

/// A packet and its verdict.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which way it went.
    pub direction: Direction,
    /// When, by the monotonic clock.
    pub time: Duration,
    /// Bytes of the packet.
    pub length: u32,
    /// Wire packets that it stands for.
    pub wire_packets: u32,
    /// Its beginning, the VLAN tag that the device took off put back.
    pub frame: Vec<u8>,
    /// The verdict.
    pub answer: Answer,
}

impl Kernel {
    /// Begins to trace a source by the policies of a generation.
    pub fn trace(
        &self,
        instance: &Instance,
        interface: &Link,
        tcx: bool,
        generation: Generation,
        directions: &[Direction],
    ) -> Result<Tracer> {
        let mut traces = self.load_traces(interface, generation, directions)?;
        for (traces, object) in &mut traces {
            let program = loaded_program(object, TRACE_PROGRAM)?;
            traces.link = Some(hook::attach_for_now(program, interface, traces.direction, tcx, instance)?);
        }
        Ok(Tracer { directions: traces.into_iter().map(|(traces, _)| traces).collect(), lost_before: 0 })
    }

    /// Goes on by the policies of another generation, and returns what the old ones have seen since it was last taken.
    /// Nothing has changed if that generation is no longer there.
    pub fn retrace(&self, tracer: &mut Tracer, interface: &Link, generation: Generation) -> Result<Vec<Seen>> {
        let directions: Vec<_> = tracer.directions.iter().map(|traces| traces.direction).collect();
        let mut rest = Vec::new();
        let loaded = self.load_traces(interface, generation, &directions)?;
        for ((mut new, mut object), old) in loaded.into_iter().zip(&mut tracer.directions) {
            let what = format!("replace the program of trace at {} of {}", new.direction.name(), interface.name);
            let program = loaded_program(&mut object, TRACE_PROGRAM)?;
            let link = old.link.take().ok_or_else(|| Error::new(Kind::Failed, &what, "it has no link"))?;
            let link = program
                .attach_to_link(link)
                .and_then(|id| program.take_link(id))
                .map_err(|error| failed(&what)(&error))?;
            new.link = Some(link);
            super::wait_for_runs();
            old.take(&mut rest)?;
            tracer.lost_before += old.lost()?;
            *old = new;
        }
        rest.sort_by_key(|seen| seen.time);
        Ok(rest)
    }

    fn load_traces(
        &self,
        interface: &Link,
        generation: Generation,
        directions: &[Direction],
    ) -> Result<Vec<(Traces, Ebpf)>> {
        let source =
            AtSource { ifindex: interface.index, has_ethernet_header: interface.has_ethernet_header, clone_ifindex: 0 };
        // What it doesn't do needs no constants.
        let constants = Constants::NONE;
        let policies = directions
            .iter()
            .map(|direction| {
                let directory = self.generation_pins(interface.index, generation).join(direction.name());
                Ok((Policy { shape: table::shape(&directory)?, ..Policy::default() }, directory))
            })
            .collect::<Result<Vec<_>>>()?;
        let loads: Vec<_> = policies
            .iter()
            .map(|(policy, directory)| {
                let mut maps: Vec<_> = super::INSTANCE_MAPS.iter().map(|map| (*map, self.pins.join(map))).collect();
                maps.extend(POLICY_MAPS.iter().map(|map| (*map, directory.join(map))));
                Load { constants, source, policy, maps, ring_bytes: Some(RING_BYTES) }
            })
            .collect();
        let open = |(mut object, (direction, (_, directory))): (Ebpf, (&Direction, &(Policy, PathBuf)))| {
            program(&mut object, TRACE_PROGRAM)?;
            let mut map = |name: &str| {
                let missing =
                    || Error::new(Kind::Failed, format_args!("open map {name}"), "it is missing from this build");
                object.take_map(name).ok_or_else(missing)
            };
            let traces = Traces {
                direction: *direction,
                rules: table::rules(&directory.join(TABLE))?,
                ring: typed(map(TRACE)?, TRACE)?,
                lost: typed(map(TRACE_LOST)?, TRACE_LOST)?,
                link: None,
            };
            Ok((traces, object))
        };
        let mut places = directions.iter().zip(&policies);
        let mut traces = Vec::new();
        load(&loads, |object| {
            if let Some(place) = places.next() {
                traces.push(open((object, place))?);
            }
            Ok(())
        })?;
        Ok(traces)
    }
}

impl Tracer {
    /// Takes what was seen since the last time, in the order of each direction.
    pub fn take(&mut self) -> Result<Vec<Seen>> {
        let mut seen = Vec::new();
        for traces in &mut self.directions {
            traces.take(&mut seen)?;
        }
        seen.sort_by_key(|seen| seen.time);
        Ok(seen)
    }

    /// Verdicts that there was no room for.
    pub fn lost(&self) -> Result<u64> {
        self.directions.iter().try_fold(self.lost_before, |sum, traces| Ok(sum + traces.lost()?))
    }
}

impl Traces {
    fn take(&mut self, to: &mut Vec<Seen>) -> Result<()> {
        while let Some(item) = self.ring.next() {
            let what = "read map TRACE";
            if item.len() < size_of::<Traced>() {
                return Err(Error::new(Kind::Failed, what, format_args!("a record has {} bytes", item.len())));
            }
            // SAFETY: as long as a `Traced`, which has no padding and takes any bytes; read unaligned.
            let traced = unsafe { item.as_ptr().cast::<Traced>().read_unaligned() };
            let verdict = Verdict::from_answer(traced.answer)
                .ok_or_else(|| Error::new(Kind::Failed, what, format_args!("unknown answer {:x?}", traced.answer)))?;
            let mut frame = traced.frame[..(traced.traced as usize).min(traced.frame.len())].to_vec();
            if traced.vlan_tag != [0; 4] && frame.len() >= 12 {
                frame.splice(12..12, traced.vlan_tag);
            }
            to.push(Seen {
                direction: self.direction,
                time: Duration::from_nanos(traced.time),
                length: traced.length,
                wire_packets: traced.wire_packets,
                frame,
                answer: Answer::new(verdict, &self.rules)?,
            });
        }
        Ok(())
    }

    fn lost(&self) -> Result<u64> {
        let per_cpu = self.lost.get(&0, 0).map_err(|error| failed(format_args!("read map {TRACE_LOST}"))(&error))?;
        Ok(per_cpu.iter().sum())
    }
}
