//! Limits on concurrent connections, and which idle connection is evicted when a limit is reached.
//!
//! A connection has a [`ConnectionPermit`] for as long as it lives. Connections over HTTPS and QUIC are large: an idle
//! one holds some 31 kB over HTTPS and 37 kB over QUIC, but 9 kB over TLS and 1 kB over TCP. So large connections have a
//! limit of their own, within which they evict each other: a client that opens many costs other clients of HTTPS and
//! QUIC, and none over TCP. Not here: the protocols on connections (`stream/connection.rs`, `tls/`, `https/`, `quic/`).

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicIsize, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::Waker;
use std::time::Instant;

use tokio::task::AbortHandle;

use crate::metrics::{Counters, Event};
use crate::server::ConnectionLimits;
use headless_dns_core::lock::lock;

/// Number of eviction candidates found in one search, for this eviction and the next ones.
const CANDIDATES_PER_SEARCH: usize = 256;
/// Number of octets that a connection may buffer before they count against [`ConnectionLimits::buffered_bytes`].
const FREE_BUFFERED_BYTES: usize = 1024;
/// Value of [`ConnectionEntry::buffered_bytes`] once the connection is evicted: its octets count no longer.
const EVICTED: usize = usize::MAX;
/// Weight of a large connection relative to any other, by the memory of idle ones.
const LARGE_WEIGHT: usize = 4;
/// Decrease in weight after which the allocator is asked to return memory to the system: 2 MB of idle connections, or 8
/// MB of handshakes with full buffers. Less than one client may have.
const TRIM_WEIGHT: usize = 256;

/// The connection limiter of a server.
pub(crate) struct ConnectionLimiter {
    limits: ConnectionLimits,
    start: Instant,
    table: Mutex<Table>,
    /// Octets buffered for slow clients, as [`ConnectionLimits::buffered_bytes`] counts them. Negative for a moment
    /// when a connection is evicted while its count grows.
    buffered_bytes: AtomicIsize,
    /// Written under the lock of `table`.
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Table {
    next: u64,
    entries: HashMap<u64, Arc<ConnectionEntry>>,
    clients: HashMap<IpAddr, usize>,
    /// Number of connections over HTTPS and QUIC.
    large: usize,
    candidates: EvictionCandidates,
    /// Eviction candidates among large connections.
    large_candidates: EvictionCandidates,
    /// Eviction candidates among connections that buffer octets for a slow client.
    buffering_candidates: EvictionCandidates,
    /// The largest [`Table::weight`] since memory was last returned to the system.
    peak_weight: usize,
}

/// Eviction candidates of the last search, longest idle first: connection number, and time of the last query then.
type EvictionCandidates = VecDeque<(u64, u64)>;

/// An admitted connection.
struct ConnectionEntry {
    client: IpAddr,
    is_large: bool,
    /// Time of the last query, or of the admission: nanoseconds since the start of the server.
    last_query: AtomicU64,
    /// Octets that count against [`ConnectionLimits::buffered_bytes`], or [`EVICTED`].
    buffered_bytes: AtomicUsize,
    abort: OnceLock<AbortHandle>,
    waker: OnceLock<Waker>,
}

impl ConnectionEntry {
    fn is_buffering(&self) -> bool {
        !matches!(self.buffered_bytes.load(Ordering::Relaxed), 0 | EVICTED)
    }
}

/// Outcome of a new connection.
pub(crate) enum Admission {
    Admitted(ConnectionPermit),
    /// Admitted by evicting the longest idle connection, because a limit was reached.
    AdmittedByEviction(ConnectionPermit),
    /// Refused, because the client has as many connections as it may have.
    Refused,
}

impl ConnectionLimiter {
    pub(crate) fn new(limits: ConnectionLimits, counters: Arc<Counters>) -> Self {
        Self { limits, start: Instant::now(), table: Mutex::default(), buffered_bytes: AtomicIsize::new(0), counters }
    }

    pub(crate) fn admit(self: &Arc<Self>, client: IpAddr, is_large: bool) -> Admission {
        let mut table = self.table();
        if table.clients.get(&client).is_some_and(|&count| count >= self.limits.per_client) {
            return Admission::Refused;
        }
        let evicted = if is_large && table.large >= self.limits.large {
            self.evict_among(&mut table, |entry| entry.is_large, |table| &mut table.large_candidates)
        } else {
            table.entries.len() >= self.limits.connections && self.evict_any(&mut table)
        };
        let permit = self.grant_permit(&mut table, client, is_large);
        if evicted { Admission::AdmittedByEviction(permit) } else { Admission::Admitted(permit) }
    }

    fn grant_permit(self: &Arc<Self>, table: &mut Table, client: IpAddr, is_large: bool) -> ConnectionPermit {
        let number = table.next;
        table.next += 1;
        let entry = Arc::new(ConnectionEntry {
            client,
            is_large,
            last_query: AtomicU64::new(self.nanoseconds(Instant::now())),
            buffered_bytes: AtomicUsize::new(0),
            abort: OnceLock::new(),
            waker: OnceLock::new(),
        });
        table.entries.insert(number, Arc::clone(&entry));
        table.large += usize::from(is_large);
        *table.clients.entry(client).or_default() += 1;
        table.peak_weight = table.peak_weight.max(table.weight());
        ConnectionPermit { limiter: Arc::clone(self), number, entry, buffered_bytes: 0 }
    }

    /// Returns whether a large connection would be admitted only by evicting another.
    #[cfg(feature = "quic")]
    pub(crate) fn is_full_for_large(&self) -> bool {
        let table = self.table();
        table.large >= self.limits.large || table.entries.len() >= self.limits.connections
    }

    /// Evicts the longest idle connection; false if there is none.
    pub(crate) fn evict(&self) -> bool {
        self.evict_any(&mut self.table())
    }

    fn evict_any(&self, table: &mut Table) -> bool {
        self.evict_among(table, |_| true, |table| &mut table.candidates)
    }

    fn evict_among(&self, table: &mut Table, is_among: IsAmong, candidates: CandidatesOf) -> bool {
        let longest = table.longest_idle(is_among, candidates);
        if let Some(number) = longest {
            self.evict_connection(table, number);
        }
        longest.is_some()
    }

    fn evict_connection(&self, table: &mut Table, number: u64) {
        let Some(entry) = table.remove(number) else { return };
        if let Some(abort) = entry.abort.get() {
            abort.abort();
        }
        // Subtract its octets now and not when its task ends, or further connections would be evicted for them.
        self.count_buffered(&entry, EVICTED);
    }

    /// Counts that a connection buffers `counted` octets, or is evicted. Returns false if it was evicted before.
    fn count_buffered(&self, entry: &ConnectionEntry, counted: usize) -> bool {
        let octets = |bytes| if bytes == EVICTED { 0 } else { bytes as isize };
        let before = entry.buffered_bytes.swap(counted, Ordering::Relaxed);
        self.buffered_bytes.fetch_add(octets(counted) - octets(before), Ordering::Relaxed);
        if before == EVICTED && counted != EVICTED {
            self.count_buffered(entry, EVICTED);
        }
        before != EVICTED
    }

    fn is_over_budget(&self) -> bool {
        self.buffered_bytes.load(Ordering::Relaxed) > isize::try_from(self.limits.buffered_bytes).unwrap_or(isize::MAX)
    }

    /// Evicts connections that buffer octets for slow clients, the longest idle first, until the limit is kept. Returns
    /// false if connection `number` is the longest idle itself, or no other can be evicted.
    fn evict_buffering(&self, number: u64) -> bool {
        let mut table = self.table();
        while self.is_over_budget() {
            let longest = table.longest_idle(ConnectionEntry::is_buffering, |table| &mut table.buffering_candidates);
            let Some(longest) = longest.filter(|longest| *longest != number) else { return false };
            self.evict_connection(&mut table, longest);
            self.counters.count(Event::TcpSlow);
        }
        true
    }

    /// Returns whether the weight has fallen so far that its memory is worth returning, once for each decrease.
    pub(crate) fn take_decrease(&self) -> bool {
        let mut table = self.table();
        let weight = table.weight();
        let is_large_decrease = table.peak_weight >= weight + TRIM_WEIGHT;
        if is_large_decrease {
            table.peak_weight = weight;
        }
        is_large_decrease
    }

    /// Wakes all connections, so that they see the shutdown. Connections admitted later see it by themselves.
    pub(crate) fn wake_all(&self) {
        for entry in self.table().entries.values() {
            if let Some(waker) = entry.waker.get() {
                waker.wake_by_ref();
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    fn nanoseconds(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_nanos() as u64
    }
}

type IsAmong = fn(&ConnectionEntry) -> bool;
type CandidatesOf = fn(&mut Table) -> &mut EvictionCandidates;

impl Table {
    fn weight(&self) -> usize {
        self.entries.len() + self.large * (LARGE_WEIGHT - 1)
    }

    /// Returns the longest idle connection of a class that can be evicted.
    fn longest_idle(&mut self, is_among: IsAmong, candidates: CandidatesOf) -> Option<u64> {
        // Candidates may have closed or sent a query since the search. All other connections had a later query than
        // every candidate, so the first unchanged candidate is still the longest idle.
        for search in [false, true] {
            if search {
                *candidates(self) = self.search_candidates(is_among);
            }
            while let Some((number, last_query)) = candidates(self).pop_front() {
                let Some(entry) = self.entries.get(&number) else { continue };
                // A connection without a task yet cannot be evicted.
                let can_evict = entry.abort.get().is_some() && is_among(entry);
                if can_evict && entry.last_query.load(Ordering::Relaxed) == last_query {
                    return Some(number);
                }
            }
        }
        None
    }

    fn search_candidates(&self, is_among: IsAmong) -> EvictionCandidates {
        let among = self.entries.iter().filter(|(_, entry)| is_among(entry));
        let mut all: Vec<_> =
            among.map(|(&number, entry)| (entry.last_query.load(Ordering::Relaxed), number)).collect();
        if all.len() > CANDIDATES_PER_SEARCH {
            all.select_nth_unstable(CANDIDATES_PER_SEARCH);
            all.truncate(CANDIDATES_PER_SEARCH);
        }
        all.sort_unstable();
        all.into_iter().map(|(last_query, number)| (number, last_query)).collect()
    }

    fn remove(&mut self, number: u64) -> Option<Arc<ConnectionEntry>> {
        let entry = self.entries.remove(&number)?;
        self.large -= usize::from(entry.is_large);
        if let Some(count) = self.clients.get_mut(&entry.client) {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(&entry.client);
            }
        }
        Some(entry)
    }
}

/// Returns the key by which a client is counted: the first address of its network of `prefix` bits for a global
/// address. A loopback, link-local or unique local address is returned unchanged, because a client cannot choose many
/// of them.
pub(crate) fn client_network(client: Ipv6Addr, prefix: u8) -> IpAddr {
    let is_local = client.is_loopback() || client.is_unicast_link_local() || client.is_unique_local();
    let host_bits = 128 - u32::from(prefix.min(128));
    let mask = if is_local { u128::MAX } else { u128::MAX.checked_shl(host_bits).unwrap_or(0) };
    Ipv6Addr::from_bits(client.to_bits() & mask).into()
}

/// The permit of one admitted connection. Dropping it releases its place in the limits.
pub(crate) struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    number: u64,
    entry: Arc<ConnectionEntry>,
    /// Octets buffered, as they count against [`ConnectionLimits::buffered_bytes`].
    buffered_bytes: usize,
}

impl ConnectionPermit {
    pub(crate) fn limits(&self) -> &ConnectionLimits {
        &self.limiter.limits
    }

    /// Returns the setter of the task that an eviction aborts.
    pub(crate) fn eviction_handle(&self) -> EvictionHandle {
        EvictionHandle(Arc::clone(&self.entry))
    }

    /// Registers the task's waker for the shutdown signal. A waker takes a fraction of the memory of a channel; it can
    /// be set once, because a task has one waker all its life.
    pub(crate) fn register_shutdown_waker(&self, waker: &Waker) {
        if self.entry.waker.get().is_none() {
            // Under the lock, so that `wake_all` either comes later and finds the waker, or came before, and so did the
            // shutdown.
            let _table = self.limiter.table();
            let _ = self.entry.waker.set(waker.clone());
        }
    }

    /// Records the time of a query.
    pub(crate) fn record_query(&self, now: Instant) {
        self.entry.last_query.store(self.limiter.nanoseconds(now), Ordering::Relaxed);
    }

    /// Counts the octets that the connection buffers for a slow client. If all connections together exceed the limit,
    /// the longest idle of them are evicted; returns false if this one has to close.
    pub(crate) fn set_buffered_bytes(&mut self, octets: usize) -> bool {
        let counted = octets.saturating_sub(FREE_BUFFERED_BYTES);
        if counted == self.buffered_bytes {
            return true;
        }
        let grows = counted > self.buffered_bytes;
        self.buffered_bytes = counted;
        let is_admitted = self.limiter.count_buffered(&self.entry, counted);
        is_admitted && (!grows || !self.limiter.is_over_budget() || self.limiter.evict_buffering(self.number))
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.set_buffered_bytes(0);
        let _ = self.limiter.table().remove(self.number);
    }
}

/// Setter of the task that an eviction aborts, for when the connection has a task.
pub(crate) struct EvictionHandle(Arc<ConnectionEntry>);

impl EvictionHandle {
    pub(crate) fn set(self, abort: AbortHandle) {
        // A second call would be for the same task.
        let _ = self.0.abort.set(abort);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::*;
    use crate::metrics::Metrics;

    struct LimiterFixture {
        limiter: Arc<ConnectionLimiter>,
        metrics: Metrics,
        tasks: JoinSet<()>,
    }

    impl LimiterFixture {
        fn new(limits: ConnectionLimits) -> Self {
            let metrics = Metrics::default();
            let limiter = Arc::new(ConnectionLimiter::new(limits, metrics.worker()));
            Self { limiter, metrics, tasks: JoinSet::new() }
        }

        fn admit(&mut self, client: [u8; 4]) -> Option<ConnectionPermit> {
            self.admit_as(client, false)
        }

        fn admit_as(&mut self, client: [u8; 4], is_large: bool) -> Option<ConnectionPermit> {
            let permit = match self.limiter.admit(client.into(), is_large) {
                Admission::Admitted(permit) | Admission::AdmittedByEviction(permit) => permit,
                Admission::Refused => return None,
            };
            permit.eviction_handle().set(self.tasks.spawn(std::future::pending()));
            Some(permit)
        }

        /// Returns the numbers of the open connections, in ascending order.
        fn connections(&self) -> Vec<u64> {
            let mut numbers: Vec<_> = self.limiter.table().entries.keys().copied().collect();
            numbers.sort_unstable();
            numbers
        }
    }

    const HERE: [u8; 4] = [127, 0, 0, 1];

    #[tokio::test]
    async fn evicts_longest_idle_first() {
        let mut fixture = LimiterFixture::new(ConnectionLimits { connections: 4, ..ConnectionLimits::default() });
        let later = |seconds| Instant::now() + Duration::from_secs(seconds);
        let permits: Vec<_> = (0..4).map(|_| fixture.admit(HERE).unwrap()).collect();
        for (permit, seconds) in permits.iter().zip([3, 1, 4, 2]) {
            permit.record_query(later(seconds));
        }
        let _fifth = fixture.admit(HERE).unwrap();
        // The new connection has sent no query yet, and is not among the candidates: it stays for this round.
        assert_eq!(fixture.connections(), [0, 2, 3, 4]);
        permits[3].record_query(later(9));
        let _sixth = fixture.admit(HERE).unwrap();
        assert_eq!(fixture.connections(), [2, 3, 4, 5]);
        drop(permits);
        assert_eq!(fixture.connections(), [4, 5]);
    }

    #[tokio::test]
    async fn large_connections_have_a_share() {
        let mut fixture =
            LimiterFixture::new(ConnectionLimits { connections: 6, large: 2, ..ConnectionLimits::default() });
        let later = |seconds| Instant::now() + Duration::from_secs(seconds);
        let mut permits = Vec::new();
        for (is_large, seconds) in [(false, 1), (true, 3), (false, 2), (true, 2)] {
            let permit = fixture.admit_as(HERE, is_large).unwrap();
            permit.record_query(later(seconds));
            permits.push(permit);
        }
        // Large connections evict each other, although others are idle for longer and there is room.
        for (permit, seconds) in
            [(fixture.admit_as(HERE, true).unwrap(), 4), (fixture.admit_as(HERE, true).unwrap(), 5)]
        {
            permit.record_query(later(seconds));
            permits.push(permit);
        }
        assert_eq!(fixture.connections(), [0, 2, 4, 5]);
        // Among all, the longest idle is evicted, large or not.
        permits.extend([fixture.admit(HERE).unwrap(), fixture.admit(HERE).unwrap()]);
        permits.iter().skip(6).for_each(|permit| permit.record_query(later(9)));
        permits[0].record_query(later(7));
        permits[2].record_query(later(6));
        permits.push(fixture.admit(HERE).unwrap());
        assert_eq!(fixture.connections(), [0, 2, 5, 6, 7, 8]);
        // A large connection was evicted, so one more is admitted, by evicting any.
        permits[8].record_query(later(9));
        permits[5].record_query(later(8));
        permits.push(fixture.admit_as(HERE, true).unwrap());
        assert_eq!(fixture.connections(), [0, 5, 6, 7, 8, 9]);
        drop(permits);
        assert_eq!(fixture.limiter.table().large, 0);
    }

    #[tokio::test]
    async fn limits_connections_per_client() {
        let mut fixture = LimiterFixture::new(ConnectionLimits { per_client: 2, ..ConnectionLimits::default() });
        let (one, _two) = (fixture.admit(HERE).unwrap(), fixture.admit(HERE).unwrap());
        assert!(fixture.admit(HERE).is_none());
        let _other = fixture.admit([127, 0, 0, 2]).unwrap();
        drop(one);
        assert!(fixture.admit(HERE).is_some());
    }

    #[test]
    fn counts_ipv6_clients_by_prefix() {
        for (client, prefix, network) in [
            ("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::"),
            ("2001:db8:1:2:3:4:5:6", 48, "2001:db8:1::"),
            ("2001:db8:1:2:3:4:5:6", 128, "2001:db8:1:2:3:4:5:6"),
            ("ffff:ffff::1", 1, "8000::"),
            ("::1", 64, "::1"),
            ("fe80::2:3", 64, "fe80::2:3"),
            ("fd00:1::2:3", 64, "fd00:1::2:3"),
        ] {
            let expected: IpAddr = network.parse().unwrap();
            assert_eq!(client_network(client.parse().unwrap(), prefix), expected, "{client}/{prefix}");
        }
    }

    #[tokio::test]
    async fn counts_octets_above_first_kilobyte() {
        let mut fixture = LimiterFixture::new(ConnectionLimits { buffered_bytes: 1000, ..ConnectionLimits::default() });
        let (mut one, mut two) = (fixture.admit(HERE).unwrap(), fixture.admit(HERE).unwrap());
        assert!(one.set_buffered_bytes(FREE_BUFFERED_BYTES + 1000));
        assert!(two.set_buffered_bytes(FREE_BUFFERED_BYTES));
        two.record_query(Instant::now());
        assert!(!one.set_buffered_bytes(FREE_BUFFERED_BYTES + 1001), "the longest idle itself");
        drop(one);
        assert!(two.set_buffered_bytes(FREE_BUFFERED_BYTES + 2));
        drop(two);
        assert_eq!(fixture.limiter.buffered_bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn evicts_longest_idle_with_octets_over_budget() {
        let mut fixture = LimiterFixture::new(ConnectionLimits { buffered_bytes: 1000, ..ConnectionLimits::default() });
        let later = |seconds| Instant::now() + Duration::from_secs(seconds);
        let mut permits: Vec<_> = (0..5).map(|_| fixture.admit(HERE).unwrap()).collect();
        for (permit, seconds) in permits.iter().zip([0, 3, 1, 2, 4]) {
            permit.record_query(later(seconds));
        }
        for number in [1, 2, 3] {
            assert!(permits[number].set_buffered_bytes(FREE_BUFFERED_BYTES + 300));
        }
        assert!(permits[4].set_buffered_bytes(FREE_BUFFERED_BYTES + 650));
        assert_eq!(fixture.connections(), [0, 1, 4], "the one that holds nothing stays, however idle");
        assert_eq!(
            fixture.limiter.buffered_bytes.load(Ordering::Relaxed),
            950,
            "counted no longer, though their permits are not dropped"
        );
        assert!(!permits[2].set_buffered_bytes(FREE_BUFFERED_BYTES + 9), "its task is about to end");
        assert_eq!(fixture.limiter.buffered_bytes.load(Ordering::Relaxed), 950);
        assert_eq!(fixture.metrics.total(Event::TcpSlow), 2);
        drop(permits);
        assert_eq!(fixture.limiter.buffered_bytes.load(Ordering::Relaxed), 0);
        while let Some(ended) = fixture.tasks.join_next().await {
            assert!(ended.unwrap_err().is_cancelled());
            if fixture.tasks.len() == 3 {
                break;
            }
        }
    }

    #[tokio::test]
    async fn applies_large_decrease_once() {
        let mut fixture = LimiterFixture::new(ConnectionLimits::default());
        let is_large = |number| number % 2 == 0;
        let mut permits: Vec<_> = (0..1000).map(|number| fixture.admit_as(HERE, is_large(number)).unwrap()).collect();
        assert!(!fixture.limiter.take_decrease());
        permits.truncate(900);
        assert!(!fixture.limiter.take_decrease(), "100 connections, half of them large, weigh 250");
        permits.truncate(890);
        assert!(fixture.limiter.take_decrease());
        assert!(!fixture.limiter.take_decrease());
        drop(permits);
        assert!(fixture.limiter.take_decrease());
    }
}
