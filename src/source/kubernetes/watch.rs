//! The watch of one resource: takes the steps that its [`Machine`] says, and tells what it sees.
//!
//! A relist is `Begin`, an `Apply` for each object, `End`; until the end what was known stays. Nothing here decides
//! what follows a failure (`machine.rs`) or what is served (`live.rs`).

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Scope;
use super::client::{Api, Connect, Lines, failure_of};
use super::contact::{Contact, Pace};
use super::machine::{FIRST_PAGE, Failure, Machine, Outcome, Step, Timing, is_behind, next_page};
use super::watched::{Event, Page, Watched};
use crate::cluster::Resource;
use crate::metrics::{Counters, Event as Counted, Metrics, table};
use crate::objects::ObjectRef;
use crate::source::live::{Followed, Swept, Update};

/// Follows one resource.
pub(super) struct Watch {
    pub(super) what: Followed,
    pub(super) connect: Connect,
    pub(super) timing: Timing,
    pub(super) updates: mpsc::Sender<Update>,
    pub(super) counters: Arc<Counters>,
    pub(super) metrics: Arc<Metrics>,
    /// Notified by a watch that was lost and is proven again: the other watches need not wait any longer.
    pub(super) back: Arc<Notify>,
    pub(super) contact: Arc<Contact>,
    pub(super) scope: Arc<Scope>,
}

/// What is of a relist that goes on.
#[derive(Clone, Copy)]
struct Relist {
    confirmed: bool,
    audit: bool,
}

struct Following {
    watch: Watch,
    /// Why the next list is made, should there be one.
    because: &'static str,
    /// The beginning of the loss; none from the first proven watch after it on.
    lost_since: Option<Instant>,
    machine: Machine,
    pace: Arc<Pace>,
    api: Option<Api>,
    /// When the last event or bookmark came, or the last list ended.
    heard: Instant,
    /// When the last octet of this watch came.
    octet: Instant,
    probe_at: Instant,
    audit_at: Instant,
}

impl Watch {
    /// Never ends by itself.
    pub(super) async fn follow(self, first_wait: Option<Duration>) {
        if let Some(wait) = first_wait {
            sleep(wait).await;
        }
        let now = Instant::now();
        let mut following = Following {
            because: "start",
            lost_since: None,
            machine: Machine::new(self.timing, self.what.required),
            pace: Arc::default(),
            api: None,
            heard: now,
            octet: now,
            probe_at: now + self.timing.probe,
            audit_at: now + self.timing.audit,
            watch: self,
        };
        loop {
            following.step().await;
        }
    }
}

impl Following {
    async fn step(&mut self) {
        let outcome = match self.machine.next() {
            Step::Wait(pause) => return self.wait(pause).await,
            Step::Reconnect => return self.api = None,
            Step::List { streaming: true, confirmed, audit } => self.stream(Relist { confirmed, audit }).await,
            Step::List { streaming: false, confirmed, audit } => self.list(Relist { confirmed, audit }).await,
            Step::Watch(version) => self.watch_from(&version).await,
        };
        self.tell_of(&outcome).await;
        self.done(outcome);
    }

    async fn wait(&self, pause: Duration) {
        tokio::select! {
            () = sleep(pause) => {}
            () = self.watch.back.notified(), if !self.machine.was_told_to_wait() => {}
        }
    }

    /// The watch is proven: by an event, or by time.
    async fn proven(&mut self) {
        if self.lost_since.take().is_some() {
            self.watch.back.notify_waiters();
        }
        self.tell(Update::Connected(self.watch.what.resource)).await;
    }

    fn done(&mut self, outcome: Outcome) {
        let now = Instant::now();
        self.because = outcome.label();
        if let Outcome::Listed(_) = outcome {
            self.hear(now);
            self.probe_at = now + self.watch.timing.probe;
            // Not all resources, nor all servers, at the same time.
            self.audit_at = now + self.watch.timing.audit.mul_f64(0.9 + 0.2 * fastrand::f64());
        }
        self.machine.on(outcome, fastrand::f64());
    }

    fn hear(&mut self, now: Instant) {
        (self.heard, self.octet) = (now, now);
        self.watch.metrics.heard(self.watch.what.name, now.into_std());
    }

    async fn tell(&self, update: Update) {
        if self.watch.updates.send(update).await.is_err() {
            // Nobody wants to know any more: whoever owned the other end ends this task too.
            std::future::pending::<()>().await;
        }
    }

    async fn tell_of(&mut self, outcome: &Outcome) {
        let outdated = Failure::Other("its events or versions are not usable".into());
        let failure = match outcome {
            Outcome::ListFailed(failure) | Outcome::WatchFailed(failure) | Outcome::WatchBroke(failure) => failure,
            Outcome::Outdated => &outdated,
            _ => return,
        };
        if *outcome != Outcome::Outdated {
            self.watch.counters.count(Counted::WatchFailures);
            self.watch.metrics.count(&table::WATCH_FAILURES, &[self.watch.what.name, failure.label()]);
        }
        if matches!((outcome, failure), (Outcome::ListFailed(_), Failure::Refused(_))) && self.machine.streams() {
            // K12: the list without a stream follows at once, and no stream ever again.
            return self.pace.refund().await;
        }
        let is_first = self.lost_since.is_none();
        // Where time passed before the loss was noticed, changes may have been missed since the last octet.
        let began = if matches!(failure, Failure::Late(_)) { self.octet } else { Instant::now() };
        let since = *self.lost_since.get_or_insert(began);
        // A version that is too old, and a connection that died alone, are mended by the request that follows at once.
        let is_mended_next = matches!(
            (outcome, failure),
            (
                Outcome::WatchFailed(_) | Outcome::WatchBroke(_),
                Failure::Gone(_) | Failure::Gateway(504, _) | Failure::Refused(_)
            ) | (Outcome::WatchBroke(_), Failure::Late(_))
                | (Outcome::Outdated, _)
        );
        if !(is_first && is_mended_next) {
            self.tell(Update::Lost { resource: self.watch.what.resource, state: failure.state(), since }).await;
        }
    }

    /// A list within its deadline (K5).
    async fn ask<T>(&self, request: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        within(self.watch.timing.page, request).await
    }

    async fn api(&mut self) -> Result<Api, Failure> {
        if let Some(api) = &self.api {
            return Ok(api.clone());
        }
        let client = (self.watch.connect)().await.map_err(|error| Failure::Other(format!("{error:#}")))?;
        let Watch { what, scope, contact, .. } = &self.watch;
        Ok(self.api.insert(Api::new(client, what.resource, scope, &self.pace, contact)).clone())
    }

    async fn begin(&self, relist: Relist) {
        self.watch.counters.count(Counted::Lists);
        self.watch.metrics.count(&table::LISTS, &[self.watch.what.name, self.because]);
        self.tell(Update::Begin(self.watch.what.resource, relist.audit)).await;
    }

    async fn end(&self, relist: Relist) -> Swept {
        let (reply, swept) = oneshot::channel();
        self.tell(Update::End { resource: self.watch.what.resource, confirmed: relist.confirmed, reply }).await;
        swept.await.unwrap_or(Swept::Done)
    }

    /// Lists everything in pages.
    async fn list(&mut self, relist: Relist) -> Outcome {
        match self.pages(relist).await {
            Ok(version) => match self.end(relist).await {
                Swept::Done => Outcome::Listed(version),
                Swept::Held { .. } => Outcome::HeldDown,
            },
            Err(failure) => Outcome::ListFailed(failure),
        }
    }

    async fn pages(&mut self, relist: Relist) -> Result<String, Failure> {
        let api = self.api().await?;
        self.begin(relist).await;
        let (mut limit, mut more, mut is_full) = (FIRST_PAGE, None, false);
        loop {
            let octets = match is_full {
                true => self.ask(api.next_page(limit, more.as_deref())).await?,
                false => self.ask(api.page(limit, more.as_deref())).await?,
            };
            let page: Page<'_> = serde_json::from_slice(&octets).map_err(|error| no_list(&error))?;
            for item in page.items() {
                self.apply(Watched::read(self.watch.what.resource, item)).await;
            }
            is_full = page.items().len() >= limit as usize;
            limit = next_page(page.items().len(), octets.len());
            more = page.metadata.more.filter(|more| !more.is_empty());
            if more.is_none() {
                return Ok(page.metadata.resource_version);
            }
        }
    }

    /// Whether it could be applied.
    async fn apply(&self, watched: Watched) -> bool {
        match watched.object {
            Ok((object, skipped)) => {
                self.tell(Update::Apply(Box::new(object), skipped, watched.triggered)).await;
                true
            }
            Err(invalid) => {
                self.tell(Update::Invalid(self.watch.what.resource, invalid.to_string())).await;
                false
            }
        }
    }

    /// Lists everything as the beginning of a watch.
    async fn stream(&mut self, relist: Relist) -> Outcome {
        let api = match self.api().await {
            Ok(api) => api,
            Err(failure) => return Outcome::ListFailed(failure),
        };
        self.begin(relist).await;
        // Long enough for the list; the watch behind it is ended here when its own time is over.
        match self.ask(api.stream(Duration::from_secs(290))).await {
            Ok(lines) => self.read(&api, lines, Some(relist)).await,
            Err(failure) => Outcome::ListFailed(failure),
        }
    }

    async fn watch_from(&mut self, version: &str) -> Outcome {
        let api = match self.api().await {
            Ok(api) => api,
            Err(failure) => return Outcome::WatchFailed(failure),
        };
        let lasts = self.watch.timing.watch.mul_f64(1.0 + fastrand::f64() / 3.0);
        match within(self.watch.timing.start, api.watch(version, lasts)).await {
            Ok(lines) => {
                let now = Instant::now();
                self.octet = now;
                if self.lost_since.is_some() {
                    // K13: it may be out of reach because it goes back in time.
                    self.probe_at = now;
                }
                if self.machine.accepted(now) {
                    self.tell(Update::Connected(self.watch.what.resource)).await;
                }
                self.read(&api, lines, None).await
            }
            Err(failure) => Outcome::WatchFailed(failure),
        }
    }

    /// Reads the events of a watch; while `relist` is something, they are those of a list.
    async fn read(&mut self, api: &Api, mut lines: Lines, mut relist: Option<Relist>) -> Outcome {
        let started = Instant::now();
        let streamed = relist.is_some();
        let lasts = self.watch.timing.watch.mul_f64(4.0 / 3.0) + self.watch.timing.grace;
        let mut ends = started + if streamed { self.watch.timing.page } else { lasts };
        let mut probe = None;
        loop {
            let listed = relist.is_none();
            let lives_at = self.machine.lives_at();
            let line = tokio::select! {
                line = lines.next() => line,
                () = sleep_until(lives_at.unwrap_or(ends)), if listed && lives_at.is_some() => {
                    self.machine.live();
                    self.proven().await;
                    continue;
                }
                () = sleep_until(ends) => return match (listed, streamed) {
                    (false, _) => Outcome::ListFailed(Failure::Late("a list has no end".into())),
                    (true, true) => Outcome::WatchEnded,
                    // K6: the API server should have ended it.
                    (true, false) => Outcome::WatchBroke(Failure::Late("a watch did not end in time".into())),
                },
                () = sleep_until(self.heard + self.watch.timing.silence), if listed => return Outcome::Silent,
                () = sleep_until(self.audit_at), if listed => return Outcome::AuditDue,
                () = sleep_until(self.probe_at), if listed && probe.is_none() => {
                    probe = Some(self.probe(api));
                    continue;
                }
                behind = answer(&mut probe), if listed => {
                    if behind {
                        return Outcome::Outdated;
                    }
                    self.probe_at = Instant::now() + self.watch.timing.probe;
                    probe = None;
                    continue;
                }
            };
            let is_proven = listed && self.machine.is_proven();
            let broke = |failure| match failure {
                // An API server that is out of reach accepts nothing.
                Failure::Cut(detail) if !is_proven && listed => Outcome::WatchBroke(Failure::Other(detail)),
                Failure::Cut(detail) if !is_proven => Outcome::ListFailed(Failure::Other(detail)),
                failure if listed => Outcome::WatchBroke(failure),
                failure => Outcome::ListFailed(failure),
            };
            let line = match line {
                Ok(Some(line)) => line,
                Ok(None) if is_proven => {
                    self.octet = Instant::now();
                    return Outcome::WatchEnded;
                }
                Ok(None) if listed => return broke(Failure::Other("a watch ended before its first event".into())),
                Ok(None) => return broke(Failure::Other("a list ended before its end".into())),
                Err(failure) => return broke(failure),
            };
            let Ok(event) = Event::read(self.watch.what.resource, &line) else {
                // What it said is lost, whatever it was.
                self.watch.counters.count(Counted::ObjectsSkipped);
                self.watch.metrics.count(&table::REJECTED, &["invalid"]);
                return if is_proven { Outcome::Outdated } else { broke(Failure::Other("an event is no JSON".into())) };
            };
            if listed && self.machine.is_behind(event.version()) {
                return Outcome::Outdated;
            }
            if event.version().is_empty() {
                self.octet = Instant::now();
            } else {
                self.hear(Instant::now());
                if listed && self.machine.prove() {
                    self.proven().await;
                }
            }
            if !listed {
                ends = self.octet + self.watch.timing.page;
            }
            match event {
                Event::Bookmark { version, end_of_list: true } if !listed => {
                    let Some(relist) = relist.take() else { continue };
                    if self.end(relist).await != Swept::Done {
                        return Outcome::HeldDown;
                    }
                    self.done(Outcome::Listed(version));
                    self.machine.accepted(self.heard);
                    self.machine.prove();
                    self.proven().await;
                    ends = Instant::now() + self.watch.timing.watch;
                }
                Event::Bookmark { version, .. } if listed => self.machine.saw(version),
                Event::Error(code, message) => {
                    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                    return broke(failure_of(status, &message, None, "watch"));
                }
                Event::Applied(watched) => {
                    let (version, key) = (watched.version.clone(), watched.key.clone());
                    if !self.apply(watched).await
                        && listed
                        && let Some(key) = key
                        && self.again(api, &key).await.is_err()
                    {
                        return Outcome::Outdated;
                    }
                    if listed {
                        self.machine.saw(version);
                    }
                }
                Event::Deleted(watched) => {
                    if let Some(key) = watched.key {
                        self.tell(Update::Delete(self.watch.what.resource, key)).await;
                    }
                    if listed {
                        self.machine.saw(watched.version);
                    }
                }
                Event::Bookmark { .. } | Event::Unknown => {}
            }
        }
    }

    /// K8: lists the one object of an event that could not be read. What cannot be read now either is nothing.
    async fn again(&self, api: &Api, key: &ObjectRef) -> Result<(), Failure> {
        let resource = self.watch.what.resource;
        let octets = self.ask(api.one(key, resource != Resource::Namespaces)).await?;
        let page: Page<'_> = serde_json::from_slice(&octets).map_err(|error| no_list(&error))?;
        for item in page.items() {
            if self.apply(Watched::read(resource, item)).await {
                return Ok(());
            }
        }
        self.tell(Update::Delete(resource, key.clone())).await;
        Ok(())
    }

    /// Asks the API server for its version: whether it is behind the one that is ours now (K13).
    fn probe(&self, api: &Api) -> Probe {
        let (api, page) = (api.clone(), self.watch.timing.page);
        let ours = self.machine.version().unwrap_or_default().to_owned();
        Box::pin(async move {
            // What fails here, the watch notices too.
            let Ok(octets) = within(page, api.page(1, None)).await else { return false };
            let page: Result<Page<'_>, _> = serde_json::from_slice(&octets);
            page.is_ok_and(|page| is_behind(&ours, &page.metadata.resource_version))
        })
    }
}

/// Whether the API server is behind us.
type Probe = Pin<Box<dyn Future<Output = bool> + Send>>;

/// What a probe finds; never, while there is none.
async fn answer(probe: &mut Option<Probe>) -> bool {
    match probe {
        Some(probe) => probe.await,
        None => std::future::pending().await,
    }
}

/// A request that may take so long.
async fn within<T>(deadline: Duration, request: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = || Failure::Late(format!("no answer from the API server within {deadline:?}"));
    timeout(deadline, request).await.unwrap_or_else(|_| Err(late()))
}

fn no_list(error: &serde_json::Error) -> Failure {
    Failure::Other(format!("what the API server sent is no list: {error}"))
}

/// Every object of `resource`, listed once, and a sentence for each that cannot be read.
pub(super) async fn list_once(
    connect: &Connect,
    timing: Timing,
    resource: Resource,
    scope: &Scope,
) -> Result<Vec<Watched>, Failure> {
    let client = connect().await.map_err(|error| Failure::Other(format!("{error:#}")))?;
    let api = Api::new(client, resource, scope, &Arc::default(), &Arc::default());
    let (mut limit, mut more, mut objects) = (FIRST_PAGE, None, Vec::new());
    loop {
        let octets = within(timing.page, api.next_page(limit, more.as_deref())).await?;
        let page: Page<'_> = serde_json::from_slice(&octets).map_err(|error| no_list(&error))?;
        objects.extend(page.items().iter().map(|item| Watched::read(resource, item)));
        limit = next_page(page.items().len(), octets.len());
        more = page.metadata.more.filter(|more| !more.is_empty());
        if more.is_none() {
            return Ok(objects);
        }
    }
}
