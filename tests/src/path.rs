//! The two ways of a copy from the source to the uplink.

use std::fmt;

/// A way that copies may take. What the collector gets must be the same by both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Every copy through the tap.
    Tap,
    /// Past the tap where the kernel program is certain that it makes no difference.
    Fast,
}

/// Both.
pub const BOTH_PATHS: [Path; 2] = [Path::Tap, Path::Fast];

impl Path {
    /// The arguments of `attach` that ask for it.
    pub const fn flag(self) -> &'static str {
        match self {
            Self::Tap => "--no-fast-path",
            Self::Fast => "",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tap => "tap",
            Self::Fast => "fast path",
        })
    }
}
