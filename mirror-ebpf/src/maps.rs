//! Everything that user space reads or writes: maps and load-time constants.

use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{HashMap, PerCpuArray, PerCpuHashMap},
    macros::btf_map,
};
use mirror_common::{
    counters::{RuleCounters, SessionCounters, SourceCounters},
    policy::DIRECTIONS,
    session::{MAX_SESSIONS, Session, SessionSlot},
    skip::SKIP_REASONS,
    super_packet::GsoTypeAt,
    uplink::{MAX_UPLINKS, Uplink},
};

/// Per instance: what the tap needs for each session.
#[btf_map]
pub(crate) static SESSIONS: HashMap<SessionSlot, Session, { MAX_SESSIONS as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// Per instance: what left for each session's target. User space makes the entries.
#[btf_map]
pub(crate) static SESSION_COUNTERS: PerCpuHashMap<
    SessionSlot,
    SessionCounters,
    { MAX_SESSIONS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = PerCpuHashMap::new();

/// Per instance: accepted packets that did not go out, by reason.
#[btf_map]
pub(crate) static SKIPPED: PerCpuArray<u64, { SKIP_REASONS as usize }> = PerCpuArray::new();

/// Per instance: what user space knows of uplinks, by interface index.
#[btf_map]
pub(crate) static UPLINKS: HashMap<u32, Uplink, { MAX_UPLINKS as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// Per source and direction: packets that each rule decided on, by its place in the table. User space sizes it.
#[btf_map]
pub(crate) static RULE_COUNTERS: PerCpuArray<RuleCounters, 1> = PerCpuArray::new();

/// Per source: what its hooks saw, by direction.
#[btf_map]
pub(crate) static SOURCE_COUNTERS: PerCpuArray<SourceCounters, { DIRECTIONS as usize }> = PerCpuArray::new();

/// Interface index of the device that a source hook clones to: the tap's sending end, or the raw device.
#[unsafe(no_mangle)]
pub(crate) static CLONE_IFINDEX: Global<u32> = Global::new(0);

/// Interface index of the tap's sending end.
#[unsafe(no_mangle)]
pub(crate) static TAP_IFINDEX: Global<u32> = Global::new(0);

/// Interface index of the tap's receiving end.
#[unsafe(no_mangle)]
pub(crate) static RECEIVING_IFINDEX: Global<u32> = Global::new(0);

/// Interface index of the source. A packet at any other interface is a question (see [`crate::source`]).
#[unsafe(no_mangle)]
pub(crate) static SOURCE_IFINDEX: Global<u32> = Global::new(0);

/// Where the running kernel has `gso_type`; zeros where it can't be told, or may not be read.
#[unsafe(no_mangle)]
pub(crate) static GSO_TYPE_AT: Global<GsoTypeAt> = Global::new(GsoTypeAt { head: 0, end: 0, gso_type: 0 });

/// 1 where packets of the source begin with an Ethernet header, else 0.
#[unsafe(no_mangle)]
pub(crate) static SOURCE_HAS_ETHERNET: Global<u8> = Global::new(1);

/// 1 where `bpf_fib_lookup` can tell the source address (`BPF_FIB_LOOKUP_SRC`, Linux 6.7), else 0.
#[unsafe(no_mangle)]
pub(crate) static FIB_TELLS_SOURCE: Global<u8> = Global::new(0);
