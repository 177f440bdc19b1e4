//! What this host offers: kernel version and features, capabilities, bpffs.
//!
//! The `require_*` functions are for commands about to change something: they say nothing or fail with the words of
//! the product, and change nothing. The `has_*` functions ask the kernel itself where it can be asked; what they can't
//! find out (most need root) is an error, never a guess.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

use aya::programs::{ProgramError, ProgramType, SchedClassifier, TcAttachType};
use aya::sys::{BpfHelper, is_helper_supported};
use nix::errno::Errno;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::sys::statvfs::FsFlags;
use nix::sys::utsname::uname;
use rtnetlink::LinkVeth;

use crate::error::{Error, Kind, Result};

/// The first version of Linux that has everything `mirrorctl` can't do without.
pub const OLDEST_KERNEL: KernelVersion = KernelVersion::new(6, 1);
/// The first version of Linux with TCX; older ones get the clsact qdisc.
pub const TCX_KERNEL: KernelVersion = KernelVersion::new(6, 6);
/// The first version of Linux whose `bpf_fib_lookup` tells the source address (`BPF_FIB_LOOKUP_SRC`).
pub const FIB_SOURCE_KERNEL: KernelVersion = KernelVersion::new(6, 7);

/// Where pins live: programs, maps and links that outlive the process.
pub const BPFFS: &str = "/sys/fs/bpf";
/// The kernel's own type information.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// The helpers of the kernel programs that a kernel could lack.
pub const HELPERS: [(&str, BpfHelper); 4] = [
    ("bpf_redirect_neigh", BpfHelper::BPF_FUNC_redirect_neigh),
    ("bpf_fib_lookup", BpfHelper::BPF_FUNC_fib_lookup),
    ("bpf_clone_redirect", BpfHelper::BPF_FUNC_clone_redirect),
    ("bpf_skb_change_head", BpfHelper::BPF_FUNC_skb_change_head),
];

/// A version of Linux, as far as features go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// The 6 of 6.1.
    pub major: u16,
    /// The 1 of 6.1.
    pub minor: u16,
}

impl KernelVersion {
    /// `major.minor`.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// The version of the kernel that runs here.
    pub fn running() -> Result<Self> {
        const WHAT: &str = "read kernel version";
        let release = kernel_release()?;
        release.parse().map_err(|error: InvalidRelease| Error::failed(WHAT, &error))
    }
}

/// The text does not start like a kernel version.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a kernel version")]
pub struct InvalidRelease(String);

impl FromStr for KernelVersion {
    type Err = InvalidRelease;

    /// From `uname -r`: whatever a distribution puts behind the second number is not looked at.
    fn from_str(release: &str) -> std::result::Result<Self, InvalidRelease> {
        let number = |text: &str| -> Option<u16> {
            let digits = text.find(|c: char| !c.is_ascii_digit()).map_or(text, |end| &text[..end]);
            digits.parse().ok()
        };
        release
            .split_once('.')
            .filter(|(major, _)| major.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|(major, rest)| Some(Self::new(number(major)?, number(rest)?)))
            .ok_or_else(|| InvalidRelease(release.to_owned()))
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What `uname -r` prints.
pub fn kernel_release() -> Result<String> {
    let names = uname().map_err(|error| Error::failed("read kernel version", &error))?;
    Ok(names.release().to_string_lossy().into_owned())
}

/// Fails on a kernel older than [`OLDEST_KERNEL`]; `what` is the command ("attach eth0").
pub fn require_kernel(what: &str) -> Result<KernelVersion> {
    let running = KernelVersion::running()?;
    if running >= OLDEST_KERNEL {
        return Ok(running);
    }
    Err(Error::new(
        Kind::BadInput,
        what,
        format_args!("this kernel is Linux {running}; Linux {OLDEST_KERNEL} is the first that has what is needed"),
    )
    .hint(format_args!("boot a kernel of Linux {OLDEST_KERNEL} or newer")))
}

/// What a process that loads and attaches the kernel programs must be allowed to do.
///
/// CAP_SYS_ADMIN stands in for CAP_BPF and CAP_PERFMON (capabilities(7): they were split from it in Linux 5.8), never
/// for CAP_NET_ADMIN.
const NEEDED: [(Capability, &str, bool); 3] = [
    (Capability(12), "CAP_NET_ADMIN", false),
    (Capability(39), "CAP_BPF", true),
    // Without it the verifier refuses what it can't prove free of speculative leaks.
    (Capability(38), "CAP_PERFMON", true),
];
const CAP_SYS_ADMIN: Capability = Capability(21);

/// A bit of a capability set (include/uapi/linux/capability.h).
#[derive(Clone, Copy)]
struct Capability(u32);

impl Capability {
    const fn is_in(self, set: u64) -> bool {
        set & 1 << self.0 != 0
    }
}

/// The capabilities that are needed and not effective here, by name.
pub fn missing_capabilities() -> Result<Vec<&'static str>> {
    let path = "/proc/self/status";
    let status = fs::read_to_string(path)
        .map_err(|error| Error::failed(format_args!("read capabilities from {path}"), &error))?;
    effective_capabilities(&status).map(missing_from).ok_or_else(|| {
        Error::new(Kind::Failed, format_args!("read capabilities from {path}"), "there is no line CapEff in it")
    })
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing_from(set: u64) -> Vec<&'static str> {
    NEEDED
        .into_iter()
        .filter(|(capability, _, in_sys_admin)| !(capability.is_in(set) || *in_sys_admin && CAP_SYS_ADMIN.is_in(set)))
        .map(|(_, name, _)| name)
        .collect()
}

/// Whether the user namespace is the host's. In any other one the kernel refuses BPF whatever the capabilities say.
pub fn in_host_user_namespace() -> bool {
    // The inode number of the first user namespace is fixed (PROC_USER_INIT_INO, include/linux/proc_ns.h). A kernel
    // without user namespaces has no such file.
    fs::read_link("/proc/self/ns/user").map_or(true, |link| link == Path::new("user:[4026531837]"))
}

/// Fails without the capabilities that loading and attaching need; `what` is the command ("attach eth0").
pub fn require_root(what: &str) -> Result<()> {
    let missing = missing_capabilities()?;
    if !missing.is_empty() {
        return Err(Error::new(Kind::NotPermitted, what, format_args!("this needs {}", missing.join(", ")))
            .hint("run it with sudo, as root"));
    }
    if !in_host_user_namespace() {
        return Err(Error::new(
            Kind::NotPermitted,
            what,
            "this user namespace is not the host's, and only that may use BPF",
        )
        .hint("run it as root of the host, or in a container without a user namespace of its own"));
    }
    Ok(())
}

/// Fails where [`BPFFS`] is no bpffs, or one that can't be written; `what` is the command ("attach eth0").
pub fn require_bpffs(what: &str) -> Result<()> {
    let found = match statfs(BPFFS) {
        Ok(found) => found,
        Err(Errno::ENOENT) => return Err(no_bpffs(what)),
        Err(error) => return Err(Error::failed(format_args!("{what}: look at {BPFFS}"), &error)),
    };
    if found.filesystem_type() != BPF_FS_MAGIC {
        return Err(no_bpffs(what));
    }
    if found.flags().contains(FsFlags::ST_RDONLY) {
        return Err(Error::new(Kind::Failed, what, format_args!("the bpffs at {BPFFS} is mounted read-only"))
            .hint(format_args!("mount -o remount,rw {BPFFS}")));
    }
    Ok(())
}

fn no_bpffs(what: &str) -> Error {
    let error = Error::new(Kind::Failed, what, format_args!("no bpffs is mounted at {BPFFS}"));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match netns_of_sysfs(&mounts) {
        // A bpffs that is mounted in there is gone, with every pin in it, when the command ends.
        Some(name) => error.hint(format_args!(
            "'ip netns exec' hides the host's: use 'nsenter --net=/run/netns/{name} mirrorctl …' in its place"
        )),
        None => error.hint(format_args!("mount -t bpf bpf {BPFFS}")),
    }
}

/// The network namespace that `ip netns exec` entered: it mounts a fresh /sys, in a mount namespace of its own, and
/// names its source after the namespace (iproute2, lib/namespace.c).
fn netns_of_sysfs(mountinfo: &str) -> Option<&str> {
    let source = mountinfo.lines().rev().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let place = mount.split(' ').nth(4)?;
        let (kind, rest) = filesystem.split_once(' ')?;
        (place == "/sys" && kind == "sysfs").then(|| rest.split(' ').next().unwrap_or_default())
    })?;
    (source != "sysfs" && source != "none").then_some(source)
}

/// Whether the kernel attaches programs with TCX (Linux 6.6, and the option CONFIG_NET_XGRESS): asked by listing what
/// is attached to `lo`, an operation that a kernel without TCX doesn't know.
pub fn has_tcx() -> Result<bool> {
    const WHAT: &str = "ask the kernel for TCX";
    let error = match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => return Ok(true),
        Err(error) => error,
    };
    match errno(&error) {
        // BPF_PROG_QUERY of an attach type that it doesn't know.
        Some(Errno::EINVAL) => Ok(false),
        // Linux 6.6.0: known, and nothing is attached.
        Some(Errno::ENOENT) => Ok(true),
        Some(Errno::EPERM | Errno::EACCES) => Err(not_permitted(WHAT)),
        _ => Err(Error::failed(WHAT, &error)),
    }
}

/// Whether TC programs may call `helper`: asked by loading a program that does.
pub fn has_helper(helper: BpfHelper) -> Result<bool> {
    const WHAT: &str = "ask the kernel for BPF helpers";
    is_helper_supported(ProgramType::SchedClassifier, helper).map_err(|error| match errno(&error) {
        Some(Errno::EPERM | Errno::EACCES) => not_permitted(WHAT),
        _ => Error::failed(WHAT, &error),
    })
}

/// Whether `bpf_fib_lookup` tells the source address of a route.
///
/// It can't be asked without running a program: known from the version (Linux 6.7) or, for older kernels with the
/// change ported back, from the name of the flag in the kernel's type information.
pub fn has_fib_source() -> Result<bool> {
    if KernelVersion::running()? >= FIB_SOURCE_KERNEL {
        return Ok(true);
    }
    match fs::read(KERNEL_BTF) {
        Ok(types) => Ok(contains(&types, b"\0BPF_FIB_LOOKUP_SRC\0")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::failed(format_args!("read {KERNEL_BTF}"), &error)),
    }
}

/// The reverse path filter that every IPv4 device of the network namespace has at least (`net.ipv4.conf.all.rp_filter`).
pub fn reverse_path_filter() -> Result<u8> {
    let path = "/proc/sys/net/ipv4/conf/all/rp_filter";
    let failed = |error: &dyn std::fmt::Display| Error::new(Kind::Failed, format_args!("read {path}"), error);
    let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
    text.trim().parse().map_err(|error| failed(&error))
}

/// Whether the network namespace chooses among several next hops by a hash of the ports
/// (`fib_multipath_hash_policy` other than 0: layer 3), so that one copy's way says nothing of the next one's.
pub fn routes_by_port(target: IpAddr) -> Result<bool> {
    let family = if target.is_ipv4() { "ipv4" } else { "ipv6" };
    let path = format!("/proc/sys/net/{family}/fib_multipath_hash_policy");
    match fs::read_to_string(&path) {
        Ok(policy) => Ok(policy.trim() != "0"),
        // A kernel without multipath routes.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::failed(format_args!("read {path}"), &error)),
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Whether the kernel makes veth pairs, loading the module if need be: asked for one that it has to refuse, so that
/// nothing is made.
pub fn has_veth() -> Result<bool> {
    const WHAT: &str = "ask the kernel for veth";
    // All zeros is no address of a device: veth says EADDRNOTAVAIL (drivers/net/veth.c, `veth_validate`), and a kernel
    // without veth EOPNOTSUPP.
    let refused = LinkVeth::new("mirror-probe", "mirror-probe0").address(vec![0; 6]).build();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|error| Error::failed(WHAT, &error))?;
    let answer = runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| Error::failed(WHAT, &error))?;
        tokio::spawn(connection);
        Ok(handle.link().add(refused).execute().await)
    })?;
    match answer {
        Err(rtnetlink::Error::NetlinkError(message)) => match Errno::from_raw(message.raw_code().abs()) {
            Errno::EADDRNOTAVAIL => Ok(true),
            Errno::EOPNOTSUPP => Ok(false),
            Errno::EPERM => Err(not_permitted(WHAT)),
            errno => Err(Error::failed(WHAT, &errno)),
        },
        Err(error) => Err(Error::failed(WHAT, &error)),
        Ok(()) => {
            Err(Error::new(Kind::Failed, WHAT, "it made one with a broken address").hint("ip link delete mirror-probe"))
        }
    }
}

/// Whether the kernel publishes its type information.
pub fn has_btf() -> bool {
    Path::new(KERNEL_BTF).exists()
}

/// Whether the kernel compiles BPF programs to machine code; `None` where that can't be seen: the setting belongs to
/// the host's network namespace only.
pub fn has_jit() -> Option<bool> {
    let setting = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok()?;
    Some(setting.trim() != "0")
}

fn errno(error: &ProgramError) -> Option<Errno> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error().map(Errno::from_raw),
        _ => None,
    }
}

fn not_permitted(what: &str) -> Error {
    Error::new(Kind::NotPermitted, what, "the kernel tells only root").hint("run it with sudo, as root")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_of_any_distribution_is_read() {
        for (release, version) in [
            ("6.1.0-18-cloud-amd64", (6, 1)),
            ("6.18.44", (6, 18)),
            ("5.15.0-1053-aws", (5, 15)),
            ("6.12-rc3", (6, 12)),
            ("6.8.0-31-generic", (6, 8)),
            ("4.18.0-553.el8_10.x86_64", (4, 18)),
            ("10.0", (10, 0)),
        ] {
            assert_eq!(release.parse(), Ok(KernelVersion::new(version.0, version.1)), "{release}");
        }
        for release in ["", "6", "6.", ".1", "six.one", "v6.1", "6 .1", "65536.1", "-6.1"] {
            release.parse::<KernelVersion>().expect_err(release);
        }
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(KernelVersion::new(6, 10) > TCX_KERNEL);
        assert!(KernelVersion::new(5, 19) < OLDEST_KERNEL);
        assert_eq!(KernelVersion::new(6, 1), OLDEST_KERNEL);
        assert_eq!(KernelVersion::running().map(|version| version.major >= 4).ok(), Some(true));
    }

    #[test]
    fn a_sysfs_of_ip_netns_exec_is_known_by_its_source() {
        let host = "23 27 0:22 / /sys rw,relatime - sysfs sysfs rw\n42 23 0:39 / /sys/fs/bpf rw - bpf bpf rw\n";
        assert_eq!(netns_of_sysfs(host), None);
        assert_eq!(
            netns_of_sysfs(&format!("{host}54 50 0:41 / /sys rw,relatime shared:1 - sysfs blue rw\n")),
            Some("blue")
        );
        assert_eq!(netns_of_sysfs(""), None);
    }

    #[test]
    fn capabilities_are_read_and_sys_admin_stands_in_for_bpf() {
        let set = |hex: &str| effective_capabilities(&format!("Name:\tx\nCapPrm:\t0\nCapEff:\t{hex}\nCapBnd:\tff\n"));
        assert_eq!(set("000001ffffffffff").map(missing_from), Some(vec![]));
        assert_eq!(set("0000000000000000").map(missing_from), Some(vec!["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"]));
        assert_eq!(set("0000000000001000").map(missing_from), Some(vec!["CAP_BPF", "CAP_PERFMON"]));
        assert_eq!(set("0000000000200000").map(missing_from), Some(vec!["CAP_NET_ADMIN"]));
        assert_eq!(set("0000000000201000").map(missing_from), Some(vec![]));
        assert_eq!(set("000000c000001000").map(missing_from), Some(vec![]));
        assert_eq!(set("0000008000001000").map(missing_from), Some(vec!["CAP_PERFMON"]));
        assert_eq!(set("zz"), None);
        assert_eq!(effective_capabilities(""), None);
    }
}
