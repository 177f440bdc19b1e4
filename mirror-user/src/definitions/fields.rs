//! The fields of a resource by name: one list for JSON documents, tables and differences.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};

use super::Definitions;
use super::filter::{Filter, FilterRule};
use super::protocol;
use super::session::Session;
use super::target::{Destination, Target};
use super::text::{Description, Tags};

/// A resource as `list`, `show` and `export --json` print it: a JSON object with its fields in this order. What is not
/// set is null.
#[derive(Clone, Debug, PartialEq)]
pub struct Fields {
    fields: Vec<(&'static str, Value)>,
    /// The rules of a filter, which come last.
    rules: Option<Vec<Fields>>,
}

impl Fields {
    /// Names and values, without the rules of a filter.
    pub fn iter(&self) -> impl Iterator<Item = &(&'static str, Value)> {
        self.fields.iter()
    }

    /// The rules, if it's a filter.
    pub fn rules(&self) -> Option<&[Self]> {
        self.rules.as_deref()
    }

    /// The value of a field as people read it: what not being set means, or nothing where it means nothing. For
    /// `rules`, how many there are.
    pub fn text(&self, field: &str) -> String {
        if field == "rules" {
            return self.rules.as_ref().map_or_else(String::new, |rules| rules.len().to_string());
        }
        match self.fields.iter().find(|(name, _)| *name == field) {
            None | Some((_, Value::Null)) => meaning_of_unset(field).unwrap_or_default().to_owned(),
            Some((_, value)) => text(value),
        }
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in &self.fields {
            map.serialize_entry(name, value)?;
        }
        if let Some(rules) = &self.rules {
            map.serialize_entry("rules", rules)?;
        }
        map.end()
    }
}

impl From<&Target> for Fields {
    fn from(target: &Target) -> Self {
        let (address, port, interface) = match &target.destination {
            Destination::Address(endpoint) => (json!(endpoint.address), json!(endpoint.port), Value::Null),
            Destination::Interface(interface) => (Value::Null, Value::Null, json!(interface)),
        };
        let fields = vec![
            ("id", json!(target.id)),
            ("name", json!(target.name)),
            ("address", address),
            ("port", port),
            ("interface", interface),
            ("description", description(target.description.as_ref())),
            ("tags", tags(&target.tags)),
        ];
        Self { fields, rules: None }
    }
}

impl From<&Filter> for Fields {
    fn from(filter: &Filter) -> Self {
        let network_services = if filter.network_services_dns { json!(["dns"]) } else { json!([]) };
        let fields = vec![
            ("id", json!(filter.id)),
            ("name", json!(filter.name)),
            ("network_services", network_services),
            ("mirror_non_ip", json!(filter.mirror_non_ip)),
            ("description", description(filter.description.as_ref())),
            ("tags", tags(&filter.tags)),
        ];
        Self { fields, rules: Some(filter.all_rules().map(Self::from).collect()) }
    }
}

impl From<&FilterRule> for Fields {
    fn from(FilterRule { id, rule }: &FilterRule) -> Self {
        let fields = vec![
            ("id", json!(id)),
            ("direction", json!(rule.direction.name())),
            ("rule_number", json!(rule.number)),
            ("action", json!(rule.action.name())),
            ("protocol", json!(rule.protocol.map(protocol::text))),
            ("source_cidr", json!(rule.addresses.source())),
            ("destination_cidr", json!(rule.addresses.destination())),
            ("source_port_range", json!(rule.source_ports.map(|ports| ports.to_string()))),
            ("destination_port_range", json!(rule.destination_ports.map(|ports| ports.to_string()))),
            ("description", json!(rule.description)),
        ];
        Self { fields, rules: None }
    }
}

impl From<&Session> for Fields {
    fn from(session: &Session) -> Self {
        let fields = vec![
            ("id", json!(session.id)),
            ("name", json!(session.name)),
            ("session_number", json!(session.number)),
            ("source", json!(session.source)),
            ("target", json!(session.target)),
            ("filter", json!(session.filter)),
            ("vni", json!(session.vni)),
            ("packet_length", json!(session.packet_length)),
            ("description", description(session.description.as_ref())),
            ("tags", tags(&session.tags)),
        ];
        Self { fields, rules: None }
    }
}

/// Everything, as `export --json` prints it.
#[derive(Debug, serde::Serialize)]
pub struct Everything {
    targets: Vec<Fields>,
    filters: Vec<Fields>,
    sessions: Vec<Fields>,
}

impl From<&Definitions> for Everything {
    fn from(definitions: &Definitions) -> Self {
        Self {
            targets: definitions.targets().map(Fields::from).collect(),
            filters: definitions.filters().map(Fields::from).collect(),
            sessions: definitions.sessions().map(Fields::from).collect(),
        }
    }
}

fn description(description: Option<&Description>) -> Value {
    json!(description)
}

fn tags(tags: &Tags) -> Value {
    Value::Object(tags.iter().map(|(key, value)| (key.clone(), json!(value))).collect::<Map<_, _>>())
}

/// What it means that a field isn't set.
pub(super) fn meaning_of_unset(field: &str) -> Option<&'static str> {
    match field {
        "packet_length" => Some("whole packet"),
        "protocol" | "source_port_range" | "destination_port_range" => Some("all"),
        _ => None,
    }
}

/// A value as people read it; nothing when it isn't set.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Number(number) => number.to_string(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(", "),
        Value::Object(map) => {
            map.iter().map(|(key, value)| format!("{key}={}", text(value))).collect::<Vec<_>>().join(", ")
        }
    }
}
