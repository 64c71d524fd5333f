//! Datagrams: one thread per socket, which receives a batch, has each answered in the slot that it came in, and sends
//! the responses, with two system calls in all.
//!
//! Plain threads and no runtime: nothing is ever waited for but the socket. Not here: the system calls (`sys.rs`).
//! Read next: `answer.rs`.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;

use super::sys::{self, Batch, Wait};
use super::{Stop, own_address};
use crate::answer::{Peer, Responder, Transport, Worker};
use crate::metrics::{Event, Metrics, Proto};

/// What is asked of the kernel for each socket, in octets: its default holds 256 small datagrams.
pub(super) const RECEIVE_BUFFER: usize = 4 << 20;
/// How long a thread waits for one system call, and so until it hears that it shall stop.
pub(super) const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// How long the queue is emptied at the end, should it fill again and again.
const LONGEST_DRAIN: Duration = Duration::from_secs(5);
/// How often a busy thread asks for the kernel's count of drops, in batches.
const BATCHES_PER_LOOK: u32 = 1024;

/// The threads of all sockets. Their sockets close when they end.
pub(super) struct Threads<'s> {
    responder: &'s Arc<Responder>,
    metrics: &'s Arc<Metrics>,
    stop: &'s Stop,
    /// Each thread has a clone of the sender, and drops it last.
    running: mpsc::Sender<()>,
    ended: mpsc::Receiver<()>,
    handles: Vec<thread::JoinHandle<()>>,
}

impl<'s> Threads<'s> {
    pub(super) fn new(responder: &'s Arc<Responder>, metrics: &'s Arc<Metrics>, stop: &'s Stop) -> Self {
        let (running, ended) = mpsc::channel(1);
        Self { responder, metrics, stop, running, ended, handles: Vec::new() }
    }

    /// Starts one that answers what comes to `socket`, which is bound to `address`.
    pub(super) fn start(&mut self, socket: UdpSocket, address: SocketAddr) -> Result<()> {
        let (responder, stop, running) = (Arc::clone(self.responder), self.stop.clone(), self.running.clone());
        let worker = Worker::new(self.metrics.worker_at(address, Proto::Udp));
        let run = move || {
            let _running = running;
            Loop { socket: &socket, address, responder: &responder, worker, drops: 0 }.run_to_the_end(&stop);
        };
        let builder = thread::Builder::new().name(format!("udp-{}", self.handles.len()));
        self.handles.push(builder.spawn(run).context("cannot start a thread that answers UDP")?);
        Ok(())
    }

    /// Returns once all have ended.
    pub(super) async fn ended(self) {
        let Self { running, mut ended, handles, .. } = self;
        drop(running);
        // Nobody sends: this is the end of the last sender.
        let _ = ended.recv().await;
        for handle in handles {
            // A thread's panics are caught and counted within it.
            let _ = handle.join();
        }
    }
}

/// What one thread has.
struct Loop<'t> {
    socket: &'t UdpSocket,
    address: SocketAddr,
    responder: &'t Responder,
    worker: Worker,
    /// The kernel's count of drops when it was last looked at.
    drops: u32,
}

impl Loop<'_> {
    /// A panic is a mistake of ours and costs its batch; the socket stays answered.
    fn run_to_the_end(&mut self, stop: &Stop) {
        while catch_unwind(AssertUnwindSafe(|| self.run(stop))).is_err() {
            self.worker.counters.count(Event::Panics);
        }
    }

    fn run(&mut self, stop: &Stop) {
        let mut batch = Batch::new(self.address.ip().is_unspecified());
        let mut batches = 0u32;
        while !stop.told() {
            match batch.receive(self.socket, Wait::Yes) {
                Ok(received) => self.answer(&mut batch, received),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.count_drops(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.pause(),
            }
            batches = batches.wrapping_add(1);
            if batches.is_multiple_of(BATCHES_PER_LOOK) {
                self.count_drops();
            }
        }
        self.drain(&mut batch);
        self.count_drops();
    }

    fn answer(&mut self, batch: &mut Batch, received: usize) {
        self.worker.counters.add(Event::UdpReceived, received as u64);
        self.worker.begin_batch(Instant::now());
        for index in 0..received {
            let Some(datagram) = batch.datagram(index) else { continue };
            let to = datagram.asked.map_or(self.address, |ip| SocketAddr::new(ip, self.address.port()));
            let peer = Peer { from: datagram.from, to };
            let length = datagram.length;
            if let Some(length) = self.responder.respond(&mut self.worker, peer, Transport::Udp, datagram.slot, length)
            {
                batch.reply(index, length);
            }
        }
        match batch.send(self.socket) {
            0 => {}
            refused => self.worker.counters.add(Event::SendErrors, refused as u64),
        }
        self.worker.end_batch(Instant::now());
    }

    /// The socket failed, which says nothing about the next call; but it must not become a busy loop.
    fn pause(&mut self) {
        self.worker.counters.count(Event::ReceiveErrors);
        thread::sleep(Duration::from_millis(10));
    }

    /// Answers what is queued, and then no more.
    ///
    /// A socket that closes drops its queue, and the kernel would go on filling it: connected to itself it takes from
    /// nobody, keeps what it has, and can still send to anybody. What comes later goes to other sockets on this port
    /// (a new process), or the client hears at once that nobody listens.
    fn drain(&mut self, batch: &mut Batch) {
        // Should it fail, because the address is gone, the socket is drained all the same, for a while.
        let _ = self.socket.connect(own_address(self.address));
        let start = Instant::now();
        let mut empty = 0;
        // Twice: a datagram can be on its way into the queue.
        while empty < 2 && start.elapsed() < LONGEST_DRAIN {
            match batch.receive(self.socket, Wait::No) {
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
        let Ok(drops) = sys::drops(self.socket) else { return };
        self.worker.counters.add(Event::DroppedByKernel, drops.wrapping_sub(self.drops).into());
        self.drops = drops;
    }
}
