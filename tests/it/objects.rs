//! `docs/objects.md` against the code: each decoded field has a row, each row has a test that exists, and an ignored field
//! changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::common::files::rust_files;
use headless_dns_core::object::{Decoded, Object, decode, violations};
use serde_json::{Value, json};

/// The decoded shape of each kind, by the heading of its table. Deployments and Jobs have one shape.
const SHAPES: [(&str, &[&str]); 6] = [
    ("RawService", &["Service"]),
    ("RawSlice", &["EndpointSlice"]),
    ("RawEndpoints", &["Endpoints"]),
    ("RawStatefulSet", &["StatefulSet"]),
    ("RawWorkload", &["Deployment", "Job"]),
    ("RawPod", &["Pod"]),
];

/// Fields of the workloads' common shape that no controller reads of the workload itself: they are a Pod's.
const OF_PODS_ONLY: [&str; 1] = ["metadata.deletionTimestamp"];

#[test]
fn every_decoded_field_has_a_row() {
    let rows = rows();
    let shapes = shapes();
    let mut missing = Vec::new();
    for (shape, kinds) in SHAPES {
        let fields = fields(&shapes, shape);
        assert!(fields.len() > 5, "{shape}: {fields:?}");
        let has_row = |field: &String| rows.iter().any(|row| kinds.contains(&&*row.kind) && row.field == *field);
        let is_of_pods = |field: &String| shape == "RawWorkload" && OF_PODS_ONLY.contains(&&**field);
        missing.extend(
            fields.into_iter().filter(|field| !has_row(field) && !is_of_pods(field)).map(|field| (kinds, field)),
        );
    }
    assert!(missing.is_empty(), "no row of docs/objects.md: {missing:?}");
}

#[test]
fn every_row_names_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources: Vec<String> = ["src", "core/src", "tests"]
        .iter()
        .flat_map(|folder| rust_files(&root.join(folder)))
        .map(|path| read(&path))
        .collect();
    let mut known = BTreeSet::new();
    for row in rows() {
        assert!(["followed", "checked", "ignored"].contains(&&*row.treatment), "{}: {}", row.field, row.treatment);
        assert!(known.insert((row.kind.clone(), row.field.clone())), "{} {} has two rows", row.kind, row.field);
        let is_there = match row.test.contains('/') {
            // A file that has the field.
            true => read(&root.join("tests").join(&row.test)).contains(last_name(&row.field)),
            false => {
                sources.iter().any(|source| source.contains(&format!("#[test]\nfn {}()", row.test)))
                    || sources.iter().any(|source| source.contains(&format!("#[test]\n    fn {}()", row.test)))
            }
        };
        assert!(is_there, "{} {}: {} is no test of it", row.kind, row.field, row.test);
        let of_ignored = row.test == "ignored_fields_change_nothing";
        assert_eq!(row.treatment == "ignored", of_ignored, "{} {}", row.kind, row.field);
    }
}

#[test]
fn ignored_fields_change_nothing() {
    let ignored: Vec<Row> = rows().into_iter().filter(|row| row.treatment == "ignored").collect();
    assert!(ignored.len() > 50, "{} fields", ignored.len());
    let mut wrong = Vec::new();
    for row in ignored {
        let plain = plain(&row.kind);
        let mut changed = plain.clone();
        set(&mut changed, &row.field);
        assert_ne!(plain, changed, "{} {}", row.kind, row.field);
        // A field that is judged is checked, and has that word.
        if violations(&plain) != violations(&changed) || decoded(plain) != decoded(changed) {
            wrong.push(format!("{} {}", row.kind, row.field));
        }
    }
    assert!(wrong.is_empty(), "these fields are not ignored: {wrong:#?}");
}

/// One line of a table.
struct Row {
    kind: String,
    field: String,
    treatment: String,
    test: String,
}

fn rows() -> Vec<Row> {
    let text = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/objects.md"));
    let mut kind = String::new();
    let mut rows = Vec::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            kind = heading.to_owned();
        }
        if !line.starts_with("| `") {
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect();
        let [field, treatment, _, test] = cells[..] else { panic!("a row has four cells: {line}") };
        let [field, treatment, test] = [field, treatment, test].map(str::to_owned);
        rows.push(Row { kind: kind.clone(), field, treatment, test });
    }
    rows
}

/// The shapes of `core/src/object/raw.rs`: the name of each field as the API writes it, and its type.
fn shapes() -> BTreeMap<String, Vec<(String, String)>> {
    let text = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("core/src/object/raw.rs"));
    let (_, text) = text.split_once("\nshapes! {\n").unwrap();
    let (mut text, _) = text.split_once("\n}\n").unwrap();
    let mut shapes = BTreeMap::new();
    while let Some((head, rest)) = text.split_once('{') {
        let (body, rest) = rest.split_once('}').unwrap();
        let name = head.trim().split('<').next().unwrap();
        assert!(name.starts_with("Raw"), "{name}");
        shapes.insert(name.to_owned(), fields_of_shape(body));
        text = rest;
    }
    shapes
}

fn fields_of_shape(body: &str) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut rest = body.trim();
    let mut renamed = None;
    while !rest.is_empty() {
        if rest.starts_with('#') {
            let (attribute, behind) = rest.split_once(")]").unwrap();
            if let Some((_, name)) = attribute.split_once("rename = \"") {
                renamed = name.split('"').next().map(str::to_owned);
            }
            rest = behind.trim_start();
            continue;
        }
        let (name, behind) = rest.split_once(':').unwrap();
        // A comma between `<` and `>` is one of the type.
        let mut depth = 0;
        let end = behind.char_indices().find(|(_, character)| {
            depth += i32::from(*character == '<') - i32::from(*character == '>');
            *character == ',' && depth == 0
        });
        let end = end.unwrap().0;
        let name = renamed.take().unwrap_or_else(|| camel_case(name.trim()));
        fields.push((name, behind[..end].trim().to_owned()));
        rest = behind[end + 1..].trim_start();
    }
    fields
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap().to_owned();
    words.fold(first, |name, word| name + &word[..1].to_ascii_uppercase() + &word[1..])
}

/// The paths of all fields at and below a shape; a template is described by the rows of a Pod.
fn fields(shapes: &BTreeMap<String, Vec<(String, String)>>, shape: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (name, kind) in &shapes[shape] {
        let mut path = if name.contains('/') { format!("[{name}]") } else { name.clone() };
        if kind.contains("Vec<") {
            path += "[]";
        }
        let inner =
            kind.split(['<', '>']).find(|part| shapes.contains_key(*part)).filter(|name| *name != "RawTemplate");
        match inner {
            None => paths.push(path),
            Some(inner) => paths.extend(fields(shapes, inner).into_iter().map(|below| {
                if below.starts_with('[') { format!("{path}{below}") } else { format!("{path}.{below}") }
            })),
        }
    }
    paths
}

/// An object of a kind with little in it.
fn plain(kind: &str) -> Value {
    let group = match kind {
        "EndpointSlice" => "discovery.k8s.io/v1",
        "StatefulSet" | "Deployment" => "apps/v1",
        "Job" => "batch/v1",
        _ => "v1",
    };
    let mut object = json!({"apiVersion": group, "kind": kind, "metadata": {"name": "x"}});
    match kind {
        "Service" => object["spec"] = json!({"selector": {"app": "x"}, "ports": [{"port": 80}]}),
        "EndpointSlice" => {
            object["metadata"]["labels"] = json!({"kubernetes.io/service-name": "x"});
            object["addressType"] = json!("IPv4");
            object["ports"] = json!([{"port": 80}]);
            object["endpoints"] = json!([{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "x-0"}}]);
        }
        "Endpoints" => object["subsets"] = json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]),
        "Pod" => {
            object["spec"] = json!({"containers": [{"ports": [{"containerPort": 80}]}]});
            object["status"] = json!({"podIPs": [{"ip": "10.0.0.1"}]});
        }
        _ => object["spec"] = json!({"template": {"metadata": {"labels": {"app": "x"}}}}),
    }
    object
}

/// Sets the field at a path to a text, in the first element of each list.
fn set(object: &mut Value, path: &str) {
    let mut place = object;
    for segment in segments(path) {
        place = match segment.strip_suffix("[]") {
            Some(list) => {
                let list = &mut place[list];
                if !list.is_array() {
                    *list = json!([{}]);
                }
                &mut list[0]
            }
            None => &mut place[segment],
        };
    }
    *place = if path.ends_with("labels") { json!({"ignored": "ignored"}) } else { json!("ignored") };
}

/// `metadata`, `labels`, `a.example/b` of `metadata.labels[a.example/b]`.
fn segments(path: &str) -> Vec<&str> {
    let (names, key) = match path.split_once('[').filter(|(_, key)| !key.starts_with(']')) {
        Some((names, key)) => (names, key.strip_suffix(']')),
        None => (path, None),
    };
    names.split('.').chain(key).collect()
}

fn last_name(path: &str) -> &str {
    segments(path).last().unwrap().trim_end_matches("[]")
}

fn decoded(object: Value) -> Object {
    match decode(object, "default") {
        Ok(Decoded::Object(object, _)) => object,
        other => panic!("{other:?}"),
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
