//! One dimension: the intervals of a field's values.

use mirror_common::table::{self, Interval};

use super::table::{Table, halves};

/// What the field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    /// IPv4 address.
    V4,
    /// IPv6 address.
    V6,
    /// TCP or UDP port.
    Port,
}

/// Upper bits that the first step of a search looks at, at most: 8 KiB of numbers.
const FIRST_BITS_MAX: u32 = 12;

impl Width {
    /// The largest value of the field.
    const fn largest(self) -> u128 {
        match self {
            Self::V4 => u32::MAX as u128,
            Self::V6 => u128::MAX,
            Self::Port => u16::MAX as u128,
        }
    }

    /// Bits of what the first step of a search looks at, and how many of them at least: no shift is as wide as a word.
    const fn first_bits(self) -> (u32, u32) {
        match self {
            Self::V4 => (32, 0),
            Self::V6 => (64, 1),
            Self::Port => (16, 0),
        }
    }

    /// What the first step of a search looks at.
    const fn head(self, value: u128) -> u64 {
        match self {
            Self::V6 => (value >> 64) as u64,
            Self::V4 | Self::Port => value as u64,
        }
    }

    /// The lowest value with that.
    const fn with_head(self, head: u64) -> u128 {
        match self {
            Self::V6 => (head as u128) << 64,
            Self::V4 | Self::Port => head as u128,
        }
    }

    /// 1 where number 0 is that of packets without the field.
    const fn absent(self) -> u32 {
        match self {
            Self::Port => 1,
            Self::V4 | Self::V6 => 0,
        }
    }
}

/// The intervals of a field.
pub(super) struct Dimension {
    width: Width,
    starts: Vec<u128>,
}

impl Dimension {
    /// The intervals in which no rule begins or ends to match, of the first and last values that rules take.
    pub(super) fn of(width: Width, ranges: impl Iterator<Item = (u128, u128)>) -> Self {
        let mut starts = vec![0];
        for (first, last) in ranges {
            starts.push(first);
            starts.extend(last.checked_add(1).filter(|behind| *behind <= width.largest()));
        }
        starts.sort_unstable();
        starts.dedup();
        Self { width, starts }
    }

    /// How many numbers of intervals there are.
    pub(super) fn count(&self) -> u32 {
        self.starts.len() as u32 + self.width.absent()
    }

    /// The numbers of the first and the last interval of a range that [`Self::of`] was given.
    pub(super) fn numbers(&self, (first, last): (u128, u128)) -> (u32, u32) {
        let number =
            |value: u128| (self.starts.partition_point(|start| *start <= value) - 1) as u32 + self.width.absent();
        (number(first), number(last))
    }

    /// Puts the dimension into `table`; `details` has one for each number.
    pub(super) fn place(self, details: &[Interval], rows: u32, table: &mut Table) -> table::Dimension {
        let intervals = self.starts.len();
        let (bits, least) = self.width.first_bits();
        let wanted = intervals.next_power_of_two().ilog2().clamp(least, FIRST_BITS_MAX.min(bits));
        let shift = bits - wanted;
        // By upper bits: the interval of the lowest value that has them.
        let mut first = Vec::with_capacity(1 << wanted);
        let mut most = 1;
        for head in 0..1u64 << wanted {
            let lowest = self.width.with_head(head << shift);
            let from = self.starts.partition_point(|start| *start <= lowest) - 1;
            let behind = self.starts.partition_point(|start| self.width.head(*start) >> shift <= head);
            most = most.max(behind - from);
            first.push(from as u16);
        }
        let search_steps = most.next_power_of_two().ilog2();
        let padding = 1 << search_steps;
        // Nothing is above these but the largest address, which is in the last interval anyway.
        let starts = self.starts.iter().copied().chain(std::iter::repeat_n(u128::MAX, padding));
        let last = details[details.len() - 1];
        table::Dimension {
            first: table.put_u16(&first),
            shift,
            starts: match self.width {
                Width::V6 => table.put(starts.flat_map(|start| [(start >> 64) as u64, start as u64])),
                Width::V4 | Width::Port => table.put_u32(&starts.map(|start| start as u32).collect::<Vec<_>>()),
            },
            search_steps,
            intervals: intervals as u32,
            details: table.put(details.iter().copied().chain(std::iter::repeat_n(last, padding)).flat_map(|detail| {
                [detail.bits, halves(u32::from(detail.word_and_row) | u32::from(detail.least) << 16, detail.more)]
            })),
            rows,
        }
    }
}
