//! Summary of one response: all that the server counts and logs about it. The engine itself counts nothing.
//!
//! Not here: the counters (`metrics/`) and the query log (`server/query_log.rs`).

/// Zone label of a response in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneLabel(usize);

impl ZoneLabel {
    /// No zone of this server: the label `dropped`, as CoreDNS has it. Without a final dot, it is no zone's name.
    pub const NONE: Self = Self(0);
    /// A name that an upstream resolves: the label of the root zone.
    pub const FORWARDED: Self = Self(1);
    const FIXED: [&str; 4] = ["dropped", ".", "in-addr.arpa.", "ip6.arpa."];

    /// Returns the label of zone `number` of this server: 0 for reverse names of IPv4, 1 for those of IPv6, from 2 on the
    /// forward zones in their order.
    pub fn served(number: usize) -> Self {
        Self(2 + number)
    }

    /// Returns the label at an index of [`Self::names`].
    pub fn at(index: usize) -> Self {
        Self(index)
    }

    /// Returns the index in [`Self::names`].
    #[inline]
    pub fn index(self) -> usize {
        self.0
    }

    /// Returns all label values of a server with these forward zones.
    pub fn names(forward: &[String]) -> Vec<String> {
        Self::FIXED.into_iter().map(ToOwned::to_owned).chain(forward.iter().cloned()).collect()
    }
}

/// Report of a cause of non-resolution in a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CauseReport {
    /// No cause was due.
    #[default]
    None,
    /// The response carries the cause with this token (`tests/causes.md`).
    Reported(&'static str),
    /// A cause was due, but not searched for: the worker's budget was spent, or the publisher was changing the cluster.
    Skipped,
}

/// Summary of one response, for metrics and the query log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseSummary {
    /// Length of the response, in octets.
    pub length: usize,
    /// Length of the query, in octets.
    pub query_length: usize,
    /// Zone of the QNAME, as a label of metrics.
    pub zone: ZoneLabel,
    /// QTYPE; 0 if the question was not parsed.
    pub qtype: u16,
    /// Response code, including the upper bits in the OPT record (RFC 6891).
    pub rcode: u16,
    /// DO bit of the query.
    pub dnssec_ok: bool,
    /// TC bit of the response.
    pub truncated: bool,
    /// True if the response has an extended error for stale data.
    pub is_stale: bool,
    /// Cause that the response reports.
    pub cause: CauseReport,
}
