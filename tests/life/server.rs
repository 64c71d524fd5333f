//! The built binary, running, as its users and a service manager run it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::{common, until};

/// The binary: the one that `HEADLESS_DNS_BIN` names, or what cargo built for this test. Nothing of whoever runs the
/// tests is in its environment.
pub fn binary() -> PathBuf {
    std::env::var_os("HEADLESS_DNS_BIN").map_or_else(|| env!("CARGO_BIN_EXE_headless-dns").into(), PathBuf::from)
}

pub fn serve() -> Command {
    let mut command = Command::new(binary());
    command.env_clear().args(["serve", "--log-format", "text"]);
    command
}

/// A running server. It ends with its value, by kill -9.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts it, and waits until it says what it serves.
    pub fn start(command: Command) -> Self {
        let mut server = Self::begin(command);
        until("it says what it serves", || {
            server.still_runs();
            server.out().contains("\ntry ")
        });
        let out = server.out();
        let port = out.lines().find_map(|line| line.strip_prefix("try ")?.split(" -p ").nth(1)?.split(' ').next());
        server.address = (Ipv4Addr::LOCALHOST, port.unwrap().parse().unwrap()).into();
        server
    }

    /// Starts it, and waits for nothing.
    pub fn begin(mut command: Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [out, log] = ["out", "log"].map(|name| File::create(folder.path().join(name)).unwrap());
        let child = command.stdout(out).stderr(log).spawn().unwrap();
        Self { child, address: (Ipv4Addr::LOCALHOST, 0).into(), folder }
    }

    /// The same where the service manager has opened two sockets, which it keeps: a shell gives them the numbers 3 and
    /// 4, and has the process ID that they are for.
    pub fn activated(udp: &UdpSocket, tcp: &std::net::TcpListener, options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (out, log) = (folder.path().join("out"), folder.path().join("log"));
        let script = format!(
            "exec 3<&0 4<&1 </dev/null >{} 2>{}; LISTEN_PID=$$ LISTEN_FDS=2 exec {} serve --log-format text {options}",
            out.display(),
            log.display(),
            binary().display(),
        );
        let mut command = Command::new("/bin/sh");
        command.env_clear().args(["-c", &script]);
        let [udp, tcp]: [std::os::fd::OwnedFd; 2] = [udp.try_clone().unwrap().into(), tcp.try_clone().unwrap().into()];
        let child = command.stdin(Stdio::from(udp)).stdout(Stdio::from(tcp)).spawn().unwrap();
        let server = Self { child, address: (Ipv4Addr::LOCALHOST, 0).into(), folder };
        until("it says what it serves", || out.exists() && server.out().contains("\ntry "));
        server
    }

    pub fn still_runs(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the server ended, {status}: {}", self.log());
        }
    }

    /// The banner.
    pub fn out(&self) -> String {
        fs::read_to_string(self.folder.path().join("out")).unwrap()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Waits until the log, from this octet on, has a text.
    pub fn wait_for_log(&self, from: usize, text: &str) {
        until(text, || self.log().get(from..).is_some_and(|log| log.contains(text)));
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success(), "it can be signalled");
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Waits for an end in good order.
    pub fn ended_well(&mut self) {
        let status = self.ended();
        assert!(status.success(), "{status} {:?}: {}", status.signal(), self.log());
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.ended();
    }

    /// Asks for addresses over UDP; `None` if nothing comes.
    pub fn ask(&self, name: &str) -> Option<Answer> {
        ask(self.address, name)
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

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub rcode: u8,
    /// The TTL and the address of its first record.
    pub first: Option<(u32, [u8; 4])>,
    /// It has an extended error (RFC 8914).
    pub explained: bool,
}

/// Asks for addresses over UDP, within a second; `None` if nothing comes.
pub fn ask(to: SocketAddr, name: &str) -> Option<Answer> {
    let socket = UdpSocket::bind((if to.is_ipv4() { "127.0.0.1" } else { "::1" }, 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    socket.send(&common::query(77, &common::wire(name), 1, Some(1232))).ok()?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).ok()?;
    let answer = &buffer[..length];
    let first = (answer[7] > 0).then(|| {
        let name = answer[12..].iter().position(|octet| *octet == 0).unwrap();
        let ttl = 12 + name + 5 + 6;
        let at = |at: usize| -> [u8; 4] { answer[at..at + 4].try_into().unwrap() };
        (u32::from_be_bytes(at(ttl)), at(ttl + 6))
    });
    Some(Answer { rcode: answer[3] & 0x0f, first, explained: common::extended(answer).is_some() })
}

/// A headless Service `web` of the namespace `default` with this address, as a manifest.
pub fn manifest(address: [u8; 4]) -> String {
    let [a, b, c, d] = address;
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{clusterIP: None}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: web, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: IPv4\nendpoints: [{{addresses: [{a}.{b}.{c}.{d}]}}]\n"
    )
}

/// Replaces a file as an editor does: never half written.
pub fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}
