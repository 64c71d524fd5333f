//! The door to the cluster for whoever has a question while another thread changes it.
//!
//! One thread changes the cluster, object by object, and holds the lock for each no longer than that takes. Who answers
//! on the wire does not wait for it: no text is better than a late answer. Who asks for a person does.

use std::sync::{Arc, PoisonError, RwLock, TryLockError};

use super::{Asked, Effort, Extent, Finding, Known, Severity, explain};
use crate::cluster::Cluster;
use crate::names::WireName;
use crate::rules::Rules;

/// The cluster is being changed: who must not wait gets no cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// Explains, from what is known at the moment.
pub struct Asker {
    cluster: Arc<RwLock<Cluster>>,
    apexes: Vec<WireName>,
    rules: Rules,
    extent: Extent,
}

impl Asker {
    /// For the zones `apexes`, whose names are made of `cluster` by `rules`. `cluster` is `extent` of a real one.
    pub fn new(cluster: Arc<RwLock<Cluster>>, apexes: Vec<WireName>, rules: Rules, extent: Extent) -> Self {
        Self { cluster, apexes, rules, extent }
    }

    /// The cause that goes into an answer: `None` where none is known for certain. Guesses and notes are for people.
    ///
    /// # Errors
    ///
    /// [`Busy`], where the cluster is being changed just now.
    pub fn first(&self, asked: &Asked<'_>) -> Result<Option<Finding>, Busy> {
        let cluster = match self.cluster.try_read() {
            Ok(cluster) => cluster,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(Busy),
        };
        let findings = explain(&self.known(&cluster), asked, Effort::Exact);
        Ok(findings.into_iter().find(|finding| finding.severity() == Severity::Cause))
    }

    /// Shows `see` what is known. It waits while the cluster is changed, and keeps it from being changed meanwhile.
    pub fn with<R>(&self, see: impl FnOnce(&Known<'_>) -> R) -> R {
        see(&self.known(&self.cluster.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn known<'k>(&'k self, cluster: &'k Cluster) -> Known<'k> {
        Known { cluster, apexes: &self.apexes, rules: self.rules, extent: &self.extent }
    }
}
