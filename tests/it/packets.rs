//! Malformed packets, at the engine and at real sockets: mutations of valid queries.
//!
//! No input causes a panic, a response to a response, a response with another ID, a UDP response above 1232 octets, or padding
//! of partial blocks on an encrypted transport; hickory-proto parses every response.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{self, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use crate::common::mutants::{Rng, mutate, seeds};
use crate::common::panics::PanicWatch;
use crate::common::{self, Engine, query, question_name, wire};
use headless_dns::server::{ConnectionLimits, Listeners, Shutdown};
use headless_dns::source::{Publisher, PublisherOptions};
use headless_dns_core::answer::{AccessList, RequestBatch, Responder, Transport};
use headless_dns_core::diagnose::Diagnostics;
use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::ReverseZones;
use headless_dns_core::naming_rules::NamingRules;
use headless_dns_core::object::{
    AddressFamily, Conditions, EndpointPort, EndpointRow, EndpointSlice, Object, ObjectRef, Protocol, ServiceKind,
};
use headless_dns_core::status::Status;
use headless_dns_core::zone::{Settings, Zone};
use hickory_proto::op::Message;
use hickory_proto::rr::rdata::opt::EdnsCode;

fn zone() -> (Arc<Zone>, Diagnostics) {
    let port = EndpointPort { name: "http".into(), protocol: Protocol::Tcp, number: 80 };
    let rows: Vec<EndpointRow> = (0..100u8)
        .map(|number| EndpointRow {
            address: [10, 1, 0, number].into(),
            conditions: Conditions::READY,
            hostname: Some(format!("web-{number}").into()),
            pod: None,
        })
        .collect();
    let slice =
        EndpointSlice::new(ObjectRef::new("default", "s"), Some("web".into()), AddressFamily::V4, vec![port], &rows);
    let alias = ServiceKind::ExternalName("web.default.svc.cluster.local".into());
    let apexes = vec![WireName::parse("cluster.local").unwrap()];
    let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules: NamingRules::default() };
    let zone = Arc::new(Zone::new(settings, ReverseZones::default()));
    let mut publisher = Publisher::new(Arc::clone(&zone), PublisherOptions::default());
    publisher.replace(vec![
        common::service("web", ServiceKind::Headless),
        common::service("alias", alias),
        Object::EndpointSlice(slice),
    ]);
    let asker = publisher.asker();
    (zone, asker)
}

/// Returns a responder that adds explanations.
fn responder() -> Responder {
    let status = Arc::new(Status::default());
    status.set_synced();
    let (zone, asker) = zone();
    Responder::new(zone, status, AccessList::default())
        .with_nsid("headless-dns-0")
        .with_explanations(asker, vec!["127.0.0.0/8".parse().unwrap()])
}

fn check(packet: &[u8], response: &[u8], transport: Transport) {
    let said = || format!("{packet:02x?} got {response:02x?}");
    assert!(packet.len() >= 12 && packet[2] & 0x80 == 0, "a response to what is no query: {}", said());
    assert_eq!(response[..2], packet[..2], "another ID: {}", said());
    assert!(response[2] & 0x80 != 0, "QR is clear: {}", said());
    assert_eq!(response[2] & 0x78, packet[2] & 0x78, "another opcode: {}", said());
    assert!(!transport.is_datagram() || response.len() <= 1232, "too long: {}", said());
    if response[2] & 0x78 == 0 {
        let message =
            Message::from_vec(response).unwrap_or_else(|_| panic!("hickory-proto cannot read it: {}", said()));
        let padded = message.edns.is_some_and(|edns| edns.option(EdnsCode::Padding).is_some());
        assert!(!padded || transport.is_encrypted() && response.len().is_multiple_of(468), "padded: {}", said());
    }
}

#[test]
fn survives_mutated_packets_in_engine() {
    let panics = PanicWatch::start();
    let mut engine = Engine::with(responder());
    let mut rcodes = BTreeSet::new();
    let (seeds, mut numbers) = (seeds(), Rng(0x5eed));
    for _ in 0..common::scaled(10_000_000) {
        let packet = mutate(&seeds, &mut numbers);
        for transport in [Transport::Udp, Transport::Tcp, Transport::Quic] {
            if let Some(response) = engine.ask(transport, &packet) {
                check(&packet, &response, transport);
                rcodes.insert(response[3] & 0x0f);
            }
        }
    }
    panics.assert_none();
    // NOERROR or BADVERS, FORMERR, NXDOMAIN, NOTIMP, REFUSED, NOTAUTH.
    assert_eq!(rcodes, BTreeSet::from([0, 1, 3, 4, 5, 9]), "mutants of every kind");
}

/// A batch changes no response: also behind messages that get none, and in memory that larger batches have used.
#[test]
fn answers_batch_like_single_messages() {
    let mut engines = [Engine::with(responder()), Engine::with(responder())];
    let mut requests = RequestBatch::new(Transport::Udp);
    let [together, alone] = &mut engines;
    let (seeds, mut numbers) = (seeds(), Rng(0xba7c4));
    let mut unanswered_last = 0;
    for _ in 0..common::scaled(100_000) {
        let batch: Vec<_> = (0..numbers.below(65)).map(|_| mutate(&seeds, &mut numbers)).collect();
        let responses = together.ask_together(&mut requests, &batch);
        unanswered_last += u64::from(responses.last().is_some_and(Option::is_none));
        for (packet, response) in batch.iter().zip(responses) {
            assert_eq!(response, alone.ask(Transport::Udp, packet), "{packet:02x?}");
        }
        let single = mutate(&seeds, &mut numbers);
        assert_eq!(together.ask(Transport::Udp, &single), alone.ask(Transport::Udp, &single), "{single:02x?}");
    }
    assert!(unanswered_last > 0);
}

#[test]
fn survives_mutated_packets_at_sockets() {
    let panics = PanicWatch::start();
    let responder = Arc::new(responder());
    let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()], 1).unwrap();
    let address = listeners.addresses()[0];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stop = Shutdown::default();
    let serving =
        runtime.spawn_server(listeners.serve(responder, Arc::default(), ConnectionLimits::default(), stop.clone()));
    let count = common::scaled(1_000_000);
    udp(address, count, &mut Rng(0xdead));
    tcp(address, count, &mut Rng(0xbeef));
    stop.drain();
    runtime.block_on(serving).unwrap().unwrap();
    panics.assert_none();
}

/// RFC 6891 sets no bound on a query: up to 4,096 octets it is answered. A longer datagram has lost its end, and with it
/// the OPT record.
#[test]
fn answers_queries_of_up_to_4096_octets() {
    let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()], 1).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(listeners.addresses()[0]).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stop = Shutdown::default();
    let server = listeners.serve(Arc::new(responder()), Arc::default(), ConnectionLimits::default(), stop.clone());
    let serving = runtime.spawn_server(server);
    let mut buffer = [0; 1232];
    for length in [512, 2_112, 2_113, 4_095, 4_096, 4_161, 8_192] {
        let mut message = query(7, &wire("web-1.web.default.svc.cluster.local"), 1, Some(1232));
        // An option that is unknown, and ignored (RFC 6891 section 6.1.2).
        let option = length - message.len() - 4;
        let at = message.len() - 2;
        message[at..].copy_from_slice(&((option + 4) as u16).to_be_bytes());
        message.extend_from_slice(&[0xff, 0xfe]);
        message.extend_from_slice(&(option as u16).to_be_bytes());
        message.resize(length, 0x5a);
        socket.send(&message).unwrap();
        let received = socket.recv(&mut buffer).unwrap();
        let response = Message::from_vec(&buffer[..received]).unwrap();
        let (rcode, answers) = (u16::from(response.metadata.response_code), response.answers.len());
        assert_eq!((rcode, answers), if length <= 4_096 { (0, 1) } else { (1, 0) }, "{length} octets");
    }
    stop.drain();
    runtime.block_on(serving).unwrap().unwrap();
}

/// The parser of old kept the lookup key of the message before, at this place of the batch, for one that it refused, and
/// used it with the part of the name that it had read: the last question panicked, `range end index 320 out of range`.
#[test]
fn keeps_no_state_between_datagrams() {
    let panics = PanicWatch::start();
    let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()], 1).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(listeners.addresses()[0]).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // The octet 255 where the last question has the length of its second label; a port of a Service with more than 8
    // endpoints, whose endpoint is looked up by the second label; a name that is malformed behind its first label.
    let filling = query(0, &[&[1, b'x', 63][..], &[0xff; 63], &[0]].concat(), 33, None);
    let port = query(1, &question_name("_p._tcp.web.default.svc.cluster.local"), 33, None);
    let malformed = query(2, &[&[63][..], &[b'x'; 63], &[64]].concat(), 33, None);
    // All wait in the socket before it is read: three batches of 64.
    for question in [&filling, &port, &malformed] {
        (0..64).for_each(|_| assert_eq!(socket.send(question).unwrap(), question.len()));
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stop = Shutdown::default();
    let server = listeners.serve(Arc::new(responder()), Arc::default(), ConnectionLimits::default(), stop.clone());
    let serving = runtime.spawn_server(server);
    let mut buffer = [0; 1232];
    for number in 0..192 {
        socket.recv(&mut buffer).unwrap();
        // REFUSED, NXDOMAIN, FORMERR.
        let expected = [(0, 5), (1, 3), (2, 1)][number / 64];
        assert_eq!((buffer[1], buffer[3] & 0x0f), expected, "ID and response code of response {number}");
    }
    stop.drain();
    runtime.block_on(serving).unwrap().unwrap();
    panics.assert_none();
}

trait SpawnServer {
    fn spawn_server<F: Future<Output: Send> + Send + 'static>(&self, server: F) -> tokio::task::JoinHandle<F::Output>;
}

impl SpawnServer for tokio::runtime::Runtime {
    /// The test is the task's parent: it waits for its end.
    fn spawn_server<F: Future<Output: Send> + Send + 'static>(&self, server: F) -> tokio::task::JoinHandle<F::Output> {
        self.spawn(server)
    }
}

/// Sends mutants, with a valid query after every few: its response shows that the earlier packets were processed.
fn udp(address: SocketAddr, count: u64, numbers: &mut Rng) {
    let seeds = seeds();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut buffer = [0; 65_535];
    let mut sent = 0;
    while sent < count {
        let batch: Vec<Vec<u8>> = (0..32)
            .map(|number: u16| {
                let mut packet = mutate(&seeds, numbers);
                // Its own ID tells which packet a response belongs to.
                packet.iter_mut().zip(number.to_be_bytes()).for_each(|(octet, id)| *octet = id);
                packet
            })
            .collect();
        for packet in &batch {
            socket.send(packet).unwrap();
        }
        sent += batch.len() as u64;
        socket.send(&query(0x7777, &wire("web-1.web.default.svc.cluster.local"), 1, None)).unwrap();
        let mut answered = vec![false; batch.len()];
        loop {
            let length = socket.recv(&mut buffer).expect("the good query is answered");
            let id = u16::from_be_bytes([buffer[0], buffer[1]]);
            if id == 0x7777 {
                assert_eq!(buffer[3] & 0x0f, 0);
                break;
            }
            assert!(!std::mem::replace(&mut answered[usize::from(id)], true), "two responses to one packet");
            check(&batch[usize::from(id)], &buffer[..length], Transport::Udp);
        }
    }
}

/// Sends mutants as framed messages, many to a connection, and reads until the server has had enough of it.
fn tcp(address: SocketAddr, count: u64, numbers: &mut Rng) {
    let seeds = seeds();
    let mut sent = 0;
    while sent < count {
        let batch: Vec<Vec<u8>> =
            (0..64).map(|_| mutate(&seeds, numbers)).filter(|packet| !packet.is_empty()).collect();
        sent += batch.len() as u64;
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut octets = Vec::new();
        for packet in &batch {
            octets.extend_from_slice(&(packet.len() as u16).to_be_bytes());
            octets.extend_from_slice(packet);
        }
        // The server may close before all is written.
        let _ = stream.write_all(&octets).and_then(|()| stream.shutdown(net::Shutdown::Write));
        let mut responses = Vec::new();
        let _ = stream.read_to_end(&mut responses);
        let mut rest = &responses[..];
        let mut asked = batch.iter();
        while rest.len() >= 2 {
            let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
            let Some(response) = rest.get(2..2 + length) else { break };
            let packet = asked.next().expect("no more responses than queries");
            check(packet, response, Transport::Tcp);
            rest = &rest[2 + length..];
        }
    }
}
