//! What the watch of one resource does next: list, watch, or wait. Pure: time and chance come in as values.
//!
//! [`Machine::next`] says what to do, [`Machine::on`] takes what came of it. The ids (K1, ...) are the faults of
//! `tests/api_server/`, where each is played. Not here: requests (`client.rs`), and who makes them (`watch.rs`).

use std::time::Duration;

use tokio::time::Instant;

use crate::status::{Loss, LossReason, WatchState};

/// Every deadline and pause. The defaults are what the faults were measured against; tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long one page of a LIST may take, and the pause between two events of a streaming list (K5). Default: 60 s.
    pub page: Duration,
    /// Duration of a watch before the API server ends it. Default: 15 s, and up to a third more.
    pub watch: Duration,
    /// How long the start of a watch may take. With `watch`, which is how long the watch behind a streaming list lasts,
    /// it makes 25 s (K6). Default: 10 s.
    pub start: Duration,
    /// How long past its end a watch may stay open before its connection counts as dead (K6). Default: 3 s.
    pub grace: Duration,
    /// How long an accepted watch stays open before it counts as followed without an event or a bookmark, and before the
    /// pause after a failure begins from the first again (K17). Default: 5 s.
    pub proof: Duration,
    /// Time without an octet from the API server, over all watches, before one probe; also the deadline of that
    /// probe, and the least time between two of them (K18). Default: 10 s.
    pub quiet: Duration,
    /// How long there may be neither an event nor a bookmark, over all watches, before a relist (K13). Default: 150 s.
    pub silence: Duration,
    /// How often the version of the API server is looked at (K13). Default: 60 s.
    pub probe: Duration,
    /// How often everything is listed again in case an event was lost (K14). Default: 15 min, a tenth more or less.
    pub audit: Duration,
    /// The bounds of the pause after a failure; it doubles from the first to the second (K1). Default: 1 and 10 s.
    pub back_off: [Duration; 2],
    /// How long to wait before asking again for an optional resource that is not allowed, once that has been so for the
    /// pauses up to the longest (K15). Default: 60 s.
    pub denied: Duration,
    /// How long after the beginning of a loss answers carry the extended error for stale data. Default: 30 s.
    pub stale: Duration,
    /// A relist that would remove more than half, and at least so many objects, is made twice (K11). Default: 100.
    pub hold_down: usize,
    /// Whether lists are asked for as streams first (K12). Default: yes.
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
            silence: Duration::from_secs(150),
            probe: Duration::from_secs(60),
            audit: Duration::from_secs(15 * 60),
            back_off: [Duration::from_secs(1), Duration::from_secs(10)],
            denied: Duration::from_secs(60),
            stale: Duration::from_secs(30),
            hold_down: 100,
            streaming: true,
        }
    }
}

/// Why a request, or a watch, failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// 410: the version is no longer known to the API server.
    Gone(String),
    /// 502, 503 or 504, by number: what a proxy answers in front of an API server that is out of reach. An API server
    /// answers 504 if the version is not yet known to it.
    Gateway(u16, String),
    /// 401: the token is not taken any more.
    Unauthorized(String),
    /// 403: this verb is not allowed on this resource.
    Denied(&'static str),
    /// 400, 405 or 422: the API server does not offer what was asked for.
    Refused(String),
    /// 404: the API server does not have this resource.
    Unknown,
    /// 429, or 503 with `Retry-After`: the pause that the API server asks for.
    Busy(Duration, String),
    /// No answer in time, or no octet although the peer should have sent one.
    Late(String),
    /// No connection, or none that got as far as a response: what a client knows of certificates may be old.
    Unreachable(String),
    /// The connection ended within a response.
    Cut(String),
    /// Any other answer: 500, a watch that breaks at once, no JSON.
    Other(String),
}

impl Failure {
    /// A word for metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Gone(_) | Self::Gateway(504, _) => "gone",
            Self::Unauthorized(_) => "unauthorized",
            Self::Denied(_) => "denied",
            Self::Refused(_) => "refused",
            Self::Unknown => "unknown",
            Self::Busy(..) => "busy",
            Self::Late(_) => "late",
            Self::Unreachable(_) => "unreachable",
            Self::Gateway(..) | Self::Cut(_) | Self::Other(_) => "other",
        }
    }

    /// Returns whether the API server itself answered, so that it is within reach.
    pub(super) fn is_answer(&self) -> bool {
        !matches!(self, Self::Gateway(..) | Self::Late(_) | Self::Unreachable(_) | Self::Cut(_))
    }

    /// The state of a watch that failed so.
    pub(super) fn state(&self) -> WatchState {
        let lost = |reason, detail: &str| WatchState::Lost(Loss { reason, detail: detail.to_owned() });
        match self {
            Self::Denied(verb) => WatchState::Denied(verb),
            Self::Unauthorized(detail) => lost(LossReason::Unauthorized, detail),
            Self::Busy(_, detail) => lost(LossReason::Overloaded, detail),
            Self::Unknown => lost(LossReason::Failing, "404 Not Found: it does not have this resource"),
            Self::Gone(detail) | Self::Gateway(_, detail) | Self::Refused(detail) | Self::Other(detail) => {
                lost(LossReason::Failing, detail)
            }
            Self::Late(detail) | Self::Unreachable(detail) | Self::Cut(detail) => lost(LossReason::OutOfReach, detail),
        }
    }
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A list was read to its end, and is what was known at this version.
    Listed(String),
    /// It would remove so much that it is to be made again, over a new connection.
    HeldDown,
    /// It was not read to its end.
    ListFailed(Failure),
    /// A watch was not accepted.
    WatchFailed(Failure),
    /// A watch failed after it was accepted.
    WatchBroke(Failure),
    /// A watch with at least one event or bookmark, or open for [`Timing::proof`], ended.
    WatchEnded,
    /// Neither an event nor a bookmark came for too long.
    Silent,
    /// Our version and the API server's do not belong together, or an event could not be made good.
    Outdated,
    /// It is time to list all again.
    AuditDue,
}

impl Outcome {
    /// Why a list follows, if one does: a word for metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Listed(_) | Self::WatchEnded => "start",
            Self::HeldDown => "held_down",
            Self::ListFailed(failure) | Self::WatchFailed(failure) | Self::WatchBroke(failure) => failure.label(),
            Self::Silent => "silent",
            Self::Outdated => "outdated",
            Self::AuditDue => "audit",
        }
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing for so long.
    Wait(Duration),
    /// Make a new client: the connections of the old one are not to be used again.
    Reconnect,
    /// List everything.
    List {
        /// As the beginning of a watch; else in pages.
        streaming: bool,
        /// The list before this one would have removed very much: what this one says is so.
        confirmed: bool,
        /// What it changes are events that were lost.
        audit: bool,
    },
    /// Watch from this version on.
    Watch(String),
}

/// Trust in the open watch, or the last one (K17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// No watch was accepted since the last list or failure.
    None,
    /// The watch was accepted at this time. It may break at once, as behind a proxy that answers 200 to everything.
    Accepted(Instant),
    /// The watch was accepted at this time, and a valid event or bookmark came.
    Proven(Instant),
    /// The watch stayed open for [`Timing::proof`]: what failed before it is over.
    Lived,
}

/// The state of one resource's watch.
pub(super) struct Machine {
    timing: Timing,
    /// Whether nothing is answered without this resource: then being denied is retried soon.
    required: bool,
    version: Option<String>,
    streaming: bool,
    reconnect: bool,
    held_down: bool,
    audit: bool,
    wait: Option<Duration>,
    told_to_wait: bool,
    /// Failures since the last watch that lived: the back-off doubles with each.
    failures: u32,
    /// Times in a row that it was not allowed.
    denials: u32,
    /// Whether a list was ever read to its end.
    listed: bool,
    /// Watches in a row that were not accepted, or broke before they were proven.
    failed_starts: u32,
    trust: Trust,
    /// A watch broke before it was proven: until one is proven, being accepted is no proof that the API server is back.
    suspect: bool,
    outdated: u32,
}

impl Machine {
    /// Nothing is known yet.
    pub(super) fn new(timing: Timing, required: bool) -> Self {
        Self {
            timing,
            required,
            version: None,
            streaming: timing.streaming,
            reconnect: false,
            held_down: false,
            audit: false,
            wait: None,
            told_to_wait: false,
            failures: 0,
            denials: 0,
            listed: false,
            failed_starts: 0,
            trust: Trust::None,
            suspect: false,
            outdated: 0,
        }
    }

    /// What to do next. A step that was taken is not said again: call it once per step.
    pub(super) fn next(&mut self) -> Step {
        if let Some(wait) = self.wait.take() {
            return Step::Wait(wait);
        }
        if std::mem::take(&mut self.reconnect) {
            return Step::Reconnect;
        }
        match &self.version {
            Some(version) => Step::Watch(version.clone()),
            // K11: the second list is no stream, which a cache of the API server's may serve.
            None => Step::List {
                streaming: self.streaming && !self.held_down,
                confirmed: self.held_down,
                audit: self.audit,
            },
        }
    }

    /// The version of the last event or bookmark.
    pub(super) fn saw(&mut self, version: String) {
        if !version.is_empty() {
            self.version = Some(version);
        }
    }

    /// Whether a list is asked for as a stream.
    pub(super) fn streams(&self) -> bool {
        self.streaming
    }

    /// The version that is known, while one is.
    pub(super) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Whether a version that the API server gives is lower than the one that is known: it went back in time (K13).
    pub(super) fn is_behind(&self, theirs: &str) -> bool {
        self.version.as_deref().is_some_and(|ours| is_behind(ours, theirs))
    }

    /// Whether the pause is one that the API server asked for: nothing shortens it.
    pub(super) fn was_told_to_wait(&self) -> bool {
        self.told_to_wait
    }

    /// Takes that a watch was accepted, and returns whether the resource counts as followed by that alone.
    pub(super) fn accepted(&mut self, now: Instant) -> bool {
        self.trust = Trust::Accepted(now);
        !self.suspect
    }

    /// Takes that a valid event or bookmark came, and returns whether it is the one that proves the watch.
    pub(super) fn prove(&mut self) -> bool {
        let Trust::Accepted(since) = self.trust else { return false };
        self.trust = Trust::Proven(since);
        self.trusted();
        true
    }

    /// The time at which the open watch will have lived; none if it has.
    pub(super) fn lives_at(&self) -> Option<Instant> {
        match self.trust {
            Trust::Accepted(since) | Trust::Proven(since) => Some(since + self.timing.proof),
            Trust::None | Trust::Lived => None,
        }
    }

    /// Takes that the open watch has lived.
    pub(super) fn live(&mut self) {
        self.trust = Trust::Lived;
        self.trusted();
        (self.failures, self.outdated) = (0, 0);
    }

    fn trusted(&mut self) {
        (self.suspect, self.failed_starts, self.denials) = (false, 0, 0);
    }

    /// Returns whether the open watch was proven: its end is no failure.
    pub(super) fn is_proven(&self) -> bool {
        matches!(self.trust, Trust::Proven(_) | Trust::Lived)
    }

    /// Takes the outcome of a step. `chance` is from 0 to 1.
    pub(super) fn on(&mut self, outcome: Outcome, chance: f64) {
        let trust = self.trust;
        if !matches!(outcome, Outcome::Listed(_)) {
            self.trust = Trust::None;
        }
        match outcome {
            Outcome::Listed(version) => {
                self.version = Some(version);
                (self.held_down, self.audit, self.failed_starts, self.listed) = (false, false, 0, true);
            }
            Outcome::HeldDown => (self.held_down, self.reconnect, self.version) = (true, true, None),
            Outcome::ListFailed(failure) => self.on_failed_list(&failure, chance),
            Outcome::WatchFailed(failure) => self.on_failed_start(&failure, chance),
            Outcome::WatchBroke(failure) if matches!(trust, Trust::None | Trust::Accepted(_)) => {
                self.suspect = true;
                self.on_failed_start(&failure, chance);
            }
            Outcome::WatchBroke(failure) => {
                if matches!(failure, Failure::Gone(_)) {
                    self.version = None;
                }
                self.back_off(&failure, chance);
            }
            Outcome::WatchEnded if trust == Trust::Lived => {}
            // One that ends soon, again and again, must not be requested without a pause.
            Outcome::WatchEnded => self.back_off(&Failure::Other(String::new()), chance),
            Outcome::Silent => (self.reconnect, self.version) = (true, None),
            Outcome::Outdated => {
                self.version = None;
                self.outdated += 1;
                // The first list is due at once. Should the next watch be outdated too, a list does not help.
                if self.outdated > 1 {
                    self.back_off(&Failure::Other(String::new()), chance);
                }
            }
            Outcome::AuditDue => (self.audit, self.version) = (true, None),
        }
    }

    fn on_failed_start(&mut self, failure: &Failure, chance: f64) {
        self.failed_starts += 1;
        // K3: it may be the version that the API server does not take, whatever it says.
        if matches!(failure, Failure::Gone(_) | Failure::Gateway(504, _)) || self.failed_starts >= 2 {
            self.version = None;
        }
        self.back_off(failure, chance);
    }

    fn on_failed_list(&mut self, failure: &Failure, chance: f64) {
        self.version = None;
        if self.streaming && matches!(failure, Failure::Refused(_)) {
            // K12: remembered, and no reason to wait.
            self.streaming = false;
            return;
        }
        // An API server that does not know streams may take one for a watch that never says where the list ends.
        self.streaming &= !matches!(failure, Failure::Late(_));
        self.back_off(failure, chance);
    }

    /// K1: full jitter. Only a watch that lived makes it short again.
    fn back_off(&mut self, failure: &Failure, chance: f64) {
        let denied = matches!(failure, Failure::Denied(_) | Failure::Unknown);
        let [first, last] = self.timing.back_off;
        // An API server that starts denies everything before it has read its roles: denials have their own count.
        let step = if denied { self.denials } else { self.failures };
        let last_now = match failure {
            // Nothing is answered yet, and a connection that is refused costs nobody anything.
            Failure::Unreachable(_) if !self.listed => first.saturating_mul(2).min(last),
            // The next watch has to be proven: with that it takes no longer than the longest pause.
            _ if self.suspect => last.min(self.timing.proof),
            _ => last,
        };
        let most = first.saturating_mul(1 << step.min(16)).min(last_now);
        self.failures += 1;
        self.denials = if denied { self.denials + 1 } else { 0 };
        let wait = most.mul_f64(chance.clamp(0.0, 1.0));
        // K16: a new client reads configuration, certificates and tokens anew.
        self.reconnect |= matches!(failure, Failure::Unauthorized(_) | Failure::Late(_) | Failure::Unreachable(_));
        self.told_to_wait = matches!(failure, Failure::Busy(..));
        if matches!(failure, Failure::Late(_)) {
            // Its deadline was the pause: with another one, events get old and a recovery is noticed late (K6).
            return;
        }
        self.wait = Some(match failure {
            _ if denied && !self.required && most == last => self.timing.denied,
            Failure::Busy(asked, _) => wait.max((*asked).min(last)),
            _ => wait,
        });
    }
}

/// Whether the API server is behind us: its version is lower than the one that it gave us before (K13). Versions that
/// are no numbers are not compared.
pub(super) fn is_behind(ours: &str, theirs: &str) -> bool {
    match (ours.parse::<u128>(), theirs.parse::<u128>()) {
        (Ok(ours), Ok(theirs)) => theirs < ours,
        _ => false,
    }
}

/// The first page of a list: nothing is known yet of how large its objects are.
pub(super) const FIRST_PAGE: u32 = 20;

/// How many objects the next page may have, after one of `items` objects in `octets` octets: about 512 kB of them.
pub(super) fn next_page(items: usize, octets: usize) -> u32 {
    const PAGE: usize = 512_000;
    let each = octets.div_ceil(items.max(1)).max(1);
    u32::try_from(PAGE / each).unwrap_or(u32::MAX).clamp(1, 5_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other() -> Failure {
        Failure::Other("cut".into())
    }

    /// What comes after `outcomes` from a watch at version 7, with the longest pauses.
    fn after(outcomes: &[Outcome]) -> Vec<Step> {
        let mut machine = Machine::new(Timing::default(), true);
        machine.on(Outcome::Listed("7".into()), 1.0);
        for outcome in outcomes {
            machine.accepted(Instant::now());
            machine.prove();
            machine.on(outcome.clone(), 1.0);
        }
        let mut steps = Vec::new();
        loop {
            let step = machine.next();
            let last = matches!(step, Step::List { .. } | Step::Watch(_));
            steps.push(step);
            if last {
                return steps;
            }
        }
    }

    fn list() -> Step {
        Step::List { streaming: true, confirmed: false, audit: false }
    }

    #[test]
    fn what_follows_what() {
        let wait = |seconds| Step::Wait(Duration::from_secs(seconds));
        let watch = || Step::Watch("7".into());
        let gone = || Failure::Gone("too old".into());
        for (outcomes, steps) in [
            (vec![], vec![watch()]),
            (vec![Outcome::WatchEnded], vec![wait(1), watch()]),
            (vec![Outcome::WatchFailed(other())], vec![wait(1), watch()]),
            (vec![Outcome::WatchFailed(gone())], vec![wait(1), list()]),
            (vec![Outcome::WatchBroke(gone())], vec![wait(1), list()]),
            (vec![Outcome::WatchBroke(other()), Outcome::WatchBroke(other())], vec![wait(2), watch()]),
            (vec![Outcome::Silent], vec![Step::Reconnect, list()]),
            (vec![Outcome::Outdated], vec![list()]),
            (vec![Outcome::Outdated, Outcome::Outdated], vec![wait(1), list()]),
            (vec![Outcome::AuditDue], vec![Step::List { streaming: true, confirmed: false, audit: true }]),
            (
                vec![Outcome::ListFailed(Failure::Refused("no".into()))],
                vec![Step::List { streaming: false, confirmed: false, audit: false }],
            ),
            (
                vec![Outcome::HeldDown],
                vec![Step::Reconnect, Step::List { streaming: false, confirmed: true, audit: false }],
            ),
            (vec![Outcome::ListFailed(Failure::Busy(Duration::from_secs(7), String::new()))], vec![wait(7), list()]),
            (vec![Outcome::ListFailed(Failure::Busy(Duration::from_secs(600), String::new()))], vec![wait(10), list()]),
            (vec![Outcome::ListFailed(Failure::Unauthorized(String::new()))], vec![wait(1), Step::Reconnect, list()]),
            (vec![Outcome::WatchFailed(Failure::Unreachable(String::new()))], vec![wait(1), Step::Reconnect, watch()]),
        ] {
            assert_eq!(after(&outcomes), steps, "{outcomes:?}");
        }
    }

    /// A watch that ends so: before anything, after an event, or after it lived.
    fn end(machine: &mut Machine, events: bool, lives: bool, outcome: Outcome) -> Vec<Step> {
        machine.accepted(Instant::now());
        if events {
            machine.prove();
        }
        if lives {
            machine.live();
        }
        machine.on(outcome, 1.0);
        let mut steps = vec![machine.next()];
        while !matches!(steps.last(), Some(Step::List { .. } | Step::Watch(_))) {
            steps.push(machine.next());
        }
        steps
    }

    #[test]
    fn back_off_begins_anew_after_a_watch_that_lived() {
        let mut machine = Machine::new(Timing::default(), true);
        let mut pauses = Vec::new();
        for lives in [false, false, false, false, false, true, false, true] {
            machine.on(Outcome::Listed("7".into()), 1.0);
            let steps = end(&mut machine, true, lives, Outcome::WatchBroke(other()));
            let Step::Wait(pause) = steps[0] else { panic!("a pause") };
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 10, 1, 2, 1]);
    }

    #[test]
    fn accepted_watch_is_believed_until_one_breaks_at_once() {
        let mut machine = Machine::new(Timing::default(), true);
        machine.on(Outcome::Listed("7".into()), 1.0);
        assert!(machine.accepted(Instant::now()));
        assert!(machine.prove() && !machine.prove(), "the first event proves it");
        machine.on(Outcome::WatchBroke(other()), 1.0);
        assert!(machine.accepted(Instant::now()) && !machine.is_proven());
        machine.on(Outcome::WatchBroke(other()), 1.0);
        // A list is no proof that watches work.
        machine.on(Outcome::Listed("7".into()), 1.0);
        for _ in 0..3 {
            assert!(!machine.accepted(Instant::now()), "not before it is proven");
        }
        machine.prove();
        assert!(machine.is_proven() && machine.accepted(Instant::now()));
        machine.on(Outcome::WatchBroke(other()), 1.0);
        assert!(!machine.accepted(Instant::now()));
        assert!(machine.lives_at().is_some());
        machine.live();
        assert!(machine.lives_at().is_none() && machine.accepted(Instant::now()));
    }

    #[test]
    fn ends_of_a_watch() {
        let wait = |seconds| Step::Wait(Duration::from_secs(seconds));
        let watch = || Step::Watch("7".into());
        let late = || Outcome::WatchBroke(Failure::Late("silent".into()));
        let machine = || {
            let mut machine = Machine::new(Timing::default(), true);
            machine.on(Outcome::Listed("7".into()), 1.0);
            machine
        };
        for (events, lives, outcome, steps) in [
            (true, true, Outcome::WatchEnded, vec![watch()]),
            (true, false, Outcome::WatchEnded, vec![wait(1), watch()]),
            (true, true, late(), vec![Step::Reconnect, watch()]),
            (false, false, late(), vec![Step::Reconnect, watch()]),
            (false, false, Outcome::WatchBroke(other()), vec![wait(1), watch()]),
        ] {
            assert_eq!(end(&mut machine(), events, lives, outcome.clone()), steps, "{events} {lives} {outcome:?}");
        }
        let mut machine = machine();
        end(&mut machine, false, false, Outcome::WatchBroke(other()));
        let steps = end(&mut machine, false, false, Outcome::WatchBroke(other()));
        assert_eq!(steps, [wait(2), list()], "K3: it may be the version that breaks it");
    }

    /// The longest pauses after failures, in seconds.
    fn pauses(required: bool, listed: bool, failures: &[Failure]) -> Vec<u64> {
        let mut machine = Machine::new(Timing::default(), required);
        if listed {
            machine.on(Outcome::Listed("7".into()), 1.0);
        }
        let mut pauses = Vec::new();
        for failure in failures {
            machine.on(Outcome::ListFailed(failure.clone()), 1.0);
            loop {
                match machine.next() {
                    Step::Wait(pause) => pauses.push(pause.as_secs()),
                    Step::Reconnect => {}
                    _ => break,
                }
            }
        }
        pauses
    }

    #[test]
    fn a_right_that_is_missing_is_asked_for_at_leisure_if_it_is_optional() {
        let denied = || Failure::Denied("list");
        let six = [(); 6].map(|()| denied());
        assert_eq!(pauses(true, false, &six), [1, 2, 4, 8, 10, 10]);
        assert_eq!(pauses(false, false, &six), [1, 2, 4, 8, 60, 60]);
        // Whatever was before.
        let late = [other(), other(), other(), other(), other(), denied(), denied(), other(), denied()];
        assert_eq!(pauses(false, true, &late), [1, 2, 4, 8, 10, 1, 2, 10, 1]);
    }

    #[test]
    fn an_api_server_that_has_not_come_yet_is_asked_soon_again() {
        let five = [(); 5].map(|()| Failure::Unreachable("refused".into()));
        assert_eq!(pauses(true, false, &five), [1, 2, 2, 2, 2]);
        assert_eq!(pauses(true, true, &five), [1, 2, 4, 8, 10]);
        assert_eq!(pauses(true, false, &[(); 5].map(|()| other())), [1, 2, 4, 8, 10], "one that answers is not");
    }

    #[test]
    fn sizes_and_versions() {
        assert!(is_behind("101", "99") && !is_behind("101", "101") && !is_behind("x", "1"));
        assert_eq!(
            [next_page(20, 600_000), next_page(20, 20_000), next_page(0, 100), next_page(1, 2_000_000)],
            [17, 512, 5000, 1]
        );
    }
}
