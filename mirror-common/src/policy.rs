//! Map `POLICY`: what a source does with the packets of one direction. One map per source.

use crate::session::SessionSlot;

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

/// Value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The session that gets every IPv4 and IPv6 packet, or [`Policy::NO_SESSION`].
    pub session: SessionSlot,
}

impl Policy {
    /// No session wants this direction.
    pub const NO_SESSION: SessionSlot = SessionSlot::MAX;
}

const _: () = assert!(size_of::<Policy>() == 4);

#[cfg(feature = "user")]
// SAFETY: one `u32`: no padding, every bit pattern is a value.
unsafe impl aya::Pod for Policy {}
