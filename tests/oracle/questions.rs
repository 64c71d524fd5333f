//! Queried names: every existing name, those above it, and names near it that do not exist.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

/// A name as its labels, the first one first, in lower case.
pub(crate) type Name = Vec<Vec<u8>>;

/// A, AAAA, SRV, PTR, TXT, MX, SOA, NS, HTTPS, CAA.
pub(crate) const TYPES: [u16; 10] = [1, 28, 33, 12, 16, 15, 6, 2, 65, 257];

/// Above so many names, each name is tried with one of the names near it, in turn, and no longer with all of them.
const MANY: usize = 2_000;

/// Returns every name to query: `names` and the names above and near them, each once.
pub(crate) fn around(names: impl IntoIterator<Item = Name>, origins: &[Name]) -> Vec<Name> {
    let mut there = BTreeSet::new();
    for name in names {
        let above = (0..name.len()).map(|skip| name[skip..].to_vec());
        let inside = above.take_while(|above| apex(origins, above).is_some());
        there.extend(inside.chain([name.clone()]));
    }
    let many = there.len() > MANY;
    let near = there.iter().enumerate().flat_map(|(number, name)| {
        let mut near = near(name);
        if many {
            let turn = number % near.len();
            near = vec![near.swap_remove(turn)];
        }
        near
    });
    let all: BTreeSet<Name> = there.iter().cloned().chain(near).filter(fits).collect();
    all.into_iter().collect()
}

/// The zone that `name` is in.
pub(crate) fn apex<'o>(origins: &'o [Name], name: &[Vec<u8>]) -> Option<&'o Name> {
    origins.iter().find(|origin| name.ends_with(origin))
}

/// Names below and beside `name`: few of them exist.
fn near(name: &Name) -> Vec<Name> {
    let below = |labels: &[&[u8]]| labels.iter().map(|label| label.to_vec()).chain(name.iter().cloned()).collect();
    let mut near: Vec<Name> =
        vec![below(&[b"none"]), below(&[b"*"]), below(&[b"_none", b"_tcp"]), below(&[b"a", b"b"])];
    if let [first, above @ ..] = &name[..] {
        let beside = |label: Vec<u8>| [&[label], above].concat();
        near.extend([counted_up(first), [first, &b"x"[..]].concat(), [b"0", &first[..]].concat()].map(beside));
    }
    near
}

/// `web-9` leads to `web-10`, `10-2-1-7` to `10-2-1-8`, the nibble `e` to `f`; a label without a number gets one.
fn counted_up(label: &[u8]) -> Vec<u8> {
    if let [nibble @ b'a'..=b'f'] = label {
        return vec![if *nibble == b'f' { b'0' } else { nibble + 1 }];
    }
    let digits = label.iter().rev().take_while(|octet| octet.is_ascii_digit()).count();
    let (text, digits) = label.split_at(label.len() - digits);
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u64>().ok());
    [text, number.map_or(0, |number| number + 1).to_string().as_bytes()].concat()
}

/// RFC 1035 section 2.3.4.
fn fits(name: &Name) -> bool {
    name.iter().all(|label| label.len() <= 63) && wire(name).len() <= 255
}

pub(crate) fn wire(name: &[Vec<u8>]) -> Vec<u8> {
    let mut wire: Vec<u8> = name.iter().flat_map(|label| [&[label.len() as u8], &label[..]].concat()).collect();
    wire.push(0);
    wire
}

pub(crate) fn labels(wire: &[u8]) -> Name {
    let mut name = Name::new();
    let mut rest = wire;
    while let [length, tail @ ..] = rest
        && *length > 0
    {
        let (label, tail) = tail.split_at(usize::from(*length));
        name.push(label.to_ascii_lowercase());
        rest = tail;
    }
    name
}

pub(crate) fn text(name: &[Vec<u8>]) -> String {
    name.iter().map(|label| format!("{}.", label.escape_ascii())).collect()
}

/// The name with each letter in a case that looks random and is the same in every run, for `percent` of 100 names.
pub(crate) fn mixed_case(wire: &[u8], qtype: u16, percent: u64) -> Option<Vec<u8>> {
    let mut bits = BuildHasherDefault::<DefaultHasher>::default().hash_one((wire, qtype));
    if bits % 100 >= percent {
        return None;
    }
    let mut mixed = wire.to_vec();
    for octet in &mut mixed {
        bits = bits.rotate_left(1);
        // Length octets are at most 63, below 'A'.
        if bits & 1 == 1 {
            octet.make_ascii_uppercase();
        }
    }
    Some(mixed)
}
