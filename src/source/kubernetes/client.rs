//! Requests to the API server: the client, and the lists and watches of one resource as octets.
//!
//! The client is built from kube's parts without its retry layer, which sleeps for minutes after the API server is back
//! (K2 of `tests/rows.md`), and without its trace layer, which logs every failure. Responses are not read by `kube::Api`:
//! it fails a whole list for one object, drops `Retry-After`, and logs bodies. Not here: the time of a request
//! (`state.rs`), and the decoding of responses (`decode.rs`).

use std::env;
use std::error::Error;
use std::io::{self, BufRead as _, ErrorKind};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
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
use super::decode::{RawStatus, path_of};
use super::state::WatchFailure;
use crate::regular_file::{self, FileError};
use headless_dns_core::cluster::Resource;
use headless_dns_core::lock::lock;
use headless_dns_core::object::ObjectRef;

/// A function that makes a client with its own connections. It reads the kubeconfig, certificates and tokens again.
pub type Connect = Arc<dyn Fn() -> Connecting + Send + Sync>;
/// The future of a client.
pub type Connecting = Pin<Box<dyn Future<Output = anyhow::Result<Client>> + Send>>;

/// Access to a cluster.
#[derive(Clone)]
pub struct ClusterAccess {
    /// Connector that makes clients of the API server.
    pub connect: Connect,
    /// URL of the API server.
    pub server: String,
    /// This process runs in the cluster and uses its service account.
    pub in_cluster: bool,
}

/// Finds the cluster by kubectl's rules: the given kubeconfig, else `KUBECONFIG` or `~/.kube/config`, else the service
/// account of the Pod. With a `context` only kubeconfigs are considered.
///
/// # Errors
///
/// An unusable configuration, with the name of the file, or with both places where none was found.
pub async fn find(kubeconfig: Option<&Path>, context: Option<&str>) -> anyhow::Result<ClusterAccess> {
    let options = KubeConfigOptions { context: context.map(ToOwned::to_owned), ..KubeConfigOptions::default() };
    let (place, config) = match (kubeconfig, context) {
        (Some(path), _) => {
            let place = KubeconfigPlace::File(path.to_owned());
            let config = match read_piped(path)? {
                Some(kubeconfig) => configure(kubeconfig, path, &options).await?,
                None => place.read(&options).await?,
            };
            (place, config)
        }
        (None, Some(context)) => {
            let config = KubeconfigPlace::Default.read(&options).await;
            (
                KubeconfigPlace::Default,
                config.with_context(|| format!("cannot use the kubeconfig's context {context}"))?,
            )
        }
        (None, None) => match KubeconfigPlace::Default.read(&options).await {
            Ok(config) => (KubeconfigPlace::Default, config),
            Err(no_file) => match KubeconfigPlace::ServiceAccount.read(&options).await {
                Ok(config) => (KubeconfigPlace::ServiceAccount, config),
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
    // Fail at startup, and not in each watch.
    client(&config).with_context(|| format!("cannot make a client for {server}"))?;
    let in_cluster = matches!(place, KubeconfigPlace::ServiceAccount);
    let known = Arc::new(ReloadingConfig { place, options, last: Mutex::new(config) });
    let connect = move || -> Connecting {
        let known = Arc::clone(&known);
        Box::pin(async move { client(&known.read_again().await) })
    };
    Ok(ClusterAccess { connect: Arc::new(connect), server, in_cluster })
}

/// The place of a cluster's configuration.
enum KubeconfigPlace {
    /// The kubeconfig at this path.
    File(PathBuf),
    /// The kubeconfigs that kubectl reads by default.
    Default,
    /// The service account of the Pod.
    ServiceAccount,
}

impl KubeconfigPlace {
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

/// Size limit of a kubeconfig, and of a certificate, key or token that it names, in octets.
const MAX_CREDENTIAL: u64 = 16 << 20;
/// Directory in which the kubelet mounts the service account of a Pod.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Reads a kubeconfig from a pipe, such as a shell's `<(...)`. A pipe can be read once; later `Known` keeps the
/// configuration.
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

/// Returns the kubeconfigs that kubectl reads by default.
fn default_kubeconfigs() -> Vec<PathBuf> {
    match env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
        Some(list) => env::split_paths(&list).collect(),
        None => env::home_dir().map(|home| home.join(".kube/config")).into_iter().collect(),
    }
}

/// Checks the files that the kubeconfig's current context names, since kube opens them unchecked, now and at run time.
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

/// Checks a file that kube opens by itself. A missing file passes: kube reports it better.
fn check_if_there(path: &Path, what: &str) -> anyhow::Result<()> {
    match regular_file::check(path, MAX_CREDENTIAL) {
        Err(FileError::Io(_)) => Ok(()),
        checked => checked.with_context(|| format!("cannot read the {what} {}", path.display())),
    }
}

/// A configuration that is read again for each client: certificates, tokens and addresses are rotated (K16).
struct ReloadingConfig {
    place: KubeconfigPlace,
    options: KubeConfigOptions,
    last: Mutex<Config>,
}

impl ReloadingConfig {
    /// Reads the configuration, or returns the previous one if that fails: a file may be half written, or was a pipe.
    async fn read_again(&self) -> Config {
        let read = self.place.read(&self.options).await;
        let mut last = lock(&self.last);
        if let Ok(config) = read {
            *last = config;
        }
        last.clone()
    }
}

/// Size of the read buffer in octets. A slice of 100 endpoints has 30 kB, and each piece of an event costs a switch
/// between two tasks.
const READ_BYTES: usize = 64 << 10;

fn client(config: &Config) -> anyhow::Result<Client> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(Duration::from_secs(10)));
    // K18: a dead peer is noticed after 20 s, by keep-alive probes while idle and by the user timeout while sending.
    // Without the latter, the kernel retransmits a request for 15 minutes.
    tcp.set_keepalive(Some(Duration::from_secs(10)));
    tcp.set_keepalive_interval(Some(Duration::from_secs(5)));
    tcp.set_keepalive_retries(Some(2));
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    tcp.set_tcp_user_timeout(Some(Duration::from_secs(20)));
    let connector = config.rustls_https_connector_with_connector(tcp)?;
    let http: hyper_util::client::legacy::Client<_, Body> =
        hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .http1_read_buf_exact_size(READ_BYTES)
            .build(connector);
    // The authentication layer requires one error type.
    let http = MapErr::new(http, BoxError::from);
    let builder = ClientBuilder::new(http, config.default_namespace.clone()).with_layer(&config.extra_headers_layer()?);
    let base = config.base_uri_layer();
    Ok(match config.auth_layer()? {
        Some(auth) => builder.with_layer(&auth).with_layer(&base).build(),
        None => builder.with_layer(&base).build(),
    })
}

/// Requests for one resource of one cluster, over one client.
#[derive(Clone)]
pub(super) struct Api {
    client: Client,
    collection: Collection,
    /// Label selector of the objects; `None` for all.
    labels: Option<Box<str>>,
    pace: Arc<Pace>,
    contact: Arc<Contact>,
}

impl Api {
    /// Requests wait for their turn in `pace`; received octets are noted in `contact`.
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

    /// Requests one page of a list and returns its octets.
    pub(super) async fn page(&self, limit: u32, more: Option<&str>) -> Result<Vec<u8>, WatchFailure> {
        self.pace.next_turn().await;
        self.next_page(limit, more).await
    }

    /// Requests the page behind a full one without a turn: a large cluster would take minutes to list.
    pub(super) async fn next_page(&self, limit: u32, more: Option<&str>) -> Result<Vec<u8>, WatchFailure> {
        let params = ListParams { limit: Some(limit), continue_token: more.map(Into::into), ..ListParams::default() };
        self.list(&params).await
    }

    /// Requests a list of the one object with this key; the list is empty if the object does not exist.
    pub(super) async fn get_object(&self, key: &ObjectRef, namespaced: bool) -> Result<Vec<u8>, WatchFailure> {
        let ObjectRef { namespace, name } = key;
        let selector = match namespaced {
            true => format!("metadata.name={name},metadata.namespace={namespace}"),
            false => format!("metadata.name={name}"),
        };
        self.pace.next_turn().await;
        self.list(&ListParams::default().fields(&selector)).await
    }

    async fn list(&self, params: &ListParams) -> Result<Vec<u8>, WatchFailure> {
        let params = ListParams { label_selector: self.labels.as_deref().map(Into::into), ..params.clone() };
        let request = self.collection.list(&params).map_err(|error| WatchFailure::Other(sentence(&error)))?;
        let body = self.send(request, "list").await?;
        let page = body.collect().await.map_err(|error| connection_lost(&error))?;
        self.contact.record_contact();
        Ok(page.to_bytes().into())
    }

    /// Starts a watch from a resourceVersion on.
    pub(super) async fn watch(&self, version: &str, timeout: Duration) -> Result<LineStream, WatchFailure> {
        self.events(&WatchParams::default().timeout(whole_seconds(timeout)), version).await
    }

    /// Starts a streaming list: a watch that begins with all objects and a bookmark behind them.
    pub(super) async fn stream(&self, timeout: Duration) -> Result<LineStream, WatchFailure> {
        let params = WatchParams::default().timeout(whole_seconds(timeout)).initial_events();
        // Without a resourceVersion the list shows the present state, and not that of a watch cache.
        self.events(&params, "").await
    }

    async fn events(&self, params: &WatchParams, version: &str) -> Result<LineStream, WatchFailure> {
        let params = WatchParams { label_selector: self.labels.as_deref().map(Into::into), ..params.clone() };
        let request = self.collection.watch(&params, version).map_err(|error| WatchFailure::Other(sentence(&error)))?;
        self.pace.next_turn().await;
        let body = self.send(request, "watch").await?;
        Ok(LineStream { body, contact: Arc::clone(&self.contact), piece: Vec::new(), read: 0, line: Vec::new() })
    }

    async fn send(&self, request: Request<Vec<u8>>, verb: &'static str) -> Result<Body, WatchFailure> {
        let response = self.client.send(request.map(Body::from)).await;
        let response = response.map_err(|error| WatchFailure::Unreachable(of_service(error)))?;
        if !response.status().is_success() {
            return Err(failure(response, verb).await);
        }
        self.contact.record_contact();
        Ok(response.into_body())
    }
}

/// Returns a `timeoutSeconds` that kube accepts: whole seconds below 295.
fn whole_seconds(timeout: Duration) -> u32 {
    timeout.as_secs().clamp(1, 290) as u32
}

/// The lines of a response, read as they arrive.
pub(super) struct LineStream {
    body: Body,
    contact: Arc<Contact>,
    /// The last piece of the body, and the number of its octets that were read.
    piece: Vec<u8>,
    read: usize,
    /// The beginning of the current line.
    line: Vec<u8>,
}

impl LineStream {
    /// Returns the next line without its line feed; `None` at the end of the response. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, WatchFailure> {
        /// Size limit of a line in octets. Objects of a cluster are less than half as large.
        const LONGEST: usize = 16 << 20;
        loop {
            // Reading from a slice cannot fail.
            self.read += (&self.piece[self.read..]).read_until(b'\n', &mut self.line).unwrap_or(0);
            if self.line.last() == Some(&b'\n') {
                self.line.pop();
                // The next line is usually as long.
                let next = Vec::with_capacity(self.line.len() + 1);
                return Ok(Some(std::mem::replace(&mut self.line, next)));
            }
            if self.line.len() > LONGEST {
                return Err(WatchFailure::Other("an event has no end".into()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    self.contact.record_contact();
                    if let Ok(octets) = frame.into_data() {
                        (self.piece, self.read) = (octets.into(), 0);
                    }
                }
                Some(Err(error)) => return Err(connection_lost(&error)),
                None if self.line.is_empty() => return Ok(None),
                None => return Err(WatchFailure::Other("the response ends within an event".into())),
            }
        }
    }
}

/// Returns the failure of a connection that was closed within a response.
fn connection_lost(error: &(dyn Error + 'static)) -> WatchFailure {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::TimedOut) {
            return WatchFailure::TimedOut("the peer of the connection acknowledges nothing".into());
        }
        cause = error.source();
    }
    WatchFailure::ConnectionLost(format!("the connection was cut: {}", sentence(error)))
}

/// Reads a response without success, and returns its failure.
async fn failure(response: Response<Body>, verb: &'static str) -> WatchFailure {
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    // A `Status` of the API server has some hundred octets; the page of a proxy may have any size.
    let body = Limited::new(response.into_body(), 64 << 10);
    let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
    let message = serde_json::from_slice::<RawStatus>(&body).unwrap_or_default().message;
    failure_of(status, &message, retry_after.map(Duration::from_secs), verb)
}

/// Returns the failure for an HTTP status, of a response or in an ERROR event of a watch.
pub(super) fn failure_of(
    status: StatusCode,
    message: &str,
    retry_after: Option<Duration>,
    verb: &'static str,
) -> WatchFailure {
    let text = match shortened_message(message) {
        "" => status.to_string(),
        message => format!("{status}: {message}"),
    };
    match (status, retry_after) {
        (StatusCode::GONE, _) => WatchFailure::Gone(text),
        (StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT, _) | (StatusCode::SERVICE_UNAVAILABLE, None) => {
            WatchFailure::Gateway(status.as_u16(), text)
        }
        (StatusCode::UNAUTHORIZED, _) => WatchFailure::Unauthorized(text),
        (StatusCode::FORBIDDEN, _) => WatchFailure::Forbidden(verb),
        (StatusCode::NOT_FOUND, _) => WatchFailure::NotFound,
        (StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED | StatusCode::UNPROCESSABLE_ENTITY, _) => {
            WatchFailure::Unsupported(text)
        }
        (_, Some(wait)) => WatchFailure::Busy(wait, text),
        (StatusCode::TOO_MANY_REQUESTS, None) => WatchFailure::Busy(Duration::ZERO, text),
        _ => WatchFailure::Other(text),
    }
}

/// Shortens a message of the API server, which may quote the URL of the request, to its first 120 octets.
fn shortened_message(message: &str) -> &str {
    /// Length limit of a message in octets.
    const MAX_MESSAGE_BYTES: usize = 120;
    let line = message.lines().next().unwrap_or_default();
    let end = (0..=line.len().min(MAX_MESSAGE_BYTES)).rev().find(|end| line.is_char_boundary(*end));
    &line[..end.unwrap_or_default()]
}

/// Formats an error of kube without kube's own prefix.
fn of_service(error: kube::Error) -> String {
    match error {
        kube::Error::Service(error) => sentence(&*error),
        error => sentence(&error),
    }
}

/// Formats an error with its causes, without repetitions and links to documentation.
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
    fn omits_urls_from_errors() {
        let error = io::Error::other("peer closed connection: https://docs.rs/rustls#unexpected-eof");
        assert_eq!(sentence(&error), "peer closed connection");
        assert_eq!(shortened_message(&"\u{e4}".repeat(100)), "\u{e4}".repeat(60));
        assert_eq!(shortened_message("one\ntwo"), "one");
    }
}
