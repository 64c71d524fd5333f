//! The load generator of the benchmark: its queries are answered, and wrong and missing responses are counted.
//!
//! It runs for 100 ms against the echo server, the built server with its example, and misbehaving servers. The figures only
//! have to add up.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::bench::load::{self, Expect, Figures, Load, Over, Pace, Question};
use crate::bench::{cpu, echo};
use crate::common;
use crate::common::ports::ReservedPort;
use crate::common::server::Server;
use headless_dns_core::rtype;

const CLOSED: Pace = Pace::Closed { window: 32 };
const TRANSPORTS: [Over; 4] = [
    Over::Udp { sockets: 3 },
    Over::Tcp { connections: 3, depth: 8 },
    Over::Tcp { connections: 1000, depth: 1 },
    Over::TcpPerQuery { at_once: 4 },
];

fn question(name: &str, qtype: u16, expect: Expect) -> Question {
    Question { message: common::query(0, &common::question_name(name), qtype, Some(1232)), expect }
}

fn run(to: SocketAddr, over: Over, pace: Pace, questions: &[Question], server: &[u32]) -> Figures {
    let load = Load { to, over, pace, time: Duration::from_millis(100), questions, server, cpu: None };
    let figures = load::run(&load).unwrap();
    assert_eq!(figures.sent, figures.answered + figures.lost, "{over:?}: {figures:?}");
    assert_eq!(figures.answered, figures.noerror + figures.nxdomain + figures.other);
    assert_eq!(figures.answered, figures.latency.count());
    assert!(figures.seconds >= 0.1);
    figures
}

fn all_right(figures: &Figures) {
    assert!(figures.answered > 0 && figures.checked > 0);
    assert_eq!((figures.mistakes, &figures.wrong), (0, &Vec::new()));
}

#[test]
fn measures_echo() {
    let echo = echo::Echo::bind(0, 122).unwrap();
    let to = echo.address;
    // It serves until the tests end.
    std::thread::spawn(|| echo.serve());
    let questions = [question("web.example", rtype::A, Expect::Anything)];
    for over in TRANSPORTS {
        let figures = run(to, over, CLOSED, &questions, &[]);
        all_right(&figures);
        assert_eq!(figures.octets, figures.answered * 122, "{over:?}");
        assert!(figures.batches >= 1.0);
        let connections = match over {
            Over::Udp { .. } => 0,
            Over::Tcp { connections, .. } => connections as u64,
            Over::TcpPerQuery { .. } => figures.sent,
        };
        assert_eq!(figures.connections, connections, "{over:?}");

        let figures = run(to, over, Pace::Open { per_second: 1990 }, &questions, &[]);
        all_right(&figures);
        assert_eq!((figures.sent + figures.unsent, figures.behind.count()), (199, figures.sent), "{over:?}");
    }
    // The echo server does not have the record: its responses are wrong.
    let expect = Expect::Records { rcode: 0, answers: 1, truncated: false, qtype: rtype::A, data: Vec::new() };
    let figures = run(to, TRANSPORTS[0], CLOSED, &[question("web.example", rtype::A, expect)], &[]);
    assert_eq!((figures.mistakes, figures.wrong.len()), (figures.checked, 10));
    let sentence = "web.example type 1: the number of answers is 0, expected 1 (rcode 0, 0 answers)";
    assert_eq!(figures.wrong[0], sentence);
}

/// Returns queries for the records of the example, as `headless-dns records --demo` prints them.
fn example() -> Vec<Question> {
    let records = |qtype, data: Vec<Vec<u8>>| Expect::Records {
        rcode: 0,
        answers: data.len() as u16,
        truncated: false,
        qtype,
        data,
    };
    let srv = |name: &str| [&[0, 0, 0, 33, 0x1f, 0x90][..], &common::question_name(name)].concat();
    let web = "web.default.svc.cluster.local";
    let targets = (0..3).map(|ordinal| srv(&format!("web-{ordinal}.{web}"))).collect();
    let addresses = [[10, 244, 18, 150], [10, 244, 105, 167], [10, 244, 172, 170]];
    let addresses = addresses.iter().map(|address| address.to_vec()).collect();
    vec![
        question(web, rtype::A, records(rtype::A, addresses)),
        question(&format!("_http._tcp.{web}"), rtype::SRV, records(rtype::SRV, targets)),
        question(web, rtype::AAAA, Expect::Denied { rcode: 0 }),
        question("www.example.com.svc.cluster.local", rtype::A, Expect::Denied { rcode: 3 }),
        question("www.example.com", rtype::A, Expect::Denied { rcode: 5 }),
    ]
}

#[test]
fn measures_server() {
    let server = Server::with("--demo");
    let process = [server.child.id()];
    let mut rcodes = [0; 3];
    for over in TRANSPORTS {
        let figures = run(server.address, over, CLOSED, &example(), &process);
        all_right(&figures);
        assert!(figures.cpu_ns_per_query > 100.0, "an answer is not for nothing: {figures:?}");
        rcodes = [rcodes[0] + figures.noerror, rcodes[1] + figures.nxdomain, rcodes[2] + figures.other];
    }
    assert!(rcodes.iter().all(|count| *count > 0), "each question was asked: {rcodes:?}");
    assert!(cpu::memory(&process).unwrap().resident > 1 << 20);
    let mut others = example();
    let Expect::Records { data, .. } = &mut others[0].expect else { panic!("the first has records") };
    data[0][3] += 1;
    let figures = run(server.address, TRANSPORTS[0], CLOSED, &others[..1], &process);
    assert_eq!(figures.mistakes, figures.checked);
    let sentence = "web.default.svc.cluster.local type 1: the rdata 0af41296 came, which was not expected";
    assert_eq!(figures.wrong[0], sentence);
}

/// Answers the IDs 0, 4, ... right, then one with SERVFAIL, one not at all, and one under another ID.
fn answer_badly(socket: &UdpSocket) {
    let mut message = [0; 512];
    loop {
        let (length, from) = socket.recv_from(&mut message).unwrap();
        if length == 0 {
            return;
        }
        message[2] |= 0x80;
        match message[1] % 4 {
            0 => {}
            1 => message[3] = 2,
            2 => continue,
            _ => message[0] ^= 0x80,
        }
        socket.send_to(&message[..length], from).unwrap();
    }
}

#[test]
fn counts_wrong_and_lost_responses() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = socket.local_addr().unwrap();
    let questions = [question(
        "web.example",
        rtype::A,
        Expect::Records { rcode: 0, answers: 0, truncated: false, qtype: rtype::A, data: Vec::new() },
    )];
    let figures = std::thread::scope(|scope| {
        scope.spawn(|| answer_badly(&socket));
        let load = Load {
            to,
            over: Over::Udp { sockets: 1 },
            pace: Pace::Open { per_second: 400 },
            time: Duration::from_millis(100),
            questions: &questions,
            server: &[],
            cpu: None,
        };
        let figures = load::run(&load);
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[], to).unwrap();
        figures.unwrap()
    });
    assert_eq!((figures.sent, figures.answered, figures.lost), (40, 20, 20), "{figures:?}");
    assert_eq!((figures.noerror, figures.other, figures.mistakes), (10, 10, 20));
    let rcode = "web.example type 1: the rcode is 2, expected 0 (rcode 2, 0 answers)";
    assert_eq!(figures.wrong[..2], [rcode, "an answer with ID 32771 came, for which no query waits"]);
}

#[test]
fn counts_queries_of_closed_connections_as_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (to, stop) = (listener.local_addr().unwrap(), AtomicBool::new(false));
    let questions = [question("web.example", rtype::A, Expect::Anything)];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                drop(listener.accept());
            }
        });
        for over in [Over::TcpPerQuery { at_once: 2 }, Over::Tcp { connections: 2, depth: 2 }] {
            let figures = run(to, over, CLOSED, &questions, &[]);
            assert!(figures.answered == 0 && figures.lost > 2, "{over:?} {figures:?}");
        }
        stop.store(true, Ordering::Relaxed);
        TcpStream::connect(to).unwrap();
    });
}

#[test]
fn names_unreachable_server() {
    let questions = [question("web.example", rtype::A, Expect::Anything)];
    let reserved = ReservedPort::new();
    let closed = reserved.address();
    let error = |over, questions: &[Question], server: &[u32]| {
        let time = Duration::from_millis(100);
        load::run(&Load { to: closed, over, pace: CLOSED, time, questions, server, cpu: None }).unwrap_err().to_string()
    };
    assert_eq!(error(TRANSPORTS[0], &questions, &[]), format!("nobody listens at {closed} over UDP (any more)"));
    for over in &TRANSPORTS[1..] {
        assert_eq!(error(*over, &questions, &[]), format!("nobody listens at {closed} over TCP (any more)"));
    }
    assert_eq!(error(TRANSPORTS[0], &[], &[]), "there is no question to ask");
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let ended = format!("process {}, which was to be measured: ", child.id());
    assert!(error(TRANSPORTS[0], &questions, &[child.id()]).starts_with(&ended));
}

#[test]
fn counts_cpu_time_of_ended_threads() {
    let us = [std::process::id()];
    let before = cpu::nanoseconds(&us).unwrap();
    let spent = std::thread::spawn(|| {
        let begun = Instant::now();
        let mut spent = 0;
        // Its own account is written at the scheduler's ticks.
        while spent < 1_000_000 && begun.elapsed() < Duration::from_secs(20) {
            let account = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            spent = account.split_whitespace().next().unwrap().parse::<u64>().unwrap();
        }
        spent
    });
    let spent = spent.join().unwrap();
    assert!(spent >= 1_000_000);
    assert!(cpu::nanoseconds(&us).unwrap() - before >= spent);
    let memory = cpu::memory(&us).unwrap();
    assert!(memory.resident > 0 && memory.most >= memory.resident);
}
