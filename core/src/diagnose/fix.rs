//! Fixes: commands, objects and advice that the API server accepts.
//!
//! No fix changes a field that the API server does not let change: `serviceName` and a StatefulSet's selector are
//! immutable, and `clusterIP` can change neither to `None` nor from it. Not here: the fix of each finding (`catalog.rs`).

use std::fmt::Write as _;

use crate::escape;
use crate::object::{Labels, ObjectRef, Protocol};

/// Fix of a cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fix {
    /// Lines for a shell.
    Command(String),
    /// YAML of an object to apply.
    Object(String),
    /// Advice in a sentence, where neither a command nor an object is the fix.
    Advice(String),
}

/// Selection of Pods that are not ready.
pub(super) enum Inspect<'p> {
    /// The Pod of this name.
    Pod(&'p str),
    /// The Pods of a selector.
    Selected(&'p Labels),
    /// The Pods that the slices of the Service list.
    Slices,
}

/// Returns commands that show why Pods are not ready. `publishNotReadyAddresses` comes last, since it hides a crash loop.
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
        // `publishNotReadyAddresses` has no effect on EndpointSlices without a controller.
        Inspect::Slices => {
            return format!("kubectl -n {namespace} get endpointslices -l kubernetes.io/service-name={name} -o yaml");
        }
    };
    let publish = patch(service, &serde_json::json!({ "publishNotReadyAddresses": true }));
    format!("{look}\n# only if peers must find each other before they are ready: {publish}")
}

/// Returns the command that scales a StatefulSet.
pub(super) fn scale(set: &ObjectRef, replicas: u32) -> String {
    format!("kubectl -n {} scale statefulset {} --replicas={replicas}", set.namespace, set.name)
}

/// Returns the command that describes a Pod.
pub(super) fn describe_pod(namespace: &str, pod: &str) -> String {
    format!("kubectl -n {namespace} describe pod {pod}")
}

/// Returns the advice to change the target of an ExternalName.
pub(super) fn edit_external_name(service: &ObjectRef, target: &str) -> String {
    format!("kubectl -n {} edit service {}: set externalName to {target}", service.namespace, service.name)
}

/// Returns the advice for ports without a name.
pub(super) fn ask_for_srv(service: &ObjectRef) -> String {
    format!("ask for SRV at {}.{}.svc, or give the port a name", service.name, service.namespace)
}

/// Returns the command that changes these fields of a Service's spec.
pub(super) fn patch(service: &ObjectRef, spec: &serde_json::Value) -> String {
    let patch = serde_json::json!({ "spec": spec });
    format!("kubectl -n {} patch service {} -p '{patch}'", service.namespace, service.name)
}

/// Returns the YAML of a headless Service.
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

/// Returns a YAML scalar for a text, in quotes if YAML would parse it as another type: `n` and `1` are valid names.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 11] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"];
    let plain = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-._/".contains(&octet))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    // JSON strings are YAML.
    if plain { text.to_owned() } else { escape::json(&serde_json::Value::from(text).to_string()).into_owned() }
}

/// Returns a selector in the syntax of kubectl: `app=web,tier=front`.
pub(super) fn pairs(selector: &Labels) -> String {
    let pairs: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}
