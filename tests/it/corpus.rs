//! The fuzz targets with the inputs of `fuzz/seeds`: the seeds of `fuzz/run`, and inputs that a fuzzer found.
//!
//! `UPDATE_EXPECT=1 cargo test --test it corpus` writes the seeds that are made from `tests/scenarios` and
//! `tests/common/mutants.rs`; inputs that a fuzzer found stay.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::mutants::{Rng, mutate, seeds};
use crate::common::{self, Question, scenarios};
use crate::fuzzed::{self, TARGETS};

/// Limit on the seeds of all targets, in octets.
const MAX_SEEDS_BYTES: u64 = 400_000;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target)
}

#[test]
fn every_seed_passes_its_target() {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        write_seeds();
    }
    let mut size = 0;
    for (name, target) in TARGETS {
        let mut paths: Vec<_> = fs::read_dir(folder(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!paths.is_empty(), "{name} has seeds");
        paths.sort();
        for path in paths {
            let input = fs::read(&path).unwrap();
            size += input.len() as u64;
            let passed = std::panic::catch_unwind(|| target(&input));
            assert!(passed.is_ok(), "{}", path.display());
        }
    }
    assert!(size <= MAX_SEEDS_BYTES, "{size} octets of seeds");
}

/// Seeds with a few octets changed, as a fuzzer begins.
#[test]
fn mutated_seeds_pass_their_targets() {
    let mut numbers = Rng(0xf022);
    for (name, target) in TARGETS {
        let entries = fs::read_dir(folder(name)).unwrap();
        let mut seeds: Vec<_> = entries.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
        seeds.retain(|seed| seed.len() <= 4096);
        seeds.sort();
        for _ in 0..common::scaled(20_000) {
            let input = mutate(&seeds, &mut numbers);
            let passed = std::panic::catch_unwind(|| target(&input));
            assert!(passed.is_ok(), "{name}: {input:02x?}");
        }
    }
}

fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    messages.iter().flat_map(|message| [&(message.len() as u16).to_be_bytes()[..], message].concat()).collect()
}

fn write(target: &str, name: &str, octets: impl AsRef<[u8]>) {
    fs::create_dir_all(folder(target)).unwrap();
    fs::write(folder(target).join(name), octets).unwrap();
}

fn write_seeds() {
    let mut queries: Vec<Vec<u8>> = Vec::new();
    for path in scenarios() {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        if text.len() <= 4096 {
            write("manifests", &format!("{name}.yaml"), &text);
        }
        let Ok(asked) = fs::read_to_string(path.with_extension("dig")) else { continue };
        let lines = asked.lines().filter(|line| line.starts_with("$ "));
        queries.extend(lines.map(|line| Question::read(line).query(0)));
    }
    // Some of each scenario, and of each kind.
    let mut messages: Vec<Vec<u8>> = queries.into_iter().step_by(9).collect();
    messages.extend(seeds().into_iter().step_by(17));
    let last = seeds();
    messages.extend_from_slice(&last[last.len() - 5..]);
    for (number, batch) in messages.chunks(16).enumerate() {
        write("datagrams", &format!("batch-{number:02}"), framed(batch));
        let portions = [[0].to_vec(), [1, 1].to_vec(), [3, 40, 0, 7].to_vec()][number % 3].clone();
        write("streams", &format!("stream-{number:02}"), [portions, framed(batch)].concat());
    }
    for (number, message) in messages.iter().step_by(8).enumerate() {
        let mut message = message.clone();
        message[..2].fill(0);
        write("quic", &format!("query-{number:02}"), framed(&[message.clone()]));
        let head = format!("GET /dns-query?dns={} HTTP/2", fuzzed::base64url(&message));
        write("https", &format!("get-{number:02}"), head.trim_end_matches(" HTTP/2"));
        let head = b"POST /dns-query\ncontent-type:application/dns-message\n\n";
        write("https", &format!("post-{number:02}"), [&head[..], &message].concat());
    }
    write("watch", "events", watch_events());
    let body = watch_objects().join("\n");
    write("snapshots", "objects", [&[1], body.as_bytes(), b"\n"].concat());
    write("snapshots", "header", b"\0headless-dns-snapshot 1 0 0 0 scope\n");
    write("configuration", "all", include_bytes!("../../config/headless-dns.toml"));
    write("configuration", "kinds", "a = 'x'\nb = [1, \"y\"]\nc = true\n[table]\nd = 1.5\n");
    write("manifests", "list.json", format!("[{}]", watch_objects().join(",")));
}

/// One object of each resource, as JSON.
fn watch_objects() -> Vec<String> {
    let metadata = |name: &str, more: &str| {
        format!(r#""metadata":{{"name":"{name}","namespace":"default","resourceVersion":"7"{more}}}"#)
    };
    let slice = metadata("web-1", r#","labels":{"kubernetes.io/service-name":"web"}"#);
    [
        r#""apiVersion":"v1","kind":"Namespace","metadata":{"name":"default","resourceVersion":"7"}"#.to_owned(),
        format!(
            r#""apiVersion":"v1","kind":"Service",{},"spec":{{"clusterIP":"None","selector":{{"app":"web"}},"ports":[{{"name":"http","port":80}}]}}"#,
            metadata("web", "")
        ),
        format!(
            r#""apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice",{slice},"addressType":"IPv4","ports":[{{"name":"http","port":80}}],"endpoints":[{{"addresses":["10.1.0.1"],"hostname":"web-0","conditions":{{"ready":true}}}}]"#
        ),
        format!(
            r#""apiVersion":"v1","kind":"Endpoints",{},"subsets":[{{"addresses":[{{"ip":"10.1.0.2","hostname":"b"}}],"ports":[{{"name":"http","port":80}}]}}]"#,
            metadata("web", "")
        ),
        format!(
            r#""apiVersion":"v1","kind":"Pod",{},"status":{{"phase":"Running","podIPs":[{{"ip":"10.1.0.1"}}]}}"#,
            metadata("web-0", "")
        ),
        format!(
            r#""apiVersion":"apps/v1","kind":"StatefulSet",{},"spec":{{"serviceName":"web","replicas":2}}"#,
            metadata("web", "")
        ),
    ]
    .map(|fields| format!("{{{fields}}}"))
    .to_vec()
}

fn watch_events() -> String {
    let mut text = String::new();
    for kind in ["ADDED", "MODIFIED", "DELETED"] {
        for (resource, object) in watch_objects().iter().enumerate() {
            text += &format!("{resource}{{\"type\":\"{kind}\",\"object\":{object}}}\n");
        }
    }
    text += "1{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"9\"}}}\n";
    text += "1{\"type\":\"ERROR\",\"object\":{\"code\":410,\"message\":\"too old\"}}\n";
    text
}
