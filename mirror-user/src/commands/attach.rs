//! `attach`: one command for the common case. Defines a target, a filter and a session if it is given a target, and
//! attaches the source with every session that it has.

use mirror_common::policy::Direction;
use serde::Serialize;

use crate::cli::{Attach, Global};
use crate::commands::change::change_with;
use crate::commands::print;
use crate::definitions::Definitions;
use crate::definitions::filter::FilterDraft;
use crate::definitions::refusal::Refusal;
use crate::definitions::rule::{Action, Addresses, Rule, RuleNumber};
use crate::definitions::session::SessionDraft;
use crate::definitions::target::{Destination, TargetDraft};
use crate::definitions::text::{Name, Tag, Tags};
use crate::error::{Error, Kind, Result};
use crate::host;
use crate::instance::Instance;
use crate::model::InterfaceName;
use crate::reconcile::Request;
use crate::state::State;

/// The tag of what `attach` has defined, and `detach` removes again.
const MADE_BY: (&str, &str) = ("made-by", "attach");

/// What `attach --json` prints.
#[derive(Debug, Serialize)]
struct Document<'a> {
    interface: &'a str,
    hook: &'a str,
    #[serde(flatten)]
    first: Session,
    sessions: Vec<Session>,
}

#[derive(Clone, Debug, Serialize)]
struct Session {
    session: String,
    session_number: u16,
    target: String,
    filter: String,
    vni: u32,
    #[serde(skip)]
    bare: bool,
    packet_length: Option<u16>,
}

/// Runs the command.
pub(super) fn run(instance: &Instance, global: &Global, arguments: &Attach) -> Result<()> {
    let what = format!("attach {}", arguments.interface);
    host::require_kernel(&what)?;
    host::require_root(&what)?;
    let request =
        Request { attach: Some(&arguments.interface), hook: arguments.hook, no_fast_path: arguments.no_fast_path };
    let changed = change_with(instance, &what, request, |definitions| define(definitions, arguments))?;

    let state = State::load(instance)?;
    let source = state
        .source(&arguments.interface)
        .ok_or_else(|| Error::new(Kind::Failed, &what, "it was detached again by another command in the meantime"))?;
    let sessions: Vec<_> = changed
        .new
        .sessions_of(&arguments.interface)
        .map(|resolved| Session {
            session: resolved.session.name.to_string(),
            session_number: resolved.session.number.get(),
            target: resolved.target.destination.to_string(),
            filter: resolved.filter.name.to_string(),
            vni: resolved.session.vni.get(),
            bare: matches!(resolved.target.destination, Destination::Interface(_)),
            packet_length: resolved.session.packet_length.map(|length| length.get()),
        })
        .collect();
    let first = sessions.first().cloned().ok_or_else(|| Error::new(Kind::Failed, &what, "it has no session"))?;
    let document = Document { interface: source.interface.as_str(), hook: source.hook.name(), first, sessions };
    print(global.json, &document, || words(&document))
}

fn words(document: &Document<'_>) -> String {
    let line = |session: &Session| {
        let length = session.packet_length.map_or_else(|| "whole packets".into(), |length| format!("{length} bytes"));
        let form = if session.bare { "bare frames".into() } else { format!("VNI {}", session.vni) };
        format!(
            "{}: mirrored to {} (session {}, number {}, {form}, {length}, hook {})\n",
            document.interface, session.target, session.session, session.session_number, document.hook
        )
    };
    document.sessions.iter().map(line).collect()
}

/// Defines what the command line says; without a target, that there are sessions is all that is asked.
fn define(definitions: &mut Definitions, arguments: &Attach) -> std::result::Result<(), Refusal> {
    let source = &arguments.interface;
    let destination = arguments.target.map(Destination::Address);
    let destination = destination.or_else(|| arguments.to_interface.clone().map(Destination::Interface));
    let Some(destination) = destination else {
        return match definitions.sessions_of(source).next() {
            Some(_) => Ok(()),
            None => Err(Refusal::bad_input("it is the source of no session").hint(
                "say where copies go with --target ADDR[:PORT] or --to-interface IFACE, or define a session: 'mirrorctl session create'",
            )),
        };
    };
    // Of an earlier `attach`, if a boot came between: what it says now counts.
    forget_made_by_attach(definitions, source);
    let name: Name = format!("{source}-{}", arguments.session_number)
        .parse()
        .map_err(|error| Refusal::bad_input(format_args!("a session can't be named after the interface: {error}")))?;
    let tags = || {
        let tag = Tag::new(MADE_BY.0, MADE_BY.1).map_err(|error| Refusal::bad_input(format_args!("tag: {error}")))?;
        Tags::new([tag])
    };
    let target = TargetDraft { id: None, name: name.clone(), destination, description: None, tags: tags()? };
    definitions.create_target(target).map_err(|refusal| refusal.at(format_args!("target {name}")))?;
    let filter = match &arguments.filter {
        Some(filter) => definitions.filter(filter)?.name.clone(),
        None => {
            let draft = FilterDraft {
                id: None,
                name: name.clone(),
                description: None,
                tags: tags()?,
                network_services_dns: false,
                mirror_non_ip: false,
            };
            definitions.create_filter(draft)?;
            for rule in accept_all() {
                definitions.add_rule(&name, rule, None)?;
            }
            name.clone()
        }
    };
    definitions.create_session(SessionDraft {
        id: None,
        name: name.clone(),
        source: source.clone(),
        target: name,
        filter,
        number: arguments.session_number,
        vni: arguments.vni,
        packet_length: arguments.packet_length,
        description: None,
        tags: tags()?,
    })?;
    Ok(())
}

/// A rule for each family and direction that accepts all of it.
fn accept_all() -> impl Iterator<Item = Rule> {
    let families = [
        (1, Addresses::V4 { source: Default::default(), destination: Default::default() }),
        (2, Addresses::V6 { source: Default::default(), destination: Default::default() }),
    ];
    Direction::ALL.into_iter().flat_map(move |direction| {
        families.into_iter().map(move |(number, addresses)| Rule {
            number: RuleNumber::try_from(number).expect("1 and 2 are rule numbers"),
            direction,
            action: Action::Accept,
            protocol: None,
            addresses,
            source_ports: None,
            destination_ports: None,
            description: None,
        })
    })
}

/// Removes the sessions of a source that `attach` has defined, with their targets and filters.
pub(super) fn forget_made_by_attach(definitions: &mut Definitions, source: &InterfaceName) {
    let is_made_by_attach = |tags: &Tags| tags.get(MADE_BY.0) == Some(MADE_BY.1);
    let made: Vec<(Name, Name, Name)> = definitions
        .sessions_of(source)
        .filter(|resolved| is_made_by_attach(&resolved.session.tags))
        .map(|resolved| (resolved.session.name.clone(), resolved.target.name.clone(), resolved.filter.name.clone()))
        .collect();
    for (session, target, filter) in made {
        // What is refused is in use elsewhere by now, and stays.
        let _ = definitions.delete_session(&session);
        if definitions.target(target.as_str()).is_ok_and(|target| is_made_by_attach(&target.tags)) {
            let _ = definitions.delete_target(&target);
        }
        if definitions.filter(filter.as_str()).is_ok_and(|filter| is_made_by_attach(&filter.tags)) {
            let _ = definitions.delete_filter(&filter);
        }
    }
}
