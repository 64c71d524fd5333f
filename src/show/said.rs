//! How findings are shown, to people and as JSON: the same for `explain` and `check`.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::escape::{COLOURS, Printable, json as escape_json, lines};
use crate::explain::{About, Finding, Fix};

/// Colours for people, or none.
#[derive(Clone, Copy)]
pub(crate) struct Paint(bool);

/// What a text means, to be seen at a glance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Bad,
    Doubt,
    Plain,
}

impl Paint {
    /// Colours, or none.
    pub(crate) fn new(colours: bool) -> Self {
        Self(colours)
    }

    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let [good, bad, doubt, end] = COLOURS;
        let begin = match tone {
            Tone::Good => good,
            Tone::Bad => bad,
            Tone::Doubt => doubt,
            Tone::Plain => return text.to_owned(),
        };
        if self.0 { format!("{begin}{text}{end}") } else { text.to_owned() }
    }
}

/// One thing that is said, whoever found it out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Said {
    /// The id of the cause; none where a server says only the token.
    pub(crate) id: Option<String>,
    pub(crate) token: Option<String>,
    /// How much it matters: the word, and how it looks.
    pub(crate) weight: (String, Tone),
    pub(crate) text: String,
    pub(crate) objects: Vec<Object>,
    pub(crate) fix: Option<Fix>,
    /// The Extended DNS Error code; none where it came as TXT, or is no finding.
    pub(crate) code: Option<u16>,
}

/// An object that something is said about.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Object {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Said {
    pub(crate) fn of(finding: &Finding, (word, tone): (&'static str, Tone)) -> Self {
        let (id, token) = finding.identity();
        let object = |About { kind, key }| Object {
            kind: String::from(kind),
            namespace: key.namespace.into(),
            name: key.name.into(),
        };
        Self {
            id: Some(id.to_owned()),
            token: Some(token.to_owned()),
            weight: (word.to_owned(), tone),
            text: finding.what(),
            objects: finding.about().into_iter().map(object).collect(),
            fix: finding.fix(),
            code: Some(finding.code()),
        }
    }

    /// A sentence that is no finding.
    pub(crate) fn sentence(text: String, (word, tone): (&'static str, Tone)) -> Self {
        let weight = (word.to_owned(), tone);
        Self { id: None, token: None, weight, text, objects: Vec::new(), fix: None, code: None }
    }

    /// For people: how much it matters, what it is, and what helps. What is for a shell begins at the line's start.
    pub(crate) fn text(&self, paint: Paint) -> String {
        let (word, tone) = &self.weight;
        let mut text = format!("  {}", paint.paint(*tone, &Printable(word).to_string()));
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

    /// `weighed` is the key of how much it matters.
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

    /// What [`Self::json`] wrote for `explain`; `None` for anything else.
    pub(super) fn read(value: &Value) -> Option<Self> {
        let text = |field: &str| value.get(field).and_then(Value::as_str).map(ToOwned::to_owned);
        let severity = text("severity")?;
        let tone = if severity == "cause" { Tone::Bad } else { Tone::Doubt };
        let fix = match value.get("fix")? {
            Value::Null => None,
            fix => {
                let said = fix.get("text")?.as_str()?.to_owned();
                Some(match fix.get("kind")?.as_str()? {
                    "command" => Fix::Command(said),
                    "object" => Fix::Object(said),
                    _ => Fix::Advice(said),
                })
            }
        };
        Some(Self {
            id: text("id"),
            token: text("token"),
            weight: (severity, tone),
            text: text("text")?,
            objects: Vec::deserialize(value.get("objects")?).ok()?,
            fix,
            code: value.get("ede").and_then(Value::as_u64).and_then(|code| code.try_into().ok()),
        })
    }
}

/// What helps, as it stands for a shell.
pub(crate) fn for_shell(fix: &Fix) -> String {
    const END: &str = "EOF";
    match fix {
        Fix::Command(text) | Fix::Advice(text) => Printable(text).to_string(),
        // An object of a server that was asked must not end the document and go on with commands.
        Fix::Object(yaml) if yaml.lines().any(|line| line == END) => Printable(yaml).to_string(),
        Fix::Object(yaml) => format!("kubectl apply -f - <<'{END}'\n{}{END}", lines(yaml)),
    }
}

/// JSON for people and programs: indented, with a line's end.
pub(crate) fn pretty(value: &Value) -> String {
    escape_json(&format!("{value:#}\n")).into_owned()
}
