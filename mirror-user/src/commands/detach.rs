//! `detach`: takes sources out of the kernel. The definitions stay, but for what `attach` made; so that no later change
//! attaches a source again, it is noted as detached until `attach`.

use serde::Serialize;

use crate::cli::{Detach, Global};
use crate::commands::attach::forget_made_by_attach;
use crate::commands::print;
use crate::definitions::Definitions;
use crate::definitions::store::{FileStore, Store};
use crate::error::{Error, Kind, Result};
use crate::host;
use crate::instance::{self, Instance};
use crate::kernel::{self, Kernel};
use crate::links::Links;
use crate::model::InterfaceName;
use crate::reconcile::remove;
use crate::state::State;

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
    let store = FileStore::of(instance);
    let definitions = store.load()?;
    let mut state = State::load(instance)?;
    state.require_this_network_namespace(what, instance)?;
    let remaining = without_made_by_attach(&definitions, [interface]);
    // Also one that the next change would attach (a boot came between).
    let will_be_attached = definitions.sessions_of(interface).next().is_some() && !state.detached.contains(interface);
    if state.source(interface).is_none() && !will_be_attached {
        return Err(Error::new(Kind::NotFound, what, format_args!("instance {} has not attached it", instance.name()))
            .hint("'mirrorctl status' lists what is attached"));
    }
    note_detached(&mut state, &remaining, [interface]);
    remove::source(instance, links, &mut state, interface)?;
    state.save(instance)?;
    save_if_changed(&store, &definitions, &remaining)?;
    Ok(vec![interface.clone()])
}

fn detach_all(what: &str, instance: &Instance, links: &Links) -> Result<Vec<InterfaceName>> {
    // State that can't be read is no reason to leave anything behind: everything can be found without it.
    let mut state = State::load(instance).ok();
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
    // From here on they are unfinished business, also after a crash: the next change must not take them for attached.
    if let Some(state) = state.as_mut().filter(|state| here && !state.sources.is_empty()) {
        state.sources.iter_mut().for_each(|source| source.attached = false);
        errors.extend(state.save(instance).err());
    }
    // Source hooks first: nothing must be cloned to a tap that is on its way out.
    errors.extend(Kernel::remove_all_sources(instance).err());
    if here {
        match links.list() {
            Ok(interfaces) => errors
                .extend(interfaces.iter().filter_map(|interface| remove::filters(instance, links, interface).err())),
            Err(error) => errors.push(error),
        }
        errors.extend(kernel::forget_clsact(instance).err());
        errors.extend(remove::instance(instance, links).err());
    } else {
        errors.extend(kernel::forget_clsact(instance).err());
        errors.extend(Kernel::remove(instance).err());
    }
    if errors.is_empty() {
        errors.extend(forget_all(instance).err());
    }
    remove::report(what, errors)?;
    Ok(detached)
}

/// Nothing is attached any more: what stays on record is that the sources that still have sessions are detached.
fn forget_all(instance: &Instance) -> Result<()> {
    let store = FileStore::of(instance);
    let definitions = store.load()?;
    let remaining = without_made_by_attach(&definitions, definitions.sources());
    let mut state = State::empty()?;
    note_detached(&mut state, &remaining, remaining.sources());
    state.save(instance)?;
    if remaining.is_empty() {
        // Also what a command left that was killed while it wrote the first definitions.
        return store.save(&remaining);
    }
    save_if_changed(&store, &definitions, &remaining)
}

fn without_made_by_attach<'a>(
    definitions: &Definitions,
    sources: impl IntoIterator<Item = &'a InterfaceName>,
) -> Definitions {
    let mut remaining = definitions.clone();
    for source in sources {
        forget_made_by_attach(&mut remaining, source);
    }
    remaining
}

fn note_detached<'a>(
    state: &mut State,
    definitions: &Definitions,
    sources: impl IntoIterator<Item = &'a InterfaceName>,
) {
    let with_sessions = sources.into_iter().filter(|source| definitions.sessions_of(source).next().is_some());
    state.detached.extend(with_sessions.cloned());
}

fn save_if_changed(store: &FileStore, old: &Definitions, new: &Definitions) -> Result<()> {
    if old == new { Ok(()) } else { store.save(new) }
}
