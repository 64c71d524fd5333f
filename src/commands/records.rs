//! `records`: every record of one zone, as a zone file, JSON, or a table for people.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::{Read, admin, read};
use crate::config::{Config, Export, Output};
use crate::escape;
use crate::show::records::{not_served, write};

/// Shows every record of the zone that `export` names. What is wrong with the objects goes to the log; the exit status
/// is 1 if not all could be read, or 0 with `--allow-unreadable`.
///
/// # Errors
///
/// If the cluster cannot be read, the server does not answer, or the zone is not served.
pub fn run(config: &Config, export: Export) -> anyhow::Result<ExitCode> {
    if let Some(server) = export.server {
        let origin = export.origin.map(|origin| origin.to_string());
        let query = [("origin", origin.as_deref()), ("o", Some(export.output.name()))];
        let mut output = Escaping { to: io::stdout().lock(), json: export.output == Output::Json, rest: Vec::new() };
        let copied = admin::copy(server, "/api/v1/records", &query, &mut output);
        return written(copied.and_then(|()| Ok(output.finish()?))).map(|()| ExitCode::SUCCESS);
    }
    let Read { zone, reading, .. } = read(config, config.rules.pod_records)?;
    for report in reading.reports {
        report.log();
    }
    let origin = export.origin.unwrap_or_else(|| config.zone.clone());
    let mut output = BufWriter::new(io::stdout().lock());
    let shown = write(&zone, &origin, export.output, &mut output).and_then(|shown| output.flush().map(|()| shown));
    match shown {
        Ok(false) => bail!(not_served(&zone, &origin)),
        shown => written(shown.map(|_| ()).context("cannot write to standard output"))?,
    }
    Ok(if reading.complete || config.allow_unreadable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Escapes the response of another server as it arrives.
struct Escaping<W> {
    to: W,
    json: bool,
    /// The beginning of a character of UTF-8.
    rest: Vec<u8>,
}

impl<W: Write> Escaping<W> {
    fn put(&mut self, text: &str) -> io::Result<()> {
        let escaped = if self.json { escape::json(text) } else { escape::lines(text) };
        self.to.write_all(escaped.as_bytes())
    }

    fn finish(mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.rest);
        self.put(&rest.escape_ascii().to_string())?;
        self.to.flush()
    }
}

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, new: &[u8]) -> io::Result<usize> {
        let octets = [&std::mem::take(&mut self.rest)[..], new].concat();
        let mut chunks = octets.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.put(chunk.valid())?;
            // At the end it may be a character whose rest is to come.
            if chunks.peek().is_none() && is_begun(chunk.invalid()) {
                self.rest = chunk.invalid().to_vec();
            } else {
                self.put(&chunk.invalid().escape_ascii().to_string())?;
            }
        }
        Ok(new.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Returns whether these octets may begin a character of UTF-8 that is longer.
fn is_begun(octets: &[u8]) -> bool {
    std::str::from_utf8(octets).is_err_and(|error| error.error_len().is_none())
}

/// A reader that has seen enough, as `head`, is no failure.
fn written(result: anyhow::Result<()>) -> anyhow::Result<()> {
    result.or_else(|error| {
        let broken = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
        if error.chain().any(|cause| cause.downcast_ref().is_some_and(broken)) { Ok(()) } else { Err(error) }
    })
}
