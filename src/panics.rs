//! Panics: each is counted in the hook, where it begins, so that none depends on the place that catches it.
//!
//! The count is of the process. A panic is reported by the hook that was there before, or as the log decides
//! ([`report_with`]).

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

/// Counts every panic, and reports each with `report` in place of the hook before. The first call decides.
pub fn report_with(report: Report) {
    start_counting();
    let _ = REPORT.set(report);
}

/// Returns how many panics there were since [`start_counting`], whatever caught them.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}
