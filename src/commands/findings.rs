//! How findings are shown, to people and as JSON: the same for `explain` and `check`.

use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};

use serde_json::{Value, json};

use crate::explain::{About, Finding, Fix};

/// Colours for people, or none.
#[derive(Clone, Copy)]
pub(crate) struct Paint(bool);

/// What a text means, to be seen at a glance.
#[derive(Clone, Copy)]
pub(crate) enum Tone {
    Good,
    Bad,
    Doubt,
    Plain,
}

impl Paint {
    /// Colours on a terminal that can show them, unless NO_COLOR is set (no-color.org).
    pub(crate) fn of_output() -> Self {
        let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self(io::stdout().is_terminal() && !set("NO_COLOR") && !dumb)
    }

    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Bad => "1;31",
            Tone::Doubt => "33",
            Tone::Plain => return text.to_owned(),
        };
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// One thing that is said, whoever found it out.
pub(crate) struct Said {
    /// The id of the cause; none where a server says only the token.
    pub(crate) id: Option<&'static str>,
    pub(crate) token: Option<String>,
    /// How much it matters: the word, and how it looks.
    pub(crate) weight: (&'static str, Tone),
    pub(crate) text: String,
    pub(crate) objects: Vec<About>,
    pub(crate) fix: Option<Fix>,
    /// The Extended DNS Error code; none where it came as TXT, or is no finding.
    pub(crate) code: Option<u16>,
}

impl Said {
    pub(crate) fn of(finding: &Finding, weight: (&'static str, Tone)) -> Self {
        let (id, token) = finding.identity();
        Self {
            id: Some(id),
            token: Some(token.to_owned()),
            weight,
            text: finding.what(),
            objects: finding.about(),
            fix: finding.fix(),
            code: Some(finding.code()),
        }
    }

    /// For people: how much it matters, what it is, and what helps. What is for a shell begins at the line's start.
    pub(crate) fn text(&self, paint: Paint) -> String {
        let (word, tone) = self.weight;
        let mut text = format!("  {}", paint.paint(tone, word));
        for part in [self.id, self.token.as_deref()].into_iter().flatten() {
            let _ = write!(text, " {part}");
        }
        let _ = writeln!(text, "\n    {}", self.text);
        match &self.fix {
            None => {}
            Some(Fix::Advice(advice)) => _ = writeln!(text, "    fix: {advice}"),
            Some(Fix::Command(command)) => _ = writeln!(text, "    fix:\n\n{command}"),
            // As it stands, for a shell.
            Some(Fix::Object(yaml)) => _ = writeln!(text, "    fix:\n\nkubectl apply -f - <<'EOF'\n{yaml}EOF"),
        }
        text
    }

    /// `weighed` is the key of how much it matters.
    pub(crate) fn json(&self, weighed: &str) -> Value {
        let object =
            |about: &About| json!({"kind": about.kind, "namespace": &*about.key.namespace, "name": &*about.key.name});
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
            "objects": self.objects.iter().map(object).collect::<Vec<_>>(),
            "fix": fix,
            "ede": self.code,
        })
    }
}

/// JSON for people and programs: indented, with a line's end.
pub(crate) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
