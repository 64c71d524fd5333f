//! Table of findings: one entry for each variant of [`Finding`].
//!
//! An entry has id and token, severity and rank, Extended DNS Error code, sentence, fix and objects. One `match`, so that
//! the compiler finds a variant without an entry. Not here: the type of an entry (`catalog_entry.rs`), the commands and
//! objects of fixes (`fix.rs`), and the detection of findings (`detector/`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::catalog_entry::{CatalogEntry, EntryPart, FindingSubject, Level, Needs};
use super::finding::{Candidates, Finding, LabelMismatch, MAX_NAMES, SelectorMismatch};
use super::fix::{Fix, Inspect, ask_for_srv, describe_pod, edit_external_name, headless, inspect, pairs, patch, scale};
use crate::object::{EndpointPort, ObjectRef};

impl Finding {
    /// Returns the entry of the finding in the table.
    pub(super) fn entry(&self, part: EntryPart) -> CatalogEntry {
        match self {
            // State of the data.
            Self::NotSynced { waiting_for, forbidden, seconds } => if *forbidden {
                let grant = "grant `list` and `watch` on services and endpointslices to the server's account";
                part.cause("D47", "FORBIDDEN", 0).advice(|| grant.into())
            } else {
                part.cause("D46", "NOT-SYNCED", 0)
            }
            .code(14)
            .text(|| {
                let waited = if *seconds > 0 { format!("waited for {seconds} s; ") } else { String::new() };
                match &waiting_for[..] {
                    [] => waited + "not everything was read yet",
                    waiting_for => waited + &waiting_for.join("; "),
                }
            }),
            Self::Stale { reason, resource, seconds } => part
                .note("D48", "STALE")
                .code(3)
                .text(|| format!("{}: this is the last that was read", reason.sentence(resource, *seconds))),

            // Shape of the name.
            Self::OutsideZones => part
                .cause("D01", "OUTSIDE-ZONES", 1)
                .code(20)
                .text(|| "the name is in no zone that is served here".into()),
            Self::Wildcard => part.cause("D45", "WILDCARD", 1)
                .explains(&["NO-SUCH-ENDPOINT", "NO-SERVICE", "NO-NAMESPACE"]).text(|| "there are no wildcards".into()),
            Self::PodNotAddress { label, meant } => part
                .cause("D10", "POD-NOT-ADDRESS", 1)
                .text(|| format!("{label} is no address with dashes: names of Pods are below their Service, in svc"))
                .query_command(|| meant.as_deref()),
            Self::NoUnderscore { service, meant } => part
                .cause("D61", "NO-UNDERSCORE", 1)
                .text(|| format!("port and protocol begin with an underscore: did you mean {}", meant.without_final_dot()))
                .advice(|| format!("ask for {}", meant.without_final_dot()))
                .about(|| [FindingSubject::service(service)]),
            Self::PortOfPod { meant, resolves } => part
                .cause("D37", "PORT-OF-POD", 1)
                .text(|| format!("ports of one Pod have no names: ask for SRV at {}", meant.without_final_dot()))
                .query_command(|| resolves.then(|| format!("SRV at {}", meant.without_final_dot()))),
            Self::NoSvcLabel { service, meant, resolves } => part
                .cause("D02", "NO-SVC-LABEL", 2)
                .text(|| format!("the label svc is missing: did you mean {}", meant.without_final_dot()))
                .query_command(|| resolves.then(|| meant.without_final_dot()))
                .about(|| [FindingSubject::service(service)]),
            Self::SuffixTwice { meant, resolves } => {
                let entry = part.cause("D03", "SUFFIX-TWICE", 2);
                let meant = meant.without_final_dot();
                if *resolves {
                    entry
                        .text(|| format!("a search list was applied to {meant}; end the name with a dot"))
                        .advice(|| format!("ask for {meant} with the final dot"))
                } else {
                    entry.text(|| format!("{meant} does not exist, and a search list was applied to it"))
                }
            }
            Self::PodRecordsOff => part
                .cause("D42", "POD-RECORDS-OFF", 2)
                .text(|| "names of Pod addresses are switched off here".into())
                .advice(|| "start the server with --pod-records verified, or insecure".into()),
            Self::PodUnknown { namespace, address, elsewhere } => part
                .cause("D43", "POD-UNKNOWN", 2)
                .text(|| format!("no Pod in namespace {namespace} has {address}"))
                .fix(|| {
                    let pod = elsewhere.as_ref()?;
                    Some(Fix::Advice(format!("ask for {}.{}.pod", dashed_label(*address), pod.namespace)))
                })
                .about(|| elsewhere.iter().map(FindingSubject::pod)),

            Self::NamespaceTerminating { namespace, resolves } => if *resolves {
                part.note("D70", "NAMESPACE-TERMINATING")
            } else {
                part.cause("D70", "NAMESPACE-TERMINATING", 2)
            }
            .explains(&["STS-NOT-YET", "NO-ENDPOINTS", "NONE-READY", "NO-SLICE", "NOT-READY", "TERMINATING"])
            .text(|| format!("namespace {namespace} is terminating: the objects in it are being deleted"))
            .about(|| [FindingSubject { kind: "Namespace", key: ObjectRef::new(namespace, namespace) }]),

            // StatefulSets and their governing Services.
            Self::GoverningMissing { set, service, selecting, selector, ports } => part
                .cause("D12", "STS-NO-SERVICE", 3)
                .explains(&["NO-HOSTNAME", "NO-ENDPOINTS", "NONE-READY", "NO-SERVICE"])
                .level(Level::Error)
                .needs(&[Needs::EveryService, Needs::EveryObject])
                .text(|| {
                    let missing = format!("StatefulSet {set} names Service {service}, which does not exist");
                    match &selecting[..] {
                        [] => missing,
                        [one] => format!("{missing}; {one} selects its Pods"),
                        several => format!("{missing}; {} select its Pods", join_list(several, " and ")),
                    }
                })
                .fix(|| {
                    let key = ObjectRef::new(&set.namespace, service);
                    (!selector.is_empty()).then(|| Fix::Object(headless(&key, selector, ports)))
                })
                .about(|| {
                    let selecting = selecting.iter().map(|name| FindingSubject::service_beside(set, name));
                    std::iter::once(FindingSubject::stateful_set(set)).chain(selecting)
                }),
            Self::NoServiceName { set } => part
                .cause("D11", "STS-NO-SERVICENAME", 4)
                .explains(&["NO-HOSTNAME", "NO-ENDPOINTS", "NONE-READY", "NO-SERVICE"])
                // A warning only: an empty serviceName is valid since Kubernetes 1.33, and may be intended.
                .level(Level::Warning)
                .text(|| format!("StatefulSet {set} names no Service, so its Pods have no names"))
                .advice(|| {
                    format!("serviceName cannot be changed: delete StatefulSet {set} and create it again with a serviceName")
                })
                .about(|| [FindingSubject::stateful_set(set)]),
            Self::GoverningExternal { set, service } => part
                .cause("D15", "STS-EXTERNALNAME", 5)
                .explains(&["BELOW-EXTERNALNAME"])
                .level(Level::Error)
                .text(|| {
                    format!("Service {service}, which governs StatefulSet {set}, is an ExternalName: nothing is below it")
                })
                .advice(|| {
                    format!(
                        "delete Service {service} and create it again, headless (clusterIP: None), with the labels of \
                         the Pods of StatefulSet {set} as its selector"
                    )
                })
                .about(|| [FindingSubject::stateful_set(set), FindingSubject::service_beside(set, service)]),
            Self::SetNotSelected { set, service, differs, selects_another } => part
                .cause("D22", "STS-NOT-SELECTED", 5)
                .level(if *selects_another { Level::Warning } else { Level::Error })
                .text(|| {
                    let LabelMismatch { key, selected, .. } = &differs.labels[0];
                    let has = differs.has();
                    format!("Service {service} selects {key}={selected}, StatefulSet {set}, which it governs, requires {has}")
                })
                .advice(|| {
                    format!(
                        "let Service {service} select labels that the Pods of StatefulSet {set} have, as all that it \
                         governs"
                    )
                })
                .about(|| [FindingSubject::stateful_set(set), FindingSubject::service_beside(set, service)]),
            Self::TemplateDiffers { set, service, differs } => part
                .note("D58", "TEMPLATE-DIFFERS")
                .level(Level::Note)
                .text(|| {
                    let LabelMismatch { key, selected, .. } = &differs.labels[0];
                    let has = differs.has();
                    format!(
                        "Service {service} selects {key}={selected}, the Pod template of StatefulSet {set} has {has}: \
                         unless a controller sets the label, its Pods are not selected"
                    )
                })
                .about(|| [FindingSubject::stateful_set(set), FindingSubject::service_beside(set, service)]),
            Self::OrdinalOutOfRange { set, ordinal, start, replicas, governing, scales } => part
                .cause("D16", "STS-ORDINAL", 6)
                .explains(&["STS-NO-REPLICAS", "NO-ENDPOINTS", "NONE-READY", "NO-SERVICE"])
                .text(|| {
                    let range = match replicas.checked_sub(1) {
                        Some(last) => format!("ordinals {start}..{}, no {ordinal}", start.saturating_add(last)),
                        None => "no ordinal at all".into(),
                    };
                    let names = governing.as_ref().map(|service| format!("; its names are below {service}"));
                    format!("StatefulSet {set} has replicas={replicas}, {range}{}", names.unwrap_or_default())
                })
                .fix(|| {
                    let replicas = ordinal.checked_sub(*start)?.checked_add(1).filter(|_| *scales)?;
                    Some(Fix::Command(scale(set, replicas)))
                })
                .about(|| [FindingSubject::stateful_set(set)]),
            Self::NoReplicas { set, service } => part
                .cause("D66", "STS-NO-REPLICAS", 19)
                .level(Level::Note)
                .text(|| format!("Service {service} has 0 endpoints: StatefulSet {set}, which it governs, has replicas=0"))
                .command(|| scale(set, 1))
                .about(|| [FindingSubject::stateful_set(set), FindingSubject::service(service)]),
            Self::OtherGoverning { set, pod, governing, resolves, .. } => part
                .cause("D13", "STS-OTHER-SERVICE", 7)
                .explains(&["NO-HOSTNAME", "NO-ENDPOINTS", "NONE-READY", "NO-SERVICE"])
                .text(|| format!("{pod} has its name below {governing}, the serviceName of StatefulSet {set}"))
                .query_command(|| resolves.then(|| format!("{pod}.{governing}.{}.svc", set.namespace)))
                .about(|| [FindingSubject::stateful_set(set), FindingSubject::service_beside(set, governing)]),
            Self::PodAsService { pod, service, resolves } => part
                .cause("D09", "POD-AS-SERVICE", 7)
                .explains(&["NO-SERVICE", "OTHER-NAMESPACE"])
                .text(|| format!("{} is a Pod: its name is {}.{service}.{}.svc", pod.name, pod.name, pod.namespace))
                .query_command(|| resolves.then(|| format!("{}.{service}.{}.svc", pod.name, pod.namespace)))
                .about(|| [FindingSubject::pod(pod), FindingSubject::service_beside(pod, service)]),
            Self::GoverningNotHeadless { set, service } => part
                .note("D14", "STS-NOT-HEADLESS")
                .level(Level::Note)
                .text(|| {
                    format!(
                        "Service {service}, which governs StatefulSet {set}, is not headless: other DNS servers may \
                         not answer"
                    )
                })
                .about(|| [FindingSubject::stateful_set(set), FindingSubject::service_beside(set, service)]),

            // Endpoints.
            Self::Terminating { service, label, serving } => part
                .cause("D20", "TERMINATING", 8)
                .explains(&["NONE-READY"])
                .text(|| {
                    let serves = match serving {
                        Some(true) => ", still serving",
                        Some(false) => ", not serving any more",
                        None => "",
                    };
                    format!("{label} of Service {service} is terminating{serves}")
                })
                .about(|| [FindingSubject::service(service)]),
            Self::NotReady { service, label, pod, serving } => part
                .cause("D19", "NOT-READY", 9)
                .explains(&["NONE-READY"])
                .text(|| {
                    let serves = if *serving == Some(true) { ", though it serves" } else { "" };
                    format!("{label} of Service {service} is not ready{serves}")
                })
                .command(|| inspect(service, &pod.as_ref().map_or(Inspect::Slices, |pod| Inspect::Pod(pod))))
                .about(|| [FindingSubject::service(service)]),
            Self::HasHostname { service, hostname, resolves, .. } => part
                .cause("D27", "HAS-HOSTNAME", 10)
                .text(|| format!("this endpoint of Service {service} has a hostname: use {hostname}"))
                .query_command(|| resolves.then(|| format!("{hostname}.{}.{}.svc", service.name, service.namespace)))
                .about(|| [FindingSubject::service(service)]),
            Self::NoHostname { service, pod, address, selects, resolves } => part
                .cause("D26", "NO-HOSTNAME", 11)
                .level(if *selects { Level::Error } else { Level::Note })
                .text(|| {
                    let (name, dashed) = (&service.name, dashed_label(*address));
                    format!("the EndpointSlice of {name} gives {pod} no hostname; its name is {dashed}.{name}")
                })
                .query_command(|| resolves.then(|| format!("{}.{}.{}.svc", dashed_label(*address), service.name, service.namespace)))
                .about(|| [FindingSubject::service(service)]),
            Self::PodSubdomain { pod, hostname, subdomain, selecting } => part
                .cause("D67", "POD-SUBDOMAIN", 10)
                .level(Level::Warning)
                .needs(&[Needs::EveryService, Needs::EveryObject])
                .explains(&["NO-HOSTNAME", "NO-SERVICE", "OTHER-NAMESPACE", "NO-SUCH-ENDPOINT"])
                .text(|| {
                    let has = match subdomain {
                        None => format!("has the hostname {hostname} and no subdomain"),
                        Some(subdomain) => format!("has the subdomain {subdomain}, which names no Service"),
                    };
                    let selected = selecting.as_ref().map(|service| format!("; {service} selects it"));
                    format!("Pod {pod} {has}{}", selected.unwrap_or_default())
                })
                .fix(|| {
                    let service = selecting.as_ref()?;
                    Some(Fix::Advice(format!("create Pod {pod} again with the subdomain {service}")))
                })
                .about(|| {
                    let selecting = selecting.iter().map(|service| FindingSubject::service_beside(pod, service));
                    std::iter::once(FindingSubject::pod(pod)).chain(selecting)
                }),
            Self::PodFinished { pod } => part
                .cause("D21", "POD-FINISHED", 12)
                .explains(&["STS-NOT-YET", "NO-ENDPOINTS", "NONE-READY", "TEMPLATE-DIFFERS"])
                .text(|| format!("Pod {pod} has run to its end"))
                .command(|| describe_pod(&pod.namespace, &pod.name))
                .about(|| [FindingSubject::pod(pod)]),
            Self::PodWithoutAddress { pod } => part
                .cause("D18", "POD-NO-ADDRESS", 12)
                .explains(&["STS-NOT-YET", "NO-ENDPOINTS", "NONE-READY", "TEMPLATE-DIFFERS"])
                .text(|| format!("Pod {pod} has no address yet"))
                .command(|| describe_pod(&pod.namespace, &pod.name))
                .about(|| [FindingSubject::pod(pod)]),
            Self::OrdinalNotThere { set, service, ordinal, waits_for, selects, has_address } => part
                .cause("D17", "STS-NOT-YET", 13)
                .explains(&["NO-ENDPOINTS", "NONE-READY"])
                .text(|| {
                    let name = &set.name;
                    match waits_for {
                        Some(first) if first != ordinal => format!(
                            "{name}-{first} is not ready, and Pods are made in order; {name}-{ordinal} is in no slice \
                             of {service}"
                        ),
                        _ if !selects => {
                            format!("{name}-{ordinal} is in no slice of {service}, which has no selector")
                        }
                        _ if *has_address => {
                            format!("{name}-{ordinal} is in no slice of {service}, though its Pod has an address")
                        }
                        _ => format!("{name}-{ordinal} is in no slice of {service}: no Pod, no address, or not selected"),
                    }
                })
                .command(|| describe_pod(&set.namespace, &format!("{}-{}", set.name, waits_for.unwrap_or(*ordinal))))
                .about(|| [FindingSubject::stateful_set(set), FindingSubject::service_beside(set, service)]),

            // Ports.
            Self::NoTargetPort { service, port, target } => part
                .cause("D34", "NO-TARGET-PORT", 14)
                .level(Level::Error)
                .text(|| format!("port {port} of Service {service} leads to the port {target}, which no endpoint has"))
                .advice(|| {
                    format!(
                        "give a container of the Pods a port named {target}, or let port {port} of Service {service} \
                         lead to one that they have"
                    )
                })
                .about(|| [FindingSubject::service(service)]),
            Self::PortNumber { service, number, name, protocol } => part
                .cause("D33", "PORT-NUMBER", 15)
                .text(|| match name {
                    Some(name) => {
                        format!("ports are asked for by name: _{name}.{} of Service {service}", protocol.label())
                    }
                    None => format!(
                        "ports are asked for by name, and port {number} of Service {service} has none: ask the \
                         Service's name"
                    ),
                })
                .advice(|| match name {
                    Some(name) => {
                        format!("ask for _{name}.{}.{}.{}.svc", protocol.label(), service.name, service.namespace)
                    }
                    None => ask_for_srv(service),
                })
                .about(|| [FindingSubject::service(service)]),
            Self::OtherProtocol { service, port, protocols } => part
                .cause("D31", "OTHER-PROTOCOL", 16)
                .text(|| {
                    let labels: Vec<&str> = protocols.iter().map(|protocol| protocol.label()).collect();
                    format!("port {port} of Service {service} is {}", join_list(&labels, " and "))
                })
                .fix(|| {
                    let label = protocols.first()?.label();
                    Some(Fix::Advice(format!("ask for _{port}.{label}.{}.{}.svc", service.name, service.namespace)))
                })
                .about(|| [FindingSubject::service(service)]),
            Self::PortUnnamed { service, number, is_only } => part
                .cause("D32", "PORT-UNNAMED", 17)
                .explains(&["NO-PORT"])
                .level(if *is_only { Level::Note } else { Level::Warning })
                .text(|| format!("port {number} of Service {service} has no name: its SRV record is at the Service's name"))
                .advice(|| ask_for_srv(service))
                .about(|| [FindingSubject::service(service)]),
            Self::PortNotInSlices { service, port, protocol, instead } => part
                .cause("D59", "PORT-NOT-IN-SLICE", 16)
                .level(Level::Warning)
                .explains(&["PORT-UNNAMED", "NO-PORT"])
                .text(|| match instead {
                    Some((slice, EndpointPort { name, number, .. })) if name.is_empty() => {
                        format!("EndpointSlice {slice} gives port {number} no name, Service {service} calls it {port}")
                    }
                    Some((slice, EndpointPort { name, number, .. })) => {
                        format!("EndpointSlice {slice} calls port {number} {name}, Service {service} calls it {port}")
                    }
                    None => {
                        let protocol = protocol.label();
                        format!("no EndpointSlice of Service {service} has its port _{port}.{protocol}")
                    }
                })
                .advice(|| match instead {
                    Some((slice, port_there)) => {
                        format!("name port {} of EndpointSlice {slice} {port}", port_there.number)
                    }
                    None => format!("write port {port} into the EndpointSlices of Service {service}"),
                })
                .about(|| {
                    let slice = instead.iter().map(|(slice, _)| FindingSubject::slice(slice));
                    std::iter::once(FindingSubject::service(service)).chain(slice)
                }),
            Self::NoPort { service, port, known, meant } => part
                .cause("D30", "NO-PORT", 18)
                .text(|| {
                    let others = match &known[..] {
                        [] => String::new(),
                        known => format!("; it has {}", list_names(known)),
                    };
                    format!("Service {service} has no port named {port}{others}")
                })
                .fix(|| {
                    let meant = meant.as_ref()?;
                    Some(Fix::Advice(format!("ask for {meant}.{}.{}.svc", service.name, service.namespace)))
                })
                .about(|| [FindingSubject::service(service)]),

            // Services and their slices.
            Self::FqdnSlice { slice } => part
                .cause("D41", "FQDN-SLICE", 19)
                .level(Level::Error)
                .text(|| format!("EndpointSlice {slice} has addressType FQDN, which is not answered"))
                .advice(|| format!("write EndpointSlice {slice} with addresses (addressType IPv4 or IPv6)"))
                .about(|| [FindingSubject::slice(slice)]),
            Self::SliceWithoutService { slice, service } => part
                .cause("D56", "SLICE-NO-SERVICE", 19)
                .level(Level::Error)
                .needs(&[Needs::EveryService, Needs::EveryObject])
                .text(|| format!("EndpointSlice {slice} belongs to Service {service}, which does not exist"))
                .advice(|| {
                    format!(
                        "create Service {service} in namespace {}, or correct the label kubernetes.io/service-name of {}",
                        slice.namespace, slice.name
                    )
                })
                .about(|| [FindingSubject::slice(slice)]),
            Self::SliceOfNobody { slice, endpoints } => part
                .note("D55", "SLICE-OF-NOBODY")
                .level(Level::Warning)
                .text(|| {
                    format!(
                        "EndpointSlice {slice} has no label kubernetes.io/service-name: its {endpoints} endpoints \
                         have no names"
                    )
                })
                .advice(|| {
                    let (namespace, name) = (&slice.namespace, &slice.name);
                    format!(
                        "if it is a Service's: kubectl -n {namespace} label endpointslice {name} \
                         kubernetes.io/service-name=SERVICE"
                    )
                })
                .about(|| [FindingSubject::slice(slice)]),
            Self::NoEndpoints { service, selector, differs } => part
                .cause("D22", "NO-ENDPOINTS", if differs.is_some() { 12 } else { 20 })
                .level(if differs.is_some() { Level::Error } else { Level::Warning })
                .needs(if differs.is_some() { &[] } else { &[Needs::EveryObject, Needs::LivePods] })
                .explains(if differs.is_some() { &["STS-NOT-YET"] } else { &[] })
                .text(|| match differs {
                    Some(differs) => {
                        let LabelMismatch { key, selected, .. } = &differs.labels[0];
                        let (set, has) = (&differs.set, differs.has());
                        format!("Service {service} selects {key}={selected}, StatefulSet {set} requires {has} of its Pods")
                    }
                    None if selector.is_empty() => format!("Service {service} has 0 endpoints"),
                    None => format!("Service {service} has 0 endpoints; it selects {}", pairs(selector)),
                })
                .fix(|| match differs {
                    // The patch changes only values: each selected label stays selected.
                    Some(differs) if differs.alone => {
                        let labels: BTreeMap<&str, _> =
                            differs.labels.iter().map(|label| (&*label.key, &label.has)).collect();
                        Some(Fix::Command(patch(service, &serde_json::json!({ "selector": labels }))))
                    }
                    None if selector.is_empty() => Some(Fix::Advice(format!(
                        "write endpoints into the EndpointSlices of Service {service}, or give it a selector"
                    ))),
                    _ => Some(Fix::Command(format!("kubectl -n {} get pods --show-labels", service.namespace))),
                })
                .about(|| [FindingSubject::service(service)]),
            Self::NoSlice { service, unlabelled } => part
                .cause("D23", "NO-SLICE", 20)
                .level(if unlabelled.is_empty() { Level::Warning } else { Level::Error })
                .needs(&[Needs::EveryObject, Needs::LivePods])
                .text(|| {
                    let label = format!("kubernetes.io/service-name={}", service.name);
                    format!("Service {service} has no selector, and no EndpointSlice has the label {label}")
                })
                .fix(|| {
                    let (namespace, name) = (&service.namespace, &service.name);
                    let label = format!("kubernetes.io/service-name={name}");
                    Some(match &unlabelled[..] {
                        [slice] => Fix::Command(format!("kubectl -n {namespace} label endpointslice {slice} {label}")),
                        [] => Fix::Advice(format!(
                            "give Service {service} a selector, or write an EndpointSlice with the label {label}"
                        )),
                        several => Fix::Advice(format!(
                            "give the label {label} to the EndpointSlice that is its own: {} have none",
                            list_names(several)
                        )),
                    })
                })
                .about(|| [FindingSubject::service(service)]),
            Self::NoneReady { service, of, selector } => part
                .cause("D24", "NONE-READY", 20)
                .level(Level::Warning)
                .text(|| format!("0 of {of} endpoints of Service {service} are ready"))
                .command(|| {
                    let pods = if selector.is_empty() { Inspect::Slices } else { Inspect::Selected(selector) };
                    inspect(service, &pods)
                })
                .about(|| [FindingSubject::service(service)]),
            Self::NothingBehind { service } => part
                .note("D69", "NO-READY-ENDPOINT")
                .text(|| format!("Service {service} has a clusterIP and 0 ready endpoints: connections to it fail"))
                .about(|| [FindingSubject::service(service)]),
            Self::NoClusterIp { service } => part
                .cause("D53", "NO-CLUSTER-IP", 20)
                .level(Level::Note)
                .text(|| format!("Service {service} has no clusterIP"))
                .advice(|| "give it one, or let --simulate do so; in a cluster the API server does".into())
                .about(|| [FindingSubject::service(service)]),
            Self::NoPorts { service } => part
                .cause("D35", "NO-PORTS", 21)
                .level(Level::Note)
                .text(|| format!("Service {service} has no ports, so no SRV records"))
                .advice(|| format!("give Service {service} a port"))
                .about(|| [FindingSubject::service(service)]),
            Self::NoFamily { service, label, family } => part
                .cause("D38", "NO-FAMILY", 21)
                .text(|| {
                    let family = family.name();
                    match label {
                        Some(label) => format!("{label} of Service {service} has no {family} address"),
                        None => format!("Service {service} has no {family} address"),
                    }
                })
                .about(|| [FindingSubject::service(service)]),
            Self::PublishedNotReady { service } => part
                .note("D25", "PUBLISHED-NOT-READY")
                .level(Level::Note)
                .text(|| {
                    format!(
                        "Service {service} publishes endpoints that its slices call not ready: other DNS servers may \
                         not answer"
                    )
                })
                .about(|| [FindingSubject::service(service)]),
            Self::OutsideReverse { service, address, of } => part
                .note("D57", "OUTSIDE-REVERSE")
                .level(Level::Warning)
                .text(|| match of {
                    1 => format!("{address}, an endpoint of Service {service}, is in no reverse zone that is served"),
                    _ => format!(
                        "{of} addresses of endpoints of Service {service}, as {address}, are in no reverse zone that \
                         is served"
                    ),
                })
                .advice(|| "start the server with --reverse CIDR for each network of Pods and Services".into())
                .about(|| [FindingSubject::service(service)]),

            // ExternalNames.
            Self::BelowExternalName { service, target } => part
                .cause("D36", "BELOW-EXTERNALNAME", 21)
                .text(|| format!("Service {service} is an ExternalName ({target}): nothing is below its name"))
                .about(|| [FindingSubject::service(service)]),
            Self::BadExternalName { service, value } => part
                .cause("D39", "BAD-EXTERNALNAME", 21)
                .level(Level::Error)
                .text(|| format!("externalName {value:?} of Service {service} is no domain name"))
                .advice(|| {
                    let instead = if value.parse::<IpAddr>().is_ok() {
                        "use a headless Service without a selector, and an EndpointSlice with that address"
                    } else {
                        "set externalName to a domain name"
                    };
                    format!("Service {service}: {instead}")
                })
                .about(|| [FindingSubject::service(service)]),
            Self::ExternalNameLoop { service } => part
                .cause("D40", "EXTERNALNAME-LOOP", 21)
                .level(Level::Error)
                .text(|| format!("Service {service} leads back to a name that was followed already"))
                .advice(|| edit_external_name(service, "a name that exists"))
                .about(|| [FindingSubject::service(service)]),
            Self::ExternalNameLong { service, most } => part
                .cause("D40", "EXTERNALNAME-LONG", 21)
                .level(Level::Error)
                .text(|| {
                    format!("externalName of Service {service} leads through more than {most} names: the rest is not followed")
                })
                .advice(|| edit_external_name(service, "the last name of the chain"))
                .about(|| [FindingSubject::service(service)]),
            Self::ExternalNameDangling { service, target, endpoint } => part
                .cause("D40", "EXTERNALNAME-DANGLING", 21)
                .level(Level::Error)
                .needs(match endpoint {
                    true => &[Needs::EveryService, Needs::EveryObject, Needs::LivePods],
                    false => &[Needs::EveryService, Needs::EveryObject],
                })
                .text(|| format!("{} does not exist, and Service {service} is an ExternalName for it", target.without_final_dot()))
                .advice(|| edit_external_name(service, "a name that exists"))
                .about(|| [FindingSubject::service(service)]),
            Self::ExternalNameShort { service, target, meant } => part
                .note("D65", "EXTERNALNAME-SHORT")
                .level(Level::Warning)
                .text(|| {
                    let (target, meant) = (target.without_final_dot(), meant.without_final_dot());
                    format!("externalName {target} of Service {service} is completed by no search list: write {meant}")
                })
                .advice(|| edit_external_name(service, &meant.without_final_dot()))
                .about(|| [FindingSubject::service(service)]),
            Self::ExternalNameOutside { service, target } => part
                .note("D52", "EXTERNALNAME-OUTSIDE")
                .level(Level::Warning)
                .text(|| format!("Service {service} leads out to {}: a stub resolver does not follow it", target.without_final_dot()))
                .about(|| [FindingSubject::service(service)]),

            // Similar names, and names that do not exist.
            Self::SuffixMistyped { service, meant, resolves } => part
                .guess("D64", "SUFFIX-MISTYPED", 30)
                .text(|| format!("the name does not end in a zone that is served here: did you mean {}", meant.without_final_dot()))
                .query_command(|| resolves.then(|| meant.without_final_dot()))
                .about(|| [FindingSubject::service(service)]),
            Self::NamespaceForgotten { service, candidates, meant } => part
                .guess("D63", "NO-NAMESPACE-LABEL", 29)
                .explains(&["NO-NAMESPACE", "NO-BRANCH"])
                .text(|| format!("the namespace is missing: Service {service} exists in {}", candidates.namespaces()))
                .query_command(|| meant.as_deref())
                .about(|| candidates.listed.iter().map(FindingSubject::service)),
            Self::NoNamespace { namespace, declared, elsewhere, meant } => part
                .guess("D05", "NO-NAMESPACE", 30)
                .text(|| {
                    let missing = match declared {
                        true => format!("namespace {namespace} does not exist"),
                        false => format!("no object that was read is in namespace {namespace}"),
                    };
                    match elsewhere.listed.first() {
                        Some(first) => format!("{missing}; Service {} exists in {}", first.name, elsewhere.namespaces()),
                        None => missing,
                    }
                })
                .query_command(|| meant.as_deref())
                .about(|| elsewhere.listed.iter().map(FindingSubject::service)),
            Self::Swapped { service, meant } => part
                .guess("D06", "SWAPPED", 29)
                .explains(&["NO-NAMESPACE"])
                .text(|| {
                    let (name, namespace) = (&service.name, &service.namespace);
                    format!("Service {name} is in namespace {namespace}: the Service comes first, then the namespace")
                })
                .query_command(|| meant.as_deref())
                .about(|| [FindingSubject::service(service)]),
            Self::NoService { service, near, meant } => part
                .guess("D08", "NO-SERVICE", 32)
                .needs(&[Needs::EveryService])
                .text(|| match &near[..] {
                    [] => format!("Service {service} does not exist"),
                    near => format!("Service {service} does not exist; there is {}", join_list(near, " and ")),
                })
                .query_command(|| meant.as_deref())
                .about(|| near.iter().map(|name| FindingSubject::service_beside(service, name))),
            Self::OtherNamespace { service, elsewhere, meant } => part
                .guess("D29", "OTHER-NAMESPACE", 33)
                .text(|| format!("{} exists in {}", service.name, elsewhere.namespaces()))
                .query_command(|| meant.as_deref())
                .about(|| elsewhere.listed.iter().map(FindingSubject::service)),
            Self::NotAnEndpoint { service, address, elsewhere } => part
                .guess("D28", "NOT-AN-ENDPOINT", 34)
                .text(|| format!("{address} is no endpoint of Service {service}"))
                .fix(|| {
                    let only = elsewhere.only()?;
                    Some(Fix::Advice(format!("ask for {}.{}.{}.svc", dashed_label(*address), only.name, only.namespace)))
                })
                .about(|| std::iter::once(FindingSubject::service(service)).chain(elsewhere.listed.iter().map(FindingSubject::service))),
            Self::NoSuchEndpoint { service, label, known } => part
                .guess("D54", "NO-SUCH-ENDPOINT", 34)
                .text(|| {
                    let others = match &known[..] {
                        [] => ", and none with a hostname".into(),
                        known => format!("; it has {}", list_names(known)),
                    };
                    format!("Service {service} has no endpoint named {label}{others}")
                })
                .about(|| [FindingSubject::service(service)]),
            Self::AddressUnknown { address, not_ready, pod } => part
                .guess("D44", "ADDRESS-UNKNOWN", 34)
                .text(|| match (&not_ready[..], pod) {
                    ([first, ..], _) => format!("{address} is an endpoint of Service {first} that is not ready"),
                    ([], Some(pod)) => format!("{address} is Pod {pod}, an endpoint of no Service"),
                    ([], None) => format!("{address} belongs to no Service and no endpoint"),
                })
                .about(|| not_ready.iter().map(FindingSubject::service).chain(pod.iter().map(FindingSubject::pod))),
            Self::NoBranch { label } => part
                .guess("D60", "NO-BRANCH", 35)
                .text(|| format!("{label} is neither svc nor pod: names of Services and Pods are below these two labels")),
            Self::TooManyLabels => part.guess("D04", "TOO-MANY-LABELS", 35).text(|| {
                "more labels than any name here has: a search list was applied to a name outside the cluster".into()
            }),
        }
    }
}

impl SelectorMismatch {
    /// Returns the label that the Pods have in place of the first mismatched one.
    fn has(&self) -> String {
        let LabelMismatch { key, has, .. } = &self.labels[0];
        match has {
            Some(has) => format!("{key}={has}"),
            None => format!("no {key}"),
        }
    }
}

impl Candidates {
    /// Returns the namespaces of the candidates, and the number of candidates that are not listed.
    fn namespaces(&self) -> String {
        let mut names: Vec<String> =
            self.listed.iter().map(|service| format!("namespace {}", service.namespace)).collect();
        let unlisted = self.total - self.listed.len();
        if unlisted > 0 {
            names.push(format!("{unlisted} more"));
        }
        join_list(&names, " and ")
    }
}

/// Returns the dashed form of an address, a label.
pub(super) fn dashed_label(address: IpAddr) -> String {
    let mut buffer = [0; 63];
    String::from_utf8_lossy(crate::name::dashed::write(address, &mut buffer)).into_owned()
}

/// Returns `a and b`; for more than [`MAX_NAMES`] items, the first of them and `and others`.
fn list_names(items: &[Box<str>]) -> String {
    match items.get(..MAX_NAMES).filter(|_| items.len() > MAX_NAMES) {
        Some(first) => format!("{} and others", join_list(first, ", ")),
        None => join_list(items, " and "),
    }
}

/// Returns `a, b and c`, with `last` before the last item.
pub(super) fn join_list<T: AsRef<str>>(items: &[T], last: &str) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    match items.split_last() {
        None => String::new(),
        Some((one, [])) => (*one).to_owned(),
        Some((end, rest)) => format!("{}{last}{end}", rest.join(", ")),
    }
}
