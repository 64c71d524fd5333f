//! The built program as its users run it, and dig.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::control_plane::work_folder;
use super::{WAIT_TIMEOUT, until};

/// The binary: the one that `TEST_HEADLESS_DNS_BIN` names, or what cargo built for this test. No cluster and no option
/// of the caller is in its environment.
pub fn headless_dns() -> Command {
    let binary = std::env::var_os("TEST_HEADLESS_DNS_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_headless-dns").into());
    let mut command = Command::new(binary);
    let ours = |name: &str| name.starts_with("HEADLESS_DNS_") || name.starts_with("KUBE");
    for (name, _) in std::env::vars().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
    command
}

/// `headless-dns serve`, running, on a port of 127.0.0.1 that it chose. It ends with its value, by kill -9.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts it on the cluster of this kubeconfig, with `options` of the command line. It answers, if with SERVFAIL.
    pub fn start<S: AsRef<OsStr>>(kubeconfig: &Path, options: &[S]) -> Self {
        let mut command = headless_dns();
        command.args(["serve", "--listen", "127.0.0.1:0", "--kubeconfig"]).arg(kubeconfig).args(options);
        Self::run(command)
    }

    /// Starts a server with any command that serves on port 0 of 127.0.0.1.
    pub fn run(mut command: Command) -> Self {
        let folder = tempfile::Builder::new().prefix("server-").tempdir_in(work_folder()).unwrap();
        let [out, log] = ["out", "log"].map(|name| File::create(folder.path().join(name)).unwrap());
        let child = command.stdin(Stdio::null()).stdout(out).stderr(log).spawn().unwrap();
        fs::write(folder.path().join("server.pid"), child.id().to_string()).unwrap();
        let mut server = Self { child, address: (Ipv4Addr::LOCALHOST, 0).into(), folder };
        server.address = until("it listens", WAIT_TIMEOUT, || server.listens());
        server
    }

    /// Waits until it has read everything once.
    pub fn synced(self) -> Self {
        until("the server has read everything", WAIT_TIMEOUT, || {
            let said = self.out();
            if said.contains("\ntry ") { Ok(()) } else { Err(self.log()) }
        });
        self
    }

    /// The banner.
    pub fn out(&self) -> String {
        fs::read_to_string(self.folder.path().join("out")).unwrap()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// The answer to one question.
    pub fn ask(&self, name: &str, rtype: &str) -> Answer {
        dig(self.address, &[(name.to_owned(), rtype.to_owned())]).remove(0)
    }

    /// The data of the answer's records of this type, sorted: what `dig +short` prints, without the order.
    pub fn data(&self, name: &str, rtype: &str) -> Vec<String> {
        self.ask(name, rtype).data(rtype)
    }

    /// UDP port, which the server prints only once it is synced.
    fn listens(&mut self) -> Result<SocketAddr, String> {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the server ended, {status}: {}", self.log());
        }
        self.sockets("udp", "07").first().copied().ok_or_else(|| "no UDP socket yet".to_owned())
    }

    /// Returns the exit status if the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Where on 127.0.0.1 it takes TCP connections.
    pub fn tcp_listeners(&self) -> Vec<SocketAddr> {
        self.sockets("tcp", "0A")
    }

    /// Its sockets on 127.0.0.1 in this state, without those of another process.
    fn sockets(&self, protocol: &str, state: &str) -> Vec<SocketAddr> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let inodes: BTreeSet<String> = links.filter_map(|link| socket_inode(&link)).collect();
        // proc(5): local_address is the second column, the state the fourth, the inode the tenth.
        let table = fs::read_to_string(format!("/proc/net/{protocol}")).unwrap();
        let rows = table.lines().skip(1).filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let (address, port) = columns.get(1)?.split_once(':')?;
            let is_it = address == "0100007F" && *columns.get(3)? == state && inodes.contains(*columns.get(9)?);
            is_it.then(|| (Ipv4Addr::LOCALHOST, u16::from_str_radix(port, 16).unwrap()).into())
        });
        rows.collect()
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

fn socket_inode(link: &Path) -> Option<String> {
    Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
}

/// One response, as dig shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// As `NXDOMAIN`; none if there was no response.
    pub rcode: Option<String>,
    /// The extended errors, as `3 (Stale Answer)`.
    pub ede: Vec<String>,
    /// The answer section: owner, type, data; without TTL and order.
    pub records: BTreeSet<(String, String, String)>,
}

impl Answer {
    pub fn data(&self, rtype: &str) -> Vec<String> {
        self.records.iter().filter(|(_, is, _)| is == rtype).map(|(_, _, data)| data.clone()).collect()
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.rcode.as_deref().unwrap_or("no response"))?;
        self.ede.iter().try_for_each(|ede| write!(f, ", EDE {ede}"))?;
        self.records.iter().try_for_each(|(owner, rtype, data)| write!(f, "; {owner} {rtype} {data}"))
    }
}

/// The answers to these questions (name, type), in their order, over UDP, or TCP where a response is cut.
pub fn dig(server: SocketAddr, questions: &[(String, String)]) -> Vec<Answer> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let path = PathBuf::from(file.path());
    for (name, rtype) in questions {
        writeln!(file, "{name} {rtype}").unwrap();
    }
    let mut command = Command::new("dig");
    command.args([&format!("@{}", server.ip()), "-p", &server.port().to_string()]);
    command.args(["+noall", "+comments", "+question", "+answer", "+nocookie", "+tries=1", "+time=2", "-f"]).arg(path);
    let output = command.env("HOME", "/nonexistent").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // Every response begins so; what is lost is lost for all, as dig does not say in its place which it was.
    let answers: Vec<(String, Answer)> = text.split(";; ->>HEADER<<- ").skip(1).map(read_answer).collect();
    let mut answers = answers.into_iter().peekable();
    let answer = |(name, rtype): &(String, String)| {
        let question = format!("{} {rtype}", name.trim_end_matches('.'));
        answers
            .next_if(|(asked, _)| *asked == question)
            .map_or_else(|| Answer { rcode: None, ede: Vec::new(), records: BTreeSet::new() }, |(_, answer)| answer)
    };
    questions.iter().map(answer).collect()
}

/// Parses the question, as `name type`, and the answer of one response in dig's output.
fn read_answer(text: &str) -> (String, Answer) {
    let rcode = text.split_once("status: ").and_then(|(_, rest)| rest.split_once(','));
    let mut answer =
        Answer { rcode: rcode.map(|(rcode, _)| rcode.to_owned()), ede: Vec::new(), records: BTreeSet::new() };
    let mut question = String::new();
    for line in text.lines().skip(1) {
        if let Some(ede) = line.strip_prefix("; EDE: ") {
            answer.ede.push(ede.to_owned());
        } else if let Some(asked) = line.strip_prefix(';').filter(|rest| !rest.starts_with([';', ' '])) {
            let words: Vec<&str> = asked.split_whitespace().collect();
            question = format!("{} {}", words[0].trim_end_matches('.'), words[2]);
        } else if !line.starts_with(';') && !line.is_empty() {
            answer.records.insert(record(line));
        }
    }
    (question, answer)
}

/// Owner, type and data of a line of a zone file: `owner TTL IN type data`.
pub fn record(line: &str) -> (String, String, String) {
    let words: Vec<&str> = line.split_whitespace().collect();
    assert!(words.len() > 4 && words[2] == "IN", "a record: {line}");
    (words[0].to_owned(), words[3].to_owned(), words[4..].join(" "))
}

/// Time limit for the server to converge with the API server: far above the usual time.
pub const CONVERGED: Duration = Duration::from_secs(20);
