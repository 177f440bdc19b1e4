//! The lab of `cargo xtask run`: three namespaces, real traffic, copies printed as they arrive.

use std::path::Path;

use anyhow::{Result, bail};

/// Runs the main job in a throwaway lab with the `mirrorctl` binary at `mirrorctl`.
pub fn lab(mirrorctl: &Path) -> Result<()> {
    bail!("run lab: not written yet (would run {})", mirrorctl.display())
}
