//! The table of all metrics: name, kind, labels, help and origin.
//!
//! Metrics that CoreDNS has too keep its names and labels, so that its dashboards and alerts work here. `docs/metrics.md`,
//! the dashboard and the alert rules are generated from this table. Not here: the values (`mod.rs`, `answers.rs`), and the
//! formats (`exposition.rs`).

/// A metric with all its series.
#[derive(Debug, PartialEq)]
pub struct MetricFamily {
    /// Name, without the suffixes `_bucket`, `_sum` and `_count` of a histogram.
    pub name: &'static str,
    /// Kind of the values.
    pub kind: MetricKind,
    /// Names of the labels, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// Help text of one or two sentences, without the final full stop.
    pub help: &'static str,
    /// Origin of the name.
    pub origin: MetricOrigin,
}

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MetricKind {
    /// A value that only grows, from 0 at the start of the process.
    Counter,
    /// A value that grows and shrinks.
    Gauge,
    /// A histogram with these upper bounds of its buckets, and one bucket above the last.
    Histogram(&'static [f64]),
}

impl MetricKind {
    /// Returns the name of the kind in the exposition formats.
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// The origin of a metric's name, and so the description of its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricOrigin {
    /// CoreDNS's plugin `prometheus` (`plugin/metrics/vars/vars.go` and `report.go`).
    CoreDns,
    /// CoreDNS's plugin `kubernetes` (`plugin/kubernetes/object/metrics.go`).
    CoreDnsKubernetes,
    /// The process metrics of Prometheus's client libraries ("Writing client libraries", "Process metrics").
    Process,
    /// This project.
    Own,
}

/// CoreDNS's buckets of durations, in seconds: `ExponentialBuckets(0.00025, 2, 16)` in `plugin/plugin.go`.
pub const TIMES: &[f64] = &[
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192,
];
/// CoreDNS's buckets of sizes, in octets (`plugin/metrics/vars/vars.go`).
pub const SIZES: &[f64] =
    &[0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8291.0, 16_000.0, 32_000.0, 48_000.0, 64_000.0];
/// CoreDNS's buckets of programming times, in seconds: `ExponentialBuckets(0.001, 2, 20)`.
pub const PROGRAMMING_TIMES: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384, 32.768,
    65.536, 131.072, 262.144, 524.288,
];
/// Buckets of publication times, in seconds: 10 us to 10 s.
pub const PUBLISH_TIMES: &[f64] = &[
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 5.0, 10.0,
];

use MetricKind::{Counter, Gauge, Histogram};
use MetricOrigin::{CoreDns, CoreDnsKubernetes, Own, Process};

macro_rules! families {
    ($($constant:ident: $kind:expr, $origin:ident, $name:literal [$($label:literal)*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $constant: MetricFamily =
                MetricFamily { name: $name, kind: $kind, labels: &[$($label),*], help: $help, origin: $origin };
        )*

        /// All metrics in the order in which they are exposed.
        pub static FAMILIES: &[&MetricFamily] = &[$(&$constant,)*];
    };
}

families! {
    REQUESTS: Counter, CoreDns, "coredns_dns_requests_total" ["server" "zone" "view" "proto" "family" "type"],
        "Queries that were answered, by their type";
    RESPONSES: Counter, CoreDns, "coredns_dns_responses_total" ["server" "zone" "view" "rcode" "plugin"],
        "Responses, by RCODE. The plugin is kubernetes for answers from the zones, forward for answers of an upstream, and \
         empty for errors of the server itself";
    DURATION: Histogram(TIMES), CoreDns, "coredns_dns_request_duration_seconds" ["server" "zone" "view"],
        "Time from the receipt of a query to the sending of its response, in seconds. A batch of up to 64 queries is \
         answered together, and each of them counts with the time of the batch";
    REQUEST_SIZE: Histogram(SIZES), CoreDns, "coredns_dns_request_size_bytes" ["server" "zone" "view" "proto"],
        "Size of the query, in octets, without the two of its length over streams";
    RESPONSE_SIZE: Histogram(SIZES), CoreDns, "coredns_dns_response_size_bytes" ["server" "zone" "view" "proto"],
        "Size of the response, in octets, without the two of its length over streams";
    DO_REQUESTS: Counter, CoreDns, "coredns_dns_do_requests_total" ["server" "zone" "view"],
        "Queries with the DO bit set";
    PROGRAMMING: Histogram(PROGRAMMING_TIMES), CoreDnsKubernetes,
        "coredns_kubernetes_dns_programming_duration_seconds" ["service_kind"],
        "Time from the change of a Pod, as the EndpointSlice's annotation \
         endpoints.kubernetes.io/last-change-trigger-time says, to when its names are answered, in seconds, for \
         headless Services with a selector; as precise as two clocks agree";
    PANICS: Counter, CoreDns, "coredns_panics_total" [],
        "Panics, wherever they were caught. One while answering costs its query, which gets SERVFAIL";
    BUILD_INFO: Gauge, CoreDns, "coredns_build_info" ["version" "revision" "goversion"],
        "Always 1, with the version as a label. The goversion is empty";
    WATCH_STATE: Gauge, Own, "headless_dns_watch_state" ["resource" "state"],
        "1 if the watch of a resource is in this state, else 0: waiting (not read yet), current, denied (the API server does \
         not allow it) or lost";
    DATA_STATE: Gauge, Own, "headless_dns_data_state" ["state"],
        "1 if the data is in this state, else 0: not_synced, restored (from a snapshot), partial (some manifests cannot be \
         read), current, or stale (a required resource was lost for longer than 30 s). One state is 1, the others are 0";
    READY: Gauge, Own, "headless_dns_ready" [],
        "1 if /readyz reports that the server is ready, else 0";
    WATCH_AGE: Gauge, Own, "headless_dns_watch_age_seconds" ["resource"],
        "Time since the API server last sent an event, a bookmark or a list of a resource, in seconds. Bookmarks come \
         about once a minute where nothing changes";
    LOST: Gauge, Own, "headless_dns_lost_seconds" [],
        "Time for which a required resource has been out of reach, in seconds; 0 if none is";
    STALE_ANSWERS: Counter, Own, "headless_dns_stale_answers_total" [],
        "Answers from stale data, which carry an extended error";
    LISTS: Counter, Own, "headless_dns_watch_lists_total" ["resource" "reason"],
        "Lists of a resource that began: start, audit (time to look for lost events), silent (nothing came for too \
         long), outdated (an event was missed), held_down (the list before would have removed too much), or the \
         failure before it: gone, unauthorized, denied, refused, unknown, busy, late, unreachable, other";
    WATCH_FAILURES: Counter, Own, "headless_dns_watch_failures_total" ["resource" "reason"],
        "Lists and watches of a resource that failed: gone (410, 504), unauthorized (401), denied (403), refused (400, \
         405, 422), unknown (404), busy (429, 503), late, unreachable, other";
    WATCH_RESTARTS: Counter, Own, "headless_dns_watch_restarts_total" [],
        "Watches whose task ended because of a defect, and was started again";
    TASK_RESTARTS: Counter, Own, "headless_dns_task_restarts_total" [],
        "Threads and tasks that ended or panicked because of a defect, and were started again; reloads of manifests that \
         panicked";
    AUDIT_REPAIRS: Counter, Own, "headless_dns_audit_repairs_total" [],
        "Changes that an audit found by listing again, and no event had reported";
    REJECTED: Counter, Own, "headless_dns_objects_rejected_total" ["reason"],
        "Objects, or parts of them, that were left out, each time they were read: invalid (all of it), address, fqdn, \
         hostname, port, external_name, name, no_address; from manifests also duplicate and not_simulated";
    PUBLISH_DURATION: Histogram(PUBLISH_TIMES), Own, "headless_dns_publish_duration_seconds" [],
        "Time from the receipt of a batch of changes, or the beginning of a reload of manifests, to their \
         publication, in seconds";
    PUBLISHED: Counter, Own, "headless_dns_published_total" [],
        "Services, and other parts of the zones, that were built from a live cluster and published";
    SERVICES: Gauge, Own, "headless_dns_services" [],
        "Services with a name that exists";
    ENDPOINTS: Gauge, Own, "headless_dns_endpoints" [],
        "Names of endpoints that are answered, over all Services; with --endpoint-pod-names one endpoint can have two";
    REVERSE_ADDRESSES: Gauge, Own, "headless_dns_reverse_addresses" [],
        "Addresses with a name in reverse";
    SERIAL: Gauge, Own, "headless_dns_zone_serial" [],
        "The serial of the zones: Unix time of the last change that was published";
    RECEIVED: Counter, Own, "headless_dns_received_messages_total" ["proto"],
        "Messages received, valid or not";
    DROPPED: Counter, Own, "headless_dns_dropped_messages_total" ["reason"],
        "Messages that got no response: short (no header), response (not a query), source (no client has such an \
         address), not_allowed (with --not-allowed drop)";
    KERNEL_DROPS: Counter, Own, "headless_dns_kernel_drops_total" [],
        "Datagrams that the kernel dropped because the receive buffer was full. Read when a socket is idle, every \
         thousand batches, and at shutdown";
    SOCKET_ERRORS: Counter, Own, "headless_dns_socket_errors_total" ["call"],
        "Calls to receive, send or accept that failed";
    TRUNCATED: Counter, Own, "headless_dns_truncated_responses_total" ["proto"],
        "Responses with TC set: over UDP the client asks again over TCP; over the others it has a part of an RRset over \
         65,535 octets";
    TCP_CONNECTIONS: Gauge, Own, "headless_dns_tcp_connections" [],
        "TCP connections that are open";
    TCP_ACCEPTED: Counter, Own, "headless_dns_tcp_accepted_total" [],
        "TCP connections that were accepted";
    TCP_CUT: Counter, Own, "headless_dns_tcp_cut_total" ["reason"],
        "TCP connections that the server closed: over_limit (too many: a new one, or the longest idle in its place), \
         idle, slow (in sending a query or taking responses)";
    HANDSHAKE_FAILURES: Counter, Own, "headless_dns_handshake_failures_total" ["proto" "reason"],
        "TLS and QUIC handshakes that failed, by reason: closed (the client went away), certificate (it does not \
         trust ours), no_tls (it speaks something else), refused (nothing in common, or another error), late, \
         too_large (more than 16 KiB), over_budget (too much is held for slow clients)";
    HTTPS_REFUSED: Counter, Own, "headless_dns_https_refused_total" ["status"],
        "Requests over HTTPS that got no DNS message, by the status of their response: 400, 404, 405, 408, 413, 414, 415. \
         What HTTP/2 itself refuses, with 431 or by ending a stream, is not among them";
    CERTIFICATE_EXPIRATION: Gauge, Own, "headless_dns_tls_certificate_expiration_timestamp_seconds" [],
        "Time at which the certificate of --tls-cert that clients get expires, in seconds of Unix time; absent without \
         encrypted listeners";
    CERTIFICATE_RELOADS: Counter, Own, "headless_dns_tls_certificate_reloads_total" ["result"],
        "Reloads of changed files of --tls-cert and --tls-key: taken, or refused (the pair before stays; while \
         the files are so, they are read and counted once a minute)";
    CAUSES_TOLD: Counter, Own, "headless_dns_causes_told_total" ["finding"],
        "Causes sent to clients in extended errors, by token (tests/causes.md)";
    CAUSES_NOT_LOOKED_FOR: Counter, Own, "headless_dns_causes_not_looked_for_total" [],
        "Causes that were not searched: too many at once, or the objects were being changed";
    QUERY_LOG_DROPPED: Counter, Own, "headless_dns_query_log_dropped_total" [],
        "Lines of the query log that were not written, because they could not be written fast enough";
    LOG_LINES_LOST: Counter, Own, "headless_dns_log_lines_lost_total" [],
        "Lines of the server's own log that were lost: standard error is a pipe that is not read fast enough, or is closed";
    CPU: Counter, Process, "process_cpu_seconds_total" [],
        "Time on a CPU of this process, in user space and in the kernel, in seconds";
    RESIDENT_MEMORY: Gauge, Process, "process_resident_memory_bytes" [],
        "Memory of this process that is in RAM, in octets";
    VIRTUAL_MEMORY: Gauge, Process, "process_virtual_memory_bytes" [],
        "Virtual memory of this process, in octets";
    OPEN_FDS: Gauge, Process, "process_open_fds" [],
        "File descriptors that are open";
    MAX_FDS: Gauge, Process, "process_max_fds" [],
        "Limit on open file descriptors";
    START_TIME: Gauge, Process, "process_start_time_seconds" [],
        "Time at which this process was started, in seconds of Unix time";
}
