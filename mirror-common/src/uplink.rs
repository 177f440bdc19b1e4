//! Map `UPLINKS`: what user space knows of interfaces that copies leave by. Key: the interface's index.

/// Value: flags. An interface that isn't there has none of them.
pub type Uplink = u32;

/// Whoever looks at what leaves here sees finished wire packets: checksums filled in, super-packets segmented, by the
/// kernel in front of the device or by hardware.
pub const FINISHES: Uplink = 1;

/// How many interfaces the map holds. Packets that leave by others take the tap where they need finishing.
pub const MAX_UPLINKS: u32 = 1024;
