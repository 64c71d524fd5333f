//! The UDP socket under QUIC, as quinn reads it: also while two processes have it.
//!
//! The one that began with connections reads it until they have ended, and passes on what is not for them; the other one
//! takes that, and reads the socket afterwards (`../relay.rs`). What is for whom is in the connection IDs, which each
//! process chooses for its own connections so that it knows them again (RFC 9000 section 5.1). Not here: what is in a
//! packet.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ConnectionId, ConnectionIdGenerator, UdpPoller};
use tokio::sync::mpsc;

use super::amplification::AmplificationLimit;
use crate::serve::relay::{Inbox, Parcel};

/// How long a connection ID of ours is, in octets: half of it is any number, half says that it is ours.
const ID: usize = 8;

/// The socket.
#[derive(Debug)]
pub(super) struct Packets {
    socket: Arc<dyn AsyncUdpSocket>,
    ids: Ids,
    limit: AmplificationLimit,
    others: Mutex<Others>,
}

/// Who has the socket too.
#[derive(Debug)]
struct Others {
    /// What the process before has read for us, as long as it does.
    inbox: Option<Inbox>,
    /// Where what is for the next one is put.
    outlet: Option<mpsc::Sender<Parcel>>,
}

impl Packets {
    pub(super) fn new(
        socket: Arc<dyn AsyncUdpSocket>,
        ids: Ids,
        limit: AmplificationLimit,
        inbox: Option<Inbox>,
    ) -> Self {
        Self { socket, ids, limit, others: Mutex::new(Others { inbox, outlet: None }) }
    }

    /// From now on what is not for connections of ours is for another process.
    pub(super) fn pass_on(&self, outlet: mpsc::Sender<Parcel>) {
        self.others().outlet = Some(outlet);
    }

    /// Nobody reads the socket here any more.
    pub(super) fn pass_nothing_on(&self) {
        self.others().outlet = None;
    }

    fn others(&self) -> MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Others {
    /// Nothing where there is nobody else: the socket is ours.
    fn poll_inbox(&mut self, context: &mut Context<'_>) -> Poll<Option<Parcel>> {
        let Some(inbox) = &mut self.inbox else { return Poll::Ready(None) };
        let parcel = ready!(inbox.poll_recv(context));
        if parcel.is_none() {
            self.inbox = None;
        }
        Poll::Ready(parcel)
    }
}

/// Puts it where a datagram is received; false where it is too long for that.
fn unpack(parcel: &Parcel, rooms: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> bool {
    let Parcel { from, to, ecn, octets } = parcel;
    let (Some(room), Some(meta)) = (rooms.first_mut().and_then(|room| room.get_mut(..octets.len())), meta.first_mut())
    else {
        return false;
    };
    room.copy_from_slice(octets);
    let mut received = RecvMeta::default();
    (received.addr, received.dst_ip, received.ecn) = (*from, *to, EcnCodepoint::from_bits(*ecn));
    (received.len, received.stride) = (octets.len(), octets.len());
    *meta = received;
    true
}

impl AsyncUdpSocket for Packets {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Transmit { destination, contents, segment_size, .. } = *transmit;
        let allowed = self.limit.send(destination, contents.len(), segment_size.unwrap_or(contents.len()));
        if allowed == 0 {
            // As if the network had lost it.
            return Ok(());
        }
        let cut = Transmit { contents: &contents[..allowed], segment_size, destination, ..*transmit };
        self.socket.try_send(&cut).inspect_err(|_| self.limit.take_back(destination, allowed))
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        rooms: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut others = self.others();
        let count = match ready!(others.poll_inbox(context)) {
            Some(parcel) => usize::from(unpack(&parcel, rooms, meta)),
            None => ready!(self.socket.poll_recv(context, rooms, meta))?,
        };
        for (room, meta) in rooms.iter_mut().zip(meta).take(count) {
            self.ids.keep_ours(room, meta, others.outlet.as_ref());
            for datagram in room[..meta.len].chunks(meta.stride.max(1)) {
                self.limit.receive(meta.addr, datagram);
            }
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

/// The connection IDs of this process, at one address. Clones are the same one.
///
/// They are numbers under a keyed hash, so that nobody else can tell which belong together (RFC 9000 section 9.5).
#[derive(Clone, Debug, Default)]
pub(super) struct Ids(Arc<Keys>);

#[derive(Debug, Default)]
struct Keys {
    next: AtomicU64,
    number: RandomState,
    seal: RandomState,
}

impl Ids {
    /// Takes out of what was received what is not ours, and passes it on where somebody takes it. Where nobody does,
    /// whatever may begin a connection is ours; packets of a connection that is not are nobody's, and get no reply.
    fn keep_ours(&self, room: &mut [u8], meta: &mut RecvMeta, outlet: Option<&mpsc::Sender<Parcel>>) {
        let (all, stride, mut kept) = (meta.len, meta.stride.max(1), 0);
        // The kernel may have joined several of one length, and a shorter one behind them.
        for start in (0..all).step_by(stride) {
            let end = all.min(start + stride);
            let datagram = &room[start..end];
            if self.are_in(datagram) || outlet.is_none() && is_long(datagram) {
                room.copy_within(start..end, kept);
                kept += end - start;
            } else if let Some(outlet) = outlet {
                let ecn = meta.ecn.map_or(0, |ecn| ecn as u8);
                let parcel = Parcel { from: meta.addr, to: meta.dst_ip, ecn, octets: datagram.to_vec() };
                // Full: it is lost, as it would be in a full socket.
                let _ = outlet.try_send(parcel);
            }
        }
        meta.len = kept;
    }

    /// Whether the first packet of this datagram has one of them (RFC 9000 sections 17.2 and 17.3).
    fn are_in(&self, datagram: &[u8]) -> bool {
        let id = match datagram {
            [_, rest @ ..] if !is_long(datagram) => rest.get(..ID),
            // The form, the version, and a length.
            [_, _, _, _, _, length, rest @ ..] => rest.get(..usize::from(*length)),
            _ => None,
        };
        id.is_some_and(|id| self.contain(id))
    }

    fn contain(&self, id: &[u8]) -> bool {
        let Some((number, seal)) = id.split_first_chunk() else { return false };
        *seal == self.seal(*number)
    }

    fn seal(&self, number: [u8; ID / 2]) -> [u8; ID / 2] {
        half(self.0.seal.hash_one(number))
    }
}

/// Whether it begins with a long header, as the first packets of a connection do, and no later ones.
fn is_long(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0x80 != 0)
}

fn half(hash: u64) -> [u8; ID / 2] {
    (hash as u32).to_be_bytes()
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        // Should it have been given before, quinn asks for another one.
        let number = half(self.0.number.hash_one(self.0.next.fetch_add(1, Ordering::Relaxed)));
        ConnectionId::new(&[number, self.seal(number)].concat())
    }

    fn cid_len(&self) -> usize {
        ID
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(id: &[u8]) -> Vec<u8> {
        [&[0x40][..], id, &[1; 30]].concat()
    }

    fn long(id: &[u8]) -> Vec<u8> {
        [&[0xc0, 0, 0, 0, 1, id.len() as u8][..], id, &[0; 1200]].concat()
    }

    #[test]
    fn ids_are_known_again_by_who_made_them() {
        let (mut ids, mut others) = (Ids::default(), Ids::default());
        for _ in 0..1000 {
            let (ours, theirs) = (ids.generate_cid(), others.generate_cid());
            assert_eq!(ours.len(), ID);
            for (id, is_ours) in [(&ours[..], true), (&theirs, false), (&[&ours[..], &[0]].concat(), false)] {
                assert_eq!(ids.clone().are_in(&long(id)), is_ours, "{id:?}");
            }
            assert!(ids.are_in(&short(&ours)) && !ids.are_in(&short(&theirs)));
        }
        for garbage in [&[][..], &[0x40], &[0x40, 1, 2, 3, 4, 5, 6, 7], &[0xc0, 0, 0, 0, 1], &[0xc0, 0, 0, 0, 1, 9, 1]]
        {
            assert!(!ids.are_in(garbage), "{garbage:?}");
        }
    }

    #[test]
    fn of_what_the_kernel_has_joined_each_goes_its_way() {
        let (mut ids, mut others) = (Ids::default(), Ids::default());
        let (own, other) = (ids.generate_cid(), others.generate_cid());
        let marked = |mut datagram: Vec<u8>, mark: u8, length: usize| {
            datagram.resize(length, mark);
            datagram
        };
        let all = [
            marked(short(&other), 1, 60),
            marked(short(&own), 2, 60),
            marked(long(&[9; 12])[..50].to_vec(), 3, 60),
            marked(long(&own)[..50].to_vec(), 4, 60),
            marked(short(&other), 5, 45),
        ];
        let (sender, mut passed) = mpsc::channel(10);
        for (outlet, kept, gone) in [(Some(&sender), &[1, 3][..], &[0, 2, 4][..]), (None, &[1, 2, 3], &[])] {
            let mut room = all.concat();
            let mut meta = RecvMeta::default();
            (meta.len, meta.stride, meta.ecn) = (room.len(), 60, Some(EcnCodepoint::Ce));
            ids.keep_ours(&mut room, &mut meta, outlet);
            assert_eq!(room[..meta.len], kept.iter().map(|&at| &all[at][..]).collect::<Vec<_>>().concat());
            for &at in gone {
                let parcel = passed.try_recv().unwrap();
                assert_eq!((&parcel.octets, parcel.from, parcel.ecn), (&all[at], meta.addr, 3));
            }
            assert!(passed.try_recv().is_err(), "nothing else is passed on");
        }
    }
}
