//! The command `check`: findings about StatefulSets, Services and EndpointSlices with names that will not resolve as intended.
//!
//! Reads the source, and prints the findings grouped by object, with the reports on skipped objects and files. Not here: the
//! detection of findings (`explain::check`).

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::json;

use super::{LoadedSource, load_once, paint, write_stdout};
use crate::config::{CheckArgs, Config, OutputFormat};
use crate::report::finding_view::{Color, FindingView, Style, pretty};
use crate::source::{LoadReport, Notice, NoticeKind};
use headless_dns_core::cluster::Resource;
use headless_dns_core::diagnose::{self, CheckScope, Checked, DiagnosticsView, Level};
use headless_dns_core::escape::Printable;
use headless_dns_core::object::Reason;

/// Prints the findings. The exit status is 1 if there are errors, or with `--strict` warnings.
///
/// # Errors
///
/// If the source cannot be read.
pub fn run(config: &Config, strictness: CheckArgs) -> anyhow::Result<ExitCode> {
    let LoadedSource { zone, asker, reading } = load_once(config, config.rules.pod_records)?;
    let lint = asker.with_view(|known| {
        let whole = reading.is_complete();
        let seen = CheckScope { is_complete: whole, has_live_pods: super::is_alive(config, known) };
        CheckReport::new(known, &diagnose::check(known, &zone.reverse_zones(), seen), &reading)
    });
    let text = match strictness.output {
        OutputFormat::Text => lint.text(paint()),
        OutputFormat::Json => lint.json(),
    };
    write_stdout(&text)?;
    let failed = lint.count(Level::Error) > 0 || strictness.strict && lint.count(Level::Warning) > 0;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Findings and reports, ready to print.
struct CheckReport {
    /// Object (kind and name, or `reading` for a report), level and text of each.
    findings: Vec<(String, Level, FindingView)>,
    /// Numbers of Services, of StatefulSets, and of EndpointSlices or Endpoints.
    counts: [usize; 3],
}

impl CheckReport {
    fn new(known: &DiagnosticsView<'_>, checked: &[Checked], reading: &LoadReport) -> Self {
        let read = reading.reports.iter().filter_map(|notice| {
            let level = level(notice)?;
            Some(("reading".to_owned(), level, FindingView::sentence(notice.text.clone(), weight(level))))
        });
        let found = checked.iter().map(|Checked { level, finding }| {
            let about = finding.about().into_iter().next();
            let object = about.map_or_else(String::new, |about| format!("{} {}", about.kind, about.key));
            (object, *level, FindingView::from_finding(finding, weight(*level)))
        });
        let endpoints = [Resource::EndpointSlices, Resource::Endpoints].map(|kind| known.cluster.count(kind));
        Self {
            findings: read.chain(found).collect(),
            counts: [
                known.cluster.count(Resource::Services),
                known.cluster.count(Resource::StatefulSets),
                endpoints.iter().sum(),
            ],
        }
    }

    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|(_, other, _)| *other == level).count()
    }

    fn text(&self, paint: Style) -> String {
        let mut text = String::new();
        let mut before = None;
        for (object, _, said) in &self.findings {
            if before != Some(object) {
                let _ = writeln!(text, "{}", Printable(object));
            }
            before = Some(object);
            text.push_str(&said.text(paint));
            text.push('\n');
        }
        let [services, sets, slices] = self.counts;
        let tone = if self.count(Level::Error) > 0 { Color::Bad } else { Color::Good };
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
            "findings": self.findings.iter().map(|(_, _, said)| said.json("level")).collect::<Vec<_>>(),
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

fn weight(level: Level) -> (&'static str, Color) {
    let tone = match level {
        Level::Error => Color::Bad,
        Level::Warning => Color::Doubt,
        Level::Note => Color::Plain,
    };
    (level.name(), tone)
}

/// Returns the level of a report; `None` if a finding has the same cause.
fn level(notice: &Notice) -> Option<Level> {
    match notice.kind {
        NoticeKind::Part(Reason::NoAddress | Reason::ExternalName | Reason::Fqdn) => None,
        NoticeKind::Whole | NoticeKind::Part(_) => Some(Level::Error),
        NoticeKind::Duplicate | NoticeKind::Optional | NoticeKind::NotSimulated | NoticeKind::Uncounted => {
            Some(Level::Warning)
        }
        NoticeKind::Nothing => Some(Level::Note),
    }
}
