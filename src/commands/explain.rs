//! `explain`: the decision on one name, step by step; the answer, or why there is none and what helps.
//!
//! Over objects, the answer is what the engine says of the zone made of them. Of a running server it is what comes over
//! DNS, and the reasons are those that it gives itself. How a cause is found out is `explain` (the module).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;

use super::ask::ask;
use super::findings::{Paint, Said, Tone, pretty};
use super::{Read, read, show};
use crate::answer::{Access, Peer, Responder, Transport, Worker};
use crate::cli::WRONG_USE;
use crate::config::{AskedName, Config, Form, Question, Source};
use crate::explain::{self, Asked, Effort, Finding, Known, Severity, Step, object};
use crate::metrics::Metrics;
use crate::names::reverse::reverse_name;
use crate::names::{Owner, QueryName, WireName, owner};
use crate::rtype;
use crate::rules::PodRecords;
use crate::source::Reading;
use crate::status::Status;
use crate::wire::MAX_TCP;
use crate::wire::client::{AnswerRecord, Reply, ede_name, query, rcode_name};
use crate::zone::{Lookup, Zone};

/// How many dots make a Pod's resolver try a name before its search list (`dnsPolicy: ClusterFirst`).
const NDOTS: usize = 5;

/// Explains, and says by the exit status whether the name resolves.
///
/// # Errors
///
/// If no cluster can be read, or the server does not answer.
pub fn run(config: &Config, question: &Question) -> anyhow::Result<ExitCode> {
    let explained = match question.server {
        Some(server) => of_server(config, question, server)?,
        None => of_objects(config, question)?,
    };
    let text = match question.output {
        Form::Text => explained.text(Paint::of_output()),
        Form::Json => explained.json(),
    };
    show(text.as_bytes())?;
    Ok(match explained.resolves() {
        true => ExitCode::SUCCESS,
        // What was not read may be why.
        false if !explained.whole => ExitCode::from(WRONG_USE),
        false => ExitCode::FAILURE,
    })
}

/// A name that was asked for.
struct Tried {
    name: WireName,
    reply: Reply,
    resolves: bool,
}

/// What is shown.
struct Explained {
    /// Names in the order in which they were tried, each with what came of it.
    tried: Vec<Tried>,
    /// Which of them is explained.
    chosen: usize,
    qtype: u16,
    /// The namespace whose search list was applied, where one was.
    searched: Option<Box<str>>,
    steps: Vec<Step>,
    findings: Vec<Said>,
    /// What else is to be known, in sentences.
    hints: Vec<String>,
    /// Everything could be read.
    whole: bool,
}

// Over objects.

fn of_objects(config: &Config, question: &Question) -> anyhow::Result<Explained> {
    // The caller's own kubeconfig may allow to read Pods, which a server does without.
    let Read { zone, asker, reading } = read(&everywhere(config), PodRecords::Verified)?;
    for report in &reading.reports {
        tracing::warn!("{report}");
    }
    let qtype = question.qtype;
    let mut engine = Engine::new(&zone);
    let (tried, resolved) = try_each(config, question, |name| engine.ask(name, qtype))?;
    Ok(asker.with(|known| {
        let likely = || (0..tried.len()).rev().max_by_key(|index| likeness(known, &tried[*index].name, *index));
        let chosen = resolved.or_else(likely).unwrap_or_default();
        let (steps, findings) = explain_one(known, &zone, &tried[chosen].name, qtype);
        let severity = |finding: &Finding| match finding.severity() {
            Severity::Cause => ("cause", Tone::Bad),
            Severity::Guess => ("guess", Tone::Doubt),
            Severity::Note => ("note", Tone::Doubt),
        };
        Explained {
            chosen,
            qtype,
            searched: searched(config, question),
            steps,
            findings: findings.iter().map(|finding| Said::of(finding, severity(finding))).collect(),
            hints: hints(config, known, &reading),
            whole: reading.is_whole(),
            tried,
        }
    }))
}

/// What is looked at for one name, and what is to be said of it, the most certain first.
fn explain_one(known: &Known<'_>, zone: &Zone, name: &WireName, qtype: u16) -> (Vec<Step>, Vec<Finding>) {
    let mut query = QueryName::default();
    query.set(name);
    let ((outcome, absence), apex) = zone.look_up(&query, qtype, |lookup| {
        let apex = match &lookup {
            Lookup::Found(site, _) | Lookup::Cname(site, _) | Lookup::NoData(site) | Lookup::NxDomain(site, _) => {
                Some(site.apex.clone())
            }
            Lookup::NotInZone => None,
        };
        (lookup.outcome(), apex)
    });
    let asked = Asked { name: &query, qtype, outcome, absence };
    let steps = explain::steps(known, &asked, apex.as_ref());
    let mut findings = explain::explain(known, &asked, Effort::Search);
    // Stable: inside a severity the order stays.
    findings.sort_by_key(Finding::severity);
    // Beside a cause it says nothing that the cause does not: somebody names the Service, or takes a Pod for one.
    if findings.first().is_some_and(|first| first.severity() == Severity::Cause) {
        findings.retain(|finding| !matches!(finding, Finding::NoService { near, .. } if near.is_empty()));
    }
    (steps, findings)
}

/// Which of several names that do not resolve is meant: the one that comes closest to existing. Of equals the first.
fn likeness(known: &Known<'_>, name: &WireName, index: usize) -> u8 {
    let mut query = QueryName::default();
    query.set(name);
    let Some((_, apex_at)) = known.apex_of(&query) else { return 0 };
    let exists = |namespace: &[u8]| known.cluster.knows_namespace(&String::from_utf8_lossy(namespace));
    match owner(&query, apex_at) {
        Owner::Nothing => 1,
        Owner::Service(key) | Owner::Endpoint(key, _) | Owner::Port(key, ..) | Owner::Protocol(key, _) => {
            let key = object(key);
            let view = known.cluster.service(&key);
            match (view.service, &view.stateful_sets[..]) {
                (Some(_), _) => 7,
                (None, [_, ..]) => 6,
                // Of the search list the first adds the namespace; the others take it from the name.
                _ if exists(key.namespace.as_bytes()) => {
                    if index == 0 {
                        4
                    } else {
                        5
                    }
                }
                _ => 3,
            }
        }
        _ => 2,
    }
}

fn hints(config: &Config, known: &Known<'_>, reading: &Reading) -> Vec<String> {
    let mut hints = Vec::new();
    if !reading.is_whole() {
        hints.push("not everything could be read: what is said here holds for what was".into());
    }
    if known.extent.selected {
        hints.push("Services without the labels of --selector were not read: they may exist".into());
    }
    if matches!(config.source, Source::Manifests(_)) && !super::is_alive(config, known) {
        hints.push("these manifests hold no endpoints: --simulate brings their workloads to life".into());
    }
    hints
}

/// The engine that answers on the wire, asked without one.
struct Engine {
    responder: Responder,
    worker: Worker,
}

impl Engine {
    fn new(zone: &Arc<Zone>) -> Self {
        let status = Arc::new(Status::default());
        status.set_synced();
        let responder = Responder::new(Arc::clone(zone), status, Access::default());
        Self { responder, worker: Worker::new(Metrics::default().worker()) }
    }

    fn ask(&mut self, name: &WireName, qtype: u16) -> anyhow::Result<Reply> {
        // The ID takes part in rotating RRsets: the same each time.
        const ID: u16 = u16::MAX;
        let peer = Peer { from: SocketAddr::from(([127, 0, 0, 1], 1)), to: SocketAddr::from(([127, 0, 0, 1], 53)) };
        let mut message = query(ID, name, qtype);
        let asked = message.len();
        message.resize(MAX_TCP, 0);
        let made = self.responder.respond(&mut self.worker, peer, Transport::Tcp, &mut message, asked);
        let response = made.length().and_then(|length| Reply::read(&message[..length], ID, name, qtype));
        response.context("the engine gave no response")
    }
}

// Of a running server.

fn of_server(config: &Config, question: &Question, server: SocketAddr) -> anyhow::Result<Explained> {
    let qtype = question.qtype;
    let (tried, resolved) = try_each(config, question, |name| ask(server, name, qtype))?;
    // A server that explains says most about the name that is closest to one of its own.
    let told = || tried.iter().position(|tried| tried.reply.errors.iter().any(|(_, text)| is_finding(text)));
    let known = || tried.iter().position(|tried| tried.reply.errors.iter().all(|(code, _)| *code != 20));
    let chosen = resolved.or_else(told).or_else(known).unwrap_or_default();
    let Tried { name, reply, resolves } = &tried[chosen];
    let mut findings: Vec<Said> = reply.errors.iter().map(|(code, text)| from_server(Some(*code), text)).collect();
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
            "the server says nothing about why: it knows no cause, may not tell you (--explain-to), or never explains"
                .into(),
        ),
        None => {}
    }
    Ok(Explained {
        chosen,
        qtype,
        searched: searched(config, question),
        steps: Vec::new(),
        findings,
        hints,
        whole: true,
        tried,
    })
}

/// The texts at `_why.NAME`; `None` where there are none.
fn why(server: SocketAddr, name: &WireName) -> anyhow::Result<Option<Vec<String>>> {
    let Some(why) = name.prefixed(b"\x04_why") else { return Ok(None) };
    let reply = ask(server, &why, rtype::TXT)?;
    let texts: Vec<String> =
        reply.answer.into_iter().filter_map(|record| record.text).filter(|t| !t.is_empty()).collect();
    Ok(Some(texts).filter(|texts| !texts.is_empty()))
}

fn from_server(code: Option<u16>, text: &str) -> Said {
    let (token, text) = match text.split_once(": ") {
        Some((token, text)) if is_token(token) => (Some(token.to_owned()), text),
        _ => (None, text),
    };
    let meaning = code.and_then(ede_name).filter(|_| text.is_empty()).unwrap_or(text);
    let text = meaning.to_owned();
    Said { id: None, token, weight: ("server", Tone::Doubt), text, objects: Vec::new(), fix: None, code }
}

fn is_finding(text: &str) -> bool {
    text.split_once(": ").is_some_and(|(token, _)| is_token(token))
}

fn is_token(text: &str) -> bool {
    text.len() > 1 && text.bytes().all(|octet| octet.is_ascii_uppercase() || octet.is_ascii_digit() || octet == b'-')
}

// Which names.

/// Asks for each name that the question can mean, until one resolves: that one's place.
fn try_each(
    config: &Config,
    question: &Question,
    mut ask: impl FnMut(&WireName) -> anyhow::Result<Reply>,
) -> anyhow::Result<(Vec<Tried>, Option<usize>)> {
    let mut tried = Vec::new();
    for name in candidates(config, &question.name) {
        let reply = ask(&name)?;
        let resolves = reply.resolves(question.qtype, config.zones());
        tried.push(Tried { name, reply, resolves });
        if resolves {
            let place = tried.len() - 1;
            return Ok((tried, Some(place)));
        }
    }
    Ok((tried, None))
}

/// The names that a Pod's resolver would try, in its order. At least one.
fn candidates(config: &Config, asked: &AskedName) -> Vec<WireName> {
    let name = match asked {
        AskedName::Address(address) => return vec![reverse_name(*address)],
        AskedName::Absolute(name) => return vec![name.clone()],
        AskedName::Relative(name) => name,
    };
    let (zone, namespace) = (&config.zone, asks_from(config));
    let below = |suffix: &str| WireName::parse(&format!("{suffix}{zone}")).ok();
    let search = [below(&format!("{namespace}.svc.")), below("svc."), Some(zone.clone())];
    let labels = &name.octets()[..name.octets().len() - 1];
    // A name that gets too long is not tried.
    let mut names: Vec<WireName> = search.into_iter().flatten().filter_map(|suffix| suffix.prefixed(labels)).collect();
    let dots = name.labels() - 1;
    names.insert(if dots >= NDOTS { 0 } else { names.len() }, name.clone());
    names
}

/// The namespace of who asks.
fn asks_from(config: &Config) -> &str {
    config.namespace.as_deref().unwrap_or("default")
}

/// The same with all of a cluster: `--namespace` says where the question comes from, not what it may be about.
fn everywhere(config: &Config) -> Config {
    let mut config = config.clone();
    if matches!(config.source, Source::Cluster { .. }) {
        config.namespace = None;
    }
    config
}

fn searched(config: &Config, question: &Question) -> Option<Box<str>> {
    matches!(question.name, AskedName::Relative(_)).then(|| asks_from(config).into())
}

// Shown.

impl Explained {
    fn resolves(&self) -> bool {
        self.tried[self.chosen].resolves
    }

    fn text(&self, paint: Paint) -> String {
        let mut text = self.tried_text();
        let Tried { name, reply, resolves } = &self.tried[self.chosen];
        let (verdict, tone) = if *resolves { ("it resolves", Tone::Good) } else { ("it does not resolve", Tone::Bad) };
        let verdict = paint.paint(tone, verdict);
        let _ = writeln!(text, "{name} {}: {}, {verdict}", rtype::name(self.qtype), rcode_name(reply.rcode));
        if !self.steps.is_empty() {
            text.push('\n');
        }
        let width = self.steps.iter().map(|step| step.what.len()).max().unwrap_or_default();
        for Step { what, holds, text: found } in &self.steps {
            let mark = match holds {
                Some(true) => paint.paint(Tone::Good, "✓"),
                Some(false) => paint.paint(Tone::Bad, "✗"),
                None => paint.paint(Tone::Plain, "-"),
            };
            let _ = writeln!(text, "  {mark} {what:width$}  {found}");
        }
        if !reply.answer.is_empty() {
            text.push('\n');
        }
        for record in &reply.answer {
            let _ = writeln!(text, "  {record}");
        }
        for said in &self.findings {
            let _ = write!(text, "\n{}", said.text(paint));
        }
        for hint in self.in_vain().iter().chain(&self.hints) {
            let _ = writeln!(text, "\n  {}: {hint}", paint.paint(Tone::Doubt, "note"));
        }
        text
    }

    /// Which names were tried, where that is worth knowing.
    fn tried_text(&self) -> String {
        let mut text = String::new();
        if let (Some(namespace), [_, _, ..], None) = (&self.searched, &self.tried[..], self.in_vain()) {
            let _ = writeln!(text, "tried as a Pod of namespace {namespace} would:");
            for Tried { name, reply, .. } in &self.tried {
                let _ = writeln!(text, "  {:8}  {name}", rcode_name(reply.rcode));
            }
            text.push('\n');
        }
        text
    }

    /// Of a name that was tried as it stands first, and does not resolve: no search list helps.
    fn in_vain(&self) -> Option<String> {
        let [Tried { name: first, .. }, Tried { name: second, .. }, ..] = &self.tried[..] else { return None };
        // The names of a search list get shorter: longer ones come after the name itself.
        let stands_first = self.chosen == 0 && second.labels() > first.labels();
        let namespace = self.searched.as_ref().filter(|_| stands_first)?;
        Some(format!("no name that the search list of namespace {namespace} makes of it resolves"))
    }

    fn json(&self) -> String {
        let Tried { name, reply, resolves } = &self.tried[self.chosen];
        let record = |record: &AnswerRecord| json!({"name": record.name, "ttl": record.ttl, "type": record.rtype, "data": record.data});
        let step = |step: &Step| json!({"what": step.what, "holds": step.holds, "text": step.text});
        let tried = |Tried { name, reply, resolves }: &Tried| json!({"name": name.to_string(), "rcode": rcode_name(reply.rcode), "resolves": resolves});
        pretty(&json!({
            "name": name.to_string(),
            "type": rtype::name(self.qtype),
            "rcode": rcode_name(reply.rcode),
            "resolves": resolves,
            "answer": reply.answer.iter().map(record).collect::<Vec<_>>(),
            "steps": self.steps.iter().map(step).collect::<Vec<_>>(),
            "findings": self.findings.iter().map(|said| said.json("severity")).collect::<Vec<_>>(),
            "tried": self.tried.iter().map(tried).collect::<Vec<_>>(),
            "hints": self.hints,
        }))
    }
}
