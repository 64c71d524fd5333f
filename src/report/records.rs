//! Records of a zone as text: a zone file, JSON, or a table for people.
//!
//! Records are written in chunks, so that the text of a large zone is never in memory as a whole. Not here: the iteration
//! over the zone (`core/src/zone/export.rs`).

use std::fmt::Write as _;
use std::io::{self, Write};

use crate::config::Output;
use headless_dns_core::name::WireName;
use headless_dns_core::zone::{Record, RecordData, SOA_TIMERS, Zone};

/// Writes every record of the zone `origin`. Returns false, without output, if the zone is not served.
///
/// # Errors
///
/// The errors of `to`.
pub fn write(zone: &Zone, origin: &WireName, output: Output, to: &mut impl Write) -> io::Result<bool> {
    let Some(parts) = zone.chunks(origin) else { return Ok(false) };
    match output {
        Output::Zone => {
            for part in parts {
                to.write_all(zone_file(&part).as_bytes())?;
            }
        }
        Output::Json => {
            to.write_all(b"[")?;
            let mut between = "\n";
            for record in parts.flatten() {
                write!(to, "{between}{}", json(&record))?;
                between = ",\n";
            }
            to.write_all(b"\n]\n")?;
        }
        Output::Table => {
            let widths = zone.chunks(origin).into_iter().flatten().flatten();
            let width = widths.map(|record| record.owner.to_string().len()).max().unwrap_or(0);
            for record in parts.flatten() {
                let (owner, ttl) = (record.owner.to_string(), record.ttl);
                writeln!(to, "{owner:width$}  {ttl:>5}  {:<5}  {}", rtype(&record.data), data(&record.data))?;
            }
        }
    }
    Ok(true)
}

/// Returns the error text for a zone that is not served.
pub fn not_served(zone: &Zone, origin: &WireName) -> String {
    let served: Vec<String> = zone.origins().iter().map(ToString::to_string).collect();
    format!("{origin} is no zone of these objects; --origin can be {}", served.join(", "))
}

/// Renders records as a zone file (RFC 1035 section 5): absolute names, one record per line.
pub fn zone_file(records: &[Record]) -> String {
    let mut text = String::new();
    for record in records {
        let _ = writeln!(text, "{}\t{}\tIN\t{}\t{}", record.owner, record.ttl, rtype(&record.data), data(&record.data));
    }
    text
}

/// Renders a record as a JSON object with `name`, `ttl`, `type` and `data`.
fn json(record: &Record) -> String {
    let name = record.owner.to_string();
    let object =
        serde_json::json!({"name": name, "ttl": record.ttl, "type": rtype(&record.data), "data": data(&record.data)});
    object.to_string()
}

fn rtype(data: &RecordData) -> &'static str {
    match data {
        RecordData::Soa { .. } => "SOA",
        RecordData::Ns(_) => "NS",
        RecordData::A(_) => "A",
        RecordData::Aaaa(_) => "AAAA",
        RecordData::Txt(_) => "TXT",
        RecordData::Cname(_) => "CNAME",
        RecordData::Srv { .. } => "SRV",
        RecordData::Ptr(_) => "PTR",
    }
}

/// Returns RDATA in presentation format.
fn data(data: &RecordData) -> String {
    match data {
        RecordData::Soa { name_server, mailbox, serial, minimum } => {
            let [refresh, retry, expire] = SOA_TIMERS;
            format!("{name_server} {mailbox} {serial} {refresh} {retry} {expire} {minimum}")
        }
        RecordData::Ns(name) | RecordData::Cname(name) | RecordData::Ptr(name) => name.to_string(),
        RecordData::A(address) => address.to_string(),
        RecordData::Aaaa(address) => address.to_string(),
        RecordData::Txt(text) => format!("\"{}\"", text.escape_ascii()),
        RecordData::Srv { priority, weight, port, target } => format!("{priority} {weight} {port} {target}"),
    }
}
