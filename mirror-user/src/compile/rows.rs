//! Rows of bits and guides, of rules that each take a span of intervals.

use std::collections::BTreeMap;

use mirror_common::table::{Guide, Interval, WORD_BITS};

/// Rows of a dimension, at most: where there are more intervals, neighbours share a row. Rows of 10,000 rules that fit
/// into a CPU's own cache are worth more than exact ones: of these, hardly any candidate is left over in vain.
const ROWS_MAX: u32 = 32;
/// Intervals of a dimension that have guides of their own where guides are shared.
const SHARED_MAX: u32 = 256;
/// Guides of a dimension, at most (4 MiB): where there would be more, neighbours share them.
const GUIDES_MAX: usize = 1 << 18;

/// A rule's position, and the first and last interval that it takes.
pub(super) type Span = (u32, (u32, u32));

/// All rows of a table, one behind the other.
pub(super) struct Rows {
    words: u32,
    pub(super) bits: Vec<u64>,
}

impl Rows {
    /// None yet, of `words` words each.
    pub(super) const fn new(words: u32) -> Self {
        Self { words, bits: Vec::new() }
    }

    /// Adds a row: its number.
    pub(super) fn add(&mut self, row: &[u64]) -> u16 {
        let number = self.count();
        self.bits.extend_from_slice(row);
        number as u16
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        (self.bits.len() as u32).checked_div(self.words).unwrap_or(0)
    }

    /// Adds the rows of a dimension of `count` intervals: the number of each interval's row, counted from the first.
    pub(super) fn add_dimension(&mut self, count: u32, spans: &[Span]) -> Vec<u16> {
        let before = self.count() as u16;
        let buckets = Buckets::of(count, ROWS_MAX);
        let mut row = vec![0u64; self.words as usize];
        let mut numbers = Vec::with_capacity(buckets.buckets as usize);
        buckets.sweep(spans, |changes| {
            if !changes.is_empty() || numbers.is_empty() {
                for change in changes {
                    row[(change.position / WORD_BITS) as usize] ^= 1 << (change.position % WORD_BITS);
                }
                numbers.push(self.add(&row) - before);
            } else {
                numbers.extend(numbers.last().copied());
            }
        });
        (0..count).map(|interval| numbers[buckets.bucket(interval) as usize]).collect()
    }

    /// Adds the rows of the protocols of rules, by position: the number of each value's row.
    pub(super) fn add_protocol(&mut self, rules: &[(Option<u8>, u32)]) -> Vec<u16> {
        let mut any = vec![0u64; self.words as usize];
        let mut named: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
        for (protocol, position) in rules {
            match protocol {
                Some(protocol) => named.entry(*protocol).or_default().push(*position),
                None => any[(position / WORD_BITS) as usize] |= 1 << (position % WORD_BITS),
            }
        }
        let mut numbers = vec![self.add(&any); 256];
        for (protocol, positions) in named {
            let mut row = any.clone();
            for position in positions {
                row[(position / WORD_BITS) as usize] |= 1 << (position % WORD_BITS);
            }
            numbers[usize::from(protocol)] = self.add(&row);
        }
        numbers
    }
}

/// Adds the guides of a dimension of `count` intervals: where those of each interval are. `places` are the places of
/// positions.
pub(super) fn add_guides(guides: &mut Vec<Guide>, count: u32, spans: &[Span], places: &[u16]) -> Vec<Interval> {
    let before = guides.len();
    let fine = Buckets::of(count, count);
    fine.guides(guides, count, spans, places).unwrap_or_else(|| {
        guides.truncate(before);
        let coarse = Buckets { limit: usize::MAX, ..Buckets::of(count, SHARED_MAX) };
        coarse.guides(guides, count, spans, places).expect("there is no limit")
    })
}

/// A rule begins to take part, or no longer does.
struct Change {
    bucket: u32,
    position: u32,
}

/// Neighbouring intervals.
struct Buckets {
    intervals: u32,
    buckets: u32,
    limit: usize,
}

impl Buckets {
    fn of(intervals: u32, most: u32) -> Self {
        Self { intervals, buckets: intervals.min(most), limit: GUIDES_MAX }
    }

    fn bucket(&self, interval: u32) -> u32 {
        (u64::from(interval) * u64::from(self.buckets) / u64::from(self.intervals)) as u32
    }

    /// Calls `visit` for each bucket, with what changes there.
    fn sweep(&self, spans: &[Span], mut visit: impl FnMut(&[Change])) {
        let mut changes = Vec::with_capacity(2 * spans.len());
        for &(position, (first, last)) in spans {
            changes.push(Change { bucket: self.bucket(first), position });
            changes.push(Change { bucket: self.bucket(last) + 1, position });
        }
        changes.sort_unstable_by_key(|change| change.bucket);
        let mut rest = &changes[..];
        for bucket in 0..self.buckets {
            let (these, others) = rest.split_at(rest.partition_point(|change| change.bucket <= bucket));
            visit(these);
            rest = others;
        }
    }

    fn guides(&self, guides: &mut Vec<Guide>, count: u32, spans: &[Span], places: &[u16]) -> Option<Vec<Interval>> {
        let begin = guides.len();
        let mut active: BTreeMap<u32, u64> = BTreeMap::new();
        let mut cells: Vec<Interval> = Vec::with_capacity(self.buckets as usize);
        self.sweep(spans, |changes| {
            if changes.is_empty() {
                cells.push(cells.last().copied().unwrap_or_default());
                return;
            }
            for change in changes {
                let word = active.entry(change.position / WORD_BITS).or_default();
                *word ^= 1 << (change.position % WORD_BITS);
                if *word == 0 {
                    active.remove(&(change.position / WORD_BITS));
                }
            }
            let mut here = active.iter().map(|(word, bits)| Guide {
                bits: *bits,
                word: *word,
                least: positions(*word, *bits).map(|position| u32::from(places[position])).min().unwrap_or(0),
            });
            let first = here.next().unwrap_or_default();
            let more = guides.len() as u32;
            if guides.len() - begin <= self.limit {
                guides.extend(here);
            }
            cells.push(Interval {
                bits: first.bits,
                word_and_row: first.word as u16,
                least: first.least as u16,
                more: more << Interval::WORD_BITS | active.len().saturating_sub(1) as u32,
            });
        });
        if guides.len() - begin > self.limit {
            return None;
        }
        Some((0..count).map(|interval| cells[self.bucket(interval) as usize]).collect())
    }
}

/// The positions of a word.
fn positions(word: u32, bits: u64) -> impl Iterator<Item = usize> {
    let mut rest = bits;
    std::iter::from_fn(move || {
        let bit = (rest != 0).then(|| rest.trailing_zeros())?;
        rest &= rest - 1;
        Some((word * WORD_BITS + bit) as usize)
    })
}
