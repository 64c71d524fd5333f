//! Entry points for fuzzing the decoder of watch events.
//!
//! Used by `fuzz/` and `tests/it/corpus.rs`. Not part of the public API.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::decode::{DecodedEvent, DecodedObject};
use headless_dns_core::cluster::Resource;
use headless_dns_core::object::{Object, ObjectRef};

/// An event of a watch, as the fuzzer sees it.
#[derive(Debug)]
pub enum WatchEvent {
    /// ADDED or MODIFIED: the object, or the reason for which it is skipped.
    Applied(Result<Object, String>),
    /// DELETED: the key of the object, if it has one.
    Deleted(Option<ObjectRef>),
    /// A bookmark, an error or an unknown event.
    Other,
}

/// Decodes one line of a watch. Returns `None` if the line is not an event.
///
/// # Panics
///
/// If the fast pass over the text and the slow pass over the tree of fields decode two different objects.
pub fn read_event(resource: Resource, line: &[u8]) -> Option<WatchEvent> {
    let event = DecodedEvent::read(resource, line).ok()?;
    if let Ok(Raw { object }) = serde_json::from_slice(line)
        && serde_json::from_str::<UniqueNames>(object.get()).is_ok()
        && let Some(text) = DecodedObject::read_text(resource, object.get())
    {
        let tree = DecodedObject::read_tree(resource, object.get());
        assert_eq!(format!("{text:?}"), format!("{tree:?}"));
    }
    let object =
        |watched: DecodedObject| watched.object.map(|(object, _)| object).map_err(|invalid| invalid.to_string());
    Some(match event {
        DecodedEvent::Applied(watched) => WatchEvent::Applied(object(watched)),
        DecodedEvent::Deleted(watched) => WatchEvent::Deleted(watched.key),
        DecodedEvent::Bookmark { .. } | DecodedEvent::Error(..) | DecodedEvent::Unknown => WatchEvent::Other,
    })
}

#[derive(Deserialize)]
struct Raw<'e> {
    #[serde(borrow)]
    object: &'e RawValue,
}

/// A JSON object without duplicate names. RFC 8259 section 4 does not define the meaning of duplicates, and the API
/// server writes none: the fast pass takes the first value, the slow pass the last.
struct UniqueNames;

impl<'de> Deserialize<'de> for UniqueNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueNames)
    }
}

impl<'de> Visitor<'de> for UniqueNames {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self, A::Error> {
        let mut names = HashSet::new();
        while let Some((name, IgnoredAny)) = fields.next_entry::<String, _>()? {
            if !names.insert(name) {
                return Err(A::Error::custom("a name occurs twice"));
            }
        }
        Ok(self)
    }
}
