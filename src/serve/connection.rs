//! One connection over TCP or TLS: reads, answers every complete query read, and writes all responses at once (RFC 7766
//! sections 6.2.1.1 and 7, RFC 9210).
//!
//! The loop works over any [`Stream`], so that encryption is a wrapper. The large buffers belong to a worker of the
//! pool: an idle connection holds its task and nothing else. An incomplete message, and responses that the client does
//! not read, are kept in buffers of their own size for a limited time; while responses wait, no query is read. Not
//! here: accepting (`tcp.rs`), the limits on connections (`seats.rs`), and handshakes (`encrypted/`). Read next:
//! `desk.rs`.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::desk::{Desk, READ, whole_message};
use super::forward::{Mailbox, Question};
use super::guests::{End, LAST_WORD, LATE, LEAVING_IDLE, LINGER};
use super::place::Shared;
use super::seats::Seat;
use crate::answer::Peer;

/// Maximum number of read-answer-write rounds before the task yields to the others.
const TURNS: usize = 4;

/// A byte stream that carries DNS messages: TCP, or TLS over TCP.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// Maximum number of octets that the stream buffers between a write and the socket.
    const HOLDS: usize;
    /// The stream ends with a message of its own (TLS close_notify), without which the client must assume a truncation.
    const SAYS_ITS_END: bool;

    /// Returns the partial record that the stream has read and cannot deliver yet: the time of its first octet, and its
    /// length.
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
    /// Octets read and not answered: the beginning of a message, or complete messages while responses wait.
    unread: Vec<u8>,
    /// Responses that the client has not read yet. Boxed, because most connections have none.
    unsent: Option<Box<Unsent>>,
    /// Time of the last progress: a message begun or completed, octets of responses written.
    since: Instant,
    /// Queue of responses to forwarded queries. `None` before the first forwarded query.
    mailbox: Option<Arc<Mailbox>>,
    /// Reason for which the connection is closed once all responses are sent.
    ending: Option<End>,
    /// Time at which the task noticed the shutdown.
    stopping: Option<Instant>,
}

/// Responses to be written. When all are, the stream may still have to flush them, as TLS does.
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

    /// Answers queries until the connection is closed, and returns the reason.
    #[allow(clippy::manual_async_fn, reason = "an async fn holds its arguments twice: half as much memory again")]
    pub(super) fn run(mut self) -> impl Future<Output = End> {
        async move {
            let end = {
                let mut timer = pin!(sleep_until(self.deadline()));
                poll_fn(|context| self.poll_end(context, timer.as_mut())).await
            };
            match end {
                // Otherwise responses in flight could be lost with the connection.
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
        // There may be more to read; wakes itself so that other tasks run in between.
        context.waker().wake_by_ref();
        self.poll_deadline(context, timer)
    }

    /// Returns the time at which the connection is closed if nothing happens.
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

    /// Returns the time at which an incomplete message began.
    fn begun(&self) -> Option<Instant> {
        if self.unread.is_empty() { self.stream.part().map(|(since, _)| since) } else { Some(self.since) }
    }

    /// Polls the timer. It is reset when it fires and when it would fire too late, not for each query, which would cost
    /// more.
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

    /// Returns whether the response to a forwarded query is outstanding.
    fn awaits(&self) -> bool {
        self.mailbox.as_ref().is_some_and(|mailbox| mailbox.is_awaited())
    }

    /// Performs one round: writes waiting responses, reads, answers, and writes. Ready if there may be more to do.
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
                // A client that has shut down its sending side may wait for responses.
                self.ending = Some(end);
                return Poll::Ready(Ok(()));
            }
        };
        let (shared, mailbox) = (&self.shared, &mut self.mailbox);
        let hand_over = |pending, logged| {
            let question = Question { pending, listen: shared.listen.address, logged };
            shared.hand_over(question, mailbox)
        };
        let answered = desk.answer(&shared.responder, self.peer, filled, hand_over);
        self.ending = answered.refused.then_some(End::Refused);
        self.keep_unread(&desk.input[answered.read..filled], answered.read > 0);
        let sent = self.send(context, &desk.output[..answered.written]);
        desk.worker.end_batch(Instant::now().into_std());
        Poll::Ready(sent)
    }

    /// Fills the worker's buffer with unanswered octets and one read, and returns their number.
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
        // Also if nothing remains: it frees the former buffer.
        self.unread = rest.to_vec();
    }

    /// Writes responses directly from the worker's buffer, and keeps the octets that the stream does not take.
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

    /// Writes waiting responses.
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

    /// Accounts for the octets that this connection buffers.
    fn hold(&mut self) -> Result<(), End> {
        let unsent = self.unsent.as_ref().map_or(0, |unsent| unsent.octets.len() + S::HOLDS);
        let part = self.stream.part().map_or(0, |(_, octets)| octets);
        if self.seat.hold(self.unread.len() + unsent + part) { Ok(()) } else { Err(End::Slow) }
    }

    /// Shuts down the sending side, and reads until the client shuts down the other.
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::answer::{Access, Responder};
    use crate::names::WireName;
    use crate::names::reverse::ReverseZones;
    use crate::rules::Rules;
    use crate::serve::seats::Admission;
    use crate::serve::{Limits, Stop};
    use crate::zone::{Settings, Zone};

    /// The size of the task is the memory of an idle connection, besides Tokio's header and its registration of the
    /// socket.
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
        let Admission::Seated(seat) = shared.seats.admit(client.ip(), false) else { panic!("there is room") };
        let connection = Connection::new(accepted, Peer { from: client, to: address }, seat, Arc::new(shared));
        let size = size_of_val(&connection.run());
        assert!(size <= 384, "{size} octets");
    }
}
