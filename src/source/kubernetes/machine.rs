//! What the watch of one resource does next: list, watch, or wait. Pure: time and chance come in as values.
//!
//! [`Machine::next`] says what to do, [`Machine::on`] takes what came of it. The ids (K1, ...) are the faults of
//! `tests/api_server/`, where each is played. Not here: requests (`client.rs`), and who makes them (`watch.rs`).

use std::time::Duration;

use tokio::time::Instant;

/// Every deadline and pause. The defaults are what the faults were measured against; tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long one page of a LIST may take, and the pause between two events of a streaming list (K5). Default: 60 s.
    pub page: Duration,
    /// How long a watch lasts before the API server ends it. Default: 30 s, and up to a third more.
    pub watch: Duration,
    /// How long the start of a watch may take. With `watch`, which is how long the watch behind a streaming list lasts,
    /// it makes less than 45 s (K6). Default: 12 s.
    pub start: Duration,
    /// How long past its end a watch may stay open before its connection counts as dead (K6). Default: 5 s.
    pub grace: Duration,
    /// How long there may be neither an event nor a bookmark, over all watches, before a relist (K13). Default: 150 s.
    pub silence: Duration,
    /// How often the version of the API server is looked at (K13). Default: 60 s.
    pub probe: Duration,
    /// How often everything is listed again in case an event was lost (K14). Default: 15 min, a tenth more or less.
    pub audit: Duration,
    /// The bounds of the pause after a failure; it doubles from the first to the second (K1). Default: 1 and 10 s.
    pub back_off: [Duration; 2],
    /// How long all must go well before the pause begins from the first again (K1). Default: 60 s.
    pub good: Duration,
    /// How long to wait before asking again for an optional resource that is not allowed, once that has been so for the
    /// pauses up to the longest (K15). Default: 60 s.
    pub denied: Duration,
    /// How long after a loss was noticed answers say that they are stale. Default: 30 s.
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
            watch: Duration::from_secs(30),
            start: Duration::from_secs(12),
            grace: Duration::from_secs(5),
            silence: Duration::from_secs(150),
            probe: Duration::from_secs(60),
            audit: Duration::from_secs(15 * 60),
            back_off: [Duration::from_secs(1), Duration::from_secs(10)],
            good: Duration::from_secs(60),
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
    /// 410 or 504: the version is no longer, or not yet, known to the API server.
    Gone(String),
    /// 401: the token is not taken any more.
    Unauthorized(String),
    /// 403: this verb is not allowed on this resource.
    Denied(&'static str),
    /// 400, 405 or 422: the API server does not offer what was asked for.
    Refused(String),
    /// 404: the API server does not have this resource.
    Unknown,
    /// 429 or 503 that says how long to wait.
    Busy(Duration, String),
    /// It did not end in time.
    Late(String),
    /// No connection, or none that got as far as a response: what a client knows of certificates may be old.
    Unreachable(String),
    /// All else: a connection that was cut, 500, no JSON.
    Other(String),
}

impl Failure {
    /// A word for metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Gone(_) => "gone",
            Self::Unauthorized(_) => "unauthorized",
            Self::Denied(_) => "denied",
            Self::Refused(_) => "refused",
            Self::Unknown => "unknown",
            Self::Busy(..) => "busy",
            Self::Late(_) => "late",
            Self::Unreachable(_) => "unreachable",
            Self::Other(_) => "other",
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
    /// A watch was accepted.
    WatchStarted,
    /// It was not.
    WatchFailed(Failure),
    /// It failed after it was accepted.
    WatchBroke(Failure),
    /// It ended as it should, after so long.
    WatchEnded(Duration),
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
            Self::Listed(_) | Self::WatchStarted | Self::WatchEnded(_) => "start",
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
    /// Failures since the last good time: where the back-off stands.
    failures: u32,
    /// Times in a row that it was not allowed.
    denials: u32,
    /// Whether a list was ever read to its end.
    listed: bool,
    /// Watches in a row that were not accepted.
    failed_starts: u32,
    good_since: Option<Instant>,
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
            good_since: None,
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

    /// Takes what came of a step. `chance` is from 0 to 1.
    pub(super) fn on(&mut self, outcome: Outcome, now: Instant, chance: f64) {
        match outcome {
            Outcome::Listed(version) => {
                self.version = Some(version);
                (self.held_down, self.audit, self.failed_starts, self.listed) = (false, false, 0, true);
                self.good_since.get_or_insert(now);
            }
            Outcome::WatchStarted => {
                (self.failed_starts, self.denials) = (0, 0);
                self.good_since.get_or_insert(now);
            }
            Outcome::HeldDown => (self.held_down, self.reconnect, self.version) = (true, true, None),
            Outcome::ListFailed(failure) => self.on_failed_list(&failure, now, chance),
            Outcome::WatchFailed(failure) => {
                self.failed_starts += 1;
                // K3: it may be the version that the API server does not take, whatever it says.
                if matches!(failure, Failure::Gone(_)) || self.failed_starts >= 2 {
                    self.version = None;
                }
                self.back_off(&failure, now, chance);
            }
            Outcome::WatchBroke(failure) => {
                if matches!(failure, Failure::Gone(_)) {
                    self.version = None;
                }
                self.back_off(&failure, now, chance);
            }
            // One that ends at once, again and again, must not be asked for without a pause.
            Outcome::WatchEnded(lasted) if lasted < self.timing.watch / 30 => {
                self.back_off(&Failure::Other(String::new()), now, chance);
            }
            Outcome::WatchEnded(_) => {}
            Outcome::Silent => (self.reconnect, self.version) = (true, None),
            Outcome::Outdated => self.version = None,
            Outcome::AuditDue => (self.audit, self.version) = (true, None),
        }
    }

    fn on_failed_list(&mut self, failure: &Failure, now: Instant, chance: f64) {
        self.version = None;
        if self.streaming && matches!(failure, Failure::Refused(_)) {
            // K12: remembered, and no reason to wait.
            self.streaming = false;
            return;
        }
        // An API server that does not know streams may take one for a watch that never says where the list ends.
        self.streaming &= !matches!(failure, Failure::Late(_));
        self.back_off(failure, now, chance);
    }

    /// K1: full jitter, and only a good time makes it short again.
    fn back_off(&mut self, failure: &Failure, now: Instant, chance: f64) {
        if self.good_since.take().is_some_and(|since| now - since >= self.timing.good) {
            self.failures = 0;
        }
        let denied = matches!(failure, Failure::Denied(_) | Failure::Unknown);
        let [first, last] = self.timing.back_off;
        // An API server that starts denies everything before it has read its roles: denials have their own count.
        let step = if denied { self.denials } else { self.failures };
        let last_now = match failure {
            // Nothing is answered yet, and a connection that is refused costs nobody anything.
            Failure::Unreachable(_) if !self.listed => first.saturating_mul(2).min(last),
            _ => last,
        };
        let most = first.saturating_mul(1 << step.min(16)).min(last_now);
        self.failures += 1;
        self.denials = if denied { self.denials + 1 } else { 0 };
        let wait = most.mul_f64(chance.clamp(0.0, 1.0));
        // K16: a new client reads configuration, certificates and tokens anew.
        self.reconnect |= matches!(failure, Failure::Unauthorized(_) | Failure::Late(_) | Failure::Unreachable(_));
        self.told_to_wait = matches!(failure, Failure::Busy(..));
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
        let now = Instant::now();
        machine.on(Outcome::Listed("7".into()), now, 1.0);
        outcomes.iter().for_each(|outcome| machine.on(outcome.clone(), now, 1.0));
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
            (vec![Outcome::WatchStarted, Outcome::WatchEnded(Duration::from_secs(30))], vec![watch()]),
            (vec![Outcome::WatchStarted, Outcome::WatchEnded(Duration::ZERO)], vec![wait(1), watch()]),
            (vec![Outcome::WatchFailed(other())], vec![wait(1), watch()]),
            (vec![Outcome::WatchFailed(other()), Outcome::WatchFailed(other())], vec![wait(2), list()]),
            (vec![Outcome::WatchFailed(gone())], vec![wait(1), list()]),
            (vec![Outcome::WatchBroke(gone())], vec![wait(1), list()]),
            (
                vec![Outcome::WatchBroke(other()), Outcome::WatchStarted, Outcome::WatchBroke(other())],
                vec![wait(2), watch()],
            ),
            (vec![Outcome::Silent], vec![Step::Reconnect, list()]),
            (vec![Outcome::Outdated], vec![list()]),
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

    #[test]
    fn only_a_good_time_makes_the_pause_short_again() {
        let mut machine = Machine::new(Timing::default(), true);
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for good in [0, 0, 0, 0, 0, 59, 60] {
            machine.on(Outcome::Listed("7".into()), now, 1.0);
            now += Duration::from_secs(good);
            machine.on(Outcome::WatchBroke(other()), now, 1.0);
            let Step::Wait(pause) = machine.next() else { panic!("a pause") };
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10, 1]);
    }

    /// The longest pauses after failures, in seconds.
    fn pauses(required: bool, listed: bool, failures: &[Failure]) -> Vec<u64> {
        let mut machine = Machine::new(Timing::default(), required);
        if listed {
            machine.on(Outcome::Listed("7".into()), Instant::now(), 1.0);
        }
        let mut pauses = Vec::new();
        for failure in failures {
            machine.on(Outcome::ListFailed(failure.clone()), Instant::now(), 1.0);
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
