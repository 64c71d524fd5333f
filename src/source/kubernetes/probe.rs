//! The probe of an API server that sends no octet.
//!
//! Silence alone is not a loss: perhaps no object has changed. So after [`Timing::quiet`] without an octet on any watch the
//! probe lists one object, over the connector and the path that the watches use. If it fails, contact was lost at the last
//! octet (K18 of `tests/rows.md`). Not here: the time of that octet (`contact.rs`), and the state of one watch
//! (`state.rs`).

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use super::Scope;
use super::client::{Api, Connect};
use super::contact::Contact;
use super::decode::ListPage;
use super::state::{Timing, WatchFailure};
use super::sync::WatchUpdate;
use headless_dns_core::cluster::Resource;
use headless_dns_core::status::WatchState;

/// The task that probes the API server.
pub(super) struct Probe {
    pub(super) contact: Arc<Contact>,
    pub(super) connect: Connect,
    pub(super) resource: Resource,
    pub(super) scope: Arc<Scope>,
    pub(super) timing: Timing,
    pub(super) updates: mpsc::Sender<WatchUpdate>,
    /// Notified at the end of a loss, so that the watches retry at once.
    pub(super) reachable: Arc<Notify>,
}

impl Probe {
    /// Reports each loss of contact and its end, until the future is dropped.
    pub(super) async fn run(self) -> Infallible {
        let (mut api, mut lost, mut probed) = (None, None::<Instant>, None::<Instant>);
        loop {
            let heard = self.contact.last();
            if lost.take_if(|since| heard > *since).is_some() {
                self.report_contact(WatchUpdate::Contact).await;
                self.reachable.notify_waiters();
            }
            let due = probed.map_or(heard, |probed| probed.max(heard)) + self.timing.quiet;
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.contact.resumed() => {}
            }
            if self.contact.last() > heard || Instant::now() < due {
                continue;
            }
            probed = Some(Instant::now());
            let result = tokio::select! {
                result = self.list_one_object(&mut api) => result,
                () = self.contact.resumed() => continue,
            };
            let failure = result.err().filter(|failure| !failure.is_answer());
            let Some(failure) = failure else {
                self.contact.record_contact();
                continue;
            };
            api = None;
            if lost.is_none() && self.contact.last() <= heard {
                lost = Some(heard);
                self.contact.record_loss();
                if let WatchState::Lost(loss) = failure.state() {
                    self.report_contact(WatchUpdate::NoContact { since: heard, loss }).await;
                }
            }
        }
    }

    /// Lists one object. The deadline is [`Timing::quiet`].
    async fn list_one_object(&self, api: &mut Option<Api>) -> Result<(), WatchFailure> {
        let request = async {
            let api = match api {
                Some(api) => api,
                None => {
                    let client =
                        (self.connect)().await.map_err(|error| WatchFailure::Unreachable(format!("{error:#}")))?;
                    api.insert(Api::new(client, self.resource, &self.scope, &Arc::default(), &self.contact))
                }
            };
            let octets = api.page(1, None).await?;
            let page: Result<ListPage<'_>, _> = serde_json::from_slice(&octets);
            page.map(drop)
                .map_err(|error| WatchFailure::Unreachable(format!("the answer to a probe is no list: {error}")))
        };
        let quiet = self.timing.quiet;
        let late =
            || WatchFailure::TimedOut(format!("no octet for {quiet:?}, and no answer to a probe within {quiet:?}"));
        timeout(quiet, request).await.unwrap_or_else(|_| Err(late()))
    }

    async fn report_contact(&self, update: WatchUpdate) {
        // The receiver is gone: its owner is about to abort this task as well.
        let _ = self.updates.send(update).await;
    }
}
