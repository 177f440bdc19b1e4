//! `filter`: which packets are copied.

use crate::cli::Global;
use crate::cli::definitions::{Filter as Command, FilterCreate, FilterField, FilterModify};
use crate::commands::change::{change, load, refuse, said, set_or_removed};
use crate::commands::resource::{print_created, print_deleted, print_list, print_modified, print_one};
use crate::definitions::fields::Fields;
use crate::definitions::filter::FilterDraft;
use crate::definitions::text::Tags;
use crate::error::Result;
use crate::instance::Instance;

/// Runs the command.
pub(super) fn run(instance: &Instance, global: &Global, command: &Command) -> Result<()> {
    match command {
        Command::Create(arguments) => create(instance, global, arguments),
        Command::Modify(arguments) => modify(instance, global, arguments),
        Command::List => {
            let filters: Vec<_> = load(instance)?.filters().map(Fields::from).collect();
            let columns = ["name", "id", "rules", "network_services", "mirror_non_ip", "description"];
            print_list(global, &filters, &columns, "no filters")
        }
        Command::Show(filter) => {
            let what = format!("show filter {}", said(&filter.name_or_id));
            print_one(global, &load(instance)?.filter(&filter.name_or_id).map_err(refuse(what))?.into())
        }
        Command::Delete(filter) => {
            let what = format!("delete filter {}", said(&filter.name_or_id));
            let deleted = change(instance, &what, |definitions| {
                let name = definitions.filter(&filter.name_or_id)?.name.clone();
                definitions.delete_filter(&name)
            })?;
            print_deleted(global, &format!("filter {}", deleted.value.name), Fields::from(&deleted.value))
        }
    }
}

fn create(instance: &Instance, global: &Global, arguments: &FilterCreate) -> Result<()> {
    let what = format!("create filter {}", arguments.name);
    let created = change(instance, &what, |definitions| {
        let draft = FilterDraft {
            id: None,
            name: arguments.name.clone(),
            description: arguments.about.description.clone(),
            tags: Tags::new(arguments.about.tags.iter().cloned())?,
            // There is only one service.
            network_services_dns: !arguments.network_services.is_empty(),
            mirror_non_ip: arguments.mirror_non_ip,
        };
        definitions.create_filter(draft).map(Fields::from)
    })?;
    print_created(global, "filter", &created.value)
}

fn modify(instance: &Instance, global: &Global, arguments: &FilterModify) -> Result<()> {
    let what = format!("modify filter {}", said(&arguments.filter.name_or_id));
    let about = &arguments.about;
    let add_dns = !arguments.network_services.is_empty();
    let removed = |field| arguments.remove_fields.contains(&field);
    set_or_removed(&what, "network service", add_dns, removed(FilterField::NetworkService))?;
    set_or_removed(&what, "mirror non-IP", arguments.mirror_non_ip, removed(FilterField::MirrorNonIp))?;
    set_or_removed(&what, "description", about.description.is_some(), removed(FilterField::Description))?;
    let changed = change(instance, &what, |definitions| {
        let filter = definitions.filter(&arguments.filter.name_or_id)?;
        let name = filter.name.clone();
        let mut tags = filter.tags.clone();
        tags.set(about.tags.iter().cloned())?;
        let modified = definitions.modify_filter(&name, |draft| {
            draft.network_services_dns =
                (draft.network_services_dns || add_dns) && !removed(FilterField::NetworkService);
            draft.mirror_non_ip =
                (draft.mirror_non_ip || arguments.mirror_non_ip) && !removed(FilterField::MirrorNonIp);
            if removed(FilterField::Description) {
                draft.description = None;
            } else if about.description.is_some() {
                draft.description.clone_from(&about.description);
            }
            draft.tags = tags;
        })?;
        Ok(Fields::from(modified))
    })?;
    print_modified(global, &changed)
}
