//! DNS over TLS: answers equal those over TCP, and a misbehaving client affects only itself.
//!
//! The server listens on ports that the kernel chooses; its certificates are made here. Tests wait for events, at most
//! [`WAIT_TIMEOUT`]. Changes while a server runs are in `tests/it/certificates.rs`.

use std::io::{ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::common::ports::ReservedPort;
use crate::common::tls::{self, Authority};
use crate::common::{query, question_name, service};
use headless_dns::metrics::table::HANDSHAKE_FAILURES;
use headless_dns::metrics::{Event, ExpositionFormat, Metrics, ZoneFigures};
use headless_dns::server::tls::certificates::Certificates;
use headless_dns::server::{ConnectionLimits, InheritedSockets, ListenAddress, ListenProtocol, Listeners, Shutdown};
use headless_dns::source::{Publisher, PublisherOptions};
use headless_dns_core::answer::{AccessList, Responder};
use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::ReverseZones;
use headless_dns_core::naming_rules::NamingRules;
use headless_dns_core::object::{
    AddressFamily, Conditions, EndpointRow, EndpointSlice, Object, ObjectRef, ServiceKind,
};
use headless_dns_core::status::Status;
use headless_dns_core::zone::{Settings, Zone};
use hickory_proto::op::Message;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// A limit that the test waits for.
const SHORT: Duration = Duration::from_millis(200);
/// A limit that no test reaches.
const LONG: Duration = Duration::from_secs(3600);
/// Number of addresses of the Service `many`: as many as one message over a stream holds.
const MANY: u16 = 4_090;
const A: u16 = 1;

fn zone() -> Arc<Zone> {
    let apexes = vec![WireName::parse("cluster.local").unwrap()];
    let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules: NamingRules::default() };
    let zone = Arc::new(Zone::new(settings, ReverseZones::default()));
    let row = |number: u16| {
        let [high, low] = number.to_be_bytes();
        EndpointRow {
            address: [10, 1, high, low].into(),
            conditions: Conditions::READY,
            hostname: Some(format!("many-{number}").into()),
            pod: None,
        }
    };
    let rows: Vec<_> = (0..MANY).map(row).collect();
    let key = ObjectRef::new("default", "many-1");
    let slice = EndpointSlice::new(key, Some("many".into()), AddressFamily::V4, Vec::new(), &rows);
    let objects = vec![
        service("web", ServiceKind::ClusterIp(vec![[10, 0, 0, 1].into()])),
        service("many", ServiceKind::Headless),
        Object::EndpointSlice(slice),
    ];
    Publisher::new(Arc::clone(&zone), PublisherOptions::default()).replace(objects);
    zone
}

/// No limit is in the way but those that a test makes short.
fn limits() -> ConnectionLimits {
    ConnectionLimits {
        handshake: LONG,
        idle: LONG,
        unfinished: LONG,
        unread: LONG,
        drain: WAIT_TIMEOUT,
        ..ConnectionLimits::default()
    }
}

/// A server over TLS, and over TCP beside it.
struct Server {
    tls: SocketAddr,
    tcp: SocketAddr,
    client: Arc<ClientConfig>,
    authority: Authority,
    metrics: Arc<Metrics>,
    stop: Shutdown,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    fn start(limits: ConnectionLimits) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), limits)
    }

    /// Starts a server that listens over TLS at this address.
    #[allow(clippy::disallowed_methods, reason = "`stopped` awaits it")]
    fn start_at(tls: SocketAddr, limits: ConnectionLimits) -> Self {
        let authority = Authority::new();
        let [certificate, key] = authority.paths();
        let certificates = Certificates::load(&certificate, &key).unwrap();
        let plain = ListenAddress::plain((Ipv4Addr::LOCALHOST, 0).into());
        let listen = [plain, ListenAddress { protocol: ListenProtocol::Tls, address: tls }];
        let listeners =
            Listeners::inherit(InheritedSockets::default(), &listen, 1).unwrap().certified(Some(certificates));
        let [tcp, tls] = listeners.addresses()[..] else { panic!("there are two") };
        let status = Arc::new(Status::default());
        status.set_synced();
        let responder = Arc::new(Responder::new(zone(), status, AccessList::default()));
        let (metrics, stop) = (Arc::<Metrics>::default(), Shutdown::default());
        let running = tokio::spawn(listeners.serve(responder, Arc::clone(&metrics), limits, stop.clone()));
        let client = Arc::new(authority.client(&[b"dot"]));
        Self { tls, tcp, client, authority, metrics, stop, running }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        timeout(WAIT_TIMEOUT, tls::connect(&self.client, self.tls)).await.expect("shaken in time").unwrap()
    }

    async fn stopped(self) -> Arc<Metrics> {
        self.stop.drain();
        timeout(WAIT_TIMEOUT, self.running).await.expect("stops in time").unwrap().unwrap();
        self.metrics
    }
}

/// Returns the number of handshakes that failed for this reason.
fn failures(metrics: &Metrics, reason: &str) -> u64 {
    let text = metrics.render(&Status::default(), ZoneFigures::default(), ExpositionFormat::Text);
    let series = format!("{}{{proto=\"tls\",reason=\"{reason}\"}} ", HANDSHAKE_FAILURES.name);
    text.lines()
        .find_map(|line| line.strip_prefix(&series))
        .map_or(0, |count| count.trim().parse::<f64>().unwrap() as u64)
}

fn web(id: u16) -> Vec<u8> {
    query(id, &question_name("web.default.svc.cluster.local"), A, None)
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Vec<u8> {
    let read = async {
        let mut response = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut response).await?;
        std::io::Result::Ok(response)
    };
    timeout(WAIT_TIMEOUT, read).await.expect("answered in time").unwrap()
}

async fn check<S: AsyncRead + Unpin>(stream: &mut S, id: u16) {
    let response = read(stream).await;
    assert_eq!((&response[..2], response[7]), (&id.to_be_bytes()[..], 1), "one answer to {id}");
}

async fn ask(stream: &mut TlsStream<TcpStream>, id: u16) {
    stream.write_all(&framed(&web(id))).await.unwrap();
    check(stream, id).await;
}

/// Checks for close_notify: without it, rustls reports an unexpected end.
async fn check_ended(stream: &mut TlsStream<TcpStream>) {
    let read = timeout(WAIT_TIMEOUT, stream.read(&mut [0; 1])).await.expect("closed in time");
    assert_eq!(read.expect("the end is said"), 0, "nothing more comes");
}

/// Waits until the server closes, and ignores its earlier octets.
async fn check_closed(stream: &mut TcpStream) {
    let closed = async { while matches!(stream.read(&mut [0; 512]).await, Ok(count) if count > 0) {} };
    timeout(WAIT_TIMEOUT, closed).await.expect("closed in time");
}

#[tokio::test]
async fn answers_equal_tcp() {
    let server = Server::start(limits());
    let (mut tls, mut tcp) = (server.connect().await, TcpStream::connect(server.tcp).await.unwrap());
    let mut notify = web(7);
    notify[2] = 0x20;
    let mut messages = vec![notify, web(8)[..16].to_vec(), web(9)];
    for name in ["web", "many", "many-7.many", "no", "web.default.svc", "default.svc", "_why.no"] {
        let name = question_name(&format!("{name}.default.svc.cluster.local"));
        for qtype in [A, 6, 16, 28, 33, 255] {
            messages.push(query(messages.len() as u16, &name, qtype, None));
            messages.push(query(messages.len() as u16, &name, qtype, Some(1232)));
        }
    }
    messages.push(query(99, &question_name("example.test"), A, Some(1232)));
    for message in &messages {
        tls.write_all(&framed(message)).await.unwrap();
        tcp.write_all(&framed(message)).await.unwrap();
        assert_eq!(read(&mut tls).await, read(&mut tcp).await, "{message:02x?}");
    }
    tls.write_all(&framed(&query(1, &question_name("many.default.svc.cluster.local"), A, None))).await.unwrap();
    let many = Message::from_vec(&read(&mut tls).await).unwrap();
    assert_eq!((many.answers.len(), many.metadata.truncation), (usize::from(MANY), false));
    let metrics = server.stopped().await;
    assert_eq!(metrics.total(Event::TcpAccepted), 2);
}

#[tokio::test]
async fn answers_pipelined_queries_in_order() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    // The second is more than one read, one write and one record hold.
    for count in [100, 3000] {
        let queries: Vec<u8> = (0..count).flat_map(|id| framed(&web(id))).collect();
        client.write_all(&queries).await.unwrap();
        for id in 0..count {
            check(&mut client, id).await;
        }
    }
    server.stopped().await;
}

#[tokio::test]
async fn accepts_query_in_many_records() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    for octet in [framed(&web(1)), framed(&web(2))].concat() {
        client.write_all(&[octet]).await.unwrap();
        client.flush().await.unwrap();
    }
    check(&mut client, 1).await;
    check(&mut client, 2).await;
    server.stopped().await;
}

#[tokio::test]
async fn accepts_both_versions_and_no_alpn() {
    let server = Server::start(limits());
    let versions =
        [(&rustls::version::TLS12, ProtocolVersion::TLSv1_2), (&rustls::version::TLS13, ProtocolVersion::TLSv1_3)];
    for (version, expected) in versions {
        for alpn in [&[&b"dot"[..]][..], &[b"h2", b"dot"], &[]] {
            let client = Arc::new(server.authority.client_with(alpn, &[version]));
            let mut stream = tls::connect(&client, server.tls).await.unwrap();
            let connection = stream.get_ref().1;
            assert_eq!(connection.protocol_version(), Some(expected));
            assert_eq!(connection.alpn_protocol(), (!alpn.is_empty()).then_some(&b"dot"[..]));
            ask(&mut stream, 1).await;
        }
    }
    let other = Arc::new(server.authority.client(&[b"h2"]));
    assert!(tls::connect(&other, server.tls).await.is_err(), "another protocol is not spoken here");
    let metrics = server.stopped().await;
    assert_eq!(failures(&metrics, "refused"), 1);
}

#[tokio::test]
async fn resumes_sessions() {
    let server = Server::start(limits());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = Arc::new(server.authority.client_with(&[b"dot"], &[version]));
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let mut stream = tls::connect(&client, server.tls).await.unwrap();
            // The ticket comes behind the handshake: it has been read when the answer has.
            ask(&mut stream, 1).await;
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected), "{version:?}");
        }
    }
    server.stopped().await;
}

#[tokio::test]
async fn closes_idle_connection_with_close_notify() {
    let server = Server::start(ConnectionLimits { idle: SHORT, ..limits() });
    let (mut silent, mut asker) = (server.connect().await, server.connect().await);
    ask(&mut asker, 1).await;
    check_ended(&mut silent).await;
    check_ended(&mut asker).await;
    assert_eq!(server.stopped().await.total(Event::TcpIdle), 2);
}

#[tokio::test]
async fn answers_and_notifies_closing_client() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    client.write_all(&[framed(&web(1)), framed(&web(2))].concat()).await.unwrap();
    client.shutdown().await.unwrap();
    check(&mut client, 1).await;
    check(&mut client, 2).await;
    check_ended(&mut client).await;
    server.stopped().await;
}

#[tokio::test]
async fn closes_slow_handshake() {
    let server = Server::start(ConnectionLimits { handshake: SHORT, ..limits() });
    for stream in &mut begin_handshakes(&server).await {
        check_closed(stream).await;
    }
    let metrics = server.stopped().await;
    assert_eq!((failures(&metrics, "late"), metrics.total(Event::TcpSlow)), (3, 3));
}

/// Connections with silence, and with the begin of a ClientHello.
async fn begin_handshakes(server: &Server) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for begin in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = TcpStream::connect(server.tls).await.unwrap();
        stream.write_all(begin).await.unwrap();
        streams.push(stream);
    }
    streams
}

/// None of the slow handshakes ends during this test, so a client that waited for one would wait for ever.
#[tokio::test]
async fn slow_handshake_delays_no_other_client() {
    let server = Server::start(ConnectionLimits { drain: SHORT, ..limits() });
    let _slow = begin_handshakes(&server).await;
    ask(&mut server.connect().await, 1).await;
    server.stopped().await;
}

/// The begin of a ClientHello of 65,520 octets, the largest that rustls takes, in records of 16 KiB.
fn large_hello(octets: usize) -> Vec<u8> {
    let message = [&[1, 0, 0xff, 0xf0][..], &vec![7; octets]].concat();
    message
        .chunks(16 << 10)
        .flat_map(|part| [&[0x16, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat())
        .collect()
}

#[tokio::test]
async fn handshake_has_octet_limit() {
    let server = Server::start(limits());
    for octets in [16 << 10, 60 << 10] {
        let mut stream = TcpStream::connect(server.tls).await.unwrap();
        // Fails where it is closed before all is sent.
        let _ = stream.write_all(&large_hello(octets)).await;
        check_closed(&mut stream).await;
    }
    // Within the limit it only waits.
    let mut large = TcpStream::connect(server.tls).await.unwrap();
    large.write_all(&large_hello(15 << 10)).await.unwrap();
    // A client that sends queries right behind its handshake: they do not count as handshake.
    let mut client = server.connect().await;
    let queries: Vec<u8> = (0..1000).flat_map(|id| framed(&web(id))).collect();
    client.write_all(&queries).await.unwrap();
    for id in 0..1000 {
        check(&mut client, id).await;
    }
    let metrics = server.stopped().await;
    assert_eq!(["too_large", "over_budget", "late"].map(|why| failures(&metrics, why)), [2, 0, 0]);
}

#[tokio::test]
async fn evicts_longest_handshake_over_budget() {
    let server = Server::start(ConnectionLimits { buffered_bytes: 40 << 10, ..limits() });
    let mut all = Vec::new();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(server.tls).await.unwrap();
        // With the growth of its buffer: 11 KiB above the uncounted part.
        stream.write_all(&large_hello(5 << 10)).await.unwrap();
        all.push(stream);
    }
    let mut rest = all.split_off(2);
    for stream in &mut all {
        check_closed(stream).await;
    }
    ask(&mut server.connect().await, 1).await;
    for stream in &mut rest {
        assert_eq!(stream.try_read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock, "it is open");
    }
    assert_eq!(server.metrics.total(Event::TcpSlow), 2);
    server.stopped().await;
}

#[tokio::test]
async fn non_tls_clients_affect_no_other() {
    let server = Server::start(limits());
    for octets in [framed(&web(1)), b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xff; 600]] {
        let mut stream = TcpStream::connect(server.tls).await.unwrap();
        stream.write_all(&octets).await.unwrap();
        check_closed(&mut stream).await;
    }
    // A port scan: connect and close.
    drop(TcpStream::connect(server.tls).await.unwrap());
    let elsewhere = Arc::new(Authority::new().client(&[b"dot"]));
    assert!(tls::connect(&elsewhere, server.tls).await.is_err(), "a client that does not trust the certificate");
    ask(&mut server.connect().await, 1).await;
    let metrics = server.stopped().await;
    assert_eq!(["no_tls", "closed", "certificate", "late"].map(|why| failures(&metrics, why)), [3, 1, 1, 0]);
}

#[tokio::test]
async fn closes_connection_of_slow_writer() {
    let server = Server::start(ConnectionLimits { unfinished: SHORT, ..limits() });
    for begin in [1, 2, 20] {
        let mut client = server.connect().await;
        ask(&mut client, 1).await;
        client.write_all(&framed(&web(2))[..begin]).await.unwrap();
        let end = timeout(WAIT_TIMEOUT, client.read(&mut [0; 1])).await.expect("closed in time");
        // It was cut off, and so is not told.
        assert_eq!(end.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
    assert_eq!(server.stopped().await.total(Event::TcpSlow), 3);
}

#[tokio::test]
async fn closes_connection_of_slow_record_writer() {
    let server = Server::start(ConnectionLimits { unfinished: SHORT, ..limits() });
    for end in [1, 5, 20] {
        let mut client = server.connect().await;
        ask(&mut client, 1).await;
        let (mut stream, mut session) = client.into_inner();
        session.writer().write_all(&framed(&web(2))).unwrap();
        let mut record = Vec::new();
        session.write_tls(&mut record).unwrap();
        stream.write_all(&record[..end]).await.unwrap();
        check_closed(&mut stream).await;
    }
    assert_eq!(server.stopped().await.total(Event::TcpSlow), 3);
}

/// The client behind a receive buffer as small as the kernel makes them.
async fn narrow(server: &Server) -> TlsStream<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    tls::shake(&server.client, socket.connect(server.tls).await.unwrap()).await.unwrap()
}

#[tokio::test]
async fn closes_connections_that_read_nothing() {
    let server = Server::start(ConnectionLimits { unread: SHORT, ..limits() });
    let mut greedy = narrow(&server).await;
    let many = framed(&query(1, &question_name("many.default.svc.cluster.local"), A, None)).repeat(100);
    // Writes succeed until the server reads no more, and fail when it has closed.
    let cut = async { while greedy.write_all(&many).await.is_ok() && greedy.flush().await.is_ok() {} };
    timeout(WAIT_TIMEOUT, cut).await.expect("cut in time");
    ask(&mut server.connect().await, 1).await;
    assert_eq!(server.stopped().await.total(Event::TcpSlow), 1);
}

#[tokio::test]
async fn answers_client_that_reads_late() {
    let server = Server::start(limits());
    let mut client = narrow(&server).await;
    let many = question_name("many.default.svc.cluster.local");
    let queries: Vec<u8> = (0..100).flat_map(|id| framed(&query(id, &many, A, None))).collect();
    client.write_all(&queries).await.unwrap();
    client.flush().await.unwrap();
    for id in 0..100u16 {
        let response = read(&mut client).await;
        assert_eq!((&response[..2], &response[6..8]), (&id.to_be_bytes()[..], &MANY.to_be_bytes()[..]));
    }
    server.stopped().await;
}

#[tokio::test]
async fn handshake_counts_as_connection() {
    let server = Server::start(ConnectionLimits { connections: 2, ..limits() });
    let mut stuck = TcpStream::connect(server.tls).await.unwrap();
    stuck.write_all(b"\x16").await.unwrap();
    let mut client = server.connect().await;
    ask(&mut client, 1).await;
    // A third one, over TCP: they share their seats.
    let mut plain = TcpStream::connect(server.tcp).await.unwrap();
    plain.write_all(&framed(&web(2))).await.unwrap();
    check(&mut plain, 2).await;
    check_closed(&mut stuck).await;
    ask(&mut client, 3).await;
    assert_eq!(server.stopped().await.total(Event::TcpOverLimit), 1);
}

#[tokio::test]
async fn shutdown_notifies_clients_and_awaits_handshakes() {
    let port = ReservedPort::new();
    let server = Server::start_at(port.address(), limits());
    let mut stuck = TcpStream::connect(server.tls).await.unwrap();
    stuck.write_all(b"\x16").await.unwrap();
    let (mut idle, mut asker) = (server.connect().await, server.connect().await);
    let queries: Vec<u8> = (0..100).flat_map(|id| framed(&web(id))).collect();
    asker.write_all(&queries).await.unwrap();
    // Accepted by the kernel alone when the stop is told: this thread runs the server too.
    let late = std::net::TcpStream::connect(server.tls).unwrap();
    late.set_nonblocking(true).unwrap();
    server.stop.drain();
    let mut late = tls::shake(&server.client, TcpStream::from_std(late).unwrap()).await.unwrap();
    late.write_all(&framed(&web(7))).await.unwrap();
    check(&mut late, 7).await;
    for id in 0..100 {
        check(&mut asker, id).await;
    }
    for client in [&mut asker, &mut idle, &mut late] {
        check_ended(client).await;
    }
    check_closed(&mut stuck).await;
    let address = server.tls;
    drop((asker, idle, late));
    server.stopped().await;
    assert_eq!(TcpStream::connect(address).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn names_address_in_use() {
    let address = "127.0.0.1:0".parse().unwrap();
    let bind = |listen| Listeners::inherit(InheritedSockets::default(), &[listen], 1);
    for (kind, protocol) in
        [(ListenProtocol::Tls, "TCP"), (ListenProtocol::Https, "TCP"), (ListenProtocol::Quic, "UDP")]
    {
        let first = bind(ListenAddress { protocol: kind, address }).unwrap();
        let listen = first.listen_addresses()[0];
        let error = format!("{:#}", bind(listen).unwrap_err());
        let begin = format!("cannot listen on {} over {kind}: another program has {protocol} port ", listen.address);
        assert!(error.starts_with(&begin), "{error}");
    }
}
