//! K17 and K18 (`tests/rows.md`) on the real API server: watches that are accepted and break at once, behind a proxy, and
//! half-open connections. The cluster does not change meanwhile. `tests/it/api_server/contact.rs` has all shapes of faults.

use std::ffi::OsStr;
use std::process::Stdio;

use super::*;
use crate::proxy::{Mode, Proxy};

const QUESTIONS_PER_SECOND: u32 = 500;
/// Services, EndpointSlices, Namespaces, StatefulSets.
const WATCHES: f64 = 4.0;
/// 30 s after the loss, the tick of a second, and a busy machine.
const MARKED_WITHIN: Duration = Duration::from_millis(31_500);

const SHAPES: [(&str, &str); 5] = [
    ("ERROR event", "HTTP/1.1 200 OK\r\n\r\n{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":500}}\n"),
    ("no newline", "HTTP/1.1 200 OK\r\n\r\n{\"message\":\"upstream request timeout\"}"),
    ("HTML", "HTTP/1.1 200 OK\r\n\r\n<html>login</html>\n"),
    ("headers, FIN", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
    ("empty body", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
];

/// A quiet cluster, a proxy in front of it, and a server that watches the one or the other and answers questions.
struct Quiet {
    // In this order they end.
    asker: Asker,
    server: Server,
    proxy: Proxy,
    plane: ControlPlane,
}

impl Quiet {
    fn start(is_proxied: bool) -> Self {
        let plane = ControlPlane::start();
        plane.controller_manager.kill();
        plane.let_server_read();
        furnish(&mut Api::new(&plane.admin_kubeconfig()), &first_world());
        let proxy = Proxy::start(&plane);
        let kubeconfig = if is_proxied { proxy.kubeconfig().clone() } else { plane.server_kubeconfig() };
        let server = Server::start(&kubeconfig, &OPTIONS).synced();
        let asker = Asker::start(server.address, &questions(), QUESTIONS_PER_SECOND, LONGEST);
        std::thread::sleep(seconds(7));
        Self { asker, server, proxy, plane }
    }

    /// Answers to questions that were sent within a time: how many, and how many of them are marked.
    fn answers(&self, from: Instant, until: Instant) -> (usize, usize) {
        let log = self.asker.since(0);
        let got = log.asked.iter().filter(|asked| (from..until).contains(&asked.sent)).map(|asked| asked.got);
        let got: Vec<Got> = got.map(|got| got.expect("every question is answered")).collect();
        (got.len(), got.iter().filter(|got| is_mark(got)).count())
    }

    /// Returns the time of the last query before `until` with an unmarked answer.
    fn last_unmarked(&self, until: Instant) -> Instant {
        let log = self.asker.since(0);
        let unmarked =
            log.asked.iter().filter(|asked| asked.sent < until && asked.got.is_some_and(|got| !is_mark(&got)));
        unmarked.map(|asked| asked.sent).max().expect("answers before the loss are not marked")
    }

    /// Waits until answers are marked, or not any more.
    fn until_marked(&self, marked: bool, within: Duration) -> Duration {
        let begun = Instant::now();
        let mut seen = self.asker.count();
        until("answers are marked, or not any more", within, || {
            let log = self.asker.since(seen);
            seen += log.asked.len();
            let is = log.asked.last().and_then(|asked| asked.got).map(|got| is_mark(&got));
            if is == Some(marked) { Ok(()) } else { Err("not yet") }
        });
        begun.elapsed()
    }
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn survives_watches_that_fail_at_once() {
    let quiet = Quiet::start(true);
    for (name, shape) in SHAPES.into_iter().take(scaled(5) as usize) {
        let lines = quiet.server.log().lines().count();
        let begun = Instant::now();
        quiet.proxy.set(Mode::Break(shape));
        let marked = quiet.until_marked(true, MARKED_WITHIN + seconds(1));
        std::thread::sleep(seconds(3));
        let (late, marked_late) = quiet.answers(begun + MARKED_WITHIN + seconds(1), Instant::now() - seconds(1));
        let per_second = quiet.proxy.requests_since(begun) as f64 / begun.elapsed().as_secs_f64();
        let log = quiet.server.log();
        let written: Vec<&str> = log.lines().skip(lines).collect();
        quiet.proxy.set(Mode::Forward);
        let healed = quiet.until_marked(false, RECOVERED + seconds(1));
        println!(
            "drill: {name}: {:.2} requests/s per watch, {} lines, marked after {:.1} s, not any more after {:.1} s",
            per_second / WATCHES,
            written.len(),
            marked.as_secs_f64(),
            healed.as_secs_f64()
        );
        assert_eq!(late - marked_late, 0, "{name}");
        assert!(per_second <= 2.0 * WATCHES, "{name}: {per_second} requests/s");
        assert!((1..=6).contains(&written.len()), "{name}: {written:#?}");
        assert!(written.iter().all(|line| !line.contains("://")), "{written:#?}");
        std::thread::sleep(seconds(6));
    }
    assert!(!quiet.server.log().contains("Server cert bypassed"), "once, in other words: {}", quiet.server.log());
}

/// The cause of half-open connections to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    /// nftables drops every packet from and to the API server's port.
    PacketsDropped,
    /// The proxy reads and writes nothing.
    ProxyFrozen,
}

impl Silence {
    fn begin(self, quiet: &Quiet) {
        match self {
            Self::PacketsDropped => run(Command::new("nft").arg(drop_rules(quiet.plane.api_port()))).unwrap(),
            Self::ProxyFrozen => quiet.proxy.set(Mode::Frozen),
        }
    }

    fn end(self, quiet: &Quiet) {
        match self {
            Self::PacketsDropped => run(Command::new("nft").arg("delete table inet drill")).unwrap(),
            Self::ProxyFrozen => quiet.proxy.set(Mode::Forward),
        }
    }
}

fn drop_rules(port: u16) -> String {
    format!(
        "add table inet drill; add chain inet drill input {{ type filter hook input priority 0; }}; \
         add rule inet drill input tcp dport {port} drop; add rule inet drill input tcp sport {port} drop"
    )
}

/// A command as root of a network namespace of its own, in which there is a loopback interface and nothing else.
fn in_namespace(program: &OsStr) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]).arg(program);
    command
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

#[test]
#[ignore = "needs a control plane: tests/cluster/run builds it and runs this"]
fn survives_half_open_connections() {
    /// Set for this test in the network namespace.
    const IN_NAMESPACE: &str = "TEST_HEADLESS_DNS_DRILL_IN_NAMESPACE";
    if std::env::var_os(IN_NAMESPACE).is_some() {
        return half_open(Silence::PacketsDropped);
    }
    if let Err(reason) = run(in_namespace("nft".as_ref()).arg(drop_rules(1))) {
        println!("drill: half-open: the proxy freezes, because no packets can be dropped here: {reason}");
        return half_open(Silence::ProxyFrozen);
    }
    let mut test = in_namespace(std::env::current_exe().unwrap().as_ref());
    test.args(["--quiet", "--ignored", "--nocapture", "--exact", "drills::contact::survives_half_open_connections"]);
    assert!(test.env(IN_NAMESPACE, "1").status().unwrap().success());
}

fn half_open(silence: Silence) {
    let quiet = Quiet::start(silence == Silence::ProxyFrozen);
    let begun = Instant::now();
    std::thread::sleep(time(30, 600));
    let (answers, marked) = quiet.answers(begun, Instant::now() - seconds(1));
    println!("drill: {:.0} quiet seconds: {answers} answers, {marked} marked", begun.elapsed().as_secs_f64());
    assert_eq!(marked, 0, "silence is no staleness");
    let silent = Instant::now();
    silence.begin(&quiet);
    std::thread::sleep(time(38, 75));
    let over = Instant::now();
    silence.end(&quiet);
    let healed = quiet.until_marked(false, RECOVERED + seconds(1));
    // The loss is dated at the last octet, which can be 10 s and a turn of the supervisor before the cut.
    let (early, marked_early) = quiet.answers(silent, silent + seconds(15));
    let (late, marked_late) = quiet.answers(silent + MARKED_WITHIN, over);
    println!(
        "drill: half-open, {silence:?}: {marked_early} of {early} answers are marked in the first 15 s, {marked_late} of \
         {late} after {:.1} s, all after {:.1} s; none {:.1} s after the end",
        MARKED_WITHIN.as_secs_f64(),
        quiet.last_unmarked(over).saturating_duration_since(silent).as_secs_f64(),
        healed.as_secs_f64()
    );
    assert_eq!((marked_early, late - marked_late), (0, 0));
    assert!(late > 1_000, "it was asked meanwhile: {late}");
}
