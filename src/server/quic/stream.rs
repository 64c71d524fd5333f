//! A stream of DNS over QUIC: one query and its response (RFC 9250 section 4.2), and the octets that they occupy.
//!
//! Not here: the answer to the query (`stream/worker.rs`), and the limits of the connection (`connection.rs`).

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;

use quinn::{RecvStream, SendStream};
use tokio::time::{Instant, sleep, timeout_at};

use super::error::DoqError;
use crate::server::forward::ResponseQueue;
use crate::server::listener::context::ListenerContext;
use crate::server::listener::limiter::ConnectionPermit;
use crate::server::listener::tracker::FORWARD_IDLE_TIMEOUT;
use crate::server::stream::worker::{BufferedWorker, MAX_MESSAGE_BYTES, StreamReply};
use headless_dns_core::answer::Peer;
use headless_dns_core::lock::lock;
use headless_dns_core::wire;

/// Octets buffered by all streams of a connection.
pub(super) struct ConnectionMemory(Mutex<Inner>);

pub(super) struct Inner {
    pub(super) permit: ConnectionPermit,
    pub(super) bytes: usize,
    /// Time at which the client last read octets of a response that had to wait.
    last_write: Instant,
}

impl ConnectionMemory {
    pub(super) fn new(permit: ConnectionPermit) -> Self {
        Self(Mutex::new(Inner { permit, bytes: 0, last_write: Instant::now() }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0)
    }
}

/// Octets buffered by one stream, as part of its connection's.
pub(super) struct StreamMemory {
    connection: Arc<ConnectionMemory>,
    bytes: usize,
}

impl StreamMemory {
    pub(super) fn new(connection: &Arc<ConnectionMemory>) -> Self {
        Self { connection: Arc::clone(connection), bytes: 0 }
    }

    /// Sets the number of octets that the stream buffers.
    pub(super) fn set(&mut self, bytes: usize) -> Result<(), DoqError> {
        let mut connection = self.connection.lock();
        connection.bytes = connection.bytes - self.bytes + bytes;
        self.bytes = bytes;
        let all = connection.bytes;
        if connection.permit.set_buffered_bytes(all) {
            Ok(())
        } else {
            Err(DoqError::ExcessiveLoad("too many octets are buffered for slow clients"))
        }
    }
}

impl Drop for StreamMemory {
    fn drop(&mut self) {
        let _ = self.set(0);
    }
}

/// A response that was sent, and not acknowledged by the client yet.
pub(super) struct UnackedResponse {
    pub(super) send: SendStream,
    pub(super) sent_at: Instant,
    _memory: StreamMemory,
}

/// A stream with one query.
pub(super) struct QuicStream {
    pub(super) send: SendStream,
    pub(super) receive: RecvStream,
    pub(super) peer: Peer,
    pub(super) memory: StreamMemory,
    pub(super) context: Arc<ListenerContext>,
    pub(super) opened_at: Instant,
}

impl QuicStream {
    /// Answers the query. Returns the response in flight; `None` if the client has cancelled the query.
    pub(super) async fn run(mut self) -> Result<Option<UnackedResponse>, DoqError> {
        let Err(error) = self.answer().await else {
            return Ok(Some(UnackedResponse { send: self.send, sent_at: Instant::now(), _memory: self.memory }));
        };
        // RFC 9250 section 4.3.1. Without the reset, the stream would end like an empty response.
        let _ = self.send.reset(error.code());
        if error == DoqError::RequestCancelled { Ok(None) } else { Err(error) }
    }

    async fn answer(&mut self) -> Result<(), DoqError> {
        let content = self.read().await?;
        let response = match respond(&self.context, self.peer, parse_content(&content)?)? {
            QuicReply::Response(content) => content,
            QuicReply::Forwarded(queue) => framed(&self.wait(&queue).await?),
        };
        self.write(response).await
    }

    /// Reads the content of the stream: the query and its length field.
    async fn read(&mut self) -> Result<Vec<u8>, DoqError> {
        let (mut content, deadline) = (Vec::new(), self.opened_at + self.context.limits.unfinished);
        loop {
            match timeout_at(deadline, self.receive.read_chunk(usize::MAX, true)).await {
                Ok(Ok(Some(chunk))) => content.extend_from_slice(&chunk.bytes),
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return Err(error.into()),
                Err(_) if is_complete(&content) => {
                    return Err(DoqError::Protocol("the stream does not end after the query"));
                }
                Err(_) => return Err(DoqError::ExcessiveLoad("the query was not complete in time")),
            }
            if content.len() > expected_length(&content) {
                return Err(DoqError::Protocol("more than one query on a stream"));
            }
            self.memory.set(content.len())?;
        }
        Ok(content)
    }

    /// Waits for the response to a forwarded query, unless the client cancels it.
    async fn wait(&mut self, queue: &ResponseQueue) -> Result<Vec<u8>, DoqError> {
        self.memory.set(0)?;
        let response = poll_fn(|context| queue.take_one(context.waker()).map_or(Poll::Pending, Poll::Ready));
        tokio::select! {
            biased;
            response = response => Ok(response),
            stopped = self.send.stopped() => Err(stopped.map_or_else(DoqError::from, |_| DoqError::RequestCancelled)),
            () = sleep(FORWARD_IDLE_TIMEOUT) => Err(DoqError::Internal),
        }
    }

    /// Writes the content of the response, and ends the stream.
    async fn write(&mut self, content: Vec<u8>) -> Result<(), DoqError> {
        self.memory.set(content.len())?;
        let (limits, begun) = (self.context.limits, Instant::now());
        let mut rest = [content.into()];
        loop {
            // As long as the client reads any octets of the connection, up to an absolute limit.
            let last_write = self.memory.connection.lock().last_write.max(begun);
            let deadline = (last_write + limits.unread).min(begun + limits.idle.max(limits.unread));
            match timeout_at(deadline, self.send.write_chunks(&mut rest)).await {
                Ok(Ok(_)) if rest[0].is_empty() => break,
                Ok(Ok(_)) => self.memory.connection.lock().last_write = Instant::now(),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) if self.memory.connection.lock().last_write > last_write => {}
                Err(_) => return Err(DoqError::ExcessiveLoad("the response was not read in time")),
            }
        }
        self.send.finish().map_err(|_| DoqError::Internal)
    }
}

/// Returns the length of a stream that begins with `content`: the length field, and the message if its length is known.
fn expected_length(content: &[u8]) -> usize {
    content.first_chunk().map_or(2, |length| 2 + usize::from(u16::from_be_bytes(*length)))
}

fn is_complete(content: &[u8]) -> bool {
    content.len() >= 2 && content.len() == expected_length(content)
}

/// Returns the message of a stream, after checks of the rules that QUIC alone has (RFC 9250 section 4.3.3).
fn parse_content(content: &[u8]) -> Result<&[u8], DoqError> {
    if !is_complete(content) {
        return Err(DoqError::Protocol("the stream ends before the query is complete"));
    }
    let message = &content[2..];
    if message.iter().take(2).any(|octet| *octet != 0) {
        return Err(DoqError::Protocol("the message ID is not 0"));
    }
    if wire::has_option(message, wire::TCP_KEEPALIVE) {
        return Err(DoqError::Protocol("the option edns-tcp-keepalive is for TCP only"));
    }
    Ok(message)
}

/// Returns the content of a stream with this message: a length field of two octets before it (RFC 9250 section 4.2).
fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

/// Reply to the query of a stream.
enum QuicReply {
    /// Content of the stream with the response.
    Response(Vec<u8>),
    /// The query was forwarded: its response will be in the queue.
    Forwarded(Arc<ResponseQueue>),
}

/// Answers or forwards one query.
fn respond(context: &ListenerContext, peer: Peer, query: &[u8]) -> Result<QuicReply, DoqError> {
    let (mut buffered, mut queue) = (context.acquire_worker(), None);
    let BufferedWorker { worker, output, .. } = &mut *buffered;
    worker.begin_batch(Instant::now().into_std());
    let reply = match worker.respond(peer, query, &mut output[..MAX_MESSAGE_BYTES], &mut queue) {
        StreamReply::Response(length) => Ok(QuicReply::Response(framed(&output[..length]))),
        StreamReply::Forwarded => Ok(QuicReply::Forwarded(queue.unwrap_or_default())),
        StreamReply::Drop(_) => Err(DoqError::Protocol("the message gets no response")),
    };
    worker.end_batch(Instant::now().into_std());
    context.release_worker(buffered);
    reply
}

/// Answers the content of a stream, without the forwarder. For fuzzing.
pub(crate) fn answer_content(context: &ListenerContext, peer: Peer, content: &[u8]) -> Result<Vec<u8>, DoqError> {
    match respond(context, peer, parse_content(content)?)? {
        QuicReply::Response(content) => Ok(content),
        QuicReply::Forwarded(_) => Err(DoqError::Internal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_content() {
        // A header without a question, which these rules do not concern.
        let header = [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut with_id = header;
        with_id[1] = 1;
        let mut with_keepalive = header.to_vec();
        (with_keepalive[5], with_keepalive[11]) = (1, 1);
        with_keepalive.extend([0, 0, 1, 0, 1]);
        with_keepalive.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4, 0, 11, 0, 0]);
        for (content, error) in [
            (framed(&header), None),
            (framed(&[]), None),
            (vec![], Some("the stream ends before the query is complete")),
            (vec![0], Some("the stream ends before the query is complete")),
            (framed(&header)[..13].to_vec(), Some("the stream ends before the query is complete")),
            (framed(&with_id), Some("the message ID is not 0")),
            (framed(&[1]), Some("the message ID is not 0")),
            (framed(&with_keepalive), Some("the option edns-tcp-keepalive is for TCP only")),
        ] {
            let expected =
                error.map_or(Ok(content.get(2..).unwrap_or_default()), |reason| Err(DoqError::Protocol(reason)));
            assert_eq!(parse_content(&content), expected, "{content:?}");
        }
    }

    #[test]
    fn expects_length() {
        for (content, length, complete) in
            [(&[][..], 2, false), (&[0], 2, false), (&[0, 0], 2, true), (&[1, 0], 258, false), (&[0, 1, 7], 3, true)]
        {
            assert_eq!((expected_length(content), is_complete(content)), (length, complete), "{content:?}");
        }
    }
}
