//! The server: sources of records, listeners, the admin listener, and the commands.
//!
//! The record engine is the crate `headless-dns-core` (`core/src/lib.rs`), which begins the map of the code: the picture of the
//! data's way and the invariants. `docs/architecture.md` continues it with the modules, the path of an event and of a query,
//! and the libraries. `docs/glossary.md` has the terms, `CONTRIBUTING.md` the commands and the steps of usual additions. This
//! library is for the program and its tests; its interface changes with every version.
//!
//! Reading order: [`source`], [`server`], [`admin`], [`report`], [`commands`].

#[macro_use]
mod async_write;

pub mod admin;
pub mod cli;
pub mod commands;
pub mod config;
pub mod duration;
pub mod log;
pub mod metrics;
pub mod panics;
pub mod regular_file;
pub mod report;
pub mod server;
pub mod source;
