//! Who runs this, and how to become root.

use std::{ffi::OsStr, os::unix::fs::MetadataExt as _, path::PathBuf, process::Command};

use anyhow::Result;

use crate::failure::Failure;

/// Folders of system programs that the `PATH` of an ordinary user may lack.
const SYSTEM: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// True when this process runs as root.
pub fn is_root() -> bool {
    // The owner of a process's folder is its effective user (proc_pid(5)).
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// True when `sudo` is there to be called.
pub fn has_sudo() -> bool {
    find("sudo").is_some()
}

/// Where `program` is, in `PATH` or among the system's programs.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM.map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// A command that runs `program` as root with this environment; `what` is the verb and object of the error.
pub fn command(what: &str, program: impl AsRef<OsStr>) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    if !has_sudo() {
        return Err(Failure::new(format!("{what}: not root, and there is no sudo"))
            .hint("namespaces and BPF programs need root: run the same command as root")
            .into());
    }
    let mut sudo = Command::new("sudo");
    sudo.arg("-E").arg(program);
    Ok(sudo)
}
