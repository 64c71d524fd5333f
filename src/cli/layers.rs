//! Precedence of the sources of an option: flag, then environment variable, then configuration file.
//!
//! A key of the file is inserted into the command line as the flag of the same name, and the command line is parsed again, so
//! that one parser validates all three. An error in the file names the file, the line and the key. Not here: the syntax of
//! the file (`config/file.rs`). Read `options.rs` next.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches};

use super::{EarlyExit, command};
use crate::config::file::{self, FileEntry};
use crate::config::{Origin, Origins};
use headless_dns_core::escape::{Printable, is_unprintable, lines};

/// Parses the command line, with the file's keys inserted for options that neither a flag nor a variable sets. Returns the
/// matches, and the origin of each option that is set.
pub(super) fn layered(mut args: Vec<OsString>) -> Result<(ArgMatches, Origins), EarlyExit> {
    let command = command();
    let first =
        command.clone().try_get_matches_from(&args).map_err(|error| attribute_to_env(&command, &args, error))?;
    let (depth, given) = innermost(&first);
    let mut origins = given_origins(&command, given);
    let Ok(Some(path)) = given.try_get_one::<PathBuf>("config") else { return Ok((first, origins)) };
    let path = path.clone();
    let mut matches = first;
    for entry in file::read(&path).map_err(EarlyExit::WrongUse)? {
        let option = option(&command, &entry.key).ok_or_else(|| unknown_key(&command, &path, &entry))?;
        if origins.contains_key(&entry.key) {
            continue;
        }
        let words = flags(option, &entry).map_err(|sentence| in_file(&path, &entry, &sentence))?;
        if words.is_empty() {
            continue;
        }
        // Insert directly behind the subcommand: behind a `--`, the flags would be parsed as positional arguments.
        args.splice(1 + depth..1 + depth, words);
        matches =
            command.clone().try_get_matches_from(&args).map_err(|error| in_file(&path, &entry, &sentence(&error)))?;
        origins.insert(entry.key, Origin::File { path: path.display().to_string(), line: entry.line });
    }
    Ok((matches, origins))
}

/// Returns the depth of the innermost subcommand, and its matches.
fn innermost(matches: &ArgMatches) -> (usize, &ArgMatches) {
    match matches.subcommand() {
        None => (0, matches),
        Some((_, inner)) => {
            let (depth, innermost) = innermost(inner);
            (depth + 1, innermost)
        }
    }
}

/// Returns the options that a file may set.
pub(super) fn options(command: &clap::Command) -> impl Iterator<Item = &Arg> {
    declared(command).filter(|option| key(option) != Some("config"))
}

/// Returns all options, as `serve` declares them: the arguments with an environment variable.
fn declared(command: &clap::Command) -> impl Iterator<Item = &Arg> {
    let serve = command.find_subcommand("serve").into_iter();
    serve.flat_map(clap::Command::get_arguments).filter(|arg| arg.get_env().is_some())
}

/// Returns the environment variables of all options.
pub(super) fn variables(command: &clap::Command) -> impl Iterator<Item = &str> {
    declared(command).filter_map(|option| option.get_env()?.to_str())
}

pub(super) fn key(option: &Arg) -> Option<&str> {
    option.get_long()
}

/// Former and present names of options that were renamed.
const RENAMED_OPTIONS: [(&str, &str); 1] = [("upstream", "external-name-upstream")];

/// Returns the present name of an option with this former name.
pub(super) fn renamed_option(former: &str) -> Option<&'static str> {
    RENAMED_OPTIONS.iter().find(|(name, _)| *name == former).map(|(_, present)| *present)
}

fn option<'c>(command: &'c clap::Command, wanted: &str) -> Option<&'c Arg> {
    options(command).find(|option| key(option) == Some(wanted))
}

/// Returns the origin of each option that a flag or a variable sets.
fn given_origins(command: &clap::Command, given: &ArgMatches) -> Origins {
    let origin = |option: &Arg| {
        let id = option.get_id().as_str();
        // Skip options that the subcommand does not declare (`completions` has none): `value_source` panics for them.
        given.try_contains_id(id).ok()?;
        match given.value_source(id)? {
            ValueSource::CommandLine => Some(Origin::Flag),
            ValueSource::EnvVariable => Some(Origin::Environment(option.get_env()?.to_string_lossy().into_owned())),
            _ => None,
        }
    };
    options(command).filter_map(|option| Some((key(option)?.to_owned(), origin(option)?))).collect()
}

/// Returns the flags that set the entry's values on the command line.
fn flags(option: &Arg, entry: &FileEntry) -> Result<Vec<OsString>, String> {
    // Refuse an empty list where the option has a default: `allow = []` reads as "no client" and would allow all clients.
    if entry.words.is_empty() && !option.get_default_values().is_empty() {
        return Err("the list is empty: leave the key out for the default".into());
    }
    Ok(entry.words.iter().map(|word| format!("--{}={word}", entry.key).into()).collect())
}

fn in_file(path: &Path, entry: &FileEntry, sentence: &str) -> EarlyExit {
    EarlyExit::WrongUse(format!("{}, line {}: {}: {sentence}", path.display(), entry.line, entry.key))
}

fn unknown_key(command: &clap::Command, path: &Path, entry: &FileEntry) -> EarlyExit {
    if let Some(present) = renamed_option(&entry.key) {
        return in_file(path, entry, &format!("the key was renamed: write {present}"));
    }
    let nearest = file::nearest(&entry.key, options(command).filter_map(key)).unwrap_or_default();
    in_file(path, entry, &format!("there is no such key; the nearest is {nearest}"))
}

/// Names the environment variable if the invalid value came from one: clap names the flag, which is not on the command line.
/// Names the present option for one that was renamed.
fn attribute_to_env(command: &clap::Command, args: &[OsString], error: clap::Error) -> EarlyExit {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else { return EarlyExit::Clap(error) };
    let flag = shown.split([' ', '=', '[']).next().unwrap_or_default();
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(present) = flag.strip_prefix("--").and_then(renamed_option)
    {
        return EarlyExit::WrongUse(format!("{flag}: the option was renamed: write --{present}"));
    }
    let option = declared(command).find(|option| key(option) == flag.strip_prefix("--"));
    let short = option.and_then(Arg::get_short).map(|letter| format!("-{letter}"));
    let written = |arg: &OsString| {
        let arg = arg.to_string_lossy();
        arg.split('=').next() == Some(flag) || short.as_ref().is_some_and(|short| arg.starts_with(short))
    };
    let variable = option.and_then(Arg::get_env);
    match variable {
        Some(name) if env::var_os(name).is_some() && !args.iter().any(written) => {
            EarlyExit::WrongUse(format!("environment {}: {}", name.to_string_lossy(), sentence(&error)))
        }
        _ => EarlyExit::Clap(error),
    }
}

/// Returns clap's message of several lines, escaped; `None` if all characters are printable.
pub(super) fn escaped(error: &clap::Error) -> Option<String> {
    let is_clean = |text: &String| !text.contains(is_unprintable);
    let clean = error.context().all(|(_, value)| match value {
        ContextValue::String(text) => is_clean(text),
        ContextValue::Strings(texts) => texts.iter().all(is_clean),
        _ => true,
    });
    let rendered = error.render().to_string();
    if clean && !rendered.replace(['\n', '\t'], "").contains(is_unprintable) {
        return None;
    }
    let escaped = |text: &String| Printable(text).to_string();
    let mut own = clap::Error::new(error.kind()).with_cmd(&command());
    for (kind, value) in error.context() {
        own.insert(
            kind,
            match value {
                ContextValue::String(text) => ContextValue::String(escaped(text)),
                ContextValue::Strings(texts) => ContextValue::Strings(texts.iter().map(escaped).collect()),
                other => other.clone(),
            },
        );
    }
    let source = std::error::Error::source(error).map(|source| format!("{}\n", Printable(source)));
    // An error without context is the help or the version, or has a text of its own.
    let text = if error.context().next().is_none() { rendered } else { own.render().to_string() };
    Some(lines(&text).into_owned() + &source.unwrap_or_default())
}

/// Returns clap's error message on one line, without the usage.
pub(super) fn sentence(error: &clap::Error) -> String {
    if let Some(source) = std::error::Error::source(error) {
        return source.to_string();
    }
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
    lines.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").to_owned()
}
