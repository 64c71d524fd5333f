//! What is shown to people and programs: the same from a command and from a running server.
//!
//! `explained.rs` is what is said of one name and how it is written, `explaining.rs` finds it out of a zone and its
//! cluster, `said.rs` is one finding, `records.rs` a zone as text. Nothing is read and nothing is sent here: `commands`
//! and `admin` do that.

pub mod explained;
pub mod explaining;
pub mod records;
pub mod said;
