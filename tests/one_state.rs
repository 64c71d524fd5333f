//! While a Service changes all the time, every answer shows one of its states, whole.

// rows: A9

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Engine, query};
use headless_dns::answer::Transport;
use headless_dns::names::WireName;
use headless_dns::names::reverse::{ReverseZones, reverse_name};
use headless_dns::objects::{
    Conditions, EndpointPort, EndpointRow, EndpointSlice, Family, Object, ObjectRef, Protocol, ServiceKind,
};
use headless_dns::rules::Rules;
use headless_dns::source::{Options, Publisher};
use headless_dns::zone::{Settings, Zone};
use hickory_proto::op::Message;
use hickory_proto::rr::RData;

const ENDPOINTS: u8 = 40;

/// State 0 or 1: endpoints 10.STATE.0.n, port 8000 + STATE. The Pod at 10.9.0.1 is `pod-STATE` in both Services.
fn objects(state: u8) -> Vec<Object> {
    let mut objects = Vec::new();
    for name in ["web", "other"] {
        objects.push(common::service(name, ServiceKind::Headless));
        let row = |address: [u8; 4], host: String| EndpointRow {
            address: address.into(),
            conditions: Conditions::READY,
            hostname: Some(host.into()),
            pod: None,
        };
        let mut rows: Vec<_> =
            (0..ENDPOINTS).map(|number| row([10, state, 0, number], format!("web-{number}"))).collect();
        rows.push(row([10, 9, 0, 1], format!("pod-{state}")));
        let port = EndpointPort { name: "http".into(), protocol: Protocol::Tcp, number: 8000 + u16::from(state) };
        let key = ObjectRef::new("default", name);
        objects.push(Object::EndpointSlice(EndpointSlice::new(key, Some(name.into()), Family::V4, vec![port], &rows)));
    }
    objects
}

/// The states that one answer shows.
fn states(message: &Message) -> BTreeSet<u16> {
    let records = message.answers.iter().chain(&message.additionals);
    let state = |data: &RData| match data {
        RData::A(address) if address.octets()[1] != 9 => Some(u16::from(address.octets()[1])),
        RData::SRV(server) => Some(server.port - 8000),
        RData::PTR(name) => Some(u16::from(name.to_string().starts_with("pod-1."))),
        _ => None,
    };
    records.filter_map(|record| state(&record.data)).collect()
}

#[test]
fn no_answer_is_half_of_an_update() {
    let apexes = vec![WireName::parse("cluster.local").unwrap()];
    let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules: Rules::default() };
    let zone = Arc::new(Zone::new(settings, ReverseZones::default()));
    let options = Options { reverse: vec!["10.0.0.0/8".parse().unwrap()], ..Options::default() };
    let mut publisher = Publisher::new(Arc::clone(&zone), options);
    publisher.replace(objects(0));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| read(&zone, &done))).collect();
        for round in 0..common::scaled(20_000) {
            publisher.replace(objects((round % 2) as u8 ^ 1));
        }
        done.store(true, Ordering::Relaxed);
        let seen: BTreeSet<u16> = readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect();
        assert_eq!(seen, BTreeSet::from([0, 1]), "both states were seen");
    });
}

fn read(zone: &Arc<Zone>, done: &AtomicBool) -> BTreeSet<u16> {
    let name = |text: &str| WireName::parse(text).unwrap();
    let questions = [
        (name("web.default.svc.cluster.local"), 1, usize::from(ENDPOINTS) + 1),
        (name("web.default.svc.cluster.local"), 33, usize::from(ENDPOINTS) + 1),
        (name("_http._tcp.web.default.svc.cluster.local"), 33, usize::from(ENDPOINTS) + 1),
        (name("web-3.web.default.svc.cluster.local"), 1, 1),
        (reverse_name([10, 9, 0, 1].into()), 12, 2),
    ];
    let mut engine = Engine::new(Arc::clone(zone));
    let mut seen = BTreeSet::new();
    while !done.load(Ordering::Relaxed) {
        for (name, qtype, count) in &questions {
            let response = engine.ask(Transport::Tcp, &query(1, name.octets(), *qtype, Some(1232))).unwrap();
            let message = Message::from_vec(&response).unwrap();
            assert_eq!(message.answers.len(), *count, "{name} is always whole");
            let states = states(&message);
            assert_eq!(states.len(), 1, "{name} shows one state, not {states:?}");
            seen.extend(states);
        }
    }
    seen
}
