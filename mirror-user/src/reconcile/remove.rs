//! Takes things out of the kernel: goes on after errors and reports them all; can be run twice.

use crate::error::{Error, Kind, Result};
use crate::instance::Instance;
use crate::kernel::{self, Kernel};
use crate::links::{Link, Links};
use crate::model::InterfaceName;
use crate::raw;
use crate::state::{Carried, Hook, Source, State};
use crate::tap::Tap;

/// Removes one source from the kernel and from the state, and the whole instance with the last one.
pub fn source(instance: &Instance, links: &Links, state: &mut State, interface: &InterfaceName) -> Result<()> {
    let Some(source) = state.source_mut(interface) else {
        return Ok(());
    };
    // From here on it is unfinished business, also after a crash.
    source.attached = false;
    let source = source.clone();
    state.save(instance)?;

    let mut errors = Vec::new();
    if state.sources.len() == 1 {
        errors.extend(from_kernel(instance, links, &source).err());
        errors.extend(self::instance(instance, links).err());
    } else {
        errors.extend(from_kernel(instance, links, &source).err());
        if let Some(kernel) = Kernel::open(instance) {
            errors.extend(source.sessions.iter().filter_map(|session| kernel.remove_session(session.slot).err()));
        }
    }
    report(format_args!("detach {interface}"), errors)?;
    state.sources.retain(|source| source.interface != *interface);
    for session in &source.sessions {
        state.carried.sessions.remove(&session.id);
    }
    if state.sources.is_empty() {
        state.retired.clear();
        state.carried = Carried::default();
    }
    state.save(instance)
}

/// Removes hooks and pins of a source.
pub(super) fn from_kernel(instance: &Instance, links: &Links, source: &Source) -> Result<()> {
    let mut errors = Vec::new();
    if let Some(kernel) = Kernel::open(instance) {
        errors.extend(kernel.remove_source(source.ifindex).err());
    }
    if source.hook == Hook::Tc {
        // By index: the interface may have another name by now, or another one its name.
        match links.list() {
            Ok(interfaces) => match interfaces.iter().find(|link| link.index == source.ifindex) {
                Some(link) => errors.extend(filters(instance, links, link).err()),
                None => errors.extend(kernel::forget_clsact_of(instance, source.ifindex).err()),
            },
            Err(error) => errors.push(error),
        }
    }
    report(format_args!("detach {}", source.interface), errors)
}

/// Removes this instance's filters, if the interface has any, and the qdisc if it was made for those of any instance.
pub fn filters(instance: &Instance, links: &Links, interface: &Link) -> Result<()> {
    if links.ingress_qdisc(interface.index)?.is_some() && links.has_filters(interface.index)? {
        kernel::remove_filters(interface, instance)?;
    }
    kernel::release_clsact(instance, interface, links)
}

/// Removes the helper devices and every pin.
pub fn instance(instance: &Instance, links: &Links) -> Result<()> {
    // The devices first: with the program's pin its link goes, and what then still came through would reach the stack.
    let raw = raw::remove(instance, links);
    let tap = Tap::remove(instance, links);
    let pins = Kernel::remove(instance);
    raw.and(tap).and(pins)
}

/// All errors as one.
pub fn report(what: impl std::fmt::Display, errors: Vec<Error>) -> Result<()> {
    if errors.is_empty() {
        return Ok(());
    }
    let why = errors.iter().map(Error::to_string).collect::<Vec<_>>().join("; ");
    Err(Error::new(Kind::Failed, what, why).hint("the rest is done; run it again for what is left"))
}
