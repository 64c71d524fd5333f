//! The program on the command line: help, exit statuses, the origin of values, the example files.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use headless_dns::config::DEMO;
use headless_dns_core::object::{Decoded, decode};

/// The program with the words of `line`, and nothing in its environment.
fn program(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headless-dns"));
    command.env_clear().args(line.split_whitespace());
    command
}

struct CommandOutput {
    status: i32,
    output: String,
    errors: String,
}

fn run(command: &mut Command) -> CommandOutput {
    let output = command.output().unwrap();
    CommandOutput {
        status: output.status.code().unwrap(),
        output: String::from_utf8(output.stdout).unwrap(),
        errors: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A file in a folder of its own; the folder goes with the first value.
fn file_with(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("headless-dns.toml");
    fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn prints_help_version_and_completions() {
    for (line, part) in [
        ("--version", concat!("headless-dns ", env!("CARGO_PKG_VERSION"))),
        ("--help", "Usage: headless-dns <COMMAND>"),
        ("serve --help", "[env: HEADLESS_DNS_ZONE_ALIAS=]"),
        ("records --help", "-o, --output <FORMAT>"),
        ("explain --help", "--server <[http://]ADDR[:PORT]>"),
        ("records --help", "--server <http://ADDR[:PORT]>"),
        ("check --help", "--strict"),
        ("config --help", "print"),
        ("completions bash", "complete -F _headless__dns"),
        ("completions zsh", "#compdef headless-dns"),
        ("config print", "zone = \"cluster.local\""),
    ] {
        let shown = run(&mut program(line));
        assert_eq!((shown.status, shown.errors.as_str()), (0, ""), "{line}");
        assert!(shown.output.contains(part), "{line}: {}", shown.output);
    }
    // A configuration is no matter of `completions`: a bad one does not keep a shell from starting.
    assert_eq!(run(program("completions bash").env("HEADLESS_DNS_CONFIG", "/nowhere")).status, 0);
    let records = run(&mut program("records --help")).output;
    assert!(records.contains("--listen") && !records.contains("--tcp-idle"), "{records}");
}

#[test]
fn rejects_unknown_variable() {
    for (variable, nearest) in [
        ("HEADLESS_DNS_TLL", "HEADLESS_DNS_TTL"),
        ("HEADLESS_DNS_ttl", "HEADLESS_DNS_TTL"),
        ("HEADLESS_DNS_ZONE_ALIASES", "HEADLESS_DNS_ZONE_ALIAS"),
        ("HEADLESS_DNS_CONFG", "HEADLESS_DNS_CONFIG"),
        ("HEADLESS_DNS_LISTEN-TLS", "HEADLESS_DNS_LISTEN_TLS"),
        // A port alone is no service link, which has a URL.
        ("HEADLESS_DNS_PORT", "HEADLESS_DNS_PTR"),
        ("HEADLESS_DNS_SERVICE_HOSTS", "HEADLESS_DNS_SERVICE"),
        ("HEADLESS_DNS_PORT_53_QUIC", "HEADLESS_DNS_LISTEN_QUIC"),
        ("HEADLESS_DNS_PORT_HTTP_TCP", ""),
        ("HEADLESS_DNS_TEST_SCALE", ""),
        ("HEADLESS_DNS_", ""),
    ] {
        for line in
            ["serve --demo", "records --demo", "explain --demo a", "check --demo", "config print", "local doctor"]
        {
            let refused = run(program(line).env(variable, "53").env("HEADLESS_DNS_TTL", "9"));
            let start =
                format!("headless-dns: environment {variable}: there is no such option; the nearest is {nearest}");
            assert_eq!((refused.status, refused.output.as_str()), (2, ""), "{line} {variable}");
            let end = if nearest.is_empty() { "" } else { "\n" };
            assert!(refused.errors.starts_with(&(start + end)), "{line} {variable}: {}", refused.errors);
            assert_eq!(refused.errors.lines().count(), 1, "{line} {variable}: {}", refused.errors);
        }
    }
    // The misspelt variable is the cause, and not the option that it leaves alone.
    let refused = run(program("config print --listen-tls ::1").env("HEADLESS_DNS_TLS_CRT", "c"));
    assert!(refused.errors.contains("the nearest is HEADLESS_DNS_TLS_CERT\n"), "{}", refused.errors);
    let refused = run(program("config print").env("HEADLESS_DNS_UPSTREAM", "::1"));
    let end = "HEADLESS_DNS_UPSTREAM: the variable was renamed: write HEADLESS_DNS_EXTERNAL_NAME_UPSTREAM\n";
    assert!(refused.status == 2 && refused.errors.ends_with(end), "{}", refused.errors);
    for line in ["--help", "serve --help", "--version", "completions bash"] {
        assert_eq!(run(program(line).env("HEADLESS_DNS_TLL", "9")).status, 0, "{line}");
    }
}

/// The kubelet sets them in every Pod of a namespace that has a Service of such a name, unless `enableServiceLinks` is
/// false (`kubernetes/pkg/kubelet/envvars`).
#[test]
fn ignores_service_link_variables() {
    let mut links = Vec::new();
    for service in ["HEADLESS_DNS", "HEADLESS_DNS_METRICS", "HEADLESS_DNS_LISTEN", "HEADLESS_DNS_PORT"] {
        for (host, shown) in [("10.96.0.53", "10.96.0.53"), ("fd00::53", "[fd00::53]")] {
            links.push((format!("{service}_SERVICE_HOST"), host.to_owned()));
            links.push((format!("{service}_SERVICE_PORT"), "53".to_owned()));
            links.push((format!("{service}_SERVICE_PORT_DNS"), "53".to_owned()));
            links.push((format!("{service}_SERVICE_PORT_DNS_TCP"), "53".to_owned()));
            links.push((format!("{service}_PORT"), format!("udp://{shown}:53")));
            for (port, protocol) in [("53", "udp"), ("53", "tcp"), ("9153", "tcp"), ("65535", "sctp")] {
                let link = format!("{service}_PORT_{port}_{}", protocol.to_uppercase());
                links.push((format!("{link}_PROTO"), protocol.to_owned()));
                links.push((format!("{link}_PORT"), port.to_owned()));
                links.push((format!("{link}_ADDR"), host.to_owned()));
                links.push((link, format!("{protocol}://{shown}:{port}")));
            }
        }
    }
    let shown = run(program("config print").envs(links));
    assert_eq!((shown.status, shown.errors.as_str()), (0, ""));
    assert!(!shown.output.contains("# environment"), "{}", shown.output);
}

#[test]
fn invalid_arguments_have_status_2() {
    for (line, part) in [
        ("", "Usage: headless-dns <COMMAND>"),
        ("serve --nonsense", "unexpected argument '--nonsense'"),
        ("serve --ttl soon", "\"soon\" is not a whole number of seconds from 0 to 86400"),
        ("serve --demo --manifests x", "headless-dns: --demo (flag) and --manifests (flag) exclude each other\n"),
        ("serve --demo --zone-alias a.cluster.local", "headless-dns: the zone alias a.cluster.local overlaps"),
        ("completions nonsense", "invalid value 'nonsense'"),
        ("serve --demo -l app=web", "headless-dns: --demo (flag) and --selector (flag) exclude each other\n"),
        ("serve -l app=,,", "\"app=,,\" is not a label selector: write app=web,"),
        (
            "serve -n team --service kube-system/dns",
            "headless-dns: --service kube-system/dns is not in the namespace team, of which alone --namespace",
        ),
    ] {
        let refused = run(&mut program(line));
        assert_eq!((refused.status, refused.output.as_str()), (2, ""), "{line}");
        assert!(refused.errors.contains(part), "{line}: {}", refused.errors);
    }
}

#[test]
fn looks_for_cluster_without_manifests() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("config");
    let missing = format!("headless-dns: cannot read the kubeconfig {}: ", nowhere.display());
    for (line, part) in [
        ("serve --listen 127.0.0.1:0", "headless-dns: no cluster to watch: "),
        ("records", "name files with --manifests, a cluster with --kubeconfig, or try --demo\n"),
        (&format!("records --kubeconfig {}", nowhere.display()), &missing),
        ("serve --simulate", "headless-dns: --simulate is for manifests: the workloads of a cluster have Pods\n"),
        ("records --context nonsense", "headless-dns: cannot use the kubeconfig's context nonsense: "),
    ] {
        let refused = run(program(line).env("HOME", folder.path()).env_remove("KUBERNETES_SERVICE_HOST"));
        assert_eq!((refused.status, refused.output.as_str()), (1, ""), "{line}");
        assert!(refused.errors.contains(part), "{line}: {}", refused.errors);
    }
}

#[test]
fn config_print_names_origin_of_values() {
    let (_folder, path) = file_with("zone = 'a.example'\nttl = 60\n\nptr = 'hostname-only'\nsimulate = true\n");
    let mut command = program("config print --ttl 7 --listen 127.0.0.1,[::1]:1053");
    command
        .env("HEADLESS_DNS_CONFIG", &path)
        .env("HEADLESS_DNS_TTL", "8")
        .env("HEADLESS_DNS_PTR", "all")
        .env("HEADLESS_DNS_ALLOW", "10.0.0.0/8,fd00::/8")
        .env("HEADLESS_DNS_ENDPOINT_POD_NAMES", "yes");
    let shown = run(&mut command);
    assert_eq!(shown.errors, "");
    let path = path.display();
    for (line, origin) in [
        ("ttl = 7", "flag".to_owned()),
        ("listen = [\"127.0.0.1:53\", \"[::1]:1053\"]", "flag".into()),
        ("ptr = \"all\"", "environment HEADLESS_DNS_PTR".into()),
        ("allow = [\"10.0.0.0/8\", \"fd00::/8\"]", "environment HEADLESS_DNS_ALLOW".into()),
        ("endpoint-pod-names = true", "environment HEADLESS_DNS_ENDPOINT_POD_NAMES".into()),
        ("zone = \"a.example\"", format!("file {path} line 1")),
        ("simulate = [\"10.244.0.0/16\"]", format!("file {path} line 5")),
        ("negative-ttl = 5", "default".into()),
        ("# service is not set", "default".into()),
    ] {
        let found = shown.output.lines().find(|shown| shown.starts_with(line)).unwrap_or_else(|| panic!("{line}"));
        assert_eq!(found[line.len()..].trim_start(), format!("# {origin}"), "{}", shown.output);
    }
}

#[test]
fn config_print_is_valid_configuration() {
    let line = "config print --demo --zone a.example --zone-alias b.example --allow 10.0.0.0/8 --workers 3 --ttl 0 \
                --service kube-system/dns --max-manifest-size 3K --log warn,headless_dns=debug --ns-address ::1";
    let first = run(&mut program(line)).output;
    let (_folder, path) = file_with(&first);
    let second = run(program("config print --config").arg(&path));
    assert_eq!(second.errors, "");
    assert_eq!(without_comments(&first), without_comments(&second.output));
}

#[test]
fn errors_name_file_or_variable() {
    for (text, sentence) in [
        (
            "zone = 'a.example'\nzone_alias = ['b.example']\n",
            "line 2: zone_alias: there is no such key; the nearest is zone-alias",
        ),
        ("\n\nttl = 'soon'\n", "line 3: ttl: \"soon\" is not a whole number of seconds from 0 to 86400"),
        ("listen = ['::1', 'nowhere']\n", "line 1: listen: \"nowhere\" is not an address to listen on: write"),
        ("zone = 'a\n", "line 1: "),
    ] {
        let (_folder, path) = file_with(text);
        let refused = run(program("config print --config").arg(&path));
        assert_eq!(refused.status, 2, "{text}");
        let start = format!("headless-dns: {}, {sentence}", path.display());
        assert!(refused.errors.starts_with(&start), "{text:?}: {}", refused.errors);
        assert_eq!(refused.errors.lines().count(), 1, "{text:?}: {}", refused.errors);
    }
    let refused = run(program("config print").env("HEADLESS_DNS_TTL", "soon"));
    let sentence =
        "headless-dns: environment HEADLESS_DNS_TTL: \"soon\" is not a whole number of seconds from 0 to 86400\n";
    assert_eq!((refused.status, refused.errors.as_str()), (2, sentence));
    let refused =
        run(program("config print --log-format text").env("HEADLESS_DNS_LOG", "inof").env("HEADLESS_DNS_CONFIG", ""));
    assert!(refused.errors.starts_with("headless-dns: environment HEADLESS_DNS_"), "{}", refused.errors);
    // The flag wins, so it is to blame.
    let refused = run(program("config print --ttl later").env("HEADLESS_DNS_TTL", "soon"));
    assert!(refused.errors.contains("\"later\" is not a whole number"), "{}", refused.errors);
}

// Builds with all features.
#[cfg(all(feature = "tls", feature = "https", feature = "quic"))]
#[test]
fn example_file_has_every_default() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/headless-dns.toml");
    let commented = fs::read_to_string(path).unwrap();
    let is_key = |line: &&str| line.starts_with('#') && line[1..].starts_with(|first: char| first.is_ascii_lowercase());
    let keys: Vec<_> = commented.lines().filter(is_key).map(|line| &line[1..]).collect();
    // Manifests and a cluster exclude each other.
    let without = |words: &[&str]| {
        let kept = keys.iter().filter(|line| !words.iter().any(|word| line.starts_with(&format!("{word} "))));
        let (_folder, path) = file_with(&kept.copied().collect::<Vec<_>>().join("\n"));
        let shown = run(program("config print --config").arg(&path));
        assert_eq!(shown.errors, "");
        shown
    };
    let of_clusters = ["kubeconfig", "context", "selector", "snapshot"];
    let example = without(&of_clusters);
    let of_a_cluster = without(&["manifests"]).output;
    for key in of_clusters {
        assert!(!of_a_cluster.contains(&format!("{key} is not set")), "{of_a_cluster}");
    }
    let defaults = run(&mut program("config print")).output;
    let examples = [
        "zone-alias",
        "reverse",
        "ns-address",
        "service",
        "manifests",
        "namespace",
        "workers",
        "forward",
        "forward-for",
        "external-name-upstream",
        "nsid",
        "admin",
        "admin-api",
        "takeover",
        "listen-tls",
        "listen-https",
        "listen-quic",
        "tls-cert",
        "tls-key",
    ];
    for (line, default) in without_comments(&example.output).iter().zip(without_comments(&defaults)) {
        let key = line.split(" = ").next().unwrap();
        assert!(examples.contains(&key) || *line == default, "the example has {line}, the default is {default}");
    }
    let known = defaults.lines().count();
    assert_eq!(keys.len(), known, "one line for each of the {known} keys: {keys:#?}");
    let left_out: Vec<_> = example.output.lines().filter(|line| line.contains("# default")).collect();
    assert_eq!(left_out.len(), of_clusters.len(), "every other key stands in the file: {left_out:#?}");
}

/// The lines of a configuration without where each came from.
fn without_comments(text: &str) -> Vec<String> {
    text.lines().map(|line| line.rsplit_once("  # ").map_or(line, |(line, _)| line).trim_end().to_owned()).collect()
}

#[test]
fn demo_is_valid() {
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(DEMO).unwrap();
    let objects: Vec<_> = documents
        .into_iter()
        .map(|document| match decode(document, "default").unwrap() {
            Decoded::Object(object, skipped) => {
                assert!(skipped.is_empty(), "{skipped:?}");
                format!("{} {}/{}", object.kind(), object.namespace(), object.name())
            }
            _ => panic!("every document is an object"),
        })
        .collect();
    assert_eq!(
        objects,
        [
            "Service default/web",
            "StatefulSet default/web",
            "Service default/search",
            "Service shop/api",
            "Deployment shop/api",
            "Service shop/api-public",
        ]
    );
}

#[test]
fn reports_incomplete_records() {
    let (_folder, path) = file_with("kind: Namespace\nmetadata: {name: shop}\n---\n{ no: [yaml\n");
    let broken = run(program("records --log-format text --manifests").arg(&path));
    assert_eq!(broken.status, 1, "{}", broken.errors);
    assert!(broken.errors.contains("document 2, line"), "{}", broken.errors);
    assert!(broken.output.contains("dns-version.cluster.local."), "what could be read is shown: {}", broken.output);
    let missing = run(&mut program("records --log-format text --manifests /nowhere/at/all.yaml"));
    assert_eq!((missing.status, missing.output.as_str()), (2, ""));
    assert!(missing.errors.contains("/nowhere/at/all.yaml: there is no such file"), "{}", missing.errors);
    assert_eq!(run(&mut program("records --demo")).status, 0);
}

#[test]
fn reports_ignored_endpoints_in_one_sentence() {
    let service = |name: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: None}}\n---\n")
    };
    let endpoints = |name: &str, subsets: &str| {
        format!("apiVersion: v1\nkind: Endpoints\nmetadata: {{name: {name}}}\nsubsets: {subsets}\n---\n")
    };
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: c-1, labels: \
                 {kubernetes.io/service-name: c}}\naddressType: IPv4\nendpoints: [{addresses: [192.0.2.9]}]\n---\n";
    let listed = "[{addresses: [{ip: 192.0.2.1}]}]";
    let manifest = [
        service("a") + &endpoints("a", listed),
        service("b") + &endpoints("b", listed),
        // A slice counts instead.
        service("c") + &endpoints("c", listed) + slice,
        // No address.
        service("d") + &endpoints("d", "[]"),
    ]
    .concat();
    let (_folder, path) = file_with(&manifest);
    let name = "a.default.svc.cluster.local. 5 IN A 192.0.2.1";
    for (options, counts) in [("", false), (" --simulate", true), (" --endpoints-source endpoints", true)] {
        let shown = run(program(&format!("records --log-format text{options} --manifests")).arg(&path));
        let sentences: Vec<&str> = shown.errors.lines().filter(|line| line.contains("are ignored")).collect();
        assert_eq!(
            shown.output.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") == name),
            counts
        );
        assert_eq!(sentences.len(), usize::from(!counts), "{}", shown.errors);
        if !counts {
            let start = "the Endpoints default/a and 1 more are ignored, because names are made of \
                         EndpointSlices: --simulate";
            assert!(sentences[0].contains(start), "{}", sentences[0]);
        }
    }
}

#[test]
fn simulates_named_families() {
    let manifest = "apiVersion: v1\nkind: Service\nmetadata: {name: web, uid: u}\nspec: {ipFamilyPolicy: PreferDualStack}\n---\n\
                    apiVersion: v1\nkind: Pod\nmetadata: {name: t, annotations: {helm.sh/hook: test}}\n";
    let (_folder, path) = file_with(manifest);
    for (options, types) in [
        ("--simulate", "A"),
        ("--simulate=fd00:10:244::/64", "AAAA"),
        ("--simulate --simulate=fd00:10:244::/64", "A AAAA"),
    ] {
        let shown = run(program(&format!("records {options} --manifests")).arg(&path));
        let addresses = shown.output.lines().filter(|line| line.starts_with("web."));
        let addresses: Vec<&str> = addresses.filter_map(|line| line.split_whitespace().nth(3)).collect();
        assert_eq!(addresses.join(" "), types, "{options}: {}", shown.output);
        let checked = run(program(&format!("check -o json {options} --manifests")).arg(&path));
        let report: serde_json::Value = serde_json::from_str(&checked.output).unwrap();
        assert_eq!((&report["errors"], &report["warnings"], &report["notes"]), (&0.into(), &0.into(), &1.into()));
        assert!(checked.output.contains("Pod default/t: Helm runs it as a hook"), "{}", checked.output);
    }
}
