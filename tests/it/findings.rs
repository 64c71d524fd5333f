//! Findings are never wrong: in random clusters every name is queried, and each claim is compared with the objects.
//!
//! The objects are JSON, as an API server returns them, and the claims are checked on that JSON by code of the test
//! (`claim_holds`), which shares nothing with the detection. Fixes are tried too: a fix that is a command or an object is
//! applied, workloads are simulated, and the name must resolve.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::common::{question_name, scaled};
use headless_dns::source::{Publisher, PublisherOptions};
use headless_dns_core::diagnose::{
    CheckScope, Checked, DiagnosedQuery, Finding, Fix, LabelMismatch, SearchDepth, Severity, TraceStep, ZoneVerdict,
    check as lint, explain, steps,
};
use headless_dns_core::name::reverse::ReverseZones;
use headless_dns_core::name::{QueryName, WireName};
use headless_dns_core::naming_rules::{EndpointsSource, NamingRules, Ordinals, PodRecords};
use headless_dns_core::object::{AddressFamily, Decoded, Object, ObjectRef, decode};
use headless_dns_core::rtype;
use headless_dns_core::simulate::simulate;
use headless_dns_core::zone::{Lookup, Settings, Zone};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

const NAMESPACES: [&str; 2] = ["n", "m"];
const SERVICES: [&str; 4] = ["web", "db", "api", "webb"];
const SETS: [&str; 2] = ["web", "db"];
const HOSTS: [&str; 6] = ["web-0", "web-1", "web-2", "db-0", "other", "10-0-0-3"];
const PORTS: [&str; 3] = ["http", "sql", ""];

/// The objects of a cluster, as JSON; true if endpoints without a hostname are called by their Pods' names.
#[derive(Clone, Debug)]
struct Objects(Vec<Value>, bool);

impl Objects {
    fn of(&self, kind: &str) -> impl Iterator<Item = &Value> {
        let kind = kind.to_owned();
        self.0.iter().filter(move |object| object["kind"] == *kind)
    }

    fn get(&self, kind: &str, key: &ObjectRef) -> Option<&Value> {
        self.of(kind).find(|object| is_named(object, key))
    }

    fn service(&self, key: &ObjectRef) -> Option<&Value> {
        self.get("Service", key)
    }

    /// Returns the slices with this Service in their label.
    fn slices(&self, key: &ObjectRef) -> impl Iterator<Item = &Value> {
        let key = key.clone();
        self.of("EndpointSlice").filter(move |slice| {
            slice["metadata"]["namespace"] == *key.namespace
                && slice["metadata"]["labels"]["kubernetes.io/service-name"] == *key.name
        })
    }

    fn endpoints(&self, key: &ObjectRef) -> Vec<&Value> {
        self.slices(key).flat_map(|slice| slice["endpoints"].as_array().unwrap()).collect()
    }

    /// The endpoints with this name: a hostname, or the address with dashes or the Pod's name where there is none.
    fn named(&self, key: &ObjectRef, label: &str) -> Vec<&Value> {
        let mut endpoints = self.endpoints(key);
        endpoints.retain(|endpoint| match endpoint["hostname"].as_str() {
            Some(hostname) => hostname == label,
            None if self.1 && endpoint["targetRef"]["name"] == label => true,
            None => endpoint["addresses"][0].as_str().unwrap().replace('.', "-") == label,
        });
        endpoints
    }
}

fn is_named(object: &Value, key: &ObjectRef) -> bool {
    object["metadata"]["namespace"] == *key.namespace && object["metadata"]["name"] == *key.name
}

fn is_headless(service: &Value) -> bool {
    service["spec"]["clusterIP"] == "None"
}

fn is_external(service: &Value) -> bool {
    service["spec"]["type"] == "ExternalName"
}

fn ready(endpoint: &Value) -> bool {
    endpoint["conditions"]["ready"].as_bool().unwrap_or(true)
}

fn terminating(endpoint: &Value) -> bool {
    endpoint["conditions"]["terminating"].as_bool().unwrap_or(false)
}

fn serving(endpoint: &Value) -> bool {
    endpoint["conditions"]["serving"].as_bool().unwrap_or_else(|| ready(endpoint))
}

fn beside(key: &ObjectRef, name: &str) -> ObjectRef {
    ObjectRef::new(&key.namespace, name)
}

fn has_address(endpoint: &Value, address: IpAddr) -> bool {
    endpoint["addresses"].as_array().unwrap().iter().any(|text| text.as_str() == Some(&address.to_string()))
}

fn ordinals(set: &Value) -> std::ops::Range<u64> {
    let start = set["spec"]["ordinals"]["start"].as_u64().unwrap_or(0);
    start..start + set["spec"]["replicas"].as_u64().unwrap_or(1)
}

/// Every label that the selector asks for.
fn selects(service: &Value, labels: &Value) -> bool {
    let selector = service["spec"]["selector"].as_object();
    selector.is_some_and(|selector| selector.iter().all(|(key, value)| labels[key] == *value))
}

/// The StatefulSet's own selector, which all its Pods satisfy, has other values.
fn contradicts(service: &Value, set: &Value, labels: &[LabelMismatch]) -> bool {
    let required = &set["spec"]["selector"]["matchLabels"];
    labels.iter().all(|label| {
        let has = label.has.as_deref().unwrap();
        service["spec"]["selector"][&*label.key] == *label.selected
            && required[&*label.key] == *has
            && has != &*label.selected
    })
}

fn port_names(objects: &Objects, key: &ObjectRef) -> BTreeSet<(String, String, u64)> {
    let service = objects.service(key).unwrap();
    let read = |port: &Value| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_ascii_lowercase();
        (port["name"].as_str().unwrap_or("").to_owned(), format!("_{protocol}"), port["port"].as_u64().unwrap())
    };
    let ports: Vec<&Value> = if is_headless(service) {
        let slices = objects.slices(key).filter(|slice| !slice["endpoints"].as_array().unwrap().is_empty());
        slices.flat_map(|slice| slice["ports"].as_array().unwrap()).collect()
    } else {
        service["spec"]["ports"].as_array().into_iter().flatten().collect()
    };
    ports.into_iter().map(read).collect()
}

/// Returns whether a finding's claim holds for the objects in JSON, decided without the server's code.
fn claim_holds(objects: &Objects, finding: &Finding, question: &str) -> bool {
    let service = |key: &ObjectRef| objects.service(key);
    let exists = |key: &ObjectRef| service(key).is_some();
    let set = |key: &ObjectRef| objects.get("StatefulSet", key);
    let governs = |key: &ObjectRef, name: &str| set(key).is_some_and(|set| set["spec"]["serviceName"] == *name);
    match finding {
        Finding::OutsideZones => !question.ends_with("cluster.local") && !question.ends_with("10.in-addr.arpa"),
        Finding::NoSvcLabel { service, meant, .. } => {
            exists(service) && meant.to_string().contains(&format!("{}.{}.svc.", service.name, service.namespace))
        }
        Finding::SuffixTwice { meant, .. } => {
            question.matches("cluster.local").count() > 1 && question.starts_with(&meant.without_final_dot())
        }
        Finding::TooManyLabels => question.strip_suffix(".cluster.local").unwrap().split('.').count() >= 2,
        Finding::NoBranch { label } => {
            !matches!(&**label, "svc" | "pod") && question.ends_with(&format!("{label}.cluster.local"))
        }
        Finding::NoUnderscore { service, meant } => {
            let meant = meant.to_string();
            let labels: Vec<&str> = meant.split('.').collect();
            let port = (labels[0].trim_start_matches('_').to_owned(), labels[1].to_owned());
            port_names(objects, service).iter().any(|(name, protocol, _)| (name, protocol) == (&port.0, &port.1))
                && meant.replace('_', "").starts_with(&question.replace('_', ""))
        }
        Finding::NamespaceForgotten { service, candidates, .. } => {
            candidates.listed.iter().all(|key| exists(key) && key.name == *service)
                && candidates.total >= candidates.listed.len()
        }
        Finding::SuffixMistyped { service, .. } => exists(service),
        Finding::NoNamespace { namespace, declared, elsewhere, .. } => {
            let declares = objects.of("Namespace").any(|object| object["metadata"]["name"] == **namespace);
            let holds = objects.0.iter().any(|object| object["metadata"]["namespace"] == **namespace);
            !declares && (*declared || !holds) && elsewhere.listed.iter().all(&exists)
        }
        Finding::Swapped { service, .. } => {
            exists(service) && question.contains(&format!("{}.{}.svc", service.namespace, service.name))
        }
        Finding::NoService { service, near, .. } => {
            !exists(service) && near.iter().all(|name| exists(&beside(service, name)))
        }
        Finding::PodAsService { pod, service, .. } => {
            exists(&beside(pod, service))
                && !exists(pod)
                && (!objects.named(&beside(pod, service), &pod.name).is_empty()
                    || objects.of("StatefulSet").any(|set| {
                        let name = set["metadata"]["name"].as_str().unwrap();
                        set["metadata"]["namespace"] == *pod.namespace
                            && set["spec"]["serviceName"] == **service
                            && ordinals(set).any(|ordinal| format!("{name}-{ordinal}") == *pod.name)
                    }))
        }
        Finding::PodNotAddress { label, .. } => label.replace('-', ".").parse::<IpAddr>().is_err(),
        Finding::NoServiceName { set: key } => {
            set(key).unwrap()["spec"]["serviceName"].as_str().unwrap_or_default().is_empty()
        }
        Finding::GoverningMissing { set: key, service, selecting, selector, .. } => {
            let labels = &set(key).unwrap()["spec"]["template"]["metadata"]["labels"];
            governs(key, service)
                && !exists(&beside(key, service))
                && selecting.iter().all(|name| selects(objects.service(&beside(key, name)).unwrap(), labels))
                && selector.iter().all(|(key, value)| labels[&**key] == **value)
        }
        Finding::OtherGoverning { set: key, pod, governing, asked, .. } => {
            governing != asked
                && governs(key, governing)
                && exists(&beside(key, governing))
                && ordinals(set(key).unwrap()).any(|ordinal| format!("{}-{ordinal}", key.name) == **pod)
        }
        Finding::GoverningNotHeadless { set: key, service } => {
            governs(key, service) && !is_headless(objects.service(&beside(key, service)).unwrap())
        }
        Finding::GoverningExternal { set: key, service } => {
            governs(key, service) && is_external(objects.service(&beside(key, service)).unwrap())
        }
        Finding::NoReplicas { set: key, service } => {
            governs(key, &service.name)
                && set(key).unwrap()["spec"]["replicas"] == 0
                && objects.endpoints(service).is_empty()
        }
        Finding::TemplateDiffers { set: key, service, differs } => {
            let labels = &set(key).unwrap()["spec"]["template"]["metadata"]["labels"];
            let selector = &objects.service(&beside(key, service)).unwrap()["spec"]["selector"];
            governs(key, service)
                && differs.labels.iter().all(|label| {
                    selector[&*label.key] == *label.selected && labels[&*label.key].as_str() == label.has.as_deref()
                })
        }
        Finding::OrdinalOutOfRange { set: key, ordinal, start, replicas, governing, .. } => {
            let range = ordinals(set(key).unwrap());
            governing.as_ref().is_none_or(|name| {
                governs(key, name) && !question.contains(&format!("-{ordinal}.{name}.{}.svc", key.namespace))
            }) && range == (u64::from(*start)..u64::from(*start) + u64::from(*replicas))
                && !range.contains(&u64::from(*ordinal))
        }
        Finding::OrdinalNotThere { set: key, service, ordinal, waits_for, selects: told, has_address } => {
            let governing = beside(key, service);
            let label = |ordinal: u64| format!("{}-{ordinal}", key.name);
            let serves = |ordinal: u64| {
                objects.endpoints(&governing).iter().any(|endpoint| {
                    let hostname = endpoint["hostname"].as_str().or(endpoint["targetRef"]["name"].as_str());
                    hostname == Some(&label(ordinal)) && serving(endpoint)
                })
            };
            let pod = objects.get("Pod", &beside(key, &label(u64::from(*ordinal))));
            governs(key, service)
                && *told != objects.service(&governing).unwrap()["spec"]["selector"].is_null()
                && (!has_address || pod.is_some_and(|pod| pod["status"]["podIPs"][0]["ip"].is_string()))
                && ordinals(set(key).unwrap()).contains(&u64::from(*ordinal))
                && objects.named(&governing, &label(u64::from(*ordinal))).is_empty()
                && waits_for.is_none_or(|first| {
                    set(key).unwrap()["spec"]["podManagementPolicy"] != "Parallel"
                        && !serves(u64::from(first))
                        && ordinals(set(key).unwrap()).take_while(|lower| *lower < u64::from(first)).all(serves)
                })
        }
        Finding::PodWithoutAddress { pod } => {
            objects.get("Pod", pod).unwrap()["status"]["podIPs"].as_array().is_none_or(Vec::is_empty)
        }
        Finding::PodSubdomain { pod: key, hostname, subdomain, selecting } => {
            let pod = objects.get("Pod", key).unwrap();
            let asked = pod["spec"]["hostname"].as_str().unwrap_or(&key.name);
            asked == &**hostname
                && pod["spec"]["subdomain"].as_str() == subdomain.as_deref()
                && !subdomain.as_ref().is_some_and(|name| exists(&beside(key, name)))
                && selecting.as_ref().is_none_or(|name| {
                    let rows = objects.endpoints(&beside(key, name));
                    let pods = rows.iter().map(|row| row["targetRef"]["name"].as_str().or(row["hostname"].as_str()));
                    pods.into_iter().any(|pod| pod == Some(&*key.name))
                })
        }
        Finding::PodFinished { pod } => {
            ["Succeeded", "Failed"].iter().any(|phase| objects.get("Pod", pod).unwrap()["status"]["phase"] == **phase)
        }
        Finding::NotReady { service, label, pod, serving: told } => {
            objects.named(service, label).iter().any(|endpoint| {
                let of = endpoint["targetRef"]["name"].as_str().or(endpoint["hostname"].as_str());
                !ready(endpoint)
                    && !terminating(endpoint)
                    && told.is_none_or(|told| told == serving(endpoint))
                    && pod.as_ref().is_none_or(|pod| of == Some(&**pod))
            })
        }
        Finding::Terminating { service, label, serving: told } => {
            objects.named(service, label).iter().any(|endpoint| {
                !ready(endpoint) && terminating(endpoint) && told.is_none_or(|told| told == serving(endpoint))
            })
        }
        Finding::NoEndpoints { service: key, selector, differs } => {
            let service = service(key).unwrap();
            let written = &service["spec"]["selector"];
            objects.endpoints(key).is_empty()
                && selector.iter().count() == written.as_object().map_or(0, serde_json::Map::len)
                && selector.iter().all(|(label, value)| written[&**label] == **value)
                && differs.as_ref().is_none_or(|differs| {
                    let set = set(&beside(key, &differs.set)).unwrap();
                    governs(&beside(key, &differs.set), &key.name) && contradicts(service, set, &differs.labels)
                })
        }
        Finding::NoSlice { service: key, unlabelled } => {
            let unlabelled_too = |name: &str| {
                let slice = objects.get("EndpointSlice", &beside(key, name)).unwrap();
                slice["metadata"]["labels"]["kubernetes.io/service-name"].is_null()
            };
            service(key).unwrap()["spec"]["selector"].is_null()
                && objects.slices(key).next().is_none()
                && unlabelled.iter().all(|name| unlabelled_too(name))
        }
        Finding::NoneReady { service: key, of, .. } => {
            let endpoints = objects.endpoints(key);
            endpoints.len() == *of && !endpoints.iter().any(|endpoint| ready(endpoint))
        }
        Finding::PublishedNotReady { service: key } => {
            service(key).unwrap()["spec"]["publishNotReadyAddresses"] == true
                && objects.endpoints(key).iter().any(|endpoint| !ready(endpoint))
        }
        Finding::NoHostname { service, pod, address, .. } => objects.endpoints(service).iter().any(|endpoint| {
            endpoint["hostname"].is_null() && endpoint["targetRef"]["name"] == **pod && has_address(endpoint, *address)
        }),
        Finding::HasHostname { service, address, hostname, .. } => objects
            .endpoints(service)
            .iter()
            .any(|endpoint| endpoint["hostname"] == **hostname && has_address(endpoint, *address)),
        Finding::NotAnEndpoint { service, address, elsewhere } => {
            let has = |key: &ObjectRef| objects.endpoints(key).iter().any(|endpoint| has_address(endpoint, *address));
            !has(service) && elsewhere.listed.iter().all(|key| has(key) && exists(key))
        }
        Finding::NoSuchEndpoint { service, label, known } => {
            objects.named(service, label).is_empty()
                && known.iter().all(|name| !objects.named(service, name).is_empty())
        }
        Finding::OtherNamespace { service, elsewhere, .. } => {
            !exists(service)
                && elsewhere
                    .listed
                    .iter()
                    .all(|key| exists(key) && key.name == service.name && key.namespace != service.namespace)
        }
        Finding::PortNotInSlices { service: key, port, protocol, instead } => {
            let has = |(name, of, _): &(String, String, u64)| *name == **port && of == protocol.label();
            let declared = service(key).unwrap()["spec"]["ports"].as_array().unwrap();
            let all: Vec<&Value> = objects.slices(key).flat_map(|slice| slice["ports"].as_array().unwrap()).collect();
            declared.iter().any(|declared| declared["name"] == **port)
                // Slices without ready endpoints may have the port.
                && (!port_names(objects, key).iter().any(has) || !question.is_empty())
                && instead.as_ref().is_none_or(|(slice, there)| {
                    let slice = objects.get("EndpointSlice", slice).unwrap();
                    let is_it = |own: &&Value| own["port"] == there.number && own["name"] == *there.name;
                    *there.name != **port
                        && slice["metadata"]["labels"]["kubernetes.io/service-name"] == *key.name
                        && all.iter().any(is_it)
                })
        }
        Finding::NoPort { service, port, known, meant } => {
            let ports = port_names(objects, service);
            !ports.iter().any(|(name, ..)| *name == **port)
                && meant.as_ref().is_none_or(|meant| known.contains(meant))
                && known
                    .iter()
                    .all(|label| ports.iter().any(|(name, protocol, _)| format!("_{name}.{protocol}") == **label))
        }
        Finding::OtherProtocol { service, port, protocols } => {
            let ports = port_names(objects, service);
            let has = |label: &str| ports.iter().any(|(name, protocol, _)| *name == **port && protocol == label);
            protocols.iter().all(|protocol| has(protocol.label()))
                && protocols.iter().all(|protocol| !question.contains(&format!("_{port}.{}.", protocol.label())))
        }
        Finding::PortUnnamed { service: key, number, .. } => {
            let is_it = |name: &str, of: u64| name.is_empty() && of == u64::from(*number);
            // Without endpoints a headless Service will have the ports that it declares.
            let declared = || {
                let ports = service(key).unwrap()["spec"]["ports"].as_array().unwrap();
                objects.endpoints(key).is_empty()
                    && ports
                        .iter()
                        .any(|port| is_it(port["name"].as_str().unwrap_or(""), port["port"].as_u64().unwrap()))
            };
            port_names(objects, key).iter().any(|(name, _, of)| is_it(name, *of)) || declared()
        }
        Finding::PortNumber { service, number, name, protocol } => {
            let named = (name.as_deref().unwrap_or("").to_owned(), protocol.label().to_owned(), u64::from(*number));
            port_names(objects, service).contains(&named) && question.starts_with(&format!("_{number}."))
        }
        Finding::NoTargetPort { service: key, port, target } => {
            let declared = service(key).unwrap()["spec"]["ports"].as_array().unwrap();
            declared.iter().any(|declared| declared["name"] == **port && declared["targetPort"] == **target)
                && !port_names(objects, key)
                    .iter()
                    .any(|(name, protocol, _)| *name == **port && question.contains(&format!("_{port}.{protocol}.")))
        }
        Finding::NoPorts { service } => port_names(objects, service).is_empty(),
        Finding::BelowExternalName { service: key, target } => {
            let service = service(key).unwrap();
            is_external(service) && service["spec"]["externalName"] == **target
        }
        Finding::PortOfPod { meant, .. } => {
            let meant = meant.to_string();
            let labels: Vec<&str> = meant.split('.').collect();
            exists(&ObjectRef::new(labels[2], labels[1])) && question.ends_with(meant.trim_end_matches('.'))
        }
        Finding::NamespaceTerminating { .. } => false,
        Finding::NothingBehind { service: key } => {
            !is_headless(service(key).unwrap()) && !objects.endpoints(key).into_iter().any(ready)
        }
        Finding::NoFamily { service: key, label, family } => {
            let v4 = |text: &str| {
                text.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4() == (*family == AddressFamily::V4))
            };
            let own = service(key).unwrap()["spec"]["clusterIP"].as_str().is_some_and(v4);
            let served = objects.endpoints(key).into_iter().filter(|endpoint| {
                ready(endpoint) || service(key).unwrap()["spec"]["publishNotReadyAddresses"] == true
            });
            let any = served.into_iter().any(|endpoint| v4(endpoint["addresses"][0].as_str().unwrap()));
            if let Some(label) = label {
                return objects.named(key, label).iter().all(|row| !v4(row["addresses"][0].as_str().unwrap()));
            }
            !(own || is_headless(service(key).unwrap()) && any)
        }
        Finding::BadExternalName { service: key, value } => {
            service(key).unwrap()["spec"]["externalName"] == **value
                && (value.parse::<IpAddr>().is_ok() || WireName::parse(value).is_err())
        }
        Finding::ExternalNameLoop { service: key } => {
            let mut seen = vec![key.clone()];
            loop {
                let target = service(seen.last().unwrap()).unwrap()["spec"]["externalName"].as_str().unwrap();
                let labels: Vec<&str> = target.split('.').collect();
                let next = ObjectRef::new(labels[1], labels[0]);
                if seen.contains(&next) {
                    return true;
                }
                if !service(&next).is_some_and(is_external) {
                    return false;
                }
                seen.push(next);
            }
        }
        Finding::ExternalNameLong { service: key, most } => {
            let mut at = key.clone();
            (0..=*most).all(|_| {
                let Some(alias) = service(&at).filter(|service| is_external(service)) else { return false };
                let labels: Vec<&str> = alias["spec"]["externalName"].as_str().unwrap().split('.').collect();
                at = ObjectRef::new(labels[1], labels[0]);
                true
            })
        }
        Finding::SetNotSelected { set: key, service: name, differs, .. } => {
            let service = service(&beside(key, name)).unwrap();
            governs(key, name) && contradicts(service, set(key).unwrap(), &differs.labels)
        }
        Finding::SliceOfNobody { slice, endpoints } => {
            let slice = objects.get("EndpointSlice", slice).unwrap();
            let listed = slice["endpoints"].as_array().unwrap().iter();
            let addresses: usize = listed.map(|endpoint| endpoint["addresses"].as_array().unwrap().len()).sum();
            slice["metadata"]["labels"]["kubernetes.io/service-name"].is_null() && (1..=addresses).contains(endpoints)
        }
        Finding::SliceWithoutService { slice: key, service } => {
            let slice = objects.get("EndpointSlice", key).unwrap();
            slice["metadata"]["labels"]["kubernetes.io/service-name"] == **service && !exists(&beside(key, service))
        }
        // The zones of these tests are around every address.
        Finding::OutsideReverse { .. } => false,
        Finding::ExternalNameDangling { service: key, target, endpoint } => {
            let target = target.to_string();
            let labels: Vec<&str> = target.split('.').collect();
            let missing = match labels.iter().position(|label| *label == "svc") {
                Some(2) => !exists(&ObjectRef::new(labels[1], labels[0])),
                // Nothing is below an ExternalName, whatever its slices list.
                Some(3) => {
                    let key = ObjectRef::new(labels[2], labels[1]);
                    service(&key).is_none_or(is_external) || !objects.named(&key, labels[0]).into_iter().any(ready)
                }
                _ => true,
            };
            is_external(service(key).unwrap()) && missing && (!endpoint || labels[3] == "svc")
        }
        Finding::ExternalNameShort { service: key, target, .. } => {
            is_external(service(key).unwrap()) && !target.to_string().ends_with("cluster.local.")
        }
        Finding::ExternalNameOutside { service: key, target } => {
            is_external(service(key).unwrap()) && !target.to_string().ends_with("cluster.local.")
        }
        Finding::FqdnSlice { slice } => objects.get("EndpointSlice", slice).unwrap()["addressType"] == "FQDN",
        Finding::PodRecordsOff => question.contains(".pod.") || question.contains("pod.cluster.local"),
        Finding::PodUnknown { namespace, address, elsewhere } => {
            let has = |pod: &Value| {
                !["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == **phase)
                    && pod["status"]["podIPs"][0]["ip"] == address.to_string()
            };
            !objects.of("Pod").any(|pod| pod["metadata"]["namespace"] == **namespace && has(pod))
                && elsewhere.as_ref().is_none_or(|key| has(objects.get("Pod", key).unwrap()))
        }
        Finding::AddressUnknown { address, not_ready, pod } => {
            let lists = |key: &ObjectRef| {
                let mut endpoints =
                    objects.endpoints(key).into_iter().filter(|endpoint| has_address(endpoint, *address));
                endpoints.any(|endpoint| !ready(endpoint))
            };
            not_ready.iter().all(lists)
                && pod.as_ref().is_none_or(|key| {
                    objects.get("Pod", key).unwrap()["status"]["podIPs"][0]["ip"] == address.to_string()
                })
        }
        Finding::Wildcard => question.split('.').any(|label| label == "*"),
        Finding::NoClusterIp { service: key } => service(key).unwrap()["spec"]["clusterIP"].is_null(),
        Finding::NotSynced { .. } | Finding::Stale { .. } => false,
    }
}

fn meta(namespace: &str, name: &str) -> Value {
    json!({ "namespace": namespace, "name": name })
}

fn namespace() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&NAMESPACES[..])
}

fn labels() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!({"app": "a"}),
        json!({"app": "b"}),
        json!({"app": "a", "tier": "x"}),
        json!({"t": "1"}),
    ])
}

fn service() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec![
        json!({"clusterIP": "None"}),
        json!({"clusterIP": "None"}),
        json!({"clusterIP": "None"}),
        json!({"clusterIP": "10.96.0.1"}),
        json!({}),
        json!({"type": "ExternalName", "externalName": "web.n.svc.cluster.local"}),
        json!({"type": "ExternalName", "externalName": "db.n.svc.cluster.local"}),
        json!({"type": "ExternalName", "externalName": "www.example.org"}),
        json!({"type": "ExternalName", "externalName": "web-0.web.n.svc.cluster.local"}),
        json!({"type": "ExternalName", "externalName": "web.n.svc"}),
        json!({"type": "ExternalName", "externalName": "db"}),
        json!({"type": "ExternalName", "externalName": "10.0.0.1"}),
    ]);
    let ports = prop::collection::vec((prop::sample::select(&PORTS[..]), any::<bool>(), 0..3usize), 0..3);
    let selector = prop_oneof![2 => labels(), 1 => Just(Value::Null)];
    (namespace(), prop::sample::select(&SERVICES[..]), kind, ports, selector, any::<bool>()).prop_map(
        |(namespace, name, mut spec, ports, selector, publish)| {
            let port = |(name, udp, target): (&str, bool, usize)| {
                let protocol = if udp { "UDP" } else { "TCP" };
                let target = [json!(80), json!("container"), Value::Null][target].clone();
                json!({"name": name, "port": 80, "protocol": protocol, "targetPort": target})
            };
            spec["ports"] = ports.into_iter().map(port).collect();
            spec["selector"] = selector;
            spec["publishNotReadyAddresses"] = publish.into();
            json!({"apiVersion": "v1", "kind": "Service", "metadata": meta(namespace, name), "spec": spec})
        },
    )
}

fn endpoint() -> impl Strategy<Value = Value> {
    let condition = || prop::sample::select(vec![json!(true), json!(false), Value::Null]);
    let hostname = prop_oneof![3 => prop::sample::select(&HOSTS[..5]).prop_map(Value::from), 1 => Just(Value::Null)];
    (1..7u8, hostname, prop::option::of(prop::sample::select(&HOSTS[..5])), condition(), condition(), condition())
        .prop_map(|(address, hostname, pod, ready, serving, terminating)| {
            let target = pod.map(|pod| json!({"kind": "Pod", "name": pod}));
            json!({
                "addresses": [format!("10.0.0.{address}")],
                "hostname": hostname,
                "targetRef": target,
                "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
            })
        })
}

fn slice() -> impl Strategy<Value = Value> {
    let owner = prop_oneof![6 => prop::sample::select(&SERVICES[..]).prop_map(Some), 1 => Just(None)];
    let ports = prop::collection::vec((prop::sample::select(&PORTS[..]), any::<bool>()), 0..3);
    let fqdn = prop::bool::weighted(0.05);
    (namespace(), 0..4u8, owner, ports, prop::collection::vec(endpoint(), 0..4), fqdn).prop_map(
        |(namespace, number, owner, ports, endpoints, fqdn)| {
            let port = |(name, udp): (&str, bool)| {
                json!({"name": name, "port": 80, "protocol": if udp { "UDP" } else { "TCP" }})
            };
            let mut metadata = meta(namespace, &format!("slice-{number}"));
            if let Some(owner) = owner {
                metadata["labels"] = json!({"kubernetes.io/service-name": owner});
            }
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
                "addressType": if fqdn { "FQDN" } else { "IPv4" },
                "ports": ports.into_iter().map(port).collect::<Value>(),
                "endpoints": if fqdn { Vec::new() } else { endpoints },
            })
        },
    )
}

fn stateful_set() -> impl Strategy<Value = Value> {
    let governing = prop::sample::select(vec!["web", "db", "gone", ""]);
    let name = prop::sample::select(&SETS[..]);
    // Another Service may select the labels that the template has beyond the selector.
    let extra = prop::sample::select(vec![json!({}), json!({"tier": "x"}), json!({"tier": "y"})]);
    (namespace(), name, governing, 0..4u32, 0..2u32, any::<bool>(), labels(), extra).prop_map(
        |(namespace, name, governing, replicas, start, parallel, labels, extra)| {
            let mut template = extra;
            merge(&mut template, labels.clone());
            json!({
                "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta(namespace, name),
                "spec": {
                    "serviceName": governing,
                    "replicas": replicas,
                    "ordinals": {"start": start},
                    "podManagementPolicy": if parallel { "Parallel" } else { "OrderedReady" },
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": template}},
                },
            })
        },
    )
}

fn pod() -> impl Strategy<Value = Value> {
    let phase = prop::sample::select(vec!["Running", "Failed", "Pending"]);
    let hostname = prop::option::of(prop::sample::select(&HOSTS[..5]));
    let subdomain = prop::option::of(prop::sample::select(vec!["web", "db", "gone"]));
    let spec =
        (hostname, subdomain).prop_map(|(hostname, subdomain)| json!({"hostname": hostname, "subdomain": subdomain}));
    (namespace(), prop::sample::select(&HOSTS[..5]), phase, 1..8u8, spec).prop_map(
        |(namespace, name, phase, address, spec)| {
            let ips = if phase == "Pending" { json!([]) } else { json!([{"ip": format!("10.0.0.{address}")}]) };
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": meta(namespace, name), "spec": spec,
                "status": {"phase": phase, "podIPs": ips},
            })
        },
    )
}

/// Objects of different names, as in a cluster.
fn objects(pods_and_slices: bool) -> impl Strategy<Value = Objects> {
    let (slices, pods) = if pods_and_slices { (0..6, 0..4) } else { (0..1, 0..1) };
    (
        prop::collection::vec(service(), 0..6),
        prop::collection::vec(slice(), slices),
        prop::collection::vec(stateful_set(), 0..4),
        prop::collection::vec(pod(), pods),
    )
        .prop_map(|(services, slices, sets, pods)| {
            let mut seen = BTreeSet::new();
            let mut objects: Vec<Value> = [services, slices, sets, pods].concat();
            objects.retain(|object| {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                let metadata = &object["metadata"];
                seen.insert((text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"])))
            });
            Objects(objects, false)
        })
}

fn rules() -> impl Strategy<Value = NamingRules> {
    let ordinals = prop::sample::select(vec![Ordinals::Ready, Ordinals::Ready, Ordinals::Serving, Ordinals::Any]);
    let pods = prop::sample::select(vec![PodRecords::Off, PodRecords::Insecure, PodRecords::Verified]);
    (ordinals, pods, any::<bool>()).prop_map(|(ordinals, pod_records, endpoint_pod_names)| NamingRules {
        ordinals,
        pod_records,
        endpoint_pod_names,
        ..NamingRules::default()
    })
}

fn decoded(objects: &Objects) -> Vec<Object> {
    let decode = |object: &Value| match decode(object.clone(), "n") {
        Ok(Decoded::Object(object, _)) => object,
        other => panic!("{other:?}"),
    };
    objects.0.iter().map(decode).collect()
}

fn publisher(objects: Vec<Object>, rules: NamingRules) -> Publisher {
    let apexes = vec![WireName::parse("cluster.local").unwrap()];
    let zone = Zone::new(Settings { apexes, ttl: 5, negative_ttl: 5, rules }, ReverseZones::default());
    let options = PublisherOptions { reverse: vec!["10.0.0.0/8".parse().unwrap()], ..PublisherOptions::default() };
    let mut publisher = Publisher::new(Arc::new(zone), options);
    publisher.replace(objects);
    publisher
}

fn questions() -> Vec<(String, u16)> {
    let mut questions = Vec::new();
    let mut ask = |name: String, types: &[u16]| questions.extend(types.iter().map(|qtype| (name.clone(), *qtype)));
    for namespace in NAMESPACES.iter().chain(&["web", "gone"]) {
        for service in SERVICES.iter().chain(&["gone", "n", "web-0", "db-2", "wbe"]) {
            let name = format!("{service}.{namespace}.svc.cluster.local");
            ask(format!("{service}.{namespace}.cluster.local"), &[rtype::A]);
            ask(format!("{name}.{namespace}.svc.cluster.local"), &[rtype::A]);
            ask(format!("_http._tcp.web-0.{name}"), &[rtype::SRV]);
            ask(format!("http.tcp.{name}"), &[rtype::SRV]);
            ask(format!("web-0.{service}.{namespace}.pod.cluster.local"), &[rtype::A]);
            ask(format!("web-0.{service}.{namespace}.svc.cluster.lcoal"), &[rtype::A]);
            for host in HOSTS.iter().chain(&["web-9", "10-0-0-9", "*"]) {
                ask(format!("{host}.{name}"), &[rtype::A]);
            }
            for port in ["_http._tcp", "_http._udp", "_sql._tcp", "_80._tcp", "_81._udp", "_tcp"] {
                ask(format!("{port}.{name}"), &[rtype::SRV]);
            }
            ask(name, &[rtype::A, rtype::AAAA, rtype::SRV]);
        }
        ask(format!("{namespace}.svc.cluster.local"), &[rtype::A]);
        ask(format!("{namespace}.cluster.local"), &[rtype::A]);
        for label in ["10-0-0-1", "10-0-0-5", "web-0"] {
            ask(format!("{label}.{namespace}.pod.cluster.local"), &[rtype::A]);
        }
    }
    (0..9).for_each(|address| ask(format!("{address}.0.0.10.in-addr.arpa"), &[rtype::PTR]));
    for name in ["web.nn", "web-0.web.mn", "_http._tcp.web.mm"] {
        ask(format!("{name}.svc.cluster.local"), &[if name.starts_with('_') { rtype::SRV } else { rtype::A }]);
    }
    ask("www.example.com.n.svc.cluster.local".into(), &[rtype::A]);
    ask("web.example.org".into(), &[rtype::A]);
    questions
}

/// Returns the verdict and the findings for people, and the finding in a response.
fn found(publisher: &Publisher, question: &str, qtype: u16) -> (ZoneVerdict, Vec<Finding>, Option<Finding>) {
    let mut name = QueryName::default();
    name.parse_wire(&question_name(question)).unwrap();
    let (outcome, absence) = publisher.zone().look_up(&name, qtype, |lookup| lookup.verdict());
    let asked = DiagnosedQuery { name: &name, qtype, outcome, absence };
    let asker = publisher.asker();
    (
        outcome,
        asker.with_view(|known| explain(known, &asked, SearchDepth::Search)),
        asker.try_best_finding(&asked).expect("nobody changes the cluster"),
    )
}

/// The steps of the decision on a question.
fn walked(publisher: &Publisher, question: &str, qtype: u16, outcome: ZoneVerdict) -> Vec<TraceStep> {
    let mut name = QueryName::default();
    name.parse_wire(&question_name(question)).unwrap();
    let (absence, zone) = publisher.zone().look_up(&name, qtype, |lookup| match lookup {
        Lookup::NxDomain(site, absence) => (absence, Some(site.apex.clone())),
        Lookup::Found(site, _) | Lookup::Cname(site, _) | Lookup::NoData(site) => (None, Some(site.apex.clone())),
        Lookup::NotInZone => (None, None),
    });
    let asked = DiagnosedQuery { name: &name, qtype, outcome, absence };
    publisher.asker().with_view(|known| steps(known, &asked, zone.as_ref()))
}

fn check<S: Strategy>(strategy: &S, full: u64, test: impl Fn(S::Value)) {
    let cases = u32::try_from(scaled(full)).unwrap();
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let result = runner.run(strategy, |value| {
        test(value);
        Ok(())
    });
    result.unwrap();
}

#[test]
fn findings_match_zone() {
    let questions = questions();
    check(&(objects(true), rules()), 4_000, |(objects, rules)| {
        let objects = Objects(objects.0, rules.endpoint_pod_names);
        let publisher = publisher(decoded(&objects), rules);
        let seen = CheckScope { is_complete: true, has_live_pods: true };
        let checked = publisher.asker().with_view(|known| lint(known, &publisher.zone().reverse_zones(), seen));
        for Checked { finding, .. } in checked {
            assert!(claim_holds(&objects, &finding, ""), "{rules:?}: {finding:?}\n{objects:?}");
        }
        for (question, qtype) in &questions {
            let (outcome, findings, first) = found(&publisher, question, *qtype);
            for finding in findings.iter().chain(&first) {
                assert!(
                    claim_holds(&objects, finding, question),
                    "{question} {qtype} {rules:?}: {finding:?}\n{objects:?}"
                );
                if let Some((name, qtype)) = recommended(finding) {
                    let (outcome, ..) = found(&publisher, &name, qtype);
                    assert_eq!(
                        outcome,
                        ZoneVerdict::Found,
                        "{question} {rules:?}: ask for {name}: {finding:?}\n{objects:?}"
                    );
                    let first_label = question.split('.').next().unwrap().to_owned();
                    let keeps = name.contains(&first_label) || finding.id_and_token().1 != "NO-NAMESPACE";
                    assert!(keeps, "{question}: {name} drops a label: {finding:?}");
                }
            }
            if let Some(first) = first {
                let token = first.id_and_token().1;
                assert!(first.ede_text().is_ascii() && first.ede_text().starts_with(token), "{first:?}");
                if first.severity() == Severity::Cause && outcome == ZoneVerdict::NxDomain {
                    assert!(findings.iter().any(|finding| finding.id_and_token().1 == token), "{question}: {first:?}");
                }
            }
            // A name that resolves fails no step, one that does not fails at least one.
            let steps = walked(&publisher, question, *qtype, outcome);
            let failed = steps.iter().any(|step| step.passed == Some(false));
            assert_eq!(failed, outcome != ZoneVerdict::Found, "{question} {qtype} {rules:?}: {steps:#?}\n{objects:?}");
            // A query at `_why` always gets a text; a protocol without a port has no cause of its own.
            let told = !findings.is_empty() || question.starts_with("_tcp.");
            assert!(outcome != ZoneVerdict::NxDomain || told, "{question} {rules:?}\n{objects:?}");
        }
    });
}

/// Returns the name and type that a fix asks to query.
fn recommended(finding: &Finding) -> Option<(String, u16)> {
    let Some(Fix::Advice(advice)) = finding.fix() else { return None };
    let (name, srv) = match advice.strip_prefix("ask for SRV at ") {
        Some(name) => (name, true),
        None => (advice.strip_prefix("ask for ")?, false),
    };
    let name = name.split([' ', ',']).next().unwrap();
    let qtype = if srv || name.starts_with('_') { rtype::SRV } else { rtype::A };
    let absolute = if name.ends_with("cluster.local") { name.to_owned() } else { format!("{name}.cluster.local") };
    Some((absolute, qtype))
}

/// Applies a fix; returns `false` if only people can.
fn apply(objects: &mut Objects, fix: &Fix) -> bool {
    match fix {
        Fix::Object(yaml) => {
            let object: Value = serde_saphyr::from_str(yaml).unwrap();
            let key = key_of(&object);
            assert!(objects.service(&key).is_none(), "the API server refuses an object that exists: {yaml}");
            objects.0.push(object);
            true
        }
        Fix::Command(line) => {
            let words: Vec<&str> = line.splitn(8, ' ').collect();
            let ["kubectl", "-n", namespace, verb, kind, name, rest @ ..] = &words[..] else { return false };
            let kind = match (*verb, *kind) {
                ("patch", "service") => "Service",
                ("scale", "statefulset") => "StatefulSet",
                ("label", "endpointslice") => "EndpointSlice",
                _ => return false,
            };
            let key = ObjectRef::new(namespace, name);
            let object = objects.0.iter_mut().find(|object| object["kind"] == kind && is_named(object, &key)).unwrap();
            match (*verb, rest) {
                ("patch", ["-p", patch]) => {
                    let before = object["spec"]["selector"].clone();
                    merge(object, serde_json::from_str(patch.trim_matches('\'')).unwrap());
                    // A selector with a key less gets the traffic of more Pods.
                    for key in before.as_object().into_iter().flat_map(|labels| labels.keys()) {
                        assert!(object["spec"]["selector"][key].is_string(), "{line} widens {before}");
                    }
                }
                ("scale", [replicas]) => {
                    object["spec"]["replicas"] =
                        replicas.strip_prefix("--replicas=").unwrap().parse::<u32>().unwrap().into();
                }
                ("label", [label]) => {
                    let (key, value) = label.split_once('=').unwrap();
                    object["metadata"]["labels"][key] = value.into();
                }
                other => panic!("{other:?}"),
            }
            true
        }
        Fix::Advice(_) => false,
    }
}

fn key_of(object: &Value) -> ObjectRef {
    ObjectRef::new(object["metadata"]["namespace"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap())
}

/// Applies a JSON merge patch (RFC 7396), as `kubectl patch --type=merge`.
fn merge(object: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *object = patch;
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            object.as_object_mut().unwrap().remove(&key);
        } else {
            merge(&mut object[key], value);
        }
    }
}

/// Applies fixes until the name resolves, or no cause has one that a machine can apply. Each removes its finding.
fn mend(mut objects: Objects, question: &str, build: impl Fn(&Objects) -> Publisher) -> bool {
    for _ in 0..8 {
        let (outcome, findings, _) = found(&build(&objects), question, rtype::A);
        if outcome == ZoneVerdict::Found {
            return true;
        }
        let causes = findings.iter().filter(|finding| finding.severity() == Severity::Cause);
        let fixes = causes.filter_map(|finding| Some((finding, finding.fix()?)));
        let before = objects.clone();
        let Some(finding) = fixes.into_iter().find_map(|(finding, fix)| apply(&mut objects, &fix).then_some(finding))
        else {
            return false;
        };
        let (outcome, after, _) = found(&build(&objects), question, rtype::A);
        assert!(outcome == ZoneVerdict::Found || !after.contains(finding), "{question}: {finding:?}\n{before:?}");
    }
    panic!("{question}: no end of fixes\n{objects:?}");
}

#[test]
fn fixes_resolve_names() {
    let resolved = std::cell::Cell::new(0);
    let ask = |objects: &Objects, build: &dyn Fn(&Objects) -> Publisher| {
        for namespace in NAMESPACES {
            for service in ["web", "db", "gone"] {
                for host in ["web-0.", "web-1.", "web-4.", "db-0.", "other.", "10-0-0-3.", ""] {
                    let question = format!("{host}{service}.{namespace}.svc.cluster.local");
                    let before = found(&build(objects), &question, rtype::A).0;
                    if mend(objects.clone(), &question, build) && before != ZoneVerdict::Found {
                        resolved.set(resolved.get() + 1);
                    }
                }
            }
        }
    };
    // Slices as they are, and slices as the controllers would make them.
    check(&objects(true), 1_000, |objects| {
        ask(&objects, &|objects| publisher(decoded(objects), NamingRules::default()));
    });
    check(&objects(false), 1_000, |objects| {
        ask(&objects, &|objects| {
            let simulated = simulate(
                decoded(objects),
                &["10.244.0.0/16".parse().unwrap()],
                &["10.96.0.0/16".parse().unwrap()],
                EndpointsSource::Slices,
            );
            publisher(simulated.objects, NamingRules::default())
        });
    });
    assert!(resolved.get() > 5, "{} names were mended", resolved.get());
}
