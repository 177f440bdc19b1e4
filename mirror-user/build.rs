//! Builds the kernel programs with the eBPF toolchain that `cargo xtask setup` found or installed.
//!
//! The script runs twice: once as cargo starts it, and once as a child of itself in which aya-build does the work.
//! The child gets its own `PATH`, which a process with no `unsafe` can only give to a child, and the parent reads
//! what aya-build says before cargo does: aya-build turns every line of its cargo into a warning, "Compiling" too.

#[path = "../xtask/src/setup/decision.rs"]
mod decision;

use std::{
    env,
    error::Error,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use decision::{DIR, Decision, Route};

/// Set for the child that runs aya-build, to the name of the rustup toolchain.
const INNER: &str = "MIRROR_BUILD_EBPF_TOOLCHAIN";

fn main() -> ExitCode {
    let result = match env::var(INNER) {
        Ok(toolchain) => build(&toolchain),
        Err(_) => delegate(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: build mirror-ebpf: {err}");
            ExitCode::FAILURE
        }
    }
}

/// Runs in the child: hands the kernel programs to aya-build.
fn build(toolchain: &str) -> Result<(), Box<dyn Error>> {
    let wanted = [("CARGO_FEATURE_LOG", "log"), ("CARGO_FEATURE_BENCH", "bench")];
    let features: Vec<_> =
        wanted.into_iter().filter(|(set, _)| env::var_os(set).is_some()).map(|(_, feature)| feature).collect();
    let package = aya_build::Package {
        name: "mirror-ebpf",
        root_dir: "../mirror-ebpf",
        features: &features,
        ..Default::default()
    };
    aya_build::build_ebpf([package], aya_build::Toolchain::Custom(toolchain)).map_err(|err| format!("{err:#}").into())
}

/// Runs in the parent: reads the decision, starts the child with it, passes on what is worth a reader's time.
fn delegate() -> Result<(), Box<dyn Error>> {
    // Also without a decision: a set-up that comes later must start this script again.
    let root = Path::new("..");
    let decided = Decision::path(root);
    for path in [&decided, Path::new("../mirror-common"), Path::new("../Cargo.toml"), Path::new("../Cargo.lock")] {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    println!("cargo:rerun-if-changed=build.rs");

    let decision = Decision::load(root)
        .map_err(|err| format!("read {}: {err}", decided.display()))?
        .ok_or("no eBPF toolchain has been set up in this checkout\nhint: run `cargo xtask setup`")?;
    let bin = root.canonicalize()?.join(DIR).join("bin");

    let mut inner = Command::new(env::current_exe()?);
    inner
        .env(INNER, &decision.toolchain)
        .env("PATH", path_for(&decision, bin)?)
        // Warnings and errors only: a first build has nothing else to say.
        .env("CARGO_TERM_QUIET", "true")
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    match decision.route {
        // With this set, cargo and rustc take the nightly-only flags that build the core library.
        Route::Debian => inner.env("RUSTC_BOOTSTRAP", "1"),
        // A variable of the caller's must not turn a nightly into something else.
        Route::Rustup => inner.env_remove("RUSTC_BOOTSTRAP"),
    };
    let output = inner.output().map_err(|err| format!("run the build script again: {err}"))?;

    for line in String::from_utf8_lossy(&output.stdout).lines().filter(|line| worth_showing(line)) {
        println!("{line}");
    }
    if output.status.success() {
        return Ok(());
    }
    let cause = String::from_utf8_lossy(&output.stderr);
    let cause = cause.trim().trim_start_matches("error: build mirror-ebpf: ");
    Err(format!("{cause}\nhint: `cargo xtask setup` checks the toolchain; removing {DIR} makes it start over").into())
}

/// On the Debian route rustup's programs are hidden: aya-build would take a toolchain from rustup as soon as it sees it.
fn path_for(decision: &Decision, bin: PathBuf) -> Result<OsString, env::JoinPathsError> {
    let inherited = env::var_os("PATH").unwrap_or_default();
    let rest = env::split_paths(&inherited)
        .filter(|dir| decision.route == Route::Rustup || !dir.join("rustup").exists())
        // The compiler of the decision comes ahead of any other rustc in PATH.
        .collect::<Vec<_>>();
    let compiler = (decision.route == Route::Debian).then(|| decision.rustc.parent().map(Path::to_path_buf)).flatten();
    env::join_paths([bin].into_iter().chain(compiler).chain(rest))
}

/// Leaves out the empty lines around rendered messages, and aya-build's remark that rustup is hidden from it.
fn worth_showing(line: &str) -> bool {
    line.strip_prefix("cargo:warning=")
        .is_none_or(|warning| !warning.trim().is_empty() && !warning.starts_with("which(rustup)="))
}
