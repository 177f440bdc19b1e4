//! Frames made by hand, for injection. Addresses are those of the lab: from the generator to the host unless said
//! otherwise.

use std::net::IpAddr;

use crate::checksum;
use crate::frame::{ETHERNET_HEADER, Frame, ICMP, IPV4, IPV6, Ip, TCP, Tag, UDP};
use crate::lab::{GENERATOR, HOST_SOURCE, Station};

/// `length` bytes that look like nothing in particular; a different `seed` gives different ones.
pub fn content(seed: u64, length: usize) -> Vec<u8> {
    // splitmix64.
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ word >> 31).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// An Ethernet frame with any ethertype and payload.
pub fn ethernet(from: &Station, to: &Station, ethertype: u16, payload: &[u8]) -> Frame {
    let mut bytes = Vec::with_capacity(ETHERNET_HEADER + payload.len());
    bytes.extend_from_slice(&to.mac.0);
    bytes.extend_from_slice(&from.mac.0);
    bytes.extend_from_slice(&ethertype.to_be_bytes());
    bytes.extend_from_slice(payload);
    Frame(bytes)
}

/// An IP packet around `segment`, whose checksum is filled in.
pub fn ip(from: &Station, to: &Station, version: IpVersion, protocol: u8, segment: &[u8]) -> Frame {
    let (source, destination) = (from.address(version), to.address(version));
    let header = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, protocol, 0, 0];
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&destination.octets());
            let total = (header.len() + segment.len()) as u16;
            header[2..4].copy_from_slice(&total.to_be_bytes());
            checksum::fill_ipv4(&mut header, 0);
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            header[4..6].copy_from_slice(&(segment.len() as u16).to_be_bytes());
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&destination.octets());
            header
        }
        _ => unreachable!("a station has one address of each family"),
    };
    let ethertype = if version == IpVersion::V4 { IPV4 } else { IPV6 };
    let mut frame = ethernet(from, to, ethertype, &[header.as_slice(), segment].concat());
    let transport = ETHERNET_HEADER + header.len();
    let end = frame.0.len();
    let layout = Ip { source, destination, protocol, transport, end, fragment_offset: 0, more_fragments: false };
    checksum::fill_transport(&mut frame.0, &layout);
    frame
}

/// The two families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Both families.
pub const BOTH_VERSIONS: [IpVersion; 2] = [IpVersion::V4, IpVersion::V6];

/// A UDP datagram.
pub fn udp(from: &Station, to: &Station, version: IpVersion, ports: (u16, u16), payload: &[u8]) -> Frame {
    let mut segment = Vec::with_capacity(8 + payload.len());
    segment.extend_from_slice(&ports.0.to_be_bytes());
    segment.extend_from_slice(&ports.1.to_be_bytes());
    segment.extend_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
    segment.extend_from_slice(&[0, 0]);
    segment.extend_from_slice(payload);
    ip(from, to, version, UDP, &segment)
}

/// A UDP datagram over IPv4 with `length` bytes of payload.
pub fn udp_v4(length: usize) -> Frame {
    udp(&GENERATOR, &HOST_SOURCE, IpVersion::V4, (1111, 9), &content(length as u64, length))
}

/// A TCP segment over IPv4 that belongs to no connection.
pub fn tcp_v4(length: usize, flags: u8) -> Frame {
    let mut segment = vec![0; 20];
    segment[..4].copy_from_slice(&[0x30, 0x39, 0, 9]);
    segment[4..8].copy_from_slice(&0xffff_ff00_u32.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = flags;
    segment.extend(content(length as u64, length));
    ip(&GENERATOR, &HOST_SOURCE, IpVersion::V4, TCP, &segment)
}

/// An ICMP echo reply (nobody answers those) over IPv4.
pub fn echo_reply_v4(length: usize) -> Frame {
    let segment = [vec![0, 0, 0, 0, 0x77, 0x77, 0, 1], content(length as u64, length)].concat();
    ip(&GENERATOR, &HOST_SOURCE, IpVersion::V4, ICMP, &segment)
}

/// The frame behind VLAN tags, outermost first.
#[must_use]
pub fn tagged(frame: &Frame, tags: &[Tag]) -> Frame {
    let mut bytes = frame.0.clone();
    for tag in tags.iter().rev() {
        tag.put_into(&mut bytes);
    }
    Frame(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crafted_frames_have_right_checksums() {
        for length in [0, 1, 7, 1000] {
            for version in BOTH_VERSIONS {
                let payload = content(1, length);
                checksum::verify(&udp(&GENERATOR, &HOST_SOURCE, version, (1, 2), &payload)).unwrap();
            }
            checksum::verify(&tcp_v4(length, 0x10)).unwrap();
            checksum::verify(&echo_reply_v4(length)).unwrap();
        }
    }
}
