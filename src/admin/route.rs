//! Routing: decides from the head of a request which response it gets.
//!
//! Pure: no socket, no clock, no look-up. The guard against pages of other sites is [`is_local_name`]. A browser on a laptop
//! runs scripts of sites that let their own names resolve to 127.0.0.1 (DNS rebinding), and lets them read the responses.
//! Such a request names the site in its Host field. Not here: the contents of the responses (`health.rs`, `api.rs`,
//! `page.rs`).

use std::net::IpAddr;

use crate::config::{NameSpec, Output, values};
use headless_dns_core::name::WireName;
use headless_dns_core::rtype;

/// The paths in the order in which a 404 response lists them, and whether a path needs [`Exposure::full`].
const PATHS: &[(&str, bool)] = &[
    ("/livez", false),
    ("/readyz", false),
    ("/metrics", false),
    ("/healthz", false),
    ("/health", false),
    ("/ready", false),
    ("/", true),
    ("/api/v1/status", true),
    ("/api/v1/records", true),
    ("/api/v1/explain", true),
];

/// Exposure of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exposure {
    /// Names of the cluster are exposed too: the page and `/api`.
    pub(super) full: bool,
}

/// The parts of a request's head that routing depends on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RequestHead<'h> {
    pub(super) method: &'h str,
    pub(super) path: &'h str,
    /// The part behind `?`; empty if there is none.
    pub(super) query: &'h str,
    /// All hosts of the request: of Host fields and of the request target (RFC 9112 section 3.2.2).
    pub(super) hosts: &'h [&'h str],
    /// A script or an element of another site's page sends the request, by the browser's Fetch Metadata.
    pub(super) foreign: bool,
}

/// The response that a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Health of the process.
    Live,
    /// Readiness for queries.
    Ready {
        /// All checks, one on a line.
        verbose: bool,
    },
    /// All metrics.
    Metrics,
    /// The server's state as JSON.
    Status,
    /// All records of a zone.
    Records {
        /// Origin of the zone; `None` for the first one.
        origin: Option<WireName>,
        /// Format of the records.
        output: Output,
    },
    /// The explanation of a name.
    Explain(ExplainParams),
    /// The status page.
    Page(PageParams),
}

/// A query to explain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExplainParams {
    pub(super) name: NameSpec,
    pub(super) qtype: u16,
    /// Namespace of the client; `None` for the server's default.
    pub(super) namespace: Option<Box<str>>,
}

/// Parameters of the status page. The page shows an invalid query with its error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PageParams {
    /// Name, type and namespace as they were entered.
    pub(super) is_explain: [String; 3],
    /// The parsed query; `None` without a name.
    pub(super) question: Option<Result<ExplainParams, String>>,
    /// Substring of the namespace or name of the Services to list.
    pub(super) filter: String,
    /// Page of that list, from 1.
    pub(super) page: usize,
}

/// The reason of a refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RouteError {
    /// The method is neither GET nor HEAD.
    Method,
    /// The path does not exist.
    Path,
    /// The path exists, and this listener does not expose it.
    NotExposed,
    /// The request names a host that may be another site's, or comes from another site's page.
    CrossSite(String),
    /// The query string is invalid, for this reason.
    Query(String),
}

/// Routes a request to a listener with this exposure.
pub(super) fn route(head: &RequestHead<'_>, offer: Exposure) -> Result<Route, RouteError> {
    let Some((_, everything)) = PATHS.iter().find(|(path, _)| *path == head.path) else { return Err(RouteError::Path) };
    if !matches!(head.method, "GET" | "HEAD") {
        return Err(RouteError::Method);
    }
    if *everything {
        guard(head, offer)?;
    }
    match head.path {
        "/livez" | "/healthz" | "/health" => Ok(Route::Live),
        "/metrics" => Ok(Route::Metrics),
        "/" => Ok(Route::Page(page_params(head.query)?)),
        "/api/v1/status" => QueryValues::read(head.query, &[]).map(|_| Route::Status),
        "/api/v1/records" => records(head.query),
        "/api/v1/explain" => {
            let values = QueryValues::read(head.query, &["name", "type", "namespace"])?;
            let question = question(values.get("name"), values.get("type"), values.get("namespace"));
            question.map(Route::Explain).map_err(RouteError::Query)
        }
        // Unknown parameters are ignored: a refused probe would restart a server that works.
        _ => Ok(Route::Ready { verbose: parameters(head.query).any(|(name, _)| name == "verbose") }),
    }
}

fn records(query: &str) -> Result<Route, RouteError> {
    let values = QueryValues::read(query, &["origin", "o"])?;
    let origin = values.get("origin").map(WireName::parse).transpose().map_err(RouteError::Query)?;
    let output = values.get("o").map(str::parse).transpose().map_err(RouteError::Query)?;
    Ok(Route::Records { origin, output: output.unwrap_or_default() })
}

fn page_params(query: &str) -> Result<PageParams, RouteError> {
    let values = QueryValues::read(query, &["name", "type", "namespace", "q", "page"])?;
    let text = |name: &str| values.get(name).unwrap_or_default().trim().to_owned();
    let asked = [text("name"), text("type"), text("namespace")];
    let given = |value: &str| (!value.is_empty()).then_some(value.to_owned());
    let [name, qtype, namespace] = [0, 1, 2].map(|field| given(&asked[field]));
    let page = values.get("page").map_or(Ok(1), str::parse).unwrap_or_default();
    if page == 0 {
        return Err(RouteError::Query("page is no whole number from 1".into()));
    }
    let question = name.map(|name| question(Some(&name), qtype.as_deref(), namespace.as_deref()));
    Ok(PageParams { question, filter: text("q").to_ascii_lowercase(), page, is_explain: asked })
}

/// Parses a query by the rules of the command `explain`.
fn question(name: Option<&str>, qtype: Option<&str>, namespace: Option<&str>) -> Result<ExplainParams, String> {
    let name: NameSpec = name.filter(|name| !name.is_empty()).ok_or("name is missing: ?name=NAME&type=A")?.parse()?;
    let qtype = qtype.filter(|qtype| !qtype.is_empty()).map(rtype::parse).transpose()?;
    let namespace = namespace.filter(|text| !text.is_empty()).map(values::namespace).transpose()?;
    Ok(ExplainParams { qtype: qtype.unwrap_or_else(|| name.usual_type()), name, namespace })
}

/// The parameters of a query string. Each is known, and occurs once.
struct QueryValues(Vec<(String, String)>);

impl QueryValues {
    fn read(query: &str, known: &[&str]) -> Result<Self, RouteError> {
        let mut read: Vec<(String, String)> = Vec::new();
        for (name, value) in parameters(query) {
            if !known.contains(&name.as_str()) {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let name = shortened(&name);
                return Err(RouteError::Query(format!("there is no parameter {name:?} here; there are: {known}")));
            }
            if read.iter().any(|(other, _)| *other == name) {
                return Err(RouteError::Query(format!("the parameter {name} is given twice")));
            }
            read.push((name, value));
        }
        Ok(Self(read))
    }

    fn get(&self, wanted: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }
}

/// Refuses a request that may not see the names of the cluster.
fn guard(head: &RequestHead<'_>, offer: Exposure) -> Result<(), RouteError> {
    if !offer.full {
        return Err(RouteError::NotExposed);
    }
    if head.foreign {
        return Err(RouteError::CrossSite("a page of another site asks for it".into()));
    }
    match head.hosts.iter().find(|host| !is_local_name(host)) {
        Some(host) => Err(RouteError::CrossSite(format!("{:?} is no IP address and not localhost", shortened(host)))),
        None if head.hosts.is_empty() => Err(RouteError::CrossSite("it names no host".into())),
        None => Ok(()),
    }
}

/// Returns whether a host cannot be a name that another site's owner controls: an IP address or `localhost` (RFC 6761
/// section 6.3), with or without a port.
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

/// Shortens a text of the client to the length of a line.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Decodes the names and values of a query string (application/x-www-form-urlencoded).
pub(super) fn parameters(query: &str) -> impl Iterator<Item = (String, String)> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts.map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (decoded(name), decoded(value))
    })
}

/// Decodes `%XX` and `+`. Octets that are not UTF-8 are replaced.
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

/// Returns the exposed paths, one on a line.
pub(super) fn paths(offer: Exposure) -> String {
    let offered = PATHS.iter().filter(|(_, everything)| offer.full || !everything);
    offered.map(|(path, _)| format!("{path}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Exposure = Exposure { full: true };

    fn get(target: &str) -> Result<Route, RouteError> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        route(&RequestHead { method: "GET", path, query, hosts: &["127.0.0.1:9153"], foreign: false }, ALL)
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
            ("/metrics?name[]=go", Ok(Route::Metrics)),
            ("/api/v1/status", Ok(Route::Status)),
            ("/api/v1/records", Ok(Route::Records { origin: None, output: Output::Zone })),
            (
                "/api/v1/records?o=json&origin=Cluster.local",
                Ok(Route::Records { origin: WireName::parse("cluster.local").ok(), output: Output::Json }),
            ),
            ("/livez/", Err(RouteError::Path)),
            ("/api/v1", Err(RouteError::Path)),
            ("/nothing", Err(RouteError::Path)),
        ] {
            assert_eq!(get(target), expected, "{target}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "get", "CONNECT"] {
            let head = RequestHead { method, path: "/readyz", ..RequestHead::default() };
            assert_eq!(route(&head, ALL), Err(RouteError::Method), "{method}");
        }
        let head = RequestHead { method: "HEAD", path: "/livez", ..RequestHead::default() };
        assert_eq!(route(&head, Exposure { full: false }), Ok(Route::Live), "a probe needs no Host");
    }

    #[test]
    fn bad_queries_are_told_in_a_sentence() {
        for (target, expected) in [
            ("/api/v1/status?x=1", "there is no parameter \"x\" here; there are: none"),
            ("/api/v1/records?o=xml", "xml"),
            ("/api/v1/records?origin=a..b", "\"a..b\" is not a domain name"),
            ("/api/v1/records?o=json&o=zone", "the parameter o is given twice"),
            ("/api/v1/explain", "name is missing"),
            ("/api/v1/explain?name=", "name is missing"),
            ("/api/v1/explain?name=a..b", "\"a..b\" is not a domain name"),
            ("/api/v1/explain?name=a&type=AXFR", "\"AXFR\" is no type of records to ask for"),
            ("/api/v1/explain?name=a&namespace=a.b", "\"a.b\" is not a namespace"),
            ("/?page=0", "page is no whole number from 1"),
            ("/?page=x", "page is no whole number from 1"),
            ("/?nonsense", "there is no parameter \"nonsense\" here; there are: name, type, namespace, q, page"),
        ] {
            let Err(RouteError::Query(sentence)) = get(target) else { panic!("{target}: {:?}", get(target)) };
            assert!(sentence.contains(expected) && !sentence.contains('\n'), "{target}: {sentence}");
        }
    }

    #[test]
    fn what_is_asked_about() {
        let Ok(Route::Explain(question)) = get("/api/v1/explain?name=_http._tcp.web&namespace=shop") else {
            panic!("it is a question")
        };
        assert_eq!((question.name.to_string().as_str(), question.qtype), ("_http._tcp.web", rtype::SRV));
        assert_eq!(question.namespace.as_deref(), Some("shop"));
        let Ok(Route::Page(wish)) = get("/?name=a..b&q=%20Web&page=2") else { panic!("it is the page") };
        assert!(matches!(wish.question, Some(Err(_))), "{wish:?}");
        assert_eq!((wish.filter.as_str(), wish.page, wish.is_explain[0].as_str()), ("web", 2, "a..b"));
        let Ok(Route::Page(wish)) = get("/?name=+&type=A") else { panic!("it is the page") };
        assert_eq!(wish.question, None, "nothing is asked");
    }

    #[test]
    fn the_names_of_the_cluster_are_guarded() {
        let ask = |path: &'static str, everything, hosts: &'static [&'static str], foreign| {
            route(&RequestHead { method: "GET", path, query: "", hosts, foreign }, Exposure { full: everything })
        };
        for path in ["/", "/api/v1/status", "/api/v1/records", "/api/v1/explain"] {
            assert_eq!(ask(path, false, &["127.0.0.1"], false), Err(RouteError::NotExposed), "{path}");
            for hosts in [&["evil.test"][..], &[], &["127.0.0.1", "evil.test"]] {
                assert!(matches!(ask(path, true, hosts, false), Err(RouteError::CrossSite(_))), "{path} {hosts:?}");
            }
            assert!(matches!(ask(path, true, &["localhost"], true), Err(RouteError::CrossSite(_))), "{path}");
        }
        assert_eq!(ask("/metrics", false, &["evil.test"], true), Ok(Route::Metrics), "no name is in it");
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
