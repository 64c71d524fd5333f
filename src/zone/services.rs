//! The Services of a zone by their two labels: read without a lock, and without a wait for who writes.
//!
//! A tree of three levels that never changes: two of branches, by bits of the hash of the labels, and small tables
//! below. Who publishes copies the way down to what changes, and puts the new root in the place of the old one, so
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
    branches: Branches<Branches<Table>>,
}

/// A Service in its table; the hash stands beside it, so that nothing else is looked at for the others.
type Table = HashTable<(u64, Arc<Published>)>;

/// One level of the tree. Empty branches are not there.
#[derive(Clone)]
struct Branches<T>([Option<Arc<T>>; WIDTH]);

impl<T> Default for Branches<T> {
    fn default() -> Self {
        Self([const { None }; WIDTH])
    }
}

fn branch(hash: u64, bits: u32) -> usize {
    (hash >> bits) as usize % WIDTH
}

impl Services {
    /// The Service of these labels, whose hash is `hash`.
    #[inline]
    pub(super) fn get(&self, hash: u64, key: &[u8]) -> Option<&Arc<Published>> {
        let table = self.branches.0[branch(hash, FIRST)].as_ref()?.0[branch(hash, SECOND)].as_ref()?;
        table.find(hash, |(other, published)| *other == hash && published.key() == key).map(|(_, found)| found)
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Published>> {
        let tables = self.branches.0.iter().flatten().flat_map(|level| level.0.iter().flatten());
        tables.flat_map(|table| table.iter().map(|(_, published)| published))
    }

    /// Puts a Service in the place of the one with the same labels, and returns that.
    pub(super) fn insert(&mut self, hash: u64, new: Arc<Published>) -> Option<Arc<Published>> {
        let first = Arc::make_mut(self.branches.0[branch(hash, FIRST)].get_or_insert_default());
        let table = Arc::make_mut(first.0[branch(hash, SECOND)].get_or_insert_default());
        let same = |(other, published): &(u64, Arc<Published>)| *other == hash && published.key() == new.key();
        match table.entry(hash, same, |(hash, _)| *hash) {
            Entry::Occupied(mut entry) => Some(std::mem::replace(&mut entry.get_mut().1, new)),
            Entry::Vacant(entry) => {
                entry.insert((hash, new));
                None
            }
        }
    }

    /// Removes a Service, and returns it.
    pub(super) fn remove(&mut self, hash: u64, key: &[u8]) -> Option<Arc<Published>> {
        self.get(hash, key)?;
        let first = Arc::make_mut(self.branches.0[branch(hash, FIRST)].as_mut()?);
        let at = &mut first.0[branch(hash, SECOND)];
        let table = Arc::make_mut(at.as_mut()?);
        let entry = table.find_entry(hash, |(other, published)| *other == hash && published.key() == key).ok()?;
        let ((_, removed), _) = entry.remove();
        if table.is_empty() {
            *at = None;
        } else if table.capacity() > 4 * table.len() {
            table.shrink_to_fit(|(hash, _)| *hash);
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
