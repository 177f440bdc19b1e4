//! The two directions of a source: each has a policy of its own.

/// Index into the per-direction maps of a source.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Packets that the interface receives.
    Ingress = 0,
    /// Packets that the interface sends.
    Egress = 1,
}

/// How many directions there are.
pub const DIRECTIONS: u32 = 2;

impl Direction {
    /// Both, in index order.
    pub const ALL: [Self; DIRECTIONS as usize] = [Self::Ingress, Self::Egress];

    /// The word for it everywhere: command line, JSON, documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}
