//! One connection over TCP or TLS: reads, answers every complete query read, and writes all responses at once (RFC 7766
//! sections 6.2.1.1 and 7, RFC 9210).
//!
//! The loop works over any [`Stream`], so that encryption is a wrapper. The large buffers belong to a worker of the
//! pool: an idle connection holds its task and nothing else. An incomplete message, and responses that the client does
//! not read, are kept in buffers of their own size for a limited time; while responses wait, no query is read. Not
//! here: accepting (`stream/acceptor.rs`), the limits on connections (`listener/limiter.rs`), and handshakes (`tls/`,
//! `https/`, `quic/`). Read next: `stream/worker.rs`.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::worker::{BufferedWorker, FLUSH_THRESHOLD_BYTES, MAX_MESSAGE_BYTES, READ_BYTES, StreamReply};
use crate::server::forward::ResponseQueue;
use crate::server::listener::context::ListenerContext;
use crate::server::listener::limiter::ConnectionPermit;
use crate::server::listener::tracker::{
    CloseReason, DRAIN_IDLE_TIMEOUT, FORWARD_IDLE_TIMEOUT, LAME_DUCK_IDLE_TIMEOUT, LINGER_TIMEOUT,
};
use headless_dns_core::answer::Peer;

/// Maximum number of read-answer-write rounds before the task yields to the others.
const READS_PER_POLL: usize = 4;

/// A byte stream that carries DNS messages: TCP, or TLS over TCP.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// Maximum number of octets that the stream buffers between a write and the socket.
    const MAX_BUFFERED_BYTES: usize;
    /// The stream ends with a message of its own (TLS close_notify), without which the client must assume a truncation.
    const HAS_CLOSE_MESSAGE: bool;

    /// Returns the partial record that the stream has read and cannot deliver yet: the time of its first octet, and its
    /// length.
    fn partial(&self) -> Option<(Instant, usize)>;
}

impl Stream for TcpStream {
    const MAX_BUFFERED_BYTES: usize = 0;
    const HAS_CLOSE_MESSAGE: bool = false;

    fn partial(&self) -> Option<(Instant, usize)> {
        None
    }
}

/// A client's connection.
pub(crate) struct Connection<S> {
    stream: S,
    peer: Peer,
    permit: ConnectionPermit,
    context: Arc<ListenerContext>,
    /// Octets read and not answered: the beginning of a message, or complete messages while responses wait.
    read_buf: Vec<u8>,
    /// Responses that the client has not read yet. Boxed, because most connections have none.
    write_buf: Option<Box<WriteBuffer>>,
    /// Time of the last progress: a message begun or completed, octets of responses written.
    last_progress: Instant,
    /// Queue of responses to forwarded queries. `None` before the first forwarded query.
    responses: Option<Arc<ResponseQueue>>,
    /// Reason for which the connection is closed once all responses are sent.
    close_reason: Option<CloseReason>,
    /// Time at which the task noticed the shutdown.
    shutdown_at: Option<Instant>,
}

/// Responses to be written. When all are, the stream may still have to flush them, as TLS does.
struct WriteBuffer {
    octets: Vec<u8>,
    written: usize,
}

impl<S: Stream> Connection<S> {
    pub(crate) fn new(stream: S, peer: Peer, permit: ConnectionPermit, context: Arc<ListenerContext>) -> Self {
        Self {
            stream,
            peer,
            permit,
            context,
            read_buf: Vec::new(),
            write_buf: None,
            last_progress: Instant::now(),
            responses: None,
            close_reason: None,
            shutdown_at: None,
        }
    }

    /// Answers queries until the connection is closed, and returns the reason.
    #[allow(clippy::manual_async_fn, reason = "an async fn holds its arguments twice: half as much memory again")]
    pub(crate) fn run(mut self) -> impl Future<Output = CloseReason> {
        async move {
            let end = {
                let mut timer = pin!(sleep_until(self.deadline()));
                poll_fn(|context| self.poll_end(context, timer.as_mut())).await
            };
            match end {
                // Otherwise responses in flight could be lost with the connection.
                CloseReason::Refused | CloseReason::Stopped => _ = timeout(LINGER_TIMEOUT, self.finish()).await,
                CloseReason::Closed | CloseReason::Idle if S::HAS_CLOSE_MESSAGE => {
                    _ = timeout(LINGER_TIMEOUT, self.stream.shutdown()).await;
                }
                CloseReason::Closed | CloseReason::Idle | CloseReason::Slow => {}
            }
            end
        }
    }

    fn poll_end(&mut self, context: &mut Context<'_>, timer: Pin<&mut Sleep>) -> Poll<CloseReason> {
        self.permit.register_shutdown_waker(context.waker());
        if self.shutdown_at.is_none() && self.context.stop.is_draining() {
            self.shutdown_at = Some(Instant::now());
        }
        for _ in 0..READS_PER_POLL {
            match self.poll_once(context) {
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
        let limits = self.permit.limits();
        match (self.shutdown_at, self.started_at()) {
            _ if self.write_buf.is_some() => self.last_progress + limits.unread,
            (_, Some(started_at)) => started_at + limits.unfinished,
            _ if self.has_pending() => self.last_progress + limits.idle.max(FORWARD_IDLE_TIMEOUT),
            (Some(shutdown_at), None) => shutdown_at + DRAIN_IDLE_TIMEOUT,
            (None, None) if self.context.stop.is_lame_duck() => {
                self.last_progress + limits.idle.min(LAME_DUCK_IDLE_TIMEOUT)
            }
            (None, None) => self.last_progress + limits.idle,
        }
    }

    /// Returns the time at which an incomplete message began.
    fn started_at(&self) -> Option<Instant> {
        if self.read_buf.is_empty() { self.stream.partial().map(|(since, _)| since) } else { Some(self.last_progress) }
    }

    /// Polls the timer. It is reset when it fires and when it would fire too late, not for each query, which would cost
    /// more.
    fn poll_deadline(&self, context: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<CloseReason> {
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

    fn at_deadline(&self) -> CloseReason {
        match self.shutdown_at {
            _ if self.write_buf.is_some() || self.started_at().is_some() => CloseReason::Slow,
            Some(_) => CloseReason::Stopped,
            None if self.context.stop.is_lame_duck() => CloseReason::Stopped,
            None => CloseReason::Idle,
        }
    }

    /// Returns whether the response to a forwarded query is outstanding.
    fn has_pending(&self) -> bool {
        self.responses.as_ref().is_some_and(|queue| queue.is_awaited())
    }

    /// Performs one round: writes waiting responses, reads, answers, and writes. Ready if there may be more to do.
    fn poll_once(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        if self.write_buf.is_some() {
            ready!(self.poll_send(context))?;
        }
        if let Some(responses) = self.responses.as_ref().and_then(|queue| queue.take(context.waker())) {
            self.last_progress = Instant::now();
            return Poll::Ready(self.send(context, &framed(&responses)));
        }
        if let Some(end) = self.close_reason {
            return if self.has_pending() { Poll::Pending } else { Poll::Ready(Err(end)) };
        }
        let mut buffered = self.context.acquire_worker();
        let answered = self.poll_answer(context, &mut buffered);
        self.context.release_worker(buffered);
        answered
    }

    fn poll_answer(
        &mut self,
        context: &mut Context<'_>,
        buffered: &mut BufferedWorker,
    ) -> Poll<Result<(), CloseReason>> {
        let filled = match ready!(self.poll_read(context, buffered)) {
            Ok(filled) => filled,
            Err(end) => {
                // A client that has shut down its sending side may wait for responses.
                self.close_reason = Some(end);
                return Poll::Ready(Ok(()));
            }
        };
        let progress = answer_messages(buffered, self.peer, filled, &mut self.responses);
        self.close_reason = progress.is_refused.then_some(CloseReason::Refused);
        self.retain_unparsed(&buffered.input[progress.read..filled], progress.read > 0);
        let sent = self.send(context, &buffered.output[..progress.written]);
        buffered.worker.end_batch(Instant::now().into_std());
        Poll::Ready(sent)
    }

    /// Fills the worker's buffer with unanswered octets and one read, and returns their number.
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffered: &mut BufferedWorker,
    ) -> Poll<Result<usize, CloseReason>> {
        let unparsed = self.read_buf.len();
        if complete_message(&self.read_buf).is_some() {
            buffered.input[..unparsed].copy_from_slice(&self.read_buf);
            return Poll::Ready(Ok(unparsed));
        }
        let mut room = ReadBuf::new(&mut buffered.input[unparsed..][..READ_BYTES]);
        match Pin::new(&mut self.stream).poll_read(context, &mut room) {
            Poll::Ready(Ok(())) if !room.filled().is_empty() => {}
            Poll::Ready(_) => return Poll::Ready(Err(CloseReason::Closed)),
            Poll::Pending => {
                return self.update_buffered_bytes().map_or_else(|end| Poll::Ready(Err(end)), |()| Poll::Pending);
            }
        }
        let filled = unparsed + room.filled().len();
        buffered.input[..unparsed].copy_from_slice(&self.read_buf);
        Poll::Ready(Ok(filled))
    }

    fn retain_unparsed(&mut self, rest: &[u8], answered: bool) {
        let now = Instant::now();
        if answered {
            self.permit.record_query(now.into_std());
        }
        if answered || self.read_buf.is_empty() {
            self.last_progress = now;
        }
        // Also if nothing remains: it frees the former buffer.
        self.read_buf = rest.to_vec();
    }

    /// Writes responses directly from the worker's buffer, and keeps the octets that the stream does not take.
    fn send(&mut self, context: &mut Context<'_>, responses: &[u8]) -> Result<(), CloseReason> {
        let mut at = 0;
        while at < responses.len() {
            match Pin::new(&mut self.stream).poll_write(context, &responses[at..]) {
                Poll::Ready(Ok(written)) if written > 0 => at += written,
                Poll::Ready(_) => return Err(CloseReason::Closed),
                Poll::Pending => break,
            }
        }
        let flushed = at == responses.len() && self.poll_flush(context)?.is_ready();
        if !flushed {
            self.write_buf = Some(Box::new(WriteBuffer { octets: responses[at..].to_vec(), written: 0 }));
        }
        self.update_buffered_bytes()
    }

    /// Writes waiting responses.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        while let Some(write_buf) = &mut self.write_buf
            && write_buf.written < write_buf.octets.len()
        {
            match ready!(Pin::new(&mut self.stream).poll_write(context, &write_buf.octets[write_buf.written..])) {
                Ok(written) if written > 0 => write_buf.written += written,
                _ => return Poll::Ready(Err(CloseReason::Closed)),
            }
            self.last_progress = Instant::now();
        }
        ready!(self.poll_flush(context))?;
        self.write_buf = None;
        Poll::Ready(self.update_buffered_bytes())
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        Pin::new(&mut self.stream).poll_flush(context).map_err(|_| CloseReason::Closed)
    }

    /// Accounts for the octets that this connection buffers.
    fn update_buffered_bytes(&mut self) -> Result<(), CloseReason> {
        let unwritten_bytes =
            self.write_buf.as_ref().map_or(0, |write_buf| write_buf.octets.len() + S::MAX_BUFFERED_BYTES);
        let partial_bytes = self.stream.partial().map_or(0, |(_, octets)| octets);
        if self.permit.set_buffered_bytes(self.read_buf.len() + unwritten_bytes + partial_bytes) {
            Ok(())
        } else {
            Err(CloseReason::Slow)
        }
    }

    /// Shuts down the sending side, and reads until the client shuts down the other.
    async fn finish(&mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        poll_fn(|context| {
            let mut buffered = self.context.acquire_worker();
            let end = self.poll_discard(context, &mut buffered);
            self.context.release_worker(buffered);
            end
        })
        .await;
    }

    fn poll_discard(&mut self, context: &mut Context<'_>, buffered: &mut BufferedWorker) -> Poll<()> {
        loop {
            let mut room = ReadBuf::new(&mut buffered.input[..READ_BYTES]);
            match ready!(Pin::new(&mut self.stream).poll_read(context, &mut room)) {
                Ok(()) if !room.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }
}

/// Progress of answering the messages in a buffer.
struct AnswerProgress {
    /// Number of octets answered.
    read: usize,
    /// Number of octets of responses.
    written: usize,
    /// The client sent a message that gets no response. Messages after it are not answered.
    is_refused: bool,
}

/// Answers the complete messages of `input[..filled]` in their order, until [`FLUSH_THRESHOLD_BYTES`] of responses are in
/// `output`. On a stream, a message follows its length field of two octets (RFC 1035 section 4.2.2).
fn answer_messages(
    buffered: &mut BufferedWorker,
    peer: Peer,
    filled: usize,
    queue: &mut Option<Arc<ResponseQueue>>,
) -> AnswerProgress {
    let BufferedWorker { worker, input, output } = buffered;
    let mut progress = AnswerProgress { read: 0, written: 0, is_refused: false };
    worker.begin_batch(Instant::now().into_std());
    while progress.written < FLUSH_THRESHOLD_BYTES
        && let Some(query) = complete_message(&input[progress.read..filled])
    {
        progress.read += 2 + query.len();
        let room = &mut output[progress.written..][..2 + MAX_MESSAGE_BYTES];
        let (length_field, response) = room.split_at_mut(2);
        match worker.respond(peer, query, response, queue) {
            StreamReply::Response(length) => {
                length_field.copy_from_slice(&(length as u16).to_be_bytes());
                progress.written += 2 + length;
            }
            StreamReply::Forwarded => {}
            StreamReply::Drop(_) => {
                progress.is_refused = true;
                break;
            }
        }
    }
    progress
}

/// Returns the first message in `octets` without its length field, if it is complete.
fn complete_message(octets: &[u8]) -> Option<&[u8]> {
    let (length, rest) = octets.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

/// Returns messages with their length fields.
fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(messages.iter().map(|message| 2 + message.len()).sum());
    for message in messages {
        octets.extend_from_slice(&(message.len() as u16).to_be_bytes());
        octets.extend_from_slice(message);
    }
    octets
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::server::listener::limiter::Admission;
    use crate::server::{ConnectionLimits, Shutdown};
    use headless_dns_core::answer::{AccessList, Responder};
    use headless_dns_core::name::WireName;
    use headless_dns_core::name::reverse::ReverseZones;
    use headless_dns_core::naming_rules::NamingRules;
    use headless_dns_core::zone::{Settings, Zone};

    #[test]
    fn finds_complete_messages() {
        for (octets, message) in [
            (&[][..], None),
            (&[0], None),
            (&[0, 0], Some(&[][..])),
            (&[0, 2, 7], None),
            (&[0, 2, 7, 8], Some(&[7, 8])),
            (&[0, 2, 7, 8, 9], Some(&[7, 8])),
        ] {
            assert_eq!(complete_message(octets), message, "{octets:?}");
        }
    }

    /// The size of the task is the memory of an idle connection, besides Tokio's header and its registration of the
    /// socket.
    #[tokio::test]
    async fn idle_connection_is_small() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stream, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_stream, (accepted, client)) = (stream.unwrap(), accepted.unwrap());
        let apex = WireName::parse("cluster.local").unwrap();
        let settings = Settings { apexes: vec![apex], ttl: 5, negative_ttl: 5, rules: NamingRules::default() };
        let zone = Arc::new(Zone::new(settings, ReverseZones::default()));
        let responder = Arc::new(Responder::new(zone, Arc::default(), AccessList::default()));
        let context = ListenerContext::new(responder, Arc::default(), ConnectionLimits::default(), Shutdown::default());
        let Admission::Admitted(permit) = context.limiter.admit(client.ip(), false) else { panic!("there is room") };
        let connection = Connection::new(accepted, Peer { from: client, to: address }, permit, Arc::new(context));
        let size = size_of_val(&connection.run());
        assert!(size <= 384, "{size} octets");
    }
}
