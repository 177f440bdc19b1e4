//! What differs between two sets of definitions: what `apply` and the `modify` commands changed, or would change.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use mirror_common::policy::Direction;
use serde::Serialize;
use serde_json::{Value, json};

use super::Definitions;
use super::fields::{Fields, meaning_of_unset, text};
use super::filter::Filter;
use super::rule::RuleNumber;
use super::text::Name;

/// Every change, in the order targets, filters with their rules, sessions; by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Difference {
    changes: Vec<Change>,
}

/// What happens to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Add,
    Modify,
    Delete,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Change {
    action: Action,
    kind: &'static str,
    /// The name of the resource; of a rule, the name of its filter.
    name: String,
    #[serde(flatten)]
    rule: Option<RulePlace>,
    /// Added: what is set. Modified: what differs. Deleted: nothing.
    fields: Vec<FieldChange>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct RulePlace {
    direction: &'static str,
    rule_number: RuleNumber,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct FieldChange {
    field: &'static str,
    old: Value,
    new: Value,
}

impl Difference {
    /// From `old` to `new`. Ids are left out: whoever keeps their name keeps them.
    pub fn between(old: &Definitions, new: &Definitions) -> Self {
        let mut difference = Self::default();
        difference.compare("target", &old.targets, &new.targets, |_, _, _, _| {});
        difference.compare("filter", &old.filters, &new.filters, |difference, name, old, new| {
            for direction in Direction::ALL {
                difference.compare_rules(name, direction, old, new);
            }
        });
        difference.compare("session", &old.sessions, &new.sessions, |_, _, _, _| {});
        difference
    }

    /// Says "random" for the VNIs of these sessions: they were drawn, and would be drawn again.
    #[must_use]
    pub fn with_random_vnis(mut self, sessions: &BTreeSet<Name>) -> Self {
        for change in self.changes.iter_mut().filter(|change| change.kind == "session") {
            if sessions.contains(change.name.as_str()) {
                for field in change.fields.iter_mut().filter(|field| field.field == "vni") {
                    field.new = json!("random");
                }
            }
        }
        self
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Compares resources of one kind; `inside` compares what is in one that is still there or new.
    fn compare<T: PartialEq>(
        &mut self,
        kind: &'static str,
        old: &BTreeMap<Name, T>,
        new: &BTreeMap<Name, T>,
        inside: impl Fn(&mut Self, &Name, Option<&T>, &T),
    ) where
        for<'a> Fields: From<&'a T>,
    {
        let names: BTreeSet<&Name> = old.keys().chain(new.keys()).collect();
        for name in names {
            let (old, new) = (old.get(name), new.get(name));
            if old == new {
                continue;
            }
            self.note(kind, name, None, old.map(Fields::from), new.map(Fields::from));
            if let Some(new) = new {
                inside(self, name, old, new);
            }
        }
    }

    fn compare_rules(&mut self, name: &Name, direction: Direction, old: Option<&Filter>, new: &Filter) {
        let numbers_of =
            |filter: &Filter| filter.rules(direction).map(|rule| rule.rule.number).collect::<BTreeSet<_>>();
        let mut numbers = numbers_of(new);
        numbers.extend(old.map(numbers_of).unwrap_or_default());
        for number in numbers {
            let old = old.and_then(|old| old.rule(direction, number));
            let new = new.rule(direction, number);
            let unchanged = old.zip(new).is_some_and(|(old, new)| old.rule == new.rule);
            if !unchanged {
                let place = RulePlace { direction: direction.name(), rule_number: number };
                self.note("rule", name, Some(place), old.map(Fields::from), new.map(Fields::from));
            }
        }
    }

    fn note(
        &mut self,
        kind: &'static str,
        name: &Name,
        rule: Option<RulePlace>,
        old: Option<Fields>,
        new: Option<Fields>,
    ) {
        let is_identity = |field: &str| {
            matches!(field, "id" | "name") || rule.is_some() && matches!(field, "direction" | "rule_number")
        };
        let (action, fields) = match (old, new) {
            (None, None) => return,
            (Some(_), None) => (Action::Delete, Vec::new()),
            (None, Some(new)) => {
                let set = new.iter().filter(|(field, value)| !is_identity(field) && is_set(value));
                let fields = set.map(|(field, value)| FieldChange { field, old: Value::Null, new: value.clone() });
                (Action::Add, fields.collect())
            }
            (Some(old), Some(new)) => {
                let pairs =
                    old.iter().zip(new.iter()).filter(|((field, old), (_, new))| !is_identity(field) && old != new);
                let fields =
                    pairs.map(|((field, old), (_, new))| FieldChange { field, old: old.clone(), new: new.clone() });
                (Action::Modify, fields.collect::<Vec<_>>())
            }
        };
        if action != Action::Modify || !fields.is_empty() {
            self.changes.push(Change { action, kind, name: name.to_string(), rule, fields });
        }
    }
}

/// One line a change: `+ target zeek: address 10.2.0.2, port 4789`, `~ session web: packet_length 128 -> 256`,
/// `- filter old`.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            let sign = match change.action {
                Action::Add => '+',
                Action::Modify => '~',
                Action::Delete => '-',
            };
            write!(f, "{sign} {} {}", change.kind, change.name)?;
            if let Some(RulePlace { direction, rule_number }) = &change.rule {
                write!(f, " {direction} {rule_number}")?;
            }
            for (index, FieldChange { field, old, new }) in change.fields.iter().enumerate() {
                f.write_str(if index == 0 { ": " } else { ", " })?;
                match change.action {
                    Action::Add => write!(f, "{field} {}", shown(field, new))?,
                    _ => write!(f, "{field} {} -> {}", shown(field, old), shown(field, new))?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(values) => !values.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

fn shown(field: &str, value: &Value) -> String {
    match value {
        Value::String(text) if field == "description" => format!("\"{text}\""),
        value if is_set(value) || value.is_boolean() => text(value),
        Value::Array(_) | Value::Object(_) => "none".into(),
        _ => meaning_of_unset(field).unwrap_or("unset").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::{Document, Form};
    use super::*;

    const OLD: &str = r#"
        [[target]]
        name = "zeek"
        address = "192.0.2.1"
        [[filter]]
        name = "web"
        [[filter.rule]]
        number = 100
        direction = "ingress"
        action = "accept"
        protocol = "tcp"
        source = "0.0.0.0/0"
        destination = "0.0.0.0/0"
        destination_ports = "80-443"
        [[filter.rule]]
        number = 200
        direction = "egress"
        action = "reject"
        source = "::/0"
        destination = "::/0"
        [[filter]]
        name = "old"
        [[session]]
        name = "web-to-zeek"
        number = 1
        source = "eth0"
        target = "zeek"
        filter = "web"
        vni = 42
        packet_length = 128
    "#;

    fn read(text: &str, previous: &Definitions) -> super::super::file::Built {
        Document::parse(text, Form::Exchanged).and_then(|document| document.build(previous)).expect(text)
    }

    #[test]
    fn lines_say_what_changes() {
        let old = read(OLD, &Definitions::default()).definitions;
        assert_eq!(
            Difference::between(&Definitions::default(), &old).to_string(),
            "+ target zeek: address 192.0.2.1, port 4789\n\
             + filter old\n\
             + filter web\n\
             + rule web ingress 100: action accept, protocol tcp, source_cidr 0.0.0.0/0, destination_cidr 0.0.0.0/0, \
             destination_port_range 80-443\n\
             + rule web egress 200: action reject, source_cidr ::/0, destination_cidr ::/0\n\
             + session web-to-zeek: session_number 1, source eth0, target zeek, filter web, vni 42, packet_length 128\n"
        );
        let text = OLD
            .replace("packet_length = 128", "packet_length = 256\ndescription = \"what comes in\"")
            .replace("[[filter]]\n        name = \"old\"", "")
            .replace("action = \"accept\"", "action = \"reject\"")
            .replace("number = 200", "number = 300")
            .replace("name = \"web\"", "name = \"web\"\nmirror_non_ip = true\ntags = { team = \"secops\" }");
        let new = read(&text, &old).definitions;
        assert_eq!(
            Difference::between(&old, &new).to_string(),
            "- filter old\n\
             ~ filter web: mirror_non_ip no -> yes, tags none -> team=secops\n\
             ~ rule web ingress 100: action accept -> reject\n\
             - rule web egress 200\n\
             + rule web egress 300: action reject, source_cidr ::/0, destination_cidr ::/0\n\
             ~ session web-to-zeek: packet_length 128 -> 256, description unset -> \"what comes in\"\n"
        );
        assert_eq!(Difference::between(&new, &new), Difference::default());
    }

    #[test]
    fn json_has_the_types_of_the_fields() {
        let old = read(OLD, &Definitions::default()).definitions;
        let new = read(&OLD.replace("packet_length = 128", ""), &old).definitions;
        assert_eq!(
            serde_json::to_value(Difference::between(&old, &new)).expect("JSON"),
            json!({"changes": [{
                "action": "modify", "kind": "session", "name": "web-to-zeek",
                "fields": [{"field": "packet_length", "old": 128, "new": null}]
            }]})
        );
        let new = read(&OLD.replace("80-443", "80"), &old).definitions;
        assert_eq!(
            serde_json::to_value(Difference::between(&old, &new)).expect("JSON"),
            json!({"changes": [{
                "action": "modify", "kind": "rule", "name": "web", "direction": "ingress", "rule_number": 100,
                "fields": [{"field": "destination_port_range", "old": "80-443", "new": "80"}]
            }]})
        );
    }

    #[test]
    fn a_vni_that_would_be_drawn_is_called_random() {
        let built = read(&OLD.replace("vni = 42", ""), &Definitions::default());
        let difference = Difference::between(&Definitions::default(), &built.definitions);
        let line = difference.with_random_vnis(&built.drawn_vnis).to_string();
        assert!(line.contains("vni random"), "{line}");
    }
}
