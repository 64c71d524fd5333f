//! Starts the server's own log: to standard error, one line when the state changes, none per query.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::util::TryInitError;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};
use tracing_subscriber::{Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{Log, LogFilter, LogFormat};

/// What is logged can be changed with it.
pub struct Filter(reload::Handle<EnvFilter, Registry>);

impl Filter {
    /// From now on this is logged.
    pub fn change(&self, filter: &LogFilter) {
        // Fails only where the log has ended, which it does with the process.
        let _ = self.0.reload(directives(filter));
    }
}

/// Starts the log for the whole process.
///
/// # Errors
///
/// If it was started before.
pub fn start(log: &Log) -> Result<Filter, TryInitError> {
    let lines = fmt::layer().with_writer(io::stderr);
    let layer = if is_json(log.format, io::stderr().is_terminal()) {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).boxed()
    };
    let (filter, handle) = reload::Layer::new(directives(&log.filter));
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
    Ok(Filter(handle))
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
    fn other_libraries_speak_when_they_are_asked() {
        let shown = |text: &str| directives(&text.parse().unwrap()).to_string();
        for (own, line) in [("hickory_net", "hickory_net=off"), ("kube_client", "kube_client::client::tls=off")] {
            assert!(shown("info").contains(line), "{}", shown("info"));
            let asked = format!("info,{own}=debug");
            assert!(!shown(&asked).contains(line), "{}", shown(&asked));
        }
    }

    #[test]
    fn people_read_text_and_machines_json() {
        assert!(is_json(LogFormat::Auto, false) && !is_json(LogFormat::Auto, true));
        assert!(is_json(LogFormat::Json, true) && !is_json(LogFormat::Text, false));
    }
}
