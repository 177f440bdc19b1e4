//! `stats`: counters per source, session, rule and skip reason.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use mirror_common::policy::Direction;
use mirror_common::session::SessionSlot;
use mirror_common::skip::SkipReason;
use serde::Serialize;
use tabled::builder::Builder;
use tabled::settings::Style;

use crate::cli::{Global, Stats};
use crate::commands::change::load;
use crate::commands::{print, steadily};
use crate::definitions::Definitions;
use crate::definitions::id::FilterId;
use crate::definitions::text::Name;
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
    /// Those of `packets` that took the fast path.
    fast_path: u64,
}

/// A rule of a filter that a session of an attached source uses.
#[derive(Debug, Serialize)]
struct RuleDocument {
    filter: String,
    direction: &'static str,
    /// None for what network services accept ahead of the rules.
    rule_number: Option<u16>,
    /// Packets that it decided on, in whatever sessions use the filter.
    packets: u64,
}

/// Runs the command.
pub(super) fn run(instance: &Instance, global: &Global, arguments: &Stats) -> Result<()> {
    host::require_root("show stats")?;
    let links = Links::open()?;
    loop {
        let document = steadily(|| read(instance, &links))?;
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
    let definitions = load(instance)?;
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
        for session in &source.sessions {
            let mut counts = state.carried.sessions.get(&session.id).copied().unwrap_or_default();
            counts += kernel.session_counts(session.slot)?;
            // Copies may still be leaving by what was in its place a moment ago.
            for retired in state.retired.iter().filter(|retired| retired.session.id == session.id) {
                counts += kernel.session_counts(retired.session.slot)?;
            }
            document.sessions.push(SessionDocument {
                name: session.name.to_string(),
                packets: counts.packets,
                bytes: counts.bytes,
                truncated_to_length: counts.truncated_to_length,
                truncated_to_mtu: counts.truncated_to_mtu,
                fast_path: counts.fast_path,
            });
        }
    }
    document.rules = rules(&definitions, &state, &kernel)?;
    Ok(document)
}

/// The rules that the kernel goes by, and what they decided.
fn rules(definitions: &Definitions, state: &State, kernel: &Kernel) -> Result<Vec<RuleDocument>> {
    let filters: HashMap<SessionSlot, FilterId> =
        state.sessions().map(|session| (session.slot, session.filter)).collect();
    let mut counts: BTreeMap<(FilterId, usize, u16), u64> = BTreeMap::new();
    for source in state.sources.iter().filter(|source| source.attached) {
        for generation in kernel.generations(source.ifindex)? {
            if generation < source.carried_below {
                continue;
            }
            for direction in Direction::ALL {
                for (rule, packets) in kernel.rule_counts(source.ifindex, generation, direction)? {
                    if let Some(filter) = filters.get(&rule.slot) {
                        *counts.entry((*filter, direction as usize, rule.number)).or_default() += packets;
                    }
                }
            }
        }
    }
    for ((filter, direction, number), packets) in &mut counts {
        let carried = state.carried.rules.get(filter).and_then(|rules| rules[*direction].get(number));
        *packets += carried.copied().unwrap_or(0);
    }
    let names: HashMap<FilterId, &Name> = definitions.filters().map(|filter| (filter.id, &filter.name)).collect();
    let mut rules: Vec<RuleDocument> = counts
        .into_iter()
        .filter_map(|((filter, direction, number), packets)| {
            Some(RuleDocument {
                filter: names.get(&filter)?.to_string(),
                direction: Direction::ALL[direction].name(),
                rule_number: (number != 0).then_some(number),
                packets,
            })
        })
        .collect();
    rules.sort_by(|a, b| a.filter.cmp(&b.filter));
    Ok(rules)
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
    sessions.push_record(["session", "packets", "bytes", "truncated to length", "truncated to MTU", "fast path"]);
    for session in &document.sessions {
        sessions.push_record([
            session.name.clone(),
            session.packets.to_string(),
            session.bytes.to_string(),
            session.truncated_to_length.to_string(),
            session.truncated_to_mtu.to_string(),
            session.fast_path.to_string(),
        ]);
    }
    let mut text = format!("{}\n\n{}\n\n", sources.build().with(Style::blank()), sessions.build().with(Style::blank()));
    text.push_str(&rules_in_words(&document.rules));
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

/// A table of the rules that decided on anything: of ten thousand, most never do.
fn rules_in_words(rules: &[RuleDocument]) -> String {
    let mut table = Builder::default();
    table.push_record(["filter", "direction", "rule", "packets"]);
    let mut silent = 0;
    for rule in rules {
        if rule.packets == 0 {
            silent += 1;
            continue;
        }
        table.push_record([
            rule.filter.clone(),
            rule.direction.to_owned(),
            rule.rule_number.map_or_else(|| "network services".into(), |number| number.to_string()),
            rule.packets.to_string(),
        ]);
    }
    let silence = match (silent, rules.len()) {
        (0, _) => String::new(),
        (silent, all) if silent == all => format!(" rules: none of {all} decided on a packet\n\n"),
        (silent, _) => format!(" and {silent} rules that decided on no packet\n\n"),
    };
    if silent == rules.len() {
        return silence;
    }
    format!("{}\n{}{silence}", table.build().with(Style::blank()), if silent == 0 { "\n" } else { "" })
}
