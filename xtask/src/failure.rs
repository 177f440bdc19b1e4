//! An error that knows what to do about it.

use std::fmt;

/// `error: <verb object>: <cause>`, and `hint: <what to do>` where there is something to do.
#[derive(Debug)]
pub struct Failure {
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// An error with no advice.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// The same error with advice, of one or more lines.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Prints `err` the way mirrorctl prints its own.
pub fn report(err: &anyhow::Error) {
    eprintln!("error: {err:#}");
    if let Some(hint) = err.chain().find_map(|cause| cause.downcast_ref::<Failure>()?.hint.as_ref()) {
        eprintln!("hint: {hint}");
    }
}
