//! Forwarding: a server with an upstream on loopback that answers as real upstreams do, and with forged records.
//!
//! Clients are plain sockets, and read the raw message. Every wait is for an event, at most [`WAIT_TIMEOUT`]. `benches/forward`
//! measures that a dead upstream does not delay other queries; `tests/with_upstream` has real upstreams.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::panics::PanicWatch;
use crate::common::ports::{self, ReservedPort};
use crate::common::{extended, query, question_name, service};
use headless_dns::metrics::{Event, Metrics};
use headless_dns::server::forward::{Forwarder, Upstream, UpstreamProtocol};
use headless_dns::server::{self, ConnectionLimits, Listeners, Shutdown};
use headless_dns::source::{Publisher, PublisherOptions};
use headless_dns_core::answer::{AccessList, ForwardPolicy, Responder};
use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::ReverseZones;
use headless_dns_core::name::special::SpecialNames;
use headless_dns_core::naming_rules::NamingRules;
use headless_dns_core::object::{Object, ServiceKind};
use headless_dns_core::status::Status;
use headless_dns_core::zone::{Settings, Zone};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, MX, NS, NULL, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
const A_TYPE: u16 = 1;
const CNAME_TYPE: u16 = 5;
const SOA_TYPE: u16 = 6;
const PTR_TYPE: u16 = 12;
const MX_TYPE: u16 = 15;
const AAAA_TYPE: u16 = 28;
const SRV_TYPE: u16 = 33;
const ANY_TYPE: u16 = 255;
const TXT_TYPE: u16 = 16;

/// Transport of a query to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UpstreamTransport {
    Udp,
    Tcp,
}

/// When the upstream sends a response.
#[derive(Clone, Copy)]
enum ReplyTime {
    AtOnce,
    After(Duration),
    /// When the test releases it: see [`FakeUpstream::release`].
    Released,
}

/// Treatment of a query by the upstream: the responses that it sends.
type Replies = Vec<(ReplyTime, Vec<u8>)>;

/// An upstream that a function plays, on one port for UDP and TCP.
struct FakeUpstream {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<(String, UpstreamTransport)>>>,
    released: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

/// Waits until a response is to be sent.
async fn due(when: ReplyTime, mut released: watch::Receiver<bool>) {
    match when {
        ReplyTime::AtOnce => {}
        ReplyTime::After(after) => tokio::time::sleep(after).await,
        // The response has no receiver if the upstream ends first.
        ReplyTime::Released => _ = released.wait_for(|released| *released).await,
    }
}

impl FakeUpstream {
    async fn start(play: impl Fn(&Message, UpstreamTransport) -> Replies + Send + Sync + 'static) -> Self {
        let (tcp, udp) = ports::bind_both();
        tcp.set_nonblocking(true).unwrap();
        udp.set_nonblocking(true).unwrap();
        let tcp = TcpListener::from_std(tcp).unwrap();
        let udp = Arc::new(tokio::net::UdpSocket::from_std(udp).unwrap());
        let (address, asked) = (tcp.local_addr().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let (play, seen) = (Arc::new(play), Arc::clone(&asked));
        let does = move |query: &[u8], by| {
            let query = Message::from_vec(query).unwrap();
            seen.lock().unwrap().push((query.queries[0].name().to_string().to_lowercase(), by));
            play(&query, by)
        };
        let (does, mut tasks) = (Arc::new(does), JoinSet::new());
        let (does_udp, (released, release)) = (Arc::clone(&does), watch::channel(false));
        let release_udp = release.clone();
        tasks.spawn(async move {
            let (mut buffer, mut late) = ([0; 4096], JoinSet::new());
            loop {
                let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                for (when, response) in does_udp(&buffer[..length], UpstreamTransport::Udp) {
                    let (udp, released) = (Arc::clone(&udp), release_udp.clone());
                    late.spawn(async move {
                        due(when, released).await;
                        udp.send_to(&response, from).await.unwrap();
                    });
                }
            }
        });
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let (does, released) = (Arc::clone(&does), release.clone());
                connections.spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut query = vec![0; usize::from(length)];
                        stream.read_exact(&mut query).await.unwrap();
                        for (when, response) in does(&query, UpstreamTransport::Tcp) {
                            due(when, released.clone()).await;
                            stream.write_u16(response.len() as u16).await.unwrap();
                            stream.write_all(&response).await.unwrap();
                        }
                    }
                });
            }
        });
        Self { address, asked, released, _tasks: tasks }
    }

    /// Sends the responses that were held back, and holds back no more.
    fn release(&self) {
        self.released.send_replace(true);
    }

    /// Holds back responses again.
    fn hold(&self) {
        self.released.send_replace(false);
    }

    fn asked(&self) -> Vec<(String, UpstreamTransport)> {
        self.asked.lock().unwrap().clone()
    }
}

/// A response to `query` with these records in the answer section.
fn response(query: &Message, records: impl IntoIterator<Item = Record>) -> Vec<u8> {
    let mut response = query.clone().into_response();
    response.metadata.recursion_available = true;
    response.add_answers(records);
    response.to_vec().unwrap()
}

fn at_once(response: Vec<u8>) -> Replies {
    vec![(ReplyTime::AtOnce, response)]
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn a(owner: &str, last: u8) -> Record {
    Record::from_rdata(name(owner), 300, RData::A(A::new(192, 0, 2, last)))
}

fn alias(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 300, RData::CNAME(CNAME(name(target))))
}

fn failing(query: &Message, code: ResponseCode, soa: bool) -> Vec<u8> {
    let mut response = query.clone().into_response();
    response.metadata.response_code = code;
    if soa {
        let data = SOA::new(name("ns.test."), name("mail.test."), 1, 2, 3, 4, 60);
        response.add_authority(Record::from_rdata(name("test."), 600, RData::SOA(data)));
    }
    response.to_vec().unwrap()
}

/// A server for `cluster.local` with a Service `web` of one address, and ExternalName Services.
struct Server {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    stop: Shutdown,
    running: JoinHandle<anyhow::Result<()>>,
    panics: PanicWatch,
}

#[derive(Clone, Copy, Default)]
struct Upstreams<'u> {
    names: Option<&'u FakeUpstream>,
    aliases: Option<&'u FakeUpstream>,
}

impl Server {
    fn start(listen: &str, asks: Upstreams<'_>) -> Self {
        Self::with(listen, asks, "127.0.0.1/32")
    }

    fn with(listen: &str, asks: Upstreams<'_>, names_for: &str) -> Self {
        let to = |played: Option<&FakeUpstream>| {
            played
                .map(|played| Upstream { address: played.address, protocol: UpstreamProtocol::Plain })
                .into_iter()
                .collect()
        };
        let (names, aliases): (Vec<_>, Vec<_>) = (to(asks.names), to(asks.aliases));
        let names_for = if names.is_empty() { Vec::new() } else { vec![names_for.parse().unwrap()] };
        let special = SpecialNames::new(false);
        let outside = ForwardPolicy { allowed_clients: names_for, aliases: !aliases.is_empty(), special };
        let status = Arc::new(Status::default());
        status.set_synced();
        Self::with_zone(listen, (names, aliases, outside), (zone(None), status))
    }

    #[allow(clippy::disallowed_methods, reason = "`stopped` awaits it")]
    fn with_zone(
        listen: &str,
        (names, aliases, outside): (Vec<Upstream>, Vec<Upstream>, ForwardPolicy),
        (zone, status): (Arc<Zone>, Arc<Status>),
    ) -> Self {
        let responder = Responder::new(zone, Arc::clone(&status), AccessList::default()).with_forwarding(outside);
        let listeners = Listeners::bind(&[listen.parse().unwrap()], 1).unwrap();
        let (address, metrics, stop) = (listeners.addresses()[0], Arc::<Metrics>::default(), Shutdown::default());
        let limits = ConnectionLimits { drain: WAIT_TIMEOUT, ..ConnectionLimits::default() };
        let server = server::Server::new(Arc::new(responder), Arc::clone(&metrics), limits, 1, stop.clone());
        let mut server = server.with_forwarder(Forwarder::new(&names, &aliases).unwrap()).unwrap();
        server.start(listeners).unwrap();
        let (_, none) = mpsc::unbounded_channel();
        let running = tokio::spawn(server.run(none));
        Self { address, metrics, status, stop, running, panics: PanicWatch::start() }
    }

    async fn stopped(self) -> Arc<Metrics> {
        self.stop.drain();
        timeout(WAIT_TIMEOUT, self.running).await.expect("stops in time").unwrap().unwrap();
        self.panics.assert_none();
        self.metrics
    }
}

fn zone(namespace: Option<&str>) -> Arc<Zone> {
    let settings = Settings {
        apexes: ["cluster.local", "cluster.internal"].map(|apex| WireName::parse(apex).unwrap()).to_vec(),
        ttl: 5,
        negative_ttl: 5,
        rules: NamingRules::default(),
    };
    let zone = Zone::new(settings, ReverseZones::default());
    let zone = Arc::new(if let Some(namespace) = namespace { zone.for_namespace(namespace) } else { zone });
    let options = PublisherOptions {
        reverse: ["10.0.0.0/8", "192.168.1.128/25"].map(|network| network.parse().unwrap()).to_vec(),
        ..PublisherOptions::default()
    };
    let external = |one: &str, target: &str| service(one, ServiceKind::ExternalName(target.into()));
    let objects: Vec<Object> = vec![
        service("web", ServiceKind::ClusterIp(vec![[10, 0, 0, 1].into()])),
        external("out", "db.example.test"),
        external("twice", "out.default.svc.cluster.local"),
        external("gone", "gone.example.test"),
        external("dead", "dead.example.test"),
        external("back", "into.example.test"),
        external("there", "back-again.example.test"),
        external("circle", "circle.example.test"),
        external("long", "n0.example.test"),
        external("local", "localhost"),
    ];
    Publisher::new(Arc::clone(&zone), options).replace(objects);
    zone
}

const WEB: &str = "web.default.svc.cluster.local";

/// Asks over UDP and reads the response to this query; plain sockets may block here: the server has its own threads.
fn ask_from(from: &str, server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let client = udp_client(from, server);
    client.send(query).unwrap();
    receive(&client)
}

fn ask(server: &Server, name: &str, qtype: u16) -> Vec<u8> {
    ask_from("127.0.0.1:0", server.address, &query(7, &question_name(name), qtype, Some(1232)))
}

fn udp_client(from: &str, to: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind(from).unwrap();
    client.connect(to).unwrap();
    client.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    client
}

fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut response = vec![0; 4096];
    let length = client.recv(&mut response).expect("a response in time");
    response.truncate(length);
    response
}

async fn ask_tcp(server: &Server, queries: &[Vec<u8>]) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let framed: Vec<u8> =
        queries.iter().flat_map(|query| [&(query.len() as u16).to_be_bytes()[..], query].concat()).collect();
    stream.write_all(&framed).await.unwrap();
    stream
}

async fn receive_tcp(stream: &mut TcpStream) -> Vec<u8> {
    let read = async {
        let mut response = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut response).await?;
        std::io::Result::Ok(response)
    };
    timeout(WAIT_TIMEOUT, read).await.expect("a response in time").unwrap()
}

/// The response as a line: the flags that are set, the rcode, the answers, the owners of authorities, the EDE's code.
fn shown(response: &[u8]) -> String {
    let message = Message::from_vec(response).expect("hickory-proto reads every response");
    let flags = [(2, 0x04, "aa"), (2, 0x02, "tc"), (2, 0x01, "rd"), (3, 0x80, "ra")];
    let mut words: Vec<String> =
        flags.iter().filter(|(at, bit, _)| response[*at] & bit != 0).map(|(_, _, flag)| (*flag).to_owned()).collect();
    words.push(message.metadata.response_code.to_string());
    words.extend(message.answers.iter().map(|record| format!("[{} {}]", record.name, record.data)));
    words.extend(message.authorities.iter().map(|record| format!("({} {})", record.name, record.ttl)));
    words.extend(extended(response).map(|(code, _)| format!("EDE {code}")));
    words.join(" ")
}

fn check(response: &[u8], expected: &str) {
    assert_eq!(shown(response), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn forwards_names_outside_zones_only() {
    let upstream = FakeUpstream::start(|query, _| {
        let asked = query.queries[0].name().to_string();
        at_once(match asked.as_str() {
            "www.example.test." => response(query, [alias(&asked, "host.example.test."), a("host.example.test.", 1)]),
            "none.example.test." => failing(query, ResponseCode::NXDomain, true),
            "empty.example.test." => failing(query, ResponseCode::NoError, true),
            "lame.example.test." => failing(query, ResponseCode::ServFail, false),
            "closed.example.test." => failing(query, ResponseCode::Refused, false),
            // Unsolicited records are not passed on.
            "more.example.test." => response(query, [a("web.default.svc.cluster.local.", 9), a(&asked, 2)]),
            _ => response(query, [a(&asked, 3)]),
        })
    })
    .await;
    let server = Server::start("127.0.0.1:0", Upstreams { names: Some(&upstream), ..Upstreams::default() });
    for (name, expected) in [
        ("Host.Example.Test", "rd ra No Error [Host.Example.Test. 192.0.2.3]"),
        ("www.example.test", "rd ra No Error [www.example.test. host.example.test.] [host.example.test. 192.0.2.1]"),
        ("none.example.test", "rd ra Non-Existent Domain (test. 60)"),
        ("empty.example.test", "rd ra No Error (test. 60)"),
        ("lame.example.test", "rd ra Server Failure EDE 22"),
        ("closed.example.test", "rd ra Server Failure EDE 22"),
        ("more.example.test", "rd ra No Error [more.example.test. 192.0.2.2]"),
        (WEB, "aa rd ra No Error [web.default.svc.cluster.local. 10.0.0.1]"),
        ("nope.default.svc.cluster.local", "aa rd ra Non-Existent Domain (cluster.local. 5)"),
        ("9.9.9.10.in-addr.arpa", "aa rd ra Non-Existent Domain (10.in-addr.arpa. 5)"),
        // Names that are not forwarded.
        ("localhost", "rd ra No Error [localhost. 127.0.0.1]"),
        ("x.invalid", "rd ra Non-Existent Domain (invalid. 10800)"),
        ("1.1.168.192.in-addr.arpa", "rd ra Non-Existent Domain (168.192.in-addr.arpa. 10800)"),
    ] {
        check(&ask(&server, name, A_TYPE), expected);
    }
    // Kept.
    check(&ask(&server, "host.example.test", A_TYPE), "rd ra No Error [host.example.test. 192.0.2.3]");
    let asked: Vec<String> = upstream.asked().into_iter().map(|(name, _)| name).collect();
    assert!(asked.iter().all(|name| name.ends_with(".example.test.")), "{asked:?}");
    assert_eq!(asked.iter().filter(|name| *name == "host.example.test.").count(), 1, "{asked:?}");
    // Other clients get the earlier response, and so does a query without RD.
    let www = query(7, &question_name("www.example.test"), A_TYPE, Some(1232));
    check(&ask_from("127.0.0.2:0", server.address, &www), "rd Query Refused EDE 20");
    check(
        &ask_from("127.0.0.2:0", server.address, &query(7, &question_name(WEB), A_TYPE, None)),
        &format!("aa rd No Error [{WEB}. 10.0.0.1]"),
    );
    let mut not_desired = www.clone();
    not_desired[2] = 0;
    check(&ask_from("127.0.0.1:0", server.address, &not_desired), "ra Query Refused EDE 20");
    let metrics = server.stopped().await;
    assert_eq!((metrics.total(Event::Forwarded), metrics.total(Event::ForwardFailed)), (8, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn wildcard_socket_replies_from_queried_address() {
    let upstream = FakeUpstream::start(|query, _| at_once(response(query, [a("x.test.", 1)]))).await;
    let server = Server::with("0.0.0.0:0", Upstreams { names: Some(&upstream), ..Upstreams::default() }, "127.0.0.0/8");
    for asked in ["127.0.0.2", "127.0.0.3"] {
        let to = SocketAddr::new(asked.parse().unwrap(), server.address.port());
        // A connected socket takes datagrams from this address only.
        check(
            &ask_from("127.0.0.1:0", to, &query(1, &question_name("x.test"), A_TYPE, None)),
            "rd ra No Error [x.test. 192.0.2.1]",
        );
    }
    server.stopped().await;
}

fn large(query: &Message, records: u16) -> Vec<u8> {
    let owner = query.queries[0].name().clone();
    let text = |number: u16| TXT::new(vec![format!("{number:0>200}")]);
    response(query, (0..records).map(|number| Record::from_rdata(owner.clone(), 60, RData::TXT(text(number)))))
}

#[tokio::test(flavor = "multi_thread")]
async fn fetches_large_answers_over_tcp_and_truncates_for_udp() {
    let upstream = FakeUpstream::start(|query, by| {
        at_once(match by {
            UpstreamTransport::Udp => {
                let mut cut = query.clone().into_response();
                cut.metadata.truncation = true;
                cut.to_vec().unwrap()
            }
            UpstreamTransport::Tcp => large(query, 200),
        })
    })
    .await;
    let server = Server::start("127.0.0.1:0", Upstreams { names: Some(&upstream), ..Upstreams::default() });
    for (edns, most) in [(None, 512), (Some(800), 800), (Some(1232), 1232), (Some(4096), 1232)] {
        let response = ask_from("127.0.0.1:0", server.address, &query(1, &question_name("big.test"), TXT_TYPE, edns));
        assert!(response.len() <= most, "{} octets over UDP for {edns:?}", response.len());
        assert!(response[2] & 0x02 != 0, "TC for {edns:?}");
        let answers = Message::from_vec(&response).unwrap().answers.len();
        // Beside header, question and OPT; a record points to the name.
        assert_eq!(answers, (most - 26 - 11) / 213, "as many as fit for {edns:?}");
    }
    let mut stream = ask_tcp(&server, &[query(2, &question_name("big.test"), TXT_TYPE, None)]).await;
    let response = receive_tcp(&mut stream).await;
    assert_eq!(Message::from_vec(&response).unwrap().answers.len(), 200);
    assert_eq!(response[2] & 0x02, 0, "nothing was cut");
    assert_eq!(upstream.asked().iter().filter(|(_, by)| *by == UpstreamTransport::Tcp).count(), 1, "kept");
    let metrics = server.stopped().await;
    assert_eq!(metrics.total(Event::TruncatedUdp), 4);
}

/// Each fault is a name, and the upstream's datagrams for it; over TCP the upstream is honest, or forges too.
#[tokio::test(flavor = "multi_thread")]
async fn forged_responses_affect_their_queries_only() {
    let upstream = FakeUpstream::start(|query, by| {
        let asked = query.queries[0].name().to_string();
        let good = response(query, [a(&asked, 1)]);
        let (fault, everywhere) =
            asked.split_once('.').map(|(label, rest)| (label, rest.starts_with("always"))).unwrap();
        if by == UpstreamTransport::Tcp && !everywhere {
            return at_once(good);
        }
        at_once(match fault {
            "id" => [&[good[0] ^ 1, good[1]], &good[2..]].concat(),
            "garbage" => [&good[..2], &[0xff; 60]].concat(),
            "empty" => Vec::new(),
            "header" => [&good[..2], &[0x81, 0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..]].concat(),
            "loop" => [&good[..12], &[0xc0, 0x0c, 0, 1, 0, 1]].concat(),
            "size" => large(query, 15),
            "question" => {
                let mut other = query.clone();
                other.queries[0].set_name(name("other.test."));
                response(&other, [a("other.test.", 1)])
            }
            "query" => query.to_vec().unwrap(),
            "cut" => good[..good.len() - 3].to_vec(),
            "twice" => {
                return vec![(ReplyTime::AtOnce, good.clone()), (ReplyTime::After(Duration::from_millis(50)), good)];
            }
            "slow" => return vec![(ReplyTime::After(Duration::from_millis(1200)), good)],
            "late" => return vec![(ReplyTime::Released, good)],
            _ => return Vec::new(),
        })
    })
    .await;
    let server = Server::start("127.0.0.1:0", Upstreams { names: Some(&upstream), ..Upstreams::default() });
    let good = ["twice.test", "slow.test", "twice.always.test"];
    let faults = ["id", "garbage", "empty", "header", "loop", "size", "question", "query", "cut", "late", "silent"];
    let faults: Vec<String> =
        faults.iter().flat_map(|fault| [format!("{fault}.test"), format!("{fault}.always.test")]).collect();
    let clients: Vec<_> = faults
        .iter()
        .map(String::as_str)
        .chain(good)
        .map(|name| {
            let client = udp_client("127.0.0.1:0", server.address);
            client.send(&query(9, &question_name(name), A_TYPE, Some(1232))).unwrap();
            (name.to_owned(), client)
        })
        .collect();
    for (name, client) in &clients {
        let response = receive(client);
        let answered = format!("rd ra No Error [{name}. 192.0.2.1]");
        match extended(&response) {
            Some((code, text)) => {
                assert!(!good.contains(&name.as_str()), "{name}: {code} {text}");
                assert!(matches!(code, 22 | 23) && !text.is_empty(), "{name}: EDE {code} {text:?}");
                check(&response, &format!("rd ra Server Failure EDE {code}"));
            }
            // Over TCP it told the truth.
            None => {
                assert_eq!(shown(&response), answered, "{name}");
                assert!(!name.contains("always") || good.contains(&name.as_str()), "{name}: {answered}");
            }
        }
        assert_eq!(response[..2], [0, 9], "{name}: the client's own ID");
    }
    upstream.release();
    check(&ask(&server, "twice.more.test", A_TYPE), "rd ra No Error [twice.more.test. 192.0.2.1]");
    check(&ask(&server, WEB, A_TYPE), &format!("aa rd ra No Error [{WEB}. 10.0.0.1]"));
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_servfail_at_once_if_queue_is_full() {
    let upstream = FakeUpstream::start(|_, _| Vec::new()).await;
    let server = Server::start("127.0.0.1:0", Upstreams { names: Some(&upstream), ..Upstreams::default() });
    let client = udp_client("127.0.0.1:0", server.address);
    socket2::SockRef::from(&client).set_recv_buffer_size(1 << 20).unwrap();
    for id in 0..300 {
        client.send(&query(id, &question_name(&format!("n{id}.test")), A_TYPE, Some(1232))).unwrap();
    }
    // Queries beyond the queue, and names of the zones.
    let mut full = 0;
    while full < 44 {
        let response = receive(&client);
        check(&response, "rd ra Server Failure EDE 22");
        assert!(extended(&response).unwrap().1.contains("256 questions wait"), "{:?}", extended(&response));
        full += 1;
    }
    check(&ask(&server, WEB, A_TYPE), &format!("aa rd ra No Error [{WEB}. 10.0.0.1]"));
    // The others, when they have waited long enough.
    for _ in 0..256 {
        let response = receive(&client);
        check(&response, "rd ra Server Failure EDE 22");
    }
    let metrics = server.stopped().await;
    let count = |event| metrics.total(event);
    assert_eq!((count(Event::ForwardFull), count(Event::Forwarded), count(Event::ForwardFailed)), (44, 256, 256));
    assert_eq!((count(Event::ServFail), count(Event::NoError)), (300, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn own_names_do_not_wait_for_forwarded_names() {
    let upstream = FakeUpstream::start(|query, _| {
        let asked = query.queries[0].name().to_string();
        let when = if asked.starts_with("slow") { ReplyTime::Released } else { ReplyTime::AtOnce };
        vec![(when, response(query, [a(&asked, 1)]))]
    })
    .await;
    let server = Server::start("127.0.0.1:0", Upstreams { names: Some(&upstream), ..Upstreams::default() });
    let ids = |responses: &[Vec<u8>]| responses.iter().map(|response| response[1]).collect::<Vec<_>>();
    let pipelined = [
        query(1, &question_name("slow.test"), A_TYPE, None),
        query(2, &question_name(WEB), A_TYPE, None),
        query(3, &question_name("quick.test"), A_TYPE, None),
        query(4, &question_name(WEB), A_TYPE, None),
    ];
    let mut stream = ask_tcp(&server, &pipelined).await;
    let mut responses = Vec::new();
    for number in 0..4 {
        if number == 3 {
            upstream.release();
        }
        responses.push(receive_tcp(&mut stream).await);
    }
    assert_eq!(ids(&responses), [2, 4, 3, 1], "as they come");
    check(&responses[3], "rd ra No Error [slow.test. 192.0.2.1]");
    // And later on the same connection; a client that has half-closed it still gets its responses.
    upstream.hold();
    let again = [query(5, &question_name("slow2.test"), A_TYPE, None), query(6, &question_name(WEB), A_TYPE, None)];
    for query in &again {
        stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], query].concat()).await.unwrap();
    }
    stream.shutdown().await.unwrap();
    let ours = receive_tcp(&mut stream).await;
    upstream.release();
    assert_eq!(ids(&[ours, receive_tcp(&mut stream).await]), [6, 5]);
    assert_eq!(timeout(WAIT_TIMEOUT, stream.read(&mut [0; 1])).await.unwrap().unwrap(), 0, "then it ends");
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_queued_queries_at_shutdown() {
    let upstream = FakeUpstream::start(|query, _| {
        let asked = query.queries[0].name().to_string();
        if asked.starts_with("soon") {
            vec![(ReplyTime::Released, response(query, [a(&asked, 1)]))]
        } else {
            Vec::new()
        }
    })
    .await;
    let port = ReservedPort::new();
    let address = port.address();
    let server = Server::start(&address.to_string(), Upstreams { names: Some(&upstream), ..Upstreams::default() });
    let names = ["soon.test", "never.test"];
    let udp = names.map(|name| {
        let client = udp_client("127.0.0.1:0", address);
        client.send(&query(1, &question_name(name), A_TYPE, Some(1232))).unwrap();
        client
    });
    let queries = names.map(|name| query(2, &question_name(name), A_TYPE, Some(1232)));
    let mut stream = ask_tcp(&server, &queries).await;
    // Those over TCP share the lookups of the others: two of each were taken.
    let metrics = Arc::clone(&server.metrics);
    let taken = async {
        while metrics.total(Event::Forwarded) < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(WAIT_TIMEOUT, taken).await.expect("all were taken");
    server.stop.drain();
    upstream.release();
    server.stopped().await;
    check(&receive(&udp[0]), "rd ra No Error [soon.test. 192.0.2.1]");
    check(&receive(&udp[1]), "rd ra Server Failure EDE 22");
    check(&receive_tcp(&mut stream).await, "rd ra No Error [soon.test. 192.0.2.1]");
    check(&receive_tcp(&mut stream).await, "rd ra Server Failure EDE 22");
    let error = udp[0].send(b"x").and_then(|_| udp[0].recv(&mut [0; 16])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "the sockets are closed");
}

/// No connection over TCP delays the end: the drain alone bounds how long the upstream has.
#[tokio::test(flavor = "multi_thread")]
async fn answers_udp_query_in_flight_when_the_server_stops() {
    let upstream = FakeUpstream::start(|query, _| {
        let asked = query.queries[0].name().to_string();
        vec![(ReplyTime::Released, response(query, [a(&asked, 1)]))]
    })
    .await;
    let server = Server::start("127.0.0.1:0", Upstreams { names: Some(&upstream), ..Upstreams::default() });
    let client = udp_client("127.0.0.1:0", server.address);
    client.send(&query(1, &question_name("held.test"), A_TYPE, Some(1232))).unwrap();
    let forwarded = async {
        while server.metrics.total(Event::Forwarded) < 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(WAIT_TIMEOUT, forwarded).await.expect("the query is forwarded");
    server.stop.drain();
    client.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    let early = client.recv(&mut [0; 4096]).map_err(|error| error.kind());
    assert_eq!(early, Err(ErrorKind::WouldBlock), "no response before that of the upstream");
    client.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    upstream.release();
    check(&receive(&client), "rd ra No Error [held.test. 192.0.2.1]");
    server.stopped().await;
}

/// N14: the CNAME is of the zone, and the other records are of the upstream or the zones.
#[tokio::test(flavor = "multi_thread")]
async fn follows_external_aliases_if_recursion_desired() {
    let upstream = FakeUpstream::start(|query, _| {
        let asked = query.queries[0].name().to_string();
        match asked.as_str() {
            "db.example.test." => {
                at_once(response(query, [alias(&asked, "node.example.test."), a("node.example.test.", 5)]))
            }
            "gone.example.test." => at_once(failing(query, ResponseCode::NXDomain, true)),
            _ => Vec::new(),
        }
    })
    .await;
    let out = "out.default.svc.cluster.local. db.example.test.";
    let rest = "[db.example.test. node.example.test.] [node.example.test. 192.0.2.5]";
    let server = Server::start("127.0.0.1:0", Upstreams { aliases: Some(&upstream), ..Upstreams::default() });
    let ask_of = |name: &str, from: &str, qtype, desired| {
        let mut query = query(3, &question_name(&format!("{name}.default.svc.cluster.local")), qtype, Some(1232));
        query[2] = u8::from(desired);
        ask_from(from, server.address, &query)
    };
    for (name, from, qtype, desired, expected) in [
        ("out", "127.0.0.1:0", A_TYPE, true, format!("aa rd No Error [{out}] {rest}")),
        ("out", "127.0.0.2:0", A_TYPE, true, format!("aa rd No Error [{out}] {rest}")),
        (
            "twice",
            "127.0.0.1:0",
            A_TYPE,
            true,
            format!("aa rd No Error [twice.default.svc.cluster.local. out.default.svc.cluster.local.] [{out}] {rest}"),
        ),
        (
            "gone",
            "127.0.0.1:0",
            A_TYPE,
            true,
            "aa rd Non-Existent Domain [gone.default.svc.cluster.local. gone.example.test.] (test. 60)".to_owned(),
        ),
        (
            "dead",
            "127.0.0.1:0",
            A_TYPE,
            true,
            "aa rd Server Failure [dead.default.svc.cluster.local. dead.example.test.] EDE 22".to_owned(),
        ),
        // A client without RD, and a query for the CNAME itself.
        ("out", "127.0.0.1:0", A_TYPE, false, format!("aa No Error [{out}]")),
        ("out", "127.0.0.1:0", CNAME_TYPE, true, format!("aa rd No Error [{out}]")),
    ] {
        assert_eq!(shown(&ask_of(name, from, qtype, desired)), expected, "{name} {from}");
    }
    check(&ask(&server, "example.test", A_TYPE), "rd Query Refused EDE 20");
    server.stopped().await;
    // Aliases are followed for clients whose names are forwarded, and for no others.
    let server = Server::start("127.0.0.1:0", Upstreams { names: Some(&upstream), ..Upstreams::default() });
    check(&ask(&server, "out.default.svc.cluster.local", A_TYPE), &format!("aa rd ra No Error [{out}] {rest}"));
    let other = query(3, &question_name("out.default.svc.cluster.local"), A_TYPE, None);
    check(&ask_from("127.0.0.2:0", server.address, &other), &format!("aa rd No Error [{out}]"));
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_servfail_without_upstream() {
    let reserved = ReservedPort::new();
    let played = FakeUpstream {
        address: reserved.address(),
        asked: Arc::default(),
        released: watch::Sender::new(false),
        _tasks: JoinSet::new(),
    };
    let server = Server::start("127.0.0.1:0", Upstreams { names: Some(&played), ..Upstreams::default() });
    let response = ask(&server, "example.test", A_TYPE);
    let (code, text) = extended(&response).unwrap();
    assert!(matches!(code, 22 | 23) && text.contains("no upstream answered"), "{code} {text}");
    assert_eq!(Message::from_vec(&response).unwrap().metadata.response_code, ResponseCode::ServFail);
    server.stopped().await;
}

/// Adds forged records of the served zones to every section of a response, after its own records.
fn forged(query: &Message, records: impl IntoIterator<Item = Record>) -> Vec<u8> {
    let mut response = query.clone().into_response();
    response.metadata.recursion_available = true;
    response.add_answers(records);
    let hosts =
        ["wEb.default.svc.cluster.local.", "web.default.svc.cluster.internal.", "nope.default.svc.cluster.local."];
    let zone = || {
        let soa = SOA::new(name("ns.test."), name("mail.test."), 1, 2, 3, 4, 600_000);
        let soa = Record::from_rdata(name("cluster.local."), 600_000, RData::SOA(soa));
        let ns = Record::from_rdata(name("cluster.local."), 600_000, RData::NS(NS(name("ns.example.test."))));
        let pointer = RData::PTR(PTR(name("forged.example.test.")));
        let pointer = Record::from_rdata(name("1.0.0.10.in-addr.arpa."), 600_000, pointer);
        let away = alias("out.default.svc.cluster.local.", "forged.example.test.");
        hosts.map(|host| a(host, 66)).into_iter().chain([soa, ns, pointer, away, a("forged.example.test.", 66)])
    };
    response.add_answers(zone());
    response.add_authorities(zone());
    response.add_additionals(zone());
    response.to_vec().unwrap()
}

/// The response of an upstream that forges.
fn forge(query: &Message) -> Vec<u8> {
    let question = &query.queries[0];
    let (asked, qtype) = (question.name().to_string().to_lowercase(), question.query_type());
    let cname = |target: &str| forged(query, [alias(&asked, target)]);
    let data = |data: RData| forged(query, [Record::from_rdata(question.name().clone(), 300, data)]);
    let web = "web.default.svc.cluster.local.";
    match asked.strip_suffix(".example.test.").unwrap_or(&asked) {
        "into" => cname("WEB.Default.SVC.cluster.LOCAL."),
        "via" => forged(query, [alias(&asked, "into.example.test."), alias("into.example.test.", web)]),
        "internal" => cname("web.default.svc.cluster.internal."),
        "nope" => cname("nope.default.svc.cluster.local."),
        "reverse" => cname("1.0.0.10.in-addr.arpa."),
        "no-reverse" => cname("9.9.9.10.in-addr.arpa."),
        "apex" => cname("cluster.local."),
        "above" => cname("local."),
        "local." | "none.local." => {
            let mut response = query.clone().into_response();
            response.metadata.response_code = ResponseCode::NXDomain;
            let root = SOA::new(name("a.root."), name("b.root."), 1, 2, 3, 4, 86_400);
            response.add_authority(Record::from_rdata(Name::root(), 86_400, RData::SOA(root)));
            response.to_vec().unwrap()
        }
        "away" => cname("out.default.svc.cluster.local."),
        "back-again" => cname("twice.default.svc.cluster.local."),
        "db" => cname(web),
        "circle" => cname("circle.default.svc.cluster.local."),
        "outer-circle" => forged(query, [alias(&asked, "x.example.test."), alias("x.example.test.", &asked)]),
        "local" => forged(query, [alias(&asked, "localhost."), a("localhost.", 66)]),
        "private" => cname("1.1.168.192.in-addr.arpa."),
        // The upstream's view: names of the served zones do not exist.
        "true" => {
            let mut response = query.clone().into_response();
            response.metadata.response_code = ResponseCode::NXDomain;
            response.add_answer(alias(&asked, web));
            let root = SOA::new(name("a.root."), name("b.root."), 1, 2, 3, 4, 86_400);
            response.add_authority(Record::from_rdata(Name::root(), 86_400, RData::SOA(root)));
            response.to_vec().unwrap()
        }
        // It does not follow CNAMEs itself.
        "lazy" => response(query, [alias(&asked, "host.example.test.")]),
        "host" => forged(query, [a(&asked, 1)]),
        "dangling" => {
            let mut response = Message::from_vec(&failing(query, ResponseCode::NXDomain, true)).unwrap();
            response.add_answer(alias(&asked, "none.example.test."));
            response.to_vec().unwrap()
        }
        "denied" => {
            let mut response = Message::from_vec(&forged(query, [])).unwrap();
            response.metadata.response_code = ResponseCode::NXDomain;
            response.to_vec().unwrap()
        }
        "many" if qtype == RecordType::ANY => forged(query, [a(&asked, 1), alias(&asked, web)]),
        "mail" => data(RData::MX(MX::new(10, name(web)))),
        "srv" => data(RData::SRV(SRV::new(0, 1, 80, name(web)))),
        "ptr" => data(RData::PTR(PTR(name(web)))),
        // HTTPS: priority 1, the target.
        "https" => {
            let rdata = [&[0, 1][..], &question_name(web)].concat();
            data(RData::Unknown { code: RecordType::from(65), rdata: NULL::with(rdata) })
        }
        "dname" => {
            let target = question_name("default.svc.cluster.local");
            let dname = RData::Unknown { code: RecordType::from(39), rdata: NULL::with(target) };
            forged(query, [Record::from_rdata(name("example.test."), 300, dname), alias(&asked, web)])
        }
        number if number.starts_with('n') && number[1..].parse::<u8>().is_ok() => {
            cname(&format!("n{}.example.test.", number[1..].parse::<u8>().unwrap() + 1))
        }
        "eternal" => {
            let soa = SOA::new(name("ns.test."), name("mail.test."), 1, 2, 3, 4, u32::MAX);
            let mut response = query.clone().into_response();
            response.metadata.response_code = ResponseCode::NXDomain;
            response.add_authority(Record::from_rdata(name("test."), i32::MAX as u32, RData::SOA(soa)));
            response.to_vec().unwrap()
        }
        "old" => response(query, [Record::from_rdata(name(&asked), i32::MAX as u32, RData::A(A::new(192, 0, 2, 1)))]),
        "negative" => response(query, [Record::from_rdata(name(&asked), u32::MAX, RData::A(A::new(192, 0, 2, 1)))]),
        _ => failing(query, ResponseCode::NXDomain, true),
    }
}

/// Each chain has equal answers over UDP and TCP, at first and from the cache, queried directly and behind a CNAME.
#[tokio::test(flavor = "multi_thread")]
async fn takes_no_record_of_its_zones_from_an_upstream() {
    let upstream = FakeUpstream::start(|query, _| at_once(forge(query))).await;
    let both = Upstreams { names: Some(&upstream), aliases: Some(&upstream) };
    let server = Server::start("127.0.0.1:0", both);
    let web = format!("[{WEB}. 10.0.0.1]");
    let out = "[out.default.svc.cluster.local. db.example.test.]";
    let twice = "[twice.default.svc.cluster.local. out.default.svc.cluster.local.]";
    for (asked, qtype, expected) in [
        ("into.example.test", A_TYPE, format!("rd ra No Error [into.example.test. {WEB}.] {web}")),
        (
            "VIA.example.test",
            A_TYPE,
            format!("rd ra No Error [VIA.example.test. into.example.test.] [into.example.test. {WEB}.] {web}"),
        ),
        (
            "internal.example.test",
            A_TYPE,
            "rd ra No Error [internal.example.test. web.default.svc.cluster.internal.] \
             [web.default.svc.cluster.internal. 10.0.0.1]"
                .to_owned(),
        ),
        (
            "nope.example.test",
            A_TYPE,
            "rd ra Non-Existent Domain [nope.example.test. nope.default.svc.cluster.local.] (cluster.local. 5)"
                .to_owned(),
        ),
        ("into.example.test", AAAA_TYPE, format!("rd ra No Error [into.example.test. {WEB}.] (cluster.local. 5)")),
        (
            "reverse.example.test",
            PTR_TYPE,
            format!("rd ra No Error [reverse.example.test. 1.0.0.10.in-addr.arpa.] [1.0.0.10.in-addr.arpa. {WEB}.]"),
        ),
        (
            "no-reverse.example.test",
            PTR_TYPE,
            "rd ra Non-Existent Domain [no-reverse.example.test. 9.9.9.10.in-addr.arpa.] (10.in-addr.arpa. 5)"
                .to_owned(),
        ),
        (
            "apex.example.test",
            A_TYPE,
            "rd ra No Error [apex.example.test. cluster.local.] (cluster.local. 5)".to_owned(),
        ),
        // Foreign, ours, foreign, ours.
        (
            "away.example.test",
            A_TYPE,
            format!(
                "rd ra No Error [away.example.test. out.default.svc.cluster.local.] {out} [db.example.test. {WEB}.] {web}"
            ),
        ),
        (
            "back-again.example.test",
            A_TYPE,
            format!(
                "rd ra No Error [back-again.example.test. twice.default.svc.cluster.local.] {twice} {out} \
                 [db.example.test. {WEB}.] {web}"
            ),
        ),
        // The first name is ours: so is the authority.
        (
            "back.default.svc.cluster.local",
            A_TYPE,
            format!(
                "aa rd ra No Error [back.default.svc.cluster.local. into.example.test.] [into.example.test. {WEB}.] {web}"
            ),
        ),
        (
            "there.default.svc.cluster.internal",
            A_TYPE,
            format!(
                "aa rd ra No Error [there.default.svc.cluster.internal. back-again.example.test.] \
                 [back-again.example.test. twice.default.svc.cluster.local.] {twice} {out} [db.example.test. {WEB}.] {web}"
            ),
        ),
        // Loops on both sides, on theirs, and a chain without an end.
        (
            "circle.default.svc.cluster.local",
            A_TYPE,
            "aa rd ra Server Failure [circle.default.svc.cluster.local. circle.example.test.] \
             [circle.example.test. circle.default.svc.cluster.local.] EDE 0"
                .to_owned(),
        ),
        (
            "outer-circle.example.test",
            A_TYPE,
            "rd ra Server Failure [outer-circle.example.test. x.example.test.] \
             [x.example.test. outer-circle.example.test.] EDE 0"
                .to_owned(),
        ),
        // The special names are not taken from upstreams either.
        (
            "local.example.test",
            A_TYPE,
            "rd ra No Error [local.example.test. localhost.] [localhost. 127.0.0.1]".to_owned(),
        ),
        (
            "local.default.svc.cluster.local",
            A_TYPE,
            "aa rd ra No Error [local.default.svc.cluster.local. localhost.] [localhost. 127.0.0.1]".to_owned(),
        ),
        (
            "private.example.test",
            PTR_TYPE,
            "rd ra Non-Existent Domain [private.example.test. 1.1.168.192.in-addr.arpa.] (168.192.in-addr.arpa. 10800)"
                .to_owned(),
        ),
        ("true.example.test", A_TYPE, format!("rd ra No Error [true.example.test. {WEB}.] {web}")),
        (
            "lazy.example.test",
            A_TYPE,
            "rd ra No Error [lazy.example.test. host.example.test.] [host.example.test. 192.0.2.1]".to_owned(),
        ),
        (
            "dangling.example.test",
            A_TYPE,
            "rd ra Non-Existent Domain [dangling.example.test. none.example.test.] (test. 60)".to_owned(),
        ),
        // The SOA of our zone is none for the name.
        ("denied.example.test", A_TYPE, "rd ra Non-Existent Domain".to_owned()),
        // A name above a zone exists; an upstream does not know that, nor that it is a private network's.
        ("local", A_TYPE, "rd ra No Error (. 10800)".to_owned()),
        ("none.local", A_TYPE, "rd ra Non-Existent Domain (. 10800)".to_owned()),
        ("above.example.test", A_TYPE, "rd ra No Error [above.example.test. local.] (. 10800)".to_owned()),
        ("168.192.in-addr.arpa", PTR_TYPE, "rd ra No Error (168.192.in-addr.arpa. 10800)".to_owned()),
        ("1.168.192.in-addr.arpa", PTR_TYPE, "rd ra No Error (168.192.in-addr.arpa. 10800)".to_owned()),
        ("2.168.192.in-addr.arpa", PTR_TYPE, "rd ra Non-Existent Domain (168.192.in-addr.arpa. 10800)".to_owned()),
        // A target may be one of our names; it is not followed, and nothing comes with it.
        (
            "many.example.test",
            ANY_TYPE,
            format!("rd ra No Error [many.example.test. 192.0.2.1] [many.example.test. {WEB}.]"),
        ),
        (
            "into.example.test",
            CNAME_TYPE,
            format!("rd ra No Error [into.example.test. {WEB}.]")
                .replace(WEB, "WEB.Default.SVC.cluster.LOCAL")
                .to_lowercase(),
        ),
        ("mail.example.test", MX_TYPE, format!("rd ra No Error [mail.example.test. 10 {WEB}.]")),
        ("srv.example.test", SRV_TYPE, format!("rd ra No Error [srv.example.test. 0 1 80 {WEB}.]")),
        ("ptr.example.test", PTR_TYPE, format!("rd ra No Error [ptr.example.test. {WEB}.]")),
        ("web.dname.example.test", SOA_TYPE, "rd ra Non-Existent Domain (test. 60)".to_owned()),
        ("dname.example.test", A_TYPE, format!("rd ra No Error [dname.example.test. {WEB}.] {web}")),
    ] {
        // The case of names from outside is not kept, and TTLs of outside run down.
        let is_running =
            |word: &&str| word.strip_suffix(')').is_some_and(|ttl| ttl.parse().is_ok_and(|ttl: u32| ttl > 5));
        let lower = |text: &str| {
            let text = text.to_lowercase();
            text.split(' ').filter(|word| !is_running(word)).collect::<Vec<_>>().join(" ")
        };
        for round in ["first", "kept"] {
            assert_eq!(lower(&shown(&ask(&server, asked, qtype))), lower(&expected), "{asked}, {round}");
        }
        let mut stream = ask_tcp(&server, &[query(2, &question_name(asked), qtype, Some(1232))]).await;
        assert_eq!(lower(&shown(&receive_tcp(&mut stream).await)), lower(&expected), "{asked} over TCP");
        let response = Message::from_vec(&ask(&server, asked, qtype)).unwrap();
        assert_eq!(response.additionals, [], "{asked}");
    }
    let https = Message::from_vec(&ask(&server, "https.example.test", 65)).unwrap();
    assert_eq!((https.answers.len(), https.authorities.len(), https.additionals.len()), (1, 0, 0));
    // No more than 16 CNAMEs, those of ours among them, and no more queries.
    let long = Message::from_vec(&ask(&server, "long.default.svc.cluster.local", A_TYPE)).unwrap();
    assert_eq!((long.metadata.response_code, long.answers.len()), (ResponseCode::ServFail, 17));
    let asked: Vec<String> = upstream.asked().into_iter().map(|(name, _)| name).collect();
    let is_theirs = |name: &String| name.ends_with(".example.test.") || name.ends_with("local.") && name.len() < 12;
    assert!(asked.iter().all(is_theirs), "no name of ours is asked for: {asked:?}");
    assert_eq!(asked.iter().filter(|name| name[1..].starts_with(char::is_numeric)).count(), 16, "{asked:?}");
    server.stopped().await;
    // For ExternalName Services alone, and any client.
    let server = Server::start("127.0.0.1:0", Upstreams { aliases: Some(&upstream), ..Upstreams::default() });
    let back = query(3, &question_name("back.default.svc.cluster.local"), A_TYPE, Some(1232));
    assert_eq!(
        shown(&ask_from("127.0.0.2:0", server.address, &back)).to_lowercase(),
        format!(
            "aa rd no error [back.default.svc.cluster.local. into.example.test.] [into.example.test. {WEB}.] {web}"
        )
    );
    server.stopped().await;
}

/// A datagram of 512 octets ends in the middle of a mixed chain: at a CNAME of the upstream's, or at our own records.
#[tokio::test(flavor = "multi_thread")]
async fn truncates_mixed_chain() {
    let labels = ["a", "b", "c"].map(|letter| letter.repeat(61)).join(".");
    let hosts = ["x", "y", "z"].map(|first| format!("{first}.{labels}.example.test."));
    let known = hosts.clone();
    let upstream = FakeUpstream::start(move |query, _| {
        let asked = query.queries[0].name().to_string().to_lowercase();
        let next = known.iter().position(|host| *host == asked).map_or(usize::from(asked == "mid.test."), |at| at + 1);
        at_once(response(query, [alias(&asked, known.get(next).map_or(&format!("{WEB}."), |host| host))]))
    })
    .await;
    let server = Server::start("127.0.0.1:0", Upstreams { names: Some(&upstream), ..Upstreams::default() });
    let [x, y, z] = hosts;
    let end = format!("[{y} {z}] [{z} {WEB}.] [{WEB}. 10.0.0.1]");
    check(&ask(&server, "mid.test", A_TYPE), &format!("rd ra No Error [mid.test. {y}] {end}"));
    check(&ask(&server, "big.test", A_TYPE), &format!("rd ra No Error [big.test. {x}] [{x} {y}] {end}"));
    for (name, answers) in [("mid.test", 3), ("big.test", 2)] {
        let response = ask_from("127.0.0.1:0", server.address, &query(1, &question_name(name), A_TYPE, None));
        assert!(response.len() <= 512 && shown(&response).starts_with("tc rd ra No Error"), "{}", shown(&response));
        assert_eq!(Message::from_vec(&response).unwrap().answers.len(), answers, "{name}");
    }
    server.stopped().await;
}

/// A chain that enters our zones there ends as the state of the data demands.
#[tokio::test(flavor = "multi_thread")]
async fn marks_stale_data_in_mixed_chains() {
    let upstream = FakeUpstream::start(|query, _| at_once(forge(query))).await;
    let to = || vec![Upstream { address: upstream.address, protocol: UpstreamProtocol::Plain }];
    let start = |status| {
        let names_for = vec!["127.0.0.1/32".parse().unwrap()];
        let outside = ForwardPolicy { allowed_clients: names_for, aliases: true, special: SpecialNames::new(false) };
        Server::with_zone("127.0.0.1:0", (to(), to(), outside), (zone(None), status))
    };
    let into = format!("[into.example.test. {WEB}.]");
    let nope = "[nope.example.test. nope.default.svc.cluster.local.]";
    let reverse = "[reverse.example.test. 1.0.0.10.in-addr.arpa.]";
    // The case of names from outside is not kept.
    let current = |qtype, name: &str, server: &Server| {
        shown(&ask(server, name, qtype)).replace("WEB.Default.SVC.cluster.LOCAL", WEB)
    };
    // Nothing was read: not even which reverse names are ours is known.
    let server = start(Arc::default());
    assert_eq!(current(A_TYPE, "into.example.test", &server), format!("rd ra Server Failure {into} EDE 14"));
    assert_eq!(current(PTR_TYPE, "reverse.example.test", &server), format!("rd ra Server Failure {reverse} EDE 14"));
    assert_eq!(current(A_TYPE, "host.example.test", &server), "rd ra No Error [host.example.test. 192.0.2.1]");
    // A snapshot: unknown names are not denied.
    server.status.set_restored();
    assert_eq!(current(A_TYPE, "into.example.test", &server), format!("rd ra No Error {into} [{WEB}. 10.0.0.1] EDE 3"));
    assert_eq!(current(A_TYPE, "nope.example.test", &server), format!("rd ra Server Failure {nope} EDE 14"));
    server.status.set_synced();
    server.status.set_cut_off(true);
    assert_eq!(current(A_TYPE, "into.example.test", &server), format!("rd ra No Error {into} [{WEB}. 10.0.0.1] EDE 3"));
    let denied = format!("rd ra Non-Existent Domain {nope} (cluster.local. 5) EDE 19");
    assert_eq!(current(A_TYPE, "nope.example.test", &server), denied);
    let back = "[back.default.svc.cluster.local. into.example.test.]";
    let marked = format!("aa rd ra No Error {back} {into} [{WEB}. 10.0.0.1] EDE 3");
    assert_eq!(current(A_TYPE, "back.default.svc.cluster.local", &server), marked);
    assert_eq!(current(A_TYPE, "host.example.test", &server), "rd ra No Error [host.example.test. 192.0.2.1]");
    server.status.set_cut_off(false);
    assert_eq!(current(A_TYPE, "into.example.test", &server), format!("rd ra No Error {into} [{WEB}. 10.0.0.1]"));
    let metrics = server.stopped().await;
    assert_eq!(metrics.total(Event::StaleAnswers), 4);
}

/// With `--namespace` names of other namespaces are an upstream's; the apex is not.
#[tokio::test(flavor = "multi_thread")]
async fn takes_no_soa_of_its_zone_from_an_upstream() {
    let upstream = FakeUpstream::start(|query, _| {
        let asked = query.queries[0].name().to_string();
        let records = asked.starts_with("web.").then(|| a(&asked, 1));
        let mut response = Message::from_vec(&response(query, records)).unwrap();
        let zone = if asked.ends_with("arpa.") { "10.in-addr.arpa." } else { "cluster.local." };
        let soa = SOA::new(name("forged.test."), name("forged.test."), 1, 2, 3, 4, 60);
        response.add_authority(Record::from_rdata(name(zone), 600, RData::SOA(soa)));
        if response.answers.is_empty() {
            response.metadata.response_code = ResponseCode::NXDomain;
        }
        at_once(response.to_vec().unwrap())
    })
    .await;
    let status = Arc::new(Status::default());
    status.set_synced();
    let names = vec![Upstream { address: upstream.address, protocol: UpstreamProtocol::Plain }];
    let names_for = vec!["127.0.0.1/32".parse().unwrap()];
    let outside = ForwardPolicy { allowed_clients: names_for, aliases: false, special: SpecialNames::new(true) };
    let server = Server::with_zone("127.0.0.1:0", (names, Vec::new(), outside), (zone(Some("default")), status));
    for (asked, expected) in [
        (WEB, "aa rd ra No Error [web.default.svc.cluster.local. 10.0.0.1]"),
        ("nope.default.svc.cluster.local", "aa rd ra Non-Existent Domain (cluster.local. 5)"),
        ("web.other.svc.cluster.local", "rd ra No Error [web.other.svc.cluster.local. 192.0.2.1]"),
        ("nope.other.svc.cluster.local", "rd ra Non-Existent Domain"),
        ("9.9.9.10.in-addr.arpa", "rd ra Non-Existent Domain"),
    ] {
        check(&ask(&server, asked, A_TYPE), expected);
    }
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caps_upstream_ttls() {
    let upstream = FakeUpstream::start(|query, _| at_once(forge(query))).await;
    let server = Server::start("127.0.0.1:0", Upstreams { names: Some(&upstream), ..Upstreams::default() });
    let ttls = |name: &str| {
        let message = Message::from_vec(&ask(&server, name, A_TYPE)).unwrap();
        message.answers.iter().chain(&message.authorities).map(|record| record.ttl).collect::<Vec<_>>()
    };
    // One second may have passed.
    for (name, least, most) in [
        ("old.example.test", 86_398, 86_400),
        ("eternal.example.test", 10_798, 10_800),
        // With the sign bit it is none (RFC 2181 section 8).
        ("negative.example.test", 0, 0),
    ] {
        for round in ["first", "kept"] {
            let ttls = ttls(name);
            assert!(ttls.len() == 1 && (least..=most).contains(&ttls[0]), "{name}, {round}: {ttls:?}");
        }
    }
    server.stopped().await;
}

/// Numbers that look random, and are the same in each run.
struct Rng(u64);

impl Rng {
    fn next(&mut self, below: u64) -> u64 {
        // Knuth's generator (The Art of Computer Programming, section 3.3.4); the high bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// A response of any rcode with any records in any section, for names of the zones and others.
fn random_response(query: &Message) -> Vec<u8> {
    let asked = query.queries[0].name().to_string().to_lowercase();
    let seed = asked.bytes().fold(0, |seed: u64, octet| seed.wrapping_mul(31) + u64::from(octet));
    let mut numbers = Rng(seed);
    let pool = [
        &*asked,
        &*asked,
        "next.example.test.",
        "WEB.default.svc.cluster.local.",
        "web.default.svc.cluster.internal.",
        "nope.default.svc.cluster.local.",
        "out.default.svc.cluster.local.",
        "circle.default.svc.cluster.local.",
        "1.0.0.10.in-addr.arpa.",
        "cluster.local.",
        "local.",
        "localhost.",
    ];
    let mut response = query.clone().into_response();
    response.add_answer(alias(&asked, pool[numbers.next(pool.len() as u64) as usize]));
    for _ in 0..numbers.next(9) {
        let [owner, target] = [0; 2].map(|_| name(pool[numbers.next(pool.len() as u64) as usize]));
        let soa = || SOA::new(name("forged.test."), name("forged.test."), 1, 2, 3, 4, 700_000);
        let data = match numbers.next(7) {
            0 | 1 => RData::A(A::new(203, 0, 113, 66)),
            2 => RData::SOA(soa()),
            3 => RData::NS(NS(name("forged.test."))),
            _ => RData::CNAME(CNAME(target)),
        };
        let record = Record::from_rdata(owner, 600_000, data);
        match numbers.next(8) {
            0 => response.add_additional(record),
            1 | 2 => response.add_authority(record),
            _ => response.add_answer(record),
        };
    }
    if numbers.next(4) == 0 {
        response.metadata.response_code = ResponseCode::NXDomain;
    }
    response.to_vec().unwrap()
}

/// Whatever an upstream sends, a response is one chain, and each record of our names is ours.
#[tokio::test(flavor = "multi_thread")]
async fn serves_own_records_in_any_upstream_response() {
    let upstream = FakeUpstream::start(|query, _| at_once(random_response(query))).await;
    let server = Server::start("127.0.0.1:0", Upstreams { names: Some(&upstream), aliases: Some(&upstream) });
    let zones = ["cluster.local.", "cluster.internal.", "10.in-addr.arpa.", "localhost."].map(name);
    let mut own = 0;
    for number in 0..400 {
        let asked = format!("r{number}.example.test");
        let response = Message::from_vec(&ask(&server, &asked, A_TYPE)).unwrap();
        let text = format!("{asked}: {response:?}");
        let sections = || response.answers.iter().chain(&response.authorities);
        for record in sections().filter(|record| zones.iter().any(|zone| zone.zone_of(&record.name))) {
            own += 1;
            let data = record.data.to_string();
            assert!(!data.contains("203.0.113") && !data.contains("forged"), "{text}");
            assert!(record.ttl <= 5 || record.name == zones[3], "{text}");
        }
        assert!(sections().all(|record| record.ttl <= 86_400), "{text}");
        assert!(response.additionals.is_empty() && response.authorities.len() <= 1, "{text}");
        let (mut at, mut owners) = (name(&format!("{asked}.")), HashSet::new());
        for record in &response.answers {
            assert_eq!(record.name, at, "{text}");
            if let RData::CNAME(CNAME(target)) = &record.data {
                assert!(owners.insert(at), "{text}");
                at = target.clone();
            }
        }
        assert!(owners.len() <= 17, "{text}");
    }
    assert!(own > 100, "{own} records of our names: the upstream's CNAMEs lead to them");
    server.stopped().await;
}
