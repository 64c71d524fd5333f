//! The query log of a real server: the selection of lines, their content, and no delay of queries by a slow reader.

use std::io::{self, Read as _, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headless_dns::metrics::{Event, Metrics};
use headless_dns::server::{
    self, ConnectionLimits, Listeners, LogWriter, QueryLog, QueryLogFilter, QueryLogFormat, Shutdown,
};
use headless_dns_core::answer::{AccessList, Responder};
use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::ReverseZones;
use headless_dns_core::naming_rules::NamingRules;
use headless_dns_core::rtype;
use headless_dns_core::status::Status;
use headless_dns_core::zone::{Settings, Zone};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::common::{query, wire};

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
const ALL: QueryLogFilter = QueryLogFilter { success: true, denial: true, error: true, sample: 1 };

/// The written log.
#[derive(Clone, Default)]
struct LogBuffer(Arc<Mutex<Vec<u8>>>);

impl Write for LogBuffer {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader that takes nothing until it is told to.
struct SlowWriter(Receiver<()>, LogBuffer);

impl Write for SlowWriter {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        // The sender is gone: from then on it reads.
        let _ = self.0.recv();
        self.1.write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Server {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    stop: Shutdown,
    running: JoinHandle<anyhow::Result<()>>,
    writer: LogWriter,
}

impl Server {
    /// Answers for `cluster.local`, with nothing in it.
    #[allow(clippy::disallowed_methods, reason = "`end` awaits it")]
    fn start(choice: QueryLogFilter, format: QueryLogFormat, to: impl Write + Send + 'static) -> Self {
        let apexes = vec![WireName::parse("cluster.local").unwrap()];
        let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules: NamingRules::default() };
        let status = Arc::new(Status::default());
        status.set_synced();
        let zone = Arc::new(Zone::new(settings, ReverseZones::default()));
        let responder = Arc::new(Responder::new(zone, status, AccessList::default()));
        let (log, writer) = QueryLog::start(choice, format, to).unwrap();
        let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()], 1).unwrap();
        let (address, metrics, stop) = (listeners.addresses()[0], Arc::<Metrics>::default(), Shutdown::default());
        let limits = ConnectionLimits::default();
        let mut server =
            server::Server::new(responder, Arc::clone(&metrics), limits, 1, stop.clone()).with_query_log(log);
        server.start(listeners).unwrap();
        let (_, changes) = mpsc::unbounded_channel();
        let running = tokio::spawn(server.run(changes));
        Self { address, metrics, stop, running, writer }
    }

    async fn end(self) -> Arc<Metrics> {
        self.stop.drain();
        self.running.await.unwrap().unwrap();
        tokio::task::spawn_blocking(|| self.writer.finish()).await.unwrap();
        self.metrics
    }

    fn ask_udp(&self, message: &[u8]) {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        client.send_to(message, self.address).unwrap();
        client.recv(&mut [0; 2048]).expect("answered in time");
    }

    fn ask_tcp(&self, message: &[u8]) {
        let mut client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        client.write_all(&(message.len() as u16).to_be_bytes()).unwrap();
        client.write_all(message).unwrap();
        let mut length = [0; 2];
        client.read_exact(&mut length).expect("answered in time");
        client.read_exact(&mut vec![0; usize::from(u16::from_be_bytes(length))]).unwrap();
    }
}

fn soa() -> Vec<u8> {
    query(1, &wire("cluster.local"), rtype::SOA, Some(1232))
}

fn nowhere() -> Vec<u8> {
    query(2, &wire("nowhere.cluster.local"), rtype::A, None)
}

fn outside() -> Vec<u8> {
    query(3, &wire("example.test"), rtype::AAAA, Some(4096))
}

/// Returns the lines in the common log format, without port and duration.
async fn lines_of(choice: QueryLogFilter) -> Vec<String> {
    let page = LogBuffer::default();
    let server = Server::start(choice, QueryLogFormat::Common, page.clone());
    server.ask_udp(&soa());
    server.ask_tcp(&nowhere());
    server.ask_udp(&outside());
    let metrics = server.end().await;
    assert_eq!(metrics.total(Event::QueryLogLost), 0);
    let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
    text.lines().map(|line| line[line.find(" - ").unwrap() + 3..line.rfind(' ').unwrap()].to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn selects_lines_by_response() {
    let lines = [
        "1 \"SOA IN cluster.local. udp 42 false 1232\" NOERROR qr,aa,rd 96",
        "2 \"A IN nowhere.cluster.local. tcp 39 false 512\" NXDOMAIN qr,aa,rd 93",
        "3 \"AAAA IN example.test. udp 41 false 4096\" REFUSED qr,rd 47",
    ];
    let none = QueryLogFilter { success: false, denial: false, error: false, sample: 1 };
    assert_eq!(lines_of(ALL).await, lines);
    assert_eq!(lines_of(QueryLogFilter { success: true, ..none }).await, lines[..1]);
    assert_eq!(lines_of(QueryLogFilter { denial: true, ..none }).await, lines[1..2]);
    assert_eq!(lines_of(QueryLogFilter { error: true, ..none }).await, lines[2..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_one_in_n() {
    let page = LogBuffer::default();
    let server = Server::start(QueryLogFilter { sample: 3, ..ALL }, QueryLogFormat::Json, page.clone());
    // One connection and so one thread's count.
    (0..10).for_each(|_| server.ask_udp(&soa()));
    server.end().await;
    let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 3);
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["name"], "cluster.local.");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drops_lines_if_reader_is_slow() {
    // More than any queue and buffer between holds, so that some are lost.
    const ASKED: usize = 6_000;
    let (go, gate): (Sender<()>, _) = channel();
    let page = LogBuffer::default();
    let server = Server::start(ALL, QueryLogFormat::Common, SlowWriter(gate, page.clone()));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server.address).unwrap();
    client.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    for _ in 0..ASKED {
        client.send(&nowhere()).unwrap();
        client.recv(&mut [0; 2048]).expect("answered, although nobody reads the log");
    }
    drop(go);
    let metrics = server.end().await;
    let written = page.0.lock().unwrap().iter().filter(|octet| **octet == b'\n').count();
    let lost = metrics.total(Event::QueryLogLost) as usize;
    assert_eq!(written + lost, ASKED, "each line is written or counted");
    assert!(lost > 0, "the queue has a bound");
}
