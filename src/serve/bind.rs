//! Sockets before anybody serves them: bound here, or inherited from another process that has them already.
//!
//! What comes to them is queued by the kernel. An inherited one is never bound again, and never connected: whoever has
//! it too goes on with it. Not here: how sockets pass from one process to another (`takeover.rs`, `fds.rs`), and who
//! reads them (`udp.rs`, `tcp.rs`).

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, anyhow, ensure};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{fds, sys, udp};

/// Sockets that are bound, and serve nobody yet: what comes is queued by the kernel.
#[derive(Debug)]
pub struct Listeners {
    bound: Vec<Bound>,
    receive_buffer: usize,
}

/// The sockets of one listen address.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) address: SocketAddr,
    /// One per worker. The kernel gives each client to one of them (SO_REUSEPORT).
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: TcpListener,
    /// Somebody keeps these sockets when this process ends, and what is queued in them.
    pub(super) kept: bool,
}

/// Sockets that another process has bound.
#[derive(Debug, Default)]
pub struct Inherited {
    udp: Vec<(SocketAddr, UdpSocket)>,
    tcp: Vec<(SocketAddr, TcpListener)>,
    kept: bool,
}

impl Inherited {
    /// Those that the service manager has bound for this process (sd_listen_fds(3)); none where there is none.
    ///
    /// It keeps them: when this process ends, what is queued waits for the next one. May be asked once.
    ///
    /// # Errors
    ///
    /// One sentence: they are no sockets that questions come to.
    pub fn from_service_manager() -> Result<Self> {
        let sockets = fds::from_service_manager().context("cannot take the sockets of the service manager")?;
        Ok(Self { kept: true, ..Self::sort(sockets).context("a socket of the service manager cannot be used")? })
    }

    /// Which of them is for which protocol, and where.
    pub(super) fn sort(sockets: Vec<OwnedFd>) -> Result<Self> {
        let mut sorted = Self::default();
        for socket in sockets {
            let socket = Socket::from(socket);
            let address = socket.local_addr().context("it is no socket")?.as_socket();
            let address = address.context("it is no socket of the internet: use an IPv4 or IPv6 address and a port")?;
            let kind = socket.r#type()?;
            match (kind, kind == Type::STREAM && socket.is_listener()?) {
                (Type::DGRAM, _) => sorted.udp.push((address, socket.into())),
                (_, true) => sorted.tcp.push((address, socket.into())),
                (kind, false) => return Err(anyhow!("{address}: {kind:?} is neither UDP nor a TCP listener")),
            }
        }
        Ok(sorted)
    }

    /// Where they are bound, each address once.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for address in self.udp.iter().map(|(address, _)| address).chain(self.tcp.iter().map(|(address, _)| address)) {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        addresses
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.udp.len() + self.tcp.len()
    }

    fn take(&mut self, address: SocketAddr) -> (Vec<UdpSocket>, Option<TcpListener>) {
        let udp = self.udp.extract_if(.., |(bound, _)| *bound == address).map(|(_, socket)| socket).collect();
        let tcp = self.tcp.iter().position(|(bound, _)| *bound == address);
        (udp, tcp.map(|at| self.tcp.swap_remove(at).1))
    }
}

impl Listeners {
    /// Binds UDP and TCP on every address, with `workers` (at least 1) UDP sockets each. All or nothing.
    ///
    /// Port 0 lets the kernel choose one port for both protocols. An IPv6 address is for IPv6 alone: `[::]` does not
    /// listen on `0.0.0.0`.
    ///
    /// # Errors
    ///
    /// One sentence that names the address and says what to do.
    pub fn bind(addresses: &[SocketAddr], workers: usize) -> Result<Self> {
        Self::inherit(Inherited::default(), addresses, workers)
    }

    /// The same, but for addresses where there is an inherited socket: that one is taken. Inherited sockets of other
    /// addresses are closed.
    ///
    /// # Errors
    ///
    /// As [`Listeners::bind`].
    pub fn inherit(mut inherited: Inherited, addresses: &[SocketAddr], workers: usize) -> Result<Self> {
        ensure!(!addresses.is_empty(), "no address to listen on: give at least one, such as 0.0.0.0:53");
        let workers = workers.max(1);
        let mut receive_buffer = usize::MAX;
        let mut bound = Vec::new();
        for &address in addresses {
            let one = match inherited.take(address) {
                (udp, None) if udp.is_empty() => bind(address, workers)?,
                (udp, tcp) => adopt(address, udp, tcp, workers, inherited.kept)?,
            };
            for socket in &one.udp {
                let given = sys::ask_receive_buffer(socket, udp::RECEIVE_BUFFER);
                receive_buffer = receive_buffer.min(given.context("cannot ask for a receive buffer")?);
            }
            bound.push(one);
        }
        Ok(Self { bound, receive_buffer })
    }

    /// The addresses bound, in the order asked for, with the ports that the kernel chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.bound.iter().map(|bound| bound.address).collect()
    }

    /// The receive buffer that the kernel gave each UDP socket, in octets; 4 MiB were asked for. A small one loses
    /// queries when many come at once.
    pub fn receive_buffer(&self) -> usize {
        self.receive_buffer
    }

    pub(super) fn into_bound(self) -> Vec<Bound> {
        self.bound
    }
}

impl Bound {
    /// As many UDP sockets as `workers`: at the moment in which they are read, and not before. Where others read the
    /// inherited ones still, a new one in their group would take its share of the datagrams at once.
    pub(super) fn fill(&mut self, workers: usize) {
        while let Some(first) = self.udp.first()
            && self.udp.len() < workers
        {
            // Bound by others without SO_REUSEPORT, it is one for all threads.
            let shares_port = SockRef::from(first).reuse_port().unwrap_or(false);
            let another = if shares_port { bind_udp(self.address) } else { first.try_clone() };
            match another {
                Ok(socket) => {
                    // Less than was asked for is no failure: `receive_buffer` has told of the others.
                    let _ = sys::ask_receive_buffer(&socket, udp::RECEIVE_BUFFER);
                    self.udp.push(socket);
                }
                Err(error) => {
                    let sockets = self.udp.len();
                    tracing::warn!("{} has {sockets} UDP sockets and not {workers}: {error}", self.address);
                    return;
                }
            }
        }
    }
}

/// Makes inherited sockets fit, and binds what was not inherited.
fn adopt(
    address: SocketAddr,
    udp: Vec<UdpSocket>,
    tcp: Option<TcpListener>,
    workers: usize,
    kept: bool,
) -> Result<Bound> {
    for socket in &udp {
        prepare(socket, address).with_context(|| format!("cannot use the inherited UDP socket of {address}"))?;
    }
    let failed = |protocol| move |error| explain(address, protocol, error).1;
    let udp = match udp.is_empty() {
        true => (0..workers).map(|_| bind_udp(address)).collect::<io::Result<_>>().map_err(failed("UDP"))?,
        false => udp,
    };
    let tcp = tcp.map_or_else(|| bind_tcp(address), Ok).map_err(failed("TCP"))?;
    tcp.set_nonblocking(true).map_err(failed("TCP"))?;
    Ok(Bound { address, udp, tcp, kept })
}

fn bind(address: SocketAddr, workers: usize) -> Result<Bound> {
    // A port that is free for TCP can be taken for UDP; then the kernel chooses again.
    let mut tries = if address.port() == 0 { 32 } else { 1 };
    loop {
        tries -= 1;
        match bind_once(address, workers) {
            Err((ErrorKind::AddrInUse, _)) if tries > 0 => {}
            result => return result.map_err(|(_, error)| error),
        }
    }
}

/// TCP first: two of our own UDP sockets can share a port without a word (SO_REUSEPORT), TCP listeners cannot. So a
/// second server on the same address is told, and no two get one port from the kernel.
fn bind_once(address: SocketAddr, workers: usize) -> Result<Bound, (ErrorKind, anyhow::Error)> {
    let tcp = bind_tcp(address).map_err(|error| explain(address, "TCP", error))?;
    let address = tcp.local_addr().map_err(|error| explain(address, "TCP", error))?;
    let udp = (0..workers).map(|_| bind_udp(address)).collect::<io::Result<Vec<_>>>();
    Ok(Bound { address, udp: udp.map_err(|error| explain(address, "UDP", error))?, tcp, kept: false })
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address, Type::STREAM, Protocol::TCP)?;
    // Bind although connections of an earlier process still linger.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    socket.set_reuse_port(true)?;
    let socket = UdpSocket::from(socket);
    // Before it is bound: from then on it receives.
    prepare(&socket, address)?;
    SockRef::from(&socket).bind(&address.into())?;
    Ok(socket)
}

/// Sets what its thread counts on.
fn prepare(socket: &UdpSocket, address: SocketAddr) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(udp::LONGEST_WAIT))?;
    socket.set_write_timeout(Some(udp::LONGEST_WAIT))?;
    sys::omit_path_mtu(socket, address.is_ipv6())?;
    if address.ip().is_unspecified() {
        sys::tell_address_asked(socket, address.is_ipv6())?;
    }
    Ok(())
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// The kind of the error, for us, and the sentence, for people.
fn explain(address: SocketAddr, protocol: &str, error: io::Error) -> (ErrorKind, anyhow::Error) {
    let kind = error.kind();
    let what = cannot_listen(address, protocol);
    let port = address.port();
    let advice = match kind {
        ErrorKind::AddrInUse => format!(
            "another program has {protocol} port {port} there; `ss -lnp sport = :{port}` shows which. \
             Stop it or choose another port or address"
        ),
        ErrorKind::PermissionDenied if port < 1024 => {
            "ports below 1024 need root or the capability NET_BIND_SERVICE. Add it or choose a higher port".into()
        }
        ErrorKind::AddrNotAvailable => "this host has no such address. Choose one that `ip address` shows".into(),
        _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            "this host has IPv6 turned off. Choose an IPv4 address".into()
        }
        _ => return (kind, anyhow::Error::new(error).context(what)),
    };
    (kind, anyhow!("{what}: {advice}"))
}

pub(super) fn cannot_listen(address: SocketAddr, protocol: &str) -> String {
    format!("cannot listen on {address} over {protocol}")
}
