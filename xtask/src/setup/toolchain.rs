//! The compiler of the kernel programs: a nightly of rustup's (route A), else the distribution's own (route B).
//!
//! Kernel programs need a core library built for the BPF target, so a compiler that takes nightly-only flags and has
//! the library's sources at hand; and a linker built for the LLVM that is in this very compiler.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{
    decision::Route,
    distro::{Apt, Distro, Family},
    linker,
    rustc::Version,
};
use crate::{privilege, step};

/// The nightly that is installed where there is none: one known to build this workspace, so that a bad night
/// upstream is nobody's problem.
pub const NIGHTLY: &str = "nightly-2026-05-20";

/// The oldest compiler that builds the workspace: `rust-version` in its Cargo.toml.
const OLDEST: (u32, u32) = (1, 89);

/// A compiler that can build the kernel programs, and the LLVM library to build its linker with.
#[derive(Debug)]
pub struct Compiler {
    /// The name that `rustup run` takes; only a label on route B.
    pub toolchain: String,
    pub rustc: PathBuf,
    pub version: Version,
    /// A shared library with the LLVM of `version.llvm`.
    pub llvm: PathBuf,
    /// How it was come by, for the reader.
    pub why: String,
}

/// True when `rustc` has the sources of the core library next to it.
pub fn has_sources(rustc: &Path) -> bool {
    // <root>/bin/rustc, <root>/lib/rustlib/src
    rustc.ancestors().nth(2).is_some_and(|root| root.join("lib/rustlib/src/rust/library/core").is_dir())
}

/// True when `rustc` has its cargo and its standard library: an interrupted installation may have brought neither.
fn can_build(rustc: &Path) -> bool {
    let Some(root) = rustc.ancestors().nth(2) else { return false };
    // lib/rustlib/<target>/lib/libstd-<hash>.rlib, or .so where a distribution links it that way
    let targets = fs::read_dir(root.join("lib/rustlib")).into_iter().flatten().flatten();
    let mut libraries = targets.flat_map(|target| fs::read_dir(target.path().join("lib"))).flatten().flatten();
    root.join("bin/cargo").exists() && libraries.any(|file| file.file_name().to_string_lossy().starts_with("libstd-"))
}

/// Finds a compiler on `route`, and installs what it lacks.
pub fn get(route: Route) -> Result<Compiler> {
    match route {
        Route::Rustup => rustup(),
        Route::Debian => debian(),
    }
}

/// Route A.
fn rustup() -> Result<Compiler> {
    if privilege::find("rustup").is_none() {
        bail!("rustup is not in PATH");
    }
    // What is there comes before what must be fetched, and what was tested before what is new.
    let mut passed_over = Vec::new();
    for name in [NIGHTLY, "nightly"] {
        let Some(rustc) = rustc_of(name) else { continue };
        if !can_build(&rustc) {
            passed_over.push(format!("{name} is not completely installed"));
            continue;
        }
        let mut why = "it was installed".to_owned();
        if !has_sources(&rustc) {
            if let Err(err) = step::run(
                &format!("add rust-src to {name}"),
                "the core library is built for the BPF target",
                Command::new("rustup").args(["component", "add", "rust-src", "--toolchain", name]),
            ) {
                passed_over.push(format!("{err:#}"));
                continue;
            }
            why.push_str(", and lacked only its sources");
        }
        match of_toolchain(name, rustc, why) {
            Ok(compiler) => return Ok(compiler),
            Err(err) => passed_over.push(format!("{name}: {err:#}")),
        }
    }
    install_nightly()
        .and_then(|rustc| {
            let why = match passed_over.as_slice() {
                [] => "no nightly was installed".to_owned(),
                reasons => reasons.join("; "),
            };
            of_toolchain(NIGHTLY, rustc, why)
        })
        .map_err(|err| passed_over.iter().fold(err, |err, reason| err.context(reason.clone())))
}

/// The compiler of an installed toolchain; installs nothing.
fn rustc_of(toolchain: &str) -> Option<PathBuf> {
    let mut which = Command::new("rustup");
    which.args(["which", "rustc", "--toolchain", toolchain]).env("RUSTUP_AUTO_INSTALL", "0");
    Some(PathBuf::from(step::ask(&mut which)?.trim())).filter(|rustc| rustc.is_file())
}

/// Installs [`NIGHTLY`], from rustup's server.
fn install_nightly() -> Result<PathBuf> {
    let what = format!("install the Rust toolchain {NIGHTLY}");
    let mut install = Command::new("rustup");
    install.args(["toolchain", "install", NIGHTLY, "--profile", "minimal", "--component", "rust-src"]);
    install.arg("--no-self-update");
    let installed = step::run(&what, "only a nightly builds the core library for the BPF target", &mut install);
    let usable = || rustc_of(NIGHTLY).filter(|rustc| can_build(rustc) && has_sources(rustc));
    if installed.is_err() || usable().is_none() {
        // An installation that was killed can leave files that the next one stumbles over.
        let list = step::ask(Command::new("rustup").args(["toolchain", "list"])).unwrap_or_default();
        if !list.lines().any(|line| line.starts_with(NIGHTLY)) {
            installed?;
        }
        step::run(
            &format!("remove what there is of {NIGHTLY}"),
            "an earlier installation of it was interrupted",
            Command::new("rustup").args(["toolchain", "uninstall", NIGHTLY]),
        )?;
        step::run(&what, "once more, from nothing", &mut install)?;
    }
    usable().with_context(|| format!("{what}: rustup says it did, but parts of it are not there"))
}

/// Looks whether a toolchain has all that the kernel programs need.
fn of_toolchain(toolchain: &str, rustc: PathBuf, why: String) -> Result<Compiler> {
    let version = Version::of(&rustc).with_context(|| format!("`{} -vV` has no answer", rustc.display()))?;
    check(&version)?;
    if !has_sources(&rustc) {
        bail!("rust-src is missing");
    }
    // The toolchain carries its LLVM as a shared library: no better match for the linker than that.
    let lib = rustc.ancestors().nth(2).unwrap_or(&rustc).join("lib");
    let llvm = match find_llvm(&lib) {
        Some(llvm) => llvm,
        None => system_llvm(version.llvm)?,
    };
    Ok(Compiler { toolchain: toolchain.to_owned(), rustc, version, llvm, why })
}

/// Route B.
fn debian() -> Result<Compiler> {
    const PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
    let distro = Distro::here();
    if distro.family != Family::Debian {
        bail!("only Debian has the packages {}, and this is {}", PACKAGES.join(", "), distro.name);
    }
    let rustc = PathBuf::from("/usr/bin/rustc");
    let complete = || -> Result<Version> {
        let version = Version::of(&rustc).with_context(|| format!("{} is missing", rustc.display()))?;
        check(&version)?;
        if !can_build(&rustc) || !has_sources(&rustc) {
            bail!("cargo, the standard library or its sources are missing");
        }
        Ok(version)
    };
    let (version, why) = match complete() {
        Ok(version) => (version, "it was installed".to_owned()),
        Err(missing) => {
            let apt = Apt::get(&distro, &PACKAGES)?;
            if !apt.offers(PACKAGES[0])? {
                bail!("{missing:#}, and this distribution has no package {}", PACKAGES[0]);
            }
            apt.install(&PACKAGES, "the distribution's compiler, with the sources of its core library")?;
            (complete().context("the packages are installed, but")?, format!("installed from {}", distro.name))
        }
    };
    let llvm = system_llvm(version.llvm)?;
    Ok(Compiler { toolchain: "distribution".to_owned(), rustc, version, llvm, why })
}

/// Refuses a compiler that can't be used, whatever else is installed.
fn check(version: &Version) -> Result<()> {
    let (major, minor) = version.release;
    if version.release < OLDEST {
        bail!("rustc {major}.{minor} is older than {}.{}", OLDEST.0, OLDEST.1);
    }
    if !linker::LLVMS.contains(&version.llvm) {
        bail!("its LLVM is {}, and bpf-linker {} can be built for {:?}", version.llvm, linker::VERSION, linker::LLVMS);
    }
    Ok(())
}

/// The shared library of LLVM in `lib`, whose name ends in its version: `libLLVM.so.22.1-rust-1.97.0-nightly`.
fn find_llvm(lib: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(lib).ok()?;
    entries.filter_map(|entry| Some(entry.ok()?.path())).find(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("libLLVM.so."))
    })
}

/// The distribution's LLVM of major version `major`.
fn system_llvm(major: u32) -> Result<PathBuf> {
    let prefix = format!("libLLVM.so.{major}.");
    let find = || {
        let lib = Path::new("/usr/lib");
        // Debian keeps libraries in a folder named after the machine: /usr/lib/x86_64-linux-gnu.
        let folders = fs::read_dir(lib).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        folders.chain([lib.to_path_buf(), PathBuf::from("/usr/lib64")]).find_map(|folder| {
            fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).find(|path| {
                path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix))
            })
        })
    };
    if let Some(llvm) = find() {
        return Ok(llvm);
    }
    let distro = Distro::here();
    let package = format!("libllvm{major}");
    if distro.family != Family::Debian {
        bail!("there is no {prefix}* on this machine: install the shared library of LLVM {major}");
    }
    let apt = Apt::get(&distro, &[&package])?;
    if !apt.offers(&package)? {
        bail!("{} has no package {package}", distro.name);
    }
    apt.install(&[&package], "the linker works with the LLVM that is in the compiler")?;
    find().with_context(|| format!("{package} is installed, but brought no {prefix}*"))
}
