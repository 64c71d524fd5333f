//! A misbehaving API server: one test for each known fault K1 to K19 (`tests/rows.md`).
//!
//! Each test plays its fault on the fake API server and queries names meanwhile. Without a socket the clock is paused: ten
//! minutes of failures take no time. K4, K6 and K16 run over TCP, with short deadlines. K17 to K19 are in `contact.rs`.

mod contact;
pub mod fake;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headless_dns::metrics::{Event, ExpositionFormat, Metrics, ZoneFigures};
use headless_dns::source::kubernetes::{Connect, Scope, Timing, WatchedCluster, find, resources};
use headless_dns::source::{Publisher, PublisherOptions};
use headless_dns_core::answer::{AccessList, Responder, Transport};
use headless_dns_core::diagnose::WatchScope;
use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::ReverseZones;
use headless_dns_core::naming_rules::{EndpointsSource, NamingRules, PodRecords};
use headless_dns_core::status::{DataState, Status, WatchState};
use headless_dns_core::zone::{Settings, Zone};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::common::{self, Engine};
use fake::{ApiRequest, Fake, Fault, RequestKind, event, until};

const SERVICES: &str = "services";
const SLICES: &str = "endpointslices";
const NOERROR: u8 = 0;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
const REFUSED: u8 = 5;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn service(name: &str) -> Value {
    json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}})
}

fn slice(name: &str, service: &str, address: &str) -> Value {
    json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}]})
}

/// A cluster with the headless Service `web` and one endpoint of it.
fn cluster() -> Fake {
    let fake = Fake::default();
    add(&fake, "web", "10.0.0.1");
    fake
}

fn add(fake: &Fake, name: &str, address: &str) {
    fake.apply(SERVICES, service(name));
    fake.apply(SLICES, slice(name, name, address));
}

fn only(
    resource: &'static str,
    kinds: &'static [RequestKind],
    fault: Fault,
) -> impl FnMut(&ApiRequest) -> Option<Fault> + Send {
    move |asked| (asked.resource == resource && kinds.contains(&asked.kind)).then(|| fault.clone())
}

/// Applies a fault to the first requests only, as many as `times`.
fn first(
    times: usize,
    mut rule: impl FnMut(&ApiRequest) -> Option<Fault> + Send,
) -> impl FnMut(&ApiRequest) -> Option<Fault> + Send {
    let mut left = times;
    move |asked| {
        if left == 0 {
            return None;
        }
        let fault = rule(asked);
        left -= usize::from(fault.is_some());
        fault
    }
}

const LISTS: &[RequestKind] = &[RequestKind::List, RequestKind::Stream];

/// The part of the server between the API server and the sockets.
struct Server {
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    engine: Engine,
    _running: JoinSet<()>,
}

impl Server {
    fn start(connect: Connect, timing: Timing) -> Self {
        Self::of(connect, timing, Scope::default())
    }

    /// One that follows a part of the cluster.
    fn of(connect: Connect, timing: Timing, scope: Scope) -> Self {
        Self::with_rules(connect, timing, scope, NamingRules::default())
    }

    fn with_rules(connect: Connect, timing: Timing, scope: Scope, rules: NamingRules) -> Self {
        let apexes = vec![WireName::parse("cluster.local").unwrap()];
        let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules };
        let zone = Zone::new(settings, ReverseZones::default());
        let zone = Arc::new(match &scope.namespace {
            Some(namespace) => zone.for_namespace(namespace),
            None => zone,
        });
        let (status, metrics) = (Arc::<Status>::default(), Arc::<Metrics>::default());
        let options = PublisherOptions {
            reverse: ["10.77.0.0/16", "10.0.0.0/16"].map(|network| network.parse().unwrap()).into(),
            extent: WatchScope { namespace: scope.namespace.clone(), selected: scope.selector.is_some() },
            ..PublisherOptions::default()
        };
        let publisher = Publisher::for_cluster(Arc::clone(&zone), options);
        let asker = publisher.asker();
        let cluster =
            WatchedCluster::new(connect, resources(EndpointsSource::Slices, PodRecords::Off), timing).with_scope(scope);
        let (synced, _) = oneshot::channel();
        let mut running = JoinSet::new();
        let (told, counted) = (Arc::clone(&status), Arc::clone(&metrics));
        running.spawn(async move { cluster.follow(publisher, told, &counted, synced).await });
        let responder = Responder::new(zone, Arc::clone(&status), AccessList::default());
        let engine = Engine::with(responder.with_explanations(asker, vec!["127.0.0.0/8".parse().unwrap()]));
        Self { status, metrics, engine, _running: running }
    }

    async fn synced(connect: Connect, timing: Timing) -> Self {
        let server = Self::start(connect, timing);
        until(seconds(20), || server.is(DataState::Current)).await;
        server
    }

    fn is(&self, state: DataState) -> bool {
        self.status.data_state() == state
    }

    /// The rcode and the number of answers for the A records of `name.default.svc.cluster.local`.
    fn ask(&mut self, name: &str) -> (u8, u8) {
        self.ask_whole(&format!("{name}.default.svc.cluster.local"), 1)
    }

    fn ask_whole(&mut self, name: &str, qtype: u16) -> (u8, u8) {
        let name = common::wire(name);
        let response = self.engine.ask(Transport::Udp, &common::query(7, &name, qtype, Some(1232))).unwrap();
        (response[3] & 0x0f, response[7])
    }

    /// The one address of `name`.
    fn address(&mut self, name: &str) -> [u8; 4] {
        let name = common::wire(&format!("{name}.default.svc.cluster.local"));
        let response = self.engine.ask(Transport::Udp, &common::query(7, &name, 1, None)).unwrap();
        assert_eq!((response[3] & 0x0f, response[7]), (NOERROR, 1), "one answer");
        *response.last_chunk().unwrap()
    }

    /// The extended error of the response: its code and its text.
    fn extended(&mut self, name: &str) -> (u16, String) {
        let name = common::wire(&format!("{name}.default.svc.cluster.local"));
        let response = self.engine.ask(Transport::Udp, &common::query(7, &name, 1, Some(1232))).unwrap();
        common::extended(&response).unwrap_or_default()
    }

    fn answers(&mut self, name: &str) -> bool {
        self.ask(name) == (NOERROR, 1)
    }

    /// Returns the value of a series of `/metrics`; 0 if it is missing.
    fn shown(&self, series: &str) -> f64 {
        let text = self.metrics.render(&self.status, ZoneFigures::default(), ExpositionFormat::Text);
        let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
        text.lines().find_map(value).unwrap_or_default()
    }
}

fn paged() -> Timing {
    Timing { streaming: false, ..Timing::default() }
}

/// In pages, and as streams.
fn both() -> impl Iterator<Item = Timing> {
    [paged(), Timing::default()].into_iter()
}

/// For real time: nothing takes longer than a second or two.
fn short() -> Timing {
    Timing {
        page: seconds(5),
        start: seconds(5),
        watch: seconds(1),
        grace: Duration::from_millis(200),
        proof: Duration::from_millis(200),
        back_off: [Duration::from_millis(10), Duration::from_millis(50)],
        stale: seconds(30),
        ..Timing::default()
    }
}

#[tokio::test(start_paused = true)]
async fn follows_changes_after_paged_and_streaming_lists() {
    for timing in both() {
        let fake = cluster();
        for number in 0..50 {
            add(&fake, &format!("web-{number}"), &format!("10.1.0.{number}"));
        }
        let mut server = Server::start(fake.connect(), timing);
        assert_eq!(server.ask("web"), (SERVFAIL, 0), "not synced");
        assert_eq!(server.ask("none"), (SERVFAIL, 0), "never denied before it is synced");
        until(seconds(2), || server.is(DataState::Current)).await;
        assert!(server.answers("web") && server.answers("web-49"));
        assert_eq!(server.ask("none"), (NXDOMAIN, 0));
        // Over many watches: each lasts 15 to 20 s.
        for round in 0..10 {
            let name = format!("new-{round}");
            add(&fake, &name, "10.2.0.1");
            until(seconds(1), || server.answers(&name)).await;
            fake.delete(SLICES, slice(&name, &name, "10.2.0.1"));
            fake.delete(SERVICES, service(&name));
            until(seconds(1), || server.ask(&name) == (NXDOMAIN, 0)).await;
            sleep(seconds(25)).await;
        }
        let lists = if timing.streaming {
            fake.count(SERVICES, RequestKind::Stream)
        } else {
            fake.count(SERVICES, RequestKind::List)
        };
        assert_eq!(lists, if timing.streaming { 1 } else { 2 }, "one list, in two pages or as a stream");
    }
}

#[tokio::test(start_paused = true)]
async fn names_endpoints_after_pods() {
    let of_pod = |pod: &str, address: &str| {
        let mut slice = slice("web", "web", address);
        slice["endpoints"][0]["targetRef"] = json!({"kind": "Pod", "name": pod});
        slice
    };
    for timing in both() {
        let fake = cluster();
        fake.apply(SLICES, of_pod("web-7d4b9c-x2x4z", "10.0.0.1"));
        let rules = NamingRules { endpoint_pod_names: true, ..NamingRules::default() };
        let mut server = Server::with_rules(fake.connect(), timing, Scope::default(), rules);
        until(seconds(20), || server.is(DataState::Current)).await;
        assert!(server.answers("web-7d4b9c-x2x4z.web") && server.answers("10-0-0-1.web"));
        // The Deployment replaces the Pod.
        fake.apply(SLICES, of_pod("web-7d4b9c-9qj8k", "10.0.0.2"));
        until(seconds(1), || server.answers("web-7d4b9c-9qj8k.web")).await;
        assert_eq!([server.ask("web-7d4b9c-x2x4z.web"), server.ask("10-0-0-1.web")], [(NXDOMAIN, 0); 2]);
        let query = common::query(7, &common::wire("2.0.0.10.in-addr.arpa"), 12, None);
        let response = server.engine.ask(Transport::Udp, &query).unwrap();
        let target = common::wire("web-7d4b9c-9qj8k.web.default.svc.cluster.local");
        assert_eq!(response[7], 1, "one name, and not the alias");
        assert!(response.ends_with(&target), "{response:02x?}");
    }
}

#[tokio::test(start_paused = true)]
async fn k1_lists_fail_for_ten_minutes() {
    let fake = cluster();
    fake.fault(|asked| (asked.kind != RequestKind::Look).then_some(Fault::Status(500)));
    let server = Server::start(fake.connect(), Timing::default());
    sleep(seconds(600)).await;
    let lists = fake.count(SERVICES, RequestKind::List) + fake.count(SERVICES, RequestKind::Stream);
    assert!((60..=240).contains(&lists), "{lists} lists in ten minutes");
    fake.heal();
    until(seconds(12), || server.is(DataState::Current)).await;
}

#[tokio::test(start_paused = true)]
async fn k2_overloaded_api_server() {
    for (code, wait) in [(503, 1), (429, 5), (429, 600)] {
        let fake = cluster();
        fake.fault(move |_| Some(Fault::Busy(code, wait)));
        let server = Server::start(fake.connect(), Timing::default());
        sleep(seconds(180)).await;
        let is_of_the_watch = |asked: &&ApiRequest| asked.resource == SERVICES && asked.kind != RequestKind::Look;
        let asked = fake.asked().iter().filter(is_of_the_watch).count();
        assert!(asked as u64 <= 180 / wait.min(10) + 1, "{code} with Retry-After {wait}: {asked} requests");
        fake.heal();
        let took = until(seconds(12), || server.is(DataState::Current)).await;
        assert!(took <= seconds(12), "{code}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn k3_rejected_watch() {
    let cases = [(410, 1, 2), (504, 1, 2), (500, 1, 1), (500, 2, 2)];
    for (timing, (code, times, lists)) in both().flat_map(|timing| cases.map(|case| (timing, case))) {
        let fake = cluster();
        let mut server = Server::synced(fake.connect(), timing).await;
        sleep(seconds(6)).await;
        fake.fault(first(times, only(SLICES, &[RequestKind::Watch], Fault::Status(code))));
        fake.cut();
        if lists == 2 {
            // Only a list can know.
            fake.apply_in_secret(SERVICES, service("late"));
            fake.apply_in_secret(SLICES, slice("web", "web", "10.0.0.9"));
        }
        sleep(seconds(25)).await;
        assert_eq!(fake.lists(SLICES), lists, "{times} times {code}");
        assert!(server.answers("web"));
    }
}

#[tokio::test]
async fn k4_410_in_watch_event() {
    let fake = cluster();
    let url = fake.listen().await;
    let mut server = Server::synced(at(&url).await, Timing { streaming: false, ..short() }).await;
    until(seconds(20), || fake.count(SLICES, RequestKind::Watch) > 0).await;
    let lists = fake.count(SLICES, RequestKind::List);
    let gone = event(
        "ERROR",
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410,
        "message": "too old resource version", "reason": "Expired"}),
    );
    fake.fault(first(4, only(SLICES, &[RequestKind::Watch], Fault::Line(gone.clone()))));
    fake.apply_in_secret(SLICES, slice("web-2", "web", "10.0.0.2"));
    fake.line(SLICES, &gone);
    until(seconds(20), || server.ask("web") == (NOERROR, 2)).await;
    until(seconds(20), || fake.count(SLICES, RequestKind::List) >= lists + 5).await;
    let relists: Vec<Instant> = fake
        .asked()
        .iter()
        .filter(|asked| asked.resource == SLICES && asked.kind == RequestKind::List)
        .map(|a| a.at)
        .collect();
    assert!(relists.len() < 50, "with a pause between: {}", relists.len());
}

#[tokio::test(start_paused = true)]
async fn k5_hanging_list() {
    for timing in both() {
        let fake = cluster();
        fake.fault(first(1, only(SERVICES, LISTS, Fault::Hang)));
        let server = Server::start(fake.connect(), timing);
        let took = until(seconds(63), || server.is(DataState::Current)).await;
        assert!(took >= seconds(59), "the deadline is 60 s: {took:?}");
    }
}

#[tokio::test]
async fn k6_dead_watch_connection() {
    let fake = cluster();
    let url = fake.listen().await;
    let mut server = Server::synced(at(&url).await, Timing { streaming: false, ..short() }).await;
    fake.fault(first(1, only(SLICES, &[RequestKind::Watch], Fault::Silence)));
    let before = fake.count(SLICES, RequestKind::Watch);
    until(seconds(20), || fake.count(SLICES, RequestKind::Watch) > before).await;
    fake.apply(SLICES, slice("web-2", "web", "10.0.0.2"));
    until(seconds(20), || server.ask("web") == (NOERROR, 2)).await;
    assert!(server.metrics.total(Event::WatchFailures) >= 1, "noticed, and not by chance");
}

#[tokio::test(start_paused = true)]
async fn k6_detects_dead_connection_within_25_seconds() {
    let fake = cluster();
    let mut server = Server::synced(fake.connect(), paged()).await;
    until(seconds(5), || fake.count(SLICES, RequestKind::Watch) == 1).await;
    fake.fault(first(1, only(SLICES, &[RequestKind::Watch], Fault::Silence)));
    until(seconds(60), || fake.count(SLICES, RequestKind::Watch) == 2).await;
    fake.apply(SLICES, slice("web-2", "web", "10.0.0.2"));
    until(seconds(25), || server.ask("web") == (NOERROR, 2)).await;
}

#[tokio::test(start_paused = true)]
async fn k6_stopped_api_server() {
    for timing in [paged(), Timing::default()] {
        for age in [0, 15, 29, 31, 38, 45, 70] {
            let fake = cluster();
            let mut server = Server::synced(fake.connect(), timing).await;
            sleep(seconds(age)).await;
            fake.freeze();
            let lost = |status: &Status| {
                status
                    .watches()
                    .iter()
                    .filter(|watch| watch.required)
                    .all(|watch| matches!(watch.state, WatchState::Lost(_)))
            };
            let took = until(seconds(21), || lost(&server.status)).await;
            assert!(took > seconds(1), "after {took:?}: not because a request was refused");
            let marked = took + until(seconds(31), || server.is(DataState::Stale)).await;
            assert!(marked <= seconds(32), "30 s after the last octet: {marked:?}");
            assert!(server.answers("web"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn k7_undecodable_object_in_list() {
    for timing in both() {
        let fake = cluster();
        let mut bad = service("bad");
        bad["spec"]["ports"] = json!(7);
        fake.apply(SERVICES, bad);
        let mut server = Server::synced(fake.connect(), timing).await;
        assert!(server.answers("web"));
        assert_eq!(server.ask("bad"), (NXDOMAIN, 0));
        assert_eq!(server.metrics.total(Event::ObjectsSkipped), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn k8_undecodable_event() {
    for timing in both() {
        let fake = cluster();
        let mut server = Server::synced(fake.connect(), timing).await;
        until(seconds(5), || fake.count(SLICES, RequestKind::Watch) + fake.count(SLICES, RequestKind::Stream) == 1)
            .await;
        // The event is broken, the object is not.
        let mut bad = slice("web", "web", "10.0.0.2");
        bad["addressType"] = json!(4);
        let mut good = slice("web", "web", "10.0.0.2");
        good["endpoints"].as_array_mut().unwrap().push(json!({"addresses": ["10.0.0.3"]}));
        fake.apply_in_secret(SLICES, good);
        fake.line(SLICES, &event("MODIFIED", &bad));
        until(seconds(1), || server.ask("web") == (NOERROR, 2)).await;
        assert_eq!(server.metrics.total(Event::ObjectsSkipped), 1);
        assert_eq!((fake.count(SLICES, RequestKind::Look), fake.lists(SLICES)), (1, 1), "that object, and no other");
        // The object is broken: it makes no record, and stops nothing.
        fake.apply(SLICES, bad);
        add(&fake, "next", "10.0.0.4");
        until(seconds(1), || server.answers("next")).await;
        assert_eq!(server.ask("web").1, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn k9_objects_without_name_and_ended_task() {
    for timing in both() {
        let fake = cluster();
        fake.apply(SERVICES, json!({"kind": "Service", "apiVersion": "v1", "metadata": {"namespace": "default"}}));
        fake.apply(SERVICES, json!({"kind": "Service", "apiVersion": "v1", "metadata": {}}));
        let (connect, calls) = (fake.connect(), Arc::new(AtomicUsize::new(0)));
        let panics: Connect = Arc::new(move || {
            assert!(calls.fetch_add(1, Ordering::Relaxed) > 0, "a watch that panics");
            connect()
        });
        let mut server = Server::synced(panics, timing).await;
        assert_eq!(server.metrics.total(Event::WatchRestarts), 1);
        fake.apply(SERVICES, json!({"kind": "Service", "apiVersion": "v1", "metadata": {}}));
        add(&fake, "next", "10.0.0.4");
        until(seconds(1), || server.answers("next")).await;
        assert!(server.answers("web"));
        assert_eq!(server.metrics.total(Event::WatchRestarts), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn k10_unreachable_api_server() {
    let fake = cluster();
    let mut server = Server::synced(fake.connect(), Timing::default()).await;
    fake.fault(|_| Some(Fault::Refused));
    fake.cut();
    sleep(seconds(25)).await;
    assert!(server.is(DataState::Current) && server.answers("web"), "30 s are no reason yet");
    sleep(seconds(10)).await;
    for _ in 0..30 {
        assert!(server.is(DataState::Stale) && server.answers("web"));
        assert_eq!(server.ask("none"), (NXDOMAIN, 0));
        sleep(seconds(10)).await;
    }
    for (name, code) in [("web", 3), ("none", 19)] {
        let (said, text) = server.extended(name);
        assert_eq!(said, code, "{name}: {text}");
        let lost = text.strip_prefix("STALE: the API server has been out of reach for ").unwrap();
        let lost: u64 = lost.split(' ').next().unwrap().parse().unwrap();
        assert!((330..=336).contains(&lost), "the API server was lost 335 s ago: {text}");
    }
    fake.heal();
    add(&fake, "next", "10.0.0.4");
    until(seconds(14), || server.is(DataState::Current) && server.answers("next")).await;
}

#[tokio::test(start_paused = true)]
async fn relist_publishes_whole_services() {
    let fake = cluster();
    fake.set_page(1);
    fake.apply(SLICES, slice("web", "web", "10.0.0.1"));
    let mut server = Server::synced(fake.connect(), paged()).await;
    // Another slice took its place, first in the list; the next page does not come.
    fake.apply_in_secret(SLICES, slice("a", "web", "10.0.0.2"));
    fake.delete_in_secret(SLICES, slice("web", "web", "10.0.0.1"));
    add(&fake, "z", "10.0.0.3");
    fake.fault(first(1, |asked: &ApiRequest| {
        (asked.resource == SLICES && asked.query.contains_key("continue")).then_some(Fault::Hang)
    }));
    fake.fault(first(1, only(SLICES, &[RequestKind::Watch], Fault::Status(410))));
    fake.cut();
    let lists = fake.count(SLICES, RequestKind::List);
    until(seconds(5), || fake.count(SLICES, RequestKind::List) == lists + 2).await;
    for _ in 0..10 {
        assert_eq!(server.address("web"), [10, 0, 0, 1], "as it was");
        // A Service's own change, meanwhile, shows it no earlier.
        let mut ports = service("web");
        ports["spec"]["ports"] = json!([]);
        fake.apply(SERVICES, ports);
        sleep(seconds(1)).await;
    }
    until(seconds(62), || server.address("web") == [10, 0, 0, 2] && server.answers("z")).await;
}

#[tokio::test(start_paused = true)]
async fn starts_before_api_server() {
    let fake = cluster();
    fake.fault(|_| Some(Fault::Refused));
    fake.apply("namespaces", json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "empty"}}));
    let mut server = Server::start(fake.connect(), Timing::default());
    let reverse = common::query(7, &common::wire("1.0.77.10.in-addr.arpa"), 12, None);
    for _ in 0..60 {
        sleep(seconds(1)).await;
        assert_eq!((server.ask("web"), server.ask("none")), ((SERVFAIL, 0), (SERVFAIL, 0)));
        let response = server.engine.ask(Transport::Udp, &reverse).unwrap();
        assert_eq!(response[3] & 0x0f, SERVFAIL, "a reverse zone that is asked for is neither refused nor denied");
    }
    fake.heal();
    // It denies everything before it has read its roles.
    fake.fault(|_| Some(Fault::Status(403)));
    sleep(Duration::from_millis(500)).await;
    fake.heal();
    until(seconds(3), || server.is(DataState::Current)).await;
    assert!(server.answers("web"));
    let empty = common::query(7, &common::wire("empty.svc.cluster.local"), 1, None);
    let response = server.engine.ask(Transport::Udp, &empty).unwrap();
    assert_eq!(response[3] & 0x0f, NOERROR, "what is optional was read too: whoever is back first wakes the others");
}

#[tokio::test(start_paused = true)]
async fn k11_suddenly_empty_relist() {
    for timing in both() {
        let fake = cluster();
        for number in 0..200 {
            add(&fake, &format!("web-{number}"), &format!("10.1.0.{number}"));
        }
        let mut server = Server::synced(fake.connect(), timing).await;
        // The client of the probe is there too.
        sleep(seconds(12)).await;
        let clients = fake.clients();
        fake.fault(first(1, only(SERVICES, LISTS, Fault::Empty)));
        fake.fault(first(1, only(SERVICES, &[RequestKind::Watch], Fault::Status(410))));
        fake.cut();
        let lists = fake.lists(SERVICES);
        for _ in 0..300 {
            assert!(server.answers("web-7"), "never gone");
            sleep(Duration::from_millis(50)).await;
        }
        assert!(fake.lists(SERVICES) > lists + 1, "listed twice");
        assert!(fake.count(SERVICES, RequestKind::List) > 0, "the second time in pages");
        assert_eq!(fake.clients(), clients + 1, "over a new connection");
        // Two equal results confirm it.
        fake.fault(only(SERVICES, LISTS, Fault::Empty));
        fake.fault(first(1, only(SERVICES, &[RequestKind::Watch], Fault::Status(410))));
        fake.cut();
        until(seconds(15), || server.ask("web-7") == (NXDOMAIN, 0)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn k12_rejected_streaming_lists() {
    let fake = cluster();
    fake.refuse_streams();
    let mut server = Server::start(fake.connect(), Timing::default());
    until(seconds(1), || server.is(DataState::Current)).await;
    fake.fault(first(1, only(SERVICES, &[RequestKind::Watch], Fault::Status(410))));
    fake.cut();
    until(seconds(15), || fake.count(SERVICES, RequestKind::List) == 2).await;
    assert_eq!(fake.count(SERVICES, RequestKind::Stream), 1, "remembered");
    assert!(server.answers("web"));
}

#[tokio::test(start_paused = true)]
async fn k13_api_server_restored_from_backup() {
    for timing in both() {
        let fake = cluster();
        fake.set_version(1000);
        add(&fake, "web", "10.0.0.1");
        let mut server = Server::synced(fake.connect(), timing).await;
        until(seconds(5), || fake.count(SLICES, RequestKind::Watch) + fake.count(SLICES, RequestKind::Stream) > 0)
            .await;
        // Restored from a backup that has another endpoint; the watch from the old version stays silent.
        fake.set_version(500);
        fake.apply_in_secret(SLICES, slice("web-2", "web", "10.0.0.2"));
        let took = until(seconds(62), || server.ask("web") == (NOERROR, 2)).await;
        assert!(took <= seconds(62), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn k13_versions_newer_than_last_probe() {
    let fake = cluster();
    fake.set_version(1000);
    let timing = Timing { watch: seconds(280), ..paged() };
    let mut server = Server::synced(fake.connect(), timing).await;
    sleep(seconds(50)).await;
    fake.set_version(2000);
    add(&fake, "next", "10.0.0.3");
    until(seconds(1), || server.answers("next")).await;
    // The backup is newer than the last probe, and older than later events.
    fake.set_version(1500);
    fake.apply_in_secret(SLICES, slice("web-2", "web", "10.0.0.2"));
    let took = until(seconds(62), || server.ask("web") == (NOERROR, 2)).await;
    assert!(took < seconds(12), "the probe that was due: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn k13_probe_at_reconnect() {
    for timing in [paged(), Timing::default()] {
        let fake = cluster();
        fake.set_version(1000);
        add(&fake, "next", "10.0.0.3");
        let mut server = Server::synced(fake.connect(), timing).await;
        // Restored, and written to: soon its versions are as high as they were.
        fake.set_version(500);
        fake.apply_in_secret(SLICES, slice("web-2", "web", "10.0.0.2"));
        fake.cut();
        until(seconds(3), || server.ask("web") == (NOERROR, 2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn k13_silent_watch() {
    let fake = cluster();
    let timing = Timing { watch: seconds(280), version_check: seconds(100_000), audit: seconds(100_000), ..paged() };
    let mut server = Server::synced(fake.connect(), timing).await;
    until(seconds(5), || fake.count(SLICES, RequestKind::Watch) == 1).await;
    let clients = fake.clients();
    fake.apply_in_secret(SLICES, slice("web-2", "web", "10.0.0.2"));
    let took = until(seconds(151), || server.ask("web") == (NOERROR, 2)).await;
    assert!(took > seconds(140), "{took:?}");
    assert!(fake.clients() > clients, "over a new connection");
}

#[tokio::test(start_paused = true)]
async fn k14_lost_event() {
    for timing in both() {
        let fake = cluster();
        let mut server = Server::synced(fake.connect(), timing).await;
        fake.apply_in_secret(SLICES, slice("web-2", "web", "10.0.0.2"));
        until(seconds(17 * 60), || server.ask("web") == (NOERROR, 2)).await;
        assert_eq!(server.metrics.total(Event::AuditRepairs), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn builds_changed_services_only() {
    const ALL: [&str; 4] = [SERVICES, SLICES, "namespaces", "statefulsets"];
    for timing in both() {
        let fake = cluster();
        fake.apply("namespaces", json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "default"}}));
        let set = json!({"kind": "StatefulSet", "apiVersion": "apps/v1", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"serviceName": "web", "replicas": 3, "template": {}}});
        fake.apply("statefulsets", set);
        for number in 0..100 {
            add(&fake, &format!("web-{number}"), &format!("10.1.0.{number}"));
        }
        let mut server = Server::synced(fake.connect(), timing).await;
        let published = server.metrics.total(Event::Published);
        assert!(published >= 102, "101 Services and a namespace: {published}");
        // Everything again, with the same versions.
        let lists = ALL.map(|resource| fake.listed(resource));
        for resource in ALL {
            fake.fault(first(1, only(resource, &[RequestKind::Watch], Fault::Status(410))));
        }
        fake.cut();
        until(seconds(20), || ALL.map(|resource| fake.listed(resource)) == lists.map(|count| count + 1)).await;
        sleep(seconds(1)).await;
        assert_eq!(server.metrics.total(Event::Published), published, "a relist that changes nothing");
        // Other versions, which change no answer. The object without a name comes after them, and is counted.
        let mut touched = service("web");
        touched["metadata"]["annotations"] = json!({"touched": "yes"});
        fake.apply(SERVICES, touched);
        let mut touched = slice("web", "web", "10.0.0.1");
        touched["endpoints"][0]["nodeName"] = json!("other");
        fake.apply(SLICES, touched);
        for resource in [SERVICES, SLICES] {
            fake.apply(resource, json!({"metadata": {}}));
        }
        until(seconds(1), || server.metrics.total(Event::ObjectsSkipped) == 2).await;
        assert_eq!(server.metrics.total(Event::Published), published, "versions alone");
        assert!(server.answers("web"));
    }
}

#[tokio::test(start_paused = true)]
async fn measures_propagation_latency() {
    const COUNT: &str =
        "coredns_kubernetes_dns_programming_duration_seconds_count{service_kind=\"headless_with_selector\"}";
    const SUM: &str =
        "coredns_kubernetes_dns_programming_duration_seconds_sum{service_kind=\"headless_with_selector\"}";
    let written = |name: &str, address: &str, time: &str| {
        let mut slice = slice(name, name, address);
        slice["metadata"]["annotations"] = json!({"endpoints.kubernetes.io/last-change-trigger-time": time});
        slice
    };
    for timing in both() {
        let fake = cluster();
        let mut selecting = service("timed");
        selecting["spec"]["selector"] = json!({"app": "timed"});
        fake.apply(SERVICES, selecting);
        fake.apply(SLICES, written("timed", "10.0.0.2", "2020-01-01T00:00:00Z"));
        let mut server = Server::synced(fake.connect(), timing).await;
        assert!(server.answers("timed"));
        assert_eq!(server.shown(COUNT), 0.0, "what a list says may have changed long ago");
        // Not of a Service without a selector, nor where nothing of it is answered otherwise, nor without a time.
        fake.apply(SLICES, written("web", "10.0.0.7", "2021-01-01T00:00:00Z"));
        fake.apply(SLICES, written("timed", "10.0.0.2", "2021-01-01T00:00:00Z"));
        fake.apply(SLICES, slice("timed", "timed", "10.0.0.3"));
        fake.apply(SLICES, written("timed", "10.0.0.4", "not a time"));
        until(seconds(1), || server.address("timed") == [10, 0, 0, 4]).await;
        assert_eq!(server.shown(COUNT), 0.0);
        fake.apply(SLICES, written("timed", "10.0.0.5", "2022-01-01T00:00:00.5+01:00"));
        until(seconds(1), || server.address("timed") == [10, 0, 0, 5]).await;
        assert_eq!(server.shown(COUNT), 1.0);
        let since = UNIX_EPOCH + Duration::from_millis(1_640_991_600_500);
        let expected = SystemTime::now().duration_since(since).unwrap().as_secs_f64();
        let took = server.shown(SUM);
        assert!((expected - 60.0..=expected).contains(&took), "{took} s, and not {expected}");
        // By a clock that is ahead of ours.
        fake.apply(SLICES, written("timed", "10.0.0.6", "2200-01-01T00:00:00Z"));
        until(seconds(1), || server.address("timed") == [10, 0, 0, 6]).await;
        assert_eq!((server.shown(COUNT), server.shown(SUM)), (2.0, took));
        assert!(server.shown("headless_dns_publish_duration_seconds_count") >= 3.0);
    }
}

#[tokio::test(start_paused = true)]
async fn counts_relists_and_skipped_objects() {
    for timing in both() {
        let fake = cluster();
        let mut server = Server::synced(fake.connect(), timing).await;
        let lists = |reason| format!("headless_dns_watch_lists_total{{resource=\"services\",reason=\"{reason}\"}}");
        let failures =
            |reason| format!("headless_dns_watch_failures_total{{resource=\"services\",reason=\"{reason}\"}}");
        let counts = [lists("start"), lists("gone"), failures("gone")].map(|series| server.shown(&series));
        assert_eq!(counts, [1.0, 0.0, 0.0]);
        sleep(seconds(6)).await;
        let listed = fake.listed(SERVICES);
        fake.fault(first(1, only(SERVICES, &[RequestKind::Watch], Fault::Status(410))));
        fake.cut();
        until(seconds(20), || fake.listed(SERVICES) > listed).await;
        let mut bad = slice("web", "web", "10.0.0.2");
        bad["endpoints"].as_array_mut().unwrap().push(json!({"addresses": ["none"]}));
        fake.apply(SLICES, bad);
        fake.apply(SLICES, json!({"metadata": {}}));
        add(&fake, "next", "10.0.0.9");
        until(seconds(1), || server.answers("next")).await;
        assert!(server.shown(&lists("gone")) >= 1.0);
        assert!(server.shown(&failures("gone")) >= 1.0);
        for reason in ["address", "invalid"] {
            assert_eq!(server.shown(&format!("headless_dns_objects_rejected_total{{reason=\"{reason}\"}}")), 1.0);
        }
        let published = server.metrics.total(Event::Published) as f64;
        assert_eq!(server.shown("headless_dns_published_total"), published);
        assert_eq!(server.shown("headless_dns_watch_state{resource=\"services\",state=\"current\"}"), 1.0);
        until(seconds(2), || server.shown("headless_dns_lost_seconds") == 0.0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn k15_missing_permission() {
    for (timing, kinds, verb) in [
        (paged(), LISTS, "list"),
        (paged(), &[RequestKind::Watch], "watch"),
        // A list that is asked for as a stream is a watch.
        (Timing::default(), &[RequestKind::Stream, RequestKind::Watch], "watch"),
    ] {
        let fake = cluster();
        fake.fault(only("namespaces", LISTS, Fault::Status(403)));
        fake.fault(only("statefulsets", LISTS, Fault::Status(404)));
        let mut server = Server::synced(fake.connect(), timing).await;
        assert!(server.answers("web"), "the optional ones change nothing");
        sleep(seconds(60)).await;
        let asked = fake.lists("namespaces");
        sleep(seconds(600)).await;
        assert!(fake.lists("namespaces") <= asked + 11, "and are asked for at leisure");

        let fake = cluster();
        fake.fault(only(SLICES, kinds, Fault::Status(403)));
        let mut server = Server::start(fake.connect(), timing);
        sleep(seconds(60)).await;
        assert!(server.is(DataState::NotSynced));
        assert_eq!(server.ask("none"), (SERVFAIL, 0));
        let waits = format!("endpointslices: the API server does not allow `{verb}`");
        assert_eq!(server.status.waiting_for(), [&*waits]);
        let (code, text) = server.extended("web");
        let waited =
            text.strip_prefix("FORBIDDEN: waited for ").and_then(|rest| rest.strip_suffix(&format!(" s; {waits}")));
        assert!(code == 14 && (58..=60).contains(&waited.unwrap().parse::<u64>().unwrap()), "{code} {text}");
        fake.heal();
        until(seconds(12), || server.is(DataState::Current)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn k15_permissions_missing_for_a_moment() {
    let fake = cluster();
    let empty = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "empty"}});
    let mut server = Server::synced(fake.connect(), Timing::default()).await;
    sleep(seconds(61)).await;
    // An API server that starts again denies everything before it has read its roles.
    fake.fault(|_| Some(Fault::Refused));
    fake.cut();
    sleep(seconds(20)).await;
    fake.fault(|_| Some(Fault::Status(403)));
    sleep(seconds(11)).await;
    assert!(server.answers("web"));
    fake.heal();
    fake.apply("namespaces", empty);
    let name = common::query(7, &common::wire("empty.svc.cluster.local"), 1, None);
    until(seconds(12), || server.engine.ask(Transport::Udp, &name).unwrap()[3] & 0x0f == NOERROR).await;
}

/// With a Role only: whatever is asked for outside the namespace is refused, as RBAC does.
#[tokio::test(start_paused = true)]
async fn follows_one_namespace() {
    for timing in [paged(), Timing::default()] {
        let fake = cluster();
        let elsewhere = |mut object: Value| {
            object["metadata"]["namespace"] = json!("other");
            object
        };
        fake.apply(SERVICES, elsewhere(service("there")));
        fake.apply(SLICES, elsewhere(slice("there", "there", "10.9.0.1")));
        let mut alias = service("alias");
        alias["spec"] = json!({"type": "ExternalName", "externalName": "there.other.svc.cluster.local"});
        fake.apply(SERVICES, alias);
        fake.fault(|asked| (asked.namespace.as_deref() != Some("default")).then_some(Fault::Status(403)));
        let scope = Scope { namespace: Some("default".into()), selector: None };
        let mut server = Server::of(fake.connect(), timing, scope);
        assert_eq!(server.ask("web"), (SERVFAIL, 0), "not synced");
        until(seconds(2), || server.is(DataState::Current)).await;
        assert!(server.answers("web"));
        add(&fake, "new", "10.0.0.2");
        fake.apply(SLICES, elsewhere(slice("there", "there", "10.9.0.2")));
        until(seconds(1), || server.answers("new")).await;
        assert_eq!(server.ask("none"), (NXDOMAIN, 0));
        // N26: names of unknown namespaces are not denied.
        for (name, qtype, expected) in [
            ("default.svc.cluster.local", 1, (NOERROR, 0)),
            ("there.other.svc.cluster.local", 1, (REFUSED, 0)),
            ("_http._tcp.there.other.svc.cluster.local", 33, (REFUSED, 0)),
            ("x.there.other.svc.cluster.local", 1, (REFUSED, 0)),
            ("other.svc.cluster.local", 1, (REFUSED, 0)),
            ("other.pod.cluster.local", 1, (REFUSED, 0)),
            ("10-9-0-1.other.pod.cluster.local", 1, (REFUSED, 0)),
            ("nope.cluster.local", 1, (NXDOMAIN, 0)),
            ("cluster.local", 6, (NOERROR, 1)),
            ("1.0.0.10.in-addr.arpa", 12, (NOERROR, 1)),
            ("0.0.10.in-addr.arpa", 12, (NOERROR, 0)),
            ("9.9.0.10.in-addr.arpa", 12, (REFUSED, 0)),
            ("9.0.10.in-addr.arpa", 12, (REFUSED, 0)),
            // N14: the target is in another namespace, so the answer is the CNAME alone.
            ("alias.default.svc.cluster.local", 1, (NOERROR, 1)),
        ] {
            assert_eq!(server.ask_whole(name, qtype), expected, "{name}");
        }
        // The namespace is an option: its watches and no others, and it exists without Services.
        let resources: std::collections::BTreeSet<_> = fake.asked().into_iter().map(|asked| asked.resource).collect();
        assert_eq!(Vec::from_iter(resources), [SLICES, SERVICES, "statefulsets"]);
        for name in ["web", "new"] {
            fake.delete(SERVICES, service(name));
        }
        fake.delete(SERVICES, service("alias"));
        until(seconds(1), || server.ask("web") == (NXDOMAIN, 0)).await;
        assert_eq!(server.ask_whole("default.svc.cluster.local", 1), (NOERROR, 0));
        // K8 over the namespaced path.
        let mut bad = service("again");
        bad["spec"]["ports"] = json!(7);
        fake.apply_in_secret(SERVICES, service("again"));
        fake.apply(SLICES, slice("again", "again", "10.0.0.3"));
        fake.line(SERVICES, &event("MODIFIED", &bad));
        until(seconds(1), || server.answers("again")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn selects_services_by_label() {
    for timing in [paged(), Timing::default()] {
        let fake = cluster();
        let labelled = |name: &str, tier: &str| {
            let mut service = service(name);
            service["metadata"]["labels"] = json!({"tier": tier});
            service
        };
        for (name, address) in [("a", "10.0.0.2"), ("b", "10.0.0.3")] {
            add(&fake, name, address);
        }
        fake.apply(SERVICES, labelled("a", "front"));
        fake.apply(SERVICES, labelled("b", "back"));
        let scope = Scope { namespace: None, selector: Some("tier=front".into()) };
        let mut server = Server::of(fake.connect(), timing, scope);
        until(seconds(2), || server.is(DataState::Current)).await;
        assert!(server.answers("a"));
        assert_eq!((server.ask("b"), server.ask("web")), ((NXDOMAIN, 0), (NXDOMAIN, 0)));
        // A Service that is not selected exists: its name is not denied.
        let whole = cluster();
        let mut all = Server::of(whole.connect(), timing, Scope::default());
        until(seconds(2), || all.is(DataState::Current)).await;
        for fake in [&fake, &whole] {
            for (set, service) in [("s", "b"), ("t", "gone")] {
                let metadata = json!({"namespace": "default", "name": set});
                fake.apply(
                    "statefulsets",
                    json!({"kind": "StatefulSet", "apiVersion": "apps/v1", "metadata": metadata,
                    "spec": {"serviceName": service, "replicas": 1}}),
                );
            }
        }
        until(seconds(1), || all.extended("t-0.gone").1.starts_with("STS-NO-SERVICE")).await;
        assert_eq!(server.extended("t-0.gone"), (0, String::new()));
        assert_eq!(server.extended("s-0.b"), (0, String::new()));
        // A changed label: the API server sends that one is deleted and the other added.
        fake.apply(SERVICES, labelled("a", "back"));
        fake.apply(SERVICES, labelled("b", "front"));
        until(seconds(1), || server.ask("a") == (NXDOMAIN, 0) && server.answers("b")).await;
        let selects = |asked: &ApiRequest| asked.query.contains_key("labelSelector");
        assert!(fake.asked().iter().all(|asked| selects(asked) == (asked.resource == SERVICES)));
    }
}

#[tokio::test]
async fn k16_rotated_token() {
    let fake = cluster();
    let url = fake.listen().await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "first").unwrap();
    let valid = Arc::new(Mutex::new("first"));
    let taken = Arc::clone(&valid);
    fake.fault(move |asked| (asked.token != format!("Bearer {}", taken.lock().unwrap())).then_some(Fault::Status(401)));
    let config = kubeconfig(&url, &json!({"tokenFile": token.to_str().unwrap()}));
    let path = folder.path().join("config");
    std::fs::write(&path, config.to_string()).unwrap();
    let connect = find(Some(&path), None).await.unwrap().connect;
    let mut server = Server::synced(connect, short()).await;
    for (round, next) in ["second", "third"].into_iter().enumerate() {
        std::fs::write(&token, next).unwrap();
        *valid.lock().unwrap() = next;
        fake.cut();
        let name = format!("new-{round}");
        add(&fake, &name, "10.0.0.4");
        until(seconds(20), || {
            assert!(server.answers("web"), "answered meanwhile");
            server.answers(&name)
        })
        .await;
    }
}

#[tokio::test]
async fn k16_rotated_certificate_authority() {
    let fake = cluster();
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.crt");
    std::fs::write(&authority, include_str!("tls/old.pem")).unwrap();
    let acceptor = |certificate, key| TlsAcceptor::from(Arc::new(identity(certificate, key)));
    let present = Arc::new(Mutex::new(acceptor(include_bytes!("tls/old.pem"), include_bytes!("tls/old.key"))));
    let presented = Arc::clone(&present);
    let address = fake.accept(move |stream| presented.lock().unwrap().accept(stream)).await;
    let mut config = kubeconfig(&format!("https://{address}"), &json!({}));
    config["clusters"][0]["cluster"]["certificate-authority"] = json!(authority.to_str().unwrap());
    let path = folder.path().join("config");
    std::fs::write(&path, config.to_string()).unwrap();
    let connect = find(Some(&path), None).await.unwrap().connect;
    let mut server = Server::synced(connect, short()).await;
    // First the API server's certificate, then the authority that verifies it.
    *present.lock().unwrap() = acceptor(include_bytes!("tls/new.pem"), include_bytes!("tls/new.key"));
    let failures = server.metrics.total(Event::WatchFailures);
    fake.cut();
    add(&fake, "next", "10.0.0.4");
    until(seconds(20), || {
        assert!(server.answers("web") && server.ask("next") == (NXDOMAIN, 0), "not trusted, and answered meanwhile");
        server.metrics.total(Event::WatchFailures) >= failures + 10
    })
    .await;
    std::fs::write(&authority, include_str!("tls/new.pem")).unwrap();
    until(seconds(20), || server.answers("next")).await;
    assert!(server.answers("web"));
}

fn identity(certificate: &[u8], key: &[u8]) -> rustls::ServerConfig {
    let certificate = CertificateDer::from_pem_slice(certificate).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_once_and_serves() {
    let fake = cluster();
    let url = fake.listen().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    std::fs::write(&path, kubeconfig(&url, &json!({})).to_string()).unwrap();
    let program = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_headless-dns"));
        command.env_clear();
        command
    };
    let mut records = program();
    records.arg("records").arg("--kubeconfig").arg(&path);
    let output = tokio::task::spawn_blocking(move || records.output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("web.default.svc.cluster.local.\t5\tIN\tA\t10.0.0.1\n"), "{text}");
    // The banner is printed after the first sync.
    let mut serve = program();
    serve.args(["serve", "--listen", "127.0.0.1:0", "--workers", "1", "--kubeconfig"]).arg(&path);
    let mut child = serve.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let output = child.stdout.take().unwrap();
    let banner = tokio::task::spawn_blocking(move || {
        let lines = std::io::BufRead::lines(std::io::BufReader::new(output));
        lines.take(5).map(Result::unwrap).collect::<Vec<_>>().join("\n")
    });
    let banner = banner.await.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(banner.contains(&format!("source  {url}/")) && banner.contains("with 1 Services"), "{banner}");
}

/// A server that is ended with its value.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Code and extended error of the answer for a Service of the namespace `default`; none if no server has the port.
fn ask_at(port: u16, name: &str) -> Option<(u8, Option<u16>)> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(seconds(20))).unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    let name = common::wire(&format!("{name}.default.svc.cluster.local"));
    socket.send(&common::query(9, &name, 1, Some(1232))).ok()?;
    let mut response = [0; 2048];
    let length = socket.recv(&mut response).ok()?;
    Some((response[3] & 0x0f, common::extended(&response[..length]).map(|(code, _)| code)))
}

/// `--snapshot`: its names are answered as stale, other names are not denied, and the cluster replaces it.
#[tokio::test(flavor = "multi_thread")]
async fn starts_from_snapshot_without_api_server() {
    const STALE: Option<u16> = Some(3);
    const NOT_READY: Option<u16> = Some(14);
    let fake = cluster();
    add(&fake, "gone", "10.1.0.9");
    let url = fake.listen().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("config"), kubeconfig(&url, &json!({})).to_string()).unwrap();
    // The servers start one after the other, and print their addresses only after the sync.
    let reserved = common::ports::ReservedPort::new();
    let port = reserved.port();
    let start = || {
        let mut serve = std::process::Command::new(env!("CARGO_BIN_EXE_headless-dns"));
        serve.env_clear().args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--kubeconfig", &path("config")]);
        serve.args(["--snapshot", &path("snapshot")]).stdout(std::process::Stdio::null());
        Running(serve.stderr(std::fs::File::create(path("log")).unwrap()).spawn().unwrap())
    };
    let log = || std::fs::read_to_string(path("log")).unwrap();
    let first = start();
    until(seconds(20), || ask_at(port, "web") == Some((NOERROR, None))).await;
    until(seconds(20), || std::fs::exists(path("snapshot")).unwrap()).await;
    drop(first);

    fake.fault(|_| Some(Fault::Status(503)));
    fake.delete(SLICES, slice("gone", "gone", "10.1.0.9"));
    fake.delete(SERVICES, service("gone"));
    add(&fake, "new", "10.1.0.10");
    let second = start();
    // The API server fails until later: the answer does not wait for it.
    until(seconds(20), || ask_at(port, "web").is_some()).await;
    for _ in 0..5 {
        assert_eq!(ask_at(port, "web"), Some((NOERROR, STALE)), "{}", log());
        assert_eq!(ask_at(port, "gone"), Some((NOERROR, STALE)));
        assert_eq!(ask_at(port, "new"), Some((SERVFAIL, NOT_READY)));
        assert_eq!(ask_at(port, "never"), Some((SERVFAIL, NOT_READY)));
    }
    // A thread of its own writes the log.
    until(seconds(20), || log().contains("answering from a snapshot that was current ")).await;
    fake.heal();
    until(seconds(60), || ask_at(port, "new") == Some((NOERROR, None))).await;
    until(seconds(20), || ask_at(port, "web") == Some((NOERROR, None))).await;
    for name in ["gone", "never"] {
        assert_eq!(ask_at(port, name).map(|(code, _)| code), Some(NXDOMAIN), "{name}");
    }
    drop(second);

    // An unusable snapshot is logged once, and otherwise ignored.
    std::fs::write(path("snapshot"), "damaged").unwrap();
    fake.fault(|_| Some(Fault::Status(503)));
    let _third = start();
    until(seconds(20), || ask_at(port, "web") == Some((SERVFAIL, NOT_READY))).await;
    let refused = "is not used: the file is no snapshot, or of another version of headless-dns";
    until(seconds(20), || log().contains(refused)).await;
}

/// SIGTERM writes a snapshot with the changes since the last periodic one, which is at most 30 s old.
#[tokio::test(flavor = "multi_thread")]
async fn writes_snapshot_at_shutdown() {
    let fake = cluster();
    let url = fake.listen().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("config"), kubeconfig(&url, &json!({})).to_string()).unwrap();
    let start = || {
        let mut serve = std::process::Command::new(env!("CARGO_BIN_EXE_headless-dns"));
        serve.env_clear().args(["serve", "--listen", "127.0.0.1:0", "--admin", "none", "--kubeconfig"]);
        serve.arg(path("config")).arg("--snapshot").arg(path("snapshot"));
        let [out, log] = ["out", "log"].map(|name| std::fs::File::create(path(name)).unwrap());
        Running(serve.stdout(out).stderr(log).spawn().unwrap())
    };
    let read = |name: &str| std::fs::read_to_string(path(name)).unwrap_or_default();
    let mut first = start();
    until(seconds(20), || read("out").contains("\ntry ")).await;
    let out = read("out");
    let port = out.split(" -p ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    until(seconds(20), || read("snapshot").contains("\"web\"")).await;
    add(&fake, "late", "10.1.0.10");
    until(seconds(20), || ask_at(port, "late") == Some((NOERROR, None))).await;
    assert!(!read("snapshot").contains("\"late\""), "it is written every 30 s");
    let id = first.0.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    until(seconds(20), || first.0.try_wait().unwrap().is_some()).await;
    assert!(read("snapshot").contains("\"late\""), "{}", read("log"));
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "nothing is left beside it: {names:?}");
}

/// D18: the command reads Pods with its caller's kubeconfig, where that allows it.
#[tokio::test(flavor = "multi_thread")]
async fn explains_pod_without_address() {
    let fake = cluster();
    fake.apply(
        "statefulsets",
        json!({"kind": "StatefulSet", "apiVersion": "apps/v1",
        "metadata": {"name": "web", "namespace": "default"}, "spec": {"serviceName": "web", "replicas": 2}}),
    );
    fake.apply(
        "pods",
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web-0", "namespace": "default"},
        "status": {"phase": "Pending"}}),
    );
    let url = fake.listen().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    std::fs::write(&path, kubeconfig(&url, &json!({})).to_string()).unwrap();
    let explain = || {
        let mut explain = std::process::Command::new(env!("CARGO_BIN_EXE_headless-dns"));
        explain.env_clear().args(["explain", "web-0.web", "-o", "json", "--kubeconfig"]).arg(&path);
        async {
            let output = tokio::task::spawn_blocking(move || explain.output()).await.unwrap().unwrap();
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
            let findings = explained["findings"].as_array().unwrap();
            let tokens: Vec<_> = findings.iter().map(|finding| finding["token"].as_str().unwrap().to_owned()).collect();
            (tokens, String::from_utf8(output.stderr).unwrap())
        }
    };
    let (tokens, errors) = explain().await;
    assert!(tokens.contains(&"POD-NO-ADDRESS".to_owned()) && errors.is_empty(), "{tokens:?} {errors}");
    fake.fault(|asked| (asked.resource == "pods").then_some(Fault::Status(403)));
    let (tokens, errors) = explain().await;
    assert_eq!(tokens, ["STS-NOT-YET"]);
    assert!(errors.contains("cannot list pods, which are optional: the API server does not allow `list`"), "{errors}");
}

/// Clients of the fake server behind `url`, as `--kubeconfig` makes them.
async fn at(url: &str) -> Connect {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    std::fs::write(&path, kubeconfig(url, &json!({})).to_string()).unwrap();
    find(Some(&path), None).await.unwrap().connect
}

fn kubeconfig(url: &str, user: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Config", "current-context": "fake",
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        "clusters": [{"name": "fake", "cluster": {"server": url}}],
        "users": [{"name": "fake", "user": user}]})
}
