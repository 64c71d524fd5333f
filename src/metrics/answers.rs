//! Response counters of one worker: types, RCODEs, sizes and durations, by zone.
//!
//! To count a response costs a few instructions: no cell has more than one writer, none is allocated later, and the clock
//! is read once for a batch. QTYPE, RCODE and DO bit of a response select one cell, and each length up to [`EXACT_LENGTHS`] octets
//! is a cell; the sums for the labels are made when `/metrics` is rendered. Not here: the formats (`exposition.rs`).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::exposition::{Families, Value};
use super::table::{DO_REQUESTS, DURATION, REQUEST_SIZE, REQUESTS, RESPONSE_SIZE, RESPONSES, SIZES, TIMES};
use headless_dns_core::answer::{ResponseSummary, ZoneLabel};
use headless_dns_core::transport::Transport;

/// Number of lengths, from 0 octets, that have a cell of their own.
const EXACT_LENGTHS: usize = 512;
/// The first bound of [`TIMES`] in nanoseconds: nearly every batch takes less.
const FIRST_BUCKET_NANOS: u64 = 250_000;
/// The QTYPEs that CoreDNS distinguishes (`plugin/metrics/vars/monitor.go`).
const TYPES: [(u16, &str); 18] = [
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (12, "PTR"),
    (15, "MX"),
    (16, "TXT"),
    (28, "AAAA"),
    (33, "SRV"),
    (43, "DS"),
    (46, "RRSIG"),
    (47, "NSEC"),
    (48, "DNSKEY"),
    (50, "NSEC3"),
    (65, "HTTPS"),
    (251, "IXFR"),
    (252, "AXFR"),
    (255, "ANY"),
];
/// Label of all other QTYPEs.
const OTHER_TYPE: &str = "other";
/// The RCODEs of our responses.
const CODES: [(u16, &str); 8] = [
    (0, "NOERROR"),
    (1, "FORMERR"),
    (2, "SERVFAIL"),
    (3, "NXDOMAIN"),
    (4, "NOTIMP"),
    (5, "REFUSED"),
    (9, "NOTAUTH"),
    (16, "BADVERS"),
];
const ROWS: usize = TYPES.len() + 1;
/// Cells of one QTYPE: two for each RCODE, without and with the DO bit.
const ROW: usize = CODES.len() * 2;
/// A power of two, so that an index is masked and not compared; the cells behind the last row are unused.
const CELLS: usize = (ROWS * ROW).next_power_of_two();
/// Offsets of an RCODE's cells in their row, and of a QTYPE's row.
const CODE_AT: [u16; 32] = places(&CODES, 2, 0);
const TYPE_AT: [u16; 256] = places(&TYPES, ROW, TYPES.len());

const fn places<const N: usize, const M: usize>(known: &[(u16, &str); M], apart: usize, other: usize) -> [u16; N] {
    let mut places = [(other * apart) as u16; N];
    let mut at = 0;
    while at < M {
        places[known[at].0 as usize] = (at * apart) as u16;
        at += 1;
    }
    places
}

/// Labels of a worker's listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ListenerLabels {
    pub(super) address: SocketAddr,
    pub(super) transport: Transport,
}

impl ListenerLabels {
    /// Returns the label `server` as CoreDNS writes it: without the address if it is unspecified.
    fn server(&self) -> String {
        let (scheme, address) = (self.transport.scheme(), self.address);
        if address.ip().is_unspecified() {
            format!("{scheme}://:{}", address.port())
        } else {
            format!("{scheme}://{address}")
        }
    }

    fn family(&self) -> &'static str {
        if self.address.is_ipv4() { "1" } else { "2" }
    }
}

/// Response counters of one worker by zone. One thread at a time writes, any thread reads.
#[derive(Debug)]
pub struct ZoneResponseCounters {
    zones: Box<[ZoneCounters]>,
}

#[derive(Debug)]
struct ZoneCounters {
    /// Responses without a duration yet.
    pending: AtomicU64,
    cells: [AtomicU64; CELLS],
    queries: Lengths,
    responses: Lengths,
    times: [AtomicU64; TIMES.len() + 1],
    nanoseconds: AtomicU64,
}

/// Histogram of message lengths.
#[derive(Debug)]
struct Lengths {
    exact: [AtomicU64; EXACT_LENGTHS],
    longer: [AtomicU64; SIZES.len() + 1],
    longer_octets: AtomicU64,
}

impl ZoneResponseCounters {
    pub(super) fn new(zones: usize) -> Self {
        Self { zones: (0..zones).map(|_| ZoneCounters::default()).collect() }
    }

    /// Counts a response; its duration comes with [`Self::observe_latency`].
    #[inline]
    pub fn count(&self, summary: &ResponseSummary) {
        // A zone without a label counts as none.
        let Some(zone) = self.zones.get(summary.zone.index()).or_else(|| self.zones.first()) else { return };
        add(&zone.pending, 1);
        let row = TYPE_AT.get(usize::from(summary.qtype)).copied().unwrap_or((TYPES.len() * ROW) as u16);
        let code = CODE_AT[usize::from(summary.rcode) % CODE_AT.len()];
        let cell = usize::from(row + code) + usize::from(summary.dnssec_ok);
        add(&zone.cells[cell % CELLS], 1);
        zone.queries.count(summary.query_length);
        zone.responses.count(summary.length);
    }

    /// Records the duration of the responses since the last call, the same one for each.
    pub fn observe_latency(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = if nanoseconds <= FIRST_BUCKET_NANOS { 0 } else { bucket(TIMES, time.as_secs_f64()) };
        for zone in &self.zones {
            let number = load(&zone.pending);
            if number > 0 {
                zone.pending.store(0, Ordering::Relaxed);
                add(&zone.times[bucket], number);
                add(&zone.nanoseconds, nanoseconds.saturating_mul(number));
            }
        }
    }

    /// Returns the number of responses with this RCODE.
    pub(super) fn with_code(&self, rcode: u16) -> u64 {
        let code = usize::from(CODE_AT[usize::from(rcode) % CODE_AT.len()]) / 2;
        self.zones.iter().map(|zone| (0..ROWS).map(|row| zone.of_row(row, code)).sum::<u64>()).sum()
    }

    /// Adds all series to `families`.
    pub(super) fn collect(&self, place: ListenerLabels, names: &[String], families: &mut Families) {
        let (server, proto, family) = (&*place.server(), place.transport.label(), place.family());
        for (number, (zone, name)) in self.zones.iter().zip(names).enumerate() {
            let mut count = |shown, labels: &[&str], number: u64| {
                if number > 0 {
                    families.add(shown, labels, Value::Counter(number as f64));
                }
            };
            for row in 0..ROWS {
                let asked = (0..CODES.len()).map(|code| zone.of_row(row, code)).sum();
                let qtype = TYPES.get(row).map_or(OTHER_TYPE, |(_, mnemonic)| mnemonic);
                count(&REQUESTS, &[server, name, "", proto, family, qtype], asked);
            }
            for (code, (_, mnemonic)) in CODES.iter().enumerate() {
                let answered = (0..ROWS).map(|row| zone.of_row(row, code)).sum();
                let plugin = plugin(ZoneLabel::at(number), mnemonic);
                count(&RESPONSES, &[server, name, "", mnemonic, plugin], answered);
            }
            count(&DO_REQUESTS, &[server, name, ""], zone.with_do());
            let (queries, octets) = zone.queries.buckets();
            if queries.iter().any(|bucket| *bucket > 0) {
                families.add(&REQUEST_SIZE, &[server, name, "", proto], Value::Histogram(queries, octets as f64));
                let (responses, octets) = zone.responses.buckets();
                families.add(&RESPONSE_SIZE, &[server, name, "", proto], Value::Histogram(responses, octets as f64));
            }
            let times: Vec<u64> = zone.times.iter().map(load).collect();
            if times.iter().any(|bucket| *bucket > 0) {
                let seconds = load(&zone.nanoseconds) as f64 / 1e9;
                families.add(&DURATION, &[server, name, ""], Value::Histogram(times, seconds));
            }
        }
    }
}

/// Returns the label `plugin`, in CoreDNS's terms; empty if the server itself refused.
fn plugin(zone: ZoneLabel, code: &str) -> &'static str {
    match zone {
        ZoneLabel::NONE => "",
        ZoneLabel::FORWARDED => "forward",
        _ if matches!(code, "NOERROR" | "NXDOMAIN") => "kubernetes",
        _ => "",
    }
}

impl Default for ZoneCounters {
    fn default() -> Self {
        Self {
            pending: zero(),
            cells: [const { zero() }; CELLS],
            queries: Lengths::default(),
            responses: Lengths::default(),
            times: [const { zero() }; TIMES.len() + 1],
            nanoseconds: zero(),
        }
    }
}

impl ZoneCounters {
    fn of_row(&self, row: usize, code: usize) -> u64 {
        let cell = row * ROW + code * 2;
        load(&self.cells[cell]) + load(&self.cells[cell + 1])
    }

    fn with_do(&self) -> u64 {
        self.cells.iter().skip(1).step_by(2).map(load).sum()
    }
}

impl Default for Lengths {
    fn default() -> Self {
        Self {
            exact: [const { zero() }; EXACT_LENGTHS],
            longer: [const { zero() }; SIZES.len() + 1],
            longer_octets: zero(),
        }
    }
}

impl Lengths {
    fn count(&self, length: usize) {
        match self.exact.get(length) {
            Some(cell) => add(cell, 1),
            None => self.count_longer(length),
        }
    }

    #[cold]
    fn count_longer(&self, length: usize) {
        add(&self.longer[bucket(SIZES, length as f64)], 1);
        add(&self.longer_octets, length as u64);
    }

    /// Returns the number of messages in each bucket, and the octets of all messages.
    fn buckets(&self) -> (Vec<u64>, u64) {
        let mut buckets: Vec<u64> = self.longer.iter().map(load).collect();
        let mut octets = load(&self.longer_octets);
        for (length, cell) in self.exact.iter().enumerate() {
            let number = load(cell);
            buckets[bucket(SIZES, length as f64)] += number;
            octets += number * length as u64;
        }
        (buckets, octets)
    }
}

/// Returns the index of the first bound that is not below `value`; `bounds.len()` if all are.
pub(super) fn bucket(bounds: &[f64], value: f64) -> usize {
    bounds.partition_point(|bound| *bound < value)
}

const fn zero() -> AtomicU64 {
    AtomicU64::new(0)
}

fn load(cell: &AtomicU64) -> u64 {
    cell.load(Ordering::Relaxed)
}

/// Adds to a cell with one writer, which needs no read-modify-write instruction.
#[inline]
pub(super) fn add(cell: &AtomicU64, number: u64) {
    cell.store(cell.load(Ordering::Relaxed) + number, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_codes_have_distinct_slots() {
        for (number, (qtype, _)) in TYPES.iter().enumerate() {
            assert_eq!(usize::from(TYPE_AT[usize::from(*qtype)]), number * ROW);
        }
        for (number, (rcode, _)) in CODES.iter().enumerate() {
            assert_eq!(usize::from(CODE_AT[usize::from(*rcode)]), number * 2);
        }
        for unknown in [0, 99] {
            assert_eq!(usize::from(TYPE_AT[unknown]), TYPES.len() * ROW);
        }
        assert_eq!(Duration::from_nanos(FIRST_BUCKET_NANOS).as_secs_f64(), TIMES[0]);
    }

    #[test]
    fn buckets_include_their_bounds() {
        for (value, expected) in [(0.0, 0), (1.0, 1), (100.0, 1), (101.0, 2), (511.0, 5), (512.0, 6), (64_001.0, 14)] {
            assert_eq!(bucket(SIZES, value), expected, "{value}");
        }
    }

    #[test]
    fn counts_lengths_around_last_exact_bucket() {
        let lengths = Lengths::default();
        for length in [0, 12, 511, 512, 1232, 65_535] {
            lengths.count(length);
        }
        let (buckets, octets) = lengths.buckets();
        assert_eq!(octets, 12 + 511 + 512 + 1232 + 65_535);
        let held: Vec<usize> = (0..buckets.len()).filter(|bucket| buckets[*bucket] > 0).collect();
        assert_eq!((held, buckets.iter().sum()), (vec![0, 1, 5, 6, 7, 14], 6));
    }

    #[test]
    fn formats_servers_like_coredns() {
        for (address, transport, server, family) in [
            ("0.0.0.0:53", Transport::Udp, "dns://:53", "1"),
            ("[::]:53", Transport::Tcp, "dns://:53", "2"),
            ("127.0.0.1:1053", Transport::Udp, "dns://127.0.0.1:1053", "1"),
            ("[::1]:1053", Transport::Tcp, "dns://[::1]:1053", "2"),
            ("0.0.0.0:853", Transport::Tls, "tls://:853", "1"),
            ("[::1]:443", Transport::Https, "https://[::1]:443", "2"),
            ("127.0.0.1:853", Transport::Quic, "quic://127.0.0.1:853", "1"),
        ] {
            let place = ListenerLabels { address: address.parse().unwrap(), transport };
            assert_eq!((&*place.server(), place.family()), (server, family));
        }
    }
}
