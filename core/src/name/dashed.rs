//! Addresses as labels: `10-2-1-10`, `fd00-2--11`.
//!
//! The Kubernetes DNS specification 1.1.0, section 2.4.1, leaves the form to the server; clients know this one. Next:
//! `reverse.rs`, for the names below `in-addr.arpa` and `ip6.arpa`.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Writes the label of `address` into `buffer` and returns the octets written, at most 39.
///
/// IPv6 follows RFC 5952 with two exceptions: an address that ends in `::` gets a `0` behind it, so that the label does
/// not end in a hyphen, and an IPv4-mapped address has hexadecimal groups to the end, since a dot would split the
/// label.
pub fn write(address: IpAddr, buffer: &mut [u8; 63]) -> &[u8] {
    let mut rest = &mut buffer[..];
    let written = match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            write!(rest, "{a}-{b}-{c}-{d}")
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(_) => write!(rest, "::ffff:{:x}:{:x}", v6.segments()[6], v6.segments()[7]),
            None => write!(rest, "{v6}"),
        },
    };
    debug_assert!(written.is_ok(), "63 octets hold any address");
    let mut length = 63 - rest.len();
    if address.is_ipv6() {
        if buffer[length - 1] == b':' {
            buffer[length] = b'0';
            length += 1;
        }
        for octet in &mut buffer[..length] {
            if *octet == b':' {
                *octet = b'-';
            }
        }
    }
    &buffer[..length]
}

/// Returns the address that a label spells; `None` for any other label.
pub fn parse(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok()?;
    // Three separate hyphens are an IPv4 address: IPv6 has so few colons only with `::`.
    if text.matches('-').count() == 3 && !text.contains("--") {
        return text.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let text = text.replace('-', ":");
    // The label itself contains a dot, which would be read as the IPv4 tail of an IPv6 address.
    if text.contains('.') { None } else { text.parse::<Ipv6Addr>().ok().map(IpAddr::V6) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_written_addresses() {
        for (address, label) in [
            ("10.2.1.10", "10-2-1-10"),
            ("fd00:2::11", "fd00-2--11"),
            ("fd00::", "fd00--0"),
            ("::1", "--1"),
            ("::", "--0"),
            ("1:2:3:4:5:6:7:8", "1-2-3-4-5-6-7-8"),
            ("::ffff:1.2.3.4", "--ffff-102-304"),
        ] {
            let parsed: IpAddr = address.parse().unwrap();
            assert_eq!(write(parsed, &mut [0; 63]), label.as_bytes(), "{address}");
            assert_eq!(parse(label.as_bytes()), Some(parsed), "{label}");
        }
    }

    #[test]
    fn rejects_other_labels() {
        for label in ["web-0", "10-2-1", "10-2-1-256", "010-2-1-10", "10-2-1-10-", "", "a-b-c-d", "\u{ff}", "1.2.3.4"] {
            assert_eq!(parse(label.as_bytes()), None, "{label}");
        }
    }
}
