//! The client: connections over TCP, TLS, HTTPS and QUIC, kept and pipelined, or one for each query.
//!
//! All its tasks run on the thread that calls: what it costs itself is not counted. Each answer is compared with what is
//! right. Over UDP `../compare/load` asks. Not here: who is asked (`run.rs`).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use headless_dns_core::answer::Transport;
use headless_dns_core::lock::lock;
use http::Request;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::cpu;
use crate::load::{Histogram, Question, check};

/// The name in the certificate.
pub const NAME: &str = "dns.example.test";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How far apart the octets of a slow handshake are.
const SLOW: Duration = Duration::from_millis(500);
/// How long a server lets one go on: ours by default.
pub const LIFE: Duration = Duration::from_secs(3);
/// Octets of a length (RFC 1035 section 4.2.2).
const LENGTH: usize = 2;

/// A server, over one transport.
pub struct Target {
    over: Transport,
    to: SocketAddr,
    tls: Arc<ClientConfig>,
    quic: Option<quinn::Endpoint>,
}

impl Target {
    /// In the runtime that is to be used. Without `resumes` every handshake is a whole one.
    ///
    /// # Errors
    ///
    /// A certificate that cannot be trusted, or no socket.
    pub fn new(over: Transport, to: SocketAddr, certificate: &CertificateDer<'static>, resumes: bool) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone())?;
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions()?.with_root_certificates(roots);
        let mut tls = builder.with_no_client_auth();
        let protocol: &[u8] = match over {
            Transport::Https => b"h2",
            Transport::Quic => b"doq",
            _ => b"dot",
        };
        tls.alpn_protocols = vec![protocol.to_vec()];
        if !resumes {
            tls.resumption = Resumption::disabled();
        }
        let quic = if over == Transport::Quic { Some(endpoint(&tls)?) } else { None };
        Ok(Self { over, to, tls: Arc::new(tls), quic })
    }

    /// Returns once the server was told that connections have ended, where it is not the kernel that tells it.
    async fn ended(&self) {
        if let Some(endpoint) = &self.quic {
            endpoint.close(0_u32.into(), b"");
            let _ = timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
        }
    }

    async fn connect(&self) -> Result<Connection> {
        let about = || format!("{} over {}", self.to, self.over.label());
        timeout(PATIENCE, self.try_connect()).await.with_context(about)?.with_context(about)
    }

    async fn try_connect(&self) -> Result<Connection> {
        if let Some(endpoint) = &self.quic {
            return Ok(Connection::Quic(endpoint.connect(self.to, NAME)?.await?));
        }
        let stream = tcp(self.to).await?;
        if self.over == Transport::Tcp {
            return Ok(Connection::Tcp(stream));
        }
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(ServerName::try_from(NAME)?, stream).await?;
        if self.over == Transport::Tls {
            return Ok(Connection::Tls(Box::new(stream)));
        }
        let resumed = is_resumed(&stream);
        let (requests, connection) = h2::client::handshake(stream).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move { _ = connection.await });
        Ok(Connection::Https(Http { requests, resumed, _driver: driver }))
    }
}

fn endpoint(tls: &ClientConfig) -> Result<quinn::Endpoint> {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls.clone())?;
    let mut endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    Ok(endpoint)
}

async fn tcp(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    // Closed by RST: no port waits.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(stream)
}

fn is_resumed(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
}

/// A connection that is open.
pub enum Connection {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Https(Http),
    Quic(quinn::Connection),
}

pub struct Http {
    requests: SendRequest<Bytes>,
    resumed: bool,
    /// Ends with the connection.
    _driver: JoinSet<()>,
}

impl Connection {
    /// Whether its handshake was a short one; of QUIC that is not known.
    fn is_resumed(&self) -> bool {
        match self {
            Self::Tls(stream) => is_resumed(stream),
            Self::Https(http) => http.resumed,
            Self::Tcp(_) | Self::Quic(_) => false,
        }
    }

    /// Asks with up to `depth` questions in flight until it is time, and waits for what is in flight then.
    async fn ask(&mut self, asking: &Asking, depth: usize) -> Result<Asked> {
        match self {
            Self::Tcp(stream) => pipelined(stream, asking, depth).await,
            Self::Tls(stream) => pipelined(stream.as_mut(), asking, depth).await,
            Self::Https(http) => {
                let requests = http.requests.clone();
                at_once(asking, depth, move |message| post(requests.clone(), message)).await
            }
            Self::Quic(connection) => {
                let connection = connection.clone();
                at_once(asking, depth, move |message| stream(connection.clone(), message)).await
            }
        }
    }
}

/// What one connection asks: in turn, from this question on.
#[derive(Clone)]
struct Asking {
    questions: Arc<[Question]>,
    first: usize,
    until: Instant,
}

impl Asking {
    fn one(questions: &Arc<[Question]>, number: usize) -> Self {
        Self { questions: Arc::clone(questions), first: number, until: Instant::now() }
    }

    fn question(&self, number: usize) -> &Question {
        &self.questions[(self.first + number) % self.questions.len()]
    }
}

/// What came.
#[derive(Default)]
pub struct Asked {
    pub answered: u64,
    /// Handshakes that were short.
    pub resumed: u64,
    pub latency: Histogram,
    /// The first answer that was wrong.
    pub wrong: Option<String>,
}

impl Asked {
    fn answer(&mut self, question: &Question, message: &[u8], sent: Instant) {
        self.answered += 1;
        self.latency.record(sent.elapsed().as_nanos() as u64);
        self.wrong = self.wrong.take().or_else(|| check::mistake(question, message));
    }

    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.resumed += other.resumed;
        self.latency.add(&other.latency);
        self.wrong = self.wrong.take().or(other.wrong);
    }
}

/// Framed messages, whose IDs are their places in flight.
async fn pipelined<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, asking: &Asking, depth: usize) -> Result<Asked> {
    let mut asked = Asked::default();
    let (mut places, mut output) = (Vec::with_capacity(depth), Vec::new());
    for place in 0..depth {
        places.push((place, Instant::now()));
        frame(asking.question(place), place as u16, &mut output);
    }
    let (mut next, mut waiting, mut filled) = (depth, depth, 0);
    let mut input = vec![0; 1 << 17];
    loop {
        if !output.is_empty() {
            stream.write_all(&output).await?;
            stream.flush().await?;
            output.clear();
        }
        if waiting == 0 {
            return Ok(asked);
        }
        let read = timeout(PATIENCE, stream.read(&mut input[filled..])).await.context("no answer in time")??;
        ensure!(read > 0, "the server closed a connection with {waiting} questions in flight");
        filled += read;
        let (mut at, now) = (0, Instant::now());
        while let Some(message) = whole(&input[at..filled]) {
            let place = usize::from(message.first_chunk().map_or(u16::MAX, |id| u16::from_be_bytes(*id)));
            let (number, sent) = *places.get(place).with_context(|| format!("an answer with the ID {place}"))?;
            asked.answer(asking.question(number), message, sent);
            at += LENGTH + message.len();
            if now < asking.until {
                places[place] = (next, now);
                frame(asking.question(next), place as u16, &mut output);
                next += 1;
            } else {
                waiting -= 1;
            }
        }
        input.copy_within(at..filled, 0);
        filled -= at;
    }
}

fn frame(question: &Question, id: u16, to: &mut Vec<u8>) {
    to.extend_from_slice(&(question.message.len() as u16).to_be_bytes());
    to.extend_from_slice(&id.to_be_bytes());
    to.extend_from_slice(&question.message[2..]);
}

fn whole(octets: &[u8]) -> Option<&[u8]> {
    let (length, rest) = octets.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

/// So many tasks, each of which asks one question after the other.
async fn at_once<F>(asking: &Asking, depth: usize, ask: impl Fn(Vec<u8>) -> F + Clone + Send + 'static) -> Result<Asked>
where
    F: Future<Output = Result<Vec<u8>>> + Send,
{
    let mut tasks = JoinSet::new();
    for place in 0..depth {
        let (asking, ask) = (asking.clone(), ask.clone());
        tasks.spawn(async move {
            let (mut asked, mut number) = (Asked::default(), place);
            loop {
                let (question, sent) = (asking.question(number), Instant::now());
                let mut message = question.message.clone();
                // RFC 8484 section 4.1 and RFC 9250 section 4.2.1.
                message[..2].fill(0);
                let response = timeout(PATIENCE, ask(message)).await.context("no answer in time")??;
                asked.answer(question, &response, sent);
                if Instant::now() >= asking.until {
                    return anyhow::Ok(asked);
                }
                number += depth;
            }
        });
    }
    let mut all = Asked::default();
    while let Some(asked) = tasks.join_next().await {
        all.add(asked??);
    }
    Ok(all)
}

async fn post(requests: SendRequest<Bytes>, message: Vec<u8>) -> Result<Vec<u8>> {
    let request = Request::post(format!("https://{NAME}/dns-query"))
        .header("content-type", "application/dns-message")
        .header("accept", "application/dns-message")
        .header("content-length", message.len())
        .body(())?;
    let mut requests = requests.ready().await?;
    let (response, mut body) = requests.send_request(request, false)?;
    body.send_data(message.into(), true)?;
    let response = response.await?;
    ensure!(response.status() == 200, "status {}", response.status());
    let (mut body, mut octets) = (response.into_body(), Vec::new());
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        octets.extend_from_slice(&chunk);
        body.flow_control().release_capacity(chunk.len())?;
    }
    Ok(octets)
}

async fn stream(connection: quinn::Connection, message: Vec<u8>) -> Result<Vec<u8>> {
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(&[&(message.len() as u16).to_be_bytes()[..], &message].concat()).await?;
    send.finish()?;
    let octets = receive.read_to_end(LENGTH + usize::from(u16::MAX)).await?;
    let Some(message) = whole(&octets) else { bail!("{} octets are no framed message", octets.len()) };
    Ok(message.to_vec())
}

/// What was asked, and what the server's processes ran meanwhile.
pub struct Spent {
    pub asked: Asked,
    /// Nanoseconds for each answer.
    pub cpu: f64,
}

/// How much is in flight.
#[derive(Clone, Copy)]
pub struct Width {
    pub connections: usize,
    /// On each, where it is kept.
    pub depth: usize,
}

/// Asks over connections that are kept; their handshakes are not counted.
///
/// # Errors
///
/// A connection that fails, an answer that does not come, a server that has ended.
pub async fn kept(
    target: &Target,
    questions: &Arc<[Question]>,
    width: Width,
    time: Duration,
    server: &[u32],
) -> Result<Spent> {
    let mut connections = Vec::new();
    for number in 0..width.connections {
        let mut connection = target.connect().await?;
        // What comes behind a handshake is read before the clock begins.
        connection.ask(&Asking::one(questions, number), 1).await?;
        connections.push(connection);
    }
    let (before, until) = (cpu::nanoseconds(server)?, Instant::now() + time);
    let mut tasks = JoinSet::new();
    for (number, mut connection) in connections.into_iter().enumerate() {
        let first = number * questions.len() / width.connections;
        let asking = Asking { questions: Arc::clone(questions), first, until };
        tasks.spawn(async move {
            let asked = connection.ask(&asking, width.depth).await;
            // Kept until all have asked.
            (asked, connection)
        });
    }
    let (mut all, mut open) = (Asked::default(), Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (asked, connection) = done?;
        all.add(asked?);
        open.push(connection);
    }
    let spent = spent(all, before, server);
    target.ended().await;
    spent
}

/// Asks one question over each connection, so many connections at once.
///
/// # Errors
///
/// As [`kept`].
pub async fn fresh(
    target: &Arc<Target>,
    questions: &Arc<[Question]>,
    at_once: usize,
    time: Duration,
    server: &[u32],
) -> Result<Spent> {
    // These have nothing to resume from, and leave something to those that begin at once.
    for number in 0..at_once {
        one(target, questions, number).await?;
    }
    let (before, until) = (cpu::nanoseconds(server)?, Instant::now() + time);
    let mut tasks = JoinSet::new();
    for place in 0..at_once {
        let (target, questions) = (Arc::clone(target), Arc::clone(questions));
        tasks.spawn(async move {
            let mut all = Asked::default();
            for number in (place..).step_by(at_once) {
                if Instant::now() >= until {
                    break;
                }
                all.add(one(&target, &questions, number).await?);
            }
            anyhow::Ok(all)
        });
    }
    let mut all = Asked::default();
    while let Some(asked) = tasks.join_next().await {
        all.add(asked??);
    }
    let spent = spent(all, before, server);
    target.ended().await;
    spent
}

async fn one(target: &Target, questions: &Arc<[Question]>, number: usize) -> Result<Asked> {
    let mut connection = target.connect().await?;
    let mut asked = connection.ask(&Asking::one(questions, number), 1).await?;
    asked.resumed += u64::from(connection.is_resumed());
    if let Connection::Quic(connection) = connection {
        // RFC 9250 section 4.3: DOQ_NO_ERROR.
        connection.close(0_u32.into(), b"");
    }
    Ok(asked)
}

fn spent(asked: Asked, before: u64, server: &[u32]) -> Result<Spent> {
    ensure!(asked.answered > 0, "nothing was answered");
    let cpu = (cpu::nanoseconds(server)? - before) as f64 / asked.answered as f64;
    Ok(Spent { asked, cpu })
}

/// Opens connections that have asked once, and then nothing more.
///
/// # Errors
///
/// As [`kept`].
pub async fn idle(target: &Arc<Target>, questions: &Arc<[Question]>, count: usize) -> Result<Vec<Connection>> {
    const AT_ONCE: usize = 32;
    let (mut tasks, mut open) = (JoinSet::new(), Vec::new());
    for place in 0..AT_ONCE {
        let (target, questions) = (Arc::clone(target), Arc::clone(questions));
        tasks.spawn(async move {
            let mut open = Vec::new();
            for number in (place..count).step_by(AT_ONCE) {
                let mut connection = target.connect().await?;
                connection.ask(&Asking::one(&questions, number), 1).await?;
                open.push(connection);
            }
            anyhow::Ok(open)
        });
    }
    while let Some(more) = tasks.join_next().await {
        open.extend(more??);
    }
    Ok(open)
}

/// How long one whole handshake takes.
///
/// # Errors
///
/// If it fails.
pub async fn handshake(target: &Target) -> Result<Duration> {
    let begun = Instant::now();
    let _connection = target.connect().await?;
    Ok(begun.elapsed())
}

/// Where handshakes are begun that do not end; nowhere for now, if that is `None`. Clones are the same one.
#[derive(Clone, Default)]
pub struct Aim(Arc<Mutex<Option<SocketAddr>>>);

impl Aim {
    pub fn set(&self, to: Option<SocketAddr>) {
        *lock(&self.0) = to;
    }

    fn get(&self) -> Option<SocketAddr> {
        *lock(&self.0)
    }
}

/// Begins handshakes and never ends one: the octets of a ClientHello, one each [`SLOW`]. The first begins `after` there was
/// something to aim at.
pub async fn slow(aim: Aim, after: Duration) {
    loop {
        let Some(to) = aim.get() else {
            sleep(SLOW / 10).await;
            continue;
        };
        sleep(after).await;
        while aim.get() == Some(to) {
            // Refused: the next one is due no earlier than its octets would have been.
            if begin(to, &aim).await.is_err() {
                sleep(SLOW).await;
            }
        }
    }
}

/// Begins one, and goes on until it is closed, or no longer wanted.
async fn begin(to: SocketAddr, aim: &Aim) -> Result<()> {
    // A record of TLS 1.0 with 512 octets of handshake (RFC 8446 section 5.1): a ClientHello of 508.
    let octets = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3].into_iter().chain(std::iter::repeat(7));
    let mut stream = tcp(to).await?;
    for octet in octets {
        if aim.get() != Some(to) || stream.write_all(&[octet]).await.is_err() || is_closed(&stream) {
            break;
        }
        sleep(SLOW).await;
    }
    Ok(())
}

fn is_closed(stream: &TcpStream) -> bool {
    !matches!(stream.try_read(&mut [0; 64]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}
