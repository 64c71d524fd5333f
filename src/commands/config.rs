//! `config print` and `completions`: what the command line itself can tell.

use std::process::ExitCode;

use clap_complete::Shell;

use crate::cli;
use crate::config::{Config, Origins, print};

use super::show;

/// Shows the configuration as a file, each line with where its value came from.
///
/// # Errors
///
/// If standard output cannot be written.
pub fn print(config: &Config, origins: &Origins) -> anyhow::Result<ExitCode> {
    show(&print::text(config, origins))
}

/// Shows a shell's completion script.
///
/// # Errors
///
/// If standard output cannot be written.
pub fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), cli::NAME, &mut script);
    show(&String::from_utf8_lossy(&script))
}
