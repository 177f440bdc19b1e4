//! Names that tell whose they are, and the removal of what a crashed run left behind.
//!
//! A run is known by its process id and the time that process started, so that a re-used id is not mistaken for it.
//! Each lab of a run has the name `mctl-<pid>-<start>-<counter>`; its namespaces are called after it, and its
//! directory is below [`RUN_DIRECTORY`].

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};

use crate::namespace;

/// Where labs keep their bpffs and state.
pub const RUN_DIRECTORY: &str = "/run/mirrorctl-lab";
const PREFIX: &str = "mctl-";

static COUNTER: AtomicU32 = AtomicU32::new(0);
/// Labs of this process that stand.
static STANDING: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Holds off every other run on this machine while namespaces and mounts come and go.
pub(crate) struct Exclusive(#[expect(dead_code, reason = "dropping it is what unlocks")] Lock);

impl Exclusive {
    pub(crate) fn wait() -> Result<Self> {
        lock("lock").map(Self)
    }
}

/// A lab's name. The lab's namespaces, mounts and files go when it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    name: String,
}

impl Claim {
    /// A name for the next lab of this process. The first call removes what dead runs left behind.
    pub(crate) fn next(_lock: &Exclusive) -> Result<Self> {
        let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
        if counter == 0 {
            for name in names()?.iter().filter(|name| !is_alive(name)) {
                eprintln!("lab: removing what a dead run left behind: {name}");
                remove(name)?;
            }
        }
        let pid = std::process::id();
        let start = start_time(pid).context("read this process's start time")?;
        let name = format!("{PREFIX}{pid}-{start}-{counter}");
        standing().push(name.clone());
        Ok(Self { name })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its directory.
    pub(crate) fn directory(&self) -> PathBuf {
        directory(&self.name)
    }

    /// Where it has its bpffs.
    pub(crate) fn bpffs(&self) -> PathBuf {
        bpffs(&self.name)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let removed = Exclusive::wait().and_then(|_lock| {
            standing().retain(|name| *name != self.name);
            remove(&self.name)
        });
        if let Err(error) = removed {
            eprintln!("lab: {error:#}");
        }
    }
}

/// Removes every lab of this process that still stands, and makes none while the value is held: for the moment before
/// a signal ends the process.
pub(crate) fn remove_all_of_this_process() -> Result<Exclusive> {
    let lock = Exclusive::wait()?;
    let names = std::mem::take(&mut *standing());
    names.iter().try_for_each(|name| remove(name))?;
    Ok(lock)
}

fn standing() -> std::sync::MutexGuard<'static, Vec<String>> {
    STANDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn directory(name: &str) -> PathBuf {
    Path::new(RUN_DIRECTORY).join(name)
}

fn bpffs(name: &str) -> PathBuf {
    directory(name).join("bpf")
}

/// Names of all labs, dead or alive, that left a directory or a namespace.
fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for place in [RUN_DIRECTORY, namespace::NAMES] {
        let entries = match fs::read_dir(place) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.with_context(|| format!("list {place}"))?,
        };
        for entry in entries {
            let file_name = entry.with_context(|| format!("list {place}"))?.file_name();
            let file_name = file_name.to_string_lossy();
            if file_name.starts_with(PREFIX) {
                names.push(file_name.splitn(5, '-').take(4).collect::<Vec<_>>().join("-"));
            }
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

fn is_alive(name: &str) -> bool {
    let mut numbers = name.trim_start_matches(PREFIX).split('-');
    let pid = numbers.next().and_then(|number| number.parse::<u32>().ok());
    let start = numbers.next().and_then(|number| number.parse::<u64>().ok());
    match (pid, start) {
        (Some(pid), Some(start)) => start_time(pid) == Some(start),
        // No name of a lab: not ours to remove.
        _ => true,
    }
}

/// When a process started, in clock ticks since boot: field 22 of `/proc/PID/stat` (proc(5)).
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, in parentheses, may hold blanks and parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn remove(name: &str) -> Result<()> {
    // Namespaces first: that ends the traffic, whose programs the pins hold.
    let namespaces = fs::read_dir(namespace::NAMES).into_iter().flatten().flatten();
    for entry in namespaces {
        let file_name = entry.file_name();
        let file_name = file_name.to_string_lossy();
        if file_name.strip_prefix(name).is_some_and(|rest| rest.starts_with('-')) {
            namespace::delete(&file_name)?;
        }
    }
    let bpffs = bpffs(name);
    match umount2(&bpffs, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(error) => return Err(error).with_context(|| format!("unmount {}", bpffs.display())),
    }
    match fs::remove_dir_all(directory(name)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", directory(name).display()))
        }
        _ => Ok(()),
    }
}

/// One at a time on this machine, whatever process or thread: for tests that fill the queues that all labs share.
pub struct Turn(#[expect(dead_code, reason = "dropping it is what unlocks")] Lock);

type Lock = Flock<fs::File>;

impl Turn {
    /// Waits for it.
    pub fn wait() -> Result<Self> {
        lock("turn").map(Self)
    }
}

fn lock(name: &str) -> Result<Lock> {
    fs::create_dir_all(RUN_DIRECTORY).with_context(|| format!("create {RUN_DIRECTORY}"))?;
    let path = Path::new(RUN_DIRECTORY).join(name);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    let locked = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error);
    locked.with_context(|| format!("lock {}", path.display()))
}
