//! The machine's console: printed as it comes, and searched for the verdict.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{failure::Failure, step};

/// What `init.sh` says at its end, followed by the names of what failed.
const VERDICT: &str = "vm-verdict:";

/// What came of the machine's work.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The programs that failed.
    pub failed: Vec<String>,
    /// How many tests passed, the smoke test aside.
    pub passed: usize,
}

/// The machine at work; ends with this value.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the machine to its end, or to the end of its time.
pub fn watch(command: &mut Command, limit: Duration) -> Result<Verdict> {
    let words = step::words(command);
    // With no input, Ctrl-C ends the machine and this program together.
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut machine = Machine(command.spawn().with_context(|| format!("run `{words}`"))?);
    let console = machine.0.stdout.take().context("read the machine's console")?;
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut console = BufReader::new(console);
        let mut line = Vec::new();
        while console.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            // Nobody listens when the time is over.
            if sender.send(text).is_err() {
                break;
            }
        }
    });

    let deadline = Instant::now() + limit;
    let mut failed = None;
    let mut passed = 0;
    let mut last = String::from("none");
    loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => match line.strip_prefix(VERDICT) {
                Some(names) => failed = Some(names.split_whitespace().map(str::to_owned).collect()),
                None => {
                    println!("{line}");
                    passed += tests_passed(&line).unwrap_or(0);
                    if !line.is_empty() {
                        last = line;
                    }
                }
            },
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                return Err(Failure::new(format!(
                    "run the machine: it was not done after {} s; its last words: {last}",
                    limit.as_secs()
                ))
                .hint("give it more with --time-limit, or less to do")
                .into());
            }
        }
    }
    let status = machine.0.wait().context("wait for the machine")?;
    // It has ended: there is nothing left to read.
    let _ = reader.join();
    failed.map(|failed| Verdict { failed, passed }).ok_or_else(|| {
        Failure::new(format!("run the machine: it ended ({status}) before its tests did; its last words: {last}"))
            .into()
    })
}

/// The number in the last line of a test program: "test result: ok. 3 passed; 0 failed; ..."
fn tests_passed(line: &str) -> Option<usize> {
    let (before, _) = line.strip_prefix("test result: ")?.split_once(" passed;")?;
    before.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(script: &str) -> Result<Verdict> {
        watch(Command::new("sh").args(["-c", script]), Duration::from_secs(5))
    }

    #[test]
    fn a_verdict_names_what_failed() {
        assert_eq!(machine("echo hello; echo vm-verdict:").expect("a verdict"), Verdict::default());
        let verdict = machine("printf 'vm-verdict: smoke copies\\r\\n'").expect("a verdict");
        assert_eq!(verdict.failed, ["smoke", "copies"]);
    }

    #[test]
    fn passed_tests_are_counted_over_all_programs() {
        let script = "echo 'test result: ok. 3 passed; 0 failed; 0 ignored'; \
                      echo 'test result: FAILED. 12 passed; 1 failed; 0 ignored'; echo vm-verdict: copies";
        assert_eq!(machine(script).expect("a verdict").passed, 15);
    }

    #[test]
    fn a_machine_without_verdict_has_failed() {
        let error = machine("echo Kernel panic; exit 0").expect_err("no verdict").to_string();
        assert!(error.contains("Kernel panic"), "{error}");
    }

    #[test]
    fn a_machine_that_hangs_is_ended() {
        let started = Instant::now();
        let error = watch(Command::new("sleep").arg("60"), Duration::from_millis(100)).expect_err("it hangs");
        assert!(error.to_string().contains("not done"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}
