//! Definitions: what is to be mirrored, as people said it. Targets, filters with their rules, sessions.
//!
//! [`Definitions`] is a collection that is valid at all times. Every change is a method that looks at everything first
//! and then either makes the whole change or returns a [`Refusal`]. Nothing here looks at the host or the kernel; what
//! only the host can tell is asked for through [`host::Host`].
//!
//! Names identify: they are unique per kind and never change, and sessions refer to targets and filters by them. Ids are
//! for people and programs that want to be sure that it still is the same one.

pub mod diff;
pub mod fields;
pub mod file;
pub mod filter;
pub mod host;
pub mod id;
pub mod protocol;
pub mod refusal;
pub mod rule;
pub mod session;
pub mod store;
pub mod target;
pub mod text;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use mirror_common::policy::Direction;

use self::filter::{Filter, FilterDraft, FilterRule};
use self::id::{FilterId, RuleId, SessionId, TargetId};
use self::refusal::Refusal;
use self::rule::{Rule, RuleNumber};
use self::session::{Session, SessionDraft};
use self::target::{Destination, Target, TargetDraft};
use self::text::{Name, Tags};
use crate::error::Error;
use crate::model::{InterfaceName, SessionNumber, Vni};

/// Most sources of an instance.
pub const SOURCES_MAX: usize = 1024;
/// Most sessions of a source.
pub const SESSIONS_PER_SOURCE_MAX: usize = 256;
/// Most rules of a source and direction: those of the filters of all its sessions together. Also of a filter and
/// direction, as no session could use more.
pub const RULES_PER_SOURCE_MAX: usize = 16_384;

/// How many names an error lists.
const LISTED_MAX: usize = 20;

/// Targets, filters and sessions that fit together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definitions {
    targets: BTreeMap<Name, Target>,
    filters: BTreeMap<Name, Filter>,
    sessions: BTreeMap<Name, Session>,
    /// The names of `sessions` once more, in the order of evaluation.
    order: BTreeMap<InterfaceName, BTreeMap<SessionNumber, Name>>,
    /// How many of `sessions` use a VNI, where any does.
    vnis: BTreeMap<Vni, usize>,
}

/// A session with what it refers to.
#[derive(Clone, Copy, Debug)]
pub struct ResolvedSession<'a> {
    /// The session.
    pub session: &'a Session,
    /// Its target.
    pub target: &'a Target,
    /// Its filter.
    pub filter: &'a Filter,
}

/// A resource that has tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tagged {
    /// The target of this name.
    Target(Name),
    /// The filter of this name.
    Filter(Name),
    /// The session of this name.
    Session(Name),
}

/// What the three kinds of named resource have in common.
trait Resource {
    const KIND: &'static str;
    type Id: FromStr + PartialEq;

    fn id(&self) -> Self::Id;
}

macro_rules! resource {
    ($type:ty, $id:ty, $kind:literal) => {
        impl Resource for $type {
            const KIND: &'static str = $kind;
            type Id = $id;

            fn id(&self) -> $id {
                self.id
            }
        }
    };
}

resource!(Target, TargetId, "target");
resource!(Filter, FilterId, "filter");
resource!(Session, SessionId, "session");

/// Reading.
impl Definitions {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.filters.is_empty() && self.sessions.is_empty()
    }

    /// All targets, by name.
    pub fn targets(&self) -> impl ExactSizeIterator<Item = &Target> {
        self.targets.values()
    }

    /// All filters, by name.
    pub fn filters(&self) -> impl ExactSizeIterator<Item = &Filter> {
        self.filters.values()
    }

    /// All sessions, by name.
    pub fn sessions(&self) -> impl ExactSizeIterator<Item = &Session> {
        self.sessions.values()
    }

    /// Every interface that a session has as its source, by name.
    pub fn sources(&self) -> impl ExactSizeIterator<Item = &InterfaceName> {
        self.order.keys()
    }

    /// The sessions of a source in the order of evaluation: ascending numbers.
    pub fn sessions_of<'a>(&'a self, source: &InterfaceName) -> impl Iterator<Item = ResolvedSession<'a>> + use<'a> {
        let names = self.order.get(source).into_iter().flat_map(BTreeMap::values);
        names.filter_map(|name| {
            let session = self.sessions.get(name)?;
            Some(ResolvedSession {
                session,
                target: self.targets.get(&session.target)?,
                filter: self.filters.get(&session.filter)?,
            })
        })
    }

    /// The target with this name or id.
    pub fn target(&self, name_or_id: &str) -> Result<&Target, Refusal> {
        find(&self.targets, name_or_id)
    }

    /// The filter with this name or id.
    pub fn filter(&self, name_or_id: &str) -> Result<&Filter, Refusal> {
        find(&self.filters, name_or_id)
    }

    /// The session with this name or id.
    pub fn session(&self, name_or_id: &str) -> Result<&Session, Refusal> {
        find(&self.sessions, name_or_id)
    }

    /// The rule with this number, or why there is none.
    pub fn rule(&self, filter: &Name, direction: Direction, number: RuleNumber) -> Result<&FilterRule, Refusal> {
        self.filter(filter.as_str())?.rule(direction, number).ok_or_else(|| no_such_rule(filter, direction, number))
    }

    /// The rule with this id, and the filter it is in.
    pub fn rule_by_id(&self, id: RuleId) -> Result<(&Filter, &FilterRule), Refusal> {
        let mut rules = self.filters.values().flat_map(|filter| filter.all_rules().map(move |rule| (filter, rule)));
        rules
            .find(|(_, rule)| rule.id == id)
            .ok_or_else(|| Refusal::not_found(format_args!("rule {id}: there is no such rule")))
    }

    /// The resource with this name or id, of whatever kind has tags.
    pub fn tagged(&self, name_or_id: &str) -> Result<Tagged, Refusal> {
        let target = self.target(name_or_id).ok();
        let filter = self.filter(name_or_id).ok();
        let session = self.session(name_or_id).ok();
        let ids: Vec<String> = [
            target.map(|target| format!("target {}", target.id)),
            filter.map(|filter| format!("filter {}", filter.id)),
            session.map(|session| format!("session {}", session.id)),
        ]
        .into_iter()
        .flatten()
        .collect();
        let found = match (target, filter, session) {
            (Some(target), None, None) => Tagged::Target(target.name.clone()),
            (None, Some(filter), None) => Tagged::Filter(filter.name.clone()),
            (None, None, Some(session)) => Tagged::Session(session.name.clone()),
            (None, None, None) => {
                return Err(Refusal::not_found(format_args!(
                    "{name_or_id:?}: there is no such target, filter or session"
                )));
            }
            _ => {
                return Err(Refusal::bad_input(format_args!("{name_or_id:?}: more than one thing has this name"))
                    .hint(format_args!("give the id of the one you mean: {}", ids.join(", "))));
            }
        };
        Ok(found)
    }
}

/// Changing.
impl Definitions {
    /// Adds a target.
    pub fn create_target(&mut self, draft: TargetDraft) -> Result<&Target, Refusal> {
        name_is_free(&self.targets, &draft.name)?;
        draft.destination.check()?;
        let target = Target {
            id: draft.id.map_or_else(TargetId::random, Ok).map_err(Refusal::failed)?,
            name: draft.name.clone(),
            destination: draft.destination,
            description: draft.description,
            tags: draft.tags,
        };
        Ok(self.targets.entry(draft.name).or_insert(target))
    }

    /// Removes a target that no session uses.
    pub fn delete_target(&mut self, name: &Name) -> Result<Target, Refusal> {
        self.target(name.as_str())?;
        self.not_in_use("target", |session| session.target == *name)?;
        self.targets.remove(name).ok_or_else(|| no_such(Target::KIND, name.as_str()))
    }

    /// Adds a filter without rules.
    pub fn create_filter(&mut self, draft: FilterDraft) -> Result<&Filter, Refusal> {
        name_is_free(&self.filters, &draft.name)?;
        let filter = Filter {
            id: draft.id.map_or_else(FilterId::random, Ok).map_err(Refusal::failed)?,
            name: draft.name.clone(),
            description: draft.description,
            tags: draft.tags,
            network_services_dns: draft.network_services_dns,
            mirror_non_ip: draft.mirror_non_ip,
            rules: Default::default(),
        };
        Ok(self.filters.entry(draft.name).or_insert(filter))
    }

    /// Changes what `edit` changes, except name and id.
    pub fn modify_filter(&mut self, name: &Name, edit: impl FnOnce(&mut FilterDraft)) -> Result<&Filter, Refusal> {
        let filter = self.filter_mut(name)?;
        let mut draft = FilterDraft::from(&*filter);
        edit(&mut draft);
        filter.description = draft.description;
        filter.tags = draft.tags;
        filter.network_services_dns = draft.network_services_dns;
        filter.mirror_non_ip = draft.mirror_non_ip;
        Ok(filter)
    }

    /// Removes a filter that no session uses, and its rules.
    pub fn delete_filter(&mut self, name: &Name) -> Result<Filter, Refusal> {
        self.filter(name.as_str())?;
        self.not_in_use("filter", |session| session.filter == *name)?;
        self.filters.remove(name).ok_or_else(|| no_such(Filter::KIND, name.as_str()))
    }

    /// Adds a rule; draws an id for it when none is given.
    pub fn add_rule(&mut self, filter: &Name, rule: Rule, id: Option<RuleId>) -> Result<&FilterRule, Refusal> {
        rule.check()?;
        let (direction, number) = (rule.direction, rule.number);
        self.rule_number_is_free(filter, direction, number)?;
        self.has_room_for_a_rule(filter, direction)?;
        let id = id.map_or_else(RuleId::random, Ok).map_err(Refusal::failed)?;
        let rules = &mut self.filter_mut(filter)?.rules[direction as usize];
        Ok(rules.entry(number).or_insert(FilterRule { id, rule }))
    }

    /// Puts `rule` in the place of the rule with this direction and number; it keeps its id, and may get another place.
    pub fn modify_rule(
        &mut self,
        filter: &Name,
        direction: Direction,
        number: RuleNumber,
        rule: Rule,
    ) -> Result<&FilterRule, Refusal> {
        rule.check()?;
        let id = self.rule(filter, direction, number)?.id;
        if (rule.direction, rule.number) != (direction, number) {
            self.rule_number_is_free(filter, rule.direction, rule.number)?;
        }
        if rule.direction != direction {
            self.has_room_for_a_rule(filter, rule.direction)?;
        }
        let rules = &mut self.filter_mut(filter)?.rules;
        rules[direction as usize].remove(&number);
        Ok(rules[rule.direction as usize].entry(rule.number).or_insert(FilterRule { id, rule }))
    }

    /// Removes a rule.
    pub fn delete_rule(
        &mut self,
        filter: &Name,
        direction: Direction,
        number: RuleNumber,
    ) -> Result<FilterRule, Refusal> {
        let rules = &mut self.filter_mut(filter)?.rules[direction as usize];
        rules.remove(&number).ok_or_else(|| no_such_rule(filter, direction, number))
    }

    /// Adds a session.
    pub fn create_session(&mut self, draft: SessionDraft) -> Result<&Session, Refusal> {
        name_is_free(&self.sessions, &draft.name)?;
        self.check_session(&draft)?;
        let session = self.session_from(draft)?;
        Ok(self.insert_session(session))
    }

    /// Changes what `edit` changes, except name and id; draws a VNI when `edit` unsets it.
    pub fn modify_session(&mut self, name: &Name, edit: impl FnOnce(&mut SessionDraft)) -> Result<&Session, Refusal> {
        let old = self.session(name.as_str())?;
        let mut draft = SessionDraft::from(old);
        edit(&mut draft);
        draft.id = Some(old.id);
        draft.name = name.clone();
        self.check_session(&draft)?;
        let session = self.session_from(draft)?;
        self.remove_session(name);
        Ok(self.insert_session(session))
    }

    /// Removes a session.
    pub fn delete_session(&mut self, name: &Name) -> Result<Session, Refusal> {
        self.remove_session(name).ok_or_else(|| no_such(Session::KIND, name.as_str()))
    }

    /// The tags of a resource, to be changed.
    pub fn tags_mut(&mut self, resource: &Tagged) -> Result<&mut Tags, Refusal> {
        let (kind, name, tags) = match resource {
            Tagged::Target(name) => (Target::KIND, name, self.targets.get_mut(name).map(|target| &mut target.tags)),
            Tagged::Filter(name) => (Filter::KIND, name, self.filters.get_mut(name).map(|filter| &mut filter.tags)),
            Tagged::Session(name) => {
                (Session::KIND, name, self.sessions.get_mut(name).map(|session| &mut session.tags))
            }
        };
        tags.ok_or_else(|| no_such(kind, name.as_str()))
    }
}

/// What has to hold.
impl Definitions {
    fn filter_mut(&mut self, name: &Name) -> Result<&mut Filter, Refusal> {
        self.filters.get_mut(name).ok_or_else(|| no_such(Filter::KIND, name.as_str()))
    }

    fn not_in_use(&self, kind: &str, uses: impl Fn(&Session) -> bool) -> Result<(), Refusal> {
        let users: Vec<&str> =
            self.sessions.values().filter(|session| uses(session)).map(|session| session.name.as_str()).collect();
        let listed = users[..users.len().min(LISTED_MAX)].join(", ");
        match users.len() {
            0 => Ok(()),
            1 => Err(Refusal::conflict(format_args!("the {kind} is in use by session {listed}"))),
            count @ 2..=LISTED_MAX => {
                Err(Refusal::conflict(format_args!("the {kind} is in use by {count} sessions: {listed}")))
            }
            count => Err(Refusal::conflict(format_args!(
                "the {kind} is in use by {count} sessions: {listed} and {} more",
                count - LISTED_MAX
            ))),
        }
        .map_err(|refusal| refusal.hint("delete these sessions first, or give them another one with 'session modify'"))
    }

    fn rule_number_is_free(&self, filter: &Name, direction: Direction, number: RuleNumber) -> Result<(), Refusal> {
        match self.filter(filter.as_str())?.rule(direction, number) {
            None => Ok(()),
            Some(_) => Err(Refusal::conflict(format_args!(
                "rule number {number}: filter {filter} has an {} rule with this number already",
                direction.name()
            ))),
        }
    }

    /// Whether one more rule leaves every source that uses the filter within its limit.
    fn has_room_for_a_rule(&self, filter: &Name, direction: Direction) -> Result<(), Refusal> {
        if self.filter(filter.as_str())?.rule_count(direction) >= RULES_PER_SOURCE_MAX {
            return Err(Refusal::bad_input(format_args!(
                "filter {filter} has {RULES_PER_SOURCE_MAX} {} rules; it can't have more",
                direction.name()
            )));
        }
        let sources: BTreeSet<&InterfaceName> =
            self.sessions.values().filter(|session| session.filter == *filter).map(|session| &session.source).collect();
        for source in sources {
            let uses = self.sessions_of(source).filter(|resolved| resolved.filter.name == *filter).count();
            self.rules_fit(source, direction, self.rules_of(source, direction, None) + uses)?;
        }
        Ok(())
    }

    /// How many rules the sessions of a source have in one direction, without those of the session `except`.
    fn rules_of(&self, source: &InterfaceName, direction: Direction, except: Option<&Name>) -> usize {
        self.sessions_of(source)
            .filter(|resolved| except != Some(&resolved.session.name))
            .map(|resolved| resolved.filter.rule_count(direction))
            .sum()
    }

    fn rules_fit(&self, source: &InterfaceName, direction: Direction, count: usize) -> Result<(), Refusal> {
        if count <= RULES_PER_SOURCE_MAX {
            return Ok(());
        }
        Err(Refusal::bad_input(format_args!(
            "source {source}: the filters of its sessions would have {count} {} rules; there can be at most \
             {RULES_PER_SOURCE_MAX} a source and direction",
            direction.name()
        )))
    }

    /// Whether the session fits in beside all others but the one of its own name, whose place it takes.
    fn check_session(&self, draft: &SessionDraft) -> Result<(), Refusal> {
        let target = self.target(draft.target.as_str())?;
        let filter = self.filter(draft.filter.as_str())?;
        let source = &draft.source;
        if target.destination == Destination::Interface(source.clone()) {
            return Err(Refusal::bad_input(format_args!(
                "target {}: it is interface {source}, the source itself",
                target.name
            )));
        }
        if let Some(other) = self.order.get(source).and_then(|numbers| numbers.get(&draft.number))
            && *other != draft.name
        {
            return Err(Refusal::conflict(format_args!(
                "session number {}: session {other} of source {source} has it already",
                draft.number
            ))
            .hint("'mirrorctl session list' shows the numbers that are taken"));
        }
        let others = |source: &InterfaceName| {
            let names = self.order.get(source).into_iter().flat_map(BTreeMap::values);
            names.filter(|name| **name != draft.name).count()
        };
        if others(source) >= SESSIONS_PER_SOURCE_MAX {
            return Err(Refusal::bad_input(format_args!(
                "source {source} has {SESSIONS_PER_SOURCE_MAX} sessions; it can't have more"
            )));
        }
        if !self.order.contains_key(source) {
            // The source that the session leaves goes if it was its only session.
            let left = self.sessions.get(&draft.name).is_some_and(|old| others(&old.source) == 0);
            if self.order.len() - usize::from(left) >= SOURCES_MAX {
                return Err(Refusal::bad_input(format_args!(
                    "source {source}: there are {SOURCES_MAX} sources; there can't be more"
                )));
            }
        }
        for direction in Direction::ALL {
            let count = self.rules_of(source, direction, Some(&draft.name)) + filter.rule_count(direction);
            self.rules_fit(source, direction, count)?;
        }
        Ok(())
    }

    fn session_from(&self, draft: SessionDraft) -> Result<Session, Refusal> {
        Ok(Session {
            id: draft.id.map_or_else(SessionId::random, Ok).map_err(Refusal::failed)?,
            name: draft.name,
            source: draft.source,
            target: draft.target,
            filter: draft.filter,
            number: draft.number,
            vni: draft.vni.map_or_else(|| self.unused_vni(), Ok)?,
            packet_length: draft.packet_length,
            description: draft.description,
            tags: draft.tags,
        })
    }

    /// A random VNI that no session uses. There always is one: there are 64 times as many as there can be sessions.
    fn unused_vni(&self) -> Result<Vni, Refusal> {
        loop {
            let random =
                getrandom::u32().map_err(|error| Refusal::failed(Error::failed("draw a random VNI", &error)))?;
            let vni = Vni::try_from(u64::from(random >> 8))?;
            if !self.vnis.contains_key(&vni) {
                return Ok(vni);
            }
        }
    }

    fn insert_session(&mut self, session: Session) -> &Session {
        self.order.entry(session.source.clone()).or_default().insert(session.number, session.name.clone());
        *self.vnis.entry(session.vni).or_default() += 1;
        self.sessions.entry(session.name.clone()).or_insert(session)
    }

    fn remove_session(&mut self, name: &Name) -> Option<Session> {
        let session = self.sessions.remove(name)?;
        if let Some(numbers) = self.order.get_mut(&session.source) {
            numbers.remove(&session.number);
            if numbers.is_empty() {
                self.order.remove(&session.source);
            }
        }
        if let Some(count) = self.vnis.get_mut(&session.vni) {
            *count -= 1;
            if *count == 0 {
                self.vnis.remove(&session.vni);
            }
        }
        Some(session)
    }
}

fn find<'a, T: Resource>(resources: &'a BTreeMap<Name, T>, name_or_id: &str) -> Result<&'a T, Refusal> {
    // No name looks like an id.
    let found = match name_or_id.parse::<T::Id>() {
        Ok(id) => resources.values().find(|resource| resource.id() == id),
        Err(_) => resources.get(name_or_id),
    };
    found.ok_or_else(|| no_such(T::KIND, name_or_id))
}

fn name_is_free<T: Resource>(resources: &BTreeMap<Name, T>, name: &Name) -> Result<(), Refusal> {
    if resources.contains_key(name) {
        return Err(Refusal::conflict(format_args!("name {name}: there is a {} of this name already", T::KIND)));
    }
    Ok(())
}

fn no_such(kind: &str, name_or_id: &str) -> Refusal {
    // Not every text is a name: it might not be fit to print.
    Refusal::not_found(format_args!("{kind} {name_or_id:?}: there is no such {kind}"))
        .hint(format_args!("'mirrorctl {kind} list' lists them"))
}

fn no_such_rule(filter: &Name, direction: Direction, number: RuleNumber) -> Refusal {
    Refusal::not_found(format_args!("filter {filter} has no {} rule with number {number}", direction.name()))
        .hint("'mirrorctl rule list' lists them")
}
