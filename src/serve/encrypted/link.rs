//! The stream under HTTP/2, as it is lent to h2: what passed over it, and what came in part.
//!
//! h2 keeps a part of a frame until the rest has come, and a part of a head until its last CONTINUATION (RFC 9113 section
//! 4.3), and says nothing of either. So the lengths and flags of frames are read here on their way (section 4.1). And a
//! connection that floods takes its turns with the others: h2 reads until nothing is there, so here it is said that
//! nothing is. Not here: what is in a frame.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::Instant;

use crate::serve::connection::Stream;

/// How many reads before the others have their turn.
const READS: usize = 16;
/// What a client begins with, in octets (RFC 9113 section 3.4).
const PREFACE: usize = 24;
/// Length, type, flags, stream.
const HEADER: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// A stream.
pub(super) struct Link<S> {
    stream: S,
    gauge: Arc<Gauge>,
}

impl<S: Stream> Link<S> {
    pub(super) fn new(stream: S, gauge: Arc<Gauge>) -> Self {
        Self { stream, gauge }
    }

    /// Says that nothing more will come, and waits until the client says so too.
    pub(super) async fn finish(&mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        // Not in the task: it would be room that every connection has.
        let mut room = vec![0; 1024];
        while let Ok(1..) = self.stream.read(&mut room).await {}
    }
}

/// What passed over a stream. One task reads and writes it.
#[derive(Default)]
pub(super) struct Gauge(Mutex<Passed>);

#[derive(Default)]
struct Passed {
    /// In this turn.
    reads: usize,
    /// Octets that the stream took.
    taken: u64,
    /// It takes no more for now.
    is_blocked: bool,
    part: Part,
    /// The same of what is under HTTP/2: since when, and how many octets.
    under: Option<(Instant, usize)>,
}

impl Gauge {
    pub(super) fn begin_turn(&self) {
        self.passed().reads = 0;
    }

    /// How much the stream had taken, if it takes no more for now.
    pub(super) fn blocked(&self) -> Option<u64> {
        let passed = self.passed();
        passed.is_blocked.then_some(passed.taken)
    }

    /// Since when something has been coming that is not complete.
    pub(super) fn begun(&self) -> Option<Instant> {
        let passed = self.passed();
        let under = passed.under.map(|(since, _)| since);
        passed.part.since.into_iter().chain(under).min()
    }

    /// How many octets of it are here.
    pub(super) fn held(&self) -> usize {
        let passed = self.passed();
        passed.part.held() + passed.under.map_or(0, |(_, octets)| octets)
    }

    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        let mut passed = self.passed();
        passed.is_blocked = written.is_pending();
        if let Poll::Ready(Ok(count)) = written {
            passed.taken += *count as u64;
        }
    }

    fn passed(&self) -> MutexGuard<'_, Passed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was read of a frame, or of a head, that is not complete.
#[derive(Default)]
struct Part {
    /// The preface is behind us.
    greeted: bool,
    header: [u8; HEADER],
    /// How many octets of the frame, with its header; 0 between two frames.
    read: usize,
    /// How many octets of frames before it that are of the same head.
    head: usize,
    since: Option<Instant>,
}

impl Part {
    fn read(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let wanted = self.length() - self.read;
            let (now, rest) = octets.split_at(wanted.min(octets.len()));
            if self.greeted && self.read < HEADER {
                self.header[self.read..][..now.len()].copy_from_slice(now);
            }
            self.read += now.len();
            octets = rest;
            if self.is_complete() {
                self.end_frame();
            }
        }
        if self.held() > 0 && self.since.is_none() {
            self.since = Some(Instant::now());
        }
    }

    /// Up to where its length is known.
    fn length(&self) -> usize {
        let [high, middle, low, ..] = self.header;
        match self.read {
            _ if !self.greeted => PREFACE,
            ..HEADER => HEADER,
            _ => HEADER + u32::from_be_bytes([0, high, middle, low]) as usize,
        }
    }

    fn is_complete(&self) -> bool {
        self.read == self.length() && (!self.greeted || self.read >= HEADER)
    }

    fn end_frame(&mut self) {
        let [_, _, _, kind, flags, ..] = self.header;
        let goes_on = self.greeted && matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS == 0;
        self.head = if goes_on { self.head + self.read } else { 0 };
        self.since = self.since.filter(|_| goes_on);
        (self.greeted, self.read) = (true, 0);
    }

    fn held(&self) -> usize {
        self.read + self.head
    }
}

impl<S: Stream> AsyncRead for Link<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, gauge } = &mut *self;
        let mut passed = gauge.passed();
        if passed.reads == READS {
            // There may be more, but the others too want to be served.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        passed.reads += 1;
        let before = room.filled().len();
        let read = Pin::new(&mut *stream).poll_read(context, room);
        passed.part.read(&room.filled()[before..]);
        passed.under = stream.part();
        read
    }
}

impl<S: Stream> AsyncWrite for Link<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, octets);
        self.gauge.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, octets);
        self.gauge.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.gauge.passed().is_blocked = flushed.is_pending();
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
    fn parts_are_known_however_they_come() {
        let frames = [
            vec![b'P'; PREFACE],
            frame(4, 0, 0),
            frame(HEADERS, END_HEADERS, 40),
            frame(0, 1, 16_384),
            frame(HEADERS, 0, 10),
            frame(CONTINUATION, 0, 0),
            frame(CONTINUATION, END_HEADERS, 300),
            frame(6, 0, 8),
        ];
        // Where something ends: the three frames of one head end together.
        let mut ends = vec![0];
        for (number, frame) in frames.iter().enumerate() {
            let at = if matches!(number, 5 | 6) { ends.pop().unwrap() } else { *ends.last().unwrap() };
            ends.push(at + frame.len());
        }
        ends.insert(0, 0);
        let all = frames.concat();
        for size in [1, 2, 3, 8, 9, 10, 23, 24, 25, 100, 4096, 20_000] {
            let (mut part, mut at) = (Part::default(), 0);
            for octets in all.chunks(size) {
                part.read(octets);
                at += octets.len();
                let begin = ends.iter().rev().find(|end| **end <= at).unwrap();
                assert_eq!((part.held(), part.since.is_some()), (at - begin, at > *begin), "{at} of chunks of {size}");
            }
            assert_eq!(at, *ends.last().unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn more_of_a_head_does_not_make_it_younger() {
        let mut part = Part { greeted: true, ..Part::default() };
        let second = std::time::Duration::from_secs(1);
        part.read(&frame(HEADERS, 0, 10));
        let begun = part.since;
        tokio::time::advance(second).await;
        part.read(&frame(CONTINUATION, 0, 10));
        assert_eq!((part.since, part.held()), (begun, 38));
        part.read(&[frame(CONTINUATION, END_HEADERS, 10), vec![0]].concat());
        assert_eq!(part.since, begun.map(|begun| begun + second), "that of the next frame");
        part.read(&frame(6, 0, 0)[1..]);
        assert_eq!((part.since, part.held()), (None, 0));
    }
}
