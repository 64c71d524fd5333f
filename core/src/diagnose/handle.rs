//! Read access to the cluster for diagnosis, while the publisher changes it.
//!
//! The publisher changes the cluster object by object, and holds the lock for one object at a time. Workers that answer
//! queries never wait for the lock: a response without a cause is better than a late one. Commands and the admin listener
//! wait. Not here: the diagnosis (`detector/`).

use std::sync::{Arc, RwLock, TryLockError};

use super::{DiagnosedQuery, DiagnosticsView, Finding, SearchDepth, Severity, WatchScope, explain};
use crate::cluster::Cluster;
use crate::lock::read;
use crate::name::WireName;
use crate::naming_rules::NamingRules;

/// Error of a caller that must not wait: the publisher holds the lock of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// Handle for diagnosis against the current state of the cluster.
pub struct Diagnostics {
    cluster: Arc<RwLock<Cluster>>,
    apexes: Vec<WireName>,
    rules: NamingRules,
    extent: WatchScope,
}

impl Diagnostics {
    /// Creates a handle. The names of the zones `apexes` follow from `cluster` by `rules`; `extent` is the part of the
    /// cluster that is read.
    pub fn new(cluster: Arc<RwLock<Cluster>>, apexes: Vec<WireName>, rules: NamingRules, extent: WatchScope) -> Self {
        Self { cluster, apexes, rules, extent }
    }

    /// Returns the cause that a response reports; `None` if no cause is certain. Guesses and notes are for people only.
    ///
    /// # Errors
    ///
    /// [`Busy`] if the publisher is changing the cluster.
    pub fn try_best_finding(&self, asked: &DiagnosedQuery<'_>) -> Result<Option<Finding>, Busy> {
        let cluster = match self.cluster.try_read() {
            Ok(cluster) => cluster,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(Busy),
        };
        let findings = explain(&self.known(&cluster), asked, SearchDepth::Exact);
        Ok(findings.into_iter().find(|finding| finding.severity() == Severity::Cause))
    }

    /// Calls `see` with a view of the cluster. Waits for the lock, and blocks the publisher until `see` returns.
    pub fn with_view<R>(&self, see: impl FnOnce(&DiagnosticsView<'_>) -> R) -> R {
        see(&self.known(&read(&self.cluster)))
    }

    fn known<'k>(&'k self, cluster: &'k Cluster) -> DiagnosticsView<'k> {
        DiagnosticsView { cluster, apexes: &self.apexes, rules: self.rules, extent: &self.extent }
    }
}
