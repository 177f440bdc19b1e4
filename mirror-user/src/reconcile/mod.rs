//! Brings the kernel to what the definitions say: compares wanted with actual, builds what differs beside what is in use,
//! switches each direction of each source in one step, and undoes in reverse what was done if a step fails. Can be run
//! again at any time, also after a crash of itself. The caller holds the lock of the instance.

mod attach;
mod counters;
mod plan;
pub mod remove;
mod ways;

use std::mem;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use mirror_common::policy::Direction;
use mirror_common::session::{FAMILY_IPV4, FAMILY_IPV6, Session as KernelSession, WAY_DEVICE, WAY_HOST, WAY_ROUTE};

use self::plan::{Impossible, Plan, Slots};
use crate::cli::HookChoice;
use crate::definitions::Definitions;
use crate::error::{Error, Kind, Result};
use crate::host;
use crate::instance::Instance;
use crate::kernel::{self, Constants, Kernel, NewGeneration};
use crate::links::{Destination, Link, Links};
use crate::model::{Endpoint, InterfaceName};
use crate::raw;
use crate::resolvers;
use crate::state::{Hook, Retired, Session, Source, State, Target};
use crate::tap::Tap;

/// How long the tap is told of a session that no policy names any more: copies may wait in its queue. They do for
/// microseconds; a busy CPU makes it milliseconds.
const RETIRED_FOR: Duration = Duration::from_secs(1);

/// What a command asks for beyond the definitions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// A source that must be attached after this, and isn't before: it is a conflict if it is.
    pub attach: Option<&'a InterfaceName>,
    /// How to attach what isn't.
    pub hook: Option<HookChoice>,
    /// Whether copies of what isn't attached yet may not take the fast path.
    pub no_fast_path: bool,
}

/// What becomes of one source.
struct Change {
    interface: Link,
    hook: Hook,
    fast_path: bool,
    /// Index of its record in the state; none when it is not attached yet.
    known: Option<usize>,
    name: InterfaceName,
    plan: Plan,
}

/// Something that was done, and how it is undone.
enum Done {
    InstanceCreated,
    RawDeviceCreated,
    SessionAdded(Session),
    /// Pins of the next generation of a source.
    Built(Link, kernel::Generation),
    /// A source that had nothing yet: pins, and perhaps programs that are attached.
    Begun(Source),
    Switched(Link, Hook, Direction, kernel::Generation),
}

/// Brings the kernel to `wanted`, all or nothing. `what` is the command ("create session a").
pub fn reconcile(instance: &Instance, what: &str, wanted: &Definitions, request: Request<'_>) -> Result<()> {
    let mut state = State::load(instance)?;
    let loaded = state.clone();
    let is_wanted = |state: &State, source: &InterfaceName| {
        wanted.sources().any(|wanted| wanted == source) && !state.detached.contains(source)
    };
    let detached = mem::take(&mut state.detached);
    state.detached = detached
        .into_iter()
        .filter(|source| wanted.sources().any(|wanted| wanted == source) && request.attach != Some(source))
        .collect();
    if state.sources.is_empty() && !wanted.sources().any(|source| is_wanted(&state, source)) {
        // Nothing to do with the kernel, which takes no root.
        return if state == loaded { Ok(()) } else { state.save(instance) };
    }

    host::require_kernel(what)?;
    host::require_root(what)?;
    let links = Links::open()?;
    state.require_this_network_namespace(what, instance)?;
    attach::refuse_orphans(what, instance, &links, &state, request)?;
    let changes = loop {
        clear_leftovers(instance, &links, &mut state)?;
        attach::refuse_broken_tap(what, instance, &links, &state)?;
        match changes(what, wanted, &state, request, &links) {
            // What was retired a moment ago has slots that will be free.
            Err(Obstacle::Slots) if !state.retired.is_empty() => {
                thread::sleep(RETIRED_FOR);
                forget_retired(instance, &mut state)?;
            }
            Err(Obstacle::Slots) => return Err(Error::new(Kind::Conflict, what, Impossible::NoSlot)),
            Err(Obstacle::Other(error)) => return Err(error),
            Ok(changes) => break changes,
        }
    };
    let removed: Vec<_> = state
        .sources
        .iter()
        .map(|source| source.interface.clone())
        .filter(|source| !is_wanted(&state, source))
        .collect();
    forget_retired(instance, &mut state)?;
    if !changes.is_empty() {
        make(instance, what, &links, &mut state, changes)?;
    }
    if let Err(error) = ways::tell(instance, &links, &state) {
        // The change itself is made.
        eprintln!("warning: {what}: what is new of the ways to targets was not told to the kernel: {error}");
    }
    counters::prune(&mut state.carried, wanted);
    rename(&mut state, wanted);
    if state != loaded {
        state.save(instance)?;
    }
    let mut errors = Vec::new();
    for source in removed {
        errors.extend(remove::source(instance, &links, &mut state, &source).err());
    }
    remove::report(what, errors)
}

/// Why the changes can't be told.
enum Obstacle {
    /// There is no slot left for a session.
    Slots,
    Other(Error),
}

impl From<Error> for Obstacle {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// The sources whose programs must change.
fn changes(
    what: &str,
    wanted: &Definitions,
    state: &State,
    request: Request<'_>,
    links: &Links,
) -> std::result::Result<Vec<Change>, Obstacle> {
    let resolvers =
        if wanted.filters().any(|filter| filter.network_services_dns) { resolvers::resolvers()? } else { Vec::new() };
    let interfaces = links.list()?;
    let mut slots = Slots::of(state);
    let mut changes = Vec::new();
    for name in wanted.sources().filter(|source| !state.detached.contains(source)) {
        let known = state.sources.iter().position(|source| source.interface == *name);
        let asked_for = request.attach == Some(name);
        if asked_for && known.is_some() {
            let session = wanted.sessions_of(name).next();
            let session = session.map_or_else(String::new, |first| format!(", with session {}", first.session.name));
            return Err(Error::new(Kind::Conflict, what, format_args!("{name} is attached already{session}"))
                .hint(format_args!("'mirrorctl detach {name}' first, or add to it with 'mirrorctl session create'"))
                .into());
        }
        let interface = match links.find(name.as_str())? {
            Some(interface) => interface,
            None if asked_for => return Err(attach::no_such_interface(what, name).into()),
            None => {
                eprintln!("warning: {what}: source {name}: there is no such interface now; nothing of it is mirrored");
                continue;
            }
        };
        let plan = match plan::plan(name, wanted, state, &mut slots, &resolvers, &interfaces) {
            Ok(plan) => plan,
            Err(Impossible::NoSlot) => return Err(Obstacle::Slots),
            Err(impossible) => return Err(Error::new(Kind::BadInput, what, impossible).into()),
        };
        let (hook, fast_path) = match known {
            Some(index) => {
                let source = &state.sources[index];
                if source.fingerprint == plan.fingerprint && !source.changing {
                    continue;
                }
                (source.hook, source.fast_path)
            }
            None => {
                let no_fast_path = asked_for && request.no_fast_path;
                (attach::choose_hook(what, request.hook, &interface, links)?, !no_fast_path)
            }
        };
        changes.push(Change { interface, hook, fast_path, known, name: name.clone(), plan });
    }
    if !changes.is_empty() {
        host::require_bpffs(what)?;
    }
    Ok(changes)
}

/// Removes what a crash left, and sources whose interface was deleted and made again: the old one took its hooks along.
fn clear_leftovers(instance: &Instance, links: &Links, state: &mut State) -> Result<()> {
    let mut leftovers = Vec::new();
    for source in &state.sources {
        let made_again = links.find(source.interface.as_str())?.is_some_and(|link| link.index != source.ifindex);
        if !source.attached || made_again {
            leftovers.push(source.interface.clone());
        }
    }
    for source in leftovers {
        remove::source(instance, links, state, &source)?;
    }
    Ok(())
}

/// Makes the tap forget sessions that were retired long enough ago.
fn forget_retired(instance: &Instance, state: &mut State) -> Result<()> {
    let now = boot_time()?;
    let long_enough = |retired: &Retired| now.saturating_sub(retired.since) >= RETIRED_FOR.as_millis() as u64;
    if !state.retired.iter().any(long_enough) {
        return Ok(());
    }
    let (forgotten, kept) = mem::take(&mut state.retired).into_iter().partition(long_enough);
    let forgotten: Vec<Retired> = forgotten;
    state.retired = kept;
    let Some(kernel) = Kernel::open(instance) else {
        return Ok(());
    };
    for retired in &forgotten {
        counters::carry_session(&kernel, &mut state.carried, retired)?;
    }
    // Before they go: counted twice after a crash would be as wrong as lost.
    state.save(instance)?;
    for retired in &forgotten {
        kernel.remove_session(retired.session.slot)?;
    }
    Ok(())
}

/// Makes the changes, or none of them.
fn make(instance: &Instance, what: &str, links: &Links, state: &mut State, mut changes: Vec<Change>) -> Result<()> {
    let before = state.clone();
    let mut new_sessions = Vec::new();
    let kernel = Kernel::open(instance);
    let planned = changes.iter().flat_map(|change| change.plan.sessions.iter().map(move |session| (change, session)));
    for (change, session) in planned {
        let is_on_record = before.sessions().any(|known| known.slot == session.slot);
        // A crash can have come between the record and the kernel.
        let is_known = match &kernel {
            Some(kernel) if is_on_record => kernel.has_session(session.slot)?,
            _ => false,
        };
        if !is_known {
            new_sessions.push((session.clone(), change.fast_path));
        }
    }
    // Where copies come from must be told before anything is changed: it may be refused.
    let new_sessions = new_sessions
        .into_iter()
        .map(|(session, fast_path)| Ok(NewSession { way: way(what, &session.target, links)?, fast_path, session }))
        .collect::<Result<Vec<_>>>()?;

    // On record first, so that a crash leaves nothing that nobody knows of.
    for change in &mut changes {
        change.known = Some(announce(state, change));
    }
    state.save(instance)?;

    let mut done = Vec::new();
    let made = change_kernel(instance, links, state, &changes, &new_sessions, &mut done)
        .and_then(|()| record(instance, state, changes));
    if let Err(error) = made {
        let undone = undo(instance, links, done);
        if let Err(undo) = undone {
            // The record of what was begun stays, and the next command goes on from there.
            return Err(error.hint(format_args!("undoing it failed too ({undo}); try 'mirrorctl detach --all'")));
        }
        *state = before;
        return match state.save(instance) {
            Ok(()) => Err(error),
            Err(save) => Err(error.hint(format_args!("it was undone, but {save}"))),
        };
    }
    drop_replaced(instance, state)
}

/// Puts a change on record; returns the index of its source.
fn announce(state: &mut State, change: &Change) -> usize {
    match change.known {
        Some(index) => {
            let source = &mut state.sources[index];
            source.changing = true;
            for session in &change.plan.sessions {
                if source.sessions.iter().all(|known| known.slot != session.slot) {
                    source.sessions.push(session.clone());
                }
            }
            index
        }
        None => {
            state.sources.push(Source {
                interface: change.name.clone(),
                ifindex: change.interface.index,
                hook: change.hook,
                fast_path: change.fast_path,
                attached: false,
                generation: 0,
                carried_below: 0,
                fingerprint: 0,
                changing: false,
                sessions: change.plan.sessions.clone(),
            });
            state.sources.len() - 1
        }
    }
}

fn change_kernel(
    instance: &Instance,
    links: &Links,
    state: &State,
    changes: &[Change],
    new_sessions: &[NewSession],
    done: &mut Vec<Done>,
) -> Result<()> {
    let fib_tells_source = host::has_fib_source()?;
    let constants = |tap: &Tap| Constants {
        tap_ifindex: tap.sending.index,
        receiving_ifindex: tap.receiving.index,
        fib_tells_source,
        // Told where it is needed.
        ..Constants::NONE
    };
    let (tap, kernel) = match (Tap::find(instance, links)?, Kernel::open(instance)) {
        (Some(tap), Some(kernel)) => (tap, kernel),
        (tap, kernel) => {
            // One without the other is what a crash left.
            if tap.is_some() || kernel.is_some() {
                remove::instance(instance, links)?;
            }
            done.push(Done::InstanceCreated);
            let tap = Tap::create(instance, links)?;
            let hook = changes.first().map_or(Hook::Tcx, |change| change.hook);
            let kernel = Kernel::create(instance, &tap, hook, constants(&tap))?;
            tap.set_up(links)?;
            (tap, kernel)
        }
    };
    for new in new_sessions {
        done.push(Done::SessionAdded(new.session.clone()));
        kernel.add_session(new.session.slot, kernel_session(new))?;
    }
    let raw = match changes.iter().find(|change| !change.interface.has_ethernet_header) {
        Some(change) => Some(raw_device(instance, links, &kernel, change.hook, constants(&tap), done)?),
        None => None,
    };
    // All are built before one is attached: most of what can fail has failed by then.
    let mut wanted = Vec::new();
    for change in changes {
        let generation = next_generation(&kernel, state, change)?;
        let source = &state.sources[change.known.expect("announced")];
        done.push(match source.attached {
            true => Done::Built(change.interface.clone(), generation),
            false => Done::Begun(source.clone()),
        });
        let clones_to = raw.as_ref().filter(|_| !change.interface.has_ethernet_header).unwrap_or(&tap.sending);
        wanted.push(NewGeneration {
            interface: &change.interface,
            clone_ifindex: clones_to.index,
            generation,
            policies: &change.plan.policies,
        });
    }
    kernel.build(constants(&tap), &wanted)?;
    for (change, NewGeneration { generation, .. }) in changes.iter().zip(&wanted) {
        let source = &state.sources[change.known.expect("announced")];
        if !source.attached {
            kernel.attach(instance, &change.interface, links, change.hook, *generation)?;
            continue;
        }
        for direction in Direction::ALL {
            kernel.switch(instance, &change.interface, change.hook, direction, *generation)?;
            done.push(Done::Switched(change.interface.clone(), change.hook, direction, source.generation));
        }
    }
    Ok(())
}

/// The raw device, made if it isn't there, with its program.
fn raw_device(
    instance: &Instance,
    links: &Links,
    kernel: &Kernel,
    hook: Hook,
    constants: Constants,
    done: &mut Vec<Done>,
) -> Result<Link> {
    match raw::find(instance, links)? {
        Some(raw) if raw.up => return Ok(raw),
        // What a crash left.
        Some(raw) => links.delete(&raw)?,
        None => {}
    }
    done.push(Done::RawDeviceCreated);
    let raw = raw::create(instance, links)?;
    kernel.attach_raw(instance, &raw, hook, constants)?;
    raw::set_up(&raw, links)?;
    Ok(raw)
}

/// The number of the generation that is being built: above every one that there is, or was on record.
fn next_generation(kernel: &Kernel, state: &State, change: &Change) -> Result<kernel::Generation> {
    let recorded = change.known.map_or(0, |index| state.sources[index].generation);
    let pinned = kernel.generations(change.interface.index)?.last().copied();
    Ok(recorded.max(pinned.unwrap_or(0)) + 1)
}

/// Undoes what was done, the last first. Goes on after errors and reports them all.
fn undo(instance: &Instance, links: &Links, done: Vec<Done>) -> Result<()> {
    let mut errors = Vec::new();
    for step in done.into_iter().rev() {
        let Some(kernel) = Kernel::open(instance) else {
            errors.extend(remove::instance(instance, links).err());
            continue;
        };
        let undone = match step {
            Done::InstanceCreated => remove::instance(instance, links),
            Done::RawDeviceCreated => raw::remove(instance, links),
            Done::SessionAdded(session) => kernel.remove_session(session.slot),
            Done::Built(interface, generation) => kernel.remove_generation(interface.index, generation),
            Done::Begun(source) => remove::from_kernel(instance, links, &source),
            Done::Switched(interface, hook, direction, generation) => {
                kernel.switch(instance, &interface, hook, direction, generation)
            }
        };
        errors.extend(undone.err());
    }
    remove::report("undo", errors)
}

/// The kernel has changed: puts it on record, with the counters of what was replaced.
fn record(instance: &Instance, state: &mut State, changes: Vec<Change>) -> Result<()> {
    let kernel = open(instance)?;
    let now = boot_time()?;
    let mut sources = Vec::new();
    for change in changes {
        let index = change.known.expect("announced");
        sources.push(index);
        let source = &mut state.sources[index];
        source.generation = kernel.generations(source.ifindex)?.last().copied().unwrap_or(source.generation);
        source.attached = true;
        source.changing = false;
        source.fingerprint = change.plan.fingerprint;
        let old = mem::replace(&mut source.sessions, change.plan.sessions);
        let in_use = &source.sessions;
        state.retired.retain(|retired| in_use.iter().all(|session| session.slot != retired.session.slot));
        let dropped = old.into_iter().filter(|old| in_use.iter().all(|session| session.slot != old.slot));
        state.retired.extend(dropped.map(|session| Retired { session, since: now }));
    }
    // Until no program counts any more what is taken over here.
    kernel::wait_for_runs();
    for source in sources {
        counters::carry_rules(&kernel, state, source)?;
    }
    state.save(instance)
}

/// Drops the pins of generations whose counters are taken over.
fn drop_replaced(instance: &Instance, state: &State) -> Result<()> {
    let kernel = open(instance)?;
    for source in &state.sources {
        for replaced in kernel.generations(source.ifindex)? {
            if replaced < source.carried_below {
                kernel.remove_generation(source.ifindex, replaced)?;
            }
        }
    }
    Ok(())
}

fn open(instance: &Instance) -> Result<Kernel> {
    Kernel::open(instance).ok_or_else(|| {
        Error::new(Kind::Failed, format_args!("open pins of instance {}", instance.name()), "they are gone")
    })
}

/// What the kernel need not know of may have changed all the same: names of targets.
fn rename(state: &mut State, wanted: &Definitions) {
    for source in &mut state.sources {
        for known in &mut source.sessions {
            let wanted = wanted.sessions_of(&source.interface).find(|wanted| wanted.session.id == known.id);
            if let Some(wanted) = wanted {
                known.session_number = wanted.session.number;
                known.target_name = wanted.target.name.clone();
            }
        }
        source.sessions.sort_by_key(|session| session.session_number);
    }
}

/// A session as the tap reads it.
fn kernel_session(NewSession { session, way, fast_path }: &NewSession) -> KernelSession {
    let (target, family, port, device) = match session.target {
        Target::Address(Endpoint { address, port }) => {
            (octets(address), if address.is_ipv4() { FAMILY_IPV4 } else { FAMILY_IPV6 }, port, 0)
        }
        Target::Interface { ifindex, .. } => ([0; 16], 0, 0, ifindex),
    };
    KernelSession {
        target,
        source: way.source.map_or([0; 16], octets),
        vni: {
            let [_, vni @ ..] = session.vni.get().to_be_bytes();
            vni
        },
        family,
        port: port.to_be_bytes(),
        packet_length: session.packet_length.map_or(0, |length| length.get()),
        way: way.way,
        fast_path: u8::from(*fast_path),
        way_by_port: u8::from(way.by_port),
        reserved: 0,
        device,
        route_mtu: way.mtu.unwrap_or(0),
    }
}

/// An address as the maps hold it: IPv4 in the first four bytes.
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A session that the tap is to be told of.
struct NewSession {
    session: Session,
    way: Way,
    fast_path: bool,
}

/// How copies get to a target, and the address that they are sent from where it is known now.
#[derive(Clone, Copy)]
struct Way {
    way: u8,
    source: Option<IpAddr>,
    /// Whether copies from different UDP ports may go different ways.
    by_port: bool,
    /// The MTU that the route names.
    mtu: Option<u32>,
}

/// The way to `target` as the host has it now.
fn way(what: &str, target: &Target, links: &Links) -> Result<Way> {
    let address = match target {
        Target::Address(endpoint) => endpoint.address,
        Target::Interface { interface, ifindex } => {
            if *ifindex == 0 {
                eprintln!(
                    "warning: {what}: target {interface}: there is no such interface now; packets are counted as \
                     target_interface_gone"
                );
            }
            return Ok(Way { way: WAY_DEVICE, source: None, by_port: false, mtu: None });
        }
    };
    let bad = |why: &dyn std::fmt::Display| Error::new(Kind::BadInput, what, format_args!("target {address}: {why}"));
    match links.destination(address)? {
        Destination::Remote { source, mtu, .. } => {
            Ok(Way { way: WAY_ROUTE, source, by_port: host::routes_by_port(address)?, mtu })
        }
        Destination::Local => {
            let filter = host::reverse_path_filter()?;
            // Those go through lo (mirror-ebpf/src/host.rs).
            let through_lo = address.is_loopback() || address.is_ipv6();
            if filter != 0 && !through_lo {
                let why = format!(
                    "it is an address of this host, whose reverse path filter (net.ipv4.conf.all.rp_filter = {filter}) \
                     drops what comes from an address of its own"
                );
                return Err(bad(&why).hint("use 127.0.0.1"));
            }
            // As every packet of the host to itself.
            Ok(Way { way: WAY_HOST, source: Some(address), by_port: false, mtu: None })
        }
        Destination::NotUnicast => Err(bad(&"it must be the address of one host")),
        Destination::Refused | Destination::NoRoute => {
            let then = match host::has_fib_source()? {
                true => "",
                // The address to send from is looked up when the session is made.
                false => ", and then as no_source_address, until it is attached again (Linux 6.7 needs no such thing)",
            };
            eprintln!(
                "warning: {what}: there is no route to {address} now; until there is one, packets are counted as \
                 no_route{then}"
            );
            Ok(Way { way: WAY_ROUTE, source: None, by_port: host::routes_by_port(address)?, mtu: None })
        }
    }
}

/// Milliseconds since the boot, sleep included.
fn boot_time() -> Result<u64> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_err(|error| Error::failed("read the clock", &error))?;
    Ok(Duration::from(time).as_millis() as u64)
}
