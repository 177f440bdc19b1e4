//! What the set-up decided, as it stands in `.toolchain/decision`.
//!
//! This file is compiled into xtask, which writes the decision, and into mirror-user's build script, which
//! follows it: so it uses nothing but the standard library.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// The folder at the workspace root that survives `cargo clean`.
pub const DIR: &str = ".toolchain";

/// Where the compiler of the kernel programs comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// A: a nightly toolchain with rust-src, managed by rustup.
    Rustup,
    /// B: the distribution's own rustc, cargo and library sources, told to act as a nightly.
    Debian,
}

impl Route {
    /// The word for this route in the decision file and in `MIRROR_TOOLCHAIN_ROUTE`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rustup => "rustup",
            Self::Debian => "debian",
        }
    }

    /// Reads the word back; `a` and `b` are accepted for it.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "rustup" | "a" | "A" => Some(Self::Rustup),
            "debian" | "b" | "B" => Some(Self::Debian),
            _ => None,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A complete eBPF toolchain: a compiler, and a linker built for the very LLVM of that compiler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// How the compiler was found.
    pub route: Route,
    /// The name that `rustup run` takes; on [`Route::Debian`] only a label.
    pub toolchain: String,
    /// The compiler itself.
    pub rustc: PathBuf,
    /// The first line of `rustc -vV`: when it changes, the linker must be built again.
    pub rustc_version: String,
    /// The major version of the LLVM in that compiler.
    pub llvm: u32,
    /// The version of bpf-linker in `.toolchain/bin`.
    pub linker: String,
}

impl Decision {
    /// The decision file of the workspace at `root`.
    pub fn path(root: &Path) -> PathBuf {
        root.join(DIR).join("decision")
    }

    /// Reads the decision of the workspace at `root`; `None` when there is none, or none that this code understands.
    pub fn load(root: &Path) -> io::Result<Option<Self>> {
        match fs::read_to_string(Self::path(root)) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Reads what [`Decision`]'s `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        let field = |key: &str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(name, _)| name.trim() == key)
                .map(|(_, value)| value.trim())
        };
        Some(Self {
            route: Route::parse(field("route")?)?,
            toolchain: field("toolchain")?.to_owned(),
            rustc: PathBuf::from(field("rustc")?),
            rustc_version: field("rustc-version")?.to_owned(),
            llvm: field("llvm")?.parse().ok()?,
            linker: field("bpf-linker")?.to_owned(),
        })
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { route, toolchain, rustc, rustc_version, llvm, linker } = self;
        writeln!(
            f,
            "# Written by `cargo xtask setup`, read by mirror-user/build.rs. Remove .toolchain to start over."
        )?;
        writeln!(f, "route = {route}")?;
        writeln!(f, "toolchain = {toolchain}")?;
        writeln!(f, "rustc = {}", rustc.display())?;
        writeln!(f, "rustc-version = {rustc_version}")?;
        writeln!(f, "llvm = {llvm}")?;
        writeln!(f, "bpf-linker = {linker}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_reads_back_as_written() {
        let decision = Decision {
            route: Route::Rustup,
            toolchain: "nightly-2026-05-20".to_owned(),
            rustc: PathBuf::from("/home/me/.rustup/toolchains/nightly/bin/rustc"),
            rustc_version: "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)".to_owned(),
            llvm: 22,
            linker: "0.13.0".to_owned(),
        };
        assert_eq!(Decision::parse(&decision.to_string()), Some(decision));
    }

    #[test]
    fn half_a_decision_is_none() {
        assert_eq!(Decision::parse("route = rustup\ntoolchain = nightly\n"), None);
        assert_eq!(Decision::parse(""), None);
    }

    #[test]
    fn routes_have_a_letter_too() {
        assert_eq!(Route::parse("a"), Some(Route::Rustup));
        assert_eq!(Route::parse("B"), Some(Route::Debian));
        assert_eq!(Route::parse("c"), None);
    }
}
