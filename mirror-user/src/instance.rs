//! An instance: one set of state, pins and helper devices. Everything that is named after it is named here.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use mirror_common::LAYOUT_VERSION;
use nix::fcntl::{Flock, FlockArg};

use crate::cli::Global;
use crate::error::{Error, Kind, Result};
use crate::host::BPFFS;
use crate::model::InterfaceName;

/// Longest name of an instance.
const NAME_MAX: usize = 32;
/// How many bytes of an interface name are left for the instance: 15, less the longest prefix of a helper device.
const SHORT_NAME_MAX: usize = 9;

/// An instance and where its things are.
#[derive(Clone, Debug)]
pub struct Instance {
    name: String,
    state_dir: PathBuf,
}

impl Instance {
    /// The instance that the command line names.
    pub fn new(global: &Global) -> Result<Self> {
        let name = global.instance.as_str();
        // No dots: bpffs refuses them in names.
        let valid = (1..=NAME_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if !valid {
            return Err(Error::new(
                Kind::BadInput,
                format_args!("use instance {name:?}"),
                format_args!("the name of an instance has 1 to {NAME_MAX} letters, digits, - and _"),
            ));
        }
        Ok(Self { name: name.to_owned(), state_dir: global.state_dir.clone() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file with the state.
    pub fn state_file(&self) -> PathBuf {
        self.state_dir.join(&self.name).join("state.json")
    }

    /// Everything of ours in bpffs; shared by all instances.
    pub fn pins_root() -> PathBuf {
        Path::new(BPFFS).join("mirrorctl")
    }

    /// What this instance has in bpffs, of whatever version.
    pub fn pins(&self) -> PathBuf {
        Self::pins_root().join(&self.name)
    }

    /// What this instance and this version have in bpffs. Another version never takes it for its own.
    pub fn pins_of_this_version(&self) -> PathBuf {
        self.pins().join(format!("v{LAYOUT_VERSION}"))
    }

    /// The sending end of the tap: source hooks clone to it.
    pub fn tap_device(&self) -> String {
        format!("mctap-{}", self.short_name())
    }

    /// The receiving end of the tap: copies are made there.
    pub fn encapsulation_device(&self) -> String {
        format!("mcenc-{}", self.short_name())
    }

    /// The raw device: where clones from sources without Ethernet header get one.
    pub fn raw_device(&self) -> String {
        format!("mcraw-{}", self.short_name())
    }

    /// Whether `interface` is a helper device of this or any other instance.
    pub fn is_helper_device(interface: &InterfaceName) -> bool {
        ["mctap-", "mcenc-", "mcraw-"].iter().any(|prefix| interface.as_str().starts_with(prefix))
    }

    /// The handle of this instance's filters in a clsact qdisc: lets two instances use one interface.
    pub fn filter_handle(&self) -> u32 {
        // 0 would let the kernel choose.
        fnv1a(self.name.as_bytes()) | 1
    }

    /// The handle of `trace`'s filters in a clsact qdisc, where there is no TCX.
    pub fn trace_filter_handle(&self) -> u32 {
        fnv1a(format!("trace {}", self.name).as_bytes()) | 1
    }

    /// The name where it fits an interface name, else a hash of it.
    fn short_name(&self) -> String {
        if self.name.len() <= SHORT_NAME_MAX {
            self.name.clone()
        } else {
            format!("{:08x}", fnv1a(self.name.as_bytes()))
        }
    }

    /// Keeps every other `mirrorctl` with this state directory waiting until the lock is dropped.
    pub fn lock(&self) -> Result<Lock> {
        let what = format!("lock {}", self.state_dir.display());
        let failed = |error: &std::io::Error| match error.kind() {
            ErrorKind::PermissionDenied => {
                Error::new(Kind::NotPermitted, &what, error).hint("run it with sudo, as root")
            }
            _ => Error::new(Kind::Failed, &what, error),
        };
        DirBuilder::new().recursive(true).mode(0o755).create(&self.state_dir).map_err(|error| failed(&error))?;
        // The directory itself: a lock file would have to be removed at the end, under the feet of who waits for it.
        let directory = File::open(&self.state_dir).map_err(|error| failed(&error))?;
        Flock::lock(directory, FlockArg::LockExclusive).map(Lock).map_err(|(_, error)| failed(&error.into()))
    }
}

/// The right to change an instance.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not used")] Flock<File>);

/// The running kernel's boot: kernel state of another boot is gone.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path).map_err(|error| Error::failed(format_args!("read {path}"), &error))?;
    Ok(text.trim().to_owned())
}

/// The network namespace of this process: the inode number of its file.
pub fn network_namespace() -> Result<u64> {
    let path = "/proc/self/ns/net";
    let metadata = fs::metadata(path).map_err(|error| Error::failed(format_args!("read {path}"), &error))?;
    Ok(metadata.ino())
}

/// Whether some process or mount still holds the network namespace with this inode number.
pub fn network_namespace_is_alive(inode: u64) -> bool {
    let link = format!("net:[{inode}]");
    let mounted = fs::read_to_string("/proc/self/mountinfo")
        .is_ok_and(|mounts| mounts.lines().any(|mount| mount.split(' ').any(|field| field == link)));
    let mut processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    mounted
        || processes.any(|entry| {
            fs::read_link(entry.path().join("ns/net")).is_ok_and(|namespace| namespace == Path::new(&link))
        })
}

/// The FNV-1a hash: stable across versions and machines, as names of devices must be.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(name: &str) -> Result<Instance> {
        Instance::new(&Global { json: false, instance: name.into(), state_dir: "/nowhere".into() })
    }

    #[test]
    fn device_names_fit_and_differ() {
        for name in ["default", "a", "123456789", "1234567890", "a-very-long-name-of-an-instance1"] {
            let instance = instance(name).expect(name);
            for device in [instance.tap_device(), instance.encapsulation_device(), instance.raw_device()] {
                let device: InterfaceName = device.parse().expect("a valid interface name");
                assert!(Instance::is_helper_device(&device));
            }
        }
        assert_eq!(instance("default").expect("valid").tap_device(), "mctap-default");
    }

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        for name in ["", ".", "..", "a/b", "a.b", "a b", "a-very-long-name-of-an-instance-1"] {
            assert_eq!(instance(name).expect_err(name).kind(), Kind::BadInput);
        }
    }

    #[test]
    fn the_hash_is_fnv1a() {
        // Test vectors of draft-eastlake-fnv.
        assert_eq!(fnv1a(b""), 0x811c_9dc5);
        assert_eq!(fnv1a(b"a"), 0xe40c_292c);
        assert_eq!(fnv1a(b"foobar"), 0xbf9c_f968);
    }
}
