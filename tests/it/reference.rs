//! `docs/configuration.md` is generated from the command line (UPDATE_EXPECT=1 writes it), and the chart has the same options.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::Arg;
use headless_dns::cli::command;

const BEGIN: &str =
    "<!-- Generated from the command line by tests/it/reference.rs: UPDATE_EXPECT=1 cargo test --test it reference -->

# Configuration

Every option is a flag, an environment variable and a key of an optional TOML file (`--config`). A flag takes precedence
over a variable, a variable over the file, the file over the default. An unknown key is an error, and so is an unknown
variable that begins with `HEADLESS_DNS_`, except for those that Kubernetes sets for a Service `headless-dns` (service
links). `config/headless-dns.toml` is a file with every key, `headless-dns config print` prints the effective configuration
with the source of each value, and `docs/operations.md` lists the keys that change without a restart. An option that may be
repeated takes commas in its variable, and a list in the file.
";

#[test]
fn reference_matches_command_line() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let expected = reference();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == expected,
        "docs/configuration.md is out of date: UPDATE_EXPECT=1 cargo test --test it reference"
    );
}

/// A chart that knows fewer options refuses good settings, and one that knows more makes Pods that do not start.
#[test]
fn chart_knows_every_option() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/headless-dns/templates/_helpers.tpl");
    let template = fs::read_to_string(path).unwrap();
    let section = |start: &str| template.split_once(start).unwrap().1.split_once("-}}").unwrap().0;
    let quoted = |line: &'_ str| line.split('"').skip(1).step_by(2).map(ToOwned::to_owned).collect::<Vec<_>>();
    let set = section("$set := dict").lines().filter_map(|line| quoted(line).into_iter().next());
    let mut known: Vec<String> = set.chain(quoted(section("$options := list"))).collect();
    known.sort();
    let command = command();
    let options = command.find_subcommand("serve").unwrap().get_arguments();
    let mut keys: Vec<_> = options.filter(|option| option.get_env().is_some()).filter_map(Arg::get_long).collect();
    keys.retain(|key| *key != "config");
    keys.sort_unstable();
    assert_eq!(known, keys);
}

fn reference() -> String {
    let command = command();
    let serve = command.find_subcommand("serve").expect("there is a server");
    let options: Vec<&Arg> =
        serve.get_arguments().filter(|arg| arg.get_help_heading().is_some() && !arg.is_hide_set()).collect();
    let mut text = BEGIN.to_owned();
    let mut heading = None;
    for option in &options {
        if option.get_help_heading() != heading {
            heading = option.get_help_heading();
            writeln!(text, "\n## {}\n", heading.unwrap_or("General")).unwrap();
            text += "| flag | variable | default | |\n|---|---|---|---|\n";
        }
        let flag = flag(option);
        let variable = option.get_env().unwrap().to_str().unwrap();
        let defaults: Vec<_> = option.get_default_values().iter().map(|value| value.to_str().unwrap()).collect();
        let default = if defaults.is_empty() { String::new() } else { format!("`{}`", defaults.join(", ")) };
        writeln!(text, "| {flag} | `{variable}` | {default} | {} |", meaning(option)).unwrap();
    }
    text
}

fn flag(option: &Arg) -> String {
    let short = option.get_short().map(|letter| format!("`-{letter}`, ")).unwrap_or_default();
    let names: Vec<_> = option.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    // A value behind `=` only, which may be left out.
    let value = match (names.join(" "), option.is_require_equals_set()) {
        (value, true) => format!("[={value}]"),
        (value, false) => format!(" {value}"),
    };
    format!("{short}`--{}{}`", option.get_long().unwrap(), value.trim_end())
}

fn meaning(option: &Arg) -> String {
    let help = option.get_help().expect("every option says what it is").to_string();
    let mut text = help.replace('|', "\\|").replace('<', "&lt;");
    // clap takes the last full stop away.
    text.push('.');
    let values: Vec<String> =
        option.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    if !values.is_empty() && !option.is_require_equals_set() {
        write!(text, " One of {}.", values.join(", ")).unwrap();
    }
    text
}
