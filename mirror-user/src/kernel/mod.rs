//! The kernel's side: programs, maps and their pins. The one module that knows aya, and the only place where a map or
//! program is named.
//!
//! In bpffs, under `/sys/fs/bpf/mirrorctl/<instance>/v<layout>/`: the maps of the instance, the links of the programs at
//! the tap, and in `sources/<interface index>/` the counters and links of a source and, for each generation of its
//! policies, `<generation>/<direction>/`: table, rule counters and program. The directory of an instance is built beside
//! its place and published by one rename.

#[cfg(feature = "bench")]
pub mod bench;
mod clsact;
mod grace;
mod hook;
mod judge;
mod link;
mod table;
mod trace;
mod types;

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap};
use aya::programs::{ProgramError, SchedClassifier};
use aya::sys::BpfHelper;
use aya::{Ebpf, EbpfLoader};
use mirror_common::counters::{RULES_PER_ENTRY, RuleCounters, SessionCounters, SourceCounters};
use mirror_common::policy::{DIRECTIONS, Direction};
use mirror_common::session::{Session, SessionSlot};
use mirror_common::skip::SkipReason;
use mirror_common::super_packet::GsoTypeAt;
use mirror_common::table::RuleEntry;
use mirror_common::uplink::Uplink;

pub use self::clsact::{forget as forget_clsact, forget_one as forget_clsact_of, release as release_clsact};
pub use self::grace::wait_for_runs;
pub use self::hook::remove_filters;
pub use self::judge::{Answer, AttachedJudge, Judge};
pub use self::trace::{Seen, Tracer};
use crate::compile;
use crate::error::{Error, Kind, Result};
use crate::host;
use crate::instance::Instance;
use crate::links::{Link, Links};
use crate::state::Hook;
use crate::tap::Tap;

static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mirror-ebpf"));

const SESSIONS: &str = "SESSIONS";
const SESSION_COUNTERS: &str = "SESSION_COUNTERS";
const SKIPPED: &str = "SKIPPED";
const UPLINKS: &str = "UPLINKS";
const INSTANCE_MAPS: [&str; 4] = [SESSIONS, SESSION_COUNTERS, SKIPPED, UPLINKS];
const SOURCE_COUNTERS: &str = "SOURCE_COUNTERS";

const TABLE: &str = "TABLE";
const SHAPE: &str = "SHAPE";
const RULE_COUNTERS: &str = "RULE_COUNTERS";
const POLICY_MAPS: [&str; 2] = [TABLE, RULE_COUNTERS];

/// The pin of a source program in the directory of its generation.
const PROGRAM: &str = "program";
const TRACE_PROGRAM: &str = "mirror_trace";
const TRACE: &str = "TRACE";
const TRACE_LOST: &str = "TRACE_LOST";
const TAP_PROGRAM: &str = "mirror_tap";
const TAP_LINK: &str = "tap";
const FAST_PROGRAM: &str = "mirror_fast";
const FAST_LINK: &str = "fast";
const RAW_PROGRAM: &str = "mirror_raw";
const RAW_LINK: &str = "raw";

/// The program at a source, and the name of its link.
const fn source_program(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "mirror_ingress",
        Direction::Egress => "mirror_egress",
    }
}

/// What the programs are told when they are loaded.
#[derive(Clone, Copy, Debug)]
pub struct Constants {
    /// Interface index of the tap's sending end.
    pub tap_ifindex: u32,
    /// Interface index of the tap's receiving end.
    pub receiving_ifindex: u32,
    /// Whether `bpf_fib_lookup` tells the source address.
    pub fib_tells_source: bool,
    /// Where the program of the fast path finds how super-packets are segmented.
    pub gso_type_at: GsoTypeAt,
}

/// Where programs find what a helper doesn't tell them, if they may look.
fn gso_type_at() -> Result<GsoTypeAt> {
    // Not where the kernel is locked down (LOCKDOWN_BPF_READ_KERNEL).
    if !host::has_helper(BpfHelper::BPF_FUNC_probe_read_kernel)? {
        return Ok(GsoTypeAt::default());
    }
    Ok(types::gso_type_at().unwrap_or_default())
}

impl Constants {
    /// For programs that send nothing.
    pub const NONE: Self = Self {
        tap_ifindex: 0,
        receiving_ifindex: 0,
        fib_tells_source: false,
        gso_type_at: GsoTypeAt { head: 0, end: 0, gso_type: 0 },
    };
}

/// What the programs at a source are told of it when they are loaded.
#[derive(Clone, Copy, Debug)]
struct AtSource {
    ifindex: u32,
    has_ethernet_header: bool,
    /// Interface index of the device that clones go to.
    clone_ifindex: u32,
}

impl AtSource {
    /// For programs that are at no source.
    const NONE: Self = Self { ifindex: 0, has_ethernet_header: true, clone_ifindex: 0 };
}

/// The policies of a source are numbered: each change makes a new generation.
pub type Generation = u64;

/// A generation that is to be built.
#[derive(Clone, Copy, Debug)]
pub struct NewGeneration<'a> {
    /// The source.
    pub interface: &'a Link,
    /// Interface index of the device that its clones go to.
    pub clone_ifindex: u32,
    /// Its number.
    pub generation: Generation,
    /// Its policies.
    pub policies: &'a Policies,
}

/// A compiled policy for each direction.
#[derive(Clone, Debug)]
pub struct Policies([compile::Policy; DIRECTIONS as usize]);

impl Policies {
    /// Compiles both directions with `compile`.
    pub fn build<E>(
        compile: impl Fn(Direction) -> std::result::Result<compile::Policy, E>,
    ) -> std::result::Result<Self, E> {
        Ok(Self([compile(Direction::Ingress)?, compile(Direction::Egress)?]))
    }

    /// The policy of a direction.
    pub const fn of(&self, direction: Direction) -> &compile::Policy {
        &self.0[direction as usize]
    }
}

/// The kernel state of an instance.
#[derive(Debug)]
pub struct Kernel {
    pins: PathBuf,
}

fn failed(what: impl std::fmt::Display) -> impl Fn(&(dyn std::error::Error + 'static)) -> Error {
    move |error| Error::failed(&what, error)
}

impl Kernel {
    /// The state that is pinned; `None` when nothing is, or only a part of it.
    pub fn open(instance: &Instance) -> Option<Self> {
        let pins = instance.pins_of_this_version();
        pins.is_dir().then_some(Self { pins })
    }

    /// Whether anything is pinned for the instance, by whatever version.
    pub fn has_pins(instance: &Instance) -> bool {
        instance.pins().exists()
    }

    /// Loads the maps of an instance and the programs at the two ends of its tap, all or nothing.
    pub fn create(instance: &Instance, tap: &Tap, hook: Hook, constants: Constants) -> Result<Self> {
        let pins = instance.pins_of_this_version();
        let building = instance.pins().join("building");
        remove_pins(&building)?;
        create_directory(&building)?;
        create_directory(&building.join("sources"))?;
        let mut programs = load_at_no_source(Constants { gso_type_at: gso_type_at()?, ..constants }, &building)?;
        let program = program(&mut programs, TAP_PROGRAM)?;
        #[cfg(feature = "log")]
        program
            .pin(building.join(TAP_PROGRAM))
            .map_err(|error| failed(format_args!("pin kernel program {TAP_PROGRAM}"))(&error))?;
        // The tap takes what it gets in one direction only.
        hook::attach(program, &tap.receiving, Direction::Ingress, hook, instance, &building.join(TAP_LINK))?;
        let program = self::program(&mut programs, FAST_PROGRAM)?;
        hook::attach(program, &tap.sending, Direction::Egress, hook, instance, &building.join(FAST_LINK))?;
        fs::rename(&building, &pins)
            .map_err(|error| Error::failed(format_args!("publish pins {}", pins.display()), &error))?;
        Ok(Self { pins })
    }

    /// Loads the program of the raw device and attaches it.
    pub fn attach_raw(&self, instance: &Instance, raw: &Link, hook: Hook, constants: Constants) -> Result<()> {
        let pin = self.pins.join(RAW_LINK);
        remove_pin(&pin)?;
        let mut programs = load_at_no_source(constants, &self.pins)?;
        // Nothing comes in there.
        hook::attach(program(&mut programs, RAW_PROGRAM)?, raw, Direction::Egress, hook, instance, &pin)
    }

    /// The kernel's number of the tap program.
    #[cfg(feature = "log")]
    pub fn tap_program_id(&self) -> Result<u32> {
        let what = format!("look up kernel program {TAP_PROGRAM}");
        let program = SchedClassifier::from_pin(self.pins.join(TAP_PROGRAM)).map_err(|error| failed(&what)(&error))?;
        Ok(program.info().map_err(|error| failed(&what)(&error))?.id())
    }

    /// Tells the tap of a session.
    pub fn add_session(&self, slot: SessionSlot, session: Session) -> Result<()> {
        let what = format!("add session to map {SESSIONS}");
        let zero = SessionCounters::default();
        let cpus = aya::util::nr_cpus().map_err(|(file, error)| Error::failed(format_args!("read {file}"), &error))?;
        let counters = aya::maps::PerCpuValues::try_from(vec![zero; cpus]).map_err(|error| failed(&what)(&error))?;
        self.session_counters()?.insert(slot, counters, 0).map_err(|error| failed(&what)(&error))?;
        self.sessions()?.insert(slot, session, 0).map_err(|error| failed(&what)(&error))
    }

    /// Makes the tap forget a session; one that it doesn't know is no error.
    pub fn remove_session(&self, slot: SessionSlot) -> Result<()> {
        let absent_is_fine = |removed: std::result::Result<(), MapError>| match removed {
            Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|error| failed(format_args!("remove session from map {SESSIONS}"))(&error)),
        };
        absent_is_fine(self.sessions()?.remove(&slot))?;
        absent_is_fine(self.session_counters()?.remove(&slot))
    }

    /// Tells the tap of the MTU that the route of a session names, 0 for none. A session that it doesn't know is no error.
    pub fn set_route_mtu(&self, slot: SessionSlot, route_mtu: u32) -> Result<()> {
        let mut sessions = self.sessions()?;
        let session = match sessions.get(&slot, 0) {
            Ok(session) if session.route_mtu != route_mtu => session,
            Ok(_) | Err(MapError::KeyNotFound) => return Ok(()),
            Err(error) => return Err(failed(format_args!("read map {SESSIONS}"))(&error)),
        };
        // A reader has the whole old entry or the whole new one.
        sessions
            .insert(slot, Session { route_mtu, ..session }, 0)
            .map_err(|error| failed(format_args!("change a session in map {SESSIONS}"))(&error))
    }

    /// Tells the kernel of the interfaces that copies leave by now; what it was told of others stays.
    pub fn set_uplinks(&self, uplinks: impl IntoIterator<Item = (u32, Uplink)>) -> Result<()> {
        let mut map: HashMap<_, u32, Uplink> = typed(Map::HashMap(open(&self.pins.join(UPLINKS))?), UPLINKS)?;
        for (ifindex, flags) in uplinks {
            map.insert(ifindex, flags, 0)
                .map_err(|error| failed(format_args!("add interface {ifindex} to map {UPLINKS}"))(&error))?;
        }
        Ok(())
    }

    /// Loads the programs of sources for new generations of their policies, and pins them with their maps. Nothing is
    /// attached; a generation of that number, left by a crash, is replaced. After an error pins are left.
    pub fn build(&self, constants: Constants, wanted: &[NewGeneration<'_>]) -> Result<()> {
        let mut loads = Vec::new();
        let mut places = Vec::new();
        for &NewGeneration { interface, clone_ifindex, generation, policies } in wanted {
            let ifindex = interface.index;
            let source = AtSource { ifindex, has_ethernet_header: interface.has_ethernet_header, clone_ifindex };
            let directory = self.generation_pins(ifindex, generation);
            remove_pins(&directory)?;
            for direction in Direction::ALL {
                let directory = directory.join(direction.name());
                create_directory(&directory)?;
                let policy = policies.of(direction);
                table::create(policy, &directory)?;
                let mut maps: Vec<_> = INSTANCE_MAPS.iter().map(|map| (*map, self.pins.join(map))).collect();
                maps.push((SOURCE_COUNTERS, self.source_pins(ifindex).join(SOURCE_COUNTERS)));
                maps.extend(POLICY_MAPS.iter().map(|map| (*map, directory.join(map))));
                loads.push(Load { constants, source, policy, maps, ring_bytes: None });
                places.push((direction, directory.join(PROGRAM)));
            }
        }
        let mut places = places.into_iter();
        load(&loads, |mut object| {
            let Some((direction, pin)) = places.next() else { return Ok(()) };
            let program = program(&mut object, source_program(direction))?;
            // The pin is what keeps it: a thousand sources are more file descriptors than a process has.
            program.pin(&pin).map_err(|error| failed(format_args!("pin kernel program {}", pin.display()))(&error))
        })
    }

    /// Attaches the programs of a generation to a source that has none.
    pub fn attach(
        &self,
        instance: &Instance,
        interface: &Link,
        links: &Links,
        hook: Hook,
        generation: Generation,
    ) -> Result<()> {
        if hook == Hook::Tc {
            clsact::claim(instance, interface, links)?;
        }
        for direction in Direction::ALL {
            let mut program = self.pinned_program(interface.index, direction, generation)?;
            let pin = self.source_pins(interface.index).join(source_program(direction));
            hook::attach(&mut program, interface, direction, hook, instance, &pin)?;
        }
        Ok(())
    }

    /// Puts the program of a generation in the place of the attached one, in one step: a packet is judged by the whole
    /// policy of before or the whole one of `generation`.
    pub fn switch(
        &self,
        instance: &Instance,
        interface: &Link,
        hook: Hook,
        direction: Direction,
        generation: Generation,
    ) -> Result<()> {
        let mut program = self.pinned_program(interface.index, direction, generation)?;
        let pin = self.source_pins(interface.index).join(source_program(direction));
        hook::replace(&mut program, interface, direction, hook, instance, &pin)
    }

    fn pinned_program(&self, ifindex: u32, direction: Direction, generation: Generation) -> Result<SchedClassifier> {
        let pin = self.generation_pins(ifindex, generation).join(direction.name()).join(PROGRAM);
        SchedClassifier::from_pin(&pin)
            .map_err(|error| failed(format_args!("open kernel program {}", pin.display()))(&error))
    }

    /// The generations of a source that are pinned, ascending: the one in use, and what a crash left.
    pub fn generations(&self, ifindex: u32) -> Result<Vec<Generation>> {
        let directory = self.source_pins(ifindex);
        let failed = |error: &std::io::Error| Error::failed(format_args!("read pins {}", directory.display()), error);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(&error)),
        };
        let mut generations = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| failed(&error))?.file_name();
            generations.extend(name.to_str().and_then(|name| name.parse::<Generation>().ok()));
        }
        generations.sort_unstable();
        Ok(generations)
    }

    /// Drops the pins of a generation; none is no error.
    pub fn remove_generation(&self, ifindex: u32, generation: Generation) -> Result<()> {
        remove_pins(&self.generation_pins(ifindex, generation))
    }

    /// What each rule of a generation decided on: the rule and wire packets. Empty where a crash left no counters.
    pub fn rule_counts(
        &self,
        ifindex: u32,
        generation: Generation,
        direction: Direction,
    ) -> Result<Vec<(RuleEntry, u64)>> {
        let directory = self.generation_pins(ifindex, generation).join(direction.name());
        let (table, counters) = (directory.join(TABLE), directory.join(RULE_COUNTERS));
        if !table.exists() || !counters.exists() {
            return Ok(Vec::new());
        }
        let rules = table::rules(&table)?;
        let counters: PerCpuArray<_, RuleCounters> = typed(Map::PerCpuArray(open(&counters)?), RULE_COUNTERS)?;
        let mut counts = Vec::with_capacity(rules.len());
        for (entry, rules) in (0..).zip(rules.chunks(RULES_PER_ENTRY as usize)) {
            let per_cpu =
                counters.get(&entry, 0).map_err(|error| failed(format_args!("read map {RULE_COUNTERS}"))(&error))?;
            let sum = |index: usize| per_cpu.iter().map(|counters| counters[index]).sum();
            counts.extend(rules.iter().enumerate().map(|(index, rule)| (*rule, sum(index))));
        }
        Ok(counts)
    }

    /// Whoever answers questions for a direction of a source: the program that is attached.
    pub fn judge(
        &self,
        ifindex: u32,
        generation: Generation,
        direction: Direction,
        tap_ifindex: u32,
    ) -> Result<AttachedJudge> {
        let program = self.pinned_program(ifindex, direction, generation)?;
        let rules = table::rules(&self.generation_pins(ifindex, generation).join(direction.name()).join(TABLE))?;
        Ok(AttachedJudge::new(program, rules, ifindex, tap_ifindex))
    }

    /// Detaches the TCX links of a source and drops its pins.
    pub fn remove_source(&self, ifindex: u32) -> Result<()> {
        remove_source_pins(&self.source_pins(ifindex))
    }

    /// Whether the programs of a source are attached: with TCX, that its links exist and have not lost the interface.
    pub fn source_is_attached(&self, ifindex: u32, hook: Hook) -> bool {
        let directory = self.source_pins(ifindex);
        Direction::ALL.iter().all(|direction| match hook {
            Hook::Tcx => directory.join(source_program(*direction)).exists(),
            Hook::Tc => directory.is_dir(),
        })
    }

    /// Whether the program of the fast path is attached, as far as its link tells. A filter has none.
    pub fn has_fast_path(&self) -> bool {
        self.pins.join(FAST_LINK).exists() || !self.pins.join(TAP_LINK).exists()
    }

    /// What the hooks of a source saw.
    pub fn source_counters(&self, ifindex: u32, direction: Direction) -> Result<SourceCounters> {
        let map = Map::PerCpuArray(open(&self.source_pins(ifindex).join(SOURCE_COUNTERS))?);
        let counters: PerCpuArray<_, SourceCounters> = typed(map, SOURCE_COUNTERS)?;
        let per_cpu = counters
            .get(&(direction as u32), 0)
            .map_err(|error| failed(format_args!("read map {SOURCE_COUNTERS}"))(&error))?;
        Ok(per_cpu.iter().fold(SourceCounters::default(), |sum, cpu| SourceCounters {
            packets: sum.packets + cpu.packets,
            bytes: sum.bytes + cpu.bytes,
        }))
    }

    /// Whether the tap knows a session.
    pub fn has_session(&self, slot: SessionSlot) -> Result<bool> {
        match self.sessions()?.get(&slot, 0) {
            Ok(_) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(failed(format_args!("read map {SESSIONS}"))(&error)),
        }
    }

    /// What left for a session's target; nothing if the tap doesn't know the session.
    pub fn session_counts(&self, slot: SessionSlot) -> Result<SessionCounters> {
        let per_cpu = match self.session_counters()?.get(&slot, 0) {
            Ok(per_cpu) => per_cpu,
            Err(MapError::KeyNotFound) => return Ok(SessionCounters::default()),
            Err(error) => return Err(failed(format_args!("read map {SESSION_COUNTERS}"))(&error)),
        };
        Ok(per_cpu.iter().fold(SessionCounters::default(), |sum, cpu| SessionCounters {
            packets: sum.packets + cpu.packets,
            bytes: sum.bytes + cpu.bytes,
            truncated_to_length: sum.truncated_to_length + cpu.truncated_to_length,
            truncated_to_mtu: sum.truncated_to_mtu + cpu.truncated_to_mtu,
            fast_path: sum.fast_path + cpu.fast_path,
        }))
    }

    /// Accepted packets that did not go out for `reason`.
    pub fn skipped(&self, reason: SkipReason) -> Result<u64> {
        let skipped: PerCpuArray<_, u64> = typed(Map::PerCpuArray(open(&self.pins.join(SKIPPED))?), SKIPPED)?;
        let per_cpu =
            skipped.get(&(reason as u32), 0).map_err(|error| failed(format_args!("read map {SKIPPED}"))(&error))?;
        Ok(per_cpu.iter().sum())
    }

    /// Drops the pins of every source of an instance, whatever version made them.
    pub fn remove_all_sources(instance: &Instance) -> Result<()> {
        let versions = match fs::read_dir(instance.pins()) {
            Ok(versions) => versions,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
            Err(error) => {
                return Err(Error::failed(format_args!("read pins {}", instance.pins().display()), &error));
            }
        };
        for version in versions.flatten() {
            let sources = version.path().join("sources");
            for source in fs::read_dir(&sources).into_iter().flatten().flatten() {
                remove_source_pins(&source.path())?;
            }
            remove_pins(&sources)?;
        }
        Ok(())
    }

    /// Drops every pin of an instance, whatever version made it.
    pub fn remove(instance: &Instance) -> Result<()> {
        remove_pins(&instance.pins())?;
        // The directory of all instances goes with the last one.
        match fs::remove_dir(Instance::pins_root()) {
            Ok(()) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => Ok(()),
            Err(error) => Err(Error::failed(format_args!("remove pins {}", Instance::pins_root().display()), &error)),
        }
    }

    fn source_pins(&self, ifindex: u32) -> PathBuf {
        // By index: an interface name can have dots, which bpffs refuses.
        self.pins.join("sources").join(ifindex.to_string())
    }

    fn generation_pins(&self, ifindex: u32, generation: Generation) -> PathBuf {
        self.source_pins(ifindex).join(generation.to_string())
    }

    fn sessions(&self) -> Result<HashMap<MapData, SessionSlot, Session>> {
        typed(Map::HashMap(open(&self.pins.join(SESSIONS))?), SESSIONS)
    }

    fn session_counters(&self) -> Result<PerCpuHashMap<MapData, SessionSlot, SessionCounters>> {
        typed(Map::PerCpuHashMap(open(&self.pins.join(SESSION_COUNTERS))?), SESSION_COUNTERS)
    }
}

/// What the object file is loaded with.
struct Load<'a> {
    constants: Constants,
    source: AtSource,
    policy: &'a compile::Policy,
    /// Where maps are pinned, or taken from if they are there.
    maps: Vec<(&'static str, PathBuf)>,
    /// Bytes of the ring for `trace`; as few as can be where nobody traces.
    ring_bytes: Option<u32>,
}

/// Reads the object file once for each load and hands it to `use_it`, which drops what it doesn't need. Its programs are
/// not in the kernel yet, its maps are.
fn load<'a>(loads: impl IntoIterator<Item = &'a Load<'a>>, mut use_it: impl FnMut(Ebpf) -> Result<()>) -> Result<()> {
    let loads: Vec<_> = loads
        .into_iter()
        .map(|load| {
            let has_ethernet_header = u8::from(load.source.has_ethernet_header);
            (load, u8::from(load.constants.fib_tells_source), has_ethernet_header)
        })
        .collect();
    // One loader for all: a new one reads the type information of the kernel (5 MB, tens of milliseconds), which
    // nothing here needs. No program looks into the kernel's structures.
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    for (load, fib_tells_source, has_ethernet_header) in &loads {
        loader.override_global("TAP_IFINDEX", &load.constants.tap_ifindex, true);
        loader.override_global("RECEIVING_IFINDEX", &load.constants.receiving_ifindex, true);
        loader.override_global("FIB_TELLS_SOURCE", fib_tells_source, true);
        loader.override_global("GSO_TYPE_AT", &load.constants.gso_type_at, true);
        loader.override_global("CLONE_IFINDEX", &load.source.clone_ifindex, true);
        loader.override_global("SOURCE_IFINDEX", &load.source.ifindex, true);
        loader.override_global("SOURCE_HAS_ETHERNET", has_ethernet_header, true);
        loader.override_global("SHAPE", &load.policy.shape, true);
        // A map has one entry at least.
        loader.map_max_entries(RULE_COUNTERS, (load.policy.places.len() as u32).div_ceil(RULES_PER_ENTRY).max(1));
        if let Some(bytes) = load.ring_bytes {
            loader.map_max_entries(TRACE, bytes);
        }
        for (map, path) in &load.maps {
            loader.map_pin_path(map, path.as_path());
        }
        use_it(loader.load(PROGRAMS).map_err(|error| failed("load kernel programs")(&error))?)?;
    }
    Ok(())
}

/// As [`load`], for one.
fn load_one(load: &Load<'_>) -> Result<Ebpf> {
    let mut loaded = None;
    self::load([load], |object| {
        loaded = Some(object);
        Ok(())
    })?;
    loaded.ok_or_else(|| Error::new(Kind::Failed, "load kernel programs", "nothing was loaded"))
}

/// As [`load`], for the helper devices of an instance whose maps are pinned in `pins`, or will be.
fn load_at_no_source(constants: Constants, pins: &Path) -> Result<Ebpf> {
    let maps = INSTANCE_MAPS.map(|map| (map, pins.join(map))).into();
    load_one(&Load { constants, source: AtSource::NONE, policy: &compile::Policy::default(), maps, ring_bytes: None })
}

/// The program `name`, loaded into the kernel.
fn program<'a>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier> {
    let program = loaded_program(programs, name)?;
    program.load().map_err(|error| not_loaded(format_args!("load kernel program {name}"), &error))?;
    Ok(program)
}

/// The program `name` of those that were read.
fn loaded_program<'a>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier> {
    let what = format!("load kernel program {name}");
    let program = programs
        .program_mut(name)
        .ok_or_else(|| Error::new(Kind::Failed, &what, "it is missing from this build of mirrorctl"))?;
    program.try_into().map_err(|error: ProgramError| failed(&what)(&error))
}

/// The verifier's log is thousands of lines long; its last ones say what it refused.
fn not_loaded(what: impl std::fmt::Display, error: &ProgramError) -> Error {
    const LINES: usize = 4;
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return failed(what)(error);
    };
    let log = verifier_log.to_string();
    let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join("; ");
    Error::new(Kind::Failed, what, format_args!("{io_error}: the verifier says: {last}"))
}

fn open(path: &Path) -> Result<MapData> {
    MapData::from_pin(path).map_err(|error| failed(format_args!("open pinned map {}", path.display()))(&error))
}

fn typed<T>(map: Map, name: &str) -> Result<T>
where
    T: TryFrom<Map, Error = MapError>,
{
    T::try_from(map).map_err(|error| failed(format_args!("open map {name}"))(&error))
}

fn create_directory(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Error::failed(format_args!("create pins {}", path.display()), &error))
}

/// Detaches what is pinned in the directory of a source, and removes it.
fn remove_source_pins(directory: &Path) -> Result<()> {
    for direction in Direction::ALL {
        let pin = directory.join(source_program(direction));
        match link::detach(&pin) {
            Ok(()) => {}
            // Not pinned (clsact, or a crash came first), or gone with its device.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ENOLINK)) => {}
            Err(error) => return Err(Error::failed(format_args!("detach link {}", pin.display()), &error)),
        }
    }
    remove_pins(directory)
}

/// Removes a pin; none is no error.
fn remove_pin(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::failed(format_args!("remove pin {}", path.display()), &error))
        }
        _ => Ok(()),
    }
}

/// Removes a directory of pins and what is in it; none is no error.
fn remove_pins(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(()),
        Err(error) => Err(Error::failed(format_args!("remove pins {}", path.display()), &error)),
    }
}
