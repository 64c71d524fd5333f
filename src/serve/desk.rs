//! Where messages that come over a stream are answered: the large buffers, and what the responder needs.
//!
//! They belong to whoever is at work and not to connections, of which an idle one holds none of it. Messages stand behind
//! their lengths (RFC 1035 section 4.2.2), whatever the stream is. Not here: how octets come and go (`connection.rs`,
//! `encrypted/`), and how a message is answered (`answer.rs`).

use std::sync::Arc;
use std::time::Instant;

use super::Kind;
use super::forward::{self, Question};
use super::query_log::{Tap, Ticket};
use crate::answer::{Peer, Pending, Reply, Responder, Worker};
use crate::metrics::{Counters, Event};

/// The largest message: its length is two octets (RFC 1035 section 4.2.2).
pub(super) const MESSAGE: usize = 65_535;
/// How much one read asks for.
pub(super) const READ: usize = 16 << 10;
/// Responses are written when there are so many octets of them.
pub(super) const FULL: usize = 16 << 10;

/// The buffers, and what the responder needs. For one connection at a time.
pub(super) struct Desk {
    pub(super) worker: Worker,
    pub(super) tap: Tap,
    /// What is spoken where it stands.
    kind: Kind,
    /// Room for a message of the largest size that is nearly complete, and for one more read.
    pub(super) input: Box<[u8]>,
    /// Room for one response of the largest size when it is nearly full.
    pub(super) output: Box<[u8]>,
}

/// What became of the octets on the desk.
pub(super) struct Answered {
    /// How many were answered.
    pub(super) read: usize,
    /// How many octets of responses there are.
    pub(super) written: usize,
    /// The client sent what deserves no response. Nothing behind it is answered.
    pub(super) refused: bool,
}

impl Desk {
    pub(super) fn new(counters: Arc<Counters>, tap: Tap, kind: Kind) -> Self {
        let input = vec![0; 2 + MESSAGE + READ].into();
        let output = vec![0; FULL + 2 + MESSAGE].into();
        Self { worker: Worker::new(counters), tap, kind, input, output }
    }

    /// Answers the complete messages of `input[..filled]`, in their order, until there is enough to be written. What
    /// others have to answer is handed over.
    pub(super) fn answer(
        &mut self,
        responder: &Responder,
        peer: Peer,
        filled: usize,
        mut hand_over: impl FnMut(Box<Pending>, Option<Box<Ticket>>) -> Result<(), Question>,
    ) -> Answered {
        let mut answered = Answered { read: 0, written: 0, refused: false };
        let transport = self.kind.transport();
        let received = Event::received(transport.proto());
        self.worker.begin_batch(Instant::now());
        while answered.written < FULL
            && let Some(query) = whole_message(&self.input[answered.read..filled])
        {
            self.worker.counters.count(received);
            answered.read += 2 + query.len();
            let room = &mut self.output[answered.written..][..2 + MESSAGE];
            let (length_field, message) = room.split_at_mut(2);
            message[..query.len()].copy_from_slice(query);
            // An empty message is shorter than a header, like others that the responder does not answer.
            let response = match query.len() {
                0 => Reply::None,
                length => self.tap.respond(responder, &mut self.worker, peer, transport, message, length),
            };
            let length = match response {
                Reply::Here(length) => length,
                Reply::Pending(pending) => match hand_over(pending, self.tap.ticket()) {
                    Ok(()) => continue,
                    Err(refused) => forward::refuse(&refused, &self.worker, message),
                },
                Reply::None => {
                    answered.refused = true;
                    break;
                }
            };
            length_field.copy_from_slice(&(length as u16).to_be_bytes());
            answered.written += 2 + length;
        }
        answered
    }
}

/// The first message in `octets`, without its length, if it is complete.
pub(super) fn whole_message(octets: &[u8]) -> Option<&[u8]> {
    let (length, rest) = octets.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_messages() {
        for (octets, message) in [
            (&[][..], None),
            (&[0], None),
            (&[0, 0], Some(&[][..])),
            (&[0, 2, 7], None),
            (&[0, 2, 7, 8], Some(&[7, 8])),
            (&[0, 2, 7, 8, 9], Some(&[7, 8])),
        ] {
            assert_eq!(whole_message(octets), message, "{octets:?}");
        }
    }
}
