//! What can be found out about a name: one variant a cause, with what it claims of the objects.
//!
//! A finding is a value: it holds names and numbers, never text. [`Finding::what`] says it in one sentence,
//! [`Finding::brief`] in the few octets of an Extended DNS Error. How it is found is `find.rs`, what helps is `fix.rs`.
//! The ids are those of the table in `tests/causes.md`.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use crate::names::WireName;
use crate::objects::{Family, Labels, ObjectRef, Protocol};

/// How long the text in an answer may be, in octets.
pub const MAX_BRIEF: usize = 120;

/// Why a name does not resolve, or what is to be known of one that does.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// No zone of this server is the name's end.
    OutsideZones,
    /// `service.namespace.Z`: the label `svc` is missing, and the Service exists.
    NoSvcLabel {
        /// The Service.
        service: ObjectRef,
        /// The name with the label.
        meant: WireName,
    },
    /// The zone's labels stand in the name twice: a search list was applied to an absolute name.
    SuffixTwice {
        /// The name without the second zone.
        meant: WireName,
    },
    /// More labels than any name has: a search list was applied to a name of somewhere else.
    TooManyLabels,
    /// There is no such namespace.
    NoNamespace {
        /// The namespace of the question.
        namespace: Box<str>,
        /// Whether Namespace objects are known: if not, nothing stands in it, and that is all that is known.
        declared: bool,
        /// Services of the name asked for in other namespaces.
        elsewhere: Vec<ObjectRef>,
    },
    /// Service and namespace stand in the wrong order.
    Swapped {
        /// The Service that exists.
        meant: ObjectRef,
    },
    /// There is no such Service.
    NoService {
        /// The Service of the question.
        service: ObjectRef,
        /// Services of the namespace with names like it.
        near: Vec<Box<str>>,
    },
    /// A Pod's name where a Service's is expected.
    PodAsService {
        /// The Pod's name.
        pod: ObjectRef,
        /// The Service below whose name the Pod's stands.
        service: Box<str>,
    },
    /// A name in the `pod` branch whose first label is no address.
    PodNotAddress {
        /// The label.
        label: Box<str>,
    },
    /// The StatefulSet names no Service.
    NoServiceName {
        /// The StatefulSet.
        set: ObjectRef,
    },
    /// The StatefulSet names a Service that does not exist.
    GoverningMissing {
        /// The StatefulSet.
        set: ObjectRef,
        /// Its `serviceName`.
        service: Box<str>,
        /// Services of the namespace that select its Pods.
        selecting: Vec<Box<str>>,
        /// What the missing Service has to select.
        selector: Labels,
        /// Ports of its Pods, by which the missing Service can be reached: name and number.
        ports: Vec<(Box<str>, Protocol, u16)>,
    },
    /// The Pod's name stands below another Service than the one asked for.
    OtherGoverning {
        /// The StatefulSet.
        set: ObjectRef,
        /// The Pod's name.
        pod: Box<str>,
        /// The Service below which its name stands.
        governing: Box<str>,
        /// The Service of the question.
        asked: Box<str>,
    },
    /// The governing Service has an address of its own. The names resolve here all the same.
    GoverningNotHeadless {
        /// The StatefulSet.
        set: ObjectRef,
        /// Its governing Service.
        service: Box<str>,
    },
    /// The governing Service is an ExternalName: nothing stands below it.
    GoverningExternal {
        /// The StatefulSet.
        set: ObjectRef,
        /// Its governing Service.
        service: Box<str>,
    },
    /// The StatefulSet has no Pod of this ordinal.
    OrdinalOutOfRange {
        /// The StatefulSet.
        set: ObjectRef,
        /// The ordinal of the question.
        ordinal: u32,
        /// Its first ordinal.
        start: u32,
        /// How many Pods it has.
        replicas: u32,
    },
    /// The ordinal should exist, and is in no slice of the governing Service.
    OrdinalNotThere {
        /// The StatefulSet.
        set: ObjectRef,
        /// Its governing Service.
        service: Box<str>,
        /// The ordinal of the question.
        ordinal: u32,
        /// The lowest ordinal that does not serve: the controller makes Pods in order, and waits for it.
        waits_for: Option<u32>,
    },
    /// The Pod exists and has no address.
    PodWithoutAddress {
        /// The Pod.
        pod: ObjectRef,
    },
    /// The endpoint is in a slice, and not ready.
    NotReady {
        /// The Service.
        service: ObjectRef,
        /// The first label of the endpoint's name.
        label: Box<str>,
        /// Whether it serves all the same, where that is known.
        serving: Option<bool>,
    },
    /// The endpoint is in a slice, and its Pod is being deleted.
    Terminating {
        /// The Service.
        service: ObjectRef,
        /// The first label of the endpoint's name.
        label: Box<str>,
        /// Whether it still serves, where that is known.
        serving: Option<bool>,
    },
    /// The Pod has run to its end.
    PodFinished {
        /// The Pod.
        pod: ObjectRef,
    },
    /// The Service's slices list no endpoint at all.
    NoEndpoints {
        /// The Service.
        service: ObjectRef,
        /// Whether it has a selector.
        selects: bool,
        /// A StatefulSet that it governs and whose Pods it does not select.
        differs: Option<Differs>,
    },
    /// The Service has no selector, and no slice has its name.
    NoSlice {
        /// The Service.
        service: ObjectRef,
        /// Slices of the namespace without the label that would say whose they are.
        unlabelled: Vec<Box<str>>,
    },
    /// None of the Service's endpoints is ready.
    NoneReady {
        /// The Service.
        service: ObjectRef,
        /// How many endpoints its slices list.
        of: usize,
    },
    /// An endpoint that is not ready is answered, since its Service says so.
    PublishedNotReady {
        /// The Service.
        service: ObjectRef,
    },
    /// The slice gives the Pod's endpoint no hostname.
    NoHostname {
        /// The Service.
        service: ObjectRef,
        /// The Pod's name, as asked for.
        pod: Box<str>,
        /// The endpoint's address, of which its name is made.
        address: IpAddr,
    },
    /// A dashed address, of an endpoint that has a hostname.
    HasHostname {
        /// The Service.
        service: ObjectRef,
        /// The address.
        address: IpAddr,
        /// The hostname.
        hostname: Box<str>,
    },
    /// A dashed address that is no endpoint of this Service.
    NotAnEndpoint {
        /// The Service.
        service: ObjectRef,
        /// The address.
        address: IpAddr,
        /// Services that have this endpoint.
        elsewhere: Vec<ObjectRef>,
    },
    /// The Service has no endpoint of this name.
    NoSuchEndpoint {
        /// The Service.
        service: ObjectRef,
        /// The label asked for.
        label: Box<str>,
        /// Hostnames that its slices list.
        known: Vec<Box<str>>,
    },
    /// The name exists in another namespace.
    OtherNamespace {
        /// The Service of the question.
        service: ObjectRef,
        /// The Services of that name elsewhere.
        elsewhere: Vec<ObjectRef>,
    },
    /// The Service has no port of this name.
    NoPort {
        /// The Service.
        service: ObjectRef,
        /// The name asked for, without its underscore.
        port: Box<str>,
        /// The names that exist: `_http._tcp`.
        known: Vec<Box<str>>,
    },
    /// The port has another protocol.
    OtherProtocol {
        /// The Service.
        service: ObjectRef,
        /// The port's name.
        port: Box<str>,
        /// The protocols that it has.
        protocols: Vec<Protocol>,
    },
    /// A port without a name has no SRV name of its own.
    PortUnnamed {
        /// The Service.
        service: ObjectRef,
        /// The port's number.
        number: u16,
    },
    /// A port's number where its name is expected.
    PortNumber {
        /// The Service.
        service: ObjectRef,
        /// The number.
        number: u16,
        /// The port's name; none where it has none.
        name: Option<Box<str>>,
        /// The port's protocol.
        protocol: Protocol,
    },
    /// The Service's port leads to a named port that no endpoint has.
    NoTargetPort {
        /// The Service.
        service: ObjectRef,
        /// The Service's port.
        port: Box<str>,
        /// Its `targetPort`.
        target: Box<str>,
    },
    /// The Service has no ports.
    NoPorts {
        /// The Service.
        service: ObjectRef,
    },
    /// Below an ExternalName there is nothing.
    BelowExternalName {
        /// The Service.
        service: ObjectRef,
        /// Where it leads.
        target: Box<str>,
    },
    /// SRV of one Pod's port.
    PortOfPod {
        /// The name below which the ports stand.
        meant: WireName,
    },
    /// The Service has no address of this family.
    NoFamily {
        /// The Service.
        service: ObjectRef,
        /// The family asked for.
        family: Family,
    },
    /// The ExternalName is no name.
    BadExternalName {
        /// The Service.
        service: ObjectRef,
        /// Its value.
        value: Box<str>,
    },
    /// The ExternalName leads back to itself.
    ExternalNameLoop {
        /// The Service.
        service: ObjectRef,
    },
    /// The ExternalName leads through more names than are followed.
    ExternalNameLong {
        /// The Service.
        service: ObjectRef,
        /// How many are followed.
        most: usize,
    },
    /// The ExternalName leads to a name in this zone that does not exist.
    ExternalNameDangling {
        /// The Service.
        service: ObjectRef,
        /// The last name of the chain.
        target: WireName,
    },
    /// The ExternalName leads to a name outside: stub resolvers do not follow it.
    ExternalNameOutside {
        /// The Service.
        service: ObjectRef,
        /// The name outside.
        target: WireName,
    },
    /// A slice of names instead of addresses.
    FqdnSlice {
        /// The slice.
        slice: ObjectRef,
    },
    /// The `pod` branch is switched off.
    PodRecordsOff,
    /// No Pod of the namespace has this address.
    PodUnknown {
        /// The namespace.
        namespace: Box<str>,
        /// The address.
        address: IpAddr,
        /// A Pod of another namespace that has it.
        elsewhere: Option<ObjectRef>,
    },
    /// The address has no name: no endpoint of a Service that is ready.
    AddressUnknown {
        /// The address.
        address: IpAddr,
        /// Endpoints that have it and are not ready: their Services.
        not_ready: Vec<ObjectRef>,
        /// A Pod that has it and that no Service selects.
        pod: Option<ObjectRef>,
    },
    /// A label `*`.
    Wildcard,
    /// A Service with an address of its own that has none yet.
    NoClusterIp {
        /// The Service.
        service: ObjectRef,
    },
    /// The governing Service does not select the StatefulSet's Pods, whatever else it selects.
    SetNotSelected {
        /// The StatefulSet.
        set: ObjectRef,
        /// Its governing Service.
        service: Box<str>,
        /// How they differ.
        differs: Differs,
    },
    /// The slice says of no Service that it is its own.
    SliceOfNobody {
        /// The slice.
        slice: ObjectRef,
        /// How many endpoints it lists.
        endpoints: usize,
    },
    /// The slice belongs to a Service that does not exist.
    SliceWithoutService {
        /// The slice.
        slice: ObjectRef,
        /// The Service.
        service: Box<str>,
    },
    /// Endpoints have addresses in no reverse zone: their addresses lead back to no name here.
    OutsideReverse {
        /// The Service.
        service: ObjectRef,
        /// The first of the addresses.
        address: IpAddr,
        /// How many there are.
        of: usize,
    },
    /// Objects of this resource have not been read yet.
    NotSynced {
        /// What is waited for.
        waiting_for: Vec<String>,
        /// Whether the API server forbids it.
        forbidden: bool,
        /// For how long, in seconds; 0 where that is not known.
        seconds: u64,
    },
    /// The API server is out of reach, and what is answered may be old.
    Stale {
        /// For how long, in seconds; 0 where that is not known.
        seconds: u64,
    },
}

/// A StatefulSet whose Pods its governing Service does not select.
#[derive(Clone, Debug, PartialEq)]
pub struct Differs {
    /// The StatefulSet.
    pub set: Box<str>,
    /// The labels that differ, at least one.
    pub labels: Vec<Difference>,
    /// Whether they have none of the labels that the Service selects.
    pub entirely: bool,
}

/// A label that is not what is selected.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The label's key.
    pub key: Box<str>,
    /// What the Service selects.
    pub selected: Box<str>,
    /// What the Pods have; nothing where they do not have the label.
    pub has: Option<Box<str>>,
}

/// How much a finding matters to whoever asked for the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It is the reason, or one of several.
    Cause,
    /// It may be what was meant: a guess from names that are near.
    Guess,
    /// The name resolves, and there is something to know.
    Note,
}

/// An object that a finding speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Its kind, as the Kubernetes API writes it.
    pub kind: &'static str,
    /// Its namespace and name.
    pub key: ObjectRef,
}

impl Finding {
    /// The id of the cause, and its token for scripts: both never change.
    pub fn identity(&self) -> (&'static str, &'static str) {
        match self {
            Self::OutsideZones => ("D01", "OUTSIDE-ZONES"),
            Self::NoSvcLabel { .. } => ("D02", "NO-SVC-LABEL"),
            Self::SuffixTwice { .. } => ("D03", "SUFFIX-TWICE"),
            Self::TooManyLabels => ("D04", "TOO-MANY-LABELS"),
            Self::NoNamespace { .. } => ("D05", "NO-NAMESPACE"),
            Self::Swapped { .. } => ("D06", "SWAPPED"),
            Self::NoService { .. } => ("D08", "NO-SERVICE"),
            Self::PodAsService { .. } => ("D09", "POD-AS-SERVICE"),
            Self::PodNotAddress { .. } => ("D10", "POD-NOT-ADDRESS"),
            Self::NoServiceName { .. } => ("D11", "STS-NO-SERVICENAME"),
            Self::GoverningMissing { .. } => ("D12", "STS-NO-SERVICE"),
            Self::OtherGoverning { .. } => ("D13", "STS-OTHER-SERVICE"),
            Self::GoverningNotHeadless { .. } => ("D14", "STS-NOT-HEADLESS"),
            Self::GoverningExternal { .. } => ("D15", "STS-EXTERNALNAME"),
            Self::OrdinalOutOfRange { .. } => ("D16", "STS-ORDINAL"),
            Self::OrdinalNotThere { .. } => ("D17", "STS-NOT-YET"),
            Self::PodWithoutAddress { .. } => ("D18", "POD-NO-ADDRESS"),
            Self::NotReady { .. } => ("D19", "NOT-READY"),
            Self::Terminating { .. } => ("D20", "TERMINATING"),
            Self::PodFinished { .. } => ("D21", "POD-FINISHED"),
            Self::NoEndpoints { .. } => ("D22", "NO-ENDPOINTS"),
            Self::NoSlice { .. } => ("D23", "NO-SLICE"),
            Self::NoneReady { .. } => ("D24", "NONE-READY"),
            Self::PublishedNotReady { .. } => ("D25", "PUBLISHED-NOT-READY"),
            Self::NoHostname { .. } => ("D26", "NO-HOSTNAME"),
            Self::HasHostname { .. } => ("D27", "HAS-HOSTNAME"),
            Self::NotAnEndpoint { .. } => ("D28", "NOT-AN-ENDPOINT"),
            Self::OtherNamespace { .. } => ("D29", "OTHER-NAMESPACE"),
            Self::NoPort { .. } => ("D30", "NO-PORT"),
            Self::OtherProtocol { .. } => ("D31", "OTHER-PROTOCOL"),
            Self::PortUnnamed { .. } => ("D32", "PORT-UNNAMED"),
            Self::PortNumber { .. } => ("D33", "PORT-NUMBER"),
            Self::NoTargetPort { .. } => ("D34", "NO-TARGET-PORT"),
            Self::NoPorts { .. } => ("D35", "NO-PORTS"),
            Self::BelowExternalName { .. } => ("D36", "BELOW-EXTERNALNAME"),
            Self::PortOfPod { .. } => ("D37", "PORT-OF-POD"),
            Self::NoFamily { .. } => ("D38", "NO-FAMILY"),
            Self::BadExternalName { .. } => ("D39", "BAD-EXTERNALNAME"),
            Self::ExternalNameLoop { .. } => ("D40", "EXTERNALNAME-LOOP"),
            Self::ExternalNameLong { .. } => ("D40", "EXTERNALNAME-LONG"),
            Self::ExternalNameDangling { .. } => ("D40", "EXTERNALNAME-DANGLING"),
            Self::FqdnSlice { .. } => ("D41", "FQDN-SLICE"),
            Self::PodRecordsOff => ("D42", "POD-RECORDS-OFF"),
            Self::PodUnknown { .. } => ("D43", "POD-UNKNOWN"),
            Self::AddressUnknown { .. } => ("D44", "ADDRESS-UNKNOWN"),
            Self::Wildcard => ("D45", "WILDCARD"),
            Self::NotSynced { forbidden: false, .. } => ("D46", "NOT-SYNCED"),
            Self::NotSynced { forbidden: true, .. } => ("D47", "FORBIDDEN"),
            Self::Stale { .. } => ("D48", "STALE"),
            Self::ExternalNameOutside { .. } => ("D52", "EXTERNALNAME-OUTSIDE"),
            Self::NoClusterIp { .. } => ("D53", "NO-CLUSTER-IP"),
            Self::NoSuchEndpoint { .. } => ("D54", "NO-SUCH-ENDPOINT"),
            Self::SetNotSelected { .. } => ("D22", "STS-NOT-SELECTED"),
            Self::SliceOfNobody { .. } => ("D55", "SLICE-OF-NOBODY"),
            Self::SliceWithoutService { .. } => ("D56", "SLICE-NO-SERVICE"),
            Self::OutsideReverse { .. } => ("D57", "OUTSIDE-REVERSE"),
        }
    }

    /// How much it matters.
    pub fn severity(&self) -> Severity {
        match self {
            Self::GoverningNotHeadless { .. }
            | Self::PublishedNotReady { .. }
            | Self::ExternalNameOutside { .. }
            | Self::SliceOfNobody { .. }
            | Self::OutsideReverse { .. }
            | Self::Stale { .. } => Severity::Note,
            Self::NoNamespace { .. }
            | Self::Swapped { .. }
            | Self::NoService { .. }
            | Self::OtherNamespace { .. }
            | Self::NotAnEndpoint { .. }
            | Self::NoSuchEndpoint { .. }
            | Self::TooManyLabels
            | Self::AddressUnknown { .. } => Severity::Guess,
            _ => Severity::Cause,
        }
    }

    /// Whether it claims that a Service does not exist.
    pub fn misses_service(&self) -> bool {
        matches!(
            self,
            Self::GoverningMissing { .. }
                | Self::NoService { .. }
                | Self::ExternalNameDangling { .. }
                | Self::SliceWithoutService { .. }
        )
    }

    /// Of several findings the smallest goes into an answer: state, shape, StatefulSet, endpoint, Service, near names.
    pub fn rank(&self) -> u8 {
        match self {
            Self::NotSynced { .. } => 0,
            Self::OutsideZones | Self::PodNotAddress { .. } | Self::PortOfPod { .. } | Self::Wildcard => 1,
            Self::SuffixTwice { .. } | Self::NoSvcLabel { .. } | Self::PodRecordsOff | Self::PodUnknown { .. } => 2,
            Self::GoverningMissing { .. } => 3,
            Self::NoServiceName { .. } => 4,
            Self::GoverningExternal { .. } | Self::SetNotSelected { .. } => 5,
            Self::OrdinalOutOfRange { .. } => 6,
            Self::OtherGoverning { .. } | Self::PodAsService { .. } => 7,
            Self::Terminating { .. } => 8,
            Self::NotReady { .. } => 9,
            Self::HasHostname { .. } => 10,
            Self::NoHostname { .. } => 11,
            Self::PodFinished { .. } | Self::PodWithoutAddress { .. } => 12,
            Self::OrdinalNotThere { .. } => 13,
            Self::NoTargetPort { .. } => 14,
            Self::PortNumber { .. } => 15,
            Self::OtherProtocol { .. } => 16,
            Self::PortUnnamed { .. } => 17,
            Self::NoPort { .. } => 18,
            Self::FqdnSlice { .. } | Self::SliceWithoutService { .. } => 19,
            Self::NoEndpoints { .. } | Self::NoSlice { .. } | Self::NoneReady { .. } | Self::NoClusterIp { .. } => 20,
            Self::NoPorts { .. }
            | Self::BelowExternalName { .. }
            | Self::NoFamily { .. }
            | Self::BadExternalName { .. }
            | Self::ExternalNameLoop { .. }
            | Self::ExternalNameLong { .. }
            | Self::ExternalNameDangling { .. } => 21,
            Self::NoNamespace { .. } => 30,
            Self::Swapped { .. } => 31,
            Self::NoService { .. } => 32,
            Self::OtherNamespace { .. } => 33,
            Self::NotAnEndpoint { .. } | Self::NoSuchEndpoint { .. } | Self::AddressUnknown { .. } => 34,
            Self::TooManyLabels => 35,
            Self::GoverningNotHeadless { .. }
            | Self::PublishedNotReady { .. }
            | Self::ExternalNameOutside { .. }
            | Self::SliceOfNobody { .. }
            | Self::OutsideReverse { .. }
            | Self::Stale { .. } => 40,
        }
    }

    /// The Extended DNS Error code (RFC 8914): 0 (Other) for what only Kubernetes knows.
    pub fn code(&self) -> u16 {
        match self {
            Self::NotSynced { .. } => 14,
            Self::Stale { .. } => 3,
            Self::OutsideZones => 20,
            _ => 0,
        }
    }

    /// What is the matter, in one sentence without a full stop.
    pub fn what(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    /// The text of an answer: the token, and what is the matter; printable ASCII, at most [`MAX_BRIEF`] octets.
    pub fn brief(&self) -> String {
        let mut text = format!("{}: ", self.identity().1);
        let _ = self.write(&mut text);
        if !text.bytes().all(|octet| matches!(octet, b' '..=b'~')) {
            text = text.escape_default().to_string();
        }
        if text.len() > MAX_BRIEF {
            text.truncate(MAX_BRIEF - 3);
            text.push_str("...");
        }
        text
    }

    fn write(&self, f: &mut String) -> fmt::Result {
        match self {
            Self::OutsideZones => write!(f, "the name is in no zone that is served here"),
            Self::NoSvcLabel { meant, .. } => write!(f, "the label svc is missing: did you mean {}", bare(meant)),
            Self::SuffixTwice { meant } => {
                write!(f, "a search list was applied to {}; end the name with a dot", bare(meant))
            }
            Self::TooManyLabels => {
                write!(f, "more labels than any name here has: a search list was applied to a name from elsewhere")
            }
            Self::NoNamespace { namespace, declared: true, .. } => write!(f, "namespace {namespace} does not exist"),
            Self::NoNamespace { namespace, .. } => write!(f, "no object that was read is in namespace {namespace}"),
            Self::Swapped { meant } => write!(
                f,
                "Service {} is in namespace {}: the Service comes first, then the namespace",
                meant.name, meant.namespace
            ),
            Self::NoService { service, near } if near.is_empty() => write!(f, "Service {service} does not exist"),
            Self::NoService { service, near } => {
                write!(f, "Service {service} does not exist; there is {}", list(near, " and "))
            }
            Self::PodAsService { pod, service } => {
                write!(f, "{} is a Pod: its name is {}.{service}.{}.svc", pod.name, pod.name, pod.namespace)
            }
            Self::PodNotAddress { label } => {
                write!(f, "{label} is no address with dashes: names of Pods stand below their Service, in svc")
            }
            Self::NoServiceName { set } => {
                write!(f, "StatefulSet {set} names no Service, so its Pods have no names")
            }
            Self::GoverningMissing { set, service, selecting, .. } => {
                write!(f, "StatefulSet {set} names Service {service}, which does not exist")?;
                match &selecting[..] {
                    [] => Ok(()),
                    [one] => write!(f, "; {one} selects its Pods"),
                    several => write!(f, "; {} select its Pods", list(several, " and ")),
                }
            }
            Self::OtherGoverning { set, pod, governing, .. } => {
                write!(f, "{pod} has its name below {governing}, the serviceName of StatefulSet {set}")
            }
            Self::GoverningNotHeadless { set, service } => write!(
                f,
                "Service {service}, which governs StatefulSet {set}, is not headless: other DNS servers may not answer"
            ),
            Self::GoverningExternal { set, service } => {
                write!(f, "Service {service}, which governs StatefulSet {set}, is an ExternalName: nothing is below it")
            }
            Self::OrdinalOutOfRange { set, ordinal, start, replicas } => {
                write!(f, "StatefulSet {set} has replicas={replicas}, ")?;
                match replicas.checked_sub(1) {
                    Some(last) => write!(f, "ordinals {start}..{}, no {ordinal}", start.saturating_add(last)),
                    None => write!(f, "no ordinal at all"),
                }
            }
            Self::OrdinalNotThere { set, service, ordinal, waits_for } => {
                let name = &set.name;
                write!(f, "{name}-{ordinal} is in no slice of {service}: no Pod, no address, or not selected")?;
                match waits_for {
                    Some(first) if first != ordinal => write!(f, "; {name}-{first} is not ready"),
                    _ => Ok(()),
                }
            }
            Self::PodWithoutAddress { pod } => write!(f, "Pod {pod} has no address yet"),
            Self::NotReady { service, label, serving } => {
                let serves = if *serving == Some(true) { ", though it serves" } else { "" };
                write!(f, "{label} of Service {service} is not ready{serves}")
            }
            Self::Terminating { service, label, serving } => {
                let serves = match serving {
                    Some(true) => ", still serving",
                    Some(false) => ", not serving any more",
                    None => "",
                };
                write!(f, "{label} of Service {service} is terminating{serves}")
            }
            Self::PodFinished { pod } => write!(f, "Pod {pod} has run to its end"),
            Self::NoEndpoints { service, differs: None, .. } => write!(f, "Service {service} has 0 endpoints"),
            Self::SetNotSelected { set, service, differs } => {
                let Difference { key, selected, has } = &differs.labels[0];
                write!(f, "Service {service} governs StatefulSet {set} and selects {key}={selected}, its Pods have ")?;
                match has {
                    Some(has) => write!(f, "{key}={has}"),
                    None => write!(f, "no {key}"),
                }
            }
            Self::NoEndpoints { service, differs: Some(Differs { set, labels, .. }), .. } => {
                let Difference { key, selected, has } = &labels[0];
                write!(f, "Service {service} selects {key}={selected}, Pods of StatefulSet {set} have ")?;
                match has {
                    Some(has) => write!(f, "{key}={has}"),
                    None => write!(f, "no {key}"),
                }
            }
            Self::NoSlice { service, .. } => {
                write!(f, "Service {service} has no selector, and no EndpointSlice has its name")
            }
            Self::NoneReady { service, of } => write!(f, "0 of {of} endpoints of Service {service} are ready"),
            Self::PublishedNotReady { service } => write!(
                f,
                "Service {service} publishes endpoints that its slices call not ready: other DNS servers may not answer"
            ),
            Self::NoHostname { service, pod, address } => write!(
                f,
                "{pod} has no hostname in {} (is the Pod's subdomain {}?); it is {}.{}",
                service.name,
                service.name,
                dashed(*address),
                service.name
            ),
            Self::HasHostname { service, hostname, .. } => {
                write!(f, "this endpoint of Service {service} has a hostname: use {hostname}")
            }
            Self::NotAnEndpoint { service, address, .. } => {
                write!(f, "{address} is no endpoint of Service {service}")
            }
            Self::NoSuchEndpoint { service, label, known } if known.is_empty() => {
                write!(f, "Service {service} has no endpoint named {label}, and none with a hostname")
            }
            Self::NoSuchEndpoint { service, label, known } => {
                write!(f, "Service {service} has no endpoint named {label}; it has {}", list(known, " and "))
            }
            Self::OtherNamespace { service, elsewhere } => {
                write!(f, "{} exists in {}", service.name, list_namespaces(elsewhere))
            }
            Self::NoPort { service, port, known } if known.is_empty() => {
                write!(f, "Service {service} has no port named {port}, and none with a name")
            }
            Self::NoPort { service, port, known } => {
                write!(f, "Service {service} has no port named {port}; it has {}", list(known, " and "))
            }
            Self::OtherProtocol { service, port, protocols } => {
                let labels: Vec<&str> = protocols.iter().map(|protocol| protocol.label()).collect();
                write!(f, "port {port} of Service {service} is {}", list(&labels, " and "))
            }
            Self::PortUnnamed { service, number } => {
                write!(f, "port {number} of Service {service} has no name: its SRV record is at the Service's name")
            }
            Self::PortNumber { service, name: Some(name), protocol, .. } => {
                write!(f, "ports are asked for by name: _{name}.{} of Service {service}", protocol.label())
            }
            Self::PortNumber { service, number, .. } => write!(
                f,
                "ports are asked for by name, and port {number} of Service {service} has none: ask the Service's name"
            ),
            Self::NoTargetPort { service, port, target } => {
                write!(f, "port {port} of Service {service} leads to the port {target}, which no endpoint has")
            }
            Self::NoPorts { service } => write!(f, "Service {service} has no ports, so no SRV records"),
            Self::BelowExternalName { service, target } => {
                write!(f, "Service {service} is an ExternalName ({target}): nothing is below its name")
            }
            Self::PortOfPod { meant } => {
                write!(f, "ports of one Pod have no names: ask for SRV at {}", bare(meant))
            }
            Self::NoFamily { service, family } => {
                let family = if *family == Family::V4 { "IPv4" } else { "IPv6" };
                write!(f, "Service {service} has no {family} address")
            }
            Self::BadExternalName { service, value } => {
                write!(f, "externalName {value:?} of Service {service} is no domain name")
            }
            Self::ExternalNameLoop { service } => {
                write!(f, "Service {service} leads back to a name that was followed already")
            }
            Self::ExternalNameLong { service, most } => {
                write!(
                    f,
                    "externalName of Service {service} leads through more than {most} names: the rest is not followed"
                )
            }
            Self::ExternalNameDangling { service, target } => {
                write!(f, "externalName of Service {service} leads to a name that does not exist: {}", bare(target))
            }
            Self::ExternalNameOutside { service, target } => {
                write!(f, "Service {service} leads out to {}: a stub resolver does not follow it", bare(target))
            }
            Self::FqdnSlice { slice } => {
                write!(f, "EndpointSlice {slice} has addressType FQDN, which is not answered")
            }
            Self::PodRecordsOff => write!(f, "names of Pod addresses are switched off here"),
            Self::PodUnknown { namespace, address, .. } => write!(f, "no Pod in namespace {namespace} has {address}"),
            Self::AddressUnknown { address, not_ready, pod } => match (&not_ready[..], pod) {
                ([first, ..], _) => write!(f, "{address} is an endpoint of Service {first} that is not ready"),
                ([], Some(pod)) => write!(f, "{address} is Pod {pod}, an endpoint of no Service"),
                ([], None) => write!(f, "{address} belongs to no Service and no endpoint"),
            },
            Self::Wildcard => write!(f, "there are no wildcards"),
            Self::NoClusterIp { service } => write!(f, "Service {service} has no clusterIP"),
            Self::SliceOfNobody { slice, endpoints } => write!(
                f,
                "EndpointSlice {slice} has no label kubernetes.io/service-name: its {endpoints} endpoints have no names"
            ),
            Self::SliceWithoutService { slice, service } => {
                write!(f, "EndpointSlice {slice} belongs to Service {service}, which does not exist")
            }
            Self::OutsideReverse { service, address, of: 1 } => {
                write!(f, "{address}, an endpoint of Service {service}, is in no reverse zone that is served")
            }
            Self::OutsideReverse { service, address, of } => write!(
                f,
                "{of} addresses of endpoints of Service {service}, as {address}, are in no reverse zone that is served"
            ),
            Self::NotSynced { waiting_for, seconds, .. } => {
                if *seconds > 0 {
                    write!(f, "waited for {seconds} s; ")?;
                }
                match &waiting_for[..] {
                    [] => write!(f, "nothing was read yet"),
                    waiting_for => write!(f, "{}", waiting_for.join("; ")),
                }
            }
            Self::Stale { seconds: 0 } => write!(f, "the API server is out of reach: this is the last that was read"),
            Self::Stale { seconds } => {
                write!(f, "the API server has been out of reach for {seconds} s: this is the last that was read")
            }
        }
    }

    /// The objects that it speaks of.
    pub fn about(&self) -> Vec<About> {
        let service = |key: &ObjectRef| About { kind: "Service", key: key.clone() };
        let beside = |key: &ObjectRef, name: &str| service(&ObjectRef::new(&key.namespace, name));
        let set = |key: &ObjectRef| About { kind: "StatefulSet", key: key.clone() };
        let pod = |key: &ObjectRef| About { kind: "Pod", key: key.clone() };
        match self {
            Self::OutsideZones
            | Self::SuffixTwice { .. }
            | Self::TooManyLabels
            | Self::PodNotAddress { .. }
            | Self::PortOfPod { .. }
            | Self::PodRecordsOff
            | Self::Wildcard
            | Self::NotSynced { .. }
            | Self::Stale { .. } => Vec::new(),
            Self::NoNamespace { elsewhere, .. } => elsewhere.iter().map(service).collect(),
            Self::NoService { service: key, near } => near.iter().map(|name| beside(key, name)).collect(),
            Self::PodAsService { pod: key, service: name } => vec![pod(key), beside(key, name)],
            Self::NoServiceName { set: key } | Self::OrdinalOutOfRange { set: key, .. } => vec![set(key)],
            Self::GoverningMissing { set: key, selecting, .. } => {
                std::iter::once(set(key)).chain(selecting.iter().map(|name| beside(key, name))).collect()
            }
            Self::OtherGoverning { set: key, governing: name, .. }
            | Self::GoverningNotHeadless { set: key, service: name }
            | Self::GoverningExternal { set: key, service: name }
            | Self::SetNotSelected { set: key, service: name, .. }
            | Self::OrdinalNotThere { set: key, service: name, .. } => vec![set(key), beside(key, name)],
            Self::PodWithoutAddress { pod: key } | Self::PodFinished { pod: key } => vec![pod(key)],
            Self::NotAnEndpoint { service: key, elsewhere, .. } => {
                std::iter::once(service(key)).chain(elsewhere.iter().map(service)).collect()
            }
            Self::OtherNamespace { elsewhere, .. } => elsewhere.iter().map(service).collect(),
            Self::FqdnSlice { slice } | Self::SliceOfNobody { slice, .. } | Self::SliceWithoutService { slice, .. } => {
                vec![About { kind: "EndpointSlice", key: slice.clone() }]
            }
            Self::PodUnknown { elsewhere, .. } => elsewhere.iter().map(pod).collect(),
            Self::AddressUnknown { not_ready, pod: key, .. } => {
                not_ready.iter().map(service).chain(key.iter().map(pod)).collect()
            }
            Self::NoSvcLabel { service: key, .. }
            | Self::Swapped { meant: key }
            | Self::NotReady { service: key, .. }
            | Self::Terminating { service: key, .. }
            | Self::NoEndpoints { service: key, .. }
            | Self::NoSlice { service: key, .. }
            | Self::NoneReady { service: key, .. }
            | Self::PublishedNotReady { service: key }
            | Self::NoHostname { service: key, .. }
            | Self::HasHostname { service: key, .. }
            | Self::NoSuchEndpoint { service: key, .. }
            | Self::NoPort { service: key, .. }
            | Self::OtherProtocol { service: key, .. }
            | Self::PortUnnamed { service: key, .. }
            | Self::PortNumber { service: key, .. }
            | Self::NoTargetPort { service: key, .. }
            | Self::NoPorts { service: key }
            | Self::BelowExternalName { service: key, .. }
            | Self::NoFamily { service: key, .. }
            | Self::BadExternalName { service: key, .. }
            | Self::ExternalNameLoop { service: key }
            | Self::ExternalNameLong { service: key, .. }
            | Self::ExternalNameDangling { service: key, .. }
            | Self::ExternalNameOutside { service: key, .. }
            | Self::OutsideReverse { service: key, .. }
            | Self::NoClusterIp { service: key } => vec![service(key)],
        }
    }
}

/// A name as people write it.
pub(super) fn bare(name: &WireName) -> String {
    name.to_string().trim_end_matches('.').to_owned()
}

/// An address as a label.
pub(super) fn dashed(address: IpAddr) -> String {
    let mut buffer = [0; 63];
    String::from_utf8_lossy(crate::names::dashed::write(address, &mut buffer)).into_owned()
}

/// `a, b and c`.
pub(super) fn list<T: AsRef<str>>(items: &[T], last: &str) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    match items.split_last() {
        None => String::new(),
        Some((one, [])) => (*one).to_owned(),
        Some((end, rest)) => format!("{}{last}{end}", rest.join(", ")),
    }
}

fn list_namespaces(services: &[ObjectRef]) -> String {
    let names: Vec<String> = services.iter().map(|service| format!("namespace {}", service.namespace)).collect();
    list(&names, " and ")
}
