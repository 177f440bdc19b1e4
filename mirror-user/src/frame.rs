//! One line about an Ethernet frame, for `capture`. Pure, and for hostile input: a frame may be cut anywhere and may
//! hold anything; what is printed is made of numbers, addresses and words of this file only.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mirror_common::protocol::{EtherType, IpProtocol};

/// VLAN tags that are stepped over; what is behind more of them is not looked at.
const MAX_VLAN_TAGS: usize = 4;
/// IPv6 extension headers that are stepped over; what is behind more of them is not looked at.
const MAX_EXTENSION_HEADERS: usize = 8;

/// What a frame is, as far as its bytes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// One line without control characters: "TCP 192.0.2.1:40000 > 192.0.2.2:80 [SYN] seq 1 win 64240 len 0".
    pub text: String,
    /// Bytes that are here.
    pub length: usize,
    /// Bytes that were on the wire, if the frame's headers say that there were more.
    pub original_length: Option<usize>,
    /// A header ends where the bytes end.
    header_cut: bool,
}

impl Summary {
    /// Reads `frame`, from its Ethernet header.
    pub fn of(frame: &[u8]) -> Self {
        let mut reader = Reader { frame, at: 0, end: None, text: String::new() };
        let stop = reader.ethernet().err();
        if let Some(Stop::Malformed(why)) = stop {
            reader.text += &format!(", malformed: {why}");
        }
        Self {
            length: frame.len(),
            original_length: reader.end.filter(|&end| end > frame.len()),
            header_cut: stop == Some(Stop::Cut),
            text: reader.text,
        }
    }

    /// Whether these are only the first bytes of the frame, as far as its headers tell.
    pub const fn is_cut(&self) -> bool {
        self.header_cut || self.original_length.is_some()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match self.original_length {
            Some(original) => write!(f, " [cut: {} of {original} bytes]", self.length),
            None if self.header_cut => write!(f, " [cut after {} bytes]", self.length),
            None => Ok(()),
        }
    }
}

/// Why reading ends before there is nothing left to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The bytes end inside a header.
    Cut,
    /// The headers contradict each other.
    Malformed(&'static str),
}

/// The rest of an IP packet once its headers are read.
struct Ip {
    source: IpAddr,
    destination: IpAddr,
    protocol: IpProtocol,
    fragment: Option<Fragment>,
}

struct Fragment {
    id: u32,
    /// In bytes.
    offset: u16,
    more: bool,
}

/// A cursor that writes what it reads. Every step checks bounds and advances.
struct Reader<'a> {
    frame: &'a [u8],
    at: usize,
    /// Where the packet ends by its own headers: beyond the bytes if it was cut, before them if the frame is padded.
    end: Option<usize>,
    text: String,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        if self.end.is_some_and(|end| self.at + N > end) {
            return Err(Stop::Malformed("a header does not fit into the packet"));
        }
        let bytes = self.frame.get(self.at..).and_then(|rest| rest.first_chunk::<N>()).ok_or(Stop::Cut)?;
        self.at += N;
        Ok(*bytes)
    }

    fn u16(&mut self) -> Result<u16, Stop> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Stop> {
        self.take().map(u32::from_be_bytes)
    }

    /// Steps over `count` bytes.
    fn skip(&mut self, count: usize) -> Result<(), Stop> {
        if self.end.is_some_and(|end| self.at + count > end) {
            return Err(Stop::Malformed("a header does not fit into the packet"));
        }
        if self.at + count > self.frame.len() {
            return Err(Stop::Cut);
        }
        self.at += count;
        Ok(())
    }

    /// Bytes of the packet behind the cursor, on the wire.
    fn left(&self) -> usize {
        self.end.unwrap_or(self.frame.len()).saturating_sub(self.at)
    }

    fn ethernet(&mut self) -> Result<(), Stop> {
        self.text += "Ethernet";
        let destination: [u8; 6] = self.take()?;
        let source: [u8; 6] = self.take()?;
        let mut ethertype = EtherType(self.u16()?);
        self.text.clear();
        for _ in 0..MAX_VLAN_TAGS {
            let name = match ethertype {
                EtherType::VLAN => "VLAN",
                EtherType::SERVICE_VLAN => "service VLAN",
                _ => break,
            };
            self.text += name;
            let control = self.u16()?;
            self.text += &format!(" {}", control & 0x0fff);
            if control >> 13 != 0 {
                self.text += &format!(" priority {}", control >> 13);
            }
            self.text += ", ";
            ethertype = EtherType(self.u16()?);
        }
        const ARP: EtherType = EtherType(0x0806);
        match ethertype {
            EtherType::IPV4 => self.ipv4(),
            EtherType::IPV6 => self.ipv6(),
            ARP => self.arp(),
            EtherType(number) => {
                self.text += &format!("{} > {} ", Mac(source), Mac(destination));
                // IEEE 802.3: below 0x0600 the field is a length, and LLC follows.
                self.text += &match number {
                    ..0x0600 => format!("802.3 length {number}"),
                    0x88cc => "LLDP".to_owned(),
                    0x8847 | 0x8848 => "MPLS".to_owned(),
                    0x8863 | 0x8864 => "PPPoE".to_owned(),
                    _ => format!("ethertype {number:#06x}"),
                };
                Ok(())
            }
        }
    }

    fn arp(&mut self) -> Result<(), Stop> {
        self.text += "ARP";
        let start = self.at;
        let (hardware, protocol) = (self.u16()?, self.u16()?);
        let [hardware_length, protocol_length] = self.take()?;
        self.end = Some(start + 8 + 2 * (usize::from(hardware_length) + usize::from(protocol_length)));
        let operation = self.u16()?;
        if (hardware, EtherType(protocol), hardware_length, protocol_length) != (1, EtherType::IPV4, 6, 4) {
            self.text += &format!(" operation {operation}, hardware type {hardware}, protocol {protocol:#06x}");
            return Ok(());
        }
        let sender_mac = Mac(self.take()?);
        let sender = Ipv4Addr::from(self.take::<4>()?);
        let _target_mac: [u8; 6] = self.take()?;
        let target = Ipv4Addr::from(self.take::<4>()?);
        self.text += &match operation {
            1 => format!(" who has {target}? tell {sender}"),
            2 => format!(" {sender} is at {sender_mac}"),
            _ => format!(" operation {operation}, {sender} ({sender_mac}) > {target}"),
        };
        Ok(())
    }

    fn ipv4(&mut self) -> Result<(), Stop> {
        self.text += "IPv4";
        let start = self.at;
        let [version_and_length, _tos] = self.take()?;
        let header_length = usize::from(version_and_length & 0x0f) * 4;
        if version_and_length >> 4 != 4 {
            return Err(Stop::Malformed("its version is not 4"));
        }
        if header_length < 20 {
            return Err(Stop::Malformed("its header is shorter than 20 bytes"));
        }
        let total_length = usize::from(self.u16()?);
        if total_length < header_length {
            return Err(Stop::Malformed("it is shorter than its header"));
        }
        self.end = Some(start + total_length);
        let (id, fragment) = (self.u16()?, self.u16()?);
        let [_ttl, protocol] = self.take()?;
        let _checksum = self.u16()?;
        let source = Ipv4Addr::from(self.take::<4>()?);
        let destination = Ipv4Addr::from(self.take::<4>()?);
        let ip = Ip {
            source: source.into(),
            destination: destination.into(),
            protocol: IpProtocol(protocol),
            fragment: Fragment::new(u32::from(id), (fragment & 0x1fff) * 8, fragment & 0x2000 != 0),
        };
        if let Err(stop) = self.skip(header_length - 20) {
            self.text += &format!(" {source} > {destination}");
            return Err(stop);
        }
        self.text.truncate(self.text.len() - "IPv4".len());
        self.transport(&ip)
    }

    fn ipv6(&mut self) -> Result<(), Stop> {
        self.text += "IPv6";
        let [version, _, _, _] = self.take()?;
        if version >> 4 != 6 {
            return Err(Stop::Malformed("its version is not 6"));
        }
        let payload_length = usize::from(self.u16()?);
        let [next, _hop_limit] = self.take()?;
        let mut protocol = IpProtocol(next);
        let source = Ipv6Addr::from(self.take::<16>()?);
        let destination = Ipv6Addr::from(self.take::<16>()?);
        // RFC 2675: zero in front of hop-by-hop options is a jumbogram, whose length is in the options.
        if payload_length > 0 || protocol != IpProtocol::HOP_BY_HOP {
            self.end = Some(self.at + payload_length);
        }
        let mut fragment = None;
        match self.extension_headers(&mut protocol, &mut fragment) {
            Ok(()) => {
                self.text.truncate(self.text.len() - "IPv6".len());
                self.transport(&Ip { source: source.into(), destination: destination.into(), protocol, fragment })
            }
            Err(stop) => {
                self.text += &format!(" {source} > {destination}");
                Err(stop)
            }
        }
    }

    /// Steps over extension headers, up to a later fragment, whose bytes are no header.
    fn extension_headers(&mut self, protocol: &mut IpProtocol, fragment: &mut Option<Fragment>) -> Result<(), Stop> {
        for _ in 0..MAX_EXTENSION_HEADERS {
            match *protocol {
                IpProtocol::HOP_BY_HOP | IpProtocol::ROUTING | IpProtocol::DESTINATION => {
                    let [next, length] = self.take()?;
                    self.skip(usize::from(length) * 8 + 6)?;
                    *protocol = IpProtocol(next);
                }
                IpProtocol::AUTHENTICATION => {
                    // RFC 4302 §2.2: in words of 4 bytes, less 2.
                    let [next, length] = self.take()?;
                    self.skip((usize::from(length) + 2) * 4 - 2)?;
                    *protocol = IpProtocol(next);
                }
                IpProtocol::FRAGMENT => {
                    let [next, _reserved] = self.take()?;
                    let offset = self.u16()?;
                    let id = self.u32()?;
                    *protocol = IpProtocol(next);
                    *fragment = Fragment::new(id, offset & 0xfff8, offset & 1 != 0);
                    if fragment.as_ref().is_some_and(|fragment| fragment.offset > 0) {
                        return Ok(());
                    }
                }
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    fn transport(&mut self, ip: &Ip) -> Result<(), Stop> {
        if let Some(fragment) = &ip.fragment
            && fragment.offset > 0
        {
            self.text += &format!(
                "{} fragment {} > {} id {:#x} offset {} len {}{}",
                protocol_name(ip),
                ip.source,
                ip.destination,
                fragment.id,
                fragment.offset,
                self.left(),
                if fragment.more { ", more follow" } else { ", the last" },
            );
            return Ok(());
        }
        self.text += &protocol_name(ip);
        let result = match ip.protocol {
            IpProtocol::TCP => self.tcp(ip),
            IpProtocol::UDP => self.udp(ip),
            IpProtocol::ICMP if ip.source.is_ipv4() => self.icmp(ip, icmp_name),
            IpProtocol::ICMPV6 if ip.source.is_ipv6() => self.icmp(ip, icmpv6_name),
            _ => {
                self.text += &format!(" {} > {} len {}", ip.source, ip.destination, self.left());
                Ok(())
            }
        };
        if let Some(fragment) = &ip.fragment {
            self.text += &format!(", first fragment id {:#x}", fragment.id);
        }
        result
    }

    /// Both ports, or the bare addresses where they are cut off.
    fn ports(&mut self, ip: &Ip) -> Result<(), Stop> {
        match self.take::<4>() {
            Ok([a, b, c, d]) => {
                let source = SocketAddr::new(ip.source, u16::from_be_bytes([a, b]));
                let destination = SocketAddr::new(ip.destination, u16::from_be_bytes([c, d]));
                self.text += &format!(" {source} > {destination}");
                Ok(())
            }
            Err(stop) => {
                self.text += &format!(" {} > {}", ip.source, ip.destination);
                Err(stop)
            }
        }
    }

    fn tcp(&mut self, ip: &Ip) -> Result<(), Stop> {
        let start = self.at;
        self.ports(ip)?;
        let (sequence, acknowledged) = (self.u32()?, self.u32()?);
        let [offset, flags] = self.take()?;
        self.text += &format!(" [{}] seq {sequence}", TcpFlags(flags));
        if flags & TcpFlags::ACK != 0 {
            self.text += &format!(" ack {acknowledged}");
        }
        let window = self.u16()?;
        self.text += &format!(" win {window}");
        let header_length = usize::from(offset >> 4) * 4;
        let segment = self.left() + (self.at - start);
        if header_length < 20 || header_length > segment {
            return Err(Stop::Malformed("the length of its TCP header can't be"));
        }
        self.text += &format!(" len {}", segment - header_length);
        Ok(())
    }

    fn udp(&mut self, ip: &Ip) -> Result<(), Stop> {
        self.ports(ip)?;
        let length = usize::from(self.u16()?);
        match length.checked_sub(8) {
            Some(payload) => self.text += &format!(" len {payload}"),
            // RFC 2675 §4: zero is a length that 16 bits can't say.
            None if length == 0 => self.text += &format!(" len {}", self.left().saturating_sub(2)),
            None => return Err(Stop::Malformed("it is shorter than a UDP header")),
        }
        // A first fragment has less than the whole datagram, by intent.
        if ip.fragment.is_none() && length > self.left() + 6 {
            return Err(Stop::Malformed("the UDP length is beyond the packet"));
        }
        Ok(())
    }

    fn icmp(&mut self, ip: &Ip, name: fn(u8) -> Option<&'static str>) -> Result<(), Stop> {
        self.text += &format!(" {} > {}", ip.source, ip.destination);
        let [kind, code] = self.take()?;
        match name(kind) {
            Some(name) => self.text += &format!(" {name}"),
            None => self.text += &format!(" type {kind}"),
        }
        let is_echo = matches!((ip.source, kind), (IpAddr::V4(_), 0 | 8) | (IpAddr::V6(_), 128 | 129));
        if !is_echo || code != 0 {
            self.text += &format!(" code {code}");
        }
        let _checksum = self.u16()?;
        if is_echo {
            let (id, sequence) = (self.u16()?, self.u16()?);
            self.text += &format!(" id {id} seq {sequence} len {}", self.left());
        } else if ip.source.is_ipv6() && matches!(kind, 135 | 136) {
            let _reserved = self.u32()?;
            let target = Ipv6Addr::from(self.take::<16>()?);
            self.text += &format!(" of {target}");
        }
        Ok(())
    }
}

impl Fragment {
    /// `None` for a packet that is whole.
    fn new(id: u32, offset: u16, more: bool) -> Option<Self> {
        (offset > 0 || more).then_some(Self { id, offset, more })
    }
}

fn protocol_name(ip: &Ip) -> String {
    let version = if ip.source.is_ipv4() { "IPv4" } else { "IPv6" };
    match ip.protocol {
        IpProtocol::TCP => "TCP".to_owned(),
        IpProtocol::UDP => "UDP".to_owned(),
        IpProtocol::ICMP => "ICMP".to_owned(),
        IpProtocol::ICMPV6 => "ICMPv6".to_owned(),
        IpProtocol(2) => "IGMP".to_owned(),
        IpProtocol(4) => format!("{version} IPIP"),
        IpProtocol(41) => format!("{version} 6in4"),
        IpProtocol(47) => "GRE".to_owned(),
        IpProtocol(50) => "ESP".to_owned(),
        IpProtocol(59) => format!("{version} no next header"),
        IpProtocol(89) => "OSPF".to_owned(),
        IpProtocol(132) => "SCTP".to_owned(),
        IpProtocol(number) => format!("{version} protocol {number}"),
    }
}

const fn icmp_name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        0 => "echo reply",
        3 => "destination unreachable",
        5 => "redirect",
        8 => "echo request",
        11 => "time exceeded",
        12 => "parameter problem",
        _ => return None,
    })
}

const fn icmpv6_name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        1 => "destination unreachable",
        2 => "packet too big",
        3 => "time exceeded",
        4 => "parameter problem",
        128 => "echo request",
        129 => "echo reply",
        130 => "multicast listener query",
        133 => "router solicitation",
        134 => "router advertisement",
        135 => "neighbour solicitation",
        136 => "neighbour advertisement",
        137 => "redirect",
        143 => "multicast listener report",
        _ => return None,
    })
}

struct Mac([u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

struct TcpFlags(u8);

impl TcpFlags {
    const ACK: u8 = 0x10;
    /// As people say them: SYN ACK, FIN ACK, PSH ACK.
    const NAMES: [(u8, &str); 8] = [
        (0x02, "SYN"),
        (0x01, "FIN"),
        (0x04, "RST"),
        (0x08, "PSH"),
        (0x20, "URG"),
        (0x40, "ECE"),
        (0x80, "CWR"),
        (Self::ACK, "ACK"),
    ];
}

impl fmt::Display for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = Self::NAMES.iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, name)| *name).collect();
        f.write_str(&names.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes from hexadecimal digits; blanks are for the reader.
    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    const MACS: &str = "020000000002 020000000001";
    const SYN: &str = "9c40 0050 00000001 00000000 5002 faf0 0000 0000";

    fn ethernet(rest: &str) -> Vec<u8> {
        hex(&format!("{MACS} {rest}"))
    }

    /// 192.0.2.1 > 198.51.100.2, with lengths put in.
    fn ipv4(protocol: u8, fragment: &str, payload: &str) -> Vec<u8> {
        let payload = hex(payload);
        let mut frame = ethernet(&format!("0800 45000000 abcd{fragment} 40{protocol:02x}0000 c0000201 c6336402"));
        frame[16..18].copy_from_slice(&u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// 2001:db8::1 > 2001:db8::2, with the length put in.
    fn ipv6(next: u8, payload: &str) -> Vec<u8> {
        let payload = hex(payload);
        let mut frame = ethernet(&format!(
            "86dd 60000000 0000 {next:02x} 40 20010db8000000000000000000000001 20010db8000000000000000000000002"
        ));
        frame[18..20].copy_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        frame.extend(payload);
        frame
    }

    #[track_caller]
    fn says(frame: &[u8], expected: &str) {
        assert_eq!(Summary::of(frame).to_string(), expected, "{frame:02x?}");
    }

    #[test]
    fn tcp() {
        says(&ipv4(6, "4000", SYN), "TCP 192.0.2.1:40000 > 198.51.100.2:80 [SYN] seq 1 win 64240 len 0");
        says(
            &ipv4(6, "4000", "0050 9c40 00000002 00000003 8018 0200 0000 0000 0101080a0000000000000000 6869"),
            "TCP 192.0.2.1:80 > 198.51.100.2:40000 [PSH ACK] seq 2 ack 3 win 512 len 2",
        );
        says(&ipv6(6, SYN), "TCP [2001:db8::1]:40000 > [2001:db8::2]:80 [SYN] seq 1 win 64240 len 0");
        says(
            &ipv4(6, "4000", "0050 9c40 00000002 00000003 f018 0200 0000 0000"),
            "TCP 192.0.2.1:80 > 198.51.100.2:40000 [PSH ACK] seq 2 ack 3 win 512, malformed: the length of its TCP header can't be",
        );
    }

    #[test]
    fn udp() {
        says(&ipv4(17, "0000", "0035 c000 000b 0000 616263"), "UDP 192.0.2.1:53 > 198.51.100.2:49152 len 3");
        says(&ipv6(17, "0035 c000 0008 0000"), "UDP [2001:db8::1]:53 > [2001:db8::2]:49152 len 0");
        says(
            &ipv4(17, "0000", "0035 c000 000c 0000 616263"),
            "UDP 192.0.2.1:53 > 198.51.100.2:49152 len 4, malformed: the UDP length is beyond the packet",
        );
        says(
            &ipv4(17, "0000", "0035 c000 0007 0000"),
            "UDP 192.0.2.1:53 > 198.51.100.2:49152, malformed: it is shorter than a UDP header",
        );
    }

    #[test]
    fn icmp() {
        says(
            &ipv4(1, "0000", "0800 0000 0007 0001 61626364"),
            "ICMP 192.0.2.1 > 198.51.100.2 echo request id 7 seq 1 len 4",
        );
        says(&ipv4(1, "0000", "0303 0000 00000000"), "ICMP 192.0.2.1 > 198.51.100.2 destination unreachable code 3");
        says(&ipv4(1, "0000", "2a00 0000"), "ICMP 192.0.2.1 > 198.51.100.2 type 42 code 0");
        says(&ipv6(58, "8100 0000 0007 0002"), "ICMPv6 2001:db8::1 > 2001:db8::2 echo reply id 7 seq 2 len 0");
        says(
            &ipv6(58, "8700 0000 00000000 20010db8000000000000000000000002"),
            "ICMPv6 2001:db8::1 > 2001:db8::2 neighbour solicitation code 0 of 2001:db8::2",
        );
    }

    #[test]
    fn arp() {
        says(
            &ethernet("0806 0001 0800 06 04 0001 020000000001 c0000201 000000000000 c0000202"),
            "ARP who has 192.0.2.2? tell 192.0.2.1",
        );
        says(
            &ethernet("0806 0001 0800 06 04 0002 020000000002 c0000202 020000000001 c0000201"),
            "ARP 192.0.2.2 is at 02:00:00:00:00:02",
        );
        says(&ethernet("0806 0001 0800 06 04 0002 0200"), "ARP [cut: 24 of 42 bytes]");
        says(
            &ethernet("0806 0006 0800 08 04 0001"),
            "ARP operation 1, hardware type 6, protocol 0x0800 [cut: 22 of 46 bytes]",
        );
    }

    #[test]
    fn vlan_tags() {
        let mut frame = ipv4(6, "4000", SYN);
        frame.splice(12..12, hex("8100 0064"));
        says(&frame, "VLAN 100, TCP 192.0.2.1:40000 > 198.51.100.2:80 [SYN] seq 1 win 64240 len 0");
        frame.splice(12..12, hex("88a8 6005"));
        says(
            &frame,
            "service VLAN 5 priority 3, VLAN 100, TCP 192.0.2.1:40000 > 198.51.100.2:80 [SYN] seq 1 win 64240 len 0",
        );
        says(&ethernet("8100"), "VLAN [cut after 14 bytes]");
        says(
            &ethernet("8100 0001 8100 0002 8100 0003 8100 0004 8100 0005"),
            "VLAN 1, VLAN 2, VLAN 3, VLAN 4, 02:00:00:00:00:01 > 02:00:00:00:00:02 ethertype 0x8100",
        );
    }

    #[test]
    fn fragments() {
        says(
            &ipv4(17, "2000", "0035 c000 0100 0000 6162636465666768"),
            "UDP 192.0.2.1:53 > 198.51.100.2:49152 len 248, first fragment id 0xabcd",
        );
        says(
            &ipv4(17, "2002", "6162636465666768"),
            "UDP fragment 192.0.2.1 > 198.51.100.2 id 0xabcd offset 16 len 8, more follow",
        );
        says(&ipv4(6, "0001", "61"), "TCP fragment 192.0.2.1 > 198.51.100.2 id 0xabcd offset 8 len 1, the last");
        says(&ipv6(44, "1100 0000 00000007 0035 c000 0008 0000"), "UDP [2001:db8::1]:53 > [2001:db8::2]:49152 len 0");
        says(
            &ipv6(44, "1100 0011 00000007 6162"),
            "UDP fragment 2001:db8::1 > 2001:db8::2 id 0x7 offset 16 len 2, more follow",
        );
    }

    #[test]
    fn ipv6_extension_headers() {
        says(
            &ipv6(
                0,
                &format!(
                    "3c00010400000000 3301010400000000 0000000000000000 0604 0000 00000001 00000001 000000000000000000000000 {SYN}"
                ),
            ),
            "TCP [2001:db8::1]:40000 > [2001:db8::2]:80 [SYN] seq 1 win 64240 len 0",
        );
        says(&ipv6(60, &"3c00010400000000".repeat(9)), "IPv6 protocol 60 2001:db8::1 > 2001:db8::2 len 8");
        says(
            &ipv6(60, "3cff010400000000"),
            "IPv6 2001:db8::1 > 2001:db8::2, malformed: a header does not fit into the packet",
        );
        says(&ipv6(59, ""), "IPv6 no next header 2001:db8::1 > 2001:db8::2 len 0");
    }

    #[test]
    fn what_is_not_ip() {
        says(&ethernet("88cc 0207"), "02:00:00:00:00:01 > 02:00:00:00:00:02 LLDP");
        says(&ethernet("0026 424203"), "02:00:00:00:00:01 > 02:00:00:00:00:02 802.3 length 38");
        says(&ethernet("1234"), "02:00:00:00:00:01 > 02:00:00:00:00:02 ethertype 0x1234");
        says(&ipv4(47, "0000", "00000800"), "GRE 192.0.2.1 > 198.51.100.2 len 4");
        says(&ipv4(253, "0000", "00"), "IPv4 protocol 253 192.0.2.1 > 198.51.100.2 len 1");
    }

    #[test]
    fn padding_is_no_payload() {
        let mut frame = ipv4(6, "4000", SYN);
        frame.resize(60, 0);
        says(&frame, "TCP 192.0.2.1:40000 > 198.51.100.2:80 [SYN] seq 1 win 64240 len 0");
        assert_eq!(Summary::of(&frame).original_length, None);
    }

    #[test]
    fn a_cut_frame_is_told_as_far_as_it_goes() {
        let frame = ipv4(6, "4000", &format!("{SYN}{}", "61".repeat(1000)));
        assert_eq!(frame.len(), 1054);
        says(&frame[..0], "Ethernet [cut after 0 bytes]");
        says(&frame[..13], "Ethernet [cut after 13 bytes]");
        says(&frame[..14], "IPv4 [cut after 14 bytes]");
        says(&frame[..18], "IPv4 [cut: 18 of 1054 bytes]");
        says(&frame[..34], "TCP 192.0.2.1 > 198.51.100.2 [cut: 34 of 1054 bytes]");
        says(&frame[..38], "TCP 192.0.2.1:40000 > 198.51.100.2:80 [cut: 38 of 1054 bytes]");
        says(&frame[..48], "TCP 192.0.2.1:40000 > 198.51.100.2:80 [SYN] seq 1 [cut: 48 of 1054 bytes]");
        says(
            &frame[..100],
            "TCP 192.0.2.1:40000 > 198.51.100.2:80 [SYN] seq 1 win 64240 len 1000 [cut: 100 of 1054 bytes]",
        );
        let summary = Summary::of(&frame[..100]);
        assert_eq!((summary.length, summary.original_length, summary.is_cut()), (100, Some(1054), true));
        assert!(!Summary::of(&frame).is_cut());
    }

    #[test]
    fn headers_that_lie_are_malformed() {
        says(&ethernet("0800 65000014"), "IPv4, malformed: its version is not 4");
        says(&ethernet("0800 44000014"), "IPv4, malformed: its header is shorter than 20 bytes");
        says(&ethernet("0800 46000014"), "IPv4, malformed: it is shorter than its header");
        says(&ethernet("86dd 40000000"), "IPv6, malformed: its version is not 6");
        says(
            &ipv4(6, "4000", "9c40 0050"),
            "TCP 192.0.2.1:40000 > 198.51.100.2:80, malformed: a header does not fit into the packet",
        );
    }

    /// Never a panic, one line, and no length below what is there.
    fn holds_for(frame: &[u8]) -> std::result::Result<(), TestCaseError> {
        let summary = Summary::of(frame);
        let line = summary.to_string();
        prop_assert!(!line.is_empty() && line.len() < 400, "{}", line);
        prop_assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{:?}", line);
        prop_assert!(summary.original_length.is_none_or(|original| original > frame.len()));
        prop_assert_eq!(summary.length, frame.len());
        Ok(())
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_line(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            holds_for(&frame)?;
        }

        /// Random bytes rarely get past the ethertype: these start as valid frames.
        #[test]
        fn bytes_behind_real_headers_give_a_line(
            which in 0..6usize,
            protocol in prop_oneof![Just(0u8), Just(1), Just(6), Just(17), Just(43), Just(44), Just(51), Just(58), Just(60)],
            changes in proptest::collection::vec((0..120usize, any::<u8>()), 0..6),
            rest in proptest::collection::vec(any::<u8>(), 0..80),
            length in 0..200usize,
        ) {
            let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
            let mut frame = match which {
                0 => ipv4(protocol, "0000", &rest),
                1 => ipv4(protocol, "2000", &rest),
                2 => ipv6(protocol, &rest),
                3 => ethernet(&format!("0806 0001 0800 06 04 {rest}")),
                4 => ethernet(&format!("8100 0001 88a8 0002 86dd 60 {rest}")),
                _ => ethernet(&format!("8100 0001 0800 45 {rest}")),
            };
            for (at, byte) in changes {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            frame.truncate(length);
            holds_for(&frame)?;
        }

        /// The original length, once the bytes tell it, is the same with more of them.
        #[test]
        fn a_longer_cut_tells_the_same_length(cut in 0..200usize) {
            let frame = ipv4(6, "4000", &format!("{SYN}{}", "61".repeat(200)));
            let (short, long) = (Summary::of(&frame[..cut]), Summary::of(&frame[..cut + 1]));
            prop_assert!(short.original_length.is_none() || short.original_length == long.original_length);
            prop_assert!(short.is_cut());
        }
    }
}
