//! The API server's validation of the fields that are read: which manifests it would refuse, each with the reason.
//!
//! For manifests only: an object from an API server (it has a `metadata.uid`) was valid by the rules of its version,
//! and rules change. Fields that no name depends on (images, volumes, probes) are not checked, and a field with a
//! default may be absent. The table is [`RULES`]; `raw.rs` decodes the valid objects.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use serde_json::Value;

use super::raw::is_read;

/// Returns the reasons for which the API server would refuse a document: path of the field, and the rule.
pub fn violations(document: &Value) -> Vec<String> {
    let mut found = Violations(Vec::new());
    let kind = text(document, "kind");
    let was_accepted = document.get("metadata").is_some_and(|metadata| metadata.get("uid").is_some());
    if !was_accepted && is_read(document, kind) {
        RULES.iter().for_each(|rule| rule.apply(document, kind, &mut found));
    }
    found.0
}

/// One row of the table of rules.
struct FieldRule {
    kinds: &'static [&'static str],
    /// Path of the field: `[*]` denotes every item of a list.
    field: &'static str,
    check: FieldCheck,
}

impl FieldRule {
    fn apply(&self, document: &Value, kind: &str, found: &mut Violations) {
        if !self.kinds.contains(&kind) {
            return;
        }
        let field = match (self.field.strip_prefix(POD_SPEC), kind) {
            (Some(rest), "Pod") => &format!("spec{rest}"),
            (Some(rest), _) => &format!("spec.template.spec{rest}"),
            (None, _) => self.field,
        };
        visit(document, field, &mut String::new(), &mut |value, path| self.check.apply(value, path, found));
    }
}

/// Condition on a field that is present and not `null`.
enum FieldCheck {
    /// The JSON type.
    Type(JsonType),
    /// An integer in this range.
    Integer(i64, i64),
    /// A string that is empty or matches a grammar.
    Name(Grammar),
    /// A string that is empty or one of these.
    OneOf(&'static [&'static str]),
    /// Any other condition.
    Value(fn(&Value, &str, &mut Violations)),
    /// A condition on several fields of an object.
    Fields(fn(&Value, &str, &mut Violations)),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum JsonType {
    Object,
    List,
    Text,
    Boolean,
}

/// A grammar of strings, and its rule in words.
#[derive(Clone, Copy)]
struct Grammar {
    accepts: fn(&str) -> bool,
    rule: &'static str,
}

use FieldCheck::{Fields, Integer, Name, OneOf, Type};
use JsonType::{Boolean, List, Object, Text};

/// Placeholder for the path of a Pod's spec, in a Pod or in a template.
const POD_SPEC: &str = "POD";

const ALL: &[&str] = &[
    "Namespace",
    "Service",
    "EndpointSlice",
    "Endpoints",
    "Pod",
    "StatefulSet",
    "Deployment",
    "ReplicaSet",
    "DaemonSet",
    "ReplicationController",
    "DeploymentConfig",
    "Rollout",
    "CloneSet",
    "Job",
];
/// Kinds with names that become labels of domain names, and so have to be DNS labels.
const LABELS: &[&str] = &["Namespace", "Service"];
const OTHERS: &[&str] = ALL.split_at(2).1;
const NAMESPACED: &[&str] = ALL.split_at(1).1;
const SERVICE: &[&str] = &["Service"];
const SLICE: &[&str] = &["EndpointSlice"];
const ENDPOINTS: &[&str] = &["Endpoints"];
const POD: &[&str] = &["Pod"];
const STATEFUL_SET: &[&str] = &["StatefulSet"];
const JOB: &[&str] = &["Job"];
/// Kinds with a Pod template.
const WORKLOADS: &[&str] = ALL.split_at(5).1;
/// Kinds with a hostname and subdomain set by the manifest; a StatefulSet sets them itself.
const HOSTNAMES: &[&str] = &[
    "Pod",
    "Deployment",
    "ReplicaSet",
    "DaemonSet",
    "ReplicationController",
    "DeploymentConfig",
    "Rollout",
    "CloneSet",
    "Job",
];
/// Kinds with `spec.replicas`.
const SCALED: &[&str] =
    &["StatefulSet", "Deployment", "ReplicaSet", "ReplicationController", "DeploymentConfig", "Rollout", "CloneSet"];
/// Kinds with a label selector that has to match the template.
const SELECTING: &[&str] = &["StatefulSet", "Deployment", "ReplicaSet", "DaemonSet"];
/// Kinds with a plain map as the selector, which has to match the template.
const MAPPING: &[&str] = &["ReplicationController", "DeploymentConfig"];
/// Kinds with Pods that are always restarted.
const RESTARTING: &[&str] = &["StatefulSet", "Deployment", "ReplicaSet", "DaemonSet", "ReplicationController"];
const PHASES: &[&str] = &["Namespace", "Pod"];
const PODS: &[&str] = ALL.split_at(4).1;

const PROTOCOLS: FieldCheck = OneOf(&["TCP", "UDP", "SCTP"]);
const PORT: FieldCheck = Integer(1, 65535);
const COUNT: FieldCheck = Integer(0, i32::MAX as i64);

/// The table of rules.
const RULES: &[FieldRule] = &[
    // Metadata.
    rule(ALL, "metadata", Type(Object)),
    rule(LABELS, "metadata.name", Name(LABEL)),
    rule(OTHERS, "metadata.name", Name(SUBDOMAIN)),
    rule(NAMESPACED, "metadata.namespace", Name(LABEL)),
    rule(ALL, "metadata.labels", FieldCheck::Value(labels)),
    rule(ALL, "metadata.annotations", FieldCheck::Value(annotations)),
    rule(ALL, "metadata.deletionTimestamp", Type(Text)),
    rule(ALL, "metadata.ownerReferences", Type(List)),
    rule(ALL, "metadata.ownerReferences[*]", Type(Object)),
    rule(ALL, "metadata.ownerReferences[*].kind", Type(Text)),
    rule(ALL, "metadata.ownerReferences[*].name", Type(Text)),
    rule(ALL, "metadata.ownerReferences[*].controller", Type(Boolean)),
    rule(ALL, "spec", Type(Object)),
    rule(ALL, "status", Type(Object)),
    // Services.
    rule(SERVICE, "spec.type", OneOf(&["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"])),
    rule(SERVICE, "spec.clusterIP", Name(CLUSTER_IP)),
    rule(SERVICE, "spec.clusterIPs", Type(List)),
    rule(SERVICE, "spec.clusterIPs[*]", Name(CLUSTER_IP)),
    rule(SERVICE, "spec", Fields(cluster_ips)),
    rule(SERVICE, "spec.ipFamilies", Type(List)),
    rule(SERVICE, "spec.ipFamilies[*]", OneOf(&["IPv4", "IPv6"])),
    rule(SERVICE, "spec.ipFamilyPolicy", OneOf(&["SingleStack", "PreferDualStack", "RequireDualStack"])),
    rule(SERVICE, "spec", Fields(ip_families)),
    rule(SERVICE, "spec.externalName", Name(EXTERNAL_NAME)),
    rule(SERVICE, "spec", Fields(service_type)),
    rule(SERVICE, "spec.selector", FieldCheck::Value(labels)),
    rule(SERVICE, "spec.publishNotReadyAddresses", Type(Boolean)),
    rule(SERVICE, "spec.sessionAffinity", OneOf(&["None", "ClientIP"])),
    rule(SERVICE, "spec.internalTrafficPolicy", OneOf(&["Cluster", "Local"])),
    rule(SERVICE, "spec.externalTrafficPolicy", OneOf(&["Cluster", "Local"])),
    rule(SERVICE, "spec.externalIPs", Type(List)),
    rule(SERVICE, "spec.externalIPs[*]", FieldCheck::Value(endpoint_address)),
    rule(SERVICE, "spec.ports", Type(List)),
    rule(SERVICE, "spec.ports[*]", Type(Object)),
    rule(SERVICE, "spec.ports[*].name", Name(LABEL)),
    rule(SERVICE, "spec.ports[*].protocol", PROTOCOLS),
    rule(SERVICE, "spec.ports[*].port", PORT),
    rule(SERVICE, "spec.ports[*].targetPort", FieldCheck::Value(target_port)),
    rule(SERVICE, "spec.ports[*].nodePort", Integer(0, 65535)),
    rule(SERVICE, "spec.ports[*].appProtocol", Name(QUALIFIED_NAME)),
    rule(SERVICE, "spec.ports", FieldCheck::Value(service_ports)),
    // EndpointSlices.
    rule(SLICE, "addressType", OneOf(&["IPv4", "IPv6", "FQDN"])),
    rule(SLICE, "endpoints", Type(List)),
    rule(SLICE, "endpoints", FieldCheck::Value(|value, path, found| found.check_len(value, path, 1000))),
    rule(SLICE, "endpoints[*]", Type(Object)),
    rule(SLICE, "endpoints[*].addresses", Type(List)),
    rule(SLICE, "endpoints[*].addresses", FieldCheck::Value(|value, path, found| found.check_len(value, path, 100))),
    rule(SLICE, "endpoints[*].addresses[*]", Type(Text)),
    rule(SLICE, "", Fields(slice_addresses)),
    rule(SLICE, "endpoints[*].hostname", Name(LABEL)),
    rule(SLICE, "endpoints[*].conditions", Type(Object)),
    rule(SLICE, "endpoints[*].conditions.ready", Type(Boolean)),
    rule(SLICE, "endpoints[*].conditions.serving", Type(Boolean)),
    rule(SLICE, "endpoints[*].conditions.terminating", Type(Boolean)),
    rule(SLICE, "endpoints[*].nodeName", Name(SUBDOMAIN)),
    rule(SLICE, "endpoints[*].targetRef", Type(Object)),
    rule(SLICE, "endpoints[*].targetRef.kind", Type(Text)),
    rule(SLICE, "endpoints[*].targetRef.name", Type(Text)),
    rule(SLICE, "ports", Type(List)),
    rule(SLICE, "ports", FieldCheck::Value(|value, path, found| found.check_len(value, path, 20_000))),
    rule(SLICE, "ports[*]", Type(Object)),
    rule(SLICE, "ports[*].name", Name(LABEL)),
    rule(SLICE, "ports[*].protocol", PROTOCOLS),
    rule(SLICE, "ports[*].port", Integer(i32::MIN as i64, i32::MAX as i64)),
    rule(SLICE, "ports[*].appProtocol", Name(QUALIFIED_NAME)),
    rule(SLICE, "ports", FieldCheck::Value(slice_ports)),
    // Endpoints.
    rule(ENDPOINTS, "subsets", Type(List)),
    rule(ENDPOINTS, "subsets[*]", Type(Object)),
    rule(ENDPOINTS, "subsets[*]", Fields(subset)),
    rule(ENDPOINTS, "subsets[*].addresses", Type(List)),
    rule(ENDPOINTS, "subsets[*].addresses[*]", FieldCheck::Value(subset_address)),
    rule(ENDPOINTS, "subsets[*].addresses[*].hostname", Name(LABEL)),
    rule(ENDPOINTS, "subsets[*].addresses[*].targetRef", Type(Object)),
    rule(ENDPOINTS, "subsets[*].addresses[*].targetRef.kind", Type(Text)),
    rule(ENDPOINTS, "subsets[*].addresses[*].targetRef.name", Type(Text)),
    rule(ENDPOINTS, "subsets[*].notReadyAddresses", Type(List)),
    rule(ENDPOINTS, "subsets[*].notReadyAddresses[*]", FieldCheck::Value(subset_address)),
    rule(ENDPOINTS, "subsets[*].notReadyAddresses[*].hostname", Name(LABEL)),
    rule(ENDPOINTS, "subsets[*].notReadyAddresses[*].targetRef", Type(Object)),
    rule(ENDPOINTS, "subsets[*].notReadyAddresses[*].targetRef.kind", Type(Text)),
    rule(ENDPOINTS, "subsets[*].notReadyAddresses[*].targetRef.name", Type(Text)),
    rule(ENDPOINTS, "subsets[*].ports", Type(List)),
    rule(ENDPOINTS, "subsets[*].ports[*]", Type(Object)),
    rule(ENDPOINTS, "subsets[*].ports[*].name", Name(LABEL)),
    rule(ENDPOINTS, "subsets[*].ports[*].protocol", PROTOCOLS),
    rule(ENDPOINTS, "subsets[*].ports[*].port", PORT),
    rule(ENDPOINTS, "subsets[*].ports", FieldCheck::Value(required_names)),
    // Workloads.
    rule(SCALED, "spec.replicas", COUNT),
    rule(SELECTING, "spec.selector", Type(Object)),
    rule(SELECTING, "spec.selector.matchLabels", FieldCheck::Value(labels)),
    rule(SELECTING, "spec.selector.matchExpressions", Type(List)),
    rule(SELECTING, "spec.selector.matchExpressions[*]", FieldCheck::Value(expression)),
    rule(SELECTING, "spec", Fields(selector)),
    rule(MAPPING, "spec.selector", FieldCheck::Value(labels)),
    rule(MAPPING, "spec", Fields(|value, path, found| found.check_template(value, path, value.get("selector")))),
    rule(STATEFUL_SET, "spec.serviceName", Name(LABEL)),
    rule(STATEFUL_SET, "spec.podManagementPolicy", OneOf(&["OrderedReady", "Parallel"])),
    rule(STATEFUL_SET, "spec.ordinals", Type(Object)),
    rule(STATEFUL_SET, "spec.ordinals.start", COUNT),
    rule(JOB, "spec.parallelism", COUNT),
    rule(JOB, "spec.completions", COUNT),
    rule(JOB, "spec.completionMode", OneOf(&["NonIndexed", "Indexed"])),
    rule(JOB, "spec.suspend", Type(Boolean)),
    rule(JOB, "spec", Fields(indexed_job)),
    rule(JOB, "spec.template.spec.restartPolicy", OneOf(&["OnFailure", "Never"])),
    rule(RESTARTING, "spec.template.spec.restartPolicy", OneOf(&["Always"])),
    rule(WORKLOADS, "spec.template", Type(Object)),
    rule(WORKLOADS, "spec.template.metadata", Type(Object)),
    rule(WORKLOADS, "spec.template.metadata.labels", FieldCheck::Value(labels)),
    rule(WORKLOADS, "spec.template.metadata.annotations", FieldCheck::Value(annotations)),
    rule(WORKLOADS, "spec.template.spec", Type(Object)),
    // Pods.
    rule(POD, "spec.restartPolicy", OneOf(&["Always", "OnFailure", "Never"])),
    rule(HOSTNAMES, "POD.hostname", Name(LABEL)),
    rule(HOSTNAMES, "POD.subdomain", Name(LABEL)),
    rule(STATEFUL_SET, "POD.hostname", Type(Text)),
    rule(STATEFUL_SET, "POD.subdomain", Type(Text)),
    rule(PODS, "POD.containers", Type(List)),
    rule(PODS, "POD.containers[*]", Type(Object)),
    rule(PODS, "POD.containers[*].name", Name(LABEL)),
    rule(PODS, "POD.containers", FieldCheck::Value(containers)),
    rule(PODS, "POD.containers[*].ports", Type(List)),
    rule(PODS, "POD.containers[*].ports[*]", Type(Object)),
    rule(PODS, "POD.containers[*].ports", FieldCheck::Value(container_ports)),
    rule(PODS, "POD.containers[*].ports[*].name", Name(PORT_NAME)),
    rule(PODS, "POD.containers[*].ports[*].protocol", PROTOCOLS),
    rule(PODS, "POD.containers[*].ports[*].containerPort", PORT),
    rule(PODS, "POD.initContainers", Type(List)),
    rule(PODS, "POD.initContainers[*]", Type(Object)),
    rule(PODS, "POD.initContainers[*].name", Name(LABEL)),
    rule(PODS, "POD.initContainers", FieldCheck::Value(containers)),
    rule(PODS, "POD.initContainers[*].restartPolicy", OneOf(&["Always", "OnFailure", "Never"])),
    rule(PODS, "POD.initContainers[*].ports", Type(List)),
    rule(PODS, "POD.initContainers[*].ports[*]", Type(Object)),
    rule(PODS, "POD.initContainers[*].ports", FieldCheck::Value(container_ports)),
    rule(PODS, "POD.initContainers[*].ports[*].name", Name(PORT_NAME)),
    rule(PODS, "POD.initContainers[*].ports[*].protocol", PROTOCOLS),
    rule(PODS, "POD.initContainers[*].ports[*].containerPort", PORT),
    rule(PHASES, "status.phase", Type(Text)),
    rule(POD, "status.podIP", Type(Text)),
    rule(POD, "status.podIPs", Type(List)),
    rule(POD, "status.podIPs[*]", Type(Object)),
    rule(POD, "status.podIPs[*].ip", Type(Text)),
    rule(PODS, "status.conditions", Type(List)),
    rule(PODS, "status.conditions[*]", Type(Object)),
    rule(PODS, "status.conditions[*].type", Type(Text)),
    rule(PODS, "status.conditions[*].status", Type(Text)),
];

const fn rule(kinds: &'static [&'static str], field: &'static str, check: FieldCheck) -> FieldRule {
    FieldRule { kinds, field, check }
}

// Grammars.

/// Label of RFC 1123, in lower case as Kubernetes requires.
const LABEL: Grammar =
    Grammar { accepts: is_dns_label, rule: "a DNS label: a-z, 0-9 and inner hyphens, at most 63 characters" };
const SUBDOMAIN: Grammar = Grammar { accepts: is_subdomain, rule: "DNS labels in lower case with dots between them" };
const EXTERNAL_NAME: Grammar = Grammar {
    accepts: |text| is_subdomain(text.strip_suffix('.').unwrap_or(text)),
    rule: "a domain name: labels of a-z, 0-9 and inner hyphens",
};
const CLUSTER_IP: Grammar =
    Grammar { accepts: |text| text == "None" || is_address(text), rule: "None or an IP address" };
/// Service name of RFC 6335 section 5.1.
const PORT_NAME: Grammar = Grammar {
    accepts: is_port_name,
    rule: "a port name: at most 15 of a-z, 0-9 and single inner hyphens, with a letter",
};
const QUALIFIED_NAME: Grammar = Grammar {
    accepts: is_qualified_name,
    rule: "a qualified name: at most 63 letters, digits and inner -, _ and ., with an optional DNS name and / in front",
};
const LABEL_VALUE: Grammar =
    Grammar { accepts: is_label_value, rule: "a label value: at most 63 letters, digits and inner -, _ and ." };

fn is_dns_label(text: &str) -> bool {
    crate::name::is_label(text) && !text.bytes().any(|octet| octet.is_ascii_uppercase())
}

fn is_subdomain(text: &str) -> bool {
    // The API server accepts labels of more than 63 octets here.
    let is_part = |part: &str| {
        let (first, last) = (part.bytes().next(), part.bytes().next_back());
        let is_end = |octet: Option<u8>| octet.is_some_and(|octet| octet != b'-');
        is_end(first)
            && is_end(last)
            && part.bytes().all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-')
    };
    text.len() <= 253 && text.split('.').all(is_part)
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn is_port_name(text: &str) -> bool {
    text.len() <= 15
        && is_dns_label(text)
        && !text.contains("--")
        && text.bytes().any(|octet| octet.is_ascii_lowercase())
}

fn is_label_value(text: &str) -> bool {
    let is_end = |octet: Option<u8>| octet.is_none_or(|octet| octet.is_ascii_alphanumeric());
    text.len() <= 63
        && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet))
        && is_end(text.bytes().next())
        && is_end(text.bytes().next_back())
}

fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(is_subdomain) && !name.is_empty() && is_label_value(name)
}

// Checks.

/// Sentences about errors, each beginning with the path of its field.
struct Violations(Vec<String>);

impl FieldCheck {
    fn apply(&self, value: &Value, path: &str, found: &mut Violations) {
        match self {
            Type(wanted) => {
                found.check_type(value, path, *wanted);
            }
            Integer(first, last) => match value.as_i64() {
                Some(number) if (*first..=*last).contains(&number) => {}
                Some(_) if *last == i64::from(i32::MAX) => found.add_value(path, value, &format!("{first} or more")),
                Some(_) => found.add_value(path, value, &format!("{first} to {last}")),
                None => found.add(path, &format!("must be an integer, not {}", shorten_json(value))),
            },
            Name(grammar) => {
                if let Some(text) = found.text(value, path)
                    && !text.is_empty()
                    && !(grammar.accepts)(text)
                {
                    found.add_value(path, value, grammar.rule);
                }
            }
            OneOf(words) => {
                if let Some(text) = found.text(value, path)
                    && !text.is_empty()
                    && !words.contains(&text)
                {
                    found.add_value(path, value, &join_with_or(words));
                }
            }
            Self::Value(check) => check(value, path, found),
            Fields(check) if value.is_object() => check(value, path, found),
            Fields(_) => {}
        }
    }
}

impl Violations {
    fn add(&mut self, path: &str, text: &str) {
        self.0.push(format!("{path} {text}"));
    }

    fn add_value(&mut self, path: &str, value: &Value, rule: &str) {
        self.add(path, &format!("{} must be {rule}", shorten_json(value)));
    }

    fn check_type(&mut self, value: &Value, path: &str, wanted: JsonType) -> bool {
        let (fits, name) = match wanted {
            Object => (value.is_object(), "an object"),
            List => (value.is_array(), "a list"),
            Text => (value.is_string(), "a string"),
            Boolean => (value.is_boolean(), "true or false"),
        };
        if !fits {
            let is_unquoted = wanted == Text && !value.is_object() && !value.is_array();
            let quotes = if is_unquoted { ": write it in quotes" } else { "" };
            self.add(path, &format!("must be {name}, not {}{quotes}", shorten_json(value)));
        }
        fits
    }

    fn text<'v>(&mut self, value: &'v Value, path: &str) -> Option<&'v str> {
        self.check_type(value, path, Text);
        value.as_str()
    }

    fn check_len(&mut self, value: &Value, path: &str, most: usize) {
        let len = items(value).len();
        if len > most {
            self.add(path, &format!("has {len} items, and at most {most} are allowed"));
        }
    }

    /// Checks that the address can be that of an endpoint.
    fn check_endpoint(&mut self, address: IpAddr, path: &str, value: &Value) {
        if let Some(range) = special_range(address) {
            self.add(path, &format!("{} must not be {range}", shorten_json(value)));
        }
    }

    /// Checks that the template has the labels that the selector requires.
    fn check_template(&mut self, spec: &Value, path: &str, selector: Option<&Value>) {
        let Some(template) = spec.get("template").filter(|template| template.is_object()) else { return };
        if template.get("metadata").is_some_and(|metadata| !metadata.is_object()) {
            return;
        }
        let labels = template.pointer("/metadata/labels");
        let has = |key: &str| labels.and_then(|labels| labels.get(key)?.as_str());
        let asked = selector.and_then(Value::as_object).into_iter().flatten();
        let missing: Vec<String> = asked
            .filter_map(|(key, value)| Some((key, value.as_str()?)))
            .filter(|(key, value)| has(key) != Some(value))
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        if !missing.is_empty() {
            let text = format!("must have {}, as {path}.selector asks for", missing.join(" and "));
            self.add(&format!("{path}.template.metadata.labels"), &text);
        }
        let expressions = spec.pointer("/selector/matchExpressions").map(items).unwrap_or_default();
        for (index, expression) in expressions.iter().enumerate() {
            let Some(key) = expression.get("key").and_then(Value::as_str) else { continue };
            let values = expression.get("values").map(items).unwrap_or_default();
            let is_listed = has(key).is_some_and(|has| values.iter().any(|value| value == has));
            let matches = match expression.get("operator").and_then(Value::as_str) {
                Some("In") => is_listed,
                Some("NotIn") => !is_listed,
                Some("Exists") => has(key).is_some(),
                Some("DoesNotExist") => has(key).is_none(),
                _ => true,
            };
            if !matches {
                let text = format!("must match {path}.selector.matchExpressions[{index}]");
                self.add(&format!("{path}.template.metadata.labels"), &text);
            }
        }
    }
}

/// Checks labels, or the label pairs of a selector.
fn labels(value: &Value, path: &str, found: &mut Violations) {
    strings(value, path, found, Some(LABEL_VALUE));
}

fn annotations(value: &Value, path: &str, found: &mut Violations) {
    strings(value, path, found, None);
}

/// Checks an object with qualified names as keys and strings as values.
fn strings(value: &Value, path: &str, found: &mut Violations, values: Option<Grammar>) {
    found.check_type(value, path, Object);
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}[{key}]");
        if !is_qualified_name(key) {
            found.add(&path, &format!("must have a key that is {}", QUALIFIED_NAME.rule));
        }
        match values {
            _ if value.is_null() => {}
            Some(grammar) => Name(grammar).apply(value, &path, found),
            None => Type(Text).apply(value, &path, found),
        }
    }
}

// Services.

fn cluster_ips(spec: &Value, path: &str, found: &mut Violations) {
    let one = text(spec, "clusterIP");
    let all = list(spec, "clusterIPs");
    let first = all.first().and_then(Value::as_str).unwrap_or_default();
    let path = |rest: &str| format!("{path}.{rest}");
    match (one, first) {
        ("", first) if !first.is_empty() => found.add(&path("clusterIP"), "is required where clusterIPs is given"),
        (one, first) if !first.is_empty() && one != first => {
            found.add(&path("clusterIPs[0]"), &format!("{first:?} must be clusterIP, {one:?}"));
        }
        _ => {}
    }
    if all.len() > 2 {
        found.add(&path("clusterIPs"), "must hold one address of each family");
    }
    let parsed: Vec<IpAddr> = all.iter().filter_map(|ip| ip.as_str()?.parse().ok()).collect();
    match all {
        [_, _] if all.iter().any(|ip| ip == "None") => found.add(&path("clusterIPs"), "must hold None alone"),
        [_, _] if parsed.len() == 2 && parsed[0].is_ipv4() == parsed[1].is_ipv4() => {
            found.add(&path("clusterIPs"), "must hold one address of each family");
        }
        _ => {}
    }
    let addresses = if all.is_empty() { one.parse().into_iter().collect() } else { parsed };
    let families = if is_headless(spec) { &[] } else { list(spec, "ipFamilies") };
    for (index, (address, family)) in addresses.iter().zip(families).enumerate() {
        let is_wrong = match family.as_str() {
            Some("IPv4") => !address.is_ipv4(),
            Some("IPv6") => !address.is_ipv6(),
            _ => false,
        };
        if is_wrong {
            let field = if all.is_empty() { "clusterIP".into() } else { format!("clusterIPs[{index}]") };
            let family = family.as_str().unwrap_or_default();
            let text = format!("\"{address}\" must be an {family} address, as ipFamilies[{index}] asks for");
            found.add(&path(&field), &text);
        }
    }
}

fn ip_families(spec: &Value, path: &str, found: &mut Violations) {
    let families = list(spec, "ipFamilies");
    if let [first, second, ..] = families
        && (first == second || families.len() > 2)
    {
        found.add(&format!("{path}.ipFamilies"), "must hold each family once");
    }
    let is_without_selector = spec.get("selector").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty);
    let is_dual_by_default = is_headless(spec) && is_without_selector && text(spec, "ipFamilyPolicy").is_empty();
    let is_single = matches!(text(spec, "ipFamilyPolicy"), "" | "SingleStack") && !is_dual_by_default;
    for field in ["clusterIPs", "ipFamilies"] {
        if is_single && list(spec, field).len() == 2 {
            let text = format!("must be PreferDualStack or RequireDualStack where {field} has two");
            return found.add(&format!("{path}.ipFamilyPolicy"), &text);
        }
    }
}

fn service_type(spec: &Value, path: &str, found: &mut Violations) {
    let kind = text(spec, "type");
    let path = |rest: &str| format!("{path}.{rest}");
    match kind {
        "NodePort" | "LoadBalancer" if is_headless(spec) => {
            found.add(&path("clusterIP"), &format!("must not be None where type is {kind}"));
        }
        "ExternalName" => {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                let is_set = spec.get(field).is_some_and(|value| !value.is_null() && value != "" && !is_empty(value));
                if is_set {
                    found.add(&path(field), "must not be set where type is ExternalName");
                }
            }
            if matches!(text(spec, "externalName"), "" | ".") {
                found.add(&path("externalName"), "is required where type is ExternalName");
            }
        }
        _ => {}
    }
    let is_external = matches!(kind, "NodePort" | "LoadBalancer") || !list(spec, "externalIPs").is_empty();
    if !is_external && !text(spec, "externalTrafficPolicy").is_empty() {
        found.add(&path("externalTrafficPolicy"), "must not be set where the Service is not reachable from outside");
    }
    if matches!(kind, "" | "ClusterIP") {
        for (index, port) in list(spec, "ports").iter().enumerate() {
            if port.get("nodePort").and_then(Value::as_i64).is_some_and(|port| port != 0) {
                found.add(&path(&format!("ports[{index}].nodePort")), "must not be set where type is ClusterIP");
            }
        }
    }
    let has_no_ports = spec.get("ports").is_none_or(|ports| ports.is_null() || is_empty(ports) && ports.is_array());
    if has_no_ports && kind != "ExternalName" && !is_headless(spec) {
        found.add(&path("ports"), "is required: only a headless Service or an ExternalName has none");
    }
}

fn service_ports(ports: &Value, path: &str, found: &mut Violations) {
    required_names(ports, path, found);
    required(ports, path, "port", found);
    unique(ports, path, "name", found, name_of);
    for field in ["port", "nodePort"] {
        unique(ports, path, field, found, |port| {
            let number = port.get(field)?.as_i64().filter(|number| *number != 0)?;
            let protocol = match text(port, "protocol") {
                "" => "TCP",
                protocol => protocol,
            };
            Some(format!("{number} of {protocol}"))
        });
    }
}

fn target_port(value: &Value, path: &str, found: &mut Violations) {
    match value {
        Value::Number(_) => Integer(0, 65535).apply(value, path, found),
        Value::String(_) => Name(PORT_NAME).apply(value, path, found),
        _ => found.add(path, &format!("must be an integer or a string, not {}", shorten_json(value))),
    }
}

/// Checks that each of several ports has a name.
fn required_names(ports: &Value, path: &str, found: &mut Violations) {
    if items(ports).len() > 1 {
        required(ports, path, "name", found);
    }
}

// EndpointSlices and Endpoints.

/// Checks that no two ports have one name; the absence of a name counts as a name.
fn slice_ports(ports: &Value, path: &str, found: &mut Violations) {
    unique(ports, path, "name", found, |port| Some(name_of(port).unwrap_or_else(|| "no name".into())));
}

fn slice_addresses(slice: &Value, _: &str, found: &mut Violations) {
    for (index, endpoint) in list(slice, "endpoints").iter().enumerate().filter(|(_, endpoint)| endpoint.is_object()) {
        let path = format!("endpoints[{index}].addresses");
        let addresses = list(endpoint, "addresses");
        if addresses.is_empty() && endpoint.get("addresses").is_none_or(|value| value.is_null() || value.is_array()) {
            found.add(&path, "is required: at least one address");
        }
        for (index, value) in addresses.iter().enumerate() {
            let Some(address) = value.as_str() else { continue };
            let path = format!("{path}[{index}]");
            let parsed = address.parse::<IpAddr>();
            match (text(slice, "addressType"), parsed) {
                ("IPv4", Ok(IpAddr::V4(address))) => found.check_endpoint(address.into(), &path, value),
                ("IPv6", Ok(IpAddr::V6(address))) if address.to_ipv4_mapped().is_none() => {
                    found.check_endpoint(address.into(), &path, value);
                }
                (family @ ("IPv4" | "IPv6"), _) => found.add_value(&path, value, &format!("an {family} address")),
                ("FQDN", _) if !is_subdomain(address.trim_end_matches('.')) || !address.contains('.') => {
                    found.add_value(&path, value, "a domain name of two labels or more");
                }
                _ => {}
            }
        }
    }
}

fn subset(subset: &Value, path: &str, found: &mut Violations) {
    if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
        found.add(path, "must have addresses or notReadyAddresses");
    }
}

fn subset_address(address: &Value, path: &str, found: &mut Violations) {
    if found.check_type(address, path, Object) {
        match address.get("ip").filter(|ip| !ip.is_null()) {
            Some(ip) => endpoint_address(ip, &format!("{path}.ip"), found),
            None => found.add(&format!("{path}.ip"), "is required"),
        }
    }
}

fn endpoint_address(value: &Value, path: &str, found: &mut Violations) {
    if let Some(text) = found.text(value, path) {
        match text.parse() {
            Ok(address) => found.check_endpoint(address, path, value),
            Err(_) => found.add_value(path, value, "an IP address"),
        }
    }
}

// Workloads and Pods.

fn match_labels(spec: &Value) -> Option<&Value> {
    spec.pointer("/selector/matchLabels")
}

fn selector(spec: &Value, path: &str, found: &mut Violations) {
    let is_some = |field: &str| {
        let part = spec.get("selector").and_then(|selector| selector.get(field));
        part.is_some_and(|part| !is_empty(part))
    };
    if !is_some("matchLabels") && !is_some("matchExpressions") {
        found.add(&format!("{path}.selector"), "is required, with a label of the template");
    }
    found.check_template(spec, path, match_labels(spec));
}

fn expression(expression: &Value, path: &str, found: &mut Violations) {
    if !found.check_type(expression, path, Object) {
        return;
    }
    if !is_qualified_name(text(expression, "key")) {
        found.add(&format!("{path}.key"), &format!("must be {}", QUALIFIED_NAME.rule));
    }
    let has_values = !list(expression, "values").is_empty();
    let values = format!("{path}.values");
    match text(expression, "operator") {
        "In" | "NotIn" if !has_values => found.add(&values, "is required where operator is In or NotIn"),
        "Exists" | "DoesNotExist" if has_values => {
            found.add(&values, "must not be set where operator is Exists or DoesNotExist");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ => found.add(&format!("{path}.operator"), "must be In, NotIn, Exists or DoesNotExist"),
    }
}

fn indexed_job(spec: &Value, path: &str, found: &mut Violations) {
    if text(spec, "completionMode") == "Indexed" && spec.get("completions").is_none_or(Value::is_null) {
        found.add(&format!("{path}.completions"), "is required where completionMode is Indexed");
    }
}

fn containers(containers: &Value, path: &str, found: &mut Violations) {
    required(containers, path, "name", found);
    unique(containers, path, "name", found, name_of);
}

fn container_ports(ports: &Value, path: &str, found: &mut Violations) {
    required(ports, path, "containerPort", found);
    unique(ports, path, "name", found, name_of);
}

// Values.

/// Checks that every item has the field.
fn required(list: &Value, path: &str, field: &str, found: &mut Violations) {
    for (index, item) in items(list).iter().enumerate().filter(|(_, item)| item.is_object()) {
        if item.get(field).is_none_or(|value| value.is_null() || value == "") {
            let several = if field == "name" && path.ends_with("ports") { ", as there are several ports" } else { "" };
            found.add(&format!("{path}[{index}].{field}"), &format!("is required{several}"));
        }
    }
}

/// Checks that no two items have equal values; `of` returns the value of an item in words.
fn unique(list: &Value, path: &str, field: &str, found: &mut Violations, of: impl Fn(&Value) -> Option<String>) {
    let mut first: HashMap<String, usize> = HashMap::new();
    for (index, item) in items(list).iter().enumerate().filter(|(_, item)| item.is_object()) {
        let Some(value) = of(item) else { continue };
        if let Some(first) = first.get(&value) {
            found.add(&format!("{path}[{index}].{field}"), &format!("is that of {path}[{first}], too: {value}"));
        } else {
            first.insert(value, index);
        }
    }
}

/// Calls `then` with each value at the path `field` below `value`, and with its full path.
fn visit(value: &Value, field: &str, path: &mut String, then: &mut dyn FnMut(&Value, &str)) {
    let len = path.len();
    if field.is_empty() {
        then(value, path);
    } else if let Some(rest) = field.strip_prefix("[*]") {
        for (index, item) in items(value).iter().enumerate().filter(|(_, item)| !item.is_null()) {
            let _ = write!(path, "[{index}]");
            visit(item, rest.strip_prefix('.').unwrap_or(rest), path, then);
            path.truncate(len);
        }
    } else {
        let (key, rest) = field.split_at(field.find(['.', '[']).unwrap_or(field.len()));
        if let Some(child) = value.get(key).filter(|child| !child.is_null()) {
            path.push_str(if len > 0 { "." } else { "" });
            path.push_str(key);
            visit(child, rest.strip_prefix('.').unwrap_or(rest), path, then);
            path.truncate(len);
        }
    }
}

fn is_headless(spec: &Value) -> bool {
    let first = list(spec, "clusterIPs").first().and_then(Value::as_str);
    text(spec, "clusterIP") == "None" || first == Some("None")
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// Returns the string in a field; empty if there is none.
fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Returns the name of an item, if it has one.
fn name_of(item: &Value) -> Option<String> {
    Some(text(item, "name")).filter(|name| !name.is_empty()).map(Into::into)
}

/// Returns the items of the list in a field; none if it is no list.
fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value.get(field).map(items).unwrap_or_default()
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Returns a value as JSON, cut after 60 characters.
fn shorten_json(value: &Value) -> String {
    const MAX_CHARS: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MAX_CHARS) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

fn join_with_or(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// Returns the special range that the address is in, if endpoints cannot be there.
fn special_range(address: IpAddr) -> Option<&'static str> {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let is_local_multicast = match address {
        IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
        IpAddr::V6(address) => address.segments()[0] & 0xff0f == 0xff02,
    };
    match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_loopback() => Some("a loopback address"),
        _ if is_link_local => Some("a link-local address"),
        _ if is_local_multicast => Some("a link-local multicast address"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Invalid, decode};

    const VALID: &str = include_str!("../../../tests/invalid/valid.yaml");
    const CASES: &str = include_str!("../../../tests/invalid/cases.txt");

    fn valid() -> Vec<Value> {
        VALID.split("---\n").map(|text| serde_saphyr::from_str(text).expect("valid.yaml is YAML")).collect()
    }

    /// Sets a field: `spec.ports[0].name`. The value `*N` is a list of N items like the first.
    fn set(document: &mut Value, field: &str, to: &str) {
        let mut at = document;
        for part in field.replace('[', ".").replace(']', "").split('.') {
            at = match part.parse::<usize>() {
                Ok(index) => {
                    let items = at.as_array_mut().expect("a list");
                    if index == items.len() {
                        items.push(Value::Null);
                    }
                    &mut items[index]
                }
                // Indexing makes an object of `null`.
                Err(_) => &mut at[part],
            };
        }
        *at = match to.strip_prefix('*') {
            Some(count) => vec![at[0].clone(); count.parse().expect("a count")].into(),
            None => serde_json::from_str(to).unwrap_or_else(|error| panic!("{to}: {error}")),
        };
    }

    /// Returns each case: its line, its document, and the sentences expected of it.
    fn cases() -> Vec<(&'static str, Value, Vec<&'static str>)> {
        let valid = valid();
        let lines = CASES.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let case = |line: &'static str| {
            let (changes, expected) = line.split_once(" => ").expect("a case");
            let (kind, changes) = changes.split_once(' ').expect("a kind");
            let mut document = valid.iter().find(|document| document["kind"] == kind).cloned().expect("a kind");
            // A space within a value is not followed by a field name and an equals sign.
            let mut rest = changes;
            while !rest.is_empty() {
                let (field, value) = rest.split_once('=').expect("a field");
                let end = value.match_indices(' ').map(|(at, _)| at).find(|at| {
                    let next = value[at + 1..].split('=').next().unwrap_or_default();
                    next.starts_with(|first: char| first.is_ascii_lowercase()) && !next.contains([' ', '"', '{'])
                });
                set(&mut document, field, &value[..end.unwrap_or(value.len())]);
                rest = end.map_or("", |end| &value[end + 1..]);
            }
            (line, document, expected.split(" | ").collect())
        };
        lines.map(case).collect()
    }

    #[test]
    fn refuses_with_path_and_rule() {
        let differs = |(line, document, expected): (&str, Value, Vec<&str>)| {
            let found = violations(&document);
            let (expected, is_whole) = match expected.split_last() {
                Some((&"..", first)) => (first, false),
                _ => (&expected[..], true),
            };
            let same = found.len() >= expected.len() && (!is_whole || found.len() == expected.len());
            let same = same && found.iter().zip(expected).all(|(one, other)| one == other);
            (!same).then(|| format!("{line}\n    {}", found.join(" | ")))
        };
        let differences: Vec<String> = cases().into_iter().filter_map(differs).collect();
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }

    #[test]
    fn accepts_valid_objects() {
        for document in valid() {
            assert_eq!(violations(&document), [""; 0], "{document}");
            assert!(decode(document, "default").is_ok());
        }
        // Fields that the API server fills in, and fields that names do not depend on.
        for text in [
            r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"1web"},"spec":{"clusterIP":"None"}}"#,
            r#"{"kind":"Service","metadata":{"name":"a"},"spec":{"clusterIP":"","type":"","ports":[{"port":80,"name":null}]}}"#,
            r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"clusterIP":"None","ipFamilies":["IPv4","IPv6"]}}"#,
            r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"type":"ExternalName","externalName":"a.b","clusterIP":""}}"#,
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"a":null}},"spec":{"containers":[{"name":"a"}]}}"#,
            r#"{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"a"},"addressType":"IPv6","endpoints":[]}"#,
            r#"{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"a"},"addressType":"FQDN","endpoints":[{"addresses":["a.b"]}]}"#,
            r#"{"apiVersion":"argoproj.io/v1alpha1","kind":"Rollout","metadata":{"name":"a"},"spec":{"workloadRef":{"kind":"Deployment","name":"a"}}}"#,
            r#"{"apiVersion":"example.org/v1","kind":"Service","metadata":{"name":5}}"#,
        ] {
            assert_eq!(violations(&serde_json::from_str(text).expect(text)), [""; 0], "{text}");
        }
    }

    #[test]
    fn skips_validation_for_api_server_objects() {
        for (line, mut document, _) in cases() {
            if document["metadata"].is_object() {
                document["metadata"]["uid"] = "1".into();
                assert_eq!(violations(&document), [""; 0], "{line}");
            }
        }
    }

    #[test]
    fn every_rule_has_a_case() {
        let cases = cases();
        for rule in RULES {
            let applies = |document: &Value| {
                let mut found = Violations(Vec::new());
                rule.apply(document, text(document, "kind"), &mut found);
                !found.0.is_empty()
            };
            assert!(cases.iter().any(|(_, document, _)| applies(document)), "{:?} {}", rule.kinds, rule.field);
        }
    }

    /// Errors of the decoder name no field, so a wrong type must be found before decoding.
    #[test]
    fn reports_wrong_types_before_decoding() {
        for document in valid() {
            for at in pointers(&document, "") {
                for wrong in
                    [Value::from(7), "x".into(), true.into(), Value::Array(vec![7.into()]), serde_json::json!({"x": 7})]
                {
                    let mut changed = document.clone();
                    *changed.pointer_mut(&at).expect("a field") = wrong;
                    let error = match decode(changed.clone(), "default") {
                        Err(Invalid(error)) if violations(&changed).is_empty() => error,
                        _ => String::new(),
                    };
                    let is_of_decoder = ["invalid type", "invalid value", "did not match"];
                    assert!(!is_of_decoder.iter().any(|part| error.contains(part)), "{at}: {error}");
                }
            }
        }
    }

    /// Returns the JSON pointers of all fields below a value, but for the kind of the object.
    fn pointers(value: &Value, at: &str) -> Vec<String> {
        let children: Vec<(String, &Value)> = match value {
            Value::Object(fields) => fields.iter().map(|(key, child)| (key.replace('/', "~1"), child)).collect(),
            Value::Array(items) => items.iter().enumerate().map(|(index, item)| (index.to_string(), item)).collect(),
            _ => Vec::new(),
        };
        let below = |(key, child): (String, &Value)| {
            let at = format!("{at}/{key}");
            let mut all = pointers(child, &at);
            all.push(at);
            all
        };
        let own = |at: &String| at != "/kind" && at != "/apiVersion";
        children.into_iter().flat_map(below).filter(own).collect()
    }
}
