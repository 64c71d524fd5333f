//! Entry points for fuzzing: how events of a watch are read.
//!
//! Used by `fuzz/` and `tests/corpus.rs`. Not part of the public API.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::watched::{Event, Watched};
use crate::cluster::Resource;
use crate::objects::{Object, ObjectRef};

/// An event of a watch.
#[derive(Debug)]
pub enum WatchEvent {
    /// The present state of an object, or the reason for which it is skipped.
    Applied(Result<Object, String>),
    /// An object is gone.
    Deleted(Option<ObjectRef>),
    /// A bookmark, an error or an unknown event.
    Other,
}

/// Reads one line of a watch. `None` if the line is not an event.
///
/// # Panics
///
/// If an object is read in one pass over its text, and the tree of its fields gives another object.
pub fn read_event(resource: Resource, line: &[u8]) -> Option<WatchEvent> {
    let event = Event::read(resource, line).ok()?;
    if let Ok(Raw { object }) = serde_json::from_slice(line)
        && serde_json::from_str::<UniqueNames>(object.get()).is_ok()
        && let Some(text) = Watched::read_text(resource, object.get())
    {
        let tree = Watched::read_tree(resource, object.get());
        assert_eq!(format!("{text:?}"), format!("{tree:?}"));
    }
    let object = |watched: Watched| watched.object.map(|(object, _)| object).map_err(|invalid| invalid.to_string());
    Some(match event {
        Event::Applied(watched) => WatchEvent::Applied(object(watched)),
        Event::Deleted(watched) => WatchEvent::Deleted(watched.key),
        Event::Bookmark { .. } | Event::Error(..) | Event::Unknown => WatchEvent::Other,
    })
}

#[derive(Deserialize)]
struct Raw<'e> {
    #[serde(borrow)]
    object: &'e RawValue,
}

/// An object in which no name occurs twice. What others mean is not defined (RFC 8259 section 4), and the API server
/// writes none: the pass over the text takes the first, the tree the last.
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
