//! Reads the compiled policy (see [`mirror_common::table`]). The one module with unsafe code on it: offsets come from
//! the constant [`SHAPE`], which the verifier knows, so that it proves every access against the size of this very
//! table.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use mirror_common::table::{Dimension, RuleEntry, Shape};

/// Per source and direction. User space makes the map, with a value as large as the policy.
#[btf_map]
static TABLE: Array<[u64; 1], 1> = Array::new();

/// Where the parts of the table are.
#[unsafe(no_mangle)]
pub(crate) static SHAPE: Shape = Shape {
    source_v4: NOTHING,
    destination_v4: NOTHING,
    source_v6: NOTHING,
    destination_v6: NOTHING,
    protocol: NOTHING,
    source_port: NOTHING,
    destination_port: NOTHING,
    rules: 0,
    rule_count: 0,
    words: 0,
    summary_words: 0,
    visits: 0,
    non_ip_session: 0,
};
const NOTHING: Dimension = Dimension { starts: 0, search_steps: 0, classes: 0, class_count: 0, rows: 0 };

/// Reads a constant that user space sets when it loads the program.
macro_rules! shape {
    ($($field:tt).+) => {
        // SAFETY: a static; volatile because its value is not the one the compiler sees.
        u64::from(unsafe { ::core::ptr::read_volatile(&raw const $crate::table::SHAPE.$($field).+) })
    };
}
pub(crate) use shape;

/// Where the parts of a dimension are, as the verifier knows them.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    starts: u64,
    search_steps: u64,
    classes: u64,
    class_count: u64,
    rows: u64,
}

/// The layout of a dimension of [`SHAPE`].
macro_rules! layout {
    ($dimension:ident) => {
        $crate::table::Layout::new(
            $crate::table::shape!($dimension.starts),
            $crate::table::shape!($dimension.search_steps),
            $crate::table::shape!($dimension.classes),
            $crate::table::shape!($dimension.class_count),
            $crate::table::shape!($dimension.rows),
        )
    };
}
pub(crate) use layout;

impl Layout {
    #[inline(always)]
    pub(crate) fn new(starts: u64, search_steps: u64, classes: u64, class_count: u64, rows: u64) -> Self {
        Self { starts, search_steps, classes, class_count, rows }
    }
}

/// The compiled policy.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    base: *const u8,
}

/// A row: its summary, then its words.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    base: *const u8,
}

impl Table {
    #[inline(always)]
    pub(crate) fn open() -> Option<Self> {
        Some(Self { base: TABLE.get_ptr(0)?.cast() })
    }

    /// The rule at `place`, which must be below the rule count.
    #[inline(always)]
    pub(crate) fn rule(self, place: u64) -> RuleEntry {
        let offset = shape!(rules) + place * size_of::<RuleEntry>() as u64;
        // SAFETY: user space put `rule_count` entries there; the verifier checks the bounds.
        unsafe { self.base.add(offset as usize).cast::<RuleEntry>().read() }
    }

    /// Where the row for a 32-bit value is.
    #[inline(always)]
    pub(crate) fn row_of_u32(self, layout: Layout, value: u32) -> Option<u32> {
        let mut interval = 0u64;
        let mut step = (1u64 << layout.search_steps) >> 1;
        while step != 0 {
            // SAFETY: there are 2^search_steps starts, and `interval + step` stays below that.
            let start = unsafe { self.read::<u32>(layout.starts + (interval + step) * 4) };
            interval += step * top_bit(!less(u64::from(value), u64::from(start)));
            step >>= 1;
        }
        self.row_of_interval(layout, interval)
    }

    /// Where the row for a 128-bit value is.
    #[inline(always)]
    pub(crate) fn row_of_u128(self, layout: Layout, value: [u64; 2]) -> Option<u32> {
        let [high, low] = value;
        let mut interval = 0u64;
        let mut step = (1u64 << layout.search_steps) >> 1;
        while step != 0 {
            let offset = layout.starts + (interval + step) * 16;
            // SAFETY: as in `row_of_u32`, with 16 bytes for each start.
            let start_high = unsafe { self.read::<u64>(offset) };
            // SAFETY: as above.
            let start_low = unsafe { self.read::<u64>(offset + 8) };
            let not_above = less(start_high, high) | (!less(high, start_high) & !less(low, start_low));
            interval += step * top_bit(not_above);
            step >>= 1;
        }
        self.row_of_interval(layout, interval)
    }

    /// Where the row for an 8-bit value is: no search.
    #[inline(always)]
    pub(crate) fn row_of_u8(self, layout: Layout, value: u8) -> Option<u32> {
        self.row_of_interval(layout, u64::from(value))
    }

    #[inline(always)]
    fn row_of_interval(self, layout: Layout, interval: u64) -> Option<u32> {
        // SAFETY: every interval has a class.
        let class = unsafe { self.read::<u16>(layout.classes + interval * 2) };
        self.row_of_class(layout, u64::from(class))
    }

    /// Where the row of a class is.
    #[inline(always)]
    pub(crate) fn row_of_class(self, layout: Layout, class: u64) -> Option<u32> {
        // Always so; the verifier wants to see it.
        if class >= layout.class_count {
            return None;
        }
        let stride = (shape!(summary_words) + shape!(words)) * 8;
        let offset = layout.rows + class * stride;
        Some(offset as u32)
    }

    /// The row at `offset`, which is one that the functions above gave.
    #[inline(always)]
    pub(crate) fn row(self, offset: u32) -> Option<Row> {
        let stride = (shape!(summary_words) + shape!(words)) * 8;
        let offset = u64::from(offset);
        // Always so; the verifier wants to see it.
        if offset > shape!(rules) - stride {
            return None;
        }
        // SAFETY: all rows end before the rules; the verifier checks the bounds.
        Some(Row { base: unsafe { self.base.add(offset as usize) } })
    }

    /// # Safety
    /// `offset` must be inside the table and aligned for `T`; the verifier refuses the program else.
    #[inline(always)]
    unsafe fn read<T: Copy>(self, offset: u64) -> T {
        // SAFETY: by contract.
        unsafe { self.base.add(offset as usize).cast::<T>().read() }
    }
}

impl Row {
    /// In the place of a row that is still to come.
    pub(crate) const NONE: Self = Self { base: core::ptr::null() };

    /// A word of the summary; `index` must be below `summary_words`.
    #[inline(always)]
    pub(crate) fn summary(self, index: u64) -> u64 {
        // SAFETY: by contract; the verifier checks the bounds.
        unsafe { self.base.add((index * 8) as usize).cast::<u64>().read() }
    }

    /// A word of the row; `index` must be below `words`.
    #[inline(always)]
    pub(crate) fn word(self, index: u64) -> u64 {
        let offset = (shape!(summary_words) + index) * 8;
        // SAFETY: by contract; the verifier checks the bounds.
        unsafe { self.base.add(offset as usize).cast::<u64>().read() }
    }
}

/// The top bit is set if `a < b`, and there is no jump: the verifier would follow both ways of each, 2^15 ways for one
/// search.
#[inline(always)]
fn less(a: u64, b: u64) -> u64 {
    // The borrow of a - b (Hacker's Delight, 2-13).
    (!a & b) | ((!a | b) & a.wrapping_sub(b))
}

/// The top bit as a number, in a way that the compiler can't see that there are but two values, and make a jump of it
/// again. (A mask instead of a number would do for the compiler, but newer verifiers follow both values of those.)
#[inline(always)]
fn top_bit(word: u64) -> u64 {
    core::hint::black_box(word >> 63)
}
