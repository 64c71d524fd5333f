//! Text of one file -> the JSON values in it, each with its document number and line.
//!
//! A YAML stream is split at its document markers before it is parsed, so that a syntax error costs one document and
//! not those behind it. JSON, which `kubectl get -o json` prints in one piece of any size, goes to serde_json. Not
//! here: finding the files (`files.rs`), and the meaning of the values (`objects`).

use std::borrow::Cow;
use std::thread::ScopedJoinHandle;

use serde::de::IgnoredAny;
use serde_json::Value;
use serde_saphyr::localizer::Localizer;
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{DefaultMessageFormatter, Error, Location, MessageFormatter};

/// One value of a file, or the error in its place.
#[derive(Debug)]
pub(super) struct ManifestDocument {
    /// Number of the document in the file, from 1.
    pub(super) number: usize,
    /// Line of the file, from 1, at which the document begins or the error is.
    pub(super) line: usize,
    /// Value, or the reason why there is none.
    pub(super) value: Result<Value, Unparsed>,
    /// True if the text has `{{`, as a template of a chart.
    pub(super) has_template: bool,
}

impl ManifestDocument {
    fn new(number: usize, line: usize, value: Value) -> Self {
        Self { number, line, value: Ok(value), has_template: false }
    }
}

/// A document that cannot be parsed.
#[derive(Debug)]
pub(super) struct Unparsed {
    /// Error, without its location.
    pub(super) error: String,
    /// Values of all fields `name` in the text, sorted: objects that the document may define.
    pub(super) names: Vec<Box<str>>,
}

/// Parses every document of `text` that is not empty, in order.
///
/// Runs on a thread with a larger stack: 128 levels of YAML take 3 MiB in a debug build, more than the default of a
/// thread. A parser that panics costs only its file.
pub(super) fn read(text: &str) -> Vec<ManifestDocument> {
    let done = std::thread::scope(|scope| {
        let reader = std::thread::Builder::new().name("manifests".into()).stack_size(PARSER_STACK_BYTES);
        reader.spawn_scoped(scope, || read_here(text)).map(ScopedJoinHandle::join)
    });
    let wrong = match done {
        Ok(Ok(documents)) => return documents,
        Ok(Err(_)) => "the parser failed on this file: please report this bug".into(),
        Err(error) => format!("cannot start a thread to parse the file: {error}"),
    };
    vec![ManifestDocument { value: Err(unparsed(text, wrong)), ..ManifestDocument::new(1, 1, Value::Null) }]
}

/// Beginning of a template action in a chart.
pub(super) const TEMPLATE_START: &str = "{{";

fn unparsed(text: &str, error: String) -> Unparsed {
    let name = |line: &str| {
        let (_, value) = line.split_once("name")?;
        let value = value.trim_start_matches('"').trim_start().strip_prefix(':')?;
        let value = value.trim_matches([' ', '\t', '\r', ',', '"', '\'']);
        (!value.is_empty() && !value.contains(TEMPLATE_START)).then(|| value.into())
    };
    // Splits at more than line ends: JSON may be a single line.
    let mut names: Vec<Box<str>> = text.split(['\n', ',', '{', '}']).filter_map(name).collect();
    names.sort();
    names.dedup();
    Unparsed { error, names }
}

/// Size of the parser's stack, in octets; only the used part is backed by memory.
const PARSER_STACK_BYTES: usize = 16 << 20;

fn read_here(text: &str) -> Vec<ManifestDocument> {
    // YAML 1.2.2 section 5.2: a stream may begin with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    for chunk in split(text) {
        let Some((line, at)) = content(&chunk) else { continue };
        let braced = chunk.text[at..].starts_with(['{', '[']);
        let first = documents.len();
        if !(braced && read_json(&chunk, line, at, &mut documents)) {
            documents.extend(read_yaml(&chunk, line));
        }
        let has_template = chunk.text.contains(TEMPLATE_START);
        documents[first..].iter_mut().for_each(|document| document.has_template = has_template);
    }
    documents
}

/// Part of a file between two document markers.
#[derive(Debug, PartialEq, Eq)]
struct DocumentChunk<'t> {
    number: usize,
    /// Line of the file at which `text` begins, from 1.
    line: usize,
    /// Text, beginning with its `---` if it has one.
    text: &'t str,
}

/// Splits a stream at the markers of YAML 1.2.2 sections 9.1.2 and 9.1.3: `---` and `...` at column 0, alone or
/// followed by white space. A block scalar cannot contain a marker, because its lines are indented, nor can JSON,
/// because none of its lines begins with one.
fn split(text: &str) -> Vec<DocumentChunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut start_line, mut number) = (0, 1, 1);
    // `bare`: the part so far has only blank lines, comments and directives.
    let (mut bare, mut directives) = (true, false);
    let mut at = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let next = at + line.len();
        if is_marker(line, "---") {
            // Directives belong to the document behind the next marker.
            if !(bare && directives) {
                if !bare {
                    chunks.push(DocumentChunk { number, line: start_line, text: &text[start..at] });
                    number += 1;
                }
                (start, start_line) = (at, index + 1);
            }
            (bare, directives) = (false, false);
        } else if is_marker(line, "...") {
            if !bare {
                chunks.push(DocumentChunk { number, line: start_line, text: &text[start..at] });
                number += 1;
            }
            (start, start_line, bare, directives) = (next, index + 2, true, false);
        } else if bare {
            match line.trim_start().chars().next() {
                None | Some('#') => {}
                Some('%') if line.starts_with('%') => directives = true,
                Some(_) => bare = false,
            }
        }
        at = next;
    }
    if !bare {
        chunks.push(DocumentChunk { number, line: start_line, text: &text[start..] });
    }
    chunks
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Returns the beginning of the document's content: line of the file, and octet of the chunk.
fn content(chunk: &DocumentChunk<'_>) -> Option<(usize, usize)> {
    let mut at = 0;
    for (index, line) in chunk.text.split_inclusive('\n').enumerate() {
        let rest = if is_marker(line, "---") { &line[3..] } else { line };
        let rest = rest.trim_start();
        if !(rest.is_empty() || rest.starts_with('#') || line.starts_with('%')) {
            return Some((chunk.line + index, at + line.len() - rest.len()));
        }
        at += line.len();
    }
    None
}

/// Parses JSON values, one behind another. Returns `false` if the text is not JSON, but may be YAML in flow style.
fn read_json(chunk: &DocumentChunk<'_>, line: usize, at: usize, documents: &mut Vec<ManifestDocument>) -> bool {
    let json = &chunk.text[at..];
    let mut values = serde_json::Deserializer::from_str(json.trim_end()).into_iter::<Value>();
    let mut lines = LineCursor { text: json, at: 0, line };
    let mut first = true;
    while let Some(value) = values.next() {
        match value {
            Ok(value) => {
                let end = values.byte_offset();
                documents.push(ManifestDocument::new(chunk.number, lines.content(), value));
                lines.skip_to(end);
            }
            Err(_) if first && json.len() <= MAX_FLOW && is_yaml(chunk.text) => return false,
            Err(error) => {
                let text = error.to_string();
                let text = text.split(" at line ").next().unwrap_or_default();
                let value = Err(unparsed(&json[lines.at..], format!("this is not JSON: {text}")));
                let line = line + error.line().saturating_sub(1);
                documents.push(ManifestDocument { value, ..ManifestDocument::new(chunk.number, line, Value::Null) });
                break;
            }
        }
        first = false;
    }
    true
}

/// Maximum size of a text that is tried as YAML in flow style, in octets: large files that begin with a brace are JSON.
const MAX_FLOW: usize = 1 << 20;

fn is_yaml(text: &str) -> bool {
    serde_saphyr::from_str_with_options::<IgnoredAny>(text, options(text.len())).is_ok()
}

/// Counter of the lines of a text, which passes through it once.
struct LineCursor<'t> {
    text: &'t str,
    at: usize,
    line: usize,
}

impl LineCursor<'_> {
    fn skip_to(&mut self, end: usize) {
        self.line += self.text[self.at..end].bytes().filter(|octet| *octet == b'\n').count();
        self.at = end;
    }

    /// Returns the line of the next octet that is not white space.
    fn content(&mut self) -> usize {
        let rest = &self.text[self.at..];
        self.skip_to(self.at + rest.len() - rest.trim_start().len());
        self.line
    }
}

fn read_yaml(chunk: &DocumentChunk<'_>, line: usize) -> Option<ManifestDocument> {
    let parsed = serde_saphyr::from_str_with_options::<Value>(chunk.text, options(chunk.text.len()));
    match parsed {
        // Only comments, or an explicit `null`.
        Ok(Value::Null) => None,
        Ok(value) => Some(ManifestDocument::new(chunk.number, line, value)),
        Err(error) => {
            // An error at the end of a document is located behind it, where the next document already begins.
            let last = chunk.text.trim_end().bytes().filter(|octet| *octet == b'\n').count();
            let at = error.location().map_or(0, |location| location.line().saturating_sub(1) as usize);
            let value = Err(unparsed(chunk.text, describe_error(&error)));
            Some(ManifestDocument {
                value,
                ..ManifestDocument::new(chunk.number, chunk.line + at.min(last), Value::Null)
            })
        }
    }
}

/// Returns the options with which kubectl reads YAML (sigs.k8s.io/yaml): booleans and octal numbers of version 1.1, and
/// the last of equal keys.
///
/// The caller bounds the size of the input, so no budget may limit a count that grows with it. The expansion of aliases
/// is bounded here: "a billion laughs" is refused after a hundred thousand events.
fn options(size: usize) -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_anchors: usize::MAX,
            max_aliases: usize::MAX,
            max_merge_keys: usize::MAX,
            enforce_alias_anchor_ratio: false,
            // The limit of serde_json; values are dropped, and visited, by recursion.
            max_depth: 128,
            // Without aliases at most the size of the input, except for tags, which are written out.
            max_total_scalar_bytes: size.saturating_mul(4).saturating_add(16 << 20),
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
        // Comments are not used, and a long one would exceed a budget of its own.
        emit_comments: false,
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        legacy_octal_numbers: true,
        strict_booleans: false,
        with_snippet: false,
    }
}

/// Formats an error without its location, which the report gives as a line of the file.
fn describe_error(error: &Error) -> String {
    let text = error.render_with_formatter(&NoLocation);
    format!("this is not YAML: {}", text.split_whitespace().collect::<Vec<_>>().join(" "))
}

struct NoLocation;

impl MessageFormatter for NoLocation {
    fn localizer(&self) -> &dyn Localizer {
        self
    }

    fn format_message<'a>(&self, error: &'a Error) -> Cow<'a, str> {
        match error {
            Error::AliasReplayLimitExceeded { .. } | Error::Budget { .. } => {
                "its aliases (*name) expand to too much, or it is nested too deeply".into()
            }
            _ => DefaultMessageFormatter.format_message(error),
        }
    }
}

impl Localizer for NoLocation {
    fn attach_location<'a>(&self, base: Cow<'a, str>, _: Location) -> Cow<'a, str> {
        base
    }

    fn alias_used_at(&self, _: Location) -> String {
        String::new()
    }

    fn alias_defined_at(&self, _: Location) -> String {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Compares the documents of `text` with `document:line:value`, or `document:line:! error`.
    fn check(text: &str, expected: &[&str]) {
        let read = read(text);
        let seen: Vec<String> = read
            .iter()
            .map(|document| match &document.value {
                Ok(value) => format!("{}:{}:{value}", document.number, document.line),
                Err(wrong) => format!("{}:{}:! {}", document.number, document.line, wrong.error),
            })
            .collect();
        let same = seen.len() == expected.len()
            && seen.iter().zip(expected).all(|(seen, expected)| {
                expected.strip_suffix("..").map_or(seen == expected, |start| seen.starts_with(start))
            });
        assert!(same, "{text:?}\nread:     {seen:#?}\nexpected: {expected:#?}");
    }

    #[test]
    fn splits_at_markers() {
        check("", &[]);
        check("# only a comment\n", &[]);
        check("---\n# only\n---\n---\n", &[]);
        check("a: 1", &[r#"1:1:{"a":1}"#]);
        check("a: 1\n---", &[r#"1:1:{"a":1}"#]);
        check("# licence\n\n---\n\na: 1\n--- # second\nb: 2\n", &[r#"1:5:{"a":1}"#, r#"2:7:{"b":2}"#]);
        check("a: 1\r\n---\r\nb: 2\r\n", &[r#"1:1:{"a":1}"#, r#"2:3:{"b":2}"#]);
        check("\u{feff}a: 1\n---\nb: 2\n", &[r#"1:1:{"a":1}"#, r#"2:3:{"b":2}"#]);
        check("\u{feff}---\na: 1\n", &[r#"1:2:{"a":1}"#]);
        check("%YAML 1.2\n---\na: 1\n...\n%YAML 1.2\n---\nb: 2\n", &[r#"1:3:{"a":1}"#, r#"2:7:{"b":2}"#]);
        check("a: 1\n...\n# rest\nb: 2\n", &[r#"1:1:{"a":1}"#, r#"2:4:{"b":2}"#]);
        check("--- {a: 1}\n", &[r#"1:1:{"a":1}"#]);
        check("a: |\n  ---\n  x\nb: ----\n", &[r#"1:1:{"a":"---\nx\n","b":"----"}"#]);
        check("---x: 1\n", &[r#"1:1:{"---x":1}"#]);
    }

    #[test]
    fn invalid_document_is_skipped_alone() {
        let text = "a: 1\n---\nb:\n  - x\n y: [\n---\nc: 3\n";
        check(text, &[r#"1:1:{"a":1}"#, "2:5:! this is not YAML: ..", r#"3:7:{"c":3}"#]);
        check("a: 1\n---\nb: 1\n\tc: 1\n---\nd: 3\n", &[r#"1:1:{"a":1}"#, "2:3:! ..", r#"3:6:{"d":3}"#]);
        check("a: 1\nb\n", &["1:2:! .."]);
        check("a: *nobody\n", &["1:1:! .."]);
        check("a: 'x\n---\nb: 2\n", &["1:1:! ..", r#"2:3:{"b":2}"#]);
    }

    #[test]
    fn parses_scalars_like_kubectl() {
        check("a: None\nb: yes\nc: off\nd: 'yes'", &[r#"1:1:{"a":"None","b":true,"c":false,"d":"yes"}"#]);
        check("a: 0644\nb: 0x1F\nc: 1.5\nd: ~\ne:", &[r#"1:1:{"a":420,"b":31,"c":1.5,"d":null,"e":null}"#]);
        check("a: 2024-01-01\nb: 10.0.0.1\nc: .inf\nd: 1:30", {
            &[r#"1:1:{"a":"2024-01-01","b":"10.0.0.1","c":".inf","d":"1:30"}"#]
        });
        check("a: 1\na: 2\n", &[r#"1:1:{"a":2}"#]);
        check("80: x\ntrue: z\n", &[r#"1:1:{"80":"x","true":"z"}"#]);
        check("a: 123456789012345678901234567890", &["1:1:.."]);
        check("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}", &[r#"1:1:{"a":{"b":1},"c":{"b":1},"d":{"b":1,"e":2}}"#]);
        check("a: !secret b\nc: !!str 1\n", &[r#"1:1:{"a":"b","c":"1"}"#]);
        let comments = format!("a:\n{}  - 1\n", "  # no\n".repeat(500));
        check(&comments, &[r#"1:1:{"a":[1]}"#]);
    }

    #[test]
    fn parses_json() {
        check(r#"{"a":1}"#, &[r#"1:1:{"a":1}"#]);
        check("\n [1,\n2]\n", &["1:2:[1,2]"]);
        check("{\"a\":1}\n\n{\"b\":\n2} {\"c\":3}", &[r#"1:1:{"a":1}"#, r#"1:3:{"b":2}"#, r#"1:4:{"c":3}"#]);
        check("{\"a\":1}\n{\"b\":\n2,}\n", &[r#"1:1:{"a":1}"#, "1:3:! this is not JSON: .."]);
        check("{\"a\":\n1,\nb}}", &["1:3:! this is not JSON: .."]);
        check("--- # {\n{\"a\":1}\n---\nb: 2\n", &[r#"1:2:{"a":1}"#, r#"2:4:{"b":2}"#]);
        check("{a: 1,\n b: 2}", &[r#"1:1:{"a":1,"b":2}"#]);
        check(r#"{"a":1,"a":2}"#, &[r#"1:1:{"a":2}"#]);
    }

    #[test]
    fn limits_alias_expansion() {
        let start = Instant::now();
        let mut laughs = String::from("a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
        for letter in 'b'..='k' {
            let before = char::from(letter as u8 - 1);
            laughs += &format!("{letter}: &{letter} [{}]\n", vec![format!("*{before}"); 9].join(","));
        }
        check(&laughs, &["1:6:! this is not YAML: its aliases (*name) expand to too much, or it is nested too deeply"]);
        // One long text, repeated by aliases.
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a,".repeat(100_000));
        check(&long, &["1:2:! this is not YAML: its aliases (*name) expand to too much, or it is nested too deeply"]);
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn limits_depth() {
        check(&format!("{}1", "- ".repeat(5000)), &["1:1:! .."]);
        check(&"[".repeat(5000), &["1:1:! .."]);
    }

    #[test]
    fn parses_beyond_default_budgets() {
        let documents = "a: [1, 2]\n---\n".repeat(3000);
        assert_eq!(read(&documents).iter().filter(|document| document.value.is_ok()).count(), 3000);
        let nodes = format!("a:\n{}", "- 1\n".repeat(300_000));
        assert!(read(&nodes)[0].value.is_ok());
    }
}
