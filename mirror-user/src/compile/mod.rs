//! Definitions of one source and direction -> the table that the kernel reads. Pure: no I/O, same input, same table.
//! See [`mirror_common::table`] for what the table is.

mod chains;
mod dimension;
mod order;
mod rows;
mod spans;
mod table;

use std::net::IpAddr;

use ipnet::IpNet;
use mirror_common::policy::Direction;
use mirror_common::session::SessionSlot;
use mirror_common::table::{Interval, RULES_MAX, Record, RuleEntry, SESSIONS_MAX, Shape, WORD_BITS};

use self::chains::{Chains, Wild};
use self::dimension::{Dimension, Width};
use self::order::{Finder, Order};
use self::rows::{Rows, add_guides};
use self::spans::{Family, Spans};
use self::table::{Table, halves};
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
    let mut table = Table::new();
    let mut shape = Shape {
        non_ip_session: sessions.iter().find(|session| session.mirror_non_ip).map_or(0, |session| session.slot + 1),
        ..Default::default()
    };
    if !matches.is_empty() {
        fields(&matches, &places, &mut shape, &mut table);
    }
    // Each step ends a word of positions, a candidate or a kind of guides; and all that again behind each reject.
    shape.steps = (shape.words * (WORD_BITS + 1) + 5 + sessions.len() as u32) * (sessions.len() as u32 + 1);
    let action = |(place, entry): (&Place, &RuleEntry)| (place.session * 2) as u16 | u16::from(entry.resume != 0);
    shape.actions = table.put_u16(&places.iter().zip(&entries).map(action).collect::<Vec<_>>());
    shape.session_count = sessions.len() as u32;
    shape.sessions = table.put(sessions.iter().enumerate().map(|(index, session)| {
        let behind = places.partition_point(|place| place.session <= index);
        halves(session.slot, behind as u32)
    }));
    shape.rule_count = entries.len() as u32;
    shape.rules = table.put(entries.iter().map(|entry| {
        let [a, b] = entry.resume.to_ne_bytes();
        let [c, d] = entry.number.to_ne_bytes();
        halves(entry.slot, u32::from_ne_bytes([a, b, c, d]))
    }));
    // An entry is read whole, also where there is none.
    table.put([0]);
    Ok(Policy { shape, table: table.finish(shape.rules, shape.rule_count), places })
}

/// Everything that finds rules.
fn fields(matches: &[Match], places: &[Place], shape: &mut Shape, table: &mut Table) {
    let of_family = |family: Family| matches.iter().filter(move |rule| rule.family() == family);
    let [v4, v6] = Family::ALL.map(|family| {
        let width = match family {
            Family::V4 => Width::V4,
            Family::V6 => Width::V6,
        };
        [0, 1].map(|end| Dimension::of(width, of_family(family).map(|rule| rule.addresses()[end])))
    });
    let named = |range: Option<PortRange>| range.map(|range| (range.first().into(), range.last().into()));
    let source_port = Dimension::of(Width::Port, matches.iter().filter_map(|rule| named(rule.source_ports)));
    let destination_port = Dimension::of(Width::Port, matches.iter().filter_map(|rule| named(rule.destination_ports)));

    let port_span = |dimension: &Dimension, range: Option<PortRange>| match named(range) {
        Some(range) => dimension.numbers(range),
        // A packet without ports satisfies the rules that name none.
        None => (0, dimension.count() - 1),
    };
    let spans: Vec<_> = matches
        .iter()
        .map(|rule| {
            let family = rule.family();
            let [source, destination] = match family {
                Family::V4 => &v4,
                Family::V6 => &v6,
            };
            let [from, to] = rule.addresses();
            Spans {
                family,
                source: source.numbers(from),
                destination: destination.numbers(to),
                source_port: port_span(&source_port, rule.source_ports),
                destination_port: port_span(&destination_port, rule.destination_ports),
            }
        })
        .collect();
    let counts = [&v4, &v6].map(|ends| [ends[0].count(), ends[1].count()]);
    let wild = |family: Family| -> Vec<Wild> {
        let all = counts[family as usize].map(|count| (0, count - 1));
        let takes_all = |spans: &Spans| spans.family == family && [spans.source, spans.destination] == all;
        let rule = |place: usize| Wild {
            place: place as u16,
            protocol: matches[place].protocol,
            source_port: spans[place].source_port,
            destination_port: spans[place].destination_port,
            behind_session: places.partition_point(|other| other.session <= places[place].session) as u16,
        };
        (0..spans.len()).filter(|place| takes_all(&spans[*place])).map(rule).collect()
    };
    let wild = Family::ALL.map(wild);
    let chains = Chains::of([&wild[0], &wild[1]], [source_port.count(), destination_port.count()]);
    let mut in_chains = vec![false; spans.len()];
    if chains.is_some() {
        wild.iter().flatten().for_each(|rule| in_chains[usize::from(rule.place)] = true);
    }
    let order = Order::of(&spans, counts, destination_port.count(), &in_chains);
    let mut turns = vec![0u16; (order.words * WORD_BITS) as usize];
    for (place, position) in order.position.iter().enumerate().filter(|(place, _)| !in_chains[*place]) {
        turns[*position as usize] = place as u16;
    }

    let mut rows = Rows::new(order.words);
    let mut guides = Vec::new();
    // The details of a dimension; `finder` is that of the rules it guides to.
    let mut details = |dimension: &Dimension, family: Option<Family>, finder, span: fn(&Spans) -> (u32, u32)| {
        let here: Vec<_> = (0..spans.len())
            .filter(|place| !in_chains[*place] && (family.is_none() || family == Some(spans[*place].family)))
            .map(|place| (place, (order.position[place], span(&spans[place]))))
            .collect();
        let all: Vec<_> = here.iter().map(|(_, span)| *span).collect();
        let first_row = rows.count();
        let row_numbers = rows.add_dimension(dimension.count(), &all);
        let found: Vec<_> =
            here.iter().filter(|(place, _)| Some(order.finder[*place]) == finder).map(|(_, span)| *span).collect();
        let mut details = add_guides(&mut guides, dimension.count(), &found, &turns);
        for (detail, row) in details.iter_mut().zip(row_numbers) {
            detail.word_and_row |= row << Interval::WORD_BITS;
        }
        (details, first_row)
    };
    let source = |spans: &Spans| spans.source;
    let destination = |spans: &Spans| spans.destination;
    let v4_source = details(&v4[0], Some(Family::V4), Some(Finder::Source), source);
    let v4_destination = details(&v4[1], Some(Family::V4), Some(Finder::Destination), destination);
    let v6_source = details(&v6[0], Some(Family::V6), Some(Finder::Source), source);
    let v6_destination = details(&v6[1], Some(Family::V6), Some(Finder::Destination), destination);
    let of_source_port = details(&source_port, None, None, |spans| spans.source_port);
    let of_destination_port = details(&destination_port, None, Some(Finder::Port), |spans| spans.destination_port);

    let protocol: Vec<_> = (0..matches.len())
        .filter(|place| !in_chains[*place])
        .map(|place| (matches[place].protocol, order.position[place]))
        .collect();
    let rows_of_protocols = rows.add_protocol(&protocol);
    let classes = chains.as_ref().map_or_else(|| vec![0; 256], |chains| chains.classes.clone());
    let protocols: Vec<_> = rows_of_protocols.into_iter().zip(classes).flat_map(|(row, class)| [row, class]).collect();
    shape.protocol = table.put_u16(&protocols);
    if let Some(Chains { begins: [v4, v6], places, .. }) = chains {
        shape.chain_count = v4.len().max(v6.len()) as u32;
        let mut put = |begins: &[u16]| if begins.is_empty() { 0 } else { table.put_u16(begins) };
        shape.chain_v4 = put(&v4);
        shape.chain_v6 = put(&v6);
        shape.chain_places = places.len() as u32;
        shape.chains = table.put_u16(&places);
    }
    let mut records = vec![NOBODY; (order.words * WORD_BITS) as usize];
    for (place, spans) in spans.iter().enumerate().filter(|(place, _)| !in_chains[*place]) {
        let position = order.position[place] as usize;
        let counts = counts[spans.family as usize];
        // The kernel's number of the last interval may be higher: it doesn't look where the last one ends.
        let open = |(_, last): (u32, u32), count: u32| if last + 1 == count { u16::MAX.into() } else { last };
        records[position] = Record {
            first: lanes([spans.source.0, spans.destination.0, spans.source_port.0, spans.destination_port.0]),
            last: lanes([
                open(spans.source, counts[0]),
                open(spans.destination, counts[1]),
                open(spans.source_port, source_port.count()),
                open(spans.destination_port, destination_port.count()),
            ]),
        };
    }

    let [v4_from, v4_to] = v4;
    let [v6_from, v6_to] = v6;
    let place =
        |dimension: Dimension, (details, rows): &(Vec<Interval>, u32), family: Option<Family>, table: &mut Table| {
            if family.is_some_and(|family| of_family(family).next().is_none()) {
                // No rule of this family: no packet of it matches anything.
                return Default::default();
            }
            dimension.place(details, *rows, table)
        };
    shape.source_v4 = place(v4_from, &v4_source, Some(Family::V4), table);
    shape.destination_v4 = place(v4_to, &v4_destination, Some(Family::V4), table);
    shape.source_v6 = place(v6_from, &v6_source, Some(Family::V6), table);
    shape.destination_v6 = place(v6_to, &v6_destination, Some(Family::V6), table);
    shape.source_port = place(source_port, &of_source_port, None, table);
    shape.destination_port = place(destination_port, &of_destination_port, None, table);
    shape.words = order.words;
    shape.row_count = rows.count();
    shape.rows = table.put(rows.bits);
    shape.guide_count = guides.len() as u32;
    shape.guides = table.put(guides.iter().flat_map(|guide| [guide.bits, halves(guide.word, guide.least)]));
    shape.records = table.put(records.iter().flat_map(|record| [record.first, record.last]));
    shape.places = table.put_u16(&turns);
}

/// In a position without a rule: takes nothing.
const NOBODY: Record = Record { first: u64::MAX, last: 0 };

/// Numbers of intervals side by side; each is below 2^16, for there are at most two more of them than twice the rules.
fn lanes(numbers: [u32; 4]) -> u64 {
    numbers.into_iter().rev().fold(0, |lanes, number| lanes << 16 | u64::from(number))
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

/// All rules by place: what each matches, what it says, and what it stands for.
type List = (Vec<Match>, Vec<RuleEntry>, Vec<Place>);

/// All rules in one list, in the order of evaluation.
fn list(sessions: &[Session<'_>]) -> Result<List, TooLarge> {
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

impl Match {
    const fn family(&self) -> Family {
        match self.addresses {
            Addresses::V4 { .. } => Family::V4,
            Addresses::V6 { .. } => Family::V6,
        }
    }

    /// First and last source and destination address.
    fn addresses(&self) -> [(u128, u128); 2] {
        match self.addresses {
            Addresses::V4 { source, destination } => {
                [source, destination].map(|net| (net.network().to_bits().into(), net.broadcast().to_bits().into()))
            }
            Addresses::V6 { source, destination } => {
                [source, destination].map(|net| (net.network().to_bits(), net.broadcast().to_bits()))
            }
        }
    }
}
