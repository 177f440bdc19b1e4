//! A target that is a device of this host: the bare frame goes out of it, as it was on the wire.

use aya_ebpf::helpers::bpf_check_mtu;
use mirror_common::{
    mark::CopyMark,
    session::{Session, SessionSlot},
    skip::SkipReason,
    vxlan::ETHERNET_LEN,
};

use crate::{
    count::{self, Cut},
    encapsulate,
    packet::Packet,
    vlan::{TAG_LEN, Tags},
};

/// Sends the first `kept` bytes of the frame out of the device of `session`, fewer if its MTU takes fewer.
///
/// A clone is sent, which tells at once whether the device took it; what is left here is to be dropped.
#[inline(always)]
pub(crate) fn send(
    packet: &Packet,
    slot: SessionSlot,
    session: &Session,
    tags: &Tags,
    mut kept: u32,
) -> Result<(), SkipReason> {
    let mtu = mtu(packet, session.device).ok_or(SkipReason::TargetInterfaceGone)?;
    // As everywhere in the kernel, a frame may have a tag beyond the MTU (`is_skb_forwardable`).
    let room = mtu + ETHERNET_LEN as u32 + tags.len().min(TAG_LEN);
    if kept > room {
        kept = room;
        count::truncated(slot, Cut::ToMtu);
    }
    encapsulate::bare(packet, tags, kept)?;
    // The device may be a source itself.
    packet.set_mark(CopyMark { slot, encapsulated: true, in_lane: false }.to_mark());
    packet.clone_to(session.device).map_err(|_| SkipReason::TargetInterfaceRefused)?;
    count::mirrored(slot, kept);
    Ok(())
}

/// The MTU of a device; `None` if there is no such device.
#[inline(always)]
fn mtu(packet: &Packet, ifindex: u32) -> Option<u32> {
    // To the helper, 0 is the device that the packet is at.
    if ifindex == 0 {
        return None;
    }
    let mut mtu = 0u32;
    // SAFETY: the context is valid, and `mtu` outlives the call. The answer is negative where there is no device, and
    // else tells whether the packet fits, which is not the question.
    let code = unsafe { bpf_check_mtu(packet.as_ptr().cast(), ifindex, &mut mtu, 0, 0) };
    if code < 0 { None } else { Some(mtu) }
}
