//! CNAME chains: one loop, with a limit on their length, for every name after QNAME.
//!
//! [`Responder::follow_chain`] follows a chain through the zones, and in a forwarded query also through special names and
//! the records of an upstream. Each name has one source: the zones come first, so that no upstream can supply records for
//! a name of theirs (RFC 1034 section 4.3.2 step 3a). Not here: QNAME itself (`mod.rs`), and the sources outside the zones
//! (`forwarding.rs`).

use std::ops::Range;

use super::extended_errors::Unresolved;
use super::response::Response;
use super::upstream_response::UpstreamCursor;
use super::{OwnerPointers, Responder};
use crate::name::reverse::is_reverse;
use crate::name::{MAX_CHAIN, MAX_FORWARDED_CHAIN, QueryName, WireName};
use crate::rtype;
use crate::status::DataState;
use crate::wire::{QNAME_POINTER, rcode};
use crate::zone::{Lookup, SnapshotCache};

/// Result of the look-up of one name, with its records written.
pub(super) enum NameOutcome {
    /// The sections are complete, with this RCODE.
    Done(u16),
    /// NXDOMAIN or NODATA: the RCODE, and the non-resolution to explain.
    Negative(u16, Unresolved),
    /// CNAME to this name, with the compression pointer to it in the message.
    Cname(WireName, u16),
    /// The CNAME chain is a loop, or too long.
    EndlessChain,
    /// No records: a `_why` question for the name of these labels, in front of the apex at this label.
    WhyQuery(Range<usize>, usize),
    /// The name is in no zone, and no other source has it.
    NotInZone,
    /// The name may or may not exist: objects are missing.
    NotReady,
}

/// CNAME chain of a response: the names from QNAME on, each at most once.
#[derive(Debug)]
pub(super) struct CnameChain {
    names: Vec<WireName>,
    /// Maximum number of CNAMEs (row N14 of `tests/rows.md`).
    limit: usize,
    /// Compression pointer to the last name.
    pub(super) owner: u16,
}

impl CnameChain {
    pub(super) fn new(qname: WireName) -> Self {
        Self { names: vec![qname], limit: MAX_CHAIN, owner: QNAME_POINTER }
    }

    /// Raises the limit, for a chain that leaves the zones.
    pub(super) fn forwarded(self) -> Self {
        Self { limit: MAX_FORWARDED_CHAIN, ..self }
    }

    /// Returns the last name: the response needs its records next.
    pub(super) fn last(&self) -> &WireName {
        &self.names[self.names.len() - 1]
    }

    /// Returns whether the chain has a CNAME.
    pub(super) fn has_cname(&self) -> bool {
        self.names.len() > 1
    }

    /// Adds the target of a CNAME, to which the compression pointer `owner` points. Returns false for a loop, or if the
    /// chain is too long.
    fn extend(&mut self, target: WireName, owner: u16) -> bool {
        let fits = self.names.len() <= self.limit && !self.names.contains(&target);
        if fits {
            self.names.push(target);
            self.owner = owner;
        }
        fits
    }
}

/// State of the loop along a CNAME chain.
pub(super) struct ChainWalk<'w> {
    pub(super) chain: &'w mut CnameChain,
    pub(super) qtype: u16,
    state: DataState,
    snapshot_cache: &'w mut SnapshotCache,
    /// True in a forwarded query, where names outside the zones have other sources.
    is_forwarded: bool,
    /// Records of the upstream's response that are left.
    pub(super) upstream: Option<UpstreamCursor<'w>>,
    /// True if the last name is in a zone.
    pub(super) is_in_zone: bool,
    /// True if any name of the loop was in a zone.
    pub(super) has_zone_name: bool,
}

impl<'w> ChainWalk<'w> {
    /// Creates the state for a chain through the zones.
    pub(super) fn new(
        chain: &'w mut CnameChain,
        qtype: u16,
        state: DataState,
        snapshot_cache: &'w mut SnapshotCache,
    ) -> Self {
        Self {
            chain,
            qtype,
            state,
            snapshot_cache,
            is_forwarded: false,
            upstream: None,
            is_in_zone: false,
            has_zone_name: false,
        }
    }

    /// Adds the sources of a forwarded query: the special names, and the records of `upstream`, if there are any.
    pub(super) fn forwarded(self, upstream: Option<UpstreamCursor<'w>>) -> Self {
        Self { is_forwarded: true, upstream, ..self }
    }
}

impl Responder {
    /// Follows a CNAME chain from `outcome`, the result of its last name, and returns the result of the name at its end.
    pub(super) fn follow_chain(
        &self,
        walk: &mut ChainWalk<'_>,
        mut outcome: NameOutcome,
        response: &mut Response<'_>,
    ) -> NameOutcome {
        while let NameOutcome::Cname(target, pointer) = outcome {
            if !walk.chain.extend(target, pointer) {
                return NameOutcome::EndlessChain;
            }
            outcome = self.write_next(walk, response);
        }
        outcome
    }

    /// Writes the records of the last name of the chain, from its one source.
    pub(super) fn write_next(&self, walk: &mut ChainWalk<'_>, response: &mut Response<'_>) -> NameOutcome {
        let mut name = QueryName::default();
        name.set(walk.chain.last());
        // The reverse zones follow from the addresses: before they are known, an upstream may not answer for one of them.
        if walk.is_forwarded && matches!(walk.state, DataState::NotSynced | DataState::Partial) && is_reverse(&name) {
            return NameOutcome::NotReady;
        }
        match self.write_from_zones(walk, &name, response) {
            NameOutcome::NotInZone if walk.is_forwarded => self.write_from_outside(walk, &mut name, response),
            outcome => outcome,
        }
    }

    /// Writes the records of a CNAME target that is in a zone.
    fn write_from_zones(&self, walk: &mut ChainWalk<'_>, name: &QueryName, response: &mut Response<'_>) -> NameOutcome {
        let (key, names) = (self.zone.lookup_key(name), OwnerPointers { owner: walk.chain.owner, apex: None });
        let (qtype, state) = (walk.qtype, walk.state);
        let outcome = self.zone.look_up_with(walk.snapshot_cache, name, key, qtype, |lookup| match &lookup {
            Lookup::NotInZone => NameOutcome::NotInZone,
            _ if state == DataState::NotSynced => NameOutcome::NotReady,
            Lookup::NxDomain(..) if !state.may_deny() => NameOutcome::NotReady,
            _ => self.write_lookup(names, qtype, lookup, response),
        });
        walk.is_in_zone = !matches!(outcome, NameOutcome::NotInZone);
        if walk.is_in_zone {
            walk.has_zone_name = true;
            // The upstream's other records follow from a record that is not used, since the zones have this name.
            walk.upstream = None;
        }
        match outcome {
            NameOutcome::Negative(rcode::NXDOMAIN, _) => NameOutcome::Negative(rcode::NXDOMAIN, Unresolved::Chain),
            NameOutcome::Negative(rcode, _) => NameOutcome::Done(rcode),
            outcome => outcome,
        }
    }

    /// Returns whether the name is in a zone of this server.
    pub(super) fn is_in_zones(&self, walk: &mut ChainWalk<'_>, name: &QueryName) -> bool {
        let key = self.zone.lookup_key(name);
        self.zone.look_up_with(walk.snapshot_cache, name, key, rtype::ANY, |lookup| lookup.context().is_some())
    }
}
