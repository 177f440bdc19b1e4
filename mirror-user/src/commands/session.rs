//! `session`: source, target and filter.

use std::io::{IsTerminal, stdin};

use crate::cli::Global;
use crate::cli::definitions::{Session as Command, SessionCreate, SessionDelete, SessionField, SessionModify};
use crate::commands::change::{change, load, refuse, said, set_or_removed};
use crate::commands::resource::{print_created, print_deleted, print_list, print_modified, print_one};
use crate::definitions::fields::Fields;
use crate::definitions::session::SessionDraft;
use crate::definitions::text::{Name, Tags};
use crate::error::{Error, Kind, Result};
use crate::instance::Instance;

/// The word that confirms.
const CONFIRMATION: &str = "delete";

/// Runs the command.
pub(super) fn run(instance: &Instance, global: &Global, command: &Command) -> Result<()> {
    match command {
        Command::Create(arguments) => create(instance, global, arguments),
        Command::Modify(arguments) => modify(instance, global, arguments),
        Command::List => {
            let sessions: Vec<_> = load(instance)?.sessions().map(Fields::from).collect();
            let columns =
                ["name", "id", "source", "session_number", "target", "filter", "vni", "packet_length", "description"];
            print_list(global, &sessions, &columns, "no sessions")
        }
        Command::Show(session) => {
            let what = format!("show session {}", said(&session.name_or_id));
            print_one(global, &load(instance)?.session(&session.name_or_id).map_err(refuse(what))?.into())
        }
        Command::Delete(arguments) => delete(instance, global, arguments),
    }
}

fn create(instance: &Instance, global: &Global, arguments: &SessionCreate) -> Result<()> {
    let what = format!("create session {}", arguments.name);
    let created = change(instance, &what, |definitions| {
        let draft = SessionDraft {
            id: None,
            name: arguments.name.clone(),
            source: arguments.source.clone(),
            target: definitions.target(&arguments.target)?.name.clone(),
            filter: definitions.filter(&arguments.filter)?.name.clone(),
            number: arguments.session_number,
            vni: arguments.vni,
            packet_length: arguments.packet_length,
            description: arguments.about.description.clone(),
            tags: Tags::new(arguments.about.tags.iter().cloned())?,
        };
        definitions.create_session(draft).map(Fields::from)
    })?;
    print_created(global, "session", &created.value)
}

fn modify(instance: &Instance, global: &Global, arguments: &SessionModify) -> Result<()> {
    let what = format!("modify session {}", said(&arguments.session.name_or_id));
    let about = &arguments.about;
    let removed = |field| arguments.remove_fields.contains(&field);
    let sets = [
        ("packet length", arguments.packet_length.is_some(), SessionField::PacketLength),
        ("VNI", arguments.vni.is_some(), SessionField::Vni),
        ("description", about.description.is_some(), SessionField::Description),
    ];
    for (field, set, remove) in sets {
        set_or_removed(&what, field, set, removed(remove))?;
    }
    let changed = change(instance, &what, |definitions| {
        let session = definitions.session(&arguments.session.name_or_id)?;
        let name = session.name.clone();
        let mut tags = session.tags.clone();
        tags.set(about.tags.iter().cloned())?;
        let target = match &arguments.target {
            Some(target) => definitions.target(target)?.name.clone(),
            None => session.target.clone(),
        };
        let filter = match &arguments.filter {
            Some(filter) => definitions.filter(filter)?.name.clone(),
            None => session.filter.clone(),
        };
        let modified = definitions.modify_session(&name, |draft| {
            draft.target = target;
            draft.filter = filter;
            draft.number = arguments.session_number.unwrap_or(draft.number);
            draft.vni = arguments.vni.or(draft.vni).filter(|_| !removed(SessionField::Vni));
            draft.packet_length =
                arguments.packet_length.or(draft.packet_length).filter(|_| !removed(SessionField::PacketLength));
            if removed(SessionField::Description) {
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

fn delete(instance: &Instance, global: &Global, arguments: &SessionDelete) -> Result<()> {
    let what = format!("delete session {}", said(&arguments.session.name_or_id));
    let definitions = load(instance)?;
    let session = definitions.session(&arguments.session.name_or_id).map_err(refuse(&what))?;
    if !arguments.yes {
        confirm(&what, &session.name)?;
    }
    // By its id: while the question was open, another session may have got the name.
    let id = session.id.to_string();
    let deleted = change(instance, &what, |definitions| {
        let name = definitions.session(&id)?.name.clone();
        definitions.delete_session(&name)
    })?;
    print_deleted(global, &format!("session {}", deleted.value.name), Fields::from(&deleted.value))
}

/// Asks for the word `delete`.
fn confirm(what: &str, session: &Name) -> Result<()> {
    if !stdin().is_terminal() {
        return Err(Error::new(Kind::BadInput, what, "standard input is no terminal: there is nobody to ask")
            .hint("--yes deletes it without asking"));
    }
    eprint!("To delete session {session}, type {CONFIRMATION}: ");
    let mut answer = String::new();
    stdin().read_line(&mut answer).map_err(|error| Error::failed(what, &error))?;
    if answer.trim() == CONFIRMATION {
        return Ok(());
    }
    Err(Error::new(Kind::Failed, what, format_args!("not confirmed with the word {CONFIRMATION}; nothing was deleted")))
}
