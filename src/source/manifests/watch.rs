//! When to read the manifests, or other files, again: file system events, gathered until there is quiet.
//!
//! Not here: what changed. An event only says "look again", and looking again is cheap where nothing did. Folders are
//! watched, never files: editors replace a file by renaming another over it, and a mounted ConfigMap changes by a new
//! `..data` link.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::files;

/// A change is told when nothing has happened for this long,
const QUIET: Duration = Duration::from_millis(100);
/// or when changes have gone on for this long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Watches the paths of some files and folders.
pub struct Watcher {
    paths: Vec<PathBuf>,
    inner: RecommendedWatcher,
    /// What is watched; the event handler's thread reads it.
    targets: Arc<Mutex<Targets>>,
    events: mpsc::Receiver<()>,
    pending: bool,
}

impl Watcher {
    /// Begins to watch `paths`. Start it before the first reading, so that no change falls between.
    ///
    /// # Errors
    ///
    /// One sentence, for instance where the system's limit of inotify watches is reached. The manifests can be served
    /// all the same; they are just not read again by themselves.
    pub fn start(paths: &[PathBuf]) -> Result<Self, String> {
        let targets = Arc::new(Mutex::new(Targets::new()));
        // One place is enough: an event that finds it taken adds nothing.
        let (wake, events) = mpsc::channel(1);
        let seen = Arc::clone(&targets);
        let handler = move |event: notify::Result<Event>| {
            let targets = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if event.map_or(true, |event| is_change(&event, &targets)) {
                let _ = wake.try_send(());
            }
        };
        let inner = notify::recommended_watcher(handler).map_err(|error| refused(&error))?;
        let paths = paths.iter().filter(|path| path.as_os_str() != files::STDIN);
        let paths = paths.filter_map(|path| std::path::absolute(path).ok()).collect();
        let mut watcher = Self { paths, inner, targets, events, pending: false };
        watcher.watch()?;
        Ok(watcher)
    }

    /// Waits for a change. May be dropped and called again without missing one.
    pub async fn changed(&mut self) {
        if !self.pending && self.events.recv().await.is_none() {
            // The watching thread has died; so has reloading.
            return std::future::pending().await;
        }
        self.pending = true;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && matches!(timeout(QUIET, self.events.recv()).await, Ok(Some(()))) {}
        // Before the files are read: what is created in a new folder from now on makes an event.
        if let Err(refused) = self.watch() {
            tracing::warn!("{refused}");
        }
        self.pending = false;
    }

    /// Watches what the paths mean now. A folder that was replaced by another has lost its watch, so each is set again.
    fn watch(&mut self) -> Result<(), String> {
        let targets = targets(&self.paths);
        let old = std::mem::replace(&mut *self.lock(), targets.clone());
        for folder in old.keys().filter(|folder| !targets.contains_key(*folder)) {
            // Mostly it is gone, and its watch with it.
            let _ = self.inner.unwatch(folder);
        }
        let mut result = Ok(());
        for folder in targets.keys() {
            if let Err(error) = self.inner.watch(folder, RecursiveMode::NonRecursive) {
                // A folder that has just gone makes an event in the folder above it.
                if folder.exists() {
                    result = Err(refused(&error));
                }
            }
        }
        result
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Targets> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(error: &notify::Error) -> String {
    format!(
        "files cannot be watched ({error}), so changes are not seen: raise the system's limits \
         (fs.inotify.max_user_watches, fs.inotify.max_user_instances), or reload by SIGHUP"
    )
}

/// The folders to watch, by their real paths, and what in them matters.
type Targets = BTreeMap<PathBuf, Interest>;

#[derive(Clone, Debug, Default)]
struct Interest {
    /// Every manifest and every folder.
    all: bool,
    /// These names, too.
    names: BTreeSet<OsString>,
}

fn targets(paths: &[PathBuf]) -> Targets {
    let mut targets = Targets::new();
    for path in paths {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                for folder in files::folders(path) {
                    targets.entry(folder).or_default().all = true;
                }
            }
            Ok(metadata) if !metadata.is_file() => continue, // a stream
            _ => {}
        }
        // The path itself may be replaced; so may each symbolic link that leads to it, and what that points at. Of a
        // path that is not there yet, the first part that is missing will come.
        let mut missing = false;
        for part in path.ancestors() {
            let metadata = fs::symlink_metadata(part);
            if part == path || missing || metadata.is_ok_and(|metadata| metadata.is_symlink()) {
                name(&mut targets, part);
            }
            missing = !part.exists();
        }
        if let Ok(real) = fs::canonicalize(path) {
            name(&mut targets, &real);
        }
    }
    targets
}

/// Takes an interest in one name of its folder.
fn name(targets: &mut Targets, path: &Path) {
    if let (Some(folder), Some(name)) = (path.parent(), path.file_name())
        && let Ok(folder) = fs::canonicalize(folder)
    {
        targets.entry(folder).or_default().names.insert(name.to_owned());
    }
}

/// Whether an event is a reason to read again. Reading makes events, too: those must not count.
fn is_change(event: &Event, targets: &Targets) -> bool {
    let written = matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)));
    if matches!(event.kind, EventKind::Access(_)) && !written {
        return false;
    }
    let data = written || matches!(event.kind, EventKind::Modify(ModifyKind::Data(_)));
    event.need_rescan()
        || event.paths.iter().any(|path| {
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return false };
            targets.get(folder).is_some_and(|interest| interest.has(path, name, data))
        })
}

impl Interest {
    fn has(&self, path: &Path, name: &OsStr, data: bool) -> bool {
        // `..data` is what kubelet swaps when a ConfigMap changes.
        name == "..data"
            || self.names.contains(name)
            || self.all && !files::is_hidden(name) && (!data || files::is_manifest(path))
    }
}
