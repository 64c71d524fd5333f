//! Cache of upstream responses, bounded by their TTLs and by memory.
//!
//! The bound is in octets and not only in entries: one response may have 65,000 octets, and a client that may use
//! forwarding can choose which. hickory-resolver's cache counts entries.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headless_dns_core::answer::UpstreamResponse;
use headless_dns_core::name::WireName;

/// Maximum number of responses.
const MAX_ENTRIES: usize = 4_096;
/// Maximum size of all responses, in octets.
const MAX_BYTES: usize = 16 << 20;

type CacheKey = (WireName, u16);

/// Responses by name and type.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: HashMap<CacheKey, CacheEntry>,
    /// Keys in the order of insertion, with the number of the insertion.
    order: VecDeque<(CacheKey, u64)>,
    inserted: u64,
    bytes: usize,
}

#[derive(Debug)]
struct CacheEntry {
    answer: Arc<UpstreamResponse>,
    since: Instant,
    number: u64,
}

impl Cache {
    /// Returns the response with its remaining TTLs.
    pub(super) fn get(&self, name: &WireName, qtype: u16, now: Instant) -> Option<Arc<UpstreamResponse>> {
        let CacheEntry { answer, since, .. } = self.entries.get(&(name.clone(), qtype))?;
        let age = now.saturating_duration_since(*since);
        match age.as_secs() {
            0 => Some(Arc::clone(answer)),
            _ if age >= Duration::from_secs(answer.ttl().into()) => None,
            seconds => Some(Arc::new(answer.aged(seconds as u32))),
        }
    }

    /// Inserts a response if its TTL is not 0, and evicts the oldest ones until the bounds are kept.
    pub(super) fn insert(&mut self, name: WireName, qtype: u16, answer: Arc<UpstreamResponse>, now: Instant) {
        if answer.ttl() == 0 {
            return;
        }
        self.inserted += 1;
        let (key, number) = ((name, qtype), self.inserted);
        self.bytes += size(&key, &answer);
        self.order.push_back((key.clone(), number));
        if let Some(before) = self.entries.insert(key.clone(), CacheEntry { answer, since: now, number }) {
            self.bytes -= size(&key, &before.answer);
        }
        while self.bytes > MAX_BYTES || self.order.len() > MAX_ENTRIES {
            let Some((key, number)) = self.order.pop_front() else { break };
            if self.entries.get(&key).is_some_and(|entry| entry.number == number)
                && let Some(CacheEntry { answer, .. }) = self.entries.remove(&key)
            {
                self.bytes -= size(&key, &answer);
            }
        }
    }
}

/// Returns the approximate size in memory, in octets: the name is stored twice.
fn size((name, _): &CacheKey, answer: &UpstreamResponse) -> usize {
    answer.size() + 2 * (name.octets().len() + size_of::<CacheKey>()) + size_of::<CacheEntry>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use headless_dns_core::answer::UpstreamRecord;

    fn name(number: usize) -> WireName {
        WireName::parse(&format!("n{number}.test")).unwrap()
    }

    fn answer(owner: &WireName, ttl: u32, length: usize) -> Arc<UpstreamResponse> {
        let record = UpstreamRecord { owner: owner.clone(), rtype: 16, ttl, data: vec![0; length].into() };
        Arc::new(UpstreamResponse::new((owner, 16, 0), vec![record], vec![]))
    }

    #[test]
    fn keeps_answers_for_their_ttl() {
        let (mut cache, begun) = (Cache::default(), Instant::now());
        cache.insert(name(1), 16, answer(&name(1), 30, 9), begun);
        cache.insert(name(2), 16, answer(&name(2), 0, 9), begun);
        let ttl = |seconds| cache.get(&name(1), 16, begun + Duration::from_millis(seconds)).map(|answer| answer.ttl());
        assert_eq!([0, 999, 1_000, 29_999, 30_000].map(ttl), [Some(30), Some(30), Some(29), Some(1), None]);
        assert_eq!(cache.get(&name(1), 1, begun), None, "another type");
        assert_eq!(cache.get(&name(2), 16, begun), None, "TTL 0");
    }

    #[test]
    fn is_bounded_in_entries_and_octets() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for number in 0..3 * MAX_ENTRIES {
            // Every second insertion replaces that of one name.
            let number = if number % 2 == 0 { 0 } else { number };
            cache.insert(name(number), 16, answer(&name(number), 30, 9), now);
        }
        assert!(cache.entries.len() <= MAX_ENTRIES && cache.order.len() <= MAX_ENTRIES);
        assert!(cache.get(&name(3 * MAX_ENTRIES - 1), 16, now).is_some(), "the newest");
        assert!(cache.get(&name(1), 16, now).is_none(), "the oldest");
        for number in 0..1_000 {
            cache.insert(name(number), 16, answer(&name(number), 30, 65_000), now);
        }
        assert!(cache.bytes <= MAX_BYTES && cache.entries.len() > 200, "{} {}", cache.bytes, cache.entries.len());
        let bytes = cache.entries.iter().map(|(key, entry)| size(key, &entry.answer)).sum::<usize>();
        assert_eq!(cache.bytes, bytes, "nothing is counted twice or forgotten");
    }
}
