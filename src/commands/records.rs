//! `records`: every record of one zone, as a zone file, JSON, or a table for people.

use std::io::{self, BufWriter, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::{Read, admin, read};
use crate::config::{Config, Export};
use crate::show::records::{not_served, write};

/// Shows every record of the zone that `export` names. What is wrong with the objects goes to the log; the exit status
/// is 1 if not all could be read.
///
/// # Errors
///
/// If the cluster cannot be read, the server does not answer, or the zone is not served.
pub fn run(config: &Config, export: Export) -> anyhow::Result<ExitCode> {
    if let Some(server) = export.server {
        let origin = export.origin.map(|origin| origin.to_string());
        let query = [("origin", origin.as_deref()), ("o", Some(export.output.name()))];
        return written(admin::copy(server, "/api/v1/records", &query, &mut io::stdout().lock()))
            .map(|()| ExitCode::SUCCESS);
    }
    let Read { zone, reading, .. } = read(config, config.rules.pod_records)?;
    for report in reading.reports {
        tracing::warn!("{report}");
    }
    let origin = export.origin.unwrap_or_else(|| config.zone.clone());
    let mut output = BufWriter::new(io::stdout().lock());
    let shown = write(&zone, &origin, export.output, &mut output).and_then(|shown| output.flush().map(|()| shown));
    match shown {
        Ok(false) => bail!(not_served(&zone, &origin)),
        shown => written(shown.map(|_| ()).context("cannot write to standard output"))?,
    }
    Ok(if reading.complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A reader that has seen enough, as `head`, is no failure.
fn written(result: anyhow::Result<()>) -> anyhow::Result<()> {
    result.or_else(|error| {
        let broken = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
        if error.chain().any(|cause| cause.downcast_ref().is_some_and(broken)) { Ok(()) } else { Err(error) }
    })
}
