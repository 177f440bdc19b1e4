//! Frames of every kind: tables made by hand, each line with where its layout is from, and a generator.
//!
//! Addresses are nobody's of the lab, so that nobody answers: the hosts take the frames for somebody else's, and drop
//! them behind the hooks that mirror. Unless a table says something else, lengths and checksums are right. What the
//! kernel does not let pass has the reason beside it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum;
use crate::craft::content;
use crate::frame::{ARP, ETHERNET_HEADER, Frame, ICMP, ICMPV6, IPV4, IPV6, Ip, Mac, SERVICE_VLAN, TCP, Tag, UDP, VLAN};
use crate::random::Random;

/// The MTU that a source needs for all of them.
pub const SOURCE_MTU: u32 = 9000;

/// What becomes of a frame that somebody sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It passes the source, and its copy is the frame.
    Copied,
    /// The kernel does not send it; why.
    NotSent(&'static str),
    /// It passes on one link and never arrives; why.
    NotReceived(&'static str),
    /// It passes the source without being copied; the reason that is counted.
    Skipped(&'static str),
    /// As that, and it never arrives, no more than one that isn't mirrored.
    SkippedAndNotReceived(&'static str),
}

/// A frame of the corpus.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is, and where its layout is from.
    pub what: String,
    /// Its bytes.
    pub frame: Frame,
    /// What becomes of it on its way in.
    pub ingress: Fate,
    /// What becomes of it on its way out.
    pub egress: Fate,
}

impl Case {
    fn new(what: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { what: what.into(), frame: Frame(bytes), ingress: Fate::Copied, egress: Fate::Copied }
    }

    fn with_fates(self, ingress: Fate, egress: Fate) -> Self {
        Self { ingress, egress, ..self }
    }
}

/// Where the frames come from. No interface of a lab begins with 06: copies of a few bytes can be told by it, too.
pub const SENDER: Mac = Mac([0x06, 0, 0, 0, 0, 1]);
/// Where those to a single station go.
pub const RECEIVER: Mac = Mac([0x06, 0, 0, 0, 0, 2]);
const BROADCAST: Mac = Mac([0xff; 6]);

const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const DESTINATION_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const DESTINATION_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 2);

/// IP protocol numbers that [`crate::frame`] has no use for.
mod protocol {
    pub const IPIP: u8 = 4;
    pub const IPV6: u8 = 41;
    pub const GRE: u8 = 47;
    pub const ESP: u8 = 50;
    pub const AH: u8 = 51;
    pub const NO_NEXT: u8 = 59;
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const DESTINATION: u8 = 60;
    pub const ETHERIP: u8 = 97;
    pub const SCTP: u8 = 132;
}

/// The whole corpus: what is made by hand, then `generated` frames that follow from `seed`.
pub fn all(seed: u64, generated: usize) -> Vec<Case> {
    let tables = [
        ("no IP", not_ip()),
        ("a length", llc()),
        ("IPv4", ipv4()),
        ("IPv6", ipv6()),
        ("tunnel", tunnels()),
        ("label or session", labels_and_sessions()),
        ("tags", tags()),
        ("group", groups()),
        ("runt", runts()),
        ("long", long()),
    ];
    let mut cases = Vec::new();
    for (table, lines) in tables {
        cases.extend(lines.into_iter().map(|case| Case { what: format!("{table}: {}", case.what), ..case }));
    }
    let mut random = Random::new(seed);
    cases.extend((0..generated).map(|number| random_case(&mut random, number)));
    // The beginnings of two frames can be one.
    let mut known = BTreeSet::new();
    cases.retain(|case| known.insert(case.frame.clone()));
    cases
}

/// Bytes from hexadecimal digits; blanks are for the reader.
fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("two digits");
    digits.chunks(2).map(byte).collect()
}

/// A frame to a single station.
fn frame(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    frame_to(RECEIVER, ethertype, payload)
}

fn frame_to(destination: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&destination.0, &SENDER.0, ethertype.to_be_bytes().as_slice(), payload].concat()
}

/// The address that a group has on Ethernet (RFC 1112 §6.4, RFC 2464 §7).
fn group_mac(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            Mac([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            Mac([0x33, 0x33, a, b, c, d])
        }
    }
}

/// An IPv4 packet (RFC 791 §3.1) with `options`, a multiple of four bytes, and flags and fragment offset as given.
fn packet_v4(protocol: u8, options: &[u8], fragment: u16, payload: &[u8]) -> Vec<u8> {
    packet_v4_between(SOURCE_V4, DESTINATION_V4, protocol, options, fragment, payload)
}

fn packet_v4_between(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    options: &[u8],
    fragment: u16,
    payload: &[u8],
) -> Vec<u8> {
    let header = 20 + options.len();
    let mut bytes = vec![0x40 | (header / 4) as u8, 0, 0, 0, 0x12, 0x34, 0, 0, 64, protocol, 0, 0];
    bytes[2..4].copy_from_slice(&((header + payload.len()) as u16).to_be_bytes());
    bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend(options);
    checksum::fill_ipv4(&mut bytes, 0);
    bytes.extend(payload);
    if fragment & 0x3fff == 0 {
        let end = bytes.len();
        let layout = Ip {
            source: source.into(),
            destination: destination.into(),
            protocol,
            transport: header,
            end,
            fragment_offset: 0,
            more_fragments: false,
        };
        finish_transport(&mut bytes, &layout);
    }
    bytes
}

/// An IPv6 packet (RFC 8200 §3): `extensions` begins with the header whose number is `next`; `protocol` is what the
/// payload behind them is.
fn packet_v6(next: u8, extensions: &[u8], protocol: u8, payload: &[u8]) -> Vec<u8> {
    packet_v6_between(SOURCE_V6, DESTINATION_V6, next, extensions, protocol, payload)
}

fn packet_v6_between(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    next: u8,
    extensions: &[u8],
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    bytes[4..6].copy_from_slice(&((extensions.len() + payload.len()) as u16).to_be_bytes());
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend(extensions);
    let transport = bytes.len();
    bytes.extend(payload);
    let end = bytes.len();
    let (source, destination) = (source.into(), destination.into());
    let layout = Ip { source, destination, protocol, transport, end, fragment_offset: 0, more_fragments: false };
    finish_transport(&mut bytes, &layout);
    bytes
}

/// Writes the transport checksum where there is room for one.
fn finish_transport(bytes: &mut [u8], layout: &Ip) {
    let least = match layout.protocol {
        TCP => 18,
        UDP => 8,
        ICMP | ICMPV6 => 4,
        _ => return,
    };
    if layout.end - layout.transport >= least {
        checksum::fill_transport(bytes, layout);
    }
}

/// RFC 768.
fn udp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let [a, b] = ports.0.to_be_bytes();
    let [c, d] = ports.1.to_be_bytes();
    let [e, f] = ((8 + payload.len()) as u16).to_be_bytes();
    [[a, b, c, d, e, f, 0, 0].as_slice(), payload].concat()
}

/// RFC 9293 §3.1, with `options`, a multiple of four bytes.
fn tcp(flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = hex("04d2 0050 00000001 00000002 00 00 ffff 0000 0000");
    bytes[12] = ((20 + options.len()) / 4) as u8 * 16;
    bytes[13] = flags;
    bytes.extend(options);
    bytes.extend(payload);
    bytes
}

fn datagram(length: usize) -> Vec<u8> {
    udp((1234, 80), &content(length as u64, length))
}

/// UDP over IPv4, over IPv6, in a frame each.
fn plain_v4(length: usize) -> Vec<u8> {
    frame(IPV4, &packet_v4(UDP, &[], 0x4000, &datagram(length)))
}

fn plain_v6(length: usize) -> Vec<u8> {
    frame(IPV6, &packet_v6(UDP, &[], UDP, &datagram(length)))
}

fn behind(mut bytes: Vec<u8>, tags: &[Tag]) -> Vec<u8> {
    for tag in tags.iter().rev() {
        tag.put_into(&mut bytes);
    }
    bytes
}

/// Changes some bytes of a frame's payload.
fn patched(mut bytes: Vec<u8>, offset: usize, with: &str) -> Vec<u8> {
    let with = hex(with);
    bytes[ETHERNET_HEADER + offset..ETHERNET_HEADER + offset + with.len()].copy_from_slice(&with);
    bytes
}

fn padded(bytes: Vec<u8>, with: &[u8]) -> Vec<u8> {
    [bytes, with.to_vec()].concat()
}

fn not_ip() -> Vec<Case> {
    const ARP_REQUEST: &str = "0001 0800 06 04 0001 060000000001 c0000201 000000000000 c6336402";
    const ARP_REPLY: &str = "0001 0800 06 04 0002 060000000001 c0000201 060000000002 c6336402";
    let other = |ethertype: u16, length: usize| frame(ethertype, &content(u64::from(ethertype), length));
    vec![
        Case::new("ARP request to all (RFC 826)", frame_to(BROADCAST, ARP, &hex(ARP_REQUEST))),
        Case::new("ARP request, padded (RFC 894)", padded(frame_to(BROADCAST, ARP, &hex(ARP_REQUEST)), &[0; 18])),
        Case::new("ARP reply (RFC 826)", frame(ARP, &hex(ARP_REPLY))),
        Case::new("ARP reply with padding that is not zero", padded(frame(ARP, &hex(ARP_REPLY)), &[0x5a; 18])),
        Case::new("ARP cut in its addresses", frame(ARP, &hex("0001 0800 06 04 0002 0600"))),
        Case::new("ARP for another kind of hardware (RFC 826)", frame(ARP, &hex("0006 0800 08 04 0001"))),
        Case::new("RARP (RFC 903)", frame(0x8035, &hex("0001 0800 06 04 0003 060000000001 00000000"))),
        Case::new(
            "LLDP (IEEE 802.1AB 8.2)",
            frame_to(
                Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]),
                0x88cc,
                &hex("0207 04 060000000001 0403 05 3031 0602 0078 0000"),
            ),
        ),
        Case::new(
            "LACP (IEEE 802.3 43.4)",
            frame_to(Mac([0x01, 0x80, 0xc2, 0, 0, 2]), 0x8809, &[hex("01 01"), content(1, 108)].concat()),
        ),
        Case::new(
            "PAUSE (IEEE 802.3 31B)",
            frame_to(Mac([0x01, 0x80, 0xc2, 0, 0, 1]), 0x8808, &[hex("0001 ffff"), vec![0; 42]].concat()),
        ),
        Case::new("EAPOL start (IEEE 802.1X 11.3)", frame(0x888e, &hex("01 01 0000"))),
        Case::new("PTP sync (IEEE 1588 F)", frame(0x88f7, &[hex("00 02 002c"), content(2, 40)].concat())),
        Case::new("MACsec (IEEE 802.1AE 9.3)", frame(0x88e5, &[hex("2c 00 00000001"), content(3, 60)].concat())),
        Case::new(
            "a frame in a backbone frame (IEEE 802.1ah 9.7)",
            frame(0x88e7, &[hex("00000001"), plain_v4(9)].concat()),
        ),
        Case::new("NSH (RFC 8300 §2)", frame(0x894f, &[hex("0002 0202 0000 01ff"), content(4, 30)].concat())),
        Case::new("TRILL (RFC 6325 §3)", other(0x22f3, 80)),
        Case::new("FCoE", other(0x8906, 200)),
        Case::new("Wake-on-LAN", frame(0x0842, &[vec![0xff; 6], RECEIVER.0.repeat(16)].concat())),
        Case::new("loopback test (IEEE 802.3)", other(0x9000, 46)),
        Case::new("another ethertype for experiments (IEEE 802 9.2.3)", other(0x88b6, 77)),
        Case::new("an ethertype that nobody has", other(0x1234, 100)),
        Case::new("the lowest ethertype (IEEE 802.3 3.2.6)", other(0x0600, 50)),
        Case::new("the highest ethertype", other(0xffff, 50)),
        Case::new("an IPv4 packet under an ethertype that nobody has", frame(0x1234, &plain_v4(50)[14..])),
        Case::new("an IPv6 packet under an ethertype that nobody has", frame(0x1234, &plain_v6(50)[14..])),
    ]
}

/// Frames with a length where others have an ethertype (IEEE 802.3 3.2.6, IEEE 802.2).
fn llc() -> Vec<Case> {
    vec![
        Case::new(
            "spanning tree (IEEE 802.1D 9.3)",
            padded(
                frame_to(Mac([0x01, 0x80, 0xc2, 0, 0, 0]), 38, &[hex("424203 0000 00 00 00"), content(5, 30)].concat()),
                &[0; 8],
            ),
        ),
        Case::new(
            "IPv4 in SNAP (RFC 1042)",
            frame(36, &[hex("aaaa03 000000 0800"), plain_v4(0)[14..].to_vec()].concat()),
        ),
        Case::new("ARP in SNAP (RFC 1042)", frame(16, &[hex("aaaa03 000000 0806"), content(6, 8)].concat())),
        Case::new("SNAP of a vendor", frame(60, &[hex("aaaa03 00000c 2000"), content(7, 52)].concat())),
        Case::new("IPX with no LLC header", frame(34, &[hex("ffff 0022"), content(8, 30)].concat())),
        Case::new("NetBEUI", frame(40, &[hex("f0f003"), content(9, 37)].concat())),
        Case::new("a length of 0", frame(0, &content(10, 46))),
        Case::new("a length that is longer than the frame", frame(1500, &[hex("424203"), content(11, 40)].concat())),
        Case::new("a length that is shorter than the frame", frame(3, &[hex("424203"), content(12, 400)].concat())),
        Case::new("the longest length", frame(1500, &[hex("f0f003"), content(13, 1497)].concat())),
        Case::new("a number that is neither length nor ethertype", frame(0x05ff, &content(14, 60))),
        Case::new(
            "IS-IS (RFC 1142)",
            frame_to(Mac([0x01, 0x80, 0xc2, 0, 0, 0x14]), 50, &[hex("fefe03 83"), content(15, 46)].concat()),
        ),
    ]
}

fn ipv4() -> Vec<Case> {
    let of = |protocol: u8, payload: &[u8]| frame(IPV4, &packet_v4(protocol, &[], 0x4000, payload));
    let with_options = |options: &str| frame(IPV4, &packet_v4(UDP, &hex(options), 0, &datagram(40)));
    let fragment = |field: u16, length| frame(IPV4, &packet_v4(UDP, &[], field, &datagram(length)));
    let syn = tcp(0x02, &hex("0204 05b4 0402 080a 00000001 00000000 01 030307"), &[]);
    vec![
        Case::new("UDP over IPv4 (RFC 768)", plain_v4(200)),
        Case::new("UDP with nothing in it", plain_v4(0)),
        Case::new("UDP without checksum (RFC 768)", patched(plain_v4(99), 26, "0000")),
        Case::new("UDP with a wrong checksum", patched(plain_v4(98), 26, "dead")),
        Case::new("UDP with a length that is too long", patched(plain_v4(97), 24, "ffff")),
        Case::new("UDP with a length of 0", patched(plain_v4(96), 24, "0000")),
        Case::new("TCP SYN with options (RFC 9293 §3.1)", of(TCP, &syn)),
        Case::new("TCP data", of(TCP, &tcp(0x18, &[], &content(16, 1000)))),
        Case::new("TCP with every flag and urgent data (RFC 9293 §3.8.5)", of(TCP, &tcp(0xff, &[], b"now"))),
        Case::new("TCP with no flag", of(TCP, &tcp(0, &[], &[]))),
        Case::new("TCP with 40 bytes of options", of(TCP, &tcp(0x10, &[1; 40], &content(17, 30)))),
        Case::new("TCP whose data offset is 0", patched(of(TCP, &tcp(0x10, &[], &content(18, 30))), 32, "00")),
        Case::new("TCP whose options end behind the packet", patched(of(TCP, &tcp(0x10, &[], &[])), 32, "f0")),
        Case::new("ICMP echo request (RFC 792)", of(ICMP, &[hex("08 00 0000 7777 0001"), content(19, 56)].concat())),
        Case::new(
            "ICMP port unreachable with what it is about (RFC 792)",
            of(ICMP, &[hex("03 03 0000 00000000"), plain_v4(0)[14..].to_vec()].concat()),
        ),
        Case::new("ICMP of one byte", of(ICMP, &[8])),
        Case::new(
            "SCTP INIT (RFC 9260 §3.3.2)",
            of(protocol::SCTP, &hex("04d2 0050 00000000 deadbeef 01 00 0014 00000001 0000ffff 0001 0001 00000001")),
        ),
        Case::new("DCCP (RFC 4340 §5.1)", of(33, &content(20, 24))),
        Case::new(
            "UDP-Lite that covers its header (RFC 3828 §3.1)",
            of(136, &[hex("04d2 0050 0008 1234"), content(21, 50)].concat()),
        ),
        Case::new("a protocol for experiments (RFC 3692)", of(253, &content(22, 70))),
        Case::new("the last protocol", of(255, &content(23, 11))),
        Case::new("IPv4 with nothing in it", of(UDP, &[])),
        Case::new("options: record route (RFC 791 §3.1)", with_options("07 0b 04 00000000 00000000 00")),
        Case::new("options: time stamps (RFC 791 §3.1)", with_options("44 0c 05 00 00000000 00000000")),
        Case::new("options: router alert (RFC 2113)", with_options("94 04 0000")),
        Case::new("options: loose source route (RFC 791 §3.1)", with_options("83 07 04 c6336409 00")),
        Case::new("options: 40 bytes of no operation", with_options(&"01".repeat(40))),
        Case::new("options: one that is longer than the header", with_options("07 ff 04 00")),
        Case::new("options: one that has a length of 0", with_options("44 00 05 00")),
        Case::new("options and TCP with options", frame(IPV4, &packet_v4(TCP, &hex("94 04 0000"), 0x4000, &syn))),
        Case::new("first fragment (RFC 791 §3.2)", fragment(0x2000, 64)),
        Case::new("fragment in the middle", fragment(0x2009, 72)),
        Case::new("last fragment", fragment(0x0012, 13)),
        Case::new("the last fragment there can be", fragment(0x1fff, 5)),
        Case::new("a fragment that can't be fragmented", fragment(0x6001, 40)),
        Case::new("a fragment of eight bytes (RFC 1858 §3)", frame(IPV4, &packet_v4(TCP, &[], 0x2000, &syn[..8]))),
        Case::new("a fragment of ICMP", frame(IPV4, &packet_v4(ICMP, &[], 0x2000, &content(24, 1480)))),
        Case::new("the evil bit (RFC 3514)", fragment(0x8000, 33)),
        Case::new("congestion was experienced (RFC 3168 §5)", patched(plain_v4(60), 1, "03")),
        Case::new("every bit of the class is set (RFC 2474 §3)", patched(plain_v4(61), 1, "ff")),
        Case::new("a TTL of 0", patched(plain_v4(62), 8, "00")),
        Case::new("a wrong header checksum", patched(plain_v4(63), 10, "dead")),
        Case::new("a header checksum of 0", patched(plain_v4(64), 10, "0000")),
        Case::new("version 5", patched(plain_v4(65), 0, "55")),
        Case::new("version 6 under the ethertype of IPv4", frame(IPV4, &plain_v6(66)[14..])),
        Case::new("version 0", patched(plain_v4(67), 0, "00")),
        Case::new("a header of four words", patched(plain_v4(68), 0, "44")),
        Case::new("a header that is longer than the packet", patched(plain_v4(3), 0, "4f")),
        Case::new("a total length of 0", patched(plain_v4(70), 2, "0000")),
        Case::new("a total length of less than the header", patched(plain_v4(71), 2, "0013")),
        Case::new("a total length of the header", patched(plain_v4(72), 2, "0014")),
        Case::new("a total length beyond the frame", patched(plain_v4(73), 2, "0200")),
        Case::new("the longest total length", patched(plain_v4(74), 2, "ffff")),
        Case::new("padding to 60 bytes (RFC 894)", padded(plain_v4(1), &[0; 17])),
        Case::new("padding that is not zero", padded(plain_v4(2), &[0xa5; 16])),
        Case::new("more padding than there is packet", padded(plain_v4(3), &content(25, 700))),
        Case::new("padding behind TCP", padded(of(TCP, &tcp(0x10, &[], &[])), &[0; 6])),
        Case::new("padding behind a last fragment", padded(fragment(0x0002, 4), &content(26, 14))),
        Case::new(
            "source and destination are one (LAND)",
            frame(IPV4, &packet_v4_between(SOURCE_V4, SOURCE_V4, TCP, &[], 0, &tcp(2, &[], &[]))),
        ),
        Case::new(
            "from nobody (RFC 1122 §3.2.1.3)",
            frame(IPV4, &packet_v4_between(Ipv4Addr::UNSPECIFIED, DESTINATION_V4, UDP, &[], 0, &datagram(41))),
        ),
        Case::new(
            "loopback addresses on a wire (RFC 1122 §3.2.1.3)",
            frame(IPV4, &packet_v4_between(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, UDP, &[], 0, &datagram(42))),
        ),
    ]
}

/// A hop-by-hop or destination header (RFC 8200 §4.3) with padding alone, `length` bytes long in all.
fn options_header(next: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bytes[0] = next;
    bytes[1] = (length / 8 - 1) as u8;
    let mut at = 2;
    while at < length {
        // PadN carries up to 255 bytes, and takes two itself; one byte is Pad1.
        let room = (length - at).min(257);
        if room > 1 {
            bytes[at] = 1;
            bytes[at + 1] = (room - 2) as u8;
        }
        at += room;
    }
    bytes
}

/// A fragment header (RFC 8200 §4.5); the offset's lowest bit says that more follow.
fn fragment_header(next: u8, offset: u16) -> Vec<u8> {
    let [high, low] = offset.to_be_bytes();
    vec![next, 0, high, low, 0, 0, 0, 7]
}

/// An authentication header (RFC 4302 §2.2) with `icv` bytes of check value.
fn authentication_header(next: u8, icv: usize) -> Vec<u8> {
    let words = (12 + icv) / 4 - 2;
    [vec![next, words as u8, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1], content(27, icv)].concat()
}

/// `count` destination headers of eight bytes, one behind the other, the last in front of `next`.
fn chain(count: usize, next: u8) -> Vec<u8> {
    let header = |index| options_header(if index + 1 == count { next } else { protocol::DESTINATION }, 8);
    (0..count).flat_map(header).collect()
}

fn ipv6() -> Vec<Case> {
    use protocol::{AH, DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING};
    let of = |protocol: u8, payload: &[u8]| frame(IPV6, &packet_v6(protocol, &[], protocol, payload));
    let behind_one = |number: u8, header: Vec<u8>| frame(IPV6, &packet_v6(number, &header, UDP, &datagram(50)));
    let fragment = |offset: u16, payload: &[u8]| {
        // What a fragment begins with is no header, so there is no checksum to fill in.
        frame(IPV6, &packet_v6(FRAGMENT, &fragment_header(UDP, offset), protocol::NO_NEXT, payload))
    };
    let echo = [hex("80 00 0000 7777 0001"), content(28, 56)].concat();
    let mut cases = vec![
        Case::new("UDP over IPv6 (RFC 8200 §3)", plain_v6(200)),
        Case::new("UDP over IPv6 without checksum (RFC 6935)", patched(plain_v6(99), 46, "0000")),
        Case::new("TCP over IPv6", of(TCP, &tcp(0x18, &[], &content(29, 1000)))),
        Case::new("TCP SYN over IPv6", of(TCP, &tcp(0x02, &hex("0204 05a0"), &[]))),
        Case::new("ICMPv6 echo request (RFC 4443 §4.1)", of(ICMPV6, &echo)),
        Case::new(
            "ICMPv6 packet too big (RFC 4443 §3.2)",
            of(ICMPV6, &[hex("02 00 0000 00000500"), plain_v6(20)[14..].to_vec()].concat()),
        ),
        Case::new("SCTP over IPv6", of(protocol::SCTP, &content(30, 60))),
        Case::new("no next header (RFC 8200 §4.7)", of(protocol::NO_NEXT, &[])),
        Case::new("bytes behind no next header (RFC 8200 §4.7)", of(protocol::NO_NEXT, &content(31, 20))),
        Case::new("ESP over IPv6 (RFC 4303 §2)", of(protocol::ESP, &content(32, 90))),
        Case::new("ICMP for IPv4 over IPv6", of(ICMP, &echo)),
        Case::new("hop-by-hop: router alert (RFC 2711)", behind_one(HOP_BY_HOP, hex("11 00 0502 0000 0100"))),
        Case::new("hop-by-hop of 24 bytes (RFC 8200 §4.3)", behind_one(HOP_BY_HOP, options_header(UDP, 24))),
        Case::new(
            "hop-by-hop: a jumbogram (RFC 2675 §2)",
            patched(behind_one(HOP_BY_HOP, hex("11 00 c204 00010000")), 4, "0000"),
        ),
        Case::new(
            "hop-by-hop: an option that must be known (RFC 8200 §4.2)",
            behind_one(HOP_BY_HOP, hex("11 00 fe04 00000000")),
        ),
        Case::new(
            "routing, type 0 (RFC 2460 §4.4)",
            behind_one(ROUTING, [hex("11 02 00 01 00000000"), SOURCE_V6.octets().to_vec()].concat()),
        ),
        Case::new(
            "routing, type 2 (RFC 6275 §6.4)",
            behind_one(ROUTING, [hex("11 02 02 01 00000000"), SOURCE_V6.octets().to_vec()].concat()),
        ),
        Case::new(
            "routing: three segments (RFC 8754 §2)",
            behind_one(ROUTING, [hex("11 06 04 02 02 00 0000"), SOURCE_V6.octets().repeat(3)].concat()),
        ),
        Case::new("destination options of 40 bytes (RFC 8200 §4.6)", behind_one(DESTINATION, options_header(UDP, 40))),
        Case::new("authentication, 96 bits (RFC 4302 §2)", behind_one(AH, authentication_header(UDP, 12))),
        Case::new("authentication, 256 bits", behind_one(AH, authentication_header(UDP, 32))),
        Case::new("mobility (RFC 6275 §6.1)", of(135, &hex("3b 00 00 00 0000 0000"))),
        Case::new("HIP (RFC 7401 §5.1)", of(139, &[hex("3b 04 01 21 0000 0000"), content(33, 32)].concat())),
        Case::new("first fragment (RFC 8200 §4.5)", fragment(0x0001, &datagram(64))),
        Case::new("fragment in the middle", fragment(0x0049, &content(34, 72))),
        Case::new("last fragment", fragment(0x0090, &content(35, 13))),
        Case::new("the last fragment there can be", fragment(0xfff8, &content(36, 5))),
        Case::new("atomic fragment (RFC 6946)", behind_one(FRAGMENT, fragment_header(UDP, 0))),
        Case::new("a fragment header cut short", frame(IPV6, &packet_v6(FRAGMENT, &[UDP, 0, 0], 0, &[]))),
        Case::new(
            "every kind of extension header, in order (RFC 8200 §4.1)",
            behind_one(
                HOP_BY_HOP,
                [
                    options_header(DESTINATION, 8),
                    options_header(ROUTING, 16),
                    [hex("2c 02 00 00 00000000"), SOURCE_V6.octets().to_vec()].concat(),
                    fragment_header(AH, 0),
                    authentication_header(DESTINATION, 12),
                    options_header(UDP, 8),
                ]
                .concat(),
            ),
        ),
        Case::new(
            "an extension header that ends behind the packet",
            behind_one(DESTINATION, hex("11 ff 0104 00000000")),
        ),
        Case::new(
            "an extension header cut behind its first byte",
            frame(IPV6, &packet_v6(DESTINATION, &[UDP], 0, &[])),
        ),
        Case::new("destination options of 264 bytes", behind_one(DESTINATION, options_header(UDP, 264))),
        Case::new("a flow label and a class (RFC 6437, RFC 2474)", patched(plain_v6(60), 0, "6beabcde")),
        Case::new("a hop limit of 0", patched(plain_v6(61), 7, "00")),
        Case::new("version 4 under the ethertype of IPv6", frame(IPV6, &plain_v4(62)[14..])),
        Case::new("version 7", patched(plain_v6(63), 0, "70")),
        Case::new("a payload length of 0", patched(plain_v6(64), 4, "0000")),
        Case::new("a payload length within the UDP header", patched(plain_v6(65), 4, "0005")),
        Case::new("a payload length beyond the frame", patched(plain_v6(66), 4, "0400")),
        Case::new("padding behind IPv6", padded(plain_v6(0), &[0; 4])),
        Case::new("padding that is not zero behind IPv6", padded(plain_v6(1), &content(37, 300))),
        Case::new(
            "from nobody to itself",
            frame(IPV6, &packet_v6_between(Ipv6Addr::UNSPECIFIED, DESTINATION_V6, UDP, &[], UDP, &datagram(3))),
        ),
        Case::new(
            "IPv4-mapped addresses (RFC 4291 §2.5.5.2)",
            frame(
                IPV6,
                &packet_v6_between(
                    SOURCE_V4.to_ipv6_mapped(),
                    DESTINATION_V4.to_ipv6_mapped(),
                    UDP,
                    &[],
                    UDP,
                    &datagram(4),
                ),
            ),
        ),
    ];
    for count in [2, 7, 8, 9, 16, 24] {
        let bytes = frame(IPV6, &packet_v6(DESTINATION, &chain(count, UDP), UDP, &datagram(200)));
        cases.push(Case::new(format!("a chain of {count} extension headers (RFC 8200 §4)"), bytes));
    }
    cases
}

fn tunnels() -> Vec<Case> {
    use protocol::{AH, ESP, ETHERIP, GRE, IPIP};
    let v4 = |protocol: u8, payload: Vec<u8>| frame(IPV4, &packet_v4(protocol, &[], 0, &payload));
    let v6 = |protocol: u8, payload: Vec<u8>| frame(IPV6, &packet_v6(protocol, &[], protocol, &payload));
    let over_udp = |port: u16, header: &str, payload: Vec<u8>| {
        frame(IPV4, &packet_v4(UDP, &[], 0, &udp((50_000, port), &[hex(header), payload].concat())))
    };
    let (ip4, ip6) = (plain_v4(80)[14..].to_vec(), plain_v6(80)[14..].to_vec());
    let gre = |header: &str, payload: &[u8]| [hex(header), payload.to_vec()].concat();
    vec![
        Case::new("IPv4 in GRE (RFC 2784 §2)", v4(GRE, gre("0000 0800", &ip4))),
        Case::new("IPv6 in GRE with key and number (RFC 2890 §2)", v4(GRE, gre("3000 86dd 00000007 00000001", &ip6))),
        Case::new("GRE with a checksum (RFC 2784 §2.1)", v4(GRE, gre("8000 0800 1234 0000", &ip4))),
        Case::new("a frame in GRE (RFC 7637 §3.2)", v4(GRE, gre("2000 6558 00000100", &plain_v4(30)))),
        Case::new(
            "GRE version 1 of PPTP (RFC 2637 §4.1)",
            v4(GRE, gre("3001 880b 0010 0001 00000001", &content(40, 16))),
        ),
        Case::new("GRE over IPv6 (RFC 7676)", v6(GRE, gre("0000 0800", &ip4))),
        Case::new("IPv4 in IPv4 (RFC 2003)", v4(IPIP, ip4.clone())),
        Case::new("IPv4 in IPv4 in IPv4", v4(IPIP, packet_v4(IPIP, &[], 0, &ip4))),
        Case::new("IPv6 in IPv4 (RFC 4213 §3)", v4(protocol::IPV6, ip6.clone())),
        Case::new("IPv4 in IPv6 (RFC 2473)", v6(IPIP, ip4.clone())),
        Case::new("IPv6 in IPv6 (RFC 2473)", v6(protocol::IPV6, ip6.clone())),
        Case::new("a frame in IPv6 (RFC 8986 §9.1)", v6(143, plain_v4(31))),
        Case::new("a frame in IPv4 (RFC 3378)", v4(ETHERIP, [hex("3000"), plain_v4(32)].concat())),
        Case::new("ESP over IPv4 (RFC 4303 §2)", v4(ESP, content(41, 120))),
        Case::new("AH over IPv4 (RFC 4302 §2)", v4(AH, [authentication_header(UDP, 12), datagram(33)].concat())),
        Case::new("L2TP over IPv4 (RFC 3931 §4.1.1)", v4(115, [hex("00000001"), plain_v4(34)].concat())),
        Case::new("a copy as the product makes it (RFC 7348 §5)", over_udp(4789, "08 000000 00002a 00", plain_v4(35))),
        Case::new("a copy of IPv6 (RFC 7348 §5)", over_udp(4789, "08 000000 00002a 00", plain_v6(36))),
        Case::new(
            "VXLAN to the lab's collector (RFC 7348 §5)",
            frame(
                IPV4,
                &packet_v4_between(
                    Ipv4Addr::new(10, 2, 0, 1),
                    Ipv4Addr::new(10, 2, 0, 2),
                    UDP,
                    &[],
                    0x4000,
                    &udp((49_152, 4789), &[hex("08 000000 00002a 00"), plain_v4(37)].concat()),
                ),
            ),
        ),
        Case::new("VXLAN whose frame is cut short", over_udp(4789, "08 000000 00002a 00", vec![6, 0, 0])),
        Case::new(
            "Geneve with an option (RFC 8926 §3.4)",
            over_udp(6081, "01 00 6558 00000100 0000 00 00", plain_v4(38)),
        ),
        Case::new("GTP-U (3GPP TS 29.281 5.1)", over_udp(2152, "30 ff 006c 00000001", ip4.clone())),
        Case::new("MPLS over UDP (RFC 7510 §3)", over_udp(6635, "00010140", ip4.clone())),
        Case::new("ESP over UDP (RFC 3948 §2.1)", over_udp(4500, "00000001 00000001", content(42, 64))),
    ]
}

fn labels_and_sessions() -> Vec<Case> {
    let (ip4, ip6) = (plain_v4(90)[14..].to_vec(), plain_v6(90)[14..].to_vec());
    let of = |ethertype: u16, header: &str, payload: &[u8]| frame(ethertype, &[hex(header), payload.to_vec()].concat());
    vec![
        Case::new("MPLS, one label (RFC 3032 §2.1)", of(0x8847, "00010140", &ip4)),
        Case::new("MPLS, three labels, IPv6", of(0x8847, "00010040 00011040 00012140", &ip6)),
        Case::new("MPLS, explicit null (RFC 3032 §2.1)", of(0x8847, "00000140", &ip4)),
        Case::new("MPLS, ten labels", of(0x8847, &format!("{}00012140", "00011040".repeat(9)), &ip4)),
        Case::new("MPLS without bottom of stack", of(0x8847, &"00011040".repeat(4), &[])),
        Case::new("MPLS, half a label", of(0x8847, "0001", &[])),
        Case::new("MPLS to a group (RFC 5332 §3)", of(0x8848, "00010140", &ip4)),
        Case::new(
            "a frame in MPLS with a control word (RFC 4448 §4.6)",
            of(0x8847, "00010140 00000001", &plain_v4(39)),
        ),
        Case::new("PPPoE discovery (RFC 2516 §5.1)", frame_to(BROADCAST, 0x8863, &hex("11 09 0000 0004 0101 0000"))),
        Case::new("PPPoE, IPv4 (RFC 2516 §6)", of(0x8864, "11 00 0001 0078 0021", &ip4)),
        Case::new("PPPoE, IPv6 (RFC 5072 §2)", of(0x8864, "11 00 0001 008c 0057", &ip6)),
        Case::new("PPPoE, LCP echo (RFC 1661 §5.8)", of(0x8864, "11 00 0001 000a c021 09 01 0008 00000000", &[])),
        Case::new("PPPoE, a length of 0", of(0x8864, "11 00 0001 0000", &[])),
    ]
}

const fn tag(ethertype: u16, control: u16) -> Tag {
    Tag { ethertype, control }
}

/// IEEE 802.1Q 9.6.
fn tags() -> Vec<Case> {
    const TOO_DEEP: Fate = Fate::Skipped("vlan_too_deep");
    let stacks: [(&str, &[Tag]); 12] = [
        ("802.1Q", &[tag(VLAN, 5)]),
        ("802.1Q, the last identifier, priority 7, may be dropped", &[tag(VLAN, 0xffff)]),
        ("802.1Q, priority alone", &[tag(VLAN, 0xe000)]),
        ("802.1Q, all zero", &[tag(VLAN, 0)]),
        ("802.1ad", &[tag(SERVICE_VLAN, 0x0064)]),
        ("802.1ad and 802.1Q", &[tag(SERVICE_VLAN, 100), tag(VLAN, 0xa0c8)]),
        ("802.1Q twice", &[tag(VLAN, 1), tag(VLAN, 2)]),
        ("802.1ad twice", &[tag(SERVICE_VLAN, 1), tag(SERVICE_VLAN, 2)]),
        ("802.1Q and 802.1ad", &[tag(VLAN, 1), tag(SERVICE_VLAN, 2)]),
        ("three tags", &[tag(SERVICE_VLAN, 1), tag(VLAN, 2), tag(VLAN, 3)]),
        ("four tags", &[tag(SERVICE_VLAN, 1), tag(SERVICE_VLAN, 2), tag(VLAN, 3), tag(VLAN, 4)]),
        ("a tag before the standard, and one", &[tag(0x9100, 1), tag(VLAN, 2)]),
    ];
    let mut cases = Vec::new();
    for (number, (name, stack)) in stacks.into_iter().enumerate() {
        let length = 100 + number;
        let insides = [
            ("UDP over IPv4", plain_v4(length)),
            ("UDP over IPv6", plain_v6(length)),
            ("ARP", frame_to(BROADCAST, ARP, &hex("0001 0800 06 04 0001 060000000001 c0000201 000000000000 c6336403"))),
            ("LLDP", frame(0x88cc, &content(43, 30 + number))),
            ("a length", frame(3, &hex("424203"))),
            ("two bytes", frame(0x1234, &[7, number as u8])),
        ];
        cases.extend(insides.map(|(inside, bytes)| Case::new(format!("{inside} behind {name}"), behind(bytes, stack))));
    }
    let five = [1, 2, 3, 4, 5].map(|control| tag(VLAN, control));
    cases.push(Case::new("five tags", behind(plain_v4(120), &five)).with_fates(TOO_DEEP, TOO_DEEP));
    cases
}

/// Frames for everybody, and for groups.
fn groups() -> Vec<Case> {
    let to_v4 = |group: [u8; 4], protocol: u8, payload: &[u8]| {
        let group = Ipv4Addr::from(group);
        let packet = packet_v4_between(SOURCE_V4, group, protocol, &[], 0, payload);
        frame_to(group_mac(group.into()), IPV4, &packet)
    };
    let to_v6 = |group: Ipv6Addr, protocol: u8, payload: &[u8]| {
        let packet = packet_v6_between(SOURCE_V6, group, protocol, &[], protocol, payload);
        frame_to(group_mac(group.into()), IPV6, &packet)
    };
    let to_all = |packet: Vec<u8>| frame_to(BROADCAST, IPV4, &packet);
    let nodes = |last| Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, last);
    let sought = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x0009);
    let solicitation = [hex("87 00 0000 00000000"), SOURCE_V6.octets().to_vec(), hex("01 01 060000000001")].concat();
    vec![
        Case::new(
            "DHCP discover (RFC 2131 §4.1)",
            to_all(packet_v4_between(
                Ipv4Addr::UNSPECIFIED,
                Ipv4Addr::BROADCAST,
                UDP,
                &[],
                0,
                &udp((68, 67), &[hex("01 01 06 00"), content(44, 240)].concat()),
            )),
        ),
        Case::new(
            "to all of a network (RFC 919 §7)",
            to_all(packet_v4_between(SOURCE_V4, Ipv4Addr::new(192, 0, 2, 255), UDP, &[], 0, &datagram(25))),
        ),
        Case::new("mDNS (RFC 6762 §5)", to_v4([224, 0, 0, 251], UDP, &udp((5353, 5353), &content(45, 40)))),
        Case::new("mDNS over IPv6", to_v6(nodes(0xfb), UDP, &udp((5353, 5353), &content(46, 40)))),
        Case::new("a group of all (RFC 1112 §4)", to_v4([239, 255, 1, 2], UDP, &datagram(26))),
        Case::new(
            "OSPF hello (RFC 2328 A.3.2)",
            to_v4([224, 0, 0, 5], 89, &[hex("02 01 002c"), content(47, 40)].concat()),
        ),
        Case::new("VRRP (RFC 9568 §5)", to_v4([224, 0, 0, 18], 112, &hex("31 01 64 01 0064 0000 c0000209"))),
        Case::new(
            "IGMP report (RFC 3376 §4.2)",
            to_v4([224, 0, 0, 22], 2, &hex("22 00 d9fd 0000 0001 04 00 0000 efff0102")),
        ),
        Case::new("neighbour solicitation (RFC 4861 §4.3)", to_v6(sought, ICMPV6, &solicitation)),
        Case::new("a group of IPv6 in this place alone (RFC 4291 §2.7)", to_v6(nodes(0x1234), UDP, &datagram(27))),
        Case::new("an IPv4 packet for one station, in a frame for all", to_all(plain_v4(28)[14..].to_vec())),
        Case::new("no IP, for all", frame_to(BROADCAST, 0x1234, &content(48, 60))),
        Case::new("no IP, for a group", frame_to(Mac([0x03, 0, 0, 0, 0, 1]), 0x1234, &content(49, 60))),
    ]
}

/// Frames that end too early.
fn runts() -> Vec<Case> {
    const NO_TAG: Fate = Fate::NotReceived("a tag needs two bytes behind it (net/core/skbuff.c, skb_vlan_untag)");
    const CUT_SHORT: Fate = Fate::SkippedAndNotReceived("vlan_cut_short");
    const NO_HEADER: Fate =
        Fate::NotSent("shorter than an Ethernet header (include/linux/netdevice.h, dev_validate_header)");
    let mut cases = Vec::new();
    let whole = [
        ("UDP over IPv4", plain_v4(18)),
        ("UDP over IPv6", plain_v6(6)),
        ("TCP with options over IPv4", frame(IPV4, &packet_v4(TCP, &[1; 8], 0, &tcp(0x10, &[1; 12], &[])))),
        ("extension headers", frame(IPV6, &packet_v6(60, &chain(3, UDP), UDP, &datagram(8)))),
        ("ARP", frame(ARP, &hex("0001 0800 06 04 0002 060000000001 c0000201 060000000002 c6336402"))),
        ("an unknown ethertype", frame(0x1234, &content(50, 40))),
    ];
    for (name, bytes) in whole {
        for length in [14, 15, 16, 17, 18, 19, 20, 21, 33, 34, 35, 38, 41, 42, 45, 53, 54, 55, 58, 59, 61] {
            if length < bytes.len() {
                cases.push(Case::new(format!("the first {length} bytes of {name}"), bytes[..length].to_vec()));
            }
        }
    }
    let tagged = behind(plain_v4(17), &[tag(VLAN, 5)]);
    for length in [20, 21, 22, 37, 38, 45] {
        cases.push(Case::new(format!("the first {length} bytes of a frame with a tag"), tagged[..length].to_vec()));
    }
    let twice = behind(plain_v4(16), &[tag(SERVICE_VLAN, 5), tag(VLAN, 6)]);
    for length in [20, 21, 22, 23, 24, 25, 41, 42] {
        cases.push(Case::new(format!("the first {length} bytes of a frame with two tags"), twice[..length].to_vec()));
    }
    for length in [14, 16, 18, 19] {
        let what = format!("the first {length} bytes of a frame with a tag");
        cases.push(Case::new(what, tagged[..length].to_vec()).with_fates(NO_TAG, CUT_SHORT));
    }
    for length in [1, 13] {
        let what = format!("the first {length} bytes of an Ethernet header");
        cases.push(Case::new(what, plain_v4(0)[..length].to_vec()).with_fates(NO_HEADER, NO_HEADER));
    }
    cases
}

/// Frames of full length, and of what a source with jumbo frames has.
fn long() -> Vec<Case> {
    const TOO_LONG: Fate = Fate::NotSent("longer than the MTU (net/packet/af_packet.c, packet_snd)");
    let mtu = SOURCE_MTU as usize;
    let mut cases = Vec::new();
    for ip_length in [1280, 1499, 1500, 1501, 2048, 4096, 8192, mtu - 1, mtu] {
        cases.push(Case::new(format!("IPv4 of {ip_length} bytes"), plain_v4(ip_length - 28)));
        cases.push(Case::new(format!("IPv6 of {ip_length} bytes"), plain_v6(ip_length - 48)));
    }
    let stack = [tag(SERVICE_VLAN, 7), tag(VLAN, 8)];
    cases.push(Case::new("no IP, of full length", frame(0x1234, &content(51, mtu))));
    cases.push(Case::new("IPv4 of 1500 bytes behind two tags", behind(plain_v4(1472), &stack)));
    cases.push(Case::new("IPv6 of full length behind a tag", behind(plain_v6(mtu - 48), &stack[1..])));
    cases.push(Case::new("IPv4 of full length, tag included, behind two tags", behind(plain_v4(mtu - 28 - 8), &stack)));
    cases.push(Case::new("IPv4 longer than the MTU", plain_v4(mtu - 27)).with_fates(TOO_LONG, TOO_LONG));
    cases
}

/// A frame put together at random: parts that fit together, and now and then a byte of them changed, or its end missing.
fn random_case(random: &mut Random, number: usize) -> Case {
    let payload_length = match random.below(5) {
        0 => random.below(4),
        1 => random.below(64),
        2 | 3 => random.below(1460),
        _ => random.below(8800),
    };
    let payload = content(random.bits(), payload_length);
    let ports = (random.bits() as u16, *random.pick(&[53, 80, 443, 4789, 5353, 30_000]));
    let (protocol, segment) = match random.below(8) {
        0..3 => (UDP, udp(ports, &payload)),
        3..6 => (TCP, tcp(random.bits() as u8, &vec![1; random.below(11) * 4], &payload)),
        6 => (if random.once_in(2) { ICMP } else { ICMPV6 }, payload),
        _ => (random.bits() as u8, payload),
    };
    let (name, mut bytes) = match random.below(5) {
        0 | 1 => {
            let options = vec![1; random.below(11) * 4 * random.below(2)];
            let fragment = if random.once_in(4) { random.bits() as u16 & 0x3fff } else { 0x4000 };
            ("IPv4", frame(IPV4, &packet_v4(protocol, &options, fragment, &segment)))
        }
        2 | 3 => {
            let mut next = protocol;
            let mut extensions = Vec::new();
            for _ in 0..random.below(5) * random.below(2) {
                // From the last to the first.
                let (number, header) = match random.below(4) {
                    0 => (protocol::HOP_BY_HOP, options_header(next, 8 + random.below(4) * 8)),
                    1 => (protocol::DESTINATION, options_header(next, 8 + random.below(4) * 8)),
                    2 => (protocol::FRAGMENT, fragment_header(next, random.bits() as u16)),
                    _ => (protocol::AH, authentication_header(next, random.below(9) * 4)),
                };
                extensions = [header, extensions].concat();
                next = number;
            }
            ("IPv6", frame(IPV6, &packet_v6(next, &extensions, protocol, &segment)))
        }
        _ => {
            let known = [ARP, 0x8847, 0x8863, 0x8864, 0x88cc, 0x0026, 0x88b6, 0x6558];
            ("no IP", frame(*random.pick(&known), &segment))
        }
    };
    let stack: Vec<Tag> = (0..[0, 0, 0, 1, 1, 2, 3, 4][random.below(8)])
        .map(|_| tag(*random.pick(&[VLAN, SERVICE_VLAN]), random.bits() as u16))
        .collect();
    if random.once_in(4) {
        // A field of some header, but none that says what is a tag.
        let at = ETHERNET_HEADER + random.below(bytes.len().min(80) - ETHERNET_HEADER + 1);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = random.bits() as u8;
        }
    }
    let mut bytes = behind(bytes, &stack);
    if random.once_in(6) {
        // With its tags and two bytes behind them.
        let least = ETHERNET_HEADER + stack.len() * 4 + 2;
        let length = least + random.below(100);
        bytes.truncate(length.max(least));
    } else if random.once_in(6) {
        bytes.extend(content(random.bits(), random.below(60)));
    }
    Case::new(format!("number {number} of the generator: {name} behind {} tags", stack.len()), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_tells_one_frame() {
        let cases = all(1, 300);
        let names: BTreeSet<&str> = cases.iter().map(|case| case.what.as_str()).collect();
        assert_eq!(names.len(), cases.len());
        assert!(cases.len() > 600, "{}", cases.len());
    }

    #[test]
    fn one_seed_gives_one_corpus() {
        let frames = |seed| all(seed, 50).into_iter().map(|case| case.frame).collect::<Vec<_>>();
        assert_eq!(frames(3), frames(3));
        assert_ne!(frames(3), frames(4));
    }

    #[test]
    fn every_frame_tells_that_it_is_none_of_the_labs() {
        for case in all(2, 100) {
            let bytes = case.frame.bytes();
            assert!(bytes[0] == 0x06 || bytes.get(6..12) == Some(&SENDER.0), "{}", case.what);
        }
    }

    #[test]
    fn well_formed_packets_have_right_checksums() {
        for bytes in [plain_v4(31), plain_v6(31), tunnels()[0].frame.0.clone(), tags()[0].frame.0.clone()] {
            checksum::verify(&Frame(bytes)).unwrap();
        }
    }
}
