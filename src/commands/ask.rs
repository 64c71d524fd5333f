//! Blocking DNS client of the commands: UDP first, TCP if the response is truncated.
//!
//! One query at a time, with timeouts. Not here: the format of messages (`core/src/wire/client.rs`).

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use headless_dns_core::name::WireName;
use headless_dns_core::rtype;
use headless_dns_core::wire::client::{self, ParsedResponse};
use headless_dns_core::wire::{HEADER, MAX_TCP};

/// Number of times that a query is sent over UDP.
const ATTEMPTS: u32 = 3;
/// Timeout of a response over UDP, and of each read and write over TCP.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends a query to the server, and returns the response.
///
/// # Errors
///
/// If no response to the query arrives in time, or a socket fails.
pub(crate) fn query(server: SocketAddr, name: &WireName, qtype: u16) -> anyhow::Result<ParsedResponse> {
    let reply = over_udp(server, name, qtype).with_context(|| format!("cannot query {server} over UDP"))?;
    if reply.truncated {
        return over_tcp(server, name, qtype).with_context(|| format!("cannot query {server} over TCP"));
    }
    Ok(reply)
}

/// Sends a query over TCP only.
///
/// # Errors
///
/// As [`query`].
pub(crate) fn query_over_tcp(server: SocketAddr, name: &WireName, qtype: u16) -> anyhow::Result<ParsedResponse> {
    over_tcp(server, name, qtype).with_context(|| format!("cannot query {server} over TCP"))
}

/// Returns the version that the server tells at `version.bind` in class CH (RFC 4892 section 2.1), if any.
pub(crate) fn version(server: SocketAddr) -> Option<String> {
    const CHAOS: [u8; 2] = [0, 3];
    let name = WireName::parse("version.bind").ok()?;
    let exchange = |id| {
        let mut message = client::query(id, &name, rtype::TXT);
        let class = HEADER + name.octets().len() + 2;
        message[class..class + 2].copy_from_slice(&CHAOS);
        message
    };
    let reply = exchange_over_udp(server, &name, rtype::TXT, exchange).ok()?;
    reply.answer.into_iter().find_map(|record| record.text)
}

fn over_udp(server: SocketAddr, name: &WireName, qtype: u16) -> anyhow::Result<ParsedResponse> {
    exchange_over_udp(server, name, qtype, |id| client::query(id, name, qtype))
}

fn exchange_over_udp(
    server: SocketAddr,
    name: &WireName,
    qtype: u16,
    write: impl Fn(u16) -> Vec<u8>,
) -> anyhow::Result<ParsedResponse> {
    let own: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(own)?;
    // Connect: the kernel then drops datagrams from other addresses, and reports a closed port as an error.
    socket.connect(server)?;
    for _ in 0..ATTEMPTS {
        let id = fastrand::u16(..);
        socket.send(&write(id))?;
        if let Some(reply) = wait(&socket, |message| ParsedResponse::parse(message, id, name, qtype))? {
            return Ok(reply);
        }
    }
    bail!("no response within {} s", (ATTEMPTS * ATTEMPT_TIMEOUT).as_secs())
}

/// Waits for a datagram that `read` accepts; `None` if none arrives in time.
fn wait(socket: &UdpSocket, read: impl Fn(&[u8]) -> Option<ParsedResponse>) -> io::Result<Option<ParsedResponse>> {
    let deadline = Instant::now() + ATTEMPT_TIMEOUT;
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                if let Some(reply) = read(&buffer[..length]) {
                    return Ok(Some(reply));
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn over_tcp(server: SocketAddr, name: &WireName, qtype: u16) -> anyhow::Result<ParsedResponse> {
    let mut stream = TcpStream::connect_timeout(&server, ATTEMPT_TIMEOUT)?;
    stream.set_read_timeout(Some(ATTEMPT_TIMEOUT))?;
    stream.set_write_timeout(Some(ATTEMPT_TIMEOUT))?;
    let id = fastrand::u16(..);
    let message = client::query(id, name, qtype);
    let framed = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
    stream.write_all(&framed)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut buffer = vec![0; usize::from(u16::from_be_bytes(length)).min(MAX_TCP)];
    stream.read_exact(&mut buffer)?;
    ParsedResponse::parse(&buffer, id, name, qtype).context("the response does not match the query")
}
