//! Listeners: their addresses and sockets, the context that their connections share, and the limits on connections.
//!
//! Not here: reading and writing (`../udp/`, `../stream/`, `../https/`, `../quic/`). Read next: `bind.rs`, `context.rs`.

pub(super) mod address;
pub(super) mod bind;
pub(super) mod context;
pub(super) mod limiter;
pub(super) mod tracker;
