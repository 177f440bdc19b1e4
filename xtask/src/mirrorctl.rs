//! `cargo xtask run`: the lab, or `mirrorctl` on this host.

use std::{
    env,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use crate::{
    build, lab, privilege,
    setup::{self, Stage},
};

/// Runs the lab when there are no `args`, else `mirrorctl` with them.
pub fn run(args: &[String]) -> Result<ExitCode> {
    if args.is_empty() {
        setup::ensure(Stage::Lab)?;
        privilege::command("run the lab", "true")?;
        let mirrorctl = build::mirrorctl()?;
        if privilege::is_root() {
            return lab::show(&mirrorctl);
        }
        // Only the lab runs as root, not cargo: the files it builds belong to the caller.
        let this = env::current_exe().context("find this program")?;
        let mut command = privilege::command("run the lab", this)?;
        return replace_by(command.args(["lab", "show"]).arg(mirrorctl));
    }
    setup::ensure(Stage::Build)?;
    let mirrorctl = build::mirrorctl()?;
    // Help needs no root, and neither does a machine without sudo that is asked for nothing else: mirrorctl itself
    // says what it may not do.
    let mut command = match privilege::command("run mirrorctl", &mirrorctl) {
        Ok(command) => command,
        Err(_) => Command::new(&mirrorctl),
    };
    replace_by(command.args(args))
}

/// Becomes `command`: its exit status and its signals are this program's.
pub fn replace_by(command: &mut Command) -> Result<ExitCode> {
    let err = command.exec();
    Err(err).with_context(|| format!("run {}", command.get_program().to_string_lossy()))
}
