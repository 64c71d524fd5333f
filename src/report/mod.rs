//! Reports for people and programs, rendered alike by commands and by a running server.
//!
//! `explain_report.rs` renders the explanation of one name, `explain.rs` makes it from a zone and its cluster,
//! `finding_view.rs` renders one finding, `records.rs` a zone. Not here: input and output (`commands/`, `admin/`). Read
//! next: `explain.rs`.

pub mod explain;
pub mod explain_report;
pub mod finding_view;
pub mod records;
