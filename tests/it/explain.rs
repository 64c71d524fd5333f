//! `explain` and `check` on the command line, and the steps of the decision for every question of the scenarios.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::server::Server;
use crate::common::{self, ports};
use headless_dns::commands::open_manifests;
use headless_dns_core::diagnose::{DiagnosedQuery, ZoneVerdict, steps};
use headless_dns_core::name::{QueryName, WireName};
use headless_dns_core::rtype;
use headless_dns_core::zone::Lookup;
use serde_json::Value;

const SEED_3: &str = "tests/scenarios/seed-3.yaml";
const SEED_3_NAME: &str = "myapp-0.myapp-svc.default.svc.cluster.local";

struct CommandOutput {
    status: i32,
    output: String,
    errors: String,
}

/// The program in this repository's root with the words of `line`, and nothing in its environment.
fn run(line: &str) -> CommandOutput {
    run_with(line, "")
}

fn run_with(line: &str, input: &str) -> CommandOutput {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headless-dns"));
    command.env_clear().current_dir(env!("CARGO_MANIFEST_DIR")).args(line.split_whitespace());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that fails at once reads no input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    CommandOutput {
        status: output.status.code().unwrap(),
        output: String::from_utf8(output.stdout).unwrap(),
        errors: String::from_utf8(output.stderr).unwrap(),
    }
}

fn json(line: &str) -> Value {
    serde_json::from_str(&run(line).output).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn file_with(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("objects.yaml");
    fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn explains_and_fixes_seed_3() {
    let line = format!("explain --manifests {SEED_3} --simulate {SEED_3_NAME}");
    let explained = run(&line);
    assert_eq!((explained.status, explained.errors.as_str()), (1, ""), "{}", explained.output);
    let sentence =
        "StatefulSet default/myapp names Service myapp-svc, which does not exist; demo-svc selects its Pods\n";
    assert!(explained.output.contains(sentence), "{}", explained.output);
    let (_, yaml) = explained.output.split_once("kubectl apply -f - <<'EOF'\n").unwrap();
    let (yaml, _) = yaml.split_once("EOF\n").unwrap();
    let from_json = json(&format!("{line} -o json"));
    assert_eq!(from_json["findings"].as_array().map(Vec::len), Some(1), "{from_json:#}");
    let first = &from_json["findings"][0];
    assert_eq!((first["id"].as_str(), first["token"].as_str()), (Some("D12"), Some("STS-NO-SERVICE")));
    assert_eq!((&first["fix"]["kind"], &first["fix"]["text"]), (&"object".into(), &yaml.into()));
    let (_folder, path) = file_with(yaml);
    let mended = run(&format!("{line} --manifests {}", path.display()));
    assert_eq!(mended.status, 0, "{}{}", mended.output, mended.errors);
    assert!(mended.output.contains("NOERROR, it resolves"), "{}", mended.output);
    // `check` reports the cause before the fix, and nothing after it.
    let lint = format!("check --manifests {SEED_3} --simulate");
    let checked = run(&lint);
    assert_eq!(checked.status, 1, "{}", checked.output);
    assert!(checked.output.starts_with("StatefulSet default/myapp\n") && checked.output.contains(sentence));
    assert!(checked.output.contains(yaml) && checked.output.contains("1 error, "), "{}", checked.output);
    let mended = run(&format!("{lint} --manifests {}", path.display()));
    assert_eq!(mended.status, 0, "{}", mended.output);
}

/// Each block of a document that begins with `$ headless-dns explain` or `check` is the output of that command.
#[test]
fn documents_show_the_real_output() {
    for (document, command) in [("README.md", "explain"), ("docs/troubleshooting.md", "check")] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap();
        let blocks = text.split("```console\n").skip(1).map(|block| block.split("```").next().unwrap());
        let start = format!("$ headless-dns {command}");
        let mut shown = 0;
        for block in blocks.filter(|block| block.starts_with(&start)) {
            let (line, expected) = block.split_once('\n').unwrap();
            assert_eq!(run(line.strip_prefix("$ headless-dns ").unwrap()).output, expected, "{document}: {line}");
            shown += 1;
        }
        assert_eq!(shown, 1, "{document} shows {command}");
    }
}

/// A name that resolves fails no step, one that does not fails at least one.
#[test]
fn steps_agree_with_the_zone() {
    let mut asked_for = 0;
    for path in common::scenarios() {
        let Ok(questions) = fs::read_to_string(path.with_extension("dig")) else { continue };
        let text = fs::read_to_string(&path).unwrap();
        let mut source = open_manifests(&common::scenario_config(&path, &text), &[]);
        source.load();
        let (zone, asker) = (source.zone(), source.asker());
        for line in questions.lines().filter_map(|line| line.strip_prefix("$ dig ")) {
            let mut words = line.split_whitespace().filter(|word| !word.starts_with(['+', '-']));
            let Ok(name) = QueryName::parse(words.next().unwrap()) else { continue };
            let Ok(qtype) = rtype::parse(words.next().unwrap_or("A")) else { continue };
            let (outcome, absence, apex) = zone.look_up(&name, qtype, |lookup| match lookup {
                Lookup::Found(site, _) | Lookup::Cname(site, _) => (ZoneVerdict::Found, None, Some(site.apex.clone())),
                Lookup::NoData(site) => (ZoneVerdict::NoData, None, Some(site.apex.clone())),
                Lookup::NxDomain(site, absence) => (ZoneVerdict::NxDomain, absence, Some(site.apex.clone())),
                Lookup::NotInZone => (ZoneVerdict::NotInZone, None, None),
            });
            let asked = DiagnosedQuery { name: &name, qtype, outcome, absence };
            let steps = asker.with_view(|known| steps(known, &asked, apex.as_ref()));
            let failed = steps.iter().any(|step| step.passed == Some(false));
            assert_eq!(failed, outcome != ZoneVerdict::Found, "{}: {line}: {outcome:?}: {steps:#?}", path.display());
            asked_for += 1;
        }
    }
    assert!(asked_for > 100, "{asked_for} questions");
}

#[test]
fn completes_short_names() {
    for (line, status, name, tried) in [
        ("web", 0, "web.default.svc.cluster.local.", 1),
        ("web-0.web", 0, "web-0.web.default.svc.cluster.local.", 1),
        ("api.shop", 0, "api.shop.svc.cluster.local.", 2),
        ("api -n shop", 0, "api.shop.svc.cluster.local.", 1),
        ("api.shop.svc", 0, "api.shop.svc.cluster.local.", 3),
        ("web.default.svc.cluster.local", 0, "web.default.svc.cluster.local.", 4),
        ("web.default.svc.cluster.local.", 0, "web.default.svc.cluster.local.", 1),
        ("web-0.web.default.svc.cluster.local", 0, "web-0.web.default.svc.cluster.local.", 1),
        ("_http._tcp.web", 0, "_http._tcp.web.default.svc.cluster.local.", 1),
        // No name resolves: the one closest to the input.
        ("web-9.web", 1, "web-9.web.default.svc.cluster.local.", 4),
        ("apy.shop", 1, "apy.shop.svc.cluster.local.", 4),
        ("wbe", 1, "wbe.default.svc.cluster.local.", 4),
        ("web-9.web.default.svc.cluster.local", 1, "web-9.web.default.svc.cluster.local.", 4),
        ("web.", 1, "web.", 1),
        ("127.0.0.1", 1, "1.0.0.127.in-addr.arpa.", 1),
    ] {
        let line = format!("explain --demo -o json {line}");
        let said = run(&line);
        let explained: Value = serde_json::from_str(&said.output).unwrap();
        assert_eq!((said.status, explained["name"].as_str()), (status, Some(name)), "{line}: {explained:#}");
        assert_eq!(explained["tried"].as_array().map(Vec::len), Some(tried), "{line}: {explained:#}");
        assert_eq!(explained["resolves"], status == 0, "{line}");
        let failed = explained["steps"].as_array().unwrap().iter().any(|step| step["holds"] == false);
        assert_eq!(failed, status == 1, "{line}: {explained:#}");
        assert_eq!(explained["answer"].as_array().unwrap().is_empty(), status == 1, "{line}: {explained:#}");
    }
    let address = json("explain --demo web-0.web -o json")["answer"][0]["data"].as_str().unwrap().to_owned();
    let back = run(&format!("explain --demo {address}"));
    assert_eq!(back.status, 0, "{}", back.output);
    assert!(back.output.contains(" IN PTR web-0.web.default.svc.cluster.local.\n"), "{}", back.output);
}

/// Aliases resolve if they lead to addresses, or out of the zone; otherwise the finding has the cause.
#[test]
fn follows_aliases_as_answers_do() {
    for (name, status, token) in [
        ("outside", 0, "EXTERNALNAME-OUTSIDE"),
        ("dangling", 1, "EXTERNALNAME-DANGLING"),
        ("itself", 1, "EXTERNALNAME-LOOP"),
        ("tick", 1, "EXTERNALNAME-LOOP"),
        // Ten names of a chain that ends nowhere: from the third on it is followed to its end.
        ("hop1", 1, "EXTERNALNAME-LONG"),
        ("hop2", 1, "EXTERNALNAME-LONG"),
        ("hop3", 1, "EXTERNALNAME-DANGLING"),
        ("address", 1, "BAD-EXTERNALNAME"),
    ] {
        let line = format!("explain --log off --manifests tests/scenarios/externalname.yaml -o json {name}");
        let said = run(&line);
        let explained: Value = serde_json::from_str(&said.output).unwrap();
        assert_eq!((said.status, explained["findings"][0]["token"].as_str()), (status, Some(token)), "{explained:#}");
    }
}

#[test]
fn json_has_documented_fields() {
    let explained = json("explain --demo web-9.web -o json");
    let keys: Vec<&String> = explained.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["answer", "findings", "hints", "name", "rcode", "resolves", "steps", "tried", "type"]);
    let finding = explained["findings"].as_array().unwrap().iter().find(|finding| finding["id"] == "D16").unwrap();
    let keys: Vec<&String> = finding.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["ede", "fix", "id", "objects", "severity", "text", "token"]);
    assert_eq!(finding["objects"][0]["kind"], "StatefulSet");
    assert_eq!((&finding["severity"], &finding["ede"]), (&"cause".into(), &0.into()));
    assert_eq!((&explained["type"], &explained["rcode"]), (&"A".into(), &"NXDOMAIN".into()));
}

#[test]
fn unreadable_input_has_status_2() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("config");
    for (line, part) in [
        ("explain a..b --demo", "\"a..b\" is not a domain name: it has an empty label"),
        ("explain web-0.web:8080 --demo", "as it has a port or is a URL: ask for web-0.web"),
        ("explain a AXFR --demo", "\"AXFR\" is not a record type"),
        (&format!("explain a --kubeconfig {}", nowhere.display()), "headless-dns: cannot read the kubeconfig "),
        (&format!("check --kubeconfig {}", nowhere.display()), "headless-dns: cannot read the kubeconfig "),
        ("check --simulate", "headless-dns: --simulate is for manifests"),
        ("explain a. --server 127.0.0.1:1", "headless-dns: cannot query 127.0.0.1:1 over UDP: "),
    ] {
        let refused = run(line);
        assert_eq!((refused.status, refused.output.as_str()), (2, ""), "{line}: {}", refused.errors);
        assert!(refused.errors.contains(part), "{line}: {}", refused.errors);
    }
    // The name may be in the part that could not be parsed.
    let (_folder, path) = file_with("kind: Namespace\nmetadata: {name: shop}\n---\n{ no: [yaml\n");
    let broken =
        run(&format!("explain --log-format text --manifests {} web.default.svc.cluster.local.", path.display()));
    assert_eq!(broken.status, 2, "{}", broken.output);
    assert!(broken.errors.contains("document 2, line"), "{}", broken.errors);
    assert!(broken.output.contains("note: not everything could be read"), "{}", broken.output);
    let raw = run(&format!("explain --manifests {SEED_3} {SEED_3_NAME}"));
    assert!(raw.output.contains("note: these manifests have no endpoints: --simulate"), "{}", raw.output);
}

/// `explain` warns about the objects that the question touches, and about no others.
#[test]
fn explain_warns_about_objects_of_question_only() {
    let text = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80, name: http}]}}\n---\n\
                {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {clusterIP: 10.96.0.9, ports: [{port: 80}]}}";
    let (_folder, path) = file_with(text);
    for (name, warned) in [("a", true), ("b", false), ("_http._tcp.a", true), ("a.other.svc.cluster.local.", false)] {
        let explained = run(&format!("explain --log-format text --manifests {} {name}", path.display()));
        assert_eq!(
            explained.errors.contains("Service default/a: it has no `clusterIP`"),
            warned,
            "{name}: {}",
            explained.errors
        );
    }
}

/// `explain` warns about documents that cannot be read where the question is about their names.
#[test]
fn explain_warns_about_documents_of_question_only() {
    let text = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.8, ports: [{port: 80}]}}\n\
                ---\nkind: Service\nmetadata:\n  name: b\nspec: [\n---\nkind: [\n---\n\
                {apiVersion: v1, kind: Service, metadata: {name: c_d, namespace: d_e}}";
    let (_folder, path) = file_with(text);
    for (name, warned) in [
        ("a", &[][..]),
        // A document without a name may define the missing object.
        ("b", &["document 2, line", "document 3, line"]),
        ("other", &["document 3, line"]),
        ("b-0.a", &["document 2, line", "document 3, line"]),
    ] {
        let explained = run(&format!("explain --log-format text --manifests {} {name}", path.display()));
        let seen: Vec<&str> = explained.errors.lines().collect();
        let all = seen.len() == warned.len() && seen.iter().zip(warned).all(|(seen, part)| seen.contains(part));
        assert!(all, "{name}: {}", explained.errors);
    }
}

/// An object that the API server would refuse is an error, and nothing is answered from it.
#[test]
fn reports_invalid_objects_and_skips_them() {
    let text = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: none, ports: [{port: 80}]}}\n---\n\
                {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {clusterIP: 10.96.0.9, ports: [{port: 80}]}}";
    let (_folder, path) = file_with(text);
    let error = "document 1, line 1: Service default/a is invalid: spec.clusterIP \"none\" must be None or an IP \
                 address; it is left out";
    let commands = [("check", 1), ("records", 0), ("explain a", 2), ("explain b", 0)];
    for (command, status) in commands {
        let seen = run(&format!("{command} --log-format text --manifests {}", path.display()));
        assert_eq!(seen.status, status, "{command}: {}{}", seen.output, seen.errors);
        let is_shown = format!("{}{}", seen.output, seen.errors).contains(error);
        assert_eq!(is_shown, command != "explain b", "{command}: {}{}", seen.output, seen.errors);
        assert!(!seen.output.contains("a.default.svc.cluster.local.\t"), "{command}: {}", seen.output);
    }
    let server = Server::with(&format!("--manifests {}", path.display()));
    for (name, status) in [("a", 1), ("b", 0)] {
        let seen = run(&format!("explain {name}.default.svc.cluster.local. --server {}", server.address));
        assert_eq!(seen.status, status, "{name}: {}{}", seen.output, seen.errors);
    }
}

/// Reported findings: level, token, object.
type ExpectedFindings = &'static [(&'static str, &'static str, &'static str)];

/// Checks the findings about objects, with these options. There must be no other finding.
const LINT: &[(&str, &str, ExpectedFindings)] = &[
    (
        "{kind: Service, metadata: {name: a}, spec: {clusterIP: None, selector: {app: a}}}",
        "",
        &[("note", "NO-PORTS", "Service default/a")],
    ),
    (
        "{kind: Service, metadata: {name: a}, spec: {clusterIP: None, selector: {app: a}, ports: [{port: 80}]}}",
        "--simulate",
        &[("warning", "NO-ENDPOINTS", "Service default/a"), ("note", "PORT-UNNAMED", "Service default/a")],
    ),
    (
        "{kind: Service, metadata: {name: a}, spec: {ports: [{port: 80, name: http}]}}",
        "",
        &[("note", "NO-CLUSTER-IP", "Service default/a")],
    ),
    ("{kind: Service, metadata: {name: a}, spec: {ports: [{port: 80, name: http}]}}", "--simulate", &[]),
    (
        "{kind: Service, metadata: {name: a}, spec: {type: ExternalName, externalName: a.default.svc.cluster.local}}",
        "",
        &[("error", "EXTERNALNAME-LOOP", "Service default/a")],
    ),
    (
        "{kind: Service, metadata: {name: a}, spec: {type: ExternalName, externalName: b.default.svc.cluster.local}}",
        "",
        &[("error", "EXTERNALNAME-DANGLING", "Service default/a")],
    ),
    (
        "{kind: Service, metadata: {name: a}, spec: {type: ExternalName, externalName: example.com}}",
        "",
        &[("warning", "EXTERNALNAME-OUTSIDE", "Service default/a")],
    ),
    (
        "{kind: Service, metadata: {name: a}, spec: {type: ExternalName, externalName: 192.0.2.1}}",
        "",
        &[("error", "BAD-EXTERNALNAME", "Service default/a")],
    ),
    (
        "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: s}, spec: {template: {metadata: {labels: {app: a}}}}}",
        "",
        &[("warning", "STS-NO-SERVICENAME", "StatefulSet default/s")],
    ),
    (
        "{kind: Service, metadata: {name: a}, spec: {clusterIP: None, selector: {app: b}, ports: [{port: 80, name: http}]}}\n---\n\
         {apiVersion: apps/v1, kind: StatefulSet, metadata: {name: s}, spec: {serviceName: a, selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}}}}}",
        "",
        &[("error", "NO-ENDPOINTS", "Service default/a")],
    ),
    (
        "{kind: Service, metadata: {name: a}, spec: {clusterIP: None, selector: {app: a}, ports: [{port: 80, name: http}]}}\n---\n\
         {apiVersion: apps/v1, kind: StatefulSet, metadata: {name: r}, spec: {serviceName: a, template: {metadata: {labels: {app: a}}}}}\n---\n\
         {apiVersion: apps/v1, kind: StatefulSet, metadata: {name: s}, spec: {serviceName: a, selector: {matchLabels: {app: b}}, template: {metadata: {labels: {app: b}}}}}",
        "--simulate",
        &[("warning", "STS-NOT-SELECTED", "StatefulSet default/s")],
    ),
    (
        // An operator may set the label: the template alone is no error.
        "{kind: Service, metadata: {name: a}, spec: {clusterIP: None, selector: {app: a, role: primary}, ports: [{port: 80, name: http}]}}\n---\n\
         {apiVersion: apps/v1, kind: StatefulSet, metadata: {name: s}, spec: {serviceName: a, selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}}}}}",
        "",
        &[("note", "TEMPLATE-DIFFERS", "StatefulSet default/s")],
    ),
    (
        "{kind: Service, metadata: {name: a}, spec: {clusterIP: None, ports: [{port: 27017, name: db}]}}\n---\n\
         {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e, labels: {kubernetes.io/service-name: a}}, addressType: IPv4, ports: [{port: 27017}], endpoints: [{addresses: [10.0.0.1]}]}",
        "",
        &[("warning", "PORT-NOT-IN-SLICE", "Service default/a")],
    ),
    (
        "{kind: Service, metadata: {name: bar}, spec: {clusterIP: None, selector: {app: a}, ports: [{port: 80, name: http}]}}\n---\n\
         {apiVersion: v1, kind: Pod, metadata: {name: p, labels: {app: a}}, spec: {hostname: foo, subdomain: barr}}",
        "--simulate",
        &[("warning", "POD-SUBDOMAIN", "Pod default/p")],
    ),
    (
        "{kind: Service, metadata: {name: a}, spec: {clusterIP: None, selector: {app: a}, ports: [{port: 80, name: http}]}}\n---\n\
         {apiVersion: argoproj.io/v1alpha1, kind: Rollout, metadata: {name: r}, spec: {replicas: 2, template: {metadata: {labels: {app: a}}}}}",
        "--simulate",
        &[],
    ),
    (
        "{kind: Service, metadata: {name: a}, spec: {type: ExternalName, externalName: b.default.svc}}\n---\n\
         {kind: Service, metadata: {name: b}, spec: {clusterIP: 10.96.0.9, ports: [{port: 80, name: http}]}}",
        "",
        &[("warning", "EXTERNALNAME-SHORT", "Service default/a")],
    ),
    (
        "{kind: Service, metadata: {name: a}, spec: {type: ExternalName, externalName: b.default.cluster.local}}",
        "",
        &[("error", "EXTERNALNAME-DANGLING", "Service default/a")],
    ),
    (
        "{kind: Service, metadata: {name: a}, spec: {selector: {app: a}, ports: [{port: 80, name: http, targetPort: web}]}}\n---\n\
         {apiVersion: apps/v1, kind: StatefulSet, metadata: {name: s}, spec: {serviceName: a, template: {metadata: {labels: {app: a}}}}}",
        "--simulate",
        &[("note", "STS-NOT-HEADLESS", "StatefulSet default/s")],
    ),
    (
        "{kind: Service, metadata: {name: a}, spec: {clusterIP: None, selector: {app: a}, ports: [{port: 80, name: http, targetPort: web}]}}\n---\n\
         {apiVersion: apps/v1, kind: StatefulSet, metadata: {name: s}, spec: {serviceName: a, template: {metadata: {labels: {app: a}}}}}",
        "--simulate",
        &[("error", "NO-TARGET-PORT", "Service default/a")],
    ),
    (
        "{kind: Service, metadata: {name: a}, spec: {type: ExternalName, externalName: example.com}}\n---\n\
         {apiVersion: apps/v1, kind: StatefulSet, metadata: {name: s}, spec: {serviceName: a}}",
        "",
        &[
            ("error", "STS-EXTERNALNAME", "StatefulSet default/s"),
            ("warning", "EXTERNALNAME-OUTSIDE", "Service default/a"),
        ],
    ),
    (
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e}, addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}]}",
        "",
        &[("warning", "SLICE-OF-NOBODY", "EndpointSlice default/e")],
    ),
    (
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e, labels: {kubernetes.io/service-name: a}}, addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}]}",
        "",
        &[("error", "SLICE-NO-SERVICE", "EndpointSlice default/e")],
    ),
    (
        "{kind: Service, metadata: {name: a}, spec: {clusterIP: None, ports: [{port: 80, name: http}]}}\n---\n\
         {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e, labels: {kubernetes.io/service-name: a}}, addressType: IPv4, ports: [{name: http, port: 80}], endpoints: [{addresses: [10.0.0.1], conditions: {ready: false}}, {addresses: [11.0.0.1], conditions: {ready: false}}]}",
        "--reverse 10.0.0.0/8",
        &[("warning", "NONE-READY", "Service default/a"), ("warning", "OUTSIDE-REVERSE", "Service default/a")],
    ),
    (
        "{kind: Service, metadata: {name: a}, spec: {clusterIP: None, publishNotReadyAddresses: true, ports: [{port: 80, name: http}]}}\n---\n\
         {apiVersion: apps/v1, kind: StatefulSet, metadata: {name: s}, spec: {serviceName: a}}\n---\n\
         {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e, labels: {kubernetes.io/service-name: a}}, addressType: IPv4, ports: [{name: http, port: 80}], endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: s-0}, conditions: {ready: false}}]}",
        "",
        &[("note", "NO-HOSTNAME", "Service default/a"), ("note", "PUBLISHED-NOT-READY", "Service default/a")],
    ),
    (
        "{kind: Service, metadata: {name: a}, spec: {clusterIP: None, ports: [{port: 80, name: http}]}}\n---\n\
         {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e, labels: {kubernetes.io/service-name: a}}, addressType: FQDN, endpoints: [{addresses: [a.example]}]}",
        "",
        &[("error", "FQDN-SLICE", "EndpointSlice default/e")],
    ),
    (
        "{kind: Service, metadata: {name: a}, spec: {clusterIP: None, ports: [{port: 80, name: http}]}}\n---\n\
         {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e}, addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}]}",
        "",
        &[("error", "NO-SLICE", "Service default/a"), ("warning", "SLICE-OF-NOBODY", "EndpointSlice default/e")],
    ),
];

#[test]
fn check_reports_exact_findings() {
    for (objects, options, expected) in LINT {
        // Abridged objects of a cluster.
        let text = objects.replace("{kind: Service", "{apiVersion: v1, kind: Service");
        let text = text.replace("metadata: {name", "metadata: {uid: u, name");
        let (_folder, path) = file_with(&text);
        let said = run(&format!("check {options} -o json --manifests {}", path.display()));
        let checked: Value = serde_json::from_str(&said.output).unwrap();
        let found: Vec<(String, String, String)> = checked["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|finding| {
                let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
                let object = &finding["objects"][0];
                let [kind, namespace, name] = ["kind", "namespace", "name"].map(|key| object[key].as_str().unwrap());
                (text("level"), text("token"), format!("{kind} {namespace}/{name}"))
            })
            .collect();
        let shown: Vec<_> = found.iter().map(|(level, token, object)| (&**level, &**token, &**object)).collect();
        assert_eq!(shown, *expected, "{objects}\n{checked:#}");
        let errors = found.iter().filter(|(level, ..)| level == "error").count();
        let warnings = found.iter().filter(|(level, ..)| level == "warning").count();
        assert_eq!((&checked["errors"], &checked["warnings"]), (&errors.into(), &warnings.into()), "{objects}");
        assert_eq!(said.status, i32::from(errors > 0), "{objects}");
        let strict = run(&format!("check --strict {options} --manifests {}", path.display()));
        assert_eq!(strict.status, i32::from(errors + warnings > 0), "{objects}: {}", strict.output);
    }
}

#[test]
fn check_claims_nothing_about_unread_objects() {
    let set = "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: s, uid: u}, spec: {serviceName: a}}";
    let lint = |text: &str| {
        let said = run_with("check --manifests -", text);
        (said.status, said.output)
    };
    let (status, output) = lint(set);
    assert!(status == 1 && output.contains("STS-NO-SERVICE"), "{output}");
    // The Service may be the object that could not be parsed.
    for unread in ["{ no: [yaml", "{apiVersion: v1, kind: Service, metadata: {name: a_b}}"] {
        let (status, output) = lint(&format!("{set}\n---\n{unread}\n"));
        assert_eq!(status, 1, "{output}");
        assert!(output.starts_with("reading\n  error\n    standard input, document 2, line "), "{output}");
        assert!(!output.contains("STS-NO-SERVICE"), "{output}");
    }
    let bad_part = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e, uid: u}, addressType: IPv4, \
                    endpoints: [{addresses: [nowhere]}]}";
    let (status, output) = lint(bad_part);
    assert!(status == 1 && output.contains("the address \"nowhere\", which is no address"), "{output}");
    assert_eq!(run("check --demo").status, 0);
}

#[test]
fn queries_running_server() {
    let server = Server::with("--demo");
    let to = server.address;
    let found = run(&format!("explain web-0.web --server {to}"));
    assert_eq!(found.status, 0, "{}{}", found.output, found.errors);
    let record = "  web-0.web.default.svc.cluster.local. 5 IN A 10.";
    assert!(found.output.contains(record), "{}", found.output);
    assert_eq!(found.output, run(&format!("explain web-0.web --server {to}")).output, "the same each time");
    let outside = run(&format!("explain www.example.com. --server {to}"));
    assert_eq!(outside.status, 1);
    assert!(outside.output.contains("REFUSED") && outside.output.contains("Not Authoritative"), "{}", outside.output);
    let out_of_range = run(&format!("explain web-9.web --server {to}"));
    let told = "server STS-ORDINAL\n    StatefulSet default/web has replicas=3";
    assert!(out_of_range.output.contains(told), "{}", out_of_range.output);
    let unknown = run(&format!("explain nothing.shop.svc.cluster.local. --server {to}"));
    assert!(unknown.output.contains("server UNKNOWN\n    no cause is known for certain"), "{}", unknown.output);
    let silent = Server::with("--demo --explain-to none");
    let nothing = run(&format!("explain nothing.shop.svc.cluster.local. --server {}", silent.address));
    assert_eq!(nothing.status, 1);
    assert!(nothing.output.contains("note: the server gives no reason"), "{}", nothing.output);
}

/// A server that cuts each response over UDP, and explains over TCP: in an extended error, and at `_why`.
fn explaining_server() -> SocketAddr {
    let (tcp, udp) = ports::bind_both();
    let address = tcp.local_addr().unwrap();
    // Both threads end with the test's process.
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = udp.recv_from(&mut buffer) {
            // First a response with another ID: it is ignored.
            let mut stray = buffer[..length].to_vec();
            (stray[0], stray[2]) = (!stray[0], 0x84);
            udp.send_to(&stray, client).unwrap();
            buffer[2] |= 0x82;
            udp.send_to(&buffer[..length], client).unwrap();
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut query).unwrap();
            let response = explanation(&query);
            stream.write_all(&[&(response.len() as u16).to_be_bytes()[..], &response].concat()).unwrap();
        }
    });
    address
}

fn explanation(query: &[u8]) -> Vec<u8> {
    let mut response = query[..query.len() - 11].to_vec();
    response[2] |= 0x84;
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    if query[12..].starts_with(b"\x04_why") {
        for (index, said) in ["NOT-READY: web-0 is not ready", "NONE-READY: 0 of 3"].iter().enumerate() {
            response[7] = index as u8 + 1;
            let data = text(said);
            response.extend_from_slice(&[0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 0, 0, data.len() as u8]);
            response.extend_from_slice(&data);
        }
        response[11] = 0;
    } else {
        response[3] = 3;
        let error = [&[0, 0][..], b"NOT-READY: web-0 is not ready"].concat();
        response.extend_from_slice(&[
            0,
            0,
            41,
            4,
            208,
            0,
            0,
            0,
            0,
            0,
            error.len() as u8 + 4,
            0,
            15,
            0,
            error.len() as u8,
        ]);
        response.extend_from_slice(&error);
    }
    response
}

#[test]
fn shows_explanation_of_server_once() {
    let server = explaining_server();
    let line = format!("explain web-0.web.default.svc.cluster.local. -o json --server {server}");
    let explained = json(&line);
    let said: Vec<_> = explained["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| (finding["token"].as_str(), finding["text"].as_str(), finding["ede"].as_u64()))
        .collect();
    assert_eq!(
        said,
        [(Some("NOT-READY"), Some("web-0 is not ready"), Some(0)), (Some("NONE-READY"), Some("0 of 3"), None)],
        "{explained:#}"
    );
    assert_eq!((&explained["rcode"], &explained["hints"]), (&"NXDOMAIN".into(), &Value::Array(Vec::new())));
    assert!(WireName::parse(explained["name"].as_str().unwrap()).is_ok());
}
