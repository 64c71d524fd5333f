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
    Admin, AskedName, AskedServer, Clients, Config, Doctor, Encrypted, Export, Form, Forward, Listen, Log, LogFilter,
    LogFormat, ManifestPath, NotAllowed, Origins, Output, QueryClass, QueryFormat, QueryLog, Question, Source,
    Strictness, Tcp, Upstream, default_lame_duck, default_workers,
};
use crate::names::WireName;
use crate::objects::ObjectRef;
use crate::rtype;
use crate::rules::{EndpointsSource, Ordinals, PodRecords, Ptr, Rules};

/// All options. Flag, variable and key of an option have one name: `--zone-alias`, `HEADLESS_DNS_ZONE_ALIAS`, `zone-alias`.
///
/// No option may be called `--port…` or `--service-…`: in a Pod beside a Service named `headless-dns`, Kubernetes
/// sets variables of those names.
#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Configuration file (TOML; its keys are the long flags). Flags and variables win over it.
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
#[command(next_help_heading = "Names and answers")]
struct NamingOptions {
    /// The zone's apex.
    #[arg(
        long, env = "HEADLESS_DNS_ZONE", value_name = "ZONE", default_value = "cluster.local",
        value_parser = values::apex
    )]
    zone: WireName,
    /// Another apex for the same names, as cluster.internal; may be repeated.
    #[arg(
        long, env = "HEADLESS_DNS_ZONE_ALIAS", value_name = "ZONE", value_delimiter = ',',
        value_parser = values::apex
    )]
    zone_alias: Vec<WireName>,
    /// The TTL of every record, in seconds, 0 to 86400.
    #[arg(
        long, env = "HEADLESS_DNS_TTL", value_name = "SECONDS", default_value = "5",
        value_parser = seconds(0, 86_400)
    )]
    ttl: Duration,
    /// The TTL of negative answers, in seconds, 0 to 10800.
    // RFC 2308 section 5: a maximum of one to three hours has been found to work well.
    #[arg(
        long, env = "HEADLESS_DNS_NEGATIVE_TTL", value_name = "SECONDS", default_value = "5",
        value_parser = seconds(0, 10_800)
    )]
    negative_ttl: Duration,
    /// Serve the reverse names of this network; may be repeated [default: those around the known addresses].
    #[arg(
        long, env = "HEADLESS_DNS_REVERSE", value_name = "CIDR", value_delimiter = ',',
        value_parser = values::network
    )]
    reverse: Vec<IpNet>,
    /// Answer 10-2-1-10.NAMESPACE.pod.ZONE: not at all, for any address, or for the addresses of Pods.
    #[arg(
        long, env = "HEADLESS_DNS_POD_RECORDS", value_name = "WHICH", default_value = "off",
        value_parser = choice::<PodRecords>(PodRecords::NAMES)
    )]
    pod_records: PodRecords,
    /// Which endpoints have a name of their own: ready ones, serving ones too, or any.
    #[arg(
        long, env = "HEADLESS_DNS_ORDINALS", value_name = "WHICH", default_value = "ready",
        value_parser = choice::<Ordinals>(Ordinals::NAMES)
    )]
    ordinals: Ordinals,
    /// Which names an address points back to: all, or dashed addresses only where there is no hostname.
    #[arg(
        long, env = "HEADLESS_DNS_PTR", value_name = "WHICH", default_value = "all",
        value_parser = choice::<Ptr>(Ptr::NAMES)
    )]
    ptr: Ptr,
    /// Call an endpoint without a hostname by its Pod's name, also in SRV and PTR records, as endpoint_pod_names of CoreDNS
    /// does; its dashed address stays an alias, and is its name where the Pod's is no DNS label.
    #[arg(
        long, env = "HEADLESS_DNS_ENDPOINT_POD_NAMES", value_name = "BOOL", num_args = 0..=1,
        require_equals = true, default_missing_value = "true", default_value = "false", action = ArgAction::Set,
        value_parser = values::truth
    )]
    endpoint_pod_names: bool,
    /// An address of this server, for ns.dns.ZONE; may be repeated [default: --service, or the listeners].
    #[arg(
        long, env = "HEADLESS_DNS_NS_ADDRESS", value_name = "IP", value_delimiter = ',',
        value_parser = values::name_server_address
    )]
    ns_address: Vec<IpAddr>,
    /// The Service in front of this server, whose addresses stand at ns.dns.ZONE.
    #[arg(long, env = "HEADLESS_DNS_SERVICE", value_name = "NAMESPACE/NAME", value_parser = values::object)]
    service: Option<ObjectRef>,
    /// Which of several servers this is, for clients that ask (dig +nsid), as a Pod's name.
    #[arg(long, env = "HEADLESS_DNS_NSID", value_name = "TEXT", value_parser = values::nsid)]
    nsid: Option<Box<str>>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Objects")]
struct ObjectOptions {
    /// Watch the cluster of this kubeconfig [default: as kubectl: KUBECONFIG, ~/.kube/config, or the Pod's service
    /// account].
    #[arg(long, env = "HEADLESS_DNS_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Watch the cluster of this context of the kubeconfig [default: its current one].
    #[arg(long, env = "HEADLESS_DNS_CONTEXT", value_name = "CONTEXT")]
    context: Option<String>,
    /// Of a cluster, answer for the Services with these labels only, as kubectl selects them: app=web,tier!=test.
    #[arg(
        short = 'l', long, env = "HEADLESS_DNS_SELECTOR", value_name = "LABELS", value_parser = values::selector
    )]
    selector: Option<Box<str>>,
    /// Read objects from a file, a folder, or - for standard input (YAML or JSON); may be repeated, as a flag or in
    /// the file.
    #[arg(long, env = "HEADLESS_DNS_MANIFESTS", value_name = "PATH")]
    manifests: Vec<ManifestPath>,
    /// Serve the built-in example, with its workloads simulated.
    #[arg(
        long, env = "HEADLESS_DNS_DEMO", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", action = ArgAction::Set,
        value_parser = values::truth
    )]
    demo: bool,
    /// Bring to life workloads for which the manifests hold no Pods; their Pods get addresses from CIDR, or
    /// 10.244.0.0/16; once with an IPv4 and once with an IPv6 network for a dual-stack cluster, in which the family of the
    /// first is the default.
    #[arg(
        long, env = "HEADLESS_DNS_SIMULATE", value_name = "CIDR", value_delimiter = ',', num_args = 0..=1,
        require_equals = true, default_missing_value = "true"
    )]
    simulate: Vec<Simulate>,
    /// Keep what is known of a cluster in this file, and answer from it, as stale, after a start without the API server.
    #[arg(long, env = "HEADLESS_DNS_SNAPSHOT", value_name = "FILE")]
    snapshot: Option<PathBuf>,
    /// Refuse a snapshot that was not true for so long, in seconds, 1 to 31536000.
    #[arg(
        long, env = "HEADLESS_DNS_SNAPSHOT_MAX_AGE", value_name = "SECONDS", default_value = "86400",
        value_parser = seconds(1, 31_536_000)
    )]
    snapshot_max_age: Duration,
    /// Watch this namespace of a cluster only, for which a Role is enough [default: all]; in manifests, the namespace
    /// of objects that name none [default: default]; for explain, that of who asks for a short name.
    #[arg(
        short, long, env = "HEADLESS_DNS_NAMESPACE", value_name = "NAMESPACE", value_parser = values::namespace
    )]
    namespace: Option<Box<str>>,
    /// The largest manifest that is read, in octets, or with K, M or G for powers of 1024.
    #[arg(
        long, env = "HEADLESS_DNS_MAX_MANIFEST_SIZE", value_name = "SIZE", default_value = "64M",
        value_parser = values::octets
    )]
    max_manifest_size: u64,
    /// Deny a name that does not exist (NXDOMAIN) although some manifests could not be read at the start; without it the
    /// answer is SERVFAIL until all can be read.
    #[arg(
        long, env = "HEADLESS_DNS_ALLOW_UNREADABLE", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", action = ArgAction::Set,
        value_parser = values::truth
    )]
    allow_unreadable: bool,
    /// Which objects say where endpoints are: EndpointSlices, or the older Endpoints.
    #[arg(
        long, env = "HEADLESS_DNS_ENDPOINTS_SOURCE", value_name = "WHICH", default_value = "slices",
        value_parser = choice::<EndpointsSource>(EndpointsSource::NAMES)
    )]
    endpoints_source: EndpointsSource,
}

/// Help heading of the options of listening.
pub(super) const LISTENING: &str = "Listening";

/// Help heading of the options of forwarding.
pub(super) const FORWARDING: &str = "Names of others";

/// Default of `--explain-to`: loopback, private (RFC 1918), shared (RFC 6598), unique local (RFC 4193) and link-local (RFC
/// 4291 section 2.5.6) addresses.
const NEAR: [&str; 8] =
    ["127.0.0.0/8", "::1", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "fe80::/10"];

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = LISTENING)]
struct ListeningOptions {
    /// Answer here, over UDP and TCP; an address alone means port 53; may be repeated. Of the default, an address
    /// that the machine does not have is left out.
    #[arg(
        long, env = "HEADLESS_DNS_LISTEN", value_name = "ADDR:PORT", value_delimiter = ',',
        default_values = ["127.0.0.1:1053", "[::1]:1053"], value_parser = values::listen
    )]
    listen: Vec<SocketAddr>,
    /// Answer here over TLS (RFC 7858); an address alone means port 853; may be repeated.
    #[arg(
        long, env = "HEADLESS_DNS_LISTEN_TLS", value_name = "ADDR:PORT", value_delimiter = ',',
        value_parser = values::listen_tls
    )]
    listen_tls: Vec<SocketAddr>,
    /// Answer here over HTTPS (RFC 8484), at /dns-query; an address alone means port 443; may be repeated.
    #[arg(
        long, env = "HEADLESS_DNS_LISTEN_HTTPS", value_name = "ADDR:PORT", value_delimiter = ',',
        value_parser = values::listen_https
    )]
    listen_https: Vec<SocketAddr>,
    /// Answer here over QUIC (RFC 9250); an address alone means port 853; may be repeated.
    #[arg(
        long, env = "HEADLESS_DNS_LISTEN_QUIC", value_name = "ADDR:PORT", value_delimiter = ',',
        value_parser = values::listen_quic
    )]
    listen_quic: Vec<SocketAddr>,
    /// The certificate for these three, and behind it those that lead to its authority (PEM); read again when it
    /// changes.
    #[arg(long, env = "HEADLESS_DNS_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM, not encrypted).
    #[arg(long, env = "HEADLESS_DNS_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Threads that answer, 1 to 1024 [default: the CPUs that affinity and the CPU quota leave].
    #[arg(long, env = "HEADLESS_DNS_WORKERS", value_name = "N", value_parser = whole("workers", 1, 1024))]
    workers: Option<u32>,
    /// Answer clients of this network only; may be repeated.
    #[arg(
        long, env = "HEADLESS_DNS_ALLOW", value_name = "CIDR", value_delimiter = ',',
        default_values = ["0.0.0.0/0", "::/0"], value_parser = values::network
    )]
    allow: Vec<IpNet>,
    /// What other clients get: REFUSED, or nothing.
    #[arg(
        long, env = "HEADLESS_DNS_NOT_ALLOWED", value_name = "WHAT", default_value = "refused",
        value_parser = choice::<NotAllowed>(NotAllowed::NAMES)
    )]
    not_allowed: NotAllowed,
    /// Tell clients of this network why a name does not resolve (extended errors, and TXT at _why.NAME), or none; may
    /// be repeated.
    #[arg(
        long, env = "HEADLESS_DNS_EXPLAIN_TO", value_name = "CIDR", value_delimiter = ',',
        default_values = NEAR
    )]
    explain_to: Vec<ExplainTo>,
    /// TCP connections at the same time, encrypted ones and those over QUIC too; over HTTPS and QUIC, a quarter of them.
    #[arg(
        long, env = "HEADLESS_DNS_TCP_CONNECTIONS", value_name = "N", default_value = "16384",
        value_parser = whole("connections", 1, 1_000_000)
    )]
    tcp_connections: u32,
    /// Of these, those of one client.
    #[arg(
        long, env = "HEADLESS_DNS_TCP_CONNECTIONS_PER_CLIENT", value_name = "N", default_value = "1024",
        value_parser = whole("connections", 1, 1_000_000)
    )]
    tcp_connections_per_client: u32,
    /// Count clients with global IPv6 addresses by a prefix of this many bits, 1 to 128: one host may have a whole /64.
    /// Clients in a network of --explain-to, and all others, count by their address.
    #[arg(
        long, env = "HEADLESS_DNS_CLIENT_PREFIX_V6", value_name = "BITS", default_value = "64",
        value_parser = whole("bits", 1, 128)
    )]
    client_prefix_v6: u32,
    /// How long such a connection may stay open with nothing asked, in seconds, 1 to 3600.
    #[arg(
        long, env = "HEADLESS_DNS_TCP_IDLE", value_name = "SECONDS", default_value = "30",
        value_parser = seconds(1, 3600)
    )]
    tcp_idle: Duration,
    /// Serve /livez, /readyz and /metrics over HTTP here, and from a loopback address the status page and /api too; an
    /// address alone means port 9153; none for nowhere, the default with --manifests and --demo.
    #[arg(long, env = "HEADLESS_DNS_ADMIN", value_name = "ADDR:PORT", default_value = "127.0.0.1:9153")]
    admin: AdminAddress,
    /// Serve all of that here too: the status page and /api show every name of the cluster to whoever asks.
    #[arg(
        long, env = "HEADLESS_DNS_ADMIN_API", value_name = "ADDR:PORT", value_parser = values::admin
    )]
    admin_api: Option<SocketAddr>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = LISTENING)]
struct LifeOptions {
    /// After SIGTERM, answer this long before the sockets close, in seconds, 0 to 3600 [default: 5 in a Pod that watches
    /// its cluster, else 0].
    #[arg(long, env = "HEADLESS_DNS_LAME_DUCK", value_name = "SECONDS", value_parser = seconds(0, 3600))]
    lame_duck: Option<Duration>,
    /// Take the place, and the sockets, of the server that has this Unix socket, once everything was read; then the next
    /// one can do so.
    #[arg(long, env = "HEADLESS_DNS_TAKEOVER", value_name = "PATH")]
    takeover: Option<PathBuf>,
}

/// Default of `--forward-for`: loopback addresses, so that the server is no open resolver (RFC 5358).
const HERE: [&str; 2] = ["127.0.0.0/8", "::1"];

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = FORWARDING)]
struct ForwardingOptions {
    /// Ask this server for names outside the zones: an address with or without a port, tls://ADDRESS#NAME, or system
    /// for those of /etc/resolv.conf; may be repeated.
    #[arg(long, env = "HEADLESS_DNS_FORWARD", value_name = "SERVER", value_delimiter = ',')]
    forward: Vec<Upstream>,
    /// For clients of this network only; others get REFUSED; may be repeated.
    #[arg(
        long, env = "HEADLESS_DNS_FORWARD_FOR", value_name = "CIDR", value_delimiter = ',',
        default_values = HERE, value_parser = values::network
    )]
    forward_for: Vec<IpNet>,
    /// Ask this server, written as for --forward, for the outside names that ExternalName Services stand for, for
    /// every client; may be repeated.
    #[arg(long, env = "HEADLESS_DNS_UPSTREAM", value_name = "SERVER", value_delimiter = ',')]
    upstream: Vec<Upstream>,
}

impl ForwardingOptions {
    fn forward(self, origins: &Origins) -> Result<Forward, String> {
        let Self { forward: to, forward_for: clients, upstream: aliases } = self;
        match origins.get("forward-for") {
            Some(origin) if to.is_empty() => {
                Err(format!("--forward-for ({origin}) says for whom --forward asks, and that is not set"))
            }
            _ => Ok(Forward { to, clients, aliases }),
        }
    }
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Log")]
struct LogOptions {
    /// What is logged to standard error: off, error, warn, info, debug, trace, or TARGET=LEVEL with commas between.
    #[arg(long, env = "HEADLESS_DNS_LOG", value_name = "FILTER", default_value = "info")]
    log: LogFilter,
    /// How: auto is text on a terminal and JSON elsewhere.
    #[arg(
        long, env = "HEADLESS_DNS_LOG_FORMAT", value_name = "FORMAT", default_value = "auto",
        value_parser = choice::<LogFormat>(LogFormat::NAMES)
    )]
    log_format: LogFormat,
    /// Write a line to standard output for each question whose answer is of this kind: success, denial (NXDOMAIN and
    /// NODATA), error, all, or off; may be repeated.
    #[arg(
        long, env = "HEADLESS_DNS_QUERY_LOG", value_name = "WHICH", value_delimiter = ',', default_values = ["off"],
        value_parser = choice::<QueryClass>(QueryClass::NAMES)
    )]
    query_log: Vec<QueryClass>,
    /// Of these write one in N, 1 to 1000000.
    #[arg(
        long, env = "HEADLESS_DNS_QUERY_LOG_SAMPLE", value_name = "N", default_value = "1",
        value_parser = whole("lines", 1, 1_000_000)
    )]
    query_log_sample: u32,
    /// How: as CoreDNS writes it, or one JSON object per line, which also tells the reason.
    #[arg(
        long, env = "HEADLESS_DNS_QUERY_LOG_FORMAT", value_name = "FORMAT", default_value = "common",
        value_parser = choice::<QueryFormat>(QueryFormat::NAMES)
    )]
    query_log_format: QueryFormat,
}

impl LogOptions {
    fn query_log(&self) -> Result<QueryLog, String> {
        let classes: Vec<QueryClass> =
            self.query_log.iter().copied().filter(|class| *class != QueryClass::Off).collect();
        if !classes.is_empty() && classes.len() < self.query_log.len() {
            return Err(format!("--query-log off and --query-log {} exclude each other", classes[0]));
        }
        Ok(QueryLog { classes, sample: self.query_log_sample, format: self.query_log_format })
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
    move |text| values::whole(text, unit, &(least..=most))
}

impl Options {
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
            listen: Listen { addresses: listening.listen, is_default: !origins.contains_key("listen") },
            encrypted: Encrypted {
                tls: listening.listen_tls,
                https: listening.listen_https,
                quic: listening.listen_quic,
                certificate: listening.tls_cert,
                key: listening.tls_key,
            },
            workers: listening.workers.and_then(|n| NonZeroUsize::new(n as usize)).unwrap_or_else(default_workers),
            clients: Clients { allow: listening.allow, not_allowed: listening.not_allowed },
            explain_to: ExplainTo::networks(&listening.explain_to)?,
            forward: forwarding.forward(origins)?,
            tcp: Tcp {
                connections: listening.tcp_connections as usize,
                connections_per_client: listening.tcp_connections_per_client as usize,
                client_prefix_v6: listening.client_prefix_v6 as u8,
                idle: listening.tcp_idle,
            },
            query_log: log.query_log()?,
            log: Log { filter: log.log, format: log.log_format },
        };
        config.check()?;
        Ok(config)
    }
}

impl NamingOptions {
    fn rules(&self) -> Rules {
        Rules {
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
    fn admin(&self, origins: &Origins, is_cluster: bool) -> Admin {
        let address = match self.admin {
            AdminAddress::At(address) if is_cluster || origins.contains_key("admin") => Some(address),
            AdminAddress::At(_) | AdminAddress::Nowhere => None,
        };
        Admin { address, api: self.admin_api }
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
pub(super) struct ExportArgs {
    /// How the records are written.
    #[arg(short, long, value_name = "FORMAT", default_value = "zone", value_parser = choice::<Output>(Output::NAMES))]
    output: Output,
    /// Which zone, by its apex, reverse zones too [default: --zone].
    #[arg(long, value_name = "ZONE", value_parser = WireName::parse)]
    origin: Option<WireName>,
    /// Ask the admin listener of this running server, instead of reading objects; without a port it is 9153.
    #[arg(long, value_name = "http://ADDR[:PORT]", value_parser = values::http_server)]
    server: Option<SocketAddr>,
}

impl From<ExportArgs> for Export {
    fn from(args: ExportArgs) -> Self {
        Self { output: args.output, origin: args.origin, server: args.server }
    }
}

/// Arguments of `explain` only.
#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// A name, or an address for its reverse name. One without a final dot is tried with the search list that a Pod of
    /// the namespace -n has.
    #[arg(value_name = "NAME")]
    name: AskedName,
    /// The type of records [default: A; SRV for _port._protocol, PTR for an address].
    #[arg(value_name = "TYPE", value_parser = rtype::parse)]
    qtype: Option<u16>,
    /// Ask this running server, instead of reading objects: over DNS (without a port it is 53), or with http:// before
    /// the address its admin listener, which knows more (port 9153).
    #[arg(long, value_name = "[http://]ADDR[:PORT]")]
    server: Option<AskedServer>,
    /// How the explanation is written.
    #[arg(short, long, value_name = "FORMAT", default_value = "text", value_parser = choice::<Form>(Form::NAMES))]
    output: Form,
}

impl From<ExplainArgs> for Question {
    fn from(args: ExplainArgs) -> Self {
        let ExplainArgs { name, qtype, server, output } = args;
        Self { qtype: qtype.unwrap_or_else(|| name.usual_type()), name, server, output }
    }
}

/// Arguments of `local doctor`.
#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// The server; without a port it is 53.
    #[arg(long, value_name = "ADDR[:PORT]", default_value = "127.0.0.1:1053", value_parser = values::server)]
    server: SocketAddr,
    /// The zone's apex, or the alias that this machine is meant to use.
    #[arg(
        long, env = "HEADLESS_DNS_ZONE", value_name = "ZONE", default_value = "cluster.local",
        value_parser = values::apex
    )]
    zone: WireName,
    /// A name of the zone that has addresses [default: ns.dns.ZONE, which every server has].
    #[arg(long, value_name = "NAME", value_parser = WireName::parse)]
    name: Option<WireName>,
    /// Look at the files of a machine below this folder; for tests.
    #[arg(long, value_name = "FOLDER", default_value = "/", hide = true)]
    root: PathBuf,
    /// The port of the servers in resolv.conf; for tests.
    #[arg(long, value_name = "PORT", default_value = "53", hide = true)]
    resolver_port: u16,
}

impl From<DoctorArgs> for Doctor {
    fn from(args: DoctorArgs) -> Self {
        let DoctorArgs { server, zone, name, root, resolver_port } = args;
        Self { server, zone, name, root, resolver_port }
    }
}

/// Arguments of `check` only.
#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// Warnings set the exit status too.
    #[arg(long)]
    strict: bool,
    /// How the findings are written.
    #[arg(short, long, value_name = "FORMAT", default_value = "text", value_parser = choice::<Form>(Form::NAMES))]
    output: Form,
}

impl From<CheckArgs> for Strictness {
    fn from(args: CheckArgs) -> Self {
        Self { strict: args.strict, output: args.output }
    }
}
