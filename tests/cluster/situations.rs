//! Broken situations of a real cluster: the exact text of the reason, and that what it advises makes the name resolve.
//!
//! `situations.txt` is the data. A situation begins with `# NAMESPACE: title` and has directives, in their order:
//!
//! * `$ apply`: applies the objects in the lines below it in the namespace of the situation, which is made first.
//! * `$ kubectl ARGUMENTS`: runs kubectl in this namespace, again and again until it succeeds.
//! * `$ ready POD yes` or `no`, `$ pending POD hold` or `go`, `$ terminating POD hold` or `go`: what the kubelet does.
//! * `$ explain ARGUMENTS`: the lines below are the findings of `explain`, with their fixes, and the extended error of the
//!   server's response. `UPDATE_EXPECT=1` writes them anew.
//! * `$ fix`: applies the object, runs the commands or asks for the name of the last findings.
//! * `$ resolves NAME TYPE`: the server's response has such records.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::Value;

use super::control_plane::ControlPlane;
use super::kubelet::Kubelet;
use super::server::{CONVERGED, Server, headless_dns};
use super::story::Story;
use super::{WAIT_TIMEOUT, until};

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn causes_are_exact_and_fixes_resolve() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/situations.txt");
    let written = fs::read_to_string(&path).unwrap();
    let updates = std::env::var_os("UPDATE_EXPECT").is_some();
    let story = Story::begin();
    let mut texts = Vec::new();
    let mut failures = String::new();
    for text in written.split("\n\n# ") {
        let text = text.trim_start_matches("# ").trim_end();
        let situation = Situation::new(&story, text);
        match situation.play(updates) {
            Ok(text) => texts.push(format!("# {text}")),
            Err(failure) => _ = writeln!(failures, "# {}\n{failure}", text.lines().next().unwrap()),
        }
    }
    assert!(failures.is_empty(), "{failures}");
    assert!(texts.len() >= 20);
    if updates {
        fs::write(&path, texts.join("\n\n") + "\n").unwrap();
    }
}

struct Situation<'s> {
    plane: &'s ControlPlane,
    kubelet: &'s Kubelet,
    server: &'s Server,
    namespace: &'s str,
    title: &'s str,
    /// Each with the lines below it.
    directives: Vec<(&'s str, String)>,
}

impl<'s> Situation<'s> {
    fn new(story: &'s Story, text: &'s str) -> Self {
        let (title, rest) = text.split_once("\n$ ").expect("a situation has a title and directives");
        let directive = |text: &'s str| {
            let (directive, below) = text.split_once('\n').unwrap_or((text, ""));
            (directive, below.to_owned())
        };
        Self {
            plane: &story.plane,
            kubelet: &story.kubelet,
            server: &story.server,
            namespace: title.split_once(": ").expect("a title begins with its namespace").0,
            title,
            directives: rest.split("\n$ ").map(directive).collect(),
        }
    }

    /// Runs the directives, and returns the text of the situation with the actual findings.
    fn play(&self, updates: bool) -> Result<String, String> {
        let begun = Instant::now();
        let mut text = self.title.to_owned();
        let mut last = Value::Null;
        for (directive, below) in &self.directives {
            let _ = write!(text, "\n$ {directive}");
            let (verb, rest) = directive.split_once(' ').unwrap_or((directive, ""));
            let mut below = below.clone();
            match verb {
                "apply" => self.apply(&below),
                "explain" => {
                    let expected = (!updates).then_some(below.as_str());
                    (below, last) = self.settled(expected, rest).map_err(|found| format!("$ {directive}\n{found}"))?;
                }
                "fix" => self.fix(&last).map_err(|why| format!("the fix of {last:#}: {why}"))?,
                "kubectl" => until(directive, WAIT_TIMEOUT, || {
                    let said = self.plane.shell(&format!("kubectl -n {} {rest}", self.namespace)).output().unwrap();
                    if said.status.success() { Ok(()) } else { Err(String::from_utf8(said.stderr).unwrap()) }
                }),
                "resolves" => {
                    let (name, rtype) = rest.split_once(' ').expect("a name and a type");
                    self.resolves(name, rtype);
                }
                "ready" | "pending" | "terminating" => self.order(verb, rest),
                other => panic!("{other} is no directive"),
            }
            if !below.is_empty() {
                let _ = write!(text, "\n{below}");
            }
        }
        println!("  {:>5.1} s  {}", begun.elapsed().as_secs_f32(), self.title);
        Ok(text)
    }

    fn apply(&self, yaml: &str) {
        let namespace = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {}}}}}", self.namespace);
        self.plane.apply(&namespace);
        self.plane.pipe(&["-n", self.namespace, "apply", "-f", "-"], yaml);
    }

    fn order(&self, verb: &str, rest: &str) {
        let (pod, how) = rest.split_once(' ').expect("a Pod, and what happens to it");
        match (verb, how) {
            ("ready", "yes" | "no") => self.kubelet.ready(self.namespace, pod, how == "yes"),
            ("pending", "hold" | "go") => self.kubelet.hold_pending(self.namespace, pod, how == "hold"),
            ("terminating", "hold" | "go") => self.kubelet.hold_terminating(self.namespace, pod, how == "hold"),
            _ => panic!("{verb} {rest} is no directive"),
        }
    }

    /// The findings once they are those expected, or, where nothing is expected, once they stay the same.
    fn settled(&self, expected: Option<&str>, args: &str) -> Result<(String, Value), String> {
        const STABLE: usize = 10;
        let begun = Instant::now();
        let (mut before, mut same) = (String::new(), 0);
        loop {
            let (found, explained) = self.explained(args);
            same = if found == before { same + 1 } else { 0 };
            if expected.map_or(same == STABLE, |expected| expected == found) {
                return Ok((found, explained));
            }
            if begun.elapsed() > CONVERGED {
                return Err(format!("expected:\n{}\nfound:\n{found}", expected.unwrap_or("findings that stay")));
            }
            before = found;
        }
    }

    /// The findings as text and as JSON.
    fn explained(&self, args: &str) -> (String, Value) {
        let mut command = headless_dns();
        command.args(["explain", "-o", "json", "--log", "error", "--kubeconfig"]).arg(self.plane.admin_kubeconfig());
        let output = command.args(args.split_whitespace()).output().unwrap();
        if output.status.code() == Some(2) {
            return (String::from_utf8(output.stderr).unwrap().trim_end().to_owned(), Value::Null);
        }
        let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut lines = vec![format!("{} {}", text(&explained["name"]), text(&explained["rcode"]))];
        for finding in explained["findings"].as_array().unwrap() {
            let [severity, id, token, what] = ["severity", "id", "token", "text"].map(|key| text(&finding[key]));
            lines.push(format!("{severity} {id} {token}: {what}"));
            let sign = if finding["fix"]["kind"] == "command" { "  > " } else { "  | " };
            lines.extend(text(&finding["fix"]["text"]).lines().map(|line| format!("{sign}{line}")));
        }
        let answer = self.server.ask(text(&explained["name"]), text(&explained["type"]));
        lines.extend(answer.ede.iter().map(|ede| format!("EDE {ede}")));
        (without_addresses(&lines.join("\n")), explained)
    }

    /// Applies the first fix that can be applied: a name to ask for is asked for.
    fn fix(&self, explained: &Value) -> Result<(), String> {
        let findings = explained["findings"].as_array().ok_or("nothing was explained before")?;
        let fix = |finding: &'_ Value| {
            let (kind, text) =
                (finding["fix"]["kind"].as_str()?.to_owned(), finding["fix"]["text"].as_str()?.to_owned());
            (kind != "advice" || name_to_ask_for(&text).is_some()).then_some((kind, text))
        };
        let (kind, text) = findings.iter().find_map(fix).ok_or("no finding has one that can be applied")?;
        if let Some(name) = name_to_ask_for(&text) {
            self.resolves(&name, self::text(&explained["type"]));
            return Ok(());
        }
        if kind == "object" {
            self.plane.apply(&text);
            return Ok(());
        }
        let said = self.plane.shell(&text).output().unwrap();
        if said.status.success() { Ok(()) } else { Err(String::from_utf8(said.stderr).unwrap()) }
    }

    fn resolves(&self, name: &str, rtype: &str) {
        until(&format!("{name} resolves, {rtype}"), CONVERGED, || {
            let answer = self.server.ask(name, rtype);
            if answer.data(rtype).is_empty() { Err(answer.to_string()) } else { Ok(()) }
        });
    }
}

/// The name of the advice `ask for NAME`, as the search list of a Pod completes it.
fn name_to_ask_for(advice: &str) -> Option<String> {
    let name = advice.strip_prefix("ask for ").filter(|name| !name.contains(' '))?;
    Some(if name.ends_with(".cluster.local") { name.to_owned() } else { format!("{name}.cluster.local") })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Masks each address that the kubelet gave to a Pod: which Pod gets which is not fixed.
fn without_addresses(text: &str) -> String {
    let mut masked = text.to_owned();
    for (separator, mask) in [('.', "10.244.x.y"), ('-', "10-244-x-y")] {
        let start = format!("10{separator}244{separator}");
        let mut parts = masked.split(&start);
        let mut result = parts.next().unwrap().to_owned();
        for part in parts {
            let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
            let rest = rest.strip_prefix(separator).unwrap_or(rest);
            result += mask;
            result += rest.trim_start_matches(|c: char| c.is_ascii_digit());
        }
        masked = result;
    }
    masked
}

#[test]
fn masks_pod_addresses() {
    let text = "10.244.0.13, 10-244-1-2.web and 10.96.0.1";
    assert_eq!(without_addresses(text), "10.244.x.y, 10-244-x-y.web and 10.96.0.1");
}
