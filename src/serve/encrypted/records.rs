//! The TCP connection under TLS: it knows whether a part of a record was read (RFC 8446 section 5.1).
//!
//! TLS keeps such a part until the rest has come, up to 16 KiB of it, and says nothing of it. So the time in which a
//! message must be complete, and the account of what is held, would begin with the record's end. Not here: what is in a
//! record.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Type, version, and the length of what follows.
const HEADER: usize = 5;

/// A TCP connection.
pub(super) struct Records {
    stream: TcpStream,
    part: Part,
}

impl Records {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, part: Part::default() }
    }

    /// Since when a record has been read in parts.
    pub(super) fn begun(&self) -> Option<Instant> {
        self.part.since
    }

    /// How many octets of it were read.
    pub(super) fn held(&self) -> usize {
        self.part.read
    }
}

/// What was read of the record that is not complete.
#[derive(Debug, Default)]
struct Part {
    header: [u8; HEADER],
    /// How many octets of it, with its header; 0 between two records.
    read: usize,
    since: Option<Instant>,
}

impl Part {
    fn read(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let wanted = self.length() - self.read;
            let (now, rest) = octets.split_at(wanted.min(octets.len()));
            if self.read < HEADER {
                self.header[self.read..][..now.len()].copy_from_slice(now);
            }
            self.read += now.len();
            octets = rest;
            if self.read >= HEADER && self.read == self.length() {
                *self = Self::default();
            }
        }
        if self.read > 0 && self.since.is_none() {
            self.since = Some(Instant::now());
        }
    }

    /// Up to where its length is known.
    fn length(&self) -> usize {
        let [.., high, low] = self.header;
        if self.read < HEADER { HEADER } else { HEADER + usize::from(u16::from_be_bytes([high, low])) }
    }
}

impl AsyncRead for Records {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = room.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, room))?;
        self.part.read(&room.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Records {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_known_however_they_come() {
        let record = |length: u16| [&[0x17, 3, 3][..], &length.to_be_bytes(), &vec![7; usize::from(length)]].concat();
        let all = [record(0), record(1), record(300), record(16_640), record(2)].concat();
        let ends = [0, 5, 11, 316, 16_961, 16_968];
        for size in [1, 2, 4, 5, 6, 7, 100, 4096, 20_000] {
            let mut part = Part::default();
            let mut at = 0;
            for octets in all.chunks(size) {
                part.read(octets);
                at += octets.len();
                let begin = ends.iter().rev().find(|end| **end <= at).unwrap();
                assert_eq!((part.read, part.since.is_some()), (at - begin, at > *begin), "{at} of chunks of {size}");
            }
            assert_eq!(at, ends[5]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn more_of_a_record_does_not_make_it_younger() {
        let mut part = Part::default();
        part.read(&[0x17, 3]);
        let begun = part.since;
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        part.read(&[3, 1, 0, 1]);
        assert_eq!((part.since, part.read), (begun, 6));
        part.read(&[0; 256]);
        assert!(part.since > begun, "one octet of the next");
        assert_eq!(part.read, 1);
    }
}
