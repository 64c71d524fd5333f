//! Clients that query a running server without a pause: an open loop over real UDP sockets, which keeps every answer.
//!
//! A query is sent at its time, whether or not the previous one was answered. `ledger.rs` judges the answers.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hickory_proto::op::Message;

use super::common;

/// Time limit for a response, as of dig; a later one counts as lost.
const WAIT_TIMEOUT: Duration = Duration::from_secs(5);
/// A response that takes longer is late, as on an overloaded machine.
pub const LATE: Duration = Duration::from_secs(1);
/// Sockets, so that more than one worker of the server is asked.
const SOCKETS: usize = 4;

/// A name and a type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Question {
    /// Without the dot at its end.
    pub name: String,
    pub qtype: u16,
}

/// An answer: its response code, and its RRset as sorted `TYPE rdata`. Rotation and TTLs are left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    pub rcode: u16,
    pub records: Vec<String>,
}

impl Answer {
    /// NOERROR with these records, each once; NXDOMAIN where there is none.
    pub fn of(records: impl IntoIterator<Item = String>) -> Self {
        let mut records: Vec<String> = records.into_iter().collect();
        records.sort();
        records.dedup();
        Self { rcode: if records.is_empty() { 3 } else { 0 }, records }
    }
}

/// One query and its outcome.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Its place among the questions.
    pub question: usize,
    pub sent: Instant,
    /// When the answer came, which answer (see [`Log::answers`]) and its extended error; `None` if it is lost.
    pub got: Option<Got>,
}

#[derive(Clone, Copy, Debug)]
pub struct Got {
    pub at: Instant,
    pub answer: usize,
    /// The EDE code (RFC 8914), where one came.
    pub ede: Option<u16>,
}

/// All that was asked, in the order in which it was settled.
#[derive(Debug, Default)]
pub struct Log {
    pub asked: Vec<Asked>,
    /// The different answers.
    pub answers: Vec<Arc<Answer>>,
    numbers: HashMap<Arc<Answer>, usize>,
    /// Number of datagrams that answer no query.
    pub strays: usize,
}

impl Log {
    fn number(&mut self, answer: Answer) -> usize {
        let (answer, next) = (Arc::new(answer), self.answers.len());
        *self.numbers.entry(answer).or_insert_with_key(|answer| {
            self.answers.push(Arc::clone(answer));
            next
        })
    }
}

/// Clients that ask until they are told to stop.
pub struct Asker {
    log: Arc<Mutex<Log>>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Asker {
    /// Asks `server` each of `questions` in turn, `per_second` in all, until [`Asker::stop`] or for `at_most`.
    pub fn start(server: SocketAddr, questions: &[Question], per_second: u32, at_most: Duration) -> Self {
        let (log, stop) = (Arc::<Mutex<Log>>::default(), Arc::<AtomicBool>::default());
        let begun = Instant::now();
        let client = |number: usize| {
            let socket = UdpSocket::bind((if server.is_ipv4() { "127.0.0.1" } else { "::1" }, 0)).unwrap();
            socket.connect(server).unwrap();
            socket.set_nonblocking(true).unwrap();
            // This thread may have to wait for its turn: what comes meanwhile is not lost.
            socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
            let client = Client {
                socket,
                questions: questions.iter().map(wire).collect(),
                waiting: HashMap::new(),
                next_id: 0,
                log: Arc::clone(&log),
            };
            let schedule = Schedule {
                // Side by side, and not all at once.
                first: begun + Duration::from_secs(1) * number as u32 / per_second,
                gap: Duration::from_secs(1) * SOCKETS as u32 / per_second,
                ends: begun + at_most,
                number,
            };
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || client.run(&schedule, &stop))
        };
        let clients = (0..SOCKETS).map(client).collect();
        Self { log, stop, clients }
    }

    /// Returns the queries so far, without the first `from`. The queries continue meanwhile.
    pub fn since(&self, from: usize) -> Log {
        let log = self.log.lock().unwrap();
        let asked = log.asked.get(from..).unwrap_or_default().to_vec();
        Log { asked, answers: log.answers.clone(), ..Log::default() }
    }

    /// Returns the number of queries so far.
    pub fn count(&self) -> usize {
        self.log.lock().unwrap().asked.len()
    }

    /// Stops, waits for queries in flight, and returns all queries.
    pub fn stop(mut self) -> Log {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().unwrap();
        }
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Schedule {
    first: Instant,
    gap: Duration,
    ends: Instant,
    number: usize,
}

struct Client {
    socket: UdpSocket,
    questions: Vec<(Vec<u8>, u16)>,
    /// By ID.
    waiting: HashMap<u16, (usize, Instant)>,
    next_id: u16,
    log: Arc<Mutex<Log>>,
}

impl Client {
    fn run(mut self, schedule: &Schedule, stop: &AtomicBool) {
        let (mut due, mut turn) = (schedule.first, schedule.number);
        loop {
            let now = Instant::now();
            let over = stop.load(Ordering::Relaxed) || now >= schedule.ends;
            while !over && due <= now {
                self.ask(turn % self.questions.len());
                turn += SOCKETS;
                due += schedule.gap;
            }
            self.take_all();
            self.give_up(now);
            if over && self.waiting.is_empty() {
                return;
            }
            // An answer takes far less: its time is true to a millisecond.
            std::thread::sleep(due.saturating_duration_since(Instant::now()).min(Duration::from_millis(1)));
        }
    }

    fn ask(&mut self, question: usize) {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let (name, qtype) = &self.questions[question];
        let sent = Instant::now();
        // A port that is closed, or a queue that is full: the question is lost, and counted when its time is over.
        let _ = self.socket.send(&common::query(id, name, *qtype, Some(1232)));
        self.waiting.insert(id, (question, sent));
    }

    fn take_all(&mut self) {
        let mut buffer = [0; 2048];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(length) => self.take(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // An ICMP error for an earlier datagram.
                Err(_) => {}
            }
        }
    }

    fn take(&mut self, octets: &[u8]) {
        let at = Instant::now();
        let id = octets.first_chunk().map(|id| u16::from_be_bytes(*id));
        let waiting = id.and_then(|id| self.waiting.remove(&id));
        let mut log = self.log.lock().unwrap();
        let Some((question, sent)) = waiting else { return log.strays += 1 };
        let (name, qtype) = &self.questions[question];
        let (answer, ede) = read(octets, name, *qtype);
        let answer = log.number(answer);
        log.asked.push(Asked { question, sent, got: Some(Got { at, answer, ede }) });
    }

    fn give_up(&mut self, now: Instant) {
        let log = &self.log;
        self.waiting.retain(|_, (question, sent)| {
            let waits = now.saturating_duration_since(*sent) < WAIT_TIMEOUT;
            if !waits {
                log.lock().unwrap().asked.push(Asked { question: *question, sent: *sent, got: None });
            }
            waits
        });
    }
}

fn wire(question: &Question) -> (Vec<u8>, u16) {
    (common::wire(&question.name), question.qtype)
}

/// Parses a message and its extended error. A message that does not answer the question is an answer that is never right.
fn read(octets: &[u8], name: &[u8], qtype: u16) -> (Answer, Option<u16>) {
    let broken = |why: String| (Answer { rcode: u16::MAX, records: vec![why] }, None);
    let message = match Message::from_vec(octets) {
        Ok(message) => message,
        Err(error) => return broken(format!("no DNS message: {error}")),
    };
    if octets.get(12..12 + name.len()) != Some(name) {
        return broken("another question comes back".into());
    }
    let asked = message.queries.first().map(|query| query.name().clone());
    let mut records = Vec::new();
    for record in &message.answers {
        if Some(&record.name) != asked.as_ref() || u16::from(record.record_type()) != qtype {
            return broken(format!("an answer to something else: {record}"));
        }
        records.push(format!("{} {}", record.record_type(), record.data));
    }
    records.sort();
    let options = message.edns.iter().flat_map(|edns| &edns.options().options);
    let ede = options.filter(|(code, _)| u16::from(*code) == 15).find_map(|(_, option)| {
        let octets: Vec<u8> = option.try_into().ok()?;
        octets.first_chunk().map(|code| u16::from_be_bytes(*code))
    });
    (Answer { rcode: message.metadata.response_code.into(), records }, ede)
}
