//! `target`: where copies go.

use crate::cli::Global;
use crate::cli::definitions::{Target as Command, TargetCreate};
use crate::commands::change::{change, load, refuse, said};
use crate::commands::resource::{print_created, print_deleted, print_list, print_one};
use crate::definitions::fields::Fields;
use crate::definitions::refusal::Refusal;
use crate::definitions::target::{Destination, TargetDraft};
use crate::definitions::text::Tags;
use crate::error::Result;
use crate::instance::Instance;

/// Runs the command.
pub(super) fn run(instance: &Instance, global: &Global, command: &Command) -> Result<()> {
    match command {
        Command::Create(arguments) => create(instance, global, arguments),
        Command::List => {
            let targets: Vec<_> = load(instance)?.targets().map(Fields::from).collect();
            print_list(global, &targets, &["name", "id", "address", "port", "interface", "description"], "no targets")
        }
        Command::Show(target) => {
            let what = format!("show target {}", said(&target.name_or_id));
            print_one(global, &load(instance)?.target(&target.name_or_id).map_err(refuse(what))?.into())
        }
        Command::Delete(target) => {
            let what = format!("delete target {}", said(&target.name_or_id));
            let deleted = change(instance, &what, |definitions| {
                let name = definitions.target(&target.name_or_id)?.name.clone();
                definitions.delete_target(&name)
            })?;
            print_deleted(global, &format!("target {}", deleted.value.name), Fields::from(&deleted.value))
        }
    }
}

fn create(instance: &Instance, global: &Global, arguments: &TargetCreate) -> Result<()> {
    let what = format!("create target {}", arguments.name);
    let created = change(instance, &what, |definitions| {
        let destination = match (&arguments.destination.address, &arguments.destination.interface) {
            (Some(endpoint), None) => Destination::Address(*endpoint),
            (None, Some(interface)) => Destination::Interface(interface.clone()),
            _ => return Err(Refusal::bad_input("a target has an address or an interface")),
        };
        let draft = TargetDraft {
            id: None,
            name: arguments.name.clone(),
            destination,
            description: arguments.about.description.clone(),
            tags: Tags::new(arguments.about.tags.iter().cloned())?,
        };
        definitions.create_target(draft).map(Fields::from)
    })?;
    print_created(global, "target", &created.value)
}
