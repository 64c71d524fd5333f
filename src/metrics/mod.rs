//! Counters of the whole server.
//!
//! Each worker counts in its own [`Counters`], which no other thread writes, and [`Metrics`] sums them when it renders
//! `/metrics`: to count costs a load and a store. Not here: log lines, and the HTTP of `/metrics` (`admin`). Read next:
//! `table.rs`, the table of all metrics.

mod answers;
mod exposition;
mod process;
pub mod table;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::{log, panics};
use headless_dns_core::answer::{CauseReport, DropReason, ResponseSummary, ZoneLabel};
use headless_dns_core::lock::lock;
use headless_dns_core::status::{DataState, Status, WatchState};
use headless_dns_core::transport::Transport;

use answers::ListenerLabels;
use exposition::{Families, Value};
use table::{MetricFamily, MetricKind};

pub use answers::ZoneResponseCounters;
pub use exposition::ExpositionFormat;

macro_rules! events {
    ($($(#[doc = $doc:literal])* $name:ident = $label:literal,)*) => {
        /// A counted event.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event {
            $($(#[doc = $doc])* $name,)*
        }

        impl Event {
            /// All events in the order of their definition.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns a name for log lines.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }
        }
    };
}

events! {
    /// Messages read from a UDP socket.
    UdpReceived = "udp received",
    /// Messages read from a TCP connection.
    TcpReceived = "tcp received",
    /// Messages read from a TLS connection.
    TlsReceived = "tls received",
    /// Messages read from an HTTPS connection: requests that carry one.
    HttpsReceived = "https received",
    /// Messages read from a QUIC connection.
    QuicReceived = "quic received",
    /// Responses with NOERROR.
    NoError = "noerror",
    /// Responses with FORMERR.
    FormErr = "formerr",
    /// Responses with SERVFAIL.
    ServFail = "servfail",
    /// Responses with NXDOMAIN.
    NxDomain = "nxdomain",
    /// Responses with NOTIMP.
    NotImp = "notimp",
    /// Responses with REFUSED.
    Refused = "refused",
    /// Responses with another code: BADVERS, NOTAUTH.
    OtherCode = "other rcode",
    /// Responses over UDP that were truncated (TC).
    TruncatedUdp = "truncated over udp",
    /// Responses over TCP that hold only a part of an RRset over 65,535 octets (TC).
    TruncatedTcp = "truncated over tcp",
    /// Responses over TLS that hold only a part of an RRset over 65,535 octets (TC).
    TruncatedTls = "truncated over tls",
    /// Responses over HTTPS that hold only a part of an RRset over 65,535 octets (TC).
    TruncatedHttps = "truncated over https",
    /// Responses over QUIC that hold only a part of an RRset over 65,535 octets (TC).
    TruncatedQuic = "truncated over quic",
    /// Answers from stale data, which carry an extended error.
    StaleAnswers = "stale answers",
    /// Negative responses whose cause was not searched: too many at once, or the cluster was being changed.
    CausesNotLookedFor = "causes not looked for",
    /// Dropped: shorter than a header.
    DroppedShort = "dropped: short",
    /// Dropped: a response, not a query.
    DroppedResponse = "dropped: response",
    /// Dropped: a source that cannot be a client.
    DroppedSource = "dropped: source",
    /// Dropped: a client that is not allowed, with `--not-allowed drop`.
    DroppedNotAllowed = "dropped: not allowed",
    /// Panics of this process, wherever they are caught. Counted by [`panics`], and not by workers.
    Panics = "panics",
    /// Datagrams that the kernel dropped because the receive buffer was full. Read when a socket is idle, every
    /// thousand batches, and at shutdown.
    DroppedByKernel = "dropped: by the kernel",
    /// Failures to receive datagrams.
    ReceiveErrors = "receive errors",
    /// Responses that the kernel rejected.
    SendErrors = "send errors",
    /// Queries that were forwarded to an upstream.
    Forwarded = "forwarded",
    /// Forwarded queries that no upstream answered; the client got SERVFAIL.
    ForwardFailed = "forwarded: failed",
    /// Queries that were not forwarded because the queue was full; the client got SERVFAIL.
    ForwardFull = "forwarded: full",
    /// TCP connections accepted.
    TcpAccepted = "tcp accepted",
    /// TCP connections over the limit: the new one was closed, or the longest idle one in its place.
    TcpOverLimit = "tcp over limit",
    /// TCP connections that have ended, for any reason.
    TcpClosed = "tcp closed",
    /// TCP connections closed for being idle.
    TcpIdle = "tcp idle",
    /// TCP connections closed because the client sent or read too slowly.
    TcpSlow = "tcp slow",
    /// Lists of a resource of a live cluster that began.
    Lists = "lists",
    /// Lists and watches of a live cluster that failed.
    WatchFailures = "watch failures",
    /// Watch tasks of a live cluster that ended, and were started again.
    WatchRestarts = "watch restarts",
    /// Threads and tasks that ended or panicked, and were started again; reloads that panicked.
    TaskRestarts = "tasks restarted",
    /// Objects and events of a live cluster that could not be decoded.
    ObjectsSkipped = "objects skipped",
    /// Changes that an audit found, and no event had reported.
    AuditRepairs = "audit repairs",
    /// Contributions of a live cluster that were published.
    Published = "published",
    /// Lines of the query log that were dropped because they could not be written fast enough.
    QueryLogLost = "query log lost",
    /// Failures to accept a TCP connection, mostly for lack of file descriptors.
    TcpAcceptErrors = "tcp accept errors",
    /// Requests over HTTPS that got no DNS message: status 400.
    HttpsBadRequest = "https 400",
    /// Requests over HTTPS that got no DNS message: status 404.
    HttpsNotFound = "https 404",
    /// Requests over HTTPS that got no DNS message: status 405.
    HttpsMethodNotAllowed = "https 405",
    /// Requests over HTTPS that got no DNS message: status 408.
    HttpsTimeout = "https 408",
    /// Requests over HTTPS that got no DNS message: status 413.
    HttpsTooLarge = "https 413",
    /// Requests over HTTPS that got no DNS message: status 414.
    HttpsUriTooLong = "https 414",
    /// Requests over HTTPS that got no DNS message: status 415.
    HttpsMediaType = "https 415",
}

impl Event {
    /// Returns the event of a message received over `transport`.
    pub fn received(transport: Transport) -> Self {
        match transport {
            Transport::Udp => Self::UdpReceived,
            Transport::Tcp => Self::TcpReceived,
            Transport::Tls => Self::TlsReceived,
            Transport::Https => Self::HttpsReceived,
            Transport::Quic => Self::QuicReceived,
        }
    }

    /// Returns the event of a truncated response over `transport`.
    pub fn truncated(transport: Transport) -> Self {
        match transport {
            Transport::Udp => Self::TruncatedUdp,
            Transport::Tcp => Self::TruncatedTcp,
            Transport::Tls => Self::TruncatedTls,
            Transport::Https => Self::TruncatedHttps,
            Transport::Quic => Self::TruncatedQuic,
        }
    }

    /// Returns the RCODEs that this event counts. `answers.rs` counts them, together with the QTYPE.
    fn rcodes(self) -> &'static [u16] {
        match self {
            Self::NoError => &[0],
            Self::FormErr => &[1],
            Self::ServFail => &[2],
            Self::NxDomain => &[3],
            Self::NotImp => &[4],
            Self::Refused => &[5],
            Self::OtherCode => &[9, 16],
            _ => &[],
        }
    }
}

/// The counters of one worker. One thread at a time writes, any thread reads.
#[derive(Debug)]
pub struct Counters {
    values: [AtomicU64; Event::ALL.len()],
    labels: Option<ListenerLabels>,
    /// Number of zone labels.
    zones: usize,
    answers: OnceLock<Arc<ZoneResponseCounters>>,
    /// Number of reports of each cause, by token, in the order of the first report.
    ede_counts: [(OnceLock<&'static str>, AtomicU64); MAX_FINDINGS],
}

/// Limit on the causes with a counter; there are fewer causes.
const MAX_FINDINGS: usize = 64;

impl Counters {
    fn new(zones: usize, place: Option<ListenerLabels>) -> Self {
        let values = [const { AtomicU64::new(0) }; Event::ALL.len()];
        let told = [const { (OnceLock::new(), AtomicU64::new(0)) }; MAX_FINDINGS];
        Self { values, labels: place, zones, answers: OnceLock::new(), ede_counts: told }
    }

    /// Counts one event.
    pub fn count(&self, event: Event) {
        self.add(event, 1);
    }

    /// Counts `number` events.
    pub fn add(&self, event: Event, number: u64) {
        answers::add(&self.values[event as usize], number);
    }

    /// Counts a cause that a client was told, by its token.
    pub fn count_ede(&self, token: &'static str) {
        let cell = self.ede_counts.iter().find(|(known, _)| *known.get_or_init(|| token) == token);
        if let Some((_, number)) = cell {
            answers::add(number, 1);
        }
    }

    /// Returns the response counters of this worker. They are allocated at the first call.
    pub fn answers(&self) -> Arc<ZoneResponseCounters> {
        Arc::clone(self.answers.get_or_init(|| Arc::new(ZoneResponseCounters::new(self.zones))))
    }

    fn total(&self, event: Event) -> u64 {
        let by_code =
            |answers: &Arc<ZoneResponseCounters>| event.rcodes().iter().map(|rcode| answers.with_code(*rcode)).sum();
        self.values[event as usize].load(Ordering::Relaxed) + self.answers.get().map_or(0, by_code)
    }
}

/// Counters of one worker's messages over one transport.
#[derive(Debug)]
pub struct ResponseCounters {
    /// The other counters of the worker.
    pub counters: Arc<Counters>,
    answers: Arc<ZoneResponseCounters>,
    transport: Transport,
}

impl ResponseCounters {
    /// Creates counters on top of `counters`.
    pub fn new(counters: Arc<Counters>, transport: Transport) -> Self {
        Self { answers: counters.answers(), counters, transport }
    }

    /// Counts received messages.
    pub fn received(&self, number: usize) {
        self.counters.add(Event::received(self.transport), number as u64);
    }

    /// Counts a response; its duration comes with [`Self::observe_latency`].
    #[inline]
    pub fn responded(&self, summary: &ResponseSummary) {
        self.answers.count(summary);
        if summary.truncated {
            self.counters.count(Event::truncated(self.transport));
        }
        if summary.is_stale {
            self.counters.count(Event::StaleAnswers);
        }
        match summary.cause {
            CauseReport::None => {}
            CauseReport::Reported(token) => self.counters.count_ede(token),
            CauseReport::Skipped => self.counters.count(Event::CausesNotLookedFor),
        }
    }

    /// Counts a message without a response.
    #[cold]
    pub fn dropped(&self, reason: DropReason) {
        self.counters.count(match reason {
            DropReason::Short => Event::DroppedShort,
            DropReason::Response => Event::DroppedResponse,
            DropReason::Source => Event::DroppedSource,
            DropReason::NotAllowed => Event::DroppedNotAllowed,
        });
    }

    /// Records the duration of the responses since the last call, the same one for each.
    pub fn observe_latency(&self, time: Duration) {
        self.answers.observe_latency(time);
    }
}

/// Counters of all workers, and series that change rarely.
#[derive(Debug)]
pub struct Metrics {
    /// Zone labels.
    zones: Vec<String>,
    workers: Mutex<Vec<Arc<Counters>>>,
    /// Series that change too rarely to have counters in each worker.
    shared_counters: Mutex<Families>,
    /// Time of the last event, bookmark or list of each resource.
    last_events: Mutex<BTreeMap<&'static str, Instant>>,
}

impl Default for Metrics {
    /// Creates counters without labels for forward zones.
    fn default() -> Self {
        Self::new(&[])
    }
}

impl Metrics {
    /// Creates counters with labels for these forward zones: names with a final dot, in the order of the zone's
    /// settings.
    pub fn new(zones: &[String]) -> Self {
        panics::start_counting();
        let zones = ZoneLabel::names(zones);
        Self { zones, workers: Mutex::default(), shared_counters: Mutex::default(), last_events: Mutex::default() }
    }

    /// Returns new counters for a thread or task. Its responses count in totals only, since it has no listener.
    pub fn worker(&self) -> Arc<Counters> {
        self.with_counters(None)
    }

    /// Returns new counters for a worker that answers queries to the listener at `address`.
    pub fn worker_at(&self, address: SocketAddr, transport: Transport) -> Arc<Counters> {
        self.with_counters(Some(ListenerLabels { address, transport }))
    }

    fn with_counters(&self, place: Option<ListenerLabels>) -> Arc<Counters> {
        let counters = Arc::new(Counters::new(self.zones.len(), place));
        lock(&self.workers).push(Arc::clone(&counters));
        counters
    }

    /// Adds 1 to a counter. Takes a lock: not for the query path.
    pub fn count(&self, family: &'static MetricFamily, labels: &[&str]) {
        lock(&self.shared_counters).add(family, labels, Value::Counter(1.0));
    }

    /// Adds an observation to a histogram. Takes a lock.
    pub fn observe(&self, family: &'static MetricFamily, labels: &[&str], time: Duration) {
        let MetricKind::Histogram(bounds) = family.kind else { return };
        let mut buckets = vec![0; bounds.len() + 1];
        buckets[answers::bucket(bounds, time.as_secs_f64())] = 1;
        lock(&self.shared_counters).add(family, labels, Value::Histogram(buckets, time.as_secs_f64()));
    }

    /// Sets a gauge. Takes a lock.
    pub fn set(&self, family: &'static MetricFamily, labels: &[&str], value: f64) {
        lock(&self.shared_counters).set(family, labels, Value::Gauge(value));
    }

    /// Removes a gauge. Takes a lock.
    pub fn unset(&self, family: &'static MetricFamily, labels: &[&str]) {
        lock(&self.shared_counters).remove(family, labels);
    }

    /// Notes an event, a bookmark or a list of a resource.
    pub fn record_event_time(&self, resource: &'static str, at: Instant) {
        lock(&self.last_events).insert(resource, at);
    }

    /// Returns the sum over all workers, including those that have ended.
    pub fn total(&self, event: Event) -> u64 {
        if event == Event::Panics {
            return panics::count();
        }
        lock(&self.workers).iter().map(|worker| worker.total(event)).sum()
    }
}

/// Figures of the zones, which the caller of [`Metrics::render`] reads from them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneFigures {
    /// Services with a name that exists.
    pub services: usize,
    /// Names of endpoints that are answered.
    pub endpoints: usize,
    /// Addresses with a PTR record.
    pub reverse_addresses: usize,
    /// Serial of the zones.
    pub serial: u32,
}

impl Metrics {
    /// Renders all metrics as `/metrics` returns them. Reads a few files under `/proc`.
    pub fn render(&self, status: &Status, zone: ZoneFigures, format: ExpositionFormat) -> String {
        let mut families = lock(&self.shared_counters).clone();
        self.collect_workers(&mut families);
        self.collect_events(&mut families);
        self.collect_event_times(&mut families, Instant::now());
        collect_build(&mut families);
        collect_status(&mut families, status);
        collect_zone(&mut families, zone);
        process::collect(&mut families);
        families.write(format)
    }

    fn collect_workers(&self, families: &mut Families) {
        for worker in lock(&self.workers).iter() {
            if let (Some(place), Some(answers)) = (worker.labels, worker.answers.get()) {
                answers.collect(place, &self.zones, families);
            }
            for (token, number) in &worker.ede_counts {
                let Some(token) = token.get() else { break };
                let number = number.load(Ordering::Relaxed);
                families.add(&table::CAUSES_TOLD, &[token], Value::Counter(number as f64));
            }
        }
    }

    fn collect_event_times(&self, families: &mut Families, now: Instant) {
        for (resource, at) in lock(&self.last_events).iter() {
            let age = now.saturating_duration_since(*at).as_secs_f64();
            families.add(&table::WATCH_AGE, &[resource], Value::Gauge(age));
        }
    }

    fn collect_events(&self, families: &mut Families) {
        let shown: &[(Event, &'static MetricFamily, &[&str])] = &[
            (Event::Panics, &table::PANICS, &[]),
            (Event::DroppedShort, &table::DROPPED, &["short"]),
            (Event::DroppedResponse, &table::DROPPED, &["response"]),
            (Event::DroppedSource, &table::DROPPED, &["source"]),
            (Event::DroppedNotAllowed, &table::DROPPED, &["not_allowed"]),
            (Event::DroppedByKernel, &table::KERNEL_DROPS, &[]),
            (Event::ReceiveErrors, &table::SOCKET_ERRORS, &["receive"]),
            (Event::SendErrors, &table::SOCKET_ERRORS, &["send"]),
            (Event::TcpAcceptErrors, &table::SOCKET_ERRORS, &["accept"]),
            (Event::StaleAnswers, &table::STALE_ANSWERS, &[]),
            (Event::TcpAccepted, &table::TCP_ACCEPTED, &[]),
            (Event::TcpOverLimit, &table::TCP_CUT, &["over_limit"]),
            (Event::TcpIdle, &table::TCP_CUT, &["idle"]),
            (Event::TcpSlow, &table::TCP_CUT, &["slow"]),
            (Event::HttpsBadRequest, &table::HTTPS_REFUSED, &["400"]),
            (Event::HttpsNotFound, &table::HTTPS_REFUSED, &["404"]),
            (Event::HttpsMethodNotAllowed, &table::HTTPS_REFUSED, &["405"]),
            (Event::HttpsTimeout, &table::HTTPS_REFUSED, &["408"]),
            (Event::HttpsTooLarge, &table::HTTPS_REFUSED, &["413"]),
            (Event::HttpsUriTooLong, &table::HTTPS_REFUSED, &["414"]),
            (Event::HttpsMediaType, &table::HTTPS_REFUSED, &["415"]),
            (Event::CausesNotLookedFor, &table::CAUSES_NOT_LOOKED_FOR, &[]),
            (Event::QueryLogLost, &table::QUERY_LOG_DROPPED, &[]),
            (Event::WatchRestarts, &table::WATCH_RESTARTS, &[]),
            (Event::TaskRestarts, &table::TASK_RESTARTS, &[]),
            (Event::AuditRepairs, &table::AUDIT_REPAIRS, &[]),
            (Event::Published, &table::PUBLISHED, &[]),
        ];
        for (event, family, labels) in shown {
            families.add(family, labels, Value::Counter(self.total(*event) as f64));
        }
        for transport in Transport::ALL {
            let counted =
                [(Event::received(transport), &table::RECEIVED), (Event::truncated(transport), &table::TRUNCATED)];
            for (event, family) in counted {
                families.add(family, &[transport.label()], Value::Counter(self.total(event) as f64));
            }
        }
        families.add(&table::LOG_LINES_LOST, &[], Value::Counter(log::lines_lost() as f64));
        // The order matters: a connection that ends in between must not make the number negative.
        let closed = self.total(Event::TcpClosed);
        let open = self.total(Event::TcpAccepted).saturating_sub(closed);
        families.add(&table::TCP_CONNECTIONS, &[], Value::Gauge(open as f64));
    }
}

fn collect_build(families: &mut Families) {
    let version = env!("CARGO_PKG_VERSION");
    let revision = option_env!("BUILD_HEADLESS_DNS_REVISION").unwrap_or_default();
    families.add(&table::BUILD_INFO, &[version, revision, ""], Value::Gauge(1.0));
}

fn collect_status(families: &mut Families, status: &Status) {
    let mut is = |family, labels: &[&str], is| families.add(family, labels, Value::Gauge(f64::from(u8::from(is))));
    is(&table::READY, &[], status.is_ready());
    let now = status.data_state();
    let states = [
        (DataState::NotSynced, "not_synced"),
        (DataState::Restored, "restored"),
        (DataState::Partial, "partial"),
        (DataState::Current, "current"),
        (DataState::Stale, "stale"),
    ];
    for (state, word) in states {
        is(&table::DATA_STATE, &[word], state == now);
    }
    for watch in status.watches() {
        let now = match watch.state {
            WatchState::Waiting => "waiting",
            WatchState::Current => "current",
            WatchState::Denied(_) => "denied",
            WatchState::Lost(_) => "lost",
        };
        for word in ["waiting", "current", "denied", "lost"] {
            is(&table::WATCH_STATE, &[watch.resource, word], word == now);
        }
    }
}

fn collect_zone(families: &mut Families, zone: ZoneFigures) {
    let mut gauge = |family, value| families.add(family, &[], Value::Gauge(value));
    gauge(&table::SERVICES, zone.services as f64);
    gauge(&table::ENDPOINTS, zone.endpoints as f64);
    gauge(&table::REVERSE_ADDRESSES, zone.reverse_addresses as f64);
    gauge(&table::SERIAL, f64::from(zone.serial));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_workers() {
        let metrics = Metrics::default();
        let (one, two) = (metrics.worker(), metrics.worker());
        one.count(Event::TcpReceived);
        two.add(Event::TcpReceived, 2);
        drop(one);
        assert_eq!(metrics.total(Event::TcpReceived), 3);
        assert_eq!(metrics.total(Event::NxDomain), 0);
    }
}
