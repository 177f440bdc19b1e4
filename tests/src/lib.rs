//! The lab, and the tests that need a kernel.
//!
//! A test builds a [`Lab`], tells `mirrorctl` to do something, lets traffic flow while it [records](Lab::record), and
//! says what should have come of it. Needs root, `ip` and `tc`; touches nothing outside its own namespaces and
//! `/run/mirrorctl-lab`.

pub mod checksum;
pub mod craft;
pub mod frame;
pub mod interrupt;
pub mod lab;
mod leftovers;
pub mod namespace;
pub mod offload;
#[cfg(feature = "product")]
pub mod oracle;
pub mod packet_socket;
pub mod path;
#[cfg(feature = "product")]
pub mod policies;
pub mod process;
#[cfg(feature = "product")]
pub mod properties;
pub mod random;
pub mod recording;
pub mod replay;
#[cfg(feature = "product")]
pub mod rulesets;
pub mod trace;
pub mod traffic;
pub mod tun;
pub mod vxlan;
pub mod wait;
pub mod written;

pub use craft::{BOTH_VERSIONS, IpVersion};
pub use frame::Frame;
pub use lab::{COLLECTOR, GENERATOR, HOST_SOURCE, HOST_UPLINK, Lab};
pub use leftovers::Turn;
pub use path::{BOTH_PATHS, Path};
pub use process::{Output, Running};
pub use recording::{Recording, Wanted};
pub use trace::hooks;
pub use vxlan::Copy;
