//! What helps: for each finding that somebody can act on, a command or an object that the API server accepts.
//!
//! What cannot be changed in place is not advised: `serviceName` and a StatefulSet's selector are immutable, and
//! `clusterIP` cannot become `None` or stop being it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::finding::{Differs, Finding, bare, dashed};
use crate::objects::{ObjectRef, Protocol};

/// What helps against a cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fix {
    /// A line for a shell.
    Command(String),
    /// An object to apply.
    Object(String),
    /// Something to do or to know, in a sentence.
    Advice(String),
}

impl Finding {
    /// What helps; `None` where there is nothing to do but wait, or nothing is certain.
    pub fn fix(&self) -> Option<Fix> {
        let advice = |text: String| Some(Fix::Advice(text));
        let command = |text: String| Some(Fix::Command(text));
        match self {
            Self::NoSvcLabel { meant, .. } | Self::PortOfPod { meant } => advice(format!("ask for {}", bare(meant))),
            Self::SuffixTwice { meant } => advice(format!("ask for {} with the final dot", bare(meant))),
            Self::Swapped { meant } => advice(format!("ask for {}.{}.svc", meant.name, meant.namespace)),
            Self::NoNamespace { elsewhere, .. } | Self::OtherNamespace { elsewhere, .. } => {
                let first = elsewhere.first()?;
                advice(format!("ask for {}.{}.svc", first.name, first.namespace))
            }
            Self::NoService { service, near } => advice(format!("ask for {}.{}.svc", near.first()?, service.namespace)),
            Self::PodAsService { pod, service } => {
                advice(format!("ask for {}.{service}.{}.svc", pod.name, pod.namespace))
            }
            Self::NoServiceName { set } => advice(format!(
                "serviceName cannot be changed: delete StatefulSet {set} and create it again with a serviceName"
            )),
            Self::GoverningMissing { set, service, selector, ports, .. } if !selector.is_empty() => {
                Some(Fix::Object(headless(&ObjectRef::new(&set.namespace, service), selector, ports)))
            }
            Self::OtherGoverning { set, pod, governing, .. } => {
                advice(format!("ask for {pod}.{governing}.{}.svc", set.namespace))
            }
            Self::GoverningExternal { set, service } => advice(format!(
                "delete Service {service} and create it again, headless (clusterIP: None), with the labels of the \
                 Pods of StatefulSet {set} as its selector"
            )),
            Self::OrdinalOutOfRange { set, ordinal, start, .. } => {
                let replicas = ordinal.checked_sub(*start)?.checked_add(1)?;
                command(format!("kubectl -n {} scale statefulset {} --replicas={replicas}", set.namespace, set.name))
            }
            Self::OrdinalNotThere { set, ordinal, waits_for, .. } => {
                let ordinal = waits_for.unwrap_or(*ordinal);
                command(format!("kubectl -n {} describe pod {}-{ordinal}", set.namespace, set.name))
            }
            Self::PodWithoutAddress { pod } | Self::PodFinished { pod } => {
                command(format!("kubectl -n {} describe pod {}", pod.namespace, pod.name))
            }
            Self::NotReady { service, .. } | Self::NoneReady { service, .. } => command(format!(
                "{} # names before the Pods are ready",
                patch(service, &serde_json::json!({ "publishNotReadyAddresses": true }))
            )),
            // A selector without any label would select nothing at all.
            Self::NoEndpoints { differs: Some(Differs { entirely: true, .. }), .. } => None,
            Self::NoEndpoints { service, differs: Some(differs), .. } => {
                let labels: BTreeMap<&str, _> = differs.labels.iter().map(|label| (&*label.key, &label.has)).collect();
                command(patch(service, &serde_json::json!({ "selector": labels })))
            }
            Self::NoEndpoints { service, selects: false, .. } => {
                advice(format!("write endpoints into the EndpointSlices of Service {service}, or give it a selector"))
            }
            Self::NoEndpoints { service, .. } => {
                command(format!("kubectl -n {} get pods --show-labels", service.namespace))
            }
            Self::NoSlice { service, unlabelled } => match unlabelled.first() {
                Some(slice) => command(format!(
                    "kubectl -n {} label endpointslice {slice} kubernetes.io/service-name={}",
                    service.namespace, service.name
                )),
                None => advice(format!(
                    "give Service {service} a selector, or write an EndpointSlice with the label \
                     kubernetes.io/service-name={}",
                    service.name
                )),
            },
            Self::NoHostname { service, address, .. } => {
                advice(format!("ask for {}.{}.{}.svc", dashed(*address), service.name, service.namespace))
            }
            Self::HasHostname { service, hostname, .. } => {
                advice(format!("ask for {hostname}.{}.{}.svc", service.name, service.namespace))
            }
            Self::NotAnEndpoint { address, elsewhere, .. } => {
                let first = elsewhere.first()?;
                advice(format!("ask for {}.{}.{}.svc", dashed(*address), first.name, first.namespace))
            }
            Self::NoPort { service, known, .. } => {
                advice(format!("ask for {}.{}.{}.svc", known.first()?, service.name, service.namespace))
            }
            Self::OtherProtocol { service, port, protocols } => {
                let label = protocols.first()?.label();
                advice(format!("ask for _{port}.{label}.{}.{}.svc", service.name, service.namespace))
            }
            Self::PortNumber { service, name: Some(name), protocol, .. } => {
                advice(format!("ask for _{name}.{}.{}.{}.svc", protocol.label(), service.name, service.namespace))
            }
            Self::PortUnnamed { service, .. } | Self::PortNumber { service, .. } => {
                advice(format!("ask for SRV at {}.{}.svc, or give the port a name", service.name, service.namespace))
            }
            Self::NoTargetPort { service, port, target } => advice(format!(
                "give a container of the Pods a port named {target}, or let port {port} of Service {service} lead to \
                 one that they have"
            )),
            Self::NoPorts { service } => advice(format!("give Service {service} a port")),
            Self::BadExternalName { service, value } => {
                let what = if value.parse::<IpAddr>().is_ok() {
                    "use a headless Service without a selector, and an EndpointSlice with that address"
                } else {
                    "set externalName to a domain name"
                };
                advice(format!("Service {service}: {what}"))
            }
            Self::ExternalNameLoop { service } | Self::ExternalNameDangling { service, .. } => advice(format!(
                "kubectl -n {} edit service {}: set externalName to a name that exists",
                service.namespace, service.name
            )),
            Self::ExternalNameLong { service, .. } => advice(format!(
                "kubectl -n {} edit service {}: set externalName to the last name of the chain",
                service.namespace, service.name
            )),
            Self::FqdnSlice { slice } => {
                advice(format!("write EndpointSlice {slice} with addresses (addressType IPv4 or IPv6)"))
            }
            Self::PodRecordsOff => advice("start the server with --pod-records verified, or insecure".into()),
            Self::PodNotAddress { .. } => {
                advice("ask for POD.SERVICE.NAMESPACE.svc, where SERVICE is the Pod's subdomain".into())
            }
            Self::PodUnknown { address, elsewhere, .. } => {
                advice(format!("ask for {}.{}.pod", dashed(*address), elsewhere.as_ref()?.namespace))
            }
            Self::NoClusterIp { .. } => {
                advice("give it one, or let --simulate do so; in a cluster the API server does".into())
            }
            Self::SetNotSelected { set, service, .. } => advice(format!(
                "let Service {service} select labels that the Pods of StatefulSet {set} have, as all that it governs"
            )),
            Self::SliceOfNobody { slice, .. } => advice(format!(
                "if it is a Service's: kubectl -n {} label endpointslice {} kubernetes.io/service-name=SERVICE",
                slice.namespace, slice.name
            )),
            Self::SliceWithoutService { slice, service } => advice(format!(
                "create Service {service} in namespace {}, or correct the label kubernetes.io/service-name of {}",
                slice.namespace, slice.name
            )),
            Self::OutsideReverse { .. } => {
                advice("start the server with --reverse CIDR for each network of Pods and Services".into())
            }
            Self::NotSynced { forbidden: true, .. } => {
                advice("grant `list` and `watch` on services and endpointslices to the server's account".into())
            }
            Self::GoverningMissing { .. }
            | Self::OutsideZones
            | Self::TooManyLabels
            | Self::GoverningNotHeadless { .. }
            | Self::Terminating { .. }
            | Self::PublishedNotReady { .. }
            | Self::BelowExternalName { .. }
            | Self::NoFamily { .. }
            | Self::ExternalNameOutside { .. }
            | Self::AddressUnknown { .. }
            | Self::NoSuchEndpoint { .. }
            | Self::Wildcard
            | Self::NotSynced { .. }
            | Self::Stale { .. } => None,
        }
    }
}

/// The command that changes these fields of a Service's spec.
fn patch(service: &ObjectRef, spec: &serde_json::Value) -> String {
    let patch = serde_json::json!({ "spec": spec });
    format!("kubectl -n {} patch service {} -p '{patch}'", service.namespace, service.name)
}

/// A headless Service as YAML.
fn headless(key: &ObjectRef, selector: &crate::objects::Labels, ports: &[(Box<str>, Protocol, u16)]) -> String {
    let mut yaml = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {}\n  namespace: {}\nspec:\n  clusterIP: None\n  selector:\n",
        scalar(&key.name),
        scalar(&key.namespace)
    );
    for (label, value) in selector.iter() {
        let _ = writeln!(yaml, "    {}: {}", scalar(label), scalar(value));
    }
    if !ports.is_empty() {
        yaml.push_str("  ports:\n");
    }
    for (name, protocol, number) in ports {
        let protocol = protocol.label()[1..].to_ascii_uppercase();
        let _ = writeln!(yaml, "  - name: {}\n    port: {number}\n    protocol: {protocol}", scalar(name));
    }
    yaml
}

/// A text in YAML. In quotes where it would be read as something else: `n` and `1` are names too.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 11] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"];
    let plain = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-._/".contains(&octet))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    // JSON strings are YAML.
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}
