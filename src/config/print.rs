//! A configuration as the text of a configuration file, each line with the source of its value (`config print`).
//!
//! The text is a valid configuration file. A key without a value is a comment. Not here: parsing (`file.rs`).

use std::fmt::Write as _;

use toml::Value;

use super::values::write_octets;
use super::{Config, ManifestPath, Origins, QueryClass, Source};
use headless_dns_core::escape::{Printable, toml_string};
use headless_dns_core::name::WireName;

/// Returns the text: one line for each key, in the order of [`entries`].
pub fn text(config: &Config, origins: &Origins) -> String {
    let lines: Vec<_> = entries(config)
        .into_iter()
        .map(|(key, value)| match value {
            Some(value) => (key, format!("{key} = {}", written(&value))),
            None => (key, format!("# {key} is not set")),
        })
        .collect();
    let width = lines.iter().map(|(_, line)| line.len()).filter(|length| *length <= 60).max().unwrap_or(0);
    let mut text = String::new();
    for (key, line) in lines {
        let origin = origins.get(key).cloned().unwrap_or_default();
        // Writing to a String does not fail.
        let _ = writeln!(text, "{line:width$}  # {}", Printable(origin));
    }
    text
}

/// Returns a TOML value on one line.
fn written(value: &Value) -> String {
    match value {
        Value::String(text) => toml_string(text),
        Value::Array(items) => format!("[{}]", items.iter().map(written).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Returns all keys with their values, in the order of the help; `None` for an option that is not set.
pub fn entries(config: &Config) -> Vec<(&'static str, Option<Value>)> {
    let rules = config.rules;
    let manifests: &[ManifestPath] = match &config.source {
        Source::Manifests(paths) => paths,
        Source::Cluster { .. } | Source::Demo => &[],
    };
    let (kubeconfig, context, selector) = match &config.source {
        Source::Cluster { kubeconfig, context, selector } => {
            (kubeconfig.as_ref(), context.clone(), selector.as_deref())
        }
        Source::Demo | Source::Manifests(_) => (None, None, None),
    };
    [
        ("zone", Some(config.zone.without_final_dot().into())),
        ("zone-alias", Some(list(&config.zone_aliases, WireName::without_final_dot))),
        ("ttl", Some(number(config.ttl.as_secs()))),
        ("negative-ttl", Some(number(config.negative_ttl.as_secs()))),
        ("reverse", Some(list(&config.reverse, ToString::to_string))),
        ("pod-records", Some(rules.pod_records.name().into())),
        ("ordinals", Some(rules.ordinals.name().into())),
        ("ptr", Some(rules.ptr.name().into())),
        ("endpoint-pod-names", Some(rules.endpoint_pod_names.into())),
        ("ns-address", Some(list(&config.ns_addresses, ToString::to_string))),
        ("service", config.service.as_ref().map(|service| service.to_string().into())),
        ("nsid", config.nsid.as_deref().map(Into::into)),
        ("kubeconfig", kubeconfig.map(|path| path.display().to_string().into())),
        ("context", context.map(Into::into)),
        ("selector", selector.map(Into::into)),
        ("manifests", Some(list(manifests, ManifestPath::text))),
        ("demo", Some((config.source == Source::Demo).into())),
        ("simulate", Some(list_or(&config.simulate, false))),
        ("snapshot", config.snapshot.as_ref().map(|path| path.display().to_string().into())),
        ("snapshot-max-age", Some(number(config.snapshot_max_age.as_secs()))),
        ("namespace", config.namespace.as_deref().map(Into::into)),
        ("max-manifest-size", Some(write_octets(config.max_manifest_size).into())),
        ("allow-unreadable", Some(config.allow_unreadable.into())),
        ("endpoints-source", Some(config.endpoints_source.name().into())),
        ("listen", Some(list(&config.listen.addresses, ToString::to_string))),
        ("listen-tls", Some(list(&config.encrypted.tls, ToString::to_string))),
        ("listen-https", Some(list(&config.encrypted.https, ToString::to_string))),
        ("listen-quic", Some(list(&config.encrypted.quic, ToString::to_string))),
        ("tls-cert", config.encrypted.certificate.as_ref().map(|path| path.display().to_string().into())),
        ("tls-key", config.encrypted.key.as_ref().map(|path| path.display().to_string().into())),
        ("workers", Some(number(config.workers.get() as u64))),
        ("allow", Some(list(&config.clients.allow, ToString::to_string))),
        ("not-allowed", Some(config.clients.not_allowed.name().into())),
        ("explain-to", Some(list_or(&config.explain_to, "none"))),
        ("tcp-connections", Some(number(config.tcp.connections as u64))),
        ("tcp-connections-per-client", Some(number(config.tcp.connections_per_client as u64))),
        ("client-prefix-v6", Some(number(config.tcp.client_prefix_v6.into()))),
        ("tcp-idle", Some(number(config.tcp.idle.as_secs()))),
        ("admin", Some(config.admin.address.map_or("none".into(), |address| address.to_string().into()))),
        ("admin-api", config.admin.api.map(|address| address.to_string().into())),
        ("lame-duck", Some(number(config.lame_duck.as_secs()))),
        ("takeover", config.takeover.as_ref().map(|path| path.display().to_string().into())),
        ("forward", Some(list(&config.forward.to, ToString::to_string))),
        // `forward-for` without `forward` is an error.
        ("forward-for", (!config.forward.to.is_empty()).then(|| list(&config.forward.clients, ToString::to_string))),
        ("external-name-upstream", Some(list(&config.forward.aliases, ToString::to_string))),
        ("log", Some(config.log.filter.text().into())),
        ("log-format", Some(config.log.format.name().into())),
        ("query-log", Some(list_or(&config.query_log.classes, QueryClass::Off.name()))),
        ("query-log-sample", Some(number(config.query_log.sample.into()))),
        ("query-log-format", Some(config.query_log.format.name().into())),
    ]
    .into()
}

/// Returns a list, or `otherwise` for an empty one: an empty list would mean the default.
fn list_or<T: ToString>(items: &[T], otherwise: impl Into<Value>) -> Value {
    if items.is_empty() { otherwise.into() } else { list(items, ToString::to_string) }
}

fn list<T>(items: &[T], text: impl Fn(&T) -> String) -> Value {
    items.iter().map(text).collect::<Vec<_>>().into()
}

/// Returns a TOML integer, which holds every number of the configuration.
fn number(number: u64) -> Value {
    Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}
