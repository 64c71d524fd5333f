//! Installation by `config/`, the chart and `docs/install.md` on the real API server: the API server accepts it, the Pods run
//! under the Pod security level `restricted`, nodes are drained one replica at a time, the guide's commands work in every order,
//! and the chart installs the objects of `config/`.
//!
//! No component enforces a NetworkPolicy or schedules here: only their acceptance by the API server is tested. `rights.rs` has
//! the server's permissions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::common::scaled;
use super::control_plane::ControlPlane;
use super::coredns::{CoreDns, asked};
use super::kubelet::Kubelet;
use super::rights::{NAMESPACE, folder, get};
use super::server::Server;
use super::{WAIT_TIMEOUT, until};

/// Each overlay, where it goes, and how many replicas it has.
const OVERLAYS: [(&str, &str, usize); 7] = [
    ("base", NAMESPACE, 2),
    ("pinned", NAMESPACE, 2),
    ("ha", NAMESPACE, 3),
    ("local", NAMESPACE, 1),
    (WITH_COMPONENTS, NAMESPACE, 2),
    (WITH_TLS, NAMESPACE, 2),
    ("namespaced", "payments", 2),
];
/// Kustomizations as a reader of the components would write them.
const WITH_COMPONENTS: &str = "with-components";
const WITH_TLS: &str = "with-tls";

/// The used part of the operator's definition, so that a misspelt field is refused.
const SERVICE_MONITORS: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: servicemonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  names: {kind: ServiceMonitor, listKind: ServiceMonitorList, plural: servicemonitors, singular: servicemonitor}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            required: [endpoints, selector]
            properties:
              selector: {type: object, properties: {matchLabels: {type: object, additionalProperties: {type: string}}}}
              endpoints:
                type: array
                items: {type: object, properties: {port: {type: string}, interval: {type: string}}}
";

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn api_server_accepts_installation() {
    let plane = ControlPlane::start();
    let _kubelet = Kubelet::start(&plane);
    let config = writable_config(&plane);
    // Without the operator's definitions kubectl prints one sentence, which the guide quotes.
    let said = plane.try_kubectl(&["apply", "-k", config.join(WITH_COMPONENTS).to_str().unwrap(), "--dry-run=server"]);
    assert!(words(&said).contains("no matches for kind \"ServiceMonitor\""), "{}", words(&said));
    plane.apply(SERVICE_MONITORS);
    plane.kubectl(&["wait", "--for=condition=Established", "crd/servicemonitors.monitoring.coreos.com"]);
    for (overlay, namespace, replicas) in OVERLAYS {
        println!("{overlay} in {namespace}");
        let path = config.join(overlay);
        // A dry run needs the namespace, and `payments` is the operator's.
        let labels = "labels: {pod-security.kubernetes.io/enforce: restricted}";
        plane.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}, {labels}}}}}"));
        for dry_run in ["--dry-run=server", "--dry-run=none"] {
            let said = plane.try_kubectl(&["apply", "-k", path.to_str().unwrap(), dry_run, "--validate=strict"]);
            let warned = words(&said);
            // The Namespace of config/base was not made by `kubectl apply -k`.
            let warnings: Vec<&str> =
                warned.lines().filter(|line| !line.contains("last-applied-configuration")).collect();
            assert!(said.status.success() && warnings.is_empty(), "{overlay} {dry_run}: {warned}");
        }
        let rendered = rendered(&plane, &path);
        is_labelled(&rendered);
        let more: &[_] = if overlay == WITH_TLS { &[("TCP", "8853")] } else { &[] };
        is_there_with(&plane, namespace, replicas, more);
        level_is_enforced(&plane, namespace);
        if overlay == "pinned" {
            let service = get(&plane, namespace, "service/headless-dns");
            assert_eq!(service["spec"]["clusterIP"], "10.96.0.53", "clusterIP cannot change in place");
        }
        // Only a new Service gets another address.
        plane.kubectl(&["delete", "service,deployment", "headless-dns", "-n", namespace, "--cascade=foreground"]);
    }
}

/// Checks the labels: `k8s-app: kube-dns` is the selector of CoreDNS's Service, and must not match.
fn is_labelled(rendered: &BTreeMap<String, Value>) {
    for (which, object) in rendered {
        assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/name"], "headless-dns", "{which}");
        assert!(!object.to_string().contains("k8s-app"), "{which}");
    }
    let pod = &rendered["Deployment headless-dns"]["spec"]["template"];
    assert_eq!(pod["metadata"]["labels"]["app.kubernetes.io/name"], "headless-dns");
    assert_eq!(pod["spec"]["dnsPolicy"], "Default");
}

/// The Deployment has its Pods, all as they were written, and the Service has the Pods.
fn is_there(plane: &ControlPlane, namespace: &str, replicas: usize) {
    is_there_with(plane, namespace, replicas, &[]);
}

/// Checks the installation, and more ports of the Service.
fn is_there_with(plane: &ControlPlane, namespace: &str, replicas: usize, more: &[(&str, &str)]) {
    until("the Deployment is available", WAIT_TIMEOUT, || {
        let status = &get(plane, namespace, "deployment/headless-dns")["status"];
        if status["readyReplicas"] == replicas { Ok(()) } else { Err(status.to_string()) }
    });
    let sets = get(plane, namespace, "replicasets");
    let refused = |set: &Value| {
        let conditions = set["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|condition| condition["type"] == "ReplicaFailure"))
    };
    let sets = sets["items"].as_array().unwrap();
    assert!(!sets.is_empty() && !sets.iter().any(refused), "{sets:#?}");
    let failures = failures(plane, namespace);
    assert!(failures.is_empty(), "{failures:#?}");
    let pods = get(plane, namespace, "pods");
    let addresses: BTreeSet<_> =
        pods["items"].as_array().unwrap().iter().map(|pod| pod["status"]["podIP"].to_string()).collect();
    assert_eq!(addresses.len(), replicas, "{pods:#}");
    until("the Service has the Pods", WAIT_TIMEOUT, || {
        let slices = get(plane, namespace, "endpointslices");
        let v4 = slices["items"].as_array().unwrap().iter().find(|slice| slice["addressType"] == "IPv4");
        let Some(slice) = v4 else { return Err("no slice".to_owned()) };
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        let found: BTreeSet<_> = endpoints.map(|endpoint| endpoint["addresses"][0].to_string()).collect();
        let ports: BTreeSet<_> = slice["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|port| (port["protocol"].to_string(), port["port"].to_string()))
            .collect();
        let expected = [("TCP", "1053"), ("UDP", "1053"), ("TCP", "9153")].iter().chain(more);
        let expected: BTreeSet<_> = expected.map(|(name, port)| (format!("\"{name}\""), (*port).to_owned())).collect();
        if found == addresses && ports == expected { Ok(()) } else { Err(slice.to_string()) }
    });
}

/// Returns the failures that the controllers report.
fn failures(plane: &ControlPlane, namespace: &str) -> Vec<String> {
    let events = get(plane, namespace, "events");
    let failed = |event: &&Value| event["reason"].as_str().is_some_and(|reason| reason.starts_with("Failed"));
    events["items"].as_array().unwrap().iter().filter(failed).map(|event| event["message"].to_string()).collect()
}

/// Checks that the namespace enforces its Pod security level: a Pod without the settings is rejected.
fn level_is_enforced(plane: &ControlPlane, namespace: &str) {
    let careless = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "careless", "namespace": namespace},
        "spec": {"containers": [{"name": "it", "image": "it"}]}});
    let path = plane.folder().join("careless.json");
    fs::write(&path, careless.to_string()).unwrap();
    let said = plane.try_kubectl(&["create", "-f", path.to_str().unwrap()]);
    let why = words(&said);
    assert!(!said.status.success() && why.contains("violates PodSecurity \"restricted:latest\""), "{why}");
}

/// An API server that lets the class of the cluster's own Pods into a namespace only if a quota there says so, as GKE
/// does: the Pods are refused, until the component is added.
#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn priority_class_may_need_quota() {
    let rule = "\
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: ResourceQuota
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: ResourceQuotaConfiguration
    limitedResources:
    - resource: pods
      matchScopes:
      - {scopeName: PriorityClass, operator: In, values: [system-node-critical, system-cluster-critical]}
";
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), rule).unwrap();
    let plane = ControlPlane::start_with(&[&format!("--admission-control-config-file={}", file.path().display())]);
    let _kubelet = Kubelet::start(&plane);
    let config = writable_config(&plane);
    plane.kubectl(&["apply", "-k", config.join("base").to_str().unwrap()]);
    until("the Pods are refused", WAIT_TIMEOUT, || {
        let failures = failures(&plane, NAMESPACE);
        let refused = failures.iter().any(|why| why.contains("insufficient quota to match these scopes"));
        if refused { Ok(()) } else { Err(failures.join("\n")) }
    });
    let quota = config.join("with-quota");
    write_kustomization(&quota, "components: [../components/priority-quota]");
    plane.kubectl(&["apply", "-k", quota.to_str().unwrap()]);
    // The ReplicaSet tries again later and later: at once, if it is a new one.
    plane.kubectl(&["rollout", "restart", "deployment/headless-dns", "-n", NAMESPACE]);
    until("the Pods are there", WAIT_TIMEOUT, || {
        let status = &get(&plane, NAMESPACE, "deployment/headless-dns")["status"];
        if status["readyReplicas"].as_u64() >= Some(2) { Ok(()) } else { Err(status.to_string()) }
    });
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn drains_nodes_one_replica_at_a_time() {
    let plane = ControlPlane::start();
    let kubelet = Kubelet::start(&plane);
    plane.kubectl(&["apply", "-k", folder("config/base").to_str().unwrap()]);
    is_there(&plane, NAMESPACE, 2);
    let allowed = |expected: u64| {
        until("the budget is counted", WAIT_TIMEOUT, || {
            let status = &get(&plane, NAMESPACE, "poddisruptionbudget/headless-dns")["status"];
            if status["disruptionsAllowed"] == expected { Ok(()) } else { Err(status.to_string()) }
        });
    };
    let pods = get(&plane, NAMESPACE, "pods");
    let names: Vec<String> =
        pods["items"].as_array().unwrap().iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().into()).collect();
    allowed(1);
    kubelet.ready_by_default(false);
    names.iter().for_each(|name| kubelet.ready(NAMESPACE, name, true));
    // As `kubectl drain` does.
    let evict = |name: &str| {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": name, "namespace": NAMESPACE}});
        let path = plane.folder().join("eviction.json");
        fs::write(&path, eviction.to_string()).unwrap();
        let target = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction");
        plane.try_kubectl(&["create", "--raw", &target, "-f", path.to_str().unwrap()])
    };
    let first = evict(&names[0]);
    assert!(first.status.success(), "{}", words(&first));
    allowed(0);
    let second = evict(&names[1]);
    assert!(!second.status.success() && words(&second).contains("disruption budget"), "{}", words(&second));
    // Its successor is ready.
    kubelet.ready_by_default(true);
    allowed(1);
    let second = evict(&names[1]);
    assert!(second.status.success(), "{}", words(&second));
}

/// The steps of `docs/install.md`, in its order.
const STEPS: [&str; 4] = ["Install", "Configure CoreDNS", "Upgrade", "Uninstall"];
/// Corefiles of a cluster before the first step.
const COREFILES: [&str; 3] = [
    ".:53 {\n    errors\n    cache 30\n}\n",
    ".:53 {\n    errors\n    cache 30\n}",
    "# ours\n.:53 {\n    errors\n    cache 30\n}\n\nexample.test:53 {\n    errors\n    whoami\n}\n\n",
];
/// CoreDNS as a cluster has it. In its Pods nothing runs.
const COREDNS: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: coredns, namespace: kube-system}
spec:
  replicas: 2
  strategy: {rollingUpdate: {maxUnavailable: 1}}
  selector: {matchLabels: {k8s-app: kube-dns}}
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec: {containers: [{name: coredns, image: coredns}]}
";
/// A name in the namespace that the guide begins with.
const FRONT: &str = "{apiVersion: v1, kind: Service, metadata: {name: front, namespace: payments}, spec: {clusterIP: 10.96.7.7, \
     ports: [{name: http, port: 80}]}}";

/// The ConfigMap of CoreDNS, under a label and beside a key that its owner put there.
fn coredns_map(corefile: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "coredns", "namespace": "kube-system", "labels": {"eks.amazonaws.com/component": "coredns"}},
        "data": {"Corefile": corefile, "NodeHosts": "10.0.0.1 node-a"}})
}

fn corefile(plane: &ControlPlane) -> String {
    get(plane, "kube-system", "configmap/coredns")["data"]["Corefile"].as_str().unwrap().to_owned()
}

/// A cluster for the guide: CoreDNS with this Corefile, and the Service `front`.
fn furnish(plane: &ControlPlane, corefile: &str) {
    plane.apply(&coredns_map(corefile).to_string());
    plane.apply(COREDNS);
    plane.kubectl(&["create", "namespace", "payments"]);
    plane.apply(FRONT);
}

/// Starts CoreDNS with the Corefile of the guide, in which a server here takes the place of the one at `address`.
fn starts_with(plane: &ControlPlane, server: &Server, corefile: &str, address: &str) -> CoreDns {
    let forward = format!("forward . {address}\n");
    CoreDns::start_with(plane, &corefile.replace(&forward, &format!("forward . {}\n", server.address)))
}

/// The commands of `docs/install.md`, one block after the other, as its reader copies them.
#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn guide_matches_cluster() {
    let plane = ControlPlane::start();
    let kubelet = Kubelet::start(&plane);
    let guide = Guide::new(&plane);
    let first = COREFILES[0];
    furnish(&plane, first);
    let map = || get(&plane, "kube-system", "configmap/coredns");
    let before = map();

    guide.run("Install");
    is_there(&plane, NAMESPACE, 2);
    assert_eq!(image(&plane).as_deref(), Some("registry.example/headless-dns:0.1.0"));
    let address = service_address(&plane).unwrap();

    guide.run("Configure CoreDNS");
    let told = map();
    assert_eq!(told["data"]["NodeHosts"], before["data"]["NodeHosts"], "what was beside it stays");
    assert_eq!(told["metadata"]["labels"], before["metadata"]["labels"]);
    let told = told["data"]["Corefile"].as_str().unwrap();
    assert!(told.starts_with(first), "the block for everything else stays as it was: {told}");
    plane.let_server_read();
    let server = Server::start::<&str>(&plane.server_kubeconfig(), &[]).synced();
    let core = starts_with(&plane, &server, told, &address);
    assert_eq!(asked(&core, "front.payments.svc.cluster.local"), ["10.96.7.7"], "{told}");

    let fewest = fewest_ready_while(&plane, || guide.run("Upgrade"));
    assert_eq!(fewest, 2, "replicas at any time of the update");
    assert_eq!(image(&plane).as_deref(), Some("registry.example/headless-dns:0.1.1"));
    is_there(&plane, NAMESPACE, 2);
    assert_eq!(service_address(&plane), Some(address), "an update leaves the address alone");

    // The Pods of CoreDNS that read the first Corefile again are never ready: the server stays, for the others.
    kubelet.ready_by_default(false);
    let said = guide.try_run("Uninstall", "2s");
    assert!(!said.status.success() && words(&said).contains("not every Pod of CoreDNS runs with"), "{}", words(&said));
    assert_eq!(map()["data"], before["data"]);
    assert!(image(&plane).is_some() && service_address(&plane).is_some());
    kubelet.ready_by_default(true);
    guide.run("Uninstall");
    assert_eq!(map()["data"], before["data"]);
    nothing_is_left(&plane);
}

/// The steps of the guide in every order, each twice. `TEST_HEADLESS_DNS_SCALE` is how many of the 24 orders, in percent.
#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn guide_is_safe_in_every_order() {
    let plane = ControlPlane::start();
    let _kubelet = Kubelet::start(&plane);
    let guide = Guide::new(&plane);
    // Nothing is measured here.
    let deployment = guide.folder.join("config/server/deployment.yaml");
    let text = fs::read_to_string(&deployment).unwrap();
    assert!(text.contains("minReadySeconds: 10\n"), "{text}");
    fs::write(&deployment, text.replace("minReadySeconds: 10\n", "minReadySeconds: 0\n")).unwrap();
    furnish(&plane, COREFILES[0]);
    plane.let_server_read();
    let server = Server::start::<&str>(&plane.server_kubeconfig(), &[]).synced();
    // Corefiles that differ in the address only are started once.
    let mut taken = BTreeSet::new();
    let orders = orders(&STEPS);
    assert_eq!(orders.len(), 24);
    let count = usize::try_from(scaled(24)).unwrap().max(3);
    for (index, order) in orders.iter().take(count).enumerate() {
        println!("{order:?}");
        let first = COREFILES[index % COREFILES.len()];
        plane.apply(&coredns_map(first).to_string());
        let _ = fs::remove_dir_all(guide.folder.join("cluster"));
        let mut expected = Expected::default();
        for step in order {
            let succeeds = expected.step(step);
            for time in ["first", "second"] {
                let said = guide.try_run(step, "60s");
                let what = format!("{step}, the {time} time, of {order:?}: {}", words(&said));
                assert_eq!(said.status.success(), succeeds, "{what}");
                let tag = image(&plane).map(|image| image.rsplit(':').next().unwrap().to_owned());
                assert_eq!(tag.as_deref(), expected.installed, "{what}");
                let (now, address) = (corefile(&plane), service_address(&plane).unwrap_or_default());
                let block = format!(
                    "\n# BEGIN headless-dns\npayments.svc.cluster.local:53 {{\n    errors\n    forward . {address}\n}}\n\
                     # END headless-dns\n"
                );
                assert_eq!(now, if expected.told { first.to_owned() + &block } else { first.to_owned() }, "{what}");
                if taken.insert((first, expected.told)) {
                    let core = starts_with(&plane, &server, &now, &address);
                    let answer: &[&str] = if expected.told { &["10.96.7.7"] } else { &[] };
                    assert_eq!(asked(&core, "front.payments.svc.cluster.local"), answer, "{what}");
                }
            }
        }
        guide.try_run("Uninstall", "60s");
        assert_eq!(corefile(&plane), first, "{order:?}");
        nothing_is_left(&plane);
    }
}

/// The state that the steps of the guide lead to.
#[derive(Default)]
struct Expected {
    /// The tag in the reader's kustomization.
    written: Option<&'static str>,
    installed: Option<&'static str>,
    told: bool,
}

impl Expected {
    /// Returns whether the step succeeds. One that does not changes nothing.
    fn step(&mut self, step: &str) -> bool {
        match step {
            "Install" => self.written = self.written.or(Some("0.1.0")),
            "Configure CoreDNS" => {
                self.told = self.installed.is_some();
                return self.told;
            }
            "Upgrade" => self.written = self.written.and(Some("0.1.1")),
            "Uninstall" => {
                (self.told, self.installed) = (false, None);
                return self.written.is_some();
            }
            other => panic!("{other} is no step"),
        }
        self.installed = self.written;
        self.written.is_some()
    }
}

/// Every order of the steps, the given one first and its reverse second.
fn orders<'s>(steps: &[&'s str]) -> Vec<Vec<&'s str>> {
    let mut orders = vec![Vec::new()];
    for _ in steps {
        let longer = |order: Vec<&'s str>| {
            let left = steps.iter().filter(|step| !order.contains(step)).copied().collect::<Vec<_>>();
            left.into_iter().map(move |step| [&order[..], &[step]].concat())
        };
        orders = orders.into_iter().flat_map(longer).collect();
    }
    let last = orders.pop().unwrap();
    orders.insert(1, last);
    orders
}

/// The image of the server's Deployment; none without a Deployment.
fn image(plane: &ControlPlane) -> Option<String> {
    let path = "jsonpath={.spec.template.spec.containers[0].image}";
    found(plane.kubectl(&["-n", NAMESPACE, "get", "deployment/headless-dns", "--ignore-not-found", "-o", path]))
}

/// The address of the server's Service; none without a Service.
fn service_address(plane: &ControlPlane) -> Option<String> {
    let path = "jsonpath={.spec.clusterIP}";
    found(plane.kubectl(&["-n", NAMESPACE, "get", "service/headless-dns", "--ignore-not-found", "-o", path]))
}

fn found(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn nothing_is_left(plane: &ControlPlane) {
    until("nothing is left", WAIT_TIMEOUT, || {
        let left = plane.kubectl(&["get", "namespaces,clusterroles,clusterrolebindings", "-A", "-o", "name"]);
        if left.contains("headless-dns") { Err(left) } else { Ok(()) }
    });
}

/// A Corefile comes back octet for octet, and repetition changes nothing, whatever it ends in.
#[test]
fn adds_and_removes_corefile_blocks() {
    let edit = |corefile: &str, args: &[&str]| {
        let mut command = Command::new(folder("config/corefile/edit"));
        let mut child =
            command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // One that refuses its arguments ends without reading.
        if let Err(error) = child.stdin.take().unwrap().write_all(corefile.as_bytes()) {
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        }
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        if output.status.success() { Ok(text) } else { Err((output.status.code(), text, words(&output))) }
    };
    let odd = [".:53 {\r\n    errors\r\n}\r\n", "\n\n.:53 {\n    log . \"\\n &\"\n}\n\n\n", "#"];
    for first in COREFILES.into_iter().chain(odd) {
        assert_eq!(edit(first, &[]).as_deref(), Ok(first));
        let one = edit(first, &["10.96.0.53", "one-namespace"]).unwrap();
        assert!(
            one.starts_with(&format!("{first}\n# BEGIN headless-dns\npayments.svc.cluster.local:53 {{\n")),
            "{one}"
        );
        let two = edit(&one, &["fd00::53", "whole-zone", "reverse"]).unwrap();
        assert!(!two.contains("payments") && two.matches("forward . fd00::53\n").count() == 2, "{two}");
        assert_eq!(edit(&two, &["fd00::53", "whole-zone", "reverse"]), Ok(two.clone()));
        assert_eq!(edit(&two, &[]).as_deref(), Ok(first));
        // Lines that others added behind the block stay lines of their own.
        let end = if first.ends_with('\n') { "" } else { "\n" };
        assert_eq!(edit(&(two + "other:53 {\n}\n"), &[]), Ok(format!("{first}{end}other:53 {{\n}}\n")));
    }
    let one = edit("#\n", &["10.96.0.53", "one-namespace"]).unwrap();
    for (corefile, args, part) in [
        ("", &[][..], "there is no Corefile on standard input"),
        ("", &["10.96.0.53", "reverse"], "there is no Corefile on standard input"),
        ("#", &["", "reverse"], "\"\" is no address of a Service: is headless-dns installed?"),
        ("#", &["None", "reverse"], "\"None\" is no address"),
        ("#", &["10.96.0.53"], "name a snippet behind the address"),
        ("#", &["10.96.0.53", "zone"], "there is no snippet zone"),
        (&one.replace("# END", "#"), &[], "has no \"# END headless-dns\": remove the block by hand"),
        (&one.replace("# BEGIN", "#"), &[], "there is only one of the marks"),
    ] {
        let (status, text, errors) = edit(corefile, args).unwrap_err();
        assert_eq!((status, text.as_str()), (Some(2), ""), "{corefile:?} {args:?}");
        assert!(errors.contains(part) && errors.lines().count() == 1, "{corefile:?} {args:?}: {errors}");
    }
}

/// Returns the lowest number of ready Pods during an action, polled without a pause.
fn fewest_ready_while(plane: &ControlPlane, act: impl FnOnce()) -> usize {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let counting = scope.spawn(|| {
            let mut fewest = usize::MAX;
            while !done.load(Ordering::Relaxed) {
                let pods = get(plane, NAMESPACE, "pods");
                let pods = pods["items"].as_array().unwrap();
                let is_ready = |pod: &&Value| {
                    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
                    pod["metadata"]["deletionTimestamp"].is_null()
                        && conditions.into_iter().any(|is| is["type"] == "Ready" && is["status"] == "True")
                };
                fewest = fewest.min(pods.iter().filter(is_ready).count());
            }
            fewest
        });
        act();
        done.store(true, Ordering::Relaxed);
        counting.join().unwrap()
    })
}

/// `docs/install.md`, in a folder as that of its reader's clone.
struct Guide<'p> {
    plane: &'p ControlPlane,
    text: String,
    folder: PathBuf,
}

impl<'p> Guide<'p> {
    fn new(plane: &'p ControlPlane) -> Self {
        let text = fs::read_to_string(folder("docs/install.md")).unwrap();
        let folder = writable_config(plane).parent().unwrap().to_owned();
        Self { plane, text, folder }
    }

    /// Runs the blocks in `sh` below a heading.
    ///
    /// # Panics
    ///
    /// If one fails.
    fn run(&self, heading: &str) {
        let said = self.try_run(heading, "60s");
        assert!(said.status.success(), "{heading}\n{}", words(&said));
    }

    /// Runs them, each in a shell of its own, as it is in the guide, up to the first that fails; CoreDNS may take so
    /// long for its Corefile.
    fn try_run(&self, heading: &str, timeout: &str) -> Output {
        let (_, section) = self.text.split_once(&format!("\n## {heading}\n")).expect(heading);
        let section = section.split("\n## ").next().unwrap();
        let blocks = section.split("\n```sh\n").skip(1).map(|block| block.split("\n```").next().unwrap());
        let mut last = None;
        for block in blocks {
            let said = self.plane.shell(block).current_dir(&self.folder).env("TIMEOUT", timeout).output().unwrap();
            let failed = !said.status.success();
            last = Some(said);
            if failed {
                break;
            }
        }
        last.unwrap_or_else(|| panic!("{heading} has nothing to run"))
    }
}

/// The chart renders to the objects of `config/`, but for Helm's own labels; and the API
/// server accepts it with every setting on and off.
#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn chart_equals_manifests() {
    let plane = ControlPlane::start();
    let config = writable_config(&plane);
    plane.apply(SERVICE_MONITORS);
    plane.kubectl(&["wait", "--for=condition=Established", "crd/servicemonitors.monitoring.coreos.com"]);
    let ha = folder("charts/headless-dns/ha.yaml");
    let local = "replicas=1,image.pullPolicy=Never,resources.requests.cpu=10m,resources.requests.memory=16Mi,\
        resources.limits.memory=128Mi";
    let values: [(&str, &str, &[&str]); 7] = [
        ("base", NAMESPACE, &[]),
        ("pinned", NAMESPACE, &["--set", "service.clusterIP=10.96.0.53"]),
        ("ha", NAMESPACE, &["-f", ha.to_str().unwrap()]),
        ("local", NAMESPACE, &["--set", local]),
        (WITH_COMPONENTS, NAMESPACE, &["--set", "serviceMonitor.enabled=true,priorityQuota=true"]),
        (WITH_TLS, NAMESPACE, &["--set", "tls.secretName=headless-dns-tls"]),
        ("namespaced", "payments", &["--set", "namespaced=true,priorityClassName="]),
    ];
    for (overlay, namespace, values) in values {
        let chart = templated(&plane, namespace, values);
        let mut ours = rendered(&plane, &config.join(overlay));
        ours.remove("Namespace headless-dns");
        let kinds = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
        assert_eq!(kinds(&chart), kinds(&ours), "{overlay}");
        for (which, object) in &chart {
            assert_eq!(*object, ours[which], "{which} of {overlay}: the chart has the left one");
        }
        accepted(&plane, namespace, &chart, overlay);
    }
    // Settings without an overlay in config/.
    let more = "settings.ttl=10,settings.zone-alias={a.example,b.example},settings.pod-records=verified,\
        settings.tcp-connections=1000000,networkPolicy.enabled=false,imagePullSecrets[0].name=ours,apart=true,\
        nodeSelector.disk=fast,podLabels.team=dns,podAnnotations.a=b,service.annotations.c=d,\
        serviceMonitor.enabled=true,serviceMonitor.labels.release=prometheus,image.tag=main,\
        tolerations[0].operator=Exists,addresses={[::]},tls.secretName=web-tls,tls.over={tls,https,quic}";
    let chart = templated(&plane, NAMESPACE, &["--set", more]);
    accepted(&plane, NAMESPACE, &chart, "with more values");
    assert!(!chart.contains_key("NetworkPolicy headless-dns"));
    let variables = &chart["Deployment headless-dns"]["spec"]["template"]["spec"]["containers"][0]["env"];
    for (name, value) in [
        ("TTL", "10"),
        ("ZONE_ALIAS", "a.example,b.example"),
        ("TCP_CONNECTIONS", "1000000"),
        ("LISTEN", "[::]:1053"),
        ("ADMIN", "[::]:9153"),
        ("LISTEN_TLS", "[::]:8853"),
        ("LISTEN_HTTPS", "[::]:8443"),
        ("LISTEN_QUIC", "[::]:8853"),
        ("TLS_CERT", "/etc/headless-dns/tls/tls.crt"),
    ] {
        let expected = json!({"name": format!("HEADLESS_DNS_{name}"), "value": value});
        assert!(variables.as_array().unwrap().contains(&expected), "{variables:#}");
    }
    assert!(chart["ClusterRole headless-dns"].to_string().contains("\"pods\""), "verified needs the right");
    let ports = &chart["Service headless-dns"]["spec"]["ports"];
    for (name, port, protocol) in [("dns-tls", 853, "TCP"), ("dns-https", 443, "TCP"), ("dns-quic", 853, "UDP")] {
        let expected = json!({"name": name, "port": port, "targetPort": name, "protocol": protocol});
        assert!(ports.as_array().unwrap().contains(&expected), "{ports:#}");
    }
    for (wrong, sentence) in [
        ("replica=3", "additional properties 'replica' not allowed"),
        ("replicas=0", "at '/replicas': minimum: got 0, want 1"),
        ("service.clusterIP=ours", "at '/service/clusterIP': 'ours' does not match pattern"),
        ("settings.ttl.is=5", "at '/settings/ttl': got object, want"),
        ("tls.over={tcp}", "at '/tls/over/0': value must be one of 'tls', 'https', 'quic'"),
        ("settings.tll=10", "settings.tll: there is no such option; docs/configuration.md lists the options"),
        ("settings.zone_alias=a", "settings.zone_alias: there is no such option;"),
        ("settings.listen=127.0.0.1:53", "settings.listen: the chart sets this option from the value addresses"),
        ("settings.tls-cert=x", "settings.tls-cert: the chart sets this option from the value tls.secretName"),
    ] {
        let said = helm(&["template", "headless-dns", "charts/headless-dns", "--set", wrong]);
        assert!(!said.status.success() && words(&said).contains(sentence), "{wrong}: {}", words(&said));
    }
    let linted = helm(&["lint", "--strict", "charts/headless-dns"]);
    assert!(linted.status.success(), "{}", words(&linted));
}

/// The API server would take it, without a word.
fn accepted(plane: &ControlPlane, namespace: &str, objects: &BTreeMap<String, Value>, what: &str) {
    let labels = "labels: {pod-security.kubernetes.io/enforce: restricted}";
    plane.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}, {labels}}}}}"));
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects.values().collect::<Vec<_>>()});
    let path = plane.folder().join("list.json");
    fs::write(&path, list.to_string()).unwrap();
    let said = plane.try_kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", path.to_str().unwrap()]);
    assert!(said.status.success() && said.stderr.is_empty(), "{what}: {}", words(&said));
}

/// The chart's objects, without the labels by which Helm and its releases are told.
fn templated(plane: &ControlPlane, namespace: &str, values: &[&str]) -> BTreeMap<String, Value> {
    let mut args = vec!["template", "headless-dns", "charts/headless-dns", "--namespace", namespace];
    args.extend(["--kube-version", "1.33.0"]);
    args.extend(values);
    let said = helm(&args);
    assert!(said.status.success(), "{}", words(&said));
    let text = String::from_utf8(said.stdout).unwrap();
    for label in ["app.kubernetes.io/instance: headless-dns", "app.kubernetes.io/managed-by: Helm", "helm.sh/chart: "] {
        assert!(text.contains(label), "no {label}");
    }
    let mut objects = as_objects(plane, &text);
    objects.values_mut().for_each(without_helm);
    objects
}

fn without_helm(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for label in ["app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart"] {
                fields.remove(label);
            }
            fields.values_mut().for_each(without_helm);
        }
        Value::Array(items) => items.iter_mut().for_each(without_helm),
        _ => {}
    }
}

fn helm(args: &[&str]) -> Output {
    let helm = std::env::var_os("TEST_HEADLESS_DNS_HELM")
        .expect("tests/cluster/run builds Helm and sets TEST_HEADLESS_DNS_HELM");
    Command::new(helm).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap()
}

/// Renders an overlay with kustomize.
fn rendered(plane: &ControlPlane, path: &Path) -> BTreeMap<String, Value> {
    as_objects(plane, &plane.kubectl(&["kustomize", path.to_str().unwrap()]))
}

/// YAML in several documents, by kind and name.
fn as_objects(plane: &ControlPlane, yaml: &str) -> BTreeMap<String, Value> {
    let json = plane.pipe(&["create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-"], yaml);
    // One object behind the other.
    let objects = serde_json::Deserializer::from_str(&json).into_iter::<Value>().map(Result::unwrap);
    let single = |object: Value| match object["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![object],
    };
    objects
        .flat_map(single)
        .map(|object| (format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"])), object))
        .collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `config/` in the control plane's folder, and beside its overlays those with components.
fn writable_config(plane: &ControlPlane) -> PathBuf {
    let clone = plane.folder().join("clone");
    fs::create_dir(&clone).unwrap();
    let copied = Command::new("cp").arg("-r").arg(folder("config")).arg(&clone).status().unwrap();
    assert!(copied.success());
    let config = clone.join("config");
    write_kustomization(
        &config.join(WITH_COMPONENTS),
        "components: [../components/service-monitor, ../components/priority-quota]",
    );
    write_kustomization(&config.join(WITH_TLS), "components: [../components/tls]");
    config
}

/// `config/base` with something more.
fn write_kustomization(path: &Path, more: &str) {
    fs::create_dir(path).unwrap();
    let head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../base]\n";
    fs::write(path.join("kustomization.yaml"), format!("{head}{more}\n")).unwrap();
}

/// Returns the output of a command, errors last.
fn words(output: &Output) -> String {
    let [out, errors] = [&output.stdout, &output.stderr].map(|octets| String::from_utf8_lossy(octets).into_owned());
    if output.status.success() { errors } else { format!("{out}{errors}") }
}
