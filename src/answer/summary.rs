//! The summary of one response: all that a server counts and logs of it. The engine itself counts nothing.

/// The zone under which a response is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountedZone(usize);

impl CountedZone {
    /// No zone of this server: CoreDNS's `dropped`, which has no full stop and so is no zone.
    pub const OUTSIDE: Self = Self(0);
    /// A name that an upstream answers for: the root.
    pub const FORWARDED: Self = Self(1);
    const FIXED: [&str; 4] = ["dropped", ".", "in-addr.arpa.", "ip6.arpa."];

    /// Zone number `number` of this server: 0 for reverse names of IPv4, 1 for those of IPv6, then the forward zones in
    /// their order.
    pub fn ours(number: usize) -> Self {
        Self(2 + number)
    }

    /// The zone at a position of [`Self::names`].
    pub fn at(index: usize) -> Self {
        Self(index)
    }

    /// The position in [`Self::names`].
    #[inline]
    pub fn index(self) -> usize {
        self.0
    }

    /// The zones' names as labels, for a server with these forward zones.
    pub fn names(forward: &[String]) -> Vec<String> {
        Self::FIXED.into_iter().map(ToOwned::to_owned).chain(forward.iter().cloned()).collect()
    }
}

/// Report of the cause of a non-resolution in a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CauseReport {
    /// No cause was due.
    #[default]
    None,
    /// The response carries the cause with this token (`tests/causes.md`).
    Reported(&'static str),
    /// A cause was due, and not searched for: the worker's budget was spent, or the objects were being changed.
    Skipped,
}

/// All that is counted and logged of one response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseSummary {
    /// The length of the response, in octets.
    pub length: usize,
    /// The length of the query, in octets.
    pub query_length: usize,
    /// The zone of the question.
    pub zone: CountedZone,
    /// QTYPE; 0 where the question could not be read.
    pub qtype: u16,
    /// The response code, that of the OPT record included.
    pub rcode: u16,
    /// The DO bit of the query.
    pub dnssec_ok: bool,
    /// The TC bit of the response.
    pub truncated: bool,
    /// The response is made of stale data, and its extended error says so.
    pub is_stale: bool,
    /// The cause in the response.
    pub cause: CauseReport,
}
