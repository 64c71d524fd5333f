//! Findings about the target of an ExternalName Service.

use super::Detector;
use crate::diagnose::finding::Finding;
use crate::diagnose::label::{label_text, service_ref};
use crate::name::{
    MAX_CHAIN, NameKind, QueryName, ServiceKey, WireName, classify, is_address, service_key, wire_labels,
};
use crate::object::{ObjectRef, ServiceKind};

impl Detector<'_> {
    /// Follows an ExternalName through the zone's Services (row N14 of `tests/rows.md`), and reports a bad end.
    pub(in crate::diagnose) fn detect_external_name(&mut self, key: &ObjectRef, target: &str) {
        let bad = |value: &str| Finding::BadExternalName { service: key.clone(), value: value.into() };
        if is_address(target) {
            return self.report(bad(target));
        }
        let Ok(mut next) = WireName::parse(target) else { return self.report(bad(target)) };
        let dangling =
            |target: WireName, endpoint: bool| Finding::ExternalNameDangling { service: key.clone(), target, endpoint };
        let mut visited = vec![key.clone()];
        let mut query = QueryName::default();
        loop {
            query.set(&next);
            let Some((_, apex_at)) = self.view.apex_of(&query) else { return self.report_outside_target(key, next) };
            let target = match classify(&query, apex_at) {
                NameKind::Service(target) => service_ref(target),
                NameKind::Endpoint(target, label) => {
                    let (target, label) = (service_ref(target), label_text(label));
                    if self.reads_namespace(&target) && self.is_search() && !self.resolves(&target, &[label]) {
                        self.report(dangling(next, self.exists(&target)));
                    }
                    return;
                }
                NameKind::Invalid => return self.report(dangling(next, false)),
                _ => return,
            };
            if !self.reads_namespace(&target) {
                return;
            }
            if visited.contains(&target) {
                return self.report(Finding::ExternalNameLoop { service: key.clone() });
            }
            if visited.len() > MAX_CHAIN {
                return self.report(Finding::ExternalNameLong { service: key.clone(), most: MAX_CHAIN });
            }
            match self.view.cluster.service(&target).service.map(|service| &service.kind) {
                None => return self.report(dangling(next, false)),
                Some(ServiceKind::ExternalName(further)) => match WireName::parse(further) {
                    Ok(further) => next = further,
                    Err(_) => return,
                },
                Some(_) => return,
            }
            visited.push(target);
        }
    }

    /// Reports an ExternalName with a target in no zone: a name outside the cluster, or one of the cluster without its zone.
    fn report_outside_target(&mut self, key: &ObjectRef, target: WireName) {
        if !self.is_search() {
            return;
        }
        let labels: Vec<&[u8]> = wire_labels(target.octets()).collect();
        let short: Vec<String> = labels.iter().map(|label| label_text(label)).collect();
        let (short, is_svc) = match short.split_last() {
            Some((last, rest)) if last == "svc" => (rest, true),
            _ => (&short[..], false),
        };
        let service = match short {
            [service] if !is_svc => ObjectRef::new(&key.namespace, service),
            [.., service, namespace] if is_svc || short.len() == 2 => ObjectRef::new(namespace, service),
            _ => return self.report(Finding::ExternalNameOutside { service: key.clone(), target }),
        };
        let wire_key = service_key(&service.namespace, &service.name).filter(|_| self.exists(&service));
        let front = &labels[..short.len().saturating_sub(2)];
        let meant = wire_key.and_then(|wire_key| self.view.apexes.first()?.for_service(ServiceKey(&wire_key), front));
        let service = key.clone();
        self.report(match meant {
            Some(meant) => Finding::ExternalNameShort { service, target, meant },
            None => Finding::ExternalNameOutside { service, target },
        });
    }
}
