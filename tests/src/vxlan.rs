//! A strict reader of copies, written from RFC 7348 (VXLAN), RFC 768 (UDP), RFC 791 (IPv4), RFC 8200 (IPv6) and the
//! product's contract on the outer headers. It shares no code with the product.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum;
use crate::frame::{ETHERNET_HEADER, Frame, IPV4, IPV6, Mac, be16};

/// The UDP port of VXLAN.
pub const PORT: u16 = 4789;

/// A copy as the collector gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Outer Ethernet source.
    pub source_mac: Mac,
    /// Outer Ethernet destination.
    pub destination_mac: Mac,
    /// Outer IP source.
    pub source: IpAddr,
    /// Outer IP destination.
    pub destination: IpAddr,
    /// UDP source port.
    pub source_port: u16,
    /// UDP destination port.
    pub destination_port: u16,
    /// VXLAN network identifier.
    pub vni: u32,
    /// The mirrored frame, or as much of it as was copied.
    pub inner: Frame,
    /// Bytes behind the end of the outer IP packet, all zero: padding of the outer Ethernet frame.
    pub padding: usize,
}

impl Copy {
    /// Takes the outer headers off a frame that goes to UDP port `port`. `None`: it goes elsewhere. `Err`: it goes
    /// there and breaks the contract; says where.
    pub fn read(frame: &Frame, port: u16) -> Option<Result<Self, String>> {
        let layers = frame.layers()?;
        let ip = layers.ip.as_ref()?;
        let udp_port = frame.ports().filter(|_| ip.protocol == crate::frame::UDP)?.1;
        (udp_port == port).then(|| Self::decapsulate(frame))
    }

    /// Takes the outer headers off, checking every field that the contract fixes.
    pub fn decapsulate(frame: &Frame) -> Result<Self, String> {
        let bytes = frame.bytes();
        let ethertype = be16(bytes, 12).ok_or("no Ethernet header")?;
        let OuterIp { source, destination, udp, end } = match ethertype {
            IPV4 => outer_ipv4(bytes)?,
            IPV6 => outer_ipv6(bytes)?,
            other => return Err(format!("the outer ethertype is {other:#06x}, not IPv4 or IPv6")),
        };
        if end > bytes.len() || end < udp {
            return Err(format!("the outer IP packet should end at byte {end} of {}", bytes.len()));
        }
        let port = |offset: usize| be16(bytes, udp + offset).ok_or("no room for a UDP header");
        let (source_port, destination_port, length, udp_checksum) = (port(0)?, port(2)?, port(4)?, port(6)?);
        expect("UDP length", usize::from(length), end - udp)?;
        if bytes[end..].iter().any(|&byte| byte != 0) {
            return Err("what stands behind the end of the outer packet is not zero".into());
        }
        expect("UDP checksum", udp_checksum, 0)?;
        if source_port < 49152 {
            return Err(format!("the UDP source port is {source_port}, not 49152 to 65535"));
        }
        let [flags, r1, r2, r3, v1, v2, v3, r4]: [u8; 8] = bytes
            .get(udp + 8..udp + 16)
            .and_then(|header| header.try_into().ok())
            .ok_or("no room for a VXLAN header")?;
        expect("VXLAN flags", flags, 0x08)?;
        expect("VXLAN reserved bytes", [r1, r2, r3, r4], [0; 4])?;
        let inner = bytes.get(udp + 16..end).unwrap_or_default().to_vec();
        if inner.is_empty() {
            return Err("there is nothing behind the VXLAN header".into());
        }
        Ok(Self {
            destination_mac: frame.destination_mac().ok_or("no Ethernet header")?,
            source_mac: frame.source_mac().ok_or("no Ethernet header")?,
            source,
            destination,
            source_port,
            destination_port,
            vni: u32::from_be_bytes([0, v1, v2, v3]),
            inner: Frame(inner),
            padding: bytes.len() - end,
        })
    }
}

struct OuterIp {
    source: IpAddr,
    destination: IpAddr,
    /// Offset of the UDP header.
    udp: usize,
    /// Offset past the packet, as its header says.
    end: usize,
}

fn outer_ipv4(bytes: &[u8]) -> Result<OuterIp, String> {
    let header = bytes.get(ETHERNET_HEADER..ETHERNET_HEADER + 20).ok_or("no room for an IPv4 header")?;
    expect("outer IPv4 version and header length", header[0], 0x45)?;
    expect("outer IPv4 type of service", header[1], 0)?;
    expect("outer IPv4 flags and fragment offset", be16(header, 6), Some(0x4000))?;
    expect("outer IPv4 TTL", header[8], 64)?;
    expect("outer IPv4 protocol", header[9], crate::frame::UDP)?;
    expect("outer IPv4 header sum", checksum::add(0, header), 0xffff)?;
    let address = |offset: usize| {
        IpAddr::V4(Ipv4Addr::new(header[offset], header[offset + 1], header[offset + 2], header[offset + 3]))
    };
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let udp = ETHERNET_HEADER + 20;
    Ok(OuterIp { source: address(12), destination: address(16), udp, end: ETHERNET_HEADER + length })
}

fn outer_ipv6(bytes: &[u8]) -> Result<OuterIp, String> {
    let header = bytes.get(ETHERNET_HEADER..ETHERNET_HEADER + 40).ok_or("no room for an IPv6 header")?;
    // The flow label is the sender's to choose (RFC 6437).
    expect("outer IPv6 version and traffic class", be16(header, 0).map(|word| word & 0xfff0), Some(0x6000))?;
    expect("outer IPv6 next header", header[6], crate::frame::UDP)?;
    expect("outer IPv6 hop limit", header[7], 64)?;
    let address = |offset: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[offset..offset + 16]);
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let udp = ETHERNET_HEADER + 40;
    Ok(OuterIp { source: address(8), destination: address(24), udp, end: udp + length })
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, is: T, should_be: T) -> Result<(), String> {
    if is == should_be { Ok(()) } else { Err(format!("the {what} is {is:?}, not {should_be:?}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7348 §5 by hand: 10.2.0.1 to 10.2.0.2, VNI 42, four bytes inside.
    const BY_HAND: &[u8] = &[
        0x02, 0, 0, 0, 2, 2, 0x02, 0, 0, 0, 2, 1, 0x08, 0x00, // Ethernet
        0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 17, 0x26, 0xbf, 10, 2, 0, 1, 10, 2, 0, 2, // IPv4
        0xc0, 0x01, 0x12, 0xb5, 0, 20, 0, 0, // UDP
        0x08, 0, 0, 0, 0, 0, 42, 0, // VXLAN
        1, 2, 3, 4,
    ];

    #[test]
    fn reads_a_packet_made_by_hand() {
        let copy = Copy::read(&Frame(BY_HAND.to_vec()), PORT).unwrap().unwrap();
        assert_eq!((copy.vni, copy.source_port, copy.inner.0), (42, 0xc001, vec![1, 2, 3, 4]));
        assert_eq!(copy.destination_mac.to_string(), "02:00:00:00:02:02");
    }

    #[test]
    fn tells_padding_from_the_frame() {
        let mut padded = BY_HAND.to_vec();
        padded.extend([0; 6]);
        let copy = Copy::decapsulate(&Frame(padded.clone())).unwrap();
        assert_eq!((copy.inner.0, copy.padding), (vec![1, 2, 3, 4], 6));
        padded[BY_HAND.len()] = 1;
        Copy::decapsulate(&Frame(padded)).unwrap_err();
    }

    #[test]
    fn refuses_each_broken_field() {
        for (offset, value) in
            [(14, 0x46), (17, 41), (20, 0), (22, 63), (24, 0), (34, 0x10), (39, 21), (41, 1), (42, 0), (43, 1), (49, 1)]
        {
            let mut broken = BY_HAND.to_vec();
            broken[offset] = value;
            assert!(Copy::decapsulate(&Frame(broken)).is_err(), "byte {offset} set to {value}");
        }
    }
}
