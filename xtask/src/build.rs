//! The workspace, its cargo, and the `mirrorctl` that is built from it.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::failure::Failure;

/// The root of the workspace that this program was built from.
pub fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// The cargo that runs `cargo xtask`: the same compiler for everything.
pub fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// A cargo command at the root of the workspace.
pub fn cargo_here() -> Command {
    let mut command = Command::new(cargo());
    command.current_dir(workspace());
    command
}

/// Builds `mirrorctl` and returns where it is.
pub fn mirrorctl() -> Result<PathBuf> {
    program("mirror-user", "mirrorctl")
}

/// Builds the program `name` of a package and returns where it is.
pub fn program(package: &str, name: &str) -> Result<PathBuf> {
    let status =
        cargo_here().args(["build", "--package", package, "--bin", name]).status().context("run cargo build")?;
    if !status.success() {
        return Err(Failure::new(format!("build {name}: cargo failed, see above")).into());
    }
    let path = target_dir()?.join("debug").join(name);
    if !path.is_file() {
        return Err(Failure::new(format!("build {name}: it is not at {}", path.display()))
            .hint("a `build.target` or a profile of your own cargo configuration moves it")
            .into());
    }
    Ok(path)
}

/// Builds the tests that need a kernel, and returns their names and where they are.
pub fn integration_tests() -> Result<Vec<(String, PathBuf)>> {
    // The whole workspace, as `cargo xtask test` builds it: for one package of it cargo may choose other features of
    // what it depends on, and compile that once more.
    let output = cargo_here()
        .args(["test", "--workspace", "--no-run", "--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("run cargo test")?;
    if !output.status.success() {
        return Err(Failure::new("build the tests: cargo failed, see above").into());
    }
    let mut tests = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Value = serde_json::from_str(line).context("read what cargo printed")?;
        let target = &message["target"];
        if target["kind"] == json!(["test"])
            && let (Some(name), Some(path)) = (target["name"].as_str(), message["executable"].as_str())
        {
            tests.push((name.to_owned(), PathBuf::from(path)));
        }
    }
    tests.sort();
    Ok(tests)
}

/// Where cargo puts what it builds: asked of cargo, for configuration and environment can move it.
pub fn target_dir() -> Result<PathBuf> {
    // This program stands in <target>/debug, but need not: `cargo xtask` in one checkout can be run from another.
    let output = cargo_here()
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .output()
        .context("run cargo metadata")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rest = text.split_once("\"target_directory\":\"").map(|(_, rest)| rest);
    let folder = rest.and_then(|rest| rest.split_once('"')).map(|(folder, _)| PathBuf::from(folder));
    folder.context("cargo metadata names no target directory")
}

/// Passes the end of a command on as this program's own.
pub fn exit_code(status: ExitStatus) -> ExitCode {
    // A command that a signal ended has no code; 1 says that it failed.
    ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
}
