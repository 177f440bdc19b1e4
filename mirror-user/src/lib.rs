//! The library behind `mirrorctl`: definitions in, kernel state out.

pub mod cli;
pub mod commands;
pub mod error;
pub mod host;
pub mod model;
