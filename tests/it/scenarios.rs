//! Scenarios: manifests in, the zone and whole answers out, as text that an operator can review.
//!
//! `tests/scenarios/NAME.yaml` has the manifests; its first lines may have `# options: FLAGS` of the command line, and name the
//! rows of `tests/rows.md` that it shows (`# rows: N1 N2`). `NAME.zone` is the output of `records` for all zones (`# zone: left
//! out` for none), `NAME.dig` has questions (`$ dig ...`), each with its whole answer. `UPDATE_EXPECT=1` writes both, for the
//! questions of `NAME.dig`.
//!
//! Every response is compared as hickory-proto parses it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::common::files::rust_files;
use crate::common::{self, Engine, Question, header, scenario_config, scenarios, scenarios_folder};
use headless_dns::commands;
use headless_dns::report::records;
use headless_dns::source::{Publisher, PublisherOptions};
use headless_dns_core::answer::Transport;
use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::ReverseZones;
use headless_dns_core::naming_rules::NamingRules;
use headless_dns_core::object::{
    AddressFamily, Conditions, EndpointPort, EndpointRow, EndpointSlice, Object, ObjectRef, Protocol, ServiceKind,
};
use headless_dns_core::zone::{Settings, Zone};
use hickory_proto::op::Message;
use hickory_proto::rr::{Record, RecordType};

#[test]
fn scenarios_match_expected_output() {
    let mut wrong = String::new();
    for path in scenarios() {
        let text = fs::read_to_string(&path).unwrap();
        let config = scenario_config(&path, &text);
        let mut source = commands::open_manifests(&config, &config.listen.addresses);
        let reports: String = source.load().reports.iter().map(|report| format!("; {report}\n")).collect();
        let reports = reports.replace(&format!("{}/", scenarios_folder().display()), "");
        if header(&text, "zone").is_none() {
            let mut zone = reports;
            for origin in source.zone().origins() {
                zone.push_str(&records::zone_file(&source.zone().records(&origin).unwrap()));
            }
            compare(&path.with_extension("zone"), &without_serial(&zone), &mut wrong);
        }
        let questions = path.with_extension("dig");
        if let Ok(written) = fs::read_to_string(&questions) {
            let answers: Vec<String> = written
                .lines()
                .filter(|line| line.starts_with("$ "))
                .map(|line| {
                    let mut engine = Engine::explaining(source.zone(), source.asker());
                    format!("{line}\n{}", ask(&mut engine, line))
                })
                .collect();
            compare(&questions, &answers.join("\n"), &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{wrong}\nUPDATE_EXPECT=1 writes them anew: read the difference before you commit it");
}

/// RFC 2181 section 9: behind a cut answer stands no additional record but OPT; and additional records that have no room
/// cut no answer.
// rows: A4 A5
#[test]
fn additional_section_needs_whole_answer() {
    let mut seen = ParsedResponse::default();
    for path in scenarios() {
        let text = fs::read_to_string(&path).unwrap();
        let config = scenario_config(&path, &text);
        let mut source = commands::open_manifests(&config, &config.listen.addresses);
        source.load();
        let Ok(written) = fs::read_to_string(path.with_extension("dig")) else { continue };
        for line in written.lines().filter(|line| line.starts_with("$ ")) {
            seen.check(&mut Engine::new(source.zone()), line);
        }
    }
    let zone = large_zone();
    let mut engine = Engine::new(zone);
    for size in [1, 20, 100, 2_000] {
        seen.check(&mut engine, &format!("$ dig _p._tcp.s{size}.default.svc.cluster.local SRV"));
        seen.check(&mut engine, &format!("$ dig s{size}.default.svc.cluster.local SRV"));
    }
    let ParsedResponse { cut_datagrams, cut_streams, fewer } = seen;
    assert!(cut_datagrams > 100 && cut_streams > 0 && fewer > 20, "{cut_datagrams} {cut_streams} {fewer}");
}

/// Counts of responses.
#[derive(Default)]
struct ParsedResponse {
    /// SRV sets that were cut.
    cut_datagrams: usize,
    cut_streams: usize,
    /// Whole answers without some of their additional records.
    fewer: usize,
}

impl ParsedResponse {
    /// Asks over a stream, and over UDP with rooms of every size.
    fn check(&mut self, engine: &mut Engine, line: &str) {
        let question = Question::read(line);
        let whole = Message::from_vec(&engine.ask(Transport::Tcp, &question.query(1)).unwrap()).unwrap();
        let srv = u16::from(RecordType::SRV) == question.qtype();
        if whole.metadata.truncation {
            assert!(whole.additionals.is_empty(), "{line}");
            self.cut_streams += usize::from(srv);
        }
        for size in (512..=1232).step_by(8) {
            let response = engine.ask(Transport::Udp, &question.query_with(1, Some(size))).unwrap();
            let message = Message::from_vec(&response).unwrap();
            if message.metadata.truncation {
                assert!(message.additionals.is_empty(), "{line} in {size} octets: {response:02x?}");
                self.cut_datagrams += usize::from(srv);
                continue;
            }
            let (answers, more) = (message.answers.len(), message.additionals.len());
            assert_eq!(answers, whole.answers.len(), "{line} in {size} octets is not cut");
            self.fewer += usize::from(more < whole.additionals.len());
        }
    }
}

/// Services `s1`, `s20`, `s100`, `s2000` with so many endpoints, each with an address and a port.
fn large_zone() -> Arc<Zone> {
    let apexes = vec![WireName::parse("cluster.local").unwrap()];
    let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules: NamingRules::default() };
    let zone = Arc::new(Zone::new(settings, ReverseZones::default()));
    let mut objects = Vec::new();
    for size in [1_u16, 20, 100, 2_000] {
        let rows: Vec<EndpointRow> = (0..size)
            .map(|number| EndpointRow {
                address: [10, (size % 251) as u8, (number >> 8) as u8, number as u8].into(),
                conditions: Conditions::READY,
                hostname: Some(format!("h-{number}").into()),
                pod: None,
            })
            .collect();
        let port = EndpointPort { name: "p".into(), protocol: Protocol::Tcp, number: 80 };
        let (name, key) = (format!("s{size}"), ObjectRef::new("default", &format!("s{size}-a")));
        objects.push(common::service(&name, ServiceKind::Headless));
        objects.push(Object::EndpointSlice(EndpointSlice::new(
            key,
            Some(name.as_str().into()),
            AddressFamily::V4,
            vec![port],
            &rows,
        )));
    }
    Publisher::new(Arc::clone(&zone), PublisherOptions::default()).replace(objects);
    zone
}

#[test]
fn every_row_has_scenario() {
    let table = fs::read_to_string(root().join("tests/rows.md")).unwrap();
    let rows: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(' ').next())
        .filter(|id| id.ends_with(|last: char| last.is_ascii_digit()))
        .collect();
    assert!(rows.len() > 40, "the table has its rows");
    let mut shown: BTreeSet<String> = BTreeSet::new();
    for path in scenarios() {
        let text = fs::read_to_string(&path).unwrap();
        let ids = header(&text, "rows").unwrap_or_default().split_whitespace().map(str::to_owned);
        shown.extend(ids);
    }
    for path in rust_files(&root().join("tests/it")) {
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix("// rows: "));
        shown.extend(lines.flat_map(|ids| ids.split(' ').map(str::to_owned)));
    }
    // Rows of watching are shown by tests that are named after them: `k17_...`.
    for name in ["mod.rs", "contact.rs"] {
        let text = fs::read_to_string(root().join("tests/it/api_server").join(name)).unwrap();
        let names = text.lines().filter_map(|line| line.strip_prefix("async fn k")?.split_once('_'));
        shown.extend(names.map(|(number, _)| format!("K{number}")));
    }
    let missing: Vec<_> = rows.iter().filter(|id| !shown.contains(**id)).collect();
    assert!(missing.is_empty(), "no scenario and no test shows {missing:?}");
    let unknown: Vec<_> = shown.iter().filter(|id| !rows.contains(id.as_str())).collect();
    assert!(unknown.is_empty(), "tests/rows.md has no row {unknown:?}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The serial is the time of the last change.
fn without_serial(zone: &str) -> String {
    let lines = zone.lines().map(|line| match line.split_once("\tSOA\t") {
        Some((owner, data)) => {
            let mut fields: Vec<&str> = data.split(' ').collect();
            fields[2] = "SERIAL";
            format!("{owner}\tSOA\t{}\n", fields.join(" "))
        }
        None => format!("{line}\n"),
    });
    lines.collect()
}

fn compare(path: &Path, actual: &str, wrong: &mut String) {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(path, actual).unwrap();
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    if expected != actual {
        let _ = writeln!(wrong, "{} differs:", path.display());
        let (old, new): (Vec<_>, Vec<_>) = (expected.lines().collect(), actual.lines().collect());
        for line in old.iter().filter(|line| !new.contains(line)).take(20) {
            let _ = writeln!(wrong, "  - {line}");
        }
        for line in new.iter().filter(|line| !old.contains(line)).take(20) {
            let _ = writeln!(wrong, "  + {line}");
        }
    }
}

/// One question, and the whole answer.
fn ask(engine: &mut Engine, line: &str) -> String {
    let question = Question::read(line);
    // The worker's first turn and this ID add up to 0: RRsets begin at their first record.
    let query = question.query(0xffff);
    let response = engine.ask(question.transport, &query).expect("a response");
    render(&query, &response, question.count)
}

fn render(query: &[u8], response: &[u8], count: bool) -> String {
    let message = Message::from_vec(response).expect("hickory-proto reads every response");
    assert_eq!(message.metadata.id, 0xffff);
    assert!(!message.metadata.recursion_available && message.metadata.recursion_desired);
    let question = 12..query.len() - if query[11] == 1 { 11 } else { 0 };
    assert_eq!(response[question.clone()], query[question], "the question comes back octet by octet");
    assert_eq!(message.edns.is_some(), query[11] == 1, "an OPT if and only if one came");
    let mut text = format!("; {}", rcode(message.metadata.response_code.into()));
    for (flag, name) in [(message.metadata.authoritative, "aa"), (message.metadata.truncation, "tc")] {
        if flag {
            let _ = write!(text, " {name}");
        }
    }
    let _ = writeln!(text, ", {} octets", response.len());
    let sections = [("", &message.answers), ("authority", &message.authorities), ("additional", &message.additionals)];
    for (name, records) in sections {
        if records.is_empty() {
            continue;
        }
        if count {
            let _ = writeln!(text, "; {} {name}", records.len());
            continue;
        }
        if !name.is_empty() {
            let _ = writeln!(text, "; {name}");
        }
        for record in records {
            let _ = writeln!(text, "{}", line(record));
        }
    }
    for (code, option) in message.edns.iter().flat_map(|edns| &edns.options().options) {
        assert_eq!(u16::from(*code), 15, "no other option is sent");
        let octets: Vec<u8> = option.try_into().unwrap();
        let _ = writeln!(text, "; EDE {} {}", u16::from_be_bytes([octets[0], octets[1]]), octets[2..].escape_ascii());
    }
    text
}

fn rcode(number: u16) -> &'static str {
    match number {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        other => panic!("rcode {other}"),
    }
}

fn line(record: &Record) -> String {
    let (name, ttl, rtype) = (&record.name, record.ttl, record.record_type());
    let mut data = record.data.to_string();
    if rtype == RecordType::SOA {
        let mut fields: Vec<&str> = data.split(' ').collect();
        fields[2] = "SERIAL";
        data = fields.join(" ");
    }
    format!("{name} {ttl} {rtype} {data}")
}
