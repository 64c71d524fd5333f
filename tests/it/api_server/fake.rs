//! An API server that misbehaves on command: paged lists, watches, bookmarks, streaming lists.
//!
//! It keeps objects as JSON and a version that counts up. A test sets the responses to the next requests ([`Fake::fault`]), and
//! may close or silence open watches. [`Fake::connect`] has no socket and works with a paused clock; [`Fake::listen`] is
//! TCP. Events have `type` before `object`, as in the real API server. `benches/watch.rs` uses it too: objects that are made on
//! request ([`Fake::make`]) are a large cluster without memory.
#![allow(dead_code, reason = "each user uses its part")]

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use headless_dns::source::kubernetes::{Connect, Connecting};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Either, Full};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// A fault that replaces the response to a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This HTTP status.
    Status(u16),
    /// 429 or 503, with `Retry-After` in seconds.
    Busy(u16, u64),
    /// Nothing, for ever.
    Hang,
    /// A connection that cannot be made.
    Refused,
    /// A list, in pages or as a stream, of nothing, however much there is.
    Empty,
    /// A response that is accepted, with this body, and ended as it should be.
    Line(String),
    /// A response that is accepted, with these pieces of a body, and cut.
    Cut(Vec<Bytes>),
    /// A watch that is accepted, and then silent; not even its time-out ends it.
    Silence,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct ApiRequest {
    pub at: Instant,
    pub resource: String,
    /// The one of the path; `None` where all are meant.
    pub namespace: Option<String>,
    pub kind: RequestKind,
    pub query: BTreeMap<String, String>,
    pub token: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    List,
    /// A list with `limit=1`, or of one name.
    Look,
    Watch,
    Stream,
}

impl ApiRequest {
    /// Returns whether the request selects an object, by namespace, name and labels (`a=b` and `a!=b`).
    fn selects(&self, object: &Value) -> bool {
        let meta = &object["metadata"];
        let parts = |selector: &str| {
            self.query.get(selector).into_iter().flat_map(|text| text.split(',').map(str::to_owned)).collect::<Vec<_>>()
        };
        let named = |part: &String| part.strip_prefix("metadata.name=").is_none_or(|name| meta["name"] == name);
        let labelled = |part: &String| match (part.split_once("!="), part.split_once('=')) {
            (Some((key, value)), _) => meta["labels"][key] != value,
            (None, Some((key, value))) => meta["labels"][key] == value,
            (None, None) => panic!("the fake server cannot read the label selector {part}"),
        };
        self.namespace.as_ref().is_none_or(|namespace| meta["namespace"] == **namespace)
            && parts("fieldSelector").iter().all(named)
            && parts("labelSelector").iter().all(labelled)
    }
}

type Rule = Box<dyn FnMut(&ApiRequest) -> Option<Fault> + Send>;
type Sender = mpsc::UnboundedSender<io::Result<Bytes>>;
/// The JSON of an object by its number and its version.
type Text = Arc<dyn Fn(usize, u64) -> String + Send + Sync>;

/// Objects that are not kept but made, each time that they are asked for.
#[derive(Clone)]
struct GeneratedObjects {
    count: usize,
    text: Text,
    /// The versions of those that were changed; the others have version 1.
    versions: BTreeMap<usize, u64>,
}

impl GeneratedObjects {
    fn text(&self, number: usize) -> String {
        (self.text)(number, self.versions.get(&number).copied().unwrap_or(1))
    }
}

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<(String, String), Value>,
    made: BTreeMap<String, GeneratedObjects>,
    history: Vec<(u64, Change)>,
    watches: Vec<(ApiRequest, Sender)>,
    rules: Vec<Rule>,
    asked: Vec<ApiRequest>,
    clients: usize,
    /// Lists that were read to their end, by resource.
    listed: BTreeMap<String, usize>,
    /// When the last piece of a response was written to a socket.
    written: Option<Instant>,
    page: Option<usize>,
    no_streams: bool,
    frozen: bool,
}

/// An object before and after.
struct Change {
    resource: String,
    old: Option<Value>,
    new: Option<Value>,
    /// With the version of the change, also where it is gone.
    object: Value,
    /// The event itself, of an object that is made and not kept.
    made: Option<Bytes>,
}

impl Change {
    /// Returns the event for a watch; an object that it no longer selects is deleted.
    fn line(&self, asked: &ApiRequest) -> Option<Bytes> {
        if let Some(line) = &self.made {
            return (self.resource == asked.resource).then(|| line.clone());
        }
        let selected = |object: &Option<Value>| object.as_ref().is_some_and(|object| asked.selects(object));
        let kind = match (selected(&self.old), selected(&self.new)) {
            _ if self.resource != asked.resource => return None,
            (false, false) => return None,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        Some(event(kind, &self.object).into())
    }
}

#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<State>>);

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Creates or changes an object.
    pub fn apply(&self, resource: &str, object: Value) {
        self.change(resource, object, false, true);
    }

    /// Deletes an object.
    pub fn delete(&self, resource: &str, object: Value) {
        self.change(resource, object, true, true);
    }

    /// Applies an object without an event to any watch.
    pub fn apply_in_secret(&self, resource: &str, object: Value) {
        self.change(resource, object, false, false);
    }

    pub fn delete_in_secret(&self, resource: &str, object: Value) {
        self.change(resource, object, true, false);
    }

    fn change(&self, resource: &str, mut object: Value, gone: bool, told: bool) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let name = format!("{}/{}", object["metadata"]["namespace"], object["metadata"]["name"]);
        let key = (resource.to_owned(), name);
        let new = (!gone).then(|| object.clone());
        let old = match new.clone() {
            Some(new) => state.objects.insert(key, new),
            None => state.objects.remove(&key),
        };
        if told {
            state.tell(Change { resource: resource.into(), old, new, object, made: None });
        }
    }

    /// Lists of `resource` begin with objects number 0 to `count`, each made when it is its turn: `text` gives the JSON
    /// of one by its number and its version.
    pub fn make(&self, resource: &str, count: usize, text: impl Fn(usize, u64) -> String + Send + Sync + 'static) {
        let mut state = self.state();
        state.version = state.version.max(1);
        state.made.insert(resource.into(), GeneratedObjects { count, text: Arc::new(text), versions: BTreeMap::new() });
    }

    /// Such an object has changed: it is made again, and told.
    pub fn change_made(&self, resource: &str, number: usize) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let Some(made) = state.made.get_mut(resource) else { return };
        made.versions.insert(number, version);
        let line = format!("{{\"type\":\"MODIFIED\",\"object\":{}}}\n", made.text(number));
        let (old, new, object) = (None, None, Value::Null);
        state.tell(Change { resource: resource.into(), old, new, object, made: Some(line.into()) });
    }

    /// Returns the number of complete lists of `resource`.
    pub fn listed(&self, resource: &str) -> usize {
        self.state().listed.get(resource).copied().unwrap_or(0)
    }

    /// When the last piece of a response was written to a socket.
    pub fn written(&self) -> Option<Instant> {
        self.state().written
    }

    /// Sets the resourceVersion, as if etcd was restored from an older backup.
    pub fn set_version(&self, version: u64) {
        let mut state = self.state();
        state.version = version;
        state.history.clear();
    }

    /// Sends a line to every open watch of `resource`.
    pub fn line(&self, resource: &str, line: &str) {
        self.state().send(resource, &line.to_owned().into());
    }

    /// Cuts every watch that is open.
    pub fn cut(&self) {
        for (_, watch) in self.state().watches.drain(..) {
            let _ = watch.send(Err(io::Error::other("cut")));
        }
    }

    /// Has everything of these resources listed again: the next watch of each is told 410, and those that are open are
    /// cut. Returns whether all of it was read.
    pub fn relist(&self, resources: [&'static str; 2]) -> impl Fn() -> bool + '_ {
        let before = resources.map(|resource| self.listed(resource));
        for resource in resources {
            let mut left = 1;
            self.fault(move |asked| {
                let gone = left > 0 && asked.resource == resource && asked.kind == RequestKind::Watch;
                left -= usize::from(gone);
                gone.then_some(Fault::Status(410))
            });
        }
        self.cut();
        move || resources.map(|resource| self.listed(resource)).iter().zip(before).all(|(now, then)| *now > then)
    }

    /// Stops responding: connections stay open and silent.
    pub fn freeze(&self) {
        self.state().frozen = true;
        self.fault(|_| Some(Fault::Hang));
    }

    /// Adds a rule for later requests. The newest rule that returns a fault applies.
    pub fn fault(&self, rule: impl FnMut(&ApiRequest) -> Option<Fault> + Send + 'static) {
        self.state().rules.insert(0, Box::new(rule));
    }

    /// All is well again.
    pub fn heal(&self) {
        self.state().rules.clear();
    }

    /// Pages have at most so many objects.
    pub fn set_page(&self, page: usize) {
        self.state().page = Some(page);
    }

    /// Streaming lists are refused with 422, as an API server without the feature does.
    pub fn refuse_streams(&self) {
        self.state().no_streams = true;
    }

    /// Returns the requests so far, in their order.
    pub fn asked(&self) -> Vec<ApiRequest> {
        self.state().asked.clone()
    }

    /// Returns the number of requests of a kind for a resource.
    pub fn count(&self, resource: &str, kind: RequestKind) -> usize {
        self.asked().iter().filter(|asked| asked.resource == resource && asked.kind == kind).count()
    }

    /// Returns the number of lists of a resource: pages and streams.
    pub fn lists(&self, resource: &str) -> usize {
        self.count(resource, RequestKind::List) + self.count(resource, RequestKind::Stream)
    }

    /// Returns the number of clients that were created.
    pub fn clients(&self) -> usize {
        self.state().clients
    }

    /// Clients without a socket.
    pub fn connect(&self) -> Connect {
        let fake = self.clone();
        Arc::new(move || -> Connecting {
            fake.state().clients += 1;
            let fake = fake.clone();
            let service = tower::service_fn(move |request: Request<Body>| {
                let fake = fake.clone();
                async move { fake.respond(request).await }
            });
            Box::pin(std::future::ready(Ok(kube::Client::new(service, "default"))))
        })
    }

    async fn respond<B>(&self, request: Request<B>) -> io::Result<Response<Either<Full<Bytes>, Lines>>> {
        let asked = read(&request);
        let fault = {
            let mut state = self.state();
            state.asked.push(asked.clone());
            state.rules.iter_mut().find_map(|rule| rule(&asked))
        };
        match fault {
            None if asked.kind == RequestKind::Stream && self.state().no_streams => Ok(status(422, None)),
            None if matches!(asked.kind, RequestKind::Watch | RequestKind::Stream) => Ok(self.watch(&asked)),
            None => Ok(self.list(&asked)),
            Some(Fault::Status(code)) => Ok(status(code, None)),
            Some(Fault::Busy(code, seconds)) => Ok(status(code, Some(seconds))),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Refused) => Err(io::ErrorKind::ConnectionRefused.into()),
            Some(Fault::Empty) if asked.kind == RequestKind::Stream => {
                let (sender, lines) = mpsc::unbounded_channel();
                let _ = sender.send(Ok(bookmark(&asked.resource, self.state().version, true).into()));
                Ok(Response::new(Either::Right(Lines::of(lines))))
            }
            Some(Fault::Empty) => Ok(json_of(&json!({
                "kind": "List", "metadata": {"resourceVersion": self.state().version.to_string()}, "items": []}))),
            Some(Fault::Line(line)) => {
                let (sender, lines) = mpsc::unbounded_channel();
                let _ = sender.send(Ok(line.into()));
                Ok(Response::new(Either::Right(Lines::of(lines))))
            }
            Some(Fault::Cut(pieces)) => {
                let (sender, lines) = mpsc::unbounded_channel();
                for piece in pieces.into_iter().map(Ok).chain([Err(io::ErrorKind::UnexpectedEof.into())]) {
                    let _ = sender.send(piece);
                }
                Ok(Response::new(Either::Right(Lines::of(lines))))
            }
            Some(Fault::Silence) => {
                let (sender, lines) = mpsc::unbounded_channel();
                // Nothing is ever sent, and the end never comes.
                std::mem::forget(sender);
                Ok(Response::new(Either::Right(Lines::of(lines))))
            }
        }
    }

    fn list(&self, asked: &ApiRequest) -> Response<Either<Full<Bytes>, Lines>> {
        let mut state = self.state();
        let number = |name: &str| asked.query.get(name).and_then(|text| text.parse::<usize>().ok());
        let all =
            state.objects.iter().filter(|((resource, _), object)| *resource == asked.resource && asked.selects(object));
        let kept: Vec<&Value> = all.map(|(_, object)| object).collect();
        let made = state.made.get(&asked.resource).filter(|_| !asked.query.contains_key("fieldSelector"));
        let made_count = made.map_or(0, |made| made.count);
        let limit = number("limit").unwrap_or(usize::MAX).min(state.page.unwrap_or(usize::MAX));
        let count = made_count + kept.len();
        let begin = number("continue").unwrap_or(0).min(count);
        let end = begin.saturating_add(limit).min(count);
        let item = |index: usize| match made {
            Some(made) if index < made_count => made.text(index),
            _ => {
                let mut item = kept[index - made_count].clone();
                // Items of a list have no kind of their own.
                if let Some(fields) = item.as_object_mut() {
                    fields.remove("kind");
                    fields.remove("apiVersion");
                }
                item.to_string()
            }
        };
        let items: Vec<String> = (begin..end).map(item).collect();
        let more = if end < count { end.to_string() } else { String::new() };
        let metadata = json!({"resourceVersion": state.version.to_string(), "continue": more});
        let (version, kind) = kind_of(&asked.resource);
        let page = format!(
            "{{\"kind\":\"{kind}List\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":[{}]}}",
            items.join(",")
        );
        if asked.kind == RequestKind::List && end == count {
            *state.listed.entry(asked.resource.clone()).or_default() += 1;
        }
        as_json(Response::new(Either::Left(Full::new(page.into()))))
    }

    fn watch(&self, asked: &ApiRequest) -> Response<Either<Full<Bytes>, Lines>> {
        let mut state = self.state();
        let (sender, lines) = mpsc::unbounded_channel();
        let mut lines = Lines::of(lines);
        let send = |line: Bytes| {
            let _ = sender.send(Ok(line));
        };
        if asked.kind == RequestKind::Stream {
            lines.first = state.made.get(&asked.resource).cloned().map(|made| (made, 0));
            for ((resource, _), object) in &state.objects {
                if *resource == asked.resource && asked.selects(object) {
                    send(event("ADDED", object).into());
                }
            }
            send(bookmark(&asked.resource, state.version, true).into());
            lines.listed = Some((self.clone(), asked.resource.clone()));
        } else {
            let from: u64 = asked.query["resourceVersion"].parse().unwrap_or(0);
            let changes = state.history.iter().filter(|(version, _)| *version > from);
            changes.filter_map(|(_, change)| change.line(asked)).for_each(send);
        }
        let lasts = asked.query.get("timeoutSeconds").and_then(|text| text.parse().ok()).unwrap_or(300);
        state.watches.push((asked.clone(), sender.clone()));
        self.end_later(asked.resource.clone(), sender, Duration::from_secs(lasts));
        as_json(Response::new(Either::Right(lines)))
    }

    /// A bookmark and the end, when the time of a watch is over.
    #[allow(clippy::disallowed_methods, reason = "it ends with the watch, or with the test")]
    fn end_later(&self, resource: String, sender: Sender, lasts: Duration) {
        let fake = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = sleep(lasts) => {
                    let mut state = fake.state();
                    if state.frozen {
                        return std::mem::forget(sender);
                    }
                    let _ = sender.send(Ok(bookmark(&resource, state.version, false).into()));
                    state.watches.retain(|(_, watch)| !watch.same_channel(&sender));
                }
            }
        });
    }

    /// Serves over TCP until the test ends, and returns the URL.
    pub async fn listen(&self) -> String {
        format!("http://{}", self.accept(|stream| std::future::ready(Ok(stream))).await)
    }

    /// Accepts connections, and serves each with the value of `begin`.
    #[allow(clippy::disallowed_methods, reason = "it ends with the test")]
    pub async fn accept<S, F>(&self, begin: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        F: Future<Output = io::Result<S>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fake = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let (fake, begun) = (fake.clone(), begin(stream));
                // A client that goes away ends its connection with an error.
                tokio::spawn(async move {
                    if let Ok(stream) = begun.await {
                        let _ = fake.serve(stream).await;
                    }
                });
            }
        });
        address
    }

    /// HTTP/1.1, one request after the other, every response in chunks.
    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let mut buffer = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                    break end + 4;
                }
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Ok(());
                }
            };
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            buffer.drain(..end);
            let mut lines = head.lines();
            let target = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or("/").to_owned();
            let mut request = Request::get(target);
            for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
                request = request.header(name, value);
            }
            let response = self.respond(request.body(()).unwrap()).await?;
            let (parts, mut body) = response.into_parts();
            let mut head = format!("HTTP/1.1 {}\r\ntransfer-encoding: chunked\r\n", parts.status);
            for (name, value) in &parts.headers {
                head += &format!("{name}: {}\r\n", value.to_str().unwrap());
            }
            stream.write_all((head + "\r\n").as_bytes()).await?;
            while let Some(frame) = body.frame().await {
                let Ok(octets) = frame.map_err(io::Error::other)?.into_data() else { continue };
                let size = format!("{:x}\r\n", octets.len());
                stream.write_all(&[size.as_bytes(), &octets, b"\r\n"].concat()).await?;
                stream.flush().await?;
                self.state().written = Some(Instant::now());
            }
            stream.write_all(b"0\r\n\r\n").await?;
            stream.flush().await?;
        }
    }
}

impl State {
    /// Sends a change of the present version, to open watches and to later ones from an older version.
    fn tell(&mut self, change: Change) {
        self.watches.retain(|(asked, watch)| change.line(asked).is_none_or(|line| watch.send(Ok(line)).is_ok()));
        self.history.push((self.version, change));
    }

    fn send(&mut self, resource: &str, line: &Bytes) {
        self.watches.retain(|(asked, watch)| asked.resource != resource || watch.send(Ok(line.clone())).is_ok());
    }
}

/// A body that comes in pieces.
pub struct Lines {
    /// Objects that are made one after the other, and which is next.
    first: Option<(GeneratedObjects, usize)>,
    /// The fake and the resource whose complete list is counted once the last object was sent.
    listed: Option<(Fake, String)>,
    then: mpsc::UnboundedReceiver<io::Result<Bytes>>,
}

impl Lines {
    fn of(lines: mpsc::UnboundedReceiver<io::Result<Bytes>>) -> Self {
        Self { first: None, listed: None, then: lines }
    }
}

impl http_body::Body for Lines {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some((made, next)) = &mut self.first
            && *next < made.count
        {
            let line = format!("{{\"type\":\"ADDED\",\"object\":{}}}\n", made.text(*next));
            *next += 1;
            return Poll::Ready(Some(Ok(Frame::data(line.into()))));
        }
        if let Some((fake, resource)) = self.listed.take() {
            *fake.state().listed.entry(resource).or_default() += 1;
        }
        self.then.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

fn read<B>(request: &Request<B>) -> ApiRequest {
    let query: BTreeMap<String, String> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.replace("%3D", "=").replace("%2C", ",").replace("%21", "!")))
        .collect();
    let kind = if query.get("watch").is_some_and(|watch| watch == "true") {
        if query.contains_key("sendInitialEvents") { RequestKind::Stream } else { RequestKind::Watch }
    } else if query.contains_key("fieldSelector") || query.get("limit").is_some_and(|limit| limit == "1") {
        RequestKind::Look
    } else {
        RequestKind::List
    };
    let mut path = request.uri().path().rsplit('/');
    let resource = path.next().unwrap_or_default().to_owned();
    let namespace = path.next().map(ToOwned::to_owned).filter(|_| path.next() == Some("namespaces"));
    let token = request.headers().get("authorization").and_then(|token| token.to_str().ok()).unwrap_or_default();
    ApiRequest { at: Instant::now(), resource, namespace, kind, query, token: token.to_owned() }
}

fn json_of(value: &Value) -> Response<Either<Full<Bytes>, Lines>> {
    as_json(Response::new(Either::Left(Full::new(value.to_string().into()))))
}

/// Sets the content type for clients that accept others too, as CoreDNS does.
fn as_json<B>(mut response: Response<B>) -> Response<B> {
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

/// `apiVersion` and `kind` of the objects of a resource.
fn kind_of(resource: &str) -> (&'static str, &'static str) {
    match resource {
        "services" => ("v1", "Service"),
        "endpointslices" => ("discovery.k8s.io/v1", "EndpointSlice"),
        "namespaces" => ("v1", "Namespace"),
        _ => ("v1", ""),
    }
}

fn status(code: u16, retry_after: Option<u64>) -> Response<Either<Full<Bytes>, Lines>> {
    let mut response = json_of(&json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "message": format!("{code} on purpose")}));
    *response.status_mut() = code.try_into().unwrap();
    if let Some(seconds) = retry_after {
        response.headers_mut().insert("retry-after", seconds.into());
    }
    response
}

pub fn event(kind: &str, object: &Value) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn bookmark(resource: &str, version: u64, end_of_list: bool) -> String {
    let (api, kind) = kind_of(resource);
    let mut object = json!({"kind": kind, "apiVersion": api, "metadata": {"resourceVersion": version.to_string()}});
    if end_of_list {
        object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    event("BOOKMARK", &object)
}

/// Waits until something holds, for at most `patience` of the clock's time, and returns how long it took.
pub async fn until(patience: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    let held = timeout(patience, async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(held.await.is_ok(), "not within {patience:?}");
    begun.elapsed()
}
