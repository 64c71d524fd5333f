//! Which files the paths mean, and how each is read. What is in them is `documents.rs`.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The path that means standard input.
pub(super) const STDIN: &str = "-";

/// What the paths come to, in order.
#[derive(Debug)]
pub(super) enum Entry {
    /// A file, read again at each reload.
    File(PathBuf),
    /// A stream (standard input, a pipe): it can be read once.
    Stream(PathBuf),
    /// A path that is not there.
    Missing(PathBuf),
    /// A folder that holds no manifest.
    Empty(PathBuf),
    /// A path or folder that cannot be looked at now: what is known of the files below it stays.
    Unreadable(PathBuf, io::Error),
}

/// The files that `paths` mean: a folder stands for its manifests, recursively and sorted.
pub(super) fn list(paths: &[PathBuf]) -> Vec<Entry> {
    let mut entries = Vec::new();
    for path in paths {
        if path.as_os_str() == STDIN {
            entries.push(Entry::Stream(path.clone()));
            continue;
        }
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                let before = entries.len();
                walk(path, &mut HashSet::new(), &mut |entry| entries.push(entry));
                if entries.len() == before {
                    entries.push(Entry::Empty(path.clone()));
                }
            }
            Ok(metadata) if metadata.is_file() => entries.push(Entry::File(path.clone())),
            Ok(_) => entries.push(Entry::Stream(path.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => entries.push(Entry::Missing(path.clone())),
            Err(error) => entries.push(Entry::Unreadable(path.clone(), error)),
        }
    }
    entries
}

/// The folder and every folder below it that may hold manifests: those to watch.
pub(super) fn folders(folder: &Path) -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    walk(folder, &mut seen, &mut |_| ());
    let mut folders: Vec<PathBuf> = seen.into_iter().collect();
    folders.sort();
    folders
}

/// Walks a folder's manifests. `seen` collects the folders, by their real paths, so that a symbolic link in a circle
/// ends.
fn walk(folder: &Path, seen: &mut HashSet<PathBuf>, found: &mut impl FnMut(Entry)) {
    let read = fs::canonicalize(folder).and_then(|real| {
        if !seen.insert(real) {
            return Ok(Vec::new());
        }
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()
    });
    let mut names = match read {
        Ok(names) => names,
        Err(error) => return found(Entry::Unreadable(folder.to_owned(), error)),
    };
    names.sort();
    // A mounted ConfigMap keeps its files in `..data` and links to them from outside: each would count twice.
    for name in names.iter().filter(|name| !is_hidden(name)) {
        let path = folder.join(name);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => walk(&path, seen, found),
            // A pipe or a device in a folder is nobody's manifest, and could block the reader for ever.
            Ok(metadata) if metadata.is_file() && is_manifest(&path) => found(Entry::File(path)),
            Ok(_) => {}
            // A symbolic link to nothing: reading it says so.
            Err(_) if is_manifest(&path) => found(Entry::File(path)),
            Err(_) => {}
        }
    }
}

/// Whether a folder's entry is skipped for its name.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Whether a file in a folder is read, by its name.
pub(super) fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    extension == "yaml" || extension == "yml" || extension == "json"
}

/// Why a file was not read.
#[derive(Debug)]
pub(super) enum Wrong {
    /// It is not there (any more).
    Gone,
    /// It has more than the octets allowed.
    TooLarge,
    /// It is not UTF-8; the line of the first octet that is not, from 1.
    NotUtf8(usize),
    /// It cannot be read.
    Io(io::Error),
}

/// Reads a file, or standard input, of at most `max` octets.
pub(super) fn read(path: &Path, max: u64) -> Result<String, Wrong> {
    let octets = if path.as_os_str() == STDIN { bounded(io::stdin().lock(), max) } else { read_file(path, max) }?;
    String::from_utf8(octets).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        Wrong::NotUtf8(good.iter().filter(|octet| **octet == b'\n').count() + 1)
    })
}

fn read_file(path: &Path, max: u64) -> Result<Vec<u8>, Wrong> {
    let file = File::open(path).map_err(Wrong::from)?;
    if file.metadata().is_ok_and(|metadata| metadata.len() > max) {
        return Err(Wrong::TooLarge);
    }
    bounded(file, max)
}

fn bounded(reader: impl Read, max: u64) -> Result<Vec<u8>, Wrong> {
    let mut octets = Vec::new();
    reader.take(max.saturating_add(1)).read_to_end(&mut octets).map_err(Wrong::from)?;
    if octets.len() as u64 > max { Err(Wrong::TooLarge) } else { Ok(octets) }
}

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound { Self::Gone } else { Self::Io(error) }
    }
}
