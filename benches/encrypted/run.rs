//! The run: starts the servers, lets them take turns, and fills the sheet.
//!
//! Not here: how questions travel (`client.rs`), and the table (`main.rs`).

use std::collections::VecDeque;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use headless_dns_core::answer::Transport;
use rustls::pki_types::CertificateDer;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::client::{self, Aim, LIFE, NAME, Spent, Target, Width};
use crate::cluster::Cluster;
use crate::load::{Figures, Histogram, Load, Over, Pace, Question, run as load};
use crate::options::kernel;
use crate::peers::{Certificate, ONE, OURS, Peer, Running, Seat, Site, TWO, Tools};
use crate::sheet::Sheet;
use crate::workload::{self, Asked, Zones, mix};
use crate::{Options, cpu, sys};

/// The CPU of the servers, and that of who asks in an open loop; in a closed one both have the first
/// (`../compare/run.rs` says why).
const SERVER: usize = 0;
const CLIENT: usize = 1;
/// In flight over kept connections: as many as over UDP.
const WIDTH: Width = Width { connections: 8, depth: 16 };
/// Connections at once where each asks once.
const AT_ONCE: usize = 8;
const PATIENCE: Duration = Duration::from_secs(60);
/// Queries per second over UDP beside a crowd.
const STEADY: u64 = 10_000;
/// How far apart the handshakes are that are timed.
const APART: Duration = Duration::from_millis(4);

/// What is kept over the transports, in the order of the tables.
pub const TRANSPORTS: [Transport; 5] =
    [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Https, Transport::Quic];

/// How connections are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Kept,
    Fresh,
    Resumed,
}

impl Use {
    pub const ALL: [Self; 3] = [Self::Kept, Self::Fresh, Self::Resumed];

    pub fn label(self) -> &'static str {
        match self {
            Self::Kept => "connections that are kept",
            Self::Fresh => "a connection for each query",
            Self::Resumed => "the same, resumed",
        }
    }

    fn is_of(self, over: Transport) -> bool {
        match self {
            Self::Kept => true,
            Self::Fresh => !over.is_datagram(),
            Self::Resumed => over.is_encrypted(),
        }
    }
}

/// The item of the sheet.
pub fn item(over: Transport, usage: Use) -> String {
    format!("{} {usage:?}", over.label())
}

/// Measures what the options want.
///
/// # Errors
///
/// What keeps all from being measured: our server does not build, start, or answer rightly.
pub fn run(options: &Options) -> Result<Sheet> {
    // Servers inherit the limit.
    sys::allow_files(4 * options.idle as u64 + 8 * options.slow as u64 + 1000)?;
    let tools = Tools::prepare(options.server.as_deref(), &options.peers)?;
    let cpus = std::thread::available_parallelism()?;
    // Threads that begin from here on are where the client is.
    let _pinned = sys::Pinned::to(CLIENT).context("two CPUs are needed")?;
    let keeper = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let cluster = Cluster::of_workloads();
    let fake = cluster.serve();
    let url = keeper.block_on(fake.listen());
    let pair = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let folder = tempfile::tempdir()?;
    let (chain, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    fs::write(&chain, pair.cert.pem())?;
    fs::write(&key, pair.signing_key.serialize_pem())?;
    let site = Site::new(&tools, &url)?.encrypted(Certificate { chain, key });
    let asked = mix(cluster.small(), workload::MIX);
    let zones = Zones::read(&site.files(), &asked)?;
    let mut run = Run {
        options,
        over_udp: zones.over_udp(&asked).map_err(anyhow::Error::msg)?,
        over_streams: zones.over_tcp(&asked).map_err(anyhow::Error::msg)?.into(),
        probes: probes(&asked, &zones)?,
        certificate: pair.cert.der().clone(),
        tools,
        site,
        sheet: Sheet::default(),
    };
    run.about(cpus.get())?;
    if options.wants("cpu") {
        run.cpu()?;
    }
    if options.wants("idle") {
        run.idle()?;
    }
    if options.wants("crowd") {
        run.crowd(ONE)?;
        run.crowd(TWO)?;
    }
    Ok(run.sheet)
}

/// A name and an address that every server knows once it has both zones.
fn probes(asked: &[Asked], zones: &Zones) -> Result<Vec<Question>> {
    let first = |qtype| asked.iter().find(|(name, of)| *of == qtype && !name.contains(".example.com."));
    let both = [headless_dns_core::rtype::A, headless_dns_core::rtype::PTR].into_iter().filter_map(first);
    both.map(|asked| zones.question(asked, 1232).map_err(anyhow::Error::msg)).collect()
}

/// On the thread that asks for it, and no other.
fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

struct Run<'o> {
    options: &'o Options,
    tools: Tools,
    site: Site,
    over_udp: Vec<Question>,
    over_streams: Arc<[Question]>,
    probes: Vec<Question>,
    certificate: CertificateDer<'static>,
    sheet: Sheet,
}

impl Run<'_> {
    fn about(&mut self, cpus: usize) -> Result<()> {
        let mut say = |what: &str, value: String| self.sheet.add("about", what, "", "is", &value);
        say("cpus", cpus.to_string());
        say("kernel", kernel());
        say("load", fs::read_to_string("/proc/loadavg").unwrap_or_default());
        for peer in &self.options.peers {
            let version = self.tools.version(*peer).unwrap_or_else(|error| format!("not to be had: {error}"));
            self.sheet.add("about", "version", peer.name(), "is", &version);
        }
        Ok(())
    }

    fn note(&mut self, server: &str, what: &str) {
        eprintln!("encrypted: {server}: {what}");
        self.sheet.add("about", "note", server, "is", what);
    }

    fn start(&self, peer: Peer) -> Result<Running> {
        self.start_on(ONE, peer)
    }

    fn start_on(&self, seat: Seat, peer: Peer) -> Result<Running> {
        let probes: Vec<&[u8]> = self.probes.iter().map(|question| &question.message[..]).collect();
        Running::start(peer, &self.tools, &self.site, seat, &probes, PATIENCE)
    }

    fn target(&self, server: &Running, over: Transport, resumes: bool) -> Result<Target> {
        let encrypted = server.encrypted.context("it listens for nothing that is encrypted")?;
        let to = match over {
            Transport::Udp | Transport::Tcp => server.address,
            Transport::Tls => encrypted.tls,
            Transport::Https => encrypted.https,
            Transport::Quic => encrypted.quic,
        };
        Target::new(over, to, &self.certificate, resumes)
    }

    /// CPU time of each query, of every server over every transport, in turns.
    fn cpu(&mut self) -> Result<()> {
        let mut servers = Vec::new();
        for peer in self.options.peers.clone() {
            match self.start(peer) {
                Ok(running) => servers.push(running),
                Err(error) if peer == Peer::Ours => return Err(error),
                Err(error) => self.note(peer.name(), &format!("{error:#}")),
            }
        }
        let mut failed = Vec::new();
        for round in 1..=self.options.rounds {
            for server in &servers {
                for usage in Use::ALL {
                    for over in TRANSPORTS.into_iter().filter(|over| usage.is_of(*over)) {
                        let what = (server.name, item(over, usage));
                        if failed.contains(&what) {
                            continue;
                        }
                        match self.turn(server, over, usage) {
                            Ok(said) => println!("round {round}: {} {}: {said}", what.0, what.1),
                            Err(error) if server.name == OURS => return Err(error.context(what.1)),
                            Err(error) => {
                                self.note(server.name, &format!("{}: {error:#}", what.1));
                                failed.push(what);
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// What was measured, in a few words.
    fn turn(&mut self, server: &Running, over: Transport, usage: Use) -> Result<String> {
        let mut also = String::new();
        let (cpu, answered, wrong) = if over.is_datagram() {
            let pace = Pace::Closed { window: WIDTH.connections * WIDTH.depth };
            let figures = self.udp(server, pace, SERVER)?;
            (figures.cpu_ns_per_query, figures.answered, figures.wrong.first().cloned())
        } else {
            let Spent { asked, cpu } = self.stream(server, over, usage)?;
            if usage == Use::Resumed && over != Transport::Quic {
                let share = asked.resumed as f64 / asked.answered as f64;
                self.sheet.add("cpu", &item(over, usage), server.name, "resumed", &format!("{share:.3}"));
                also = format!(", {:.0} % of the connections resumed", share * 100.0);
            }
            (cpu, asked.answered, asked.wrong)
        };
        ensure!(answered > 0, "nothing was answered");
        if let Some(wrong) = wrong {
            bail!("a wrong answer: {wrong}");
        }
        let us = cpu / 1e3;
        self.sheet.add("cpu", &item(over, usage), server.name, "us", &format!("{us:.4}"));
        self.sheet.add("cpu", &item(over, usage), server.name, "answered", &answered.to_string());
        Ok(format!("{us:.2} CPU-us per query{also}"))
    }

    fn udp(&self, server: &Running, pace: Pace, cpu: usize) -> Result<Figures> {
        Ok(load(&Load {
            to: server.address,
            over: Over::Udp { sockets: 4 },
            pace,
            time: self.options.time(),
            questions: &self.over_udp,
            server: &server.pids(),
            cpu: Some(cpu),
        })?)
    }

    fn stream(&self, server: &Running, over: Transport, usage: Use) -> Result<Spent> {
        let (time, pids, questions) = (self.options.time(), server.pids(), &self.over_streams);
        let _pinned = sys::Pinned::to(SERVER)?;
        runtime()?.block_on(async {
            let target = Arc::new(self.target(server, over, usage == Use::Resumed)?);
            match usage {
                Use::Kept => client::kept(&target, questions, WIDTH, time, &pids).await,
                Use::Fresh | Use::Resumed => client::fresh(&target, questions, AT_ONCE, time, &pids).await,
            }
        })
    }

    /// Memory of connections that are open and ask nothing: of a new server for each transport.
    fn idle(&mut self) -> Result<()> {
        let count = self.options.idle;
        for over in TRANSPORTS.into_iter().filter(|over| !over.is_datagram()) {
            let server = self.start(Peer::Ours)?;
            // What is made once is there before the first figure.
            self.stream(&server, over, Use::Kept)?;
            std::thread::sleep(Duration::from_secs(1));
            let before = server.memory()?;
            let after = runtime()?.block_on(async {
                let target = Arc::new(self.target(&server, over, false)?);
                let open = client::idle(&target, &self.over_streams, count).await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
                let after = server.memory();
                ensure!(open.len() == count, "{} connections are open", open.len());
                after
            });
            let each = (after? - before) * 1e6 / count as f64;
            println!("{count} idle connections over {}: {each:.0} octets each", over.label());
            self.sheet.add("idle", over.label(), OURS, "octets", &format!("{each:.0}"));
        }
        Ok(())
    }

    /// How long others wait: at a server that has only them; at the same while the crowd's handshakes are begun with a sink,
    /// so that all that differs is what the crowd itself takes of the server's CPU; and at a server that has the crowd.
    fn crowd(&mut self, seat: Seat) -> Result<()> {
        let [alone, crowded] = [self.start_on(seat, Peer::Ours)?, self.start_on(seat, Peer::Ours)?];
        let (sink, aim, ended) = (TcpListener::bind("127.0.0.1:0")?, Aim::default(), AtomicBool::new(false));
        let at_sink = sink.local_addr()?;
        let at_server = crowded.encrypted.context("it listens for nothing that is encrypted")?.tls;
        let (say, there) = std::sync::mpsc::channel();
        let done = std::thread::scope(|scope| {
            let (this, crowd, aim, ended, sink) = (&*self, &crowded, &aim, &ended, &sink);
            let sunk = scope.spawn(move || keep_open(sink, ended));
            // Where it fails, nobody says that it is there.
            let held = scope.spawn(move || this.hold(crowd, aim, ended, &say));
            let turns = [("alone", &alone, None), ("sink", &alone, Some(at_sink)), ("crowd", crowd, Some(at_server))];
            let rounds = there.recv().map_err(anyhow::Error::from).and_then(|()| this.beside(seat, &turns, aim));
            ended.store(true, Ordering::Relaxed);
            // Has it look.
            let _ = TcpStream::connect(at_sink);
            for thread in [held, sunk] {
                thread.join().map_err(|_| anyhow::anyhow!("a thread of the crowd panicked"))??;
            }
            rounds
        });
        for (item, measure, value) in done? {
            self.sheet.add("crowd", &item, OURS, measure, &value);
        }
        Ok(())
    }

    /// The crowd: idle connections over TLS, and handshakes that do not end.
    ///
    /// It is where the server is, and yields to it: who asks has a CPU of its own, as another machine would.
    fn hold(&self, server: &Running, aim: &Aim, ended: &AtomicBool, say: &std::sync::mpsc::Sender<()>) -> Result<()> {
        let _pinned = sys::Pinned::to(SERVER)?;
        sys::yield_to_all()?;
        runtime()?.block_on(async {
            let target = Arc::new(self.target(server, Transport::Tls, false)?);
            let _open = client::idle(&target, &self.over_streams, self.options.idle).await?;
            let mut tasks = JoinSet::new();
            for number in 0..self.options.slow {
                // None begins with another.
                let after = LIFE.mul_f64(number as f64 / self.options.slow as f64);
                tasks.spawn(client::slow(aim.clone(), after));
            }
            say.send(())?;
            while !ended.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        })
    }

    fn beside(&self, seat: Seat, turns: &[Turn<'_>], aim: &Aim) -> Result<Vec<Waited>> {
        let mut all = Vec::new();
        for round in 1..=self.options.rounds {
            for &(measure, server, to) in turns {
                aim.set(to);
                // Until all of them have begun, or none is left.
                std::thread::sleep(LIFE + Duration::from_millis(500));
                for (item, value) in self.round(server, seat)? {
                    println!("round {round}, CPU {}, {measure}: {item}: {value}", seat.cpus);
                    all.push((format!("{item}; the server on CPU {}", seat.cpus), measure, value));
                }
            }
        }
        Ok(all)
    }

    /// What is measured, and its value.
    fn round(&self, server: &Running, seat: Seat) -> Result<Vec<(&'static str, String)>> {
        let us = |times: &Histogram| format!("{:.1}", times.percentile(0.99) as f64 / 1e3);
        let mut all = vec![("CPU of the server while nobody else asks, %", self.quiet(server)?)];
        // Who asks at that rate never sleeps, and so needs a CPU of its own.
        if seat.workers == 1 {
            let figures = self.udp(server, Pace::Open { per_second: STEADY }, CLIENT)?;
            all.push(("p99 of UDP at 10,000 a second, us", us(&figures.latency)));
            all.push(("in it: late in asking, us", us(&figures.behind)));
        }
        all.push(("p99 of UDP, one question each ms, us", us(&self.one_by_one(server)?)));
        all.push(("p99 of TLS handshakes, us", us(&self.handshakes(server)?)));
        Ok(all)
    }

    /// What part of a CPU the server takes, in percent, with nothing but the crowd.
    fn quiet(&self, server: &Running) -> Result<String> {
        let (before, begun) = (cpu::nanoseconds(&server.pids())?, Instant::now());
        std::thread::sleep(self.options.time());
        let spent = cpu::nanoseconds(&server.pids())? - before;
        Ok(format!("{:.2}", spent as f64 / begun.elapsed().as_nanos() as f64 * 100.0))
    }

    /// Questions over UDP one after the other, by a client that sleeps between them, as most do.
    fn one_by_one(&self, server: &Running) -> Result<Histogram> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(server.address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let (mut times, until, mut response) = (Histogram::default(), Instant::now() + self.options.time(), [0; 4096]);
        for question in self.over_udp.iter().cycle() {
            let begun = Instant::now();
            socket.send(&question.message)?;
            socket.recv(&mut response)?;
            times.record(begun.elapsed().as_nanos() as u64);
            if Instant::now() >= until {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(times)
    }

    fn handshakes(&self, server: &Running) -> Result<Histogram> {
        runtime()?.block_on(async {
            let target = self.target(server, Transport::Tls, false)?;
            let (mut times, until) = (Histogram::default(), Instant::now() + self.options.time());
            while Instant::now() < until {
                times.record(client::handshake(&target).await?.as_nanos() as u64);
                tokio::time::sleep(APART).await;
            }
            Ok(times)
        })
    }
}

/// Takes connections, and closes each after [`LIFE`]: what of a server is the kernel's.
fn keep_open(sink: &TcpListener, ended: &AtomicBool) -> Result<()> {
    let _pinned = sys::Pinned::to(SERVER)?;
    let mut open = VecDeque::new();
    while !ended.load(Ordering::Relaxed) {
        let (stream, _) = sink.accept()?;
        open.push_back((Instant::now(), stream));
        while open.front().is_some_and(|(begun, _)| begun.elapsed() > LIFE) {
            open.pop_front();
        }
    }
    Ok(())
}

/// What is measured, where, and where handshakes are begun meanwhile that do not end.
type Turn<'r> = (&'static str, &'r Running, Option<SocketAddr>);

/// Item, measure and value of the sheet.
type Waited = (String, &'static str, String);
