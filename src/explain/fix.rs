//! Fixes: commands, objects and advice that the API server accepts.
//!
//! A field that cannot be changed in place is not advised: `serviceName` and a StatefulSet's selector are immutable, and
//! `clusterIP` cannot become `None` or stop being it. Which finding has which fix is its entry (`finding.rs`).

use std::fmt::Write as _;

use crate::escape;
use crate::objects::{Labels, ObjectRef, Protocol};

/// A fix of a cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fix {
    /// Lines for a shell.
    Command(String),
    /// An object to apply.
    Object(String),
    /// Something to do or to know, in a sentence.
    Advice(String),
}

/// Pods that are not ready.
pub(super) enum Inspect<'p> {
    /// One Pod.
    Pod(&'p str),
    /// The Pods of a selector.
    Selected(&'p Labels),
    /// Whatever the slices of the Service name.
    Slices,
}

/// The commands that show why Pods are not ready. Publishing them is the last resort: it hides a crash loop.
pub(super) fn inspect(service: &ObjectRef, pods: &Inspect<'_>) -> String {
    let (namespace, name) = (&service.namespace, &service.name);
    let look = match pods {
        Inspect::Pod(pod) => {
            format!("{}\nkubectl -n {namespace} logs {pod} --all-containers --previous", describe_pod(namespace, pod))
        }
        Inspect::Selected(selector) => {
            let selector = pairs(selector);
            format!(
                "kubectl -n {namespace} describe pods -l {selector}\nkubectl -n {namespace} logs -l {selector} \
                 --all-containers --previous"
            )
        }
        // Conditions in slices that are written by hand do not follow the Service's field.
        Inspect::Slices => {
            return format!("kubectl -n {namespace} get endpointslices -l kubernetes.io/service-name={name} -o yaml");
        }
    };
    let publish = patch(service, &serde_json::json!({ "publishNotReadyAddresses": true }));
    format!("{look}\n# only if peers must find each other before they are ready: {publish}")
}

/// The command that scales a StatefulSet.
pub(super) fn scale(set: &ObjectRef, replicas: u32) -> String {
    format!("kubectl -n {} scale statefulset {} --replicas={replicas}", set.namespace, set.name)
}

/// The command that describes a Pod.
pub(super) fn describe_pod(namespace: &str, pod: &str) -> String {
    format!("kubectl -n {namespace} describe pod {pod}")
}

/// The sentence that leads an ExternalName elsewhere.
pub(super) fn edit_external_name(service: &ObjectRef, target: &str) -> String {
    format!("kubectl -n {} edit service {}: set externalName to {target}", service.namespace, service.name)
}

/// The sentence for ports without a name.
pub(super) fn ask_for_srv(service: &ObjectRef) -> String {
    format!("ask for SRV at {}.{}.svc, or give the port a name", service.name, service.namespace)
}

/// The command that changes these fields of a Service's spec.
pub(super) fn patch(service: &ObjectRef, spec: &serde_json::Value) -> String {
    let patch = serde_json::json!({ "spec": spec });
    format!("kubectl -n {} patch service {} -p '{patch}'", service.namespace, service.name)
}

/// A headless Service as YAML.
pub(super) fn headless(key: &ObjectRef, selector: &Labels, ports: &[(Box<str>, Protocol, u16)]) -> String {
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
    if plain { text.to_owned() } else { escape::json(&serde_json::Value::from(text).to_string()).into_owned() }
}

/// A selector as kubectl writes it: `app=web,tier=front`.
pub(super) fn pairs(selector: &Labels) -> String {
    let pairs: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}
