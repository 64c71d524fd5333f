//! `cargo xtask TASK`: prints and runs the commands of a task, up to the first that fails.
//!
//! The tasks are commands that can also be typed; none has logic of its own. What needs other programs is a script, which
//! installs them. Read next: `CONTRIBUTING.md`.

use std::path::Path;
use std::process::{Command, ExitCode};

/// A task: its name, its arguments, its purpose, and its commands.
struct Task {
    name: &'static str,
    arguments: &'static str,
    purpose: &'static str,
    /// Command lines, separated by blanks. The arguments of the task follow the last of them.
    commands: &'static [&'static str],
}

const TASKS: &[Task] = &[
    Task {
        name: "test",
        arguments: "[ARGUMENTS OF cargo test]",
        purpose: "all tests that need only Rust",
        commands: &["cargo test --locked"],
    },
    Task {
        name: "lint",
        arguments: "",
        purpose: "format, lints with and without the encrypted transports, and documentation",
        commands: &[
            "cargo fmt --all --check",
            "cargo clippy --workspace --all-targets --locked -- -D warnings",
            "tests/without_features",
            "tests/core_is_pure",
            "env RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --locked --document-private-items",
        ],
    },
    Task {
        name: "bench",
        arguments: "[update]",
        purpose: "instructions per answer, compared with benches/instructions.txt",
        commands: &["benches/instructions"],
    },
    Task {
        name: "cluster",
        arguments: "[FILTER]...",
        purpose: "a real control plane: stories, rights, installation and drills",
        commands: &["tests/cluster/run"],
    },
    Task {
        name: "fuzz",
        arguments: "[SECONDS] [TARGET]",
        purpose: "fuzzing, with a nightly toolchain",
        commands: &["fuzz/run"],
    },
    Task { name: "ci", arguments: "", purpose: "everything that CI runs", commands: &[".ci/run"] },
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let Some(task) = TASKS.iter().find(|task| task.name == name) else {
        for Task { name, arguments, purpose, .. } in TASKS {
            eprintln!("{:<40}{purpose}", format!("cargo xtask {name} {arguments}"));
        }
        return ExitCode::FAILURE;
    };
    run(task, &arguments.collect::<Vec<_>>())
}

/// Runs the commands of a task in the root of the workspace.
fn run(task: &Task, arguments: &[String]) -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is in a folder of the workspace");
    for (index, command) in task.commands.iter().enumerate() {
        let mut words: Vec<&str> = command.split(' ').collect();
        if index + 1 == task.commands.len() {
            words.extend(arguments.iter().map(String::as_str));
        }
        println!("$ {}", words.join(" "));
        match Command::new(words[0]).args(&words[1..]).current_dir(root).status() {
            Ok(status) if status.success() => {}
            Ok(status) => {
                eprintln!("{command}: {status}");
                return ExitCode::FAILURE;
            }
            Err(error) => {
                eprintln!("cannot run {command}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
