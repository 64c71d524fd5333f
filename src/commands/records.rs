//! The command `records`: all records of one zone as a zone file, as JSON, or as a table for people. Not here: the formats
//! (`report/records.rs`).

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::{LoadedSource, admin, load_once};
use crate::config::{Config, Output, RecordsArgs};
use crate::report::records::{not_served, write};
use headless_dns_core::escape;

/// Prints all records of the zone that `export` names, and logs the objects that were skipped. The exit status is 1 if not all
/// could be read, or 0 with `--allow-unreadable`.
///
/// # Errors
///
/// If the source cannot be read, the server does not answer, or the zone is not served.
pub fn run(config: &Config, export: RecordsArgs) -> anyhow::Result<ExitCode> {
    if let Some(server) = export.server {
        let origin = export.origin.map(|origin| origin.to_string());
        let query = [("origin", origin.as_deref()), ("o", Some(export.output.name()))];
        let mut output =
            EscapingWriter { to: io::stdout().lock(), json: export.output == Output::Json, rest: Vec::new() };
        let copied = admin::copy(server, "/api/v1/records", &query, &mut output);
        return written(copied.and_then(|()| Ok(output.finish()?))).map(|()| ExitCode::SUCCESS);
    }
    let LoadedSource { zone, reading, .. } = load_once(config, config.rules.pod_records)?;
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

/// Writer that escapes the response of a server as it arrives.
struct EscapingWriter<W> {
    to: W,
    json: bool,
    /// First octets of a UTF-8 character that has not arrived whole.
    rest: Vec<u8>,
}

impl<W: Write> EscapingWriter<W> {
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

impl<W: Write> Write for EscapingWriter<W> {
    fn write(&mut self, new: &[u8]) -> io::Result<usize> {
        let octets = [&std::mem::take(&mut self.rest)[..], new].concat();
        let mut chunks = octets.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.put(chunk.valid())?;
            // Keep an incomplete character at the end: the next write completes it.
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

/// Returns whether these octets are an incomplete UTF-8 character.
fn is_begun(octets: &[u8]) -> bool {
    std::str::from_utf8(octets).is_err_and(|error| error.error_len().is_none())
}

/// Ignores a closed pipe: a reader such as `head` has read enough.
fn written(result: anyhow::Result<()>) -> anyhow::Result<()> {
    result.or_else(|error| {
        let broken = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
        if error.chain().any(|cause| cause.downcast_ref().is_some_and(broken)) { Ok(()) } else { Err(error) }
    })
}
