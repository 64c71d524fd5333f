//! Refusal of environment variables that have the prefix of the options and belong to no option.
//!
//! A misspelt variable is an error, as a misspelt flag or key is: otherwise the option silently keeps its default. The
//! exception are the variables that the kubelet sets for each Service of a Pod's namespace (service links): in the namespace
//! of a Service `headless-dns` they have the same prefix. Not here: the values of variables, which clap reads.

use std::ffi::OsString;

use super::layers::{renamed_option, variables};
use crate::config::file::nearest;

/// Prefix of the environment variables of all options.
pub(super) const PREFIX: &str = "HEADLESS_DNS_";

/// Returns the error for the first variable in alphabetical order that has the prefix and is unknown.
pub(super) fn check(
    command: &clap::Command,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(), String> {
    let known: Vec<&str> = variables(command).collect();
    let unknown = environment
        .into_iter()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, value)| {
            name.starts_with(PREFIX)
                && !known.contains(&name.as_str())
                && !is_service_link(name, &value.to_string_lossy())
        })
        .map(|(name, _)| name)
        .min();
    match unknown {
        None => Ok(()),
        Some(name) => {
            let key = name.trim_start_matches(PREFIX).to_lowercase().replace('_', "-");
            if let Some(present) = renamed_option(&key) {
                let present = present.to_uppercase().replace('-', "_");
                return Err(format!("environment {name}: the variable was renamed: write {PREFIX}{present}"));
            }
            let nearest = nearest(&name.to_uppercase(), known).unwrap_or_default();
            Err(format!("environment {name}: there is no such option; the nearest is {nearest}"))
        }
    }
}

/// Returns whether the variable has the form of one that the kubelet sets for a Service in the Pods of its namespace.
///
/// `kubernetes/pkg/kubelet/envvars`: `X_SERVICE_HOST`, `X_SERVICE_PORT`, `X_SERVICE_PORT_NAME`, `X_PORT` with a URL, and
/// `X_PORT_53_UDP`, alone or with `_PROTO`, `_PORT` or `_ADDR` behind it. `HEADLESS_DNS_PORT=53` is none of them.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    match words[..] {
        [.., "SERVICE", "HOST" | "PORT"] => true,
        [.., "PORT", number, "TCP" | "UDP" | "SCTP"]
        | [.., "PORT", number, "TCP" | "UDP" | "SCTP", "PROTO" | "PORT" | "ADDR"]
            if number.parse::<u16>().is_ok() =>
        {
            true
        }
        [.., "PORT"] if value.contains("://") => true,
        _ => name.contains("_SERVICE_PORT_"),
    }
}
