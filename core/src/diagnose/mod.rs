//! Diagnosis of non-resolution: question and cluster in, findings out.
//!
//! One function, [`explain`], serves the command `explain`, the extended errors of responses, the TXT record at
//! `_why.NAME` and the API. It is pure: the caller holds the cluster and checks the client's permission. `finding.rs` has
//! the findings, `catalog.rs` the texts of each, `detector/` the detection of each; `records` publishes the known reasons for
//! NXDOMAIN with a Service's records, so that most responses need no search. [`Diagnostics`] gives
//! threads that answer queries access to the cluster without waiting. For people there are [`steps()`], the trace of the
//! decision on one name, and [`check()`], the findings about all objects. Read next: `finding.rs`, then `detector/mod.rs`.

mod catalog;
mod catalog_entry;
mod detector;
mod finding;
mod fix;
mod handle;
mod label;
mod lint;
mod steps;

use std::net::IpAddr;

use crate::cluster::Cluster;
use crate::name::label_pool::Label;
use crate::name::{QueryName, WireName, is_label};
use crate::naming_rules::NamingRules;
use crate::object::Endpoint;
use crate::records::Absence;

pub use catalog_entry::{FindingSubject, Level, Severity};
pub use detector::{MAX_EXACT_ENDPOINTS, explain};
pub use finding::{Candidates, Finding, LabelMismatch, MAX_EDE_TEXT_BYTES, SelectorMismatch};
pub use fix::Fix;
pub use handle::{Busy, Diagnostics};
pub use label::service_ref;
pub use lint::{CheckScope, Checked, check};
pub use steps::{TraceStep, steps};

/// View of the cluster for diagnosis, with the zones and rules by which names follow from the objects.
#[derive(Clone, Copy)]
pub struct DiagnosticsView<'k> {
    /// All known objects.
    pub cluster: &'k Cluster,
    /// Apexes: the zone and its aliases.
    pub apexes: &'k [WireName],
    /// Naming rules of the zone.
    pub rules: NamingRules,
    /// Part of the cluster that is read.
    pub extent: &'k WatchScope,
}

impl<'k> DiagnosticsView<'k> {
    /// Returns the label of an endpoint besides its dashed address: its hostname, or its Pod's name (row N9 of
    /// `tests/rows.md`).
    fn label_of<'s>(&self, endpoint: &Endpoint<'s>) -> Option<Label<'s>> {
        let pod = || endpoint.pod.filter(|pod| self.rules.endpoint_pod_names && is_label(&pod.to_string()));
        endpoint.hostname.or_else(pod)
    }

    /// Returns whether `label` is a label of the endpoint: its hostname, or without a hostname its dashed address or its
    /// Pod's name. `spelled` is the address if `label` is a dashed one.
    fn is_called(&self, endpoint: &Endpoint<'_>, label: &str, spelled: Option<IpAddr>) -> bool {
        endpoint.hostname.is_none() && spelled == Some(endpoint.address)
            || self.label_of(endpoint).is_some_and(|name| label::is_object_named(name, label))
    }

    /// Returns the zone that a name is in, and the label of the name at which its apex begins.
    pub fn apex_of(&self, name: &QueryName) -> Option<(&'k WireName, usize)> {
        self.apexes.iter().find_map(|apex| Some((apex, name.apex_at(apex)?)))
    }
}

/// Part of the cluster that is read. The absence of any other object is unknown, so no finding may claim it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchScope {
    /// The only namespace that is read; `None` for all namespaces.
    pub namespace: Option<Box<str>>,
    /// True if only Services that match a label selector are read.
    pub selected: bool,
}

/// Question to diagnose, with the zone's result.
#[derive(Clone, Copy)]
pub struct DiagnosedQuery<'q> {
    /// QNAME of the question.
    pub name: &'q QueryName,
    /// QTYPE of the question.
    pub qtype: u16,
    /// Result of the zone's look-up.
    pub outcome: ZoneVerdict,
    /// Reason for NXDOMAIN that the zone knows, if any.
    pub absence: Option<Absence>,
}

/// Result of the zone's look-up of a name and type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneVerdict {
    /// The name has records of the type, or a CNAME.
    Found,
    /// The name exists and has no record of this type.
    NoData,
    /// The name does not exist.
    NxDomain,
    /// The name is in no zone of this server.
    NotInZone,
}

/// Depth of a search for causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchDepth {
    /// Exact look-ups, no guesses, bounded work: for responses to clients.
    Exact,
    /// All objects, with guesses at the intended name: for people.
    Search,
}
