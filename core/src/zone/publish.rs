//! Publishing: replaces what each contributor contributed before.
//!
//! One thread publishes at a time. New and changed Services come first, then each PTR RRset once with all its changes,
//! then removals. There is no common instant across Services. Not here: how contributions are built (`records`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::reverse_index::{EndpointRef, ReverseChange};
use super::{NamespaceNode, ServiceEntry, Zone};
use crate::name::reverse::ReverseZones;
use crate::name::{ServiceKey, service_key};
use crate::naming_rules::PodRecords;
use crate::records::{ApexRecords, Contribution, Difference, PodAddresses, PtrName, ServiceRecords};

impl Zone {
    /// Replaces the contribution of each contributor, and returns whether anything changed.
    ///
    /// Each contributor occurs at most once. `now` is the Unix time in seconds: it becomes the serial, which never
    /// decreases (A8). One thread publishes at a time.
    pub fn publish(&self, contributions: Vec<Contribution>, now: u32) -> bool {
        let mut reverse = ReverseChanges::default();
        let (mut new, mut removals) = (Vec::new(), Vec::new());
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
                        (Some(key), Some(records)) => {
                            let replacement = self.build_replacement(&key, *records, &mut reverse);
                            let changed = replacement.is_some();
                            new.extend(replacement);
                            changed
                        }
                        (Some(key), None) => {
                            removals.push(key);
                            false
                        }
                        // A name that is not a label never had records.
                        (None, _) => false,
                    }
                }
            };
        }
        let services = self.services.load();
        for old in removals.iter().filter_map(|key| services.get(self.hash(key), key)) {
            reverse.replace(self, Some(old), None);
        }
        drop(services);
        self.publish_services(&new);
        for (address, change) in reverse.changes {
            self.publish_reverse(address, change);
        }
        changed |= self.remove_services(&removals);
        if changed {
            self.serial.fetch_max(now, Ordering::Relaxed);
        }
        changed
    }

    /// Replaces the reverse zones served, and returns whether they changed.
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

    /// Builds the new entry of a Service, and records the changes of its PTR records; `None` if its records are
    /// unchanged.
    fn build_replacement(
        &self,
        key: &[u8],
        mut records: ServiceRecords,
        reverse: &mut ReverseChanges,
    ) -> Option<Replacement> {
        let services = self.services.load();
        let hash = self.hash(key);
        let old = services.get(hash, key);
        if let Some(old) = old {
            if old.records == records {
                return None;
            }
            if old.records.name == records.name {
                records.name = Arc::clone(&old.records.name);
            }
        }
        let number = old.and_then(|old| old.number);
        let number = number.or_else(|| records.reverse().next().and_then(|_| self.ptr_index.allocate_number()));
        let difference = old.and_then(|old| records.difference_from(&old.records));
        let patched = old.zip(difference.as_ref());
        let patched = patched.and_then(|(old, difference)| self.patch_index(old, &records, difference));
        let index = patched.unwrap_or_else(|| self.build_index(&records));
        let new = Arc::new(ServiceEntry { hash, records, index, number });
        let addresses = match (old, difference) {
            (Some(old), Some(difference)) => reverse.add(&old.records, &new.records, difference),
            _ => reverse.replace(self, old.map(|old| &**old), Some(&new)),
        };
        let existed = old.is_some_and(|old| old.records.exists());
        // No PTR record is read back from a Service that is not published yet.
        Some(Replacement { new, existed, addresses: if old.is_some() { addresses } else { Vec::new() } })
    }

    /// Publishes Services. A namespace is counted before its first Service and until after its last, so that its name
    /// exists whenever one of its Services does.
    fn publish_services(&self, replacements: &[Replacement]) {
        if replacements.is_empty() {
            return;
        }
        for begun in replacements.iter().filter(|one| !one.existed && one.new.records.exists()) {
            self.change_namespace(begun.namespace(), |node| node.services += 1);
        }
        self.services.change(|services| {
            for replacement in replacements {
                services.insert(Arc::clone(&replacement.new));
            }
        });
        for Replacement { new, addresses, .. } in replacements {
            if let Some(number) = new.number {
                self.ptr_index.materialize(number, addresses);
                self.ptr_index.set_service(number, Some(new));
            }
        }
        for ended in replacements.iter().filter(|one| one.existed && !one.new.records.exists()) {
            self.change_namespace(ended.namespace(), |node| node.services -= 1);
        }
    }

    /// Removes Services, and returns whether any existed.
    fn remove_services(&self, keys: &[Box<[u8]>]) -> bool {
        if keys.is_empty() {
            return false;
        }
        let removed: Vec<Arc<ServiceEntry>> = self
            .services
            .change(|services| keys.iter().filter_map(|key| services.remove(self.hash(key), key)).collect());
        for number in removed.iter().filter_map(|old| old.number) {
            self.ptr_index.set_service(number, None);
        }
        for old in removed.iter().filter(|old| old.records.exists()) {
            self.change_namespace(ServiceKey(old.key()).namespace(), |node| node.services -= 1);
        }
        !removed.is_empty()
    }

    /// Builds the index of a Service: the numbers of all endpoints by their labels. If two endpoints share a label, the
    /// first is found.
    fn build_index(&self, records: &ServiceRecords) -> HashTable<u32> {
        let mut index = HashTable::with_capacity(records.endpoint_names().len());
        for endpoint in 0..records.endpoint_names().len() as u32 {
            self.add_to_index(&mut index, records, endpoint);
        }
        index
    }

    /// Builds the index of a Service from the previous index and the changes.
    ///
    /// `None` if a new index is less work, or if two endpoints share a label: an index contains only one of them.
    fn patch_index(&self, old: &ServiceEntry, new: &ServiceRecords, difference: &Difference) -> Option<HashTable<u32>> {
        let (was, is) = (old.records.endpoint_names().len(), new.endpoint_names().len());
        let changed = difference.gone.len() + difference.new.len();
        if old.index.len() != was || changed > was / 2 || old.index.capacity() > 4 * is.max(8) {
            return None;
        }
        let mut index = old.index.clone();
        for gone in &difference.gone {
            let hash = self.hash_label(&old.records, *gone);
            index.find_entry(hash, |endpoint| endpoint == gone).ok()?.remove();
        }
        if let Some(numbers) = &difference.numbers {
            index.iter_mut().for_each(|endpoint| *endpoint = numbers[*endpoint as usize]);
        }
        let alone = difference.new.iter().all(|endpoint| self.add_to_index(&mut index, new, *endpoint));
        alone.then_some(index)
    }

    /// Adds an endpoint to an index, and returns whether no other endpoint has its label.
    fn add_to_index(&self, index: &mut HashTable<u32>, records: &ServiceRecords, endpoint: u32) -> bool {
        let mut buffer = [0; 63];
        let label = records.own_name(endpoint).write(&mut buffer);
        let same = |other: &u32| records.own_name(*other).write(&mut [0; 63]) == label;
        match index.entry(self.hash(label), same, |endpoint| self.hash_label(records, *endpoint)) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(endpoint);
                true
            }
        }
    }

    fn hash_label(&self, records: &ServiceRecords, endpoint: u32) -> u64 {
        self.hash(records.own_name(endpoint).write(&mut [0; 63]))
    }

    /// Changes the entry of a namespace, and returns whether the namespace's own name came or went.
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
        self.ptr_index.apply(address, change, |name, address| {
            let services = self.services.load();
            let key = name.service.key().0;
            let published = services.get(self.hash(key), key)?;
            let endpoint = match name.ptr_target().endpoint_label(address) {
                Some(label) => published.find(self, label.write(&mut [0; 63]))?,
                None => 0,
            };
            let leads = published.points_to(self, address, name);
            published.number.filter(|_| leads).map(|service| EndpointRef { service, endpoint })
        });
    }
}

/// New entry of a Service, with the data to publish it.
struct Replacement {
    new: Arc<ServiceEntry>,
    /// The Service's name existed before.
    existed: bool,
    /// Addresses whose PTR records change; empty if the Service is new.
    addresses: Vec<IpAddr>,
}

impl Replacement {
    fn namespace(&self) -> &[u8] {
        ServiceKey(self.new.key()).namespace()
    }
}

/// Changes of PTR RRsets in one publication, by address.
#[derive(Default)]
struct ReverseChanges {
    changes: HashMap<IpAddr, ReverseChange, RandomState>,
}

impl ReverseChanges {
    /// Records the changes between two states of a Service from their difference, and returns the addresses.
    fn add(&mut self, old: &ServiceRecords, new: &ServiceRecords, difference: Difference) -> Vec<IpAddr> {
        let mut addresses = Vec::with_capacity(difference.gone_addresses.len() + difference.new_addresses.len());
        for (address, label) in difference.gone_addresses {
            addresses.push(address);
            self.changes.entry(address).or_default().gone.push(old.ptr_name(label));
        }
        for (address, label) in difference.new_addresses {
            addresses.push(address);
            self.changes.entry(address).or_default().new.push((new.ptr_name(label), None));
        }
        addresses
    }

    /// Records the changes between two states of a Service by comparing all their addresses, and returns the addresses
    /// that change.
    fn replace(&mut self, zone: &Zone, old: Option<&ServiceEntry>, new: Option<&ServiceEntry>) -> Vec<IpAddr> {
        let missing_in = |other: Option<&ServiceEntry>, published: &ServiceEntry| {
            let names = published.records.reverse();
            let missing = names.filter(|(address, label, _)| {
                !other.is_some_and(|other| other.points_to(zone, *address, &published.records.ptr_name(*label)))
            });
            let name = |(address, label, endpoint)| {
                let place = published.number.map(|service| EndpointRef { service, endpoint });
                (address, (published.records.ptr_name(label), place))
            };
            missing.map(name).collect::<Vec<_>>()
        };
        let mut addresses = Vec::new();
        for (address, (name, _)) in old.map(|old| missing_in(new, old)).into_iter().flatten() {
            addresses.push(address);
            self.changes.entry(address).or_default().gone.push(name);
        }
        for (address, name) in new.map(|new| missing_in(old, new)).into_iter().flatten() {
            addresses.push(address);
            self.changes.entry(address).or_default().new.push(name);
        }
        addresses
    }
}

impl ServiceEntry {
    /// Returns whether this Service has a PTR record at `address` with the target `name`.
    fn points_to(&self, zone: &Zone, address: IpAddr, name: &PtrName) -> bool {
        match name.ptr_target().endpoint_label(address) {
            Some(label) => self
                .find(zone, label.write(&mut [0; 63]))
                .is_some_and(|endpoint| self.records.points_to(endpoint, address)),
            None => match (self.records.own_addresses(), address) {
                ((v4, _), IpAddr::V4(address)) => v4.contains(&address.into()),
                ((_, v6), IpAddr::V6(address)) => v6.contains(&address.into()),
            },
        }
    }
}
