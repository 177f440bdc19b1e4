//! Programs run inside the lab: in a network namespace, with the `/sys` that belongs to it and the lab's own bpffs.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::unistd::{Gid, Pid, Uid, setgid, setgroups, setuid};
use serde_json::Value;

use crate::namespace::Namespace;
use crate::wait::wait_until;

/// User and group of nobody.
const NOBODY: u32 = 65534;

/// The surroundings of a program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) namespace: &'a Namespace,
    /// What to show at `/sys/fs/bpf`; nothing is mounted there without.
    pub(crate) bpffs: Option<&'a Path>,
    /// What to show at `/etc/resolv.conf`, in place of the machine's own.
    pub(crate) resolv_conf: Option<&'a Path>,
    /// Give up root, and see `program` at this path, which nobody can reach too.
    pub(crate) as_nobody: Option<&'a Path>,
}

impl Surroundings<'_> {
    /// `program`, to be run in these surroundings.
    pub(crate) fn command(self, program: &Path) -> Result<Command> {
        let namespace = self.namespace.as_fd().try_clone_to_owned().context("keep a namespace open")?;
        let bpffs = self.bpffs.map(c_path).transpose()?;
        let resolv_conf = self.resolv_conf.map(c_path).transpose()?;
        let nobodys =
            self.as_nobody.map(|path| Ok::<_, anyhow::Error>((c_path(program)?, c_path(path)?))).transpose()?;
        let mut command = Command::new(self.as_nobody.unwrap_or(program));
        let enter = move || -> io::Result<()> {
            enter(&namespace, bpffs.as_deref())?;
            if let Some(file) = &resolv_conf {
                const NOTHING: Option<&CStr> = None;
                mount(Some(file.as_c_str()), c"/etc/resolv.conf", NOTHING, MsFlags::MS_BIND, NOTHING)?;
            }
            if let Some((from, to)) = &nobodys {
                become_nobody(from, to)?;
            }
            Ok(())
        };
        // SAFETY: `enter` makes system calls only, on values made before the fork: no allocation, no locks.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).with_context(|| format!("{} has a zero byte", path.display()))
}

fn enter(namespace: &OwnedFd, bpffs: Option<&CStr>) -> io::Result<()> {
    const NOTHING: Option<&CStr> = None;
    // A killed test takes its programs along.
    set_pdeathsig(Signal::SIGKILL)?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NOTHING, c"/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)?;
    // /sys/class/net shows the namespace that it was mounted in.
    mount(Some(c"sysfs"), c"/sys", Some(c"sysfs"), MsFlags::empty(), NOTHING)?;
    if let Some(bpffs) = bpffs {
        mount(Some(bpffs), c"/sys/fs/bpf", NOTHING, MsFlags::MS_BIND, NOTHING)?;
    }
    Ok(())
}

/// The program may lie where only root can go: show it somewhere else.
fn become_nobody(program: &CStr, at: &CStr) -> io::Result<()> {
    const NOTHING: Option<&CStr> = None;
    mount(Some(program), at, NOTHING, MsFlags::MS_BIND, NOTHING)?;
    setgroups(&[])?;
    setgid(Gid::from_raw(NOBODY))?;
    setuid(Uid::from_raw(NOBODY))?;
    Ok(())
}

/// A program at work. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    what: String,
    stdout: Option<JoinHandle<io::Result<String>>>,
    stderr: Option<JoinHandle<io::Result<String>>>,
}

impl Running {
    /// Starts `command`, collecting what it prints.
    pub fn start(command: Command, what: String) -> Result<Self> {
        Self::start_with_reader(command, what, collect)
    }

    /// Starts `command`, handing each line of its standard output to `line` as it comes.
    pub(crate) fn start_live(
        command: Command,
        what: String,
        mut line: impl FnMut(&str) + Send + 'static,
    ) -> Result<Self> {
        Self::start_with_reader(command, what, |stdout| {
            thread::spawn(move || {
                let mut whole = String::new();
                for text in BufReader::new(stdout).lines() {
                    let text = text?;
                    line(&text);
                    whole.push_str(&text);
                    whole.push('\n');
                }
                Ok(whole)
            })
        })
    }

    fn start_with_reader(
        mut command: Command,
        what: String,
        read_stdout: impl FnOnce(ChildStdout) -> JoinHandle<io::Result<String>>,
    ) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {what}"))?;
        let stdout = child.stdout.take().map(read_stdout);
        let stderr = child.stderr.take().map(collect);
        Ok(Self { child, what, stdout, stderr })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        let status = self.child.try_wait().with_context(|| format!("wait for {}", self.what))?;
        Ok(status.is_some())
    }

    /// What Ctrl-C does.
    pub fn interrupt(&self) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGINT).with_context(|| format!("interrupt {}", self.what))
    }

    /// kill -9; whatever it had done by then stays.
    pub fn kill(mut self) -> Result<Output> {
        self.child.kill().with_context(|| format!("kill {}", self.what))?;
        self.output()
    }

    /// Waits for its end.
    pub fn output(mut self) -> Result<Output> {
        let what = self.what.clone();
        wait_until(&format!("{what} ends"), || self.has_ended())?;
        let status = self.child.wait().with_context(|| format!("wait for {what}"))?;
        Ok(Output { stdout: text(self.stdout.take(), &what)?, stderr: text(self.stderr.take(), &what)?, what, status })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<io::Result<String>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    })
}

fn text(collected: Option<JoinHandle<io::Result<String>>>, what: &str) -> Result<String> {
    let Some(collected) = collected else { return Ok(String::new()) };
    match collected.join() {
        Ok(text) => text.with_context(|| format!("read what {what} printed")),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// What a program printed and how it ended.
#[derive(Clone, Debug)]
#[must_use = "say what should have come of it: `ok` or `fails`"]
pub struct Output {
    what: String,
    status: ExitStatus,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
}

impl Output {
    /// Asserts success, silent on standard error; the value is standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{} should have succeeded; {self}", self.what);
        assert!(self.stderr.is_empty(), "{} should have had no complaint; {self}", self.what);
        self.stdout
    }

    /// Asserts success; the value is the one JSON document on standard output.
    #[track_caller]
    pub fn json(self) -> Value {
        let what = self.what.clone();
        let text = self.ok();
        match serde_json::from_str(&text) {
            Ok(value) => value,
            Err(error) => panic!("{what} should have printed one JSON document: {error}: {text:?}"),
        }
    }

    /// Asserts failure as the product fails: this exit status, `error: <what>: <why>` on standard error with each of
    /// `words` in it, nothing on standard output.
    #[track_caller]
    pub fn fails(self, exit_status: i32, words: &[&str]) {
        let what = &self.what;
        assert_eq!(self.status.code(), Some(exit_status), "{what} should have failed with {exit_status}; {self}");
        let first = self.stderr.lines().next().unwrap_or_default();
        let message = first.strip_prefix("error: ");
        assert!(message.is_some_and(|rest| rest.contains(": ")), "{what} should say `error: <what>: <why>`; {self}");
        for word in words {
            assert!(self.stderr.contains(word), "{what} should have said {word:?}; {self}");
        }
        assert!(self.stdout.is_empty(), "{what} should have printed nothing on standard output; {self}");
    }

    /// The exit status; none when a signal ended it.
    pub fn status(&self) -> Option<i32> {
        self.status.code()
    }

    /// Whether it ended with status 0.
    pub fn succeeded(&self) -> bool {
        self.status.success()
    }

    /// Whether a signal ended it.
    pub fn was_killed(&self) -> bool {
        self.status.signal().is_some()
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it ended with {}, stdout {:?}, stderr {:?}", self.status, self.stdout, self.stderr)
    }
}

/// Reads a whole small file, such as those of `/proc`.
pub(crate) fn read_file(path: &Path) -> Result<String> {
    let mut text = String::new();
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    file.read_to_string(&mut text).with_context(|| format!("read {}", path.display()))?;
    Ok(text)
}
