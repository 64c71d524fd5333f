//! The generator: asks one server questions, over UDP or TCP, as fast as it answers or so many per second, and says
//! what came, how soon, how right, and at what CPU time of the server.
//!
//! One thread, which should have a CPU for itself: it has to cost less than any server. Nothing is allocated per
//! query, and a sample of the answers is checked: the first 100 and every 64th. Not here: which questions, and which
//! servers. Read next: [`run`], `udp.rs`; `flight.rs` (which query an answer belongs to), `check.rs`.

pub(crate) mod check;
pub(crate) mod command;
mod flight;
mod histogram;
mod tcp;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub(crate) use histogram::Histogram;

use super::{cpu, sys};
use flight::{Flight, Taken};

/// A query, and what a right answer to it has.
pub(crate) struct Question {
    /// The whole message; the generator writes the ID.
    pub(crate) message: Vec<u8>,
    pub(crate) expect: Expect,
}

/// What a right answer has, besides the ID, QR and the question, which all must have.
pub(crate) enum Expect {
    Records {
        rcode: u8,
        /// Records in the answer section; not compared if `truncated`, when that is the server's choice.
        answers: u16,
        truncated: bool,
        /// Of which type the records are that `data` is of.
        qtype: u16,
        /// The rdata of all records of that type in the answer section, sorted, names uncompressed and in lower case.
        /// If `truncated`, each that came must be one of these. Empty: not compared.
        data: Vec<Vec<u8>>,
    },
    /// No answer and no TC; with rcode 0 or 3 (NODATA, NXDOMAIN) something in the authority section.
    Denied {
        rcode: u8,
    },
    Anything,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Udp {
        sockets: usize,
    },
    /// Kept open; each has up to `depth` queries in flight.
    Tcp {
        connections: usize,
        depth: usize,
    },
    /// Connect, ask, read, close (by RST, so that no port waits); so many at once.
    TcpPerQuery {
        at_once: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// So many queries in flight, over all sockets; each socket has the same share, one at least.
    Closed { window: usize },
    /// Each query has a time at which it is due, however late the answers are. It does not sleep.
    Open { per_second: u64 },
}

pub(crate) struct Load<'a> {
    pub(crate) to: SocketAddr,
    pub(crate) over: Over,
    pub(crate) pace: Pace,
    /// How long to ask; what is in flight then is waited for.
    pub(crate) time: Duration,
    /// Asked in turn; each socket begins at another.
    pub(crate) questions: &'a [Question],
    /// The processes whose CPU time is counted.
    pub(crate) server: &'a [u32],
    /// The CPU of the generator's thread: the one that calls.
    pub(crate) cpu: Option<usize>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    /// Not answered within [`UDP_PATIENCE`] or [`TCP_PATIENCE`] of being due, or their connection ended.
    pub(crate) lost: u64,
    /// Answers to queries that were counted as lost.
    pub(crate) late: u64,
    /// Due in an open loop, and never sent: the generator, or the server's TCP, was more than a second behind.
    pub(crate) unsent: u64,
    /// From the first query to the end of `time`, or to the last answer if that was later.
    pub(crate) seconds: f64,
    /// CPU time of all threads of the server, for each answer.
    pub(crate) cpu_ns_per_query: f64,
    /// From the time a query was due (in a closed loop: sent).
    pub(crate) latency: Histogram,
    /// Open loop: how long after it was due a query was handed to the kernel.
    pub(crate) behind: Histogram,
    /// Of all answers, without the length prefix of TCP.
    pub(crate) octets: u64,
    /// In the answer sections.
    pub(crate) records: u64,
    pub(crate) noerror: u64,
    pub(crate) nxdomain: u64,
    pub(crate) other: u64,
    pub(crate) truncated: u64,
    pub(crate) checked: u64,
    /// Answers that were wrong, among those checked, and those that nobody asked for.
    pub(crate) mistakes: u64,
    /// The first ten of them: what was asked, what came, what was expected.
    pub(crate) wrong: Vec<String>,
    /// Mean of answers per receive.
    pub(crate) batches: f64,
    /// TCP connections that were opened.
    pub(crate) connections: u64,
}

impl Figures {
    /// Takes in those of another run: they are then those of both.
    pub(crate) fn add(&mut self, other: Self) {
        let sum = |ours: f64, theirs: f64| self.answered as f64 * ours + other.answered as f64 * theirs;
        let answered = self.answered + other.answered;
        let each = |sum: f64| if answered == 0 { 0.0 } else { sum / answered as f64 };
        self.cpu_ns_per_query = each(sum(self.cpu_ns_per_query, other.cpu_ns_per_query));
        self.batches = each(sum(self.batches, other.batches));
        self.answered = answered;
        self.seconds += other.seconds;
        self.latency.add(&other.latency);
        self.behind.add(&other.behind);
        for (ours, theirs) in [
            (&mut self.sent, other.sent),
            (&mut self.lost, other.lost),
            (&mut self.late, other.late),
            (&mut self.unsent, other.unsent),
            (&mut self.octets, other.octets),
            (&mut self.records, other.records),
            (&mut self.noerror, other.noerror),
            (&mut self.nxdomain, other.nxdomain),
            (&mut self.other, other.other),
            (&mut self.truncated, other.truncated),
            (&mut self.checked, other.checked),
            (&mut self.mistakes, other.mistakes),
            (&mut self.connections, other.connections),
        ] {
            *ours += theirs;
        }
        self.wrong.extend(other.wrong);
        self.wrong.truncate(WRONG);
    }
}

/// After how long a query over UDP is lost, in nanoseconds.
const UDP_PATIENCE: u64 = 1_000_000_000;
/// And over TCP: a server that is slow has not lost it.
const TCP_PATIENCE: u64 = 5_000_000_000;
/// How often what is lost is looked for.
const LOOK: u64 = 10_000_000;
const ALL_CHECKED: u64 = 100;
const CHECKED_EACH: u64 = 64;
/// So many mistakes are told in words.
const WRONG: usize = 10;

/// Asks, and returns when all is answered or lost. Fails where nothing can be asked: nobody listens, a process of
/// `server` has ended.
pub(crate) fn run(load: &Load<'_>) -> io::Result<Figures> {
    let bad = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what.to_owned()));
    if load.questions.is_empty() {
        return bad("there is no question to ask");
    }
    if load.questions.iter().any(|question| !(12..=sys::QUERY).contains(&question.message.len())) {
        return bad("a query is shorter than a header, or longer than 320 octets");
    }
    let _pinned = load.cpu.map(sys::Pinned::to).transpose()?;
    let cpu_before = cpu::nanoseconds(load.server)?;
    let mut tally = Tally::new(load);
    match load.over {
        Over::Udp { sockets } => udp::run(load, sockets.max(1), &mut tally)?,
        Over::Tcp { connections, depth } => {
            tcp::run(load, tcp::Kept::Open { depth: depth.max(1) }, connections.max(1), &mut tally)?;
        }
        Over::TcpPerQuery { at_once } => tcp::run(load, tcp::Kept::ForOneQuery, at_once.max(1), &mut tally)?,
    }
    let cpu_spent = cpu::nanoseconds(load.server)? - cpu_before;
    Ok(tally.finish(cpu_spent))
}

/// The clock of a run, its questions, and what came of them so far.
struct Tally<'a> {
    begun: Instant,
    time: u64,
    questions: &'a [Question],
    figures: Figures,
    last_answer: u64,
    receives: u64,
}

impl<'a> Tally<'a> {
    fn new(load: &Load<'a>) -> Self {
        Self {
            begun: Instant::now(),
            time: load.time.as_nanos() as u64,
            questions: load.questions,
            figures: Figures::default(),
            last_answer: 0,
            receives: 0,
        }
    }

    /// The clock begins when the sockets are there.
    fn begin(&mut self) {
        self.begun = Instant::now();
    }

    /// Nanoseconds of the run.
    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    /// The question that query `number` of the socket asks that began at question `first`.
    fn question(&self, first: usize, number: u64) -> &'a Question {
        &self.questions[((first as u64 + number) % self.questions.len() as u64) as usize]
    }

    /// One answer, to a query in `flight`, whose socket began at question `first`. Whether it was waited for.
    fn answer(&mut self, flight: &mut Flight, first: usize, message: &[u8], now: u64) -> bool {
        let Some(header) = message.first_chunk::<12>() else {
            self.mistake(format!("a message of {} octets came, which is less than a header", message.len()));
            return false;
        };
        let id = u16::from_be_bytes([header[0], header[1]]);
        let (due, number) = match flight.take(id) {
            Taken::Waiting { due, number } => (due, number),
            Taken::Late => {
                self.figures.late += 1;
                return false;
            }
            Taken::Unknown => {
                self.mistake(format!("an answer with ID {id} came, for which no query waits"));
                return false;
            }
        };
        let figures = &mut self.figures;
        figures.answered += 1;
        figures.latency.record(now.saturating_sub(due));
        figures.octets += message.len() as u64;
        figures.records += u64::from(u16::from_be_bytes([header[6], header[7]]));
        figures.truncated += u64::from(header[2] >> 1 & 1);
        match header[3] & 0x0f {
            0 => figures.noerror += 1,
            3 => figures.nxdomain += 1,
            _ => figures.other += 1,
        }
        self.last_answer = now;
        if self.figures.answered <= ALL_CHECKED || self.figures.answered.is_multiple_of(CHECKED_EACH) {
            self.check(self.question(first, number), message);
        }
        true
    }

    fn check(&mut self, question: &Question, message: &[u8]) {
        self.figures.checked += 1;
        if let Some(mistake) = check::mistake(question, message) {
            self.mistake(mistake);
        }
    }

    fn mistake(&mut self, sentence: String) {
        self.figures.mistakes += 1;
        if self.figures.wrong.len() < WRONG {
            self.figures.wrong.push(sentence);
        }
    }

    fn finish(mut self, cpu_spent: u64) -> Figures {
        let each = |sum: u64, count: u64| if count == 0 { 0.0 } else { sum as f64 / count as f64 };
        self.figures.seconds = self.time.max(self.last_answer) as f64 / 1e9;
        self.figures.cpu_ns_per_query = each(cpu_spent, self.figures.answered);
        self.figures.batches = each(self.figures.answered, self.receives);
        self.figures
    }
}

/// When the queries of an open loop are due.
struct Schedule {
    per_second: u64,
    next: u64,
}

impl Schedule {
    fn new(per_second: u64) -> Self {
        Self { per_second: per_second.max(1), next: 0 }
    }

    /// When query `ahead` after the next one is due, in nanoseconds of the run.
    fn due(&self, ahead: usize) -> u64 {
        (u128::from(self.next + ahead as u64) * 1_000_000_000 / u128::from(self.per_second)) as u64
    }

    /// How many are due, of `most`, at this time and within the run.
    fn count(&self, now: u64, time: u64, most: usize) -> usize {
        (0..most).take_while(|ahead| self.due(*ahead) <= now && self.due(*ahead) < time).count()
    }

    /// How many that were due within the run were not sent.
    fn left(&self, time: u64) -> u64 {
        let all = (u128::from(time) * u128::from(self.per_second)).div_ceil(1_000_000_000) as u64;
        all.saturating_sub(self.next)
    }
}
