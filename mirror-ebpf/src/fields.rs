//! The fields of a packet that rules look at.

use mirror_common::{
    protocol::{EtherType, IpProtocol},
    vxlan::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN},
};

use crate::packet::Packet;

/// How many VLAN tags are stepped over, one that the device took off included. A frame with more is not taken for IP.
const VLAN_MAX_DEPTH: u32 = 2;
/// How many IPv6 extension headers are walked. Behind more, a packet has no ports, and is counted.
const EXTENSION_HEADERS_MAX: u32 = 8;

/// What rules look at. Lives in a map (see [`crate::classify`]).
#[repr(C)]
pub(crate) struct Fields {
    /// Host byte order, high and low half; IPv4 in the first.
    pub(crate) source: [u64; 2],
    pub(crate) destination: [u64; 2],
    /// 1 for IPv6.
    pub(crate) is_v6: u32,
    pub(crate) protocol: u32,
    /// 1 where there are ports, of TCP or UDP; later fragments and packets cut short have none.
    pub(crate) has_ports: u32,
    pub(crate) source_port: u32,
    pub(crate) destination_port: u32,
    /// 1 if there are more extension headers than are walked.
    pub(crate) too_deep: u32,
    /// Where the next header begins, while they are walked.
    offset: u32,
}

impl Fields {
    /// Reads the fields; `None` when the frame has no IP header, or none that can be read.
    #[inline(always)]
    pub(crate) fn read(&mut self, packet: &Packet) -> Option<()> {
        self.has_ports = 0;
        self.too_deep = 0;
        if packet.has_ethernet() && self.plain_ipv4(packet).is_some() {
            return Some(());
        }
        match self.network_header(packet)? {
            EtherType::IPV4 => self.ipv4(packet),
            EtherType::IPV6 => self.ipv6(packet),
            _ => None,
        }
    }

    /// Reads the common case, all of it in one go: IPv4 right behind the Ethernet header, without options. `None` is for
    /// whatever isn't that.
    #[inline(always)]
    fn plain_ipv4(&mut self, packet: &Packet) -> Option<()> {
        if packet.protocol() != EtherType::IPV4 {
            return None;
        }
        let words = packet.linear::<ETHERNET_LEN, 6>()?.map(u32::from_be);
        let [lengths, fragment, protocol, source, destination, ports] = words;
        if lengths >> 24 != 0x45 {
            return None;
        }
        self.is_v6 = 0;
        self.source[0] = u64::from(source);
        self.destination[0] = u64::from(destination);
        self.protocol = protocol >> 16 & 0xff;
        let protocol = IpProtocol(self.protocol as u8);
        if fragment & 0x1fff == 0 && (protocol == IpProtocol::TCP || protocol == IpProtocol::UDP) {
            self.has_ports = 1;
            self.source_port = ports >> 16;
            self.destination_port = ports & 0xffff;
        }
        Some(())
    }

    /// Steps over VLAN tags; the ethertype behind them.
    #[inline(always)]
    fn network_header(&mut self, packet: &Packet) -> Option<EtherType> {
        let mut ethertype = packet.protocol();
        self.offset = packet.link_header_len();
        let taken_off = u32::from(packet.offloaded_vlan_tag().is_some());
        for _ in taken_off..VLAN_MAX_DEPTH {
            match ethertype {
                EtherType::VLAN | EtherType::SERVICE_VLAN => {}
                _ => return Some(ethertype),
            }
            let [_, _, e0, e1] = packet.load::<[u8; 4]>(self.offset)?;
            ethertype = EtherType::from_wire([e0, e1]);
            self.offset += 4;
        }
        Some(ethertype)
    }

    #[inline(always)]
    fn ipv4(&mut self, packet: &Packet) -> Option<()> {
        // RFC 791 §3.1, word by word.
        let [lengths, fragment, protocol, source, destination] =
            packet.load::<[u32; IPV4_LEN / 4]>(self.offset)?.map(u32::from_be);
        let header_len = (lengths >> 24 & 0x0f) * 4;
        if lengths >> 28 != 4 || header_len < IPV4_LEN as u32 {
            return None;
        }
        self.is_v6 = 0;
        self.source[0] = u64::from(source);
        self.destination[0] = u64::from(destination);
        self.protocol = protocol >> 16 & 0xff;
        let later_fragment = fragment & 0x1fff != 0;
        if !later_fragment {
            self.offset += header_len;
            self.ports(packet);
        }
        Some(())
    }

    #[inline(always)]
    fn ipv6(&mut self, packet: &Packet) -> Option<()> {
        // RFC 8200 §3, word by word.
        let [version, lengths, s0, s1, s2, s3, d0, d1, d2, d3] =
            packet.load::<[u32; IPV6_LEN / 4]>(self.offset)?.map(u32::from_be);
        if version >> 28 != 6 {
            return None;
        }
        let half = |high, low| u64::from(high) << 32 | u64::from(low);
        self.is_v6 = 1;
        self.source = [half(s0, s1), half(s2, s3)];
        self.destination = [half(d0, d1), half(d2, d3)];
        self.protocol = lengths >> 8 & 0xff;
        self.offset += IPV6_LEN as u32;
        for _ in 0..EXTENSION_HEADERS_MAX {
            if !self.is_at_extension() {
                break;
            }
            if !self.step(packet) {
                return Some(());
            }
        }
        if self.is_at_extension() {
            self.too_deep = 1;
        } else {
            self.ports(packet);
        }
        Some(())
    }

    #[inline(always)]
    fn is_at_extension(&self) -> bool {
        matches!(
            IpProtocol(self.protocol as u8),
            IpProtocol::HOP_BY_HOP
                | IpProtocol::ROUTING
                | IpProtocol::DESTINATION
                | IpProtocol::AUTHENTICATION
                | IpProtocol::FRAGMENT
        )
    }

    /// Steps over an extension header; false when there can be no ports behind it.
    ///
    /// RFC 8200 §4: it begins with the next header's number; its length is in units of eight bytes beyond the first
    /// eight, but for AH, which counts four bytes beyond the first eight (RFC 4302 §2.2), and a fragment header, which
    /// has eight. One that is cut short ends the walk with its own number as protocol.
    #[inline(always)]
    fn step(&mut self, packet: &Packet) -> bool {
        let protocol = IpProtocol(self.protocol as u8);
        if protocol == IpProtocol::FRAGMENT {
            let Some([next, _, o0, o1]) = packet.load::<[u8; 4]>(self.offset) else {
                return false;
            };
            self.protocol = u32::from(next);
            self.offset += 8;
            let first = u16::from_be_bytes([o0, o1]) & 0xfff8 == 0;
            return first;
        }
        let Some([next, length]) = packet.load::<[u8; 2]>(self.offset) else {
            return false;
        };
        self.protocol = u32::from(next);
        let shift = if protocol == IpProtocol::AUTHENTICATION { 2 } else { 3 };
        self.offset += 8 + (u32::from(length) << shift);
        true
    }

    #[inline(always)]
    fn ports(&mut self, packet: &Packet) {
        let protocol = IpProtocol(self.protocol as u8);
        if protocol != IpProtocol::TCP && protocol != IpProtocol::UDP {
            return;
        }
        if let Some([s0, s1, d0, d1]) = packet.load::<[u8; 4]>(self.offset) {
            self.has_ports = 1;
            self.source_port = u32::from(u16::from_be_bytes([s0, s1]));
            self.destination_port = u32::from(u16::from_be_bytes([d0, d1]));
        }
    }
}
