//! The engine without sockets: time per answer by kind of question, with and without explanations, and per publication
//! by size of a Service.
//!
//! `cargo bench --bench engine`. Figures are medians of nine rounds on one thread; compare them with each other, in one
//! run, and not with those of another machine. The kinds are those of `benches/compare`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may panic, and prints")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headless_dns::metrics::{Metrics, ResponseCounters};
use headless_dns::source::{Publisher, PublisherOptions};
use headless_dns_core::answer::{AccessList, Peer, Reply, RequestBatch, Responder, Transport, Worker};
use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::{ReverseZones, reverse_name};
use headless_dns_core::naming_rules::NamingRules;
use headless_dns_core::object::{
    AddressFamily, Conditions, Endpoint, EndpointPort, EndpointRow, EndpointSlice, Labels, Object, ObjectRef,
    PodTemplate, Protocol, Service, ServiceKind, StatefulSet, decode_text,
};
use headless_dns_core::rtype;
use headless_dns_core::status::Status;
use headless_dns_core::zone::{Settings, Zone};

const ROUNDS: usize = 9;

fn main() {
    // cargo test runs benchmarks with `--test`: then there is nothing to measure.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let mut arguments = std::env::args().skip_while(|argument| argument != "--instructions").skip(1);
    if let (Some(kind), Some(count)) = (arguments.next(), arguments.next()) {
        return only(&kind, count.parse().unwrap());
    }
    // `-- publications` runs that part alone.
    if !std::env::args().any(|argument| argument == "publications") {
        answers();
        explanations();
    }
    publications();
}

/// What is asked: the kinds of the mixes, an address where there is no name.
const KINDS: [(&str, &str, u16); 7] = [
    ("W1 headless A, 3 endpoints", "small-7.default.svc.cluster.local", rtype::A),
    ("W2 headless A, 100 endpoints (cut at 1232)", "hundred.default.svc.cluster.local", rtype::A),
    ("W3 SRV, 3 endpoints", "_http._tcp.small-7.default.svc.cluster.local", rtype::SRV),
    ("W4 one ordinal of 5,000", "web-4321.web.default.svc.cluster.local", rtype::A),
    ("W5 PTR", "", rtype::PTR),
    ("W6 NXDOMAIN by search list", "www.example.com.default.svc.cluster.local", rtype::A),
    ("W7 AAAA of IPv4-only", "small-7.default.svc.cluster.local", rtype::AAAA),
];

/// Seed of the zone's hashes: a count of instructions would otherwise differ in each run, by the slots of the index.
const SEED: u64 = 1;

fn zone() -> Arc<Zone> {
    let apexes = vec![WireName::parse("cluster.local").unwrap()];
    let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules: NamingRules::default() };
    Arc::new(Zone::with_seed(settings, ReverseZones::default(), SEED))
}

fn publisher(zone: &Arc<Zone>) -> Publisher {
    let options = PublisherOptions { reverse: vec!["10.0.0.0/8".parse().unwrap()], ..PublisherOptions::default() };
    Publisher::new(Arc::clone(zone), options)
}

/// A headless Service `name` with `size` Pods `name-0`, ..., in slices of 100, from 10.`net`.0.0 on.
fn service(name: &str, size: u32, net: u8) -> Vec<Object> {
    let mut objects = vec![Object::Service(Service {
        key: ObjectRef::new("default", name),
        kind: ServiceKind::Headless,
        publish_not_ready: false,
        selector: Labels::default(),
        ports: Vec::new(),
        families: Vec::new(),
        family_policy: None,
    })];
    let rows: Vec<EndpointRow> = (0..size)
        .map(|number| EndpointRow {
            address: [10, net, (number >> 8) as u8, number as u8].into(),
            conditions: Conditions::READY,
            hostname: Some(format!("{name}-{number}").into()),
            pod: None,
        })
        .collect();
    for (number, rows) in rows.chunks(100).enumerate() {
        let port = EndpointPort { name: "http".into(), protocol: Protocol::Tcp, number: 80 };
        let key = ObjectRef::new("default", &format!("{name}-{number:05}"));
        objects.push(Object::EndpointSlice(EndpointSlice::new(
            key,
            Some(name.into()),
            AddressFamily::V4,
            vec![port],
            rows,
        )));
    }
    objects
}

/// One worker with all that a thread of a server has, but for its socket.
struct Server {
    responder: Responder,
    worker: Worker,
    requests: RequestBatch,
    counters: ResponseCounters,
}

impl Server {
    fn new(responder: Responder, metrics: &Metrics) -> Self {
        let counters = ResponseCounters::new(metrics.worker(), Transport::Udp);
        Self { responder, worker: Worker::default(), requests: RequestBatch::new(Transport::Udp), counters }
    }

    /// Answers `question` in each slot, as a batch that came `now`.
    fn answer(&mut self, slots: &mut [[u8; SLOT_BYTES]], question: &[u8], now: Instant) {
        let Self { responder, worker, requests, counters } = self;
        let peer = Peer { from: ([127, 0, 0, 1], 40_000).into(), to: ([127, 0, 0, 1], 53).into() };
        worker.begin_batch(now);
        for slot in &mut *slots {
            slot[..question.len()].copy_from_slice(black_box(question));
        }
        let requests = requests.parse(responder.zone(), slots.iter().map(|slot| &slot[..question.len()]));
        for (request, slot) in requests.iter().zip(&mut *slots) {
            if let Reply::Response(summary) = black_box(responder.respond(request, peer, worker, slot)) {
                counters.responded(&summary);
            }
        }
        counters.observe_latency(Duration::from_micros(50));
    }
}

/// As long as a server's.
const SLOT_BYTES: usize = 4096 + 64;

/// A server, and the zone that is asked.
fn asked() -> Server {
    let zone = zone();
    let mut objects = service("web", 5000, 1);
    objects.extend(service("hundred", 100, 2));
    objects.extend((0..1000u32).flat_map(|number| service(&format!("small-{number}"), 3, (number % 200) as u8 + 10)));
    let mut publisher = publisher(&zone);
    publisher.replace(objects);
    let status = Arc::new(Status::default());
    status.set_synced();
    let metrics = Metrics::new(&["cluster.local.".to_owned()]);
    // As the server is by default: some are told why, and what is asked here has nothing to be told.
    let responder = Responder::new(zone, status, AccessList::default());
    let responder = responder.with_explanations(publisher.asker(), vec!["127.0.0.0/8".parse().unwrap()]);
    Server::new(responder, &metrics)
}

fn question((_, name, qtype): (&str, &str, u16)) -> Vec<u8> {
    let name = if name.is_empty() { reverse_name([10, 1, 3, 9].into()) } else { WireName::parse(name).unwrap() };
    query(&name, qtype)
}

fn answers() {
    let mut server = asked();
    println!("ns per answer");
    for kind in KINDS {
        let time = per_answer(&mut server, &[question(kind)]);
        println!("  {:<44} {:>6}", kind.0, time.as_nanos());
    }
}

/// Does one thing so many times, for whoever counts instructions: answers questions of a kind in batches of 32 (W1),
/// publishes a Service of so many endpoints of which one has changed (P100), reads a slice of so many (R100).
fn only(kind: &str, count: usize) {
    match (kind.split_at(1), kind[1..].parse()) {
        (("P", _), Ok(size)) => {
            let mut changing = Changing::new(size);
            (0..count).for_each(|_| changing.change());
        }
        (("R", _), Ok(size)) => {
            let text = slice_text(size);
            (0..count).for_each(|_| read(&text));
        }
        _ => only_answers(kind, count),
    }
}

fn only_answers(kind: &str, count: usize) {
    let mut server = asked();
    let question = question(*KINDS.iter().find(|(what, ..)| what.starts_with(kind)).unwrap());
    let (mut slots, now) = (vec![[0; SLOT_BYTES]; 32], Instant::now());
    (0..count / slots.len()).for_each(|_| server.answer(&mut slots, &question, now));
}

/// Each answer is a batch of its own, so that as much is explained as ever is.
fn per_answer(server: &mut Server, queries: &[Vec<u8>]) -> Duration {
    const ANSWERS: u32 = 100_000;
    let mut slot = [[0; SLOT_BYTES]];
    let mut now = Instant::now();
    median(|| {
        let begun = Instant::now();
        for query in queries.iter().cycle().take(ANSWERS as usize) {
            // So that a cause is looked for each time.
            now += Duration::from_secs(1);
            server.answer(&mut slot, query, now);
        }
        begun.elapsed() / ANSWERS
    })
}

/// Names that do not exist, all asked with EDNS: what the explanations add.
fn explanations() {
    let zone = zone();
    let mut publisher = publisher(&zone);
    let mut objects = service("web", 5000, 1);
    objects.push(stateful_set("web", 5000));
    for number in 0..1000u32 {
        let name = format!("small-{number}");
        objects.extend(service(&name, 3, (number % 200) as u8 + 10));
        objects.push(stateful_set(&name, 3));
    }
    publisher.replace(objects);
    let status = Arc::new(Status::default());
    status.set_synced();
    let silent = Responder::new(Arc::clone(&zone), Arc::clone(&status), AccessList::default());
    let explaining = Responder::new(zone, status, AccessList::default());
    let explaining = explaining.with_explanations(publisher.asker(), vec!["127.0.0.0/8".parse().unwrap()]);
    let metrics = Metrics::default();
    let [mut silent, mut explaining] = [silent, explaining].map(|responder| Server::new(responder, &metrics));
    println!("ns per answer, NXDOMAIN with EDNS                 without  with explanations");
    for (what, name) in [
        ("search list: www.example.com.NS.svc.Z", "www.example.com.default.svc.cluster.local"),
        ("search list: www.example.com.svc.Z", "www.example.com.svc.cluster.local"),
        ("search list: www.example.com.Z", "www.example.com.cluster.local"),
        ("search list: example.com.NS.svc.Z", "example.com.default.svc.cluster.local"),
        ("search list: example.com.svc.Z", "example.com.svc.cluster.local"),
        ("search list: example.com.Z", "example.com.cluster.local"),
        ("near: a whole name with a search list", "small-#.default.svc.cluster.local.default.svc.cluster.local"),
        ("near: without svc", "small-#.default.cluster.local"),
        ("near: a Pod where a Service stands", "small-#-0.default.svc.cluster.local"),
        ("near: an ordinal that is too high", "small-#-7.small-#.default.svc.cluster.local"),
        ("near: the Pod of another Service", "small-1-0.small-#.default.svc.cluster.local"),
        ("near: a port that is not there", "_p#._tcp.small-#.default.svc.cluster.local"),
        ("near: no endpoint of 5,000", "nothing#.web.default.svc.cluster.local"),
        ("near: an ordinal of 5,000, too high", "web-9#.web.default.svc.cluster.local"),
    ] {
        let name = |number: u32| WireName::parse(&name.replace('#', &format!("{}", 100 + number))).unwrap();
        let queries: Vec<Vec<u8>> = (0..900).map(|number| query(&name(number), rtype::A)).collect();
        let without = per_answer(&mut silent, &queries).as_nanos();
        let with = per_answer(&mut explaining, &queries).as_nanos();
        println!("  {what:<44} {without:>9} {with:>6}  {:.2}", with as f64 / without as f64);
    }
}

fn stateful_set(name: &str, replicas: u32) -> Object {
    Object::StatefulSet(StatefulSet {
        key: ObjectRef::new("default", name),
        service_name: name.into(),
        replicas,
        start: 0,
        parallel: false,
        selector: Labels::default(),
        template: PodTemplate::default(),
    })
}

fn query(name: &WireName, qtype: u16) -> Vec<u8> {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    query.extend_from_slice(name.octets());
    query.extend_from_slice(&qtype.to_be_bytes());
    query.extend_from_slice(&[0, 1]);
    query.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    query
}

fn publications() {
    println!("us to publish a Service of which one endpoint has changed");
    for size in [3, 100, 1000, 5000] {
        let mut changing = Changing::new(size);
        // Each round many, so that one is not what the caches and the clock make of it.
        const CHANGES: u32 = 50;
        let time = median(|| {
            let begun = Instant::now();
            (0..CHANGES).for_each(|_| changing.change());
            begun.elapsed() / CHANGES
        });
        println!("  {size:>5} endpoints {:>8.1}", time.as_secs_f64() * 1e6);
    }
    println!("us to read a slice of 100 endpoints");
    let text = slice_text(100);
    let time = median(|| {
        let begun = Instant::now();
        (0..100).for_each(|_| read(&text));
        begun.elapsed() / 100
    });
    println!("  {:>5} octets {:>11.1}", text.len(), time.as_secs_f64() * 1e6);
}

/// A Service of which one endpoint has one address or the other: its slice is all that is applied.
struct Changing {
    publisher: Publisher,
    states: [Object; 2],
    turn: usize,
}

impl Changing {
    fn new(size: u32) -> Self {
        let mut publisher = publisher(&zone());
        publisher.replace(service("web", size, 1));
        let states = [0, 1].map(|turn| {
            // The one in the middle: neither end of the columns.
            let mut objects = service("web", size, 1);
            let Object::EndpointSlice(slice) = objects.swap_remove(1 + (size as usize / 2) / 100) else {
                unreachable!()
            };
            let row = |endpoint: Endpoint<'_>| EndpointRow {
                address: endpoint.address,
                conditions: endpoint.conditions,
                hostname: endpoint.hostname.map(|label| label.to_string().into()),
                pod: None,
            };
            let mut rows: Vec<EndpointRow> = slice.endpoints().map(row).collect();
            let last = rows.len() - 1;
            rows[(size as usize / 2 % 100).min(last)].address = [10, 9, 9, turn as u8].into();
            let ports = slice.ports.to_vec();
            Object::EndpointSlice(EndpointSlice::new(slice.key, slice.service, AddressFamily::V4, ports, &rows))
        });
        Self { publisher, states, turn: 0 }
    }

    fn change(&mut self) {
        self.turn ^= 1;
        black_box(self.publisher.apply(self.states[self.turn].clone()));
    }
}

/// A slice as the controller writes it.
fn slice_text(size: u32) -> String {
    let endpoint = |number: u32| {
        format!(
            r#"{{"addresses":["10.1.0.{number}"],"conditions":{{"ready":true,"serving":true,"terminating":false}},"hostname":"web-{number}","nodeName":"node-{number}","targetRef":{{"kind":"Pod","name":"web-{number}","namespace":"default","uid":"9c1b7f64-0000-4000-8000-{number:012}"}},"zone":"zone-a"}}"#
        )
    };
    let endpoints: Vec<String> = (0..size).map(endpoint).collect();
    format!(
        r#"{{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","metadata":{{"name":"web-abcde","generateName":"web-","namespace":"default","uid":"77e1d2aa-0000-4000-8000-000000000001","resourceVersion":"7","generation":7,"creationTimestamp":"2026-01-01T00:00:00Z","labels":{{"app":"web","endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"web","service.kubernetes.io/headless":""}},"annotations":{{"endpoints.kubernetes.io/last-change-trigger-time":"2026-01-01T00:00:00Z"}},"ownerReferences":[{{"apiVersion":"v1","kind":"Service","name":"web","uid":"5f0a9b3c-0000-4000-8000-000000000002","controller":true,"blockOwnerDeletion":true}}]}},"addressType":"IPv4","endpoints":[{}],"ports":[{{"name":"http","port":80,"protocol":"TCP"}}]}}"#,
        endpoints.join(",")
    )
}

fn read(text: &str) {
    let key = ObjectRef::new("default", "web-abcde");
    black_box(decode_text("EndpointSlice", "discovery.k8s.io", key, black_box(text)).unwrap());
}

fn median(mut round: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS).map(|_| round()).collect();
    times.sort();
    times[ROUNDS / 2]
}
