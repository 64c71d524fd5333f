//! Streams: one task per connection, which reads what is there, has every complete query in it answered, and writes
//! all the responses at once (RFC 7766 sections 6.2.1.1 and 7, RFC 9210).
//!
//! The loop works over any [`Stream`], so that encryption is only a wrapper: a connection that is encrypted begins with
//! its handshake, in its own task, and its seat is taken before. The large buffers belong to whoever is at
//! work and not to connections: an idle one holds its task and nothing else. A message that is not complete, and
//! responses that the client does not take, are held in the smallest room that fits, for a limited time; as long as
//! responses wait, nothing more is read. Not here: how many may connect (`seats.rs`), and what is said before the first
//! query (`encrypted/`). Read next: `answer.rs`.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::encrypted::Handshakes;
use super::forward::{self, Door, Mailbox, Question, Way};
use super::query_log::{Tap, Ticket};
use super::seats::{Admission, Seat, Seats};
use super::takeover::Registered;
use super::{Kind, Limits, ListenAddress, Phase, Stop};
use crate::answer::{Peer, Pending, Reply, Responder, Worker};
use crate::metrics::{Counters, Event, Metrics};

/// The largest message: its length is two octets (RFC 1035 section 4.2.2).
pub(super) const MESSAGE: usize = 65_535;
/// How much one read asks for.
const READ: usize = 16 << 10;
/// Responses are written when there are so many octets of them.
const FULL: usize = 16 << 10;
/// How many reads, or writes of [`FULL`] octets, before the others have their turn.
const TURNS: usize = 4;
/// Once we are about to stop, how long a connection stays open after its last reply.
pub(super) const LEAVING_IDLE: Duration = Duration::from_millis(500);
/// When we stop, how long a quiet connection stays open for a query that is on its way.
pub(super) const LAST_WORD: Duration = Duration::from_millis(100);
/// After our last octet, how long the client has to take it. Closed with a query unread, the kernel throws away
/// responses that are on their way.
pub(super) const LINGER: Duration = Duration::from_millis(250);
/// How long a connection is kept, whatever else, that waits for what others say: longer than that takes.
pub(super) const LATE: Duration = forward::PATIENCE.saturating_mul(2);
/// The shortest and longest pause after a failed accept.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// What all connections of an address share; all but `listen`, `stop` and `desks` with those of the other addresses.
pub(super) struct Shared {
    /// What is listened on; figures are told apart by it.
    pub(super) listen: ListenAddress,
    pub(super) responder: Arc<Responder>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) limits: Limits,
    pub(super) stop: Stop,
    /// Where questions for others are handed over.
    pub(super) door: Option<Door>,
    pub(super) seats: Arc<Seats>,
    pub(super) tap: Tap,
    /// Desks that nobody works at. There are as many in all as threads ever worked at one time.
    #[allow(clippy::vec_box, reason = "a desk moves twice each turn: as a pointer")]
    desks: Mutex<Vec<Box<Desk>>>,
}

impl Shared {
    pub(super) fn new(responder: Arc<Responder>, metrics: Arc<Metrics>, limits: Limits, stop: Stop) -> Self {
        let seats = Arc::new(Seats::new(limits));
        let listen = ListenAddress::plain(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
        let (tap, desks) = (Tap::default(), Mutex::default());
        Self { listen, responder, metrics, limits, stop, door: None, seats, tap, desks }
    }

    /// The same for one address, which can be told to stop alone.
    pub(super) fn for_place(&self, listen: ListenAddress, stop: Stop) -> Self {
        Self {
            listen,
            responder: Arc::clone(&self.responder),
            metrics: Arc::clone(&self.metrics),
            limits: self.limits,
            stop,
            door: self.door.clone(),
            seats: Arc::clone(&self.seats),
            tap: self.tap.clone(),
            desks: Mutex::default(),
        }
    }

    /// A seat for a connection that was accepted; none where its client has too many. Both are counted.
    pub(super) fn admit(&self, counters: &Counters, client: IpAddr) -> Option<Seat> {
        counters.count(Event::TcpAccepted);
        match self.seats.admit(client) {
            Admission::Seated(seat) => Some(seat),
            Admission::SeatedForAnother(seat) => {
                counters.count(Event::TcpOverLimit);
                Some(seat)
            }
            Admission::Refused => {
                counters.count(Event::TcpOverLimit);
                counters.count(Event::TcpClosed);
                None
            }
        }
    }

    /// Hands a question over; what comes of it will be in the mailbox, which is made for the first.
    #[cold]
    pub(super) fn hand_over(&self, question: Question, mailbox: &mut Option<Arc<Mailbox>>) -> Result<(), Question> {
        let Some(door) = &self.door else { return Err(question) };
        let mailbox = mailbox.get_or_insert_default();
        mailbox.expect();
        door.hand(question, Way::Stream(Arc::clone(mailbox))).inspect_err(|_| mailbox.forget())
    }

    /// Answers one message that came whole, behind its length, as it would come over TCP.
    #[cfg(feature = "quic")]
    pub(super) fn answer(&self, peer: Peer, framed: &[u8]) -> Answer {
        let (mut desk, mut mailbox) = (self.take_desk(), None);
        desk.input[..framed.len()].copy_from_slice(framed);
        let answered = desk.answer(&self.responder, peer, framed.len(), |pending, ticket| {
            self.hand_over(Question { pending, listen: self.listen.address, ticket }, &mut mailbox)
        });
        let answer = match mailbox {
            _ if answered.written > 0 => Answer::Here(desk.output[..answered.written].to_vec()),
            Some(mailbox) => Answer::Later(mailbox),
            None => Answer::Nothing,
        };
        desk.worker.end_batch(Instant::now().into_std());
        desk.worker.rest();
        self.give_back(desk);
        answer
    }

    /// A desk for the length of one turn.
    pub(super) fn take_desk(&self) -> Box<Desk> {
        let free = self.desks.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| {
            let counters = self.metrics.worker_at(self.listen.address, self.listen.kind.transport().proto());
            Box::new(Desk::new(counters, self.tap.clone(), self.listen.kind))
        })
    }

    /// One that a panic kept from being given back is not missed: its counters are in the metrics.
    pub(super) fn give_back(&self, desk: Box<Desk>) {
        self.desks.lock().unwrap_or_else(PoisonError::into_inner).push(desk);
    }
}

/// What becomes of one message.
#[cfg(feature = "quic")]
pub(super) enum Answer {
    /// The response, behind its length.
    Here(Vec<u8>),
    /// The same will be in the mailbox.
    Later(Arc<Mailbox>),
    /// It deserves none.
    Nothing,
}

/// The listening socket, in this runtime.
pub(super) fn listener(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    TcpListener::from_std(listener)
}

/// One address that is listened on.
pub(super) struct Place {
    /// Somebody keeps the listening socket, and the connections that wait in it.
    pub(super) kept: bool,
    pub(super) shared: Arc<Shared>,
    /// What its connections begin with; `None` where they are plain.
    pub(super) handshakes: Option<Handshakes>,
    /// As long as it lives, another process can have the sockets.
    pub(super) registered: Option<Registered>,
}

/// Accepts connections until told to stop, and then until the last of them has ended.
pub(super) async fn listen(listener: TcpListener, place: Place) {
    let Place { kept, shared, handshakes, registered } = place;
    let mut leaving = pin!(shared.stop.wait_for(Phase::Leaving));
    let mut told_to_leave = false;
    let counters = shared.metrics.worker();
    let mut host = Host { counters, tasks: JoinSet::new(), shared: &shared, handshakes };
    let mut pause = Pause::default();
    loop {
        tokio::select! {
            biased;
            () = shared.stop.wait() => break,
            () = &mut leaving, if !told_to_leave => {
                told_to_leave = true;
                shared.seats.wake_all();
            }
            Some(ended) = host.tasks.join_next() => count_end(&host.counters, &ended),
            accepted = pause.then_accept(&listener) => match accepted {
                Ok((stream, client)) => host.welcome(stream, client),
                Err(error) => {
                    pause.lengthen();
                    host.count_failure(&error);
                }
            },
        }
    }
    // Its copies of the sockets are closed with ours.
    drop(registered);
    shared.seats.wake_all();
    if !kept && !shared.stop.is_handed_over() {
        host.welcome_the_last(listener);
    } else {
        // Who waits in it is for the others who have it.
        drop(listener);
    }
    host.see_all_off().await;
}

/// The parent of one address's connections.
struct Host<'h> {
    counters: Arc<Counters>,
    tasks: JoinSet<End>,
    shared: &'h Arc<Shared>,
    handshakes: Option<Handshakes>,
}

impl Host<'_> {
    fn welcome(&mut self, stream: TcpStream, client: SocketAddr) {
        let Some(seat) = self.shared.admit(&self.counters, client.ip()) else { return };
        let mut to = self.shared.listen.address;
        if to.ip().is_unspecified() {
            // Which of ours was asked. Fails only where the connection has already failed, which its first read tells.
            to = stream.local_addr().unwrap_or(to);
        }
        let (closer, peer, shared) = (seat.closer(), Peer { from: client, to }, Arc::clone(self.shared));
        closer.set(match &self.handshakes {
            None => self.tasks.spawn(Connection::new(stream, peer, seat, shared).run()),
            Some(handshakes) => handshakes.spawn(&mut self.tasks, stream, peer, seat, shared),
        });
    }

    /// Those who had connected before we stopped listening. The kernel resets connections that nobody accepted.
    fn welcome_the_last(&mut self, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else { return };
        while let Ok((stream, client)) = listener.accept() {
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                self.welcome(stream, client);
            }
        }
    }

    /// All have heard that we stop, and end by themselves, unless their client keeps them.
    async fn see_all_off(&mut self) {
        let deadline = Instant::now() + self.shared.limits.drain;
        while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, self.tasks.join_next()).await {
            count_end(&self.counters, &ended);
        }
        self.tasks.abort_all();
        while let Some(ended) = self.tasks.join_next().await {
            count_end(&self.counters, &ended);
        }
    }

    fn count_failure(&self, error: &io::Error) {
        self.counters.count(Event::TcpAcceptErrors);
        // Out of file descriptors is a limit like ours on connections, and so is the remedy.
        if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) && self.shared.seats.evict() {
            self.counters.count(Event::TcpOverLimit);
        }
    }
}

/// Counts how the task of a connection ended.
pub(super) fn count_end(counters: &Counters, ended: &Result<End, JoinError>) {
    counters.count(Event::TcpClosed);
    match ended {
        Ok(End::Idle) => counters.count(Event::TcpIdle),
        Ok(End::Slow) => counters.count(Event::TcpSlow),
        Ok(End::Closed | End::Refused | End::Stopped) => {}
        Err(error) if error.is_panic() => counters.count(Event::Panics),
        // Closed in favour of another, which is counted.
        Err(_) => {}
    }
}

/// After a failure to accept, the same would most likely happen at once again, and again.
#[derive(Default)]
struct Pause {
    length: Duration,
    until: Option<Instant>,
}

impl Pause {
    async fn then_accept(&mut self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        if let Some(until) = self.until {
            sleep_until(until).await;
        }
        let accepted = listener.accept().await?;
        *self = Self::default();
        Ok(accepted)
    }

    fn lengthen(&mut self) {
        self.length = (self.length * 2).clamp(PAUSES.0, PAUSES.1);
        self.until = Some(Instant::now() + self.length);
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client closed it, or it broke.
    Closed,
    /// The client sent what deserves no response.
    Refused,
    /// Nothing was asked for too long.
    Idle,
    /// The client was too slow in sending a message or in taking responses.
    Slow,
    /// We stop.
    Stopped,
}

/// What a connection is over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// How many octets it may have taken and not passed on.
    const HOLDS: usize;
    /// It says that it ends: without that, the client would have to think that something was cut off.
    const SAYS_ITS_END: bool;

    /// What it has read and cannot give yet, where that is so: since when, and how many octets.
    fn part(&self) -> Option<(Instant, usize)>;
}

impl Stream for TcpStream {
    const HOLDS: usize = 0;
    const SAYS_ITS_END: bool = false;

    fn part(&self) -> Option<(Instant, usize)> {
        None
    }
}

/// A client's connection.
pub(super) struct Connection<S> {
    stream: S,
    peer: Peer,
    seat: Seat,
    shared: Arc<Shared>,
    /// What was read and not answered: the begin of a message, or whole ones while responses wait.
    unread: Vec<u8>,
    /// Responses that the client did not take yet. Boxed, because most have none.
    unsent: Option<Box<Unsent>>,
    /// When something last moved: a message begun or complete, octets of responses taken.
    since: Instant,
    /// Where responses come that were not here when their questions were read.
    mailbox: Option<Arc<Mailbox>>,
    /// What ends it once all responses are sent.
    ending: Option<End>,
    /// When it heard that we stop.
    stopping: Option<Instant>,
}

/// Responses that wait. Where all octets are taken, the stream has yet to pass them on, as encryption does.
struct Unsent {
    octets: Vec<u8>,
    taken: usize,
}

impl<S: Stream> Connection<S> {
    pub(super) fn new(stream: S, peer: Peer, seat: Seat, shared: Arc<Shared>) -> Self {
        let since = Instant::now();
        let (unread, unsent, mailbox, ending, stopping) = (Vec::new(), None, None, None, None);
        Self { stream, peer, seat, shared, unread, unsent, since, mailbox, ending, stopping }
    }

    /// Answers until there is a reason not to.
    #[allow(clippy::manual_async_fn, reason = "an async fn holds its arguments twice: half as much memory again")]
    pub(super) fn run(mut self) -> impl Future<Output = End> {
        async move {
            let end = {
                let mut timer = pin!(sleep_until(self.deadline()));
                poll_fn(|context| self.poll_end(context, timer.as_mut())).await
            };
            match end {
                // The client takes what was sent to it, or does not.
                End::Refused | End::Stopped => _ = timeout(LINGER, self.finish()).await,
                End::Closed | End::Idle if S::SAYS_ITS_END => _ = timeout(LINGER, self.stream.shutdown()).await,
                End::Closed | End::Idle | End::Slow => {}
            }
            end
        }
    }

    fn poll_end(&mut self, context: &mut Context<'_>, timer: Pin<&mut Sleep>) -> Poll<End> {
        self.seat.wake_at_stop(context.waker());
        if self.stopping.is_none() && self.shared.stop.told() {
            self.stopping = Some(Instant::now());
        }
        for _ in 0..TURNS {
            match self.poll_turn(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => return self.poll_deadline(context, timer),
            }
        }
        // There is more, but the others too want to be served.
        context.waker().wake_by_ref();
        self.poll_deadline(context, timer)
    }

    /// When the client has been too slow, or we have waited long enough.
    fn deadline(&self) -> Instant {
        let limits = self.seat.limits();
        match (self.stopping, self.begun()) {
            _ if self.unsent.is_some() => self.since + limits.unread,
            (_, Some(begun)) => begun + limits.unfinished,
            _ if self.awaits() => self.since + limits.idle.max(LATE),
            (Some(stopping), None) => stopping + LAST_WORD,
            (None, None) if self.shared.stop.is_leaving() => self.since + limits.idle.min(LEAVING_IDLE),
            (None, None) => self.since + limits.idle,
        }
    }

    /// Since when a message has been coming.
    fn begun(&self) -> Option<Instant> {
        if self.unread.is_empty() { self.stream.part().map(|(since, _)| since) } else { Some(self.since) }
    }

    /// The timer is moved when it fires and when it would fire too late: not with each query.
    fn poll_deadline(&self, context: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<End> {
        let deadline = self.deadline();
        if deadline < timer.deadline() {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(context).is_ready() {
            if deadline <= Instant::now() {
                return Poll::Ready(self.at_deadline());
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    fn at_deadline(&self) -> End {
        match self.stopping {
            _ if self.unsent.is_some() || self.begun().is_some() => End::Slow,
            Some(_) => End::Stopped,
            None if self.shared.stop.is_leaving() => End::Stopped,
            None => End::Idle,
        }
    }

    /// Whether a response has yet to come.
    fn awaits(&self) -> bool {
        self.mailbox.as_ref().is_some_and(|mailbox| mailbox.is_awaited())
    }

    /// One step: sends what waits, reads, answers and sends again. Ready where there may be more to do.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.unsent.is_some() {
            ready!(self.poll_send(context))?;
        }
        if let Some(responses) = self.mailbox.as_ref().and_then(|mailbox| mailbox.take(context.waker())) {
            self.since = Instant::now();
            return Poll::Ready(self.send(context, &responses));
        }
        if let Some(end) = self.ending {
            return if self.awaits() { Poll::Pending } else { Poll::Ready(Err(end)) };
        }
        let mut desk = self.shared.take_desk();
        let turn = self.poll_desk(context, &mut desk);
        self.shared.give_back(desk);
        turn
    }

    fn poll_desk(&mut self, context: &mut Context<'_>, desk: &mut Desk) -> Poll<Result<(), End>> {
        let filled = match ready!(self.poll_read(context, desk)) {
            Ok(filled) => filled,
            Err(end) => {
                // The client may have said that it asks no more, and wait for what is to come.
                self.ending = Some(end);
                return Poll::Ready(Ok(()));
            }
        };
        let (shared, mailbox) = (&self.shared, &mut self.mailbox);
        let hand_over = |pending, ticket| {
            let question = Question { pending, listen: shared.listen.address, ticket };
            shared.hand_over(question, mailbox)
        };
        let answered = desk.answer(&shared.responder, self.peer, filled, hand_over);
        self.ending = answered.refused.then_some(End::Refused);
        self.keep_unread(&desk.input[answered.read..filled], answered.read > 0);
        let sent = self.send(context, &desk.output[..answered.written]);
        desk.worker.end_batch(Instant::now().into_std());
        desk.worker.rest();
        Poll::Ready(sent)
    }

    /// Puts what is unread and what comes now on the desk, and returns how much that is.
    fn poll_read(&mut self, context: &mut Context<'_>, desk: &mut Desk) -> Poll<Result<usize, End>> {
        let kept = self.unread.len();
        if whole_message(&self.unread).is_some() {
            desk.input[..kept].copy_from_slice(&self.unread);
            return Poll::Ready(Ok(kept));
        }
        let mut room = ReadBuf::new(&mut desk.input[kept..][..READ]);
        match Pin::new(&mut self.stream).poll_read(context, &mut room) {
            Poll::Ready(Ok(())) if !room.filled().is_empty() => {}
            Poll::Ready(_) => return Poll::Ready(Err(End::Closed)),
            Poll::Pending => return self.hold().map_or_else(|end| Poll::Ready(Err(end)), |()| Poll::Pending),
        }
        let filled = kept + room.filled().len();
        desk.input[..kept].copy_from_slice(&self.unread);
        Poll::Ready(Ok(filled))
    }

    fn keep_unread(&mut self, rest: &[u8], answered: bool) {
        let now = Instant::now();
        if answered {
            self.seat.asked(now.into_std());
        }
        if answered || self.unread.is_empty() {
            self.since = now;
        }
        // Also where nothing remains: it frees what was kept.
        self.unread = rest.to_vec();
    }

    /// Sends what the stream takes now, straight from the desk, and keeps the rest.
    fn send(&mut self, context: &mut Context<'_>, responses: &[u8]) -> Result<(), End> {
        let mut at = 0;
        while at < responses.len() {
            match Pin::new(&mut self.stream).poll_write(context, &responses[at..]) {
                Poll::Ready(Ok(taken)) if taken > 0 => at += taken,
                Poll::Ready(_) => return Err(End::Closed),
                Poll::Pending => break,
            }
        }
        let flushed = at == responses.len() && self.poll_flush(context)?.is_ready();
        if !flushed {
            self.unsent = Some(Box::new(Unsent { octets: responses[at..].to_vec(), taken: 0 }));
        }
        self.hold()
    }

    /// Sends what waits.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        while let Some(unsent) = &mut self.unsent
            && unsent.taken < unsent.octets.len()
        {
            match ready!(Pin::new(&mut self.stream).poll_write(context, &unsent.octets[unsent.taken..])) {
                Ok(taken) if taken > 0 => unsent.taken += taken,
                _ => return Poll::Ready(Err(End::Closed)),
            }
            self.since = Instant::now();
        }
        ready!(self.poll_flush(context))?;
        self.unsent = None;
        Poll::Ready(self.hold())
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        Pin::new(&mut self.stream).poll_flush(context).map_err(|_| End::Closed)
    }

    /// Accounts for what is held.
    fn hold(&mut self) -> Result<(), End> {
        let unsent = self.unsent.as_ref().map_or(0, |unsent| unsent.octets.len() + S::HOLDS);
        let part = self.stream.part().map_or(0, |(_, octets)| octets);
        if self.seat.hold(self.unread.len() + unsent + part) { Ok(()) } else { Err(End::Slow) }
    }

    /// Says that nothing more will come, and waits until the client says so too.
    async fn finish(&mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        poll_fn(|context| {
            let mut desk = self.shared.take_desk();
            let end = self.poll_discard(context, &mut desk);
            self.shared.give_back(desk);
            end
        })
        .await;
    }

    fn poll_discard(&mut self, context: &mut Context<'_>, desk: &mut Desk) -> Poll<()> {
        loop {
            let mut room = ReadBuf::new(&mut desk.input[..READ]);
            match ready!(Pin::new(&mut self.stream).poll_read(context, &mut room)) {
                Ok(()) if !room.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }
}

/// The first message in `octets`, without its length, if it is complete.
fn whole_message(octets: &[u8]) -> Option<&[u8]> {
    let (length, rest) = octets.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

/// Where messages are answered: the large buffers, and what the responder needs. For one connection at a time.
pub(super) struct Desk {
    pub(super) worker: Worker,
    pub(super) tap: Tap,
    /// What is spoken where it stands.
    kind: Kind,
    /// Room for a message of the largest size that is nearly complete, and for one more read.
    input: Box<[u8]>,
    /// Room for one response of the largest size when it is nearly full.
    pub(super) output: Box<[u8]>,
}

/// What became of the octets on the desk.
struct Answered {
    /// How many were answered.
    read: usize,
    /// How many octets of responses there are.
    written: usize,
    /// The client sent what deserves no response. Nothing behind it is answered.
    refused: bool,
}

impl Desk {
    fn new(counters: Arc<Counters>, tap: Tap, kind: Kind) -> Self {
        let input = vec![0; 2 + MESSAGE + READ].into();
        let output = vec![0; FULL + 2 + MESSAGE].into();
        Self { worker: Worker::new(counters), tap, kind, input, output }
    }

    /// Answers the complete messages of `input[..filled]`, in their order, until there is enough to be written. What
    /// others have to answer is handed over.
    fn answer(
        &mut self,
        responder: &Responder,
        peer: Peer,
        filled: usize,
        mut hand_over: impl FnMut(Box<Pending>, Option<Box<Ticket>>) -> Result<(), Question>,
    ) -> Answered {
        let mut answered = Answered { read: 0, written: 0, refused: false };
        let transport = self.kind.transport();
        let received = Event::received(transport.proto());
        self.worker.begin_batch(Instant::now().into_std());
        while answered.written < FULL
            && let Some(query) = whole_message(&self.input[answered.read..filled])
        {
            self.worker.counters.count(received);
            answered.read += 2 + query.len();
            let room = &mut self.output[answered.written..][..2 + MESSAGE];
            let (length_field, message) = room.split_at_mut(2);
            message[..query.len()].copy_from_slice(query);
            // An empty message is shorter than a header, like others that the responder does not answer.
            let response = match query.len() {
                0 => Reply::None,
                length => self.tap.respond(responder, &mut self.worker, peer, transport, message, length),
            };
            let length = match response {
                Reply::Here(length) => length,
                Reply::Pending(pending) => match hand_over(pending, self.tap.ticket()) {
                    Ok(()) => continue,
                    Err(refused) => forward::refuse(&refused, &self.worker, message),
                },
                Reply::None => {
                    answered.refused = true;
                    break;
                }
            };
            length_field.copy_from_slice(&(length as u16).to_be_bytes());
            answered.written += 2 + length;
        }
        answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Access;
    use crate::names::WireName;
    use crate::names::reverse::ReverseZones;
    use crate::rules::Rules;
    use crate::zone::{Settings, Zone};

    /// The task of an idle connection is what it costs. Tokio adds its own header, and a registration of the socket.
    #[tokio::test]
    async fn an_idle_connection_is_small() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stream, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_stream, (accepted, client)) = (stream.unwrap(), accepted.unwrap());
        let apex = WireName::parse("cluster.local").unwrap();
        let settings = Settings { apexes: vec![apex], ttl: 5, negative_ttl: 5, rules: Rules::default() };
        let zone = Arc::new(Zone::new(settings, ReverseZones::default()));
        let responder = Arc::new(Responder::new(zone, Arc::default(), Access::default()));
        let shared = Shared::new(responder, Arc::default(), Limits::default(), Stop::default());
        let Admission::Seated(seat) = shared.seats.admit(client.ip()) else { panic!("there is room") };
        let connection = Connection::new(accepted, Peer { from: client, to: address }, seat, Arc::new(shared));
        let size = size_of_val(&connection.run());
        assert!(size <= 384, "{size} octets");
    }

    #[test]
    fn whole_messages() {
        for (octets, message) in [
            (&[][..], None),
            (&[0], None),
            (&[0, 0], Some(&[][..])),
            (&[0, 2, 7], None),
            (&[0, 2, 7, 8], Some(&[7, 8])),
            (&[0, 2, 7, 8, 9], Some(&[7, 8])),
        ] {
            assert_eq!(whole_message(octets), message, "{octets:?}");
        }
    }
}
