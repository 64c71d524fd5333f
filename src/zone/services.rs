//! The Services of a zone by their two labels: read without a lock, and without a wait for who writes.
//!
//! A tree of three levels that never changes: two of branches, by bits of the hash of the labels, and below one Service,
//! or a small table. Who publishes copies the way down to what changes, and puts the new root in the place of the old one, so
//! that all of a publication is seen at once. A reader keeps the root that it looks at in a [`View`], and asks before
//! each look-up whether it is still the newest: one load, and no shared word is written. Not here: what a Service
//! answers (`mod.rs`), what is published (`publish.rs`).

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache, Guard};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::Published;

/// Branches of one level: a power of two.
const WIDTH: usize = 64;
/// Which bits of the hash choose the branch. The tables use the lowest and the highest seven.
const FIRST: u32 = 44;
const SECOND: u32 = 50;

/// All Services at one moment.
#[derive(Clone, Default)]
pub(super) struct Services {
    branches: Branches<Arc<Branches<Leaf>>>,
}

/// One level of the tree. Empty branches are not there.
#[derive(Clone)]
struct Branches<T>([Option<T>; WIDTH]);

/// Where the branches end. Up to some thousand Services nearly every leaf is one: nothing stands between.
#[derive(Clone)]
enum Leaf {
    One(Arc<Published>),
    /// The hash stands beside each, so that nothing else is looked at for the others.
    Several(Arc<HashTable<(u64, Arc<Published>)>>),
}

impl<T> Default for Branches<T> {
    fn default() -> Self {
        Self([const { None }; WIDTH])
    }
}

fn branch(hash: u64, bits: u32) -> usize {
    (hash >> bits) as usize % WIDTH
}

fn is(published: &Published, hash: u64, key: &[u8]) -> bool {
    published.hash() == hash && published.key() == key
}

impl Services {
    /// The Service of these labels, whose hash is `hash`.
    #[inline]
    pub(super) fn get(&self, hash: u64, key: &[u8]) -> Option<&Arc<Published>> {
        match self.branches.0[branch(hash, FIRST)].as_ref()?.0[branch(hash, SECOND)].as_ref()? {
            Leaf::One(published) => Some(published).filter(|published| is(published, hash, key)),
            Leaf::Several(table) => {
                let same = |(other, published): &(u64, Arc<Published>)| *other == hash && published.key() == key;
                table.find(hash, same).map(|(_, found)| found)
            }
        }
    }

    /// The Service with this hash: nearly always the one that [`Self::get`] finds.
    #[inline]
    pub(super) fn likely(&self, hash: u64) -> Option<&Published> {
        match self.branches.0[branch(hash, FIRST)].as_ref()?.0[branch(hash, SECOND)].as_ref()? {
            Leaf::One(published) => Some(published),
            Leaf::Several(table) => table.find(hash, |(other, _)| *other == hash).map(|(_, found)| &**found),
        }
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Published>> {
        let leaves = self.branches.0.iter().flatten().flat_map(|level| level.0.iter().flatten());
        leaves.flat_map(|leaf| {
            let (one, several) = match leaf {
                Leaf::One(published) => (Some(published), None),
                Leaf::Several(table) => (None, Some(table.iter().map(|(_, published)| published))),
            };
            one.into_iter().chain(several.into_iter().flatten())
        })
    }

    /// Puts a Service in the place of the one with the same labels.
    pub(super) fn insert(&mut self, new: Arc<Published>) {
        let hash = new.hash();
        let level = Arc::make_mut(self.branches.0[branch(hash, FIRST)].get_or_insert_default());
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
    pub(super) fn remove(&mut self, hash: u64, key: &[u8]) -> Option<Arc<Published>> {
        let removed = Arc::clone(self.get(hash, key)?);
        let level = Arc::make_mut(self.branches.0[branch(hash, FIRST)].as_mut()?);
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

/// The newest [`Services`].
#[derive(Default)]
pub(super) struct Index {
    newest: Arc<ArcSwap<Services>>,
}

impl Index {
    /// For one look, or a few.
    pub(super) fn load(&self) -> Guard<Arc<Services>> {
        self.newest.load()
    }

    /// The newest, kept in `view`.
    #[inline]
    pub(super) fn seen_by<'v>(&self, view: &'v mut View) -> &'v Services {
        match &mut view.0 {
            // Of another zone: a worker may answer for one after the other.
            Some(cache) if !std::ptr::eq(cache.arc_swap(), &*self.newest) => *cache = self.cache(),
            Some(_) => {}
            empty => *empty = Some(self.cache()),
        }
        view.0.as_mut().map_or_else(|| unreachable!("it was filled just now"), |cache| &**cache.load())
    }

    #[cold]
    fn cache(&self) -> Cached {
        Cache::new(Arc::clone(&self.newest))
    }

    /// Changes all that `change` changes in one step. One thread at a time.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Services) -> R) -> R {
        let mut services = Services::clone(&self.newest.load());
        let result = change(&mut services);
        self.newest.store(Arc::new(services));
        result
    }
}

type Cached = Cache<Arc<ArcSwap<Services>>, Arc<Services>>;

/// What one reader looks at. It keeps what it saw last from being freed: who has nothing to do for a while calls
/// [`View::rest`].
#[derive(Default)]
pub struct View(Option<Cached>);

impl View {
    /// Lets go of what was seen.
    pub fn rest(&mut self) {
        self.0 = None;
    }
}
