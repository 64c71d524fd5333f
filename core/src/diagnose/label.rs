//! Labels of a question as names of objects.

use crate::name::label_pool::Label;
use crate::name::{ServiceKey, is_label, write_label};
use crate::object::ObjectRef;

/// Returns the Service of a key in a name.
pub fn service_ref(key: ServiceKey<'_>) -> ObjectRef {
    ObjectRef::new(&label_text(key.namespace()), &label_text(key.service()))
}

/// Returns a label as text. A label that no object can have as its name is escaped (RFC 1035 section 5.1).
pub(super) fn label_text(label: &[u8]) -> String {
    match std::str::from_utf8(label) {
        Ok(text) if is_label(text.strip_prefix('_').unwrap_or(text)) => text.to_owned(),
        _ => {
            let mut text = String::new();
            let _ = write_label(&mut text, label);
            text
        }
    }
}

pub(super) fn is_object_named(label: Label<'_>, text: &str) -> bool {
    // Equal texts are split equally, so that the parts can be compared.
    label == Label::new(text)
}
