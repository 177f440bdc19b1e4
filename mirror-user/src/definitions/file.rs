//! The TOML file: read with every error at its line, written so that it can be read again.
//!
//! The same layout has two uses ([`Form`]): the file that people write and `export` prints, and the one the store keeps.

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::net::IpAddr;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::Definitions;
use super::filter::{FilterDraft, FilterRule};
use super::id::RuleId;
use super::protocol;
use super::refusal::Refusal;
use super::rule::{self, Action, Addresses, PortRange, Rule};
use super::session::SessionDraft;
use super::target::{Destination, TargetDraft};
use super::text::{Description, Name, Tag, Tags, is_printable};
use crate::model::{Endpoint, InterfaceName, InvalidValue, Vni, ranged_number};

/// The version of the stored form that this program writes; it reads no newer one.
pub const VERSION: u64 = 1;

/// How many characters of a value an error shows.
const SHOWN_MAX: usize = 60;

ranged_number! {
    /// A UDP port of a target.
    Port(u16), 1..=u16::MAX, "a port"
}

/// Which of its uses a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people: without ids.
    Exchanged,
    /// For the store: with ids, and a version.
    Stored,
}

/// A file whose fields each have a valid value. Whether they fit together turns out when it is built.
#[derive(Clone, Debug)]
pub struct Document<'t> {
    text: &'t str,
    targets: Vec<At<TargetDraft>>,
    filters: Vec<At<FilterEntry>>,
    sessions: Vec<At<SessionDraft>>,
}

/// Definitions made of a file.
#[derive(Clone, Debug)]
pub struct Built {
    /// The definitions.
    pub definitions: Definitions,
    /// The sessions whose VNI was drawn just now.
    pub drawn_vnis: BTreeSet<Name>,
}

/// Something, and the offset in the text where it begins.
#[derive(Clone, Debug)]
struct At<T> {
    offset: usize,
    value: T,
}

#[derive(Clone, Debug)]
struct FilterEntry {
    draft: FilterDraft,
    rules: Vec<At<(Option<RuleId>, Rule)>>,
}

impl<'t> Document<'t> {
    /// Reads a file.
    pub fn parse(text: &'t str, form: Form) -> Result<Self, Refusal> {
        let root = DeTable::parse(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            // The parser's messages have lines of their own.
            let why = error.message().trim_end().replace('\n', ", ");
            Refusal::bad_input(why).at(line(text, offset))
        })?;
        let root = Table { text, form, kind: "the file", offset: 0, entries: root.get_ref() };
        if form == Form::Stored {
            // Before anything else: a newer version may have any key.
            require_known_version(&root)?;
        }
        let keys: &[&str] = if form == Form::Stored { &["version"] } else { &[] };
        root.require_known_keys(&[keys, &["target", "filter", "session"]].concat())?;
        Ok(Self {
            text,
            targets: root.tables("target")?.iter().map(read_target).collect::<Result<_, _>>()?,
            filters: root.tables("filter")?.iter().map(read_filter).collect::<Result<_, _>>()?,
            sessions: root.tables("session")?.iter().map(read_session).collect::<Result<_, _>>()?,
        })
    }

    /// The definitions that the file describes. What has the name (a rule: the filter, direction and number) of something
    /// in `previous` keeps its id; a session without a VNI keeps the one it has there.
    pub fn build(self, previous: &Definitions) -> Result<Built, Refusal> {
        let text = self.text;
        let mut definitions = Definitions::default();
        let mut ids = Ids::default();
        for At { offset, value: mut draft } in self.targets {
            let at = |refusal: Refusal| refusal.at(line(text, offset));
            ids.note(draft.id.as_ref()).map_err(at)?;
            draft.id = draft.id.or_else(|| previous.targets.get(&draft.name).map(|target| target.id));
            definitions.create_target(draft).map_err(at)?;
        }
        for At { offset, value: FilterEntry { mut draft, rules } } in self.filters {
            let at = |refusal: Refusal| refusal.at(line(text, offset));
            ids.note(draft.id.as_ref()).map_err(at)?;
            let known = previous.filters.get(&draft.name);
            draft.id = draft.id.or_else(|| known.map(|filter| filter.id));
            let name = draft.name.clone();
            definitions.create_filter(draft).map_err(at)?;
            for At { offset, value: (id, rule) } in rules {
                let at = |refusal: Refusal| refusal.at(line(text, offset));
                ids.note(id.as_ref()).map_err(at)?;
                let known = known.and_then(|filter| filter.rule(rule.direction, rule.number));
                definitions.add_rule(&name, rule, id.or_else(|| known.map(|rule| rule.id))).map_err(at)?;
            }
        }
        let given: BTreeSet<Vni> = self.sessions.iter().filter_map(|session| session.value.vni).collect();
        let mut drawn_vnis = BTreeSet::new();
        // Those with a VNI first: one that is drawn must not be the one that another session asks for.
        let (with_vni, without_vni): (Vec<_>, Vec<_>) =
            self.sessions.into_iter().partition(|session| session.value.vni.is_some());
        let mut drawn = Vec::new();
        for At { offset, value: mut draft } in without_vni {
            draft.vni = previous.sessions.get(&draft.name).map(|known| known.vni).filter(|vni| !given.contains(vni));
            drawn.push(At { offset, value: draft });
        }
        // Kept ones next, for the same reason.
        drawn.sort_by_key(|session| session.value.vni.is_none());
        for At { offset, value: mut draft } in with_vni.into_iter().chain(drawn) {
            let at = |refusal: Refusal| refusal.at(line(text, offset));
            ids.note(draft.id.as_ref()).map_err(at)?;
            draft.id = draft.id.or_else(|| previous.sessions.get(&draft.name).map(|session| session.id));
            if draft.vni.is_none() {
                drawn_vnis.insert(draft.name.clone());
            }
            definitions.create_session(draft).map_err(at)?;
        }
        Ok(Built { definitions, drawn_vnis })
    }
}

/// The ids of a file: no two things have one.
#[derive(Debug, Default)]
struct Ids(BTreeSet<String>);

impl Ids {
    fn note(&mut self, id: Option<&impl fmt::Display>) -> Result<(), Refusal> {
        match id {
            Some(id) if !self.0.insert(id.to_string()) => {
                Err(Refusal::bad_input(format_args!("id {id}: something else has it already")))
            }
            _ => Ok(()),
        }
    }
}

fn require_known_version(root: &Table<'_, '_>) -> Result<(), Refusal> {
    let field = root.require("version", "this is no file of mirrorctl's store")?;
    let version = field.value.get_ref().as_integer().and_then(|integer| integer.as_str().parse::<u64>().ok());
    match version {
        Some(version) if version > VERSION => Err(Refusal::failed(format_args!(
            "a newer mirrorctl wrote it (version {version}; this one knows {VERSION})"
        ))
        .hint("use the mirrorctl that wrote it")),
        Some(1..) => Ok(()),
        _ => Err(field.refuse(format_args!("the version must be 1 to {VERSION}"))),
    }
}

fn read_target(table: &Table<'_, '_>) -> Result<At<TargetDraft>, Refusal> {
    table.require_known_keys(&["name", "address", "port", "interface", "description", "tags"])?;
    let port = table.field("port");
    let destination = match (table.field("address"), table.field("interface")) {
        (Some(address), None) => Destination::Address(Endpoint {
            address: address.string()?.parse::<IpAddr>().map_err(|_| {
                address
                    .refuse("an address is IPv4 or IPv6, such as 192.0.2.1 or 2001:db8::1; 'port' is a key of its own")
            })?,
            port: match port {
                Some(port) => port.number::<Port>()?.get(),
                None => mirror_common::vxlan::DEFAULT_PORT,
            },
        }),
        (None, Some(interface)) => {
            if let Some(port) = port {
                return Err(port.refuse("only a target with an address has a port"));
            }
            Destination::Interface(interface.parse::<InterfaceName>()?)
        }
        (Some(_), Some(interface)) => {
            return Err(interface.refuse("a target has an address or an interface, not both"));
        }
        (None, None) => return Err(table.refuse("a target has an 'address' or an 'interface', and here is neither")),
    };
    let draft = TargetDraft {
        id: table.id()?,
        name: table.require("name", "")?.parse()?,
        destination,
        description: table.description()?,
        tags: table.tags()?,
    };
    Ok(At { offset: table.offset, value: draft })
}

fn read_filter(table: &Table<'_, '_>) -> Result<At<FilterEntry>, Refusal> {
    table.require_known_keys(&["name", "network_services", "mirror_non_ip", "rule", "description", "tags"])?;
    let draft = FilterDraft {
        id: table.id()?,
        name: table.require("name", "")?.parse()?,
        description: table.description()?,
        tags: table.tags()?,
        network_services_dns: match table.field("network_services") {
            Some(field) => field.network_services()?,
            None => false,
        },
        mirror_non_ip: match table.field("mirror_non_ip") {
            Some(field) => field.boolean()?,
            None => false,
        },
    };
    let rules = table.tables("rule")?.iter().map(read_rule).collect::<Result<_, _>>()?;
    Ok(At { offset: table.offset, value: FilterEntry { draft, rules } })
}

fn read_rule(table: &Table<'_, '_>) -> Result<At<(Option<RuleId>, Rule)>, Refusal> {
    table.require_known_keys(&[
        "number",
        "direction",
        "action",
        "protocol",
        "source",
        "destination",
        "source_ports",
        "destination_ports",
        "description",
    ])?;
    let cidr = |key| {
        let field = table.require(key, "a CIDR; 0.0.0.0/0 or ::/0 for all")?;
        rule::parse_cidr(field.string()?).map_err(|error| field.refuse(error))
    };
    let ports = |key| table.field(key).map(|field| field.parse_text_or_number::<PortRange>()).transpose();
    let rule = Rule {
        number: table.require("number", "a rule number is 1 to 32766")?.number()?,
        direction: {
            let field = table.require("direction", "ingress or egress")?;
            rule::parse_direction(field.string()?).map_err(|error| field.refuse(error))?
        },
        action: table.require("action", "accept or reject")?.parse::<Action>()?,
        protocol: match table.field("protocol") {
            Some(field) => {
                let text = field.text_or_number().map_or_else(|| field.string(), Ok)?;
                Some(protocol::parse(text).map_err(|error| field.refuse(error))?)
            }
            None => None,
        },
        addresses: Addresses::new(cidr("source")?, cidr("destination")?).map_err(|refusal| {
            // Both make the refusal; of the two, the source comes first.
            refusal.at(line(table.text, table.field("source").map_or(table.offset, |field| field.span().start)))
        })?,
        source_ports: ports("source_ports")?,
        destination_ports: ports("destination_ports")?,
        description: table.description()?.map(String::from),
    };
    Ok(At { offset: table.offset, value: (table.id()?, rule) })
}

fn read_session(table: &Table<'_, '_>) -> Result<At<SessionDraft>, Refusal> {
    table.require_known_keys(&[
        "name",
        "number",
        "source",
        "target",
        "filter",
        "vni",
        "packet_length",
        "description",
        "tags",
    ])?;
    let draft = SessionDraft {
        id: table.id()?,
        name: table.require("name", "")?.parse()?,
        source: table.require("source", "the interface to mirror")?.parse::<InterfaceName>()?,
        target: table.require("target", "the name of a target")?.parse()?,
        filter: table.require("filter", "the name of a filter")?.parse()?,
        number: table.require("number", "a session number is 1 to 32766")?.number()?,
        vni: table.field("vni").map(|field| field.number()).transpose()?,
        packet_length: table.field("packet_length").map(|field| field.number()).transpose()?,
        description: table.description()?,
        tags: table.tags()?,
    };
    Ok(At { offset: table.offset, value: draft })
}

/// A table of the file.
struct Table<'a, 't> {
    text: &'t str,
    form: Form,
    /// The word for it in errors.
    kind: &'static str,
    offset: usize,
    entries: &'a DeTable<'t>,
}

/// A key and its value.
struct Field<'a, 't> {
    text: &'t str,
    key: &'a str,
    value: &'a Spanned<DeValue<'t>>,
}

impl<'a, 't> Table<'a, 't> {
    fn refuse(&self, why: impl fmt::Display) -> Refusal {
        Refusal::bad_input(why).at(line(self.text, self.offset))
    }

    fn require_known_keys(&self, known: &[&str]) -> Result<(), Refusal> {
        let is_known = |key: &str| known.contains(&key) || key == "id" && self.has_id();
        let unknown = self.entries.keys().filter(|key| !is_known(key.get_ref()));
        let Some(first) = unknown.min_by_key(|key| key.span().start) else {
            return Ok(());
        };
        Err(Refusal::bad_input(format_args!(
            "unknown key '{}' in {}; it can have {}",
            printable(first.get_ref()),
            self.kind,
            known.join(", ")
        ))
        .at(line(self.text, first.span().start)))
    }

    fn has_id(&self) -> bool {
        self.form == Form::Stored && self.offset != 0
    }

    fn field(&self, key: &'static str) -> Option<Field<'a, 't>> {
        self.entries.get(key).map(|value| Field { text: self.text, key, value })
    }

    /// The field, or an error that says what belongs there.
    fn require(&self, key: &'static str, what: &str) -> Result<Field<'a, 't>, Refusal> {
        self.field(key).ok_or_else(|| {
            let colon = if what.is_empty() { "" } else { ": " };
            self.refuse(format_args!("{} has no key '{key}'{colon}{what}", self.kind))
        })
    }

    /// The tables of an array of tables.
    fn tables(&self, key: &'static str) -> Result<Vec<Table<'a, 't>>, Refusal> {
        let Some(field) = self.field(key) else {
            return Ok(Vec::new());
        };
        let path = if key == "rule" { "filter.rule" } else { key };
        let not_tables = |span: Range<usize>| {
            Refusal::bad_input(format_args!("'{key}' is a list of tables: each starts with [[{path}]]"))
                .at(line(self.text, span.start))
        };
        let array = field.value.get_ref().as_array().ok_or_else(|| not_tables(field.span()))?;
        let table = |value: &'a Spanned<DeValue<'t>>| {
            let entries = value.get_ref().as_table().ok_or_else(|| not_tables(value.span()))?;
            Ok(Table { text: self.text, form: self.form, kind: key, offset: value.span().start, entries })
        };
        array.iter().map(table).collect()
    }

    /// The id that everything in a store has, and nothing elsewhere.
    fn id<T: FromStr<Err = InvalidValue>>(&self) -> Result<Option<T>, Refusal> {
        if !self.has_id() {
            return Ok(None);
        }
        self.require("id", "everything in the store has one")?.parse().map(Some)
    }

    fn description(&self) -> Result<Option<Description>, Refusal> {
        self.field("description").map(|field| field.parse()).transpose()
    }

    fn tags(&self) -> Result<Tags, Refusal> {
        let Some(field) = self.field("tags") else {
            return Ok(Tags::default());
        };
        let tags =
            field.value.get_ref().as_table().ok_or_else(|| field.refuse("tags are a table: { key = \"value\" }"))?;
        let tag = |(key, value): (&Spanned<DeString<'t>>, &'a Spanned<DeValue<'t>>)| {
            let field = Field { text: self.text, key: "tag", value };
            Tag::new(key.get_ref(), field.string()?)
                .map_err(|error| Refusal::bad_input(error).at(line(self.text, key.span().start)))
        };
        let tags = tags.iter().map(tag).collect::<Result<Vec<_>, Refusal>>()?;
        Tags::new(tags).map_err(|refusal| refusal.at(line(self.text, field.span().start)))
    }
}

impl<'a, 't> Field<'a, 't> {
    fn span(&self) -> Range<usize> {
        self.value.span()
    }

    fn refuse(&self, why: impl fmt::Display) -> Refusal {
        let written = self.text.get(self.span()).unwrap_or_default();
        Refusal::bad_input(format_args!("{} = {}: {why}", self.key, printable(written)))
            .at(line(self.text, self.span().start))
    }

    fn string(&self) -> Result<&'a str, Refusal> {
        self.value.get_ref().as_str().ok_or_else(|| self.refuse("it must be text in quotes"))
    }

    fn boolean(&self) -> Result<bool, Refusal> {
        self.value.get_ref().as_bool().ok_or_else(|| self.refuse("it must be true or false"))
    }

    fn parse<T: FromStr<Err = InvalidValue>>(&self) -> Result<T, Refusal> {
        self.string()?.parse().map_err(|error| self.refuse(error))
    }

    /// Text, or the digits of a decimal number.
    fn text_or_number(&self) -> Option<&'a str> {
        let value = self.value.get_ref();
        let digits = value.as_integer().filter(|integer| integer.radix() == 10).map(|integer| integer.as_str());
        digits.or_else(|| value.as_str())
    }

    fn parse_text_or_number<T: FromStr<Err = InvalidValue>>(&self) -> Result<T, Refusal> {
        let text = self.text_or_number().map_or_else(|| self.string(), Ok)?;
        text.parse().map_err(|error| self.refuse(error))
    }

    fn number<T: TryFrom<u64, Error = InvalidValue>>(&self) -> Result<T, Refusal> {
        let Some(integer) = self.value.get_ref().as_integer() else {
            // No range reaches that far: the error tells the range.
            let why = T::try_from(u64::MAX).err().unwrap_or_else(|| InvalidValue::new("it must be a number"));
            return Err(self.refuse(format_args!("{why}, as a whole number without quotes")));
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(u64::MAX);
        T::try_from(number).map_err(|error| self.refuse(error))
    }

    /// Whether DNS is among the network services.
    fn network_services(&self) -> Result<bool, Refusal> {
        let invalid = || self.refuse("it is a list of network services, and the only one there is is \"dns\"");
        let services = self.value.get_ref().as_array().ok_or_else(invalid)?;
        if services.iter().any(|service| service.get_ref().as_str() != Some("dns")) {
            return Err(invalid());
        }
        Ok(!services.is_empty())
    }
}

/// "line N", of the line that `offset` is in.
fn line(text: &str, offset: usize) -> String {
    let before = &text.as_bytes()[..offset.min(text.len())];
    format!("line {}", 1 + before.iter().filter(|byte| **byte == b'\n').count())
}

/// What people wrote, fit for an error: not too long, and on one line.
fn printable(written: &str) -> String {
    let mut shown = String::new();
    for (index, character) in written.chars().enumerate() {
        if index == SHOWN_MAX {
            shown.push('…');
            break;
        }
        if is_printable(character.encode_utf8(&mut [0; 4])) {
            shown.push(character);
        } else {
            shown.extend(character.escape_default());
        }
    }
    shown
}

/// The file that says what the definitions say.
pub fn write(definitions: &Definitions, form: Form) -> String {
    let mut file = Writer { form, text: String::new() };
    if form == Form::Stored {
        file.text.push_str("# The store of mirrorctl: change it with mirrorctl only.\n");
        file.line("version", VERSION);
    }
    for target in definitions.targets() {
        file.table("target", &target.id);
        file.line("name", quoted(target.name.as_str()));
        match &target.destination {
            Destination::Address(endpoint) => {
                file.line("address", quoted(&endpoint.address.to_string()));
                file.line("port", endpoint.port);
            }
            Destination::Interface(interface) => file.line("interface", quoted(interface.as_str())),
        }
        file.description(target.description.as_ref().map(Description::as_str));
        file.tags(&target.tags);
    }
    for filter in definitions.filters() {
        file.table("filter", &filter.id);
        file.line("name", quoted(filter.name.as_str()));
        if filter.network_services_dns {
            file.line("network_services", "[\"dns\"]");
        }
        if filter.mirror_non_ip {
            file.line("mirror_non_ip", true);
        }
        file.description(filter.description.as_ref().map(Description::as_str));
        file.tags(&filter.tags);
        for rule in filter.all_rules() {
            file.rule(rule);
        }
    }
    for session in definitions.sessions() {
        file.table("session", &session.id);
        file.line("name", quoted(session.name.as_str()));
        file.line("number", session.number);
        file.line("source", quoted(session.source.as_str()));
        file.line("target", quoted(session.target.as_str()));
        file.line("filter", quoted(session.filter.as_str()));
        file.line("vni", session.vni);
        if let Some(length) = session.packet_length {
            file.line("packet_length", length);
        }
        file.description(session.description.as_ref().map(Description::as_str));
        file.tags(&session.tags);
    }
    file.text
}

struct Writer {
    form: Form,
    text: String,
}

impl Writer {
    fn table(&mut self, name: &str, id: &impl fmt::Display) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        writeln!(self.text, "[[{name}]]").expect("a String takes everything");
        if self.form == Form::Stored {
            self.line("id", quoted(&id.to_string()));
        }
    }

    fn line(&mut self, key: &str, value: impl fmt::Display) {
        writeln!(self.text, "{key} = {value}").expect("a String takes everything");
    }

    fn description(&mut self, description: Option<&str>) {
        if let Some(description) = description {
            self.line("description", quoted(description));
        }
    }

    fn tags(&mut self, tags: &Tags) {
        if !tags.is_empty() {
            let tags: Vec<_> = tags.iter().map(|(key, value)| format!("{} = {}", key_of(key), quoted(value))).collect();
            self.line("tags", format_args!("{{ {} }}", tags.join(", ")));
        }
    }

    fn rule(&mut self, FilterRule { id, rule }: &FilterRule) {
        self.table("filter.rule", id);
        self.line("number", rule.number);
        self.line("direction", quoted(rule.direction.name()));
        self.line("action", quoted(rule.action.name()));
        if let Some(protocol) = rule.protocol {
            self.line("protocol", quoted(&protocol::text(protocol)));
        }
        self.line("source", quoted(&rule.addresses.source().to_string()));
        self.line("destination", quoted(&rule.addresses.destination().to_string()));
        if let Some(ports) = rule.source_ports {
            self.line("source_ports", quoted(&ports.to_string()));
        }
        if let Some(ports) = rule.destination_ports {
            self.line("destination_ports", quoted(&ports.to_string()));
        }
        self.description(rule.description.as_deref());
    }
}

/// A TOML basic string. Nothing in definitions has a control character; if it had, it would be escaped all the same.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            character if character.is_control() => {
                write!(quoted, "\\u{:04X}", u32::from(character)).expect("a String takes everything");
            }
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// A key of a TOML table, bare where it can be.
fn key_of(text: &str) -> String {
    let bare = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if bare { text.to_owned() } else { quoted(text) }
}
