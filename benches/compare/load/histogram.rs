//! Times in nanoseconds, counted in buckets of at most 1.6 % width, as HDR histograms are.

/// In how many buckets each power of two is divided.
const PARTS: u64 = 64;
const BITS: u32 = PARTS.trailing_zeros();

/// How often which time came. 30 KiB, of which a run touches a few lines.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; bucket(u64::MAX) + 1], count: 0, sum: 0, max: 0 }
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, nanoseconds: u64) {
        self.buckets[bucket(nanoseconds)] += 1;
        self.count += 1;
        self.sum += nanoseconds;
        self.max = self.max.max(nanoseconds);
    }

    /// Takes in what another counted: rounds into one.
    pub(crate) fn add(&mut self, other: &Self) {
        for (ours, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *ours += theirs;
        }
        self.count += other.count;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// In nanoseconds; 0 if nothing was recorded.
    pub(crate) fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }

    /// The time that this share (0.0 to 1.0) of all did not exceed, in nanoseconds, up to 1.6 % too high; 0 if nothing
    /// was recorded.
    pub(crate) fn percentile(&self, share: f64) -> u64 {
        let wanted = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut below = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            below += count;
            if below >= wanted {
                return highest(index).min(self.max);
            }
        }
        self.max
    }
}

/// The first 64 buckets are one nanosecond wide, the next 64 too, then each 64 are twice as wide as those before.
fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(BITS + 1);
    (u64::from(shift) * PARTS + (value >> shift)) as usize
}

/// The highest value in a bucket.
fn highest(index: usize) -> u64 {
    let index = index as u64;
    let shift = (index / PARTS).saturating_sub(1);
    let next = u128::from(index - shift * PARTS + 1) << shift;
    u64::try_from(next - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(unused_imports, reason = "a benchmark runs no tests: `tests/it` runs these")]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_at_most_2_percent_wide() {
        for value in (0..100_000).chain((17..64).flat_map(|bits| [(1 << bits) - 1, 1 << bits, (1 << bits) + 12_345])) {
            let index = bucket(value);
            assert!(highest(index) >= value && (index == 0 || highest(index - 1) < value), "{value} in {index}");
            assert!((highest(index) - value) as f64 <= value as f64 * 0.02, "{value}: {}", highest(index));
        }
        assert_eq!(highest(bucket(u64::MAX)), u64::MAX);
    }

    #[test]
    fn percentiles_match_recorded_values() {
        let mut some = Histogram::default();
        assert_eq!((some.percentile(0.5), some.max(), some.mean()), (0, 0, 0.0));
        (1..=60).for_each(|value| some.record(value));
        let mut other = Histogram::default();
        other.record(1_000_000);
        some.add(&other);
        assert_eq!((some.count(), some.percentile(0.0), some.percentile(0.5)), (61, 1, 31));
        assert_eq!((some.percentile(0.999), some.max()), (1_000_000, 1_000_000));
    }
}
