//! A replacement for scheduler and kubelet: binds Pods to the Node, assigns addresses and readiness, and ends Pods.
//!
//! It watches all Pods and performs each step at once: binding, a new address, `Running` and `Ready`, and the last step of a
//! deletion. A test holds a step back, for one Pod by its name, also before the Pod exists, and releases it. Nothing runs in
//! these Pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::control_plane::{ControlPlane, NODE};

/// Interval of retries of actions that the API server refused.
const AGAIN: Duration = Duration::from_millis(250);
/// Time limit for a request: the API server may be stopped.
const DEADLINE: Duration = Duration::from_secs(5);

/// Replaces scheduler and kubelet until it is dropped.
pub struct Kubelet {
    orders: Arc<Orders>,
    running: Option<JoinHandle<()>>,
}

impl Kubelet {
    pub fn start(plane: &ControlPlane) -> Self {
        let orders = Arc::<Orders>::default();
        let (theirs, kubeconfig) = (Arc::clone(&orders), plane.admin_kubeconfig());
        let running = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let client = client(&kubeconfig).await;
                tokio::select! {
                    () = follow(&client, &theirs) => {}
                    () = theirs.stop.notified() => {}
                }
            });
        });
        Self { orders, running: Some(running) }
    }

    /// Sets whether this Pod, and later Pods of its name, are ready.
    pub fn ready(&self, namespace: &str, pod: &str, ready: bool) {
        self.orders.change(|state| _ = state.ready.insert(key(namespace, pod), ready));
    }

    /// Sets whether other Pods are ready; by default they are.
    pub fn ready_by_default(&self, ready: bool) {
        self.orders.change(|state| state.not_ready_by_default = !ready);
    }

    /// Holds a Pod before it has a Node and an address, or lets it go on.
    pub fn hold_pending(&self, namespace: &str, pod: &str, hold: bool) {
        self.orders.change(|state| set(&mut state.pending, key(namespace, pod), hold));
    }

    /// Holds a Pod that is deleted in `terminating`, ready as it is, or lets it end.
    pub fn hold_terminating(&self, namespace: &str, pod: &str, hold: bool) {
        self.orders.change(|state| set(&mut state.terminating, key(namespace, pod), hold));
    }

    /// Gives a Pod new addresses, as after a restart of its sandbox.
    pub fn new_address(&self, namespace: &str, pod: &str) {
        self.orders.change(|state| {
            if let Some(uid) = state.uids.get(&key(namespace, pod)).cloned() {
                state.addresses.remove(&uid);
            }
        });
    }

    /// Sets whether new Pods get an IPv6 address too; by default they do not.
    pub fn dual_stack(&self, dual: bool) {
        self.orders.change(|state| state.dual = dual);
    }

    /// The addresses of the Pod that has this name now, IPv4 first; none before it was given some.
    pub fn addresses(&self, namespace: &str, pod: &str) -> Vec<IpAddr> {
        let state = self.orders.state.lock().unwrap();
        let uid = state.uids.get(&key(namespace, pod));
        uid.and_then(|uid| state.addresses.get(uid)).cloned().unwrap_or_default()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.orders.stop.notify_one();
        if let Some(running) = self.running.take() {
            let ended = running.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the stand-in for the kubelet panicked");
        }
    }
}

/// Namespace and name.
type Key = (String, String);

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

fn set(keys: &mut BTreeSet<Key>, key: Key, there: bool) {
    if there { _ = keys.insert(key) } else { _ = keys.remove(&key) }
}

#[derive(Default)]
struct Orders {
    state: Mutex<State>,
    changed: Notify,
    stop: Notify,
}

impl Orders {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_one();
    }
}

#[derive(Default)]
struct State {
    ready: BTreeMap<Key, bool>,
    not_ready_by_default: bool,
    pending: BTreeSet<Key>,
    terminating: BTreeSet<Key>,
    dual: bool,
    /// UIDs of the existing Pods.
    uids: BTreeMap<Key, String>,
    /// By uid: a Pod that takes the name of another has addresses of its own.
    addresses: BTreeMap<String, Vec<IpAddr>>,
    /// Number of addresses that were assigned.
    given: u16,
    /// By uid: whether it is ready, and since when.
    since: BTreeMap<String, (bool, String)>,
}

impl State {
    /// Returns the next action for a Pod, if any.
    fn next(&mut self, key: &Key, pod: &Value) -> Option<Action> {
        let uid = pod["metadata"]["uid"].as_str()?;
        self.uids.insert(key.clone(), uid.to_owned());
        if pod["metadata"]["deletionTimestamp"].is_string() && !self.terminating.contains(key) {
            return Some(Action::End);
        }
        if self.pending.contains(key) {
            return None;
        }
        if pod["spec"]["nodeName"].is_null() {
            return Some(Action::Bind);
        }
        let status = self.status(key, uid);
        (!says(&pod["status"], &status)).then_some(Action::Patch(status))
    }

    /// Returns the Pod's new status.
    fn status(&mut self, key: &Key, uid: &str) -> Value {
        let ready = self.ready.get(key).copied().unwrap_or(!self.not_ready_by_default);
        let since = self.since(uid, ready);
        // Without its time a Pod never counts as available, and no rolling update goes on.
        let condition = |name: &str, is: bool| json!({"type": name, "status": if is { "True" } else { "False" }, "lastTransitionTime": since});
        let addresses = match self.addresses.get(uid) {
            Some(addresses) => addresses.clone(),
            None => self.give(uid),
        };
        json!({
            "phase": "Running",
            "podIP": addresses[0],
            "podIPs": addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
            "conditions": [
                condition("PodScheduled", true),
                condition("Initialized", true),
                condition("ContainersReady", ready),
                condition("Ready", ready),
            ],
        })
    }

    /// Since when a Pod is ready, or not: RFC 3339.
    fn since(&mut self, uid: &str, ready: bool) -> String {
        match self.since.get(uid) {
            Some((is, since)) if *is == ready => since.clone(),
            _ => {
                let now = Command::new("date").args(["--utc", "+%Y-%m-%dT%H:%M:%SZ"]).output().unwrap().stdout;
                let now = String::from_utf8(now).unwrap().trim().to_owned();
                self.since.insert(uid.to_owned(), (ready, now.clone()));
                now
            }
        }
    }

    fn give(&mut self, uid: &str) -> Vec<IpAddr> {
        self.given += 1;
        let [high, low] = self.given.to_be_bytes();
        let mut addresses = vec![IpAddr::from(Ipv4Addr::new(10, 244, high, low))];
        if self.dual {
            addresses.push(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, self.given).into());
        }
        self.addresses.insert(uid.to_owned(), addresses.clone());
        addresses
    }
}

/// Returns whether `status` has all fields of `wanted`: the API server adds fields of its own, in the conditions too.
fn says(status: &Value, wanted: &Value) -> bool {
    match (status, wanted) {
        (Value::Object(status), Value::Object(wanted)) => {
            wanted.iter().all(|(field, wanted)| status.get(field).is_some_and(|status| says(status, wanted)))
        }
        (Value::Array(status), Value::Array(wanted)) => {
            status.len() == wanted.len() && status.iter().zip(wanted).all(|(status, wanted)| says(status, wanted))
        }
        _ => status == wanted,
    }
}

enum Action {
    Bind,
    Patch(Value),
    End,
}

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

/// Lists, watches and acts, and begins anew when the API server is gone.
async fn follow(client: &Client, orders: &Orders) {
    loop {
        let _ = follow_once(client, orders).await;
        tokio::time::sleep(AGAIN).await;
    }
}

async fn follow_once(client: &Client, orders: &Orders) -> Option<()> {
    let list = send(client, "GET", "/api/v1/pods", "", &Value::Null).await?;
    let mut pods: BTreeMap<Key, Value> =
        list["items"].as_array()?.iter().map(|pod| (key_of(pod), pod.clone())).collect();
    let version = list["metadata"]["resourceVersion"].as_str()?;
    let path = format!("/api/v1/pods?watch=true&resourceVersion={version}&timeoutSeconds=300");
    let request = Request::get(path).body(Body::empty()).unwrap();
    let mut events = timeout(DEADLINE, client.send(request)).await.ok()?.ok()?.into_body();
    let mut unread = Vec::new();
    loop {
        act(client, orders, &mut pods).await;
        tokio::select! {
            // A frame that was cut off stays in the body: this may be given up at any time.
            frame = events.frame() => unread.extend_from_slice(frame?.ok()?.data_ref()?),
            () = orders.changed.notified() => {}
            () = tokio::time::sleep(AGAIN) => {}
        }
        while let Some(end) = unread.iter().position(|&octet| octet == b'\n') {
            let event: Value = serde_json::from_slice(&unread[..end]).ok()?;
            unread.drain(..=end);
            let (kind, pod) = (event["type"].as_str()?, &event["object"]);
            match kind {
                "ADDED" | "MODIFIED" => _ = pods.insert(key_of(pod), pod.clone()),
                "DELETED" => forget(orders, &mut pods, pod),
                _ => return None,
            }
        }
    }
}

fn forget(orders: &Orders, pods: &mut BTreeMap<Key, Value>, pod: &Value) {
    let key = key_of(pod);
    orders.state.lock().unwrap().uids.remove(&key);
    pods.remove(&key);
}

/// Performs the actions of each Pod, until none is left or the API server refuses one.
async fn act(client: &Client, orders: &Orders, pods: &mut BTreeMap<Key, Value>) {
    for (key, pod) in pods {
        loop {
            let Some(action) = orders.state.lock().unwrap().next(key, pod) else { break };
            let Some(answer) = perform(client, key, pod, &action).await else { break };
            match action {
                Action::Bind => pod["spec"]["nodeName"] = NODE.into(),
                Action::Patch(_) => *pod = answer,
                // The watch reports its end.
                Action::End => break,
            }
        }
    }
}

async fn perform(client: &Client, (namespace, name): &Key, pod: &Value, action: &Action) -> Option<Value> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    let uid = &pod["metadata"]["uid"];
    match action {
        Action::Bind => {
            let binding = json!({
                "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "uid": uid},
                "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
            });
            send(client, "POST", &format!("{path}/binding"), "application/json", &binding).await
        }
        Action::Patch(status) => {
            let patch = json!({"metadata": {"uid": uid}, "status": status});
            send(client, "PATCH", &format!("{path}/status"), "application/merge-patch+json", &patch).await
        }
        Action::End => {
            let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
            send(client, "DELETE", &path, "application/json", &options).await
        }
    }
}

/// The object that the API server answers with; none if it refused, or not in time.
async fn send(client: &Client, method: &str, path: &str, content: &str, body: &Value) -> Option<Value> {
    let octets = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = Request::builder().method(method).uri(path).header("content-type", content).body(octets).unwrap();
    timeout(DEADLINE, client.request::<Value>(request)).await.ok()?.ok()
}

fn key_of(pod: &Value) -> Key {
    let field = |name: &str| pod["metadata"][name].as_str().unwrap_or_default().to_owned();
    (field("namespace"), field("name"))
}
