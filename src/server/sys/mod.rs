//! System calls that the standard library does not have: `recvmmsg` and `sendmmsg`, and some socket options.
//!
//! One of two modules with `unsafe`: one system call per datagram costs about twice the CPU, and the kernel's interface
//! for many is pointers to pointers. The interface of this module is safe: a [`Batch`] owns all memory that the kernel
//! gets a pointer to, and no pointer leaves it. Not here: the use of a datagram. Read next: `udp/`, which has the
//! loop.

#![allow(unsafe_code)]

pub(super) mod fds;

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::io;
use std::mem::{offset_of, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

use libc::{c_int, iovec, mmsghdr, sockaddr_in, sockaddr_in6, socklen_t};

/// Maximum number of datagrams per system call.
pub(crate) const BATCH: usize = 64;
/// Size in octets of the buffer for one datagram and for the response that is written over it: queries of up to 4,096
/// octets are answered. The slots of a batch take 266 KB per worker, of which only the pages that datagrams reach are
/// resident.
///
/// Not a power of two: the first octets of all slots would fall into few sets of the processor's caches.
pub(crate) const SLOT: usize = 4096 + 64;

/// Lets large blocks of memory go back to the system when they are freed, from now on.
///
/// By default, glibc raises its threshold to the sizes that it has seen freed (mallopt(3), `M_MMAP_THRESHOLD`): each
/// table that grows would leave a hole of its former size for as long as the process lives.
pub fn set_mmap_threshold() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the arguments are two integers. Blocks allocated before are freed as they would have been.
    let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 256 << 10) };
}

/// Returns the free memory of all arenas to the system (malloc_trim(3)).
///
/// By default, glibc returns the top of each heap only: all memory below a block in use stays, which after many
/// connections is nearly all. Other allocators need no call.
pub(crate) fn trim_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the argument is an integer, and the call touches free memory only.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Datagrams that were received together, and their replies, which are sent together.
///
/// A reply is sent with the header of its datagram: only lengths change. The headers of replies are at the front: a
/// header without a reply changes places with the next one that has a reply.
///
/// All memory is set up once and used again; a datagram allocates nothing.
pub(crate) struct Batch {
    /// Memory from `alloc_zeroed`, owned by this value. A raw pointer, because its headers point into it: a Rust
    /// reference to the whole would claim to be the only one.
    memory: NonNull<Memory>,
    received: usize,
    replies: usize,
}

/// Memory that the kernel reads and writes. Zeroes are a valid value of every field.
#[repr(C)]
struct Memory {
    /// Message headers. Each points to a vector, a name, a control message and a slot to which no other points.
    headers: [mmsghdr; BATCH],
    vectors: [iovec; BATCH],
    /// Addresses of clients. The type has the size and alignment for IPv4 too.
    names: [sockaddr_in6; BATCH],
    controls: [PktinfoBuffer; BATCH],
    slots: [[u8; SLOT]; BATCH],
}

/// Buffer of one control message with the destination address (IP_PKTINFO). `CMSG_SPACE` of the larger, IPv6, is 40
/// octets.
#[repr(C, align(8))]
struct PktinfoBuffer([u8; 40]);

/// Mode of a receive call: waits for a first datagram up to the socket's read timeout, or does not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReceiveMode {
    Blocking,
    NonBlocking,
}

/// One received datagram.
pub(crate) struct Datagram<'b> {
    pub(crate) from: SocketAddr,
    /// Destination address of the datagram. `None` unless the batch was created for sockets bound to a wildcard
    /// address.
    pub(crate) local_ip: Option<IpAddr>,
    /// Buffer with the datagram at its front, and room for a response.
    pub(crate) slot: &'b mut [u8; SLOT],
    /// Length of the datagram in octets. A datagram larger than the slot is cut to the slot's size.
    pub(crate) length: usize,
}

impl Batch {
    /// Creates a batch. With `with_pktinfo`, datagrams carry their destination address and replies are sent from it: for
    /// sockets bound to a wildcard address, prepared by [`enable_pktinfo`]. It costs a control message each way.
    pub(crate) fn new(with_pktinfo: bool) -> Self {
        // SAFETY: `Memory` is not of size zero.
        let memory = unsafe { alloc_zeroed(Layout::new::<Memory>()) };
        let Some(memory) = NonNull::new(memory.cast::<Memory>()) else { handle_alloc_error(Layout::new::<Memory>()) };
        let mut batch = Self { memory, received: 0, replies: 0 };
        for index in 0..BATCH {
            batch.set_up(index, with_pktinfo);
        }
        batch
    }

    fn set_up(&mut self, index: usize, with_pktinfo: bool) {
        let memory = self.memory.as_ptr();
        // SAFETY: `memory` is valid and ours; indexing checks the bounds; all pointers stay within `memory`, which does
        // not move and lives as long as `self`.
        unsafe {
            let vector = &raw mut (*memory).vectors[index];
            (*vector).iov_base = (&raw mut (*memory).slots[index]).cast();
            (*vector).iov_len = SLOT;
            let header = &raw mut (*memory).headers[index].msg_hdr;
            (*header).msg_iov = vector;
            (*header).msg_iovlen = 1;
            (*header).msg_name = (&raw mut (*memory).names[index]).cast();
            (*header).msg_namelen = size_of::<sockaddr_in6>() as socklen_t;
            if with_pktinfo {
                (*header).msg_control = (&raw mut (*memory).controls[index]).cast();
                (*header).msg_controllen = size_of::<PktinfoBuffer>() as _;
            }
        }
    }

    /// Receives the datagrams in the socket's queue in one system call, at most [`BATCH`]. Discards datagrams received
    /// before, and unsent replies.
    ///
    /// `WouldBlock` if none came in time.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, wait: ReceiveMode) -> io::Result<usize> {
        self.prepare_slots();
        // After the first datagram, do not wait for more.
        let flags = if wait == ReceiveMode::Blocking { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        // SAFETY: the headers are set up to point at memory of their stated lengths, which nothing else uses now:
        // references handed out borrowed `self`.
        let count = unsafe {
            let headers = (&raw mut (*self.memory.as_ptr()).headers).cast();
            libc::recvmmsg(socket.as_raw_fd(), headers, BATCH as _, flags as _, ptr::null_mut())
        };
        self.received = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        Ok(self.received)
    }

    /// Restores the lengths in the headers to those of the buffers: the kernel overwrote them with the lengths
    /// received, and replies with their own.
    fn prepare_slots(&mut self) {
        for index in 0..self.received {
            // SAFETY: `memory` is valid and ours; indexing checks the bounds; `msg_iov` points to one of its vectors.
            unsafe {
                let header = &raw mut (*self.memory.as_ptr()).headers[index].msg_hdr;
                (*(*header).msg_iov).iov_len = SLOT;
                (*header).msg_namelen = size_of::<sockaddr_in6>() as socklen_t;
                if !(*header).msg_control.is_null() {
                    (*header).msg_controllen = size_of::<PktinfoBuffer>() as _;
                }
            }
        }
        self.received = 0;
        self.replies = 0;
    }

    /// Returns the received messages in their order, to be parsed before any is answered.
    pub(crate) fn messages(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.received).map(|index| {
            // SAFETY: `memory` is valid and ours; indexing checks the bounds; `iov_base` points to one of its slots, of
            // which no reference is handed out while `self` is borrowed, and which is `SLOT` octets long.
            unsafe {
                let header = &raw const (*self.memory.as_ptr()).headers[index];
                let slot = (*(*header).msg_hdr.msg_iov).iov_base.cast::<u8>().cast_const();
                std::slice::from_raw_parts(slot, ((*header).msg_len as usize).min(SLOT))
            }
        })
    }

    /// Returns the datagram at `index`, which is below the number that [`Batch::receive`] returned. `None` if its
    /// sender has no IP address, which cannot happen.
    pub(crate) fn datagram(&mut self, index: usize) -> Option<Datagram<'_>> {
        assert!(index < self.received, "only what was received is looked at");
        let from = self.sender(index)?;
        let local_ip = self.pktinfo(index);
        // SAFETY: `memory` is valid and ours; `iov_base` points to one of its slots; and the one reference into it
        // borrows `self`.
        let (slot, length) = unsafe {
            let header = &raw const (*self.memory.as_ptr()).headers[index];
            (&mut *(*(*header).msg_hdr.msg_iov).iov_base.cast::<[u8; SLOT]>(), (*header).msg_len as usize)
        };
        Some(Datagram { from, local_ip, slot, length: length.min(SLOT) })
    }

    fn sender(&self, index: usize) -> Option<SocketAddr> {
        // SAFETY: `memory` is valid and ours; the kernel wrote the name, and it has room for both families. Both
        // begin with the family. All bit patterns are valid.
        unsafe {
            let header = &raw const (*self.memory.as_ptr()).headers[index].msg_hdr;
            let name = (*header).msg_name.cast::<sockaddr_in6>().cast_const();
            match c_int::from((*name).sin6_family) {
                libc::AF_INET => {
                    let name = *name.cast::<sockaddr_in>();
                    let address = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
                    Some(SocketAddrV4::new(address, u16::from_be(name.sin_port)).into())
                }
                libc::AF_INET6 => {
                    let name = *name;
                    let (port, flow) = (u16::from_be(name.sin6_port), u32::from_be(name.sin6_flowinfo));
                    Some(SocketAddrV6::new(name.sin6_addr.s6_addr.into(), port, flow, name.sin6_scope_id).into())
                }
                _ => None,
            }
        }
    }

    /// Reads the destination address from the control message, and prepares the message for sending: it then sets the
    /// source address of the reply (ip(7), RFC 3542 section 6.2).
    fn pktinfo(&mut self, index: usize) -> Option<IpAddr> {
        // SAFETY: `memory` is valid and ours. `CMSG_FIRSTHDR` and the two branches read within `msg_controllen`, which
        // the kernel set to the length that it wrote: the level and type tell which structure follows, and `fits`
        // checks that it is complete. It is read and written unaligned.
        unsafe {
            let header = &raw const (*self.memory.as_ptr()).headers[index].msg_hdr;
            if (*header).msg_control.is_null() {
                return None;
            }
            let control = libc::CMSG_FIRSTHDR(header);
            if control.is_null() {
                return None;
            }
            let fits = |size: usize| (*control).cmsg_len as usize >= libc::CMSG_LEN(size as u32) as usize;
            match ((*control).cmsg_level, (*control).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) if fits(size_of::<libc::in_pktinfo>()) => {
                    let data = libc::CMSG_DATA(control).cast::<libc::in_pktinfo>();
                    let mut info = data.read_unaligned();
                    // Leave the interface of the reply to the routing table.
                    info.ipi_ifindex = 0;
                    data.write_unaligned(info);
                    Some(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into())
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if fits(size_of::<libc::in6_pktinfo>()) => {
                    let data = libc::CMSG_DATA(control).cast::<libc::in6_pktinfo>();
                    let mut info = data.read_unaligned();
                    let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    // A link-local address is valid on its own link only.
                    if !address.is_unicast_link_local() {
                        info.ipi6_ifindex = 0;
                    }
                    data.write_unaligned(info);
                    Some(address.into())
                }
                _ => None,
            }
        }
    }

    /// Queues the first `length` octets of the slot at `index` as the reply to its datagram, for [`Batch::send`].
    /// Datagrams are replied to in their order, each at most once; afterwards no datagram up to `index` may be read,
    /// because headers have changed places.
    pub(crate) fn reply(&mut self, index: usize, length: usize) {
        assert!((self.replies..self.received).contains(&index) && length <= SLOT, "one reply to what was received");
        // SAFETY: `memory` is valid and ours; indexing checks the bounds; `msg_iov` points to one of its vectors, and
        // `length` is within its slot.
        unsafe {
            let headers = &raw mut (*self.memory.as_ptr()).headers;
            if index != self.replies {
                ptr::swap(&raw mut (*headers)[index], &raw mut (*headers)[self.replies]);
            }
            (*(*headers)[self.replies].msg_hdr.msg_iov).iov_len = length;
        }
        self.replies += 1;
    }

    /// Sends all replies, and returns the number of those that the kernel refused.
    pub(crate) fn send(&mut self, socket: &UdpSocket) -> usize {
        let (mut at, mut refused) = (0, 0);
        while at < self.replies {
            // SAFETY: headers `at..replies` are those of datagrams of this batch, and have the lengths of the replies.
            let sent = unsafe {
                let headers = (&raw mut (*self.memory.as_ptr()).headers[at]).cast();
                libc::sendmmsg(socket.as_raw_fd(), headers, (self.replies - at) as _, 0)
            };
            match usize::try_from(sent) {
                Ok(sent) if sent > 0 => at += sent,
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                // The call fails for its first message only: skip that one client.
                _ => (at, refused) = (at + 1, refused + 1),
            }
        }
        self.replies = 0;
        refused
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: `memory` is from `alloc_zeroed` with this layout, and not used after. `Memory` has nothing to drop.
        unsafe { std::alloc::dealloc(self.memory.as_ptr().cast(), Layout::new::<Memory>()) }
    }
}

// `sender` reads the family of either address type at one offset.
const _: () = assert!(
    size_of::<sockaddr_in>() <= size_of::<sockaddr_in6>()
        && offset_of!(sockaddr_in, sin_family) == offset_of!(sockaddr_in6, sin6_family)
);

/// Sends one datagram, or fails at once instead of waiting. `from` is its source address, for a socket bound to a
/// wildcard address.
pub(crate) fn send(socket: &UdpSocket, message: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
    let to = socket2::SockAddr::from(to);
    let mut vector = iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
    let mut control = PktinfoBuffer([0; 40]);
    // SAFETY: zeroes are a valid value of `msghdr`. Its pointers are to values that outlive the call, with their
    // lengths; the kernel only reads the message. The control message is written into `control`, which has `CMSG_SPACE`
    // of the larger of the two, and is aligned as `cmsghdr`; its data are written unaligned.
    let sent = unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_name = to.as_ptr().cast_mut().cast();
        header.msg_namelen = to.len();
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        if let Some(from) = from {
            let (level, kind, size) = match from {
                IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO, size_of::<libc::in_pktinfo>()),
                IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, size_of::<libc::in6_pktinfo>()),
            };
            header.msg_control = (&raw mut control).cast();
            header.msg_controllen = libc::CMSG_SPACE(size as u32) as _;
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = level;
            (*first).cmsg_type = kind;
            (*first).cmsg_len = libc::CMSG_LEN(size as u32) as _;
            let data = libc::CMSG_DATA(first);
            match from {
                IpAddr::V4(from) => data.cast::<libc::in_pktinfo>().write_unaligned(libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                }),
                IpAddr::V6(from) => data.cast::<libc::in6_pktinfo>().write_unaligned(libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: from.octets() },
                    // Leave the interface to the routing table; the address of a link-local client names its link.
                    ipi6_ifindex: 0,
                }),
            }
        }
        libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Raises the limit on open files to the maximum for this process; on failure, the limit stays.
pub(crate) fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointers are to `limit`, which outlives both calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Requests a receive buffer of `octets`, and returns the size in octets that the kernel granted.
///
/// A process with `CAP_NET_ADMIN` gets the full size; others at most the sysctl `net.core.rmem_max`.
pub(crate) fn set_receive_buffer(socket: &UdpSocket, octets: usize) -> io::Result<usize> {
    let wanted = c_int::try_from(octets).unwrap_or(c_int::MAX / 2);
    if set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted).is_err() {
        set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, wanted)?;
    }
    // socket(7): the kernel doubles the value for its own needs, and returns the doubled value.
    Ok(socket2::SockRef::from(socket).recv_buffer_size()? / 2)
}

/// Disables path MTU discovery: a forged ICMP message could otherwise make the kernel fragment responses (RFC 9715
/// section 3.1, ip(7)).
pub(crate) fn omit_path_mtu(socket: &UdpSocket, ipv6: bool) -> io::Result<()> {
    match ipv6 {
        false => set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT),
        true => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_OMIT),
    }
}

/// Requests the destination address of every datagram, as a control message.
pub(crate) fn enable_pktinfo(socket: &UdpSocket, ipv6: bool) -> io::Result<()> {
    match ipv6 {
        false => set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
        true => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
    }
}

fn set_option(socket: &UdpSocket, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the pointer and length are those of `value`, which outlives the call.
    let result = unsafe {
        let pointer = (&raw const value).cast();
        libc::setsockopt(socket.as_raw_fd(), level, name, pointer, size_of::<c_int>() as socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns the number of datagrams that the kernel dropped since the socket was opened, mostly because its receive
/// buffer was full. The number wraps around.
pub(crate) fn dropped_datagrams(socket: &UdpSocket) -> io::Result<u32> {
    let mut figures = [0u32; libc::SK_MEMINFO_DROPS as usize + 1];
    let mut length = size_of_val(&figures) as socklen_t;
    // SAFETY: the pointer and length are those of `figures`, which outlives the call.
    let result = unsafe {
        let pointer = (&raw mut figures).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, pointer, &raw mut length)
    };
    if result == 0 { Ok(figures[libc::SK_MEMINFO_DROPS as usize]) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

    fn pair() -> (UdpSocket, UdpSocket) {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        for socket in [&server, &client] {
            socket.set_read_timeout(PATIENCE).unwrap();
        }
        (server, client)
    }

    fn receive(batch: &mut Batch, server: &UdpSocket, wanted: usize) {
        // Loopback queues a datagram before `send` returns: one call receives them all.
        assert_eq!(batch.receive(server, ReceiveMode::Blocking).unwrap(), wanted);
    }

    #[test]
    fn failed_send_does_not_stop_batch() {
        let (server, client) = pair();
        let mut batch = Batch::new(false);
        for text in [b"one", b"two", b"six"] {
            client.send(text).unwrap();
        }
        receive(&mut batch, &server, 3);
        // SAFETY: as in `Batch::sender`. Nothing can be sent to port 0.
        unsafe { (*batch.memory.as_ptr()).names[1].sin6_port = 0 };
        for index in 0..3 {
            batch.reply(index, 3);
        }
        assert_eq!(batch.send(&server), 1);
        let mut text = [0; 8];
        assert_eq!((client.recv(&mut text).unwrap(), &text[..3]), (3, &b"one"[..]));
        assert_eq!((client.recv(&mut text).unwrap(), &text[..3]), (3, &b"six"[..]));
    }

    #[test]
    fn skips_datagrams_without_response() {
        let (server, client) = pair();
        let mut batch = Batch::new(false);
        for round in 0..3u8 {
            for number in 0..4 {
                client.send(&[round, number]).unwrap();
            }
            receive(&mut batch, &server, 4);
            for index in [1, 3] {
                let datagram = batch.datagram(index).unwrap();
                assert_eq!((&datagram.slot[..2], datagram.length), (&[round, index as u8][..], 2));
                datagram.slot[2] = 7;
                batch.reply(index, 3);
            }
            assert_eq!(batch.send(&server), 0);
            let mut text = [0; 8];
            for number in [1, 3] {
                assert_eq!((client.recv(&mut text).unwrap(), &text[..3]), (3, &[round, number, 7][..]));
            }
        }
    }

    #[test]
    fn truncates_datagram_larger_than_slot() {
        let (server, client) = pair();
        let mut batch = Batch::new(false);
        client.send(&[7; SLOT + 1]).unwrap();
        client.send(&[]).unwrap();
        receive(&mut batch, &server, 2);
        let large = batch.datagram(0).unwrap();
        assert_eq!((large.length, large.slot[SLOT - 1], large.from), (SLOT, 7, client.local_addr().unwrap()));
        assert_eq!(batch.datagram(1).unwrap().length, 0);
    }

    #[test]
    fn sends_from_queried_address() {
        for (wildcard, source, ipv6) in [("0.0.0.0:0", "127.0.0.2", false), ("[::]:0", "::1", true)] {
            let server = UdpSocket::bind(wildcard).unwrap();
            enable_pktinfo(&server, ipv6).unwrap();
            let client = UdpSocket::bind(if ipv6 { "[::1]:0" } else { "127.0.0.1:0" }).unwrap();
            client.set_read_timeout(PATIENCE).unwrap();
            let source: IpAddr = source.parse().unwrap();
            send(&server, b"text", client.local_addr().unwrap(), Some(source)).unwrap();
            let (length, from) = client.recv_from(&mut [0; 8]).unwrap();
            assert_eq!((length, from.ip()), (4, source));
        }
        let (server, client) = pair();
        send(&server, b"text", client.local_addr().unwrap(), None).unwrap();
        assert_eq!(client.recv(&mut [0; 8]).unwrap(), 4);
        // Nothing can be sent to port 0.
        assert!(send(&server, b"text", ([127, 0, 0, 1], 0).into(), None).is_err());
    }

    #[test]
    fn empty_socket_would_block() {
        let (server, _client) = pair();
        let error = Batch::new(false).receive(&server, ReceiveMode::NonBlocking).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn counts_dropped_datagrams() {
        let (server, client) = pair();
        socket2::SockRef::from(&server).set_recv_buffer_size(1).unwrap();
        assert_eq!(dropped_datagrams(&server).unwrap(), 0);
        for _ in 0..100 {
            client.send(&[0; 1000]).unwrap();
        }
        assert!(dropped_datagrams(&server).unwrap() > 0);
    }
}
