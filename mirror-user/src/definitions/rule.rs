//! A rule: which packets of one direction a filter accepts or rejects.

use std::fmt;
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};
use mirror_common::policy::Direction;
use serde::{Deserialize, Serialize};

use crate::model::{InvalidValue, ranged_number};

ranged_number! {
    /// The place of a rule in its filter and direction: 1 comes first.
    RuleNumber(u16), 1..=32766, "a rule number"
}

/// What a rule does with a packet it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The session mirrors the packet, and evaluation ends.
    Accept,
    /// The session does not; evaluation goes on with the next session.
    Reject,
}

/// Source and destination, of one family: a rule of one family never matches the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Addresses {
    /// IPv4.
    V4 {
        /// Where a packet comes from.
        source: Ipv4Net,
        /// Where it goes.
        destination: Ipv4Net,
    },
    /// IPv6.
    V6 {
        /// Where a packet comes from.
        source: Ipv6Net,
        /// Where it goes.
        destination: Ipv6Net,
    },
}

/// Ports from `first` to `last`, both included; never backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// Ports from `first` to `last`.
    pub fn new(first: u16, last: u16) -> Result<Self, InvalidValue> {
        if first > last {
            return Err(InvalidValue::new(format_args!("the port range {first}-{last} runs backwards")));
        }
        Ok(Self { first, last })
    }

    /// The lowest port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub const fn last(self) -> u16 {
        self.last
    }
}

impl FromStr for PortRange {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let port = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>()
                .ok()
                .filter(|_| digits)
                .ok_or_else(|| InvalidValue::new("ports are written 80 or 80-443, from 0 to 65535"))
        };
        match text.split_once('-') {
            Some((first, last)) => Self::new(port(first)?, port(last)?),
            None => port(text).and_then(|port| Self::new(port, port)),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// A rule. Ports are set only where the protocol is TCP or UDP; the constructor of definitions sees to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its place.
    pub number: RuleNumber,
    /// Which packets it looks at.
    pub direction: Direction,
    /// What it does.
    pub action: Action,
    /// IP protocol number; all when not set.
    pub protocol: Option<u8>,
    /// Source and destination.
    pub addresses: Addresses,
    /// Source ports; all when not set, packets without ports included.
    pub source_ports: Option<PortRange>,
    /// Destination ports; all when not set, packets without ports included.
    pub destination_ports: Option<PortRange>,
    /// For people.
    pub description: Option<String>,
}
