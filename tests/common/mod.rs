//! Shared parts of the tests: repetition counts, the engine without sockets, queries, and the scenarios.
//!
//! The files beside this one have the built server, HTTP, TLS, ports, mutated packets and panics.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

#[cfg(not(fuzzing))]
pub mod files;
pub mod http;
pub mod mutants;
#[cfg(not(fuzzing))]
pub mod panics;
pub mod ports;
#[cfg(not(fuzzing))]
pub mod server;
#[cfg(not(fuzzing))]
pub mod tls;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headless_dns::cli::{self, Invocation};
use headless_dns::config::Config;
use headless_dns_core::answer::{AccessList, Peer, Request, RequestBatch, Responder, Transport, Worker};
use headless_dns_core::diagnose::Diagnostics;
use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::reverse_name;
use headless_dns_core::object::{Labels, Object, ObjectRef, Service, ServiceKind};
use headless_dns_core::status::Status;
use headless_dns_core::zone::Zone;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;

/// Repetitions: `full` times `TEST_HEADLESS_DNS_SCALE` percent (default 1; CI says 10, a release 100).
pub fn scaled(full: u64) -> u64 {
    let percent = std::env::var("TEST_HEADLESS_DNS_SCALE")
        .map_or(1, |text| text.parse::<u64>().expect("TEST_HEADLESS_DNS_SCALE is a whole number of percent"));
    (full * percent / 100).max(1)
}

/// Returns the name that a test has in its binary, for a test that runs again in a process of its own.
pub fn test_name(module: &str, test: &str) -> String {
    let (_, module) = module.split_once("::").expect("a module of the binary");
    format!("{module}::{test}")
}

/// A query for `name` in class IN: RD set, an OPT record that offers `edns` octets where it is given.
pub fn query(id: u16, name: &[u8], qtype: u16, edns: Option<u16>) -> Vec<u8> {
    let mut message = vec![0; 12];
    message[..2].copy_from_slice(&id.to_be_bytes());
    message[2] = 1;
    message[5] = 1;
    message.extend_from_slice(name);
    message.extend_from_slice(&qtype.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    if let Some(size) = edns {
        message[11] = 1;
        message.extend_from_slice(&[0, 0, 41]);
        message.extend_from_slice(&size.to_be_bytes());
        message.extend_from_slice(&[0; 6]);
    }
    message
}

/// Code and text of a response's extended error (RFC 8914).
pub fn extended(response: &[u8]) -> Option<(u16, String)> {
    let message = Message::from_vec(response).expect("hickory-proto reads every response");
    let edns = message.edns?;
    let mut options = edns.options().options.iter();
    let (_, option) = options.find(|(code, _)| u16::from(*code) == 15)?;
    let octets: Vec<u8> = option.try_into().unwrap();
    Some((u16::from_be_bytes([octets[0], octets[1]]), String::from_utf8(octets[2..].to_vec()).unwrap()))
}

/// A name in wire form.
pub fn wire(name: &str) -> Vec<u8> {
    if name == "." { vec![0] } else { WireName::parse(name).unwrap().octets().to_vec() }
}

/// A name in wire form as a question has it: in its case, with any octets.
pub fn question_name(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut wire: Vec<u8> = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    wire.push(0);
    wire
}

/// Returns a Service of the namespace `default` with no property but its kind.
pub fn service(name: &str, kind: ServiceKind) -> Object {
    Object::Service(Service {
        key: ObjectRef::new("default", name),
        kind,
        publish_not_ready: false,
        selector: Labels::default(),
        ports: Vec::new(),
        families: Vec::new(),
        family_policy: None,
    })
}

/// The least room that a server gives a datagram and its response, in octets.
const UDP_SLOT: usize = 4096;

/// The engine, asked from 127.0.0.1.
pub struct Engine {
    pub responder: Responder,
    pub worker: Worker,
    now: std::time::Instant,
}

impl Engine {
    pub fn new(zone: Arc<Zone>) -> Self {
        let status = Arc::new(Status::default());
        status.set_synced();
        Self::with(Responder::new(zone, status, AccessList::default()))
    }

    /// Creates an engine that adds extended errors to negative responses, for every client.
    pub fn explaining(zone: Arc<Zone>, asker: Diagnostics) -> Self {
        let mut engine = Self::new(zone);
        let everyone = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        engine.responder = engine.responder.with_explanations(asker, everyone);
        engine
    }

    pub fn with(responder: Responder) -> Self {
        Self { responder, worker: Worker::default(), now: std::time::Instant::now() }
    }

    /// The response to `message`; RRsets begin at their first record if the ID is 65535 and the worker new.
    pub fn ask(&mut self, transport: Transport, message: &[u8]) -> Option<Vec<u8>> {
        let mut requests = RequestBatch::new(transport);
        let zone = self.responder.zone();
        let request = requests.parse_one(zone, message);
        Self::respond(&self.responder, &mut self.worker, &mut self.now, request, transport, message)
    }

    /// The responses to datagrams that came in together; `requests` may have parsed others before.
    pub fn ask_together(&mut self, requests: &mut RequestBatch, messages: &[Vec<u8>]) -> Vec<Option<Vec<u8>>> {
        let Self { responder, worker, now } = self;
        let requests = requests.parse(responder.zone(), messages.iter().map(Vec::as_slice));
        let respond =
            |(request, message): (_, &Vec<u8>)| Self::respond(responder, worker, now, request, Transport::Udp, message);
        requests.iter().zip(messages).map(respond).collect()
    }

    fn respond(
        responder: &Responder,
        worker: &mut Worker,
        now: &mut std::time::Instant,
        request: &Request,
        transport: Transport,
        message: &[u8],
    ) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_535];
        buffer[..message.len()].copy_from_slice(message);
        let peer = Peer { from: "127.0.0.1:40000".parse().unwrap(), to: "127.0.0.1:53".parse().unwrap() };
        let room = if transport.is_datagram() { UDP_SLOT.max(message.len()) } else { 65_535 };
        // Long after the last question.
        *now += std::time::Duration::from_secs(1);
        worker.begin_batch(*now);
        let length = responder.respond(request, peer, worker, &mut buffer[..room]).length()?;
        buffer.truncate(length);
        Some(buffer)
    }
}

pub fn scenarios_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

/// The manifests of all scenarios, by name.
pub fn scenarios() -> Vec<PathBuf> {
    let entries = fs::read_dir(scenarios_folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "yaml")).collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths
}

/// Returns the value of `# NAME: ` in the leading comments of a scenario.
pub fn header<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let comments = text.lines().take_while(|line| line.starts_with('#'));
    comments.filter_map(|line| line.strip_prefix("# ")?.strip_prefix(name)?.strip_prefix(": ")).next()
}

/// A question of a scenario.
pub struct Question {
    name: Vec<u8>,
    qtype: u16,
    edns: Option<u16>,
    pub transport: Transport,
    /// Only the number of answer records is compared.
    pub count: bool,
}

impl Question {
    /// Reads one that is written as for `dig`: `$ dig NAME TYPE`.
    pub fn read(line: &str) -> Self {
        let mut words = line.strip_prefix("$ dig ").expect("a question is `$ dig ...`").split(' ');
        let (mut name, mut qtype, mut edns, mut transport, mut count) = (None, None, Some(1232), Transport::Udp, false);
        while let Some(word) = words.next() {
            match word {
                "-x" => {
                    name = Some(reverse_name(words.next().unwrap().parse().unwrap()).octets().to_vec());
                    qtype = Some(RecordType::PTR);
                }
                "+tcp" => transport = Transport::Tcp,
                "+noedns" => edns = None,
                "+count" => count = true,
                _ if word.starts_with("+bufsize=") => edns = Some(word["+bufsize=".len()..].parse().unwrap()),
                _ if name.is_none() => name = Some(question_name(word)),
                _ => qtype = Some(record_type(word)),
            }
        }
        Self { name: name.unwrap(), qtype: qtype.unwrap_or(RecordType::A).into(), edns, transport, count }
    }

    pub fn query(&self, id: u16) -> Vec<u8> {
        self.query_with(id, self.edns)
    }

    /// Returns the query with another UDP payload size.
    pub fn query_with(&self, id: u16, edns: Option<u16>) -> Vec<u8> {
        query(id, &self.name, self.qtype, edns)
    }

    pub fn qtype(&self) -> u16 {
        self.qtype
    }
}

fn record_type(text: &str) -> RecordType {
    match text.strip_prefix("TYPE") {
        Some(number) => RecordType::from(number.parse::<u16>().unwrap()),
        None => text.parse().unwrap(),
    }
}

/// The configuration of the scenario at `path`, whose text is `text`.
pub fn scenario_config(path: &Path, text: &str) -> Config {
    let path = path.to_str().unwrap();
    let args = ["headless-dns", "records", "--manifests", path].into_iter();
    let args = args.chain(header(text, "options").unwrap_or_default().split_whitespace());
    match cli::read(args.map(Into::into)) {
        Ok(Invocation::Records(config, _)) => config,
        other => panic!("{path}: {other:?}"),
    }
}
