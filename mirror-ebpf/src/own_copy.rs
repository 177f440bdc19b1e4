//! Copies pass source hooks too where the uplink is a source: they are not mirrored again.

use mirror_common::mark::CopyMark;

use crate::packet::Packet;

/// Whether this is a copy of ours, or of another instance on this host: it carries the mark of a finished copy.
///
/// The mark alone decides, not the shape of the packet: a copy that leaves through a tunnel of the host (its route
/// says so) passes the tunnel's uplink with the tunnel's headers in front, still with its mark. Nor does it matter
/// whether the session is one of this instance: two instances that mirror each other's copies would never end.
/// VXLAN traffic of others carries no such mark and is ordinary traffic here, also to the same collector.
#[inline(always)]
pub(crate) fn is_own_copy(packet: &Packet) -> bool {
    matches!(CopyMark::from_mark(packet.mark()), Some(CopyMark { encapsulated: true, .. }))
}
