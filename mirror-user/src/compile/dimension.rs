//! One dimension: intervals of a field's values, and the rows of rules that they satisfy.

use std::collections::HashMap;

use mirror_common::table::{self, WORD_BITS};

use super::offset;

/// What the field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    /// IPv4 address.
    V4,
    /// IPv6 address.
    V6,
    /// TCP or UDP port. Class 0 is that of packets without ports.
    Port,
    /// IP protocol: a class for each value.
    Protocol,
}

/// A dimension before it has a place in a table.
pub(super) struct Dimension {
    width: Width,
    words: usize,
    starts: Vec<u128>,
    classes: Vec<u16>,
    /// The rows, one behind the other.
    rows: Vec<u64>,
}

impl Dimension {
    /// Builds the dimension from `(rule, first, last)`: the values that each rule takes. `no_value` are the rules that a
    /// packet without the field satisfies.
    pub(super) fn build(width: Width, words: usize, no_value: &[usize], ranges: &[(usize, u128, u128)]) -> Self {
        let mut dimension = Self { width, words, starts: Vec::new(), classes: Vec::new(), rows: Vec::new() };
        if ranges.is_empty() && matches!(width, Width::V4 | Width::V6) {
            // No rule of this family: no class, and no packet of it matches anything.
            return dimension;
        }
        let mut sweep = Sweep { row: vec![0; words], fingerprint: 0, known: HashMap::new() };
        if width == Width::Port {
            no_value.iter().for_each(|rule| sweep.toggle(*rule));
            let without_ports = sweep.class(&mut dimension.rows);
            debug_assert_eq!(without_ports, 0, "the first row is that of packets without ports");
            no_value.iter().for_each(|rule| sweep.toggle(*rule));
        }

        // Where a rule begins to match, and where it no longer does.
        let mut edges: Vec<(u128, usize)> = Vec::with_capacity(2 * ranges.len() + 1);
        for &(rule, first, last) in ranges {
            edges.push((first, rule));
            edges.extend(last.checked_add(1).map(|behind| (behind, rule)));
        }
        edges.sort_unstable();
        let mut edges = edges.into_iter().peekable();
        let mut start = 0;
        loop {
            while let Some((_, rule)) = edges.next_if(|(edge, _)| *edge == start) {
                sweep.toggle(rule);
            }
            dimension.starts.push(start);
            dimension.classes.push(sweep.class(&mut dimension.rows));
            match edges.peek() {
                Some((edge, _)) if *edge <= width.largest() => start = *edge,
                _ => break,
            }
        }
        dimension
    }

    /// Puts the dimension at the end of `table`.
    pub(super) fn place(mut self, table: &mut Vec<u64>) -> table::Dimension {
        let stride = self.words.div_ceil(WORD_BITS as usize) + self.words;
        let class_count = match stride {
            // Without rules there are no rows either.
            0 => 0,
            stride => self.rows.len() / stride,
        };
        let mut placed = table::Dimension { class_count: class_count as u32, ..Default::default() };
        if self.width == Width::Protocol {
            // Every value is an interval of its own: a class for each, and nothing to search.
            let class_of = |value: u128| self.classes[self.starts.partition_point(|start| *start <= value) - 1];
            self.classes = (0..=Width::Protocol.largest()).map(class_of).collect();
        } else if class_count != 0 {
            let intervals = self.starts.len().next_power_of_two();
            let last = self.starts.len() - 1;
            self.starts.resize(intervals, self.starts[last]);
            self.classes.resize(intervals, self.classes[last]);
            placed.search_steps = intervals.ilog2();
            placed.starts = offset(table);
            match self.width {
                Width::V6 => {
                    table.extend(self.starts.iter().flat_map(|start| [(start >> 64) as u64, *start as u64]));
                }
                _ => pack(table, &self.starts.iter().map(|start| *start as u32).collect::<Vec<_>>(), u32::to_ne_bytes),
            }
        }
        placed.classes = offset(table);
        pack(table, &self.classes, u16::to_ne_bytes);
        placed.rows = offset(table);
        table.append(&mut self.rows);
        placed
    }
}

impl Width {
    /// The largest value of the field.
    const fn largest(self) -> u128 {
        match self {
            Self::V4 => u32::MAX as u128,
            Self::V6 => u128::MAX,
            Self::Port => u16::MAX as u128,
            Self::Protocol => u8::MAX as u128,
        }
    }
}

/// The row of the interval that a sweep over the values has reached.
struct Sweep {
    row: Vec<u64>,
    /// Changes with each toggle; equal rows have equal ones.
    fingerprint: u64,
    /// Classes by fingerprint of their row.
    known: HashMap<u64, Vec<u16>>,
}

impl Sweep {
    fn toggle(&mut self, rule: usize) {
        self.row[rule / WORD_BITS as usize] ^= 1 << (rule % WORD_BITS as usize);
        self.fingerprint ^= scramble(rule as u64 + 1);
    }

    /// The class of the row; a new one is added to `rows`.
    fn class(&mut self, rows: &mut Vec<u64>) -> u16 {
        let summary_words = self.row.len().div_ceil(WORD_BITS as usize);
        let stride = summary_words + self.row.len();
        if stride == 0 {
            return 0;
        }
        let known = self.known.entry(self.fingerprint).or_default();
        // The fingerprint is only a hint; the row itself decides.
        for class in known.iter() {
            let at = usize::from(*class) * stride + summary_words;
            if rows[at..at + self.row.len()] == self.row {
                return *class;
            }
        }
        // At most two edges for each rule: fewer than 2^16 classes.
        let class = (rows.len() / stride) as u16;
        for words in self.row.chunks(WORD_BITS as usize) {
            let bit = |(index, word): (usize, &u64)| u64::from(*word != 0) << index;
            rows.push(words.iter().enumerate().map(bit).sum());
        }
        rows.extend_from_slice(&self.row);
        known.push(class);
        class
    }
}

/// The finaliser of SplitMix64: neighbours become unlike.
const fn scramble(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Appends small values side by side, as they stand in memory, filled up to whole words.
fn pack<T: Copy, const N: usize>(table: &mut Vec<u64>, values: &[T], bytes: fn(T) -> [u8; N]) {
    let bytes: Vec<u8> = values.iter().flat_map(|value| bytes(*value)).collect();
    table.extend(bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_ne_bytes(word)
    }));
}
