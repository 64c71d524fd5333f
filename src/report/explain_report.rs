//! Explanation of one name: as text for people, and as JSON that the command `explain` reads from a server.
//!
//! Not here: how an explanation is made (`explain.rs`), and the form of one finding (`finding_view.rs`).

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::finding_view::{Color, FindingView, Style, pretty};
use headless_dns_core::diagnose::TraceStep;
use headless_dns_core::escape::Printable;
use headless_dns_core::name::WireName;
use headless_dns_core::rtype;
use headless_dns_core::wire::client::{AnswerRecord, ParsedResponse, rcode_name};

/// Explanation of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainReport {
    /// Names in the order in which they were looked up, each with its result. At least one.
    pub(crate) candidates: Vec<Candidate>,
    /// Index of the explained name in `tried`.
    pub(crate) chosen: usize,
    /// Answer section of the response for the explained name.
    pub(crate) answer: Vec<AnswerRecord>,
    pub(crate) qtype: u16,
    /// Namespace of the search list, if one was applied.
    pub(crate) searched: Option<Box<str>>,
    pub(crate) steps: Vec<StepView>,
    pub(crate) findings: Vec<FindingView>,
    /// Hints, in sentences.
    pub(crate) hints: Vec<String>,
    /// True if every object was read.
    pub(crate) is_complete: bool,
}

/// Name that was looked up.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) name: WireName,
    /// Mnemonic of the response code.
    pub(crate) rcode: String,
    pub(crate) resolves: bool,
}

impl Candidate {
    pub(crate) fn new(name: WireName, reply: &ParsedResponse, resolves: bool) -> Self {
        Self { name, rcode: rcode_name(reply.rcode), resolves }
    }
}

/// Step of the decision.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StepView {
    pub(crate) what: String,
    pub(crate) holds: Option<bool>,
    pub(crate) text: String,
}

impl From<TraceStep> for StepView {
    fn from(TraceStep { check: what, passed: holds, text }: TraceStep) -> Self {
        Self { what: what.to_owned(), holds, text }
    }
}

impl ExplainReport {
    /// Returns whether the explained name resolves.
    pub fn resolves(&self) -> bool {
        self.candidates[self.chosen].resolves
    }

    /// Renders the explanation for people.
    pub(crate) fn text(&self, style: Style) -> String {
        let mut text = self.candidates_text();
        let Candidate { name, rcode, resolves } = &self.candidates[self.chosen];
        let (verdict, color) =
            if *resolves { ("it resolves", Color::Good) } else { ("it does not resolve", Color::Bad) };
        let verdict = style.paint(color, verdict);
        let _ = writeln!(text, "{name} {}: {}, {verdict}", rtype::name(self.qtype), Printable(rcode));
        if !self.steps.is_empty() {
            text.push('\n');
        }
        let width = self.steps.iter().map(|step| step.what.len()).max().unwrap_or_default();
        for StepView { what, holds, text: found } in &self.steps {
            let mark = match holds {
                Some(true) => style.paint(Color::Good, "✓"),
                Some(false) => style.paint(Color::Bad, "✗"),
                None => style.paint(Color::Plain, "-"),
            };
            let _ = writeln!(text, "  {mark} {:width$}  {}", Printable(what).to_string(), Printable(found));
        }
        if !self.answer.is_empty() {
            text.push('\n');
        }
        for record in &self.answer {
            let _ = writeln!(text, "  {}", Printable(record));
        }
        for finding in &self.findings {
            let _ = write!(text, "\n{}", finding.text(style));
        }
        for hint in self.exhausted_message().iter().chain(&self.hints) {
            let _ = writeln!(text, "\n  {}: {}", style.paint(Color::Doubt, "note"), Printable(hint));
        }
        text
    }

    /// Returns the list of names that were looked up, if a search list was applied; else an empty text.
    fn candidates_text(&self) -> String {
        let mut text = String::new();
        if let (Some(namespace), [_, _, ..], None) = (&self.searched, &self.candidates[..], self.exhausted_message()) {
            let _ = writeln!(text, "tried as a Pod of namespace {} would:", Printable(namespace));
            for Candidate { name, rcode, .. } in &self.candidates {
                let _ = writeln!(text, "  {:8}  {name}", Printable(rcode).to_string());
            }
            text.push('\n');
        }
        text
    }

    /// Returns the note that no name of the search list resolves, if the resolver looks up the name itself first.
    fn exhausted_message(&self) -> Option<String> {
        let [Candidate { name: first, .. }, Candidate { name: second, .. }, ..] = &self.candidates[..] else {
            return None;
        };
        // The names of a search list become shorter. If the second name is longer, the first is the name itself.
        let stands_first = self.chosen == 0 && second.labels() > first.labels();
        let namespace = self.searched.as_ref().filter(|_| stands_first)?;
        Some(format!("no name of the search list of namespace {namespace} resolves"))
    }

    /// Renders the explanation as JSON text.
    pub fn json(&self) -> String {
        pretty(&self.value())
    }

    /// Returns the explanation as a JSON value.
    pub(crate) fn value(&self) -> Value {
        let Candidate { name, rcode, resolves } = &self.candidates[self.chosen];
        let record = |record: &AnswerRecord| json!({"name": record.name, "ttl": record.ttl, "type": record.rtype, "data": record.data});
        let step = |step: &StepView| json!({"what": step.what, "holds": step.holds, "text": step.text});
        let tried = |Candidate { name, rcode, resolves }: &Candidate| json!({"name": name.to_string(), "rcode": rcode, "resolves": resolves});
        json!({
            "name": name.to_string(),
            "type": rtype::name(self.qtype),
            "rcode": rcode,
            "resolves": resolves,
            "answer": self.answer.iter().map(record).collect::<Vec<_>>(),
            "steps": self.steps.iter().map(step).collect::<Vec<_>>(),
            "findings": self.findings.iter().map(|finding| finding.json("severity")).collect::<Vec<_>>(),
            "tried": self.candidates.iter().map(tried).collect::<Vec<_>>(),
            "hints": self.hints,
        })
    }

    /// Parses the output of [`Self::json`]. `searched` is the namespace of the search list that the caller applied. Returns
    /// `None` for any other text.
    pub fn read(text: &[u8], searched: Option<Box<str>>) -> Option<Self> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let items = |field: &str| value.get(field).and_then(Value::as_array);
        let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).map(ToOwned::to_owned);
        let tried = |value: &Value| {
            Some(Candidate {
                name: WireName::parse(&text(value, "name")?).ok()?,
                rcode: text(value, "rcode")?,
                resolves: value.get("resolves")?.as_bool()?,
            })
        };
        let record = |value: &Value| {
            Some(AnswerRecord {
                name: text(value, "name")?,
                ttl: value.get("ttl")?.as_u64()?.try_into().ok()?,
                rtype: text(value, "type")?,
                data: text(value, "data")?,
                text: None,
            })
        };
        let step = |value: &Value| {
            Some(StepView {
                what: text(value, "what")?,
                holds: value.get("holds")?.as_bool(),
                text: text(value, "text")?,
            })
        };
        let name = WireName::parse(&text(&value, "name")?).ok()?;
        let tried: Vec<Candidate> = items("tried")?.iter().map(tried).collect::<Option<_>>()?;
        Some(Self {
            chosen: tried.iter().position(|tried| tried.name == name)?,
            candidates: tried,
            answer: items("answer")?.iter().map(record).collect::<Option<_>>()?,
            qtype: rtype::parse(&text(&value, "type")?).ok()?,
            searched,
            steps: items("steps")?.iter().map(step).collect::<Option<_>>()?,
            findings: items("findings")?.iter().map(FindingView::read).collect::<Option<_>>()?,
            hints: items("hints")?.iter().map(|hint| hint.as_str().map(ToOwned::to_owned)).collect::<Option<_>>()?,
            is_complete: true,
        })
    }
}
