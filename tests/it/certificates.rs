//! Changes while a server answers over TLS: of its certificate, its addresses and its process.
//!
//! The tests run the built program with certificates of their own, and wait for events, at most [`WAIT_TIMEOUT`].
//! `TEST_HEADLESS_DNS_SCALE` scales the number of certificate rotations under load: 100 is 100 rotations.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::ports::ReservedPort;
use crate::common::tls::{self, Authority, Pair};
use crate::common::{query, question_name, scaled, server};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(10);

/// A running server, and its addresses.
struct Server {
    process: server::Server,
    /// Address for TLS.
    tls: Option<SocketAddr>,
    /// Address for UDP and TCP.
    plain: SocketAddr,
    admin: SocketAddr,
}

impl Server {
    /// Starts it, and waits for its banner.
    async fn start(options: &str) -> Self {
        let mut command = server::serve();
        command.args(["--demo", "--admin", "127.0.0.1:0"]).args(options.split_whitespace());
        let process = server::Server::start(command);
        let (tls, plain, admin) = (process.listens("TLS"), process.listens("UDP and TCP"), process.admin());
        Self { process, tls, plain: plain.unwrap(), admin: admin.unwrap() }
    }

    fn tls(&self) -> SocketAddr {
        self.tls.expect("it listens over TLS")
    }

    fn log(&self) -> String {
        self.process.log()
    }

    async fn wait(&mut self, what: &str, read: fn(&Self) -> String, is_so: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let text = read(self);
            if is_so(&text) {
                return text;
            }
            self.process.still_runs();
            assert!(begun.elapsed() < WAIT_TIMEOUT, "{what}, in time: {text}\n{}", self.log());
            sleep(MOMENT).await;
        }
    }

    /// Waits until the log has a text behind `from`, and returns how long it is then.
    async fn logged(&mut self, from: usize, text: &str) -> usize {
        self.wait(text, Server::log, |log| log.get(from..).is_some_and(|log| log.contains(text))).await.len()
    }

    async fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < WAIT_TIMEOUT, "it ends in time: {}", self.log());
            sleep(MOMENT).await;
        }
    }

    /// Returns the response of the admin listener.
    async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        timeout(WAIT_TIMEOUT, stream.read_to_string(&mut text)).await.expect("shown in time").unwrap();
        text
    }

    /// The value of one series of /metrics, where it is shown.
    async fn series(&self, series: &str) -> Option<f64> {
        let text = self.get("/metrics").await;
        assert!(text.contains("headless_dns_ready 1"), "{text}");
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map(|value| value.trim().parse().unwrap())
    }

    /// Returns the value of a series; 0 if it is missing.
    async fn metric(&self, series: &str) -> f64 {
        self.series(series).await.unwrap_or_default()
    }

    /// Returns a part of the status in JSON.
    async fn status(&self, part: &str) -> Value {
        let text = self.get("/api/v1/status").await;
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        serde_json::from_str::<Value>(body).unwrap()[part].take()
    }

    /// Waits until it is told why the files are not taken, in words that begin so; or that they are.
    async fn wait_for_refusal(&self, begin: Option<&str>) {
        let begun = Instant::now();
        loop {
            let certificate = self.status("certificate").await;
            let refused = certificate["refused"].as_str();
            if refused.is_some() == begin.is_some()
                && refused.unwrap_or_default().starts_with(begin.unwrap_or_default())
            {
                return;
            }
            assert!(begun.elapsed() < WAIT_TIMEOUT, "{begin:?}, in time: {certificate}");
            sleep(MOMENT).await;
        }
    }

    /// Waits until it is shown when its certificate expires, or until it is not.
    async fn wait_for_expiry(&self, is_shown: bool) -> Option<f64> {
        let begun = Instant::now();
        loop {
            let expires = self.series("headless_dns_tls_certificate_expiration_timestamp_seconds").await;
            if expires.is_some() == is_shown {
                return expires;
            }
            assert!(begun.elapsed() < WAIT_TIMEOUT, "the gauge is there: {is_shown}, in time: {}", self.log());
            sleep(MOMENT).await;
        }
    }

    async fn reloads(&self, result: &str) -> u64 {
        self.metric(&format!("headless_dns_tls_certificate_reloads_total{{result=\"{result}\"}}")).await as u64
    }

    /// Waits until as many reloads had this result.
    async fn wait_for_reloads(&self, result: &str, count: u64) {
        let begun = Instant::now();
        while self.reloads(result).await < count {
            assert!(begun.elapsed() < WAIT_TIMEOUT, "{count} certificates {result}, in time: {}", self.log());
            sleep(MOMENT).await;
        }
    }
}

/// A client to which the server shows its certificate each time.
fn client(authority: &Authority) -> Arc<ClientConfig> {
    let mut config = authority.client(&[b"dot"]);
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

async fn connect(client: &Arc<ClientConfig>, to: SocketAddr) -> TlsStream<TcpStream> {
    timeout(WAIT_TIMEOUT, tls::connect(client, to)).await.expect("shaken in time").unwrap()
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

async fn shown_now(client: &Arc<ClientConfig>, to: SocketAddr) -> CertificateDer<'static> {
    shown(&connect(client, to).await)
}

async fn ask(stream: &mut TlsStream<TcpStream>, id: u16) {
    let message = query(id, &question_name("web.default.svc.cluster.local"), 1, None);
    stream.write_all(&[&(message.len() as u16).to_be_bytes(), &message[..]].concat()).await.unwrap();
    let read = async {
        let mut response = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut response).await?;
        std::io::Result::Ok(response)
    };
    let response = timeout(WAIT_TIMEOUT, read).await.expect("answered in time").unwrap();
    assert_eq!((&response[..2], &response[6..8]), (&id.to_be_bytes()[..], &[0, 3][..]), "three addresses");
}

/// Checks that the server closes the connection with close_notify.
async fn check_ended(stream: &mut TlsStream<TcpStream>) {
    let read = timeout(WAIT_TIMEOUT, stream.read(&mut [0; 1])).await.expect("closed in time");
    assert_eq!(read.expect("the end is said"), 0, "nothing more comes");
}

const LISTEN: &str = "--listen 127.0.0.1:0 --listen-tls 127.0.0.1:0";

#[tokio::test]
async fn fails_to_start_with_invalid_pair() {
    let authority = Authority::new();
    let [certificate, key] = authority.paths();
    fs::write(&key, authority.pair().key).unwrap();
    let options = format!("--demo {LISTEN} {}", authority.options());
    let output = server::serve().args(options.split_whitespace()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let expected = format!(
        "headless-dns: the private key in {} is not that of the certificate in {}: both must come from one request\n",
        key.display(),
        certificate.display()
    );
    assert_eq!((output.status.code(), said.as_str()), (Some(1), expected.as_str()));
    assert!(output.stdout.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn loses_no_query_while_certificate_is_replaced() {
    let rotations = scaled(100);
    let authority = Authority::new();
    let server = Server::start(&format!("{LISTEN} {} --log warn", authority.options())).await;
    let (client, to) = (client(&authority), server.tls());
    let (stop, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let mut load = JoinSet::new();
    for kept in [false, true, false, true] {
        let (client, stop, asked) = (Arc::clone(&client), Arc::clone(&stop), Arc::clone(&asked));
        load.spawn(async move {
            let mut stream = connect(&client, to).await;
            let mut id = 0u16;
            while !stop.load(Ordering::Relaxed) {
                if !kept {
                    stream = connect(&client, to).await;
                }
                id = id.wrapping_add(1);
                ask(&mut stream, id).await;
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for number in 1..=rotations {
        let new = authority.pair();
        authority.write(&new);
        let begun = Instant::now();
        while shown_now(&client, to).await != new.der {
            assert!(begun.elapsed() < WAIT_TIMEOUT, "certificate {number} is shown in time: {}", server.log());
            assert!(load.try_join_next().is_none(), "nobody has ended");
        }
        let answered = asked.load(Ordering::Relaxed);
        while asked.load(Ordering::Relaxed) < answered + 4 {
            assert!(begun.elapsed() < WAIT_TIMEOUT, "answers go on: {}", server.log());
            sleep(MOMENT).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    // A question without its answer, or a handshake that fails, is a panic.
    while let Some(ended) = load.join_next().await {
        ended.unwrap();
    }
    assert_eq!(server.reloads("taken").await, rotations);
    println!("{rotations} certificates, {} questions", asked.load(Ordering::Relaxed));
}

#[tokio::test]
async fn keeps_certificate_if_new_pair_is_invalid() {
    let authority = Authority::new();
    let mut server = Server::start(&format!("{LISTEN} {}", authority.options())).await;
    let (client, to) = (client(&authority), server.tls());
    let mut kept = connect(&client, to).await;
    let (first, [certificate, key]) = (shown(&kept), authority.paths());
    assert!(server.wait_for_expiry(true).await > Some(1e9));
    let stays = "the certificate is unchanged: ";
    let mut from = 0;
    let other = authority.pair();
    let broken: [(&Path, &str, String); 3] = [
        (&key, &other.key, format!("the private key in {} is not that of", key.display())),
        (&certificate, "nothing", format!("{} holds no certificate: PEM is meant", certificate.display())),
        (&key, "", format!("{} holds no certificate", certificate.display())),
    ];
    for (refused, (path, text, sentence)) in (1..).zip(broken) {
        fs::write(path, text).unwrap();
        server.wait_for_reloads("refused", refused).await;
        server.wait_for_refusal(Some(&sentence)).await;
        // The third failure equals the second, and is not logged again.
        if refused < 3 {
            from = server.logged(from, &format!("{stays}{sentence}")).await;
        }
        assert_eq!(shown_now(&client, to).await, first);
        ask(&mut kept, 1).await;
    }
    fs::remove_file(&key).unwrap();
    fs::remove_file(&certificate).unwrap();
    server
        .logged(from, &format!("{stays}cannot read the certificate in {}: No such file", certificate.display()))
        .await;
    assert_eq!(shown_now(&client, to).await, first);
    authority.write(&other);
    server.wait_for_reloads("taken", 1).await;
    server.wait_for_refusal(None).await;
    assert_eq!(shown_now(&client, to).await, other.der);
    ask(&mut kept, 2).await;
    // A file system without notifications: SIGHUP reads the files.
    server.process.signal("HUP");
    server.logged(0, "reloading: SIGHUP").await;
    assert_eq!(server.log().matches(stays).count(), 3, "{}", server.log());
}

/// kubelet keeps a Secret's files in a folder, and replaces the link that leads to it.
#[tokio::test]
async fn reloads_secret_volume() {
    let authority = Authority::new();
    let volume = tempfile::tempdir().unwrap();
    let path = |name: &str| volume.path().join(name);
    let put = |number: u32, pair: &Pair| {
        let folder = format!("..{number}");
        fs::create_dir(path(&folder)).unwrap();
        fs::write(path(&folder).join("tls.crt"), &pair.certificate).unwrap();
        fs::write(path(&folder).join("tls.key"), &pair.key).unwrap();
        symlink(&folder, path("..data_tmp")).unwrap();
        fs::rename(path("..data_tmp"), path("..data")).unwrap();
        let _ = fs::remove_dir_all(path(&format!("..{}", number - 1)));
    };
    let first = authority.pair();
    put(1, &first);
    for name in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(name), path(name)).unwrap();
    }
    let options = format!("--tls-cert {} --tls-key {}", path("tls.crt").display(), path("tls.key").display());
    let server = Server::start(&format!("{LISTEN} {options}")).await;
    let (client, to) = (client(&authority), server.tls());
    assert_eq!(shown_now(&client, to).await, first.der);
    for number in 2..5 {
        let new = authority.pair();
        put(number, &new);
        server.wait_for_reloads("taken", u64::from(number) - 1).await;
        assert_eq!(shown_now(&client, to).await, new.der);
    }
}

#[tokio::test]
async fn closes_open_connections_with_close_notify() {
    let authority = Authority::new();
    for lame_duck in [0, 1] {
        let options = format!("{LISTEN} {} --lame-duck {lame_duck}", authority.options());
        let mut server = Server::start(&options).await;
        let client = client(&authority);
        let (mut idle, mut asker) = (connect(&client, server.tls()).await, connect(&client, server.tls()).await);
        ask(&mut asker, 1).await;
        server.process.signal("TERM");
        check_ended(&mut idle).await;
        check_ended(&mut asker).await;
        let status = server.ended().await;
        assert!(status.success(), "{status}: {}", server.log());
    }
}

#[tokio::test]
async fn reload_changes_addresses_and_files() {
    let authority = Authority::new();
    let client = client(&authority);
    let file = authority.folder.path().join("headless-dns.toml");
    let [certificate, key] = authority.paths();
    let pair = format!("tls-cert = {:?}\ntls-key = {:?}\n", certificate.display(), key.display());
    let write = |text: &str| {
        let new = file.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &file).unwrap();
    };
    write("");
    let mut server = Server::start(&format!("--listen 127.0.0.1:0 --config {}", file.display())).await;
    assert_eq!(server.tls, None);
    let port = ReservedPort::new();
    let to = port.address();
    write(&format!("listen-tls = '{to}'\n{pair}"));
    let from = server.logged(0, "these keys have changed: listen-tls, tls-cert, tls-key").await;
    ask(&mut connect(&client, to).await, 1).await;
    // Of other files, one of which is missing.
    let other = Authority::new();
    write(&format!("listen-tls = '{to}'\ntls-cert = '/nowhere/tls.crt'\ntls-key = {:?}\n", key.display()));
    let from = server.logged(from, "is unchanged: cannot read the certificate in /nowhere/tls.crt: No such").await;
    ask(&mut connect(&client, to).await, 2).await;
    let [certificate, key] = other.paths();
    let pair = format!("tls-cert = {:?}\ntls-key = {:?}\n", certificate.display(), key.display());
    write(&format!("listen-tls = '{to}'\n{pair}"));
    let from = server.logged(from, "these keys have changed: tls-cert, tls-key").await;
    let trusts_other = self::client(&other);
    let mut kept = connect(&trusts_other, to).await;
    ask(&mut kept, 3).await;
    // Those are the files that are followed now.
    let new = other.pair();
    other.write(&new);
    server.wait_for_reloads("taken", 1).await;
    assert_eq!(shown_now(&trusts_other, to).await, new.der);
    write("");
    server.logged(from, "these keys have changed: listen-tls, tls-cert, tls-key").await;
    check_ended(&mut kept).await;
    let begun = Instant::now();
    while let Ok(stream) = TcpStream::connect(to).await {
        drop(stream);
        assert!(begun.elapsed() < WAIT_TIMEOUT, "it is closed in time");
        sleep(MOMENT).await;
    }
    assert_eq!(TcpStream::connect(to).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// An alert on the expiry of a certificate that is not in use any more would be a false alarm.
#[tokio::test]
async fn shows_expiry_while_certificate_is_in_use() {
    let authority = Authority::new();
    let file = authority.folder.path().join("headless-dns.toml");
    let [certificate, key] = authority.paths();
    let listen =
        format!("listen-tls = '127.0.0.1:0'\ntls-cert = {:?}\ntls-key = {:?}\n", certificate.display(), key.display());
    let write = |text: &str| {
        let new = file.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &file).unwrap();
    };
    write(&listen);
    let server = Server::start(&format!("--listen 127.0.0.1:0 --config {}", file.display())).await;
    let expires = server.wait_for_expiry(true).await;
    let told = server.status("certificate").await;
    // rcgen's.
    assert_eq!(
        (&told["notBefore"], &told["notAfter"]),
        (&json!("1975-01-01T00:00:00Z"), &json!("4096-01-01T00:00:00Z"))
    );
    for _ in 0..2 {
        let encrypted = server.status("encrypted").await;
        assert_eq!((encrypted.as_array().unwrap().len(), &encrypted[0]["transport"]), (1, &json!("tls")));
        write("");
        server.wait_for_expiry(false).await;
        assert!(!server.get("/metrics").await.contains("headless_dns_tls_certificate_expiration"), "nor announced");
        assert_eq!((server.status("certificate").await, server.status("encrypted").await), (Value::Null, json!([])));
        write(&listen);
        assert_eq!(server.wait_for_expiry(true).await, expires);
        assert_eq!(server.status("certificate").await, told);
    }
}

#[tokio::test]
async fn hot_restart_hands_over_tls_sockets() {
    let authority = Authority::new();
    let client = client(&authority);
    let takeover = format!("{} --takeover {}", authority.options(), authority.folder.path().join("takeover").display());
    let mut first = Server::start(&format!("{LISTEN} {takeover}")).await;
    let mut kept = connect(&client, first.tls()).await;
    ask(&mut kept, 1).await;
    let options = format!("--listen {} --listen-tls {} {takeover}", first.plain, first.tls());
    let second = Server::start(&options).await;
    assert_eq!(second.tls, first.tls);
    check_ended(&mut kept).await;
    assert!(first.ended().await.success(), "{}", first.log());
    ask(&mut connect(&client, second.tls()).await, 2).await;
}

/// Measures the memory of idle connections and the CPU time of handshakes.
///
/// `TEST_HEADLESS_DNS_BIN=target/release/headless-dns cargo test --test it certificates -- --ignored --nocapture`, with
/// 12,000 file descriptors (`ulimit -n`). The keys are ECDSA P-256, and RSA with 2048 bits, which openssl(1) makes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, of a release build"]
async fn measures_memory_per_connection() {
    const IDLE: usize = 5_000;
    const HANDSHAKES: usize = 2_000;
    let authority = Authority::new();
    let options = "--tcp-connections-per-client 16384 --tcp-idle 3600 --workers 1 --log error";
    let server = Server::start(&format!("{LISTEN} {} {options}", authority.options())).await;
    let client = client(&authority);
    let (memory, cpu) = ("process_resident_memory_bytes", "process_cpu_seconds_total");
    let mut all = Vec::new();
    for is_asked in [false, true] {
        // The first connections allocate once.
        for _ in 0..200 {
            all.push(connect(&client, server.tls()).await);
        }
        let before = server.metric(memory).await;
        for _ in 0..IDLE / 2 {
            let mut stream = connect(&client, server.tls()).await;
            if is_asked {
                ask(&mut stream, 1).await;
            }
            all.push(stream);
        }
        let each = (server.metric(memory).await - before) / (IDLE / 2) as f64;
        println!("{} connections, asked something: {is_asked}, each {each:.0} octets", all.len());
    }
    drop(all);
    for resumed in [false, true] {
        let client = if resumed { Arc::new(authority.client(&[b"dot"])) } else { Arc::clone(&client) };
        let per_second = handshakes(&server, &client, HANDSHAKES, cpu).await;
        println!("ECDSA P-256, resumed: {resumed}: {per_second:.0} handshakes with a question per CPU second");
    }
    let [certificate, key] = authority.paths();
    let rsa = format!(
        "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN={name} -addext subjectAltName=DNS:{name} \
         -addext basicConstraints=critical,CA:FALSE -keyout {} -out {}",
        key.display(),
        certificate.display(),
        name = tls::NAME
    );
    let made = std::process::Command::new("openssl").args(rsa.split_whitespace()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    server.wait_for_reloads("taken", 1).await;
    let trusting = tls::trusting(&fs::read(&certificate).unwrap());
    for resumed in [false, true] {
        let mut client = trusting.clone();
        if !resumed {
            client.resumption = Resumption::disabled();
        }
        let per_second = handshakes(&server, &Arc::new(client), HANDSHAKES, cpu).await;
        println!("RSA 2048, resumed: {resumed}: {per_second:.0} handshakes with a question per CPU second");
    }
}

async fn handshakes(server: &Server, client: &Arc<ClientConfig>, count: usize, cpu: &str) -> f64 {
    let mut stream = connect(client, server.tls()).await;
    ask(&mut stream, 1).await;
    let before = server.metric(cpu).await;
    for _ in 0..count {
        stream = connect(client, server.tls()).await;
        ask(&mut stream, 1).await;
    }
    count as f64 / (server.metric(cpu).await - before)
}
