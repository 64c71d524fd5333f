//! The real control plane: etcd, kube-apiserver, kube-controller-manager and kubectl, and the server that watches them.
//!
//! `control_plane.rs` starts the first three, `kubelet.rs` gives Pods addresses and readiness on command, `server.rs` starts the
//! built program and queries it with dig, `whole.rs` compares all answers with `kubectl get`. `stories.rs` has the life cycle of
//! Services and StatefulSets, `install.rs` the installation by `config/`, the chart and `docs/install.md`, `rights.rs` the
//! permissions, `coredns.rs` the server behind CoreDNS. `situations.rs` has broken objects, their causes and fixes.
//!
//! `drills.rs` plays faults of the control plane, while `asker.rs` queries without a pause, `writer.rs` changes `world.rs`
//! through the API and `ledger.rs` judges every answer. `proxy.rs` forwards the server's requests to the API server, breaks
//! watches, or freezes.
//!
//! `cargo test` does not build this suite; `tests/cluster/run` builds and installs the programs and runs it. The single faults of
//! an API server, on command, are in `tests/it/api_server`.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]
#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "each step, the figures of the drills, and what the processes said where a test fails"
)]
#![allow(dead_code, unreachable_pub, reason = "each part uses what it needs of the others")]

mod asker;
#[path = "../common/mod.rs"]
mod common;
mod control_plane;
mod coredns;
mod drills;
mod install;
mod kubelet;
mod ledger;
mod proxy;
mod rights;
mod server;
mod situations;
mod stories;
mod story;
mod whole;
mod world;
mod writer;

use std::time::{Duration, Instant};

/// Time limit that no passing test reaches.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(20);

/// Retries until it succeeds, and returns the value.
///
/// # Panics
///
/// If no attempt succeeded within `within`: with `what`, and the error of the last attempt.
pub fn until<T, E: std::fmt::Display>(what: &str, within: Duration, mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let begun = Instant::now();
    loop {
        match attempt() {
            Ok(found) => return found,
            Err(why) if begun.elapsed() > within => panic!("{what}: not within {within:?}: {why}"),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
