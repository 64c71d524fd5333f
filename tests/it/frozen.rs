//! Names that scripts, dashboards, manifests and configuration files use. Renaming code does not change them.
//!
//! `tests/frozen.txt` lists the options, keys, variables, metrics, JSON fields, log fields, causes, exit statuses and
//! shipped files, as the command line, the table of metrics, the built program and the folders have them.
//! `UPDATE_EXPECT=1 cargo test --test it frozen` writes the file; a change of a line is a change for users, and has a line in
//! `CHANGELOG.md`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Output};

use clap::Arg;
use headless_dns::cli;
use headless_dns::metrics::table::FAMILIES;
use headless_dns_core::rtype;
use serde_json::Value;

use crate::common::files::{files, rust_files};
use crate::common::ports::ReservedPort;
use crate::common::server::{self, Server, until};
use crate::common::{self, http, tls};

#[test]
fn interface_names_are_unchanged() {
    let path = root().join("tests/frozen.txt");
    let names = frozen_names();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &names).unwrap();
    }
    let frozen = fs::read_to_string(&path).unwrap_or_default();
    let (before, now): (BTreeSet<&str>, BTreeSet<&str>) = (frozen.lines().collect(), names.lines().collect());
    let gone: Vec<_> = before.difference(&now).collect();
    let new: Vec<_> = now.difference(&before).collect();
    assert!(
        frozen == names,
        "names that users depend on have changed: gone {gone:#?}, new {new:#?}. If that is intended, run \
         UPDATE_EXPECT=1 cargo test --test it frozen and add a line to CHANGELOG.md"
    );
}

fn frozen_names() -> String {
    let mut text = "# Written by UPDATE_EXPECT=1 cargo test --test it frozen\n".to_owned();
    let mut section = |heading: &str, lines: Vec<String>| {
        assert!(!lines.is_empty(), "{heading}");
        let _ = write!(text, "\n## {heading}\n\n{}\n", lines.join("\n"));
    };
    for (heading, lines) in options() {
        section(&heading, lines);
    }
    section("keys of the configuration file", configuration_keys());
    section("metrics", metrics());
    section("causes", causes());
    section("exit statuses", exit_statuses());
    section("JSON of explain", explain_fields());
    section("JSON of check", check_fields());
    section("JSON of records", keys(&[json(&run("records --demo -o json"))]));
    let (status, paths) = admin();
    section("JSON of /api/v1/status", status);
    section("paths of the admin listener", paths);
    let (query_log, log) = logs();
    section("JSON of the query log", query_log);
    section("JSON of a line of the log", log);
    section("fields of the log", log_fields());
    section("files of config/ and charts/", shipped_files());
    text
}

/// Options and arguments of each command; an option that is the same in `serve` is left out.
fn options() -> Vec<(String, Vec<String>)> {
    let mut command = cli::command();
    command.build();
    let mut commands = Vec::new();
    collect_commands(&command, "", &mut commands);
    let serve: BTreeSet<String> =
        commands.iter().find(|(name, _)| name == "serve").unwrap().1.iter().cloned().collect();
    commands
        .into_iter()
        .filter_map(|(name, mut lines)| {
            if name != "serve" {
                let all = lines.len();
                lines.retain(|line| !serve.contains(line));
                if all - lines.len() == serve.len() {
                    lines.insert(0, "(every option of serve)".to_owned());
                }
            }
            (!lines.is_empty()).then(|| (format!("options of {name}"), lines))
        })
        .collect()
}

fn collect_commands(command: &clap::Command, above: &str, commands: &mut Vec<(String, Vec<String>)>) {
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = format!("{above}{}", command.get_name());
        let shown = command.get_arguments().filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version"));
        commands.push((name.clone(), shown.map(option).collect()));
        collect_commands(command, &format!("{name} "), commands);
    }
}

/// Returns one line: flags, value name, variable, default, possible values.
fn option(arg: &Arg) -> String {
    let mut line = arg.get_long().map_or_else(|| arg.get_id().to_string(), |long| format!("--{long}"));
    if let Some(short) = arg.get_short() {
        let _ = write!(line, " -{short}");
    }
    for alias in arg.get_all_aliases().unwrap_or_default() {
        let _ = write!(line, " --{alias}");
    }
    for name in arg.get_value_names().unwrap_or_default() {
        let _ = write!(line, " {name}");
    }
    if let Some(variable) = arg.get_env() {
        let _ = write!(line, " {}", variable.display());
    }
    for default in arg.get_default_values() {
        let _ = write!(line, " default={}", default.display());
    }
    let values = arg.get_possible_values();
    if !values.is_empty() {
        let names: Vec<_> = values.iter().map(clap::builder::PossibleValue::get_name).collect();
        let _ = write!(line, " values={}", names.join(","));
    }
    line
}

fn configuration_keys() -> Vec<String> {
    let printed = output(&run("config print --demo"));
    printed.lines().map(|line| line.trim_start_matches("# ").split(' ').next().unwrap().to_owned()).collect()
}

fn metrics() -> Vec<String> {
    let line = |labels: &[&str]| if labels.is_empty() { String::new() } else { format!(" {{{}}}", labels.join(" ")) };
    FAMILIES.iter().map(|family| format!("{} {}{}", family.name, family.kind.word(), line(family.labels))).collect()
}

/// Every id and token of a cause: two literals beside each other in the source.
fn causes() -> Vec<String> {
    let mut causes = BTreeSet::new();
    for text in sources() {
        let literals: Vec<&str> = text.split('"').collect();
        for part in literals.windows(3) {
            let [id, between, token] = *part else { unreachable!("windows of three") };
            let is_id = id.len() == 3 && id.starts_with('D') && id[1..].bytes().all(|octet| octet.is_ascii_digit());
            let is_token = !token.is_empty() && token.bytes().all(|octet| octet.is_ascii_uppercase() || octet == b'-');
            if is_id && between.trim() == "," && is_token {
                causes.insert(format!("{id} {token}"));
            }
        }
    }
    // Ids that have no finding of their own are in the table only.
    let table = fs::read_to_string(root().join("tests/causes.md")).unwrap();
    for row in table.lines().filter(|line| line.starts_with("| D")) {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let (id, tokens) = (cells.next().unwrap(), cells.next().unwrap());
        for token in tokens.split(", ").filter(|token| !token.is_empty()) {
            assert!(causes.contains(&format!("{id} {token}")), "no finding has {id} {token}");
        }
    }
    causes.into_iter().collect()
}

const EXPLAIN: [&str; 3] = [
    "explain --demo -o json web-0.web.default.svc.cluster.local",
    "explain --manifests tests/scenarios/seed-3.yaml --simulate -o json myapp-0.myapp-svc.default.svc.cluster.local",
    "explain --demo -o json wbe",
];

fn exit_statuses() -> Vec<String> {
    let no_file = "tests/scenarios/none.yaml";
    [
        "--version",
        "completions bash",
        "config print --demo",
        "config print --demo --ttl x",
        "records --demo",
        "records --demo --origin example.com",
        EXPLAIN[0],
        EXPLAIN[1],
        "explain",
        &format!("explain --manifests {no_file} web.default.svc.cluster.local"),
        "check --manifests tests/scenarios/seed-5.yaml --simulate",
        "check --manifests tests/scenarios/seed-3.yaml --simulate",
        &format!("check --manifests {no_file}"),
        "serve --demo --nonsense",
        "serve --demo --listen 127.0.0.1:0 --nsid x --tls-cert none --tls-key none --listen-tls 127.0.0.1:0",
    ]
    .map(|line| format!("{line}: {}", run(line).status.code().unwrap()))
    .to_vec()
}

fn explain_fields() -> Vec<String> {
    keys(&EXPLAIN.map(|line| json(&run(line))))
}

fn check_fields() -> Vec<String> {
    let checked = ["seed-3", "seed-5"]
        .map(|scenario| json(&run(&format!("check --manifests tests/scenarios/{scenario}.yaml --simulate -o json"))));
    keys(&checked)
}

/// `/api/v1/status` of a server with every list filled: two servers, of manifests with a certificate, and of a cluster
/// that cannot be reached. And the paths that the admin listener names where there is none.
fn admin() -> (Vec<String>, Vec<String>) {
    let (port, api_server, authority) = (ReservedPort::new(), ReservedPort::new(), tls::Authority::new());
    let kubeconfig = authority.folder.path().join("kubeconfig");
    let context =
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]";
    let cluster = format!("clusters: [{{name: c, cluster: {{server: 'http://{}'}}}}]", api_server.address());
    fs::write(&kubeconfig, format!("{context}\n{cluster}\nusers: [{{name: u, user: {{token: t}}}}]\n")).unwrap();
    let [certificate, key] = authority.paths();
    let mut statuses: Vec<Value> = Vec::new();
    let mut paths = Vec::new();
    // Until the key is in it, the server has not read its source yet.
    for (source, last_key) in
        [(&["--demo"][..], "zones[].addresses"), (&["--kubeconfig", kubeconfig.to_str().unwrap()], "watches[].state")]
    {
        let mut command = server::serve();
        command.args(source).args(["--admin", &port.address().to_string()]);
        command.args(["--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0"]);
        command.arg("--tls-cert").arg(&certificate).arg("--tls-key").arg(&key);
        let mut server = Server::begin(command);
        until("the whole status", || {
            server.still_runs();
            let Ok(response) = http::get(port.address(), "/api/v1/status") else { return false };
            let status: Value = serde_json::from_str(http::body(&response)).unwrap();
            let found = keys(std::slice::from_ref(&status));
            let whole = [last_key, "certificate.notAfter"].iter().all(|key| found.iter().any(|found| found == key));
            if whole {
                statuses.push(status);
            }
            whole
        });
        let response = http::get(port.address(), "/no-such-path").unwrap();
        paths = http::body(&response).lines().filter(|line| line.starts_with('/')).map(ToOwned::to_owned).collect();
        server.kill();
    }
    (keys(&statuses), paths)
}

/// Fields of query log lines, for an answer and for a negative response with its cause, and of the line at the start.
fn logs() -> (Vec<String>, Vec<String>) {
    let mut command = Command::new(server::binary());
    command.env_clear().args(["serve", "--demo", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    command.args(["--query-log", "all", "--query-log-format", "json"]);
    let server = Server::start(command);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(server::WAIT_TIMEOUT)).unwrap();
    let lines = |text: &str| text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect::<Vec<Value>>();
    // Asked again: an answer goes without its reason rather than wait for it.
    until("a line of the query log with a reason", || {
        for name in ["web.default.svc.cluster.local", "web-9.web.default.svc.cluster.local"] {
            client.send_to(&common::query(7, &common::wire(name), rtype::A, Some(1232)), server.address).unwrap();
            client.recv(&mut [0; 1232]).unwrap();
        }
        lines(&server.out()).iter().any(|line| line["reason"].is_string())
    });
    until("a line of the log", || lines(&server.log()).iter().any(|line| line["message"] == "serving"));
    let serving = lines(&server.log()).into_iter().find(|line| line["message"] == "serving").unwrap();
    (keys(&lines(&server.out())), keys(&[serving]))
}

/// Returns the fields of each log line besides its message, by level: the arguments of the macro before the message.
fn log_fields() -> Vec<String> {
    let mut fields = BTreeSet::new();
    for text in sources() {
        for call in text.split("tracing::").skip(1) {
            let Some((level, arguments)) = call.split_once("!(") else { continue };
            if !["error", "warn", "info", "debug", "trace"].contains(&level) {
                continue;
            }
            let named = arguments.split_once('"').map_or(arguments, |(named, _)| named);
            for field in at_top_level(named) {
                let name = field.split('=').next().unwrap().trim().trim_start_matches(['%', '?']);
                // `self.address` without a name would be a field `self.address`.
                fields.insert(format!("{level} {name}"));
            }
        }
    }
    fields.into_iter().collect()
}

/// The arguments that end in a comma, but for commas within brackets.
fn at_top_level(arguments: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    for (at, letter) in arguments.char_indices() {
        match letter {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(arguments[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts
}

#[test]
fn log_fields_are_found() {
    assert_eq!(at_top_level("%client, address = f(a, b), ?x, "), ["%client", "address = f(a, b)", "?x"]);
    assert_eq!(at_top_level(""), [""; 0]);
}

/// Paths of all keys in these values; `[]` is an item of a list.
fn keys(values: &[Value]) -> Vec<String> {
    fn collect(value: &Value, path: &str, keys: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    keys.insert(path.clone());
                    collect(value, &path, keys);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, &format!("{path}[]"), keys)),
            _ => {}
        }
    }
    let mut keys = BTreeSet::new();
    values.iter().for_each(|value| collect(value, "", &mut keys));
    keys.into_iter().collect()
}

#[test]
fn keys_of_every_item_are_found() {
    let value = serde_json::json!([{"a": [{"b": 1}, {"c": null}]}, {"d": {}}]);
    assert_eq!(keys(&[value]), ["[].a", "[].a[].b", "[].a[].c", "[].d"]);
}

fn shipped_files() -> Vec<String> {
    ["config", "charts"]
        .into_iter()
        .flat_map(|folder| files(&root().join(folder)))
        .map(|path| relative(&path))
        .collect()
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()
}

/// The text of every file of the program's source, without its tests.
fn sources() -> Vec<String> {
    let paths = ["src", "core/src"].map(|folder| root().join(folder)).into_iter().filter(|folder| folder.is_dir());
    paths.flat_map(|folder| rust_files(&folder)).map(|path| fs::read_to_string(path).unwrap()).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs the built program with this command line, in the folder of the package and with an empty environment.
fn run(line: &str) -> Output {
    Command::new(server::binary()).env_clear().current_dir(root()).args(line.split_whitespace()).output().unwrap()
}

fn output(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(ran: &Output) -> Value {
    serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}
