//! Address families of a Service, by the API server's defaulting (Kubernetes,
//! `pkg/registry/core/service/storage/alloc.go`). The addresses themselves are those of `addresses.rs`.

use crate::object::{AddressFamily, FamilyPolicy, Service, ServiceKind};

/// Returns the families of a Service, if `cluster` are the families of the cluster, of which the first is the default;
/// none for an ExternalName.
pub(super) fn families_of(service: &Service, cluster: &[AddressFamily]) -> Vec<AddressFamily> {
    if matches!(service.kind, ServiceKind::ExternalName(_)) {
        return Vec::new();
    }
    let mut families = service.families.clone();
    service.own_addresses().for_each(|address| add_family(&mut families, AddressFamily::from_address(address)));
    if families.is_empty() {
        families.extend(cluster.first());
    }
    let without_selector = service.kind == ServiceKind::Headless && service.selector.is_empty();
    let more = match service.family_policy {
        Some(FamilyPolicy::SingleStack) => &[],
        Some(FamilyPolicy::PreferDualStack) => cluster,
        None if !without_selector => &[],
        Some(FamilyPolicy::RequireDualStack) | None => &[AddressFamily::V4, AddressFamily::V6][..],
    };
    more.iter().for_each(|family| add_family(&mut families, *family));
    families
}

fn add_family(families: &mut Vec<AddressFamily>, family: AddressFamily) {
    if !families.contains(&family) {
        families.push(family);
    }
}
