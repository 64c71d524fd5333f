//! The UDP and TCP listeners on real sockets: every query is answered, and a misbehaving client affects only itself.
//!
//! The server listens on ports that the kernel chooses. Tests wait for events, at most [`WAIT_TIMEOUT`]. Responses are matched
//! with their queries; `tests/it/scenarios.rs` compares their content.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use crate::common::ports::ReservedPort;
use headless_dns::metrics::{Event, Metrics};
use headless_dns::server::{ConnectionLimits, Listeners, Shutdown};
use headless_dns_core::answer::{AccessList, Responder};
use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::ReverseZones;
use headless_dns_core::naming_rules::NamingRules;
use headless_dns_core::status::Status;
use headless_dns_core::zone::{Settings, Zone};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// A limit that the test waits for.
const SHORT: Duration = Duration::from_millis(200);
/// A limit that no test reaches.
const LONG: Duration = Duration::from_secs(3600);
const LOOPBACKS: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

fn responder() -> Arc<Responder> {
    let apexes = vec![WireName::parse("cluster.local").unwrap()];
    let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules: NamingRules::default() };
    let zone = Arc::new(Zone::new(settings, ReverseZones::default()));
    let status = Arc::new(Status::default());
    status.set_synced();
    Arc::new(Responder::new(zone, status, AccessList::default()))
}

/// No limit is in the way but those that a test makes short.
fn limits() -> ConnectionLimits {
    ConnectionLimits { idle: LONG, unfinished: LONG, unread: LONG, drain: WAIT_TIMEOUT, ..ConnectionLimits::default() }
}

struct Server {
    addresses: Vec<SocketAddr>,
    metrics: Arc<Metrics>,
    stop: Shutdown,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    #[allow(clippy::disallowed_methods, reason = "`stopped` awaits it")]
    fn start(addresses: &[&str], workers: usize, limits: ConnectionLimits) -> Self {
        let addresses: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let listeners = Listeners::bind(&addresses, workers).unwrap();
        let (addresses, metrics, stop) = (listeners.addresses(), Arc::<Metrics>::default(), Shutdown::default());
        let running = tokio::spawn(listeners.serve(responder(), Arc::clone(&metrics), limits, stop.clone()));
        Self { addresses, metrics, stop, running }
    }

    fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    async fn stopped(self) -> Arc<Metrics> {
        self.stop.drain();
        timeout(WAIT_TIMEOUT, self.running).await.expect("stops in time").unwrap().unwrap();
        self.metrics
    }
}

/// A query for `example.test A`.
fn query(id: u16) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    query.extend(b"\x07example\x04test\x00\x00\x01\x00\x01");
    query
}

fn check(response: &[u8], id: u16) {
    assert!(response.len() >= 12, "{response:?} has a header");
    assert_eq!(response[..2], id.to_be_bytes(), "the ID");
    assert_eq!(response[2] & 0x80, 0x80, "QR of {response:?}");
}

// UDP. The clients are plain sockets that block, so the server's tasks have threads of their own.

fn udp_client(from: &str, to: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind(from).unwrap();
    // A connected socket takes datagrams from this one address and port only.
    client.connect(to).unwrap();
    client.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    socket2::SockRef::from(&client).set_recv_buffer_size(1 << 20).unwrap();
    client
}

fn check_udp(client: &UdpSocket, ids: std::ops::Range<u16>) {
    let mut missing: std::collections::BTreeSet<_> = ids.collect();
    let mut response = [0; 4096];
    while !missing.is_empty() {
        let length = client.recv(&mut response).unwrap_or_else(|error| panic!("no response to {missing:?}: {error}"));
        let id = u16::from_be_bytes([response[0], response[1]]);
        assert!(missing.remove(&id), "{id} was asked, and answered once");
        check(&response[..length], id);
    }
}

fn ask_udp(client: &UdpSocket, id: u16) {
    client.send(&query(id)).unwrap();
    check_udp(client, id..id + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_udp_batches_on_every_address() {
    let server = Server::start(&LOOPBACKS, 2, limits());
    for (from, &to) in LOOPBACKS.iter().zip(&server.addresses) {
        let client = udp_client(from, to);
        for id in 0..200 {
            client.send(&query(id)).unwrap();
        }
        check_udp(&client, 0..200);
    }
    let metrics = server.stopped().await;
    assert_eq!(metrics.total(Event::UdpReceived), 400);
    assert_eq!(metrics.total(Event::SendErrors), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_datagram_larger_than_slot() {
    let server = Server::start(&LOOPBACKS, 1, limits());
    let client = udp_client(LOOPBACKS[0], server.address());
    let mut large = query(7);
    large.resize(4000, 0);
    client.send(&large).unwrap();
    check_udp(&client, 7..8);
    ask_udp(&client, 8);
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wildcard_socket_replies_from_queried_address() {
    let server = Server::start(&["0.0.0.0:0", "[::]:0"], 1, limits());
    for (from, asked, to) in [
        ("127.0.0.1:0", "127.0.0.2", server.addresses[0]),
        ("127.0.0.3:0", "127.0.0.1", server.addresses[0]),
        ("[::1]:0", "::1", server.addresses[1]),
    ] {
        let asked = SocketAddr::new(asked.parse().unwrap(), to.port());
        ask_udp(&udp_client(from, asked), 1);
        ask_tcp(&mut TcpStream::connect(asked).await.unwrap(), 2).await;
    }
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_received_udp_queries_at_shutdown() {
    for wildcard in [false, true] {
        let port = ReservedPort::new();
        let to = port.address();
        let listen = if wildcard { SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), to.port()) } else { to };
        let server = Server::start(&[&listen.to_string()], 2, limits());
        let clients: Vec<_> = (0..8).map(|_| udp_client("127.0.0.1:0", to)).collect();
        // No more than the smallest receive buffer holds, should all clients fall to one worker.
        for id in 0..40 {
            for client in &clients {
                client.send(&query(id)).unwrap();
            }
        }
        let metrics = server.stopped().await;
        for client in &clients {
            check_udp(client, 0..40);
        }
        assert_eq!(metrics.total(Event::UdpReceived), 320);
        // Later queries are refused by the kernel.
        let error = clients[0].send(&query(0)).and_then(|_| clients[0].recv(&mut [0; 512])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}

// TCP.

fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend(message);
    framed
}

fn pipelined(ids: std::ops::Range<u16>) -> Vec<u8> {
    ids.flat_map(|id| framed(&query(id))).collect()
}

async fn check_tcp(client: &mut TcpStream, id: u16) {
    let read = async {
        let mut response = vec![0; usize::from(client.read_u16().await?)];
        client.read_exact(&mut response).await?;
        std::io::Result::Ok(response)
    };
    check(&timeout(WAIT_TIMEOUT, read).await.expect("answered in time").unwrap(), id);
}

async fn ask_tcp(client: &mut TcpStream, id: u16) {
    client.write_all(&framed(&query(id))).await.unwrap();
    check_tcp(client, id).await;
}

/// The server closes, with or without having read all.
async fn check_closed(client: &mut TcpStream) {
    match timeout(WAIT_TIMEOUT, client.read(&mut [0; 1])).await.expect("closed in time") {
        Ok(count) => assert_eq!(count, 0, "nothing more comes"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address()).await.unwrap()
}

#[tokio::test]
async fn answers_tcp_on_every_address() {
    let server = Server::start(&LOOPBACKS, 1, limits());
    for &address in &server.addresses {
        let mut client = TcpStream::connect(address).await.unwrap();
        ask_tcp(&mut client, 1).await;
        ask_tcp(&mut client, 2).await;
    }
    let metrics = server.stopped().await;
    assert_eq!(metrics.total(Event::TcpAccepted), 2);
    assert_eq!(metrics.total(Event::TcpReceived), 4);
}

#[tokio::test]
async fn answers_pipelined_queries_in_order() {
    let server = Server::start(&LOOPBACKS, 1, limits());
    let mut client = connect(&server).await;
    // The second is more than one read and one write hold.
    for count in [100, 3000] {
        client.write_all(&pipelined(0..count)).await.unwrap();
        for id in 0..count {
            check_tcp(&mut client, id).await;
        }
    }
    server.stopped().await;
}

#[tokio::test]
async fn accepts_query_octet_by_octet() {
    let server = Server::start(&LOOPBACKS, 1, limits());
    let mut client = connect(&server).await;
    client.set_nodelay(true).unwrap();
    for octet in pipelined(0..2) {
        client.write_all(&[octet]).await.unwrap();
        client.flush().await.unwrap();
    }
    check_tcp(&mut client, 0).await;
    check_tcp(&mut client, 1).await;
    server.stopped().await;
}

#[tokio::test]
async fn answers_largest_message() {
    let server = Server::start(&LOOPBACKS, 1, limits());
    let mut client = connect(&server).await;
    let mut largest = query(2);
    largest.resize(65_535, 0);
    let messages = [framed(&query(1)), framed(&largest), framed(&query(3))].concat();
    client.write_all(&messages).await.unwrap();
    for id in 1..=3 {
        check_tcp(&mut client, id).await;
    }
    server.stopped().await;
}

#[tokio::test]
async fn empty_message_closes_connection_after_earlier_responses() {
    let server = Server::start(&LOOPBACKS, 1, limits());
    let mut client = connect(&server).await;
    client.write_all(&[framed(&query(1)), framed(&[]), framed(&query(2))].concat()).await.unwrap();
    check_tcp(&mut client, 1).await;
    check_closed(&mut client).await;
    server.stopped().await;
}

#[tokio::test]
async fn answers_half_closed_connection() {
    let server = Server::start(&LOOPBACKS, 1, limits());
    let mut client = connect(&server).await;
    client.write_all(&pipelined(0..10)).await.unwrap();
    client.shutdown().await.unwrap();
    for id in 0..10 {
        check_tcp(&mut client, id).await;
    }
    check_closed(&mut client).await;
    server.stopped().await;
}

#[tokio::test]
async fn closes_idle_connection() {
    let server = Server::start(&LOOPBACKS, 1, ConnectionLimits { idle: SHORT, ..limits() });
    // The query is there when the connection is accepted: this thread runs the server too.
    let asker = std::net::TcpStream::connect(server.address()).unwrap();
    std::io::Write::write_all(&mut &asker, &framed(&query(1))).unwrap();
    asker.set_nonblocking(true).unwrap();
    let (mut silent, mut asker) = (connect(&server).await, TcpStream::from_std(asker).unwrap());
    check_tcp(&mut asker, 1).await;
    check_closed(&mut silent).await;
    check_closed(&mut asker).await;
    assert_eq!(server.stopped().await.total(Event::TcpIdle), 2);
}

#[tokio::test]
async fn closes_connection_of_slow_writer() {
    let server = Server::start(&LOOPBACKS, 1, ConnectionLimits { unfinished: SHORT, ..limits() });
    let mut clients = Vec::new();
    for begin in [1, 2, 3, 20] {
        let mut client = connect(&server).await;
        ask_tcp(&mut client, 1).await;
        client.write_all(&framed(&query(2))[..begin]).await.unwrap();
        clients.push(client);
    }
    for client in &mut clients {
        check_closed(client).await;
    }
    assert_eq!(server.stopped().await.total(Event::TcpSlow), 4);
}

#[tokio::test]
async fn slow_writer_keeps_its_deadline() {
    let server = Server::start(&LOOPBACKS, 1, ConnectionLimits { unfinished: SHORT, ..limits() });
    let mut client = connect(&server).await;
    client.write_all(&10_000u16.to_be_bytes()).await.unwrap();
    let mut octets = tokio::time::interval(SHORT / 10);
    let cut = async {
        loop {
            octets.tick().await;
            if client.write_all(&[0]).await.is_err() {
                break;
            }
        }
    };
    timeout(WAIT_TIMEOUT, cut).await.expect("cut in time");
    assert_eq!(server.stopped().await.total(Event::TcpSlow), 1);
}

#[tokio::test]
async fn closes_connections_that_read_nothing() {
    let server = Server::start(&LOOPBACKS, 1, ConnectionLimits { unread: SHORT, ..limits() });
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut greedy = socket.connect(server.address()).await.unwrap();
    let queries = pipelined(0..1000);
    // Writes succeed until the server reads no more, and fail when it has closed.
    let cut = async { while greedy.write_all(&queries).await.is_ok() {} };
    timeout(WAIT_TIMEOUT, cut).await.expect("cut in time");
    ask_tcp(&mut connect(&server).await, 1).await;
    assert_eq!(server.stopped().await.total(Event::TcpSlow), 1);
}

#[tokio::test]
async fn answers_client_that_reads_late() {
    let server = Server::start(&LOOPBACKS, 1, limits());
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = socket.connect(server.address()).await.unwrap();
    let queries = pipelined(0..1000);
    timeout(WAIT_TIMEOUT, client.write_all(&queries)).await.expect("the buffers hold as many").unwrap();
    // Then as many queries as fit until the server stops reading, because its responses are not read.
    let stuck = async { while client.write_all(&queries).await.is_ok() {} };
    assert!(timeout(SHORT, stuck).await.is_err(), "the connection stays open");
    for id in 0..1000 {
        check_tcp(&mut client, id).await;
    }
    drop(client);
    server.stopped().await;
}

#[tokio::test]
async fn evicts_longest_idle_connection_at_limit() {
    let server = Server::start(&LOOPBACKS, 1, ConnectionLimits { connections: 3, ..limits() });
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = connect(&server).await;
        ask_tcp(&mut client, 1).await;
        clients.push(client);
    }
    ask_tcp(&mut clients[0], 2).await;
    let mut new = connect(&server).await;
    ask_tcp(&mut new, 1).await;
    check_closed(&mut clients[1]).await;
    for client in [0, 2] {
        ask_tcp(&mut clients[client], 3).await;
    }
    assert_eq!(server.stopped().await.total(Event::TcpOverLimit), 1);
}

#[tokio::test]
async fn closes_new_connection_above_client_limit() {
    let server = Server::start(&LOOPBACKS, 1, ConnectionLimits { per_client: 2, ..limits() });
    let (mut one, mut two) = (connect(&server).await, connect(&server).await);
    ask_tcp(&mut one, 1).await;
    ask_tcp(&mut two, 1).await;
    check_closed(&mut connect(&server).await).await;
    let other = TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    ask_tcp(&mut other.connect(server.address()).await.unwrap(), 1).await;
    ask_tcp(&mut one, 2).await;
    assert_eq!(server.stopped().await.total(Event::TcpOverLimit), 1);
}

#[tokio::test]
async fn answers_received_tcp_queries_at_shutdown() {
    let port = ReservedPort::new();
    let server = Server::start(&[&port.address().to_string()], 1, limits());
    let mut idle = connect(&server).await;
    ask_tcp(&mut idle, 1).await;
    // None of these has been accepted when the stop is told: this thread runs the server too.
    let mut clients = Vec::new();
    for _ in 0..10 {
        let client = std::net::TcpStream::connect(server.address()).unwrap();
        std::io::Write::write_all(&mut &client, &pipelined(0..100)).unwrap();
        client.set_nonblocking(true).unwrap();
        clients.push(TcpStream::from_std(client).unwrap());
    }
    server.stop.drain();
    for client in &mut clients {
        for id in 0..100 {
            check_tcp(client, id).await;
        }
        check_closed(client).await;
    }
    check_closed(&mut idle).await;
    let address = server.address();
    server.stopped().await;
    assert_eq!(TcpStream::connect(address).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

// Addresses.

#[test]
fn names_address_in_use() {
    let taken = ReservedPort::with_udp_in_use();
    let first = Listeners::bind(&["127.0.0.1:0".parse().unwrap()], 2).unwrap();
    for (address, protocol) in [(taken.address(), "UDP"), (first.addresses()[0], "TCP")] {
        let error = format!("{:#}", Listeners::bind(&[address], 1).unwrap_err());
        let begin = format!("cannot listen on {address} over {protocol}: another program has ");
        assert!(error.starts_with(&begin), "{error}");
    }
}

#[test]
fn names_address_of_another_host() {
    // TEST-NET-1, RFC 5737.
    let address = SocketAddr::new(IpAddr::from([192, 0, 2, 1]), 0);
    let error = format!("{:#}", Listeners::bind(&[address], 1).unwrap_err());
    assert!(error.starts_with("cannot listen on 192.0.2.1:0 over TCP: this host has no such address."), "{error}");
}

#[test]
fn reports_receive_buffer_size() {
    let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()], 1).unwrap();
    assert!((1..=4 << 20).contains(&listeners.receive_buffer()));
}
