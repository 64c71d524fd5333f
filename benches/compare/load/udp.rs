//! Questions over UDP: a few connected sockets, one `sendmmsg` and one `recvmmsg` for up to 64 datagrams.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::super::sys::{BATCH, Batch, Few, QUERY, RESPONSE};
use super::flight::Flight;
use super::{LOOK, Load, Pace, Schedule, Tally, UDP_PATIENCE};

struct Lane {
    socket: UdpSocket,
    flight: Flight,
    /// The question that it began with.
    first: usize,
}

struct Run<'r, 'q> {
    lanes: Vec<Lane>,
    ready: Few,
    queries: Batch<QUERY>,
    answers: Batch<RESPONSE>,
    tally: &'r mut Tally<'q>,
    /// When to look for lost ones again.
    look: u64,
}

pub(super) fn run(load: &Load<'_>, sockets: usize, tally: &mut Tally<'_>) -> io::Result<()> {
    let mut lanes = Vec::with_capacity(sockets);
    for index in 0..sockets {
        let socket = connected(load.to)?;
        let first = index * load.questions.len() / sockets;
        lanes.push(Lane { socket, flight: Flight::new(1 << 16), first });
    }
    let ready = Few::new(lanes.iter().map(|lane| &lane.socket));
    let mut run = Run { lanes, ready, queries: Batch::new(), answers: Batch::new(), tally, look: LOOK };
    run.tally.begin();
    let done = match load.pace {
        Pace::Closed { window } => run.closed((window / sockets).clamp(1, 1 << 16)),
        Pace::Open { per_second } => run.open(Schedule::new(per_second)),
    };
    done.and_then(|()| run.drain()).map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            io::Error::new(error.kind(), format!("nobody listens at {} over UDP (any more)", load.to))
        }
        _ => error,
    })
}

fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    const BUFFER: usize = 4 << 20;
    let any: SocketAddr =
        if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    let options = socket2::SockRef::from(&socket);
    options.set_recv_buffer_size(BUFFER)?;
    options.set_send_buffer_size(BUFFER)?;
    Ok(socket)
}

impl Run<'_, '_> {
    /// `share`: how many each socket has in flight.
    fn closed(&mut self, share: usize) -> io::Result<()> {
        while self.tally.now() < self.tally.time {
            for index in 0..self.lanes.len() {
                let mut room = share - self.lanes[index].flight.waiting();
                while room > 0 {
                    let now = self.tally.now();
                    let count = room.min(BATCH);
                    let sent = self.send(index, count, |_| now)?;
                    room -= sent;
                    if sent < count {
                        break;
                    }
                }
            }
            self.receive(20)?;
        }
        Ok(())
    }

    fn open(&mut self, mut schedule: Schedule) -> io::Result<()> {
        let time = self.tally.time;
        let mut lane = 0;
        loop {
            let now = self.tally.now();
            let count = schedule.count(now, time, BATCH);
            if count > 0 {
                let sent = self.send(lane, count, |ahead| schedule.due(ahead))?;
                let handed_over = self.tally.now();
                for ahead in 0..sent {
                    self.tally.figures.behind.record(handed_over - schedule.due(ahead));
                }
                schedule.next += sent as u64;
                lane = (lane + 1) % self.lanes.len();
            }
            self.receive(0)?;
            let left = schedule.left(time);
            if left == 0 || now > time + UDP_PATIENCE {
                self.tally.figures.unsent = left;
                return Ok(());
            }
        }
    }

    /// Sends up to `count` queries from one socket, the one at `ahead` due at `due(ahead)`; returns how many.
    fn send(&mut self, lane: usize, count: usize, due: impl Fn(usize) -> u64) -> io::Result<usize> {
        let lane = &mut self.lanes[lane];
        let mut filled = 0;
        while filled < count && lane.flight.has_room() {
            let message = &self.tally.question(lane.first, lane.flight.next()).message;
            let id = lane.flight.begin(due(filled));
            let slot = self.queries.fill(filled, message.len());
            slot.copy_from_slice(message);
            slot[..2].copy_from_slice(&id.to_be_bytes());
            filled += 1;
        }
        if filled == 0 {
            return Ok(0);
        }
        let sent = match self.queries.send(&lane.socket, 0..filled) {
            Ok(sent) if sent < filled => sent + Self::one_more(&mut self.queries, &lane.socket, sent)?,
            Ok(sent) => sent,
            Err(error) if is_full(&error) => 0,
            Err(error) => return Err(error),
        };
        lane.flight.take_back(filled - sent);
        self.tally.figures.sent += sent as u64;
        Ok(sent)
    }

    /// A call that sent some datagrams keeps the error of the next to itself. Sent alone, it has one that can be seen.
    fn one_more(queries: &mut Batch<QUERY>, socket: &UdpSocket, index: usize) -> io::Result<usize> {
        let sent = match queries.send(socket, index..index + 1) {
            Err(error) if is_full(&error) => 0,
            other => other?,
        };
        socket.take_error()?.map_or(Ok(sent), Err)
    }

    /// Takes what is there, up to a batch of each socket; waits for up to so many milliseconds.
    fn receive(&mut self, milliseconds: i32) -> io::Result<()> {
        self.ready.wait(milliseconds)?;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if !self.ready.has(index) {
                continue;
            }
            let count = match self.answers.receive(&lane.socket, false) {
                Ok(count) => count,
                Err(error) if is_full(&error) => continue,
                Err(error) => return Err(error),
            };
            let now = self.tally.now();
            self.tally.receives += 1;
            for index in 0..count {
                self.tally.answer(&mut lane.flight, lane.first, self.answers.message(index), now);
            }
        }
        self.look_for_lost();
        Ok(())
    }

    fn look_for_lost(&mut self) {
        let now = self.tally.now();
        if now < self.look {
            return;
        }
        self.look = now + LOOK;
        for lane in &mut self.lanes {
            self.tally.figures.lost += lane.flight.give_up(now.saturating_sub(UDP_PATIENCE));
        }
    }

    /// Waits for what is in flight: a second at most, by when it is lost.
    fn drain(&mut self) -> io::Result<()> {
        while self.lanes.iter().any(|lane| lane.flight.waiting() > 0) {
            self.receive(5)?;
        }
        Ok(())
    }
}

/// Nothing is there, or the kernel has no room: later.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        || error.raw_os_error() == Some(libc::ENOBUFS)
}
