//! Rules of the source: the crates that each file may name, the names that a pure file may not use, and the direction of
//! dependencies between modules. `tidy/prose.rs` measures its language.
//!
//! Documents for contributors too: each path that they name exists, and `docs/architecture.md` lists every module and crate.
//!
//! The source is read as text, without comments, literals and `#[cfg(test)]` items. That finds slips, not malice: a crate under
//! another name passes. To change a rule, change its table, and give the reason in the commit.

mod prose;

use crate::common::files;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Files (a name ending in `/` is a folder) that may name these crates, keywords or types: paths below `src/`, or from `core/`.
const WALLS: &[(&[&str], &[&str])] = &[
    (&["kube"], &["source/kubernetes/"]),
    (&["hickory_server", "rustls_native_certs"], &["server/forward/resolver.rs"]),
    (&["rustls"], &["server/forward/resolver.rs", "server/tls/", "server/quic/"]),
    (&["hickory_proto"], &["core/wire/"]),
    (&["quinn", "quinn_proto", "tokio_rustls"], &["server/tls/", "server/https/", "server/quic/"]),
    // Also a heading in markup.
    (&["h2"], &["server/https/", "admin/page.rs"]),
    (&["axum", "maud"], &["admin/"]),
    (&["dashmap", "DashMap"], &["core/zone/"]),
    // System calls, and at most one more small file.
    (&["unsafe"], &["server/sys/mod.rs", "server/sys/fds.rs"]),
    // A path may name a FIFO, a device, or a file of any size.
    (&["fs::read", "fs::read_to_string", "File::open", "File::options"], &["regular_file.rs", "admin/page.rs"]),
    // Its own files are created by the snapshot.
    (&["OpenOptions"], &["regular_file.rs", "source/snapshot.rs"]),
    // Notifications to the service manager, and its sockets.
    (&["sd_notify"], &["commands/serve/systemd.rs", "server/sys/fds.rs"]),
];

/// Files of the server that are pure as the files of `core/` are.
const PURE_FILES: &[&str] = &["server/https/doh.rs"];

/// Names that a pure file may not use. `SocketAddr` and `IpAddr` are values.
const IMPURE: &str = "async await tokio tracing libc socket2 Instant::now SystemTime \
    std::fs std::env std::thread std::process stdin stdout stderr print println eprint eprintln dbg \
    UdpSocket TcpStream TcpListener UnixDatagram UnixStream UnixListener";

/// Modules that each module may name. `*` is the assembly, which may name all.
const ARROWS: &[(&str, &str)] = &[
    ("main", "cli commands log"),
    ("lib", ""),
    ("commands", "*"),
    // Configuration.
    ("cli", "config escape name object rtype naming_rules"),
    ("config", "choices escape name object regular_file rtype naming_rules"),
    ("log", "config escape panics"),
    // Sources of objects, listeners, and the admin listener.
    (
        "source",
        "cluster duration diagnose lock metrics name object records regular_file naming_rules simulate status zone",
    ),
    ("server", "answer duration escape lock metrics name regular_file rtype status transport wire zone"),
    // Records and explanations are those of the commands: `report`, and the values of its queries.
    (
        "admin",
        "cluster config duration escape diagnose lock metrics name object rtype report server source status transport zone",
    ),
    // Shared by commands and the admin listener.
    ("report", "answer config escape diagnose name object rtype status wire zone"),
    // The pure core.
    ("answer", "diagnose name records rtype status transport wire zone"),
    ("zone", "lock name records rtype naming_rules"),
    ("records", "cluster name object rtype naming_rules"),
    ("diagnose", "lock cluster escape name object records rtype naming_rules status"),
    ("cluster", "name object naming_rules"),
    ("simulate", "name object naming_rules"),
    ("wire", "name rtype"),
    ("object", "name"),
    ("status", "lock"),
    ("async_write", ""),
    ("duration", ""),
    ("escape", ""),
    ("lock", ""),
    ("regular_file", ""),
    ("name", ""),
    ("rtype", ""),
    ("naming_rules", ""),
    // Metrics read the state of the data; the contents come as numbers.
    ("metrics", "answer lock log panics regular_file status transport"),
    ("panics", ""),
    ("transport", ""),
];

#[test]
fn source_keeps_dependency_rules() {
    let mut report = String::new();
    for (folder, prefix) in [("src", ""), ("core/src", "core/")] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let files = sources(&root);
        assert!(!files.is_empty(), "there is source to read");
        for path in files {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
            for finding in findings(&format!("{prefix}{name}"), &fs::read_to_string(&path).unwrap()) {
                writeln!(report, "{folder}/{name}:{finding}").unwrap();
            }
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

/// Within these folders too arrows go one way: no file names one that names it, by whatever way round.
const ONE_WAY: &[(&str, &str)] =
    &[("core/src", "diagnose/"), ("src", "commands/serve/"), ("src", "server/"), ("src", "source/kubernetes/")];

#[test]
fn files_have_no_dependency_cycle() {
    for (root, folder) in ONE_WAY {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
        let texts = sources(&root.join(folder)).into_iter().map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
            (name, fs::read_to_string(&path).unwrap())
        });
        assert_eq!(circle(&texts.collect::<Vec<_>>()), None, "one of these arrows has to go");
    }
}

#[test]
fn unsafe_is_confined_to_two_files() {
    let (_, files) = WALLS.iter().find(|(words, _)| *words == ["unsafe"]).unwrap();
    assert!(files.len() <= 2 && files.iter().all(|file| !file.ends_with('/')));
}

/// Returns the documents, as paths in the tree: each path in them is checked.
fn documents(root: &Path) -> Vec<String> {
    let named = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "benches/README.md"].map(str::to_owned);
    let pages = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let pages = pages.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}"));
    named.into_iter().chain(pages).collect()
}

#[test]
fn documents_name_paths_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut missing = String::new();
    for document in documents(root) {
        let text = fs::read_to_string(root.join(&document)).unwrap();
        let folder = Path::new(&document).parent().unwrap();
        let links = linked(&text).into_iter().map(|link| folder.join(link));
        for path in links.chain(quoted_paths(&text).into_iter().map(PathBuf::from)) {
            if !root.join(&path).exists() {
                writeln!(missing, "{document} names {}, which does not exist", path.display()).unwrap();
            }
        }
    }
    assert!(missing.is_empty(), "\n{missing}");
}

#[test]
fn finds_paths_in_documents() {
    let text =
        "[a](../src/lib.rs#x), [b](https://example.com), `src/a.rs`, `tests/NAME.yaml`, `fuzz/run 60`, `/api/v1`";
    assert_eq!(linked(text), ["../src/lib.rs"]);
    assert_eq!(quoted_paths(text), ["src/a.rs", "fuzz/run"]);
}

/// Returns the paths of links, without their anchors.
fn linked(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://")).filter_map(|target| target.split('#').next()).collect()
}

/// Returns the paths in quotes that begin with a folder of the tree, but for those with a placeholder.
fn quoted_paths(text: &str) -> Vec<&str> {
    const FOLDERS: &[&str] = &[".ci", "benches", "charts", "config", "core", "docs", "fuzz", "src", "tests", "xtask"];
    let words = text.split('`').skip(1).step_by(2).filter_map(|quoted| quoted.split_whitespace().next());
    let paths = words.filter(|word| word.split_once('/').is_some_and(|(first, _)| FOLDERS.contains(&first)));
    paths.filter(|path| !path.contains('*') && !path.contains("NAME")).collect()
}

#[test]
fn architecture_lists_every_module_and_crate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let (architecture, manifests) = (read("docs/architecture.md"), [read("Cargo.toml"), read("core/Cargo.toml")]);
    let (modules, crates) = architecture.split_once("## Libraries").unwrap();
    let modules = first_cells(modules);
    for folder in ["src", "core/src"] {
        let library = read(&format!("{folder}/lib.rs"));
        for module in library.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')) {
            let paths = [format!("{folder}/{module}/"), format!("{folder}/{module}.rs")];
            assert!(paths.iter().any(|path| modules.contains(path)), "docs/architecture.md does not list {module}");
        }
    }
    let crates_of = |heading: &str| -> BTreeSet<String> {
        let sections = manifests.iter().map(|text| text.split_once(heading).unwrap().1.split("\n[").next().unwrap());
        let lines = sections.flat_map(str::lines).filter_map(|line| line.split_once(" = "));
        lines.map(|(name, _)| name.to_owned()).collect()
    };
    let mut all = &crates_of("[dependencies]\n") | &crates_of("[dev-dependencies]\n");
    all.remove("headless-dns-core");
    assert_eq!(first_cells(crates), all, "crates of docs/architecture.md and of Cargo.toml");
}

/// Returns everything in quotes in the first cells of tables.
fn first_cells(text: &str) -> BTreeSet<String> {
    let cells = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(ToOwned::to_owned).collect()
}

/// Returns the files of source code below a folder, without those of unit tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let is_tests = |path: &PathBuf| path.file_stem().is_some_and(|stem| stem == "tests");
    files::rust_files(folder).into_iter().filter(|path| !is_tests(path)).collect()
}

/// Returns the violations in a file: the line and a sentence, in the order of the tables.
fn findings(file: &str, text: &str) -> Vec<String> {
    let code = without_tests(&without_literals(text));
    let module = module_of(file);
    let named = paths(&code, &module);
    let mut findings = walls(file, &named);
    if file.starts_with("core/") || PURE_FILES.contains(&file) {
        findings.extend(impure(&named));
    }
    findings.extend(arrows(&module[0], &named));
    findings
}

fn walls(file: &str, named: &[Named]) -> Vec<String> {
    let stands_in = |place: &&str| file == *place || place.ends_with("/") && file.starts_with(place);
    let mut findings = Vec::new();
    for (words, files) in WALLS {
        if files.iter().any(stands_in) {
            continue;
        }
        for name in named {
            if let Some(word) = words.iter().find(|word| holds(name, word)) {
                findings.push(format!("{}: `{word}` stands in {} only", name.line, files.join(" and ")));
            }
        }
    }
    findings
}

/// Returns whether a path has these parts, one behind the other.
fn holds(name: &Named, parts: &str) -> bool {
    let parts: Vec<_> = parts.split("::").collect();
    name.path.windows(parts.len()).any(|part| part == parts)
}

fn impure(named: &[Named]) -> Vec<String> {
    let mut findings = Vec::new();
    for name in named {
        if let Some(wanted) = IMPURE.split_whitespace().find(|wanted| holds(name, wanted)) {
            findings.push(format!("{}: a pure file does not name `{wanted}`", name.line));
        }
    }
    findings
}

fn arrows(module: &str, named: &[Named]) -> Vec<String> {
    let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == module) else {
        return vec![format!("1: the module `{module}` has no line in the table of arrows")];
    };
    let mut findings = Vec::new();
    for name in named {
        let [root, to, ..] = name.path.as_slice() else { continue };
        let ours = ["crate", "headless_dns", "headless_dns_core"].contains(&root.as_str());
        if ours && to != module && *allowed != "*" && !allowed.split(' ').any(|module| module == to) {
            findings.push(format!("{}: no arrow points from `{module}` to `{to}`", name.line));
        }
    }
    findings
}

/// A way from a file through others, all named one by the other, back to it; the names of files, each with its text. What
/// stands in the module above is everybody's: naming it is no arrow.
fn circle(texts: &[(String, String)]) -> Option<Vec<&str>> {
    let modules: Vec<_> = texts.iter().map(|(name, _)| module_of(name)).collect();
    let arrows: Vec<Vec<usize>> = texts
        .iter()
        .zip(&modules)
        .map(|((_, text), module)| {
            let named = paths(&without_tests(&without_literals(text)), module);
            let to = named.iter().filter_map(|name| file_named(&name.path, module, &modules));
            to.filter(|&to| !module.starts_with(&modules[to])).collect()
        })
        .collect();
    let mut done = vec![false; texts.len()];
    (0..texts.len())
        .find_map(|from| follow(&arrows, &mut vec![from], &mut done))
        .map(|way| way.into_iter().map(|at| texts[at].0.as_str()).collect())
}

/// Goes on from the last file of the way; returns it once it is closed.
fn follow(arrows: &[Vec<usize>], way: &mut Vec<usize>, done: &mut [bool]) -> Option<Vec<usize>> {
    let at = *way.last()?;
    for &to in &arrows[at] {
        if let Some(start) = way.iter().position(|&before| before == to) {
            return Some([&way[start..], &[to]].concat());
        }
        way.push(to);
        if !done[to]
            && let Some(way) = follow(arrows, way, done)
        {
            return Some(way);
        }
        way.pop();
    }
    done[at] = true;
    None
}

/// The file of the innermost module that a path goes through: from the root, or from the module that names it.
fn file_named(path: &[String], module: &[String], modules: &[Vec<String>]) -> Option<usize> {
    let below = [module, path].concat();
    let path = if path[0] == "crate" { &path[1..] } else { &below };
    let longest = |length: &usize| modules.iter().position(|module| *module == path[..*length]);
    (1..=path.len()).rev().find_map(|length| longest(&length))
}

/// `server/query_log.rs` is `server::query_log`, `names/mod.rs` is `names`.
fn module_of(file: &str) -> Vec<String> {
    let path = file.trim_start_matches("core/").trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').map(ToOwned::to_owned).collect()
}

/// A path that the code names, alone or in a `use`, from its root: `crate`, a crate, or whatever is in scope.
#[derive(Debug, PartialEq)]
struct Named {
    line: usize,
    path: Vec<String>,
}

/// Every path of the code; a single word is a path too.
fn paths(code: &str, module: &[String]) -> Vec<Named> {
    let tokens = tokens(code);
    let mut named = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        // `use<'a>` of a return type is no import.
        if tokens[at].1 == "use" && tokens.get(at + 1).is_some_and(|token| token.1 != "<") {
            at = use_tree(&tokens, at + 1, &[], &mut named);
        } else if is_word(tokens[at].1) {
            let line = tokens[at].0;
            let mut path = vec![tokens[at].1.to_owned()];
            while tokens.get(at + 1).is_some_and(|token| token.1 == "::")
                && tokens.get(at + 2).is_some_and(|token| is_word(token.1))
            {
                path.push(tokens[at + 2].1.to_owned());
                at += 2;
            }
            named.push(Named { line, path });
            at += 1;
        } else {
            at += 1;
        }
    }
    for name in &mut named {
        name.path = absolute(std::mem::take(&mut name.path), module);
    }
    named
}

/// Reads `a::{b, c::d}` from token `at`, below `above`; returns the token after it.
fn use_tree(tokens: &[(usize, &str)], mut at: usize, above: &[String], named: &mut Vec<Named>) -> usize {
    let mut path = above.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.0);
    while let Some((_, token)) = tokens.get(at) {
        match *token {
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.1 != "}") {
                    at = use_tree(tokens, at, &path, named);
                    at += usize::from(tokens.get(at).is_some_and(|token| token.1 == ","));
                }
                return at + 1;
            }
            "as" => at += 2,
            "::" => at += 1,
            "," | "}" | ";" => break,
            word => {
                path.push(word.to_owned());
                at += 1;
            }
        }
    }
    named.push(Named { line, path });
    at
}

/// `super::x` and `self::x` from the crate's root.
fn absolute(path: Vec<String>, module: &[String]) -> Vec<String> {
    let mut above = module.to_vec();
    let mut rest = path.as_slice();
    if path.len() < 2 || !matches!(path[0].as_str(), "super" | "self") {
        return path;
    }
    while let [first, tail @ ..] = rest {
        match first.as_str() {
            "super" => _ = above.pop(),
            "self" => {}
            _ => break,
        }
        rest = tail;
    }
    [&["crate".to_owned()], above.as_slice(), rest].concat()
}

fn is_word(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Words, `::`, and every other sign alone, each with its line.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if first.is_alphanumeric() || first == '_' {
                rest.find(|next: char| !next.is_alphanumeric() && next != '_').unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            tokens.push((number + 1, &rest[..length]));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// Returns the text with comments and the contents of literals blanked, and its lines kept.
fn without_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|letter| if *letter == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none begins there.
fn literal_end(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let inside_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match rest {
        ['/', '/', ..] => at + rest.iter().position(|letter| *letter == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => at + block_comment(rest),
        ['"', ..] => at + quoted(rest, '"'),
        ['\'', '\\', ..] | ['\'', _, '\'', ..] => at + quoted(rest, '\''),
        ['r', '"' | '#', ..] if !inside_word || matches!(chars[at - 1], 'b' | 'c') => at + raw(rest),
        _ => at,
    }
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// `r#"…"#`; 0 for a raw identifier, `r#type`.
fn raw(rest: &[char]) -> usize {
    let hashes = rest[1..].iter().take_while(|letter| **letter == '#').count();
    if rest.get(hashes + 1) != Some(&'"') {
        return 0;
    }
    let closes = |at: &usize| rest[*at] == '"' && rest[at + 1..].iter().take_while(|l| **l == '#').count() >= hashes;
    (hashes + 2..rest.len()).find(closes).map_or(rest.len(), |at| at + 1 + hashes)
}

/// Returns the code with the items behind `#[cfg(test)]` blanked: up to a semicolon, or to the end of their braces.
fn without_tests(code: &str) -> String {
    let mut code = code.to_owned();
    while let Some(start) = code.find("#[cfg(test)]") {
        let mut depth = 0;
        let end = code[start..].char_indices().find_map(|(at, letter)| {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            (depth == 0 && matches!(letter, ';' | '}')).then_some(start + at + 1)
        });
        let end = end.unwrap_or(code.len());
        let blank: String = code[start..end].chars().map(|letter| if letter == '\n' { '\n' } else { ' ' }).collect();
        code.replace_range(start..end, &blank);
    }
    code
}

#[test]
fn finds_violations() {
    for (file, text, finding) in [
        ("server/udp/mod.rs", "use kube::Client;", "1: `kube` stands in source/kubernetes/ only"),
        (
            "core/answer/mod.rs",
            "\nfn f() { hickory_proto::op::Message::new(); }",
            "2: `hickory_proto` stands in core/wire/ only",
        ),
        ("source/mod.rs", "use {std::fmt, dashmap::DashMap};", "1: `dashmap` stands in core/zone/ only"),
        (
            "server/udp/mod.rs",
            "fn f() { unsafe { g() } }",
            "1: `unsafe` stands in server/sys/mod.rs and server/sys/fds.rs only",
        ),
        ("core/name/mod.rs", "pub async fn f() {}", "1: a pure file does not name `async`"),
        ("core/name/dashed.rs", "use std::{fmt, fs};", "1: a pure file does not name `std::fs`"),
        ("core/zone/serial.rs", "fn f() { let now = Instant::now(); }", "1: a pure file does not name `Instant::now`"),
        ("server/https/doh.rs", "use tokio::io;", "1: a pure file does not name `tokio`"),
        ("core/wire/mod.rs", "fn f() { println!(\"{x}\"); }", "1: a pure file does not name `println`"),
        ("core/wire/mod.rs", "use std::net::{IpAddr, UdpSocket};", "1: a pure file does not name `UdpSocket`"),
        ("core/cluster/mod.rs", "use crate::zone::Zone;", "1: no arrow points from `cluster` to `zone`"),
        ("core/cluster/mod.rs", "use super::zone::Zone;", "1: no arrow points from `cluster` to `zone`"),
        ("core/wire/mod.rs", "use crate::{\n    name,\n    zone::Zone};", "3: no arrow points from `wire` to `zone`"),
        ("server/query_log.rs", "fn f(x: crate::source::X) {}", "1: no arrow points from `server` to `source`"),
        ("server/query_log.rs", "use super::super::source;", "1: no arrow points from `server` to `source`"),
        ("core/naming_rules.rs", "use crate::*;", "1: no arrow points from `naming_rules` to `*`"),
        ("helper.rs", "", "1: the module `helper` has no line in the table of arrows"),
    ] {
        let found = findings(file, text);
        assert!(found.iter().any(|found| found == finding), "{file} {text:?}: {found:?}");
    }
}

#[test]
fn accepts_allowed_source() {
    for (file, text) in [
        ("source/kubernetes/client.rs", "use kube::Client; use headless_dns_core::cluster::Cluster; async fn f() {}"),
        ("core/wire/mod.rs", "use hickory_proto::op::Message; use std::net::SocketAddr; use std::time::Instant;"),
        ("core/name/mod.rs", "// async unsafe kube\n/* tokio /* fs */ println */ fn f() { g(\"unsafe \\\" kube\"); }"),
        ("core/name/mod.rs", "fn f<'a>(x: &'a str) -> char { if x == r#\"\"async\"# { 'a' } else { '\"' } }"),
        ("core/name/mod.rs", "#[cfg(test)]\nmod tests { use tokio::net::UdpSocket; fn f() { {} } }\nfn kept() {}"),
        ("core/name/mod.rs", "#[cfg(test)]\nuse tracing::info;\nfn kept() {}"),
        ("core/name/reverse.rs", "use super::{QueryName, dashed}; use crate::name::label_pool; use self::x::y;"),
        ("core/zone/mod.rs", "use dashmap::DashMap; #![deny(unsafe_code)]"),
        ("server/sys/mod.rs", "#![allow(unsafe_code)] fn f() { unsafe { g() } }"),
        ("commands/serve.rs", "use crate::{source, serve, admin};"),
        ("main.rs", "use headless_dns::{cli, commands};"),
        ("log.rs", "fn f() -> impl Sized + use<> { if a { b; } }"),
    ] {
        assert_eq!(findings(file, text), Vec::<String>::new(), "{file} {text:?}");
    }
}

#[test]
fn finds_cycles() {
    let up = ("serve/mod.rs", "mod tcp; mod encrypted; pub struct Limits; fn f() { tcp::listen(); }");
    let above = ("serve/encrypted/mod.rs", "mod tls; pub use tls::Handshakes;");
    for (tcp, tls, way) in [
        ("use super::Limits; use super::encrypted::Handshakes;", "use super::super::Limits;", None),
        ("use super::Limits;", "use crate::serve::tcp::Stream;", None),
        (
            "use super::encrypted::Handshakes;",
            "use crate::serve::{Limits, tcp::Stream};",
            Some(
                ["serve/encrypted/mod.rs", "serve/encrypted/tls.rs", "serve/tcp.rs", "serve/encrypted/mod.rs"].to_vec(),
            ),
        ),
    ] {
        let texts = [above, ("serve/encrypted/tls.rs", tls), up, ("serve/tcp.rs", tcp)];
        let texts = texts.map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(circle(&texts), way, "{tcp:?} {tls:?}");
    }
}

#[test]
fn removes_tests_and_literals_only() {
    let text = "let a = 'x'; // c\nlet b: &'static str = br#\"\n\"#;\n#[cfg(test)]\nmod t { }\nlet r#type = 1;\n";
    let code = without_tests(&without_literals(text));
    let words: Vec<_> = tokens(&code).into_iter().filter(|(_, token)| is_word(token)).collect();
    assert_eq!(
        words,
        [
            (1, "let"),
            (1, "a"),
            (2, "let"),
            (2, "b"),
            (2, "static"),
            (2, "str"),
            (2, "b"),
            (6, "let"),
            (6, "r"),
            (6, "type")
        ]
    );
}
