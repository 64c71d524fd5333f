//! DNS over TLS, HTTPS and QUIC beside UDP and TCP: CPU of a query, memory of an idle connection, and what a crowd of both
//! costs others. CoreDNS and hickory-server have their turns too, over what they have.
//!
//! ```text
//! cargo bench --bench encrypted -- [--rounds N] [--seconds S] [--only cpu,idle,crowd] [--servers headless-dns,...]
//!                                  [--idle N] [--slow N] [--server PATH]
//! ```
//!
//! It prints tables in Markdown. The servers, the zone and the questions (the mix W8) are those of `../compare`. Only the
//! CPU time of a server's processes is counted, and all figures are of one run, in turns. For Linux with two CPUs. What is
//! idle stays open for ten minutes: a crowd is for no more than some 20 rounds of a second.
//! Read next: `run.rs`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints")]
#![allow(unreachable_pub, missing_docs, dead_code, reason = "a benchmark's own modules, and parts of another's")]

mod client;
#[path = "../compare/cluster.rs"]
mod cluster;
#[path = "../compare/cpu.rs"]
mod cpu;
#[path = "../../tests/it/api_server/fake.rs"]
#[allow(clippy::unwrap_used, reason = "a fake of the tests may panic")]
mod fake;
#[path = "../compare/hickory.rs"]
mod hickory;
#[path = "../compare/load/mod.rs"]
mod load;
#[path = "../compare/options.rs"]
mod options;
#[path = "../compare/peers.rs"]
mod peers;
mod run;
#[path = "../compare/sheet.rs"]
mod sheet;
#[path = "../compare/sys.rs"]
mod sys;
#[path = "../compare/workload.rs"]
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use headless_dns_core::answer::Transport;

use options::one_of;
use peers::{OURS, Peer};
use run::{TRANSPORTS, Use, item};
use sheet::Sheet;

/// What the command line says.
pub struct Options {
    pub rounds: usize,
    seconds: f64,
    /// Which parts run; all where it is empty.
    only: Vec<String>,
    pub peers: Vec<Peer>,
    /// Connections that ask nothing.
    pub idle: usize,
    /// Handshakes that do not end.
    pub slow: usize,
    /// Our binary, where it is built already.
    pub server: Option<PathBuf>,
}

const PEERS: [Peer; 3] = [Peer::Ours, Peer::CoreDns, Peer::Hickory];
const PARTS: [&str; 3] = ["cpu", "idle", "crowd"];

impl Options {
    pub fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }

    /// Of one turn.
    pub fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            rounds: 5,
            seconds: 1.0,
            only: Vec::new(),
            peers: PEERS.to_vec(),
            idle: 5_000,
            slow: 1_000,
            server: None,
        };
        let mut arguments = arguments.iter();
        while let Some(flag) = arguments.next() {
            let value = arguments.next().with_context(|| format!("{flag} wants a value, or is no option"))?;
            let whole = || {
                let number = value.parse().ok().filter(|number| (1..=16_000).contains(number));
                number.with_context(|| format!("{flag} {value}: from 1 to 16000"))
            };
            match flag.as_str() {
                "--rounds" => options.rounds = whole()?,
                "--idle" => options.idle = whole()?,
                "--slow" => options.slow = whole()?,
                "--seconds" => {
                    let seconds = value.parse().ok().filter(|seconds| (0.1..=60.0).contains(seconds));
                    options.seconds = seconds.with_context(|| format!("--seconds {value}: from 0.1 to 60"))?;
                }
                "--only" => options.only = one_of(flag, value, &PARTS)?,
                "--servers" => {
                    let chosen = one_of(flag, value, &PEERS.map(Peer::name))?;
                    options.peers.retain(|peer| chosen.iter().any(|name| name == peer.name()));
                }
                "--server" => options.server = Some(value.into()),
                _ => bail!(
                    "{flag} is no option; they are --rounds, --seconds, --only, --servers, --idle, --slow, --server"
                ),
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    // cargo test runs benchmarks with `--test`: then there is nothing to measure.
    if arguments.iter().any(|argument| argument == "--test") {
        return ExitCode::SUCCESS;
    }
    let done = match arguments.split_first() {
        Some((role, rest)) if role == "hickory-peer" => hickory::serve(rest),
        _ => Options::parse(&arguments).and_then(|options| {
            let sheet = run::run(&options)?;
            println!("\n{}", tables(&sheet, &options));
            Ok(())
        }),
    };
    done.map_or_else(
        |error| {
            eprintln!("encrypted: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

/// What was measured, in Markdown: medians over the rounds.
fn tables(sheet: &Sheet, options: &Options) -> String {
    let about = |what| sheet.text("about", what, "", "is").unwrap_or("?");
    let mut lines = vec![format!(
        "{} rounds of {} s; {} CPUs, Linux {}, load {}.",
        options.rounds,
        options.seconds,
        about("cpus"),
        about("kernel"),
        about("load")
    )];
    for peer in &options.peers {
        let version = sheet.text("about", "version", peer.name(), "is").unwrap_or("?");
        lines.push(format!("\n* {}: {version}", peer.name()));
        lines.extend(sheet.values("about", "note", peer.name(), "is").iter().map(|note| format!("  * {note}")));
    }
    if options.wants("cpu") {
        lines.push(cpu_table(sheet, options));
    }
    if options.wants("idle") {
        lines.push("\n| transport | octets of an idle connection |\n|---|---|".to_owned());
        for over in TRANSPORTS {
            if let Some(octets) = sheet.median("idle", over.label(), OURS, "octets") {
                lines.push(format!("| {} | {octets:.0} |", over.label()));
            }
        }
    }
    if options.wants("crowd") {
        lines.push(crowd_table(sheet, options));
    }
    lines.join("\n")
}

/// CPU time of a query, and how many times that over UDP it is, for the same server.
fn cpu_table(sheet: &Sheet, options: &Options) -> String {
    let mut lines = vec![format!(
        "\n| CPU-us of a query (times that of ours over UDP) | {} |",
        TRANSPORTS.map(Transport::label).join(" | ")
    )];
    lines.push(format!("|---|{}", "---|".repeat(TRANSPORTS.len())));
    let us = |over, usage, server| sheet.median("cpu", &item(over, usage), server, "us");
    let unit = us(Transport::Udp, Use::Kept, OURS);
    for peer in &options.peers {
        for usage in Use::ALL {
            let cells = TRANSPORTS.map(|over| match (us(over, usage, peer.name()), unit) {
                (Some(us), Some(unit)) => format!("{us:.2} ({:.1})", us / unit),
                (Some(us), None) => format!("{us:.2}"),
                (None, _) => "–".to_owned(),
            });
            lines.push(format!("| {}, {} | {} |", peer.name(), usage.label(), cells.join(" | ")));
        }
    }
    lines.join("\n")
}

/// Beside a sink is what the crowd's own client takes of the CPU; the ratio is to that.
fn crowd_table(sheet: &Sheet, options: &Options) -> String {
    let mut lines = vec![format!(
        "\n| beside {} idle TLS connections and {} handshakes that do not end | alone | these at a sink | these here | ratio |\n\
         |---|---|---|---|---|",
        options.idle, options.slow
    )];
    for what in sheet.items("crowd") {
        let of = |measure| sheet.median("crowd", what, OURS, measure).unwrap_or(f64::NAN);
        let (alone, sink, crowd) = (of("alone"), of("sink"), of("crowd"));
        lines.push(format!("| {what} | {alone:.2} | {sink:.2} | {crowd:.2} | {:.2} |", crowd / sink));
    }
    lines.join("\n")
}
