//! Faults of a control plane, while the server gets 1,000 queries per second and the API keeps changing.
//!
//! Each drill plays one fault on a control plane of its own, and then checks every answer: none is wrong, none is lost, and a
//! change after the fault is visible within the limit of its row (K1 to K16). It prints one line of figures. The same faults,
//! alone and in every variation, are in `tests/it/api_server`.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

mod contact;

use super::asker::{Asker, Got, LATE, Log, Question};
use super::common::scaled;
use super::control_plane::{ControlPlane, ISSUER, SERVER_USER};
use super::ledger::{Bounds, Fault, Ledger, MARKS, Verdict};
use super::server::Server;
use super::world::{A, NAMESPACE, SRV, World, below, reverse};
use super::writer::{Api, CHURN, HOSTS, SWING, Writer, first_world, furnish};
use super::{WAIT_TIMEOUT, until};

const PER_SECOND: u32 = 1_000;
/// Time limit of a drill.
const LONGEST: Duration = Duration::from_secs(900);
/// Time limit for a change to be answered without a fault; it takes milliseconds, but the machine may be busy.
const USUAL: Duration = Duration::from_secs(2);
/// K2: after the API server is back.
const RECOVERED: Duration = seconds(12);
/// K6, and one more look at the log.
const NOTICED: Duration = seconds(25 + 1);
/// While nothing is answered: after the API server is ready for the first time.
const CAME: Duration = seconds(2);
/// The 30 s after the last octet before answers are marked as stale, and one more check of the clock.
const MARKED: Duration = seconds(30 + 2);
/// K13: the probe, and the recovery.
const PUT_BACK: Duration = seconds(60 + 12);

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// `full` seconds at the full count; less, and never less than `least`, at a smaller one.
fn time(least: u64, full: u64) -> Duration {
    seconds(scaled(full).max(least))
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn survives_api_server_kill() {
    let mut drill = Drill::start("API server killed", ControlPlane::start(), Credential::Static);
    for _ in 0..scaled(3) {
        let killed = Instant::now();
        drill.plane.api_server.kill();
        std::thread::sleep(seconds(15));
        drill.plane.api_server.start();
        drill.plane.wait_ready().unwrap();
        drill.recovers(killed, RECOVERED, seconds(15) + MARKED);
    }
    drill.end();
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn survives_etcd_kill() {
    let mut drill = Drill::start("etcd killed", ControlPlane::start(), Credential::Static);
    for down in [0, 10] {
        let killed = Instant::now();
        drill.plane.etcd.kill();
        std::thread::sleep(seconds(down));
        drill.plane.etcd.start();
        drill.plane.wait_ready().unwrap();
        drill.recovers(killed, RECOVERED, MARKED);
    }
    drill.end();
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn survives_stopped_api_server() {
    let mut drill = Drill::start("API server stopped", ControlPlane::start(), Credential::Static);
    let stopped = Instant::now();
    drill.plane.api_server.freeze();
    // Long enough for the marks, which are due after 32 s.
    std::thread::sleep(time(40, 120));
    let continued = Instant::now();
    let log = drill.asker().since(0);
    let late = log.asked.iter().filter(|asked| asked.sent > stopped + MARKED && asked.sent < continued);
    let got: Vec<Got> = late.filter_map(|asked| asked.got).collect();
    let unmarked = got.iter().filter(|got| !is_mark(got)).count();
    assert!(unmarked == 0 && got.len() > 1_000, "after {MARKED:?} {unmarked} of {} do not say that", got.len());
    drill.plane.api_server.thaw();
    drill.plane.wait_ready().unwrap();
    drill.recovers(stopped, RECOVERED, MARKED);
    let noticed = drill.noticed[0].expect("it was noticed");
    assert!(noticed <= NOTICED, "{noticed:?}");
    drill.end();
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn survives_etcd_restore() {
    let mut drill = Drill::start("etcd restored", ControlPlane::start(), Credential::Static);
    for killed_before in [true, false].into_iter().take(scaled(2) as usize) {
        drill.writer().pause();
        let (world, backup) = (drill.world(), drill.plane.back_up_etcd("backup"));
        drill.writer().resume();
        // Objects created now vanish, objects deleted now come back.
        std::thread::sleep(seconds(10));
        drill.writer().pause();
        let put_back = Instant::now();
        // As etcd's own instructions say, the API server is started anew, before or after: one that is not goes on to
        // list its cached objects to every client, and no client can tell (v1.37.1, watched for 130 s).
        if killed_before {
            drill.plane.api_server.kill();
        }
        drill.plane.restore_etcd(&backup);
        drill.plane.api_server.restart();
        drill.plane.wait_ready().unwrap();
        drill.writer().was_put_back(world, put_back, Instant::now());
        drill.writer().resume();
        drill.recovers(put_back, PUT_BACK, MARKED);
        fs::remove_dir_all(backup).unwrap();
    }
    drill.end();
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn survives_token_expiry() {
    /// The API server remembers a good token so long.
    const REMEMBERED: Duration = seconds(10);
    /// And lets a watch end that was begun with one.
    const WATCHED: Duration = seconds(40);
    let plane = ControlPlane::start();
    let tokens = Tokens::new(&plane);
    let first = tokens.write(seconds(30));
    let mut drill = Drill::start("token expires", plane, Credential::Token(tokens.file.clone()));
    // Rotated in time: a client may take the old one for a minute, is refused, and reads again.
    std::thread::sleep((first - seconds(10)).saturating_duration_since(Instant::now()));
    let second = tokens.write(seconds(50));
    drill.faults.push(Fault { from: first, until: second, at_most: RECOVERED, marked_from: None });
    // Not rotated: the server is cut off, and answers from its last data.
    let marked_from = second + REMEMBERED + WATCHED + MARKED;
    std::thread::sleep(second.saturating_duration_since(Instant::now()));
    drill.is_marked(marked_from.saturating_duration_since(Instant::now()));
    tokens.write(seconds(3600));
    drill.recovers(second, RECOVERED, marked_from - second);
    drill.end();
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn survives_certificate_authority_rotation() {
    let mut drill = Drill::start("authority replaced", ControlPlane::start(), Credential::Static);
    let replaced = Instant::now();
    drill.plane.api_server.kill();
    let old = fs::read(drill.plane.ca()).unwrap();
    fs::remove_dir_all(drill.plane.ca().parent().unwrap()).unwrap();
    drill.plane.api_server.start();
    drill.plane.wait_ready().unwrap();
    assert!(fs::read(drill.plane.ca()).unwrap() != old, "another certificate");
    drill.recovers(replaced, RECOVERED, MARKED);
    drill.end();
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn starts_before_api_server() {
    let plane = ControlPlane::start();
    plane.controller_manager.kill();
    plane.let_server_read();
    let world = first_world();
    furnish(&mut Api::new(&plane.admin_kubeconfig()), &world);
    plane.api_server.kill();
    let begun = Instant::now();
    let server = Server::start(&plane.server_kubeconfig(), &OPTIONS);
    let ledger = Ledger::new(questions(), world, begun);
    let asker = Asker::start(server.address, ledger.questions(), PER_SECOND, LONGEST);
    std::thread::sleep(time(15, 60));
    plane.api_server.start();
    plane.wait_ready().unwrap();
    let came = Instant::now();
    let is_data = |log: &Log, got: usize| log.answers[got].rcode != 2;
    let data = until("the first answer", RECOVERED + WAIT_TIMEOUT, || {
        let log = asker.since(0);
        log.asked.iter().filter_map(|asked| asked.got).find(|got| is_data(&log, got.answer)).ok_or("only SERVFAIL")
    });
    let first = data.at;
    until("the server says that it is ready", WAIT_TIMEOUT, || {
        if server.log().contains("synced") { Ok(()) } else { Err(server.log()) }
    });
    std::thread::sleep(seconds(5));
    let log = asker.stop();
    let bounds = Bounds { usual: USUAL, faults: Vec::new() };
    let (mut failed, mut lost, mut wrong) = (0, 0, Vec::new());
    for asked in &log.asked {
        match asked.got {
            None => lost += 1,
            // Several workers and sockets: queries before the first answer may fail.
            Some(got) if log.answers[got.answer].rcode == 2 => {
                failed += 1;
                if got.ede != Some(14) || asked.sent > first || !log.answers[got.answer].records.is_empty() {
                    wrong.push(*asked);
                }
            }
            Some(_) if ledger.judge(&log, asked, &bounds) != Verdict::Right => wrong.push(*asked),
            Some(_) => {}
        }
    }
    let after = first.saturating_duration_since(came);
    println!(
        "drill: {:<20} {:>7} asked, {} wrong, {lost} lost, {} late, {failed} SERVFAIL with EDE 14; the first data {:.2} s after \
         the API server was ready",
        "starts alone",
        log.asked.len(),
        wrong.len(),
        late(&log),
        after.as_secs_f64()
    );
    let said: Vec<String> =
        wrong.iter().take(5).map(|asked| ledger.explain(&log, asked, Verdict::Never, begun)).collect();
    assert!(wrong.is_empty(), "{}", said.join("\n"));
    assert_eq!((lost, log.strays), (0, 0), "every question is answered, once");
    assert!(failed > 5_000, "it was asked before: {failed}");
    assert!(after <= CAME, "{after:?}");
}

/// Credential of the server.
enum Credential {
    /// A token that never expires.
    Static,
    /// A file.
    Token(PathBuf),
}

/// The reverse zone is served from the beginning on, whatever is in it.
const OPTIONS: [&str; 2] = ["--reverse", "10.77.0.0/16"];

/// Returns the queries: names that stay, change, come and go, and never exist.
fn questions() -> Vec<Question> {
    let mut questions = vec![
        below("still", A),
        below("h-0.still", A),
        below("_http._tcp.still", SRV),
        below("h-9.still", A),
        below("nothing", A),
        below("h-0.nothing", A),
        reverse(Ipv4Addr::new(10, 77, 1, 1)),
        reverse(Ipv4Addr::new(10, 77, 200, 1)),
    ];
    for number in 0..CHURN {
        let service = format!("churn-{number}");
        questions.extend([below(&service, A), below(&format!("_http._tcp.{service}"), SRV)]);
        // The last is never there.
        questions.extend([0, HOSTS - 1, HOSTS].map(|host| below(&format!("h-{host}.{service}"), A)));
    }
    for number in 0..SWING {
        let service = format!("swing-{number}");
        questions.extend([below(&service, A), below(&format!("h-0.{service}"), A)]);
    }
    questions.extend((1..=40).step_by(4).map(|last| reverse(Ipv4Addr::new(10, 77, 2, last))));
    questions
}

/// One drill: a control plane, a server that watches it, clients that ask, a writer that changes.
struct Drill {
    name: &'static str,
    begun: Instant,
    faults: Vec<Fault>,
    /// For each fault, the time at which its loss was noticed, and the time after its end at which later changes were seen.
    noticed: Vec<Option<Duration>>,
    converged: Vec<Duration>,
    ledger: Arc<Mutex<Ledger>>,
    // In this order they end.
    asker: Option<Asker>,
    writer: Option<Writer>,
    watcher: LogWatcher,
    server: Arc<Server>,
    plane: ControlPlane,
}

impl Drill {
    fn start(name: &'static str, plane: ControlPlane, credential: Credential) -> Self {
        // Nothing here is made by a controller.
        plane.controller_manager.kill();
        plane.let_server_read();
        let (world, mut api) = (first_world(), Api::new(&plane.admin_kubeconfig()));
        furnish(&mut api, &world);
        let kubeconfig = match credential {
            Credential::Static => plane.server_kubeconfig(),
            Credential::Token(file) => plane.write_kubeconfig("token", &format!("tokenFile: '{}'", file.display())),
        };
        let server = Arc::new(Server::start(&kubeconfig, &OPTIONS).synced());
        let begun = Instant::now();
        let ledger = Arc::new(Mutex::new(Ledger::new(questions(), world, begun)));
        let asker = Asker::start(server.address, &questions(), PER_SECOND, LONGEST);
        let writer = Writer::start(api, &ledger, Duration::from_millis(40));
        let watcher = LogWatcher::start(&server);
        std::thread::sleep(seconds(5));
        Self {
            name,
            begun,
            faults: Vec::new(),
            noticed: Vec::new(),
            converged: Vec::new(),
            ledger,
            asker: Some(asker),
            writer: Some(writer),
            watcher,
            server,
            plane,
        }
    }

    fn writer(&self) -> &Writer {
        self.writer.as_ref().unwrap()
    }

    fn world(&self) -> World {
        self.ledger.lock().unwrap().world().clone()
    }

    fn asker(&self) -> &Asker {
        self.asker.as_ref().unwrap()
    }

    /// Waits until an answer is marked as stale.
    fn is_marked(&self, within: Duration) {
        let mut seen = self.asker().count();
        until("an answer says that it is stale", within, || {
            let log = self.asker().since(seen);
            seen += log.asked.len();
            log.asked.iter().filter_map(|asked| asked.got).any(|got| is_mark(&got)).then_some(()).ok_or("none yet")
        });
    }

    /// The fault that began at `from` is over now: what is changed from now on is answered within `bound`, and what
    /// was untrue for `marked` while it lasted must say so. Returns some seconds later.
    fn recovers(&mut self, from: Instant, bound: Duration, marked: Duration) {
        let over = Instant::now();
        let marked_from = Some(from + marked);
        self.faults.push(Fault { from, until: over + bound, at_most: LONGEST, marked_from });
        let mut looked = self.asker().count();
        let seen = until("a later change is answered", bound + WAIT_TIMEOUT, || {
            let log = self.asker().since(looked);
            looked += log.asked.len();
            let ledger = self.ledger.lock().unwrap();
            log.asked
                .iter()
                .find(|asked| ledger.is_of_after(&log, asked, over))
                .and_then(|asked| asked.got)
                .ok_or("none")
        });
        let took = seen.at - over;
        assert!(took <= bound, "{}: a later change is answered after {took:?}", self.name);
        self.noticed.push(self.watcher.noticed_after(from));
        self.converged.push(took);
        std::thread::sleep(seconds(5));
    }

    /// The verdict on every answer, and the figures.
    fn end(mut self) {
        self.writer.take().unwrap().stop();
        std::thread::sleep(seconds(2));
        let log = self.asker.take().unwrap().stop();
        let ledger = self.ledger.lock().unwrap();
        let bounds = Bounds { usual: USUAL, faults: self.faults.clone() };
        let (mut lost, mut stale, mut oldest, mut wrong) = (Vec::new(), 0, Duration::ZERO, Vec::new());
        for asked in &log.asked {
            match ledger.judge(&log, asked, &bounds) {
                Verdict::Right => {}
                Verdict::Lost => lost.push(asked.sent.duration_since(self.begun)),
                Verdict::Stale(age) => {
                    stale += 1;
                    oldest = oldest.max(age);
                }
                verdict => wrong.push((*asked, verdict)),
            }
        }
        let marks: Vec<Got> = log.asked.iter().filter_map(|asked| asked.got).filter(is_mark).collect();
        let first_mark = marks.iter().map(|got| got.at).min().map(|at| {
            let fault = self.faults.iter().rev().find(|fault| fault.from < at).expect("a mark has a reason");
            at - fault.from
        });
        let list = |times: &[Option<Duration>]| {
            let times = times.iter().map(|time| time.map_or("-".into(), |time| format!("{:.1}", time.as_secs_f64())));
            times.collect::<Vec<_>>().join(" and ")
        };
        let converged: Vec<_> = self.converged.iter().copied().map(Some).collect();
        println!(
            "drill: {:<20} {:>7} asked, {} wrong, {} lost, {} late, {stale} stale within bounds (at most {:.1} s), {} marked; \
             noticed after {} s, the first mark after {} s; a later change answered after {} s",
            self.name,
            log.asked.len(),
            wrong.len(),
            lost.len(),
            late(&log),
            oldest.as_secs_f64(),
            marks.len(),
            list(&self.noticed),
            list(&[first_mark]),
            list(&converged),
        );
        let said: Vec<String> =
            wrong.iter().take(5).map(|(asked, verdict)| ledger.explain(&log, asked, *verdict, self.begun)).collect();
        assert!(wrong.is_empty(), "{}: {} wrong answers\n{}", self.name, wrong.len(), said.join("\n"));
        let (first, last, strays) = (lost.iter().min(), lost.iter().max(), log.strays);
        assert!(
            lost.is_empty() && strays == 0,
            "{}: {} questions are lost, asked from {first:?} to {last:?}, and {strays} answers came later",
            self.name,
            lost.len()
        );
        let least = (self.begun.elapsed().as_secs() - 3) * u64::from(PER_SECOND) * 9 / 10;
        assert!(log.asked.len() as u64 > least, "{}: {} questions asked", self.name, log.asked.len());
    }
}

fn late(log: &Log) -> usize {
    log.asked.iter().filter(|asked| asked.got.is_some_and(|got| got.at - asked.sent > LATE)).count()
}

fn is_mark(got: &Got) -> bool {
    got.ede.is_some_and(|code| MARKS.contains(&code))
}

/// Looks at a server's log as it grows.
struct LogWatcher {
    stop: Arc<AtomicBool>,
    lost: Arc<Mutex<Vec<Instant>>>,
    thread: Option<JoinHandle<()>>,
}

impl LogWatcher {
    fn start(server: &Arc<Server>) -> Self {
        let (stop, lost) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Instant>>>::default());
        let (server, told, found) = (Arc::clone(server), Arc::clone(&stop), Arc::clone(&lost));
        let thread = std::thread::spawn(move || {
            let mut seen = 0;
            while !told.load(Ordering::Relaxed) {
                let said = server.log().matches("cannot follow").count();
                found.lock().unwrap().extend((seen..said).map(|_| Instant::now()));
                seen = said;
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { stop, lost, thread: Some(thread) }
    }

    /// Returns the time from `from` until the server first reports that it cannot follow a resource.
    fn noticed_after(&self, from: Instant) -> Option<Duration> {
        self.lost.lock().unwrap().iter().find(|at| **at > from).map(|at| *at - from)
    }
}

impl Drop for LogWatcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// Tokens of the server's service account, signed with the control plane's key, in one file.
struct Tokens {
    key: PathBuf,
    uid: String,
    file: PathBuf,
}

impl Tokens {
    fn new(plane: &ControlPlane) -> Self {
        let [_, _, namespace, name] = SERVER_USER.split(':').collect::<Vec<_>>()[..] else { panic!("{SERVER_USER}") };
        let mut api = Api::new(&plane.admin_kubeconfig());
        let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        api.create("/api/v1/namespaces", &space);
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        let account = api.create(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), &account);
        let uid = account["metadata"]["uid"].as_str().unwrap().to_owned();
        Self { key: plane.service_account_key(), uid, file: plane.folder().join("token") }
    }

    /// Writes a token with this lifetime in whole seconds, and returns its expiry.
    fn write(&self, lasts: Duration) -> Instant {
        /// The API server takes a token for so long after its end.
        const LEEWAY: u64 = 60;
        let [_, _, namespace, name] = SERVER_USER.split(':').collect::<Vec<_>>()[..] else { panic!("{SERVER_USER}") };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let taken_until = now.as_secs() + lasts.as_secs();
        let claims = json!({
            "iss": ISSUER, "aud": [ISSUER], "sub": SERVER_USER,
            "iat": now.as_secs() - 600, "nbf": now.as_secs() - 600, "exp": taken_until - LEEWAY,
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": self.uid}},
        });
        let signed =
            format!("{}.{}", base64url(br#"{"alg":"RS256","typ":"JWT"}"#), base64url(claims.to_string().as_bytes()));
        let token = format!("{signed}.{}", base64url(&sign(&self.key, &signed)));
        // As the kubelet does: never half a token.
        let next = self.file.with_extension("next");
        fs::write(&next, token).unwrap();
        fs::rename(next, &self.file).unwrap();
        Instant::now() + (Duration::from_secs(taken_until) - now)
    }
}

/// RS256 (RFC 7518 section 3.3).
fn sign(key: &Path, text: &str) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let output = Command::new("openssl").args(["dgst", "-sha256", "-sign"]).arg(key).arg(file.path()).output().unwrap();
    assert!(output.status.success(), "openssl dgst: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// RFC 4648 section 5, without padding.
fn base64url(octets: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in octets.chunks(3) {
        let bits = three.iter().fold(0, |bits, octet| bits << 8 | u32::from(*octet)) << (8 * (3 - three.len()));
        text.extend((0..=three.len()).map(|place| ALPHABET[(bits >> (18 - 6 * place) & 63) as usize] as char));
    }
    text
}

#[test]
fn encodes_base64url_as_rfc_4648() {
    for (octets, text) in
        [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("\u{3ff}", "z78")]
    {
        assert_eq!(base64url(octets.as_bytes()), text);
    }
}

#[test]
fn queries_its_own_namespace() {
    let world = first_world();
    for question in questions() {
        let answer = world.answer(&question);
        assert!(answer.rcode == 0 || answer.rcode == 3, "{question:?}");
    }
    assert_eq!(NAMESPACE, "drill");
}
