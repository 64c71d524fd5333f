//! `/api/v1/status`: the state of the server as JSON.
//!
//! Not here: explanations and records, which `report` renders for the commands as well.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::civil::DateTime;
use serde_json::{Value, json};

use super::health::watch_text;
use super::shown::{AdminContext, AdminState, CertificateInUse};
use crate::metrics::Event;
use headless_dns_core::status::{DataState, WatchState, WatchStatus};
use headless_dns_core::zone::Zone;

/// Returns the name of the data's state in JSON.
pub(super) fn state_name(state: DataState) -> &'static str {
    match state {
        DataState::NotSynced => "not-synced",
        DataState::Restored => "restored",
        DataState::Partial => "partial",
        DataState::Current => "current",
        DataState::Stale => "stale",
    }
}

/// Returns the name of a watch's state in JSON.
pub(super) fn watch_name(watch: &WatchStatus) -> &'static str {
    match watch.state {
        WatchState::Waiting => "waiting",
        WatchState::Current => "current",
        WatchState::Denied(_) => "denied",
        WatchState::Lost(_) => "lost",
    }
}

/// Returns the document of `/api/v1/status` at `now`.
pub(super) fn status(shown: &AdminState, now: Instant) -> Value {
    let AdminContext { zone, status, metrics, info: about, .. } = &shown.context;
    let (services, reverse_addresses) = zone.size();
    let rates = shown.rates();
    let answers = [
        Event::NoError,
        Event::NxDomain,
        Event::ServFail,
        Event::Refused,
        Event::FormErr,
        Event::NotImp,
        Event::OtherCode,
    ];
    let answers = answers.map(|event| (event.label().to_owned(), Value::from(metrics.total(event))));
    let (listen, certificate) = (about.listen.load(), about.certificate.load());
    let encrypted = listen
        .encrypted
        .iter()
        .map(|(proto, address)| json!({"transport": proto.label(), "address": address.to_string()}));
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptimeSeconds": now.saturating_duration_since(shown.started_at).as_secs(),
        "source": about.source,
        "state": state_name(status.data_state()),
        "ready": status.is_ready(),
        "leaving": status.is_leaving(),
        "waitingFor": status.waiting_for(),
        "watches": status.watches().iter().map(|watch| watch_json(watch, now)).collect::<Vec<_>>(),
        "zones": zones(zone),
        "services": services,
        "endpoints": zone.endpoints(),
        "reverseAddresses": reverse_addresses,
        "serial": zone.serial(),
        "listen": listen.plain.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "encrypted": encrypted.collect::<Vec<_>>(),
        "certificate": certificate.as_deref().map(certificate_json),
        "workers": about.workers,
        "queries": {
            "total": shown.queries(),
            "perSecond": rates.last().copied().unwrap_or_default().round(),
            "lastMinute": rates.iter().map(|rate| rate.round()).collect::<Vec<_>>(),
        },
        "answers": Value::Object(answers.into_iter().collect()),
    })
}

fn watch_json(watch: &WatchStatus, now: Instant) -> Value {
    json!({
        "resource": watch.resource,
        "required": watch.required,
        "state": watch_name(watch),
        "ageSeconds": watch.since.map(|since| now.saturating_duration_since(since).as_secs()),
        "text": watch_text(watch, now),
    })
}

fn certificate_json(certificate: &CertificateInUse) -> Value {
    let CertificateInUse { good, refused } = certificate;
    json!({
        "notBefore": good.map(|(begins, _)| rfc_3339(begins)),
        "notAfter": good.map(|(_, ends)| rfc_3339(ends)),
        "refused": refused,
    })
}

/// Formats a time of 1970 or later as RFC 3339 does, in UTC and whole seconds.
pub(super) fn rfc_3339(at: SystemTime) -> String {
    const BEGIN: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
    let since = Duration::from_secs(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    format!("{:.0}Z", BEGIN.saturating_add(since))
}

/// Returns the origin, kind and size of each zone.
fn zones(zone: &Zone) -> Vec<Value> {
    let (services, _) = zone.size();
    let forward = zone.settings().apexes.iter().map(|origin| {
        let kind = "forward";
        json!({"origin": origin.to_string(), "kind": kind, "serial": zone.serial(), "services": services, "endpoints": zone.endpoints()})
    });
    let reverse = zone.reverse_zones();
    let reverse = reverse.apexes().iter().map(|origin| {
        let addresses = zone.addresses_of(origin).unwrap_or_default();
        json!({"origin": origin.to_string(), "kind": "reverse", "serial": zone.serial(), "addresses": addresses})
    });
    forward.chain(reverse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_times() {
        for (milliseconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_795_264_496_999, "2026-11-21T12:34:56Z"),
            // RFC 5280 section 4.1.2.5: the notAfter of a certificate that does not expire.
            (253_402_300_799_000, "9999-12-31T23:59:59Z"),
            (300_000_000_000_000, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc_3339(UNIX_EPOCH + Duration::from_millis(milliseconds)), text);
        }
    }
}
