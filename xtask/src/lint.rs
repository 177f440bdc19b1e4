//! `cargo xtask lint`: formatting and clippy, on the host and for the kernel programs' real target.

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build,
    failure::Failure,
    privilege,
    setup::{self, Decision, Route, Stage},
    step,
};

/// Runs all of it; stops at the first that finds something.
pub fn run() -> Result<ExitCode> {
    let decision = setup::ensure(Stage::Build)?;
    for (component, program) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if step::ask(Command::new(build::cargo()).args([program, "--version"])).is_none() {
            if privilege::find("rustup").is_none() {
                bail!(
                    Failure::new(format!("run cargo {program}: it is not installed"))
                        .hint(format!("install {component}"))
                );
            }
            step::run(
                &format!("add {component}"),
                "the checks need it",
                Command::new("rustup").args(["component", "add", component]),
            )?;
        }
    }
    check("check the formatting", "cargo fmt --all", build::cargo_here().args(["fmt", "--all", "--check"]))?;
    // A workspace of its own.
    let fuzz = ["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"];
    check(
        "check the formatting of the fuzz targets",
        "cargo fmt --manifest-path fuzz/Cargo.toml",
        build::cargo_here().args(fuzz),
    )?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    check("run clippy", "", build::cargo_here().args(clippy))?;
    kernel_clippy(&decision)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a check that talks for itself.
fn check(what: &str, remedy: &str, command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| what.to_owned())?;
    if status.success() {
        return Ok(());
    }
    let failure = Failure::new(format!("{what}: it found something, see above"));
    Err(if remedy.is_empty() { failure } else { failure.hint(remedy) }.into())
}

/// Clippy of mirror-ebpf as the kernel gets it. On the host its code is linted too, all but what the target decides.
fn kernel_clippy(decision: &Decision) -> Result<()> {
    if decision.route != Route::Rustup {
        step::note("clippy for the BPF target is skipped: the distribution's compiler comes without clippy");
        return Ok(());
    }
    let toolchain = decision.toolchain.as_str();
    let program = decision.rustc.with_file_name("cargo-clippy");
    if !program.is_file()
        && let Err(err) = step::run(
            &format!("add clippy to {toolchain}"),
            "the kernel programs are linted for their own target",
            Command::new("rustup").args(["component", "add", "clippy", "--toolchain", toolchain]),
        )
    {
        step::note(&format!("clippy for the BPF target is skipped: {err:#}"));
        return Ok(());
    }
    let mut command = Command::new("rustup");
    command.args(["run", toolchain, "cargo", "clippy", "--package", "mirror-ebpf", "--release"]);
    command.args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--", "-D", "warnings"]);
    command
        .current_dir(build::workspace())
        // Asked for by aya-ebpf's bindings; aya-build sets it in a real build.
        .env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH))
        // Another compiler than the rest: another place, or each would throw away the other's files.
        .env("CARGO_TARGET_DIR", Path::new(build::workspace()).join("target/lint-ebpf"))
        .env_remove("RUSTUP_TOOLCHAIN");
    check("run clippy for the BPF target", "", &mut command)
}
