//! Manifests in the shape of popular charts and operators, with the answers and reasons that Kubernetes' rules give.
//!
//! Each folder of `tests/shapes/` is one set: YAML and JSON files as `helm template`, an operator's examples or
//! `kubectl get -o yaml` print them, and `expect.txt`. The expectations follow from the DNS specification and the rules
//! of the controllers and of the API server, never from the output of the program. One expectation per line; `#` begins
//! a comment. NAME is relative to `cluster.local`; an address denotes its reverse name. DATA of SRV is `PORT:TARGET`; `*N`
//! denotes N records with any data, for addresses that the rules leave open; without DATA any answer will do.
//!
//! ```text
//! simulate [CIDR]                    the options of every command below: --simulate
//! check errors N                     number of errors of `check`
//! check warns TOKEN KIND NS/NAME     a true warning; a warning without such a line is a difference
//! check allows TOKEN KIND NS/NAME    no error: a warning, a note or nothing
//! check silent TOKEN KIND NS/NAME    no error and no warning with this token about this object
//! check never TEXT                   no text and no fix of `check` contains TEXT, or begins with it after a `^`
//! resolves NAME TYPE [DATA...]       the name resolves, to these records and no others
//! empty NAME TYPE [TOKEN...]         NODATA
//! absent NAME TYPE [TOKEN...]        NXDOMAIN; the first TOKEN is the first finding, and each cause and guess
//!                                    has one of the tokens; `!TOKEN` excludes a finding
//! never NAME TYPE TEXT               the same of `explain`
//! mentions NAME TYPE TEXT            a text or a fix of `explain` contains TEXT
//! ```
//!
//! `known-wrong ` before a line marks an expectation that the program does not meet yet. The test fails as soon as the
//! program does, so that the prefix is removed with the correction.
//!
//! `resolves`, `empty` and `absent` are compared twice: with `explain`, and with the response of `serve` over UDP; the
//! tokens hold for its extended error (RFC 8914) too.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::common::server::{self, Server};
use crate::common::{extended, query, wire};
use headless_dns_core::name::reverse::reverse_name;
use headless_dns_core::object::{Decoded, decode};
use headless_dns_core::rtype;
use hickory_proto::op::Message;
use serde_json::{Value, json};

#[test]
fn every_set_of_manifests_meets_expectations() {
    // Most of the time is spent waiting for processes: the sets are independent.
    let reports: Vec<[String; 2]> = thread::scope(|scope| {
        let threads: Vec<_> = sets().into_iter().map(|folder| scope.spawn(move || differences(&folder))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let [known, new] = [0, 1].map(|kind| reports.iter().map(|report| report[kind].as_str()).collect::<String>());
    println!("{known}");
    assert!(new.is_empty(), "\n{new}");
}

/// The known differences of a set, and those that fail the test.
fn differences(folder: &Path) -> [String; 2] {
    let observed = Observed::new(Set::read(folder));
    let set = &observed.set;
    let [mut known, mut new] = [String::new(), String::new()];
    for (number, line) in set.expectations() {
        let (line, is_known) = line.strip_prefix("known-wrong ").map_or((line, false), |line| (line, true));
        let place = format!("{}/expect.txt:{number}: {line}", set.name);
        match (observed.difference(line), is_known) {
            (None, false) => {}
            (Some(difference), true) => writeln!(known, "{place}\n    {difference}").unwrap(),
            (Some(difference), false) => writeln!(new, "{place}\n    {difference}").unwrap(),
            (None, true) => writeln!(new, "{place}\n    is met now: remove `known-wrong`").unwrap(),
        }
    }
    for difference in observed.unlisted_warnings() {
        writeln!(new, "{}: {difference}", set.name).unwrap();
    }
    [known, new]
}

#[test]
fn loads_every_set_of_manifests() {
    for folder in sets() {
        let set = Set::read(&folder);
        let output = set.command("records").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {stderr}", set.name);
        assert!(!output.stdout.is_empty(), "{} has no record", set.name);
    }
}

#[test]
fn every_set_has_three_unknown_kinds() {
    let is_unknown = |kind: &str| {
        let object = json!({"kind": kind, "metadata": {"name": "a"}});
        matches!(decode(object, "default"), Ok(Decoded::Ignored))
    };
    let folders = sets();
    assert!(folders.len() >= 15, "{} sets", folders.len());
    for folder in folders {
        let mut kinds = BTreeSet::new();
        for path in manifests(&folder) {
            let text = fs::read_to_string(path).unwrap();
            // At the margin of a document, or of an item of a List.
            let lines = text.lines().filter(|line| line.len() - line.trim_start().len() <= 4);
            let lines = lines.filter_map(|line| line.trim_start().strip_prefix("kind: "));
            kinds.extend(lines.map(|kind| kind.trim_matches('"').to_owned()));
        }
        kinds.retain(|kind| is_unknown(kind));
        assert!(kinds.len() >= 3, "{}: {kinds:?}", folder.display());
    }
}

/// The folders of the sets, in order.
fn sets() -> Vec<PathBuf> {
    entries(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shapes"))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The manifests below a folder, at any depth.
fn manifests(folder: &Path) -> Vec<PathBuf> {
    let (folders, files): (Vec<_>, Vec<_>) = entries(folder).into_iter().partition(|path| path.is_dir());
    let files = files.into_iter().filter(|path| path.extension().is_some_and(|end| end != "txt"));
    files.chain(folders.iter().flat_map(|folder| manifests(folder))).collect()
}

/// One set of manifests, with its expectations and the options of every command.
struct Set {
    name: String,
    text: String,
    options: String,
}

impl Set {
    fn read(folder: &Path) -> Self {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(folder.join("expect.txt")).unwrap();
        let mut options = format!("--manifests tests/shapes/{name}");
        for cidr in text.lines().filter_map(|line| line.strip_prefix("simulate")) {
            options.push_str(" --simulate");
            if !cidr.trim().is_empty() {
                write!(options, "={}", cidr.trim()).unwrap();
            }
        }
        Self { name, text, options }
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(server::binary());
        command.env_clear().current_dir(env!("CARGO_MANIFEST_DIR"));
        command.args([name, "--log", "error"]).args(self.options.split_whitespace());
        command
    }

    /// The expectations, each with the number of its line.
    fn expectations(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, without_comment(line)));
        lines.filter(|(_, line)| !line.is_empty() && !line.starts_with("simulate"))
    }
}

/// A set, the report of `check` about it, and a server that serves it.
struct Observed {
    set: Set,
    check: Value,
    server: Server,
}

impl Observed {
    fn new(set: Set) -> Self {
        let check = report(set.command("check").args(["-o", "json"]));
        let server = Server::with(&set.options);
        Self { set, check, server }
    }

    /// Returns the difference between an expectation and the program, `None` if the program meets it.
    fn difference(&self, line: &str) -> Option<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words {
            ["check", "errors", count] => {
                let errors = self.check["errors"].as_u64().unwrap();
                let texts = self.checked().filter(|finding| finding.level == "error").map(|finding| finding.text);
                (errors != count.parse::<u64>().unwrap())
                    .then(|| format!("{errors}: {}", texts.collect::<Vec<_>>().join("; ")))
            }
            ["check", wanted @ ("warns" | "allows" | "silent"), token, kind, object] => {
                let about = format!("{kind} {object}");
                let found = self
                    .checked()
                    .find(|finding| finding.level != "note" && finding.token == token && finding.about == about);
                let level = found.as_ref().map(|finding| finding.level);
                let holds = match wanted {
                    "warns" => level == Some("warning"),
                    "allows" => level != Some("error"),
                    _ => level.is_none(),
                };
                (!holds).then(|| found.map_or_else(|| "no such finding".to_owned(), |found| found.to_string()))
            }
            ["check", "never", ..] => contained(&self.check, line.splitn(3, ' ').nth(2).unwrap()),
            [wanted @ ("never" | "mentions"), name, qtype, ..] => {
                let report = self.explanation(name, qtype);
                let found = contained(&report, line.splitn(4, ' ').nth(3).unwrap());
                if wanted == "never" { found } else { found.is_none().then(|| report["findings"].to_string()) }
            }
            [outcome @ ("resolves" | "empty" | "absent"), name, qtype, ref rest @ ..] => {
                let explained = of_explanation(&self.explanation(name, qtype), qtype);
                let answered = self.response(name, qtype);
                let expected = Expected { outcome, rest };
                [("explain", explained), ("over UDP", answered)]
                    .into_iter()
                    .find_map(|(path, seen)| Some(format!("{path}: {}", expected.difference(&seen)?)))
            }
            _ => panic!("{}: no expectation: {line}", self.set.name),
        }
    }

    /// Warnings of `check` without a line of their own.
    fn unlisted_warnings(&self) -> Vec<String> {
        let listed: BTreeSet<String> = self
            .set
            .expectations()
            .filter_map(|(_, line)| {
                let line = line.strip_prefix("known-wrong ").unwrap_or(line);
                let ["check", "warns" | "allows" | "silent", token, kind, object] =
                    line.split_whitespace().collect::<Vec<_>>()[..]
                else {
                    return None;
                };
                Some(format!("{token} {kind} {object}"))
            })
            .collect();
        self.checked()
            .filter(|finding| finding.level == "warning" && !listed.contains(&finding.identity()))
            .map(|finding| format!("unlisted: {finding}"))
            .collect()
    }

    fn checked(&self) -> impl Iterator<Item = Checked<'_>> {
        self.check["findings"].as_array().unwrap().iter().map(|finding| Checked {
            level: finding["level"].as_str().unwrap(),
            token: finding["token"].as_str().unwrap_or("-"),
            about: finding["objects"].get(0).map_or_else(
                || "- -".to_owned(),
                |object| {
                    let [kind, namespace, name] =
                        ["kind", "namespace", "name"].map(|key| object[key].as_str().unwrap());
                    format!("{kind} {namespace}/{name}")
                },
            ),
            text: finding["text"].as_str().unwrap(),
        })
    }

    fn explanation(&self, name: &str, qtype: &str) -> Value {
        report(self.set.command("explain").args([&absolute(name), qtype, "-o", "json"]))
    }

    /// The response of the server over UDP.
    fn response(&self, name: &str, qtype: &str) -> Seen {
        let owner = match name.parse::<IpAddr>() {
            Ok(address) => reverse_name(address).octets().to_vec(),
            Err(_) => wire(absolute(name).trim_end_matches('.')),
        };
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(server::WAIT_TIMEOUT)).unwrap();
        socket.connect(self.server.address).unwrap();
        socket.send(&query(7, &owner, number(qtype), Some(1232))).unwrap();
        let mut buffer = [0; 1500];
        let length = socket.recv(&mut buffer).expect("the server answers");
        let message = Message::from_vec(&buffer[..length]).unwrap();
        let answers = message.answers.iter().filter(|record| record.record_type().to_string() == qtype);
        let token = extended(&buffer[..length]).map(|(_, text)| text.split(':').next().unwrap().to_owned());
        Seen {
            rcode: u16::from(message.response_code),
            records: answers.map(|record| data(qtype, &record.data.to_string())).collect(),
            causes: token.into_iter().collect(),
            first: None,
        }
    }
}

fn without_comment(line: &str) -> &str {
    let line = if line.starts_with('#') { "" } else { line.split(" #").next().unwrap() };
    line.trim_end()
}

fn report(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{command:?}: {error}: {stderr}"))
}

/// The name as `explain` takes it, with its final dot.
fn absolute(name: &str) -> String {
    if name.ends_with('.') || name.parse::<IpAddr>().is_ok() {
        name.to_owned()
    } else {
        format!("{name}.cluster.local.")
    }
}

fn number(qtype: &str) -> u16 {
    match qtype {
        "A" => rtype::A,
        "AAAA" => rtype::AAAA,
        "CNAME" => rtype::CNAME,
        "PTR" => rtype::PTR,
        "SRV" => rtype::SRV,
        other => panic!("no expectation is about {other}"),
    }
}

/// One record's data as an expectation has it: names relative to the zone, of SRV the port and the target only.
fn data(qtype: &str, text: &str) -> String {
    let text = text.strip_suffix(".cluster.local.").unwrap_or(text);
    match text.split(' ').collect::<Vec<_>>()[..] {
        [_, _, port, target] if qtype == "SRV" => format!("{port}:{target}"),
        _ => text.to_owned(),
    }
}

/// Returns the first text or fix of a report in which `text` occurs.
fn contained(report: &Value, text: &str) -> Option<String> {
    let occurs = |found: &str| text.strip_prefix('^').map_or(found.contains(text), |begin| found.starts_with(begin));
    let findings = report["findings"].as_array().unwrap();
    let mut texts = findings.iter().flat_map(|finding| [&finding["text"], &finding["fix"]["text"]]);
    texts.find_map(|found| found.as_str().filter(|found| occurs(found)).map(str::to_owned))
}

/// One finding of `check`.
struct Checked<'r> {
    level: &'r str,
    token: &'r str,
    about: String,
    text: &'r str,
}

impl Checked<'_> {
    fn identity(&self) -> String {
        format!("{} {}", self.token, self.about)
    }
}

impl std::fmt::Display for Checked<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}: {}", self.level, self.token, self.about, self.text)
    }
}

/// One answer, whichever way it came.
struct Seen {
    rcode: u16,
    records: BTreeSet<String>,
    /// The tokens of causes and guesses.
    causes: Vec<String>,
    /// The token of the first finding, where all findings are known.
    first: Option<String>,
}

fn of_explanation(report: &Value, qtype: &str) -> Seen {
    let findings = report["findings"].as_array().unwrap();
    let token = |finding: &Value| finding["token"].as_str().unwrap_or("-").to_owned();
    let answers = report["answer"].as_array().unwrap().iter().filter(|record| record["type"] == qtype);
    Seen {
        rcode: match report["rcode"].as_str().unwrap() {
            "NOERROR" => 0,
            "NXDOMAIN" => 3,
            _ => 5,
        },
        records: answers.map(|record| data(qtype, record["data"].as_str().unwrap())).collect(),
        causes: findings.iter().filter(|finding| finding["severity"] != "note").map(token).collect(),
        first: Some(findings.first().map_or_else(|| "none".to_owned(), token)),
    }
}

/// An expectation about the answer to a question.
struct Expected<'l> {
    outcome: &'l str,
    /// Data, or tokens.
    rest: &'l [&'l str],
}

impl Expected<'_> {
    fn difference(&self, seen: &Seen) -> Option<String> {
        let rcode = if self.outcome == "absent" { 3 } else { 0 };
        if seen.rcode != rcode || seen.records.is_empty() == (self.outcome == "resolves") {
            return Some(format!("RCODE {}, {:?}, causes {:?}", seen.rcode, seen.records, seen.causes));
        }
        if self.outcome == "resolves" { self.other_records(seen) } else { self.other_causes(seen) }
    }

    fn other_records(&self, seen: &Seen) -> Option<String> {
        let holds = match self.rest {
            [] => true,
            [count] if count.starts_with('*') => count[1..].parse::<usize>() == Ok(seen.records.len()),
            data => data.iter().map(|text| (*text).to_owned()).collect::<BTreeSet<_>>() == seen.records,
        };
        (!holds).then(|| format!("{:?}", seen.records))
    }

    fn other_causes(&self, seen: &Seen) -> Option<String> {
        let (denied, allowed): (Vec<&str>, Vec<&str>) = self.rest.iter().partition(|token| token.starts_with('!'));
        let is_wrong = |cause: &&String| {
            denied.iter().any(|token| token[1..] == **cause)
                || !allowed.is_empty() && !allowed.contains(&cause.as_str())
        };
        let first_differs = match (&seen.first, allowed.first()) {
            (Some(first), Some(token)) => first != token,
            _ => false,
        };
        let wrong: Vec<&String> = seen.causes.iter().filter(is_wrong).collect();
        (first_differs || !wrong.is_empty()).then(|| format!("first {:?}, causes {:?}", seen.first, seen.causes))
    }
}
