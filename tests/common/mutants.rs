//! Malformed packets: valid queries with a few octets changed.

use super::{query, wire};

/// A small generator of numbers: the same seed gives the same packets.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`; 0 where that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Good queries of every kind, to be broken.
pub fn seeds() -> Vec<Vec<u8>> {
    let names = [
        "web.default.svc.cluster.local",
        "web-7.web.default.svc.cluster.local",
        "_http._tcp.web.default.svc.cluster.local",
        "alias.default.svc.cluster.local",
        "missing.default.svc.cluster.local",
        "web-777.web.default.svc.cluster.local",
        "_why.web-777.web.default.svc.cluster.local",
        "web.default.svc._why.cluster.local",
        "cluster.local",
        "7.0.1.10.in-addr.arpa",
        "example.test",
        ".",
    ];
    let mut seeds = Vec::new();
    for name in names {
        for qtype in [1, 28, 33, 12, 6, 16, 255, 251, 252, 41] {
            for edns in [None, Some(1232), Some(0), Some(65_535)] {
                seeds.push(query(0x1234, &wire(name), qtype, edns));
            }
        }
    }
    // Which server is it (RFC 5001), and with a client's cookie, a signature, a transfer's SOA.
    let mut which = query(4, &wire("web.default.svc.cluster.local"), 1, Some(512));
    let end = which.len();
    which[end - 1] = 4;
    which.extend_from_slice(&[0, 3, 0, 0]);
    seeds.push(which);
    let mut cookie = query(1, &wire("web.default.svc.cluster.local"), 1, Some(1232));
    let end = cookie.len();
    cookie[end - 1] = 12;
    cookie.extend_from_slice(&[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    seeds.push(cookie);
    let mut padded = query(5, &wire("web.default.svc.cluster.local"), 1, Some(1232));
    let end = padded.len();
    padded[end - 1] = 12;
    padded.extend_from_slice(&[0, 12, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    seeds.push(padded);
    let mut signed = query(2, &wire("web.default.svc.cluster.local"), 1, None);
    signed[11] = 1;
    signed.extend_from_slice(b"\x01k\x00\x00\xfa\x00\xff\x00\x00\x00\x00\x00\x1a\x04hmac\x00");
    signed.extend_from_slice(&[0; 6]);
    signed.extend_from_slice(&[1, 44, 0, 4, 1, 2, 3, 4, 0, 2, 0, 0, 0, 0]);
    seeds.push(signed);
    let mut transfer = query(3, &wire("cluster.local"), 251, None);
    transfer[9] = 1;
    transfer.extend_from_slice(b"\xc0\x0c\x00\x06\x00\x01\x00\x00\x00\x00\x00\x16\x00\x00");
    transfer.extend_from_slice(&[0; 20]);
    seeds.push(transfer);
    seeds
}

/// One of them with up to four things wrong.
pub fn mutate(seeds: &[Vec<u8>], numbers: &mut Rng) -> Vec<u8> {
    let mut packet = seeds[numbers.below(seeds.len())].clone();
    for _ in 0..=numbers.below(4) {
        let length = packet.len();
        match numbers.below(8) {
            0 => packet.truncate(numbers.below(length + 1)),
            1 => packet.extend((0..numbers.below(40)).map(|_| 0xc0)),
            2 if length > 0 => packet[numbers.below(length)] = numbers.next() as u8,
            3 if length > 0 => packet[numbers.below(length)] ^= 1 << numbers.below(8),
            4 if length > 12 => packet[4 + numbers.below(8)] = numbers.below(4) as u8,
            5 if length > 0 => {
                let from = numbers.below(length);
                let piece: Vec<u8> = packet[from..length.min(from + 16)].to_vec();
                packet.extend_from_slice(&piece);
            }
            6 if length > 14 => {
                let at = 12 + numbers.below(length - 13);
                packet[at..at + 2].copy_from_slice(&[0xc0 | numbers.below(64) as u8, numbers.next() as u8]);
            }
            7 if length > 0 => {
                let at = numbers.below(length);
                packet.insert(at, numbers.next() as u8);
            }
            _ => {}
        }
    }
    packet
}
