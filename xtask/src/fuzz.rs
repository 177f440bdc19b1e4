//! `cargo xtask fuzz`: the fuzz targets of `fuzz/`, built by the nightly that builds the kernel programs, and run.
//!
//! cargo-fuzz would do the same with the same flags; this way nothing more is installed. libFuzzer is C++ and comes as
//! source in the crate libfuzzer-sys: a C++ compiler must be there.

use std::{
    env, fs,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build,
    failure::Failure,
    setup::{self, Route, Stage},
};

/// Where everything goes that building and running leave behind.
const DIRECTORY: &str = "target/fuzz";
/// Where in it the inputs are that are worth keeping.
const CORPUS: &str = "corpus";
/// Coverage as libFuzzer reads it (the flags of cargo-fuzz). No address sanitizer: the parsers have no unsafe code.
const FLAGS: [&str; 8] = [
    "--cfg=fuzzing",
    "-Ccodegen-units=1",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Clink-dead-code",
];
/// Memory that a parser may take, in MiB: their inputs are bounded, so they are. Half of it at once.
const MEMORY: u32 = 512;
/// Bytes of an input.
const LONGEST: u32 = 4096;

/// Arguments of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The target to run, a file of fuzz/fuzz_targets; all, one after the other, when not given
    target: Option<String>,
    /// How long each is run
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

/// Builds and runs; fails at the first target that finds something.
pub fn run(options: &Options) -> Result<ExitCode> {
    let decision = setup::ensure(Stage::Build)?;
    if decision.route != Route::Rustup {
        bail!(
            Failure::new("build the fuzz targets: the eBPF toolchain is the distribution's, and this takes a nightly")
                .hint("install rustup, remove .toolchain and run `cargo xtask setup`")
        );
    }
    let mut targets = names();
    if let Some(target) = &options.target {
        targets.retain(|name| name == target);
        if targets.is_empty() {
            bail!(
                Failure::new(format!("fuzz {target}: there is no such target"))
                    .hint(format!("there are {}", names().join(", ")))
            );
        }
    }

    let directory = build::workspace().join(DIRECTORY);
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut cargo = Command::new("rustup");
    cargo.args(["run", &decision.toolchain, "cargo", "build", "--release", "--locked", "--target", &triple]);
    cargo.args(targets.iter().flat_map(|target| ["--bin", target]));
    cargo
        .current_dir(build::workspace().join("fuzz"))
        // For the target only, not for build scripts: that is what naming it is for.
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        .env("CARGO_TARGET_DIR", &directory)
        .env_remove("RUSTUP_TOOLCHAIN");
    if !cargo.status().context("run cargo build")?.success() {
        bail!(Failure::new("build the fuzz targets: cargo failed, see above"));
    }
    let mut seeds = build::cargo_here();
    seeds.args(["run", "--quiet", "--package", "mirror-tests", "--example", "fuzz_seeds"]).arg(directory.join(CORPUS));
    if !seeds.status().context("run cargo run")?.success() {
        bail!(Failure::new("write the seeds: cargo failed, see above"));
    }
    for target in targets {
        let program = directory.join(&triple).join("release").join(&target);
        fuzz(&target, &program, &directory, options.seconds)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The fuzz targets: a file for each.
fn names() -> Vec<String> {
    let files = fs::read_dir(build::workspace().join("fuzz/fuzz_targets")).into_iter().flatten().flatten();
    let mut names: Vec<_> = files.filter_map(|file| Some(file.path().file_stem()?.to_str()?.to_owned())).collect();
    names.sort_unstable();
    names
}

fn fuzz(name: &str, program: &Path, directory: &Path, seconds: u32) -> Result<()> {
    let (corpus, findings) = (directory.join(CORPUS).join(name), directory.join("findings").join(name));
    for folder in [&corpus, &findings] {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    println!("{name}: {seconds} s");
    let status = Command::new(program)
        .arg(&corpus)
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={MEMORY}"))
        .arg(format!("-malloc_limit_mb={}", MEMORY / 2))
        .arg(format!("-max_len={LONGEST}"))
        // An input that takes so many seconds is a finding.
        .args(["-timeout=10", "-print_final_stats=1", "-verbosity=0"])
        .status()
        .with_context(|| format!("run {}", program.display()))?;
    if !status.success() {
        bail!(Failure::new(format!("fuzz {name}: it found something, see above")).hint(format!(
            "the input is in {}; run {} with it to see it again",
            findings.display(),
            program.display()
        )));
    }
    Ok(())
}
