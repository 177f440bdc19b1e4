//! The source hook: looks at every packet of one direction and lets it pass, whatever happens to its copy.

use mirror_common::{policy::Direction, skip::SkipReason};

use crate::{classify, clone, count, own_copy, packet::Packet};

#[inline(always)]
pub(crate) fn observe(packet: &Packet, direction: Direction) {
    if own_copy::is_own_copy(packet) {
        return;
    }
    count::seen(packet, direction);
    let Some(slot) = classify::decide(packet).session else {
        return;
    };
    if clone::to_tap(packet, slot).is_err() {
        count::skipped(SkipReason::CloneFailed);
    }
}
