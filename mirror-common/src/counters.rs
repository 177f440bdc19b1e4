//! Maps `SOURCE_COUNTERS` (per source, indexed by direction) and `SESSION_COUNTERS` (by session slot). Per CPU: a
//! reader adds the CPUs up.

/// What a source hook saw.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceCounters {
    /// Packets the hook looked at, the product's own copies excepted. A GSO packet counts as the wire packets it
    /// stands for.
    pub packets: u64,
    /// Their bytes on the wire, Ethernet header included.
    pub bytes: u64,
}

/// What left for a session's target.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCounters {
    /// Copies handed to the uplink.
    pub packets: u64,
    /// Bytes of the mirrored frames in them, after the cut, without the outer headers.
    pub bytes: u64,
    /// Copies that the session's packet length cut.
    pub truncated_to_length: u64,
    /// Copies that the path MTU cut.
    pub truncated_to_mtu: u64,
    /// Those of `packets` that took the fast path, and not the tap.
    pub fast_path: u64,
}

const _: () = assert!(size_of::<SourceCounters>() == 16);
const _: () = assert!(size_of::<SessionCounters>() == 40);

#[cfg(feature = "user")]
// SAFETY: `repr(C)` of `u64` only: no padding, every bit pattern is a value.
unsafe impl aya::Pod for SourceCounters {}

#[cfg(feature = "user")]
// SAFETY: `repr(C)` of `u64` only: no padding, every bit pattern is a value.
unsafe impl aya::Pod for SessionCounters {}

/// Rules whose counters one entry of map `RULE_COUNTERS` holds. Each entry costs the kernel one more line of cache to
/// find, so there are few.
pub const RULES_PER_ENTRY: u32 = 64;
/// Value of map `RULE_COUNTERS`: packets that each rule decided on, by place. The rule at a place is counted in entry
/// `place / RULES_PER_ENTRY`, at `place % RULES_PER_ENTRY`.
pub type RuleCounters = [u64; RULES_PER_ENTRY as usize];
