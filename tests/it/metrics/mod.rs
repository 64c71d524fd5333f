//! `/metrics`: exact counts, valid exposition formats; and a dashboard, alert rules and documentation of existing metrics.
//!
//! `UPDATE_EXPECT=1 cargo test --test it metrics` writes the generated files: `config/grafana/headless-dns.json`,
//! `config/prometheus/alerts.yaml`, `docs/metrics.md`.

mod generated;
mod prometheus;
mod scrape;
mod server;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use headless_dns::metrics::table::{FAMILIES, MetricKind};
use headless_dns::metrics::{ExpositionFormat, Metrics, ResponseCounters, ZoneFigures};
use headless_dns_core::answer::{CauseReport, ResponseSummary, ZoneLabel};
use headless_dns_core::rtype;
use headless_dns_core::status::{Loss, LossReason, Status, WatchState, WatchStatus};
use headless_dns_core::transport::Transport;

use crate::common::{self, query, server as process, wire};
use scrape::{Labels, Scrape};
use server::Server;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// A query, and the labels that it is counted under.
struct Case {
    message: Vec<u8>,
    zone: &'static str,
    qtype: &'static str,
    rcode: &'static str,
    dnssec_ok: bool,
}

fn cases() -> Vec<Case> {
    let case = |name: &str, number: u16, zone, qtype, rcode| Case {
        message: query(7, &wire(name), number, None),
        zone,
        qtype,
        rcode,
        dnssec_ok: false,
    };
    let changed = |zone, qtype, rcode, change: fn(&mut Vec<u8>)| {
        let mut message = query(7, &wire("web.default.svc.cluster.local"), rtype::A, Some(1232));
        change(&mut message);
        Case { message, zone, qtype, rcode, dnssec_ok: rcode == "NOERROR" }
    };
    let (zone, alias, web) = ("cluster.local.", "cluster.internal.", "web.default.svc.cluster.local");
    let (v4, v6) = ("in-addr.arpa.", "ip6.arpa.");
    vec![
        case(web, rtype::A, zone, "A", "NOERROR"),
        case(web, rtype::AAAA, zone, "AAAA", "NOERROR"),
        case(web, 15, zone, "MX", "NOERROR"),
        case(web, 65, zone, "HTTPS", "NOERROR"),
        case(web, 65_280, zone, "other", "NOERROR"),
        case(web, rtype::ANY, zone, "ANY", "NOERROR"),
        case("cluster.local", rtype::SOA, zone, "SOA", "NOERROR"),
        case("cluster.local", rtype::NS, zone, "NS", "NOERROR"),
        case("dns-version.cluster.local", rtype::TXT, zone, "TXT", "NOERROR"),
        case("_http._tcp.web.default.svc.cluster.local", rtype::SRV, zone, "SRV", "NOERROR"),
        case("nobody.default.svc.cluster.local", rtype::A, zone, "A", "NXDOMAIN"),
        case("web.default.svc.cluster.internal", rtype::A, alias, "A", "NOERROR"),
        case("1.0.0.10.in-addr.arpa", rtype::PTR, v4, "PTR", "NOERROR"),
        case("9.9.0.10.in-addr.arpa", rtype::PTR, v4, "PTR", "NXDOMAIN"),
        case("0.0.d.f.ip6.arpa", rtype::SOA, v6, "SOA", "NOERROR"),
        case("example.com", rtype::A, "dropped", "A", "REFUSED"),
        case("cluster.local", rtype::AXFR, "dropped", "AXFR", "REFUSED"),
        // The OPT record is last: version, flags, length.
        changed(zone, "A", "NOERROR", |message| *message.iter_mut().nth_back(3).unwrap() = 0x80),
        changed("dropped", "other", "BADVERS", |message| *message.iter_mut().nth_back(4).unwrap() = 1),
        changed("dropped", "other", "NOTIMP", |message| message[2] |= 0x20),
        changed("dropped", "other", "FORMERR", |message| message[5] = 2),
    ]
}

type Counts = BTreeMap<Labels, u64>;
/// Number of messages, and their octets in total, by labels.
type Sizes = BTreeMap<Labels, (u64, u64)>;

#[derive(Default)]
struct Expected {
    requests: Counts,
    responses: Counts,
    with_do: Counts,
    durations: Counts,
    queries: Sizes,
    answers: Sizes,
}

impl Expected {
    fn add(&mut self, case: &Case, to: SocketAddr, proto: &str, response: usize) {
        let of = |labels: &[(&'static str, &str)]| -> Labels {
            let mut labels: Labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            labels.extend([("server", format!("dns://{to}")), ("zone", case.zone.to_owned()), ("view", String::new())]);
            labels.sort();
            labels
        };
        let family = if to.is_ipv4() { "1" } else { "2" };
        let plugin = if case.zone == "dropped" { "" } else { "kubernetes" };
        *self.requests.entry(of(&[("proto", proto), ("family", family), ("type", case.qtype)])).or_default() += 1;
        *self.responses.entry(of(&[("rcode", case.rcode), ("plugin", plugin)])).or_default() += 1;
        *self.durations.entry(of(&[])).or_default() += 1;
        if case.dnssec_ok {
            *self.with_do.entry(of(&[])).or_default() += 1;
        }
        for (sizes, length) in [(&mut self.queries, case.message.len()), (&mut self.answers, response)] {
            let (count, octets) = sizes.entry(of(&[("proto", proto)])).or_default();
            *count += 1;
            *octets += length as u64;
        }
    }
}

/// Each kind of question, so and so often, to every address, over both transports, from several clients to two workers.
#[tokio::test(flavor = "multi_thread")]
async fn counts_are_exact() {
    let server = Server::start(&["127.0.0.1:0", "[::1]:0"], 2);
    let times = usize::try_from(common::scaled(300)).unwrap() + 2;
    let mut expected = Expected::default();
    for to in server.addresses.clone() {
        for turn in 0..times {
            let mut client = server::Udp::to(to);
            for case in cases() {
                expected.add(&case, to, "udp", client.ask(&case.message));
            }
            let mut client = server::Tcp::to(to);
            for case in cases().iter().skip(turn % 3) {
                expected.add(case, to, "tcp", client.ask(&case.message));
            }
        }
    }
    let (asked, addresses) = (times * cases().len(), server.addresses.len());
    let scrape = server.stopped().await;
    assert_eq!(scrape.counts("coredns_dns_requests_total"), expected.requests);
    assert_eq!(scrape.counts("coredns_dns_responses_total"), expected.responses);
    assert_eq!(scrape.counts("coredns_dns_do_requests_total"), expected.with_do);
    assert_eq!(scrape.counts("coredns_dns_request_duration_seconds_count"), expected.durations);
    for (name, sizes) in [("request", &expected.queries), ("response", &expected.answers)] {
        let name = format!("coredns_dns_{name}_size_bytes");
        let (counts, sums) = (scrape.counts(&format!("{name}_count")), scrape.counts(&format!("{name}_sum")));
        let got: Sizes = counts.into_iter().map(|(labels, count)| (labels.clone(), (count, sums[&labels]))).collect();
        assert_eq!(got, *sizes, "{name}");
    }
    let received = scrape.value("headless_dns_received_messages_total", &[("proto", "udp")]);
    assert_eq!(received, (asked * addresses) as f64);
    assert_eq!(scrape.value("headless_dns_tcp_accepted_total", &[]), (times * addresses) as f64);
    assert_eq!(scrape.value("headless_dns_tcp_connections", &[]), 0.0);
    let time = scrape.sum("coredns_dns_request_duration_seconds_sum");
    assert!(time > 0.0 && time < 60.0, "{time} s in all");
}

/// While it is asked: no counter, and no bucket, ever goes back.
#[tokio::test(flavor = "multi_thread")]
async fn counters_never_decrease() {
    let server = Server::start(&["127.0.0.1:0"], 2);
    let to = server.addresses[0];
    let ask = move || {
        let mut client = server::Udp::to(to);
        for _ in 0..common::scaled(3_000) + 20 {
            cases().iter().for_each(|case| _ = client.ask(&case.message));
        }
    };
    let asking = [std::thread::spawn(ask), std::thread::spawn(ask)];
    let mut before = server.scrape(ExpositionFormat::Text);
    let mut scrapes = 0;
    while asking.iter().any(|thread| !thread.is_finished()) {
        let after = server.scrape(ExpositionFormat::Text);
        for (series, value) in before.growing() {
            let now = after.samples.get(series).unwrap_or_else(|| panic!("{series:?} is gone"));
            assert!(now >= value, "{series:?} went from {value} to {now}");
        }
        (before, scrapes) = (after, scrapes + 1);
    }
    asking.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(scrapes > 0);
    let after = server.stopped().await;
    assert!(after.sum("coredns_dns_requests_total") >= 2.0 * 21.0 * cases().len() as f64);
}

/// A series that two listeners share occurs once, with the sum.
#[test]
fn wildcard_sockets_share_server_label() {
    let metrics = Metrics::new(&["cluster.local.".to_owned()]);
    for address in ["0.0.0.0:53", "[::]:53"] {
        let worker = metrics.worker_at(address.parse().unwrap(), Transport::Udp);
        let counters = ResponseCounters::new(worker, Transport::Udp);
        counters.responded(&ResponseSummary {
            length: 60,
            query_length: 40,
            zone: ZoneLabel::served(2),
            qtype: 1,
            rcode: 0,
            dnssec_ok: false,
            truncated: false,
            is_stale: false,
            cause: CauseReport::None,
        });
        counters.observe_latency(Duration::from_millis(1));
    }
    let text = metrics.render(&Status::default(), ZoneFigures::default(), ExpositionFormat::Text);
    let scrape = Scrape::read(&text, ExpositionFormat::Text);
    let value = |name: &str, more: &[(&'static str, &str)]| {
        let common = [("server", "dns://:53"), ("zone", "cluster.local."), ("view", "")];
        scrape.value(name, &[&common, more].concat())
    };
    for family in ["1", "2"] {
        let labels = [("proto", "udp"), ("family", family), ("type", "A")];
        assert_eq!(value("coredns_dns_requests_total", &labels), 1.0);
    }
    assert_eq!(value("coredns_dns_responses_total", &[("rcode", "NOERROR"), ("plugin", "kubernetes")]), 2.0);
    assert_eq!(value("coredns_dns_request_duration_seconds_count", &[]), 2.0);
    assert_eq!(value("coredns_dns_request_duration_seconds_bucket", &[("le", "0.0005")]), 0.0);
    assert_eq!(value("coredns_dns_request_duration_seconds_bucket", &[("le", "0.001")]), 2.0);
}

/// All of the table is shown, in both formats the same, and each series has the labels of the table.
#[tokio::test(flavor = "multi_thread")]
async fn exposition_matches_table() {
    const STRANGE: &str = "a \"b\"\\\n{c=\"d\"}";
    let server = Server::start(&["127.0.0.1:0"], 1);
    let mut client = server::Udp::to(server.addresses[0]);
    cases().iter().for_each(|case| _ = client.ask(&case.message));
    let watch = |resource, state| WatchStatus { resource, required: true, state, since: None };
    let lost = WatchState::Lost(Loss { reason: LossReason::Failing, detail: "a reason".into() });
    server.status.set_watches(vec![watch("services", WatchState::Current), watch("endpointslices", lost)]);
    let metrics = &server.metrics;
    metrics.record_event_time("services", Instant::now());
    for family in FAMILIES.iter().filter(|family| !family.labels.is_empty()) {
        let labels: Vec<&str> = family.labels.iter().map(|_| STRANGE).collect();
        match family.kind {
            MetricKind::Counter => metrics.count(family, &labels),
            MetricKind::Gauge => metrics.set(family, &labels, 1.0),
            MetricKind::Histogram(_) => metrics.observe(family, &labels, Duration::from_millis(3)),
        }
    }
    let (text, open) = (server.scrape(ExpositionFormat::Text), server.scrape(ExpositionFormat::OpenMetrics));
    let shown: Vec<&str> = text.kinds.keys().map(String::as_str).collect();
    // Known only where a cluster is watched, and where there is a certificate.
    let elsewhere = ["headless_dns_lost_seconds", "headless_dns_tls_certificate_expiration_timestamp_seconds"];
    let known = FAMILIES.iter().map(|family| family.name).filter(|name| !elsewhere.contains(name));
    let mut known: Vec<&str> = known.collect();
    known.sort_unstable();
    assert_eq!(shown, known);
    for family in FAMILIES.iter().filter(|family| shown.contains(&family.name)) {
        assert_eq!(text.kinds[family.name], family.kind.word(), "{}", family.name);
        assert!(text.helps[family.name] == family.help && !family.help.ends_with('.'), "{}", family.name);
        let mut labels = family.labels.to_vec();
        labels.sort_unstable();
        for (name, values) in text.samples.keys().filter(|(name, _)| scrape::is_of(name, family)) {
            let names: Vec<&str> = values.iter().map(|(name, _)| *name).filter(|name| *name != "le").collect();
            assert_eq!(names, labels, "{name}");
        }
    }
    let series = |scrape: &Scrape| scrape.samples.keys().cloned().collect::<Vec<_>>();
    assert_eq!(series(&text), series(&open));
    let state = |state| text.value("headless_dns_watch_state", &[("resource", "endpointslices"), ("state", state)]);
    assert_eq!(["waiting", "current", "denied", "lost"].map(state), [0.0, 0.0, 0.0, 1.0]);
    assert_eq!(text.value("headless_dns_objects_rejected_total", &[("reason", STRANGE)]), 1.0);
    assert_eq!(text.value("headless_dns_objects_rejected_total", &[("reason", "address")]), 1.0);
    let sizes = ["services", "endpoints", "reverse_addresses"];
    assert_eq!(sizes.map(|what| text.value(&format!("headless_dns_{what}"), &[])), [1.0, 2.0, 2.0]);
    assert!(text.value("process_open_fds", &[]) > 2.0);
    assert!(text.value("process_resident_memory_bytes", &[]) > 1e6);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let started = text.value("process_start_time_seconds", &[]);
    assert!((now - 3600.0..now + 2.0).contains(&started), "started at {started}, and now it is {now}");
    server.stopped().await;
}
