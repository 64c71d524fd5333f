//! Access control: which clients are answered, refused or ignored.
//!
//! Not here: which clients may use forwarding (`forwarding.rs`), and to which clients causes are reported
//! (`extended_errors.rs`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use ipnet::IpNet;

/// Addresses of the client and of the listener.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Address and port of the client.
    pub from: SocketAddr,
    /// Address and port of the listener; for a wildcard bind, the address that the client sent the message to.
    pub to: SocketAddr,
}

impl Peer {
    /// Returns whether the source address can be a client's: unicast, with a port, and not the listener's own address and
    /// port, since this server would receive its own response.
    #[inline]
    pub(super) fn has_client_address(&self) -> bool {
        let address = self.from.ip();
        self.from.port() != 0 && !address.is_unspecified() && !address.is_multicast() && self.from != self.to
    }
}

/// Access list: the clients that are answered, and the treatment of all other clients.
#[derive(Clone, Debug, Default)]
pub struct AccessList {
    /// Networks of the clients that are answered. If empty, all clients are answered.
    pub allow: Vec<IpNet>,
    /// True if a query of any other client is dropped instead of answered with REFUSED.
    pub silent: bool,
}

impl AccessList {
    fn is_allowed(&self, peer: &Peer) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|network| network.contains(&peer.from.ip().to_canonical()))
    }
}

/// Decision of the access list about a client's message.
pub(super) enum AccessDecision {
    Allowed,
    Refused,
    Dropped,
}

/// Access list that can be replaced while queries are answered.
pub(super) struct SharedAccessList {
    list: ArcSwap<AccessList>,
    /// True if the list is empty, so that it need not be loaded.
    allows_everyone: AtomicBool,
}

impl SharedAccessList {
    pub(super) fn new(list: AccessList) -> Self {
        Self { allows_everyone: AtomicBool::new(list.allow.is_empty()), list: ArcSwap::from_pointee(list) }
    }

    pub(super) fn replace(&self, list: AccessList) {
        let allows_everyone = list.allow.is_empty();
        self.list.store(Arc::new(list));
        self.allows_everyone.store(allows_everyone, Ordering::Release);
    }

    #[inline]
    pub(super) fn decide(&self, peer: &Peer) -> AccessDecision {
        if self.allows_everyone.load(Ordering::Acquire) {
            return AccessDecision::Allowed;
        }
        // Load once, so that both checks see one access list.
        let list = self.list.load();
        match (list.is_allowed(peer), list.silent) {
            (true, _) => AccessDecision::Allowed,
            (false, false) => AccessDecision::Refused,
            (false, true) => AccessDecision::Dropped,
        }
    }
}
