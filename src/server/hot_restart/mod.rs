//! Hot restart: a new process takes the sockets of a running one, and no query is lost.
//!
//! ```text
//!   the new process                            the old process, which answers all the time
//!   connects to --takeover PATH        ──▶     checks the user of the new process
//!   has all sockets, reads none yet    ◀──     sends every socket that it answers on
//!   reads its source, then the sockets ──▶     reads no more, ends its connections, ends
//!   reads the QUIC sockets             ◀──     closes the Unix socket once it reads no more
//! ```
//!
//! Both processes have the same sockets: a queued datagram or connection is read by one of them, and no address is
//! bound twice. If the new process ends before it answers, the old one continues; if the old one ends meanwhile, the
//! new one answers at once. QUIC connections end with the old process, and their clients connect again. Not here: the
//! transfer of a socket (`sys/fds.rs`), and its use by the new process (`listener/bind.rs`).

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::listener::bind::{InheritedSockets, SocketRelease};
use super::sys::fds;
use crate::regular_file;
use headless_dns_core::lock::lock;

/// First message of a process that asks for sockets: its request, with the version of the protocol.
const REQUEST: [u8; 16] = *b"headless-dns/1\r\n";
/// Message of the new process once it answers.
const CONFIRMATION: u8 = b'r';
/// Timeout of each step of the protocol that does not wait for the new process to read its source.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of the wait until the predecessor has stopped reading the QUIC sockets. After it, both processes read them.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Registry of a server's sockets, for another process. Clones share one registry.
#[derive(Clone, Debug, Default)]
pub struct SocketRegistry(Arc<RegistryInner>);

#[derive(Debug, Default)]
struct RegistryInner {
    next: AtomicU64,
    /// Copies of the sockets of each listener.
    sockets: Mutex<HashMap<u64, Vec<OwnedFd>>>,
    given: AtomicBool,
    /// Connection of the successor, open while a socket is registered. When it closes, the successor reads the QUIC
    /// sockets.
    successor: Mutex<Option<UnixStream>>,
}

/// Registration of one listener's sockets; dropping it removes them.
pub(crate) struct SocketRegistration {
    registry: SocketRegistry,
    number: u64,
}

impl SocketRegistry {
    pub(crate) fn register(&self, udp: &[UdpSocket], tcp: Option<&TcpListener>) -> io::Result<SocketRegistration> {
        let mut copies: Vec<OwnedFd> = Vec::new();
        if let Some(listener) = tcp {
            copies.push(listener.try_clone()?.into());
        }
        for socket in udp {
            copies.push(socket.try_clone()?.into());
        }
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.sockets().insert(number, copies);
        Ok(SocketRegistration { registry: self.clone(), number })
    }

    /// Returns whether another process has the sockets, whether it reads them already or not. If so, all that is queued
    /// in them is for that process, also when this one is stopped by a signal.
    pub fn is_taken_over(&self) -> bool {
        self.0.given.load(Ordering::Acquire)
    }

    fn sockets(&self) -> MutexGuard<'_, HashMap<u64, Vec<OwnedFd>>> {
        lock(&self.0.sockets)
    }

    fn successor(&self) -> MutexGuard<'_, Option<UnixStream>> {
        lock(&self.0.successor)
    }

    fn copies(&self) -> io::Result<Vec<OwnedFd>> {
        self.sockets().values().flatten().map(OwnedFd::try_clone).collect()
    }
}

impl Drop for SocketRegistration {
    fn drop(&mut self) {
        let mut sockets = self.registry.sockets();
        sockets.remove(&self.number);
        if sockets.is_empty() {
            drop(self.registry.successor().take());
        }
    }
}

/// The Unix socket at which another process of the server's user can ask for the server's sockets.
pub struct TakeoverListener {
    listener: UnixListener,
    path: PathBuf,
    /// Inode of the socket file. If it differs at the end, another process has replaced the file, and it is not
    /// removed.
    inode: u64,
    registry: SocketRegistry,
}

impl TakeoverListener {
    /// Binds a Unix socket at `path`, and replaces one that is there.
    ///
    /// # Errors
    ///
    /// The path has another kind of file, or the socket cannot be created. The error names the path.
    pub fn bind(path: &Path, registry: SocketRegistry) -> Result<Self> {
        let failed = || format!("cannot offer the sockets at {}", path.display());
        check_socket(path).with_context(failed)?;
        // Bound beside the old socket and renamed over it, so that there is a socket at the path at every moment.
        let mut own = path.as_os_str().to_owned();
        own.push(format!(".{}", std::process::id()));
        let own = PathBuf::from(own);
        match fs::remove_file(&own) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(failed),
            _ => {}
        }
        let listener = UnixListener::bind(&own).with_context(failed)?;
        let put = || {
            fs::set_permissions(&own, fs::Permissions::from_mode(0o600))?;
            let inode = fs::symlink_metadata(&own)?.ino();
            fs::rename(&own, path)?;
            io::Result::Ok(inode)
        };
        let inode = put().inspect_err(|_| _ = fs::remove_file(&own)).with_context(failed)?;
        Ok(Self { listener, path: path.into(), inode, registry })
    }

    /// Completes once another process answers in place of this one. Until then, gives the sockets to every process that
    /// asks, one at a time.
    pub async fn taken_over(&self) {
        loop {
            let relieved = match self.listener.accept().await {
                Ok((stream, _)) => self.send_sockets(stream).await,
                Err(error) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Err(error.into())
                }
            };
            self.registry.0.given.store(false, Ordering::Release);
            match relieved {
                Ok(true) => {
                    self.registry.0.given.store(true, Ordering::Release);
                    return;
                }
                Ok(false) => tracing::warn!("the process that asked for the sockets has ended: this one goes on"),
                Err(error) => tracing::warn!("the sockets were not handed over: {error:#}"),
            }
        }
    }

    /// Gives the sockets to one process, and returns whether that process answers in the end.
    async fn send_sockets(&self, mut stream: UnixStream) -> Result<bool> {
        check_user(&stream)?;
        let mut request = [0; REQUEST.len()];
        timeout(STEP_TIMEOUT, stream.read_exact(&mut request)).await.context("nothing was asked")??;
        ensure!(request == REQUEST, "what was asked is not understood: another version of headless-dns?");
        let sockets = self.registry.copies().context("cannot copy the sockets")?;
        self.registry.0.given.store(true, Ordering::Release);
        tracing::info!(
            sockets = sockets.len(),
            "another process takes the sockets: this one answers until that one does"
        );
        let sending = async {
            stream.write_all(&u32::try_from(sockets.len())?.to_be_bytes()).await?;
            for part in sockets.chunks(fds::MAX_SOCKETS_PER_MESSAGE) {
                stream.async_io(Interest::WRITABLE, || fds::send(&stream, part)).await?;
            }
            anyhow::Ok(())
        };
        timeout(STEP_TIMEOUT, sending).await.context("they are not taken")??;
        drop(sockets);
        // No time limit: the other process reads its source first.
        match stream.read_u8().await {
            Ok(CONFIRMATION) => {
                *self.registry.successor() = Some(stream);
                Ok(true)
            }
            Ok(_) => bail!("what it said is not understood: another version of headless-dns?"),
            Err(_) => Ok(false),
        }
    }
}

impl Drop for TakeoverListener {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The process that answers until this one does.
pub struct Predecessor {
    stream: UnixStream,
    /// Dropped when the predecessor has stopped reading the QUIC sockets, or has ended.
    release: watch::Sender<()>,
}

/// Asks the process at `path` for its sockets; `None` if there is none.
///
/// # Errors
///
/// A process is there and gives no sockets, or the path is not a Unix socket. The error names the path.
pub async fn request_takeover(path: &Path) -> Result<Option<(Predecessor, InheritedSockets)>> {
    let failed = || format!("cannot ask for sockets at {}", path.display());
    check_socket(path).with_context(failed)?;
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        // There was no server, or it was killed and left the file behind.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error).with_context(failed),
    };
    let received = timeout(STEP_TIMEOUT, take(stream)).await.context("the process there does not answer").flatten();
    received.map(Some).with_context(|| format!("cannot take over at {}", path.display()))
}

/// Checks that the path has a Unix socket or nothing, because a new socket is renamed over it.
fn check_socket(path: &Path) -> Result<()> {
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found?.file_type(),
    };
    ensure!(found.is_socket(), "it is {}, and a Unix socket is meant: name another path", regular_file::kind(found));
    Ok(())
}

async fn take(mut stream: UnixStream) -> Result<(Predecessor, InheritedSockets)> {
    check_user(&stream)?;
    stream.write_all(&REQUEST).await?;
    let count = stream.read_u32().await.context("the process there gives no sockets; its log says why")? as usize;
    let mut sockets = Vec::new();
    while sockets.len() < count {
        sockets.extend(stream.async_io(Interest::READABLE, || fds::receive(&stream)).await?);
    }
    let (sender, release) = SocketRelease::new();
    Ok((Predecessor { stream, release: sender }, InheritedSockets::sort(sockets)?.with_release(release)))
}

impl Predecessor {
    /// Completes once the process has ended without being relieved. Cancel-safe.
    pub async fn has_ended(&mut self) {
        // The process sends nothing before it is relieved: the read ends with the connection.
        let _ = self.stream.read_u8().await;
    }

    /// Confirms that this process answers, and completes when the predecessor has stopped reading the QUIC sockets, which
    /// this process then reads.
    ///
    /// # Errors
    ///
    /// The predecessor has ended.
    pub async fn confirm_takeover(self) -> io::Result<()> {
        let Self { mut stream, release } = self;
        stream.write_all(&[CONFIRMATION]).await?;
        if timeout(RELEASE_TIMEOUT, stream.read_u8()).await.is_err() {
            tracing::warn!("the previous process has not stopped reading the QUIC sockets: packets may be lost to it");
        }
        drop(release);
        Ok(())
    }
}

/// Checks that the peer belongs to this process's user or to root.
fn check_user(stream: &UnixStream) -> Result<()> {
    let (theirs, ours) = (stream.peer_cred()?.uid(), fds::own_user());
    ensure!(theirs == ours || theirs == 0, "the process there is of user {theirs}, this one of {ours}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a server's UDP socket, its registration, and the Unix socket at which it can be asked for.
    fn offered(folder: &Path) -> (UdpSocket, SocketRegistration, TakeoverListener) {
        let (socket, registry) = (UdpSocket::bind("127.0.0.1:0").unwrap(), SocketRegistry::default());
        let registered = registry.register(std::slice::from_ref(&socket), None).unwrap();
        (socket, registered, TakeoverListener::bind(&folder.join("takeover"), registry).unwrap())
    }

    #[tokio::test]
    async fn replaces_sockets_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "kept").unwrap();
        for (path, found) in [(file.as_path(), "a regular file"), (folder.path(), "a folder")] {
            let shown = path.display();
            let sentence = format!("it is {found}, and a Unix socket is meant: name another path");
            let error = request_takeover(path).await.err().unwrap();
            assert_eq!(format!("{error:#}"), format!("cannot ask for sockets at {shown}: {sentence}"));
            let error = TakeoverListener::bind(path, SocketRegistry::default()).err().unwrap();
            assert_eq!(format!("{error:#}"), format!("cannot offer the sockets at {shown}: {sentence}"));
        }
        assert_eq!(fs::read(&file).unwrap(), b"kept");
    }

    #[tokio::test]
    async fn releases_quic_sockets_when_last_registration_ends() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, registered, offer) = offered(folder.path());
        let registry = registered.registry.clone();
        let another = registry.register(std::slice::from_ref(&socket), None).unwrap();
        let releasing = async {
            offer.taken_over().await;
            drop(another);
            assert!(registry.successor().is_some(), "a socket is still registered");
            drop(registered);
            assert!(registry.successor().is_none());
        };
        let taking = async {
            let (predecessor, inherited) = request_takeover(&folder.path().join("takeover")).await.unwrap().unwrap();
            assert_eq!(inherited.addresses(), [socket.local_addr().unwrap()]);
            predecessor.confirm_takeover().await.unwrap();
            inherited.release().unwrap().wait().await;
        };
        timeout(STEP_TIMEOUT, async { tokio::join!(releasing, taking) }).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn takes_quic_sockets_of_hanging_predecessor_after_timeout() {
        let folder = tempfile::tempdir().unwrap();
        let (_socket, _registered, offer) = offered(folder.path());
        let taking = async {
            let (predecessor, inherited) = request_takeover(&folder.path().join("takeover")).await.unwrap().unwrap();
            predecessor.confirm_takeover().await.unwrap();
            inherited.release().unwrap().wait().await;
        };
        tokio::join!(offer.taken_over(), taking);
    }
}
