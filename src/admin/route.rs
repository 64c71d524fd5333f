//! What a request asks for, and whether it gets it: decided from its head alone.
//!
//! Pure: no socket, no clock, and nothing is looked up. Who asks is not known here, and what the answers say neither
//! (`health.rs`). The guard against foreign pages is [`is_local_name`]: a browser on a laptop runs scripts of
//! sites that let their own names point to 127.0.0.1, and then may read what it gets from there. Such a request names
//! the site in its Host.

use std::net::IpAddr;

/// The paths, in the order in which they are listed; those behind [`Offer::everything`] last.
const PATHS: &[(&str, bool)] = &[
    ("/livez", false),
    ("/readyz", false),
    ("/metrics", false),
    ("/healthz", false),
    ("/health", false),
    ("/ready", false),
];

/// What is to be had at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    /// The names of the cluster too: the page and `/api`.
    pub(super) everything: bool,
}

/// The head of a request, as far as it matters.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Head<'h> {
    pub(super) method: &'h str,
    pub(super) path: &'h str,
    /// What stands behind `?`; empty where nothing does.
    pub(super) query: &'h str,
    /// Every Host that it names: of a header, and of the target (RFC 9112 section 3.2.2).
    pub(super) hosts: &'h [&'h str],
    /// What a browser says of a script or an element of another site's page that asks (Fetch Metadata).
    pub(super) foreign: bool,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Whether the process lives.
    Live,
    /// Whether questions are welcome.
    Ready {
        /// With every part of it.
        verbose: bool,
    },
    /// What was counted.
    Metrics,
}

/// Why nothing is to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Another method than GET and HEAD.
    Method,
    /// No such path.
    Path,
    /// It is there, and not at this address.
    NotHere,
    /// It names a host by which nobody calls this server, or another site's page asks.
    Foreign(String),
    /// The query is wrong, and how.
    Query(String),
}

/// What `head` asks for at an address with this offer.
pub(super) fn route(head: &Head<'_>, offer: Offer) -> Result<Route, Refusal> {
    let Some((_, everything)) = PATHS.iter().find(|(path, _)| *path == head.path) else { return Err(Refusal::Path) };
    if !matches!(head.method, "GET" | "HEAD") {
        return Err(Refusal::Method);
    }
    if *everything {
        guard(head, offer)?;
    }
    match head.path {
        "/livez" | "/healthz" | "/health" => Ok(Route::Live),
        "/metrics" => Ok(Route::Metrics),
        // A probe is not refused for a parameter: it would end a server that works.
        _ => Ok(Route::Ready { verbose: parameters(head.query).any(|(name, _)| name == "verbose") }),
    }
}

/// The names of the cluster are for who may have them.
fn guard(head: &Head<'_>, offer: Offer) -> Result<(), Refusal> {
    if !offer.everything {
        return Err(Refusal::NotHere);
    }
    if head.foreign {
        return Err(Refusal::Foreign("a page of another site asks for it".into()));
    }
    match head.hosts.iter().find(|host| !is_local_name(host)) {
        Some(host) => Err(Refusal::Foreign(format!("{:?} is no IP address and not localhost", shortened(host)))),
        None if head.hosts.is_empty() => Err(Refusal::Foreign("it names no host".into())),
        None => Ok(()),
    }
}

/// Whether nobody can have let this host's name point here: an IP address or `localhost` (RFC 6761 section 6.3), with
/// or without a port.
fn is_local_name(host: &str) -> bool {
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    let bare = match (host.strip_prefix('['), host.rsplit_once(':')) {
        (Some(rest), _) => match rest.split_once(']') {
            Some((address, rest)) if rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port) => {
                return address.parse::<std::net::Ipv6Addr>().is_ok();
            }
            _ => return false,
        },
        (None, Some((bare, port))) if is_port(port) => bare,
        (None, Some(_)) => return false,
        (None, None) => host,
    };
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4())
}

/// What is said of something that came from outside is not longer than a line.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The names and values of a query, decoded (application/x-www-form-urlencoded).
pub(super) fn parameters(query: &str) -> impl Iterator<Item = (String, String)> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts.map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (decoded(name), decoded(value))
    })
}

/// `%XX` and `+` decoded; what is no UTF-8 then is replaced.
fn decoded(text: &str) -> String {
    let digit = |octet: u8| char::from(octet).to_digit(16).map(|digit| digit as u8);
    let (octets, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while at < octets.len() {
        let escaped = match octets[at..] {
            [b'%', high, low, ..] => digit(high).zip(digit(low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        out.push(match (escaped, octets[at]) {
            (Some(octet), _) => octet,
            (None, b'+') => b' ',
            (None, octet) => octet,
        });
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Every path that is to be had, one a line.
pub(super) fn paths(offer: Offer) -> String {
    let offered = PATHS.iter().filter(|(_, everything)| offer.everything || !everything);
    offered.map(|(path, _)| format!("{path}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Offer = Offer { everything: true };

    fn get(target: &str) -> Result<Route, Refusal> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        route(&Head { method: "GET", path, query, hosts: &["127.0.0.1:9153"], foreign: false }, ALL)
    }

    #[test]
    fn paths_and_methods() {
        for (target, expected) in [
            ("/livez", Ok(Route::Live)),
            ("/livez?anything=1", Ok(Route::Live)),
            ("/health", Ok(Route::Live)),
            ("/healthz", Ok(Route::Live)),
            ("/readyz", Ok(Route::Ready { verbose: false })),
            ("/ready", Ok(Route::Ready { verbose: false })),
            ("/readyz?verbose", Ok(Route::Ready { verbose: true })),
            ("/readyz?x=1&verbose=true", Ok(Route::Ready { verbose: true })),
            ("/livez/", Err(Refusal::Path)),
            ("/nothing", Err(Refusal::Path)),
        ] {
            assert_eq!(get(target), expected, "{target}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "get", "CONNECT"] {
            let head = Head { method, path: "/readyz", ..Head::default() };
            assert_eq!(route(&head, ALL), Err(Refusal::Method), "{method}");
        }
        let head = Head { method: "HEAD", path: "/livez", ..Head::default() };
        assert_eq!(route(&head, Offer { everything: false }), Ok(Route::Live), "a probe needs no Host");
    }

    #[test]
    fn hosts_that_nobody_can_point_here() {
        for host in ["localhost", "LOCALHOST:9153", "127.0.0.1", "127.0.0.1:80", "10.0.0.5:9153", "[::1]", "[::1]:9153"]
        {
            assert!(is_local_name(host), "{host}");
        }
        for host in [
            "",
            "evil.test",
            "evil.test:9153",
            "localhost.evil.test",
            "127.0.0.1.evil.test",
            "127.0.0.1:9153:1",
            "[::1",
            "[::1]x",
            "[evil.test]",
            "::1",
            "127.0.0.1:",
            "127.0.0.1:99999",
            "1",
            "0x7f.1",
            "localhost:x",
            "[127.0.0.1]",
        ] {
            assert!(!is_local_name(host), "{host}");
        }
    }

    #[test]
    fn queries() {
        let read = |query: &str| parameters(query).collect::<Vec<_>>();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read("a=1&&b=%41+%2B&c"), [pair("a", "1"), pair("b", "A +"), pair("c", "")]);
        assert_eq!(read("a=%4&b=%zz&c=%ff%"), [pair("a", "%4"), pair("b", "%zz"), pair("c", "\u{fffd}%")]);
        assert!(read("").is_empty());
    }
}
