//! Findings: one variant of [`Finding`] for each cause, guess or note.
//!
//! A finding is a value: it holds names and numbers, never text. To add a cause: a variant here, an entry in `catalog.rs`,
//! its detection in `detector/`, a row in `tests/causes.md` and a scenario in `tests/causes/`. Not here: id, text and fix of a
//! finding (`catalog.rs`, the file to read next).

use std::net::IpAddr;

use super::catalog_entry::{EntryPart, FindingSubject, Level, Needs, Severity};
use super::fix::Fix;
use crate::name::WireName;
use crate::object::{AddressFamily, EndpointPort, Labels, ObjectRef, Protocol};
use crate::status::LossReason;

/// Maximum number of ports, endpoints or slices that one sentence lists.
pub(super) const MAX_NAMES: usize = 5;

/// Maximum length of the text of an Extended DNS Error, in octets.
pub const MAX_EDE_TEXT_BYTES: usize = 120;

/// Cause of a non-resolution, a guess at one, or a note about a name that resolves.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// The name is in no zone of this server.
    OutsideZones,
    /// `service.namespace.Z`: the label `svc` is missing, and the Service exists.
    NoSvcLabel {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// The name with the label.
        meant: WireName,
        /// True if the recommended name resolves.
        resolves: bool,
    },
    /// The name contains the zone twice: a search list was applied to an absolute name.
    SuffixTwice {
        /// The name without the second zone.
        meant: WireName,
        /// True if that name resolves.
        resolves: bool,
    },
    /// The name has more labels than any valid form: a search list was applied to a name outside the cluster.
    TooManyLabels,
    /// The namespace does not exist.
    NoNamespace {
        /// The namespace of the question.
        namespace: Box<str>,
        /// True if Namespaces are read. If not, the finding claims only that no object is in the namespace.
        declared: bool,
        /// Services of the queried name in other namespaces: only in similarly named ones, if there are any.
        elsewhere: Candidates,
        /// The name in the only other namespace that has the Service, if it resolves.
        meant: Option<Box<str>>,
    },
    /// The namespace is being deleted, with all objects in it.
    NamespaceTerminating {
        /// Name of the Namespace that is being deleted.
        namespace: Box<str>,
        /// True if the name resolves.
        resolves: bool,
    },
    /// The labels of Service and namespace are in the wrong order.
    Swapped {
        /// The Service that exists.
        service: ObjectRef,
        /// The name in the right order, if it resolves.
        meant: Option<Box<str>>,
    },
    /// The Service does not exist.
    NoService {
        /// The Service of the question.
        service: ObjectRef,
        /// Services of the namespace with similar names.
        near: Vec<Box<str>>,
        /// The name with the only similar Service, if it resolves.
        meant: Option<Box<str>>,
    },
    /// A Pod's name in place of a Service's.
    PodAsService {
        /// The Pod's name.
        pod: ObjectRef,
        /// The Service below which the Pod's name is published.
        service: Box<str>,
        /// True if the recommended name resolves.
        resolves: bool,
    },
    /// The name is in the `pod` branch, and does not begin with an address.
    PodNotAddress {
        /// The labels in front of the namespace.
        label: Box<str>,
        /// The name of that Pod, if it has one.
        meant: Option<Box<str>>,
    },
    /// The labels of a port and its protocol lack their underscores.
    NoUnderscore {
        /// The Service that has the port.
        service: ObjectRef,
        /// The port's name with underscores.
        meant: WireName,
    },
    /// The label in front of the zone is neither `svc` nor `pod`.
    NoBranch {
        /// The label in front of the zone.
        label: Box<str>,
    },
    /// The namespace is missing: `web.svc.Z`, `web-0.web.svc.Z`.
    NamespaceForgotten {
        /// The Service's name.
        service: Box<str>,
        /// The Services of that name.
        candidates: Candidates,
        /// The name in the only namespace that has the Service, if it resolves.
        meant: Option<Box<str>>,
    },
    /// The zone at the end of the name is mistyped or missing.
    SuffixMistyped {
        /// The Service, which exists.
        service: ObjectRef,
        /// The name in the zone.
        meant: WireName,
        /// True if that name resolves.
        resolves: bool,
    },
    /// The StatefulSet has no `serviceName`.
    NoServiceName {
        /// Namespace and name of the StatefulSet.
        set: ObjectRef,
    },
    /// The governing Service of the StatefulSet does not exist.
    GoverningMissing {
        /// Namespace and name of the StatefulSet.
        set: ObjectRef,
        /// `spec.serviceName` of the StatefulSet.
        service: Box<str>,
        /// Services of the namespace that select its Pods.
        selecting: Vec<Box<str>>,
        /// The selector that the missing Service needs.
        selector: Labels,
        /// The ports that the missing Service needs: name, protocol and number of the named ports of the Pods.
        ports: Vec<(Box<str>, Protocol, u16)>,
    },
    /// The Pod's name is published below another Service than the queried one.
    OtherGoverning {
        /// Namespace and name of the StatefulSet.
        set: ObjectRef,
        /// The Pod's name.
        pod: Box<str>,
        /// The Service below which its name is published.
        governing: Box<str>,
        /// The Service of the question.
        asked: Box<str>,
        /// True if the recommended name resolves.
        resolves: bool,
    },
    /// The governing Service has a cluster IP. This server publishes the names below it nevertheless.
    GoverningNotHeadless {
        /// Namespace and name of the StatefulSet.
        set: ObjectRef,
        /// Name of the StatefulSet's governing Service.
        service: Box<str>,
    },
    /// The governing Service is an ExternalName: no name exists below it.
    GoverningExternal {
        /// Namespace and name of the StatefulSet.
        set: ObjectRef,
        /// Name of the StatefulSet's governing Service.
        service: Box<str>,
    },
    /// The StatefulSet has no Pod of this ordinal.
    OrdinalOutOfRange {
        /// Namespace and name of the StatefulSet.
        set: ObjectRef,
        /// The ordinal of the question.
        ordinal: u32,
        /// First ordinal of the StatefulSet (`spec.ordinals.start`).
        start: u32,
        /// Number of the StatefulSet's replicas (`spec.replicas`).
        replicas: u32,
        /// Name of the StatefulSet's governing Service, if QNAME is not below it.
        governing: Option<Box<str>>,
        /// True if more replicas would make the name exist.
        scales: bool,
    },
    /// All StatefulSets that the Service governs have 0 replicas.
    NoReplicas {
        /// The first of the StatefulSets.
        set: ObjectRef,
        /// Namespace and name of the Service.
        service: ObjectRef,
    },
    /// The Pod template lacks labels that the governing Service selects. A controller may set them on the Pods.
    TemplateDiffers {
        /// Namespace and name of the StatefulSet.
        set: ObjectRef,
        /// Name of the StatefulSet's governing Service.
        service: Box<str>,
        /// The mismatched labels.
        differs: SelectorMismatch,
    },
    /// The Pod with this ordinal should exist, but is in no slice of the governing Service.
    OrdinalNotThere {
        /// Namespace and name of the StatefulSet.
        set: ObjectRef,
        /// Name of the StatefulSet's governing Service.
        service: Box<str>,
        /// The ordinal of the question.
        ordinal: u32,
        /// The lowest ordinal that does not serve, if the controller creates Pods in order, and so waits for it.
        waits_for: Option<u32>,
        /// True if the Service has a selector.
        selects: bool,
        /// True if the Pod was read and has an address.
        has_address: bool,
    },
    /// The Pod exists, but has no address.
    PodWithoutAddress {
        /// Namespace and name of the Pod.
        pod: ObjectRef,
    },
    /// The endpoint is in a slice, but not ready.
    NotReady {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// The first label of the endpoint's name.
        label: Box<str>,
        /// Name of the endpoint's Pod, if the slice names one.
        pod: Option<Box<str>>,
        /// Condition `serving`, if known.
        serving: Option<bool>,
    },
    /// The endpoint is in a slice, but its Pod is being deleted.
    Terminating {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// The first label of the endpoint's name.
        label: Box<str>,
        /// Condition `serving`, if known.
        serving: Option<bool>,
    },
    /// The Pod has finished (phase Succeeded or Failed).
    PodFinished {
        /// Namespace and name of the Pod.
        pod: ObjectRef,
    },
    /// The Service's slices list no endpoint.
    NoEndpoints {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// The Service's `spec.selector`; empty if it has none.
        selector: Labels,
        /// The mismatch with a governed StatefulSet that requires other labels of its Pods than the Service selects.
        differs: Option<SelectorMismatch>,
    },
    /// The Service has no selector, and no slice belongs to it.
    NoSlice {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// Slices of the namespace without the label `kubernetes.io/service-name`.
        unlabelled: Vec<Box<str>>,
    },
    /// None of the Service's endpoints is ready.
    NoneReady {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// Number of endpoints in its slices.
        of: usize,
        /// The Service's `spec.selector`; empty if it has none.
        selector: Labels,
    },
    /// An endpoint that is not ready counts, since its Service sets `publishNotReadyAddresses`.
    PublishedNotReady {
        /// Namespace and name of the Service.
        service: ObjectRef,
    },
    /// The Pod's endpoint has no hostname in the slice.
    NoHostname {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// The Pod's name, as queried.
        pod: Box<str>,
        /// The endpoint's address. Its dashed form is the endpoint's label.
        address: IpAddr,
        /// True if the Service has a selector. Without one, the author of its endpoints chose their names.
        selects: bool,
        /// True if the recommended name resolves.
        resolves: bool,
    },
    /// The Pod has this hostname in its spec, but no subdomain, or one that names no Service.
    PodSubdomain {
        /// Namespace and name of the Pod.
        pod: ObjectRef,
        /// The Pod's `spec.hostname`, or its name.
        hostname: Box<str>,
        /// The Pod's `spec.subdomain`.
        subdomain: Option<Box<str>>,
        /// The Service that selects the Pod.
        selecting: Option<Box<str>>,
    },
    /// A dashed address of an endpoint that has a hostname.
    HasHostname {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// The endpoint's address, which the QNAME spells.
        address: IpAddr,
        /// The endpoint's hostname, which is its label instead.
        hostname: Box<str>,
        /// True if the recommended name resolves.
        resolves: bool,
    },
    /// A dashed address of no endpoint of the Service.
    NotAnEndpoint {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// Address that the QNAME spells.
        address: IpAddr,
        /// Services with an endpoint at this address.
        elsewhere: Candidates,
    },
    /// The Service has no endpoint with this label.
    NoSuchEndpoint {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// The queried label.
        label: Box<str>,
        /// Labels of its endpoints.
        known: Vec<Box<str>>,
    },
    /// The name exists in another namespace.
    OtherNamespace {
        /// The Service of the question.
        service: ObjectRef,
        /// The Services of that name in other namespaces.
        elsewhere: Candidates,
        /// The name in the only other namespace that has the Service, if it resolves.
        meant: Option<Box<str>>,
    },
    /// The Service has no port of this name.
    NoPort {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// The queried port name, without its underscore.
        port: Box<str>,
        /// Labels of the ports that exist: `_http._tcp`.
        known: Vec<Box<str>>,
        /// The only similar one, or the only one.
        meant: Option<Box<str>>,
    },
    /// The Service declares the port, but none of its slices has it.
    PortNotInSlices {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// The port's name in the Service.
        port: Box<str>,
        /// The port's protocol.
        protocol: Protocol,
        /// The slice and its port with this number, but another name or none.
        instead: Option<(ObjectRef, EndpointPort)>,
    },
    /// The port has another protocol.
    OtherProtocol {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// The port's name.
        port: Box<str>,
        /// Protocols of the port.
        protocols: Vec<Protocol>,
    },
    /// A port has no name, and so no SRV name of its own.
    PortUnnamed {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// The port's number.
        number: u16,
        /// True if the Service has no other port: a single port needs no name.
        is_only: bool,
    },
    /// A port's number in place of its name.
    PortNumber {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// Port number in the QNAME.
        number: u16,
        /// The port's name, if it has one.
        name: Option<Box<str>>,
        /// The port's protocol.
        protocol: Protocol,
    },
    /// The Service's `targetPort` is a named port that no endpoint has.
    NoTargetPort {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// The Service's port.
        port: Box<str>,
        /// The port's `targetPort`, a name.
        target: Box<str>,
    },
    /// The Service has no ports.
    NoPorts {
        /// Namespace and name of the Service.
        service: ObjectRef,
    },
    /// The name is below an ExternalName, where no name exists.
    BelowExternalName {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// The Service's `spec.externalName`.
        target: Box<str>,
    },
    /// An SRV name of one Pod's port. Only Services have such names.
    PortOfPod {
        /// The Pod's name, which has SRV records of all its ports.
        meant: WireName,
        /// True if the recommended name resolves.
        resolves: bool,
    },
    /// The Service has no address of this family.
    NoFamily {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// The queried endpoint; `None` for the Service itself.
        label: Option<Box<str>>,
        /// The queried address family.
        family: AddressFamily,
    },
    /// The ExternalName is not a domain name.
    BadExternalName {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// The Service's `spec.externalName`.
        value: Box<str>,
    },
    /// The ExternalName leads back to itself.
    ExternalNameLoop {
        /// Namespace and name of the Service.
        service: ObjectRef,
    },
    /// The CNAME chain of the ExternalName is too long.
    ExternalNameLong {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// Maximum number of CNAMEs that are followed.
        most: usize,
    },
    /// The CNAME chain of the ExternalName ends at a name of the zone that does not exist.
    ExternalNameDangling {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// The last name of the chain.
        target: WireName,
        /// True if it is an endpoint's name, which depends on running Pods.
        endpoint: bool,
    },
    /// The ExternalName is a name of the cluster without its zone. Search lists do not apply to targets of CNAMEs.
    ExternalNameShort {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// The Service's `spec.externalName`.
        target: WireName,
        /// The name with its zone.
        meant: WireName,
    },
    /// The CNAME chain of the ExternalName leads out of the zones. Stub resolvers do not follow it.
    ExternalNameOutside {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// The name outside.
        target: WireName,
    },
    /// A slice with names instead of addresses (addressType FQDN).
    FqdnSlice {
        /// Namespace and name of the EndpointSlice.
        slice: ObjectRef,
    },
    /// Pod records are off (`--pod-records`).
    PodRecordsOff,
    /// No Pod of the namespace has this address.
    PodUnknown {
        /// Namespace in the QNAME.
        namespace: Box<str>,
        /// Address that the QNAME spells.
        address: IpAddr,
        /// A Pod of another namespace with this address.
        elsewhere: Option<ObjectRef>,
    },
    /// The address has no PTR record: it is not a Service's, nor that of an endpoint that counts.
    AddressUnknown {
        /// Address that the QNAME spells.
        address: IpAddr,
        /// Services with an endpoint at this address that is not ready.
        not_ready: Vec<ObjectRef>,
        /// A Pod with this address that is no endpoint.
        pod: Option<ObjectRef>,
    },
    /// The name has a label `*`.
    Wildcard,
    /// The Service has a cluster IP, but no ready endpoints: the name resolves, but connections fail.
    NothingBehind {
        /// Namespace and name of the Service.
        service: ObjectRef,
    },
    /// The Service is not headless, but has no cluster IP.
    NoClusterIp {
        /// Namespace and name of the Service.
        service: ObjectRef,
    },
    /// The governing Service does not select the StatefulSet's Pods, though it has other endpoints or StatefulSets.
    SetNotSelected {
        /// Namespace and name of the StatefulSet.
        set: ObjectRef,
        /// Name of the StatefulSet's governing Service.
        service: Box<str>,
        /// The mismatched labels.
        differs: SelectorMismatch,
        /// True if the Service selects Pods of another StatefulSet that it governs.
        selects_another: bool,
    },
    /// The slice has endpoints, but belongs to no Service.
    SliceOfNobody {
        /// Namespace and name of the EndpointSlice.
        slice: ObjectRef,
        /// Number of its endpoints.
        endpoints: usize,
    },
    /// The slice belongs to a Service that does not exist.
    SliceWithoutService {
        /// Namespace and name of the EndpointSlice.
        slice: ObjectRef,
        /// Name of the Service, which does not exist.
        service: Box<str>,
    },
    /// Addresses of endpoints are in no reverse zone of this server, so they have no PTR records.
    OutsideReverse {
        /// Namespace and name of the Service.
        service: ObjectRef,
        /// The first of the addresses.
        address: IpAddr,
        /// Number of such addresses.
        of: usize,
    },
    /// The initial lists are not complete.
    NotSynced {
        /// Resources or files that are not read yet, each with the reason if known.
        waiting_for: Vec<String>,
        /// True if the API server forbids reading a resource.
        forbidden: bool,
        /// Duration so far, in seconds; 0 if unknown.
        seconds: u64,
    },
    /// A required resource cannot be watched, so that responses may be stale.
    Stale {
        /// Reason of the loss.
        reason: LossReason,
        /// The resource's name in the Kubernetes API.
        resource: &'static str,
        /// Duration so far, in seconds; 0 if unknown.
        seconds: u64,
    },
}

/// Objects that a name may refer to: the first few, and the number of all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidates {
    /// The first few objects, sorted.
    pub listed: Vec<ObjectRef>,
    /// Number of all objects.
    pub total: usize,
}

impl Candidates {
    /// Returns the candidate if there is only one.
    pub fn only(&self) -> Option<&ObjectRef> {
        self.listed.first().filter(|_| self.total == 1)
    }
}

/// Mismatch between the selector of a governing Service and the labels of a StatefulSet's Pods.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectorMismatch {
    /// Name of the StatefulSet.
    pub set: Box<str>,
    /// Mismatched labels, at least one.
    pub labels: Vec<LabelMismatch>,
    /// True if a change of these labels alone makes the Service select the Pods, and it governs no other StatefulSet.
    pub alone: bool,
}

/// Label with another value than the selected one.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelMismatch {
    /// Key of the label.
    pub key: Box<str>,
    /// Value that the Service selects.
    pub selected: Box<str>,
    /// Value in the StatefulSet; `None` if it lacks the label.
    pub has: Option<Box<str>>,
}

impl Finding {
    /// Returns id and token of the finding, which never change.
    pub fn id_and_token(&self) -> (&'static str, &'static str) {
        let entry = self.entry(EntryPart::Class);
        (entry.id, entry.token)
    }

    /// Returns the severity for the client.
    pub fn severity(&self) -> Severity {
        self.entry(EntryPart::Class).severity
    }

    /// Returns the level in `check`; `None` if the finding is not about an object.
    pub fn level(&self) -> Option<Level> {
        self.entry(EntryPart::Class).level
    }

    /// Returns whether the finding is certain only under the condition `needed`.
    pub(super) fn needs(&self, needed: Needs) -> bool {
        self.entry(EntryPart::Class).needs.contains(&needed)
    }

    /// Returns whether `other` is a consequence of this finding, and so is omitted.
    pub(super) fn explains(&self, other: &Self) -> bool {
        self.entry(EntryPart::Class).explains.contains(&other.id_and_token().1)
    }

    /// Returns the rank: of several causes, a response reports the one with the lowest.
    pub(super) fn rank(&self) -> u8 {
        self.entry(EntryPart::Class).rank
    }

    /// Returns the Extended DNS Error code (RFC 8914): 0 (Other) for causes specific to Kubernetes.
    pub fn ede_code(&self) -> u16 {
        self.entry(EntryPart::Class).code
    }

    /// Returns the finding as a sentence without a full stop.
    pub fn summary(&self) -> String {
        self.entry(EntryPart::Text).text
    }

    /// Returns token and sentence in full, for a TXT record: printable ASCII.
    pub fn line(&self) -> String {
        let entry = self.entry(EntryPart::Text);
        let text = format!("{}: {}", entry.token, entry.text);
        if text.bytes().all(|octet| matches!(octet, b' '..=b'~')) { text } else { text.escape_default().to_string() }
    }

    /// Returns the text of an Extended DNS Error: [`Self::line`], truncated to [`MAX_EDE_TEXT_BYTES`] octets.
    pub fn ede_text(&self) -> String {
        let mut text = self.line();
        if text.len() > MAX_EDE_TEXT_BYTES {
            text.truncate(MAX_EDE_TEXT_BYTES - 3);
            text.push_str("...");
        }
        text
    }

    /// Returns the fix; `None` if waiting is the only fix, or no fix is certain.
    pub fn fix(&self) -> Option<Fix> {
        self.entry(EntryPart::Fix).fix
    }

    /// Returns the objects that the finding is about.
    pub fn about(&self) -> Vec<FindingSubject> {
        self.entry(EntryPart::About).about
    }
}
