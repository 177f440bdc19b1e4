//! bpf-linker, built for the LLVM of the chosen compiler.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::toolchain::Compiler;
use crate::{build, step};

/// The version of bpf-linker that this workspace is built with.
pub const VERSION: &str = "0.13.0";

/// The versions of LLVM that it has a feature for.
pub const LLVMS: [u32; 3] = [21, 22, 23];

/// The linker of the toolchain in `dir`.
fn path(dir: &Path) -> PathBuf {
    dir.join("bin/bpf-linker")
}

/// True when the linker in `dir` starts (its LLVM is where it was) and is the wanted one.
pub fn works(dir: &Path) -> bool {
    step::ask(Command::new(path(dir)).arg("--version")).is_some_and(|text| text.contains(VERSION))
}

/// Builds the linker into `dir` for `compiler`.
pub fn install(dir: &Path, compiler: &Compiler) -> Result<()> {
    let llvm = dir.join("llvm");
    offer_llvm(&llvm, &compiler.llvm).with_context(|| format!("offer {} to the linker", compiler.llvm.display()))?;

    let feature = format!("llvm-{}", compiler.version.llvm);
    // Kept until the linker is there: a build that was interrupted goes on where it was.
    let target = dir.join("build");
    let mut cargo = Command::new(build::cargo());
    cargo.args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force"]);
    cargo.args(["--no-default-features", "--features", &feature]);
    cargo.arg("--root").arg(dir).arg("--target-dir").arg(&target);
    cargo
        // Where the linker's build script looks for lib/libLLVM.so, and what it writes into the linker as its rpath.
        .env("LLVM_PREFIX", &llvm)
        // LLVM does the work, in a library that is built already: the rest saves 0.1 s a link when it is optimised, and
        // takes twice as long to build.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .env_remove("CARGO_BUILD_TARGET");
    step::run(
        &format!("build bpf-linker {VERSION} with {feature}"),
        "it must have the LLVM of the compiler; takes half a minute",
        &mut cargo,
    )?;
    if !works(dir) {
        anyhow::bail!("bpf-linker was built, but `{} --version` fails", path(dir).display());
    }
    match fs::remove_dir_all(&target) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err).context("remove the linker's build files"),
        _ => Ok(()),
    }
}

/// Makes `prefix` look like an installation of LLVM that has `library` alone: the linker needs nothing else of it, so
/// that no development packages of the distribution's are needed.
fn offer_llvm(prefix: &Path, library: &Path) -> io::Result<()> {
    match fs::remove_dir_all(prefix) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    let lib = prefix.join("lib");
    fs::create_dir_all(&lib)?;
    // One name for the time of linking (-lLLVM), and the library's own for the time of running.
    symlink(library, lib.join("libLLVM.so"))?;
    match library.file_name() {
        Some(name) => symlink(library, lib.join(name)),
        None => Ok(()),
    }
}
