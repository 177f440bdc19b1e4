//! Cuts a frame and puts the outer headers in front: Ethernet, IPv4 or IPv6, UDP, VXLAN (RFC 7348 §5).

use mirror_common::{
    protocol::{EtherType, IpProtocol},
    session::{FAMILY_IPV4, Session},
    skip::SkipReason,
    vxlan::{
        DONT_FRAGMENT, ETHERNET_LEN, FLAGS, IPV4_LEN, OUTER_IPV4_LEN, OUTER_IPV6_LEN, TTL, UDP_LEN, VXLAN_LEN,
        ipv4_checksum,
    },
};
use network_types::{eth::EthHdr, ip::Ipv4Hdr, ip::Ipv6Hdr, udp::UdpHdr, vxlan::VxlanHdr};

use crate::{
    packet::{Packet, Plain},
    vlan::{MAX_TAGS, TAG_LEN, Tags},
};

/// Bytes of the two MAC addresses: what stands in front of a frame's VLAN tags.
const MACS_LEN: u32 = 12;

/// Longest copy that is put together anew instead of being cut in place (see [`rebuild`]). A power of two less one,
/// so that a mask shows the verifier the bound.
const REBUILD_MAX: u32 = 127;

/// The outer headers of a copy to an IPv4 target.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct OuterIpv4 {
    ethernet: EthHdr,
    ip: Ipv4Hdr,
    udp: UdpHdr,
    vxlan: VxlanHdr,
}

/// The outer headers of a copy to an IPv6 target.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct OuterIpv6 {
    ethernet: EthHdr,
    ip: Ipv6Hdr,
    udp: UdpHdr,
    vxlan: VxlanHdr,
}

const _: () = assert!(size_of::<OuterIpv4>() == OUTER_IPV4_LEN && size_of::<OuterIpv6>() == OUTER_IPV6_LEN);

// SAFETY: packed headers made of bytes: no padding, every bit pattern is a value.
unsafe impl Plain for OuterIpv4 {}
// SAFETY: as above.
unsafe impl Plain for OuterIpv6 {}

/// The ethertype of a session's outer header.
#[inline(always)]
pub(crate) fn outer_ethertype(session: &Session) -> EtherType {
    if session.family == FAMILY_IPV4 { EtherType::IPV4 } else { EtherType::IPV6 }
}

/// Bytes in front of the frame.
#[inline(always)]
fn outer_len(session: &Session) -> u32 {
    if session.family == FAMILY_IPV4 { OUTER_IPV4_LEN as u32 } else { OUTER_IPV6_LEN as u32 }
}

/// Reads from a finished copy what it was made with: its UDP source port, and how many bytes of the frame it has.
#[inline(always)]
pub(crate) fn read_back(packet: &Packet, session: &Session) -> Option<(u16, u32)> {
    const BEHIND_IP: u32 = (UDP_LEN + VXLAN_LEN) as u32;
    let [s0, s1, _, _, l0, l1] = packet.load::<[u8; 6]>(outer_len(session) - BEHIND_IP)?;
    let kept = u32::from(u16::from_be_bytes([l0, l1])).checked_sub(BEHIND_IP)?;
    Some((u16::from_be_bytes([s0, s1]), kept))
}

/// What the outer headers of a copy have that its session doesn't say.
pub(crate) struct Outer {
    /// The address that it is sent from, in network order; IPv4 in the first word.
    pub(crate) source: [u32; 4],
    /// UDP source port.
    pub(crate) source_port: u16,
    /// MAC addresses of destination and source; zeros where the neighbour code is to fill them in.
    pub(crate) macs: [[u8; 6]; 2],
}

/// Makes the copy: the first `kept` bytes of the frame, its `tags` back in place, behind the outer headers. After
/// [`SkipReason::CutFailed`] the packet is the frame as before.
#[inline(always)]
pub(crate) fn encapsulate(
    packet: &Packet,
    session: &Session,
    outer: &Outer,
    tags: &Tags,
    kept: u32,
) -> Result<(), SkipReason> {
    frame(packet, outer_len(session), tags, kept)?;
    write_headers(packet, session, outer, kept)
}

/// Makes the copy of a whole frame of which something is left to the device: a checksum, segmentation. It stays so.
/// Where the kernel refuses, the frame is as it was.
#[inline(always)]
pub(crate) fn encapsulate_unfinished(packet: &Packet, session: &Session, outer: &Outer) -> Result<(), Refused> {
    let (whole, outer_len) = (packet.len(), outer_len(session));
    let inner = packet.load::<[u8; ETHERNET_LEN]>(0).ok_or(Refused::Unchanged)?;
    packet.push_tunnel(outer_len, session.family != FAMILY_IPV4).map_err(|_| Refused::Unchanged)?;
    // The room is behind the Ethernet header, which becomes the outer one.
    packet.store(outer_len, &inner).map_err(|_| Refused::Changed)?;
    write_headers(packet, session, outer, whole).map_err(|_| Refused::Changed)
}

/// Why there is no copy.
pub(crate) enum Refused {
    /// The kernel can't do this with such a packet.
    Unchanged,
    /// The packet is neither the frame nor a copy any more.
    Changed,
}

/// Makes the first `kept` bytes of the frame, its `tags` back in place, with nothing in front. Where they are fewer than the
/// frame's headers, zeros follow them (see [`rebuild`]).
#[inline(always)]
pub(crate) fn bare(packet: &Packet, tags: &Tags, kept: u32) -> Result<(), SkipReason> {
    frame(packet, 0, tags, kept)
}

/// Makes the first `kept` bytes of the frame, its `tags` back in place, behind `outer_len` bytes that are still to be
/// written.
#[inline(always)]
fn frame(packet: &Packet, outer_len: u32, tags: &Tags, kept: u32) -> Result<(), SkipReason> {
    let whole = packet.len() + tags.len();
    if kept < whole && kept <= REBUILD_MAX {
        rebuild(packet, outer_len, tags, kept)
    } else {
        push(packet, outer_len, tags, kept)
    }
}

/// Cuts the end, makes room in front, moves the tags in. In this order: the kernel lets no packet grow beyond what its
/// device takes, and a frame may be as long as that already.
#[inline(always)]
fn push(packet: &Packet, outer_len: u32, tags: &Tags, kept: u32) -> Result<(), SkipReason> {
    let no_room = |_| SkipReason::EncapsulateFailed;
    let without_tags = kept.saturating_sub(tags.len());
    if packet.len() > without_tags {
        // A chain of IPv6 extension headers can be longer than the copy.
        resize(packet, without_tags)?;
    }
    if outer_len + tags.len() != 0 {
        packet.push_head(outer_len + tags.len()).map_err(no_room)?;
    }
    if tags.len() != 0 {
        let macs =
            packet.load::<[u8; MACS_LEN as usize]>(outer_len + tags.len()).ok_or(SkipReason::EncapsulateFailed)?;
        packet.store(outer_len, &macs).map_err(no_room)?;
        for index in 0..MAX_TAGS {
            if let Some(tag) = tags.get(index) {
                packet.store(outer_len + MACS_LEN + index as u32 * TAG_LEN, tag).map_err(no_room)?;
            }
        }
    }
    Ok(())
}

/// Puts a short copy together from the frame's first bytes.
///
/// The kernel refuses to cut a packet in front of its transport header, wherever the packet begins (`__bpf_skb_min_len`
/// in net/core/filter.c): a few bytes of a frame can't be had by cutting. So they are read, the packet is made as long
/// as the copy, and all of it is written anew. Only a copy of fewer bytes than the frame's headers behind 50 bytes of
/// outer headers is still too short for the kernel; it gets zeros behind its end, which no outer length counts: padding
/// of the Ethernet frame.
#[inline(always)]
fn rebuild(packet: &Packet, outer_len: u32, tags: &Tags, kept: u32) -> Result<(), SkipReason> {
    let no_room = |_| SkipReason::EncapsulateFailed;
    let macs = packet.load::<[u8; MACS_LEN as usize]>(0).ok_or(SkipReason::CutFailed)?;
    let tags_end = MACS_LEN + tags.len();
    let mut rest = [0u8; REBUILD_MAX as usize + 1];
    let rest_len = kept.saturating_sub(tags_end);
    packet.load_start(MACS_LEN, &mut rest, rest_len).map_err(|_| SkipReason::CutFailed)?;

    resize(packet, outer_len + kept)?;
    packet.store_start(outer_len, &macs, kept.min(MACS_LEN)).map_err(no_room)?;
    for index in 0..MAX_TAGS {
        let offset = MACS_LEN + index as u32 * TAG_LEN;
        if let Some(tag) = tags.get(index) {
            packet.store_start(outer_len + offset, tag, kept.saturating_sub(offset).min(TAG_LEN)).map_err(no_room)?;
        }
    }
    packet.store_start(outer_len + tags_end, &rest, rest_len).map_err(no_room)
}

/// Makes the packet `len` bytes long, or as little longer as the kernel lets it, with zeros behind `len`.
#[inline(always)]
fn resize(packet: &Packet, len: u32) -> Result<(), SkipReason> {
    const BLOCK: u32 = 32;
    // Past 256 bytes of headers in a frame (a chain of IPv6 extension headers) there is no short copy of it.
    const BLOCKS_MAX: u32 = 8;
    for blocks in 0..=BLOCKS_MAX {
        if packet.set_len(len + blocks * BLOCK).is_err() {
            continue;
        }
        for block in 0..blocks {
            packet.store(len + block * BLOCK, &[0u8; BLOCK as usize]).map_err(|_| SkipReason::EncapsulateFailed)?;
        }
        return Ok(());
    }
    Err(SkipReason::CutFailed)
}

#[inline(always)]
fn write_headers(
    packet: &Packet,
    session: &Session,
    &Outer { source, source_port, macs: [dst_addr, src_addr] }: &Outer,
    kept: u32,
) -> Result<(), SkipReason> {
    // The MTU keeps the sums below 2^16, but those of a super-packet: whoever segments it writes new ones.
    let udp_len = ((UDP_LEN + VXLAN_LEN) as u16).wrapping_add(kept as u16);
    let ethernet = EthHdr { dst_addr, src_addr, ether_type: outer_ethertype(session).0.to_be() };
    // Checksum zero: RFC 7348 §5, and RFC 6935 §5 for IPv6.
    let udp = UdpHdr { src: source_port.to_be_bytes(), dst: session.port, len: udp_len.to_be_bytes(), check: [0; 2] };
    let vxlan = VxlanHdr { flags: FLAGS, _reserved1: [0; 3], vni: session.vni, _reserved2: 0 };
    let written = if session.family == FAMILY_IPV4 {
        let [t0, t1, t2, t3, ..] = session.target;
        let mut ip = Ipv4Hdr {
            // Version 4, five words of header.
            vihl: 0x45,
            tos: 0,
            tot_len: (IPV4_LEN as u16).wrapping_add(udp_len).to_be_bytes(),
            // A datagram that can't be fragmented needs no identification (RFC 6864 §4.1).
            id: [0; 2],
            frags: DONT_FRAGMENT,
            ttl: TTL,
            proto: IpProtocol::UDP.0,
            check: [0; 2],
            src_addr: source[0].to_ne_bytes(),
            dst_addr: [t0, t1, t2, t3],
        };
        ip.check = ipv4_checksum(&ip);
        packet.store(0, &OuterIpv4 { ethernet, ip, udp, vxlan })
    } else {
        let [a, b, c, d] = source.map(u32::to_ne_bytes);
        let ip = Ipv6Hdr {
            // Version 6, no traffic class, no flow label.
            vcf: [0x60, 0, 0, 0],
            payload_len: udp_len.to_be_bytes(),
            next_hdr: IpProtocol::UDP.0,
            hop_limit: TTL,
            src_addr: [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]],
            dst_addr: session.target,
        };
        packet.store(0, &OuterIpv6 { ethernet, ip, udp, vxlan })
    };
    written.map_err(|_| SkipReason::EncapsulateFailed)
}
