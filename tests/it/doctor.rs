//! `local doctor` on the command line: the built program, a server, and resolvers in front of it with and without faults.
//!
//! The resolvers are servers of this project, with and without forwarding. The machine's files are in a temporary folder.

use crate::common::ports::ReservedPort;
use crate::common::server::{self, Server};
use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

const NAME: &str = "web-0.web.default.svc.cluster.local";

/// A machine's files: paths and texts.
fn machine(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

/// The exit status and the lines.
fn doctor(at: u16, resolver: u16, root: &Path, options: &str) -> (i32, String) {
    let mut command = Command::new(server::binary());
    command.args(["local", "doctor", "--server", &format!("127.0.0.1:{at}")]);
    command.args(["--resolver-port", &resolver.to_string()]).arg("--root").arg(root);
    let output = command.args(options.split_whitespace()).env_clear().output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

const RESOLV: (&str, &str) = ("etc/resolv.conf", "nameserver 127.0.0.1\n");

#[track_caller]
fn check((status, text): &(i32, String), expected: i32, lines: &[&str]) {
    assert_eq!(*status, expected, "{text}");
    assert_eq!(text.contains('✗'), expected == 1, "{text}");
    for line in lines {
        assert!(text.lines().any(|one| one.contains(line)), "no {line:?} in\n{text}");
    }
}

#[test]
fn accepts_correct_forwarding() {
    let server = Server::with("--demo");
    let resolver = Server::with(&format!("--demo --zone other.test --forward 127.0.0.1:{}", server.address.port()));
    let root = machine(&[RESOLV, ("etc/nsswitch.conf", "hosts: files mdns4_minimal [NOTFOUND=return] dns\n")]);
    let seen = doctor(server.address.port(), resolver.address.port(), root.path(), &format!("--name {NAME}"));
    let expected = [
        &format!("✓ the server at 127.0.0.1:{} answers over UDP: {NAME} is 10.244.", server.address.port()),
        "✓ the server answers over TCP too",
        "✓ the server explains why a name does not resolve: with extended errors, and as TXT at _why",
        "· nsswitch.conf has mdns4_minimal before dns",
        &format!("resolves {NAME} to the same addresses"),
        "caches a negative response for 5 s, and no longer",
        "passes explanations on: as TXT at _why; extended errors do not come through",
        "· short names",
        "· packets to 10.244.",
    ];
    check(&seen, 0, &expected);
    // Without a name: every server has one.
    check(
        &doctor(server.address.port(), resolver.address.port(), root.path(), ""),
        0,
        &["resolves ns.dns.cluster.local to the same addresses"],
    );
    // The server in resolv.conf itself, and a Pod's search list.
    let search = "search default.svc.cluster.local svc.cluster.local\noptions ndots:5\n";
    let root = machine(&[("etc/resolv.conf", &format!("nameserver 127.0.0.1\n{search}"))]);
    let seen = doctor(server.address.port(), server.address.port(), root.path(), "");
    check(&seen, 0, &["names the server itself", "✓ short names are tried in default.svc.cluster.local"]);
}

#[test]
fn reports_problems_with_fixes() {
    let server = Server::with("--demo --zone-alias cluster.internal");
    let to = format!("127.0.0.1 port {}", server.address.port());
    // It knows nothing of the zone.
    let resolver = Server::with("--demo --zone other.test");
    let root = machine(&[RESOLV]);
    let seen = doctor(server.address.port(), resolver.address.port(), root.path(), "--zone cluster.internal");
    check(&seen, 1, &["answers ns.dns.cluster.internal with REFUSED", &format!("forward cluster.internal to {to}")]);
    // It has another cluster's zone.
    let resolver = Server::with("--demo --simulate=10.99.0.0/16");
    let seen = doctor(server.address.port(), resolver.address.port(), root.path(), &format!("--name {NAME}"));
    check(&seen, 1, &["resolves web-0.web.default.svc.cluster.local to 10.99.", "it queries another server"]);
    // It knows the name, without addresses.
    let resolver = Server::with("--manifests tests/scenarios/seed-1.yaml --simulate --ns-address ::1");
    let seen = doctor(server.address.port(), resolver.address.port(), root.path(), "--name dns-version.cluster.local");
    check(&seen, 1, &["the server has no address for dns-version.cluster.local: choose a name with addresses"]);
    drop(resolver);
    // No server listens.
    let reserved = ReservedPort::new();
    let free = reserved.port();
    let seen = doctor(server.address.port(), free, root.path(), "");
    check(&seen, 1, &["which does not answer: start it, or remove its line"]);
    check(
        &doctor(free, server.address.port(), root.path(), ""),
        1,
        &["no server answers at", "or name the server with --server"],
    );
    let seen = doctor(server.address.port(), server.address.port(), root.path(), "--zone cluster.example");
    check(&seen, 1, &["answers ns.dns.cluster.example with REFUSED", "see its --zone and --allow"]);
    // No file names a resolver.
    let empty = machine(&[]);
    check(
        &doctor(server.address.port(), server.address.port(), empty.path(), ""),
        1,
        &["/etc/resolv.conf cannot be read"],
    );
    // macOS.
    let good = format!("nameserver 127.0.0.1\nport {}\n", server.address.port());
    for (text, status, line) in [
        (good.as_str(), 0, "✓ /etc/resolver/cluster.internal sends queries of macOS programs to 127.0.0.1"),
        (
            "nameserver 127.0.0.1\n",
            1,
            "✗ /etc/resolver/cluster.internal does not name the server: write `nameserver 127.0.0.1`",
        ),
    ] {
        let root = machine(&[RESOLV, ("etc/resolver/cluster.internal", text)]);
        check(
            &doctor(server.address.port(), server.address.port(), root.path(), "--zone cluster.internal"),
            status,
            &[line],
        );
    }
}

/// A resolver that keeps longer than it was told that there is nothing.
#[test]
fn reports_long_negative_caching() {
    let server = Server::with("--demo --negative-ttl 1");
    let resolver = Server::with("--demo --negative-ttl 900");
    let root = machine(&[RESOLV]);
    let seen = doctor(server.address.port(), resolver.address.port(), root.path(), &format!("--name {NAME}"));
    check(
        &seen,
        1,
        &[
            "caches a negative response for 900 s, and its TTL at the server is 1 s",
            "lower the resolver's minimum negative TTL",
        ],
    );
}
