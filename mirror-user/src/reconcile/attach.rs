//! How an interface is attached, and what must hold before anything is.

use crate::cli::HookChoice;
use crate::error::{Error, Kind, Result};
use crate::host;
use crate::instance::Instance;
use crate::kernel::Kernel;
use crate::links::{CLSACT, Link, Links};
use crate::model::InterfaceName;
use crate::reconcile::Request;
use crate::state::{Hook, Source, State};
use crate::tap::Tap;

/// The error about an interface that isn't there.
pub(super) fn no_such_interface(what: &str, name: &InterfaceName) -> Error {
    Error::new(Kind::NotFound, what, format_args!("{name}: there is no such interface")).hint("'ip link' lists them")
}

/// The hook for an interface that has none of ours.
pub(super) fn choose_hook(what: &str, choice: Option<HookChoice>, interface: &Link, links: &Links) -> Result<Hook> {
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
        None | Some(CLSACT) => Ok(Hook::Tc),
        Some(other) => Err(Error::new(
            Kind::Conflict,
            what,
            format_args!("the interface has a qdisc of kind {other}, which leaves no place for clsact"),
        )
        .hint(format_args!("remove it: tc qdisc del dev {} {other}", interface.name))),
    }
}

/// Refuses to build on pins that no state knows.
pub(super) fn refuse_orphans(
    what: &str,
    instance: &Instance,
    links: &Links,
    state: &State,
    request: Request<'_>,
) -> Result<()> {
    // Named first: it is the likelier mistake.
    if let Some(name) = request.attach
        && links.find(name.as_str())?.is_none()
    {
        return Err(no_such_interface(what, name));
    }
    if !state.sources.is_empty() || !Kernel::has_pins(instance) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Conflict,
        what,
        format_args!(
            "instance {} has pins in the kernel but no state in {}",
            instance.name(),
            instance.state_file().display()
        ),
    )
    .hint("use the --state-dir it was attached with, or remove everything with 'mirrorctl detach --all'"))
}

/// Refuses to build on an instance whose tap or pins are gone.
pub(super) fn refuse_broken_tap(what: &str, instance: &Instance, links: &Links, state: &State) -> Result<()> {
    if state.sources.is_empty() {
        return Ok(());
    }
    let interfaces = links.list()?;
    let needs_raw = |source: &Source| {
        let found = interfaces.iter().find(|link| link.index == source.ifindex);
        source.attached && found.is_some_and(|link| !link.has_ethernet_header)
    };
    let has_raw = interfaces.iter().any(|link| link.name == instance.raw_device());
    let has_devices = Tap::find(instance, links)?.is_some() && (has_raw || !state.sources.iter().any(needs_raw));
    if has_devices && Kernel::open(instance).is_some() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Conflict,
        what,
        format_args!(
            "the tap or the pins of instance {} were removed by somebody else; nothing that is attached works",
            instance.name()
        ),
    )
    .hint("'mirrorctl detach --all', then attach again"))
}
