//! The admin listener on real sockets: every path, what clients do wrong, and from not read to leaving.
//!
//! Requests are written octet by octet where it is about what a client sends. Tests wait for what must happen, with
//! [`PATIENCE`] that no passing test uses up.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use headless_dns::admin::{Limits, Listeners, View};
use headless_dns::names::WireName;
use headless_dns::names::reverse::ReverseZones;
use headless_dns::rules::Rules;
use headless_dns::status::{Status, WatchState, WatchStatus};
use headless_dns::zone::{Settings, Zone};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);
/// A limit that the test waits for.
const SHORT: Duration = Duration::from_millis(100);
/// A limit that no test reaches.
const LONG: Duration = Duration::from_secs(3600);

/// No limit is in the way but those that a test makes short.
fn limits() -> Limits {
    Limits { connections: 64, head: LONG, request: LONG, idle: LONG }
}

struct Server {
    address: SocketAddr,
    status: Arc<Status>,
    running: JoinSet<anyhow::Result<()>>,
}

impl Server {
    fn start(limits: Limits) -> Self {
        Self::at("127.0.0.1:0", limits)
    }

    fn at(address: &str, limits: Limits) -> Self {
        let listeners = Listeners::bind(Some(address.parse().unwrap()), None).unwrap();
        let (address, status) = (listeners.addresses()[0], Arc::<Status>::default());
        let mut running = JoinSet::new();
        let apexes = vec![WireName::parse("cluster.local").unwrap()];
        let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules: Rules::default() };
        let zone = Arc::new(Zone::new(settings, ReverseZones::default()));
        running.spawn(listeners.serve(View { zone, status: Arc::clone(&status), metrics: Arc::default() }, limits));
        Self { address, status, running }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The response to GET over a connection of its own: its code and its body.
    async fn get(&self, target: &str) -> (u16, String) {
        let (code, _, body) = self.ask("GET", target, "").await;
        (code, body)
    }

    /// The response to a request with these header fields besides Host: code, head and body.
    async fn ask(&self, method: &str, target: &str, fields: &str) -> (u16, String, String) {
        let mut stream = self.connect().await;
        let request =
            format!("{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{fields}\r\n", self.address);
        stream.write_all(request.as_bytes()).await.unwrap();
        read_response(&mut stream).await
    }
}

/// Everything until the other side closes.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut octets = Vec::new();
    // Closed with something unread is closed all the same.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut octets)).await.expect("it is closed in time");
    String::from_utf8(octets).unwrap()
}

async fn read_response(stream: &mut TcpStream) -> (u16, String, String) {
    let text = read_all(stream).await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?} is a response"));
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, head.to_ascii_lowercase(), body.to_owned())
}

/// One response on a connection that stays open: it has a body of known length.
async fn read_one(stream: &mut TcpStream) -> String {
    let (mut octets, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&octets).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if body.len() >= length.parse().unwrap() {
                return text;
            }
        }
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("it answers in time").unwrap();
        assert!(read > 0, "closed after {text:?}");
        octets.extend_from_slice(&buffer[..read]);
    }
}

#[tokio::test]
async fn readiness_from_not_read_to_leaving() {
    let server = Server::start(limits());
    for path in ["/livez", "/healthz", "/health"] {
        assert_eq!(server.get(path).await, (200, "ok\n".into()), "it lives before it knows anything");
    }
    let watch = |resource, state| WatchStatus { resource, required: true, state, since: None };
    server.status.set_watches(vec![
        watch("services", WatchState::Current),
        watch("endpointslices", WatchState::Lost("connection refused".into())),
    ]);
    for path in ["/readyz", "/ready"] {
        let (code, body) = server.get(path).await;
        assert_eq!(code, 503);
        assert!(body.contains("[+]watch/services ok: current\n"), "{body}");
        assert!(body.contains("[-]watch/endpointslices failed: connection refused\n"), "{body}");
    }
    server.status.set_synced();
    assert_eq!(server.get("/readyz").await, (200, "ok\n".into()));
    let (code, body) = server.get("/readyz?verbose").await;
    assert!(code == 200 && body.ends_with("readyz check passed\n"), "{body}");
    assert!(body.contains("[+]watch/endpointslices ok: connection refused\n"), "it answers from what it knows: {body}");
    server.status.set_cut_off(true);
    assert_eq!(server.get("/readyz").await.0, 200, "an old answer is better than none");
    server.status.set_leaving();
    let (code, body) = server.get("/readyz").await;
    assert!(code == 503 && body.contains("[-]leaving failed"), "{body}");
    assert_eq!(server.get("/livez").await.0, 200, "it lives while it leaves");
}

#[tokio::test]
async fn metrics_in_the_form_that_is_asked_for() {
    let server = Server::start(limits());
    let (code, head, body) = server.ask("GET", "/metrics", "").await;
    assert!(code == 200 && head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("\ncoredns_build_info{") && body.contains("\nheadless_dns_ready 0"), "{body}");
    let fields = "Accept: application/openmetrics-text;version=1.0.0\r\n";
    let (_, head, body) = server.ask("GET", "/metrics", fields).await;
    assert!(head.contains("application/openmetrics-text") && body.ends_with("# EOF\n"), "{head}");
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let server = Server::start(limits());
    let (code, body) = server.get("/nothing").await;
    assert!(code == 404 && body.contains("/readyz\n"), "{body}");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
        let (code, head, _) = server.ask(method, "/livez", "").await;
        assert_eq!(code, 405, "{method}");
        assert!(head.contains("allow: get, head"), "{head}");
    }
    let (code, head, body) = server.ask("HEAD", "/livez", "").await;
    assert_eq!((code, body.as_str()), (200, ""));
    assert!(head.contains("content-length: 3"), "{head}");
    for wanted in ["cache-control: no-store", "x-content-type-options: nosniff"] {
        assert!(head.contains(wanted), "{head}");
    }
    assert!(!head.contains("access-control"), "{head}");
}

#[tokio::test]
async fn no_http_is_answered_and_closed() {
    let server = Server::start(limits());
    for garbage in [
        "\x16\x03\x01\x02\x00\x01\x00\x01",
        "GET\r\n\r\n",
        "GET /livez HTTP/9.9\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = server.connect().await;
        stream.write_all(garbage.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let said = read_all(&mut stream).await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 400") || said.starts_with("HTTP/1.1 505"), "{said:?}");
        assert_eq!(server.get("/livez").await.0, 200, "and it lives");
    }
}

#[tokio::test]
async fn one_connection_asks_many_times() {
    let server = Server::start(limits());
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(read_one(&mut stream).await.ends_with("\r\n\r\nok\n"));
    }
}

#[tokio::test]
async fn a_head_that_takes_long_is_cut() {
    let server = Server::start(Limits { head: SHORT, ..limits() });
    let mut stream = server.connect().await;
    stream.write_all(b"GET /livez HT").await.unwrap();
    assert_eq!(read_all(&mut stream).await, "");
    // Nor is one that comes octet by octet.
    let mut stream = server.connect().await;
    let dribble = async {
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    timeout(PATIENCE, dribble).await.expect("it is cut although octets come");
}

#[tokio::test]
async fn a_connection_that_asks_nothing_is_closed() {
    let server = Server::start(Limits { idle: SHORT, ..limits() });
    assert_eq!(read_all(&mut server.connect().await).await, "");
    let mut stream = server.connect().await;
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(read_all(&mut stream).await.ends_with("\r\n\r\nok\n"), "also after a question");
}

#[tokio::test]
async fn of_too_many_connections_the_oldest_goes() {
    let server = Server::start(Limits { connections: 4, ..limits() });
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = server.connect().await;
        // It is known to the server, and has begun a second question.
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        read_one(&mut stream).await;
        stream.write_all(b"GET /livez").await.unwrap();
        held.push(stream);
    }
    assert_eq!(server.get("/livez").await.0, 200, "who comes new is answered");
    assert_eq!(read_all(&mut held[0]).await, "", "who waited longest is not");
    held[3].write_all(b" HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(read_one(&mut held[3]).await.ends_with("ok\n"), "and the others stay");
}

#[tokio::test]
async fn a_flood_of_silent_connections_keeps_nobody_from_asking() {
    let server = Server::start(Limits { connections: 8, ..limits() });
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(server.connect().await);
        assert_eq!(server.get("/livez").await.0, 200);
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = Server::start(limits());
    let large = format!("X: {}\r\n", "x".repeat(40_000));
    let many: String = (0..200).map(|number| format!("X-{number}: x\r\n")).collect();
    for fields in [&large, &many] {
        assert_eq!(server.ask("GET", "/livez", fields).await.0, 431);
    }
    let target = format!("/livez?{}", "x".repeat(70_000));
    let code = server.get(&target).await.0;
    assert!(code == 414 || code == 431, "{code}");
    assert_eq!(server.get("/livez").await.0, 200);
}

#[tokio::test]
async fn two_processes_hand_over_one_port() {
    let mut old = Server::start(limits());
    assert_eq!(old.get("/livez").await.0, 200);
    let new = Server::at(&old.address.to_string(), limits());
    new.status.set_synced();
    old.running.shutdown().await;
    assert_eq!(new.get("/readyz").await, (200, "ok\n".into()));
}

#[tokio::test]
async fn an_address_that_is_taken_is_one_sentence() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let said = format!("{:#}", Listeners::bind(Some(address), None).unwrap_err());
    let expected = format!("cannot listen on {address} over HTTP (--admin): another program has TCP port");
    assert!(said.starts_with(&expected), "{said}");
    let said = format!("{:#}", Listeners::bind(None, Some("192.0.2.1:0".parse().unwrap())).unwrap_err());
    let expected = "cannot listen on 192.0.2.1:0 over HTTP (--admin-api): this host has no such address";
    assert!(said.starts_with(expected), "{said}");
}
