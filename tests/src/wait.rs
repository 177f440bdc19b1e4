//! Waiting for something to become true, with a deadline, instead of sleeping and hoping.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything in a lab may take before it counts as failed: long enough for an emulated machine (`cargo xtask vm`)
/// on a busy host.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Asks `ready` again and again; the error names `what` did not happen in [`PATIENCE`].
pub fn wait_until(what: &str, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !ready()? {
        if Instant::now() > deadline {
            bail!("waited {} s in vain: {what}", PATIENCE.as_secs());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
