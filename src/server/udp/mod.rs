//! UDP workers: one thread per socket, which receives a batch of datagrams, answers each in the slot that it came in,
//! and sends the responses, with two system calls in all.
//!
//! Plain threads without an async runtime: they wait for the socket only. A thread that ends early is restarted on its
//! socket. Not here: the system calls (`sys/`). Read next: `core/src/answer/mod.rs`.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;

use super::Shutdown;
use super::forward::{self, ForwardHandle, ForwardRequest, ReplyTo};
use super::heartbeats::{Heartbeat, Heartbeats};
use super::query_log::QueryLogger;
use super::sys::{self, Batch, ReceiveMode};
use crate::metrics::{Event, Metrics, ResponseCounters};
use headless_dns_core::answer::{Peer, Reply, RequestBatch, Responder, Transport, Worker};

/// Receive buffer requested for each socket, in octets; the kernel's default holds 256 small datagrams.
pub(crate) const RECEIVE_BUFFER: usize = 4 << 20;
/// Timeout of one system call, and so the maximum delay until a thread sees the shutdown.
pub(crate) const RECEIVE_TIMEOUT: Duration = Duration::from_millis(100);
/// Time limit for emptying the queue at shutdown, in case it is refilled again and again.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a thread is restarted, because it may end again at once.
const RESTART_DELAY: Duration = Duration::from_millis(10);
/// Interval of a busy thread's reads of the kernel's drop counter, in batches.
const BATCHES_PER_DROP_COUNT: u32 = 1024;

/// Context shared by the threads of all listeners.
#[derive(Clone)]
pub(crate) struct UdpContext {
    responder: Arc<Responder>,
    metrics: Arc<Metrics>,
    pub(crate) heartbeats: Heartbeats,
    pub(crate) log: QueryLogger,
    /// Queue of the forwarder.
    pub(crate) forward_handle: Option<ForwardHandle>,
}

impl UdpContext {
    pub(crate) fn new(responder: Arc<Responder>, metrics: Arc<Metrics>) -> Self {
        Self {
            responder,
            metrics,
            heartbeats: Heartbeats::default(),
            log: QueryLogger::default(),
            forward_handle: None,
        }
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}

/// The threads of one listener. Their sockets are closed when they end.
pub(crate) struct UdpWorkers {
    context: UdpContext,
    stop: Shutdown,
    address: SocketAddr,
    /// Another process has the sockets too, and gets the datagrams queued in them.
    is_shared: bool,
    /// Sends the number of a thread that ends.
    exit_notifier: mpsc::UnboundedSender<usize>,
    ended: mpsc::UnboundedReceiver<usize>,
    /// Running threads with their sockets.
    running: HashMap<usize, (Arc<UdpSocket>, thread::JoinHandle<()>)>,
    /// Body of a thread; tests replace it.
    run: fn(&mut UdpWorker<'_>, &Shutdown),
}

/// Exit notifier of a thread: sends its number when dropped, also by a panic.
struct ExitNotifier(usize, mpsc::UnboundedSender<usize>);

impl Drop for ExitNotifier {
    fn drop(&mut self) {
        // Fails only if the receiver is gone, and with it the parent of the threads.
        let _ = self.1.send(self.0);
    }
}

impl UdpWorkers {
    pub(crate) fn new(context: UdpContext, stop: Shutdown, address: SocketAddr, is_shared: bool) -> Self {
        let (ending, ended) = mpsc::unbounded_channel();
        Self {
            context,
            stop,
            address,
            is_shared,
            exit_notifier: ending,
            ended,
            running: HashMap::new(),
            run: |one, stop| one.run_until_exit(stop),
        }
    }

    /// Starts a thread that answers on `socket`, which is bound to the listener's address.
    pub(crate) fn start(&mut self, socket: UdpSocket) -> Result<()> {
        self.spawn(self.running.len(), Arc::new(socket))
    }

    fn spawn(&mut self, number: usize, socket: Arc<UdpSocket>) -> Result<()> {
        let Self { context, stop, address, is_shared, run, .. } = self;
        let (address, is_shared, run) = (*address, *is_shared, *run);
        let (responder, stop, worker_socket) = (Arc::clone(&context.responder), stop.clone(), Arc::clone(&socket));
        let counters = ResponseCounters::new(context.metrics.worker_at(address, Transport::Udp), Transport::Udp);
        let (log, forward_handle) = (context.log.clone(), context.forward_handle.clone());
        let heartbeat = context.heartbeats.heartbeat(format!("udp-{number} at {address}"));
        let ending = ExitNotifier(number, self.exit_notifier.clone());
        let body = move || {
            let _ending = ending;
            // The counter of an inherited socket includes drops before this process had it.
            let drops = sys::dropped_datagrams(&socket).unwrap_or(0);
            let (worker, requests) = (Worker::default(), RequestBatch::new(Transport::Udp));
            let responder = &*responder;
            let mut one = UdpWorker {
                socket: &socket,
                address,
                is_shared,
                responder,
                worker,
                requests,
                counters,
                query_logger: log,
                forward_handle,
                drops,
                heartbeat,
            };
            run(&mut one, &stop);
        };
        let builder = thread::Builder::new().name(format!("udp-{number}"));
        let handle = builder.spawn(body).context("cannot start a thread that answers UDP")?;
        self.running.insert(number, (worker_socket, handle));
        Ok(())
    }

    /// Completes once all threads have ended. A thread that ends before the drain is restarted.
    pub(crate) async fn ended(mut self) -> Result<()> {
        while !self.running.is_empty() {
            // Never closed: `self` has a sender.
            let Some(number) = self.ended.recv().await else { break };
            let Some((socket, handle)) = self.running.remove(&number) else { continue };
            let panicked = handle.join().is_err();
            if self.stop.is_draining() {
                continue;
            }
            let address = self.address;
            tracing::error!(%address, panicked, "a thread that answers UDP has ended, and is started again");
            self.context.metrics.worker().count(Event::TaskRestarts);
            tokio::time::sleep(RESTART_DELAY).await;
            self.spawn(number, socket)?;
        }
        Ok(())
    }
}

/// State of one thread.
struct UdpWorker<'t> {
    socket: &'t Arc<UdpSocket>,
    address: SocketAddr,
    is_shared: bool,
    responder: &'t Responder,
    worker: Worker,
    requests: RequestBatch,
    counters: ResponseCounters,
    query_logger: QueryLogger,
    forward_handle: Option<ForwardHandle>,
    /// The kernel's drop counter when it was last read.
    drops: u32,
    heartbeat: Heartbeat,
}

impl UdpWorker<'_> {
    /// Runs until the drain. A panic is a mistake in this program and costs a batch; the socket stays in service.
    fn run_until_exit(&mut self, stop: &Shutdown) {
        while catch_unwind(AssertUnwindSafe(|| self.run(stop))).is_err() {
            tracing::error!(address = %self.address, "a panic while answering UDP cost a batch of queries");
        }
    }

    fn run(&mut self, stop: &Shutdown) {
        let mut batch = Batch::new(self.address.ip().is_unspecified());
        let mut batches = 0u32;
        while !stop.is_draining() {
            self.heartbeat.beat();
            match batch.receive(self.socket, ReceiveMode::Blocking) {
                Ok(received) => self.answer(&mut batch, received),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.worker.release_snapshot();
                    self.requests.release_snapshot();
                    self.count_drops();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.pause(),
            }
            batches = batches.wrapping_add(1);
            if batches.is_multiple_of(BATCHES_PER_DROP_COUNT) {
                self.count_drops();
            }
        }
        // Datagrams queued in a socket that another process has too are for that process, and connecting the socket
        // would cut it off.
        if !self.is_shared && !stop.is_handed_over() {
            self.drain(&mut batch);
        }
        self.count_drops();
    }

    /// Answers a batch: parses all messages, responds to each from its own request, then sends, all in their order.
    fn answer(&mut self, batch: &mut Batch, received: usize) {
        let begun = Instant::now();
        let Self { socket, address, responder, worker, requests, counters, query_logger: log, forward_handle, .. } =
            self;
        counters.received(received);
        worker.begin_batch(begun);
        for (index, request) in requests.parse(responder.zone(), batch.messages()).iter().enumerate() {
            let Some(datagram) = batch.datagram(index) else { continue };
            let to = datagram.local_ip.map_or(*address, |ip| SocketAddr::new(ip, address.port()));
            let peer = Peer { from: datagram.from, to };
            let log_entry = log.copy_query(&datagram.slot[..datagram.length]);
            let length = match responder.respond(request, peer, worker, datagram.slot) {
                Reply::Response(summary) => {
                    counters.responded(&summary);
                    if let Some(log_entry) = log_entry {
                        let response = &datagram.slot[..summary.length];
                        log_entry.responded(&counters.counters, peer, Transport::Udp, response);
                    }
                    Some(summary.length)
                }
                Reply::Forward(pending) => {
                    let from = address.ip().is_unspecified().then(|| peer.to.ip());
                    let reply_to = ReplyTo::Datagram { socket: Arc::clone(socket), from };
                    let request = ForwardRequest { pending, listen: *address, log_entry };
                    let refused = forward(forward_handle.as_ref(), request, reply_to).err();
                    refused.map(|request| forward::refuse(&request, counters, datagram.slot))
                }
                Reply::Drop(reason) => {
                    counters.dropped(reason);
                    None
                }
            };
            if let Some(length) = length {
                batch.reply(index, length);
            }
        }
        match batch.send(socket) {
            0 => {}
            refused => counters.counters.add(Event::SendErrors, refused as u64),
        }
        counters.observe_latency(begun.elapsed());
    }

    /// Counts a failed receive call, and pauses, so that a lasting failure does not become a busy loop.
    fn pause(&mut self) {
        self.counters.counters.count(Event::ReceiveErrors);
        thread::sleep(Duration::from_millis(10));
    }

    /// Answers the datagrams in the socket's queue, and receives no more.
    ///
    /// A closed socket drops its queue, and until then the kernel would go on filling it. Connected to itself, the
    /// socket receives from no client, keeps its queue, and can still send to every client. Later datagrams go to other
    /// sockets of this port (those of a new process), or the client gets an ICMP error at once.
    fn drain(&mut self, batch: &mut Batch) {
        // If it fails because the address is gone, the socket is drained nevertheless, with a time limit.
        let _ = self.socket.connect(own_address(self.address));
        let start = Instant::now();
        let mut empty = 0;
        // Twice, because a datagram can be on its way into the queue.
        while empty < 2 && start.elapsed() < DRAIN_TIMEOUT {
            self.heartbeat.beat();
            match batch.receive(self.socket, ReceiveMode::NonBlocking) {
                Ok(received) => {
                    self.answer(batch, received);
                    empty = 0;
                }
                Err(_) => {
                    thread::yield_now();
                    empty += 1;
                }
            }
        }
    }

    fn count_drops(&mut self) {
        let Ok(drops) = sys::dropped_datagrams(self.socket) else { return };
        self.counters.counters.add(Event::DroppedByKernel, drops.wrapping_sub(self.drops).into());
        self.drops = drops;
    }
}

/// Forwards a query, or returns it if the forwarder has no room.
#[cold]
fn forward(handle: Option<&ForwardHandle>, request: ForwardRequest, reply_to: ReplyTo) -> Result<(), ForwardRequest> {
    match handle {
        Some(handle) => handle.try_send(request, reply_to),
        None => Err(request),
    }
}

/// Returns the address at which a socket bound to `address` reaches itself.
fn own_address(address: SocketAddr) -> SocketAddr {
    let mut own = address;
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => own.set_ip(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => own.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    own
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::server::heartbeats::STALL_LIMIT;
    use headless_dns_core::answer::AccessList;
    use headless_dns_core::name::WireName;
    use headless_dns_core::name::reverse::ReverseZones;
    use headless_dns_core::naming_rules::NamingRules;
    use headless_dns_core::zone::{Settings, Zone};

    fn responder() -> Arc<Responder> {
        let apex = WireName::parse("cluster.local").unwrap();
        let settings = Settings { apexes: vec![apex], ttl: 5, negative_ttl: 5, rules: NamingRules::default() };
        let zone = Arc::new(Zone::new(settings, ReverseZones::default()));
        Arc::new(Responder::new(zone, Arc::default(), AccessList::default()))
    }

    fn bound() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        // As on all sockets: a thread must return from the system call to see the shutdown.
        socket.set_read_timeout(Some(RECEIVE_TIMEOUT)).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[tokio::test]
    async fn blocked_thread_is_stalled() {
        fn blocks(of: &mut UdpWorker<'_>, stop: &Shutdown) {
            while !stop.is_draining() {
                thread::sleep(RESTART_DELAY);
            }
            of.run_until_exit(stop);
        }
        let stop = Shutdown::default();
        let heartbeats = Heartbeats::default();
        let start = |run: Option<fn(&mut UdpWorker<'_>, &Shutdown)>| {
            let (socket, address) = bound();
            let mut context = UdpContext::new(responder(), Arc::default());
            context.heartbeats = heartbeats.clone();
            let mut threads = UdpWorkers::new(context, stop.clone(), address, false);
            threads.run = run.unwrap_or(threads.run);
            threads.start(socket).unwrap();
            (threads, address)
        };
        let (blocked, address) = start(Some(blocks));
        let (turning, _) = start(None);
        let mut now = Instant::now();
        // Each look is later by the time that a stall lasts; the second thread runs at its own pace.
        while heartbeats.stalled(now).as_slice() != [format!("udp-0 at {address}")] {
            now += STALL_LIMIT;
            tokio::time::sleep(RECEIVE_TIMEOUT).await;
        }
        stop.drain();
        blocked.ended().await.unwrap();
        turning.ended().await.unwrap();
        assert!(heartbeats.stalled(now + STALL_LIMIT).is_empty(), "threads that have ended are forgotten");
    }

    /// The first thread panics outside of the code that catches panics; the query waits in the socket's queue
    /// meanwhile.
    #[tokio::test]
    async fn restarts_ended_thread() {
        fn ends_once(of: &mut UdpWorker<'_>, stop: &Shutdown) {
            static ENDED: AtomicBool = AtomicBool::new(false);
            assert!(ENDED.swap(true, Ordering::AcqRel), "on purpose");
            of.run_until_exit(stop);
        }
        let metrics = Arc::new(Metrics::default());
        let (socket, address) = bound();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client.send_to(&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1], address).unwrap();

        let stop = Shutdown::default();
        let mut threads =
            UdpWorkers::new(UdpContext::new(responder(), Arc::clone(&metrics)), stop.clone(), address, false);
        threads.run = ends_once;
        threads.start(socket).unwrap();
        let asking = tokio::task::spawn_blocking(move || {
            let mut response = [0; 512];
            let length = client.recv(&mut response).unwrap();
            stop.drain();
            response[..length].to_vec()
        });
        threads.ended().await.unwrap();
        let response = asking.await.unwrap();
        assert_eq!((&response[..2], response[2] & 0x80), (&[0, 7][..], 0x80));
        assert_eq!(metrics.total(Event::TaskRestarts), 1);
    }
}
