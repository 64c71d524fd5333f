//! The files that are generated from the table of metrics: the dashboard, the alert rules, the documentation.
//!
//! A test fails if a file differs from the generated one, or if a query names an unknown metric or label.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use headless_dns::metrics::table::{FAMILIES, MetricFamily, MetricKind, MetricOrigin};
use serde_json::{Value, json};

use super::scrape::is_of;

/// Names of labels that Prometheus, or the configuration of a scrape, adds.
const TARGET_LABELS: [&str; 6] = ["le", "job", "instance", "namespace", "pod", "cluster"];

/// Title, unit (Grafana's word), and queries with their legends.
type Panel = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// The dashboard: rows of panels. `$i` selects the chosen instances.
const ROWS: &[(&str, &[Panel])] = &[
    (
        "Questions and answers (CoreDNS's metrics)",
        &[
            ("Queries by type", "reqps", &[("sum by (type) (rate(coredns_dns_requests_total{$i}[$r]))", "{{type}}")]),
            (
                "Queries by transport and family",
                "reqps",
                &[("sum by (proto, family) (rate(coredns_dns_requests_total{$i}[$r]))", "{{proto}} family {{family}}")],
            ),
            ("Queries by zone", "reqps", &[("sum by (zone) (rate(coredns_dns_requests_total{$i}[$r]))", "{{zone}}")]),
            (
                "Responses by code",
                "reqps",
                &[("sum by (rcode) (rate(coredns_dns_responses_total{$i}[$r]))", "{{rcode}}")],
            ),
            (
                "Time to answer",
                "s",
                &[
                    (
                        "histogram_quantile(0.5, sum by (le) (rate(coredns_dns_request_duration_seconds_bucket{$i}[$r])))",
                        "p50",
                    ),
                    (
                        "histogram_quantile(0.99, sum by (le) (rate(coredns_dns_request_duration_seconds_bucket{$i}[$r])))",
                        "p99",
                    ),
                    (
                        "sum(rate(coredns_dns_request_duration_seconds_sum{$i}[$r])) / sum(rate(coredns_dns_request_duration_seconds_count{$i}[$r]))",
                        "mean",
                    ),
                ],
            ),
            (
                "Size of messages, p99",
                "bytes",
                &[
                    (
                        "histogram_quantile(0.99, sum by (le, proto) (rate(coredns_dns_request_size_bytes_bucket{$i}[$r])))",
                        "queries {{proto}}",
                    ),
                    (
                        "histogram_quantile(0.99, sum by (le, proto) (rate(coredns_dns_response_size_bytes_bucket{$i}[$r])))",
                        "responses {{proto}}",
                    ),
                ],
            ),
            (
                "Queries with the DO bit",
                "reqps",
                &[("sum by (zone) (rate(coredns_dns_do_requests_total{$i}[$r]))", "{{zone}}")],
            ),
            ("Panics", "short", &[("sum by (instance) (increase(coredns_panics_total{$i}[$r]))", "{{instance}}")]),
        ],
    ),
    (
        "Is the data right?",
        &[
            ("Ready", "bool_yes_no", &[("headless_dns_ready{$i}", "{{instance}}")]),
            ("State of the data", "short", &[("sum by (state) (headless_dns_data_state{$i})", "{{state}}")]),
            (
                "State of the watches",
                "short",
                &[("sum by (resource, state) (headless_dns_watch_state{$i}) > 0", "{{resource}}: {{state}}")],
            ),
            ("Age of the watches", "s", &[("max by (resource) (headless_dns_watch_age_seconds{$i})", "{{resource}}")]),
            ("Out of reach since", "s", &[("headless_dns_lost_seconds{$i}", "{{instance}}")]),
            (
                "Failures of watches",
                "short",
                &[(
                    "sum by (resource, reason) (increase(headless_dns_watch_failures_total{$i}[$r]))",
                    "{{resource}}: {{reason}}",
                )],
            ),
            (
                "Lists",
                "short",
                &[
                    (
                        "sum by (resource, reason) (increase(headless_dns_watch_lists_total{$i}[$r]))",
                        "{{resource}}: {{reason}}",
                    ),
                    ("sum(increase(headless_dns_audit_repairs_total{$i}[$r]))", "lost events found"),
                    ("sum(increase(headless_dns_watch_restarts_total{$i}[$r]))", "watches restarted"),
                    ("sum(increase(headless_dns_task_restarts_total{$i}[$r]))", "tasks restarted"),
                ],
            ),
            (
                "Objects left out",
                "short",
                &[("sum by (reason) (increase(headless_dns_objects_rejected_total{$i}[$r]))", "{{reason}}")],
            ),
            (
                "Stale answers",
                "reqps",
                &[("sum by (instance) (rate(headless_dns_stale_answers_total{$i}[$r]))", "{{instance}}")],
            ),
        ],
    ),
    (
        "How fast changes are answered",
        &[
            (
                "From a batch of events to its answers",
                "s",
                &[
                    (
                        "histogram_quantile(0.5, sum by (le) (rate(headless_dns_publish_duration_seconds_bucket{$i}[$r])))",
                        "p50",
                    ),
                    (
                        "histogram_quantile(0.99, sum by (le) (rate(headless_dns_publish_duration_seconds_bucket{$i}[$r])))",
                        "p99",
                    ),
                ],
            ),
            (
                "From a Pod's change to its answers",
                "s",
                &[
                    (
                        "histogram_quantile(0.5, sum by (le) (rate(coredns_kubernetes_dns_programming_duration_seconds_bucket{$i}[$r])))",
                        "p50",
                    ),
                    (
                        "histogram_quantile(0.99, sum by (le) (rate(coredns_kubernetes_dns_programming_duration_seconds_bucket{$i}[$r])))",
                        "p99",
                    ),
                ],
            ),
            ("Published", "ops", &[("sum by (instance) (rate(headless_dns_published_total{$i}[$r]))", "{{instance}}")]),
            (
                "Size of the zones",
                "short",
                &[
                    ("max(headless_dns_services{$i})", "Services"),
                    ("max(headless_dns_endpoints{$i})", "endpoints"),
                    ("max(headless_dns_reverse_addresses{$i})", "reverse addresses"),
                ],
            ),
            ("Serials", "dateTimeAsIso", &[("headless_dns_zone_serial{$i} * 1000", "{{instance}}")]),
        ],
    ),
    (
        "What is lost",
        &[
            (
                "Dropped messages",
                "reqps",
                &[
                    ("sum by (reason) (rate(headless_dns_dropped_messages_total{$i}[$r]))", "{{reason}}"),
                    ("sum(rate(headless_dns_kernel_drops_total{$i}[$r]))", "by the kernel"),
                ],
            ),
            (
                "Received",
                "reqps",
                &[("sum by (proto) (rate(headless_dns_received_messages_total{$i}[$r]))", "{{proto}}")],
            ),
            (
                "Truncated responses",
                "reqps",
                &[("sum by (proto) (rate(headless_dns_truncated_responses_total{$i}[$r]))", "{{proto}}")],
            ),
            ("Failed calls", "ops", &[("sum by (call) (rate(headless_dns_socket_errors_total{$i}[$r]))", "{{call}}")]),
            ("TCP connections", "short", &[("headless_dns_tcp_connections{$i}", "{{instance}}")]),
            (
                "TCP connections that come and go",
                "ops",
                &[
                    ("sum(rate(headless_dns_tcp_accepted_total{$i}[$r]))", "accepted"),
                    ("sum by (reason) (rate(headless_dns_tcp_cut_total{$i}[$r]))", "cut: {{reason}}"),
                ],
            ),
            (
                "Handshakes that failed",
                "ops",
                &[(
                    "sum by (proto, reason) (rate(headless_dns_handshake_failures_total{$i}[$r]))",
                    "{{proto}} {{reason}}",
                )],
            ),
            (
                "HTTPS requests without an answer",
                "reqps",
                &[("sum by (status) (rate(headless_dns_https_refused_total{$i}[$r]))", "{{status}}")],
            ),
            (
                "Log lines not written",
                "ops",
                &[
                    ("sum(rate(headless_dns_query_log_dropped_total{$i}[$r]))", "query log"),
                    ("sum(rate(headless_dns_log_lines_lost_total{$i}[$r]))", "log"),
                ],
            ),
        ],
    ),
    (
        "The certificate",
        &[
            (
                "The certificate expires in",
                "s",
                &[("headless_dns_tls_certificate_expiration_timestamp_seconds{$i} - time()", "{{instance}}")],
            ),
            (
                "Certificates that were read again",
                "short",
                &[("sum by (result) (increase(headless_dns_tls_certificate_reloads_total{$i}[$r]))", "{{result}}")],
            ),
        ],
    ),
    (
        "Why names do not resolve",
        &[
            (
                "Causes told",
                "short",
                &[("sum by (finding) (increase(headless_dns_causes_told_total{$i}[$r]))", "{{finding}}")],
            ),
            (
                "Causes not looked for",
                "ops",
                &[("sum(rate(headless_dns_causes_not_looked_for_total{$i}[$r]))", "not looked for")],
            ),
        ],
    ),
    (
        "Process",
        &[
            ("CPU", "short", &[("rate(process_cpu_seconds_total{$i}[$r])", "{{instance}}")]),
            (
                "Memory",
                "bytes",
                &[
                    ("process_resident_memory_bytes{$i}", "{{instance}}"),
                    ("process_virtual_memory_bytes{$i}", "{{instance}} virtual"),
                ],
            ),
            (
                "File descriptors",
                "short",
                &[("process_open_fds{$i}", "{{instance}}"), ("process_max_fds{$i}", "{{instance}} at most")],
            ),
            ("Started", "dateTimeAsIso", &[("process_start_time_seconds{$i} * 1000", "{{instance}}")]),
            (
                "Versions",
                "short",
                &[("sum by (version, revision) (coredns_build_info{$i})", "{{version}} {{revision}}")],
            ),
        ],
    ),
];

struct Alert {
    name: &'static str,
    query: &'static str,
    lasts: &'static str,
    severity: &'static str,
    summary: &'static str,
    what_to_do: &'static str,
}

/// `and on (instance) headless_dns_ready`: CoreDNS has metrics of the same names.
const ALERTS: &[Alert] = &[
    Alert {
        name: "HeadlessDnsAbsent",
        query: "absent(headless_dns_ready == 1)",
        lasts: "5m",
        severity: "critical",
        summary: "No headless-dns is ready.",
        what_to_do: "Look at its Pods, and at /readyz?verbose of one: it names what it waits for.",
    },
    Alert {
        name: "HeadlessDnsNotReady",
        query: "headless_dns_ready == 0",
        lasts: "5m",
        severity: "warning",
        summary: "{{ $labels.instance }} is not ready.",
        what_to_do: "/readyz?verbose names what it waits for.",
    },
    Alert {
        name: "HeadlessDnsStale",
        query: "headless_dns_data_state{state=\"stale\"} == 1",
        lasts: "1m",
        severity: "warning",
        summary: "{{ $labels.instance }} answers from stale data.",
        what_to_do: "It does not reach the API server, and answers what it knew. headless_dns_watch_failures_total says \
                     by reason why.",
    },
    Alert {
        name: "HeadlessDnsWatchDenied",
        query: "headless_dns_watch_state{state=\"denied\"} == 1",
        lasts: "5m",
        severity: "warning",
        summary: "{{ $labels.instance }} may not read {{ $labels.resource }}.",
        what_to_do: "Its role does not allow it: compare with config/base/cluster-role.yaml.",
    },
    Alert {
        name: "HeadlessDnsWatchSilent",
        query: "headless_dns_watch_age_seconds > 300",
        lasts: "5m",
        severity: "warning",
        summary: "{{ $labels.instance }} has heard nothing of {{ $labels.resource }} for {{ $value | humanizeDuration }}.",
        what_to_do: "It lists again after 150 s of silence: the API server does not answer that either.",
    },
    Alert {
        name: "HeadlessDnsServfail",
        query: "sum by (instance) (rate(coredns_dns_responses_total{rcode=\"SERVFAIL\"}[5m])) / \
                sum by (instance) (rate(coredns_dns_responses_total[5m])) > 0.01 and on (instance) headless_dns_ready",
        lasts: "5m",
        severity: "critical",
        summary: "{{ $value | humanizePercentage }} of the responses of {{ $labels.instance }} are SERVFAIL.",
        what_to_do: "It is asked before it has read everything, or it panics: see headless_dns_data_state and \
                     coredns_panics_total.",
    },
    Alert {
        name: "HeadlessDnsPanics",
        query: "increase(coredns_panics_total[10m]) > 0 and on (instance) headless_dns_ready",
        lasts: "0m",
        severity: "warning",
        summary: "{{ $labels.instance }} panicked.",
        what_to_do: "Each costs one query, or one batch. It is a mistake of the server: report it with its log.",
    },
    Alert {
        name: "HeadlessDnsSlow",
        query: "histogram_quantile(0.99, sum by (instance, le) (rate(coredns_dns_request_duration_seconds_bucket[5m]))) \
                > 0.004 and on (instance) headless_dns_ready",
        lasts: "10m",
        severity: "warning",
        summary: "One answer of 100 takes {{ $labels.instance }} more than {{ $value | humanizeDuration }}.",
        what_to_do: "An answer takes microseconds: the server gets no CPU, or forwards to a slow server. Look at its CPU \
                     limit.",
    },
    Alert {
        name: "HeadlessDnsKernelDrops",
        query: "rate(headless_dns_kernel_drops_total[5m]) > 0",
        lasts: "10m",
        severity: "warning",
        summary: "The kernel drops {{ $value | humanize }} queries a second of {{ $labels.instance }}.",
        what_to_do: "More come than are answered, or the receive buffer is small: raise net.core.rmem_max, the CPU limit \
                     or the number of replicas.",
    },
    Alert {
        name: "HeadlessDnsTcpFull",
        query: "rate(headless_dns_tcp_cut_total{reason=\"over_limit\"}[5m]) > 0",
        lasts: "10m",
        severity: "warning",
        summary: "{{ $labels.instance }} closes TCP connections because there are too many.",
        what_to_do: "Raise the limits on connections, or find who opens so many.",
    },
    Alert {
        name: "HeadlessDnsCertificateExpires",
        query: "headless_dns_tls_certificate_expiration_timestamp_seconds - time() < 7 * 86400",
        lasts: "1h",
        severity: "warning",
        summary: "The certificate of {{ $labels.instance }} expires in {{ $value | humanizeDuration }}.",
        what_to_do: "Renew it: the files of --tls-cert and --tls-key are read again when they change. If they are renewed \
                     already, its log says why they are not taken.",
    },
    Alert {
        name: "HeadlessDnsCertificateRefused",
        query: "increase(headless_dns_tls_certificate_reloads_total{result=\"refused\"}[10m]) > 0",
        lasts: "5m",
        severity: "warning",
        summary: "{{ $labels.instance }} cannot use the files of --tls-cert and --tls-key, and shows the certificate that \
                  it read before.",
        what_to_do: "Its log says what is wrong with them.",
    },
    Alert {
        name: "HeadlessDnsObjectsRejected",
        query: "sum by (instance, reason) (increase(headless_dns_objects_rejected_total[15m])) > 0",
        lasts: "0m",
        severity: "info",
        summary: "{{ $labels.instance }} left something out of the zones: {{ $labels.reason }}.",
        what_to_do: "Its log names the object and what is wrong; `headless-dns check` lists all.",
    },
    Alert {
        name: "HeadlessDnsEventsLost",
        query: "increase(headless_dns_audit_repairs_total[1h]) > 0",
        lasts: "0m",
        severity: "info",
        summary: "{{ $labels.instance }} found changes that no event had told of.",
        what_to_do: "They are answered now. A proxy in front of the API server may lose events.",
    },
    Alert {
        name: "HeadlessDnsProgrammingSlow",
        query: "histogram_quantile(0.99, sum by (instance, le) \
                (rate(coredns_kubernetes_dns_programming_duration_seconds_bucket[10m]))) > 10 \
                and on (instance) headless_dns_ready",
        lasts: "15m",
        severity: "warning",
        summary: "Changes of Pods take {{ $value | humanizeDuration }} until {{ $labels.instance }} answers them.",
        what_to_do: "If headless_dns_publish_duration_seconds is small, the time passes before the event comes: in the \
                     controller of EndpointSlices, the API server, or between two clocks.",
    },
    Alert {
        name: "HeadlessDnsFileDescriptors",
        query: "process_open_fds / process_max_fds > 0.9 and on (instance) headless_dns_ready",
        lasts: "5m",
        severity: "warning",
        summary: "{{ $labels.instance }} has nearly no file descriptors left.",
        what_to_do: "Each TCP connection takes one: raise the limit of the process above the limit on connections.",
    },
];

#[test]
fn dashboard_matches_table() {
    let text = serde_json::to_string_pretty(&dashboard()).unwrap() + "\n";
    compare("config/grafana/headless-dns.json", &text);
}

#[test]
fn alert_rules_match_table() {
    compare("config/prometheus/alerts.yaml", &rules());
}

#[test]
fn documentation_matches_table() {
    compare("docs/metrics.md", &documentation());
}

/// Each query names metrics and labels that there are, and each metric is looked at by some panel.
#[test]
fn queries_name_existing_metrics() {
    let panels = ROWS.iter().flat_map(|(_, panels)| *panels).flat_map(|(_, _, queries)| *queries);
    let mut shown = BTreeSet::new();
    for (query, legend) in panels {
        let families = check(query);
        let labels = legend.split("{{").skip(1).map(|rest| rest.split_once("}}").unwrap().0);
        labels.for_each(|label| assert!(has_label(&families, label), "{legend:?} of {query}"));
        shown.extend(families.iter().map(|family| family.name));
    }
    for alert in ALERTS {
        check(alert.query);
    }
    let known: BTreeSet<&str> = FAMILIES.iter().map(|family| family.name).collect();
    assert_eq!(known.difference(&shown).collect::<Vec<_>>(), [&""; 0], "no panel shows these");
}

#[test]
fn finds_invalid_queries() {
    for query in [
        "rate(coredns_dns_requests_totals[5m])",
        "sum by (rcode) (rate(coredns_dns_requests_total[5m]))",
        "coredns_dns_request_duration_seconds",
        "headless_dns_ready_bucket",
        "headless_dns_watch_state{states=\"x\"}",
    ] {
        assert!(std::panic::catch_unwind(|| check(query)).is_err(), "{query}");
    }
}

fn compare(path: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
    }
    let there = fs::read_to_string(&file).unwrap_or_default();
    assert!(there == text, "{path} is not what is generated: run `UPDATE_EXPECT=1 cargo test --test it metrics`");
}

/// The metrics that a query names.
fn check(query: &str) -> Vec<&'static MetricFamily> {
    let (mut families, mut words) = (Vec::new(), Vec::new());
    let mut quoted = false;
    for part in query.split('"') {
        if !quoted {
            words.extend(part.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_' && letter != '$'));
        }
        quoted = !quoted;
    }
    let ours = |word: &&&str| ["coredns_", "headless_dns_", "process_"].iter().any(|start| word.starts_with(start));
    for word in words.iter().filter(ours) {
        let found = FAMILIES.iter().find(|family| is_of(word, family));
        families.push(*found.unwrap_or_else(|| panic!("no metric is called {word}: {query}")));
    }
    assert!(!families.is_empty(), "{query}");
    for group in query.split("by (").skip(1) {
        let labels = group.split_once(')').unwrap().0.split(',').map(str::trim);
        labels.for_each(|label| assert!(has_label(&families, label), "no {label} in {query}"));
    }
    for selector in query.split('{').skip(1) {
        let labels = selector.split_once('}').unwrap().0.split(',').filter_map(|one| one.split_once('='));
        labels.for_each(|(label, _)| assert!(has_label(&families, label), "no {label} in {query}"));
    }
    families
}

fn has_label(families: &[&MetricFamily], label: &str) -> bool {
    TARGET_LABELS.contains(&label) || families.iter().any(|family| family.labels.contains(&label))
}

fn dashboard() -> Value {
    let source = json!({ "type": "prometheus", "uid": "${datasource}" });
    let mut panels = Vec::new();
    let (mut number, mut y) = (0, 0);
    let mut next = || {
        number += 1;
        number
    };
    for (title, row) in ROWS {
        let place = json!({ "h": 1, "w": 24, "x": 0, "y": y });
        panels.push(
            json!({ "id": next(), "type": "row", "title": title, "collapsed": false, "panels": [], "gridPos": place }),
        );
        y += 1;
        for (at, (title, unit, queries)) in row.iter().enumerate() {
            let place = json!({ "h": 8, "w": 8, "x": at % 3 * 8, "y": y + at / 3 * 8 });
            let targets = queries.iter().zip('A'..).map(|((query, legend), letter)| {
                let query = query.replace("$i", "instance=~\"$instance\"").replace("$r", "$__rate_interval");
                json!({ "refId": letter.to_string(), "datasource": source, "expr": query, "legendFormat": legend })
            });
            panels.push(json!({
                "id": next(), "type": "timeseries", "title": title, "datasource": source, "gridPos": place,
                "description": descriptions(queries),
                "fieldConfig": { "defaults": { "unit": unit, "min": 0 }, "overrides": [] },
                "options": { "legend": { "displayMode": "list", "placement": "bottom" }, "tooltip": { "mode": "multi" } },
                "targets": targets.collect::<Vec<_>>(),
            }));
        }
        y += row.len().div_ceil(3) * 8;
    }
    let instances = json!({
        "name": "instance", "label": "Instance", "type": "query", "datasource": source,
        "query": "label_values(headless_dns_ready, instance)", "refresh": 2, "includeAll": true, "multi": true,
        "current": { "text": "All", "value": "$__all" },
    });
    json!({
        "title": "headless-dns", "uid": "headless-dns", "tags": ["dns", "kubernetes"], "schemaVersion": 39,
        "editable": true, "refresh": "30s", "time": { "from": "now-1h", "to": "now" }, "panels": panels,
        "templating": { "list": [
            { "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus" },
            instances,
        ] },
    })
}

/// Returns the help texts of a panel's metrics.
fn descriptions(queries: &[(&str, &str)]) -> String {
    let mut families: Vec<&MetricFamily> = queries.iter().flat_map(|(query, _)| check(query)).collect();
    families.dedup();
    let lines: Vec<String> = families.iter().map(|family| format!("{}: {}.", family.name, family.help)).collect();
    lines.join("\n\n")
}

fn rules() -> String {
    let mut text =
        "# Generated by `UPDATE_EXPECT=1 cargo test --test it metrics`: change tests/it/metrics/generated.rs instead.\n\
                    groups:\n- name: headless-dns\n  rules:\n"
            .to_owned();
    for Alert { name, query, lasts, severity, summary, what_to_do } in ALERTS {
        write!(
            text,
            "  - alert: {name}\n    expr: {}\n    for: {lasts}\n    labels:\n      severity: {severity}\n    annotations:\n      \
             summary: {}\n      description: {}\n",
            json!(query),
            json!(summary),
            json!(what_to_do)
        )
        .unwrap();
    }
    text
}

fn documentation() -> String {
    let mut text = include_str!("metrics.md.in").to_owned();
    for (origins, title) in [
        (&[MetricOrigin::CoreDns, MetricOrigin::CoreDnsKubernetes][..], "CoreDNS's metrics"),
        (&[MetricOrigin::Own], "Its own metrics"),
        (&[MetricOrigin::Process], "The process"),
    ] {
        write!(text, "\n## {title}\n\n| metric | kind | labels | what it says |\n|---|---|---|---|\n").unwrap();
        for family in FAMILIES.iter().filter(|family| origins.contains(&family.origin)) {
            let MetricFamily { name, kind, labels, help, .. } = family;
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            writeln!(text, "| `{name}` | {} | {} | {} |", kind.word(), labels.join(", "), help.replace('|', "\\|"))
                .unwrap();
        }
    }
    text.push_str("\n## Buckets of histograms\n\n| metric | bounds |\n|---|---|\n");
    for family in FAMILIES {
        if let MetricKind::Histogram(bounds) = family.kind {
            let bounds: Vec<String> = bounds.iter().map(ToString::to_string).collect();
            writeln!(text, "| `{}` | {} |", family.name, bounds.join(", ")).unwrap();
        }
    }
    text.push_str("\n## Alerts\n\n| alert | means | what to do |\n|---|---|---|\n");
    for Alert { name, lasts, summary, what_to_do, .. } in ALERTS {
        let lasting = if *lasts == "0m" { String::new() } else { format!(" For {lasts}.") };
        let summary = summary.replace("{{ $labels.", "`").replace(" }}", "`").replace("{{ $value | ", "`");
        writeln!(text, "| {name} | {summary}{lasting} | {what_to_do} |").unwrap();
    }
    text
}
