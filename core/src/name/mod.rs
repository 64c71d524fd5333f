//! Owner names: the only module that builds and parses them.
//!
//! A name is stored in lower case and in wire form (RFC 1035 section 3.1: length octets and labels, the root's zero
//! octet last). This file has the names themselves ([`WireName`], [`QueryName`]) and the kinds of names below an apex
//! ([`NameKind`]). Not here: which names exist (`zone`) and the responses (`answer`). Rule ids (N14, N15) are those of
//! `tests/rows.md`.
//!
//! Next: [`label_pool`] packs labels into columns, [`dashed`] writes addresses as labels, [`reverse`] has `in-addr.arpa`
//! and `ip6.arpa`, [`why_name`] the names `_why.NAME` of explanations, [`special`] the special-use names that are never
//! forwarded.

pub mod dashed;
pub mod label_pool;
pub mod reverse;
pub mod special;
pub mod why_name;

use std::fmt;
use std::net::IpAddr;

/// Maximum length of a label, in octets (RFC 1035 section 2.3.4).
pub const MAX_LABEL: usize = 63;
/// Maximum length of a name in wire form, in octets (RFC 1035 section 2.3.4).
pub const MAX_NAME: usize = 255;
/// Maximum number of CNAMEs followed inside the zones (N14).
pub const MAX_CHAIN: usize = 8;
/// Maximum number of CNAMEs in a chain that leaves the zones, local and upstream CNAMEs together (N14). A longer chain
/// gets SERVFAIL.
pub const MAX_FORWARDED_CHAIN: usize = 16;
/// Maximum length of an apex in wire form, in octets: three labels of any length and `svc` fit in front of it, so that
/// every endpoint has a name.
pub const MAX_APEX: usize = MAX_NAME - 3 * (MAX_LABEL + 1) - 4;

/// Label `svc` in wire form: between a namespace and the apex.
pub const SVC: &[u8] = b"\x03svc";
/// Labels `ns.dns` in wire form: with the apex, the name of the name server.
pub const NAME_SERVER: &[u8] = b"\x02ns\x03dns";
/// Label `hostmaster` in wire form: with the apex, the mailbox of the SOA record.
pub const HOSTMASTER: &[u8] = b"\x0ahostmaster";
/// Label `dns-version` in wire form, in front of the apex.
pub const VERSION: &[u8] = b"\x0bdns-version";

/// Kinds of names at and below a forward zone's apex, by the labels alone. The zone decides whether the name exists.
///
/// `Z` is the apex in the comments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind<'q> {
    /// `Z`
    Apex,
    /// `svc.Z`, `pod.Z`, `dns.Z`: empty non-terminals that every zone has.
    EmptyNonTerminal,
    /// `ns.dns.Z`
    NameServer,
    /// `dns-version.Z`
    Version,
    /// `NAMESPACE.svc.Z`
    Namespace(&'q [u8]),
    /// `SERVICE.NAMESPACE.svc.Z`
    Service(ServiceKey<'q>),
    /// `LABEL.SERVICE.NAMESPACE.svc.Z`
    Endpoint(ServiceKey<'q>, &'q [u8]),
    /// `_PROTOCOL.SERVICE.NAMESPACE.svc.Z`; the label keeps its underscore.
    Protocol(ServiceKey<'q>, &'q [u8]),
    /// `_PORT._PROTOCOL.SERVICE.NAMESPACE.svc.Z`; both labels keep their underscore.
    Port(ServiceKey<'q>, &'q [u8], &'q [u8]),
    /// `NAMESPACE.pod.Z`
    PodNamespace(&'q [u8]),
    /// `DASHED-ADDRESS.NAMESPACE.pod.Z`
    PodAddress(&'q [u8], &'q [u8]),
    /// A name with too many labels, or in a branch without names: it cannot exist.
    Invalid,
}

impl<'q> NameKind<'q> {
    /// Returns the namespace that the name is in; `None` for a name of the zone itself.
    pub fn namespace(&self) -> Option<&'q [u8]> {
        match *self {
            Self::Service(key) | Self::Endpoint(key, _) | Self::Protocol(key, _) | Self::Port(key, ..) => {
                Some(key.namespace())
            }
            Self::Namespace(namespace) | Self::PodNamespace(namespace) | Self::PodAddress(namespace, _) => {
                Some(namespace)
            }
            Self::Apex | Self::EmptyNonTerminal | Self::NameServer | Self::Version | Self::Invalid => None,
        }
    }
}

/// Two labels of a Service, in wire form and lower case, without the root: `3web7default`.
///
/// It borrows the part of the QNAME in front of `svc.Z`, so that a look-up copies nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceKey<'q>(pub &'q [u8]);

impl<'q> ServiceKey<'q> {
    /// Returns the Service's label.
    pub fn service(self) -> &'q [u8] {
        &self.0[1..=usize::from(self.0[0])]
    }

    /// Returns the namespace's label.
    pub fn namespace(self) -> &'q [u8] {
        &self.0[usize::from(self.0[0]) + 2..]
    }
}

/// Returns the wire form of [`ServiceKey`] for a Service; `None` if one of the two is not a DNS label.
pub fn service_key(namespace: &str, service: &str) -> Option<Box<[u8]>> {
    if !is_label(service) || !is_label(namespace) {
        return None;
    }
    let mut key = Vec::with_capacity(service.len() + namespace.len() + 2);
    for label in [service, namespace] {
        key.push(label.len() as u8);
        key.extend(label.bytes().map(|octet| octet.to_ascii_lowercase()));
    }
    Some(key.into())
}

/// Returns whether `text` is a label of a host name: letters, digits and inner hyphens, 1 to 63 octets (RFC 1123
/// section 2.1; a DNS label in Kubernetes).
pub fn is_label(text: &str) -> bool {
    let octets = text.as_bytes();
    (1..=MAX_LABEL).contains(&octets.len())
        && octets.iter().all(|octet| octet.is_ascii_alphanumeric() || *octet == b'-')
        && octets[0] != b'-'
        && octets[octets.len() - 1] != b'-'
}

/// Returns whether the text of a name is an IP address, which is well-formed as a name and never meant as one (N15).
pub fn is_address(text: &str) -> bool {
    text.trim_end_matches('.').parse::<IpAddr>().is_ok()
}

/// Classifies a name by the labels in front of the apex.
///
/// `apex_at` is the index of the label of `name` at which the apex begins.
#[inline(always)]
pub fn classify(name: &QueryName, apex_at: usize) -> NameKind<'_> {
    let label = |back: usize| name.label(apex_at - back);
    if apex_at == 0 {
        return NameKind::Apex;
    }
    match (label(1), apex_at) {
        (b"svc" | b"pod" | b"dns", 1) => NameKind::EmptyNonTerminal,
        (b"dns-version", 1) => NameKind::Version,
        (b"dns", 2) if label(2) == b"ns" => NameKind::NameServer,
        (b"pod", 2) => NameKind::PodNamespace(label(2)),
        (b"pod", 3) => NameKind::PodAddress(label(2), label(3)),
        (b"svc", 2) => NameKind::Namespace(label(2)),
        (b"svc", _) => {
            let service = ServiceKey(name.between(apex_at - 3, apex_at - 1));
            match apex_at {
                3 => NameKind::Service(service),
                4 if label(4)[0] == b'_' => NameKind::Protocol(service, label(4)),
                4 => NameKind::Endpoint(service, label(4)),
                5 if label(4)[0] == b'_' && label(5)[0] == b'_' => NameKind::Port(service, label(5), label(4)),
                _ => NameKind::Invalid,
            }
        }
        _ => NameKind::Invalid,
    }
}

/// Returns the Service at or below which the name is, if the name is of such a kind: the key in the result of
/// [`classify`].
#[inline]
pub fn service_of(name: &QueryName, apex_at: usize) -> Option<ServiceKey<'_>> {
    let has_form = match apex_at {
        3 | 4 => true,
        5 => name.label(0)[0] == b'_',
        _ => false,
    };
    let is_service = has_form && name.label(apex_at - 1) == b"svc";
    is_service.then(|| ServiceKey(name.between(apex_at - 3, apex_at - 1)))
}

/// Guesses the Service that a malformed name refers to.
///
/// `web.default.Z` and `web-0.web.default.Z` lack `svc`, `web.default.svc.Z.default.svc.Z` is a complete name with a
/// search domain behind it, `_http._tcp.web-0.web.default.svc.Z` is a port of an endpoint. Only the labels are
/// examined: the caller checks that the Service exists.
pub fn guess_service(name: &QueryName, apex_at: usize) -> Option<ServiceKey<'_>> {
    let apex = name.labels() - apex_at;
    // The apex's first label alone rules out nearly every position.
    let first = name.offset(apex_at);
    let first = &name.octets()[first..=first + usize::from(name.octets()[first])];
    let is_apex = |at: &usize| {
        name.octets()[name.offset(*at)..].starts_with(first)
            && name.between(*at, at + apex) == name.between(apex_at, apex_at + apex)
    };
    let second = (1..=apex_at.saturating_sub(apex)).find(is_apex);
    if let Some(at) = second.filter(|at| *at >= 3 && name.label(at - 1) == b"svc") {
        return Some(ServiceKey(name.between(at - 3, at - 1)));
    }
    match apex_at {
        2 | 3 => Some(ServiceKey(name.between(apex_at - 2, apex_at))),
        6 if name.label(5) == b"svc" && name.label(0)[0] == b'_' && name.label(1)[0] == b'_' => {
            Some(ServiceKey(name.between(3, 5)))
        }
        _ => None,
    }
}

/// Number of octets of a name that are put into lower case at once.
const STEP: usize = 16;

/// QNAME in lower case, with the offset of each label. A worker reuses its names for each query, so that a query
/// allocates nothing.
///
/// The order of the fields puts the parts that most names need side by side.
#[derive(Clone)]
#[repr(C)]
pub struct QueryName {
    length: u8,
    labels: u8,
    /// A label is one octet long: only such a label can be `*`.
    short: bool,
    starts: [u8; 128],
    /// Room for whole steps.
    octets: [u8; MAX_NAME.next_multiple_of(STEP)],
}

impl Default for QueryName {
    fn default() -> Self {
        Self { octets: [0; MAX_NAME.next_multiple_of(STEP)], starts: [0; 128], length: 1, labels: 0, short: false }
    }
}

impl QueryName {
    /// Parses an uncompressed name at the start of `wire` and returns its length in octets.
    ///
    /// `None` for a compression pointer, a label over 63 octets, a name over 255 octets, or a missing end (RFC 1035
    /// sections 2.3.4 and 3.1). A pointer is invalid here because the QNAME is the first name of a message.
    pub fn parse_wire(&mut self, wire: &[u8]) -> Option<usize> {
        let name = &wire[..wire.len().min(MAX_NAME)];
        let (mut at, mut labels, mut short) = (0, 0, false);
        loop {
            let length = usize::from(*name.get(at)?);
            if length == 0 {
                break;
            }
            if length > MAX_LABEL {
                return None;
            }
            *self.starts.get_mut(labels)? = at as u8;
            labels += 1;
            at += length + 1;
            short |= length == 1;
        }
        let end = at + 1;
        // Length octets are at most 63, below 'A', so lower-casing the whole name changes letters only. Steps of a
        // fixed size compile to a few instructions each; the octets behind the name are not used.
        let whole = end.next_multiple_of(STEP);
        match wire.get(..whole) {
            Some(wire) => {
                for (to, from) in self.octets[..whole].as_chunks_mut::<STEP>().0.iter_mut().zip(wire.as_chunks().0) {
                    *to = from.map(|octet| octet.to_ascii_lowercase());
                }
            }
            None => {
                self.octets[..end].copy_from_slice(&wire[..end]);
                self.octets[..end].make_ascii_lowercase();
            }
        }
        self.length = end as u8;
        self.labels = labels as u8;
        self.short = short;
        Some(end)
    }

    /// Parses the text of a query name, with or without the final dot.
    ///
    /// Labels are any visible ASCII, since a user can ask for a name that cannot exist. There are no escapes.
    ///
    /// # Errors
    ///
    /// A sentence for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |problem: &str| Err(format!("{text:?} is not a domain name: {problem}"));
        let absolute = text.strip_suffix('.').unwrap_or(text);
        if absolute.is_empty() {
            return wrong("it has no label");
        }
        let mut wire = Vec::with_capacity(absolute.len() + 2);
        for label in absolute.split('.') {
            if label.is_empty() {
                return wrong("it has an empty label");
            }
            if !label.bytes().all(|octet| octet.is_ascii_graphic() && !matches!(octet, b'\\' | b'/' | b'"')) {
                return wrong(&format!("the label {label:?} has characters that a name here cannot have"));
            }
            if label.len() > MAX_LABEL {
                return wrong(&format!("the label {label:?} is {} octets long, over 63", label.len()));
            }
            wire.push(label.len() as u8);
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        let mut name = Self::default();
        match name.parse_wire(&wire) {
            Some(_) => Ok(name),
            None => wrong(&format!("it is {} octets long, over 255", wire.len())),
        }
    }

    /// Copies a valid name.
    pub fn set(&mut self, name: &WireName) {
        let read = self.parse_wire(&name.0);
        debug_assert_eq!(read, Some(name.0.len()), "a WireName is valid");
    }

    /// Returns the wire form, in lower case, with the root's octet.
    pub fn octets(&self) -> &[u8] {
        &self.octets[..usize::from(self.length)]
    }

    /// Copies the name into a [`WireName`].
    pub fn to_wire(&self) -> WireName {
        WireName(self.octets().into())
    }

    /// Returns the number of labels without the root.
    pub fn labels(&self) -> usize {
        usize::from(self.labels)
    }

    /// Returns label number `index`, from 0, without its length octet. `index` is below [`Self::labels`].
    #[inline]
    pub fn label(&self, index: usize) -> &[u8] {
        let start = usize::from(self.starts[index]);
        &self.octets[start + 1..=start + usize::from(self.octets[start])]
    }

    /// Returns the wire form of labels `from..to`, with their length octets and without the root.
    #[inline]
    fn between(&self, from: usize, to: usize) -> &[u8] {
        let end = if to == self.labels() { usize::from(self.length) - 1 } else { usize::from(self.starts[to]) };
        &self.octets[usize::from(self.starts[from])..end]
    }

    /// Returns whether one of the first `count` labels is `*`.
    #[inline]
    pub fn has_asterisk(&self, count: usize) -> bool {
        self.short && (0..count).any(|index| self.label(index) == b"*")
    }

    /// Returns the offset of label `index` in the wire form, in octets.
    #[inline]
    pub fn offset(&self, index: usize) -> usize {
        if index == self.labels() { usize::from(self.length) - 1 } else { usize::from(self.starts[index]) }
    }

    /// Returns the index of the label at which `apex` begins, if this name is `apex` or below it.
    #[inline]
    pub fn apex_at(&self, apex: &WireName) -> Option<usize> {
        let start = usize::from(self.length).checked_sub(apex.0.len())?;
        if self.octets()[start..] != *apex.0 {
            return None;
        }
        // These octets can also begin inside a label.
        let mut at = self.labels();
        while self.offset(at) > start {
            at -= 1;
        }
        (self.offset(at) == start).then_some(at)
    }
}

impl fmt::Display for QueryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_name(f, self.octets())
    }
}

/// Absolute name in wire form and lower case, at most 255 octets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WireName(Box<[u8]>);

impl WireName {
    /// Parses `cluster.local` or `cluster.local.`.
    ///
    /// Labels are labels of host names; a leading underscore is allowed, as in `_http._tcp`. There are no escapes:
    /// names in Kubernetes objects and in the configuration never need them.
    ///
    /// # Errors
    ///
    /// A sentence for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        let absolute = text.strip_suffix('.').unwrap_or(text);
        if absolute.is_empty() {
            return Err(format!("{text:?} is not a domain name: it has no label"));
        }
        let mut wire = Vec::with_capacity(absolute.len() + 2);
        for label in absolute.split('.') {
            if !is_label(label.strip_prefix('_').unwrap_or(label)) || label.len() > MAX_LABEL {
                return Err(format!(
                    "{text:?} is not a domain name: the label {label:?} must be 1 to 63 letters, digits and inner hyphens"
                ));
            }
            wire.push(label.len() as u8);
            wire.extend(label.bytes().map(|octet| octet.to_ascii_lowercase()));
        }
        wire.push(0);
        if wire.len() > MAX_NAME {
            return Err(format!("{absolute:?} is not a domain name: it is {} octets long, over 255", wire.len()));
        }
        Ok(Self(wire.into()))
    }

    /// Returns the wire form with the root's octet.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }

    /// Returns the number of labels without the root.
    pub fn labels(&self) -> usize {
        wire_labels(&self.0).count()
    }

    /// Formats the name without its final dot, as in configurations and commands.
    pub fn without_final_dot(&self) -> String {
        let mut text = self.to_string();
        text.pop();
        text
    }

    /// Returns the name of a Service below this apex, with `labels` in front; `None` if it would be longer than 255
    /// octets.
    pub fn for_service(&self, key: ServiceKey<'_>, labels: &[&[u8]]) -> Option<Self> {
        let mut wire = Vec::with_capacity(MAX_NAME);
        for label in labels {
            wire.push(label.len() as u8);
            wire.extend_from_slice(label);
        }
        wire.extend_from_slice(key.0);
        wire.extend_from_slice(SVC);
        self.prefixed(&wire)
    }

    /// Returns the name of a Pod's address below this apex: `label`, the namespace and `pod`.
    pub fn for_pod(&self, namespace: &[u8], label: &[u8]) -> Option<Self> {
        let lengths = [[label.len() as u8], [namespace.len() as u8]];
        self.prefixed(&[&lengths[0], label, &lengths[1], namespace, b"\x03pod"].concat())
    }

    /// Returns the key that sorts names in canonical order (RFC 4034 section 6.1): the labels from the last to the
    /// first.
    pub fn canonical(&self) -> Vec<Box<[u8]>> {
        let mut labels: Vec<Box<[u8]>> = wire_labels(&self.0).map(Into::into).collect();
        labels.reverse();
        labels
    }

    /// Returns this name with `labels` (wire form, no root) in front; `None` if it would be longer than 255 octets.
    pub fn prefixed(&self, labels: &[u8]) -> Option<Self> {
        (labels.len() + self.0.len() <= MAX_NAME).then(|| Self([labels, &self.0].concat().into()))
    }
}

impl fmt::Display for WireName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_name(f, &self.0)
    }
}

/// Iterates over the labels of a name in wire form, first to last, without the root.
pub fn wire_labels(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let length = usize::from(*wire.get(at)?);
        let label = wire.get(at + 1..=at + length).filter(|_| length > 0)?;
        at += length + 1;
        Some(label)
    })
}

/// Writes a name as text: ASCII, escaped as in a zone file (RFC 1035 section 5.1), with the final dot.
pub fn write_name(to: &mut impl fmt::Write, wire: &[u8]) -> fmt::Result {
    let mut any = false;
    for label in wire_labels(wire) {
        any = true;
        write_label(to, label)?;
        to.write_char('.')?;
    }
    if any { Ok(()) } else { to.write_char('.') }
}

/// Writes one label as text: ASCII, escaped as in a zone file (RFC 1035 section 5.1).
pub fn write_label(to: &mut impl fmt::Write, label: &[u8]) -> fmt::Result {
    for octet in label {
        match octet {
            b'.' | b'"' | b'\\' | b';' | b'@' | b'(' | b')' | b'$' => write!(to, "\\{}", char::from(*octet))?,
            0x21..=0x7e => to.write_char(char::from(*octet))?,
            _ => write!(to, "\\{octet:03}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> String {
        let mut name = QueryName::default();
        name.set(&WireName::parse(text).unwrap());
        let apex = WireName::parse("cluster.local").unwrap();
        let text = |label: &[u8]| String::from_utf8(label.to_vec()).unwrap();
        let key = |key: ServiceKey<'_>| format!("{}/{}", text(key.namespace()), text(key.service()));
        match name.apex_at(&apex) {
            None => "outside".into(),
            Some(at) => match classify(&name, at) {
                NameKind::Namespace(namespace) => format!("namespace {}", text(namespace)),
                NameKind::Service(service) => format!("service {}", key(service)),
                NameKind::Endpoint(service, label) => format!("endpoint {} of {}", text(label), key(service)),
                NameKind::Protocol(service, label) => format!("protocol {} of {}", text(label), key(service)),
                NameKind::Port(service, port, protocol) => {
                    format!("port {} {} of {}", text(port), text(protocol), key(service))
                }
                NameKind::PodNamespace(namespace) => format!("pods of {}", text(namespace)),
                NameKind::PodAddress(namespace, label) => format!("pod {} of {}", text(label), text(namespace)),
                other => format!("{other:?}"),
            },
        }
    }

    #[test]
    fn parses_query_names() {
        for (text, expected) in [
            ("Web.default", "web.default."),
            ("_http._tcp.web.", "_http._tcp.web."),
            ("*.a_b", "*.a_b."),
            ("a..b", "error"),
            (".a", "error"),
            (".", "error"),
            ("", "error"),
            ("a b", "error"),
            ("b\u{fc}cher.example", "error"),
            ("a/b", "error"),
            (&"a".repeat(64), "error"),
            (&"a.".repeat(128), "error"),
            (&"a.".repeat(127), &"a.".repeat(127)),
        ] {
            let read = match QueryName::parse(text) {
                Ok(name) => name.to_string(),
                Err(sentence) => {
                    assert!(sentence.contains("is not a domain name: "), "{sentence}");
                    "error".into()
                }
            };
            assert_eq!(read, expected, "{text:?}");
        }
    }

    #[test]
    fn classifies_names() {
        for (name, form) in [
            ("cluster.local", "Apex"),
            ("CLUSTER.local", "Apex"),
            ("svc.cluster.local", "EmptyNonTerminal"),
            ("pod.cluster.local", "EmptyNonTerminal"),
            ("dns.cluster.local", "EmptyNonTerminal"),
            ("ns.dns.cluster.local", "NameServer"),
            ("dns-version.cluster.local", "Version"),
            ("x.dns-version.cluster.local", "Invalid"),
            ("ns.ns.dns.cluster.local", "Invalid"),
            ("default.svc.cluster.local", "namespace default"),
            ("Web.Default.SVC.cluster.local", "service default/web"),
            ("web-0.web.default.svc.cluster.local", "endpoint web-0 of default/web"),
            ("_tcp.web.default.svc.cluster.local", "protocol _tcp of default/web"),
            ("_http._tcp.web.default.svc.cluster.local", "port _http _tcp of default/web"),
            ("http._tcp.web.default.svc.cluster.local", "Invalid"),
            ("_http.web-0.web.default.svc.cluster.local", "Invalid"),
            ("_p._tcp.web-0.web.default.svc.cluster.local", "Invalid"),
            ("default.pod.cluster.local", "pods of default"),
            ("10-2-1-10.default.pod.cluster.local", "pod 10-2-1-10 of default"),
            ("a.10-2-1-10.default.pod.cluster.local", "Invalid"),
            ("web.default.cluster.local", "Invalid"),
            ("xcluster.local", "outside"),
            ("local", "outside"),
        ] {
            assert_eq!(shape(name), form, "{name}");
        }
    }

    #[test]
    fn guesses_services_of_malformed_names() {
        let apex = WireName::parse("cluster.local").unwrap();
        let mut name = QueryName::default();
        for (text, key) in [
            ("web.default.cluster.local", Some(("default", "web"))),
            ("web-0.web.default.cluster.local", Some(("default", "web"))),
            ("web.default.svc.cluster.local.default.svc.cluster.local", Some(("default", "web"))),
            ("_http._tcp.web.default.svc.cluster.local.cluster.local", Some(("default", "web"))),
            ("_http._tcp.web-0.web.default.svc.cluster.local", Some(("default", "web"))),
            ("cluster.local.default.svc.cluster.local", None),
            ("svc.cluster.local.cluster.local", Some(("local", "cluster"))),
            ("www.example.com.default.svc.cluster.local", None),
            ("web.cluster.local", None),
        ] {
            name.set(&WireName::parse(text).unwrap());
            let apex_at = name.apex_at(&apex).unwrap();
            let expected = key.and_then(|(namespace, service)| service_key(namespace, service));
            assert_eq!(guess_service(&name, apex_at).map(|key| key.0), expected.as_deref(), "{text}");
        }
    }

    #[test]
    fn rejects_invalid_names() {
        let mut name = QueryName::default();
        assert_eq!(name.parse_wire(b"\x03web\x00rest"), Some(5));
        assert_eq!(name.parse_wire(b"\x00"), Some(1));
        assert_eq!(name.labels(), 0);
        assert_eq!(name.parse_wire(b"\xc0\x0c"), None);
        assert_eq!(name.parse_wire(b"\x03we"), None);
        assert_eq!(name.parse_wire(b"\x03web"), None);
        let longest: Vec<u8> = [b"\x01a".repeat(127), vec![0]].concat();
        assert_eq!(longest.len(), 255);
        assert_eq!(name.parse_wire(&longest), Some(255));
        assert_eq!(name.labels(), 127);
        assert_eq!(name.parse_wire(&[b"\x01a".repeat(128), vec![0]].concat()), None);
        for text in ["", ".", "a..b", "-a.b", "a-.b", "a b", &"x".repeat(64), &format!("_{}", "x".repeat(63))] {
            assert!(WireName::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn escapes_text() {
        let mut text = String::new();
        write_name(&mut text, b"\x04a.\"\x07\x00").unwrap();
        assert_eq!(text, "a\\.\\\"\\007.");
    }
}
