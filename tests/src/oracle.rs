//! The reference for verdicts: the rules of evaluation, written down as plainly as they can be read, from the bytes of
//! a frame. Shares no code with the compiler of policies or with the kernel programs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mirror_user::definitions::rule::{Action, Addresses, Rule, RuleNumber};

/// A session as the oracle sees it; sessions are given in ascending session number.
#[derive(Clone, Debug)]
pub struct Session {
    /// Rules for the direction in question, in any order.
    pub rules: Vec<Rule>,
    /// Resolvers whose DNS traffic is accepted ahead of the rules.
    pub dns: Vec<IpAddr>,
    /// Accepts frames that are not IP.
    pub mirror_non_ip: bool,
}

/// Who mirrors a frame, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The session at this place, because of this rule.
    Rule(usize, RuleNumber),
    /// The session at this place, because it is DNS traffic.
    Service(usize),
    /// The session at this place, because the frame is not IP.
    NonIp(usize),
    /// Nobody; the session at this place was the last that rejected it, by this rule.
    Rejected(usize, RuleNumber),
    /// Nobody, and no rule matches.
    None,
}

/// What rules look at in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: u8,
    /// Source and destination port, where there are any.
    pub ports: Option<(u16, u16)>,
}

/// Judges a frame.
pub fn judge(sessions: &[Session], frame: &[u8]) -> Verdict {
    let Some(packet) = dissect(frame) else {
        return sessions.iter().position(|session| session.mirror_non_ip).map_or(Verdict::None, Verdict::NonIp);
    };
    let mut verdict = Verdict::None;
    for (place, session) in sessions.iter().enumerate() {
        if session.dns.iter().any(|resolver| is_dns(&packet, *resolver)) {
            return Verdict::Service(place);
        }
        let first = session.rules.iter().filter(|rule| matches(rule, &packet)).min_by_key(|rule| rule.number.get());
        match first {
            Some(rule) if rule.action == Action::Accept => return Verdict::Rule(place, rule.number),
            Some(rule) => verdict = Verdict::Rejected(place, rule.number),
            None => {}
        }
    }
    verdict
}

fn is_dns(packet: &Packet, resolver: IpAddr) -> bool {
    let Some((source, destination)) = packet.ports else {
        return false;
    };
    let asked = packet.destination == resolver && destination == 53;
    let answered = packet.source == resolver && source == 53;
    (packet.protocol == 6 || packet.protocol == 17) && (asked || answered)
}

fn matches(rule: &Rule, packet: &Packet) -> bool {
    let addresses = match (rule.addresses, packet.source, packet.destination) {
        (Addresses::V4 { source, destination }, IpAddr::V4(from), IpAddr::V4(to)) => {
            source.contains(&from) && destination.contains(&to)
        }
        (Addresses::V6 { source, destination }, IpAddr::V6(from), IpAddr::V6(to)) => {
            source.contains(&from) && destination.contains(&to)
        }
        _ => false,
    };
    let ports = |range: Option<mirror_user::definitions::rule::PortRange>, port: Option<u16>| match (range, port) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(range), Some(port)) => (range.first()..=range.last()).contains(&port),
    };
    addresses
        && rule.protocol.is_none_or(|protocol| protocol == packet.protocol)
        && ports(rule.source_ports, packet.ports.map(|ports| ports.0))
        && ports(rule.destination_ports, packet.ports.map(|ports| ports.1))
}

/// Reads a frame; `None` when it has no IP header that can be read behind at most two VLAN tags.
pub fn dissect(frame: &[u8]) -> Option<Packet> {
    let mut rest = frame.get(12..)?;
    for _ in 0..2 {
        if let [0x81, 0x00, _, _, ..] | [0x88, 0xa8, _, _, ..] = rest {
            rest = &rest[4..];
        }
    }
    match rest {
        [0x08, 0x00, packet @ ..] => ipv4(packet),
        [0x86, 0xdd, packet @ ..] => ipv6(packet),
        _ => None,
    }
}

fn ipv4(packet: &[u8]) -> Option<Packet> {
    let header: &[u8; 20] = packet.first_chunk()?;
    let header_length = usize::from(header[0] % 16) * 4;
    if header[0] / 16 != 4 || header_length < 20 {
        return None;
    }
    let fragment_offset = u16::from_be_bytes([header[6], header[7]]) % 0x2000;
    let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    let payload = if fragment_offset == 0 { packet.get(header_length..) } else { None };
    Some(Packet {
        source: address(12).into(),
        destination: address(16).into(),
        protocol: header[9],
        ports: payload.and_then(|payload| ports(header[9], payload)),
    })
}

fn ipv6(packet: &[u8]) -> Option<Packet> {
    let header: &[u8; 40] = packet.first_chunk()?;
    if header[0] / 16 != 6 {
        return None;
    }
    let address = |at: usize| {
        let octets: [u8; 16] = header[at..at + 16].try_into().expect("sixteen bytes of a header of forty");
        IpAddr::from(Ipv6Addr::from(octets))
    };
    let (protocol, payload) = walk(header[6], &packet[40..]);
    Some(Packet {
        source: address(8),
        destination: address(24),
        protocol,
        ports: payload.and_then(|payload| ports(protocol, payload)),
    })
}

/// Steps over at most eight extension headers: the protocol reached, and what follows it, unless the packet ends
/// before, is a later fragment, or has more of them.
fn walk(mut protocol: u8, mut rest: &[u8]) -> (u8, Option<&[u8]>) {
    for _ in 0..8 {
        let length = match (protocol, rest) {
            (44, [next, _, high, low, ..]) => {
                protocol = *next;
                if u16::from_be_bytes([*high, *low]) / 8 != 0 {
                    return (protocol, None);
                }
                8
            }
            (0 | 43 | 60, [next, units, ..]) => {
                protocol = *next;
                8 + 8 * usize::from(*units)
            }
            (51, [next, units, ..]) => {
                protocol = *next;
                8 + 4 * usize::from(*units)
            }
            (0 | 43 | 44 | 51 | 60, _) => return (protocol, None),
            _ => return (protocol, Some(rest)),
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    (protocol, Some(rest))
}

fn ports(protocol: u8, payload: &[u8]) -> Option<(u16, u16)> {
    match (protocol, payload) {
        (6 | 17, [a, b, c, d, ..]) => Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 791 §3.1: version 4, five words, 28 bytes in all, TTL 64, UDP, 192.0.2.1 to 198.51.100.2.
    const IPV4: [u8; 20] = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 198, 51, 100, 2];
    const UDP: [u8; 8] = [0x04, 0xd2, 0x00, 0x35, 0, 8, 0, 0];

    fn frame(parts: &[&[u8]]) -> Vec<u8> {
        [&[0u8; 12][..]].iter().chain(parts).flat_map(|part| part.iter().copied()).collect()
    }

    #[test]
    fn a_datagram_is_read_behind_up_to_two_tags() {
        let tag: &[u8] = &[0x81, 0, 0, 5];
        let service: &[u8] = &[0x88, 0xa8, 0, 7];
        let ethertype: &[u8] = &[8, 0];
        let packet = dissect(&frame(&[ethertype, &IPV4, &UDP])).expect("a datagram");
        assert_eq!((packet.protocol, packet.ports), (17, Some((1234, 53))));
        assert_eq!(dissect(&frame(&[tag, ethertype, &IPV4, &UDP])), Some(packet));
        assert_eq!(dissect(&frame(&[service, tag, ethertype, &IPV4, &UDP])), Some(packet));
        assert_eq!(dissect(&frame(&[service, tag, tag, ethertype, &IPV4, &UDP])), None);
    }

    #[test]
    fn the_last_session_to_reject_is_told_unless_another_accepts() {
        let any = "0.0.0.0/0".parse().expect("a network");
        let rule = |number: u64, action, protocol| Rule {
            number: RuleNumber::try_from(number).expect("a rule number"),
            direction: mirror_common::policy::Direction::Ingress,
            action,
            protocol,
            addresses: Addresses::V4 { source: any, destination: any },
            source_ports: None,
            destination_ports: None,
            description: None,
        };
        let session = |rules: &[Rule]| Session { rules: rules.to_vec(), dns: vec![], mirror_non_ip: true };
        let (reject, other) = (rule(7, Action::Reject, None), rule(3, Action::Reject, Some(6)));
        let frame = frame(&[&[8, 0], &IPV4, &UDP]);
        let judged = |sessions: &[Session]| judge(sessions, &frame);
        let number = reject.number;
        assert_eq!(judged(&[session(&[])]), Verdict::None);
        assert_eq!(judged(&[session(std::slice::from_ref(&other))]), Verdict::None);
        assert_eq!(judged(&[session(&[reject.clone(), other.clone()])]), Verdict::Rejected(0, number));
        let rejects = session(std::slice::from_ref(&reject));
        assert_eq!(
            judged(&[rejects.clone(), session(&[]), rejects.clone(), session(&[other])]),
            Verdict::Rejected(2, number)
        );
        let accepts = session(&[rule(9, Action::Accept, None)]);
        assert_eq!(judged(&[rejects, accepts.clone()]), Verdict::Rule(1, accepts.rules[0].number));
    }

    #[test]
    fn a_later_fragment_and_a_stump_have_no_ports() {
        let mut later = IPV4;
        later[7] = 1;
        assert_eq!(dissect(&frame(&[&[8, 0], &later, &UDP])).expect("a fragment").ports, None);
        assert_eq!(dissect(&frame(&[&[8, 0], &IPV4, &UDP[..3]])).expect("a stump").ports, None);
        assert_eq!(dissect(&frame(&[&[8, 0], &IPV4[..19]])), None);
    }
}
