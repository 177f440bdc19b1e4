//! Copies pass source hooks too where the uplink is a source: they are not mirrored again.

use mirror_common::mark::CopyMark;

use crate::{maps::SESSIONS, packet::Packet};

/// Whether this is a copy of ours: it carries the mark of one, for a session that exists.
///
/// The mark alone decides, not the shape of the packet: a copy that leaves through a tunnel of the host (its route
/// says so) passes the tunnel's uplink with the tunnel's headers in front, still with its mark. VXLAN traffic of
/// others carries no such mark and is ordinary traffic here, also to the same collector.
#[inline(always)]
pub(crate) fn is_own_copy(packet: &Packet) -> bool {
    match CopyMark::from_mark(packet.mark()) {
        Some(CopyMark { slot, encapsulated: true }) => SESSIONS.get_ptr(slot).is_some(),
        _ => false,
    }
}
