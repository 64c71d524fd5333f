//! Datagrams that a process has read and that are for the one that takes its place.
//!
//! Over UDP alone it is the same who answers; over QUIC it is not: a connection is known to one of the two, and both
//! would read from one socket. So as long as the old one has connections, it alone reads, and passes on what is not for
//! them, over the Unix socket that the sockets came over:
//!
//! ```text
//!   clients ──▶ the socket ──▶ the old one ──┬─▶ its connections, until they have ended
//!                                            └─▶ Successor ──▶ Relay ──▶ Inbox of the new one
//!   and from then on ──────────────────────────────────────────────────▶ the new one
//! ```
//!
//! Not here: who is whose successor (`takeover.rs`), and which datagrams are for whom (`encrypted/packets.rs`).

#![cfg_attr(not(feature = "quic"), allow(dead_code, reason = "nobody has anything to pass on"))]

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

/// How many datagrams may wait for the other process. What comes then is lost, as where a socket is full.
const WAITING: usize = 1024;
/// How long the other process may take for one.
const PATIENCE: Duration = Duration::from_secs(1);
/// When the old one has not come to its end by now, the new one reads the sockets all the same: a little longer than what
/// is in flight may take ([`super::Limits::drain`]).
const LONGEST: Duration = Duration::from_secs(6);

/// A datagram, and what the kernel says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parcel {
    pub(super) from: SocketAddr,
    /// Which of our addresses it came to, where the kernel says so.
    pub(super) to: Option<IpAddr>,
    /// Explicit congestion notification: two bits (RFC 3168 section 5).
    pub(super) ecn: u8,
    pub(super) octets: Vec<u8>,
}

/// What was passed on for one address. It ends when the socket there is for this process alone.
pub(super) type Inbox = mpsc::Receiver<Parcel>;

/// The process that takes this one's place, where it takes datagrams.
#[derive(Debug)]
pub(super) struct Successor(Mutex<UnixStream>);

impl Successor {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self(Mutex::new(stream))
    }

    /// Where datagrams for it are put, and who passes them on: until nobody can put any more. Then the socket at this
    /// address is the other's.
    pub(super) fn pass_on(&self, at: SocketAddr) -> (mpsc::Sender<Parcel>, impl Future<Output = ()>) {
        let (sender, mut parcels) = mpsc::channel(WAITING);
        let pass = async move {
            while let Some(parcel) = parcels.recv().await {
                if self.write(at, Some(&parcel)).await.is_err() {
                    // It has ended, or hangs.
                    return;
                }
            }
            let _ = self.write(at, None).await;
        };
        (sender, pass)
    }

    async fn write(&self, at: SocketAddr, parcel: Option<&Parcel>) -> io::Result<()> {
        let mut stream = self.0.lock().await;
        timeout(PATIENCE, write(&mut *stream, at, parcel)).await?
    }
}

/// What comes from the process whose place this one has taken.
#[derive(Debug)]
pub struct Relay {
    stream: BufReader<UnixStream>,
    outlets: Outlets,
}

/// Where it goes to, by address.
pub(super) type Outlets = HashMap<SocketAddr, mpsc::Sender<Parcel>>;

/// One inbox for each of these addresses.
pub(super) fn inboxes(addresses: impl IntoIterator<Item = SocketAddr>) -> (Outlets, HashMap<SocketAddr, Inbox>) {
    let pair = |address| {
        let (outlet, inbox) = mpsc::channel(WAITING);
        ((address, outlet), (address, inbox))
    };
    addresses.into_iter().map(pair).unzip()
}

impl Relay {
    pub(super) fn new(stream: UnixStream, outlets: Outlets) -> Self {
        Self { stream: BufReader::new(stream), outlets }
    }

    /// Passes everything on to where it is read, until the other process has ended, or has nothing more at any address.
    pub async fn run(self) {
        let Self { mut stream, mut outlets } = self;
        let passing = async {
            while !outlets.is_empty() {
                match read(&mut stream).await? {
                    // Where it is full, or nobody speaks QUIC there any more, it is lost.
                    (at, Some(parcel)) => _ = outlets.get(&at).map(|outlet| outlet.try_send(parcel)),
                    (at, None) => _ = outlets.remove(&at),
                }
            }
            io::Result::Ok(())
        };
        match timeout(LONGEST, passing).await {
            Ok(Err(error)) if error.kind() == ErrorKind::InvalidData => {
                tracing::warn!("what the process before passes on is not understood: {error}");
            }
            // The end of the other process is the end of what it reads.
            Ok(_) => {}
            Err(_) => tracing::warn!("the process before goes on reading: packets of QUIC may be lost to it"),
        }
    }
}

/// A line of text and the datagram, each behind its length: two octets. Without a datagram: the socket is the other's.
async fn write(stream: &mut (impl AsyncWrite + Unpin), at: SocketAddr, parcel: Option<&Parcel>) -> io::Result<()> {
    let (line, octets) = match parcel {
        None => (at.to_string(), &[][..]),
        Some(Parcel { from, to: Some(to), ecn, octets }) => (format!("{at} {from} {ecn} {to}"), &octets[..]),
        Some(Parcel { from, to: None, ecn, octets }) => (format!("{at} {from} {ecn}"), &octets[..]),
    };
    let mut frame = Vec::with_capacity(4 + line.len() + octets.len());
    for part in [line.as_bytes(), octets] {
        let length = u16::try_from(part.len()).map_err(io::Error::other)?;
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(part);
    }
    stream.write_all(&frame).await
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(SocketAddr, Option<Parcel>)> {
    let line = String::from_utf8(read_part(stream).await?).map_err(invalid)?;
    let octets = read_part(stream).await?;
    let words: Vec<_> = line.split(' ').collect();
    let (at, from, ecn, to) = match words[..] {
        [at] => return Ok((at.parse().map_err(invalid)?, None)),
        [at, from, ecn] => (at, from, ecn, None),
        [at, from, ecn, to] => (at, from, ecn, Some(to)),
        _ => return Err(invalid(line)),
    };
    let parcel = Parcel {
        from: from.parse().map_err(invalid)?,
        to: to.map(str::parse).transpose().map_err(invalid)?,
        ecn: ecn.parse().map_err(invalid)?,
        octets,
    };
    Ok((at.parse().map_err(invalid)?, Some(parcel)))
}

async fn read_part(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut part = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut part).await?;
    Ok(part)
}

fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcel(from: &str, to: Option<&str>, length: usize) -> Parcel {
        Parcel {
            from: from.parse().unwrap(),
            to: to.map(|to| to.parse().unwrap()),
            ecn: (length % 4) as u8,
            octets: vec![7; length],
        }
    }

    #[tokio::test]
    async fn datagrams_arrive_as_they_were() {
        let (old, new) = UnixStream::pair().unwrap();
        let [one, other] = ["127.0.0.1:853", "[::1]:853"].map(|at| at.parse().unwrap());
        let (outlets, mut inboxes) = inboxes([one, other]);
        let parcels = [
            parcel("192.0.2.1:53", None, 1200),
            parcel("[fe80::1%3]:1", Some("2001:db8::1"), 65_527),
            parcel("[2001:db8::2]:65535", Some("127.0.0.1"), 21),
        ];
        let successor = Successor::new(old);
        let sending = async {
            for (at, parcels) in [(one, &parcels[..]), (other, &[])] {
                let (sender, passing) = successor.pass_on(at);
                let putting = async move {
                    for parcel in parcels {
                        sender.send(parcel.clone()).await.unwrap();
                    }
                };
                tokio::join!(putting, passing);
            }
        };
        // Ends although the stream is still open: nothing more comes at either address.
        tokio::join!(sending, Relay::new(new, outlets).run());
        let mut inbox = inboxes.remove(&one).unwrap();
        for parcel in parcels {
            assert_eq!(inbox.recv().await, Some(parcel));
        }
        assert_eq!(inbox.recv().await, None, "the socket is the other's");
        assert_eq!(inboxes.remove(&other).unwrap().recv().await, None);
    }

    #[tokio::test]
    async fn whatever_else_comes_is_the_end() {
        for octets in [&b""[..], &[0], &[0, 3, b'x', b' ', b'y', 0, 0], &[0, 1, 0xff, 0, 0], &[0, 0, 0, 0]] {
            let (mut old, new) = UnixStream::pair().unwrap();
            let at = "127.0.0.1:853".parse().unwrap();
            let (outlets, mut inboxes) = inboxes([at]);
            old.write_all(octets).await.unwrap();
            drop(old);
            Relay::new(new, outlets).run().await;
            assert_eq!(inboxes.get_mut(&at).unwrap().recv().await, None, "{octets:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let (_old, new) = UnixStream::pair().unwrap();
        let at = "127.0.0.1:853".parse().unwrap();
        let (outlets, mut inboxes) = inboxes([at]);
        Relay::new(new, outlets).run().await;
        assert_eq!(inboxes.get_mut(&at).unwrap().recv().await, None);
    }
}
