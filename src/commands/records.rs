//! `records`: every record of one zone, as a zone file, JSON, or a table for people.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::bail;

use super::{Read, read, show};
use crate::config::{Config, Export, Output};
use crate::zone::{Record, RecordData, SOA_TIMERS};

/// Shows every record of the zone that `export` names. What is wrong with the objects goes to the log; the exit status
/// is 1 if not all could be read.
///
/// # Errors
///
/// If the cluster cannot be read, or the zone is not served.
pub fn run(config: &Config, export: Export) -> anyhow::Result<ExitCode> {
    let Read { zone, reading, .. } = read(config, config.rules.pod_records)?;
    for report in reading.reports {
        tracing::warn!("{report}");
    }
    let origin = export.origin.unwrap_or_else(|| config.zone.clone());
    let Some(records) = zone.records(&origin) else {
        let served: Vec<String> = zone.origins().iter().map(ToString::to_string).collect();
        bail!("{origin} is no zone of these objects; --origin can be {}", served.join(", "));
    };
    let text = match export.output {
        Output::Zone => zone_file(&records),
        Output::Json => json(&records),
        Output::Table => table(&records),
    };
    let shown = show(text.as_bytes())?;
    Ok(if reading.complete { shown } else { ExitCode::FAILURE })
}

/// The records as a zone file (RFC 1035 section 5): absolute names, one record a line.
pub fn zone_file(records: &[Record]) -> String {
    let mut text = String::new();
    for record in records {
        let _ = writeln!(text, "{}\t{}\tIN\t{}\t{}", record.owner, record.ttl, rtype(&record.data), data(&record.data));
    }
    text
}

/// The records as a JSON array of objects with `name`, `ttl`, `type` and `data`, one a line.
pub fn json(records: &[Record]) -> String {
    let object = |record: &Record| {
        serde_json::json!({
            "name": record.owner.to_string(),
            "ttl": record.ttl,
            "type": rtype(&record.data),
            "data": data(&record.data),
        })
        .to_string()
    };
    let lines: Vec<String> = records.iter().map(object).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}

/// The records in columns, without the class.
pub fn table(records: &[Record]) -> String {
    let width = records.iter().map(|record| record.owner.to_string().len()).max().unwrap_or(0);
    let mut text = String::new();
    for record in records {
        let (owner, ttl) = (record.owner.to_string(), record.ttl);
        let _ = writeln!(text, "{owner:width$}  {ttl:>5}  {:<5}  {}", rtype(&record.data), data(&record.data));
    }
    text
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

/// The data in presentation form.
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
