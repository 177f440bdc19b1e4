//! Programs that come from the distribution, and why each is needed.

use anyhow::Result;

use super::{
    Stage,
    distro::{Apt, Distro, Family},
};
use crate::privilege;

/// One program and the package that brings it.
struct Tool {
    /// Searched in `PATH` and among the system's programs.
    program: &'static str,
    /// From which stage on it is needed.
    stage: Stage,
    /// What happens with it.
    why: &'static str,
    debian: &'static [&'static str],
    fedora: &'static str,
    arch: &'static str,
    suse: &'static str,
    alpine: &'static str,
}

#[rustfmt::skip]
const TOOLS: [Tool; 10] = [
    // gcc only recommends the C library's own files, without which nothing links.
    Tool { program: "cc", stage: Stage::Build, why: "rustc links with the C compiler",
           debian: &["gcc", "libc6-dev"], fedora: "gcc", arch: "gcc", suse: "gcc", alpine: "build-base" },
    Tool { program: "ip", stage: Stage::Lab, why: "the lab is made of namespaces and veth pairs",
           debian: &["iproute2"], fedora: "iproute", arch: "iproute2", suse: "iproute2", alpine: "iproute2" },
    Tool { program: "tc", stage: Stage::Lab, why: "tests look at the hooks of an interface with it",
           debian: &["iproute2"], fedora: "iproute-tc", arch: "iproute2", suse: "iproute2", alpine: "iproute2-tc" },
    Tool { program: "ethtool", stage: Stage::Lab, why: "tests switch offloads off where they compare bytes",
           debian: &["ethtool"], fedora: "ethtool", arch: "ethtool", suse: "ethtool", alpine: "ethtool" },
    Tool { program: "tcpdump", stage: Stage::Lab, why: "a second opinion on what is on a wire",
           debian: &["tcpdump"], fedora: "tcpdump", arch: "tcpdump", suse: "tcpdump", alpine: "tcpdump" },
    Tool { program: "tshark", stage: Stage::Lab, why: "another hand's decoder reads the copies in tests",
           debian: &["tshark"], fedora: "wireshark-cli", arch: "wireshark-cli", suse: "wireshark", alpine: "tshark" },
    Tool { program: "sysctl", stage: Stage::Lab, why: "the lab sets forwarding and address options",
           debian: &["procps"], fedora: "procps-ng", arch: "procps-ng", suse: "procps", alpine: "procps-ng" },
    Tool { program: "nft", stage: Stage::Bench, why: "benchmarks compare with its rules",
           debian: &["nftables"], fedora: "nftables", arch: "nftables", suse: "nftables", alpine: "nftables" },
    Tool { program: "qemu-system-x86_64", stage: Stage::Vm, why: "another kernel needs another machine",
           debian: &["qemu-system-x86"], fedora: "qemu-system-x86-core", arch: "qemu-system-x86", suse: "qemu-x86", alpine: "qemu-system-x86_64" },
    Tool { program: "strip", stage: Stage::Vm, why: "a machine in memory has no room for debug information",
           debian: &["binutils"], fedora: "binutils", arch: "binutils", suse: "binutils", alpine: "binutils" },
];

impl Tool {
    /// The packages that bring this program; Debian's names where the distribution is not known.
    fn packages(&self, family: Family) -> Vec<&'static str> {
        match family {
            Family::Debian | Family::Other => self.debian.to_vec(),
            Family::Fedora => vec![self.fedora],
            Family::Arch => vec![self.arch],
            Family::Suse => vec![self.suse],
            Family::Alpine => vec![self.alpine],
        }
    }
}

/// The tools of `stage` that `present` doesn't find.
fn missing(stage: Stage, present: impl Fn(&str) -> bool) -> Vec<&'static Tool> {
    TOOLS.iter().filter(|tool| tool.stage <= stage && !present(tool.program)).collect()
}

/// Their packages, each once, and the reasons.
fn shopping_list(tools: &[&Tool], family: Family) -> (Vec<&'static str>, String) {
    let mut packages: Vec<&str> = tools.iter().flat_map(|tool| tool.packages(family)).collect();
    packages.sort_unstable();
    packages.dedup();
    let why: Vec<String> = tools.iter().map(|tool| format!("{}: {}", tool.program, tool.why)).collect();
    (packages, why.join("; "))
}

/// True when every tool of `stage` is there.
pub fn complete(stage: Stage) -> bool {
    missing(stage, |program| privilege::find(program).is_some()).is_empty()
}

/// Installs the tools of `stage` that are missing.
pub fn install(stage: Stage) -> Result<()> {
    let missing = missing(stage, |program| privilege::find(program).is_some());
    if missing.is_empty() {
        return Ok(());
    }
    let distro = Distro::here();
    let (packages, why) = shopping_list(&missing, distro.family);
    Apt::get(&distro, &packages)?.install(&packages, &why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_needs_a_compiler_and_nothing_else() {
        let tools = missing(Stage::Build, |_| false);
        assert_eq!(shopping_list(&tools, Family::Debian).0, ["gcc", "libc6-dev"]);
    }

    #[test]
    fn a_package_is_named_once_and_every_program_has_its_reason() {
        let tools = missing(Stage::Lab, |program| program == "cc");
        let (packages, why) = shopping_list(&tools, Family::Debian);
        assert_eq!(packages, ["ethtool", "iproute2", "procps", "tcpdump", "tshark"]);
        assert!(why.contains("ip: the lab") && why.contains("tc: tests"), "{why}");
    }

    #[test]
    fn other_distributions_have_their_own_names() {
        let tools = missing(Stage::Lab, |program| program != "tc");
        assert_eq!(shopping_list(&tools, Family::Fedora).0, ["iproute-tc"]);
        assert_eq!(shopping_list(&tools, Family::Alpine).0, ["iproute2-tc"]);
        assert_eq!(shopping_list(&tools, Family::Other).0, ["iproute2"]);
    }

    #[test]
    fn tshark_is_called_after_wireshark_in_some_places() {
        let tools = missing(Stage::Lab, |program| program != "tshark");
        for (family, package) in
            [(Family::Debian, "tshark"), (Family::Fedora, "wireshark-cli"), (Family::Suse, "wireshark")]
        {
            assert_eq!(shopping_list(&tools, family).0, [package]);
        }
        assert!(missing(Stage::Build, |program| program != "tshark").is_empty(), "a build needs none");
    }

    #[test]
    fn nothing_is_missing_where_all_is_present() {
        assert!(missing(Stage::Lab, |_| true).is_empty());
    }
}
