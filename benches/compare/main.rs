//! Servers side by side: CPU per query, latency and memory of ours, of others, and of the bare echo that is the limit.
//!
//! ```text
//! cargo bench --bench compare -- [--rounds N] [--seconds S] [--only W1,W8,...] [--servers echo,headless-dns,...]
//!                                [--sizes 10000,...] [--server PATH] [--page FOLDER] [--print] [--from FILE]
//! ```
//!
//! One command: it builds our release binary, fetches or builds the others (`peers.rs`), runs the workloads (`workload.rs`)
//! with all servers taking turns in each round, checks a sample of the answers, and writes the page and its figures
//! (`page.rs`, `sheet.rs`). `docs/speed.md` explains the options. It starts itself again as the echo (`echo.rs`) and as
//! one of the peers (`hickory.rs`). For Linux with two CPUs: the servers have CPU 0, the generator CPU 1. Read next:
//! `run.rs`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints")]
#![allow(unreachable_pub, missing_docs, reason = "a benchmark's own modules")]

mod cluster;
mod cpu;
mod echo;
#[path = "../../tests/it/api_server/fake.rs"]
#[allow(clippy::unwrap_used, reason = "a fake of the tests may panic")]
mod fake;
mod hickory;
#[allow(dead_code, reason = "scripts use more of it")]
mod load;
mod options;
mod page;
#[allow(dead_code, reason = "benches/encrypted uses the rest")]
mod peers;
mod plot;
mod run;
mod sheet;
mod sys;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use options::one_of;
use peers::{ECHO, Peer};
use sheet::Sheet;

/// What the command line says.
pub struct Options {
    pub rounds: usize,
    pub seconds: f64,
    /// Which parts run; all where it is empty.
    pub only: Vec<String>,
    /// Which peers run, and whether the echo does.
    pub peers: Vec<Peer>,
    pub echo: bool,
    /// Endpoints of the large clusters.
    pub sizes: Vec<usize>,
    /// Our binary, where it is built already.
    pub server: Option<PathBuf>,
    /// The folder of the page; `None` with `--print`.
    page: Option<PathBuf>,
    /// Figures of an earlier run.
    from: Option<PathBuf>,
    /// As it was given, for the page.
    pub line: String,
}

/// What `--only` can name.
const PARTS: [&str; 14] =
    ["W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9", "W10", "latency", "workers", "sizes", "publish"];

impl Options {
    pub fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }

    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            rounds: 9,
            seconds: 0.5,
            only: Vec::new(),
            peers: Peer::ALL.to_vec(),
            echo: true,
            sizes: vec![10_000, 100_000, 1_000_000],
            server: None,
            page: Some("docs".into()),
            from: None,
            line: arguments.join(" "),
        };
        let mut arguments = arguments.iter();
        while let Some(flag) = arguments.next() {
            if flag == "--print" {
                options.page = None;
                continue;
            }
            let value = arguments.next().with_context(|| format!("{flag} wants a value, or is no option"))?;
            let whole = |text: &str| {
                text.parse()
                    .ok()
                    .filter(|number| *number > 0)
                    .with_context(|| format!("{flag} {text}: no number above 0"))
            };
            match flag.as_str() {
                "--rounds" => options.rounds = whole(value)?,
                "--seconds" => {
                    let seconds = value.parse().ok().filter(|seconds| (0.05..=60.0).contains(seconds));
                    options.seconds = seconds.with_context(|| format!("--seconds {value}: from 0.05 to 60"))?;
                }
                "--only" => options.only = one_of(flag, value, &PARTS)?,
                "--servers" => {
                    let names: Vec<&str> = std::iter::once(ECHO).chain(Peer::ALL.map(Peer::name)).collect();
                    let chosen = one_of(flag, value, &names)?;
                    options.echo = chosen.iter().any(|name| name == ECHO);
                    options.peers.retain(|peer| chosen.iter().any(|name| name == peer.name()));
                }
                "--sizes" => options.sizes = value.split(',').map(whole).collect::<Result<_>>()?,
                "--server" => options.server = Some(value.into()),
                "--page" => options.page = Some(value.into()),
                "--from" => options.from = Some(value.into()),
                _ => bail!("{flag} is no option; the options are in docs/speed.md"),
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
    let done = match arguments.split_first().map(|(role, rest)| (role.as_str(), rest)) {
        Some(("load", rest)) => return load::command::command(rest),
        Some(("echo", rest)) => return echo::command(rest),
        Some(("hickory-peer", rest)) => hickory::serve(rest),
        _ => Options::parse(&arguments).and_then(|options| compare(&options)),
    };
    done.map_or_else(
        |error| {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn compare(options: &Options) -> Result<()> {
    let sheet = match &options.from {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            Sheet::read(&text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?
        }
        None => run::run(options)?,
    };
    let Some(folder) = &options.page else {
        print!("{}", page::tables(&sheet));
        return Ok(());
    };
    page::write(&sheet, folder)?;
    println!("wrote {}", folder.join("speed.md").display());
    Ok(())
}
