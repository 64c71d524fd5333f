//! HTTP for probes, Prometheus, programs and people.
//!
//! ```text
//!   listen.rs ──▶ route.rs ──┬─▶ health.rs   /livez, /readyz
//!   (limits)      (routes)   ├─▶ metrics     /metrics
//!                            ├─▶ api.rs      /api/v1, rendered by `report`
//!                            └─▶ page.rs     /
//! ```
//!
//! A small HTTP/1.1 server without TLS. Every client may request `/livez`, `/readyz` and `/metrics`. Responses with
//! names of the cluster are limited to loopback addresses and to the address of `--admin-api`, and are never readable by
//! a page of another site. No request changes the server. Not here: the counters (`metrics`), and the explanations
//! (`explain`). Read next: `route.rs`.

mod api;
mod body;
mod clock;
mod health;
mod listen;
mod page;
mod route;
mod shown;

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::task::JoinSet;

use crate::config::Output;
use crate::metrics::{ExpositionFormat, ZoneFigures};
use crate::report::records;
use headless_dns_core::escape;
use headless_dns_core::name::WireName;

use body::Body;
use health::HealthReport;
use listen::BoundAdminSocket;
use route::{ExplainParams, Exposure, PageParams, RequestHead, Route, RouteError};
use shown::AdminState;

pub use clock::AdminLimits;
pub use shown::{AdminContext, CertificateInUse, ListenAddresses, ServerInfo};

/// The bound sockets of the admin listener, which accept no connection yet.
#[derive(Debug)]
pub struct AdminListeners(Vec<BoundAdminSocket>);

impl AdminListeners {
    /// Binds `address`, for health and metrics (and for all paths if it is a loopback address), and `everything`, for
    /// all paths.
    ///
    /// # Errors
    ///
    /// An address that cannot be bound, with the option, the address and the action to take.
    pub fn bind(address: Option<SocketAddr>, everything: Option<SocketAddr>) -> anyhow::Result<Self> {
        let mut bound = Vec::new();
        if let Some(address) = address {
            let offer = Exposure { full: address.ip().is_loopback() || everything == Some(address) };
            bound.push(listen::bind("admin", address, offer)?);
        }
        if let Some(everything) = everything.filter(|everything| address != Some(*everything)) {
            bound.push(listen::bind("admin-api", everything, Exposure { full: true })?);
        }
        Ok(Self(bound))
    }

    /// Returns the addresses, with the ports that the kernel chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|bound| bound.address).collect()
    }

    /// Serves requests until the future is dropped. Without an address it waits for ever.
    ///
    /// # Errors
    ///
    /// If a socket cannot be used.
    pub async fn serve(self, view: AdminContext, limits: AdminLimits) -> anyhow::Result<()> {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let shown = Arc::new(AdminState::new(view));
        let mut tasks = JoinSet::new();
        for bound in self.0 {
            let shown = Arc::clone(&shown);
            let answer = move |request, offer| answer(Arc::clone(&shown), request, offer);
            tasks.spawn(listen::serve(bound, limits, answer));
        }
        tokio::select! {
            Some(ended) = tasks.join_next() => ended?,
            () = shown.count() => Ok(()),
        }
    }
}

/// Answers one request to a listener with this exposure.
async fn answer(shown: Arc<AdminState>, request: Request<Incoming>, offer: Exposure) -> Response<Body> {
    let hosts: Vec<&str> = hosts(&request).collect();
    let head = RequestHead {
        method: request.method().as_str(),
        path: request.uri().path(),
        query: request.uri().query().unwrap_or_default(),
        hosts: &hosts,
        foreign: is_cross_site(&request),
    };
    let mut response = match route::route(&head, offer) {
        Ok(Route::Live) => health_response(health::live(&shown.context.liveness.stalled(Instant::now()))),
        Ok(Route::Ready { verbose }) => health_response(health::ready(&shown.context.status, verbose, Instant::now())),
        Ok(Route::Metrics) => metrics_response(&shown.context, request.headers().get(header::ACCEPT)),
        Ok(Route::Status) => json_response(&format!("{}\n", api::status(&shown, Instant::now()))),
        Ok(Route::Records { origin, output }) => records_response(&shown, origin, output),
        Ok(Route::Explain(question)) => explain_response(shown, question).await,
        Ok(Route::Page(wish)) => page_response(shown, wish).await,
        Err(refusal) => error_response(&refusal, offer),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if request.method() == Method::HEAD {
        let length = hyper::body::Body::size_hint(response.body()).exact();
        if let Some(length) = length {
            response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        }
        *response.body_mut() = Body::whole("");
    }
    response
}

/// Returns each host that a request names; `?` for one that is not text.
fn hosts(request: &Request<Incoming>) -> impl Iterator<Item = &str> {
    let fields = request.headers().get_all(header::HOST).iter();
    let target = request.uri().authority().map(http::uri::Authority::as_str);
    fields.map(|field| field.to_str().unwrap_or("?")).chain(target)
}

/// Returns whether, by the browser's Fetch Metadata, a page of another site sends the request without a navigation.
fn is_cross_site(request: &Request<Incoming>) -> bool {
    let says = |name: &str, word: &str| request.headers().get(name).is_some_and(|value| value == word);
    says("sec-fetch-site", "cross-site") && !says("sec-fetch-mode", "navigate")
}

fn health_response(HealthReport { good, text }: HealthReport) -> Response<Body> {
    plain(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text)
}

fn metrics_response(view: &AdminContext, accept: Option<&HeaderValue>) -> Response<Body> {
    let format = ExpositionFormat::accepted(accept.and_then(|accept| accept.to_str().ok()));
    let (services, reverse_addresses) = view.zone.size();
    let figures =
        ZoneFigures { services, endpoints: view.zone.endpoints(), reverse_addresses, serial: view.zone.serial() };
    typed(StatusCode::OK, format.content_type(), view.metrics.render(&view.status, figures, format))
}

/// Returns a response that refuses incomplete data; `None` once all objects were read. A missing record would be
/// explained wrongly before.
fn not_synced(shown: &AdminState) -> Option<Response<Body>> {
    let status = &shown.context.status;
    (!status.data_state().may_deny()).then(|| {
        let waiting = status.waiting_for().join("; ");
        let waiting = if waiting.is_empty() { "see /readyz?verbose".into() } else { waiting };
        retry_later(format!("not everything was read yet: {waiting}\n"))
    })
}

fn retry_later(text: impl Into<String>) -> Response<Body> {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, text);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn busy() -> Response<Body> {
    retry_later("others look at much just now: ask again\n")
}

fn json_response(text: &str) -> Response<Body> {
    typed(StatusCode::OK, "application/json", escape::json(text).into_owned())
}

fn records_response(shown: &AdminState, origin: Option<WireName>, output: Output) -> Response<Body> {
    if let Some(response) = not_synced(shown) {
        return response;
    }
    let zone = Arc::clone(&shown.context.zone);
    let origin = origin.unwrap_or_else(|| zone.settings().apexes[0].clone());
    if !zone.origins().contains(&origin) {
        return plain(StatusCode::NOT_FOUND, records::not_served(&zone, &origin) + "\n");
    }
    let Some(room) = shown.zones.take() else { return busy() };
    let body = Body::in_parts(move |parts| {
        let mut sender = api::ChunkSender::new(parts);
        // The write fails if the client has closed the connection.
        let _ = records::write(&zone, &origin, output, &mut sender).and_then(|_| sender.flush());
        drop(room);
    });
    let media_type = match output {
        Output::Json => "application/json",
        Output::Zone | Output::Table => "text/plain; charset=utf-8",
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

async fn explain_response(shown: Arc<AdminState>, question: ExplainParams) -> Response<Body> {
    if let Some(response) = not_synced(&shown) {
        return response;
    }
    let Some(room) = shown.searches.take() else { return busy() };
    let explained = run_blocking(move || {
        let explained = shown.explain(&question);
        drop(room);
        explained
    });
    match explained.await {
        Some(Ok(explained)) => json_response(&explained.json()),
        Some(Err(error)) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")),
        None => plain(StatusCode::INTERNAL_SERVER_ERROR, "explaining panicked\n"),
    }
}

async fn page_response(shown: Arc<AdminState>, wish: PageParams) -> Response<Body> {
    let Some(room) = shown.searches.take() else { return busy() };
    let page = run_blocking(move || {
        let page = page::render(&shown, &wish, Instant::now());
        drop(room);
        page
    });
    let Some(page::RenderedPage { text, policy }) = page.await else {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "making the page panicked\n");
    };
    let mut response = typed(StatusCode::OK, "text/html; charset=utf-8", text);
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// Runs a long computation on a thread of its own; `None` if it panics.
async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn error_response(refusal: &RouteError, offer: Exposure) -> Response<Body> {
    match refusal {
        RouteError::Method => {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
        RouteError::Path => plain(StatusCode::NOT_FOUND, format!("no such path; there are\n{}", route::paths(offer))),
        RouteError::NotExposed => plain(
            StatusCode::FORBIDDEN,
            "this shows names of the cluster, and is to be had on a loopback address, or where --admin-api says so\n",
        ),
        RouteError::CrossSite(why) => plain(
            StatusCode::FORBIDDEN,
            format!("{why}: ask by an IP address or as localhost, so that no page of another site can read this\n"),
        ),
        RouteError::Query(sentence) => plain(StatusCode::BAD_REQUEST, format!("{sentence}\n")),
    }
}

fn plain(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    typed(code, "text/plain; charset=utf-8", escape::lines(&text.into()).into_owned())
}

fn typed(code: StatusCode, media_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::whole(text));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
