//! DNS over HTTPS: one task per connection, which speaks HTTP/2 over a stream that is encrypted already, and has the
//! query of each request answered (RFC 8484).
//!
//! HTTP/2 itself is the crate h2. Here is what it leaves open: who waits for how long, and how much is held meanwhile.
//!
//! ```text
//!   h2 ──▶ Exchange: a body that comes ──▶ the desk ──▶ Sending: octets that the client has yet to take ──▶ h2
//!                    or what others say ◀─────┘ forward
//! ```
//!
//! Not here: which requests are worth an answer (`doh.rs`), what passes over the stream meanwhile (`link.rs`), the
//! handshake of TLS and how many may connect (`tls.rs`, `../seats.rs`). Read next: `doh.rs`.

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

/// Requests at a time. Others are refused, and their client may ask them again (RFC 9113 section 5.1.2).
const STREAMS: u32 = 100;
/// The fields of a request's head in octets, as RFC 9113 section 6.5.2 counts them. Above it, 431.
const FIELDS: u32 = 16 << 10;
/// What a client may send of a body unasked: one octet more than the longest message, so that a longer one shows.
const BODY_WINDOW: u32 = LONGEST_BODY as u32 + 1;
/// The same of all bodies together.
const WINDOW: u32 = 4 * BODY_WINDOW;
/// Requests that their client takes back before we have seen them (CVE-2023-44487): above it the connection ends.
const TAKEN_BACK: usize = 20;
/// Requests that are refused for what is wrong with their frames, over the life of a connection: above it, it ends.
const MISTAKES: usize = 100;
/// Requests that we ended, whose late frames are still passed over.
const REMEMBERED: usize = 50;
/// How many rounds of requests before the others have their turn.
const TURNS: usize = 4;
/// Room in lists that is kept for the next requests.
const KEPT_ROOM: usize = 4;

/// Answers requests until there is a reason not to. The stream is encrypted, and HTTP/2 was agreed on.
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
        // The client takes what was sent to it, or does not.
        let _ = timeout(LINGER, link.finish()).await;
    }
    end
}

/// A client's connection.
struct Connection<'c, S> {
    http: Http<'c, S>,
    gauge: Arc<Gauge>,
    peer: Peer,
    seat: &'c mut Seat,
    shared: &'c Arc<Shared>,
    /// Requests that were not answered yet.
    exchanges: Vec<Exchange>,
    /// Responses that the client did not take yet.
    sending: Vec<Sending>,
    /// When it connected, a request last came whole, or a response was last taken.
    since: Instant,
    /// Since when the stream takes nothing, and how much it had taken by then.
    blocked: Option<(Instant, u64)>,
    /// Why no more requests are wanted, and since when.
    ending: Option<(End, Instant)>,
}

/// How far HTTP/2 is.
enum Http<'c, S> {
    /// The client has yet to say that it speaks it.
    Greeting(Handshake<&'c mut Link<S>, Octets>),
    Open(server::Connection<&'c mut Link<S>, Octets>),
}

/// What there is to do where something is too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// The client is too slow: in its greeting, with a frame or a head, in taking what it asked for.
    Cut,
    /// Of at least one request the body.
    RefuseBodies,
    /// Nothing was asked for so long.
    BeginEnding,
    /// Whoever is not done by now will not be.
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
        // There is more, but the others too want to be served.
        context.waker().wake_by_ref();
        Ok(())
    }

    /// One round: takes the requests that are here, answers those that are whole, and sends. Ready where there may be
    /// more to do.
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

    /// Takes all that are here before the first is answered: what they get is then sent together.
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

    /// HTTP/2 is closed: there is nothing to be sent any more.
    fn closed(&self) -> End {
        self.ending.map_or(End::Closed, |(end, _)| end)
    }

    fn closed_by(&self, error: &h2::Error) -> End {
        // A client that made a mistake was told so, and may be about to read it.
        if error.is_library() { End::Refused } else { self.closed() }
    }

    /// Answers requests, and sends as much of it as the client takes now.
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

    /// Answers one that is complete. Where others have to be asked, it waits for them.
    fn answer(&mut self, exchange: Exchange, turn: &mut Turn) -> Result<(), End> {
        let Exchange { requester, stage } = exchange;
        match stage {
            Stage::Query(query) => {
                self.since = turn.now;
                self.seat.asked(turn.now.into_std());
                return self.answer_query(requester, &query, turn);
            }
            // Behind its length, as on a stream without HTTP.
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
            // Only complete ones come here.
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
            // A client that is not allowed, where the server is configured to be silent.
            StreamReply::Drop(DropReason::Source | DropReason::NotAllowed) => return Err(End::Refused),
        };
        let response = &turn.desk.output[..length];
        self.sending.extend(requester.send(doh::head(response, &turn.date), response, turn.now));
        Ok(())
    }

    /// Hands a question over; what comes of it will be in a mailbox of its own: responses may have one ID, all of them.
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

    /// No more requests are wanted. Those that are on their way are answered (RFC 9113 section 6.8).
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

    /// Notes what the client has taken.
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

    /// Accounts for what is held. False if that is too much together with all others.
    fn hold(&mut self) -> bool {
        let bodies: usize = self.exchanges.iter().map(Exchange::held).sum();
        let responses: usize = self.sending.iter().map(|sending| sending.length).sum();
        if bodies + responses == 0 {
            // What many at a time took is not kept by one that is idle.
            self.exchanges.shrink_to(KEPT_ROOM);
            self.sending.shrink_to(KEPT_ROOM);
        }
        let is_sending = responses > 0 || self.blocked.is_some();
        self.seat.hold(bodies + responses + self.gauge.held() + if is_sending { S::HOLDS } else { 0 })
    }

    /// The timer is moved when it fires and when it would fire too late: not with each request.
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

    /// What will be too late next, and when.
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

/// What HTTP/2 may be used for, and how much.
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

/// Where requests are answered, and when.
struct Turn {
    desk: Box<Desk>,
    /// As responses have it.
    date: HeaderValue,
    now: Instant,
}

/// A request that was not answered yet.
struct Exchange {
    requester: Requester,
    stage: Stage,
}

enum Stage {
    /// The query is on its way.
    Body { body: RecvStream, query: Vec<u8>, since: Instant },
    /// Others are asked.
    Others(Arc<Mailbox>),
    /// Here is the query: at least one octet.
    Query(Vec<u8>),
    /// Here is what others said, behind its length.
    Said(Vec<u8>),
    /// It gets no DNS message.
    Refused(Refusal),
    /// The client took it back.
    Gone,
}

impl Exchange {
    fn begin(request: Request<RecvStream>, respond: SendResponse<Octets>) -> Self {
        let (head, body) = request.into_parts();
        let stage = match doh::read(&head) {
            Ok(Place::Here(query)) => Stage::Query(query),
            Ok(Place::Body) => Stage::Body { body, query: Vec::new(), since: Instant::now() },
            // Its body is nobody's.
            Err(refusal) => Stage::Refused(refusal),
        };
        Self { requester: Requester { respond, only_head: head.method == Method::HEAD }, stage }
    }

    /// Ready where nothing is missing any more.
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

    /// In octets.
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
                // Fails only for more than came.
                let _ = body.flow_control().release_capacity(data.len());
            }
            Some(Err(_)) => break Stage::Gone,
            None if query.is_empty() => break Stage::Refused(Refusal::NoQuery),
            None => break Stage::Query(std::mem::take(query)),
        }
    };
    Poll::Ready(stage)
}

/// Who asked.
struct Requester {
    respond: SendResponse<Octets>,
    only_head: bool,
}

impl Requester {
    /// Hands the response to h2. What the client has to open a window for is returned.
    fn send(mut self, head: Response<()>, octets: &[u8], now: Instant) -> Option<Sending> {
        // Both fail where the client has taken its request back.
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

/// A response on its way.
struct Sending {
    /// All of it, in octets.
    length: usize,
    left: Arc<AtomicUsize>,
    /// What was left when we last looked, and since when.
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

/// The body of a response, which tells what is left of it.
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
    /// Sent, or of no use any more.
    fn drop(&mut self) {
        self.left.store(0, Ordering::Relaxed);
    }
}
