//! Files that the paths of the options name, and reading of each. Not here: their content (`documents.rs`).

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use crate::regular_file::{self, FileError};

/// Path that denotes standard input.
pub(super) const STDIN: &str = "-";

/// One path, given or found in a folder, in order.
#[derive(Debug)]
pub(super) struct ManifestEntry {
    pub(super) path: PathBuf,
    /// True if the operator named this path, and not a folder above it.
    pub(super) is_named: bool,
    pub(super) kind: EntryKind,
}

/// The kind of file at a path.
#[derive(Debug)]
pub(super) enum EntryKind {
    /// A file, read again at each reload.
    File,
    /// A stream (standard input, a pipe): it can be read once.
    Stream,
    /// Nothing at this path.
    Missing,
    /// A folder without a manifest.
    Empty,
    /// A device or a socket.
    Other(&'static str),
    /// A path or folder that cannot be read now: the known content of the files below it stays.
    Unreadable(io::Error),
}

/// Lists the files at `paths`; for a folder its manifests, recursively and sorted.
pub(super) fn list(paths: &[PathBuf]) -> Vec<ManifestEntry> {
    let mut entries = Vec::new();
    for path in paths {
        let kind = match fs::metadata(path) {
            _ if path.as_os_str() == STDIN => EntryKind::Stream,
            Ok(metadata) if metadata.is_dir() => {
                let before = entries.len();
                walk(path, &mut HashSet::new(), &mut |found, kind| {
                    entries.push(ManifestEntry { is_named: found == *path, path: found, kind });
                });
                if entries.len() > before {
                    continue;
                }
                EntryKind::Empty
            }
            Ok(metadata) if metadata.is_file() => EntryKind::File,
            Ok(metadata) if metadata.file_type().is_fifo() => EntryKind::Stream,
            Ok(metadata) => EntryKind::Other(regular_file::kind(metadata.file_type())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => EntryKind::Missing,
            Err(error) => EntryKind::Unreadable(error),
        };
        entries.push(ManifestEntry { path: path.clone(), is_named: true, kind });
    }
    entries
}

/// Returns the folder and every folder below it that may hold manifests, to be watched.
pub(super) fn folders(folder: &Path) -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    walk(folder, &mut seen, &mut |_, _| ());
    let mut folders: Vec<PathBuf> = seen.into_iter().collect();
    folders.sort();
    folders
}

/// Visits the manifests of a folder. `seen` collects the folders by their real paths, so that a cycle of symbolic links
/// ends.
fn walk(folder: &Path, seen: &mut HashSet<PathBuf>, found: &mut impl FnMut(PathBuf, EntryKind)) {
    let read = fs::canonicalize(folder).and_then(|real| {
        if !seen.insert(real) {
            return Ok(Vec::new());
        }
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()
    });
    let mut names = match read {
        Ok(names) => names,
        Err(error) => return found(folder.to_owned(), EntryKind::Unreadable(error)),
    };
    names.sort();
    // A mounted ConfigMap keeps its files in `..data` and links to them from outside: each would count twice.
    for name in names.iter().filter(|name| !is_hidden(name)) {
        let path = folder.join(name);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => walk(&path, seen, found),
            // A pipe or a device in a folder is no manifest, and could block the reader.
            Ok(metadata) if metadata.is_file() && is_manifest(&path) => found(path, EntryKind::File),
            Ok(_) => {}
            // A broken symbolic link: reading it reports the error.
            Err(_) if is_manifest(&path) => found(path, EntryKind::File),
            Err(_) => {}
        }
    }
}

/// Returns whether an entry of a folder is skipped because its name is hidden.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Returns whether a file in a folder is read, by its extension.
pub(super) fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    extension == "yaml" || extension == "yml" || extension == "json"
}

/// Reason why a file was not read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The file does not exist, or no longer.
    Gone,
    /// The file has more octets than allowed.
    TooLarge,
    /// The file is not UTF-8; line of the first invalid octet, from 1.
    NotUtf8(usize),
    /// The file cannot be read.
    Other(FileError),
}

/// Reads a file, a pipe, or standard input, of at most `max` octets. A stream is read to its end, which may never come:
/// the caller runs on a thread that the process does not wait for at its end.
pub(super) fn read(path: &Path, is_stream: bool, max: u64) -> Result<String, ReadError> {
    let octets = match is_stream {
        true if path.as_os_str() == STDIN => regular_file::read_bounded(io::stdin().lock(), max),
        true => regular_file::read_pipe(path, max),
        false => regular_file::read(path, max),
    };
    let octets = octets.map_err(|error| match error {
        error if error.is_missing() => ReadError::Gone,
        FileError::TooLarge(_) => ReadError::TooLarge,
        error => ReadError::Other(error),
    })?;
    String::from_utf8(octets).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        ReadError::NotUtf8(good.iter().filter(|octet| **octet == b'\n').count() + 1)
    })
}
