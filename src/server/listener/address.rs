//! Listen addresses and their protocols.
//!
//! Not here: the sockets that are bound to them (`listener/bind.rs`).

use std::fmt;
use std::net::SocketAddr;

use headless_dns_core::answer::Transport;

/// Protocol of a listen address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenProtocol {
    /// DNS over UDP and TCP.
    Plain,
    /// DNS over TLS (RFC 7858).
    Tls,
    /// DNS over HTTPS (RFC 8484).
    Https,
    /// DNS over QUIC (RFC 9250).
    Quic,
}

impl ListenProtocol {
    pub(crate) fn is_over_tcp(self) -> bool {
        self != Self::Quic
    }

    pub(crate) fn is_over_udp(self) -> bool {
        matches!(self, Self::Plain | Self::Quic)
    }

    /// Returns whether a connection holds large buffers even when idle: those of HTTP/2 or QUIC.
    pub(crate) fn is_large(self) -> bool {
        matches!(self, Self::Https | Self::Quic)
    }

    /// Returns the transport of messages on the streams of this protocol.
    pub(crate) fn transport(self) -> Transport {
        match self {
            Self::Plain => Transport::Tcp,
            Self::Tls => Transport::Tls,
            Self::Https => Transport::Https,
            Self::Quic => Transport::Quic,
        }
    }
}

impl fmt::Display for ListenProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "UDP and TCP",
            Self::Tls => "TLS",
            Self::Https => "HTTPS",
            Self::Quic => "QUIC",
        })
    }
}

/// A listen address and its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddress {
    /// Protocol.
    pub protocol: ListenProtocol,
    /// IP address and port.
    pub address: SocketAddr,
}

impl ListenAddress {
    /// Returns a listen address for DNS over UDP and TCP.
    pub fn plain(address: SocketAddr) -> Self {
        Self { protocol: ListenProtocol::Plain, address }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} over {}", self.address, self.protocol)
    }
}
