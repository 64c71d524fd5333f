//! Files that an option, a variable or a kubeconfig names by path.
//!
//! A path may name anything: opening a FIFO waits for its other end, opening a device may act on it, and a file may
//! have any size. So the type is checked before opening, opening does not block, the type is checked again on the open
//! file, and the size is bounded before reading. Symbolic links are followed: a mounted Secret is made of them.
//! `tests/it/tidy.rs` keeps every other file from opening or reading a path by itself.

use std::fmt;
use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

/// The largest configuration file, certificate, key or kernel table, in octets.
pub const MAX_SMALL_FILE: u64 = 1 << 20;

/// Error of reading a file. Its text continues `cannot read PATH: `.
#[derive(Debug)]
pub enum FileError {
    /// The path names something other than a regular file: its kind, as a noun with its article.
    NotRegular(&'static str),
    /// The file has more octets than this bound.
    TooLarge(u64),
    /// The system call failed.
    Io(io::Error),
}

impl FileError {
    /// Returns whether the path does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == ErrorKind::NotFound)
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRegular(kind) => write!(f, "it is {kind}, and only a regular file is read"),
            Self::TooLarge(max) => write!(f, "it has more than {max} octets, the maximum"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FileError {}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Opens a regular file for reading. Does not block.
///
/// # Errors
///
/// The path names no regular file, or the system refuses.
pub fn open(path: &Path) -> Result<File, FileError> {
    open_with(path, OpenOptions::new().read(true))
}

/// Sets the modification time of a regular file, without blocking.
pub fn touch(path: &Path, time: std::time::SystemTime) -> Result<(), FileError> {
    Ok(open_with(path, OpenOptions::new().write(true))?.set_modified(time)?)
}

/// Reads a regular file of at most `max` octets.
///
/// # Errors
///
/// The path names no regular file, it is larger, or the system refuses.
pub fn read(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    let file = open(path)?;
    let size = file.metadata()?.len();
    if size > max {
        return Err(FileError::TooLarge(max));
    }
    read_bounded(file, max)
}

/// Reads a regular file of at most `max` octets as UTF-8.
///
/// # Errors
///
/// As [`read`]; or the file is not UTF-8.
pub fn read_text(path: &Path, max: u64) -> Result<String, FileError> {
    String::from_utf8(read(path, max)?).map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8").into())
}

/// Reads a named pipe, to its end and at most `max` octets. Blocks until the other end is opened and closed, so the
/// caller runs on a thread that the process does not wait for at its end.
pub fn read_pipe(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    read_bounded(File::open(path)?, max)
}

/// Reads a stream to its end, and at most `max` octets.
///
/// # Errors
///
/// The stream is larger, or the system refuses.
pub fn read_bounded(stream: impl Read, max: u64) -> Result<Vec<u8>, FileError> {
    let mut octets = Vec::new();
    stream.take(max.saturating_add(1)).read_to_end(&mut octets)?;
    if octets.len() as u64 > max { Err(FileError::TooLarge(max)) } else { Ok(octets) }
}

/// Checks that a library can open and read the file at `path` without blocking, up to `max` octets.
///
/// # Errors
///
/// As [`read`].
pub fn check(path: &Path, max: u64) -> Result<(), FileError> {
    let metadata = fs::metadata(path)?;
    check_type(metadata.file_type())?;
    if metadata.len() > max { Err(FileError::TooLarge(max)) } else { Ok(()) }
}

/// Returns the name of a file type, with its article.
pub fn kind(kind: FileType) -> &'static str {
    match () {
        () if kind.is_file() => "a regular file",
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a named pipe",
        () if kind.is_socket() => "a socket",
        () if kind.is_char_device() => "a character device",
        () if kind.is_block_device() => "a block device",
        () => "something else",
    }
}

fn check_type(of: FileType) -> Result<(), FileError> {
    if of.is_file() { Ok(()) } else { Err(FileError::NotRegular(kind(of))) }
}

fn open_with(path: &Path, options: &mut OpenOptions) -> Result<File, FileError> {
    // Opening alone may act on a device, and blocks until the other end of a FIFO is opened.
    check_type(fs::metadata(path)?.file_type())?;
    let file = options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    // The path may name another file since the check.
    check_type(file.metadata()?.file_type())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn opens_regular_files_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "text").unwrap();
        symlink(path("file"), path("link")).unwrap();
        for name in ["file", "link"] {
            assert_eq!(read_text(&path(name), 4).unwrap(), "text");
            check(&path(name), 4).unwrap();
        }
        let fifo = path("fifo").to_str().unwrap().to_owned();
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let _socket = UnixListener::bind(path("socket")).unwrap();
        for (name, found) in [
            (fifo.as_str(), "it is a named pipe"),
            (path("socket").to_str().unwrap(), "it is a socket"),
            (path("").to_str().unwrap(), "it is a folder"),
            ("/dev/zero", "it is a character device"),
        ] {
            let name = Path::new(name);
            for error in [
                open(name).map(|_| ()),
                read(name, 9).map(|_| ()),
                check(name, 9),
                touch(name, std::time::SystemTime::now()),
            ] {
                let error = error.unwrap_err().to_string();
                assert_eq!(error, format!("{found}, and only a regular file is read"));
            }
        }
        assert!(open(&path("nothing")).unwrap_err().is_missing());
    }

    #[test]
    fn bounds_the_size_before_reading() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(matches!(read(&path, 1 << 30), Err(FileError::TooLarge(_))));
        assert!(matches!(check(&path, 1 << 30), Err(FileError::TooLarge(_))));
        // A file of the kernel has size 0.
        assert!(matches!(read(Path::new("/proc/self/stat"), 3), Err(FileError::TooLarge(3))));
        assert!(!read(Path::new("/proc/self/stat"), MAX_SMALL_FILE).unwrap().is_empty());
        fs::write(&path, b"\xff").unwrap();
        assert_eq!(read_text(&path, 9).unwrap_err().to_string(), "it is not UTF-8");
    }
}
