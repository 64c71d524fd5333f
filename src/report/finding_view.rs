//! Findings as text for people and as JSON, alike for `explain` and `check`.
//!
//! Not here: the sentences and fixes themselves (`core/src/diagnose/catalog.rs`).

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use headless_dns_core::diagnose::{Finding, FindingSubject, Fix};
use headless_dns_core::escape::{COLOURS, Printable, json as escape_json, lines};

/// Switch for ANSI colours.
#[derive(Clone, Copy)]
pub(crate) struct Style(bool);

/// Meaning of a text that its colour shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Color {
    Good,
    Bad,
    Doubt,
    Plain,
}

impl Style {
    /// Creates the switch: with `colours`, or without.
    pub(crate) fn new(colours: bool) -> Self {
        Self(colours)
    }

    pub(crate) fn paint(self, color: Color, text: &str) -> String {
        let [good, bad, doubt, end] = COLOURS;
        let begin = match color {
            Color::Good => good,
            Color::Bad => bad,
            Color::Doubt => doubt,
            Color::Plain => return text.to_owned(),
        };
        if self.0 { format!("{begin}{text}{end}") } else { text.to_owned() }
    }
}

/// Rendered finding or sentence, of this process or of a server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FindingView {
    /// Id of the finding; `None` if the server sent only the token.
    pub(crate) id: Option<String>,
    pub(crate) token: Option<String>,
    /// Severity or level: its word, and its colour.
    pub(crate) weight: (String, Color),
    pub(crate) text: String,
    pub(crate) objects: Vec<ObjectView>,
    pub(crate) fix: Option<Fix>,
    /// Extended DNS Error code; `None` if a TXT record carried the text, or it is no finding.
    pub(crate) code: Option<u16>,
}

/// Object that a finding is about.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct ObjectView {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl FindingView {
    pub(crate) fn from_finding(finding: &Finding, (word, color): (&'static str, Color)) -> Self {
        let (id, token) = finding.id_and_token();
        let object = |FindingSubject { kind, key }| ObjectView {
            kind: String::from(kind),
            namespace: key.namespace.into(),
            name: key.name.into(),
        };
        Self {
            id: Some(id.to_owned()),
            token: Some(token.to_owned()),
            weight: (word.to_owned(), color),
            text: finding.summary(),
            objects: finding.about().into_iter().map(object).collect(),
            fix: finding.fix(),
            code: Some(finding.ede_code()),
        }
    }

    /// Creates a sentence that is no finding.
    pub(crate) fn sentence(text: String, (word, color): (&'static str, Color)) -> Self {
        let weight = (word.to_owned(), color);
        Self { id: None, token: None, weight, text, objects: Vec::new(), fix: None, code: None }
    }

    /// Renders the finding for people: severity, id and token, sentence, fix. Lines for a shell are not indented.
    pub(crate) fn text(&self, style: Style) -> String {
        let (word, color) = &self.weight;
        let mut text = format!("  {}", style.paint(*color, &Printable(word).to_string()));
        for part in [&self.id, &self.token].into_iter().flatten() {
            let _ = write!(text, " {}", Printable(part));
        }
        let _ = writeln!(text, "\n    {}", Printable(&self.text));
        match &self.fix {
            None => {}
            Some(Fix::Advice(advice)) => _ = writeln!(text, "    fix: {}", Printable(advice)),
            Some(fix) => _ = writeln!(text, "    fix:\n\n{}", for_shell(fix)),
        }
        text
    }

    /// Returns the finding as a JSON value. `weighed` is the key of the severity or level.
    pub(crate) fn json(&self, weighed: &str) -> Value {
        let fix = self.fix.as_ref().map(|fix| match fix {
            Fix::Command(text) => json!({"kind": "command", "text": text}),
            Fix::Object(text) => json!({"kind": "object", "text": text}),
            Fix::Advice(text) => json!({"kind": "advice", "text": text}),
        });
        json!({
            "id": self.id,
            "token": self.token,
            weighed: self.weight.0,
            "text": self.text,
            "objects": self.objects,
            "fix": fix,
            "ede": self.code,
        })
    }

    /// Parses the output of [`Self::json`] with the key `severity`. Returns `None` for any other value.
    pub(super) fn read(value: &Value) -> Option<Self> {
        let text = |field: &str| value.get(field).and_then(Value::as_str).map(ToOwned::to_owned);
        let severity = text("severity")?;
        let color = if severity == "cause" { Color::Bad } else { Color::Doubt };
        let fix = match value.get("fix")? {
            Value::Null => None,
            fix => {
                let text_of_fix = fix.get("text")?.as_str()?.to_owned();
                Some(match fix.get("kind")?.as_str()? {
                    "command" => Fix::Command(text_of_fix),
                    "object" => Fix::Object(text_of_fix),
                    _ => Fix::Advice(text_of_fix),
                })
            }
        };
        Some(Self {
            id: text("id"),
            token: text("token"),
            weight: (severity, color),
            text: text("text")?,
            objects: Vec::deserialize(value.get("objects")?).ok()?,
            fix,
            code: value.get("ede").and_then(Value::as_u64).and_then(|code| code.try_into().ok()),
        })
    }
}

/// Returns a fix in the form that a shell accepts.
pub(crate) fn for_shell(fix: &Fix) -> String {
    const END: &str = "EOF";
    match fix {
        Fix::Command(text) | Fix::Advice(text) => Printable(text).to_string(),
        // An object from another server must not end the here-document and continue with commands.
        Fix::Object(yaml) if yaml.lines().any(|line| line == END) => Printable(yaml).to_string(),
        Fix::Object(yaml) => format!("kubectl apply -f - <<'{END}'\n{}{END}", lines(yaml)),
    }
}

/// Renders JSON for people and programs: indented, with a final line feed.
pub(crate) fn pretty(value: &Value) -> String {
    escape_json(&format!("{value:#}\n")).into_owned()
}
