//! The built server in a process of its own, as its users and a service manager run it.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]
#![allow(clippy::print_stderr, reason = "the log of a test that failed is wanted")]

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Time limit for a condition that a passing test reaches far sooner.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until `holds`; panics after [`WAIT_TIMEOUT`].
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + WAIT_TIMEOUT;
    while !holds() {
        assert!(Instant::now() < end, "in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The binary that `TEST_HEADLESS_DNS_BIN` names, or the one that cargo built for this test.
pub fn binary() -> PathBuf {
    std::env::var_os("TEST_HEADLESS_DNS_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_headless-dns").into()).into()
}

/// The command `serve`, with an empty environment and text logs, in the folder of the package.
pub fn serve() -> Command {
    let mut command = Command::new(binary());
    command.env_clear().current_dir(env!("CARGO_MANIFEST_DIR")).args(["serve", "--log-format", "text"]);
    command
}

/// A running server. Dropping it kills its process.
pub struct Server {
    pub child: Child,
    /// Address for UDP and TCP, on 127.0.0.1.
    pub address: SocketAddr,
    pub folder: tempfile::TempDir,
}

impl Server {
    /// Starts a server on a free port of 127.0.0.1 with these options of `serve`, separated by blanks, and waits for its
    /// banner.
    pub fn with(options: &str) -> Self {
        let mut command = serve();
        command.args(["--listen", "127.0.0.1:0"]).args(options.split_whitespace());
        Self::start(command)
    }

    /// Starts a server and waits for its banner.
    pub fn start(command: Command) -> Self {
        let mut server = Self::begin(command);
        server.wait_for_banner();
        let out = server.out();
        let port = out.lines().find_map(|line| line.strip_prefix("try ")?.split(" -p ").nth(1)?.split(' ').next());
        server.address = (Ipv4Addr::LOCALHOST, port.unwrap().parse().unwrap()).into();
        server
    }

    /// Starts a server and waits for nothing.
    pub fn begin(mut command: Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [out, log] = ["out", "log"].map(|name| File::create(folder.path().join(name)).unwrap());
        let child = command.stdout(out).stderr(log).spawn().unwrap();
        Self { child, address: (Ipv4Addr::LOCALHOST, 0).into(), folder }
    }

    /// Waits until the server has read its source and answers.
    pub fn wait_for_banner(&mut self) {
        until("the banner", || {
            self.still_runs();
            self.out().contains("\ntry ")
        });
    }

    /// The address that the banner has for this transport: `UDP and TCP`, `TLS`, `HTTPS` or `QUIC`.
    pub fn listens(&self, transport: &str) -> Option<SocketAddr> {
        let over = format!(" over {transport}");
        self.in_banner("listen  ", |line| line.contains(&over))
    }

    /// The address of the admin listener.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.in_banner("admin   http://", |_| true)
    }

    fn in_banner(&self, begin: &str, is_it: impl Fn(&str) -> bool) -> Option<SocketAddr> {
        let out = self.out();
        let line = out.lines().find(|line| line.starts_with(begin) && is_it(line))?;
        line[begin.len()..].split([' ', ',']).next()?.parse().ok()
    }

    pub fn still_runs(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the server ended, {status}: {}", self.log());
        }
    }

    /// The banner.
    pub fn out(&self) -> String {
        fs::read_to_string(self.folder.path().join("out")).unwrap_or_default()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Waits until the log has a text behind octet `from`.
    pub fn wait_for_log(&self, from: usize, text: &str) {
        until(text, || self.log().get(from..).is_some_and(|log| log.contains(text)));
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success(), "the process can be signalled");
    }

    /// Waits for the end of the process.
    pub fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Waits for an orderly end.
    pub fn ended_well(&mut self) {
        let status = self.ended();
        assert!(status.success(), "{status} {:?}: {}", status.signal(), self.log());
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.ended();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}
