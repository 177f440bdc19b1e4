//! The source hook: looks at every packet of one direction and lets it pass, whatever happens to its copy.
//!
//! `explain` asks the attached program itself: it runs it (BPF_PROG_TEST_RUN) on a packet that claims to be at another
//! interface than the source. Such a packet gets its verdict in `skb->cb` and nothing else happens, nothing is counted.
//! The action is the same as ever, so that no packet of the host is harmed, wherever it says that it is.

use mirror_common::{policy::Direction, skip::SkipReason};

use crate::{classify, clone, count, maps::SOURCE_IFINDEX, own_copy, packet::Packet};

#[inline(always)]
pub(crate) fn observe(packet: &Packet, direction: Direction) {
    let live = packet.ifindex() == SOURCE_IFINDEX.load();
    if live {
        if own_copy::is_own_copy(packet) {
            return;
        }
        count::seen(packet, direction);
    }
    let decision = classify::decide(packet, live);
    if !live {
        packet.set_answer(decision.verdict.to_answer());
        return;
    }
    let Some(slot) = decision.session else {
        return;
    };
    if clone::to_tap(packet, slot).is_err() {
        count::skipped(SkipReason::CloneFailed);
    }
}
