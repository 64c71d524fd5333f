//! Foundations of the comparison in `benches/compare`: the shares of the mix, the expected answers, and verdicts that follow
//! from the figures.

use std::fs;
use std::path::Path;

use crate::bench::cluster::Cluster;
use crate::bench::load::Expect;
use crate::bench::page;
use crate::bench::sheet::Sheet;
use crate::bench::workload::{self, Asked, Zones};
use headless_dns_core::rtype;

#[test]
fn mix_has_its_shares() {
    let asked = workload::mix(Cluster::of_workloads().small(), 10_000);
    assert_eq!(asked.len(), 10_000);
    // Headless, NXDOMAIN and ordinals are asked for as A.
    for (qtype, count) in [(rtype::A, 6800), (rtype::AAAA, 2500), (rtype::SRV, 400), (rtype::PTR, 300)] {
        assert_eq!(asked.iter().filter(|asked| asked.1 == qtype).count(), count, "type {qtype}");
    }
    assert_eq!(asked.iter().filter(|asked| asked.0.contains(".example.com.")).count(), 2500);
}

/// As `headless-dns records` writes it.
fn zone(lines: &[(&str, &str, &str)]) -> String {
    lines.iter().map(|(owner, rtype, data)| format!("{owner}.\t5\tIN\t{rtype}\t{data}\n")).collect()
}

fn read(text: &str, asked: &[Asked]) -> Result<Zones, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("zone");
    fs::write(&path, text).unwrap();
    let files: [&Path; 1] = [&path];
    Zones::read(&files, asked).map_err(|error| error.to_string())
}

#[test]
fn expects_answers_of_zone() {
    let many: Vec<String> = (0..100).map(|number| format!("10.0.1.{number}")).collect();
    let mut lines = vec![
        ("web.a.svc.z", "A", "10.0.0.2"),
        ("web.a.svc.z", "A", "10.0.0.1"),
        ("_http._tcp.web.a.svc.z", "SRV", "0 50 80 web-0.web.a.svc.z."),
        ("1.0.0.10.in-addr.arpa", "PTR", "web-0.web.a.svc.z."),
        ("z", "SOA", "ns.dns.z. hostmaster.z. 1 7200 1800 86400 5"),
    ];
    lines.extend(many.iter().map(|address| ("hundred.a.svc.z", "A", address.as_str())));
    let asked = |name: &str, qtype| (name.to_owned(), qtype);
    let all = [
        asked("web.a.svc.z", rtype::A),
        asked("web.a.svc.z", rtype::AAAA),
        asked("_tcp.web.a.svc.z", rtype::A),
        asked("www.example.com.a.svc.z", rtype::A),
        asked("_http._tcp.web.a.svc.z", rtype::SRV),
        // With a dot at its end, as it is printed.
        asked("1.0.0.10.in-addr.arpa.", rtype::PTR),
        asked("hundred.a.svc.z", rtype::A),
    ];
    let zones = read(&zone(&lines), &all).unwrap();
    let target = b"\x05web-0\x03web\x01a\x03svc\x01z\x00".to_vec();
    let srv = [&[0, 0, 0, 50, 0, 80][..], &target].concat();
    let is = |at: usize, limit: usize| match zones.question(&all[at], limit).unwrap().expect {
        Expect::Records { rcode, answers, truncated, data, .. } => (rcode, answers, truncated, data),
        Expect::Denied { rcode } => (rcode, 0, false, Vec::new()),
        Expect::Anything => panic!("everything is right"),
    };
    assert_eq!(is(0, 1232), (0, 2, false, vec![vec![10, 0, 0, 1], vec![10, 0, 0, 2]]), "sorted");
    assert_eq!(is(1, 1232), (0, 0, false, vec![]), "NODATA: the name exists");
    assert_eq!(is(2, 1232), (0, 0, false, vec![]), "NODATA: only names below it exist");
    assert_eq!(is(3, 1232), (3, 0, false, vec![]), "NXDOMAIN");
    assert_eq!(is(4, 1232), (0, 1, false, vec![srv]));
    assert_eq!(is(5, 1232), (0, 1, false, vec![target]));
    let (_, answers, truncated, _) = is(6, 1232);
    assert_eq!((answers, truncated), (100, true), "1,600 octets are cut at 1232");
    assert!(!is(6, 65_535).2, "and not over TCP");
}

#[test]
fn names_invalid_zone_file() {
    let said = read("web.z.\t5\tIN\tA\t10.0.0.256\n", &[("web.z".to_owned(), rtype::A)]).err().unwrap();
    assert!(said.contains("zone: line 1: no address: 10.0.0.256"), "{said}");
    let said = read("web.z. 5 IN A 10.0.0.1\n", &[]).err().unwrap();
    assert!(said.contains("line 1: no record"), "{said}");
}

/// CPU-us per query of W1: of the echo, ours, NSD.
fn figures(echo: &[f64], ours: &[f64], nsd: &[f64]) -> Sheet {
    let mut sheet = Sheet::default();
    for (server, values) in [("echo", echo), ("headless-dns", ours), ("nsd", nsd)] {
        values.iter().for_each(|value| sheet.add("workload", "W1", server, "cpu_us", &format!("{value}")));
    }
    sheet
}

fn verdict(sheet: &Sheet, begins: &str) -> (String, Option<bool>) {
    let goal = page::goals(sheet).into_iter().find(|goal| goal.what.starts_with(begins)).unwrap();
    (goal.measured, goal.met)
}

#[test]
fn verdicts_compare_medians() {
    // An outlier of one round does not decide.
    let good = figures(&[1.8, 1.8, 9.0], &[2.0, 0.1, 2.0], &[2.9, 2.9, 2.9]);
    assert_eq!(verdict(&good, "CPU against the echo: W1"), ("W1 0.90".to_owned(), Some(true)));
    assert_eq!(verdict(&good, "times our CPU, nsd, every"), ("W1 1.45".to_owned(), Some(true)));
    let bad = figures(&[1.7], &[2.0], &[1.9]);
    assert_eq!(verdict(&bad, "CPU against the echo: W1"), ("W1 0.85".to_owned(), Some(false)));
    assert_eq!(verdict(&bad, "times our CPU, nsd, every"), ("W1 0.95".to_owned(), Some(false)));
    assert!(page::tables(&bad).contains("| W1  | 1.70 | 2.00 (0.85) | 1.90 (0.89) |"), "{}", page::tables(&bad));
    assert!(page::goals(&Sheet::default()).is_empty(), "of nothing there is no verdict");
}

#[test]
fn renders_page_from_its_figures() {
    let mut sheet = figures(&[1.8, 1.9], &[2.0, 2.1], &[2.9, 2.8]);
    sheet.add("about", "note", "bind", "is", "line one\n\tand two");
    sheet.add("size", "100000", "headless-dns", "memory_mb", "25.1");
    let again = Sheet::read(&sheet.write()).unwrap();
    assert_eq!(again, sheet);
    let folder = tempfile::tempdir().unwrap();
    page::write(&again, folder.path()).unwrap();
    let text = fs::read_to_string(folder.path().join("speed.md")).unwrap();
    assert!(text.contains("* bind: line one and two\n"), "{text}");
    assert!(text.contains("| memory at 100,000 endpoints | at most 25 MB | 25.1 MB | **not met** |"), "{text}");
    for plot in text.lines().filter_map(|line| line.split_once("](speed/")).map(|(_, rest)| rest.trim_end_matches(')'))
    {
        let svg = fs::read_to_string(folder.path().join("speed").join(plot)).unwrap();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{plot}: {svg}");
    }
    let kept = fs::read_to_string(folder.path().join("speed/figures.tsv")).unwrap();
    assert_eq!(Sheet::read(&kept).unwrap(), sheet);
    let said = Sheet::read("workload\tW1\n").unwrap_err();
    assert!(said.starts_with("line 1: not GROUP ITEM"), "{said}");
}
