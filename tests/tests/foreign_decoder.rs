//! Decoders by other hands read what the collector gets: tshark and tcpdump, neither of which knows this product, find
//! whole packets with right checksums, outside and inside.

use std::fs::{self, File};
use std::path::Path as FilePath;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use mirror_tests::checksum;
use mirror_tests::frame::{SERVICE_VLAN, Tag, VLAN};
use mirror_tests::written::Pcap;
use mirror_tests::{
    BOTH_PATHS, BOTH_VERSIONS, COLLECTOR, Copy, Frame, GENERATOR, HOST_SOURCE, Lab, Turn, Wanted, craft, traffic, vxlan,
};

const VNI: u32 = 0x00ab_cdef;

/// TCP bulk with segmentation offload both ways, datagrams, echoes up to several fragments long, VLAN tags.
fn talk(lab: &Lab) -> Result<()> {
    for version in BOTH_VERSIONS {
        let (generator, host) = (lab.end(GENERATOR, version), lab.end(HOST_SOURCE, version));
        traffic::exchange_tcp(generator, host, 300_000)?;
        for length in [1, 18, 19, 500, 1452] {
            traffic::exchange_udp(generator, host, length)?;
        }
        for length in [1, 56, 1400, 4_000] {
            traffic::ping(generator, host.address, length)?;
            traffic::ping(host, generator.address, length)?;
        }
        // To the discard port of an address that is nobody's: there are no answers.
        let frame = craft::udp(&GENERATOR, &COLLECTOR, version, (4000, 9), &craft::content(1, 300));
        let one = Tag { ethertype: VLAN, control: 0x6123 };
        let two = [Tag { ethertype: SERVICE_VLAN, control: 100 }, one];
        lab.inject_all(GENERATOR, &[craft::tagged(&frame, &[one]), craft::tagged(&frame, &two)])?;
    }
    Ok(())
}

/// The copies of real traffic as the collector got them, each from its outer Ethernet header.
fn copies(lab: &Lab, target: impl std::fmt::Display, flag: &str) -> Result<Vec<Frame>> {
    lab.mirrorctl(&format!("attach s0 --target {target} --vni {VNI} {flag}"))?.ok();
    let _turn = Turn::wait()?;
    let recording = lab.record_at(&[HOST_SOURCE, COLLECTOR], vxlan::PORT, || talk(lab))?;
    let (sent, received) = recording.super_packets();
    ensure!(sent > 0 && received > 0, "the kernel should have handled super-packets: {sent} out, {received} in");
    recording.each_frame_has_one_copy(Wanted::vni(VNI));
    let arrived = recording.seen_at(COLLECTOR).iter().filter(|seen| !seen.outgoing);
    let arrived = arrived.filter(|seen| Copy::read(&seen.frame, vxlan::PORT).is_some());
    let frames: Vec<Frame> = arrived
        .map(|seen| {
            assert_eq!(seen.part_of, 1, "the uplink carries wire packets: {:?}", seen.frame);
            seen.frame.clone()
        })
        .collect();
    assert_eq!(frames.len(), recording.copies.len());
    Ok(frames)
}

/// What tshark makes of a frame.
#[derive(Clone, Debug)]
struct Decoded {
    number: usize,
    /// `eth:ethertype:ip:udp:vxlan:...`
    protocols: String,
    vni: String,
    malformed: bool,
    /// Of each checksum, outside first: the protocol, and what tshark says.
    checksums: Vec<(&'static str, u8)>,
    /// As it stands in the TCP header: `0x1234`.
    tcp_checksum: String,
}

// proto_checksum_enum_e of Wireshark's epan/proto.h.
const BAD: u8 = 0;
const GOOD: u8 = 1;
const NOT_PRESENT: u8 = 3;
const CHECKSUMS: [(&str, &str); 5] = [
    ("ip", "ip.checksum.status"),
    ("udp", "udp.checksum.status"),
    ("tcp", "tcp.checksum.status"),
    ("icmp", "icmp.checksum.status"),
    ("icmpv6", "icmpv6.checksum.status"),
];

/// The only dissectors that are asked: others guess at payloads by their ports, or by their first bytes.
const PROTOCOLS: [&str; 14] = [
    "frame",
    "eth",
    "ethertype",
    "vlan",
    "ieee8021ad",
    "ip",
    "ipv6",
    "ipv6.fraghdr",
    "udp",
    "tcp",
    "icmp",
    "icmpv6",
    "vxlan",
    "data",
];

/// A configuration directory for tshark: with it the user's own has no say.
fn configure_tshark(directory: &FilePath) -> Result<()> {
    let output = Command::new("tshark").args(["-G", "protocols"]).output().context("run tshark")?;
    ensure!(output.status.success(), "tshark: {}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    let names = said.lines().filter_map(|line| line.split('\t').nth(2));
    let disabled: String = names.filter(|name| !PROTOCOLS.contains(name)).map(|name| format!("{name}\n")).collect();
    fs::create_dir_all(directory).context("make a directory for tshark")?;
    fs::write(directory.join("disabled_protos"), disabled).context("configure tshark")
}

fn tshark(file: &FilePath) -> Result<Vec<Decoded>> {
    let configuration = file.with_file_name("tshark");
    if !configuration.exists() {
        configure_tshark(&configuration)?;
    }
    let mut command = Command::new("tshark");
    command.env("WIRESHARK_CONFIG_DIR", &configuration);
    command.args(["-n", "-d", "udp.port==4789,vxlan"]);
    for preference in [
        "ip.check_checksum:TRUE",
        "tcp.check_checksum:TRUE",
        "udp.check_checksum:TRUE",
        // RFC 6935: a tunnel over IPv6 may leave it out.
        "udp.ignore_ipv6_zero_checksum:TRUE",
        "ip.defragment:TRUE",
        "ipv6.defragment:TRUE",
    ] {
        command.args(["-o", preference]);
    }
    command.args(["-T", "fields", "-E", "separator=|", "-e", "frame.number", "-e", "frame.protocols"]);
    command.args(["-e", "vxlan.vni", "-e", "_ws.malformed"]);
    for (_, field) in CHECKSUMS {
        command.args(["-e", field]);
    }
    command.args(["-e", "tcp.checksum"]);
    let output = command.arg("-r").arg(file).stdin(Stdio::null()).output().context("run tshark")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "tshark: {}{said}", String::from_utf8_lossy(&output.stderr));
    said.lines().map(|line| decoded(line).with_context(|| format!("read what tshark said: {line}"))).collect()
}

fn decoded(line: &str) -> Option<Decoded> {
    let mut fields = line.split('|');
    let (number, protocols, vni) = (fields.next()?.parse().ok()?, fields.next()?.into(), fields.next()?.into());
    let malformed = !fields.next()?.is_empty();
    let mut checksums = Vec::new();
    for (protocol, _) in CHECKSUMS {
        for status in fields.next()?.split(',').filter(|status| !status.is_empty()) {
            checksums.push((protocol, status.parse().ok()?));
        }
    }
    let tcp_checksum = fields.next()?.into();
    Some(Decoded { number, protocols, vni, malformed, checksums, tcp_checksum })
}

/// What is wrong with a frame, if anything.
///
/// Of a TCP checksum of minus zero, ffff, tshark says that it should be zero, in no word that tells it from a wrong one. In
/// one's complement arithmetic both are right (RFC 1624 §3), and what Linux writes for zero is ffff, whatever the protocol
/// (`skb_checksum_help`): there the lab's own arithmetic has the last word on `bytes`, the frame.
fn complaint(frame: &Decoded, bytes: &Frame) -> Option<String> {
    let is_v6_outside = frame.protocols.starts_with("eth:ethertype:ipv6:");
    let outer = if is_v6_outside { "eth:ethertype:ipv6:udp:vxlan:eth" } else { "eth:ethertype:ip:udp:vxlan:eth" };
    let number = frame.number;
    if frame.malformed {
        return Some(format!("frame {number} is malformed: {frame:?}"));
    }
    if !frame.protocols.starts_with(outer) || frame.vni != VNI.to_string() {
        return Some(format!("frame {number} is no copy: {frame:?}"));
    }
    let mut udp = 0;
    for (protocol, status) in &frame.checksums {
        // The first of UDP is the tunnel's, which has none.
        udp += usize::from(*protocol == "udp");
        let expected = if *protocol == "udp" && udp == 1 { NOT_PRESENT } else { GOOD };
        let is_minus_zero = *protocol == "tcp" && *status == BAD && frame.tcp_checksum == "0xffff";
        if is_minus_zero && Copy::decapsulate(bytes).is_ok_and(|copy| checksum::verify(&copy.inner).is_ok()) {
            continue;
        }
        if *status != expected {
            return Some(format!("frame {number}: the checksum of {protocol} has status {status}: {frame:?}"));
        }
    }
    None
}

#[track_caller]
fn is_flawless(decoded: &[Decoded], captured: &[Frame]) {
    let frames = captured.len();
    assert_eq!(decoded.len(), frames, "tshark reads every frame");
    let complaints: Vec<String> =
        decoded.iter().zip(captured).filter_map(|(decoded, bytes)| complaint(decoded, bytes)).collect();
    assert!(complaints.is_empty(), "{} of {frames} frames: {}", complaints.len(), complaints[0]);
    // Everything that was said was understood, and verified.
    let inside = |layers: &str| decoded.iter().filter(|frame| frame.protocols.contains(layers)).count();
    for layers in [
        "vxlan:eth:ethertype:ip:tcp",
        "vxlan:eth:ethertype:ipv6:tcp",
        "vxlan:eth:ethertype:ip:udp",
        "vxlan:eth:ethertype:ipv6:udp",
        "vxlan:eth:ethertype:ip:icmp",
        "vxlan:eth:ethertype:ipv6:icmpv6",
        "vxlan:eth:ethertype:ipv6:ipv6.fraghdr",
        "vxlan:eth:ethertype:vlan:ethertype:ip:udp",
        "vxlan:eth:ethertype:ieee8021ad:ethertype:vlan:ethertype:ip:udp",
        "vxlan:eth:ethertype:ieee8021ad:ethertype:vlan:ethertype:ipv6:udp",
    ] {
        assert!(inside(layers) > 0, "no copy has {layers}");
    }
    let verified =
        |protocol| decoded.iter().flat_map(|frame| &frame.checksums).filter(|sum| **sum == (protocol, GOOD)).count();
    for (protocol, least) in [("ip", frames / 3), ("tcp", 800), ("udp", 24), ("icmp", 16), ("icmpv6", 16)] {
        assert!(verified(protocol) >= least, "only {} checksums of {protocol} were verified", verified(protocol));
    }
}

/// What tcpdump prints when it is not content.
const OBJECTIONS: [&str; 8] =
    ["bad cksum", "bad udp cksum", "incorrect", "bad icmp cksum", "wrong icmp", "truncated", "[|", "invalid"];

fn tcpdump(file: &FilePath) -> Result<String> {
    let mut command = Command::new("tcpdump");
    // From standard input: tcpdump reads it as a user who may not open the file.
    command
        .args(["-nn", "-vvv", "-r", "-"])
        .stdin(File::open(file).with_context(|| format!("open {}", file.display()))?);
    let output = command.output().context("run tcpdump")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "tcpdump: {errors}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn objections(said: &str) -> Vec<&str> {
    let objects = |line: &str| {
        // tcpdump doesn't know that a tunnel over IPv6 may leave the checksum out (RFC 6935 §5).
        let rest = match line.split_once("[bad udp cksum 0x0000 -> ") {
            Some((before, after)) if after.contains("!] VXLAN, ") => [before, &after[6..]].concat(),
            _ => line.to_owned(),
        };
        OBJECTIONS.iter().any(|objection| rest.contains(objection))
    };
    said.lines().filter(|line| objects(line)).collect()
}

#[test]
fn tshark_and_tcpdump_find_nothing_wrong_with_the_copies() -> Result<()> {
    for path in BOTH_PATHS {
        for version in BOTH_VERSIONS {
            let lab = Lab::new()?;
            let frames = copies(&lab, COLLECTOR.address(version), path.flag())?;
            let file = lab.scratch_directory().join("copies.pcap");
            fs::write(&file, Pcap::of(&frames).0).context("write a capture")?;
            is_flawless(&tshark(&file)?, &frames);

            let said = tcpdump(&file)?;
            let copies = said.matches(&format!("VXLAN, flags [I] (0x08), vni {VNI}")).count();
            assert_eq!(copies, frames.len(), "tcpdump reads every copy as VXLAN, {path}");
            let objections = objections(&said);
            assert!(objections.is_empty(), "{path}: {} objections: {}", objections.len(), objections[0]);
        }
    }
    Ok(())
}

/// The check must be able to fail: the same copies, each time with one thing changed.
#[test]
fn tshark_and_tcpdump_find_what_is_wrong() -> Result<()> {
    let lab = Lab::new()?;
    let frames = copies(&lab, COLLECTOR.v4, "")?;
    let file = lab.scratch_directory().join("copies.pcap");
    let inner = 14 + 20 + 8 + 8;
    let is_tcp =
        |frame: &Frame| frame.0.len() > 500 && frame.0[inner + 12..inner + 14] == [8, 0] && frame.0[inner + 23] == 6;
    let place = frames.iter().position(is_tcp).context("a copy with a TCP segment over IPv4")?;
    // Inside: a byte of TCP's payload, of the IP header's sum. Outside: of the IP header's sum.
    for (what, byte, by_tcpdump) in [
        ("tcp", inner + 14 + 20 + 32 + 9, "incorrect"),
        ("ip", inner + 14 + 10, "bad cksum"),
        ("ip", 14 + 10, "bad cksum"),
    ] {
        let mut changed = frames.clone();
        changed[place].0[byte] ^= 0x10;
        fs::write(&file, Pcap::of(&changed).0).context("write a capture")?;
        let decoded = tshark(&file)?;
        let complaints: Vec<String> =
            decoded.iter().zip(&changed).filter_map(|(decoded, bytes)| complaint(decoded, bytes)).collect();
        assert_eq!(complaints.len(), 1, "byte {byte}: {complaints:?}");
        assert_eq!(decoded[place].number, place + 1);
        assert!(
            complaints[0].starts_with(&format!("frame {}: the checksum of {what} has status {BAD}", place + 1)),
            "{complaints:?}"
        );
        let said = tcpdump(&file)?;
        assert_eq!(objections(&said).len(), 1, "byte {byte}: {:?}", objections(&said));
        assert!(objections(&said)[0].contains(by_tcpdump), "{:?}", objections(&said));
    }
    // A copy that ends in its TCP header, whatever its lengths say.
    let mut cut = frames.clone();
    cut[place].0.truncate(inner + 14 + 20 + 6);
    fs::write(&file, Pcap::of(&cut).0).context("write a capture")?;
    let complaints: Vec<String> =
        tshark(&file)?.iter().zip(&cut).filter_map(|(decoded, bytes)| complaint(decoded, bytes)).collect();
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(complaints[0].starts_with(&format!("frame {} is malformed", place + 1)), "{complaints:?}");
    assert!(!objections(&tcpdump(&file)?).is_empty());
    Ok(())
}
