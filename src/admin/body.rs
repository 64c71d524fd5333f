//! The body of a response: one text, or parts that come one by one while they are made.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::{Bytes, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::clock::{At, Clock};

/// What is sent.
pub(super) struct Body {
    what: What,
    /// Told when it is sent.
    clock: Option<Arc<Clock>>,
}

enum What {
    Whole(Option<Bytes>),
    /// The parts, and who makes them: it ends when nobody takes them any more.
    Parts(mpsc::Receiver<Bytes>, #[expect(dead_code, reason = "held, so that it has a parent")] JoinSet<()>),
}

impl Body {
    /// All of it.
    pub(super) fn whole(octets: impl Into<Bytes>) -> Self {
        Self { what: What::Whole(Some(octets.into())), clock: None }
    }

    /// As a thread makes it: `make` gets where the parts go, and learns there that nobody wants more.
    pub(super) fn in_parts(make: impl FnOnce(mpsc::Sender<Bytes>) + Send + 'static) -> Self {
        /// How many parts may wait for a slow reader.
        const WAITING: usize = 4;
        let (sender, parts) = mpsc::channel(WAITING);
        let mut makers = JoinSet::new();
        makers.spawn_blocking(move || make(sender));
        Self { what: What::Parts(parts, makers), clock: None }
    }

    /// The same, and `clock` is told how it goes on.
    pub(super) fn timed(mut self, clock: Arc<Clock>) -> Self {
        self.clock = Some(clock);
        self
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(clock) = &self.clock {
            clock.turn(At::Nothing);
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = match &mut self.what {
            What::Whole(octets) => Poll::Ready(octets.take()),
            What::Parts(parts, _) => parts.poll_recv(context),
        };
        if let (Poll::Ready(Some(_)), Some(clock)) = (&part, &self.clock) {
            clock.turn(At::Request);
        }
        part.map(|part| part.map(|octets| Ok(Frame::data(octets))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.what, What::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.what {
            What::Whole(octets) => SizeHint::with_exact(octets.as_ref().map_or(0, |octets| octets.len() as u64)),
            What::Parts(..) => SizeHint::default(),
        }
    }
}
