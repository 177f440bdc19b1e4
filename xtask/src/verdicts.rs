//! `cargo xtask verdicts`: the differential test of verdicts, longer than in the test run and with optimised code.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::{
    build,
    setup::{self, Stage},
    test,
};

/// Arguments of `cargo xtask verdicts`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How many policies are drawn
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    policies: u32,
    /// How many packets are judged by each of them
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..))]
    frames: u32,
    /// Where random numbers start; a new one each time when not given, and printed
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

/// Runs the test; what it prints at its end is the result.
pub fn run(options: &Options) -> Result<ExitCode> {
    setup::ensure(Stage::Lab)?;
    let mut cargo = test::command("compare verdicts")?;
    cargo.args(["--release", "--package", "mirror-tests", "--test", "verdict", "--", "--nocapture"]);
    cargo.env("MIRROR_VERDICTS", format!("{},{}", options.policies, options.frames));
    // One of the caller's would make the option a lie.
    cargo.env_remove("MIRROR_SEED").envs(options.seed.map(|seed| ("MIRROR_SEED", seed.to_string())));
    let status = cargo.status().context("run cargo test")?;
    Ok(build::exit_code(status))
}
