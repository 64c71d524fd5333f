//! Requests to the API server: the client, and one resource's lists and watches as octets.
//!
//! The client is put together from kube's parts without its retry layer, which sleeps for minutes after the API server
//! is back (K2), and without its trace layer, which logs every failure. Responses are read here and not by
//! `kube::Api`: it fails a whole list for one object, drops `Retry-After`, and logs bodies. Not here: when to ask
//! (`machine.rs`), and what the octets say (`watched.rs`).

use std::env;
use std::error::Error;
use std::io::{self, BufRead as _, ErrorKind};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::{Request, Response, StatusCode, header::RETRY_AFTER};
use http_body_util::{BodyExt as _, Collected, Limited};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request as Collection;
use kube::core::params::{ListParams, WatchParams};
use kube::{Client, Config};
use tower::BoxError;
use tower::util::MapErr;

use super::Scope;
use super::contact::{Contact, Pace};
use super::machine::Failure;
use super::watched::{RawStatus, path_of};
use crate::cluster::Resource;
use crate::objects::ObjectRef;
use crate::regular_file::{self, FileError};

/// Makes a client with connections of its own. It reads the kubeconfig, certificates and tokens anew.
pub type Connect = Arc<dyn Fn() -> Connecting + Send + Sync>;
/// A client that is being made.
pub type Connecting = Pin<Box<dyn Future<Output = anyhow::Result<Client>> + Send>>;

/// A cluster that can be asked.
#[derive(Clone)]
pub struct Access {
    /// Makes its clients.
    pub connect: Connect,
    /// The URL of the API server.
    pub server: String,
    /// Whether this process runs in the cluster, by its service account.
    pub in_cluster: bool,
}

/// Finds the cluster by kubectl's rules: the kubeconfig that is named, else the one of `KUBECONFIG` or
/// `~/.kube/config`, else the service account of the Pod. A `context` takes a kubeconfig.
///
/// # Errors
///
/// A sentence that names the file, or both places where nothing was found.
pub async fn find(kubeconfig: Option<&Path>, context: Option<&str>) -> anyhow::Result<Access> {
    let options = KubeConfigOptions { context: context.map(ToOwned::to_owned), ..KubeConfigOptions::default() };
    let (place, config) = match (kubeconfig, context) {
        (Some(path), _) => {
            let place = Place::File(path.to_owned());
            let config = match read_piped(path)? {
                Some(kubeconfig) => configure(kubeconfig, path, &options).await?,
                None => place.read(&options).await?,
            };
            (place, config)
        }
        (None, Some(context)) => {
            let config = Place::Default.read(&options).await;
            (Place::Default, config.with_context(|| format!("cannot use the kubeconfig's context {context}"))?)
        }
        (None, None) => match Place::Default.read(&options).await {
            Ok(config) => (Place::Default, config),
            Err(no_file) => match Place::ServiceAccount.read(&options).await {
                Ok(config) => (Place::ServiceAccount, config),
                Err(no_account) => bail!(
                    "no cluster to watch: {}, and outside a Pod: {}; name files with --manifests, a cluster with \
                     --kubeconfig, or try --demo",
                    sentence(no_file.as_ref()),
                    sentence(no_account.as_ref())
                ),
            },
        },
    };
    if config.proxy_url.is_some() {
        bail!("the kubeconfig asks for a proxy, which this version cannot use");
    }
    let server = config.cluster_url.to_string();
    if config.accept_invalid_certs {
        // kube logs this for every connection; `log.rs` silences it.
        tracing::warn!("the certificate of {server} is not verified: the kubeconfig says insecure-skip-tls-verify");
    }
    // What cannot work is said now, and not from every watch.
    client(&config).with_context(|| format!("cannot make a client for {server}"))?;
    let in_cluster = matches!(place, Place::ServiceAccount);
    let known = Arc::new(Known { place, options, last: Mutex::new(config) });
    let connect = move || -> Connecting {
        let known = Arc::clone(&known);
        Box::pin(async move { client(&known.read_again().await) })
    };
    Ok(Access { connect: Arc::new(connect), server, in_cluster })
}

/// Where the configuration of a cluster stands.
enum Place {
    /// In this kubeconfig.
    File(PathBuf),
    /// In the kubeconfigs that kubectl reads.
    Default,
    /// Where a Pod has its service account.
    ServiceAccount,
}

impl Place {
    async fn read(&self, options: &KubeConfigOptions) -> anyhow::Result<Config> {
        match self {
            Self::File(path) => {
                let cannot_read = || format!("cannot read the kubeconfig {}", path.display());
                regular_file::check(path, MAX_CREDENTIAL).with_context(cannot_read)?;
                let kubeconfig = Kubeconfig::read_from(path).with_context(cannot_read)?;
                configure(kubeconfig, path, options).await
            }
            Self::Default => {
                for path in default_kubeconfigs() {
                    check_if_there(&path, "kubeconfig")?;
                }
                let kubeconfig = Kubeconfig::read()?;
                check_named_files(&kubeconfig, options)?;
                Ok(Config::from_custom_kubeconfig(kubeconfig, options).await?)
            }
            Self::ServiceAccount => {
                for name in ["token", "ca.crt", "namespace"] {
                    check_if_there(&Path::new(SERVICE_ACCOUNT).join(name), "service account's file")?;
                }
                Ok(Config::incluster()?)
            }
        }
    }
}

/// The largest kubeconfig, and the largest certificate, key or token that one names, in octets.
const MAX_CREDENTIAL: u64 = 16 << 20;
/// Where kubelet mounts a Pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Reads a kubeconfig from a pipe, as a shell's `<(...)` is one. It can be read once: later `Known` keeps the configuration.
fn read_piped(path: &Path) -> anyhow::Result<Option<Kubeconfig>> {
    if !std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
        return Ok(None);
    }
    let cannot_read = || format!("cannot read the kubeconfig {}", path.display());
    let text = regular_file::read_pipe(path, MAX_CREDENTIAL).with_context(cannot_read)?;
    let text = std::str::from_utf8(&text).with_context(cannot_read)?;
    Ok(Some(Kubeconfig::from_yaml(text).with_context(cannot_read)?))
}

async fn configure(kubeconfig: Kubeconfig, path: &Path, options: &KubeConfigOptions) -> anyhow::Result<Config> {
    let cannot_use = || format!("cannot use the kubeconfig {}", path.display());
    check_named_files(&kubeconfig, options).with_context(cannot_use)?;
    Config::from_custom_kubeconfig(kubeconfig, options).await.with_context(cannot_use)
}

/// Returns the kubeconfigs that kubectl reads where none is named.
fn default_kubeconfigs() -> Vec<PathBuf> {
    match env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
        Some(list) => env::split_paths(&list).collect(),
        None => env::home_dir().map(|home| home.join(".kube/config")).into_iter().collect(),
    }
}

/// Checks the files that the kubeconfig's context in use names: kube opens them, and again while it runs.
fn check_named_files(kubeconfig: &Kubeconfig, options: &KubeConfigOptions) -> anyhow::Result<()> {
    let name = options.context.as_ref().or(kubeconfig.current_context.as_ref());
    let context = kubeconfig.contexts.iter().find(|context| Some(&context.name) == name);
    let Some(context) = context.and_then(|context| context.context.as_ref()) else { return Ok(()) };
    let cluster = kubeconfig.clusters.iter().find(|named| named.name == context.cluster);
    let user = kubeconfig.auth_infos.iter().find(|named| Some(&named.name) == context.user.as_ref());
    let authority = cluster.and_then(|named| named.cluster.as_ref()?.certificate_authority.as_ref());
    let user = user.and_then(|named| named.auth_info.as_ref());
    for (path, what) in [
        (authority, "certificate authority"),
        (user.and_then(|user| user.client_certificate.as_ref()), "client certificate"),
        (user.and_then(|user| user.client_key.as_ref()), "client key"),
        (user.and_then(|user| user.token_file.as_ref()), "token"),
    ] {
        path.map_or(Ok(()), |path| check_if_there(Path::new(path), what))?;
    }
    Ok(())
}

/// Checks a file that kube opens by itself. A missing one is left to kube, which has the better error.
fn check_if_there(path: &Path, what: &str) -> anyhow::Result<()> {
    match regular_file::check(path, MAX_CREDENTIAL) {
        Err(FileError::Io(_)) => Ok(()),
        checked => checked.with_context(|| format!("cannot read the {what} {}", path.display())),
    }
}

/// A configuration that may change while it is used: certificates, tokens and addresses are rotated (K16).
struct Known {
    place: Place,
    options: KubeConfigOptions,
    last: Mutex<Config>,
}

impl Known {
    /// What it says now; what it said before where it cannot be read: it is just being written, or was a pipe.
    async fn read_again(&self) -> Config {
        let read = self.place.read(&self.options).await;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(config) = read {
            *last = config;
        }
        last.clone()
    }
}

/// A slice of 100 endpoints is 30 kB: an event that is read in pieces takes a turn of two tasks for each.
const READ_AT_ONCE: usize = 64 << 10;

fn client(config: &Config) -> anyhow::Result<Client> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(Duration::from_secs(10)));
    // K18: a peer that acknowledges nothing is dead after 20 s, whether this side sends or is idle: without the user
    // time-out, a request that is never acknowledged is sent again for 15 minutes.
    tcp.set_keepalive(Some(Duration::from_secs(10)));
    tcp.set_keepalive_interval(Some(Duration::from_secs(5)));
    tcp.set_keepalive_retries(Some(2));
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    tcp.set_tcp_user_timeout(Some(Duration::from_secs(20)));
    let connector = config.rustls_https_connector_with_connector(tcp)?;
    let http: hyper_util::client::legacy::Client<_, Body> =
        hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .http1_read_buf_exact_size(READ_AT_ONCE)
            .build(connector);
    // The layer of tokens wants one type of error, whatever is below.
    let http = MapErr::new(http, BoxError::from);
    let builder = ClientBuilder::new(http, config.default_namespace.clone()).with_layer(&config.extra_headers_layer()?);
    let base = config.base_uri_layer();
    Ok(match config.auth_layer()? {
        Some(auth) => builder.with_layer(&auth).with_layer(&base).build(),
        None => builder.with_layer(&base).build(),
    })
}

/// One resource of one cluster, over one client.
#[derive(Clone)]
pub(super) struct Api {
    client: Client,
    collection: Collection,
    /// Which labels its objects have; `None` for any.
    labels: Option<Box<str>>,
    pace: Arc<Pace>,
    contact: Arc<Contact>,
}

impl Api {
    /// Requests take their turn from `pace`, and octets that come are noted in `contact`.
    pub(super) fn new(
        client: Client,
        resource: Resource,
        scope: &Scope,
        pace: &Arc<Pace>,
        contact: &Arc<Contact>,
    ) -> Self {
        let collection = Collection::new(path_of(resource, scope.namespace.as_deref()));
        let labels = scope.selector.clone().filter(|_| resource == Resource::Services);
        Self { client, collection, labels, pace: Arc::clone(pace), contact: Arc::clone(contact) }
    }

    /// One page of a list: its octets.
    pub(super) async fn page(&self, limit: u32, more: Option<&str>) -> Result<Vec<u8>, Failure> {
        self.pace.turn().await;
        self.next_page(limit, more).await
    }

    /// The same without a turn: for the page behind a full one, or a large cluster takes minutes to list.
    pub(super) async fn next_page(&self, limit: u32, more: Option<&str>) -> Result<Vec<u8>, Failure> {
        let params = ListParams { limit: Some(limit), continue_token: more.map(Into::into), ..ListParams::default() };
        self.list(&params).await
    }

    /// The page of a list that has one object, or none.
    pub(super) async fn one(&self, key: &ObjectRef, namespaced: bool) -> Result<Vec<u8>, Failure> {
        let ObjectRef { namespace, name } = key;
        let selector = match namespaced {
            true => format!("metadata.name={name},metadata.namespace={namespace}"),
            false => format!("metadata.name={name}"),
        };
        self.pace.turn().await;
        self.list(&ListParams::default().fields(&selector)).await
    }

    async fn list(&self, params: &ListParams) -> Result<Vec<u8>, Failure> {
        let params = ListParams { label_selector: self.labels.as_deref().map(Into::into), ..params.clone() };
        let request = self.collection.list(&params).map_err(|error| Failure::Other(sentence(&error)))?;
        let body = self.send(request, "list").await?;
        let page = body.collect().await.map_err(|error| cut(&error))?;
        self.contact.hear();
        Ok(page.to_bytes().into())
    }

    /// A watch from a version on.
    pub(super) async fn watch(&self, version: &str, timeout: Duration) -> Result<Lines, Failure> {
        self.events(&WatchParams::default().timeout(whole_seconds(timeout)), version).await
    }

    /// A watch that begins with everything there is, and a bookmark behind it.
    pub(super) async fn stream(&self, timeout: Duration) -> Result<Lines, Failure> {
        let params = WatchParams::default().timeout(whole_seconds(timeout)).initial_events();
        // Without a version: the present state, and not what a cache remembers.
        self.events(&params, "").await
    }

    async fn events(&self, params: &WatchParams, version: &str) -> Result<Lines, Failure> {
        let params = WatchParams { label_selector: self.labels.as_deref().map(Into::into), ..params.clone() };
        let request = self.collection.watch(&params, version).map_err(|error| Failure::Other(sentence(&error)))?;
        self.pace.turn().await;
        let body = self.send(request, "watch").await?;
        Ok(Lines { body, contact: Arc::clone(&self.contact), piece: Vec::new(), read: 0, line: Vec::new() })
    }

    async fn send(&self, request: Request<Vec<u8>>, verb: &'static str) -> Result<Body, Failure> {
        let response = self.client.send(request.map(Body::from)).await;
        let response = response.map_err(|error| Failure::Unreachable(of_service(error)))?;
        if !response.status().is_success() {
            return Err(failure(response, verb).await);
        }
        self.contact.hear();
        Ok(response.into_body())
    }
}

/// kube takes whole seconds below 295.
fn whole_seconds(timeout: Duration) -> u32 {
    timeout.as_secs().clamp(1, 290) as u32
}

/// Lines as they come.
pub(super) struct Lines {
    body: Body,
    contact: Arc<Contact>,
    /// What came last, and how much of it was read.
    piece: Vec<u8>,
    read: usize,
    /// The beginning of a line.
    line: Vec<u8>,
}

impl Lines {
    /// The next line, without its end; `None` at the end of the response. Nothing is lost if it is not awaited to its
    /// end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        /// No object of a cluster is half as large.
        const LONGEST: usize = 16 << 20;
        loop {
            // A slice cannot fail to be read.
            self.read += (&self.piece[self.read..]).read_until(b'\n', &mut self.line).unwrap_or(0);
            if self.line.last() == Some(&b'\n') {
                self.line.pop();
                // The next line is mostly as long.
                let next = Vec::with_capacity(self.line.len() + 1);
                return Ok(Some(std::mem::replace(&mut self.line, next)));
            }
            if self.line.len() > LONGEST {
                return Err(Failure::Other("an event has no end".into()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    self.contact.hear();
                    if let Ok(octets) = frame.into_data() {
                        (self.piece, self.read) = (octets.into(), 0);
                    }
                }
                Some(Err(error)) => return Err(cut(&error)),
                None if self.line.is_empty() => return Ok(None),
                None => return Err(Failure::Other("the response ends within an event".into())),
            }
        }
    }
}

/// Returns the failure of a connection that ended within a response.
fn cut(error: &(dyn Error + 'static)) -> Failure {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::TimedOut) {
            return Failure::Late("the peer of the connection acknowledges nothing".into());
        }
        cause = error.source();
    }
    Failure::Cut(format!("the connection was cut: {}", sentence(error)))
}

/// What a response that is no success means.
async fn failure(response: Response<Body>, verb: &'static str) -> Failure {
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    // A status from an API server is some hundred octets; a page of a proxy may be of any size.
    let body = Limited::new(response.into_body(), 64 << 10);
    let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
    let message = serde_json::from_slice::<RawStatus>(&body).unwrap_or_default().message;
    failure_of(status, &message, retry_after.map(Duration::from_secs), verb)
}

/// What an HTTP status means, of a response or inside a watch.
pub(super) fn failure_of(
    status: StatusCode,
    message: &str,
    retry_after: Option<Duration>,
    verb: &'static str,
) -> Failure {
    let text = match brief(message) {
        "" => status.to_string(),
        message => format!("{status}: {message}"),
    };
    match (status, retry_after) {
        (StatusCode::GONE, _) => Failure::Gone(text),
        (StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT, _) | (StatusCode::SERVICE_UNAVAILABLE, None) => {
            Failure::Gateway(status.as_u16(), text)
        }
        (StatusCode::UNAUTHORIZED, _) => Failure::Unauthorized(text),
        (StatusCode::FORBIDDEN, _) => Failure::Denied(verb),
        (StatusCode::NOT_FOUND, _) => Failure::Unknown,
        (StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED | StatusCode::UNPROCESSABLE_ENTITY, _) => {
            Failure::Refused(text)
        }
        (_, Some(wait)) => Failure::Busy(wait, text),
        (StatusCode::TOO_MANY_REQUESTS, None) => Failure::Busy(Duration::ZERO, text),
        _ => Failure::Other(text),
    }
}

/// Cuts a message of the API server to what an operator needs of it: it may quote the URL of the request.
fn brief(message: &str) -> &str {
    /// Octets of a message that are shown.
    const MAX_MESSAGE_BYTES: usize = 120;
    let line = message.lines().next().unwrap_or_default();
    let end = (0..=line.len().min(MAX_MESSAGE_BYTES)).rev().find(|end| line.is_char_boundary(*end));
    &line[..end.unwrap_or_default()]
}

/// kube wraps what is below it in a word of its own.
fn of_service(error: kube::Error) -> String {
    match error {
        kube::Error::Service(error) => sentence(&*error),
        error => sentence(&error),
    }
}

/// Returns an error with its causes, without those that only repeat, and without links to documentation.
fn sentence(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let said = error.to_string();
        let said = said.split_once(": http").map_or(said.as_str(), |(said, _)| said);
        if text.is_empty() {
            said.clone_into(&mut text);
        } else if !text.contains(said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_left_out_of_errors() {
        let error = io::Error::other("peer closed connection: https://docs.rs/rustls#unexpected-eof");
        assert_eq!(sentence(&error), "peer closed connection");
        assert_eq!(brief(&"\u{e4}".repeat(100)), "\u{e4}".repeat(60));
        assert_eq!(brief("one\ntwo"), "one");
    }
}
