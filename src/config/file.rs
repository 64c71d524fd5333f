//! Parser of the configuration file: one flat TOML table, each key with its line number.
//!
//! Values become the arguments that a flag would have, so that one parser validates both: a string, a number or a boolean is
//! one argument, a list several. Not here: the set of keys, and the types of their values (`cli`).

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::regular_file::{self, MAX_SMALL_FILE};

/// One key of the file, with its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Key, as written.
    pub key: String,
    /// Line number, counted from 1.
    pub line: usize,
    /// Values as text; none for an empty list.
    pub words: Vec<String>,
}

/// Reads and parses a file.
///
/// # Errors
///
/// One sentence that names the file and, for an error in its content, the line.
pub fn read(path: &Path) -> Result<Vec<FileEntry>, String> {
    let shown = path.display();
    let text =
        regular_file::read_text(path, MAX_SMALL_FILE).map_err(|error| format!("cannot read {shown}: {error}"))?;
    parse(&text).map_err(|(line, sentence)| format!("{shown}, line {line}: {sentence}"))
}

/// Parses the text of a file. Returns the entries in the order of their lines.
///
/// # Errors
///
/// The line number, and a sentence.
pub fn parse(text: &str) -> Result<Vec<FileEntry>, (usize, String)> {
    let line_at = |at: usize| 1 + text.bytes().take(at).filter(|octet| *octet == b'\n').count();
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_at(span.start));
        (line, error.message().replace('\n', ", "))
    })?;
    let mut entries = Vec::new();
    for (key, value) in table.get_ref() {
        let line = line_at(key.span().start);
        let words = words(value).ok_or_else(|| {
            let kind = value.get_ref().type_str();
            (line, format!("{}: expected text, a number, true, false or a list of them, found {kind}", key.get_ref()))
        })?;
        entries.push(FileEntry { key: key.get_ref().to_string(), line, words });
    }
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

fn words(value: &Spanned<DeValue<'_>>) -> Option<Vec<String>> {
    match value.get_ref() {
        DeValue::Array(items) => items.iter().map(|item| word(item.get_ref())).collect(),
        single => Some(vec![word(single)?]),
    }
}

fn word(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(i64::from_str_radix(number.as_str(), number.radix()).ok()?.to_string()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// Returns the element of `known` with the smallest edit distance to `key`, for error messages.
pub fn nearest<'k>(key: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    known.into_iter().min_by_key(|known| strsim::levenshtein(key, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_lines_and_words() {
        let text =
            "# first\nzone = \"a.example\"\n\nttl = 0x1_0\nlisten = [\n  \"::1\",\n  '127.0.0.1',\n]\ndemo = true\n";
        let entries = parse(text).unwrap();
        let shown: Vec<_> = entries.iter().map(|e| format!("{} {} {}", e.line, e.key, e.words.join(" "))).collect();
        assert_eq!(shown, ["2 zone a.example", "4 ttl 16", "5 listen ::1 127.0.0.1", "9 demo true"]);
        assert_eq!(parse("allow = []").unwrap()[0].words, Vec::<String>::new());
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn rejects_invalid_lines() {
        for (text, line, part) in [
            ("a = 1\nb = = 2\n", 2, ""),
            ("a = 1\na = 2\n", 2, "duplicate"),
            ("\n[server]\nttl = 1\n", 2, "found table"),
            ("ttl = [[1]]", 1, "found array"),
            ("ttl = 1979-05-27", 1, "ttl: expected text, a number"),
        ] {
            let (at, sentence) = parse(text).unwrap_err();
            assert_eq!(at, line, "{text:?} {sentence}");
            assert!(sentence.contains(part) && !sentence.contains('\n'), "{text:?} {sentence}");
        }
        assert!(read(Path::new("/nowhere/x.toml")).unwrap_err().starts_with("cannot read /nowhere/x.toml: "));
    }

    #[test]
    fn suggests_nearest_key() {
        let known = ["zone", "zone-alias", "ttl", "negative-ttl"];
        for (key, expected) in
            [("zone_alias", "zone-alias"), ("tll", "ttl"), ("negativ-ttl", "negative-ttl"), ("zones", "zone")]
        {
            assert_eq!(nearest(key, known), Some(expected));
        }
    }
}
