//! Decoding of the API server's responses: objects, pages of lists, and events of watches.
//!
//! An object that cannot be decoded is skipped alone, and never fails the list or the watch (K7 of `tests/rows.md`). Not
//! here: the fields that are served (`objects`).

use std::borrow::Cow;
use std::fmt;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer as _};
use serde_json::Value;
use serde_json::value::RawValue;

use headless_dns_core::cluster::Resource;
use headless_dns_core::name::is_label;
use headless_dns_core::object::{Decoded, Invalid, Object, ObjectRef, Skipped, decode, decode_text};

/// An object of a list or an event: its key, and the decoded object or the reason for which it is skipped.
#[derive(Debug)]
pub(super) struct DecodedObject {
    /// Key in `Cluster`; `None` for an object without a name.
    pub(super) key: Option<ObjectRef>,
    /// The resourceVersion; empty if it is absent.
    pub(super) version: String,
    /// The trimmed object, and the parts that were left out.
    pub(super) object: Result<(Object, Vec<Skipped>), Invalid>,
    /// Time of the change in the cluster, as the controller that wrote the object noted it.
    pub(super) triggered: Option<SystemTime>,
}

/// Annotation in which the controllers of EndpointSlices and Endpoints note the time of the Pod's or Service's change.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

impl DecodedObject {
    /// Decodes one object of `resource`.
    pub(super) fn read(resource: Resource, raw: &RawValue) -> Self {
        // The fast pass declines an object with anything unusual, and the slow one reports it.
        Self::read_text(resource, raw.get()).unwrap_or_else(|| Self::read_tree(resource, raw.get()))
    }

    pub(super) fn read_text(resource: Resource, text: &str) -> Option<Self> {
        let (kind, api_version) = kind_of(resource);
        let head = ObjectHead::read(text)?;
        let same = |said: &Option<Cow<'_, str>>, ours| said.as_deref().is_none_or(|said| said == ours);
        let HeadMeta { name, namespace, resource_version, annotations } = head.metadata;
        let triggered = annotations.and_then(|annotations| time_of(&annotations.trigger_time?));
        let namespace = if namespace.is_empty() { "default".into() } else { namespace };
        if !same(&head.kind, kind) || !same(&head.api_version, api_version) || name.is_empty() || !is_label(&namespace)
        {
            return None;
        }
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let key = key_in(resource, &namespace, &name);
        match decode_text(kind, group, ObjectRef::new(&namespace, &name), text).ok()? {
            Decoded::Object(object, skipped) => {
                Some(Self { key, version: resource_version.into(), object: Ok((object, skipped)), triggered })
            }
            Decoded::List(_) | Decoded::Ignored => None,
        }
    }

    pub(super) fn read_tree(resource: Resource, text: &str) -> Self {
        let document: Value = match serde_json::from_str(text) {
            Ok(document) => document,
            Err(error) => {
                let object = Err(Invalid(format!("an object of {} is no JSON: {error}", name_of(resource))));
                return Self { key: None, version: String::new(), object, triggered: None };
            }
        };
        let text =
            |field: &str| document.get("metadata").and_then(|meta| meta.get(field)?.as_str()).unwrap_or_default();
        // The default of `decode` below: with another namespace, a DELETED event would delete no object.
        let namespace = if text("namespace").is_empty() { "default" } else { text("namespace") };
        let key = key_in(resource, namespace, text("name"));
        let version = text("resourceVersion").to_owned();
        let annotations = document.pointer("/metadata/annotations");
        let triggered = annotations.and_then(|annotations| time_of(annotations.get(TRIGGER_TIME)?.as_str()?));
        let object = match decode(with_kind(resource, document), "default") {
            Ok(Decoded::Object(object, skipped)) if Resource::for_object(&object) == resource => Ok((object, skipped)),
            Ok(_) => Err(Invalid(format!("among {} is something else", name_of(resource)))),
            Err(invalid) => Err(invalid),
        };
        Self { key, version, object, triggered }
    }
}

/// Parses a time of RFC 3339, of 1970 or later.
fn time_of(text: &str) -> Option<SystemTime> {
    // jiff accepts a time without seconds; RFC 3339 section 5.6 does not.
    let time: Timestamp = text.parse().ok().filter(|_| text.as_bytes().get(16) == Some(&b':'))?;
    (time >= Timestamp::UNIX_EPOCH).then(|| time.into())
}

fn key_in(resource: Resource, namespace: &str, name: &str) -> Option<ObjectRef> {
    match resource {
        _ if name.is_empty() => None,
        Resource::Namespaces => Some(ObjectRef::new(name, name)),
        _ => Some(ObjectRef::new(namespace, name)),
    }
}

/// The fields that identify an object.
#[derive(Default)]
struct ObjectHead<'h> {
    kind: Option<Cow<'h, str>>,
    api_version: Option<Cow<'h, str>>,
    metadata: HeadMeta<'h>,
}

impl<'h> ObjectHead<'h> {
    /// Reads no further than necessary: the API server writes these fields first.
    fn read(text: &'h str) -> Option<Self> {
        let mut head = Self::default();
        let mut reader = serde_json::Deserializer::from_str(text);
        // Deserialization ends with an error once all fields are there.
        let read = reader.deserialize_map(HeadVisitor(&mut head));
        (read.is_ok() || head.is_whole()).then_some(head)
    }

    fn is_whole(&self) -> bool {
        self.kind.is_some() && self.api_version.is_some() && !self.metadata.name.is_empty()
    }
}

struct HeadVisitor<'v, 'h>(&'v mut ObjectHead<'h>);

impl<'h> Visitor<'h> for HeadVisitor<'_, 'h> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'h>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some(name) = fields.next_key::<Cow<'h, str>>()? {
            match &*name {
                "kind" => self.0.kind = Some(fields.next_value()?),
                "apiVersion" => self.0.api_version = Some(fields.next_value()?),
                "metadata" => self.0.metadata = fields.next_value()?,
                _ => _ = fields.next_value::<IgnoredAny>()?,
            }
            if self.0.is_whole() {
                return Err(A::Error::custom("enough"));
            }
        }
        Ok(())
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMeta<'h> {
    #[serde(borrow)]
    name: Cow<'h, str>,
    #[serde(borrow, default)]
    namespace: Cow<'h, str>,
    #[serde(borrow, default)]
    resource_version: Cow<'h, str>,
    #[serde(borrow, default)]
    annotations: Option<Annotations<'h>>,
}

#[derive(Default, Deserialize)]
struct Annotations<'h> {
    #[serde(borrow, default, rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    trigger_time: Option<Cow<'h, str>>,
}

/// Inserts `kind` and `apiVersion` where either is absent: items of a list have neither.
fn with_kind(resource: Resource, mut document: Value) -> Value {
    if let Some(fields) = document.as_object_mut() {
        let (kind, version) = kind_of(resource);
        for (field, value) in [("kind", kind), ("apiVersion", version)] {
            if fields.get(field).is_none_or(Value::is_null) {
                fields.insert(field.into(), value.into());
            }
        }
    }
    document
}

/// Returns the name of a resource in the Kubernetes API.
pub(super) fn name_of(resource: Resource) -> &'static str {
    match resource {
        Resource::Namespaces => "namespaces",
        Resource::Services => "services",
        Resource::EndpointSlices => "endpointslices",
        Resource::Endpoints => "endpoints",
        Resource::Pods => "pods",
        Resource::StatefulSets => "statefulsets",
        Resource::Workloads => "workloads",
    }
}

/// Returns the kind and the group with version.
fn kind_of(resource: Resource) -> (&'static str, &'static str) {
    match resource {
        Resource::Namespaces => ("Namespace", "v1"),
        Resource::Services => ("Service", "v1"),
        Resource::EndpointSlices => ("EndpointSlice", "discovery.k8s.io/v1"),
        Resource::Endpoints => ("Endpoints", "v1"),
        Resource::Pods => ("Pod", "v1"),
        Resource::StatefulSets => ("StatefulSet", "apps/v1"),
        Resource::Workloads => ("Deployment", "apps/v1"),
    }
}

/// Returns the URL path of a resource, of one namespace or of all.
pub(super) fn path_of(resource: Resource, namespace: Option<&str>) -> String {
    let version = kind_of(resource).1;
    let root = if version.contains('/') { "apis" } else { "api" };
    let name = name_of(resource);
    match namespace {
        Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{name}"),
        None => format!("/{root}/{version}/{name}"),
    }
}

/// One page of a list.
#[derive(Deserialize)]
pub(super) struct ListPage<'p> {
    #[serde(default)]
    pub(super) metadata: PageMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'p RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMeta {
    #[serde(default)]
    pub(super) resource_version: String,
    #[serde(default, rename = "continue")]
    pub(super) more: Option<String>,
}

impl<'p> ListPage<'p> {
    pub(super) fn items(&self) -> &[&'p RawValue] {
        self.items.as_deref().unwrap_or_default()
    }
}

/// An event of a watch.
#[derive(Debug)]
pub(super) enum DecodedEvent {
    /// ADDED or MODIFIED: an object as it is now.
    Applied(DecodedObject),
    /// DELETED: the last state of an object.
    Deleted(DecodedObject),
    /// BOOKMARK: no change up to this resourceVersion.
    Bookmark {
        version: String,
        /// True at the end of a streaming list.
        end_of_list: bool,
    },
    /// ERROR: the watch ends, with this HTTP status and message.
    Error(u16, String),
    /// An event of an unknown type.
    Unknown,
}

#[derive(Deserialize)]
struct RawEvent<'e> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'e, str>,
    #[serde(borrow)]
    object: &'e RawValue,
}

/// The `Status` object of an unsuccessful request.
#[derive(Default, Deserialize)]
pub(super) struct RawStatus {
    #[serde(default)]
    pub(super) code: u16,
    #[serde(default)]
    pub(super) message: String,
}

impl DecodedEvent {
    /// Returns the resourceVersion; empty if the event has none.
    pub(super) fn version(&self) -> &str {
        match self {
            Self::Applied(watched) | Self::Deleted(watched) => &watched.version,
            Self::Bookmark { version, .. } => version,
            Self::Error(..) | Self::Unknown => "",
        }
    }

    /// Reads the most frequent events in one pass, if their text is exactly as the API server writes it.
    fn applied(resource: Resource, line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?.strip_prefix(r#"{"type":""#)?;
        let object = line.strip_prefix("ADDED").or_else(|| line.strip_prefix("MODIFIED"))?;
        let object = object.strip_prefix(r#"","object":"#)?.trim_end().strip_suffix('}')?;
        DecodedObject::read_text(resource, object).map(Self::Applied)
    }

    /// Reads one line of a watch.
    ///
    /// # Errors
    ///
    /// If the line is not an event. The event is lost then.
    pub(super) fn read(resource: Resource, line: &[u8]) -> Result<Self, serde_json::Error> {
        if let Some(event) = Self::applied(resource, line) {
            return Ok(event);
        }
        let RawEvent { kind, object } = serde_json::from_slice(line)?;
        Ok(match kind.as_ref() {
            "ADDED" | "MODIFIED" => Self::Applied(DecodedObject::read(resource, object)),
            "DELETED" => Self::Deleted(DecodedObject::read(resource, object)),
            "BOOKMARK" => {
                let bookmark: Value = serde_json::from_str(object.get())?;
                let meta = bookmark.get("metadata");
                let end = meta.and_then(|meta| meta.get("annotations")?.get("k8s.io/initial-events-end")?.as_str());
                let version = meta.and_then(|meta| meta.get("resourceVersion")?.as_str());
                Self::Bookmark { version: version.unwrap_or_default().into(), end_of_list: end == Some("true") }
            }
            "ERROR" => {
                let status: RawStatus = serde_json::from_str(object.get()).unwrap_or_default();
                Self::Error(status.code, status.message)
            }
            _ => Self::Unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn parses_rfc_3339_times() {
        for (text, milliseconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2026-11-21T10:35:04Z", Some(1_795_257_304_000)),
            ("2024-02-29T23:59:59.25Z", Some(1_709_251_199_250)),
            ("2024-03-01T01:59:59.250000000+02:00", Some(1_709_251_199_250)),
            ("2024-02-29T18:29:59.25-05:30", Some(1_709_251_199_250)),
            ("2000-12-31t00:00:00z", Some(978_220_800_000)),
            ("1969-12-31T23:59:59Z", None),
            ("2024-02-29", None),
            ("2024-02-29T10:00Z", None),
            ("2024-02-29T10:00:00", None),
            ("yesterday", None),
            ("2024-02-+1T10:00:00Z", None),
        ] {
            let expected = milliseconds.map(|milliseconds| UNIX_EPOCH + Duration::from_millis(milliseconds));
            assert_eq!(time_of(text), expected, "{text}");
        }
    }

    fn watched(resource: Resource, json: &str) -> DecodedObject {
        let Ok(DecodedEvent::Applied(watched)) =
            DecodedEvent::read(resource, format!(r#"{{"type":"ADDED","object":{json}}}"#).as_bytes())
        else {
            panic!("an event")
        };
        watched
    }

    #[test]
    fn undecodable_object_does_not_fail_page() {
        let text = r#"{"kind":"ServiceList","metadata":{"resourceVersion":"9","continue":"next"},"items":[
            {"metadata":{"name":"a","namespace":"x","resourceVersion":"3"},"spec":{"clusterIP":"None"}},
            {"metadata":{"name":"b","namespace":"x"},"spec":{"ports":7}},
            {"metadata":{"namespace":"x"}}, 5, {"metadata":{"name":6}}]}"#;
        let page: ListPage<'_> = serde_json::from_str(text).unwrap();
        assert_eq!((page.metadata.resource_version.as_str(), page.metadata.more.as_deref()), ("9", Some("next")));
        let read: Vec<DecodedObject> =
            page.items().iter().map(|item| DecodedObject::read(Resource::Services, item)).collect();
        let good: Vec<bool> = read.iter().map(|watched| watched.object.is_ok()).collect();
        assert_eq!(good, [true, false, false, false, false]);
        let keys: Vec<_> = read.iter().map(|watched| watched.key.as_ref().map(ToString::to_string)).collect();
        assert_eq!(keys, [Some("x/a".to_owned()), Some("x/b".to_owned()), None, None, None]);
        assert_eq!(read[0].version, "3");
        let empty: ListPage<'_> = serde_json::from_str(r#"{"metadata":{},"items":null}"#).unwrap();
        assert!(empty.items().is_empty());
    }

    #[test]
    fn decodes_events() {
        let namespace =
            watched(Resource::Namespaces, r#"{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"a"}}"#);
        assert_eq!(namespace.key, Some(ObjectRef::new("a", "a")));
        assert!(namespace.object.is_ok());
        let other = watched(Resource::Services, r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}"#);
        assert!(other.object.is_err(), "a Pod is no Service");
        let read = |line: &str| DecodedEvent::read(Resource::Services, line.as_bytes());
        let bookmark = r#"{"type":"BOOKMARK","object":{"kind":"Service","metadata":{"resourceVersion":"12","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
        assert!(matches!(read(bookmark), Ok(DecodedEvent::Bookmark { version, end_of_list: true }) if version == "12"));
        let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}"#;
        assert!(matches!(read(gone), Ok(DecodedEvent::Error(410, _))));
        assert!(matches!(read(r#"{"type":"NEW","object":{}}"#), Ok(DecodedEvent::Unknown)));
        assert!(read(r#"{"type":"ADDED","obj"#).is_err());
        let more = r#"{"type":"ADDED","object":{"kind":"Service","apiVersion":"v1","metadata":{"name":"a"}},"x":{}}"#;
        assert!(matches!(read(more), Ok(DecodedEvent::Applied(watched)) if watched.object.is_ok()));
    }

    #[test]
    fn text_and_tree_decode_equally() {
        let slice = r#""addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1","x"],"hostname":"A","nodeName":"n",
            "targetRef":{"kind":"Pod","name":"a"}},{"addresses":["10.0.0.2"],"conditions":null}],
            "ports":[{"name":"http","port":80},{"port":null}]"#;
        let service = r#""spec":{"clusterIP":"None","ports":[{"name":"a","port":1,"targetPort":"b"},{"port":99999}]}"#;
        for (resource, fields) in [(Resource::EndpointSlices, slice), (Resource::Services, service)] {
            let text = format!(r#"{{"metadata":{{"name":"a","namespace":"b","resourceVersion":"7"}},{fields}}}"#);
            let (read, tree) =
                (DecodedObject::read_text(resource, &text).unwrap(), DecodedObject::read_tree(resource, &text));
            assert_eq!((read.key, read.version, read.object), (tree.key, tree.version, tree.object));
        }
        // The fast pass declines every object that the slow one rejects.
        for text in [
            r#"{"metadata":{"name":"a"},"spec":7}"#,
            r#"{"kind":"Pod","metadata":{"name":"a"}}"#,
            r#"{"metadata":{"name":"a","namespace":"no label"}}"#,
            r#"{"metadata":{"name":""}}"#,
            r#"{"metadata":{"name":7}}"#,
            "5",
        ] {
            assert!(DecodedObject::read_text(Resource::Services, text).is_none(), "{text}");
            assert!(DecodedObject::read_tree(Resource::Services, text).object.is_err(), "{text}");
        }
    }

    #[test]
    fn builds_request_paths() {
        assert_eq!(path_of(Resource::Services, None), "/api/v1/services");
        assert_eq!(path_of(Resource::Services, Some("team")), "/api/v1/namespaces/team/services");
        assert_eq!(path_of(Resource::EndpointSlices, None), "/apis/discovery.k8s.io/v1/endpointslices");
        assert_eq!(path_of(Resource::StatefulSets, None), "/apis/apps/v1/statefulsets");
    }
}
