//! What an instance has done to the kernel: one JSON file, replaced by rename. Written before the kernel is changed, so
//! that a crash leaves nothing that `detach` doesn't know of.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;

use mirror_common::LAYOUT_VERSION;
use mirror_common::counters::SessionCounters;
use mirror_common::policy::Direction;
use mirror_common::session::SessionSlot;
use serde::{Deserialize, Serialize};

use crate::definitions::id::{FilterId, SessionId};
use crate::definitions::text::Name;
use crate::error::{Error, Kind, Result};
use crate::instance::{self, Instance};
use crate::kernel::Generation;
use crate::model::{Endpoint, InterfaceName, PacketLength, SessionNumber, Vni};

/// The state of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The version of the pinned layouts.
    layout_version: u32,
    /// The boot that the kernel state belongs to.
    boot_id: String,
    /// The network namespace, by inode number, that the devices are in.
    pub network_namespace: u64,
    /// What is attached, or was about to be.
    pub sources: Vec<Source>,
    /// Sources that `detach` took off and that stay off until `attach`, whatever sessions they have. Survives a boot.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub detached: BTreeSet<InterfaceName>,
    /// Sessions that no policy names any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<Retired>,
    /// What was counted in the kernel by what has been replaced.
    #[serde(default)]
    pub carried: Carried,
}

/// A source and its sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The interface.
    pub interface: InterfaceName,
    /// Its index when it was attached: an interface of the same name that was made later is another one.
    pub ifindex: u32,
    /// How the programs are attached.
    pub hook: Hook,
    /// Whether copies may take the fast path.
    pub fast_path: bool,
    /// Whether attaching was finished, and detaching not begun: else it is what a crash left.
    pub attached: bool,
    /// The generation of policies that is attached.
    pub generation: Generation,
    /// Generations below this one are in [`State::carried`].
    pub carried_below: Generation,
    /// A fingerprint of the policies that are attached.
    pub fingerprint: u64,
    /// A change was begun: if this is what a crash left, nobody knows which generation is attached.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub changing: bool,
    /// The sessions, by number. During a change, those of both policies.
    pub sessions: Vec<Session>,
}

/// How programs are attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// TCX links, pinned (Linux 6.6).
    Tcx,
    /// Filters of the clsact qdisc.
    Tc,
}

impl Hook {
    /// The word for it everywhere.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Tc => "tc",
        }
    }
}

/// A session as the kernel has it. Nothing of it ever changes: a session that is changed gets a slot of its own, so that
/// a copy on its way is finished as it was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Its name.
    pub name: Name,
    /// Its number.
    pub session_number: SessionNumber,
    /// Its place in the kernel's maps.
    pub slot: SessionSlot,
    /// VXLAN network identifier.
    pub vni: Vni,
    /// Bytes of a packet that are copied; all when not set.
    pub packet_length: Option<PacketLength>,
    /// The name of its target.
    pub target_name: Name,
    /// Where copies go.
    pub target: Target,
    /// The id of its filter.
    pub filter: FilterId,
}

/// Where copies go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Target {
    /// To a collector.
    Address(Endpoint),
    /// Out of a device of this host.
    Interface {
        /// The interface.
        interface: InterfaceName,
        /// Its index; 0 if there was none.
        ifindex: u32,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(endpoint) => endpoint.fmt(f),
            Self::Interface { interface, .. } => interface.fmt(f),
        }
    }
}

/// A session that no policy names any more. The tap still knows it: copies may be on their way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// The session.
    pub session: Session,
    /// When, in milliseconds since the boot.
    pub since: u64,
}

/// Counters of what is no longer in the kernel, for what still exists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// By session.
    #[serde(default)]
    pub sessions: BTreeMap<SessionId, SessionCounts>,
    /// Packets by filter, direction (by its index) and rule number; 0 is a network service.
    #[serde(default)]
    pub rules: BTreeMap<FilterId, [BTreeMap<u16, u64>; Direction::ALL.len()]>,
}

/// [`SessionCounters`] in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCounts {
    /// As in [`SessionCounters`].
    pub packets: u64,
    /// As in [`SessionCounters`].
    pub bytes: u64,
    /// As in [`SessionCounters`].
    pub truncated_to_length: u64,
    /// As in [`SessionCounters`].
    pub truncated_to_mtu: u64,
    /// As in [`SessionCounters`].
    pub fast_path: u64,
}

impl std::ops::AddAssign<SessionCounters> for SessionCounts {
    fn add_assign(&mut self, more: SessionCounters) {
        self.packets += more.packets;
        self.bytes += more.bytes;
        self.truncated_to_length += more.truncated_to_length;
        self.truncated_to_mtu += more.truncated_to_mtu;
        self.fast_path += more.fast_path;
    }
}

impl State {
    /// An instance of this boot and network namespace that has done nothing.
    pub fn empty() -> Result<Self> {
        Ok(Self {
            layout_version: LAYOUT_VERSION,
            boot_id: instance::boot_id()?,
            network_namespace: instance::network_namespace()?,
            sources: Vec::new(),
            detached: BTreeSet::new(),
            retired: Vec::new(),
            carried: Carried::default(),
        })
    }

    /// Reads the state. State of an earlier boot is none: the kernel has forgotten it.
    pub fn load(instance: &Instance) -> Result<Self> {
        let path = instance.state_file();
        let what = format!("read state {}", path.display());
        let empty = Self::empty()?;
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(empty),
            Err(error) => return Err(Error::failed(what, &error)),
        };
        let hint = format!("'mirrorctl detach --all' removes what {} left in the kernel", instance.name());
        let state: Self = serde_json::from_str(&text).map_err(|error| Error::failed(&what, &error).hint(&hint))?;
        if state.boot_id != empty.boot_id {
            return Ok(Self { detached: state.detached, ..empty });
        }
        if state.layout_version != LAYOUT_VERSION {
            return Err(Error::new(
                Kind::Conflict,
                what,
                format_args!(
                    "it was written by another version of mirrorctl (layout {}, this is {LAYOUT_VERSION})",
                    state.layout_version
                ),
            )
            .hint(hint));
        }
        Ok(state)
    }

    /// Fails when the instance serves another network namespace.
    pub fn require_this_network_namespace(&self, what: &str, instance: &Instance) -> Result<()> {
        if self.sources.is_empty() || self.network_namespace == instance::network_namespace()? {
            return Ok(());
        }
        Err(Error::new(
            Kind::Conflict,
            what,
            format_args!("instance {} serves another network namespace", instance.name()),
        )
        .hint("give each network namespace an instance of its own: --instance NAME"))
    }

    /// Writes the state. With nothing attached and nothing to remember there is no file.
    pub fn save(&self, instance: &Instance) -> Result<()> {
        if self.sources.is_empty() && self.detached.is_empty() {
            return Self::remove(instance);
        }
        let path = instance.state_file();
        let failed = |error: &dyn std::fmt::Display| {
            Error::new(Kind::Failed, format_args!("write state {}", path.display()), error)
        };
        let directory = path.parent().expect("a state file is in a directory");
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(|error| failed(&error))?;
        let text = serde_json::to_string_pretty(self).map_err(|error| failed(&error))?;
        let new = path.with_extension("new");
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            // The rename must not reach the disk before the contents.
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        write().map_err(|error| failed(&error))
    }

    /// Removes the file, and the directory when nothing else is in it.
    pub fn remove(instance: &Instance) -> Result<()> {
        let path = instance.state_file();
        for path in [&path, &path.with_extension("new")] {
            match fs::remove_file(path) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(error) => return Err(Error::failed(format_args!("remove state {}", path.display()), &error)),
            }
        }
        let directory = path.parent().expect("a state file is in a directory");
        match fs::remove_dir(directory) {
            Ok(()) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => Ok(()),
            Err(error) => Err(Error::failed(format_args!("remove state {}", directory.display()), &error)),
        }
    }

    /// The record of `interface`.
    pub fn source(&self, interface: &InterfaceName) -> Option<&Source> {
        self.sources.iter().find(|source| source.interface == *interface)
    }

    /// The record of `interface`, to change it.
    pub fn source_mut(&mut self, interface: &InterfaceName) -> Option<&mut Source> {
        self.sources.iter_mut().find(|source| source.interface == *interface)
    }

    /// Every session that the tap knows.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        let attached = self.sources.iter().flat_map(|source| &source.sessions);
        attached.chain(self.retired.iter().map(|retired| &retired.session))
    }
}
