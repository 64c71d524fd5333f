//! The program: read what is asked for, start the log, do it, say how it went. No logic; start reading in `lib.rs`.

use std::process::ExitCode;

use headless_dns::{cli, commands, log};

fn main() -> ExitCode {
    let _flush = log::FlushOnDrop;
    match cli::read_process() {
        Ok(invocation) => commands::run(invocation).unwrap_or_else(|error| commands::report(&error)),
        Err(stop) => stop.report(),
    }
}
