//! Declarations of all options, each once, and their conversion to a [`Config`].
//!
//! The doc comment of a field is its help text, which `docs/configuration.md` repeats; the bounds of each value are here too.
//! Not here: the syntax of values (`config/values.rs`), and constraints between options ([`Config::check`]).

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args};
use ipnet::IpNet;

use crate::config::values::{self, AdminAddress, ExplainTo, Simulate};
use crate::config::{
    AdminConfig, CheckArgs, ClientsConfig, Config, DoctorArgs, EncryptedConfig, ExplainArgs, ForwardConfig,
    ListenConfig, LogConfig, LogFilter, LogFormat, ManifestPath, NameSpec, NotAllowed, Origins, Output, OutputFormat,
    QueryClass, QueryFormat, QueryLogConfig, RecordsArgs, ServerSpec, Source, TcpConfig, UpstreamSpec,
    default_lame_duck, default_workers,
};
use headless_dns_core::name::WireName;
use headless_dns_core::naming_rules::{EndpointsSource, NamingRules, Ordinals, PodRecords, Ptr};
use headless_dns_core::object::ObjectRef;
use headless_dns_core::rtype;

/// All options. Flag, variable and key of an option have one name: `--zone-alias`, `HEADLESS_DNS_ZONE_ALIAS`, `zone-alias`.
///
/// No option may be called `--port…` or `--service-…`: in a Pod beside a Service named `headless-dns`, Kubernetes
/// sets variables of those names.
#[derive(Args, Clone, Debug)]
pub(super) struct CliOptions {
    /// Configuration file (TOML, with the long flags as keys). Flags and environment variables take precedence.
    #[arg(long, env = "HEADLESS_DNS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    naming: NamingOptions,
    #[command(flatten)]
    objects: ObjectOptions,
    #[command(flatten)]
    listening: ListeningOptions,
    #[command(flatten)]
    life: LifeOptions,
    #[command(flatten)]
    forwarding: ForwardingOptions,
    #[command(flatten)]
    log: LogOptions,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Zones and records")]
struct NamingOptions {
    /// Apex of the zone.
    #[arg(
        long, env = "HEADLESS_DNS_ZONE", value_name = "ZONE", default_value = "cluster.local",
        value_parser = values::apex
    )]
    zone: WireName,
    /// Further apex with the same names, such as cluster.internal; may be repeated.
    #[arg(
        long, env = "HEADLESS_DNS_ZONE_ALIAS", value_name = "ZONE", value_delimiter = ',',
        value_parser = values::apex
    )]
    zone_alias: Vec<WireName>,
    /// TTL of all records, in seconds, 0 to 86400.
    #[arg(
        long, env = "HEADLESS_DNS_TTL", value_name = "SECONDS", default_value = "5",
        value_parser = seconds(0, 86_400)
    )]
    ttl: Duration,
    /// TTL of negative responses, in seconds, 0 to 10800.
    // RFC 2308 section 5: a maximum of one to three hours has been found to work well.
    #[arg(
        long, env = "HEADLESS_DNS_NEGATIVE_TTL", value_name = "SECONDS", default_value = "5",
        value_parser = seconds(0, 10_800)
    )]
    negative_ttl: Duration,
    /// Serve the reverse zones of this network; may be repeated [default: networks around the known addresses].
    #[arg(
        long, env = "HEADLESS_DNS_REVERSE", value_name = "CIDR", value_delimiter = ',',
        value_parser = values::network
    )]
    reverse: Vec<IpNet>,
    /// Records at 10-2-1-10.NAMESPACE.pod.ZONE: none, for any address, or for addresses of Pods only.
    #[arg(
        long, env = "HEADLESS_DNS_POD_RECORDS", value_name = "WHICH", default_value = "off",
        value_parser = choice::<PodRecords>(PodRecords::NAMES)
    )]
    pod_records: PodRecords,
    /// Endpoints that have a name of their own, by condition: ready ones, serving ones too, or any.
    #[arg(
        long, env = "HEADLESS_DNS_ORDINALS", value_name = "WHICH", default_value = "ready",
        value_parser = choice::<Ordinals>(Ordinals::NAMES)
    )]
    ordinals: Ordinals,
    /// Targets of PTR records: all endpoint names of the address, or dashed addresses only if there is no hostname.
    #[arg(
        long, env = "HEADLESS_DNS_PTR", value_name = "WHICH", default_value = "all",
        value_parser = choice::<Ptr>(Ptr::NAMES)
    )]
    ptr: Ptr,
    /// Name an endpoint without a hostname after its Pod, also in SRV and PTR records, as endpoint_pod_names of CoreDNS
    /// does; the dashed address remains an alias, and is the name if that of the Pod is no DNS label.
    #[arg(
        long, env = "HEADLESS_DNS_ENDPOINT_POD_NAMES", value_name = "BOOL", num_args = 0..=1,
        require_equals = true, default_missing_value = "true", default_value = "false", action = ArgAction::Set,
        value_parser = values::parse_bool
    )]
    endpoint_pod_names: bool,
    /// Address of this server, for ns.dns.ZONE; may be repeated [default: those of --service, or of the listeners].
    #[arg(
        long, env = "HEADLESS_DNS_NS_ADDRESS", value_name = "IP", value_delimiter = ',',
        value_parser = values::name_server_address
    )]
    ns_address: Vec<IpAddr>,
    /// Service in front of this server; its addresses are published at ns.dns.ZONE.
    #[arg(long, env = "HEADLESS_DNS_SERVICE", value_name = "NAMESPACE/NAME", value_parser = values::object)]
    service: Option<ObjectRef>,
    /// Name server identifier (NSID) of this server, such as its Pod's name, for clients that ask for it (dig +nsid).
    #[arg(long, env = "HEADLESS_DNS_NSID", value_name = "TEXT", value_parser = values::nsid)]
    nsid: Option<Box<str>>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Objects")]
struct ObjectOptions {
    /// Kubeconfig of the cluster to watch [default: as kubectl: KUBECONFIG, ~/.kube/config, or the Pod's service
    /// account].
    #[arg(long, env = "HEADLESS_DNS_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current context].
    #[arg(long, env = "HEADLESS_DNS_CONTEXT", value_name = "CONTEXT")]
    context: Option<String>,
    /// Serve only Services of the cluster with these labels, in the syntax of kubectl: app=web,tier!=test.
    #[arg(
        short = 'l', long, env = "HEADLESS_DNS_SELECTOR", value_name = "LABELS", value_parser = values::selector
    )]
    selector: Option<Box<str>>,
    /// Read objects from a file, a folder, or - for standard input (YAML or JSON); may be repeated, as a flag or in
    /// the configuration file.
    #[arg(long, env = "HEADLESS_DNS_MANIFESTS", value_name = "PATH")]
    manifests: Vec<ManifestPath>,
    /// Serve the built-in example, with simulated workloads.
    #[arg(
        long, env = "HEADLESS_DNS_DEMO", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", action = ArgAction::Set,
        value_parser = values::parse_bool
    )]
    demo: bool,
    /// Simulate the Pods of workloads that have none in the manifests, with addresses from CIDR, or from 10.244.0.0/16;
    /// repeated with an IPv4 and an IPv6 network for a dual-stack cluster, in which the address family of the first is the
    /// default.
    #[arg(
        long, env = "HEADLESS_DNS_SIMULATE", value_name = "CIDR", value_delimiter = ',', num_args = 0..=1,
        require_equals = true, default_missing_value = "true"
    )]
    simulate: Vec<Simulate>,
    /// Save the objects of the cluster to this file, and answer from it, as stale, if the API server is out of reach at
    /// startup.
    #[arg(long, env = "HEADLESS_DNS_SNAPSHOT", value_name = "FILE")]
    snapshot: Option<PathBuf>,
    /// Maximum time since a snapshot was last current, in seconds, 1 to 31536000; an older one is refused.
    #[arg(
        long, env = "HEADLESS_DNS_SNAPSHOT_MAX_AGE", value_name = "SECONDS", default_value = "86400",
        value_parser = seconds(1, 31_536_000)
    )]
    snapshot_max_age: Duration,
    /// Watch this namespace of the cluster only, for which a Role suffices [default: all]; in manifests, the namespace
    /// of objects that name none [default: default]; for explain, the namespace of the client, for short names.
    #[arg(
        short, long, env = "HEADLESS_DNS_NAMESPACE", value_name = "NAMESPACE", value_parser = values::namespace
    )]
    namespace: Option<Box<str>>,
    /// Maximum size of a manifest, in octets, or with K, M or G for powers of 1024.
    #[arg(
        long, env = "HEADLESS_DNS_MAX_MANIFEST_SIZE", value_name = "SIZE", default_value = "64M",
        value_parser = values::octets
    )]
    max_manifest_size: u64,
    /// Answer unknown names with NXDOMAIN although some manifests could not be read at startup; otherwise they get SERVFAIL
    /// until all can be read.
    #[arg(
        long, env = "HEADLESS_DNS_ALLOW_UNREADABLE", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", action = ArgAction::Set,
        value_parser = values::parse_bool
    )]
    allow_unreadable: bool,
    /// Kind of object to read endpoints from: EndpointSlices, or the older Endpoints.
    #[arg(
        long, env = "HEADLESS_DNS_ENDPOINTS_SOURCE", value_name = "WHICH", default_value = "slices",
        value_parser = choice::<EndpointsSource>(EndpointsSource::NAMES)
    )]
    endpoints_source: EndpointsSource,
}

/// Help heading of the options of listening.
pub(super) const LISTENING_HEADING: &str = "Listening";

/// Help heading of the options of forwarding.
pub(super) const FORWARDING_HEADING: &str = "Forwarding";

/// Default of `--explain-to`: loopback, private (RFC 1918), shared (RFC 6598), unique local (RFC 4193) and link-local (RFC
/// 4291 section 2.5.6) addresses.
const DEFAULT_EXPLAIN_TO: [&str; 8] =
    ["127.0.0.0/8", "::1", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "fe80::/10"];

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = LISTENING_HEADING)]
struct ListeningOptions {
    /// Listen on this address over UDP and TCP, default port 53; may be repeated. A default address that the machine
    /// lacks is skipped.
    #[arg(
        long, env = "HEADLESS_DNS_LISTEN", value_name = "ADDR:PORT", value_delimiter = ',',
        default_values = ["127.0.0.1:1053", "[::1]:1053"], value_parser = values::listen
    )]
    listen: Vec<SocketAddr>,
    /// Listen on this address for DNS over TLS (RFC 7858), default port 853; may be repeated.
    #[arg(
        long, env = "HEADLESS_DNS_LISTEN_TLS", value_name = "ADDR:PORT", value_delimiter = ',',
        value_parser = values::listen_tls
    )]
    listen_tls: Vec<SocketAddr>,
    /// Listen on this address for DNS over HTTPS (RFC 8484) at /dns-query, default port 443; may be repeated.
    #[arg(
        long, env = "HEADLESS_DNS_LISTEN_HTTPS", value_name = "ADDR:PORT", value_delimiter = ',',
        value_parser = values::listen_https
    )]
    listen_https: Vec<SocketAddr>,
    /// Listen on this address for DNS over QUIC (RFC 9250), default port 853; may be repeated.
    #[arg(
        long, env = "HEADLESS_DNS_LISTEN_QUIC", value_name = "ADDR:PORT", value_delimiter = ',',
        value_parser = values::listen_quic
    )]
    listen_quic: Vec<SocketAddr>,
    /// Certificate of the encrypted listeners, followed by its intermediate certificates (PEM); read again when the file
    /// changes.
    #[arg(long, env = "HEADLESS_DNS_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM, not encrypted).
    #[arg(long, env = "HEADLESS_DNS_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Number of worker threads, 1 to 1024 [default: the CPUs of the affinity mask, limited by the CPU quota].
    #[arg(long, env = "HEADLESS_DNS_WORKERS", value_name = "N", value_parser = whole("workers", 1, 1024))]
    workers: Option<u32>,
    /// Answer clients in this network only; may be repeated.
    #[arg(
        long, env = "HEADLESS_DNS_ALLOW", value_name = "CIDR", value_delimiter = ',',
        default_values = ["0.0.0.0/0", "::/0"], value_parser = values::network
    )]
    allow: Vec<IpNet>,
    /// Treatment of other clients: a response with REFUSED, or none.
    #[arg(
        long, env = "HEADLESS_DNS_NOT_ALLOWED", value_name = "WHAT", default_value = "refused",
        value_parser = choice::<NotAllowed>(NotAllowed::NAMES)
    )]
    not_allowed: NotAllowed,
    /// Tell clients in this network why a name does not resolve (extended errors, and TXT at _why.NAME), or none for no
    /// client; may be repeated.
    #[arg(
        long, env = "HEADLESS_DNS_EXPLAIN_TO", value_name = "CIDR", value_delimiter = ',',
        default_values = DEFAULT_EXPLAIN_TO
    )]
    explain_to: Vec<ExplainTo>,
    /// Maximum number of concurrent TCP connections, encrypted ones and those over QUIC included; for HTTPS and QUIC, a
    /// quarter of it.
    #[arg(
        long, env = "HEADLESS_DNS_TCP_CONNECTIONS", value_name = "N", default_value = "16384",
        value_parser = whole("connections", 1, 1_000_000)
    )]
    tcp_connections: u32,
    /// Maximum number of these connections from one client.
    #[arg(
        long, env = "HEADLESS_DNS_TCP_CONNECTIONS_PER_CLIENT", value_name = "N", default_value = "1024",
        value_parser = whole("connections", 1, 1_000_000)
    )]
    tcp_connections_per_client: u32,
    /// Prefix length by which clients with global IPv6 addresses are counted, in bits, 1 to 128: one host may have a whole
    /// /64. Clients in a network of --explain-to, and all others, are counted by their address.
    #[arg(
        long, env = "HEADLESS_DNS_CLIENT_PREFIX_V6", value_name = "BITS", default_value = "64",
        value_parser = whole("bits", 1, 128)
    )]
    client_prefix_v6: u32,
    /// Idle timeout of these connections, in seconds, 1 to 3600.
    #[arg(
        long, env = "HEADLESS_DNS_TCP_IDLE", value_name = "SECONDS", default_value = "30",
        value_parser = seconds(1, 3600)
    )]
    tcp_idle: Duration,
    /// Serve /livez, /readyz and /metrics over HTTP on this address, default port 9153, and on a loopback address the status
    /// page and /api too; none for no listener, the default with --manifests and --demo.
    #[arg(long, env = "HEADLESS_DNS_ADMIN", value_name = "ADDR:PORT", default_value = "127.0.0.1:9153")]
    admin: AdminAddress,
    /// Serve all of these on this address too. The status page and /api show all names of the cluster to any client that
    /// connects.
    #[arg(
        long, env = "HEADLESS_DNS_ADMIN_API", value_name = "ADDR:PORT", value_parser = values::admin
    )]
    admin_api: Option<SocketAddr>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = LISTENING_HEADING)]
struct LifeOptions {
    /// Duration of the lame duck, in which the server still answers after SIGTERM, in seconds, 0 to 3600 [default: 5 in a Pod
    /// that watches its cluster, else 0].
    #[arg(long, env = "HEADLESS_DNS_LAME_DUCK", value_name = "SECONDS", value_parser = seconds(0, 3600))]
    lame_duck: Option<Duration>,
    /// Unix socket of the hot restart: take the sockets of the server that listens there, answer in its place once the
    /// source was read, and then listen there for the next server.
    #[arg(long, env = "HEADLESS_DNS_TAKEOVER", value_name = "PATH")]
    takeover: Option<PathBuf>,
}

/// Default of `--forward-for`: loopback addresses, so that the server is no open resolver (RFC 5358).
const DEFAULT_FORWARD_FOR: [&str; 2] = ["127.0.0.0/8", "::1"];

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = FORWARDING_HEADING)]
struct ForwardingOptions {
    /// Forward queries for names outside the zones to this upstream: an address with or without a port,
    /// tls://ADDRESS#NAME, or system for the servers of /etc/resolv.conf; may be repeated.
    #[arg(long, env = "HEADLESS_DNS_FORWARD", value_name = "SERVER", value_delimiter = ',')]
    forward: Vec<UpstreamSpec>,
    /// Forward queries of clients in this network only; other clients get REFUSED; may be repeated.
    #[arg(
        long, env = "HEADLESS_DNS_FORWARD_FOR", value_name = "CIDR", value_delimiter = ',',
        default_values = DEFAULT_FORWARD_FOR, value_parser = values::network
    )]
    forward_for: Vec<IpNet>,
    /// Resolve targets of ExternalName Services outside the zones at this upstream, written as for --forward, for every
    /// client; may be repeated.
    #[arg(long, env = "HEADLESS_DNS_EXTERNAL_NAME_UPSTREAM", value_name = "SERVER", value_delimiter = ',')]
    external_name_upstream: Vec<UpstreamSpec>,
}

impl ForwardingOptions {
    fn forward(self, origins: &Origins) -> Result<ForwardConfig, String> {
        let Self { forward: to, forward_for: clients, external_name_upstream: aliases } = self;
        match origins.get("forward-for") {
            Some(origin) if to.is_empty() => {
                Err(format!("--forward-for ({origin}) limits the clients of --forward, which is not set"))
            }
            _ => Ok(ForwardConfig { to, clients, aliases }),
        }
    }
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Log")]
struct LogOptions {
    /// Filter of the log on standard error: off, error, warn, info, debug, trace, or TARGET=LEVEL, separated by commas.
    #[arg(long, env = "HEADLESS_DNS_LOG", value_name = "FILTER", default_value = "info")]
    log: LogFilter,
    /// Format of the log; auto is text on a terminal and JSON elsewhere.
    #[arg(
        long, env = "HEADLESS_DNS_LOG_FORMAT", value_name = "FORMAT", default_value = "auto",
        value_parser = choice::<LogFormat>(LogFormat::NAMES)
    )]
    log_format: LogFormat,
    /// Log queries to standard output by the class of their response: success, denial (NXDOMAIN and NODATA), error, all, or
    /// off; may be repeated.
    #[arg(
        long, env = "HEADLESS_DNS_QUERY_LOG", value_name = "WHICH", value_delimiter = ',', default_values = ["off"],
        value_parser = choice::<QueryClass>(QueryClass::NAMES)
    )]
    query_log: Vec<QueryClass>,
    /// Log one in N of these queries, 1 to 1000000.
    #[arg(
        long, env = "HEADLESS_DNS_QUERY_LOG_SAMPLE", value_name = "N", default_value = "1",
        value_parser = whole("lines", 1, 1_000_000)
    )]
    query_log_sample: u32,
    /// Format of the query log: that of CoreDNS, or one JSON object per line, which includes the reason.
    #[arg(
        long, env = "HEADLESS_DNS_QUERY_LOG_FORMAT", value_name = "FORMAT", default_value = "common",
        value_parser = choice::<QueryFormat>(QueryFormat::NAMES)
    )]
    query_log_format: QueryFormat,
}

impl LogOptions {
    fn query_log(&self) -> Result<QueryLogConfig, String> {
        let classes: Vec<QueryClass> =
            self.query_log.iter().copied().filter(|class| *class != QueryClass::Off).collect();
        if !classes.is_empty() && classes.len() < self.query_log.len() {
            return Err(format!("--query-log off and --query-log {} exclude each other", classes[0]));
        }
        Ok(QueryLogConfig { classes, sample: self.query_log_sample, format: self.query_log_format })
    }
}

fn choice<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = String> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| name.parse::<T>())
}

fn seconds(least: u32, most: u32) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| values::seconds(text, &(least..=most))
}

fn whole(unit: &'static str, least: u32, most: u32) -> impl Fn(&str) -> Result<u32, String> + Clone {
    move |text| values::parse_integer(text, unit, &(least..=most))
}

impl CliOptions {
    /// Returns the validated configuration. `origins` names the sources of values in errors, and tells configured listeners
    /// from default ones.
    pub(super) fn config(self, origins: &Origins) -> Result<Config, String> {
        let Self { config: file, naming, objects, listening, life, forwarding, log } = self;
        let source = objects.source(origins)?;
        let config = Config {
            admin: listening.admin(origins, objects.is_cluster()),
            file,
            simulate: Simulate::networks(&objects.simulate, objects.demo)?,
            lame_duck: life.lame_duck.unwrap_or_else(|| default_lame_duck(&source)),
            takeover: life.takeover,
            snapshot: objects.snapshot.clone(),
            snapshot_max_age: objects.snapshot_max_age,
            source,
            endpoints_source: objects.endpoints_source,
            namespace: objects.namespace,
            max_manifest_size: objects.max_manifest_size,
            allow_unreadable: objects.allow_unreadable,
            rules: naming.rules(),
            zone: naming.zone,
            zone_aliases: naming.zone_alias,
            ttl: naming.ttl,
            negative_ttl: naming.negative_ttl,
            reverse: naming.reverse,
            ns_addresses: naming.ns_address,
            service: naming.service,
            nsid: naming.nsid,
            listen: ListenConfig { addresses: listening.listen, is_default: !origins.contains_key("listen") },
            encrypted: EncryptedConfig {
                tls: listening.listen_tls,
                https: listening.listen_https,
                quic: listening.listen_quic,
                certificate: listening.tls_cert,
                key: listening.tls_key,
            },
            workers: listening.workers.and_then(|n| NonZeroUsize::new(n as usize)).unwrap_or_else(default_workers),
            clients: ClientsConfig { allow: listening.allow, not_allowed: listening.not_allowed },
            explain_to: ExplainTo::networks(&listening.explain_to)?,
            forward: forwarding.forward(origins)?,
            tcp: TcpConfig {
                connections: listening.tcp_connections as usize,
                connections_per_client: listening.tcp_connections_per_client as usize,
                client_prefix_v6: listening.client_prefix_v6 as u8,
                idle: listening.tcp_idle,
            },
            query_log: log.query_log()?,
            log: LogConfig { filter: log.log, format: log.log_format },
        };
        config.check()?;
        Ok(config)
    }
}

impl NamingOptions {
    fn rules(&self) -> NamingRules {
        NamingRules {
            ordinals: self.ordinals,
            ptr: self.ptr,
            pod_records: self.pod_records,
            endpoint_pod_names: self.endpoint_pod_names,
        }
    }
}

impl ListeningOptions {
    /// Returns the addresses of the admin listeners. Without a cluster the default address is not bound: manifests are mostly
    /// tried out on a machine where another server has the port.
    fn admin(&self, origins: &Origins, is_cluster: bool) -> AdminConfig {
        let address = match self.admin {
            AdminAddress::At(address) if is_cluster || origins.contains_key("admin") => Some(address),
            AdminAddress::At(_) | AdminAddress::Off => None,
        };
        AdminConfig { address, api: self.admin_api }
    }
}

impl ObjectOptions {
    fn is_cluster(&self) -> bool {
        !self.demo && self.manifests.is_empty()
    }

    /// Returns the source of objects. Conflicts are detected here and not by clap: its errors do not name the origin of an
    /// option.
    fn source(&self, origins: &Origins) -> Result<Source, String> {
        let from = |key: &str| origins.get(key).cloned().unwrap_or_default();
        let chosen = [
            ("demo", self.demo),
            ("manifests", !self.manifests.is_empty()),
            ("kubeconfig", self.kubeconfig.is_some()),
            ("context", self.context.is_some()),
            ("selector", self.selector.is_some()),
            ("snapshot", self.snapshot.is_some()),
        ];
        let mut chosen = chosen.into_iter().filter(|(_, chosen)| *chosen).map(|(key, _)| key);
        match (chosen.next(), chosen.next()) {
            (Some(one @ ("demo" | "manifests")), Some(other)) => {
                Err(format!("--{one} ({}) and --{other} ({}) exclude each other", from(one), from(other)))
            }
            (Some("demo"), None) => Ok(Source::Demo),
            (Some("manifests"), None) => Ok(Source::Manifests(self.manifests.clone())),
            _ => Ok(Source::Cluster {
                kubeconfig: self.kubeconfig.clone(),
                context: self.context.clone(),
                selector: self.selector.clone(),
            }),
        }
    }
}

/// Arguments of `records` only.
#[derive(Args, Debug)]
pub(super) struct RecordsFlags {
    /// Output format.
    #[arg(short, long, value_name = "FORMAT", default_value = "zone", value_parser = choice::<Output>(Output::NAMES))]
    output: Output,
    /// Apex of the zone to print, which may be a reverse zone [default: --zone].
    #[arg(long, value_name = "ZONE", value_parser = WireName::parse)]
    origin: Option<WireName>,
    /// Read from the admin listener of this running server, in place of objects; default port 9153.
    #[arg(long, value_name = "http://ADDR[:PORT]", value_parser = values::http_server)]
    server: Option<SocketAddr>,
}

impl From<RecordsFlags> for RecordsArgs {
    fn from(args: RecordsFlags) -> Self {
        Self { output: args.output, origin: args.origin, server: args.server }
    }
}

/// Arguments of `explain` only.
#[derive(Args, Debug)]
pub(super) struct ExplainFlags {
    /// Name, or address for its reverse name. A name without a final dot is tried with the search list of a Pod in the
    /// namespace -n.
    #[arg(value_name = "NAME")]
    name: NameSpec,
    /// Record type [default: A; SRV for _port._protocol, PTR for an address].
    #[arg(value_name = "TYPE", value_parser = rtype::parse)]
    qtype: Option<u16>,
    /// Query this running server, in place of reading objects: over DNS (default port 53), or with http:// its admin
    /// listener, which gives the full explanation (default port 9153).
    #[arg(long, value_name = "[http://]ADDR[:PORT]")]
    server: Option<ServerSpec>,
    /// Output format.
    #[arg(
        short, long, value_name = "FORMAT", default_value = "text", value_parser = choice::<OutputFormat>(OutputFormat::NAMES)
    )]
    output: OutputFormat,
}

impl From<ExplainFlags> for ExplainArgs {
    fn from(args: ExplainFlags) -> Self {
        let ExplainFlags { name, qtype, server, output } = args;
        Self { qtype: qtype.unwrap_or_else(|| name.usual_type()), name, server, output }
    }
}

/// Arguments of `local doctor`.
#[derive(Args, Debug)]
pub(super) struct DoctorFlags {
    /// Address of the server, default port 53.
    #[arg(long, value_name = "ADDR[:PORT]", default_value = "127.0.0.1:1053", value_parser = values::server)]
    server: SocketAddr,
    /// Apex of the zone, or the alias that this machine is meant to use.
    #[arg(
        long, env = "HEADLESS_DNS_ZONE", value_name = "ZONE", default_value = "cluster.local",
        value_parser = values::apex
    )]
    zone: WireName,
    /// Name in the zone that has addresses [default: ns.dns.ZONE, which every server has].
    #[arg(long, value_name = "NAME", value_parser = WireName::parse)]
    name: Option<WireName>,
    /// Folder with the files of the machine to check; for tests.
    #[arg(long, value_name = "FOLDER", default_value = "/", hide = true)]
    root: PathBuf,
    /// Port of the servers in resolv.conf; for tests.
    #[arg(long, value_name = "PORT", default_value = "53", hide = true)]
    resolver_port: u16,
}

impl From<DoctorFlags> for DoctorArgs {
    fn from(args: DoctorFlags) -> Self {
        let DoctorFlags { server, zone, name, root, resolver_port } = args;
        Self { server, zone, name, root, resolver_port }
    }
}

/// Arguments of `check` only.
#[derive(Args, Debug)]
pub(super) struct CheckFlags {
    /// Exit with status 1 for warnings too.
    #[arg(long)]
    strict: bool,
    /// Output format.
    #[arg(
        short, long, value_name = "FORMAT", default_value = "text", value_parser = choice::<OutputFormat>(OutputFormat::NAMES)
    )]
    output: OutputFormat,
}

impl From<CheckFlags> for CheckArgs {
    fn from(args: CheckFlags) -> Self {
        Self { strict: args.strict, output: args.output }
    }
}
