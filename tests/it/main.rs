//! The tests that need only Rust, in one binary: one link instead of forty.
//!
//! A module tests one subject through the public API of the library or through the built program. `cargo test --test it
//! scenarios` runs one module. Data and expected files are in `tests/`, beside this folder. Unit tests of private items are in
//! their files in `src/`; the suites that need other programs are `tests/oracle`, `tests/cluster` and the scripts `tests/with_*`.
//!
//! Tests of all modules run at once in one process: a test takes no fixed port (`tests/common/ports.rs`), changes neither the
//! environment nor a limit of the process, and counts what is global to the process (panics, the log) in a process of its own.
//! Read next: `tests/common/mod.rs`.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "modules of a test, which fails with a panic")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a failed test shows its figures")]

mod admin;
mod allocations;
mod api_server;
mod bench;
mod causes;
#[cfg(feature = "tls")]
mod certificates;
mod cli;
#[path = "../common/mod.rs"]
mod common;
mod compare;
mod convergence;
#[cfg(all(feature = "https", feature = "quic"))]
mod corpus;
mod doctor;
mod explain;
mod findings;
#[cfg(all(feature = "https", feature = "quic"))]
mod flood;
mod forward;
#[cfg(all(feature = "tls", feature = "https", feature = "quic"))]
mod frozen;
#[cfg(all(feature = "https", feature = "quic"))]
mod fuzzed;
mod gate;
mod hostile_text;
#[cfg(feature = "https")]
mod https;
mod inputs;
mod life;
mod load;
mod metrics;
mod objects;
mod one_state;
mod packets;
mod padding;
mod query_log;
#[cfg(feature = "quic")]
mod quic;
mod reference;
mod scenarios;
mod serve;
mod shapes;
mod standard_error;
mod tidy;
#[cfg(feature = "tls")]
mod tls;
#[cfg(all(feature = "tls", feature = "https", feature = "quic"))]
mod transports;
mod why;
