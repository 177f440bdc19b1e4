//! What holds for the parsers whatever they are fed: for the fuzz targets (`fuzz/`), and for an ordinary test.
//!
//! Each property takes any bytes and panics where it doesn't hold.

use std::io::{self, Read};
use std::time::Duration;

use mirror_user::definitions::file::{Document, Form, write};
use mirror_user::definitions::rule::{Action, Addresses, PortRange, RuleNumber, parse_cidr, parse_direction};
use mirror_user::definitions::{Definitions, protocol};
use mirror_user::question::capture::{CaptureError, PACKET_MAX, Packet, Reader};
use mirror_user::question::flow::Flow;
use mirror_user::question::{LONGEST, SHORTEST, askable, hex};
use mirror_user::{pcapng, resolvers};

use crate::checksum;
use crate::frame::Frame;
use crate::random::Random;

/// A parser and what holds for it.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    /// The name of its fuzz target.
    pub name: &'static str,
    /// Panics where the property doesn't hold.
    pub check: fn(&[u8]),
    /// Inputs that get past the parser's first lines.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const ALL: [Property; 6] = [
    Property { name: "rule_text", check: rule_text, seeds: rule_seeds },
    Property { name: "flow_text", check: flow_text, seeds: flow_seeds },
    Property { name: "packet_text", check: packet_text, seeds: packet_seeds },
    Property { name: "definitions_file", check: definitions_file, seeds: definitions_seeds },
    Property { name: "capture_file", check: capture_file, seeds: capture_seeds },
    Property { name: "resolv_conf", check: resolv_conf, seeds: resolv_conf_seeds },
];

/// An error is one line for people, however long and odd what they wrote.
fn is_readable(error: &dyn std::fmt::Display, written: usize) {
    let error = error.to_string();
    assert!(!error.is_empty() && !error.contains('\n'), "an error is one line: {error:?}");
    assert!(error.len() < 600 + 12 * written, "an error of {} bytes: {error:?}", error.len());
}

/// The fields of a rule: what parses and is written again parses to the same.
pub fn rule_text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for field in text.lines() {
        match protocol::parse(field) {
            Ok(number) => assert_eq!(protocol::parse(&protocol::text(number)), Ok(number), "{field:?}"),
            Err(error) => is_readable(&error, 0),
        }
        match field.parse::<PortRange>() {
            Ok(range) => {
                assert!(range.first() <= range.last(), "{field:?}");
                assert_eq!(range.to_string().parse(), Ok(range), "{field:?}");
            }
            Err(error) => is_readable(&error, 0),
        }
        match field.parse::<RuleNumber>() {
            Ok(number) => {
                assert!((1..=32766).contains(&number.get()), "{field:?}");
                assert_eq!(number.to_string().parse(), Ok(number), "{field:?}");
            }
            Err(error) => is_readable(&error, 0),
        }
        if let Ok(action) = field.parse::<Action>() {
            assert_eq!(action.name(), field);
        }
        if let Ok(direction) = parse_direction(field) {
            assert_eq!(direction.name(), field);
        }
        match parse_cidr(field) {
            Ok(cidr) => {
                assert_eq!(parse_cidr(&cidr.to_string()), Ok(cidr), "{field:?}");
                let addresses = Addresses::new(cidr, cidr);
                assert_eq!(addresses.is_ok(), cidr.addr() == cidr.network(), "{field:?}");
                match addresses {
                    Ok(addresses) => assert_eq!((addresses.source(), addresses.destination()), (cidr, cidr)),
                    Err(refusal) => is_readable(&refusal, 0),
                }
            }
            Err(error) => is_readable(&error, 0),
        }
    }
}

fn rule_seeds() -> Vec<Vec<u8>> {
    [
        "tcp\n0.0.0.0/0\n10.1.2.0/24\n80-443\n100\naccept\ningress",
        "icmpv6\n2001:db8::/32\n::/0\n0\n32766\nreject\negress",
        "255\n10.0.0.1/8\nfe80::1/10\n443-80\n0\n::ffff:1.2.3.4/128\n65535",
    ]
    .map(|text| text.into())
    .to_vec()
}

/// A flow is read back from what it is written as, and its frame is one that a parser of frames agrees with.
pub fn flow_text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let flow = match text.parse::<Flow>() {
        Ok(flow) => flow,
        Err(error) => return is_readable(&error, text.len()),
    };
    assert_eq!(flow.to_string().parse(), Ok(flow), "{text:?}");
    let frame = flow.frame();
    assert!(matches!(askable(&frame), Ok(asked) if *asked == frame), "{text:?} is asked about as it is");
    let frame = Frame(frame);
    assert_eq!(checksum::verify(&frame), Ok(()), "{text:?}");
    let ip = frame.ip().expect("an IP header");
    assert_eq!(ip.end, frame.0.len(), "{text:?}");
    let written = flow.to_string();
    let (source, destination) = match frame.ports() {
        Some((from, to)) => (
            std::net::SocketAddr::new(ip.source, from).to_string(),
            std::net::SocketAddr::new(ip.destination, to).to_string(),
        ),
        None => (ip.source.to_string(), ip.destination.to_string()),
    };
    assert!(written.ends_with(&format!(" {source} > {destination}")), "{written:?} is {source} to {destination}");
}

fn flow_seeds() -> Vec<Vec<u8>> {
    [
        "tcp 10.0.0.1:1234 > 10.0.0.2:80",
        "udp [2001:db8::1]:53 -> [2001:db8::2]:5353",
        "icmp 10.0.0.1 > 10.0.0.2",
        "icmp6 [fe80::1] > ff02::1",
        "132 10.0.0.1>10.0.0.2",
        "ah ::1 > ::2",
        "ip 10.0.0.1 > 10.0.0.2",
    ]
    .map(|text| text.into())
    .to_vec()
}

/// Digits that are a packet are the digits of its bytes.
pub fn packet_text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match hex::parse(&text) {
        Ok(packet) => {
            assert!((SHORTEST..=LONGEST).contains(&packet.len()), "{text:?}");
            let digits: String = packet.iter().map(|byte| format!("{byte:02x}")).collect();
            let written: String = text.chars().filter(char::is_ascii_hexdigit).collect();
            // 0x in front has a digit too.
            assert!(written.to_ascii_lowercase().ends_with(&digits), "{text:?}");
            assert!(written.len() <= digits.len() + 1, "{text:?}");
            assert_eq!(hex::parse(&digits), Ok(packet), "{text:?}");
        }
        Err(error) => is_readable(&error, 0),
    }
}

fn packet_seeds() -> Vec<Vec<u8>> {
    [
        "0x02000000000202000000000108060001",
        "02:00:00:00:00:02 02:00:00:00:00:01 08:00 45000014 00000000 40fd0000 0a000001 0a000002",
        "0200 0000 0002\n0200 0000 0001\n86DD 6000\n",
        "0x0000:  4500 0034",
    ]
    .map(|text| text.into())
    .to_vec()
}

/// What a file says is what the file says that is written of it, in both forms.
pub fn definitions_file(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for form in [Form::Exchanged, Form::Stored] {
        let read = |text: &str, form, previous: &Definitions| {
            Document::parse(text, form)?.build(previous).map(|built| built.definitions)
        };
        let definitions = match read(&text, form, &Definitions::default()) {
            Ok(definitions) => definitions,
            Err(refusal) => {
                is_readable(&refusal, text.len());
                continue;
            }
        };
        for form in [Form::Exchanged, Form::Stored] {
            let written = write(&definitions, form);
            // The exchanged form has no ids: those of the same names are kept.
            let again = match read(&written, form, &definitions) {
                Ok(again) => again,
                Err(refusal) => panic!("{refusal}: {written}"),
            };
            assert!(again == definitions, "{again:?} instead of {definitions:?}");
            assert_eq!(write(&again, form), written);
        }
        let stored = write(&definitions, Form::Stored);
        let alone = read(&stored, Form::Stored, &Definitions::default());
        assert!(alone.is_ok_and(|alone| alone == definitions), "a stored file needs nothing else: {stored}");
    }
}

fn definitions_seeds() -> Vec<Vec<u8>> {
    let whole = r#"[[target]]
name = "zeek"
address = "10.2.0.2"
port = 4789
description = "the \"sensor\""
[[target]]
name = "span"
interface = "tap0"
[[filter]]
name = "web"
network_services = ["dns"]
mirror_non_ip = true
[[filter.rule]]
number = 100
direction = "ingress"
action = "accept"
protocol = "tcp"
source = "0.0.0.0/0"
destination = "0.0.0.0/0"
source_ports = 1024
destination_ports = "80-443"
[[filter.rule]]
number = 100
direction = "egress"
action = "reject"
protocol = 58
source = "2001:db8::/32"
destination = "::/0"
[[session]]
name = "web-to-zeek"
number = 1
source = "eth0"
target = "zeek"
filter = "web"
vni = 42
packet_length = 128
tags = { team = "secops", "a b" = "" }
[[session]]
name = "second"
number = 2
source = "eth0"
target = "span"
filter = "web"
"#;
    let stored = r#"version = 1
[[target]]
id = "tmt-0123456789abcdef0"
name = "zeek"
address = "2001:db8::1"
"#;
    [whole, stored, "target = [{ name = \"t\", interface = \"e\" }]\n", ""].map(|text| text.into()).to_vec()
}

/// Gives one byte at a time.
struct Slow<'a>(&'a [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(1).min(self.0.len());
        let (now, later) = self.0.split_at(length);
        buffer[..length].copy_from_slice(now);
        self.0 = later;
        Ok(length)
    }
}

fn read_capture(reader: impl Read) -> Result<Vec<Result<Packet, CaptureError>>, CaptureError> {
    let mut packets = Reader::new(reader)?;
    let all = packets.by_ref().collect();
    assert!(packets.next().is_none(), "a capture that has ended goes on");
    Ok(all)
}

/// Packets come in order, none has bytes that the file has not, and after an error of the file there is nothing. How
/// the file is read makes no difference, and what is written is read again.
pub fn capture_file(bytes: &[u8]) {
    let all = match read_capture(bytes) {
        Ok(all) => all,
        Err(error) => return is_readable(&error, 0),
    };
    let mut frames = Vec::new();
    for (packet, number) in all.iter().zip(1..) {
        match packet {
            Ok(packet) => {
                assert_eq!(packet.number, number);
                assert!(packet.frame.len() <= (bytes.len() + SHORTEST).min(PACKET_MAX as usize + SHORTEST));
                match askable(&packet.frame) {
                    Ok(asked) => assert!((SHORTEST + 1..=LONGEST).contains(&asked.len()) || *asked == packet.frame),
                    Err(error) => assert!(error.length < SHORTEST),
                }
                frames.push(packet.frame.as_slice());
            }
            Err(error) => {
                is_readable(error, 0);
                assert!(error.is_about_one_packet() || number == all.len() as u64, "{error} is not the end");
            }
        }
    }
    assert_eq!(format!("{:?}", read_capture(Slow(bytes)).ok()), format!("{:?}", Some(&all)), "read byte by byte");

    let mut written = Vec::new();
    pcapng::put_header(&mut written, "again");
    for frame in &frames {
        let packet = pcapng::Packet { time: Duration::ZERO, frame, original_length: 0, comment: "" };
        pcapng::put_packet(&mut written, &packet);
    }
    let again = read_capture(written.as_slice()).expect("a capture");
    let again: Vec<_> = again.iter().map(|packet| packet.as_ref().expect("a packet").frame.as_slice()).collect();
    assert!(again == frames || frames.iter().any(|frame| frame.len() > PACKET_MAX as usize));
}

fn capture_seeds() -> Vec<Vec<u8>> {
    let le = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let be = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
    let frame: Vec<u8> = (0..20).collect();
    let pcap = |link| [le(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, link]), le(&[1, 2, 20, 60]), frame.clone()].concat();
    let big = [be(&[0xa1b2_3c4d, 0x0002_0004, 0, 0, 65535, 1]), be(&[1, 2, 20, 60]), frame.clone()].concat();
    let patched = [le(&[0xa1b2_cd34, 0x0004_0002, 0, 0, 65535, 1]), le(&[1, 2, 20, 60, 3, 4]), frame.clone()].concat();
    let section = le(&[0x0a0d_0d0a, 28, 0x1a2b_3c4d, 1, u32::MAX, u32::MAX, 28]);
    let interface = |link| le(&[1, 20, link, 0, 20]);
    let enhanced = |of| [le(&[6, 52, of, 0, 0, 20, 60]), frame.clone(), le(&[52])].concat();
    let simple = [le(&[3, 36, 20]), frame.clone(), le(&[36])].concat();
    let old = [le(&[2, 52, 0, 0, 0, 20, 60]), frame.clone(), le(&[52])].concat();
    let other = le(&[0x8000_0001, 16, 7, 16]);
    let both = [section.clone(), interface(1), interface(101), enhanced(0), other, enhanced(1), simple, old].concat();
    let big_section = be(&[0x0a0d_0d0a, 28, 0x1a2b_3c4d, 1 << 16, u32::MAX, u32::MAX, 28, 1, 20, 113 << 16, 0, 20]);
    let mut seeds: Vec<Vec<u8>> = [1, 12, 101, 113, 127, 228, 276].map(pcap).to_vec();
    seeds.extend([big, patched, both.clone(), [both, big_section].concat(), [section, enhanced(0)].concat()]);
    seeds
}

/// Resolvers are written as a resolv.conf says them.
pub fn resolv_conf(bytes: &[u8]) {
    let found = resolvers::parse(&String::from_utf8_lossy(bytes));
    let written: String = found.iter().map(|resolver| format!("nameserver {resolver}\n")).collect();
    assert_eq!(resolvers::parse(&written), found);
    for (place, resolver) in found.iter().enumerate() {
        assert!(!found[..place].contains(resolver), "{resolver} comes twice");
    }
}

fn resolv_conf_seeds() -> Vec<Vec<u8>> {
    ["# by hand\nsearch example.net\nnameserver 192.0.2.53\nnameserver fe80::1%eth0 # x\r\nnameserver ::ffff:0.0.0.0\n"]
        .map(|text| text.into())
        .to_vec()
}

/// One of `seeds`, changed in a few places.
pub fn mutated(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.pick(seeds).clone();
    for _ in 0..1 + random.below(6) {
        let at = random.below(bytes.len() + 1);
        match random.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.bits() as u8,
            // A character that means something to some parser.
            2 => bytes.insert(at, *random.pick(b"0123456789abcdefx.:/-,;#%>[]{}=\"'\\ \n\t\r\0\xff")),
            3 if at < bytes.len() => drop(bytes.remove(at)),
            4 => bytes.truncate(at),
            5 => {
                let end = (at + random.below(20)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, part);
            }
            6 if at + 4 <= bytes.len() => {
                let number = *random.pick(&[0, 1, 4, 12, 20, 0x7fff_ffff, 0xffff_fffc, u32::MAX]);
                bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
            }
            _ => {
                let other = random.pick(seeds);
                let from = random.below(other.len() + 1);
                bytes.splice(at.., other[from..].iter().copied());
            }
        }
    }
    bytes
}
