//! Who looks at the server over HTTP: probes, and people.
//!
//! ```text
//!   listen.rs ──▶ route.rs ──▶ health.rs
//!   (limits)      (decides)
//! ```
//!
//! One small HTTP/1.1 server, without TLS. `/livez` and `/readyz` are for everyone; what shows the names of the cluster
//! is given on a loopback address, or where `--admin-api` says so, and never to a page of another site. Nothing here
//! can change the server. Not here: what is counted (`metrics`), and why a name does not resolve (`explain`).

mod body;
mod health;
mod listen;
mod route;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::task::JoinSet;

use crate::metrics::{Format, Metrics, ZoneFigures};
use crate::status::Status;
use crate::zone::Zone;

use body::Body;
use health::Health;
use listen::Bound;
use route::{Head, Offer, Refusal, Route};

pub use listen::Limits;

/// What is looked at.
pub struct View {
    /// What is answered.
    pub zone: Arc<Zone>,
    /// Whether the data can be trusted, and what is waited for.
    pub status: Arc<Status>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// The addresses, bound; nobody is served yet.
#[derive(Debug)]
pub struct Listeners(Vec<Bound>);

impl Listeners {
    /// Binds `address`, where health is shown, and on loopback everything; and `everything`, where all is.
    ///
    /// # Errors
    ///
    /// One sentence that names the option and the address, and says what to do.
    pub fn bind(address: Option<SocketAddr>, everything: Option<SocketAddr>) -> anyhow::Result<Self> {
        let mut bound = Vec::new();
        if let Some(address) = address {
            let offer = Offer { everything: address.ip().is_loopback() || everything == Some(address) };
            bound.push(listen::bind("admin", address, offer)?);
        }
        if let Some(everything) = everything.filter(|everything| address != Some(*everything)) {
            bound.push(listen::bind("admin-api", everything, Offer { everything: true })?);
        }
        Ok(Self(bound))
    }

    /// Where, with the ports that the kernel chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|bound| bound.address).collect()
    }

    /// Answers until it is dropped. Where there is no address it waits for ever.
    ///
    /// # Errors
    ///
    /// If a socket cannot be used.
    pub async fn serve(self, view: View, limits: Limits) -> anyhow::Result<()> {
        let view = Arc::new(view);
        let mut tasks = JoinSet::new();
        for bound in self.0 {
            let view = Arc::clone(&view);
            let answer = move |request, offer| answer(Arc::clone(&view), request, offer);
            tasks.spawn(listen::serve(bound, limits, answer));
        }
        match tasks.join_next().await {
            Some(ended) => ended?,
            None => std::future::pending().await,
        }
    }
}

/// The response to `request` at an address with this offer.
async fn answer(view: Arc<View>, request: Request<Incoming>, offer: Offer) -> Response<Body> {
    let hosts: Vec<&str> = hosts(&request).collect();
    let head = Head {
        method: request.method().as_str(),
        path: request.uri().path(),
        query: request.uri().query().unwrap_or_default(),
        hosts: &hosts,
        foreign: is_foreign(&request),
    };
    let mut response = match route::route(&head, offer) {
        Ok(Route::Live) => of_health(health::live()),
        Ok(Route::Ready { verbose }) => of_health(health::ready(&view.status, verbose, Instant::now())),
        Ok(Route::Metrics) => of_metrics(&view, request.headers().get(header::ACCEPT)),
        Err(refusal) => refused(&refusal, offer),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
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

/// Every host that a request names; one that cannot be read is a strange one.
fn hosts(request: &Request<Incoming>) -> impl Iterator<Item = &str> {
    let fields = request.headers().get_all(header::HOST).iter();
    let target = request.uri().authority().map(|authority| authority.as_str());
    fields.map(|field| field.to_str().unwrap_or("?")).chain(target)
}

/// Whether a browser says that a page of another site asks, and not a person who goes there.
fn is_foreign(request: &Request<Incoming>) -> bool {
    let says = |name: &str, word: &str| request.headers().get(name).is_some_and(|value| value == word);
    says("sec-fetch-site", "cross-site") && !says("sec-fetch-mode", "navigate")
}

fn of_health(Health { good, text }: Health) -> Response<Body> {
    plain(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text)
}

fn of_metrics(view: &View, accept: Option<&HeaderValue>) -> Response<Body> {
    let format = Format::accepted(accept.and_then(|accept| accept.to_str().ok()));
    let (services, reverse_addresses) = view.zone.size();
    let figures =
        ZoneFigures { services, endpoints: view.zone.endpoints(), reverse_addresses, serial: view.zone.serial() };
    typed(StatusCode::OK, format.content_type(), view.metrics.render(&view.status, figures, format))
}

fn refused(refusal: &Refusal, offer: Offer) -> Response<Body> {
    match refusal {
        Refusal::Method => {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
        Refusal::Path => plain(StatusCode::NOT_FOUND, format!("no such path; there are\n{}", route::paths(offer))),
        Refusal::NotHere => plain(
            StatusCode::FORBIDDEN,
            "this shows names of the cluster, and is to be had on a loopback address, or where --admin-api says so\n",
        ),
        Refusal::Foreign(why) => plain(
            StatusCode::FORBIDDEN,
            format!("{why}: ask by an IP address or as localhost, so that no page of another site can read this\n"),
        ),
        Refusal::Query(sentence) => plain(StatusCode::BAD_REQUEST, format!("{sentence}\n")),
    }
}

fn plain(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    typed(code, "text/plain; charset=utf-8", text.into())
}

fn typed(code: StatusCode, media_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::whole(text));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
