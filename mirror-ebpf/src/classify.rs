//! Which session gets a packet: the verdict of the compiled policy.
//!
//! The steps leave what they found in a scratch map of this CPU. That is for the verifier: what comes from a map is
//! unknown to it, so that the many ways through one step become one on the way to the next, and none is followed
//! twice. A TC program has its CPU for itself until it returns.

use aya_ebpf::{btf_maps::PerCpuArray, helpers::bpf_loop, macros::btf_map};
use mirror_common::{session::SessionSlot, skip::SkipReason, table::Verdict};

use crate::{
    count,
    fields::Fields,
    packet::Packet,
    table::{Row, Table, layout, shape},
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
    scratch.from = 0;
    scratch.place = NOTHING;
    scratch.rejected = NOTHING;
    if scratch.find_rows().is_none() {
        return NOTHING;
    }
    let visits = shape!(visits) as u32;
    // SAFETY: `visit` has the signature that the helper calls, and takes no context.
    unsafe { bpf_loop(visits, visit as *mut _, core::ptr::null_mut(), 0) };
    scratch.place
}

/// What the steps hand on.
#[repr(C)]
struct Scratch {
    fields: Fields,
    /// Where in the table the rows of the packet are, one for each field.
    rows: [u32; 5],
    /// The first rule that is still in question.
    from: u32,
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
    /// `None` when there is no rule of the packet's family.
    #[inline(always)]
    fn find_rows(&mut self) -> Option<()> {
        let table = Table::open()?;
        let [source, destination, protocol, source_port, destination_port] = &mut self.rows;
        if self.fields.is_v6 == 0 {
            *source = table.row_of_u32(layout!(source_v4), self.fields.source[0] as u32)?;
            *destination = table.row_of_u32(layout!(destination_v4), self.fields.destination[0] as u32)?;
        } else {
            *source = table.row_of_u128(layout!(source_v6), self.fields.source)?;
            *destination = table.row_of_u128(layout!(destination_v6), self.fields.destination)?;
        }
        *protocol = table.row_of_u8(layout!(protocol), self.fields.protocol as u8)?;
        if self.fields.has_ports == 0 {
            *source_port = table.row_of_class(layout!(source_port), 0)?;
            *destination_port = table.row_of_class(layout!(destination_port), 0)?;
        } else {
            *source_port = table.row_of_u32(layout!(source_port), self.fields.source_port)?;
            *destination_port = table.row_of_u32(layout!(destination_port), self.fields.destination_port)?;
        }
        Some(())
    }
}

/// One look at the rows: ends a word of the summary, a word, or a session. 1 ends the loop.
extern "C" fn visit(_visit: u64, _context: *mut core::ffi::c_void) -> i64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: as in `decide`, which has lent it to this call.
    let scratch = unsafe { &mut *scratch };
    match look(scratch) {
        Some(from) => {
            scratch.from = from;
            0
        }
        None => 1,
    }
}

/// Where to go on, or `None` at the end.
#[inline(always)]
fn look(scratch: &mut Scratch) -> Option<u32> {
    let table = Table::open()?;
    let mut rows = [Row::NONE; 5];
    for (row, offset) in rows.iter_mut().zip(scratch.rows) {
        *row = table.row(offset)?;
    }
    let and = |word: fn(Row, u64) -> u64, index| rows.iter().fold(!0, |bits, row| bits & word(*row, index));

    let from = u64::from(scratch.from);
    let first_word = from >> 6;
    let summary_index = first_word >> 6;
    if summary_index >= shape!(summary_words) {
        return None;
    }
    let summary = and(Row::summary, summary_index) & (!0 << (first_word & 63));
    if summary == 0 {
        return Some(((summary_index + 1) << 12) as u32);
    }
    let word = (summary_index << 6) + u64::from(summary.trailing_zeros());
    if word >= shape!(words) {
        return None;
    }
    let mut bits = and(Row::word, word);
    if word == first_word {
        bits &= !0 << (from & 63);
    }
    if bits == 0 {
        return Some(((word + 1) << 6) as u32);
    }
    let place = (word << 6) + u64::from(bits.trailing_zeros());
    if place >= shape!(rule_count) {
        return None;
    }
    count::matched(place as u32, scratch.counted);
    let rule = table.rule(place);
    if rule.resume != 0 {
        scratch.rejected = place as u32;
        return Some(u32::from(rule.resume));
    }
    scratch.place = place as u32;
    scratch.slot = rule.slot;
    None
}
