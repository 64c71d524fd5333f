//! DNS over QUIC on real sockets: answers equal those over TCP, and a misbehaving client affects only itself.
//!
//! The client is quinn, and once hickory's. Forbidden input is written by hand over quinn's streams, or as raw datagrams. Tests
//! wait for events, at most [`WAIT_TIMEOUT`].

use std::collections::HashSet;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use crate::common::mutants::{Rng, mutate, seeds};
use crate::common::panics::PanicWatch;
use crate::common::tls::{Authority, NAME};
use crate::common::{self, extended, query, question_name, service, wire};
use headless_dns::metrics::{Event, ExpositionFormat, Metrics, ZoneFigures};
use headless_dns::server::forward::{self, Forwarder, Upstream};
use headless_dns::server::tls::certificates::Certificates;
use headless_dns::server::{
    self, ConnectionLimits, InheritedSockets, ListenAddress, ListenProtocol, Listeners, Shutdown,
};
use headless_dns::source::{Publisher, PublisherOptions};
use headless_dns_core::answer::{AccessList, ForwardPolicy, Responder};
use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::ReverseZones;
use headless_dns_core::name::special::SpecialNames;
use headless_dns_core::naming_rules::NamingRules;
use headless_dns_core::object::{
    AddressFamily, Conditions, EndpointPort, EndpointRow, EndpointSlice, Object, ObjectRef, Protocol, ServiceKind,
};
use headless_dns_core::status::Status;
use headless_dns_core::wire::{TCP_KEEPALIVE, has_option};
use headless_dns_core::zone::{Settings, Zone};
use hickory_proto::op::Message;
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, ReadError, ReadToEndError, RecvStream, SendStream,
    TransportConfig, VarInt,
};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// A limit that the test waits for.
const SHORT: Duration = Duration::from_millis(200);
/// A limit that no test reaches.
const LONG: Duration = Duration::from_secs(3600);
/// Number of handshakes with clients whose address is not validated.
const UNPROVEN: usize = 128;

// Error codes of RFC 9250 section 4.3.
const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 2;
const REQUEST_CANCELLED: u32 = 3;
const EXCESSIVE_LOAD: u32 = 4;
/// CONNECTION_REFUSED of RFC 9000 section 20.1.
const REFUSED: u64 = 2;
/// CRYPTO_BUFFER_EXCEEDED of the same.
const CRYPTO_BUFFER_EXCEEDED: u64 = 0x0d;
/// The alert no_application_protocol (RFC 9001 section 8.1).
const NO_PROTOCOL: u64 = 0x178;

const WEB: &str = "web.default.svc.cluster.local";
const LARGE: &str = "large.default.svc.cluster.local";
const A_TYPE: u16 = 1;

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

/// A Service `web` with three addresses, and one, `large`, with as many as an answer has room for.
fn zone() -> Arc<Zone> {
    let apexes = vec![WireName::parse("cluster.local").unwrap()];
    let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules: NamingRules::default() };
    let zone = Arc::new(Zone::new(settings, ReverseZones::default()));
    let mut objects = vec![
        service("web", ServiceKind::Headless),
        service("large", ServiceKind::Headless),
        service("alias", ServiceKind::ExternalName(WEB.into())),
        slice("web", "web-1", 0..3),
    ];
    objects.extend((0..5).map(|number| slice("large", &format!("large-{number}"), number * 818..(number + 1) * 818)));
    Publisher::new(Arc::clone(&zone), PublisherOptions::default()).replace(objects);
    zone
}

fn slice(of: &str, name: &str, numbers: Range<u16>) -> Object {
    let port = EndpointPort { name: "http".into(), protocol: Protocol::Tcp, number: 80 };
    let row = |number: u16| EndpointRow {
        address: [10, 1, (number >> 8) as u8, number as u8].into(),
        conditions: Conditions::READY,
        hostname: Some(format!("{of}-{number}").into()),
        pod: None,
    };
    let rows: Vec<_> = numbers.map(row).collect();
    let key = ObjectRef::new("default", name);
    Object::EndpointSlice(EndpointSlice::new(key, Some(of.into()), AddressFamily::V4, vec![port], &rows))
}

fn responder(access: AccessList) -> Responder {
    let status = Arc::new(Status::default());
    status.set_synced();
    Responder::new(zone(), status, access)
}

/// A server that speaks QUIC at one address, and plain DNS at another.
struct Server {
    quic: SocketAddr,
    plain: SocketAddr,
    authority: Authority,
    certificates: Certificates,
    metrics: Arc<Metrics>,
    stop: Shutdown,
    running: JoinHandle<anyhow::Result<()>>,
    panics: PanicWatch,
}

impl Server {
    fn start(limits: ConnectionLimits) -> Self {
        Self::with("127.0.0.1:0", limits, responder(AccessList::default()), None)
    }

    /// One that asks this upstream for names outside its zones.
    fn forwarding(upstream: SocketAddr) -> Self {
        let names_for = vec!["127.0.0.0/8".parse().unwrap()];
        let outside = ForwardPolicy { allowed_clients: names_for, aliases: false, special: SpecialNames::new(false) };
        Self::with("127.0.0.1:0", limits(), responder(AccessList::default()).with_forwarding(outside), Some(upstream))
    }

    #[allow(clippy::disallowed_methods, reason = "`stopped` awaits it")]
    fn with(listen: &str, limits: ConnectionLimits, responder: Responder, upstream: Option<SocketAddr>) -> Self {
        let address = listen.parse().unwrap();
        let listen = [ListenAddress { protocol: ListenProtocol::Quic, address }, ListenAddress::plain(address)];
        let authority = Authority::new();
        let [certificate, key] = authority.paths();
        let certificates = Certificates::load(&certificate, &key).unwrap();
        let listeners = Listeners::inherit(InheritedSockets::default(), &listen, 1).unwrap();
        let listeners = listeners.certified(Some(certificates.clone()));
        let [quic, plain] = listeners.addresses()[..] else { panic!("two addresses") };
        let (metrics, stop) = (Arc::<Metrics>::default(), Shutdown::default());
        let mut server = server::Server::new(Arc::new(responder), Arc::clone(&metrics), limits, 1, stop.clone());
        if let Some(address) = upstream {
            let upstream = [Upstream { address, protocol: forward::UpstreamProtocol::Plain }];
            server = server.with_forwarder(Forwarder::new(&upstream, &[]).unwrap()).unwrap();
        }
        server.start(listeners).unwrap();
        let (_, none) = mpsc::unbounded_channel();
        let running = tokio::spawn(server.run(none));
        Self { quic, plain, authority, certificates, metrics, stop, running, panics: PanicWatch::start() }
    }

    async fn connect(&self) -> Connection {
        self.connect_as(Client::of(&self.authority)).await
    }

    async fn connect_as(&self, client: Client) -> Connection {
        client.begin(self.quic).await.unwrap()
    }

    fn total(&self, event: Event) -> u64 {
        self.metrics.total(event)
    }

    fn handshakes_failed(&self, reason: &str) -> u32 {
        let text = self.metrics.render(&Status::default(), ZoneFigures::default(), ExpositionFormat::Text);
        let series = format!(r#"headless_dns_handshake_failures_total{{proto="quic",reason="{reason}"}} "#);
        text.lines().find_map(|line| line.strip_prefix(&series)).map_or(0, |count| count.parse().unwrap())
    }

    async fn stopped(self) -> Arc<Metrics> {
        self.stop.drain();
        timeout(WAIT_TIMEOUT, self.running).await.expect("stops in time").unwrap().unwrap();
        self.panics.assert_none();
        assert_eq!(self.metrics.total(Event::TcpAccepted), self.metrics.total(Event::TcpClosed));
        self.metrics
    }
}

/// Settings of a client.
struct Client {
    from: SocketAddr,
    tls: rustls::ClientConfig,
    transport: TransportConfig,
}

impl Client {
    fn of(authority: &Authority) -> Self {
        let from = (Ipv4Addr::LOCALHOST, 0).into();
        Self { from, tls: authority.client(&[b"doq"]), transport: TransportConfig::default() }
    }

    fn from(self, from: [u8; 4]) -> Self {
        Self { from: (from, 0).into(), ..self }
    }

    /// Limits flow control, so that a client which does not read receives only the beginning of a response.
    fn narrow(mut self) -> Self {
        self.transport.stream_receive_window(VarInt::from_u32(1000));
        self
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::client(self.from).unwrap()
    }

    fn config(self) -> ClientConfig {
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(self.tls).unwrap()));
        config.transport_config(Arc::new(self.transport));
        config
    }

    async fn begin(self, to: SocketAddr) -> Result<Connection, ConnectionError> {
        let endpoint = self.endpoint();
        let connecting = endpoint.connect_with(self.config(), to, NAME).unwrap();
        timeout(WAIT_TIMEOUT, connecting).await.expect("connected or refused in time")
    }

    /// The server refuses, with this error of QUIC itself.
    async fn check_refused(self, to: SocketAddr, code: u64) {
        match self.begin(to).await {
            Err(ConnectionError::ConnectionClosed(close)) => assert_eq!(u64::from(close.error_code), code, "{close}"),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("connected"),
        }
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

/// Opens a stream, sends this and ends it.
async fn begin(connection: &Connection, query: &[u8]) -> (SendStream, RecvStream) {
    let (mut send, receive) = connection.open_bi().await.unwrap();
    send.write_all(&framed(query)).await.unwrap();
    send.finish().unwrap();
    (send, receive)
}

async fn receive(stream: &mut RecvStream) -> Result<Vec<u8>, ReadToEndError> {
    timeout(WAIT_TIMEOUT, stream.read_to_end(usize::MAX)).await.expect("answered in time")
}

/// Sends octets on a new stream, ends it, and returns the received octets.
async fn send(connection: &Connection, octets: &[u8]) -> Result<Vec<u8>, ReadToEndError> {
    let opened = connection.open_bi().await.map_err(ReadError::ConnectionLost);
    let (mut send, mut stream) = opened.map_err(ReadToEndError::Read)?;
    // Both fail where the server has already had enough, which reading tells.
    let _ = send.write_all(octets).await;
    let _ = send.finish();
    receive(&mut stream).await
}

/// Asks, and returns the response without its length.
async fn ask(connection: &Connection, query: &[u8]) -> Vec<u8> {
    let response = send(connection, &framed(query)).await.unwrap();
    let length = u16::from_be_bytes([response[0], response[1]]);
    assert_eq!(usize::from(length), response.len() - 2, "one response, and nothing else");
    response[2..].to_vec()
}

fn web() -> Vec<u8> {
    query(0, &wire(WEB), A_TYPE, Some(1232))
}

fn large() -> Vec<u8> {
    query(0, &wire(LARGE), A_TYPE, Some(1232))
}

fn check(response: &[u8], answers: usize) {
    let message = Message::from_vec(response).unwrap();
    assert_eq!((message.metadata.id, message.answers.len()), (0, answers));
}

async fn ask_web(connection: &Connection) {
    check(&ask(connection, &web()).await, 3);
}

/// Returns the error code and the reason of the server's CONNECTION_CLOSE.
async fn closed(connection: &Connection) -> (u32, String) {
    match timeout(WAIT_TIMEOUT, connection.closed()).await.expect("closed in time") {
        ConnectionError::ApplicationClosed(close) => {
            let code = u64::from(close.error_code).try_into().unwrap();
            (code, String::from_utf8(close.reason.to_vec()).unwrap())
        }
        error => panic!("{error}"),
    }
}

async fn check_closed(connection: &Connection, code: u32, reason: &str) {
    assert_eq!(closed(connection).await, (code, reason.to_owned()));
}

async fn until(reached: impl Fn() -> bool) {
    let wait = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(WAIT_TIMEOUT, wait).await.expect("reached in time");
}

fn is_pending(future: impl Future) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

// Answers.

#[tokio::test(flavor = "multi_thread")]
async fn answers_equal_tcp() {
    let server = Server::start(limits());
    let connection = server.connect().await;
    let mut tcp = TcpStream::connect(server.plain).await.unwrap();
    // With the ID 0, and in the same order, they are the same down to the rotation of RRsets.
    for (name, qtype, edns) in [
        (WEB, 1, None),
        (WEB, 1, Some(512)),
        (WEB, 28, None),
        (LARGE, 1, None),
        (LARGE, 1, Some(1232)),
        (LARGE, 33, None),
        ("web-2.web.default.svc.cluster.local", 1, None),
        ("_http._tcp.web.default.svc.cluster.local", 33, None),
        ("alias.default.svc.cluster.local", 1, None),
        ("missing.default.svc.cluster.local", 1, Some(1232)),
        ("cluster.local", 6, None),
        ("cluster.local", 252, None),
        ("example.test", 1, Some(1232)),
        (".", 2, None),
    ] {
        let query = query(0, &wire(name), qtype, edns);
        tcp.write_all(&framed(&query)).await.unwrap();
        let mut expected = vec![0; usize::from(tcp.read_u16().await.unwrap())];
        tcp.read_exact(&mut expected).await.unwrap();
        assert_eq!(ask(&connection, &query).await, expected, "{name} {qtype}");
    }
    check(&ask(&connection, &large()).await, 4090);
    drop(tcp);
    let metrics = server.stopped().await;
    assert_eq!((metrics.total(Event::QuicReceived), metrics.total(Event::TcpReceived)), (15, 14));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_a_hundred_concurrent_streams() {
    let server = Server::start(limits());
    let connection = server.connect().await;
    let mut streams = Vec::new();
    for _ in 0..100 {
        let (mut send, receive) = connection.open_bi().await.unwrap();
        // Each is begun before the first is asked.
        send.write_all(&framed(&web())[..5]).await.unwrap();
        streams.push((send, receive));
    }
    assert!(is_pending(connection.open_bi()), "a hundred are enough");
    for (send, _) in streams.iter_mut().rev() {
        send.write_all(&framed(&web())[5..]).await.unwrap();
        send.finish().unwrap();
    }
    for (_, stream) in &mut streams {
        check(&receive(stream).await.unwrap()[2..], 3);
    }
    for _ in 0..300 {
        ask_web(&connection).await;
    }
    assert_eq!(server.stopped().await.total(Event::QuicReceived), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_largest_query() {
    let server = Server::start(limits());
    let connection = server.connect().await;
    let mut largest = web();
    largest.resize(65_535, 0);
    assert_eq!(ask(&connection, &largest).await[3] & 0x0f, 1, "FORMERR");
    ask_web(&connection).await;
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wildcard_socket_replies_from_queried_address() {
    // quinn takes no packet from another address than the one it asked.
    for (listen, from, asked) in [
        ("0.0.0.0:0", "127.0.0.1:0", "127.0.0.1"),
        ("0.0.0.0:0", "127.0.0.1:0", "127.0.0.2"),
        ("[::]:0", "[::1]:0", "::1"),
    ] {
        let server = Server::with(listen, limits(), responder(AccessList::default()), None);
        let client = Client { from: from.parse().unwrap(), ..Client::of(&server.authority) };
        let to = SocketAddr::new(asked.parse().unwrap(), server.quic.port());
        ask_web(&client.begin(to).await.unwrap()).await;
        server.stopped().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_hickory_client() {
    use hickory_net::client::{Client as HickoryClient, ClientHandle as _};
    use hickory_net::quic::QuicClientStream;
    use hickory_net::runtime::TokioRuntimeProvider;
    use hickory_proto::rr::{DNSClass, Name, RecordType};

    let server = Server::start(limits());
    let stream = QuicClientStream::builder().crypto_config(Client::of(&server.authority).tls);
    let stream =
        timeout(WAIT_TIMEOUT, stream.build(server.quic, NAME.into())).await.expect("connected in time").unwrap();
    let (mut client, exchange) = HickoryClient::<TokioRuntimeProvider>::from_sender(stream);
    let mut tasks = JoinSet::new();
    tasks.spawn(exchange);
    for (name, answers) in [(WEB, 3), (LARGE, 4090)] {
        let asked = client.query(Name::from_ascii(name).unwrap(), DNSClass::IN, RecordType::A);
        let response = timeout(WAIT_TIMEOUT, asked).await.expect("answered in time").unwrap();
        assert_eq!(response.answers.len(), answers);
    }
    server.stopped().await;
}

/// To validate it the server would send 1,200 octets there for a few: any client can forge it.
#[tokio::test(flavor = "multi_thread")]
async fn sends_no_datagram_to_forged_address() {
    let server = Server::start(limits());
    let forged = UdpSocket::bind("127.0.0.2:0").unwrap();
    forged.set_nonblocking(true).unwrap();
    let lossy = LossyProxy::forging(server.quic, Some(forged.try_clone().unwrap())).await;
    let connection = Client::of(&server.authority).begin(lossy.address).await.unwrap();
    ask_web(&connection).await;
    lossy.is_forging.store(true, Ordering::Relaxed);
    // Each datagram comes from the other address first.
    ask_web(&connection).await;
    ask_web(&connection).await;
    assert_eq!(forged.recv(&mut [0; 2048]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(server.stopped().await.total(Event::TcpAccepted), 1);
}

fn shown(connection: &Connection) -> CertificateDer<'static> {
    connection.peer_identity().unwrap().downcast::<Vec<CertificateDer<'static>>>().unwrap()[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn new_certificate_applies_to_new_connections() {
    let server = Server::start(limits());
    let old = server.connect().await;
    let pair = server.authority.pair();
    server.authority.write(&pair);
    assert!(server.certificates.reload().unwrap(), "it is another one");
    let new = server.connect().await;
    assert_eq!(shown(&new), pair.der);
    assert_ne!(shown(&old), pair.der);
    ask_web(&new).await;
    ask_web(&old).await;
    server.stopped().await;
}

/// RFC 9250 section 4.5: early data, which others could replay, is not accepted.
#[tokio::test(flavor = "multi_thread")]
async fn accepts_no_early_data() {
    let server = Server::start(limits());
    let mut client = Client::of(&server.authority);
    client.tls.enable_early_data = true;
    let (endpoint, config) = (client.endpoint(), client.config());
    for resumes in [false, true] {
        let connecting = endpoint.connect_with(config.clone(), server.quic, NAME).unwrap();
        let Err(connecting) = connecting.into_0rtt() else { panic!("it was offered, resuming: {resumes}") };
        let connection = timeout(WAIT_TIMEOUT, connecting).await.expect("connected in time").unwrap();
        // By then the client can resume.
        ask_web(&connection).await;
    }
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_or_drops_denied_clients() {
    for silent in [false, true] {
        let access = AccessList { allow: vec!["127.0.0.2/32".parse().unwrap()], silent };
        let server = Server::with("127.0.0.1:0", limits(), responder(access), None);
        let connection = server.connect().await;
        match send(&connection, &framed(&web())).await {
            Ok(response) => assert!(!silent && response[5] & 0x0f == 5, "REFUSED: {response:?}"),
            Err(_) => assert!(silent),
        }
        if silent {
            check_closed(&connection, PROTOCOL_ERROR, "the message gets no response").await;
        }
        ask_web(&server.connect_as(Client::of(&server.authority).from([127, 0, 0, 2])).await).await;
        server.stopped().await;
    }
}

// Misbehaving clients.

/// RFC 9250 section 4.3.3.
#[tokio::test(flavor = "multi_thread")]
async fn protocol_errors_close_connection() {
    let server = Server::start(limits());
    let mut named = web();
    named[1] = 7;
    let mut keeps_alive = web();
    let end = keeps_alive.len();
    keeps_alive[end - 1] = 4;
    keeps_alive.extend([0, 11, 0, 0]);
    let mut response = web();
    response[2] |= 0x80;
    for (reason, octets) in [
        ("the message ID is not 0", framed(&named)),
        ("the option edns-tcp-keepalive is for TCP only", framed(&keeps_alive)),
        ("more than one query on a stream", [framed(&web()), framed(&web())].concat()),
        ("more than one query on a stream", [framed(&web()), vec![0]].concat()),
        ("the stream ends before the query is complete", vec![]),
        ("the stream ends before the query is complete", vec![0]),
        ("the stream ends before the query is complete", vec![0, 1]),
        ("the stream ends before the query is complete", framed(&web())[..20].to_vec()),
        ("the message gets no response", framed(&[])),
        ("the message gets no response", framed(&web()[..11])),
        ("the message gets no response", framed(&response)),
    ] {
        let connection = server.connect().await;
        ask_web(&connection).await;
        assert!(send(&connection, &octets).await.is_err(), "{reason}");
        check_closed(&connection, PROTOCOL_ERROR, reason).await;
    }
    ask_web(&server.connect().await).await;
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_unfinished_stream() {
    let server = Server::start(ConnectionLimits { unfinished: SHORT, ..limits() });
    let whole = framed(&web());
    for (begin, code, reason) in [
        (&whole[..1], EXCESSIVE_LOAD, "the query was not complete in time"),
        (&whole[..20], EXCESSIVE_LOAD, "the query was not complete in time"),
        (&whole[..], PROTOCOL_ERROR, "the stream does not end after the query"),
    ] {
        let connection = server.connect().await;
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(begin).await.unwrap();
        check_closed(&connection, code, reason).await;
    }
    assert_eq!(server.stopped().await.total(Event::TcpSlow), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_stream_keeps_its_deadline_and_delays_no_other() {
    let server = Server::start(ConnectionLimits { unfinished: Duration::from_secs(1), ..limits() });
    let connection = server.connect().await;
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&10_000u16.to_be_bytes()).await.unwrap();
    ask_web(&connection).await;
    let mut octets = tokio::time::interval(SHORT / 10);
    let cut = async {
        while send.write_all(&[0]).await.is_ok() {
            octets.tick().await;
        }
    };
    timeout(WAIT_TIMEOUT, cut).await.expect("cut in time");
    check_closed(&connection, EXCESSIVE_LOAD, "the query was not complete in time").await;
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accepts_no_unidirectional_streams_or_datagrams() {
    let server = Server::start(limits());
    let connection = server.connect().await;
    ask_web(&connection).await;
    assert!(is_pending(connection.open_uni()), "none is allowed");
    assert_eq!(connection.max_datagram_size(), None);
    server.stopped().await;
}

/// RFC 9250 section 4.3.1.
#[tokio::test(flavor = "multi_thread")]
async fn accepts_cancelled_requests() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = Server::forwarding(silent.local_addr().unwrap());
    let connection = server.connect().await;
    // Before the query is whole.
    let (mut send, mut stream) = connection.open_bi().await.unwrap();
    send.write_all(&framed(&web())[..20]).await.unwrap();
    send.reset(VarInt::from_u32(REQUEST_CANCELLED)).unwrap();
    let reset = receive(&mut stream).await.unwrap_err();
    assert_eq!(reset, ReadToEndError::Read(ReadError::Reset(VarInt::from_u32(REQUEST_CANCELLED))));
    // And while others are asked.
    let (_send, mut stream) = begin(&connection, &query(0, &question_name("host.example.test"), A_TYPE, None)).await;
    until(|| server.total(Event::Forwarded) == 1).await;
    stream.stop(VarInt::from_u32(REQUEST_CANCELLED)).unwrap();
    ask_web(&connection).await;
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn survives_mutated_stream_contents() {
    let server = Server::start(limits());
    let (seeds, mut numbers) = (seeds(), Rng(0xd09));
    let mut connection = server.connect().await;
    let (mut answered, mut cut) = (0, 0);
    for _ in 0..common::scaled(100_000) {
        let mut packet = mutate(&seeds, &mut numbers);
        if numbers.below(10) > 0 {
            packet.iter_mut().take(2).for_each(|octet| *octet = 0);
        }
        let forbidden =
            packet.len() < 12 || packet[..2] != [0, 0] || packet[2] & 0x80 != 0 || has_option(&packet, TCP_KEEPALIVE);
        match send(&connection, &framed(&packet)).await {
            Ok(response) => {
                assert!(!forbidden, "{packet:02x?} got {response:02x?}");
                assert_eq!(response, framed(&response[2..]), "one response, and nothing else");
                let response = &response[2..];
                assert_eq!(response[..2], [0, 0], "{packet:02x?}");
                assert_eq!(response[2] & 0xf8, 0x80 | packet[2] & 0x78, "QR and the opcode: {packet:02x?}");
                assert!(packet[2] & 0x78 != 0 || Message::from_vec(response).is_ok(), "{packet:02x?}");
                answered += 1;
            }
            Err(error) => {
                assert!(forbidden, "{packet:02x?}: {error}");
                assert_eq!(closed(&connection).await.0, PROTOCOL_ERROR);
                connection = server.connect().await;
                cut += 1;
            }
        }
    }
    assert!(answered > cut && cut > 0, "{answered} answered, {cut} cut");
    ask_web(&connection).await;
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_affects_no_connection() {
    let server = Server::start(limits());
    let connection = server.connect().await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let initial = initials(&server, 1).remove(0);
    let mut numbers = Rng(0x9a5ba9e);
    for sent in 0..common::scaled(1_000_000) {
        if sent % 1000 == 0 {
            ask_web(&connection).await;
        }
        let mut datagram: Vec<u8> = match numbers.below(4) {
            0 => (0..numbers.below(1400)).map(|_| numbers.next() as u8).collect(),
            1 => initial[..numbers.below(initial.len())].to_vec(),
            _ => initial.clone(),
        };
        for _ in 0..=numbers.below(4) {
            let at = numbers.below(datagram.len());
            datagram.iter_mut().skip(at).take(1).for_each(|octet| *octet ^= 1 << numbers.below(8));
        }
        socket.send_to(&datagram, server.quic).unwrap();
    }
    ask_web(&connection).await;
    ask_web(&server.connect().await).await;
    server.stopped().await;
}

// Limits.

#[tokio::test(flavor = "multi_thread")]
async fn closes_idle_connection_despite_pings() {
    let server = Server::start(ConnectionLimits { idle: SHORT * 2, ..limits() });
    let silent = server.connect().await;
    let mut client = Client::of(&server.authority);
    client.transport.keep_alive_interval(Some(SHORT / 5));
    let pings = server.connect_as(client).await;
    check_closed(&silent, NO_ERROR, "").await;
    check_closed(&pings, NO_ERROR, "").await;
    assert_eq!(server.stopped().await.total(Event::TcpIdle), 2);
}

/// Asks for more than the client takes.
async fn gorge(connection: &Connection, count: usize) -> Vec<RecvStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(begin(connection, &large()).await.1);
    }
    streams
}

#[tokio::test(flavor = "multi_thread")]
async fn closes_connections_that_read_nothing() {
    let server = Server::start(ConnectionLimits { unread: Duration::from_secs(1), ..limits() });
    let greedy = server.connect_as(Client::of(&server.authority).narrow()).await;
    let _streams = gorge(&greedy, 10).await;
    ask_web(&server.connect().await).await;
    check_closed(&greedy, EXCESSIVE_LOAD, "the response was not read in time").await;
    assert_eq!(server.stopped().await.total(Event::TcpSlow), 1);
}

/// A proxy between a client and the server that drops packets.
struct LossyProxy {
    address: SocketAddr,
    /// Lost datagrams in percent, to the server and back.
    losses: Arc<[AtomicUsize; 2]>,
    /// Datagrams to the server are sent from a forged address first.
    is_forging: Arc<AtomicBool>,
    _task: JoinSet<()>,
}

impl LossyProxy {
    async fn to(server: SocketAddr) -> Self {
        Self::forging(server, None).await
    }

    async fn forging(server: SocketAddr, forged: Option<UdpSocket>) -> Self {
        let near = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let far = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        far.connect(server).await.unwrap();
        let (address, losses) = (near.local_addr().unwrap(), Arc::<[AtomicUsize; 2]>::default());
        let (percents, mut task) = (Arc::clone(&losses), JoinSet::new());
        let is_forging = Arc::<AtomicBool>::default();
        let forges = Arc::clone(&is_forging);
        task.spawn(async move {
            let (mut there, mut back, mut client, mut numbers) = ([0; 2048], [0; 2048], address, Rng(0x1055));
            loop {
                let mut is_lost = |way: usize| numbers.below(100) < percents[way].load(Ordering::Relaxed);
                // A failed send is a loss too.
                tokio::select! {
                    Ok((length, from)) = near.recv_from(&mut there) => {
                        client = from;
                        if let Some(forged) = forged.as_ref().filter(|_| forges.load(Ordering::Relaxed)) {
                            forged.send_to(&there[..length], server).unwrap();
                        }
                        if !is_lost(0) {
                            let _ = far.send(&there[..length]).await;
                        }
                    }
                    Ok(length) = far.recv(&mut back) => if !is_lost(1) {
                        let _ = near.send_to(&back[..length], client).await;
                    },
                }
            }
        });
        Self { address, losses, is_forging, _task: task }
    }

    fn lose(&self, percents: [usize; 2]) {
        self.losses.iter().zip(percents).for_each(|(losses, percent)| losses.store(percent, Ordering::Relaxed));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retransmits_lost_packets() {
    let server = Server::start(limits());
    let lossy = LossyProxy::to(server.quic).await;
    lossy.lose([10, 10]);
    let connection = Client::of(&server.authority).begin(lossy.address).await.unwrap();
    let mut streams = gorge(&connection, 5).await;
    for _ in 0..50 {
        ask_web(&connection).await;
    }
    for stream in &mut streams {
        check(&receive(stream).await.unwrap()[2..], 4090);
    }
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closes_connection_without_acknowledgements() {
    let server = Server::start(ConnectionLimits { unread: Duration::from_secs(1), ..limits() });
    let lossy = LossyProxy::to(server.quic).await;
    let connection = Client::of(&server.authority).begin(lossy.address).await.unwrap();
    ask_web(&connection).await;
    lossy.lose([0, 100]);
    let _streams = gorge(&connection, 1).await;
    until(|| server.total(Event::TcpSlow) == 1).await;
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_client_that_reads_late() {
    let server = Server::start(limits());
    let late = server.connect_as(Client::of(&server.authority).narrow()).await;
    let mut streams = gorge(&late, 10).await;
    until(|| server.total(Event::QuicReceived) == 10).await;
    for stream in streams.iter_mut().rev() {
        check(&receive(stream).await.unwrap()[2..], 4090);
    }
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closes_connection_over_memory_limit() {
    let server = Server::start(ConnectionLimits { buffered_bytes: 200_000, ..limits() });
    let greedy = server.connect_as(Client::of(&server.authority).narrow()).await;
    let _streams = gorge(&greedy, 10).await;
    check_closed(&greedy, EXCESSIVE_LOAD, "too many octets are buffered for slow clients").await;
    // Its buffered octets are released.
    let other = server.connect().await;
    for _ in 0..10 {
        check(&ask(&other, &large()).await, 4090);
    }
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn charges_waiting_streams_for_overhead() {
    let server = Server::start(ConnectionLimits { buffered_bytes: 100_000, ..limits() });
    let connection = server.connect().await;
    let mut streams = Vec::new();
    for _ in 0..60 {
        // Some may find the connection closed.
        let Ok((mut send, receive)) = connection.open_bi().await else { break };
        let _ = send.write_all(&[0]).await;
        streams.push((send, receive));
    }
    check_closed(&connection, EXCESSIVE_LOAD, "too many octets are buffered for slow clients").await;
    ask_web(&server.connect().await).await;
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evicts_longest_idle_connection_at_limit() {
    let server = Server::start(ConnectionLimits { connections: 3, ..limits() });
    let mut connections = Vec::new();
    for _ in 0..3 {
        let connection = server.connect().await;
        ask_web(&connection).await;
        connections.push(connection);
    }
    ask_web(&connections[0]).await;
    ask_web(&server.connect().await).await;
    check_closed(&connections[1], EXCESSIVE_LOAD, "").await;
    for kept in [0, 2] {
        ask_web(&connections[kept]).await;
    }
    assert_eq!(server.stopped().await.total(Event::TcpOverLimit), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn evicts_longest_idle_connection_above_share() {
    let server = Server::start(ConnectionLimits { large: 2, ..limits() });
    let mut tcp = TcpStream::connect(server.plain).await.unwrap();
    until(|| server.total(Event::TcpAccepted) == 1).await;
    let (one, two) = (server.connect().await, server.connect().await);
    ask_web(&one).await;
    ask_web(&two).await;
    // An unvalidated client gets a Retry, and no connection is evicted for it.
    assert_eq!(half_open(server.quic, &initials(&server, 1)), 1);
    ask_web(&one).await;
    ask_web(&server.connect().await).await;
    check_closed(&two, EXCESSIVE_LOAD, "").await;
    ask_web(&one).await;
    // It has been idle for longer, and is none of them.
    tcp.write_all(&framed(&query(7, &wire(WEB), A_TYPE, None))).await.unwrap();
    timeout(WAIT_TIMEOUT, tcp.read_exact(&mut [0; 2])).await.expect("answered in time").unwrap();
    assert_eq!(server.stopped().await.total(Event::TcpOverLimit), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn closes_new_connection_above_client_limit() {
    let server = Server::start(ConnectionLimits { per_client: 1, ..limits() });
    let connection = server.connect().await;
    Client::of(&server.authority).check_refused(server.quic, REFUSED).await;
    ask_web(&server.connect_as(Client::of(&server.authority).from([127, 0, 0, 2])).await).await;
    ask_web(&connection).await;
    // It is one limit with that of connections over TCP.
    let mut tcp = TcpStream::connect(server.plain).await.unwrap();
    assert_eq!(timeout(WAIT_TIMEOUT, tcp.read(&mut [0; 1])).await.expect("closed in time").unwrap_or(0), 0);
    assert_eq!(server.stopped().await.total(Event::TcpOverLimit), 2);
}

// Handshakes.

/// Returns the first datagrams of `count` connections, sent to a socket that never answers.
fn initials(server: &Server, count: usize) -> Vec<Vec<u8>> {
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    nobody.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    let client = Client::of(&server.authority);
    let (endpoint, config) = (client.endpoint(), client.config());
    let (mut initials, mut connecting, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    let mut datagram = [0; 2048];
    while initials.len() < count {
        connecting.push(endpoint.connect_with(config.clone(), nobody.local_addr().unwrap(), NAME).unwrap());
        // One that is sent again is not another one.
        loop {
            let length = nobody.recv(&mut datagram).expect("the first datagram");
            if seen.insert(own_id(&datagram).to_vec()) {
                initials.push(datagram[..length].to_vec());
                break;
            }
        }
    }
    initials
}

/// Returns the destination connection ID of a datagram with a long header (RFC 8999 section 5.1).
fn other_id(datagram: &[u8]) -> &[u8] {
    &datagram[6..][..usize::from(datagram[5])]
}

/// Returns its source connection ID.
fn own_id(datagram: &[u8]) -> &[u8] {
    let at = 6 + usize::from(datagram[5]);
    &datagram[at + 1..][..usize::from(datagram[at])]
}

/// Sends each of these and waits for the first response to it, as a client that goes no further; returns how many got
/// a Retry packet (RFC 9000 section 17.2.5).
fn half_open(to: SocketAddr, initials: &[Vec<u8>]) -> usize {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    let (mut retried, mut datagram) = (0, [0; 2048]);
    for initial in initials {
        socket.send_to(initial, to).unwrap();
        loop {
            socket.recv(&mut datagram).expect("a response");
            // Retransmissions for earlier connections.
            if datagram[0] & 0x80 != 0 && other_id(&datagram) == own_id(initial) {
                retried += usize::from(datagram[0] & 0x30 == 0x30);
                break;
            }
        }
    }
    retried
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_handshakes_delay_no_other_and_require_retry() {
    let server = Server::start(ConnectionLimits { drain: SHORT, ..limits() });
    let before = server.connect().await;
    let all = 1000;
    assert_eq!(half_open(server.quic, &initials(&server, all)), all - UNPROVEN);
    // None of them ends during this test: a client that waited for one would time out.
    for number in 1..=20 {
        ask_web(&server.connect_as(Client::of(&server.authority).from([127, 0, 0, number])).await).await;
    }
    ask_web(&before).await;
    assert_eq!(server.total(Event::TcpAccepted), UNPROVEN as u64 + 21);
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retransmitted_initial_packet_delays_no_other() {
    let server = Server::start(limits());
    let initial = initials(&server, 1);
    half_open(server.quic, &initial);
    for _ in 0..20 {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..50 {
            socket.send_to(&initial[0], server.quic).unwrap();
        }
    }
    ask_web(&server.connect().await).await;
    assert_eq!(server.total(Event::TcpAccepted), 2, "they are all one");
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshake_has_time_limit() {
    let server = Server::start(ConnectionLimits { handshake: SHORT, ..limits() });
    half_open(server.quic, &initials(&server, 1));
    until(|| server.total(Event::TcpSlow) == 1).await;
    assert_eq!(server.handshakes_failed("late"), 1);
    server.stopped().await;
}

/// A client with a ClientHello above the limit of a handshake: it offers so many protocols.
fn verbose(authority: &Authority, octets: usize) -> Client {
    let mut client = Client::of(authority);
    client.tls.alpn_protocols.extend((0..octets / 256).map(|_| vec![b'x'; 255]));
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn handshake_has_octet_limit() {
    let server = Server::start(limits());
    ask_web(&server.connect_as(verbose(&server.authority, 12 << 10)).await).await;
    verbose(&server.authority, 20 << 10).check_refused(server.quic, CRYPTO_BUFFER_EXCEEDED).await;
    ask_web(&server.connect().await).await;
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evicts_longest_handshake_over_budget() {
    // For two handshakes.
    let server = Server::start(ConnectionLimits { buffered_bytes: 130 << 10, ..limits() });
    half_open(server.quic, &initials(&server, 5));
    until(|| server.total(Event::TcpClosed) == 3).await;
    assert_eq!(server.total(Event::TcpSlow), 3);
    ask_web(&server.connect().await).await;
    server.stopped().await;
}

/// Sends datagrams from one address, never answers, and returns how many octets were sent and received until the server
/// has ended its handshakes.
async fn amplification(server: Server, datagrams: &[Vec<u8>], accepted: u64) -> (usize, usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut sent = 0;
    for datagram in datagrams {
        sent += socket.send_to(datagram, server.quic).unwrap();
    }
    // One that is answered behind them: they have been read.
    ask_web(&server.connect().await).await;
    until(|| server.total(Event::TcpSlow) == accepted).await;
    server.stopped().await;
    let (mut received, mut datagram) = (0, [0; 2048]);
    while let Ok(length) = socket.recv(&mut datagram) {
        received += length;
    }
    (sent, received)
}

/// Certificates by the number of their names.
const CHAINS: [&str; 9] =
    ["1 name", "21 names", "41 names", "61 names", "81 names", "101 names", "121 names", "141 names", "161 names"];

/// RFC 9000 section 8.1. The handshakes live long enough for datagrams to be sent again, twice.
#[tokio::test(flavor = "multi_thread")]
async fn limits_amplification_before_validation() {
    let start = |names: usize| {
        let server = Server::start(ConnectionLimits { handshake: Duration::from_secs(4), ..limits() });
        if names > 0 {
            let all = (0..names).map(|number| format!("{number}.long-chain.example.test")).chain([NAME.to_owned()]);
            server.authority.write(&server.authority.pair_for(all.collect()));
            assert!(server.certificates.reload().is_ok());
        }
        server
    };
    let altered = |datagrams: Vec<Vec<u8>>, alter: fn(&mut Vec<u8>)| -> Vec<Vec<u8>> {
        datagrams
            .into_iter()
            .map(|mut datagram| {
                alter(&mut datagram);
                datagram
            })
            .collect()
    };
    let mut cases = JoinSet::new();
    // Chains of 0.5 to 6 kB: where the last datagram of the first flight is short, quinn alone sends one too many.
    for names in (0..=160).step_by(20) {
        let server = start(names);
        let datagrams = initials(&server, 1);
        cases.spawn(async move { (CHAINS[names / 20], amplification(server, &datagrams, 1).await) });
    }
    for (what, names, count, alter, accepted) in [
        ("several handshakes", 150, 5, (|_| {}) as fn(&mut Vec<u8>), 5),
        ("so many that some are answered with Retry", 20, UNPROVEN + 100, |_| {}, UNPROVEN as u64),
        ("no valid packet", 0, 10, |datagram| datagram[600] ^= 1, 0),
        ("another version", 0, 10, |datagram| datagram[1..5].copy_from_slice(&[0x1a; 4]), 0),
        ("a connection ID that is too short", 0, 10, |datagram| datagram[5] = 7, 0),
        ("the short header of no connection", 0, 10, |datagram| datagram[0] = 0x40, 0),
    ] {
        let server = start(names);
        let datagrams = altered(initials(&server, count), alter);
        cases.spawn(async move { (what, amplification(server, &datagrams, accepted).await) });
    }
    let all = cases.join_all().await;
    println!("octets sent and received: {all:?}");
    for (what, (sent, received)) in &all {
        assert!(*received <= 3 * sent, "{what}: {received} for {sent}");
    }
    let of = |case| all.iter().find(|(what, _)| *what == case).unwrap().1;
    assert_eq!(of(CHAINS[8]).1, 3 * of(CHAINS[8]).0, "the limit is reached");
    assert!(of("another version").1 > 0 && of("the short header of no connection").1 == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_handshake_evicts_no_connection() {
    let server = Server::start(ConnectionLimits { connections: 2, ..limits() });
    let (one, two) = (server.connect().await, server.connect().await);
    assert_eq!(half_open(server.quic, &initials(&server, 1)), 1);
    ask_web(&one).await;
    ask_web(&two).await;
    let metrics = server.stopped().await;
    assert_eq!((metrics.total(Event::TcpAccepted), metrics.total(Event::TcpOverLimit)), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_handshake_failures_by_reason() {
    let server = Server::start(limits());
    for protocols in [vec![], vec![b"h3".to_vec()]] {
        let mut client = Client::of(&server.authority);
        client.tls.alpn_protocols = protocols;
        client.check_refused(server.quic, NO_PROTOCOL).await;
    }
    let stranger = Client::of(&Authority::new()).begin(server.quic).await;
    assert!(matches!(stranger, Err(ConnectionError::TransportError(_))), "{stranger:?}");
    until(|| server.handshakes_failed("certificate") == 1).await;
    assert_eq!(server.handshakes_failed("refused"), 2);
    ask_web(&server.connect().await).await;
    server.stopped().await;
}

// The end.

/// The inode of the UDP socket that is bound to this IPv4 address and not connected.
fn udp_inode(address: SocketAddr) -> Option<u64> {
    let SocketAddr::V4(v4) = address else { panic!("{address} is not of IPv4") };
    let local = format!("{:08X}:{:04X}", u32::from_le_bytes(v4.ip().octets()), v4.port());
    // proc(5): local_address is the second column, rem_address the third, the inode the tenth.
    let table = std::fs::read_to_string("/proc/net/udp").unwrap();
    table.lines().find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        (columns[1] == local && columns[2] == "00000000:0000").then(|| columns[9].parse().unwrap())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_received_queries_at_shutdown() {
    let server = Server::start(limits());
    let (busy, idle) = (server.connect().await, server.connect().await);
    let mut streams = gorge(&busy, 50).await;
    until(|| server.total(Event::QuicReceived) == 50).await;
    let (quic, socket) = (server.quic, udp_inode(server.quic));
    assert!(socket.is_some());
    server.stop.drain();
    for stream in &mut streams {
        check(&receive(stream).await.unwrap()[2..], 4090);
    }
    check_closed(&busy, NO_ERROR, "").await;
    check_closed(&idle, NO_ERROR, "").await;
    server.stopped().await;
    // The socket is closed; its port may be another process's by now.
    assert_ne!(udp_inode(quic), socket);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_refuses_new_connections_and_answers_pending() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = Server::forwarding(silent.local_addr().unwrap());
    let connection = server.connect().await;
    let name = question_name("host.example.test");
    let (_send, mut stream) = begin(&connection, &query(0, &name, A_TYPE, Some(1232))).await;
    until(|| server.total(Event::Forwarded) == 1).await;
    server.stop.drain();
    Client::of(&server.authority).check_refused(server.quic, REFUSED).await;
    // It has a moment more, and then hears that nothing came of it.
    assert_eq!(extended(&receive(&mut stream).await.unwrap()[2..]).unwrap().0, 22);
    check_closed(&connection, NO_ERROR, "").await;
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_clients_do_not_delay_shutdown() {
    let server = Server::start(ConnectionLimits { drain: SHORT, ..limits() });
    let greedy = server.connect_as(Client::of(&server.authority).narrow()).await;
    let _streams = gorge(&greedy, 10).await;
    until(|| server.total(Event::QuicReceived) == 10).await;
    half_open(server.quic, &initials(&server, 1));
    server.stopped().await;
    check_closed(&greedy, NO_ERROR, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_closes_idle_connections_and_answers_new_ones() {
    let server = Server::start(limits());
    let quiet = server.connect().await;
    ask_web(&quiet).await;
    server.stop.lame_duck();
    check_closed(&quiet, NO_ERROR, "").await;
    let new = server.connect().await;
    ask_web(&new).await;
    check_closed(&new, NO_ERROR, "").await;
    server.stopped().await;
}

// Names of others.

#[tokio::test(flavor = "multi_thread")]
async fn forwarded_names_delay_no_other_stream() {
    let upstream = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = Server::forwarding(upstream.local_addr().unwrap());
    let connection = server.connect().await;
    let mut streams = Vec::new();
    for number in 0..20 {
        let name = question_name(&format!("host-{number}.example.test"));
        streams.push(begin(&connection, &query(0, &name, A_TYPE, Some(1232))).await.1);
    }
    until(|| server.total(Event::Forwarded) == 20).await;
    ask_web(&connection).await;
    let answers = async {
        let mut datagram = [0; 2048];
        loop {
            let (length, from) = upstream.recv_from(&mut datagram).await.unwrap();
            let query = Message::from_vec(&datagram[..length]).unwrap();
            let owner = query.queries[0].name().clone();
            let mut response = query.into_response();
            response.add_answers([Record::from_rdata(owner, 60, RData::A(A::new(192, 0, 2, 1)))]);
            upstream.send_to(&response.to_vec().unwrap(), from).await.unwrap();
        }
    };
    let checks = async {
        for stream in &mut streams {
            check(&receive(stream).await.unwrap()[2..], 1);
        }
    };
    tokio::select! { () = answers => {}, () = checks => {} }
    server.stopped().await;
}
