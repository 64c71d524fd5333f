//! A real Prometheus scrapes the built server and evaluates the queries of CoreDNS's dashboards.
//!
//! `tests/with_prometheus` installs Prometheus, sets `TEST_HEADLESS_DNS_PROMETHEUS` to its path, and runs this test.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use headless_dns::metrics::ExpositionFormat;
use serde_json::Value;

use super::scrape::Scrape;
use super::server::{MANIFEST, Tcp, Udp};
use super::{cases, process};
use crate::common::ports::ReservedPort;

const LONGEST: Duration = Duration::from_secs(60);

/// Which transport a client uses, and how often it asks every question in a second.
const LOAD: [(&str, u64); 2] = [("udp", 20), ("tcp", 5)];

#[test]
#[ignore = "needs Prometheus: run tests/with_prometheus"]
fn coredns_dashboard_queries_have_values() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let admin = server.admin().unwrap();
    let prometheus = Prometheus::start(folder.path(), admin);
    let load = Load::start(server.address);
    let queries = cases().len() as f64;
    let everything = [
        // Each is a panel of the dashboards for CoreDNS that people have.
        (
            "sum(rate(coredns_dns_requests_total[10s])) by (proto)",
            expected(|(proto, times)| (proto, times as f64 * queries)),
        ),
        ("sum(rate(coredns_dns_requests_total{proto=\"udp\"}[10s])) by (type)", {
            let mut types = BTreeMap::new();
            cases().iter().for_each(|case| *types.entry(case.qtype.to_owned()).or_insert(0.0) += LOAD[0].1 as f64);
            types
        }),
        ("sum(rate(coredns_dns_responses_total[10s])) by (rcode)", {
            let mut codes = BTreeMap::new();
            let all: u64 = LOAD.iter().map(|(_, times)| times).sum();
            cases().iter().for_each(|case| *codes.entry(case.rcode.to_owned()).or_insert(0.0) += all as f64);
            codes
        }),
    ];
    for (query, expected) in &everything {
        // A busy machine asks more slowly than is planned; the shares stay.
        let all: f64 = expected.values().sum();
        let near = |rates: &BTreeMap<String, f64>| {
            let sum: f64 = rates.values().sum();
            let share = |label: &String| (rates[label] / sum) / (expected[label] / all);
            (all / 10.0..all * 1.25).contains(&sum)
                && rates.keys().eq(expected.keys())
                && rates.keys().all(|label| (0.5..2.0).contains(&share(label)))
        };
        println!("ok: {query}: {:?}", prometheus.until(query, near));
    }
    for (query, from, to) in [
        (
            "histogram_quantile(0.99, sum(rate(coredns_dns_request_duration_seconds_bucket[10s])) by (server, zone, le))",
            1e-6,
            0.05,
        ),
        ("histogram_quantile(0.90, sum(rate(coredns_dns_request_duration_seconds_bucket[10s])) by (le))", 1e-6, 0.05),
        (
            "histogram_quantile(0.99, sum(rate(coredns_dns_request_size_bytes_bucket{proto=\"udp\"}[10s])) by (le, proto))",
            20.0,
            100.0,
        ),
        (
            "histogram_quantile(0.99, sum(rate(coredns_dns_response_size_bytes_bucket{proto=\"tcp\"}[10s])) by (le, proto))",
            50.0,
            511.0,
        ),
        (
            "sum(rate(coredns_dns_responses_total{rcode=~\"SERVFAIL|REFUSED\"}[10s])) / sum(rate(coredns_dns_responses_total[10s]))",
            0.05,
            0.15,
        ),
        ("sum(rate(coredns_dns_do_requests_total[10s]))", 2.0, 32.0),
        ("sum(coredns_build_info)", 1.0, 1.0),
        ("sum(headless_dns_ready)", 1.0, 1.0),
        ("sum(rate(process_cpu_seconds_total[10s]))", 0.0001, 2.0),
        ("sum(up)", 1.0, 1.0),
    ] {
        let sensible = |values: &BTreeMap<String, f64>| {
            !values.is_empty() && values.values().all(|value| (from..=to).contains(value))
        };
        println!("ok: {query}: {:?}", prometheus.until(query, sensible));
    }
    // OpenMetrics declares counters without `_total`: Prometheus scraped OpenMetrics.
    let known = prometheus.get("/api/v1/metadata?metric=coredns_dns_requests");
    assert_eq!(known["data"]["coredns_dns_requests"][0]["type"], "counter", "{known}");
    // Loaded from config/prometheus/alerts.yaml and evaluated: only the alert about the manifest fires.
    let alerts = prometheus.alerts();
    let wrong: Vec<&String> = alerts.iter().filter(|name| *name != "HeadlessDnsObjectsRejected").collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    load.stop();
    for (accept, format, file) in [
        ("text/plain", ExpositionFormat::Text, "TEST_HEADLESS_DNS_METRICS_TEXT"),
        (
            "application/openmetrics-text; version=1.0.0",
            ExpositionFormat::OpenMetrics,
            "TEST_HEADLESS_DNS_METRICS_OPEN",
        ),
    ] {
        let text = get(admin, "/metrics", accept).unwrap();
        Scrape::read(&text, format);
        if let Some(path) = env::var_os(file) {
            fs::write(path, text).unwrap();
        }
    }
}

fn expected(of: impl Fn((&'static str, u64)) -> (&'static str, f64)) -> BTreeMap<String, f64> {
    LOAD.into_iter().map(of).map(|(label, rate)| (label.to_owned(), rate)).collect()
}

/// The built server with two zones, an admin listener and [`MANIFEST`].
fn start(folder: &Path) -> process::Server {
    let manifest = folder.join("manifest.yaml");
    fs::write(&manifest, MANIFEST).unwrap();
    let mut command = process::serve();
    command
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "2"])
        .args(["--zone-alias", "cluster.internal", "--reverse", "10.0.0.0/16", "--reverse", "fd00::/16"])
        .arg("--manifests")
        .arg(manifest);
    process::Server::start(command)
}

/// Returns the body at `path` of an HTTP server; `None` if it does not answer yet.
fn get(address: SocketAddr, path: &str, accept: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    let mut response = String::new();
    stream.write_all(request.as_bytes()).ok()?;
    stream.read_to_string(&mut response).ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return Some(body.to_owned());
    }
    let (mut whole, mut rest) = (String::new(), body);
    while let Some((length, behind)) = rest.split_once("\r\n")
        && let Ok(length @ 1..) = usize::from_str_radix(length, 16)
    {
        whole.push_str(&behind[..length]);
        rest = &behind[length + 2..];
    }
    Some(whole)
}

/// Clients that ask every question so and so often in a second.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(to: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |(proto, times): (&'static str, u64)| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let (mut udp, mut tcp) = (Udp::to(to), Tcp::to(to));
                let begun = Instant::now();
                for turn in 1.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    for case in cases() {
                        if proto == "udp" {
                            udp.ask(&case.message)
                        } else {
                            tcp.ask(&case.message)
                        };
                    }
                    // A pace, and not a wait for something to happen.
                    thread::sleep(
                        (Duration::from_secs(turn) / u32::try_from(times).unwrap()).saturating_sub(begun.elapsed()),
                    );
                }
            })
        };
        Self { clients: LOAD.into_iter().map(client).collect(), stop }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
    }
}

struct Prometheus {
    process: Child,
    address: SocketAddr,
    log: PathBuf,
    _port: ReservedPort,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Prometheus {
    fn start(folder: &Path, target: SocketAddr) -> Self {
        let binary = env::var("TEST_HEADLESS_DNS_PROMETHEUS").unwrap_or_else(|_| "prometheus".to_owned());
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/prometheus/alerts.yaml");
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\nrule_files: [{rules:?}]\n\
             scrape_configs: [{{ job_name: dns, static_configs: [{{ targets: [\"{target}\"] }}] }}]\n"
        );
        fs::write(folder.join("prometheus.yml"), config).unwrap();
        // Prometheus does not report a port that the kernel chooses.
        let port = ReservedPort::new();
        let address = port.address();
        let log = folder.join("log");
        let process = Command::new(binary)
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .expect("TEST_HEADLESS_DNS_PROMETHEUS names Prometheus");
        Self { process, address, log, _port: port }
    }

    /// The value of each series by its first label, once that is as it should be.
    fn until(&self, query: &str, right: impl Fn(&BTreeMap<String, f64>) -> bool) -> BTreeMap<String, f64> {
        let encoded: String = query.bytes().map(|octet| format!("%{octet:02X}")).collect();
        let begun = Instant::now();
        loop {
            let answer = self.get(&format!("/api/v1/query?query={encoded}"));
            let series = answer["data"]["result"].as_array().map(Vec::as_slice).unwrap_or_default();
            let value = |one: &Value| {
                let labels: Vec<&str> = one["metric"].as_object().unwrap().values().filter_map(Value::as_str).collect();
                (labels.join(" "), one["value"][1].as_str().unwrap().parse().unwrap())
            };
            let values: BTreeMap<String, f64> = series.iter().map(value).collect();
            if right(&values) {
                return values;
            }
            if begun.elapsed() > LONGEST {
                panic!("{query}: {values:?}\n{}", fs::read_to_string(&self.log).unwrap_or_default());
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// The names of alerts that wait or fire; an error if the rules are not loaded, or one has an error.
    fn alerts(&self) -> Vec<String> {
        let rules = self.get("/api/v1/rules");
        let rules = rules["data"]["groups"][0]["rules"].as_array().expect("the rules are loaded").clone();
        assert!(rules.len() > 10);
        let healthy = |rule: &Value| rule["health"] == "ok";
        assert!(rules.iter().all(healthy), "{rules:?}");
        let is_on = |rule: &&Value| rule["state"] != "inactive";
        rules.iter().filter(is_on).map(|rule| rule["name"].as_str().unwrap().to_owned()).collect()
    }

    fn get(&self, path: &str) -> Value {
        let body = get(self.address, path, "application/json").unwrap_or_default();
        serde_json::from_str(&body).unwrap_or(Value::Null)
    }
}
