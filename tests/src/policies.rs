//! Random policies, and packets that fall on the edges of their rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use mirror_common::policy::Direction;
use mirror_user::definitions::rule::{Action, Addresses, PortRange, Rule, RuleNumber};

use crate::oracle::Session;
use crate::random::Random;

/// Draws a policy: up to `sessions` sessions with up to `rules` rules each.
pub fn policy(random: &mut Random, sessions: usize, rules: usize) -> Vec<Session> {
    (0..1 + random.below(sessions))
        .map(|_| Session {
            rules: filter(random, rules),
            dns: if random.once_in(4) { vec![v4_address(random).into(), v6_address(random).into()] } else { vec![] },
            mirror_non_ip: random.once_in(3),
        })
        .collect()
}

fn filter(random: &mut Random, rules: usize) -> Vec<Rule> {
    let count = random.below(rules + 1);
    let mut numbers: Vec<u64> = (0..count).map(|_| 1 + random.below(32766) as u64).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into_iter().map(|number| rule(random, number)).collect()
}

/// Draws a rule.
pub fn rule(random: &mut Random, number: u64) -> Rule {
    let protocol = match random.below(8) {
        0 | 1 => None,
        2 | 3 => Some(6),
        4 | 5 => Some(17),
        6 => Some(*random.pick(&[1, 58, 50, 51, 44, 0, 47, 132])),
        _ => Some(random.below(256) as u8),
    };
    let with_ports = matches!(protocol, Some(6 | 17));
    let ports = |random: &mut Random| (with_ports && random.once_in(2)).then(|| port_range(random));
    Rule {
        number: RuleNumber::try_from(number).expect("a rule number in its range"),
        direction: Direction::Ingress,
        action: if random.once_in(3) { Action::Reject } else { Action::Accept },
        protocol,
        addresses: if random.once_in(3) {
            Addresses::V6 { source: v6_net(random), destination: v6_net(random) }
        } else {
            Addresses::V4 { source: v4_net(random), destination: v4_net(random) }
        },
        source_ports: ports(random),
        destination_ports: ports(random),
        description: None,
    }
}

/// Few different first bits, so that prefixes nest and overlap.
fn v4_address(random: &mut Random) -> Ipv4Addr {
    let base = *random.pick(&[0x0a00_0000u32, 0x0a80_0000, 0xc0a8_0000, 0, 0xffff_ff00, 0x7fff_ffff]);
    Ipv4Addr::from(base ^ (random.bits() as u32 & *random.pick(&[0, 1, 0xff, 0xffff, 0x00ff_ffff])))
}

fn v6_address(random: &mut Random) -> Ipv6Addr {
    let base = *random.pick(&[0x2001_0db8u128 << 96, 0, u128::MAX, 1 << 127, 0xfe80 << 112]);
    let low = *random.pick(&[0u128, 1, 0xff, u128::from(u64::MAX), 1 << 64, u128::MAX >> 16]);
    let noise = u128::from(random.bits()) << 64 | u128::from(random.bits());
    Ipv6Addr::from(base ^ (noise & low))
}

fn v4_net(random: &mut Random) -> Ipv4Net {
    let length = *random.pick(&[0, 0, 1, 8, 9, 16, 23, 24, 25, 30, 31, 32, 32]);
    Ipv4Net::new(v4_address(random), length).expect("a prefix length up to 32").trunc()
}

fn v6_net(random: &mut Random) -> Ipv6Net {
    let length = *random.pick(&[0, 0, 1, 32, 48, 63, 64, 65, 96, 127, 128, 128]);
    Ipv6Net::new(v6_address(random), length).expect("a prefix length up to 128").trunc()
}

fn port(random: &mut Random) -> u16 {
    match random.below(3) {
        0 => *random.pick(&[0, 1, 53, 80, 443, 1023, 1024, 32767, 32768, 65534, 65535]),
        1 => 78 + random.below(6) as u16,
        _ => random.bits() as u16,
    }
}

fn port_range(random: &mut Random) -> PortRange {
    let (a, b) = (port(random), port(random));
    let b = if random.once_in(2) { a } else { b };
    PortRange::new(a.min(b), a.max(b)).expect("a range that runs forwards")
}

/// Draws a frame: mostly one that a rule of `sessions` just takes or just doesn't.
pub fn frame(random: &mut Random, sessions: &[Session]) -> Vec<u8> {
    let session = random.pick(sessions);
    let mut shape = Shape::random(random);
    if !session.rules.is_empty() && !random.once_in(5) {
        let rule = random.pick(&session.rules);
        shape.aim(random, rule);
    } else if !session.dns.is_empty() && random.once_in(2) {
        let resolver = *random.pick(&session.dns);
        shape.ask(random, resolver);
    }
    let mut frame = shape.bytes(random);
    match random.below(20) {
        0 => frame.truncate(random.below(frame.len() + 1)),
        1 => {
            let at = random.below(frame.len());
            frame[at] = random.bits() as u8;
        }
        _ => {}
    }
    // The kernel's test run takes no frame without a whole Ethernet header and a byte behind it, and none that ends
    // inside an IP header, unless there is a VLAN tag in front of that (net/bpf/test_run.c).
    frame.resize(frame.len().max(15), 0);
    let least = match frame[12..14] {
        [0x08, 0x00] => 34,
        [0x86, 0xdd] => 54,
        _ => 15,
    };
    frame.resize(frame.len().max(least), 0);
    frame
}

/// A packet to be made.
struct Shape {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ports: (u16, u16),
}

impl Shape {
    fn random(random: &mut Random) -> Self {
        let (source, destination) = if random.once_in(3) {
            (v6_address(random).into(), v6_address(random).into())
        } else {
            (v4_address(random).into(), v4_address(random).into())
        };
        let protocol = if random.once_in(4) { random.bits() as u8 } else { *random.pick(&[6, 17, 1, 58]) };
        Self { source, destination, protocol, ports: (port(random), port(random)) }
    }

    /// Moves the packet to the edge of a rule.
    fn aim(&mut self, random: &mut Random, rule: &Rule) {
        match rule.addresses {
            Addresses::V4 { source, destination } => {
                self.source = edge_v4(random, source).into();
                self.destination = edge_v4(random, destination).into();
            }
            Addresses::V6 { source, destination } => {
                self.source = edge_v6(random, source).into();
                self.destination = edge_v6(random, destination).into();
            }
        }
        if let Some(protocol) = rule.protocol {
            self.protocol = protocol;
        }
        if let Some(range) = rule.source_ports {
            self.ports.0 = edge_port(random, range);
        }
        if let Some(range) = rule.destination_ports {
            self.ports.1 = edge_port(random, range);
        }
    }

    /// Makes it a question to, or an answer from, a resolver.
    fn ask(&mut self, random: &mut Random, resolver: IpAddr) {
        let other = match resolver {
            IpAddr::V4(_) => IpAddr::from(v4_address(random)),
            IpAddr::V6(_) => IpAddr::from(v6_address(random)),
        };
        self.protocol = *random.pick(&[6, 17, 1]);
        if random.once_in(2) {
            (self.source, self.destination, self.ports.1) = (other, resolver, 53);
        } else {
            (self.source, self.destination, self.ports.0) = (resolver, other, 53);
        }
    }

    fn bytes(&self, random: &mut Random) -> Vec<u8> {
        // Addresses that the stack would stumble over don't matter: no stack sees the frame.
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if random.once_in(5) {
            for _ in 0..1 + random.below(3) {
                frame.extend(random.pick(&[[0x81, 0], [0x88, 0xa8]]));
                frame.extend((random.bits() as u16).to_be_bytes());
            }
        }
        if random.once_in(25) {
            frame.extend(random.pick(&[[0x08, 0x06], [0x88, 0xcc], [0x88, 0x47], [0x00, 0x26]]));
            frame.extend((0..46).map(|_| random.bits() as u8));
            return frame;
        }
        let mut segment = Vec::new();
        segment.extend(self.ports.0.to_be_bytes());
        segment.extend(self.ports.1.to_be_bytes());
        segment.extend((0..random.below(40)).map(|_| random.bits() as u8));
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x08, 0x00]);
                self.ipv4(random, source, destination, &segment, &mut frame);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x86, 0xdd]);
                self.ipv6(random, source, destination, &segment, &mut frame);
            }
            _ => unreachable!("both addresses are drawn from one family"),
        }
        frame
    }

    /// RFC 791 §3.1, with options now and then.
    fn ipv4(&self, random: &mut Random, source: Ipv4Addr, destination: Ipv4Addr, segment: &[u8], out: &mut Vec<u8>) {
        let options = if random.once_in(6) { random.below(11) } else { 0 };
        let total = (20 + 4 * options + segment.len()) as u16;
        out.extend([0x45 + options as u8, 0]);
        out.extend(total.to_be_bytes());
        out.extend([0, 0]);
        let fragment: u16 = match random.below(10) {
            0 => 0x2000,
            1 => 1 + random.below(0x1fff) as u16,
            2 => 0x2000 | 1,
            _ => 0x4000,
        };
        out.extend(fragment.to_be_bytes());
        out.extend([64, self.protocol, 0, 0]);
        out.extend(source.octets());
        out.extend(destination.octets());
        out.extend((0..4 * options).map(|_| random.bits() as u8));
        out.extend(segment);
    }

    /// RFC 8200 §3 and §4, with up to ten extension headers now and then.
    fn ipv6(&self, random: &mut Random, source: Ipv6Addr, destination: Ipv6Addr, segment: &[u8], out: &mut Vec<u8>) {
        let mut payload = segment.to_vec();
        let mut next = self.protocol;
        if random.once_in(3) {
            for _ in 0..1 + random.below(10) {
                let kind = *random.pick(&[0, 43, 60, 51, 44]);
                let units = random.below(3);
                let mut header = vec![next, units as u8];
                match kind {
                    44 => {
                        let fragment: u16 = *random.pick(&[0, 0, 0, 1, 8, 9, 0xfff8, 6]);
                        header.extend(fragment.to_be_bytes());
                        header.extend([0; 4]);
                    }
                    51 => header.resize(8 + 4 * units, 0xa5),
                    _ => header.resize(8 + 8 * units, 0x5a),
                }
                header.extend(payload);
                (payload, next) = (header, kind);
            }
        }
        out.extend([0x60, 0, 0, 0]);
        out.extend((payload.len() as u16).to_be_bytes());
        out.extend([next, 64]);
        out.extend(source.octets());
        out.extend(destination.octets());
        out.extend(payload);
    }
}

/// The first or last address of a prefix, the one before or behind it, or one inside.
fn edge_v4(random: &mut Random, net: Ipv4Net) -> Ipv4Addr {
    let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
    Ipv4Addr::from_bits(match random.below(8) {
        0 | 1 => first,
        2 | 3 => last,
        4 => first.wrapping_sub(1),
        5 => last.wrapping_add(1),
        _ => first | (random.bits() as u32 & !net.netmask().to_bits()),
    })
}

fn edge_v6(random: &mut Random, net: Ipv6Net) -> Ipv6Addr {
    let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
    let noise = u128::from(random.bits()) << 64 | u128::from(random.bits());
    Ipv6Addr::from_bits(match random.below(8) {
        0 | 1 => first,
        2 | 3 => last,
        4 => first.wrapping_sub(1),
        5 => last.wrapping_add(1),
        _ => first | (noise & !net.netmask().to_bits()),
    })
}

fn edge_port(random: &mut Random, range: PortRange) -> u16 {
    match random.below(6) {
        0 | 1 => range.first(),
        2 | 3 => range.last(),
        4 => range.first().wrapping_sub(1),
        _ => range.last().wrapping_add(1),
    }
}
