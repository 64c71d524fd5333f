//! Packed labels: many labels in little memory.
//!
//! The endpoints of one Service are called `web-0`, `web-1`, `web-2`: a [`LabelPool`] stores the prefix `web-` once, and a
//! [`PackedLabel`] of eight octets per endpoint has the index of the prefix and the number behind it. Any label can be
//! packed; a label without digits at its end has no number. Next: `records/mod.rs`, with columns of these labels.

use std::cmp::Ordering;
use std::collections::HashMap;

/// One label: the index of its prefix in a [`LabelPool`], and the decimal number behind the prefix, if there is one.
///
/// Bits 0 to 31: the index of the prefix. Bits 32 to 63: the decimal number plus 1, or 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PackedLabel(u64);

impl PackedLabel {
    /// No label: the endpoint is named by its address alone.
    pub const NONE: Self = Self(u64::MAX);
    /// No label: the name of the Service itself.
    pub const SERVICE: Self = Self(u64::MAX - 1);

    /// Returns whether this is [`Self::NONE`].
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// Returns the key by which labels of one [`LabelPool`] are sorted: by prefix, then by number.
    pub fn order(self) -> u64 {
        self.0.rotate_left(32)
    }

    fn new(prefix: u32, number: Option<u32>) -> Self {
        Self(u64::from(prefix) | number.map_or(0, |number| u64::from(number) + 1) << 32)
    }

    fn prefix(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    fn number(self) -> Option<u32> {
        (self.0 >> 32).checked_sub(1).map(|number| number as u32)
    }
}

/// Splits a label into the prefix and the number that [`PackedLabel`] stores.
///
/// The prefix followed by the number in decimal is the label again. Leading zeros belong to the prefix.
pub fn split(label: &str) -> (&str, Option<u32>) {
    let digits = label.bytes().rev().take_while(u8::is_ascii_digit).count();
    let mut start = label.len() - digits;
    while label.len() - start > 1 && label.as_bytes()[start] == b'0' {
        start += 1;
    }
    match label[start..].parse() {
        // The two largest numbers stay in the prefix: PackedLabel stores the number plus one, and all ones are NONE or
        // SERVICE.
        Ok(number) if number < u32::MAX - 1 => (&label[..start], Some(number)),
        _ => (label, None),
    }
}

/// Returns whether a label has the form of a StatefulSet Pod's name: a name, a hyphen and a number.
pub fn is_ordinal(label: &[u8]) -> bool {
    if !label.last().is_some_and(u8::is_ascii_digit) {
        return false;
    }
    let Ok(label) = std::str::from_utf8(label) else { return false };
    matches!(split(label), (prefix, Some(_)) if prefix.len() > 1 && prefix.ends_with('-'))
}

/// Pool of the prefixes of a set of [`PackedLabel`]s, in one block of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelPool {
    block: Box<str>,
    ends: Box<[u32]>,
}

impl LabelPool {
    /// Returns the label of `packed`, which must be neither [`PackedLabel::NONE`] nor [`PackedLabel::SERVICE`].
    pub fn label(&self, packed: PackedLabel) -> Label<'_> {
        let index = packed.prefix();
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        Label { prefix: &self.block[start..self.ends[index] as usize], number: packed.number() }
    }

    /// Returns the size of the pool on the heap, in octets.
    pub fn heap_size(&self) -> usize {
        self.block.len() + self.ends.len() * 4
    }
}

/// Mapping of packed labels from one [`LabelPool`] to another.
#[derive(Debug)]
pub struct PoolRemap {
    /// Index in the other pool, by the index here; `None` if both pools are equal.
    numbers: Option<Vec<Option<u32>>>,
}

impl PoolRemap {
    /// Returns `label` packed for the other pool; `None` if that pool lacks its prefix.
    pub fn get(&self, label: PackedLabel) -> Option<PackedLabel> {
        match &self.numbers {
            Some(numbers) if label != PackedLabel::NONE && label != PackedLabel::SERVICE => {
                numbers[label.prefix()].map(|prefix| PackedLabel::new(prefix, label.number()))
            }
            _ => Some(label),
        }
    }
}

impl LabelPool {
    /// Returns the mapping of this pool's labels to `other`; `None` if the mapping does not preserve
    /// [`PackedLabel::order`].
    pub fn remap(&self, other: &Self) -> Option<PoolRemap> {
        if self == other {
            return Some(PoolRemap { numbers: None });
        }
        let prefix = |pool: &Self, number: u32| pool.label(PackedLabel::new(number, None)).prefix.to_owned();
        let there: HashMap<String, u32> =
            (0..other.ends.len() as u32).map(|number| (prefix(other, number), number)).collect();
        let numbers: Vec<Option<u32>> =
            (0..self.ends.len() as u32).map(|number| there.get(&prefix(self, number)).copied()).collect();
        numbers.iter().flatten().is_sorted().then_some(PoolRemap { numbers: Some(numbers) })
    }
}

/// One label, unpacked: the prefix `web-` and the number 0 are `web-0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label<'t> {
    /// Prefix in front of the number.
    pub prefix: &'t str,
    /// Number at the end, in decimal without leading zeros.
    pub number: Option<u32>,
}

impl<'t> Label<'t> {
    /// Splits the text of a label.
    pub fn new(text: &'t str) -> Self {
        let (prefix, number) = split(text);
        Self { prefix, number }
    }

    /// Writes the label into `buffer` and returns the octets written, at most 63.
    ///
    /// A hostname is a label. A Pod's name can be longer, and is cut then: it is no name of an endpoint.
    pub fn write<'b>(&self, buffer: &'b mut [u8; 63]) -> &'b [u8] {
        let mut length = self.prefix.len().min(63);
        buffer[..length].copy_from_slice(&self.prefix.as_bytes()[..length]);
        if let Some(mut number) = self.number {
            let mut digits = [0; 10];
            let mut at = digits.len();
            loop {
                at -= 1;
                digits[at] = b'0' + (number % 10) as u8;
                number /= 10;
                if number == 0 {
                    break;
                }
            }
            let count = (digits.len() - at).min(63 - length);
            buffer[length..length + count].copy_from_slice(&digits[at..at + count]);
            length += count;
        }
        &buffer[..length]
    }

    /// Compares two labels as text, octet by octet.
    pub fn cmp_text(&self, other: &Self) -> Ordering {
        let (mut mine, mut theirs) = ([0; 63], [0; 63]);
        self.write(&mut mine).cmp(other.write(&mut theirs))
    }
}

impl std::fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.prefix)?;
        self.number.map_or(Ok(()), |number| write!(f, "{number}"))
    }
}

/// Collects labels into a [`LabelPool`].
#[derive(Default)]
pub struct LabelPoolBuilder {
    block: String,
    ends: Vec<u32>,
    last: Option<u32>,
    known: HashMap<Box<str>, u32, foldhash::fast::RandomState>,
}

impl LabelPoolBuilder {
    /// Packs a label.
    pub fn pack(&mut self, label: &str) -> PackedLabel {
        let (prefix, number) = split(label);
        PackedLabel::new(self.intern(prefix), number)
    }

    /// Packs the labels of a column, with one search per prefix instead of one per label.
    pub fn repack<'c>(&mut self, column: &'c LabelColumn) -> Remapped<'c> {
        let pool = &column.pool;
        let prefix = |number| pool.label(PackedLabel::new(number, None)).prefix;
        let numbers = (0..pool.ends.len() as u32).map(|number| self.intern(prefix(number))).collect();
        Remapped { labels: &column.labels, numbers }
    }

    /// Returns the finished pool, which the labels packed so far refer to.
    pub fn finish(self) -> LabelPool {
        LabelPool { block: self.block.into(), ends: self.ends.into() }
    }

    fn intern(&mut self, prefix: &str) -> u32 {
        // Neighbouring labels usually share their prefix: skip the hash table.
        if let Some(last) = self.last {
            let start = if last == 0 { 0 } else { self.ends[last as usize - 1] as usize };
            if &self.block[start..self.ends[last as usize] as usize] == prefix {
                return last;
            }
        }
        let index = match self.known.get(prefix) {
            Some(index) => *index,
            None => {
                let index = self.ends.len() as u32;
                self.block.push_str(prefix);
                self.ends.push(self.block.len() as u32);
                self.known.insert(prefix.into(), index);
                index
            }
        };
        self.last = Some(index);
        index
    }
}

/// Column of optional labels, one per endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelColumn {
    pool: LabelPool,
    labels: Packed,
}

/// Packed labels of one [`LabelPool`].
#[derive(Clone, Debug, PartialEq, Eq)]
enum Packed {
    /// Every label is missing.
    None,
    /// Every label has the first prefix and a number: the Pods of one StatefulSet.
    Numbers(Box<[u32]>),
    /// Any other labels.
    Each(Box<[PackedLabel]>),
}

impl Default for LabelColumn {
    fn default() -> Self {
        Self { pool: LabelPool::default(), labels: Packed::None }
    }
}

impl LabelColumn {
    /// Packs labels into a column, in their order.
    pub fn new<'l>(labels: impl IntoIterator<Item = Option<&'l str>>) -> Self {
        let mut pool = LabelPoolBuilder::default();
        let packed: Vec<_> =
            labels.into_iter().map(|label| label.map_or(PackedLabel::NONE, |label| pool.pack(label))).collect();
        if packed.iter().all(|label| label.is_none()) {
            return Self::default();
        }
        let number = |label: &PackedLabel| label.number().filter(|_| label.prefix() == 0 && !label.is_none());
        let labels = match packed.iter().map(number).collect() {
            Some(numbers) => Packed::Numbers(numbers),
            None => Packed::Each(packed.into()),
        };
        Self { pool: pool.finish(), labels }
    }

    /// Returns label number `index`; `None` if it is missing.
    pub fn get(&self, index: usize) -> Option<Label<'_>> {
        self.labels.get(index).map(|label| self.pool.label(label))
    }
}

impl Packed {
    fn get(&self, index: usize) -> Option<PackedLabel> {
        match self {
            Self::None => None,
            Self::Numbers(numbers) => numbers.get(index).map(|number| PackedLabel::new(0, Some(*number))),
            Self::Each(packed) => packed.get(index).copied().filter(|label| !label.is_none()),
        }
    }
}

/// Labels of a column, packed for another [`LabelPool`].
pub struct Remapped<'c> {
    labels: &'c Packed,
    numbers: Vec<u32>,
}

impl Remapped<'_> {
    /// Returns label number `index`; [`PackedLabel::NONE`] if it is missing.
    pub fn get(&self, index: usize) -> PackedLabel {
        let label = self.labels.get(index);
        label.map_or(PackedLabel::NONE, |label| PackedLabel::new(self.numbers[label.prefix()], label.number()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacks_packed_labels() {
        let labels =
            ["web-0", "web-1", "web", "web-007", "web-00", "0", "00", "x4294967295", "x4294967294", "web-10", "a1b2"];
        let column = LabelColumn::new(labels.iter().map(|label| Some(*label)));
        for (index, label) in labels.iter().enumerate() {
            let unpacked = column.get(index).unwrap();
            assert_eq!(unpacked.to_string(), *label);
            assert_eq!(unpacked.write(&mut [0; 63]), label.as_bytes());
            assert_eq!(unpacked, Label::new(label));
        }
        assert_eq!(LabelColumn::new([None, None]), LabelColumn::default());
        assert_eq!(LabelColumn::new([None, Some("b")]).get(0), None);
    }

    #[test]
    fn recognizes_ordinals() {
        for (label, expected) in
            [("web-0", true), ("a-b-12", true), ("web-00", false), ("-1", false), ("web", false), ("web0", false)]
        {
            assert_eq!(is_ordinal(label.as_bytes()), expected, "{label}");
        }
        assert!(!is_ordinal(b"") && !is_ordinal(b"\xff-1"));
    }

    #[test]
    fn stores_shared_prefix_once() {
        let names: Vec<String> = (0..1000).map(|number| format!("web-{number}")).collect();
        let column = LabelColumn::new(names.iter().map(|name| Some(name.as_str())));
        assert_eq!(column.pool.heap_size(), "web-".len() + 4);
        assert!(matches!(&column.labels, Packed::Numbers(numbers) if numbers[..] == Vec::from_iter(0..1000)));
        assert_eq!(column.get(1000), None);
        for (index, name) in names.iter().enumerate() {
            assert_eq!(column.get(index).unwrap().to_string(), *name);
        }
    }
}
