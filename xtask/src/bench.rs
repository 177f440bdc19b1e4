//! `cargo xtask bench`: measurements, built for release.

use std::{
    path::PathBuf,
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    build,
    failure::Failure,
    privilege,
    setup::{self, Stage},
};

/// What can be measured.
#[derive(Subcommand)]
pub enum Bench {
    /// What a verdict costs, for 1 to 10,000 rules, and a change of policy; fails if a bar is missed
    Verdict(Options),
}

/// How to measure.
#[derive(Args)]
pub struct Options {
    /// Few and short rounds: a look, not a result
    #[arg(long)]
    quick: bool,
    /// Write the figures to FILE as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only policies whose name has this in it, such as `acl` or `firewall/10`
    filter: Option<String>,
}

/// Builds and runs a benchmark.
pub fn run(bench: &Bench) -> Result<ExitCode> {
    let Bench::Verdict(options) = bench;
    setup::ensure(Stage::Bench)?;
    privilege::command("run the benchmark", "true")?;
    let mut command = privilege::command("run the benchmark", build_bench("verdict")?)?;
    if options.quick {
        command.arg("--quick");
    }
    if let Some(file) = &options.json {
        command.arg("--json").arg(std::path::absolute(file).context("find the working directory")?);
    }
    command.args(&options.filter);
    let status = command.status().context("run the benchmark")?;
    Ok(build::exit_code(status))
}

/// Where the benchmark `name` is, built.
fn build_bench(name: &str) -> Result<PathBuf> {
    let output = build::cargo_here()
        .args(["bench", "--package", "mirror-tests", "--features", "bench", "--bench", name, "--no-run"])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("run cargo bench")?;
    if !output.status.success() {
        return Err(Failure::new("build the benchmark: cargo failed, see above").into());
    }
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Value = serde_json::from_str(line).context("read what cargo printed")?;
        if message["target"]["kind"] == json!(["bench"])
            && message["target"]["name"] == name
            && let Some(path) = message["executable"].as_str()
        {
            return Ok(path.into());
        }
    }
    Err(Failure::new(format!("build the benchmark: cargo names no program {name}")).into())
}
