//! Packets of every kind, and what the loaded program takes each for: a table of frames and verdicts.
//!
//! The policy has a rule for each thing that a packet can be taken for, so that the rule that accepts tells what was
//! read. All rules but the last two name both addresses: a packet whose addresses are read wrongly ends there.

use std::net::UdpSocket;

use anyhow::{Context, Result};
use mirror_common::policy::Direction;
use mirror_common::table::Verdict;
use mirror_tests::frame::{SERVICE_VLAN, Tag, VLAN};
use mirror_tests::traffic::{self, End};
use mirror_tests::{BOTH_VERSIONS, COLLECTOR, Frame, GENERATOR, HOST_SOURCE, IpVersion, Lab, Turn, Wanted, craft};
use mirror_user::compile::{self, Policy};
use mirror_user::definitions::rule::{Action, Addresses, Rule, RuleNumber, parse_cidr};
use mirror_user::kernel::Judge;
use mirror_user::question;

/// What a packet was taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// Accepted by the rule with this number.
    For(u16),
    /// A frame without an IP header.
    NonIp,
}

use Taken::{For, NonIp};

/// A line of a table: description, frame, what it should be taken for.
type Line = (&'static str, Vec<u8>, Taken);

// With ports 1234 and 80. The number of a rule for IPv6 is one more than for IPv4.
const TCP_PORTS: Taken = For(10);
const TCP_PORTS_V6: Taken = For(11);
const UDP_PORTS: Taken = For(20);
const UDP_PORTS_V6: Taken = For(21);
// With other ports, or none.
const TCP: Taken = For(30);
const TCP_V6: Taken = For(31);
const UDP: Taken = For(40);
const UDP_V6: Taken = For(41);
/// Another protocol that has a rule of its own.
const fn protocol(number: u16) -> Taken {
    For(1000 + 2 * number)
}
const fn protocol_v6(number: u16) -> Taken {
    For(1001 + 2 * number)
}
/// None of these.
const ANY: Taken = For(30_000);
const ANY_V6: Taken = For(30_001);

const V4: (&str, &str) = ("192.0.2.1/32", "198.51.100.2/32");
const V6: (&str, &str) = ("2001:db8::1/128", "2001:db8:0:1::2/128");

fn rule(number: u16, protocol: Option<u8>, (source, destination): (&str, &str)) -> Rule {
    let cidr = |text| parse_cidr(text).expect("a CIDR");
    Rule {
        number: RuleNumber::try_from(u64::from(number)).expect("a rule number"),
        direction: Direction::Ingress,
        action: Action::Accept,
        protocol,
        addresses: Addresses::new(cidr(source), cidr(destination)).expect("one family"),
        source_ports: None,
        destination_ports: None,
        description: None,
    }
}

fn with_ports(rule: Rule) -> Rule {
    let port = |text: &str| Some(text.parse().expect("a port"));
    Rule { source_ports: port("1234"), destination_ports: port("80"), ..rule }
}

fn policy() -> Result<Policy> {
    const PROTOCOLS: [u8; 13] = [0, 1, 4, 43, 44, 47, 50, 51, 58, 59, 60, 132, 253];
    let mut rules = Vec::new();
    for (family, ends) in [(0, V4), (1, V6)] {
        rules.push(with_ports(rule(10 + family, Some(6), ends)));
        rules.push(with_ports(rule(20 + family, Some(17), ends)));
        rules.push(rule(30 + family, Some(6), ends));
        rules.push(rule(40 + family, Some(17), ends));
        rules.extend(PROTOCOLS.map(|number| rule(1000 + family + 2 * u16::from(number), Some(number), ends)));
    }
    rules.push(rule(30_000, None, ("0.0.0.0/0", "0.0.0.0/0")));
    rules.push(rule(30_001, None, ("::/0", "::/0")));
    rules.sort_by_key(|rule| rule.number);
    let session = compile::Session { slot: 0, rules: rules.iter().collect(), dns: &[], mirror_non_ip: true };
    Ok(compile::compile(&[session])?)
}

/// Bytes from hexadecimal digits; blanks are for the reader.
fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("two digits");
    digits.chunks(2).map(byte).collect()
}

/// An Ethernet frame of what follows its addresses.
fn ethernet(rest: &str) -> Vec<u8> {
    [hex("020000000002 020000000001"), hex(rest)].concat()
}

/// RFC 791 §3.1, 192.0.2.1 to 198.51.100.2.
fn ipv4(first_byte: &str, length: &str, fragment: &str, protocol: &str, rest: &str) -> Vec<u8> {
    ethernet(&format!("0800 {first_byte} 00 {length} abcd {fragment} 40 {protocol} 0000 c0000201 c6336402 {rest}"))
}

/// RFC 8200 §3, 2001:db8::1 to 2001:db8:0:1::2.
fn ipv6(first_byte: &str, length: &str, next: &str, rest: &str) -> Vec<u8> {
    let ends = "20010db8000000000000000000000001 20010db8000000010000000000000002";
    ethernet(&format!("86dd {first_byte} 000000 {length} {next} 40 {ends} {rest}"))
}

/// Ports 1234 and 80, and the rest of a SYN.
const SYN: &str = "04d2 0050 00000001 00000000 5002 ffff 0000 0000";
/// The same ports, and the rest of a header of UDP.
const DATAGRAM: &str = "04d2 0050 0008 0000";

/// A SYN over IPv4 behind so many words of options.
fn with_options(words: usize) -> Vec<u8> {
    ipv4(&format!("{:02x}", 0x45 + words), "0050", "4000", "06", &format!("{} {SYN}", "01010101".repeat(words)))
}

/// UDP over IPv6 behind so many headers of destination options, of eight bytes each.
fn with_headers(count: usize) -> Vec<u8> {
    let headers: String =
        (1..=count).map(|n| if n == count { "11000104 00000000" } else { "3c000104 00000000" }).collect();
    ipv6("60", "0050", if count == 0 { "11" } else { "3c" }, &format!("{headers} {DATAGRAM}"))
}

/// The frame with tags behind its addresses.
fn tagged(tags: &str, frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &hex(tags), &frame[12..]].concat()
}

fn ip_headers() -> Vec<Line> {
    let v4 = |first: &str, length: &str| ipv4(first, length, "4000", "06", SYN);
    let v6 = |first: &str, length: &str| ipv6(first, length, "06", SYN);
    let ah = |next: &str| ipv4("45", "0030", "4000", "33", &format!("{next}04 0000 {SYN}"));
    vec![
        ("TCP over IPv4", with_options(0), TCP_PORTS),
        ("one word of options", with_options(1), TCP_PORTS),
        ("ten words of options, the most there can be", with_options(10), TCP_PORTS),
        ("a header of 4 words", v4("44", "0028"), NonIp),
        ("a header of no words", v4("40", "0028"), NonIp),
        ("a header that ends behind the frame", ipv4("4f", "0028", "4000", "06", "04d2 0050"), TCP),
        ("a header that ends with the frame", ipv4("46", "0018", "4000", "06", "01010101"), TCP),
        // What is in the frame counts: offloads leave the length to the device.
        ("a total length of 0", v4("45", "0000"), TCP_PORTS),
        ("a total length below the header's", v4("45", "0013"), TCP_PORTS),
        ("a total length of 21", v4("45", "0015"), TCP_PORTS),
        ("a total length beyond the frame", v4("45", "ffff"), TCP_PORTS),
        ("version 6 under the ethertype of IPv4", v4("65", "0028"), NonIp),
        ("version 0 under the ethertype of IPv4", v4("05", "0028"), NonIp),
        ("TCP over IPv6", v6("60", "0014"), TCP_PORTS_V6),
        ("IPv6 with a traffic class", v6("6f", "0014"), TCP_PORTS_V6),
        ("IPv6 with a payload length of 0, as of a jumbogram", v6("60", "0000"), TCP_PORTS_V6),
        ("IPv6 with a payload length beyond the frame", v6("60", "ffff"), TCP_PORTS_V6),
        ("version 4 under the ethertype of IPv6", v6("45", "0014"), NonIp),
        ("IPv4 in IPv4", ipv4("45", "0030", "4000", "04", "4500"), protocol(4)),
        ("hop-by-hop options mean nothing in IPv4", ipv4("45", "0030", "4000", "00", DATAGRAM), protocol(0)),
        ("AH with TCP in it is not walked in IPv4", ah("06"), protocol(51)),
        ("AH with UDP in it is not walked in IPv4", ah("11"), protocol(51)),
    ]
}

/// RFC 8200 §4.
fn extension_headers() -> Vec<Line> {
    let v6 = |next: &str, rest: &str| ipv6("60", "0050", next, rest);
    let chain = "3c000104 00000000  2b000104 00000000  2c000000 00000000  33000001 00000007";
    vec![
        ("hop-by-hop options", v6("00", &format!("11000502 00000100 {DATAGRAM}")), UDP_PORTS_V6),
        ("hop-by-hop options of 24 bytes", v6("00", &format!("06020114 {} {SYN}", "00".repeat(20))), TCP_PORTS_V6),
        ("a routing header", v6("2b", &format!("06020401 00000000 {} {SYN}", "fd".repeat(16))), TCP_PORTS_V6),
        ("destination options", v6("3c", &format!("06000104 00000000 {SYN}")), TCP_PORTS_V6),
        // RFC 4302 §2.2: four-byte units, less two.
        ("AH of 24 bytes", v6("33", &format!("06040000 00000001 {} {SYN}", "aa".repeat(16))), TCP_PORTS_V6),
        (
            "hop-by-hop, destination, routing, fragment, AH, destination",
            v6("00", &format!("{chain} 3c020000 00000001 00000002 00000003  06000104 00000000 {SYN}")),
            TCP_PORTS_V6,
        ),
        // 12 bytes, and not 16.
        ("AH counts in fours", v6("33", &format!("06010000 00000001 00000002 {SYN}")), TCP_PORTS_V6),
        ("seven headers", with_headers(7), UDP_PORTS_V6),
        ("eight headers, the most that are walked", with_headers(8), UDP_PORTS_V6),
        ("nine headers", with_headers(9), protocol_v6(60)),
        ("a header that says it has 2,048 bytes", v6("3c", &format!("11ff0104 00000000 {DATAGRAM}")), UDP_V6),
        ("one byte of a header", v6("3c", "11"), protocol_v6(60)),
        ("two bytes of a header: they say what is next", v6("3c", "1100"), UDP_V6),
        ("nothing of the AH that is announced", v6("33", ""), protocol_v6(51)),
        ("three bytes of a fragment header", v6("2c", "110000"), protocol_v6(44)),
        ("no next header", v6("3b", DATAGRAM), protocol_v6(59)),
        ("options, then no next header", v6("3c", &format!("3b000104 00000000 {DATAGRAM}")), protocol_v6(59)),
        ("ESP: what is behind it is secret", v6("32", DATAGRAM), protocol_v6(50)),
        // RFC 6275: of the same form, but not among those that are walked.
        ("a mobility header", v6("87", &format!("11000104 00000000 {DATAGRAM}")), ANY_V6),
    ]
}

fn fragments() -> Vec<Line> {
    let v4 = |fragment: &str| ipv4("45", "001c", fragment, "11", DATAGRAM);
    let v6 = |fragment: &str| ipv6("60", "0010", "2c", &format!("1100 {fragment} 00000007 {DATAGRAM}"));
    vec![
        ("IPv4, whole", v4("4000"), UDP_PORTS),
        ("IPv4, whole, with the reserved bit", v4("8000"), UDP_PORTS),
        ("IPv4, first fragment", v4("2000"), UDP_PORTS),
        ("IPv4, second fragment", v4("2001"), UDP),
        ("IPv4, a fragment in the middle", v4("3000"), UDP),
        ("IPv4, last fragment", v4("0001"), UDP),
        ("IPv4, the last fragment there can be", v4("1fff"), UDP),
        ("IPv4, later fragment of ICMP", ipv4("45", "001c", "0010", "01", DATAGRAM), protocol(1)),
        ("IPv6, atomic fragment (RFC 6946)", v6("0000"), UDP_PORTS_V6),
        ("IPv6, atomic fragment with the reserved bits", v6("0006"), UDP_PORTS_V6),
        ("IPv6, first fragment", v6("0001"), UDP_PORTS_V6),
        ("IPv6, second fragment", v6("0009"), UDP_V6),
        ("IPv6, last fragment", v6("0008"), UDP_V6),
        ("IPv6, the last fragment there can be", v6("fff8"), UDP_V6),
        (
            "IPv6, later fragment of options: they are content, not headers",
            ipv6("60", "0018", "2c", &format!("3c000008 00000007 11000104 00000000 {DATAGRAM}")),
            protocol_v6(60),
        ),
        (
            "IPv6, a second fragment header that says later",
            ipv6("60", "0018", "2c", &format!("2c000001 00000007 11000009 00000007 {DATAGRAM}")),
            UDP_V6,
        ),
        (
            "IPv6, options in front of a first fragment",
            ipv6("60", "0018", "3c", &format!("2c000104 00000000 11000001 00000007 {DATAGRAM}")),
            UDP_PORTS_V6,
        ),
    ]
}

fn vlan_tags() -> Vec<Line> {
    let (v4, v6) = (ipv4("45", "001c", "4000", "11", DATAGRAM), ipv6("60", "0008", "11", DATAGRAM));
    let arp = ethernet("0806 0001 0800 06 04 0001 020000000001 c0000201 000000000000 c6336402");
    vec![
        ("IPv4 behind 802.1Q", tagged("8100 0005", &v4), UDP_PORTS),
        ("IPv4 behind 802.1ad", tagged("88a8 0005", &v4), UDP_PORTS),
        ("IPv4 behind 802.1ad and 802.1Q", tagged("88a8 0005 8100 6006", &v4), UDP_PORTS),
        ("IPv4 behind 802.1Q twice", tagged("8100 0005 8100 0006", &v4), UDP_PORTS),
        ("IPv4 behind 802.1Q and 802.1ad", tagged("8100 0005 88a8 0006", &v4), UDP_PORTS),
        ("IPv4 behind three tags", tagged("88a8 0005 8100 0006 8100 0007", &v4), NonIp),
        ("IPv6 behind 802.1Q", tagged("8100 0fff", &v6), UDP_PORTS_V6),
        ("IPv6 behind 802.1ad and 802.1Q", tagged("88a8 0005 8100 6006", &v6), UDP_PORTS_V6),
        ("IPv6 behind three tags", tagged("8100 0005 8100 0006 88a8 0007", &v6), NonIp),
        ("IPv4 behind 0x9100, a tag before the standard", tagged("9100 0005", &v4), NonIp),
        ("ARP behind a tag", tagged("8100 0005", &arp), NonIp),
        ("half a tag", ethernet("8100 0005"), NonIp),
        ("a tag and nothing behind", ethernet("8100 0005 0800"), NonIp),
        ("a tag and half of another", ethernet("88a8 0005 8100 00"), NonIp),
        ("two tags and half an IPv4 header", tagged("88a8 0005 8100 0006", &v4[..24]), NonIp),
    ]
}

fn not_ip() -> Vec<Line> {
    let packet = &ipv4("45", "001c", "4000", "11", DATAGRAM)[14..];
    let behind = |header: &str| [ethernet(header), packet.to_vec()].concat();
    vec![
        ("ARP", ethernet("0806 0001 0800 06 04 0001 020000000001 c0000201 000000000000 c6336402"), NonIp),
        ("LLDP", ethernet("88cc 0207 04 020000000001 0403 05 3031 0602 0078 0000"), NonIp),
        ("IPv4 in MPLS", behind("8847 00010140"), NonIp),
        ("IPv4 in a PPPoE session", behind("8864 1100 0001 001e 0021"), NonIp),
        ("PPPoE discovery", ethernet("8863 1109 0000 0004 01010000"), NonIp),
        ("IPv4 under an unknown ethertype", behind("1234"), NonIp),
        ("an 802.3 length, then spanning tree", ethernet("0026 424203 0000 00 00 00"), NonIp),
        ("an 802.3 length, then an IPv4 header", behind("001c"), NonIp),
        ("IPv4 in 802.2 SNAP (RFC 1042)", behind("0024 aaaa03 000000 0800"), NonIp),
        ("one byte under an unknown ethertype", ethernet("1234 00"), NonIp),
    ]
}

fn transport_headers() -> Vec<Line> {
    let v4 = |protocol: &str, rest: &str| ipv4("45", "0028", "4000", protocol, rest);
    vec![
        ("UDP", v4("11", DATAGRAM), UDP_PORTS),
        ("UDP to another port", v4("11", "04d2 0051 0008 0000"), UDP),
        ("UDP with its ports swapped", v4("11", "0050 04d2 0008 0000"), UDP),
        ("UDP of four bytes: the ports", v4("11", "04d2 0050"), UDP_PORTS),
        ("UDP of three bytes", v4("11", "04d2 00"), UDP),
        ("UDP with a length of 0", v4("11", "04d2 0050 0000 0000"), UDP_PORTS),
        ("TCP cut behind its ports", v4("06", "04d2 0050"), TCP_PORTS),
        ("TCP cut inside its ports", v4("06", "04d2 00"), TCP),
        ("TCP with nothing of it", v4("06", ""), TCP),
        ("TCP over IPv6 cut inside its ports", ipv6("60", "0014", "06", "04d2 00"), TCP_V6),
        ("ICMP whose first bytes look like the ports", v4("01", DATAGRAM), protocol(1)),
        ("ICMPv6 whose first bytes look like the ports", ipv6("60", "0008", "3a", DATAGRAM), protocol_v6(58)),
        ("ICMPv6 over IPv4", v4("3a", DATAGRAM), protocol(58)),
        ("SCTP: its ports are none that rules know", v4("84", DATAGRAM), protocol(132)),
        ("SCTP over IPv6", ipv6("60", "000c", "84", DATAGRAM), protocol_v6(132)),
        ("GRE", v4("2f", "00000800 45000000"), protocol(47)),
        ("ESP over IPv4", v4("32", DATAGRAM), protocol(50)),
        ("a protocol for experiments", v4("fd", DATAGRAM), protocol(253)),
        ("a protocol without a rule of its own", v4("fe", DATAGRAM), ANY),
    ]
}

/// A judge of [`policy`], in words of this file.
struct Reader {
    judge: Judge,
    policy: Policy,
    _lab: Lab,
}

impl Reader {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let policy = policy()?;
        let judge = Judge::load(&policy, &lab.bpffs().context("the lab has a bpffs")?.join("judge"))?;
        Ok(Self { judge, policy, _lab: lab })
    }

    fn takes(&mut self, frame: &[u8]) -> Result<Taken> {
        match self.judge.verdict(frame)? {
            Verdict::NonIp(_) => Ok(NonIp),
            Verdict::Rule(place) => {
                Ok(For(self.policy.places[place as usize].rule.context("no network service is asked for")?.get()))
            }
            verdict => anyhow::bail!("the last rules take every packet, and the verdict is {verdict:?}"),
        }
    }
}

#[test]
fn every_kind_of_packet_is_taken_for_what_it_is() -> Result<()> {
    let mut reader = Reader::new()?;
    let mut wrong = String::new();
    for table in [ip_headers(), extension_headers(), fragments(), vlan_tags(), not_ip(), transport_headers()] {
        for (what, frame, expected) in table {
            let taken = reader.takes(&frame);
            if !taken.as_ref().is_ok_and(|taken| *taken == expected) {
                wrong += &format!("{what}: expected {expected:?}, and it is {taken:?}: {frame:02x?}\n");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    Ok(())
}

/// A frame, and from which length on it is taken for what; below the first it is not IP.
type Cuts<'a> = (&'static str, Vec<u8>, &'a [(usize, Taken)]);

/// As `explain` asks: a frame that the kernel takes in no test run gets a tag.
#[test]
fn a_frame_cut_at_any_byte_is_taken_for_what_is_left_of_it() -> Result<()> {
    let v4 = ipv4("45", "001c", "4000", "11", DATAGRAM);
    let v6 = ipv6("60", "0014", "06", SYN);
    let options = ipv6("60", "0010", "3c", &format!("11000104 00000000 {DATAGRAM}"));
    let fragment = ipv6("60", "001c", "2c", &format!("06000001 00000007 {SYN}"));
    let frames: [Cuts<'_>; 9] = [
        ("UDP over IPv4", v4.clone(), &[(34, UDP), (38, UDP_PORTS)]),
        ("TCP over IPv4 with options", with_options(2), &[(34, TCP), (46, TCP_PORTS)]),
        ("ICMP", ipv4("45", "001c", "4000", "01", DATAGRAM), &[(34, protocol(1))]),
        ("TCP over IPv6", v6.clone(), &[(54, TCP_V6), (58, TCP_PORTS_V6)]),
        // A header is stepped over by its first two bytes, a fragment header by its first four.
        ("UDP over IPv6 with options", options, &[(54, protocol_v6(60)), (56, UDP_V6), (66, UDP_PORTS_V6)]),
        ("a first fragment", fragment, &[(54, protocol_v6(44)), (58, TCP_V6), (66, TCP_PORTS_V6)]),
        ("UDP over IPv4 behind a tag", tagged("8100 0005", &v4), &[(38, UDP), (42, UDP_PORTS)]),
        ("UDP over IPv4 behind two tags", tagged("88a8 0005 8100 0006", &v4), &[(42, UDP), (46, UDP_PORTS)]),
        ("TCP over IPv6 behind two tags", tagged("88a8 0005 8100 0006", &v6), &[(62, TCP_V6), (66, TCP_PORTS_V6)]),
    ];
    let mut reader = Reader::new()?;
    let mut as_it_is = 0;
    for (what, frame, lengths) in frames {
        for length in 14..=frame.len() {
            let expected = lengths.iter().rfind(|(from, _)| length >= *from).map_or(NonIp, |(_, taken)| *taken);
            let cut = &frame[..length];
            let taken = reader.takes(&question::askable(cut)?).with_context(|| format!("{what}, {length} bytes"))?;
            assert_eq!(taken, expected, "{what}, cut to {length} bytes");
            // Where the kernel takes the frame as it is, it says the same.
            if let Ok(taken) = reader.takes(cut) {
                assert_eq!(taken, expected, "{what}, cut to {length} bytes, as it is");
                as_it_is += 1;
            }
        }
    }
    assert!(as_it_is > 200, "only {as_it_is} frames were asked about as they are");
    Ok(())
}

#[test]
fn the_kernel_takes_every_frame_that_explain_asks_about() -> Result<()> {
    let mut reader = Reader::new()?;
    let mut frame = ipv4("45", "0c00", "4000", "11", DATAGRAM);
    frame.resize(question::LONGEST, 0);
    assert_eq!(reader.takes(&frame)?, UDP_PORTS, "the longest");
    frame.resize(9000, 0);
    assert_eq!(reader.takes(&question::askable(&frame)?)?, UDP_PORTS, "one that is cut");
    assert_eq!(reader.takes(&question::askable(&ethernet("1234"))?)?, NonIp, "the shortest");
    for (text, expected) in [
        ("tcp 192.0.2.1:1234 > 198.51.100.2:80", TCP_PORTS),
        ("udp 192.0.2.1:1234 > 198.51.100.2:80", UDP_PORTS),
        ("udp 192.0.2.1:1234 > 198.51.100.2:81", UDP),
        ("udp [2001:db8::1]:1234 > [2001:db8:0:1::2]:80", UDP_PORTS_V6),
        ("icmp 192.0.2.1 > 198.51.100.2", protocol(1)),
        ("icmp6 2001:db8::1 > 2001:db8:0:1::2", protocol_v6(58)),
        ("59 2001:db8::1 > 2001:db8:0:1::2", protocol_v6(59)),
        ("sctp 192.0.2.1 > 198.51.100.2", protocol(132)),
        ("gre 192.0.2.1 > 198.51.100.2", protocol(47)),
        ("253 192.0.2.1 > 198.51.100.3", ANY),
    ] {
        let frame = text.parse::<question::flow::Flow>()?.frame();
        assert_eq!(reader.takes(&frame)?, expected, "{text}");
        mirror_tests::checksum::verify(&Frame(frame)).map_err(anyhow::Error::msg).context(text)?;
    }
    Ok(())
}

#[test]
fn what_is_not_ip_is_nobodys_without_mirror_non_ip() -> Result<()> {
    let lab = Lab::new()?;
    let any = rule(1, None, ("0.0.0.0/0", "0.0.0.0/0"));
    let session = compile::Session { slot: 0, rules: vec![&any], dns: &[], mirror_non_ip: false };
    let policy = compile::compile(&[session])?;
    let mut judge = Judge::load(&policy, &lab.bpffs().context("the lab has a bpffs")?.join("judge"))?;
    for (what, frame, _) in not_ip() {
        assert_eq!(judge.verdict(&frame)?, Verdict::None, "{what}");
    }
    assert_eq!(judge.verdict(&ipv6("60", "0014", "06", SYN))?, Verdict::None, "an IPv4 rule matches no IPv6");
    assert_eq!(judge.verdict(&with_options(0))?, Verdict::Rule(0));
    Ok(())
}

/// Sockets at the discard port, in the way of answers that a port is unreachable.
fn discard(lab: &Lab) -> Result<Vec<UdpSocket>> {
    let ends = BOTH_VERSIONS.map(|version| [GENERATOR, HOST_SOURCE].map(|station| lab.end(station, version)));
    let bind = |end: &End<'_>| end.namespace.enter(|| Ok(UdpSocket::bind((end.address, 9))?));
    ends.as_flattened().iter().map(bind).collect()
}

/// A test run has all tags in the frame. On the way in, the kernel takes the outermost off (`skb_vlan_untag`).
#[test]
fn live_frames_are_ip_behind_up_to_two_tags() -> Result<()> {
    let lab = Lab::options().source_mtu(1516).uplink_mtu(1700).start()?;
    lab.mirrorctl(&format!("attach s0 --target {} --vni 42", COLLECTOR.v4))?.ok();
    let _discard = discard(&lab)?;
    let three = [(SERVICE_VLAN, 100), (VLAN, 200), (VLAN, 300)].map(|(ethertype, control)| Tag { ethertype, control });
    let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
    let injected = [(GENERATOR, HOST_SOURCE), (HOST_SOURCE, GENERATOR)].map(|(from, to)| {
        let udp = BOTH_VERSIONS.map(|version| craft::udp(&from, &to, version, (4000, 9), &craft::content(5, 80)));
        let lldp = craft::ethernet(&from, &to, 0x88cc, &craft::content(6, 60));
        let mut injected = Vec::new();
        for tags in [&three[..0], &three[1..2], &three[..1], &three[..2], &three[1..], &three[..]] {
            let lldp = craft::tagged(&lldp, tags);
            let udp = udp.clone().map(|frame| craft::tagged(&frame, tags));
            injected.extend(udp.iter().chain([&lldp]).cloned());
            if tags.len() < 3 { &mut wanted } else { &mut unwanted }.extend(udp);
            unwanted.push(lldp);
        }
        injected
    });
    let recording = lab.record(|| {
        lab.inject_all(GENERATOR, &injected[0])?;
        lab.inject_all(HOST_SOURCE, &injected[1])
    })?;
    assert_eq!(recording.each_has_one_copy(&wanted, Wanted::vni(42)), 20);
    assert_eq!(unwanted.len(), 16);
    for frame in &unwanted {
        let is_copied = recording.copies.iter().any(|copy| copy.inner == *frame);
        assert!(!is_copied, "{frame} should not be mirrored: it is no IP to any rule");
    }
    Ok(())
}

/// Of such a packet the kernel has the first bytes at hand only; the IP header, or its end, is in another page.
#[test]
fn live_packets_that_are_not_linear_are_read() -> Result<()> {
    let lab = Lab::options().source_mtu(9000).start()?;
    lab.mirrorctl(&format!("attach s0 --target {} --vni 42 --packet-length 200", COLLECTOR.v4))?.ok();
    let _discard = discard(&lab)?;
    let _turn = Turn::wait()?;
    for version in BOTH_VERSIONS {
        for linear in [14, 20, 60] {
            let payload = craft::content(u64::from(linear), 8000);
            let frame = |from, to| craft::udp(from, to, version, (4000, 9), &payload);
            let (inbound, outbound) = (frame(&GENERATOR, &HOST_SOURCE), frame(&HOST_SOURCE, &GENERATOR));
            let recording = lab.record(|| {
                lab.inject_non_linear(GENERATOR, &inbound, linear)?;
                lab.inject_non_linear(HOST_SOURCE, &outbound, linear)
            })?;
            let copies = recording.each_has_one_copy(&[inbound, outbound], Wanted::vni(42).cut_to(200));
            assert_eq!(copies, 2, "{version:?}, {linear} bytes in the linear part");
        }
    }
    let recording = lab.record(|| {
        let (generator, host) = (lab.end(GENERATOR, IpVersion::V4), lab.end(HOST_SOURCE, IpVersion::V4));
        traffic::exchange_udp(generator, host, 8900)
    })?;
    assert_eq!(recording.each_frame_has_one_copy(Wanted::vni(42).cut_to(200)), 2);
    Ok(())
}
