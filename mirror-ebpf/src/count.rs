//! Counters. Each CPU has its own, so plain additions are enough.

use mirror_common::{counters::RULES_PER_ENTRY, policy::Direction, session::SessionSlot, skip::SkipReason};

use crate::maps::{RULE_COUNTERS, SESSION_COUNTERS, SKIPPED, SOURCE_COUNTERS};
use crate::packet::Packet;
use crate::wire;

/// A source hook saw `packet`.
#[inline(always)]
pub(crate) fn seen(packet: &Packet, direction: Direction) {
    if let Some(counters) = SOURCE_COUNTERS.get_ptr_mut(direction as u32) {
        // SAFETY: the map hands out this CPU's own slot, and a TC program runs with preemption of its kind excluded.
        let counters = unsafe { &mut *counters };
        counters.packets += u64::from(packet.wire_packets());
        counters.bytes += wire::bytes(packet);
    }
}

/// The rule at `place` decided on `packets` packets.
#[inline(always)]
pub(crate) fn matched(place: u32, packets: u32) {
    if let Some(counters) = RULE_COUNTERS.get_ptr_mut(place / RULES_PER_ENTRY) {
        // SAFETY: as in `seen`.
        let counters = unsafe { &mut *counters };
        // Always so.
        if let Some(count) = counters.get_mut((place % RULES_PER_ENTRY) as usize) {
            *count += u64::from(packets);
        }
    }
}

/// A copy with `kept` bytes of the frame leaves for the target of `slot`.
#[inline(always)]
pub(crate) fn mirrored(slot: SessionSlot, kept: u32) {
    if let Some(counters) = SESSION_COUNTERS.get_ptr_mut(slot) {
        // SAFETY: as in `seen`.
        let counters = unsafe { &mut *counters };
        counters.packets += 1;
        counters.bytes += u64::from(kept);
    }
}

/// Copies for `slot` leave by the fast path: `packets` wire packets with `bytes` bytes of frames.
#[inline(always)]
pub(crate) fn mirrored_fast(slot: SessionSlot, packets: u32, bytes: u64, truncated_to_length: bool) {
    if let Some(counters) = SESSION_COUNTERS.get_ptr_mut(slot) {
        // SAFETY: as in `seen`.
        let counters = unsafe { &mut *counters };
        counters.packets += u64::from(packets);
        counters.bytes += bytes;
        counters.fast_path += u64::from(packets);
        counters.truncated_to_length += u64::from(truncated_to_length);
    }
}

/// A copy for `slot` was cut.
#[inline(always)]
pub(crate) fn truncated(slot: SessionSlot, cut: Cut) {
    if let Some(counters) = SESSION_COUNTERS.get_ptr_mut(slot) {
        // SAFETY: as in `seen`.
        let counters = unsafe { &mut *counters };
        match cut {
            Cut::ToLength => counters.truncated_to_length += 1,
            Cut::ToMtu => counters.truncated_to_mtu += 1,
        }
    }
}

/// What cut a copy.
#[derive(Clone, Copy)]
pub(crate) enum Cut {
    /// The session's packet length.
    ToLength,
    /// The path MTU.
    ToMtu,
}

/// A packet that a session accepted does not go out.
#[inline(always)]
pub(crate) fn skipped(reason: SkipReason) {
    if let Some(count) = SKIPPED.get_ptr_mut(reason as u32) {
        // SAFETY: as in `seen`.
        unsafe { *count += 1 };
    }
}
