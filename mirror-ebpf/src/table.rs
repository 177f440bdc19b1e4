//! Reads the compiled policy (see [`mirror_common::table`]). The one module with unsafe code on it: offsets come from
//! the constant [`SHAPE`], which the verifier knows, so that it proves every access against the size of this very
//! table.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use mirror_common::table::{CHAIN_END, Dimension, Guide, Interval, Protocol, Record, SessionEntry, Shape, WORD_BITS};

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
    source_port: NOTHING,
    destination_port: NOTHING,
    protocol: 0,
    chain_v4: 0,
    chain_v6: 0,
    chain_count: 0,
    chains: 0,
    chain_places: 0,
    rows: 0,
    row_count: 0,
    words: 0,
    guides: 0,
    guide_count: 0,
    records: 0,
    places: 0,
    actions: 0,
    sessions: 0,
    session_count: 0,
    rules: 0,
    rule_count: 0,
    steps: 0,
    non_ip_session: 0,
};
const NOTHING: Dimension =
    Dimension { first: 0, shift: 0, starts: 0, search_steps: 0, intervals: 0, details: 0, rows: 0 };

/// Reads a constant that user space sets when it loads the program.
macro_rules! shape {
    ($($field:tt).+) => {
        // SAFETY: a static; volatile because its value is not the one the compiler sees.
        u64::from(unsafe { ::core::ptr::read_volatile(&raw const $crate::table::SHAPE.$($field).+) })
    };
}
pub(crate) use shape;

/// `index` if it is below a count of [`SHAPE`], so that the verifier of Linux 6.1 sees it too. Where the count is 0 it
/// follows a comparison with it both ways and learns nothing, so that comes first (the two reads are two for the
/// compiler). And what is compared must be what is used: the compiler knows nothing of the value in between.
macro_rules! below {
    ($index:expr, $($field:tt).+) => {{
        let index = $crate::table::opaque(u64::from($index));
        if $crate::table::shape!($($field).+) != 0 && index < $crate::table::shape!($($field).+) {
            Some(index)
        } else {
            None
        }
    }};
}
pub(crate) use below;

/// Where the parts of a dimension are, as the verifier knows them.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    first: u64,
    shift: u64,
    starts: u64,
    search_steps: u64,
    intervals: u64,
    details: u64,
    rows: u64,
}

/// The layout of a dimension of [`SHAPE`].
macro_rules! layout {
    ($dimension:ident) => {
        $crate::table::Layout::new([
            $crate::table::shape!($dimension.first),
            $crate::table::shape!($dimension.shift),
            $crate::table::shape!($dimension.starts),
            $crate::table::shape!($dimension.search_steps),
            $crate::table::shape!($dimension.intervals),
            $crate::table::shape!($dimension.details),
            $crate::table::shape!($dimension.rows),
        ])
    };
}
pub(crate) use layout;

impl Layout {
    #[inline(always)]
    pub(crate) fn new([first, shift, starts, search_steps, intervals, details, rows]: [u64; 7]) -> Self {
        Self { first, shift, starts, search_steps, intervals, details, rows }
    }
}

/// The compiled policy.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    base: *const u8,
}

/// What a value leads to: the number of its interval, the guides of that, and the number of its row.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub(crate) number: u32,
    pub(crate) interval: Interval,
    pub(crate) row: u16,
}

impl Table {
    #[inline(always)]
    pub(crate) fn open() -> Option<Self> {
        Some(Self { base: TABLE.get_ptr(0)?.cast() })
    }

    /// What the rule at `place`, which must be below the rule count, says: its session, and whether it rejects.
    #[inline(always)]
    pub(crate) fn action(self, place: u64) -> Option<(SessionEntry, bool)> {
        let offset = shape!(actions) + place * 2;
        // SAFETY: user space put one there for each place.
        let action = unsafe { self.read::<u16>(offset) };
        let session = below!(action >> 1, session_count)?;
        let offset = shape!(sessions) + session * size_of::<SessionEntry>() as u64;
        // SAFETY: user space put `session_count` of them there.
        Some((unsafe { self.read(offset) }, action & 1 != 0))
    }

    /// A guide; `None` where there are not so many.
    #[inline(always)]
    pub(crate) fn guide(self, index: u64) -> Option<Guide> {
        let index = below!(index, guide_count)?;
        let offset = shape!(guides) + index * size_of::<Guide>() as u64;
        // SAFETY: user space put `guide_count` guides there.
        Some(unsafe { self.read(offset) })
    }

    /// What stands at a position, and its place; `None` where there are not so many.
    #[inline(always)]
    pub(crate) fn record(self, position: u64) -> Option<(Record, u32)> {
        let position = opaque(position);
        if shape!(words) == 0 || position >= shape!(words) * u64::from(WORD_BITS) {
            return None;
        }
        let offset = shape!(records) + position * size_of::<Record>() as u64;
        // SAFETY: user space put a record there for each bit of a row.
        let record = unsafe { self.read(offset) };
        let offset = shape!(places) + position * 2;
        // SAFETY: likewise a place.
        let place = unsafe { self.read::<u16>(offset) };
        Some((record, u32::from(place)))
    }

    /// The word of a row; `None` where there are not so many.
    #[inline(always)]
    pub(crate) fn word(self, row: u16, word: u64) -> Option<u64> {
        let (row, word) = (below!(row, row_count)?, below!(word, words)?);
        let offset = shape!(rows) + (scaled(row, shape!(words)) + word) * 8;
        // SAFETY: user space put `row_count` rows of `words` words there.
        Some(unsafe { self.read(offset) })
    }

    /// The interval of an IPv4 address.
    #[inline(always)]
    pub(crate) fn of_v4(self, layout: Layout, address: u32) -> Option<Found> {
        let number = self.search_u32(layout, u64::from(address))?;
        Some(self.found(layout, number))
    }

    /// The interval of a port.
    #[inline(always)]
    pub(crate) fn of_port(self, layout: Layout, port: u16) -> Option<Found> {
        let number = self.search_u32(layout, u64::from(port))?;
        Some(self.found(layout, number + 1))
    }

    /// The interval of packets without ports.
    #[inline(always)]
    pub(crate) fn without_port(self, layout: Layout) -> Found {
        self.found(layout, 0)
    }

    /// What a protocol leads to.
    #[inline(always)]
    pub(crate) fn protocol(self, protocol: u8) -> Protocol {
        let offset = shape!(protocol) + u64::from(protocol) * size_of::<Protocol>() as u64;
        // SAFETY: user space put one there for each protocol.
        unsafe { self.read(offset) }
    }

    /// Where the chain of packets of a protocol class and two intervals of ports begins, of the chains of a family.
    #[inline(always)]
    pub(crate) fn chain(self, family: u64, class: u16, source_port: u32, destination_port: u32) -> u32 {
        let ports = (shape!(source_port.intervals) + 1, shape!(destination_port.intervals) + 1);
        let index = (u64::from(class) * ports.0 + u64::from(source_port)) * ports.1 + u64::from(destination_port);
        let index = if family == 0 { None } else { below!(index, chain_count) };
        let Some(index) = index else { return 0 };
        // SAFETY: user space put so many there.
        u32::from(unsafe { self.read::<u16>(family + index * 2) })
    }

    /// A place in the chains; `None` where there are not so many, or at the end of one.
    #[inline(always)]
    pub(crate) fn chained(self, index: u32) -> Option<u32> {
        let index = below!(index, chain_places)?;
        let offset = shape!(chains) + index * 2;
        // SAFETY: user space put so many there.
        let place = unsafe { self.read::<u16>(offset) };
        if place == CHAIN_END { None } else { Some(u32::from(place)) }
    }

    /// The interval of an IPv6 address.
    #[inline(always)]
    pub(crate) fn of_v6(self, layout: Layout, [high, low]: [u64; 2]) -> Option<Found> {
        let mut interval = self.first(layout, high)?;
        let mut step = (1u64 << layout.search_steps) >> 1;
        while step != 0 {
            let offset = layout.starts + (interval + step) * 16;
            // SAFETY: behind the starts there are 2^search_steps more.
            let start_high = unsafe { self.read::<u64>(offset) };
            // SAFETY: as above.
            let start_low = unsafe { self.read::<u64>(offset + 8) };
            let not_above = less(start_high, high) | (!less(high, start_high) & !less(low, start_low));
            interval += scaled(top_bit(not_above), step);
            step >>= 1;
        }
        Some(self.found(layout, interval))
    }

    /// The interval of a value of at most 32 bits.
    #[inline(always)]
    fn search_u32(self, layout: Layout, value: u64) -> Option<u64> {
        let mut interval = self.first(layout, value)?;
        let mut step = (1u64 << layout.search_steps) >> 1;
        while step != 0 {
            // SAFETY: behind the starts there are 2^search_steps more.
            let start = unsafe { self.read::<u32>(layout.starts + (interval + step) * 4) };
            interval += scaled(top_bit(!value.wrapping_sub(u64::from(start))), step);
            step >>= 1;
        }
        Some(interval)
    }

    /// Where to begin to search.
    #[inline(always)]
    fn first(self, layout: Layout, head: u64) -> Option<u64> {
        if layout.intervals == 0 {
            return None;
        }
        // SAFETY: there is a number for each value of the upper bits.
        let interval = u64::from(unsafe { self.read::<u16>(layout.first + (head >> layout.shift) * 2) });
        // Never so; the verifier wants to see it.
        let interval = opaque(interval);
        if interval >= layout.intervals {
            return None;
        }
        Some(interval)
    }

    #[inline(always)]
    fn found(self, layout: Layout, number: u64) -> Found {
        // SAFETY: each number has its details, and behind the last there are 2^search_steps more.
        let interval = unsafe { self.read::<Interval>(layout.details + number * size_of::<Interval>() as u64) };
        let row = layout.rows as u16 + (interval.word_and_row >> Interval::WORD_BITS);
        Found { number: number as u32, interval, row }
    }

    /// # Safety
    /// `offset` must be inside the table and aligned for `T`; the verifier refuses the program else.
    #[inline(always)]
    unsafe fn read<T: Copy>(self, offset: u64) -> T {
        // SAFETY: by contract.
        unsafe { self.base.add(offset as usize).cast::<T>().read() }
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

/// `value * constant`, as the verifier of Linux 6.1 needs it: it knows the bounds of a product only if it knows the second
/// operand, and the compiler may exchange the two.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn scaled(mut value: u64, constant: u64) -> u64 {
    // SAFETY: one multiplication of registers.
    unsafe {
        core::arch::asm!("{0} *= {1}", inout(reg) value, in(reg) constant, options(pure, nomem, nostack, preserves_flags));
    }
    value
}

/// For the tests of the host.
#[cfg(not(target_arch = "bpf"))]
fn scaled(value: u64, constant: u64) -> u64 {
    value * constant
}

/// The same value, of which the compiler knows nothing.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn opaque(mut value: u64) -> u64 {
    // SAFETY: it moves a register to itself. (Without any instruction two lines of the source would be at one place, which
    // the kernel refuses.)
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack, preserves_flags)) };
    value
}

/// For the tests of the host.
#[cfg(not(target_arch = "bpf"))]
pub(crate) fn opaque(value: u64) -> u64 {
    value
}
