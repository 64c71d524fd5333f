//! Where the octets are: what the allocator holds for a large cluster, part by part and size by size.
//!
//! `cargo bench --bench memory` prints four clusters of 1,000,000 endpoints: StatefulSet Pods and Deployment Pods, 100
//! and 10 to a Service. `-- ENDPOINTS PER_SERVICE stateful|deployment` prints one, with the sizes that most of it is in.
//! What is counted is what was asked for, so it is the same on every machine; what the allocator takes besides is in the
//! RSS of the process, which Linux tells. The built program in such a cluster is `cargo bench --bench watch -- large`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may panic, and prints")]
#![allow(unsafe_code, reason = "an allocator is unsafe by its signature; this one hands everything on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use headless_dns_core::cluster::{Cluster, Contributor, Namespaces, Resource};
use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::ReverseZones;
use headless_dns_core::naming_rules::NamingRules;
use headless_dns_core::object::{Decoded, Object, ObjectRef, decode_text};
use headless_dns_core::records::{NameServer, contribution};
use headless_dns_core::zone::{Settings, Zone};

/// Sizes up to this are counted one by one.
const SIZES: usize = 2048;

static LIVE: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);
static BY_SIZE: [AtomicI64; SIZES] = [const { AtomicI64::new(0) }; SIZES];

struct Counting;

impl Counting {
    fn count(size: usize, times: i64) {
        if let Some(count) = BY_SIZE.get(size) {
            count.fetch_add(times, Ordering::Relaxed);
        }
        let live = LIVE.fetch_add(size as i64 * times, Ordering::Relaxed) + size as i64 * times;
        PEAK.fetch_max(live, Ordering::Relaxed);
    }
}

// SAFETY: every call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size(), 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Self::count(layout.size(), -1);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count(layout.size(), -1);
        Self::count(size, 1);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    // cargo test runs benchmarks with `--test`: then there is nothing to measure.
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    if let [endpoints, per_service, kind, ..] = &arguments[..] {
        let shape = Shape {
            endpoints: endpoints.parse().unwrap(),
            per_service: per_service.parse().unwrap(),
            stateful: match kind.as_str() {
                "stateful" => true,
                "deployment" => false,
                other => panic!("{other:?} is neither `stateful` nor `deployment`"),
            },
        };
        return measure(shape, arguments.len() == 3);
    }
    println!("octets per endpoint, as asked for, and RSS in MB of 10^6 octets");
    println!("                                 cluster     zone      all     relist's peak    RSS");
    for kind in ["stateful", "deployment"] {
        for per_service in ["100", "10"] {
            // A process each: what one leaves behind is not in the other's RSS.
            let mut command = Command::new(std::env::current_exe().unwrap());
            assert!(command.args(["1000000", per_service, kind, "short"]).status().unwrap().success());
        }
    }
}

/// A cluster of headless Services.
#[derive(Clone, Copy)]
struct Shape {
    endpoints: usize,
    per_service: usize,
    /// Pods with a name each, in the order of their numbers; else their names are random, and not answered.
    stateful: bool,
}

impl Shape {
    fn services(self) -> usize {
        self.endpoints / self.per_service
    }

    fn service(self, service: usize) -> Object {
        let key = ObjectRef::new(&format!("team-{}", service % 100), &format!("web-{service}"));
        let text = format!(
            r#"{{"metadata":{{"name":"web-{service}"}},"spec":{{"clusterIP":"None","clusterIPs":["None"],"ipFamilies":["IPv4"],"ports":[{{"name":"http","port":80,"protocol":"TCP","targetPort":80}}],"selector":{{"app":"web-{service}"}},"type":"ClusterIP"}}}}"#
        );
        decoded("Service", "", key, &text)
    }

    /// The one slice of a Service, as a controller writes it, as far as it is read.
    fn slice(self, service: usize) -> Object {
        let namespace = format!("team-{}", service % 100);
        let mut endpoints = String::new();
        for endpoint in 0..self.per_service {
            let number = service * self.per_service + endpoint;
            let address = std::net::Ipv4Addr::from(0x0a10_0000 + number as u32);
            let comma = if endpoint == 0 { "" } else { "," };
            let (hostname, pod) = if self.stateful {
                (format!(r#""hostname":"web-{service}-{endpoint}","#), format!("web-{service}-{endpoint}"))
            } else {
                (String::new(), format!("web-{service}-5c689d88bb-{}", random_name(number)))
            };
            endpoints += &format!(
                r#"{comma}{{"addresses":["{address}"],"conditions":{{"ready":true,"serving":true,"terminating":false}},{hostname}"nodeName":"node-{}","targetRef":{{"kind":"Pod","name":"{pod}","namespace":"{namespace}"}}}}"#,
                number % 500
            );
        }
        let text = format!(
            r#"{{"metadata":{{"labels":{{"kubernetes.io/service-name":"web-{service}"}}}},"addressType":"IPv4","endpoints":[{endpoints}],"ports":[{{"name":"http","port":80,"protocol":"TCP"}}]}}"#
        );
        let key = ObjectRef::new(&namespace, &format!("web-{service}-{}", random_name(service)));
        decoded("EndpointSlice", "discovery.k8s.io", key, &text)
    }
}

/// Five letters and digits as the API server makes them.
fn random_name(number: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = (number as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d;
    let mut name = String::new();
    for _ in 0..5 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        name.push(char::from(ALPHABET[(random >> 33) as usize % ALPHABET.len()]));
    }
    name
}

fn decoded(kind: &str, group: &str, key: ObjectRef, text: &str) -> Object {
    match decode_text(kind, group, key, text) {
        Ok(Decoded::Object(object, skipped)) if skipped.is_empty() => object,
        other => panic!("{other:?}"),
    }
}

fn measure(shape: Shape, sizes: bool) {
    let begun = LIVE.load(Ordering::Relaxed);
    let each = |octets: i64| octets as f64 / shape.endpoints as f64;
    let mut cluster = Cluster::new(Namespaces::Declared, None);
    list(&mut cluster, shape);
    let known = LIVE.load(Ordering::Relaxed);
    let zone = Arc::new(zone());
    publish(&cluster, &zone);
    let all = LIVE.load(Ordering::Relaxed);
    let rss = rss();
    let mut largest: Vec<(i64, usize)> =
        (0..SIZES).map(|size| (BY_SIZE[size].load(Ordering::Relaxed) * size as i64, size)).collect();
    PEAK.store(all, Ordering::Relaxed);
    list(&mut cluster, shape);
    let peak = PEAK.load(Ordering::Relaxed);
    assert_eq!(zone.size(), (shape.services(), shape.endpoints), "all of it is answered");
    println!(
        "  {:<10} {:>4} to a Service   {:>7.1}  {:>7.1}  {:>7.1}   {:>12.3}      {rss:>7.1}",
        if shape.stateful { "stateful" } else { "deployment" },
        shape.per_service,
        each(known - begun),
        each(all - known),
        each(all - begun),
        (peak - begun) as f64 / (all - begun) as f64,
    );
    if sizes {
        largest.sort();
        let small: i64 = largest.iter().map(|(octets, _)| octets).sum();
        println!("  of blocks over {SIZES} octets {:.1} per endpoint, and of those of", each(all - small));
        for (octets, size) in largest.iter().rev().take(24) {
            println!("  {size:>6} octets {:>7.2} per endpoint, {:>8} of them", each(*octets), octets / *size as i64);
        }
    }
}

/// As a live source does it: one object at a time, and a mark and sweep where it is not the first time.
fn list(cluster: &mut Cluster, shape: Shape) {
    for resource in [Resource::Services, Resource::EndpointSlices] {
        cluster.begin_relist(resource);
        for service in 0..shape.services() {
            let services = resource == Resource::Services;
            cluster.apply(if services { shape.service(service) } else { shape.slice(service) });
        }
        cluster.finish_relist(resource);
    }
}

fn zone() -> Zone {
    let apexes = vec![WireName::parse("cluster.local").unwrap()];
    let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules: NamingRules::default() };
    Zone::new(settings, ReverseZones::new(["10.0.0.0/8".parse().unwrap()]))
}

/// As a live source does it once everything was read: in publications of some.
fn publish(cluster: &Cluster, zone: &Arc<Zone>) {
    let name_server = NameServer::default();
    let contributors: Vec<Contributor> = cluster.contributors();
    for some in contributors.chunks(64) {
        let contributions = some.iter().map(|one| contribution(cluster, one, NamingRules::default(), &name_server).0);
        zone.publish(contributions.collect(), 1);
    }
}

/// The process's, in MB of 10^6 octets; not a number where nobody tells.
fn rss() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|text| text.parse::<f64>().ok()).map_or(f64::NAN, |kb| kb * 1024.0 / 1e6)
}
