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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Kind;

    /// The file of the manual, with every key there is.
    const WHOLE: &str = r#"[[target]]
name = "zeek"
address = "10.2.0.2"           # or interface = "tap0"
port = 4789
description = "the sensor"
[[target]]
name = "span"
interface = "tap0"
[[filter]]
name = "web"
network_services = ["dns"]
mirror_non_ip = true
[[filter.rule]]
number = 100
direction = "ingress"
action = "accept"
protocol = "tcp"
source = "0.0.0.0/0"
destination = "0.0.0.0/0"
source_ports = 1024
destination_ports = "80-443"
description = "web"
[[session]]
name = "web-to-zeek"
number = 1
source = "eth0"
target = "zeek"
filter = "web"
vni = 42
packet_length = 128
description = "what comes in"
tags = { team = "secops", "a b" = "" }
"#;

    fn read(text: &str) -> Result<Definitions, Refusal> {
        Ok(Document::parse(text, Form::Exchanged)?.build(&Definitions::default())?.definitions)
    }

    /// What is said when the first `from` of the whole file is `to`.
    fn refused(from: &str, to: &str) -> (Kind, String) {
        assert!(WHOLE.contains(from), "{from}");
        let refusal = read(&WHOLE.replacen(from, to, 1)).expect_err(to);
        (refusal.kind(), refusal.to_string())
    }

    fn bad(from: &str, to: &str) -> String {
        let (kind, why) = refused(from, to);
        assert_eq!(kind, Kind::BadInput, "{why}");
        why
    }

    #[test]
    fn the_whole_file_is_read_and_written() {
        let definitions = read(WHOLE).expect("valid");
        assert_eq!(
            write(&definitions, Form::Exchanged),
            r#"[[target]]
name = "span"
interface = "tap0"

[[target]]
name = "zeek"
address = "10.2.0.2"
port = 4789
description = "the sensor"

[[filter]]
name = "web"
network_services = ["dns"]
mirror_non_ip = true

[[filter.rule]]
number = 100
direction = "ingress"
action = "accept"
protocol = "tcp"
source = "0.0.0.0/0"
destination = "0.0.0.0/0"
source_ports = "1024"
destination_ports = "80-443"
description = "web"

[[session]]
name = "web-to-zeek"
number = 1
source = "eth0"
target = "zeek"
filter = "web"
vni = 42
packet_length = 128
description = "what comes in"
tags = { "a b" = "", team = "secops" }
"#
        );
        assert_eq!(read("").expect("nothing"), Definitions::default());
        assert_eq!(write(&Definitions::default(), Form::Exchanged), "");
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let text = WHOLE
            .lines()
            .filter(|line| {
                let key = line.split(' ').next().unwrap_or_default();
                !matches!(
                    key,
                    "port"
                        | "description"
                        | "network_services"
                        | "mirror_non_ip"
                        | "protocol"
                        | "source_ports"
                        | "destination_ports"
                        | "vni"
                        | "packet_length"
                        | "tags"
                )
            })
            .collect::<Vec<_>>()
            .join("\n");
        let definitions = read(&text).expect("valid");
        let target = definitions.target("zeek").expect("target");
        assert_eq!(target.destination.to_string(), "10.2.0.2:4789");
        assert_eq!((&target.description, target.tags.is_empty()), (&None, true));
        let filter = definitions.filter("web").expect("filter");
        assert!(!filter.network_services_dns && !filter.mirror_non_ip);
        let rule = &filter.all_rules().next().expect("a rule").rule;
        assert_eq!((rule.protocol, rule.source_ports, rule.destination_ports), (None, None, None));
        assert_eq!(definitions.session("web-to-zeek").expect("session").packet_length, None);
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let cases = [
            ("number = 1\n", "number", "a session number must be 1 to 32766", &["0", "32767", "-1", "1_000_000"][..]),
            ("number = 100\n", "number", "a rule number must be 1 to 32766", &["0", "32767"]),
            ("vni = 42\n", "vni", "a VNI must be 0 to 16777215", &["16777216", "-1", "0x1000000"]),
            ("packet_length = 128\n", "packet_length", "a packet length must be 1 to 8500", &["0", "8501"]),
            ("port = 4789\n", "port", "a port must be 1 to 65535", &["0", "65536", "99999999999999999999999999"]),
        ];
        for (from, key, range, values) in cases {
            let line = line(WHOLE, WHOLE.find(&format!("\n{from}")).expect(from) + 1);
            for value in values {
                let expected = format!("{line}: {key} = {value}: {range}");
                assert_eq!(bad(&format!("\n{from}"), &format!("\n{key} = {value}\n")), expected);
            }
            let expected = format!("{line}: {key} = \"7\": {range}, as a whole number without quotes");
            assert_eq!(bad(&format!("\n{from}"), &format!("\n{key} = \"7\"\n")), expected);
        }
        read(&WHOLE.replacen("vni = 42", "vni = 0xffffff", 1)).expect("the highest VNI");
    }

    #[test]
    fn unknown_keys_are_refused_with_their_line() {
        assert_eq!(
            bad("packet_length", "packet_lenght"),
            "line 30: unknown key 'packet_lenght' in session; it can have name, number, source, target, filter, vni, \
             packet_length, description, tags"
        );
        assert!(
            bad("port = ", "prot = ").starts_with("line 4: unknown key 'prot' in target; it can have name, address, ")
        );
        assert!(
            bad("mirror_non_ip", "mirror_ip").starts_with("line 12: unknown key 'mirror_ip' in filter; it can have ")
        );
        assert!(bad("protocol", "proto").starts_with("line 17: unknown key 'proto' in rule; it can have number, "));
        assert_eq!(
            bad("[[target]]", "targets = 1\n[[target]]"),
            "line 1: unknown key 'targets' in the file; it can have target, filter, session"
        );
        assert!(bad("[[target]]", "version = 1\n[[target]]").starts_with("line 1: unknown key 'version'"));
        assert!(
            bad("name = \"zeek\"", "id = \"tmt-00000000000000000\"").starts_with("line 2: unknown key 'id' in target")
        );
        let odd = bad("port = ", "\"\\u001b[2J\" = 1\nport = ");
        assert!(odd.starts_with("line 4: unknown key '\\u{1b}[2J' in target"), "{odd}");
    }

    #[test]
    fn keys_that_are_missing_are_named() {
        for (from, expected) in [
            ("name = \"web\"\n", "line 9: filter has no key 'name'"),
            ("number = 100\n", "line 13: rule has no key 'number': a rule number is 1 to 32766"),
            ("direction = \"ingress\"\n", "line 13: rule has no key 'direction': ingress or egress"),
            ("action = \"accept\"\n", "line 13: rule has no key 'action': accept or reject"),
            ("source = \"0.0.0.0/0\"\n", "line 13: rule has no key 'source': a CIDR; 0.0.0.0/0 or ::/0 for all"),
            ("number = 1\n", "line 23: session has no key 'number': a session number is 1 to 32766"),
            ("source = \"eth0\"\n", "line 23: session has no key 'source': the interface to mirror"),
            ("target = \"zeek\"\n", "line 23: session has no key 'target': the name of a target"),
            ("interface = \"tap0\"\n[", "line 6: a target has an 'address' or an 'interface', and here is neither"),
        ] {
            assert_eq!(bad(from, if from.ends_with('[') { "[" } else { "" }), expected);
        }
    }

    #[test]
    fn values_that_cannot_be_meant_are_refused() {
        let cidr = "a CIDR is an address and a prefix length of 0 to 32 (IPv4) or 0 to 128 (IPv6): 192.0.2.0/24, \
                    2001:db8::/32";
        for (from, to, expected) in [
            ("source = \"0.0.0.0/0\"", "source = \"10.0.0.0\"", format!("line 18: source = \"10.0.0.0\": {cidr}")),
            (
                "source = \"0.0.0.0/0\"",
                "source = \"10.0.0.1/8\"",
                "line 18: source CIDR 10.0.0.1/8: the address has bits set behind its prefix of 8".into(),
            ),
            (
                "source = \"0.0.0.0/0\"",
                "source = \"::/0\"",
                "line 18: source CIDR ::/0 and destination CIDR 0.0.0.0/0: they must be of one family, IPv4 or IPv6"
                    .into(),
            ),
            ("\"80-443\"", "\"443-80\"", "line 21: destination_ports = \"443-80\": the port range 443-80 runs backwards".into()),
            (
                "\"80-443\"",
                "70000",
                "line 21: destination_ports = 70000: ports are written 80 or 80-443, from 0 to 65535".into(),
            ),
            (
                "protocol = \"tcp\"",
                "protocol = \"icmp\"",
                "line 13: source port range 1024: only protocols tcp (6) and udp (17) have ports, and the protocol is icmp"
                    .into(),
            ),
            (
                "protocol = \"tcp\"",
                "protocol = 256",
                "line 17: protocol = 256: a protocol is a number of 0 to 255, or a name such as tcp, udp, icmp, icmpv6"
                    .into(),
            ),
            ("\"ingress\"", "\"in\"", "line 15: direction = \"in\": a direction is ingress or egress".into()),
            ("\"accept\"", "\"drop\"", "line 16: action = \"drop\": an action is accept or reject".into()),
            (
                "[\"dns\"]",
                "[\"ntp\"]",
                "line 11: network_services = [\"ntp\"]: it is a list of network services, and the only one there is is \
                 \"dns\""
                    .into(),
            ),
            ("= true", "= 1", "line 12: mirror_non_ip = 1: it must be true or false".into()),
            (
                "interface = \"tap0\"\n[",
                "interface = \"tap 0\"\n[",
                "line 8: interface = \"tap 0\": an interface name has 1 to 15 bytes, without slashes, colons and blanks"
                    .into(),
            ),
            (
                "interface = \"tap0\"\n[",
                "interface = \"tap0\"\nport = 1\n[",
                "line 9: port = 1: only a target with an address has a port".into(),
            ),
            (
                "port = 4789",
                "interface = \"tap0\"",
                "line 4: interface = \"tap0\": a target has an address or an interface, not both".into(),
            ),
            (
                "\"10.2.0.2\"",
                "\"10.2.0.2:4789\"",
                "line 3: address = \"10.2.0.2:4789\": an address is IPv4 or IPv6, such as 192.0.2.1 or 2001:db8::1; \
                 'port' is a key of its own"
                    .into(),
            ),
            ("\"10.2.0.2\"", "\"0.0.0.0\"", "line 1: address 0.0.0.0: it must be the address of one host".into()),
            (
                "name = \"zeek\"",
                "name = \" zeek\"",
                "line 2: name = \" zeek\": a name has 1 to 255 printable characters, with no blank at either end".into(),
            ),
            ("name = \"zeek\"", "name = 1", "line 2: name = 1: it must be text in quotes".into()),
            ("\"secops\"", "7", "line 32: tag = 7: it must be text in quotes".into()),
            ("team = ", "\"\" = ", "line 32: the key of a tag has 1 to 127 printable characters".into()),
            ("{ team = \"secops\", \"a b\" = \"\" }", "1", "line 32: tags = 1: tags are a table: { key = \"value\" }".into()),
        ] {
            assert_eq!(bad(from, to), expected);
        }
        assert_eq!(
            bad("[[session]]", "[session]"),
            "line 23: 'session' is a list of tables: each starts with [[session]]"
        );
        assert_eq!(
            bad("[[filter.rule]]", "[filter.rule]"),
            "line 13: 'rule' is a list of tables: each starts with [[filter.rule]]"
        );
        let long = bad("\"ingress\"", &format!("\"{}\"", "\u{202e}x".repeat(40)));
        assert!(long.contains("\\u{202e}x") && long.contains('…') && long.len() < 500, "{long}");
        let refusal = read(&WHOLE.replacen("\"0.0.0.0/0\"", "\"10.0.0.1/8\"", 1)).expect_err("host bits");
        assert_eq!(refusal.hint_text(), Some("the network is 10.0.0.0/8"));
    }

    #[test]
    fn what_is_no_toml_is_refused_with_its_line() {
        for (from, to, line) in
            [("[[target]]", "[target]", 6), ("[[session]]", "[[session", 23), ("vni = 42", "vni = ", 29)]
        {
            let why = bad(from, to);
            assert!(why.starts_with(&format!("line {line}: ")) && !why.contains('\n'), "{why}");
        }
        for deep in ["a = [", "a = { a = "].map(|open| open.replace("a = [", "[").repeat(10_000)) {
            let refusal = read(&format!("a = {deep}")).expect_err("deeper than any stack");
            assert!(refusal.to_string().starts_with("line 1: "), "{refusal}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused_with_its_line() {
        let twice = |table: &str| {
            let refusal = read(&format!("{WHOLE}{table}")).expect_err(table);
            (refusal.kind(), refusal.to_string())
        };
        assert_eq!(
            twice("[[target]]\nname = \"zeek\"\ninterface = \"tap1\""),
            (Kind::Conflict, "line 33: name zeek: there is a target of this name already".into())
        );
        let session =
            "[[session]]\nname = \"two\"\nnumber = 1\nsource = \"eth0\"\ntarget = \"zeek\"\nfilter = \"web\"\n";
        assert_eq!(
            twice(session),
            (Kind::Conflict, "line 33: session number 1: session web-to-zeek of source eth0 has it already".into())
        );
        assert_eq!(
            refused("target = \"zeek\"", "target = \"snort\""),
            (Kind::NotFound, "line 23: target \"snort\": there is no such target".into())
        );
        assert_eq!(
            refused("filter = \"web\"", "filter = \"all\""),
            (Kind::NotFound, "line 23: filter \"all\": there is no such filter".into())
        );
        let span = WHOLE.replacen("interface = \"tap0\"\n[", "interface = \"eth0\"\n[", 1);
        let refusal = read(&span.replacen("target = \"zeek\"", "target = \"span\"", 1)).expect_err("source and target");
        assert_eq!(refusal.to_string(), "line 23: target span: it is interface eth0, the source itself");
    }

    #[test]
    fn drawn_vnis_are_nobody_elses() {
        let session = |name: &str, number: u16, vni: &str| {
            format!(
                "[[session]]\nname = \"{name}\"\nnumber = {number}\nsource = \"eth0\"\ntarget = \"zeek\"\nfilter = \"web\"\n{vni}\n"
            )
        };
        let base = WHOLE.split_once("[[session]]").expect("a session").0;
        let before = format!("{base}{}{}", session("a", 1, "vni = 7"), session("b", 2, ""));
        let previous = read(&before).expect("valid");
        let text = format!("{base}{}{}{}", session("a", 1, ""), session("b", 2, ""), session("c", 3, "vni = 7"));
        let built =
            Document::parse(&text, Form::Exchanged).and_then(|document| document.build(&previous)).expect("valid");
        let vni = |definitions: &Definitions, name: &str| definitions.session(name).expect(name).vni;
        assert_ne!(vni(&built.definitions, "a").get(), 7, "c asks for it");
        assert_eq!(vni(&built.definitions, "b"), vni(&previous, "b"), "it is kept");
        assert_eq!(vni(&built.definitions, "c").get(), 7);
        assert_eq!(built.drawn_vnis.iter().map(Name::as_str).collect::<Vec<_>>(), ["a"]);
        assert_eq!(built.definitions.session("b").expect("b").id, previous.session("b").expect("b").id);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in any::<String>(), line in 0usize..31, words in "[ -~\\n]{0,40}") {
            for form in [Form::Exchanged, Form::Stored] {
                let _ = Document::parse(&text, form).and_then(|document| document.build(&Definitions::default()));
                // Most random text fails in the first line; this gets further.
                let mut lines: Vec<&str> = WHOLE.lines().collect();
                lines[line] = &words;
                let text = lines.join("\n");
                let _ = Document::parse(&text, form).and_then(|document| document.build(&Definitions::default()));
            }
        }
    }
}
