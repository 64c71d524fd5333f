//! Every counter of the server, in one place.
//!
//! Each worker counts in its own [`Counters`], which no other thread writes, and [`Metrics`] sums them when somebody
//! asks: counting costs a load and a store. [`Metrics::render`] is what `/metrics` answers. Not here: what is logged,
//! and over what the figures go out (`admin`). Read next: `table.rs`, every metric that is shown.

mod exposition;
mod process;
pub mod table;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::status::{DataState, Status, WatchState};

use exposition::{Families, Value};
use table::Family;

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
    /// Dropped: shorter than a header.
    DroppedShort = "dropped: short",
    /// Dropped: a response, not a query.
    DroppedResponse = "dropped: response",
    /// Dropped: a source that cannot be a client.
    DroppedSource = "dropped: source",
    /// Dropped: a client that is not allowed, where the option says to be silent.
    DroppedNotAllowed = "dropped: not allowed",
    /// Panics while answering; the query got SERVFAIL.
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
}

/// The counters of one worker. One thread writes, any thread reads.
#[derive(Debug)]
pub struct Counters {
    values: [AtomicU64; Event::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self { values: [const { AtomicU64::new(0) }; Event::ALL.len()] }
    }
}

impl Counters {
    /// Counts one.
    pub fn count(&self, event: Event) {
        self.add(event, 1);
    }

    /// Counts `number`.
    pub fn add(&self, event: Event, number: u64) {
        let value = &self.values[event as usize];
        // One writer: no read-modify-write is needed.
        value.store(value.load(Ordering::Relaxed) + number, Ordering::Relaxed);
    }
}

/// All workers' counters.
#[derive(Debug, Default)]
pub struct Metrics {
    workers: Mutex<Vec<Arc<Counters>>>,
}

impl Metrics {
    /// New counters for a thread that begins to work.
    pub fn worker(&self) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&counters));
        counters
    }

    /// The sum over all workers, those that have ended too.
    pub fn total(&self, event: Event) -> u64 {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.iter().map(|worker| worker.values[event as usize].load(Ordering::Relaxed)).sum()
    }
}

/// Figures of the zones, which whoever asks for [`Metrics::render`] reads from them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneFigures {
    /// Services with a name that exists.
    pub services: usize,
    /// Endpoints with a name that is answered.
    pub endpoints: usize,
    /// Addresses with a name in reverse.
    pub reverse_addresses: usize,
    /// The serial.
    pub serial: u32,
}

impl Metrics {
    /// Everything that is known, as `/metrics` answers it. It may read a few files under `/proc`, and waits for nobody.
    pub fn render(&self, status: &Status, zone: ZoneFigures, format: Format) -> String {
        let mut families = Families::default();
        self.collect_events(&mut families);
        collect_build(&mut families);
        collect_status(&mut families, status);
        collect_zone(&mut families, zone);
        process::collect(&mut families);
        families.write(format)
    }

    fn collect_events(&self, families: &mut Families) {
        let shown: [(Event, &'static Family, &[&str]); 5] = [
            (Event::Panics, &table::PANICS, &[]),
            (Event::DroppedShort, &table::DROPPED, &["short"]),
            (Event::DroppedResponse, &table::DROPPED, &["response"]),
            (Event::DroppedSource, &table::DROPPED, &["source"]),
            (Event::DroppedNotAllowed, &table::DROPPED, &["not_allowed"]),
        ];
        for (event, family, labels) in shown {
            families.add(family, labels, Value::Counter(self.total(event) as f64));
        }
    }
}

fn collect_build(families: &mut Families) {
    let version = env!("CARGO_PKG_VERSION");
    let revision = option_env!("HEADLESS_DNS_REVISION").unwrap_or_default();
    families.add(&table::BUILD_INFO, &[version, revision, ""], Value::Gauge(1.0));
}

fn collect_status(families: &mut Families, status: &Status) {
    let mut is = |family, labels: &[&str], is| families.add(family, labels, Value::Gauge(f64::from(u8::from(is))));
    is(&table::READY, &[], status.is_ready());
    let now = status.data_state();
    for (state, word) in
        [(DataState::NotSynced, "not_synced"), (DataState::Current, "current"), (DataState::Stale, "stale")]
    {
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
        one.count(Event::NoError);
        two.add(Event::NoError, 2);
        drop(one);
        assert_eq!(metrics.total(Event::NoError), 3);
        assert_eq!(metrics.total(Event::NxDomain), 0);
    }
}
