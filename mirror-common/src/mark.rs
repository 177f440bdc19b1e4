//! What a copy carries in `skb->mark` from the source hook to the uplink.
//!
//! The mark is the one field that survives the tap pair and a wait in the neighbour queue, so it says both "this is
//! a copy of ours" and "for which session". The slot is good only on the tap: elsewhere it may be another instance's.

use crate::session::SessionSlot;

/// The high bits of the mark of every copy.
const MAGIC: u32 = 0xc59 << MAGIC_SHIFT;
const MAGIC_SHIFT: u32 = 20;
const MAGIC_MASK: u32 = !0 << MAGIC_SHIFT;
/// Set once the outer headers are on.
const ENCAPSULATED: u32 = 1 << 19;
/// Set while the copy waits in a lane of the tap.
const IN_LANE: u32 = 1 << 18;
const SLOT_MASK: u32 = IN_LANE - 1;

/// How many session slots a mark can name.
pub const SLOTS: u32 = SLOT_MASK + 1;

/// The mark of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyMark {
    /// The session that wants the copy.
    pub slot: SessionSlot,
    /// Whether the outer headers are on.
    pub encapsulated: bool,
    /// Whether copies of its flow that come later wait for it (`mirror-ebpf/src/order.rs`).
    pub in_lane: bool,
}

impl CopyMark {
    /// The value for `skb->mark`. Bits of `slot` past [`SLOTS`] are dropped.
    #[inline(always)]
    pub const fn to_mark(self) -> u32 {
        let encapsulated = if self.encapsulated { ENCAPSULATED } else { 0 };
        let in_lane = if self.in_lane { IN_LANE } else { 0 };
        MAGIC | encapsulated | in_lane | (self.slot & SLOT_MASK)
    }

    /// Reads `skb->mark`; `None` when the packet doesn't claim to be a copy.
    #[inline(always)]
    pub const fn from_mark(mark: u32) -> Option<Self> {
        if mark & MAGIC_MASK != MAGIC {
            return None;
        }
        Some(Self { slot: mark & SLOT_MASK, encapsulated: mark & ENCAPSULATED != 0, in_lane: mark & IN_LANE != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_carries_slot_and_state() {
        for slot in [0, 1, 1023, SLOTS - 1] {
            for (encapsulated, in_lane) in [(false, false), (false, true), (true, false), (true, true)] {
                let mark = CopyMark { slot, encapsulated, in_lane };
                assert_eq!(CopyMark::from_mark(mark.to_mark()), Some(mark));
            }
        }
    }

    #[test]
    fn other_marks_are_not_copies() {
        for mark in [0, 1, 0xffff_ffff, 0xdead_beef, 0xc580_0000, 0xc5a0_0000] {
            assert_eq!(CopyMark::from_mark(mark), None, "mark {mark:#x}");
        }
    }
}
