//! Which flow a frame belongs to, as far as the copy's UDP source port goes. A header that is cut short or malformed
//! only makes the flow coarser.

use mirror_common::{
    flow::{End, Flow},
    protocol::{EtherType, IpProtocol},
    vxlan::{ETHERNET_LEN, ETHERTYPE_AT, IPV4_LEN, IPV6_LEN},
};

use crate::packet::Packet;

/// How many IPv6 extension headers are walked; behind them there are no ports.
const EXTENSION_HEADERS_MAX: u32 = 8;

/// Reads the flow of a frame whose VLAN tags are off.
#[inline(always)]
pub(crate) fn read(packet: &Packet) -> Flow {
    let mut flow = Flow::default();
    if plain_ipv4(packet, &mut flow).is_some() {
        return flow;
    }
    let Some(ethernet) = packet.load::<[u8; ETHERNET_LEN]>(0) else {
        return flow;
    };
    let ethertype = EtherType::from_wire([ethernet[12], ethernet[13]]);
    let known = match ethertype {
        EtherType::IPV4 => ipv4(packet, &mut flow),
        EtherType::IPV6 => ipv6(packet, &mut flow),
        _ => None,
    };
    if known.is_none() {
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = ethernet;
        flow.a.address = [u32::from_be_bytes([d0, d1, d2, d3]), u32::from_be_bytes([0, 0, d4, d5]), 0, 0];
        flow.b.address = [u32::from_be_bytes([s0, s1, s2, s3]), u32::from_be_bytes([0, 0, s4, s5]), 0, 0];
        flow.protocol = ethertype.0;
    }
    flow
}

/// Reads the common case without a call: TCP or UDP over IPv4 without options, no fragment. `None` is for whatever isn't
/// that.
#[inline(always)]
fn plain_ipv4(packet: &Packet, flow: &mut Flow) -> Option<()> {
    // From the ethertype on; an address is in the halves of two words.
    let words = packet.linear::<ETHERTYPE_AT, 7>()?.map(u32::from_be);
    let [version, _, protocol, source, destination, ports, more] = words;
    let fragment = words[2] >> 16 & 0x3fff;
    let number = protocol & 0xff;
    if version >> 8 != 0x08_0045 || fragment != 0 {
        return None;
    }
    if number != u32::from(IpProtocol::TCP.0) && number != u32::from(IpProtocol::UDP.0) {
        return None;
    }
    flow.a = End { address: [source << 16 | destination >> 16, 0, 0, 0], port: ports as u16 };
    flow.b = End { address: [destination << 16 | ports >> 16, 0, 0, 0], port: (more >> 16) as u16 };
    flow.protocol = number as u16;
    Some(())
}

#[inline(always)]
fn ipv4(packet: &Packet, flow: &mut Flow) -> Option<()> {
    let header = packet.load::<[u8; IPV4_LEN]>(ETHERNET_LEN as u32)?;
    flow.a.address[0] = word(&header, 12);
    flow.b.address[0] = word(&header, 16);
    flow.protocol = u16::from(header[9]);
    let header_len = u32::from(header[0] & 0x0f) * 4;
    // More fragments, or a fragment offset: no fragment of a datagram uses ports, so that all take one way.
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    if header_len >= IPV4_LEN as u32 && !fragment {
        ports(packet, ETHERNET_LEN as u32 + header_len, IpProtocol(header[9]), flow);
    }
    Some(())
}

#[inline(always)]
fn ipv6(packet: &Packet, flow: &mut Flow) -> Option<()> {
    let header = packet.load::<[u8; IPV6_LEN]>(ETHERNET_LEN as u32)?;
    flow.a.address = [word(&header, 8), word(&header, 12), word(&header, 16), word(&header, 20)];
    flow.b.address = [word(&header, 24), word(&header, 28), word(&header, 32), word(&header, 36)];
    let mut protocol = IpProtocol(header[6]);
    let mut offset = (ETHERNET_LEN + IPV6_LEN) as u32;
    for _ in 0..EXTENSION_HEADERS_MAX {
        // RFC 8200 §4: every extension header begins with the next header's number; its length is in units of eight
        // bytes beyond the first eight, but for AH, which counts four bytes beyond the first eight (RFC 4302 §2.2).
        let length = match protocol {
            IpProtocol::HOP_BY_HOP | IpProtocol::ROUTING | IpProtocol::DESTINATION => {
                8 + 8 * u32::from(packet.load::<[u8; 2]>(offset)?[1])
            }
            IpProtocol::AUTHENTICATION => 8 + 4 * u32::from(packet.load::<[u8; 2]>(offset)?[1]),
            IpProtocol::FRAGMENT => {
                let fragment = packet.load::<[u8; 8]>(offset)?;
                // An atomic fragment (RFC 6946) is a whole packet.
                if u16::from_be_bytes([fragment[2], fragment[3]]) & 0xfff9 != 0 {
                    flow.protocol = u16::from(fragment[0]);
                    return Some(());
                }
                8
            }
            _ => {
                flow.protocol = u16::from(protocol.0);
                ports(packet, offset, protocol, flow);
                return Some(());
            }
        };
        protocol = IpProtocol(packet.load::<[u8; 1]>(offset)?[0]);
        offset += length;
    }
    flow.protocol = u16::from(protocol.0);
    Some(())
}

#[inline(always)]
fn ports(packet: &Packet, offset: u32, protocol: IpProtocol, flow: &mut Flow) {
    let (a, b) = match protocol {
        IpProtocol::TCP | IpProtocol::UDP => {
            let Some([s0, s1, d0, d1]) = packet.load::<[u8; 4]>(offset) else {
                return;
            };
            (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]))
        }
        IpProtocol::ICMP | IpProtocol::ICMPV6 => {
            let Some([kind, _, _, _, i0, i1]) = packet.load::<[u8; 6]>(offset) else {
                return;
            };
            // Echo request and reply (RFC 792, RFC 4443 §4) are one flow: their identifier stands for both ports.
            let echo = match protocol {
                IpProtocol::ICMP => matches!(kind, 0 | 8),
                _ => matches!(kind, 128 | 129),
            };
            let identifier = if echo { u16::from_be_bytes([i0, i1]) } else { 0 };
            (identifier, identifier)
        }
        _ => return,
    };
    flow.a = End { port: a, ..flow.a };
    flow.b = End { port: b, ..flow.b };
}

#[inline(always)]
fn word<const N: usize>(header: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}
