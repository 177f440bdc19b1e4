//! Map `TABLE` and constant `SHAPE`: a compiled policy of one source and direction.
//!
//! All rules of all sessions stand in one list, by session number, then rule number; a rule is a bit in a row of bits.
//! For each field of a packet there is a *dimension*: intervals of values, and for each class of intervals the row of
//! rules that such a value satisfies. The rows of all fields, ANDed, leave the rules that match; the first is the
//! verdict, or, where it rejects, the first behind its session's last rule. In front of each row stands a summary, one
//! bit for each word of it that isn't zero, so that empty words are not visited (aggregated bit vectors, Baboescu and
//! Varghese 2001).
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
    pub resume: u32,
}

const _: () = assert!(size_of::<Dimension>() == 20 && size_of::<Shape>() == 164 && size_of::<RuleEntry>() == 8);

#[cfg(feature = "user")]
// SAFETY: `repr(C)` of `u32` only: no padding, every bit pattern is a value.
unsafe impl aya::Pod for Shape {}

/// What the program for `explain` returns: who gets the packet and why. Packed into the 32 bits of a return code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The rule at this place accepts.
    Rule(u32),
    /// No IP header, and a session takes such frames.
    NonIp,
    /// No session wants it.
    None,
}

impl Verdict {
    const NON_IP: u32 = u32::MAX - 1;
    const NONE: u32 = u32::MAX - 2;

    /// The 32 bits.
    #[inline(always)]
    pub const fn to_code(self) -> u32 {
        match self {
            Self::Rule(rule) => rule,
            Self::NonIp => Self::NON_IP,
            Self::None => Self::NONE,
        }
    }

    /// Back from the 32 bits.
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            Self::NON_IP => Some(Self::NonIp),
            Self::NONE => Some(Self::None),
            rule if rule < RULES_MAX => Some(Self::Rule(rule)),
            _ => None,
        }
    }
}
