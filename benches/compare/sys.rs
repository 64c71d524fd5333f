//! The system calls of the generator and of the echo that the standard library does not have: `recvmmsg` and
//! `sendmmsg`, `poll` and `epoll`, the CPU time of another process, the CPUs of a thread.
//!
//! The one module of the benchmark with `unsafe`; its doors are safe. Not here: what is sent, and when. Read next:
//! `load/udp.rs`, which has the loop.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::mem::size_of;
use std::net::UdpSocket;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};

use libc::{c_int, epoll_event, iovec, mmsghdr, sockaddr_in6, socklen_t};

/// How many datagrams one system call takes or gives at most.
pub(crate) const BATCH: usize = 64;
/// Room for a query, in octets.
pub(crate) const QUERY: usize = 320;
/// Room for a response over UDP, in octets. Not a power of two: slots would share their lines of the cache.
pub(crate) const RESPONSE: usize = 4096 + 64;

/// Up to [`BATCH`] datagrams of up to `SLOT` octets each, received or sent by one system call. All memory is set up once.
pub(crate) struct Batch<const SLOT: usize> {
    /// From `alloc_zeroed`, ours alone. Raw, because its headers point into it.
    memory: NonNull<Memory<SLOT>>,
    received: usize,
}

/// What the kernel reads and writes. Zeroes are a valid value of every field.
#[repr(C)]
struct Memory<const SLOT: usize> {
    headers: [mmsghdr; BATCH],
    vectors: [iovec; BATCH],
    /// Who sent it. Large enough for IPv4 too, and aligned the same.
    names: [sockaddr_in6; BATCH],
    slots: [[u8; SLOT]; BATCH],
}

impl<const SLOT: usize> Batch<SLOT> {
    /// For a connected socket.
    pub(crate) fn new() -> Self {
        // SAFETY: `Memory` is not of size zero.
        let memory = unsafe { alloc_zeroed(Layout::new::<Memory<SLOT>>()) };
        let Some(memory) = NonNull::new(memory.cast::<Memory<SLOT>>()) else {
            handle_alloc_error(Layout::new::<Memory<SLOT>>())
        };
        let raw = memory.as_ptr();
        for index in 0..BATCH {
            // SAFETY: `raw` is valid and ours; indexing checks the bounds; all pointers stay within the memory, which
            // does not move and lives as long as the batch.
            unsafe {
                (*raw).vectors[index] = iovec { iov_base: (&raw mut (*raw).slots[index]).cast(), iov_len: SLOT };
                (*raw).headers[index].msg_hdr.msg_iov = &raw mut (*raw).vectors[index];
                (*raw).headers[index].msg_hdr.msg_iovlen = 1;
            }
        }
        Self { memory, received: 0 }
    }

    /// For a socket that is not connected: what was received goes back to where it came from.
    pub(crate) fn with_senders() -> Self {
        let batch = Self::new();
        let raw = batch.memory.as_ptr();
        for index in 0..BATCH {
            // SAFETY: as in `new`.
            unsafe {
                (*raw).headers[index].msg_hdr.msg_name = (&raw mut (*raw).names[index]).cast();
                (*raw).headers[index].msg_hdr.msg_namelen = size_of::<sockaddr_in6>() as socklen_t;
            }
        }
        batch
    }

    /// Receives what is there, in one system call; waits for the first if `wait` says so. `WouldBlock` if nothing is.
    pub(crate) fn receive(&mut self, socket: &impl AsRawFd, wait: bool) -> io::Result<usize> {
        self.offer_room();
        let flags = if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        // SAFETY: the headers point at memory of their stated lengths, which nobody else uses now: references handed
        // out borrowed `self`.
        let count = unsafe {
            let headers = (&raw mut (*self.memory.as_ptr()).headers).cast();
            libc::recvmmsg(socket.as_raw_fd(), headers, BATCH as _, flags as _, ptr::null_mut())
        };
        self.received = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        Ok(self.received)
    }

    /// Replies and the kernel wrote lengths of what was received before: says again how much room there is.
    fn offer_room(&mut self) {
        let raw = self.memory.as_ptr();
        for index in 0..self.received {
            // SAFETY: `raw` is valid and ours; indexing checks the bounds.
            unsafe {
                (*raw).vectors[index].iov_len = SLOT;
                if !(*raw).headers[index].msg_hdr.msg_name.is_null() {
                    (*raw).headers[index].msg_hdr.msg_namelen = size_of::<sockaddr_in6>() as socklen_t;
                }
            }
        }
        self.received = 0;
    }

    /// What was received at `index`, which is below what [`Batch::receive`] returned.
    pub(crate) fn message(&self, index: usize) -> &[u8] {
        assert!(index < self.received, "only what was received is looked at");
        // SAFETY: the memory is valid and ours, and references into it borrow `self`. The kernel wrote the length.
        unsafe {
            let raw = self.memory.as_ptr();
            let length = (*raw).headers[index].msg_len as usize;
            let slot: &[u8; SLOT] = &(*raw).slots[index];
            &slot[..length.min(SLOT)]
        }
    }

    /// The slot at `index`, which is sent as far as `length`.
    pub(crate) fn fill(&mut self, index: usize, length: usize) -> &mut [u8] {
        assert!(length <= SLOT, "a message has room in its slot");
        // SAFETY: the memory is valid and ours, indexing checks the bounds, and the one reference borrows `self`.
        unsafe {
            let raw = self.memory.as_ptr();
            (*raw).vectors[index].iov_len = length;
            let slot: &mut [u8; SLOT] = &mut (*raw).slots[index];
            &mut slot[..length]
        }
    }

    /// Sends these, in one system call, and returns how many the kernel took: at least one, or the error of the first.
    pub(crate) fn send(&mut self, socket: &impl AsRawFd, which: Range<usize>) -> io::Result<usize> {
        assert!(which.start < which.end && which.end <= BATCH, "there is something to send");
        // SAFETY: the headers point at memory of their stated lengths, within this batch.
        let sent = unsafe {
            let headers = (&raw mut (*self.memory.as_ptr()).headers[which.start]).cast();
            libc::sendmmsg(socket.as_raw_fd(), headers, which.len() as _, 0)
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

impl<const SLOT: usize> Drop for Batch<SLOT> {
    fn drop(&mut self) {
        // SAFETY: from `alloc_zeroed` with this layout, and not used after. `Memory` has nothing to drop.
        unsafe { dealloc(self.memory.as_ptr().cast(), Layout::new::<Memory<SLOT>>()) }
    }
}

/// Which of many sockets have something (`epoll`, level-triggered). A socket that is closed is forgotten.
pub(crate) struct Ready {
    epoll: OwnedFd,
    events: Vec<epoll_event>,
}

/// One socket that has something, by the token that it was added with. An error or an end is both.
#[derive(Clone, Copy)]
pub(crate) struct Event {
    pub(crate) token: usize,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

impl Ready {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer; a descriptor that is not negative is new and ours.
        let epoll = unsafe {
            let epoll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            if epoll < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(epoll)
        };
        Ok(Self { epoll, events: vec![epoll_event { events: 0, u64: 0 }; 256] })
    }

    /// Watches a socket for what it has to read, and for room to write in if `writing`.
    pub(crate) fn add(&self, socket: &impl AsFd, token: usize, writing: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, socket, token, writing)
    }

    /// Says anew whether there is something to write.
    pub(crate) fn change(&self, socket: &impl AsFd, token: usize, writing: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, socket, token, writing)
    }

    fn control(&self, what: c_int, socket: &impl AsFd, token: usize, writing: bool) -> io::Result<()> {
        let events = (libc::EPOLLIN | if writing { libc::EPOLLOUT } else { 0 }) as u32;
        let mut event = epoll_event { events, u64: token as u64 };
        let socket = socket.as_fd().as_raw_fd();
        // SAFETY: the event outlives the call, which reads it.
        let done = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), what, socket, &raw mut event) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for up to so many milliseconds (-1: for ever); returns how many sockets have something.
    pub(crate) fn wait(&mut self, milliseconds: c_int) -> io::Result<usize> {
        // SAFETY: the kernel writes at most as many events as there is room for.
        let count = unsafe {
            let (events, room) = (self.events.as_mut_ptr(), self.events.len() as c_int);
            libc::epoll_wait(self.epoll.as_raw_fd(), events, room, milliseconds)
        };
        match (usize::try_from(count), io::Error::last_os_error()) {
            (Ok(count), _) => Ok(count),
            (_, error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            (_, error) => Err(error),
        }
    }

    /// The socket at `index`, which is below what [`Ready::wait`] returned.
    pub(crate) fn event(&self, index: usize) -> Event {
        let epoll_event { events, u64: token } = self.events[index];
        let ended = (libc::EPOLLERR | libc::EPOLLHUP) as u32;
        let has = |what: c_int| events & (what as u32 | ended) != 0;
        Event { token: token as usize, readable: has(libc::EPOLLIN), writable: has(libc::EPOLLOUT) }
    }
}

/// Which of a few sockets have something (`poll`). With epoll the sender of each datagram, which is the server, would
/// pay for telling it.
pub(crate) struct Few(Vec<libc::pollfd>);

impl Few {
    /// The sockets have to stay open.
    pub(crate) fn new<'s>(sockets: impl Iterator<Item = &'s UdpSocket>) -> Self {
        let entry = |socket: &UdpSocket| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        Self(sockets.map(entry).collect())
    }

    /// Waits for up to so many milliseconds.
    pub(crate) fn wait(&mut self, milliseconds: c_int) -> io::Result<()> {
        // SAFETY: the kernel reads and writes as many entries as there are.
        let count = unsafe { libc::poll(self.0.as_mut_ptr(), self.0.len() as libc::nfds_t, milliseconds) };
        match io::Error::last_os_error() {
            error if count < 0 && error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether the socket at `index` has something, or an error.
    pub(crate) fn has(&self, index: usize) -> bool {
        self.0[index].revents != 0
    }
}

/// The CPU time of a process in nanoseconds: what all its threads ran, those that ended too.
pub(crate) fn process_cpu_ns(process: u32) -> io::Result<u64> {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both outlive the calls, which write them.
    let failed = unsafe {
        let failed = libc::clock_getcpuclockid(process as libc::pid_t, &raw mut clock);
        if failed == 0 && libc::clock_gettime(clock, &raw mut time) < 0 { libc::ESRCH } else { failed }
    };
    if failed != 0 {
        return Err(io::Error::from_raw_os_error(failed));
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// This thread on one CPU; where it could run before is restored when the value is dropped.
pub(crate) struct Pinned {
    before: libc::cpu_set_t,
}

impl Pinned {
    pub(crate) fn to(cpu: usize) -> io::Result<Self> {
        let size = size_of::<libc::cpu_set_t>();
        if cpu >= libc::CPU_SETSIZE as usize {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: zeroes are a valid set; both sets have the stated size and outlive the calls; `cpu` is within a set.
        unsafe {
            let (mut before, mut only): (libc::cpu_set_t, libc::cpu_set_t) = (std::mem::zeroed(), std::mem::zeroed());
            libc::CPU_SET(cpu, &mut only);
            if libc::sched_getaffinity(0, size, &raw mut before) < 0
                || libc::sched_setaffinity(0, size, &raw const only) < 0
            {
                return Err(io::Error::last_os_error());
            }
            Ok(Self { before })
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: the set has the stated size and outlives the call.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const self.before) };
    }
}

/// Has this thread run only where its CPU has nothing else to do: whoever else wakes up on it goes on at once.
#[allow(dead_code, reason = "benches/encrypted has a thread of that kind")]
pub(crate) fn yield_to_all() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters outlive the call; 0 is this thread.
    let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets this process open so many files, if it may.
pub(crate) fn allow_files(count: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit outlives the calls, which write and read it.
    let failed = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) < 0 || {
            limit.rlim_cur = limit.rlim_cur.max(count.min(limit.rlim_max));
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) < 0
        }
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}
