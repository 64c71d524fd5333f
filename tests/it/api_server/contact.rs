//! K17 to K19 (`tests/rows.md`): the server never floods the API server with requests, whatever its responses, and marks its
//! answers as stale in time, with the reason.

use std::cell::RefCell;
use std::sync::Once;

use bytes::Bytes;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt as _};

use super::*;

/// Collects the log of each thread: every test here runs in its own. One subscriber for all of them: what a callsite is
/// worth is cached for the whole process. Its level is INFO, so that other tests do not pay for finer events.
struct LogCapture;

thread_local! {
    static LINES: RefCell<Vec<(Instant, String)>> = const { RefCell::new(Vec::new()) };
}

impl LogCapture {
    fn collect() -> Self {
        static START: Once = Once::new();
        START.call_once(|| {
            tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Self).with(LevelFilter::INFO))
                .unwrap();
        });
        Self
    }

    /// Lines, and the paused clock's time of each.
    fn since(&self, begun: Instant) -> Vec<(Instant, String)> {
        LINES.with_borrow(|lines| lines.iter().filter(|(at, _)| *at >= begun).cloned().collect())
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for LogCapture {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Message(String);
        impl tracing::field::Visit for Message {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        if *event.metadata().level() <= tracing::Level::INFO && event.metadata().target().starts_with("headless_dns") {
            let mut message = Message(String::new());
            event.record(&mut message);
            LINES.with_borrow_mut(|lines| lines.push((Instant::now(), message.0)));
        }
    }
}

/// The API server's answer to every request of some watches.
struct FaultShape {
    name: &'static str,
    fault: Fault,
    /// The reason in the extended error.
    reason: &'static str,
}

const FAILING: &str = "been failing";
const OUT_OF_REACH: &str = "been out of reach";

fn shapes() -> Vec<FaultShape> {
    let error = |code: u16| event("ERROR", &json!({"kind": "Status", "status": "Failure", "code": code}));
    let huge = std::iter::repeat_n(Bytes::from(vec![b'x'; 1 << 20]), 17).collect();
    let half = vec![Bytes::from_static(br#"{"type":"ADDED","object":{"metadata":{"na"#)];
    let accepted = [
        ("ERROR event 500, end", Fault::Line(error(500))),
        ("ERROR event 410, end", Fault::Line(error(410))),
        ("JSON without a newline", Fault::Line(r#"{"message":"upstream request timeout"}"#.into())),
        ("JSON with a newline", Fault::Line("{\"message\":\"upstream request timeout\"}\n".into())),
        ("HTML", Fault::Line("<html>login</html>\n".into())),
        ("headers, FIN", Fault::Cut(Vec::new())),
        ("empty body", Fault::Line(String::new())),
        ("garbage", Fault::Line("\0\u{ff}\u{1b}[31m\n\n\n".into())),
        ("a line without an end", Fault::Cut(huge)),
        ("a chunk cut half-way", Fault::Cut(half)),
        ("events of unknown types", Fault::Line("{\"type\":\"NEW\",\"object\":{}}\n".repeat(100))),
        ("bookmarks without a version", Fault::Line("{\"type\":\"BOOKMARK\",\"object\":{}}\n".repeat(100))),
        ("objects without a version", Fault::Line("{\"type\":\"ADDED\",\"object\":{}}\n".repeat(100))),
    ];
    let mut shapes = Vec::from(accepted.map(|(name, fault)| FaultShape { name, fault, reason: FAILING }));
    shapes.extend([
        FaultShape { name: "HTTP 401", fault: Fault::Status(401), reason: "not accepted the credentials" },
        FaultShape { name: "HTTP 403", fault: Fault::Status(403), reason: "not allowed `watch` on" },
        FaultShape { name: "HTTP 404", fault: Fault::Status(404), reason: FAILING },
        FaultShape { name: "HTTP 410", fault: Fault::Status(410), reason: FAILING },
        FaultShape { name: "HTTP 429", fault: Fault::Status(429), reason: "been overloaded" },
        FaultShape { name: "HTTP 429, Retry-After: 1", fault: Fault::Busy(429, 1), reason: "been overloaded" },
        FaultShape { name: "HTTP 503, Retry-After: 0", fault: Fault::Busy(503, 0), reason: "been overloaded" },
        FaultShape { name: "HTTP 500", fault: Fault::Status(500), reason: FAILING },
        FaultShape { name: "HTTP 503", fault: Fault::Status(503), reason: FAILING },
        FaultShape { name: "HTTP 504", fault: Fault::Status(504), reason: FAILING },
        FaultShape { name: "connection refused", fault: Fault::Refused, reason: OUT_OF_REACH },
        FaultShape { name: "no answer", fault: Fault::Hang, reason: OUT_OF_REACH },
    ]);
    shapes
}

/// Most starts within any `window`.
fn most_within(window: Duration, starts: &[Instant]) -> usize {
    let within = |first: &Instant| starts.iter().filter(|at| (*first..*first + window).contains(*at)).count();
    starts.iter().map(within).max().unwrap_or(0)
}

/// Subject of a line of the log, without the error behind it.
fn about(line: &str) -> String {
    const REASONS: [&str; 4] = ["credentials", "is overloaded", "is failing", "is out of reach"];
    let reason = REASONS.iter().find(|reason| line.contains(*reason));
    let is_recovery = line.ends_with("are followed again");
    reason.map_or_else(|| if is_recovery { String::new() } else { line.to_owned() }, |reason| (*reason).to_owned())
}

/// One cell of the matrix: plays a shape on some watches for 60 s, and prints and checks the figures.
#[allow(clippy::print_stdout, reason = "the figures of the matrix")]
async fn play(shape: &FaultShape, faulty: &'static [&'static str], timing: Timing) {
    const LASTS: Duration = seconds(60);
    let lines = LogCapture::collect();
    let fake = cluster();
    let mut server = Server::synced(fake.connect(), timing).await;
    sleep(seconds(7)).await;
    let fault = shape.fault.clone();
    let every_request = timing.streaming;
    fake.fault(move |asked| {
        // The probe is of the whole cluster.
        let is_request =
            asked.kind == RequestKind::Watch || every_request && (asked.kind != RequestKind::Look || faulty == ALL);
        let is_faulty = faulty.contains(&asked.resource.as_str()) && is_request;
        is_faulty.then(|| fault.clone())
    });
    let begun = Instant::now();
    fake.cut();
    let (mut marked, mut text) = (None, String::new());
    while begun.elapsed() < LASTS {
        let (code, said) = server.extended("web");
        if code == 3 {
            marked.get_or_insert(begun.elapsed());
            text = said;
        } else {
            assert!(marked.is_none(), "{}: a mark is not taken back while nothing is better", shape.name);
        }
        sleep(Duration::from_millis(500)).await;
    }
    let name = format!(
        "{} × {} watches, {}",
        shape.name,
        faulty.len(),
        if every_request { "every request" } else { "watches alone" }
    );
    let asked: Vec<ApiRequest> = fake.asked().into_iter().filter(|asked| asked.at >= begun).collect();
    let starts = |resource: &str| -> Vec<Instant> {
        asked.iter().filter(|asked| asked.resource == resource).map(|asked| asked.at).collect()
    };
    let total: usize = faulty.iter().map(|resource| starts(resource).len()).sum();
    let most = faulty.iter().map(|resource| most_within(seconds(1), &starts(resource))).max().unwrap();
    // Without those about objects.
    let mut written = lines.since(begun);
    written.retain(|(_, line)| line.contains("API server") || line.contains("followed again"));
    let marked = marked.unwrap_or_else(|| panic!("{name}: no answer says that it is stale"));
    println!(
        "K17 {name:<66} {:>5.2} requests/s per watch, at most {most} within 1 s, {:>2} lines, EDE 3 after {:>4.1} s",
        total as f64 / faulty.len() as f64 / LASTS.as_secs_f64(),
        written.len(),
        marked.as_secs_f64()
    );
    for resource in faulty {
        // The probe of the cluster is no request of the watch, and comes every 10 s at most.
        let most = most_within(seconds(1), &starts(resource));
        assert!(most <= 2 + usize::from(*resource == SERVICES), "{name}: {most} requests for {resource} within 1 s");
    }
    assert!((seconds(30)..=seconds(32)).contains(&marked), "{name}: as for a refused connection: {marked:?}");
    let expected = format!("STALE: the API server has {} ", shape.reason);
    assert!(text.starts_with(&expected) && text.ends_with(" s: this is the last that was read"), "{name}: {text}");
    for (number, (at, line)) in written.iter().enumerate() {
        let same = written[..number].iter().rev().find(|(_, earlier)| about(earlier) == about(line));
        assert!(same.is_none_or(|(earlier, _)| *at - *earlier >= seconds(10)), "{name}: {written:#?}");
        assert!(line.len() < 320 && !line.contains("://"), "{name}: {line}");
    }
    assert!((2..=6).contains(&written.len()), "{name}: a loss, its reason, and stale answers: {written:#?}");
    let shown = server.status.watches();
    for watch in shown.iter().filter(|watch| faulty.contains(&watch.resource)) {
        assert!(watch.state.reason().is_some(), "{name}: {watch}");
        let denied = WatchState::Denied("watch");
        let is_said = watch.resource != SERVICES || watch.state == denied || text.contains(shape.reason);
        assert!(is_said, "{name}: {watch}, and {text}");
    }
    fake.heal();
    // K5: a list without any answer is given up after 60 s.
    let bound = if every_request && matches!(shape.fault, Fault::Hang) { seconds(60) } else { seconds(12) };
    until(bound, || server.extended("web").0 == 0).await;
}

const ONE: &[&str] = &[SERVICES];
const TWO: &[&str] = &[SERVICES, SLICES];
const ALL: &[&str] = &[SERVICES, SLICES, "namespaces", "statefulsets"];

#[tokio::test(start_paused = true)]
async fn k17_failing_watches_of_every_shape() {
    for shape in shapes() {
        for faulty in [ONE, TWO, ALL] {
            play(&shape, faulty, paged()).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn k17_failing_requests_of_every_shape() {
    for shape in shapes() {
        for faulty in [ONE, TWO, ALL] {
            play(&shape, faulty, Timing::default()).await;
        }
    }
}

/// The limits hold for requests that the matrix does not have: lists of one object, and pages.
#[tokio::test(start_paused = true)]
async fn k17_endless_lists_and_undecodable_events() {
    let fake = cluster();
    let mut bad = service("web");
    bad["spec"]["ports"] = json!(7);
    bad["metadata"]["resourceVersion"] = json!("9");
    fake.fault(only(SERVICES, &[RequestKind::Watch], Fault::Line(event("MODIFIED", &bad).repeat(1_000))));
    let page = r#"{"kind":"List","metadata":{"resourceVersion":"9","continue":"again"},"items":[]}"#;
    fake.fault(only(SLICES, &[RequestKind::List], Fault::Line(page.into())));
    let server = Server::start(fake.connect(), paged());
    sleep(seconds(60)).await;
    assert!(server.is(DataState::NotSynced));
    for resource in [SERVICES, SLICES] {
        let starts: Vec<Instant> =
            fake.asked().iter().filter(|asked| asked.resource == resource).map(|asked| asked.at).collect();
        assert!(starts.len() > 20 && most_within(seconds(1), &starts) <= 3, "{resource}: {}", starts.len());
    }
}

#[tokio::test(start_paused = true)]
async fn k18_quiet_api_server_is_not_stale() {
    for timing in both() {
        for silent in [false, true] {
            let fake = cluster();
            let mut server = Server::synced(fake.connect(), timing).await;
            if silent {
                // Not even bookmarks, and no watch is ended.
                fake.fault(only(SERVICES, &[RequestKind::Watch], Fault::Silence));
                fake.fault(only(SLICES, &[RequestKind::Watch], Fault::Silence));
            }
            let begun = Instant::now();
            while begun.elapsed() < seconds(600) {
                assert_eq!(server.extended("web").0, 0, "after {:?}", begun.elapsed());
                sleep(Duration::from_millis(200)).await;
            }
            let probes: Vec<Instant> = fake
                .asked()
                .iter()
                .filter(|asked| asked.kind == RequestKind::Look && asked.resource == SERVICES)
                .map(|asked| asked.at)
                .collect();
            assert!(most_within(seconds(10), &probes) <= 2, "one of the cluster, and one of K13");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn k18_half_open_connections() {
    for timing in both() {
        for age in [0, 3, 9, 14, 16, 21, 33] {
            let lines = LogCapture::collect();
            let fake = cluster();
            let mut server = Server::synced(fake.connect(), timing).await;
            sleep(seconds(age)).await;
            let begun = Instant::now();
            fake.freeze();
            while begun.elapsed() < seconds(75) {
                let (code, text) = server.extended("web");
                let expected = if begun.elapsed() > Duration::from_millis(31_100) { &[3][..] } else { &[0, 3] };
                assert!(expected.contains(&code), "age {age}: {code} after {:?}", begun.elapsed());
                assert!(code == 0 || text.starts_with("STALE: the API server has been out of reach for "), "{text}");
                sleep(Duration::from_millis(100)).await;
            }
            let written = lines.since(begun);
            assert!((2..=3).contains(&written.len()), "the loss, and stale answers: {written:#?}");
        }
    }
}

/// The API server continues after it was stopped: no event is lost, and the connections still work.
#[tokio::test(start_paused = true)]
async fn k18_recovery_ends_staleness() {
    let fake = cluster();
    let timing = Timing { watch: seconds(280), audit: seconds(100_000), ..paged() };
    let mut server = Server::synced(fake.connect(), timing).await;
    fake.fault(|_| Some(Fault::Hang));
    until(seconds(33), || server.extended("web").0 == 3).await;
    let requests = fake.asked().iter().filter(|asked| asked.kind != RequestKind::Look).count();
    add(&fake, "next", "10.0.0.4");
    until(Duration::from_millis(1_100), || server.extended("web").0 == 0 && server.answers("next")).await;
    until(seconds(33), || server.extended("web").0 == 3).await;
    fake.heal();
    until(seconds(11), || server.extended("web").0 == 0).await;
    let after = fake.asked().iter().filter(|asked| asked.kind != RequestKind::Look).count();
    assert_eq!(after, requests, "no watch was begun again");
}

/// A probe that the API server answers, however it does, is contact: `list` may be a right that is missing.
#[tokio::test(start_paused = true)]
async fn k18_denied_probe_is_contact() {
    let fake = cluster();
    let timing = Timing { watch: seconds(280), audit: seconds(100_000), ..paged() };
    let mut server = Server::synced(fake.connect(), timing).await;
    for (code, stale) in [(403, false), (429, false), (401, false), (503, true)] {
        fake.fault(only(SERVICES, &[RequestKind::Look], Fault::Status(code)));
        sleep(seconds(45)).await;
        assert_eq!(server.extended("web").0 == 3, stale, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn k16_recovery_resets_backoff() {
    for _ in 0..20 {
        let fake = cluster();
        let mut server = Server::synced(fake.connect(), Timing::default()).await;
        fake.fault(|_| Some(Fault::Status(401)));
        fake.cut();
        sleep(seconds(40)).await;
        fake.heal();
        until(seconds(11), || server.status.watches().iter().all(|watch| watch.state == WatchState::Current)).await;
        sleep(seconds(6)).await;
        fake.cut();
        add(&fake, "next", "10.0.0.4");
        until(Duration::from_millis(1_100), || server.answers("next")).await;
    }
}

/// The watches begin again one after the other, in an order that chance makes.
#[tokio::test(start_paused = true)]
async fn k19_one_line_for_outage_and_one_for_recovery() {
    let lines = LogCapture::collect();
    for _ in 0..200 {
        let fake = cluster();
        let server = Server::synced(fake.connect(), paged()).await;
        sleep(seconds(7)).await;
        let begun = Instant::now();
        fake.cut();
        sleep(seconds(12)).await;
        assert_eq!(
            lines.since(begun).into_iter().map(|(_, line)| line).collect::<Vec<_>>(),
            [
                "cannot follow namespaces, services, endpointslices and statefulsets: the API server is out of reach: \
                 the connection was cut: ServiceError: cut; names are answered from the last data that was read",
                "namespaces, services, endpointslices and statefulsets are followed again",
            ]
        );
        assert!(server.is(DataState::Current));
    }
}

#[tokio::test(start_paused = true)]
async fn k19_one_line_for_each_change() {
    let lines = LogCapture::collect();
    let fake = cluster();
    let _server = Server::synced(fake.connect(), paged()).await;
    let texts = |begun| lines.since(begun).into_iter().map(|(_, line)| line).collect::<Vec<_>>();
    sleep(seconds(20)).await;
    let begun = Instant::now();
    fake.fault(only(SLICES, &[RequestKind::Watch], Fault::Status(403)));
    sleep(seconds(300)).await;
    let denied = texts(begun);
    assert_eq!(
        denied[0],
        "the API server does not allow `watch` on endpointslices: names are answered from the last data that was read"
    );
    let stale =
        "answers carry the extended error STALE: the API server has not allowed `watch` on endpointslices for 30 s";
    assert!(denied[1].starts_with(stale) && denied.len() == 2, "{denied:#?}");
}
