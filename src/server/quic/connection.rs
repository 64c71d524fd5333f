//! A QUIC connection after its handshake: accepts streams, starts their tasks, and closes when idle, slow or drained.
//!
//! Not here: the handshake (`acceptor.rs`), and a query with its response (`stream.rs`).

use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use quinn::{RecvStream, SendStream};
use tokio::task::{JoinSet, coop};
use tokio::time::{Instant, sleep_until, timeout};

use super::error::{DOQ_EXCESSIVE_LOAD, DOQ_INTERNAL_ERROR, DOQ_NO_ERROR, DoqError};
use super::stream::{ConnectionMemory, QuicStream, StreamMemory, UnackedResponse};
use crate::server::listener::context::ListenerContext;
use crate::server::listener::limiter::ConnectionPermit;
use crate::server::listener::tracker::{
    CloseReason, DRAIN_IDLE_TIMEOUT, FORWARD_IDLE_TIMEOUT, LAME_DUCK_IDLE_TIMEOUT, LINGER_TIMEOUT,
};
use crate::server::{Phase, Shutdown};
use headless_dns_core::answer::Peer;

/// Octets that a waiting stream counts as buffered beside its content: its task.
const STREAM_TASK_BYTES: usize = 2 << 10;
/// Number of responses in flight at which acknowledged ones are removed.
const UNACKED_RESPONSES: usize = 32;
/// Number of octets of responses in flight at which acknowledged ones are removed.
const UNACKED_BYTES: usize = 64 << 10;

/// A QUIC connection of a client.
pub(super) struct QuicConnection {
    connection: quinn::Connection,
    /// Destination address of the client's packets.
    to: SocketAddr,
    context: Arc<ListenerContext>,
    memory: Arc<ConnectionMemory>,
    /// Streams that wait: for the rest of a query, for an upstream, or until the client reads a response.
    stream_tasks: JoinSet<Result<Option<UnackedResponse>, DoqError>>,
    /// Responses not acknowledged yet, in the order in which they were sent.
    unacked: Vec<UnackedResponse>,
    /// Time of the last query or response.
    last_progress: Instant,
    /// Time at which the connection began to drain.
    shutdown_at: Option<Instant>,
}

impl QuicConnection {
    pub(super) fn new(
        connection: quinn::Connection,
        to: SocketAddr,
        permit: ConnectionPermit,
        context: Arc<ListenerContext>,
    ) -> Self {
        let memory = Arc::new(ConnectionMemory::new(permit));
        Self {
            connection,
            to,
            context,
            memory,
            stream_tasks: JoinSet::new(),
            unacked: Vec::new(),
            last_progress: Instant::now(),
            shutdown_at: None,
        }
    }

    /// Serves the connection until it is closed.
    pub(super) async fn run(mut self) -> CloseReason {
        let served = self.serve().await;
        if served.is_ok() {
            // Give the client time to acknowledge the last responses: a close would discard them.
            let _ = timeout(LINGER_TIMEOUT, self.wait_until_acked()).await;
        }
        let (end, reason) = match served {
            Ok(end) => (end, ""),
            Err(DoqError::Protocol(reason)) => (CloseReason::Refused, reason),
            Err(DoqError::ExcessiveLoad(reason)) => (CloseReason::Slow, reason),
            Err(DoqError::IdleTimeout) => (CloseReason::Idle, ""),
            Err(DoqError::ConnectionLost | DoqError::RequestCancelled | DoqError::Internal) => {
                (CloseReason::Closed, "")
            }
        };
        self.connection.close(served.map_or_else(DoqError::code, |_| DOQ_NO_ERROR), reason.as_bytes());
        end
    }

    async fn serve(&mut self) -> Result<CloseReason, DoqError> {
        let stop = self.context.stop.clone();
        poll_fn(|context| {
            self.memory.lock().permit.register_shutdown_waker(context.waker());
            Poll::Ready(())
        })
        .await;
        let mut is_lame_duck = stop.is_lame_duck();
        let mut timer = pin!(sleep_until(self.deadline(is_lame_duck)));
        loop {
            tokio::select! {
                biased;
                () = reached(&stop, Phase::Draining), if self.shutdown_at.is_none() => self.shutdown_at = Some(Instant::now()),
                () = reached(&stop, Phase::LameDuck), if !is_lame_duck => is_lame_duck = true,
                Some(ended) = self.stream_tasks.join_next() => {
                    self.record_result(ended.unwrap_or(Err(DoqError::Internal)))?;
                }
                stream = self.connection.accept_bi() => {
                    let (send, receive) = stream?;
                    self.accept_stream(send, receive).await?;
                }
                () = timer.as_mut() => if let Some(end) = self.at_deadline(is_lame_duck)? {
                    return Ok(end);
                },
            }
            // The timer is reset only when it fires or would fire too late, and not for each query.
            let deadline = self.deadline(is_lame_duck);
            if deadline < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(deadline);
            }
        }
    }

    /// Answers the query of a stream at once if it has arrived; otherwise starts a task for the stream.
    async fn accept_stream(&mut self, send: SendStream, receive: RecvStream) -> Result<(), DoqError> {
        // Fixed after the handshake: `mod.rs` disables migration, and quinn drops packets from another address.
        let peer = Peer { from: self.connection.remote_address(), to: self.to };
        self.last_progress = Instant::now();
        self.memory.lock().permit.record_query(self.last_progress.into_std());
        let (memory, context) = (StreamMemory::new(&self.memory), Arc::clone(&self.context));
        let stream = QuicStream { send, receive, peer, memory, context, opened_at: self.last_progress };
        let mut stream = Box::pin(stream.run());
        match poll_fn(|context| Poll::Ready(stream.as_mut().poll(context))).await {
            Poll::Ready(result) => self.record_result(result)?,
            Poll::Pending => {
                let mut task_memory = StreamMemory::new(&self.memory);
                task_memory.set(STREAM_TASK_BYTES)?;
                self.stream_tasks.spawn(async move {
                    let _task_memory = task_memory;
                    stream.await
                });
            }
        }
        // A flood of streams must not keep other tasks from running.
        coop::consume_budget().await;
        Ok(())
    }

    fn record_result(&mut self, result: Result<Option<UnackedResponse>, DoqError>) -> Result<(), DoqError> {
        self.last_progress = Instant::now();
        self.unacked.extend(result?);
        let is_large = || self.memory.lock().bytes >= UNACKED_BYTES;
        if self.unacked.len() >= UNACKED_RESPONSES || !self.unacked.is_empty() && is_large() {
            self.remove_acked();
        }
        Ok(())
    }

    fn remove_acked(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        self.unacked.retain_mut(|response| pin!(response.send.stopped()).poll(&mut context).is_pending());
    }

    /// Completes when the client has acknowledged all responses, or cancelled their queries.
    async fn wait_until_acked(&mut self) {
        for response in &mut self.unacked {
            let _ = response.send.stopped().await;
        }
    }

    /// Returns the time of the next timeout.
    fn deadline(&self, is_lame_duck: bool) -> Instant {
        let limits = &self.context.limits;
        let idle = match self.shutdown_at {
            // Each stream has timeouts of its own, and none is later than this.
            _ if !self.stream_tasks.is_empty() => {
                self.last_progress + limits.unfinished + FORWARD_IDLE_TIMEOUT + limits.idle.max(limits.unread)
            }
            Some(shutdown_at) => shutdown_at + DRAIN_IDLE_TIMEOUT,
            None if is_lame_duck => self.last_progress + limits.idle.min(LAME_DUCK_IDLE_TIMEOUT),
            None => self.last_progress + limits.idle,
        };
        self.unacked.first().map_or(idle, |first| idle.min(first.sent_at + limits.unread))
    }

    /// Returns the close reason, if a timeout has passed.
    fn at_deadline(&mut self, is_lame_duck: bool) -> Result<Option<CloseReason>, DoqError> {
        self.remove_acked();
        let now = Instant::now();
        if self.unacked.first().is_some_and(|first| first.sent_at + self.context.limits.unread <= now) {
            return Err(DoqError::ExcessiveLoad("the responses were not read in time"));
        }
        let is_over = self.deadline(is_lame_duck) <= now;
        let end = if self.shutdown_at.is_some() || is_lame_duck { CloseReason::Stopped } else { CloseReason::Idle };
        Ok(is_over.then_some(end))
    }
}

impl Drop for QuicConnection {
    /// Closes a connection that is still open: its task was aborted at shutdown or by eviction, or has panicked.
    fn drop(&mut self) {
        let code = match self.context.stop.is_draining() {
            _ if std::thread::panicking() => DOQ_INTERNAL_ERROR,
            true => DOQ_NO_ERROR,
            false => DOQ_EXCESSIVE_LOAD,
        };
        self.connection.close(code, b"");
    }
}

/// Completes once the shutdown has reached `phase`. The connection limiter wakes the task that polls this.
async fn reached(stop: &Shutdown, phase: Phase) {
    poll_fn(|_| if stop.is_in(phase) { Poll::Ready(()) } else { Poll::Pending }).await;
}
