//! Unreadable input files: the error of each command, the server's answers meanwhile, and SIGTERM during every kind of wait.

use crate::common;
use crate::life::server::{Server, WAIT_TIMEOUT, binary, manifest, replace, serve, until};
use std::fs::{self, File, OpenOptions};
use std::net::UdpSocket;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const NOERROR: u8 = 0;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
const A: u16 = 1;
const PTR: u16 = 12;
const TXT: u16 = 16;

fn folder() -> (tempfile::TempDir, impl Fn(&str) -> PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    (folder, move |name| path.join(name))
}

fn fifo(path: PathBuf) -> PathBuf {
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

/// Opens a FIFO for writing once a process has opened it for reading, which blocks as long as the result is kept.
fn writer_of(fifo: &Path) -> File {
    let mut writer = None;
    until("the FIFO is read", || {
        writer = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(fifo).ok();
        writer.is_some()
    });
    writer.unwrap()
}

/// The program with the words of `line` and this path behind them, to its end.
fn run(line: &str, path: &Path) -> Output {
    Command::new(binary()).env_clear().args(line.split_whitespace()).arg(path).stdin(Stdio::null()).output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A server that serves this path.
fn serving(options: &str, path: &Path) -> Command {
    let mut command = serve();
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(options.split_whitespace()).arg("--manifests").arg(path);
    command
}

/// Code and extended error of an answer over UDP.
fn ask(server: &Server, name: &str, qtype: u16) -> (u8, Option<(u16, String)>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server.address).unwrap();
    socket.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    socket.send(&common::query(7, &common::question_name(name), qtype, Some(1232))).unwrap();
    let mut response = [0; 2048];
    let length = socket.recv(&mut response).unwrap();
    (response[3] & 0x0f, common::extended(&response[..length]))
}

/// The whole response to GET of a path at the admin listener.
fn get(server: &Server, path: &str) -> String {
    common::http::get(server.admin().unwrap(), path).unwrap()
}

#[test]
fn unusable_path_has_status_2() {
    let (_folder, path) = folder();
    for (name, text) in [("empty", ""), ("comments", "# nothing\n---\n"), ("broken", "kind: [\n"), ("latin", "x")] {
        fs::write(path(name), text).unwrap();
    }
    fs::write(path("latin"), b"\xe9").unwrap();
    symlink("nowhere", path("lost")).unwrap();
    symlink("circle", path("circle")).unwrap();
    let _socket = UnixListener::bind(path("socket")).unwrap();
    let good = path("good.yaml");
    fs::write(&good, manifest([10, 1, 0, 1])).unwrap();
    for (bad, sentence) in [
        (path("missing"), ": there is no such file or folder\n"),
        (path("lost"), ": there is no such file or folder\n"),
        (path("circle"), ": it cannot be read: "),
        (path("empty"), ": the file has no document\n"),
        (path("comments"), ": the file has no document\n"),
        (path("broken"), ", document 1, line 1: this is not YAML: "),
        (path("latin"), ", line 1: the file is not UTF-8\n"),
        (path("socket"), ": the path is a socket: give a file, a folder, a pipe, or - for standard input\n"),
        ("/dev/null".into(), ": the path is a character device: give a file, a folder, a pipe"),
    ] {
        for command in
            ["serve --listen 127.0.0.1:0", "records", "records --allow-unreadable", "check", "explain web.default"]
        {
            // A good file beside it makes no difference.
            let line = format!("{command} --log-format text --manifests {} --manifests", good.display());
            let refused = run(&line, &bad);
            let sentence = format!("headless-dns: {}{sentence}", bad.display());
            assert_eq!(refused.status.code(), Some(2), "{command}: {}", errors(&refused));
            assert!(errors(&refused).contains(&sentence), "{command}: {}", errors(&refused));
            assert!(refused.stdout.is_empty(), "{command}");
        }
    }
}

#[test]
fn denies_no_name_of_unread_file() {
    let (_folder, path) = folder();
    fs::write(path("good.yaml"), manifest([10, 1, 0, 1])).unwrap();
    let broken = manifest([10, 1, 0, 2]).replace("web", "other").replace("endpoints: [", "endpoints: {");
    fs::write(path("broken.yaml"), &broken).unwrap();
    let shown = path("broken.yaml").display().to_string();
    let not_denied = |answer: (u8, Option<(u16, String)>)| {
        let (rcode, Some((code, text))) = answer else { panic!("{answer:?}") };
        assert_eq!((rcode, code), (SERVFAIL, 14));
        let tail = &shown[shown.len().saturating_sub(20)..];
        assert!(text.starts_with("NOT-SYNCED: cannot read ") && text.ends_with(&format!("{tail}, line 10")), "{text}");
    };
    let options = "--zone-alias cluster.internal";
    let server = Server::start(serving(options, &path("")));
    assert_eq!(ask(&server, "web.default.svc.cluster.local", A), (NOERROR, None));
    assert_eq!(ask(&server, "web.default.svc.cluster.local", TXT), (NOERROR, None), "NODATA of a known name");
    assert_eq!(ask(&server, "1.0.1.10.in-addr.arpa", PTR), (NOERROR, None));
    // Of the broken file one document was read: the Service, and not its slice.
    for (name, qtype) in [
        ("never.default.svc.cluster.local", A),
        ("never.default.svc.cluster.internal", A),
        ("other-0.other.default.svc.cluster.local", A),
        ("9.9.1.10.in-addr.arpa", PTR),
        ("_why.never.default.svc.cluster.local", TXT),
    ] {
        not_denied(ask(&server, name, qtype));
    }
    assert_eq!(ask(&server, "www.example.com", A).0, 5, "it is no name of ours: REFUSED");
    let ready = get(&server, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    assert!(ready.contains(&format!("[-]manifest failed: {shown}, document 2, line 10: ")), "{ready}");
    assert!(get(&server, "/metrics").contains("headless_dns_data_state{state=\"partial\"} 1\n"));
    assert!(get(&server, "/livez").starts_with("HTTP/1.1 200 "));
    let log = server.log();
    assert_eq!(log.matches("unknown names get SERVFAIL").count(), 1, "{log}");
    assert!(
        log.contains(&format!("--allow-unreadable, until these can be read: {shown}, document 2, line 10: ")),
        "{log}"
    );
    // Another error in its place is no good reading.
    let from = log.len();
    replace(&path("broken.yaml"), &broken.replace("{", "[["));
    server.wait_for_log(from, "unknown names get SERVFAIL");
    assert_eq!(ask(&server, "never.default.svc.cluster.local", A).0, SERVFAIL);
    // From one good reading on names are denied, and an error in a later one changes nothing.
    replace(&path("broken.yaml"), &broken.replace("endpoints: {", "endpoints: ["));
    until("all is read", || get(&server, "/readyz").starts_with("HTTP/1.1 200 "));
    assert_eq!(ask(&server, "other.default.svc.cluster.local", A).0, NOERROR);
    assert_eq!(ask(&server, "never.default.svc.cluster.local", A).0, NXDOMAIN);
    let from = server.log().len();
    replace(&path("broken.yaml"), &broken);
    server.wait_for_log(from, "the previous content of the file stays in service");
    assert_eq!(ask(&server, "never.default.svc.cluster.local", A).0, NXDOMAIN);
    assert_eq!(ask(&server, "other.default.svc.cluster.local", A).0, NOERROR);
    drop(server);

    let allowed = Server::start(serving("--allow-unreadable", &path("")));
    assert_eq!(ask(&allowed, "never.default.svc.cluster.local", A).0, NXDOMAIN);
    assert!(get(&allowed, "/readyz").starts_with("HTTP/1.1 200 "));
    // Commands over the same files.
    for (line, status) in [
        ("records", 1),
        ("records --allow-unreadable", 0),
        ("check", 1),
        ("check --allow-unreadable", 1),
        ("explain web.default", 0),
        ("explain never.default", 2),
        ("explain --allow-unreadable never.default", 1),
    ] {
        let done = run(&format!("{line} --log-format text --manifests"), &path(""));
        let (out, errors) = (String::from_utf8(done.stdout.clone()).unwrap(), errors(&done));
        assert_eq!(done.status.code(), Some(status), "{line}: {out}{errors}");
        // A name that resolves does not depend on the unread file.
        let place = format!("{shown}, document 2, line 10: ");
        let told = if line == "explain web.default" { "not everything could be read" } else { &place };
        assert!(format!("{out}{errors}").contains(told), "{line}: {out}{errors}");
        let verdict = if line.contains("allow") { "A: NXDOMAIN," } else { "A: SERVFAIL," };
        assert_eq!(out.contains(verdict), line.contains("never"), "{line}: {out}");
    }
}

#[test]
fn invalid_object_is_skipped_alone() {
    let (_folder, path) = folder();
    fs::write(path("a.yaml"), manifest([10, 1, 0, 1]) + "---\nkind: Service\nmetadata: {}\n").unwrap();
    let server = Server::start(serving("", &path("a.yaml")));
    assert_eq!(ask(&server, "never.default.svc.cluster.local", A).0, NXDOMAIN);
    assert!(get(&server, "/readyz").starts_with("HTTP/1.1 200 "));
}

#[test]
fn serves_empty_folder_once_filled() {
    let (_folder, path) = folder();
    let server = Server::start(serving("", &path("")));
    assert_eq!(ask(&server, "web.default.svc.cluster.local", A).0, SERVFAIL);
    fs::write(path("a.yaml"), manifest([10, 1, 0, 1])).unwrap();
    until("it is read", || ask(&server, "never.default.svc.cluster.local", A).0 == NXDOMAIN);
    assert_eq!(ask(&server, "web.default.svc.cluster.local", A).0, NOERROR);
}

/// A kubeconfig of a cluster that is never there, with these files for its user.
fn kubeconfig(authority: Option<&Path>, user: &str) -> String {
    let authority = authority.map_or_else(String::new, |path| format!("certificate-authority: {}, ", path.display()));
    format!(
        "{{kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
         clusters: [{{name: c, cluster: {{{authority}server: 'https://127.0.0.1:1'}}}}], \
         users: [{{name: u, user: {{{user}}}}}]}}"
    )
}

#[test]
fn rejects_fifo_for_every_path() {
    let (_folder, path) = folder();
    let fifo = fifo(path("fifo"));
    let shown = fifo.display();
    let cluster = path("cluster");
    fs::write(&cluster, kubeconfig(None, "")).unwrap();
    for (name, authority, user) in [
        ("authority", Some(&*fifo), String::new()),
        ("token", None, format!("tokenFile: {shown}")),
        ("certificate", None, format!("client-certificate: {shown}, client-key: {}", cluster.display())),
        ("key", None, format!("client-certificate: {}, client-key: {shown}", cluster.display())),
    ] {
        fs::write(path(name), kubeconfig(authority, &user)).unwrap();
    }
    let pipe = "it is a named pipe, and only a regular file is read";
    let cluster = cluster.display();
    for (options, status, sentence) in [
        (format!("--demo --config {shown}"), 2, format!("cannot read {shown}: {pipe}")),
        (
            format!("--demo --listen-tls 127.0.0.1:0 --tls-cert {shown} --tls-key {cluster}"),
            1,
            format!("cannot read the certificate in {shown}: {pipe}"),
        ),
        (format!("--kubeconfig {cluster} --snapshot {shown}"), 2, format!("--snapshot {shown}: {pipe}")),
        (
            format!("--demo --takeover {shown}"),
            1,
            format!("cannot ask for sockets at {shown}: it is a named pipe, and a Unix socket is meant"),
        ),
        (
            format!("--kubeconfig {}", path("authority").display()),
            1,
            format!("cannot read the certificate authority {shown}: {pipe}"),
        ),
        (format!("--kubeconfig {}", path("token").display()), 1, format!("cannot read the token {shown}: {pipe}")),
        (
            format!("--kubeconfig {}", path("certificate").display()),
            1,
            format!("cannot read the client certificate {shown}: {pipe}"),
        ),
        (format!("--kubeconfig {}", path("key").display()), 1, format!("cannot read the client key {shown}: {pipe}")),
        ("--context c".into(), 1, format!("cannot read the kubeconfig {shown}: {pipe}")),
    ] {
        let mut command = serve();
        command.env("KUBECONFIG", &fifo).args(["--listen", "127.0.0.1:0", "--admin", "none"]);
        command.args(options.split(' '));
        let mut server = Server::begin(command);
        assert_eq!(server.ended().code(), Some(status), "{options}: {}", server.log());
        assert!(server.log().contains(&sentence), "{options}: {}", server.log());
        assert!(!server.log().trim_end().contains('\n'), "one sentence: {}", server.log());
    }
}

/// Each blocks: a pipe that is named on the command line is read to its end, which may never come.
#[test]
fn sigterm_ends_server_blocked_on_pipe() {
    let (_folder, path) = folder();
    let fifo = fifo(path("fifo"));
    for signal in ["TERM", "INT"] {
        for options in ["--manifests", "--kubeconfig"] {
            for opened in [true, false] {
                let mut command = serve();
                command.args(["--listen", "127.0.0.1:0", "--admin", "none", options]).arg(&fifo);
                let mut server = Server::begin(command);
                // The server waits for a writer, or for its data.
                let writer = writer_of(&fifo);
                let _writer = opened.then_some(writer);
                if opened {
                    server.still_runs();
                }
                server.signal(signal);
                server.ended();
            }
        }
    }
    for line in ["records --manifests", "check --manifests", "explain web --kubeconfig"] {
        let mut command = Command::new(binary());
        command.env_clear().args(line.split(' ')).arg(&fifo);
        let mut waiting = Server::begin(command);
        let _writer = writer_of(&fifo);
        waiting.signal("TERM");
        waiting.ended();
    }
}

#[test]
fn fifo_in_place_of_file_keeps_last_content() {
    let (_folder, path) = folder();
    let (config, manifests) = (path("config.toml"), path("manifests"));
    fs::create_dir(&manifests).unwrap();
    fs::write(manifests.join("web.yaml"), manifest([10, 1, 0, 1])).unwrap();
    fs::write(&config, "ttl = 7\n").unwrap();
    let mut server = Server::start(serving(&format!("--config {}", config.display()), &manifests));
    for path in [&config, &manifests.join("web.yaml")] {
        fs::remove_file(path).unwrap();
        fifo(path.clone());
    }
    let from = server.log().len();
    server.signal("HUP");
    server.wait_for_log(from, "the configuration is unchanged: ");
    server.wait_for_log(from, "it is a named pipe, and only a regular file is read");
    until("the file is gone", || ask(&server, "web.default.svc.cluster.local", A).0 != NOERROR);
    server.signal("TERM");
    server.ended_well();
}

#[test]
fn reads_named_pipes() {
    let (_folder, path) = folder();
    fs::write(path("web.yaml"), manifest([10, 1, 0, 1])).unwrap();
    fs::write(path("cluster"), kubeconfig(None, "")).unwrap();
    let web = path("web.yaml").display().to_string();
    let program = binary().display().to_string();
    let path_variable = std::env::var_os("PATH").unwrap();
    let bash = |line: &str| {
        let mut command = Command::new("bash");
        command.env_clear().env("PATH", &path_variable).args(["-c", line]).output().unwrap()
    };
    for line in [
        format!("{program} records --manifests <(cat {web})"),
        format!("cat {web} | {program} records --manifests /dev/stdin"),
        format!("cat {web} | {program} records --manifests -"),
    ] {
        let done = bash(&line);
        assert!(done.status.success() && String::from_utf8(done.stdout).unwrap().contains("10.1.0.1"), "{line}");
    }
    let line = format!("{program} records --kubeconfig <(cat {})", path("cluster").display());
    let done = bash(&line);
    assert!(errors(&done).contains("cannot list services: "), "the cluster is asked: {}", errors(&done));
}

#[test]
fn ignores_invalid_snapshot() {
    let (_folder, path) = folder();
    fs::write(path("cluster"), kubeconfig(None, "")).unwrap();
    File::create(path("snapshot")).unwrap().set_len(900 << 20).unwrap();
    let mut command = serve();
    command.args(["--listen", "127.0.0.1:0", "--admin", "none", "--kubeconfig"]).arg(path("cluster"));
    command.arg("--snapshot").arg(path("snapshot"));
    let mut server = Server::begin(command);
    server.wait_for_log(0, "is not used: the file is no snapshot, or of another version of headless-dns: delete it");
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kibibytes < 200 << 10, "{line}");
    server.signal("TERM");
    server.ended();
}

#[test]
fn names_unwritable_snapshot_folder_at_start() {
    let (_folder, path) = folder();
    fs::write(path("cluster"), kubeconfig(None, "")).unwrap();
    // In /proc no user creates a file: it is as good as read-only.
    for snapshot in [path("missing/snapshot"), "/proc/headless-dns-snapshot".into()] {
        let mut command = serve();
        command.args(["--listen", "127.0.0.1:0", "--admin", "none", "--kubeconfig"]).arg(path("cluster"));
        command.arg("--snapshot").arg(&snapshot);
        let mut server = Server::begin(command);
        let sentence = format!("cannot write a snapshot to {}, and the server continues without: ", snapshot.display());
        server.wait_for_log(0, &sentence);
        server.still_runs();
        server.signal("TERM");
        server.ended();
    }
    let folder = path("");
    let mut command = serve();
    command.args(["--listen", "127.0.0.1:0", "--kubeconfig"]).arg(path("cluster")).arg("--snapshot").arg(&folder);
    let mut refused = Server::begin(command);
    assert_eq!(refused.ended().code(), Some(2));
    assert!(refused.log().contains("it is a folder, and only a regular file is read"), "{}", refused.log());
}
