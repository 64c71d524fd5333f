//! Encodes trimmed objects as JSON of the Kubernetes API, which [`super::decode`] decodes to an equal object.
//!
//! For the snapshot of a cluster (`source/snapshot.rs`), not for manifests to apply: only fields that were kept are
//! written, and only kinds that are watched.

use serde_json::{Map, Value, json};

use super::{
    AddressFamily, Endpoint, EndpointPort, EndpointSlice, Endpoints, FamilyPolicy, Labels, MANAGED_BY_LABEL, Namespace,
    Object, ObjectRef, Pod, PodSpec, Protocol, SERVICE_NAME_LABEL, SKIP_MIRROR_LABEL, Service, ServiceKind,
    ServicePort, StatefulSet, TargetPort,
};

/// Encodes an object; `None` for a kind that is never watched.
pub fn encode(object: &Object) -> Option<Value> {
    Some(match object {
        Object::Namespace(Namespace { name, terminating }) => {
            let phase = if *terminating { "Terminating" } else { "Active" };
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "status": {"phase": phase}})
        }
        Object::Service(one) => whole("v1", "Service", &one.key, None, "spec", service(one)),
        Object::EndpointSlice(slice) => endpoint_slice(slice),
        Object::Endpoints(one) => {
            let skips = one.mirrored.iter().all(|rows| *rows == 0) && !one.mirrored.is_empty();
            let labels = skips.then(|| json!({SKIP_MIRROR_LABEL: "true"}));
            whole("v1", "Endpoints", &one.key, labels, "subsets", subsets(one))
        }
        Object::Pod(pod) => pod_with_status(pod),
        Object::StatefulSet(set) => whole("apps/v1", "StatefulSet", &set.key, None, "spec", stateful_set(set)),
        Object::Workload(_) => return None,
    })
}

fn whole(version: &str, kind: &str, key: &ObjectRef, labels: Option<Value>, field: &str, value: Value) -> Value {
    let mut metadata = json!({"name": key.name, "namespace": key.namespace});
    if let Some(labels) = labels {
        metadata["labels"] = labels;
    }
    let mut object = json!({"apiVersion": version, "kind": kind, "metadata": metadata});
    object[field] = value;
    object
}

fn labels(labels: &Labels) -> Value {
    labels.iter().map(|(key, value)| (key.to_string(), json!(value))).collect::<Map<_, _>>().into()
}

fn service(service: &Service) -> Value {
    let mut spec = json!({
        "publishNotReadyAddresses": service.publish_not_ready,
        "selector": labels(&service.selector),
        "ports": service.ports.iter().map(service_port).collect::<Vec<_>>(),
        "ipFamilies": service.families.iter().map(|family| match family {
            AddressFamily::V4 => "IPv4",
            AddressFamily::V6 => "IPv6",
        }).collect::<Vec<_>>(),
        "ipFamilyPolicy": service.family_policy.map(FamilyPolicy::name),
    });
    match &service.kind {
        ServiceKind::Headless => spec["clusterIP"] = json!("None"),
        ServiceKind::ExternalName(name) => {
            spec["type"] = json!("ExternalName");
            spec["externalName"] = json!(name);
        }
        ServiceKind::ClusterIp(addresses) => {
            spec["clusterIP"] = json!(addresses.first().map(ToString::to_string).unwrap_or_default());
            spec["clusterIPs"] = addresses.iter().map(ToString::to_string).collect();
        }
    }
    spec
}

fn service_port(port: &ServicePort) -> Value {
    let target = match &port.target {
        TargetPort::Number(number) => json!(number),
        TargetPort::Name(name) => json!(name),
    };
    json!({"name": port.name, "protocol": protocol(port.protocol), "port": port.number, "targetPort": target})
}

fn endpoint_port(port: &EndpointPort) -> Value {
    json!({"name": port.name, "protocol": protocol(port.protocol), "port": port.number})
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

fn endpoint_slice(slice: &EndpointSlice) -> Value {
    let owner = slice.service.as_deref().map(|service| (SERVICE_NAME_LABEL.to_owned(), json!(service)));
    let manager = slice.manager.label().map(|manager| (MANAGED_BY_LABEL.to_owned(), json!(manager)));
    let labels: Map<String, Value> = owner.into_iter().chain(manager).collect();
    let labels = (!labels.is_empty()).then(|| labels.into());
    let key = &slice.key;
    let rows: Vec<Value> = slice.endpoints().map(|endpoint| row(&endpoint)).collect();
    let mut object = whole("discovery.k8s.io/v1", "EndpointSlice", key, labels, "endpoints", rows.into());
    object["addressType"] = json!(match slice.family() {
        _ if slice.fqdn => "FQDN",
        AddressFamily::V4 => "IPv4",
        AddressFamily::V6 => "IPv6",
    });
    object["ports"] = slice.ports.iter().map(endpoint_port).collect();
    object
}

fn row(endpoint: &Endpoint<'_>) -> Value {
    let conditions = endpoint.conditions;
    let mut row = json!({
        "addresses": [endpoint.address.to_string()],
        "conditions": {
            "ready": conditions.ready(),
            "serving": conditions.serving(),
            "terminating": conditions.terminating(),
        },
    });
    name(&mut row, endpoint);
    row
}

/// Adds the hostname and the Pod of an endpoint.
fn name(row: &mut Value, endpoint: &Endpoint<'_>) {
    if let Some(hostname) = &endpoint.hostname {
        row["hostname"] = hostname.to_string().into();
    }
    if let Some(pod) = &endpoint.pod {
        row["targetRef"] = json!({"kind": "Pod", "name": pod.to_string()});
    }
}

fn subsets(endpoints: &Endpoints) -> Value {
    let subset = |slice: &EndpointSlice| {
        let addresses = |ready: bool| -> Vec<Value> {
            let rows = slice.endpoints().filter(|endpoint| endpoint.conditions.ready() == ready);
            let address = |endpoint: Endpoint<'_>| {
                let mut address = json!({"ip": endpoint.address.to_string()});
                name(&mut address, &endpoint);
                address
            };
            rows.map(address).collect()
        };
        let ports: Vec<Value> = slice.ports.iter().map(endpoint_port).collect();
        json!({"addresses": addresses(true), "notReadyAddresses": addresses(false), "ports": ports})
    };
    endpoints.slices.iter().map(subset).collect()
}

fn stateful_set(set: &StatefulSet) -> Value {
    json!({
        "serviceName": set.service_name,
        "replicas": set.replicas,
        "ordinals": {"start": set.start},
        "podManagementPolicy": if set.parallel { "Parallel" } else { "OrderedReady" },
        "selector": {"matchLabels": labels(&set.selector)},
        "template": {"metadata": {"labels": labels(&set.template.labels)}, "spec": pod_spec(&set.template.spec)},
    })
}

fn pod_spec(spec: &PodSpec) -> Value {
    let port = |port: &EndpointPort| json!({"name": port.name, "protocol": protocol(port.protocol), "containerPort": port.number});
    let ports: Vec<Value> = spec.ports.iter().map(port).collect();
    json!({"hostname": spec.hostname, "subdomain": spec.subdomain, "containers": [{"ports": ports}]})
}

/// Encodes the part of a Pod that a cluster keeps: its addresses, and whether it has finished.
fn pod_with_status(pod: &Pod) -> Value {
    let ips: Vec<Value> = pod.addresses.iter().map(|address| json!({"ip": address.to_string()})).collect();
    let phase = if pod.finished { "Succeeded" } else { "Running" };
    whole("v1", "Pod", &pod.key, None, "status", json!({"podIPs": ips, "phase": phase}))
}
