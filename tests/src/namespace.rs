//! Network namespaces: made, entered, removed.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

/// Where `ip netns` keeps its names.
pub(crate) const NAMES: &str = "/run/netns";

/// A named network namespace. Its lab removes it (see [`crate::leftovers`]).
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    /// Makes it.
    pub(crate) fn create(name: String) -> Result<Self> {
        run("ip", &["netns", "add", &name], None)?;
        let path = path_of(&name);
        let handle = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self { name, handle })
    }

    /// Its name for `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets it opens stay in the namespace wherever they
    /// are used; the calling thread never leaves its own.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.handle, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("enter network namespace {}", self.name))?;
                work()
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs `ip` with the words of `arguments` inside; the value is what it printed.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        self.tool("ip", arguments)
    }

    /// Runs `tc` with the words of `arguments` inside; the value is what it printed.
    pub fn tc(&self, arguments: &str) -> Result<String> {
        self.tool("tc", arguments)
    }

    /// Runs `ip` commands, one a line, inside.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        run("ip", &["-netns", &self.name, "-batch", "-"], Some(lines)).map(drop)
    }

    /// Runs a program inside, `input` being its standard input; the value is what it printed.
    pub fn run(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        self.enter(|| run(program, arguments, Some(input)))
    }

    fn tool(&self, program: &str, arguments: &str) -> Result<String> {
        let mut words = vec!["-netns", self.name.as_str()];
        words.extend(arguments.split_whitespace());
        run(program, &words, None)
    }

    /// Writes `value` to the switch at `key` below `/proc/sys/net`.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.enter(|| fs::write(&path, value).with_context(|| format!("write {value} to {path}")))
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

fn path_of(name: &str) -> PathBuf {
    PathBuf::from(NAMES).join(name)
}

/// Removes the namespace called `name`, if there is one.
pub(crate) fn delete(name: &str) -> Result<()> {
    if !path_of(name).exists() {
        return Ok(());
    }
    run("ip", &["netns", "delete", name], None).map(drop)
}

/// Runs a system tool and returns what it printed.
pub(crate) fn run(program: &str, arguments: &[&str], input: Option<&str>) -> Result<String> {
    let what = || format!("run {program} {}", arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(what)?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(input.as_bytes()).with_context(what)?;
    }
    let output = child.wait_with_output().with_context(what)?;
    if !output.status.success() {
        bail!("{}: {}: {}", what(), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
