//! Commands for people who work on mirrorctl.
fn main() {}
