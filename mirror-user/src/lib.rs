//! The library behind `mirrorctl`: definitions in, kernel state out.

pub mod cli;
pub mod commands;
pub mod compile;
pub mod definitions;
pub mod error;
pub mod frame;
pub mod host;
pub mod instance;
pub mod kernel;
pub mod links;
pub mod model;
pub mod offloads;
pub mod pcapng;
pub mod question;
pub mod raw;
pub mod reconcile;
pub mod resolvers;
pub mod state;
pub mod tap;
pub mod vxlan;
