//! A filter: numbered rules per direction, and switches.

use std::collections::BTreeMap;

use mirror_common::policy::Direction;

use super::id::{FilterId, RuleId};
use super::rule::{Rule, RuleNumber};
use super::text::{Description, Name, Tags};

/// A filter as definitions hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Its id.
    pub id: FilterId,
    /// Its name.
    pub name: Name,
    /// For people.
    pub description: Option<Description>,
    /// For people and their programs.
    pub tags: Tags,
    /// Accept traffic to and from port 53 (UDP and TCP) of the host's resolvers ahead of the rules, both directions.
    pub network_services_dns: bool,
    /// Accept frames that are not IP after the rules; no rule matches them.
    pub mirror_non_ip: bool,
    /// Indexed by direction.
    pub(super) rules: [BTreeMap<RuleNumber, FilterRule>; Direction::ALL.len()],
}

/// A rule and its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRule {
    /// Its id.
    pub id: RuleId,
    /// What it does.
    pub rule: Rule,
}

impl Filter {
    /// The rules of one direction, in the order of evaluation: ascending numbers.
    pub fn rules(&self, direction: Direction) -> impl ExactSizeIterator<Item = &FilterRule> {
        self.rules[direction as usize].values()
    }

    /// How many rules there are in one direction.
    pub fn rule_count(&self, direction: Direction) -> usize {
        self.rules[direction as usize].len()
    }

    /// The rule with this number.
    pub fn rule(&self, direction: Direction, number: RuleNumber) -> Option<&FilterRule> {
        self.rules[direction as usize].get(&number)
    }

    /// Every rule: ingress first, then egress.
    pub fn all_rules(&self) -> impl Iterator<Item = &FilterRule> {
        Direction::ALL.into_iter().flat_map(|direction| self.rules(direction))
    }
}

/// A filter as it is asked for, without its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterDraft {
    /// The id of a filter that exists already; a new one is drawn when not set.
    pub id: Option<FilterId>,
    /// Its name.
    pub name: Name,
    /// For people.
    pub description: Option<Description>,
    /// For people and their programs.
    pub tags: Tags,
    /// As in [`Filter`].
    pub network_services_dns: bool,
    /// As in [`Filter`].
    pub mirror_non_ip: bool,
}

impl From<&Filter> for FilterDraft {
    fn from(filter: &Filter) -> Self {
        Self {
            id: Some(filter.id),
            name: filter.name.clone(),
            description: filter.description.clone(),
            tags: filter.tags.clone(),
            network_services_dns: filter.network_services_dns,
            mirror_non_ip: filter.mirror_non_ip,
        }
    }
}
