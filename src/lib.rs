//! headless-dns
pub mod answer;
pub mod cluster;
pub mod explain;
pub mod metrics;
pub mod names;
pub mod objects;
pub mod records;
pub mod rules;
pub mod simulate;
pub mod source;
pub mod status;
pub mod wire;
pub mod zone;
