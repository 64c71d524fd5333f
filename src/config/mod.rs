//! What the server was asked to do, with every name, address and duration already parsed.
//!
//! Behind this door there are no strings that should be something else. [`Config::check`] holds what two values mean
//! for each other. Beside it: [`mod@values`] reads the text of one value, [`mod@file`] the configuration file,
//! [`mod@resolv`] that of the machine's resolver, `workers` how many CPUs there are, and [`mod@print`] writes a
//! configuration as that file again. Not here: flags, variables and which of them wins (`cli`), and the rules of names,
//! which the pure files share (`rules.rs`).

pub mod file;
pub mod print;
pub mod resolv;
pub mod values;
mod workers;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::names::WireName;
use crate::objects::ObjectRef;
use crate::rules::{EndpointsSource, Rules, choices};

pub use values::{AskedName, AskedServer, LogFilter, ManifestPath, Upstream};
pub use workers::default_workers;

/// The built-in example: what `--demo` serves.
pub const DEMO: &str = include_str!("../../config/demo.yaml");

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The configuration file that was read.
    pub file: Option<PathBuf>,
    /// The zone's apex.
    pub zone: WireName,
    /// More apexes, under which the same names stand.
    pub zone_aliases: Vec<WireName>,
    /// The TTL of every record.
    pub ttl: Duration,
    /// The TTL of negative answers: the SOA's MINIMUM (RFC 2308 section 4).
    pub negative_ttl: Duration,
    /// Whose reverse names are served. Empty: those that the data suggests.
    pub reverse: Vec<IpNet>,
    /// How names are made from objects.
    pub rules: Rules,
    /// The addresses at `ns.dns.Z`. Empty: found out by other means.
    pub ns_addresses: Vec<IpAddr>,
    /// The Service in front of this server, whose addresses then stand at `ns.dns.Z`.
    pub service: Option<ObjectRef>,
    /// Which of several servers this is, for clients that ask (RFC 5001): 1 to 255 octets.
    pub nsid: Option<Box<str>>,
    /// Where objects come from.
    pub source: Source,
    /// Which objects say where endpoints are.
    pub endpoints_source: EndpointsSource,
    /// The file with what was known of a cluster.
    pub snapshot: Option<PathBuf>,
    /// How long ago that may have been.
    pub snapshot_max_age: Duration,
    /// The one namespace of a cluster that is watched, `None` for all; the namespace of objects in manifests that name
    /// none, `None` for `default`.
    pub namespace: Option<Box<str>>,
    /// The networks in which Pods of simulated workloads get addresses, at most one of each family; empty to simulate
    /// none.
    pub simulate: Vec<IpNet>,
    /// The largest manifest that is read, in octets.
    pub max_manifest_size: u64,
    /// A name that does not exist is denied although some manifests could not be read at the start.
    pub allow_unreadable: bool,
    /// Where questions are taken.
    pub listen: Listen,
    /// Where they are taken encrypted.
    pub encrypted: Encrypted,
    /// How many threads answer.
    pub workers: NonZeroUsize,
    /// Who may ask.
    pub clients: Clients,
    /// The networks of those who are told why a name does not resolve. Empty: nobody is.
    pub explain_to: Vec<IpNet>,
    /// What others are asked for.
    pub forward: Forward,
    /// The bounds of TCP.
    pub tcp: Tcp,
    /// Where it can be looked at.
    pub admin: Admin,
    /// How long the server answers after it was asked to end.
    pub lame_duck: Duration,
    /// The Unix socket at which a server's sockets can be had, by this one and by the next.
    pub takeover: Option<PathBuf>,
    /// What is logged.
    pub log: Log,
    /// Which questions are.
    pub query_log: QueryLog,
}

/// How long a server of this source answers after it was asked to end, where nobody says: in a Pod that watches its
/// cluster the 5 s in which the nodes forget it, else not at all.
pub fn default_lame_duck(source: &Source) -> Duration {
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let watches = matches!(source, Source::Cluster { .. });
    Duration::from_secs(if in_pod && watches { 5 } else { 0 })
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A cluster's API server, found as kubectl finds it.
    Cluster {
        /// The kubeconfig; `None` for the usual one, or the Pod's service account.
        kubeconfig: Option<PathBuf>,
        /// A context of the kubeconfig; `None` for its current one.
        context: Option<String>,
        /// A label selector of Services; `None` for all.
        selector: Option<Box<str>>,
    },
    /// The built-in example, [`DEMO`].
    Demo,
    /// Files, in the order in which they were named; at least one.
    Manifests(Vec<ManifestPath>),
}

/// Where questions are taken, over UDP and TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The addresses and ports, at least one. Port 0 lets the system choose.
    pub addresses: Vec<SocketAddr>,
    /// Nobody asked for these addresses: one that the machine does not have (no IPv6 loopback, mostly) is left out,
    /// where one that somebody asked for is an error.
    pub is_default: bool,
}

/// Where questions are taken encrypted, and how the server proves who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encrypted {
    /// Over TLS.
    pub tls: Vec<SocketAddr>,
    /// Over HTTPS.
    pub https: Vec<SocketAddr>,
    /// Over QUIC.
    pub quic: Vec<SocketAddr>,
    /// The certificate and what leads to its authority (PEM).
    pub certificate: Option<PathBuf>,
    /// Its private key (PEM).
    pub key: Option<PathBuf>,
}

impl Encrypted {
    /// Each option that says where, and what it says.
    fn listeners(&self) -> [(&'static str, &[SocketAddr]); 3] {
        [("listen-tls", &self.tls), ("listen-https", &self.https), ("listen-quic", &self.quic)]
    }

    /// The files of the certificate and of its key; both, where anything is encrypted.
    pub fn pair(&self) -> Option<(&Path, &Path)> {
        Some((self.certificate.as_deref()?, self.key.as_deref()?))
    }
}

/// Who may ask, and what the others get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clients {
    /// The networks of those who may.
    pub allow: Vec<IpNet>,
    /// What the others get.
    pub not_allowed: NotAllowed,
}

impl Clients {
    /// Whether there is nobody to turn away, so that no address needs to be looked at.
    pub fn is_everyone(&self) -> bool {
        let all = |v4| self.allow.iter().any(|network| network.prefix_len() == 0 && network.addr().is_ipv4() == v4);
        all(true) && all(false)
    }
}

choices! {
    /// What a client that may not ask gets.
    pub enum NotAllowed {
        /// An answer with REFUSED.
        #[default]
        Refused = "refused",
        /// Silence; over TCP, a closed connection.
        Drop = "drop",
    }
}

/// What others are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Who is asked for names outside the zones; nobody where this is empty.
    pub to: Vec<Upstream>,
    /// The networks of those for whom.
    pub clients: Vec<IpNet>,
    /// Who is asked for the outside names that ExternalName Services stand for; where this is empty, `to` is, for those
    /// clients.
    pub aliases: Vec<Upstream>,
}

/// The bounds of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Connections at the same time.
    pub connections: usize,
    /// Connections of one client at the same time.
    pub connections_per_client: usize,
    /// Length in bits, 1 to 128, of the prefix by which a client with a global IPv6 address is counted.
    pub client_prefix_v6: u8,
    /// How long a connection may stay open with nothing asked (RFC 7766 section 6.2.3).
    pub idle: Duration,
}

/// Where the server can be looked at over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Health and metrics, and from a loopback address everything; `None` for nowhere.
    pub address: Option<SocketAddr>,
    /// Everything, the names of the cluster too; `None` for nowhere else.
    pub api: Option<SocketAddr>,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// What.
    pub filter: LogFilter,
    /// How.
    pub format: LogFormat,
}

choices! {
    /// How a log line is written.
    pub enum LogFormat {
        /// Text if standard error is a terminal, JSON if not.
        #[default]
        Auto = "auto",
        /// For people.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
}

/// Which questions have a line on standard output, and how it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryLog {
    /// Those with such answers; none for no log.
    pub classes: Vec<QueryClass>,
    /// Of these one in so many.
    pub sample: u32,
    /// How.
    pub format: QueryFormat,
}

impl QueryLog {
    /// Whether questions with such answers have a line.
    pub fn has(&self, class: QueryClass) -> bool {
        self.classes.contains(&class) || self.classes.contains(&QueryClass::All)
    }
}

choices! {
    /// Answers of a kind, as CoreDNS's plugin `log` names them.
    pub enum QueryClass {
        /// None of them.
        #[default]
        Off = "off",
        /// With records.
        Success = "success",
        /// NXDOMAIN and NODATA.
        Denial = "denial",
        /// Any other code: SERVFAIL, REFUSED, FORMERR, NOTIMP.
        Error = "error",
        /// Every one.
        All = "all",
    }
}

choices! {
    /// How a line of the query log is written.
    pub enum QueryFormat {
        /// As CoreDNS writes it.
        #[default]
        Common = "common",
        /// One JSON object per line, which also tells the reason.
        Json = "json",
    }
}

/// What the `records` command shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// How it is written.
    pub output: Output,
    /// Which zone, by its apex; `None` for the first.
    pub origin: Option<WireName>,
    /// A running server that is asked over HTTP, instead of objects.
    pub server: Option<SocketAddr>,
}

choices! {
    /// How records are written.
    pub enum Output {
        /// As a zone file (RFC 1035 section 5).
        #[default]
        Zone = "zone",
        /// As JSON.
        Json = "json",
        /// As columns for people.
        Table = "table",
    }
}

/// What the `explain` command is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name, as it was written.
    pub name: AskedName,
    /// The type of records.
    pub qtype: u16,
    /// A running server that is asked, instead of objects.
    pub server: Option<AskedServer>,
    /// How the explanation is written.
    pub output: Form,
}

/// What the `local doctor` command is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doctor {
    /// The server.
    pub server: SocketAddr,
    /// The zone that this machine is meant to see.
    pub zone: WireName,
    /// A name with addresses; `None` for the name server's.
    pub name: Option<WireName>,
    /// Where the machine's files are; `/` for this machine.
    pub root: PathBuf,
    /// Where the servers of its `resolv.conf` listen: 53.
    pub resolver_port: u16,
}

/// What the `check` command is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strictness {
    /// Warnings count as errors.
    pub strict: bool,
    /// How the findings are written.
    pub output: Form,
}

choices! {
    /// How findings are written.
    pub enum Form {
        /// For people.
        #[default]
        Text = "text",
        /// As JSON.
        Json = "json",
    }
}

impl Config {
    /// The zone and then its aliases.
    pub fn zones(&self) -> impl Iterator<Item = &WireName> {
        std::iter::once(&self.zone).chain(&self.zone_aliases)
    }

    /// What values that are good alone mean for each other.
    ///
    /// # Errors
    ///
    /// One sentence for people.
    pub fn check(&self) -> Result<(), String> {
        self.check_zones()?;
        self.check_listen()?;
        self.check_encrypted()?;
        self.check_ports()?;
        self.check_forward()?;
        self.check_service()?;
        self.check_manifests()
    }

    fn check_zones(&self) -> Result<(), String> {
        let zones: Vec<_> = self.zones().collect();
        for (index, zone) in zones.iter().enumerate() {
            let text = without_dot(zone);
            if let Some(tree) = ["in-addr.arpa.", "ip6.arpa."].iter().find(|tree| nested(&zone.to_string(), tree)) {
                return Err(format!("the zone {text} and the tree of reverse names {tree} overlap: use --reverse"));
            }
            if let Some(other) = zones[..index].iter().find(|other| nested(&other.to_string(), &zone.to_string())) {
                let how = if other == zone { "is the same as" } else { "overlaps" };
                return Err(format!("the zone alias {text} {how} the zone {}", without_dot(other)));
            }
        }
        Ok(())
    }

    fn check_listen(&self) -> Result<(), String> {
        let fixed = |address: &&SocketAddr| address.port() != 0;
        let plain = ("listen", self.listen.addresses.as_slice());
        for (option, addresses) in [plain].into_iter().chain(self.encrypted.listeners()) {
            let twice = duplicate(addresses.iter().filter(fixed).map(|to| (to.ip().to_canonical(), to.port())));
            if let Some((ip, port)) = twice {
                return Err(format!("--{option} {} is given twice", SocketAddr::new(ip, port)));
            }
        }
        Ok(())
    }

    /// What is encrypted needs a certificate, and a certificate somebody to see it.
    fn check_encrypted(&self) -> Result<(), String> {
        let Encrypted { certificate, key, .. } = &self.encrypted;
        let wanted = self.encrypted.listeners().into_iter().find(|(_, addresses)| !addresses.is_empty());
        if let Some((option, _)) = wanted
            && let Some(feature) = left_out(option)
        {
            let what = feature.to_uppercase();
            return Err(format!(
                "--{option}: this build has no DNS over {what}: build with the cargo feature {feature}"
            ));
        }
        match (wanted, certificate, key) {
            (Some((option, _)), None, None) => {
                Err(format!("--{option} needs a certificate: name its files with --tls-cert and --tls-key"))
            }
            (_, Some(_), None) => Err("--tls-cert is set without --tls-key, the file of its private key".into()),
            (_, None, Some(_)) => Err("--tls-key is set without --tls-cert, the file of its certificate".into()),
            (None, Some(_), Some(_)) => Err("--tls-cert and --tls-key are for --listen-tls, --listen-https and \
                                             --listen-quic, of which none is set"
                .into()),
            _ => Ok(()),
        }
    }

    /// Two listeners for one port: those that share theirs with other processes would share it with each other. What the
    /// two admin listeners mean for each other is theirs.
    fn check_ports(&self) -> Result<(), String> {
        let mut known: Vec<(&str, SocketAddr)> = Vec::new();
        let plain = self.listen.addresses.iter().map(|address| ("listen", *address));
        let encrypted = self.encrypted.listeners().into_iter();
        let encrypted = encrypted.flat_map(|(option, addresses)| addresses.iter().map(move |at| (option, *at)));
        let admin = [("admin", self.admin.address), ("admin-api", self.admin.api)];
        let admin = admin.into_iter().filter_map(|(option, address)| Some((option, address?)));
        for (option, address) in plain.chain(encrypted).chain(admin) {
            let clashing = |known: &&(&str, SocketAddr)| known.0 != option && clash(known, &(option, address));
            if let Some((other, taken)) = known.iter().find(clashing) {
                return Err(format!(
                    "--{option} {address} and --{other} {taken} are one port: choose another for --{option}"
                ));
            }
            if !option.starts_with("admin") {
                known.push((option, address));
            }
        }
        Ok(())
    }

    fn check_forward(&self) -> Result<(), String> {
        for (option, upstreams) in [("forward", &self.forward.to), ("upstream", &self.forward.aliases)] {
            if let Some(twice) = duplicate(upstreams.iter()) {
                return Err(format!("--{option} {twice} is given twice"));
            }
        }
        Ok(())
    }

    /// What stands in front of this server must be among what is watched.
    fn check_service(&self) -> Result<(), String> {
        match (&self.source, &self.namespace, &self.service) {
            (Source::Cluster { .. }, Some(only), Some(service)) if service.namespace != *only => Err(format!(
                "--service {service} is not in the namespace {only}, of which alone --namespace lets Services be \
                 watched: use --ns-address"
            )),
            _ => Ok(()),
        }
    }

    fn check_manifests(&self) -> Result<(), String> {
        let Source::Manifests(paths) = &self.source else { return Ok(()) };
        match duplicate(paths.iter().map(ManifestPath::text)) {
            Some(path) => Err(format!("--manifests {path} is given twice")),
            None => Ok(()),
        }
    }
}

/// Whether what two options listen on is one port: of the same protocol, at an address of both.
fn clash((option, one): &(&str, SocketAddr), (other_option, other): &(&str, SocketAddr)) -> bool {
    let over_tcp = |option: &str| option != "listen-quic";
    let over_udp = |option: &str| matches!(option, "listen" | "listen-quic");
    let same = over_tcp(option) && over_tcp(other_option) || over_udp(option) && over_udp(other_option);
    let (ip, all) = (one.ip() == other.ip(), one.ip().is_unspecified() || other.ip().is_unspecified());
    same && one.port() == other.port() && one.port() != 0 && one.is_ipv4() == other.is_ipv4() && (ip || all)
}

/// The cargo feature that an option needs, if it was left out of this build. It is called as what is spoken.
fn left_out(option: &str) -> Option<&'static str> {
    let (feature, is_there) = match option {
        "listen-tls" => ("tls", cfg!(feature = "tls")),
        "listen-https" => ("https", cfg!(feature = "https")),
        _ => ("quic", cfg!(feature = "quic")),
    };
    (!is_there).then_some(feature)
}

/// Whether one of two names, written with the final dot, is the other or stands below it.
fn nested(one: &str, other: &str) -> bool {
    let below =
        |name: &str, apex: &str| name.strip_suffix(apex).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    below(one, other) || below(other, one)
}

fn duplicate<T: PartialEq>(items: impl Iterator<Item = T>) -> Option<T> {
    let mut seen = Vec::new();
    for item in items {
        if seen.contains(&item) {
            return Some(item);
        }
        seen.push(item);
    }
    None
}

/// A name as people write it in a configuration.
fn without_dot(name: &WireName) -> String {
    name.to_string().trim_end_matches('.').to_owned()
}

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// A flag.
    Flag,
    /// The environment variable of this name.
    Environment(String),
    /// A line, counted from 1, of a configuration file.
    File {
        /// The file.
        path: String,
        /// The line.
        line: usize,
    },
    /// Nobody said anything.
    #[default]
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File { path, line } => write!(f, "file {path} line {line}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Where each option's value came from, by its key; a key that is missing has its default.
pub type Origins = BTreeMap<String, Origin>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_inside_each_other() {
        for (one, other, expected) in [
            ("cluster.local.", "cluster.local.", true),
            ("a.cluster.local.", "cluster.local.", true),
            ("local.", "cluster.local.", true),
            ("xcluster.local.", "cluster.local.", false),
            ("cluster.internal.", "cluster.local.", false),
        ] {
            assert_eq!(nested(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn clients() {
        let clients = |networks: &[&str]| Clients {
            allow: networks.iter().map(|network| network.parse().unwrap()).collect(),
            not_allowed: NotAllowed::Refused,
        };
        assert!(clients(&["0.0.0.0/0", "::/0"]).is_everyone());
        assert!(!clients(&["0.0.0.0/0"]).is_everyone());
        assert!(!clients(&["10.0.0.0/8", "fd00::/8"]).is_everyone());
    }
}
