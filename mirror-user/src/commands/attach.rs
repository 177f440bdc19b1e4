//! `attach`: validate everything, then change the kernel step by step, and undo in reverse what was done if one fails.

use std::net::IpAddr;

use mirror_common::session::{FAMILY_IPV4, FAMILY_IPV6, Session as KernelSession};
use serde::Serialize;

use crate::cli::{Attach, Global, HookChoice};
use crate::commands::{detach, print};
use crate::compile;
use crate::error::{Error, Kind, Result};
use crate::host;
use crate::instance::Instance;
use crate::kernel::{Constants, Kernel, Policies};
use crate::links::{CLSACT, Destination, Link, Links};
use crate::model::{Endpoint, Vni};
use crate::state::{Hook, Session, Source, State};
use crate::tap::Tap;

/// What `attach --json` prints.
#[derive(Debug, Serialize)]
struct Document<'a> {
    interface: &'a str,
    hook: &'a str,
    session: &'a str,
    session_number: u16,
    target: String,
    vni: u32,
    packet_length: Option<u16>,
}

/// Runs the command.
pub(super) fn run(instance: &Instance, global: &Global, arguments: &Attach) -> Result<()> {
    let what = format!("attach {}", arguments.interface);
    host::require_kernel(&what)?;
    host::require_root(&what)?;
    let links = Links::open()?;
    let interface = source_interface(&what, arguments, &links)?;
    let source_address = source_address(&what, arguments.target, &links)?;
    host::require_bpffs(&what)?;
    choose_hook(&what, arguments.hook, &interface, &links)?;

    let _lock = instance.lock()?;
    let mut state = State::load(instance)?;
    state.require_this_network_namespace(&what, instance)?;
    clear_leftovers(&what, instance, &links, &mut state, arguments)?;
    // Again: a clsact qdisc of our own that a crash left is gone only now.
    let hook = choose_hook(&what, arguments.hook, &interface, &links)?;

    let slot = state.free_slot().ok_or_else(|| {
        Error::new(Kind::Conflict, &what, format_args!("instance {} has all the sessions it can hold", instance.name()))
    })?;
    let source = Source {
        interface: arguments.interface.clone(),
        ifindex: interface.index,
        hook,
        attached: false,
        session: Session {
            name: format!("{}-{}", arguments.interface, arguments.session_number),
            session_number: arguments.session_number,
            slot,
            vni: match arguments.vni {
                Some(vni) => vni,
                None => unused_vni(&state)?,
            },
            packet_length: arguments.packet_length,
            target: arguments.target,
        },
    };
    state.sources.push(source.clone());
    state.save(instance)?;
    if let Err(error) = change_kernel(instance, &links, &interface, &source, source_address) {
        // What can't be undone now is in the state, for `detach`.
        return Err(match detach::remove_source(instance, &links, &mut state, &source.interface) {
            Ok(()) => error,
            Err(undo) => error.hint(format_args!("undoing it failed too ({undo}); try 'mirrorctl detach --all'")),
        });
    }
    state.mark_attached(&source.interface);
    state.save(instance)?;

    let session = &source.session;
    let document = Document {
        interface: source.interface.as_str(),
        hook: hook.name(),
        session: &session.name,
        session_number: session.session_number.get(),
        target: session.target.to_string(),
        vni: session.vni.get(),
        packet_length: session.packet_length.map(|length| length.get()),
    };
    print(global.json, &document, || {
        let length = document.packet_length.map_or_else(|| "whole packets".into(), |length| format!("{length} bytes"));
        format!(
            "{}: mirrored to {} (session {}, number {}, VNI {}, {length}, hook {})",
            document.interface, document.target, document.session, document.session_number, document.vni, document.hook
        )
    })
}

/// The interface, if it can be a source.
fn source_interface(what: &str, arguments: &Attach, links: &Links) -> Result<Link> {
    let name = &arguments.interface;
    let Some(interface) = links.find(name.as_str())? else {
        return Err(Error::new(Kind::NotFound, what, "there is no such interface").hint("'ip link' lists them"));
    };
    if Instance::is_helper_device(name) {
        return Err(Error::new(Kind::BadInput, what, "it is a helper device of mirrorctl itself"));
    }
    if !interface.has_ethernet_header {
        return Err(Error::new(
            Kind::BadInput,
            what,
            "its packets have no Ethernet header (a tunnel, say); this version mirrors Ethernet interfaces only",
        ));
    }
    Ok(interface)
}

/// Checks the target, and tells the address that copies will be sent from as routing has it now.
fn source_address(what: &str, target: Endpoint, links: &Links) -> Result<Option<IpAddr>> {
    let bad = |why: &str| Err(Error::new(Kind::BadInput, what, format_args!("target {}: {why}", target.address)));
    let address = target.address;
    if address.is_unspecified() || address.is_multicast() {
        return bad("it must be the address of one host");
    }
    if let IpAddr::V4(v4) = address
        && v4.is_broadcast()
    {
        return bad("it must be the address of one host");
    }
    if let IpAddr::V6(v6) = address {
        if v6.to_ipv4_mapped().is_some() {
            return bad("write an IPv4 address as such");
        }
        if v6.is_unicast_link_local() {
            return bad("a link-local address doesn't say which link; use a global or unique local one");
        }
    }
    match links.destination(address)? {
        Destination::Remote { source, .. } => Ok(source),
        Destination::Local => bad("it is an address of this host; this version sends to other hosts only"),
        Destination::NotUnicast => bad("it must be the address of one host"),
        Destination::Refused | Destination::NoRoute => {
            eprintln!(
                "warning: {what}: there is no route to {address} now; until there is one, packets are counted as no_route"
            );
            Ok(None)
        }
    }
}

fn choose_hook(what: &str, choice: Option<HookChoice>, interface: &Link, links: &Links) -> Result<Hook> {
    let tcx = match choice {
        Some(HookChoice::Tc) => false,
        Some(HookChoice::Tcx) if !host::has_tcx()? => {
            return Err(Error::new(
                Kind::BadInput,
                what,
                format_args!("this kernel has no TCX; Linux {} is the first that has it", host::TCX_KERNEL),
            )
            .hint("leave out --hook, or give --hook tc"));
        }
        Some(HookChoice::Tcx) => true,
        None => host::has_tcx()?,
    };
    if tcx {
        return Ok(Hook::Tcx);
    }
    match links.ingress_qdisc(interface.index)?.as_deref() {
        None => Ok(Hook::Tc { owns_qdisc: true }),
        Some(CLSACT) => Ok(Hook::Tc { owns_qdisc: false }),
        Some(other) => Err(Error::new(
            Kind::Conflict,
            what,
            format_args!("the interface has a qdisc of kind {other}, which leaves no place for clsact"),
        )
        .hint(format_args!("remove it: tc qdisc del dev {} {other}", interface.name))),
    }
}

/// Makes sure that nothing is in the way: a source of that name, or what a crash left of one.
fn clear_leftovers(
    what: &str,
    instance: &Instance,
    links: &Links,
    state: &mut State,
    arguments: &Attach,
) -> Result<()> {
    if state.sources.is_empty() && Kernel::has_pins(instance) {
        return Err(Error::new(
            Kind::Conflict,
            what,
            format_args!(
                "instance {} has pins in the kernel but no state in {}",
                instance.name(),
                instance.state_file().display()
            ),
        )
        .hint("use the --state-dir it was attached with, or remove everything with 'mirrorctl detach --all'"));
    }
    let unfinished: Vec<_> =
        state.sources.iter().filter(|source| !source.attached).map(|source| source.interface.clone()).collect();
    for interface in unfinished {
        detach::remove_source(instance, links, state, &interface)?;
    }
    if !state.sources.is_empty() && (Tap::find(instance, links)?.is_none() || Kernel::open(instance).is_none()) {
        return Err(Error::new(
            Kind::Conflict,
            what,
            format_args!(
                "the tap or the pins of instance {} were removed by somebody else; nothing that is attached works",
                instance.name()
            ),
        )
        .hint("'mirrorctl detach --all', then attach again"));
    }
    let Some(known) = state.source(&arguments.interface) else {
        return Ok(());
    };
    let now = links.find(known.interface.as_str())?;
    if now.is_some_and(|now| now.index == known.ifindex) {
        return Err(Error::new(
            Kind::Conflict,
            what,
            format_args!("it is attached already, with session {}", known.session.name),
        )
        .hint(format_args!("'mirrorctl detach {}' first", known.interface)));
    }
    // An interface that was deleted and made again: the old one took its hooks with it.
    detach::remove_source(instance, links, state, &arguments.interface)
}

fn change_kernel(
    instance: &Instance,
    links: &Links,
    interface: &Link,
    source: &Source,
    source_address: Option<IpAddr>,
) -> Result<()> {
    let fib_tells_source = host::has_fib_source()?;
    let (tap, kernel) = match (Tap::find(instance, links)?, Kernel::open(instance)) {
        (Some(tap), Some(kernel)) => (tap, kernel),
        (tap, kernel) => {
            // One without the other is what a crash left, or somebody's `ip link del`.
            if tap.is_some() || kernel.is_some() {
                detach::remove_instance(instance, links)?;
            }
            let tap = Tap::create(instance, links)?;
            let constants = Constants { tap_ifindex: tap.sending.index, fib_tells_source };
            let kernel = Kernel::create(instance, &tap, source.hook, constants)?;
            tap.set_up(links)?;
            (tap, kernel)
        }
    };
    let constants = Constants { tap_ifindex: tap.sending.index, fib_tells_source };
    let session = &source.session;
    kernel.add_session(
        session.slot,
        KernelSession {
            target: octets(session.target.address),
            source: source_address.map_or([0; 16], octets),
            vni: {
                let [_, vni @ ..] = session.vni.get().to_be_bytes();
                vni
            },
            family: if session.target.address.is_ipv4() { FAMILY_IPV4 } else { FAMILY_IPV6 },
            port: session.target.port.to_be_bytes(),
            packet_length: session.packet_length.map_or(0, |length| length.get()),
        },
    )?;
    let policies = Policies::build(|_| compile::accept_all(session.slot))
        .map_err(|error| Error::failed("compile policy", &error))?;
    kernel.attach_source(instance, interface, source.hook, constants, &policies)
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

fn unused_vni(state: &State) -> Result<Vni> {
    loop {
        let random = getrandom::u32().map_err(|error| Error::failed("draw a random VNI", &error))?;
        let vni = Vni::try_from(u64::from(random >> 8)).expect("24 bits are a VNI");
        if state.sources.iter().all(|source| source.session.vni != vni) {
            return Ok(vni);
        }
    }
}
