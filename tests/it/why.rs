//! Causes in responses (extended errors, and TXT at `_why`): the clients that get them, their texts, and their limits.
//!
//! The causes themselves are in `tests/causes`; here are the responses that carry them.

use std::fs;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use crate::common::{self, Engine, query, question_name, scenario_config, scenarios, scenarios_folder};
use headless_dns::commands;
use headless_dns::source::ManifestSource;
use headless_dns_core::answer::{AccessList, Peer, RequestBatch, Responder, Transport, Worker};
use headless_dns_core::cluster::{Cluster, Namespaces};
use headless_dns_core::diagnose::{DiagnosedQuery, Diagnostics, Finding, Severity, WatchScope, ZoneVerdict};
use headless_dns_core::name::{QueryName, WireName};
use headless_dns_core::naming_rules::NamingRules;
use headless_dns_core::status::{LossReason, Status};
use headless_dns_core::zone::Lookup;
use hickory_proto::op::Message;
use hickory_proto::rr::RData;

const A: u16 = 1;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const ANY: u16 = 255;

/// Pod of a StatefulSet without its governing Service.
const LOST: &str = "myapp-0.myapp-svc.default.svc.cluster.local";
const LOST_TEXT: &str = "STS-NO-SERVICE: StatefulSet default/myapp names Service myapp-svc, which does not exist; demo-svc selects its Pods";

fn load(scenario: &str) -> ManifestSource {
    let path = scenarios_folder().join(format!("{scenario}.yaml"));
    let config = scenario_config(&path, &fs::read_to_string(&path).unwrap());
    let mut source = commands::open_manifests(&config, &config.listen.addresses);
    source.load();
    source
}

fn synced() -> Arc<Status> {
    let status = Arc::new(Status::default());
    status.set_synced();
    status
}

fn engine(scenario: &str) -> Engine {
    let source = load(scenario);
    Engine::explaining(source.zone(), source.asker())
}

/// Parts of a response that are compared.
#[derive(Debug, PartialEq)]
struct ResponseParts {
    rcode: u8,
    answers: usize,
    extended: Option<(u16, String)>,
    /// The character-strings of its TXT records, one behind the other.
    text: String,
    ttl: Option<u32>,
    cut: bool,
}

fn said(response: &[u8]) -> ResponseParts {
    let message = Message::from_vec(response).unwrap();
    let mut text = String::new();
    for record in &message.answers {
        if let RData::TXT(txt) = &record.data {
            assert!(txt.txt_data.iter().all(|string| !string.is_empty() && string.len() <= 255));
            text.extend(txt.txt_data.iter().map(|string| std::str::from_utf8(string).unwrap()));
        }
    }
    ResponseParts {
        rcode: response[3] & 0x0f,
        answers: message.answers.len(),
        extended: common::extended(response),
        text,
        ttl: message.answers.first().map(|record| record.ttl),
        cut: message.metadata.truncation,
    }
}

fn ask(engine: &mut Engine, name: &str, qtype: u16) -> ResponseParts {
    said(&engine.ask(Transport::Udp, &query(7, &question_name(name), qtype, Some(1232))).unwrap())
}

#[test]
fn explains_to_allowed_clients_only() {
    let source = load("seed-3");
    let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
    let why = format!("_why.{LOST}");
    for (to, from, told) in [
        (&["10.0.0.0/8", "fd00::/8"][..], "10.1.2.3:4000", true),
        (&["10.0.0.0/8", "fd00::/8"], "[::ffff:10.1.2.3]:4000", true),
        (&["10.0.0.0/8", "fd00::/8"], "[fd00::1]:4000", true),
        (&["10.0.0.0/8", "fd00::/8"], "192.0.2.1:4000", false),
        (&["10.0.0.0/8", "fd00::/8"], "[2001:db8::1]:4000", false),
        (&[], "127.0.0.1:4000", false),
    ] {
        let responder = Responder::new(source.zone(), synced(), AccessList::default());
        let responder = responder.with_explanations(source.asker(), networks(to));
        let (mut worker, mut requests) = (Worker::default(), RequestBatch::new(Transport::Udp));
        let mut ask = |name: &str, qtype, edns| {
            let mut buffer = vec![0; 2048];
            let query = query(7, &question_name(name), qtype, edns);
            buffer[..query.len()].copy_from_slice(&query);
            let peer = Peer { from: from.parse().unwrap(), to: "10.9.9.9:53".parse().unwrap() };
            worker.begin_batch(Instant::now());
            let request = requests.parse_one(responder.zone(), &query);
            let length = responder.respond(request, peer, &mut worker, &mut buffer).length().unwrap();
            said(&buffer[..length])
        };
        let expected = told.then(|| (0, LOST_TEXT.to_owned()));
        assert_eq!(ask(LOST, A, Some(1232)).extended, expected, "{from} of {to:?}");
        assert_eq!(ask(LOST, A, None).extended, None, "no OPT came");
        let text = ask(&why, TXT, None);
        let none = ask("none.default.svc.cluster.local", TXT, None);
        if told {
            assert_eq!((text.rcode, text.text.as_str(), text.ttl), (0, LOST_TEXT, Some(0)));
        } else {
            assert_eq!(text, none, "as any name that does not exist");
            assert_eq!(text.rcode, 3);
        }
    }
}

#[test]
fn ordinary_queries_get_no_text() {
    let mut engine = engine("seed-2");
    for (name, qtype) in [
        ("www.example.com.default.svc.cluster.local", A),
        ("www.example.com.svc.cluster.local", A),
        ("www.example.com.cluster.local", AAAA),
        ("example.com.default.svc.cluster.local", A),
        ("github.com.svc.cluster.local", AAAA),
        ("github.com.cluster.local", A),
        ("db-1.example.com.cluster.local", A),
        ("ip-10-0-0-1.ec2.internal.svc.cluster.local", A),
        // Near names are for people.
        ("wbe.default.svc.cluster.local", A),
        ("web.other.svc.cluster.local", A),
        ("default.web.svc.cluster.local", A),
        ("other.svc.cluster.local", A),
        // The address family that the name lacks, and types that no name has.
        ("web.default.svc.cluster.local", AAAA),
        ("web.default.svc.cluster.local", MX),
        ("web-0.web.default.svc.cluster.local", AAAA),
        ("svc.cluster.local", A),
        ("9.9.244.10.in-addr.arpa", 12),
    ] {
        assert_eq!(ask(&mut engine, name, qtype).extended, None, "{name} {qtype}");
    }
}

#[test]
fn explains_every_name_at_why() {
    let mut engine = engine("seed-3");
    let unknown = |name: &str| format!("UNKNOWN: no cause is known for certain; run: headless-dns explain {name}.");
    let pod = "129.26.244.10.in-addr.arpa";
    for (name, expected) in [
        (format!("_why.{LOST}"), LOST_TEXT.to_owned()),
        (format!("_WHY.{}", LOST.to_uppercase()), LOST_TEXT.to_owned()),
        ("myapp-0.myapp-svc.default.svc._why.cluster.local".into(), LOST_TEXT.to_owned()),
        (format!("_why._why.{LOST}"), LOST_TEXT.to_owned()),
        ("_why.demo-svc.default.svc.cluster.local".into(), "RESOLVES: 2 A, 2 SRV".to_owned()),
        ("_why.cluster.local".into(), "RESOLVES: 1 SOA, 1 NS".to_owned()),
        ("_why.dns-version.cluster.local".into(), "RESOLVES: 1 TXT".to_owned()),
        ("_why.default.svc.cluster.local".into(), "EMPTY: the name exists and has no records".to_owned()),
        (format!("_why.{pod}"), "RESOLVES: 1 PTR".to_owned()),
        ("129.26._why.244.10.in-addr.arpa".into(), "RESOLVES: 1 PTR".to_owned()),
        ("_why.1.1.244.10.in-addr.arpa".into(), unknown("1.1.244.10.in-addr.arpa")),
        ("_why.none.default.svc.cluster.local".into(), unknown("none.default.svc.cluster.local")),
        ("a.b.c.d.e.f.g._why.cluster.local".into(), unknown("a.b.c.d.e.f.g.cluster.local")),
        ("_why.a\u{1}b.cluster.local".into(), unknown("a\\001b.cluster.local")),
    ] {
        for qtype in [TXT, ANY] {
            let said = ask(&mut engine, &name, qtype);
            assert_eq!((said.rcode, said.answers, said.ttl), (0, 1, Some(0)), "{name}");
            assert_eq!(said.text, expected, "{name}");
            assert_eq!(said.extended, None, "{name} has an answer");
        }
        let other = ask(&mut engine, &name, A);
        assert_eq!((other.rcode, other.answers), (0, 0), "{name} has nothing but a text");
        let tcp = engine.ask(Transport::Tcp, &query(7, &question_name(&name), TXT, None)).unwrap();
        assert_eq!(said(&tcp).text, expected, "{name} over TCP");
    }
    for name in ["a._why.default.svc.cluster.local", "_why.example.test"] {
        assert_ne!(ask(&mut engine, name, TXT).rcode, 0, "{name}");
    }
    let mut aliases = self::engine("externalname");
    let said = ask(&mut aliases, "_why.dangling.default.svc.cluster.local", TXT);
    assert!(
        said.text.starts_with("EXTERNALNAME-DANGLING: ") && said.text.contains("Service default/dangling"),
        "{said:?}"
    );
    let said = ask(&mut aliases, "_why.outside.default.svc.cluster.local", TXT);
    assert_eq!(said.text, "ALIAS: the name is an alias of db.example.test.");
}

/// A port may have the name `why`: an existing name takes precedence over an explanation of another.
#[test]
fn serves_port_named_why() {
    let manifest = "{apiVersion: v1, kind: Service, metadata: {name: web}, \
        spec: {clusterIP: 10.96.0.9, ports: [{name: why, port: 80}]}}";
    let path = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    fs::write(path.path(), manifest).unwrap();
    let config = scenario_config(path.path(), manifest);
    let mut source = commands::open_manifests(&config, &config.listen.addresses);
    source.load();
    let mut engine = Engine::explaining(source.zone(), source.asker());
    assert_eq!(ask(&mut engine, "_why._tcp.web.default.svc.cluster.local", SRV).answers, 1);
    assert_eq!(ask(&mut engine, "_why._tcp.web.default.svc.cluster.local", TXT).answers, 0);
    assert_eq!(ask(&mut engine, "_why.web.default.svc.cluster.local", TXT).text, "RESOLVES: 1 A, 1 SRV");
}

#[test]
fn explains_names_of_any_length() {
    let mut engine = engine("seed-3");
    let apex = question_name("cluster.local");
    for length in 0..=(255 - apex.len() - 5) {
        // Octets that take four each to write.
        let mut labels = Vec::new();
        let mut left = length;
        while left > 1 {
            let label = (left - 1).min(63);
            labels.push(label as u8);
            labels.extend(std::iter::repeat_n(1, label));
            left -= label + 1;
        }
        for name in [[b"\x04_why", &*labels, &*apex].concat(), [&*labels, b"\x04_why", &*apex].concat()] {
            for (transport, edns) in [(Transport::Udp, None), (Transport::Udp, Some(1232)), (Transport::Tcp, None)] {
                let said = said(&engine.ask(transport, &query(7, &name, TXT, edns)).unwrap());
                assert_eq!(said.rcode, 0);
                assert_eq!(said.answers == 0, said.cut, "whole, or cut with TC");
                assert!(!said.cut || transport == Transport::Udp, "over TCP there is always room");
            }
        }
    }
}

/// RFC 8914 section 3: the extended error goes before anything else does, and never sets TC.
#[test]
fn omits_extended_error_before_truncating() {
    let mut engine = engine("externalname");
    let mut ask = |size| {
        let query = query(7, &question_name("hop4.default.svc.cluster.local"), A, Some(size));
        let response = engine.ask(Transport::Udp, &query).unwrap();
        (response.len(), said(&response))
    };
    let ((_, whole), (length, short)) = (ask(1232), ask(512));
    assert!(whole.extended.is_some() && short.extended.is_none());
    assert_eq!((whole.answers, whole.rcode, whole.cut), (short.answers, short.rcode, short.cut));
    assert!(!short.cut && length <= 512);
}

#[test]
fn explains_unsynced_and_stale_data() {
    let source = load("seed-3");
    let status = Arc::new(Status::default());
    let mut engine = Engine::with(Responder::new(source.zone(), Arc::clone(&status), AccessList::default()));
    let why = format!("_why.{LOST}");
    let nothing = Some((14, "NOT-SYNCED: not everything was read yet".to_owned()));
    let waiting =
        Finding::NotSynced { waiting_for: vec!["services: not read yet".into()], forbidden: false, seconds: 3 };
    status.set_sentence(waiting.ede_text());
    for name in [LOST, &why, "demo-svc.default.svc.cluster.local"] {
        let said = ask(&mut engine, name, TXT);
        assert_eq!((said.rcode, said.extended), (2, nothing.clone()), "what is watched is told to some");
    }
    engine.responder = Responder::new(source.zone(), Arc::clone(&status), AccessList::default())
        .with_explanations(source.asker(), vec!["127.0.0.0/8".parse().unwrap()]);
    let waited = Some((14, "NOT-SYNCED: waited for 3 s; services: not read yet".to_owned()));
    for name in [LOST, &why, "demo-svc.default.svc.cluster.local"] {
        let said = ask(&mut engine, name, TXT);
        assert_eq!((said.rcode, said.extended), (2, waited.clone()));
    }
    status.set_synced();
    status
        .set_sentence(Finding::Stale { reason: LossReason::OutOfReach, resource: "services", seconds: 31 }.ede_text());
    status.set_cut_off(true);
    let stale = "STALE: the API server has been out of reach for 31 s: this is the last that was read";
    assert_eq!(ask(&mut engine, LOST, A).extended, Some((19, stale.to_owned())));
    assert_eq!(ask(&mut engine, "demo-svc.default.svc.cluster.local", A).extended, Some((3, stale.to_owned())));
    let said = ask(&mut engine, &why, TXT);
    assert_eq!((said.text, said.extended), (format!("{LOST_TEXT}; {stale}"), Some((3, stale.to_owned()))));
}

/// A batch of queries gets a few causes only, for any clients.
#[test]
fn flood_is_answered_without_causes() {
    let source = load("seed-3");
    let responder = Responder::new(source.zone(), synced(), AccessList::default());
    let responder = responder.with_explanations(source.asker(), vec!["127.0.0.0/8".parse().unwrap()]);
    let (mut worker, mut requests) = (Worker::default(), RequestBatch::new(Transport::Udp));
    let peer = Peer { from: "127.0.0.1:4000".parse().unwrap(), to: "127.0.0.1:53".parse().unwrap() };
    let mut ask = |worker: &mut Worker, name: &str, qtype| {
        let mut buffer = vec![0; 2048];
        let query = query(7, &question_name(name), qtype, Some(1232));
        buffer[..query.len()].copy_from_slice(&query);
        let request = requests.parse_one(responder.zone(), &query);
        let length = responder.respond(request, peer, worker, &mut buffer).length().unwrap();
        said(&buffer[..length])
    };
    let mut now = Instant::now();
    // A moment of a flood, and the explanations of 10 ms.
    for most in [64, 20, 20] {
        worker.begin_batch(now);
        let told = (0..1000).map(|_| ask(&mut worker, LOST, A)).filter(|said| said.extended.is_some()).count();
        assert!((1..=most).contains(&told), "{told} of 1000");
        let why = ask(&mut worker, &format!("_why.{LOST}"), TXT).text;
        assert!(why.starts_with("BUSY: "), "{why}");
        now += Duration::from_millis(10);
    }
}

/// A worker does not wait for the publisher's lock on the objects.
#[test]
fn does_not_wait_for_cluster_lock() {
    let source = load("seed-3");
    let cluster = Arc::new(RwLock::new(Cluster::new(Namespaces::Inferred, None)));
    let apexes = vec![WireName::parse("cluster.local").unwrap()];
    let asker = Diagnostics::new(Arc::clone(&cluster), apexes, NamingRules::default(), WatchScope::default());
    let mut engine = Engine::explaining(source.zone(), asker);
    let changing = cluster.write().unwrap();
    let lost = ask(&mut engine, LOST, A);
    assert_eq!((lost.rcode, lost.extended), (3, None));
    assert!(ask(&mut engine, &format!("_why.{LOST}"), TXT).text.starts_with("BUSY: "));
    drop(changing);
}

/// Behind a forwarder every client has one address: a text speaks of the question's namespace, and of no other.
#[test]
fn texts_name_objects_of_question_namespace_only() {
    let mut told = 0;
    for path in scenarios() {
        let text = fs::read_to_string(&path).unwrap();
        let config = scenario_config(&path, &text);
        let mut source = commands::open_manifests(&config, &config.listen.addresses);
        source.load();
        let (zone, asker) = (source.zone(), source.asker());
        let records = zone.records(&config.zone).unwrap();
        let mut names: Vec<String> = records.iter().take(400).map(|record| record.owner.to_string()).collect();
        let questions = fs::read_to_string(path.with_extension("dig")).unwrap_or_default();
        let asked = questions.lines().filter_map(|line| line.strip_prefix("$ dig ")?.split(' ').next());
        names.extend(asked.filter(|name| !name.starts_with(['-', '+'])).map(str::to_owned));
        let mut query = QueryName::default();
        for name in names.iter().flat_map(|name| near(name.trim_end_matches('.'))) {
            if query.parse_wire(&question_name(&name)).is_none() {
                continue;
            }
            for qtype in [A, SRV] {
                let (outcome, absence) = zone.look_up(&query, qtype, |lookup| match lookup {
                    Lookup::Found(..) | Lookup::Cname(..) => (ZoneVerdict::Found, None),
                    Lookup::NoData(_) => (ZoneVerdict::NoData, None),
                    Lookup::NxDomain(_, absence) => (ZoneVerdict::NxDomain, absence),
                    Lookup::NotInZone => (ZoneVerdict::NotInZone, None),
                });
                let asked = DiagnosedQuery { name: &query, qtype, outcome, absence };
                let Some(finding) = asker.try_best_finding(&asked).unwrap() else { continue };
                told += 1;
                assert_eq!(finding.severity(), Severity::Cause);
                assert!(finding.ede_text().len() <= 120 && finding.ede_text().is_ascii());
                for object in finding.about() {
                    let namespace = object.key.namespace.to_lowercase();
                    assert!(name.to_lowercase().split('.').any(|label| label == namespace), "{name}: {finding:?}");
                }
            }
        }
    }
    assert!(told > 500, "only {told} texts");
}

/// Returns names beside a name, as a client may ask for them.
fn near(name: &str) -> Vec<String> {
    let (first, rest) = name.split_once('.').unwrap_or((name, ""));
    vec![
        name.to_owned(),
        format!("{first}-0.{rest}"),
        format!("{first}-7.{rest}"),
        format!("web-0.{rest}"),
        format!("other.{rest}"),
        format!("_x._tcp.{name}"),
        format!("_80._tcp.{name}"),
        format!("x.{name}"),
        format!("10-2-1-10.{name}"),
        format!("{name}.default.svc.cluster.local"),
        name.replace(".svc.", "."),
        name.replace(".svc.", ".pod."),
        name.replace(".default.", ".other."),
        name.replace(".shop.", ".default."),
    ]
}
