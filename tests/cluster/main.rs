//! The real control plane: etcd, kube-apiserver, kube-controller-manager and kubectl, and the server that watches them.
//!
//! `control_plane.rs` starts the first three, `kubelet.rs` gives Pods addresses and readiness on command, `server.rs`
//! starts the built binary and asks it with dig, `whole.rs` compares all that it answers with what `kubectl get` says.
//! `stories.rs` is what happens to Services and StatefulSets in their lives, `install.rs` what `config/`, the chart and
//! `docs/install.md` install, `rights.rs` what it may do, `coredns.rs` the server behind CoreDNS. `situations.rs` has
//! broken objects, the reasons and the fixes.
//!
//! `drills.rs` is what happens to the control plane, while `asker.rs` asks without a pause, `writer.rs` changes
//! `world.rs` through the API and `ledger.rs` says of every answer whether it was ever true. `proxy.rs` forwards
//! the server's requests to the API server, breaks watches, or freezes.
//!
//! `cargo test` alone ignores all of this; `tests/cluster/run` builds and installs what is needed and runs it. The
//! faults of an API server, one by one and on command, are in `tests/it/api_server`.

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

/// What no passing test uses up.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(20);

/// Tries until it succeeds, and gives back what it found.
///
/// # Panics
///
/// If it did not within `within`: with `what`, and why the last try failed.
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
