//! headless-dns
pub mod answer;
pub mod metrics;
pub mod names;
pub mod objects;
