//! Reports for people and programs, rendered alike by commands and by a running server.
//!
//! `explained.rs` renders the explanation of one name, `explaining.rs` makes it from a zone and its cluster, `said.rs`
//! renders one finding, `records.rs` a zone. Not here: input and output (`commands/`, `admin/`). Read next:
//! `explaining.rs`.

pub mod explain;
pub mod explain_report;
pub mod finding_view;
pub mod records;
