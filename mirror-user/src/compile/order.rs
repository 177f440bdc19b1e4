//! Positions: which field finds a rule, and where it stands among its like.

use mirror_common::table::WORD_BITS;

use super::spans::{Family, Spans};

/// The field that finds a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Finder {
    /// Its source address.
    Source,
    /// Its destination address.
    Destination,
    /// Its destination port.
    Port,
    /// None: it is in chains.
    Chain,
}

/// A rule that takes more than one in so many intervals of a field is not found by that field.
const SHARE: u32 = 4;
/// A field that has more rules than this in one interval gives way to another.
const CROWD: u32 = 256;

/// Where each rule stands.
pub(super) struct Order {
    /// By place: the position, but for rules in chains.
    pub(super) position: Vec<u32>,
    /// By place: what finds it.
    pub(super) finder: Vec<Finder>,
    /// Words that the positions fill.
    pub(super) words: u32,
}

impl Order {
    /// Chooses positions for rules of `spans`; there are `counts` intervals in each dimension.
    /// Those that are `in_chains` get none.
    pub(super) fn of(spans: &[Spans], counts: [[u32; 2]; 2], ports: u32, in_chains: &[bool]) -> Self {
        let end = |spans: &Spans, finder: Finder| match finder {
            Finder::Source => (spans.source, counts[spans.family as usize][0]),
            Finder::Destination => (spans.destination, counts[spans.family as usize][1]),
            Finder::Port | Finder::Chain => (spans.destination_port, ports),
        };
        let narrow = |spans: &Spans, finder| {
            let ((first, last), count) = end(spans, finder);
            last - first < count.div_ceil(SHARE)
        };
        // How many rules would be found in each interval.
        let crowds = |family: Option<Family>, finder: Finder| {
            let count = match family {
                Some(family) => counts[family as usize][finder as usize],
                None => ports,
            };
            let mut change = vec![0i32; count as usize + 1];
            for spans in spans.iter().filter(|spans| family.is_none_or(|family| family == spans.family)) {
                if narrow(spans, finder) {
                    let ((first, last), _) = end(spans, finder);
                    change[first as usize] += 1;
                    change[last as usize + 1] -= 1;
                }
            }
            change
                .iter()
                .scan(0i32, |crowd, change| {
                    *crowd += change;
                    Some(*crowd as u32)
                })
                .collect::<Vec<_>>()
        };
        let addresses =
            Family::ALL.map(|family| [Finder::Source, Finder::Destination].map(|finder| crowds(Some(family), finder)));
        let by_port = crowds(None, Finder::Port);
        let finder: Vec<_> = spans
            .iter()
            .zip(in_chains)
            .map(|(spans, in_chains)| {
                if *in_chains {
                    return Finder::Chain;
                }
                let crowd = |finder: Finder| {
                    let ((first, _), _) = end(spans, finder);
                    match finder {
                        _ if !narrow(spans, finder) => u32::MAX,
                        Finder::Port | Finder::Chain => by_port[first as usize],
                        _ => addresses[spans.family as usize][finder as usize][first as usize],
                    }
                };
                let (source, destination) = (crowd(Finder::Source), crowd(Finder::Destination));
                let best = if source < destination { Finder::Source } else { Finder::Destination };
                let least = source.min(destination);
                if least > CROWD && (least == u32::MAX || crowd(Finder::Port) < least) { Finder::Port } else { best }
            })
            .collect();

        // Rules whose intervals nest or follow each other share words; those found by port stay in their order, the
        // first that matches is the best.
        let mut places: Vec<usize> = (0..spans.len()).filter(|place| finder[*place] != Finder::Chain).collect();
        places.sort_unstable_by_key(|place| {
            let ((first, last), _) = end(&spans[*place], finder[*place]);
            match finder[*place] {
                Finder::Port => (finder[*place], Family::V4, 0, 0, *place),
                _ => (finder[*place], spans[*place].family, first, u32::MAX - last, *place),
            }
        });
        let mut position = vec![0; spans.len()];
        let mut next = 0u32;
        let mut group = None;
        for place in places {
            let this = (finder[place], if finder[place] == Finder::Port { Family::V4 } else { spans[place].family });
            if group.replace(this).is_some_and(|group| group != this) {
                next = next.next_multiple_of(WORD_BITS);
            }
            position[place] = next;
            next += 1;
        }
        Self { position, finder, words: next.div_ceil(WORD_BITS) }
    }
}
