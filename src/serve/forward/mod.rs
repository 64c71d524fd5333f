//! The lane: where responses wait for what a resolver says, on one thread of its own and with a bound.
//!
//! ```text
//!   udp.rs, tcp.rs ──▶ Door ──▶ the lane's thread ──▶ resolver.rs ──▶ upstreams
//!        ▲  full: SERVFAIL          │ one task for each
//!        └──────────────────────────┘ the socket, or the connection's mailbox
//! ```
//!
//! A worker that answers for the zones hands a question over and goes on: it never waits for anything here. Whatever the
//! upstreams do, each question that was taken gets a response before stub resolvers give up. A chain of CNAMEs may enter
//! our zones and leave them again: the engine goes on with it, and returns the name for which an upstream is asked next. Not
//! here: the clients that are served, and how a response is written (`answer/outside.rs`). Read next: `resolver.rs`.

mod cache;
mod resolver;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::query_log::LoggedQuery;
use super::{Stop, sys};
use crate::answer::{Failure, ForeignAnswer, Pending, Responder, ResponseSummary, Resumed, Transport};
use crate::liveness::{HEARTBEAT_INTERVAL, Heartbeat, Liveness};
use crate::metrics::{Counters, Event, Metrics, ResponseCounters};
use crate::wire::{MAX_TCP, MAX_UDP, rcode};

use resolver::Resolver;

/// How many questions wait at a time. With two dead upstreams each may hold six sockets.
const ROOM: usize = 256;
/// The largest size of all responses that connections have not taken yet, in octets, and of those of one connection. A
/// client that does not read could otherwise have any number of large ones prepared.
const MAX_MAIL_BYTES: usize = 16 << 20;
const MAX_MAILBOX_BYTES: usize = 256 << 10;
/// How long a question waits at most: stub resolvers give up after 5 s (resolv.conf(5)).
pub(super) const PATIENCE: Duration = Duration::from_millis(4_500);
/// How many questions in a row must fail before it is said that the upstreams do not answer.
const FAILURES: u32 = 8;

/// A server that is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Where it is.
    pub address: SocketAddr,
    /// How it is talked to.
    pub protocol: Protocol,
}

/// How a server is talked to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Over UDP, and TCP where that is not enough.
    Plain,
    /// DNS over TLS (RFC 7858). The certificate is one for this name; where there is none, for the server's address.
    Tls(Option<Box<str>>),
}

/// Resolvers that are ready to be asked.
pub struct Forwarder {
    names: Option<Resolver>,
    aliases: Option<Resolver>,
}

impl Forwarder {
    /// Asks `names` for names outside the zones, and `aliases` for those that our CNAMEs lead to; where one of them is
    /// empty, the other is asked for both.
    ///
    /// # Errors
    ///
    /// One sentence: no certificate authorities can be found to judge an upstream with TLS by, or a name that no
    /// certificate can be for.
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

    /// Starts the lane for the questions of `responder`. Questions outstanding when `stop` is signalled get a response
    /// within `drain` ([`super::Limits::drain`]).
    pub(super) fn start(
        self,
        responder: Arc<Responder>,
        metrics: &Arc<Metrics>,
        liveness: &Liveness,
        stop: &Stop,
        drain: Duration,
    ) -> Result<Lane> {
        // A socket for each question, beside those of the connections.
        sys::raise_file_limit();
        let (sender, receiver) = mpsc::channel(ROOM);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the lane of questions for others")?;
        let (metrics, stop) = (Arc::clone(metrics), stop.clone());
        let heartbeat = liveness.heartbeat("forward");
        let run = move || runtime.block_on(serve(self, responder, receiver, (metrics, heartbeat), (stop, drain)));
        let thread = thread::Builder::new().name("forward".into()).spawn(run);
        let thread = thread.context("cannot start the thread of questions for others")?;
        Ok(Lane { door: Door { sender, room: Arc::new(Semaphore::new(ROOM)) }, thread })
    }
}

/// The lane while it runs.
pub(super) struct Lane {
    /// Ends with the last of its clones.
    door: Door,
    thread: thread::JoinHandle<()>,
}

impl Lane {
    pub(super) fn door(&self) -> Door {
        self.door.clone()
    }

    /// Returns once every question is answered. Nobody else has the door any more.
    pub(super) async fn ended(self) {
        let Self { door, thread } = self;
        let room = Arc::clone(&door.room);
        drop(door);
        // Every place is given back with its response.
        let _ = room.acquire_many(ROOM as u32).await;
        let _ = thread.join();
    }
}

/// Where questions are handed over.
#[derive(Clone)]
pub(super) struct Door {
    sender: mpsc::Sender<Asked>,
    room: Arc<Semaphore>,
}

impl Door {
    /// Takes a question, or gives it back: there is no room.
    pub(super) fn hand(&self, question: Question, way: Way) -> Result<(), Question> {
        let Ok(place) = Arc::clone(&self.room).try_acquire_owned() else { return Err(question) };
        let asked = Asked { question, way, since: Instant::now(), _place: place };
        // As many fit as there are places.
        self.sender.try_send(asked).map_err(|refused| refused.into_inner().question)
    }
}

/// A question for others.
pub(super) struct Question {
    pub(super) pending: Box<Pending>,
    /// The address that is listened on.
    pub(super) listen: SocketAddr,
    /// The query, for its line in the log.
    pub(super) logged: Option<LoggedQuery>,
}

/// Writes the response to a question for which there is no room, and counts it; returns its length.
pub(super) fn refuse(question: &Question, counters: &ResponseCounters, message: &mut [u8]) -> usize {
    let Question { pending, logged, .. } = question;
    counters.counters.count(Event::ForwardFull);
    let failure = Failure::Unreachable(format!("{ROOM} questions wait for an upstream already"));
    let summary = pending.fail(&failure, message);
    counters.responded(&summary);
    if let Some(logged) = logged {
        logged.responded(&counters.counters, pending.peer, pending.transport, &message[..summary.length]);
    }
    summary.length
}

/// How a response goes back.
pub(super) enum Way {
    /// By the socket that the question came by; from the address that was asked, where the socket has several.
    Datagram { socket: Arc<UdpSocket>, from: Option<IpAddr> },
    /// By the connection that the question came by.
    Stream(Arc<Mailbox>),
}

struct Asked {
    question: Question,
    way: Way,
    since: Instant,
    _place: OwnedSemaphorePermit,
}

/// What came for a connection while it did something else.
#[derive(Default)]
pub(super) struct Mailbox(Mutex<Mail>);

#[derive(Default)]
struct Mail {
    /// How many responses have yet to come.
    waiting: usize,
    /// Those that came, each behind its length (RFC 1035 section 4.2.2).
    octets: Vec<u8>,
    /// Their share of [`MAX_MAIL_BYTES`].
    share: Option<OwnedSemaphorePermit>,
    reader: Option<Waker>,
}

impl Mailbox {
    /// One more will come.
    pub(super) fn expect(&self) {
        self.lock().waiting += 1;
    }

    /// One that was expected was refused.
    pub(super) fn forget(&self) {
        self.lock().waiting -= 1;
    }

    /// Whether anything is or will be here.
    pub(super) fn is_awaited(&self) -> bool {
        let mail = self.lock();
        mail.waiting > 0 || !mail.octets.is_empty()
    }

    /// What is here; where that is nothing, `reader` is woken when something is.
    pub(super) fn take(&self, reader: &Waker) -> Option<Vec<u8>> {
        let mut mail = self.lock();
        if mail.octets.is_empty() {
            if !mail.reader.as_ref().is_some_and(|known| known.will_wake(reader)) {
                mail.reader = Some(reader.clone());
            }
            return None;
        }
        mail.share = None;
        Some(std::mem::take(&mut mail.octets))
    }

    /// Returns whether a response of this length can be delivered; otherwise a short one has to do.
    fn has_room(&self, length: usize) -> bool {
        self.lock().octets.len() + length <= MAX_MAILBOX_BYTES
    }

    fn deliver(&self, response: &[u8], share: Option<OwnedSemaphorePermit>) {
        let mut mail = self.lock();
        mail.waiting -= 1;
        match (&mut mail.share, share) {
            (Some(held), Some(share)) => held.merge(share),
            (held, share) => *held = held.take().or(share),
        }
        mail.octets.extend_from_slice(&(response.len() as u16).to_be_bytes());
        mail.octets.extend_from_slice(response);
        if let Some(reader) = mail.reader.take() {
            reader.wake();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Mail> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs one task for each question, until the last sender is gone and every question has its response.
async fn serve(
    forwarder: Forwarder,
    responder: Arc<Responder>,
    mut receiver: mpsc::Receiver<Asked>,
    (metrics, heartbeat): (Arc<Metrics>, Heartbeat),
    (stop, drain): (Stop, Duration),
) {
    let (counters, places) = (metrics.worker(), Mutex::default());
    let (hurry, health, mail) = (Stop::default(), Mutex::default(), Arc::new(Semaphore::new(MAX_MAIL_BYTES)));
    let lane = Arc::new(Shared { forwarder, responder, metrics, counters, places, mail, hurry, health });
    let mut tasks = JoinSet::new();
    let mut drained = pin!(async {
        stop.wait().await;
        sleep(drain).await;
        lane.hurry.tell();
        std::future::pending::<Infallible>().await
    });
    let mut ticks = interval(HEARTBEAT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_open = true;
    while is_open || !tasks.is_empty() {
        tokio::select! {
            never = &mut drained => match never {},
            _ = ticks.tick() => heartbeat.beat(),
            asked = receiver.recv(), if is_open => match asked {
                Some(asked) => _ = tasks.spawn(answer(Arc::clone(&lane), asked)),
                None => is_open = false,
            },
            // Each sends its response itself; a panic is counted by its hook.
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// What the tasks of the lane share.
struct Shared {
    forwarder: Forwarder,
    responder: Arc<Responder>,
    metrics: Arc<Metrics>,
    counters: Arc<Counters>,
    /// Counters of responses, by where the questions came in.
    places: Mutex<BTreeMap<(SocketAddr, Transport), ResponseCounters>>,
    /// The rest of [`MAX_MAIL_BYTES`].
    mail: Arc<Semaphore>,
    /// Signalled at the end of the drain: outstanding questions get SERVFAIL at once.
    hurry: Stop,
    health: Mutex<Health>,
}

/// Whether upstreams answer.
#[derive(Default)]
struct Health {
    /// Failures in a row.
    failures: u32,
}

impl Shared {
    /// Counts a response. Only the lane's thread does.
    fn count(&self, asked: &Asked, message: &[u8], summary: &ResponseSummary) {
        let Asked { question: Question { pending, listen, logged }, since, .. } = asked;
        let transport = pending.transport;
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry((*listen, transport));
        let counters =
            place.or_insert_with(|| ResponseCounters::new(self.metrics.worker_at(*listen, transport), transport));
        counters.responded(summary);
        counters.took(since.elapsed());
        if let Some(logged) = logged {
            logged.responded(&counters.counters, pending.peer, pending.transport, &message[..summary.length]);
        }
    }

    /// Says so when upstreams stop answering, and when they answer again.
    fn note(&self, answer: &Result<Arc<ForeignAnswer>, Unanswered>) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Err(Unanswered { failure, dead: true }) => {
                health.failures = health.failures.saturating_add(1);
                if health.failures == FAILURES {
                    tracing::warn!("the upstreams do not answer: {}", failure.text());
                }
            }
            _ if health.failures >= FAILURES => {
                health.failures = 0;
                tracing::info!("the upstreams answer again");
            }
            _ => health.failures = 0,
        }
    }
}

/// Why there is no answer.
struct Unanswered {
    failure: Failure,
    /// No upstream was heard of, as against one that says that it failed.
    dead: bool,
}

/// Completes the response, with the answers of upstreams that it needs, and sends it.
async fn answer(lane: Arc<Shared>, mut asked: Asked) {
    lane.counters.count(Event::Forwarded);
    let pending = &mut asked.question.pending;
    let mut message = vec![0; if pending.transport.is_datagram() { MAX_UDP } else { MAX_TCP }];
    let completed = complete(&lane, pending, asked.since, &mut message).await;
    let mut summary = completed.unwrap_or_else(|unanswered| pending.fail(&unanswered.failure, &mut message));
    let mut share = None;
    if let Way::Stream(mailbox) = &asked.way {
        share = Arc::clone(&lane.mail).try_acquire_many_owned(summary.length as u32).ok();
        if share.is_none() || !mailbox.has_room(summary.length) {
            let failure = Failure::Unreachable("too many responses wait until the client reads them".into());
            summary = pending.fail(&failure, &mut message);
            share = None;
        }
    }
    if summary.rcode == rcode::SERVFAIL {
        lane.counters.count(Event::ForwardFailed);
    }
    lane.count(&asked, &message, &summary);
    let response = &message[..summary.length];
    let Asked { question: Question { pending, .. }, way, .. } = &asked;
    match way {
        Way::Datagram { socket, from } => {
            if sys::send(socket, response, pending.peer.from, *from).is_err() {
                lane.counters.count(Event::SendErrors);
            }
        }
        Way::Stream(mailbox) => mailbox.deliver(response, share),
    }
}

/// Writes the response into `message`. The chain of CNAMEs bounds the number of turns.
async fn complete(
    lane: &Arc<Shared>,
    pending: &mut Pending,
    since: Instant,
    message: &mut [u8],
) -> Result<ResponseSummary, Unanswered> {
    let mut answer = None;
    loop {
        let resume = || lane.responder.resume(pending, answer.as_deref(), message);
        match catch_unwind(AssertUnwindSafe(resume)) {
            Ok(Resumed::Complete(summary)) => return Ok(summary),
            Ok(Resumed::Ask) => {}
            Err(_) => return Err(Unanswered::panicked()),
        }
        let looked_up = look_up(lane, pending, since).await;
        lane.note(&looked_up);
        answer = Some(looked_up?);
    }
}

async fn look_up(lane: &Arc<Shared>, pending: &Pending, since: Instant) -> Result<Arc<ForeignAnswer>, Unanswered> {
    let (is_alias, name, qtype) = (pending.is_alias(), pending.name().clone(), pending.qtype());
    // A task of its own, so that a panic in it is one failure.
    let (mut tasks, shared) = (JoinSet::new(), Arc::clone(lane));
    tasks.spawn(async move {
        match shared.forwarder.resolver(is_alias) {
            Some(resolver) => resolver.look_up(&name, qtype).await,
            None => Err(Unanswered::ours("there is no upstream")),
        }
    });
    tokio::select! {
        Some(looked_up) = tasks.join_next() => looked_up.unwrap_or_else(|_| Err(Unanswered::panicked())),
        () = sleep_until(since + PATIENCE) => Err(Unanswered::late()),
        () = lane.hurry.wait() => Err(Unanswered::ours("the server stops")),
    }
}

impl Unanswered {
    fn late() -> Self {
        let text = format!("no upstream answered within {} s", PATIENCE.as_secs_f32());
        Self { failure: Failure::Unreachable(text), dead: true }
    }

    fn panicked() -> Self {
        Self::ours("a mistake of this server's")
    }

    fn ours(text: &str) -> Self {
        Self { failure: Failure::Unreachable(text.into()), dead: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_wakes_who_found_nothing() {
        let mailbox = Mailbox::default();
        mailbox.expect();
        mailbox.expect();
        assert!(mailbox.is_awaited());
        assert_eq!(mailbox.take(Waker::noop()), None);
        mailbox.deliver(b"one", None);
        mailbox.forget();
        assert!(mailbox.is_awaited(), "one is here");
        assert_eq!(mailbox.take(Waker::noop()), Some(b"\x00\x03one".to_vec()));
        assert!(!mailbox.is_awaited());
    }

    #[test]
    fn a_mailbox_gives_back_its_share_when_it_is_read_or_dropped() {
        let (budget, mailbox) = (Arc::new(Semaphore::new(MAX_MAIL_BYTES)), Mailbox::default());
        let response = vec![0; MAX_TCP];
        let share = || Arc::clone(&budget).try_acquire_many_owned(MAX_TCP as u32).ok();
        let fill = |mailbox: &Mailbox| {
            while mailbox.has_room(response.len()) {
                mailbox.expect();
                mailbox.deliver(&response, share());
            }
        };
        fill(&mailbox);
        assert_eq!(budget.available_permits(), MAX_MAIL_BYTES - 3 * MAX_TCP);
        assert!(mailbox.take(Waker::noop()).is_some_and(|octets| octets.len() == 3 * (MAX_TCP + 2)));
        assert_eq!(budget.available_permits(), MAX_MAIL_BYTES);
        fill(&mailbox);
        drop(mailbox);
        assert_eq!(budget.available_permits(), MAX_MAIL_BYTES);
    }
}
