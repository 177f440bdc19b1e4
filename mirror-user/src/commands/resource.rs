//! How targets, filters, rules and sessions are printed.

use serde::Serialize;
use tabled::builder::Builder;
use tabled::settings::Style;

use crate::cli::Global;
use crate::commands::change::Changed;
use crate::commands::print;
use crate::definitions::diff::Difference;
use crate::definitions::fields::Fields;
use crate::error::Result;

/// Columns of a table of rules.
pub(super) const RULE_COLUMNS: [&str; 10] = [
    "direction",
    "rule_number",
    "action",
    "protocol",
    "source_cidr",
    "source_port_range",
    "destination_cidr",
    "destination_port_range",
    "description",
    "id",
];

/// What `delete --json` prints.
#[derive(Debug, Serialize)]
struct Deleted {
    deleted: Fields,
}

/// Prints a list: a table with these fields as its columns, or an array with everything.
pub(super) fn print_list(global: &Global, resources: &[Fields], columns: &[&str], none: &str) -> Result<()> {
    print(global.json, &resources, || if resources.is_empty() { none.into() } else { table(resources, columns) })
}

/// Prints everything about one resource.
pub(super) fn print_one(global: &Global, resource: &Fields) -> Result<()> {
    print(global.json, resource, || {
        let mut lines = Builder::default();
        for (field, _) in resource.iter() {
            let value = resource.text(field);
            lines.push_record([words(field), if value.is_empty() { "-".into() } else { value }]);
        }
        let mut text = lines.build().with(Style::blank()).to_string();
        if let Some(rules) = resource.rules() {
            text.push_str("\n\n");
            text.push_str(&if rules.is_empty() { " no rules".into() } else { table(rules, &RULE_COLUMNS) });
        }
        text
    })
}

/// Prints what has just been made.
pub(super) fn print_created(global: &Global, kind: &str, resource: &Fields) -> Result<()> {
    print(global.json, resource, || {
        let vni = resource.text("vni");
        let vni = if vni.is_empty() { vni } else { format!(", VNI {vni}") };
        format!("created {kind} {}: {}{vni}", resource.text("name"), resource.text("id"))
    })
}

/// Prints what has just been deleted. `which` is kind and name ("target zeek").
pub(super) fn print_deleted(global: &Global, which: &str, resource: Fields) -> Result<()> {
    print(global.json, &Deleted { deleted: resource }, || format!("deleted {which}"))
}

/// Prints what has just been modified: the difference in words, the resource as it is now in JSON.
pub(super) fn print_modified(global: &Global, changed: &Changed<Fields>) -> Result<()> {
    print(global.json, &changed.value, || difference_in_words(&Difference::between(&changed.old, &changed.new)))
}

/// A difference, or that there is none.
pub(super) fn difference_in_words(difference: &Difference) -> String {
    if difference.is_empty() { "nothing to change".into() } else { difference.to_string() }
}

fn table(resources: &[Fields], columns: &[&str]) -> String {
    let mut table = Builder::default();
    table.push_record(columns.iter().map(|column| words(column)));
    for resource in resources {
        table.push_record(columns.iter().map(|column| resource.text(column)));
    }
    table.build().with(Style::blank()).to_string()
}

/// The name of a field as a heading.
fn words(field: &str) -> String {
    field.replace('_', " ").replace("vni", "VNI").replace("cidr", "CIDR").replace("non ip", "non-IP")
}
