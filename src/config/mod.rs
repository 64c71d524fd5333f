//! The configuration of the server and of the commands, with every name, address and duration parsed.
//!
//! [`Config::check`] validates constraints between values. [`mod@values`] parses single values, [`mod@file`] the
//! configuration file and [`mod@resolv`] `/etc/resolv.conf`; `workers` counts CPUs, and [`mod@print`] writes a configuration
//! as a file. Not here: flags, variables and their precedence (`cli`), and the naming rules, which the pure modules share
//! (`core/src/naming_rules.rs`).

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

use headless_dns_core::choices;
use headless_dns_core::name::WireName;
use headless_dns_core::naming_rules::{EndpointsSource, NamingRules};
use headless_dns_core::object::ObjectRef;

pub use values::{LogFilter, ManifestPath, NameSpec, ServerSpec, UpstreamSpec};
pub use workers::default_workers;

/// Manifests of the built-in example (`--demo`).
pub const DEMO: &str = include_str!("../../config/demo.yaml");

/// Values of all options, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Configuration file that was read (`--config`).
    pub file: Option<PathBuf>,
    /// Apex of the zone.
    pub zone: WireName,
    /// Further apexes with the same names.
    pub zone_aliases: Vec<WireName>,
    /// TTL of all records.
    pub ttl: Duration,
    /// TTL of negative responses: MINIMUM of the SOA record (RFC 2308 section 4).
    pub negative_ttl: Duration,
    /// Networks of the reverse zones; if empty, the networks around the known addresses.
    pub reverse: Vec<IpNet>,
    /// Rules by which names are made from objects.
    pub rules: NamingRules,
    /// Addresses at `ns.dns.ZONE`; if empty, those of `service` or of the listeners.
    pub ns_addresses: Vec<IpAddr>,
    /// Service in front of this server; its addresses are published at `ns.dns.ZONE`.
    pub service: Option<ObjectRef>,
    /// Name server identifier (NSID, RFC 5001) of this server: 1 to 255 octets.
    pub nsid: Option<Box<str>>,
    /// Source of the objects.
    pub source: Source,
    /// Kind of object that endpoints are read from.
    pub endpoints_source: EndpointsSource,
    /// Snapshot file, from which the server starts while the API server is out of reach.
    pub snapshot: Option<PathBuf>,
    /// Maximum age of a snapshot that is restored: the time since its content was last current.
    pub snapshot_max_age: Duration,
    /// Namespace of a cluster that is watched, `None` for all; in manifests, the namespace of objects that name none, `None`
    /// for `default`.
    pub namespace: Option<Box<str>>,
    /// Networks for the Pods of simulated workloads, at most one per address family; empty for no simulation.
    pub simulate: Vec<IpNet>,
    /// Maximum size of a manifest, in octets.
    pub max_manifest_size: u64,
    /// True if unknown names get NXDOMAIN although some manifests could not be read at startup; else they get SERVFAIL.
    pub allow_unreadable: bool,
    /// Addresses of the listeners for UDP and TCP.
    pub listen: ListenConfig,
    /// Addresses of the encrypted listeners, and their certificate.
    pub encrypted: EncryptedConfig,
    /// Number of worker threads.
    pub workers: NonZeroUsize,
    /// Access list of clients.
    pub clients: ClientsConfig,
    /// Networks of the clients that get the reason why a name does not resolve; empty for no client.
    pub explain_to: Vec<IpNet>,
    /// Upstreams for names outside the zones.
    pub forward: ForwardConfig,
    /// Limits on connections.
    pub tcp: TcpConfig,
    /// Addresses of the admin listeners.
    pub admin: AdminConfig,
    /// Duration of the lame duck: the server still answers for this long after SIGTERM.
    pub lame_duck: Duration,
    /// Unix socket of the hot restart, through which a new process gets the sockets of the old one.
    pub takeover: Option<PathBuf>,
    /// Settings of the log.
    pub log: LogConfig,
    /// Settings of the query log.
    pub query_log: QueryLogConfig,
}

/// Returns the default of `--lame-duck`: in a Pod that watches its cluster 5 s, within which the nodes stop sending queries to
/// the Pod; else 0.
pub fn default_lame_duck(source: &Source) -> Duration {
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let watches = matches!(source, Source::Cluster { .. });
    Duration::from_secs(if in_pod && watches { 5 } else { 0 })
}

/// Source of the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// API server of a cluster, found as kubectl finds it.
    Cluster {
        /// Path of the kubeconfig; `None` for kubectl's default, or the Pod's service account.
        kubeconfig: Option<PathBuf>,
        /// Context of the kubeconfig; `None` for its current one.
        context: Option<String>,
        /// Label selector of Services; `None` for all.
        selector: Option<Box<str>>,
    },
    /// Built-in example, [`DEMO`].
    Demo,
    /// Files and folders in the order of the options; at least one.
    Manifests(Vec<ManifestPath>),
}

/// Addresses of the listeners for UDP and TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenConfig {
    /// Addresses with ports, at least one. The kernel chooses a port in place of 0.
    pub addresses: Vec<SocketAddr>,
    /// True if no option names the addresses. A default address that the machine lacks, often the IPv6 loopback, is skipped; a
    /// configured one is an error.
    pub is_default: bool,
}

/// Addresses of the encrypted listeners, and the certificate of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncryptedConfig {
    /// Listeners for DNS over TLS (RFC 7858).
    pub tls: Vec<SocketAddr>,
    /// Listeners for DNS over HTTPS (RFC 8484).
    pub https: Vec<SocketAddr>,
    /// Listeners for DNS over QUIC (RFC 9250).
    pub quic: Vec<SocketAddr>,
    /// File of the certificate chain (PEM).
    pub certificate: Option<PathBuf>,
    /// File of the private key (PEM).
    pub key: Option<PathBuf>,
}

impl EncryptedConfig {
    /// Returns the options of the encrypted listeners with their addresses.
    fn listeners(&self) -> [(&'static str, &[SocketAddr]); 3] {
        [("listen-tls", &self.tls), ("listen-https", &self.https), ("listen-quic", &self.quic)]
    }

    /// Returns the files of the certificate and of its key; set if there is an encrypted listener.
    pub fn pair(&self) -> Option<(&Path, &Path)> {
        Some((self.certificate.as_deref()?, self.key.as_deref()?))
    }
}

/// Access list of clients, and the treatment of clients that are not on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientsConfig {
    /// Networks of the clients that get answers.
    pub allow: Vec<IpNet>,
    /// Treatment of other clients.
    pub not_allowed: NotAllowed,
}

impl ClientsConfig {
    /// Returns whether all clients are allowed, so that their addresses need not be compared.
    pub fn allows_everyone(&self) -> bool {
        let all = |v4| self.allow.iter().any(|network| network.prefix_len() == 0 && network.addr().is_ipv4() == v4);
        all(true) && all(false)
    }
}

choices! {
    /// Treatment of a client that is not allowed.
    pub enum NotAllowed {
        /// A response with REFUSED.
        #[default]
        Refused = "refused",
        /// No response; over TCP, the connection is closed.
        Drop = "drop",
    }
}

/// Upstreams for names outside the zones, and the clients that they are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardConfig {
    /// Upstreams for all names outside the zones (`--forward`); empty for no forwarding.
    pub to: Vec<UpstreamSpec>,
    /// Networks of the clients that `to` is for.
    pub clients: Vec<IpNet>,
    /// Upstreams for the targets of ExternalName Services, for every client (`--external-name-upstream`); if empty, `to` is
    /// used, for `clients` only.
    pub aliases: Vec<UpstreamSpec>,
}

/// Limits on TCP connections, encrypted ones and those over QUIC included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpConfig {
    /// Maximum number of concurrent connections.
    pub connections: usize,
    /// Maximum number of concurrent connections of one client.
    pub connections_per_client: usize,
    /// Length in bits, 1 to 128, of the prefix by which a client with a global IPv6 address is counted.
    pub client_prefix_v6: u8,
    /// Idle timeout of a connection (RFC 7766 section 6.2.3).
    pub idle: Duration,
}

/// Addresses of the admin listeners (HTTP).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// Listener for health and metrics; on a loopback address for the API and the status page too; `None` for no listener.
    pub address: Option<SocketAddr>,
    /// Listener for all of these, on any address: the API and the status page show all names; `None` for no listener.
    pub api: Option<SocketAddr>,
}

/// Settings of the log, on standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Filter by target and level.
    pub filter: LogFilter,
    /// Format of a line.
    pub format: LogFormat,
}

choices! {
    /// Format of a log line.
    pub enum LogFormat {
        /// Text if standard error is a terminal, else JSON.
        #[default]
        Auto = "auto",
        /// Text for people.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
}

/// Settings of the query log, on standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryLogConfig {
    /// Logged queries, by the class of their responses; empty for no query log.
    pub classes: Vec<QueryClass>,
    /// Sampling: one query in this many is logged.
    pub sample: u32,
    /// Format of a line.
    pub format: QueryFormat,
}

impl QueryLogConfig {
    /// Returns whether queries with responses of this class are logged.
    pub fn has(&self, class: QueryClass) -> bool {
        self.classes.contains(&class) || self.classes.contains(&QueryClass::All)
    }
}

choices! {
    /// Class of responses, named as by the plugin `log` of CoreDNS.
    pub enum QueryClass {
        /// No response.
        #[default]
        Off = "off",
        /// Responses with records.
        Success = "success",
        /// NXDOMAIN and NODATA.
        Denial = "denial",
        /// Any other RCODE: SERVFAIL, REFUSED, FORMERR, NOTIMP.
        Error = "error",
        /// All responses.
        All = "all",
    }
}

choices! {
    /// Format of a line of the query log.
    pub enum QueryFormat {
        /// Format of the plugin `log` of CoreDNS.
        #[default]
        Common = "common",
        /// One JSON object per line, with the reason if the name does not resolve.
        Json = "json",
    }
}

/// Arguments of `records`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordsArgs {
    /// Output format.
    pub output: Output,
    /// Apex of the zone to print; `None` for the first zone.
    pub origin: Option<WireName>,
    /// Admin listener of a running server to read from, in place of objects.
    pub server: Option<SocketAddr>,
}

choices! {
    /// Output format of `records`.
    pub enum Output {
        /// Zone file (RFC 1035 section 5).
        #[default]
        Zone = "zone",
        /// JSON.
        Json = "json",
        /// Columns for people.
        Table = "table",
    }
}

/// Arguments of `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainArgs {
    /// Name or address, as written.
    pub name: NameSpec,
    /// QTYPE.
    pub qtype: u16,
    /// Running server to ask, in place of objects.
    pub server: Option<ServerSpec>,
    /// Output format.
    pub output: OutputFormat,
}

/// Arguments of `local doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoctorArgs {
    /// DNS address of the server.
    pub server: SocketAddr,
    /// Apex or alias of the zone that this machine is meant to resolve.
    pub zone: WireName,
    /// Name with addresses to look up; `None` for `ns.dns.ZONE`.
    pub name: Option<WireName>,
    /// Folder with the files of the machine to check; `/` for this machine.
    pub root: PathBuf,
    /// Port of the servers in its `resolv.conf`: 53, except in tests.
    pub resolver_port: u16,
}

/// Arguments of `check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckArgs {
    /// True if warnings set the exit status as errors do.
    pub strict: bool,
    /// Output format.
    pub output: OutputFormat,
}

choices! {
    /// Output format of `explain` and `check`.
    pub enum OutputFormat {
        /// Text for people.
        #[default]
        Text = "text",
        /// JSON.
        Json = "json",
    }
}

impl Config {
    /// Returns the apex of the zone, followed by its aliases.
    pub fn zones(&self) -> impl Iterator<Item = &WireName> {
        std::iter::once(&self.zone).chain(&self.zone_aliases)
    }

    /// Checks the constraints between values that are valid alone.
    ///
    /// # Errors
    ///
    /// One sentence for the first constraint that is violated.
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
            let text = zone.without_final_dot();
            if let Some(tree) = ["in-addr.arpa.", "ip6.arpa."].iter().find(|tree| nested(&zone.to_string(), tree)) {
                return Err(format!("the zone {text} overlaps the tree of reverse zones {tree}: use --reverse"));
            }
            if let Some(other) = zones[..index].iter().find(|other| nested(&other.to_string(), &zone.to_string())) {
                let how = if other == zone { "is the same as" } else { "overlaps" };
                return Err(format!("the zone alias {text} {how} the zone {}", other.without_final_dot()));
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

    /// Checks that encrypted listeners have a certificate with its key, and that a certificate has a listener.
    fn check_encrypted(&self) -> Result<(), String> {
        let EncryptedConfig { certificate, key, .. } = &self.encrypted;
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

    /// Checks that no two options name one port. Binding would not fail, since listeners share their ports (SO_REUSEPORT), and
    /// the kernel would divide the clients between the two. Conflicts between the two admin listeners are checked in `admin`.
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
        for (option, upstreams) in [("forward", &self.forward.to), ("external-name-upstream", &self.forward.aliases)] {
            if let Some(twice) = duplicate(upstreams.iter()) {
                return Err(format!("--{option} {twice} is given twice"));
            }
        }
        Ok(())
    }

    /// Checks that the Service of `--service` is in the watched namespace.
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

/// Returns whether two listeners share a port: of one transport protocol, on one address or a wildcard.
fn clash((option, one): &(&str, SocketAddr), (other_option, other): &(&str, SocketAddr)) -> bool {
    let over_tcp = |option: &str| option != "listen-quic";
    let over_udp = |option: &str| matches!(option, "listen" | "listen-quic");
    let same = over_tcp(option) && over_tcp(other_option) || over_udp(option) && over_udp(other_option);
    let (ip, all) = (one.ip() == other.ip(), one.ip().is_unspecified() || other.ip().is_unspecified());
    same && one.port() == other.port() && one.port() != 0 && one.is_ipv4() == other.is_ipv4() && (ip || all)
}

/// Returns the cargo feature that an option needs if this build lacks it. Its name is that of the protocol.
fn left_out(option: &str) -> Option<&'static str> {
    let (feature, is_there) = match option {
        "listen-tls" => ("tls", cfg!(feature = "tls")),
        "listen-https" => ("https", cfg!(feature = "https")),
        _ => ("quic", cfg!(feature = "quic")),
    };
    (!is_there).then_some(feature)
}

/// Returns whether one of two names, both with the final dot, is equal to or below the other.
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

/// Source of an option's value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Flag on the command line.
    Flag,
    /// Environment variable with this name.
    Environment(String),
    /// Line of the configuration file.
    File {
        /// Path of the file.
        path: String,
        /// Line number, counted from 1.
        line: usize,
    },
    /// Default, as no source sets the option.
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

/// Source of each option's value, by key; an option without an entry has its default.
pub type Origins = BTreeMap<String, Origin>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_overlapping_zones() {
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
    fn parses_client_networks() {
        let clients = |networks: &[&str]| ClientsConfig {
            allow: networks.iter().map(|network| network.parse().unwrap()).collect(),
            not_allowed: NotAllowed::Refused,
        };
        assert!(clients(&["0.0.0.0/0", "::/0"]).allows_everyone());
        assert!(!clients(&["0.0.0.0/0"]).allows_everyone());
        assert!(!clients(&["10.0.0.0/8", "fd00::/8"]).allows_everyone());
    }
}
