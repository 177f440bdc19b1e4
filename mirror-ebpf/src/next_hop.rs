//! The way to a target, remembered for a moment: a lookup costs as much as the rest of a short copy's headers.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use mirror_common::session::{Session, SessionSlot};

use crate::{
    packet::Packet,
    route::{self, NextHop},
};

/// How long an answer is good for, in nanoseconds. A change of route or neighbour is followed after this and one tick of
/// the clock that is used (at most 10 ms).
const GOOD_FOR: u64 = 50_000_000;

/// How often a copy goes by the neighbour code, in nanoseconds: the kernel finds out that a neighbour is gone only if it
/// is asked to send to it (RFC 4861 §7.3 for IPv6; the states are the same for IPv4).
const ASK_NEIGHBOUR: u64 = 1_000_000_000;

/// How many answers each CPU remembers. Sessions that share a place look up each time that they take turns.
const PLACES: u32 = 256;

/// An answer. Not shared with user space.
struct Answer {
    next_hop: NextHop,
    /// Whose it is: its slot and one more; 0 where the place is free.
    owner: u32,
    /// When it is too old, and when the neighbour code is to be asked again.
    until: u64,
    ask_at: u64,
}

#[btf_map]
static ANSWERS: PerCpuArray<Answer, { PLACES as usize }> = PerCpuArray::new();

/// The way of a copy; `None` where it must go by the neighbour code. `now` is the time in nanoseconds.
#[inline(always)]
pub(crate) fn of(
    packet: &Packet,
    session: &Session,
    slot: SessionSlot,
    source_port: u16,
    now: u64,
) -> Option<&'static NextHop> {
    let answer = ANSWERS.get_ptr_mut(slot % PLACES)?;
    // SAFETY: this CPU's own value; a TC program has its CPU for itself until it returns, and the helpers that it calls
    // before it is done with the value run no other.
    let answer = unsafe { &mut *answer };
    if answer.owner == slot + 1 && now < answer.until {
        return Some(&answer.next_hop);
    }
    if answer.owner != slot + 1 || now >= answer.ask_at {
        answer.owner = slot + 1;
        answer.until = 0;
        answer.ask_at = now + ASK_NEIGHBOUR;
        return None;
    }
    answer.next_hop = route::to_next_hop(packet, session, source_port)?;
    answer.until = if session.way_by_port == 0 { now + GOOD_FOR } else { 0 };
    Some(&answer.next_hop)
}
