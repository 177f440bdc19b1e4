//! How many bytes a packet is on the wire: each wire packet of a GSO packet has headers of its own.

use mirror_common::{
    protocol::{EtherType, IpProtocol},
    vxlan::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, UDP_LEN},
};

use crate::packet::Packet;

/// Bytes of the wire packets that `packet` stands for, Ethernet headers included. The inner headers of a GSO packet
/// inside a tunnel count once: such packets are not dissected here.
#[inline(always)]
pub(crate) fn bytes(packet: &Packet) -> u64 {
    let more = u64::from(packet.wire_packets() - 1);
    let headers = if more == 0 { None } else { headers(packet) };
    u64::from(packet.len()) + more * u64::from(headers.unwrap_or(0))
}

/// Bytes in front of the payload of TCP or UDP.
#[inline(always)]
fn headers(packet: &Packet) -> Option<u32> {
    const IP: u32 = ETHERNET_LEN as u32;
    let (protocol, transport) = match packet.protocol() {
        EtherType::IPV4 => {
            let header = packet.load::<[u8; IPV4_LEN]>(IP)?;
            (IpProtocol(header[9]), IP + u32::from(header[0] & 0x0f) * 4)
        }
        EtherType::IPV6 => {
            let header = packet.load::<[u8; IPV6_LEN]>(IP)?;
            (IpProtocol(header[6]), IP + IPV6_LEN as u32)
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
