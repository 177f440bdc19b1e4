//! Rule sets for benchmarks, and traces of packets that hit them. Drawn from a fixed seed: the same on every machine.
//!
//! The shapes are of our own making, after what is known of rule sets in use: many prefixes, few port ranges, specific
//! rules ahead of general ones.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use mirror_common::bench::{TRACE_BYTES, TRACE_PACKETS, TracePacket};
use mirror_common::policy::Direction;
use mirror_user::definitions::rule::{Action, Addresses, PortRange, Rule, RuleNumber};

use crate::oracle::Session;
use crate::random::Random;

/// Where all rule sets begin.
const SEED: u64 = 0x6d69_7272_6f72;
/// Ethernet header of all packets.
const ETHERNET: [u8; 14] = [2, 0, 0, 0, 1, 2, 2, 0, 0, 0, 1, 1, 0x08, 0x00];

/// What a rule set is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Many destinations, few ports, most sources anywhere.
    Acl,
    /// Many wildcards in every field, many port ranges.
    Firewall,
    /// Pairs of networks, hosts and wildcards, mixed.
    IpChain,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Acl, Self::Firewall, Self::IpChain];

    /// How it is called in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Acl => "acl",
            Self::Firewall => "firewall",
            Self::IpChain => "ip-chain",
        }
    }
}

/// Draws `count` rules, in up to four sessions, one rule in eight a reject.
pub fn draw(shape: Shape, count: usize) -> Vec<Session> {
    let mut random = Random::new(SEED ^ (count as u64) << 8 ^ shape as u64);
    let pools = Pools::draw(&mut random, count);
    let mut drawn: Vec<_> = (0..count)
        .map(|_| {
            let rule = rule(&mut random, &pools, shape);
            // People put general rules behind special ones, more or less.
            let rank = generality(&rule) * 2 + random.below(24) as u32;
            (rank, rule)
        })
        .collect();
    drawn.sort_by_key(|(rank, _)| *rank);
    let sessions = if count < 10 { 1 } else { 4 };
    drawn
        .chunks(count.div_ceil(sessions))
        .map(|rules| {
            let number = |(index, (_, rule)): (usize, &(u32, Rule))| Rule {
                number: RuleNumber::try_from(index as u64 + 1).expect("fewer rules than there are numbers"),
                ..rule.clone()
            };
            Session { rules: rules.iter().enumerate().map(number).collect(), dns: Vec::new(), mirror_non_ip: false }
        })
        .collect()
}

/// Draws a trace: each packet is one that a rule matches which was drawn first, but for one in twenty, which is any
/// packet. No two are equal.
pub fn trace(shape: Shape, sessions: &[Session]) -> Vec<TracePacket> {
    let rules: Vec<&Rule> = sessions.iter().flat_map(|session| &session.rules).collect();
    let mut random = Random::new(!SEED ^ (rules.len() as u64) << 8 ^ shape as u64);
    let mut known = HashSet::new();
    let mut trace = Vec::with_capacity(TRACE_PACKETS);
    while trace.len() < TRACE_PACKETS {
        let rule = if random.once_in(20) { None } else { Some(*random.pick(&rules)) };
        let mut packet = packet(&mut random, rule);
        if known.contains(&packet) {
            // A rule for one flow has one packet only: what sets others apart is the identification.
            packet[4..6].copy_from_slice(&(random.bits() as u16).to_be_bytes());
        }
        if known.insert(packet) {
            trace.push(packet);
        }
    }
    trace
}

/// A packet of a trace as a frame of 64 bytes, without what the wire adds.
pub fn frame(packet: &TracePacket) -> Vec<u8> {
    let mut frame = ETHERNET.to_vec();
    frame.extend(packet);
    frame.resize(64, 0);
    frame
}

/// What the rules of one set share.
struct Pools {
    servers: Vec<Ipv4Net>,
    clients: Vec<Ipv4Net>,
    ranges: Vec<PortRange>,
}

impl Pools {
    fn draw(random: &mut Random, count: usize) -> Self {
        let net = |random: &mut Random, length| {
            Ipv4Net::new(Ipv4Addr::from(random.bits() as u32), length).expect("a length up to 32").trunc()
        };
        Self {
            servers: (0..4 + count / 40).map(|_| net(random, 20)).collect(),
            clients: (0..4 + count / 100).map(|_| net(random, 16)).collect(),
            ranges: (0..30)
                .map(|_| {
                    let (a, b) = (random.bits() as u16, random.bits() as u16 % 2048);
                    PortRange::new(a, a.saturating_add(b)).expect("it runs forwards")
                })
                .collect(),
        }
    }
}

const WELL_KNOWN: [u16; 24] = [
    80, 443, 22, 53, 25, 123, 161, 389, 636, 993, 995, 1433, 1521, 3306, 3389, 5432, 5900, 6379, 8000, 8080, 8443,
    9090, 9200, 27017,
];

fn rule(random: &mut Random, pools: &Pools, shape: Shape) -> Rule {
    let anywhere = Ipv4Net::default();
    let (source, destination) = match shape {
        Shape::Acl => {
            let source = match random.below(10) {
                0..6 => anywhere,
                6..9 => inside(random, &pools.clients, &[16, 20, 24]),
                _ => inside(random, &pools.clients, &[32]),
            };
            let destination = match random.below(50) {
                0 => anywhere,
                1..10 => inside(random, &pools.servers, &[20, 22, 24]),
                _ => inside(random, &pools.servers, &[27, 28, 30, 32, 32, 32]),
            };
            (source, destination)
        }
        Shape::Firewall => {
            let mut end = |pool, wild| {
                if random.below(100) < wild {
                    anywhere
                } else {
                    inside(random, pool, &[8, 12, 16, 20, 24, 24, 28, 32, 32, 32])
                }
            };
            (end(&pools.clients, 50), end(&pools.servers, 40))
        }
        Shape::IpChain => {
            let mut end = |pool, wild| {
                if random.below(100) < wild {
                    anywhere
                } else {
                    inside(random, pool, &[16, 20, 22, 24, 24, 26, 28, 30, 32, 32])
                }
            };
            (end(&pools.clients, 15), end(&pools.servers, 10))
        }
    };
    let protocol = match random.below(20) {
        0..13 => Some(6),
        13..17 => Some(17),
        17 => Some(*random.pick(&[1, 47, 50])),
        _ => None,
    };
    let (source_ports, destination_ports) = match protocol {
        Some(6 | 17) => match shape {
            Shape::Acl => (None, ports(random, pools, [75, 10])),
            Shape::Firewall => (ports(random, pools, [8, 22]), ports(random, pools, [40, 30])),
            Shape::IpChain => (ports(random, pools, [10, 10]), ports(random, pools, [50, 15])),
        },
        _ => (None, None),
    };
    Rule {
        number: RuleNumber::try_from(1).expect("1 is a rule number"),
        direction: Direction::Ingress,
        action: if random.once_in(8) { Action::Reject } else { Action::Accept },
        protocol,
        addresses: Addresses::V4 { source, destination },
        source_ports,
        destination_ports,
        description: None,
    }
}

/// A network in one of `pool`, or one around it.
fn inside(random: &mut Random, pool: &[Ipv4Net], lengths: &[u8]) -> Ipv4Net {
    let net = *random.pick(pool);
    Ipv4Net::new(host(random, net), *random.pick(lengths)).expect("a length up to 32").trunc()
}

fn host(random: &mut Random, net: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(net.network().to_bits() | (random.bits() as u32 & net.hostmask().to_bits()))
}

/// Single ports and ranges, so many of a hundred; the rest is any port.
fn ports(random: &mut Random, pools: &Pools, [single, range]: [usize; 2]) -> Option<PortRange> {
    let drawn = random.below(100);
    if drawn < single {
        let port = *random.pick(&WELL_KNOWN);
        return PortRange::new(port, port).ok();
    }
    match random.below(4) {
        _ if drawn >= single + range => None,
        0 | 1 => PortRange::new(1024, 65535).ok(),
        _ => Some(*random.pick(&pools.ranges)),
    }
}

/// How much a rule takes: the bits that it leaves open.
fn generality(rule: &Rule) -> u32 {
    let addresses = match rule.addresses {
        Addresses::V4 { source, destination } => {
            64 - u32::from(source.prefix_len()) - u32::from(destination.prefix_len())
        }
        Addresses::V6 { .. } => 0,
    };
    let ports = |range: Option<PortRange>| {
        range.map_or(16, |range| (u32::from(range.last() - range.first()) + 1).next_power_of_two().ilog2())
    };
    addresses + ports(rule.source_ports) + ports(rule.destination_ports) + if rule.protocol.is_none() { 8 } else { 0 }
}

/// A packet that `rule` matches.
fn packet(random: &mut Random, rule: Option<&Rule>) -> TracePacket {
    let (source, destination) = match rule.map(|rule| rule.addresses) {
        Some(Addresses::V4 { source, destination }) => (host(random, source), host(random, destination)),
        _ => (host(random, Ipv4Net::default()), host(random, Ipv4Net::default())),
    };
    let protocol = rule.and_then(|rule| rule.protocol).unwrap_or_else(|| *random.pick(&[6, 6, 17]));
    let mut port = |range: Option<PortRange>| {
        let range = range.unwrap_or(PortRange::ALL);
        let span = usize::from(range.last() - range.first()) + 1;
        range.first() + random.below(span) as u16
    };
    let ports = [port(rule.and_then(|rule| rule.source_ports)), port(rule.and_then(|rule| rule.destination_ports))];
    let mut packet = [0; TRACE_BYTES];
    // RFC 791 §3.1: version 4, five words; the rest of 64 bytes of frame; don't fragment; TTL 64. The checksum is not
    // looked at.
    packet[..12].copy_from_slice(&[0x45, 0, 0, 50, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    packet[20..22].copy_from_slice(&ports[0].to_be_bytes());
    packet[22..24].copy_from_slice(&ports[1].to_be_bytes());
    packet
}
