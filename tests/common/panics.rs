//! Panics of the server's code in a process in which tests panic too: a failed test, or one that panics on purpose.
//!
//! `headless_dns::panics` counts all panics of a process, so its count is of use in a process of the server alone.

use std::panic;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Panics of the server's code and of libraries since a moment.
pub struct PanicWatch {
    before: usize,
}

impl PanicWatch {
    /// Watches from now on.
    pub fn start() -> Self {
        static STARTED: Once = Once::new();
        STARTED.call_once(|| {
            let report = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                // Tests and the parts of benchmarks that they use are compiled from paths that begin with this folder.
                if let Some(place) = info.location().filter(|place| !place.file().starts_with("tests/")) {
                    seen().push(place.to_string());
                }
                report(info);
            }));
        });
        Self { before: seen().len() }
    }

    /// Panics if there was one. Another test's server may be the cause: the place is in the message.
    pub fn assert_none(&self) {
        let seen = seen()[self.before..].to_vec();
        assert!(seen.is_empty(), "panics of the server: {seen:?}");
    }
}

fn seen() -> MutexGuard<'static, Vec<String>> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner)
}
