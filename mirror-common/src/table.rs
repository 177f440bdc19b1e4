//! Map `TABLE` and constant `SHAPE`: a compiled policy of one source and direction.
//!
//! A rule has a *place*: its turn in the order of evaluation, by session number, then rule number. It also has a
//! *position*: its bit in rows of bits, and rules that are alike stand side by side there. A verdict goes from the few
//! positions that one field leaves over to the rule with the first place:
//!
//! 1. Each address and port is looked up in its *dimension*: the number of the interval that it falls in.
//! 2. Rules that name no addresses are decided beforehand: for each protocol class and intervals of ports there is a
//!    *chain*, the first such rule of each session. Each other rule is found by one field
//!    only, the one that tells most: source, destination or destination port. The interval of that field has *guides*:
//!    the words of positions that are not empty, with their bits.
//! 3. Each field has a *row*, the positions that its value may satisfy. Rows are few: neighbouring intervals share one,
//!    so a bit can be set for a value that the rule doesn't take. The guide's words, ANDed with the rows of all fields,
//!    leave a candidate or two.
//! 4. A candidate's [`Record`] has the last word: the intervals that it takes. Of those that match, the one with the
//!    lowest place is the verdict, or, where it rejects, what comes behind its session's last rule is looked for in
//!    the same way.
//!
//! (Rows of bits for each field are Lakshman and Stiliadis 1998; to visit only words that aren't empty, Baboescu and
//! Varghese 2001.)
//!
//! It begins with a header of two `u32`, for readers that don't have the constant: where the rules are, and their count.
//!
//! The table is one map value, as large as the policy needs. Where its parts are, the program learns from `SHAPE`, a
//! constant to the verifier: the bounds of every access are proven for this very table.

/// Rules of one source and direction, at most.
pub const RULES_MAX: u32 = 16_384;
/// Bits of a word of a row.
pub const WORD_BITS: u32 = 64;
/// Sessions of one source, at most.
pub const SESSIONS_MAX: u32 = 256;

/// Where the parts of a dimension are in the table. Offsets are in bytes and multiples of 8.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dimension {
    /// Where to begin to search: by the upper bits of a value, a number of an interval (`u16`) that is not behind its
    /// own.
    pub first: u32,
    /// What a value (of an IPv6 address the upper half) is shifted down by for that.
    pub shift: u32,
    /// The lowest values of the intervals, ascending, the first 0: `u32`, or for IPv6 two `u64` (high, low), host
    /// order; then 2 to the power of `search_steps` times the largest number.
    pub starts: u32,
    /// Halvings that find an interval from there.
    pub search_steps: u32,
    /// How many intervals there are; 0 when no rule looks at this dimension's family.
    pub intervals: u32,
    /// The [`Interval`]s, of a port behind the one of packets without ports; then 2 to the power of `search_steps` times
    /// the last one.
    pub details: u32,
    /// The number of its first row.
    pub rows: u32,
}

/// What an interval leads to: its row and its first guide, which most intervals have no more than.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// The positions of the first guide; 0 where there is none.
    pub bits: u64,
    /// The word of the first guide in the lower [`Self::WORD_BITS`], above it the row, counted from the dimension's first
    /// one.
    pub word_and_row: u16,
    /// The lowest place of the first guide.
    pub least: u16,
    /// How many more guides there are in the lower [`Self::WORD_BITS`], above it which is the first of them.
    pub more: u32,
}

impl Interval {
    /// A number of words: at most those of all rules, and one for each group of them that begins a new word.
    pub const WORD_BITS: u32 = 9;
    /// The same as a mask.
    pub const WORD: u32 = (1 << Self::WORD_BITS) - 1;
}

/// A word of positions that isn't empty.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guide {
    /// The positions in it.
    pub bits: u64,
    /// Which word it is.
    pub word: u32,
    /// The lowest place in it.
    pub least: u32,
}

/// The intervals that a rule takes, in lanes of 16 bits from the lowest: source address, destination address, source
/// port, destination port; 0 is the interval of packets without ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The first ones.
    pub first: u64,
    /// The last ones; where that is the last of all, all bits are set.
    pub last: u64,
}

impl Record {
    /// Every other lane: there is room between them, to see one number go below another.
    pub const LANES: u64 = 0x0000_ffff_0000_ffff;
    /// A bit of that room for each.
    pub const FREE: u64 = 0x8000_0000_8000_0000;
}

/// What a protocol leads to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protocol {
    /// The number of its row.
    pub row: u16,
    /// Its class, for chains.
    pub class: u16,
}

/// Behind the last place of a chain.
pub const CHAIN_END: u16 = u16::MAX;

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
    /// TCP and UDP source port.
    pub source_port: Dimension,
    /// TCP and UDP destination port.
    pub destination_port: Dimension,
    /// IP protocol: 256 [`Protocol`]s, one for each value. Their rows are exact.
    pub protocol: u32,
    /// For IPv4, by protocol class, interval of the source port and of the destination port: where in the chains its
    /// chain begins (`u16`). 0 where the family has none.
    pub chain_v4: u32,
    /// Likewise for IPv6.
    pub chain_v6: u32,
    /// How many there are for each family that has any.
    pub chain_count: u32,
    /// The chains: places (`u16`), ascending; [`CHAIN_END`] behind the last one of each.
    pub chains: u32,
    /// How many places there are, ends included.
    pub chain_places: u32,
    /// The rows, one behind the other.
    pub rows: u32,
    /// How many there are.
    pub row_count: u32,
    /// Words of a row.
    pub words: u32,
    /// The [`Guide`]s.
    pub guides: u32,
    /// How many there are.
    pub guide_count: u32,
    /// The [`Record`]s, by position.
    pub records: u32,
    /// The place (`u16`) of each position.
    pub places: u32,
    /// By place: twice the number of the rule's session, 1 more if it rejects (`u16`).
    pub actions: u32,
    /// The [`SessionEntry`]s.
    pub sessions: u32,
    /// How many there are.
    pub session_count: u32,
    /// Where the [`RuleEntry`]s are, by place.
    pub rules: u32,
    /// How many there are.
    pub rule_count: u32,
    /// Steps that a verdict can take at most.
    pub steps: u32,
    /// 1 + the slot of the session that gets frames without an IP header, or 0.
    pub non_ip_session: u32,
}

/// What a session is to the rules of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionEntry {
    /// Its slot.
    pub slot: u32,
    /// The place behind its last rule.
    pub behind: u32,
}

/// What a rule says, for user space; the kernel has the same in fewer bytes.
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

const _: () = assert!(size_of::<Dimension>() == 28 && size_of::<Shape>() == 248 && size_of::<RuleEntry>() == 8);
const _: () = assert!(size_of::<Interval>() == 16 && size_of::<Guide>() == 16 && size_of::<Record>() == 16);

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
