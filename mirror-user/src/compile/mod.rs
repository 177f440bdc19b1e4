//! Definitions of one source and direction -> the table that the kernel reads. Pure: no I/O, same input, same table.
//! See [`mirror_common::table`] for what the table is.

mod dimension;

use std::net::IpAddr;

use ipnet::IpNet;
use mirror_common::policy::Direction;
use mirror_common::session::SessionSlot;
use mirror_common::table::{RULES_MAX, RuleEntry, SESSIONS_MAX, Shape, WORD_BITS};

use self::dimension::{Dimension, Width};
use crate::definitions::rule::{Action, Addresses, PortRange, Rule, RuleNumber};

/// A session, as far as its verdict goes. Sessions are given in ascending session number.
#[derive(Clone, Debug)]
pub struct Session<'a> {
    /// Its place in the kernel's maps.
    pub slot: SessionSlot,
    /// Its filter's rules for this direction, in ascending rule number.
    pub rules: Vec<&'a Rule>,
    /// The resolvers whose DNS traffic is accepted ahead of the rules.
    pub dns: &'a [IpAddr],
    /// Whether it takes frames that are not IP.
    pub mirror_non_ip: bool,
}

/// A compiled policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Where things are in the table.
    pub shape: Shape,
    /// The table.
    pub table: Vec<u64>,
    /// What each place in the list of rules stands for.
    pub places: Vec<Place>,
}

/// A place in the list of all rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of its session in what was compiled.
    pub session: usize,
    /// The rule; none for what a network service accepts.
    pub rule: Option<RuleNumber>,
}

/// More than the kernel's tables hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// Too many rules.
    #[error("{0} rules for one source and direction; {RULES_MAX} are the most")]
    Rules(usize),
    /// Too many sessions.
    #[error("{0} sessions for one source; {SESSIONS_MAX} are the most")]
    Sessions(usize),
}

/// What a rule matches, field by field.
struct Match {
    addresses: Addresses,
    protocol: Option<u8>,
    source_ports: Option<PortRange>,
    destination_ports: Option<PortRange>,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const DNS_PORT: u16 = 53;

/// Compiles the sessions of a source for one direction.
pub fn compile(sessions: &[Session<'_>]) -> Result<Policy, TooLarge> {
    if sessions.len() > SESSIONS_MAX as usize {
        return Err(TooLarge::Sessions(sessions.len()));
    }
    let (matches, entries, places) = list(sessions)?;
    let words = matches.len().div_ceil(WORD_BITS as usize);
    let build =
        |width, no_value: &[usize], ranges: &[(usize, u128, u128)]| Dimension::build(width, words, no_value, ranges);

    let addresses = |of: fn(&Addresses) -> Option<(u128, u128)>| -> Vec<_> {
        let range = |(place, rule): (usize, &Match)| of(&rule.addresses).map(|(first, last)| (place, first, last));
        matches.iter().enumerate().filter_map(range).collect()
    };
    let ports = |of: fn(&Match) -> Option<PortRange>| {
        let range = |(place, rule): (usize, &Match)| {
            let range = of(rule).unwrap_or(PortRange::ALL);
            (place, u128::from(range.first()), u128::from(range.last()))
        };
        let ranges: Vec<_> = matches.iter().enumerate().map(range).collect();
        // A packet without ports satisfies the rules that name none.
        let portless: Vec<_> =
            matches.iter().enumerate().filter(|(_, rule)| of(rule).is_none()).map(|(place, _)| place).collect();
        build(Width::Port, &portless, &ranges)
    };
    let protocol: Vec<_> = matches
        .iter()
        .enumerate()
        .map(|(place, rule)| match rule.protocol {
            Some(protocol) => (place, u128::from(protocol), u128::from(protocol)),
            None => (place, 0, u128::from(u8::MAX)),
        })
        .collect();

    // Room for the header.
    let mut table = vec![0];
    let shape = Shape {
        source_v4: build(Width::V4, &[], &addresses(source_v4)).place(&mut table),
        destination_v4: build(Width::V4, &[], &addresses(destination_v4)).place(&mut table),
        source_v6: build(Width::V6, &[], &addresses(source_v6)).place(&mut table),
        destination_v6: build(Width::V6, &[], &addresses(destination_v6)).place(&mut table),
        protocol: build(Width::Protocol, &[], &protocol).place(&mut table),
        source_port: ports(|rule| rule.source_ports).place(&mut table),
        destination_port: ports(|rule| rule.destination_ports).place(&mut table),
        rules: offset(&table),
        rule_count: entries.len() as u32,
        words: words as u32,
        summary_words: words.div_ceil(WORD_BITS as usize) as u32,
        // Each look ends a word of the summary, a word, or a session; one more finds that nothing is left.
        visits: (words + words.div_ceil(WORD_BITS as usize) + sessions.len() + 1) as u32,
        non_ip_session: sessions.iter().find(|session| session.mirror_non_ip).map_or(0, |session| session.slot + 1),
    };
    table[0] = words_of(shape.rules, shape.rule_count);
    table.extend(entries.iter().map(|entry| {
        let [a, b] = entry.resume.to_ne_bytes();
        let [c, d] = entry.number.to_ne_bytes();
        words_of(entry.slot, u32::from_ne_bytes([a, b, c, d]))
    }));
    // An entry is read whole, also where there is none.
    table.push(0);
    Ok(Policy { shape, table, places })
}

/// The policy of a source with one session that takes every IPv4 and IPv6 packet.
pub fn accept_all(slot: SessionSlot) -> Result<Policy, TooLarge> {
    let rule = |number: u64, addresses| Rule {
        number: RuleNumber::try_from(number).expect("a small number is a rule number"),
        direction: Direction::Ingress,
        action: Action::Accept,
        protocol: None,
        addresses,
        source_ports: None,
        destination_ports: None,
        description: None,
    };
    let rules = [
        rule(1, Addresses::V4 { source: Default::default(), destination: Default::default() }),
        rule(2, Addresses::V6 { source: Default::default(), destination: Default::default() }),
    ];
    compile(&[Session { slot, rules: rules.iter().collect(), dns: &[], mirror_non_ip: false }])
}

/// All rules in one list, in the order of evaluation.
fn list(sessions: &[Session<'_>]) -> Result<(Vec<Match>, Vec<RuleEntry>, Vec<Place>), TooLarge> {
    let mut matches = Vec::new();
    let mut entries = Vec::new();
    let mut places = Vec::new();
    for (index, session) in sessions.iter().enumerate() {
        for service in session.dns.iter().flat_map(|resolver| dns(*resolver)) {
            matches.push(service);
            entries.push(RuleEntry { slot: session.slot, resume: 0, number: 0 });
            places.push(Place { session: index, rule: None });
        }
        let end = matches.len() + session.rules.len();
        for rule in &session.rules {
            matches.push(Match {
                addresses: rule.addresses,
                protocol: rule.protocol,
                source_ports: rule.source_ports,
                destination_ports: rule.destination_ports,
            });
            let resume = match rule.action {
                Action::Accept => 0,
                // Not more than there may be rules, or this is refused below.
                Action::Reject => end as u16,
            };
            entries.push(RuleEntry { slot: session.slot, resume, number: rule.number.get() });
            places.push(Place { session: index, rule: Some(rule.number) });
        }
    }
    if matches.len() > RULES_MAX as usize {
        return Err(TooLarge::Rules(matches.len()));
    }
    Ok((matches, entries, places))
}

/// Traffic to and from port 53 of a resolver, over UDP and TCP.
fn dns(resolver: IpAddr) -> [Match; 4] {
    let port = Some(PortRange::new(DNS_PORT, DNS_PORT).expect("a port is a range"));
    let to = |protocol| Match {
        addresses: pair(None, Some(resolver)),
        protocol: Some(protocol),
        source_ports: None,
        destination_ports: port,
    };
    let from = |protocol| Match {
        addresses: pair(Some(resolver), None),
        protocol: Some(protocol),
        source_ports: port,
        destination_ports: None,
    };
    [to(UDP), from(UDP), to(TCP), from(TCP)]
}

/// One host at one end, anybody at the other.
fn pair(source: Option<IpAddr>, destination: Option<IpAddr>) -> Addresses {
    let net = |end: Option<IpAddr>| end.map(IpNet::from);
    match (net(source), net(destination)) {
        (Some(IpNet::V4(source)), _) => Addresses::V4 { source, destination: Default::default() },
        (_, Some(IpNet::V4(destination))) => Addresses::V4 { source: Default::default(), destination },
        (Some(IpNet::V6(source)), _) => Addresses::V6 { source, destination: Default::default() },
        (_, Some(IpNet::V6(destination))) => Addresses::V6 { source: Default::default(), destination },
        (None, None) => Addresses::V4 { source: Default::default(), destination: Default::default() },
    }
}

fn source_v4(addresses: &Addresses) -> Option<(u128, u128)> {
    match addresses {
        Addresses::V4 { source, .. } => Some((source.network().to_bits().into(), source.broadcast().to_bits().into())),
        Addresses::V6 { .. } => None,
    }
}

fn destination_v4(addresses: &Addresses) -> Option<(u128, u128)> {
    match addresses {
        Addresses::V4 { destination, .. } => {
            Some((destination.network().to_bits().into(), destination.broadcast().to_bits().into()))
        }
        Addresses::V6 { .. } => None,
    }
}

fn source_v6(addresses: &Addresses) -> Option<(u128, u128)> {
    match addresses {
        Addresses::V6 { source, .. } => Some((source.network().to_bits(), source.broadcast().to_bits())),
        Addresses::V4 { .. } => None,
    }
}

fn destination_v6(addresses: &Addresses) -> Option<(u128, u128)> {
    match addresses {
        Addresses::V6 { destination, .. } => Some((destination.network().to_bits(), destination.broadcast().to_bits())),
        Addresses::V4 { .. } => None,
    }
}

/// Where the next thing goes, in bytes.
fn offset(table: &[u64]) -> u32 {
    (table.len() * size_of::<u64>()) as u32
}

/// Two `u32` that stand side by side in memory.
fn words_of(first: u32, second: u32) -> u64 {
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}
