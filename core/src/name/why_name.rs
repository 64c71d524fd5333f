//! Names of explanations: TXT at `_why.NAME` explains why NAME does not resolve.
//!
//! For resolvers that ask nothing below a name that does not exist (RFC 8020), the same data is at `FRONT._why.Z`,
//! where NAME is `FRONT.Z`. These names exist below names that do not: the one exception to RFC 8020 here. Not here:
//! the explanation (`diagnose`) and the response (`answer/extended_errors.rs`).

use std::ops::Range;

use super::{MAX_NAME, QueryName};

/// Label `_why`, in lower case.
pub const WHY: &[u8] = b"_why";

/// Returns the labels in front of the apex of the name that `name` asks about; an empty range for the apex itself,
/// `None` if `name` contains no `_why` at either end.
///
/// A repeated `_why` asks about the same name as a single one.
pub fn explain_target(name: &QueryName, apex_at: usize) -> Option<Range<usize>> {
    let is_why = |index: &usize| name.label(*index) == WHY;
    let front = (0..apex_at).take_while(is_why).count();
    let back = (front..apex_at).rev().take_while(is_why).count();
    (front + back > 0).then_some(front..apex_at - back)
}

impl QueryName {
    /// Sets this name to `labels` of `name`, followed by the apex that begins at label `apex_at` of `name`.
    pub fn set_explain_target(&mut self, name: &Self, labels: Range<usize>, apex_at: usize) {
        let mut wire = [0; MAX_NAME];
        let (front, apex) = (name.between(labels.start, labels.end), &name.octets()[name.offset(apex_at)..]);
        wire[..front.len()].copy_from_slice(front);
        wire[front.len()..front.len() + apex.len()].copy_from_slice(apex);
        let read = self.parse_wire(&wire);
        debug_assert!(read.is_some(), "labels of a valid name make a valid name");
    }
}

#[cfg(test)]
mod tests {
    use super::super::WireName;
    use super::*;

    fn asked(text: &str) -> String {
        let apex = WireName::parse("cluster.local").unwrap();
        let (mut name, mut subject_name) = (QueryName::default(), QueryName::default());
        name.set(&WireName::parse(text).unwrap());
        let apex_at = name.apex_at(&apex).unwrap();
        match explain_target(&name, apex_at) {
            None => "none".into(),
            Some(labels) => {
                subject_name.set_explain_target(&name, labels, apex_at);
                subject_name.to_string()
            }
        }
    }

    #[test]
    fn finds_explain_targets() {
        for (name, expected) in [
            ("_why.web.default.svc.cluster.local", "web.default.svc.cluster.local."),
            ("_WHY.Web.default.svc.cluster.local", "web.default.svc.cluster.local."),
            ("web.default.svc._why.cluster.local", "web.default.svc.cluster.local."),
            ("_why.web.default.svc._why.cluster.local", "web.default.svc.cluster.local."),
            ("_why._why.web.cluster.local", "web.cluster.local."),
            ("a._why.b._why._why.cluster.local", "a._why.b.cluster.local."),
            ("_why.cluster.local", "cluster.local."),
            ("_why._why.cluster.local", "cluster.local."),
            ("web._why.default.svc.cluster.local", "none"),
            ("web.default.svc.cluster.local", "none"),
            ("cluster.local", "none"),
        ] {
            assert_eq!(asked(name), expected, "{name}");
        }
    }

    #[test]
    fn sets_targets_of_any_length() {
        let apex = WireName::parse("cluster.local").unwrap();
        let (mut name, mut subject_name) = (QueryName::default(), QueryName::default());
        // 15 octets of apex, 5 of `_why`, and labels of one letter up to 255 octets.
        for count in 0..=117 {
            for (front, back) in [(&b"\x04_why"[..], &b""[..]), (b"", b"\x04_why")] {
                let wire = [front, &b"\x01a".repeat(count), back, apex.octets()].concat();
                assert_eq!(name.parse_wire(&wire), Some(wire.len()));
                let apex_at = name.apex_at(&apex).unwrap();
                subject_name.set_explain_target(&name, explain_target(&name, apex_at).unwrap(), apex_at);
                assert_eq!(subject_name.octets(), [&b"\x01a".repeat(count), apex.octets()].concat());
            }
        }
    }
}
