//! The way to a target: what the host's routing says now, asked for each copy.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_NO_SRC_ADDR, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS,
        BPF_FIB_LKUP_RET_UNREACHABLE, BPF_FIB_LOOKUP_SRC, bpf_fib_lookup as FibParams,
        bpf_fib_lookup__bindgen_ty_1 as FibLength, bpf_fib_lookup__bindgen_ty_2 as FibFlow,
        bpf_fib_lookup__bindgen_ty_3 as FibSource, bpf_fib_lookup__bindgen_ty_4 as FibDestination,
        bpf_fib_lookup__bindgen_ty_5 as FibVlan,
    },
    helpers::bpf_fib_lookup,
};
use mirror_common::{
    protocol::IpProtocol,
    session::{FAMILY_IPV4, Session},
    skip::SkipReason,
    vxlan::{IPV4_LEN, IPV6_LEN, UDP_LEN, VXLAN_LEN},
};

use crate::{
    maps::{FIB_TELLS_SOURCE, RECEIVING_IFINDEX},
    packet::Packet,
};

/// Bytes of the largest outer IP packet. The helpers make no packet of more than 16 KiB less some bookkeeping
/// (`BPF_SKB_MAX_LEN` in net/core/filter.c).
pub(crate) const LARGEST_PACKET: u32 = 16_000;

/// A route to a target. Addresses are in network order; IPv4 in the first word.
pub(crate) struct Route {
    /// Interface index of the uplink.
    pub(crate) uplink: u32,
    /// Address family of `next_hop`; an IPv4 target can have an IPv6 gateway (RFC 5549).
    pub(crate) next_hop_family: u8,
    /// The gateway, or the target itself when it is on the link.
    pub(crate) next_hop: [u32; 4],
    /// The address to send from.
    pub(crate) source: [u32; 4],
}

/// Why there is no route.
#[derive(Clone, Copy)]
pub(crate) enum NoWay {
    /// The path takes IP packets of `mtu` bytes at most.
    TooLong { mtu: u32 },
    /// See the reason.
    Refused(SkipReason),
}

impl NoWay {
    #[inline(always)]
    pub(crate) fn skip_reason(self) -> SkipReason {
        match self {
            // It was fitted to the path already: the MTU has shrunk since, or has no room at all.
            Self::TooLong { .. } => SkipReason::MtuTooSmall,
            Self::Refused(reason) => reason,
        }
    }
}

/// Bytes from the outer IP header to the frame.
#[inline(always)]
pub(crate) fn overhead(session: &Session) -> u32 {
    let ip = if session.family == FAMILY_IPV4 { IPV4_LEN } else { IPV6_LEN };
    (ip + UDP_LEN + VXLAN_LEN) as u32
}

/// Bytes of a frame that fit a path of `mtu`; `None` when not even one does.
#[inline(always)]
pub(crate) fn room(session: &Session, mtu: u32) -> Option<u32> {
    let overhead = overhead(session);
    if mtu > overhead { Some(mtu - overhead) } else { None }
}

/// The MTU that user space has read off the route, or what is possible at all.
#[inline(always)]
fn of_route(session: &Session) -> u32 {
    if session.route_mtu == 0 { LARGEST_PACKET } else { session.route_mtu.min(LARGEST_PACKET) }
}

/// Looks up the way of a copy with `kept` bytes of the frame.
#[inline(always)]
pub(crate) fn to_target(packet: &Packet, session: &Session, source_port: u16, kept: u32) -> Result<Route, NoWay> {
    let length = kept + overhead(session);
    let (answer, _) = match ask(packet, session, source_port, length) {
        Err(NoWay::TooLong { mtu }) => return Err(NoWay::TooLong { mtu: mtu.min(of_route(session)) }),
        answer => answer?,
    };
    if length > of_route(session) {
        return Err(NoWay::TooLong { mtu: of_route(session) });
    }
    Ok(Route {
        uplink: answer.ifindex,
        next_hop_family: answer.family,
        // SAFETY: all four words were initialised in `ask`; the kernel wrote one (IPv4) or all.
        next_hop: unsafe { answer.__bindgen_anon_4.ipv6_dst },
        source: source(&answer, session)?,
    })
}

/// The way to a target whose next hop's MAC address is known.
pub(crate) struct NextHop {
    /// Interface index of the uplink.
    pub(crate) uplink: u32,
    /// Bytes of an IP packet that the path takes.
    pub(crate) mtu: u32,
    /// As in [`Route`].
    pub(crate) source: [u32; 4],
    /// MAC addresses of the next hop and of the uplink, as they stand in an Ethernet header.
    pub(crate) macs: [[u8; 6]; 2],
}

/// Looks up the way to a target; `None` where the neighbour code must have a say in it.
#[inline(always)]
pub(crate) fn to_next_hop(packet: &Packet, session: &Session, source_port: u16) -> Option<NextHop> {
    // The kernel tells the MTU if it is given any length at all (Linux 5.12).
    let (answer, known) = ask(packet, session, source_port, 1).ok()?;
    // A device without Ethernet header has no such addresses.
    if !known || answer.dmac == [0; 6] || answer.smac == [0; 6] {
        return None;
    }
    Some(NextHop {
        uplink: answer.ifindex,
        // SAFETY: both views of the union are a `u16`.
        mtu: u32::from(unsafe { answer.__bindgen_anon_1.mtu_result }).min(of_route(session)),
        source: source(&answer, session).ok()?,
        macs: [answer.dmac, answer.smac],
    })
}

/// Asks for the way of an IP packet of `length` bytes. The answer, and whether it has the next hop's MAC address.
#[inline(always)]
fn ask(packet: &Packet, session: &Session, source_port: u16, length: u32) -> Result<(FibParams, bool), NoWay> {
    // The lookup is made as if the tap's receiving end forwarded the packet: its `forwarding` switch is on (the helper
    // refuses devices that don't forward).
    let mut params = FibParams {
        family: session.family,
        l4_protocol: IpProtocol::UDP.0,
        sport: source_port.to_be(),
        dport: u16::from_ne_bytes(session.port),
        // The field has 16 bits, and no path takes more.
        __bindgen_anon_1: FibLength { tot_len: length.min(u32::from(u16::MAX)) as u16 },
        ifindex: RECEIVING_IFINDEX.load(),
        __bindgen_anon_2: FibFlow { flowinfo: 0 },
        __bindgen_anon_3: FibSource { ipv6_src: [0; 4] },
        __bindgen_anon_4: FibDestination { ipv6_dst: words(&session.target) },
        __bindgen_anon_5: FibVlan { tbid: 0 },
        smac: [0; 6],
        dmac: [0; 6],
    };
    let flags = if tells_source() { BPF_FIB_LOOKUP_SRC } else { 0 };
    // SAFETY: the context is valid, and `params` is initialised memory of the size that is passed.
    let code = unsafe { bpf_fib_lookup(packet.as_ptr().cast(), &mut params, size_of::<FibParams>() as i32, flags) };
    let refused = |reason| Err(NoWay::Refused(reason));
    // Negative codes are errors of the call itself.
    match u32::try_from(code).unwrap_or(u32::MAX) {
        BPF_FIB_LKUP_RET_SUCCESS => Ok((params, true)),
        // The kernel asks for a neighbour when the copy is sent.
        BPF_FIB_LKUP_RET_NO_NEIGH => Ok((params, false)),
        BPF_FIB_LKUP_RET_FRAG_NEEDED => {
            // SAFETY: both views of the union are a `u16`.
            let mtu = unsafe { params.__bindgen_anon_1.mtu_result };
            Err(NoWay::TooLong { mtu: u32::from(mtu) })
        }
        BPF_FIB_LKUP_RET_BLACKHOLE | BPF_FIB_LKUP_RET_UNREACHABLE | BPF_FIB_LKUP_RET_PROHIBIT => {
            refused(SkipReason::RouteRefused)
        }
        BPF_FIB_LKUP_RET_NO_SRC_ADDR => refused(SkipReason::NoSourceAddress),
        _ => refused(SkipReason::NoRoute),
    }
}

/// The address to send from.
#[inline(always)]
fn source(answer: &FibParams, session: &Session) -> Result<[u32; 4], NoWay> {
    let source = if tells_source() {
        // SAFETY: all four words were initialised in `ask`; the kernel wrote one (IPv4) or all.
        unsafe { answer.__bindgen_anon_3.ipv6_src }
    } else {
        words(&session.source)
    };
    // Routing gave none at attach, and this kernel doesn't tell it now.
    if source == [0; 4] { Err(NoWay::Refused(SkipReason::NoSourceAddress)) } else { Ok(source) }
}

#[inline(always)]
fn tells_source() -> bool {
    FIB_TELLS_SOURCE.load() != 0
}

/// Sixteen bytes in network order as the four words of the kernel's structures, order kept.
#[inline(always)]
pub(crate) fn words(bytes: &[u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *bytes;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}
