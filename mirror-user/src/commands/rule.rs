//! `rule`: the rules of a filter.

use mirror_common::policy::Direction;

use crate::cli::Global;
use crate::cli::definitions::{Rule as Command, RuleAdd, RuleDelete, RuleField, RuleModify};
use crate::commands::change::{change, load, refuse, said, set_or_removed};
use crate::commands::print;
use crate::commands::resource::{RULE_COLUMNS, print_deleted, print_list, print_modified};
use crate::definitions::Definitions;
use crate::definitions::fields::Fields;
use crate::definitions::id::RuleId;
use crate::definitions::refusal::Refusal;
use crate::definitions::rule::{Addresses, Rule, RuleNumber};
use crate::definitions::text::Name;
use crate::error::Result;
use crate::instance::Instance;

/// Runs the command.
pub(super) fn run(instance: &Instance, global: &Global, command: &Command) -> Result<()> {
    match command {
        Command::Add(arguments) => add(instance, global, arguments),
        Command::Modify(arguments) => modify(instance, global, arguments),
        Command::List(arguments) => {
            let definitions = load(instance)?;
            let what = format!("list rules of filter {}", said(&arguments.filter));
            let filter = definitions.filter(&arguments.filter).map_err(refuse(what))?;
            let rules: Vec<_> = filter.all_rules().map(Fields::from).collect();
            print_list(global, &rules, &RULE_COLUMNS, "no rules")
        }
        Command::Delete(arguments) => delete(instance, global, arguments),
    }
}

fn add(instance: &Instance, global: &Global, arguments: &RuleAdd) -> Result<()> {
    let (direction, number) = (arguments.direction, arguments.rule_number);
    let what = format!("add {} rule {number} to filter {}", direction.name(), said(&arguments.filter));
    let added = change(instance, &what, |definitions| {
        let filter = definitions.filter(&arguments.filter)?.name.clone();
        let rule = Rule {
            number,
            direction,
            action: arguments.action,
            protocol: arguments.protocol.map(|protocol| protocol.0),
            addresses: Addresses::new(arguments.source_cidr, arguments.destination_cidr)?,
            source_ports: arguments.source_port_range,
            destination_ports: arguments.destination_port_range,
            description: arguments.description.clone().map(String::from),
        };
        let rule = Fields::from(definitions.add_rule(&filter, rule, None)?);
        Ok((filter, rule))
    })?;
    let (filter, rule) = added.value;
    print(global.json, &rule, || {
        format!("added {} rule {number} to filter {filter}: {}", direction.name(), rule.text("id"))
    })
}

fn modify(instance: &Instance, global: &Global, arguments: &RuleModify) -> Result<()> {
    let what = what("modify", &arguments.filter_or_rule, arguments.direction, arguments.rule_number);
    let removed = |field| arguments.remove_fields.contains(&field);
    let sets = [
        ("protocol", arguments.protocol.is_some(), RuleField::Protocol),
        ("source port range", arguments.source_port_range.is_some(), RuleField::SourcePortRange),
        ("destination port range", arguments.destination_port_range.is_some(), RuleField::DestinationPortRange),
        ("description", arguments.description.is_some(), RuleField::Description),
    ];
    for (field, set, remove) in sets {
        set_or_removed(&what, field, set, removed(remove))?;
    }
    let changed = change(instance, &what, |definitions| {
        let id = arguments.filter_or_rule.parse::<RuleId>().ok();
        let (filter, direction, number) = match id {
            Some(id) => place_of(definitions, id)?,
            None => place(definitions, &arguments.filter_or_rule, arguments.direction, arguments.rule_number)?,
        };
        let mut rule = definitions.rule(&filter, direction, number)?.rule.clone();
        // Without an id they are the place that the rule has already.
        rule.direction = arguments.direction.unwrap_or(direction);
        rule.number = arguments.rule_number.unwrap_or(number);
        rule.action = arguments.action.unwrap_or(rule.action);
        rule.addresses = Addresses::new(
            arguments.source_cidr.unwrap_or_else(|| rule.addresses.source()),
            arguments.destination_cidr.unwrap_or_else(|| rule.addresses.destination()),
        )?;
        let unless_removed = |field| !removed(field);
        rule.protocol = arguments
            .protocol
            .map(|protocol| protocol.0)
            .or(rule.protocol)
            .filter(|_| unless_removed(RuleField::Protocol));
        rule.source_ports =
            arguments.source_port_range.or(rule.source_ports).filter(|_| unless_removed(RuleField::SourcePortRange));
        rule.destination_ports = arguments
            .destination_port_range
            .or(rule.destination_ports)
            .filter(|_| unless_removed(RuleField::DestinationPortRange));
        rule.description = arguments
            .description
            .clone()
            .map(String::from)
            .or(rule.description)
            .filter(|_| unless_removed(RuleField::Description));
        definitions.modify_rule(&filter, direction, number, rule).map(Fields::from)
    })?;
    print_modified(global, &changed)
}

fn delete(instance: &Instance, global: &Global, arguments: &RuleDelete) -> Result<()> {
    let what = what("delete", &arguments.filter_or_rule, arguments.direction, arguments.rule_number);
    let deleted = change(instance, &what, |definitions| {
        let (filter, direction, number) = match arguments.filter_or_rule.parse::<RuleId>() {
            Ok(_) if arguments.direction.is_some() || arguments.rule_number.is_some() => {
                return Err(Refusal::bad_input(
                    "the id says which rule it is; leave out --direction and --rule-number",
                ));
            }
            Ok(id) => place_of(definitions, id)?,
            Err(_) => place(definitions, &arguments.filter_or_rule, arguments.direction, arguments.rule_number)?,
        };
        let rule = definitions.delete_rule(&filter, direction, number)?;
        Ok((format!("{} rule {number} of filter {filter}", direction.name()), Fields::from(&rule)))
    })?;
    let (which, rule) = deleted.value;
    print_deleted(global, &which, rule)
}

/// What is being done to which rule, as far as the command line says.
fn what(verb: &str, filter_or_rule: &str, direction: Option<Direction>, number: Option<RuleNumber>) -> String {
    match (direction, number) {
        (Some(direction), Some(number)) if filter_or_rule.parse::<RuleId>().is_err() => {
            format!("{verb} {} rule {number} of filter {}", direction.name(), said(filter_or_rule))
        }
        _ => format!("{verb} rule {}", said(filter_or_rule)),
    }
}

/// Where the rule with this id is.
fn place_of(definitions: &Definitions, id: RuleId) -> std::result::Result<(Name, Direction, RuleNumber), Refusal> {
    let (filter, rule) = definitions.rule_by_id(id)?;
    Ok((filter.name.clone(), rule.rule.direction, rule.rule.number))
}

/// Where the rule is that filter, direction and number name.
fn place(
    definitions: &Definitions,
    filter: &str,
    direction: Option<Direction>,
    number: Option<RuleNumber>,
) -> std::result::Result<(Name, Direction, RuleNumber), Refusal> {
    let filter = definitions.filter(filter)?.name.clone();
    match (direction, number) {
        (Some(direction), Some(number)) => Ok((filter, direction, number)),
        _ => Err(Refusal::bad_input("--direction and --rule-number say which rule of the filter it is; give both")
            .hint("or give the id of the rule, which 'mirrorctl rule list' shows")),
    }
}
