//! The TCP connection under TLS: limits the octets of a handshake, and tracks partial records.
//!
//! TLS buffers a partial record until it is complete, up to 16 KiB (RFC 8446 section 5.1), and a partial handshake
//! message, up to the 64 KiB that rustls allows, during the handshake and after it. rustls reports neither, so the
//! octets are counted here, before TLS reads them. Not here: the content of a record.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Length of a record header, in octets: type, version and payload length.
const RECORD_HEADER_BYTES: usize = 5;
/// Step by which the read buffer of rustls grows, and its minimum size, in octets.
const TLS_READ_BYTES: usize = 4 << 10;
/// Limit of the octets that a client sends in a handshake, and after it in records without application data.
pub(crate) const MAX_HANDSHAKE_BYTES: usize = 16 << 10;

/// A TCP connection that tracks the TLS records read from it.
pub(crate) struct TlsRecordStream {
    stream: TcpStream,
    partial: PartialRecord,
    /// Octets read since TLS last returned application data.
    without_data: usize,
    handshake: Handshake,
}

/// State of the handshake, as far as reads depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handshake {
    /// One more read is allowed.
    MayRead,
    /// TLS has to process the last read first: after the handshake another limit applies.
    HasRead,
    /// The handshake is complete, and reads are not limited.
    Complete,
}

/// Error of a read above [`MAX_HANDSHAKE_BYTES`].
#[derive(Debug)]
pub(crate) struct HandshakeTooLarge;

impl fmt::Display for HandshakeTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {MAX_HANDSHAKE_BYTES} octets of handshake messages")
    }
}

impl std::error::Error for HandshakeTooLarge {}

impl TlsRecordStream {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, partial: PartialRecord::default(), without_data: 0, handshake: Handshake::MayRead }
    }

    /// Allows the handshake its next read.
    pub(crate) fn begin_turn(&mut self) {
        self.handshake = Handshake::MayRead;
    }

    /// Lifts the limits of the handshake.
    pub(crate) fn complete_handshake(&mut self) {
        self.handshake = Handshake::Complete;
        self.without_data = self.partial.read;
    }

    /// Records that TLS returned application data, and so buffers no handshake message.
    pub(crate) fn note_data(&mut self) {
        self.without_data = 0;
    }

    /// Returns whether the client has exceeded the limit of records without application data.
    pub(crate) fn is_too_large(&self) -> bool {
        self.without_data.saturating_sub(self.partial.read) > MAX_HANDSHAKE_BYTES
    }

    /// Returns when the first octet of the partial record was read.
    pub(crate) fn started_at(&self) -> Option<Instant> {
        self.partial.since
    }

    /// Returns an upper bound of the octets that TLS buffers above the minimum size of its buffer.
    pub(crate) fn buffered_bytes(&self) -> usize {
        match self.without_data.max(self.partial.read) {
            0 => 0,
            // The buffer doubles when it grows.
            length => (length + TLS_READ_BYTES).next_power_of_two() - TLS_READ_BYTES,
        }
    }

    fn poll_handshake(&mut self, context: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.handshake == Handshake::HasRead {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let left = MAX_HANDSHAKE_BYTES.saturating_sub(self.without_data).min(room.remaining());
        if left == 0 {
            return Poll::Ready(Err(io::Error::other(HandshakeTooLarge)));
        }
        let mut limited = ReadBuf::new(room.initialize_unfilled_to(left));
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut limited))?;
        let count = limited.filled().len();
        room.advance(count);
        self.handshake = Handshake::HasRead;
        Poll::Ready(Ok(()))
    }
}

/// A partially read record.
#[derive(Debug, Default)]
struct PartialRecord {
    header: [u8; RECORD_HEADER_BYTES],
    /// Octets read, with the header; 0 between two records.
    read: usize,
    since: Option<Instant>,
}

impl PartialRecord {
    fn read(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let wanted = self.length() - self.read;
            let (now, rest) = octets.split_at(wanted.min(octets.len()));
            if self.read < RECORD_HEADER_BYTES {
                self.header[self.read..][..now.len()].copy_from_slice(now);
            }
            self.read += now.len();
            octets = rest;
            if self.read >= RECORD_HEADER_BYTES && self.read == self.length() {
                *self = Self::default();
            }
        }
        if self.read > 0 && self.since.is_none() {
            self.since = Some(Instant::now());
        }
    }

    /// Returns the length of the record with its header, or of the header until that is complete.
    fn length(&self) -> usize {
        let [.., high, low] = self.header;
        if self.read < RECORD_HEADER_BYTES {
            RECORD_HEADER_BYTES
        } else {
            RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]))
        }
    }
}

impl AsyncRead for TlsRecordStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = room.filled().len();
        match self.handshake {
            Handshake::Complete => ready!(Pin::new(&mut self.stream).poll_read(context, room))?,
            Handshake::MayRead | Handshake::HasRead => ready!(self.poll_handshake(context, room))?,
        }
        let octets = &room.filled()[before..];
        self.partial.read(octets);
        self.without_data += octets.len();
        Poll::Ready(Ok(()))
    }
}

forward_async_write!(TlsRecordStream, stream);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TlsRecordStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (client.unwrap(), TlsRecordStream::new(accepted.unwrap().0))
    }

    #[tokio::test]
    async fn handshake_fails_above_octet_limit() {
        let (mut client, mut records) = pair().await;
        client.write_all(&vec![0; 2 * MAX_HANDSHAKE_BYTES]).await.unwrap();
        let mut room = [0; 4096];
        let mut all = 0;
        while all < MAX_HANDSHAKE_BYTES {
            records.begin_turn();
            all += records.read(&mut room).await.unwrap();
            let mut context = Context::from_waker(std::task::Waker::noop());
            assert!(Pin::new(&mut records).poll_read(&mut context, &mut ReadBuf::new(&mut room)).is_pending());
        }
        assert_eq!((all, records.buffered_bytes()), (MAX_HANDSHAKE_BYTES, 28 << 10));
        records.begin_turn();
        let error = records.read(&mut room).await.unwrap_err();
        assert!(error.get_ref().unwrap().is::<HandshakeTooLarge>(), "{error}");
    }

    /// Handshake messages after the handshake: rustls buffers a partial one, as during it.
    #[tokio::test]
    async fn limits_records_without_data() {
        let (mut client, mut records) = pair().await;
        records.complete_handshake();
        let record = [&[0x17, 3, 3, 4, 0][..], &[7; 1024]].concat();
        let mut room = vec![0; record.len()];
        for number in 1..=40 {
            client.write_all(&record).await.unwrap();
            records.read_exact(&mut room).await.unwrap();
            assert_eq!(records.is_too_large(), number > 15, "{number}");
        }
        records.note_data();
        assert!(!records.is_too_large() && records.buffered_bytes() == 0);
        // TLS limits a partial record itself.
        client.write_all(&[&[0x17, 3, 3, 0x41, 0][..], &[7; 16_600]].concat()).await.unwrap();
        records.read_exact(&mut vec![0; 16_605]).await.unwrap();
        assert!(!records.is_too_large());
    }

    #[test]
    fn finds_records_in_any_fragmentation() {
        let record = |length: u16| [&[0x17, 3, 3][..], &length.to_be_bytes(), &vec![7; usize::from(length)]].concat();
        let all = [record(0), record(1), record(300), record(16_640), record(2)].concat();
        let ends = [0, 5, 11, 316, 16_961, 16_968];
        for size in [1, 2, 4, 5, 6, 7, 100, 4096, 20_000] {
            let mut part = PartialRecord::default();
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
    async fn partial_record_keeps_its_deadline() {
        let mut part = PartialRecord::default();
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
