//! The query log: one line for each query, or for a selection of them. Off by default.
//!
//! The worker that answers copies the query and the response and continues; a thread of its own formats and writes
//! lines, in the format of CoreDNS's plugin `log` or as JSON. The queue between them is bounded: a line that finds it
//! full is dropped and counted, so that a slow reader of the log does not delay a response. Not here: the server's own
//! log (`log.rs`).

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use crate::metrics::{Counters, Event};
use headless_dns_core::answer::{Peer, Transport};
use headless_dns_core::escape;
use headless_dns_core::wire::client::{ParsedQuery, rcode_and_errors, rcode_name};
use headless_dns_core::wire::{self, rcode};

/// Maximum number of lines in the queue.
const QUEUE_LEN: usize = 4096;
/// Number of octets that are kept of a query: enough for its question and OPT record.
const MAX_LOGGED_QUERY_BYTES: usize = 512;
/// Time limit at shutdown for the lines in the queue.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Selection of the queries that have a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryLogFilter {
    /// Queries with records in the answer section.
    pub success: bool,
    /// Queries with NXDOMAIN or NODATA.
    pub denial: bool,
    /// Queries with another RCODE.
    pub error: bool,
    /// One of this many of the selected queries is logged; at least 1.
    pub sample: u32,
}

impl QueryLogFilter {
    /// Returns whether the class of a response, as CoreDNS defines it, is selected.
    fn has(self, response: &[u8]) -> bool {
        let answers = u16::from_be_bytes([response[6], response[7]]);
        let authorities = u16::from_be_bytes([response[8], response[9]]);
        match u16::from(response[3] & 0x0f) {
            rcode::NXDOMAIN => self.denial,
            rcode::NOERROR if answers > 0 => self.success,
            // NODATA has an SOA record. A response without answers and authorities is BADVERS, with its RCODE in the OPT
            // record.
            rcode::NOERROR if authorities > 0 => self.denial,
            _ => self.error,
        }
    }
}

/// Format of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryLogFormat {
    /// The common format of CoreDNS.
    Common,
    /// One JSON object.
    Json,
}

/// The query log, shared by all workers.
#[derive(Debug)]
pub struct QueryLog {
    filter: QueryLogFilter,
    queue: SyncSender<QueryLogLine>,
    /// Number of selected queries so far, for sampling.
    due: AtomicU32,
}

/// The thread that writes the lines.
pub struct LogWriter {
    ended: Receiver<()>,
}

impl QueryLog {
    /// Starts the thread that writes lines to `to`.
    ///
    /// # Errors
    ///
    /// The thread could not be started.
    pub fn start(
        filter: QueryLogFilter,
        format: QueryLogFormat,
        to: impl Write + Send + 'static,
    ) -> Result<(Arc<Self>, LogWriter)> {
        let (queue, lines) = sync_channel(QUEUE_LEN);
        let (end, ended) = sync_channel(0);
        let write = move || {
            // Dropped when the thread ends, which closes the channel of `LogWriter`.
            let _end = end;
            write_all(&lines, format, to);
        };
        thread::Builder::new().name("query-log".into()).spawn(write).context("cannot start the query log")?;
        Ok((Arc::new(Self { filter, queue, due: AtomicU32::new(0) }), LogWriter { ended }))
    }
}

impl LogWriter {
    /// Waits until the queued lines are written, for at most 1 s. All [`QueryLog`] values must have been dropped.
    pub fn finish(self) {
        if self.ended.recv_timeout(FLUSH_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the last lines of the query log were not written: nobody reads it");
        }
    }
}

/// The handle of one worker to the query log, if there is one.
#[derive(Clone, Default)]
pub(crate) struct QueryLogger(Option<Arc<QueryLog>>);

/// A copy of a query, from which its line is made when the response is known.
pub(crate) struct QueryLogEntry {
    log: Arc<QueryLog>,
    /// The first [`MAX_LOGGED_QUERY_BYTES`] octets of the query.
    query: Arc<[u8]>,
    length: usize,
    since: Instant,
}

impl QueryLogger {
    pub(crate) fn new(log: Arc<QueryLog>) -> Self {
        Self(Some(log))
    }

    /// Copies a query before its response is written over it. `None` without a log.
    #[inline]
    pub(crate) fn copy_query(&self, message: &[u8]) -> Option<QueryLogEntry> {
        self.0.as_ref().map(|log| QueryLogEntry::new(message, log))
    }
}

impl QueryLogEntry {
    fn new(message: &[u8], log: &Arc<QueryLog>) -> Self {
        let query = message[..message.len().min(MAX_LOGGED_QUERY_BYTES)].into();
        Self { log: Arc::clone(log), query, length: message.len(), since: Instant::now() }
    }

    /// Queues the line of the query and its response, if it is selected.
    pub(crate) fn responded(&self, counters: &Counters, peer: Peer, transport: Transport, response: &[u8]) {
        let Self { log, .. } = self;
        if !log.filter.has(response) {
            return;
        }
        let due = log.due.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        if !due.is_multiple_of(log.filter.sample) {
            return;
        }
        let line = QueryLogLine {
            at: SystemTime::now(),
            duration: self.since.elapsed(),
            from: peer.from,
            transport,
            query: Arc::clone(&self.query),
            query_length: self.length,
            response_length: response.len(),
            // A line needs all of a response except its answer section; of a large one, the header is enough.
            response: if response.len() <= wire::MAX_UDP { response.into() } else { response[..wire::HEADER].into() },
        };
        if log.queue.try_send(line).is_err() {
            counters.count(Event::QueryLogLost);
        }
    }
}

/// The data of one line.
struct QueryLogLine {
    at: SystemTime,
    duration: Duration,
    from: SocketAddr,
    transport: Transport,
    /// The first [`MAX_LOGGED_QUERY_BYTES`] octets of the query.
    query: Arc<[u8]>,
    query_length: usize,
    /// The response, or the header of a large one.
    response: Box<[u8]>,
    response_length: usize,
}

fn write_all(lines: &Receiver<QueryLogLine>, format: QueryLogFormat, to: impl Write) {
    let mut to = io::BufWriter::new(to);
    let mut text = String::new();
    while let Ok(line) = lines.recv() {
        let mut next = Some(line);
        while let Some(line) = next {
            text.clear();
            line.append(format, &mut text);
            if let Err(error) = to.write_all(text.as_bytes()) {
                return on_write_error(&error);
            }
            next = lines.try_recv().ok();
        }
        // Flushes when the queue is empty, so that a reader of the log sees all lines.
        if let Err(error) = to.flush() {
            return on_write_error(&error);
        }
    }
}

/// Reports a failed write. The writer ends, and all further lines are dropped and counted.
fn on_write_error(error: &io::Error) {
    tracing::warn!("the query log ends: cannot write to standard output: {error}");
}

impl QueryLogLine {
    fn append(&self, format: QueryLogFormat, text: &mut String) {
        let query = ParsedQuery::parse(&self.query);
        let (code, errors) = rcode_and_errors(&self.response);
        let ParsedQuery { name, qtype, qclass, dnssec_ok, size } = query;
        let id = u16::from_be_bytes([self.response[0], self.response[1]]);
        let protocol = self.transport.label();
        let (from, port) = (self.from.ip().to_canonical(), self.from.port());
        let seconds = self.duration.as_secs_f64();
        // Writing to a String does not fail.
        let _ = match format {
            QueryLogFormat::Common => writeln!(
                text,
                "[INFO] {} - {id} \"{qtype} {qclass} {name} {protocol} {} {dnssec_ok} {size}\" {} {} {} {seconds:.9}s",
                SocketAddr::new(from, port),
                self.query_length,
                rcode_name(code),
                self.flags().join(","),
                self.response_length,
            ),
            QueryLogFormat::Json => {
                let at = self.at.duration_since(UNIX_EPOCH).map_or(0.0, |at| at.as_secs_f64());
                let mut line = serde_json::json!({
                    "ts": (at * 1e6).round() / 1e6, "client": from, "port": port, "id": id, "type": qtype,
                    "class": qclass, "name": name, "protocol": protocol, "size": self.query_length,
                    "do": dnssec_ok, "bufsize": size, "rcode": rcode_name(code), "flags": self.flags(),
                    "rsize": self.response_length, "duration": seconds,
                });
                if let Some((info, reason)) = errors.first() {
                    line["ede"] = (*info).into();
                    if !reason.is_empty() {
                        line["reason"] = reason.as_str().into();
                    }
                }
                writeln!(text, "{}", escape::json(&line.to_string()))
            }
        };
    }

    /// Returns the names of the response's flags, in the order of the header.
    fn flags(&self) -> Vec<&'static str> {
        let flags = u16::from_be_bytes([self.response[2], self.response[3]]);
        let names = [
            (0x8000, "qr"),
            (0x0400, "aa"),
            (0x0200, "tc"),
            (0x0100, "rd"),
            (0x0080, "ra"),
            (0x0020, "ad"),
            (0x0010, "cd"),
        ];
        names.into_iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(query: &[u8], response: &[u8]) -> QueryLogLine {
        QueryLogLine {
            at: UNIX_EPOCH + Duration::from_millis(1_500),
            duration: Duration::from_nanos(12_345),
            from: "[::ffff:10.1.2.3]:4711".parse().unwrap(),
            transport: Transport::Udp,
            query: query.into(),
            query_length: query.len(),
            response: response.into(),
            response_length: response.len(),
        }
    }

    fn text(line: &QueryLogLine, format: QueryLogFormat) -> String {
        let mut text = String::new();
        line.append(format, &mut text);
        text
    }

    /// `we"b\n.Test AAAA`, RD, an OPT record with DO and 1232 octets.
    const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x05we\"b\n\x04Test\x00\x00\x1c\x00\x01\
        \x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00";
    /// NXDOMAIN, AA, with its question, an OPT record with EDE 0 and the text `WHY: "\n"`.
    const RESPONSE: &[u8] = b"\x12\x34\x85\x03\x00\x01\x00\x00\x00\x00\x00\x01\x05we\"b\n\x04Test\x00\x00\x1c\x00\x01\
        \x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x0e\x00\x0f\x00\x0a\x00\x00WHY: \"\n\"";

    #[test]
    fn formats_like_coredns() {
        assert_eq!(
            text(&line(QUERY, RESPONSE), QueryLogFormat::Common),
            "[INFO] 10.1.2.3:4711 - 4660 \"AAAA IN we\\\"b\\010.test. udp 39 true 1232\" NXDOMAIN qr,aa,rd 53 \
             0.000012345s\n"
        );
    }

    #[test]
    fn names_every_transport() {
        for (transport, word) in
            [(Transport::Tcp, "tcp"), (Transport::Tls, "tls"), (Transport::Https, "https"), (Transport::Quic, "quic")]
        {
            let line = QueryLogLine { transport, ..line(QUERY, RESPONSE) };
            assert!(text(&line, QueryLogFormat::Common).contains(&format!(".test. {word} 39 true")), "{word}");
            let json: serde_json::Value = serde_json::from_str(&text(&line, QueryLogFormat::Json)).unwrap();
            assert_eq!(json["protocol"], word);
        }
    }

    #[test]
    fn json_line_has_cause_and_is_one_line() {
        let text = text(&line(QUERY, RESPONSE), QueryLogFormat::Json);
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.is_ascii());
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["ede"], &line["reason"]), (&0.into(), &"WHY: \"\n\"".into()));
        assert_eq!((&line["ts"], &line["client"], &line["do"]), (&1.5.into(), &"10.1.2.3".into(), &true.into()));
        assert_eq!((&line["name"], &line["rcode"]), (&"we\\\"b\\010.test.".into(), &"NXDOMAIN".into()));
    }

    #[test]
    fn logs_malformed_queries() {
        let formerr = [0x12, 0x34, 0x81, 0x01, 0, 0, 0, 0, 0, 0, 0, 0];
        let cut = line(&QUERY[..20], &formerr);
        assert_eq!(
            text(&cut, QueryLogFormat::Common),
            "[INFO] 10.1.2.3:4711 - 4660 \"- - - udp 20 false 512\" FORMERR qr,rd 12 0.000012345s\n"
        );
    }

    #[test]
    fn selects_classes() {
        let response = |rcode, answers, authorities| [0, 0, 0x84, rcode, 0, 1, 0, answers, 0, authorities, 0, 0];
        let none = QueryLogFilter { success: false, denial: false, error: false, sample: 1 };
        let classes = [
            QueryLogFilter { success: true, ..none },
            QueryLogFilter { denial: true, ..none },
            QueryLogFilter { error: true, ..none },
        ];
        for (octets, class) in [
            (response(0, 1, 0), 0),
            (response(0, 0, 1), 1),
            (response(3, 0, 1), 1),
            (response(3, 1, 1), 1),
            (response(2, 0, 0), 2),
            (response(0, 0, 0), 2),
            (response(5, 0, 0), 2),
        ] {
            let chosen = classes.map(|filter| filter.has(&octets));
            assert_eq!(chosen, [0, 1, 2].map(|index| index == class), "{octets:?}");
        }
    }
}
