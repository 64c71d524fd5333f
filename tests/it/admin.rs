//! The admin listener on real sockets: every path, misbehaving clients, and readiness from startup to shutdown.
//!
//! Requests are written octet by octet where the input of a client matters. Tests wait for events, at most [`WAIT_TIMEOUT`].

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::ports::ReservedPort;
use arc_swap::ArcSwap;
use headless_dns::admin::{AdminContext, AdminLimits, AdminListeners, CertificateInUse, ListenAddresses, ServerInfo};
use headless_dns::cli::{self, Invocation};
use headless_dns::commands::open_manifests;
use headless_dns::server::heartbeats::{Heartbeats, STALL_LIMIT};
use headless_dns_core::status::{Loss, LossReason, Status, WatchState, WatchStatus};
use headless_dns_core::transport::Transport;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// A limit that the test waits for.
const SHORT: Duration = Duration::from_millis(100);
/// A limit that no test reaches.
const LONG: Duration = Duration::from_secs(3600);

/// No limit is in the way but those that a test makes short.
fn limits() -> AdminLimits {
    AdminLimits { connections: 64, head: LONG, request: LONG, idle: LONG }
}

struct Server {
    address: SocketAddr,
    status: Arc<Status>,
    liveness: Heartbeats,
    about: ServerInfo,
    running: JoinSet<anyhow::Result<()>>,
}

impl Server {
    /// Starts a listener for the built-in example, which is not synced yet.
    fn start(limits: AdminLimits) -> Self {
        Self::of("--demo", "127.0.0.1:0", limits)
    }

    /// One that looks at the objects of a command line, with everything read.
    fn reading(line: &str) -> Self {
        let server = Self::of(line, "127.0.0.1:0", limits());
        server.status.set_synced();
        server
    }

    fn of(line: &str, address: &str, limits: AdminLimits) -> Self {
        let args = ["headless-dns", "serve"].into_iter().chain(line.split_whitespace());
        let Ok(Invocation::Serve(config)) = cli::read(args.map(Into::into)) else { panic!("{line}") };
        let mut source = open_manifests(&config, &config.listen.addresses);
        source.load();
        let about = ServerInfo {
            source: "tests & <things>".into(),
            alive: !config.simulate.is_empty(),
            namespace: "default".into(),
            listen: Arc::new(ArcSwap::from_pointee(ListenAddresses {
                plain: config.listen.addresses.clone(),
                encrypted: Vec::new(),
            })),
            certificate: Arc::default(),
            workers: 2,
        };
        let (status, liveness) = (Arc::<Status>::default(), Heartbeats::default());
        let (zone, asker) = (source.zone(), source.asker());
        let view = AdminContext {
            zone,
            diagnostics: asker,
            status: Arc::clone(&status),
            metrics: Arc::default(),
            liveness: liveness.clone(),
            info: about.clone(),
        };
        let listeners = AdminListeners::bind(Some(address.parse().unwrap()), None).unwrap();
        let address = listeners.addresses()[0];
        let mut running = JoinSet::new();
        running.spawn(listeners.serve(view, limits));
        Self { address, status, liveness, about, running }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Opens a connection that asks for a large zone, and reads only the beginning of the response.
    async fn ask_and_read_nothing(&self) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(self.address).await.unwrap();
        assert_eq!(ask_for_zone(&mut stream).await, *b"HTTP/1.1 200");
        stream
    }

    /// Waits until a request for a large zone is accepted again. The zone itself is not read: on a busy machine that
    /// takes longer than any limit here.
    async fn until_zone_is_accepted(&self) {
        let accepted = async {
            while ask_for_zone(&mut self.connect().await).await != *b"HTTP/1.1 200" {
                tokio::time::sleep(SHORT / 10).await;
            }
        };
        timeout(WAIT_TIMEOUT, accepted).await.expect("a place is free in time");
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

/// Requests a large zone and returns the beginning of the status line.
async fn ask_for_zone(stream: &mut TcpStream) -> [u8; 12] {
    let mut status = [0; 12];
    stream.write_all(b"GET /api/v1/records?o=json HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    timeout(WAIT_TIMEOUT, stream.read_exact(&mut status)).await.expect("a status line in time").unwrap();
    status
}

/// Everything until the other side closes.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut octets = Vec::new();
    // Closed with something unread is closed all the same.
    let _ = timeout(WAIT_TIMEOUT, stream.read_to_end(&mut octets)).await.expect("it is closed in time");
    String::from_utf8(octets).unwrap()
}

/// The body of a chunked response (RFC 9112 section 7.1).
fn unchunked(body: &str) -> String {
    let (mut rest, mut text) = (body, String::new());
    loop {
        let (size, after) = rest.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return text;
        }
        text.push_str(&after[..size]);
        rest = &after[size + 2..];
    }
}

async fn read_response(stream: &mut TcpStream) -> (u16, String, String) {
    let text = read_all(stream).await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?} is a response"));
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    let head = head.to_ascii_lowercase();
    let body =
        if head.contains("transfer-encoding: chunked") && !body.is_empty() { unchunked(body) } else { body.into() };
    (code, head, body)
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
        let read = timeout(WAIT_TIMEOUT, stream.read(&mut buffer)).await.expect("it answers in time").unwrap();
        assert!(read > 0, "closed after {text:?}");
        octets.extend_from_slice(&buffer[..read]);
    }
}

#[tokio::test]
async fn readyz_follows_data_state() {
    let server = Server::start(limits());
    for path in ["/livez", "/healthz", "/health"] {
        assert_eq!(server.get(path).await, (200, "ok\n".into()), "it lives before it knows anything");
    }
    let watch = |resource, state| WatchStatus { resource, required: true, state, since: None };
    let loss = Loss { reason: LossReason::OutOfReach, detail: "connection refused".into() };
    server
        .status
        .set_watches(vec![watch("services", WatchState::Current), watch("endpointslices", WatchState::Lost(loss))]);
    for path in ["/readyz", "/ready"] {
        let (code, body) = server.get(path).await;
        assert_eq!(code, 503);
        assert!(body.contains("[+]watch/services ok: current\n"), "{body}");
        assert!(
            body.contains("[-]watch/endpointslices failed: the API server is out of reach: connection refused\n"),
            "{body}"
        );
    }
    server.status.set_synced();
    assert_eq!(server.get("/readyz").await, (200, "ok\n".into()));
    let (code, body) = server.get("/readyz?verbose").await;
    assert!(code == 200 && body.ends_with("readyz check passed\n"), "{body}");
    assert!(
        body.contains("[+]watch/endpointslices ok: the API server is out of reach: connection refused\n"),
        "{body}"
    );
    server.status.set_cut_off(true);
    assert_eq!(server.get("/readyz").await.0, 200, "an old answer is better than none");
    server.status.set_leaving();
    let (code, body) = server.get("/readyz").await;
    assert!(code == 503 && body.contains("[-]leaving failed"), "{body}");
    assert_eq!(server.get("/livez").await.0, 200, "it lives while it leaves");
}

#[tokio::test]
async fn livez_fails_for_stalled_worker() {
    let server = Server::start(limits());
    let stalled = server.liveness.heartbeat("udp-0");
    let turning = server.liveness.heartbeat("udp-1");
    // Both were seen in this turn when that was as long ago as a stall is.
    let before = Instant::now().checked_sub(STALL_LIMIT).unwrap();
    assert!(server.liveness.stalled(before).is_empty());
    turning.beat();
    let (code, body) = server.get("/livez").await;
    assert_eq!((code, body.as_str()), (503, "[-]worker/udp-0 failed: no turn for 10 s\nlivez check failed\n"));
    assert_eq!(server.get("/livez").await.0, 503, "also to the next who asks");
    stalled.beat();
    assert_eq!(server.get("/livez").await, (200, "ok\n".to_owned()));
}

#[tokio::test]
async fn negotiates_metrics_format() {
    let server = Server::start(limits());
    let (code, head, body) = server.ask("GET", "/metrics", "").await;
    assert!(code == 200 && head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("\ncoredns_build_info{") && body.contains("\nheadless_dns_ready"), "{body}");
    let fields = "Accept: application/openmetrics-text;version=1.0.0\r\n";
    let (_, head, body) = server.ask("GET", "/metrics", fields).await;
    assert!(head.contains("application/openmetrics-text") && body.ends_with("# EOF\n"), "{head}");
}

#[tokio::test]
async fn rejects_unknown_paths_and_methods() {
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
async fn answers_and_closes_non_http_connections() {
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
async fn keeps_connections_alive() {
    let server = Server::start(limits());
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(read_one(&mut stream).await.ends_with("\r\n\r\nok\n"));
    }
}

#[tokio::test]
async fn closes_connection_with_slow_head() {
    let server = Server::start(AdminLimits { head: SHORT, ..limits() });
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
    timeout(WAIT_TIMEOUT, dribble).await.expect("it is cut although octets come");
}

#[tokio::test]
async fn closes_silent_connections() {
    let server = Server::start(AdminLimits { idle: SHORT, ..limits() });
    assert_eq!(read_all(&mut server.connect().await).await, "");
    // The request is there when the connection is accepted: this thread runs the server too.
    let stream = std::net::TcpStream::connect(server.address).unwrap();
    std::io::Write::write_all(&mut &stream, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut stream = TcpStream::from_std(stream).unwrap();
    assert!(read_all(&mut stream).await.ends_with("\r\n\r\nok\n"), "also after a question");
}

#[tokio::test]
async fn evicts_oldest_connection_at_limit() {
    let server = Server::start(AdminLimits { connections: 4, ..limits() });
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
async fn answers_during_flood_of_silent_connections() {
    let server = Server::start(AdminLimits { connections: 8, ..limits() });
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(server.connect().await);
        assert_eq!(server.get("/livez").await.0, 200);
    }
}

#[tokio::test]
async fn rejects_too_large_head() {
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
async fn two_processes_share_port() {
    let mut old = Server::start(limits());
    assert_eq!(old.get("/livez").await.0, 200);
    let new = Server::of("--demo", &old.address.to_string(), limits());
    new.status.set_synced();
    old.running.shutdown().await;
    // Connections queued for the old process end with it; the new process answers the next ones.
    let answered = async {
        loop {
            let mut stream = new.connect().await;
            let request = "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(request.as_bytes()).await;
            let said = read_all(&mut stream).await;
            if !said.is_empty() {
                return said;
            }
        }
    };
    let said = timeout(WAIT_TIMEOUT, answered).await.expect("the new one answers");
    assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("\r\n\r\nok\n"), "{said}");
}

#[tokio::test]
async fn names_address_in_use() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let said = format!("{:#}", AdminListeners::bind(Some(address), None).unwrap_err());
    let expected = format!("cannot listen on {address} over HTTP (--admin): another program has TCP port");
    assert!(said.starts_with(&expected), "{said}");
    let said = format!("{:#}", AdminListeners::bind(None, Some("192.0.2.1:0".parse().unwrap())).unwrap_err());
    let expected = "cannot listen on 192.0.2.1:0 over HTTP (--admin-api): this host has no such address";
    assert!(said.starts_with(expected), "{said}");
}

const SEED_3: &str = "--manifests tests/scenarios/seed-3.yaml --simulate";
const SEED_3_NAME: &str = "myapp-0.myapp-svc.default.svc.cluster.local";

/// The output of the program with the words of `line`, and its exit status.
async fn run(line: &str) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headless-dns"));
    command.env_clear().current_dir(env!("CARGO_MANIFEST_DIR")).args(line.split_whitespace());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn explanation_equals_command_output() {
    let server = Server::reading(SEED_3);
    for question in [SEED_3_NAME, "demo-svc", "demo-svc A -n default", "10.244.0.1", "nothing.else", "demo-svc. SRV"] {
        let (_, expected) = run(&format!("explain {SEED_3} -o json {question}")).await;
        let mut words = question.split(' ');
        let mut target = format!("/api/v1/explain?name={}", words.next().unwrap());
        while let Some(word) = words.next() {
            let (name, value) = if word == "-n" { ("namespace", words.next().unwrap()) } else { ("type", word) };
            target.push_str(&format!("&{name}={value}"));
        }
        let (code, body) = server.get(&target).await;
        assert_eq!((code, body), (200, expected), "{question}");
        // The command with `--server` shows the same output.
        let (status, text) = run(&format!("explain {SEED_3} {question}")).await;
        let asked = run(&format!("explain --server http://{} {question}", server.address)).await;
        assert_eq!(asked, (status, text), "{question}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_equal_command_output() {
    let server = Server::reading(SEED_3);
    for output in ["zone", "json", "table"] {
        for origin in ["cluster.local", "244.10.in-addr.arpa"] {
            let (_, expected) = run(&format!("records {SEED_3} -o {output} --origin {origin}")).await;
            let expected = without_serial(&expected);
            let (code, body) = server.get(&format!("/api/v1/records?o={output}&origin={origin}")).await;
            assert_eq!((code, without_serial(&body)), (200, expected.clone()), "{output} {origin}");
            let line = format!("records --server http://{} -o {output} --origin {origin}", server.address);
            let (status, text) = run(&line).await;
            assert_eq!((status, without_serial(&text)), (0, expected), "{output} {origin}");
        }
    }
    let (code, body) = server.get("/api/v1/records?origin=example.test").await;
    assert!(
        code == 404 && body.contains("example.test. is no zone of these objects; --origin can be cluster.local."),
        "{body}"
    );
    let (status, said) = run(&format!("records --server http://{} --origin example.test", server.address)).await;
    assert!(status == 1 && said.contains("is no zone of these objects"), "{said}");
}

/// Two readings have two serials.
fn without_serial(text: &str) -> String {
    text.lines().filter(|line| !line.contains("SOA")).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn names_unreachable_server() {
    let reserved = ReservedPort::new();
    let free = reserved.address();
    for command in ["records", "explain a"] {
        let (status, said) = run(&format!("{command} --server http://{free}")).await;
        assert!(status != 0 && said.contains(&format!("cannot query http://{free}")), "{said}");
    }
    let server = Server::start(limits());
    let (status, said) = run(&format!("explain --server http://{} a", server.address)).await;
    assert!(status == 2 && said.contains("the response is 503: not everything was read yet"), "{said}");
}

#[tokio::test]
async fn status_has_json() {
    let server = Server::reading(SEED_3);
    let (code, head, body) = server.ask("GET", "/api/v1/status", "").await;
    assert!(code == 200 && head.contains("content-type: application/json"), "{head}");
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&status["state"], &status["ready"]), (&"current".into(), &true.into()), "{body}");
    assert_eq!((&status["services"], &status["endpoints"]), (&1.into(), &2.into()), "{body}");
    assert_eq!(status["zones"][0]["origin"], "cluster.local.", "{body}");
    let reverse = status["zones"].as_array().unwrap().iter().find(|zone| zone["origin"] == "244.10.in-addr.arpa.");
    assert_eq!(reverse.unwrap()["addresses"], 2, "{body}");
    assert_eq!(status["listen"][0], "127.0.0.1:1053", "{body}");
    assert_eq!((&status["encrypted"], &status["certificate"]), (&json!([]), &Value::Null), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_encrypted_listeners_and_certificate() {
    let server = Server::reading(SEED_3);
    let page = || async {
        let (_, body) = server.get("/").await;
        let (_, section) = body.split_once("<section id=\"encrypted\"").unwrap();
        section.split_once("</section>").unwrap().0.to_owned()
    };
    assert_eq!(page().await, " hidden>", "nothing is");
    let encrypted =
        [(Transport::Tls, "127.0.0.1:8853"), (Transport::Https, "[::1]:8443"), (Transport::Quic, "127.0.0.1:8853")];
    let encrypted = encrypted.map(|(proto, address)| (proto, address.parse().unwrap())).to_vec();
    let plain = server.about.listen.load().plain.clone();
    server.about.listen.store(Arc::new(ListenAddresses { plain, encrypted }));
    let day = Duration::from_secs(86_400);
    let hour = day / 24;
    let year_2100 = UNIX_EPOCH + Duration::from_secs(4_102_444_800);
    let now = SystemTime::now();
    let evil = "the private key in <b>key</b> is \"not\" that of the certificate";
    for (good, refused, not_after, page_says) in [
        (Some((UNIX_EPOCH, year_2100)), None, json!("2100-01-01T00:00:00Z"), "pill good\">good</span>"),
        (Some((UNIX_EPOCH, year_2100)), Some(evil), json!("2100-01-01T00:00:00Z"), "pill error\">refused</span>"),
        (Some((UNIX_EPOCH, UNIX_EPOCH + day)), None, json!("1970-01-02T00:00:00Z"), "pill error\">expired</span>"),
        (
            Some((UNIX_EPOCH, now + 3 * day + hour)),
            None,
            Value::Null,
            "pill warning\">expires soon</span><p>Expires in 3d",
        ),
        (Some((now + hour, year_2100)), None, json!("2100-01-01T00:00:00Z"), "pill error\">not good yet</span>"),
        (None, None, Value::Null, "pill warning\">unknown</span>"),
    ] {
        let refused = refused.map(ToOwned::to_owned);
        let in_use = CertificateInUse { good, refused: refused.clone() };
        server.about.certificate.store(Some(Arc::new(in_use)));
        let status: Value = serde_json::from_str(&server.get("/api/v1/status").await.1).unwrap();
        let expected = json!([
            {"transport": "tls", "address": "127.0.0.1:8853"},
            {"transport": "https", "address": "[::1]:8443"},
            {"transport": "quic", "address": "127.0.0.1:8853"},
        ]);
        assert_eq!(status["encrypted"], expected, "{status}");
        assert_eq!(status["listen"][0], "127.0.0.1:1053", "as before: {status}");
        let certificate = &status["certificate"];
        assert_eq!(certificate["refused"], json!(refused), "{status}");
        if !not_after.is_null() || good.is_none() {
            assert_eq!(certificate["notAfter"], not_after, "{status}");
        }
        assert_eq!(certificate["notBefore"].is_null(), good.is_none(), "{status}");
        let page = page().await;
        for wanted in [page_says, "127.0.0.1:8853", ">TLS<", "[::1]:8443", ">HTTPS<", ">QUIC<"] {
            assert!(page.contains(wanted), "{wanted} is not in\n{page}");
        }
        assert_eq!(page.contains("&lt;b&gt;key&lt;/b&gt; is &quot;not&quot;"), refused.is_some(), "{page}");
        assert!(!page.contains("<b>"), "{page}");
    }
}

#[tokio::test]
async fn rejects_invalid_query_with_sentence() {
    let server = Server::reading(SEED_3);
    for target in
        ["/api/v1/explain", "/api/v1/explain?name=a..b", "/api/v1/records?o=xml", "/api/v1/status?x=1", "/?page=0"]
    {
        let (code, body) = server.get(target).await;
        assert!(code == 400 && body.lines().count() == 1 && body.len() > 10, "{target}: {code} {body}");
    }
}

#[tokio::test]
async fn rejects_cross_site_requests() {
    let server = Server::reading(SEED_3);
    let ask = async |host: &str, fields: &str, target: &str| {
        let mut stream = server.connect().await;
        let request = format!("GET {target} HTTP/1.1\r\n{host}Connection: close\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        read_response(&mut stream).await
    };
    for target in ["/", "/api/v1/status", "/api/v1/records", "/api/v1/explain?name=a"] {
        for host in ["Host: evil.test\r\n", "Host: evil.test:9153\r\n", "", "Host: 127.0.0.1\r\nHost: evil.test\r\n"] {
            let (code, _, body) = ask(host, "", target).await;
            assert!(code == 403 || code == 400, "{host:?} {target}: {code}");
            assert!(!body.contains("demo-svc"), "{body}");
        }
        let (code, head, _) = ask("Host: localhost\r\n", "Origin: http://evil.test\r\n", target).await;
        assert!(code == 200 && !head.contains("access-control"), "nobody is allowed to read it: {head}");
        let (code, ..) =
            ask("Host: localhost\r\n", "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n", target).await;
        assert_eq!(code, 403, "{target}");
        let absolute = format!("http://evil.test{target}");
        assert_eq!(ask("Host: localhost\r\n", "", &absolute).await.0, 403, "{absolute}");
    }
    let (code, ..) =
        ask("Host: localhost\r\n", "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n", "/").await;
    assert_eq!(code, 200, "a person may follow a link");
    assert_eq!(ask("Host: evil.test\r\n", "", "/livez").await.0, 200, "that it lives is no secret");
}

#[tokio::test]
async fn shows_names_to_loopback_only() {
    // An address of this machine that is not loopback, but leads to it.
    let listeners = AdminListeners::bind(Some("0.0.0.0:0".parse().unwrap()), None).unwrap();
    let port = listeners.addresses()[0].port();
    let mut server = Server::reading("--demo");
    server.running.spawn(listeners.serve(view_of_demo(), limits()));
    server.address = ([127, 0, 0, 1], port).into();
    assert_eq!(server.get("/livez").await.0, 200);
    assert_eq!(server.get("/metrics").await.0, 200);
    for target in ["/", "/api/v1/status", "/api/v1/records", "/api/v1/explain?name=a"] {
        let (code, body) = server.get(target).await;
        assert!(code == 403 && body.contains("--admin-api"), "{target}: {body}");
    }
    let (_, body) = server.get("/nothing").await;
    assert!(!body.contains("/api"), "{body}");
    // Where it is asked for, it is given.
    let listeners = AdminListeners::bind(None, Some("0.0.0.0:0".parse().unwrap())).unwrap();
    let port = listeners.addresses()[0].port();
    server.running.spawn(listeners.serve(view_of_demo(), limits()));
    server.address = ([127, 0, 0, 1], port).into();
    assert_eq!(server.get("/api/v1/status").await.0, 200);
}

fn view_of_demo() -> AdminContext {
    let args = ["headless-dns", "serve", "--demo"];
    let Ok(Invocation::Serve(config)) = cli::read(args.map(Into::into)) else { panic!("it is good") };
    let mut source = open_manifests(&config, &[]);
    source.load();
    let status = Arc::<Status>::default();
    status.set_synced();
    let (zone, asker) = (source.zone(), source.asker());
    AdminContext {
        zone,
        diagnostics: asker,
        status,
        metrics: Arc::default(),
        liveness: Heartbeats::default(),
        info: ServerInfo::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn page_works_without_javascript() {
    let server = Server::reading(SEED_3);
    let (code, head, body) = server.ask("GET", &format!("/?name={SEED_3_NAME}"), "").await;
    assert!(code == 200 && head.contains("content-type: text/html"), "{head}");
    let (before, _) = body.split_once("<script").unwrap();
    for wanted in [
        "StatefulSet default/myapp names Service myapp-svc, which does not exist; demo-svc selects its Pods",
        "STS-NO-SERVICE",
        "it does not resolve",
        "NXDOMAIN",
        "kubectl apply -f - &lt;&lt;&#39;EOF&#39;",
        ">demo-svc</a>",
        "2 of 2",
        "cluster.local",
        "244.10.in-addr.arpa",
        "tests &amp; &lt;things&gt;",
    ] {
        assert!(before.contains(wanted), "{wanted} is not in\n{before}");
    }
    let (_, explained) = server.get("/?name=demo-svc&type=A").await;
    assert!(explained.contains("\ndemo-svc.default.svc.cluster.local. 5 IN A 10.244."), "a record a line: {explained}");
    let nonce = head.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert!(body.contains(&format!("<script nonce=\"{nonce}\">")) && head.contains("default-src 'none'"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn escapes_markup() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("objects.yaml");
    let evil = "<script>alert(1)</script>";
    let yaml = format!(
        "kind: Service\napiVersion: v1\nmetadata: {{name: web, labels: {{a: '{evil}'}}, annotations: {{b: '{evil}'}}}}\n\
         spec: {{clusterIP: None, selector: {{app: '{evil}'}}, ports: [{{name: '{evil}', port: 80}}]}}\n---\n\
         kind: Service\napiVersion: v1\nmetadata: {{name: out}}\n\
         spec: {{type: ExternalName, externalName: '{evil}.example'}}\n---\n\
         kind: StatefulSet\napiVersion: apps/v1\nmetadata: {{name: db}}\n\
         spec: {{serviceName: '{evil}', selector: {{matchLabels: {{app: '{evil}'}}}}, \
         template: {{metadata: {{labels: {{app: '{evil}'}}}}}}}}\n"
    );
    std::fs::write(&path, yaml).unwrap();
    let server = Server::reading(&format!("--manifests {} --simulate", path.display()));
    let escaped = "%3Cscript%3Ealert(1)%3C/script%3E";
    for target in [
        "/".to_owned(),
        format!("/?name={escaped}&type={escaped}&namespace={escaped}"),
        format!("/?name={escaped}"),
        format!("/?name=%22%3E{escaped}.web.default.svc.cluster.local."),
        format!("/?q=%22%3E{escaped}"),
        "/?name=db-0.web.default.svc.cluster.local".to_owned(),
    ] {
        let (code, body) = server.get(&target).await;
        assert_eq!(code, 200, "{target}");
        assert_eq!(body.matches("<script").count(), 1, "{target}: its own alone\n{body}");
        assert!(!body.contains("alert(1)</script>"), "{target}\n{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_large_clusters() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("objects.yaml");
    let service = |number: u32| {
        format!("kind: Service\napiVersion: v1\nmetadata: {{name: web-{number:04}}}\nspec: {{clusterIP: None}}\n---\n")
    };
    std::fs::write(&path, (0..500).map(service).collect::<String>()).unwrap();
    let server = Server::reading(&format!("--manifests {}", path.display()));
    let (_, body) = server.get("/?page=2").await;
    assert!(
        body.contains("51 to 100 of 500") && body.contains(">web-0050</a>") && !body.contains(">web-0049</a>"),
        "{body}"
    );
    assert!(body.contains("page=1#services\">Previous</a>") && body.contains("page=3#services\">Next</a>"), "{body}");
    let (_, body) = server.get("/?q=WEB-049").await;
    assert!(
        body.contains("1 to 10 of 10") && body.contains(">web-0490</a>") && !body.contains(">web-0500</a>"),
        "{body}"
    );
    let (_, body) = server.get("/?page=99999999999999").await;
    assert!(body.contains("None here."), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_at_most_two_zones_at_once() {
    let server = Server::reading("--manifests tests/scenarios/large.yaml --simulate=10.128.0.0/16");
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(server.ask_and_read_nothing().await);
    }
    let (code, head, body) = server.ask("GET", "/api/v1/records", "").await;
    assert!(code == 503 && head.contains("retry-after: 1") && body.contains("ask again"), "{body}");
    assert_eq!(server.get("/readyz").await.0, 200);
    drop(held);
    server.until_zone_is_accepted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closes_connections_that_read_nothing() {
    let limits = AdminLimits { request: Duration::from_secs(2), ..limits() };
    let server = Server::of("--manifests tests/scenarios/large.yaml --simulate=10.128.0.0/16", "127.0.0.1:0", limits);
    server.status.set_synced();
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(server.ask_and_read_nothing().await);
    }
    // Writes fail once the server has closed the connection; reading would have the response go on.
    for mut stream in held {
        let closed = async {
            while stream.write_all(b"\r\n").await.is_ok() {
                tokio::time::sleep(SHORT / 10).await;
            }
        };
        timeout(WAIT_TIMEOUT, closed).await.expect("the connection is closed in time");
    }
    server.until_zone_is_accepted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readyz_fails_at_shutdown() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headless-dns"));
    let line = "serve --demo --listen 127.0.0.1:0 --admin 127.0.0.1:0 --lame-duck 600 --log off";
    let mut child = ChildGuard(command.env_clear().args(line.split(' ')).stdout(Stdio::piped()).spawn().unwrap());
    let banner = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let address = tokio::task::spawn_blocking(|| {
        let mut addresses =
            banner.filter_map(|line| Some(line.ok()?.strip_prefix("admin   http://")?.parse().unwrap()));
        addresses.next().expect("it says where it is looked at")
    });
    let address = timeout(WAIT_TIMEOUT, address).await.expect("it says it in time").unwrap();
    let (status, about) = (Arc::default(), ServerInfo::default());
    let server = Server { address, status, liveness: Heartbeats::default(), about, running: JoinSet::new() };
    assert_eq!(server.get("/readyz").await, (200, "ok\n".into()));
    assert!(server.get("/").await.1.contains("the built-in example"));
    let pid = child.0.id().to_string();
    let tell = || assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    tell();
    let unready = async {
        while server.get("/readyz").await.0 != 503 {
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    timeout(WAIT_TIMEOUT, unready).await.expect("it is not ready any more");
    assert_eq!(server.get("/livez").await.0, 200, "and it lives");
    tell();
    let ended = tokio::task::spawn_blocking(move || child.0.wait());
    assert!(timeout(WAIT_TIMEOUT, ended).await.expect("a second signal ends it").unwrap().unwrap().success());
}

/// A process that is killed at the end of its test.
struct ChildGuard(Child);

impl Drop for ChildGuard {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}
