//! Parsed messages: the header check, the question, EDNS and the lookup key, each done once per message.
//!
//! A [`RequestBatch`] owns the memory for parsing and lends the [`Request`]s of one batch, until the next batch. No value
//! of one message is readable through the request of another: name and lookup key are reachable only through the
//! [`ParsedQuestion`] of a completely parsed message. Not here: the response (`mod.rs`, the file to read next).

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::name::QueryName;
use crate::transport::Transport;
use crate::wire::{self, DropReason, Edns, ErrorResponse, Query};
use crate::zone::{LookupKey, SnapshotCache, Zone};

/// Parsed message: all that a response needs beside the message's octets.
pub struct Request {
    /// Length of the message, in octets.
    pub(super) length: usize,
    pub(super) transport: Transport,
    parsed: Parsed,
    /// Memory for QNAME. Its content belongs to this message only if `parsed` is a query.
    name: QueryName,
}

#[derive(Clone, Copy)]
enum Parsed {
    Query(Query, LookupKey),
    Refused(ErrorResponse),
    Dropped(DropReason),
    /// The parser panicked.
    Failed,
}

/// Disposition of a message, as far as it follows from the message alone.
pub(super) enum Disposition<'r> {
    Answer(ParsedQuestion<'r>),
    Refuse(ErrorResponse),
    Drop(DropReason),
    Fail,
}

/// Question of a well-formed query, with its lookup key and the other fields of the query.
#[derive(Clone, Copy)]
pub(super) struct ParsedQuestion<'r> {
    pub(super) name: &'r QueryName,
    pub(super) key: LookupKey,
    pub(super) query: &'r Query,
}

impl Request {
    fn new(transport: Transport) -> Self {
        let parsed = Parsed::Dropped(DropReason::Short);
        Self { length: 0, transport, parsed, name: QueryName::default() }
    }

    #[inline]
    fn parse(&mut self, message: &[u8], zone: &Zone) {
        self.length = message.len();
        self.parsed = match wire::check_header(message) {
            Ok(()) => match wire::parse(message, &mut self.name, self.transport.is_encrypted()) {
                Ok(query) => Parsed::Query(query, zone.lookup_key(&self.name)),
                Err(error) => Parsed::Refused(error),
            },
            Err(reason) => Parsed::Dropped(reason),
        };
    }

    #[inline]
    pub(super) fn disposition(&self) -> Disposition<'_> {
        match &self.parsed {
            Parsed::Query(query, key) => Disposition::Answer(ParsedQuestion { name: &self.name, key: *key, query }),
            Parsed::Refused(error) => Disposition::Refuse(*error),
            Parsed::Dropped(reason) => Disposition::Drop(*reason),
            Parsed::Failed => Disposition::Fail,
        }
    }

    /// Returns the content of the OPT record, if the message has a valid one.
    pub(super) fn edns(&self) -> Option<Edns> {
        match &self.parsed {
            Parsed::Query(query, _) => query.edns,
            Parsed::Refused(error) => error.edns,
            Parsed::Dropped(_) | Parsed::Failed => None,
        }
    }
}

/// Requests of one batch of messages, which arrived over one transport. The memory is reused: a batch that is no larger
/// than an earlier one allocates nothing.
pub struct RequestBatch {
    transport: Transport,
    requests: Vec<Request>,
    snapshot_cache: SnapshotCache,
}

impl RequestBatch {
    /// Creates a batch without requests.
    pub fn new(transport: Transport) -> Self {
        Self { transport, requests: Vec::new(), snapshot_cache: SnapshotCache::default() }
    }

    /// Parses messages that were received together, and prefetches the memory that their look-ups in `zone` will read.
    /// Returns the requests in the order of the messages.
    ///
    /// A panic in the parser costs the message that caused it: its request is answered with SERVFAIL.
    pub fn parse<'m>(&mut self, zone: &Zone, mut messages: impl ExactSizeIterator<Item = &'m [u8]>) -> &[Request] {
        let count = messages.len();
        if self.requests.len() < count {
            self.requests.resize_with(count, || Request::new(self.transport));
        }
        let mut requests = self.requests[..count].iter_mut();
        while requests.len() > 0 {
            let parsing = catch_unwind(AssertUnwindSafe(|| {
                for request in &mut requests {
                    // First, so that a panic does not leave the previous message's question in the request.
                    request.parsed = Parsed::Failed;
                    if let Some(message) = messages.next() {
                        request.parse(message, zone);
                    }
                }
            }));
            if parsing.is_ok() {
                break;
            }
        }
        let requests = &self.requests[..count];
        if count > 1 {
            // A failed prefetch costs only time: the look-ups load that memory themselves.
            let _ = catch_unwind(AssertUnwindSafe(|| prefetch(zone, &mut self.snapshot_cache, requests)));
        }
        requests
    }

    /// Parses a single message.
    pub fn parse_one(&mut self, zone: &Zone, message: &[u8]) -> &Request {
        &self.parse(zone, std::iter::once(message))[0]
    }

    /// Releases the zone snapshot used for prefetching. Called when the worker goes idle, or old Services stay in memory.
    pub fn release_snapshot(&mut self) {
        self.snapshot_cache.release();
    }
}

fn prefetch(zone: &Zone, view: &mut SnapshotCache, requests: &[Request]) {
    zone.prefetch(
        view,
        requests.iter().filter_map(|request| match &request.parsed {
            Parsed::Query(_, key) => Some((&request.name, *key)),
            _ => None,
        }),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::WireName;
    use crate::name::reverse::ReverseZones;
    use crate::naming_rules::NamingRules;
    use crate::wire::rcode;
    use crate::zone::Settings;

    fn zone() -> Zone {
        let apexes = vec![WireName::parse("cluster.local").unwrap()];
        let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules: NamingRules::default() };
        Zone::new(settings, ReverseZones::default())
    }

    /// Lets the iterator panic in place of the parser: one `catch_unwind` guards both.
    #[test]
    fn panic_while_parsing_affects_one_message() {
        let (zone, mut batch) = (zone(), RequestBatch::new(Transport::Udp));
        let good = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x07cluster\x05local\0\0\x06\0\x01";
        let answered = |batch: &mut RequestBatch, fails: Option<usize>| {
            let messages = (0..3).map(|index| {
                assert!(fails != Some(index), "on purpose");
                &good[..]
            });
            let requests = batch.parse(&zone, messages).iter();
            requests.map(|request| matches!(request.disposition(), Disposition::Answer(_))).collect::<Vec<_>>()
        };
        assert_eq!(answered(&mut batch, None), [true; 3]);
        for fails in 0..3 {
            let expected = [0, 1, 2].map(|index| index != fails);
            assert_eq!(answered(&mut batch, Some(fails)), expected, "message {fails} fails");
        }
    }

    #[test]
    fn requests_match_their_messages() {
        let (zone, mut batch) = (zone(), RequestBatch::new(Transport::Udp));
        let good = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x07cluster\x05local\0\0\x06\0\x01";
        let messages: [&[u8]; 4] = [good, &good[..11], &good[..20], good];
        let requests = batch.parse(&zone, messages.into_iter());
        assert!(matches!(requests[1].disposition(), Disposition::Drop(DropReason::Short)));
        assert!(matches!(
            requests[2].disposition(),
            Disposition::Refuse(ErrorResponse { rcode: rcode::FORMERR, question_end: wire::HEADER, edns: None })
        ));
        for index in [0, 3] {
            let Disposition::Answer(question) = requests[index].disposition() else { panic!("it is a query") };
            assert_eq!((question.query.id, question.name.to_string().as_str()), (7, "cluster.local."));
        }
        assert_eq!(batch.parse(&zone, messages[..1].iter().copied()).len(), 1, "the batch before has ended");
    }
}
