//! Counters of what is replaced: kept for what still exists.

use std::collections::HashMap;

use mirror_common::policy::Direction;
use mirror_common::session::SessionSlot;

use crate::definitions::Definitions;
use crate::definitions::id::FilterId;
use crate::definitions::rule::RuleNumber;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::state::{Carried, Retired, Source, State};

/// Takes over what the replaced generations of a source counted. Nothing must count there any more.
pub(super) fn carry_rules(kernel: &Kernel, state: &mut State, source: usize) -> Result<()> {
    let filters: HashMap<SessionSlot, FilterId> =
        state.sessions().map(|session| (session.slot, session.filter)).collect();
    let Source { ifindex, generation, carried_below, .. } = state.sources[source];
    for replaced in kernel.generations(ifindex)? {
        if !(carried_below..generation).contains(&replaced) {
            continue;
        }
        for direction in Direction::ALL {
            for (rule, packets) in kernel.rule_counts(ifindex, replaced, direction)? {
                if let Some(filter) = filters.get(&rule.slot)
                    && packets != 0
                {
                    let rules = &mut state.carried.rules.entry(*filter).or_default()[direction as usize];
                    *rules.entry(rule.number).or_default() += packets;
                }
            }
        }
    }
    state.sources[source].carried_below = generation;
    Ok(())
}

/// Takes over what a retired session counted.
pub(super) fn carry_session(kernel: &Kernel, carried: &mut Carried, retired: &Retired) -> Result<()> {
    let counters = kernel.session_counts(retired.session.slot)?;
    *carried.sessions.entry(retired.session.id).or_default() += counters;
    Ok(())
}

/// Forgets the counters of what is no longer defined.
pub(super) fn prune(carried: &mut Carried, wanted: &Definitions) {
    if !carried.sessions.is_empty() {
        let ids: Vec<_> = wanted.sessions().map(|session| session.id).collect();
        carried.sessions.retain(|id, _| ids.contains(id));
    }
    carried.rules.retain(|id, directions| {
        let Some(filter) = wanted.filters().find(|filter| filter.id == *id) else {
            return false;
        };
        for direction in Direction::ALL {
            directions[direction as usize].retain(|number, _| {
                if *number == 0 {
                    return filter.network_services_dns;
                }
                RuleNumber::try_from(u64::from(*number)).is_ok_and(|number| filter.rule(direction, number).is_some())
            });
        }
        directions.iter().any(|rules| !rules.is_empty())
    });
}
