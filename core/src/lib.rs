//! The record engine of an authoritative DNS server for Kubernetes headless Services and StatefulSet Pods.
//!
//! `docs/architecture.md` continues this page: the modules, the path of an event and of a query, and the libraries.
//! `docs/glossary.md` has the terms, `CONTRIBUTING.md` the commands and the steps of usual additions, `README.md` the use.
//!
//! ```text
//!    objects                                                                      queries
//!       │                                                                            │
//!   source ─▶ simulate                                             server (UDP, TCP, TLS, HTTPS, QUIC)
//!       │  the one writer of                                                         │ a message, in its buffer
//!       ▼                                                                            ▼
//!    cluster ──▶ dirty contributors ──▶ records ──▶ zone.publish     zone.look_up ◀── answer ◀──▶ wire
//!    (known objects)                   (columns)        └────── zone ──────┘          │
//!                                                                                     ▼
//!                                                                       the response, in the same buffer
//! ```
//!
//! # Invariants
//!
//! `tests/it/tidy.rs` checks those that can be checked in the source.
//!
//! 1. One engine answers for the zones, for every transport and for both query parsers.
//! 2. This crate contains no `async`, clock, socket, file or logging: `Cargo.toml` and `clippy.toml` beside it keep them out. Its
//!    functions do not fail: they return a value, and a list of skipped parts. The engine counts and logs nothing: the server
//!    does, from the summary of a response. No value of one message survives into the next.
//! 3. The index, its maps and their locks are in [`zone`], and no guard leaves it. Services are read without a lock. One
//!    thread publishes. The cluster has one lock and one writer, which holds it for one object at a time; a thread that
//!    answers tries the lock, and never waits for it.
//! 4. One response shows one state of a Service, and of a PTR RRset. Different Services have no common instant: a CNAME that
//!    is followed can lead from a newer Service to an older one.
//! 5. An invalid object produces a report and no record. It stops nothing.
//! 6. Nothing writes to a Kubernetes API server.
//! 7. Every task and thread has a parent that waits for its end.
//! 8. `unsafe` is for system calls, in `server/sys/`.
//! 9. A task or thread that ends before shutdown is restarted, or ends the process: counted, with one log line.
//! 10. All text from outside passes [`escape`] before it is shown. All paths from outside are opened by `regular_file.rs` of the server.
//!
//! # Reading order
//!
//! The answer: [`name`], [`records`], [`zone`], [`answer`]. The data: [`cluster`], and `source` of the server. Then [`diagnose`], and
//! `server`, `admin` and `report` of the server.
//!
//! `tests/rows.md` is the table of rules; the code cites their ids (N1, A8, K11), and `tests/scenarios/` shows each rule.
//! `tests/causes.md` and `tests/causes/` are the same for causes. `tests/shapes/` has manifests in the shape of popular
//! charts and operators.

pub mod answer;
pub mod cluster;
pub mod diagnose;
pub mod escape;
pub mod lock;
pub mod name;
pub mod naming_rules;
pub mod object;
pub mod records;
pub mod rtype;
pub mod simulate;
pub mod status;
pub mod transport;
pub mod wire;
pub mod zone;
