//! The kernel's side: programs, maps and their pins. The one module that knows aya, and the only place where a map or
//! program is named.
//!
//! In bpffs, under `/sys/fs/bpf/mirrorctl/<instance>/v<layout>/`: the maps of the instance, the link of the tap
//! program, and in `sources/<interface index>/` the maps and links of a source. A directory of an instance is built
//! beside its place and published by one rename.

#[cfg(feature = "bench")]
pub mod bench;
mod hook;
mod judge;
mod link;
mod table;

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap};
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfLoader};
use mirror_common::counters::{RULES_PER_ENTRY, SessionCounters, SourceCounters};
use mirror_common::policy::{DIRECTIONS, Direction};
use mirror_common::session::{Session, SessionSlot};
use mirror_common::skip::SkipReason;

pub use self::hook::{remove_filters, remove_qdisc};
pub use self::judge::Judge;
use crate::compile;
use crate::error::{Error, Kind, Result};
use crate::instance::Instance;
use crate::links::Link;
use crate::state::Hook;
use crate::tap::Tap;

static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mirror-ebpf"));

const SESSIONS: &str = "SESSIONS";
const SESSION_COUNTERS: &str = "SESSION_COUNTERS";
const SKIPPED: &str = "SKIPPED";
const INSTANCE_MAPS: [&str; 3] = [SESSIONS, SESSION_COUNTERS, SKIPPED];
const SOURCE_COUNTERS: &str = "SOURCE_COUNTERS";

const TABLE: &str = "TABLE";
const RULE_COUNTERS: &str = "RULE_COUNTERS";
const POLICY_MAPS: [&str; 2] = [TABLE, RULE_COUNTERS];

const TAP_PROGRAM: &str = "mirror_tap";
const TAP_LINK: &str = "tap";

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
    /// Whether `bpf_fib_lookup` tells the source address.
    pub fib_tells_source: bool,
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

    /// Loads the maps of an instance and the program of its tap, all or nothing.
    pub fn create(instance: &Instance, tap: &Tap, hook: Hook, constants: Constants) -> Result<Self> {
        let pins = instance.pins_of_this_version();
        let building = instance.pins().join("building");
        remove_pins(&building)?;
        create_directory(&building)?;
        create_directory(&building.join("sources"))?;
        let maps = INSTANCE_MAPS.map(|map| (map, building.join(map)));
        let mut programs = load(constants, 0, &compile::Policy::default(), &maps)?;
        let program = program(&mut programs, TAP_PROGRAM)?;
        #[cfg(feature = "log")]
        program
            .pin(building.join(TAP_PROGRAM))
            .map_err(|error| failed(format_args!("pin kernel program {TAP_PROGRAM}"))(&error))?;
        // The tap takes what it gets in one direction only.
        hook::attach(program, &tap.receiving, Direction::Ingress, hook, instance, &building.join(TAP_LINK))?;
        fs::rename(&building, &pins)
            .map_err(|error| Error::failed(format_args!("publish pins {}", pins.display()), &error))?;
        Ok(Self { pins })
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

    /// Loads and attaches the programs of a source, with a policy for each direction.
    pub fn attach_source(
        &self,
        instance: &Instance,
        interface: &Link,
        hook: Hook,
        constants: Constants,
        policies: &Policies,
    ) -> Result<()> {
        let directory = self.source_pins(interface.index);
        remove_pins(&directory)?;
        create_directory(&directory)?;
        for direction in Direction::ALL {
            let name = source_program(direction);
            let mut programs =
                self.load_policy(interface.index, direction.name(), constants, policies.of(direction))?;
            hook::attach(program(&mut programs, name)?, interface, direction, hook, instance, &directory.join(name))?;
        }
        Ok(())
    }

    /// Puts new policies in the place of those in use. Each direction is switched in one step: a packet is judged by
    /// the whole old policy or the whole new one.
    pub fn replace_policies(
        &self,
        instance: &Instance,
        interface: &Link,
        hook: Hook,
        constants: Constants,
        policies: &Policies,
    ) -> Result<()> {
        let directory = self.source_pins(interface.index);
        let building = |direction: Direction| format!("{}_building", direction.name());
        let mut loaded = Vec::new();
        // Both are built before either is switched: what can fail has failed by then.
        for direction in Direction::ALL {
            remove_pins(&directory.join(building(direction)))?;
            let mut programs =
                self.load_policy(interface.index, &building(direction), constants, policies.of(direction))?;
            program(&mut programs, source_program(direction))?;
            loaded.push((direction, programs));
        }
        for (direction, programs) in &mut loaded {
            let name = source_program(*direction);
            let program = loaded_program(programs, name)?;
            hook::replace(program, interface, *direction, hook, instance, &directory.join(name))?;
            let place = directory.join(direction.name());
            remove_pins(&place)?;
            fs::rename(directory.join(building(*direction)), &place)
                .map_err(|error| Error::failed(format_args!("publish pins {}", place.display()), &error))?;
        }
        Ok(())
    }

    /// Loads the programs of a source for one policy, its maps pinned in the directory `name` of the source.
    fn load_policy(&self, ifindex: u32, name: &str, constants: Constants, policy: &compile::Policy) -> Result<Ebpf> {
        let source = self.source_pins(ifindex);
        let directory = source.join(name);
        create_directory(&directory)?;
        table::create(&policy.table, &directory.join(TABLE))?;
        let mut maps: Vec<_> = INSTANCE_MAPS.iter().map(|map| (*map, self.pins.join(map))).collect();
        maps.push((SOURCE_COUNTERS, source.join(SOURCE_COUNTERS)));
        maps.extend(POLICY_MAPS.iter().map(|map| (*map, directory.join(map))));
        load(constants, ifindex, policy, &maps)
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
            Hook::Tc { .. } => directory.join(direction.name()).exists(),
        })
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

    /// What left for a session's target.
    pub fn session_counts(&self, slot: SessionSlot) -> Result<SessionCounters> {
        let per_cpu = self
            .session_counters()?
            .get(&slot, 0)
            .map_err(|error| failed(format_args!("read map {SESSION_COUNTERS}"))(&error))?;
        Ok(per_cpu.iter().fold(SessionCounters::default(), |sum, cpu| SessionCounters {
            packets: sum.packets + cpu.packets,
            bytes: sum.bytes + cpu.bytes,
            truncated_to_length: sum.truncated_to_length + cpu.truncated_to_length,
            truncated_to_mtu: sum.truncated_to_mtu + cpu.truncated_to_mtu,
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

    fn sessions(&self) -> Result<HashMap<MapData, SessionSlot, Session>> {
        typed(Map::HashMap(open(&self.pins.join(SESSIONS))?), SESSIONS)
    }

    fn session_counters(&self) -> Result<PerCpuHashMap<MapData, SessionSlot, SessionCounters>> {
        typed(Map::PerCpuHashMap(open(&self.pins.join(SESSION_COUNTERS))?), SESSION_COUNTERS)
    }
}

/// Loads the object with its maps pinned at, or taken from, the paths.
fn load(
    constants: Constants,
    source_ifindex: u32,
    policy: &compile::Policy,
    maps: &[(&'static str, PathBuf)],
) -> Result<Ebpf> {
    let fib_tells_source = u8::from(constants.fib_tells_source);
    let mut loader = EbpfLoader::new();
    // No program here looks into the kernel's structures, so its type information need not be read (5 MB).
    loader.btf(None);
    loader.override_global("TAP_IFINDEX", &constants.tap_ifindex, true);
    loader.override_global("FIB_TELLS_SOURCE", &fib_tells_source, true);
    loader.override_global("SOURCE_IFINDEX", &source_ifindex, true);
    loader.override_global("SHAPE", &policy.shape, true);
    // A map has one entry at least.
    loader.map_max_entries(RULE_COUNTERS, (policy.places.len() as u32).div_ceil(RULES_PER_ENTRY).max(1));
    for (map, path) in maps {
        loader.map_pin_path(map, path.as_path());
    }
    loader.load(PROGRAMS).map_err(|error| failed("load kernel programs")(&error))
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

/// Removes a directory of pins and what is in it; none is no error.
fn remove_pins(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(()),
        Err(error) => Err(Error::failed(format_args!("remove pins {}", path.display()), &error)),
    }
}
