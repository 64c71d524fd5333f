//! The sockets of the admin listener, and the limits of its clients: number of connections, and deadlines.
//!
//! Kubelet's probes connect here, so no client may keep another from connecting: above [`AdminLimits::connections`] the
//! connection that has waited longest is evicted, and each phase of a connection has a deadline (`clock.rs`). Not here:
//! requests and responses (`mod.rs`).

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep};
use tower::ServiceExt as _;

use super::body::TimedBody;
use super::clock::{AdminLimits, PhaseTimer, RequestPhase};
use super::routes::Exposure;

/// Size limit of a request's head in octets; beyond it the status is 431.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Limit on the header fields of a request; beyond it the status is 431.
const MAX_HEADER_FIELDS: usize = 64;
/// Time for which a request is safe from eviction.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// A bound socket that accepts no connection yet.
#[derive(Debug)]
pub(super) struct BoundAdminSocket {
    pub(super) address: SocketAddr,
    pub(super) exposure: Exposure,
    listener: std::net::TcpListener,
}

/// Binds `address` with SO_REUSEPORT, so that the next process of a hot restart can bind it too.
///
/// # Errors
///
/// An address that cannot be bound, with the option, the address and the action to take.
pub(super) fn bind(option: &str, address: SocketAddr, exposure: Exposure) -> anyhow::Result<BoundAdminSocket> {
    let bound = listener(address).and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = bound.map_err(|error| sentence(option, address, error))?;
    Ok(BoundAdminSocket { address, exposure, listener })
}

fn listener(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn sentence(option: &str, address: SocketAddr, error: io::Error) -> anyhow::Error {
    let what = format!("cannot listen on {address} over HTTP (--{option})");
    let port = address.port();
    let advice = match error.kind() {
        ErrorKind::AddrInUse => format!(
            "another program has TCP port {port} there; `ss -lntp sport = :{port}` shows which. Stop it, choose \
             another address, or none"
        ),
        ErrorKind::PermissionDenied if port < 1024 => {
            "ports below 1024 need root or the capability NET_BIND_SERVICE. Add it or choose a higher port".into()
        }
        ErrorKind::AddrNotAvailable => "this host has no such address. Choose one that `ip address` shows".into(),
        _ => return anyhow::Error::new(error).context(what),
    };
    anyhow!("{what}: {advice}")
}

/// Answers requests by `router` until the future is dropped.
///
/// # Errors
///
/// If the socket cannot be used.
pub(super) async fn serve(bound: BoundAdminSocket, limits: AdminLimits, router: Router) -> anyhow::Result<()> {
    let BoundAdminSocket { address, listener, .. } = bound;
    let listener = TcpListener::from_std(listener).with_context(|| format!("cannot listen on {address}"))?;
    let mut connections = Connections::default();
    loop {
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            () = connections.ended() => continue,
        };
        if connections.open.len() < limits.connections || connections.evict_oldest() {
            connections.start(stream, limits, router.clone());
        }
    }
}

/// Accepts a connection. Retries every 100 ms while the system is out of resources.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // The client has gone, or file descriptors ran out.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// The open connections and their tasks.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    open: HashMap<Id, (AbortHandle, Arc<PhaseTimer>)>,
}

impl Connections {
    fn start(&mut self, stream: TcpStream, limits: AdminLimits, router: Router) {
        let timer = Arc::new(PhaseTimer::new(limits));
        let task = self.tasks.spawn(connection(stream, Arc::clone(&timer), router));
        self.open.insert(task.id(), (task, timer));
    }

    /// Waits for a connection that ends; for ever if none is open.
    async fn ended(&mut self) {
        let ended = match self.tasks.join_next_with_id().await {
            None => return std::future::pending().await,
            Some(ended) => ended.map_or_else(|error| error.id(), |(id, ())| id),
        };
        self.open.remove(&ended);
    }

    /// Evicts the connection that has waited longest: first one without a complete request, then one that has waited
    /// for its response longer than [`EVICTION_GRACE`]. Returns whether there was one.
    fn evict_oldest(&mut self) -> bool {
        let now = Instant::now();
        let waited = self.open.iter().filter_map(|(id, (_, timer))| {
            let (at, since) = timer.current();
            let may_go = at != RequestPhase::Request || now.saturating_duration_since(since) > EVICTION_GRACE;
            may_go.then_some((at == RequestPhase::Request, since, *id))
        });
        let Some((_, _, longest)) = waited.min_by_key(|(busy, since, _)| (*busy, *since)) else { return false };
        if let Some((task, _)) = self.open.remove(&longest) {
            task.abort();
        }
        true
    }
}

/// Serves one connection until it ends or misses a deadline.
async fn connection(stream: TcpStream, timer: Arc<PhaseTimer>, router: Router) {
    let service = service_fn(|request| {
        timer.enter_phase(RequestPhase::Request);
        let (response, timer) = (router.clone().oneshot(request), Arc::clone(&timer));
        async { Ok::<_, Infallible>(response.await?.map(|body| TimedBody { body, timer })) }
    });
    let timed = TokioIo::new(TimedStream { stream, timer: Arc::clone(&timer) });
    let serving = http1::Builder::new()
        // hyper has one timeout for both an idle client and a slow one. [`PhaseTimer`] has two.
        .header_read_timeout(None)
        .max_header_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADER_FIELDS)
        .max_buf_size(2 * MAX_HEAD_BYTES)
        .serve_connection(timed, service);
    tokio::select! {
        // Errors of the client concern no other client.
        _ = pin!(serving) => {}
        () = timer.expired() => {}
    }
}

/// A connection that reports the first octet of a request to its timer.
struct TimedStream {
    stream: TcpStream,
    timer: Arc<PhaseTimer>,
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before && self.timer.current().0 == RequestPhase::Idle {
            self.timer.enter_phase(RequestPhase::Head);
        }
        read
    }
}

forward_async_write!(TimedStream, stream);
