//! The server behind a real CoreDNS: the snippets of `config/corefile`, each way to forward, with and without a cache.
//!
//! CoreDNS's block `.` has its own kubernetes plugin on the same API server, which answers names that are not forwarded. The
//! server's TTL is 7 and the plugin's is 5, so the TTL shows the responder, but for the cache of a snippet, which counts down.
//! Forwarded answers are compared, section by section, with the server's direct answers.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::control_plane::{ControlPlane, work_folder};
use super::kubelet::Kubelet;
use super::server::{CONVERGED, Server, headless_dns, record};
use super::{WAIT_TIMEOUT, until};

const TTL: u32 = 7;
/// TTL of CoreDNS's own plugin.
const THEIRS: u32 = 5;
const REVERSE: &str = "10.244.0.0/16,10.96.0.0/16";
/// Endpoints of the two large Services: the addresses of the first fit into a message over TCP, those of the second do not.
const LARGE: [(&str, usize); 2] = [("large", 1000), ("huge", 5000)];
/// A records of one name in 65,535 octets, behind a question of this length, with an OPT record: 16 octets each.
const MOST: usize = 4080;

const WORKLOAD: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: payments}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: payments}
spec:
  clusterIP: None
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web, namespace: payments}
spec:
  serviceName: web
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: front, namespace: payments}
spec: {clusterIP: 10.96.7.7, selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: inside, namespace: payments}
spec: {type: ExternalName, externalName: web.payments.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: payments}
spec: {type: ExternalName, externalName: db.example.test}
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: default}
spec: {clusterIP: 10.96.8.8, ports: [{name: http, port: 80}]}
"#;

/// Names below `payments.svc.cluster.local` and addresses, each with a type, and the rcode that is right.
const QUESTIONS: &[(&str, &str, &str)] = &[
    ("web", "A", "NOERROR"),
    ("web", "AAAA", "NOERROR"),
    ("web", "SRV", "NOERROR"),
    ("web", "MX", "NOERROR"),
    ("WEB", "A", "NOERROR"),
    ("web-0.web", "A", "NOERROR"),
    ("web-2.web", "AAAA", "NOERROR"),
    ("web-1.web", "SRV", "NOERROR"),
    ("_http._tcp.web", "SRV", "NOERROR"),
    ("_http._tcp.web", "A", "NOERROR"),
    ("_tcp.web", "SRV", "NOERROR"),
    ("front", "A", "NOERROR"),
    ("front", "AAAA", "NOERROR"),
    ("_http._tcp.front", "SRV", "NOERROR"),
    ("inside", "A", "NOERROR"),
    ("outside", "A", "NOERROR"),
    ("outside", "CNAME", "NOERROR"),
    ("nope", "A", "NXDOMAIN"),
    ("web-9.web", "A", "NXDOMAIN"),
    ("_nope._tcp.web", "SRV", "NXDOMAIN"),
    ("", "A", "NOERROR"),
    ("", "TXT", "NOERROR"),
];

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn coredns_forwards_equal_answers() {
    let plane = ControlPlane::start();
    let server = furnished(&plane);
    let mut compared = 0;
    for forward in ["", "force_tcp", "prefer_udp"] {
        for cached in [false, true] {
            for whole in [true, false] {
                let name = if whole { "whole-zone" } else { "one-namespace" };
                let blocks = [
                    snippet(name, server.address, forward, cached),
                    snippet("reverse", server.address, forward, false),
                ];
                let core = CoreDns::start(&plane, &blocks);
                let when = format!("{name}, {forward}, cache {cached}");
                compared += same_answers(&core, &server, &when);
                compared += large_answers(&core, &server, &when);
                who_answers(&core, whole, cached, &when);
            }
        }
    }
    println!("{compared} answers through CoreDNS are those of the server");
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn stub_resolvers_resolve_names() {
    let plane = ControlPlane::start();
    let server = furnished(&plane);
    let blocks = [snippet("whole-zone", server.address, "", false), snippet("reverse", server.address, "", false)];
    let core = CoreDns::start(&plane, &blocks);
    let port = core.address.port().to_string();
    let web = server.data("web-0.web.payments.svc.cluster.local", "A").remove(0);
    let six = server.data("web-0.web.payments.svc.cluster.local", "AAAA").remove(0);
    let nslookup =
        |args: &[&str]| said(Command::new("nslookup").arg(format!("-port={port}")).args(args).arg("127.0.0.1"));
    let busybox = |name: &str| said(Command::new("busybox").args(["nslookup", name, &format!("127.0.0.1:{port}")]));
    let name = "web-0.web.payments.svc.cluster.local";
    for (what, text) in [("nslookup", nslookup(&[name])), ("busybox nslookup", busybox(name))] {
        for address in [&web, &six] {
            assert!(text.contains(&format!("Address: {address}")), "{what}: no {address} in {text}");
        }
    }
    let all = nslookup(&["web.payments.svc.cluster.local"]);
    assert_eq!(all.matches("Name:\tweb.payments.svc.cluster.local").count(), 6, "{all}");
    for (what, text) in [("nslookup", nslookup(&[&web])), ("busybox nslookup", busybox(&web))] {
        assert!(text.contains(&format!("name = {name}")), "{what}: {text}");
    }
    let srv = nslookup(&["-type=SRV", "_http._tcp.web.payments.svc.cluster.local"]);
    assert!(srv.contains("service = 0 16 8080 web-0.web.payments.svc.cluster.local."), "{srv}");
    for (what, text) in [
        ("nslookup", nslookup(&["nope.payments.svc.cluster.local"])),
        ("busybox", busybox("nope.payments.svc.cluster.local")),
    ] {
        assert!(text.contains("NXDOMAIN"), "{what}: {text}");
    }
    // One family has addresses, the other has none: no failure of either.
    let one = busybox("front.payments.svc.cluster.local");
    assert!(one.contains("Address: 10.96.7.7") && !one.contains("find") && !one.contains("NXDOMAIN"), "{one}");
}

/// Before the server has read everything nothing is denied, and no cache keeps the failure.
#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn denies_no_name_before_sync() {
    let plane = ControlPlane::start();
    plane.apply(WORKLOAD);
    // It may not read anything yet.
    let server = Server::start(&plane.server_kubeconfig(), &["--reverse", REVERSE]);
    let cores =
        [false, true].map(|cached| CoreDns::start(&plane, &[snippet("whole-zone", server.address, "", cached)]));
    for core in &cores {
        for name in ["front", "nope"] {
            let response = &ask(core.address, &[question(name, "A", "")])[0];
            assert_eq!(response.rcode, "SERVFAIL", "{response:?}");
        }
    }
    // CoreDNS's cache drops the OPT record, and the reason with it.
    let reason = &ask(cores[0].address, &[question("front", "A", "+edns=0")])[0].ede;
    assert!(matches!(&reason[..], [reason] if reason.starts_with("14 (Not Ready): (")), "{reason:?}");
    plane.let_server_read();
    let server = server.synced();
    for core in &cores {
        let response = &ask(core.address, &[question("front", "A", "")])[0];
        assert_eq!((&*response.rcode, response.answer.len()), ("NOERROR", 1), "at once: {response:?}");
    }
    // A denial is not kept longer than its second either.
    let late = "late.payments.svc.cluster.local";
    for core in &cores {
        assert_eq!(ask(core.address, &[question("late", "A", "")])[0].rcode, "NXDOMAIN");
    }
    plane.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: late, namespace: payments}, \
         spec: {clusterIP: 10.96.9.9, ports: [{port: 80}]}}",
    );
    until("it is answered", CONVERGED, || {
        let data = server.data(late, "A");
        if data == ["10.96.9.9"] { Ok(()) } else { Err(format!("{data:?}")) }
    });
    assert_eq!(ask(cores[0].address, &[question("late", "A", "")])[0].rcode, "NOERROR", "without a cache");
    // Far less than the 5 s for which CoreDNS keeps denials unless it is told not to.
    until("the denial is forgotten", Duration::from_secs(3), || {
        let response = ask(cores[1].address, &[question("late", "A", "")]).remove(0);
        if response.rcode == "NOERROR" { Ok(()) } else { Err(format!("{response:?}")) }
    });
}

/// The way back: the block is taken out of the Corefile, and CoreDNS answers as before.
#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn removed_block_restores_coredns_answers() {
    let plane = ControlPlane::start();
    let server = furnished(&plane);
    let core = CoreDns::start(&plane, &[]);
    who_is(&core, "front.payments.svc.cluster.local", THEIRS);
    for _ in 0..2 {
        core.write_corefile(&plane, &[snippet("one-namespace", server.address, "", false)]);
        who_is(&core, "front.payments.svc.cluster.local", TTL);
        who_is(&core, "shop.default.svc.cluster.local", THEIRS);
        core.write_corefile(&plane, &[]);
        who_is(&core, "front.payments.svc.cluster.local", THEIRS);
    }
}

/// CoreDNS probes an upstream that failed with a question for the root's name servers, which is REFUSED here: that is an
/// answer, and the upstream is there.
#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn coredns_resumes_after_server_restart() {
    let plane = ControlPlane::start();
    plane.let_server_read();
    plane.apply(WORKLOAD);
    for forward in ["", "force_tcp"] {
        let server = Server::start::<&str>(&plane.server_kubeconfig(), &[]).synced();
        let address = server.address;
        let core = CoreDns::start(&plane, &[snippet("whole-zone", address, forward, false)]);
        let rcode = || ask(core.address, &[question("front", "A", "+tries=1")]).remove(0).rcode;
        assert_eq!(rcode(), "NOERROR", "{forward}");
        drop(server);
        // After two failed probes it is down.
        for _ in 0..5 {
            assert_eq!(rcode(), "SERVFAIL", "{forward}");
        }
        let mut command = headless_dns();
        command.args(["serve", "--listen", &address.to_string(), "--kubeconfig"]).arg(plane.server_kubeconfig());
        let _again = Server::run(command).synced();
        until("it is asked again", CONVERGED, || {
            let rcode = rcode();
            if rcode == "NOERROR" { Ok(()) } else { Err(rcode) }
        });
    }
}

/// The workload, ready, and the server that has read it.
fn furnished(plane: &ControlPlane) -> Furnished {
    plane.let_server_read();
    let kubelet = Kubelet::start(plane);
    kubelet.dual_stack(true);
    plane.apply(WORKLOAD);
    for (name, endpoints) in LARGE {
        plane.pipe(&["create", "-f", "-"], &large(name, endpoints));
    }
    let options = ["--ttl", &TTL.to_string(), "--reverse", REVERSE];
    let server = Server::start(&plane.server_kubeconfig(), &options).synced();
    until("everything is answered", CONVERGED, || {
        let web = server.data("web.payments.svc.cluster.local", "AAAA").len();
        let huge = server.data("huge.payments.svc.cluster.local", "A").len();
        if web == 3 && huge > 1000 { Ok(()) } else { Err(format!("{web} of web, {huge} of huge")) }
    });
    Furnished { server, _kubelet: kubelet }
}

struct Furnished {
    server: Server,
    _kubelet: Kubelet,
}

impl std::ops::Deref for Furnished {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// Returns a headless Service with `count` endpoints, in slices of 1,000, the maximum of one.
fn large(name: &str, endpoints: usize) -> String {
    let mut text = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: payments}}, \
         spec: {{clusterIP: None, ports: [{{name: http, port: 80}}]}}}}\n"
    );
    for slice in 0..endpoints.div_ceil(1000) {
        let _ = write!(
            text,
            "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: {name}-{slice}, \
             namespace: payments, labels: {{kubernetes.io/service-name: {name}}}}}, ports: [{{name: http, port: 80}}], endpoints: ["
        );
        for number in slice * 1000..endpoints.min((slice + 1) * 1000) {
            let second = if name == "huge" { 101 } else { 100 };
            let _ = write!(text, "{{addresses: [10.{second}.{}.{}]}},", number / 250, number % 250);
        }
        text.push_str("]}\n");
    }
    text
}

/// Every question through CoreDNS, with EDNS and without, over UDP and TCP, as it is answered directly.
fn same_answers(core: &CoreDns, server: &Server, when: &str) -> usize {
    let mut questions = Vec::new();
    let mut expected = Vec::new();
    let ordinal = server.data("web-0.web.payments.svc.cluster.local", "A").remove(0);
    // The last time from a cache, where there is one.
    for options in ["+noedns +notcp", "+bufsize=1232 +notcp", "+tcp", "+bufsize=1232 +notcp"] {
        for (name, rtype, rcode) in QUESTIONS {
            questions.push(question(name, rtype, options));
            expected.push(*rcode);
        }
        for (address, rcode) in [(&*ordinal, "NOERROR"), ("10.96.7.7", "NOERROR"), ("10.244.255.1", "NXDOMAIN")] {
            questions.push(format!("{} PTR {options}", in_addr(address)));
            expected.push(rcode);
        }
    }
    let direct = ask(server.address, &questions);
    let through = ask(core.address, &questions);
    for (((question, rcode), direct), through) in questions.iter().zip(expected).zip(&direct).zip(&through) {
        let what = format!("{when}: {question}\n{through:#?}\n{direct:#?}");
        assert_eq!(through.rcode, rcode, "{what}");
        assert_eq!(
            (&through.rcode, &through.answer, &through.authority),
            (&direct.rcode, &direct.answer, &direct.authority),
            "{what}"
        );
        assert_eq!(through.additional, direct.additional, "{what}");
        assert_eq!(through.has("tc"), direct.has("tc"), "{what}");
        assert!(through.ttls.iter().all(|ttl| *ttl <= TTL), "{what}");
    }
    questions.len()
}

fn large_answers(core: &CoreDns, server: &Server, when: &str) -> usize {
    let all: BTreeSet<String> = (0..5000).map(|number| format!("10.101.{}.{}", number / 250, number % 250)).collect();
    let questions = [
        question("large", "A", "+tcp"),
        question("huge", "A", "+tcp +ignore"),
        question("huge", "A", "+notcp +ignore +bufsize=1232"),
        question("huge", "A", "+notcp +ignore +noedns"),
        // dig comes back over TCP by itself.
        question("large", "A", "+notcp"),
    ];
    let (direct, through) = (ask(server.address, &questions), ask(core.address, &questions));
    for at in [0, 4] {
        assert_eq!((through[at].answer.len(), &through[at].answer), (1000, &direct[at].answer), "{when}");
        assert!(!through[at].has("tc"), "{when}");
    }
    for (at, least, size) in [(1, MOST, 65_535), (2, 60, 1232), (3, 25, 512)] {
        for response in [&through[at], &direct[at]] {
            let what =
                format!("{when}: {}: {} records, {} octets", questions[at], response.answer.len(), response.size);
            assert!(response.rcode == "NOERROR" && response.has("tc"), "{what}");
            assert!(response.answer.len() >= least && response.size <= size, "{what}");
            assert!(response.answer.iter().all(|(_, _, data)| all.contains(data)), "{what}");
        }
    }
    questions.len()
}

/// Checks that the server answers the forwarded names, and CoreDNS all others.
fn who_answers(core: &CoreDns, whole: bool, cached: bool, when: &str) {
    let elsewhere = "shop.default.svc.cluster.local. A +norecurse".to_owned();
    let responses = ask(core.address, &[question("front", "A", ""), elsewhere]);
    let ttls: Vec<&[u32]> = responses.iter().map(|response| &*response.ttls).collect();
    match (whole, cached) {
        // A cache counts down from 5.
        (_, true) => assert!(ttls.iter().all(|ttls| ttls.len() == 1 && ttls[0] <= THEIRS), "{when}: {responses:?}"),
        (true, false) => assert_eq!(ttls, [[TTL], [TTL]], "{when}"),
        (false, false) => assert_eq!(ttls, [[TTL], [THEIRS]], "{when}"),
    }
}

fn who_is(core: &CoreDns, name: &str, ttl: u32) {
    // A block appears when CoreDNS looks at its file, which it does every 2 s here, and its plugin has to read too.
    until(name, WAIT_TIMEOUT, || {
        let response = ask(core.address, &[format!("{name}. A")]).remove(0);
        if response.ttls == [ttl] { Ok(()) } else { Err(format!("{response:?}")) }
    });
}

fn question(name: &str, rtype: &str, options: &str) -> String {
    let dot = if name.is_empty() { "" } else { "." };
    format!("{name}{dot}payments.svc.cluster.local. {rtype} {options}")
}

fn in_addr(address: &str) -> String {
    let octets = address.parse::<Ipv4Addr>().unwrap().octets();
    format!("{}.{}.{}.{}.in-addr.arpa.", octets[3], octets[2], octets[1], octets[0])
}

/// A snippet of `config/corefile` as its reader would fill it in, with more for `forward`, and with the cache that the
/// one for the whole zone offers.
fn snippet(name: &str, server: SocketAddr, forward: &str, cached: bool) -> String {
    let read =
        |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/corefile").join(name));
    let text = read(name).unwrap();
    assert_eq!(text.matches("    forward . ADDRESS\n").count(), 1, "{text}");
    let mut lines = format!("    forward . {server} {{\n        {forward}\n    }}\n");
    if cached {
        // Code that is offered stands right behind its sign, or is indented: prose has one space.
        let whole = read("whole-zone").unwrap();
        let offered = whole.lines().filter_map(|line| line.strip_prefix("    #"));
        let offered: Vec<&str> = offered.filter(|rest| !rest.starts_with(' ') || rest.starts_with("    ")).collect();
        assert_eq!((offered[0], offered[1], offered.len()), ("loadbalance", "cache 5 {", 6), "{whole}");
        offered.iter().for_each(|line| lines += &format!("    {line}\n"));
    }
    text.replace("    forward . ADDRESS\n", &lines)
}

/// CoreDNS, running on a port of 127.0.0.1.
pub struct CoreDns {
    child: Child,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl CoreDns {
    /// Starts it with these blocks beside its block for everything else.
    pub fn start(plane: &ControlPlane, blocks: &[String]) -> Self {
        Self::start_with(plane, &Self::corefile(plane, blocks))
    }

    /// Starts it with a Corefile for port 53, in which each block has the line `errors`.
    ///
    /// # Panics
    ///
    /// If CoreDNS refuses the Corefile: with its log.
    pub fn start_with(plane: &ControlPlane, corefile: &str) -> Self {
        let mut tried = String::new();
        for _ in 0..5 {
            match Self::try_start(plane, corefile) {
                Ok(started) => return started,
                Err(log) => tried += &log,
            }
        }
        panic!("CoreDNS does not start:\n{tried}\n{corefile}");
    }

    fn try_start(plane: &ControlPlane, text: &str) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("coredns-").tempdir_in(work_folder()).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(20_000..32_000)));
        let log = File::create(folder.path().join("log")).unwrap();
        let corefile = folder.path().join("Corefile");
        fs::write(&corefile, on_loopback(text, address)).unwrap();
        let mut command = Command::new(plane.asset("coredns"));
        command.arg("-conf").arg(&corefile).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        fs::write(folder.path().join("coredns.pid"), child.id().to_string()).unwrap();
        let mut started = Self { child, address, folder };
        // Its own plugin waits for the API server before CoreDNS listens, for at most 5 s.
        until("CoreDNS listens", WAIT_TIMEOUT, || {
            if started.child.try_wait().unwrap().is_some() {
                return Ok(false);
            }
            // It says so once all its ports are its own: whoever takes a connection there may be another.
            let log = started.log();
            if !log.contains("\nCoreDNS-") {
                return Err(format!("it does not say so: {log}"));
            }
            TcpStream::connect(address).map(|_| true).map_err(|error| format!("{error}: {log}"))
        });
        match started.child.try_wait().unwrap() {
            Some(status) => Err(format!("{status}: {}", started.log())),
            None => Ok(started),
        }
    }

    /// Its file with these blocks.
    fn corefile(plane: &ControlPlane, blocks: &[String]) -> String {
        let kubeconfig = plane.admin_kubeconfig();
        let mut text = format!(
            ".:53 {{\n    errors\n    reload 2s 1s\n    kubernetes cluster.local in-addr.arpa ip6.arpa {{\n        \
             kubeconfig {} it\n    }}\n}}\n",
            kubeconfig.display()
        );
        blocks.iter().for_each(|block| text += block);
        text
    }

    fn write_corefile(&self, plane: &ControlPlane, blocks: &[String]) {
        let text = on_loopback(&Self::corefile(plane, blocks), self.address);
        fs::write(self.folder.path().join("Corefile"), text).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

/// A Corefile with each block on this address.
fn on_loopback(corefile: &str, address: SocketAddr) -> String {
    corefile
        .replace(":53 ", &format!(":{} ", address.port()))
        .replace("    errors\n", "    errors\n    bind 127.0.0.1\n")
}

impl Drop for CoreDns {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("CoreDNS's log:\n{}", self.log());
        }
    }
}

/// One response with its sections: owner, type and data of each record, without TTL and order. Names of questions are
/// in lower case: a server that compresses names keeps the question's case, others may not.
#[derive(Debug)]
struct Response {
    rcode: String,
    flags: Vec<String>,
    ede: Vec<String>,
    answer: BTreeSet<(String, String, String)>,
    authority: BTreeSet<(String, String, String)>,
    additional: BTreeSet<(String, String, String)>,
    /// Distinct TTLs of the answer section.
    ttls: Vec<u32>,
    size: usize,
}

impl Response {
    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|is| is == flag)
    }
}

/// The addresses that CoreDNS has for a name.
pub fn asked(core: &CoreDns, name: &str) -> Vec<String> {
    let response = ask(core.address, &[format!("{name}. A")]).remove(0);
    response.answer.into_iter().map(|(_, _, data)| data).collect()
}

/// The responses to these questions, each with options of dig behind it, in their order.
fn ask(server: SocketAddr, lines: &[String]) -> Vec<Response> {
    let mut command = Command::new("dig");
    command.args([&format!("@{}", server.ip()), "-p", &server.port().to_string()]);
    command.args(["+noall", "+comments", "+answer", "+authority", "+additional", "+stats", "+nocookie"]);
    command.args(["+tries=3", "+time=5"]).env("HOME", "/nonexistent");
    // Not as a batch file, in which dig does not mind `+tcp`.
    command.args(lines.iter().flat_map(|line| line.split_whitespace()));
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let responses: Vec<Response> = text.split(";; ->>HEADER<<- ").skip(1).map(read_response).collect();
    assert_eq!(responses.len(), lines.len(), "one response each: {text}");
    responses
}

fn read_response(text: &str) -> Response {
    let between =
        |from: &str, to: &str| text.split_once(from).and_then(|(_, rest)| rest.split_once(to)).map(|(is, _)| is);
    let mut response = Response {
        rcode: between("status: ", ",").unwrap().to_owned(),
        flags: between(";; flags: ", ";").unwrap().split_whitespace().map(ToOwned::to_owned).collect(),
        ede: text.lines().filter_map(|line| line.strip_prefix("; EDE: ").map(ToOwned::to_owned)).collect(),
        answer: BTreeSet::new(),
        authority: BTreeSet::new(),
        additional: BTreeSet::new(),
        ttls: Vec::new(),
        size: text.lines().find_map(|line| line.strip_prefix(";; MSG SIZE  rcvd: ")).unwrap().trim().parse().unwrap(),
    };
    let mut section = "";
    // The first line is the rest of the header's.
    for line in text.lines().skip(1) {
        if let Some(name) = line.strip_prefix(";; ").and_then(|line| line.strip_suffix(" SECTION:")) {
            section = name;
        }
        if line.starts_with(';') || line.is_empty() {
            continue;
        }
        let (owner, rtype, data) = record(line);
        let found = (owner.to_ascii_lowercase(), rtype, data.to_ascii_lowercase());
        match section {
            "ANSWER" => {
                let ttl = line.split_whitespace().nth(1).unwrap().parse().unwrap();
                if !response.ttls.contains(&ttl) {
                    response.ttls.push(ttl);
                }
                _ = response.answer.insert(found);
            }
            "AUTHORITY" => _ = response.authority.insert(found),
            "ADDITIONAL" => _ = response.additional.insert(found),
            other => panic!("{line} in the section {other:?}"),
        }
    }
    response
}

/// Returns the output of a command with any exit status: nslookup fails for a name that does not exist.
fn said(command: &mut Command) -> String {
    let output = command.env("HOME", "/nonexistent").output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
