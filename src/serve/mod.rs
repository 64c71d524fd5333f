//! Where questions come from: the sockets, and the loops that read from them and write to them.
//!
//! ```text
//!   bind ──▶ Listeners ──▶ serve ──┬─▶ udp.rs   one thread per worker and address ──▶ sys.rs
//!                                  ├─▶ tcp.rs   one task per connection ──▶ seats.rs
//!                                  └─▶ forward/ one thread for what others have to answer
//! ```
//!
//! Every message goes to the one [`Responder`], and what comes back is sent: nothing here knows what a query is. Not
//! here: the gate and the answer (`answer.rs`), and which addresses to listen on (`config.rs`). Read next: `udp.rs`.

pub mod forward;
mod seats;
mod sys;
mod tcp;
mod udp;

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::answer::Responder;
use crate::metrics::Metrics;

use forward::{Forwarder, Lane};

/// What a client may take of the server over TCP (RFC 7766 sections 6.2 and 10, RFC 9210 section 4).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time, over all addresses. Above it, the one that has not asked for longest is closed in favour
    /// of the new one. Default: 16,384.
    pub connections: usize,
    /// Connections at a time from one client address; above it, the new one is closed. An IPv6 client too counts by
    /// its whole address: by default a Kubernetes Node has one /64 for all of its Pods. Default: 1,024.
    pub per_client: usize,
    /// How long a connection is kept that asks nothing. Default: 30 s, which is longer than a CoreDNS keeps its own.
    pub idle: Duration,
    /// How long a message may take from its first octet to its last. Default: 3 s.
    pub unfinished: Duration,
    /// How long responses may wait for a client that reads nothing. Default: 5 s.
    pub unread: Duration,
    /// Octets held at a time for all clients that are slow in writing or reading, not counting the first 1,024 of each.
    /// A connection that needs more is closed. Default: 64 MiB.
    pub held: usize,
    /// How long what is in flight may take when the server stops. Default: 5 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            per_client: 1_024,
            idle: Duration::from_secs(30),
            unfinished: Duration::from_secs(3),
            unread: Duration::from_secs(5),
            held: 64 << 20,
            drain: Duration::from_secs(5),
        }
    }
}

/// Tells threads and tasks to stop. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Told>);

#[derive(Debug, Default)]
struct Told {
    told: AtomicBool,
    waiters: Notify,
}

impl Stop {
    /// Tells everyone, for good.
    pub fn tell(&self) {
        self.0.told.store(true, Ordering::Release);
        self.0.waiters.notify_waiters();
    }

    /// Whether it was told. For threads: it costs a load.
    pub fn told(&self) -> bool {
        self.0.told.load(Ordering::Acquire)
    }

    /// Returns once it is told. For tasks.
    pub async fn wait(&self) {
        let waiting = self.0.waiters.notified();
        tokio::pin!(waiting);
        // First in the list, then look: told in between is heard.
        waiting.as_mut().enable();
        if !self.told() {
            waiting.await;
        }
    }
}

/// Sockets that are bound, and serve nobody yet: what comes is queued by the kernel.
#[derive(Debug)]
pub struct Listeners {
    bound: Vec<Bound>,
    receive_buffer: usize,
    forwarder: Option<Forwarder>,
}

/// The sockets of one listen address.
#[derive(Debug)]
struct Bound {
    address: SocketAddr,
    /// One per worker. The kernel gives each client to one of them (SO_REUSEPORT).
    udp: Vec<UdpSocket>,
    tcp: TcpListener,
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
        ensure!(!addresses.is_empty(), "no address to listen on: give at least one, such as 0.0.0.0:53");
        let bound = addresses.iter().map(|&address| bind(address, workers.max(1))).collect::<Result<Vec<_>>>()?;
        let mut receive_buffer = usize::MAX;
        for socket in bound.iter().flat_map(|bound| &bound.udp) {
            let given = sys::ask_receive_buffer(socket, udp::RECEIVE_BUFFER);
            receive_buffer = receive_buffer.min(given.context("cannot ask for a receive buffer")?);
        }
        Ok(Self { bound, receive_buffer, forwarder: None })
    }

    /// Also asks others, for what the responder leaves to them.
    pub fn forwarding(self, forwarder: Forwarder) -> Self {
        Self { forwarder: Some(forwarder), ..self }
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

    /// Answers until told to stop. Returns when everything that was received before is answered, and all sockets are
    /// closed; clients over TCP that do not take their responses have [`Limits::drain`].
    ///
    /// Must run in a Tokio runtime with time and I/O. Dropping what it returns tells `stop`.
    ///
    /// # Errors
    ///
    /// A thread could not be started, or the TCP part of an address ended by itself. All others are told to stop then.
    pub async fn serve(
        self,
        responder: Arc<Responder>,
        metrics: Arc<Metrics>,
        limits: Limits,
        stop: Stop,
    ) -> Result<()> {
        // However this ends, the others end too.
        let _last = TellOnDrop(&stop);
        let lane = self.forwarder.map(|forwarder| forwarder.start(&metrics, &stop)).transpose()?;
        let door = || lane.as_ref().map(Lane::door);
        let shared = tcp::Shared::new(Arc::clone(&responder), Arc::clone(&metrics), limits, stop.clone(), door());
        let shared = Arc::new(shared);
        let mut threads = udp::Threads::new(&responder, &metrics, &stop, door());
        let mut tasks = JoinSet::new();
        for bound in self.bound {
            for socket in bound.udp {
                threads.start(socket, bound.address)?;
            }
            let listener = tcp::listener(bound.tcp).with_context(|| cannot_listen(bound.address, "TCP"))?;
            tasks.spawn(tcp::listen(listener, bound.address, Arc::clone(&shared)));
        }
        let mut result = Ok(());
        while let Some(ended) = tasks.join_next().await {
            if !stop.told() {
                result = Err(anyhow!("stopped answering TCP on one address, and so altogether"));
                stop.tell();
            }
            result = result.and(ended.context("answering TCP failed"));
        }
        threads.ended().await;
        drop(shared);
        if let Some(lane) = lane {
            lane.ended().await;
        }
        result
    }
}

struct TellOnDrop<'s>(&'s Stop);

impl Drop for TellOnDrop<'_> {
    fn drop(&mut self) {
        self.0.tell();
    }
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
    Ok(Bound { address, udp: udp.map_err(|error| explain(address, "UDP", error))?, tcp })
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
    socket.set_read_timeout(Some(udp::LONGEST_WAIT))?;
    socket.set_write_timeout(Some(udp::LONGEST_WAIT))?;
    let socket = UdpSocket::from(socket);
    sys::omit_path_mtu(&socket, address.is_ipv6())?;
    if address.ip().is_unspecified() {
        sys::tell_address_asked(&socket, address.is_ipv6())?;
    }
    socket2::SockRef::from(&socket).bind(&address.into())?;
    Ok(socket)
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

fn cannot_listen(address: SocketAddr, protocol: &str) -> String {
    format!("cannot listen on {address} over {protocol}")
}

/// Where a socket that is bound to `address` reaches itself.
fn own_address(address: SocketAddr) -> SocketAddr {
    let mut own = address;
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => own.set_ip(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => own.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    own
}
