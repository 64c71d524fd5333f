//! Metrics of this process, from `/proc` (proc(5)).
//!
//! A value that cannot be read is left out: a missing sample is better than a wrong one.

use std::fs;
use std::path::Path;

use super::exposition::{Families, Value};
use super::table::{CPU, MAX_FDS, OPEN_FDS, RESIDENT_MEMORY, START_TIME, VIRTUAL_MEMORY};
use crate::regular_file::{self, FileError, MAX_SMALL_FILE};

/// USER_HZ, the unit of CPU times in `/proc`: 100 on every architecture of Rust's std.
const TICKS_PER_SECOND: f64 = 100.0;

/// Adds the metrics that can be read.
pub(super) fn collect(families: &mut Families) {
    let mut gauge = |family, value: Option<f64>| {
        if let Some(value) = value {
            families.add(family, &[], Value::Gauge(value));
        }
    };
    let stat = read("/proc/self/stat").unwrap_or_default();
    let field = |number| field(&stat, number);
    gauge(&RESIDENT_MEMORY, status_kibibytes("VmRSS:"));
    gauge(&VIRTUAL_MEMORY, field(23));
    gauge(&OPEN_FDS, fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as f64));
    gauge(&MAX_FDS, max_fds());
    gauge(&START_TIME, field(22).zip(boot_time()).map(|(ticks, boot)| boot + ticks / TICKS_PER_SECOND));
    if let Some((user, system)) = field(14).zip(field(15)) {
        families.add(&CPU, &[], Value::Counter((user + system) / TICKS_PER_SECOND));
    }
}

/// Returns a field of `/proc/self/stat` by its number in proc(5). The second, a name in parentheses, may hold spaces.
fn field(stat: &str, number: usize) -> Option<f64> {
    let (_, behind) = stat.rsplit_once(") ")?;
    behind.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

/// Reads a file under `/proc`.
fn read(path: &str) -> Result<String, FileError> {
    regular_file::read_text(Path::new(path), MAX_SMALL_FILE)
}

fn status_kibibytes(key: &str) -> Option<f64> {
    let status = read("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().next()?.parse::<f64>().ok().map(|kibibytes| kibibytes * 1024.0)
}

fn max_fds() -> Option<f64> {
    let limits = read("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn boot_time() -> Option<f64> {
    let stat = read("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_process_name_with_blanks_and_brackets() {
        let stat = "7 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 13";
        assert_eq!(field(stat, 14), Some(250.0));
        assert_eq!(field(stat, 15), Some(50.0));
        assert_eq!(field(stat, 99), None);
        assert_eq!(field("", 14), None);
    }
}
