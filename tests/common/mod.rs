//! What several tests need: how often to repeat, and the engine asked without sockets.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::sync::Arc;

use headless_dns::answer::{Access, Peer, Responder, Transport, Worker};
use headless_dns::metrics::Metrics;
use headless_dns::names::WireName;
use headless_dns::status::Status;
use headless_dns::zone::Zone;

/// How often to repeat: `full` times `HEADLESS_DNS_TEST_SCALE` percent (default 1; CI says 10, a release 100).
pub fn scaled(full: u64) -> u64 {
    let percent = std::env::var("HEADLESS_DNS_TEST_SCALE")
        .map_or(1, |text| text.parse::<u64>().expect("HEADLESS_DNS_TEST_SCALE is a whole number of percent"));
    (full * percent / 100).max(1)
}

/// A query for `name` in class IN: RD set, an OPT record that offers `edns` octets where it is given.
pub fn query(id: u16, name: &[u8], qtype: u16, edns: Option<u16>) -> Vec<u8> {
    let mut message = vec![0; 12];
    message[..2].copy_from_slice(&id.to_be_bytes());
    message[2] = 1;
    message[5] = 1;
    message.extend_from_slice(name);
    message.extend_from_slice(&qtype.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    if let Some(size) = edns {
        message[11] = 1;
        message.extend_from_slice(&[0, 0, 41]);
        message.extend_from_slice(&size.to_be_bytes());
        message.extend_from_slice(&[0; 6]);
    }
    message
}

/// A name in wire form.
pub fn wire(name: &str) -> Vec<u8> {
    if name == "." { vec![0] } else { WireName::parse(name).unwrap().octets().to_vec() }
}

/// The engine, asked from 127.0.0.1.
pub struct Engine {
    pub responder: Responder,
    pub worker: Worker,
}

impl Engine {
    pub fn new(zone: Arc<Zone>) -> Self {
        let status = Arc::new(Status::default());
        status.set_synced();
        Self::with(Responder::new(zone, status, Access::default()))
    }

    pub fn with(responder: Responder) -> Self {
        Self { responder, worker: Worker::new(Metrics::default().worker()) }
    }

    /// The response to `message`; RRsets begin at their first record if the ID is 65535 and the worker new.
    pub fn ask(&mut self, transport: Transport, message: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_535];
        buffer[..message.len()].copy_from_slice(message);
        let peer = Peer { from: "127.0.0.1:40000".parse().unwrap(), to: "127.0.0.1:53".parse().unwrap() };
        // A slot for datagrams is 2 KiB long.
        let room = if transport == Transport::Udp { 2048.max(message.len()) } else { 65_535 };
        let length = self.responder.respond(&mut self.worker, peer, transport, &mut buffer[..room], message.len())?;
        buffer.truncate(length);
        Some(buffer)
    }
}
