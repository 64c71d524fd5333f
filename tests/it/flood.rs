//! Floods of incomplete connections over TCP, TLS, HTTPS and QUIC, against the built server with a memory limit: other queries
//! are answered meanwhile, and the memory is released.
//!
//! Some tests run in a network namespace of their own, which has every IPv6 address that they use; if none can be made, they
//! print that they are skipped. `TEST_HEADLESS_DNS_SCALE` is the number of connections in percent of 16,384, and of 4,096 over
//! HTTPS and QUIC; 100 needs 20,000 file descriptors (`ulimit -n`), and `TEST_HEADLESS_DNS_BIN` names a release build for it.

use std::fs;
use std::io::{self, BufRead as _, BufReader, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::common::tls::{self, Authority, NAME};
use crate::common::{query, question_name, scaled, test_name};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ClientConfig, Endpoint, EndpointConfig, Runtime as _, TokioRuntime, UdpPoller};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(20);
/// Memory limit of `config/base` and the chart (`docs/install.md`), in octets.
const MEMORY_LIMIT: u64 = 512 << 20;
/// Memory above the initial use that the server may hold 10 s after a flood, in octets.
const MEMORY_LEFT: u64 = 20_000_000;
/// Connections at a time that are being opened: fewer than the kernel queues.
const OPENING: usize = 100;
/// Set where the test runs again in a network namespace.
const INSIDE: &str = "TEST_HEADLESS_DNS_NAMESPACE";

/// Runs a test of this file again in a network namespace of its own, in which every address below 2001:db8:: is its own.
/// Returns whether this is that run.
fn in_namespace(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let up = "ip link set lo up; ip -6 route add local 2001:db8::/32 dev lo; \
              echo 1 >/proc/sys/net/ipv6/ip_nonlocal_bind; exec \"$@\"";
    let inside = |program: &Path| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "sh", "-euc", up, "sh"]).arg(program);
        command
    };
    let probe = inside(Path::new("true")).output();
    if !probe.as_ref().is_ok_and(|probe| probe.status.success()) {
        println!("skipped: no network namespace can be made here: {probe:?}");
        return false;
    }
    let mut again = inside(&std::env::current_exe().unwrap());
    let status =
        again.args(["--exact", &test_name(module_path!(), test), "--nocapture"]).env(INSIDE, "1").status().unwrap();
    assert!(status.success(), "in its namespace");
    false
}

/// The built server, under a limit on its memory. It ends with the value.
struct Server {
    child: Child,
    group: Option<PathBuf>,
    plain: SocketAddr,
    tls: SocketAddr,
    https: SocketAddr,
    quic: SocketAddr,
}

impl Server {
    fn start(address: IpAddr, authority: &Authority, options: &str) -> Self {
        let binary =
            std::env::var_os("TEST_HEADLESS_DNS_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_headless-dns").into());
        let group = memory_group();
        // In the group before it begins; without one, the limit of the process itself.
        let enter = match &group {
            Some(group) => format!("echo $$ >{}/cgroup.procs", group.display()),
            None => format!("ulimit -d {}", MEMORY_LIMIT >> 10),
        };
        let mut command = Command::new("sh");
        command
            .args(["-euc", &format!("{enter}; exec \"$@\""), "sh"])
            .arg(binary)
            .args(["serve", "--demo", "--log", "error"]);
        for flag in ["listen", "listen-tls", "listen-https", "listen-quic"] {
            command.args([format!("--{flag}"), SocketAddr::new(address, 0).to_string()]);
        }
        command.args(authority.options().split(' ')).args(options.split_whitespace());
        let mut child = command.env_clear().stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut next = |over: &str| -> SocketAddr {
            let line = lines.find(|line| line.starts_with("listen  ") && line.contains(over)).unwrap();
            line["listen  ".len()..].split([' ', ',']).next().unwrap().parse().unwrap()
        };
        let [plain, tls, https, quic] = ["UDP and TCP", "TLS", "HTTPS", "QUIC"].map(&mut next);
        Self { child, group, plain, tls, https, quic }
    }

    /// Resident memory, and the most that it ever was, in octets.
    fn memory(&self) -> [u64; 2] {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        ["VmRSS:", "VmHWM:"].map(|name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it runs");
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
        })
    }

    fn limited_by(&self) -> &'static str {
        if self.group.is_some() { "a memory cgroup" } else { "RLIMIT_DATA" }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(group) = &self.group {
            let _ = fs::remove_dir(group);
        }
    }
}

/// A cgroup with the limit, in version 1 or 2, where one may be made.
fn memory_group() -> Option<PathBuf> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = format!("headless-dns-flood-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let make = |root: &str, limit: &str| {
        let group = Path::new(root).join(&name);
        fs::create_dir(&group).ok()?;
        let is_limited = fs::write(group.join(limit), MEMORY_LIMIT.to_string()).is_ok();
        if !is_limited {
            let _ = fs::remove_dir(&group);
        }
        is_limited.then_some(group)
    };
    make("/sys/fs/cgroup/memory", "memory.limit_in_bytes").or_else(|| {
        // Without the file there is no version 2, and a folder would be one like any other.
        fs::metadata("/sys/fs/cgroup/cgroup.controllers").ok()?;
        make("/sys/fs/cgroup", "memory.max")
    })
}

fn web(id: u16) -> Vec<u8> {
    query(id, &question_name("web.default.svc.cluster.local"), 1, Some(1232))
}

/// A client that asks all the time, over UDP, and over a new TLS connection each time.
struct QueryClient {
    stop: Arc<AtomicBool>,
    udp: std::thread::JoinHandle<usize>,
    tls: tokio::task::JoinHandle<(usize, Duration)>,
}

impl QueryClient {
    #[allow(clippy::disallowed_methods, reason = "`ended` awaits it")]
    fn start(from: IpAddr, server: &Server, authority: &Authority) -> Self {
        let (stop, plain) = (Arc::<AtomicBool>::default(), server.plain);
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        let stopped = Arc::clone(&stop);
        let udp = std::thread::spawn(move || {
            let (mut count, mut response) = (0, [0; 2048]);
            while !stopped.load(Ordering::Relaxed) {
                let id = count as u16;
                socket.send_to(&web(id), plain).unwrap();
                let length = socket.recv(&mut response).expect("no question is lost");
                assert_eq!((&response[..2], response[3] & 15), (&id.to_be_bytes()[..], 0), "{:?}", &response[..length]);
                count += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            count
        });
        let (stopped, to, config) = (Arc::clone(&stop), server.tls, Arc::new(authority.client(&[b"dot"])));
        let tls = tokio::spawn(async move {
            let (mut count, mut longest) = (0, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let ask = async {
                    let mut stream = tls::shake(&config, connect(from, to).await?).await?;
                    let message = web(1);
                    stream.write_all(&[&(message.len() as u16).to_be_bytes()[..], &message].concat()).await?;
                    let mut response = vec![0; stream.read_u16().await?.into()];
                    stream.read_exact(&mut response).await?;
                    io::Result::Ok(response)
                };
                let response = timeout(WAIT_TIMEOUT, ask).await.expect("answered in time").expect("and not closed");
                assert_eq!(response[3] & 15, 0);
                longest = longest.max(begun.elapsed());
                count += 1;
            }
            (count, longest)
        });
        Self { stop, udp, tls }
    }

    async fn ended(self) -> (usize, usize, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let (tls, longest) = self.tls.await.unwrap();
        (self.udp.join().unwrap(), tls, longest)
    }
}

async fn connect(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if from.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

/// Incomplete input that a connection of a flood sends before it waits.
#[derive(Clone, Copy, Debug)]
enum PartialInput {
    /// Most of a message of 65,535 octets.
    Tcp,
    /// Most of a ClientHello of 65,520 octets, in four records.
    Tls,
    /// A handshake, and then a head in frames that do not end.
    Https,
    /// Some packets of a ClientHello that is too large for any limit.
    Quic,
}

const BEGINS: [PartialInput; 4] = [PartialInput::Tcp, PartialInput::Tls, PartialInput::Https, PartialInput::Quic];

/// Values that keep a connection of a flood open.
enum HeldConnection {
    Tcp { _stream: TcpStream },
    Https { _stream: Box<tokio_rustls::client::TlsStream<TcpStream>> },
    Quic { _endpoint: Endpoint },
}

impl PartialInput {
    fn count(self) -> usize {
        scaled(match self {
            Self::Tcp | Self::Tls => 16_384,
            Self::Https | Self::Quic => 4_096,
        }) as usize
    }

    /// Opens a connection and sends its beginning; the server may close it at any time.
    async fn open(self, from: IpAddr, server: &Addresses, clients: &Clients) -> Option<HeldConnection> {
        match self {
            Self::Tcp => {
                let mut stream = connect(from, server.plain).await.ok()?;
                send(&mut stream, &[&[0xff, 0xff][..], &vec![0; 60_000]].concat()).await;
                Some(HeldConnection::Tcp { _stream: stream })
            }
            Self::Tls => {
                let mut stream = connect(from, server.tls).await.ok()?;
                send(&mut stream, &clients.hello).await;
                Some(HeldConnection::Tcp { _stream: stream })
            }
            Self::Https => {
                let stream = connect(from, server.https).await.ok()?;
                let name = ServerName::try_from(NAME).unwrap();
                let mut stream = timeout(WAIT_TIMEOUT, clients.https.connect(name, stream)).await.ok()?.ok()?;
                let frame = |kind: u8, length: u16| [&[0][..], &length.to_be_bytes(), &[kind, 0, 0, 0, 0, 1]].concat();
                let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
                // HEADERS, one CONTINUATION, and a part of the next.
                let head =
                    [frame(1, 8000), vec![0x82; 8000], frame(9, 6000), vec![0x82; 6000], frame(9, 16_000)].concat();
                let all = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings, &head, &[0x82; 15_000]].concat();
                let _ = timeout(WAIT_TIMEOUT, async {
                    stream.write_all(&all).await?;
                    stream.flush().await
                })
                .await;
                Some(HeldConnection::Https { _stream: Box::new(stream) })
            }
            Self::Quic => {
                let socket = TokioRuntime.wrap_udp_socket(UdpSocket::bind((from, 0)).ok()?).ok()?;
                let socket = Arc::new(Stalling { socket, sent: AtomicUsize::new(0) });
                let settings = EndpointConfig::default();
                let endpoint =
                    Endpoint::new_with_abstract_socket(settings, None, socket, Arc::new(TokioRuntime)).ok()?;
                let connecting = endpoint.connect_with(clients.quic.clone(), server.quic, NAME).ok()?;
                // As long as its packets come and go.
                let _ = timeout(Duration::from_millis(300), connecting).await;
                Some(HeldConnection::Quic { _endpoint: endpoint })
            }
        }
    }
}

/// Writes until the peer takes no more, or has closed.
async fn send(stream: &mut TcpStream, octets: &[u8]) {
    let _ = timeout(Duration::from_secs(1), stream.write_all(octets)).await;
}

struct Addresses {
    plain: SocketAddr,
    tls: SocketAddr,
    https: SocketAddr,
    quic: SocketAddr,
}

struct Clients {
    hello: Vec<u8>,
    https: TlsConnector,
    quic: ClientConfig,
}

impl Clients {
    fn new(authority: &Authority) -> Self {
        let mut verbose = authority.client(&[b"doq"]);
        verbose.alpn_protocols.extend((0..200).map(|_| vec![b'x'; 255]));
        let record = |part: &[u8]| [&[0x16, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat();
        let message = [&[1, 0, 0xff, 0xf0][..], &vec![7; 62_000]].concat();
        Self {
            hello: message.chunks(16 << 10).flat_map(record).collect(),
            https: TlsConnector::from(Arc::new(authority.client(&[b"h2"]))),
            quic: ClientConfig::new(Arc::new(QuicClientConfig::try_from(verbose).unwrap())),
        }
    }
}

/// A socket that sends nothing more after some datagrams.
#[derive(Debug)]
struct Stalling {
    socket: Arc<dyn AsyncUdpSocket>,
    sent: AtomicUsize,
}

impl AsyncUdpSocket for Stalling {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        // Less than the limit of a handshake.
        if self.sent.fetch_add(1, Ordering::Relaxed) < 12 { self.socket.try_send(transmit) } else { Ok(()) }
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        rooms: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(context, rooms, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Opens the connections of a flood, keeps them until all are there, and lets them go.
async fn flood(begin: PartialInput, sources: &[IpAddr], server: &Arc<Addresses>, clients: &Arc<Clients>) -> usize {
    let (opening, mut all) = (Arc::new(Semaphore::new(OPENING)), JoinSet::new());
    for (_, from) in (0..begin.count()).zip(sources.iter().cycle().copied()) {
        let permit = Arc::clone(&opening).acquire_owned().await.unwrap();
        let (server, clients) = (Arc::clone(server), Arc::clone(clients));
        all.spawn(async move {
            let held = begin.open(from, &server, &clients).await;
            drop(permit);
            held
        });
    }
    all.join_all().await.iter().flatten().count()
}

/// Floods the server from these addresses over each transport, and asks from another one all the time.
async fn check_floods(listen: IpAddr, sources: &[IpAddr], asker: IpAddr) {
    let authority = Authority::new();
    let server = Server::start(listen, &authority, "");
    let addresses = Addresses { plain: server.plain, tls: server.tls, https: server.https, quic: server.quic };
    let (addresses, clients) = (Arc::new(addresses), Arc::new(Clients::new(&authority)));
    // The first connection of each kind allocates once.
    for begin in BEGINS {
        let held = begin.open(asker, &addresses, &clients).await;
        assert!(held.is_some(), "{begin:?}");
    }
    let [before, _] = server.memory();
    let asking = QueryClient::start(asker, &server, &authority);
    for begin in BEGINS {
        let begun = Instant::now();
        let opened = flood(begin, sources, &addresses, &clients).await;
        let (ended, [at_end, most]) = (Instant::now(), server.memory());
        let after = loop {
            let [after, _] = server.memory();
            if after <= before + MEMORY_LEFT {
                break after;
            }
            let left = after.saturating_sub(before);
            assert!(
                ended.elapsed() < Duration::from_secs(10),
                "{begin:?}: {left} octets are left 10 s after the flood"
            );
            sleep(MOMENT).await;
        };
        println!(
            "{begin:?}: {opened} of {} connections from {} addresses in {:.1} s: {:.1} MB before, {:.1} at the end, {:.1} at \
             most, {:.1} after {:.1} s",
            begin.count(),
            sources.len(),
            begun.elapsed().as_secs_f64(),
            mega(before),
            mega(at_end),
            mega(most),
            mega(after),
            ended.elapsed().as_secs_f64()
        );
    }
    let (udp, tls, longest) = asking.ended().await;
    println!("meanwhile {udp} questions over UDP, {tls} handshakes, the longest {longest:?}; {}", server.limited_by());
    assert!(udp > 0 && tls > 0);
}

fn mega(octets: u64) -> f64 {
    octets as f64 / 1e6
}

#[tokio::test(flavor = "multi_thread")]
async fn flood_from_sixteen_addresses_delays_no_other_client() {
    let sources: Vec<_> = (1..=16).map(|number| IpAddr::from([127, 0, 1, number])).collect();
    check_floods([127, 0, 0, 1].into(), &sources, [127, 0, 0, 1].into()).await;
}

#[test]
fn flood_from_one_prefix_delays_no_other_client() {
    if !in_namespace("flood_from_one_prefix_delays_no_other_client") {
        return;
    }
    let sources: Vec<IpAddr> = (1..=1000).map(|number| format!("2001:db8:1::{number:x}").parse().unwrap()).collect();
    let [listen, asker] = ["2001:db8:ffff::1", "2001:db8:2::1"].map(|address| address.parse().unwrap());
    runtime().block_on(check_floods(listen, &sources, asker));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// Number of connections of ten from these addresses that are kept: the others are closed at once.
async fn kept(sources: &[&str], to: SocketAddr) -> usize {
    let (mut all, message) = (Vec::new(), web(1));
    for from in sources.iter().cycle().take(10) {
        let mut stream = connect(from.parse().unwrap(), to).await.unwrap();
        let answered = async {
            stream.write_all(&[&(message.len() as u16).to_be_bytes()[..], &message].concat()).await?;
            stream.read_u16().await
        };
        if timeout(WAIT_TIMEOUT, answered).await.expect("answered or closed").is_ok() {
            all.push(stream);
        }
    }
    all.len()
}

#[test]
fn clients_of_one_prefix_share_limit() {
    if !in_namespace("clients_of_one_prefix_share_limit") {
        return;
    }
    let listen = "2001:db8:ffff::1".parse().unwrap();
    let authority = Authority::new();
    let one_prefix = ["2001:db8:1::1", "2001:db8:1::2", "2001:db8:1:0:ffff::3"];
    let two_prefixes = ["2001:db8:1::1", "2001:db8:1:1::1"];
    for (options, sources, expected) in [
        ("", &one_prefix[..], 2),
        ("", &two_prefixes, 4),
        ("--client-prefix-v6 48", &two_prefixes, 2),
        ("--client-prefix-v6 128", &one_prefix, 6),
        ("--explain-to 2001:db8:1::/48", &one_prefix, 6),
        ("--explain-to none", &one_prefix, 2),
    ] {
        let server = Server::start(listen, &authority, &format!("--tcp-connections-per-client 2 {options}"));
        assert_eq!(runtime().block_on(kept(sources, server.plain)), expected, "{options} {sources:?}");
    }
}
