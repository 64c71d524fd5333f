//! While a Service changes all the time, every answer shows exactly one of its states.

// rows: A9

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{self, Engine, query};
use headless_dns::source::{Publisher, PublisherOptions};
use headless_dns_core::answer::Transport;
use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::{ReverseZones, reverse_name};
use headless_dns_core::naming_rules::NamingRules;
use headless_dns_core::object::{
    AddressFamily, Conditions, EndpointPort, EndpointRow, EndpointSlice, Object, ObjectRef, Protocol, ServiceKind,
};
use headless_dns_core::zone::{Settings, Zone};
use hickory_proto::op::Message;
use hickory_proto::rr::RData;

const ENDPOINTS: u8 = 40;

/// Returns the objects of state 0 or 1: endpoints 10.STATE.0.n, port 8000 + STATE. The Pod at 10.9.0.1 is `pod-STATE` in
/// both Services; the endpoint 10.7.0.1 moves from `zero` to `one`, and 10.6.0.9 has no hostname.
fn objects(state: u8) -> Vec<Object> {
    let row = |address: [u8; 4], host: Option<String>| EndpointRow {
        address: address.into(),
        conditions: Conditions::READY,
        hostname: host.map(Into::into),
        pod: None,
    };
    let both = || {
        let mut rows: Vec<_> =
            (0..ENDPOINTS).map(|number| row([10, state, 0, number], Some(format!("web-{number}")))).collect();
        rows.push(row([10, 9, 0, 1], Some(format!("pod-{state}"))));
        rows
    };
    let mut of_zero = vec![row([10, 6, 0, 9], None)];
    let mut of_one = Vec::new();
    if state == 0 { &mut of_zero } else { &mut of_one }.push(row([10, 7, 0, 1], Some("moving".into())));
    of_zero.extend((0..5 * state).map(|number| row([10, 6, 0, number], None)));
    let mut objects = Vec::new();
    for (name, rows) in [("web", both()), ("other", both()), ("zero", of_zero), ("one", of_one)] {
        objects.push(common::service(name, ServiceKind::Headless));
        let port = EndpointPort { name: "http".into(), protocol: Protocol::Tcp, number: 8000 + u16::from(state) };
        let key = ObjectRef::new("default", name);
        objects.push(Object::EndpointSlice(EndpointSlice::new(
            key,
            Some(name.into()),
            AddressFamily::V4,
            vec![port],
            &rows,
        )));
    }
    objects
}

/// The states that one answer shows.
fn states(message: &Message) -> BTreeSet<u16> {
    let records = message.answers.iter().chain(&message.additionals);
    let state = |data: &RData| match data {
        RData::A(address) if address.octets()[1] != 9 => Some(u16::from(address.octets()[1])),
        RData::SRV(server) => Some(server.port - 8000),
        RData::PTR(name) if name.to_string().starts_with("10-6-0-9.zero.") => None,
        RData::PTR(name) => {
            Some(u16::from(["pod-1.", "moving.one."].iter().any(|one| name.to_string().starts_with(one))))
        }
        _ => None,
    };
    records.filter_map(|record| state(&record.data)).collect()
}

#[test]
fn answer_shows_one_state() {
    let apexes = vec![WireName::parse("cluster.local").unwrap()];
    let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules: NamingRules::default() };
    let zone = Arc::new(Zone::new(settings, ReverseZones::default()));
    let options = PublisherOptions { reverse: vec!["10.0.0.0/8".parse().unwrap()], ..PublisherOptions::default() };
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
    // The name, the type, how many records there are in every state, and whether they show which state it is.
    let questions = [
        (name("web.default.svc.cluster.local"), 1, usize::from(ENDPOINTS) + 1, true),
        (name("web.default.svc.cluster.local"), 33, usize::from(ENDPOINTS) + 1, true),
        (name("_http._tcp.web.default.svc.cluster.local"), 33, usize::from(ENDPOINTS) + 1, true),
        (name("web-3.web.default.svc.cluster.local"), 1, 1, true),
        (reverse_name([10, 9, 0, 1].into()), 12, 2, true),
        (reverse_name([10, 7, 0, 1].into()), 12, 1, true),
        (reverse_name([10, 6, 0, 9].into()), 12, 1, false),
        (name("0.7.10.in-addr.arpa"), 12, 0, false),
    ];
    let mut engine = Engine::new(Arc::clone(zone));
    let mut seen = BTreeSet::new();
    while !done.load(Ordering::Relaxed) {
        for (name, qtype, count, shows) in &questions {
            let response = engine.ask(Transport::Tcp, &query(1, name.octets(), *qtype, Some(1232))).unwrap();
            let message = Message::from_vec(&response).unwrap();
            assert_eq!(message.answers.len(), *count, "{name} is always whole");
            assert_eq!(u16::from(message.metadata.response_code), 0, "{name} exists all along");
            let states = states(&message);
            assert_eq!(states.len(), usize::from(*shows), "{name} shows one state, not {states:?}");
            seen.extend(states);
        }
    }
    seen
}
