//! Causes of names that do not resolve, as text that an operator can review: manifests and questions in, findings out.
//!
//! `tests/causes/NAME.why` has questions (`$ explain NAME TYPE`), each followed by the findings of `explain`: one line for each
//! finding (severity, id, sentence), below it the fix and the text in a response. The manifests are `NAME.yaml` beside it, or
//! the scenario of that name. `UPDATE_EXPECT=1` writes the findings. `tests/causes.md` is the table of all causes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{question_name, scenario_config, scenarios_folder};
use headless_dns::commands;
use headless_dns::source::ManifestSource;
use headless_dns_core::diagnose::{DiagnosedQuery, Fix, SearchDepth, Severity, explain};
use headless_dns_core::name::QueryName;
use headless_dns_core::rtype;

#[test]
fn explains_every_cause_as_recorded() {
    let mut wrong = String::new();
    for path in questions() {
        let source = source(&path);
        let written = fs::read_to_string(&path).unwrap();
        let questions = written.lines().filter_map(|line| line.strip_prefix("$ explain "));
        let told: Vec<String> =
            questions.map(|question| format!("$ explain {question}\n{}", told(&source, question))).collect();
        let told = told.join("\n");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&path, told).unwrap();
        } else if told != written {
            let first = told.lines().zip(written.lines()).find(|(told, written)| told != written);
            let _ = writeln!(wrong, "{} differs, first in {first:?}", path.display());
        }
    }
    assert!(wrong.is_empty(), "{wrong}UPDATE_EXPECT=1 writes them anew: read the difference before you commit it");
}

#[test]
fn every_cause_has_scenario() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("tests/causes.md")).unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| D"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), 69, "every cause has its row");
    let all: String = questions().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let told: BTreeSet<(&str, &str)> = all
        .lines()
        .filter_map(|line| {
            let (_, rest) = line.split_once(' ').filter(|(severity, _)| SEVERITIES.contains(severity))?;
            let (id, rest) = rest.split_once(' ')?;
            Some((id, rest.split_once(':')?.0))
        })
        .collect();
    for row in &rows {
        let (id, tokens, shown) = (row[0], row[1], *row.last().unwrap());
        for token in tokens.split(", ").filter(|token| !token.is_empty() && shown == "causes") {
            assert!(told.contains(&(id, token)), "no scenario shows {id} {token}");
        }
    }
    for (id, token) in told {
        assert!(rows.iter().any(|row| row[0] == id && row[1].split(", ").any(|other| other == token)), "{id} {token}");
    }
}

const SEVERITIES: [&str; 3] = ["cause", "guess", "note"];

fn questions() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/causes");
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "why"));
    paths.sort();
    assert!(paths.len() > 5);
    paths
}

fn source(questions: &Path) -> ManifestSource {
    let own = questions.with_extension("yaml");
    let path = if own.exists() { own } else { scenarios_folder().join(own.file_name().unwrap()) };
    let config = scenario_config(&path, &fs::read_to_string(&path).unwrap());
    let mut source = commands::open_manifests(&config, &config.listen.addresses);
    source.load();
    source
}

/// Returns the explanation of `NAME TYPE`.
fn told(source: &ManifestSource, question: &str) -> String {
    let (text, qtype) = question.split_once(' ').unwrap();
    let qtype = match qtype {
        "A" => rtype::A,
        "AAAA" => rtype::AAAA,
        "SRV" => rtype::SRV,
        "PTR" => rtype::PTR,
        other => panic!("{other} is not asked for here"),
    };
    let mut name = QueryName::default();
    name.parse_wire(&question_name(text)).unwrap();
    let (outcome, absence) = source.zone().look_up(&name, qtype, |lookup| lookup.verdict());
    let asked = DiagnosedQuery { name: &name, qtype, outcome, absence };
    let mut told = format!("; {outcome:?}\n");
    for finding in source.asker().with_view(|known| explain(known, &asked, SearchDepth::Search)) {
        let severity = match finding.severity() {
            Severity::Cause => SEVERITIES[0],
            Severity::Guess => SEVERITIES[1],
            Severity::Note => SEVERITIES[2],
        };
        let (id, token) = finding.id_and_token();
        let _ = writeln!(told, "{severity} {id} {token}: {}", finding.summary());
        match finding.fix() {
            Some(Fix::Command(lines)) => lines.lines().for_each(|line| {
                let prompt = if line.starts_with('#') { "" } else { "$ " };
                told.push_str(&format!("  {prompt}{line}\n"));
            }),
            Some(Fix::Advice(text)) => told.push_str(&format!("  {text}\n")),
            Some(Fix::Object(yaml)) => yaml.lines().for_each(|line| told.push_str(&format!("  | {line}\n"))),
            None => {}
        }
    }
    if let Ok(Some(first)) = source.asker().try_best_finding(&asked) {
        assert!(
            first.ede_text().is_ascii() && first.ede_text().len() <= headless_dns_core::diagnose::MAX_EDE_TEXT_BYTES
        );
        let _ = writeln!(told, "; on the wire: {}", first.ede_text());
        if first.line() != first.ede_text() {
            let _ = writeln!(told, "; as TXT: {}", first.line());
        }
    }
    told
}
