//! Entry points for fuzzing: parts of the listeners that are otherwise reached through sockets only.
//!
//! Used by `fuzz/` and `tests/it/corpus.rs`. Not part of the public API.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::listener::context::ListenerContext;
use super::stream::connection::{Connection, Stream};
use super::{ConnectionLimits, ListenAddress, ListenProtocol, Shutdown};
use crate::metrics::{Counters, Metrics};
use headless_dns_core::answer::{Peer, Responder};

/// Connections without sockets, from 127.0.0.1.
pub struct Streams {
    context: Arc<ListenerContext>,
    counters: Arc<Counters>,
    peer: Peer,
}

impl Streams {
    /// Creates streams of this protocol, answered by `responder`.
    pub fn new(kind: ListenProtocol, responder: Responder) -> Self {
        let metrics = Arc::<Metrics>::default();
        let from = SocketAddr::from(([127, 0, 0, 1], 40_000));
        let to = SocketAddr::from(([127, 0, 0, 1], 53));
        let counters = metrics.worker();
        let context =
            ListenerContext::new(Arc::new(responder), metrics, ConnectionLimits::default(), Shutdown::default());
        let context =
            Arc::new(context.for_listener(ListenAddress { protocol: kind, address: to }, Shutdown::default()));
        Self { context, counters, peer: Peer { from, to } }
    }

    /// Serves one TCP connection: the client sends `octets` and closes its side. Reads and writes move as many octets
    /// as `portions` has, in turn; 0 is a read or write that would block. Returns the octets that the server sent.
    ///
    /// Needs a tokio runtime with time.
    pub async fn serve(&self, octets: &[u8], portions: &[u8]) -> Vec<u8> {
        let Some(permit) = self.context.admit(&self.counters, self.peer.from.ip()) else { return Vec::new() };
        let mut sent = Vec::new();
        let stream = Scripted { unread: octets, portions: portions.iter().cycle(), sent: &mut sent };
        Connection::new(stream, self.peer, permit, Arc::clone(&self.context)).run().await;
        sent
    }

    /// Answers the content of one QUIC stream. Returns the octets that the server sends on the stream, or the reason
    /// for which the server closes the connection.
    #[cfg(feature = "quic")]
    pub fn answer_quic_stream(&self, octets: &[u8]) -> Result<Vec<u8>, String> {
        super::quic::answer_content(&self.context, self.peer, octets).map_err(|error| format!("{error:?}"))
    }
}

/// A stream with prescribed lengths of reads and writes.
struct Scripted<'s> {
    unread: &'s [u8],
    portions: std::iter::Cycle<std::slice::Iter<'s, u8>>,
    sent: &'s mut Vec<u8>,
}

impl Scripted<'_> {
    /// Returns the maximum number of octets of the next read or write. If it would block, wakes the task at once.
    fn portion(&mut self, context: &Context<'_>) -> Poll<usize> {
        match self.portions.next() {
            Some(0) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Some(&octets) => Poll::Ready(usize::from(octets)),
            None => Poll::Ready(usize::MAX),
        }
    }
}

impl Stream for Scripted<'_> {
    const MAX_BUFFERED_BYTES: usize = 0;
    const HAS_CLOSE_MESSAGE: bool = false;

    fn partial(&self) -> Option<(Instant, usize)> {
        None
    }
}

impl AsyncRead for Scripted<'_> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Poll::Ready(portion) = self.portion(context) else { return Poll::Pending };
        let length = portion.min(self.unread.len()).min(into.remaining());
        let (read, unread) = self.unread.split_at(length);
        into.put_slice(read);
        self.unread = unread;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Scripted<'_> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let Poll::Ready(portion) = self.portion(context) else { return Poll::Pending };
        let length = portion.min(octets.len());
        self.sent.extend_from_slice(&octets[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
