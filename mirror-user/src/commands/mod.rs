//! One module per command: plain values in, one document out.

mod apply;
mod attach;
mod capture;
mod change;
mod detach;
mod doctor;
mod explain;
mod export;
mod filter;
#[cfg(feature = "log")]
mod log;
mod resource;
mod rule;
mod session;
mod signals;
mod stats;
mod status;
mod tag;
mod target;
mod time;
mod trace;
mod verdict;

use std::time::Duration;

use serde::Serialize;

use crate::cli::{Cli, Command};
use crate::error::{Error, Kind, Result};
use crate::instance::Instance;

/// Does what the command line says.
pub fn run(cli: &Cli) -> Result<()> {
    let instance = Instance::new(&cli.global)?;
    match &cli.command {
        Command::Attach(arguments) => attach::run(&instance, &cli.global, arguments),
        Command::Detach(arguments) => detach::run(&instance, &cli.global, arguments),
        Command::Target(command) => target::run(&instance, &cli.global, command),
        Command::Filter(command) => filter::run(&instance, &cli.global, command),
        Command::Rule(command) => rule::run(&instance, &cli.global, command),
        Command::Session(command) => session::run(&instance, &cli.global, command),
        Command::Tag(command) => tag::run(&instance, &cli.global, command),
        Command::Apply(arguments) => apply::run(&instance, &cli.global, arguments),
        Command::Export => export::run(&instance, &cli.global),
        Command::Status => status::run(&instance, &cli.global),
        Command::Stats(arguments) => stats::run(&instance, &cli.global, arguments),
        #[cfg(feature = "log")]
        Command::Log => log::run(&instance),
        Command::Explain(arguments) => explain::run(&instance, &cli.global, arguments),
        Command::Trace(arguments) => trace::run(&instance, &cli.global, arguments),
        Command::Capture(arguments) => capture::run(arguments, cli.global.json),
        Command::Doctor => doctor::run(cli.global.json),
    }
}

/// Reads from the kernel; again if a change of policy took away what was being read.
fn steadily<T>(read: impl Fn() -> Result<T>) -> Result<T> {
    const ATTEMPTS: u32 = 25;
    const PAUSE: Duration = Duration::from_millis(20);
    for _ in 1..ATTEMPTS {
        match read() {
            Err(error) if error.kind() == Kind::Failed => std::thread::sleep(PAUSE),
            read => return read,
        }
    }
    read()
}

/// Prints a document on standard output: as JSON, or in words.
fn print(json: bool, document: &impl Serialize, words: impl FnOnce() -> String) -> Result<()> {
    use std::io::Write;

    let text = if json {
        serde_json::to_string_pretty(document).map_err(|error| Error::failed("write JSON", &error))?
    } else {
        words()
    };
    let text = text.trim_end();
    if text.is_empty() {
        return Ok(());
    }
    match writeln!(std::io::stdout(), "{text}") {
        // The reader has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Error::failed("write to standard output", &error)),
    }
}
