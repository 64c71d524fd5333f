//! The index of Services: the tree of `core/src/zone/service_index.rs` beside a dashmap, which was there before.
//!
//! `cargo bench --bench index`. One look-up of a Service by its two labels, and the first octet of what is found: alone,
//! on two cores at once, at random and always the same name, and while one thread replaces 1,000 Services per second.
//! Nanoseconds of a thread are medians of interleaved rounds; compare columns, not machines. `-- --instructions
//! dashmap|tree COUNT` only looks up, for callgrind.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may panic, and prints")]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "a part of the library, by its path")]

#[path = "../core/src/zone/service_index.rs"]
mod service_index;

use std::hash::{BuildHasher as _, Hasher as _};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use foldhash::fast::RandomState;

use service_index::{ServiceIndex, SnapshotCache};

const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_millis(200);

fn main() {
    // cargo test runs benchmarks with `--test`: then there is nothing to measure.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let mut arguments = std::env::args().skip_while(|argument| argument != "--instructions").skip(1);
    if let (Some(which), Some(count)) = (arguments.next(), arguments.next()) {
        return only(&which, count.parse().unwrap());
    }
    println!("{:<56} dashmap    tree  ratio", "ns per look-up of one thread");
    for size in [1_000, 10_000, 100_000, 1_000_000] {
        let names = Names::new(size);
        let (dash, tree) = (Dash::new(&names), Tree::new(&names));
        for (what, readers, hot, churn) in [
            ("one thread, at random", 1, false, false),
            ("two threads, at random", 2, false, false),
            ("two threads, one name", 2, true, false),
            ("one thread, at random, with changes", 1, false, true),
        ] {
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..ROUNDS {
                times[0].push(measure(&dash, &names, readers, hot, churn));
                times[1].push(measure(&tree, &names, readers, hot, churn));
            }
            let [dash, tree] = times.map(median);
            let what = format!("{size:>9} Services, {what}");
            println!("{what:<56} {dash:>7.1} {tree:>7.1}   {:.2}", tree / dash);
        }
    }
}

/// What is found; of the real one only what the tree asks for.
struct ServiceEntry(Box<[u8]>, u64);

impl ServiceEntry {
    fn hash(&self) -> u64 {
        self.1
    }

    fn key(&self) -> &[u8] {
        &self.0
    }
}

struct Names {
    keys: Vec<Box<[u8]>>,
    hasher: RandomState,
}

impl Names {
    fn new(size: usize) -> Self {
        let key = |number| format!("{}service-{number:07}\x07default", '\x0f').into_bytes().into();
        Self { keys: (0..size).map(key).collect(), hasher: RandomState::default() }
    }

    fn published(&self, key: &[u8]) -> ServiceEntry {
        ServiceEntry(key.into(), self.hash(key))
    }

    fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key);
        hasher.finish()
    }
}

/// Looks up, and returns the first octet of what it found.
type Reader<'m> = Box<dyn FnMut(&[u8]) -> u8 + 'm>;

trait Map: Sync {
    fn reader<'m>(&'m self, names: &'m Names) -> Reader<'m>;
    fn replace(&self, names: &Names, key: &[u8]);
}

struct Dash(DashMap<Box<[u8]>, Arc<ServiceEntry>, RandomState>);

impl Dash {
    fn new(names: &Names) -> Self {
        let map = DashMap::with_hasher(names.hasher.clone());
        names.keys.iter().for_each(|key| _ = map.insert(key.clone(), Arc::new(names.published(key))));
        Self(map)
    }
}

impl Map for Dash {
    fn reader<'m>(&'m self, _: &'m Names) -> Reader<'m> {
        Box::new(|key| self.0.get(key).unwrap().0[0])
    }

    fn replace(&self, names: &Names, key: &[u8]) {
        self.0.insert(key.into(), Arc::new(names.published(key)));
    }
}

struct Tree(ServiceIndex);

impl Tree {
    fn new(names: &Names) -> Self {
        let index = ServiceIndex::default();
        index.change(|services| {
            for key in &names.keys {
                services.insert(Arc::new(names.published(key)));
            }
        });
        Self(index)
    }
}

impl Map for Tree {
    fn reader<'m>(&'m self, names: &'m Names) -> Reader<'m> {
        let mut view = SnapshotCache::default();
        Box::new(move |key| self.0.load_cached(&mut view).get(names.hash(key), key).unwrap().0[0])
    }

    fn replace(&self, names: &Names, key: &[u8]) {
        self.0.change(|services| services.insert(Arc::new(names.published(key))));
    }
}

/// Nanoseconds of a thread per look-up.
fn measure(map: &dyn Map, names: &Names, readers: u64, hot: bool, churn: bool) -> f64 {
    let (stop, looked) = (&AtomicBool::new(false), &AtomicU64::new(0));
    let begun = Instant::now();
    thread::scope(|scope| {
        for seed in 0..readers {
            scope.spawn(move || {
                let mut read = map.reader(names);
                let mut random = seed + 1;
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..256 {
                        let at = if hot { 7 } else { next(&mut random) as usize % names.keys.len() };
                        black_box(read(&names.keys[at]));
                    }
                    count += 256;
                }
                looked.fetch_add(count, Ordering::Relaxed);
            });
        }
        if churn {
            scope.spawn(move || {
                let mut random = 99;
                while !stop.load(Ordering::Relaxed) {
                    map.replace(names, &names.keys[next(&mut random) as usize % names.keys.len()]);
                    thread::sleep(Duration::from_millis(1));
                }
            });
        }
        thread::sleep(TIME);
        stop.store(true, Ordering::Relaxed);
    });
    begun.elapsed().as_secs_f64() * 1e9 * readers as f64 / looked.load(Ordering::Relaxed) as f64
}

fn only(which: &str, count: usize) {
    let names = Names::new(10_000);
    let map: Box<dyn Map> = if which == "tree" { Box::new(Tree::new(&names)) } else { Box::new(Dash::new(&names)) };
    let mut read = map.reader(&names);
    let mut random = 1;
    for _ in 0..count {
        black_box(read(&names.keys[next(&mut random) as usize % names.keys.len()]));
    }
}

/// xorshift64.
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
