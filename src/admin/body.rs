//! Bodies of responses: a stream of chunks, and any body under the deadlines of its connection. Not here: the contents
//! (`routes.rs`, `api.rs`).

use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::clock::{PhaseTimer, RequestPhase};

/// A body whose chunks are made on a thread of their own.
pub(super) struct ChunkedBody {
    chunks: mpsc::Receiver<Bytes>,
    /// The task that sends the chunks. It ends once the receiver is dropped.
    _maker: JoinSet<()>,
}

impl ChunkedBody {
    /// Makes a body of the octets that `make` writes. Writing fails once the client is gone.
    pub(super) fn spawn(make: impl FnOnce(&mut ChunkSender) -> io::Result<()> + Send + 'static) -> Self {
        /// Number of chunks that wait for a slow client.
        const QUEUE_LEN: usize = 4;
        let (sender, chunks) = mpsc::channel(QUEUE_LEN);
        let mut maker = JoinSet::new();
        maker.spawn_blocking(move || {
            let mut sender = ChunkSender { chunks: sender, buffer: Vec::with_capacity(CHUNK_BYTES) };
            // Fails if the client has closed the connection.
            let _ = make(&mut sender).and_then(|()| sender.flush());
        });
        Self { chunks, _maker: maker }
    }
}

impl Body for ChunkedBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.chunks.poll_recv(context).map(|chunk| chunk.map(|octets| Ok(Frame::data(octets))))
    }
}

/// A writer that sends its octets in chunks. It fails once the receiver is dropped.
pub(super) struct ChunkSender {
    chunks: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

/// Size of a chunk in octets.
const CHUNK_BYTES: usize = 64 << 10;

impl Write for ChunkSender {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(octets);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES));
        self.chunks.blocking_send(chunk.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A body that reports each frame, and its own end, to the timer of its connection.
pub(super) struct TimedBody {
    pub(super) body: axum::body::Body,
    pub(super) timer: Arc<PhaseTimer>,
}

impl Drop for TimedBody {
    fn drop(&mut self) {
        self.timer.enter_phase(RequestPhase::Idle);
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(_)) = frame {
            self.timer.enter_phase(RequestPhase::Request);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
