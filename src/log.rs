//! The server's own log: on standard error, one line when the state changes, none per query.
//!
//! No thread that answers queries writes to standard error, which may be a pipe that is not read: lines and panics wait
//! in a bounded queue, and a thread of the log writes them. A line that finds the queue full is lost, and counted. Not
//! here: the query log (`server/query_log.rs`).

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write};
use std::panic::{Location, PanicHookInfo};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tracing::field::display;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};
use tracing_subscriber::{Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{LogConfig, LogFilter, LogFormat};
use crate::panics;
use headless_dns_core::escape::{self, Printable};

/// Maximum number of waiting lines.
const QUEUE_LEN: usize = 1024;
/// Maximum octets of all waiting lines.
const QUEUE_BYTES: usize = 1 << 20;
/// Timeout for writing the last lines at the end of the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval in which a panic at one place is logged once.
const PANIC_LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of places in the code with a panic line within one [`PANIC_LINE_INTERVAL`].
const PANIC_PLACES: usize = 16;

/// Filter of a running log.
pub struct Filter(reload::Handle<EnvFilter, Registry>);

impl Filter {
    /// Replaces the filter.
    pub fn change(&self, filter: &LogFilter) {
        // Fails only if the log has ended, which happens with the process.
        let _ = self.0.reload(directives(filter));
    }
}

/// Starts the log of the whole process. Panics are logged from now on.
///
/// # Errors
///
/// The log was started before, or its thread cannot be started.
pub fn start(log: &LogConfig) -> anyhow::Result<Filter> {
    let (queue, lines) = sync_channel(QUEUE_LEN);
    let lines = LineQueue { queue, waiting_bytes: AtomicUsize::new(0) }.start(lines)?;
    let terminal = io::stderr().is_terminal();
    let layer = if is_json(log.format, terminal) {
        let layer = fmt::layer().with_writer(move || Json(lines.make_writer()));
        layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    } else {
        // The value of a field comes from outside, and must stay on one line.
        let fields = fmt::format::debug_fn(|to, field, value| match field.name() {
            "message" => write!(to, "{}", Printable(format_args!("{value:?}"))),
            name => write!(to, "{name}={}", Printable(format_args!("{value:?}"))),
        });
        fmt::layer().with_writer(lines).with_ansi(terminal).fmt_fields(fields.delimited(" ")).boxed()
    };
    let (filter, handle) = reload::Layer::new(directives(&log.filter));
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
    panics::report_with(report_panic);
    Ok(Filter(handle))
}

static QUEUE: OnceLock<LineQueue> = OnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);

/// Returns the number of lost log lines: standard error was not read fast enough, or could not be written.
pub fn lines_lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Writes one line of text to standard error, behind the waiting log lines.
pub fn write_line(line: &str) {
    let line = format!("{line}\n");
    match QUEUE.get() {
        Some(queue) => queue.push(line.as_bytes()),
        // No log was started. If this write fails too, nothing is left to report it.
        None => _ = io::stderr().write_all(line.as_bytes()),
    }
}

/// Guard that writes the last log lines when it is dropped, at the end of the process: for at most 1 s.
#[must_use]
pub struct FlushOnDrop;

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        flush();
    }
}

/// Waits until the lines so far are written, for at most 1 s.
pub fn flush() {
    let Some(LineQueue { queue, .. }) = QUEUE.get() else { return };
    let deadline = Instant::now() + FLUSH_TIMEOUT;
    let (written, is_written) = sync_channel(1);
    let mut entry = Entry::Flush(written);
    loop {
        match queue.try_send(entry) {
            Ok(()) => break,
            Err(TrySendError::Full(refused)) if Instant::now() < deadline => entry = refused,
            Err(_) => return,
        }
        thread::sleep(Duration::from_millis(5));
    }
    let _ = is_written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
}

/// Queue of lines for the thread that writes them.
struct LineQueue {
    queue: SyncSender<Entry>,
    waiting_bytes: AtomicUsize,
}

enum Entry {
    Line(Vec<u8>),
    /// Signal that all entries before it are written.
    Flush(SyncSender<()>),
}

impl LineQueue {
    fn start(self, lines: Receiver<Entry>) -> anyhow::Result<&'static Self> {
        anyhow::ensure!(QUEUE.set(self).is_ok(), "the log was already started");
        let queue = QUEUE.get().context("it was set just now")?;
        let write = move || write_all(&lines, &queue.waiting_bytes, io::stderr());
        thread::Builder::new().name("log".into()).spawn(write).context("cannot start the log thread")?;
        Ok(queue)
    }

    /// Queues a line, or counts it as lost. Never waits.
    fn push(&self, line: &[u8]) {
        let before = self.waiting_bytes.fetch_add(line.len(), Ordering::Relaxed);
        let fits = before + line.len() <= QUEUE_BYTES;
        if !fits || self.queue.try_send(Entry::Line(line.into())).is_err() {
            self.waiting_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes lines until the queue is dropped.
fn write_all(entries: &Receiver<Entry>, waiting_bytes: &AtomicUsize, mut to: impl Write) {
    let mut reported = lines_lost();
    while let Ok(entry) = entries.recv() {
        let line = match entry {
            Entry::Line(line) => line,
            Entry::Flush(written) => {
                // The flush may have timed out, and dropped its receiver.
                let _ = written.try_send(());
                continue;
            }
        };
        let written = to.write_all(&line);
        waiting_bytes.fetch_sub(line.len(), Ordering::Relaxed);
        if written.is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        // Reports only after a successful write: a broken standard error would make lines without end.
        let lost = lines_lost() - reported;
        if lost > 0 {
            reported += lost;
            tracing::warn!(lines = lost, "log lines were lost: standard error is not read fast enough");
        }
    }
}

impl<'q> MakeWriter<'q> for &'static LineQueue {
    type Writer = LineWriter;

    fn make_writer(&'q self) -> LineWriter {
        LineWriter(self)
    }
}

/// Writer that escapes the characters that JSON may hold and a terminal acts on. Each write is a line.
struct Json<W>(W);

impl<W: Write> Write for Json<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(line) {
            Ok(text) => self.0.write_all(escape::json(text).as_bytes())?,
            Err(_) => self.0.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Writer that queues lines of the formatter, each in one write.
struct LineWriter(&'static LineQueue);

impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs a panic, at most once in [`PANIC_LINE_INTERVAL`] for each place in the code.
fn report_panic(info: &PanicHookInfo<'_>) {
    static LIMITER: Mutex<PanicLimiter> = Mutex::new(PanicLimiter(VecDeque::new()));
    let place = info.location().map_or_else(|| "an unknown place".to_owned(), Location::to_string);
    // Never waits: if another thread holds the lock, the line of that thread is enough.
    let Ok(mut limiter) = LIMITER.try_lock() else { return };
    let Some(unlogged) = limiter.admit(&place, Instant::now()) else { return };
    drop(limiter);
    let (payload, owned) = (info.payload().downcast_ref::<&str>(), info.payload().downcast_ref::<String>());
    let message = payload.copied().or(owned.map(String::as_str)).unwrap_or("(no text)");
    let thread = thread::current();
    let thread = thread.name().unwrap_or("(unnamed)");
    // Without RUST_BACKTRACE disabled, and left out of the line.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| display(backtrace));
    tracing::error!(
        place,
        thread,
        unlogged,
        backtrace,
        "panic: {message}: this is a bug of the server, please report it"
    );
}

/// Places that panicked, each with the time of its last line and the number of panics since.
struct PanicLimiter(VecDeque<(String, Instant, u64)>);

impl PanicLimiter {
    /// Returns the number of earlier panics at this place that were not logged, if this one is.
    fn admit(&mut self, place: &str, now: Instant) -> Option<u64> {
        if let Some((_, since, unlogged)) = self.0.iter_mut().find(|(known, ..)| known == place) {
            if now.saturating_duration_since(*since) < PANIC_LINE_INTERVAL {
                *unlogged += 1;
                return None;
            }
            *since = now;
            return Some(std::mem::take(unlogged));
        }
        if self.0.len() == PANIC_PLACES {
            // The oldest place makes room after its interval, so that the number of lines per interval is bounded.
            let (_, since, _) = self.0.front()?;
            if now.saturating_duration_since(*since) < PANIC_LINE_INTERVAL {
                return None;
            }
            self.0.pop_front();
        }
        self.0.push_back((place.to_owned(), now, 0));
        Some(0)
    }
}

/// Silences libraries that write a line for each message or connection, unless the filter names them: hickory for each
/// message of an upstream, kube for each connection without verification, which `source/kubernetes/client.rs` logs once.
fn directives(asked: &LogFilter) -> EnvFilter {
    const REPEATED: [(&str, &str); 4] = [
        ("hickory", "hickory_net=off"),
        ("hickory", "hickory_proto=off"),
        ("hickory", "hickory_resolver=off"),
        ("kube", "kube_client::client::tls=off"),
    ];
    let quiet = REPEATED.iter().filter(|(library, _)| !asked.text().contains(library));
    let quiet = quiet.filter_map(|(_, directive)| directive.parse().ok());
    quiet.fold(asked.directives(), EnvFilter::add_directive)
}

fn is_json(format: LogFormat, terminal: bool) -> bool {
    match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_lines_of_libraries() {
        let shown = |text: &str| directives(&text.parse().unwrap()).to_string();
        for (own, line) in [("hickory_net", "hickory_net=off"), ("kube_client", "kube_client::client::tls=off")] {
            assert!(shown("info").contains(line), "{}", shown("info"));
            let asked = format!("info,{own}=debug");
            assert!(!shown(&asked).contains(line), "{}", shown(&asked));
        }
    }

    #[test]
    fn limits_lines_of_repeated_panics() {
        let (mut limiter, begin) = (PanicLimiter(VecDeque::new()), Instant::now());
        assert_eq!(limiter.admit("a.rs:1", begin), Some(0));
        for _ in 0..5 {
            assert_eq!(limiter.admit("a.rs:1", begin), None);
        }
        assert_eq!(limiter.admit("b.rs:2", begin), Some(0), "each place has its own lines");
        assert_eq!(limiter.admit("a.rs:1", begin + PANIC_LINE_INTERVAL), Some(5));
        let more = (0..100).filter(|place| limiter.admit(&format!("c.rs:{place}"), begin).is_some());
        assert_eq!(more.count(), PANIC_PLACES - 2, "places without end have no lines without end");
    }

    #[test]
    fn drops_and_counts_lines_above_limits() {
        // Lines, octets of each, and how many are written.
        for (count, length, fit) in [(3, QUEUE_BYTES / 2, 2), (QUEUE_LEN + 5, 10, QUEUE_LEN)] {
            let (queue, entries) = sync_channel(QUEUE_LEN);
            let lines = LineQueue { queue, waiting_bytes: AtomicUsize::new(0) };
            let lost = lines_lost();
            // Nothing reads the lines yet, and `push` does not wait.
            (0..count).for_each(|_| lines.push(&vec![b'x'; length]));
            assert_eq!(lines_lost() - lost, (count - fit) as u64);
            let LineQueue { queue, waiting_bytes } = lines;
            drop(queue);
            let mut output = Vec::new();
            write_all(&entries, &waiting_bytes, &mut output);
            assert_eq!((output.len(), waiting_bytes.into_inner()), (fit * length, 0));
        }
    }

    #[test]
    fn default_format_depends_on_terminal() {
        assert!(is_json(LogFormat::Auto, false) && !is_json(LogFormat::Auto, true));
        assert!(is_json(LogFormat::Json, true) && !is_json(LogFormat::Text, false));
    }
}
