//! What happens to Services and StatefulSets in their lives, as their users see it: kubectl on one side, dig on the other.

use super::control_plane::ControlPlane;
use super::kubelet::Kubelet;
use super::server::{CONVERGED, Server};
use super::until;

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn a_stateful_set_is_applied_and_resolves() {
    let plane = ControlPlane::start();
    plane.let_server_read();
    let kubelet = Kubelet::start(&plane);
    let server = Server::start::<&str>(&plane.server_kubeconfig(), &[]).synced();
    plane.apply(include_str!("../scenarios/seed-2.yaml"));
    for pod in ["web-0", "web-1", "web-2"] {
        until(pod, CONVERGED, || {
            let given: Vec<String> = kubelet.addresses("default", pod).iter().map(ToString::to_string).collect();
            let answered = server.ask(&format!("{pod}.web.default.svc.cluster.local"), "A");
            let resolves = !given.is_empty() && answered.data("A") == given;
            if resolves { Ok(()) } else { Err(format!("{answered} for {given:?}")) }
        });
    }
}
