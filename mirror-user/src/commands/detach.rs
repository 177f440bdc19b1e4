//! `detach`: goes on after errors and reports them all; can be run twice.

use serde::Serialize;

use crate::cli::{Detach, Global};
use crate::commands::print;
use crate::error::{Error, Kind, Result};
use crate::host;
use crate::instance::{self, Instance};
use crate::kernel::{self, Kernel};
use crate::links::{Link, Links};
use crate::model::InterfaceName;
use crate::state::{Hook, State};
use crate::tap::Tap;

/// What `detach --json` prints.
#[derive(Debug, Serialize)]
struct Document {
    detached: Vec<InterfaceName>,
}

/// Runs the command.
pub(super) fn run(instance: &Instance, global: &Global, arguments: &Detach) -> Result<()> {
    let what = match &arguments.interface {
        Some(interface) => format!("detach {interface}"),
        None => "detach --all".into(),
    };
    host::require_root(&what)?;
    let links = Links::open()?;
    let _lock = instance.lock()?;
    let detached = match &arguments.interface {
        Some(interface) => detach_one(&what, instance, &links, interface)?,
        None => detach_all(&what, instance, &links)?,
    };
    print(global.json, &Document { detached: detached.clone() }, || {
        detached.iter().map(|interface| format!("{interface}: no longer mirrored\n")).collect()
    })
}

fn detach_one(what: &str, instance: &Instance, links: &Links, interface: &InterfaceName) -> Result<Vec<InterfaceName>> {
    let mut state = State::load(instance)?;
    state.require_this_network_namespace(what, instance)?;
    if state.source(interface).is_none() {
        return Err(Error::new(Kind::NotFound, what, format_args!("instance {} has not attached it", instance.name()))
            .hint("'mirrorctl status' lists what is attached"));
    }
    remove_source(instance, links, &mut state, interface)?;
    Ok(vec![interface.clone()])
}

fn detach_all(what: &str, instance: &Instance, links: &Links) -> Result<Vec<InterfaceName>> {
    // State that can't be read is no reason to leave anything behind: everything can be found without it.
    let state = State::load(instance).ok();
    let mut here = true;
    if let Some(state) = &state
        && let Err(error) = state.require_this_network_namespace(what, instance)
    {
        if instance::network_namespace_is_alive(state.network_namespace) {
            return Err(error.hint(format_args!(
                "run it inside that network namespace, where 'readlink /proc/self/ns/net' says net:[{}]",
                state.network_namespace
            )));
        }
        // The namespace has gone, and with it the devices; the pins have not.
        here = false;
    }
    let detached: Vec<_> =
        state.iter().flat_map(|state| &state.sources).map(|source| source.interface.clone()).collect();

    let mut errors = Vec::new();
    // Source hooks first: nothing must be cloned to a tap that is on its way out.
    errors.extend(Kernel::remove_all_sources(instance).err());
    if here {
        match links.list() {
            Ok(interfaces) => errors.extend(
                interfaces
                    .iter()
                    .filter_map(|interface| remove_filters(instance, links, interface, state.as_ref()).err()),
            ),
            Err(error) => errors.push(error),
        }
        errors.extend(remove_instance(instance, links).err());
    } else {
        errors.extend(Kernel::remove(instance).err());
    }
    if errors.is_empty() {
        errors.extend(State::remove(instance).err());
    }
    finish(what, errors)?;
    Ok(detached)
}

/// Removes this instance's filters, if the interface has any, and the qdisc if it was made for them.
fn remove_filters(instance: &Instance, links: &Links, interface: &Link, state: Option<&State>) -> Result<()> {
    if links.ingress_qdisc(interface.index)?.is_none() || !links.has_filters(interface.index)? {
        let owned = state.is_some_and(|state| owns_qdisc(state, interface.index));
        return if owned { kernel::remove_qdisc(interface, links) } else { Ok(()) };
    }
    kernel::remove_filters(interface, instance)?;
    if state.is_some_and(|state| owns_qdisc(state, interface.index)) {
        kernel::remove_qdisc(interface, links)?;
    }
    Ok(())
}

fn owns_qdisc(state: &State, ifindex: u32) -> bool {
    state.sources.iter().any(|source| source.ifindex == ifindex && source.hook == Hook::Tc { owns_qdisc: true })
}

/// Removes one source from the kernel and from the state, and the whole instance with the last one.
pub(super) fn remove_source(
    instance: &Instance,
    links: &Links,
    state: &mut State,
    interface: &InterfaceName,
) -> Result<()> {
    let Some(source) = state.source(interface).cloned() else {
        return Ok(());
    };
    // From here on it is unfinished business, also after a crash.
    state.mark_unfinished(interface);
    state.save(instance)?;

    let mut errors = Vec::new();
    let mut note = |result: Result<()>| errors.extend(result.err());
    let kernel = Kernel::open(instance);
    if let Some(kernel) = &kernel {
        note(kernel.remove_source(source.ifindex));
    }
    if let Hook::Tc { .. } = source.hook {
        // By index: the interface may have another name by now, or another one its name.
        match links.list() {
            Ok(interfaces) => {
                if let Some(link) = interfaces.iter().find(|link| link.index == source.ifindex) {
                    note(remove_filters(instance, links, link, Some(state)));
                }
            }
            Err(error) => note(Err(error)),
        }
    }
    if state.sources.len() == 1 {
        note(remove_instance(instance, links));
    } else if let Some(kernel) = &kernel {
        note(kernel.remove_session(source.session.slot));
    }
    finish(&format!("detach {interface}"), errors)?;
    state.sources.retain(|source| source.interface != *interface);
    state.save(instance)
}

/// Removes the tap and every pin.
pub(super) fn remove_instance(instance: &Instance, links: &Links) -> Result<()> {
    // The devices first: with the program's pin its link goes, and what then still came through would reach the stack.
    let tap = Tap::remove(instance, links);
    let pins = Kernel::remove(instance);
    tap.and(pins)
}

/// All errors as one.
fn finish(what: &str, errors: Vec<Error>) -> Result<()> {
    if errors.is_empty() {
        return Ok(());
    }
    let why = errors.iter().map(Error::to_string).collect::<Vec<_>>().join("; ");
    Err(Error::new(Kind::Failed, what, why).hint("the rest is gone; run it again for what is left"))
}
