//! The body of a response: one text, or a stream of parts. Not here: the contents (`mod.rs`, `api.rs`).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::{Bytes, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::clock::{PhaseTimer, RequestPhase};

/// A response body.
pub(super) struct Body {
    kind: BodyKind,
    /// Clock of the connection. The body reports each part, and its own end.
    timer: Option<Arc<PhaseTimer>>,
}

enum BodyKind {
    Whole(Option<Bytes>),
    /// A receiver of parts and the task that sends them. The task ends once the receiver is dropped.
    Parts(mpsc::Receiver<Bytes>, #[expect(dead_code, reason = "held, so that it has a parent")] JoinSet<()>),
}

impl Body {
    /// Makes a body of one text.
    pub(super) fn whole(octets: impl Into<Bytes>) -> Self {
        Self { kind: BodyKind::Whole(Some(octets.into())), timer: None }
    }

    /// Makes a body of the parts that `make` sends, on a thread of its own. Sending fails once the client is gone.
    pub(super) fn in_parts(make: impl FnOnce(mpsc::Sender<Bytes>) + Send + 'static) -> Self {
        /// Number of parts that wait for a slow client.
        const WAITING: usize = 4;
        let (sender, parts) = mpsc::channel(WAITING);
        let mut makers = JoinSet::new();
        makers.spawn_blocking(move || make(sender));
        Self { kind: BodyKind::Parts(parts, makers), timer: None }
    }

    /// Sets the clock of the connection.
    pub(super) fn timed(mut self, clock: Arc<PhaseTimer>) -> Self {
        self.timer = Some(clock);
        self
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(clock) = &self.timer {
            clock.enter_phase(RequestPhase::Nothing);
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
        let part = match &mut self.kind {
            BodyKind::Whole(octets) => Poll::Ready(octets.take()),
            BodyKind::Parts(parts, _) => parts.poll_recv(context),
        };
        if let (Poll::Ready(Some(_)), Some(clock)) = (&part, &self.timer) {
            clock.enter_phase(RequestPhase::Request);
        }
        part.map(|part| part.map(|octets| Ok(Frame::data(octets))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.kind, BodyKind::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            BodyKind::Whole(octets) => SizeHint::with_exact(octets.as_ref().map_or(0, |octets| octets.len() as u64)),
            BodyKind::Parts(..) => SizeHint::default(),
        }
    }
}
