//! A writer that changes a [`World`] through the API without a pause, and records the time of each change.
//!
//! Changes are made one after the other: each is tried until the API server acknowledges it, and goes to the ledger with the time
//! before its first request and the time of the acknowledgement. Every change names the version that it replaces, so that an
//! abandoned request can never undo a later one.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::ledger::Ledger;
use super::world::{Endpoint, NAMESPACE, Slice, World, service_object, slice_object};
use super::{WAIT_TIMEOUT, until};

/// Time limit for a change to be accepted, faults included.
const STUBBORN: Duration = Duration::from_secs(300);

/// A client of the API that retries changes.
pub struct Api {
    runtime: Runtime,
    kubeconfig: PathBuf,
    client: Option<Client>,
    versions: HashMap<String, String>,
}

/// Why a request was not done.
enum Refusal {
    /// An HTTP status.
    Status(u16),
    /// The change may have been made or not.
    Unknown(String),
}

impl Api {
    pub fn new(kubeconfig: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, kubeconfig: kubeconfig.into(), client: None, versions: HashMap::new() }
    }

    /// Creates an object outside all worlds; an existing one stays.
    pub fn create(&mut self, collection: &str, object: &Value) -> Value {
        self.stubbornly(|api| match api.request(Method::POST, collection, object) {
            Err(Refusal::Status(409)) => {
                let path = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap());
                api.request(Method::GET, &path, &Value::Null)
            }
            other => other,
        })
    }

    /// Creates or replaces the object of this name.
    fn put(&mut self, collection: &str, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        let path = format!("{collection}/{name}");
        let taken = self.stubbornly(|api| {
            let done = match api.versions.get(&path).cloned() {
                Some(version) => {
                    let mut object = object.clone();
                    object["metadata"]["resourceVersion"] = version.into();
                    api.request(Method::PUT, &path, &object)
                }
                None => api.request(Method::POST, collection, object),
            };
            let Err(Refusal::Status(status @ (404 | 409))) = done else { return done };
            api.versions.remove(&path);
            if status == 404 {
                return done;
            }
            // Another version exists: of a request without a response, or of a restored backup.
            let there = api.request(Method::GET, &path, &Value::Null)?;
            if same(&there, object) {
                return Ok(there);
            }
            api.remember(&path, &there);
            Err(Refusal::Unknown("it was another version".into()))
        });
        self.remember(&path, &taken);
    }

    fn remember(&mut self, path: &str, object: &Value) {
        self.versions.insert(path.into(), object["metadata"]["resourceVersion"].as_str().unwrap().into());
    }

    fn delete(&mut self, collection: &str, name: &str) {
        let path = format!("{collection}/{name}");
        self.versions.remove(&path);
        self.stubbornly(|api| match api.request(Method::DELETE, &path, &Value::Null) {
            Err(Refusal::Status(404)) => Ok(Value::Null),
            other => other,
        });
    }

    fn stubbornly(&mut self, mut attempt: impl FnMut(&mut Self) -> Result<Value, Refusal>) -> Value {
        until("the API server takes a change", STUBBORN, || {
            attempt(self).map_err(|refusal| match refusal {
                Refusal::Status(status) => format!("HTTP status {status}"),
                Refusal::Unknown(why) => {
                    // Its connection may be dead, its certificate another.
                    self.client = None;
                    why
                }
            })
        })
    }

    fn request(&mut self, method: Method, path: &str, body: &Value) -> Result<Value, Refusal> {
        let unknown = |why: &dyn std::fmt::Display| Refusal::Unknown(why.to_string());
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.body(body).unwrap();
        let Self { runtime, client, kubeconfig, .. } = self;
        runtime.block_on(async {
            let client = match client {
                Some(client) => client,
                None => client.insert(connect(kubeconfig).await.map_err(|error| unknown(&error))?),
            };
            // Longer than any pause of the API server here: an abandoned request may still be performed.
            match timeout(STUBBORN, client.request::<Value>(request)).await {
                Ok(Ok(done)) => Ok(done),
                Ok(Err(kube::Error::Api(status))) => Err(Refusal::Status(status.code)),
                Ok(Err(error)) => Err(unknown(&error)),
                Err(late) => Err(unknown(&late)),
            }
        })
    }
}

async fn connect(kubeconfig: &Path) -> Result<Client, Box<dyn std::error::Error>> {
    let mut config =
        Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Returns whether an object equals the wanted one in the fields that a world has.
fn same(there: &Value, wanted: &Value) -> bool {
    let parts = |object: &Value| {
        let ends = object["endpoints"].as_array().cloned().unwrap_or_default();
        let ends: Vec<_> = ends.iter().map(|end| (end["addresses"].clone(), end["hostname"].clone())).collect();
        (ends, object["ports"][0]["port"].clone(), object["metadata"]["deletionTimestamp"].clone())
    };
    parts(there) == parts(wanted) || wanted["kind"] == "Service"
}

const SERVICES: &str = "/api/v1/namespaces/drill/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/drill/endpointslices";

/// Makes the namespace, and `world` in it.
pub fn furnish(api: &mut Api, world: &World) {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    api.create("/api/v1/namespaces", &namespace);
    for service in &world.services {
        api.put(SERVICES, &service_object(service));
    }
    for (name, slice) in &world.slices {
        api.put(SLICES, &slice_object(name, slice));
    }
}

/// Number of Services that keep changing, and of those that come and go.
pub const CHURN: usize = 6;
pub const SWING: usize = 2;
/// Hostnames are `h-0` to this, without it.
pub const HOSTS: usize = 5;

/// The world that a drill begins with.
pub fn first_world() -> World {
    let mut world = World::default();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut still = Slice { service: "still".into(), port: 80, endpoints: Vec::new() };
    for host in 0..3 {
        let hostname = Some(format!("h-{host}"));
        still.endpoints.push(Endpoint { address: Ipv4Addr::new(10, 77, 1, host + 1), hostname });
    }
    world.services.insert("still".into());
    world.slices.insert("still".into(), still);
    for number in 0..CHURN {
        let service = format!("churn-{number}");
        world.slices.insert(format!("{service}-0"), slice(&mut rng, &service, 0));
        world.services.insert(service);
    }
    world
}

const RUN: u8 = 0;
const PAUSE: u8 = 1;
const STOP: u8 = 2;
const PAUSED: u8 = 3;

/// Changes the world until it is told to stop, or dropped.
pub struct Writer {
    ledger: Arc<Mutex<Ledger>>,
    state: Arc<AtomicU8>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Makes a change every `pace`.
    pub fn start(api: Api, ledger: &Arc<Mutex<Ledger>>, pace: Duration) -> Self {
        let state = Arc::new(AtomicU8::new(RUN));
        let hand = Hand { api, ledger: Arc::clone(ledger), rng: fastrand::Rng::with_seed(7), generation: 0 };
        let told = Arc::clone(&state);
        let thread = std::thread::spawn(move || hand.write(&told, pace));
        Self { ledger: Arc::clone(ledger), state, thread: Some(thread) }
    }

    /// Makes no change any more, and waits for the one that is under way.
    pub fn pause(&self) {
        self.state.store(PAUSE, Ordering::SeqCst);
        until("the writer pauses", WAIT_TIMEOUT, || match self.state.load(Ordering::SeqCst) {
            PAUSED => Ok(()),
            _ => Err("a change is under way"),
        });
    }

    pub fn resume(&self) {
        self.state.store(RUN, Ordering::SeqCst);
    }

    /// Records that the API's state is `world` again, since a time between these two. Called while the writer is paused.
    pub fn was_put_back(&self, world: World, from: Instant, to: Instant) {
        self.ledger.lock().unwrap().change(world, from, to);
    }

    pub fn stop(mut self) {
        self.state.store(STOP, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.state.store(STOP, Ordering::SeqCst);
    }
}

struct Hand {
    api: Api,
    ledger: Arc<Mutex<Ledger>>,
    rng: fastrand::Rng,
    generation: u16,
}

impl Hand {
    fn write(mut self, state: &AtomicU8, pace: Duration) {
        loop {
            match state.load(Ordering::SeqCst) {
                STOP => return,
                RUN => self.change(),
                _ => _ = state.compare_exchange(PAUSE, PAUSED, Ordering::SeqCst, Ordering::SeqCst),
            }
            std::thread::sleep(pace);
        }
    }

    fn change(&mut self) {
        self.generation += 1;
        match self.rng.u8(0..10) {
            0..=4 => self.change_slice(),
            5..=7 => self.replace_slice(),
            _ => self.swing(),
        }
    }

    fn world(&self) -> World {
        self.ledger.lock().unwrap().world().clone()
    }

    /// One change of one object: in the world, and as requests to the API.
    fn make(&mut self, of_world: impl FnOnce(&mut World), of_api: impl FnOnce(&mut Api)) {
        let mut world = self.world();
        of_world(&mut world);
        let sent = Instant::now();
        of_api(&mut self.api);
        self.ledger.lock().unwrap().change(world, sent, Instant::now());
    }

    fn put(&mut self, name: &str, service: &str) {
        let slice = slice(&mut self.rng, service, self.generation);
        let object = slice_object(name, &slice);
        self.make(|world| _ = world.slices.insert(name.into(), slice), |api| api.put(SLICES, &object));
    }

    fn delete(&mut self, name: &str) {
        self.make(|world| _ = world.slices.remove(name), |api| api.delete(SLICES, name));
    }

    /// A Service that keeps changing, and its slice.
    fn any(&mut self) -> (String, String) {
        let service = format!("churn-{}", self.rng.usize(0..CHURN));
        let slice = self.slice_of(&service).expect("such a Service has a slice");
        (service, slice)
    }

    fn slice_of(&self, service: &str) -> Option<String> {
        self.world().slices.into_iter().find(|(_, slice)| slice.service == service).map(|(name, _)| name)
    }

    fn change_slice(&mut self) {
        let (service, slice) = self.any();
        self.put(&slice, &service);
    }

    /// Another slice takes the place of one, before or after it is gone.
    fn replace_slice(&mut self) {
        let (service, old) = self.any();
        // Before the old one in a list, or behind.
        let new = format!("{service}-{}{}", self.rng.char('a'..='z'), self.generation);
        if self.rng.bool() {
            self.put(&new, &service);
            self.delete(&old);
        } else {
            self.delete(&old);
            self.put(&new, &service);
        }
    }

    /// A Service comes, or goes; its slice with it, or not.
    fn swing(&mut self) {
        let service = format!("swing-{}", self.rng.usize(0..SWING));
        let slice = self.slice_of(&service);
        if self.world().services.contains(&service) {
            self.make(|world| _ = world.services.remove(&service), |api| api.delete(SERVICES, &service));
            if let Some(slice) = slice.filter(|_| self.rng.bool()) {
                self.delete(&slice);
            }
        } else {
            let object = service_object(&service);
            self.make(|world| _ = world.services.insert(service.clone()), |api| api.put(SERVICES, &object));
            let slice = slice.unwrap_or_else(|| format!("{service}-{}", self.generation));
            self.put(&slice, &service);
        }
    }
}

/// Endpoints that `service` never had before: their port is of this generation. Two slices that follow one another
/// have no address in common, and Services that come and go none with others.
fn slice(rng: &mut fastrand::Rng, service: &str, generation: u16) -> Slice {
    let network = match service.strip_prefix("swing-") {
        Some(number) => 3 + number.parse::<u8>().unwrap(),
        None => 2,
    };
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for host in 0..HOSTS {
        let last = rng.u8(1..=20) + 20 * (generation % 2) as u8;
        let address = Ipv4Addr::new(10, 77, network, last);
        let is_new = endpoints.iter().all(|endpoint| endpoint.address != address);
        if rng.u8(0..10) < 7 && is_new {
            endpoints.push(Endpoint { address, hostname: (rng.u8(0..5) > 0).then(|| format!("h-{host}")) });
        }
    }
    Slice { service: service.into(), port: 1024 + generation, endpoints }
}
