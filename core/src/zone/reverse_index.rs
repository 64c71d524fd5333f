//! Index of addresses: the PTR RRset of each.
//!
//! Nearly every address has one name, and takes eight octets: a hash, the number of its Service, and the endpoint's
//! position in that Service's columns. Neither the address nor the name is stored: both are read back from the columns.
//! An address with several names has them stored under it. A shard is locked for one address at a time, and never while
//! its table grows. Not here: the changes (`publish.rs`) and the names that the rules keep (`zone/mod.rs`).
//!
//! Invariant: a reverse name above an address with a name never seems empty, and an address that has a name before and
//! after a publication has one all the time. So an address is counted before its first name is added and until after
//! its last is removed, and before a Service's columns are replaced, the names that would change are stored in full
//! ([`ReverseIndex::materialize`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use arc_swap::ArcSwapOption;
use foldhash::fast::{RandomState, SeedableRandomState};

use super::ServiceEntry;
use crate::lock::{lock, read, write};
use crate::name::reverse::AddressRange;
use crate::records::{PtrName, PtrRrset};

/// PTR RRsets of all addresses.
pub(super) struct ReverseIndex {
    shards: Box<[RwLock<Shard>]>,
    services: ServiceSlots,
    order: RwLock<AddressOrder>,
    addresses: AtomicUsize,
    hasher: SeedableRandomState,
}

/// Number of shards. A look-up waits only while another address of its shard is changed.
const SHARDS: usize = 64;

#[derive(Default)]
struct Shard {
    /// Addresses with one name.
    single: AddressTable,
    /// Addresses with several names, in the order of the response; during a publication also with one.
    multi: HashMap<IpAddr, Box<[PtrName]>, RandomState>,
}

/// Addresses with names in order, to decide whether a reverse name above them exists.
#[derive(Default)]
struct AddressOrder {
    /// Number of addresses in each /24 with any: every IPv4 reverse name above a complete address is of a /24 or wider.
    v4: BTreeMap<u32, u32>,
    v6: BTreeSet<u128>,
}

/// Changes of the names of one address.
#[derive(Default)]
pub(super) struct ReverseChange {
    /// Names that are removed.
    pub(super) gone: Vec<PtrName>,
    /// Names that are added, each with its position if its Service has a number.
    pub(super) new: Vec<(PtrName, Option<EndpointRef>)>,
}

/// Position that a name can be read back from: the number of a Service, and of one of its endpoints.
#[derive(Clone, Copy)]
pub(super) struct EndpointRef {
    pub(super) service: u32,
    /// Number of the endpoint; unused for an address of the Service itself.
    pub(super) endpoint: u32,
}

impl ReverseIndex {
    pub(super) fn new(hasher: SeedableRandomState) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            services: ServiceSlots::default(),
            order: RwLock::default(),
            addresses: AtomicUsize::new(0),
            hasher,
        }
    }

    /// Calls `visit` with the names of `address`, in the order of the response. `visit` must not call the zone.
    pub(super) fn look_up<R>(&self, address: IpAddr, visit: impl FnOnce(Option<PtrRrset<'_>>) -> R) -> R {
        let (shard, hash) = self.shard_of(address);
        let shard = read(shard);
        for entry in shard.single.find(hash) {
            let published = self.services.get(entry.service());
            if let Some(published) = published.as_deref()
                && let Some(label) = published.records.label_of(address, entry.endpoint(), AddressEntry::INDEX_MODULUS)
            {
                return visit(Some(PtrRrset::One(published.records.ptr(label))));
            }
        }
        visit(shard.multi.get(&address).map(|names| PtrRrset::Several(names)))
    }

    /// Returns the number of addresses with a name.
    pub(super) fn len(&self) -> usize {
        self.addresses.load(Ordering::Relaxed)
    }

    /// Returns whether an address in `range` has a name.
    pub(super) fn any_in(&self, range: &AddressRange) -> bool {
        let order = read(&self.order);
        match range {
            AddressRange::V4(range) => order.v4.range(prefixes(range)).next().is_some(),
            AddressRange::V6(range) => order.v6.range(range.clone()).next().is_some(),
        }
    }

    /// Counts the addresses with a name in `range`, which is that of a reverse name: for IPv4 a /24 or wider, or one
    /// address.
    pub(super) fn count_in(&self, range: &AddressRange) -> usize {
        match range {
            AddressRange::V4(range) if range.start() == range.end() => {
                self.look_up(IpAddr::V4((*range.start()).into()), |names| usize::from(names.is_some()))
            }
            AddressRange::V4(range) => {
                let order = read(&self.order);
                order.v4.range(prefixes(range)).map(|(_, count)| *count as usize).sum()
            }
            AddressRange::V6(range) => {
                let order = read(&self.order);
                order.v6.range(range.clone()).count()
            }
        }
    }

    /// Returns every address with a name, sorted.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let mut all = Vec::new();
        for published in self.services.all() {
            all.extend(published.records.reverse().map(|(address, ..)| address));
        }
        for shard in self.shards.iter() {
            all.extend(read(shard).multi.keys());
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Allocates a number for a Service with PTR records; `None` if there are too many. Its addresses are found after
    /// [`Self::set_service`].
    pub(super) fn allocate_number(&self) -> Option<u32> {
        self.services.allocate()
    }

    /// Sets or removes the Service that the names of its addresses are read back from.
    pub(super) fn set_service(&self, service: u32, published: Option<&Arc<ServiceEntry>>) {
        self.services.set(service, published.map(Arc::clone));
        if published.is_none() {
            self.services.release(service);
        }
    }

    /// Stores the names of `addresses` in full if they are read back from a Service that is about to change.
    pub(super) fn materialize(&self, service: u32, addresses: &[IpAddr]) {
        for address in addresses.iter().copied() {
            let (shard, hash) = self.shard_of(address);
            let mut shard = write(shard);
            let Some((entry, name)) = self.single_name(&shard, hash, address) else { continue };
            if entry.service() == service {
                shard.single.remove(entry);
                shard.multi.insert(address, Box::new([name]));
            }
        }
    }

    /// Changes the names of `address` in one step. `place` returns the position that a remaining name can be read back
    /// from.
    pub(super) fn apply(
        &self,
        address: IpAddr,
        change: ReverseChange,
        place: impl Fn(&PtrName, IpAddr) -> Option<EndpointRef>,
    ) {
        let (lock, hash) = self.shard_of(address);
        let (held, mut names) = {
            let shard = read(lock);
            match self.single_name(&shard, hash, address) {
                Some((entry, name)) => (Some(entry), vec![(name, None)]),
                None => {
                    let stored = shard.multi.get(&address).into_iter().flatten();
                    (None, stored.map(|name| (name.clone(), None)).collect())
                }
            }
        };
        let had = !names.is_empty();
        let same = |a: &PtrName, b: &PtrName| a.rank(b).is_eq();
        names.retain(|(name, _)| !change.gone.iter().any(|gone| same(gone, name)));
        names.extend(change.new);
        names.sort_by(|(a, _), (b, _)| a.rank(b));
        names.dedup_by(|(a, _), (b, _)| same(a, b));
        let new = match &names[..] {
            [(name, at)] => at.or_else(|| place(name, address)).map(|place| AddressEntry::new(hash, place)),
            _ => None,
        };
        let has = !names.is_empty();
        if has && !had {
            self.count_address(address, true);
        }
        // Only this thread publishes, so the shard does not change between the two locks.
        let resized = new.and_then(|_| read(lock).single.resized());
        let mut shard = write(lock);
        if let Some(resized) = resized {
            shard.single = resized;
        }
        if let Some(held) = held {
            shard.single.remove(held);
        }
        match new {
            Some(new) => {
                shard.single.insert(new);
                shard.multi.remove(&address);
            }
            None if has => _ = shard.multi.insert(address, names.into_iter().map(|(name, _)| name).collect()),
            None => _ = shard.multi.remove(&address),
        }
        drop(shard);
        if had && !has {
            self.count_address(address, false);
        }
    }

    /// Returns the only name of an address, and its entry.
    fn single_name(&self, shard: &Shard, hash: u32, address: IpAddr) -> Option<(AddressEntry, PtrName)> {
        shard.single.find(hash).find_map(|entry| {
            let published = self.services.get(entry.service());
            let records = &published.as_deref()?.records;
            Some((entry, records.ptr_name(records.label_of(address, entry.endpoint(), AddressEntry::INDEX_MODULUS)?)))
        })
    }

    fn shard_of(&self, address: IpAddr) -> (&RwLock<Shard>, u32) {
        use std::hash::BuildHasher;
        let hash = match address {
            IpAddr::V4(v4) => self.hasher.hash_one(u32::from(v4)),
            IpAddr::V6(v6) => self.hasher.hash_one(u128::from(v6)),
        };
        (&self.shards[hash as usize % SHARDS], (hash >> 32) as u32 >> (32 - AddressEntry::HASH))
    }

    fn count_address(&self, address: IpAddr, is_new: bool) {
        let mut order = write(&self.order);
        match address {
            IpAddr::V4(v4) => {
                let prefix = u32::from(v4) >> 8;
                let count = order.v4.entry(prefix).or_default();
                *count = if is_new { *count + 1 } else { *count - 1 };
                if *count == 0 {
                    order.v4.remove(&prefix);
                }
            }
            IpAddr::V6(v6) if is_new => _ = order.v6.insert(v6.into()),
            IpAddr::V6(v6) => _ = order.v6.remove(&v6.into()),
        }
        let _ = if is_new {
            self.addresses.fetch_add(1, Ordering::Relaxed)
        } else {
            self.addresses.fetch_sub(1, Ordering::Relaxed)
        };
    }
}

/// Returns the /24s of a range of addresses.
fn prefixes(range: &RangeInclusive<u32>) -> RangeInclusive<u32> {
    range.start() >> 8..=range.end() >> 8
}

/// Entry of an address with one name. From the highest bit: 26 bits of its hash, 24 of its Service's number plus 1, so
/// that no entry is 0, and 14 of the endpoint's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AddressEntry(u64);

impl AddressEntry {
    const HASH: u32 = 26;
    const SERVICE: u32 = 24;
    const ENDPOINT: u32 = 14;
    /// Modulus of the endpoint's number in an entry.
    const INDEX_MODULUS: usize = 1 << Self::ENDPOINT;

    fn new(hash: u32, place: EndpointRef) -> Self {
        let endpoint = u64::from(place.endpoint) & ((1 << Self::ENDPOINT) - 1);
        let service = u64::from(place.service) + 1;
        Self(u64::from(hash) << (Self::SERVICE + Self::ENDPOINT) | service << Self::ENDPOINT | endpoint)
    }

    fn hash(self) -> u32 {
        (self.0 >> (Self::SERVICE + Self::ENDPOINT)) as u32
    }

    fn service(self) -> u32 {
        (self.0 >> Self::ENDPOINT & ((1 << Self::SERVICE) - 1)) as u32 - 1
    }

    /// Returns the endpoint's number modulo [`Self::INDEX_MODULUS`], at the time when the entry was written.
    fn endpoint(self) -> u32 {
        (self.0 & ((1 << Self::ENDPOINT) - 1)) as u32
    }
}

/// Hash table of entries with linear probing; 0 is an empty slot. It grows by a quarter.
#[derive(Default)]
struct AddressTable {
    slots: Box<[u64]>,
    used: usize,
}

impl AddressTable {
    /// Returns the first slot of the entries with this hash.
    fn probe_start(&self, hash: u32) -> usize {
        ((self.slots.len() as u64 * u64::from(hash)) >> AddressEntry::HASH) as usize
    }

    fn next(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }

    /// Iterates over the entries with this hash: nearly always none or one.
    fn find(&self, hash: u32) -> impl Iterator<Item = AddressEntry> + '_ {
        let mut at = self.probe_start(hash);
        std::iter::from_fn(move || {
            loop {
                let entry = AddressEntry(*self.slots.get(at)?);
                if entry.0 == 0 {
                    return None;
                }
                at = self.next(at);
                if entry.hash() == hash {
                    return Some(entry);
                }
            }
        })
    }

    /// Returns a larger table with the same entries; `None` if there is room for one more.
    fn resized(&self) -> Option<Self> {
        // At least a sixth of the slots stays empty, so that a search for a missing entry ends soon.
        if (self.used + 1) * 6 <= self.slots.len() * 5 {
            return None;
        }
        let mut resized = Self { slots: vec![0; (self.used * 3 / 2).max(8)].into(), used: 0 };
        self.slots.iter().filter(|slot| **slot != 0).for_each(|slot| resized.insert(AddressEntry(*slot)));
        Some(resized)
    }

    /// Inserts an entry. The table must have an empty slot.
    fn insert(&mut self, entry: AddressEntry) {
        let mut at = self.probe_start(entry.hash());
        while self.slots[at] != 0 {
            at = self.next(at);
        }
        self.slots[at] = entry.0;
        self.used += 1;
    }

    /// Removes an entry, and moves back the entries behind it that would not be found any more.
    fn remove(&mut self, entry: AddressEntry) {
        let mut gap = self.probe_start(entry.hash());
        loop {
            match self.slots.get(gap) {
                None | Some(0) => return,
                Some(slot) if *slot == entry.0 => break,
                Some(_) => gap = self.next(gap),
            }
        }
        self.used -= 1;
        let mut at = gap;
        loop {
            self.slots[gap] = 0;
            loop {
                at = self.next(at);
                if self.slots[at] == 0 {
                    return;
                }
                // The entry moves to the gap unless its first slot is behind the gap, in probing order.
                let start = self.probe_start(AddressEntry(self.slots[at]).hash());
                let behind = if gap <= at { gap < start && start <= at } else { gap < start || start <= at };
                if !behind {
                    break;
                }
            }
            self.slots[gap] = self.slots[at];
            gap = at;
        }
    }
}

/// Services with PTR records, by number. Readers take no lock.
struct ServiceSlots {
    /// Chunks of slots, each twice as long as the one before: a slot never moves.
    chunks: [OnceLock<Box<[ArcSwapOption<ServiceEntry>]>>; CHUNKS],
    numbers: Mutex<SlotIds>,
}

/// Number of slots of the first chunk.
const FIRST: usize = 64;
/// Number of chunks: together they have a slot for every number that fits an [`AddressEntry`].
const CHUNKS: usize = (AddressEntry::SERVICE - 6) as usize;

/// Allocator of slot numbers: all below `end` that are not free are in use.
#[derive(Default)]
struct SlotIds {
    end: u32,
    free: Vec<u32>,
}

impl Default for ServiceSlots {
    fn default() -> Self {
        Self { chunks: [const { OnceLock::new() }; CHUNKS], numbers: Mutex::default() }
    }
}

impl ServiceSlots {
    /// Returns the chunk of a number, and the position in it.
    fn at(number: u32) -> (usize, usize) {
        let from_first = number as usize + FIRST;
        let chunk = (from_first / FIRST).ilog2() as usize;
        (chunk, from_first - (FIRST << chunk))
    }

    fn get(&self, number: u32) -> arc_swap::Guard<Option<Arc<ServiceEntry>>> {
        let (chunk, at) = Self::at(number);
        match self.chunks[chunk].get() {
            Some(chunk) => chunk[at].load(),
            None => arc_swap::Guard::from_inner(None),
        }
    }

    fn set(&self, number: u32, published: Option<Arc<ServiceEntry>>) {
        let (chunk, at) = Self::at(number);
        let new = || (0..FIRST << chunk).map(|_| ArcSwapOption::empty()).collect();
        self.chunks[chunk].get_or_init(new)[at].store(published);
    }

    fn allocate(&self) -> Option<u32> {
        let mut numbers = lock(&self.numbers);
        if let Some(number) = numbers.free.pop() {
            return Some(number);
        }
        let number = numbers.end;
        (Self::at(number).0 < CHUNKS).then(|| {
            numbers.end += 1;
            number
        })
    }

    fn release(&self, number: u32) {
        lock(&self.numbers).free.push(number);
    }

    fn all(&self) -> impl Iterator<Item = Arc<ServiceEntry>> + '_ {
        let end = lock(&self.numbers).end;
        (0..end).filter_map(|number| self.get(number).as_ref().map(Arc::clone))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn uses_at_most_12_octets_per_address() {
        let mut table = AddressTable::default();
        for number in 0..100_000_u32 {
            if let Some(resized) = table.resized() {
                table = resized;
            }
            let hash = number.wrapping_mul(0x9e37_79b9) >> (32 - AddressEntry::HASH);
            table.insert(AddressEntry::new(hash, EndpointRef { service: number / 100, endpoint: number % 100 }));
            let octets = table.slots.len() * 8;
            assert!(number < 100 || octets <= 12 * (number as usize + 1), "{octets} octets for {}", number + 1);
        }
    }

    #[test]
    fn decodes_encoded_entries() {
        for service in [0, 1, 12_345, (1 << AddressEntry::SERVICE) - 2] {
            let entry = AddressEntry::new((1 << AddressEntry::HASH) - 1, EndpointRef { service, endpoint: 0x7fff });
            assert_eq!((entry.service(), entry.endpoint()), (service, 0x3fff));
            assert_eq!(entry.hash(), (1 << AddressEntry::HASH) - 1);
            assert_ne!(AddressEntry::new(0, EndpointRef { service, endpoint: 0 }).0, 0);
        }
    }

    #[test]
    fn finds_inserted_entries_until_removed() {
        let (mut table, mut held) = (AddressTable::default(), BTreeSet::new());
        let mut random = 1_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((random >> 33) % below) as u32
        };
        for turn in 0..50_000 {
            // Few distinct hashes, at both ends: entries far from their first slot, and across the end.
            let hash =
                [next(8), (1 << AddressEntry::HASH) - 1 - next(8), next(1 << AddressEntry::HASH)][next(3) as usize];
            let entry = AddressEntry::new(hash, EndpointRef { service: next(9), endpoint: next(9) });
            if held.contains(&entry.0) {
                table.remove(entry);
                held.remove(&entry.0);
            } else if turn % 3 > 0 || held.len() < 40 {
                if let Some(resized) = table.resized() {
                    table = resized;
                }
                table.insert(entry);
                held.insert(entry.0);
            } else if let Some(first) = held.iter().nth(next(40) as usize).copied() {
                table.remove(AddressEntry(first));
                held.remove(&first);
            }
            // Removing a missing entry changes nothing.
            table.remove(AddressEntry::new(hash, EndpointRef { service: 77, endpoint: 0 }));
            assert_eq!(table.used, held.len());
            for other in [entry.0, held.first().copied().unwrap_or(entry.0), held.last().copied().unwrap_or(entry.0)] {
                let found = table.find(AddressEntry(other).hash()).any(|entry| entry.0 == other);
                assert_eq!(found, held.contains(&other), "turn {turn}");
            }
        }
        assert!(held.iter().all(|entry| table.find(AddressEntry(*entry).hash()).any(|found| found.0 == *entry)));
    }

    #[test]
    fn maps_numbers_to_slots() {
        let mut last = (0, 0);
        for number in 1..10_000 {
            let (chunk, at) = ServiceSlots::at(number);
            assert!((chunk, at) == (last.0, last.1 + 1) || (chunk, at) == (last.0 + 1, 0));
            last = (chunk, at);
        }
        let services = ServiceSlots::default();
        assert_eq!((services.allocate(), services.allocate()), (Some(0), Some(1)));
        services.release(0);
        assert_eq!(services.allocate(), Some(0));
        services.numbers.lock().unwrap().end = FIRST as u32 * ((1 << CHUNKS) - 1) - 1;
        let last = services.allocate().unwrap();
        assert_eq!(AddressEntry::new(0, EndpointRef { service: last, endpoint: 0 }).service(), last);
        assert_eq!(services.allocate(), None, "an entry has no room for a larger number");
    }
}
