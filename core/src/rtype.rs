//! Record types, by their IANA numbers (DNS parameters, "Resource Record (RR) TYPEs"), and their names.
#![allow(missing_docs)] // the constants are named as the types are

pub const A: u16 = 1;
pub const NS: u16 = 2;
pub const CNAME: u16 = 5;
pub const SOA: u16 = 6;
pub const PTR: u16 = 12;
pub const TXT: u16 = 16;
pub const AAAA: u16 = 28;
pub const SRV: u16 = 33;
pub const OPT: u16 = 41;
pub const IXFR: u16 = 251;
pub const AXFR: u16 = 252;
pub const ANY: u16 = 255;

/// Types that a user can name. ANY is a QTYPE only (RFC 8482).
const NAMES: &[(&str, u16)] = &[
    ("A", A),
    ("NS", NS),
    ("CNAME", CNAME),
    ("SOA", SOA),
    ("PTR", PTR),
    ("HINFO", 13),
    ("MX", 15),
    ("TXT", TXT),
    ("AAAA", AAAA),
    ("LOC", 29),
    ("SRV", SRV),
    ("NAPTR", 35),
    ("DS", 43),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("CAA", 257),
    ("ANY", ANY),
];

/// Formats a type: its mnemonic, or `TYPE65280` (RFC 3597 section 5).
pub fn name(rtype: u16) -> String {
    NAMES
        .iter()
        .find(|(_, number)| *number == rtype)
        .map_or_else(|| format!("TYPE{rtype}"), |(name, _)| (*name).to_owned())
}

/// Parses a type as [`name`] formats it, in any case.
///
/// OPT is not a QTYPE, and 249 to 254 request other operations than the look-up of a name.
///
/// # Errors
///
/// A sentence for the user.
pub fn parse(text: &str) -> Result<u16, String> {
    let upper = text.to_ascii_uppercase();
    let by_name = NAMES.iter().find(|(name, _)| *name == upper).map(|(_, number)| *number);
    let by_number = || upper.strip_prefix("TYPE")?.parse().ok();
    match by_name.or_else(by_number) {
        Some(0 | OPT | 249..=254) | None => {
            Err(format!("{text:?} is not a record type: use A, AAAA, SRV, PTR, TXT, ... or TYPE65"))
        }
        Some(number) => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_formatted_types() {
        for (text, number) in [("A", 1), ("aaaa", 28), ("Srv", 33), ("TYPE65280", 65280), ("type1", 1), ("any", 255)] {
            assert_eq!(parse(text), Ok(number), "{text}");
            assert_eq!(parse(&name(number)), Ok(number));
        }
        for text in ["", "AXFR", "OPT", "TYPE41", "TYPE0", "TYPE65536", "x"] {
            assert!(parse(text).unwrap_err().starts_with(&format!("{text:?} is not a record type")), "{text}");
        }
    }
}
