//! The one error type: what could not be done, to what, why, and what to do about it.

use std::fmt;

/// Why a command did not do what was asked; decides the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The attempt failed: exit status 1.
    Failed,
    /// What was asked for can't be meant; nothing was changed: exit status 2.
    BadInput,
    /// A thing that was named doesn't exist: exit status 3.
    NotFound,
    /// It exists already, or is in use: exit status 4.
    Conflict,
    /// Root or capabilities are missing: exit status 5.
    NotPermitted,
}

impl Kind {
    /// The exit status of `mirrorctl`.
    pub const fn exit_status(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::BadInput => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::NotPermitted => 5,
        }
    }
}

/// An error as the user reads it: `<what>: <why>`, and a hint where there is something to do.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Error {
    kind: Kind,
    what: String,
    why: String,
    hint: Option<String>,
}

/// The result of everything in this library that can fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// `what` is verb and object ("attach eth0"), `why` the cause.
    pub fn new(kind: Kind, what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self { kind, what: what.to_string(), why: why.to_string(), hint: None }
    }

    /// The attempt failed. `why` is printed with all its causes.
    pub fn failed(what: impl fmt::Display, why: &(dyn std::error::Error + 'static)) -> Self {
        let mut text = why.to_string();
        let mut cause = why.source();
        while let Some(error) = cause {
            let next = error.to_string();
            // Many libraries print their cause in their own message already.
            if !text.contains(&next) {
                text = format!("{text}: {next}");
            }
            cause = error.source();
        }
        Self::new(Kind::Failed, what, text)
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("open file: {0}")]
        struct Outer(#[source] std::io::Error);

        let inner = std::io::Error::from_raw_os_error(2);
        let error = Error::failed("read state", &Outer(inner));
        assert_eq!(error.to_string(), "read state: open file: No such file or directory (os error 2)");
    }
}
