//! The form of one entry of the table of findings (`finding.rs`).
//!
//! An entry is made anew at each request and only in the [`Part`] that the caller needs: ranking findings for an answer
//! formats no text. Not here: the causes, and how each is detected (`find.rs`).

use std::fmt::Display;

use super::fix::Fix;
use crate::objects::ObjectRef;

/// Importance of a finding for the client that asked for the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The reason, or one of several.
    Cause,
    /// A guess from names that are near.
    Guess,
    /// The name resolves, and there is something to know.
    Note,
}

/// Importance of a finding for the author of the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Names that are meant do not exist.
    Error,
    /// Possibly intended, or passing.
    Warning,
    /// Answered, with something to know.
    Note,
}

impl Level {
    /// The level's word in texts and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// An object that a finding is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Its kind, as the Kubernetes API writes it.
    pub kind: &'static str,
    /// Its namespace and name.
    pub key: ObjectRef,
}

impl About {
    pub(super) fn service(key: &ObjectRef) -> Self {
        Self { kind: "Service", key: key.clone() }
    }

    /// The Service `name` of the namespace that `key` is in.
    pub(super) fn service_beside(key: &ObjectRef, name: &str) -> Self {
        Self { kind: "Service", key: ObjectRef::new(&key.namespace, name) }
    }

    pub(super) fn stateful_set(key: &ObjectRef) -> Self {
        Self { kind: "StatefulSet", key: key.clone() }
    }

    pub(super) fn pod(key: &ObjectRef) -> Self {
        Self { kind: "Pod", key: key.clone() }
    }

    pub(super) fn slice(key: &ObjectRef) -> Self {
        Self { kind: "EndpointSlice", key: key.clone() }
    }
}

/// Condition on the objects that were read, without which a finding claims too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Every Service of the cluster, not only those of a label selector.
    EveryService,
    /// Every object of the source: none was unreadable.
    EveryObject,
    /// Endpoints of running Pods, real or simulated.
    LivePods,
}

/// The part of an entry that a caller needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Identity, severity, rank and code only.
    Class,
    Text,
    Fix,
    About,
}

/// All that is known of a finding but its detection.
pub(super) struct Entry {
    part: Part,
    /// The row of `tests/causes.md`; never changes.
    pub(super) id: &'static str,
    /// The word for scripts; never changes.
    pub(super) token: &'static str,
    pub(super) severity: Severity,
    /// Of several findings the lowest rank goes into an answer. 0 state of the data, 1 to 2 shape of the name, 3 to 7
    /// StatefulSet, 8 to 13 endpoint, 14 to 18 port, 19 to 21 Service, 30 to 39 near names, 40 notes.
    pub(super) rank: u8,
    /// The Extended DNS Error code (RFC 8914): 0 (Other) for causes that only Kubernetes has.
    pub(super) code: u16,
    /// The level in `check`; `None` where it is no finding about an object.
    pub(super) level: Option<Level>,
    pub(super) needs: &'static [Needs],
    /// Tokens of findings that are consequences of this one.
    pub(super) explains: &'static [&'static str],
    pub(super) text: String,
    pub(super) fix: Option<Fix>,
    pub(super) about: Vec<About>,
}

impl Part {
    pub(super) fn cause(self, id: &'static str, token: &'static str, rank: u8) -> Entry {
        self.entry(Severity::Cause, id, token, rank)
    }

    pub(super) fn guess(self, id: &'static str, token: &'static str, rank: u8) -> Entry {
        self.entry(Severity::Guess, id, token, rank)
    }

    pub(super) fn note(self, id: &'static str, token: &'static str) -> Entry {
        self.entry(Severity::Note, id, token, 40)
    }

    fn entry(self, severity: Severity, id: &'static str, token: &'static str, rank: u8) -> Entry {
        Entry {
            part: self,
            id,
            token,
            severity,
            rank,
            code: 0,
            level: None,
            needs: &[],
            explains: &[],
            text: String::new(),
            fix: None,
            about: Vec::new(),
        }
    }
}

impl Entry {
    pub(super) fn code(self, code: u16) -> Self {
        Self { code, ..self }
    }

    pub(super) fn level(self, level: Level) -> Self {
        Self { level: Some(level), ..self }
    }

    pub(super) fn needs(self, needs: &'static [Needs]) -> Self {
        Self { needs, ..self }
    }

    pub(super) fn explains(self, explains: &'static [&'static str]) -> Self {
        Self { explains, ..self }
    }

    /// The cause in one sentence without a full stop, the most specific first: an answer may cut its end.
    pub(super) fn text(mut self, text: impl FnOnce() -> String) -> Self {
        if self.part == Part::Text {
            self.text = text();
        }
        self
    }

    /// A fix that the API server accepts; none where there is nothing to do but wait, or nothing is certain.
    pub(super) fn fix(mut self, fix: impl FnOnce() -> Option<Fix>) -> Self {
        if self.part == Part::Fix {
            self.fix = fix();
        }
        self
    }

    /// A fix in a sentence.
    pub(super) fn advice(self, text: impl FnOnce() -> String) -> Self {
        self.fix(|| Some(Fix::Advice(text())))
    }

    /// The name to ask for instead, where there is one that resolves.
    pub(super) fn ask_for<N: Display>(self, name: impl FnOnce() -> Option<N>) -> Self {
        self.fix(|| Some(Fix::Advice(format!("ask for {}", name()?))))
    }

    /// A fix as lines for a shell.
    pub(super) fn command(self, line: impl FnOnce() -> String) -> Self {
        self.fix(|| Some(Fix::Command(line())))
    }

    /// The objects that it is about, the first the one that `check` shows it at.
    pub(super) fn about<I: IntoIterator<Item = About>>(mut self, about: impl FnOnce() -> I) -> Self {
        if self.part == Part::About {
            self.about = about().into_iter().collect();
        }
        self
    }
}
