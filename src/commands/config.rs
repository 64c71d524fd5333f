//! The commands `config print` and `completions`. Not here: the text of the configuration (`config/print.rs`).

use std::process::ExitCode;

use clap_complete::Shell;

use crate::cli;
use crate::config::{Config, Origins, print};

use super::write_stdout;

/// Prints the configuration as a file, each line with the source of its value.
///
/// # Errors
///
/// If standard output cannot be written.
pub fn print(config: &Config, origins: &Origins) -> anyhow::Result<ExitCode> {
    write_stdout(&print::text(config, origins))
}

/// Prints the completion script for a shell.
///
/// # Errors
///
/// If standard output cannot be written.
pub fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), cli::NAME, &mut script);
    write_stdout(&String::from_utf8_lossy(&script))
}
