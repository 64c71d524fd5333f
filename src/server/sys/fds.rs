//! File descriptors of sockets, received from other processes: over a Unix socket (unix(7), SCM_RIGHTS) and from the
//! service manager.
//!
//! One of two modules with `unsafe`: a descriptor is an integer, and only the system call that delivered it guarantees
//! that it is open and owned by nothing else. Not here: authorization and the protocol of a hot restart
//! (`hot_restart/`).

#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{c_int, iovec, msghdr};

/// Maximum number of descriptors in one message. The kernel's limit is 253 (SCM_MAX_FD).
pub(crate) const MAX_SOCKETS_PER_MESSAGE: usize = 64;

/// Buffer of the control message: `CMSG_SPACE` of [`MAX_SOCKETS_PER_MESSAGE`] descriptors, aligned as `cmsghdr`.
#[repr(C, align(8))]
struct FdCmsgBuffer([u8; CONTROL]);

// SAFETY: `CMSG_SPACE` computes a length and reads no memory.
const CONTROL: usize = unsafe { libc::CMSG_SPACE((MAX_SOCKETS_PER_MESSAGE * size_of::<RawFd>()) as u32) } as usize;

/// Sends one octet and with it copies of `sockets`, at most [`MAX_SOCKETS_PER_MESSAGE`].
pub(crate) fn send(stream: &impl AsRawFd, sockets: &[OwnedFd]) -> io::Result<()> {
    assert!(!sockets.is_empty() && sockets.len() <= MAX_SOCKETS_PER_MESSAGE, "as many as there is room for");
    let mut octet = [b'.'];
    let mut control = FdCmsgBuffer([0; CONTROL]);
    let length = size_of_val(sockets);
    // SAFETY: all pointers are to locals that outlive the call, with their lengths; `control` has room for a header and
    // the descriptors, which are written within it; the descriptors are borrowed, and so open.
    let sent = unsafe {
        let mut vector = iovec { iov_base: octet.as_mut_ptr().cast(), iov_len: 1 };
        let mut message: msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = libc::CMSG_SPACE(length as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(length as u32) as _;
        let data = libc::CMSG_DATA(header).cast::<RawFd>();
        for (index, socket) in sockets.iter().enumerate() {
            data.add(index).write_unaligned(socket.as_raw_fd());
        }
        libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    if sent == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives one octet and the descriptors that came with it. `UnexpectedEof` if the peer has closed the connection.
pub(crate) fn receive(stream: &impl AsRawFd) -> io::Result<Vec<OwnedFd>> {
    let mut octet = [0u8];
    let mut control = FdCmsgBuffer([0; CONTROL]);
    let mut sockets = Vec::new();
    // SAFETY: all pointers are to locals that outlive the call, with their lengths. The kernel wrote the control
    // messages, and `CMSG_*` stay within the length that it wrote; each descriptor of an SCM_RIGHTS message is open,
    // new, and owned by nothing else.
    let (received, flags) = unsafe {
        let mut vector = iovec { iov_base: octet.as_mut_ptr().cast(), iov_len: 1 };
        let mut message: msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = CONTROL as _;
        let received = libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC);
        let mut header = if received < 0 { std::ptr::null_mut() } else { libc::CMSG_FIRSTHDR(&raw const message) };
        while !header.is_null() {
            if ((*header).cmsg_level, (*header).cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let count = ((*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                sockets.extend((0..count).map(|index| OwnedFd::from_raw_fd(data.add(index).read_unaligned())));
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
        (received, message.msg_flags)
    };
    match received {
        1 if flags & libc::MSG_CTRUNC == 0 => Ok(sockets),
        1 => Err(io::Error::other("not all sockets came: there are too few file descriptors (ulimit -n)")),
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes the sockets that the service manager opened for this process (sd_listen_fds(3)). Empty when called again.
pub(crate) fn from_service_manager() -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Ok(Vec::new());
    }
    let numbers: Vec<c_int> = sd_notify::listen_fds()?.collect();
    // SAFETY: the service manager opened the descriptors for this process, which `listen_fds` has checked: by the
    // process ID, and by setting a flag on each. Nothing else in this program takes them, and `TAKEN` lets this
    // function do so once.
    Ok(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}

/// Returns the effective user ID of this process.
pub(crate) fn own_user() -> u32 {
    // SAFETY: the call has no arguments and cannot fail.
    unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn passes_sockets() {
        let (one, two) = UnixStream::pair().unwrap();
        let sockets: Vec<UdpSocket> =
            (0..MAX_SOCKETS_PER_MESSAGE).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let copies: Vec<OwnedFd> = sockets.iter().map(|socket| socket.try_clone().unwrap().into()).collect();
        send(&one, &copies).unwrap();
        send(&one, &copies[..1]).unwrap();
        drop(copies);
        let received = receive(&two).unwrap();
        assert_eq!((received.len(), receive(&two).unwrap().len()), (MAX_SOCKETS_PER_MESSAGE, 1));
        for (socket, passed) in sockets.into_iter().zip(received) {
            let address = socket.local_addr().unwrap();
            drop(socket);
            assert_eq!(UdpSocket::from(passed).local_addr().unwrap(), address);
        }
        drop(one);
        assert_eq!(receive(&two).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
