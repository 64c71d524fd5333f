//! Queries of these tests, and manifests for a server.

use crate::common;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

pub use crate::common::server::{Server, WAIT_TIMEOUT, binary, serve, until};

/// Operations of these tests on a server.
impl Server {
    /// Starts a server with two sockets of the service manager, which keeps them: a shell gives them the numbers 3 and
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
        let mut server = Self { child, address: (Ipv4Addr::LOCALHOST, 0).into(), folder };
        server.wait_for_banner();
        server
    }

    /// Asks for addresses over UDP; `None` if the port is closed.
    pub fn ask(&self, name: &str) -> Option<Answer> {
        ask(self.address, name, WAIT_TIMEOUT)
    }
}

/// Parts of an answer that are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub rcode: u8,
    /// The TTL and the address of its first record.
    pub first: Option<(u32, [u8; 4])>,
    /// The response has an extended error (RFC 8914).
    pub explained: bool,
}

/// Asks for addresses over UDP, for a condition that is waited for; `None` if no response arrives within a second.
pub fn ask_briefly(to: SocketAddr, name: &str) -> Option<Answer> {
    ask(to, name, Duration::from_secs(1))
}

fn ask(to: SocketAddr, name: &str, patience: Duration) -> Option<Answer> {
    let socket = UdpSocket::bind((if to.is_ipv4() { "127.0.0.1" } else { "::1" }, 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
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
