//! Shutdown, reload and hot restart of a server under continuous queries.
//!
//! `cargo test --test it life`, or `tests/life/run` at scale on the release binary. A query is lost if it gets no answer and,
//! once the sockets are closed, no ICMP error. Over TCP a server may close a connection in good order at any time (RFC 7766
//! section 6.2.4): the client then repeats the query, and must be answered.

#![allow(unsafe_code, reason = "load.rs: socket options that the standard library does not have")]

mod load;
#[cfg(feature = "quic")]
mod quic;
pub mod server;

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::common::ports::{self, ReservedPort};
use crate::common::scaled;
use load::{Load, Report};
use server::{Answer, Server, WAIT_TIMEOUT, ask_briefly, manifest, replace, serve, until};

const NAME: &str = "web.default.svc.cluster.local";
const SERVFAIL: u8 = 2;

/// One load at a time: each is as much as a small machine has.
fn alone() -> MutexGuard<'static, ()> {
    static LOADED: Mutex<()> = Mutex::new(());
    LOADED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with(options: &[&str]) -> Command {
    let mut command = serve();
    command.args(options);
    command
}

fn demo(options: &[&str]) -> Command {
    let mut command = with(&["--demo", "--workers", "2"]);
    command.args(options);
    command
}

/// Checks that no query is lost and no answer wrong. `refused`: the kernel may have refused some after the shutdown.
fn check(what: &str, udp: &Report, tcp: &Report, refused: bool) {
    println!(
        "{what}: udp {} asked, {} answered, {} refused after the end, {} lost, {} per second, longest {:?}; tcp {} asked, \
         {} answered, {} orderly closes, {} more with a question on its way, {} broken, longest {:?}",
        udp.asked,
        udp.answered,
        udp.refused,
        udp.lost,
        udp.per_second(),
        udp.longest,
        tcp.asked,
        tcp.answered,
        tcp.closed,
        tcp.cut,
        tcp.broken,
        tcp.longest,
    );
    assert_eq!(udp.own_drops, 0, "the generator itself loses nothing");
    assert_eq!((udp.lost, udp.wrong, tcp.wrong, tcp.broken), (0, 0, 0, 0), "{what}: {udp:?} {tcp:?}");
    if !refused {
        assert_eq!((udp.refused, tcp.refused), (0, 0), "{what}: somebody listens all the time");
        assert_eq!(tcp.asked, tcp.answered, "{what}");
    }
    assert_eq!(udp.asked, udp.answered + udp.refused, "{what}");
}

// The end.

#[test]
fn answers_received_queries_at_shutdown() {
    let _alone = alone();
    let (mut udp, mut tcp) = (Report::default(), Report::default());
    let runs = scaled(100);
    for run in 0..runs {
        let lame_duck = if run % 10 == 9 { "1" } else { "0" };
        // Nothing else listens at the port behind the end.
        let port = ReservedPort::new();
        let listen = port.address().to_string();
        let mut server = Server::start(demo(&["--listen", &listen, "--lame-duck", lame_duck]));
        let loads = (Load::udp(server.address, NAME), Load::tcp(server.address, NAME));
        loads.0.wait_for(2_000);
        loads.1.wait_for(10);
        server.signal("TERM");
        server.ended_well();
        loads.0.wait_for_refusal();
        let reports = (loads.0.stop(), loads.1.stop());
        check(&format!("end {run}"), &reports.0, &reports.1, true);
        (udp, tcp) = (udp.and(&reports.0), tcp.and(&reports.1));
    }
    check(&format!("SIGTERM under load, {runs} times"), &udp, &tcp, true);
}

#[test]
fn lame_duck_answers_and_closes_idle_connections() {
    let mut server = Server::start(demo(&["--listen", "127.0.0.1:0", "--lame-duck", "1"]));
    let begun = Instant::now();
    server.signal("TERM");
    server.ended_well();
    assert!(begun.elapsed() >= Duration::from_secs(1));

    let mut server = Server::start(demo(&["--listen", "127.0.0.1:0", "--lame-duck", "3600"]));
    let mut quiet = std::net::TcpStream::connect(server.address).unwrap();
    quiet.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    server.signal("TERM");
    server.wait_for_log(0, "shutting down: answering for another 3600 s");
    // A connection that asks nothing is closed, in good order, long before the end.
    assert_eq!(std::io::Read::read(&mut quiet, &mut [0; 1]).unwrap(), 0);
    assert_eq!(server.ask(NAME).unwrap().rcode, 0);
    server.still_runs();

    // SIGINT skips the lame duck period, and a second signal ends it in any case.
    for signals in [&["INT"][..], &["TERM", "TERM"]] {
        let mut server = Server::start(demo(&["--listen", "127.0.0.1:0", "--lame-duck", "3600"]));
        for (index, signal) in signals.iter().enumerate() {
            if index > 0 {
                server.wait_for_log(0, "shutting down: answering for another 3600 s");
            }
            server.signal(signal);
        }
        server.ended_well();
        assert_eq!(server.log().contains("ended at once by a second signal"), signals.len() == 2);
    }
}

// Reload.

/// A server with a configuration file and a folder of manifests, both of which change.
struct Reloaded {
    server: Server,
    folder: tempfile::TempDir,
    other: ReservedPort,
    ttl: u32,
    address: [u8; 4],
    listens_twice: bool,
}

impl Reloaded {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("manifests")).unwrap();
        let other = ReservedPort::at(Ipv4Addr::new(127, 0, 0, 2).into());
        let mut new = Self {
            server: Server::begin(Command::new("true")),
            folder,
            other,
            ttl: 7,
            address: [10, 0, 0, 1],
            listens_twice: false,
        };
        replace(&new.manifest_path(), &manifest(new.address));
        replace(&new.config_path(), &new.config());
        new.server = Server::start(with(&["--config", new.config_path().to_str().unwrap()]));
        new
    }

    fn manifest_path(&self) -> std::path::PathBuf {
        self.folder.path().join("manifests/web.yaml")
    }

    fn config_path(&self) -> std::path::PathBuf {
        self.folder.path().join("config.toml")
    }

    fn config(&self) -> String {
        let manifests = self.folder.path().join("manifests");
        let second = if self.listens_twice { format!(", '{}'", self.other.address()) } else { String::new() };
        format!(
            "manifests = ['{}']\nlisten = ['127.0.0.1:0'{second}]\nttl = {}\nworkers = 2\n",
            manifests.display(),
            self.ttl
        )
    }

    fn expected(&self) -> Option<Answer> {
        Some(Answer { rcode: 0, first: Some((self.ttl, self.address)), explained: false })
    }

    fn shows_it(&mut self) {
        let (address, expected) = (self.server.address, self.expected());
        let server = &mut self.server;
        until("the new state is answered", || {
            server.still_runs();
            ask_briefly(address, NAME) == expected
        });
    }

    /// One reload; of ten one is of something broken, and changes nothing.
    fn reload(&mut self, number: u64) {
        let from = fs::metadata(self.server.log_path()).unwrap().len() as usize;
        match number % 20 {
            9 => {
                replace(&self.manifest_path(), &format!("{{ broken: [ # {number}\n"));
                self.server.signal("HUP");
                self.server.wait_for_log(from, "the previous content of the file stays in service");
                assert_eq!(self.server.ask(NAME), self.expected(), "a broken manifest changes nothing");
                replace(&self.manifest_path(), &manifest(self.address));
            }
            19 => {
                replace(&self.config_path(), &format!("{}tll = {number}\n", self.config()));
                self.server.signal("HUP");
                self.server.wait_for_log(from, "the configuration is unchanged: ");
                assert_eq!(self.server.ask(NAME), self.expected(), "a broken configuration changes nothing");
                replace(&self.config_path(), &self.config());
            }
            5 => {
                self.listens_twice = !self.listens_twice;
                replace(&self.config_path(), &self.config());
                self.server.signal("HUP");
                let (other, wanted) = (self.other.address(), self.listens_twice);
                until("the second address follows", || ask_briefly(other, NAME).is_some() == wanted);
            }
            even if even % 2 == 0 => {
                self.address[3] = (number % 250) as u8 + 1;
                self.address[2] = (number / 250) as u8;
                replace(&self.manifest_path(), &manifest(self.address));
                self.server.signal("HUP");
                self.shows_it();
            }
            _ => {
                self.ttl = 1 + (number % 86_000) as u32;
                replace(&self.config_path(), &self.config());
                self.server.signal("HUP");
                self.shows_it();
            }
        }
    }
}

#[test]
fn reload_loses_no_query_and_keeps_last_good_content() {
    let _alone = alone();
    let mut reloaded = Reloaded::start();
    let loads = (Load::udp(reloaded.server.address, NAME), Load::tcp(reloaded.server.address, NAME));
    let reloads = scaled(1_000).max(20);
    for number in 0..reloads {
        reloaded.reload(number);
    }
    let reports = (loads.0.stop(), loads.1.stop());
    let what = format!("{reloads} reloads under load, {} of broken files", reloads / 10);
    check(&what, &reports.0, &reports.1, false);
    assert!(reports.0.addresses.len() as u64 >= reloads / 3, "the load has seen them: {}", reports.0.addresses.len());
    reloaded.server.signal("TERM");
    reloaded.server.ended_well();
}

#[test]
fn reload_applies_or_reports_each_setting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let write = |text: &str| replace(&path, &format!("demo = true\nlisten = ['127.0.0.1:0']\n{text}"));
    write("");
    let server = Server::start(with(&["--config", path.to_str().unwrap()]));
    let missing = "nope.default.svc.cluster.local";
    let log = |text: &str| server.wait_for_log(0, text);

    // No signal: the file is watched.
    write("allow = ['192.0.2.0/24']\n");
    log("the configuration was read again, and these keys have changed: allow");
    assert_eq!(server.ask(NAME).unwrap().rcode, 5);
    write("allow = ['192.0.2.0/24']\nnot-allowed = 'drop'\n");
    log("and these keys have changed: not-allowed");
    assert_eq!(ask_briefly(server.address, NAME), None);
    write("ttl = 9\nnegative-ttl = 8\nlog = 'warn'\nlame-duck = 1\nexplain-to = 'none'\n");
    until("it answers again", || ask_briefly(server.address, NAME).is_some_and(|answer| answer.first.unwrap().0 == 9));
    assert!(!server.ask(missing).unwrap().explained);
    // The log level applies at once: only warnings, such as the one about the needed restart.
    write("ttl = 9\nzone = 'other.example'\nworkers = 3\n");
    log("these keys need a restart: zone, workers");
    assert_eq!(server.ask(NAME).unwrap().rcode, 0);
    // An address that cannot be bound changes nothing else either.
    replace(&path, "demo = true\nlisten = ['127.0.0.1:0', '192.0.2.1:53']\nttl = 11\n");
    log("the configuration is unchanged: cannot listen on 192.0.2.1:53 over TCP: this host has no such address");
    assert_eq!(server.ask(NAME).unwrap().first.unwrap().0, 9);
}

// Taking over.

fn takes_over(path: &Path, at: SocketAddr, options: &[&str]) -> Command {
    let mut command = with(&["--takeover", path.to_str().unwrap(), "--listen", &at.to_string()]);
    command.args(options);
    command
}

#[test]
fn hot_restart_loses_no_query() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("takeover");
    let first = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut server = Server::start(takes_over(&path, first, &["--demo", "--workers", "2"]));
    let address = server.address;
    let loads = (Load::udp(address, NAME), Load::tcp(address, NAME));
    let times = scaled(50).max(4);
    for time in 0..times {
        loads.0.wait_for(200);
        loads.1.wait_for(2);
        // More and fewer threads than there are sockets.
        let workers = ["3", "1", "2"][time as usize % 3];
        let next = Server::start(takes_over(&path, address, &["--demo", "--workers", workers]));
        server.ended_well();
        assert!(server.log().contains("a new process has taken over"), "{}", server.log());
        server = next;
    }
    loads.0.wait_for(200);
    loads.1.wait_for(2);
    let reports = (loads.0.stop(), loads.1.stop());
    check(&format!("one port handed over {times} times"), &reports.0, &reports.1, false);
    server.signal("TERM");
    server.ended_well();
    assert!(!path.exists(), "the last one leaves nothing behind");
}

#[test]
fn unready_successor_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("takeover");
    let first = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut old = Server::start(takes_over(&path, first, &["--demo"]));
    let kubeconfig = folder.path().join("kubeconfig");
    fs::write(
        &kubeconfig,
        "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: a, user: a}}]\n\
         clusters: [{name: a, cluster: {server: 'http://127.0.0.1:9'}}]\nusers: [{name: a, user: {}}]\n",
    )
    .unwrap();
    let waits = || {
        let from = old.log().len();
        let new = Server::begin(takes_over(&path, old.address, &["--kubeconfig", kubeconfig.to_str().unwrap()]));
        old.wait_for_log(from, "another process takes the sockets: this one answers until that one does");
        new.wait_for_log(0, "the old process answers until this one has read its source");
        (from, new)
    };
    let (from, new) = waits();
    for _ in 0..100 {
        assert_eq!(old.ask(NAME).unwrap().rcode, 0);
    }
    new.kill();
    old.wait_for_log(from, "the process that asked for the sockets has ended: this one goes on");
    assert_eq!(old.ask(NAME).unwrap().rcode, 0);

    // If the old process is killed nevertheless, the new one answers at once: not synced yet.
    let (_, new) = waits();
    let address = old.address;
    old.signal("TERM");
    old.ended_well();
    new.wait_for_log(0, "the old process ended before this one has read its source: this one answers now");
    until("the new one answers", || ask_briefly(address, NAME).is_some_and(|answer| answer.rcode == SERVFAIL));
}

#[test]
fn takeover_socket_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("takeover");
    let first = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Server::start(takes_over(&path, first, &["--demo"]));
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let mut stranger = std::os::unix::net::UnixStream::connect(&path).unwrap();
    std::io::Write::write_all(&mut stranger, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    server.wait_for_log(0, "the sockets were not handed over: what was asked is not understood");
    // Without the door the port is taken.
    let mut refused = Server::begin(with(&["--demo", "--listen", &server.address.to_string()]));
    assert_eq!(refused.ended().code(), Some(1));
    assert!(refused.log().contains("over TCP: another program has TCP port"), "{}", refused.log());
    assert_eq!(server.ask(NAME).unwrap().rcode, 0);
}

// Service managers.

#[test]
fn restart_keeps_sockets_of_service_manager() {
    let _alone = alone();
    let (tcp, udp) = ports::bind_both();
    let address = tcp.local_addr().unwrap();
    let mut server = Server::activated(&udp, &tcp, "--demo --workers 2");
    server.wait_for_log(0, "took the sockets of the service manager");
    let loads = (Load::udp(address, NAME), Load::tcp(address, NAME));
    for _ in 0..scaled(20).max(2) {
        loads.0.wait_for(500);
        loads.1.wait_for(2);
        server.signal("TERM");
        server.ended_well();
        // No process reads now: queries wait in the sockets.
        server = Server::activated(&udp, &tcp, "--demo --workers 2");
    }
    // They stay, whatever is read again.
    let said = server.log().len();
    server.signal("HUP");
    server.wait_for_log(said, "the configuration was read again");
    assert!(!server.log().contains("listened on change"), "{}", server.log());
    loads.0.wait_for(500);
    let reports = (loads.0.stop(), loads.1.stop());
    check("restarts on the service manager's sockets", &reports.0, &reports.1, false);
}

#[test]
fn notifies_service_manager() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    let mut command = Command::new("/bin/sh");
    command.env_clear().env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "600000");
    command.args(["-c", "WATCHDOG_PID=$$ exec \"$@\"", "sh"]).arg(server::binary());
    command.args(["serve", "--log-format", "text", "--demo", "--listen", "127.0.0.1:0", "--lame-duck", "1"]);
    let mut server = Server::start(command);
    let next = || {
        let mut buffer = [0; 4096];
        let length = loop {
            match manager.recv(&mut buffer) {
                // With a time-out, no system call is begun again after a signal (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received.unwrap(),
            }
        };
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    // The notifications without those of the watchdog, which come at their own times.
    let told = || loop {
        let told = next();
        if told != "WATCHDOG=1\n" {
            return told;
        }
    };
    assert_eq!(told(), "STATUS=reading the source\n");
    let ready = "READY=1\nSTATUS=4 Services, 6 addresses in reverse, from the built-in example\n";
    assert_eq!(told(), ready);
    for _ in 0..3 {
        assert_eq!(next(), "WATCHDOG=1\n");
    }
    server.signal("HUP");
    let reloading = told();
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").map(str::trim_end);
    assert!(since.is_some_and(|since| since.parse::<u64>().is_ok()), "{reloading}");
    assert_eq!(told(), ready);
    server.signal("TERM");
    assert!(told().starts_with("STOPPING=1\nSTATUS="), "as it begins to leave");
    server.ended_well();
}
