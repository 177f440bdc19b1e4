//! Any capture through the lab: each frame of a file is sent past the source, and each copy compared with it, byte for
//! byte and in order, on both paths.
//!
//! A file is replayed in batches, each in one lab for each path, so that a file of any length needs the memory of one
//! batch. What is expected is the frames of the file, as a second capture saw them pass the source.

mod compare;
#[cfg(feature = "product")]
mod file;
#[cfg(feature = "product")]
mod run;
mod way;

use std::path::PathBuf;

use crate::path::Path;

pub use self::compare::{Difference, Matched, Original, between_paths, compare};
#[cfg(feature = "product")]
pub use self::run::{Ending, run};
pub use self::way::{Numbered, Passed, Way};

/// What is replayed, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// A capture: pcap or pcapng, of any origin
    pub file: PathBuf,
    /// The path that the copies take
    #[arg(long, value_enum, default_value_t = Paths::Both)]
    pub path: Paths,
    /// Whether the frames come in at the source or go out
    #[arg(long, value_enum, default_value_t = Direction::Ingress)]
    pub direction: Direction,
    /// Cut the copies to their first N bytes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=8500))]
    pub packet_length: Option<u16>,
    /// Send the copies to an IPv6 address
    #[arg(long)]
    pub target_v6: bool,
}

impl Options {
    /// What is replayed when only a file is named.
    pub fn of_file(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            path: Paths::Both,
            direction: Direction::Ingress,
            packet_length: None,
            target_v6: false,
        }
    }
}

/// Paths that a file is replayed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Paths {
    /// Through the tap.
    Tap,
    /// Past the tap where the kernel program is certain.
    Fast,
    /// Both, and the copies of one compared with those of the other.
    Both,
}

impl Paths {
    /// Each of them.
    pub const fn each(self) -> &'static [Path] {
        match self {
            Self::Tap => &[Path::Tap],
            Self::Fast => &[Path::Fast],
            Self::Both => &crate::path::BOTH_PATHS,
        }
    }
}

/// Which way frames pass the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Direction {
    /// In, from the generator.
    Ingress,
    /// Out, from the host.
    Egress,
}

impl Direction {
    /// Its name in rules.
    const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}
