//! Transports of DNS, as one value: response size, padding, labels.

/// Transport of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// UDP: responses of at most 1232 octets.
    Udp,
    /// TCP, a stream, as are all below: responses of at most 65,535 octets.
    Tcp,
    /// TLS (RFC 7858).
    Tls,
    /// HTTPS (RFC 8484).
    Https,
    /// QUIC (RFC 9250).
    Quic,
}

impl Transport {
    /// All transports.
    pub const ALL: [Self; 5] = [Self::Udp, Self::Tcp, Self::Tls, Self::Https, Self::Quic];

    /// Returns whether a response has to fit into a datagram.
    #[inline]
    pub fn is_datagram(self) -> bool {
        self == Self::Udp
    }

    /// Returns whether the transport is encrypted, so that only the message length is visible on the path (RFC 7830).
    #[inline]
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Tls | Self::Https | Self::Quic)
    }

    /// Returns the transport's name in metric labels and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Https => "https",
            Self::Quic => "quic",
        }
    }

    /// Returns the scheme of CoreDNS's `server` label.
    pub fn scheme(self) -> &'static str {
        if matches!(self, Self::Udp | Self::Tcp) { "dns" } else { self.label() }
    }
}
