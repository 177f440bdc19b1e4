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
use crate::links::Link;
use crate::model::InterfaceName;
use crate::state::{Session, State, Target};

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
    #[error("session {session}: its target {interface} {why}")]
    Unsuitable { session: String, interface: InterfaceName, why: &'static str },
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

/// Plans for one source. `resolvers` and `links` are those of the host.
pub(super) fn plan(
    source: &InterfaceName,
    wanted: &Definitions,
    state: &State,
    slots: &mut Slots,
    resolvers: &[IpAddr],
    links: &[Link],
) -> Result<Plan, Impossible> {
    let resolved: Vec<_> = wanted.sessions_of(source).collect();
    let sessions = resolved.iter().map(|wanted| session(wanted, state, slots, links)).collect::<Result<Vec<_>, _>>()?;
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
fn session(
    wanted: &ResolvedSession<'_>,
    state: &State,
    slots: &mut Slots,
    links: &[Link],
) -> Result<Session, Impossible> {
    let ResolvedSession { session, target, filter } = wanted;
    let wanted_target = match &target.destination {
        Destination::Address(endpoint) => Target::Address(*endpoint),
        Destination::Interface(interface) => {
            let link = links.iter().find(|link| link.name == interface.as_str());
            if let Some(why) = link.and_then(unsuitable) {
                let (session, interface) = (session.name.to_string(), interface.clone());
                return Err(Impossible::Unsuitable { session, interface, why });
            }
            Target::Interface { interface: interface.clone(), ifindex: link.map_or(0, |link| link.index) }
        }
    };
    let new = |slot| Session {
        id: session.id,
        name: session.name.clone(),
        session_number: session.number,
        slot,
        vni: session.vni,
        packet_length: session.packet_length,
        target_name: target.name.clone(),
        target: wanted_target.clone(),
        filter: filter.id,
    };
    // Also one that was retired a moment ago: the tap still knows it.
    let same = |known: &&Session| {
        known.id == session.id
            && known.vni == session.vni
            && known.packet_length == session.packet_length
            && known.target == wanted_target
            // Rules are counted for the filter that the session has.
            && known.filter == filter.id
    };
    if let Some(known) = state.sessions().find(same) {
        return Ok(new(known.slot));
    }
    slots.take().map(new).ok_or(Impossible::NoSlot)
}

/// Why bare frames can't go out of an interface, if they can't.
fn unsuitable(link: &Link) -> Option<&'static str> {
    // In every network namespace.
    const LOOPBACK: u32 = 1;
    if !link.has_ethernet_header {
        Some("is an interface whose packets have no Ethernet header, and copies have one")
    } else if link.index == LOOPBACK {
        Some("is the loopback interface: the host would take copies for its own packets")
    } else {
        None
    }
}
