//! Where questions come from: the sockets, and the loops that read from them and write to them.
//!
//! ```text
//!   bind, inherit ──▶ Listeners ──▶ Server ──┬─▶ udp.rs     one thread per worker and address ──▶ sys.rs
//!   (bind.rs, takeover.rs, relay.rs, fds.rs) ├─▶ tcp.rs     accepts ──┬───────────────▶ connection.rs
//!                                            │                        └─▶ encrypted/ TLS ──┘ and HTTPS
//!                                            ├─▶ encrypted/ QUIC
//!                                            └─▶ forward/   one thread for what others have to answer
//!
//!   connections of all kinds ──▶ guests.rs (their tasks) ──▶ place.rs (their address) ──▶ desk.rs, seats.rs
//! ```
//!
//! Arrows point to the right and down: no file names one that names it, but for what stands here, which all name.
//! Every message goes to the one [`Responder`], and what comes back is sent: nothing here knows what a query is. Here:
//! what runs, and how it is told to end ([`Stop`]). Not here: the gate and the answer (`answer.rs`), and which addresses
//! to listen on (`config.rs`). Read next: `bind.rs`, `udp.rs`.

mod bind;
mod connection;
mod desk;
pub mod encrypted;
mod fds;
pub mod forward;
#[doc(hidden)]
pub mod fuzzing;
mod guests;
mod place;
mod query_log;
mod relay;
mod seats;
mod sys;
pub mod takeover;
mod tcp;
mod udp;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::answer::{Responder, Transport};
use crate::liveness::Liveness;
use crate::metrics::Metrics;

pub use bind::{Inherited, Listeners};
pub use query_log::{Choice, Format, LogWriter, QueryLog};
pub use sys::give_back_large_blocks;

use bind::Bound;
use encrypted::Handshakes;
use encrypted::certificates::Certificates;
use forward::{Forwarder, Lane};
use place::{Place, Shared};
use query_log::QueryLogger;
use seats::Seats;
use takeover::Handout;

/// Interval of the checks whether enough connections have ended to give their memory back.
const GIVE_BACK_INTERVAL: Duration = Duration::from_secs(2);
/// Number of times that memory is given back after that.
const GIVE_BACK_ROUNDS: usize = 3;

/// What is spoken at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// DNS over UDP and TCP.
    Plain,
    /// DNS over TLS (RFC 7858).
    Tls,
    /// DNS over HTTPS (RFC 8484).
    Https,
    /// DNS over QUIC (RFC 9250).
    Quic,
}

impl Kind {
    fn is_over_tcp(self) -> bool {
        self != Self::Quic
    }

    fn is_over_udp(self) -> bool {
        matches!(self, Self::Plain | Self::Quic)
    }

    /// Whether a connection holds much, idle or not: the buffers of HTTP/2 or of QUIC.
    fn is_large(self) -> bool {
        matches!(self, Self::Https | Self::Quic)
    }

    /// How messages come over its streams.
    pub(crate) fn transport(self) -> Transport {
        match self {
            Self::Plain => Transport::Tcp,
            Self::Tls => Transport::Tls,
            Self::Https => Transport::Https,
            Self::Quic => Transport::Quic,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "UDP and TCP",
            Self::Tls => "TLS",
            Self::Https => "HTTPS",
            Self::Quic => "QUIC",
        })
    }
}

/// Where questions are taken, and what is spoken there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddress {
    /// What is spoken.
    pub kind: Kind,
    /// Where.
    pub address: SocketAddr,
}

impl ListenAddress {
    /// For DNS over UDP and TCP.
    pub fn plain(address: SocketAddr) -> Self {
        Self { kind: Kind::Plain, address }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} over {}", self.address, self.kind)
    }
}

/// What a client may take of the server over TCP, and what is over TCP or like it (RFC 7766 sections 6.2 and 10, RFC 9210
/// section 4).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time, over all addresses. Above it, the one that has not asked for longest is closed in favour
    /// of the new one. Default: 16,384.
    pub connections: usize,
    /// Of these, those over HTTPS and QUIC, which hold many times as much as others. Above it, the one of them that has
    /// not asked for longest is closed in favour of a new one of them. Default: 4,096, a quarter.
    pub large: usize,
    /// Concurrent connections per client; above it, a new connection is closed. Default: 1,024.
    pub per_client: usize,
    /// Length in bits, 1 to 128, of the prefix by which clients with global IPv6 addresses are counted, because one
    /// host may have a whole /64 (RFC 4862). Clients to which names are explained ([`Responder::explains_to`]) count by
    /// their address: a Kubernetes Node may have one /64 for all its Pods. Default: 64.
    pub client_prefix_v6: u8,
    /// How long the handshake of an encrypted connection may take. Default: 3 s.
    pub handshake: Duration,
    /// How long a connection is kept that asks nothing. Default: 30 s, which is longer than a CoreDNS keeps its own.
    pub idle: Duration,
    /// How long a message may take from its first octet to its last. Default: 3 s.
    pub unfinished: Duration,
    /// How long responses may wait for a client that reads nothing. Default: 5 s.
    pub unread: Duration,
    /// Octets held at a time for all clients that are slow in writing, reading or their handshakes, not counting the
    /// first 1,024 of each. Above it, those of these connections that have not asked for longest are closed. Default:
    /// 64 MiB.
    pub held: usize,
    /// Time limit for requests in flight when the server stops, those that wait for an upstream included. Default: 5 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            large: 4_096,
            per_client: 1_024,
            client_prefix_v6: 64,
            handshake: Duration::from_secs(3),
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
pub struct Stop {
    own: Arc<Told>,
    /// What is told here is told to this one too.
    above: Option<Arc<Told>>,
}

#[derive(Debug, Default)]
struct Told {
    phase: AtomicU8,
    waiters: Notify,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// It ends soon, and answers as before; connections that ask nothing are closed.
    Leaving = 1,
    /// What was received is answered, and nothing more is taken.
    Draining = 2,
    /// Another process reads the same sockets: whatever is queued is for it.
    HandedOver = 3,
}

impl Stop {
    /// One that hears what this one is told, and can be told alone.
    fn child(&self) -> Self {
        Self { own: Arc::default(), above: Some(Arc::clone(&self.own)) }
    }

    /// The end comes soon: everything is answered as before, and connections over TCP that ask nothing are closed.
    pub fn leave(&self) {
        self.enter(Phase::Leaving);
    }

    /// Tells everyone, for good: to answer what was received, and to end.
    pub fn tell(&self) {
        self.enter(Phase::Draining);
    }

    /// Tells everyone, for good: to end, and to leave what is queued to the other process that reads the sockets.
    pub fn hand_over(&self) {
        self.enter(Phase::HandedOver);
    }

    fn enter(&self, phase: Phase) {
        self.own.phase.fetch_max(phase as u8, Ordering::AcqRel);
        self.own.waiters.notify_waiters();
    }

    /// Whether it was told to end. For threads: it costs two loads.
    pub fn told(&self) -> bool {
        self.is_in(Phase::Draining)
    }

    fn is_leaving(&self) -> bool {
        self.is_in(Phase::Leaving)
    }

    fn is_handed_over(&self) -> bool {
        self.is_in(Phase::HandedOver)
    }

    fn is_in(&self, phase: Phase) -> bool {
        let told = |told: &Told| told.phase.load(Ordering::Acquire) >= phase as u8;
        told(&self.own) || self.above.as_deref().is_some_and(told)
    }

    /// Returns once it is told to end. For tasks.
    pub async fn wait(&self) {
        self.wait_for(Phase::Draining).await;
    }

    async fn wait_for(&self, phase: Phase) {
        loop {
            let mut own = std::pin::pin!(self.own.waiters.notified());
            let mut above = std::pin::pin!(self.above.as_ref().map(|above| above.waiters.notified()));
            // First in the list, then look: told in between is heard.
            own.as_mut().enable();
            if let Some(above) = above.as_mut().as_pin_mut() {
                above.enable();
            }
            if self.is_in(phase) {
                return;
            }
            match above.as_mut().as_pin_mut() {
                Some(above) => tokio::select! { () = own => {}, () = above => {} },
                None => own.await,
            }
        }
    }
}

/// Sockets that are served from now on, and then addresses that are no more: while a server runs.
#[derive(Debug)]
pub struct Change {
    /// What is served from now on.
    pub start: Option<Listeners>,
    /// The addresses that are left; everything that was received there is answered.
    pub stop: Vec<ListenAddress>,
}

impl Change {
    /// The same, and where it is encrypted, the server shows this certificate.
    pub fn certified(self, certificates: Option<Certificates>) -> Self {
        Self { start: self.start.map(|start| start.certified(certificates)), ..self }
    }
}

/// What runs: the threads and tasks of every address.
pub struct Server {
    stop: Stop,
    udp: udp::Common,
    streams: Shared,
    handout: Option<Handout>,
    lane: Option<Lane>,
    /// One task for each address, which is the parent of all that serves it.
    places: JoinSet<(ListenAddress, Result<()>)>,
    stops: HashMap<ListenAddress, Stop>,
    workers: usize,
}

impl Server {
    /// Nothing is served yet. `workers` is how many threads serve each address, at least 1.
    pub fn new(responder: Arc<Responder>, metrics: Arc<Metrics>, limits: Limits, workers: usize, stop: Stop) -> Self {
        let udp = udp::Common::new(Arc::clone(&responder), Arc::clone(&metrics));
        let streams = Shared::new(responder, metrics, limits, stop.clone());
        Self { stop, udp, streams, handout: None, lane: None, places: JoinSet::new(), stops: HashMap::new(), workers }
    }

    /// The same, and questions have lines in `log`.
    pub fn logging(mut self, log: Arc<QueryLog>) -> Self {
        let log = QueryLogger::new(log);
        (self.udp.log, self.streams.log) = (log.clone(), log);
        self
    }

    /// The same, and others are asked for what the responder leaves to them.
    ///
    /// # Errors
    ///
    /// A thread could not be started.
    pub fn forwarding(mut self, forwarder: Forwarder) -> Result<Self> {
        let responder = Arc::clone(&self.streams.responder);
        let lane = forwarder.start(
            responder,
            self.udp.metrics(),
            &self.udp.liveness,
            &self.stop,
            self.streams.limits.drain,
        )?;
        (self.udp.door, self.streams.door) = (Some(lane.door()), Some(lane.door()));
        self.lane = Some(lane);
        Ok(self)
    }

    /// The same, and all sockets can be handed over.
    pub fn handing_out(self, handout: Handout) -> Self {
        Self { handout: Some(handout), ..self }
    }

    /// Has `liveness` watch the workers. Comes before [`Self::forwarding`] and [`Self::start`].
    pub fn with_liveness(mut self, liveness: Liveness) -> Self {
        self.udp.liveness = liveness;
        self
    }

    /// Begins to answer. Must run in a Tokio runtime with time and I/O.
    ///
    /// # Errors
    ///
    /// A thread could not be started, or there is no certificate for an address that is encrypted. What was started before
    /// then goes on.
    pub fn start(&mut self, listeners: Listeners) -> Result<()> {
        let (bound, certificates) = listeners.into_parts();
        bound.into_iter().try_for_each(|bound| self.start_one(bound, certificates.as_ref()))
    }

    fn start_one(&mut self, mut bound: Bound, certificates: Option<&Certificates>) -> Result<()> {
        bound.fill(self.workers);
        let Bound { listen, udp, tcp, kept, inbox } = bound;
        let stop = self.stop.child();
        let registered = self.handout.as_ref().map(|handout| handout.register(&udp, tcp.as_ref())).transpose();
        let registered = registered.with_context(|| format!("cannot keep {listen} ready for another process"))?;
        let handshakes = Handshakes::of(listen.kind, certificates)?;
        let shared = Arc::new(self.streams.for_place(listen, stop.clone()));
        let place = Place { kept, shared, registered };
        let mut parts = Parts::new();
        match tcp {
            Some(tcp) => {
                let listener = tcp::listener(tcp).with_context(|| bind::cannot_listen(listen, "TCP"))?;
                parts.spawn(async move {
                    tcp::listen(listener, place, handshakes).await;
                    Ok(())
                });
                if !udp.is_empty() {
                    parts.spawn(self.threads(listen, udp, kept, &stop)?.ended());
                }
            }
            None => encrypted::start_quic(&mut parts, (udp, inbox), certificates, place)?,
        }
        self.stops.insert(listen, stop.clone());
        self.places.spawn(async move { (listen, all_parts(parts, listen, &stop).await) });
        Ok(())
    }

    fn threads(&self, listen: ListenAddress, sockets: Vec<UdpSocket>, kept: bool, stop: &Stop) -> Result<udp::Threads> {
        let mut threads = udp::Threads::new(self.udp.clone(), stop.clone(), listen.address, kept);
        for socket in sockets {
            // Those that were started end with this stop.
            threads.start(socket).inspect_err(|_| stop.tell())?;
        }
        Ok(threads)
    }

    /// Answers until told to stop, and takes changes. Returns when everything that was received before is answered, and
    /// all sockets are closed; clients over TCP that do not take their responses have [`Limits::drain`].
    ///
    /// # Errors
    ///
    /// What serves an address ended by itself. All others are told to stop then.
    pub async fn run(mut self, mut changes: mpsc::UnboundedReceiver<Change>) -> Result<()> {
        // However this ends, the others end too.
        let _last = TellOnDrop(self.stop.clone());
        let mut memory = pin!(give_memory_back(Arc::clone(&self.streams.seats)));
        let mut result = Ok(());
        let mut open = true;
        loop {
            let change = tokio::select! {
                biased;
                never = &mut memory => match never {},
                ended = self.places.join_next() => match ended {
                    Some(ended) => {
                        result = result.and(self.ended(ended));
                        continue;
                    }
                    None => break,
                },
                change = changes.recv(), if open => change,
            };
            match change {
                Some(Change { start, stop }) => {
                    if let Some(listeners) = start
                        && let Err(error) = self.start(listeners)
                    {
                        tracing::error!("{error:#}");
                    }
                    stop.iter().filter_map(|address| self.stops.get(address)).for_each(Stop::tell);
                }
                None => open = false,
            }
        }
        let Self { udp, streams, lane, .. } = self;
        drop((udp, streams));
        if let Some(lane) = lane {
            lane.ended().await;
        }
        result
    }

    fn ended(&mut self, ended: Result<(ListenAddress, Result<()>), tokio::task::JoinError>) -> Result<()> {
        let result = match ended {
            Ok((listen, result)) => {
                self.stops.remove(&listen);
                result
            }
            Err(error) => Err(error).context("answering failed"),
        };
        if result.is_err() {
            self.stop.tell();
        }
        result
    }
}

/// Gives memory back to the system when many connections have ended: at once, and after a while what QUIC kept of them for
/// their last packets (RFC 9000 section 10.2).
async fn give_memory_back(seats: Arc<Seats>) -> Infallible {
    let mut rounds = 0;
    loop {
        sleep(GIVE_BACK_INTERVAL).await;
        if seats.take_decrease() {
            rounds = GIVE_BACK_ROUNDS;
        }
        if rounds > 0 {
            rounds -= 1;
            sys::give_back_free_memory();
        }
    }
}

/// What serves one address.
type Parts = JoinSet<Result<()>>;

/// Returns when all parts have ended. However one of them ends, the others end too.
async fn all_parts(mut parts: Parts, listen: ListenAddress, stop: &Stop) -> Result<()> {
    let mut result = Ok(());
    while let Some(ended) = parts.join_next().await {
        if !stop.told() {
            result = Err(anyhow!("stopped answering on {listen}, and so altogether"));
            stop.tell();
        }
        result = result.and(ended.context("answering failed").flatten());
    }
    result
}

impl Listeners {
    /// Answers until told to stop, as [`Server::run`] does, with the same errors. Dropping what it returns tells `stop`.
    pub async fn serve(
        self,
        responder: Arc<Responder>,
        metrics: Arc<Metrics>,
        limits: Limits,
        stop: Stop,
    ) -> Result<()> {
        let _last = TellOnDrop(stop.clone());
        let mut server = Server::new(responder, metrics, limits, 1, stop);
        server.start(self)?;
        let (_, none) = mpsc::unbounded_channel();
        server.run(none).await
    }
}

struct TellOnDrop(Stop);

impl Drop for TellOnDrop {
    fn drop(&mut self) {
        self.0.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_address_can_stop_alone() {
        let all = Stop::default();
        let (one, other) = (all.child(), all.child());
        one.tell();
        one.wait().await;
        assert!(one.told() && !other.told() && !all.told());
        all.leave();
        other.wait_for(Phase::Leaving).await;
        assert!(!other.told());
        let waits = async { other.wait().await };
        let tells = async { all.hand_over() };
        tokio::join!(waits, tells);
        assert!(other.is_handed_over());
    }
}
