//! Reload: the options that change while the server runs, and those that need a restart.
//!
//! The new configuration is validated and the new sockets are bound before anything changes: if either fails, nothing changes.
//! `docs/operations.md` has the table of keys for operators, and a test compares it with this file. Not here: the events that
//! start a reload (`lifecycle.rs`).

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use super::startup::{Listening, requested_addresses, shown_addresses};
use crate::admin::ListenAddresses;
use crate::config::{Config, NotAllowed, print};
use crate::log::Filter;
use crate::server::tls::certificates::Certificates;
use crate::server::{InheritedSockets, ListenAddress, ListenerChange, Listeners};
use headless_dns_core::answer::{AccessList, Responder};
use headless_dns_core::zone::Zone;

/// Keys that a reload changes.
pub(super) const RELOADABLE_KEYS: [&str; 13] = [
    "ttl",
    "negative-ttl",
    "listen",
    "listen-tls",
    "listen-https",
    "listen-quic",
    "tls-cert",
    "tls-key",
    "allow",
    "not-allowed",
    "explain-to",
    "lame-duck",
    "log",
];

/// Configuration of a running server, with the handles that apply a new one.
pub(super) struct RuntimeConfig {
    /// Configuration in use.
    pub(super) config: Config,
    /// Addresses of the sockets of the service manager, which a reload keeps.
    pub(super) given: Vec<ListenAddress>,
    /// Requested and bound addresses.
    pub(super) listening: Listening,
    /// Certificate of the encrypted listeners.
    pub(super) certificates: watch::Sender<Option<Certificates>>,
    /// Addresses that the admin listener shows.
    pub(super) shown: Arc<ArcSwap<ListenAddresses>>,
    pub(super) responder: Arc<Responder>,
    pub(super) zone: Arc<Zone>,
    pub(super) filter: Filter,
    pub(super) changes: mpsc::UnboundedSender<ListenerChange>,
}

impl RuntimeConfig {
    /// Applies the new configuration. Returns the keys that were changed, and those that need a restart.
    ///
    /// # Errors
    ///
    /// One sentence; the configuration in use is unchanged then.
    pub(super) fn apply(&mut self, new: Config) -> Result<Changes, String> {
        let changed = changed(&self.config, &new);
        let (change, listening) = self.apply_listeners(&new)?;
        // The last step that may fail: the new sockets are closed then.
        let change = change.certified(self.apply_certificates(&new)?);
        self.listening = listening;
        self.shown.store(Arc::new(shown_addresses(&self.listening)));
        let (Config { ttl, negative_ttl, listen, encrypted, clients, explain_to, lame_duck, log, .. }, old) =
            (new, &mut self.config);
        old.encrypted = encrypted;
        (old.ttl, old.negative_ttl, old.lame_duck) = (ttl, negative_ttl, lame_duck);
        (old.listen, old.clients, old.explain_to) = (listen, clients, explain_to);
        old.log.filter = log.filter;
        self.zone.set_ttls(ttl.as_secs() as u32, negative_ttl.as_secs() as u32);
        self.responder.change_clients(access(old), old.explain_to.clone());
        self.filter.change(&old.log.filter);
        let ListenerChange { start, stop } = &change;
        if start.is_some() || !stop.is_empty() {
            let text = |listen: &ListenAddress| listen.to_string();
            let started: Vec<_> = start.iter().flat_map(Listeners::listen_addresses).map(|one| text(&one)).collect();
            let stopped: Vec<_> = stop.iter().map(text).collect();
            tracing::info!(?started, ?stopped, "the listeners change");
            // The receiver is gone only if the server ends.
            let _ = self.changes.send(change);
        }
        let (taken, left) = changed.into_iter().partition(|key| RELOADABLE_KEYS.contains(key));
        Ok(Changes { taken, left })
    }

    /// Binds the new addresses. Returns the change of listeners, and all addresses after it.
    fn apply_listeners(&self, new: &Config) -> Result<(ListenerChange, Listening), String> {
        let requested = requested_addresses(new, &self.given);
        let known = |listen: &&ListenAddress| self.listening.iter().any(|(address, _)| address == *listen);
        let added: Vec<ListenAddress> = requested.iter().filter(|listen| !known(listen)).copied().collect();
        let (mut listening, gone): (Listening, Listening) =
            self.listening.iter().copied().partition(|(address, _)| requested.contains(address));
        let stop = gone.into_iter().map(|(_, bound)| bound).collect();
        if added.is_empty() {
            return Ok((ListenerChange { start: None, stop }, listening));
        }
        let start = Listeners::inherit(InheritedSockets::default(), &added, self.config.workers.get());
        let start = start.map_err(|error| format!("{error:#}"))?;
        listening.extend(added.into_iter().zip(start.listen_addresses()));
        Ok((ListenerChange { start: Some(start), stop }, listening))
    }

    /// Reads the certificate, if the new configuration names other files. Returns the certificate to use.
    fn apply_certificates(&self, new: &Config) -> Result<Option<Certificates>, String> {
        let old = self.certificates.borrow().clone();
        if new.encrypted.pair() == self.config.encrypted.pair() {
            return Ok(old);
        }
        let read = match (new.encrypted.pair(), &old) {
            (None, _) => Ok(None),
            // Listeners that stay share this certificate.
            (Some((certificate, key)), Some(old)) => old.change(certificate, key).map(|_| Some(old.clone())),
            (Some((certificate, key)), None) => Certificates::load(certificate, key).map(Some),
        };
        let read = read.map_err(|error| format!("{error:#}"))?;
        self.certificates.send_replace(read.clone());
        Ok(read)
    }
}

/// Keys that a new configuration changes.
#[derive(Debug, PartialEq)]
pub(super) struct Changes {
    pub(super) taken: Vec<&'static str>,
    /// Keys that need a restart.
    pub(super) left: Vec<&'static str>,
}

/// Returns the keys with different values.
fn changed(old: &Config, new: &Config) -> Vec<&'static str> {
    let pairs = print::entries(old).into_iter().zip(print::entries(new));
    pairs.filter(|((_, old), (_, new))| old != new).map(|((key, _), _)| key).collect()
}

/// Returns the access list of the responder; an empty list of networks allows all clients.
pub(super) fn access(config: &Config) -> AccessList {
    AccessList {
        allow: if config.clients.allows_everyone() { Vec::new() } else { config.clients.allow.clone() },
        silent: config.clients.not_allowed == NotAllowed::Drop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Invocation};

    fn config(line: &str) -> Config {
        let args = ["headless-dns", "serve"].into_iter().chain(line.split_whitespace());
        match cli::read(args.map(Into::into)) {
            Ok(Invocation::Serve(config)) => config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lists_changed_settings() {
        let old = config("--demo");
        assert_eq!(changed(&old, &old), Vec::<&str>::new());
        let new = config("--demo --ttl 7 --zone a.example --allow ::1 --log off");
        assert_eq!(changed(&old, &new), ["zone", "ttl", "allow", "log"]);
    }

    #[test]
    fn documented_table_matches_reload() {
        let text = include_str!("../../../docs/operations.md");
        let all: Vec<_> = print::entries(&config("--demo")).into_iter().map(|(key, _)| key).collect();
        for key in all {
            let rows = text.lines().filter(|line| line.starts_with("| ") && line.contains(&format!("`{key}`")));
            let taken = rows.filter(|row| row.contains("| at once")).count();
            assert_eq!(taken, usize::from(RELOADABLE_KEYS.contains(&key)), "the rows with {key}");
        }
        assert!(text.contains("| every other key | needs a restart |"));
    }
}
