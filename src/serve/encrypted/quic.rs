//! DNS over QUIC (RFC 9250): one task for each connection, from its handshake to its end, and one stream for each question.
//!
//! ```text
//!   listen ──▶ Host ──▶ a task for each: handshake ──▶ Session ──▶ Exchange, where the whole query is here already
//!     │         │ Retry, refusal                          └──────▶ a task for each Exchange that has to wait
//!     ▼         ▼
//!   quinn: packets, encryption, loss, flow control. Its tasks are ours too (Children), its socket is in socket.rs.
//! ```
//!
//! Nobody waits for another's handshake, and no stream for another. Connections share their seats, and what they may hold,
//! with those over TCP, and messages are answered at the same desks. Not here: how a message is answered (`../desk.rs`,
//! `answer.rs`), the certificate (`certificates.rs`), which addresses are listened on. Read next: `seats.rs`.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use anyhow::{Context as _, Result, anyhow};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    AsyncTimer, AsyncUdpSocket, ConnectionError, Endpoint, EndpointConfig, Incoming, ReadError, RecvStream, Runtime,
    SendStream, ServerConfig, StoppedError, TokioRuntime, TransportConfig, VarInt, WriteError,
};
use tokio::task::{JoinError, JoinSet, coop};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::amplification::AmplificationLimit;
use super::handshake;
use super::session::OneConnection;
use super::socket::QuicSocket;
use crate::answer::Peer;
use crate::serve::bind::SocketRelease;
use crate::serve::desk::MAX_MESSAGE_BYTES;
use crate::serve::guests::{
    CloseReason, ConnectionTracker, DRAIN_IDLE_TIMEOUT, FORWARD_IDLE_TIMEOUT, LAME_DUCK_IDLE_TIMEOUT, LINGER_TIMEOUT,
};
use crate::serve::place::{Answer, Listener, ListenerContext};
use crate::serve::seats::ConnectionPermit;
use crate::serve::{ConnectionLimits, Phase, Shutdown};
use crate::wire;

/// RFC 9000 section 15. No draft of it.
const VERSION: u32 = 1;
/// How many questions of one connection are answered at a time.
const STREAMS: u32 = 100;
/// How many octets a client may send on one stream: a message of the largest size, behind its length.
const STREAM_WINDOW: u32 = 2 + MAX_MESSAGE_BYTES as u32;
/// How many octets of one connection may wait to be read. What comes is read at once: only what comes in the wrong order
/// waits, and that is not counted among what is held. So it is little.
const RECEIVE_WINDOW: u32 = 32 << 10;
/// How many octets of responses may be on their way on one connection. They are counted among what is held.
const SEND_WINDOW: u64 = 128 << 10;
/// How many handshakes are begun with clients that may not be where they seem to be, before the next ones have to show
/// that they are (RFC 9000 section 8.1.2). It costs them a round trip, and us nothing that stays.
const UNPROVEN: usize = 128;
/// Limit of the octets of CRYPTO frames that wait for those before them: as many as must be possible (RFC 9000 section
/// 7.5).
const CRYPTO_WINDOW: usize = 4 << 10;
/// What a handshake counts for among the octets held for slow clients: about what quinn and rustls keep at most of messages
/// that are not complete, with the datagrams that they came in.
const HANDSHAKE: usize = 64 << 10;
/// What a stream that waits counts for, beside its octets: its task.
const WAITING_STREAM: usize = 2 << 10;
/// How many new connections may wait for the turn of their host.
const WAITING: usize = 4096;
/// What a new connection may send before that, in octets, and all of them together.
const EARLY: (u64, u64) = (16 << 10, 1 << 20);
/// How many responses may be unconfirmed before it is looked which of them are.
const UNCONFIRMED: usize = 32;
/// The same in octets.
const UNCONFIRMED_OCTETS: usize = 64 << 10;

// RFC 9250 section 4.3.
const NO_ERROR: VarInt = VarInt::from_u32(0);
const INTERNAL_ERROR: VarInt = VarInt::from_u32(1);
const PROTOCOL_ERROR: VarInt = VarInt::from_u32(2);
const REQUEST_CANCELLED: VarInt = VarInt::from_u32(3);
const EXCESSIVE_LOAD: VarInt = VarInt::from_u32(4);

/// Answers on `socket` until told to stop, and then until the last connection has ended. At a hot restart the socket is read
/// after `release`, when the predecessor reads it no more; what comes before waits in it.
///
/// # Errors
///
/// One sentence: QUIC cannot be spoken with these settings of TLS, or there, or the socket failed.
pub(super) async fn listen(
    (socket, release): (UdpSocket, Option<SocketRelease>),
    tls: Arc<rustls::ServerConfig>,
    place: Listener,
) -> Result<()> {
    let Listener { is_shared: kept, context: shared, registration: registered } = place;
    let address = shared.listen.address;
    let children = Arc::new(Children::default());
    let (config, tls) = config(&tls, &shared.limits)?;
    let (limit, runtime) = (AmplificationLimit::default(), Arc::clone(&children) as Arc<dyn Runtime>);
    if let Some(release) = release {
        tokio::select! {
            () = release.wait() => {}
            () = shared.stop.wait() => return Ok(()),
        }
    }
    let opened = open(socket, limit.clone(), config.clone(), runtime);
    let (endpoint, socket) = opened.with_context(|| format!("cannot speak QUIC on {address}"))?;
    let mut host = Host { guests: ConnectionTracker::new(shared), config, tls, limit, unproven: Arc::default() };
    loop {
        tokio::select! {
            biased;
            () = host.guests.run_until_shutdown() => break,
            _ = children.next_end() => {}
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => host.welcome(incoming),
                None => return Err(anyhow!("the QUIC socket of {address} failed")),
            },
        }
    }
    let policy = if host.guests.shared.stop.is_handed_over() {
        socket.stop_receiving();
        DrainPolicy::Close
    } else if kept {
        DrainPolicy::Ignore
    } else {
        DrainPolicy::Refuse
    };
    // Its copies of the socket are closed with ours. At a hot restart the successor reads the socket from now on.
    drop(registered);
    host.end(endpoint, policy).await;
    children.ended().await;
    Ok(())
}

fn open(
    socket: UdpSocket,
    limit: AmplificationLimit,
    config: ServerConfig,
    runtime: Arc<dyn Runtime>,
) -> io::Result<(Endpoint, Arc<QuicSocket>)> {
    let mut settings = EndpointConfig::default();
    settings.supported_versions(vec![VERSION]);
    let socket = Arc::new(QuicSocket::new(runtime.wrap_udp_socket(socket)?, limit));
    let shared_socket = Arc::clone(&socket) as Arc<dyn AsyncUdpSocket>;
    Ok((Endpoint::new_with_abstract_socket(settings, Some(config), shared_socket, runtime)?, socket))
}

fn config(tls: &rustls::ServerConfig, limits: &ConnectionLimits) -> Result<(ServerConfig, Arc<QuicServerConfig>)> {
    let mut tls = tls.clone();
    // RFC 9250 sections 4.5 and 9.2: no 0-RTT. What comes before the handshake can be sent again by others, who learn from
    // what follows, and it would save a round trip of connections that are few.
    tls.max_early_data_size = 0;
    let crypto =
        QuicServerConfig::try_from(tls).context("the TLS settings are of no use for QUIC: it needs TLS 1.3")?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(STREAMS.into())
        // RFC 9250 section 4.3.3: none is to be opened. Who does it anyway breaks QUIC, and is told so by it.
        .max_concurrent_uni_streams(0_u32.into())
        // Later than ours, which says why: after this one nobody says anything.
        .max_idle_timeout(limits.idle.saturating_add(LINGER_TIMEOUT).try_into().ok())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(RECEIVE_WINDOW.into())
        .send_window(SEND_WINDOW)
        .crypto_buffer_size(CRYPTO_WINDOW)
        .datagram_receive_buffer_size(None);
    let crypto = Arc::new(crypto);
    let mut config = ServerConfig::with_crypto(Arc::clone(&crypto) as Arc<dyn quinn::crypto::ServerConfig>);
    config
        // RFC 9000 sections 8 and 9.3: a forged source address would have its validation sent there, 1,200 octets for a
        // few, and quinn limits it by whole datagrams.
        .migration(false)
        .transport_config(Arc::new(transport))
        .max_incoming(WAITING)
        .incoming_buffer_size(EARLY.0)
        .incoming_buffer_size_total(EARLY.1);
    Ok((config, crypto))
}

/// Treatment of connections while the listener drains.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DrainPolicy {
    /// At a hot restart: open connections are closed at once, and new ones are the successor's.
    Close,
    /// Open connections are drained. New ones are ignored: the service manager keeps the socket, and clients that get no
    /// response send their first packet again, to the next process.
    Ignore,
    /// Open connections are drained. New ones are refused, so that clients turn to another server at once.
    Refuse,
}

/// Who takes connections.
struct Host {
    guests: ConnectionTracker,
    config: ServerConfig,
    tls: Arc<QuicServerConfig>,
    limit: AmplificationLimit,
    /// Handshakes with clients that have not shown yet where they are.
    unproven: Arc<AtomicUsize>,
}

impl Host {
    fn welcome(&mut self, incoming: Incoming) {
        let ConnectionTracker { shared, counters, .. } = &self.guests;
        let unproven = (!incoming.remote_address_validated()).then(|| Unproven::begin(&self.unproven));
        // Whoever goes for a new one's sake goes for one that is there.
        if unproven.as_ref().is_some_and(|unproven| unproven.number > UNPROVEN || shared.limiter.are_full_for_large()) {
            // Cannot fail: it has not shown where it is.
            return drop(incoming.retry());
        }
        let Some(seat) = shared.admit(counters, incoming.remote_address().ip()) else {
            return incoming.refuse();
        };
        let address = shared.listen.address;
        // For a wildcard address: which of ours was asked.
        let to = SocketAddr::new(incoming.local_ip().unwrap_or(address.ip()), address.port());
        let closer = seat.eviction_handle();
        // Its session has its address.
        let tls =
            OneConnection::new(Arc::clone(&self.tls), self.limit.begin(incoming.remote_address(), unproven.is_none()));
        let mut config = self.config.clone();
        config.crypto = Arc::new(tls);
        let connection = Newcomer { incoming, config: Arc::new(config), unproven, to, seat };
        let connection = connection.run(Arc::clone(shared));
        closer.set(self.guests.spawn(connection));
    }

    /// Drains the connections, closes those that are left with DOQ_NO_ERROR, and waits a moment for the last packets.
    async fn end(&mut self, endpoint: Endpoint, policy: DrainPolicy) {
        let deadline = if policy == DrainPolicy::Close { Instant::now() } else { self.guests.begin_drain() };
        loop {
            tokio::select! {
                biased;
                () = self.guests.drain(deadline) => break,
                Some(incoming) = endpoint.accept() => match policy {
                    DrainPolicy::Close | DrainPolicy::Ignore => incoming.ignore(),
                    DrainPolicy::Refuse => incoming.refuse(),
                },
            }
        }
        endpoint.close(NO_ERROR, b"");
        let _ = timeout(LINGER_TIMEOUT, endpoint.wait_idle()).await;
    }
}

/// One of those that have not shown where they are, as long as this lives.
struct Unproven {
    all: Arc<AtomicUsize>,
    /// How many there were when it came, with it.
    number: usize,
}

impl Unproven {
    fn begin(all: &Arc<AtomicUsize>) -> Self {
        let number = all.fetch_add(1, Ordering::Relaxed) + 1;
        Self { all: Arc::clone(all), number }
    }
}

impl Drop for Unproven {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection before its handshake.
struct Newcomer {
    incoming: Incoming,
    config: Arc<ServerConfig>,
    unproven: Option<Unproven>,
    /// Which of our addresses it came to.
    to: SocketAddr,
    seat: ConnectionPermit,
}

impl Newcomer {
    async fn run(self, shared: Arc<ListenerContext>) -> CloseReason {
        let Self { incoming, config, unproven, to, mut seat } = self;
        let client = incoming.remote_address();
        if !seat.set_buffered_bytes(HANDSHAKE) {
            incoming.refuse();
            return CloseReason::Slow;
        }
        let handshake = async { incoming.accept_with(config)?.await };
        match handshake::with_timeout(handshake, reason, client, &shared).await {
            Ok(connection) => {
                // The handshake has shown it.
                drop(unproven);
                // What it needed less is no reason to close it.
                let _ = seat.set_buffered_bytes(0);
                Session::new(connection, to, seat, shared).run().await
            }
            Err(end) => end,
        }
    }
}

/// Why a handshake failed, in a word.
fn reason(error: &ConnectionError) -> &'static str {
    match error {
        // RFC 9001 section 4.8: an alert of TLS; those that RFC 8446 section 6 has about certificates.
        ConnectionError::ConnectionClosed(close) => match u64::from(close.error_code) {
            0x12a..=0x12e | 0x130 | 0x133 => "certificate",
            0x100..=0x1ff => "refused",
            _ => "closed",
        },
        ConnectionError::ApplicationClosed(_) | ConnectionError::Reset | ConnectionError::TimedOut => "closed",
        ConnectionError::TransportError(_)
        | ConnectionError::VersionMismatch
        | ConnectionError::CidsExhausted
        | ConnectionError::LocallyClosed => "refused",
    }
}

/// Why a connection, or a stream, cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The client wants no response on this stream; all others go on.
    Cancelled,
    /// The connection is gone.
    Gone,
    /// So is it, because nobody said anything.
    Silent,
    /// The client did what RFC 9250 forbids: what that is.
    Forbidden(&'static str),
    /// The client is too slow, or needs too much: which.
    Burden(&'static str),
    /// A mistake of ours.
    Mistake,
}

impl Fault {
    /// What the client is told.
    fn code(self) -> VarInt {
        match self {
            Self::Cancelled => REQUEST_CANCELLED,
            Self::Gone | Self::Silent => NO_ERROR,
            Self::Forbidden(_) => PROTOCOL_ERROR,
            Self::Burden(_) => EXCESSIVE_LOAD,
            Self::Mistake => INTERNAL_ERROR,
        }
    }
}

impl From<ConnectionError> for Fault {
    fn from(error: ConnectionError) -> Self {
        if error == ConnectionError::TimedOut { Self::Silent } else { Self::Gone }
    }
}

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(_) => Self::Cancelled,
            ReadError::ConnectionLost(error) => error.into(),
            ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => Self::Mistake,
        }
    }
}

impl From<WriteError> for Fault {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(_) => Self::Cancelled,
            WriteError::ConnectionLost(error) => error.into(),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::Mistake,
        }
    }
}

impl From<StoppedError> for Fault {
    fn from(error: StoppedError) -> Self {
        match error {
            StoppedError::ConnectionLost(error) => error.into(),
            StoppedError::ZeroRttRejected => Self::Mistake,
        }
    }
}

/// A client's connection.
struct Session {
    connection: quinn::Connection,
    to: SocketAddr,
    shared: Arc<ListenerContext>,
    holdings: Arc<Holdings>,
    /// What has to wait: for the rest of a query, for others, or for the client to take a response.
    late: JoinSet<Result<Option<Unconfirmed>, Fault>>,
    /// Responses that the client may not have, in the order in which they were sent.
    unconfirmed: Vec<Unconfirmed>,
    /// When something was last asked, or answered.
    since: Instant,
    /// When it heard that we stop.
    stopping: Option<Instant>,
}

impl Session {
    fn new(
        connection: quinn::Connection,
        to: SocketAddr,
        seat: ConnectionPermit,
        shared: Arc<ListenerContext>,
    ) -> Self {
        let (holdings, since) = (Arc::new(Holdings::new(seat)), Instant::now());
        let (late, unconfirmed, stopping) = (JoinSet::new(), Vec::new(), None);
        Self { connection, to, shared, holdings, late, unconfirmed, since, stopping }
    }

    /// Answers until there is a reason not to.
    async fn run(mut self) -> CloseReason {
        let ended = self.serve().await;
        if ended.is_ok() {
            // The client takes what was sent to it, or does not: closed, it would never get it.
            let _ = timeout(LINGER_TIMEOUT, self.confirmed()).await;
        }
        let (end, reason) = match ended {
            Ok(end) => (end, ""),
            Err(Fault::Forbidden(what)) => (CloseReason::Refused, what),
            Err(Fault::Burden(what)) => (CloseReason::Slow, what),
            Err(Fault::Silent) => (CloseReason::Idle, ""),
            Err(Fault::Gone | Fault::Cancelled | Fault::Mistake) => (CloseReason::Closed, ""),
        };
        self.connection.close(ended.map_or_else(Fault::code, |_| NO_ERROR), reason.as_bytes());
        end
    }

    async fn serve(&mut self) -> Result<CloseReason, Fault> {
        let stop = self.shared.stop.clone();
        poll_fn(|context| {
            self.holdings.lock().seat.register_shutdown_waker(context.waker());
            Poll::Ready(())
        })
        .await;
        let mut leaving = stop.is_lame_duck();
        let mut timer = pin!(sleep_until(self.deadline(leaving)));
        loop {
            tokio::select! {
                biased;
                () = heard(&stop, Phase::Draining), if self.stopping.is_none() => self.stopping = Some(Instant::now()),
                () = heard(&stop, Phase::Leaving), if !leaving => leaving = true,
                Some(ended) = self.late.join_next() => {
                    self.note(ended.unwrap_or(Err(Fault::Mistake)))?;
                }
                streams = self.connection.accept_bi() => {
                    let (send, receive) = streams?;
                    self.begin(send, receive).await?;
                }
                () = timer.as_mut() => if let Some(end) = self.at_deadline(leaving)? {
                    return Ok(end);
                },
            }
            // The timer is moved when it fires and when it would fire too late: not with each query.
            let deadline = self.deadline(leaving);
            if deadline < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(deadline);
            }
        }
    }

    /// Answers at once what is here already; the rest has its own task.
    async fn begin(&mut self, send: SendStream, receive: RecvStream) -> Result<(), Fault> {
        // Each time: the client may have moved (RFC 9000 section 9).
        let peer = Peer { from: self.connection.remote_address(), to: self.to };
        self.since = Instant::now();
        self.holdings.lock().seat.record_query(self.since.into_std());
        let share = Share { holdings: Arc::clone(&self.holdings), octets: 0 };
        let exchange = Exchange { send, receive, peer, share, shared: Arc::clone(&self.shared), opened: self.since };
        let mut exchange = Box::pin(exchange.run());
        match poll_fn(|context| Poll::Ready(exchange.as_mut().poll(context))).await {
            Poll::Ready(ended) => self.note(ended)?,
            Poll::Pending => {
                let mut place = Share { holdings: Arc::clone(&self.holdings), octets: 0 };
                place.hold(WAITING_STREAM)?;
                self.late.spawn(async move {
                    let _place = place;
                    exchange.await
                });
            }
        }
        // The others too want to be served.
        coop::consume_budget().await;
        Ok(())
    }

    fn note(&mut self, ended: Result<Option<Unconfirmed>, Fault>) -> Result<(), Fault> {
        self.since = Instant::now();
        self.unconfirmed.extend(ended?);
        let is_much = || self.holdings.lock().octets >= UNCONFIRMED_OCTETS;
        if self.unconfirmed.len() >= UNCONFIRMED || !self.unconfirmed.is_empty() && is_much() {
            self.look_what_is_confirmed();
        }
        Ok(())
    }

    fn look_what_is_confirmed(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        self.unconfirmed.retain_mut(|response| pin!(response.send.stopped()).poll(&mut context).is_pending());
    }

    /// Returns once the client has all responses, or wants them no more.
    async fn confirmed(&mut self) {
        for response in &mut self.unconfirmed {
            let _ = response.send.stopped().await;
        }
    }

    /// When the client has been too slow, or we have waited long enough.
    fn deadline(&self, leaving: bool) -> Instant {
        let limits = &self.shared.limits;
        let quiet = match self.stopping {
            // Each of these has its own, and none is later than this.
            _ if !self.late.is_empty() => {
                self.since + limits.unfinished + FORWARD_IDLE_TIMEOUT + limits.idle.max(limits.unread)
            }
            Some(stopping) => stopping + DRAIN_IDLE_TIMEOUT,
            None if leaving => self.since + limits.idle.min(LAME_DUCK_IDLE_TIMEOUT),
            None => self.since + limits.idle,
        };
        self.unconfirmed.first().map_or(quiet, |first| quiet.min(first.since + limits.unread))
    }

    fn at_deadline(&mut self, leaving: bool) -> Result<Option<CloseReason>, Fault> {
        self.look_what_is_confirmed();
        let now = Instant::now();
        if self.unconfirmed.first().is_some_and(|first| first.since + self.shared.limits.unread <= now) {
            return Err(Fault::Burden("the responses are not taken"));
        }
        let over = self.deadline(leaving) <= now;
        let end = if self.stopping.is_some() || leaving { CloseReason::Stopped } else { CloseReason::Idle };
        Ok(over.then_some(end))
    }
}

impl Drop for Session {
    /// Where it was not closed before: it ends with us, or in favour of another. Closed once, this says nothing more.
    fn drop(&mut self) {
        let code = match self.shared.stop.is_draining() {
            _ if std::thread::panicking() => INTERNAL_ERROR,
            true => NO_ERROR,
            false => EXCESSIVE_LOAD,
        };
        self.connection.close(code, b"");
    }
}

/// Returns once this phase is reached. The seat has the task woken that looks.
async fn heard(stop: &Shutdown, phase: Phase) {
    poll_fn(|_| if stop.is_in(phase) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// A response that was sent, and that the client may not have.
struct Unconfirmed {
    send: SendStream,
    since: Instant,
    _share: Share,
}

/// What all streams of a connection hold together.
struct Holdings(Mutex<Held>);

struct Held {
    seat: ConnectionPermit,
    octets: usize,
    /// When the client last took octets of a response that had to wait.
    moved: Instant,
}

impl Holdings {
    fn new(seat: ConnectionPermit) -> Self {
        Self(Mutex::new(Held { seat, octets: 0, moved: Instant::now() }))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one stream holds of it.
struct Share {
    holdings: Arc<Holdings>,
    octets: usize,
}

impl Share {
    /// It now holds so many octets.
    fn hold(&mut self, octets: usize) -> Result<(), Fault> {
        let mut held = self.holdings.lock();
        held.octets = held.octets - self.octets + octets;
        self.octets = octets;
        let all = held.octets;
        if held.seat.set_buffered_bytes(all) { Ok(()) } else { Err(Fault::Burden("too much is held for slow clients")) }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = self.hold(0);
    }
}

/// One question and its response, on a stream of their own (RFC 9250 section 4.2).
struct Exchange {
    send: SendStream,
    receive: RecvStream,
    peer: Peer,
    share: Share,
    shared: Arc<ListenerContext>,
    opened: Instant,
}

impl Exchange {
    /// Returns the response that is on its way; none where the client wants none.
    async fn run(mut self) -> Result<Option<Unconfirmed>, Fault> {
        let Err(fault) = self.answer().await else {
            return Ok(Some(Unconfirmed { send: self.send, since: Instant::now(), _share: self.share }));
        };
        // RFC 9250 section 4.3.1. Without it, the stream would end as if nothing was the answer.
        let _ = self.send.reset(fault.code());
        if fault == Fault::Cancelled { Ok(None) } else { Err(fault) }
    }

    async fn answer(&mut self) -> Result<(), Fault> {
        let query = self.read().await?;
        let response = match self.shared.answer(self.peer, &query) {
            Answer::Here(response) => response,
            Answer::Later(mailbox) => self.wait(|waker| mailbox.take(waker)).await?,
            Answer::Nothing => return Err(Fault::Forbidden("this deserves no response")),
        };
        self.write(response).await
    }

    /// The stream's content: a message behind its length.
    async fn read(&mut self) -> Result<Vec<u8>, Fault> {
        let (mut octets, deadline) = (Vec::new(), self.opened + self.shared.limits.unfinished);
        loop {
            match timeout_at(deadline, self.receive.read_chunk(usize::MAX, true)).await {
                Ok(Ok(Some(chunk))) => octets.extend_from_slice(&chunk.bytes),
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return Err(error.into()),
                Err(_) if is_whole(&octets) => {
                    return Err(Fault::Forbidden("the stream does not end behind the query"));
                }
                Err(_) => return Err(Fault::Burden("the query does not come")),
            }
            if octets.len() > expected(&octets) {
                return Err(Fault::Forbidden("more than one query on a stream"));
            }
            self.share.hold(octets.len())?;
        }
        check(&octets).map(|()| octets)
    }

    /// For what others say; the client may lose its patience before.
    async fn wait(&mut self, mut take: impl FnMut(&Waker) -> Option<Vec<u8>>) -> Result<Vec<u8>, Fault> {
        self.share.hold(0)?;
        let said = poll_fn(|context| take(context.waker()).map_or(Poll::Pending, Poll::Ready));
        tokio::select! {
            biased;
            response = said => Ok(response),
            stopped = self.send.stopped() => Err(stopped.map_or_else(Fault::from, |_| Fault::Cancelled)),
            () = sleep(FORWARD_IDLE_TIMEOUT) => Err(Fault::Mistake),
        }
    }

    async fn write(&mut self, response: Vec<u8>) -> Result<(), Fault> {
        self.share.hold(response.len())?;
        let (limits, begun) = (self.shared.limits, Instant::now());
        let mut rest = [response.into()];
        loop {
            // As long as the client takes anything at all of what it asked for, and not for ever.
            let moved = self.share.holdings.lock().moved.max(begun);
            let deadline = (moved + limits.unread).min(begun + limits.idle.max(limits.unread));
            match timeout_at(deadline, self.send.write_chunks(&mut rest)).await {
                Ok(Ok(_)) if rest[0].is_empty() => break,
                Ok(Ok(_)) => self.share.holdings.lock().moved = Instant::now(),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) if self.share.holdings.lock().moved > moved => {}
                Err(_) => return Err(Fault::Burden("the response is not taken")),
            }
        }
        self.send.finish().map_err(|_| Fault::Mistake)
    }
}

/// How many octets a stream has that begins with these: those of the length, and of the message.
fn expected(octets: &[u8]) -> usize {
    octets.first_chunk().map_or(2, |length| 2 + usize::from(u16::from_be_bytes(*length)))
}

fn is_whole(octets: &[u8]) -> bool {
    octets.len() >= 2 && octets.len() == expected(octets)
}

/// What is forbidden of a query over QUIC, and nowhere else (RFC 9250 section 4.3.3).
pub(super) fn check(octets: &[u8]) -> Result<(), Fault> {
    if !is_whole(octets) {
        return Err(Fault::Forbidden("the stream ends before the query"));
    }
    let message = &octets[2..];
    if message.iter().take(2).any(|octet| *octet != 0) {
        return Err(Fault::Forbidden("the message ID is not 0"));
    }
    if wire::has_option(message, wire::TCP_KEEPALIVE) {
        return Err(Fault::Forbidden("edns-tcp-keepalive is for TCP"));
    }
    Ok(())
}

/// The tasks that quinn starts: one for the socket, and one for each connection, which outlives it by a moment.
#[derive(Debug, Default)]
struct Children(Mutex<JoinSet<()>>);

impl Children {
    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next one that ends. It never returns where there is none.
    async fn next_end(&self) -> Result<(), JoinError> {
        poll_fn(|context| match self.lock().poll_join_next(context) {
            Poll::Ready(Some(ended)) => Poll::Ready(ended),
            // It is asked again with each new connection.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Returns once all have ended, which nobody needs any longer.
    async fn ended(&self) {
        self.lock().abort_all();
        poll_fn(|context| {
            let mut children = self.lock();
            while let Poll::Ready(ended) = children.poll_join_next(context) {
                if ended.is_none() {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        })
        .await;
    }
}

impl Runtime for Children {
    fn new_timer(&self, at: std::time::Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, child: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.lock().spawn(child);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> std::time::Instant {
        TokioRuntime.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_of_streams() {
        // A header without a question; what the engine says of it is not decided here.
        let header = [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let framed = |message: &[u8]| [&(message.len() as u16).to_be_bytes(), message].concat();
        let mut named = header;
        named[1] = 1;
        let mut keeps_alive = header.to_vec();
        (keeps_alive[5], keeps_alive[11]) = (1, 1);
        keeps_alive.extend([0, 0, 1, 0, 1]);
        keeps_alive.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4, 0, 11, 0, 0]);
        for (octets, fault) in [
            (framed(&header), None),
            (framed(&[]), None),
            (vec![], Some("the stream ends before the query")),
            (vec![0], Some("the stream ends before the query")),
            (framed(&header)[..13].to_vec(), Some("the stream ends before the query")),
            (framed(&named), Some("the message ID is not 0")),
            (framed(&[1]), Some("the message ID is not 0")),
            (framed(&keeps_alive), Some("edns-tcp-keepalive is for TCP")),
        ] {
            assert_eq!(check(&octets), fault.map_or(Ok(()), |what| Err(Fault::Forbidden(what))), "{octets:?}");
        }
    }

    #[test]
    fn lengths_of_streams() {
        for (octets, length, whole) in
            [(&[][..], 2, false), (&[0], 2, false), (&[0, 0], 2, true), (&[1, 0], 258, false), (&[0, 1, 7], 3, true)]
        {
            assert_eq!((expected(octets), is_whole(octets)), (length, whole), "{octets:?}");
        }
    }
}
