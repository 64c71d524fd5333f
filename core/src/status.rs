//! State of the data as a whole: whether a name may be denied, whether the data is stale, and the resources still to be
//! read.
//!
//! `source` writes [`Status`], `answer` and `admin` read it. Not here: when data becomes stale, which needs a clock
//! (`source`).

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};

use crate::lock::lock;

/// State of the zone's data, which decides about denials and the stale mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataState {
    /// The source was not read completely: no name may be denied.
    NotSynced,
    /// The source was not read completely, and the zone is that of a snapshot: known names are answered as stale,
    /// unknown names may not be denied.
    Restored,
    /// Some files could not be read, and the source was never read completely: known names are answered, unknown names
    /// may not be denied.
    Partial,
    /// The zone is in sync with the source.
    Current,
    /// The source is out of reach, and the zone is as it was before.
    Stale,
}

impl DataState {
    /// Returns whether responses have to be marked as stale.
    pub fn is_old(self) -> bool {
        matches!(self, Self::Restored | Self::Stale)
    }

    /// Returns whether the source was read completely once, so that an unknown name does not exist.
    pub fn may_deny(self) -> bool {
        matches!(self, Self::Current | Self::Stale)
    }
}

/// State of the watch of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchState {
    /// The first list is not complete.
    Waiting,
    /// The list is complete, and the watch follows the changes.
    Current,
    /// The API server does not allow this verb.
    Denied(&'static str),
    /// The watch is interrupted.
    Lost(Loss),
}

impl WatchState {
    /// Returns why the resource cannot be followed; `None` while it can, or before the first attempt.
    pub fn reason(&self) -> Option<LossReason> {
        match self {
            Self::Waiting | Self::Current => None,
            Self::Denied(verb) => Some(LossReason::Denied(verb)),
            Self::Lost(loss) => Some(loss.reason),
        }
    }
}

impl fmt::Display for WatchState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("not read yet"),
            Self::Current => f.write_str("current"),
            Self::Denied(verb) => f.write_str(&LossReason::Denied(verb).sentence("", 0)),
            Self::Lost(loss) => loss.fmt(f),
        }
    }
}

/// Interruption of a watch: the reason, and the error behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Reason of the interruption.
    pub reason: LossReason,
    /// Error text of the API server or of the client; may be empty.
    pub detail: String,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason.sentence("", 0))?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

/// Reasons why the API server sends no changes of a resource. Responses, the log, `/readyz` and the status page take
/// their text from [`LossReason::sentence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LossReason {
    /// The API server does not allow this verb (403).
    Denied(&'static str),
    /// The API server does not accept the credentials (401).
    Unauthorized,
    /// 429, or 503 with `Retry-After`.
    Overloaded,
    /// Any other error, or a response that is not one of the API.
    Failing,
    /// No connection, or no response in time.
    OutOfReach,
}

impl LossReason {
    /// Returns the sentence for this reason, which has lasted for `seconds`; in the present tense for 0.
    ///
    /// `resource` is named if rights to it are missing, unless it is empty.
    pub fn sentence(self, resource: &str, seconds: u64) -> String {
        let on = if resource.is_empty() { String::new() } else { format!(" on {resource}") };
        let (is, has_been) = match self {
            Self::Denied(verb) => (format!("does not allow `{verb}`{on}"), format!("has not allowed `{verb}`{on}")),
            Self::Unauthorized => ("does not accept the credentials".into(), "has not accepted the credentials".into()),
            Self::Overloaded => ("is overloaded".into(), "has been overloaded".into()),
            Self::Failing => ("is failing".into(), "has been failing".into()),
            Self::OutOfReach => ("is out of reach".into(), "has been out of reach".into()),
        };
        match seconds {
            0 => format!("the API server {is}"),
            _ => format!("the API server {has_been} for {seconds} s"),
        }
    }
}

/// Watch of one resource, with its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchStatus {
    /// Name in the Kubernetes API: `endpointslices`.
    pub resource: &'static str,
    /// The zone is not synced before this resource has been read.
    pub required: bool,
    /// State of the watch.
    pub state: WatchState,
    /// Start of this state.
    pub since: Option<Instant>,
}

impl fmt::Display for WatchStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.resource, self.state)
    }
}

const SYNCED: u8 = 1;
const CUT_OFF: u8 = 2;
const LEAVING: u8 = 4;
const RESTORED: u8 = 8;
const PARTIAL: u8 = 16;

/// Shared state of the data: `source` writes it, `answer` and `admin` read it.
#[derive(Debug, Default)]
pub struct Status {
    flags: AtomicU8,
    watches: Mutex<Vec<WatchStatus>>,
    /// One sentence for each file or document that could not be read.
    unread: Mutex<Vec<String>>,
    /// Sentence for responses. Every response reads it while the data is not current, so it is built and swapped
    /// beforehand.
    sentence: ArcSwap<String>,
}

impl Status {
    /// Marks the source as read completely.
    pub fn set_synced(&self) {
        self.flags.fetch_or(SYNCED, Ordering::Release);
    }

    /// Marks the zone as loaded from a snapshot, with nothing read from the source.
    pub fn set_restored(&self) {
        self.flags.fetch_or(RESTORED, Ordering::Release);
    }

    /// Marks the source as read except for the parts that these sentences name. [`Self::set_synced`] ends this state.
    pub fn set_partial(&self, unread: Vec<String>) {
        *lock(&self.unread) = unread;
        self.flags.fetch_or(PARTIAL, Ordering::Release);
    }

    /// Sets whether the source has been out of reach for so long that the data is stale.
    pub fn set_cut_off(&self, cut_off: bool) {
        if cut_off {
            self.flags.fetch_or(CUT_OFF, Ordering::Release);
        } else {
            self.flags.fetch_and(!CUT_OFF, Ordering::Release);
        }
    }

    /// Sets the reason why the data is not current, for responses. It is unused while the data is current.
    pub fn set_sentence(&self, sentence: String) {
        self.sentence.store(Arc::new(sentence));
    }

    /// Returns the sentence of [`Self::set_sentence`]; empty before the first call.
    pub fn sentence(&self) -> Guard<Arc<String>> {
        self.sentence.load()
    }

    /// Begins the lame duck phase: the server is no longer ready, and still answers queries.
    pub fn set_leaving(&self) {
        self.flags.fetch_or(LEAVING, Ordering::Release);
    }

    /// Returns whether the server is in the lame duck phase.
    pub fn is_leaving(&self) -> bool {
        self.flags.load(Ordering::Acquire) & LEAVING != 0
    }

    /// Returns whether the server is ready: the source was read completely once, and the server does not shut down.
    pub fn is_ready(&self) -> bool {
        self.data_state().may_deny() && !self.is_leaving()
    }

    /// Returns the state of the data.
    pub fn data_state(&self) -> DataState {
        match self.flags.load(Ordering::Acquire) & (SYNCED | CUT_OFF | RESTORED | PARTIAL) {
            flags if flags & (SYNCED | CUT_OFF) == SYNCED => DataState::Current,
            flags if flags & SYNCED != 0 => DataState::Stale,
            flags if flags & RESTORED != 0 => DataState::Restored,
            flags if flags & PARTIAL != 0 => DataState::Partial,
            _ => DataState::NotSynced,
        }
    }

    /// Replaces the states of all watches.
    pub fn set_watches(&self, watches: Vec<WatchStatus>) {
        *lock(&self.watches) = watches;
    }

    /// Returns the states of all watches; none if the source is not a cluster.
    pub fn watches(&self) -> Vec<WatchStatus> {
        lock(&self.watches).clone()
    }

    /// Returns one sentence for each required resource or file that still has to be read before the data is synced.
    pub fn waiting_for(&self) -> Vec<String> {
        let waits = |watch: &WatchStatus| watch.required && watch.state != WatchState::Current;
        match self.data_state() {
            DataState::NotSynced | DataState::Restored => {
                self.watches().iter().filter(|watch| waits(watch)).map(ToString::to_string).collect()
            }
            DataState::Partial => lock(&self.unread).clone(),
            DataState::Current | DataState::Stale => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_not_stale_before_first_sync() {
        let status = Status::default();
        status.set_cut_off(true);
        assert_eq!(status.data_state(), DataState::NotSynced);
        status.set_synced();
        assert_eq!(status.data_state(), DataState::Stale);
        status.set_cut_off(false);
        assert_eq!(status.data_state(), DataState::Current);
    }

    #[test]
    fn is_not_ready_while_restored() {
        let status = Status::default();
        status.set_restored();
        for cut_off in [true, false] {
            status.set_cut_off(cut_off);
            assert_eq!((status.data_state(), status.is_ready()), (DataState::Restored, false));
        }
        status.set_synced();
        assert_eq!((status.data_state(), status.is_ready()), (DataState::Current, true));
    }

    #[test]
    fn is_not_ready_while_partial() {
        let status = Status::default();
        status.set_partial(vec!["a.yaml, line 3: no YAML".into()]);
        let state = status.data_state();
        assert_eq!(
            (state, state.may_deny(), state.is_old(), status.is_ready()),
            (DataState::Partial, false, false, false)
        );
        assert_eq!(status.waiting_for(), ["a.yaml, line 3: no YAML"]);
        status.set_synced();
        assert_eq!((status.data_state(), status.is_ready(), status.waiting_for().len()), (DataState::Current, true, 0));
    }

    #[test]
    fn is_not_ready_in_lame_duck_phase() {
        let status = Status::default();
        assert!(!status.is_ready());
        status.set_synced();
        assert!(status.is_ready());
        status.set_leaving();
        assert_eq!((status.is_ready(), status.data_state()), (false, DataState::Current));
    }

    #[test]
    fn formats_loss_reasons() {
        for (reason, present, lasting) in [
            (LossReason::Denied("watch"), "does not allow `watch` on pods", "has not allowed `watch` on pods"),
            (LossReason::Unauthorized, "does not accept the credentials", "has not accepted the credentials"),
            (LossReason::Overloaded, "is overloaded", "has been overloaded"),
            (LossReason::Failing, "is failing", "has been failing"),
            (LossReason::OutOfReach, "is out of reach", "has been out of reach"),
        ] {
            assert_eq!(reason.sentence("pods", 0), format!("the API server {present}"));
            assert_eq!(reason.sentence("pods", 34), format!("the API server {lasting} for 34 s"));
        }
        let loss = Loss { reason: LossReason::Failing, detail: "500 Internal Server Error".into() };
        assert_eq!(WatchState::Lost(loss).to_string(), "the API server is failing: 500 Internal Server Error");
        assert_eq!(WatchState::Denied("list").to_string(), "the API server does not allow `list`");
    }

    #[test]
    fn names_denied_verb_and_resource() {
        let status = Status::default();
        let watch = |resource, required, state| WatchStatus { resource, required, state, since: None };
        status.set_watches(vec![
            watch("services", true, WatchState::Current),
            watch("endpointslices", true, WatchState::Denied("watch")),
            watch("namespaces", false, WatchState::Denied("list")),
        ]);
        assert_eq!(status.waiting_for(), ["endpointslices: the API server does not allow `watch`"]);
        status.set_synced();
        assert!(status.waiting_for().is_empty());
    }
}
