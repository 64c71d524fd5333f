//! The routes: which path gets which response, and from which client.
//!
//! Health and metrics are open to every client. A path that shows names of the cluster passes [`guard`] first. A browser
//! on a laptop runs scripts of sites that let their own names resolve to 127.0.0.1 (DNS rebinding), and lets them read
//! the responses; such a request names the site in its Host field. Not here: sockets and deadlines (`listen.rs`), and the
//! contents (`health.rs`, `api.rs`, `page.rs`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header, uri::Authority};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::body::ChunkedBody;
use super::health::{self, HealthReport};
use super::params::{self, ExplainParams, PageParams, RecordsParams, shortened};
use super::shown::AdminState;
use super::{api, page};
use crate::config::Output;
use crate::metrics::{ExpositionFormat, ZoneFigures};
use crate::report::records;
use headless_dns_core::escape;

/// Exposure of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exposure {
    /// Names of the cluster are exposed too: the page and `/api`.
    pub(super) full: bool,
}

type Routes = Vec<(&'static str, MethodRouter<Arc<AdminState>>)>;

/// Returns the routes without names of the cluster.
fn open_routes() -> Routes {
    let (live, ready) = (get(live), get(ready));
    vec![
        ("/livez", live.clone()),
        ("/readyz", ready.clone()),
        ("/metrics", get(metrics)),
        ("/healthz", live.clone()),
        ("/health", live),
        ("/ready", ready),
    ]
}

/// Returns the routes with names of the cluster.
fn cluster_routes() -> Routes {
    vec![
        ("/", get(status_page)),
        ("/api/v1/status", get(status)),
        ("/api/v1/records", get(zone_records)),
        ("/api/v1/explain", get(explain)),
    ]
}

/// Returns the service of a listener. Its responses to HEAD have no body.
pub(super) fn router(state: Arc<AdminState>, exposure: Exposure) -> Router {
    let (open, cluster) = (open_routes(), cluster_routes());
    let exposed = open.iter().chain(cluster.iter().filter(|_| exposure.full));
    let paths: String = exposed.map(|(path, _)| format!("{path}\n")).collect();
    let merge = |routes: Routes| routes.into_iter().fold(Router::new(), |router, (path, to)| router.route(path, to));
    merge(cluster)
        .route_layer(middleware::from_fn_with_state(exposure, guard))
        .merge(merge(open))
        .fallback(async move || plain(StatusCode::NOT_FOUND, &format!("no such path; there are\n{paths}")))
        .method_not_allowed_fallback(async || {
            ([(header::ALLOW, "GET, HEAD")], plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n"))
        })
        .layer(middleware::map_response(with_common_fields))
        .with_state(state)
}

async fn with_common_fields(mut response: Response) -> Response {
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The reason for which a request gets no contents.
#[derive(Debug, PartialEq, Eq)]
enum RouteError {
    /// This listener does not expose the path.
    NotExposed,
    /// The request names a host that may be another site's, or comes from another site's page.
    CrossSite(String),
    /// The query string is invalid.
    Query(String),
    /// The zone does not exist.
    UnknownZone(String),
    /// Not all objects were read yet: a missing record would be explained wrongly.
    NotSynced(String),
    /// Too many expensive requests are in progress.
    Busy,
    /// A defect of the server.
    Internal(String),
}

impl IntoResponse for RouteError {
    fn into_response(self) -> Response {
        let retry_later =
            |text: &str| ([(header::RETRY_AFTER, "1")], plain(StatusCode::SERVICE_UNAVAILABLE, text)).into_response();
        match self {
            Self::NotExposed => plain(
                StatusCode::FORBIDDEN,
                "this path shows names of the cluster: use a loopback address, or the address of --admin-api\n",
            ),
            Self::CrossSite(reason) => plain(
                StatusCode::FORBIDDEN,
                &format!(
                    "{reason}: use an IP address or localhost, so that no page of another site can read the response\n"
                ),
            ),
            Self::Query(reason) => plain(StatusCode::BAD_REQUEST, &format!("{reason}\n")),
            Self::UnknownZone(reason) => plain(StatusCode::NOT_FOUND, &format!("{reason}\n")),
            Self::NotSynced(waiting) => retry_later(&format!("not everything was read yet: {waiting}\n")),
            Self::Busy => retry_later("too many searches or zone exports are in progress: ask again\n"),
            Self::Internal(reason) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{reason}\n")),
        }
    }
}

/// Refuses a request that may not see names of the cluster.
async fn guard(State(exposure): State<Exposure>, request: Request, next: Next) -> Result<Response, RouteError> {
    if !exposure.full {
        return Err(RouteError::NotExposed);
    }
    if is_cross_site(request.headers()) {
        return Err(RouteError::CrossSite("a page of another site sent the request".into()));
    }
    check_hosts(request.headers(), request.uri().authority())?;
    Ok(next.run(request).await)
}

/// Returns whether, by the browser's Fetch Metadata, a page of another site sends the request without a navigation.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let has = |name: &str, value: &str| headers.get(name).is_some_and(|field| field == value);
    has("sec-fetch-site", "cross-site") && !has("sec-fetch-mode", "navigate")
}

/// Checks the hosts of Host fields and of the request target (RFC 9112 section 3.2.2): at least one, and all local.
fn check_hosts(headers: &HeaderMap, target: Option<&Authority>) -> Result<(), RouteError> {
    let fields = headers.get_all(header::HOST).iter().map(|field| field.to_str().unwrap_or("?"));
    let mut hosts = fields.chain(target.map(Authority::as_str)).peekable();
    if hosts.peek().is_none() {
        return Err(RouteError::CrossSite("the request names no host".into()));
    }
    match hosts.find(|host| !is_local_name(host)) {
        Some(host) => Err(RouteError::CrossSite(format!("{:?} is no IP address and not localhost", shortened(host)))),
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

async fn live(State(state): State<Arc<AdminState>>) -> Response {
    health_response(&health::live(&state.context.liveness.stalled(Instant::now())))
}

async fn ready(State(state): State<Arc<AdminState>>, RawQuery(query): RawQuery) -> Response {
    let verbose = params::is_verbose(&query.unwrap_or_default());
    health_response(&health::ready(&state.context.status, verbose, Instant::now()))
}

fn health_response(report: &HealthReport) -> Response {
    plain(if report.good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &report.text)
}

async fn metrics(State(state): State<Arc<AdminState>>, headers: HeaderMap) -> Response {
    let (view, zone) = (&state.context, &state.context.zone);
    let format = ExpositionFormat::accepted(headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()));
    let (services, reverse_addresses) = zone.size();
    let figures = ZoneFigures { services, endpoints: zone.endpoints(), reverse_addresses, serial: zone.serial() };
    typed(format.content_type(), view.metrics.render(&view.status, figures, format))
}

async fn status(State(state): State<Arc<AdminState>>, RawQuery(query): RawQuery) -> Result<Response, RouteError> {
    params::expect_none(&query.unwrap_or_default()).map_err(RouteError::Query)?;
    Ok(json(&format!("{}\n", api::status(&state, Instant::now()))))
}

async fn zone_records(State(state): State<Arc<AdminState>>, RawQuery(query): RawQuery) -> Result<Response, RouteError> {
    let RecordsParams { origin, output } =
        RecordsParams::parse(&query.unwrap_or_default()).map_err(RouteError::Query)?;
    require_synced(&state)?;
    let zone = Arc::clone(&state.context.zone);
    let origin = origin.unwrap_or_else(|| zone.settings().apexes[0].clone());
    if !zone.origins().contains(&origin) {
        return Err(RouteError::UnknownZone(records::not_served(&zone, &origin)));
    }
    let permit = acquire(&state.zones)?;
    let body = ChunkedBody::spawn(move |chunks| {
        let _permit = permit;
        records::write(&zone, &origin, output, chunks).map(drop)
    });
    let media_type = match output {
        Output::Json => "application/json",
        Output::Zone | Output::Table => "text/plain; charset=utf-8",
    };
    Ok(typed(media_type, Body::new(body)))
}

async fn explain(State(state): State<Arc<AdminState>>, RawQuery(query): RawQuery) -> Result<Response, RouteError> {
    let params = ExplainParams::parse(&query.unwrap_or_default()).map_err(RouteError::Query)?;
    require_synced(&state)?;
    let report = search(state, move |state| state.explain(&params)).await?;
    let report = report.map_err(|error| RouteError::Internal(format!("{error:#}")))?;
    Ok(json(&report.json()))
}

async fn status_page(State(state): State<Arc<AdminState>>, RawQuery(query): RawQuery) -> Result<Response, RouteError> {
    let params = PageParams::parse(&query.unwrap_or_default()).map_err(RouteError::Query)?;
    let page = search(state, move |state| page::render(state, &params, Instant::now())).await?;
    let policy = [(header::CONTENT_SECURITY_POLICY, page.policy)];
    Ok((policy, typed("text/html; charset=utf-8", page.text)).into_response())
}

fn require_synced(state: &AdminState) -> Result<(), RouteError> {
    let status = &state.context.status;
    if status.data_state().may_deny() {
        return Ok(());
    }
    let waiting = status.waiting_for().join("; ");
    Err(RouteError::NotSynced(if waiting.is_empty() { "see /readyz?verbose".into() } else { waiting }))
}

/// Runs a search of the cluster on a thread of its own. Few run at a time.
async fn search<T: Send + 'static>(
    state: Arc<AdminState>,
    work: impl FnOnce(&AdminState) -> T + Send + 'static,
) -> Result<T, RouteError> {
    let permit = acquire(&state.searches)?;
    let search = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work(&state)
    });
    search.await.map_err(|_| RouteError::Internal("the search panicked: the log has the place".into()))
}

fn acquire(permits: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, RouteError> {
    Arc::clone(permits).try_acquire_owned().map_err(|_| RouteError::Busy)
}

fn json(text: &str) -> Response {
    typed("application/json", escape::json(text).into_owned())
}

fn plain(status: StatusCode, text: &str) -> Response {
    (status, typed("text/plain; charset=utf-8", escape::lines(text).into_owned())).into_response()
}

fn typed(media_type: &'static str, body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, media_type)], body.into()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_every_host_of_a_request() {
        let check = |hosts: &[&'static str], target: Option<&'static str>| {
            let fields = hosts.iter().map(|host| (header::HOST, HeaderValue::from_static(host)));
            let mut headers = HeaderMap::new();
            fields.for_each(|(name, value)| _ = headers.append(name, value));
            check_hosts(&headers, target.map(Authority::from_static).as_ref()).is_ok()
        };
        assert!(check(&["localhost"], None) && check(&["localhost"], Some("127.0.0.1:9153")));
        assert!(!check(&[], None) && !check(&["evil.test"], None) && !check(&["localhost"], Some("evil.test")));
        assert!(!check(&["127.0.0.1", "evil.test"], None), "two Host fields");
    }

    #[test]
    fn accepts_safe_hosts_only() {
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
}
