//! The echo: a server that does nothing but send back what it received, the limit for any server on plain sockets.
//!
//! UDP: one `recvmmsg` and one `sendmmsg` for up to 64 datagrams. TCP: one read, and one write of all that is complete.
//! The QR bit is set, and the message padded to a length, so that it can be compared with a server whose responses are
//! longer than their queries. A thread for each transport. Read next: `sys.rs`.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;

use socket2::{Domain, Socket, Type};

use super::sys::{self, Batch, RESPONSE, Ready};

const USAGE: &str = "usage: compare echo PORT OCTETS [CPU]   (PORT 0: one that is free; OCTETS 0: as the query)";

/// Prints its address, `127.0.0.1:PORT`, and answers until it is ended.
pub(crate) fn command(arguments: &[String]) -> ExitCode {
    let done = read(arguments).and_then(|(port, octets, cpu)| {
        let _pinned = cpu.map(sys::Pinned::to).transpose().map_err(|error| format!("CPU {cpu:?}: {error}"))?;
        let echo = Echo::bind(port, octets).map_err(|error| format!("127.0.0.1:{port}: {error}"))?;
        println!("{}", echo.address);
        echo.serve().map_err(|error| error.to_string())
    });
    let Err(error) = done;
    eprintln!("compare echo: {error}");
    ExitCode::from(2)
}

fn read(arguments: &[String]) -> Result<(u16, usize, Option<usize>), String> {
    let (port, octets, cpu) = match arguments {
        [port, octets] => (port, octets, None),
        [port, octets, cpu] => (port, octets, Some(cpu)),
        _ => return Err(USAGE.to_owned()),
    };
    let wrong = |what: &str, text: &str| format!("{what}: `{text}` is not a number that it can be\n{USAGE}");
    let port = port.parse().map_err(|_| wrong("PORT", port))?;
    let octets = octets.parse().ok().filter(|octets| *octets <= RESPONSE).ok_or_else(|| wrong("OCTETS", octets))?;
    let cpu = cpu.map(|cpu| cpu.parse().map_err(|_| wrong("CPU", cpu))).transpose()?;
    Ok((port, octets, cpu))
}

pub(crate) struct Echo {
    udp: UdpSocket,
    tcp: TcpListener,
    /// The length of a response; as long as its query if that is longer.
    octets: usize,
    pub(crate) address: SocketAddr,
}

impl Echo {
    /// On 127.0.0.1, the same port for both transports.
    pub(crate) fn bind(port: u16, octets: usize) -> io::Result<Self> {
        const BUFFER: usize = 4 << 20;
        // The port that UDP got may be taken over TCP.
        for attempt in 0.. {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?;
            socket2::SockRef::from(&udp).set_recv_buffer_size(BUFFER)?;
            let address = udp.local_addr()?;
            let tcp = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
            tcp.set_reuse_address(true)?;
            match tcp.bind(&address.into()).and_then(|()| tcp.listen(4096)) {
                Ok(()) => return Ok(Self { udp, tcp: tcp.into(), octets, address }),
                Err(_) if port == 0 && attempt < 20 => {}
                Err(error) => return Err(error),
            }
        }
        unreachable!("the loop has no end")
    }

    /// Until it fails.
    pub(crate) fn serve(self) -> Never {
        sys::allow_files(20_000)?;
        let Self { udp, tcp, octets, .. } = self;
        std::thread::scope(|scope| {
            let over_tcp = scope.spawn(move || serve_tcp(&tcp, octets));
            let Err(error) = serve_udp(&udp, octets);
            // Threads for ever: the other one fails too, or goes on.
            over_tcp.join().map_err(|_| io::Error::other("the thread for TCP panicked"))??;
            Err(error)
        })
    }
}

type Never = io::Result<std::convert::Infallible>;

fn serve_udp(socket: &UdpSocket, octets: usize) -> Never {
    let mut batch = Batch::<RESPONSE>::with_senders();
    loop {
        let received = match batch.receive(socket, true) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for index in 0..received {
            let length = batch.message(index).len().max(octets);
            if let Some(flags) = batch.fill(index, length).get_mut(2) {
                *flags |= RESPONSE_FLAGS;
            }
        }
        let mut sent = 0;
        while sent < received {
            // The call fails for its first message: that one is passed over.
            sent += batch.send(socket, sent..received).unwrap_or(1);
        }
    }
}

/// QR and AA.
const RESPONSE_FLAGS: u8 = 0x84;
const LISTENER: usize = usize::MAX;
const ROOM: usize = 16 << 10;

/// A connection, and what the kernel did not take yet.
struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    writing: bool,
}

fn serve_tcp(listener: &TcpListener, octets: usize) -> Never {
    let mut ready = Ready::new()?;
    ready.add(listener, LISTENER, false)?;
    let mut peers: Vec<Option<Peer>> = Vec::new();
    let mut free = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        for event in 0..ready.wait(-1)? {
            let token = ready.event(event).token;
            if token == LISTENER {
                accept(listener, &ready, &mut peers, &mut free)?;
            } else if let Some(peer) = &mut peers[token]
                && peer.answer(&ready, token, &mut buffer, octets).is_err()
            {
                peers[token] = None;
                free.push(token);
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    ready: &Ready,
    peers: &mut Vec<Option<Peer>>,
    free: &mut Vec<usize>,
) -> io::Result<()> {
    // Until nobody waits, or whoever did is gone.
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let token = free.pop().unwrap_or(peers.len());
        if token == peers.len() {
            peers.push(None);
        }
        ready.add(&stream, token, false)?;
        peers[token] = Some(Peer { stream, input: Vec::new(), output: Vec::new(), writing: false });
    }
    Ok(())
}

impl Peer {
    /// Answers what is complete. An error is the end of the connection.
    fn answer(&mut self, ready: &Ready, token: usize, buffer: &mut [u8], octets: usize) -> io::Result<()> {
        // Who does not read its answers is not read from.
        if self.output.is_empty() {
            match self.stream.read(&mut buffer[..ROOM]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.echo(&buffer[..read], octets),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(written) => _ = self.output.drain(..written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let writing = !self.output.is_empty();
        if writing != self.writing {
            self.writing = writing;
            ready.change(&self.stream, token, writing)?;
        }
        Ok(())
    }

    /// Writes the response of each message that `read` completes behind the output, and keeps the rest.
    fn echo(&mut self, read: &[u8], octets: usize) {
        let kept = std::mem::take(&mut self.input);
        let joined;
        let mut rest = read;
        if !kept.is_empty() {
            joined = [&kept, read].concat();
            rest = &joined;
        }
        while let Some((length, behind)) = rest.split_first_chunk::<2>()
            && let Some(message) = behind.get(..usize::from(u16::from_be_bytes(*length)))
        {
            rest = &behind[message.len()..];
            let padded = message.len().max(octets);
            self.output.extend_from_slice(&(padded as u16).to_be_bytes());
            let start = self.output.len();
            self.output.extend_from_slice(message);
            self.output.resize(start + padded, 0);
            if let Some(flags) = self.output.get_mut(start + 2) {
                *flags |= RESPONSE_FLAGS;
            }
        }
        self.input.extend_from_slice(rest);
    }
}
