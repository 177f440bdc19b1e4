//! Keeps the copies of a flow in order. One that takes the tap waits in a queue of its CPU; the next one of its flow would
//! overtake it on the fast path. So it takes the tap too, until all that wait have left.
//!
//! Flows share lanes, by their UDP source port. The two ends of the tap are on one CPU: its queue is that of the CPU that
//! sends.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};

/// A power of two.
const LANES: u32 = 256;

/// How long a lane waits for copies that don't come, in nanoseconds: the tap's queue was full, or they were segmented into
/// fewer than was thought. A queue that is worked on at all takes less.
const PATIENCE: u64 = 100_000_000;

/// The copies of some flows that wait. Not shared with user space.
struct Lane {
    /// How many.
    waiting: u64,
    /// When the last one came that had to take the tap for its own sake.
    since: u64,
}

#[btf_map]
static LANES_OF_CPU: PerCpuArray<Lane, { LANES as usize }> = PerCpuArray::new();

#[inline(always)]
fn lane(source_port: u16) -> Option<&'static mut Lane> {
    let lane = LANES_OF_CPU.get_ptr_mut(u32::from(source_port) & (LANES - 1))?;
    // SAFETY: this CPU's own value; a TC program has its CPU for itself until it returns.
    Some(unsafe { &mut *lane })
}

/// Whether a copy must take the tap because others wait there. `now` is the time in nanoseconds.
#[inline(always)]
pub(crate) fn is_waiting(source_port: u16, now: u64) -> bool {
    lane(source_port).is_some_and(|lane| lane.waiting != 0 && now.wrapping_sub(lane.since) < PATIENCE)
}

/// So many copies take the tap for their own sake.
#[inline(always)]
pub(crate) fn enter(source_port: u16, copies: u32, now: u64) {
    if let Some(lane) = lane(source_port) {
        if now.wrapping_sub(lane.since) >= PATIENCE {
            lane.waiting = 0;
        }
        lane.waiting += u64::from(copies);
        lane.since = now;
    }
}

/// So many copies take the tap because others wait there.
#[inline(always)]
pub(crate) fn follow(source_port: u16, copies: u32) {
    if let Some(lane) = lane(source_port) {
        lane.waiting += u64::from(copies);
    }
}

/// A copy has left the tap.
#[inline(always)]
pub(crate) fn leave(source_port: u16) {
    if let Some(lane) = lane(source_port)
        && lane.waiting != 0
    {
        lane.waiting -= 1;
    }
}
