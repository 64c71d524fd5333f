//! The worker of stream transports: one call answers one message, over TCP, TLS, HTTPS and QUIC alike.
//!
//! [`StreamWorker::respond`] answers, counts and logs. A [`Desk`] is a worker with its large buffers, which belong to
//! the thread that runs and not to a connection: an idle connection holds none of them. On streams, a message follows
//! its length (RFC 1035 section 4.2.2). Not here: reading and writing (`stream/connection.rs`, `tls/`, `https/`, `quic/`), and the engine
//! (`answer/`).

use std::sync::Arc;
use std::time::Instant;

use crate::metrics::{Counters, ResponseCounters};
use crate::server::forward::{self, ForwardRequest};
use crate::server::query_log::{QueryLogEntry, QueryLogger};
use headless_dns_core::answer::{DropReason, ForwardedQuery, Peer, Reply, RequestBatch, Responder, Transport, Worker};

/// Maximum length of a message in octets: its length field has two octets (RFC 1035 section 4.2.2).
pub(crate) const MAX_MESSAGE_BYTES: usize = 65_535;
/// Size of one read in octets.
pub(crate) const READ_BYTES: usize = 16 << 10;
/// Number of octets of responses after which they are written before further messages are answered.
pub(crate) const FLUSH_THRESHOLD_BYTES: usize = 16 << 10;

/// Answers the messages of stream transports, for one connection at a time.
pub(crate) struct StreamWorker {
    transport: Transport,
    worker: Worker,
    requests: RequestBatch,
    counters: ResponseCounters,
    log: QueryLogger,
    /// Arrival time of the batch that is being answered.
    begun: Option<Instant>,
}

/// Reply to one message of a stream.
pub(crate) enum StreamReply {
    /// The length in octets of the response, which is in the buffer, counted and logged.
    Response(usize),
    /// The query needs an upstream.
    Forward(Box<ForwardedQuery>, Option<QueryLogEntry>),
    /// No response. HTTPS has a status for each reason.
    Drop(#[cfg_attr(not(feature = "https"), expect(dead_code, reason = "other transports have none"))] DropReason),
}

impl StreamWorker {
    fn new(counters: Arc<Counters>, log: QueryLogger, transport: Transport) -> Self {
        Self {
            transport,
            worker: Worker::default(),
            requests: RequestBatch::new(transport),
            counters: ResponseCounters::new(counters, transport),
            log,
            begun: None,
        }
    }

    /// Begins a batch of messages that arrived at `now`.
    pub(crate) fn begin_batch(&mut self, now: Instant) {
        self.worker.begin_batch(now);
        self.begun = Some(now);
    }

    /// Ends a batch of messages, at the time `now` of its responses, and releases the zone snapshot until the next.
    pub(crate) fn end_batch(&mut self, now: Instant) {
        if let Some(begun) = self.begun.take() {
            self.counters.observe_latency(now.saturating_duration_since(begun));
        }
        self.worker.release_snapshot();
        self.requests.release_snapshot();
    }

    /// Answers one message. `response` has at least [`MAX_MESSAGE_BYTES`] octets.
    pub(crate) fn respond(
        &mut self,
        responder: &Responder,
        peer: Peer,
        query: &[u8],
        response: &mut [u8],
    ) -> StreamReply {
        self.counters.received(1);
        let request = self.requests.parse_one(responder.zone(), query);
        response[..query.len()].copy_from_slice(query);
        let logged = self.log.try_clone_logger(query);
        match responder.respond(request, peer, &mut self.worker, response) {
            Reply::Response(summary) => {
                self.counters.responded(&summary);
                if let Some(logged) = logged {
                    logged.responded(&self.counters.counters, peer, self.transport, &response[..summary.length]);
                }
                StreamReply::Response(summary.length)
            }
            Reply::Forward(pending) => StreamReply::Forward(pending, logged),
            Reply::Drop(reason) => {
                self.counters.dropped(reason);
                StreamReply::Drop(reason)
            }
        }
    }

    /// Writes SERVFAIL for a query for which the forwarder has no room, and returns the length of the response.
    pub(crate) fn refuse(&self, question: &ForwardRequest, response: &mut [u8]) -> usize {
        forward::refuse(question, &self.counters, response)
    }

    /// Returns the worker's counters of other events.
    #[cfg(feature = "https")]
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters.counters
    }
}

/// A worker and its buffers, for one connection at a time.
pub(crate) struct Desk {
    pub(crate) worker: StreamWorker,
    /// Input buffer: room for an almost complete message of maximum length and one read.
    pub(crate) input: Box<[u8]>,
    /// Output buffer: [`FLUSH_THRESHOLD_BYTES`] octets, and one response of maximum length.
    pub(crate) output: Box<[u8]>,
}

/// Progress made with a buffer.
pub(crate) struct Answered {
    /// Number of octets answered.
    pub(crate) read: usize,
    /// Number of octets of responses.
    pub(crate) written: usize,
    /// The client sent a message that gets no response. Messages after it are not answered.
    pub(crate) refused: bool,
}

impl Desk {
    pub(crate) fn new(counters: Arc<Counters>, log: QueryLogger, transport: Transport) -> Self {
        let input = vec![0; 2 + MAX_MESSAGE_BYTES + READ_BYTES].into();
        let output = vec![0; FLUSH_THRESHOLD_BYTES + 2 + MAX_MESSAGE_BYTES].into();
        Self { worker: StreamWorker::new(counters, log, transport), input, output }
    }

    /// Answers the complete messages of `input[..filled]` in their order, until [`FLUSH_THRESHOLD_BYTES`] octets of responses are there.
    /// Passes queries that need an upstream to `hand_over`.
    pub(crate) fn answer(
        &mut self,
        responder: &Responder,
        peer: Peer,
        filled: usize,
        mut hand_over: impl FnMut(Box<ForwardedQuery>, Option<QueryLogEntry>) -> Result<(), ForwardRequest>,
    ) -> Answered {
        let mut answered = Answered { read: 0, written: 0, refused: false };
        self.worker.begin_batch(Instant::now());
        while answered.written < FLUSH_THRESHOLD_BYTES
            && let Some(query) = complete_message(&self.input[answered.read..filled])
        {
            answered.read += 2 + query.len();
            let room = &mut self.output[answered.written..][..2 + MAX_MESSAGE_BYTES];
            let (length_field, message) = room.split_at_mut(2);
            let length = match self.worker.respond(responder, peer, query, message) {
                StreamReply::Response(length) => length,
                StreamReply::Forward(pending, logged) => match hand_over(pending, logged) {
                    Ok(()) => continue,
                    Err(refused) => self.worker.refuse(&refused, message),
                },
                StreamReply::Drop(_) => {
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

/// Returns the first message in `octets` without its length field, if it is complete.
pub(crate) fn complete_message(octets: &[u8]) -> Option<&[u8]> {
    let (length, rest) = octets.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(complete_message(octets), message, "{octets:?}");
        }
    }
}
