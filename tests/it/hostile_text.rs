//! Text from outside reaches no terminal and no log unescaped: hostile strings in every field of every kind of object, in file
//! names, in arguments, in the files of a machine, and in responses of servers.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;

use crate::common::server::{Server, WAIT_TIMEOUT, binary};
use crate::common::{self, http};
use headless_dns_core::escape::is_unprintable;
use serde_json::{Value, json};

/// A line of its own that looks like the program's, colours, a cursor, a title, bidirectional and invisible characters.
const HOSTILE: &str =
    "x\nFORGED\r\n\x1b[31m\x1b]0;t\x07\u{9b}2J\x08\t\x7f\u{85}\u{202e}\u{2066}\u{200b}\u{2028}\u{feff}\u{e0041}";

/// Asserts that a text has lines of the program only, and nothing in them that acts on a terminal.
#[track_caller]
fn assert_clean(what: &str, text: &[u8]) {
    let text = std::str::from_utf8(text).unwrap_or_else(|_| panic!("{what}: no UTF-8"));
    for line in text.lines() {
        // Between the fields of a zone file.
        let bad = line.chars().find(|letter| is_unprintable(*letter) && *letter != '\t');
        assert!(bad.is_none(), "{what}: {bad:?} in {line:?}");
        assert!(!line.trim_start().starts_with("FORGED"), "{what}: {line:?}");
    }
}

/// The program with these words, to its end.
#[track_caller]
fn check(words: &[&str]) -> String {
    check_command(Command::new(binary()).env_clear().args(words))
}

#[track_caller]
fn check_command(command: &mut Command) -> String {
    let shown = format!("{command:?}");
    let done = command.stdin(Stdio::null()).output().unwrap();
    assert!(done.status.code().is_some(), "{shown}");
    assert_clean(&format!("output of {shown}"), &done.stdout);
    assert_clean(&format!("errors of {shown}"), &done.stderr);
    String::from_utf8([done.stdout, done.stderr].concat()).unwrap()
}

/// Objects of every kind that is read, with every field that is.
fn objects() -> Vec<Value> {
    let meta = |name: &str| {
        json!({"name": name, "namespace": "default", "labels": {"app": "web", "kubernetes.io/service-name": "web"},
        "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"},
        "deletionTimestamp": "2026-01-01T00:00:00Z", "ownerReferences": [{"kind": "StatefulSet", "name": "web", "apiVersion": "apps/v1", "uid": "u"}]})
    };
    let container =
        json!({"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}]});
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"hostname": "h", "subdomain": "web",
        "containers": [container]}});
    let workload = |kind: &str, api: &str| {
        json!({"kind": kind, "apiVersion": api, "metadata": meta(kind), "spec": {
        "serviceName": "web", "replicas": 2, "completions": 2, "parallelism": 2, "completionMode": "Indexed",
        "selector": {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]},
        "template": template}})
    };
    let reference = json!({"kind": "Pod", "name": "web-0", "namespace": "default"});
    vec![
        json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "default"}, "status": {"phase": "Active"}}),
        json!({"kind": "Service", "apiVersion": "v1", "metadata": meta("web"), "spec": {"type": "ClusterIP", "clusterIP": "None",
            "clusterIPs": ["None"], "ipFamilies": ["IPv4"], "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http", "appProtocol": "h"}]}}),
        json!({"kind": "Service", "apiVersion": "v1", "metadata": meta("out"), "spec": {"type": "ExternalName", "externalName": "www.example.com"}}),
        json!({"kind": "Service", "apiVersion": "v1", "metadata": meta("ip"), "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.9"}}),
        json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": meta("web-1"), "addressType": "IPv4",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.1.0.1"], "hostname": "web-0", "nodeName": "n", "zone": "z", "targetRef": reference,
                "conditions": {"ready": true}}]}),
        json!({"kind": "Endpoints", "apiVersion": "v1", "metadata": meta("web"), "subsets": [{
            "addresses": [{"ip": "10.1.0.1", "hostname": "web-0", "nodeName": "n", "targetRef": reference}],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}]}),
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": meta("web-0"), "spec": template["spec"],
            "status": {"phase": "Running", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}], "conditions": [{"type": "Ready", "status": "True"}]}}),
        workload("StatefulSet", "apps/v1"),
        workload("Deployment", "apps/v1"),
        workload("ReplicaSet", "apps/v1"),
        workload("DaemonSet", "apps/v1"),
        workload("Job", "batch/v1"),
        json!({"kind": "List", "apiVersion": "v1", "items": []}),
    ]
}

/// Each copy of `value` in which one string, or one key, is hostile.
fn mutants(value: &Value) -> Vec<Value> {
    let hostile = |text: &str| format!("{text}{HOSTILE}");
    let mut all = Vec::new();
    match value {
        Value::String(text) => all.extend([Value::from(hostile(text)), Value::from(HOSTILE)]),
        Value::Number(_) | Value::Bool(_) => all.push(Value::from(HOSTILE)),
        Value::Null => {}
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                for mutant in mutants(item) {
                    let mut copy = items.clone();
                    copy[at] = mutant;
                    all.push(copy.into());
                }
            }
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                for mutant in mutants(field) {
                    let mut copy = fields.clone();
                    copy.insert(key.clone(), mutant);
                    all.push(copy.into());
                }
                let mut copy = fields.clone();
                copy.insert(hostile(key), field.clone());
                all.push(copy.into());
            }
        }
    }
    all
}

/// A folder of manifests: objects that are good beside each mutant, and files that cannot be read, with hostile names.
fn manifests() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let objects = objects();
    let mut text: String = objects.iter().map(|object| format!("{object}\n")).collect();
    let service = &objects[1];
    for (number, mutant) in objects.iter().flat_map(mutants).enumerate() {
        // Each beside a good Service, in a namespace of its own.
        for object in [service, &mutant] {
            text += &object.to_string().replace("\"default\"", &format!("\"n{number}\""));
            text.push('\n');
        }
    }
    fs::write(folder.path().join("all.json"), text).unwrap();
    let name = HOSTILE.replace('/', "");
    fs::write(folder.path().join(format!("{name}.yaml")), "kind: Service\nmetadata: {}\n").unwrap();
    fs::write(folder.path().join(format!("{name}.yml")), format!("kind: [\n{HOSTILE}: {{\n---\n*{HOSTILE}\n")).unwrap();
    // Errors that quote the text: an unknown alias, a tag, a key twice, a wrong number, JSON that ends too soon.
    for (at, bad) in
        ["*{}", "!{} [", "{\"{}\": ", "[{}", "\"{}", "&{} *{}", "%{}\n---\n", "? {}\n: -", "x: !!int \"{}\""]
            .iter()
            .enumerate()
    {
        let bad = bad.replace("{}", HOSTILE);
        fs::write(folder.path().join(format!("bad{at}.yaml")), &bad).unwrap();
        fs::write(folder.path().join(format!("escaped{at}.yaml")), bad.replace(HOSTILE, "\"\\e[31m\\n\\u202e\""))
            .unwrap();
    }
    folder
}

#[test]
fn escapes_objects_in_every_command_and_format() {
    let folder = manifests();
    let path = folder.path().to_str().unwrap();
    for (log, simulate) in [("text", "--simulate"), ("json", "--simulate=false")] {
        let common = ["--log-format", log, "--manifests", path];
        let with = |words: &[&str]| check(&[words, &common].concat());
        for output in ["zone", "json", "table"] {
            with(&["records", "-o", output, simulate]);
        }
        for output in ["text", "json"] {
            let shown = with(&["check", "-o", output, simulate]);
            assert!(shown.contains("FORGED"), "hostile names are shown, escaped: {shown}");
        }
        for name in ["web.n1", "web-0.web.n300", "never.n1", "_http._tcp.web.n200", "10.1.0.1"] {
            let output = if log == "text" { "text" } else { "json" };
            with(&["explain", "--simulate", "-o", output, name]);
        }
        with(&["records", "--endpoints-source", "endpoints"]);
        with(&["records", "--origin", "x.example"]);
    }
}

#[test]
fn escapes_objects_in_server() {
    let folder = manifests();
    for log in ["text", "json"] {
        let mut command = Command::new(binary());
        command.env_clear().args([
            "serve",
            "--log-format",
            log,
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--query-log",
            "all",
        ]);
        command.args(["--simulate", "--manifests"]).arg(folder.path());
        let mut server = Server::start(command);
        assert_clean("the banner", server.out().as_bytes());
        for name in [
            "web.default.svc.cluster.local",
            "never.default.svc.cluster.local",
            "_why.never.default.svc.cluster.local",
            "out.default.svc.cluster.local",
        ] {
            for qtype in [1, 16, 33] {
                let response =
                    exchange(server.address, &common::query(7, &common::question_name(name), qtype, Some(1232)));
                if let Some((_, text)) = common::extended(&response) {
                    assert_clean("an extended error", text.as_bytes());
                }
            }
        }
        let hostile = [&[5_u8][..], b"\x1b[31m", &[3], b"\n\x7f\x9b", &[0]].concat();
        exchange(server.address, &common::query(7, &hostile, 1, Some(1232)));
        let admin = server.admin().unwrap();
        for path in [
            "/readyz?verbose",
            "/",
            "/?name=never.default&namespace=default",
            "/api/v1/status",
            "/api/v1/explain?name=%1b%5b31m",
            "/api/v1/records?origin=%0aFORGED",
            "/%1b%5b31m",
        ] {
            let response = http::get(admin, path).unwrap();
            assert_clean(path, http::body(&response).replace("\r\n", "\n").as_bytes());
        }
        server.signal("TERM");
        server.ended_well();
        assert!(server.log().contains("FORGED"), "hostile names are logged, escaped");
        assert_clean("the log", server.log().as_bytes());
        assert_clean("the query log", server.out().as_bytes());
    }
}

#[test]
fn escapes_arguments_variables_and_files() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    for text in [
        format!("{:?} = 1\n", "x\u{1b}[31m"),
        "zone = \"a\\n\\u001b[31m\"\n".to_owned(),
        "ttl = \"\\n\\u001b[31m\\u202e\"\n".to_owned(),
        "ttl = \x1b[31m\n".to_owned(),
        "\"\\u001b\\n\" = 1\n".to_owned(),
    ] {
        fs::write(&config, text).unwrap();
        check(&["serve", "--demo", "--config", config.to_str().unwrap()]);
    }
    check(&["serve", "--config", HOSTILE]);
    check(&["config", "print", "--manifests", HOSTILE, "--kubeconfig", HOSTILE, "--context", HOSTILE]);
    for words in [
        &[
            "config",
            "print",
            "--manifests",
            HOSTILE,
            "--snapshot",
            HOSTILE,
            "--takeover",
            HOSTILE,
            "--tls-key",
            HOSTILE,
        ][..],
        &["config", "print", "--kubeconfig", HOSTILE, "--context", HOSTILE],
        &["records", "--kubeconfig", HOSTILE],
        &["records", "--context", HOSTILE],
        &["check", "--manifests", HOSTILE],
        &[HOSTILE],
        &["serve", HOSTILE],
        &["completions", HOSTILE],
        &["serve", "--demo", "--listen-tls", "127.0.0.1:0", "--tls-cert", HOSTILE, "--tls-key", HOSTILE],
        &["serve", "--demo", "--takeover", "/dev/null\n\x1b[31m/x"],
        &["explain", "--demo", HOSTILE],
        &["explain", "--demo", "a", HOSTILE],
        &["records", "--demo", "--origin", HOSTILE],
        &["records", "--server", HOSTILE],
        &["local", "doctor", "--name", HOSTILE],
    ] {
        check(words);
    }
    let options = check(&["config", "print"]);
    for option in options.lines().filter_map(|line| line.trim_start_matches("# ").split(' ').next()) {
        check(&["config", "print", &format!("--{option}={HOSTILE}")]);
        let variable = format!("HEADLESS_DNS_{}", option.to_uppercase().replace('-', "_"));
        check_command(Command::new(binary()).env_clear().env(&variable, HOSTILE).args(["config", "print"]));
    }
}

fn exchange(to: SocketAddr, message: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    socket.send(message).unwrap();
    let mut response = vec![0; 4096];
    let length = socket.recv(&mut response).unwrap();
    response.truncate(length);
    response
}

/// A DNS server that answers every query with hostile names and texts, in records and in an extended error.
fn hostile_dns() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut query = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut query) {
            let question_end = 12 + query[12..length].iter().position(|octet| *octet == 0).unwrap() + 5;
            let rcode = if query[question_end - 3] == 16 { 0 } else { 3 };
            let mut response = query[..question_end].to_vec();
            response[2..12].copy_from_slice(&[0x84, rcode, 0, 1, 0, 3, 0, 0, 0, 1]);
            let name: Vec<u8> = [&[7][..], b"\x1b[31m\n\x9b", &[0]].concat();
            let text: Vec<u8> = HOSTILE.bytes().collect();
            let txt = [&[text.len() as u8][..], &text].concat();
            for (rtype, data) in [(16_u8, &txt), (5, &name), (99, &text)] {
                response.extend([&name[..], &[0, rtype, 0, 1, 0, 0, 0, 9, 0, data.len() as u8], data].concat());
            }
            let ede = [&[0, 15, 0, text.len() as u8 + 2, 0, 0], &text[..]].concat();
            response.extend([&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, ede.len() as u8], &ede[..]].concat());
            let _ = socket.send_to(&response, client);
        }
    });
    address
}

/// An HTTP server that answers every request with this.
fn http(status: &'static str, body: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    address
}

#[test]
fn escapes_responses_of_servers() {
    let dns = hostile_dns().to_string();
    for output in ["text", "json"] {
        let shown = check(&["explain", "--server", &dns, "-o", output, "web.default"]);
        assert!(shown.contains("FORGED"), "{shown}");
    }
    let explained = json!({"name": "web.default.svc.cluster.local.", "type": "A", "rcode": HOSTILE, "resolves": false,
        "answer": [{"name": HOSTILE, "ttl": 1, "type": HOSTILE, "data": HOSTILE}],
        "steps": [{"what": HOSTILE, "holds": true, "text": HOSTILE}],
        "findings": [
            {"id": HOSTILE, "token": HOSTILE, "severity": HOSTILE, "text": HOSTILE, "objects": [], "ede": 0,
                "fix": {"kind": "command", "text": HOSTILE}},
            {"id": "D01", "token": "X", "severity": "cause", "text": "", "objects": [], "ede": 0,
                "fix": {"kind": "object", "text": format!("x\nEOF\nFORGED\n{}", HOSTILE.replace('\n', ""))}},
            {"id": "D01", "token": "X", "severity": "cause", "text": "", "objects": [], "ede": 0,
                "fix": {"kind": "advice", "text": HOSTILE}},
        ],
        "tried": [{"name": "web.default.svc.cluster.local.", "rcode": HOSTILE, "resolves": false}], "hints": [HOSTILE]});
    let explaining = format!("http://{}", http("200 OK", explained.to_string().into_bytes()));
    for output in ["text", "json"] {
        let shown = check(&["explain", "--server", &explaining, "-o", output, "web.default"]);
        assert!(shown.contains("FORGED"), "{shown}");
    }
    // A zone file has lines of its own: only their contents can be checked.
    let zone = [HOSTILE.replace("\nFORGED", "").as_bytes(), b"\xff\x9b\n"].concat();
    for (status, body) in [("200 OK", zone.clone()), ("503 x", zone), ("200 OK", b"\xe2\x80".to_vec())] {
        let records = format!("http://{}", http(status, body));
        for output in ["zone", "json", "table"] {
            check(&["records", "--server", &records, "-o", output]);
        }
        check(&["explain", "--server", &records, "web.default"]);
    }
    let machine = tempfile::tempdir().unwrap();
    let root = machine.path();
    for (path, text) in [
        ("etc/resolv.conf", format!("nameserver 127.0.0.1\nsearch {} a\n", HOSTILE.replace('\n', ""))),
        ("etc/nsswitch.conf", format!("hosts: mdns{} dns\n", HOSTILE.replace('\n', ""))),
        ("etc/resolver/cluster.local", format!("nameserver {HOSTILE}\n")),
    ] {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), text).unwrap();
    }
    let port = dns.split(':').next_back().unwrap();
    check(&["local", "doctor", "--server", &dns, "--root", root.to_str().unwrap(), "--resolver-port", port]);
}

#[test]
fn escapes_api_server_errors() {
    let folder = tempfile::tempdir().unwrap();
    let message = json!({"kind": "Status", "message": HOSTILE, "reason": HOSTILE, "code": 500});
    let server = http("500 x", message.to_string().into_bytes());
    let config = folder.path().join("config");
    fs::write(&config, kubeconfig(&format!("http://{server}"))).unwrap();
    check(&["records", "--kubeconfig", config.to_str().unwrap()]);
    check(&["explain", "web", "--kubeconfig", config.to_str().unwrap()]);
    for log in ["text", "json"] {
        let mut command = Command::new(binary());
        command
            .env_clear()
            .args(["serve", "--log-format", log, "--listen", "127.0.0.1:0", "--admin", "none", "--kubeconfig"])
            .arg(&config);
        let mut server = Server::begin(command);
        server.wait_for_log(0, "the API server is failing");
        server.signal("TERM");
        server.ended();
        assert_clean("the log", server.log().as_bytes());
    }
}

fn kubeconfig(url: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Config", "current-context": "fake",
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        "clusters": [{"name": "fake", "cluster": {"server": url}}], "users": [{"name": "fake", "user": {}}]})
    .to_string()
}
