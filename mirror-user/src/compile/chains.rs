//! Rules that name no addresses, decided beforehand for every protocol and pair of ports.

use std::collections::{BTreeSet, HashMap};

use mirror_common::table::{CHAIN_END, WORD_BITS};

/// Chains of a family, at most (256 KiB): beyond, such rules are found as others are.
const CHAINS_MAX: u32 = 1 << 17;

/// A rule that names no addresses of its family.
pub(super) struct Wild {
    pub(super) place: u16,
    pub(super) protocol: Option<u8>,
    pub(super) source_port: (u32, u32),
    pub(super) destination_port: (u32, u32),
    /// The place behind its session.
    pub(super) behind_session: u16,
}

/// The chains of a policy.
pub(super) struct Chains {
    /// The class of each protocol.
    pub(super) classes: Vec<u16>,
    /// For each family, by class and intervals of ports: where its chain begins.
    pub(super) begins: [Vec<u16>; 2],
    /// All chains.
    pub(super) places: Vec<u16>,
}

impl Chains {
    /// Of the rules of each family, in order of place, and the intervals of ports; `None` where they would be too many.
    pub(super) fn of(rules: [&[Wild]; 2], ports: [u32; 2]) -> Option<Self> {
        let named: BTreeSet<u8> =
            rules.iter().flat_map(|rules| rules.iter()).filter_map(|rule| rule.protocol).collect();
        let count = (named.len() as u32 + 1).checked_mul(ports[0])?.checked_mul(ports[1])?;
        if count > CHAINS_MAX {
            return None;
        }
        let mut classes = vec![0; 256];
        for (class, protocol) in named.iter().enumerate() {
            classes[usize::from(*protocol)] = class as u16 + 1;
        }
        let mut chains = Self { classes, begins: Default::default(), places: vec![CHAIN_END] };
        let mut known = HashMap::from([(Vec::new(), 0)]);
        let protocols: Vec<_> = std::iter::once(None).chain(named.into_iter().map(Some)).collect();
        for (family, rules) in rules.into_iter().enumerate().filter(|(_, rules)| !rules.is_empty()) {
            let mut begins = Vec::with_capacity(count as usize);
            let by_source = columns(rules, ports[0], |rule| rule.source_port);
            let by_destination = columns(rules, ports[1], |rule| rule.destination_port);
            for protocol in &protocols {
                let mut of_protocol = vec![0u64; rules.len().div_ceil(WORD_BITS as usize)];
                for (index, rule) in rules.iter().enumerate() {
                    if rule.protocol.is_none() || rule.protocol == *protocol {
                        set(&mut of_protocol, index);
                    }
                }
                for source in &by_source {
                    let both: Vec<_> = of_protocol.iter().zip(source).map(|(a, b)| a & b).collect();
                    for destination in &by_destination {
                        let chain = chain(rules, &both, destination);
                        let next = chains.places.len();
                        let begin = *known.entry(chain).or_insert_with_key(|chain| {
                            chains.places.extend(chain);
                            chains.places.push(CHAIN_END);
                            next
                        });
                        begins.push(u16::try_from(begin).ok()?);
                    }
                }
            }
            chains.begins[family] = begins;
        }
        Some(chains)
    }
}

/// The first rule of each session in both `a` and `b`. Behind one that accepts too: another rule of its session may
/// reject ahead of it.
fn chain(rules: &[Wild], a: &[u64], b: &[u64]) -> Vec<u16> {
    let mut chain = Vec::new();
    let mut index = 0;
    loop {
        let mut word = index / WORD_BITS as usize;
        let mut rest = !0 << (index % WORD_BITS as usize);
        let bits = loop {
            let (Some(a), Some(b)) = (a.get(word), b.get(word)) else {
                return chain;
            };
            match a & b & rest {
                0 => word += 1,
                bits => break bits,
            }
            rest = !0;
        };
        let rule = &rules[word * WORD_BITS as usize + bits.trailing_zeros() as usize];
        chain.push(rule.place);
        index = rules.partition_point(|other| other.place < rule.behind_session);
    }
}

/// For each interval, the rules that take it.
fn columns(rules: &[Wild], count: u32, span: impl Fn(&Wild) -> (u32, u32)) -> Vec<Vec<u64>> {
    let mut columns = vec![vec![0; rules.len().div_ceil(WORD_BITS as usize)]; count as usize];
    for (index, rule) in rules.iter().enumerate() {
        let (first, last) = span(rule);
        for column in &mut columns[first as usize..=last as usize] {
            set(column, index);
        }
    }
    columns
}

fn set(bits: &mut [u64], index: usize) {
    bits[index / WORD_BITS as usize] |= 1 << (index % WORD_BITS as usize);
}
