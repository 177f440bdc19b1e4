//! Which distribution this is, and how packages come onto it.

use std::{fs, io::IsTerminal as _, process::Command, sync::OnceLock};

use anyhow::{Context as _, Result};

use crate::{failure::Failure, privilege, step};

/// Distributions that share a package manager and package names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Debian, Ubuntu and what descends from them: the only one on which the set-up installs by itself.
    Debian,
    /// Fedora, RHEL and what descends from them.
    Fedora,
    /// Arch Linux and what descends from it.
    Arch,
    /// openSUSE and SLES.
    Suse,
    /// Alpine Linux.
    Alpine,
    /// Anything else.
    Other,
}

/// The distribution's name for itself, and its family.
#[derive(Debug, PartialEq, Eq)]
pub struct Distro {
    /// As a person calls it.
    pub name: String,
    /// Which package manager it has.
    pub family: Family,
}

impl Distro {
    /// Reads /etc/os-release, which every distribution with systemd and most others have (os-release(5)).
    pub fn here() -> Self {
        Self::parse(&fs::read_to_string("/etc/os-release").unwrap_or_default())
    }

    fn parse(os_release: &str) -> Self {
        let field = |key: &str| {
            os_release
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .map(|value| value.trim_matches(['"', '\'']))
        };
        let mut ids = field("ID").into_iter().chain(field("ID_LIKE").unwrap_or_default().split_whitespace());
        let family = ids
            .find_map(|id| match id {
                "debian" | "ubuntu" => Some(Family::Debian),
                "fedora" | "rhel" | "centos" => Some(Family::Fedora),
                "arch" => Some(Family::Arch),
                "suse" | "opensuse" | "sles" => Some(Family::Suse),
                "alpine" => Some(Family::Alpine),
                _ => None,
            })
            .unwrap_or(Family::Other);
        let name = field("PRETTY_NAME").or_else(|| field("ID")).unwrap_or("this distribution").to_owned();
        Self { name, family }
    }
}

impl Family {
    /// The command that installs `packages`, as a person would type it.
    pub fn install_command(self, packages: &[&str]) -> String {
        let packages = packages.join(" ");
        match self {
            Self::Debian => {
                format!("sudo apt-get update && sudo apt-get install --no-install-recommends {packages}")
            }
            Self::Fedora => format!("sudo dnf install {packages}"),
            Self::Arch => format!("sudo pacman -S --needed {packages}"),
            Self::Suse => format!("sudo zypper install {packages}"),
            Self::Alpine => format!("sudo apk add {packages}"),
            Self::Other => format!("install with this distribution's package manager: {packages}"),
        }
    }
}

/// A command that is run as root: through sudo when this process is not.
fn as_root(program: &str) -> Command {
    if privilege::is_root() {
        Command::new(program)
    } else {
        let mut command = Command::new("sudo");
        // sudo drops the environment, so that the one variable apt needs goes on the command line.
        command.args(["env", "DEBIAN_FRONTEND=noninteractive", program]);
        command
    }
}

/// The package manager of Debian and Ubuntu.
#[derive(Debug)]
pub struct Apt(());

/// Package lists are fetched once in a process.
static UPDATED: OnceLock<()> = OnceLock::new();

impl Apt {
    /// Makes sure that this process may install `packages` here; else the error says what to type.
    pub fn get(distro: &Distro, packages: &[&str]) -> Result<Self> {
        let wanted = packages.join(" ");
        let command = distro.family.install_command(packages);
        if distro.family != Family::Debian {
            return Err(Failure::new(format!(
                "install {wanted}: the set-up installs packages on Debian and Ubuntu only, and this is {}",
                distro.name
            ))
            .hint(format!("{command}\n      then run the same `cargo xtask` again"))
            .into());
        }
        if !privilege::is_root() {
            if !privilege::has_sudo() {
                return Err(Failure::new(format!("install {wanted}: not root, and there is no sudo"))
                    .hint(format!("as root: {}", command.replace("sudo ", "")))
                    .into());
            }
            // Asks for the password while the terminal is still free for it.
            let mut sudo = Command::new("sudo");
            if !std::io::stdin().is_terminal() {
                sudo.arg("-n");
            }
            let status = sudo.arg("-v").status().context("run sudo")?;
            if !status.success() {
                return Err(Failure::new(format!("install {wanted}: sudo refused")).hint(command).into());
            }
        }
        Ok(Self(()))
    }

    /// Fetches the package lists, once.
    pub fn update(&self) -> Result<()> {
        if UPDATED.get().is_none() {
            step::run(
                "fetch the package lists",
                "apt knows no packages, or old ones, without them",
                as_root("apt-get").args(["-q", "update"]),
            )?;
            UPDATED.get_or_init(|| ());
        }
        Ok(())
    }

    /// True when apt could install `package`.
    pub fn offers(&self, package: &str) -> Result<bool> {
        self.update()?;
        let answer = step::ask(Command::new("apt-cache").args(["policy", package])).unwrap_or_default();
        Ok(answer
            .lines()
            .any(|line| line.trim().strip_prefix("Candidate:").is_some_and(|candidate| candidate.trim() != "(none)")))
    }

    /// Installs `packages`; removes none.
    pub fn install(&self, packages: &[&str], why: &str) -> Result<()> {
        self.update()?;
        let what = format!("install {}", packages.join(" "));
        let install = || {
            let mut command = as_root("apt-get");
            // --no-remove: a package that conflicts with one of the user's is an error, not a loss.
            command.args(["-q", "-y", "--no-install-recommends", "--no-remove", "-o", "DPkg::Lock::Timeout=120"]);
            command.arg("install").args(packages).env("DEBIAN_FRONTEND", "noninteractive");
            command
        };
        let Err(first) = step::run(&what, why, &mut install()) else {
            return Ok(());
        };
        // What an installation that was killed half way leaves behind; where nothing is left this does nothing.
        let unfinished = step::ask(Command::new("dpkg").arg("--audit")).is_none_or(|text| !text.trim().is_empty());
        if !unfinished {
            return Err(first);
        }
        step::run(
            "finish what an interrupted installation left",
            "dpkg installs nothing until then",
            as_root("dpkg").args(["--configure", "-a"]),
        )?;
        step::run(&what, why, &mut install())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_found_by_id_and_by_what_it_is_like() {
        let table = [
            ("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n", Family::Debian),
            ("ID=ubuntu\nID_LIKE=debian\n", Family::Debian),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", Family::Debian),
            ("ID=fedora\n", Family::Fedora),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", Family::Fedora),
            ("ID=arch\n", Family::Arch),
            ("ID=\"opensuse-tumbleweed\"\nID_LIKE=\"opensuse suse\"\n", Family::Suse),
            ("ID=alpine\n", Family::Alpine),
            ("ID=nixos\n", Family::Other),
            ("", Family::Other),
        ];
        for (text, family) in table {
            assert_eq!(Distro::parse(text).family, family, "{text}");
        }
    }

    #[test]
    fn a_distribution_is_called_by_its_pretty_name() {
        assert_eq!(Distro::parse("ID=fedora\nPRETTY_NAME=\"Fedora Linux 43\"\n").name, "Fedora Linux 43");
        assert_eq!(Distro::parse("ID=void\n").name, "void");
        assert_eq!(Distro::parse("").name, "this distribution");
    }

    #[test]
    fn elsewhere_the_command_is_in_the_hint() {
        let fedora = Distro { name: "Fedora Linux 43".to_owned(), family: Family::Fedora };
        let err = Apt::get(&fedora, &["gcc", "iproute-tc"]).expect_err("no apt on Fedora");
        assert!(err.to_string().contains("Fedora Linux 43"), "{err}");
        assert_eq!(Family::Fedora.install_command(&["gcc", "iproute-tc"]), "sudo dnf install gcc iproute-tc");
    }
}
