//! Who may be connected: the limits on connections, and who goes when there are too many.
//!
//! A connection has a [`Seat`] for as long as it lives. Those over HTTPS and QUIC are large: idle ones hold some 30 and
//! 37 kB, over TLS it is 9 and over TCP 1. So they may have a part of the seats, and compete for it among themselves: whoever
//! opens many costs others who do, and no client over TCP. Not here: what is said over them (`connection.rs`,
//! `encrypted/`).

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicIsize, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Instant;

use tokio::task::AbortHandle;

use super::Limits;
use crate::metrics::{Counters, Event};

/// How many of the longest idle are picked in one search, for this eviction and the next ones.
const PICKED: usize = 256;
/// What a connection may hold before it counts against [`Limits::held`], in octets.
const UNCOUNTED: usize = 1024;
/// Value of [`Taken::held`] once the connection is closed in favour of others: its octets count no longer.
const EVICTED: usize = usize::MAX;
/// Weight of a large connection beside that of any other, by the memory of idle ones.
const LARGE_WEIGHT: usize = 4;
/// Decrease in weight after which the allocator is asked to give memory back: 2 MB of idle connections, 8 of handshakes that
/// hold what they may. Less than one client may have.
const GIVE_BACK_WEIGHT: usize = 256;

/// All seats of a server.
pub(super) struct Seats {
    limits: Limits,
    start: Instant,
    table: Mutex<Table>,
    /// Octets held for slow clients, as [`Limits::held`] counts them. Below 0 for a moment where a connection is evicted
    /// just as it holds more.
    held: AtomicIsize,
    /// Written under the lock of `table`.
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Table {
    next: u64,
    taken: HashMap<u64, Arc<Taken>>,
    clients: HashMap<IpAddr, usize>,
    /// How many of them are large.
    large: usize,
    picked: Picked,
    /// The same among those that are large.
    picked_large: Picked,
    /// The longest idle connections that held octets for a slow client.
    picked_holding: Picked,
    /// The largest [`Table::weight`] since memory was last given back.
    peak_weight: usize,
}

/// The longest idle of some time ago, longest first: their number, and when they had last asked.
type Picked = VecDeque<(u64, u64)>;

/// What is known of a seated connection.
struct Taken {
    client: IpAddr,
    is_large: bool,
    /// When it last asked something, or was accepted: nanoseconds since the start.
    asked: AtomicU64,
    /// Octets that count against [`Limits::held`], or [`EVICTED`].
    held: AtomicUsize,
    abort: OnceLock<AbortHandle>,
    waker: OnceLock<Waker>,
}

impl Taken {
    fn is_holding(&self) -> bool {
        !matches!(self.held.load(Ordering::Relaxed), 0 | EVICTED)
    }
}

/// What became of a new connection.
pub(super) enum Admission {
    Seated(Seat),
    /// There were too many, and the longest idle had to go.
    SeatedForAnother(Seat),
    /// This client has enough.
    Refused,
}

impl Seats {
    pub(super) fn new(limits: Limits, counters: Arc<Counters>) -> Self {
        Self { limits, start: Instant::now(), table: Mutex::default(), held: AtomicIsize::new(0), counters }
    }

    pub(super) fn admit(self: &Arc<Self>, client: IpAddr, is_large: bool) -> Admission {
        let mut table = self.table();
        if table.clients.get(&client).is_some_and(|&count| count >= self.limits.per_client) {
            return Admission::Refused;
        }
        let evicted = if is_large && table.large >= self.limits.large {
            self.evict_among(&mut table, |taken| taken.is_large, |table| &mut table.picked_large)
        } else {
            table.taken.len() >= self.limits.connections && self.evict_any(&mut table)
        };
        let seat = self.seat(&mut table, client, is_large);
        if evicted { Admission::SeatedForAnother(seat) } else { Admission::Seated(seat) }
    }

    fn seat(self: &Arc<Self>, table: &mut Table, client: IpAddr, is_large: bool) -> Seat {
        let number = table.next;
        table.next += 1;
        let asked = AtomicU64::new(self.nanoseconds(Instant::now()));
        let (held, abort, waker) = (AtomicUsize::new(0), OnceLock::new(), OnceLock::new());
        let taken = Arc::new(Taken { client, is_large, asked, held, abort, waker });
        table.taken.insert(number, Arc::clone(&taken));
        table.large += usize::from(is_large);
        *table.clients.entry(client).or_default() += 1;
        table.peak_weight = table.peak_weight.max(table.weight());
        Seat { seats: Arc::clone(self), number, taken, held: 0 }
    }

    /// Whether one more that is large is seated only in place of another.
    #[cfg(feature = "quic")]
    pub(super) fn are_full_for_large(&self) -> bool {
        let table = self.table();
        table.large >= self.limits.large || table.taken.len() >= self.limits.connections
    }

    /// Closes the longest idle connection; false if there is none.
    pub(super) fn evict(&self) -> bool {
        self.evict_any(&mut self.table())
    }

    fn evict_any(&self, table: &mut Table) -> bool {
        self.evict_among(table, |_| true, |table| &mut table.picked)
    }

    fn evict_among(&self, table: &mut Table, is_among: IsAmong, picked: PickedOf) -> bool {
        let longest = table.longest_idle(is_among, picked);
        if let Some(number) = longest {
            self.close(table, number);
        }
        longest.is_some()
    }

    fn close(&self, table: &mut Table, number: u64) {
        let Some(taken) = table.leave(number) else { return };
        if let Some(abort) = taken.abort.get() {
            abort.abort();
        }
        // Now, and not when its task has ended: else the next ones would be closed for the same octets.
        self.count_held(&taken, EVICTED);
    }

    /// Counts that a connection holds `counted` octets, or is evicted. Returns false if it was evicted before.
    fn count_held(&self, taken: &Taken, counted: usize) -> bool {
        let octets = |held| if held == EVICTED { 0 } else { held as isize };
        let before = taken.held.swap(counted, Ordering::Relaxed);
        self.held.fetch_add(octets(counted) - octets(before), Ordering::Relaxed);
        if before == EVICTED && counted != EVICTED {
            self.count_held(taken, EVICTED);
        }
        before != EVICTED
    }

    fn is_over_budget(&self) -> bool {
        self.held.load(Ordering::Relaxed) > isize::try_from(self.limits.held).unwrap_or(isize::MAX)
    }

    /// Closes connections that hold octets for slow clients, the longest idle first, until the budget suffices. Returns
    /// false if that of `number` would be the next, or no other can be closed.
    fn evict_holding(&self, number: u64) -> bool {
        let mut table = self.table();
        while self.is_over_budget() {
            let longest = table.longest_idle(Taken::is_holding, |table| &mut table.picked_holding);
            let Some(longest) = longest.filter(|longest| *longest != number) else { return false };
            self.close(&mut table, longest);
            self.counters.count(Event::TcpSlow);
        }
        true
    }

    /// Returns whether so many connections have ended that their memory is worth giving back, once for each decrease.
    pub(super) fn take_decrease(&self) -> bool {
        let mut table = self.table();
        let weight = table.weight();
        let is_large = table.peak_weight >= weight + GIVE_BACK_WEIGHT;
        if is_large {
            table.peak_weight = weight;
        }
        is_large
    }

    /// Has all connections look whether to stop. Later ones look by themselves.
    pub(super) fn wake_all(&self) {
        for taken in self.table().taken.values() {
            if let Some(waker) = taken.waker.get() {
                waker.wake_by_ref();
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nanoseconds(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_nanos() as u64
    }
}

type IsAmong = fn(&Taken) -> bool;
type PickedOf = fn(&mut Table) -> &mut Picked;

impl Table {
    fn weight(&self) -> usize {
        self.taken.len() + self.large * (LARGE_WEIGHT - 1)
    }

    /// Returns the longest idle of some connections that can be closed.
    fn longest_idle(&mut self, is_among: IsAmong, picked: PickedOf) -> Option<u64> {
        // Those picked may have gone or asked since. Who was not picked had asked later than all who were: the first
        // that is unchanged is still the longest idle.
        for search in [false, true] {
            if search {
                *picked(self) = self.pick_longest_idle(is_among);
            }
            while let Some((number, asked)) = picked(self).pop_front() {
                let Some(taken) = self.taken.get(&number) else { continue };
                // A connection that is just being set up cannot be closed yet.
                let can_close = taken.abort.get().is_some() && is_among(taken);
                if can_close && taken.asked.load(Ordering::Relaxed) == asked {
                    return Some(number);
                }
            }
        }
        None
    }

    fn pick_longest_idle(&self, is_among: IsAmong) -> Picked {
        let among = self.taken.iter().filter(|(_, taken)| is_among(taken));
        let mut all: Vec<_> = among.map(|(&number, taken)| (taken.asked.load(Ordering::Relaxed), number)).collect();
        if all.len() > PICKED {
            all.select_nth_unstable(PICKED);
            all.truncate(PICKED);
        }
        all.sort_unstable();
        all.into_iter().map(|(asked, number)| (number, asked)).collect()
    }

    fn leave(&mut self, number: u64) -> Option<Arc<Taken>> {
        let taken = self.taken.remove(&number)?;
        self.large -= usize::from(taken.is_large);
        if let Some(count) = self.clients.get_mut(&taken.client) {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(&taken.client);
            }
        }
        Some(taken)
    }
}

/// Returns the first address of the network of `prefix` bits that a client with a global address counts by, and any other
/// address as it is: within a link, a site or a host, addresses are not for the taking.
pub(super) fn client_network(client: Ipv6Addr, prefix: u8) -> IpAddr {
    let is_local = client.is_loopback() || client.is_unicast_link_local() || client.is_unique_local();
    let host_bits = 128 - u32::from(prefix.min(128));
    let mask = if is_local { u128::MAX } else { u128::MAX.checked_shl(host_bits).unwrap_or(0) };
    Ipv6Addr::from_bits(client.to_bits() & mask).into()
}

/// A connection's place. It is free again when this is dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    number: u64,
    taken: Arc<Taken>,
    /// What it holds and counts.
    held: usize,
}

impl Seat {
    pub(super) fn limits(&self) -> &Limits {
        &self.seats.limits
    }

    /// How this connection is closed when another needs its place.
    pub(super) fn closer(&self) -> Closer {
        Closer(Arc::clone(&self.taken))
    }

    /// Has the connection's task woken when all shall stop. Only then: it is for a fraction of the memory of a
    /// channel, and works because a task has one waker all its life.
    pub(super) fn wake_at_stop(&self, waker: &Waker) {
        if self.taken.waker.get().is_none() {
            // With the lock: either `wake_all` comes after and finds it, or it came before and so did the stop.
            let _table = self.seats.table();
            let _ = self.taken.waker.set(waker.clone());
        }
    }

    /// It asked something.
    pub(super) fn asked(&self, now: Instant) {
        self.taken.asked.store(self.seats.nanoseconds(now), Ordering::Relaxed);
    }

    /// Counts the octets that the connection holds for a slow client. Where all hold too much together, those that have
    /// not asked for longest are closed; returns false if this one is to close.
    pub(super) fn hold(&mut self, octets: usize) -> bool {
        let counted = octets.saturating_sub(UNCOUNTED);
        if counted == self.held {
            return true;
        }
        let grows = counted > self.held;
        self.held = counted;
        let is_seated = self.seats.count_held(&self.taken, counted);
        is_seated && (!grows || !self.seats.is_over_budget() || self.seats.evict_holding(self.number))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hold(0);
        let _ = self.seats.table().leave(self.number);
    }
}

/// Set once the connection has a task.
pub(super) struct Closer(Arc<Taken>);

impl Closer {
    pub(super) fn set(self, abort: AbortHandle) {
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

    struct Room {
        seats: Arc<Seats>,
        metrics: Metrics,
        tasks: JoinSet<()>,
    }

    impl Room {
        fn new(limits: Limits) -> Self {
            let metrics = Metrics::default();
            let seats = Arc::new(Seats::new(limits, metrics.worker()));
            Self { seats, metrics, tasks: JoinSet::new() }
        }

        fn admit(&mut self, client: [u8; 4]) -> Option<Seat> {
            self.admit_as(client, false)
        }

        fn admit_as(&mut self, client: [u8; 4], is_large: bool) -> Option<Seat> {
            let seat = match self.seats.admit(client.into(), is_large) {
                Admission::Seated(seat) | Admission::SeatedForAnother(seat) => seat,
                Admission::Refused => return None,
            };
            seat.closer().set(self.tasks.spawn(std::future::pending()));
            Some(seat)
        }

        fn taken(&self) -> Vec<u64> {
            let mut taken: Vec<_> = self.seats.table().taken.keys().copied().collect();
            taken.sort_unstable();
            taken
        }
    }

    const HERE: [u8; 4] = [127, 0, 0, 1];

    #[tokio::test]
    async fn the_longest_idle_goes_first_and_then_the_next() {
        let mut room = Room::new(Limits { connections: 4, ..Limits::default() });
        let later = |seconds| Instant::now() + Duration::from_secs(seconds);
        let seats: Vec<_> = (0..4).map(|_| room.admit(HERE).unwrap()).collect();
        for (seat, seconds) in seats.iter().zip([3, 1, 4, 2]) {
            seat.asked(later(seconds));
        }
        let _fifth = room.admit(HERE).unwrap();
        // The new one has asked nothing yet, but is not older than the search: it stays for this round.
        assert_eq!(room.taken(), [0, 2, 3, 4]);
        seats[3].asked(later(9));
        let _sixth = room.admit(HERE).unwrap();
        assert_eq!(room.taken(), [2, 3, 4, 5]);
        drop(seats);
        assert_eq!(room.taken(), [4, 5]);
    }

    #[tokio::test]
    async fn those_that_are_large_have_a_part_of_the_seats() {
        let mut room = Room::new(Limits { connections: 6, large: 2, ..Limits::default() });
        let later = |seconds| Instant::now() + Duration::from_secs(seconds);
        let mut seats = Vec::new();
        for (is_large, seconds) in [(false, 1), (true, 3), (false, 2), (true, 2)] {
            let seat = room.admit_as(HERE, is_large).unwrap();
            seat.asked(later(seconds));
            seats.push(seat);
        }
        // Although others have been idle for longer, and there is room.
        for (seat, seconds) in [(room.admit_as(HERE, true).unwrap(), 4), (room.admit_as(HERE, true).unwrap(), 5)] {
            seat.asked(later(seconds));
            seats.push(seat);
        }
        assert_eq!(room.taken(), [0, 2, 4, 5]);
        // Of all, the longest idle goes, whatever it is.
        seats.extend([room.admit(HERE).unwrap(), room.admit(HERE).unwrap()]);
        seats.iter().skip(6).for_each(|seat| seat.asked(later(9)));
        seats[0].asked(later(7));
        seats[2].asked(later(6));
        seats.push(room.admit(HERE).unwrap());
        assert_eq!(room.taken(), [0, 2, 5, 6, 7, 8]);
        // One of those that are large has gone, so one more may come, in place of any.
        seats[8].asked(later(9));
        seats[5].asked(later(8));
        seats.push(room.admit_as(HERE, true).unwrap());
        assert_eq!(room.taken(), [0, 5, 6, 7, 8, 9]);
        drop(seats);
        assert_eq!(room.seats.table().large, 0);
    }

    #[tokio::test]
    async fn a_client_has_its_own_limit() {
        let mut room = Room::new(Limits { per_client: 2, ..Limits::default() });
        let (one, _two) = (room.admit(HERE).unwrap(), room.admit(HERE).unwrap());
        assert!(room.admit(HERE).is_none());
        let _other = room.admit([127, 0, 0, 2]).unwrap();
        drop(one);
        assert!(room.admit(HERE).is_some());
    }

    #[test]
    fn global_ipv6_clients_count_by_their_prefix() {
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
    async fn octets_held_count_above_the_first_kilobyte_of_each() {
        let mut room = Room::new(Limits { held: 1000, ..Limits::default() });
        let (mut one, mut two) = (room.admit(HERE).unwrap(), room.admit(HERE).unwrap());
        assert!(one.hold(UNCOUNTED + 1000));
        assert!(two.hold(UNCOUNTED));
        two.asked(Instant::now());
        assert!(!one.hold(UNCOUNTED + 1001), "the longest idle itself");
        drop(one);
        assert!(two.hold(UNCOUNTED + 2));
        drop(two);
        assert_eq!(room.seats.held.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn over_budget_the_longest_idle_that_hold_octets_go() {
        let mut room = Room::new(Limits { held: 1000, ..Limits::default() });
        let later = |seconds| Instant::now() + Duration::from_secs(seconds);
        let mut seats: Vec<_> = (0..5).map(|_| room.admit(HERE).unwrap()).collect();
        for (seat, seconds) in seats.iter().zip([0, 3, 1, 2, 4]) {
            seat.asked(later(seconds));
        }
        for number in [1, 2, 3] {
            assert!(seats[number].hold(UNCOUNTED + 300));
        }
        assert!(seats[4].hold(UNCOUNTED + 650));
        assert_eq!(room.taken(), [0, 1, 4], "the one that holds nothing stays, however idle");
        assert_eq!(
            room.seats.held.load(Ordering::Relaxed),
            950,
            "counted no longer, though their seats are not dropped"
        );
        assert!(!seats[2].hold(UNCOUNTED + 9), "its task is about to end");
        assert_eq!(room.seats.held.load(Ordering::Relaxed), 950);
        assert_eq!(room.metrics.total(Event::TcpSlow), 2);
        drop(seats);
        assert_eq!(room.seats.held.load(Ordering::Relaxed), 0);
        while let Some(ended) = room.tasks.join_next().await {
            assert!(ended.unwrap_err().is_cancelled());
            if room.tasks.len() == 3 {
                break;
            }
        }
    }

    #[tokio::test]
    async fn a_large_decrease_is_taken_once() {
        let mut room = Room::new(Limits::default());
        let is_large = |number| number % 2 == 0;
        let mut seats: Vec<_> = (0..1000).map(|number| room.admit_as(HERE, is_large(number)).unwrap()).collect();
        assert!(!room.seats.take_decrease());
        seats.truncate(900);
        assert!(!room.seats.take_decrease(), "100 connections, half of them large, weigh 250");
        seats.truncate(890);
        assert!(room.seats.take_decrease());
        assert!(!room.seats.take_decrease());
        drop(seats);
        assert!(room.seats.take_decrease());
    }
}
