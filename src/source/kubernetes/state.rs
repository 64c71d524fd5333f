//! The state machine of one watch: decides whether to list, watch, wait or reconnect next.
//!
//! Pure: the time and a random number are arguments. [`WatchMachine::next_step`] returns the next step, [`WatchMachine::handle_outcome`] takes its
//! outcome. Row ids (K1, ...) are those of `tests/rows.md`; `tests/it/api_server/` plays each fault. Not here: requests
//! (`client.rs`), and the execution of the steps (`watcher.rs`).

use std::time::Duration;

use tokio::time::Instant;

use headless_dns_core::status::{Loss, LossReason, WatchState};

/// Deadlines and pauses of all watches. The faults K1 to K19 were measured with the defaults; tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Deadline of one page of a LIST, and of the pause between two events of a streaming list (K5). Default: 60 s.
    pub page: Duration,
    /// Duration of a watch before the API server ends it, as `timeoutSeconds`. Default: 15 s, and up to a third more.
    pub watch: Duration,
    /// Deadline for the start of a watch. Together with `watch`, which also limits the watch behind a streaming list,
    /// it makes 25 s (K6). Default: 10 s.
    pub start: Duration,
    /// Time past its end for which a watch may stay open before its connection counts as dead (K6). Default: 3 s.
    pub grace: Duration,
    /// Time for which an accepted watch must stay open to count as established without an event or a bookmark, and to
    /// reset the back-off (K17). Default: 5 s.
    pub proof: Duration,
    /// Time without an octet from the API server, over all watches, before a probe; also the deadline of that probe,
    /// and the minimum time between two probes (K18). Default: 10 s.
    pub quiet: Duration,
    /// Time without an event or a bookmark of this watch before a relist (K13). Default: 150 s.
    pub idle_timeout: Duration,
    /// Interval between checks of the API server's resourceVersion (K13). Default: 60 s.
    pub version_check: Duration,
    /// Interval between audits: relists in case an event was lost (K14). Default: 15 min, a tenth more or less.
    pub audit: Duration,
    /// Bounds of the back-off after a failure, which doubles from the first to the second (K1). Default: 1 and 10 s.
    pub back_off: [Duration; 2],
    /// Pause between requests for an optional resource that is denied, once the back-off has reached its upper bound
    /// (K15). Default: 60 s.
    pub denied: Duration,
    /// Time after the beginning of a loss from which answers carry the extended error for stale data. Default: 30 s.
    pub stale: Duration,
    /// Minimum number of objects that a relist must delete to need a confirmation; it must also delete more than half
    /// (K11). Default: 100.
    pub mass_delete_guard: usize,
    /// Streaming lists are tried first (K12). Default: true.
    pub streaming: bool,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            page: Duration::from_secs(60),
            watch: Duration::from_secs(15),
            start: Duration::from_secs(10),
            grace: Duration::from_secs(3),
            proof: Duration::from_secs(5),
            quiet: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(150),
            version_check: Duration::from_secs(60),
            audit: Duration::from_secs(15 * 60),
            back_off: [Duration::from_secs(1), Duration::from_secs(10)],
            denied: Duration::from_secs(60),
            stale: Duration::from_secs(30),
            mass_delete_guard: 100,
            streaming: true,
        }
    }
}

/// The reason for which a request or a watch failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WatchFailure {
    /// 410: the API server no longer knows the resourceVersion.
    Gone(String),
    /// 502, 503 or 504, with the status code: the response of a proxy whose API server is out of reach. The API server
    /// itself responds 504 if it does not know the resourceVersion yet.
    Gateway(u16, String),
    /// 401: the API server rejects the credentials.
    Unauthorized(String),
    /// 403: the API server denies this verb on the resource.
    Forbidden(&'static str),
    /// 400, 405 or 422: the API server does not support the request.
    Unsupported(String),
    /// 404: the API server does not have this resource.
    NotFound,
    /// 429, or 503 with `Retry-After`: the pause that the API server asks for, and the text.
    Busy(Duration, String),
    /// No response before the deadline, or no octet although the API server should have sent one.
    TimedOut(String),
    /// No connection, or none that got as far as a response: the client's certificates may be outdated.
    Unreachable(String),
    /// The connection was closed within a response.
    ConnectionLost(String),
    /// Any other failure: status 500, a watch that breaks at once, invalid JSON.
    Other(String),
}

impl WatchFailure {
    /// Returns the value of the metric label `reason`.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Gone(_) | Self::Gateway(504, _) => "gone",
            Self::Unauthorized(_) => "unauthorized",
            Self::Forbidden(_) => "denied",
            Self::Unsupported(_) => "refused",
            Self::NotFound => "unknown",
            Self::Busy(..) => "busy",
            Self::TimedOut(_) => "late",
            Self::Unreachable(_) => "unreachable",
            Self::Gateway(..) | Self::ConnectionLost(_) | Self::Other(_) => "other",
        }
    }

    /// Returns whether the API server itself responded, so that it is within reach.
    pub(super) fn is_answer(&self) -> bool {
        !matches!(self, Self::Gateway(..) | Self::TimedOut(_) | Self::Unreachable(_) | Self::ConnectionLost(_))
    }

    /// Returns the state of a watch with this failure.
    pub(super) fn state(&self) -> WatchState {
        let lost = |reason, detail: &str| WatchState::Lost(Loss { reason, detail: detail.to_owned() });
        match self {
            Self::Forbidden(verb) => WatchState::Denied(verb),
            Self::Unauthorized(detail) => lost(LossReason::Unauthorized, detail),
            Self::Busy(_, detail) => lost(LossReason::Overloaded, detail),
            Self::NotFound => lost(LossReason::Failing, "404 Not Found: it does not have this resource"),
            Self::Gone(detail) | Self::Gateway(_, detail) | Self::Unsupported(detail) | Self::Other(detail) => {
                lost(LossReason::Failing, detail)
            }
            Self::TimedOut(detail) | Self::Unreachable(detail) | Self::ConnectionLost(detail) => {
                lost(LossReason::OutOfReach, detail)
            }
        }
    }
}

/// The outcome of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WatchOutcome {
    /// A list was read to its end. It has this resourceVersion.
    Listed(String),
    /// A list would delete so many objects that a second list, over a new connection, must confirm it.
    SuspiciousList,
    /// A list was not read to its end.
    ListFailed(WatchFailure),
    /// The API server did not accept a watch.
    WatchFailed(WatchFailure),
    /// A watch failed after the API server had accepted it.
    WatchBroke(WatchFailure),
    /// A proven watch ended: it had an event or a bookmark, or stayed open for [`Timing::proof`].
    WatchEnded,
    /// Neither an event nor a bookmark came for [`Timing::idle_timeout`].
    Silent,
    /// The resourceVersion of the API server is older than the known one, or an event could not be repaired.
    Outdated,
    /// The next audit is due.
    AuditDue,
}

impl WatchOutcome {
    /// Returns the value of the metric label `reason` of a list that follows.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Listed(_) | Self::WatchEnded => "start",
            Self::SuspiciousList => "held_down",
            Self::ListFailed(failure) | Self::WatchFailed(failure) | Self::WatchBroke(failure) => failure.label(),
            Self::Silent => "silent",
            Self::Outdated => "outdated",
            Self::AuditDue => "audit",
        }
    }
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WatchStep {
    /// Wait for this long before the next step.
    Wait(Duration),
    /// Make a new client: the connections of the old one must not be used again.
    Reconnect,
    /// List all objects.
    List {
        /// True for a streaming list (a watch with `sendInitialEvents`); false for a paginated LIST (`limit` and
        /// `continue`).
        streaming: bool,
        /// True for the second of two lists: it is applied however many objects it deletes (K11).
        confirmed: bool,
        /// True for an audit: each of its changes is an event that was lost (K14).
        audit: bool,
    },
    /// Watch from this resourceVersion on.
    Watch(String),
}

/// The state of the open watch (K17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WatchPhase {
    /// No watch is open: the API server accepted none since the last list or failure.
    Closed,
    /// The API server accepted the watch at this time. It may still break at once, as behind a proxy that
    /// responds 200 to every request.
    Accepted(Instant),
    /// The API server accepted the watch at this time, and a valid event or bookmark came.
    Proven(Instant),
    /// The watch stayed open for [`Timing::proof`]: earlier failures are over.
    Stable,
}

/// The state machine of one resource's watch.
pub(super) struct WatchMachine {
    timing: Timing,
    /// The server is not ready without this resource. A denial is then retried soon.
    required: bool,
    version: Option<String>,
    streaming: bool,
    reconnect: bool,
    is_confirming: bool,
    audit: bool,
    wait: Option<Duration>,
    has_retry_after: bool,
    /// Failures since the last watch that stayed open: each doubles the back-off.
    failures: u32,
    /// Denials in a row.
    denials: u32,
    /// A list was read to its end at least once.
    listed: bool,
    /// Watches in a row that were not accepted, or that broke before they were proven.
    failed_starts: u32,
    phase: WatchPhase,
    /// A watch broke before it was proven. Until one is proven, an accepted watch does not show that the API server is
    /// back.
    suspect: bool,
    outdated: u32,
}

impl WatchMachine {
    /// Begins without a resourceVersion: the first step is a list.
    pub(super) fn new(timing: Timing, required: bool) -> Self {
        Self {
            timing,
            required,
            version: None,
            streaming: timing.streaming,
            reconnect: false,
            is_confirming: false,
            audit: false,
            wait: None,
            has_retry_after: false,
            failures: 0,
            denials: 0,
            listed: false,
            failed_starts: 0,
            phase: WatchPhase::Closed,
            suspect: false,
            outdated: 0,
        }
    }

    /// Returns the next step and removes it: call it once for each step.
    pub(super) fn next_step(&mut self) -> WatchStep {
        if let Some(wait) = self.wait.take() {
            return WatchStep::Wait(wait);
        }
        if std::mem::take(&mut self.reconnect) {
            return WatchStep::Reconnect;
        }
        match &self.version {
            Some(version) => WatchStep::Watch(version.clone()),
            // K11: a streaming list may come from the API server's watch cache; the second list must not.
            None => WatchStep::List {
                streaming: self.streaming && !self.is_confirming,
                confirmed: self.is_confirming,
                audit: self.audit,
            },
        }
    }

    /// Notes the resourceVersion of an event or bookmark.
    pub(super) fn observe_version(&mut self, version: String) {
        if !version.is_empty() {
            self.version = Some(version);
        }
    }

    /// Returns whether lists are requested as streams.
    pub(super) fn is_streaming(&self) -> bool {
        self.streaming
    }

    /// Returns the known resourceVersion.
    pub(super) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Returns whether a resourceVersion of the API server is lower than the known one: the API server went back in
    /// time (K13).
    pub(super) fn is_behind(&self, theirs: &str) -> bool {
        self.version.as_deref().is_some_and(|ours| is_behind(ours, theirs))
    }

    /// Returns whether the API server asked for the pause: a recovery of another watch must not shorten it.
    pub(super) fn has_retry_after(&self) -> bool {
        self.has_retry_after
    }

    /// Notes that the API server accepted a watch. Returns whether this alone establishes the watch.
    pub(super) fn accepted(&mut self, now: Instant) -> bool {
        self.phase = WatchPhase::Accepted(now);
        !self.suspect
    }

    /// Notes a valid event or bookmark. Returns whether it is the first, which proves the watch.
    pub(super) fn record_proof(&mut self) -> bool {
        let WatchPhase::Accepted(since) = self.phase else { return false };
        self.phase = WatchPhase::Proven(since);
        self.clear_suspicion();
        true
    }

    /// Returns the time at which the open watch has been open for [`Timing::proof`]; `None` once that has passed.
    pub(super) fn proof_deadline(&self) -> Option<Instant> {
        match self.phase {
            WatchPhase::Accepted(since) | WatchPhase::Proven(since) => Some(since + self.timing.proof),
            WatchPhase::Closed | WatchPhase::Stable => None,
        }
    }

    /// Notes that the watch stayed open for [`Timing::proof`], and resets the back-off.
    pub(super) fn record_stable(&mut self) {
        self.phase = WatchPhase::Stable;
        self.clear_suspicion();
        (self.failures, self.outdated) = (0, 0);
    }

    /// Ends the doubt about an accepted watch, and resets the counts of failed starts and denials.
    fn clear_suspicion(&mut self) {
        (self.suspect, self.failed_starts, self.denials) = (false, 0, 0);
    }

    /// Returns whether the open watch was proven, so that its end is not a failure.
    pub(super) fn is_proven(&self) -> bool {
        matches!(self.phase, WatchPhase::Proven(_) | WatchPhase::Stable)
    }

    /// Applies the outcome of a step. `chance`, from 0 to 1, is the share of the back-off to wait.
    pub(super) fn handle_outcome(&mut self, outcome: WatchOutcome, chance: f64) {
        let phase = self.phase;
        if !matches!(outcome, WatchOutcome::Listed(_)) {
            self.phase = WatchPhase::Closed;
        }
        match outcome {
            WatchOutcome::Listed(version) => {
                self.version = Some(version);
                (self.is_confirming, self.audit, self.failed_starts, self.listed) = (false, false, 0, true);
            }
            WatchOutcome::SuspiciousList => (self.is_confirming, self.reconnect, self.version) = (true, true, None),
            WatchOutcome::ListFailed(failure) => self.handle_failed_list(&failure, chance),
            WatchOutcome::WatchFailed(failure) => self.handle_failed_start(&failure, chance),
            WatchOutcome::WatchBroke(failure) if matches!(phase, WatchPhase::Closed | WatchPhase::Accepted(_)) => {
                self.suspect = true;
                self.handle_failed_start(&failure, chance);
            }
            WatchOutcome::WatchBroke(failure) => {
                if matches!(failure, WatchFailure::Gone(_)) {
                    self.version = None;
                }
                self.back_off(&failure, chance);
            }
            WatchOutcome::WatchEnded if phase == WatchPhase::Stable => {}
            // A watch that ends early again and again must not be requested without a pause.
            WatchOutcome::WatchEnded => self.back_off(&WatchFailure::Other(String::new()), chance),
            WatchOutcome::Silent => (self.reconnect, self.version) = (true, None),
            WatchOutcome::Outdated => {
                self.version = None;
                self.outdated += 1;
                // The first relist is due at once. If the next watch is outdated too, a relist does not help.
                if self.outdated > 1 {
                    self.back_off(&WatchFailure::Other(String::new()), chance);
                }
            }
            WatchOutcome::AuditDue => (self.audit, self.version) = (true, None),
        }
    }

    fn handle_failed_start(&mut self, failure: &WatchFailure, chance: f64) {
        self.failed_starts += 1;
        // K3: the API server may reject the resourceVersion with any status, so a list follows the second failure.
        if matches!(failure, WatchFailure::Gone(_) | WatchFailure::Gateway(504, _)) || self.failed_starts >= 2 {
            self.version = None;
        }
        self.back_off(failure, chance);
    }

    fn handle_failed_list(&mut self, failure: &WatchFailure, chance: f64) {
        self.version = None;
        if self.streaming && matches!(failure, WatchFailure::Unsupported(_)) {
            // K12: lists in pages follow from now on, without a pause.
            self.streaming = false;
            return;
        }
        // An API server without streaming lists may treat the request as a plain watch, and never mark the end of the
        // list.
        self.streaming &= !matches!(failure, WatchFailure::TimedOut(_));
        self.back_off(failure, chance);
    }

    /// K1: full jitter.
    fn back_off(&mut self, failure: &WatchFailure, chance: f64) {
        let denied = matches!(failure, WatchFailure::Forbidden(_) | WatchFailure::NotFound);
        let [first, last] = self.timing.back_off;
        // An API server that starts denies all requests until it has read its roles, so denials have a count of their
        // own.
        let step = if denied { self.denials } else { self.failures };
        let last_now = match failure {
            // The server is not ready yet, and a refused connection is cheap.
            WatchFailure::Unreachable(_) if !self.listed => first.saturating_mul(2).min(last),
            // An unproven watch adds `proof` to the pause: together they must not exceed the longest pause.
            _ if self.suspect => last.min(self.timing.proof),
            _ => last,
        };
        let most = first.saturating_mul(1 << step.min(16)).min(last_now);
        self.failures += 1;
        self.denials = if denied { self.denials + 1 } else { 0 };
        let wait = most.mul_f64(chance.clamp(0.0, 1.0));
        // K16: a new client reads the configuration, certificates and tokens again.
        self.reconnect |=
            matches!(failure, WatchFailure::Unauthorized(_) | WatchFailure::TimedOut(_) | WatchFailure::Unreachable(_));
        self.has_retry_after = matches!(failure, WatchFailure::Busy(..));
        if matches!(failure, WatchFailure::TimedOut(_)) {
            // The deadline was pause enough: one more would delay events and the notice of a recovery (K6).
            return;
        }
        self.wait = Some(match failure {
            _ if denied && !self.required && most == last => self.timing.denied,
            WatchFailure::Busy(asked, _) => wait.max((*asked).min(last)),
            _ => wait,
        });
    }
}

/// Returns whether the API server went back in time: `theirs` is lower than `ours` (K13). Versions that are not numbers
/// are not compared.
pub(super) fn is_behind(ours: &str, theirs: &str) -> bool {
    match (ours.parse::<u128>(), theirs.parse::<u128>()) {
        (Ok(ours), Ok(theirs)) => theirs < ours,
        _ => false,
    }
}

/// Number of objects of a list's first page: their size is not known yet.
pub(super) const FIRST_PAGE: u32 = 20;

/// Returns the number of objects for the next page, after one of `items` objects in `octets` octets: about 512 kB.
pub(super) fn next_page(items: usize, octets: usize) -> u32 {
    const PAGE: usize = 512_000;
    let each = octets.div_ceil(items.max(1)).max(1);
    u32::try_from(PAGE / each).unwrap_or(u32::MAX).clamp(1, 5_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other() -> WatchFailure {
        WatchFailure::Other("cut".into())
    }

    /// Returns the steps after `outcomes`, from a watch at version 7, with the longest pauses.
    fn after(outcomes: &[WatchOutcome]) -> Vec<WatchStep> {
        let mut machine = WatchMachine::new(Timing::default(), true);
        machine.handle_outcome(WatchOutcome::Listed("7".into()), 1.0);
        for outcome in outcomes {
            machine.accepted(Instant::now());
            machine.record_proof();
            machine.handle_outcome(outcome.clone(), 1.0);
        }
        let mut steps = Vec::new();
        loop {
            let step = machine.next_step();
            let last = matches!(step, WatchStep::List { .. } | WatchStep::Watch(_));
            steps.push(step);
            if last {
                return steps;
            }
        }
    }

    fn list() -> WatchStep {
        WatchStep::List { streaming: true, confirmed: false, audit: false }
    }

    #[test]
    fn transitions_between_states() {
        let wait = |seconds| WatchStep::Wait(Duration::from_secs(seconds));
        let watch = || WatchStep::Watch("7".into());
        let gone = || WatchFailure::Gone("too old".into());
        for (outcomes, steps) in [
            (vec![], vec![watch()]),
            (vec![WatchOutcome::WatchEnded], vec![wait(1), watch()]),
            (vec![WatchOutcome::WatchFailed(other())], vec![wait(1), watch()]),
            (vec![WatchOutcome::WatchFailed(gone())], vec![wait(1), list()]),
            (vec![WatchOutcome::WatchBroke(gone())], vec![wait(1), list()]),
            (vec![WatchOutcome::WatchBroke(other()), WatchOutcome::WatchBroke(other())], vec![wait(2), watch()]),
            (vec![WatchOutcome::Silent], vec![WatchStep::Reconnect, list()]),
            (vec![WatchOutcome::Outdated], vec![list()]),
            (vec![WatchOutcome::Outdated, WatchOutcome::Outdated], vec![wait(1), list()]),
            (vec![WatchOutcome::AuditDue], vec![WatchStep::List { streaming: true, confirmed: false, audit: true }]),
            (
                vec![WatchOutcome::ListFailed(WatchFailure::Unsupported("no".into()))],
                vec![WatchStep::List { streaming: false, confirmed: false, audit: false }],
            ),
            (
                vec![WatchOutcome::SuspiciousList],
                vec![WatchStep::Reconnect, WatchStep::List { streaming: false, confirmed: true, audit: false }],
            ),
            (
                vec![WatchOutcome::ListFailed(WatchFailure::Busy(Duration::from_secs(7), String::new()))],
                vec![wait(7), list()],
            ),
            (
                vec![WatchOutcome::ListFailed(WatchFailure::Busy(Duration::from_secs(600), String::new()))],
                vec![wait(10), list()],
            ),
            (
                vec![WatchOutcome::ListFailed(WatchFailure::Unauthorized(String::new()))],
                vec![wait(1), WatchStep::Reconnect, list()],
            ),
            (
                vec![WatchOutcome::WatchFailed(WatchFailure::Unreachable(String::new()))],
                vec![wait(1), WatchStep::Reconnect, watch()],
            ),
        ] {
            assert_eq!(after(&outcomes), steps, "{outcomes:?}");
        }
    }

    /// Ends a watch: before its first event, after one, or after it stayed open.
    fn end(machine: &mut WatchMachine, events: bool, lives: bool, outcome: WatchOutcome) -> Vec<WatchStep> {
        machine.accepted(Instant::now());
        if events {
            machine.record_proof();
        }
        if lives {
            machine.record_stable();
        }
        machine.handle_outcome(outcome, 1.0);
        let mut steps = vec![machine.next_step()];
        while !matches!(steps.last(), Some(WatchStep::List { .. } | WatchStep::Watch(_))) {
            steps.push(machine.next_step());
        }
        steps
    }

    #[test]
    fn resets_backoff_after_long_watch() {
        let mut machine = WatchMachine::new(Timing::default(), true);
        let mut pauses = Vec::new();
        for lives in [false, false, false, false, false, true, false, true] {
            machine.handle_outcome(WatchOutcome::Listed("7".into()), 1.0);
            let steps = end(&mut machine, true, lives, WatchOutcome::WatchBroke(other()));
            let WatchStep::Wait(pause) = steps[0] else { panic!("a pause") };
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 10, 1, 2, 1]);
    }

    #[test]
    fn trusts_accepted_watch_until_immediate_failure() {
        let mut machine = WatchMachine::new(Timing::default(), true);
        machine.handle_outcome(WatchOutcome::Listed("7".into()), 1.0);
        assert!(machine.accepted(Instant::now()));
        assert!(machine.record_proof() && !machine.record_proof(), "the first event proves it");
        machine.handle_outcome(WatchOutcome::WatchBroke(other()), 1.0);
        assert!(machine.accepted(Instant::now()) && !machine.is_proven());
        machine.handle_outcome(WatchOutcome::WatchBroke(other()), 1.0);
        // A list does not show that watches work.
        machine.handle_outcome(WatchOutcome::Listed("7".into()), 1.0);
        for _ in 0..3 {
            assert!(!machine.accepted(Instant::now()), "not before it is proven");
        }
        machine.record_proof();
        assert!(machine.is_proven() && machine.accepted(Instant::now()));
        machine.handle_outcome(WatchOutcome::WatchBroke(other()), 1.0);
        assert!(!machine.accepted(Instant::now()));
        assert!(machine.proof_deadline().is_some());
        machine.record_stable();
        assert!(machine.proof_deadline().is_none() && machine.accepted(Instant::now()));
    }

    #[test]
    fn handles_end_of_watch() {
        let wait = |seconds| WatchStep::Wait(Duration::from_secs(seconds));
        let watch = || WatchStep::Watch("7".into());
        let late = || WatchOutcome::WatchBroke(WatchFailure::TimedOut("silent".into()));
        let machine = || {
            let mut machine = WatchMachine::new(Timing::default(), true);
            machine.handle_outcome(WatchOutcome::Listed("7".into()), 1.0);
            machine
        };
        for (events, lives, outcome, steps) in [
            (true, true, WatchOutcome::WatchEnded, vec![watch()]),
            (true, false, WatchOutcome::WatchEnded, vec![wait(1), watch()]),
            (true, true, late(), vec![WatchStep::Reconnect, watch()]),
            (false, false, late(), vec![WatchStep::Reconnect, watch()]),
            (false, false, WatchOutcome::WatchBroke(other()), vec![wait(1), watch()]),
        ] {
            assert_eq!(end(&mut machine(), events, lives, outcome.clone()), steps, "{events} {lives} {outcome:?}");
        }
        let mut machine = machine();
        end(&mut machine, false, false, WatchOutcome::WatchBroke(other()));
        let steps = end(&mut machine, false, false, WatchOutcome::WatchBroke(other()));
        assert_eq!(steps, [wait(2), list()], "K3: it may be the version that breaks it");
    }

    /// Returns the longest pauses after failures, in seconds.
    fn pauses(required: bool, listed: bool, failures: &[WatchFailure]) -> Vec<u64> {
        let mut machine = WatchMachine::new(Timing::default(), required);
        if listed {
            machine.handle_outcome(WatchOutcome::Listed("7".into()), 1.0);
        }
        let mut pauses = Vec::new();
        for failure in failures {
            machine.handle_outcome(WatchOutcome::ListFailed(failure.clone()), 1.0);
            loop {
                match machine.next_step() {
                    WatchStep::Wait(pause) => pauses.push(pause.as_secs()),
                    WatchStep::Reconnect => {}
                    _ => break,
                }
            }
        }
        pauses
    }

    #[test]
    fn retries_optional_resource_slowly_without_permission() {
        let denied = || WatchFailure::Forbidden("list");
        let six = [(); 6].map(|()| denied());
        assert_eq!(pauses(true, false, &six), [1, 2, 4, 8, 10, 10]);
        assert_eq!(pauses(false, false, &six), [1, 2, 4, 8, 60, 60]);
        // Denials have their own count, whatever failed before.
        let late = [other(), other(), other(), other(), other(), denied(), denied(), other(), denied()];
        assert_eq!(pauses(false, true, &late), [1, 2, 4, 8, 10, 1, 2, 10, 1]);
    }

    #[test]
    fn retries_soon_before_first_contact() {
        let five = [(); 5].map(|()| WatchFailure::Unreachable("refused".into()));
        assert_eq!(pauses(true, false, &five), [1, 2, 2, 2, 2]);
        assert_eq!(pauses(true, true, &five), [1, 2, 4, 8, 10]);
        assert_eq!(pauses(true, false, &[(); 5].map(|()| other())), [1, 2, 4, 8, 10], "one that answers is not");
    }

    #[test]
    fn compares_versions_and_sizes() {
        assert!(is_behind("101", "99") && !is_behind("101", "101") && !is_behind("x", "1"));
        assert_eq!(
            [next_page(20, 600_000), next_page(20, 20_000), next_page(0, 100), next_page(1, 2_000_000)],
            [17, 512, 5000, 1]
        );
    }
}
