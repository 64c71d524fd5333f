//! Difference between two states of one Service: endpoints that came and went, and addresses with another PTR target.
//!
//! The endpoints of both states are sorted by name, so one merge of the two finds it, in time linear in their number.
//! Not here: how the zone applies it (`zone/publish.rs`).

use std::cmp::Ordering;
use std::net::IpAddr;
use std::ops::Range;

use super::{EndpointColumns, ServiceRecords, addresses};
use crate::name::label_pool::{PackedLabel, PoolRemap};

/// Changes from the previous state of a Service to the next.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Numbers, in the previous state, of the endpoints with names that are gone.
    pub gone: Vec<u32>,
    /// Numbers, in the next state, of the endpoints with new names.
    pub new: Vec<u32>,
    /// Next number of an endpoint, by its previous number; `None` if no number changed.
    pub numbers: Option<Vec<u32>>,
    /// PTR records that are gone, as [`ServiceRecords::reverse`] of the previous state has them.
    pub gone_addresses: Vec<(IpAddr, PackedLabel)>,
    /// PTR records that are new.
    pub new_addresses: Vec<(IpAddr, PackedLabel)>,
}

impl ServiceRecords {
    /// Returns the changes from `old`, the previous state of the same Service; `None` if the names of the two are
    /// sorted differently, which is rare.
    pub fn difference_from(&self, old: &Self) -> Option<Difference> {
        let remap = old.name.remap(&self.name)?;
        let mut builder = DifferenceBuilder { old, new: self, remap, difference: Difference::default() };
        let (was, is) = (&old.endpoints, &self.endpoints);
        builder.compare_own_addresses();
        builder.merge_part(0..was.in_service, 0..is.in_service, true);
        builder.merge_part(was.in_service..was.served, is.in_service..is.served, false);
        builder.merge_part(was.served..was.names.len() as u32, is.served..is.names.len() as u32, false);
        Some(builder.difference)
    }
}

struct DifferenceBuilder<'r> {
    old: &'r ServiceRecords,
    new: &'r ServiceRecords,
    remap: PoolRemap,
    difference: Difference,
}

impl DifferenceBuilder<'_> {
    /// Merges one part of each state: within a part the endpoints are sorted.
    fn merge_part(&mut self, old: Range<u32>, new: Range<u32>, in_service: bool) {
        let (mut at, mut to) = (old.start, new.start);
        while at < old.end || to < new.end {
            match self.compare(at, to, &old, &new) {
                Ordering::Equal => {
                    self.compare_endpoint(at, to, in_service);
                    (at, to) = (at + 1, to + 1);
                }
                Ordering::Less => {
                    self.difference.gone.push(at);
                    if in_service {
                        self.difference.gone_addresses.extend(ptr_records(&self.old.endpoints, at));
                    }
                    at += 1;
                }
                Ordering::Greater => {
                    self.difference.new.push(to);
                    if in_service {
                        self.difference.new_addresses.extend(ptr_records(&self.new.endpoints, to));
                    }
                    to += 1;
                }
            }
        }
    }

    /// Compares two names. `Less` if that of `at` is first, which is gone then.
    fn compare(&self, at: u32, to: u32, old: &Range<u32>, new: &Range<u32>) -> Ordering {
        if at == old.end {
            return Ordering::Greater;
        }
        let label = self.remap.get(self.old.endpoints.names[at as usize]);
        let (Some(label), true) = (label, to < new.end) else { return Ordering::Less };
        let by_label = label.order().cmp(&self.new.endpoints.names[to as usize].order());
        // Endpoints without a label are in the order of their addresses.
        if by_label.is_eq() && label.is_none() {
            return self.old.first_address(at).cmp(&self.new.first_address(to));
        }
        by_label
    }

    fn compare_endpoint(&mut self, at: u32, to: u32, in_service: bool) {
        if at != to {
            let count = self.old.endpoints.names.len() as u32;
            self.difference.numbers.get_or_insert_with(|| (0..count).collect())[at as usize] = to;
        }
        let (was, is) = (&self.old.endpoints, &self.new.endpoints);
        if in_service && !(was.v4.has_same_addresses(at, &is.v4, to) && was.v6.has_same_addresses(at, &is.v6, to)) {
            self.add_address_changes(
                &ptr_records(was, at).collect::<Vec<_>>(),
                &ptr_records(is, to).collect::<Vec<_>>(),
            );
        }
    }

    fn compare_own_addresses(&mut self) {
        let (old, new) = (self.old.own_addresses(), self.new.own_addresses());
        if old != new {
            let own = |(v4, v6)| addresses(v4, v6).map(|address| (address, PackedLabel::SERVICE)).collect::<Vec<_>>();
            self.add_address_changes(&own(old), &own(new));
        }
    }

    /// Compares the few addresses of one name.
    fn add_address_changes(&mut self, old: &[(IpAddr, PackedLabel)], new: &[(IpAddr, PackedLabel)]) {
        let not_in = |others: &[(IpAddr, PackedLabel)], address: IpAddr| others.iter().all(|other| other.0 != address);
        self.difference.gone_addresses.extend(old.iter().filter(|(address, _)| not_in(new, *address)));
        self.difference.new_addresses.extend(new.iter().filter(|(address, _)| not_in(old, *address)));
    }
}

fn ptr_records(endpoints: &EndpointColumns, endpoint: u32) -> impl Iterator<Item = (IpAddr, PackedLabel)> {
    let label = endpoints.names[endpoint as usize];
    addresses(endpoints.v4.values_of(endpoint), endpoints.v6.values_of(endpoint)).map(move |address| (address, label))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::cluster::{Cluster, Namespaces};
    use crate::name::label_pool::Label;
    use crate::naming_rules::NamingRules;
    use crate::object::{
        AddressFamily, Conditions, EndpointRow, EndpointSlice, Labels, Object, ObjectRef, Service, ServiceKind,
    };
    use crate::records::{EndpointLabel, service_records};

    /// Builds a headless Service from endpoints: `HOSTNAME ADDRESS`, `ADDRESS`, or either with `!` if it is not ready.
    fn records(endpoints: &str) -> ServiceRecords {
        let key = ObjectRef::new("default", "a");
        let row = |text: &str| {
            let (ready, text) = (!text.starts_with('!'), text.trim_start_matches('!'));
            let (hostname, address) =
                text.split_once(' ').map_or((None, text), |(name, address)| (Some(name), address));
            EndpointRow {
                address: address.parse().unwrap(),
                conditions: Conditions::new(Some(ready), None, None),
                hostname: hostname.map(Into::into),
                pod: None,
            }
        };
        let rows: Vec<EndpointRow> = endpoints.split(", ").filter(|text| !text.is_empty()).map(row).collect();
        let mut cluster = Cluster::new(Namespaces::Inferred, None);
        cluster.apply(Object::Service(Service {
            key: key.clone(),
            kind: ServiceKind::Headless,
            publish_not_ready: false,
            selector: Labels::default(),
            ports: Vec::new(),
            families: Vec::new(),
            family_policy: None,
        }));
        for (name, family) in [("four", AddressFamily::V4), ("six", AddressFamily::V6)] {
            let slice =
                EndpointSlice::new(ObjectRef::new("default", name), Some("a".into()), family, Vec::new(), &rows);
            cluster.apply(Object::EndpointSlice(slice));
        }
        service_records(&cluster.service(&key), NamingRules::default()).0.unwrap()
    }

    fn names(records: &ServiceRecords) -> BTreeMap<u32, Vec<u8>> {
        let name = |name: EndpointLabel<'_>| name.write(&mut [0; 63]).to_vec();
        (0..).zip(records.endpoint_names().map(name)).collect()
    }

    fn reverse(records: &ServiceRecords) -> BTreeSet<(IpAddr, String)> {
        let text =
            |label: PackedLabel| if label.is_none() { String::new() } else { records.name.label(label).to_string() };
        records.reverse().map(|(address, label, _)| (address, text(label))).collect()
    }

    #[test]
    fn changes_old_state_into_new_state() {
        let states = [
            "",
            "web-0 10.0.0.1, web-1 10.0.0.2, web-2 10.0.0.3",
            "web-0 10.0.0.1, web-1 10.0.0.9, web-2 10.0.0.3",
            "web-1 10.0.0.2, web-2 10.0.0.3, web-3 10.0.0.4",
            "web-0 10.0.0.1, !web-1 10.0.0.2, web-2 10.0.0.3",
            "!web-2 10.0.0.3, !web-1 10.0.0.2, web-0 10.0.0.1, db 10.0.0.1",
            "db 10.0.0.1, web-0 10.0.0.2, web-0 fd00::1",
            "web-0 fd00::2, web-0 10.0.0.2, cache-7 10.0.0.7, db 10.0.0.7",
            "10.0.0.1, 10.0.0.2, 10.0.0.3",
            "10.0.0.1, 10.0.0.3, 10.0.0.5, fd00::1",
            "10.0.0.1, !10.0.0.2, 10.0.0.3",
            "!10.0.0.1, 10.0.0.2, !10.0.0.3, web-1 10.0.0.4",
        ];
        let mut compared = 0;
        for (from, to) in states.iter().flat_map(|from| states.map(|to| (*from, to))) {
            let (old, new) = (records(from), records(to));
            let Some(difference) = new.difference_from(&old) else { continue };
            compared += 1;
            let mut made = names(&old);
            difference.gone.iter().for_each(|gone| _ = made.remove(gone));
            let renumbered =
                |(number, name)| (difference.numbers.as_ref().map_or(number, |to| to[number as usize]), name);
            let mut made: BTreeMap<u32, Vec<u8>> = made.into_iter().map(renumbered).collect();
            made.extend(difference.new.iter().map(|number| (*number, names(&new)[number].clone())));
            assert_eq!(made, names(&new), "from {from} to {to}");
            let text = |records: &ServiceRecords, (address, label): &(IpAddr, PackedLabel)| {
                let label = if label.is_none() { Label::new("") } else { records.name.label(*label) };
                (*address, label.to_string())
            };
            let mut leading = reverse(&old);
            difference.gone_addresses.iter().for_each(|gone| assert!(leading.remove(&text(&old, gone)), "once"));
            difference.new_addresses.iter().for_each(|one| assert!(leading.insert(text(&new, one)), "once"));
            assert_eq!(leading, reverse(&new), "from {from} to {to}");
        }
        assert!(compared > states.len() * states.len() / 2, "few states are sorted differently: {compared}");
        let difference = records(states[2]).difference_from(&records(states[1])).unwrap();
        assert_eq!((difference.gone.len(), difference.new.len(), difference.numbers), (0, 0, None));
        assert_eq!((difference.gone_addresses.len(), difference.new_addresses.len()), (1, 1));
    }
}
