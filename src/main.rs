//! The program: parses the command line, runs the command, and returns its exit status. No logic; start reading in
//! `lib.rs`.

use std::process::ExitCode;

use headless_dns::{cli, commands, log};

fn main() -> ExitCode {
    let _flush = log::FlushOnDrop;
    match cli::read_process() {
        Ok(invocation) => commands::run(invocation).unwrap_or_else(|error| commands::report(&error)),
        Err(stop) => stop.report(),
    }
}
