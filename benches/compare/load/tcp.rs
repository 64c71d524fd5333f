//! Questions over TCP: connections that are kept and pipelined (RFC 7766 section 6.2.1.1), or one for each query.
//!
//! A connection that ends, or that owes an answer for too long, is opened anew, and what it had in flight is lost.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::super::sys::{self, BATCH, Ready};
use super::flight::Flight;
use super::{LOOK, Load, Pace, Schedule, TCP_PATIENCE, Tally};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Open { depth: usize },
    ForOneQuery,
}

struct Connection {
    stream: Option<TcpStream>,
    flight: Flight,
    /// The question that it began with.
    first: usize,
    /// Framed queries, of which some octets are written.
    output: Vec<u8>,
    written: usize,
    /// Whether the kernel is to say when there is room to write; `None` if it was told nothing of this socket.
    watched: Option<bool>,
    /// Room for answers, of which some octets are read.
    input: Vec<u8>,
    read: usize,
}

struct Run<'r, 'q> {
    to: SocketAddr,
    kept: Kept,
    /// How many each connection has in flight at most.
    share: usize,
    connections: Vec<Connection>,
    ready: Ready,
    tally: &'r mut Tally<'q>,
    look: u64,
}

pub(super) fn run(load: &Load<'_>, kept: Kept, count: usize, tally: &mut Tally<'_>) -> io::Result<()> {
    sys::allow_files(count as u64 + 100)?;
    let (count, share) = match (kept, load.pace) {
        (Kept::Open { depth }, Pace::Closed { window }) => (count, (window / count).clamp(1, depth)),
        (Kept::Open { depth }, Pace::Open { .. }) => (count, depth),
        (Kept::ForOneQuery, Pace::Closed { window }) => (count.min(window.max(1)), 1),
        (Kept::ForOneQuery, Pace::Open { .. }) => (count, 1),
    };
    let room = ((1 << 20) / count).clamp(4096, 1 << 16);
    let connections = (0..count).map(|index| Connection {
        stream: None,
        flight: Flight::new(share),
        first: index * load.questions.len() / count,
        output: Vec::new(),
        written: 0,
        watched: None,
        input: vec![0; room],
        read: 0,
    });
    let connections = connections.collect();
    let mut run = Run { to: load.to, kept, share, connections, ready: Ready::new()?, tally, look: LOOK };
    let done = run.run(load.pace);
    done.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            io::Error::new(error.kind(), format!("nobody listens at {} over TCP (any more)", load.to))
        }
        _ => error,
    })
}

impl Run<'_, '_> {
    fn run(&mut self, pace: Pace) -> io::Result<()> {
        if self.kept != Kept::ForOneQuery {
            for index in 0..self.connections.len() {
                // The first connection is waited for, so that the clock begins with all of them there.
                let stream = TcpStream::connect_timeout(&self.to, Duration::from_nanos(TCP_PATIENCE))?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                self.connections[index].stream = Some(stream);
                self.tally.figures.connections += 1;
                self.flush(index)?;
            }
        }
        self.tally.begin();
        match pace {
            Pace::Closed { .. } => self.closed()?,
            Pace::Open { per_second } => self.open(Schedule::new(per_second))?,
        }
        while self.connections.iter().any(|connection| connection.flight.waiting() > 0) {
            self.receive(5, false)?;
        }
        Ok(())
    }

    fn closed(&mut self) -> io::Result<()> {
        for index in 0..self.connections.len() {
            self.fill(index)?;
        }
        while self.tally.now() < self.tally.time {
            self.receive(20, true)?;
        }
        Ok(())
    }

    fn open(&mut self, mut schedule: Schedule) -> io::Result<()> {
        let time = self.tally.time;
        let mut next = 0;
        let mut asked = Vec::with_capacity(BATCH);
        loop {
            let now = self.tally.now();
            for _ in 0..schedule.count(now, time, BATCH) {
                let all = self.connections.len();
                let free = (next..next + all).map(|index| index % all).find(|index| self.has_room(*index));
                // All are full: it waits for an answer, and that is in its latency.
                let Some(index) = free else { break };
                self.ask(index, schedule.due(0))?;
                asked.push((index, schedule.due(0)));
                schedule.next += 1;
                next = index + 1;
            }
            for (index, due) in asked.drain(..) {
                self.flush(index)?;
                self.tally.figures.behind.record(self.tally.now() - due);
            }
            self.receive(0, false)?;
            let left = schedule.left(time);
            if left == 0 || now > time + TCP_PATIENCE {
                self.tally.figures.unsent = left;
                return Ok(());
            }
        }
    }

    /// Asks as much as may be in flight.
    fn fill(&mut self, index: usize) -> io::Result<()> {
        let now = self.tally.now();
        while self.has_room(index) {
            self.ask(index, now)?;
        }
        self.flush(index)
    }

    fn has_room(&self, index: usize) -> bool {
        let connection = &self.connections[index];
        match self.kept {
            Kept::Open { .. } => connection.flight.waiting() < self.share && connection.flight.has_room(),
            Kept::ForOneQuery => connection.stream.is_none(),
        }
    }

    /// Writes a query behind those that are to be sent; [`Run::flush`] sends them.
    fn ask(&mut self, index: usize, due: u64) -> io::Result<()> {
        self.connect(index)?;
        let connection = &mut self.connections[index];
        let message = &self.tally.question(connection.first, connection.flight.next()).message;
        let id = connection.flight.begin(due);
        connection.output.extend_from_slice(&(message.len() as u16).to_be_bytes());
        connection.output.extend_from_slice(&id.to_be_bytes());
        connection.output.extend_from_slice(&message[2..]);
        self.tally.figures.sent += 1;
        Ok(())
    }

    /// Begins to connect, if it is not connected.
    fn connect(&mut self, index: usize) -> io::Result<()> {
        if self.connections[index].stream.is_some() {
            return Ok(());
        }
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if self.kept == Kept::ForOneQuery {
            socket.set_linger(Some(Duration::ZERO))?;
        }
        match socket.connect(&self.to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        self.tally.figures.connections += 1;
        self.connections[index].stream = Some(socket.into());
        Ok(())
    }

    /// Writes what is to be sent, as far as there is room.
    fn flush(&mut self, index: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        let Some(mut stream) = connection.stream.as_ref() else { return Ok(()) };
        if connection.written < connection.output.len() {
            match stream.write(&connection.output[connection.written..]) {
                Ok(written) => connection.written += written,
                Err(error) if is_later(&error) => {}
                Err(error) => return self.ended(index, error),
            }
        }
        let writing = connection.written < connection.output.len();
        if !writing {
            connection.output.clear();
            connection.written = 0;
        }
        match connection.watched.replace(writing) {
            None => self.ready.add(stream, index, writing),
            Some(before) if before != writing => self.ready.change(stream, index, writing),
            Some(_) => Ok(()),
        }
    }

    /// Takes what is there; waits for up to so many milliseconds. `refill`: asks again where there was an answer.
    fn receive(&mut self, milliseconds: i32, refill: bool) -> io::Result<()> {
        for event in 0..self.ready.wait(milliseconds)? {
            let event = self.ready.event(event);
            if event.readable {
                self.read(event.token)?;
            }
            if refill {
                self.fill(event.token)?;
            } else if event.writable {
                self.flush(event.token)?;
            }
        }
        self.look_for_lost(refill)
    }

    fn read(&mut self, index: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        let Some(mut stream) = connection.stream.as_ref() else { return Ok(()) };
        match stream.read(&mut connection.input[connection.read..]) {
            Ok(0) => return self.ended(index, io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => connection.read += read,
            Err(error) if is_later(&error) => return Ok(()),
            Err(error) => return self.ended(index, error),
        }
        let now = self.tally.now();
        self.tally.receives += 1;
        let (mut at, mut answered) = (0, false);
        while let Some((message, end)) = framed(&connection.input[..connection.read], at) {
            answered |= self.tally.answer(&mut connection.flight, connection.first, message, now);
            at = end;
        }
        connection.input.copy_within(at..connection.read, 0);
        connection.read -= at;
        if connection.read == connection.input.len() {
            connection.input.resize(2 + (1 << 16), 0);
        }
        if answered && self.kept == Kept::ForOneQuery {
            self.close(index);
        }
        Ok(())
    }

    /// The server ended a connection. Nobody listening is an end of the run.
    fn ended(&mut self, index: usize, error: io::Error) -> io::Result<()> {
        self.close(index);
        if error.kind() == io::ErrorKind::ConnectionRefused { Err(error) } else { Ok(()) }
    }

    fn close(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        connection.stream = None;
        connection.watched = None;
        connection.output.clear();
        (connection.written, connection.read) = (0, 0);
        self.tally.figures.lost += connection.flight.give_up(u64::MAX);
    }

    fn look_for_lost(&mut self, refill: bool) -> io::Result<()> {
        let now = self.tally.now();
        if now < self.look {
            return Ok(());
        }
        self.look = now + LOOK;
        for index in 0..self.connections.len() {
            let lost = self.connections[index].flight.give_up(now.saturating_sub(TCP_PATIENCE));
            if lost > 0 {
                self.tally.figures.lost += lost;
                self.close(index);
                if refill {
                    self.fill(index)?;
                }
            }
        }
        Ok(())
    }
}

/// The message that begins at `at`, and where the next one does, if all of it is there.
fn framed(input: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let length = u16::from_be_bytes(input.get(at..at + 2)?.try_into().ok()?);
    let end = at + 2 + usize::from(length);
    Some((input.get(at + 2..end)?, end))
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
