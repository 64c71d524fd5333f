//! The watch of one resource: performs the steps of its [`WatchMachine`] and sends an [`WatchUpdate`] for each event.
//!
//! A relist sends `Begin`, an `Apply` for each object, and `End`; the known objects stay until `End`. Row ids (K5, ...)
//! are those of `tests/rows.md`. Not here: the step that follows a failure (`state.rs`), and the objects that are served
//! (`sync.rs`). Read next: `Watcher::read`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Scope;
use super::client::{Api, Connect, LineStream, failure_of};
use super::contact::{Contact, Pace};
use super::decode::{DecodedEvent, DecodedObject, ListPage};
use super::state::{FIRST_PAGE, Timing, WatchFailure, WatchMachine, WatchOutcome, WatchStep, is_behind, next_page};
use super::sync::{RelistOutcome, WatchUpdate, WatchedResource};
use crate::metrics::{Counters, Event as Counted, Metrics, table};
use headless_dns_core::cluster::Resource;
use headless_dns_core::object::ObjectRef;

/// The task that watches one resource.
pub(super) struct WatchConfig {
    pub(super) resource: WatchedResource,
    pub(super) connect: Connect,
    pub(super) timing: Timing,
    pub(super) updates: mpsc::Sender<WatchUpdate>,
    pub(super) counters: Arc<Counters>,
    pub(super) metrics: Arc<Metrics>,
    /// Notified when a lost watch is proven again, so that the other watches retry at once.
    pub(super) reachable: Arc<Notify>,
    pub(super) contact: Arc<Contact>,
    pub(super) scope: Arc<Scope>,
}

/// The flags of a list in progress, from [`WatchStep::List`].
#[derive(Clone, Copy)]
struct Relist {
    confirmed: bool,
    audit: bool,
}

struct Watcher {
    watch: WatchConfig,
    /// Reason of the next list, as a metric label.
    because: &'static str,
    /// Beginning of the loss; `None` once a watch is proven again.
    lost_since: Option<Instant>,
    machine: WatchMachine,
    pace: Arc<Pace>,
    api: Option<Api>,
    /// Time of the last event, bookmark or end of a list.
    last_event: Instant,
    /// Time of the last octet of this watch.
    octet: Instant,
    probe_at: Instant,
    audit_at: Instant,
}

impl WatchConfig {
    /// Watches the resource until the future is dropped.
    pub(super) async fn run(self, first_wait: Option<Duration>) {
        if let Some(wait) = first_wait {
            sleep(wait).await;
        }
        let now = Instant::now();
        let mut following = Watcher {
            because: "start",
            lost_since: None,
            machine: WatchMachine::new(self.timing, self.resource.required),
            pace: Arc::default(),
            api: None,
            last_event: now,
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

impl Watcher {
    async fn step(&mut self) {
        let outcome = match self.machine.next_step() {
            WatchStep::Wait(pause) => return self.wait(pause).await,
            WatchStep::Reconnect => return self.api = None,
            WatchStep::List { streaming: true, confirmed, audit } => self.stream(Relist { confirmed, audit }).await,
            WatchStep::List { streaming: false, confirmed, audit } => self.list(Relist { confirmed, audit }).await,
            WatchStep::Watch(version) => self.watch_from(&version).await,
        };
        self.report_outcome(&outcome).await;
        self.done(outcome);
    }

    async fn wait(&self, pause: Duration) {
        tokio::select! {
            () = sleep(pause) => {}
            () = self.watch.reachable.notified(), if !self.machine.has_retry_after() => {}
        }
    }

    /// Reports the watch as proven: by an event, or by time.
    async fn proven(&mut self) {
        if self.lost_since.take().is_some() {
            self.watch.reachable.notify_waiters();
        }
        self.send_update(WatchUpdate::Connected(self.watch.resource.resource)).await;
    }

    fn done(&mut self, outcome: WatchOutcome) {
        let now = Instant::now();
        self.because = outcome.label();
        if let WatchOutcome::Listed(_) = outcome {
            self.record_activity(now);
            self.probe_at = now + self.watch.timing.probe;
            // Spreads the audits, so that not all resources and all servers list at the same time.
            self.audit_at = now + self.watch.timing.audit.mul_f64(0.9 + 0.2 * fastrand::f64());
        }
        self.machine.handle_outcome(outcome, fastrand::f64());
    }

    fn record_activity(&mut self, now: Instant) {
        (self.last_event, self.octet) = (now, now);
        self.watch.metrics.record_event_time(self.watch.resource.name, now.into_std());
    }

    async fn send_update(&self, update: WatchUpdate) {
        if self.watch.updates.send(update).await.is_err() {
            // The receiver is gone: its owner is about to abort this task as well.
            std::future::pending::<()>().await;
        }
    }

    async fn report_outcome(&mut self, outcome: &WatchOutcome) {
        let outdated = WatchFailure::Other("its events or versions are not usable".into());
        let failure = match outcome {
            WatchOutcome::ListFailed(failure)
            | WatchOutcome::WatchFailed(failure)
            | WatchOutcome::WatchBroke(failure) => failure,
            WatchOutcome::Outdated => &outdated,
            _ => return,
        };
        if *outcome != WatchOutcome::Outdated {
            self.watch.counters.count(Counted::WatchFailures);
            self.watch.metrics.count(&table::WATCH_FAILURES, &[self.watch.resource.name, failure.label()]);
        }
        if matches!((outcome, failure), (WatchOutcome::ListFailed(_), WatchFailure::Refused(_)))
            && self.machine.is_streaming()
        {
            // K12: a list in pages follows at once. A stream is never requested again, so its turn is given back.
            return self.pace.refund().await;
        }
        let is_first = self.lost_since.is_none();
        // A deadline notices the loss late: events may have been missed since the last octet.
        let began = if matches!(failure, WatchFailure::Late(_)) { self.octet } else { Instant::now() };
        let since = *self.lost_since.get_or_insert(began);
        // The next request, which follows at once, repairs an outdated resourceVersion and a connection that died
        // alone.
        let is_mended_next = matches!(
            (outcome, failure),
            (
                WatchOutcome::WatchFailed(_) | WatchOutcome::WatchBroke(_),
                WatchFailure::Gone(_) | WatchFailure::Gateway(504, _) | WatchFailure::Refused(_)
            ) | (WatchOutcome::WatchBroke(_), WatchFailure::Late(_))
                | (WatchOutcome::Outdated, _)
        );
        if !(is_first && is_mended_next) {
            self.send_update(WatchUpdate::Lost {
                resource: self.watch.resource.resource,
                state: failure.state(),
                since,
            })
            .await;
        }
    }

    /// Limits a request by the deadline of a page (K5).
    async fn request<T>(&self, request: impl Future<Output = Result<T, WatchFailure>>) -> Result<T, WatchFailure> {
        within(self.watch.timing.page, request).await
    }

    async fn api(&mut self) -> Result<Api, WatchFailure> {
        if let Some(api) = &self.api {
            return Ok(api.clone());
        }
        let client = (self.watch.connect)().await.map_err(|error| WatchFailure::Other(format!("{error:#}")))?;
        let WatchConfig { resource: what, scope, contact, .. } = &self.watch;
        Ok(self.api.insert(Api::new(client, what.resource, scope, &self.pace, contact)).clone())
    }

    async fn begin(&self, relist: Relist) {
        self.watch.counters.count(Counted::Lists);
        self.watch.metrics.count(&table::LISTS, &[self.watch.resource.name, self.because]);
        self.send_update(WatchUpdate::Begin(self.watch.resource.resource, relist.audit)).await;
    }

    async fn end(&self, relist: Relist) -> RelistOutcome {
        let (reply, swept) = oneshot::channel();
        self.send_update(WatchUpdate::End {
            resource: self.watch.resource.resource,
            confirmed: relist.confirmed,
            reply,
        })
        .await;
        swept.await.unwrap_or(RelistOutcome::Done)
    }

    /// Lists all objects in pages.
    async fn list(&mut self, relist: Relist) -> WatchOutcome {
        match self.pages(relist).await {
            Ok(version) => match self.end(relist).await {
                RelistOutcome::Done => WatchOutcome::Listed(version),
                RelistOutcome::Suspicious { .. } => WatchOutcome::SuspiciousList,
            },
            Err(failure) => WatchOutcome::ListFailed(failure),
        }
    }

    async fn pages(&mut self, relist: Relist) -> Result<String, WatchFailure> {
        let api = self.api().await?;
        self.begin(relist).await;
        let (mut limit, mut more, mut is_full) = (FIRST_PAGE, None, false);
        loop {
            let octets = match is_full {
                true => self.request(api.next_page(limit, more.as_deref())).await?,
                false => self.request(api.page(limit, more.as_deref())).await?,
            };
            let page: ListPage<'_> = serde_json::from_slice(&octets).map_err(|error| no_list(&error))?;
            for item in page.items() {
                self.apply(DecodedObject::read(self.watch.resource.resource, item)).await;
            }
            is_full = page.items().len() >= limit as usize;
            limit = next_page(page.items().len(), octets.len());
            more = page.metadata.more.filter(|more| !more.is_empty());
            if more.is_none() {
                return Ok(page.metadata.resource_version);
            }
        }
    }

    /// Sends the update for an object. Returns whether the object could be decoded.
    async fn apply(&self, watched: DecodedObject) -> bool {
        match watched.object {
            Ok((object, skipped)) => {
                self.send_update(WatchUpdate::Apply(Box::new(object), skipped, watched.triggered)).await;
                true
            }
            Err(invalid) => {
                self.send_update(WatchUpdate::Invalid(invalid.to_string())).await;
                false
            }
        }
    }

    /// Lists all objects as the beginning of a watch.
    async fn stream(&mut self, relist: Relist) -> WatchOutcome {
        let api = match self.api().await {
            Ok(api) => api,
            Err(failure) => return WatchOutcome::ListFailed(failure),
        };
        self.begin(relist).await;
        // Long enough for the list. The watch behind it is ended here, after `Timing::watch`.
        match self.request(api.stream(Duration::from_secs(290))).await {
            Ok(lines) => self.read(&api, lines, Some(relist)).await,
            Err(failure) => WatchOutcome::ListFailed(failure),
        }
    }

    async fn watch_from(&mut self, version: &str) -> WatchOutcome {
        let api = match self.api().await {
            Ok(api) => api,
            Err(failure) => return WatchOutcome::WatchFailed(failure),
        };
        let lasts = self.watch.timing.watch.mul_f64(1.0 + fastrand::f64() / 3.0);
        match within(self.watch.timing.start, api.watch(version, lasts)).await {
            Ok(lines) => {
                let now = Instant::now();
                self.octet = now;
                if self.lost_since.is_some() {
                    // K13: the loss may be a restore of the API server from a backup. Check its resourceVersion at
                    // once.
                    self.probe_at = now;
                }
                if self.machine.accepted(now) {
                    self.send_update(WatchUpdate::Connected(self.watch.resource.resource)).await;
                }
                self.read(&api, lines, None).await
            }
            Err(failure) => WatchOutcome::WatchFailed(failure),
        }
    }

    /// Reads the events of a watch; those of a list as long as `relist` is `Some`.
    async fn read(&mut self, api: &Api, mut lines: LineStream, mut relist: Option<Relist>) -> WatchOutcome {
        let started = Instant::now();
        let streamed = relist.is_some();
        let lasts = self.watch.timing.watch.mul_f64(4.0 / 3.0) + self.watch.timing.grace;
        let mut ends = started + if streamed { self.watch.timing.page } else { lasts };
        let mut probe = None;
        loop {
            let listed = relist.is_none();
            let lives_at = self.machine.proof_deadline();
            let line = tokio::select! {
                line = lines.next() => line,
                () = sleep_until(lives_at.unwrap_or(ends)), if listed && lives_at.is_some() => {
                    self.machine.record_stable();
                    self.proven().await;
                    continue;
                }
                () = sleep_until(ends) => return match (listed, streamed) {
                    (false, _) => WatchOutcome::ListFailed(WatchFailure::Late("a list has no end".into())),
                    (true, true) => WatchOutcome::WatchEnded,
                    // K6: the API server should have ended the watch.
                    (true, false) => WatchOutcome::WatchBroke(WatchFailure::Late("a watch did not end in time".into())),
                },
                () = sleep_until(self.last_event + self.watch.timing.idle_timeout), if listed => return WatchOutcome::Silent,
                () = sleep_until(self.audit_at), if listed => return WatchOutcome::AuditDue,
                () = sleep_until(self.probe_at), if listed && probe.is_none() => {
                    probe = Some(self.probe(api));
                    continue;
                }
                behind = answer(&mut probe), if listed => {
                    if behind {
                        return WatchOutcome::Outdated;
                    }
                    self.probe_at = Instant::now() + self.watch.timing.probe;
                    probe = None;
                    continue;
                }
            };
            let is_proven = listed && self.machine.is_proven();
            let broke = |failure| match failure {
                // Without an event, an accepted watch does not show that the API server is within reach.
                WatchFailure::Cut(detail) if !is_proven && listed => {
                    WatchOutcome::WatchBroke(WatchFailure::Other(detail))
                }
                WatchFailure::Cut(detail) if !is_proven => WatchOutcome::ListFailed(WatchFailure::Other(detail)),
                failure if listed => WatchOutcome::WatchBroke(failure),
                failure => WatchOutcome::ListFailed(failure),
            };
            let line = match line {
                Ok(Some(line)) => line,
                Ok(None) if is_proven => {
                    self.octet = Instant::now();
                    return WatchOutcome::WatchEnded;
                }
                Ok(None) if listed => return broke(WatchFailure::Other("a watch ended before its first event".into())),
                Ok(None) => return broke(WatchFailure::Other("a list ended before its end".into())),
                Err(failure) => return broke(failure),
            };
            let Ok(event) = DecodedEvent::read(self.watch.resource.resource, &line) else {
                // The event is lost, and only a relist can repair it.
                self.watch.counters.count(Counted::ObjectsSkipped);
                self.watch.metrics.count(&table::REJECTED, &["invalid"]);
                return if is_proven {
                    WatchOutcome::Outdated
                } else {
                    broke(WatchFailure::Other("an event is no JSON".into()))
                };
            };
            if listed && self.machine.is_behind(event.version()) {
                return WatchOutcome::Outdated;
            }
            if event.version().is_empty() {
                self.octet = Instant::now();
            } else {
                self.record_activity(Instant::now());
                if listed && self.machine.record_proof() {
                    self.proven().await;
                }
            }
            if !listed {
                ends = self.octet + self.watch.timing.page;
            }
            match event {
                DecodedEvent::Bookmark { version, end_of_list: true } if !listed => {
                    let Some(relist) = relist.take() else { continue };
                    if self.end(relist).await != RelistOutcome::Done {
                        return WatchOutcome::SuspiciousList;
                    }
                    self.done(WatchOutcome::Listed(version));
                    self.machine.accepted(self.last_event);
                    self.machine.record_proof();
                    self.proven().await;
                    ends = Instant::now() + self.watch.timing.watch;
                }
                DecodedEvent::Bookmark { version, .. } if listed => self.machine.observe_version(version),
                DecodedEvent::Error(code, message) => {
                    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                    return broke(failure_of(status, &message, None, "watch"));
                }
                DecodedEvent::Applied(watched) => {
                    let (version, key) = (watched.version.clone(), watched.key.clone());
                    if !self.apply(watched).await
                        && listed
                        && let Some(key) = key
                        && self.retry(api, &key).await.is_err()
                    {
                        return WatchOutcome::Outdated;
                    }
                    if listed {
                        self.machine.observe_version(version);
                    }
                }
                DecodedEvent::Deleted(watched) => {
                    if let Some(key) = watched.key {
                        self.send_update(WatchUpdate::Delete(self.watch.resource.resource, key)).await;
                    }
                    if listed {
                        self.machine.observe_version(watched.version);
                    }
                }
                DecodedEvent::Bookmark { .. } | DecodedEvent::Unknown => {}
            }
        }
    }

    /// Lists the one object of an event that could not be decoded (K8), and deletes it if it cannot be decoded now
    /// either.
    async fn retry(&self, api: &Api, key: &ObjectRef) -> Result<(), WatchFailure> {
        let resource = self.watch.resource.resource;
        let octets = self.request(api.get_object(key, resource != Resource::Namespaces)).await?;
        let page: ListPage<'_> = serde_json::from_slice(&octets).map_err(|error| no_list(&error))?;
        for item in page.items() {
            if self.apply(DecodedObject::read(resource, item)).await {
                return Ok(());
            }
        }
        self.send_update(WatchUpdate::Delete(resource, key.clone())).await;
        Ok(())
    }

    /// Requests the resourceVersion of the API server, and compares it with the known one (K13).
    fn probe(&self, api: &Api) -> Probe {
        let (api, page) = (api.clone(), self.watch.timing.page);
        let ours = self.machine.version().unwrap_or_default().to_owned();
        Box::pin(async move {
            // The watch notices the same failure.
            let Ok(octets) = within(page, api.page(1, None)).await else { return false };
            let page: Result<ListPage<'_>, _> = serde_json::from_slice(&octets);
            page.is_ok_and(|page| is_behind(&ours, &page.metadata.resource_version))
        })
    }
}

/// A request in flight that returns whether the API server went back in time.
type Probe = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Waits for the probe's result; for ever while there is no probe.
async fn answer(probe: &mut Option<Probe>) -> bool {
    match probe {
        Some(probe) => probe.await,
        None => std::future::pending().await,
    }
}

/// Limits a request by a deadline.
async fn within<T>(
    deadline: Duration,
    request: impl Future<Output = Result<T, WatchFailure>>,
) -> Result<T, WatchFailure> {
    let late = || WatchFailure::Late(format!("no answer from the API server within {deadline:?}"));
    timeout(deadline, request).await.unwrap_or_else(|_| Err(late()))
}

fn no_list(error: &serde_json::Error) -> WatchFailure {
    WatchFailure::Other(format!("what the API server sent is no list: {error}"))
}

/// Lists all objects of `resource` once. An object that cannot be decoded has an error in its place.
pub(super) async fn list_once(
    connect: &Connect,
    timing: Timing,
    resource: Resource,
    scope: &Scope,
) -> Result<Vec<DecodedObject>, WatchFailure> {
    let client = connect().await.map_err(|error| WatchFailure::Other(format!("{error:#}")))?;
    let api = Api::new(client, resource, scope, &Arc::default(), &Arc::default());
    let (mut limit, mut more, mut objects) = (FIRST_PAGE, None, Vec::new());
    loop {
        let octets = within(timing.page, api.next_page(limit, more.as_deref())).await?;
        let page: ListPage<'_> = serde_json::from_slice(&octets).map_err(|error| no_list(&error))?;
        objects.extend(page.items().iter().map(|item| DecodedObject::read(resource, item)));
        limit = next_page(page.items().len(), octets.len());
        more = page.metadata.more.filter(|more| !more.is_empty());
        if more.is_none() {
            return Ok(objects);
        }
    }
}
