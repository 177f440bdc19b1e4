//! The wire format of a copy: Ethernet, IPv4 or IPv6, UDP, VXLAN (RFC 7348), then the frame.

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;
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
