//! `stats`: counters per source, session and skip reason.

use std::collections::BTreeMap;
use std::time::Duration;

use mirror_common::policy::Direction;
use mirror_common::skip::SkipReason;
use serde::Serialize;
use tabled::builder::Builder;
use tabled::settings::Style;

use crate::cli::{Global, Stats};
use crate::commands::print;
use crate::error::Result;
use crate::host;
use crate::instance::Instance;
use crate::kernel::Kernel;
use crate::links::Links;
use crate::state::State;

/// Copies that the tap device dropped, as the kernel counts them: its queue was full (net.core.netdev_max_backlog).
const TAP_FULL: &str = "tap_full";

/// What `stats --json` prints.
#[derive(Debug, Serialize)]
struct Document {
    sources: Vec<SourceDocument>,
    sessions: Vec<SessionDocument>,
    rules: Vec<RuleDocument>,
    skipped: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct SourceDocument {
    interface: String,
    direction: &'static str,
    packets: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct SessionDocument {
    name: String,
    packets: u64,
    bytes: u64,
    truncated_to_length: u64,
    truncated_to_mtu: u64,
}

/// There are no rules yet: every session accepts all.
#[derive(Debug, Serialize)]
enum RuleDocument {}

/// Runs the command.
pub(super) fn run(instance: &Instance, global: &Global, arguments: &Stats) -> Result<()> {
    host::require_root("show stats")?;
    let links = Links::open()?;
    loop {
        let document = read(instance, &links)?;
        print(global.json, &document, || words(&document))?;
        if !arguments.watch {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
        if !global.json {
            println!();
        }
    }
}

fn read(instance: &Instance, links: &Links) -> Result<Document> {
    let state = State::load(instance)?;
    state.require_this_network_namespace("show stats", instance)?;
    let mut document =
        Document { sources: Vec::new(), sessions: Vec::new(), rules: Vec::new(), skipped: BTreeMap::new() };
    for reason in SkipReason::ALL {
        document.skipped.insert(reason.name(), 0);
    }
    let tap = links.find(&instance.tap_device())?;
    document.skipped.insert(TAP_FULL, tap.map_or(0, |tap| tap.tx_dropped));
    let Some(kernel) = Kernel::open(instance) else {
        return Ok(document);
    };
    for reason in SkipReason::ALL {
        document.skipped.insert(reason.name(), kernel.skipped(*reason)?);
    }
    for source in state.sources.iter().filter(|source| source.attached) {
        for direction in Direction::ALL {
            let counters = kernel.source_counters(source.ifindex, direction)?;
            document.sources.push(SourceDocument {
                interface: source.interface.to_string(),
                direction: direction.name(),
                packets: counters.packets,
                bytes: counters.bytes,
            });
        }
        let counters = kernel.session_counts(source.session.slot)?;
        document.sessions.push(SessionDocument {
            name: source.session.name.clone(),
            packets: counters.packets,
            bytes: counters.bytes,
            truncated_to_length: counters.truncated_to_length,
            truncated_to_mtu: counters.truncated_to_mtu,
        });
    }
    Ok(document)
}

fn words(document: &Document) -> String {
    if document.sources.is_empty() {
        return "nothing is attached".into();
    }
    let mut sources = Builder::default();
    sources.push_record(["source", "direction", "packets", "bytes"]);
    for source in &document.sources {
        sources.push_record([
            source.interface.clone(),
            source.direction.to_owned(),
            source.packets.to_string(),
            source.bytes.to_string(),
        ]);
    }
    let mut sessions = Builder::default();
    sessions.push_record(["session", "packets", "bytes", "truncated to length", "truncated to MTU"]);
    for session in &document.sessions {
        sessions.push_record([
            session.name.clone(),
            session.packets.to_string(),
            session.bytes.to_string(),
            session.truncated_to_length.to_string(),
            session.truncated_to_mtu.to_string(),
        ]);
    }
    let mut text = format!("{}\n\n{}\n\n", sources.build().with(Style::blank()), sessions.build().with(Style::blank()));
    let skipped: Vec<_> = document.skipped.iter().filter(|(_, count)| **count != 0).collect();
    if skipped.is_empty() {
        text.push_str(" skipped: none\n");
    } else {
        let mut table = Builder::default();
        table.push_record(["skipped", "packets"]);
        for (reason, count) in skipped {
            table.push_record([(*reason).to_owned(), count.to_string()]);
        }
        text.push_str(&table.build().with(Style::blank()).to_string());
    }
    text
}
