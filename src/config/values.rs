//! Parsers of values: from the text of a flag, a variable or a key to a typed value.
//!
//! Every error repeats the text, and completes a message that names the option. Not here: the type of each option (`cli`),
//! and constraints between values ([`super::Config::check`]).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use headless_dns_core::name::{MAX_APEX, QueryName, WireName, is_label, wire_labels};
use headless_dns_core::object::ObjectRef;
use headless_dns_core::rtype;

/// Default port of DNS (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;
/// Default port of the admin listener, equal to that of CoreDNS's metrics.
const ADMIN_PORT: u16 = 9153;
/// Default port of DNS over TLS (RFC 7858 section 3.1).
const TLS_PORT: u16 = 853;
/// Default port of DNS over HTTPS: that of HTTPS, as RFC 8484 section 5 names no other.
const HTTPS_PORT: u16 = 443;
/// Default port of DNS over QUIC (RFC 9250 section 4.1.1).
const QUIC_PORT: u16 = 853;

/// Parses the apex of a zone: not the root, and short enough that any endpoint name below it has at most 255 octets.
pub fn apex(text: &str) -> Result<WireName, String> {
    let name = WireName::parse(text)?;
    if name.octets().len() <= MAX_APEX {
        return Ok(name);
    }
    Err(format!(
        "{text:?} is too long for a zone: at most {} octets, so that names below it fit into 255",
        MAX_APEX - 2
    ))
}

/// Parses `ADDR:PORT`, or `ADDR` for port 53. An IPv6 address with a port has brackets.
pub fn listen(text: &str) -> Result<SocketAddr, String> {
    with_port(text, DNS_PORT).ok_or_else(|| {
        format!("{text:?} is not an address to listen on: write 127.0.0.1:1053, [::1]:1053, or an address for port 53")
    })
}

/// Parses the address of a listener for TLS, default port 853.
pub fn listen_tls(text: &str) -> Result<SocketAddr, String> {
    listen_encrypted(text, TLS_PORT)
}

/// Parses the address of a listener for HTTPS, default port 443.
pub fn listen_https(text: &str) -> Result<SocketAddr, String> {
    listen_encrypted(text, HTTPS_PORT)
}

/// Parses the address of a listener for QUIC, default port 853.
pub fn listen_quic(text: &str) -> Result<SocketAddr, String> {
    listen_encrypted(text, QUIC_PORT)
}

fn listen_encrypted(text: &str, port: u16) -> Result<SocketAddr, String> {
    with_port(text, port).ok_or_else(|| {
        format!(
            "{text:?} is not an address to listen on: write 127.0.0.1:{port}, [::1]:{port}, or an address for port {port}"
        )
    })
}

/// Parses an address with its port, or with `port` if it has none.
fn with_port(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    text.parse().or_else(|_| bare.parse().map(|address: IpAddr| SocketAddr::new(address, port))).ok()
}

/// Address of a running server, with the protocol to query it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerSpec {
    /// DNS.
    Dns(SocketAddr),
    /// HTTP, at the admin listener.
    Http(SocketAddr),
}

impl FromStr for ServerSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains("//") {
            return http_server(text).map(Self::Http);
        }
        let or_http = |sentence| format!("{sentence}; or that of its admin listener, http://127.0.0.1:9153");
        server(text).map(Self::Dns).map_err(or_http)
    }
}

/// Parses the address of a server to query over DNS, default port 53.
pub fn server(text: &str) -> Result<SocketAddr, String> {
    listen(text).map_err(|_| {
        format!("{text:?} is not the address of a server: write 127.0.0.1:1053, [::1]:1053, or an address for port 53")
    })
}

/// Parses `http://ADDR:PORT`, or `http://ADDR` for port 9153.
pub fn http_server(text: &str) -> Result<SocketAddr, String> {
    let address = text.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    // `localhost` is the only host name that the admin listener accepts in Host: any other may be an attack by DNS rebinding.
    let address =
        address.map(|rest| rest.strip_prefix("localhost").map_or(rest.to_owned(), |port| format!("127.0.0.1{port}")));
    address.and_then(|address| with_port(&address, ADMIN_PORT)).ok_or_else(|| {
        format!("{text:?} is not the address of an admin listener: write http://127.0.0.1:9153 or http://[::1]:9153")
    })
}

/// Name or address on the command line of `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameSpec {
    /// Address, which stands for its reverse name.
    Address(IpAddr),
    /// Name with the final dot.
    Absolute(WireName),
    /// Name without the final dot, to which a search list applies.
    Relative(WireName),
}

impl FromStr for NameSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if let Some(host) = host_of(text) {
            return Err(format!("{text:?} is not a name, as it has a port or is a URL: ask for {host}"));
        }
        let name = QueryName::parse(text)?.to_wire();
        Ok(if text.ends_with('.') { Self::Absolute(name) } else { Self::Relative(name) })
    }
}

/// Returns the host of a URL, or of a name with a port; `None` for a plain name.
fn host_of(text: &str) -> Option<&str> {
    let rest = text.split_once("://").map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(rest));
    let authority = rest.unwrap_or(text);
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|octet| octet.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (host != text && !host.is_empty()).then_some(host)
}

impl fmt::Display for NameSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Absolute(name) => name.fmt(f),
            Self::Relative(name) => f.write_str(&name.without_final_dot()),
        }
    }
}

impl NameSpec {
    /// Returns the default QTYPE: PTR for an address, SRV for `_port._protocol`, else A.
    pub fn usual_type(&self) -> u16 {
        match self {
            Self::Address(_) => rtype::PTR,
            Self::Absolute(name) | Self::Relative(name) => {
                let underscored = wire_labels(name.octets()).take(2).filter(|label| label.starts_with(b"_")).count();
                if underscored == 2 { rtype::SRV } else { rtype::A }
            }
        }
    }
}

/// Parses a network `10.0.0.0/8`, or an address as a network of its own. Bits beyond the prefix must be 0, since `10.1.2.3/8`
/// may mean the network or the address.
pub fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let network: IpNet =
        text.parse().map_err(|_| format!("{text:?} is not a network: write it as 10.0.0.0/8 or fd00::/8"))?;
    if network.addr() != network.network() {
        let (whole, one) = (network.trunc(), IpNet::from(network.addr()));
        return Err(format!("{text:?} has bits set beyond its prefix: write {whole} or {one}"));
    }
    Ok(network)
}

/// Parses a unicast address of a name server.
pub fn name_server_address(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() || address.is_multicast() => {
            Err(format!("{text:?} is not the address of one server"))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(format!("{text:?} is not an IP address")),
    }
}

/// Parses a Service, `NAMESPACE/NAME`.
pub fn object(text: &str) -> Result<ObjectRef, String> {
    match text.split_once('/') {
        Some((namespace, name)) if is_label(namespace) && is_label(name) => Ok(ObjectRef::new(namespace, name)),
        _ => Err(format!("{text:?} is not a Service: write NAMESPACE/NAME")),
    }
}

/// Parses the name of a namespace.
pub fn namespace(text: &str) -> Result<Box<str>, String> {
    if is_label(text) {
        return Ok(text.to_ascii_lowercase().into());
    }
    Err(format!("{text:?} is not a namespace: 1 to 63 letters, digits and inner hyphens"))
}

/// Parses a label selector in the syntax of `kubectl --selector`: `app=web,tier!=test,env in (a, b),!old`.
///
/// The API server validates keys and values further. A selector with a wrong syntax is refused here, as otherwise each list
/// request would fail.
pub fn selector(text: &str) -> Result<Box<str>, String> {
    let mut rest = text.trim();
    while !rest.is_empty() {
        // A comma inside parentheses separates values.
        let parts = rest.split_at(rest.find('(').unwrap_or(rest.len()));
        let end = match (parts.0.find(','), parts.1.find(')')) {
            (Some(comma), _) => comma,
            (None, Some(closing)) => parts.0.len() + closing + 1,
            (None, None) => rest.len(),
        };
        let (requirement, behind) = rest.split_at(end);
        let next = if behind.is_empty() { Some("") } else { behind.trim_start().strip_prefix(',') };
        match next {
            Some(next) if is_requirement(requirement.trim()) && (behind.is_empty() || !next.trim().is_empty()) => {
                rest = next.trim_start();
            }
            _ => return Err(format!("{text:?} is not a label selector: write app=web,tier!=test,env in (a,b),!old")),
        }
    }
    if text.trim().is_empty() { Err("the label selector is empty".into()) } else { Ok(text.trim().into()) }
}

fn is_requirement(text: &str) -> bool {
    if let Some(key) = text.strip_prefix('!') {
        return is_label_key(key.trim());
    }
    if let Some((key, value)) = text.split_once("!=").or_else(|| text.split_once("==")).or_else(|| text.split_once('='))
    {
        return is_label_key(key.trim()) && is_label_value(value.trim());
    }
    let Some((head, values)) = text.split_once('(') else { return is_label_key(text) };
    let mut words = head.split_whitespace();
    let set = (words.next(), words.next(), words.next());
    matches!(set, (Some(key), Some("in" | "notin"), None) if is_label_key(key))
        && values.strip_suffix(')').is_some_and(|values| values.split(',').all(|value| is_label_value(value.trim())))
}

fn is_label_key(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    !name.is_empty() && is_label_value(name) && prefix.is_none_or(|prefix| prefix.split('.').all(is_label))
}

/// Returns whether the text is empty, or has at most 63 letters, digits, `-`, `_` and `.`, a letter or digit first and last.
fn is_label_value(text: &str) -> bool {
    let edge = |octet: Option<&u8>| octet.is_none_or(u8::is_ascii_alphanumeric);
    let octets = text.as_bytes();
    octets.len() <= 63
        && edge(octets.first())
        && edge(octets.last())
        && octets.iter().all(|octet| octet.is_ascii_alphanumeric() || b"-_.".contains(octet))
}

/// Parses a name server identifier (RFC 5001): 1 to 255 octets without control characters.
pub fn nsid(text: &str) -> Result<Box<str>, String> {
    match text {
        "" => Err("an empty text identifies no server: leave the option out, or write the Pod's name".into()),
        _ if text.len() > 255 || text.chars().any(char::is_control) => {
            Err(format!("{text:?} is not a server identifier: at most 255 octets, without control characters"))
        }
        _ => Ok(text.into()),
    }
}

/// Parses a boolean: true, yes, on, 1, or false, no, off, 0.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// Parses a whole number within `range`; the error names `unit`.
pub fn parse_integer(text: &str, unit: &str, range: &RangeInclusive<u32>) -> Result<u32, String> {
    let (least, most) = (range.start(), range.end());
    text.parse()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("{text:?} is not a whole number of {unit} from {least} to {most}"))
}

/// Parses a whole number of seconds within `range`.
pub fn seconds(text: &str, range: &RangeInclusive<u32>) -> Result<Duration, String> {
    parse_integer(text, "seconds", range).map(|seconds| Duration::from_secs(u64::from(seconds)))
}

/// Parses a size in octets: a whole number, with `K`, `M` or `G` behind it for powers of 1024.
pub fn octets(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes() {
        [.., b'K' | b'k'] => (&text[..text.len() - 1], 1 << 10),
        [.., b'M' | b'm'] => (&text[..text.len() - 1], 1 << 20),
        [.., b'G' | b'g'] => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    number.filter(|number| *number > 0).ok_or_else(|| {
        format!("{text:?} is not a size: write a whole number of octets above 0, alone or with K, M or G behind it")
    })
}

/// Returns the text that [`octets`] parses, with the largest unit that leaves a whole number.
pub fn write_octets(octets: u64) -> String {
    [("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)]
        .iter()
        .find(|(_, unit)| octets.is_multiple_of(*unit))
        .map_or_else(|| octets.to_string(), |(name, unit)| format!("{}{name}", octets / unit))
}

/// Location of manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestPath {
    /// Standard input (`-`), read once, to its end.
    Stdin,
    /// File, or folder of files; relative to the working directory, also in a configuration file.
    Path(PathBuf),
}

impl FromStr for ManifestPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("an empty path names no file or folder".into()),
            "-" => Ok(Self::Stdin),
            path => Ok(Self::Path(path.into())),
        }
    }
}

impl ManifestPath {
    /// Returns the location as on the command line.
    pub fn text(&self) -> String {
        match self {
            Self::Stdin => "-".into(),
            Self::Path(path) => path.display().to_string(),
        }
    }
}

/// One value of `--simulate`: the network in which Pods of simulated workloads get addresses, or no simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Simulate {
    /// No simulation.
    Off,
    /// Simulation, with Pods in this network.
    Network(IpNet),
}

impl Simulate {
    /// Default network: 10.244.0.0/16, in which many clusters have their Pods.
    const DEFAULT: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16));

    /// Returns the networks of all values, at most one of each address family. The default network is used for the built-in
    /// example, whose manifests have no Pods.
    ///
    /// # Errors
    ///
    /// If two networks of one family are named, or one beside `false`.
    pub fn networks(named: &[Self], is_demo: bool) -> Result<Vec<IpNet>, String> {
        let mut networks: Vec<IpNet> = Vec::new();
        for one in named {
            let Self::Network(network) = one else { continue };
            if let Some(other) = networks.iter().find(|other| other.addr().is_ipv4() == network.addr().is_ipv4()) {
                return Err(format!(
                    "--simulate {other} and --simulate {network} are networks of one family: a cluster has at most one \
                     IPv4 and one IPv6 network of Pods"
                ));
            }
            networks.push(*network);
        }
        match networks.first() {
            Some(network) if named.contains(&Self::Off) => {
                Err(format!("--simulate false and --simulate {network} exclude each other"))
            }
            None if named.is_empty() && is_demo => Ok(vec![Self::DEFAULT]),
            _ => Ok(networks),
        }
    }
}

impl FromStr for Simulate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "false" => Ok(Self::Off),
            "true" => Ok(Self::Network(Self::DEFAULT)),
            _ => match network(text)? {
                range if range.prefix_len() == range.max_prefix_len() => {
                    Err(format!("{text:?} has room for one Pod only: write a network, such as 10.244.0.0/16"))
                }
                range => Ok(Self::Network(range)),
            },
        }
    }
}

/// One value of `--explain-to`: a network of clients that get the reason why a name does not resolve, or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExplainTo {
    /// No client (`none`).
    Off,
    /// Clients of this network.
    Clients(IpNet),
}

impl FromStr for ExplainTo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::Off),
            _ => network(text).map(Self::Clients).map_err(|sentence| format!("{sentence}; or none for no client")),
        }
    }
}

impl ExplainTo {
    /// Returns the networks of all values; empty for `none`.
    ///
    /// # Errors
    ///
    /// If `none` is named beside a network.
    pub fn networks(named: &[Self]) -> Result<Vec<IpNet>, String> {
        let networks: Vec<IpNet> = named
            .iter()
            .filter_map(|one| match one {
                Self::Off => None,
                Self::Clients(network) => Some(*network),
            })
            .collect();
        if networks.len() < named.len() && !networks.is_empty() {
            return Err(format!("--explain-to none and --explain-to {} exclude each other", networks[0]));
        }
        Ok(networks)
    }
}

/// Value of `--admin`: the address of the admin listener, or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// No admin listener (`none`).
    Off,
    /// Address to listen on.
    At(SocketAddr),
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::Off),
            _ => admin(text).map(Self::At).map_err(|sentence| format!("{sentence}; or none for no listener")),
        }
    }
}

/// Parses `ADDR:PORT`, or `ADDR` for port 9153.
pub fn admin(text: &str) -> Result<SocketAddr, String> {
    with_port(text, ADMIN_PORT).ok_or_else(|| {
        format!(
            "{text:?} is not an address to listen on: write 127.0.0.1:9153, [::1]:9153, or an address for port 9153"
        )
    })
}

/// Upstream for names outside the zones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamSpec {
    /// Servers of this machine's `/etc/resolv.conf`.
    System,
    /// DNS over UDP and TCP.
    Plain(SocketAddr),
    /// DNS over TLS, with a certificate for this name, or without one for the address.
    Tls(SocketAddr, Option<Box<str>>),
}

impl FromStr for UpstreamSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not an upstream: write an address (192.0.2.1, [2001:db8::1]:5353), \
                 tls://ADDRESS#NAME, or system for the servers of /etc/resolv.conf"
            )
        };
        let address = |text: &str, port| {
            let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
            let whole = || bare.parse().map(|ip: IpAddr| SocketAddr::new(ip, port));
            let address: SocketAddr = text.parse().or_else(|_| whole()).map_err(|_| wrong())?;
            let ip = address.ip();
            if ip.is_unspecified() || ip.is_multicast() || address.port() == 0 { Err(wrong()) } else { Ok(address) }
        };
        if text == "system" {
            return Ok(Self::System);
        }
        let Some(text) = text.strip_prefix("tls://") else { return Ok(Self::Plain(address(text, DNS_PORT)?)) };
        match text.split_once('#') {
            None => Ok(Self::Tls(address(text, TLS_PORT)?, None)),
            Some((at, name)) => {
                let good = WireName::parse(name).is_ok();
                if good { Ok(Self::Tls(address(at, TLS_PORT)?, Some(name.into()))) } else { Err(wrong()) }
            }
        }
    }
}

impl fmt::Display for UpstreamSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Plain(address) => write!(f, "{address}"),
            Self::Tls(address, None) => write!(f, "tls://{address}"),
            Self::Tls(address, Some(name)) => write!(f, "tls://{address}#{name}"),
        }
    }
}

/// Filter of the log: levels and `TARGET=LEVEL` pairs, separated by commas, in the syntax of `tracing-subscriber`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Refuse a word that is no level: `tracing-subscriber` takes `inof` as a target, and would log nothing else.
        let is_stray = |part: &&str| part.is_empty() || !part.contains('=') && part.parse::<LevelFilter>().is_err();
        let stray = text.split(',').find(is_stray);
        if let Some(part) = stray {
            return Err(format!(
                "{text:?} is not a log filter: {part:?} is none of off, error, warn, info, debug, trace, TARGET=LEVEL"
            ));
        }
        EnvFilter::builder().parse(text).map_err(|error| format!("{text:?} is not a log filter: {error}"))?;
        Ok(Self(text.to_owned()))
    }
}

impl LogFilter {
    /// Returns the filter as written.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Returns the parsed filter. Its text was validated by `from_str`, so that lossy parsing loses nothing.
    pub fn directives(&self) -> EnvFilter {
        EnvFilter::builder().parse_lossy(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: std::fmt::Debug>(read: impl Fn(&str) -> Result<T, String>, cases: &[(&str, &str)]) {
        for (text, expected) in cases {
            let result = match read(text) {
                Ok(value) => format!("{value:?}"),
                Err(sentence) => {
                    assert!(sentence.contains(&text.escape_debug().to_string()), "{sentence} does not repeat {text:?}");
                    "error".into()
                }
            };
            assert_eq!(result, *expected, "{text:?}");
        }
    }

    #[test]
    fn parses_listen_addresses() {
        check(
            listen,
            &[
                ("127.0.0.1:1053", "127.0.0.1:1053"),
                ("[::1]:1053", "[::1]:1053"),
                ("0.0.0.0", "0.0.0.0:53"),
                ("::1", "[::1]:53"),
                ("[::1]", "[::1]:53"),
                ("127.0.0.1:0", "127.0.0.1:0"),
                ("localhost:1053", "error"),
                (":53", "error"),
                ("127.0.0.1:70000", "error"),
                ("", "error"),
            ],
        );
    }

    #[test]
    fn parses_upstreams() {
        let text = |text: &str| text.parse::<UpstreamSpec>().map(|upstream| upstream.to_string());
        check(
            text,
            &[
                ("system", "\"system\""),
                ("192.0.2.1", "\"192.0.2.1:53\""),
                ("192.0.2.1:5353", "\"192.0.2.1:5353\""),
                ("::1", "\"[::1]:53\""),
                ("[::1]:5353", "\"[::1]:5353\""),
                ("tls://192.0.2.1", "\"tls://192.0.2.1:853\""),
                ("tls://192.0.2.1#dns.example", "\"tls://192.0.2.1:853#dns.example\""),
                ("tls://[2001:db8::1]:8853#dns.example", "\"tls://[2001:db8::1]:8853#dns.example\""),
                ("tls://192.0.2.1#", "error"),
                ("tls://192.0.2.1#a..b", "error"),
                ("192.0.2.1#dns.example", "error"),
                ("https://192.0.2.1", "error"),
                ("0.0.0.0", "error"),
                ("192.0.2.1:0", "error"),
                ("dns.example", "error"),
                ("", "error"),
            ],
        );
    }

    #[test]
    fn parses_networks() {
        check(
            network,
            &[
                ("10.0.0.0/8", "10.0.0.0/8"),
                ("0.0.0.0/0", "0.0.0.0/0"),
                ("10.1.2.3", "10.1.2.3/32"),
                ("fd00::/8", "fd00::/8"),
                ("::1", "::1/128"),
                ("10.1.2.3/8", "error"),
                ("10.0.0.0/33", "error"),
                ("10.0/8", "error"),
                ("any", "error"),
            ],
        );
        assert_eq!(
            network("10.1.2.3/8").unwrap_err(),
            "\"10.1.2.3/8\" has bits set beyond its prefix: write 10.0.0.0/8 or 10.1.2.3/32"
        );
        check(
            str::parse::<AdminAddress>,
            &[
                ("none", "Off"),
                ("127.0.0.1", "At(127.0.0.1:9153)"),
                ("[::1]:80", "At([::1]:80)"),
                ("localhost:9153", "error"),
                ("off", "error"),
            ],
        );
        check(
            str::parse::<ExplainTo>,
            &[
                ("none", "Off"),
                ("10.0.0.0/8", "Clients(10.0.0.0/8)"),
                ("::1", "Clients(::1/128)"),
                ("nobody", "error"),
                ("10.1.2.3/8", "error"),
            ],
        );
        check(
            str::parse::<Simulate>,
            &[
                ("true", "Network(10.244.0.0/16)"),
                ("false", "Off"),
                ("10.244.0.0/16", "Network(10.244.0.0/16)"),
                ("10.244.0.1", "error"),
                ("yes", "error"),
            ],
        );
    }

    #[test]
    fn parses_object_names() {
        let long = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(50));
        check(
            apex,
            &[("cluster.local", "WireName([7, 99, 108, 117, 115, 116, 101, 114, 5, 108, 111, 99, 97, 108, 0])")],
        );
        check(apex, &[("cluster..local", "error"), (".", "error"), (&long, "error")]);
        check(object, &[("kube-system/dns", "ObjectRef { namespace: \"kube-system\", name: \"dns\" }")]);
        check(nsid, &[("headless-dns-7c9-x2x4z", "\"headless-dns-7c9-x2x4z\""), ("", "error")]);
        assert!(nsid(&"a".repeat(255)).is_ok() && nsid(&"a".repeat(256)).is_err() && nsid("a\u{7f}").is_err());
        check(object, &[("dns", "error"), ("a/b/c", "error"), ("/dns", "error"), ("a_b/c", "error")]);
        check(namespace, &[("default", "\"default\""), ("Team", "\"team\""), ("", "error"), ("a.b", "error")]);
        check(
            name_server_address,
            &[("10.96.0.53", "10.96.0.53"), ("0.0.0.0", "error"), ("ff02::1", "error"), ("ns", "error")],
        );
    }

    #[test]
    fn parses_selectors() {
        for text in [
            "app=web",
            "app==web",
            "tier != test",
            "app",
            "!old",
            "a.b/c=d-e_f.g",
            "env in (a, b)",
            "env notin (a)",
            "app=web,tier!=test,env in (a,b),!old",
            "app=",
        ] {
            assert_eq!(selector(text).as_deref(), Ok(text));
        }
        for text in [
            "",
            " ",
            ",",
            "app=web,",
            "=web",
            "app=web tier=a",
            "env in a",
            "env in (a",
            "env (a)",
            "a,,b",
            "!",
            "a/b/c",
            "app=-a",
            "env in (a) b",
            "app=a=b",
        ] {
            assert!(selector(text).is_err_and(|error| error.contains("label selector")), "{text:?}");
        }
    }

    #[test]
    fn parses_query_names() {
        for (text, expected) in [
            ("10.2.1.10", "Address(10.2.1.10) PTR"),
            ("fd00::1", "Address(fd00::1) PTR"),
            ("web", "Relative web. A"),
            ("Web.default.", "Absolute web.default. A"),
            ("_http._tcp.web", "Relative _http._tcp.web. SRV"),
            ("_tcp.web", "Relative _tcp.web. A"),
        ] {
            let asked: NameSpec = text.parse().unwrap();
            let shown = match &asked {
                NameSpec::Address(address) => format!("Address({address})"),
                NameSpec::Absolute(name) => format!("Absolute {name}"),
                NameSpec::Relative(name) => format!("Relative {name}"),
            };
            assert_eq!(format!("{shown} {}", rtype::name(asked.usual_type())), expected);
        }
        check(str::parse::<NameSpec>, &[("a..b", "error"), ("", "error"), ("a b", "error")]);
        for (text, host) in [
            ("web-0.web:8080", "web-0.web"),
            ("http://web.shop/cart", "web.shop"),
            ("postgres://db.shop.svc:5432/x", "db.shop.svc"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[fd00::1]:80", "fd00::1"),
        ] {
            let refused = text.parse::<NameSpec>().unwrap_err();
            assert!(refused.ends_with(&format!("ask for {host}")), "{refused}");
        }
        check(
            str::parse::<ServerSpec>,
            &[
                ("::1", "Dns([::1]:53)"),
                ("127.0.0.1:1053", "Dns(127.0.0.1:1053)"),
                ("http://127.0.0.1:80/", "Http(127.0.0.1:80)"),
                ("http://localhost", "Http(127.0.0.1:9153)"),
                ("http://[::1]", "Http([::1]:9153)"),
                ("https://127.0.0.1", "error"),
                ("http://127.0.0.1/api", "error"),
                ("http://a.test", "error"),
                ("ns", "error"),
            ],
        );
    }

    #[test]
    fn parses_numbers() {
        check(|text| seconds(text, &(0..=60)), &[("0", "0ns"), ("60", "60s"), ("61", "error"), ("-1", "error")]);
        check(|text| seconds(text, &(0..=60)), &[("5s", "error"), ("1.5", "error"), ("", "error")]);
        check(parse_bool, &[("true", "true"), ("off", "false"), ("perhaps", "error"), ("", "error")]);
        check(octets, &[("1", "1"), ("64M", "67108864"), ("2g", "2147483648"), ("10K", "10240")]);
        check(octets, &[("0", "error"), ("M", "error"), ("64MB", "error"), ("99999999999G", "error"), ("é", "error")]);
        for text in ["1", "1023", "64M", "2G", "10K"] {
            assert_eq!(write_octets(octets(text).unwrap()), text);
        }
    }

    #[test]
    fn parses_log_filters() {
        let text = |text: &str| text.parse::<LogFilter>().map(|filter| filter.directives().to_string());
        check(
            text,
            &[
                ("info", "\"info\""),
                ("WARN", "\"warn\""),
                ("info,headless_dns::serve=debug", "\"headless_dns::serve=debug,info\""),
                ("inof", "error"),
                ("info,serve", "error"),
                ("serve=loud", "error"),
                ("", "error"),
            ],
        );
    }
}
