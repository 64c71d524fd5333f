//! The texts of `/livez` and `/readyz`.
//!
//! Pure. The process is live as long as it responds here and each worker sends heartbeats. Nothing else counts: a restart
//! because of an unreachable API server would lose the known objects. The server is ready from the first complete
//! synchronization until its shutdown begins; stale data does not change that, since a stale answer is better than none.
//! Lines have the format of kube-apiserver: `[+]watch/services ok: …`.

use std::fmt::Write as _;
use std::time::Instant;

use crate::duration::age;
use crate::server::heartbeats::STALL_LIMIT;
use headless_dns_core::escape::Printable;
use headless_dns_core::status::{DataState, Status, WatchState, WatchStatus};

/// The outcome of a health check, with its text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HealthReport {
    pub(super) good: bool,
    pub(super) text: String,
}

/// Returns the health of the process: each stalled worker is a failure.
pub(super) fn live(stalled: &[String]) -> HealthReport {
    if stalled.is_empty() {
        return HealthReport { good: true, text: "ok\n".into() };
    }
    let lines =
        stalled.iter().map(|worker| format!("[-]worker/{worker} failed: no turn for {} s\n", STALL_LIMIT.as_secs()));
    HealthReport { good: false, text: lines.chain(["livez check failed\n".to_owned()]).collect() }
}

/// Returns the readiness at `now`: one word, or all checks with `verbose` or if one fails.
pub(super) fn ready(status: &Status, verbose: bool, now: Instant) -> HealthReport {
    let good = status.is_ready();
    if good && !verbose {
        return HealthReport { good, text: "ok\n".into() };
    }
    let mut text = String::new();
    for part in checks(status, now) {
        let (mark, word) = if part.passed { ("+", "ok") } else { ("-", "failed") };
        let _ = writeln!(text, "[{mark}]{} {word}: {}", part.name, Printable(&part.text));
    }
    let _ = writeln!(text, "readyz check {}", if good { "passed" } else { "failed" });
    HealthReport { good, text }
}

struct HealthCheck {
    name: String,
    /// The check passed.
    passed: bool,
    text: String,
}

fn checks(status: &Status, now: Instant) -> Vec<HealthCheck> {
    let state = status.data_state();
    let watches = status.watches();
    let mut checks = vec![data(status, &watches)];
    checks.extend(unread(status, state));
    checks.extend(watches.iter().map(|watch| HealthCheck {
        name: format!("watch/{}", watch.resource),
        // Once everything was read, a lost watch does not make the server unready.
        passed: watch.state == WatchState::Current || !watch.required || state.may_deny(),
        text: watch_text(watch, now),
    }));
    let leaving = status.is_leaving();
    let text = if leaving { "this server is shutting down: use another" } else { "this server is not shutting down" };
    checks.push(HealthCheck { name: "leaving".into(), passed: !leaving, text: text.into() });
    checks
}

fn data(status: &Status, watches: &[WatchStatus]) -> HealthCheck {
    let state = status.data_state();
    let text = match state {
        DataState::NotSynced if watches.is_empty() => "the manifests are being read for the first time",
        DataState::NotSynced => "not everything was read yet: no name may be denied",
        DataState::Restored => "not everything was read yet: answers come from a snapshot, as stale data",
        DataState::Partial => "not everything could be read: names that do not exist get SERVFAIL",
        DataState::Current => "everything was read",
        DataState::Stale => &format!("everything was read; {}", stale_text(status)),
    };
    HealthCheck { name: "data".into(), passed: state.may_deny(), text: text.into() }
}

/// Returns the text for stale data, with the extended error that responses carry.
pub(super) fn stale_text(status: &Status) -> String {
    format!("answers carry the extended error {}", status.sentence())
}

/// Returns a failed check for each manifest that cannot be read.
fn unread(status: &Status, state: DataState) -> Vec<HealthCheck> {
    let sentences = if state == DataState::Partial { status.waiting_for() } else { Vec::new() };
    sentences.into_iter().map(|text| HealthCheck { name: "manifest".into(), passed: false, text }).collect()
}

/// Describes the state of a watch, with its duration.
pub(super) fn watch_text(watch: &WatchStatus, now: Instant) -> String {
    let mut text = watch.state.to_string();
    if let Some(since) = watch.since {
        let _ = write!(text, ", for {}", age(now.saturating_duration_since(since).as_secs()));
    }
    if !watch.required && watch.state != WatchState::Current {
        text.push_str(" (optional)");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use headless_dns_core::status::{Loss, LossReason};

    fn watch(resource: &'static str, required: bool, state: WatchState, since: Instant) -> WatchStatus {
        WatchStatus { resource, required, state, since: Some(since) }
    }

    #[test]
    fn readiness_follows_state() {
        let (status, now) = (Status::default(), Instant::now());
        let since = now - Duration::from_secs(300);
        let check = |verbose, good, expected: &str| {
            let health = ready(&status, verbose, now);
            assert_eq!((health.good, health.text.as_str()), (good, expected));
        };
        check(
            false,
            false,
            "[-]data failed: the manifests are being read for the first time\n\
             [+]leaving ok: this server is not shutting down\nreadyz check failed\n",
        );
        status.set_watches(vec![
            watch("services", true, WatchState::Current, since),
            watch("endpointslices", true, WatchState::Denied("watch"), since),
            watch("namespaces", false, WatchState::Denied("list"), since),
        ]);
        check(
            false,
            false,
            "[-]data failed: not everything was read yet: no name may be denied\n\
             [+]watch/services ok: current, for 5m\n\
             [-]watch/endpointslices failed: the API server does not allow `watch`, for 5m\n\
             [+]watch/namespaces ok: the API server does not allow `list`, for 5m (optional)\n\
             [+]leaving ok: this server is not shutting down\nreadyz check failed\n",
        );
        let partial = Status::default();
        partial.set_partial(vec!["a.yaml, line 3: this is not YAML".into()]);
        let expected = "[-]data failed: not everything could be read: names that do not exist get SERVFAIL\n\
                        [-]manifest failed: a.yaml, line 3: this is not YAML\n\
                        [+]leaving ok: this server is not shutting down\nreadyz check failed\n";
        assert_eq!(ready(&partial, false, now), HealthReport { good: false, text: expected.into() });
        status.set_synced();
        check(false, true, "ok\n");
        let loss = Loss { reason: LossReason::OutOfReach, detail: "no route".into() };
        status.set_watches(vec![watch("services", true, WatchState::Lost(loss), now)]);
        status.set_sentence("STALE: the API server is out of reach".into());
        status.set_cut_off(true);
        check(
            true,
            true,
            "[+]data ok: everything was read; answers carry the extended error STALE: the API server is out of reach\n\
             [+]watch/services ok: the API server is out of reach: no route, for 0s\n\
             [+]leaving ok: this server is not shutting down\nreadyz check passed\n",
        );
        status.set_leaving();
        let health = ready(&status, false, now);
        assert!(!health.good && health.text.contains("[-]leaving failed: this server is shutting down"), "{health:?}");
    }

    #[test]
    fn names_stalled_worker() {
        assert_eq!(live(&[]), HealthReport { good: true, text: "ok\n".into() });
        let stalled = live(&["udp-0 at 127.0.0.1:53".to_owned()]);
        assert!(!stalled.good);
        assert_eq!(stalled.text, "[-]worker/udp-0 at 127.0.0.1:53 failed: no turn for 10 s\nlivez check failed\n");
    }
}
