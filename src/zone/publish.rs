//! Publishing: what a contributor gave is replaced by what it gives now.
//!
//! The work of one thread at a time. New and changed Services come first, then each PTR address once with all its
//! changes, then removals. Across Services there is no common instant.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::reverse::{Place, ReverseChange};
use super::{NamespaceNode, Published, Zone};
use crate::names::reverse::ReverseZones;
use crate::names::{ServiceKey, service_key};
use crate::records::{ApexRecords, Contribution, PodAddresses, PtrName, ServiceRecords};
use crate::rules::PodRecords;

impl Zone {
    /// Replaces what each contributor gave, and returns whether anything changed. Each is named at most once.
    ///
    /// `now` is Unix time in seconds: the serial becomes it, but never smaller (A8). One thread publishes at a time.
    pub fn publish(&self, contributions: Vec<Contribution>, now: u32) -> bool {
        let mut reverse = ReverseChanges::default();
        let mut removals = Vec::new();
        let mut changed = false;
        for contribution in contributions {
            changed |= match contribution {
                Contribution::Apex(records) => self.publish_apex(records),
                Contribution::Namespace(name, exists) => {
                    self.change_namespace(name.as_bytes(), |node| node.declared = exists)
                }
                Contribution::PodAddresses(namespace, pods) => self.publish_pods(&namespace, &pods),
                Contribution::Service(service, records) => {
                    match (service_key(&service.namespace, &service.name), records) {
                        (Some(key), Some(records)) => self.publish_service(key, *records, &mut reverse),
                        (Some(key), None) => {
                            removals.push(key);
                            false
                        }
                        // No label, no name: it never had records.
                        (None, _) => false,
                    }
                }
            };
        }
        for key in &removals {
            if let Some(old) = self.services.get(&**key) {
                reverse.replace(self, Some(&old), None);
            }
        }
        for (address, change) in reverse.changes {
            self.publish_reverse(address, change);
        }
        for key in removals {
            changed |= self.remove_service(&key);
        }
        if changed {
            self.serial.fetch_max(now, Ordering::Relaxed);
        }
        changed
    }

    /// Sets the reverse zones served, and returns whether they changed.
    pub fn set_reverse_zones(&self, zones: ReverseZones) -> bool {
        let changed = **self.reverse.load() != zones;
        if changed {
            self.reverse.store(Arc::new(zones));
        }
        changed
    }

    fn publish_apex(&self, records: ApexRecords) -> bool {
        let changed = **self.apex.load() != records;
        self.apex.store(Arc::new(records));
        changed
    }

    fn publish_pods(&self, namespace: &str, pods: &PodAddresses) -> bool {
        if self.settings.rules.pod_records != PodRecords::Verified {
            return false;
        }
        if pods.is_empty() {
            return self.pods.remove(namespace.as_bytes()).is_some();
        }
        let old = self.pods.insert(namespace.as_bytes().into(), pods.clone());
        old.is_none_or(|old| old != *pods)
    }

    fn publish_service(&self, key: Box<[u8]>, mut records: ServiceRecords, reverse: &mut ReverseChanges) -> bool {
        let old = self.services.get(&*key).map(|published| Arc::clone(&published));
        if let Some(old) = &old {
            if old.records == records {
                return false;
            }
            if old.records.name == records.name {
                records.name = Arc::clone(&old.records.name);
            }
        }
        let (existed, exists) = (old.as_ref().is_some_and(|old| old.records.exists()), records.exists());
        let namespace: Box<[u8]> = ServiceKey(&key).namespace().into();
        let number = old.as_ref().and_then(|old| old.number);
        let number = number.or_else(|| records.reverse().next().and_then(|_| self.names_of.number()));
        let new = Arc::new(Published { number, ..self.index(records) });
        reverse.replace(self, old.as_deref(), Some(&new));
        if exists && !existed {
            self.change_namespace(&namespace, |node| node.services += 1);
        }
        self.services.insert(key, Arc::clone(&new));
        if let Some(number) = number {
            if old.is_some() {
                self.names_of.pin(number, &reverse.last);
            }
            self.names_of.show(number, Some(&new));
        }
        if existed && !exists {
            self.change_namespace(&namespace, |node| node.services -= 1);
        }
        true
    }

    fn remove_service(&self, key: &[u8]) -> bool {
        let Some((_, old)) = self.services.remove(key) else { return false };
        if let Some(number) = old.number {
            self.names_of.show(number, None);
        }
        if old.records.exists() {
            self.change_namespace(ServiceKey(key).namespace(), |node| node.services -= 1);
        }
        true
    }

    fn index(&self, records: ServiceRecords) -> Published {
        let hash = |endpoint: u32| self.hash(records.own_name(endpoint).write(&mut [0; 63]));
        let mut index = HashTable::with_capacity(records.endpoint_names().len());
        for endpoint in 0..records.endpoint_names().len() as u32 {
            index.insert_unique(hash(endpoint), endpoint, |endpoint| hash(*endpoint));
        }
        Published { records, index, number: None }
    }

    /// Returns whether the namespace's own name came or went.
    fn change_namespace(&self, name: &[u8], change: impl FnOnce(&mut NamespaceNode)) -> bool {
        let mut node = self.namespaces.entry(name.into()).or_default();
        let exists = |node: &NamespaceNode| node.declared || node.services > 0;
        let before = exists(&node);
        change(&mut node);
        let after = exists(&node);
        drop(node);
        if !after {
            self.namespaces.remove(name);
        }
        before != after
    }

    fn publish_reverse(&self, address: IpAddr, change: ReverseChange) {
        self.names_of.apply(address, change, |name, address| {
            let published = self.services.get(name.service.key().0)?;
            let endpoint = match name.pointer().own_name(address) {
                Some(label) => published.find(self, label.write(&mut [0; 63]))?,
                None => 0,
            };
            let leads = published.leads_to(self, address, name);
            published.number.filter(|_| leads).map(|service| Place { service, endpoint })
        });
    }
}

/// All changes to PTR RRsets in one publication, by address.
#[derive(Default)]
struct ReverseChanges {
    changes: HashMap<IpAddr, ReverseChange, RandomState>,
    /// Of the last Service that was replaced.
    last: Vec<IpAddr>,
}

impl ReverseChanges {
    /// The difference between what two states of one Service say of addresses.
    fn replace(&mut self, zone: &Zone, old: Option<&Published>, new: Option<&Published>) {
        let missing_in = |other: Option<&Published>, published: &Published| {
            let names = published.records.reverse();
            let missing = names.filter(|(address, label, _)| {
                !other.is_some_and(|other| other.leads_to(zone, *address, &published.records.ptr_name(*label)))
            });
            let name = |(address, label, endpoint)| {
                let place = published.number.map(|service| Place { service, endpoint });
                (address, (published.records.ptr_name(label), place))
            };
            missing.map(name).collect::<Vec<_>>()
        };
        self.last.clear();
        for (address, (name, _)) in old.map(|old| missing_in(new, old)).into_iter().flatten() {
            self.last.push(address);
            self.changes.entry(address).or_default().gone.push(name);
        }
        for (address, name) in new.map(|new| missing_in(old, new)).into_iter().flatten() {
            self.last.push(address);
            self.changes.entry(address).or_default().new.push(name);
        }
    }
}

impl Published {
    /// Whether `address` leads back to this Service under `name`.
    fn leads_to(&self, zone: &Zone, address: IpAddr, name: &PtrName) -> bool {
        match name.pointer().own_name(address) {
            Some(label) => self
                .find(zone, label.write(&mut [0; 63]))
                .is_some_and(|endpoint| self.records.leads_to(endpoint, address)),
            None => match (self.records.own_addresses(), address) {
                ((v4, _), IpAddr::V4(address)) => v4.contains(&address.into()),
                ((_, v6), IpAddr::V6(address)) => v6.contains(&address.into()),
            },
        }
    }
}
