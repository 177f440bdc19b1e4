//! The fields of a packet that rules look at.

use mirror_common::{
    protocol::{EtherType, IpProtocol},
    skip::SkipReason,
    vxlan::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN},
};

use crate::{count, packet::Packet};

/// How many VLAN tags are stepped over, one that the device took off included. A frame with more is not taken for IP.
const VLAN_MAX_DEPTH: u32 = 2;
/// How many IPv6 extension headers are walked. Behind more, a packet has no ports, and is counted.
const EXTENSION_HEADERS_MAX: u32 = 8;

/// Addresses of one family, host byte order.
#[derive(Clone, Copy)]
pub(crate) enum Addresses {
    /// IPv4.
    V4 { source: u32, destination: u32 },
    /// IPv6: high and low half.
    V6 { source: [u64; 2], destination: [u64; 2] },
}

/// What rules look at.
pub(crate) struct Fields {
    pub(crate) addresses: Addresses,
    pub(crate) protocol: IpProtocol,
    /// Source and destination port of TCP and UDP; later fragments and packets cut short have none.
    pub(crate) ports: Option<(u16, u16)>,
}

/// Reads the fields; `None` when the frame has no IP header, or none that can be read.
#[inline(always)]
pub(crate) fn read(packet: &Packet) -> Option<Fields> {
    let (ethertype, offset) = network_header(packet)?;
    match ethertype {
        EtherType::IPV4 => ipv4(packet, offset),
        EtherType::IPV6 => ipv6(packet, offset),
        _ => None,
    }
}

/// The ethertype behind the VLAN tags, and where its header begins.
#[inline(always)]
fn network_header(packet: &Packet) -> Option<(EtherType, u32)> {
    let mut ethertype = packet.protocol();
    let mut offset = ETHERNET_LEN as u32;
    let taken_off = u32::from(packet.offloaded_vlan_tag().is_some());
    for _ in taken_off..VLAN_MAX_DEPTH {
        match ethertype {
            EtherType::VLAN | EtherType::SERVICE_VLAN => {}
            _ => return Some((ethertype, offset)),
        }
        let [_, _, e0, e1] = packet.load::<[u8; 4]>(offset)?;
        ethertype = EtherType::from_wire([e0, e1]);
        offset += 4;
    }
    Some((ethertype, offset))
}

#[inline(always)]
fn ipv4(packet: &Packet, offset: u32) -> Option<Fields> {
    let header = packet.load::<[u8; IPV4_LEN]>(offset)?;
    let header_len = u32::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_len < IPV4_LEN as u32 {
        return None;
    }
    let protocol = IpProtocol(header[9]);
    let later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    Some(Fields {
        addresses: Addresses::V4 { source: word(&header, 12), destination: word(&header, 16) },
        protocol,
        ports: if later_fragment { None } else { ports(packet, offset + header_len, protocol) },
    })
}

#[inline(always)]
fn ipv6(packet: &Packet, mut offset: u32) -> Option<Fields> {
    let header = packet.load::<[u8; IPV6_LEN]>(offset)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let half = |at| u64::from(word(&header, at)) << 32 | u64::from(word(&header, at + 4));
    let mut fields = Fields {
        addresses: Addresses::V6 { source: [half(8), half(16)], destination: [half(24), half(32)] },
        protocol: IpProtocol(header[6]),
        ports: None,
    };
    offset += IPV6_LEN as u32;
    for _ in 0..EXTENSION_HEADERS_MAX {
        // RFC 8200 §4: an extension header begins with the next header's number; its length is in units of eight
        // bytes beyond the first eight, but for AH, which counts four bytes beyond the first eight (RFC 4302 §2.2).
        // One that is cut short ends the walk: its own number is the protocol, and there are no ports.
        let unit = match fields.protocol {
            IpProtocol::HOP_BY_HOP | IpProtocol::ROUTING | IpProtocol::DESTINATION => 8,
            IpProtocol::AUTHENTICATION => 4,
            IpProtocol::FRAGMENT => {
                let Some([next, _, o0, o1]) = packet.load::<[u8; 4]>(offset) else {
                    return Some(fields);
                };
                fields.protocol = IpProtocol(next);
                offset += 8;
                if u16::from_be_bytes([o0, o1]) & 0xfff8 != 0 {
                    return Some(fields);
                }
                continue;
            }
            _ => {
                fields.ports = ports(packet, offset, fields.protocol);
                return Some(fields);
            }
        };
        let Some([next, length]) = packet.load::<[u8; 2]>(offset) else {
            return Some(fields);
        };
        fields.protocol = IpProtocol(next);
        offset += 8 + unit * u32::from(length);
    }
    if is_extension(fields.protocol) {
        count::skipped(SkipReason::ExtensionHeadersTooDeep);
    } else {
        fields.ports = ports(packet, offset, fields.protocol);
    }
    Some(fields)
}

#[inline(always)]
fn is_extension(protocol: IpProtocol) -> bool {
    matches!(
        protocol,
        IpProtocol::HOP_BY_HOP
            | IpProtocol::ROUTING
            | IpProtocol::DESTINATION
            | IpProtocol::AUTHENTICATION
            | IpProtocol::FRAGMENT
    )
}

#[inline(always)]
fn ports(packet: &Packet, offset: u32, protocol: IpProtocol) -> Option<(u16, u16)> {
    if protocol != IpProtocol::TCP && protocol != IpProtocol::UDP {
        return None;
    }
    let [s0, s1, d0, d1] = packet.load::<[u8; 4]>(offset)?;
    Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
}

#[inline(always)]
fn word<const N: usize>(header: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}
