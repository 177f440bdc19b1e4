//! `cargo xtask leaks`: the watch over the uplink, longer than in the test run and with an optimised `mirrorctl`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::{
    build,
    setup::{self, Stage},
    test,
};

/// Arguments of `cargo xtask leaks`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How many commands are run, some of them killed
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    cycles: u32,
    /// Where random numbers start; a new one each time when not given, and printed
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

/// Runs the test; what it prints at its end is the result.
pub fn run(options: &Options) -> Result<ExitCode> {
    setup::ensure(Stage::Lab)?;
    let mut cargo = test::command("watch for leaks")?;
    let mirrorctl = build::optimised_mirrorctl()?;
    cargo.args(["--release", "--package", "mirror-tests", "--test", "leaks", "--", "--nocapture"]);
    cargo.env("MIRRORCTL", mirrorctl).env("MIRROR_LEAKS", options.cycles.to_string());
    // One of the caller's would make the option a lie.
    cargo.env_remove("MIRROR_SEED").envs(options.seed.map(|seed| ("MIRROR_SEED", seed.to_string())));
    let status = cargo.status().context("run cargo test")?;
    Ok(build::exit_code(status))
}
