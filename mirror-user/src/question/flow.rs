//! A flow in words: `tcp 10.0.0.1:1234 > 10.0.0.2:80`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{IPV4, IPV6, ethernet};
use crate::definitions::protocol::{self, TCP, UDP};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// The extension headers that verdicts step over: hop-by-hop, routing, fragment, AH, destination.
const EXTENSION_HEADERS: [u8; 5] = [0, 43, 44, 51, 60];

/// What a flow is written like, for errors.
const WRITTEN: &str = "write 'tcp 10.0.0.1:1234 > 10.0.0.2:80', 'udp [2001:db8::1]:53 > [2001:db8::2]:5353' or \
                       'icmp 10.0.0.1 > 10.0.0.2'";

/// A packet, as far as rules look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    protocol: u8,
    ends: Ends,
    /// Source and destination port; of TCP and UDP, and only of these.
    ports: Option<(u16, u16)>,
}

/// Source and destination, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Ends {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

/// Why a text is no flow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// Not a protocol and two ends.
    #[error("read flow: it is no protocol, source, '>' and destination; {WRITTEN}")]
    Form,
    /// No such protocol.
    #[error("read flow: protocol {0:?}: a protocol is a number of 0 to 255, or a name such as tcp, udp, icmp, icmp6")]
    Protocol(String),
    /// A family instead of a protocol.
    #[error(
        "read flow: protocol {0:?}: every packet has one of its own; 253 (for experiments, RFC 3692) is one that only \
         rules without a protocol match"
    )]
    AnyProtocol(String),
    /// An extension header instead of a protocol.
    #[error(
        "read flow: protocol {0}: in IPv6 it is an extension header, and a packet is judged by what follows it; give \
         such a packet in hexadecimal digits"
    )]
    ExtensionHeader(u8),
    /// ICMP of the other family.
    #[error("read flow: protocol {protocol}: its packets are {family} packets; for {other} it is {instead}")]
    OtherIcmp {
        /// As it was written.
        protocol: &'static str,
        /// Its family.
        family: &'static str,
        /// The other family.
        other: &'static str,
        /// Its name there.
        instead: &'static str,
    },
    /// An end without a port.
    #[error("read flow: {end} {text:?}: it has no port, and {protocol} needs one: 10.0.0.1:80, [2001:db8::1]:80")]
    NoPort {
        /// Source or destination.
        end: &'static str,
        /// As it was written.
        text: String,
        /// The protocol.
        protocol: String,
    },
    /// An end with a port that can't have one.
    #[error("read flow: {end} {text:?}: it has a port, and {protocol} has none; only tcp (6) and udp (17) have ports")]
    Port {
        /// Source or destination.
        end: &'static str,
        /// As it was written.
        text: String,
        /// The protocol.
        protocol: String,
    },
    /// Neither an address nor an address with a port.
    #[error("read flow: {end} {text:?}: it is no IPv4 or IPv6 address with or without a port of 0 to 65535; {WRITTEN}")]
    Address {
        /// Source or destination.
        end: &'static str,
        /// As it was written.
        text: String,
    },
    /// Ends of two families.
    #[error("read flow: source {0} and destination {1}: they must be of one family, IPv4 or IPv6")]
    Families(IpAddr, IpAddr),
}

impl FromStr for Flow {
    type Err = FlowError;

    fn from_str(text: &str) -> Result<Self, FlowError> {
        let (named, ends) = text.trim().split_once(char::is_whitespace).ok_or(FlowError::Form)?;
        let (from, to) = ends.split_once("->").or_else(|| ends.split_once('>')).ok_or(FlowError::Form)?;
        let protocol = read_protocol(named)?;
        let (source, source_port) = read_end("source", from.trim(), protocol)?;
        let (destination, destination_port) = read_end("destination", to.trim(), protocol)?;
        let ends = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Ends::V4(source, destination),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Ends::V6(source, destination),
            _ => return Err(FlowError::Families(source, destination)),
        };
        let is_name = !named.bytes().all(|byte| byte.is_ascii_digit());
        match ends {
            Ends::V6(..) if EXTENSION_HEADERS.contains(&protocol) => return Err(FlowError::ExtensionHeader(protocol)),
            Ends::V6(..) if is_name && protocol == ICMP => {
                return Err(FlowError::OtherIcmp { protocol: "icmp", family: "IPv4", other: "IPv6", instead: "icmp6" });
            }
            Ends::V4(..) if is_name && protocol == ICMPV6 => {
                return Err(FlowError::OtherIcmp { protocol: "icmp6", family: "IPv6", other: "IPv4", instead: "icmp" });
            }
            _ => {}
        }
        Ok(Self { protocol, ends, ports: source_port.zip(destination_port) })
    }
}

fn read_protocol(named: &str) -> Result<u8, FlowError> {
    if named.eq_ignore_ascii_case("icmp6") {
        return Ok(ICMPV6);
    }
    protocol::parse(named).map_err(|_| {
        let is_family = ["ip", "ip4", "ipv4", "ip6", "any", "all"].iter().any(|word| named.eq_ignore_ascii_case(word));
        if is_family { FlowError::AnyProtocol(named.to_owned()) } else { FlowError::Protocol(named.to_owned()) }
    })
}

fn read_end(end: &'static str, text: &str, protocol: u8) -> Result<(IpAddr, Option<u16>), FlowError> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = match bare {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse::<IpAddr>().ok(),
    };
    // A scope id is a matter of one host: no packet has one.
    let socket = text.parse::<SocketAddr>().ok().filter(|_| !text.contains('%'));
    let text = || text.to_owned();
    match (address, socket, protocol::has_ports(protocol)) {
        (Some(address), _, false) => Ok((address, None)),
        (_, Some(socket), true) => Ok((socket.ip(), Some(socket.port()))),
        (Some(_), _, true) => Err(FlowError::NoPort { end, text: text(), protocol: protocol::text(protocol) }),
        (_, Some(_), false) => Err(FlowError::Port { end, text: text(), protocol: protocol::text(protocol) }),
        (None, None, _) => Err(FlowError::Address { end, text: text() }),
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (self.protocol, self.ends) {
            // The name of the other family's ICMP is refused.
            (ICMP, Ends::V6(..)) | (ICMPV6, Ends::V4(..)) => self.protocol.to_string(),
            (ICMPV6, Ends::V6(..)) => "icmp6".to_owned(),
            (protocol, _) => protocol::text(protocol),
        };
        let (source, destination): (IpAddr, IpAddr) = match self.ends {
            Ends::V4(source, destination) => (source.into(), destination.into()),
            Ends::V6(source, destination) => (source.into(), destination.into()),
        };
        match self.ports {
            Some((from, to)) => {
                write!(f, "{name} {} > {}", SocketAddr::new(source, from), SocketAddr::new(destination, to))
            }
            None => write!(f, "{name} {source} > {destination}"),
        }
    }
}

impl Flow {
    /// A frame of the flow: Ethernet with zero addresses, IP, and the least that the protocol has on top (TCP: a SYN;
    /// ICMP: an echo request; one without a name here: eight zero bytes). Lengths and checksums are right.
    pub fn frame(&self) -> Vec<u8> {
        let mut segment = self.segment();
        match self.ends {
            Ends::V4(source, destination) => {
                let (source, destination) = (source.octets(), destination.octets());
                self.fill_checksum(&mut segment, &[source, destination].concat());
                // RFC 791 §3.1: five words, DF set, TTL 64.
                let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, self.protocol, 0, 0];
                let total = 20 + segment.len() as u16;
                header[2..4].copy_from_slice(&total.to_be_bytes());
                header.extend(source);
                header.extend(destination);
                let sum = checksum(&[&header]);
                header[10..12].copy_from_slice(&sum);
                ethernet(IPV4, &[header, segment].concat())
            }
            Ends::V6(source, destination) => {
                let (source, destination) = (source.octets(), destination.octets());
                self.fill_checksum(&mut segment, &[source, destination].concat());
                // RFC 8200 §3: hop limit 64.
                let mut header = vec![0x60, 0, 0, 0, 0, segment.len() as u8, self.protocol, 64];
                header.extend(source);
                header.extend(destination);
                ethernet(IPV6, &[header, segment].concat())
            }
        }
    }

    /// The transport header, its checksum still zero.
    fn segment(&self) -> Vec<u8> {
        let mut segment = Vec::with_capacity(20);
        if let Some((source, destination)) = self.ports {
            segment.extend(source.to_be_bytes());
            segment.extend(destination.to_be_bytes());
        }
        match self.protocol {
            // RFC 9293 §3.1: a SYN of five words with a window.
            TCP => segment.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]),
            // RFC 768: a length of eight.
            UDP => segment.extend([0, 8, 0, 0]),
            // RFC 792 and RFC 4443 §4.1: echo request.
            ICMP => segment.extend([8, 0, 0, 0, 0, 0, 0, 1]),
            ICMPV6 => segment.extend([128, 0, 0, 0, 0, 0, 0, 1]),
            _ => segment.extend([0; 8]),
        }
        segment
    }

    fn fill_checksum(&self, segment: &mut [u8], addresses: &[u8]) {
        // RFC 9293 §3.1 and RFC 8200 §8.1: addresses, length, protocol; the two layouts have the same sum.
        let pseudo_header = [addresses, &[0, segment.len() as u8, 0, self.protocol]].concat();
        let (at, sum) = match self.protocol {
            TCP => (16, checksum(&[&pseudo_header, segment])),
            UDP => match checksum(&[&pseudo_header, segment]) {
                // RFC 768: zero would say that there is none.
                [0, 0] => (6, [0xff, 0xff]),
                sum => (6, sum),
            },
            // RFC 792: without a pseudo header.
            ICMP => (2, checksum(&[segment])),
            ICMPV6 => (2, checksum(&[&pseudo_header, segment])),
            _ => return,
        };
        segment[at..at + 2].copy_from_slice(&sum);
    }
}

/// The internet checksum (RFC 1071) of parts that have an even length each.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!(folded as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(digits: &str) -> Vec<u8> {
        crate::question::hex::parse(digits).expect("digits of a test")
    }

    fn frame(text: &str) -> Vec<u8> {
        text.parse::<Flow>().expect(text).frame()
    }

    const TCP_V4: &str = "000000000000 000000000000 0800
        4500 0028 0000 4000 4006 26ce 0a000001 0a000002
        04d2 0050 00000000 00000000 5002 ffff 96be 0000";
    const UDP_V6: &str = "000000000000 000000000000 86dd
        60000000 0008 11 40 20010db8000000000000000000000001 20010db8000000000000000000000002
        0035 14e9 0008 8f4b";
    const ICMP_V4: &str = "000000000000 000000000000 0800
        4500 001c 0000 4000 4001 26df 0a000001 0a000002 0800 f7fe 0000 0001";
    const ICMP_V6: &str = "000000000000 000000000000 86dd
        60000000 0008 3a 40 20010db8000000000000000000000001 20010db8000000000000000000000002
        8000 2447 0000 0001";
    const SCTP_V4: &str = "000000000000 000000000000 0800
        4500 001c 0000 4000 4084 265c 0a000001 0a000002 0000 0000 0000 0000";

    #[test]
    fn a_flow_becomes_the_least_frame_of_it() {
        assert_eq!(frame("tcp 10.0.0.1:1234 > 10.0.0.2:80"), bytes(TCP_V4));
        assert_eq!(frame("udp [2001:db8::1]:53 > [2001:db8::2]:5353"), bytes(UDP_V6));
        assert_eq!(frame("icmp 10.0.0.1 > 10.0.0.2"), bytes(ICMP_V4));
        assert_eq!(frame("icmp6 2001:db8::1 > [2001:db8::2]"), bytes(ICMP_V6));
        assert_eq!(frame("sctp 10.0.0.1 > 10.0.0.2"), bytes(SCTP_V4));
    }

    #[test]
    fn one_flow_can_be_written_in_many_ways() {
        for text in
            ["tcp 10.0.0.1:1234 -> 10.0.0.2:80", "  TCP\t10.0.0.1:1234>10.0.0.2:80 ", "6 10.0.0.1:1234->10.0.0.2:80"]
        {
            assert_eq!(frame(text), bytes(TCP_V4), "{text}");
        }
        for text in [
            "ipv6-icmp 2001:db8::1 > 2001:db8::2",
            "icmpv6 [2001:db8::1] > 2001:db8::2",
            "58 2001:db8::1 > 2001:db8:0::2",
        ] {
            assert_eq!(frame(text), bytes(ICMP_V6), "{text}");
        }
        assert_eq!(frame("132 10.0.0.1 > 10.0.0.2"), bytes(SCTP_V4));
    }

    #[test]
    fn a_number_asks_for_any_protocol_in_any_family() {
        assert_eq!(frame("1 ::1 > ::2")[20], 1);
        assert_eq!(frame("58 10.0.0.1 > 10.0.0.2")[23], 58);
        assert_eq!(frame("44 10.0.0.1 > 10.0.0.2")[23], 44);
        assert_eq!(frame("253 ::1 > ::2")[20], 253);
    }

    #[test]
    fn what_is_no_flow_is_refused() {
        let says = |text: &str| text.parse::<Flow>().expect_err(text).to_string();
        let form = format!("read flow: it is no protocol, source, '>' and destination; {WRITTEN}");
        for text in ["", "tcp", "tcp 10.0.0.1:1", "10.0.0.1:1>10.0.0.2:2", "tcp 10.0.0.1:1 10.0.0.2:2"] {
            assert_eq!(says(text), form, "{text:?}");
        }
        assert_eq!(
            says("tpc 10.0.0.1:1 > 10.0.0.2:2"),
            "read flow: protocol \"tpc\": a protocol is a number of 0 to 255, or a name such as tcp, udp, icmp, icmp6"
        );
        assert_eq!(
            says("ip 10.0.0.1 > 10.0.0.2"),
            "read flow: protocol \"ip\": every packet has one of its own; 253 (for experiments, RFC 3692) is one that \
             only rules without a protocol match"
        );
        assert_eq!(
            says("ah ::1 > ::2"),
            "read flow: protocol 51: in IPv6 it is an extension header, and a packet is judged by what follows it; \
             give such a packet in hexadecimal digits"
        );
        assert_eq!(
            says("icmp ::1 > ::2"),
            "read flow: protocol icmp: its packets are IPv4 packets; for IPv6 it is icmp6"
        );
        assert_eq!(
            says("icmp6 10.0.0.1 > 10.0.0.2"),
            "read flow: protocol icmp6: its packets are IPv6 packets; for IPv4 it is icmp"
        );
        assert_eq!(
            says("tcp 10.0.0.1 > 10.0.0.2:80"),
            "read flow: source \"10.0.0.1\": it has no port, and tcp needs one: 10.0.0.1:80, [2001:db8::1]:80"
        );
        assert_eq!(
            says("udp [::1]:1 > [::2]"),
            "read flow: destination \"[::2]\": it has no port, and udp needs one: 10.0.0.1:80, [2001:db8::1]:80"
        );
        assert_eq!(
            says("sctp 10.0.0.1:1 > 10.0.0.2:2"),
            "read flow: source \"10.0.0.1:1\": it has a port, and sctp has none; only tcp (6) and udp (17) have ports"
        );
        assert_eq!(
            says("tcp 10.0.0.1:1 > [::2]:2"),
            "read flow: source 10.0.0.1 and destination ::2: they must be of one family, IPv4 or IPv6"
        );
        for text in [
            "10.0.0.256:1",
            "10.0.0.1:65536",
            "10.0.0.1:",
            "[10.0.0.1]:1",
            "host:80",
            "[fe80::1%2]:1",
            "",
            "10.0.0.1.80",
        ] {
            assert_eq!(
                says(&format!("tcp {text} > 10.0.0.2:2")),
                format!(
                    "read flow: source {text:?}: it is no IPv4 or IPv6 address with or without a port of 0 to 65535; {WRITTEN}"
                )
            );
        }
        assert!(says("tcp 10.0.0.1:1 > 10.0.0.2:2 > 10.0.0.3:3").starts_with("read flow: destination"));
    }

    /// The sum of 16-bit words, end around carry (RFC 1071 §1).
    fn sum(bytes: &[u8]) -> u16 {
        bytes.chunks(2).fold(0u16, |sum, pair| {
            let (sum, carry) = sum.overflowing_add(u16::from(pair[0]) << 8 | u16::from(pair[1]));
            sum + u16::from(carry)
        })
    }

    fn flows() -> impl Strategy<Value = Flow> {
        let ends = prop_oneof![
            any::<(Ipv4Addr, Ipv4Addr)>().prop_map(|(from, to)| Ends::V4(from, to)),
            any::<(Ipv6Addr, Ipv6Addr)>().prop_map(|(from, to)| Ends::V6(from, to)),
        ];
        let protocol = prop_oneof![Just(TCP), Just(UDP), Just(ICMP), Just(ICMPV6), any::<u8>()];
        (protocol, ends, any::<(u16, u16)>())
            .prop_filter("no protocol in IPv6", |(protocol, ends, _)| {
                matches!(ends, Ends::V4(..)) || !EXTENSION_HEADERS.contains(protocol)
            })
            .prop_map(|(protocol, ends, ports)| Flow {
                protocol,
                ends,
                ports: protocol::has_ports(protocol).then_some(ports),
            })
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_as_the_same_flow(flow in flows()) {
            prop_assert_eq!(flow.to_string().parse(), Ok(flow));
        }

        #[test]
        fn lengths_and_checksums_are_right(flow in flows()) {
            let frame = flow.frame();
            let (addresses, segment) = match flow.ends {
                Ends::V4(..) => {
                    prop_assert_eq!(usize::from(frame[16]) << 8 | usize::from(frame[17]), frame.len() - 14);
                    prop_assert_eq!(sum(&frame[14..34]), 0xffff);
                    (&frame[26..34], &frame[34..])
                }
                Ends::V6(..) => {
                    prop_assert_eq!(usize::from(frame[18]) << 8 | usize::from(frame[19]), frame.len() - 54);
                    (&frame[22..54], &frame[54..])
                }
            };
            let pseudo_header = [addresses, &[0, segment.len() as u8, 0, flow.protocol]].concat();
            match flow.protocol {
                TCP | UDP | ICMPV6 => prop_assert_eq!(sum(&[&pseudo_header, segment].concat()), 0xffff),
                ICMP => prop_assert_eq!(sum(segment), 0xffff),
                _ => {}
            }
            prop_assert!(flow.protocol != UDP || segment[6..8] != [0, 0]);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>(), ends in "[0-9a-f.:>\\[\\] -]{0,60}") {
            for text in [text, format!("tcp {ends}"), format!("icmp {ends}")] {
                if let Ok(flow) = text.parse::<Flow>() {
                    prop_assert_eq!(flow.to_string().parse(), Ok(flow));
                }
            }
        }
    }
}
