//! The measure of the language: comments, strings for people, the README and `docs/`, in the words of the field.
//!
//! It counts words that replace a term: "who" and "somebody" in place of the client, "what" in place of the noun, "say" and
//! "stand" for values and texts. And a type name is defined once, but for the few names that every module may have. A text
//! within the limits can still be bad; one above them has to be learnt before the code can be changed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::common::files::{files, rust_files};

/// Words, and how often they may occur in 1,000.
const LIMITS: &[(&[&str], f64)] = &[
    (&["who", "whom", "whose", "whoever"], 0.8),
    (&["what"], 4.0),
    (&["somebody", "someone", "nobody", "noone", "anybody", "anyone", "everybody", "everyone"], 0.5),
    (&["say", "says", "said"], 1.5),
    (&["stand", "stands", "stood"], 0.5),
];
/// Beginnings of a doc comment that name no thing and no action.
const EMPTY_BEGINNINGS: &[&str] = &["What", "Who", "Whether", "How", "It", "The same", "Of", "That", "Those"];
/// Limit of doc comments with such a beginning, in percent.
const MAX_EMPTY_BEGINNINGS: f64 = 4.0;
/// Type names that every module may define.
const SHARED_NAMES: &[&str] = &["Error", "Config", "Inner", "State", "Args"];

#[derive(Default)]
struct Prose {
    lines: Vec<String>,
    /// First lines of doc comments.
    beginnings: Vec<String>,
    /// Number of definitions of each type name.
    types: BTreeMap<String, usize>,
}

impl Prose {
    /// Adds the comments, the strings of three words or more, and the type names of a source file.
    fn add_rust(&mut self, text: &str) {
        let mut after_doc = false;
        for line in text.lines().map(str::trim) {
            let is_doc = line.starts_with("///");
            if line.starts_with("//") {
                let comment = line.trim_start_matches("//").trim_start_matches(['/', '!']).trim_start();
                if is_doc && !after_doc {
                    self.beginnings.push(comment.to_owned());
                }
                self.lines.push(comment.to_owned());
            } else {
                let is_sentence = |text: &&str| {
                    text.split(|letter: char| !letter.is_ascii_alphabetic()).filter(|word| word.len() > 1).count() > 2
                };
                self.lines.extend(strings(line).into_iter().filter(is_sentence).map(str::to_owned));
                if let Some(name) = defined_type(line) {
                    *self.types.entry(name.to_owned()).or_default() += 1;
                }
            }
            after_doc = is_doc;
        }
    }

    /// Adds a document, without its code blocks.
    fn add_markdown(&mut self, text: &str) {
        let outside = text.split("```").step_by(2);
        self.lines.extend(outside.flat_map(str::lines).map(str::to_owned));
    }

    /// Returns one line for each limit that is exceeded, with examples.
    fn findings(&self) -> String {
        let mut findings = String::new();
        let is_in_word = |letter: char| letter.is_ascii_alphabetic() || letter == '\'';
        let total =
            self.lines.iter().flat_map(|line| line.split(|letter| !is_in_word(letter))).filter(|word| !word.is_empty());
        let total = total.count().max(1) as f64;
        for (words, limit) in LIMITS {
            let count = |line: &String| {
                let all = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
                all.filter(|word| words.contains(&word.to_ascii_lowercase().as_str())).count()
            };
            let rate = self.lines.iter().map(count).sum::<usize>() as f64 * 1000.0 / total;
            if rate > *limit {
                let examples: Vec<&String> = self.lines.iter().filter(|line| count(line) > 0).take(5).collect();
                writeln!(findings, "{words:?}: {rate:.2} in 1,000 words, at most {limit}, as in {examples:#?}")
                    .unwrap();
            }
        }
        let is_empty = |line: &&String| EMPTY_BEGINNINGS.iter().any(|begin| has_first_words(line, begin));
        let empty: Vec<&String> = self.beginnings.iter().filter(is_empty).collect();
        let share = empty.len() as f64 * 100.0 / self.beginnings.len().max(1) as f64;
        if share > MAX_EMPTY_BEGINNINGS {
            let examples = &empty[..empty.len().min(5)];
            writeln!(findings, "{share:.1} % of doc comments begin without a noun or a verb, as {examples:#?}")
                .unwrap();
        }
        for (name, count) in
            self.types.iter().filter(|(name, count)| **count > 1 && !SHARED_NAMES.contains(&name.as_str()))
        {
            writeln!(findings, "the type name {name} is defined {count} times").unwrap();
        }
        findings
    }
}

fn has_first_words(line: &str, begin: &str) -> bool {
    line.strip_prefix(begin)
        .is_some_and(|rest| !rest.starts_with(|letter: char| letter.is_alphanumeric() || letter == '_'))
}

/// Returns the contents of the string literals of a line.
fn strings(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let (mut open, mut escaped) = (None, false);
    for (at, letter) in line.char_indices() {
        match open {
            None if letter == '"' => open = Some(at + 1),
            Some(_) if escaped => escaped = false,
            Some(_) if letter == '\\' => escaped = true,
            Some(begin) if letter == '"' => {
                found.push(&line[begin..at]);
                open = None;
            }
            _ => {}
        }
    }
    found
}

/// Returns the name of the struct, enum or trait that a line defines.
fn defined_type(line: &str) -> Option<&str> {
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(')')?.1.trim_start(),
        Some(rest) => rest.trim_start(),
        None => line,
    };
    let name = ["struct ", "enum ", "trait "].iter().find_map(|keyword| line.strip_prefix(keyword))?;
    name.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().filter(|name| !name.is_empty())
}

#[test]
fn prose_is_in_the_words_of_the_field() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut prose = Prose::default();
    for folder in ["src", "core"] {
        for path in rust_files(&root.join(folder)) {
            prose.add_rust(&fs::read_to_string(path).unwrap());
        }
    }
    // The results of the benchmarks are generated.
    let is_written = |name: &str| name.ends_with(".md") && !name.contains("speed");
    let documents =
        files(&root.join("docs")).into_iter().filter(|path| is_written(&path.file_name().unwrap().to_string_lossy()));
    for path in documents.chain([root.join("README.md")]) {
        prose.add_markdown(&fs::read_to_string(path).unwrap());
    }
    assert!(prose.beginnings.len() > 1_000, "there is prose to read");
    let findings = prose.findings();
    assert!(findings.is_empty(), "\n{findings}");
}

#[test]
fn finds_prose_above_limits() {
    let mut prose = Prose::default();
    prose.add_rust(
        "/// What is asked.\npub(crate) struct Query;\n/// Returns the name.\n/// How it is written.\nenum Query {}\n\
         let text = \"somebody stands and says \\\"whose\\\"\";\nlet short = \"who is\";\nstruct Error; struct Error;\ntrait Error {}\n",
    );
    prose.add_markdown("The client asks.\n```\nwho what\n```\n");
    assert_eq!(prose.beginnings, ["What is asked.", "Returns the name."]);
    assert_eq!(prose.lines.iter().filter(|line| line.contains("who ")).count(), 0, "neither code nor short strings");
    let findings = prose.findings();
    for expected in
        ["\"whom\"", "\"what\"", "\"somebody\"", "\"said\"", "\"stood\"", "50.0 %", "name Query is defined 2 times"]
    {
        assert!(findings.contains(expected), "{expected}: {findings}");
    }
    assert!(!findings.contains("name Error"), "{findings}");
    assert_eq!(Prose::default().findings(), "");
}
