//! Index of the Services of a zone by their two labels. Readers take no lock and never wait for the publisher.
//!
//! The index is an immutable hash trie: two levels of nodes, by bits of the hash of the labels, and leaves with one
//! Service or a small table. The publisher copies the path to each change and swaps the root, so that all of a
//! publication becomes visible at once. A reader caches the root in a [`SnapshotCache`] and checks before each look-up whether
//! it is the newest: one load, and no write to a shared word. Not here: the records of a Service (`mod.rs`) and the
//! changes (`publish.rs`).

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache, Guard};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::ServiceEntry;

/// Number of branches of a node: a power of two.
const WIDTH: usize = 64;
/// Lowest bits of the hash that select the branch, per level. The tables use the lowest bits and the highest seven.
const FIRST: u32 = 44;
const SECOND: u32 = 50;

/// All Services at one moment.
#[derive(Clone, Default)]
pub(super) struct ServiceTrie {
    root: Node<Arc<Node<Leaf>>>,
}

/// One level of the trie.
#[derive(Clone)]
struct Node<T>([Option<T>; WIDTH]);

/// Leaf of the trie. Up to some thousand Services, nearly every leaf has one Service and no table.
#[derive(Clone)]
enum Leaf {
    One(Arc<ServiceEntry>),
    /// Table with the hash beside each Service, so that a comparison does not load the Service.
    Several(Arc<HashTable<(u64, Arc<ServiceEntry>)>>),
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self([const { None }; WIDTH])
    }
}

fn branch(hash: u64, bits: u32) -> usize {
    (hash >> bits) as usize % WIDTH
}

fn is(published: &ServiceEntry, hash: u64, key: &[u8]) -> bool {
    published.hash() == hash && published.key() == key
}

impl ServiceTrie {
    /// Returns the Service with these labels, which have the hash `hash`.
    #[inline]
    pub(super) fn get(&self, hash: u64, key: &[u8]) -> Option<&Arc<ServiceEntry>> {
        match self.root.0[branch(hash, FIRST)].as_ref()?.0[branch(hash, SECOND)].as_ref()? {
            Leaf::One(published) => Some(published).filter(|published| is(published, hash, key)),
            Leaf::Several(table) => {
                let same = |(other, published): &(u64, Arc<ServiceEntry>)| *other == hash && published.key() == key;
                table.find(hash, same).map(|(_, found)| found)
            }
        }
    }

    /// Returns the Service with this hash: nearly always that of [`Self::get`].
    #[inline]
    pub(super) fn probe(&self, hash: u64) -> Option<&ServiceEntry> {
        match self.root.0[branch(hash, FIRST)].as_ref()?.0[branch(hash, SECOND)].as_ref()? {
            Leaf::One(published) => Some(published),
            Leaf::Several(table) => table.find(hash, |(other, _)| *other == hash).map(|(_, found)| &**found),
        }
    }

    /// Iterates over all Services, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<ServiceEntry>> {
        let leaves = self.root.0.iter().flatten().flat_map(|level| level.0.iter().flatten());
        leaves.flat_map(|leaf| {
            let (one, several) = match leaf {
                Leaf::One(published) => (Some(published), None),
                Leaf::Several(table) => (None, Some(table.iter().map(|(_, published)| published))),
            };
            one.into_iter().chain(several.into_iter().flatten())
        })
    }

    /// Adds a Service, or replaces the Service with these labels.
    pub(super) fn insert(&mut self, new: Arc<ServiceEntry>) {
        let hash = new.hash();
        let level = Arc::make_mut(self.root.0[branch(hash, FIRST)].get_or_insert_default());
        let leaf = &mut level.0[branch(hash, SECOND)];
        let table = match leaf {
            None => return *leaf = Some(Leaf::One(new)),
            Some(Leaf::One(old)) if is(old, hash, new.key()) => return *old = new,
            Some(Leaf::One(old)) => {
                let mut table = HashTable::with_capacity(2);
                for published in [Arc::clone(old), new] {
                    let hash = published.hash();
                    table.insert_unique(hash, (hash, published), |(hash, _)| *hash);
                }
                return *leaf = Some(Leaf::Several(Arc::new(table)));
            }
            Some(Leaf::Several(table)) => Arc::make_mut(table),
        };
        match table.entry(hash, |(_, other)| is(other, hash, new.key()), |(hash, _)| *hash) {
            Entry::Occupied(mut entry) => entry.get_mut().1 = new,
            Entry::Vacant(entry) => _ = entry.insert((hash, new)),
        }
    }

    /// Removes a Service, and returns it.
    pub(super) fn remove(&mut self, hash: u64, key: &[u8]) -> Option<Arc<ServiceEntry>> {
        let removed = Arc::clone(self.get(hash, key)?);
        let level = Arc::make_mut(self.root.0[branch(hash, FIRST)].as_mut()?);
        let leaf = &mut level.0[branch(hash, SECOND)];
        match leaf {
            Some(Leaf::Several(table)) => {
                let table = Arc::make_mut(table);
                if let Ok(entry) = table.find_entry(hash, |(_, other)| is(other, hash, key)) {
                    entry.remove();
                }
                match table.iter().next() {
                    Some((_, last)) if table.len() == 1 => *leaf = Some(Leaf::One(Arc::clone(last))),
                    _ if table.capacity() > 4 * table.len() => table.shrink_to_fit(|(hash, _)| *hash),
                    _ => {}
                }
            }
            _ => *leaf = None,
        }
        Some(removed)
    }
}

/// Shared pointer to the newest [`ServiceTrie`].
#[derive(Default)]
pub(super) struct ServiceIndex {
    newest: Arc<ArcSwap<ServiceTrie>>,
}

impl ServiceIndex {
    /// Returns the newest snapshot, for a few look-ups.
    pub(super) fn load(&self) -> Guard<Arc<ServiceTrie>> {
        self.newest.load()
    }

    /// Returns the newest snapshot, cached in `cache`.
    #[inline]
    pub(super) fn load_cached<'v>(&self, cache: &'v mut SnapshotCache) -> &'v ServiceTrie {
        match &mut cache.0 {
            // The worker answered from another zone before.
            Some(cache) if !std::ptr::eq(cache.arc_swap(), &*self.newest) => *cache = self.cache(),
            Some(_) => {}
            empty => *empty = Some(self.cache()),
        }
        cache.0.as_mut().map_or_else(|| unreachable!("the cache was filled above"), |newest| &**newest.load())
    }

    #[cold]
    fn cache(&self) -> Cached {
        Cache::new(Arc::clone(&self.newest))
    }

    /// Publishes all that `change` changes in one step. One thread at a time.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut ServiceTrie) -> R) -> R {
        let mut services = ServiceTrie::clone(&self.newest.load());
        let result = change(&mut services);
        self.newest.store(Arc::new(services));
        result
    }
}

type Cached = Cache<Arc<ArcSwap<ServiceTrie>>, Arc<ServiceTrie>>;

/// Cached snapshot of the Services of one reader. It keeps old Services in memory: a worker that goes idle calls
/// [`SnapshotCache::release`].
#[derive(Default)]
pub struct SnapshotCache(Option<Cached>);

impl SnapshotCache {
    /// Releases the cached snapshot.
    pub fn release(&mut self) {
        self.0 = None;
    }
}
