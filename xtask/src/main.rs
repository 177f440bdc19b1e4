//! Commands for people who work on mirrorctl.

mod run;

use std::path::Path;

fn main() -> anyhow::Result<()> {
    run::lab(Path::new("target/debug/mirrorctl"))
}
