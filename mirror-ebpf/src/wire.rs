//! How many bytes a packet is on the wire: each wire packet of a GSO packet has headers of its own.

use mirror_common::{
    protocol::{EtherType, IpProtocol},
    vxlan::{IPV4_LEN, IPV6_LEN, UDP_LEN},
};

use crate::packet::Packet;

/// Bytes of the wire packets that `packet` stands for, Ethernet headers included if it has one. The inner headers of a GSO packet
/// inside a tunnel count once: such packets are not dissected here.
#[inline(always)]
pub(crate) fn bytes(packet: &Packet) -> u64 {
    let more = u64::from(packet.wire_packets() - 1);
    let headers = if more == 0 { None } else { headers(packet) };
    u64::from(packet.len()) + more * u64::from(headers.unwrap_or(0))
}

/// How many segments of `size` bytes of payload a GSO packet makes; 1 if it can't be told.
#[inline(always)]
pub(crate) fn segments(packet: &Packet, size: u32) -> u32 {
    let Some(headers) = headers(packet) else {
        return 1;
    };
    packet.len().saturating_sub(headers).div_ceil(size).max(1)
}

/// Bytes in front of the payload of TCP or UDP.
#[inline(always)]
pub(crate) fn headers(packet: &Packet) -> Option<u32> {
    let ip = packet.link_header_len();
    let (protocol, transport) = match packet.protocol() {
        EtherType::IPV4 => {
            let header = packet.load::<[u8; IPV4_LEN]>(ip)?;
            (IpProtocol(header[9]), ip + u32::from(header[0] & 0x0f) * 4)
        }
        EtherType::IPV6 => {
            let header = packet.load::<[u8; IPV6_LEN]>(ip)?;
            (IpProtocol(header[6]), ip + IPV6_LEN as u32)
        }
        _ => return None,
    };
    match protocol {
        // RFC 9293 §3.1: the data offset, in words, is the upper half of byte 12.
        IpProtocol::TCP => Some(transport + u32::from(packet.load::<[u8; 1]>(transport + 12)?[0] >> 4) * 4),
        IpProtocol::UDP => Some(transport + UDP_LEN as u32),
        _ => None,
    }
}
