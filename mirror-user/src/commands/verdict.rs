//! A verdict of the kernel, in the words of the definitions.

use std::fmt;

use mirror_common::session::SessionSlot;
use serde::Serialize;

use crate::commands::change::load;
use crate::definitions::Definitions;
use crate::error::{Error, Kind, Result};
use crate::instance::Instance;
use crate::kernel::{Answer, Kernel};
use crate::model::InterfaceName;
use crate::state::{Session, Source, State};

/// A source that is attached, and what its sessions are called.
pub(super) struct Attached {
    pub(super) kernel: Kernel,
    pub(super) source: Source,
    pub(super) names: Names,
}

impl Attached {
    /// Finds `interface` among the sources that are attached.
    pub(super) fn find(instance: &Instance, what: &str, interface: &InterfaceName) -> Result<Self> {
        let definitions = load(instance)?;
        let state = State::load(instance)?;
        state.require_this_network_namespace(what, instance)?;
        let not_attached = || {
            Error::new(Kind::NotFound, what, format_args!("instance {} has not attached it", instance.name()))
                .hint("'mirrorctl status' lists what is attached")
        };
        let source = state.source(interface).filter(|source| source.attached).ok_or_else(not_attached)?.clone();
        if source.changing {
            // Which policy is attached is not on record before the change is done.
            return Err(Error::new(Kind::Failed, what, "a change of its policy is under way, or was interrupted")
                .hint(
                    "try again; after an interruption the next change puts it right, 'mirrorctl apply' for example",
                ));
        }
        let kernel = Kernel::open(instance).ok_or_else(not_attached)?;
        let names = Names { sessions: source.sessions.clone(), definitions };
        Ok(Self { kernel, source, names })
    }
}

/// The names of what the kernel knows by number.
pub(super) struct Names {
    sessions: Vec<Session>,
    definitions: Definitions,
}

/// A verdict.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Verdict {
    verdict: &'static str,
    session: Option<String>,
    session_number: Option<u16>,
    rule_number: Option<u16>,
    reason: String,
}

impl Verdict {
    fn mirror(session: &Session, rule_number: Option<u16>, reason: String) -> Self {
        Self {
            verdict: "mirror",
            session: Some(session.name.to_string()),
            session_number: Some(session.session_number.get()),
            rule_number,
            reason,
        }
    }

    const fn none(reason: String) -> Self {
        Self { verdict: "none", session: None, session_number: None, rule_number: None, reason }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.session, self.session_number) {
            (Some(session), Some(number)) => {
                write!(f, "mirrored by session {session} (number {number}): {}", self.reason)
            }
            _ => write!(f, "not mirrored: {}", self.reason),
        }
    }
}

impl Names {
    /// The answer in words.
    pub(super) fn verdict(&self, answer: Answer) -> Result<Verdict> {
        Ok(match answer {
            Answer::Rule(rule) => {
                let session = self.session(rule.slot)?;
                let filter = self.filter(session);
                match rule.number {
                    0 => Verdict::mirror(session, None, format!("network service dns of filter {filter} accepts it")),
                    number => {
                        Verdict::mirror(session, Some(number), format!("rule {number} of filter {filter} accepts it"))
                    }
                }
            }
            Answer::NonIp(slot) => {
                let session = self.session(slot)?;
                let reason = format!("it is not IP, and filter {} takes such frames", self.filter(session));
                Verdict::mirror(session, None, reason)
            }
            Answer::Rejected(rule) => {
                let session = self.session(rule.slot)?;
                Verdict::none(format!(
                    "rule {} of filter {} rejects it for session {}, and no later session accepts it",
                    rule.number,
                    self.filter(session),
                    session.name
                ))
            }
            Answer::None => Verdict::none("no rule of any session matches it".to_owned()),
        })
    }

    fn session(&self, slot: SessionSlot) -> Result<&Session> {
        let session = self.sessions.iter().find(|session| session.slot == slot);
        session.ok_or_else(|| {
            Error::new(Kind::Failed, "name a verdict", format_args!("the kernel names an unknown session, {slot}"))
        })
    }

    fn filter(&self, session: &Session) -> String {
        let filter = self.definitions.filter(&session.filter.to_string());
        filter.map_or_else(|_| session.filter.to_string(), |filter| filter.name.to_string())
    }
}
