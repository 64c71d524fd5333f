//! Environment variables that begin as those of the options do, and belong to no option.
//!
//! A misspelt variable is an error, as a misspelt flag or key is: without it the option silently keeps its default. The
//! exception are the variables that Kubernetes sets for each Service of a Pod's namespace (service links): beside a
//! Service `headless-dns` they have the same prefix.

use std::ffi::OsString;

use super::layers::variables;
use crate::config::file::nearest;

/// The prefix of the variable of every option.
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
            let nearest = nearest(&name.to_uppercase(), known).unwrap_or_default();
            Err(format!("environment {name}: there is no such option; the nearest is {nearest}"))
        }
    }
}

/// Returns whether the kubelet sets such a variable for a Service, in the environment of the namespace's Pods.
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
