//! Hot restarts of a server with QUIC under continuous queries.
//!
//! Connections are not handed over: the old process closes them (RFC 9250 section 4.3, DOQ_NO_ERROR), and the client connects
//! again and repeats unanswered queries. A query is lost if no connection answers it within [`WAIT_TIMEOUT`], and late
//! if that took longer than a client's first retransmission (RFC 9002 section 6.2.2: a second), as after a lost packet.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, ReadError, ReadToEndError, TransportErrorCode, VarInt,
    WriteError,
};
use tokio::net::UdpSocket;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::server::{Server, manifest};
use super::{alone, scaled, takes_over, until};
use crate::common;
use crate::common::tls::{self, Authority};

/// Time limit for a query, reconnection included.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
const LATE: Duration = Duration::from_millis(900);
/// Time limit for a hot restart to close a connection, on a loaded machine too: far below the idle timeout.
const PROMPT: Duration = Duration::from_secs(10);
const REFUSED: u8 = 5;
/// Number of client ports, and of connections for each.
const CLIENTS: (usize, usize) = (4, 2);

/// Outcome of the queries.
#[derive(Debug, Default)]
struct Report {
    asked: u64,
    answered: u64,
    lost: u64,
    late: u64,
    /// Closed in good order with the question on its way, which was asked again.
    cut: u64,
    /// Closed in another way; the same.
    broken: Vec<String>,
    longest: Duration,
}

/// Why a question has to be asked again.
#[derive(Debug)]
struct Unanswered(ConnectionError);

impl From<ConnectionError> for Unanswered {
    fn from(error: ConnectionError) -> Self {
        Self(error)
    }
}

struct Client {
    endpoint: Endpoint,
    config: ClientConfig,
    to: SocketAddr,
    connection: Option<Connection>,
}

impl Client {
    async fn run(mut self, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> Report {
        let mut report = Report::default();
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            report.asked += 1;
            if timeout(WAIT_TIMEOUT, self.ask_until_answered(&mut report)).await.is_err() {
                report.lost += 1;
                self.connection = None;
                continue;
            }
            report.answered += 1;
            answered.fetch_add(1, Ordering::Relaxed);
            report.longest = report.longest.max(begun.elapsed());
            report.late += u64::from(begun.elapsed() > LATE);
        }
        if let Some(connection) = &self.connection {
            connection.close(VarInt::from_u32(0), b"");
        }
        report
    }

    async fn ask_until_answered(&mut self, report: &mut Report) {
        while let Err(Unanswered(error)) = self.ask().await {
            self.connection = None;
            match error {
                ConnectionError::ApplicationClosed(close) if close.error_code == VarInt::from_u32(0) => report.cut += 1,
                // The same during the handshake (RFC 9000 section 10.2.3).
                ConnectionError::ConnectionClosed(close)
                    if close.error_code == TransportErrorCode::APPLICATION_ERROR =>
                {
                    report.cut += 1;
                }
                error => report.broken.push(error.to_string()),
            }
        }
    }

    async fn ask(&mut self) -> Result<(), Unanswered> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.endpoint, &self.config, self.to).await?,
        };
        assert_eq!(ask(&connection, super::NAME).await?, 0);
        self.connection = Some(connection);
        Ok(())
    }
}

async fn connect(endpoint: &Endpoint, config: &ClientConfig, to: SocketAddr) -> Result<Connection, ConnectionError> {
    endpoint.connect_with(config.clone(), to, tls::NAME).unwrap().await
}

/// Asks for addresses, and returns the code; where it is 0, there are some.
async fn ask(connection: &Connection, name: &str) -> Result<u8, Unanswered> {
    let query = common::query(0, &common::wire(name), 1, Some(1232));
    let (mut send, mut receive) = connection.open_bi().await?;
    let framed = [&(query.len() as u16).to_be_bytes(), &query[..]].concat();
    match send.write_all(&framed).await {
        Ok(()) => {}
        Err(WriteError::ConnectionLost(error)) => return Err(error.into()),
        Err(error) => panic!("{error}"),
    }
    send.finish().unwrap();
    let response = match receive.read_to_end(usize::MAX).await {
        Ok(response) => response,
        Err(ReadToEndError::Read(ReadError::ConnectionLost(error))) => return Err(error.into()),
        Err(error) => panic!("{error}"),
    };
    // Behind the length: the ID, the code, how many answers.
    let code = response[5] & 0x0f;
    assert_eq!((&response[2..4], response[9] > 0), (&[0, 0][..], code == 0));
    Ok(code)
}

fn config(authority: &Authority) -> ClientConfig {
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(authority.client(&[b"doq"])).unwrap()))
}

/// Clients that ask until they are told to stop.
struct Load {
    runtime: Runtime,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: JoinSet<Report>,
}

impl Load {
    fn start(to: SocketAddr, authority: &Authority) -> Self {
        let runtime = Runtime::new().unwrap();
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut clients = JoinSet::new();
        {
            let _inside = runtime.enter();
            let config = config(authority);
            for _ in 0..CLIENTS.0 {
                let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
                for _ in 0..CLIENTS.1 {
                    let (endpoint, config) = (endpoint.clone(), config.clone());
                    let client = Client { endpoint, config, to, connection: None };
                    clients.spawn(client.run(Arc::clone(&stop), Arc::clone(&answered)));
                }
            }
        }
        Self { runtime, stop, answered, clients }
    }

    /// Waits for so many more answers.
    fn wait_for(&self, answers: u64) {
        let wanted = self.answered.load(Ordering::Relaxed) + answers;
        until("answers come", || self.answered.load(Ordering::Relaxed) >= wanted);
    }

    fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Report::default();
        for one in self.runtime.block_on(self.clients.join_all()) {
            sum.asked += one.asked;
            sum.answered += one.answered;
            sum.lost += one.lost;
            sum.late += one.late;
            sum.cut += one.cut;
            sum.broken.extend(one.broken);
            sum.longest = sum.longest.max(one.longest);
        }
        sum
    }
}

/// A server that takes over at `path`; with port 0 the kernel chooses. `more` options with blanks between.
fn command(path: &Path, authority: &Authority, plain: SocketAddr, quic: SocketAddr, more: &str) -> Command {
    let options = format!("--workers 2 --listen-quic {quic} {} {more}", authority.options());
    takes_over(path, plain, &options.split(' ').collect::<Vec<_>>())
}

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

#[test]
fn quic_goes_from_process_to_process() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (path, authority) = (folder.path().join("takeover"), Authority::new());
    let mut server = Server::start(command(&path, &authority, ANY, ANY, "--demo"));
    let (plain, quic) = (server.address, server.listens("QUIC").unwrap());
    let load = Load::start(quic, &authority);
    let times = scaled(50).max(4);
    for _ in 0..times {
        load.wait_for(200);
        let next = Server::start(command(&path, &authority, plain, quic, "--demo"));
        server.ended_well();
        assert!(server.log().contains("a new process has taken over"), "{}", server.log());
        server = next;
    }
    load.wait_for(200);
    let report = load.stop();
    let Report { asked, answered, lost, late, cut, broken, longest } = &report;
    println!(
        "QUIC handed over {times} times: {asked} asked, {answered} answered, {lost} lost, {cut} asked again after an \
         orderly close, {} after another, {late} late, longest {longest:?}",
        broken.len()
    );
    // The number of late answers depends on the load of the machine.
    assert_eq!((asked - answered, *lost, &broken[..]), (0, 0, &[][..]), "{report:?}");
    server.signal("TERM");
    server.ended_well();
    assert!(!server.log().contains("WARN"), "{}", server.log());
}

/// A hot restart ends the connections of the predecessor at once, also one with a query that waits for an upstream. Their
/// clients connect again, and the successor answers.
#[tokio::test(flavor = "multi_thread")]
async fn hot_restart_closes_connections_and_successor_answers() {
    let folder = tempfile::tempdir().unwrap();
    let (path, authority) = (folder.path().join("takeover"), Authority::new());
    let upstream = UdpSocket::bind(ANY).await.unwrap();
    let forward = format!("--demo --forward {} --forward-for 127.0.0.0/8", upstream.local_addr().unwrap());
    let mut old = Server::start(command(&path, &authority, ANY, ANY, &forward));
    let (plain, quic) = (old.address, old.listens("QUIC").unwrap());
    // The successor takes over when it has read its source, which the test writes once the query waits.
    let (input, mut manifests) = std::io::pipe().unwrap();
    let mut new = command(&path, &authority, plain, quic, "--manifests -");
    new.stdin(input);
    let mut new = Server::begin(new);
    new.wait_for_log(0, "the old process answers until this one has read its source");
    let (endpoint, config) = (Endpoint::client(ANY).unwrap(), config(&authority));
    let idle = connect(&endpoint, &config, quic).await.unwrap();
    assert_eq!(ask(&idle, super::NAME).await.unwrap(), 0);
    let waiting = connect(&endpoint, &config, quic).await.unwrap();
    let asking = ask(&waiting, "www.example.test");
    let taking_over = async {
        // The upstream never responds.
        upstream.recv_from(&mut [0; 2048]).await.unwrap();
        let begun = Instant::now();
        manifests.write_all(manifest([192, 0, 2, 2]).as_bytes()).unwrap();
        drop(manifests);
        let closed = idle.closed().await;
        assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
        closed
    };
    let (answered, closed) = timeout(WAIT_TIMEOUT, async { tokio::join!(asking, taking_over) }).await.unwrap();
    for error in [closed, answered.unwrap_err().0] {
        let ConnectionError::ApplicationClosed(close) = error else { panic!("{error}: no CONNECTION_CLOSE") };
        assert_eq!(close.error_code, VarInt::from_u32(0), "DOQ_NO_ERROR");
    }
    for _ in 0..20 {
        let connection = connect(&endpoint, &config, quic).await.unwrap();
        assert_eq!(ask(&connection, super::NAME).await.unwrap(), 0);
        assert_eq!(ask(&connection, "www.example.test").await.unwrap(), REFUSED, "the successor does not forward");
    }
    tokio::task::block_in_place(|| old.ended_well());
    new.still_runs();
    assert!(!new.log().contains("WARN"), "{}", new.log());
}
