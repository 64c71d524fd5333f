//! DNS over HTTPS on real sockets: answers equal those over TCP, and a misbehaving client affects only itself.
//!
//! Good clients are h2 and hickory-dns; bad ones write frames by hand (RFC 9113 section 4.1). Tests wait for events, at most
//! [`WAIT_TIMEOUT`]. The table of requests and their status is in `doh.rs`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::mutants::Rng;
use crate::common::panics::PanicWatch;
use crate::common::tls::{self, Authority};
use crate::common::{self, query, question_name, scaled, service};
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Reason, RecvStream};
use headless_dns::metrics::{Event, ExpositionFormat, Metrics, ZoneFigures};
use headless_dns::server::forward::{Forwarder, Upstream, UpstreamProtocol};
use headless_dns::server::https::doh::{self, DohError, MEDIA_TYPE, QueryPlace};
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
    AddressFamily, Conditions, EndpointRow, EndpointSlice, Object, ObjectRef, ServiceKind,
};
use headless_dns_core::status::Status;
use headless_dns_core::zone::{Settings, Zone};
use hickory_proto::op::{DnsRequest, DnsRequestOptions, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use http::{HeaderMap, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// A limit that the test waits for.
const SHORT: Duration = Duration::from_secs(1);
/// A limit that no test reaches.
const LONG: Duration = Duration::from_secs(3600);
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

// The server.

/// `web` has three addresses, `large` 4,090, `out` is an alias to a name outside.
fn zone() -> Arc<Zone> {
    let apexes = vec![WireName::parse("cluster.local").unwrap()];
    let settings = Settings { apexes, ttl: 5, negative_ttl: 3, rules: NamingRules::default() };
    let zone = Arc::new(Zone::new(settings, ReverseZones::default()));
    let mut objects = vec![service("out", ServiceKind::ExternalName("db.example.test".into()))];
    for (name, addresses) in [("web", 3), ("large", 4090)] {
        let row = |number: u16| {
            let [high, low] = number.to_be_bytes();
            let address = [10, 1, high, low].into();
            EndpointRow { address, conditions: Conditions::READY, hostname: None, pod: None }
        };
        let rows: Vec<EndpointRow> = (0..addresses).map(row).collect();
        let slice = EndpointSlice::new(
            ObjectRef::new("default", name),
            Some(name.into()),
            AddressFamily::V4,
            Vec::new(),
            &rows,
        );
        objects.extend([service(name, ServiceKind::Headless), Object::EndpointSlice(slice)]);
    }
    Publisher::new(Arc::clone(&zone), PublisherOptions::default()).replace(objects);
    zone
}

/// A server for `cluster.local`, over UDP and TCP and over HTTPS.
struct Server {
    plain: SocketAddr,
    https: SocketAddr,
    authority: Authority,
    metrics: Arc<Metrics>,
    stop: Shutdown,
    running: JoinHandle<anyhow::Result<()>>,
    panics: PanicWatch,
}

impl Server {
    fn start(limits: ConnectionLimits) -> Self {
        Self::with(limits, AccessList::default(), None)
    }

    #[allow(clippy::disallowed_methods, reason = "`stopped` awaits it")]
    fn with(limits: ConnectionLimits, access: AccessList, upstream: Option<SocketAddr>) -> Self {
        let authority = Authority::new();
        let [certificate, key] = authority.paths();
        let certificates = Certificates::load(&certificate, &key).unwrap();
        let listen = [ListenProtocol::Plain, ListenProtocol::Https]
            .map(|kind| ListenAddress { protocol: kind, address: ([127, 0, 0, 1], 0).into() });
        let listeners =
            Listeners::inherit(InheritedSockets::default(), &listen, 1).unwrap().certified(Some(certificates));
        let [plain, https] = listeners.addresses().try_into().unwrap();
        let status = Arc::new(Status::default());
        status.set_synced();
        let mut responder = Responder::new(zone(), status, access);
        if upstream.is_some() {
            let names_for = vec!["127.0.0.0/8".parse().unwrap()];
            responder = responder.with_forwarding(ForwardPolicy {
                allowed_clients: names_for,
                aliases: true,
                special: SpecialNames::new(false),
            });
        }
        let (metrics, stop) = (Arc::<Metrics>::default(), Shutdown::default());
        let mut server = server::Server::new(Arc::new(responder), Arc::clone(&metrics), limits, 1, stop.clone());
        if let Some(address) = upstream {
            let upstreams = [Upstream { address, protocol: UpstreamProtocol::Plain }];
            server = server.with_forwarder(Forwarder::new(&upstreams, &upstreams).unwrap()).unwrap();
        }
        server.start(listeners).unwrap();
        let (_, none) = mpsc::unbounded_channel();
        let running = tokio::spawn(server.run(none));
        Self { plain, https, authority, metrics, stop, running, panics: PanicWatch::start() }
    }

    async fn stopped(self) -> Arc<Metrics> {
        self.stop.drain();
        timeout(WAIT_TIMEOUT, self.running).await.expect("stops in time").unwrap().unwrap();
        self.panics.assert_none();
        self.metrics
    }

    async fn counted(&self, event: Event, number: u64) {
        let counted = async {
            while self.metrics.total(event) < number {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(WAIT_TIMEOUT, counted).await.unwrap_or_else(|_| panic!("{event:?} is {number} in time"));
    }
}

/// Returns the requests without a DNS message in `/metrics`, by HTTP status.
fn refused(metrics: &Metrics) -> BTreeMap<u16, u64> {
    let text = metrics.render(&Status::default(), ZoneFigures::default(), ExpositionFormat::Text);
    let of_line = |line: &str| {
        let (status, number) = line.strip_prefix("headless_dns_https_refused_total{status=\"")?.split_once("\"} ")?;
        Some((status.parse().unwrap(), number.parse().unwrap()))
    };
    text.lines().filter_map(of_line).collect()
}

// Good clients.

async fn shake(server: &Server, stream: TcpStream) -> TlsStream<TcpStream> {
    let config = Arc::new(server.authority.client(&[b"h2"]));
    timeout(WAIT_TIMEOUT, tls::shake(&config, stream)).await.expect("a handshake in time").unwrap()
}

async fn connect(server: &Server) -> TlsStream<TcpStream> {
    shake(server, TcpStream::connect(server.https).await.unwrap()).await
}

/// A connection of HTTP/2, driven by a task.
struct Client {
    requests: SendRequest<Bytes>,
    driver: JoinSet<Result<(), h2::Error>>,
}

/// A response.
#[derive(Debug)]
struct DnsResponse {
    status: u16,
    fields: HeaderMap,
    body: Vec<u8>,
}

impl DnsResponse {
    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The DNS message; how it came is looked at too.
    fn message(&self) -> &[u8] {
        assert_eq!((self.status, self.field("content-type")), (200, MEDIA_TYPE), "{self:?}");
        assert_eq!(self.field("content-length"), self.body.len().to_string());
        assert!(self.field("date").ends_with(" GMT"), "{self:?}");
        &self.body
    }
}

impl Client {
    async fn connect(server: &Server) -> Self {
        Self::with(server, &Builder::new()).await
    }

    async fn with(server: &Server, builder: &Builder) -> Self {
        let (requests, connection) = builder.handshake(connect(server).await).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Self { requests, driver }
    }

    /// Sends the head, and the body if there is one.
    async fn begin(&self, head: Request<()>, body: Option<&[u8]>) -> h2::client::ResponseFuture {
        let mut requests = timeout(WAIT_TIMEOUT, self.requests.clone().ready()).await.expect("room in time").unwrap();
        let (response, mut stream) = requests.send_request(head, body.is_none()).unwrap();
        if let Some(body) = body {
            stream.send_data(Bytes::copy_from_slice(body), true).unwrap();
        }
        response
    }

    async fn ask(&self, head: Request<()>, body: Option<&[u8]>) -> DnsResponse {
        finish(self.begin(head, body).await).await
    }

    async fn post(&self, query: &[u8]) -> DnsResponse {
        self.ask(post(), Some(query)).await
    }

    async fn get(&self, query: &[u8]) -> DnsResponse {
        self.ask(get("GET", query), None).await
    }

    /// The connection ends: how.
    async fn ended(&mut self) -> Result<(), h2::Error> {
        timeout(WAIT_TIMEOUT, self.driver.join_next()).await.expect("it ends in time").unwrap().unwrap()
    }
}

fn request(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("https://{}{path}", tls::NAME))
}

fn post() -> Request<()> {
    request("POST", "/dns-query").header("content-type", MEDIA_TYPE).body(()).unwrap()
}

fn get(method: &str, query: &[u8]) -> Request<()> {
    request(method, &format!("/dns-query?dns={}", base64url(query))).body(()).unwrap()
}

fn base64url(octets: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bit = |at: usize| octets.get(at / 8).map_or(0, |octet| usize::from(octet >> (7 - at % 8) & 1));
    let sextet = |at: usize| (0..6).fold(0, |value, next| value << 1 | bit(at + next));
    (0..octets.len() * 8).step_by(6).map(|at| char::from(ALPHABET[sextet(at)])).collect()
}

async fn finish(response: h2::client::ResponseFuture) -> DnsResponse {
    let (head, mut body) = timeout(WAIT_TIMEOUT, response).await.expect("a response in time").unwrap().into_parts();
    let octets = timeout(WAIT_TIMEOUT, read_body(&mut body)).await.expect("a body in time").unwrap();
    DnsResponse { status: head.status.as_u16(), fields: head.headers, body: octets }
}

async fn read_body(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut octets = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        octets.extend_from_slice(&data);
    }
    Ok(octets)
}

async fn ask_tcp(stream: &mut TcpStream, query: &[u8]) -> Vec<u8> {
    stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], query].concat()).await.unwrap();
    let read = async {
        let mut response = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut response).await?;
        std::io::Result::Ok(response)
    };
    timeout(WAIT_TIMEOUT, read).await.expect("answered in time").unwrap()
}

fn ask_for(id: u16, name: &str) -> Vec<u8> {
    query(id, &question_name(name), A_TYPE, Some(1232))
}

const WEB: &str = "web.default.svc.cluster.local";
const LARGE: &str = "large.default.svc.cluster.local";

// Answers.

#[tokio::test]
async fn get_and_post_equal_tcp() {
    let server = Server::start(limits());
    let mut tcp = TcpStream::connect(server.plain).await.unwrap();
    let client = Client::connect(&server).await;
    let mut queries = Vec::new();
    for name in
        [WEB, LARGE, "out.default.svc.cluster.local", "cluster.local", "nope.default.svc.cluster.local", "a.test"]
    {
        for qtype in [A_TYPE, 28, 6, 255, 252] {
            for edns in [None, Some(512), Some(1232)] {
                queries.push(query(queries.len() as u16, &question_name(name), qtype, edns));
            }
        }
    }
    // Error responses.
    let mut notify = ask_for(7, WEB);
    notify[2] |= 4 << 3;
    queries.extend([notify, vec![0; 12], [ask_for(8, WEB), vec![0]].concat()]);
    for query in &queries {
        // Rotation advances with each answer: those over TCP and HTTPS keep in step.
        assert_eq!(client.post(query).await.message(), ask_tcp(&mut tcp, query).await, "POST {query:?}");
        assert_eq!(client.get(query).await.message(), ask_tcp(&mut tcp, query).await, "GET {query:?}");
    }
    let metrics = server.stopped().await;
    assert_eq!(metrics.total(Event::HttpsReceived), 2 * queries.len() as u64);
    assert_eq!(metrics.total(Event::TcpReceived), 2 * queries.len() as u64);
}

#[tokio::test]
async fn answers_with_4000_addresses() {
    let server = Server::start(limits());
    let client = Client::connect(&server).await;
    for _ in 0..10 {
        let answer = client.get(&ask_for(0, LARGE)).await;
        let message = Message::from_vec(answer.message()).unwrap();
        let mut addresses: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!((addresses.len(), message.metadata.truncation), (4090, false));
    }
    server.stopped().await;
}

#[tokio::test]
async fn answers_a_hundred_concurrent_requests() {
    let server = Server::start(limits());
    // Responses are read in the order of the requests, and come in another.
    let mut builder = Builder::new();
    let client = Client::with(&server, builder.initial_connection_window_size(8 << 20)).await;
    for round in 0..5 {
        let mut responses = Vec::new();
        for number in 0..100 {
            let id = round * 100 + number;
            let query = ask_for(id, if number % 10 == 0 { LARGE } else { WEB });
            let (head, body) = if number % 2 == 0 { (get("GET", &query), None) } else { (post(), Some(&query[..])) };
            responses.push((id, client.begin(head, body).await));
        }
        for (id, response) in responses {
            let answer = finish(response).await;
            assert_eq!(answer.message()[..2], id.to_be_bytes());
        }
    }
    assert_eq!(server.stopped().await.total(Event::HttpsReceived), 500);
}

#[tokio::test]
async fn accepts_query_octet_by_octet() {
    let server = Server::start(limits());
    let client = Client::connect(&server).await;
    let mut requests = client.requests.clone().ready().await.unwrap();
    let (response, mut stream) = requests.send_request(post(), false).unwrap();
    let query = ask_for(9, WEB);
    for octet in &query {
        stream.send_data(Bytes::copy_from_slice(&[*octet]), false).unwrap();
        tokio::task::yield_now().await;
    }
    stream.send_data(Bytes::new(), true).unwrap();
    assert_eq!(finish(response).await.message()[..2], [0, 9]);
    server.stopped().await;
}

#[tokio::test]
async fn limits_query_length() {
    let server = Server::start(limits());
    let client = Client::connect(&server).await;
    let mut longest = ask_for(3, WEB);
    longest.resize(65_535, 0);
    let answer = client.post(&longest).await;
    assert_eq!((&answer.message()[..2], answer.body[3] & 15), (&[0, 3][..], 1), "FORMERR: octets are left over");
    longest.push(0);
    assert_eq!(client.post(&longest).await.status, 413, "it shows when it comes");
    longest.resize(1 << 20, 0);
    assert_eq!(client.post(&longest).await.status, 413);
    assert_eq!(client.post(&ask_for(4, WEB)).await.message()[..2], [0, 4]);
    server.stopped().await;
}

#[tokio::test]
async fn sets_freshness_lifetime() {
    let server = Server::start(limits());
    let client = Client::connect(&server).await;
    for (name, kept) in [
        (WEB, "max-age=5"),
        (LARGE, "max-age=5"),
        ("nope.default.svc.cluster.local", "max-age=3"),
        ("default.svc.cluster.local", "max-age=3"),
        ("a.test", "no-store"),
    ] {
        let query = ask_for(0, name);
        for answer in [client.get(&query).await, client.post(&query).await] {
            answer.message();
            assert_eq!(answer.field("cache-control"), kept, "{name}");
        }
        // HEAD is GET without the body (RFC 9110 section 9.3.2).
        let (whole, head) = (client.get(&query).await, client.ask(get("HEAD", &query), None).await);
        assert_eq!((head.status, head.body.len()), (200, 0), "{name}");
        for field in ["content-type", "content-length", "cache-control"] {
            assert_eq!(head.field(field), whole.field(field), "{name}");
        }
    }
    server.stopped().await;
}

#[tokio::test]
async fn explains_http_errors() {
    let server = Server::start(limits());
    let client = Client::connect(&server).await;
    let good = ask_for(0, WEB);
    let mut response = good.clone();
    response[2] |= 0x80;
    let of = |method, path: &str| request(method, path).header("content-type", MEDIA_TYPE).body(()).unwrap();
    let dns = |query: &[u8]| of("GET", &format!("/dns-query?dns={}", base64url(query)));
    let typed = |media_type| request("POST", "/dns-query").header("content-type", media_type).body(()).unwrap();
    let long = request("POST", "/dns-query").header("content-type", MEDIA_TYPE).header("content-length", 65_536);
    let cases = [
        (of("GET", "/dns-query"), None, DohError::NoParameter),
        (of("GET", "/dns-query?dns=AA=="), None, DohError::Encoding),
        (of("GET", "/dns-query?dns="), None, DohError::NoQuery),
        (dns(&good[..11]), None, DohError::NoQuery),
        (dns(&response), None, DohError::NoQuery),
        (of("POST", "/dns-query"), None, DohError::NoQuery),
        (of("POST", "/dns-query"), Some(&good[..11]), DohError::NoQuery),
        (of("POST", "/dns-query"), Some(&response[..]), DohError::NoQuery),
        (of("POST", "/"), Some(&good[..]), DohError::Path),
        (of("GET", "/favicon.ico"), None, DohError::Path),
        (of("PUT", "/dns-query"), Some(&good[..]), DohError::Method),
        (long.body(()).unwrap(), Some(&[0; 65_536][..]), DohError::LongBody),
        (of("GET", &format!("/dns-query?dns={}", "A".repeat(6_000))), None, DohError::LongParameter),
        (typed("text/plain"), Some(&good[..]), DohError::MediaType),
    ];
    // Each is shown from the begin.
    let mut expected = BTreeMap::from([400, 404, 405, 408, 413, 414, 415].map(|status| (status, 0)));
    assert_eq!(refused(&server.metrics), expected);
    for (head, body, refusal) in cases {
        *expected.get_mut(&refusal.status().as_u16()).expect("its status is shown") += 1;
        let shown = format!("{head:?}");
        let answer = client.ask(head, body).await;
        assert_eq!(answer.status, refusal.status().as_u16(), "{shown}");
        assert_eq!(answer.body, refusal.text().as_bytes(), "{shown}");
        assert_eq!(answer.field("cache-control"), "no-store");
        assert_eq!(answer.field("allow"), if refusal == DohError::Method { "GET, HEAD, POST" } else { "" });
    }
    let many = (0..100).fold(request("GET", "/dns-query"), |head, _| head.header("x", "y".repeat(200)));
    assert_eq!(client.ask(many.body(()).unwrap(), None).await.status, 431);
    assert_eq!(client.ask(of("HEAD", "/"), None).await.body, b"", "HEAD has no body, whatever its status");
    *expected.get_mut(&404).unwrap() += 1;
    assert_eq!(client.post(&good).await.message()[..2], [0, 0], "on the same connection");
    let metrics = server.stopped().await;
    assert_eq!(refused(&metrics), expected);
    assert_eq!((metrics.total(Event::DroppedShort), metrics.total(Event::DroppedResponse)), (2, 2));
    assert_eq!(metrics.total(Event::HttpsReceived), 5);
}

#[tokio::test]
async fn refuses_or_drops_denied_clients() {
    let allow = vec!["192.0.2.0/24".parse().unwrap()];
    let server = Server::with(limits(), AccessList { allow: allow.clone(), silent: false }, None);
    let client = Client::connect(&server).await;
    assert_eq!(client.get(&ask_for(0, WEB)).await.message()[3] & 15, 5, "REFUSED");
    server.stopped().await;
    let server = Server::with(limits(), AccessList { allow, silent: true }, None);
    let mut client = Client::connect(&server).await;
    let response = client.begin(get("GET", &ask_for(0, WEB)), None).await;
    assert!(timeout(WAIT_TIMEOUT, response).await.unwrap().is_err(), "no response");
    let _ = client.ended().await;
    assert_eq!(server.stopped().await.total(Event::DroppedNotAllowed), 1);
}

/// hickory-dns asks with POST and ID 0.
#[tokio::test]
async fn answers_hickory_client() {
    use hickory_net::h2::HttpsClientStream;
    use hickory_net::runtime::TokioRuntimeProvider;
    use hickory_net::xfer::{DnsRequestSender as _, FirstAnswer as _};

    let server = Server::start(limits());
    let builder = HttpsClientStream::builder(Arc::new(server.authority.client(&[b"h2"])), TokioRuntimeProvider::new());
    let mut client = builder.build(server.https, tls::NAME.into(), "/dns-query".into()).await.unwrap();
    for (name, code, answers) in [
        (WEB, ResponseCode::NoError, 3),
        (LARGE, ResponseCode::NoError, 4090),
        ("nope.default.svc.cluster.local", ResponseCode::NXDomain, 0),
        ("a.test", ResponseCode::Refused, 0),
    ] {
        let query = Query::query(Name::from_ascii(format!("{name}.")).unwrap(), RecordType::A);
        let request = DnsRequest::from_query(query, DnsRequestOptions::default());
        let response = timeout(WAIT_TIMEOUT, client.send_message(request).first_answer()).await.unwrap().unwrap();
        assert_eq!((response.metadata.response_code, response.answers.len()), (code, answers), "{name}");
    }
    server.stopped().await;
}

// Names of others.

/// An upstream: `slow` names are answered after `SHORT`, `held` names once the test releases them, `never` not at all,
/// each with an address of its own number.
struct FakeUpstream {
    address: SocketAddr,
    asked: Arc<Mutex<usize>>,
    released: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl FakeUpstream {
    async fn start() -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let (address, asked, mut tasks) =
            (socket.local_addr().unwrap(), Arc::<Mutex<usize>>::default(), JoinSet::new());
        let (count, (released, release)) = (Arc::clone(&asked), watch::channel(false));
        tasks.spawn(async move {
            let (mut buffer, mut late) = ([0; 4096], JoinSet::new());
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let name = query.queries[0].name().clone();
                *count.lock().unwrap() += 1;
                let label = name.to_string();
                let number = label.split('.').next().unwrap().trim_matches(|letter: char| !letter.is_ascii_digit());
                let data = RData::A(A::new(192, 0, 2, number.parse().unwrap_or(0)));
                let mut response = query.into_response();
                response.metadata.recursion_available = true;
                response.add_answer(Record::from_rdata(name, 60, data));
                let (socket, response) = (Arc::clone(&socket), response.to_vec().unwrap());
                let wait = if label.starts_with("slow") { SHORT } else { Duration::ZERO };
                let (is_held, mut release) = (label.starts_with("held"), release.clone());
                if !label.starts_with("never") {
                    late.spawn(async move {
                        tokio::time::sleep(wait).await;
                        if is_held {
                            release.wait_for(|released| *released).await.unwrap();
                        }
                        socket.send_to(&response, from).await.unwrap();
                    });
                }
            }
        });
        Self { address, asked, released, _tasks: tasks }
    }
}

fn answers(message: &[u8]) -> Vec<String> {
    Message::from_vec(message).unwrap().answers.iter().map(|record| record.data.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn returns_forwarded_answers_to_their_streams() {
    let upstream = FakeUpstream::start().await;
    let server = Server::with(limits(), AccessList::default(), Some(upstream.address));
    let client = Client::connect(&server).await;
    // All of them have the ID 0, as RFC 8484 section 4.1 wants it.
    let mut slow = Vec::new();
    for number in 0..40 {
        slow.push(client.begin(get("GET", &ask_for(0, &format!("slow{number}.test"))), None).await);
    }
    let quick = client.post(&ask_for(0, "quick200.test")).await;
    assert_eq!(answers(quick.message()), ["192.0.2.200"]);
    assert_eq!(quick.field("cache-control"), "max-age=60");
    assert_eq!(answers(client.post(&ask_for(0, WEB)).await.message()).len(), 3, "ours do not wait for others");
    for (number, response) in slow.into_iter().enumerate() {
        assert_eq!(answers(finish(response).await.message()), [format!("192.0.2.{number}")]);
    }
    let alias = client.get(&ask_for(0, "out.default.svc.cluster.local")).await;
    assert_eq!(answers(alias.message()), ["db.example.test.", "192.0.2.0"]);
    assert_eq!(alias.field("cache-control"), "max-age=5", "the smaller of both");
    let metrics = server.stopped().await;
    assert_eq!((metrics.total(Event::Forwarded), metrics.total(Event::HttpsReceived)), (42, 43));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_request_affects_no_other() {
    let upstream = FakeUpstream::start().await;
    let server = Server::with(limits(), AccessList::default(), Some(upstream.address));
    let client = Client::connect(&server).await;
    for number in 0..20 {
        drop(client.begin(get("GET", &ask_for(0, &format!("slow{number}.test"))), None).await);
    }
    server.counted(Event::Forwarded, 1).await;
    assert_eq!(answers(client.post(&ask_for(0, "slow77.test")).await.message()), ["192.0.2.77"]);
    assert!(*upstream.asked.lock().unwrap() > 0);
    server.stopped().await;
}

// The end.

#[tokio::test(flavor = "multi_thread")]
async fn answers_requests_in_flight_when_the_server_stops() {
    let upstream = FakeUpstream::start().await;
    let server = Server::with(limits(), AccessList::default(), Some(upstream.address));
    let mut client = Client::connect(&server).await;
    let mut idle = Client::connect(&server).await;
    idle.get(&ask_for(1, WEB)).await.message();
    let query = ask_for(2, WEB);
    let mut requests = client.requests.clone().ready().await.unwrap();
    let (half, mut rest) = requests.send_request(post(), false).unwrap();
    rest.send_data(Bytes::copy_from_slice(&query[..20]), false).unwrap();
    let held = client.begin(get("GET", &ask_for(0, "held9.test")), None).await;
    server.counted(Event::Forwarded, 1).await;
    server.stop.drain();
    upstream.released.send_replace(true);
    assert!(idle.ended().await.is_ok(), "who asks nothing is told that it ends");
    rest.send_data(Bytes::copy_from_slice(&query[20..]), true).unwrap();
    assert_eq!(finish(half).await.message()[..2], [0, 2]);
    assert_eq!(answers(finish(held).await.message()), ["192.0.2.9"]);
    assert!(client.ended().await.is_ok());
    server.stopped().await;
}

#[tokio::test]
async fn unfinished_requests_do_not_delay_shutdown() {
    let server = Server::start(ConnectionLimits { drain: SHORT, ..limits() });
    let client = Client::connect(&server).await;
    let mut requests = client.requests.clone().ready().await.unwrap();
    let (_response, mut rest) = requests.send_request(post(), false).unwrap();
    rest.send_data(Bytes::from_static(b"half"), false).unwrap();
    client.get(&ask_for(1, WEB)).await.message();
    let mut silent = connect(&server).await;
    silent.write_all(PREFACE).await.unwrap();
    server.stopped().await;
}

#[tokio::test]
async fn closes_idle_connections_with_goaway() {
    let server = Server::start(ConnectionLimits { idle: SHORT, ..limits() });
    let (mut silent, mut asker) = (Client::connect(&server).await, Client::connect(&server).await);
    asker.get(&ask_for(1, WEB)).await.message();
    // One that does not even answer that it was told.
    let mut deaf = RawConnection::open(&server).await;
    assert!(silent.ended().await.is_ok() && asker.ended().await.is_ok());
    assert!(deaf.frames_to_the_end().await.contains(&(GOAWAY, Reason::NO_ERROR.into())));
    server.counted(Event::TcpClosed, 3).await;
    assert_eq!(server.stopped().await.total(Event::TcpIdle), 3);
}

#[tokio::test]
async fn drain_closes_idle_connections() {
    let server = Server::start(limits());
    let mut client = Client::connect(&server).await;
    client.get(&ask_for(1, WEB)).await.message();
    server.stop.lame_duck();
    assert!(client.ended().await.is_ok());
    Client::connect(&server).await.get(&ask_for(1, WEB)).await.message();
    server.stopped().await;
}

// Misbehaving clients.

#[tokio::test]
async fn slow_body_resets_its_stream_only() {
    let server = Server::start(ConnectionLimits { unfinished: SHORT, ..limits() });
    let client = Client::connect(&server).await;
    let mut requests = client.requests.clone().ready().await.unwrap();
    let (response, mut stream) = requests.send_request(post(), false).unwrap();
    let drip = async {
        let mut octets = tokio::time::interval(SHORT / 10);
        loop {
            octets.tick().await;
            if stream.send_data(Bytes::from_static(b"x"), false).is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        answer = finish(response) => assert_eq!((answer.status, &*answer.body), (408, DohError::Slow.text().as_bytes())),
        () = drip => {},
    }
    client.get(&ask_for(1, WEB)).await.message();
    let metrics = server.stopped().await;
    assert_eq!((metrics.total(Event::TcpSlow), metrics.total(Event::HttpsReceived)), (0, 1));
    assert_eq!(refused(&metrics)[&408], 1);
}

#[tokio::test]
async fn closes_connection_without_preface() {
    let server = Server::start(ConnectionLimits { unfinished: SHORT, ..limits() });
    let mut silent = connect(&server).await;
    let mut half = connect(&server).await;
    half.write_all(&PREFACE[..10]).await.unwrap();
    for stream in [&mut silent, &mut half] {
        let end = timeout(WAIT_TIMEOUT, stream.read_to_end(&mut Vec::new())).await.expect("cut in time");
        // Without a GOAWAY for a client that sent no preface: an end of TCP, or of TLS.
        assert!(end.is_ok() || end.is_err());
    }
    server.counted(Event::TcpClosed, 2).await;
    assert_eq!(server.stopped().await.total(Event::TcpSlow), 2);
}

#[tokio::test]
async fn closes_connection_with_slow_head() {
    let server = Server::start(ConnectionLimits { unfinished: SHORT, ..limits() });
    let fields = get_fields(WEB);
    for frames in [
        frame(HEADERS, 5, 1, &fields)[..5].to_vec(),
        frame(HEADERS, 5, 1, &fields)[..20].to_vec(),
        frame(HEADERS, 1, 1, &fields),
        [frame(HEADERS, 1, 1, &fields[..9]), frame(CONTINUATION, 0, 1, &fields[9..])].concat(),
    ] {
        let mut raw = RawConnection::open(&server).await;
        raw.send(&[frames]).await;
        raw.frames_to_the_end().await;
    }
    let metrics = server.stopped().await;
    assert_eq!((metrics.total(Event::TcpSlow), metrics.total(Event::HttpsReceived)), (4, 0));
}

#[tokio::test]
async fn closes_connection_with_closed_window() {
    let server = Server::start(ConnectionLimits { unread: SHORT, ..limits() });
    let mut builder = Builder::new();
    let mut client = Client::with(&server, builder.initial_window_size(0)).await;
    let response = client.begin(get("GET", &ask_for(1, WEB)), None).await;
    let (head, mut body) = timeout(WAIT_TIMEOUT, response).await.unwrap().unwrap().into_parts();
    assert_eq!(head.status, 200);
    assert!(timeout(WAIT_TIMEOUT, read_body(&mut body)).await.expect("cut in time").is_err());
    assert!(client.ended().await.is_err());
    // And one that opens in time, a little at each time, is not.
    let mut builder = Builder::new();
    let client = Client::with(&server, builder.initial_window_size(20_000)).await;
    client.get(&ask_for(1, LARGE)).await.message();
    assert_eq!(server.stopped().await.total(Event::TcpSlow), 1);
}

#[tokio::test]
async fn closes_connections_that_read_nothing() {
    let server = Server::start(ConnectionLimits { unread: SHORT, ..limits() });
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = shake(&server, socket.connect(server.https).await.unwrap()).await;
    let mut raw = RawConnection::greet(stream).await;
    // Windows as large as they can be, so that the connection alone is in the way.
    raw.send(&[
        frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]),
        frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0, 0]),
    ])
    .await;
    let requests: Vec<_> = (0..100).map(|number| frame(HEADERS, 5, 2 * number + 1, &get_fields(LARGE))).collect();
    raw.send(&requests).await;
    server.counted(Event::TcpSlow, 1).await;
    Client::connect(&server).await.get(&ask_for(1, LARGE)).await.message();
    assert_eq!(server.stopped().await.total(Event::TcpSlow), 1);
}

#[tokio::test]
async fn evicts_longest_idle_connection_above_share() {
    let server = Server::start(ConnectionLimits { large: 1, ..limits() });
    let mut plain = TcpStream::connect(server.plain).await.unwrap();
    server.counted(Event::TcpAccepted, 1).await;
    let mut one = Client::connect(&server).await;
    one.post(&ask_for(1, "web")).await.message();
    let two = Client::connect(&server).await;
    // It is cut: its client notices an error, or just the end.
    let _ = one.ended().await;
    two.post(&ask_for(2, "web")).await.message();
    // It has been idle for longer, and is none of them.
    ask_tcp(&mut plain, &ask_for(3, "web")).await;
    assert_eq!(server.stopped().await.total(Event::TcpOverLimit), 1);
}

#[tokio::test]
async fn limits_memory_of_slow_clients() {
    let server = Server::start(ConnectionLimits { buffered_bytes: 200_000, ..limits() });
    let mut builder = Builder::new();
    let mut client = Client::with(&server, builder.initial_window_size(0)).await;
    let mut responses = Vec::new();
    for _ in 0..4 {
        responses.push(client.begin(get("GET", &ask_for(1, LARGE)), None).await);
    }
    assert!(client.ended().await.is_err(), "four times 65,535 octets are more");
    // The buffered octets are released.
    let client = Client::connect(&server).await;
    for _ in 0..10 {
        client.get(&ask_for(1, LARGE)).await.message();
    }
    assert_eq!(server.stopped().await.total(Event::TcpSlow), 1);
}

// Frames by hand.

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// RFC 9113 section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field that is not indexed, its name in the static table of RFC 7541.
fn literal(index: u8, value: &str) -> Vec<u8> {
    let mut field = if index < 15 { vec![index] } else { vec![15, index - 15] };
    match value.len() {
        length @ ..127 => field.push(length as u8),
        length => {
            let rest = length - 127;
            field.extend([127, 0x80 | (rest & 0x7f) as u8, (rest >> 7) as u8]);
        }
    }
    field.extend(value.as_bytes());
    field
}

/// The fields of a GET for the A records of `name`.
fn get_fields(name: &str) -> Vec<u8> {
    let path = literal(4, &format!("/dns-query?dns={}", base64url(&ask_for(0, name))));
    [&[0x82, 0x87][..], &literal(1, "localhost"), &path].concat()
}

/// Returns the header fields of a POST.
fn post_fields() -> Vec<u8> {
    [&[0x83, 0x87][..], &literal(1, "localhost"), &literal(4, "/dns-query"), &literal(31, MEDIA_TYPE)].concat()
}

/// A connection with handwritten frames.
struct RawConnection {
    stream: TlsStream<TcpStream>,
}

impl RawConnection {
    async fn open(server: &Server) -> Self {
        Self::greet(connect(server).await).await
    }

    async fn greet(stream: TlsStream<TcpStream>) -> Self {
        let mut raw = Self { stream };
        raw.send(&[PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])]).await;
        raw
    }

    async fn send(&mut self, frames: &[Vec<u8>]) {
        self.try_send(frames).await.unwrap();
    }

    async fn try_send(&mut self, frames: &[Vec<u8>]) -> std::io::Result<()> {
        let write = async {
            self.stream.write_all(&frames.concat()).await?;
            self.stream.flush().await
        };
        timeout(WAIT_TIMEOUT, write).await.expect("it is read, or refused")
    }

    /// The next frame: its kind, its stream, its payload.
    async fn frame(&mut self) -> std::io::Result<(u8, u32, Vec<u8>)> {
        let read = async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.stream.read_exact(&mut payload).await?;
            Ok((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
        };
        timeout(WAIT_TIMEOUT, read).await.expect("a frame in time")
    }

    /// The kinds of all frames until the connection ends, with the reasons of those that have one.
    async fn frames_to_the_end(&mut self) -> Vec<(u8, u32)> {
        let mut frames = Vec::new();
        while let Ok((kind, _, payload)) = self.frame().await {
            let reason_at = match kind {
                RST_STREAM => 0,
                GOAWAY => 4,
                _ => payload.len(),
            };
            let reason = payload
                .get(reason_at..reason_at + 4)
                .map_or(0, |reason| u32::from_be_bytes(reason.try_into().unwrap()));
            frames.push((kind, reason));
        }
        frames
    }
}

#[tokio::test]
async fn refuses_streams_above_limit() {
    let server = Server::start(limits());
    let mut raw = RawConnection::open(&server).await;
    let streams = || (0..150).map(|number| 2 * number + 1);
    let begun: Vec<_> = streams().map(|stream| frame(HEADERS, 4, stream, &post_fields())).collect();
    raw.send(&begun).await;
    let mut refused = Vec::new();
    while refused.len() < 50 {
        let (kind, stream, payload) = raw.frame().await.unwrap();
        if kind == RST_STREAM {
            assert_eq!(payload, u32::from(Reason::REFUSED_STREAM).to_be_bytes());
            refused.push(stream);
        }
    }
    assert_eq!(refused, streams().skip(100).collect::<Vec<_>>());
    let rest: Vec<_> = streams().take(100).map(|stream| frame(DATA, 1, stream, &ask_for(1, WEB))).collect();
    raw.send(&rest).await;
    let mut answered = 0;
    while answered < 100 {
        let (kind, stream, payload) = raw.frame().await.unwrap();
        if kind == DATA && !payload.is_empty() {
            assert_eq!((payload[1], answers(&payload).len()), (1, 3), "stream {stream}");
            answered += 1;
        }
    }
    server.stopped().await;
}

/// Checks that abusive frames end the connection with one of these reasons, and that another client is answered.
async fn check_ended(what: &str, frames: &[Vec<u8>], reasons: &[Reason]) {
    let server = Server::start(limits());
    let mut raw = RawConnection::open(&server).await;
    // It may have ended before all was written.
    let _ = raw.try_send(frames).await;
    let seen = raw.frames_to_the_end().await;
    let ended = |reason: &Reason| seen.contains(&(GOAWAY, u32::from(*reason)));
    assert!(reasons.iter().any(ended), "{what}: {:?}", &seen[seen.len().saturating_sub(5)..]);
    Client::connect(&server).await.get(&ask_for(1, WEB)).await.message();
    server.stopped().await;
}

/// CVE-2023-44487.
#[tokio::test]
async fn rapid_reset_closes_connection() {
    let cancel = u32::from(Reason::CANCEL).to_be_bytes();
    let pairs = (0..500).map(|number| 2 * number + 1);
    let pairs =
        pairs.flat_map(|stream| [frame(HEADERS, 5, stream, &get_fields(WEB)), frame(RST_STREAM, 0, stream, &cancel)]);
    check_ended("rapid reset", &pairs.collect::<Vec<_>>(), &[Reason::ENHANCE_YOUR_CALM]).await;
}

/// CVE-2024-27316.
#[tokio::test]
async fn endless_head_closes_connection() {
    let mut frames = vec![frame(HEADERS, 1, 1, &get_fields(WEB))];
    let field = [&[0x00, 0x01, b'x'][..], &literal(0, &"y".repeat(1000))[1..]].concat();
    frames.extend((0..100).map(|_| frame(CONTINUATION, 0, 1, &field)));
    check_ended("continuations", &frames, &[Reason::ENHANCE_YOUR_CALM, Reason::COMPRESSION_ERROR]).await;
}

/// CVE-2019-9514 and variants: each malformed request costs a RST_STREAM of the server.
#[tokio::test]
async fn malformed_requests_close_connection() {
    // A field name in upper case makes a request malformed (RFC 9113 section 8.2.1).
    let fields = [get_fields(WEB), vec![0x00, 0x01, b'X', 0x01, b'y']].concat();
    let frames: Vec<_> = (0..300).map(|number| frame(HEADERS, 5, 2 * number + 1, &fields)).collect();
    check_ended("malformed requests", &frames, &[Reason::ENHANCE_YOUR_CALM, Reason::PROTOCOL_ERROR]).await;
}

#[tokio::test]
async fn protocol_errors_close_connection() {
    let broken =
        [Reason::PROTOCOL_ERROR, Reason::COMPRESSION_ERROR, Reason::FRAME_SIZE_ERROR, Reason::FLOW_CONTROL_ERROR];
    for (what, frame) in [
        ("data for no stream", frame(DATA, 1, 1, b"x")),
        ("a stream of ours", frame(HEADERS, 5, 2, &get_fields(WEB))),
        ("a frame that is too large", frame(HEADERS, 5, 1, &[0; 20_000])),
        ("fields that cannot be read", frame(HEADERS, 5, 1, &[0xff; 40])),
        ("settings that are cut", frame(SETTINGS, 0, 0, &[0; 5])),
        ("a window beyond the largest", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
    ] {
        check_ended(what, &[frame], &broken).await;
    }
}

/// Frames that each need a reply, from a client that reads none: the queue of replies has a limit.
#[tokio::test]
async fn answers_pings_without_delaying_others() {
    let server = Server::start(ConnectionLimits { unread: SHORT, ..limits() });
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut raw = RawConnection::greet(shake(&server, socket.connect(server.https).await.unwrap()).await).await;
    let pings: Vec<_> = (0..1_000).map(|_| frame(PING, 0, 0, &[7; 8])).collect();
    let flood = async { while raw.try_send(&pings).await.is_ok() {} };
    let others = async {
        for id in 0..30 {
            Client::connect(&server).await.get(&ask_for(id, WEB)).await.message();
        }
    };
    tokio::join!(async { timeout(WAIT_TIMEOUT, flood).await.expect("it is cut in time") }, others);
    server.counted(Event::TcpSlow, 1).await;
    server.stopped().await;
}

#[tokio::test]
async fn closes_non_http_2_connections() {
    let server = Server::start(limits());
    for garbage in
        [&b"GET /dns-query?dns=AAAA HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], b"\x00\x1d\x00\x01", &[0xff; 3000]]
    {
        let mut stream = connect(&server).await;
        stream.write_all(garbage).await.unwrap();
        if garbage.len() >= PREFACE.len() {
            let end = timeout(WAIT_TIMEOUT, stream.read_to_end(&mut Vec::new())).await.expect("closed in time");
            assert!(end.is_ok(), "{end:?}");
        }
    }
    // A client without HTTP/2 does not get as far.
    let config = Arc::new(server.authority.client(&[b"http/1.1"]));
    assert!(tls::connect(&config, server.https).await.is_err());
    server.stopped().await;
}

// Mutants.

/// Changes, removes, inserts or repeats a few octets.
fn mutate(numbers: &mut Rng, octets: &mut Vec<u8>) {
    for _ in 0..=numbers.below(3) {
        let at = numbers.below(octets.len());
        match numbers.below(5) {
            0 if !octets.is_empty() => octets[at] = numbers.next() as u8,
            1 if !octets.is_empty() => octets[at] ^= 1 << numbers.below(8),
            2 => octets.truncate(at),
            3 => octets.insert(at, numbers.next() as u8),
            _ => {
                let end = (at + numbers.below(20)).min(octets.len());
                let again = octets[at..end].to_vec();
                octets.splice(at..at, again);
            }
        }
    }
}

/// Any request head is accepted or rejected; an accepted query equals the one that was sent.
#[test]
fn decides_mutated_requests() {
    let (mut numbers, mut here) = (Rng(7), 0);
    for _ in 0..scaled(1_000_000) {
        let mut path = format!("/dns-query?dns={}", base64url(&ask_for(0, WEB))).into_bytes();
        let mut media_type = MEDIA_TYPE.as_bytes().to_vec();
        if numbers.below(4) > 0 {
            mutate(&mut numbers, &mut path);
        }
        mutate(&mut numbers, &mut media_type);
        let method = ["GET", "HEAD", "POST", "PUT"][numbers.below(4)];
        let length = numbers.next() >> numbers.below(64);
        let head = Request::builder().method(method).uri(&path[..]).header("content-type", media_type);
        // The crate http rejects the others first.
        let Ok(head) = head.header("content-length", length).body(()) else { continue };
        let (head, ()) = head.into_parts();
        match doh::read(&head) {
            Ok(QueryPlace::Parameter(query)) => {
                here += 1;
                assert!(!query.is_empty() && method != "POST" && head.uri.path() == doh::PATH);
                assert!(head.uri.query().unwrap().contains(&format!("dns={}", base64url(&query))), "{:?}", head.uri);
            }
            Ok(QueryPlace::Body) => assert!(method == "POST" && length <= 65_535, "{head:?}"),
            Err(refusal) => assert!(refusal.status().is_client_error()),
        }
    }
    assert!(here > 0);
}

/// The freshness lifetime of a mutated response is at most the TTL that hickory-proto reads from it.
#[test]
fn freshness_is_at_most_ttl_of_mutated_responses() {
    let mut engine = common::Engine::new(zone());
    let names = [WEB, "nope.default.svc.cluster.local", "out.default.svc.cluster.local", "default.svc.cluster.local"];
    let seeds: Vec<Vec<u8>> = names
        .iter()
        .map(|name| engine.ask(headless_dns_core::answer::Transport::Https, &ask_for(0, name)).unwrap())
        .collect();
    let (mut numbers, mut compared) = (Rng(11), 0);
    for _ in 0..scaled(1_000_000) {
        let mut response = seeds[numbers.below(seeds.len())].clone();
        mutate(&mut numbers, &mut response);
        let kept = doh::freshness(&response);
        let Ok(message) = Message::from_vec(&response) else { continue };
        let Some(kept) = kept else { continue };
        compared += 1;
        for record in &message.answers {
            // RFC 2181 section 8: one above 2^31 is none.
            let ttl = if record.ttl >> 31 == 0 { record.ttl } else { 0 };
            assert!(kept <= ttl, "{kept} s for {record:?}");
        }
        for record in &message.authorities {
            if let RData::SOA(soa) = &record.data {
                assert!(kept <= soa.minimum, "{kept} s for {record:?}");
            }
        }
    }
    assert!(compared > 0);
}

/// Many connections with malformed frames: the server answers other clients.
#[tokio::test(flavor = "multi_thread")]
async fn mutated_connections_affect_no_other() {
    let server =
        Server::start(ConnectionLimits { idle: Duration::from_secs(5), unfinished: SHORT, unread: SHORT, ..limits() });
    let cancel = u32::from(Reason::CANCEL).to_be_bytes();
    let good = [
        frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 10]),
        frame(SETTINGS, 1, 0, &[]),
        frame(HEADERS, 5, 1, &get_fields(WEB)),
        frame(HEADERS, 4, 3, &post_fields()),
        frame(DATA, 0, 3, &ask_for(0, WEB)[..9]),
        frame(PING, 0, 0, &[1; 8]),
        frame(DATA, 1, 3, &ask_for(0, WEB)[9..]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]),
        frame(HEADERS, 1, 5, &get_fields(WEB)[..20]),
        frame(CONTINUATION, 4, 5, &get_fields(WEB)[20..]),
        frame(HEADERS, 5, 7, &get_fields(LARGE)),
        frame(RST_STREAM, 0, 7, &cancel),
        frame(HEADERS, 4, 9, &post_fields()),
        frame(GOAWAY, 0, 0, &[0; 8]),
    ];
    let mut numbers = Rng(5);
    for _ in 0..scaled(20_000) {
        let mut octets = [PREFACE, &good.concat()].concat();
        let mut rest = octets.split_off(PREFACE.len() * usize::from(numbers.below(8) > 0));
        for _ in 0..=numbers.below(4) {
            mutate(&mut numbers, &mut rest);
        }
        octets.extend(rest);
        let mut stream = connect(&server).await;
        let _ = stream.write_all(&octets).await;
        let _ = stream.flush().await;
        if numbers.below(2) == 0 {
            let _ = stream.shutdown().await;
            let _ = timeout(WAIT_TIMEOUT, stream.read_to_end(&mut Vec::new())).await.expect("it ends in time");
        }
    }
    Client::connect(&server).await.get(&ask_for(1, WEB)).await.message();
    let metrics = server.stopped().await;
    assert_eq!(metrics.total(Event::TcpAccepted), metrics.total(Event::TcpClosed));
}
