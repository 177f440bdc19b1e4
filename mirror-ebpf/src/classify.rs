//! Which session gets a packet: the verdict of the compiled policy.
//!
//! The steps leave what they found in a scratch map of this CPU. That is for the verifier: what comes from a map is
//! unknown to it, so that the many ways through one step become one on the way to the next, and none is followed
//! twice. A TC program has its CPU for itself until it returns.

use aya_ebpf::{btf_maps::PerCpuArray, helpers::bpf_loop, macros::btf_map};
use mirror_common::{
    session::SessionSlot,
    skip::SkipReason,
    table::{Guide, Interval, Record, Verdict, WORD_BITS},
};

use crate::{
    count,
    fields::Fields,
    packet::Packet,
    table::{Table, below, layout, shape},
};

/// A verdict, and the session it is for.
pub(crate) struct Decision {
    pub(crate) verdict: Verdict,
    pub(crate) session: Option<SessionSlot>,
}

const NOBODY: Decision = Decision { verdict: Verdict::None, session: None };

/// Judges `packet`. What each rule decides is counted if the packet is `live`.
#[inline(always)]
pub(crate) fn decide(packet: &Packet, live: bool) -> Decision {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return NOBODY;
    };
    // SAFETY: this CPU's own value, and nobody else uses it before this program returns.
    let scratch = unsafe { &mut *scratch };
    if scratch.fields.read(packet).is_none() {
        return match shape!(non_ip_session) {
            0 => NOBODY,
            session => {
                let slot = session as u32 - 1;
                Decision { verdict: Verdict::NonIp(slot), session: Some(slot) }
            }
        };
    }
    if live && scratch.fields.too_deep != 0 {
        count::skipped(SkipReason::ExtensionHeadersTooDeep);
    }
    scratch.counted = if live { packet.wire_packets() } else { 0 };
    if mirror_match() == NOTHING {
        let verdict = if scratch.rejected == NOTHING { Verdict::None } else { Verdict::Rejected(scratch.rejected) };
        return Decision { verdict, session: None };
    }
    Decision { verdict: Verdict::Rule(scratch.place), session: Some(scratch.slot) }
}

/// Finds the first rule that accepts the packet in the scratch map, rejects being honoured: its place, or [`NOTHING`].
///
/// A global function: the kernel verifies it once, on its own (Linux 5.6), however many ways lead to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mirror_match() -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return NOTHING;
    };
    // SAFETY: as in `decide`, which has lent it to this call.
    let scratch = unsafe { &mut *scratch };
    scratch.place = NOTHING;
    scratch.rejected = NOTHING;
    scratch.from = 0;
    if scratch.look_up().is_none() {
        return NOTHING;
    }
    // Nearly all packets are done after these. The compiler must not know how many there are: it would write all of
    // them out.
    let mut left = core::hint::black_box(STEPS_IN_LINE);
    while left != 0 {
        if scratch.step().is_none() {
            return scratch.place;
        }
        left -= 1;
    }
    let steps = shape!(steps) as u32;
    // SAFETY: `visit` has the signature that the helper calls, and takes no context.
    unsafe { bpf_loop(steps, visit as *mut _, core::ptr::null_mut(), 0) };
    scratch.place
}

/// Steps that are taken without a call of [`bpf_loop`]: a call costs more than a step, and the verifier goes through
/// each of these.
const STEPS_IN_LINE: u64 = 24;

/// What the steps hand on.
#[repr(C)]
struct Scratch {
    fields: Fields,
    /// The intervals of the packet's source address and port, in the lanes of a [`Record`], and of its destination's.
    sources: u64,
    destinations: u64,
    /// Positions that are left of the word that is looked at.
    bits: u64,
    word: u64,
    /// The numbers of the packet's rows.
    rows: [u16; 8],
    /// The intervals that guide: of source, destination, destination port.
    intervals: [Interval; 3],
    /// Where the packet's chain goes on.
    chain: u32,
    /// Whose guides come next, and those that are left of the last one.
    turn: u32,
    next: u32,
    end: u32,
    /// The first place that is still in question.
    from: u32,
    /// The first place that matches so far, or [`NOTHING`].
    best: u32,
    /// The rule that accepts, or [`NOTHING`], and its session.
    place: u32,
    slot: u32,
    /// The last rule that rejected, or [`NOTHING`].
    rejected: u32,
    /// What a rule's counter grows by: the wire packets that this one stands for, or 0 for a question.
    counted: u32,
}

const NOTHING: u32 = u32::MAX;

#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

impl Scratch {
    /// Looks up the fields; `None` when there is no rule of the packet's family.
    #[inline(always)]
    fn look_up(&mut self) -> Option<()> {
        let table = Table::open()?;
        let fields = &self.fields;
        let [source, destination] = if fields.is_v6 == 0 {
            [
                table.of_v4(layout!(source_v4), fields.source[0] as u32)?,
                table.of_v4(layout!(destination_v4), fields.destination[0] as u32)?,
            ]
        } else {
            [table.of_v6(layout!(source_v6), fields.source)?, table.of_v6(layout!(destination_v6), fields.destination)?]
        };
        self.sources = u64::from(source.number);
        self.destinations = u64::from(destination.number);
        self.rows[0] = source.row;
        self.rows[1] = destination.row;
        self.intervals[0] = source.interval;
        self.intervals[1] = destination.interval;
        let [source, destination] = if self.fields.has_ports == 0 {
            [table.without_port(layout!(source_port)), table.without_port(layout!(destination_port))]
        } else {
            [
                table.of_port(layout!(source_port), self.fields.source_port as u16)?,
                table.of_port(layout!(destination_port), self.fields.destination_port as u16)?,
            ]
        };
        self.sources |= u64::from(source.number) << 32;
        self.destinations |= u64::from(destination.number) << 32;
        self.rows[2] = source.row;
        self.rows[3] = destination.row;
        let protocol = table.protocol(self.fields.protocol as u8);
        self.rows[4] = protocol.row;
        let chains = if self.fields.is_v6 == 0 { shape!(chain_v4) } else { shape!(chain_v6) };
        self.chain = table.chain(chains, protocol.class, source.number, destination.number);
        self.intervals[2] = destination.interval;
        self.begin(table);
        Some(())
    }

    /// Begins to look at the guides.
    #[inline(always)]
    fn begin(&mut self, table: Table) {
        self.best = table.chained(self.chain).unwrap_or(NOTHING);
        self.bits = 0;
        self.turn = 0;
        self.next = 0;
        self.end = 0;
    }

    /// Ends a candidate, a word, the guides of a dimension, or the search for one rule; `None` at the end.
    #[inline(always)]
    fn step(&mut self) -> Option<()> {
        let table = Table::open()?;
        let mut bits = self.bits;
        if bits == 0 {
            let guide = if self.next < self.end {
                let guide = table.guide(u64::from(self.next))?;
                self.next += 1;
                guide
            } else {
                let Some(guide) = self.turn() else {
                    return self.conclude(table);
                };
                guide
            };
            if guide.least >= self.best {
                return Some(());
            }
            let word = u64::from(guide.word);
            self.word = word;
            bits = guide.bits;
            let [a, b, c, d, e, ..] = self.rows;
            bits &= table.word(a, word)?;
            bits &= table.word(b, word)?;
            bits &= table.word(c, word)?;
            bits &= table.word(d, word)?;
            bits &= table.word(e, word)?;
            if bits == 0 {
                return Some(());
            }
        }
        self.bits = bits & (bits - 1);
        let position = self.word * u64::from(WORD_BITS) + u64::from(bits.trailing_zeros());
        let (record, place) = table.record(position)?;
        // A lane keeps its free bit where the first number is not behind the packet's, and where the packet's is not
        // behind the last one.
        let within = |packet: u64, first: u64, last: u64| {
            ((packet | Record::FREE) - (first & Record::LANES)) & ((last & Record::LANES | Record::FREE) - packet)
        };
        let matches = within(self.sources, record.first, record.last)
            & within(self.destinations, record.first >> 16, record.last >> 16)
            & Record::FREE;
        if matches == Record::FREE && place >= self.from && place < self.best {
            self.best = place;
        }
        Some(())
    }

    /// The first guide of the next dimension that has any.
    #[inline(always)]
    fn turn(&mut self) -> Option<Guide> {
        let [source, destination, port] = self.intervals;
        let interval = if self.turn == 0 && source.bits != 0 {
            self.turn = 1;
            source
        } else if self.turn <= 1 && destination.bits != 0 {
            self.turn = 2;
            destination
        } else if self.turn <= 2 && port.bits != 0 {
            self.turn = 3;
            port
        } else {
            return None;
        };
        self.next = interval.more >> Interval::WORD_BITS;
        self.end = self.next + (interval.more & Interval::WORD);
        let word = u32::from(interval.word_and_row) & Interval::WORD;
        Some(Guide { bits: interval.bits, word, least: u32::from(interval.least) })
    }

    /// Behind all guides there is a rule, or none; `None` at the end.
    #[inline(always)]
    fn conclude(&mut self, table: Table) -> Option<()> {
        let below = below!(self.best, rule_count)?;
        let place = below as u32;
        count::matched(place, self.counted);
        let (session, rejects) = table.action(below)?;
        if !rejects {
            self.place = place;
            self.slot = session.slot;
            return None;
        }
        self.rejected = place;
        self.from = session.behind;
        self.begin(table);
        if self.best < self.from {
            // Of the session that is done with. More of them are skipped in the same way.
            self.chain += 1;
            self.begin(table);
        }
        Some(())
    }
}

/// A step of the packets that need many. 1 ends the loop.
extern "C" fn visit(_visit: u64, _context: *mut core::ffi::c_void) -> i64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: as in `decide`, which has lent it to this call.
    let scratch = unsafe { &mut *scratch };
    i64::from(scratch.step().is_none())
}
