//! A rule: which packets of one direction a filter accepts or rejects.

use std::fmt;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mirror_common::policy::Direction;
use serde::{Deserialize, Serialize};

use super::protocol;
use super::refusal::Refusal;
use super::text::Description;
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

impl Action {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Accept, Self::Reject];

    /// The word for it everywhere.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Reject => "reject",
        }
    }
}

impl FromStr for Action {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let found = Self::ALL.into_iter().find(|action| action.name() == text);
        found.ok_or_else(|| InvalidValue::new("an action is accept or reject"))
    }
}

/// The direction that `text` names.
pub fn parse_direction(text: &str) -> Result<Direction, InvalidValue> {
    let found = Direction::ALL.into_iter().find(|direction| direction.name() == text);
    found.ok_or_else(|| InvalidValue::new("a direction is ingress or egress"))
}

/// The network that `text` is the CIDR of. Host bits are left for [`Addresses::new`], which can say what was meant.
pub fn parse_cidr(text: &str) -> Result<IpNet, InvalidValue> {
    text.parse().map_err(|_| {
        InvalidValue::new(
            "a CIDR is an address and a prefix length of 0 to 32 (IPv4) or 0 to 128 (IPv6): 192.0.2.0/24, 2001:db8::/32",
        )
    })
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

impl Addresses {
    /// `source` and `destination`, if they are of one family and have no host bits set.
    pub fn new(source: IpNet, destination: IpNet) -> Result<Self, Refusal> {
        for (field, cidr) in [("source", source), ("destination", destination)] {
            if cidr.addr() != cidr.network() {
                return Err(Refusal::bad_input(format_args!(
                    "{field} CIDR {cidr}: the address has bits set behind its prefix of {}",
                    cidr.prefix_len()
                ))
                .hint(format_args!("the network is {}", cidr.trunc())));
            }
        }
        match (source, destination) {
            (IpNet::V4(source), IpNet::V4(destination)) => Ok(Self::V4 { source, destination }),
            (IpNet::V6(source), IpNet::V6(destination)) => Ok(Self::V6 { source, destination }),
            _ => Err(Refusal::bad_input(format_args!(
                "source CIDR {source} and destination CIDR {destination}: they must be of one family, IPv4 or IPv6"
            ))
            .hint("a rule matches one family only; for both, add two rules")),
        }
    }

    /// Where a packet comes from.
    pub fn source(&self) -> IpNet {
        match self {
            Self::V4 { source, .. } => IpNet::V4(*source),
            Self::V6 { source, .. } => IpNet::V6(*source),
        }
    }

    /// Where it goes.
    pub fn destination(&self) -> IpNet {
        match self {
            Self::V4 { destination, .. } => IpNet::V4(*destination),
            Self::V6 { destination, .. } => IpNet::V6(*destination),
        }
    }
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

impl Rule {
    /// Refuses what the types of the fields let through.
    pub fn check(&self) -> Result<(), Refusal> {
        Addresses::new(self.addresses.source(), self.addresses.destination())?;
        for (field, ports) in [("source", self.source_ports), ("destination", self.destination_ports)] {
            let Some(ports) = ports else {
                continue;
            };
            let is = match self.protocol {
                Some(protocol) if protocol::has_ports(protocol) => continue,
                Some(protocol) => format!("the protocol is {}", protocol::text(protocol)),
                None => "no protocol is set".into(),
            };
            return Err(Refusal::bad_input(format_args!(
                "{field} port range {ports}: only protocols tcp (6) and udp (17) have ports, and {is}"
            )));
        }
        if let Some(description) = &self.description {
            description.parse::<Description>()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Kind;

    fn addresses(source: &str, destination: &str) -> Result<Addresses, Refusal> {
        Addresses::new(parse_cidr(source)?, parse_cidr(destination)?)
    }

    fn rule(protocol: Option<u8>, source_ports: Option<&str>, destination_ports: Option<&str>) -> Rule {
        let ports = |text: Option<&str>| text.map(|text| text.parse().expect(text));
        Rule {
            number: "100".parse().expect("in range"),
            direction: Direction::Ingress,
            action: Action::Accept,
            protocol,
            addresses: addresses("0.0.0.0/0", "0.0.0.0/0").expect("valid"),
            source_ports: ports(source_ports),
            destination_ports: ports(destination_ports),
            description: None,
        }
    }

    #[test]
    fn numbers_keep_to_their_range() {
        for text in ["1", "32766"] {
            text.parse::<RuleNumber>().expect(text);
        }
        for text in ["0", "32767", "-1", "x"] {
            let error = text.parse::<RuleNumber>().expect_err(text);
            assert_eq!(error.to_string(), "a rule number must be 1 to 32766");
        }
    }

    #[test]
    fn cidrs_have_no_host_bits() {
        for (source, destination) in
            [("0.0.0.0/0", "10.0.0.0/8"), ("::/0", "2001:db8::1/128"), ("10.0.0.1/32", "0.0.0.0/0")]
        {
            let addresses = addresses(source, destination).expect(source);
            assert_eq!(addresses.source().to_string(), source);
            assert_eq!(addresses.destination().to_string(), destination);
        }
        let refusal = addresses("10.0.0.1/8", "0.0.0.0/0").expect_err("host bits");
        assert_eq!(refusal.kind(), Kind::BadInput);
        assert_eq!(refusal.to_string(), "source CIDR 10.0.0.1/8: the address has bits set behind its prefix of 8");
        assert_eq!(refusal.hint_text(), Some("the network is 10.0.0.0/8"));
        let refusal = addresses("::/0", "2001:db8::1/32").expect_err("host bits");
        assert_eq!(
            refusal.to_string(),
            "destination CIDR 2001:db8::1/32: the address has bits set behind its prefix of 32"
        );
        assert_eq!(refusal.hint_text(), Some("the network is 2001:db8::/32"));
    }

    #[test]
    fn cidrs_are_of_one_family() {
        let refusal = addresses("0.0.0.0/0", "::/0").expect_err("two families");
        assert_eq!(refusal.kind(), Kind::BadInput);
        assert_eq!(
            refusal.to_string(),
            "source CIDR 0.0.0.0/0 and destination CIDR ::/0: they must be of one family, IPv4 or IPv6"
        );
    }

    #[test]
    fn other_text_is_no_cidr() {
        for text in
            ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0/8", "::/129", "10.0.0.0/255.0.0.0", "any", "/8"]
        {
            let error = parse_cidr(text).expect_err(text);
            assert!(error.to_string().contains("0 to 32 (IPv4) or 0 to 128 (IPv6)"), "{text}: {error}");
        }
    }

    #[test]
    fn only_tcp_and_udp_have_ports() {
        for protocol in [protocol::TCP, protocol::UDP] {
            rule(Some(protocol), Some("80-443"), Some("0")).check().expect("ports");
        }
        rule(Some(1), None, None).check().expect("no ports");
        rule(None, None, None).check().expect("no ports");
        let refusal = rule(Some(1), None, Some("80-443")).check().expect_err("icmp with ports");
        assert_eq!(refusal.kind(), Kind::BadInput);
        assert_eq!(
            refusal.to_string(),
            "destination port range 80-443: only protocols tcp (6) and udp (17) have ports, and the protocol is icmp"
        );
        let refusal = rule(None, Some("53"), None).check().expect_err("any protocol with ports");
        assert_eq!(
            refusal.to_string(),
            "source port range 53: only protocols tcp (6) and udp (17) have ports, and no protocol is set"
        );
    }

    #[test]
    fn port_ranges_run_forwards() {
        for (text, first, last) in [("80", 80, 80), ("80-443", 80, 443), ("0-65535", 0, 65535), ("7-7", 7, 7)] {
            let range: PortRange = text.parse().expect(text);
            assert_eq!((range.first(), range.last()), (first, last));
        }
        let error = |text: &str| text.parse::<PortRange>().expect_err(text).to_string();
        assert_eq!(error("443-80"), "the port range 443-80 runs backwards");
        for text in ["", "-", "80-", "-80", "65536", "80-65536", "80:443", "+80", "80 - 443", "http"] {
            assert_eq!(error(text), "ports are written 80 or 80-443, from 0 to 65535", "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in any::<String>(), source in "[0-9a-f:./-]{0,24}") {
            for text in [&text, &source] {
                let _ = text.parse::<PortRange>();
                let _ = text.parse::<Action>();
                let _ = parse_direction(text);
                let _ = addresses(text, "::/0");
            }
        }

        #[test]
        fn port_ranges_come_back(first: u16, last: u16) {
            if let Ok(range) = PortRange::new(first, last) {
                prop_assert_eq!(range.to_string().parse(), Ok(range));
            } else {
                prop_assert!(first > last);
            }
        }
    }
}
