//! A frame as it was on the wire, and as much of a parser as the assertions need.
//!
//! Written from IEEE 802.3/802.1Q, RFC 791, RFC 8200, RFC 9293, RFC 768, RFC 792 and RFC 4443; shares no code with the
//! product, so that a mistake there can't hide here. Multi-byte fields are in network order.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of two MAC addresses and the ethertype.
pub const ETHERNET_HEADER: usize = 14;
/// Ethertype of IPv4.
pub const IPV4: u16 = 0x0800;
/// Ethertype of ARP.
pub const ARP: u16 = 0x0806;
/// Ethertype of IPv6.
pub const IPV6: u16 = 0x86dd;
/// Ethertype of a VLAN tag (802.1Q).
pub const VLAN: u16 = 0x8100;
/// Ethertype of a service tag (802.1ad).
pub const SERVICE_VLAN: u16 = 0x88a8;
/// Ethertype for local experiments (IEEE 802, 9.2.3): the lab's own markers.
pub const LOCAL_EXPERIMENT: u16 = 0x88b5;

/// IP protocol numbers.
pub const ICMP: u8 = 1;
/// Internet Group Management Protocol.
pub const IGMP: u8 = 2;
/// Transmission Control Protocol.
pub const TCP: u8 = 6;
/// User Datagram Protocol.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;

/// IPv6 extension headers that are stepped over; past so many the packet is taken to have no transport header.
const MAX_EXTENSION_HEADERS: usize = 16;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// [`VLAN`] or [`SERVICE_VLAN`].
    pub ethertype: u16,
    /// Priority, drop eligibility, VLAN identifier.
    pub control: u16,
}

impl Tag {
    /// The tag in front of the ethertype of an untagged (or inner-tagged) frame.
    pub fn put_into(self, frame: &mut Vec<u8>) {
        let [a, b] = self.ethertype.to_be_bytes();
        let [c, d] = self.control.to_be_bytes();
        frame.splice(12..12, [a, b, c, d]);
    }
}

/// A frame from its destination MAC address to its last byte, without the check sequence.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame(pub Vec<u8>);

/// Where the headers of a frame are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers {
    /// VLAN tags, outermost first.
    pub tags: Vec<Tag>,
    /// What follows the tags.
    pub ethertype: u16,
    /// Offset of the network header.
    pub network: usize,
    /// The IP header, where there is a whole one.
    pub ip: Option<Ip>,
}

/// An IPv4 or IPv6 header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Where the packet comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// The transport protocol, behind extension headers.
    pub protocol: u8,
    /// Offset of the transport header.
    pub transport: usize,
    /// Offset past the packet, by its own length field; the frame may be shorter (cut) or longer (padded).
    pub end: usize,
    /// The offset of a fragment; 0 also for whole packets.
    pub fragment_offset: u16,
    /// More fragments follow.
    pub more_fragments: bool,
}

impl Ip {
    /// Whether the whole transport segment is in this packet.
    pub fn is_whole(&self) -> bool {
        self.fragment_offset == 0 && !self.more_fragments
    }
}

/// The big-endian number at `offset`, if the bytes are there.
pub fn be16(bytes: &[u8], offset: usize) -> Option<u16> {
    let bytes = bytes.get(offset..offset + 2)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// The big-endian number at `offset`, if the bytes are there.
pub fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

impl Frame {
    /// All its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The first `length` bytes; all of them when there are fewer.
    #[must_use]
    pub fn cut(&self, length: usize) -> Self {
        Self(self.0[..length.min(self.0.len())].to_vec())
    }

    /// The address it goes to.
    pub fn destination_mac(&self) -> Option<Mac> {
        Some(Mac(self.0.get(..6)?.try_into().ok()?))
    }

    /// The address it comes from.
    pub fn source_mac(&self) -> Option<Mac> {
        Some(Mac(self.0.get(6..12)?.try_into().ok()?))
    }

    /// Finds the headers; `None` for less than an Ethernet header.
    pub fn layers(&self) -> Option<Layers> {
        let bytes = &self.0;
        let mut tags = Vec::new();
        let mut ethertype = be16(bytes, 12)?;
        let mut network = ETHERNET_HEADER;
        while ethertype == VLAN || ethertype == SERVICE_VLAN {
            let (Some(control), Some(next)) = (be16(bytes, network), be16(bytes, network + 2)) else { break };
            tags.push(Tag { ethertype, control });
            ethertype = next;
            network += 4;
        }
        let ip = match ethertype {
            IPV4 => ipv4(bytes, network),
            IPV6 => ipv6(bytes, network),
            _ => None,
        };
        Some(Layers { tags, ethertype, network, ip })
    }

    /// The IP header, where there is a whole one.
    pub fn ip(&self) -> Option<Ip> {
        self.layers()?.ip
    }

    /// Whether the ethertype, behind tags, says IPv4 or IPv6.
    pub fn is_ip(&self) -> bool {
        self.layers().is_some_and(|layers| layers.ethertype == IPV4 || layers.ethertype == IPV6)
    }

    /// Source and destination port of a TCP or UDP packet.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let ip = self.ip()?;
        if ip.fragment_offset != 0 || (ip.protocol != TCP && ip.protocol != UDP) {
            return None;
        }
        Some((be16(&self.0, ip.transport)?, be16(&self.0, ip.transport + 2)?))
    }

    /// What the hosts of the lab say on their own account at times of their choosing: ARP, neighbour discovery,
    /// router discovery and group membership. Tests that count frames leave these out.
    pub fn is_housekeeping(&self) -> bool {
        let Some(layers) = self.layers() else { return false };
        if layers.ethertype == ARP || layers.ethertype == LOCAL_EXPERIMENT {
            return true;
        }
        let Some(ip) = layers.ip else { return false };
        match ip.protocol {
            IGMP => true,
            // RFC 4443, 2710, 4861, 3810: membership and discovery messages.
            ICMPV6 => matches!(self.0.get(ip.transport), Some(130..=137 | 143)),
            _ => false,
        }
    }
}

fn ipv4(bytes: &[u8], network: usize) -> Option<Ip> {
    let header = bytes.get(network..network + 20)?;
    let header_length = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_length < 20 {
        return None;
    }
    let fragment = be16(header, 6)?;
    let address = |offset: usize| be32(header, offset).map(|word| IpAddr::V4(Ipv4Addr::from(word)));
    Some(Ip {
        source: address(12)?,
        destination: address(16)?,
        protocol: header[9],
        transport: network + header_length,
        end: network + usize::from(be16(header, 2)?),
        fragment_offset: fragment & 0x1fff,
        more_fragments: fragment & 0x2000 != 0,
    })
}

fn ipv6(bytes: &[u8], network: usize) -> Option<Ip> {
    let header = bytes.get(network..network + 40)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let address = |offset: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = header[offset..offset + 16].try_into().ok()?;
        Some(IpAddr::V6(Ipv6Addr::from(octets)))
    };
    let mut protocol = header[6];
    let mut transport = network + 40;
    let (mut fragment_offset, mut more_fragments) = (0, false);
    for _ in 0..MAX_EXTENSION_HEADERS {
        let length = match protocol {
            // Hop-by-hop, routing, destination options: 8-byte units, the first not counted (RFC 8200 §4.3).
            0 | 43 | 60 => (usize::from(*bytes.get(transport + 1)?) + 1) * 8,
            44 => {
                let field = be16(bytes, transport + 2)?;
                fragment_offset = field >> 3;
                more_fragments = field & 1 != 0;
                8
            }
            // Authentication header: 4-byte units, the first two not counted (RFC 4302 §2.2).
            51 => (usize::from(*bytes.get(transport + 1)?) + 2) * 4,
            _ => break,
        };
        protocol = *bytes.get(transport)?;
        transport += length;
        if fragment_offset != 0 {
            break;
        }
    }
    Some(Ip {
        source: address(8)?,
        destination: address(24)?,
        protocol,
        transport,
        end: network + 40 + usize::from(be16(header, 4)?),
        fragment_offset,
        more_fragments,
    })
}

impl fmt::Display for Frame {
    /// One line, in the manner of tcpdump.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())?;
        let (Some(source), Some(destination)) = (self.source_mac(), self.destination_mac()) else { return Ok(()) };
        let Some(layers) = self.layers() else { return Ok(()) };
        write!(f, ", {source} > {destination}")?;
        for tag in &layers.tags {
            write!(f, " vlan {}", tag.control & 0xfff)?;
        }
        let Some(ip) = layers.ip else { return write!(f, " type {:#06x}", layers.ethertype) };
        write!(f, " {} > {}", ip.source, ip.destination)?;
        match (ip.protocol, self.ports()) {
            (TCP, Some((from, to))) => {
                let sequence = be32(&self.0, ip.transport + 4).unwrap_or_default();
                let flags = self.0.get(ip.transport + 13).copied().unwrap_or_default();
                write!(f, " tcp {from} > {to} seq {sequence} flags {flags:#04x}")
            }
            (UDP, Some((from, to))) => write!(f, " udp {from} > {to}"),
            (protocol, _) => write!(f, " protocol {protocol}"),
        }
    }
}

impl fmt::Debug for Frame {
    /// The line and a hex dump of the first bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 128;
        write!(f, "{self}")?;
        for (line, bytes) in self.0[..SHOWN.min(self.0.len())].chunks(16).enumerate() {
            write!(f, "\n    {:04x} ", line * 16)?;
            for byte in bytes {
                write!(f, " {byte:02x}")?;
            }
        }
        if self.0.len() > SHOWN { write!(f, " ...") } else { Ok(()) }
    }
}
