//! Heartbeats of workers, by which `/livez` and the service manager's watchdog find a stalled worker.
//!
//! A worker is a thread that beats at each turn of its loop, at least once a second, or a worker thread of a Tokio
//! runtime, which counts its own turns. A worker without a turn for [`STALL_LIMIT`] is stalled: it blocks, or it loops
//! within one message. Not here: a worker that has ended is handled by its parent, and is no longer watched.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::RuntimeMetrics;

use headless_dns_core::lock::lock;

/// Time without a turn after which a worker is stalled.
pub const STALL_LIMIT: Duration = Duration::from_secs(10);

/// Maximum interval between the heartbeats of an idle worker.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Watched workers of a server. Clones share their state.
#[derive(Clone, Default)]
pub struct Heartbeats(Arc<Mutex<Vec<WatchedWorker>>>);

/// Heartbeat of one thread.
#[derive(Debug, Default)]
pub struct Heartbeat(Arc<AtomicU64>);

struct WatchedWorker {
    name: String,
    turns: TurnSource,
    /// Turn that was last seen, and the time when it was first seen.
    last_turn: Option<(TurnState, Instant)>,
}

/// Source of a worker's turns.
enum TurnSource {
    Beats(Weak<AtomicU64>),
    Runtime(RuntimeMetrics, usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TurnState {
    /// At work. The numbers differ from those of any other turn.
    Active(u64, Duration),
    /// Idle: waits for work, which may never come.
    Parked,
}

impl Heartbeats {
    /// Watches a thread, which beats from now on. It is no longer watched when the heartbeat is dropped.
    pub fn heartbeat(&self, name: impl Into<String>) -> Heartbeat {
        let heartbeat = Heartbeat::default();
        self.watch(name.into(), TurnSource::Beats(Arc::downgrade(&heartbeat.0)));
        heartbeat
    }

    /// Watches all worker threads of a Tokio runtime.
    pub fn watch_runtime(&self, name: &str, metrics: &RuntimeMetrics) {
        for worker in 0..metrics.num_workers() {
            self.watch(format!("{name}-{worker}"), TurnSource::Runtime(metrics.clone(), worker));
        }
    }

    fn watch(&self, name: String, turns: TurnSource) {
        lock(&self.0).push(WatchedWorker { name, turns, last_turn: None });
    }

    /// Returns the names of the workers that are stalled at `now`: seen in the same turn by this call and by an earlier
    /// one, [`STALL_LIMIT`] ago or longer.
    pub fn stalled(&self, now: Instant) -> Vec<String> {
        let mut workers = lock(&self.0);
        workers.retain(|worker| worker.turns.is_alive());
        workers.iter_mut().filter_map(|worker| worker.is_stalled(now).then(|| worker.name.clone())).collect()
    }
}

impl fmt::Debug for Heartbeats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(lock(&self.0).iter().map(|worker| &worker.name)).finish()
    }
}

impl Heartbeat {
    /// Records one more turn. Costs a load and a store, because only one thread at a time beats.
    #[inline]
    pub fn beat(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }
}

impl WatchedWorker {
    fn is_stalled(&mut self, now: Instant) -> bool {
        let turn = self.turns.now();
        match self.last_turn {
            Some((seen, since)) if seen == turn => {
                turn != TurnState::Parked && now.saturating_duration_since(since) >= STALL_LIMIT
            }
            _ => {
                self.last_turn = Some((turn, now));
                false
            }
        }
    }
}

impl TurnSource {
    fn is_alive(&self) -> bool {
        match self {
            Self::Beats(beats) => beats.strong_count() > 0,
            Self::Runtime(..) => true,
        }
    }

    fn now(&self) -> TurnState {
        match self {
            Self::Beats(beats) => {
                let beats = beats.upgrade().map_or(0, |beats| beats.load(Ordering::Relaxed));
                TurnState::Active(beats, Duration::ZERO)
            }
            Self::Runtime(metrics, worker) => match metrics.worker_park_unpark_count(*worker) {
                // An odd count: the worker is parked.
                count if count % 2 == 1 => TurnState::Parked,
                // A worker that is never idle does not park, but its maintenance adds to its busy time.
                count => TurnState::Active(count, metrics.worker_total_busy_duration(*worker)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn blocked_thread_is_stalled() {
        let (liveness, begin) = (Heartbeats::default(), Instant::now());
        let (one, two) = (liveness.heartbeat("one"), liveness.heartbeat("two"));
        assert!(liveness.stalled(begin).is_empty(), "first seen now");
        one.beat();
        assert!(liveness.stalled(begin + STALL_LIMIT / 2).is_empty(), "not for long");
        assert_eq!(liveness.stalled(begin + STALL_LIMIT), ["two"]);
        // A second caller changes nothing.
        assert_eq!(liveness.stalled(begin + STALL_LIMIT), ["two"]);
        two.beat();
        one.beat();
        assert!(liveness.stalled(begin + STALL_LIMIT * 2).is_empty());
        drop(one);
        assert_eq!(liveness.stalled(begin + STALL_LIMIT * 3), ["two"], "a worker that has ended is forgotten");
    }

    #[test]
    fn blocked_runtime_is_stalled() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let (liveness, begin) = (Heartbeats::default(), Instant::now());
        liveness.watch_runtime("runtime", &runtime.metrics());
        let block = || {
            let (release, released) = mpsc::channel::<()>();
            let (entered, has_entered) = mpsc::channel();
            let blocking = runtime.spawn(async move {
                entered.send(()).unwrap();
                let _ = released.recv();
            });
            has_entered.recv().unwrap();
            (release, blocking)
        };
        let mut now = begin;
        // Each look at unchanged turns is later by the limit. A worker with a new task, or none, may not have had the
        // processor yet.
        let mut become_stalled = |count: usize| {
            let patience = Instant::now() + Duration::from_secs(60);
            while liveness.stalled(now).len() != count {
                assert!(Instant::now() < patience, "{:?} stalled, and not {count}", liveness.stalled(now));
                now += STALL_LIMIT;
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let (one, first) = block();
        become_stalled(1);
        let (two, second) = block();
        become_stalled(2);
        drop((one, two));
        runtime.block_on(async { first.await.and(second.await) }).unwrap();
        become_stalled(0);
    }
}
