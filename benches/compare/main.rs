//! Servers side by side: one generator, one echo.
//!
//! `cargo bench --bench compare`. The program's roles: `load` (the generator, for people and scripts) and `echo` (the
//! limit on plain sockets). Read next: `load/mod.rs`, `echo.rs`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints")]

#[allow(dead_code, reason = "memory is for whoever compares servers")]
mod cpu;
mod echo;
#[allow(dead_code, reason = "scripts expect nothing of answers, and measure one run")]
mod load;
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    // `cargo bench` adds this to what it was given.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    // cargo test runs benchmarks with `--test`: then there is nothing to measure.
    if arguments.iter().any(|argument| argument == "--test") {
        return ExitCode::SUCCESS;
    }
    match arguments.split_first().map(|(role, rest)| (role.as_str(), rest)) {
        Some(("load", rest)) => load::command::command(rest),
        Some(("echo", rest)) => echo::command(rest),
        _ => {
            eprintln!("usage: compare load|echo ARGUMENTS");
            ExitCode::from(2)
        }
    }
}
