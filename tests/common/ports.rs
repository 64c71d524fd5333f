//! Ports of loopback addresses that belong to one test for as long as it runs.
//!
//! A port that is bound, released and bound again can go to another process in between, and two tests that choose ports
//! that way fail now and then. A server that can report its port listens on port 0 instead. For the rest: a port that is
//! reserved while the server has it and while it does not, and a pair of sockets on one port.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

/// A port of one loopback address, for UDP and TCP, at which no process listens unless the test starts one there.
///
/// The reserving sockets accept nothing: TCP is bound and not listening, UDP is connected to itself. Clients are refused.
/// SO_REUSEADDR (TCP) and SO_REUSEPORT let a server that sets them, as ours and those written in Go do, bind the port any
/// number of times; the kernel gives it to no other socket.
#[derive(Debug)]
pub struct ReservedPort {
    address: SocketAddr,
    _sockets: (Socket, Socket),
}

impl ReservedPort {
    pub fn new() -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into())
    }

    pub fn at(ip: IpAddr) -> Self {
        Self::bind(ip, true)
    }

    /// Reserves a port at which UDP is in use, and TCP can be listened on.
    pub fn with_udp_in_use() -> Self {
        Self::bind(Ipv4Addr::LOCALHOST.into(), false)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    fn bind(ip: IpAddr, shares_udp: bool) -> Self {
        loop {
            let tcp = Socket::new(Domain::for_address((ip, 0).into()), Type::STREAM, Some(Protocol::TCP)).unwrap();
            tcp.set_reuse_address(true).unwrap();
            tcp.set_reuse_port(true).unwrap();
            tcp.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
            let address = tcp.local_addr().unwrap().as_socket().unwrap();
            let udp = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP)).unwrap();
            udp.set_reuse_port(shares_udp).unwrap();
            // Over UDP the port can be in use: the kernel chose it for TCP.
            if udp.bind(&address.into()).is_ok() {
                udp.connect(&address.into()).unwrap();
                return Self { address, _sockets: (tcp, udp) };
            }
        }
    }
}

/// A TCP listener and a UDP socket on one port of 127.0.0.1.
pub fn bind_both() -> (TcpListener, UdpSocket) {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
            return (tcp, udp);
        }
    }
}
