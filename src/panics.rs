//! Counter of panics: the hook counts each where it begins, so that no place that catches a panic can omit it.
//!
//! The count is for the process. A panic is then reported by the hook that was installed before, or as the log decides
//! ([`report_with`]; see `log.rs`).

use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Once, OnceLock};

type Report = fn(&PanicHookInfo<'_>);

static COUNT: AtomicU64 = AtomicU64::new(0);
static REPORT: OnceLock<Report> = OnceLock::new();

/// Counts every panic from now on. Further calls do nothing.
pub fn start_counting() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            COUNT.fetch_add(1, Ordering::Relaxed);
            match REPORT.get() {
                Some(report) => report(info),
                None => before(info),
            }
        }));
    });
}

/// Counts every panic, and reports each with `report` instead of the previous hook. Only the first call has an effect.
pub fn report_with(report: Report) {
    start_counting();
    let _ = REPORT.set(report);
}

/// Returns the number of panics since [`start_counting`], caught or not.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}
