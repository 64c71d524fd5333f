//! The command `explain`: the decision on one name, step by step, and the answer, or the causes and their fixes.
//!
//! For objects, the engine answers from a zone made of them (`show::explain`). A running server gives over DNS its
//! response, extended errors and the texts at `_why`, over HTTP its full explanation. Not here: the detection of causes
//! (`explain`).

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;

use super::ask::query;
use super::{admin, load_once, paint, write_stdout};
use crate::cli::USAGE_ERROR_STATUS;
use crate::config::{Config, ExplainArgs, OutputFormat, ServerSpec, Source};
use crate::report::explain::{self, ExplainQuery, SourceState, try_each};
use crate::report::explain_report::{Candidate, ExplainReport};
use crate::report::finding_view::{Color, FindingView};
use crate::source::{LoadReport, Notice};
use headless_dns_core::diagnose::DiagnosticsView;
use headless_dns_core::name::WireName;
use headless_dns_core::naming_rules::PodRecords;
use headless_dns_core::rtype;
use headless_dns_core::wire::client::ede_name;

/// Prints the explanation. The exit status tells whether the name resolves.
///
/// # Errors
///
/// If the source cannot be read, or the server does not answer.
pub fn run(config: &Config, question: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let explained = match question.server {
        Some(ServerSpec::Dns(server)) => of_server(config, question, server)?,
        Some(ServerSpec::Http(server)) => of_admin(config, question, server)?,
        None => of_objects(config, question)?,
    };
    let text = match question.output {
        OutputFormat::Text => explained.text(paint()),
        OutputFormat::Json => explained.json(),
    };
    write_stdout(&text)?;
    Ok(match explained.resolves() {
        true => ExitCode::SUCCESS,
        // The cause may be in a part that was not read.
        false if !explained.is_complete => ExitCode::from(USAGE_ERROR_STATUS),
        false => ExitCode::FAILURE,
    })
}

// From objects.

fn of_objects(config: &Config, question: &ExplainArgs) -> anyhow::Result<ExplainReport> {
    // Read Pods if the user's kubeconfig allows it; the server's role has no need of that right.
    let super::LoadedSource { zone, asker, reading } = load_once(&everywhere(config), PodRecords::Verified)?;
    let zones: Vec<WireName> = config.zones().cloned().collect();
    let sought = sought(config, question, &zones);
    // Deny names under the condition of a server that reads these files.
    let may_deny = reading.unread.is_empty() || config.allow_unreadable;
    let whole = reading.is_complete() || config.allow_unreadable;
    let hints = |known: &DiagnosticsView<'_>| hints(config, known, &reading);
    let explained = explain::explain(&zone, &asker, &sought, hints, SourceState { is_complete: whole, may_deny })?;
    let resolves = explained.resolves();
    asker.with_view(|known| {
        let touched = |report: &&Notice| sought.touches(known, &report.subject, resolves);
        reading.reports.iter().filter(touched).for_each(Notice::log);
    });
    Ok(explained)
}

fn sought<'q>(config: &'q Config, question: &'q ExplainArgs, zones: &'q [WireName]) -> ExplainQuery<'q> {
    ExplainQuery { name: &question.name, qtype: question.qtype, zones, namespace: asks_from(config) }
}

fn hints(config: &Config, known: &DiagnosticsView<'_>, reading: &LoadReport) -> Vec<String> {
    let mut hints = Vec::new();
    if !reading.is_complete() {
        hints.push("not everything could be read (`check` lists the errors): the causes consider the rest only".into());
    }
    if known.extent.selected {
        hints.push("Services without the labels of --selector were not read: they may exist".into());
    }
    if matches!(config.source, Source::Manifests(_)) && !super::is_alive(config, known) {
        hints.push("these manifests have no endpoints: --simulate creates the Pods of their workloads".into());
    }
    hints
}

/// Returns the namespace of the client.
fn asks_from(config: &Config) -> &str {
    config.namespace.as_deref().unwrap_or("default")
}

/// Returns the configuration with all namespaces of a cluster: for `explain`, `--namespace` is that of the client, and the name
/// may be in another one.
fn everywhere(config: &Config) -> Config {
    let mut config = config.clone();
    if matches!(config.source, Source::Cluster { .. }) {
        config.namespace = None;
    }
    config
}

// From a running server.

/// Fetches the explanation of a server's admin listener.
fn of_admin(config: &Config, question: &ExplainArgs, server: SocketAddr) -> anyhow::Result<ExplainReport> {
    let zones: Vec<WireName> = config.zones().cloned().collect();
    let searched = sought(config, question, &zones).searched();
    let (name, qtype) = (question.name.to_string(), rtype::name(question.qtype));
    let query = [("name", Some(&*name)), ("type", Some(&*qtype)), ("namespace", Some(asks_from(config)))];
    let mut text = Vec::new();
    admin::copy(server, "/api/v1/explain", &query, &mut text)?;
    ExplainReport::read(&text, searched)
        .with_context(|| format!("the response of http://{server} is not an explanation"))
}

fn of_server(config: &Config, question: &ExplainArgs, server: SocketAddr) -> anyhow::Result<ExplainReport> {
    let qtype = question.qtype;
    let zones: Vec<WireName> = config.zones().cloned().collect();
    let sought = sought(config, question, &zones);
    let (tried, resolved) = try_each(&sought, |name| query(server, name, qtype))?;
    // Of several names prefer one with a cause, then one in a zone of the server (no code 20, Not Authoritative): the server
    // has most to tell about the name that is closest to one of its own.
    let told = || tried.iter().position(|(_, reply, _)| reply.errors.iter().any(|(_, text)| is_finding(text)));
    let known = || tried.iter().position(|(_, reply, _)| reply.errors.iter().all(|(code, _)| *code != 20));
    let chosen = resolved.or_else(told).or_else(known).unwrap_or_default();
    let (name, reply, resolves) = &tried[chosen];
    let mut findings: Vec<FindingView> =
        reply.errors.iter().map(|(code, text)| from_server(Some(*code), text)).collect();
    let mut hints = Vec::new();
    match why(server, name)? {
        Some(texts) => {
            for text in texts {
                if !reply.errors.iter().any(|(_, other)| *other == text) {
                    findings.push(from_server(None, &text));
                }
            }
        }
        None if findings.iter().all(|said| said.text.is_empty()) && !resolves => hints.push(
            "the server gives no reason: it knows no cause, does not tell this client (--explain-to), or never explains"
                .into(),
        ),
        None => {}
    }
    Ok(ExplainReport {
        chosen,
        answer: reply.answer.clone(),
        qtype,
        searched: sought.searched(),
        steps: Vec::new(),
        findings,
        hints,
        is_complete: true,
        candidates: tried.into_iter().map(|(name, reply, resolves)| Candidate::new(name, &reply, resolves)).collect(),
    })
}

/// Returns the texts at `_why.NAME`; `None` if there are none.
fn why(server: SocketAddr, name: &WireName) -> anyhow::Result<Option<Vec<String>>> {
    let Some(why) = name.prefixed(b"\x04_why") else { return Ok(None) };
    let reply = query(server, &why, rtype::TXT)?;
    let texts: Vec<String> =
        reply.answer.into_iter().filter_map(|record| record.text).filter(|t| !t.is_empty()).collect();
    Ok(Some(texts).filter(|texts| !texts.is_empty()))
}

fn from_server(code: Option<u16>, text: &str) -> FindingView {
    let (token, text) = match text.split_once(": ") {
        Some((token, text)) if is_token(token) => (Some(token.to_owned()), text),
        _ => (None, text),
    };
    let meaning = code.and_then(ede_name).filter(|_| text.is_empty()).unwrap_or(text);
    let text = meaning.to_owned();
    FindingView { token, code, ..FindingView::sentence(text, ("server", Color::Doubt)) }
}

fn is_finding(text: &str) -> bool {
    text.split_once(": ").is_some_and(|(token, _)| is_token(token))
}

fn is_token(text: &str) -> bool {
    text.len() > 1 && text.bytes().all(|octet| octet.is_ascii_uppercase() || octet.is_ascii_digit() || octet == b'-')
}
