//! DNS over QUIC in a build without it (cargo feature `quic`).

use std::net::UdpSocket;

use anyhow::{Result, bail};

use super::ListenerTasks;
use super::listener::bind::SocketRelease;
use super::listener::context::Listener;
use super::tls::certificates::Certificates;

/// Refuses to listen: this build has no QUIC.
///
/// # Errors
///
/// Always.
pub(super) fn start(
    _: &mut ListenerTasks,
    _: (Vec<UdpSocket>, Option<SocketRelease>),
    _: Option<&Certificates>,
    Listener { context, .. }: Listener,
) -> Result<()> {
    bail!("{} cannot be served: this build has no QUIC (cargo feature quic)", context.listen)
}
