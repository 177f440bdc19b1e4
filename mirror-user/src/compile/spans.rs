//! A rule in numbers of intervals.

/// The version of IP that a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];
}

/// First and last interval of each field.
pub(super) struct Spans {
    pub(super) family: Family,
    pub(super) source: (u32, u32),
    pub(super) destination: (u32, u32),
    pub(super) source_port: (u32, u32),
    pub(super) destination_port: (u32, u32),
}
