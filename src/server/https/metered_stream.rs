//! The stream under HTTP/2, as h2 borrows it: counts octets, tracks partial frames, and limits the reads of one poll.
//!
//! h2 buffers a partial frame until it is complete, and a partial field section until its last CONTINUATION (RFC 9113
//! section 4.3), and reports neither. So the lengths and flags of frames are parsed here on their way (section 4.1). h2
//! reads until the stream is empty; this stream returns `Pending` after a few reads, so that a flooding client does not
//! starve other connections. Not here: the content of frames.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::Instant;

use crate::server::stream::connection::Stream;
use headless_dns_core::lock::lock;

/// Limit of the reads in one poll, so that other tasks can run.
const READS_PER_POLL: usize = 16;
/// Length of the client's connection preface, in octets (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;
/// Length of a frame header, in octets: length, type, flags and stream (RFC 9113 section 4.1).
const FRAME_HEADER_BYTES: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// A stream whose reads and writes are measured.
pub(crate) struct MeteredStream<S> {
    stream: S,
    progress: Arc<IoProgress>,
}

impl<S: Stream> MeteredStream<S> {
    pub(crate) fn new(stream: S, progress: Arc<IoProgress>) -> Self {
        Self { stream, progress }
    }

    /// Shuts down the writing side, and reads until the client closes its own.
    pub(crate) async fn finish(&mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        // On the heap: in the future it would be part of every connection's task.
        let mut room = vec![0; 1024];
        while let Ok(1..) = self.stream.read(&mut room).await {}
    }
}

/// I/O progress of a stream, shared by the stream, which h2 borrows, and the connection. One task uses both.
#[derive(Default)]
pub(crate) struct IoProgress(Mutex<IoCounters>);

#[derive(Default)]
struct IoCounters {
    /// Reads in this poll.
    reads: usize,
    /// Octets written.
    written: u64,
    /// The last write returned `Pending`.
    is_blocked: bool,
    part: PartialFrame,
    /// Partial TLS record under HTTP/2: the time of its first octet, and its octets so far.
    tls_record: Option<(Instant, usize)>,
}

impl IoProgress {
    pub(crate) fn reset_budget(&self) {
        self.counters().reads = 0;
    }

    /// Returns the octets written so far, if the last write returned `Pending`.
    pub(crate) fn blocked(&self) -> Option<u64> {
        let counters = self.counters();
        counters.is_blocked.then_some(counters.written)
    }

    /// Returns when the first octet of the partial frame or record was read.
    pub(crate) fn started_at(&self) -> Option<Instant> {
        let counters = self.counters();
        let tls_record = counters.tls_record.map(|(since, _)| since);
        counters.part.since.into_iter().chain(tls_record).min()
    }

    /// Returns the octets of the partial frame and record.
    pub(crate) fn buffered_bytes(&self) -> usize {
        let counters = self.counters();
        counters.part.buffered_bytes() + counters.tls_record.map_or(0, |(_, octets)| octets)
    }

    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        let mut counters = self.counters();
        counters.is_blocked = written.is_pending();
        if let Poll::Ready(Ok(count)) = written {
            counters.written += *count as u64;
        }
    }

    fn counters(&self) -> MutexGuard<'_, IoCounters> {
        lock(&self.0)
    }
}

/// A partially read frame or field section.
#[derive(Default)]
struct PartialFrame {
    /// The preface is complete.
    has_preface: bool,
    header: [u8; FRAME_HEADER_BYTES],
    /// Octets read of the frame, with its header; 0 between two frames.
    read: usize,
    /// Octets of earlier frames of the same field section.
    head: usize,
    since: Option<Instant>,
}

impl PartialFrame {
    fn read(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let wanted = self.length() - self.read;
            let (now, rest) = octets.split_at(wanted.min(octets.len()));
            if self.has_preface && self.read < FRAME_HEADER_BYTES {
                self.header[self.read..][..now.len()].copy_from_slice(now);
            }
            self.read += now.len();
            octets = rest;
            if self.is_complete() {
                self.end_frame();
            }
        }
        if self.buffered_bytes() > 0 && self.since.is_none() {
            self.since = Some(Instant::now());
        }
    }

    /// Returns the length of the preface or frame, or of the frame header until that is complete.
    fn length(&self) -> usize {
        let [high, middle, low, ..] = self.header;
        match self.read {
            _ if !self.has_preface => PREFACE_BYTES,
            ..FRAME_HEADER_BYTES => FRAME_HEADER_BYTES,
            _ => FRAME_HEADER_BYTES + u32::from_be_bytes([0, high, middle, low]) as usize,
        }
    }

    fn is_complete(&self) -> bool {
        self.read == self.length() && (!self.has_preface || self.read >= FRAME_HEADER_BYTES)
    }

    fn end_frame(&mut self) {
        let [_, _, _, kind, flags, ..] = self.header;
        let goes_on = self.has_preface && matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS == 0;
        self.head = if goes_on { self.head + self.read } else { 0 };
        self.since = self.since.filter(|_| goes_on);
        (self.has_preface, self.read) = (true, 0);
    }

    fn buffered_bytes(&self) -> usize {
        self.read + self.head
    }
}

impl<S: Stream> AsyncRead for MeteredStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, progress } = &mut *self;
        let mut counters = progress.counters();
        if counters.reads == READS_PER_POLL {
            // There may be more to read, but other tasks have to run.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        counters.reads += 1;
        let before = room.filled().len();
        let read = Pin::new(&mut *stream).poll_read(context, room);
        counters.part.read(&room.filled()[before..]);
        counters.tls_record = stream.partial();
        read
    }
}

impl<S: Stream> AsyncWrite for MeteredStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, octets);
        self.progress.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, octets);
        self.progress.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.progress.counters().is_blocked = flushed.is_pending();
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let [_, high, middle, low] = (length as u32).to_be_bytes();
        [&[high, middle, low, kind, flags, 0, 0, 0, 1][..], &vec![0xff; length]].concat()
    }

    #[test]
    fn finds_frames_in_any_fragmentation() {
        let frames = [
            vec![b'P'; PREFACE_BYTES],
            frame(4, 0, 0),
            frame(HEADERS, END_HEADERS, 40),
            frame(0, 1, 16_384),
            frame(HEADERS, 0, 10),
            frame(CONTINUATION, 0, 0),
            frame(CONTINUATION, END_HEADERS, 300),
            frame(6, 0, 8),
        ];
        // Ends of complete units: the three frames of one field section end together.
        let mut ends = vec![0];
        for (number, frame) in frames.iter().enumerate() {
            let at = if matches!(number, 5 | 6) { ends.pop().unwrap() } else { *ends.last().unwrap() };
            ends.push(at + frame.len());
        }
        ends.insert(0, 0);
        let all = frames.concat();
        for size in [1, 2, 3, 8, 9, 10, 23, 24, 25, 100, 4096, 20_000] {
            let (mut part, mut at) = (PartialFrame::default(), 0);
            for octets in all.chunks(size) {
                part.read(octets);
                at += octets.len();
                let begin = ends.iter().rev().find(|end| **end <= at).unwrap();
                assert_eq!(
                    (part.buffered_bytes(), part.since.is_some()),
                    (at - begin, at > *begin),
                    "{at} of chunks of {size}"
                );
            }
            assert_eq!(at, *ends.last().unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn partial_head_keeps_its_deadline() {
        let mut part = PartialFrame { has_preface: true, ..PartialFrame::default() };
        let second = std::time::Duration::from_secs(1);
        part.read(&frame(HEADERS, 0, 10));
        let begun = part.since;
        tokio::time::advance(second).await;
        part.read(&frame(CONTINUATION, 0, 10));
        assert_eq!((part.since, part.buffered_bytes()), (begun, 38));
        part.read(&[frame(CONTINUATION, END_HEADERS, 10), vec![0]].concat());
        assert_eq!(part.since, begun.map(|begun| begun + second), "that of the next frame");
        part.read(&frame(6, 0, 0)[1..]);
        assert_eq!((part.since, part.buffered_bytes()), (None, 0));
    }
}
