//! The fuzz targets: properties that hold for any input. `fuzz/` mutates inputs, `tests/it/corpus.rs` replays `fuzz/seeds`.
//!
//! A target panics if a property fails. It returns without a check if the input does not have its form.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use headless_dns::config::file;
use headless_dns::server::ListenProtocol;
use headless_dns::server::fuzzing::Streams;
use headless_dns::source::kubernetes::fuzzing::{WatchEvent, read_event};
use headless_dns::source::manifests::read_text;
use headless_dns::source::snapshot::Snapshot;
use headless_dns::source::{Publisher, PublisherOptions};
use headless_dns_core::answer::{AccessList, RequestBatch, Responder, Transport, Worker};
use headless_dns_core::cluster::{Cluster, Contributor, Namespaces, Resource};
use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::ReverseZones;
use headless_dns_core::naming_rules::NamingRules;
use headless_dns_core::object::{Object, ObjectRef};
use headless_dns_core::records::{NameServer, contribution};
use headless_dns_core::status::Status;
use headless_dns_core::zone::{Record, RecordData, Settings, Zone};
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsCode;

use super::common::Engine;

/// Checks one input.
pub(crate) type Target = fn(&[u8]);

/// The targets, by the names of their files in `fuzz/fuzz_targets` and of their folders in `fuzz/seeds`.
pub(crate) const TARGETS: [(&str, Target); 8] = [
    ("datagrams", datagrams),
    ("streams", streams),
    ("https", https),
    ("quic", quic),
    ("manifests", manifests),
    ("watch", watch),
    ("snapshots", snapshots),
    ("configuration", configuration),
];

/// The largest response over UDP, in octets.
const MAX_UDP: usize = 1232;

// Messages.

/// Messages behind their lengths, as over TCP: batches of datagrams of up to 64.
///
/// A batch is answered octet for octet as its messages one by one.
pub(crate) fn datagrams(input: &[u8]) {
    thread_local! {
        static ENGINES: RefCell<[Engine; 2]> = RefCell::new([engine(true), engine(true)]);
        /// The batch of all inputs: no value of one message survives into the next.
        static REQUESTS: RefCell<RequestBatch> = RefCell::new(RequestBatch::new(Transport::Udp));
    }
    let messages: Vec<Vec<u8>> = whole_messages(input).take(64).map(<[u8]>::to_vec).collect();
    ENGINES.with_borrow_mut(|[together, alone]| {
        for engine in [&mut *together, &mut *alone] {
            engine.worker = Worker::default();
        }
        let responses = REQUESTS.with_borrow_mut(|requests| together.ask_together(requests, &messages));
        for (message, response) in messages.iter().zip(responses) {
            assert_eq!(response, alone.ask(Transport::Udp, message), "alone, as in a batch: {message:02x?}");
            if let Some(response) = response {
                check(message, &response, Transport::Udp);
            }
        }
    });
}

/// The number of portions, the portions, and the octets of a TCP connection.
///
/// Every whole message is answered in its order, up to the first that deserves no response, however the octets arrive.
pub(crate) fn streams(input: &[u8]) {
    thread_local! {
        static STREAMS: (Streams, RefCell<Engine>) =
            (Streams::new(ListenProtocol::Plain, responder(false)), RefCell::new(engine(false)));
    }
    let Some((&count, rest)) = input.split_first() else { return };
    let Some((portions, octets)) = rest.split_at_checked(usize::from(count)) else { return };
    if !portions.is_empty() && portions.iter().all(|portion| *portion == 0) {
        return;
    }
    STREAMS.with(|(streams, engine)| {
        let sent = runtime().block_on(streams.serve(octets, portions));
        let mut responses = whole_messages(&sent);
        let mut engine = engine.borrow_mut();
        let mut framing = 0;
        for message in whole_messages(octets) {
            let expected = if message.is_empty() { None } else { engine.ask(Transport::Tcp, message) };
            let Some(expected) = expected else { break };
            let response = responses.next().unwrap_or_else(|| panic!("no response to {message:02x?}"));
            framing += 2 + response.len();
            check(message, response, Transport::Tcp);
            assert_eq!(content(response), content(&expected), "{message:02x?}");
        }
        assert_eq!(framing, sent.len(), "nothing but responses was sent");
    });
}

/// An HTTP request as text: method and target, fields, an empty line, the body.
///
/// A query has one response, whatever the method; its freshness lifetime is not above a TTL in it.
pub(crate) fn https(input: &[u8]) {
    thread_local! {
        static ENGINE: RefCell<Engine> = RefCell::new(engine(false));
    }
    use headless_dns::server::https::doh::{self, QueryPlace};
    let (head, body) = match input.windows(2).position(|two| two == b"\n\n") {
        Some(end) => (&input[..end], &input[end + 2..]),
        None => (input, &[][..]),
    };
    let mut lines = head.split(|octet| *octet == b'\n');
    let mut words = lines.next().unwrap_or_default().splitn(2, |octet| *octet == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut request = http::Request::builder().method(method).uri(target);
    for line in lines {
        let mut parts = line.splitn(2, |octet| *octet == b':');
        request = request.header(parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    }
    let Ok((head, ())) = request.body(()).map(http::Request::into_parts) else { return };
    let date = http::HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT");
    let query = match doh::read(&head) {
        Ok(QueryPlace::Parameter(query)) => query,
        Ok(QueryPlace::Body) => body.to_vec(),
        Err(refusal) => {
            assert!(refusal.status().is_client_error() && refusal.text().ends_with('\n'));
            assert_eq!(doh::refusal_head(refusal, &date).status(), refusal.status());
            return;
        }
    };
    // The same query in the target of a GET, where it has room, is the same query.
    if (1..=4096).contains(&query.len()) {
        let target = format!("{}?dns={}", doh::PATH, base64url(&query));
        let (head, ()) = http::Request::get(target).body(()).unwrap().into_parts();
        assert_eq!(doh::read(&head), Ok(QueryPlace::Parameter(query.clone())));
    }
    if query.is_empty() || query.len() > doh::MAX_BODY_BYTES {
        return;
    }
    let Some(response) = ENGINE.with_borrow_mut(|engine| engine.ask(Transport::Https, &query)) else { return };
    check(&query, &response, Transport::Https);
    let head = doh::head(&response, &date);
    assert_eq!(head.headers()["content-length"], response.len().to_string());
    if let (Some(seconds), Ok(message)) = (doh::freshness(&response), Message::from_vec(&response)) {
        assert!(matches!(message.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain));
        assert!(message.answers.iter().all(|record| seconds <= record.ttl), "{seconds} s: {message}");
    }
}

/// The content of a QUIC stream (RFC 9250 section 4.2).
///
/// One whole query with ID 0 and no edns-tcp-keepalive is answered, as over the other encrypted transports; nothing else
/// is.
pub(crate) fn quic(input: &[u8]) {
    thread_local! {
        static STREAMS: (Streams, RefCell<Engine>) =
            (Streams::new(ListenProtocol::Quic, responder(false)), RefCell::new(engine(false)));
    }
    STREAMS.with(|(streams, engine)| {
        let sent = streams.answer_quic_stream(input);
        let mut messages = whole_messages(input);
        let message = messages.next().filter(|message| message.len() + 2 == input.len());
        let Ok(sent) = sent else { return };
        let message = message.expect("a stream with a response has one whole message");
        let mut responses = whole_messages(&sent);
        let response = responses.next().expect("a response is whole");
        assert_eq!(sent.len(), 2 + response.len(), "one response");
        assert_eq!((&message[..2], &response[..2]), (&[0; 2][..], &[0; 2][..]));
        if let Ok(query) = Message::from_vec(message) {
            assert!(query.edns.is_none_or(|edns| edns.option(EdnsCode::Keepalive).is_none()), "edns-tcp-keepalive");
        }
        check(message, response, Transport::Quic);
        let expected = engine.borrow_mut().ask(Transport::Quic, message).expect("what is answered has a response");
        assert_eq!(content(response), content(&expected), "{message:02x?}");
    });
}

/// Properties of every response.
fn check(query: &[u8], response: &[u8], transport: Transport) {
    let shown = || format!("{query:02x?} got {response:02x?}");
    assert!(query.len() >= 12 && query[2] & 0x80 == 0, "a response to what is no query: {}", shown());
    assert!(response.len() >= 12 && response[2] & 0x80 != 0, "no response: {}", shown());
    assert_eq!(response[..2], query[..2], "another ID: {}", shown());
    assert_eq!(response[2] & 0x78, query[2] & 0x78, "another opcode: {}", shown());
    let understood = Message::from_vec(query).ok();
    if transport.is_datagram() {
        let offered =
            understood.as_ref().map(|query| query.edns.as_ref().map_or(512, hickory_proto::op::Edns::max_payload));
        let limit = offered.map_or(MAX_UDP, |octets| usize::from(octets).clamp(512, MAX_UDP));
        assert!(response.len() <= limit, "above the limit of {limit} octets: {}", shown());
    }
    if response[2] & 0x78 != 0 {
        return;
    }
    let message = Message::from_vec(response).unwrap_or_else(|error| panic!("hickory-proto: {error}: {}", shown()));
    if let Some(question) = question(response) {
        assert!(query[12..].starts_with(question), "another question: {}", shown());
    } else if let Some(query) = &understood
        && query.queries.len() == 1
        && query.metadata.op_code == OpCode::Query
    {
        let code = message.metadata.response_code;
        assert!(matches!(code, ResponseCode::FormErr | ResponseCode::NotImp), "no question, and {code}: {}", shown());
    }
    let padded = message.edns.as_ref().is_some_and(|edns| edns.option(EdnsCode::Padding).is_some());
    assert!(!padded || transport.is_encrypted() && response.len().is_multiple_of(468), "padded: {}", shown());
}

/// The one question of a message, with type and class.
fn question(message: &[u8]) -> Option<&[u8]> {
    if message[4..6] != [0, 1] {
        return None;
    }
    let mut at = 12;
    while let Some(length @ 1..=63) = message.get(at) {
        at += 1 + usize::from(*length);
    }
    (*message.get(at)? == 0).then(|| message.get(12..at + 5))?
}

/// A response without its order: RRsets begin at another record each time. One that is truncated holds another part of
/// its records each time.
fn content(response: &[u8]) -> Vec<String> {
    let mut lines = vec![format!("{:02x?}", &response[..4])];
    // RFC 6891: of other opcodes, only the header is understood.
    if response[2] & 0x78 == 0 && response[2] & 0x02 == 0 {
        let message = Message::from_vec(response).expect("hickory-proto reads every response");
        lines.push(format!("{:?} {:?}", message.queries, message.edns));
        for section in [&message.answers, &message.authorities, &message.additionals] {
            let mut records: Vec<String> = section.iter().map(ToString::to_string).collect();
            records.sort_unstable();
            lines.push(records.join("\n"));
        }
    }
    lines
}

/// Returns the messages of a stream, without their lengths; an incomplete one is left out.
fn whole_messages(mut octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = octets.split_first_chunk()?;
        let (message, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        octets = rest;
        Some(message)
    })
}

/// RFC 4648 section 5, without padding.
pub(crate) fn base64url(octets: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in octets.chunks(3) {
        let value = three.iter().chain(&[0; 2]).take(3).fold(0_usize, |value, octet| value << 8 | usize::from(*octet));
        let sextet = |number: usize| char::from(ALPHABET[value >> (18 - 6 * number) & 63]);
        text.extend((0..=three.len()).map(sextet));
    }
    text
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn engine(explains: bool) -> Engine {
    Engine::with(responder(explains))
}

/// Answers for [`PUBLISHER`]'s zone, which all engines of a thread share: its serial is the second in which it was made.
fn responder(explains: bool) -> Responder {
    thread_local! {
        static PUBLISHER: Publisher = published();
    }
    PUBLISHER.with(|publisher| {
        let status = Arc::new(Status::default());
        status.set_synced();
        let responder = Responder::new(publisher.zone(), status, AccessList::default()).with_nsid("headless-dns-0");
        let networks = vec!["127.0.0.0/8".parse().unwrap()];
        if explains { responder.with_explanations(publisher.asker(), networks) } else { responder }
    })
}

/// A zone with a Service of each kind, of few and of many endpoints.
fn published() -> Publisher {
    let mut text = include_str!("../scenarios/externalname.yaml").to_owned();
    for (name, endpoints) in [("web", 3_u8), ("large", 120)] {
        let _ = write!(
            text,
            "\n---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{clusterIP: None, \
             selector: {{app: web}}, ports: [{{name: http, port: 80}}]}}}}\n---\n\
             {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{{name: http, port: 80}}], \
             metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {name}}}}}, endpoints: ["
        );
        for last in 0..endpoints {
            let _ = write!(text, "{{addresses: [10.1.{}.{last}], hostname: {name}-{last}}},", endpoints % 2);
        }
        text.push_str("]}\n");
    }
    text.push_str(
        "---\n{apiVersion: v1, kind: Service, metadata: {name: ip}, spec: {clusterIP: 10.0.0.1, \
         clusterIPs: [10.0.0.1, 'fd00::1'], ports: [{name: dns, port: 53, protocol: UDP}]}}\n",
    );
    let (_, mut publisher) = empty();
    publisher.replace(read_text("text", &text, "default").objects);
    publisher
}

// Objects.

/// An empty zone, and its publisher.
fn empty() -> (Arc<Zone>, Publisher) {
    let apexes = vec![WireName::parse("cluster.local").unwrap(), WireName::parse("alias.test").unwrap()];
    let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules: NamingRules::default() };
    let networks = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
    let zone = Arc::new(Zone::new(settings, ReverseZones::new(networks)));
    let options = PublisherOptions { reverse: networks.to_vec(), ..PublisherOptions::default() };
    let publisher = Publisher::new(Arc::clone(&zone), options);
    (zone, publisher)
}

/// All records of a zone, without the serials.
fn records(zone: &Zone) -> Vec<Record> {
    let mut all = Vec::new();
    for origin in zone.origins() {
        all.extend(zone.records(&origin).expect("a zone has records"));
    }
    all.retain(|record| !matches!(record.data, RecordData::Soa { .. }));
    all.sort_unstable();
    all
}

fn records_of(objects: Vec<Object>) -> Vec<Record> {
    let (zone, mut publisher) = empty();
    publisher.replace(objects);
    records(&zone)
}

/// The text of a file of manifests, YAML or JSON.
///
/// Parses the manifest twice with equal results, in any order of its objects.
pub(crate) fn manifests(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (first, second) = (read_text("file.yaml", text, "default"), read_text("file.yaml", text, "default"));
    assert_eq!((&first.objects, &first.reports), (&second.objects, &second.reports));
    let mut reversed = second.objects;
    reversed.reverse();
    assert_eq!(records_of(first.objects), records_of(reversed));
}

/// Lines of watches: a digit for the resource, and an event.
///
/// Compares the zone after the events with a zone built from the remaining objects.
pub(crate) fn watch(input: &[u8]) {
    const RESOURCES: [Resource; 6] = [
        Resource::Namespaces,
        Resource::Services,
        Resource::EndpointSlices,
        Resource::Endpoints,
        Resource::Pods,
        Resource::StatefulSets,
    ];
    let mut follower = Follower::default();
    let mut known: BTreeMap<(Resource, ObjectRef), Object> = BTreeMap::new();
    for line in input.split(|octet| *octet == b'\n') {
        let Some((&digit, event)) = line.split_first() else { continue };
        let resource = RESOURCES[usize::from(digit) % RESOURCES.len()];
        match read_event(resource, event) {
            Some(WatchEvent::Applied(Ok(object))) => {
                assert_eq!(Resource::for_object(&object), resource, "an object of another kind");
                known.insert((resource, ObjectRef::new(object.namespace(), object.name())), object.clone());
                let dirty = follower.cluster.apply(object);
                follower.publish(dirty);
            }
            Some(WatchEvent::Deleted(Some(key))) => {
                known.remove(&(resource, key.clone()));
                let dirty = follower.cluster.delete(resource, &key);
                follower.publish(dirty);
            }
            _ => {}
        }
    }
    let mut fresh = Follower::default();
    known.into_values().for_each(|object| _ = fresh.cluster.apply(object));
    fresh.publish(fresh.cluster.contributors());
    assert_eq!(records(&follower.zone), records(&fresh.zone));
}

/// A live cluster, and the zone that follows it.
struct Follower {
    cluster: Cluster,
    zone: Arc<Zone>,
}

impl Default for Follower {
    fn default() -> Self {
        Self { cluster: Cluster::new(Namespaces::Declared, None), zone: empty().0 }
    }
}

impl Follower {
    fn publish(&self, mut dirty: Vec<Contributor>) {
        dirty.sort();
        dirty.dedup();
        let (rules, name_server) = (self.zone.settings().rules, NameServer::default());
        let contribute = |contributor: &Contributor| contribution(&self.cluster, contributor, rules, &name_server).0;
        self.zone.publish(dirty.iter().map(contribute).collect(), 0);
    }
}

/// A snapshot file: verbatim if the first octet is 0, and otherwise a body to which a valid header is added.
///
/// Restores a snapshot, writes it again, and compares the records.
pub(crate) fn snapshots(input: &[u8]) {
    let Some((&form, body)) = input.split_first() else { return };
    let folder = tempfile::tempdir_in(if fs::exists("/dev/shm").unwrap_or(false) { "/dev/shm" } else { "." }).unwrap();
    let snapshot = Snapshot {
        path: folder.path().join("snapshot"),
        max_age: Duration::from_secs(60),
        scope: "scope".to_owned(),
        writing: std::sync::Arc::default(),
    };
    let mut octets = Vec::new();
    if form != 0 {
        let hashed = b"scope".iter().chain(body);
        let checksum = hashed
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, octet| (hash ^ u64::from(*octet)).wrapping_mul(0x100_0000_01b3));
        octets = format!("headless-dns-snapshot 1 {} {checksum:016x} {} scope\n", i64::MAX, body.len()).into_bytes();
    }
    octets.extend_from_slice(body);
    fs::write(&snapshot.path, &octets).unwrap();
    let restore = || {
        let (zone, mut publisher) = empty();
        let restored = snapshot.restore(&mut publisher, &Status::default());
        restored.ok().flatten().map(|_| (records(&zone), publisher))
    };
    let Some((first, publisher)) = restore() else { return };
    snapshot.save(&publisher, None).unwrap();
    let (second, _) = restore().expect("a snapshot that was just written is used");
    assert_eq!(first, second);
}

/// The text of a configuration file.
///
/// Entries are in the order of their lines; an error is one line, and names a line of the text.
pub(crate) fn configuration(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let lines = 1 + text.bytes().filter(|octet| *octet == b'\n').count();
    match file::parse(text) {
        Ok(entries) => {
            assert!(entries.is_sorted_by_key(|entry| entry.line));
            assert!(entries.iter().all(|entry| (1..=lines).contains(&entry.line)));
        }
        Err((line, sentence)) => {
            assert!((1..=lines).contains(&line) && !sentence.contains('\n'), "{line} of {lines}: {sentence}");
        }
    }
}
