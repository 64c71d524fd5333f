//! The run: starts the servers, lets them take turns, and fills the sheet.
//!
//! In each round the echo and every server have their turn on one workload, so that what the machine does besides hits
//! all alike. Our own wrong answer ends the run; that of a peer is a note on the page. Not here: what is asked
//! (`workload.rs`), and what the figures mean (`page.rs`).

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::runtime::Runtime;

use crate::Options;
use crate::cluster::{Cluster, SERVICES, SLICES};
use crate::fake::Fake;
use crate::load::{Figures, Load, Over, Pace, Question, run as load};
use crate::options::kernel;
use crate::peers::{ONE, OURS, Peer, Running, Seat, Site, Tools, cargo};
use crate::sheet::Sheet;
use crate::workload::{self, Asked, Zones, mix, moving, ordinals, outcomes};
use headless_dns_core::lock::lock;

/// The CPU of the generator.
const GENERATOR: usize = 1;
/// That of the servers. In a closed loop the generator is there too: each runs until it has nothing left to do, so that
/// batches are as full as the window lets them be, for every server alike. From another CPU the batches of a slow server
/// are fuller than those of a fast one, and make it look as if it were not.
const SERVER: usize = 0;
/// In flight, in a closed loop.
const WINDOW: usize = 256;
/// How the queries come over UDP.
const UDP: Over = Over::Udp { sockets: 4 };
/// Queries per second in the open loop.
const STEADY: u64 = 50_000;
/// Endpoints that move per second in W10.
const CHANGES: u64 = 1000;
/// How long a server may take to load its zones.
const PATIENCE: Duration = Duration::from_secs(30);
const PATIENCE_LARGE: Duration = Duration::from_secs(120);
/// Above so many endpoints CoreDNS takes too long.
const COREDNS_MOST: usize = 100_000;
/// Questions of a large cluster.
const AT_RANDOM: usize = 200_000;

/// Measures what the options want.
///
/// # Errors
///
/// What keeps all from being measured: our server does not build, start, or answer rightly.
pub fn run(options: &Options) -> Result<Sheet> {
    let tools = Tools::prepare(options.server.as_deref(), &options.peers)?;
    let mut run = Run { options, tools, sheet: Sheet::default(), runtime: runtime()? };
    run.about()?;
    run.publications()?;
    // Threads and processes that begin from here on are where the generator is, unless they are told otherwise.
    let status =
        Command::new("taskset").args(["-cp", &GENERATOR.to_string(), &std::process::id().to_string()]).output();
    let pinned = status.is_ok_and(|output| output.status.success());
    ensure!(pinned, "taskset cannot use CPU {GENERATOR}: two CPUs are needed, and util-linux");
    // Its threads were made before.
    run.runtime = runtime()?;
    run.workloads()?;
    run.moving()?;
    run.sizes()?;
    Ok(run.sheet)
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

struct Run<'o> {
    options: &'o Options,
    tools: Tools,
    sheet: Sheet,
    runtime: Runtime,
}

/// So many times our server and the echo take turns in a round.
const TIMES: u32 = 10;

/// One thing to measure.
#[derive(Clone, Copy)]
struct Turn<'a> {
    group: &'a str,
    item: &'a str,
    over: Over,
    pace: Pace,
    seconds: f64,
    questions: &'a [Question],
}

impl Run<'_> {
    /// The machine, the command, and the versions.
    fn about(&mut self) -> Result<()> {
        let mut say = |what: &str, value: String| self.sheet.add("about", what, "", "is", &value);
        say(
            "command",
            format!("cargo bench --bench compare -- {}", self.options.line).trim_end_matches(" -- ").to_owned(),
        );
        say("cpu", line_of("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()));
        say("cpus", std::thread::available_parallelism()?.to_string());
        say("kernel", kernel());
        say("load", std::fs::read_to_string("/proc/loadavg").unwrap_or_default());
        say("rounds", self.options.rounds.to_string());
        say("seconds", self.options.seconds.to_string());
        for peer in &self.options.peers {
            let version = self.tools.version(*peer).unwrap_or_else(|error| format!("not to be had: {error}"));
            self.sheet.add("about", "version", peer.name(), "is", &version);
        }
        for line in include_str!("../instructions.txt").lines().filter(|line| !line.starts_with('#')) {
            if let Some((kind, count)) = line.split_once(' ') {
                self.sheet.add("instructions", kind, OURS, "count", count);
            }
        }
        Ok(())
    }

    /// The cluster behind a fake API server, and what is served of it.
    fn site(&self, cluster: &Cluster) -> Result<(Fake, Site)> {
        let fake = cluster.serve();
        let url = self.runtime.block_on(fake.listen());
        let site = Site::new(&self.tools, &url)?;
        Ok((fake, site))
    }

    /// Starts those that `wanted` chooses; one that does not start is noted, unless it is ours.
    fn start(
        &mut self,
        site: &Site,
        probes: &[&[u8]],
        patience: Duration,
        wanted: impl Fn(Peer) -> bool,
    ) -> Result<Vec<Running>> {
        let mut servers = Vec::new();
        for peer in self.options.peers.iter().copied().filter(|peer| wanted(*peer)) {
            match Running::start(peer, &self.tools, site, ONE, probes, patience) {
                Ok(running) => servers.push(running),
                Err(error) if peer == Peer::Ours => return Err(error),
                Err(error) => self.note(peer.name(), &format!("{error:#}")),
            }
        }
        ensure!(!servers.is_empty(), "none of the servers runs: {:?}", self.sheet.values("about", "note", "", "is"));
        Ok(servers)
    }

    fn note(&mut self, server: &str, what: &str) {
        eprintln!("compare: {server}: {what}");
        if !self.sheet.values("about", "note", server, "is").iter().any(|note| note == what) {
            self.sheet.add("about", "note", server, "is", what);
        }
    }

    /// All rounds of one thing: the echo, with responses as long as those of the first server, and the servers in turn.
    fn rounds(&mut self, rounds: usize, servers: &[Running], turn: &Turn<'_>, before: &dyn Fn(&Running)) -> Result<()> {
        let echo = match servers.first() {
            Some(first) if self.options.echo => {
                before(first);
                let figures = self.load(first, &Turn { seconds: 0.2, ..*turn })?;
                Some(Running::echo((figures.octets / figures.answered.max(1)) as usize)?)
            }
            _ => None,
        };
        for round in 1..=rounds {
            for server in servers {
                // A machine that is shared has fast seconds and slow ones: the echo goes in turn with ours, in short
                // slices. (At the end of each, what a server has lost is waited for.) Connections are opened once.
                let often = server.name == OURS && matches!(turn.over, Over::Udp { .. });
                let slices = if often { TIMES } else { 1 };
                let slice = Turn { seconds: turn.seconds / f64::from(slices), ..*turn };
                let (mut limit, mut figures) = (Figures::default(), Figures::default());
                for _ in 0..slices {
                    if let Some(echo) = &echo {
                        limit.add(self.load(echo, &slice)?);
                    }
                    before(server);
                    figures.add(self.load(server, &slice)?);
                }
                if let Some(echo) = &echo {
                    self.report(round, turn, echo, &limit);
                    let ratio = format!("{:.4}", limit.cpu_ns_per_query / figures.cpu_ns_per_query);
                    self.sheet.add(turn.group, turn.item, server.name, "ratio", &ratio);
                }
                self.report(round, turn, server, &figures);
            }
        }
        Ok(())
    }

    fn report(&mut self, round: usize, turn: &Turn<'_>, server: &Running, figures: &Figures) {
        self.record(turn, server, figures);
        println!(
            "{} {} round {round}: {} {:.3} CPU-us per query, {:.0} per second",
            turn.group,
            turn.item,
            server.name,
            figures.cpu_ns_per_query / 1e3,
            figures.answered as f64 / figures.seconds
        );
    }

    fn load(&mut self, server: &Running, turn: &Turn<'_>) -> Result<Figures> {
        let echo = server.name == crate::ECHO;
        let anything: Vec<Question>;
        let questions = if echo {
            anything = turn.questions.iter().map(workload::unjudged).collect();
            &anything
        } else {
            turn.questions
        };
        let figures = load(&Load {
            to: server.address,
            over: turn.over,
            pace: turn.pace,
            time: Duration::from_secs_f64(turn.seconds),
            questions,
            server: &server.pids(),
            cpu: Some(if matches!(turn.pace, Pace::Closed { .. }) { SERVER } else { GENERATOR }),
        })
        .with_context(|| format!("{} {}, {}", turn.group, turn.item, server.name))?;
        ensure!(figures.answered > 0, "{} {}: {} answered nothing", turn.group, turn.item, server.name);
        if let Some(wrong) = figures.wrong.first() {
            let what = format!(
                "{} {}: {} of {} checked were wrong: {wrong}",
                turn.group, turn.item, figures.mistakes, figures.checked
            );
            if server.name == OURS {
                bail!("{OURS} answers wrongly: {what}");
            }
            // What is added while it runs would be a note each time.
            if !echo && !self.noted(turn, server.name) {
                self.note(server.name, &what);
            }
        }
        Ok(figures)
    }

    fn noted(&self, turn: &Turn<'_>, server: &str) -> bool {
        let begin = format!("{} {}: ", turn.group, turn.item);
        self.sheet.values("about", "note", server, "is").iter().any(|note| note.starts_with(&begin))
    }

    fn record(&mut self, turn: &Turn<'_>, server: &Running, figures: &Figures) {
        let us = |share: f64| format!("{:.1}", figures.latency.percentile(share) as f64 / 1e3);
        let each = |count: u64| count as f64 / figures.answered.max(1) as f64;
        let mut add =
            |measure: &str, value: String| self.sheet.add(turn.group, turn.item, server.name, measure, &value);
        add("cpu_us", format!("{:.4}", figures.cpu_ns_per_query / 1e3));
        add("per_second", format!("{:.0}", figures.answered as f64 / figures.seconds));
        add("p50_us", us(0.5));
        add("p99_us", us(0.99));
        add("p999_us", us(0.999));
        add("octets", format!("{:.1}", each(figures.octets)));
        add("lost", (figures.lost + figures.unsent).to_string());
        add("batch", format!("{:.1}", figures.batches));
        if matches!(turn.pace, Pace::Open { .. }) {
            add("behind_p999_us", format!("{:.1}", figures.behind.percentile(0.999) as f64 / 1e3));
        }
        add("checked", figures.checked.to_string());
        add("wrong", figures.mistakes.to_string());
    }

    /// W1 to W9, the latency, and two workers: all of the same cluster.
    fn workloads(&mut self) -> Result<()> {
        let parts = ["W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9", "latency", "workers"];
        if !parts.iter().any(|part| self.options.wants(part)) {
            return Ok(());
        }
        let cluster = Cluster::of_workloads();
        let workloads = workload::workloads(&cluster);
        let (_fake, site) = self.site(&cluster)?;
        let set = [(cluster.services[cluster.services.len() - 1].owner(), headless_dns_core::rtype::A)];
        let asked = workloads.iter().flat_map(|workload| &workload.asked).chain(&set);
        let zones = Zones::read(&site.files(), asked)?;
        let questions: Vec<Vec<Question>> = workloads
            .iter()
            .map(|workload| zones.over_udp(&workload.asked))
            .collect::<Result<_, _>>()
            .map_err(anyhow::Error::msg)?;
        let probes = probes(&workloads[0].asked, &workloads[4].asked, &zones)?;
        let probes: Vec<&[u8]> = probes.iter().map(|question| &question.message[..]).collect();
        let servers = self.start(&site, &probes, PATIENCE, |_| true)?;
        let (rounds, seconds) = (self.options.rounds, self.options.seconds);
        let closed = Pace::Closed { window: WINDOW };
        for (workload, questions) in workloads.iter().zip(&questions) {
            self.sheet.add("about", "workload", workload.name, "is", workload.what);
            self.sheet.add(
                "about",
                "outcomes",
                workload.name,
                "is",
                &outcomes(questions).map(|count| count.to_string()).join(" "),
            );
            if self.options.wants(workload.name) {
                let turn = Turn { group: "workload", item: workload.name, over: UDP, pace: closed, seconds, questions };
                self.rounds(rounds, &servers, &turn, &|_| ())?;
            }
        }
        let over_tcp = zones.over_tcp(&workloads[7].asked).map_err(anyhow::Error::msg)?;
        for (item, what, over) in [
            ("W9a", "W8 over one pipelined TCP connection", Over::Tcp { connections: 1, depth: 64 }),
            ("W9b", "W8 over 1,000 TCP connections", Over::Tcp { connections: 1000, depth: 1 }),
            ("W9c", "W8, a TCP connection for each query", Over::TcpPerQuery { at_once: 32 }),
        ] {
            self.sheet.add("about", "workload", item, "is", what);
            if self.options.wants("W9") {
                let turn = Turn { group: "workload", item, over, pace: closed, seconds, questions: &over_tcp };
                self.rounds(rounds, &servers, &turn, &|_| ())?;
            }
        }
        if self.options.wants("W9")
            && let Some(ours) = servers.iter().find(|server| server.name == OURS)
        {
            let question = zones.question(&set[0], usize::from(u16::MAX)).map_err(anyhow::Error::msg)?;
            let count = answers_over_tcp(ours.address, &question.message).context("5,000 addresses over TCP")?;
            self.sheet.add("workload", "W9", OURS, "most_records", &count.to_string());
        }
        if self.options.wants("latency") {
            let pace = Pace::Open { per_second: STEADY };
            let turn = Turn { group: "latency", item: "W8", over: UDP, pace, seconds, questions: &questions[7] };
            self.rounds(rounds, &servers, &turn, &|_| ())?;
        }
        drop(servers);
        self.workers(&site, &probes, &questions[7])
    }

    /// One worker and two: with the generator on one of two CPUs, only the cost of a query can be compared.
    fn workers(&mut self, site: &Site, probes: &[&[u8]], questions: &[Question]) -> Result<()> {
        if !self.options.wants("workers") || !self.options.peers.contains(&Peer::Ours) {
            return Ok(());
        }
        let pace = Pace::Closed { window: WINDOW };
        let seconds = self.options.seconds;
        let one = Running::start(Peer::Ours, &self.tools, site, ONE, probes, PATIENCE)?;
        let two = Running::start(Peer::Ours, &self.tools, site, Seat { cpus: "0,1", workers: 2 }, probes, PATIENCE)?;
        for _ in 0..self.options.rounds {
            for (item, server) in [("1", &one), ("2", &two)] {
                // So many sockets that both workers get their share.
                let turn = Turn { group: "workers", item, over: Over::Udp { sockets: 32 }, pace, seconds, questions };
                let figures = self.load(server, &turn)?;
                self.record(&turn, server, &figures);
            }
        }
        Ok(())
    }

    /// W10: W8 while endpoints move, for whoever watches; each has an API server of its own, which changes only in its turn.
    fn moving(&mut self) -> Result<()> {
        if !self.options.wants("W10") {
            return Ok(());
        }
        self.sheet.add("about", "workload", "W10", "is", "W8 while 1,000 endpoints move per second");
        let cluster = Cluster::of_workloads();
        let asked = mix(cluster.small(), workload::MIX);
        let (mut fakes, mut servers, mut questions) = (Vec::new(), Vec::new(), Vec::new());
        for peer in self.options.peers.clone() {
            if !peer.watches() {
                let why = "W10: it has zone files and cannot watch a cluster, so it has no figure there";
                self.note(peer.name(), why);
                continue;
            }
            let (fake, site) = self.site(&cluster)?;
            let zones = Zones::read(&site.files(), &asked)?;
            questions = moving(zones.over_udp(&asked).map_err(anyhow::Error::msg)?);
            let reverse: Vec<Asked> =
                asked.iter().filter(|asked| asked.1 == headless_dns_core::rtype::PTR).cloned().collect();
            let probes = probes(&asked[..0], &reverse, &zones)?;
            let probes: Vec<&[u8]> = probes.iter().map(|question| &question.message[..]).collect();
            servers.extend(self.start(&site, &probes, PATIENCE, |wanted| wanted == peer)?);
            fakes.push((peer.name(), fake));
        }
        if servers.is_empty() {
            return Ok(());
        }
        let (rounds, seconds) = (self.options.rounds, self.options.seconds);
        for (group, pace) in
            [("workload", Pace::Closed { window: WINDOW }), ("latency", Pace::Open { per_second: STEADY })]
        {
            let turn = Turn { group, item: "W10", over: UDP, pace, seconds, questions: &questions };
            let of: std::sync::Mutex<String> = std::sync::Mutex::default();
            let (done, changes) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
            let begun = Instant::now();
            let moved = std::thread::scope(|scope| {
                scope.spawn(|| move_endpoints(&fakes, &cluster, &of, &changes, &done));
                let name = |server: &Running| {
                    server.name.clone_into(&mut lock(&of));
                };
                let moved = self.rounds(rounds, &servers, &turn, &name);
                done.store(true, Ordering::Relaxed);
                moved
            });
            moved?;
            let per_second = changes.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
            self.sheet.add("about", "changes", group, "per_second", &format!("{per_second:.0}"));
        }
        Ok(())
    }

    /// Large clusters: cost of a query, memory, and for ours the start and a relist.
    fn sizes(&mut self) -> Result<()> {
        if !self.options.wants("sizes") {
            return Ok(());
        }
        for endpoints in self.options.sizes.clone() {
            self.size(endpoints).with_context(|| format!("{endpoints} endpoints"))?;
        }
        Ok(())
    }

    fn size(&mut self, endpoints: usize) -> Result<()> {
        let cluster = Cluster::of_size(endpoints);
        let (fake, site) = self.site(&cluster)?;
        let asked = [("W8", mix(&cluster.services, AT_RANDOM)), ("W4", ordinals(&cluster.services, AT_RANDOM))];
        let zones = Zones::read(&site.files(), asked.iter().flat_map(|(_, asked)| asked))?;
        let reverse: Vec<Asked> =
            asked[0].1.iter().filter(|asked| asked.1 == headless_dns_core::rtype::PTR).cloned().collect();
        let probes = probes(&asked[1].1, &reverse, &zones)?;
        let probes: Vec<&[u8]> = probes.iter().map(|question| &question.message[..]).collect();
        let servers = self.start(&site, &probes, PATIENCE_LARGE, |peer| match peer {
            Peer::CachingCoreDns => false,
            Peer::CoreDns => endpoints <= COREDNS_MOST,
            _ => true,
        })?;
        let size = endpoints.to_string();
        // What a start leaves behind is given back in a moment.
        std::thread::sleep(Duration::from_secs(2));
        for server in &servers {
            self.sheet.add("size", &size, server.name, "memory_mb", &format!("{:.1}", server.memory()?));
            self.sheet.add("size", &size, server.name, "ready_ms", &format!("{:.1}", server.ready.as_secs_f64() * 1e3));
        }
        if let Some(ours) = servers.iter().find(|server| server.name == OURS) {
            self.relist(&fake, ours, &size)?;
        }
        let rounds = self.options.rounds.min(3);
        for (name, asked) in &asked {
            let questions = zones.over_udp(asked).map_err(anyhow::Error::msg)?;
            let group = format!("size-{name}");
            let pace = Pace::Closed { window: WINDOW };
            let seconds = self.options.seconds.min(1.0);
            let turn = Turn { group: &group, item: &size, over: UDP, pace, seconds, questions: &questions };
            self.rounds(rounds, &servers, &turn, &|_| ())?;
        }
        Ok(())
    }

    /// Makes it list everything again: the most that it occupies meanwhile, over what it occupied before.
    fn relist(&mut self, fake: &Fake, ours: &Running, size: &str) -> Result<()> {
        let steady = ours.memory()?;
        ours.forget_peak()?;
        let until = Instant::now() + PATIENCE_LARGE;
        let again = fake.relist([SERVICES, SLICES]);
        while !again() {
            ensure!(Instant::now() < until, "it does not list again");
            std::thread::sleep(Duration::from_millis(10));
        }
        fake.heal();
        // What was sent is read and compared.
        std::thread::sleep(Duration::from_secs(2));
        let peak = ours.peak()?;
        self.sheet.add("size", size, OURS, "relist", &format!("{:.3}", peak / steady));
        Ok(())
    }

    /// The engine's own benchmark says how long a publication takes.
    fn publications(&mut self) -> Result<()> {
        if !self.options.wants("publish") {
            return Ok(());
        }
        println!("cargo bench --bench engine -- publications");
        let mut engine = cargo();
        engine.args(["bench", "--locked", "--bench", "engine", "--", "publications"]);
        let output = engine.stderr(std::process::Stdio::inherit()).output()?;
        ensure!(output.status.success(), "cargo bench --bench engine: {}", output.status);
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if let [size, "endpoints", us] = line.split_whitespace().collect::<Vec<_>>()[..] {
                self.sheet.add("publish", size, OURS, "us", us);
            }
        }
        ensure!(!self.sheet.items("publish").is_empty(), "cargo bench --bench engine printed no publications");
        Ok(())
    }
}

/// A name and an address that every server knows once it has both zones.
fn probes(names: &[Asked], reverse: &[Asked], zones: &Zones) -> Result<Vec<Question>> {
    let first = names.first().into_iter().chain(reverse.first());
    first.map(|asked| zones.question(asked, 1232).map_err(anyhow::Error::msg)).collect()
}

/// Moves one endpoint after the other, so many per second, in the cluster of the server whose name stands in `of`.
fn move_endpoints(
    fakes: &[(&str, Fake)],
    cluster: &Cluster,
    of: &std::sync::Mutex<String>,
    changes: &std::sync::atomic::AtomicU64,
    done: &AtomicBool,
) {
    let begun = Instant::now();
    for number in 0_u64.. {
        if done.load(Ordering::Relaxed) {
            return;
        }
        let due = begun + Duration::from_nanos(number * 1_000_000_000 / CHANGES);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let of = lock(of).clone();
        if let Some((_, fake)) = fakes.iter().find(|(name, _)| *name == of) {
            fake.change_made(SLICES, number as usize % cluster.small().len());
        }
        changes.fetch_add(1, Ordering::Relaxed);
    }
}

/// The count of answer records in the response to this query, over TCP.
fn answers_over_tcp(to: SocketAddr, query: &[u8]) -> Result<u16> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&[&(query.len() as u16).to_be_bytes(), query].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut response = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut response)?;
    ensure!(response.len() >= 12, "a response of {} octets", response.len());
    Ok(u16::from_be_bytes([response[6], response[7]]))
}

fn line_of(path: &str, begins: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(begins))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
}
