//! A target on this very host: copies go up its own stack, as if they had come from another host.
//!
//! What they pass there: the TC and netfilter hooks of a device, then PREROUTING and INPUT of netfilter. The device is
//! `lo`, but for IPv4 addresses other than 127.0.0.0/8 the tap's receiving end:
//! - IPv6: in at `lo`, which may receive from and to any address of the host, ::1 among them (`ip6_rcv_core`).
//! - 127.0.0.0/8: out of `lo` and in again. A packet that comes in without a route is refused where it has such an
//!   address (`ip_route_input_slow`: a martian). With no next hop given, `bpf_redirect_neigh` looks a route up itself, and
//!   the packet keeps it through `lo`.
//! - Other IPv4 addresses: in at the tap's receiving end, which has `accept_local` on. At `lo` that is the host's to
//!   say, and the way out of `lo` is no route to an address of another device (`fib_lookup_good_nhc`).

use aya_ebpf::{
    bindings::{
        BPF_F_INGRESS, TC_ACT_OK, bpf_sock_tuple as SocketTuple, bpf_sock_tuple__bindgen_ty_1 as Addresses,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as AddressesV4,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as AddressesV6,
    },
    helpers::{bpf_redirect, bpf_redirect_neigh, bpf_sk_lookup_udp, bpf_sk_release},
};
use mirror_common::{
    session::{FAMILY_IPV4, Session},
    skip::SkipReason,
};

use crate::{packet::Packet, route, send};

/// Interface index of `lo` in every network namespace.
const LOOPBACK: u32 = 1;
/// `pkt_type` of a packet for this host (include/uapi/linux/if_packet.h).
const PACKET_HOST: u32 = 0;
/// `BPF_F_CURRENT_NETNS`.
const THIS_NAMESPACE: u64 = u64::MAX;
/// The first byte of 127.0.0.0/8.
const LOOPBACK_NET: u8 = 127;

/// Whether some socket takes a copy from `source_port`. Without one the stack would answer it with "port unreachable",
/// and where `lo` is a source, that would be mirrored, answered again, and so on without end.
#[inline(always)]
pub(crate) fn has_listener(packet: &Packet, session: &Session, source_port: u16) -> bool {
    let (source, target) = (route::words(&session.source), route::words(&session.target));
    let (sport, dport) = (source_port.to_be(), u16::from_ne_bytes(session.port));
    // The kernel tells the families apart by the size.
    let (addresses, size) = if session.family == FAMILY_IPV4 {
        let ipv4 = AddressesV4 { saddr: source[0], daddr: target[0], sport, dport };
        (Addresses { ipv4 }, size_of::<AddressesV4>())
    } else {
        (Addresses { ipv6: AddressesV6 { saddr: source, daddr: target, sport, dport } }, size_of::<AddressesV6>())
    };
    let mut tuple = SocketTuple { __bindgen_anon_1: addresses };
    // SAFETY: the context is valid, and `tuple` is initialised memory of at least `size` bytes.
    let socket = unsafe { bpf_sk_lookup_udp(packet.as_ptr().cast(), &mut tuple, size as u32, THIS_NAMESPACE, 0) };
    if socket.is_null() {
        return false;
    }
    // SAFETY: what the lookup returned, not null, and given back once.
    unsafe { bpf_sk_release(socket.cast()) };
    true
}

/// Hands a copy up the stack as it leaves [`crate::encapsulate`]; `None` where it must come in at the tap once more
/// first, so that `skb->protocol` is that of the outer header.
#[inline(always)]
pub(crate) fn deliver(session: &Session) -> Option<Result<i32, SkipReason>> {
    if session.family == FAMILY_IPV4 {
        return None;
    }
    // SAFETY: takes no pointers.
    Some(send::redirected(unsafe { bpf_redirect(LOOPBACK, u64::from(BPF_F_INGRESS)) }))
}

/// As [`deliver`], when it has come in at the tap once more.
#[inline(always)]
pub(crate) fn deliver_again(packet: &Packet, session: &Session) -> Result<i32, SkipReason> {
    // Its Ethernet header names nobody: at the tap it came in as somebody else's.
    packet.set_type(PACKET_HOST).map_err(|_| SkipReason::SendFailed)?;
    if session.target[0] == LOOPBACK_NET {
        // SAFETY: no next hop is passed, and the size says so.
        return send::redirected(unsafe { bpf_redirect_neigh(LOOPBACK, core::ptr::null_mut(), 0, 0) });
    }
    Ok(TC_ACT_OK)
}
