//! `cargo xtask test`: every test of the workspace, those that need a kernel and root too.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::{
    build, privilege,
    setup::{self, Stage},
};

/// Runs the tests; `args` go to the test programs.
pub fn run(args: &[String]) -> Result<ExitCode> {
    setup::ensure(Stage::Lab)?;
    // Says that there is no way to become root before anything is built.
    privilege::command("run the tests", "true")?;
    let mirrorctl = build::mirrorctl()?;

    let mut cargo = build::cargo_here();
    if !privilege::is_root() {
        // Compiled as the user who called, run as root.
        cargo.args(["--config", "target.'cfg(target_os = \"linux\")'.runner = ['sudo', '-E']"]);
    }
    // One failing test program doesn't hide the others.
    cargo.args(["test", "--workspace", "--no-fail-fast"]).env("MIRRORCTL", &mirrorctl);
    if !args.is_empty() {
        cargo.arg("--").args(args);
    }
    let status = cargo.status().context("run cargo test")?;
    Ok(build::exit_code(status))
}
