//! A change of the definitions: in what order lock, definitions, host, kernel and store are touched. One way for every
//! command that changes them.

use std::cell::OnceCell;

use crate::definitions::Definitions;
use crate::definitions::host::{self, Host};
use crate::definitions::refusal::Refusal;
use crate::definitions::store::{FileStore, Store};
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::links::Links;
use crate::model::InterfaceName;
use crate::reconcile::{Request, reconcile};

/// What has changed.
pub(super) struct Changed<T> {
    /// The definitions before.
    pub(super) old: Definitions,
    /// The definitions now.
    pub(super) new: Definitions,
    /// What `edit` returned.
    pub(super) value: T,
}

/// Makes one change, all or nothing: in memory, then in the kernel, then in the store. `what` is the command
/// ("create target zeek"). `edit` may be called twice.
pub(super) fn change<T>(
    instance: &Instance,
    what: &str,
    edit: impl Fn(&mut Definitions) -> std::result::Result<T, Refusal>,
) -> Result<Changed<T>> {
    change_with(instance, what, Request::default(), edit)
}

/// [`change`], with more to ask of the kernel.
pub(super) fn change_with<T>(
    instance: &Instance,
    what: &str,
    request: Request<'_>,
    edit: impl Fn(&mut Definitions) -> std::result::Result<T, Refusal>,
) -> Result<Changed<T>> {
    let store = FileStore::of(instance);
    if !store.path().exists() {
        // The lock makes a directory: bad input must not leave one behind.
        propose(what, Definitions::default(), &edit)?;
    }
    let _lock = instance.lock()?;
    let changed = propose(what, store.load()?, &edit)?;
    let Changed { old, new, .. } = &changed;
    // Also if nothing has changed: the kernel may have (a boot, a crash, an interface that came back).
    reconcile(instance, what, new, request)?;
    if old == new {
        return Ok(changed);
    }
    if let Err(error) = store.save(new) {
        // What can't be kept must not stay in the kernel either.
        return Err(match reconcile(instance, what, old, Request::default()) {
            Ok(()) => error,
            Err(undo) => error.hint(format_args!("the kernel has the change already, and undoing it failed: {undo}")),
        });
    }
    Ok(changed)
}

/// What `change` would make of the definitions as they are; changes nothing.
pub(super) fn rehearse<T>(
    instance: &Instance,
    what: &str,
    edit: impl Fn(&mut Definitions) -> std::result::Result<T, Refusal>,
) -> Result<Changed<T>> {
    propose(what, load(instance)?, edit)
}

/// The definitions as they are.
pub(super) fn load(instance: &Instance) -> Result<Definitions> {
    // A file that is replaced by rename is whole at all times: reading it takes no lock.
    FileStore::of(instance).load()
}

fn propose<T>(
    what: &str,
    old: Definitions,
    edit: impl Fn(&mut Definitions) -> std::result::Result<T, Refusal>,
) -> Result<Changed<T>> {
    let mut new = old.clone();
    let value = edit(&mut new).map_err(|refusal| refusal.during(what))?;
    host::check(what, &old, &new, &ThisHost::default())?;
    Ok(Changed { old, new, value })
}

/// The host as rtnetlink tells of it, asked only if there is something to ask.
#[derive(Default)]
struct ThisHost {
    links: OnceCell<Links>,
}

impl ThisHost {
    fn links(&self) -> Result<&Links> {
        match self.links.get() {
            Some(links) => Ok(links),
            None => {
                let links = Links::open()?;
                Ok(self.links.get_or_init(|| links))
            }
        }
    }
}

impl Host for ThisHost {
    fn has_interface(&self, name: &InterfaceName) -> Result<bool> {
        Ok(self.links()?.find(name.as_str())?.is_some())
    }
}

/// Refuses to set a field and to remove it at once.
pub(super) fn set_or_removed(what: &str, field: &str, set: bool, removed: bool) -> Result<()> {
    if set && removed {
        let refusal = Refusal::bad_input(format_args!("{field}: it can be set or removed, not both"));
        return Err(refusal.during(what));
    }
    Ok(())
}

/// A name or an id from the command line, as it may stand in an error.
pub(super) fn said(name_or_id: &str) -> String {
    let quoted = format!("{name_or_id:?}");
    // Quotes only where something in it would be misread.
    if quoted.len() == name_or_id.len() + 2 && !name_or_id.is_empty() { name_or_id.to_owned() } else { quoted }
}

/// The error of a command that only reads.
pub(super) fn refuse(what: impl std::fmt::Display) -> impl FnOnce(Refusal) -> Error {
    move |refusal| refusal.during(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_where_they_could_be_misread() {
        for (name, expected) in [
            ("zeek", "zeek"),
            ("Zürich 1", "Zürich 1"),
            ("", "\"\""),
            ("a\u{1b}[2J", "\"a\\u{1b}[2J\""),
            ("a\"", "\"a\\\"\""),
        ] {
            assert_eq!(said(name), expected);
        }
    }
}
