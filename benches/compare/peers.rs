//! The servers: where their programs come from, how each is configured, started and ended.
//!
//! All get the same zone and one CPU, with one worker, no log and no rate limit; NSD, Knot and BIND also minimal
//! responses, so that they write what ours writes. Everything of a server stands in a temporary folder, listens on a
//! free port of 127.0.0.1, and ends with the value that started it. Not here: what is asked (`workload.rs`).

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tempfile::TempDir;

use crate::cpu;

/// What is compared, in the order of the page; the echo comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Ours,
    Nsd,
    Knot,
    Bind,
    CoreDns,
    CachingCoreDns,
    Hickory,
}

pub const ECHO: &str = "echo";
pub const OURS: &str = "headless-dns";

impl Peer {
    pub const ALL: [Self; 7] =
        [Self::Ours, Self::Nsd, Self::Knot, Self::Bind, Self::CoreDns, Self::CachingCoreDns, Self::Hickory];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => OURS,
            Self::Nsd => "nsd",
            Self::Knot => "knot",
            Self::Bind => "bind",
            Self::CoreDns => "coredns",
            Self::CachingCoreDns => "coredns-cache",
            Self::Hickory => "hickory",
        }
    }

    /// It watches the cluster; the others have zone files.
    pub fn watches(self) -> bool {
        matches!(self, Self::Ours | Self::CoreDns | Self::CachingCoreDns)
    }
}

/// The programs. A peer that is not to be had has the reason instead.
pub struct Tools {
    pub ours: PathBuf,
    /// The folder of `benches/compare/install`.
    debian: Result<PathBuf, String>,
    coredns: Result<PathBuf, String>,
}

impl Tools {
    /// Builds or finds what these peers need, and says what takes long.
    ///
    /// # Errors
    ///
    /// If our own server cannot be built.
    pub fn prepare(server: Option<&Path>, peers: &[Peer]) -> Result<Self> {
        let ours = match server {
            Some(path) => path.canonicalize().with_context(|| format!("--server {}", path.display()))?,
            None => release()?,
        };
        let wanted = |which: &[Peer]| peers.iter().any(|peer| which.contains(peer));
        let debian = if wanted(&[Peer::Nsd, Peer::Knot, Peer::Bind]) {
            last_line("benches/compare/install", &[]).map(PathBuf::from)
        } else {
            Err("not asked for".to_owned())
        };
        let coredns = if wanted(&[Peer::CoreDns, Peer::CachingCoreDns]) {
            last_line("tests/cluster/build", &["coredns"]).map(|folder| Path::new(&folder).join("coredns"))
        } else {
            Err("not asked for".to_owned())
        };
        Ok(Self { ours, debian, coredns })
    }

    /// The command that begins with the program of a peer.
    fn command(&self, peer: Peer) -> Result<Vec<String>, String> {
        let own = || std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"));
        let text = |path: &Path| path.to_string_lossy().into_owned();
        match peer {
            Peer::Ours => Ok(vec![text(&self.ours)]),
            Peer::Nsd => self.in_debian("nsd"),
            Peer::Knot => self.in_debian("knotd"),
            Peer::Bind => self.in_debian("named"),
            Peer::CoreDns | Peer::CachingCoreDns => {
                self.coredns.as_deref().map(|path| vec![text(path)]).map_err(Clone::clone)
            }
            Peer::Hickory => Ok(vec![text(&own()?), "hickory-peer".to_owned()]),
        }
    }

    /// With the loader and the libraries of the same packages: those of the machine may be older.
    fn in_debian(&self, program: &str) -> Result<Vec<String>, String> {
        let root = self.debian.as_deref().map_err(Clone::clone)?;
        let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
        let libraries = root.join("usr/lib").join(triplet);
        let loader = fs::read_dir(&libraries)
            .map_err(|error| format!("{}: {error}", libraries.display()))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux-")))
            .ok_or_else(|| format!("{} holds no loader", libraries.display()))?;
        let program = root.join("usr/sbin").join(program);
        let parts = [&loader, Path::new("--library-path"), &libraries, &program];
        Ok(parts.iter().map(|part| part.to_string_lossy().into_owned()).collect())
    }

    /// The version that a program says it is, in a few words; with what matters of how it was built.
    pub fn version(&self, peer: Peer) -> Result<String, String> {
        let args: &[&str] = match peer {
            Peer::Ours => &["--version"],
            Peer::Nsd => &["-v"],
            Peer::Knot | Peer::Bind => &["-V"],
            Peer::CoreDns | Peer::CachingCoreDns => &["-version"],
            Peer::Hickory => {
                return Ok(format!("hickory-server {}, dashmap {}", locked("hickory-server")?, locked("dashmap")?));
            }
        };
        let command = self.command(peer)?;
        let output =
            Command::new(&command[0]).args(&command[1..]).args(args).output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let first = said.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let without = if said.contains("--disable-recvmmsg") { ", built without recvmmsg" } else { "" };
        Ok(first.split(" (Stable").next().unwrap_or(first).trim().to_owned() + without)
    }
}

/// The version of a package in Cargo.lock.
fn locked(package: &str) -> Result<String, String> {
    let lock = include_str!("../../Cargo.lock");
    let at = lock.split_once(&format!("name = \"{package}\"\nversion = \"")).map(|(_, rest)| rest);
    at.and_then(|rest| rest.split('"').next()).map(ToOwned::to_owned).ok_or_else(|| format!("{package} is not locked"))
}

fn release() -> Result<PathBuf> {
    println!("building the release binary, which takes minutes; --server PATH names one that is built already");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let status = cargo().args(["build", "--release", "--locked"]).status()?;
    ensure!(status.success(), "cargo build --release: {status}");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("release/headless-dns"))
}

/// Cargo in this package. What the one that runs us has said of the package in the environment would make it build
/// much of what is built already once more.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Runs a script of the tree, with its errors on ours, and gives the last line that it wrote.
fn last_line(script: &str, args: &[&str]) -> Result<String, String> {
    println!("{script} {} (the first time takes minutes)", args.join(" "));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join(script));
    let output = command.args(args).stderr(Stdio::inherit()).output().map_err(|error| format!("{script}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().last() {
        Some(line) if output.status.success() => Ok(line.to_owned()),
        _ => Err(format!("{script} failed ({})", output.status)),
    }
}

/// What all servers serve.
pub struct Site {
    pub origins: Vec<(&'static str, PathBuf)>,
    kubeconfig: PathBuf,
    url: String,
    certificate: Option<Certificate>,
    _folder: TempDir,
}

/// Who has it listens over TLS, HTTPS and QUIC too: files in PEM.
pub struct Certificate {
    pub chain: PathBuf,
    pub key: PathBuf,
}

/// The zone, and the zone of all reverse names.
const ORIGINS: [&str; 2] = ["cluster.local", "10.in-addr.arpa"];
/// Reverse names are served whatever addresses there are.
const REVERSE: &str = "10.0.0.0/8";

impl Site {
    /// Of the cluster behind this API server: its zone files too.
    ///
    /// # Errors
    ///
    /// If our server cannot write them.
    pub fn new(tools: &Tools, url: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let kubeconfig = folder.path().join("kubeconfig");
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "clusters": [{"name": "fake", "cluster": {"server": url}}], "users": [{"name": "fake", "user": {}}]});
        fs::write(&kubeconfig, config.to_string())?;
        let mut origins = Vec::new();
        for origin in ORIGINS {
            let path = folder.path().join(origin);
            let mut command = Command::new(&tools.ours);
            command.env_clear().args(["records", "--origin", origin, "--reverse", REVERSE, "--kubeconfig"]);
            command.arg(&kubeconfig).stdin(Stdio::null()).stdout(File::create(&path)?);
            let status = command.status().with_context(|| tools.ours.display().to_string())?;
            ensure!(status.success(), "{} records --origin {origin}: {status}", tools.ours.display());
            origins.push((origin, path));
        }
        Ok(Self { origins, kubeconfig, url: url.to_owned(), certificate: None, _folder: folder })
    }

    /// Ours, CoreDNS and hickory-server also listen for what is encrypted.
    pub fn encrypted(self, certificate: Certificate) -> Self {
        Self { certificate: Some(certificate), ..self }
    }

    pub fn files(&self) -> Vec<&Path> {
        self.origins.iter().map(|(_, path)| path.as_path()).collect()
    }
}

/// A server that runs.
pub struct Running {
    pub name: &'static str,
    pub address: SocketAddr,
    /// Of what is encrypted, where the site has a certificate.
    pub encrypted: Option<Encrypted>,
    /// From its start to the first right answer.
    pub ready: Duration,
    child: Child,
    _folder: Option<TempDir>,
}

/// The addresses of what is encrypted.
#[derive(Clone, Copy)]
pub struct Encrypted {
    pub tls: SocketAddr,
    pub https: SocketAddr,
    pub quic: SocketAddr,
}

impl Encrypted {
    fn free() -> Result<Self> {
        let free = || anyhow::Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)));
        Ok(Self { tls: free()?, https: free()?, quic: free()? })
    }
}

/// Which CPUs a server may use, and with how many workers.
#[derive(Clone, Copy)]
pub struct Seat {
    pub cpus: &'static str,
    pub workers: usize,
}

/// The servers' CPU; the generator has the other one.
pub const ONE: Seat = Seat { cpus: "0", workers: 1 };
/// A server that has what the machine has, as the generator has.
#[allow(dead_code, reason = "benches/encrypted has such turns")]
pub const TWO: Seat = Seat { cpus: "0,1", workers: 2 };

impl Running {
    /// Starts a server, and waits until it answers each of `probes` (whole queries) with NOERROR.
    ///
    /// # Errors
    ///
    /// The reason in a sentence: it is not to be had, it ended, or it does not answer within `patience`.
    pub fn start(
        peer: Peer,
        tools: &Tools,
        site: &Site,
        seat: Seat,
        probes: &[&[u8]],
        patience: Duration,
    ) -> Result<Self> {
        let command = tools.command(peer).map_err(anyhow::Error::msg)?;
        // Somebody else can take a port between the moment it was found free and the moment it is bound: then it ends at
        // once.
        let begun = Instant::now();
        loop {
            match Self::try_start(peer, &command, site, seat, probes, patience) {
                Err(_) if begun.elapsed() < Duration::from_secs(3) => {}
                started => return started,
            }
        }
    }

    fn try_start(
        peer: Peer,
        program: &[String],
        site: &Site,
        seat: Seat,
        probes: &[&[u8]],
        patience: Duration,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (path, port) = (folder.path(), free_port()?);
        let encrypted = site.certificate.as_ref().map(|_| Encrypted::free()).transpose()?;
        let log = path.join("log");
        let output = File::create(&log)?;
        let mut command = Command::new("taskset");
        command.args(["-c", seat.cpus]).args(program).args(arguments(peer, site, seat, path, (port, encrypted))?);
        if peer == Peer::CoreDns || peer == Peer::CachingCoreDns {
            command.env("GOMAXPROCS", seat.workers.to_string());
        }
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let begun = Instant::now();
        let child = command.spawn().context("taskset, of util-linux")?;
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let mut running =
            Self { name: peer.name(), address, encrypted, ready: Duration::ZERO, child, _folder: Some(folder) };
        for probe in probes {
            running.wait_for(probe, begun + patience, &log)?;
        }
        running.ready = begun.elapsed();
        Ok(running)
    }

    /// The bare echo, whose responses have so many octets.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn echo(octets: usize) -> Result<Self> {
        let mut command = Command::new("taskset");
        command.args(["-c", ONE.cpus]).arg(std::env::current_exe()?).args(["echo", "0", &octets.to_string()]);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("taskset, of util-linux")?;
        let mut line = String::new();
        let output = child.stdout.take().context("the echo has a standard output")?;
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().parse().with_context(|| format!("the echo said {line:?}"))?;
        Ok(Self { name: ECHO, address, encrypted: None, ready: Duration::ZERO, child, _folder: None })
    }

    fn wait_for(&mut self, probe: &[u8], until: Instant, log: &Path) -> Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(self.address)?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let said = || fs::read_to_string(log).unwrap_or_default();
        let mut response = [0; 2048];
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}): {}", self.name, said());
            }
            let _ = socket.send(probe);
            match socket.recv(&mut response) {
                // NOERROR, with answers.
                Ok(length) if length > 12 && response[3] & 0x0f == 0 && response[6..8] != [0, 0] => return Ok(()),
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        bail!("{} does not answer in time: {}", self.name, said())
    }

    /// The process and those that it started.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = vec![self.child.id()];
        let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
                Some((pid, parent(pid)?))
            })
            .collect();
        let mut at = 0;
        while at < pids.len() {
            let of = pids[at];
            pids.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid));
            at += 1;
        }
        pids
    }

    /// What it occupies, in megabytes of 10^6 octets: its resident set, and for several processes the sum of their
    /// proportional ones, since they share most.
    pub fn memory(&self) -> Result<f64> {
        let pids = self.pids();
        if let [one] = pids[..] {
            return Ok(cpu::memory(&[one])?.resident as f64 / 1e6);
        }
        let kilobytes: Vec<f64> = pids.iter().filter_map(|pid| proportional(*pid)).collect();
        ensure!(kilobytes.len() == pids.len(), "/proc/PID/smaps_rollup of {} cannot be read", self.name);
        Ok(kilobytes.iter().sum::<f64>() * 1024.0 / 1e6)
    }

    /// The most that it occupied since it began or since `forget_peak`, in megabytes of 10^6 octets.
    pub fn peak(&self) -> Result<f64> {
        Ok(cpu::memory(&[self.child.id()])?.most as f64 / 1e6)
    }

    /// The peak begins again from the present size (proc(5), `clear_refs`).
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn forget_peak(&self) -> Result<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?)
    }
}

impl Drop for Running {
    /// SIGTERM first: NSD ends its other processes.
    fn drop(&mut self) {
        let pids = self.pids();
        let kill = |signal: &str, pid: u32| {
            let _ = Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status();
        };
        kill("-TERM", self.child.id());
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        pids.into_iter().for_each(|pid| kill("-KILL", pid));
        let _ = self.child.wait();
    }
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses can hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The proportional set size of a process, in kilobytes of 1024 octets.
fn proportional(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pss:"))?.split_whitespace().next()?.parse().ok()
}

/// A port that is free for UDP and TCP.
fn free_port() -> Result<u16> {
    for _ in 0..32 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free for both UDP and TCP")
}

/// Writes the configuration into `folder`, and says what stands behind the program's name.
fn arguments(
    peer: Peer,
    site: &Site,
    seat: Seat,
    folder: &Path,
    (port, encrypted): (u16, Option<Encrypted>),
) -> Result<Vec<String>> {
    let written = |text: String| -> Result<String> {
        let path = folder.join("conf");
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let strings = |parts: &[&str]| parts.iter().map(ToString::to_string).collect();
    let encrypted = site.certificate.as_ref().zip(encrypted);
    Ok(match peer {
        Peer::Ours => {
            let mut all: Vec<String> = strings(&[
                "serve",
                "--workers",
                &seat.workers.to_string(),
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--admin",
                "none",
                "--reverse",
                REVERSE,
                "--kubeconfig",
                &site.kubeconfig.to_string_lossy(),
            ]);
            if let Some((Certificate { chain, key }, Encrypted { tls, https, quic })) = encrypted {
                // The client is one address, and is to keep what it does not use.
                let (all_clients, one) = (["--tcp-connections", "32768"], ["--tcp-connections-per-client", "16384"]);
                all.extend(strings(&[all_clients, one, ["--tcp-idle", "600"]].concat()));
                for (flag, value) in [("listen-tls", tls), ("listen-https", https), ("listen-quic", quic)] {
                    all.extend([format!("--{flag}"), value.to_string()]);
                }
                for (flag, value) in [("tls-cert", chain), ("tls-key", key)] {
                    all.extend([format!("--{flag}"), value.to_string_lossy().into_owned()]);
                }
            }
            all
        }
        Peer::Nsd => strings(&["-d", "-c", &written(nsd(site, seat, folder, port))?]),
        Peer::Knot => strings(&["-c", &written(knot(site, seat, folder, port))?]),
        Peer::Bind => strings(&["-f", "-n", &seat.workers.to_string(), "-c", &written(bind(site, folder, port)?)?]),
        Peer::CoreDns | Peer::CachingCoreDns => {
            let more = if peer == Peer::CoreDns { "" } else { "    cache\n" };
            let mut text = coredns(site, &format!(".:{port}"), more);
            if let Some((Certificate { chain, key }, Encrypted { tls, https, quic })) = encrypted {
                let tls_plugin = format!("{more}    tls {} {}\n", chain.display(), key.display());
                for (scheme, address) in [("tls", tls), ("https", https), ("quic", quic)] {
                    text += &coredns(site, &format!("{scheme}://.:{}", address.port()), &tls_plugin);
                }
            }
            strings(&["-conf", &written(text)?])
        }
        Peer::Hickory => {
            let mut all = vec![port.to_string()];
            if let Some((Certificate { chain, key }, Encrypted { tls, https, quic })) = encrypted {
                let ports = [tls, https, quic].map(|address| address.port().to_string());
                all.push("--encrypted".to_owned());
                all.extend(ports);
                all.extend([chain, key].map(|path| path.to_string_lossy().into_owned()));
            }
            all.extend(site.files().into_iter().map(|path| path.to_string_lossy().into_owned()));
            all
        }
    })
}

fn nsd(site: &Site, seat: Seat, folder: &Path, port: u16) -> String {
    let (folder, workers) = (folder.display(), seat.workers);
    let mut text = format!(
        "server:\n\tip-address: 127.0.0.1\n\tport: {port}\n\tserver-count: {workers}\n\treuseport: yes\n\
         \ttcp-count: 2000\n\ttcp-reject-overflow: no\n\ttcp-query-count: 0\n\ttcp-timeout: 30\n\
         \tusername: \"\"\n\tchroot: \"\"\n\tzonesdir: \"{folder}\"\n\tpidfile: \"{folder}/nsd.pid\"\n\
         \txfrdfile: \"{folder}/xfrd.state\"\n\tzonelistfile: \"{folder}/zone.list\"\n\txfrdir: \"{folder}\"\n\
         \tcookie-secret-file: \"{folder}/cookies\"\n\tipv4-edns-size: 1232\n\tminimal-responses: yes\n\
         \trefuse-any: yes\n\trrl-ratelimit: 0\n\tverbosity: 0\n\
         remote-control:\n\tcontrol-enable: no\n"
    );
    for (origin, path) in &site.origins {
        let _ = write!(text, "zone:\n\tname: \"{origin}\"\n\tzonefile: \"{}\"\n", path.display());
    }
    text
}

fn knot(site: &Site, seat: Seat, folder: &Path, port: u16) -> String {
    let (folder, workers) = (folder.display(), seat.workers);
    let mut text = format!(
        "server:\n  rundir: \"{folder}\"\n  listen: 127.0.0.1@{port}\n  udp-workers: {workers}\n  tcp-workers: {workers}\n\
         \x20 background-workers: 1\n  tcp-reuseport: on\n  tcp-max-clients: 2000\n  tcp-idle-timeout: 30\n\
         \x20 udp-max-payload: 1232\n\
         log:\n  - target: stderr\n    any: error\n\
         database:\n  storage: \"{folder}\"\n\
         template:\n  - id: default\n    storage: \"{folder}\"\n    zonefile-sync: -1\n    journal-content: none\n\
         \x20   semantic-checks: off\nzone:\n"
    );
    for (origin, path) in &site.origins {
        let _ = write!(text, "  - domain: {origin}\n    file: \"{}\"\n", path.display());
    }
    text
}

fn bind(site: &Site, folder: &Path, port: u16) -> Result<String> {
    let shown = folder.display();
    let mut text = format!(
        "options {{\n\tlisten-on port {port} {{ 127.0.0.1; }};\n\tlisten-on-v6 {{ none; }};\n\
         \tdirectory \"{shown}\";\n\tpid-file \"{shown}/named.pid\";\n\tsession-keyfile none;\n\
         \trecursion no;\n\tdnssec-validation no;\n\tempty-zones-enable no;\n\tnotify no;\n\tquerylog no;\n\
         \tminimal-responses no-auth;\n\trrset-order {{ order none; }};\n\tmax-udp-size 1232;\n\tedns-udp-size 1232;\n\
         \tcheck-names primary ignore;\n\tcheck-integrity no;\n\tmax-records-per-type 0;\n\tmax-types-per-name 0;\n\
         \ttcp-clients 2000;\n\ttcp-listen-queue 1024;\n\tanswer-cookie no;\n\
         }};\nlogging {{ category default {{ default_stderr; }}; category general {{ null; }}; }};\ncontrols {{ }};\n"
    );
    for (origin, path) in &site.origins {
        let loadable = folder.join(origin);
        without_large_sets(path, &loadable)?;
        let _ = writeln!(text, "zone \"{origin}\" {{ type primary; file \"{}\"; }};", loadable.display());
    }
    Ok(text)
}

/// BIND says "ran out of space" at an RRset of more than 64 kB: it gets the zone without those of over 1,000 records.
fn without_large_sets(zone: &Path, to: &Path) -> Result<()> {
    let mut output = BufWriter::new(File::create(to)?);
    let (mut set, mut key) = (Vec::new(), String::new());
    let mut end = |set: &mut Vec<String>| -> Result<()> {
        if set.len() <= 1000 {
            set.iter().try_for_each(|line| writeln!(output, "{line}"))?;
        }
        set.clear();
        Ok(())
    };
    // Records of one name and type stand together.
    for line in BufReader::new(File::open(zone)?).lines() {
        let line = line?;
        let fields: Vec<&str> = line.split('\t').collect();
        let [owner, _, _, rtype, ..] = fields[..] else { bail!("{}: no record: {line}", zone.display()) };
        let of = format!("{owner} {rtype}");
        if of != key {
            end(&mut set)?;
            key = of;
        }
        set.push(line);
    }
    end(&mut set)
}

fn coredns(site: &Site, listens: &str, more: &str) -> String {
    let zones = ORIGINS.join(" ");
    let url = &site.url;
    format!("{listens} {{\n    bind 127.0.0.1\n{more}    kubernetes {zones} {{\n        endpoint {url}\n    }}\n}}\n")
}
