//! Encodes trimmed objects as JSON of the Kubernetes API, which [`super::decode`] decodes to an equal object.
//!
//! For the snapshot of a cluster (`source/snapshot.rs`), not for manifests to apply: only fields that were kept are
//! written, and only kinds that are watched.

use serde_json::{Map, Value, json};

use super::{
    Endpoint, EndpointPort, EndpointSlice, Endpoints, FamilyPolicy, Labels, MANAGED_BY_LABEL, Namespace, Object, Pod,
    PodSpec, SERVICE_NAME_LABEL, SKIP_MIRROR_LABEL, Service, ServiceKind, ServicePort, StatefulSet, TargetPort,
};

/// Encodes an object; `None` for a kind that is never watched.
pub fn encode(object: &Object) -> Option<Value> {
    let (version, labels, mut encoded) = match object {
        Object::Namespace(Namespace { terminating, .. }) => {
            let phase = if *terminating { "Terminating" } else { "Active" };
            ("v1", Map::new(), json!({"status": {"phase": phase}}))
        }
        Object::Service(service) => ("v1", Map::new(), json!({"spec": service_spec(service)})),
        Object::EndpointSlice(slice) => ("discovery.k8s.io/v1", slice_labels(slice), endpoint_slice(slice)),
        Object::Endpoints(endpoints) => {
            let is_skipped = endpoints.mirrored.iter().all(|rows| *rows == 0) && !endpoints.mirrored.is_empty();
            let labels = is_skipped.then(|| (SKIP_MIRROR_LABEL.to_owned(), json!("true")));
            ("v1", labels.into_iter().collect(), json!({"subsets": subsets(endpoints)}))
        }
        Object::Pod(pod) => ("v1", Map::new(), json!({"status": pod_status(pod)})),
        Object::StatefulSet(set) => ("apps/v1", Map::new(), json!({"spec": stateful_set_spec(set)})),
        Object::Workload(_) => return None,
    };
    let mut metadata = json!({"name": object.name()});
    if !matches!(object, Object::Namespace(_)) {
        metadata["namespace"] = object.namespace().into();
    }
    if !labels.is_empty() {
        metadata["labels"] = labels.into();
    }
    encoded["apiVersion"] = version.into();
    encoded["kind"] = object.kind().into();
    encoded["metadata"] = metadata;
    Some(encoded)
}

fn labels(labels: &Labels) -> Value {
    labels.iter().map(|(key, value)| (key.to_string(), json!(value))).collect::<Map<_, _>>().into()
}

fn service_spec(service: &Service) -> Value {
    let mut spec = json!({
        "publishNotReadyAddresses": service.publish_not_ready,
        "selector": labels(&service.selector),
        "ports": service.ports.iter().map(service_port).collect::<Vec<_>>(),
        "ipFamilies": service.families.iter().map(|family| family.name()).collect::<Vec<_>>(),
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
    json!({"name": port.name, "protocol": port.protocol.name(), "port": port.number, "targetPort": target})
}

fn endpoint_port(port: &EndpointPort) -> Value {
    json!({"name": port.name, "protocol": port.protocol.name(), "port": port.number})
}

fn slice_labels(slice: &EndpointSlice) -> Map<String, Value> {
    let service = slice.service.as_deref().map(|service| (SERVICE_NAME_LABEL.to_owned(), service.into()));
    let manager = slice.manager.label().map(|manager| (MANAGED_BY_LABEL.to_owned(), manager.into()));
    service.into_iter().chain(manager).collect()
}

fn endpoint_slice(slice: &EndpointSlice) -> Value {
    json!({
        "addressType": if slice.fqdn { "FQDN" } else { slice.family().name() },
        "endpoints": slice.endpoints().map(|endpoint| row(&endpoint)).collect::<Vec<_>>(),
        "ports": slice.ports.iter().map(endpoint_port).collect::<Vec<_>>(),
    })
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
    add_names(&mut row, endpoint);
    row
}

/// Adds the hostname and the Pod of an endpoint.
fn add_names(row: &mut Value, endpoint: &Endpoint<'_>) {
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
                add_names(&mut address, &endpoint);
                address
            };
            rows.map(address).collect()
        };
        let ports: Vec<Value> = slice.ports.iter().map(endpoint_port).collect();
        json!({"addresses": addresses(true), "notReadyAddresses": addresses(false), "ports": ports})
    };
    endpoints.slices.iter().map(subset).collect()
}

fn stateful_set_spec(set: &StatefulSet) -> Value {
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
    let port = |port: &EndpointPort| json!({"name": port.name, "protocol": port.protocol.name(), "containerPort": port.number});
    let ports: Vec<Value> = spec.ports.iter().map(port).collect();
    json!({"hostname": spec.hostname, "subdomain": spec.subdomain, "containers": [{"ports": ports}]})
}

/// Encodes the part of a Pod that a cluster keeps: its addresses, and whether it has finished.
fn pod_status(pod: &Pod) -> Value {
    let ips: Vec<Value> = pod.addresses.iter().map(|address| json!({"ip": address.to_string()})).collect();
    json!({"podIPs": ips, "phase": if pod.finished { "Succeeded" } else { "Running" }})
}
