//! The arguments of the commands that read and change definitions.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use mirror_common::policy::Direction;

use crate::definitions::protocol;
use crate::definitions::rule::{Action, PortRange, RuleNumber, parse_cidr, parse_direction};
use crate::definitions::text::{Description, Name, Tag};
use crate::model::{Endpoint, InterfaceName, InvalidValue, PacketLength, SessionNumber, Vni};

/// Commands on targets.
#[derive(Debug, Subcommand)]
pub enum Target {
    /// Make a target: where copies go
    Create(TargetCreate),
    /// List all targets
    List,
    /// Show a target
    Show(Reference),
    /// Delete a target that no session uses
    Delete(Reference),
}

/// Commands on filters.
#[derive(Debug, Subcommand)]
pub enum Filter {
    /// Make a filter, without rules at first
    Create(FilterCreate),
    /// Change what is given, leave the rest
    Modify(FilterModify),
    /// List all filters
    List,
    /// Show a filter and its rules
    Show(Reference),
    /// Delete a filter that no session uses, and its rules
    Delete(Reference),
}

/// Commands on rules.
#[derive(Debug, Subcommand)]
pub enum Rule {
    /// Add a rule to a filter
    Add(RuleAdd),
    /// Change what is given, leave the rest
    Modify(RuleModify),
    /// List the rules of a filter
    List(RuleList),
    /// Delete a rule
    Delete(RuleDelete),
}

/// Commands on sessions.
#[derive(Debug, Subcommand)]
pub enum Session {
    /// Make a session: source, target and filter
    Create(SessionCreate),
    /// Change what is given, leave the rest
    Modify(SessionModify),
    /// List all sessions
    List,
    /// Show a session
    Show(Reference),
    /// Delete a session; asks for the word 'delete' first
    Delete(SessionDelete),
}

/// Commands on tags.
#[derive(Debug, Subcommand)]
pub enum Tags {
    /// Set tags, new ones and ones that are there
    Set(TagSet),
    /// Remove tags
    Remove(TagRemove),
}

/// A resource that a command is about.
#[derive(Debug, Args)]
pub struct Reference {
    /// Its name or id
    #[arg(value_name = "NAME|ID")]
    pub name_or_id: String,
}

/// What every resource can be given.
#[derive(Debug, Args)]
pub struct About {
    /// What it is for: at most 255 characters
    #[arg(long, value_name = "TEXT")]
    pub description: Option<Description>,
    /// A tag; can be given up to 50 times
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub tags: Vec<Tag>,
}

/// Arguments of `target create`.
#[derive(Debug, Args)]
pub struct TargetCreate {
    /// The name of the new target
    pub name: Name,
    /// Where copies go, and how
    #[command(flatten)]
    pub destination: TargetDestination,
    /// Description and tags.
    #[command(flatten)]
    pub about: About,
}

/// An address or an interface.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct TargetDestination {
    /// The collector: an IPv4 or IPv6 address, with an optional UDP port (default 4789)
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub address: Option<Endpoint>,
    /// A device of this host that gets the bare frames
    #[arg(long, value_name = "IFACE")]
    pub interface: Option<InterfaceName>,
}

/// Values of `--network-service`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NetworkService {
    /// Traffic to and from port 53 of this host's resolvers
    Dns,
}

/// Arguments of `filter create`.
#[derive(Debug, Args)]
pub struct FilterCreate {
    /// The name of the new filter
    pub name: Name,
    /// Accept the traffic of a network service ahead of the rules, both directions
    #[arg(long = "network-service", value_name = "SERVICE")]
    pub network_services: Vec<NetworkService>,
    /// Accept frames that are neither IPv4 nor IPv6, after the rules
    #[arg(long)]
    pub mirror_non_ip: bool,
    /// Description and tags.
    #[command(flatten)]
    pub about: About,
}

/// Fields that `filter modify` can unset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FilterField {
    /// No network service is accepted ahead of the rules
    NetworkService,
    /// Frames that are not IP are not accepted
    MirrorNonIp,
    /// No description
    Description,
}

/// Arguments of `filter modify`.
#[derive(Debug, Args)]
pub struct FilterModify {
    /// The filter.
    #[command(flatten)]
    pub filter: Reference,
    /// Accept the traffic of a network service ahead of the rules, both directions
    #[arg(long = "network-service", value_name = "SERVICE")]
    pub network_services: Vec<NetworkService>,
    /// Accept frames that are neither IPv4 nor IPv6, after the rules
    #[arg(long)]
    pub mirror_non_ip: bool,
    /// Description and tags.
    #[command(flatten)]
    pub about: About,
    /// Put a field back to what it is when it's not set
    #[arg(long = "remove-field", value_name = "FIELD")]
    pub remove_fields: Vec<FilterField>,
}

/// Arguments of `rule add`.
#[derive(Debug, Args)]
pub struct RuleAdd {
    /// The name or id of the filter
    #[arg(value_name = "FILTER")]
    pub filter: String,
    /// Which packets of the source: those it receives (ingress) or those it sends (egress)
    #[arg(long, value_parser = direction_parser())]
    pub direction: Direction,
    /// Its place: 1 to 32766, ascending; the first rule that matches decides
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub rule_number: RuleNumber,
    /// What to do with a packet that matches
    #[arg(long, value_parser = action_parser())]
    pub action: Action,
    /// IP protocol, by number or name (tcp, udp, icmp, icmpv6, …); all when not given
    #[arg(long, value_name = "P", value_parser = parse_protocol, allow_negative_numbers = true)]
    pub protocol: Option<Protocol>,
    /// Where packets come from, such as 0.0.0.0/0 or 2001:db8::/32
    #[arg(long, value_name = "CIDR", value_parser = parse_cidr)]
    pub source_cidr: IpNet,
    /// Where they go, of the same family
    #[arg(long, value_name = "CIDR", value_parser = parse_cidr)]
    pub destination_cidr: IpNet,
    /// Source ports, such as 80 or 80-443; only with protocol tcp or udp; all when not given
    #[arg(long, value_name = "A-B", allow_hyphen_values = true)]
    pub source_port_range: Option<PortRange>,
    /// Destination ports, likewise
    #[arg(long, value_name = "A-B", allow_hyphen_values = true)]
    pub destination_port_range: Option<PortRange>,
    /// What it is for: at most 255 characters
    #[arg(long, value_name = "TEXT")]
    pub description: Option<Description>,
}

/// Fields that `rule modify` can unset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RuleField {
    /// All protocols
    Protocol,
    /// All source ports
    SourcePortRange,
    /// All destination ports
    DestinationPortRange,
    /// No description
    Description,
}

/// Arguments of `rule modify`.
#[derive(Debug, Args)]
pub struct RuleModify {
    /// The name or id of the filter, with --direction and --rule-number; or the id of the rule
    #[arg(value_name = "FILTER|RULE-ID")]
    pub filter_or_rule: String,
    /// The direction of the rule; after the id of a rule, its new direction
    #[arg(long, value_parser = direction_parser())]
    pub direction: Option<Direction>,
    /// The number of the rule, 1 to 32766; after the id of a rule, its new number
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub rule_number: Option<RuleNumber>,
    /// What to do with a packet that matches
    #[arg(long, value_parser = action_parser())]
    pub action: Option<Action>,
    /// IP protocol, by number or name (tcp, udp, icmp, icmpv6, …)
    #[arg(long, value_name = "P", value_parser = parse_protocol, allow_negative_numbers = true)]
    pub protocol: Option<Protocol>,
    /// Where packets come from, such as 0.0.0.0/0 or 2001:db8::/32
    #[arg(long, value_name = "CIDR", value_parser = parse_cidr)]
    pub source_cidr: Option<IpNet>,
    /// Where they go, of the same family
    #[arg(long, value_name = "CIDR", value_parser = parse_cidr)]
    pub destination_cidr: Option<IpNet>,
    /// Source ports, such as 80 or 80-443; only with protocol tcp or udp
    #[arg(long, value_name = "A-B", allow_hyphen_values = true)]
    pub source_port_range: Option<PortRange>,
    /// Destination ports, likewise
    #[arg(long, value_name = "A-B", allow_hyphen_values = true)]
    pub destination_port_range: Option<PortRange>,
    /// What it is for: at most 255 characters
    #[arg(long, value_name = "TEXT")]
    pub description: Option<Description>,
    /// Put a field back to what it is when it's not set
    #[arg(long = "remove-field", value_name = "FIELD")]
    pub remove_fields: Vec<RuleField>,
}

/// Arguments of `rule list`.
#[derive(Debug, Args)]
pub struct RuleList {
    /// The name or id of the filter
    #[arg(value_name = "FILTER")]
    pub filter: String,
}

/// Arguments of `rule delete`.
#[derive(Debug, Args)]
pub struct RuleDelete {
    /// The name or id of the filter, with --direction and --rule-number; or the id of the rule
    #[arg(value_name = "FILTER|RULE-ID")]
    pub filter_or_rule: String,
    /// The direction of the rule
    #[arg(long, value_parser = direction_parser())]
    pub direction: Option<Direction>,
    /// The number of the rule, 1 to 32766
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub rule_number: Option<RuleNumber>,
}

/// Arguments of `session create`.
#[derive(Debug, Args)]
pub struct SessionCreate {
    /// The name of the new session
    pub name: Name,
    /// The interface to mirror
    #[arg(long, value_name = "IFACE")]
    pub source: InterfaceName,
    /// The name or id of the target
    #[arg(long, value_name = "TARGET")]
    pub target: String,
    /// The name or id of the filter
    #[arg(long, value_name = "FILTER")]
    pub filter: String,
    /// Its place among the sessions of the source: 1 to 32766; 1 is the highest priority
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub session_number: SessionNumber,
    /// VXLAN network identifier, 0 to 16777215; random when not given
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub vni: Option<Vni>,
    /// Copy only the first N bytes of a packet, 1 to 8500; the whole packet when not given
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub packet_length: Option<PacketLength>,
    /// Description and tags.
    #[command(flatten)]
    pub about: About,
}

/// Fields that `session modify` can unset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SessionField {
    /// Copy whole packets
    PacketLength,
    /// Draw a random VNI
    Vni,
    /// No description
    Description,
}

/// Arguments of `session modify`.
#[derive(Debug, Args)]
pub struct SessionModify {
    /// The session.
    #[command(flatten)]
    pub session: Reference,
    /// The name or id of the target
    #[arg(long, value_name = "TARGET")]
    pub target: Option<String>,
    /// The name or id of the filter
    #[arg(long, value_name = "FILTER")]
    pub filter: Option<String>,
    /// Its place among the sessions of the source: 1 to 32766; 1 is the highest priority
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub session_number: Option<SessionNumber>,
    /// VXLAN network identifier, 0 to 16777215
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub vni: Option<Vni>,
    /// Copy only the first N bytes of a packet, 1 to 8500
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub packet_length: Option<PacketLength>,
    /// Description and tags.
    #[command(flatten)]
    pub about: About,
    /// Put a field back to what it is when it's not set
    #[arg(long = "remove-field", value_name = "FIELD")]
    pub remove_fields: Vec<SessionField>,
}

/// Arguments of `session delete`.
#[derive(Debug, Args)]
pub struct SessionDelete {
    /// The session.
    #[command(flatten)]
    pub session: Reference,
    /// Delete it without asking
    #[arg(long)]
    pub yes: bool,
}

/// Arguments of `tag set`.
#[derive(Debug, Args)]
pub struct TagSet {
    /// The target, filter or session.
    #[command(flatten)]
    pub resource: Reference,
    /// The tags
    #[arg(required = true, value_name = "KEY=VALUE")]
    pub tags: Vec<Tag>,
}

/// Arguments of `tag remove`.
#[derive(Debug, Args)]
pub struct TagRemove {
    /// The target, filter or session.
    #[command(flatten)]
    pub resource: Reference,
    /// The keys of the tags
    #[arg(required = true, value_name = "KEY")]
    pub keys: Vec<String>,
}

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// The file; - reads standard input
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub file: PathBuf,
    /// Change nothing, print what would be changed
    #[arg(long)]
    pub dry_run: bool,
}

/// An IP protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol(pub u8);

fn parse_protocol(text: &str) -> Result<Protocol, InvalidValue> {
    protocol::parse(text).map(Protocol)
}

pub(super) fn direction_parser() -> impl TypedValueParser<Value = Direction> {
    PossibleValuesParser::new(Direction::ALL.map(Direction::name)).try_map(|text| parse_direction(&text))
}

fn action_parser() -> impl TypedValueParser<Value = Action> {
    PossibleValuesParser::new(Action::ALL.map(Action::name)).try_map(|text| text.parse::<Action>())
}
