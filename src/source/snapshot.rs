//! Snapshot of a cluster on disk, from which a server answers if it starts while the API server is out of reach.
//!
//! ```text
//!   headless-dns-snapshot 1 TIME CHECKSUM OCTETS SCOPE      Unix time, FNV-1a, size of the rest, part of the cluster
//!   {"apiVersion":"v1","kind":"Service",...}                 one line for each object
//! ```
//!
//! The snapshot is written to a file beside it and renamed, at most every [`SNAPSHOT_INTERVAL`] if something has changed, and once
//! more at an orderly shutdown. If nothing has changed, only the modification time of the file is set: the objects are
//! known to be current until then. Objects that are read back are marked as stale, and names that they lack are not
//! denied, until everything has been listed from the cluster itself. A file that is damaged, too old, or of another
//! cluster is refused with one sentence, and the server starts without it. Not here: the encoding of an object
//! (`core/src/object/write.rs`).

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Publisher;
use crate::duration::rough;
use crate::regular_file::{self, FileError};
use headless_dns_core::diagnose::Finding;
use headless_dns_core::lock::lock;
use headless_dns_core::object::{Decoded, Object, decode, encode};
use headless_dns_core::status::{DataState, LossReason, Status};

/// Minimum interval between two writes.
pub const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(30);
/// Beginning of the first line, with the version of the format.
const MAGIC: &str = "headless-dns-snapshot 1";
/// Maximum size of a snapshot, in octets; a cluster of 100,000 Services needs a tenth. Never read into memory as a
/// whole.
const MAX_SNAPSHOT_BYTES: u64 = 1 << 30;
/// Maximum length of the first line, in octets.
const MAX_HEADER_BYTES: u64 = 64 << 10;
/// Maximum length of an object's line, in octets; the API server accepts objects of a tenth.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// Snapshot file of a cluster, with the conditions of its use.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Path of the file.
    pub path: PathBuf,
    /// Maximum age; an older snapshot is refused.
    pub max_age: Duration,
    /// Cluster and part of it; a snapshot of another is refused.
    pub scope: String,
    /// Held while the file is written: the last write may begin while another has not ended.
    pub writing: Arc<Mutex<()>>,
}

/// Summary of a restored snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Number of objects.
    pub objects: usize,
    /// Time since the objects were known to be current.
    pub age: Duration,
}

impl Snapshot {
    /// Checks that the file can be replaced, by creating a file beside it and removing that again.
    ///
    /// # Errors
    ///
    /// [`FileError::NotRegular`] if the path names something that a snapshot must not replace; any other error if no
    /// file can be created beside it.
    pub fn check(&self) -> Result<(), FileError> {
        match regular_file::check(&self.path, u64::MAX) {
            Err(error) if !error.is_missing() => return Err(error),
            _ => {}
        }
        let beside = temporary_path(&self.path)?;
        drop(create(&beside)?);
        Ok(fs::remove_file(&beside)?)
    }

    /// Publishes the objects of the snapshot in an empty zone, and marks them as stale in `status`; `None` if there is
    /// no file.
    ///
    /// # Errors
    ///
    /// One sentence that names the file: the snapshot is not used, and nothing has changed.
    pub fn restore(&self, publisher: &mut Publisher, status: &Status) -> Result<Option<Restored>> {
        let refused = || format!("the snapshot {} is not used", self.path.display());
        let Some((objects, age)) = read(self, SystemTime::now()).with_context(refused)? else { return Ok(None) };
        let restored = Restored { objects: objects.len(), age };
        publisher.replace(objects);
        let stale = Finding::Stale { reason: LossReason::OutOfReach, resource: "", seconds: age.as_secs() };
        status.set_sentence(stale.ede_text());
        status.set_restored();
        Ok(Some(restored))
    }

    /// Saves the objects of `publisher` whenever they are current, without end.
    pub async fn save_periodically(&self, publisher: &Publisher, status: &Status) -> std::convert::Infallible {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut saved = None;
        let mut failed = false;
        let mut next = Instant::now();
        loop {
            ticks.tick().await;
            // The first write follows soon after the first lists. Objects that are stale are not written, or their age
            // would be lost.
            if status.data_state() != DataState::Current || Instant::now() < next {
                continue;
            }
            next = Instant::now() + SNAPSHOT_INTERVAL;
            let (this, known, last) = (self.clone(), publisher.try_clone_handle(), saved);
            let save = move || this.save(&known, last);
            let result = tokio::task::spawn_blocking(save).await.map_err(Into::into).flatten();
            match result {
                Ok(at) => (saved, failed) = (Some(at), false),
                // Warns once: a full disk stays full for a while.
                Err(error) if !failed => {
                    failed = true;
                    self.warn(&error);
                }
                Err(_) => {}
            }
        }
    }

    /// Writes the file a last time, if the objects of `publisher` are current: changes since the previous write would
    /// be missing after a start without the API server.
    pub async fn save_at_shutdown(&self, publisher: &Publisher, status: &Status) {
        if status.data_state() != DataState::Current {
            return;
        }
        let (this, known) = (self.clone(), publisher.try_clone_handle());
        let saved = tokio::task::spawn_blocking(move || this.save(&known, None)).await;
        if let Err(error) = saved.map_err(Into::into).flatten() {
            self.warn(&error);
        }
    }

    fn warn(&self, error: &anyhow::Error) {
        tracing::warn!("the snapshot {} was not written: {error:#}", self.path.display());
    }

    /// Writes the file if anything was published since the second `last`, or else sets its modification time. Returns
    /// the second until which the file is known to be current.
    ///
    /// # Errors
    ///
    /// The file, or the one beside it, cannot be written.
    pub fn save(&self, publisher: &Publisher, last: Option<u32>) -> Result<u32> {
        let _writing = lock(&self.writing);
        let now = SystemTime::now();
        let second = super::unix_time();
        // The serial is the second of the last change: a change in the second of the last write may be missing from the
        // file.
        if last.is_some_and(|last| publisher.zone().serial() < last) && regular_file::touch(&self.path, now).is_ok() {
            return Ok(second);
        }
        let objects = publisher.objects();
        write(&self.path, &self.scope, &objects, now)?;
        tracing::debug!(objects = objects.len(), "the snapshot was written");
        Ok(second)
    }
}

fn write(path: &Path, scope: &str, objects: &[Object], now: SystemTime) -> Result<()> {
    let mut body = Vec::new();
    for object in objects.iter().filter_map(encode) {
        serde_json::to_writer(&mut body, &object)?;
        body.push(b'\n');
    }
    let time = unix_seconds(now);
    let sum = checksum(checksum(FNV_OFFSET_BASIS, scope.as_bytes()), &body);
    let header = format!("{MAGIC} {time} {sum:016x} {} {scope}\n", body.len());
    if let Err(error @ FileError::NotRegular(_)) = regular_file::check(path, u64::MAX) {
        return Err(error.into());
    }
    let beside = temporary_path(path)?;
    let write_and_rename = || {
        let mut file = create(&beside)?;
        file.write_all(header.as_bytes())?;
        file.write_all(&body)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write_and_rename().inspect_err(|_| _ = fs::remove_file(&beside))?;
    // Syncs the rename too. If the folder cannot be synced, the rename reaches the disk soon.
    if let Some(folder) = path.parent()
        && let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
        && let Ok(folder) = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(folder)
    {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Returns the path of the file that is renamed over the snapshot. The process id is part of it, because the old and
/// the new process of a hot restart write the same snapshot. Removes a file that a process of the same id left there.
fn temporary_path(path: &Path) -> std::io::Result<PathBuf> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(beside),
    }
}

/// Creates a file that only this user can read; never follows a symbolic link.
fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Returns the objects, and their age at `now`. Reads one line at a time, and no object before the first line and the
/// checksum are verified.
fn read(snapshot: &Snapshot, now: SystemTime) -> Result<Option<(Vec<Object>, Duration)>> {
    let file = match regular_file::open(&snapshot.path) {
        Err(error) if error.is_missing() => return Ok(None),
        file => file?,
    };
    let metadata = file.metadata()?;
    ensure!(metadata.len() <= MAX_SNAPSHOT_BYTES, "the file is larger than any snapshot: delete it");
    let mut file = BufReader::with_capacity(64 << 10, file);
    let mut line = Vec::new();
    (&mut file).take(MAX_HEADER_BYTES).read_until(b'\n', &mut line)?;
    let header = Header::parse(&line)?;
    ensure!(metadata.len() == line.len() as u64 + header.octets, "the file is damaged: delete it");
    let sum = checksum_of(&mut file, checksum(FNV_OFFSET_BASIS, header.scope.as_bytes()))?;
    ensure!(sum == header.checksum, "the file is damaged: delete it");
    ensure!(
        header.scope == snapshot.scope,
        "it is of another cluster or another part of the cluster ({}, not {}): delete the file or set another path",
        header.scope,
        snapshot.scope
    );
    // Set while nothing changed; a copy of the file with an older time was current at least when it was written.
    let known = metadata.modified().map_or(header.time, |touched| header.time.max(unix_seconds(touched)));
    let age = Duration::from_secs(unix_seconds(now).saturating_sub(known));
    ensure!(
        age <= snapshot.max_age,
        "its objects were current {} ago, and --snapshot-max-age is {}",
        format_age(age),
        format_age(snapshot.max_age)
    );
    file.seek(SeekFrom::Start(line.len() as u64))?;
    Ok(Some((decode_objects(&mut file)?, age)))
}

/// Adds the rest of the file to a checksum.
fn checksum_of(file: &mut impl BufRead, mut sum: u64) -> std::io::Result<u64> {
    loop {
        let piece = file.fill_buf()?;
        if piece.is_empty() {
            return Ok(sum);
        }
        sum = checksum(sum, piece);
        let length = piece.len();
        file.consume(length);
    }
}

/// Decodes the objects of the remaining lines.
fn decode_objects(file: &mut impl BufRead) -> Result<Vec<Object>> {
    let (mut objects, mut line) = (Vec::new(), Vec::new());
    while file.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? > 0 {
        let value = serde_json::from_slice(&line).context("a line of the file is not JSON: delete the file")?;
        match decode(value, "default") {
            Ok(Decoded::Object(object, _)) => objects.push(object),
            Ok(Decoded::List(_) | Decoded::Ignored) => {
                bail!("the file has an object of a kind that is not watched: delete the file")
            }
            Err(invalid) => bail!("the file has an invalid object: {invalid}"),
        }
        line.clear();
    }
    Ok(objects)
}

/// Fields of the first line.
struct Header<'o> {
    time: u64,
    checksum: u64,
    octets: u64,
    scope: &'o str,
}

impl<'o> Header<'o> {
    fn parse(line: &'o [u8]) -> Result<Self> {
        let line = line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
        let Some(fields) = line.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(' ')) else {
            bail!("the file is no snapshot, or of another version of headless-dns: delete it");
        };
        let mut fields = fields.splitn(4, ' ');
        let mut next = || fields.next().context("the file is damaged: delete it");
        Ok(Self {
            time: next()?.parse().context("the file is damaged: delete it")?,
            checksum: u64::from_str_radix(next()?, 16).context("the file is damaged: delete it")?,
            octets: next()?.parse().context("the file is damaged: delete it")?,
            scope: next()?,
        })
    }
}

/// FNV-1a checksum of no octets.
const FNV_OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// Adds octets to an FNV-1a checksum of 64 bits: against damage, not against forgery by a user with write access.
fn checksum(sum: u64, octets: &[u8]) -> u64 {
    octets.iter().fold(sum, |sum, octet| (sum ^ u64::from(*octet)).wrapping_mul(0x100_0000_01b3))
}

/// Formats a duration in seconds, as options have it, and roughly in a larger unit.
fn format_age(duration: Duration) -> String {
    let (seconds, rough) = (duration.as_secs(), rough(duration));
    if rough == format!("{seconds} s") { rough } else { format!("{seconds} s ({rough})") }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::super::{PublisherOptions, manifests};
    use std::sync::Arc;

    use super::*;
    use crate::source::manifests::Manifests;
    use headless_dns_core::name::WireName;
    use headless_dns_core::name::reverse::ReverseZones;
    use headless_dns_core::naming_rules::{NamingRules, PodRecords};
    use headless_dns_core::zone::{Record, Settings, Zone};

    fn publisher() -> Publisher {
        let apexes = vec![WireName::parse("cluster.local").unwrap()];
        let rules =
            NamingRules { pod_records: PodRecords::Verified, endpoint_pod_names: true, ..NamingRules::default() };
        let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules };
        Publisher::for_cluster(Arc::new(Zone::new(settings, ReverseZones::default())), PublisherOptions::default())
    }

    /// Returns every record but the SOA, which has a time as its serial.
    fn records(publisher: &Publisher) -> Vec<Record> {
        let zone = publisher.zone();
        let all = zone.origins().into_iter().flat_map(|origin| zone.records(&origin).unwrap().into_iter().skip(1));
        all.collect()
    }

    fn snapshot(folder: &tempfile::TempDir) -> Snapshot {
        let path = folder.path().join("snapshot");
        let scope = "https://10.0.0.1:6443 * slices ".into();
        Snapshot { path, max_age: Duration::from_secs(60), scope, writing: Arc::default() }
    }

    /// Returns the objects of every scenario, each for an empty cluster.
    fn scenarios() -> Vec<(String, Vec<Object>)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let paths = entries.filter(|path| path.extension().is_some_and(|kind| kind == "yaml"));
        let read = |path: PathBuf| {
            let shown = path.display().to_string();
            (shown, Manifests::new(vec![path], "default", 64 << 20).reload().objects)
        };
        paths.map(read).collect()
    }

    #[test]
    fn restored_snapshot_answers_equally() {
        let folder = tempfile::tempdir().unwrap();
        let snapshot = snapshot(&folder);
        let mut objects = 0;
        for (name, written) in scenarios() {
            let mut before = publisher();
            before.replace(written);
            snapshot.save(&before, None).unwrap();
            let (mut after, status) = (publisher(), Status::default());
            let restored = snapshot.restore(&mut after, &status).unwrap().unwrap();
            assert_eq!(records(&before), records(&after), "{name}");
            assert_eq!(status.data_state(), DataState::Restored);
            // The objects too are equal, so that a second snapshot loses nothing.
            let as_sorted_text = |publisher: &Publisher| {
                let mut all: Vec<_> = publisher.objects().iter().map(|object| format!("{object:?}")).collect();
                all.sort();
                all
            };
            assert_eq!(as_sorted_text(&before), as_sorted_text(&after), "{name}");
            objects += restored.objects;
        }
        assert!(objects > 100, "{objects} objects were tried");
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&snapshot.path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn rejects_unusable_snapshots() {
        let folder = tempfile::tempdir().unwrap();
        let snapshot = snapshot(&folder);
        let text = "kind: Service\nmetadata: {name: web}\nspec: {clusterIP: None}\n";
        let mut known = publisher();
        known.replace(manifests::read_text("a test", text, "default").objects);
        snapshot.save(&known, None).unwrap();
        let good = fs::read(&snapshot.path).unwrap();
        let refused = |snapshot: &Snapshot| {
            let (mut new, status) = (publisher(), Status::default());
            let error = snapshot.restore(&mut new, &status).expect_err("it is refused");
            assert_eq!((status.data_state(), new.zone().size()), (DataState::NotSynced, (0, 0)));
            let error = format!("{error:#}");
            assert!(error.starts_with(&format!("the snapshot {} is not used: ", snapshot.path.display())), "{error}");
            error
        };
        // Every changed octet and every shortened length is detected.
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let time =
                MAGIC.len()..good.iter().skip(MAGIC.len() + 1).position(|octet| *octet == b' ').unwrap() + MAGIC.len();
            // Except for the time, which is checked separately below.
            if !time.contains(&at) {
                fs::write(&snapshot.path, &bad).unwrap();
                refused(&snapshot);
            }
            fs::write(&snapshot.path, &good[..at]).unwrap();
            refused(&snapshot);
        }
        fs::write(&snapshot.path, String::from_utf8(good.clone()).unwrap().replace("snapshot 1", "snapshot 2"))
            .unwrap();
        assert!(refused(&snapshot).contains("another version of headless-dns"));
        fs::write(&snapshot.path, &good).unwrap();
        assert!(
            refused(&Snapshot { scope: "https://10.0.0.2 * slices ".into(), ..snapshot.clone() })
                .contains("another cluster")
        );
        let modified = fs::metadata(&snapshot.path).unwrap().modified().unwrap();
        for (age, max_age, shown) in [
            (3, 1, "its objects were current 3 s ago, and --snapshot-max-age is 1 s"),
            (7_300, 7_200, "its objects were current 7300 s (2 h) ago, and --snapshot-max-age is 7200 s (2 h)"),
        ] {
            let snapshot = Snapshot { max_age: Duration::from_secs(max_age), ..snapshot.clone() };
            let now = UNIX_EPOCH + Duration::from_secs(unix_seconds(modified) + age);
            assert_eq!(read(&snapshot, now).unwrap_err().to_string(), shown);
        }
        assert_eq!(snapshot.restore(&mut publisher(), &Status::default()).unwrap().unwrap().objects, 1);
        fs::remove_file(&snapshot.path).unwrap();
        assert_eq!(snapshot.restore(&mut publisher(), &Status::default()).unwrap(), None);
    }

    #[test]
    fn touches_unchanged_snapshot() {
        let folder = tempfile::tempdir().unwrap();
        let snapshot = snapshot(&folder);
        let known = publisher();
        let first = snapshot.save(&known, None).unwrap();
        let file = File::options().write(true).open(&snapshot.path).unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(1000);
        file.set_modified(long_ago).unwrap();
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let before = inode(&snapshot.path);
        snapshot.save(&known, Some(first)).unwrap();
        assert_eq!(inode(&snapshot.path), before);
        assert!(fs::metadata(&snapshot.path).unwrap().modified().unwrap() > long_ago + Duration::from_secs(900));
        snapshot.save(&known, None).unwrap();
        assert_ne!(inode(&snapshot.path), before);
    }
}
