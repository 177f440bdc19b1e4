//! `cargo xtask bulk`: the test of TCP in bulk, longer than in the test run and with optimised code.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::{
    build,
    setup::{self, Stage},
    test,
};

/// Arguments of `cargo xtask bulk`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How many bytes are sent each way in each case
    #[arg(long, value_name = "N", default_value_t = 500_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    bytes: u64,
    /// Only cases with this packet length
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=8500))]
    packet_length: Option<u16>,
    /// Which path copies may take
    #[arg(long, value_name = "PATH", default_value = "both", value_parser = ["tap", "fast", "both"])]
    path: String,
    /// Look at copies where they leave the uplink, not at the other end of that link: it has a queue for each CPU, in
    /// which copies can overtake each other as well
    #[arg(long)]
    at_uplink: bool,
    /// Only tests whose name has this in it, such as `jumbo`
    filter: Option<String>,
}

/// Runs the test; the lines that it prints are the result.
pub fn run(options: &Options) -> Result<ExitCode> {
    setup::ensure(Stage::Lab)?;
    let mut cargo = test::command("copy TCP in bulk")?;
    let mirrorctl = build::mirrorctl()?;
    cargo.args([
        "--release",
        "--package",
        "mirror-tests",
        "--test",
        "bulk",
        "--",
        "--nocapture",
        "--test-threads",
        "1",
    ]);
    cargo.args(&options.filter).env("MIRRORCTL", &mirrorctl);
    let packet_length = options.packet_length.map(|length| length.to_string()).unwrap_or_default();
    let path = if options.path == "both" { "" } else { &options.path };
    let place = if options.at_uplink { "uplink" } else { "" };
    cargo.env("MIRROR_BULK", format!("{},{packet_length},{path},{place}", options.bytes));
    let status = cargo.status().context("run cargo test")?;
    Ok(build::exit_code(status))
}
