//! The command `serve`: assembles the server, and runs it until shutdown.
//!
//! Here: the run of the tasks, and their end. In the order of use: `startup.rs` opens files, sockets and source,
//! `assembly.rs` makes the tasks of them, `source_task.rs` reads the source, `takeover.rs` is the hot restart, `lifecycle.rs`
//! handles signals, reload and the lame duck, `reload.rs` has the options that a reload changes, `certificates.rs` the
//! renewal of the certificate, `systemd.rs` the notifications to the service manager, `banner.rs` the startup summary, and
//! `supervise.rs` the restart of a task. `docs/operations.md` describes all of it for operators. Not here: sockets and
//! queries (`server`).

mod assembly;
mod banner;
mod certificates;
mod lifecycle;
mod reload;
mod signals;
mod source_task;
mod startup;
mod supervise;
mod systemd;
mod takeover;

use std::convert::Infallible;
use std::future::pending;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::runtime::Handle;

use crate::config::Config;
use crate::log::Filter;
use crate::metrics::Metrics;
use crate::server::heartbeats::Heartbeats;
use crate::server::hot_restart::SocketRegistry;
use crate::server::{LogWriter, Shutdown, set_mmap_threshold};
use headless_dns_core::status::Status;

use assembly::Tasks;
use lifecycle::ExitReason;
use signals::Signals;
use startup::{Prepared, SnapshotWriter, until_shutdown};
use systemd::ServiceNotifier;

/// Serves until SIGTERM or SIGINT, or until a new process takes over (hot restart).
///
/// # Errors
///
/// If an address cannot be bound, or a task of the server fails.
pub fn run(config: Config, filter: Filter) -> anyhow::Result<ExitCode> {
    set_mmap_threshold();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.workers.get())
        .enable_all()
        .build()
        .context("cannot start the threads for TCP")?;
    let result = runtime.block_on(serve(config, filter));
    // Do not wait for blocking tasks: a read of standard input that never ends would keep the process.
    runtime.shutdown_background();
    result
}

/// Handles that the tasks of the server share.
#[derive(Clone)]
struct Shared {
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    heartbeats: Heartbeats,
    shutdown: Shutdown,
    /// Sockets for the successor of a hot restart.
    registry: SocketRegistry,
    notifier: ServiceNotifier,
}

impl Shared {
    fn new(config: &Config, status: Arc<Status>) -> Self {
        let zones: Vec<String> = config.zones().map(ToString::to_string).collect();
        let heartbeats = Heartbeats::default();
        heartbeats.watch_runtime("stream", &Handle::current().metrics());
        Self {
            status,
            metrics: Arc::new(Metrics::new(&zones)),
            heartbeats,
            shutdown: Shutdown::default(),
            registry: SocketRegistry::default(),
            notifier: ServiceNotifier::new(),
        }
    }
}

async fn serve(config: Config, filter: Filter) -> anyhow::Result<ExitCode> {
    // From here on a signal is an event, and does not end the process.
    let mut signals = Signals::new()?;
    let Some(prepared) = until_shutdown(&mut signals, Prepared::open(config.clone())).await? else {
        tracing::info!("a signal ended the server before it answered");
        return Ok(ExitCode::SUCCESS);
    };
    let shared = Shared::new(&config, Arc::clone(&prepared.status));
    let tasks = Tasks::assemble(config, filter, signals, prepared, &shared)?;
    let Tasks { mut server, mut admin, takeover, source, mut lifecycle, renewal, snapshot, query_log } = tasks;

    // Polled in this order: the sockets are served first, with SERVFAIL until the source was read.
    let ended = tokio::select! {
        biased;
        result = &mut server => return result.and_then(|()| bail!("the server stopped answering")),
        result = takeover.run() => result.map(|()| ExitReason::TakenOver),
        result = source => result.map(|never| match never {}),
        result = lifecycle.run() => result,
        result = &mut admin => result.and_then(|()| bail!("the admin listener stopped answering")),
        never = write_snapshots(&snapshot, &shared.status) => match never {},
        never = renewal.follow() => match never {},
        never = shared.notifier.run_watchdog(&shared.heartbeats) => match never {},
    };
    shared.status.set_leaving();
    match &ended {
        Ok(ExitReason::Immediate) => return Ok(ExitCode::SUCCESS),
        // Also if a signal arrives when the new process has the sockets and does not read them yet.
        _ if shared.registry.is_taken_over() => shared.shutdown.hand_over(),
        _ => shared.shutdown.drain(),
    }
    let last_snapshot = async {
        // After a hot restart the new process writes the snapshot, from newer data.
        if let (Ok(ExitReason::Requested), Some((snapshot, publisher))) = (&ended, &snapshot) {
            snapshot.save_at_shutdown(publisher, &shared.status).await;
        }
    };
    let drained = async { tokio::join!(&mut server, last_snapshot).0 };
    tokio::select! {
        result = drained => ended.and(result)?,
        () = lifecycle.wait_for_second_signal() => {}
    }
    query_log.into_iter().for_each(LogWriter::finish);
    tracing::info!("stopped: {}", banner::summary(&shared.metrics));
    Ok(ExitCode::SUCCESS)
}

/// Writes snapshots as the data changes. Never returns.
async fn write_snapshots(snapshot: &SnapshotWriter, status: &Status) -> Infallible {
    match snapshot {
        Some((snapshot, publisher)) => snapshot.save_periodically(publisher, status).await,
        None => pending().await,
    }
}
