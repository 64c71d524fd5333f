//! Padding (RFC 7830, RFC 8467): responses to padded queries, over all transports.
//!
//! Each query is sent over every transport, with the option and without it. Over an unencrypted transport the option changes
//! nothing; over others it changes only the length of the response.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{Engine, query, question_name, service, wire};
use headless_dns::source::{Publisher, PublisherOptions};
use headless_dns_core::answer::{
    AccessList, ForwardPolicy, ForwardedQuery, Peer, Reply, RequestBatch, Responder, Resumed, Transport,
    UpstreamFailure, UpstreamRecord, UpstreamResponse,
};
use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::ReverseZones;
use headless_dns_core::name::special::SpecialNames;
use headless_dns_core::naming_rules::NamingRules;
use headless_dns_core::object::{
    AddressFamily, Conditions, EndpointRow, EndpointSlice, Object, ObjectRef, ServiceKind,
};
use headless_dns_core::rtype;
use headless_dns_core::status::Status;
use headless_dns_core::wire::{TCP_KEEPALIVE, has_option};
use headless_dns_core::zone::{Settings, Zone};
use hickory_proto::op::Message;

const TRANSPORTS: [Transport; 5] = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Https, Transport::Quic];
const BLOCK: usize = 468;
const MOST: usize = 65_535;
const NSID: &[u8] = &[0, 3, 0, 0];
const COOKIE: &[u8] = &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
const TSIG: &[u8] = b"\x01k\x00\x00\xfa\x00\xff\x00\x00\x00\x00\x00\x1a\x04hmac\x00\
    \x00\x00\x00\x00\x00\x00\x01\x2c\x00\x04\x01\x02\x03\x04\x00\x02\x00\x00\x00\x00";

/// An option of so many zeros.
fn padding(length: u8) -> Vec<u8> {
    let mut option = vec![0, 12, 0, length];
    option.resize(4 + usize::from(length), 0);
    option
}

/// A query with these options in its OPT record.
fn asking(name: &[u8], qtype: u16, options: &[u8]) -> Vec<u8> {
    let mut message = query(7, name, qtype, Some(1232));
    let end = message.len();
    message[end - 2..].copy_from_slice(&(options.len() as u16).to_be_bytes());
    message.extend_from_slice(options);
    message
}

/// Services with so many addresses, by their names.
fn zone(services: &[(String, u16)]) -> (Arc<Zone>, Publisher) {
    let apexes = vec![WireName::parse("cluster.local").unwrap()];
    let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules: NamingRules::default() };
    let zone = Arc::new(Zone::new(settings, ReverseZones::default()));
    let mut objects = vec![service("out", ServiceKind::ExternalName("db.example.test".into()))];
    for (name, addresses) in services {
        let row = |number: u16| {
            let [high, low] = number.to_be_bytes();
            let address = [10, 1, high, low].into();
            EndpointRow { address, conditions: Conditions::READY, hostname: None, pod: None }
        };
        let rows: Vec<EndpointRow> = (0..*addresses).map(row).collect();
        let key = ObjectRef::new("default", name);
        objects.push(service(name, ServiceKind::Headless));
        let slice = EndpointSlice::new(key, Some(name.as_str().into()), AddressFamily::V4, Vec::new(), &rows);
        objects.push(Object::EndpointSlice(slice));
    }
    let mut publisher = Publisher::new(Arc::clone(&zone), PublisherOptions::default());
    publisher.replace(objects);
    (zone, publisher)
}

fn synced() -> Arc<Status> {
    let status = Arc::new(Status::default());
    status.set_synced();
    status
}

/// One server behind every transport, once for queries with padding and once for others, so that rotation is equal in
/// both.
struct Server {
    engines: Vec<(Transport, bool, Engine)>,
    /// The records of an upstream, for any name.
    upstream: Answer,
    now: Instant,
}

impl Server {
    fn new(responder: impl Fn() -> Responder) -> Self {
        let pairs = TRANSPORTS.iter().flat_map(|transport| [(*transport, false), (*transport, true)]);
        let engines = pairs.map(|(transport, padded)| (transport, padded, Engine::with(responder()))).collect();
        Self { engines, upstream: Ok(Vec::new()), now: Instant::now() }
    }

    /// Asks over every transport, and returns how long the response is where nothing is padded, and where it is.
    fn check(&mut self, what: &str, plain: &[u8], padded: &[u8]) -> (usize, usize) {
        // Long enough for another cause to be looked for.
        self.now += Duration::from_secs(1);
        let Self { engines, upstream, now } = self;
        let responses: Vec<_> = engines
            .iter_mut()
            .map(|(transport, with, engine)| {
                engine.worker.begin_batch(*now);
                let response = ask(engine, *transport, if *with { padded } else { plain }, upstream);
                (*transport, *with, response)
            })
            .collect();
        let (_, _, datagram) = &responses[0];
        let (_, _, stream) = &responses[2];
        let mut lengths = (stream.len(), stream.len());
        for (transport, with, response) in &responses {
            match transport {
                Transport::Udp => assert_eq!(response, datagram, "{what}: {transport:?}, padded: {with}"),
                _ if *with && transport.is_encrypted() => {
                    is_padded(what, stream, response);
                    lengths.1 = response.len();
                }
                _ => assert_eq!(response, stream, "{what}: {transport:?}, padded: {with}"),
            }
        }
        lengths
    }
}

type Answer = Result<Vec<UpstreamRecord>, UpstreamFailure>;

fn complete(responder: &Responder, pending: &mut ForwardedQuery, upstream: &Answer, buffer: &mut [u8]) -> usize {
    let mut answer = None;
    loop {
        if let Resumed::Complete(summary) = responder.resume(pending, answer.as_ref(), buffer) {
            return summary.length;
        }
        match upstream {
            Ok(records) => {
                let owned =
                    |record: &UpstreamRecord| UpstreamRecord { owner: pending.name().clone(), ..record.clone() };
                let records = records.iter().map(owned).collect();
                answer = Some(UpstreamResponse::new((pending.name(), rtype::TXT, 0), records, Vec::new()));
            }
            Err(failure) => return pending.fail(failure, buffer).length,
        }
    }
}

fn ask(engine: &mut Engine, transport: Transport, message: &[u8], upstream: &Answer) -> Vec<u8> {
    // Octets of an earlier message must not be sent.
    let mut buffer = vec![0xa5; if transport.is_datagram() { 2048 } else { MOST }];
    buffer[..message.len()].copy_from_slice(message);
    let peer = Peer { from: "127.0.0.1:40000".parse().unwrap(), to: "127.0.0.1:53".parse().unwrap() };
    let mut requests = RequestBatch::new(transport);
    let request = requests.parse_one(engine.responder.zone(), message);
    let reply = engine.responder.respond(request, peer, &mut engine.worker, &mut buffer);
    let length = match reply {
        Reply::Response(summary) => summary.length,
        Reply::Forward(mut pending) => complete(&engine.responder, &mut pending, upstream, &mut buffer),
        Reply::Drop(_) => panic!("a response to {message:02x?}"),
    };
    buffer.truncate(length);
    buffer
}

/// `padded` is the response `plain` with padding behind its other options.
fn is_padded(what: &str, plain: &[u8], padded: &[u8]) {
    let message = Message::from_vec(plain).unwrap();
    assert!(Message::from_vec(padded).is_ok(), "{what}: hickory-proto cannot read it");
    let data = plain.len() + 4;
    let Some(edns) = message.edns.filter(|_| data <= MOST) else {
        return assert_eq!(padded, plain, "{what}: no room, or no OPT record");
    };
    let octets = |option| Vec::<u8>::try_from(option).unwrap().len();
    let options: usize = edns.options().options.iter().map(|(_, option)| 4 + octets(option)).sum();
    assert_eq!(padded.len(), data.next_multiple_of(BLOCK).min(MOST), "{what}: {} octets", plain.len());
    let (same, padding) = padded.split_at(plain.len());
    let mut expected = plain.to_vec();
    let length_at = plain.len() - options - 2;
    expected[length_at..length_at + 2].copy_from_slice(&((options + padding.len()) as u16).to_be_bytes());
    assert_eq!(same, expected, "{what}");
    let [high, low] = ((padding.len() - 4) as u16).to_be_bytes();
    assert_eq!(padding[..4], [0, 12, high, low], "{what}");
    assert!(padding[4..].iter().all(|octet| *octet == 0), "{what}: zeros");
}

// rows: A12
#[test]
fn padding_changes_length_only() {
    let (zone, publisher) = zone(&[("one".into(), 1), ("web".into(), 30), ("large".into(), 200)]);
    let new = |status: &Arc<Status>, access| Responder::new(Arc::clone(&zone), Arc::clone(status), access);
    let everyone = || vec!["0.0.0.0/0".parse().unwrap()];
    let (stale, elsewhere) = (synced(), vec!["192.0.2.0/24".parse().unwrap()]);
    stale.set_cut_off(true);
    stale.set_sentence("the API server does not answer. ".repeat(20));
    let asks = |aliases| ForwardPolicy { allowed_clients: everyone(), aliases, special: SpecialNames::new(false) };
    let long = "n".repeat(255);
    let mut servers = [
        ("ready", Server::new(|| new(&synced(), AccessList::default()))),
        ("named", Server::new(|| new(&synced(), AccessList::default()).with_nsid(&long))),
        (
            "says why",
            Server::new(|| new(&synced(), AccessList::default()).with_explanations(publisher.asker(), everyone())),
        ),
        ("stale", Server::new(|| new(&stale, AccessList::default()).with_nsid("a"))),
        ("has read nothing", Server::new(|| new(&Arc::default(), AccessList::default()))),
        ("for others", Server::new(|| new(&synced(), AccessList { allow: elsewhere.clone(), silent: false }))),
        (
            "asks others",
            Server::new(|| new(&synced(), AccessList::default()).with_forwarding(asks(true)).with_nsid("b")),
        ),
        ("asks others in vain", Server::new(|| new(&synced(), AccessList::default()).with_forwarding(asks(false)))),
    ];
    let record = |number: u8| UpstreamRecord {
        owner: WireName::parse("db.example.test").unwrap(),
        rtype: rtype::TXT,
        ttl: 60,
        data: [&[200][..], &[number; 200]].concat().into(),
    };
    servers[6].1.upstream = Ok((0..20).map(record).collect());
    servers[7].1.upstream = Err(UpstreamFailure::Unreachable("no upstream answers".repeat(30)));
    let names = [
        "one.default.svc.cluster.local",
        "web.default.svc.cluster.local",
        "large.default.svc.cluster.local",
        "nobody.default.svc.cluster.local",
        "_why.nobody.default.svc.cluster.local",
        "out.default.svc.cluster.local",
        "cluster.local",
        "db.example.test",
        "localhost",
        ".",
    ];
    for (state, server) in &mut servers {
        for name in names.map(question_name) {
            for qtype in [rtype::A, rtype::SOA, rtype::TXT, rtype::AXFR] {
                for [before, behind] in [[&[][..], &[]], [NSID, &[]], [&[], NSID], [COOKIE, NSID]] {
                    let plain = asking(&name, qtype, &[before, behind].concat());
                    for length in [0, 200] {
                        let padded = asking(&name, qtype, &[before, &padding(length), behind].concat());
                        server.check(state, &plain, &padded);
                    }
                }
            }
        }
    }
}

/// Error responses: another EDNS version, another class, a signature, an unreadable message.
#[test]
fn pads_error_responses() {
    let (zone, _) = zone(&[]);
    let mut server = Server::new(|| Responder::new(Arc::clone(&zone), synced(), AccessList::default()).with_nsid("a"));
    let name = wire("cluster.local");
    let both = |change: &dyn Fn(&mut Vec<u8>, usize)| {
        [&[][..], &padding(9)].map(|options| {
            let mut message = asking(&name, rtype::SOA, &[NSID, options].concat());
            let opt = 12 + name.len() + 4;
            change(&mut message, opt);
            message
        })
    };
    type Change<'c> = &'c dyn Fn(&mut Vec<u8>, usize);
    let changes: [(&str, Change<'_>); 6] = [
        ("as it is", &|_, _| {}),
        ("version 1", &|message, opt| message[opt + 6] = 1),
        ("class CH", &|message, opt| message[opt - 1] = 3),
        ("a signature", &|message, _| {
            message[11] = 2;
            message.extend_from_slice(TSIG);
        }),
        ("octets left over", &|message, _| message.push(0)),
        ("another opcode", &|message, _| message[2] |= 0x20),
    ];
    for (what, change) in changes {
        let [plain, padded] = both(change);
        let (_, length) = server.check(what, &plain, &padded);
        assert_eq!(length, BLOCK, "{what}");
    }
}

/// Every length around a block, and around the largest message.
#[test]
fn pads_to_block_or_largest_message() {
    let names: Vec<String> = (1..=16).map(|length| "s".repeat(length)).collect();
    let sizes = [25, 26, 4_089, 4_092];
    let services: Vec<(String, u16)> =
        sizes.into_iter().flat_map(|size| names.iter().map(move |name| (format!("{name}{size:04}"), size))).collect();
    let (zone, _) = zone(&services);
    let mut server = Server::new(|| Responder::new(Arc::clone(&zone), synced(), AccessList::default()));
    let (mut one, mut two, mut most, mut none) = (0, 0, 0, 0);
    for (name, _) in &services {
        let name = question_name(&format!("{name}.default.svc.cluster.local"));
        let (plain, padded) =
            server.check("sizes", &asking(&name, rtype::A, &[]), &asking(&name, rtype::A, &padding(3)));
        match padded {
            BLOCK => one += 1,
            _ if padded == 2 * BLOCK => two += 1,
            _ if padded == plain => none += 1,
            MOST => most += 1,
            _ => assert_eq!(padded % BLOCK, 0),
        }
    }
    assert!(one > 0 && two > 0 && most > 0 && none > 0, "{one} {two} {most} {none}");
}

#[test]
fn finds_padding_option() {
    let name = wire("cluster.local");
    let keepalive: &[u8] = &[0, 11, 0, 0];
    let signed = |options: &[u8]| {
        let mut message = asking(&name, rtype::A, options);
        message[11] = 2;
        [&message, TSIG].concat()
    };
    let transfer = |options: &[u8]| {
        let mut message = query(7, &name, rtype::IXFR, None);
        message[9] = 1;
        message[11] = 1;
        message.extend_from_slice(b"\xc0\x0c\x00\x06\x00\x01\x00\x00\x00\x00\x00\x16\x00\x00");
        message.extend_from_slice(&[0; 20]);
        message.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, options.len() as u8]);
        message.extend_from_slice(options);
        message
    };
    for (what, message, expected) in [
        ("no OPT record", query(7, &name, rtype::A, None), false),
        ("no option", asking(&name, rtype::A, &[]), false),
        ("another option", asking(&name, rtype::A, COOKIE), false),
        ("its number as data", asking(&name, rtype::A, &[0, 10, 0, 4, 0, 11, 0, 0]), false),
        ("the option", asking(&name, rtype::A, keepalive), true),
        ("with a time", asking(&name, rtype::A, &[0, 11, 0, 2, 1, 44]), true),
        ("behind another", asking(&name, rtype::A, &[COOKIE, keepalive].concat()), true),
        ("in front of a signature", signed(keepalive), true),
        ("a signature", signed(&[]), false),
        ("a transfer", transfer(keepalive), true),
        ("a transfer without", transfer(&[]), false),
        ("cut", asking(&name, rtype::A, keepalive)[..45].to_vec(), false),
        ("nothing", Vec::new(), false),
    ] {
        assert_eq!(has_option(&message, TCP_KEEPALIVE), expected, "{what}");
    }
}
