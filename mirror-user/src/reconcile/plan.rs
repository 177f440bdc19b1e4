//! Definitions and what is in the kernel -> what must become of it. Pure: decides, and changes nothing.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use mirror_common::policy::Direction;
use mirror_common::session::{MAX_SESSIONS, SessionSlot};

use crate::compile::{self, TooLarge};
use crate::definitions::target::Destination;
use crate::definitions::{Definitions, ResolvedSession};
use crate::kernel::Policies;
use crate::model::{Endpoint, InterfaceName};
use crate::state::{Session, State};

/// The slots of an instance that are free.
#[derive(Debug)]
pub(super) struct Slots {
    taken: BTreeSet<SessionSlot>,
    next: SessionSlot,
}

impl Slots {
    pub(super) fn of(state: &State) -> Self {
        Self { taken: state.sessions().map(|session| session.slot).collect(), next: 0 }
    }

    fn take(&mut self) -> Option<SessionSlot> {
        let slot = (self.next..MAX_SESSIONS).find(|slot| !self.taken.contains(slot))?;
        self.next = slot + 1;
        Some(slot)
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub(super) enum Impossible {
    #[error("the instance has {MAX_SESSIONS} sessions already, or is still forgetting some; that is the most")]
    NoSlot,
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error("session {0}: its target is an interface; this version sends to addresses only")]
    TargetIsInterface(String),
}

/// What a source's programs should be.
#[derive(Debug)]
pub(super) struct Plan {
    /// Its sessions, by number.
    pub(super) sessions: Vec<Session>,
    pub(super) policies: Policies,
    /// Of the policies: equal policies have equal ones.
    pub(super) fingerprint: u64,
}

/// Plans for one source. `resolvers` are those of the host.
pub(super) fn plan(
    source: &InterfaceName,
    wanted: &Definitions,
    state: &State,
    slots: &mut Slots,
    resolvers: &[IpAddr],
) -> Result<Plan, Impossible> {
    let resolved: Vec<_> = wanted.sessions_of(source).collect();
    let sessions = resolved.iter().map(|wanted| session(wanted, state, slots)).collect::<Result<Vec<_>, _>>()?;
    let policies = Policies::build(|direction| {
        let compiled: Vec<_> = resolved
            .iter()
            .zip(&sessions)
            .map(|(wanted, session)| compiled(wanted, session.slot, direction, resolvers))
            .collect();
        compile::compile(&compiled)
    })?;
    let mut hasher = DefaultHasher::new();
    for direction in Direction::ALL {
        policies.of(direction).table.hash(&mut hasher);
        policies.of(direction).shape.non_ip_session.hash(&mut hasher);
    }
    Ok(Plan { sessions, policies, fingerprint: hasher.finish() })
}

fn compiled<'a>(
    wanted: &ResolvedSession<'a>,
    slot: SessionSlot,
    direction: Direction,
    resolvers: &'a [IpAddr],
) -> compile::Session<'a> {
    compile::Session {
        slot,
        rules: wanted.filter.rules(direction).map(|rule| &rule.rule).collect(),
        dns: if wanted.filter.network_services_dns { resolvers } else { &[] },
        mirror_non_ip: wanted.filter.mirror_non_ip,
    }
}

/// The session as the kernel will have it: in the slot it has, if nothing changes for the tap, else in a free one.
fn session(wanted: &ResolvedSession<'_>, state: &State, slots: &mut Slots) -> Result<Session, Impossible> {
    let ResolvedSession { session, target, filter } = wanted;
    let endpoint: Endpoint = match &target.destination {
        Destination::Address(endpoint) => *endpoint,
        Destination::Interface(_) => return Err(Impossible::TargetIsInterface(session.name.to_string())),
    };
    let new = |slot| Session {
        id: session.id,
        name: session.name.clone(),
        session_number: session.number,
        slot,
        vni: session.vni,
        packet_length: session.packet_length,
        target_name: target.name.clone(),
        target: endpoint,
        filter: filter.id,
    };
    // Also one that was retired a moment ago: the tap still knows it.
    let same = |known: &&Session| {
        known.id == session.id
            && known.vni == session.vni
            && known.packet_length == session.packet_length
            && known.target == endpoint
            // Rules are counted for the filter that the session has.
            && known.filter == filter.id
    };
    if let Some(known) = state.sessions().find(same) {
        return Ok(new(known.slot));
    }
    slots.take().map(new).ok_or(Impossible::NoSlot)
}
