//! Files of `benches/compare` that tests use: the load generator, the clusters, the workloads and the page of results. Their
//! own unit tests run here, since a benchmark runs none.

#![allow(dead_code, missing_docs, reason = "the benchmark uses the rest")]

pub use crate::api_server::fake;

#[path = "../../benches/compare/cluster.rs"]
pub mod cluster;
#[path = "../../benches/compare/cpu.rs"]
pub mod cpu;
#[path = "../../benches/compare/echo.rs"]
pub mod echo;
#[path = "../../benches/compare/load/mod.rs"]
pub mod load;
#[path = "../../benches/compare/page.rs"]
pub mod page;
#[path = "../../benches/compare/plot.rs"]
pub mod plot;
#[path = "../../benches/compare/sheet.rs"]
pub mod sheet;
#[path = "../../benches/compare/sys.rs"]
pub mod sys;
#[path = "../../benches/compare/workload.rs"]
pub mod workload;
