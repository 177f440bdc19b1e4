//! Layouts and rules that the kernel programs and `mirrorctl` share.
//!
//! One module per map holds its key and value side by side: `#[repr(C)]`, no implicit padding, the size asserted
//! at compile time. Integers are in host byte order unless a field says otherwise; addresses and ports that go on
//! the wire as they are, are byte arrays in network order. The pure rules ([`flow`], [`mark`]) compile for the host
//! too and are unit-tested there.
#![cfg_attr(not(test), no_std)]

pub mod bench;
pub mod counters;
pub mod flow;
pub mod mark;
pub mod policy;
pub mod protocol;
pub mod session;
pub mod skip;
pub mod super_packet;
pub mod table;
pub mod trace;
pub mod uplink;
pub mod vxlan;

/// Version of everything in this crate that lives in pinned maps. State that was loaded with another version is never
/// re-used: its pins have another directory.
pub const LAYOUT_VERSION: u32 = 3;
