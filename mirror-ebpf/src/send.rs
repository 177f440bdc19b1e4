//! Sends a finished copy.

use aya_ebpf::{
    bindings::{
        BPF_F_INGRESS, TC_ACT_REDIRECT, bpf_redir_neigh as NextHop, bpf_redir_neigh__bindgen_ty_1 as NextHopAddress,
    },
    helpers::{bpf_redirect, bpf_redirect_neigh},
};
use mirror_common::skip::SkipReason;

use crate::{packet::Packet, route::Route};

/// Out of the uplink to the next hop; the kernel fills in the MAC addresses, with ARP or ND first if it must.
#[inline(always)]
pub(crate) fn to_neighbour(route: &Route) -> Result<i32, SkipReason> {
    let mut next_hop = NextHop {
        nh_family: u32::from(route.next_hop_family),
        __bindgen_anon_1: NextHopAddress { ipv6_nh: route.next_hop },
    };
    // SAFETY: `next_hop` is initialised memory of the size that is passed.
    redirected(unsafe { bpf_redirect_neigh(route.uplink, &mut next_hop, size_of::<NextHop>() as i32, 0) })
}

/// Once more in at the tap. No helper can change `skb->protocol` from the frame's to the outer header's, and the
/// neighbour code goes by it; on the way in the kernel reads it from the outer Ethernet header.
#[inline(always)]
pub(crate) fn around(packet: &Packet) -> Result<i32, SkipReason> {
    // SAFETY: takes no pointers.
    redirected(unsafe { bpf_redirect(packet.ifindex(), u64::from(BPF_F_INGRESS)) })
}

/// What a redirecting helper returned, as an action or a reason.
#[inline(always)]
pub(crate) fn redirected(action: i64) -> Result<i32, SkipReason> {
    if action == i64::from(TC_ACT_REDIRECT) { Ok(action as i32) } else { Err(SkipReason::SendFailed) }
}
