//! Ctrl-C in a program with a lab: the lab goes, then the program.

use std::process;
use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

use crate::leftovers;

/// Removes every lab of this process when it gets SIGINT, SIGTERM or SIGHUP, then ends it with 128 + the signal's
/// number. To be called before any thread is started.
pub fn remove_labs_on_signal() -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&signals), None).context("hold signals back")?;
    thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        eprintln!("{signal}: removing the lab");
        let removed = leftovers::remove_all_of_this_process();
        if let Err(error) = &removed {
            eprintln!("error: remove the lab: {error:#}");
        }
        process::exit(128 + signal as i32);
    });
    Ok(())
}
