//! The command `check`: findings about StatefulSets, Services and EndpointSlices with names that will not resolve as intended.
//!
//! Reads the source, and prints the findings grouped by object, with the reports on skipped objects and files. Not here: the
//! detection of findings (`explain::check`).

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::json;

use super::{Read, paint, read, show};
use crate::cluster::Resource;
use crate::config::{Config, Form, Strictness};
use crate::escape::Printable;
use crate::explain::{self, Checked, Known, Level, Seen};
use crate::objects::Reason;
use crate::show::said::{Paint, Said, Tone, pretty};
use crate::source::{Loss, Notice, Reading};

/// Prints the findings. The exit status is 1 if there are errors, or with `--strict` warnings.
///
/// # Errors
///
/// If the source cannot be read.
pub fn run(config: &Config, strictness: Strictness) -> anyhow::Result<ExitCode> {
    let Read { zone, asker, reading } = read(config, config.rules.pod_records)?;
    let lint = asker.with(|known| {
        let whole = reading.is_whole();
        let seen = Seen { whole, alive: super::is_alive(config, known) };
        Lint::of(known, &explain::check(known, &zone.reverse_zones(), seen), &reading)
    });
    let text = match strictness.output {
        Form::Text => lint.text(paint()),
        Form::Json => lint.json(),
    };
    show(&text)?;
    let failed = lint.count(Level::Error) > 0 || strictness.strict && lint.count(Level::Warning) > 0;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Findings and reports, ready to print.
struct Lint {
    /// Object (kind and name, or `reading` for a report), level and text of each.
    said: Vec<(String, Level, Said)>,
    /// Numbers of Services, of StatefulSets, and of EndpointSlices or Endpoints.
    counts: [usize; 3],
}

impl Lint {
    fn of(known: &Known<'_>, checked: &[Checked], reading: &Reading) -> Self {
        let read = reading.reports.iter().filter_map(|notice| {
            let level = level(notice)?;
            Some(("reading".to_owned(), level, Said::sentence(notice.text.clone(), weight(level))))
        });
        let found = checked.iter().map(|Checked { level, finding }| {
            let about = finding.about().into_iter().next();
            let object = about.map_or_else(String::new, |about| format!("{} {}", about.kind, about.key));
            (object, *level, Said::of(finding, weight(*level)))
        });
        let endpoints = [Resource::EndpointSlices, Resource::Endpoints].map(|kind| known.cluster.count(kind));
        Self {
            said: read.chain(found).collect(),
            counts: [
                known.cluster.count(Resource::Services),
                known.cluster.count(Resource::StatefulSets),
                endpoints.iter().sum(),
            ],
        }
    }

    fn count(&self, level: Level) -> usize {
        self.said.iter().filter(|(_, other, _)| *other == level).count()
    }

    fn text(&self, paint: Paint) -> String {
        let mut text = String::new();
        let mut before = None;
        for (object, _, said) in &self.said {
            if before != Some(object) {
                let _ = writeln!(text, "{}", Printable(object));
            }
            before = Some(object);
            text.push_str(&said.text(paint));
            text.push('\n');
        }
        let [services, sets, slices] = self.counts;
        let tone = if self.count(Level::Error) > 0 { Tone::Bad } else { Tone::Good };
        let counted = [Level::Error, Level::Warning, Level::Note].map(|level| plural(self.count(level), level.name()));
        let _ = writeln!(
            text,
            "{} in {}, {} and {}",
            paint.paint(tone, &counted.join(", ")),
            plural(services, "Service"),
            plural(sets, "StatefulSet"),
            plural(slices, "EndpointSlice")
        );
        text
    }

    fn json(&self) -> String {
        let [services, sets, slices] = self.counts;
        pretty(&json!({
            "findings": self.said.iter().map(|(_, _, said)| said.json("level")).collect::<Vec<_>>(),
            "errors": self.count(Level::Error),
            "warnings": self.count(Level::Warning),
            "notes": self.count(Level::Note),
            "services": services,
            "statefulSets": sets,
            "endpointSlices": slices,
        }))
    }
}

fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn weight(level: Level) -> (&'static str, Tone) {
    let tone = match level {
        Level::Error => Tone::Bad,
        Level::Warning => Tone::Doubt,
        Level::Note => Tone::Plain,
    };
    (level.name(), tone)
}

/// Returns the level of a report; `None` if a finding has the same cause.
fn level(notice: &Notice) -> Option<Level> {
    match notice.loss {
        Loss::Part(Reason::NoAddress | Reason::ExternalName | Reason::Fqdn) => None,
        Loss::Whole | Loss::Part(_) => Some(Level::Error),
        Loss::Twice | Loss::Optional | Loss::Unmade | Loss::Uncounted => Some(Level::Warning),
        Loss::Nothing => Some(Level::Note),
    }
}
