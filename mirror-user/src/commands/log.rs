//! `log`, for people who change the kernel programs: what they log through aya-log.

use std::time::Duration;

use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};

use crate::error::{Error, Kind, Result};
use crate::host;
use crate::instance::Instance;
use crate::kernel::Kernel;

/// Prints every line as it is.
struct Printer;

impl Log for Printer {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        println!("{} {}: {}", record.level(), record.target(), record.args());
    }

    fn flush(&self) {}
}

/// Runs the command.
pub(super) fn run(instance: &Instance) -> Result<()> {
    let what = "read kernel log";
    host::require_root(what)?;
    let kernel = Kernel::open(instance).ok_or_else(|| Error::new(Kind::NotFound, what, "nothing is attached"))?;
    let mut logger = EbpfLogger::init_from_id_with_logger(kernel.tap_program_id()?, Printer)
        .map_err(|error| Error::failed(what, &error))?;
    loop {
        logger.flush();
        std::thread::sleep(Duration::from_millis(100));
    }
}
