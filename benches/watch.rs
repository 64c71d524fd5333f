//! A live cluster in figures: how soon a change is answered, and what a large cluster costs.
//!
//! `cargo bench --bench watch` runs both parts; `-- change` and `-- large [SLICES ENDPOINTS]` run one. The server is
//! the built program in a process of its own, asked over UDP; the API server is the fake of `tests/it/api_server/`, in
//! this process, over TCP. Compare figures of one run; `large` reads `/proc`, so it needs Linux. On a machine that is
//! shared: `cargo bench --no-run --bench watch`, and `chrt -f 10` in front of the program that it names.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may panic, and prints")]
#![allow(unreachable_pub, reason = "a benchmark's own modules")]

#[path = "../tests/it/api_server/fake.rs"]
mod fake;

use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fake::Fake;
use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::reverse_name;
use headless_dns_core::rtype;
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const SERVICES: &str = "services";
const SLICES: &str = "endpointslices";
const NOERROR: u8 = 0;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    // cargo test runs benchmarks with `--test`: then there is nothing to measure.
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let number = |at: usize, default| arguments.get(at).map_or(default, |text| text.parse().unwrap());
    let part = arguments.first().map(String::as_str);
    if part.is_none_or(|part| part == "change") {
        change();
    }
    if part.is_none_or(|part| part == "large") {
        large(Shape { slices: number(1, 100_000), endpoints: number(2, 10), per_service: 1 });
    }
}

/// A cluster of headless Services with the Pods of StatefulSets.
#[derive(Clone, Copy)]
struct Shape {
    slices: usize,
    /// Endpoints of a slice.
    endpoints: usize,
    /// Slices of a Service.
    per_service: usize,
}

impl Shape {
    fn namespace(self, service: usize) -> String {
        format!("team-{}", service % 100)
    }

    /// Endpoint `endpoint` of slice `slice`, in front of the zone.
    fn name(self, slice: usize, endpoint: usize) -> String {
        let (service, ordinal) = (slice / self.per_service, slice % self.per_service * self.endpoints + endpoint);
        format!("web-{service}-{ordinal}.web-{service}.{}.svc.cluster.local", self.namespace(service))
    }

    fn service(self, service: usize) -> String {
        let namespace = self.namespace(service);
        format!(
            r#"{{"kind":"Service","apiVersion":"v1","metadata":{{"name":"web-{service}","namespace":"{namespace}","uid":"5f0a9b3c-0000-4000-8000-{service:012}","resourceVersion":"1","creationTimestamp":"2026-01-01T00:00:00Z","labels":{{"app":"web-{service}"}}}},"spec":{{"clusterIP":"None","clusterIPs":["None"],"internalTrafficPolicy":"Cluster","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","ports":[{{"name":"http","port":80,"protocol":"TCP","targetPort":80}}],"selector":{{"app":"web-{service}"}},"sessionAffinity":"None","type":"ClusterIP"}},"status":{{"loadBalancer":{{}}}}}}"#
        )
    }

    /// A slice as the controller writes it. Endpoint number `moved` has another address in each `version`.
    fn slice(self, slice: usize, version: u64, moved: usize) -> String {
        let service = slice / self.per_service;
        let namespace = self.namespace(service);
        let mut endpoints = String::new();
        for endpoint in 0..self.endpoints {
            let ordinal = slice % self.per_service * self.endpoints + endpoint;
            let address = self.address(slice, endpoint, if endpoint == moved { version } else { 1 });
            let comma = if endpoint == 0 { "" } else { "," };
            endpoints += &format!(
                r#"{comma}{{"addresses":["{address}"],"conditions":{{"ready":true,"serving":true,"terminating":false}},"hostname":"web-{service}-{ordinal}","nodeName":"node-{}","targetRef":{{"kind":"Pod","name":"web-{service}-{ordinal}","namespace":"{namespace}","uid":"9c1b7f64-0000-4000-8000-{ordinal:012}"}},"zone":"zone-{}"}}"#,
                ordinal % 500,
                ordinal % 3
            );
        }
        format!(
            r#"{{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","metadata":{{"name":"web-{service}-{slice:06}","generateName":"web-{service}-","namespace":"{namespace}","uid":"77e1d2aa-0000-4000-8000-{slice:012}","resourceVersion":"{version}","generation":{version},"creationTimestamp":"2026-01-01T00:00:00Z","labels":{{"app":"web-{service}","endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"web-{service}","service.kubernetes.io/headless":""}},"annotations":{{"endpoints.kubernetes.io/last-change-trigger-time":"2026-01-01T00:00:00Z"}},"ownerReferences":[{{"apiVersion":"v1","kind":"Service","name":"web-{service}","uid":"5f0a9b3c-0000-4000-8000-{service:012}","controller":true,"blockOwnerDeletion":true}}]}},"addressType":"IPv4","endpoints":[{endpoints}],"ports":[{{"name":"http","port":80,"protocol":"TCP"}}]}}"#
        )
    }

    /// Of the first version: counted from 10.16.0.0 on. Later ones stand in 10.128.0.0/9.
    fn address(self, slice: usize, endpoint: usize, version: u64) -> Ipv4Addr {
        match version {
            1 => (0x0a10_0000 + (slice * self.endpoints + endpoint) as u32).into(),
            version => (0x0a80_0000 | version as u32 & 0x7f_ffff).into(),
        }
    }

    /// The fake API server with all of it; each slice moves its endpoint of that number where it changes.
    fn cluster(self, moved: &Arc<AtomicUsize>) -> Fake {
        let fake = Fake::default();
        let moved = Arc::clone(moved);
        fake.make(SERVICES, self.slices / self.per_service, move |service, _| self.service(service));
        fake.make(SLICES, self.slices, move |slice, version| self.slice(slice, version, moved.load(Ordering::Relaxed)));
        fake
    }
}

/// The built program, following a fake API server.
struct Server {
    child: Child,
    begun: Instant,
    port: u16,
    /// Its kubeconfig.
    _folder: TempDir,
}

impl Server {
    fn start(runtime: &Runtime, fake: &Fake) -> Self {
        let url = runtime.block_on(fake.listen());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "clusters": [{"name": "fake", "cluster": {"server": url}}], "users": [{"name": "fake", "user": {}}]});
        std::fs::write(&path, config.to_string()).unwrap();
        // The port of the banner is known only when all was read.
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_headless-dns"));
        command.env_clear().args(["serve", "--workers", "2", "--listen", &format!("127.0.0.1:{port}"), "--kubeconfig"]);
        command.arg(&path).stdout(Stdio::null()).stderr(Stdio::null());
        Self { begun: Instant::now(), child: command.spawn().unwrap(), port, _folder: folder }
    }

    /// A field of `/proc/PID/status`, in megabytes of 10^6 octets.
    fn memory(&self, field: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0 / 1e6
    }

    /// Time on a CPU, of all its threads.
    fn cpu(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let of = |thread: std::io::Result<std::fs::DirEntry>| {
            // One that ends meanwhile has none.
            let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        };
        Duration::from_nanos(threads.filter_map(of).sum())
    }

    /// VmHWM begins again from the present size (proc(5), `clear_refs`).
    fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks a server, one question at a time.
struct Asker {
    socket: UdpSocket,
    id: u16,
    buffer: [u8; 2048],
}

/// What came back: the rcode, and the last four octets of the first answer, which for A are its address.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    rcode: u8,
    count: u8,
    address: Option<Ipv4Addr>,
}

impl Asker {
    fn new(server: &Server) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", server.port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        Self { socket, id: 0, buffer: [0; 2048] }
    }

    /// `None` if nothing came within half a second, or the socket is not there yet.
    fn ask(&mut self, name: &WireName, qtype: u16) -> Option<Answer> {
        self.id = self.id.wrapping_add(1);
        let mut query = vec![(self.id >> 8) as u8, self.id as u8, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend_from_slice(name.octets());
        query.extend_from_slice(&qtype.to_be_bytes());
        query.extend_from_slice(&[0, 1]);
        self.socket.send(&query).ok()?;
        loop {
            let length = self.socket.recv(&mut self.buffer).ok()?;
            let message = &self.buffer[..length];
            if message[..2] == query[..2] {
                // Behind the question: a pointer, type, class, TTL, length, and the address.
                let rdata = message.get(query.len() + 12..query.len() + 16).filter(|_| qtype == rtype::A);
                let address = rdata.filter(|_| message[7] > 0);
                let address = address.map(|octets| <[u8; 4]>::try_from(octets).unwrap().into());
                return Some(Answer { rcode: message[3] & 0x0f, count: message[7], address });
            }
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn wire(name: &str) -> WireName {
    WireName::parse(name).unwrap()
}

/// From the last octet of an event written, to the first answer that shows it.
fn change() {
    const CHANGES: usize = 2000;
    println!("us from the last octet of the event written to the first answer over UDP that shows it");
    println!("(100,000 endpoints in 1,000 slices; a Pod of one slice gets another address; {CHANGES} changes)");
    for per_service in [1, 10] {
        let shape = Shape { slices: 1000, endpoints: 100, per_service };
        let runtime = runtime();
        let moved = Arc::new(AtomicUsize::new(0));
        let fake = shape.cluster(&moved);
        let server = Server::start(&runtime, &fake);
        let mut asker = Asker::new(&server);
        until_ready(&mut asker, shape);
        std::thread::sleep(Duration::from_secs(1));
        let (mut shown, mut round_trips) = (Vec::new(), Vec::new());
        let mut version = 1;
        for turn in 0..CHANGES {
            std::thread::sleep(Duration::from_micros(2_000 + turn as u64 * 7919 % 3_000));
            let (slice, endpoint) = (turn * 617 % shape.slices, turn * 31 % shape.endpoints);
            let name = wire(&shape.name(slice, endpoint));
            let asked = Instant::now();
            asker.ask(&name, rtype::A).unwrap();
            round_trips.push(asked.elapsed());
            version += 1;
            moved.store(endpoint, Ordering::Relaxed);
            let address = shape.address(slice, endpoint, version);
            fake.change_made(SLICES, slice);
            let seen = loop {
                std::thread::sleep(Duration::from_micros(20));
                if asker.ask(&name, rtype::A).is_some_and(|answer| answer.address == Some(address)) {
                    break Instant::now();
                }
            };
            shown.push(seen - fake.written().unwrap().into_std());
        }
        println!("  {:>5} endpoints per Service    {}", 100 * per_service, percentiles(&mut shown));
        println!("        a question and its answer    {}", percentiles(&mut round_trips));
        let each = churn(&server, &fake, shape);
        println!("        1,000 changes per second: {:.1} us of CPU each", each.as_secs_f64() * 1e6);
    }
}

/// A thousand changes per second for some time, of slices all over: what one costs the server.
fn churn(server: &Server, fake: &Fake, shape: Shape) -> Duration {
    const CHANGES: u32 = 5000;
    let (begun, before) = (Instant::now(), server.cpu());
    for turn in 0..CHANGES {
        fake.change_made(SLICES, turn as usize * 617 % shape.slices);
        std::thread::sleep((begun + Duration::from_millis(1) * turn).saturating_duration_since(Instant::now()));
    }
    (server.cpu() - before) / CHANGES
}

fn until_ready(asker: &mut Asker, shape: Shape) {
    let name = wire(&shape.name(0, 0));
    while asker.ask(&name, rtype::A).is_none_or(|answer| answer.rcode != NOERROR) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn percentiles(times: &mut [Duration]) -> String {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_micros();
    format!("p50 {:>5}  p90 {:>5}  p99 {:>5}  max {:>6}", at(0.5), at(0.9), at(0.99), at(1.0))
}

/// Time to ready, and memory, of a large cluster; asked all along.
fn large(shape: Shape) {
    let Shape { slices, endpoints, .. } = shape;
    println!("{slices} slices of {endpoints} endpoints, each of its own headless Service; MB are 10^6 octets");
    for (how, streams) in [("streaming lists", true), ("lists in pages", false)] {
        let runtime = runtime();
        let fake = shape.cluster(&Arc::default());
        if !streams {
            fake.refuse_streams();
        }
        let server = Server::start(&runtime, &fake);
        let asked = Asked::default();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| ask_all_along(&server, shape, &asked, &done));
            let ready = until(|| asked.right.load(Ordering::Relaxed) > 0) - server.begun;
            let first_peak = server.memory("VmHWM");
            std::thread::sleep(Duration::from_secs(5));
            let steady = server.memory("VmRSS");
            println!(
                "  {how}: ready after {:.2} s, steady {steady:.1} MB (while starting at most {first_peak:.1} MB)",
                ready.as_secs_f64()
            );
            println!("    {:.0} octets per endpoint", steady * 1e6 / (slices * endpoints) as f64);
            for turn in 1..=3 {
                let took = relist(&server, &fake);
                let peak = server.memory("VmHWM");
                println!(
                    "    relist {turn}: peak {peak:.1} MB, {:.3} of steady, in {:.2} s",
                    peak / steady,
                    took.as_secs_f64()
                );
            }
            done.store(true, Ordering::Relaxed);
        });
        println!("    {asked}");
        assert_eq!(asked.wrong.load(Ordering::Relaxed), 0, "answers were wrong");
    }
}

/// Makes the server list everything again, and waits until it has done so.
fn relist(server: &Server, fake: &Fake) -> Duration {
    server.forget_peak();
    let begun = Instant::now();
    let listed = until(fake.relist([SERVICES, SLICES]));
    fake.heal();
    // What was sent is read and compared.
    std::thread::sleep(Duration::from_secs(3));
    listed - begun
}

fn until(mut holds: impl FnMut() -> bool) -> Instant {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 300 s");
        std::thread::sleep(Duration::from_millis(1));
    }
    Instant::now()
}

#[derive(Default)]
struct Asked {
    right: AtomicU64,
    wrong: AtomicU64,
    unready: AtomicU64,
    lost: AtomicU64,
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { right, wrong, unready, lost } = self;
        let [right, wrong, unready, lost] = [right, wrong, unready, lost].map(|count| count.load(Ordering::Relaxed));
        write!(f, "asked meanwhile: {right} right, {wrong} wrong, {lost} lost, {unready} SERVFAIL before it was ready")
    }
}

/// A thousand questions per second: addresses, names, and names that do not exist.
fn ask_all_along(server: &Server, shape: Shape, asked: &Asked, done: &AtomicBool) {
    let mut asker = Asker::new(server);
    let mut ready = false;
    for turn in 0_usize.. {
        if done.load(Ordering::Relaxed) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
        let (slice, endpoint) = (turn * 7919 % shape.slices, turn * 31 % shape.endpoints);
        let address = shape.address(slice, endpoint, 1);
        let (name, qtype, expected) = match turn % 4 {
            0 | 1 => (wire(&shape.name(slice, endpoint)), rtype::A, (NOERROR, 1)),
            2 => (reverse_name(address.into()), rtype::PTR, (NOERROR, 1)),
            _ => (wire(&format!("none-{}", shape.name(slice, endpoint))), rtype::A, (NXDOMAIN, 0)),
        };
        let counter = match asker.ask(&name, qtype) {
            None if ready => &asked.lost,
            None => &asked.unready,
            Some(Answer { rcode: SERVFAIL, .. }) if !ready => &asked.unready,
            // Reverse zones are REFUSED until their addresses are known.
            Some(Answer { rcode: 5, .. }) if !ready && qtype == rtype::PTR => &asked.unready,
            Some(answer) => {
                let right = (answer.rcode, answer.count) == expected
                    && answer.address.is_none_or(|answered| answered == address);
                ready |= right;
                if right { &asked.right } else { &asked.wrong }
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
