//! DNS over HTTPS (RFC 8484): one task per connection, which speaks HTTP/2 over an encrypted stream, and answers the
//! query of each request.
//!
//! HTTP/2 itself is the crate h2. This module adds what h2 lacks: timeouts, and the accounting of buffered octets.
//!
//! ```text
//!   h2 ──▶ HttpRequest: the content, as it arrives ──▶ a worker ──▶ PendingBody: octets that the client has not read ──▶ h2
//!                       or the upstream's response ◀───────┘ forward
//! ```
//!
//! Not here: validation of requests (`https/doh.rs`), partial frames and blocked writes (`https/metered_stream.rs`),
//! the TLS handshake and limits on connections (`tls/acceptor.rs`, `listener/limiter.rs`). Read next: `https/doh.rs`.

pub mod doh;
mod metered_stream;

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::Buf;
use h2::RecvStream;
use h2::server::{self, Handshake, SendResponse};
use http::{HeaderValue, Method, Request, Response};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::forward::ResponseQueue;
use super::listener::context::ListenerContext;
use super::listener::limiter::ConnectionPermit;
use super::listener::tracker::{
    CloseReason, DRAIN_IDLE_TIMEOUT, FORWARD_IDLE_TIMEOUT, LAME_DUCK_IDLE_TIMEOUT, LINGER_TIMEOUT,
};
use super::stream::connection::Stream;
use super::stream::worker::{BufferedWorker, StreamReply};
use doh::{DohError, MAX_BODY_BYTES, QueryPlace};
use headless_dns_core::answer::{DropReason, Peer};
use metered_stream::{IoProgress, MeteredStream};

/// Limit of concurrent requests on a connection. Others are refused, and the client may retry (RFC 9113 section 5.1.2).
const MAX_CONCURRENT_STREAMS: u32 = 100;
/// Limit of a request's field section, in octets as RFC 9113 section 6.5.2 counts them. Above it, status 431.
const MAX_HEADER_LIST_BYTES: u32 = 16 << 10;
/// Flow-control window of a stream, in octets: one octet more than the largest message, so that a longer body is noticed.
const STREAM_WINDOW_BYTES: u32 = MAX_BODY_BYTES as u32 + 1;
/// Flow-control window of a connection, in octets.
const CONNECTION_WINDOW_BYTES: u32 = 4 * STREAM_WINDOW_BYTES;
/// Limit of requests that the client resets before they are accepted (CVE-2023-44487). Above it the connection is closed.
const MAX_RESET_STREAMS: usize = 20;
/// Limit of stream errors over the life of a connection. Above it the connection is closed.
const MAX_STREAM_ERRORS: usize = 100;
/// Number of reset requests that h2 remembers, to ignore their late frames.
const REMEMBERED_RESETS: usize = 50;
/// Limit of the rounds in one poll, so that other tasks can run.
const ROUNDS_PER_POLL: usize = 4;
/// Capacity that the lists of an idle connection keep.
const RETAINED_CAPACITY: usize = 4;

/// Serves an HTTP/2 connection until it is closed. The stream is encrypted, and ALPN has negotiated HTTP/2.
pub(crate) async fn serve<S>(
    stream: S,
    peer: Peer,
    mut permit: ConnectionPermit,
    context: Arc<ListenerContext>,
) -> CloseReason
where
    S: Stream,
{
    let progress = Arc::<IoProgress>::default();
    let mut stream = MeteredStream::new(stream, Arc::clone(&progress));
    let end = {
        let mut connection = HttpConnection::new(&mut stream, progress, peer, &mut permit, &context);
        let mut timer = pin!(sleep_until(connection.next_timeout().0));
        poll_fn(|context| connection.poll_end(context, timer.as_mut())).await
    };
    if !matches!(end, CloseReason::Closed | CloseReason::Slow) {
        // Give the client time to read the last octets before the socket is closed.
        let _ = timeout(LINGER_TIMEOUT, stream.finish()).await;
    }
    end
}

/// An HTTP/2 connection of a client.
struct HttpConnection<'c, S> {
    http: Http<'c, S>,
    progress: Arc<IoProgress>,
    peer: Peer,
    permit: &'c mut ConnectionPermit,
    context: &'c Arc<ListenerContext>,
    /// Requests without a response so far.
    requests: Vec<HttpRequest>,
    /// Bodies of responses that the client has not read yet.
    bodies: Vec<PendingBody>,
    /// Time of the last progress: connected, a request complete, or a response read by the client.
    last_progress: Instant,
    /// Time since which writes are blocked, and the octets written before.
    blocked: Option<(Instant, u64)>,
    /// Graceful shutdown of the connection: its reason and its begin.
    close_reason: Option<(CloseReason, Instant)>,
}

/// HTTP/2 before and after the connection preface.
enum Http<'c, S> {
    /// The client's preface is not complete.
    Handshaking(Handshake<&'c mut MeteredStream<S>, TrackedBytes>),
    Open(server::Connection<&'c mut MeteredStream<S>, TrackedBytes>),
}

/// Action at the next timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimeoutAction {
    /// Closes the connection: the client was too slow to send its preface or a frame, or to read a response.
    Cut,
    /// Refuses the requests whose bodies are late.
    RefuseBodies,
    /// Begins the graceful shutdown of an idle connection.
    BeginShutdown,
    /// Closes the connection: its graceful shutdown took too long, or is complete.
    End(CloseReason),
}

impl<'c, S: Stream> HttpConnection<'c, S> {
    fn new(
        stream: &'c mut MeteredStream<S>,
        progress: Arc<IoProgress>,
        peer: Peer,
        permit: &'c mut ConnectionPermit,
        context: &'c Arc<ListenerContext>,
    ) -> Self {
        let http = Http::Handshaking(settings().handshake(stream));
        Self {
            http,
            progress,
            peer,
            permit,
            context,
            requests: Vec::new(),
            bodies: Vec::new(),
            last_progress: Instant::now(),
            blocked: None,
            close_reason: None,
        }
    }

    fn poll_end(&mut self, context: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<CloseReason> {
        self.permit.register_shutdown_waker(context.waker());
        if self.context.stop.is_draining() && !matches!(self.close_reason, Some((CloseReason::Stopped, _))) {
            self.begin_shutdown(CloseReason::Stopped);
        }
        self.progress.reset_budget();
        loop {
            if let Err(end) = self.poll_loop(context) {
                return Poll::Ready(end);
            }
            self.record_progress();
            if !self.update_buffered_bytes() {
                return Poll::Ready(CloseReason::Slow);
            }
            match ready!(self.poll_timeout(context, timer.as_mut())) {
                TimeoutAction::Cut => return Poll::Ready(CloseReason::Slow),
                TimeoutAction::RefuseBodies => self.reject_timed_out_bodies(),
                TimeoutAction::BeginShutdown if self.context.stop.is_lame_duck() => {
                    self.begin_shutdown(CloseReason::Stopped);
                }
                TimeoutAction::BeginShutdown => self.begin_shutdown(CloseReason::Idle),
                TimeoutAction::End(end) => return Poll::Ready(end),
            }
        }
    }

    fn poll_loop(&mut self, context: &mut Context<'_>) -> Result<(), CloseReason> {
        for _ in 0..ROUNDS_PER_POLL {
            match self.poll_once(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => return Err(end),
                Poll::Pending => return Ok(()),
            }
        }
        // There is more to do, but other tasks have to run.
        context.waker().wake_by_ref();
        Ok(())
    }

    /// Performs one round: accepts requests, answers those that are complete, and sends. `Ready` if there may be more
    /// to do.
    fn poll_once(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        if let Http::Handshaking(handshake) = &mut self.http {
            match ready!(Pin::new(handshake).poll(context)) {
                Ok(http) => self.http = Http::Open(http),
                Err(error) => return Poll::Ready(Err(self.closed_by(&error))),
            }
            if let Some((end, _)) = self.close_reason {
                self.begin_shutdown(end);
            }
        }
        self.take_requests(context)?;
        let complete = self.requests.extract_if(.., |request| request.poll_complete(context).is_ready());
        let complete: Vec<_> = complete.collect();
        if complete.is_empty() { Poll::Pending } else { Poll::Ready(self.answer_all(context, complete)) }
    }

    /// Accepts all requests received so far, so that their responses are sent together.
    fn take_requests(&mut self, context: &mut Context<'_>) -> Result<(), CloseReason> {
        let Http::Open(http) = &mut self.http else { return Ok(()) };
        loop {
            match http.poll_accept(context) {
                Poll::Ready(Some(Ok((request, respond)))) => self.requests.push(HttpRequest::begin(request, respond)),
                Poll::Ready(Some(Err(error))) => return Err(self.closed_by(&error)),
                Poll::Ready(None) => return Err(self.closed()),
                Poll::Pending => return Ok(()),
            }
        }
    }

    /// Returns the close reason when h2 has closed the connection.
    fn closed(&self) -> CloseReason {
        self.close_reason.map_or(CloseReason::Closed, |(end, _)| end)
    }

    fn closed_by(&self, error: &h2::Error) -> CloseReason {
        // h2 has sent GOAWAY with a protocol error, and the client may be about to read it.
        if error.is_library() { CloseReason::Refused } else { self.closed() }
    }

    /// Answers complete requests, and writes as much as the stream accepts.
    fn answer_all(&mut self, context: &mut Context<'_>, complete: Vec<HttpRequest>) -> Result<(), CloseReason> {
        let date = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now()));
        let date = date.unwrap_or(HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"));
        let now = Instant::now();
        let mut batch = PollContext { buffered: self.context.acquire_worker(), date, now };
        batch.buffered.worker.begin_batch(now.into_std());
        let answered = complete.into_iter().try_for_each(|request| self.answer(request, &mut batch));
        let sent = answered.and_then(|()| self.flush(context));
        batch.buffered.worker.end_batch(Instant::now().into_std());
        self.context.release_worker(batch.buffered);
        sent
    }

    /// Answers a complete request, or forwards it to an upstream.
    fn answer(&mut self, request: HttpRequest, batch: &mut PollContext) -> Result<(), CloseReason> {
        let HttpRequest { handle, state } = request;
        match state {
            RequestState::Query(query) => {
                self.last_progress = batch.now;
                self.permit.record_query(batch.now.into_std());
                return self.answer_query(handle, &query, batch);
            }
            RequestState::ForwardedResponse(response) => {
                self.last_progress = batch.now;
                self.bodies.extend(handle.send(doh::head(&response, &batch.date), &response, batch.now));
            }
            RequestState::Refused(refusal) => {
                batch.buffered.worker.counters().count(refusal.event());
                let head = doh::refusal_head(refusal, &batch.date);
                self.bodies.extend(handle.send(head, refusal.text().as_bytes(), batch.now));
            }
            // Only complete requests are passed to this function.
            RequestState::Gone | RequestState::Body { .. } | RequestState::Forwarded(_) => {}
        }
        Ok(())
    }

    fn answer_query(
        &mut self,
        handle: RespondHandle,
        query: &[u8],
        batch: &mut PollContext,
    ) -> Result<(), CloseReason> {
        let BufferedWorker { worker, output, .. } = &mut *batch.buffered;
        // Each query has a queue of its own: all queries of a client may have the ID 0.
        let mut queue = None;
        match worker.respond(self.peer, query, &mut output[..MAX_BODY_BYTES], &mut queue) {
            StreamReply::Response(length) => {
                let response = &output[..length];
                self.bodies.extend(handle.send(doh::head(response, &batch.date), response, batch.now));
            }
            StreamReply::Forwarded => {
                let queue = queue.unwrap_or_default();
                self.requests.push(HttpRequest { handle, state: RequestState::Forwarded(queue) });
            }
            StreamReply::Drop(DropReason::Short | DropReason::Response) => {
                return self.answer(HttpRequest { handle, state: RequestState::Refused(DohError::NoQuery) }, batch);
            }
            // The client is not allowed, and the server is configured to drop its queries.
            StreamReply::Drop(DropReason::Source | DropReason::NotAllowed) => return Err(CloseReason::Refused),
        }
        Ok(())
    }

    fn flush(&mut self, context: &mut Context<'_>) -> Result<(), CloseReason> {
        let Http::Open(http) = &mut self.http else { return Ok(()) };
        match http.poll_closed(context) {
            Poll::Ready(Ok(())) => Err(self.closed()),
            Poll::Ready(Err(error)) => Err(self.closed_by(&error)),
            Poll::Pending => Ok(()),
        }
    }

    /// Begins the graceful shutdown of the connection. Requests in flight are still answered (RFC 9113 section 6.8).
    fn begin_shutdown(&mut self, end: CloseReason) {
        self.close_reason = Some((end, Instant::now()));
        if let Http::Open(http) = &mut self.http {
            http.graceful_shutdown();
        }
    }

    fn reject_timed_out_bodies(&mut self) {
        let (now, unfinished) = (Instant::now(), self.permit.limits().unfinished);
        for request in &mut self.requests {
            if matches!(request.state, RequestState::Body { since, .. } if since + unfinished <= now) {
                request.state = RequestState::Refused(DohError::Slow);
            }
        }
    }

    /// Records which responses the client has read, and whether writes are blocked.
    fn record_progress(&mut self) {
        let (now, before) = (Instant::now(), self.bodies.len());
        self.bodies.retain_mut(|body| body.is_left(now));
        if self.bodies.len() < before {
            self.last_progress = now;
        }
        self.blocked = self.progress.blocked().map(|written| match self.blocked {
            Some((since, then)) if then == written => (since, written),
            _ => (now, written),
        });
    }

    /// Accounts for the buffered octets of the connection. Returns false if the limit over all connections is exceeded.
    fn update_buffered_bytes(&mut self) -> bool {
        let bodies: usize = self.requests.iter().map(HttpRequest::buffered_bytes).sum();
        let responses: usize = self.bodies.iter().map(|body| body.length).sum();
        if bodies + responses == 0 {
            // An idle connection does not keep the capacity for many requests.
            self.requests.shrink_to(RETAINED_CAPACITY);
            self.bodies.shrink_to(RETAINED_CAPACITY);
        }
        let is_sending = responses > 0 || self.blocked.is_some();
        self.permit.set_buffered_bytes(
            bodies + responses + self.progress.buffered_bytes() + if is_sending { S::MAX_BUFFERED_BYTES } else { 0 },
        )
    }

    /// Waits for the next timeout. The timer is reset only when it fires or would fire too late, and not for each
    /// request.
    fn poll_timeout(&self, context: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<TimeoutAction> {
        let (at, next_timeout) = self.next_timeout();
        if at < timer.deadline() {
            timer.as_mut().reset(at);
        }
        while timer.as_mut().poll(context).is_ready() {
            if at <= Instant::now() {
                return Poll::Ready(next_timeout);
            }
            timer.as_mut().reset(at);
        }
        Poll::Pending
    }

    /// Returns the next timeout and its action.
    fn next_timeout(&self) -> (Instant, TimeoutAction) {
        let limits = self.permit.limits();
        let handshake = matches!(self.http, Http::Handshaking(_))
            .then_some((self.last_progress + limits.unfinished, TimeoutAction::Cut));
        let part = self.progress.started_at().map(|since| (since + limits.unfinished, TimeoutAction::Cut));
        let blocked = self.blocked.map(|(since, _)| (since + limits.unread, TimeoutAction::Cut));
        let responses = self.bodies.iter().map(|body| (body.since + limits.unread, TimeoutAction::Cut));
        let bodies = self.requests.iter().filter_map(|request| match request.state {
            RequestState::Body { since, .. } => Some((since + limits.unfinished, TimeoutAction::RefuseBodies)),
            _ => None,
        });
        let all = handshake.into_iter().chain(part).chain(blocked).chain(responses).chain(bodies);
        all.fold(self.close_timeout(), |first, next| if next.0 < first.0 { next } else { first })
    }

    fn close_timeout(&self) -> (Instant, TimeoutAction) {
        let limits = self.permit.limits();
        let is_busy = !self.requests.is_empty() || !self.bodies.is_empty() || self.blocked.is_some();
        let has_forwarded = self.requests.iter().any(|request| matches!(request.state, RequestState::Forwarded(_)));
        match self.close_reason {
            Some((end, since)) if is_busy => (since + limits.drain, TimeoutAction::End(end)),
            Some((end, since)) => (since.max(self.last_progress) + DRAIN_IDLE_TIMEOUT, TimeoutAction::End(end)),
            None if has_forwarded => {
                (self.last_progress + limits.idle.max(FORWARD_IDLE_TIMEOUT), TimeoutAction::BeginShutdown)
            }
            None if self.context.stop.is_lame_duck() => {
                (self.last_progress + limits.idle.min(LAME_DUCK_IDLE_TIMEOUT), TimeoutAction::BeginShutdown)
            }
            None => (self.last_progress + limits.idle, TimeoutAction::BeginShutdown),
        }
    }
}

/// Returns the HTTP/2 settings, with the limits of this module.
fn settings() -> server::Builder {
    let mut settings = server::Builder::new();
    settings
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        .max_local_error_reset_streams(Some(MAX_STREAM_ERRORS))
        .max_concurrent_reset_streams(REMEMBERED_RESETS);
    settings
}

/// Context of answering a batch of requests.
struct PollContext {
    buffered: Box<BufferedWorker>,
    /// Value of the Date header field.
    date: HeaderValue,
    now: Instant,
}

/// A request without a response so far.
struct HttpRequest {
    handle: RespondHandle,
    state: RequestState,
}

/// State of a request.
enum RequestState {
    /// The server is reading the request content (RFC 9110 section 6.4).
    Body { body: RecvStream, query: Vec<u8>, since: Instant },
    /// The query was forwarded to an upstream.
    Forwarded(Arc<ResponseQueue>),
    /// The query is complete: at least one octet.
    Query(Vec<u8>),
    /// The response to a forwarded query.
    ForwardedResponse(Vec<u8>),
    /// The request gets an HTTP error.
    Refused(DohError),
    /// The client has reset the stream.
    Gone,
}

impl HttpRequest {
    fn begin(request: Request<RecvStream>, respond: SendResponse<TrackedBytes>) -> Self {
        let (head, body) = request.into_parts();
        let state = match doh::read(&head) {
            Ok(QueryPlace::Parameter(query)) => RequestState::Query(query),
            Ok(QueryPlace::Body) => RequestState::Body { body, query: Vec::new(), since: Instant::now() },
            // The body is not read.
            Err(refusal) => RequestState::Refused(refusal),
        };
        Self { handle: RespondHandle { respond, only_head: head.method == Method::HEAD }, state }
    }

    /// Polls the body or the forwarded query. `Ready` if the request can be answered.
    fn poll_complete(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.state {
            RequestState::Body { body, query, .. } => self.state = ready!(poll_body(context, body, query)),
            RequestState::Forwarded(queue) => match queue.take_one(context.waker()) {
                Some(response) => self.state = RequestState::ForwardedResponse(response),
                None => return Poll::Pending,
            },
            RequestState::Query(_)
            | RequestState::ForwardedResponse(_)
            | RequestState::Refused(_)
            | RequestState::Gone => {}
        }
        Poll::Ready(())
    }

    /// Returns the octets buffered for the request.
    fn buffered_bytes(&self) -> usize {
        if let RequestState::Body { query, .. } = &self.state { query.capacity() } else { 0 }
    }
}

fn poll_body(context: &mut Context<'_>, body: &mut RecvStream, query: &mut Vec<u8>) -> Poll<RequestState> {
    let state = loop {
        match ready!(body.poll_data(context)) {
            Some(Ok(data)) if query.len() + data.len() > MAX_BODY_BYTES => {
                break RequestState::Refused(DohError::LongBody);
            }
            Some(Ok(data)) => {
                query.extend_from_slice(&data);
                // Fails only for more octets than were received.
                let _ = body.flow_control().release_capacity(data.len());
            }
            Some(Err(_)) => break RequestState::Gone,
            None if query.is_empty() => break RequestState::Refused(DohError::NoQuery),
            None => break RequestState::Query(std::mem::take(query)),
        }
    };
    Poll::Ready(state)
}

/// Handle to send the response of a request.
struct RespondHandle {
    respond: SendResponse<TrackedBytes>,
    only_head: bool,
}

impl RespondHandle {
    /// Passes the response to h2. Returns its body, unless there is none or the client has reset the stream.
    fn send(mut self, head: Response<()>, octets: &[u8], now: Instant) -> Option<PendingBody> {
        // Both calls fail if the client has reset the stream.
        let mut stream = self.respond.send_response(head, self.only_head).ok()?;
        if self.only_head {
            return None;
        }
        let left = Arc::new(AtomicUsize::new(octets.len()));
        let body = TrackedBytes { octets: octets.into(), at: 0, left: Arc::clone(&left) };
        stream.send_data(body, true).ok()?;
        Some(PendingBody { length: octets.len(), left, seen: octets.len(), since: now })
    }
}

/// Progress of a response body that h2 sends.
struct PendingBody {
    /// Length of the response content, in octets.
    length: usize,
    left: Arc<AtomicUsize>,
    /// Octets left at the last check, and the time since which they were left.
    seen: usize,
    since: Instant,
}

impl PendingBody {
    fn is_left(&mut self, now: Instant) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        if left < self.seen {
            (self.seen, self.since) = (left, now);
        }
        left > 0
    }
}

/// Body of a response, with a shared counter of the octets left.
struct TrackedBytes {
    octets: Box<[u8]>,
    at: usize,
    left: Arc<AtomicUsize>,
}

impl Buf for TrackedBytes {
    fn remaining(&self) -> usize {
        self.octets.len() - self.at
    }

    fn chunk(&self) -> &[u8] {
        &self.octets[self.at..]
    }

    fn advance(&mut self, count: usize) {
        self.at += count;
        self.left.store(self.remaining(), Ordering::Relaxed);
    }
}

impl Drop for TrackedBytes {
    /// Resets the counter: the body was sent, or its stream was reset.
    fn drop(&mut self) {
        self.left.store(0, Ordering::Relaxed);
    }
}
