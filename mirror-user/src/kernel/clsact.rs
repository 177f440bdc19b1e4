//! The clsact qdiscs of sources that mirrorctl made: whoever takes the last filter of any instance away removes the qdisc.
//!
//! On record in bpffs, beside the pins, so that it is known to every instance, after a crash too, and forgotten with the
//! boot: `clsact+<network namespace>+<interface index>/<instance>/`, empty directories. A qdisc that somebody else made has
//! none. The name is none that an instance can have.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::create_directory;
use crate::error::{Error, Result};
use crate::instance::{self, Instance};
use crate::links::{CLSACT, Link, Links};

const PREFIX: &str = "clsact+";

fn record(ifindex: u32) -> Result<PathBuf> {
    Ok(Instance::pins_root().join(format!("{PREFIX}{}+{ifindex}", instance::network_namespace()?)))
}

/// Puts on record that the instance is about to attach to the clsact qdisc of an interface, if there is none yet or it is
/// one of ours.
pub(super) fn claim(instance: &Instance, interface: &Link, links: &Links) -> Result<()> {
    let record = record(interface.index)?;
    // Ours may be gone, and another one there: nobody can tell.
    if links.ingress_qdisc(interface.index)?.is_none() || record.exists() {
        create_directory(&record.join(instance.name()))?;
    }
    Ok(())
}

/// The instance has no filter at an interface any more: removes a clsact qdisc of ours if that was the last one, unless
/// somebody else has put a filter into it. From then on it is theirs.
pub fn release(instance: &Instance, interface: &Link, links: &Links) -> Result<()> {
    let record = record(interface.index)?;
    remove(&record.join(instance.name()))?;
    if !record.exists() || !is_empty(&record)? {
        return Ok(());
    }
    if links.ingress_qdisc(interface.index)?.as_deref() == Some(CLSACT) && !links.has_filters(interface.index)? {
        links.delete_clsact(interface.index)?;
    }
    remove(&record)
}

/// Takes the instance off the record of an interface that is gone, and its qdisc with it.
pub fn forget_one(instance: &Instance, ifindex: u32) -> Result<()> {
    let record = record(ifindex)?;
    remove(&record.join(instance.name()))?;
    remove(&record)
}

/// As [`forget_one`], for every interface that is left on record, whatever network namespace it was in.
pub fn forget(instance: &Instance) -> Result<()> {
    let root = Instance::pins_root();
    let entries = match fs::read_dir(&root) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        Err(error) => return Err(failed("read", &root, &error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| failed("read", &root, &error))?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            remove(&entry.path().join(instance.name()))?;
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn is_empty(directory: &Path) -> Result<bool> {
    let mut entries = fs::read_dir(directory).map_err(|error| failed("read", directory, &error))?;
    Ok(entries.next().is_none())
}

/// Removes a directory if it is empty; none is no error.
fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir(directory) {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
            Err(failed("remove", directory, &error))
        }
        _ => Ok(()),
    }
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> Error {
    Error::failed(format_args!("{verb} record of clsact {}", path.display()), error)
}
