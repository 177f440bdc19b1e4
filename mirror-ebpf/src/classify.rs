//! Which session gets a packet: the verdict of the compiled policy.

use mirror_common::{session::SessionSlot, table::Verdict};

use crate::{
    fields::{self, Addresses, Fields},
    packet::Packet,
    table::{Row, Table, layout, shape},
};

/// A verdict, and the session it is for.
pub(crate) struct Decision {
    pub(crate) verdict: Verdict,
    pub(crate) session: Option<SessionSlot>,
}

const NOBODY: Decision = Decision { verdict: Verdict::None, session: None };

/// Judges `packet`. `rejected` is told each rule that rejects on the way.
#[inline(always)]
pub(crate) fn decide(packet: &Packet, matched: impl Fn(u32)) -> Decision {
    match fields::read(packet) {
        Some(fields) => first_match(&fields, matched).unwrap_or(NOBODY),
        None => match shape!(non_ip_session) {
            0 => NOBODY,
            session => Decision { verdict: Verdict::NonIp, session: Some(session as u32 - 1) },
        },
    }
}

/// The rows of a packet, one for each field.
struct Rows {
    source: Row,
    destination: Row,
    protocol: Row,
    source_port: Row,
    destination_port: Row,
}

impl Rows {
    #[inline(always)]
    fn of(fields: &Fields) -> Option<(Table, Self)> {
        let table = Table::open()?;
        let (source, destination) = match fields.addresses {
            Addresses::V4 { source, destination } => {
                (table.row_of_u32(layout!(source_v4), source)?, table.row_of_u32(layout!(destination_v4), destination)?)
            }
            Addresses::V6 { source, destination } => (
                table.row_of_u128(layout!(source_v6), source)?,
                table.row_of_u128(layout!(destination_v6), destination)?,
            ),
        };
        let (source_port, destination_port) = match fields.ports {
            Some((source, destination)) => (
                table.row_of_u32(layout!(source_port), u32::from(source))?,
                table.row_of_u32(layout!(destination_port), u32::from(destination))?,
            ),
            None => (table.row_of_class(layout!(source_port), 0)?, table.row_of_class(layout!(destination_port), 0)?),
        };
        let protocol = table.row_of_u8(layout!(protocol), fields.protocol.0)?;
        Some((table, Self { source, destination, protocol, source_port, destination_port }))
    }

    #[inline(always)]
    fn summary(&self, index: u64) -> u64 {
        self.source.summary(index)
            & self.destination.summary(index)
            & self.protocol.summary(index)
            & self.source_port.summary(index)
            & self.destination_port.summary(index)
    }

    #[inline(always)]
    fn word(&self, index: u64) -> u64 {
        self.source.word(index)
            & self.destination.word(index)
            & self.protocol.word(index)
            & self.source_port.word(index)
            & self.destination_port.word(index)
    }
}

/// The first rule that accepts, rejects being honoured.
#[inline(always)]
fn first_match(fields: &Fields, matched: impl Fn(u32)) -> Option<Decision> {
    let (table, rows) = Rows::of(fields)?;
    // The first rule that is still in question.
    let mut from = 0u64;
    for _ in 0..shape!(visits) {
        let first_word = from >> 6;
        let summary_index = first_word >> 6;
        if summary_index >= shape!(summary_words) {
            return None;
        }
        let summary = rows.summary(summary_index) & (!0 << (first_word & 63));
        if summary == 0 {
            from = (summary_index + 1) << 12;
            continue;
        }
        let word = (summary_index << 6) + u64::from(summary.trailing_zeros());
        if word >= shape!(words) {
            return None;
        }
        let mut bits = rows.word(word);
        if word == first_word {
            bits &= !0 << (from & 63);
        }
        if bits == 0 {
            from = (word + 1) << 6;
            continue;
        }
        let place = (word << 6) + u64::from(bits.trailing_zeros());
        if place >= shape!(rule_count) {
            return None;
        }
        matched(place as u32);
        let rule = table.rule(place);
        if rule.resume == 0 {
            return Some(Decision { verdict: Verdict::Rule(place as u32), session: Some(rule.slot) });
        }
        from = u64::from(rule.resume);
    }
    None
}
