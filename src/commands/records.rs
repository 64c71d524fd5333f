//! `records`: every record of one zone, as a zone file, JSON, or a table for people.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::{Opened, cluster, open, show};
use crate::config::{Config, Export, Output};
use crate::source::Reading;
use crate::zone::{Record, RecordData, SOA_TIMERS, Zone};

/// Shows every record of the zone that `export` names. What is wrong with the objects goes to the log; the exit status
/// is 1 if not all could be read.
///
/// # Errors
///
/// If the cluster cannot be read, or the zone is not served.
pub fn run(config: &Config, export: Export) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start what reads a cluster")?;
    let (zone, reading) = runtime.block_on(read(config))?;
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

/// The zone of all that there is now, and what is wrong with it.
async fn read(config: &Config) -> anyhow::Result<(Arc<Zone>, Reading)> {
    match open(config, &config.listen.addresses).await? {
        Opened::Manifests(mut source) => {
            let reading = source.load();
            Ok((source.zone(), reading))
        }
        Opened::Cluster(access, mut publisher) => {
            let (objects, mut reading) = cluster(&access, config).read().await?;
            reading.reports.extend(publisher.replace(objects));
            Ok((publisher.zone(), reading))
        }
    }
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
