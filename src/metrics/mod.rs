//! Every counter of the server, in one place.
//!
//! Each worker counts in its own [`Counters`], which no other thread writes, and [`Metrics`] sums them when somebody
//! asks: counting costs a load and a store. [`Metrics::render`] is what `/metrics` answers. Not here: what is logged,
//! and over what the figures go out (`admin`). Read next: `table.rs`, every metric that is shown.

mod answers;
mod exposition;
mod process;
pub mod table;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::answer::{CauseReport, CountedZone, DropReason, ResponseSummary};
use crate::status::{DataState, Status, WatchState};
use crate::transport::Transport;
use crate::{log, panics};

use answers::Place;
use exposition::{Families, Value};
use table::{Family, Kind};

pub use answers::Answers;
pub use exposition::Format;

macro_rules! events {
    ($($(#[doc = $doc:literal])* $name:ident = $label:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event {
            $($(#[doc = $doc])* $name,)*
        }

        impl Event {
            /// All of them, in the order in which they are shown.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// A name for people and for logs.
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
    /// Responses over UDP that were cut, with TC set.
    TruncatedUdp = "truncated over udp",
    /// Responses over TCP that hold only a window of an RRset over 65,535 octets.
    TruncatedTcp = "truncated over tcp",
    /// The same over TLS.
    TruncatedTls = "truncated over tls",
    /// The same over HTTPS.
    TruncatedHttps = "truncated over https",
    /// The same over QUIC.
    TruncatedQuic = "truncated over quic",
    /// Answers from data that is stale, which say so.
    StaleAnswers = "stale answers",
    /// Names that something is to be said about, whose cause was not looked for: too many at once, or the objects were
    /// just being changed.
    CausesNotLookedFor = "causes not looked for",
    /// Dropped: shorter than a header.
    DroppedShort = "dropped: short",
    /// Dropped: a response, not a query.
    DroppedResponse = "dropped: response",
    /// Dropped: a source that cannot be a client.
    DroppedSource = "dropped: source",
    /// Dropped: a client that is not allowed, where the option says to be silent.
    DroppedNotAllowed = "dropped: not allowed",
    /// Panics of this process, whatever caught them. Counted by [`panics`], and not by workers.
    Panics = "panics",
    /// Datagrams dropped by the kernel before they were received: the receive buffer was full. Seen when a socket is
    /// idle, every thousand batches, and at the end.
    DroppedByKernel = "dropped: by the kernel",
    /// Failures to receive datagrams.
    ReceiveErrors = "receive errors",
    /// Responses that the kernel did not take.
    SendErrors = "send errors",
    /// Questions that a resolver was asked.
    Forwarded = "forwarded",
    /// Questions that a resolver was asked, and that no upstream answered; the client got SERVFAIL.
    ForwardFailed = "forwarded: failed",
    /// Questions that no resolver was asked, because too many waited for one; the client got SERVFAIL.
    ForwardFull = "forwarded: full",
    /// TCP connections accepted.
    TcpAccepted = "tcp accepted",
    /// TCP connections closed at once, or the longest idle one in their place: too many.
    TcpOverLimit = "tcp over limit",
    /// TCP connections that have ended, whatever the reason.
    TcpClosed = "tcp closed",
    /// TCP connections closed for being idle.
    TcpIdle = "tcp idle",
    /// TCP connections cut for sending or reading too slowly.
    TcpSlow = "tcp slow",
    /// Lists of a resource of a live cluster that were begun.
    Lists = "lists",
    /// Lists and watches of a live cluster that failed.
    WatchFailures = "watch failures",
    /// Watches of a live cluster whose task ended, and was started again.
    WatchRestarts = "watch restarts",
    /// Threads and tasks that ended, or panicked, and were started again; reloads that panicked.
    TaskRestarts = "tasks restarted",
    /// Objects and events of a live cluster that could not be read.
    ObjectsSkipped = "objects skipped",
    /// Changes that were found by listing again, and not by an event.
    AuditRepairs = "audit repairs",
    /// Services and other contributors of a live cluster whose records were built, to be published.
    Published = "published",
    /// Lines of the query log that were not written: nobody read fast enough.
    QueryLogLost = "query log lost",
    /// Failures to accept a TCP connection: out of file descriptors, mostly.
    TcpAcceptErrors = "tcp accept errors",
    /// Requests over HTTPS that got no DNS message: status 400.
    HttpsBadRequest = "https 400",
    /// The same: 404.
    HttpsNotFound = "https 404",
    /// The same: 405.
    HttpsMethodNotAllowed = "https 405",
    /// The same: 408.
    HttpsTimeout = "https 408",
    /// The same: 413.
    HttpsTooLarge = "https 413",
    /// The same: 414.
    HttpsUriTooLong = "https 414",
    /// The same: 415.
    HttpsMediaType = "https 415",
}

impl Event {
    /// A message was read.
    pub fn received(transport: Transport) -> Self {
        match transport {
            Transport::Udp => Self::UdpReceived,
            Transport::Tcp => Self::TcpReceived,
            Transport::Tls => Self::TlsReceived,
            Transport::Https => Self::HttpsReceived,
            Transport::Quic => Self::QuicReceived,
        }
    }

    /// A response was cut.
    pub fn truncated(transport: Transport) -> Self {
        match transport {
            Transport::Udp => Self::TruncatedUdp,
            Transport::Tcp => Self::TruncatedTcp,
            Transport::Tls => Self::TruncatedTls,
            Transport::Https => Self::TruncatedHttps,
            Transport::Quic => Self::TruncatedQuic,
        }
    }

    /// The code of a response that is counted with its type (`answers.rs`), and not by itself.
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
    place: Option<Place>,
    /// How many zones are told apart.
    zones: usize,
    answers: OnceLock<Arc<Answers>>,
    /// Causes by their tokens, in the order in which they were first told.
    told: [(OnceLock<&'static str>, AtomicU64); MOST_CAUSES],
}

/// More than there are causes.
const MOST_CAUSES: usize = 64;

impl Counters {
    fn new(zones: usize, place: Option<Place>) -> Self {
        let values = [const { AtomicU64::new(0) }; Event::ALL.len()];
        let told = [const { (OnceLock::new(), AtomicU64::new(0)) }; MOST_CAUSES];
        Self { values, place, zones, answers: OnceLock::new(), told }
    }

    /// Counts one.
    pub fn count(&self, event: Event) {
        self.add(event, 1);
    }

    /// Counts `number`.
    pub fn add(&self, event: Event, number: u64) {
        answers::add(&self.values[event as usize], number);
    }

    /// Counts a cause that a client was told, by its token.
    pub fn count_told(&self, token: &'static str) {
        let cell = self.told.iter().find(|(known, _)| *known.get_or_init(|| token) == token);
        if let Some((_, number)) = cell {
            answers::add(number, 1);
        }
    }

    /// What a worker that answers counts besides. Those that never ask for it have none.
    pub fn answers(&self) -> Arc<Answers> {
        Arc::clone(self.answers.get_or_init(|| Arc::new(Answers::new(self.zones))))
    }

    fn total(&self, event: Event) -> u64 {
        let by_code = |answers: &Arc<Answers>| event.rcodes().iter().map(|rcode| answers.with_code(*rcode)).sum();
        self.values[event as usize].load(Ordering::Relaxed) + self.answers.get().map_or(0, by_code)
    }
}

/// Counts what one worker receives and responds with over one transport.
#[derive(Debug)]
pub struct ResponseCounters {
    /// The worker's other counters.
    pub counters: Arc<Counters>,
    answers: Arc<Answers>,
    transport: Transport,
}

impl ResponseCounters {
    /// Counts in `counters`.
    pub fn new(counters: Arc<Counters>, transport: Transport) -> Self {
        Self { answers: counters.answers(), counters, transport }
    }

    /// Counts `number` messages that were received.
    pub fn received(&self, number: usize) {
        self.counters.add(Event::received(self.transport), number as u64);
    }

    /// Counts a response; its duration comes with [`Self::took`].
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
            CauseReport::Reported(token) => self.counters.count_told(token),
            CauseReport::Skipped => self.counters.count(Event::CausesNotLookedFor),
        }
    }

    /// Counts a message that gets no response.
    #[cold]
    pub fn dropped(&self, reason: DropReason) {
        self.counters.count(match reason {
            DropReason::Short => Event::DroppedShort,
            DropReason::Response => Event::DroppedResponse,
            DropReason::Source => Event::DroppedSource,
            DropReason::NotAllowed => Event::DroppedNotAllowed,
        });
    }

    /// Counts the duration of the responses since the last call: the same for each.
    pub fn took(&self, time: Duration) {
        self.answers.took(time);
    }
}

/// All workers' counters.
#[derive(Debug)]
pub struct Metrics {
    /// The zones that are told apart, as labels.
    zones: Vec<String>,
    workers: Mutex<Vec<Arc<Counters>>>,
    /// What happens too rarely to have cells of its own.
    rare: Mutex<Families>,
    /// When something was last heard of a resource.
    heard: Mutex<BTreeMap<&'static str, Instant>>,
}

impl Default for Metrics {
    /// No forward zone is told apart from what is outside.
    fn default() -> Self {
        Self::new(&[])
    }
}

impl Metrics {
    /// For the forward zones with these names, each with its last full stop, in the order of the zone's settings.
    pub fn new(zones: &[String]) -> Self {
        panics::start_counting();
        let zones = CountedZone::names(zones);
        Self { zones, workers: Mutex::default(), rare: Mutex::default(), heard: Mutex::default() }
    }

    /// New counters for a thread or task that begins to work. Its answers count in totals, and are of no server.
    pub fn worker(&self) -> Arc<Counters> {
        self.with(None)
    }

    /// New counters for who answers what comes to `address`, which is listened on.
    pub fn worker_at(&self, address: SocketAddr, transport: Transport) -> Arc<Counters> {
        self.with(Some(Place { address, transport }))
    }

    fn with(&self, place: Option<Place>) -> Arc<Counters> {
        let counters = Arc::new(Counters::new(self.zones.len(), place));
        lock(&self.workers).push(Arc::clone(&counters));
        counters
    }

    /// Counts one of a series. It takes a lock: not for what a query does.
    pub fn count(&self, family: &'static Family, labels: &[&str]) {
        lock(&self.rare).add(family, labels, Value::Counter(1.0));
    }

    /// A histogram has one more observation. It takes a lock.
    pub fn observe(&self, family: &'static Family, labels: &[&str], time: Duration) {
        let Kind::Histogram(bounds) = family.kind else { return };
        let mut buckets = vec![0; bounds.len() + 1];
        buckets[answers::bucket(bounds, time.as_secs_f64())] = 1;
        lock(&self.rare).add(family, labels, Value::Histogram(buckets, time.as_secs_f64()));
    }

    /// A gauge shows another value. It takes a lock.
    pub fn set(&self, family: &'static Family, labels: &[&str], value: f64) {
        lock(&self.rare).set(family, labels, Value::Gauge(value));
    }

    /// A gauge shows nothing any more. It takes a lock.
    pub fn unset(&self, family: &'static Family, labels: &[&str]) {
        lock(&self.rare).remove(family, labels);
    }

    /// An event, a bookmark or a list of this resource came.
    pub fn heard(&self, resource: &'static str, at: Instant) {
        lock(&self.heard).insert(resource, at);
    }

    /// The sum over all workers, those that have ended too.
    pub fn total(&self, event: Event) -> u64 {
        if event == Event::Panics {
            return panics::count();
        }
        lock(&self.workers).iter().map(|worker| worker.total(event)).sum()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Figures of the zones, which whoever asks for [`Metrics::render`] reads from them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneFigures {
    /// Services with a name that exists.
    pub services: usize,
    /// Names of endpoints that are answered.
    pub endpoints: usize,
    /// Addresses with a name in reverse.
    pub reverse_addresses: usize,
    /// The serial.
    pub serial: u32,
}

impl Metrics {
    /// Everything that is known, as `/metrics` answers it. It may read a few files under `/proc`, and waits for nobody.
    pub fn render(&self, status: &Status, zone: ZoneFigures, format: Format) -> String {
        let mut families = lock(&self.rare).clone();
        self.collect_workers(&mut families);
        self.collect_events(&mut families);
        self.collect_heard(&mut families, Instant::now());
        collect_build(&mut families);
        collect_status(&mut families, status);
        collect_zone(&mut families, zone);
        process::collect(&mut families);
        families.write(format)
    }

    fn collect_workers(&self, families: &mut Families) {
        for worker in lock(&self.workers).iter() {
            if let (Some(place), Some(answers)) = (worker.place, worker.answers.get()) {
                answers.collect(place, &self.zones, families);
            }
            for (token, number) in &worker.told {
                let Some(token) = token.get() else { break };
                let number = number.load(Ordering::Relaxed);
                families.add(&table::CAUSES_TOLD, &[token], Value::Counter(number as f64));
            }
        }
    }

    fn collect_heard(&self, families: &mut Families, now: Instant) {
        for (resource, at) in lock(&self.heard).iter() {
            let age = now.saturating_duration_since(*at).as_secs_f64();
            families.add(&table::WATCH_AGE, &[resource], Value::Gauge(age));
        }
    }

    fn collect_events(&self, families: &mut Families) {
        let shown: &[(Event, &'static Family, &[&str])] = &[
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
        // In this order: a connection that ends in between is not counted as less than none.
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
    fn workers_add_up() {
        let metrics = Metrics::default();
        let (one, two) = (metrics.worker(), metrics.worker());
        one.count(Event::TcpReceived);
        two.add(Event::TcpReceived, 2);
        drop(one);
        assert_eq!(metrics.total(Event::TcpReceived), 3);
        assert_eq!(metrics.total(Event::NxDomain), 0);
    }
}
