//! Three servers with equal zones, each on a loopback port: this server in the test's process, NSD and BIND beside it.
//!
//! Their configuration has the settings that affect an answer (sizes, minimal responses) and keeps them from the machine's own
//! files and ports; all else is their default. They end with the value that started them.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use headless_dns::metrics::Metrics;
use headless_dns::server::{ConnectionLimits, Listeners, Shutdown};
use headless_dns_core::answer::{AccessList, Responder};
use headless_dns_core::name::WireName;
use headless_dns_core::status::Status;
use headless_dns_core::zone::Zone;

use crate::ask;
use crate::common;

/// Time limit for a server to load its zones, or to end.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// A zone file and its origin.
pub(crate) struct ZoneFile {
    pub(crate) origin: WireName,
    pub(crate) path: PathBuf,
}

/// Our server, on sockets of its own.
pub(crate) struct Ours {
    pub(crate) address: SocketAddr,
    stop: Shutdown,
    serving: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Ours {
    pub(crate) fn start(zone: Arc<Zone>) -> Self {
        let listeners = Listeners::bind(&[(Ipv4Addr::LOCALHOST, 0).into()], 1).unwrap();
        let (address, stop) = (listeners.addresses()[0], Shutdown::default());
        let status = Arc::new(Status::default());
        status.set_synced();
        // Without explanations: names at `_why.NAME` are not part of the zone.
        let responder = Arc::new(Responder::new(zone, status, AccessList::default()));
        let told = stop.clone();
        let serving = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(listeners.serve(responder, Arc::<Metrics>::default(), ConnectionLimits::default(), told))
        });
        Self { address, stop, serving: Some(serving) }
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.stop.drain();
        let _ = self.serving.take().map(JoinHandle::join);
    }
}

/// NSD or BIND.
pub(crate) struct Oracle {
    pub(crate) address: SocketAddr,
    process: Child,
    log: PathBuf,
}

impl Oracle {
    pub(crate) fn nsd(folder: &Path, zones: &[ZoneFile]) -> Self {
        Self::start(folder, zones, "nsd", &["-d", "-c"], nsd_conf)
    }

    pub(crate) fn bind(folder: &Path, zones: &[ZoneFile]) -> Self {
        Self::start(folder, zones, "named", &["-g", "-n", "1", "-c"], named_conf)
    }

    /// Retries, because another process can take a port before it is bound.
    fn start(
        folder: &Path,
        zones: &[ZoneFile],
        program: &str,
        args: &[&str],
        conf: fn(&Path, &[ZoneFile], u16) -> String,
    ) -> Self {
        let mut failed = String::new();
        for _ in 0..3 {
            let port = free_port().unwrap();
            let (file, log) = (folder.join(format!("{program}.conf")), folder.join(format!("{program}.log")));
            fs::write(&file, conf(folder, zones, port)).unwrap();
            let output = fs::File::create(&log).unwrap();
            let mut command = Command::new(program);
            command.args(args).arg(&file).stdin(Stdio::null());
            command.stdout(output.try_clone().unwrap()).stderr(output);
            let process = command.spawn().unwrap_or_else(|error| panic!("{program} does not start: {error}"));
            let mut server = Self { address: (Ipv4Addr::LOCALHOST, port).into(), process, log };
            match server.wait_for(zones) {
                Ok(()) => return server,
                Err(error) => {
                    failed = format!("{program}: {error}\n{}", fs::read_to_string(&server.log).unwrap());
                    if !failed.contains("in use") {
                        break;
                    }
                }
            }
        }
        panic!("{failed}");
    }

    /// Until it answers with authority for each zone.
    fn wait_for(&mut self, zones: &[ZoneFile]) -> Result<(), String> {
        let until = Instant::now() + WAIT_TIMEOUT;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut zones = zones.iter().peekable();
        let mut response = [0; 1232];
        while let Some(zone) = zones.peek() {
            if let Some(status) = self.process.try_wait().unwrap() {
                return Err(format!("ended: {status}"));
            }
            if Instant::now() > until {
                return Err(format!("does not serve {}", zone.origin));
            }
            let query = common::query(1, zone.origin.octets(), ask::SOA, None);
            let _ = socket.send_to(&query, self.address);
            match socket.recv_from(&mut response) {
                Ok((length, from)) if from == self.address && length > 12 && serves(&response) => _ = zones.next(),
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
        Ok(())
    }
}

/// AA is set and the rcode is NOERROR.
fn serves(response: &[u8]) -> bool {
    response[2] & 0x04 != 0 && response[3] & 0x0f == 0
}

impl Drop for Oracle {
    /// SIGTERM first: NSD ends its other processes, and both remove their files.
    fn drop(&mut self) {
        let kill = Command::new("sh").args(["-c", "kill \"$0\"", &self.process.id().to_string()]).status();
        let until = Instant::now() + WAIT_TIMEOUT;
        while kill.is_ok() && Instant::now() < until {
            if let Ok(Some(_)) = self.process.try_wait() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that is free for UDP and TCP.
fn free_port() -> io::Result<u16> {
    let mut tries = 0;
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        match UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) if tries == 32 => return Err(error),
            Err(_) => tries += 1,
        }
    }
}

fn nsd_conf(folder: &Path, zones: &[ZoneFile], port: u16) -> String {
    let folder = folder.display();
    let mut text = format!(
        "server:\n\
         \tip-address: 127.0.0.1\n\tport: {port}\n\tserver-count: 1\n\ttcp-count: 100\n\
         \tusername: \"\"\n\tchroot: \"\"\n\tzonesdir: \"{folder}\"\n\tdatabase: \"\"\n\
         \tpidfile: \"{folder}/nsd.pid\"\n\txfrdfile: \"{folder}/xfrd.state\"\n\
         \tzonelistfile: \"{folder}/zone.list\"\n\txfrdir: \"{folder}\"\n\
         \tipv4-edns-size: 1232\n\tminimal-responses: yes\n\trefuse-any: yes\n\trrl-ratelimit: 0\n\
         remote-control:\n\tcontrol-enable: no\n"
    );
    for zone in zones {
        let _ = write!(text, "zone:\n\tname: \"{}\"\n\tzonefile: \"{}\"\n", zone.origin, zone.path.display());
    }
    text
}

fn named_conf(folder: &Path, zones: &[ZoneFile], port: u16) -> String {
    let folder = folder.display();
    let mut text = format!(
        "options {{\n\
         \tlisten-on port {port} {{ 127.0.0.1; }};\n\tlisten-on-v6 {{ none; }};\n\
         \tdirectory \"{folder}\";\n\tpid-file \"{folder}/named.pid\";\n\
         \tlock-file none;\n\tsession-keyfile none;\n\
         \trecursion no;\n\tdnssec-validation no;\n\tempty-zones-enable no;\n\tnotify no;\n\
         \tminimal-responses yes;\n\tzero-no-soa-ttl no;\n\tmax-udp-size 1232;\n\tedns-udp-size 1232;\n\
         \tcheck-names primary ignore;\n\tmax-records-per-type 0;\n\
         }};\ncontrols {{ }};\n"
    );
    for zone in zones {
        let (origin, file) = (&zone.origin, zone.path.display());
        let _ = writeln!(text, "zone \"{origin}\" {{ type primary; file \"{file}\"; }};");
    }
    text
}
