//! DNS over HTTPS (RFC 8484): one task per connection, which speaks HTTP/2 over an encrypted stream, and answers the query
//! of each request.
//!
//! HTTP/2 itself is the crate h2. This module adds what h2 lacks: timeouts, and the accounting of buffered octets.
//!
//! ```text
//!   h2 ──▶ Exchange: the body, as it arrives ──▶ a worker ──▶ Sending: octets that the client has not read yet ──▶ h2
//!                    or the upstream's response ◀────┘ forward
//! ```
//!
//! Not here: validation of requests (`doh.rs`), partial frames and blocked writes (`link.rs`), the TLS handshake and limits
//! on connections (`tls.rs`, `../seats.rs`). Read next: `doh.rs`.

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

use super::doh::{self, LONGEST_BODY, Place, Refusal};
use super::link::{Gauge, Link};
use crate::answer::{DropReason, Peer};
use crate::serve::connection::Stream;
use crate::serve::desk::{Desk, StreamReply};
use crate::serve::forward::{Mailbox, Question};
use crate::serve::guests::{End, LAST_WORD, LATE, LEAVING_IDLE, LINGER};
use crate::serve::place::Shared;
use crate::serve::seats::Seat;

/// Limit of concurrent requests on a connection. Others are refused, and the client may retry (RFC 9113 section 5.1.2).
const STREAMS: u32 = 100;
/// Limit of a request's field section, in octets as RFC 9113 section 6.5.2 counts them. Above it, status 431.
const FIELDS: u32 = 16 << 10;
/// Flow-control window of a stream, in octets: one octet more than the largest message, so that a longer body is noticed.
const BODY_WINDOW: u32 = LONGEST_BODY as u32 + 1;
/// Flow-control window of a connection, in octets.
const WINDOW: u32 = 4 * BODY_WINDOW;
/// Limit of requests that the client resets before they are accepted (CVE-2023-44487). Above it the connection is closed.
const TAKEN_BACK: usize = 20;
/// Limit of stream errors over the life of a connection. Above it the connection is closed.
const MISTAKES: usize = 100;
/// Number of reset requests that h2 remembers, to ignore their late frames.
const REMEMBERED: usize = 50;
/// Limit of the rounds in one poll, so that other tasks can run.
const TURNS: usize = 4;
/// Capacity that the lists of an idle connection keep.
const KEPT_ROOM: usize = 4;

/// Serves an HTTP/2 connection until it is closed. The stream is encrypted, and ALPN has negotiated HTTP/2.
pub(in crate::serve) async fn serve<S>(stream: S, peer: Peer, mut seat: Seat, shared: Arc<Shared>) -> End
where
    S: Stream,
{
    let gauge = Arc::<Gauge>::default();
    let mut link = Link::new(stream, Arc::clone(&gauge));
    let end = {
        let mut connection = Connection::new(&mut link, gauge, peer, &mut seat, &shared);
        let mut timer = pin!(sleep_until(connection.due().0));
        poll_fn(|context| connection.poll_end(context, timer.as_mut())).await
    };
    if !matches!(end, End::Closed | End::Slow) {
        // Give the client time to read the last octets before the socket is closed.
        let _ = timeout(LINGER, link.finish()).await;
    }
    end
}

/// An HTTP/2 connection of a client.
struct Connection<'c, S> {
    http: Http<'c, S>,
    gauge: Arc<Gauge>,
    peer: Peer,
    seat: &'c mut Seat,
    shared: &'c Arc<Shared>,
    /// Requests without a response so far.
    exchanges: Vec<Exchange>,
    /// Bodies of responses that the client has not read yet.
    sending: Vec<Sending>,
    /// Time of the last progress: connected, a request complete, or a response read by the client.
    since: Instant,
    /// Time since which writes are blocked, and the octets written before.
    blocked: Option<(Instant, u64)>,
    /// Graceful shutdown of the connection: its reason and its begin.
    ending: Option<(End, Instant)>,
}

/// HTTP/2 before and after the connection preface.
enum Http<'c, S> {
    /// The client's preface is not complete.
    Greeting(Handshake<&'c mut Link<S>, Octets>),
    Open(server::Connection<&'c mut Link<S>, Octets>),
}

/// Action at the next timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// Closes the connection: the client was too slow to send its preface or a frame, or to read a response.
    Cut,
    /// Refuses the requests whose bodies are late.
    RefuseBodies,
    /// Begins the graceful shutdown of an idle connection.
    BeginEnding,
    /// Closes the connection: its graceful shutdown took too long, or is complete.
    End(End),
}

impl<'c, S: Stream> Connection<'c, S> {
    fn new(link: &'c mut Link<S>, gauge: Arc<Gauge>, peer: Peer, seat: &'c mut Seat, shared: &'c Arc<Shared>) -> Self {
        let http = Http::Greeting(settings().handshake(link));
        let (exchanges, sending, since) = (Vec::new(), Vec::new(), Instant::now());
        Self { http, gauge, peer, seat, shared, exchanges, sending, since, blocked: None, ending: None }
    }

    fn poll_end(&mut self, context: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<End> {
        self.seat.wake_at_stop(context.waker());
        if self.shared.stop.told() && !matches!(self.ending, Some((End::Stopped, _))) {
            self.begin_ending(End::Stopped);
        }
        self.gauge.begin_turn();
        loop {
            if let Err(end) = self.take_turns(context) {
                return Poll::Ready(end);
            }
            self.note_progress();
            if !self.hold() {
                return Poll::Ready(End::Slow);
            }
            match ready!(self.poll_due(context, timer.as_mut())) {
                Due::Cut => return Poll::Ready(End::Slow),
                Due::RefuseBodies => self.refuse_late_bodies(),
                Due::BeginEnding if self.shared.stop.is_leaving() => self.begin_ending(End::Stopped),
                Due::BeginEnding => self.begin_ending(End::Idle),
                Due::End(end) => return Poll::Ready(end),
            }
        }
    }

    fn take_turns(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        for _ in 0..TURNS {
            match self.poll_turn(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => return Err(end),
                Poll::Pending => return Ok(()),
            }
        }
        // There is more to do, but other tasks have to run.
        context.waker().wake_by_ref();
        Ok(())
    }

    /// Performs one round: accepts requests, answers those that are complete, and sends. `Ready` if there may be more to do.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        if let Http::Greeting(greeting) = &mut self.http {
            match ready!(Pin::new(greeting).poll(context)) {
                Ok(http) => self.http = Http::Open(http),
                Err(error) => return Poll::Ready(Err(self.closed_by(&error))),
            }
            if let Some((end, _)) = self.ending {
                self.begin_ending(end);
            }
        }
        self.take_requests(context)?;
        let complete = self.exchanges.extract_if(.., |exchange| exchange.poll_complete(context).is_ready());
        let complete: Vec<_> = complete.collect();
        if complete.is_empty() { Poll::Pending } else { Poll::Ready(self.answer_all(context, complete)) }
    }

    /// Accepts all requests received so far, so that their responses are sent together.
    fn take_requests(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        let Http::Open(http) = &mut self.http else { return Ok(()) };
        loop {
            match http.poll_accept(context) {
                Poll::Ready(Some(Ok((request, respond)))) => self.exchanges.push(Exchange::begin(request, respond)),
                Poll::Ready(Some(Err(error))) => return Err(self.closed_by(&error)),
                Poll::Ready(None) => return Err(self.closed()),
                Poll::Pending => return Ok(()),
            }
        }
    }

    /// Returns the close reason when h2 has closed the connection.
    fn closed(&self) -> End {
        self.ending.map_or(End::Closed, |(end, _)| end)
    }

    fn closed_by(&self, error: &h2::Error) -> End {
        // h2 has sent GOAWAY with a protocol error, and the client may be about to read it.
        if error.is_library() { End::Refused } else { self.closed() }
    }

    /// Answers complete requests, and writes as much as the stream accepts.
    fn answer_all(&mut self, context: &mut Context<'_>, complete: Vec<Exchange>) -> Result<(), End> {
        let date = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now()));
        let date = date.unwrap_or(HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"));
        let now = Instant::now();
        let mut turn = Turn { desk: self.shared.take_desk(), date, now };
        turn.desk.worker.begin_batch(now.into_std());
        let answered = complete.into_iter().try_for_each(|exchange| self.answer(exchange, &mut turn));
        let sent = answered.and_then(|()| self.flush(context));
        turn.desk.worker.end_batch(Instant::now().into_std());
        self.shared.give_back(turn.desk);
        sent
    }

    /// Answers a complete request, or forwards it to an upstream.
    fn answer(&mut self, exchange: Exchange, turn: &mut Turn) -> Result<(), End> {
        let Exchange { requester, stage } = exchange;
        match stage {
            Stage::Query(query) => {
                self.since = turn.now;
                self.seat.asked(turn.now.into_std());
                return self.answer_query(requester, &query, turn);
            }
            // The forwarder frames responses for TCP, with a length before the message.
            Stage::Said(framed) => {
                self.since = turn.now;
                let response = framed.get(2..).unwrap_or_default();
                self.sending.extend(requester.send(doh::head(response, &turn.date), response, turn.now));
            }
            Stage::Refused(refusal) => {
                turn.desk.worker.counters().count(refusal.event());
                let head = doh::refusal_head(refusal, &turn.date);
                self.sending.extend(requester.send(head, refusal.text().as_bytes(), turn.now));
            }
            // Only complete requests are passed to this function.
            Stage::Gone | Stage::Body { .. } | Stage::Others(_) => {}
        }
        Ok(())
    }

    fn answer_query(&mut self, requester: Requester, query: &[u8], turn: &mut Turn) -> Result<(), End> {
        let Desk { worker, output, .. } = &mut *turn.desk;
        let message = &mut output[..LONGEST_BODY];
        let length = match worker.respond(&self.shared.responder, self.peer, query, message) {
            StreamReply::Response(length) => length,
            StreamReply::Forward(pending, logged) => {
                let question = Question { pending, listen: self.shared.listen.address, logged };
                match self.hand_over(question) {
                    Ok(mailbox) => {
                        self.exchanges.push(Exchange { requester, stage: Stage::Others(mailbox) });
                        return Ok(());
                    }
                    Err(refused) => worker.refuse(&refused, message),
                }
            }
            StreamReply::Drop(DropReason::Short | DropReason::Response) => {
                return self.answer(Exchange { requester, stage: Stage::Refused(Refusal::NoQuery) }, turn);
            }
            // The client is not allowed, and the server is configured to drop its queries.
            StreamReply::Drop(DropReason::Source | DropReason::NotAllowed) => return Err(End::Refused),
        };
        let response = &turn.desk.output[..length];
        self.sending.extend(requester.send(doh::head(response, &turn.date), response, turn.now));
        Ok(())
    }

    /// Forwards a query. Each has a response queue of its own, because all queries of a client may have the ID 0.
    #[cold]
    fn hand_over(&self, question: Question) -> Result<Arc<Mailbox>, Question> {
        let mailbox = Arc::<Mailbox>::default();
        self.shared.hand_over(question, &mut Some(Arc::clone(&mailbox)))?;
        Ok(mailbox)
    }

    fn flush(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        let Http::Open(http) = &mut self.http else { return Ok(()) };
        match http.poll_closed(context) {
            Poll::Ready(Ok(())) => Err(self.closed()),
            Poll::Ready(Err(error)) => Err(self.closed_by(&error)),
            Poll::Pending => Ok(()),
        }
    }

    /// Begins the graceful shutdown of the connection. Requests in flight are still answered (RFC 9113 section 6.8).
    fn begin_ending(&mut self, end: End) {
        self.ending = Some((end, Instant::now()));
        if let Http::Open(http) = &mut self.http {
            http.graceful_shutdown();
        }
    }

    fn refuse_late_bodies(&mut self) {
        let (now, unfinished) = (Instant::now(), self.seat.limits().unfinished);
        for exchange in &mut self.exchanges {
            if matches!(exchange.stage, Stage::Body { since, .. } if since + unfinished <= now) {
                exchange.stage = Stage::Refused(Refusal::Slow);
            }
        }
    }

    /// Records which responses the client has read, and whether writes are blocked.
    fn note_progress(&mut self) {
        let (now, before) = (Instant::now(), self.sending.len());
        self.sending.retain_mut(|sending| sending.is_left(now));
        if self.sending.len() < before {
            self.since = now;
        }
        self.blocked = self.gauge.blocked().map(|taken| match self.blocked {
            Some((since, then)) if then == taken => (since, taken),
            _ => (now, taken),
        });
    }

    /// Accounts for the buffered octets of the connection. Returns false if the limit over all connections is exceeded.
    fn hold(&mut self) -> bool {
        let bodies: usize = self.exchanges.iter().map(Exchange::held).sum();
        let responses: usize = self.sending.iter().map(|sending| sending.length).sum();
        if bodies + responses == 0 {
            // An idle connection does not keep the capacity for many requests.
            self.exchanges.shrink_to(KEPT_ROOM);
            self.sending.shrink_to(KEPT_ROOM);
        }
        let is_sending = responses > 0 || self.blocked.is_some();
        self.seat.hold(bodies + responses + self.gauge.held() + if is_sending { S::HOLDS } else { 0 })
    }

    /// Waits for the next timeout. The timer is reset only when it fires or would fire too late, and not for each request.
    fn poll_due(&self, context: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<Due> {
        let (at, due) = self.due();
        if at < timer.deadline() {
            timer.as_mut().reset(at);
        }
        while timer.as_mut().poll(context).is_ready() {
            if at <= Instant::now() {
                return Poll::Ready(due);
            }
            timer.as_mut().reset(at);
        }
        Poll::Pending
    }

    /// Returns the next timeout and its action.
    fn due(&self) -> (Instant, Due) {
        let limits = self.seat.limits();
        let greeting = matches!(self.http, Http::Greeting(_)).then_some((self.since + limits.unfinished, Due::Cut));
        let part = self.gauge.begun().map(|since| (since + limits.unfinished, Due::Cut));
        let blocked = self.blocked.map(|(since, _)| (since + limits.unread, Due::Cut));
        let responses = self.sending.iter().map(|sending| (sending.since + limits.unread, Due::Cut));
        let bodies = self.exchanges.iter().filter_map(|exchange| match exchange.stage {
            Stage::Body { since, .. } => Some((since + limits.unfinished, Due::RefuseBodies)),
            _ => None,
        });
        let all = greeting.into_iter().chain(part).chain(blocked).chain(responses).chain(bodies);
        all.fold(self.end_due(), |first, next| if next.0 < first.0 { next } else { first })
    }

    fn end_due(&self) -> (Instant, Due) {
        let limits = self.seat.limits();
        let is_busy = !self.exchanges.is_empty() || !self.sending.is_empty() || self.blocked.is_some();
        let is_patient = self.exchanges.iter().any(|exchange| matches!(exchange.stage, Stage::Others(_)));
        match self.ending {
            Some((end, since)) if is_busy => (since + limits.drain, Due::End(end)),
            Some((end, since)) => (since.max(self.since) + LAST_WORD, Due::End(end)),
            None if is_patient => (self.since + limits.idle.max(LATE), Due::BeginEnding),
            None if self.shared.stop.is_leaving() => (self.since + limits.idle.min(LEAVING_IDLE), Due::BeginEnding),
            None => (self.since + limits.idle, Due::BeginEnding),
        }
    }
}

/// Returns the HTTP/2 settings, with the limits of this module.
fn settings() -> server::Builder {
    let mut settings = server::Builder::new();
    settings
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(FIELDS)
        .initial_window_size(BODY_WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_pending_accept_reset_streams(TAKEN_BACK)
        .max_local_error_reset_streams(Some(MISTAKES))
        .max_concurrent_reset_streams(REMEMBERED);
    settings
}

/// Context of answering a batch of requests.
struct Turn {
    desk: Box<Desk>,
    /// Value of the Date header field.
    date: HeaderValue,
    now: Instant,
}

/// A request without a response so far.
struct Exchange {
    requester: Requester,
    stage: Stage,
}

/// State of a request.
enum Stage {
    /// The body is not complete.
    Body { body: RecvStream, query: Vec<u8>, since: Instant },
    /// The query was forwarded to an upstream.
    Others(Arc<Mailbox>),
    /// The query is complete: at least one octet.
    Query(Vec<u8>),
    /// The response to a forwarded query, with its length before it.
    Said(Vec<u8>),
    /// The request gets an HTTP error.
    Refused(Refusal),
    /// The client has reset the stream.
    Gone,
}

impl Exchange {
    fn begin(request: Request<RecvStream>, respond: SendResponse<Octets>) -> Self {
        let (head, body) = request.into_parts();
        let stage = match doh::read(&head) {
            Ok(Place::Here(query)) => Stage::Query(query),
            Ok(Place::Body) => Stage::Body { body, query: Vec::new(), since: Instant::now() },
            // The body is not read.
            Err(refusal) => Stage::Refused(refusal),
        };
        Self { requester: Requester { respond, only_head: head.method == Method::HEAD }, stage }
    }

    /// Polls the body or the forwarded query. `Ready` if the request can be answered.
    fn poll_complete(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.stage {
            Stage::Body { body, query, .. } => self.stage = ready!(poll_body(context, body, query)),
            Stage::Others(mailbox) => match mailbox.take(context.waker()) {
                Some(framed) => self.stage = Stage::Said(framed),
                None => return Poll::Pending,
            },
            Stage::Query(_) | Stage::Said(_) | Stage::Refused(_) | Stage::Gone => {}
        }
        Poll::Ready(())
    }

    /// Returns the octets buffered for the request.
    fn held(&self) -> usize {
        if let Stage::Body { query, .. } = &self.stage { query.capacity() } else { 0 }
    }
}

fn poll_body(context: &mut Context<'_>, body: &mut RecvStream, query: &mut Vec<u8>) -> Poll<Stage> {
    let stage = loop {
        match ready!(body.poll_data(context)) {
            Some(Ok(data)) if query.len() + data.len() > LONGEST_BODY => break Stage::Refused(Refusal::LongBody),
            Some(Ok(data)) => {
                query.extend_from_slice(&data);
                // Fails only for more octets than were received.
                let _ = body.flow_control().release_capacity(data.len());
            }
            Some(Err(_)) => break Stage::Gone,
            None if query.is_empty() => break Stage::Refused(Refusal::NoQuery),
            None => break Stage::Query(std::mem::take(query)),
        }
    };
    Poll::Ready(stage)
}

/// Handle to send the response of a request.
struct Requester {
    respond: SendResponse<Octets>,
    only_head: bool,
}

impl Requester {
    /// Passes the response to h2. Returns its body, unless there is none or the client has reset the stream.
    fn send(mut self, head: Response<()>, octets: &[u8], now: Instant) -> Option<Sending> {
        // Both calls fail if the client has reset the stream.
        let mut stream = self.respond.send_response(head, self.only_head).ok()?;
        if self.only_head {
            return None;
        }
        let left = Arc::new(AtomicUsize::new(octets.len()));
        let body = Octets { octets: octets.into(), at: 0, left: Arc::clone(&left) };
        stream.send_data(body, true).ok()?;
        Some(Sending { length: octets.len(), left, seen: octets.len(), since: now })
    }
}

/// Progress of a response body that h2 sends.
struct Sending {
    /// Length of the body, in octets.
    length: usize,
    left: Arc<AtomicUsize>,
    /// Octets left at the last check, and the time since which they were left.
    seen: usize,
    since: Instant,
}

impl Sending {
    fn is_left(&mut self, now: Instant) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        if left < self.seen {
            (self.seen, self.since) = (left, now);
        }
        left > 0
    }
}

/// Body of a response, with a shared counter of the octets left.
struct Octets {
    octets: Box<[u8]>,
    at: usize,
    left: Arc<AtomicUsize>,
}

impl Buf for Octets {
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

impl Drop for Octets {
    /// Resets the counter: the body was sent, or its stream was reset.
    fn drop(&mut self) {
        self.left.store(0, Ordering::Relaxed);
    }
}
