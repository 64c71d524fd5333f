//! Standard error is a full pipe without a reader: the server still answers, stays alive, and ends in time. Every panic is
//! counted, whether caught or not.

use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter, Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::panic::catch_unwind;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{http, query, test_name, wire};
use headless_dns::cli::{self, Invocation};
use headless_dns::server::{ConnectionLimits, Listeners, Shutdown};
use headless_dns::{log, panics};
use headless_dns_core::answer::{AccessList, Responder};
use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::ReverseZones;
use headless_dns_core::naming_rules::NamingRules;
use headless_dns_core::rtype;
use headless_dns_core::zone::{Settings, Zone};

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// A pipe that holds all that it can.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    socket2::SockRef::from(&writer).set_nonblocking(true).unwrap();
    for size in [4096, 1] {
        while writer.write(&vec![b'\n'; size]).is_ok() {}
    }
    socket2::SockRef::from(&writer).set_nonblocking(false).unwrap();
    (reader, writer)
}

/// Kills the child at the end of a test that fails.
struct ChildGuard(Child);

impl Drop for ChildGuard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl ChildGuard {
    /// Waits for the child's end, which is orderly and in time.
    fn end(mut self) {
        let begun = Instant::now();
        loop {
            match self.0.try_wait().unwrap() {
                Some(status) => return assert!(status.success(), "{status}"),
                None => assert!(begun.elapsed() < WAIT_TIMEOUT, "it ends in time"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn spawn(command: &mut Command) -> ChildGuard {
    ChildGuard(command.stdout(Stdio::piped()).spawn().unwrap())
}

fn ask(server: SocketAddr, count: u16) {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server).unwrap();
    client.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    let mut response = [0; 1232];
    for id in 0..count {
        client.send(&query(id, &wire("cluster.local"), rtype::SOA, None)).unwrap();
        client.recv(&mut response).expect("answered in time");
        assert_eq!(response[..2], id.to_be_bytes());
    }
}

/// The real server: its first log line already finds the pipe full.
#[test]
fn unread_standard_error_blocks_nothing() {
    let (mut reader, writer) = full_pipe();
    let mut command = Command::new(env!("CARGO_BIN_EXE_headless-dns"));
    command.env_clear().args(["serve", "--demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let mut child = spawn(command.args(["--lame-duck", "0"]).stderr(writer));
    // With it, this process's end of the pipe is closed.
    drop(command);
    let banner = BufReader::new(child.0.stdout.take().unwrap());
    let (mut plain, mut admin) = (None, None);
    for line in banner.lines().map_while(Result::ok) {
        let address = |begin: &str| Some(line.strip_prefix(begin)?.split([' ', ',']).next()?.to_owned());
        plain = plain.or_else(|| address("listen  "));
        admin = admin.or_else(|| address("admin   "));
        if plain.is_some() && admin.is_some() {
            break;
        }
    }
    let plain: SocketAddr = plain.expect("it says what it serves").parse().unwrap();
    let admin: SocketAddr = admin.unwrap().trim_start_matches("http://").parse().unwrap();
    ask(plain, 100);
    assert!(http::get(admin, "/livez").unwrap().ends_with("\r\n\r\nok\n"));
    ask(plain, 100);
    let killed = Command::new("kill").arg(child.0.id().to_string()).status().unwrap();
    assert!(killed.success());
    child.end();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text.trim_matches('\n'), "", "no line had room");
}

/// Variable that makes a test its own child process, with the pipe as standard error.
const CHILD: &str = "TEST_HEADLESS_DNS_CHILD";
/// Number of panics and of lines of each of the child's threads.
const TIMES: u64 = 2_000;

/// Panics and log lines at a high rate, in a process of their own: the hook and the log are the process's.
#[test]
fn endless_panics_and_log_lines_block_no_thread() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let (reader, writer) = std::io::pipe().unwrap();
    let name = "endless_panics_and_log_lines_block_no_thread";
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", &test_name(module_path!(), name), "--nocapture"])
        .env(CHILD, "1")
        .env_remove("RUST_BACKTRACE");
    let mut child = spawn(command.stdin(Stdio::piped()).stderr(writer));
    drop(command);
    let mut output = BufReader::new(child.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut value = |begin: &str| {
        let found = output.find_map(|line| Some(line.split_once(begin)?.1.to_owned()));
        found.unwrap_or_else(|| panic!("the child prints {begin}"))
    };
    let server: SocketAddr = value("serving at ").parse().unwrap();
    ask(server, 1_000);
    drop(child.0.stdin.take());
    // In two threads, one more thread and a task.
    assert_eq!(value("panics: ").parse::<u64>().unwrap(), 2 * TIMES + 2);
    assert!(value("lost: ").parse::<u64>().unwrap() > 0);
    // Queued lines are written once the pipe is read, and the number of lost lines.
    let reading = std::thread::spawn(move || BufReader::new(reader).lines().map_while(Result::ok).collect::<Vec<_>>());
    child.end();
    let lines = reading.join().unwrap();
    let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert!(count("a line of the test") > 100, "lines wait: {}", lines.len());
    assert!((1..=2).contains(&count("panic: on purpose")), "one line in 10 s for each place: {lines:?}");
}

/// Prints where it answers once lines are lost, and its counts once its standard input ends.
#[allow(clippy::disallowed_methods, reason = "its end is waited for")]
fn child() {
    let Ok(Invocation::Serve(config)) = cli::read(["headless-dns", "serve", "--demo"].map(Into::into)) else {
        panic!("it is a command line")
    };
    let _filter = log::start(&config.log).unwrap();
    panics::start_counting();
    let apexes = vec![WireName::parse("cluster.local").unwrap()];
    let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules: NamingRules::default() };
    let zone = Arc::new(Zone::new(settings, ReverseZones::default()));
    let responder = Arc::new(Responder::new(zone, Arc::default(), AccessList::default()));
    let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()], 1).unwrap();
    let (address, stop) = (listeners.addresses()[0], Shutdown::default());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let serving = runtime.spawn(listeners.serve(responder, Arc::default(), ConnectionLimits::default(), stop.clone()));

    let threads = [0, 1].map(|_| {
        std::thread::spawn(|| {
            for _ in 0..TIMES {
                assert!(catch_unwind(|| panic!("on purpose")).is_err());
                tracing::error!("a line of the test {}", "x".repeat(100));
            }
        })
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(std::thread::spawn(|| panic!("on purpose, in a thread")).join().is_err());
    assert!(runtime.block_on(runtime.spawn(async { panic!("on purpose, in a task") })).is_err());
    println!("serving at {address}");

    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    println!("panics: {}", panics::count());
    println!("lost: {}", log::lines_lost());
    stop.drain();
    runtime.block_on(serving).unwrap().unwrap();
    log::flush();
}
