//! Escaping of texts for people: no text from outside moves a cursor, changes a colour, hides a letter or begins a
//! line.
//!
//! Names come from objects, from servers, from the command line and from file names. All output for people (standard
//! output and error, the log as text, `/readyz`, the status page) is escaped here: each text from outside by
//! [`Printable`], on one line, and each whole output of several lines by [`lines`]. JSON stays JSON by [`json`]. An
//! escaped character has the form of a Rust literal, `\u{1b}`; a backslash is not escaped, so the text is for reading
//! and cannot be parsed back.

use std::borrow::Cow;
use std::fmt::{self, Display, Write};

/// Escape sequences of this program's own colours, and their end (ECMA-48 section 8.3.117).
pub const COLOURS: [&str; 4] = ["\x1b[32m", "\x1b[1;31m", "\x1b[33m", "\x1b[0m"];

/// Returns whether a character acts on a terminal, or is invisible: control characters (C0, DEL, C1), line separators,
/// bidirectional controls (Unicode Standard Annex 9), zero-width and other format characters, tags, variation
/// selectors, fillers.
pub fn is_unprintable(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Value that is displayed on one line, with every unprintable character escaped.
#[derive(Clone, Copy, Debug)]
pub struct Printable<T>(pub T);

impl<T: Display> Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(EscapingFormatter(f), "{}", self.0)
    }
}

struct EscapingFormatter<'a, W>(&'a mut W);

impl<W: Write> Write for EscapingFormatter<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(is_unprintable) {
            let letter = rest[at..].chars().next().unwrap_or_default();
            self.0.write_str(&rest[..at])?;
            write_escape(self.0, letter)?;
            rest = &rest[at + letter.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

fn write_escape(to: &mut impl Write, letter: char) -> fmt::Result {
    match letter {
        '\n' | '\r' | '\t' => write!(to, "{}", letter.escape_default()),
        letter => write!(to, "{}", letter.escape_unicode()),
    }
}

/// Escapes an output of several lines. Its line ends, its tabs and this program's [`COLOURS`] stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(
        text,
        |rest| {
            let stays = |own: &&str| rest.starts_with(*own);
            ["\n", "\t"].iter().chain(&COLOURS).find(|own| stays(own)).map(|own| own.len())
        },
        write_escape,
    )
}

/// Escapes a JSON text. Unprintable characters other than white space occur only in its strings, where `\u202e` is
/// equivalent to the character. Line ends and tabs stay.
pub fn json(text: &str) -> Cow<'_, str> {
    escape(text, own_space, |to, letter| {
        letter.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(to, "\\u{unit:04x}"))
    })
}

/// Writes a string of TOML, in quotes (TOML 1.0, "String").
pub fn toml_string(text: &str) -> String {
    // The escapes of JSON are escapes of TOML, but for pairs of surrogates.
    let quoted = serde_json::Value::from(text).to_string();
    escape(&quoted, own_space, |to, letter| write!(to, "\\U{:08X}", u32::from(letter))).into_owned()
}

fn own_space(rest: &str) -> Option<usize> {
    rest.starts_with(['\n', '\t']).then_some(1)
}

/// Replaces unprintable characters. `own` returns the length of a prefix that stays.
fn escape(
    text: &str,
    own: impl Fn(&str) -> Option<usize>,
    replace: impl Fn(&mut String, char) -> fmt::Result,
) -> Cow<'_, str> {
    let Some(first) = text.find(is_unprintable) else { return Cow::Borrowed(text) };
    let (mut escaped, mut rest) = (text[..first].to_owned(), &text[first..]);
    while let Some(letter) = rest.chars().next() {
        let length = match own(rest) {
            Some(length) => length,
            None if is_unprintable(letter) => {
                // Writing to a String does not fail.
                let _ = replace(&mut escaped, letter);
                rest = &rest[letter.len_utf8()..];
                continue;
            }
            None => letter.len_utf8(),
        };
        escaped.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\x1b[31m\u{9b}2J\x07\r\n\t\x7f\u{202e}\u{2066}\u{200b}\u{2028}\u{feff}\u{e0041}é漢\\";

    #[test]
    fn escapes_unprintable_characters() {
        let shown = Printable(HOSTILE).to_string();
        assert_eq!(
            shown,
            "a\\u{1b}[31m\\u{9b}2J\\u{7}\\r\\n\\t\\u{7f}\\u{202e}\\u{2066}\\u{200b}\\u{2028}\\u{feff}\\u{e0041}é漢\\"
        );
        assert!(!shown.contains(is_unprintable));
        assert_eq!(Printable(format_args!("{} b", 1)).to_string(), "1 b");
    }

    #[test]
    fn keeps_line_ends_and_colours() {
        let text = "\x1b[1;31mred\x1b[0m\n\tx\x1b[31m\x1b[2J\u{85}";
        assert_eq!(lines(text), "\x1b[1;31mred\x1b[0m\n\tx\\u{1b}[31m\\u{1b}[2J\\u{85}");
        assert!(matches!(lines("plain\n"), Cow::Owned(_)) && matches!(lines("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn escaped_json_has_equal_value() {
        let value = serde_json::json!({ HOSTILE: [HOSTILE] });
        for text in [value.to_string(), format!("{value:#}\n")] {
            let escaped = json(&text);
            assert!(!escaped.replace('\n', "").contains(is_unprintable), "{escaped}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
        }
    }

    #[test]
    fn escaped_toml_has_equal_value() {
        let text = format!("key = {}\n", toml_string(HOSTILE));
        assert!(!text.trim_end().contains(is_unprintable), "{text}");
        assert_eq!(text.parse::<toml::Table>().unwrap()["key"].as_str(), Some(HOSTILE));
    }
}
