//! Starts the server's own log: to standard error, one line when the state changes, none per query.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::util::TryInitError;
use tracing_subscriber::{Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{Log, LogFilter, LogFormat};

/// Starts the log for the whole process.
///
/// # Errors
///
/// If it was started before.
pub fn start(log: &Log) -> Result<(), TryInitError> {
    let lines = fmt::layer().with_writer(io::stderr);
    let layer = if is_json(log.format, io::stderr().is_terminal()) {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).boxed()
    };
    tracing_subscriber::registry().with(layer.with_filter(filter(&log.filter))).try_init()
}

/// What hickory says of an upstream's messages is a line for each: only who asks for it by name gets it.
fn filter(asked: &LogFilter) -> EnvFilter {
    const EACH_MESSAGE: [&str; 3] = ["hickory_net=off", "hickory_proto=off", "hickory_resolver=off"];
    if asked.text().contains("hickory") {
        return asked.directives();
    }
    let quiet = EACH_MESSAGE.iter().filter_map(|directive| directive.parse().ok());
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
    fn other_libraries_speak_when_they_are_asked() {
        let shown = |text: &str| filter(&text.parse().unwrap()).to_string();
        assert!(shown("info").contains("hickory_net=off"), "{}", shown("info"));
        assert!(!shown("info,hickory_net=debug").contains("off"), "{}", shown("info,hickory_net=debug"));
    }

    #[test]
    fn people_read_text_and_machines_json() {
        assert!(is_json(LogFormat::Auto, false) && !is_json(LogFormat::Auto, true));
        assert!(is_json(LogFormat::Json, true) && !is_json(LogFormat::Text, false));
    }
}
