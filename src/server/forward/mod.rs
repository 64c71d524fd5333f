//! The forwarder: completes queries that need an upstream, on one thread, with a bound on their number.
//!
//! ```text
//!   udp/, stream/worker.rs ──▶ ForwardHandle ──▶ the forwarder's thread ──▶ resolver.rs ──▶ upstreams
//!        ▲  full: SERVFAIL                         │ one task for each query
//!        └─────────────────────────────────────────┘ the UDP socket, or the connection's response queue
//! ```
//!
//! A worker that answers for the zones enqueues such a query and continues: it never waits here. Whatever the upstreams
//! do, each query taken gets a response before stub resolvers give up. A chain of CNAMEs may enter the zones and leave
//! them again: the engine follows it, and returns the name for which an upstream is asked next. Not here: the clients
//! that may use forwarding, and the contents of a response (`core/src/answer/forwarding.rs`). Read next: `resolver.rs`.

mod cache;
mod resolver;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::heartbeats::{HEARTBEAT_INTERVAL, Heartbeat, Heartbeats};
use super::query_log::QueryLogEntry;
use super::{Shutdown, sys};
use crate::metrics::{Counters, Event, Metrics, ResponseCounters};
use headless_dns_core::answer::{
    ForwardedQuery, Responder, ResponseSummary, Resumed, Transport, UpstreamFailure, UpstreamResponse,
};
use headless_dns_core::lock::lock;
use headless_dns_core::wire::{MAX_TCP, MAX_UDP, rcode};

use resolver::Resolver;

/// Maximum number of outstanding queries. With two dead upstreams each may hold six sockets.
const FORWARD_QUEUE_LEN: usize = 256;
/// Maximum size in octets of the responses that wait in the queues of all connections, and of one connection. A client
/// that does not read could otherwise have any number of large ones prepared.
const MAX_QUEUED_BYTES: usize = 16 << 20;
const MAX_QUEUED_BYTES_PER_CONNECTION: usize = 256 << 10;
/// Timeout of a query, below the 5 s after which stub resolvers give up (resolv.conf(5)).
pub(crate) const FORWARD_TIMEOUT: Duration = Duration::from_millis(4_500);
/// Number of consecutive failures after which the log reports that the upstreams do not answer.
const FAILURES_BEFORE_UNHEALTHY: u32 = 8;

/// An upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Address and port.
    pub address: SocketAddr,
    /// Protocol of the queries to it.
    pub protocol: UpstreamProtocol,
}

/// Protocol of the queries to an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    /// UDP, and TCP after a truncated response or an error.
    Plain,
    /// DNS over TLS (RFC 7858). The certificate must be valid for this name, or without a name for the upstream's
    /// address.
    Tls(Option<Box<str>>),
}

/// Resolvers for the two uses of upstreams, not started.
pub struct Forwarder {
    names: Option<Resolver>,
    aliases: Option<Resolver>,
}

impl Forwarder {
    /// Creates a forwarder. `names` are the upstreams of names outside the zones, `aliases` those of CNAME targets
    /// outside the zones; if one of them is empty, the other is used for both.
    ///
    /// # Errors
    ///
    /// An upstream has TLS, and its name cannot be in a certificate or the system has no certificate authorities.
    pub fn new(names: &[Upstream], aliases: &[Upstream]) -> Result<Self> {
        let resolver = |upstreams: &[Upstream]| {
            if upstreams.is_empty() { Ok(None) } else { Resolver::new(upstreams).map(Some) }
        };
        let aliases = if names == aliases { &[] } else { aliases };
        Ok(Self { names: resolver(names)?, aliases: resolver(aliases)? })
    }

    fn resolver(&self, alias: bool) -> Option<&Resolver> {
        let (first, second) = if alias { (&self.aliases, &self.names) } else { (&self.names, &self.aliases) };
        first.as_ref().or(second.as_ref())
    }

    /// Starts the thread that forwards the queries of `responder`. Queries outstanding when `stop` is signalled get a
    /// response within `drain` ([`super::ConnectionLimits::drain`]).
    pub(crate) fn start(
        self,
        responder: Arc<Responder>,
        metrics: &Arc<Metrics>,
        heartbeats: &Heartbeats,
        stop: &Shutdown,
        drain: Duration,
    ) -> Result<ForwarderTask> {
        // Each query has a socket, besides those of connections.
        sys::raise_file_limit();
        let (sender, receiver) = mpsc::channel(FORWARD_QUEUE_LEN);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the lane of questions for others")?;
        let (metrics, stop) = (Arc::clone(metrics), stop.clone());
        let heartbeat = heartbeats.heartbeat("forward");
        let run = move || runtime.block_on(serve(self, responder, receiver, (metrics, heartbeat), (stop, drain)));
        let thread = thread::Builder::new().name("forward".into()).spawn(run);
        let thread = thread.context("cannot start the thread of questions for others")?;
        Ok(ForwarderTask {
            handle: ForwardHandle { sender, permits: Arc::new(Semaphore::new(FORWARD_QUEUE_LEN)) },
            thread,
        })
    }
}

/// The running forwarder.
pub(crate) struct ForwarderTask {
    /// The thread ends when the last clone is dropped.
    handle: ForwardHandle,
    thread: thread::JoinHandle<()>,
}

impl ForwarderTask {
    pub(crate) fn handle(&self) -> ForwardHandle {
        self.handle.clone()
    }

    /// Completes once every query has its response. The caller must have dropped all other clones of the handle.
    pub(crate) async fn ended(self) {
        let Self { handle, thread } = self;
        let permits = Arc::clone(&handle.permits);
        drop(handle);
        // A query releases its permit with its response.
        let _ = permits.acquire_many(FORWARD_QUEUE_LEN as u32).await;
        let _ = thread.join();
    }
}

/// Handle of workers: bounded queue of the forwarder.
#[derive(Clone)]
pub(crate) struct ForwardHandle {
    sender: mpsc::Sender<QueuedRequest>,
    permits: Arc<Semaphore>,
}

impl ForwardHandle {
    /// Enqueues a query, or returns it if there is no room.
    pub(crate) fn try_send(&self, request: ForwardRequest, reply_to: ReplyTo) -> Result<(), ForwardRequest> {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return Err(request) };
        let queued = QueuedRequest { request, reply_to, since: Instant::now(), _permit: permit };
        // The channel has room for as many queries as there are permits.
        self.sender.try_send(queued).map_err(|refused| refused.into_inner().request)
    }
}

/// A query that needs an upstream.
pub(crate) struct ForwardRequest {
    pub(crate) pending: Box<ForwardedQuery>,
    /// The listen address that the query came to.
    pub(crate) listen: SocketAddr,
    /// The copy of the query for the query log.
    pub(crate) log_entry: Option<QueryLogEntry>,
}

/// Writes SERVFAIL for a query for which there is no room, counts and logs it, and returns the length of the response.
pub(crate) fn refuse(request: &ForwardRequest, counters: &ResponseCounters, message: &mut [u8]) -> usize {
    let ForwardRequest { pending, log_entry, .. } = request;
    counters.counters.count(Event::ForwardFull);
    let failure = UpstreamFailure::Unreachable(format!("{FORWARD_QUEUE_LEN} questions wait for an upstream already"));
    let summary = pending.fail(&failure, message);
    counters.responded(&summary);
    if let Some(log_entry) = log_entry {
        log_entry.responded(&counters.counters, pending.peer, pending.transport, &message[..summary.length]);
    }
    summary.length
}

/// Way of a response to its client.
pub(crate) enum ReplyTo {
    /// The UDP socket that received the query; `from` is the source address for a socket bound to a wildcard address.
    Datagram { socket: Arc<UdpSocket>, from: Option<IpAddr> },
    /// The response queue of the client's connection.
    Stream(Arc<ResponseQueue>),
}

struct QueuedRequest {
    request: ForwardRequest,
    reply_to: ReplyTo,
    since: Instant,
    _permit: OwnedSemaphorePermit,
}

/// Queue of the responses to a connection's forwarded queries.
#[derive(Default)]
pub(crate) struct ResponseQueue(Mutex<QueuedResponses>);

#[derive(Default)]
struct QueuedResponses {
    /// Number of responses outstanding.
    waiting: usize,
    messages: Vec<Vec<u8>>,
    /// Octets of the messages and of their places in the list.
    bytes: usize,
    /// Their share of [`MAX_QUEUED_BYTES`].
    share: Option<OwnedSemaphorePermit>,
    reader: Option<Waker>,
}

impl ResponseQueue {
    /// Registers an outstanding response.
    pub(crate) fn expect(&self) {
        self.lock().waiting += 1;
    }

    /// Withdraws an outstanding response, because its query was refused.
    pub(crate) fn forget(&self) {
        self.lock().waiting -= 1;
    }

    /// Returns whether responses are queued or outstanding.
    pub(crate) fn is_awaited(&self) -> bool {
        let responses = self.lock();
        responses.waiting > 0 || !responses.messages.is_empty()
    }

    /// Takes all queued responses. `None` if there are none; `reader` is woken when there are.
    pub(crate) fn take(&self, reader: &Waker) -> Option<Vec<Vec<u8>>> {
        let mut responses = self.lock();
        if responses.messages.is_empty() {
            if !responses.reader.as_ref().is_some_and(|known| known.will_wake(reader)) {
                responses.reader = Some(reader.clone());
            }
            return None;
        }
        responses.share = None;
        responses.bytes = 0;
        Some(std::mem::take(&mut responses.messages))
    }

    /// Takes the response from the queue of a single query, as [`Self::take`] does.
    #[cfg(any(feature = "https", feature = "quic"))]
    pub(crate) fn take_one(&self, reader: &Waker) -> Option<Vec<u8>> {
        self.take(reader)?.pop()
    }

    /// Returns whether a response of this length fits; otherwise SERVFAIL is delivered in its place.
    fn has_room(&self, length: usize) -> bool {
        self.lock().bytes + length <= MAX_QUEUED_BYTES_PER_CONNECTION
    }

    fn deliver(&self, response: &[u8], share: Option<OwnedSemaphorePermit>) {
        let mut responses = self.lock();
        responses.waiting -= 1;
        match (&mut responses.share, share) {
            (Some(held), Some(share)) => held.merge(share),
            (held, share) => *held = held.take().or(share),
        }
        responses.bytes += response.len() + size_of::<Vec<u8>>();
        responses.messages.push(response.to_vec());
        if let Some(reader) = responses.reader.take() {
            reader.wake();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, QueuedResponses> {
        lock(&self.0)
    }
}

/// Runs one task for each query, until the last sender is dropped and every query has its response.
async fn serve(
    forwarder: Forwarder,
    responder: Arc<Responder>,
    mut receiver: mpsc::Receiver<QueuedRequest>,
    (metrics, heartbeat): (Arc<Metrics>, Heartbeat),
    (stop, drain): (Shutdown, Duration),
) {
    let (counters, response_counters) = (metrics.worker(), Mutex::default());
    let (cancelled, health, queued_bytes) =
        (Shutdown::default(), Mutex::default(), Arc::new(Semaphore::new(MAX_QUEUED_BYTES)));
    let state = Arc::new(ForwarderState {
        forwarder,
        responder,
        metrics,
        counters,
        response_counters,
        queued_bytes,
        cancelled,
        health,
    });
    let mut tasks = JoinSet::new();
    let mut drained = pin!(async {
        stop.wait().await;
        sleep(drain).await;
        state.cancelled.drain();
        std::future::pending::<Infallible>().await
    });
    let mut ticks = interval(HEARTBEAT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_open = true;
    while is_open || !tasks.is_empty() {
        tokio::select! {
            never = &mut drained => match never {},
            _ = ticks.tick() => heartbeat.beat(),
            queued = receiver.recv(), if is_open => match queued {
                Some(queued) => _ = tasks.spawn(answer(Arc::clone(&state), queued)),
                None => is_open = false,
            },
            // Each task sends its response itself; the panic hook counts panics.
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// Context of the forwarder's tasks.
struct ForwarderState {
    forwarder: Forwarder,
    responder: Arc<Responder>,
    metrics: Arc<Metrics>,
    counters: Arc<Counters>,
    /// Counters of responses, by listen address and transport.
    response_counters: Mutex<BTreeMap<(SocketAddr, Transport), ResponseCounters>>,
    /// The unused part of [`MAX_QUEUED_BYTES`].
    queued_bytes: Arc<Semaphore>,
    /// Signalled at the end of the drain: outstanding queries get SERVFAIL at once.
    cancelled: Shutdown,
    health: Mutex<UpstreamHealth>,
}

/// State of the upstreams, as the log last reported it.
#[derive(Default)]
struct UpstreamHealth {
    /// Number of consecutive failures.
    consecutive_failures: u32,
}

impl ForwarderState {
    /// Counts and logs a response. Runs on the forwarder's thread only.
    fn count(&self, queued: &QueuedRequest, message: &[u8], summary: &ResponseSummary) {
        let QueuedRequest { request: ForwardRequest { pending, listen, log_entry }, since, .. } = queued;
        let transport = pending.transport;
        let mut response_counters = lock(&self.response_counters);
        let entry = response_counters.entry((*listen, transport));
        let counters =
            entry.or_insert_with(|| ResponseCounters::new(self.metrics.worker_at(*listen, transport), transport));
        counters.responded(summary);
        counters.observe_latency(since.elapsed());
        if let Some(log_entry) = log_entry {
            log_entry.responded(&counters.counters, pending.peer, pending.transport, &message[..summary.length]);
        }
    }

    /// Records the result of a lookup, and logs when upstreams stop answering and when they answer again.
    fn record_result(&self, answer: &Result<Arc<UpstreamResponse>, UpstreamError>) {
        let mut health = lock(&self.health);
        match answer {
            Err(UpstreamError { failure, dead: true }) => {
                health.consecutive_failures = health.consecutive_failures.saturating_add(1);
                if health.consecutive_failures == FAILURES_BEFORE_UNHEALTHY {
                    tracing::warn!("the upstreams do not answer: {}", failure.text());
                }
            }
            _ if health.consecutive_failures >= FAILURES_BEFORE_UNHEALTHY => {
                health.consecutive_failures = 0;
                tracing::info!("the upstreams answer again");
            }
            _ => health.consecutive_failures = 0,
        }
    }
}

/// A failed lookup.
struct UpstreamError {
    failure: UpstreamFailure,
    /// No upstream responded, as opposed to a response with an error RCODE.
    dead: bool,
}

/// Completes the response to a query with the records of upstreams, and sends it.
async fn answer(state: Arc<ForwarderState>, mut queued: QueuedRequest) {
    state.counters.count(Event::Forwarded);
    let pending = &mut queued.request.pending;
    let mut message = vec![0; if pending.transport.is_datagram() { MAX_UDP } else { MAX_TCP }];
    let completed = complete(&state, pending, queued.since, &mut message).await;
    let mut summary = completed.unwrap_or_else(|unanswered| pending.fail(&unanswered.failure, &mut message));
    let mut share = None;
    if let ReplyTo::Stream(queue) = &queued.reply_to {
        share = Arc::clone(&state.queued_bytes).try_acquire_many_owned(summary.length as u32).ok();
        if share.is_none() || !queue.has_room(summary.length) {
            let failure = UpstreamFailure::Unreachable("too many responses wait until the client reads them".into());
            summary = pending.fail(&failure, &mut message);
            share = None;
        }
    }
    if summary.rcode == rcode::SERVFAIL {
        state.counters.count(Event::ForwardFailed);
    }
    state.count(&queued, &message, &summary);
    let response = &message[..summary.length];
    let QueuedRequest { request: ForwardRequest { pending, .. }, reply_to, .. } = &queued;
    match reply_to {
        ReplyTo::Datagram { socket, from } => {
            if sys::send(socket, response, pending.peer.from, *from).is_err() {
                state.counters.count(Event::SendErrors);
            }
        }
        ReplyTo::Stream(queue) => queue.deliver(response, share),
    }
}

/// Writes the response into `message`. The length of the CNAME chain bounds the number of iterations.
async fn complete(
    state: &Arc<ForwarderState>,
    pending: &mut ForwardedQuery,
    since: Instant,
    message: &mut [u8],
) -> Result<ResponseSummary, UpstreamError> {
    let mut answer = None;
    loop {
        let resume = || state.responder.resume(pending, answer.as_deref(), message);
        match catch_unwind(AssertUnwindSafe(resume)) {
            Ok(Resumed::Complete(summary)) => return Ok(summary),
            Ok(Resumed::QueryNext) => {}
            Err(_) => return Err(UpstreamError::panicked()),
        }
        let looked_up = look_up(state, pending, since).await;
        state.record_result(&looked_up);
        answer = Some(looked_up?);
    }
}

async fn look_up(
    state: &Arc<ForwarderState>,
    pending: &ForwardedQuery,
    since: Instant,
) -> Result<Arc<UpstreamResponse>, UpstreamError> {
    let (is_alias, name, qtype) = (pending.is_alias(), pending.name().clone(), pending.qtype());
    // In a task of its own, so that a panic fails this lookup only.
    let (mut tasks, shared) = (JoinSet::new(), Arc::clone(state));
    tasks.spawn(async move {
        match shared.forwarder.resolver(is_alias) {
            Some(resolver) => resolver.look_up(&name, qtype).await,
            None => Err(UpstreamError::internal("there is no upstream")),
        }
    });
    tokio::select! {
        Some(looked_up) = tasks.join_next() => looked_up.unwrap_or_else(|_| Err(UpstreamError::panicked())),
        () = sleep_until(since + FORWARD_TIMEOUT) => Err(UpstreamError::timed_out()),
        () = state.cancelled.wait() => Err(UpstreamError::internal("the server stops")),
    }
}

impl UpstreamError {
    fn timed_out() -> Self {
        let text = format!("no upstream answered within {} s", FORWARD_TIMEOUT.as_secs_f32());
        Self { failure: UpstreamFailure::Unreachable(text), dead: true }
    }

    fn panicked() -> Self {
        Self::internal("a mistake of this server's")
    }

    fn internal(text: &str) -> Self {
        Self { failure: UpstreamFailure::Unreachable(text.into()), dead: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_wakes_waiting_reader() {
        let queue = ResponseQueue::default();
        queue.expect();
        queue.expect();
        assert!(queue.is_awaited());
        assert_eq!(queue.take(Waker::noop()), None);
        queue.deliver(b"one", None);
        queue.forget();
        assert!(queue.is_awaited(), "one is here");
        assert_eq!(queue.take(Waker::noop()), Some(vec![b"one".to_vec()]));
        assert!(!queue.is_awaited());
    }

    #[test]
    fn queue_releases_its_share_when_read_or_dropped() {
        let (budget, queue) = (Arc::new(Semaphore::new(MAX_QUEUED_BYTES)), ResponseQueue::default());
        let response = vec![0; MAX_TCP];
        let share = || Arc::clone(&budget).try_acquire_many_owned(MAX_TCP as u32).ok();
        let fill = |queue: &ResponseQueue| {
            while queue.has_room(response.len()) {
                queue.expect();
                queue.deliver(&response, share());
            }
        };
        fill(&queue);
        assert_eq!(budget.available_permits(), MAX_QUEUED_BYTES - 3 * MAX_TCP);
        assert!(queue.take(Waker::noop()).is_some_and(|messages| messages.len() == 3));
        assert_eq!(budget.available_permits(), MAX_QUEUED_BYTES);
        fill(&queue);
        drop(queue);
        assert_eq!(budget.available_permits(), MAX_QUEUED_BYTES);
    }
}
