//! All answers of the server, compared with `kubectl get -o yaml`.
//!
//! `records --manifests` builds the zone from the dump without the cluster; `records --kubeconfig` must print the same. Then the
//! running server is queried for every owner name, every name above one, every namespace, and every earlier name: RRset by RRset,
//! and for its existence.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::control_plane::ControlPlane;
use super::server::{CONVERGED, Server, dig, headless_dns, record};
use super::until;

/// Options of the server and of `records`: the reverse zones of all Pods and Services, and the server's own address.
pub const OPTIONS: [&str; 6] = ["--reverse", "10.0.0.0/8", "--reverse", "fd00::/8", "--ns-address", "127.0.0.1"];
/// The zones that these options make.
const ORIGINS: [&str; 3] = ["cluster.local.", "10.in-addr.arpa.", "d.f.ip6.arpa."];
/// Asked for at every name.
const TYPES: [&str; 7] = ["A", "AAAA", "SRV", "PTR", "CNAME", "TXT", "NS"];
const DUMP: [&str; 5] = ["get", "namespaces,services,endpointslices,statefulsets,pods", "-A", "-o", "yaml"];

/// Compares until they are equal, and adds the names of the zone to `seen`; the dump and the server's state can be of
/// two instants, but not for long.
///
/// # Panics
///
/// If they are not equal in time: with every difference.
pub fn compare(plane: &ControlPlane, server: &Server, options: &[&str], seen: &mut BTreeSet<String>) {
    let now = until("the server answers what kubectl get says", CONVERGED, || {
        let dump = plane.kubectl(&DUMP);
        let path = plane.folder().join("dump.yaml");
        std::fs::write(&path, &dump).unwrap();
        let export = |source: &str, path: &Path| {
            let records = |origin| records(source, path, origin, options);
            ORIGINS.map(records).concat()
        };
        let (written, live) = (export("--manifests", &path), export("--kubeconfig", &plane.server_kubeconfig()));
        if let Some(differing) = differing(&written, &live) {
            return Err(format!("`records` of the dump (-) and of the cluster (+):\n{differing}"));
        }
        let zone = Zone::new(&written, &dump);
        let wrong = zone.compare(server, seen);
        if wrong.is_empty() { Ok(zone) } else { Err(format!("\n{wrong}")) }
    });
    seen.extend(now.rrsets.into_keys().map(|(owner, _)| owner));
}

/// Returns the output of `records` for one zone, without the SOA, whose serial is a time.
fn records(source: &str, path: &Path, origin: &str, options: &[&str]) -> Vec<String> {
    let mut command: Command = headless_dns();
    command.args(["records", source]).arg(path).args(["--origin", origin, "--log", "error"]).args(options);
    let output = command.output().unwrap();
    assert!(output.status.success(), "records {source}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.contains("\tSOA\t")).map(ToOwned::to_owned).collect()
}

fn differing(written: &[String], live: &[String]) -> Option<String> {
    let mut text = String::new();
    for (sign, these, those) in [('-', written, live), ('+', live, written)] {
        for line in these.iter().filter(|line| !those.contains(line)) {
            let _ = writeln!(text, "  {sign} {line}");
        }
    }
    (written != live).then_some(text)
}

struct Zone {
    /// By owner and type.
    rrsets: BTreeMap<(String, String), BTreeSet<String>>,
    /// Returns every existing name: owners, the names above them, and names by the form of the zone.
    there: BTreeSet<String>,
}

impl Zone {
    fn new(records: &[String], dump: &str) -> Self {
        let mut rrsets: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for (owner, rtype, data) in records.iter().map(|line| record(line)) {
            rrsets.entry((owner, rtype)).or_default().insert(data);
        }
        let objects: Value = serde_saphyr::from_str(dump).unwrap();
        let namespaces = objects["items"].as_array().unwrap().iter().filter(|item| item["kind"] == "Namespace");
        // Rows N19 and N20.
        let names = namespaces.map(|item| format!("{}.svc.cluster.local.", item["metadata"]["name"].as_str().unwrap()));
        let form = ["svc", "pod", "dns"].map(|label| format!("{label}.cluster.local."));
        let leaves = rrsets.keys().map(|(owner, _)| owner.clone()).chain(names).chain(form);
        let there = leaves.flat_map(|name| up_to_origin(&name)).collect();
        Self { rrsets, there }
    }

    /// Returns the differences, one line each.
    fn compare(&self, server: &Server, seen: &BTreeSet<String>) -> String {
        let names = self.there.union(seen);
        let questions: Vec<_> = names.flat_map(|name| TYPES.map(|rtype| (name.clone(), rtype.to_owned()))).collect();
        let mut wrong = String::new();
        for ((name, rtype), answer) in questions.iter().zip(dig(server.address, &questions)) {
            let expected = self.rrset(name, rtype);
            let answered = answer.records.iter().filter(|(owner, is, _)| owner == name && is == rtype);
            let answered: BTreeSet<String> = answered.map(|(_, _, data)| data.clone()).collect();
            let rcode = self.rcode(name, rtype);
            if answer.rcode.as_deref() != Some(rcode)
                || answered != expected
                || answer.ede.iter().any(is_about_the_data)
            {
                let _ = writeln!(wrong, "  {name} {rtype}: expected {rcode} {expected:?}, answered {answer}");
            }
        }
        wrong
    }

    fn rrset(&self, name: &str, rtype: &str) -> BTreeSet<String> {
        self.rrsets.get(&(name.to_owned(), rtype.to_owned())).cloned().unwrap_or_default()
    }

    /// RFC 6604: of a name with a CNAME that is followed, the rcode of the last one, as far as it is in our zones.
    fn rcode(&self, name: &str, rtype: &str) -> &'static str {
        let mut name = name.to_owned();
        while let Some(target) = self.rrset(&name, "CNAME").pop_first().filter(|_| rtype != "CNAME") {
            name = target;
        }
        let ours = ORIGINS.iter().any(|origin| name.ends_with(origin));
        if self.there.contains(&name) || !ours { "NOERROR" } else { "NXDOMAIN" }
    }
}

/// The name, and all above it down to the apex of its zone.
fn up_to_origin(name: &str) -> Vec<String> {
    let starts = std::iter::once(0).chain(name.match_indices('.').map(|(at, _)| at + 1));
    let above = starts.map(|at| name[at..].to_owned());
    above.take_while(|name| ORIGINS.iter().any(|origin| name.ends_with(origin))).collect()
}

/// An extended error other than a cause.
#[allow(clippy::ptr_arg, reason = "for `any`")]
fn is_about_the_data(ede: &String) -> bool {
    !ede.starts_with("0 ")
}
