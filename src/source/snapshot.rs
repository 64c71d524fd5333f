//! What was known of a cluster, on disk: a server that starts while the API server is away answers from it.
//!
//! ```text
//!   headless-dns-snapshot 1 TIME CHECKSUM OCTETS SCOPE      one line: seconds since 1970, FNV-1a, of how much, of what
//!   {"apiVersion":"v1","kind":"Service",...}                 one line for each object
//! ```
//!
//! It is written whole beside the file and renamed over it, at most every [`EVERY`], when something has changed, and once
//! more at an orderly end. When nothing has changed, the file's time of change says until when it was known to be true. What is read back is marked as stale,
//! and what is not in it is not denied, until everything was read from the cluster itself. A file that is damaged, old,
//! or of another cluster, is refused with one sentence, and the server starts as without it. Not here: the form of an
//! object (`objects/write.rs`).

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Publisher;
use crate::duration::rough;
use crate::explain::Finding;
use crate::objects::{Decoded, Object, decode, encode};
use crate::regular_file::{self, FileError};
use crate::status::{DataState, LossReason, Status};

/// How often it is written at the most.
pub const EVERY: Duration = Duration::from_secs(30);
/// What each begins with, and the version of the form.
const MAGIC: &str = "headless-dns-snapshot 1";
/// The largest snapshot that is read, in octets: a cluster of 100,000 Services has a tenth. It is read in pieces.
const LARGEST: u64 = 1 << 30;
/// The longest first line, in octets.
const MAX_HEADER: u64 = 64 << 10;
/// The longest line of an object, in octets; the API server takes objects of a tenth.
const MAX_LINE: u64 = 16 << 20;

/// A file with what was known of a cluster.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Where it is.
    pub path: PathBuf,
    /// An older one is refused.
    pub max_age: Duration,
    /// Which part of which cluster it is of; one of another is refused.
    pub scope: String,
    /// Held while the file is written: the last writing may begin while another has not ended.
    pub writing: Arc<Mutex<()>>,
}

/// What was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// How many objects.
    pub objects: usize,
    /// How long ago they were known to be true.
    pub age: Duration,
}

impl Snapshot {
    /// Checks that the file can be replaced: by creating one beside it, and removing that again.
    ///
    /// # Errors
    ///
    /// [`FileError::NotRegular`] where the path names something that a snapshot must not replace; any other where no file
    /// can be created beside it.
    pub fn check(&self) -> Result<(), FileError> {
        match regular_file::check(&self.path, u64::MAX) {
            Err(error) if !error.is_missing() => return Err(error),
            _ => {}
        }
        let beside = beside(&self.path)?;
        drop(create(&beside)?);
        Ok(fs::remove_file(&beside)?)
    }

    /// Fills an empty zone with what was known, and says in `status` that it is what was; `None` if there is no file.
    ///
    /// # Errors
    ///
    /// One sentence that names the file: it is not used, and nothing has changed.
    pub fn restore(&self, publisher: &mut Publisher, status: &Status) -> Result<Option<Restored>> {
        let refused = || format!("the snapshot {} is not used", self.path.display());
        let Some((objects, age)) = read(self, SystemTime::now()).with_context(refused)? else { return Ok(None) };
        let restored = Restored { objects: objects.len(), age };
        publisher.replace(objects);
        let stale = Finding::Stale { reason: LossReason::OutOfReach, resource: "", seconds: age.as_secs() };
        status.set_sentence(stale.brief());
        status.set_restored();
        Ok(Some(restored))
    }

    /// Keeps it true for ever: `publisher` knows the cluster.
    pub async fn keep(&self, publisher: &Publisher, status: &Status) -> std::convert::Infallible {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut saved = None;
        let mut failed = false;
        let mut next = Instant::now();
        loop {
            ticks.tick().await;
            // Soon after the first reading; and what is stale by now is not made younger.
            if status.data_state() != DataState::Current || Instant::now() < next {
                continue;
            }
            next = Instant::now() + EVERY;
            let (this, known, last) = (self.clone(), publisher.again(), saved);
            let save = move || this.save(&known, last);
            let result = tokio::task::spawn_blocking(save).await.map_err(Into::into).flatten();
            match result {
                Ok(at) => (saved, failed) = (Some(at), false),
                // Once: a full disk stays full for a while.
                Err(error) if !failed => {
                    failed = true;
                    self.warn(&error);
                }
                Err(_) => {}
            }
        }
    }

    /// Writes the file a last time, if the objects of `publisher` are current: changes since the last writing would be
    /// missing after a start without the API server.
    pub async fn finish(&self, publisher: &Publisher, status: &Status) {
        if status.data_state() != DataState::Current {
            return;
        }
        let (this, known) = (self.clone(), publisher.again());
        let saved = tokio::task::spawn_blocking(move || this.save(&known, None)).await;
        if let Err(error) = saved.map_err(Into::into).flatten() {
            self.warn(&error);
        }
    }

    fn warn(&self, error: &anyhow::Error) {
        tracing::warn!("the snapshot {} was not written: {error:#}", self.path.display());
    }

    /// Writes it if anything was published since the second `last`, and returns the second until which it is true.
    ///
    /// # Errors
    ///
    /// The file, or the one beside it, cannot be written.
    pub fn save(&self, publisher: &Publisher, last: Option<u32>) -> Result<u32> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now();
        let second = super::unix_time();
        // The serial is the second of the last change: what was published in the second of the last copy may not be in.
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
    let time = seconds(now);
    let sum = checksum(checksum(EMPTY, scope.as_bytes()), &body);
    let header = format!("{MAGIC} {time} {sum:016x} {} {scope}\n", body.len());
    if let Err(error @ FileError::NotRegular(_)) = regular_file::check(path, u64::MAX) {
        return Err(error.into());
    }
    let beside = beside(path)?;
    let put = || {
        let mut file = create(&beside)?;
        file.write_all(header.as_bytes())?;
        file.write_all(&body)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    put().inspect_err(|_| _ = fs::remove_file(&beside))?;
    // The rename too is on disk; where folders cannot be synced, it is soon.
    if let Some(folder) = path.parent()
        && let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
        && let Ok(folder) = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(folder)
    {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Returns the path of the file that is renamed over the snapshot: this process's own, as the server that hands over its
/// sockets writes the same snapshot. Removes one that a process of the same number left there.
fn beside(path: &Path) -> std::io::Result<PathBuf> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(beside),
    }
}

/// Creates a file that only this user can read, never through a symbolic link.
fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// The objects, and their age at `now`. Octets are held one line at a time, and none before the first line is that of a
/// snapshot and the checksum is right.
fn read(snapshot: &Snapshot, now: SystemTime) -> Result<Option<(Vec<Object>, Duration)>> {
    let file = match regular_file::open(&snapshot.path) {
        Err(error) if error.is_missing() => return Ok(None),
        file => file?,
    };
    let metadata = file.metadata()?;
    ensure!(metadata.len() <= LARGEST, "it is larger than any snapshot: delete it");
    let mut file = BufReader::with_capacity(64 << 10, file);
    let mut line = Vec::new();
    (&mut file).take(MAX_HEADER).read_until(b'\n', &mut line)?;
    let header = Header::parse(&line)?;
    ensure!(metadata.len() == line.len() as u64 + header.octets, "it is damaged: delete it");
    let sum = checksum_of(&mut file, checksum(EMPTY, header.scope.as_bytes()))?;
    ensure!(sum == header.checksum, "it is damaged: delete it");
    ensure!(
        header.scope == snapshot.scope,
        "it is of another cluster, or of another part of it ({}, and not {}): delete it or name another file",
        header.scope,
        snapshot.scope
    );
    // Touched while nothing changed; a copy with an older time was at least true when it was written.
    let known = metadata.modified().map_or(header.time, |touched| header.time.max(seconds(touched)));
    let age = Duration::from_secs(seconds(now).saturating_sub(known));
    ensure!(
        age <= snapshot.max_age,
        "it was last known to be true {} ago, and --snapshot-max-age is {}",
        in_seconds(age),
        in_seconds(snapshot.max_age)
    );
    file.seek(SeekFrom::Start(line.len() as u64))?;
    Ok(Some((objects(&mut file)?, age)))
}

/// The octets that are left, added to a checksum.
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

/// The objects of the lines that are left.
fn objects(file: &mut impl BufRead) -> Result<Vec<Object>> {
    let (mut objects, mut line) = (Vec::new(), Vec::new());
    while file.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? > 0 {
        let value = serde_json::from_slice(&line).context("it holds what is no object: delete it")?;
        match decode(value, "default") {
            Ok(Decoded::Object(object, _)) => objects.push(object),
            Ok(Decoded::List(_) | Decoded::Ignored) => bail!("it holds an object of a kind that has no place in it"),
            Err(invalid) => bail!("it holds an object that cannot be used: {invalid}"),
        }
        line.clear();
    }
    Ok(objects)
}

/// The first line.
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
            bail!("it is no snapshot, or of another version of headless-dns: delete it");
        };
        let mut fields = fields.splitn(4, ' ');
        let mut next = || fields.next().context("it is damaged: delete it");
        Ok(Self {
            time: next()?.parse().context("it is damaged: delete it")?,
            checksum: u64::from_str_radix(next()?, 16).context("it is damaged: delete it")?,
            octets: next()?.parse().context("it is damaged: delete it")?,
            scope: next()?,
        })
    }
}

/// FNV-1a of no octets.
const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

/// Adds octets to an FNV-1a checksum of 64 bits: against damage, not against forgery by a user who may write the file.
fn checksum(sum: u64, octets: &[u8]) -> u64 {
    octets.iter().fold(sum, |sum, octet| (sum ^ u64::from(*octet)).wrapping_mul(0x100_0000_01b3))
}

/// A duration in seconds, as options have it, and roughly in the unit that people use.
fn in_seconds(duration: Duration) -> String {
    let (seconds, rough) = (duration.as_secs(), rough(duration));
    if rough == format!("{seconds} s") { rough } else { format!("{seconds} s ({rough})") }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::super::{Options, manifests};
    use std::sync::Arc;

    use super::*;
    use crate::names::WireName;
    use crate::names::reverse::ReverseZones;
    use crate::rules::{PodRecords, Rules};
    use crate::source::manifests::Manifests;
    use crate::zone::{Record, Settings, Zone};

    fn publisher() -> Publisher {
        let apexes = vec![WireName::parse("cluster.local").unwrap()];
        let rules = Rules { pod_records: PodRecords::Verified, endpoint_pod_names: true, ..Rules::default() };
        let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules };
        Publisher::of_cluster(Arc::new(Zone::new(settings, ReverseZones::default())), Options::default())
    }

    /// Every record but the SOA, whose serial is a time.
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

    /// The objects of every scenario, each in an empty cluster.
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
    fn what_is_read_back_is_answered_the_same() {
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
            // Once more: nothing is lost on the second way either.
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
    fn what_is_not_used() {
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
        // Every octet that is changed, and every length that is left, is seen.
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let time =
                MAGIC.len()..good.iter().skip(MAGIC.len() + 1).position(|octet| *octet == b' ').unwrap() + MAGIC.len();
            // But for the time, which is judged by itself.
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
            (3, 1, "it was last known to be true 3 s ago, and --snapshot-max-age is 1 s"),
            (7_300, 7_200, "it was last known to be true 7300 s (2 h) ago, and --snapshot-max-age is 7200 s (2 h)"),
        ] {
            let snapshot = Snapshot { max_age: Duration::from_secs(max_age), ..snapshot.clone() };
            let now = UNIX_EPOCH + Duration::from_secs(seconds(modified) + age);
            assert_eq!(read(&snapshot, now).unwrap_err().to_string(), shown);
        }
        assert_eq!(snapshot.restore(&mut publisher(), &Status::default()).unwrap().unwrap().objects, 1);
        fs::remove_file(&snapshot.path).unwrap();
        assert_eq!(snapshot.restore(&mut publisher(), &Status::default()).unwrap(), None);
    }

    #[test]
    fn what_has_not_changed_is_only_touched() {
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
