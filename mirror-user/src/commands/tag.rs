//! `tag`: the tags of targets, filters and sessions.

use crate::cli::Global;
use crate::cli::definitions::{TagRemove, TagSet, Tags as Command};
use crate::commands::change::{change, said};
use crate::commands::resource::print_modified;
use crate::definitions::fields::Fields;
use crate::definitions::refusal::Refusal;
use crate::definitions::text::Tags;
use crate::definitions::{Definitions, Tagged};
use crate::error::Result;
use crate::instance::Instance;

/// Runs the command.
pub(super) fn run(instance: &Instance, global: &Global, command: &Command) -> Result<()> {
    let (what, name_or_id) = match command {
        Command::Set(TagSet { resource, .. }) => ("set", &resource.name_or_id),
        Command::Remove(TagRemove { resource, .. }) => ("remove", &resource.name_or_id),
    };
    let what = format!("{what} tags of {}", said(name_or_id));
    let changed = change(instance, &what, |definitions| {
        let resource = definitions.tagged(name_or_id)?;
        edit(definitions.tags_mut(&resource)?, command)?;
        fields(definitions, &resource)
    })?;
    print_modified(global, &changed)
}

fn edit(tags: &mut Tags, command: &Command) -> std::result::Result<(), Refusal> {
    match command {
        Command::Set(arguments) => tags.set(arguments.tags.iter().cloned()),
        Command::Remove(arguments) => tags.remove(&arguments.keys),
    }
}

fn fields(definitions: &Definitions, resource: &Tagged) -> std::result::Result<Fields, Refusal> {
    match resource {
        Tagged::Target(name) => definitions.target(name.as_str()).map(Fields::from),
        Tagged::Filter(name) => definitions.filter(name.as_str()).map(Fields::from),
        Tagged::Session(name) => definitions.session(name.as_str()).map(Fields::from),
    }
}
