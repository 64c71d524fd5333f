//! Endpoints -> the EndpointSlices that the mirroring controller makes of them (Kubernetes,
//! `pkg/controller/endpointslicemirroring`): for a Service without a selector, with Endpoints written by hand. Services
//! with a selector are those of `slices.rs`.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::slices::{Owners, unused_name};
use crate::object::{
    AddressFamily, EndpointPort, EndpointRow, EndpointSlice, Endpoints, Object, ObjectRef, Service, SliceManager,
};

/// Returns the slices of each Endpoints object, if its Service has none of the mirroring controller yet. `names` are
/// the names of all slices so far.
pub(super) fn slices(objects: &[Object], written: &Owners<'_>, names: &mut HashSet<ObjectRef>) -> Vec<EndpointSlice> {
    let mut services: HashMap<&ObjectRef, &Service> = HashMap::new();
    for object in objects {
        if let Object::Service(service) = object
            && service.selector.is_empty()
            && !written.contains(SliceManager::Mirroring, &service.key)
        {
            services.insert(&service.key, service);
        }
    }
    let mut slices = Vec::new();
    for object in objects {
        if let Object::Endpoints(endpoints) = object
            && let Some(service) = services.get(&endpoints.key)
        {
            slices.extend(slices_of(service, endpoints, names));
        }
    }
    slices
}

/// Returns one slice for each family and set of ports, in whatever order the ports are.
fn slices_of(service: &Service, endpoints: &Endpoints, names: &mut HashSet<ObjectRef>) -> Vec<EndpointSlice> {
    let mut groups: BTreeMap<(AddressFamily, Vec<EndpointPort>), Vec<EndpointRow>> = BTreeMap::new();
    for (slice, copied) in endpoints.slices.iter().zip(&endpoints.mirrored).filter(|(_, copied)| **copied > 0) {
        let mut ports = slice.ports.to_vec();
        ports.sort();
        let rows = slice.endpoints().take(*copied).map(|endpoint| EndpointRow {
            address: endpoint.address,
            conditions: endpoint.conditions,
            hostname: endpoint.hostname.map(|label| label.to_string().into()),
            pod: endpoint.pod.map(|label| label.to_string().into()),
        });
        groups.entry((slice.family(), ports)).or_default().extend(rows);
    }
    let slice = |(number, ((family, ports), rows)): (usize, ((AddressFamily, _), Vec<_>))| {
        let key = unused_name(service, number, 0, names);
        EndpointSlice::new(key, Some(service.key.name.clone()), family, ports, &rows)
            .managed_by(SliceManager::Mirroring)
    };
    groups.into_iter().enumerate().map(slice).collect()
}
