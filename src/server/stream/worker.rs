//! The worker of stream transports: one call answers one message, over TCP, TLS, HTTPS and QUIC alike.
//!
//! [`StreamWorker::respond`] answers or forwards, counts and logs. A [`BufferedWorker`] has large buffers besides, which
//! belong to the thread that runs and not to a connection: an idle connection holds none of them. Not here: the framing of
//! messages, reading and writing (`stream/connection.rs`, `https/`, `quic/`), and the engine (`core/src/answer/`).

use std::sync::Arc;
use std::time::Instant;

use crate::metrics::{Counters, ResponseCounters};
use crate::server::ListenAddress;
use crate::server::forward::{self, ForwardHandle, ForwardRequest, ReplyTo, ResponseQueue};
use crate::server::query_log::QueryLogger;
use headless_dns_core::answer::{DropReason, Peer, Reply, RequestBatch, Responder, Transport, Worker};

/// Maximum length of a message in octets: its length field has two octets (RFC 1035 section 4.2.2).
pub(crate) const MAX_MESSAGE_BYTES: usize = 65_535;
/// Size of one read in octets.
pub(crate) const READ_BYTES: usize = 16 << 10;
/// Number of octets of responses after which they are written before further messages are answered.
pub(crate) const FLUSH_THRESHOLD_BYTES: usize = 16 << 10;

/// Answers the messages of stream transports, for one connection at a time.
pub(crate) struct StreamWorker {
    listen: ListenAddress,
    transport: Transport,
    responder: Arc<Responder>,
    forward_handle: Option<ForwardHandle>,
    worker: Worker,
    requests: RequestBatch,
    counters: ResponseCounters,
    query_logger: QueryLogger,
    /// Arrival time of the batch that is being answered.
    batch_start: Option<Instant>,
}

/// Reply to one message of a stream.
pub(crate) enum StreamReply {
    /// The length in octets of the response, which is in the buffer, counted and logged.
    Response(usize),
    /// The query was forwarded: its response will be in the queue.
    Forwarded,
    /// No response. HTTPS has a status for each reason.
    Drop(#[cfg_attr(not(feature = "https"), expect(dead_code, reason = "other transports have none"))] DropReason),
}

impl StreamWorker {
    fn new(
        listen: ListenAddress,
        responder: Arc<Responder>,
        forward_handle: Option<ForwardHandle>,
        counters: Arc<Counters>,
        query_logger: QueryLogger,
    ) -> Self {
        let transport = listen.protocol.transport();
        Self {
            listen,
            transport,
            responder,
            forward_handle,
            worker: Worker::default(),
            requests: RequestBatch::new(transport),
            counters: ResponseCounters::new(counters, transport),
            query_logger,
            batch_start: None,
        }
    }

    /// Begins a batch of messages that arrived at `now`.
    pub(crate) fn begin_batch(&mut self, now: Instant) {
        self.worker.begin_batch(now);
        self.batch_start = Some(now);
    }

    /// Ends a batch of messages, at the time `now` of its responses, and releases the zone snapshot until the next.
    pub(crate) fn end_batch(&mut self, now: Instant) {
        if let Some(start) = self.batch_start.take() {
            self.counters.observe_latency(now.saturating_duration_since(start));
        }
        self.worker.release_snapshot();
        self.requests.release_snapshot();
    }

    /// Answers one message: writes the response into `response`, which has at least [`MAX_MESSAGE_BYTES`] octets, or forwards
    /// the query. The response to a forwarded query will be in `queue`, which is created for the first one.
    pub(crate) fn respond(
        &mut self,
        peer: Peer,
        query: &[u8],
        response: &mut [u8],
        queue: &mut Option<Arc<ResponseQueue>>,
    ) -> StreamReply {
        self.counters.received(1);
        let request = self.requests.parse_one(self.responder.zone(), query);
        response[..query.len()].copy_from_slice(query);
        let log_entry = self.query_logger.copy_query(query);
        match self.responder.respond(request, peer, &mut self.worker, response) {
            Reply::Response(summary) => {
                self.counters.responded(&summary);
                if let Some(log_entry) = log_entry {
                    log_entry.responded(&self.counters.counters, peer, self.transport, &response[..summary.length]);
                }
                StreamReply::Response(summary.length)
            }
            Reply::Forward(pending) => {
                self.forward(ForwardRequest { pending, listen: self.listen.address, log_entry }, response, queue)
            }
            Reply::Drop(reason) => {
                self.counters.dropped(reason);
                StreamReply::Drop(reason)
            }
        }
    }

    /// Forwards a query, or writes SERVFAIL into `response` if the forwarder has no room.
    #[cold]
    fn forward(
        &self,
        request: ForwardRequest,
        response: &mut [u8],
        queue: &mut Option<Arc<ResponseQueue>>,
    ) -> StreamReply {
        let Some(handle) = &self.forward_handle else {
            return StreamReply::Response(forward::refuse(&request, &self.counters, response));
        };
        let queue = queue.get_or_insert_default();
        queue.expect();
        match handle.try_send(request, ReplyTo::Stream(Arc::clone(queue))) {
            Ok(()) => StreamReply::Forwarded,
            Err(refused) => {
                queue.forget();
                StreamReply::Response(forward::refuse(&refused, &self.counters, response))
            }
        }
    }

    /// Returns the worker's counters of other events.
    #[cfg(feature = "https")]
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters.counters
    }
}

/// A worker and its buffers, for one connection at a time.
pub(crate) struct BufferedWorker {
    pub(crate) worker: StreamWorker,
    /// Input buffer: room for an almost complete message of maximum length with its length field, and one read.
    pub(crate) input: Box<[u8]>,
    /// Output buffer: [`FLUSH_THRESHOLD_BYTES`] octets, and one response of maximum length with its length field.
    pub(crate) output: Box<[u8]>,
}

impl BufferedWorker {
    /// Creates a worker of one listener.
    pub(crate) fn new(
        listen: ListenAddress,
        responder: Arc<Responder>,
        forward_handle: Option<ForwardHandle>,
        counters: Arc<Counters>,
        query_logger: QueryLogger,
    ) -> Self {
        let input = vec![0; 2 + MAX_MESSAGE_BYTES + READ_BYTES].into();
        let output = vec![0; FLUSH_THRESHOLD_BYTES + 2 + MAX_MESSAGE_BYTES].into();
        Self { worker: StreamWorker::new(listen, responder, forward_handle, counters, query_logger), input, output }
    }
}
