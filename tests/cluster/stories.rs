//! The life cycle of Services and StatefulSets: changes with kubectl, answers with dig.
//!
//! Each test has a cluster of its own. Names are short: `web-0.web.default` is `web-0.web.default.svc.cluster.local`. The seeds
//! are those of `tests/scenarios`, where workloads are simulated.

use super::server::headless_dns;
use super::story::{Fact, Story, has_rcode, resolves, reverse};

const SEED_1: &str = include_str!("../scenarios/seed-1.yaml");
const SEED_2: &str = include_str!("../scenarios/seed-2.yaml");
const SEED_3: &str = include_str!("../scenarios/seed-3.yaml");
const SEED_4: &str = include_str!("../scenarios/seed-4.yaml");
const SEED_5: &str = include_str!("../scenarios/seed-5.yaml");

/// Seed 2, with its three Pods and their names.
fn seed_2() -> Story {
    let mut story = Story::begin();
    story.plane.apply(SEED_2);
    story.then("seed 2 is applied", |story| web(story, &["web-0", "web-1", "web-2"]));
    story
}

/// The Service web has these Pods, each with its own name, and no other of the first three has one.
fn web(story: &Story, pods: &[&str]) -> Fact {
    match pods {
        [] => story.denied("web.default")?,
        pods => story.resolves("web.default", pods)?,
    }
    for pod in ["web-0", "web-1", "web-2"] {
        if pods.contains(&pod) {
            story.has_its_name(pod, "web.default")?;
        } else {
            story.denied(&format!("{pod}.web.default"))?;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn publishes_and_withdraws_namespace() {
    let mut story = Story::begin();
    story.then("nothing is there", |story| story.denied("xgp-lll"));
    story.plane.apply(SEED_1);
    let pods = ["statefulset-test-0", "statefulset-test-1", "statefulset-test-2"];
    story.then("seed 1 is applied", |story| {
        story.resolves("headless-svc.xgp-lll", &pods)?;
        pods.iter().try_for_each(|pod| story.has_its_name(pod, "headless-svc.xgp-lll"))?;
        let srv = pods.map(|pod| format!("0 33 80 {pod}.headless-svc.xgp-lll.svc.cluster.local."));
        story.answers("_myweb._tcp.headless-svc.xgp-lll", "SRV", &srv.each_ref().map(String::as_str))
    });
    story.plane.kubectl(&["delete", "namespace", "xgp-lll"]);
    story.then("its namespace is deleted", |story| {
        story.denied("xgp-lll")?;
        story.denied("headless-svc.xgp-lll")?;
        pods.iter().try_for_each(|pod| story.denied(&format!("{pod}.headless-svc.xgp-lll")))
    });
    story.plane.kubectl(&["create", "namespace", "xgp-lll"]);
    story.then("the namespace is there again, and empty", |story| {
        story.without_data("xgp-lll")?;
        story.denied("headless-svc.xgp-lll")
    });
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn scales_up_in_order_and_down_in_reverse() {
    let mut story = Story::begin();
    story.kubelet.ready_by_default(false);
    story.plane.apply(SEED_2);
    // The controller has seen its first Pod, and makes no second.
    let waits_for = |story: &Story, pods: &[&str]| {
        story.pods("default", pods)?;
        let replicas = story.field("default", "statefulset/web", ".status.replicas");
        if replicas == pods.len().to_string() { Ok(()) } else { Err(format!("{replicas} replicas")) }
    };
    story.then("web-0 is not ready: no web-1, no name", |story| {
        waits_for(story, &["web-0"])?;
        not_ready_endpoint(story, "web-0")?;
        web(story, &[])
    });
    story.kubelet.ready("default", "web-0", true);
    story.then("web-0 is ready, web-1 is there and not ready", |story| {
        waits_for(story, &["web-0", "web-1"])?;
        not_ready_endpoint(story, "web-1")?;
        web(story, &["web-0"])
    });
    story.kubelet.ready("default", "web-1", true);
    story.then("web-1 is ready, web-2 is there and not ready", |story| {
        waits_for(story, &["web-0", "web-1", "web-2"])?;
        web(story, &["web-0", "web-1"])
    });
    story.kubelet.ready("default", "web-2", true);
    story.then("all are ready", |story| web(story, &["web-0", "web-1", "web-2"]));

    ["web-1", "web-2"].iter().for_each(|pod| story.kubelet.hold_terminating("default", pod, true));
    story.plane.kubectl(&["scale", "statefulset/web", "--replicas=1"]);
    story.then("scaled down to 1: web-2 terminates, web-1 stays until it is gone", |story| {
        is_terminating(story, "web-2", true)?;
        is_terminating(story, "web-1", false)?;
        web(story, &["web-0", "web-1"])
    });
    story.kubelet.hold_terminating("default", "web-2", false);
    story.then("web-2 is gone, web-1 terminates", |story| {
        story.pods("default", &["web-0", "web-1"])?;
        is_terminating(story, "web-1", true)?;
        web(story, &["web-0"])
    });
    story.kubelet.hold_terminating("default", "web-1", false);
    story.then("web-1 is gone", |story| {
        story.pods("default", &["web-0"])?;
        web(story, &["web-0"])
    });
    story.plane.kubectl(&["scale", "statefulset/web", "--replicas=3"]);
    story.then("scaled up to 3 again", |story| web(story, &["web-0", "web-1", "web-2"]));
    story.plane.kubectl(&["delete", "statefulset/web", "service/web"]);
    story.then("all is deleted", |story| web(story, &[]));
}

fn is_terminating(story: &Story, pod: &str, expected: bool) -> Fact {
    let deleted = !story.field("default", &format!("pod/{pod}"), ".metadata.deletionTimestamp").is_empty();
    if deleted == expected { Ok(()) } else { Err(format!("{pod} is deleted: {deleted}")) }
}

/// The EndpointSlices of web have the Pod, not ready.
fn not_ready_endpoint(story: &Story, pod: &str) -> Fact {
    let path = format!("{{.items[*].endpoints[?(@.targetRef.name=='{pod}')].conditions.ready}}");
    let ready = story.plane.kubectl(&[
        "get",
        "endpointslices",
        "-l",
        "kubernetes.io/service-name=web",
        "-o",
        &format!("jsonpath={path}"),
    ]);
    if ready == "false" { Ok(()) } else { Err(format!("the endpoint {pod} is ready: `{ready}`")) }
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn recreated_pod_keeps_name_and_changes_address() {
    let mut story = seed_2();
    let old = story.kubelet.addresses("default", "web-1")[0];
    story.plane.kubectl(&["delete", "pod", "web-1"]);
    let moved = |story: &Story, old: std::net::IpAddr| {
        if story.kubelet.addresses("default", "web-1").contains(&old) {
            return Err("web-1 has its old address".to_owned());
        }
        web(story, &["web-0", "web-1", "web-2"])?;
        story.answers(&reverse(old), "PTR", &[])
    };
    story.then("web-1 is deleted: the same name, another address", |story| moved(story, old));
    let old = story.kubelet.addresses("default", "web-1")[0];
    story.kubelet.new_address("default", "web-1");
    story.then("web-1 has another address without a new Pod", |story| moved(story, old));
    story.kubelet.hold_pending("default", "web-0", true);
    story.plane.kubectl(&["delete", "pod", "web-0"]);
    story.then("web-0 is deleted and its successor has no address yet", |story| {
        story.pods("default", &["web-0", "web-1", "web-2"])?;
        web(story, &["web-1", "web-2"])
    });
    story.kubelet.hold_pending("default", "web-0", false);
    story.then("it has one", |story| web(story, &["web-0", "web-1", "web-2"]));
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn unready_pod_is_published_by_rules() {
    let mut story = seed_2();
    let [serving, any] = ["serving", "any"].map(|which| story.server_with("--ordinals", which));
    let all = ["web-0", "web-1", "web-2"];
    // Rows E2 and E3: the Service's name never has it, its own name by --ordinals.
    let of_the_others = |story: &Story, by_serving: bool, by_any: bool| {
        for (server, named) in [(&serving, by_serving), (&any, by_any)] {
            resolves(server, &story.kubelet, "web.default", &["web-0", "web-2"])?;
            if named {
                resolves(server, &story.kubelet, "web-1.web.default", &["web-1"])?;
            } else {
                has_rcode(server, "web-1.web.default", "NXDOMAIN")?;
            }
        }
        Ok(())
    };
    story.kubelet.ready("default", "web-1", false);
    story.then("web-1 is not ready", |story| {
        web(story, &["web-0", "web-2"])?;
        of_the_others(story, false, true)
    });
    story.kubelet.ready("default", "web-1", true);
    story.then("web-1 is ready again", |story| web(story, &all));
    story.kubelet.hold_terminating("default", "web-1", true);
    story.plane.kubectl(&["delete", "pod", "web-1", "--wait=false"]);
    story.then("web-1 terminates, and serves meanwhile", |story| {
        web(story, &["web-0", "web-2"])?;
        of_the_others(story, true, true)
    });
    story.kubelet.ready("default", "web-1", false);
    story.then("web-1 terminates, and serves no more", |story| {
        web(story, &["web-0", "web-2"])?;
        of_the_others(story, false, true)
    });
    story.kubelet.hold_terminating("default", "web-1", false);
    story.then("the next web-1 is not ready either", |story| {
        is_terminating(story, "web-1", false)?;
        web(story, &["web-0", "web-2"])?;
        of_the_others(story, false, true)
    });
    let publish = |yes: bool| format!("{{\"spec\": {{\"publishNotReadyAddresses\": {yes}}}}}");
    story.plane.kubectl(&["patch", "service", "web", "-p", &publish(true)]);
    // Row E4.
    story.then("the Service publishes addresses that are not ready", |story| {
        web(story, &all)?;
        resolves(&serving, &story.kubelet, "web.default", &all)
    });
    story.plane.kubectl(&["patch", "service", "web", "-p", &publish(false)]);
    story.then("and no longer", |story| web(story, &["web-0", "web-2"]));
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn rollout_stops_at_partition() {
    let mut story = seed_2();
    let all = ["web-0", "web-1", "web-2"];
    let addresses = |story: &Story| all.map(|pod| story.kubelet.addresses("default", pod));
    // Which Pods are new, by their addresses.
    let rolled = |story: &Story, before: &[Vec<std::net::IpAddr>; 3], expected: [bool; 3]| {
        let now = addresses(story);
        let new = [0, 1, 2].map(|at| now[at] != before[at]);
        if new == expected { Ok(()) } else { Err(format!("new Pods: {new:?}")) }
    };
    let before = addresses(&story);
    story.plane.kubectl(&["patch", "statefulset", "web", "-p", &strategy(2)]);
    story.plane.kubectl(&["set", "image", "statefulset/web", "nginx=nginx:2"]);
    story.then("a new image with partition 2: web-2 alone is new", |story| {
        web(story, &all)?;
        rolled(story, &before, [false, false, true])?;
        updated(story, "1")
    });
    story.kubelet.hold_pending("default", "web-1", true);
    story.plane.kubectl(&["patch", "statefulset", "web", "-p", &strategy(0)]);
    story.then("partition 0: web-1 is new and has no address yet, web-0 waits for it", |story| {
        rolled(story, &before, [false, true, true])?;
        updated(story, "2")?;
        web(story, &["web-0", "web-2"])
    });
    story.kubelet.hold_pending("default", "web-1", false);
    story.then("web-1 is ready: web-0 follows", |story| {
        rolled(story, &before, [true, true, true])?;
        updated(story, "3")?;
        web(story, &all)
    });
}

fn strategy(partition: u32) -> String {
    format!("{{\"spec\": {{\"updateStrategy\": {{\"rollingUpdate\": {{\"partition\": {partition}}}}}}}}}")
}

/// Checks the number of Pods of the newest template.
fn updated(story: &Story, expected: &str) -> Fact {
    let found = story.field("default", "statefulset/web", ".status.updatedReplicas");
    if found == expected { Ok(()) } else { Err(format!("{found} updated, not {expected}")) }
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn parallel_pods_scale_at_once() {
    let mut story = Story::begin();
    story.kubelet.ready_by_default(false);
    story.plane.apply(&SEED_2.replace("  replicas: 3\n", "  replicas: 3\n  podManagementPolicy: Parallel\n"));
    story.then("all Pods are there, none is ready", |story| {
        story.pods("default", &["web-0", "web-1", "web-2"])?;
        not_ready_endpoint(story, "web-2")?;
        web(story, &[])
    });
    story.kubelet.ready("default", "web-2", true);
    story.then("web-2 is ready first", |story| web(story, &["web-2"]));
    story.kubelet.ready_by_default(true);
    story.then("all are ready", |story| web(story, &["web-0", "web-1", "web-2"]));
    ["web-0", "web-1", "web-2"].iter().for_each(|pod| story.kubelet.hold_terminating("default", pod, true));
    story.plane.kubectl(&["scale", "statefulset/web", "--replicas=0"]);
    story.then("scaled to 0: all terminate at the same time", |story| {
        ["web-0", "web-1", "web-2"].iter().try_for_each(|pod| is_terminating(story, pod, true))?;
        web(story, &[])
    });
    ["web-0", "web-1", "web-2"].iter().for_each(|pod| story.kubelet.hold_terminating("default", pod, false));
    story.then("all are gone", |story| {
        story.pods("default", &[])?;
        web(story, &[])
    });
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn orphaned_pods_keep_names() {
    let mut story = seed_2();
    let kept = story.kubelet.addresses("default", "web-0");
    story.plane.kubectl(&["delete", "statefulset", "web", "--cascade=orphan"]);
    story.then("the StatefulSet is deleted with --cascade=orphan", |story| {
        story.pods("default", &["web-0", "web-1", "web-2"])?;
        web(story, &["web-0", "web-1", "web-2"])
    });
    story.plane.kubectl(&["delete", "pod", "web-1"]);
    story.then("web-1 is deleted, and nobody makes another", |story| {
        story.pods("default", &["web-0", "web-2"])?;
        web(story, &["web-0", "web-2"])
    });
    story.plane.apply(SEED_2);
    story.then("the StatefulSet is there again and adopts them", |story| {
        web(story, &["web-0", "web-1", "web-2"])?;
        let owner = story.field("default", "pod/web-0", ".metadata.ownerReferences[0].name");
        let adopted = owner == "web" && story.kubelet.addresses("default", "web-0") == kept;
        if adopted { Ok(()) } else { Err(format!("web-0 belongs to `{owner}`")) }
    });
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn service_changes_type() {
    let mut story = seed_2();
    let all = ["web-0", "web-1", "web-2"];
    let in_place = story.plane.try_kubectl(&[
        "patch",
        "service",
        "web",
        "-p",
        r#"{"spec": {"clusterIP": "10.96.7.7", "clusterIPs": ["10.96.7.7"]}}"#,
    ]);
    assert!(!in_place.status.success(), "the API server refuses to change clusterIP None in place");
    let become_ = |story: &Story, spec: &str| {
        story.plane.kubectl(&["delete", "service", "web"]);
        story.plane.apply(&format!("{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {spec}}}"));
    };
    let ports = "selector: {app: nginx}, ports: [{port: 80, name: http}]";

    become_(&story, &format!("{{{ports}}}"));
    story.then("headless to ClusterIP", |story| {
        let address = story.field("default", "service/web", ".spec.clusterIP");
        story.answers("web.default", "A", &[&address])?;
        story.answers(&reverse(address.parse().unwrap()), "PTR", &["web.default.svc.cluster.local."])?;
        story.answers("_http._tcp.web.default", "SRV", &["0 100 80 web.default.svc.cluster.local."])?;
        all.iter().try_for_each(|pod| story.has_its_name(pod, "web.default"))
    });
    become_(&story, "{type: ExternalName, externalName: example.com}");
    story.then("ClusterIP to ExternalName", |story| {
        story.answers("web.default", "CNAME", &["example.com."])?;
        all.iter().try_for_each(|pod| story.denied(&format!("{pod}.web.default")))
    });
    become_(&story, "{type: ExternalName, externalName: kubernetes.default.svc.cluster.local}");
    story.then("ExternalName of a Service", |story| {
        let address = story.field("default", "service/kubernetes", ".spec.clusterIP");
        story.answers("web.default", "A", &[&address])?;
        story.answers("web.default", "CNAME", &["kubernetes.default.svc.cluster.local."])
    });
    story.plane.kubectl(&[
        "patch",
        "service",
        "web",
        "-p",
        r#"{"spec": {"externalName": "nowhere.default.svc.cluster.local"}}"#,
    ]);
    story.then("ExternalName of a Service that is not there", |story| {
        let answer = story.server.ask("web.default.svc.cluster.local", "A");
        let as_should = answer.rcode.as_deref() == Some("NXDOMAIN") && answer.data("CNAME").len() == 1;
        if as_should { Ok(()) } else { Err(answer.to_string()) }
    });
    become_(&story, &format!("{{clusterIP: None, {ports}}}"));
    story.then("ExternalName to headless", |story| web(story, &all));
    become_(&story, &format!("{{{ports}}}"));
    story.then("headless to ClusterIP once more", |story| {
        story.answers("web.default", "A", &[&story.field("default", "service/web", ".spec.clusterIP")])
    });
    let outside =
        r#"{"spec": {"type": "ExternalName", "externalName": "example.com", "clusterIP": null, "clusterIPs": null}}"#;
    story.plane.kubectl(&["patch", "service", "web", "-p", outside]);
    story.then("ClusterIP to ExternalName in place", |story| story.answers("web.default", "CNAME", &["example.com."]));
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn dual_stack_names_have_both_families() {
    let mut story = Story::begin();
    story.kubelet.dual_stack(true);
    let dual = "  ipFamilyPolicy: RequireDualStack\n";
    story.plane.apply(&SEED_2.replace("  clusterIP: None\n", &format!("  clusterIP: None\n{dual}")));
    story.then("a headless Service with both families", |story| {
        web(story, &["web-0", "web-1", "web-2"])?;
        let six = story.server.data("web.default.svc.cluster.local", "AAAA").len();
        if six == 3 { Ok(()) } else { Err(format!("{six} AAAA records")) }
    });
    story.plane.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: both}, \
         spec: {ipFamilyPolicy: RequireDualStack, selector: {app: nginx}, ports: [{port: 80, name: http}]}}",
    );
    story.then("a ClusterIP of both families", |story| {
        let addresses = story.field("default", "service/both", ".spec.clusterIPs[*]");
        let (four, six) = addresses.split_once(' ').ok_or("one address")?;
        story.answers("both.default", "A", &[four])?;
        story.answers("both.default", "AAAA", &[six])?;
        story.answers(&reverse(six.parse().unwrap()), "PTR", &["both.default.svc.cluster.local."])
    });
    story.plane.kubectl(&["delete", "service", "web"]);
    story.plane.apply(&SEED_2.replace("  clusterIP: None\n", "  clusterIP: None\n  ipFamilies: [IPv6]\n"));
    story.then("IPv6 alone: A is NODATA", |story| {
        let name = "web.default.svc.cluster.local";
        let (four, six) = (story.server.ask(name, "A"), story.server.data(name, "AAAA").len());
        let as_should = four.rcode.as_deref() == Some("NOERROR") && four.records.is_empty() && six == 3;
        if as_should { Ok(()) } else { Err(format!("A {four}, {six} AAAA records")) }
    });
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn serves_handwritten_slices() {
    let mut story = Story::begin();
    let service = |name: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, \
             spec: {{clusterIP: None, ports: [{{name: sql, port: 5432}}]}}}}\n"
        )
    };
    let slice = |name: &str, service: &str, endpoints: &str| {
        format!(
            "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
             metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}, \
             ports: [{{name: sql, port: 15432}}], endpoints: [{endpoints}]}}\n"
        )
    };
    let primary = r#"{addresses: ["10.9.0.1"], hostname: primary}"#;
    let replica = r#"{addresses: ["10.9.0.2"]}"#;
    story.plane.apply(&(service("db") + &service("other")));
    story.then("Services without a selector and without endpoints", |story| story.denied("db.default"));
    story.plane.apply(&slice("db-1", "db", &format!("{primary}, {replica}")));
    story.then("a slice by hand", |story| {
        story.answers("db.default", "A", &["10.9.0.1", "10.9.0.2"])?;
        story.answers("primary.db.default", "A", &["10.9.0.1"])?;
        story.answers("10-9-0-2.db.default", "A", &["10.9.0.2"])?;
        let targets = ["10-9-0-2", "primary"].map(|host| format!("0 50 15432 {host}.db.default.svc.cluster.local."));
        story.answers("_sql._tcp.db.default", "SRV", &targets.each_ref().map(String::as_str))
    });
    story.plane.apply(&slice("db-2", "db", primary));
    story.then("another slice with the same endpoint (E5)", |story| {
        story.answers("db.default", "A", &["10.9.0.1", "10.9.0.2"])?;
        story.answers("primary.db.default", "A", &["10.9.0.1"])
    });
    story.plane.apply(&slice("db-1", "db", replica));
    story.then("the first slice loses it: the second still has it", |story| {
        story.answers("db.default", "A", &["10.9.0.1", "10.9.0.2"])
    });
    story.plane.kubectl(&["label", "--overwrite", "endpointslice/db-2", "kubernetes.io/service-name=other"]);
    story.then("the second slice moves to another Service (E8)", |story| {
        story.answers("db.default", "A", &["10.9.0.2"])?;
        story.denied("primary.db.default")?;
        story.answers("primary.other.default", "A", &["10.9.0.1"])?;
        story.answers(&reverse("10.9.0.1".parse().unwrap()), "PTR", &["primary.other.default.svc.cluster.local."])
    });
    story.plane.kubectl(&["label", "endpointslice/db-2", "kubernetes.io/service-name-"]);
    story.then("a slice without a Service is nobody's (E6)", |story| story.denied("other.default"));
    story.plane.kubectl(&["delete", "endpointslice/db-1"]);
    story.then("no slice is left", |story| {
        story.denied("db.default")?;
        story.denied("10-9-0-2.db.default")
    });
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn service_name_mismatch_publishes_no_pod_names() {
    let mut story = Story::begin();
    story.plane.apply(SEED_3);
    let both = ["myapp-0", "myapp-1"];
    let names = ["myapp-0.myapp-svc", "myapp-1.myapp-svc", "myapp-0.demo-svc", "myapp-1.demo-svc"];
    story.then("seed 3 is applied: addresses, and no ordinal", |story| {
        story.resolves("demo-svc.default", &both)?;
        names.iter().try_for_each(|name| story.denied(&format!("{name}.default")))
    });
    story.plane.apply(&SEED_3.replacen("name: demo-svc", "name: myapp-svc", 1));
    story.then("the Service that it names is made: the ordinals are there, below this one", |story| {
        both.iter().try_for_each(|pod| story.has_its_name(pod, "myapp-svc.default"))?;
        names[2..].iter().try_for_each(|name| story.denied(&format!("{name}.default")))?;
        story.resolves("demo-svc.default", &both)
    });
    story.plane.kubectl(&["delete", "service", "myapp-svc"]);
    story.then("and deleted", |story| names.iter().try_for_each(|name| story.denied(&format!("{name}.default"))));
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn two_services_select_the_same_pods() {
    let mut story = Story::begin();
    story.plane.apply(SEED_4);
    let both = ["web-0", "web-1"];
    story.then("seed 4 is applied", |story| {
        story.resolves("web-headless.default", &both)?;
        both.iter().try_for_each(|pod| story.has_its_name(pod, "web-headless.default"))?;
        story.answers("web.default", "A", &[&story.field("default", "service/web", ".spec.clusterIP")])?;
        both.iter().try_for_each(|pod| story.denied(&format!("{pod}.web.default")))
    });
    story.kubelet.ready("default", "web-0", false);
    story.then("web-0 is not ready: the ClusterIP stays", |story| {
        story.resolves("web-headless.default", &["web-1"])?;
        story.denied("web-0.web-headless.default")?;
        story.answers("web.default", "A", &[&story.field("default", "service/web", ".spec.clusterIP")])
    });
    story.plane.kubectl(&["delete", "service", "web-headless"]);
    story.then("the governing Service is deleted", |story| {
        story.denied("web-headless.default")?;
        both.iter().try_for_each(|pod| story.denied(&format!("{pod}.web-headless.default")))
    });
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn node_port_service_governs() {
    let mut story = Story::begin();
    story.plane.apply(SEED_5);
    let pods = ["statefulset-test-0", "statefulset-test-1", "statefulset-test-2"];
    let governed = |story: &Story, pods: &[&str]| {
        let address = story.field("default", "service/test-statefulset-svc", ".spec.clusterIP");
        story.answers("test-statefulset-svc.default", "A", &[&address])?;
        pods.iter().try_for_each(|pod| story.has_its_name(pod, "test-statefulset-svc.default"))
    };
    story.then("seed 5 is applied: ordinals below a NodePort Service", |story| {
        governed(story, &pods)?;
        deployment(story, 3)
    });
    story.kubelet.ready("default", pods[1], false);
    story.then("one of them is not ready", |story| {
        governed(story, &[pods[0], pods[2]])?;
        story.denied(&format!("{}.test-statefulset-svc.default", pods[1]))
    });
    story.plane.kubectl(&["scale", "deployment/mynginx", "--replicas=1"]);
    story.then("the Deployment is scaled to 1", |story| deployment(story, 1));
    story.plane.kubectl(&["delete", "deployment/mynginx"]);
    story.then("and deleted: its Service keeps its address", |story| deployment(story, 0));
}

/// The Deployment has so many Pods, each with its address as a name below the Service, which has a ClusterIP.
fn deployment(story: &Story, expected: usize) -> Fact {
    let pods = story.plane.kubectl(&["get", "pods", "-l", "app=mynginx", "-o", "jsonpath={.items[*].metadata.name}"]);
    let pods: Vec<&str> = pods.split_whitespace().collect();
    if pods.len() != expected {
        return Err(format!("{pods:?}"));
    }
    for pod in pods {
        let address = story.kubelet.addresses("default", pod).first().ok_or("a Pod has no address")?.to_string();
        story.answers(&format!("{}.test-nfs-svc.default", address.replace('.', "-")), "A", &[&address])?;
    }
    story.answers("test-nfs-svc.default", "A", &[&story.field("default", "service/test-nfs-svc", ".spec.clusterIP")])
}

/// Checks that the name does not exist, and that the answer has the cause.
fn told(story: &Story, name: &str, why: &str) -> Fact {
    let answer = story.server.ask(&format!("{name}.svc.cluster.local"), "A");
    let expected = format!("0 (Other): ({why})");
    match answer.ede.as_slice() {
        [said] if *said == expected && answer.rcode.as_deref() == Some("NXDOMAIN") => Ok(()),
        _ => Err(format!("{name}: expected {expected}, answered {answer}")),
    }
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn explains_negative_response() {
    let mut story = Story::begin();
    story.kubelet.ready_by_default(false);
    story.plane.apply(SEED_2);
    story.then("web-0 is not ready, web-1 waits for it", |story| {
        story.pods("default", &["web-0"])?;
        told(story, "web-0.web.default", "NOT-READY: web-0 of Service default/web is not ready")?;
        told(story, "web.default", "NONE-READY: 0 of 1 endpoints of Service default/web are ready")?;
        let waits = "STS-NOT-YET: web-0 is not ready, and Pods are made in order; web-1 is in no slice of web";
        told(story, "web-1.web.default", waits)?;
        told(story, "web-0.default", "POD-AS-SERVICE: web-0 is a Pod: its name is web-0.web.default.svc")
    });
    story.kubelet.ready_by_default(true);
    ["web-0", "web-1", "web-2"].iter().for_each(|pod| story.kubelet.ready("default", pod, true));
    story.then("all are ready", |story| web(story, &["web-0", "web-1", "web-2"]));

    story.kubelet.hold_terminating("default", "web-2", true);
    story.plane.kubectl(&["delete", "pod/web-2", "--wait=false"]);
    story.kubelet.ready("default", "web-2", false);
    story.then("web-2 is being deleted", |story| {
        let why = "TERMINATING: web-2 of Service default/web is terminating, not serving any more";
        told(story, "web-2.web.default", why)
    });
    story.kubelet.hold_terminating("default", "web-2", false);
    story.kubelet.ready("default", "web-2", true);
    story.plane.kubectl(&["scale", "statefulset/web", "--replicas=2"]);
    story.then("scaled down", |story| {
        story.pods("default", &["web-0", "web-1"])?;
        told(story, "web-2.web.default", "STS-ORDINAL: StatefulSet default/web has replicas=2, ordinals 0..1, no 2")
    });
    story.plane.kubectl(&["set", "selector", "service/web", "app=wrong"]);
    story.then("the Service selects other Pods", |story| {
        let why = "NO-ENDPOINTS: Service default/web selects app=wrong, StatefulSet web requires app=nginx of its Pods";
        told(story, "web.default", why)
    });
    let fix = explained(&story, "web.default.svc.cluster.local");
    let patch = fix.lines().find_map(|line| line.trim().strip_prefix("kubectl ")).expect("a command").replace('\'', "");
    story.plane.kubectl(&patch.split(' ').collect::<Vec<_>>());
    story.then("the command that explain prints is run", |story| web(story, &["web-0", "web-1"]));

    story.plane.apply(SEED_3);
    story.then("seed 3: the StatefulSet names no Service that exists", |story| {
        let why = "STS-NO-SERVICE: StatefulSet default/myapp names Service myapp-svc, which does not exist; demo-svc \
                   selects its Pods";
        story.pods("default", &["web-0", "web-1", "myapp-0", "myapp-1"])?;
        told(story, "myapp-0.myapp-svc.default", why)
    });
    let explained = explained(&story, "myapp-0.myapp-svc.default.svc.cluster.local");
    let object = explained.split_once("<<'EOF'\n").expect("an object").1.split("EOF").next().unwrap();
    story.plane.apply(object);
    story.then("the object that explain prints is applied", |story| {
        story.has_its_name("myapp-0", "myapp-svc.default")?;
        story.has_its_name("myapp-1", "myapp-svc.default")
    });
}

/// Returns the output of `explain` for a name that does not resolve.
fn explained(story: &Story, name: &str) -> String {
    let mut command = headless_dns();
    command.arg("explain").arg(name).arg("--kubeconfig").arg(story.plane.admin_kubeconfig());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
