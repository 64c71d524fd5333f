//! A real Prometheus scrapes the server, and is asked what CoreDNS's dashboards ask.
//!
//! `tests/with_prometheus` runs it: it installs Prometheus and says where it is in `HEADLESS_DNS_PROMETHEUS`.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use headless_dns::metrics::{Format, Metrics};
use headless_dns::status::Status;
use headless_dns::zone::Zone;
use serde_json::Value;

use super::cases;
use super::server::{Server, Tcp, Udp, render};

const LONGEST: Duration = Duration::from_secs(60);

/// Which transport a client uses, and how often it asks every question in a second.
const LOAD: [(&str, u64); 2] = [("udp", 20), ("tcp", 5)];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus: run tests/with_prometheus"]
async fn a_coredns_dashboard_gives_sensible_numbers() {
    let server = Server::start(&["127.0.0.1:0"], 2);
    let shown = Arc::new(Shown {
        metrics: Arc::clone(&server.metrics),
        status: Arc::clone(&server.status),
        zone: Arc::clone(&server.zone),
        asked_for_open_metrics: AtomicU64::new(0),
    });
    let target = shown.listen();
    let folder = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::start(folder.path(), target);
    let load = Load::start(server.addresses[0]);
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
    let (scrapes, alerts) = (shown.asked_for_open_metrics.load(Ordering::Relaxed), prometheus.alerts());
    assert!(scrapes > 0, "Prometheus asks for OpenMetrics, and got it");
    // Loaded from config/prometheus/alerts.yaml, evaluated, and nothing is the matter but what the manifest says.
    let wrong: Vec<&String> = alerts.iter().filter(|name| *name != "HeadlessDnsObjectsRejected").collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    load.stop();
    server.stopped().await;
    for (format, file) in
        [(Format::Text, "HEADLESS_DNS_METRICS_TEXT"), (Format::OpenMetrics, "HEADLESS_DNS_METRICS_OPEN")]
    {
        if let Some(path) = env::var_os(file) {
            fs::write(path, render(&shown.metrics, &shown.status, &shown.zone, format)).unwrap();
        }
    }
}

fn expected(of: impl Fn((&'static str, u64)) -> (&'static str, f64)) -> BTreeMap<String, f64> {
    LOAD.into_iter().map(of).map(|(label, rate)| (label.to_owned(), rate)).collect()
}

/// What is behind `/metrics`.
struct Shown {
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    zone: Arc<Zone>,
    asked_for_open_metrics: AtomicU64,
}

impl Shown {
    /// As long as the test runs.
    fn listen(self: &Arc<Self>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shown = Arc::clone(self);
        thread::spawn(move || listener.incoming().flatten().for_each(|stream| shown.answer(stream)));
        address
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut request = Vec::new();
        let mut part = [0; 4096];
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read(&mut part) {
                Ok(length) if length > 0 => request.extend_from_slice(&part[..length]),
                _ => return,
            }
        }
        let request = String::from_utf8(request).unwrap();
        let header = |line: &str| {
            line.split_once(':')
                .filter(|(name, _)| name.eq_ignore_ascii_case("accept"))
                .map(|(_, value)| value.trim().to_owned())
        };
        let format = Format::accepted(request.lines().find_map(header).as_deref());
        if format == Format::OpenMetrics {
            self.asked_for_open_metrics.fetch_add(1, Ordering::Relaxed);
        }
        let body = render(&self.metrics, &self.status, &self.zone, format);
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            format.content_type(),
            body.len()
        );
        let _ = stream.write_all((head + &body).as_bytes());
    }
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
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Prometheus {
    fn start(folder: &Path, target: SocketAddr) -> Self {
        let binary = env::var("HEADLESS_DNS_PROMETHEUS").unwrap_or_else(|_| "prometheus".to_owned());
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/prometheus/alerts.yaml");
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\nrule_files: [{rules:?}]\n\
             scrape_configs: [{{ job_name: dns, static_configs: [{{ targets: [\"{target}\"] }}] }}]\n"
        );
        fs::write(folder.join("prometheus.yml"), config).unwrap();
        // Free a moment ago: Prometheus cannot say which port the kernel chose.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let log = folder.join("log");
        let process = Command::new(binary)
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .expect("HEADLESS_DNS_PROMETHEUS names Prometheus");
        Self { process, address, log }
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
        let Ok(mut stream) = TcpStream::connect(self.address) else { return Value::Null };
        let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address);
        let mut response = String::new();
        if stream.write_all(request.as_bytes()).is_err() || stream.read_to_string(&mut response).is_err() {
            return Value::Null;
        }
        let body = response.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or(Value::Null)
    }
}
