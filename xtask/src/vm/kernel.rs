//! The kernel of the machine, and the modules that it may ask for.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{image::Image, package::Unpacked};
use crate::{failure::Failure, setup::Distro, step};

/// Debian's package that depends on the current kernel for virtual machines: the smallest one.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// What tests make the kernel load, as paths below its folder of modules start. What these depend on comes along.
const MODULES: [&str; 14] = [
    "kernel/net/8021q/",
    "kernel/net/bridge/bridge.ko",
    "kernel/net/ipv4/",
    "kernel/net/ipv6/",
    "kernel/net/netfilter/",
    "kernel/net/sched/",
    "kernel/drivers/net/dummy.ko",
    "kernel/drivers/net/ifb.ko",
    "kernel/drivers/net/macvlan.ko",
    "kernel/drivers/net/tun.ko",
    "kernel/drivers/net/veth.ko",
    "kernel/drivers/net/vrf.ko",
    "kernel/drivers/net/vxlan/",
    "kernel/drivers/net/wireguard/",
];

/// The files beside the modules that modprobe reads.
const INDEXES: [&str; 6] = [
    "modules.dep",
    "modules.alias",
    "modules.symbols",
    "modules.builtin",
    "modules.builtin.modinfo",
    "modules.softdep",
];

/// A kernel to boot.
pub struct Kernel {
    /// As `uname -r` prints it.
    pub release: String,
    /// The compressed kernel.
    pub image: PathBuf,
    modules: PathBuf,
}

/// The name of the package of Debian's kernel for virtual machines.
pub fn debians() -> Result<String> {
    let answer = step::ask(Command::new("apt-cache").args(["depends", META_PACKAGE])).unwrap_or_default();
    let package = answer.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    package.map(|rest| format!("linux-image-{rest}")).ok_or_else(|| {
        Failure::new(format!("find a kernel: {} has no package {META_PACKAGE}", Distro::here().name))
            .hint("if this is Debian, `apt-get update` may help; else give a kernel's package of Debian: --kernel FILE.deb")
            .into()
    })
}

impl Kernel {
    /// The kernel in a package.
    pub fn of(package: &Unpacked, busybox: &Path) -> Result<Self> {
        let modules_of_all = package.find(&["lib/modules", "usr/lib/modules"])?;
        let release = fs::read_dir(&modules_of_all)
            .with_context(|| format!("list {}", modules_of_all.display()))?
            .flatten()
            .next()
            .with_context(|| format!("find a kernel's modules in {}", modules_of_all.display()))?
            .file_name()
            .to_string_lossy()
            .into_owned();
        let image = package.find(&[&format!("boot/vmlinuz-{release}")])?;
        let modules = modules_of_all.join(&release);
        if !modules.join("modules.dep").is_file() {
            // What the package's own script would do where it is installed. The base is the folder `lib` is in.
            let base = modules_of_all.ancestors().nth(2).unwrap_or(&package.root);
            step::run(
                "index the kernel's modules",
                "modprobe finds them by it",
                Command::new(busybox).args(["depmod", "-b"]).arg(base).arg(&release),
            )?;
        }
        Ok(Self { release, image, modules })
    }

    /// Puts the modules where modprobe looks for them.
    pub fn add_modules(&self, image: &mut Image) -> Result<()> {
        let path = self.modules.join("modules.dep");
        let dependencies = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let inside = format!("lib/modules/{}", self.release);
        for module in with_dependencies(&dependencies, &MODULES) {
            image.add_file(&format!("{inside}/{module}"), &self.modules.join(module));
        }
        for index in INDEXES.into_iter().filter(|index| self.modules.join(index).is_file()) {
            image.add_file(&format!("{inside}/{index}"), &self.modules.join(index));
        }
        Ok(())
    }
}

/// The modules that start with one of `wanted`, and all that these need, by `modules.dep` (modules.dep(5): a line is a
/// module, a colon, and everything that it depends on, however far).
fn with_dependencies<'a>(dependencies: &'a str, wanted: &[&str]) -> BTreeSet<&'a str> {
    dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(module, _)| wanted.iter().any(|start| module.starts_with(start)))
        .flat_map(|(module, needed)| std::iter::once(module).chain(needed.split_whitespace()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_with_what_they_need() {
        let dependencies = "kernel/net/sched/act_ct.ko: kernel/net/nf_nat.ko kernel/net/nf_conntrack.ko\n\
                            kernel/net/nf_nat.ko: kernel/net/nf_conntrack.ko\n\
                            kernel/net/nf_conntrack.ko:\n\
                            kernel/fs/xfs.ko: kernel/lib/libcrc32c.ko\n";
        let modules = with_dependencies(dependencies, &["kernel/net/sched/"]);
        assert_eq!(
            modules.into_iter().collect::<Vec<_>>(),
            ["kernel/net/nf_conntrack.ko", "kernel/net/nf_nat.ko", "kernel/net/sched/act_ct.ko"]
        );
    }
}
