//! HTTP for probes, Prometheus, programs and people.
//!
//! ```text
//!   listen.rs ──▶ routes.rs ──┬─▶ health.rs   /livez, /readyz
//!   (limits)      (axum)      ├─▶ metrics     /metrics
//!                             ├─▶ api.rs      /api/v1, rendered by `report`
//!                             └─▶ page.rs     /
//! ```
//!
//! A small HTTP/1.1 server without TLS. Every client may request `/livez`, `/readyz` and `/metrics`. Responses with
//! names of the cluster are limited to loopback addresses and to the address of `--admin-api`, and are never readable by
//! a page of another site. No request changes the server. Not here: the counters (`metrics`), and the explanations
//! (`explain`). Read next: `routes.rs`.

mod api;
mod body;
mod clock;
mod health;
mod listen;
mod page;
mod params;
mod routes;
mod shown;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::JoinSet;

use listen::BoundAdminSocket;
use routes::Exposure;
use shown::AdminState;

pub use clock::AdminLimits;
pub use shown::{AdminContext, CertificateInUse, ListenAddresses, ServerInfo};

/// The bound sockets of the admin listener, which accept no connection yet.
#[derive(Debug)]
pub struct AdminListeners(Vec<BoundAdminSocket>);

impl AdminListeners {
    /// Binds `address`, for health and metrics (and for all paths if it is a loopback address), and `everything`, for
    /// all paths.
    ///
    /// # Errors
    ///
    /// An address that cannot be bound, with the option, the address and the action to take.
    pub fn bind(address: Option<SocketAddr>, everything: Option<SocketAddr>) -> anyhow::Result<Self> {
        let mut bound = Vec::new();
        if let Some(address) = address {
            let exposure = Exposure { full: address.ip().is_loopback() || everything == Some(address) };
            bound.push(listen::bind("admin", address, exposure)?);
        }
        if let Some(everything) = everything.filter(|everything| address != Some(*everything)) {
            bound.push(listen::bind("admin-api", everything, Exposure { full: true })?);
        }
        Ok(Self(bound))
    }

    /// Returns the addresses, with the ports that the kernel chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|bound| bound.address).collect()
    }

    /// Serves requests until the future is dropped. Without an address it waits for ever.
    ///
    /// # Errors
    ///
    /// If a socket cannot be used.
    pub async fn serve(self, view: AdminContext, limits: AdminLimits) -> anyhow::Result<()> {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let shown = Arc::new(AdminState::new(view));
        let mut tasks = JoinSet::new();
        for bound in self.0 {
            let router = routes::router(Arc::clone(&shown), bound.exposure);
            tasks.spawn(listen::serve(bound, limits, router));
        }
        tokio::select! {
            Some(ended) = tasks.join_next() => ended?,
            () = shown.count() => Ok(()),
        }
    }
}
