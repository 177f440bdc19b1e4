//! Map `TABLE` and constant `SHAPE`: a compiled policy of one source and direction.
//!
//! All rules of all sessions stand in one list, by session number, then rule number; a rule is a bit in a row of bits.
//! For each field of a packet there is a *dimension*: intervals of values, and for each class of intervals the row of
//! rules that such a value satisfies. The rows of all fields, ANDed, leave the rules that match; the first is the
//! verdict, or, where it rejects, the first behind its session's last rule. In front of each row stands a summary, one
//! bit for each word of it that isn't zero, so that empty words are not visited (aggregated bit vectors, Baboescu and
//! Varghese 2001).
//!
//! It begins with a header of two `u32`, for readers that don't have the constant: where the rules are, and their count.
//!
//! The table is one map value, as large as the policy needs. Where its parts are, the program learns from `SHAPE`, a
//! constant to the verifier: the bounds of every access are proven for this very table.

/// Rules of one source and direction, at most.
pub const RULES_MAX: u32 = 16_384;
/// Bits of a word of a row.
pub const WORD_BITS: u32 = 64;
/// Words of a row, at most.
pub const WORDS_MAX: u32 = RULES_MAX / WORD_BITS;
/// Sessions of one source, at most.
pub const SESSIONS_MAX: u32 = 256;

/// Where the parts of a dimension are in the table. Offsets are in bytes and multiples of 8.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dimension {
    /// The lowest values of the intervals, ascending, the first 0: `u32`, or for IPv6 two `u64` (high, low), host
    /// order; 2 to the power of `search_steps` of them, the last one repeated.
    pub starts: u32,
    /// Halvings that find an interval.
    pub search_steps: u32,
    /// The class of each interval: `u16`.
    pub classes: u32,
    /// How many classes there are; 0 when no rule looks at this dimension's family.
    pub class_count: u32,
    /// The rows of the classes.
    pub rows: u32,
}

/// Where the parts of a table are.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// IPv4 source address.
    pub source_v4: Dimension,
    /// IPv4 destination address.
    pub destination_v4: Dimension,
    /// IPv6 source address.
    pub source_v6: Dimension,
    /// IPv6 destination address.
    pub destination_v6: Dimension,
    /// IP protocol: `classes` has 256 entries, one for each value, and there are no intervals.
    pub protocol: Dimension,
    /// TCP and UDP source port; class 0 is that of packets without ports.
    pub source_port: Dimension,
    /// TCP and UDP destination port, likewise.
    pub destination_port: Dimension,
    /// Where the [`RuleEntry`]s are.
    pub rules: u32,
    /// How many there are.
    pub rule_count: u32,
    /// Words of a row, without its summary.
    pub words: u32,
    /// Words of a row's summary.
    pub summary_words: u32,
    /// Looks at the rows that a verdict can take at most.
    pub visits: u32,
    /// 1 + the slot of the session that gets frames without an IP header, or 0.
    pub non_ip_session: u32,
}

/// What a rule says.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleEntry {
    /// The slot of its session.
    pub slot: u32,
    /// 0: it accepts. Else it rejects, and this is the place behind the last rule of its session.
    pub resume: u16,
    /// Its rule number; 0 is a network service. For user space: counters are named by it.
    pub number: u16,
}

const _: () = assert!(size_of::<Dimension>() == 20 && size_of::<Shape>() == 164 && size_of::<RuleEntry>() == 8);

#[cfg(feature = "user")]
// SAFETY: `repr(C)` of `u32` only: no padding, every bit pattern is a value.
unsafe impl aya::Pod for Shape {}

/// What a source program answers to a question: who gets the packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The rule at this place accepts.
    Rule(u32),
    /// No IP header, and the session with this slot takes such frames.
    NonIp(u32),
    /// No session wants it; the rule at this place was the last to reject it.
    Rejected(u32),
    /// No session wants it, and no rule matches.
    None,
}

impl Verdict {
    /// Tells an answer from a program that didn't answer.
    const ANSWERED: u32 = 0xc59_a5c0;
    const RULE: u32 = Self::ANSWERED;
    const NON_IP: u32 = Self::ANSWERED + 1;
    const REJECTED: u32 = Self::ANSWERED + 2;
    const NONE: u32 = Self::ANSWERED + 3;

    /// As it stands in the first two words of `skb->cb`, host order.
    #[inline(always)]
    pub const fn to_answer(self) -> [u32; 2] {
        match self {
            Self::Rule(place) => [Self::RULE, place],
            Self::NonIp(slot) => [Self::NON_IP, slot],
            Self::Rejected(place) => [Self::REJECTED, place],
            Self::None => [Self::NONE, 0],
        }
    }

    /// Back from the two words; `None` when they are no answer.
    pub const fn from_answer(answer: [u32; 2]) -> Option<Self> {
        match answer {
            [Self::RULE, place] if place < RULES_MAX => Some(Self::Rule(place)),
            [Self::NON_IP, slot] => Some(Self::NonIp(slot)),
            [Self::REJECTED, place] if place < RULES_MAX => Some(Self::Rejected(place)),
            [Self::NONE, 0] => Some(Self::None),
            _ => None,
        }
    }
}
