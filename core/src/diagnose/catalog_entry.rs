//! Entry of the table of findings (`catalog.rs`).
//!
//! An entry is built at each call, and only the [`EntryPart`] that the caller needs: ranking findings for a response formats no
//! text. Not here: the findings (`finding.rs`), and the detection of each (`detector/`).

use std::fmt::Display;

use super::fix::Fix;
use crate::object::ObjectRef;

/// Importance of a finding for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Certain: the reason of the non-resolution, or one of several.
    Cause,
    /// Uncertain: a guess, mostly from similar names.
    Guess,
    /// No reason of a non-resolution, but a fact that the client should know.
    Note,
}

/// Importance of a finding for the author of the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Intended names do not exist.
    Error,
    /// Possibly intended, or temporary.
    Warning,
    /// Names resolve, but with a fact that the author should know.
    Note,
}

impl Level {
    /// Returns the level's name in texts and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Object that a finding is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindingSubject {
    /// Kind, as in the Kubernetes API.
    pub kind: &'static str,
    /// Namespace and name.
    pub key: ObjectRef,
}

impl FindingSubject {
    pub(super) fn service(key: &ObjectRef) -> Self {
        Self { kind: "Service", key: key.clone() }
    }

    /// Returns the Service `name` in the namespace of `key`.
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

/// Condition on the objects that were read, without which a finding could be false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Every Service of the cluster was read, not only those of a label selector.
    EveryService,
    /// Every object of the source was read: none was invalid.
    EveryObject,
    /// Pods are running, real or simulated.
    LivePods,
}

/// Part of an entry that a caller needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryPart {
    /// Identity, severity, rank and code only.
    Class,
    Text,
    Fix,
    About,
}

/// Entry of the table: all properties of a finding except its detection.
pub(super) struct CatalogEntry {
    part: EntryPart,
    /// Id of the row in `tests/causes.md`; never changes.
    pub(super) id: &'static str,
    /// Token for scripts; never changes.
    pub(super) token: &'static str,
    pub(super) severity: Severity,
    /// Rank: a response reports the cause with the lowest one. 0: state of the data, 1 to 2: form of the name, 3 to 7:
    /// StatefulSet, 8 to 13: endpoint, 14 to 18: port, 19 to 21: Service, 30 to 39: similar names, 40: notes.
    pub(super) rank: u8,
    /// Extended DNS Error code (RFC 8914): 0 (Other) for causes specific to Kubernetes.
    pub(super) code: u16,
    /// Level in `check`; `None` if the finding is not about an object.
    pub(super) level: Option<Level>,
    pub(super) needs: &'static [Needs],
    /// Tokens of the findings that are consequences of this one.
    pub(super) explains: &'static [&'static str],
    pub(super) text: String,
    pub(super) fix: Option<Fix>,
    pub(super) about: Vec<FindingSubject>,
}

impl EntryPart {
    pub(super) fn cause(self, id: &'static str, token: &'static str, rank: u8) -> CatalogEntry {
        self.entry(Severity::Cause, id, token, rank)
    }

    pub(super) fn guess(self, id: &'static str, token: &'static str, rank: u8) -> CatalogEntry {
        self.entry(Severity::Guess, id, token, rank)
    }

    pub(super) fn note(self, id: &'static str, token: &'static str) -> CatalogEntry {
        self.entry(Severity::Note, id, token, 40)
    }

    fn entry(self, severity: Severity, id: &'static str, token: &'static str, rank: u8) -> CatalogEntry {
        CatalogEntry {
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

impl CatalogEntry {
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

    /// Sets the sentence, without a full stop. The most specific fact comes first, since a response may truncate the text.
    pub(super) fn text(mut self, text: impl FnOnce() -> String) -> Self {
        if self.part == EntryPart::Text {
            self.text = text();
        }
        self
    }

    /// Sets the fix, which the API server must accept; `None` if waiting is the only fix, or no fix is certain.
    pub(super) fn fix(mut self, fix: impl FnOnce() -> Option<Fix>) -> Self {
        if self.part == EntryPart::Fix {
            self.fix = fix();
        }
        self
    }

    /// Sets a sentence as the fix.
    pub(super) fn advice(self, text: impl FnOnce() -> String) -> Self {
        self.fix(|| Some(Fix::Advice(text())))
    }

    /// Sets the name to query instead as the fix, if there is a name that resolves.
    pub(super) fn query_command<N: Display>(self, name: impl FnOnce() -> Option<N>) -> Self {
        self.fix(|| Some(Fix::Advice(format!("ask for {}", name()?))))
    }

    /// Sets lines for a shell as the fix.
    pub(super) fn command(self, line: impl FnOnce() -> String) -> Self {
        self.fix(|| Some(Fix::Command(line())))
    }

    /// Sets the objects that the finding is about. `check` lists it at the first one.
    pub(super) fn about<I: IntoIterator<Item = FindingSubject>>(mut self, about: impl FnOnce() -> I) -> Self {
        if self.part == EntryPart::About {
            self.about = about().into_iter().collect();
        }
        self
    }
}
