//! A target: where copies go.

use std::fmt;
use std::net::IpAddr;

use super::id::TargetId;
use super::refusal::Refusal;
use super::text::{Description, Name, Tags};
use crate::model::{Endpoint, InterfaceName};

/// Where copies go, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// In VXLAN to a collector, with UDP to this address and port.
    Address(Endpoint),
    /// Out of a device of this host, as bare frames: a span port.
    Interface(InterfaceName),
}

impl Destination {
    /// Refuses addresses that are never the address of one host, whatever routing says.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let Self::Address(endpoint) = self else {
            return Ok(());
        };
        let address = endpoint.address;
        let bad = |why: &str| Err(Refusal::bad_input(format_args!("address {address}: {why}")));
        if endpoint.port == 0 {
            return Err(Refusal::bad_input("port 0: a port must be 1 to 65535"));
        }
        let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        if address.is_unspecified() || address.is_multicast() || broadcast {
            return bad("it must be the address of one host");
        }
        if let IpAddr::V6(v6) = address {
            if v6.to_ipv4_mapped().is_some() {
                return bad("write an IPv4 address as such");
            }
            if v6.is_unicast_link_local() {
                return bad("a link-local address doesn't say which link; use a global or unique local one");
            }
        }
        Ok(())
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(endpoint) => endpoint.fmt(f),
            Self::Interface(interface) => interface.fmt(f),
        }
    }
}

/// A target as definitions hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its id.
    pub id: TargetId,
    /// Its name.
    pub name: Name,
    /// Where copies go.
    pub destination: Destination,
    /// For people.
    pub description: Option<Description>,
    /// For people and their programs.
    pub tags: Tags,
}

/// A target as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetDraft {
    /// The id of a target that exists already; a new one is drawn when not set.
    pub id: Option<TargetId>,
    /// Its name.
    pub name: Name,
    /// Where copies go.
    pub destination: Destination,
    /// For people.
    pub description: Option<Description>,
    /// For people and their programs.
    pub tags: Tags,
}
