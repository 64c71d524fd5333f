//! The UDP socket under a QUIC endpoint: quinn's socket, with the anti-amplification limit, and a switch that stops
//! receiving.
//!
//! At a hot restart two processes have the socket, and a QUIC connection is known to one of them only. So the
//! predecessor stops receiving before the successor begins, and sends its last packets all the same
//! (`hot_restart/mod.rs`). Not here: the limit itself (`amplification.rs`), and connections (`connection.rs`).

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::amplification::AmplificationLimit;
use headless_dns_core::lock::lock;

/// UDP socket of a QUIC endpoint.
#[derive(Debug)]
pub(super) struct QuicSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    limit: AmplificationLimit,
    /// Locked while datagrams are received, so that none is in progress when [`Self::stop_receiving`] returns.
    is_receiving: Mutex<bool>,
}

impl QuicSocket {
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>, limit: AmplificationLimit) -> Self {
        Self { socket, limit, is_receiving: Mutex::new(true) }
    }

    /// Stops receiving, permanently. After the return no datagram is taken from the socket; sending still works.
    pub(super) fn stop_receiving(&self) {
        *self.is_receiving() = false;
    }

    fn is_receiving(&self) -> MutexGuard<'_, bool> {
        lock(&self.is_receiving)
    }
}

impl AsyncUdpSocket for QuicSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Transmit { destination, contents, segment_size, .. } = *transmit;
        let allowed = self.limit.send(destination, contents.len(), segment_size.unwrap_or(contents.len()));
        if allowed == 0 {
            // Drop it as if the network had lost it: quinn sends it again.
            return Ok(());
        }
        let cut = Transmit { contents: &contents[..allowed], segment_size, destination, ..*transmit };
        self.socket.try_send(&cut).inspect_err(|_| self.limit.take_back(destination, allowed))
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let is_receiving = self.is_receiving();
        if !*is_receiving {
            return Poll::Pending;
        }
        let count = ready!(self.socket.poll_recv(context, buffers, meta))?;
        for (buffer, meta) in buffers.iter().zip(meta).take(count) {
            // GRO: the kernel may have joined several datagrams of one length, and a shorter last one.
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                self.limit.receive(meta.addr, datagram);
            }
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
