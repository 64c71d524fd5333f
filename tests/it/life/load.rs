//! Continuous queries and their outcome: answered, refused by the kernel because the port is closed, or lost.
//!
//! A generator has fewer queries in flight than the server's sockets hold, so that a lost query is the server's loss, and sends
//! at most [`RATE`] per second. A late answer is not lost: at the end the generator waits for [`WAIT_TIMEOUT`].

use crate::common;
use std::collections::{BTreeSet, HashMap};
use std::io::{ErrorKind, Read as _, Write as _};
use std::mem::size_of;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Questions over UDP per second, at the most.
pub const RATE: u64 = 20_000;
/// Maximum number of UDP queries in flight: fewer than the default buffer of a socket holds.
const OUT: usize = 200;
/// Time limit for an answer.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Number of UDP sockets, and of TCP connections.
const CLIENTS: usize = 4;

/// Outcome of the queries.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub asked: u64,
    pub answered: u64,
    /// The kernel reported a closed port.
    pub refused: u64,
    pub lost: u64,
    /// Over TCP: connections that the server closed in good order while nothing was asked.
    pub closed: u64,
    /// Over TCP: the same, and the question was on its way; it was asked again over a new connection.
    pub cut: u64,
    /// Over TCP: reset, or silent.
    pub broken: u64,
    /// Wrong response code, or no address.
    pub wrong: u64,
    /// The longest that an answer took.
    pub longest: Duration,
    /// The addresses in the answers.
    pub addresses: BTreeSet<[u8; 4]>,
    /// Datagrams that the generator's own sockets dropped.
    pub own_drops: u32,
    /// From the first question to the last answer, of all clients one after the other.
    pub lasted: Duration,
}

impl Report {
    pub fn per_second(&self) -> u64 {
        (self.answered as f64 / self.lasted.as_secs_f64().max(0.001)) as u64
    }

    /// The sum of both.
    pub fn and(mut self, other: &Self) -> Self {
        self.asked += other.asked;
        self.answered += other.answered;
        self.refused += other.refused;
        self.lost += other.lost;
        self.closed += other.closed;
        self.cut += other.cut;
        self.broken += other.broken;
        self.wrong += other.wrong;
        self.own_drops += other.own_drops;
        self.longest = self.longest.max(other.longest);
        self.lasted += other.lasted;
        self.addresses.extend(&other.addresses);
        self
    }
}

/// Counters of a load while it runs.
#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    refused: AtomicU64,
}

/// A load that goes on until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<Report>>,
}

impl Load {
    /// Starts a load over UDP. A socket ends when the kernel reports a closed port.
    pub fn udp(to: SocketAddr, name: &str) -> Self {
        Self::start(1, |_, stop, counts| {
            let name = common::wire(name);
            move || Udp::new(to, &name, counts).run(&stop)
        })
    }

    /// Starts a load over TCP: persistent connections, each with one query at a time. A client ends when the port is closed.
    pub fn tcp(to: SocketAddr, name: &str) -> Self {
        Self::start(CLIENTS, |number, stop, counts| {
            let name = common::wire(name);
            move || Tcp { to, name, counts, report: Report::default() }.run(number, &stop)
        })
    }

    fn start<R: FnOnce() -> Report + Send + 'static>(
        threads: usize,
        run: impl Fn(usize, Arc<AtomicBool>, Arc<Counts>) -> R,
    ) -> Self {
        let (stop, counts) = (Arc::<AtomicBool>::default(), Arc::<Counts>::default());
        let threads = (0..threads).map(|number| thread::spawn(run(number, Arc::clone(&stop), Arc::clone(&counts))));
        let threads = threads.collect();
        Self { stop, counts, threads }
    }

    /// Waits for so many more answers.
    pub fn wait_for(&self, answers: u64) {
        let answered = || self.counts.answered.load(Ordering::Relaxed);
        let wanted = answered() + answers;
        super::until("answers come", || answered() >= wanted);
    }

    /// Waits until the kernel has refused a question.
    pub fn wait_for_refusal(&self) {
        super::until("a question is refused", || self.counts.refused.load(Ordering::Relaxed) > 0);
    }

    /// Sends no more queries, waits for those in flight, and returns the report.
    pub fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let reports = self.threads.into_iter().map(|thread| thread.join().unwrap());
        reports.fold(Report::default(), |sum, report| sum.and(&report))
    }
}

struct Client {
    socket: UdpSocket,
    next: u16,
    out: HashMap<u16, Instant>,
    /// The port is closed.
    refused: bool,
}

struct Udp {
    clients: Vec<Client>,
    query: Vec<u8>,
    counts: Arc<Counts>,
    report: Report,
}

impl Udp {
    fn new(to: SocketAddr, name: &[u8], counts: Arc<Counts>) -> Self {
        let client = |_| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(to).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
            queue_errors(&socket);
            Client { socket, next: 0, out: HashMap::new(), refused: false }
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self { clients, query: common::query(0, name, 1, Some(1232)), counts, report: Report::default() }
    }

    fn run(mut self, stop: &AtomicBool) -> Report {
        let begun = Instant::now();
        let mut due = begun;
        while !stop.load(Ordering::Relaxed) {
            let moved = self.receive();
            let now = Instant::now();
            if moved {
                self.report.lasted = now - begun;
            }
            // After a pause, not all that was not asked meanwhile at once.
            due = due.max(now - Duration::from_millis(10));
            let mut sent = false;
            while due <= now && self.out() < OUT && self.send() {
                due += Duration::from_nanos(1_000_000_000 / RATE);
                sent = true;
            }
            if !moved && !sent {
                thread::sleep(Duration::from_micros(100));
            }
        }
        let end = Instant::now() + WAIT_TIMEOUT;
        while self.out() > 0 && Instant::now() < end {
            if !self.receive() {
                thread::sleep(Duration::from_millis(1));
            }
        }
        self.report.lost = self.out() as u64;
        self.report.own_drops = self.clients.iter().map(|client| drops(&client.socket)).sum();
        self.report
    }

    fn out(&self) -> usize {
        self.clients.iter().map(|client| client.out.len()).sum()
    }

    /// Each client in its turn. False where none asks any more.
    fn send(&mut self) -> bool {
        let turn = self.report.asked as usize;
        let count = self.clients.len();
        let Some(index) = (0..count).map(|at| (turn + at) % count).find(|at| !self.clients[*at].refused) else {
            return false;
        };
        let client = &mut self.clients[index];
        while client.out.contains_key(&client.next) {
            client.next = client.next.wrapping_add(1);
        }
        self.query[..2].copy_from_slice(&client.next.to_be_bytes());
        match client.socket.send(&self.query) {
            Ok(_) => {
                client.out.insert(client.next, Instant::now());
                client.next = client.next.wrapping_add(1);
                self.report.asked += 1;
                true
            }
            // An error of an earlier question: this one was not sent.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("cannot ask: {error}"),
        }
    }

    fn receive(&mut self) -> bool {
        let mut moved = false;
        let mut buffer = [0; 2048];
        for client in &mut self.clients {
            loop {
                match client.socket.recv(&mut buffer) {
                    Ok(length) => {
                        let id = u16::from_be_bytes([buffer[0], buffer[1]]);
                        let sent = client.out.remove(&id).expect("each answer is to a question, and comes once");
                        self.report.longest = self.report.longest.max(sent.elapsed());
                        self.report.answered += 1;
                        self.counts.answered.fetch_add(1, Ordering::Relaxed);
                        look(&mut self.report, &buffer[..length]);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}"),
                }
                moved = true;
            }
            while let Some(id) = refused(&client.socket) {
                assert!(client.out.remove(&id).is_some(), "what is refused was asked");
                client.refused = true;
                self.report.refused += 1;
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
                moved = true;
            }
        }
        moved
    }
}

/// Checks an answer and adds its first address to the report.
fn look(report: &mut Report, answer: &[u8]) {
    let good = answer.len() > 12 && answer[2] & 0x80 != 0 && answer[3] & 0x0f == 0 && answer[7] > 0;
    report.wrong += u64::from(!good);
    if good {
        // The first record: behind the question, a pointer, type, class, TTL and length.
        let name = answer[12..].iter().position(|octet| *octet == 0).unwrap();
        let data = 12 + name + 5 + 12;
        report.addresses.insert(answer[data..data + 4].try_into().unwrap());
    }
}

struct Tcp {
    to: SocketAddr,
    name: Vec<u8>,
    counts: Arc<Counts>,
    report: Report,
}

impl Tcp {
    fn run(mut self, number: usize, stop: &AtomicBool) -> Report {
        let begun = Instant::now();
        let mut stream: Option<TcpStream> = None;
        let mut id = number as u16;
        let mut waits = false;
        while waits || !stop.load(Ordering::Relaxed) {
            let open = stream.take().filter(|stream| {
                let closed = is_closed(stream);
                self.report.closed += u64::from(closed);
                !closed
            });
            let connected = match open {
                Some(stream) => stream,
                None => match TcpStream::connect(self.to) {
                    Ok(stream) => {
                        stream.set_nodelay(true).unwrap();
                        stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
                        stream
                    }
                    Err(_) => {
                        self.report.refused += 1;
                        break;
                    }
                },
            };
            if !waits {
                id = id.wrapping_add(1);
                self.report.asked += 1;
            }
            let asked = Instant::now();
            match self.ask(&connected, id) {
                Ok(answer) => {
                    waits = false;
                    self.report.longest = self.report.longest.max(asked.elapsed());
                    self.report.answered += 1;
                    self.counts.answered.fetch_add(1, Ordering::Relaxed);
                    look(&mut self.report, &answer);
                    stream = Some(connected);
                    thread::sleep(Duration::from_millis(2));
                }
                // RFC 7766 section 6.2.4: a server may close at any time, and the client asks again.
                Err(ErrorKind::UnexpectedEof) => {
                    waits = true;
                    self.report.cut += 1;
                }
                Err(_) => {
                    waits = true;
                    self.report.broken += 1;
                }
            }
        }
        self.report.lasted = begun.elapsed();
        self.report
    }

    fn ask(&self, mut stream: &TcpStream, id: u16) -> Result<Vec<u8>, ErrorKind> {
        let query = common::query(id, &self.name, 1, None);
        let framed = [&(query.len() as u16).to_be_bytes()[..], &query].concat();
        let mut length = [0; 2];
        let answer = stream.write_all(&framed).and_then(|()| stream.read_exact(&mut length)).and_then(|()| {
            let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut answer).map(|()| answer)
        });
        let answer = answer.map_err(|error| error.kind())?;
        assert_eq!(answer[..2], id.to_be_bytes(), "the answer is to the question");
        Ok(answer)
    }
}

/// Returns whether the server has closed the connection.
fn is_closed(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let peeked = stream.peek(&mut [0; 1]);
    stream.set_nonblocking(false).unwrap();
    matches!(peeked, Ok(0))
}

// Socket options and flags that the standard library does not have.

fn queue_errors(socket: &UdpSocket) {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and length are those of `on`, which outlives the call.
    let result = unsafe {
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_RECVERR, (&raw const on).cast(), length)
    };
    assert_eq!(result, 0);
}

/// The ID of a question that the kernel could not deliver (ip(7), IP_RECVERR): the datagram comes back.
fn refused(socket: &UdpSocket) -> Option<u16> {
    let mut buffer = [0u8; 512];
    // SAFETY: the pointer and length are those of `buffer`, which outlives the call.
    let received = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
        )
    };
    (received >= 2).then(|| u16::from_be_bytes([buffer[0], buffer[1]]))
}

fn drops(socket: &UdpSocket) -> u32 {
    let mut figures = [0u32; libc::SK_MEMINFO_DROPS as usize + 1];
    let mut length = size_of_val(&figures) as libc::socklen_t;
    // SAFETY: the pointer and length are those of `figures`, which outlives the call.
    let result = unsafe {
        let pointer = (&raw mut figures).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, pointer, &raw mut length)
    };
    assert_eq!(result, 0);
    figures[libc::SK_MEMINFO_DROPS as usize]
}
