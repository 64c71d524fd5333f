//! An independent oracle: NSD and BIND, loaded with the zones that `records` exports, answer like this server.
//!
//! Every zone of every scenario (`tests/scenarios/*.yaml`) goes through `named-checkzone` and into both. Then all three servers
//! get equal queries over real sockets (`questions.rs` has the names, `ask.rs` the transport and the comparison). A different
//! answer is a failure, unless a rule of `differences.rs` explains it, and so is a rule that explains nothing.
//!
//! `cargo test` does not build this suite; `tests/oracle/run` installs the servers and runs it. It shows that answers
//! follow the rules of DNS; `tests/it/scenarios.rs` shows that the zone is right.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod ask;
#[path = "../common/mod.rs"]
mod common;
mod differences;
mod questions;
mod servers;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use headless_dns::commands;
use headless_dns::report::records;
use headless_dns::source::manifests::read_text;
use headless_dns_core::name::dashed;
use headless_dns_core::name::reverse::reverse_name;
use headless_dns_core::object::{EndpointSlice, Object};
use headless_dns_core::zone::Zone;

use ask::{Client, Mode, Question};
use differences::{Case, Peer, RULES};
use questions::{Name, TYPES};
use servers::{Oracle, Ours, ZoneFile};

/// Number of queries in flight for each server and thread: their responses fit in a socket's buffer.
const WINDOW: usize = 64;
/// BIND loads no RRset of more than 65,535 octets: of the scenario that has one, as much as it loads.
const CUT: (&str, &str) = ("replicas: 5000", "replicas: 1000");
/// Threads that ask.
const THREADS: usize = 2;
/// Maximum number of names shown for unexplained differences.
const SHOWN: usize = 60;
/// Names that are in no zone of any scenario.
const OUTSIDE: &[&str] = &[".", "local", "arpa", "in-addr.arpa", "example.test", "xcluster.local"];

#[test]
#[ignore = "needs NSD and BIND: tests/oracle/run installs them and runs this"]
fn nsd_and_bind_agree() {
    let work = std::env::var_os("TEST_HEADLESS_DNS_ORACLE").expect("tests/oracle/run names a folder to work in");
    let (work, begun) = (PathBuf::from(work), Instant::now());
    fs::write(work.join("oracle.pid"), std::process::id().to_string()).unwrap();
    let mut total = Tally::default();
    let written = common::scenarios().into_iter().map(|path| Scenario::load(&path, &work));
    for scenario in written.chain([Scenario::new("sizes", &sizes(), Vec::new(), &work)]) {
        let begun = Instant::now();
        let tally = scenario.compare();
        println!("{:20} {:>8} questions, {:>5.1} s", scenario.name, tally.asked, begun.elapsed().as_secs_f32());
        total.add(tally);
    }
    let wrong = total.wrong();
    println!("{wrong}oracle: {total} in {:.0} s", begun.elapsed().as_secs_f32());
    assert!(wrong.is_empty(), "see above");
}

#[test]
fn every_difference_has_reason() {
    let reasons =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/differences.md")).unwrap();
    let written: Vec<_> = reasons.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let known: Vec<_> = RULES.iter().map(|(id, _)| *id).collect();
    assert_eq!(written, known, "the headings of differences.md are the rules of differences.rs");
}

/// Manifests, their zones, and the options of the comparison.
struct Scenario {
    name: String,
    /// Where its files are.
    folder: PathBuf,
    /// Options of the command line.
    options: String,
    objects: Vec<Object>,
    /// The names that `NAME.dig` asks for.
    asked: Vec<Name>,
    zone: Arc<Zone>,
    origins: Vec<Name>,
    /// Every name that owns a record, and all names above.
    there: BTreeSet<Name>,
}

impl Scenario {
    fn load(path: &Path, work: &Path) -> Self {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let text = fs::read_to_string(path).unwrap().replace(CUT.0, CUT.1);
        let asked = fs::read_to_string(path.with_extension("dig")).unwrap_or_default();
        Self::new(name, &text, asked.lines().filter_map(asked_name).collect(), work)
    }

    fn new(name: &str, text: &str, asked: Vec<Name>, work: &Path) -> Self {
        let folder = work.join(name);
        fs::create_dir(&folder).unwrap();
        let manifests = folder.join("manifests.yaml");
        fs::write(&manifests, text).unwrap();
        let config = common::scenario_config(&manifests, text);
        let mut source = commands::open_manifests(&config, &config.listen.addresses);
        source.load();
        let zone = source.zone();
        let records = zone.origins().into_iter().flat_map(|origin| zone.records(&origin).unwrap());
        let owners: BTreeSet<Name> = records.map(|record| questions::labels(record.owner.octets())).collect();
        Self {
            name: name.to_owned(),
            folder,
            asked,
            options: common::header(text, "options").unwrap_or_default().to_owned(),
            objects: read_text(name, text, config.namespace.as_deref().unwrap_or("default")).objects,
            origins: zone.origins().iter().map(|origin| questions::labels(origin.octets())).collect(),
            there: owners.iter().flat_map(|name| (0..name.len()).map(|skip| name[skip..].to_vec())).collect(),
            zone,
        }
    }

    fn compare(&self) -> Tally {
        let zones = self.export();
        let ours = Ours::start(Arc::clone(&self.zone));
        let nsd = Oracle::nsd(&self.folder, &zones);
        let bind = Oracle::bind(&self.folder, &zones);
        let addresses = [ours.address, nsd.address, bind.address];
        let outside = OUTSIDE.iter().map(|name| questions::labels(&common::question_name(name)));
        let names = self.names().into_iter().chain(outside);
        let names = questions::around(names, &self.origins);
        thread::scope(|scope| {
            let part = |number: usize| {
                let mut clients = addresses.map(Client::connect);
                let mut tally = Tally::default();
                for names in names.chunks(WINDOW / TYPES.len()).skip(number).step_by(THREADS) {
                    self.ask(names, &mut clients, &mut tally);
                }
                tally
            };
            let threads: Vec<_> = (0..THREADS).map(|number| scope.spawn(move || part(number))).collect();
            let mut total = Tally::default();
            threads.into_iter().for_each(|thread| total.add(thread.join().unwrap()));
            total
        })
    }

    /// The names in the zones: what has records, what the form of a zone has, what `NAME.dig` asks for. What it asks
    /// for in one forward zone is asked for in all.
    fn names(&self) -> Vec<Name> {
        let forward = &self.origins[..self.zone.settings().apexes.len()];
        let mut names: Vec<Name> = self.there.iter().chain(&self.asked).cloned().collect();
        for apex in forward {
            let below = |labels: &[Vec<u8>]| [labels, apex].concat();
            names.extend([&b"svc"[..], b"pod", b"dns"].map(|label| below(&[label.to_vec()])));
            names.extend(self.asked.iter().filter_map(|name| Some(below(name.strip_suffix(&forward[0][..])?))));
        }
        names.retain(|name| questions::apex(&self.origins, name).is_some() || self.asked.contains(name));
        names
    }

    pub(crate) fn has_namespace(&self, name: &str) -> bool {
        self.objects.iter().any(|object| object.namespace() == name)
    }

    pub(crate) fn has_service(&self, namespace: &str, name: &str) -> bool {
        let is_it = |object: &Object| object.namespace() == namespace && object.name() == name;
        self.objects.iter().any(|object| matches!(object, Object::Service(_)) && is_it(object))
    }

    /// Returns whether `label` is an endpoint in `namespace` that is not ready, or a Pod of one of its StatefulSets.
    pub(crate) fn expects(&self, namespace: &str, label: &str) -> bool {
        let not_ready = |slice: &EndpointSlice| {
            let mut endpoints = slice.endpoints().filter(|endpoint| !endpoint.conditions.ready());
            endpoints.any(|endpoint| match endpoint.hostname {
                Some(hostname) => hostname.write(&mut [0; 63]) == label.as_bytes(),
                None => {
                    let names_pods = self.options.contains("--endpoint-pod-names");
                    dashed::write(endpoint.address, &mut [0; 63]) == label.as_bytes()
                        || names_pods && endpoint.pod.is_some_and(|pod| pod.to_string() == label)
                }
            })
        };
        self.objects.iter().filter(|object| object.namespace() == namespace).any(|object| match object {
            Object::EndpointSlice(slice) => not_ready(slice),
            Object::Endpoints(endpoints) => endpoints.slices.iter().any(not_ready),
            Object::StatefulSet(set) => {
                let pods = set.start..set.start + set.replicas;
                let number = label.rsplit_once('-').filter(|(name, _)| *name == &*set.key.name);
                number.and_then(|(_, number)| number.parse().ok()).is_some_and(|number| pods.contains(&number))
            }
            _ => false,
        })
    }

    /// Writes every zone as `records` does, and has BIND's checker read it.
    fn export(&self) -> Vec<ZoneFile> {
        let export = |origin| {
            let path = self.folder.join(format!("{origin}zone"));
            fs::write(&path, records::zone_file(&self.zone.records(&origin).unwrap())).unwrap();
            check(&origin.to_string(), &path);
            ZoneFile { origin, path }
        };
        self.zone.origins().into_iter().map(export).collect()
    }

    fn ask(&self, names: &[Name], clients: &mut [Client; 3], tally: &mut Tally) {
        let percent = common::scaled(100);
        let mut questions = Vec::new();
        for name in names {
            for qtype in TYPES {
                let wire = questions::wire(name);
                let mixed = questions::mixed_case(&wire, qtype, percent);
                let cases = [Some(wire), mixed].into_iter().flatten();
                questions.extend(cases.map(|wire| (name, Question { name: wire, qtype })));
            }
        }
        for part in questions.chunks(WINDOW) {
            for mode in Mode::ALL {
                let asked: Vec<Question> = part.iter().map(|(_, question)| question.clone()).collect();
                let first_id = tally.asked as u16;
                let [ours, nsd, bind] = ask::ask(clients, &asked, mode, first_id);
                tally.asked += asked.len() as u64;
                for (index, (name, question)) in part.iter().enumerate() {
                    for (peer, theirs) in [(Peer::Nsd, &nsd[index]), (Peer::Bind, &bind[index])] {
                        let apex = questions::apex(&self.origins, name).map_or(0, Vec::len);
                        let ours = &ours[index];
                        tally.compare(&Case { scenario: self, name, apex, question, mode, peer, ours, theirs });
                    }
                }
            }
        }
    }
}

/// `-k ignore`: addresses at `_port._proto` names are meant (N6). The rest of its checks are errors.
fn check(origin: &str, path: &Path) {
    let strict = ["-k", "ignore", "-i", "local", "-m", "fail", "-M", "fail", "-n", "fail", "-r", "fail", "-S", "fail"];
    let checked = Command::new("named-checkzone").args(strict).arg(origin).arg(path).output();
    let checked = checked.unwrap_or_else(|error| panic!("named-checkzone: {error}"));
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && !said.contains("warning"), "named-checkzone {origin}:\n{said}");
}

/// The name that a line `$ dig ...` of a scenario asks for.
fn asked_name(line: &str) -> Option<Name> {
    let mut words = line.strip_prefix("$ dig ")?.split(' ');
    let wire = match words.next()? {
        "-x" => reverse_name(words.next()?.parse().unwrap()).octets().to_vec(),
        name => common::question_name(name),
    };
    Some(questions::labels(&wire))
}

/// Services whose answers are a little smaller and a little larger than 512 and 1232 octets: in A, AAAA and SRV by
/// their endpoints, in PTR by the Services that have the address.
fn sizes() -> String {
    let mut text = "# options: --reverse 10.0.0.0/8 --reverse fd00::/8\n".to_owned();
    let mut service = |name: &str, family: &str, addresses: &[String]| {
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec: {{clusterIP: None, ports: [{{name: x, port: 80}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\n\
             metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             ports: [{{name: x, port: 80}}]\nendpoints:\n"
        );
        for (number, address) in addresses.iter().enumerate() {
            let _ = writeln!(text, "- {{addresses: [\"{address}\"], hostname: h-{number}}}");
        }
    };
    for count in (7..12).chain(18..24).chain(27..32).chain(71..77) {
        let addresses: Vec<_> = (0..count).map(|number| format!("10.1.{count}.{number}")).collect();
        service(&format!("four-{count}"), "IPv4", &addresses);
    }
    for count in (15..19).chain(40..45) {
        let addresses: Vec<_> = (0..count).map(|number| format!("fd00::{count}:{number}")).collect();
        service(&format!("six-{count}"), "IPv6", &addresses);
    }
    for count in 0..48 {
        let addresses: Vec<_> = (count..48).map(|number| format!("10.2.0.{number}")).collect();
        service(&format!("shared-{count}"), "IPv4", &addresses);
    }
    text
}

/// Counts of compared queries.
#[derive(Default)]
struct Tally {
    /// Questions; each went to three servers.
    asked: u64,
    /// Answers of ours that were compared with one of theirs, and those of them that were cut in both.
    compared: u64,
    cut: u64,
    explained: BTreeMap<&'static str, u64>,
    /// By server, place and part: the number, and the first as text.
    unexplained: BTreeMap<String, (u64, String)>,
}

impl Tally {
    fn compare(&mut self, case: &Case<'_>) {
        self.compared += 1;
        self.cut += u64::from(case.ours.tc && case.theirs.tc);
        if case.differing().is_empty() {
            return;
        }
        if let Some((id, _)) = RULES.iter().find(|(_, explains)| explains(case)) {
            *self.explained.entry(id).or_default() += 1;
            return;
        }
        self.unexplained.entry(case.kind()).or_insert_with(|| (0, case.to_string())).0 += 1;
    }

    fn add(&mut self, other: Self) {
        self.asked += other.asked;
        self.compared += other.compared;
        self.cut += other.cut;
        for (id, count) in other.explained {
            *self.explained.entry(id).or_default() += count;
        }
        for (kind, (count, text)) in other.unexplained {
            self.unexplained.entry(kind).or_insert((0, text)).0 += count;
        }
    }

    /// Why the run failed; nothing if it did not.
    fn wrong(&self) -> String {
        let mut wrong = String::new();
        for (count, text) in self.unexplained.values().take(SHOWN) {
            let _ = writeln!(wrong, "{text}\n    and as much {} times more", count - 1);
        }
        for (id, _) in RULES.iter().filter(|(id, _)| !self.explained.contains_key(id)) {
            let _ = writeln!(wrong, "the rule `{id}` explained nothing: it is wrong, or no longer needed");
        }
        wrong
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, compared, cut, .. } = self;
        let unexplained: u64 = self.unexplained.values().map(|(count, _)| count).sum();
        write!(f, "{asked} questions to 3 servers, {compared} answers compared ({cut} of them cut), ")?;
        write!(f, "{unexplained} differences unexplained, explained by rule:")?;
        self.explained.iter().try_for_each(|(id, count)| write!(f, " {id} {count}"))
    }
}
