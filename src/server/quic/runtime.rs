//! The quinn runtime: tokio, with a parent for the tasks that quinn spawns.
//!
//! quinn spawns one task for the endpoint, and one for each connection, which outlives the connection by its closing
//! period. Not here: the server's own tasks (`acceptor.rs`).

use std::future::{Future, poll_fn};
use std::io;
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Instant;

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::task::{JoinError, JoinSet};

use headless_dns_core::lock::lock;

/// Runtime that tracks the tasks of quinn.
#[derive(Debug, Default)]
pub(super) struct TrackedRuntime(Mutex<JoinSet<()>>);

impl TrackedRuntime {
    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        lock(&self.0)
    }

    /// Completes when a task ends. Never completes without a task; poll it again after each new connection.
    pub(super) async fn next_end(&self) -> Result<(), JoinError> {
        poll_fn(|context| match self.lock().poll_join_next(context) {
            Poll::Ready(Some(ended)) => Poll::Ready(ended),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Aborts all tasks, and completes when they have ended.
    pub(super) async fn abort_all(&self) {
        self.lock().abort_all();
        poll_fn(|context| {
            let mut tasks = self.lock();
            while let Poll::Ready(ended) = tasks.poll_join_next(context) {
                if ended.is_none() {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        })
        .await;
    }
}

impl Runtime for TrackedRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.lock().spawn(task);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}
