//! Hands a clone of a packet to the tap. From a source without Ethernet header it goes by way of the raw device
//! ([`crate::raw`]).

use mirror_common::{mark::CopyMark, session::SessionSlot};

use crate::{
    maps::CLONE_IFINDEX,
    packet::{HelperError, Packet},
};

/// Clones `packet` to the tap, marked for `slot`. The original is as it was afterwards.
///
/// A full tap is no error here: the tap device counts what it drops, one by one (`stats` shows it as `tap_full`).
#[inline(always)]
pub(crate) fn to_tap(packet: &Packet, slot: SessionSlot) -> Result<(), HelperError> {
    let original_mark = packet.mark();
    // The clone takes the mark along through the tap pair.
    packet.set_mark(CopyMark { slot, encapsulated: false, in_lane: false }.to_mark());
    let cloned = packet.clone_to(CLONE_IFINDEX.load());
    packet.set_mark(original_mark);
    match cloned {
        // A positive code is the transmit result of the device (NET_XMIT_DROP): counted there.
        Err(HelperError(code)) if code > 0 => Ok(()),
        result => result,
    }
}
