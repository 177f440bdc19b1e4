//! The internet checksum (RFC 1071), computed and verified on whole frames.

use std::net::IpAddr;

use crate::frame::{Frame, ICMP, ICMPV6, IPV4, Ip, TCP, UDP, be16};

/// The ones' complement sum of `bytes` on top of `sum`, folded to 16 bits.
pub fn add(sum: u16, bytes: &[u8]) -> u16 {
    let mut total = u64::from(sum);
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        total += u64::from(u16::from_be_bytes([pair[0], low]));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The sum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1) of a segment of `length` bytes.
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    let mut sum = 0;
    for address in [source, destination] {
        sum = match address {
            IpAddr::V4(address) => add(sum, &address.octets()),
            IpAddr::V6(address) => add(sum, &address.octets()),
        };
    }
    sum = add(sum, &(length as u32).to_be_bytes());
    add(sum, &[0, protocol])
}

/// Writes the transport checksum of a whole TCP, UDP or ICMP packet; leaves others alone.
pub fn fill_transport(bytes: &mut [u8], ip: &Ip) {
    let Some(offset) = field(ip) else { return };
    bytes[offset..offset + 2].fill(0);
    let mut value = !sum_transport(bytes, ip);
    if value == 0 && ip.protocol == UDP {
        // RFC 768: zero stands for "no checksum", so a computed zero is sent as ones.
        value = 0xffff;
    }
    bytes[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
}

/// Writes the header checksum of the IPv4 header at `network`.
pub fn fill_ipv4(bytes: &mut [u8], network: usize) {
    let length = usize::from(bytes[network] & 0x0f) * 4;
    bytes[network + 10..network + 12].fill(0);
    let value = !add(0, &bytes[network..network + length]);
    bytes[network + 10..network + 12].copy_from_slice(&value.to_be_bytes());
}

/// Checks the IPv4 header checksum and the transport checksum of an uncut frame; says which one is wrong.
pub fn verify(frame: &Frame) -> Result<(), String> {
    let Some(layers) = frame.layers() else { return Ok(()) };
    let Some(ip) = layers.ip else { return Ok(()) };
    let bytes = frame.bytes();
    if layers.ethertype == IPV4 && add(0, &bytes[layers.network..ip.transport.min(bytes.len())]) != 0xffff {
        return Err("the IPv4 header checksum is wrong".into());
    }
    if ip.end > bytes.len() {
        return Err(format!("the IP packet says it ends at byte {}, the frame at {}", ip.end, bytes.len()));
    }
    let Some(offset) = field(&ip) else { return Ok(()) };
    if !ip.is_whole() || offset + 2 > ip.end {
        return Ok(());
    }
    // RFC 768: an IPv4 sender may leave the checksum out.
    if ip.protocol == UDP && layers.ethertype == IPV4 && be16(bytes, offset) == Some(0) {
        return Ok(());
    }
    match sum_transport(bytes, &ip) {
        0xffff => Ok(()),
        _ => Err(format!("the checksum of protocol {} is wrong", ip.protocol)),
    }
}

/// Offset of the transport checksum.
fn field(ip: &Ip) -> Option<usize> {
    let inside = match ip.protocol {
        TCP => 16,
        UDP => 6,
        ICMP | ICMPV6 => 2,
        _ => return None,
    };
    Some(ip.transport + inside)
}

fn sum_transport(bytes: &[u8], ip: &Ip) -> u16 {
    let segment = &bytes[ip.transport..ip.end];
    let start = match ip.protocol {
        // RFC 792: the checksum of ICMP covers the message only.
        ICMP => 0,
        protocol => pseudo_header(ip.source, ip.destination, protocol, segment.len()),
    };
    add(start, segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_the_example_of_rfc_1071() {
        assert_eq!(add(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(add(0, &[0x00, 0x01, 0xf2]), 0xf201, "an odd byte is padded with zero");
    }
}
