//! The wire format of a copy: Ethernet, IPv4 or IPv6, UDP, VXLAN (RFC 7348), then the frame.

use network_types::ip::Ipv4Hdr;

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;
/// Where in an Ethernet header the ethertype is.
pub const ETHERTYPE_AT: usize = 12;
/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Bytes of the fixed IPv6 header.
pub const IPV6_LEN: usize = 40;
/// Bytes of a UDP header.
pub const UDP_LEN: usize = 8;
/// Bytes of a VXLAN header (RFC 7348 §5).
pub const VXLAN_LEN: usize = 8;
/// Bytes in front of the frame with an IPv4 target.
pub const OUTER_IPV4_LEN: usize = ETHERNET_LEN + IPV4_LEN + UDP_LEN + VXLAN_LEN;
/// Bytes in front of the frame with an IPv6 target.
pub const OUTER_IPV6_LEN: usize = ETHERNET_LEN + IPV6_LEN + UDP_LEN + VXLAN_LEN;
const _: () = assert!(OUTER_IPV4_LEN == 50 && OUTER_IPV6_LEN == 70);

/// The UDP port that IANA gave to VXLAN (RFC 7348 §5): the default of a target.
pub const DEFAULT_PORT: u16 = 4789;
/// First byte of a VXLAN header: only the I bit, "the VNI is valid" (RFC 7348 §5).
pub const FLAGS: u8 = 0x08;
/// Largest VNI: 24 bits.
pub const MAX_VNI: u32 = (1 << 24) - 1;
/// TTL and hop limit of the outer header.
pub const TTL: u8 = 64;
/// The IPv4 "don't fragment" bit in the field of flags and fragment offset, network order.
pub const DONT_FRAGMENT: [u8; 2] = [0x40, 0x00];

/// The checksum of an IPv4 header without options (RFC 1071 §1), its checksum field taken as zero.
#[inline(always)]
pub fn ipv4_checksum(header: &Ipv4Hdr) -> [u8; 2] {
    let word = |high: u8, low: u8| u32::from(u16::from_be_bytes([high, low]));
    let [s0, s1, s2, s3] = header.src_addr;
    let [d0, d1, d2, d3] = header.dst_addr;
    let sum = word(header.vihl, header.tos)
        + word(header.tot_len[0], header.tot_len[1])
        + word(header.id[0], header.id[1])
        + word(header.frags[0], header.frags[1])
        + word(header.ttl, header.proto)
        + word(s0, s1)
        + word(s2, s3)
        + word(d0, d1)
        + word(d2, d3);
    // Nine words: at most one carry is left after the first fold, so two folds are enough.
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_worked_by_hand_comes_out() {
        let header = Ipv4Hdr {
            vihl: 0x45,
            tos: 0,
            tot_len: [0, 0x73],
            id: [0; 2],
            frags: DONT_FRAGMENT,
            ttl: 0x40,
            proto: 0x11,
            check: [0; 2],
            src_addr: [0xc0, 0xa8, 0x00, 0x01],
            dst_addr: [0xc0, 0xa8, 0x00, 0xc7],
        };
        // 4500+0073+0000+4000+4011+c0a8+0001+c0a8+00c7 = 2479c; 2+479c = 479e; its complement is b861.
        assert_eq!(ipv4_checksum(&header), [0xb8, 0x61]);
    }

    #[test]
    fn carries_are_folded_until_none_is_left() {
        let header = Ipv4Hdr {
            vihl: 0xff,
            tos: 0xff,
            tot_len: [0xff; 2],
            id: [0xff; 2],
            frags: [0xff; 2],
            ttl: 0xff,
            proto: 0xff,
            check: [0; 2],
            src_addr: [0xff; 4],
            dst_addr: [0xff; 4],
        };
        // Nine times ffff is ffff in one's complement arithmetic.
        assert_eq!(ipv4_checksum(&header), [0, 0]);
    }
}
