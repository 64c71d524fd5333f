//! Listening sockets before they are served: bound here, or inherited from another process.
//!
//! The kernel queues their datagrams and connections until a worker reads them. An inherited socket is never bound
//! again and never connected, because the other process goes on using it. Plain DNS has UDP and TCP on one port; each
//! encrypted protocol has one of the two. Not here: the transfer of sockets between processes (`hot_restart/`,
//! `sys/fds.rs`), and the workers that read them (`udp/`, `stream/acceptor.rs`, `tls/`, `https/`, `quic/`).

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, anyhow, ensure};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::sync::watch;

use crate::server::sys::fds;
use crate::server::tls::certificates::Certificates;
use crate::server::{ListenAddress, ListenProtocol, sys, udp};

/// Bound sockets that no worker reads yet: the kernel queues their datagrams and connections.
#[derive(Debug)]
pub struct Listeners {
    bound: Vec<BoundSockets>,
    receive_buffer: usize,
    certificates: Option<Certificates>,
}

/// The sockets of one listen address.
#[derive(Debug)]
pub(crate) struct BoundSockets {
    /// The address, with the port that the kernel chose.
    pub(crate) listen: ListenAddress,
    /// UDP sockets: one per worker, among which the kernel spreads the clients (SO_REUSEPORT). One for QUIC, none for
    /// TLS and HTTPS.
    pub(crate) udp: Vec<UdpSocket>,
    /// TCP listener. `None` for QUIC.
    pub(crate) tcp: Option<TcpListener>,
    /// Another process has these sockets too, and keeps them and their queues when this process ends.
    pub(crate) is_shared: bool,
    /// QUIC, hot restart: signal that the predecessor has stopped reading the socket.
    pub(crate) release: Option<SocketRelease>,
}

/// Sockets that another process has bound.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    udp: Vec<(SocketAddr, UdpSocket)>,
    tcp: Vec<(SocketAddr, TcpListener)>,
    is_shared: bool,
    release: Option<SocketRelease>,
}

/// Signal that the predecessor has stopped reading the QUIC sockets.
///
/// A QUIC connection is known to one process only: if both read one socket, each loses datagrams of the other's
/// connections.
#[derive(Clone, Debug)]
pub(crate) struct SocketRelease(watch::Receiver<()>);

impl SocketRelease {
    /// Creates a signal, which is given when the sender is dropped.
    pub(crate) fn new() -> (watch::Sender<()>, Self) {
        let (sender, receiver) = watch::channel(());
        (sender, Self(receiver))
    }

    /// Completes when the signal is given.
    #[cfg_attr(not(feature = "quic"), allow(dead_code, reason = "there are no QUIC sockets"))]
    pub(crate) async fn wait(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

impl InheritedSockets {
    /// Takes the sockets that the service manager has bound for this process (sd_listen_fds(3)); empty without a
    /// service manager, and when called again.
    ///
    /// The service manager keeps them: when this process ends, their queues wait for the next one.
    ///
    /// # Errors
    ///
    /// A socket is neither UDP nor a listening TCP socket, or has no IP address.
    pub fn from_service_manager() -> Result<Self> {
        let sockets = fds::from_service_manager().context("cannot take the sockets of the service manager")?;
        Ok(Self { is_shared: true, ..Self::sort(sockets).context("a socket of the service manager cannot be used")? })
    }

    /// Sorts sockets by protocol and address.
    pub(crate) fn sort(sockets: Vec<OwnedFd>) -> Result<Self> {
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

    /// Delays reading the QUIC sockets until `release`, when the predecessor has stopped reading them.
    pub(crate) fn with_release(self, release: SocketRelease) -> Self {
        Self { release: Some(release), ..self }
    }

    #[cfg(test)]
    pub(crate) fn release(&self) -> Option<SocketRelease> {
        self.release.clone()
    }

    /// Returns the addresses of the sockets, each once.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses_but_for(&[])
    }

    /// Returns the addresses of the sockets, each once, without those that an address of `excluded` uses.
    pub fn addresses_but_for(&self, excluded: &[ListenAddress]) -> Vec<SocketAddr> {
        let free = |address: &SocketAddr, over: fn(ListenProtocol) -> bool| {
            !excluded.iter().any(|excluded| excluded.address == *address && over(excluded.protocol))
        };
        let udp =
            self.udp.iter().map(|(address, _)| address).filter(|address| free(address, ListenProtocol::is_over_udp));
        let tcp =
            self.tcp.iter().map(|(address, _)| address).filter(|address| free(address, ListenProtocol::is_over_tcp));
        let mut addresses = Vec::new();
        for address in udp.chain(tcp) {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        addresses
    }

    /// Returns the number of sockets.
    pub fn count(&self) -> usize {
        self.udp.len() + self.tcp.len()
    }

    fn take(&mut self, listen: ListenAddress) -> (Vec<UdpSocket>, Option<TcpListener>) {
        let ListenAddress { protocol: kind, address } = listen;
        let wanted = |bound: &mut (SocketAddr, UdpSocket)| kind.is_over_udp() && bound.0 == address;
        let udp = self.udp.extract_if(.., wanted).map(|(_, socket)| socket).collect();
        let tcp = self.tcp.iter().position(|(bound, _)| kind.is_over_tcp() && *bound == address);
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
    /// An address cannot be bound. The error names it and says what to do.
    pub fn bind(addresses: &[SocketAddr], workers: usize) -> Result<Self> {
        let listen: Vec<_> = addresses.iter().copied().map(ListenAddress::plain).collect();
        Self::inherit(InheritedSockets::default(), &listen, workers)
    }

    /// Binds the sockets of every address and protocol, except those that are inherited. Inherited sockets of other
    /// addresses are closed. All or nothing.
    ///
    /// # Errors
    ///
    /// As [`Listeners::bind`].
    pub fn inherit(mut inherited: InheritedSockets, listen: &[ListenAddress], workers: usize) -> Result<Self> {
        ensure!(!listen.is_empty(), "no address to listen on: give at least one, such as 0.0.0.0:53");
        let workers = workers.max(1);
        let mut receive_buffer = usize::MAX;
        let mut bound = Vec::new();
        for &listen in listen {
            let one = match inherited.take(listen) {
                (udp, None) if udp.is_empty() => bind(listen, workers)?,
                (udp, tcp) => BoundSockets {
                    is_shared: inherited.is_shared,
                    release: inherited.release.clone(),
                    ..from_inherited(listen, udp, tcp, workers)?
                },
            };
            for socket in &one.udp {
                let given = sys::set_receive_buffer(socket, udp::RECEIVE_BUFFER);
                receive_buffer = receive_buffer.min(given.context("cannot ask for a receive buffer")?);
            }
            bound.push(one);
        }
        Ok(Self { bound, receive_buffer, certificates: None })
    }

    /// Sets the certificate of encrypted listeners.
    pub fn certified(self, certificates: Option<Certificates>) -> Self {
        Self { certificates, ..self }
    }

    /// Returns the bound addresses, in the order of the request, with the ports that the kernel chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.bound.iter().map(|bound| bound.listen.address).collect()
    }

    /// Returns the bound addresses with their protocols, in the order of the request.
    pub fn listen_addresses(&self) -> Vec<ListenAddress> {
        self.bound.iter().map(|bound| bound.listen).collect()
    }

    /// Returns the smallest receive buffer that the kernel gave a UDP socket, in octets; 4 MiB were requested. A small
    /// one loses queries in bursts. [`usize::MAX`] without a UDP socket.
    pub fn receive_buffer(&self) -> usize {
        self.receive_buffer
    }

    pub(crate) fn into_parts(self) -> (Vec<BoundSockets>, Option<Certificates>) {
        (self.bound, self.certificates)
    }
}

impl BoundSockets {
    /// Adds UDP sockets up to one for each of `workers`. Call it immediately before they are read: while another
    /// process still reads the inherited ones, the kernel would give a new socket of their group its share of the
    /// datagrams at once.
    pub(crate) fn fill(&mut self, workers: usize) {
        let ListenAddress { protocol: kind, address } = self.listen;
        let workers = if kind == ListenProtocol::Plain { workers } else { 1 };
        while let Some(first) = self.udp.first()
            && self.udp.len() < workers
        {
            // A socket that another process bound without SO_REUSEPORT cannot get a second one: all threads share it.
            let shares_port = SockRef::from(first).reuse_port().unwrap_or(false);
            let another = if shares_port { bind_udp(address) } else { first.try_clone() };
            match another {
                Ok(socket) => {
                    // A smaller buffer is no failure: `receive_buffer` has reported that of the first sockets.
                    let _ = sys::set_receive_buffer(&socket, udp::RECEIVE_BUFFER);
                    self.udp.push(socket);
                }
                Err(error) => {
                    let sockets = self.udp.len();
                    tracing::warn!("{address} has {sockets} UDP sockets and not {workers}: {error}");
                    return;
                }
            }
        }
    }
}

/// Prepares inherited sockets, and binds the missing ones.
fn from_inherited(
    listen: ListenAddress,
    mut udp: Vec<UdpSocket>,
    tcp: Option<TcpListener>,
    workers: usize,
) -> Result<BoundSockets> {
    let ListenAddress { protocol: kind, address } = listen;
    if kind == ListenProtocol::Quic {
        // A predecessor that served plain DNS here may have had one socket for each thread.
        udp.truncate(1);
    }
    for socket in &udp {
        let fits = if kind == ListenProtocol::Quic { socket.set_nonblocking(true) } else { prepare(socket, address) };
        fits.with_context(|| format!("cannot use the inherited UDP socket of {listen}"))?;
    }
    let failed = |protocol| move |error| bind_error(listen, protocol, error).1;
    if udp.is_empty() && kind.is_over_udp() {
        udp = bind_datagrams(listen, workers).map_err(failed("UDP"))?;
    }
    let tcp = match tcp {
        None if kind.is_over_tcp() => Some(bind_tcp(address).map_err(failed("TCP"))?),
        tcp => tcp,
    };
    if let Some(tcp) = &tcp {
        tcp.set_nonblocking(true).map_err(failed("TCP"))?;
        SockRef::from(tcp).set_tcp_nodelay(true).map_err(failed("TCP"))?;
    }
    Ok(BoundSockets { listen, udp, tcp, is_shared: false, release: None })
}

fn bind(listen: ListenAddress, workers: usize) -> Result<BoundSockets> {
    // A port that is free for TCP can be taken for UDP; the kernel then chooses again.
    let mut tries = if listen.address.port() == 0 { 32 } else { 1 };
    loop {
        tries -= 1;
        match bind_once(listen, workers) {
            Err((ErrorKind::AddrInUse, _)) if tries > 0 => {}
            result => return result.map_err(|(_, error)| error),
        }
    }
}

/// Binds the sockets of one address, TCP first: two UDP sockets of this program can share a port without an error
/// (SO_REUSEPORT), two TCP listeners cannot. So a second server on one address fails to bind, and the kernel gives no
/// port to two servers.
fn bind_once(listen: ListenAddress, workers: usize) -> Result<BoundSockets, (ErrorKind, anyhow::Error)> {
    let ListenAddress { protocol: kind, mut address } = listen;
    let failed = |protocol| move |error| bind_error(listen, protocol, error);
    let tcp = kind.is_over_tcp().then(|| bind_tcp(address)).transpose().map_err(failed("TCP"))?;
    if let Some(tcp) = &tcp {
        address = tcp.local_addr().map_err(failed("TCP"))?;
    }
    let udp = bind_datagrams(ListenAddress { protocol: kind, address }, workers).map_err(failed("UDP"))?;
    if let (None, Some(udp)) = (&tcp, udp.first()) {
        address = udp.local_addr().map_err(failed("UDP"))?;
    }
    Ok(BoundSockets { listen: ListenAddress { protocol: kind, address }, udp, tcp, is_shared: false, release: None })
}

fn bind_datagrams(listen: ListenAddress, workers: usize) -> io::Result<Vec<UdpSocket>> {
    match listen.protocol {
        ListenProtocol::Plain => (0..workers).map(|_| bind_udp(listen.address)).collect(),
        ListenProtocol::Quic => bind_quic(listen.address).map(|socket| vec![socket]),
        ListenProtocol::Tls | ListenProtocol::Https => Ok(Vec::new()),
    }
}

/// Binds a UDP socket without SO_REUSEPORT, so that no other socket has its port: a QUIC connection must not move
/// between sockets.
fn bind_quic(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address, Type::STREAM, Protocol::TCP)?;
    // Allows the address although connections of an earlier process are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    // Disables Nagle's algorithm, or responses would be delayed; accepted connections inherit the option (tcp(7) of
    // Linux).
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    socket.set_reuse_port(true)?;
    let socket = UdpSocket::from(socket);
    // Before `bind`, because the socket receives from then on.
    prepare(&socket, address)?;
    SockRef::from(&socket).bind(&address.into())?;
    Ok(socket)
}

/// Sets the options that the UDP worker relies on.
fn prepare(socket: &UdpSocket, address: SocketAddr) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(udp::RECEIVE_TIMEOUT))?;
    socket.set_write_timeout(Some(udp::RECEIVE_TIMEOUT))?;
    sys::omit_path_mtu(socket, address.is_ipv6())?;
    if address.ip().is_unspecified() {
        sys::enable_pktinfo(socket, address.is_ipv6())?;
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

/// Returns the kind of the error, and an error that names the address and what to do.
fn bind_error(listen: ListenAddress, protocol: &str, error: io::Error) -> (ErrorKind, anyhow::Error) {
    let kind = error.kind();
    let what = cannot_listen(listen, protocol);
    let port = listen.address.port();
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

pub(crate) fn cannot_listen(listen: ListenAddress, protocol: &str) -> String {
    match listen.protocol {
        ListenProtocol::Plain => format!("cannot listen on {} over {protocol}", listen.address),
        ListenProtocol::Tls | ListenProtocol::Https | ListenProtocol::Quic => format!("cannot listen on {listen}"),
    }
}
