//! `cargo xtask test`: every test of the workspace, those that need a kernel and root too.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    build, privilege,
    setup::{self, Stage},
};

/// Runs the tests; `args` go to the test programs.
pub fn run(args: &[String]) -> Result<ExitCode> {
    setup::ensure(Stage::Lab)?;
    let mut cargo = command("run the tests")?;
    let mirrorctl = build::mirrorctl()?;
    // One failing test program doesn't hide the others.
    cargo.args(["--workspace", "--no-fail-fast"]).env("MIRRORCTL", &mirrorctl);
    if !args.is_empty() {
        cargo.arg("--").args(args);
    }
    let status = cargo.status().context("run cargo test")?;
    Ok(build::exit_code(status))
}

/// `cargo test`, whose programs run as root; `what` is the verb and object of the error that there is no way to
/// become root, which is said before anything is built.
pub fn command(what: &str) -> Result<Command> {
    privilege::command(what, "true")?;
    let mut cargo = build::cargo_here();
    if !privilege::is_root() {
        // Compiled as the user who called, run as root.
        cargo.args(["--config", "target.'cfg(target_os = \"linux\")'.runner = ['sudo', '-E']"]);
    }
    cargo.arg("test");
    Ok(cargo)
}
