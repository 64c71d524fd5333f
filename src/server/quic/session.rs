//! The TLS session under a QUIC connection: limits the octets of its handshake, and reports that a complete handshake
//! validates the client's address.
//!
//! rustls buffers an incomplete handshake message up to 64 KiB, and quinn limits only data that arrives out of order.
//! Not here: handshake messages (rustls), validation by a Retry packet (`acceptor.rs`), and the limit that depends on
//! validation (`amplification.rs`).

use std::any::Any;
use std::sync::{Arc, Mutex};

use quinn::crypto::rustls::QuicServerConfig;
use quinn::crypto::{
    ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session, UnsupportedVersion,
};
use quinn::{ConnectionId, Side};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{TransportError, TransportErrorCode};

use super::amplification::Address;
use headless_dns_core::lock::lock;

/// Limit of the octets that a client sends in CRYPTO frames over the life of its connection. After the handshake a
/// client has none to send.
const MAX_HANDSHAKE_BYTES: usize = 16 << 10;

/// TLS configuration of one connection.
pub(super) struct OneConnection {
    tls: Arc<QuicServerConfig>,
    /// Taken by the session. Behind a lock because quinn shares the configuration.
    address: Mutex<Option<Address>>,
}

impl OneConnection {
    pub(super) fn new(tls: Arc<QuicServerConfig>, address: Address) -> Self {
        Self { tls, address: Mutex::new(Some(address)) }
    }
}

impl ServerConfig for OneConnection {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.tls.initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.tls.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, params: &TransportParameters) -> Box<dyn Session> {
        let inner = Arc::clone(&self.tls).start_session(version, params);
        let address = lock(&self.address).take();
        Box::new(Limited { inner, received: 0, address })
    }
}

/// A rustls session with a limit on handshake octets.
struct Limited {
    inner: Box<dyn Session>,
    /// Octets received in CRYPTO frames.
    received: usize,
    /// Held as long as the connection, so that its address stays validated.
    address: Option<Address>,
}

impl Session for Limited {
    fn read_handshake(&mut self, octets: &[u8]) -> Result<bool, TransportError> {
        self.received += octets.len();
        if self.received > MAX_HANDSHAKE_BYTES {
            let reason = format!("more than {MAX_HANDSHAKE_BYTES} octets of handshake messages");
            return Err(TransportError { code: TransportErrorCode::CRYPTO_BUFFER_EXCEEDED, frame: None, reason });
        }
        let has_data = self.inner.read_handshake(octets)?;
        if !self.inner.is_handshaking()
            && let Some(address) = &mut self.address
        {
            address.validate();
        }
        Ok(has_data)
    }

    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, octets: &mut Vec<u8>) -> Option<Keys> {
        self.inner.write_handshake(octets)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.inner.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}
