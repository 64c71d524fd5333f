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

/// Configuration of the watch of one resource: its API server, its deadlines, and the receivers of its updates and metrics.
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
    config: WatchConfig,
    /// Reason of the next list, as a metric label.
    list_reason: &'static str,
    /// Beginning of the loss; `None` once a watch is proven again.
    lost_since: Option<Instant>,
    machine: WatchMachine,
    pace: Arc<Pace>,
    api: Option<Api>,
    /// Time of the last event, bookmark or end of a list.
    last_event: Instant,
    /// Time of the last octet of this watch.
    last_octet: Instant,
    version_check_at: Instant,
    audit_at: Instant,
}

impl WatchConfig {
    /// Watches the resource until the future is dropped.
    pub(super) async fn run(self, first_wait: Option<Duration>) {
        if let Some(wait) = first_wait {
            sleep(wait).await;
        }
        let now = Instant::now();
        let mut watcher = Watcher {
            list_reason: "start",
            lost_since: None,
            machine: WatchMachine::new(self.timing, self.resource.required),
            pace: Arc::default(),
            api: None,
            last_event: now,
            last_octet: now,
            version_check_at: now + self.timing.version_check,
            audit_at: now + self.timing.audit,
            config: self,
        };
        loop {
            watcher.step().await;
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
        self.apply_outcome(outcome);
    }

    async fn wait(&self, pause: Duration) {
        tokio::select! {
            () = sleep(pause) => {}
            () = self.config.reachable.notified(), if !self.machine.has_retry_after() => {}
        }
    }

    /// Reports that the watch is proven, by an event or by time, and wakes the other watches after a loss.
    async fn report_proven(&mut self) {
        if self.lost_since.take().is_some() {
            self.config.reachable.notify_waiters();
        }
        self.send_update(WatchUpdate::Connected(self.config.resource.resource)).await;
    }

    /// Hands the outcome of a step to the machine, and sets the times of the next checks after a list.
    fn apply_outcome(&mut self, outcome: WatchOutcome) {
        let now = Instant::now();
        self.list_reason = outcome.label();
        if let WatchOutcome::Listed(_) = outcome {
            self.record_activity(now);
            self.version_check_at = now + self.config.timing.version_check;
            // Spreads the audits, so that not all resources and all servers list at the same time.
            self.audit_at = now + self.config.timing.audit.mul_f64(0.9 + 0.2 * fastrand::f64());
        }
        self.machine.handle_outcome(outcome, fastrand::f64());
    }

    fn record_activity(&mut self, now: Instant) {
        (self.last_event, self.last_octet) = (now, now);
        self.config.metrics.record_event_time(self.config.resource.name, now.into_std());
    }

    async fn send_update(&self, update: WatchUpdate) {
        if self.config.updates.send(update).await.is_err() {
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
            self.config.counters.count(Counted::WatchFailures);
            self.config.metrics.count(&table::WATCH_FAILURES, &[self.config.resource.name, failure.label()]);
        }
        if matches!((outcome, failure), (WatchOutcome::ListFailed(_), WatchFailure::Unsupported(_)))
            && self.machine.is_streaming()
        {
            // K12: a list in pages follows at once. A stream is never requested again, so its turn is given back.
            return self.pace.refund().await;
        }
        let is_first = self.lost_since.is_none();
        // A deadline notices the loss late: events may have been missed since the last octet.
        let began = if matches!(failure, WatchFailure::TimedOut(_)) { self.last_octet } else { Instant::now() };
        let since = *self.lost_since.get_or_insert(began);
        // The next request repairs an outdated resourceVersion and a connection that died alone. It follows at once,
        // or after the back-off (K1: up to 1 s at first) if a status ended the watch or a relist did not help.
        let is_mended_next = matches!(
            (outcome, failure),
            (
                WatchOutcome::WatchFailed(_) | WatchOutcome::WatchBroke(_),
                WatchFailure::Gone(_) | WatchFailure::Gateway(504, _) | WatchFailure::Unsupported(_)
            ) | (WatchOutcome::WatchBroke(_), WatchFailure::TimedOut(_))
                | (WatchOutcome::Outdated, _)
        );
        if !(is_first && is_mended_next) {
            self.send_update(WatchUpdate::Lost {
                resource: self.config.resource.resource,
                state: failure.state(),
                since,
            })
            .await;
        }
    }

    /// Limits a request by the deadline of a page (K5).
    async fn request<T>(&self, request: impl Future<Output = Result<T, WatchFailure>>) -> Result<T, WatchFailure> {
        within(self.config.timing.page, request).await
    }

    async fn api(&mut self) -> Result<Api, WatchFailure> {
        if let Some(api) = &self.api {
            return Ok(api.clone());
        }
        let client = (self.config.connect)().await.map_err(|error| WatchFailure::Other(format!("{error:#}")))?;
        let WatchConfig { resource: watched, scope, contact, .. } = &self.config;
        Ok(self.api.insert(Api::new(client, watched.resource, scope, &self.pace, contact)).clone())
    }

    async fn begin(&self, relist: Relist) {
        self.config.counters.count(Counted::Lists);
        self.config.metrics.count(&table::LISTS, &[self.config.resource.name, self.list_reason]);
        self.send_update(WatchUpdate::Begin(self.config.resource.resource, relist.audit)).await;
    }

    async fn end(&self, relist: Relist) -> RelistOutcome {
        let (reply, swept) = oneshot::channel();
        self.send_update(WatchUpdate::End {
            resource: self.config.resource.resource,
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
                self.apply(DecodedObject::read(self.config.resource.resource, item)).await;
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
        let duration = self.config.timing.watch.mul_f64(1.0 + fastrand::f64() / 3.0);
        match within(self.config.timing.start, api.watch(version, duration)).await {
            Ok(lines) => {
                let now = Instant::now();
                self.last_octet = now;
                if self.lost_since.is_some() {
                    // K13: the loss may be a restore of the API server from a backup. Check its resourceVersion at
                    // once.
                    self.version_check_at = now;
                }
                if self.machine.accepted(now) {
                    self.send_update(WatchUpdate::Connected(self.config.resource.resource)).await;
                }
                self.read(&api, lines, None).await
            }
            Err(failure) => WatchOutcome::WatchFailed(failure),
        }
    }

    /// Reads the events of a watch; those of a list as long as `relist` is `Some`.
    async fn read(&mut self, api: &Api, mut lines: LineStream, mut relist: Option<Relist>) -> WatchOutcome {
        let streamed = relist.is_some();
        let max_duration = self.config.timing.watch.mul_f64(4.0 / 3.0) + self.config.timing.grace;
        let mut deadline = Instant::now() + if streamed { self.config.timing.page } else { max_duration };
        let mut version_check = None;
        loop {
            let listed = relist.is_none();
            let stable_at = self.machine.proof_deadline();
            let line = tokio::select! {
                line = lines.next() => line,
                () = sleep_until(stable_at.unwrap_or(deadline)), if listed && stable_at.is_some() => {
                    self.machine.record_stable();
                    self.report_proven().await;
                    continue;
                }
                () = sleep_until(deadline) => return timed_out(listed, streamed),
                () = sleep_until(self.last_event + self.config.timing.idle_timeout), if listed => return WatchOutcome::Silent,
                () = sleep_until(self.audit_at), if listed => return WatchOutcome::AuditDue,
                () = sleep_until(self.version_check_at), if listed && version_check.is_none() => {
                    version_check = Some(self.check_version(api));
                    continue;
                }
                is_outdated = await_version_check(&mut version_check), if listed => {
                    if is_outdated {
                        return WatchOutcome::Outdated;
                    }
                    self.version_check_at = Instant::now() + self.config.timing.version_check;
                    version_check = None;
                    continue;
                }
            };
            let event = match self.decode_line(line, listed).await {
                Ok(event) => event,
                Err(outcome) => return outcome,
            };
            if !listed {
                deadline = self.last_octet + self.config.timing.page;
            }
            let outcome = match (event, &mut relist) {
                (DecodedEvent::Bookmark { version, end_of_list: true }, list @ Some(_)) => {
                    let outcome = self.finish_list(list.take(), version).await;
                    deadline = Instant::now() + self.config.timing.watch;
                    outcome
                }
                (event, _) => self.handle_event(api, event, listed).await,
            };
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
    }

    /// Decodes the next line, and records that the API server is within reach.
    ///
    /// # Errors
    ///
    /// The outcome if the list or watch ends with this line.
    async fn decode_line(
        &mut self,
        line: Result<Option<Vec<u8>>, WatchFailure>,
        listed: bool,
    ) -> Result<DecodedEvent, WatchOutcome> {
        let is_proven = listed && self.machine.is_proven();
        let line = match line {
            Ok(Some(line)) => line,
            Ok(None) if is_proven => {
                self.last_octet = Instant::now();
                return Err(WatchOutcome::WatchEnded);
            }
            Ok(None) => {
                let what = if listed { "a watch ended before its first event" } else { "a list ended before its end" };
                return Err(broken(WatchFailure::Other(what.into()), listed, is_proven));
            }
            Err(failure) => return Err(broken(failure, listed, is_proven)),
        };
        let Ok(event) = DecodedEvent::read(self.config.resource.resource, &line) else {
            // The event is lost, and only a relist can repair it.
            self.config.counters.count(Counted::ObjectsSkipped);
            self.config.metrics.count(&table::REJECTED, &["invalid"]);
            let failure = || broken(WatchFailure::Other("an event is no JSON".into()), listed, is_proven);
            return Err(if is_proven { WatchOutcome::Outdated } else { failure() });
        };
        if listed && self.machine.is_behind(event.version()) {
            return Err(WatchOutcome::Outdated);
        }
        if event.version().is_empty() {
            self.last_octet = Instant::now();
        } else {
            self.record_activity(Instant::now());
            if listed && self.machine.record_proof() {
                self.report_proven().await;
            }
        }
        Ok(event)
    }

    /// Ends a streaming list: from here on its connection is a watch. Returns the outcome if the list is suspicious.
    async fn finish_list(&mut self, relist: Option<Relist>, version: String) -> Option<WatchOutcome> {
        if self.end(relist?).await != RelistOutcome::Done {
            return Some(WatchOutcome::SuspiciousList);
        }
        self.apply_outcome(WatchOutcome::Listed(version));
        self.machine.accepted(self.last_event);
        self.machine.record_proof();
        self.report_proven().await;
        None
    }

    /// Sends the change of an event to the owner. Returns the outcome if the list or watch ends with this event.
    async fn handle_event(&mut self, api: &Api, event: DecodedEvent, listed: bool) -> Option<WatchOutcome> {
        let version = match event {
            DecodedEvent::Bookmark { version, .. } => version,
            DecodedEvent::Error(code, message) => {
                let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let failure = failure_of(status, &message, None, "watch");
                return Some(broken(failure, listed, listed && self.machine.is_proven()));
            }
            DecodedEvent::Applied(object) => {
                let (version, key) = (object.version.clone(), object.key.clone());
                if !self.apply(object).await
                    && listed
                    && let Some(key) = key
                    && self.retry(api, &key).await.is_err()
                {
                    return Some(WatchOutcome::Outdated);
                }
                version
            }
            DecodedEvent::Deleted(object) => {
                if let Some(key) = object.key {
                    self.send_update(WatchUpdate::Delete(self.config.resource.resource, key)).await;
                }
                object.version
            }
            DecodedEvent::Unknown => return None,
        };
        if listed {
            self.machine.observe_version(version);
        }
        None
    }

    /// Lists the one object of an event that could not be decoded (K8), and deletes it if it cannot be decoded now
    /// either.
    async fn retry(&self, api: &Api, key: &ObjectRef) -> Result<(), WatchFailure> {
        let resource = self.config.resource.resource;
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
    fn check_version(&self, api: &Api) -> VersionCheck {
        let (api, page) = (api.clone(), self.config.timing.page);
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
type VersionCheck = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Returns the outcome of a list or watch that did not end in time.
fn timed_out(listed: bool, streamed: bool) -> WatchOutcome {
    match (listed, streamed) {
        (false, _) => WatchOutcome::ListFailed(WatchFailure::TimedOut("a list has no end".into())),
        (true, true) => WatchOutcome::WatchEnded,
        // K6: the API server should have ended the watch.
        (true, false) => WatchOutcome::WatchBroke(WatchFailure::TimedOut("a watch did not end in time".into())),
    }
}

/// Returns the outcome of a list or watch that fails.
fn broken(failure: WatchFailure, listed: bool, is_proven: bool) -> WatchOutcome {
    // Without an event, an accepted watch does not show that the API server is within reach.
    let failure = match failure {
        WatchFailure::ConnectionLost(detail) if !is_proven => WatchFailure::Other(detail),
        failure => failure,
    };
    if listed { WatchOutcome::WatchBroke(failure) } else { WatchOutcome::ListFailed(failure) }
}

/// Waits for the result of the version check; for ever while there is none.
async fn await_version_check(version_check: &mut Option<VersionCheck>) -> bool {
    match version_check {
        Some(version_check) => version_check.await,
        None => std::future::pending().await,
    }
}

/// Limits a request by a deadline.
async fn within<T>(
    deadline: Duration,
    request: impl Future<Output = Result<T, WatchFailure>>,
) -> Result<T, WatchFailure> {
    let late = || WatchFailure::TimedOut(format!("no answer from the API server within {deadline:?}"));
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
