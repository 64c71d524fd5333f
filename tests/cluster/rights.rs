//! Permissions that `config/` gives the server, on the real API server: least privilege, and a Pod that finds its cluster with
//! them. `install.rs` has the rest of the installation.
//!
//! The server runs as the user of its ServiceAccount. An unneeded permission fails a test twice: nothing fails without it, and
//! the list of the user's permissions has one line too many. `docs/sources.md` gives the reasons.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::common::http;
use super::control_plane::{ControlPlane, SERVER_USER};
use super::kubelet::Kubelet;
use super::server::{Server, headless_dns};
use super::{WAIT_TIMEOUT, until};

/// The namespace of [`SERVER_USER`].
pub const NAMESPACE: &str = "headless-dns";
/// Name of the Deployment's Pod.
const POD: &str = "headless-dns-7c9d8f5b6d-x2x4z";

/// A Service `web` with three ordinals, of which the last waits for a Node, and a namespace where nothing is.
const WORKLOAD: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: web
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
      containers:
      - name: web
        image: web
        securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
"#;

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn cluster_role_has_least_privileges() {
    let plane = ControlPlane::start();
    let kubelet = Kubelet::start(&plane);
    plane.kubectl(&["apply", "-k", folder("config/base").to_str().unwrap()]);
    plane.kubectl(&["create", "namespace", "empty"]);
    run_workload(&plane, &kubelet, "default");
    let allowed =
        [("", "services"), ("", "namespaces"), ("apps", "statefulsets"), ("discovery.k8s.io", "endpointslices")];
    for namespace in ["default", NAMESPACE, "kube-system"] {
        may_do(&plane, namespace, &allowed);
    }
    let all = Seen { answered: true, empty: Some("NOERROR"), expected_for: Some(1) };
    let options = &["--ordinals=ready"];
    each_rule(&plane, "clusterrole/headless-dns", options, "default", all, |resource| match resource {
        "services" | "endpointslices" => Seen { answered: false, empty: Some("SERVFAIL"), expected_for: None },
        "namespaces" => Seen { empty: Some("NXDOMAIN"), ..all },
        "statefulsets" => Seen { expected_for: Some(5), ..all },
        _ => panic!("nobody said what {resource} is for"),
    });
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn role_has_least_privileges() {
    let plane = ControlPlane::start();
    let kubelet = Kubelet::start(&plane);
    plane.kubectl(&["create", "namespace", NAMESPACE]);
    plane.kubectl(&["create", "namespace", "empty"]);
    plane.kubectl(&["apply", "-k", namespaced_in(&plane, NAMESPACE).to_str().unwrap()]);
    run_workload(&plane, &kubelet, NAMESPACE);
    let allowed = [("", "services"), ("apps", "statefulsets"), ("discovery.k8s.io", "endpointslices")];
    may_do(&plane, NAMESPACE, &allowed);
    for namespace in ["default", "kube-system", "empty"] {
        may_do(&plane, namespace, &[]);
    }
    let options = ["--namespace", NAMESPACE];
    // The other namespace is no business of this server.
    let all = Seen { answered: true, empty: Some("REFUSED"), expected_for: Some(1) };
    let role = format!("role/headless-dns --namespace {NAMESPACE}");
    each_rule(&plane, &role, &options, NAMESPACE, all, |resource| match resource {
        "services" | "endpointslices" => Seen { answered: false, expected_for: None, ..all },
        "statefulsets" => Seen { expected_for: Some(5), ..all },
        _ => panic!("nobody said what {resource} is for"),
    });
}

/// The Pod as the kubelet would start it: the image's files and no others, the Pod's arguments and environment, its
/// user, the ServiceAccount's token and the API server's address where a Pod finds them.
#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn pod_uses_in_cluster_configuration() {
    let plane = ControlPlane::start();
    let kubelet = Kubelet::start(&plane);
    let root = image_of(&plane);
    plane.apply(&fs::read_to_string(folder("config/base/namespace.yaml")).unwrap());
    run_workload(&plane, &kubelet, NAMESPACE);
    // R6: in a cluster all private networks, of which one namespace does not tell everything.
    let flavours = [(folder("config/base"), "NXDOMAIN"), (namespaced_in(&plane, NAMESPACE), "REFUSED")];
    for (kustomization, nobodys) in flavours {
        plane.kubectl(&["apply", "-k", kustomization.to_str().unwrap()]);
        let server = Server::run(as_its_pod(&plane, &root)).synced();
        assert!(!server.log().contains("does not allow"), "{}", server.log());
        has_no_privileges(&server);
        probes_succeed(&plane, &server);
        assert!(says_which_it_is(&server).contains(&format!("(\"{POD}\")")), "{}", says_which_it_is(&server));
        assert!(server.out().contains(&format!("source  {}/", plane.url())), "{}", server.out());
        assert_eq!(server.data(&format!("web.{NAMESPACE}.svc.cluster.local"), "A").len(), 2);
        // N17: the Service in front.
        let service = get(&plane, NAMESPACE, "service/headless-dns");
        assert_eq!(server.data("ns.dns.cluster.local", "A"), [service["spec"]["clusterIP"].as_str().unwrap()]);
        assert_eq!(server.ask("1.0.16.172.in-addr.arpa", "PTR").rcode.as_deref(), Some(nobodys));
        ends_in_time(&plane, server);
        let rights = ["clusterrole", "clusterrolebinding", "deployment", "service"];
        for kind in rights {
            plane.kubectl(&["delete", kind, "headless-dns", "-n", NAMESPACE, "--ignore-not-found"]);
        }
    }
}

/// Creates the files of the image, and those that the kubelet adds for the ServiceAccount.
fn image_of(plane: &ControlPlane) -> PathBuf {
    let root = plane.folder().join("root");
    let binary = PathBuf::from(headless_dns().get_program());
    let filled = Command::new(folder("config/image-root")).arg(&binary).arg(&root).status().unwrap();
    assert!(filled.success());
    let account = root.join("var/run/secrets/kubernetes.io/serviceaccount");
    fs::create_dir_all(&account).unwrap();
    fs::copy(plane.ca(), account.join("ca.crt")).unwrap();
    fs::write(account.join("token"), "server-token").unwrap();
    fs::write(account.join("namespace"), NAMESPACE).unwrap();
    root
}

/// The one container of the Deployment's Pods.
fn as_its_pod(plane: &ControlPlane, root: &Path) -> Command {
    let deployment = get(plane, NAMESPACE, "deployment/headless-dns");
    let pod = &deployment["spec"]["template"]["spec"];
    let (user, container) = (&pod["securityContext"], &pod["containers"][0]);
    let mut command = in_root(root, &format!("{}:{}", user["runAsUser"], user["runAsGroup"]));
    command.arg("/headless-dns").args(container["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    for (name, value) in environment(container) {
        command.env(name, value);
    }
    let url = plane.url();
    let (host, port) = url.strip_prefix("https://").unwrap().split_once(':').unwrap();
    command.env("KUBERNETES_SERVICE_HOST", host).env("KUBERNETES_SERVICE_PORT", port);
    // All that is not the Pod's: there are other servers on this machine.
    command.env("HEADLESS_DNS_LISTEN", "127.0.0.1:0").env("HEADLESS_DNS_ADMIN", "127.0.0.1:0");
    command
}

/// No capability, no way to one, and a read-only root. The system calls that a seccomp profile leaves
/// is the container engine's to show.
fn has_no_privileges(server: &Server) {
    let process = PathBuf::from(format!("/proc/{}", server.process_id()));
    let status = fs::read_to_string(process.join("status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    if is_root() {
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!((field("Uid:"), field("Groups:")), ("65532 65532 65532 65532".into(), String::new()));
        assert_eq!(field("NoNewPrivs:"), "1");
    }
    let mounts = fs::read_to_string(process.join("mountinfo")).unwrap();
    let root = fs::read_link(process.join("root")).unwrap();
    // proc(5): the mount point is the fifth column, its options are the sixth.
    let options = mounts.lines().find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        (Path::new(columns[4]) == root || columns[4] == "/").then(|| columns[5].to_owned())
    });
    assert!(options.as_deref().is_some_and(|options| options.starts_with("ro,")), "{root:?}: {mounts}");
}

/// As the kubelet asks: at the path of each probe, on the port that it names.
fn probes_succeed(plane: &ControlPlane, server: &Server) {
    let container = &get(plane, NAMESPACE, "deployment/headless-dns")["spec"]["template"]["spec"]["containers"][0];
    for kind in ["livenessProbe", "readinessProbe"] {
        let port = container["ports"]
            .as_array()
            .unwrap()
            .iter()
            .find(|port| port["name"] == container[kind]["httpGet"]["port"]);
        assert_eq!(port.unwrap()["containerPort"], 9153, "{kind}");
        until(kind, WAIT_TIMEOUT, || probe(container, kind, admin_of(server)).map(|_| ()));
    }
    // What the Deployment really names: an address that the kubelet and who scrapes can reach.
    let variables = environment(container);
    let named = |name: &str| variables.iter().find(|(is, _)| is == name).map(|(_, value)| value.clone());
    assert_eq!(named("HEADLESS_DNS_ADMIN").as_deref(), Some("0.0.0.0:9153"));
    assert_eq!(named("HEADLESS_DNS_ADMIN_API"), None, "the names of the cluster are not for everyone");
}

/// The admin listener, beside the one for queries.
fn admin_of(server: &Server) -> SocketAddr {
    server.tcp_listeners().into_iter().find(|at| *at != server.address).expect("an admin listener")
}

/// Runs a container's probe at this address; the error is the response.
fn probe(container: &Value, kind: &str, at: SocketAddr) -> Result<String, String> {
    let path = container[kind]["httpGet"]["path"].as_str().unwrap();
    let said = http::get(at, path).map_err(|error| error.to_string())?;
    if said.starts_with("HTTP/1.1 200 ") { Ok(said) } else { Err(said) }
}

/// At SIGTERM it is not ready any more, and answers while the nodes forget it; it ends before the kubelet kills it.
fn ends_in_time(plane: &ControlPlane, mut server: Server) {
    let pod = &get(plane, NAMESPACE, "deployment/headless-dns")["spec"]["template"]["spec"];
    let (container, admin) = (&pod["containers"][0], admin_of(&server));
    let begun = Instant::now();
    let told = Command::new("kill").arg(server.process_id().to_string()).status().unwrap();
    assert!(told.success());
    until("it says that it is not ready", WAIT_TIMEOUT, || match probe(container, "readinessProbe", admin) {
        Err(said) if said.starts_with("HTTP/1.1 503 ") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    probe(container, "livenessProbe", admin).expect("nobody kills it meanwhile");
    assert_eq!(server.ask("cluster.local", "SOA").rcode.as_deref(), Some("NOERROR"), "it still answers");
    let ended = until("it ends", WAIT_TIMEOUT, || server.ended().ok_or("it runs"));
    let grace = Duration::from_secs(pod["terminationGracePeriodSeconds"].as_u64().unwrap());
    assert!(ended.success() && begun.elapsed() < grace, "{ended} after {:?}, of {grace:?}", begun.elapsed());
}

/// RFC 5001: which replica answered.
fn says_which_it_is(server: &Server) -> String {
    let output = Command::new("dig")
        .args([&format!("@{}", server.address.ip()), "-p", &server.address.port().to_string()])
        .args(["+nsid", "+tries=1", "cluster.local", "SOA"])
        .output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

/// Returns the environment of a container; `$(NAME)` is an earlier variable.
fn environment(container: &Value) -> Vec<(String, String)> {
    let mut known: Vec<(String, String)> = Vec::new();
    for variable in container["env"].as_array().unwrap() {
        let value = match variable["value"].as_str() {
            Some(value) => {
                known.iter().fold(value.to_owned(), |text, (name, is)| text.replace(&format!("$({name})"), is))
            }
            None => {
                let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str().unwrap();
                let fields = [("metadata.namespace", NAMESPACE), ("metadata.name", POD)];
                let value = fields.iter().find(|(is, _)| *is == field);
                value.unwrap_or_else(|| panic!("{field} is unknown")).1.to_owned()
            }
        };
        known.push((variable["name"].as_str().unwrap().to_owned(), value));
    }
    known
}

/// A command in another root that is mounted for reading only: as `user` if we may, as the root of a user namespace of
/// our own if not.
fn in_root(root: &Path, user: &str) -> Command {
    let mount = r#"mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@""#;
    let mut command = Command::new("unshare");
    if !is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--mount", "sh", "-euc", mount, "sh"]).arg(root);
    if is_root() {
        command.args(["setpriv", "--no-new-privs", "chroot", &format!("--userspec={user}"), "--groups="]).arg(root);
    } else {
        command.arg("chroot").arg(root);
    }
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// Three ordinals, two of them ready and one of them without a Node.
fn run_workload(plane: &ControlPlane, kubelet: &Kubelet, namespace: &str) {
    kubelet.hold_pending(namespace, "web-2", true);
    plane.pipe(&["apply", "-n", namespace, "-f", "-"], WORKLOAD);
    until("two ordinals", WAIT_TIMEOUT, || {
        let slices = get(plane, namespace, "endpointslices");
        let endpoints = slices["items"].as_array().unwrap().iter().flat_map(|slice| slice["endpoints"].as_array());
        let ready = endpoints
            .flatten()
            .filter(|endpoint| endpoint["conditions"]["ready"] == true && endpoint["hostname"].is_string());
        let pods = get(plane, namespace, "pods");
        let named = pods["items"].as_array().unwrap().iter().any(|pod| pod["metadata"]["name"] == "web-2");
        if ready.count() == 2 && named { Ok(()) } else { Err(slices.to_string()) }
    });
}

/// Observed state of a server with limited permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// The names of the Service and of an ordinal have addresses.
    answered: bool,
    /// Response for the namespace `empty`.
    empty: Option<&'static str>,
    /// For how many seconds the ordinal that has no Node yet is denied.
    expected_for: Option<u32>,
}

/// Starts a server with the whole role, and one without each of its rules, and sees what they show.
fn each_rule(
    plane: &ControlPlane,
    role: &str,
    options: &[&str],
    namespace: &str,
    with_all: Seen,
    without: impl Fn(&str) -> Seen,
) {
    let get: Vec<&str> = ["get", "-o", "json"].into_iter().chain(role.split(' ')).collect();
    let mut whole: Value = serde_json::from_str(&plane.kubectl(&get)).unwrap();
    // The rule is restored by its content, not by its version.
    whole["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let rules = whole["rules"].as_array().unwrap().clone();
    let server = Server::start(&plane.server_kubeconfig(), options).synced();
    sees(&server, namespace, with_all, "with the whole role");
    let log = server.log();
    assert!(!log.contains("does not allow") && !log.contains("cannot follow"), "{log}");
    for (at, rule) in rules.iter().enumerate() {
        let resource = rule["resources"][0].as_str().unwrap();
        assert_eq!((rule["resources"].as_array().unwrap().len(), &rule["verbs"]), (1, &json!(["list", "watch"])));
        for left in [json!([]), json!(["list"]), json!(["watch"])] {
            let mut role = whole.clone();
            match left.as_array().unwrap().is_empty() {
                true => _ = role["rules"].as_array_mut().unwrap().remove(at),
                false => role["rules"][at]["verbs"] = left.clone(),
            }
            let has = |verb: &str| left.as_array().unwrap().iter().any(|left| left == verb);
            replace_role(plane, &role, namespace, resource, [has("list"), has("watch")]);
            if !has("list") {
                cannot_list(plane, options, resource);
            }
            // A stream that begins with everything needs no list; the probe of the version and older API servers do.
            if has("watch") {
                continue;
            }
            let expected = without(resource);
            let server = Server::start(&plane.server_kubeconfig(), options);
            let denied = format!("the API server does not allow `watch` on {resource}");
            until("the server says what it may not do", WAIT_TIMEOUT, || {
                let log = server.log();
                if log.contains(&denied) { Ok(()) } else { Err(log) }
            });
            let server = if expected.answered { server.synced() } else { server };
            sees(&server, namespace, expected, &format!("{resource} with {left}"));
        }
        replace_role(plane, &whole, namespace, resource, [true; 2]);
    }
}

/// `records` reads the cluster once, by lists, and says which it may not make.
fn cannot_list(plane: &ControlPlane, options: &[&str], resource: &str) {
    let output = headless_dns().args(["records", "--kubeconfig"]).arg(plane.server_kubeconfig()).args(options).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&format!("cannot list {resource}")) && said.contains("does not allow `list`"), "{said}");
    let required = matches!(resource, "services" | "endpointslices");
    assert_eq!(output.status.code(), Some(i32::from(required)), "{said}");
}

/// Puts a role in the place of the one of its name, and waits until the API server minds which of `list` and `watch` it
/// has.
fn replace_role(plane: &ControlPlane, role: &Value, namespace: &str, resource: &str, may: [bool; 2]) {
    plane.pipe(&["replace", "-f", "-"], &role.to_string());
    until("the API server minds the role", WAIT_TIMEOUT, || {
        let allowed = rules(plane, &user(SERVER_USER), namespace);
        let has = |verb: &str| allowed.iter().any(|(_, of, may)| of == resource && may == verb);
        let has = ["list", "watch"].map(has);
        if has == may { Ok(()) } else { Err(format!("{resource}: {has:?}")) }
    });
}

fn sees(server: &Server, namespace: &str, expected: Seen, when: &str) {
    let name = |host: &str| format!("{host}web.{namespace}.svc.cluster.local");
    let soa_ttl = || {
        let output = Command::new("dig")
            .args([&format!("@{}", server.address.ip()), "-p", &server.address.port().to_string()])
            .args(["+noall", "+authority", "+tries=1", &name("web-2."), "A"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let soa = text.lines().find(|line| line.contains("SOA"))?;
        Some(soa.split_whitespace().nth(1)?.parse::<u32>().unwrap())
    };
    until(when, WAIT_TIMEOUT, || {
        let empty = server.ask("empty.svc.cluster.local", "A").rcode;
        let seen = Seen {
            answered: server.data(&name(""), "A").len() == 2 && server.data(&name("web-0."), "A").len() == 1,
            empty: ["NOERROR", "NXDOMAIN", "REFUSED", "SERVFAIL"]
                .into_iter()
                .find(|code| empty.as_deref() == Some(code)),
            expected_for: soa_ttl(),
        };
        if seen == expected { Ok(()) } else { Err(format!("{seen:?}, and not {expected:?}: {}", server.log())) }
    });
    if !expected.answered {
        until(when, WAIT_TIMEOUT, || {
            let answer = server.ask(&name(""), "A");
            assert_eq!(answer.rcode.as_deref(), Some("SERVFAIL"), "{when}: {answer}");
            match &answer.ede[..] {
                [why] if why.starts_with("14 (Not Ready): (FORBIDDEN: ") => Ok(()),
                _ => Err(answer.to_string()),
            }
        });
    }
}

/// Checks that the server's user may only list and watch these resources, besides the rights of any service account.
fn may_do(plane: &ControlPlane, namespace: &str, resources: &[(&str, &str)]) {
    let stranger = SERVER_USER.replace(":headless-dns:headless-dns", ":headless-dns:stranger");
    let own = rules(plane, &user(SERVER_USER), namespace);
    let strangers = rules(plane, &user(&stranger), namespace);
    let more: BTreeSet<_> = own.difference(&strangers).cloned().collect();
    let both = |(group, resource): &(&str, &str)| {
        ["list", "watch"].map(|verb| ((*group).to_owned(), (*resource).to_owned(), verb.to_owned()))
    };
    assert_eq!(more, resources.iter().flat_map(both).collect(), "in {namespace}");
}

/// kubectl's words for a service account with its groups.
fn user(name: &str) -> Vec<String> {
    let namespace = name.split(':').nth(2).unwrap();
    let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}"), "system:authenticated"];
    let groups = groups.iter().map(|group| format!("--as-group={group}"));
    [format!("--as={name}")].into_iter().chain(groups).collect()
}

/// Group, resource and verb of all that a user may do, and of what is no resource its path and verb.
fn rules(plane: &ControlPlane, user: &[String], namespace: &str) -> BTreeSet<(String, String, String)> {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace}});
    let mut args: Vec<&str> = user.iter().map(String::as_str).collect();
    // For validation, kubectl would read resources that this user may not.
    args.extend(["create", "--validate=false", "-o", "json", "-f", "-"]);
    let said: Value = serde_json::from_str(&plane.pipe(&args, &review.to_string())).unwrap();
    assert_eq!(said["status"]["incomplete"], false, "{said:#}");
    let words = |of: &Value| -> Vec<String> {
        of.as_array().into_iter().flatten().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let mut found = BTreeSet::new();
    let (resources, paths) = (&said["status"]["resourceRules"], &said["status"]["nonResourceRules"]);
    for rule in resources.as_array().into_iter().flatten() {
        for (group, resource) in words(&rule["apiGroups"])
            .iter()
            .flat_map(|group| words(&rule["resources"]).into_iter().map(move |of| (group.clone(), of)))
        {
            found.extend(words(&rule["verbs"]).into_iter().map(|verb| (group.clone(), resource.clone(), verb)));
        }
    }
    for rule in paths.as_array().into_iter().flatten() {
        for path in words(&rule["nonResourceURLs"]) {
            found.extend(words(&rule["verbs"]).into_iter().map(|verb| (String::new(), path.clone(), verb)));
        }
    }
    found
}

/// `config/namespaced` with an operator's namespace.
pub fn namespaced_in(plane: &ControlPlane, namespace: &str) -> PathBuf {
    for part in ["server", "namespaced"] {
        let copied =
            Command::new("cp").arg("-r").arg(folder("config").join(part)).arg(plane.folder()).status().unwrap();
        assert!(copied.success());
    }
    let own = plane.folder().join("namespaced");
    let path = own.join("kustomization.yaml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("\nnamespace: payments\n"), "{text}");
    fs::write(&path, text.replace("\nnamespace: payments\n", &format!("\nnamespace: {namespace}\n"))).unwrap();
    own
}

pub fn get(plane: &ControlPlane, namespace: &str, what: &str) -> Value {
    serde_json::from_str(&plane.kubectl(&["get", "-n", namespace, what, "-o", "json"])).unwrap()
}

pub fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
