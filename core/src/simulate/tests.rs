//! Tests of the simulation: manifests in, one line of text per object out.

use std::collections::HashMap;

use super::*;
use crate::object::{self, Decoded};

const PODS: &str = "10.244.0.0/16";
const SERVICES: &str = "10.96.0.0/16";

fn decode(manifest: &str) -> Vec<Object> {
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(manifest).unwrap();
    let decode = |document| match object::decode(document, "default") {
        Ok(Decoded::Object(object, skipped)) if skipped.is_empty() => Some(object),
        Ok(Decoded::Ignored) => None,
        other => panic!("{other:?}"),
    };
    documents.into_iter().filter_map(decode).collect()
}

fn ranges(text: &str) -> Vec<IpNet> {
    text.split_whitespace().map(|range| range.parse().unwrap()).collect()
}

fn run(manifest: &str, pods: &str) -> Simulated {
    let services = if pods.contains(':') { "10.96.0.0/16 fd00:10:96::/112" } else { SERVICES };
    simulate(decode(manifest), &ranges(pods), &ranges(services), EndpointsSource::Slices)
}

/// Compares Services, Pods, slices and reports with lines of text, sorted. `*` is a simulated address, `#` simulated
/// letters.
#[track_caller]
fn check(manifest: &str, pods: &str, expected: &[&str]) {
    let simulated = run(manifest, pods);
    let given: HashSet<IpAddr> = used_addresses(&decode(manifest));
    let mut lines: Vec<String> = simulated.objects.iter().filter_map(|object| line(object, &given)).collect();
    lines.sort();
    lines.extend(simulated.reports.iter().map(|report| format!("! {}", report.text)));
    let same = lines.len() == expected.len()
        && lines.iter().zip(expected).all(|(line, expected)| {
            expected.strip_suffix("..").map_or(line == expected, |start| line.starts_with(start))
        });
    assert!(same, "simulated: {lines:#?}\nexpected: {expected:#?}");
}

fn line(object: &Object, given: &HashSet<IpAddr>) -> Option<String> {
    let show = |addresses: &[IpAddr]| {
        let show = |address: &IpAddr| match address {
            address if given.contains(address) => address.to_string(),
            IpAddr::V4(_) => "*".into(),
            IpAddr::V6(_) => "*6".into(),
        };
        addresses.iter().map(show).collect::<Vec<String>>().join(",")
    };
    match object {
        Object::Service(Service { key, kind: ServiceKind::ClusterIp(addresses), .. }) => {
            Some(format!("service {key} {}", show(addresses)))
        }
        Object::Pod(pod) => {
            Some(format!("pod {}/{} {}", pod.key.namespace, drawn(&pod.key.name), show(&pod.addresses)))
        }
        Object::EndpointSlice(slice) => {
            let ports: Vec<String> = slice
                .ports
                .iter()
                .map(|port| format!("{}:{}{}", port.name, port.number, &port.protocol.label()[..2]))
                .collect();
            let rows = slice.endpoints().map(|row| {
                let conditions = [
                    (row.conditions.ready(), 'r'),
                    (row.conditions.serving(), 's'),
                    (row.conditions.terminating(), 't'),
                ];
                let conditions: String = conditions.iter().filter(|(on, _)| *on).map(|(_, letter)| *letter).collect();
                let name = match (row.hostname, row.pod) {
                    (Some(hostname), _) => hostname.to_string(),
                    (None, Some(pod)) => format!("({})", drawn(&pod.to_string())),
                    (None, None) => "-".into(),
                };
                format!("{name}={}:{conditions}", show(&[row.address]))
            });
            let service = slice.service.as_deref().unwrap_or("?");
            let rows: Vec<String> = rows.collect();
            Some(format!("slice {}/{service} [{}] {}", slice.key.namespace, ports.join(" "), rows.join(" ")))
        }
        _ => None,
    }
}

/// Returns a name with its simulated parts replaced.
fn drawn(name: &str) -> String {
    let is_drawn = |part: &&str| {
        matches!(part.len(), 5 | 10) && part.chars().all(|letter| "bcdfghjklmnpqrstvwxz2456789".contains(letter))
    };
    name.split('-').map(|part| if is_drawn(&part) { "#" } else { part }).collect::<Vec<_>>().join("-")
}

fn stateful_set(name: &str, service: &str, replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: {name}}}\nspec:\n  serviceName: '{service}'\n  \
         replicas: {replicas}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec: {{containers: \
         [{{ports: [{{name: http, containerPort: 8080}}]}}]}}\n---\n"
    )
}

fn headless(name: &str, app: &str, rest: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: None, selector: {{app: {app}}}, \
         {rest}}}\n---\n"
    )
}

fn pod(name: &str, rest: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}}}\n{rest}\n---\n")
}

fn workload(kind: &str, name: &str, rest: &str) -> String {
    let group = if kind == "Job" { "batch/v1" } else { "apps/v1" };
    format!(
        "apiVersion: {group}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{template: {{metadata: {{labels: {{app: \
         web}}}}}}, {rest}}}\n---\n"
    )
}

fn owned(manifest: &str, name: &str, kind: &str, owner: &str) -> String {
    let reference = format!("name: {name}, ownerReferences: [{{kind: {kind}, name: {owner}, controller: true}}]");
    manifest.replacen(&format!("name: {name}"), &reference, 1)
}

#[test]
fn simulates_seeds() {
    check(
        include_str!("../../../tests/scenarios/seed-1.yaml"),
        PODS,
        &[
            "pod xgp-lll/statefulset-test-0 *",
            "pod xgp-lll/statefulset-test-1 *",
            "pod xgp-lll/statefulset-test-2 *",
            "slice xgp-lll/headless-svc [myweb:80_t] statefulset-test-0=*:rs statefulset-test-1=*:rs \
             statefulset-test-2=*:rs",
        ],
    );
    check(
        include_str!("../../../tests/scenarios/seed-2.yaml"),
        PODS,
        &[
            "pod default/web-0 *",
            "pod default/web-1 *",
            "pod default/web-2 *",
            "slice default/web [:80_t] web-0=*:rs web-1=*:rs web-2=*:rs",
        ],
    );
    check(
        include_str!("../../../tests/scenarios/seed-3.yaml"),
        PODS,
        &[
            "pod default/myapp-0 *",
            "pod default/myapp-1 *",
            "slice default/demo-svc [web:80_t] (myapp-0)=*:rs (myapp-1)=*:rs",
        ],
    );
    check(
        include_str!("../../../tests/scenarios/seed-4.yaml"),
        PODS,
        &[
            "pod default/web-0 *",
            "pod default/web-1 *",
            "service default/web *",
            "slice default/web [web:80_t] (web-0)=*:rs (web-1)=*:rs",
            "slice default/web-headless [web:80_t] web-0=*:rs web-1=*:rs",
        ],
    );
    check(
        include_str!("../../../tests/scenarios/seed-5.yaml"),
        PODS,
        &[
            "pod default/mynginx-#-# *",
            "pod default/mynginx-#-# *",
            "pod default/mynginx-#-# *",
            "pod default/statefulset-test-0 *",
            "pod default/statefulset-test-1 *",
            "pod default/statefulset-test-2 *",
            "service default/test-nfs-svc *",
            "service default/test-statefulset-svc *",
            "slice default/test-nfs-svc [test-nfs-port:80_t] (mynginx-#-#)=*:rs (mynginx-#-#)=*:rs (mynginx-#-#)=*:rs",
            "slice default/test-statefulset-svc [test-statefulset-port:80_t] statefulset-test-0=*:rs \
             statefulset-test-1=*:rs statefulset-test-2=*:rs",
        ],
    );
}

#[test]
fn simulates_workloads() {
    let start = stateful_set("web", "web", 2).replace("replicas:", "ordinals: {start: 5}\n  replicas:");
    check(&start, PODS, &["pod default/web-5 *", "pod default/web-6 *"]);
    check(&stateful_set("web", "web", 0), PODS, &[]);
    check(&workload("DaemonSet", "log", ""), PODS, &["pod default/log-# *"]);
    check(&workload("ReplicaSet", "rs", "replicas: 2"), PODS, &["pod default/rs-# *", "pod default/rs-# *"]);
    check(&workload("Job", "once", ""), PODS, &["pod default/once-# *"]);
    let job = workload("Job", "job", "completions: 2, completionMode: Indexed")
        .replace("template: {", "template: {spec: {subdomain: job, hostname: x}, ");
    let service = headless("job", "web", "ports: [{port: 1}]");
    check(
        &(service + &job),
        PODS,
        &["pod default/job-0-# *", "pod default/job-1-# *", "slice default/job [:1_t] job-0=*:rs job-1=*:rs"],
    );
    // A Service per Pod of a StatefulSet, selected by the label with the Pod's name.
    let each = headless("web-1", "web", "").replace("{app: web}", "{statefulset.kubernetes.io/pod-name: web-1}");
    check(
        &(each + &stateful_set("web", "", 2)),
        PODS,
        &["pod default/web-0 *", "pod default/web-1 *", "slice default/web-1 [] (web-1)=*:rs"],
    );
    let long = "x".repeat(62);
    check(&stateful_set(&long, "web", 1), PODS, &[&format!("! StatefulSet default/{long}: the name {long}-0 of..")]);
}

#[test]
fn keeps_objects_of_files() {
    let of_set = owned(&pod("web-0", "status: {podIP: 10.1.0.1}"), "web-0", "StatefulSet", "web");
    check(&(of_set + &stateful_set("web", "web", 3)), PODS, &["pod default/web-0 10.1.0.1"]);
    check(&(pod("web-0", "") + &stateful_set("web", "web", 3)), PODS, &["pod default/web-0 *"]);
    let set = owned(&workload("ReplicaSet", "web-abc", "replicas: 1"), "web-abc", "Deployment", "web");
    let deployment = workload("Deployment", "web", "replicas: 2");
    check(&format!("{deployment}{set}"), PODS, &["pod default/web-abc-# *"]);
    let of_set = owned(&pod("web-abc-1", "status: {podIP: 10.1.0.1}"), "web-abc-1", "ReplicaSet", "web-abc");
    check(&format!("{deployment}{set}{of_set}"), PODS, &["pod default/web-abc-1 10.1.0.1"]);
    let labelled = of_set.replace("app: web", "pod-template-hash: abc");
    check(&format!("{deployment}{labelled}"), PODS, &["pod default/web-abc-1 10.1.0.1"]);
    // A Pod from a dump without an address had none in its cluster.
    let pending = owned(&pod("web-x", ""), "web-x", "ReplicaSet", "rs");
    check(&format!("{}{pending}", workload("ReplicaSet", "rs", "")), PODS, &["pod default/web-x "]);
    check(&pod("over", "status: {phase: Succeeded}"), PODS, &["pod default/over "]);
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: \
                 {kubernetes.io/service-name: web}}\naddressType: IPv4\n---\n";
    let web = headless("web", "web", "");
    // The controller ignores slices of other writers: Pods and machines behind one Service.
    let made = "slice default/web [] (a)=*:rs";
    check(&format!("{web}{slice}{}", pod("a", "")), PODS, &["pod default/a *", "slice default/web [] ", made]);
    let managed =
        slice.replace("web}", "web, endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}");
    check(&format!("{web}{managed}{}", pod("a", "")), PODS, &["pod default/a *", "slice default/web [] "]);
    let other = managed.replace("endpointslice-controller", "endpointslicemirroring-controller");
    check(&format!("{web}{other}{}", pod("a", "")), PODS, &["pod default/a *", "slice default/web [] ", made]);
    let external = web.replace("clusterIP: None", "type: ExternalName, externalName: x.org");
    check(&(external + &pod("a", "")), PODS, &["pod default/a *"]);
    check(&(web.replace("selector: {app: web}, ", "") + &pod("a", "")), PODS, &["pod default/a *"]);
}

fn endpoints(name: &str, subsets: &str) -> String {
    format!("apiVersion: v1\nkind: Endpoints\nmetadata: {{name: {name}}}\nsubsets: {subsets}\n---\n")
}

#[test]
fn mirrors_endpoints() {
    let service = headless("db", "", "ports: [{port: 5432}]").replace("selector: {app: }, ", "");
    let one = "[{addresses: [{ip: 192.0.2.1, hostname: db-0}, {ip: 192.0.2.2, nodeName: n, targetRef: {kind: Pod, name: \
               p}}], notReadyAddresses: [{ip: 192.0.2.3}], ports: [{name: pg, port: 5432}]}]";
    let mirrored = "slice default/db [pg:5432_t] db-0=192.0.2.1:rs (p)=192.0.2.2:rs -=192.0.2.3:";
    check(&(service.clone() + &endpoints("db", one)), PODS, &[mirrored]);
    // One slice for each family and list of ports, across all subsets.
    let several = "[{addresses: [{ip: 192.0.2.1}, {ip: '2001:db8::1'}], ports: [{name: a, port: 1}, {name: b, port: 2}]}, \
                   {addresses: [{ip: 192.0.2.2}], ports: [{name: b, port: 2}, {name: a, port: 1}]}, {addresses: [{ip: \
                   192.0.2.3}], ports: [{name: a, port: 3}]}]";
    check(
        &(service.clone() + &endpoints("db", several)),
        PODS,
        &[
            "slice default/db [a:1_t b:2_t] -=192.0.2.1:rs -=192.0.2.2:rs",
            "slice default/db [a:1_t b:2_t] -=2001:db8::1:rs",
            "slice default/db [a:3_t] -=192.0.2.3:rs",
        ],
    );
    // A Service with a cluster IP is mirrored too.
    let cluster_ip = service.replace("None", "10.96.0.1");
    check(&(cluster_ip + &endpoints("db", one)), PODS, &["service default/db 10.96.0.1", mirrored]);
    // Slices of other writers do not prevent mirroring; slices of the mirroring controller do.
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: \
                 {kubernetes.io/service-name: db}}\naddressType: IPv4\n---\n";
    check(&(service.clone() + slice + &endpoints("db", one)), PODS, &["slice default/db [] ", mirrored]);
    let own = "db, endpointslice.kubernetes.io/managed-by: endpointslicemirroring-controller.k8s.io}";
    check(&(service + &slice.replace("db}", own) + &endpoints("db", one)), PODS, &["slice default/db [] "]);
}

#[test]
fn skips_endpoints_that_controller_skips() {
    let service = headless("db", "", "").replace("selector: {app: }, ", "");
    let written = endpoints("db", "[{addresses: [{ip: 192.0.2.1}]}]");
    let with = |metadata: &str| written.replace("name: db", &format!("name: db, {metadata}"));
    for metadata in [
        "labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}",
        "annotations: {control-plane.alpha.kubernetes.io/leader: '{}'}",
        "namespace: other",
    ] {
        check(&(service.clone() + &with(metadata)), PODS, &[]);
    }
    for metadata in [
        "labels: {endpointslice.kubernetes.io/skip-mirror: 'false'}",
        "annotations: {control-plane.alpha.kubernetes.io/other: x}",
    ] {
        check(&(service.clone() + &with(metadata)), PODS, &["slice default/db [] -=192.0.2.1:rs"]);
    }
    check(&written, PODS, &[]);
    check(&(service.clone() + &endpoints("db", "[]")), PODS, &[]);
    check(&(headless("db", "db", "") + &written), PODS, &[]);
    // If Endpoints are read themselves, mirrored slices would double them.
    let read = simulate(decode(&(service + &written)), &ranges(PODS), &[], EndpointsSource::Endpoints);
    assert!(!read.objects.iter().any(|object| matches!(object, Object::EndpointSlice(_))), "{:?}", read.objects);
}

#[test]
fn mirrors_at_most_1000_addresses_of_subset() {
    let service = headless("db", "", "").replace("selector: {app: }, ", "");
    let addresses = |family: &dyn Fn(u32) -> String, count: u32| {
        (0..count).map(|n| format!("{{ip: '{}'}}", family(n))).collect::<Vec<_>>().join(", ")
    };
    let v4 = |n: u32| format!("192.0.{}.{}", n / 256, n % 256);
    let v6 = |n: u32| format!("2001:db8::{n:x}");
    let lengths = |subsets: &str| {
        let simulated = run(&(service.clone() + &endpoints("db", subsets)), PODS);
        let length = |object: &Object| match object {
            Object::EndpointSlice(slice) => Some((slice.len(), slice.states().filter(|(_, c)| c.ready()).count())),
            _ => None,
        };
        simulated.objects.iter().filter_map(length).collect::<Vec<_>>()
    };
    let ready = format!("addresses: [{}]", addresses(&v4, 600));
    assert_eq!(lengths(&format!("[{{notReadyAddresses: [{}], {ready}}}]", addresses(&v4, 700))), [(1000, 600)]);
    assert_eq!(
        lengths(&format!("[{{addresses: [{}, {}]}}]", addresses(&v6, 600), addresses(&v4, 600))),
        [(400, 400), (600, 600)]
    );
    let two = format!("[{{addresses: [{}], ports: [{{port: 1}}]}}, {{{ready}}}]", addresses(&v4, 1100));
    assert_eq!(lengths(&two), [(600, 600), (1000, 1000)]);
}

#[test]
fn ignores_endpoints_without_addresses() {
    let web = headless("web", "web", "") + &pod("a", "");
    let lines = |subsets: &str| {
        let objects = decode(&(web.clone() + &endpoints("web", subsets)));
        let simulated = simulate(objects, &ranges(PODS), &[], EndpointsSource::Endpoints);
        simulated.objects.iter().filter_map(|object| line(object, &HashSet::new())).collect::<Vec<_>>()
    };
    assert_eq!(lines("[]"), ["pod default/a *", "slice default/web [] (a)=*:rs"]);
    assert_eq!(lines("[{addresses: [{ip: 10.1.0.1}]}]"), ["pod default/a *"]);
}

#[test]
fn helm_hooks_are_no_endpoints() {
    let hook = |manifest: &str| manifest.replacen("metadata: {", "metadata: {annotations: {helm.sh/hook: test}, ", 1);
    let web = headless("web", "web", "");
    let manifest = web + &pod("a", "") + &hook(&pod("b", "")) + &hook(&workload("Job", "migrate", ""));
    check(&manifest, PODS, &["pod default/a *", "pod default/b ", "slice default/web [] (a)=*:rs"]);
    let notes: Vec<String> =
        run(&manifest, PODS).notes.into_iter().map(|(key, text)| format!("{key} {text}")).collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    for (note, start) in notes.iter().zip([
        "default/b Pod default/b: Helm runs it as a hook (`helm.sh/hook: test`)",
        "default/migrate Job default/migrate: Helm runs it as a hook (`helm.sh/hook: test`)",
    ]) {
        assert!(note.starts_with(start), "{note}");
    }
    // A Pod that ran in a cluster is an endpoint, and so is a Pod of a Deployment with a hook, which Helm does not end.
    let running = hook(&pod("b", "status: {podIP: 10.1.0.1}"));
    check(&running, PODS, &["pod default/b 10.1.0.1"]);
    assert_eq!(run(&(running + &hook(&workload("Deployment", "web", ""))), PODS).notes, []);
}

#[test]
fn selects_pods_as_endpoints() {
    let pods = [
        pod("ready", "status: {podIP: 10.1.0.1, conditions: [{type: Ready, status: 'True'}]}"),
        pod("unready", "status: {podIP: 10.1.0.2, conditions: [{type: Ready, status: 'False'}]}"),
        pod("over", "status: {podIP: 10.1.0.3, phase: Failed}"),
        pod("going", "status: {podIP: 10.1.0.4, conditions: [{type: Ready, status: 'True'}]}")
            .replace("labels:", "deletionTimestamp: 2024-01-01T00:00:00Z, labels:"),
        pod("other", "status: {podIP: 10.1.0.5}").replace("app: web", "app: other"),
        pod("elsewhere", "status: {podIP: 10.1.0.6}").replace("labels:", "namespace: elsewhere, labels:"),
        pod("named", "spec: {hostname: Host, subdomain: web}"),
        pod("misnamed", "spec: {hostname: host, subdomain: other}"),
    ]
    .concat();
    let all = [
        "pod default/going 10.1.0.4",
        "pod default/misnamed *",
        "pod default/named *",
        "pod default/other 10.1.0.5",
        "pod default/over 10.1.0.3",
        "pod default/ready 10.1.0.1",
        "pod default/unready 10.1.0.2",
        "pod elsewhere/elsewhere 10.1.0.6",
    ];
    let by_readiness = "slice default/web [] (ready)=10.1.0.1:rs (unready)=10.1.0.2: (going)=10.1.0.4:st host=*:rs \
                        (misnamed)=*:rs";
    let all_ready = "slice default/web [] (ready)=10.1.0.1:rs (unready)=10.1.0.2:r (going)=10.1.0.4:rst host=*:rs \
                     (misnamed)=*:rs";
    let expect = |slice| all.iter().copied().chain([slice]).collect::<Vec<&str>>();
    check(&(headless("web", "web", "") + &pods), PODS, &expect(by_readiness));
    let publish = headless("web", "web", "publishNotReadyAddresses: true");
    check(&(publish + &pods), PODS, &expect(all_ready));
}

#[test]
fn resolves_named_ports() {
    let ports = "ports: [{name: web, port: 80, targetPort: http}, {name: dns, port: 53, protocol: UDP}]";
    let with = |number: u16, protocol: &str| {
        format!(
            "spec: {{containers: [{{}}, {{ports: [{{name: http, containerPort: {number}, protocol: {protocol}}}]}}]}}"
        )
    };
    let pods = [
        pod("a", &with(8080, "TCP")),
        pod("b", &with(8081, "TCP")),
        pod("c", &with(8080, "UDP")),
        pod("d", &with(8080, "TCP")),
    ]
    .concat();
    check(
        &(headless("web", "web", ports) + &pods),
        PODS,
        &[
            "pod default/a *",
            "pod default/b *",
            "pod default/c *",
            "pod default/d *",
            "slice default/web [dns:53_u] (c)=*:rs",
            "slice default/web [web:8080_t dns:53_u] (a)=*:rs (d)=*:rs",
            "slice default/web [web:8081_t dns:53_u] (b)=*:rs",
        ],
    );
}

#[test]
fn includes_sidecar_ports() {
    let ports = "ports: [{port: 1, targetPort: own}, {name: side, port: 2, targetPort: side}, {name: once, port: 3, \
                 targetPort: once}]";
    let containers = "spec: {containers: [{ports: [{name: own, containerPort: 10}]}], initContainers: [{restartPolicy: \
                      Always, ports: [{name: side, containerPort: 20, protocol: TCP}, {name: own, containerPort: 30}]}, \
                      {ports: [{name: once, containerPort: 40}]}]}";
    let expected = ["pod default/a *", "slice default/web [:10_t side:20_t] (a)=*:rs"];
    check(&(headless("web", "web", ports) + &pod("a", containers)), PODS, &expected);
}

#[test]
fn assigns_families() {
    let set = stateful_set("web", "web", 1);
    let six = "slice default/web [] web-0=*6:rs";
    let four = "slice default/web [] web-0=*:rs";
    let service = headless("web", "web", "");
    check(&format!("{service}{set}"), "fd00::/64", &["pod default/web-0 *6", six]);
    let dual = "10.0.0.0/8 fd00::/64";
    // The API server's default is one family: that of the cluster's first network.
    check(&format!("{service}{set}"), dual, &["pod default/web-0 *,*6", four]);
    check(&format!("{service}{set}"), "fd00::/64 10.0.0.0/8", &["pod default/web-0 *6,*", six]);
    let prefers = headless("web", "web", "ipFamilyPolicy: PreferDualStack");
    check(&format!("{prefers}{set}"), dual, &["pod default/web-0 *,*6", six, four]);
    check(&format!("{prefers}{set}"), PODS, &["pod default/web-0 *", four]);
    let single = headless("web", "web", "ipFamilyPolicy: SingleStack, ipFamilies: [IPv6]");
    check(&format!("{single}{set}"), dual, &["pod default/web-0 *,*6", six]);
    let only_six = headless("web", "web", "ipFamilies: [IPv6]");
    check(&format!("{only_six}{set}"), dual, &["pod default/web-0 *,*6", six]);
    let both = "apiVersion: v1\nkind: Service\nmetadata: {name: both}\nspec: {ipFamilies: [IPv4, IPv6]}\n";
    check(
        both,
        PODS,
        &[
            "service default/both *",
            "! Service default/both: `ipFamilies` or `ipFamilyPolicy` ask for IPv6, and no IPv6..",
        ],
    );
    check(both, dual, &["service default/both *,*6"]);
    let with = |spec: &str| both.replace("ipFamilies: [IPv4, IPv6]", spec);
    check(&with("ipFamilyPolicy: PreferDualStack"), PODS, &["service default/both *"]);
    check(&with("ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv6]"), dual, &["service default/both *6,*"]);
    check(
        &with("ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.0.9"),
        dual,
        &["service default/both 10.96.0.9,*6"],
    );
    check(&with("ipFamilyPolicy: SingleStack"), dual, &["service default/both *"]);
    check(&with("clusterIP: 10.96.0.9"), dual, &["service default/both 10.96.0.9"]);
    let both = simulate(decode(both), &[], &ranges("fd00::/108 10.0.0.0/24"), EndpointsSource::Slices);
    let Object::Service(both) = &both.objects[0] else { panic!("a Service") };
    assert!(matches!(&both.kind, ServiceKind::ClusterIp(addresses) if addresses.len() == 2));
}

#[test]
fn reports_too_small_ranges() {
    let used = pod("used", "status: {podIP: 10.0.0.1}");
    check(
        &(used + &stateful_set("web", "web", 9)),
        "10.0.0.0/30",
        &[
            "pod default/used 10.0.0.1",
            "pod default/web-0 *",
            "pod default/web-1 *",
            "! Pods without an address: 7, beginning with StatefulSet default/web: no address of 10.0.0.0/30 is free, or more..",
        ],
    );
    let simulated =
        simulate(decode(&stateful_set("web", "web", u32::MAX)), &ranges("10.0.0.0/30"), &[], EndpointsSource::Slices);
    assert_eq!((simulated.objects.len(), simulated.reports.len()), (4, 1));
}

#[test]
fn addresses_are_stable() {
    let addresses = |manifest: &str| -> HashMap<String, Vec<IpAddr>> {
        let simulated = run(manifest, PODS);
        assert_eq!(simulated.objects, run(manifest, PODS).objects);
        let of = |object: &Object| match object {
            Object::Pod(pod) => Some((pod.key.to_string(), pod.addresses.clone())),
            _ => None,
        };
        simulated.objects.iter().filter_map(of).collect()
    };
    let few = addresses(&stateful_set("web", "web", 100));
    let all = addresses(&[stateful_set("a", "a", 100), stateful_set("web", "web", 200)].concat());
    let turned = addresses(&[stateful_set("web", "web", 200), stateful_set("a", "a", 100)].concat());
    assert_eq!(all, turned);
    assert_eq!(all.values().collect::<HashSet<_>>().len(), 300);
    // A few share a hash with one of the new Pods.
    let moved = few.iter().filter(|(name, addresses)| all[*name] != **addresses).count();
    assert!(moved <= 2, "{moved}");
}

#[test]
fn cuts_names_between_characters() {
    for name in ["é".repeat(40), format!("a{}", "漢".repeat(40))] {
        let simulated = run(&workload("ReplicaSet", &name, "replicas: 1"), PODS);
        let pod = simulated.objects.iter().find(|object| matches!(object, Object::Pod(_))).unwrap();
        assert!(pod.name().len() <= 63 && pod.name().chars().next() == name.chars().next(), "{}", pod.name());
    }
}

/// Takes a second or two, even unoptimized; a quadratic loop would take hours.
#[test]
fn simulates_large_sets() {
    let manifest =
        headless("web", "web", "ports: [{port: 80, targetPort: http}]") + &stateful_set("web", "web", 100_000);
    let objects = decode(&manifest);
    let simulated = simulate(objects, &ranges("10.0.0.0/8"), &[], EndpointsSource::Slices);
    let slices: Vec<&EndpointSlice> = simulated
        .objects
        .iter()
        .filter_map(|object| if let Object::EndpointSlice(slice) = object { Some(slice) } else { None })
        .collect();
    assert_eq!(slices.len(), 1000);
    assert!(slices.iter().all(|slice| slice.len() == 100));
    assert_eq!(slices.iter().map(|slice| &slice.key).collect::<HashSet<_>>().len(), 1000);
    // Names of few letters collide, and the loop for another one still ends.
    let many = workload("ReplicaSet", "rs", "replicas: 50000");
    let simulated = run(&many, "10.0.0.0/8");
    let names: HashSet<&str> = simulated.objects.iter().map(Object::name).collect();
    assert_eq!(names.len(), 50_001);
}
