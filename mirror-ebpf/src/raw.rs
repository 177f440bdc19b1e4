//! The hook at the egress of the raw device, where clones from sources without Ethernet header get one.
//!
//! The kernel refuses to redirect a packet without Ethernet header to a device with one (`__bpf_redirect_common` in
//! net/core/filter.c: ERANGE), and the original can't be given one. So the clone goes to a tun device of our own, which
//! has no Ethernet header either. It never gets there: this hook redirects every clone to the tap.

use aya_ebpf::helpers::bpf_redirect;
use mirror_common::{
    mark::CopyMark,
    skip::SkipReason,
    vxlan::{ETHERNET_LEN, ETHERTYPE_AT},
};

use crate::{maps::TAP_IFINDEX, packet::Packet, send, tap::Stop};

/// Puts an Ethernet header with zero addresses in front of a clone and sends it to the tap. The value is the action to
/// return.
#[inline(always)]
pub(crate) fn forward(packet: &Packet) -> Result<i32, Stop> {
    let Some(CopyMark { encapsulated: false, .. }) = CopyMark::from_mark(packet.mark()) else {
        return Err(Stop::NotACopy);
    };
    let ethertype = packet.protocol().to_wire();
    packet.push_head(ETHERNET_LEN as u32).map_err(|_| SkipReason::EncapsulateFailed)?;
    packet.store(ETHERTYPE_AT as u32, &ethertype).map_err(|_| SkipReason::EncapsulateFailed)?;
    // SAFETY: takes no pointers.
    Ok(send::redirected(unsafe { bpf_redirect(TAP_IFINDEX.load(), 0) })?)
}
