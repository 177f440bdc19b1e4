//! `cargo xtask setup`: finds or installs the eBPF toolchain and the tools of the lab; silent when nothing is missing.

mod decision;
mod distro;
mod linker;
mod rustc;
mod toolchain;
mod tools;

use std::{
    env,
    fs::{self, File},
    path::Path,
};

use anyhow::{Context as _, Result};

pub use decision::{Decision, Route};
pub use distro::{Apt, Distro, Family};

use self::{decision::DIR, rustc::Version};
use crate::{build, failure::Failure, step};

/// Forces a route.
pub const ROUTE: &str = "MIRROR_TOOLCHAIN_ROUTE";

/// How much of the set-up a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// To compile.
    Build,
    /// To run the lab and the tests as well.
    Lab,
    /// To compare with others in benchmarks as well.
    Bench,
    /// To run the tests in a virtual machine as well.
    Vm,
}

/// Makes sure that all of `stage` is there, and returns the toolchain.
pub fn ensure(stage: Stage) -> Result<Decision> {
    let forced = forced_route()?;
    let root = build::workspace();
    if tools::complete(stage)
        && let Ok(decision) = standing(root, forced)
    {
        return Ok(decision);
    }

    let dir = root.join(DIR);
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let lock = File::create(dir.join("lock")).with_context(|| format!("make a file in {}", dir.display()))?;
    let _lock = step::lock(lock)?;
    tools::install(stage)?;
    // Whoever held the lock may have done the rest.
    let missing = match standing(root, forced) {
        Ok(decision) => return Ok(decision),
        Err(missing) => missing,
    };
    step::note(&format!("the eBPF toolchain is set up in {DIR}: {missing}"));
    decide(root, forced)
}

/// The decision that stands, if everything in it is still true; else what is not.
fn standing(root: &Path, forced: Option<Route>) -> Result<Decision, String> {
    let decision = Decision::load(root).map_err(|err| err.to_string())?.ok_or("there is none yet")?;
    if let Some(route) = forced.filter(|route| *route != decision.route) {
        return Err(format!("{ROUTE} asks for the route {route}, what is there took {}", decision.route));
    }
    let version = Version::of(&decision.rustc).ok_or_else(|| format!("{} is gone", decision.rustc.display()))?;
    if version.line != decision.rustc_version || version.llvm != decision.llvm {
        return Err(format!("the compiler was {} and is {}", decision.rustc_version, version.line));
    }
    if !toolchain::has_sources(&decision.rustc) {
        return Err(format!("the library sources of {} are gone", decision.toolchain));
    }
    if decision.linker != linker::VERSION || !linker::works(&root.join(DIR)) {
        return Err(format!("bpf-linker {} is gone or doesn't start", linker::VERSION));
    }
    Ok(decision)
}

/// Takes the first route that leads to a compiler and a linker for it, and writes it down.
fn decide(root: &Path, forced: Option<Route>) -> Result<Decision> {
    let dir = root.join(DIR);
    // Until the end of this function there is no toolchain, also if the function doesn't get there.
    match fs::remove_file(Decision::path(root)) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => return Err(err).context("forget the old decision"),
        _ => {}
    }
    let routes = forced.map_or_else(|| vec![Route::Rustup, Route::Debian], |route| vec![route]);
    let mut dead_ends = Vec::new();
    for route in routes {
        let compiler = toolchain::get(route).and_then(|compiler| {
            let name = &compiler.toolchain;
            let (version, why) = (&compiler.version, &compiler.why);
            step::note(&format!("take {}, LLVM {}, through {route} ({name}; {why})", version.line, version.llvm));
            linker::install(&dir, &compiler)?;
            Ok(compiler)
        });
        let compiler = match compiler {
            Ok(compiler) => compiler,
            Err(err) => {
                step::note(&format!("the route {route} is closed: {err:#}"));
                dead_ends.push(format!("{route}: {err:#}"));
                continue;
            }
        };
        let decision = Decision {
            route,
            toolchain: compiler.toolchain,
            rustc: compiler.rustc,
            rustc_version: compiler.version.line,
            llvm: compiler.version.llvm,
            linker: linker::VERSION.to_owned(),
        };
        write(root, &decision)?;
        step::note("the eBPF toolchain is complete");
        return Ok(decision);
    }
    let failure = Failure::new(format!("set up the eBPF toolchain: no route leads to one ({})", dead_ends.join("; ")));
    Err(match forced {
        Some(route) => failure.hint(format!("without {ROUTE}={route} in the environment the other route is tried")),
        None => failure.hint(format!(
            "rustup toolchain install {} --profile minimal --component rust-src\n      then run the same `cargo xtask` again",
            toolchain::NIGHTLY
        )),
    }
    .into())
}

/// Puts the decision in its place whole: mirror-user's build script never sees half of it.
fn write(root: &Path, decision: &Decision) -> Result<()> {
    let path = Decision::path(root);
    let draft = path.with_extension("new");
    fs::write(&draft, decision.to_string())
        .and_then(|()| fs::rename(&draft, &path))
        .with_context(|| format!("write {}", path.display()))
}

/// What [`ROUTE`] asks for.
fn forced_route() -> Result<Option<Route>> {
    let Ok(word) = env::var(ROUTE) else { return Ok(None) };
    match Route::parse(&word) {
        Some(route) => Ok(Some(route)),
        None => Err(Failure::new(format!("read {ROUTE}: {word:?} is no route"))
            .hint("rustup (or a), debian (or b), or leave it unset")
            .into()),
    }
}
