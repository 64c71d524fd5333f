//! File system events -> a signal to read manifests, or other files, again, once events have ceased for a moment.
//!
//! Not here: the change itself. An event only asks for another reading, which is cheap if nothing changed. Folders are
//! watched, never files: editors replace a file by renaming another over it, and a mounted ConfigMap changes by a new
//! `..data` link.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::files;
use headless_dns_core::lock::lock;

/// Time without events after which a change is reported.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Maximum delay of the report while events go on.
const MAX_DEBOUNCE: Duration = Duration::from_secs(1);

/// Watcher of files and folders.
pub struct ManifestWatcher {
    paths: Vec<PathBuf>,
    inner: RecommendedWatcher,
    /// Watched folders, which the thread of the event handler reads.
    targets: Arc<Mutex<Targets>>,
    events: mpsc::Receiver<()>,
    is_pending: bool,
}

impl ManifestWatcher {
    /// Starts to watch `paths`. Call it before the first reading, or a change in between is missed.
    ///
    /// # Errors
    ///
    /// One sentence, for instance if the system's limit of inotify watches is reached. The manifests can still be
    /// served, but changes of them are not noticed.
    pub fn start(paths: &[PathBuf]) -> Result<Self, String> {
        let targets = Arc::new(Mutex::new(Targets::new()));
        // A capacity of 1 is enough: an event that finds the channel full adds nothing.
        let (wake, events) = mpsc::channel(1);
        let seen = Arc::clone(&targets);
        let handler = move |event: notify::Result<Event>| {
            let targets = lock(&seen);
            if event.map_or(true, |event| is_change(&event, &targets)) {
                let _ = wake.try_send(());
            }
        };
        let inner = notify::recommended_watcher(handler).map_err(|error| watch_error(&error))?;
        let paths = paths.iter().filter(|path| path.as_os_str() != files::STDIN);
        let paths = paths.filter_map(|path| std::path::absolute(path).ok()).collect();
        let mut watcher = Self { paths, inner, targets, events, is_pending: false };
        watcher.watch()?;
        Ok(watcher)
    }

    /// Waits for a change. May be dropped and called again without missing one.
    pub async fn changed(&mut self) {
        if !self.is_pending && self.events.recv().await.is_none() {
            // The watching thread has ended, and reloading with it.
            return std::future::pending().await;
        }
        self.is_pending = true;
        let end = Instant::now() + MAX_DEBOUNCE;
        while Instant::now() < end && matches!(timeout(DEBOUNCE, self.events.recv()).await, Ok(Some(()))) {}
        // Before the files are read, so that a file created in a new folder from now on makes an event.
        if let Err(refused) = self.watch() {
            tracing::warn!("{refused}");
        }
        self.is_pending = false;
    }

    /// Watches the present folders of the paths. A folder that was replaced has lost its watch, so each is set again.
    fn watch(&mut self) -> Result<(), String> {
        let targets = targets(&self.paths);
        let old = std::mem::replace(&mut *lock(&self.targets), targets.clone());
        for folder in old.keys().filter(|folder| !targets.contains_key(*folder)) {
            // In most cases the folder is gone, and its watch with it.
            let _ = self.inner.unwatch(folder);
        }
        let mut result = Ok(());
        for folder in targets.keys() {
            if let Err(error) = self.inner.watch(folder, RecursiveMode::NonRecursive) {
                // A folder that has just been removed makes an event in its parent.
                if folder.exists() {
                    result = Err(watch_error(&error));
                }
            }
        }
        result
    }
}

fn watch_error(error: &notify::Error) -> String {
    format!(
        "files cannot be watched ({error}), so changes are not seen: raise the system's limits \
         (fs.inotify.max_user_watches, fs.inotify.max_user_instances), or reload by SIGHUP"
    )
}

/// Folders to watch, by their real paths, with the names that matter in each.
type Targets = BTreeMap<PathBuf, WatchFilter>;

#[derive(Clone, Debug, Default)]
struct WatchFilter {
    /// True if all manifests and folders in this folder are watched.
    includes_all: bool,
    /// Names in this folder of the paths themselves, and of symbolic links on the way to them.
    names: BTreeSet<OsString>,
}

fn targets(paths: &[PathBuf]) -> Targets {
    let mut targets = Targets::new();
    for path in paths {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                for folder in files::folders(path) {
                    targets.entry(folder).or_default().includes_all = true;
                }
            }
            Ok(metadata) if !metadata.is_file() => continue, // a stream
            _ => {}
        }
        // The path itself may be replaced, and so may each symbolic link on it, and its target. If the path does not
        // exist yet, its first missing part will be created.
        let mut missing = false;
        for part in path.ancestors() {
            let metadata = fs::symlink_metadata(part);
            if part == path || missing || metadata.is_ok_and(|metadata| metadata.is_symlink()) {
                add_name(&mut targets, part);
            }
            missing = !part.exists();
        }
        if let Ok(real) = fs::canonicalize(path) {
            add_name(&mut targets, &real);
        }
    }
    targets
}

/// Adds one name to the filter of its folder.
fn add_name(targets: &mut Targets, path: &Path) {
    if let (Some(folder), Some(name)) = (path.parent(), path.file_name())
        && let Ok(folder) = fs::canonicalize(folder)
    {
        targets.entry(folder).or_default().names.insert(name.to_owned());
    }
}

/// Returns whether an event calls for reading again. Events of reading must not, or each reading would cause another.
fn is_change(event: &Event, targets: &Targets) -> bool {
    let written = matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)));
    if matches!(event.kind, EventKind::Access(_)) && !written {
        return false;
    }
    let data = written || matches!(event.kind, EventKind::Modify(ModifyKind::Data(_)));
    event.need_rescan()
        || event.paths.iter().any(|path| {
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return false };
            targets.get(folder).is_some_and(|interest| interest.matches(path, name, data))
        })
}

impl WatchFilter {
    fn matches(&self, path: &Path, name: &OsStr, data: bool) -> bool {
        // The kubelet replaces `..data` when a ConfigMap changes.
        name == "..data"
            || self.names.contains(name)
            || self.includes_all && !files::is_hidden(name) && (!data || files::is_manifest(path))
    }
}
