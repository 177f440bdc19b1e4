//! What a compiler says about itself.

use std::{path::Path, process::Command};

use crate::step;

/// The parts of `rustc -vV` that decide about an eBPF toolchain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The first line: it changes with every build of the compiler.
    pub line: String,
    /// Major and minor version of the release.
    pub release: (u32, u32),
    /// The major version of its LLVM.
    pub llvm: u32,
}

impl Version {
    /// Asks the compiler at `rustc`.
    pub fn of(rustc: &Path) -> Option<Self> {
        Self::parse(&step::ask(Command::new(rustc).arg("-vV"))?)
    }

    /// Reads the answer.
    fn parse(text: &str) -> Option<Self> {
        let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        let mut release = field("release")?.split('.').map(|part| part.parse::<u32>().ok());
        Some(Self {
            line: text.lines().next()?.to_owned(),
            release: (release.next()??, release.next()??),
            llvm: field("LLVM version")?.split('.').next()?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIGHTLY: &str = "\
rustc 1.97.0-nightly (e50aa6fba 2026-05-19)
binary: rustc
commit-hash: e50aa6fba4e63ab34c72bf9acfd2c307c1155d1a
commit-date: 2026-05-19
host: x86_64-unknown-linux-gnu
release: 1.97.0-nightly
LLVM version: 22.1.4
";

    #[test]
    fn reads_a_nightly() {
        assert_eq!(
            Version::parse(NIGHTLY),
            Some(Version {
                line: "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)".to_owned(),
                release: (1, 97),
                llvm: 22,
            })
        );
    }

    #[test]
    fn reads_the_compiler_of_a_distribution() {
        let debian = NIGHTLY
            .replace("(e50aa6fba 2026-05-19)", "(ac68faa20 2026-05-25) (built from a source tarball)")
            .replace("1.97.0-nightly", "1.96.0")
            .replace("22.1.4", "22");
        let version = Version::parse(&debian).expect("a complete answer");
        assert_eq!((version.release, version.llvm), ((1, 96), 22));
        assert!(version.line.ends_with("(built from a source tarball)"));
    }

    #[test]
    fn an_answer_without_llvm_is_none() {
        assert_eq!(Version::parse(&NIGHTLY.replace("LLVM", "Cranelift")), None);
        assert_eq!(Version::parse(""), None);
    }
}
