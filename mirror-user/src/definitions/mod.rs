//! Definitions: targets, filters, rules, sessions.

pub mod rule;
