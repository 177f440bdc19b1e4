//! `status`: what is attached, by which hook.

use serde::Serialize;
use tabled::builder::Builder;
use tabled::settings::Style;

use crate::cli::Global;
use crate::commands::change::load;
use crate::commands::print;
use crate::definitions::ResolvedSession;
use crate::error::Result;
use crate::host;
use crate::instance::Instance;
use crate::kernel::Kernel;
use crate::links::{Link, Links};
use crate::state::{Session, Source, State};

/// What `status --json` prints.
#[derive(Debug, Serialize)]
struct Document<'a> {
    instance: &'a str,
    sources: Vec<SourceDocument<'a>>,
}

#[derive(Debug, Serialize)]
struct SourceDocument<'a> {
    interface: &'a str,
    /// None while it is not attached.
    ifindex: Option<u32>,
    hook: Option<&'a str>,
    state: &'static str,
    /// Whether copies may take the fast path, and it is there. None while the source is not attached.
    fast_path: Option<bool>,
    sessions: Vec<SessionDocument<'a>>,
}

#[derive(Debug, Serialize)]
struct SessionDocument<'a> {
    name: &'a str,
    session_number: u16,
    target: String,
    vni: u32,
    packet_length: Option<u16>,
}

/// Runs the command.
pub(super) fn run(instance: &Instance, global: &Global) -> Result<()> {
    host::require_root("show status")?;
    let definitions = load(instance)?;
    let state = State::load(instance)?;
    state.require_this_network_namespace("show status", instance)?;
    let kernel = Kernel::open(instance);
    let interfaces = Links::open()?.list()?;
    let attached = state.sources.iter().map(|source| SourceDocument {
        interface: source.interface.as_str(),
        ifindex: Some(source.ifindex),
        hook: Some(source.hook.name()),
        state: condition(source, kernel.as_ref(), &interfaces, instance),
        fast_path: Some(source.fast_path && kernel.as_ref().is_some_and(Kernel::has_fast_path)),
        sessions: source.sessions.iter().map(SessionDocument::from).collect(),
    });
    let defined = definitions.sources().filter(|source| state.source(source).is_none());
    let others = defined.map(|source| SourceDocument {
        interface: source.as_str(),
        ifindex: None,
        hook: None,
        state: if state.detached.contains(source) { "detached" } else { "not attached" },
        fast_path: None,
        sessions: definitions.sessions_of(source).map(SessionDocument::from).collect(),
    });
    let document = Document { instance: instance.name(), sources: attached.chain(others).collect() };
    print(global.json, &document, || words(&document))
}

impl<'a> From<&'a Session> for SessionDocument<'a> {
    fn from(session: &'a Session) -> Self {
        Self {
            name: session.name.as_str(),
            session_number: session.session_number.get(),
            target: session.target.to_string(),
            vni: session.vni.get(),
            packet_length: session.packet_length.map(|length| length.get()),
        }
    }
}

impl<'a> From<ResolvedSession<'a>> for SessionDocument<'a> {
    fn from(resolved: ResolvedSession<'a>) -> Self {
        Self {
            name: resolved.session.name.as_str(),
            session_number: resolved.session.number.get(),
            target: resolved.target.destination.to_string(),
            vni: resolved.session.vni.get(),
            packet_length: resolved.session.packet_length.map(|length| length.get()),
        }
    }
}

/// Whether a source works, as far as can be told without a packet.
fn condition(source: &Source, kernel: Option<&Kernel>, interfaces: &[Link], instance: &Instance) -> &'static str {
    let there = |name: &str| interfaces.iter().any(|link| link.name == name);
    let Some(interface) = interfaces.iter().find(|link| link.index == source.ifindex) else {
        return "interface gone";
    };
    let needs_raw = !interface.has_ethernet_header;
    if !source.attached || kernel.is_none_or(|kernel| !kernel.source_is_attached(source.ifindex, source.hook)) {
        "not attached"
    } else if source.changing {
        "changing"
    } else if !there(&instance.tap_device())
        || !there(&instance.encapsulation_device())
        || needs_raw && !there(&instance.raw_device())
    {
        "tap gone"
    } else {
        "attached"
    }
}

fn words(document: &Document<'_>) -> String {
    if document.sources.is_empty() {
        return "nothing is attached".into();
    }
    let mut table = Builder::default();
    table.push_record(["source", "state", "hook", "session", "number", "target", "VNI", "packet length", "fast path"]);
    for source in &document.sources {
        for session in &source.sessions {
            table.push_record([
                source.interface.to_owned(),
                source.state.to_owned(),
                source.hook.unwrap_or("-").to_owned(),
                session.name.to_owned(),
                session.session_number.to_string(),
                session.target.clone(),
                session.vni.to_string(),
                session.packet_length.map_or_else(|| "whole packet".into(), |length| length.to_string()),
                source.fast_path.map_or("-", |on| if on { "on" } else { "off" }).to_owned(),
            ]);
        }
    }
    table.build().with(Style::blank()).to_string()
}
