//! What holds for the copies that a collector receives, whatever the sessions and the frames: VNI, packet length, the
//! target's family and the UDP source port, by both paths.
//!
//! Each session mirrors one flow, so that the VNI tells of which flow a copy is, however short it was cut. What should
//! arrive is computed here from what was injected.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use mirror_tests::frame::{Frame, ICMP, ICMPV6, SERVICE_VLAN, TCP, Tag, UDP, VLAN};
use mirror_tests::lab::Station;
use mirror_tests::random::Random;
use mirror_tests::{
    BOTH_PATHS, BOTH_VERSIONS, COLLECTOR, GENERATOR, HOST_SOURCE, HOST_UPLINK, IpVersion, Lab, Path, checksum, craft,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

/// With jumbo frames there are frames longer than the largest packet length.
const SOURCE_MTU: u32 = 9000;
const UPLINK_MTU: u32 = 9100;
const LONGEST_FRAME: usize = 14 + SOURCE_MTU as usize;
/// Worlds drawn in a test run.
const WORLDS: u32 = 5;
/// A world that fails is made smaller so often; each time costs a second.
const SHRINKS: u32 = 60;
/// An ethertype of nobody's (IEEE 802, local experiment 2): not that of the lab's own markers.
const NON_IP: u16 = 0x88b6;

const EDGE_VNIS: [u32; 8] = [0, 1, 0xff, 0x100, 0xffff, 0x1_0000, 0x80_0000, 0xff_ffff];
/// Around the ends of Ethernet, IPv4, IPv6, UDP and TCP headers, of the shortest and longest frames; both ends of the
/// range.
const EDGE_LENGTHS: [u16; 20] =
    [1, 2, 13, 14, 15, 33, 34, 42, 53, 54, 59, 60, 61, 64, 128, 1500, 1514, 1515, 8499, 8500];

/// What a flow consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// TCP or UDP between these ports.
    Ports { protocol: u8, near: u16, far: u16 },
    /// ICMP echo, requests and replies, with this identifier.
    Echo { identifier: u16 },
    /// A protocol without ports: what stands where ports would be makes no difference.
    Other { protocol: u8 },
    /// Fragments of UDP datagrams, first and later ones.
    Fragments,
    /// Frames without an IP header. There can be one such session.
    NonIp,
}

/// How long a frame is.
#[derive(Clone, Copy, Debug)]
enum Length {
    /// Longer than the packet length by this.
    Near(i32),
    Any(u16),
}

/// A frame of a flow.
#[derive(Clone, Copy, Debug)]
struct Packet {
    outgoing: bool,
    length: Length,
    tags: usize,
    seed: u64,
}

/// A session and the flow that it mirrors.
#[derive(Clone, Debug)]
struct Mirrored {
    vni: u32,
    packet_length: Option<u16>,
    target: IpVersion,
    version: IpVersion,
    kind: Kind,
    packets: Vec<Packet>,
}

fn version() -> impl Strategy<Value = IpVersion> {
    prop_oneof![Just(IpVersion::V4), Just(IpVersion::V6)]
}

fn kind() -> impl Strategy<Value = Kind> {
    let ports =
        |protocol| (any::<u16>(), any::<u16>()).prop_map(move |(near, far)| Kind::Ports { protocol, near, far });
    prop_oneof![
        3 => ports(UDP),
        3 => ports(TCP),
        2 => any::<u16>().prop_map(|identifier| Kind::Echo { identifier }),
        // GRE, ESP, OSPF, SCTP, UDP-Lite and two that stand for nothing (RFC 3692 §2.1).
        2 => proptest::sample::select(vec![47, 50, 89, 132, 136, 253, 254]).prop_map(|protocol| Kind::Other { protocol }),
        1 => Just(Kind::Fragments),
        1 => Just(Kind::NonIp),
    ]
}

fn packet() -> impl Strategy<Value = Packet> {
    let length = prop_oneof![
        3 => (-2..=2).prop_map(Length::Near),
        2 => (14..=LONGEST_FRAME as u16).prop_map(Length::Any),
        1 => (14..=128_u16).prop_map(Length::Any),
    ];
    let tags = prop_oneof![4 => Just(0_usize), 1 => Just(1), 1 => Just(2)];
    (any::<bool>(), length, tags, any::<u64>()).prop_map(|(outgoing, length, tags, seed)| Packet {
        outgoing,
        length,
        tags,
        seed,
    })
}

fn mirrored() -> impl Strategy<Value = Mirrored> {
    let vni = prop_oneof![1 => proptest::sample::select(EDGE_VNIS.to_vec()), 3 => 0..=0xff_ffff_u32];
    let length = prop_oneof![1 => proptest::sample::select(EDGE_LENGTHS.to_vec()), 1 => 1..=8500_u16, 1 => 1..=200_u16];
    let session = (vni, proptest::option::weighted(0.9, length), version());
    let packets = proptest::collection::vec(packet(), 1..6);
    (session, version(), kind(), packets).prop_map(|((vni, packet_length, target), version, kind, packets)| Mirrored {
        vni,
        packet_length,
        target,
        version,
        kind,
        packets,
    })
}

/// A world: sessions with VNIs of their own, at most one of which wants frames without IP.
fn world() -> impl Strategy<Value = Vec<Mirrored>> {
    proptest::collection::vec(mirrored(), 1..40).prop_map(sane)
}

fn sane(mut world: Vec<Mirrored>) -> Vec<Mirrored> {
    let mut vnis = BTreeSet::new();
    let mut non_ip = false;
    world.retain_mut(|mirrored| {
        let is_non_ip = mirrored.kind == Kind::NonIp;
        if is_non_ip {
            // The lab's markers are no IP either: their copies must show the ethertype, to be told from others.
            mirrored.packet_length = mirrored.packet_length.map(|length| length.max(14));
        }
        vnis.insert(mirrored.vni) && !(is_non_ip && std::mem::replace(&mut non_ip, true))
    });
    world
}

impl Mirrored {
    /// The ends of the flow that is at `place` in the world: near to the generator, and far. Two neighbours that have
    /// ports have the same addresses, and differ by one port.
    fn ends(&self, place: usize) -> (Station, Station) {
        let has_ports = matches!(self.kind, Kind::Ports { .. });
        let number = if has_ports { place & !1 } else { place } as u16;
        // What has no ports is nobody's whose neighbour has the same protocol.
        let last = if has_ports { 7 } else { 8 };
        let [high, low] = number.to_be_bytes();
        // RFC 2544, RFC 5737, RFC 3849: networks of nobody's, so that nobody answers.
        let near = Station {
            v4: Ipv4Addr::new(198, 18, high, low),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, number),
            ..GENERATOR
        };
        let far = Station {
            v4: Ipv4Addr::new(203, 0, 113, last),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, last.into()),
            ..HOST_SOURCE
        };
        (near, far)
    }

    fn ports(&self, place: usize) -> Option<(u16, u16)> {
        match self.kind {
            // Never 0, and the lowest bit tells neighbours apart.
            Kind::Ports { near, far, .. } => Some((near & !1 | 2 | (place & 1) as u16, far.max(1))),
            _ => None,
        }
    }

    fn protocol(&self) -> u8 {
        match self.kind {
            Kind::Ports { protocol, .. } | Kind::Other { protocol } => protocol,
            Kind::Echo { .. } if self.version == IpVersion::V4 => ICMP,
            Kind::Echo { .. } => ICMPV6,
            Kind::Fragments | Kind::NonIp => UDP,
        }
    }

    /// One frame of the flow.
    fn frame(&self, place: usize, packet: &Packet) -> Frame {
        let wanted = match packet.length {
            Length::Near(more) => i32::from(self.packet_length.unwrap_or(1514)) + more,
            Length::Any(length) => i32::from(length),
        };
        let wanted = wanted.clamp(14, LONGEST_FRAME as i32) as usize;
        let ip_header = if self.version == IpVersion::V4 { 20 } else { 40 };
        // What is left for the segment. A header that the kind has is there in any case.
        let room = |header: usize| wanted.saturating_sub(14 + packet.tags * 4 + ip_header).max(header);
        let mut random = Random::new(packet.seed);
        let content = |length| craft::content(packet.seed, length);
        let (near, far) = self.ends(place);
        let (from, to) = if packet.outgoing { (&far, &near) } else { (&near, &far) };
        let frame = match self.kind {
            Kind::Ports { protocol, .. } => {
                let (near, far) = self.ports(place).expect("the kind has ports");
                let ports = if packet.outgoing { (far, near) } else { (near, far) };
                if protocol == UDP {
                    craft::udp(from, to, self.version, ports, &content(room(8) - 8))
                } else {
                    let mut segment = content(room(20));
                    segment[..2].copy_from_slice(&ports.0.to_be_bytes());
                    segment[2..4].copy_from_slice(&ports.1.to_be_bytes());
                    // RFC 9293 §3.1: five words of header; whatever flags there are.
                    segment[12] = 5 << 4;
                    craft::ip(from, to, self.version, TCP, &segment)
                }
            }
            Kind::Echo { identifier } => {
                let mut segment = content(room(8));
                // RFC 792, RFC 4443 §4: request and reply.
                let kinds = if self.version == IpVersion::V4 { [8, 0] } else { [128, 129] };
                segment[..2].copy_from_slice(&[kinds[usize::from(random.once_in(2))], 0]);
                segment[4..6].copy_from_slice(&identifier.to_be_bytes());
                craft::ip(from, to, self.version, self.protocol(), &segment)
            }
            Kind::Other { protocol } => craft::ip(from, to, self.version, protocol, &content(room(8))),
            Kind::Fragments => {
                // The first of several, one in the middle, the last one: offset in units of 8 bytes, more to come.
                let (offset, more) = *random.pick(&[(0_u16, true), (1, true), (700, true), (3, false)]);
                if self.version == IpVersion::V4 {
                    let mut frame = craft::ip(from, to, self.version, UDP, &content(room(8)));
                    // RFC 791 §3.1.
                    let field = offset | if more { 0x2000 } else { 0 };
                    frame.0[20..22].copy_from_slice(&field.to_be_bytes());
                    checksum::fill_ipv4(&mut frame.0, 14);
                    frame
                } else {
                    let mut segment = content(room(16));
                    // RFC 8200 §4.5: next header, reserved, offset and flag, identification.
                    segment[..2].copy_from_slice(&[UDP, 0]);
                    segment[2..4].copy_from_slice(&(offset << 3 | u16::from(more)).to_be_bytes());
                    craft::ip(from, to, self.version, 44, &segment)
                }
            }
            Kind::NonIp => craft::ethernet(from, to, NON_IP, &content(wanted - 14)),
        };
        let tags = [
            Tag { ethertype: SERVICE_VLAN, control: random.bits() as u16 },
            Tag { ethertype: VLAN, control: random.bits() as u16 },
        ];
        if frame.0.len() + 4 * packet.tags > LONGEST_FRAME {
            return frame;
        }
        craft::tagged(&frame, &tags[2 - packet.tags..])
    }

    /// The tables of the file that make the session, its filter and its rules.
    fn tables(&self, place: usize) -> String {
        let (near, far) = self.ends(place);
        let (near, far, bits) = match self.version {
            IpVersion::V4 => (near.v4.to_string(), far.v4.to_string(), 32),
            IpVersion::V6 => (near.v6.to_string(), far.v6.to_string(), 128),
        };
        let mut text = format!("[[filter]]\nname = \"f{place}\"\n");
        if self.kind == Kind::NonIp {
            text += "mirror_non_ip = true\n";
        } else {
            for (direction, from, to, reversed) in [("ingress", &near, &far, false), ("egress", &far, &near, true)] {
                let protocol = self.protocol();
                let _ = write!(
                    text,
                    "[[filter.rule]]\nnumber = 1\ndirection = \"{direction}\"\naction = \"accept\"\nprotocol = {protocol}\n\
                     source = \"{from}/{bits}\"\ndestination = \"{to}/{bits}\"\n"
                );
                if let Some((near, far)) = self.ports(place) {
                    let (from, to) = if reversed { (far, near) } else { (near, far) };
                    let _ = write!(text, "source_ports = \"{from}-{from}\"\ndestination_ports = \"{to}-{to}\"\n");
                }
            }
        }
        let target = if self.target == IpVersion::V4 { "v4" } else { "v6" };
        let _ = write!(
            text,
            "[[session]]\nname = \"s{place}\"\nnumber = {}\nsource = \"s0\"\ntarget = \"{target}\"\nfilter = \"f{place}\"\n\
             vni = {}\n",
            place + 1,
            self.vni,
        );
        if let Some(length) = self.packet_length {
            let _ = writeln!(text, "packet_length = {length}");
        }
        text
    }
}

fn lab(path: Path) -> Result<Lab> {
    let lab = Lab::options().source_mtu(SOURCE_MTU).uplink_mtu(UPLINK_MTU).start()?;
    // The sessions of the file replace this one; what the source was attached with stays.
    lab.mirrorctl(&format!("attach s0 --target {} {}", COLLECTOR.v4, path.flag()))?.ok();
    Ok(lab)
}

fn apply(lab: &Lab, world: &[Mirrored]) -> Result<()> {
    let mut text = String::new();
    for (name, version) in ["v4", "v6"].into_iter().zip(BOTH_VERSIONS) {
        let _ = write!(text, "[[target]]\nname = \"{name}\"\naddress = \"{}\"\n", COLLECTOR.address(version));
    }
    for (place, mirrored) in world.iter().enumerate() {
        text += &mirrored.tables(place);
    }
    let file = lab.scratch_directory().join("world.toml");
    fs::write(&file, text).context("write a file of definitions")?;
    lab.mirrorctl(&format!("apply -f {}", file.display()))?.ok();
    Ok(())
}

/// UDP source ports by VNI.
type Ports = BTreeMap<u32, u16>;

/// Injects all frames of a world and checks their copies.
fn mirror(lab: &Lab, path: Path, world: &[Mirrored]) -> Result<Ports, TestCaseError> {
    let broken = |error: anyhow::Error| TestCaseError::fail(format!("by the {path}: {error:#}"));
    apply(lab, world).map_err(broken)?;
    let mut frames = [Vec::new(), Vec::new()];
    // How many copies with these bytes each session should have.
    let mut expected: BTreeMap<(u32, Frame), i64> = BTreeMap::new();
    let mut cut: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for (place, mirrored) in world.iter().enumerate() {
        for packet in &mirrored.packets {
            let frame = mirrored.frame(place, packet);
            let kept = frame.cut(mirrored.packet_length.map_or(usize::MAX, usize::from));
            let (copies, shortened) = cut.entry(mirrored.vni).or_default();
            *copies += 1;
            *shortened += u64::from(kept.0.len() < frame.0.len());
            *expected.entry((mirrored.vni, kept)).or_default() += 1;
            frames[usize::from(packet.outgoing)].push(frame);
        }
    }
    let before = lab.stats().map_err(broken)?;
    let recording = lab
        .record(|| {
            lab.inject_all(GENERATOR, &frames[0])?;
            lab.inject_all(HOST_SOURCE, &frames[1])
        })
        .map_err(broken)?;
    prop_assert!(recording.strays.is_empty(), "by the {path}: what left is no copy: {:?}", recording.strays[0]);

    let mut ports = Ports::new();
    for copy in recording.copies.iter().filter(|copy| !copy.inner.is_housekeeping()) {
        let Some(mirrored) = world.iter().find(|mirrored| mirrored.vni == copy.vni) else {
            return Err(TestCaseError::fail(format!(
                "by the {path}: no session has VNI {}: {:?}",
                copy.vni, copy.inner
            )));
        };
        let ends = (copy.source, copy.destination);
        let wanted = (HOST_UPLINK.address(mirrored.target), COLLECTOR.address(mirrored.target));
        prop_assert_eq!(ends, wanted, "by the {}: outer addresses of {:?}", path, mirrored);
        // Also read by the decoder; said here because it is the property.
        prop_assert!(copy.source_port >= 49152, "by the {path}: source port {}", copy.source_port);
        let port = *ports.entry(copy.vni).or_insert(copy.source_port);
        prop_assert_eq!(port, copy.source_port, "by the {}: one flow has two source ports: {:?}", path, mirrored);
        *expected.entry((copy.vni, copy.inner.clone())).or_default() -= 1;
    }
    if let Some(((vni, frame), count)) = expected.iter().find(|(_, count)| **count != 0) {
        let word = if *count > 0 { "missing" } else { "too many" };
        return Err(TestCaseError::fail(format!("by the {path}: VNI {vni}: {} copies {word}: {frame:?}", count.abs())));
    }

    let after = lab.stats().map_err(broken)?;
    for (place, mirrored) in world.iter().enumerate().filter(|(_, mirrored)| mirrored.kind != Kind::NonIp) {
        // A session of this name may have been there before.
        let counted = |key: &str| {
            let [before, after] = [&before, &after].map(|stats| {
                let mut sessions = stats["sessions"].as_array().into_iter().flatten();
                sessions.find(|session| session["name"] == format!("s{place}"))?[key].as_u64()
            });
            Some(after? - before?)
        };
        let (copies, shortened) = cut[&mirrored.vni];
        let counted = ["packets", "truncated_to_length", "truncated_to_mtu"].map(counted);
        let wanted = [copies, shortened, 0].map(Some);
        prop_assert_eq!(counted, wanted, "by the {}: packets, cut to length, cut to MTU of {:?}", path, mirrored);
    }
    Ok(ports)
}

fn holds(labs: &[(Path, Lab)], world: &[Mirrored]) -> Result<(), TestCaseError> {
    let mut seen: Option<Ports> = None;
    for (path, lab) in labs {
        let ports = mirror(lab, *path, world)?;
        let different: BTreeSet<u16> = ports.values().copied().collect();
        // 40 balls into 16,384 bins: 0.05 collisions on average, and five will never be.
        prop_assert!(
            different.len() + 5 > ports.len(),
            "by the {path}: {} flows have only {} source ports: {ports:?}",
            ports.len(),
            different.len(),
        );
        if let Some(before) = seen.replace(ports) {
            prop_assert_eq!(&Some(before), &seen, "source ports depend on the path");
        }
    }
    Ok(())
}

fn labs() -> Result<Vec<(Path, Lab)>> {
    BOTH_PATHS.into_iter().map(|path| Ok((path, lab(path)?))).collect()
}

#[test]
fn copies_of_any_sessions_have_vni_length_and_port_of_their_flow() -> Result<()> {
    let labs = labs()?;
    let config = Config { cases: WORLDS, max_shrink_iters: SHRINKS, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&world(), |world| holds(&labs, &world)).map_err(|error| anyhow::anyhow!("{error}"))
}

#[test]
fn copies_at_the_edges_of_vni_and_packet_length_are_right() -> Result<()> {
    let labs = labs()?;
    let kinds = [
        Kind::Ports { protocol: UDP, near: 49152, far: 9 },
        Kind::Ports { protocol: TCP, near: 1, far: 65535 },
        Kind::Echo { identifier: 0 },
        Kind::Other { protocol: 47 },
        Kind::Fragments,
    ];
    let world = EDGE_LENGTHS.iter().enumerate().map(|(place, &length)| Mirrored {
        // Behind the edges, one bit after the other.
        vni: EDGE_VNIS.get(place).copied().unwrap_or(2 | 1 << place),
        packet_length: Some(length),
        target: BOTH_VERSIONS[place % 2],
        version: BOTH_VERSIONS[place / 2 % 2],
        kind: kinds[place % kinds.len()],
        packets: (-1..=1)
            .flat_map(|more| [false, true].map(|outgoing| (more, outgoing)))
            .zip(0..)
            .map(|((more, outgoing), seed)| Packet { outgoing, length: Length::Near(more), tags: 0, seed })
            .chain([Packet { outgoing: true, length: Length::Any(LONGEST_FRAME as u16), tags: 1, seed: 6 }])
            .collect(),
    });
    let world = sane(world.collect());
    assert_eq!(world.len(), EDGE_LENGTHS.len(), "each length has a VNI of its own");
    holds(&labs, &world).map_err(|error| anyhow::anyhow!("{error}"))
}
