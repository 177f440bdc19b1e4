//! Why definitions can't become what was asked for. Nothing has changed when one of these is returned.

use std::fmt;

use crate::error::{Error, Kind};
use crate::model::InvalidValue;

/// Why not: names the field, its value, and what would be allowed. Becomes an [`Error`] where it is known what was
/// being done: a command and the line of a file have the same refusals.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refusal {
    kind: Kind,
    why: String,
    hint: Option<String>,
}

impl Refusal {
    /// A value that can't be meant.
    pub fn bad_input(why: impl fmt::Display) -> Self {
        Self { kind: Kind::BadInput, why: why.to_string(), hint: None }
    }

    /// A name that nothing has.
    pub fn not_found(why: impl fmt::Display) -> Self {
        Self { kind: Kind::NotFound, why: why.to_string(), hint: None }
    }

    /// Something exists already, or is in use.
    pub fn conflict(why: impl fmt::Display) -> Self {
        Self { kind: Kind::Conflict, why: why.to_string(), hint: None }
    }

    /// The attempt failed for a reason that has nothing to do with the input.
    pub fn failed(why: impl fmt::Display) -> Self {
        Self { kind: Kind::Failed, why: why.to_string(), hint: None }
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Says where it is, in front of why.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.why = format!("{place}: {}", self.why);
        self
    }

    /// What kind of failure it is.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The hint, if there is one.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The error of a command; `what` is verb and object ("create target zeek").
    pub fn during(self, what: impl fmt::Display) -> Error {
        let error = Error::new(self.kind, what, self.why);
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl From<InvalidValue> for Refusal {
    fn from(invalid: InvalidValue) -> Self {
        Self::bad_input(invalid)
    }
}
