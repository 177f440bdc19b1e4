//! Running commands that take a while: says what and why, shows that it is alive, prints their words only if they fail.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read as _, Write as _},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::failure::Failure;

/// How often the spinner turns on a terminal.
const TICK: Duration = Duration::from_millis(120);
/// How often a log that is not a terminal hears that a step is still going on.
const QUIET: Duration = Duration::from_secs(30);
/// Lines of a failed command's output that are shown: the cause stands near the end.
const SHOWN: usize = 40;

/// Says something that takes no time.
pub fn note(text: &str) {
    eprintln!("setup: {text}");
}

/// Runs `command`; `what` is a verb and its object, `why` ends the sentence "... because / so that".
/// Returns what the command printed on its standard output and standard error.
pub fn run(what: &str, why: &str, command: &mut Command) -> Result<String> {
    let terminal = io::stderr().is_terminal();
    note(&format!("{what} ({why})"));
    let started = Instant::now();
    let (status, output) = watch(command, |running| {
        let seconds = running.as_secs();
        if terminal {
            let wheel = ["|", "/", "-", "\\"];
            let turn = usize::try_from(running.as_millis() / TICK.as_millis()).unwrap_or(0) % wheel.len();
            // \x1b[K clears the rest of the line.
            eprint!("\r  {} {seconds} s\x1b[K", wheel[turn]);
            // A terminal that can't be written to is no reason to stop.
            let _ = io::stderr().flush();
            TICK
        } else {
            if seconds > 0 {
                eprintln!("  still at it after {seconds} s");
            }
            QUIET
        }
    })
    .with_context(|| what.to_owned())?;
    if terminal {
        eprint!("\r\x1b[K");
    }
    if status.success() {
        eprintln!("  done in {:.1} s", started.elapsed().as_secs_f32());
        return Ok(output);
    }
    let lines: Vec<&str> = output.lines().collect();
    let from = lines.len().saturating_sub(SHOWN);
    if from > 0 {
        eprintln!("  [...]");
    }
    for line in &lines[from..] {
        eprintln!("  {line}");
    }
    Err(Failure::new(format!("{what}: `{}` ended with {status}", words(command))).into())
}

/// Runs `command` without a word and returns its standard output, or `None` if it can't be run or fails.
pub fn ask(command: &mut Command) -> Option<String> {
    // Answers are parsed: no translation, no colours, no stack traces of rustup's.
    let output =
        command.env("LC_ALL", "C").env("RUST_BACKTRACE", "0").stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as a person would type it.
pub fn words(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs `command` to its end and calls `alive` with the time passed; it says after what time it wants to be called again.
fn watch(command: &mut Command, mut alive: impl FnMut(Duration) -> Duration) -> Result<(ExitStatus, String)> {
    // One pipe for both streams keeps their lines in order.
    let (mut reader, writer) = io::pipe()?;
    let mut child = command
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("run `{}`", words(command)))?;
    // The command holds the pipe's writing end: without this the reader would never see its end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let (sender, receiver) = mpsc::channel();
    let collector = thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = reader.read_to_end(&mut bytes).map(|_| bytes);
        // The receiver is gone only when this process is ending.
        let _ = sender.send(());
        read
    });
    let started = Instant::now();
    loop {
        let pause = alive(started.elapsed());
        match receiver.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.wait()?;
    let bytes = collector.join().map_err(|_| anyhow::anyhow!("the reader of the command's output panicked"))??;
    Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
}

/// Holds the lock on `file` until the returned file is dropped; says so if another process has it.
pub fn lock(file: File) -> Result<File> {
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => note("waiting for another `cargo xtask` to finish its set-up"),
        Err(std::fs::TryLockError::Error(err)) => return Err(err).context("lock .toolchain"),
    }
    file.lock().context("lock .toolchain")?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_names_its_command_and_status() {
        let err = run("try sh", "of this test", Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]))
            .expect_err("exit 3 is a failure");
        let text = format!("{err:#}");
        assert!(text.starts_with("try sh: `sh -c"), "{text}");
        assert!(text.ends_with("exit status: 3"), "{text}");
    }

    #[test]
    fn both_streams_come_back_in_order() {
        let text = run("try sh", "of this test", Command::new("sh").args(["-c", "echo 1; echo 2 >&2; echo 3"]));
        assert_eq!(text.expect("sh runs"), "1\n2\n3\n");
    }

    #[test]
    fn what_cannot_be_run_answers_nothing() {
        assert_eq!(ask(&mut Command::new("/nonexistent/program")), None);
        assert_eq!(ask(&mut Command::new("false")), None);
    }
}
