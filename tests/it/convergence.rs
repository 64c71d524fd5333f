//! Any order of events gives the same zone as building it from the remaining objects.
//!
//! Random histories of applies, deletes, repeats and relists over a small cluster run through [`Cluster`] and [`Zone`] step by
//! step; a second zone is built from the remaining objects, in another order. Both must hold the same records, and give the
//! same octets for every name that the history could have touched.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::common;
use headless_dns_core::answer::Transport;
use headless_dns_core::cluster::{Cluster, Contributor, Namespaces, Resource};
use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::{ReverseZones, reverse_name};
use headless_dns_core::naming_rules::{NamingRules, Ordinals, PodRecords, Ptr};
use headless_dns_core::object::{
    AddressFamily, Conditions, EndpointPort, EndpointRow, EndpointSlice, Endpoints, Labels, Namespace, Object,
    ObjectRef, Pod, PodTemplate, Protocol, Service, ServiceKind, ServicePort, StatefulSet, TargetPort,
};
use headless_dns_core::records::{NameServer, contribution};
use headless_dns_core::rtype;
use headless_dns_core::zone::{Settings, Zone};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const NAMESPACES: [&str; 2] = ["one", "two"];
const SERVICES: [&str; 3] = ["a", "b", "c"];
const SLICES: [&str; 4] = ["s1", "s2", "s3", "s4"];
const HOSTS: [&str; 4] = ["a-0", "a-1", "b-0", "db"];
const PODS: [&str; 3] = ["a-0", "p-x1", "q"];

type Key = (Resource, ObjectRef);

/// One event of a history.
#[allow(clippy::large_enum_variant, reason = "a history is short")]
#[derive(Clone, Debug)]
enum Event {
    Apply(Object),
    /// The object that is at this place among those that are known, again.
    Repeat(prop::sample::Index),
    Delete(prop::sample::Index),
    /// A relist of everything, without the objects at the positions in the mask.
    Relist(u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => object().prop_map(Event::Apply),
        2 => any::<prop::sample::Index>().prop_map(Event::Repeat),
        3 => any::<prop::sample::Index>().prop_map(Event::Delete),
        1 => any::<u32>().prop_map(Event::Relist),
    ]
}

fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        1 => namespace().prop_map(|name| Object::Namespace(Namespace::new(name))),
        4 => service().prop_map(Object::Service),
        6 => slice().prop_map(Object::EndpointSlice),
        1 => endpoints().prop_map(Object::Endpoints),
        1 => pod().prop_map(Object::Pod),
        2 => stateful_set().prop_map(Object::StatefulSet),
    ]
}

fn namespace() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&NAMESPACES[..])
}

fn key(names: &'static [&'static str]) -> impl Strategy<Value = ObjectRef> {
    (namespace(), prop::sample::select(names)).prop_map(|(namespace, name)| ObjectRef::new(namespace, name))
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (1u8..6).prop_map(|last| IpAddr::from([10, 1, 0, last])),
        (1u16..4).prop_map(|last| { IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]) })
    ]
}

fn port() -> impl Strategy<Value = EndpointPort> {
    let name = prop::sample::select(&["", "http", "db"][..]);
    (name, prop::sample::select(&Protocol::ALL[..2]), 80u16..82).prop_map(|(name, protocol, number)| EndpointPort {
        name: name.into(),
        protocol,
        number,
    })
}

fn service() -> impl Strategy<Value = Service> {
    let kind = prop_oneof![
        4 => Just(ServiceKind::Headless),
        2 => prop::collection::vec(address(), 0..3).prop_map(ServiceKind::ClusterIp),
        1 => prop::sample::select(&["b.one.svc.z.test", "a.two.svc.z.test", "example.test", "10.0.0.1"][..])
            .prop_map(|name| ServiceKind::ExternalName(name.into())),
    ];
    let ports = prop::collection::vec(port(), 0..3);
    (key(&SERVICES), kind, any::<bool>(), ports).prop_map(|(key, kind, publish_not_ready, ports)| Service {
        key,
        kind,
        publish_not_ready,
        selector: Labels::default(),
        ports: ports
            .into_iter()
            .map(|port| ServicePort {
                target: TargetPort::Number(port.number),
                name: port.name,
                protocol: port.protocol,
                number: port.number,
            })
            .collect(),
        families: Vec::new(),
        family_policy: None,
    })
}

fn row() -> impl Strategy<Value = EndpointRow> {
    let host = prop::option::of(prop::sample::select(&HOSTS[..]));
    let pod = prop::option::of(prop::sample::select(&PODS[..]));
    (address(), any::<(Option<bool>, Option<bool>, Option<bool>)>(), host, pod).prop_map(
        |(address, (ready, serving, terminating), host, pod)| EndpointRow {
            address,
            conditions: Conditions::new(ready, serving, terminating),
            hostname: host.map(Into::into),
            pod: pod.map(Into::into),
        },
    )
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    let service = prop::option::weighted(0.9, prop::sample::select(&SERVICES[..]));
    let family = prop::sample::select(&[AddressFamily::V4, AddressFamily::V6][..]);
    let (ports, rows) = (prop::collection::vec(port(), 0..3), prop::collection::vec(row(), 0..4));
    (key(&SLICES), service, family, ports, rows).prop_map(|(key, service, family, ports, rows)| {
        EndpointSlice::new(key, service.map(Into::into), family, ports, &rows)
    })
}

fn endpoints() -> impl Strategy<Value = Endpoints> {
    (key(&SERVICES), slice()).prop_map(|(key, slice)| Endpoints {
        key,
        mirrored: vec![slice.len()],
        slices: vec![slice],
    })
}

fn pod() -> impl Strategy<Value = Pod> {
    (key(&PODS), prop::collection::vec(address(), 0..2), any::<bool>()).prop_map(|(key, addresses, finished)| Pod {
        key,
        addresses,
        finished,
        ..Pod::default()
    })
}

fn stateful_set() -> impl Strategy<Value = StatefulSet> {
    (key(&SERVICES), prop::sample::select(&SERVICES[..]), 0u32..3, 0u32..2).prop_map(
        |(key, service, replicas, start)| StatefulSet {
            key,
            service_name: service.into(),
            replicas,
            start,
            parallel: false,
            selector: Default::default(),
            template: PodTemplate::default(),
        },
    )
}

fn rules() -> impl Strategy<Value = (NamingRules, Namespaces)> {
    let namespaces = prop::sample::select(&[Namespaces::Declared, Namespaces::Inferred][..]);
    (0usize..3, any::<bool>(), 0usize..3, any::<bool>(), namespaces).prop_map(
        |(ordinals, all, pods, endpoint_pod_names, namespaces)| {
            let rules = NamingRules {
                ordinals: [Ordinals::Ready, Ordinals::Serving, Ordinals::Any][ordinals],
                ptr: if all { Ptr::All } else { Ptr::HostnameOnly },
                pod_records: [PodRecords::Off, PodRecords::Insecure, PodRecords::Verified][pods],
                endpoint_pod_names,
            };
            (rules, namespaces)
        },
    )
}

/// A cluster and the zone that follows it.
struct Follower {
    cluster: Cluster,
    zone: Arc<Zone>,
    rules: NamingRules,
}

impl Follower {
    fn new((rules, namespaces): (NamingRules, Namespaces)) -> Self {
        let apexes = vec![WireName::parse("z.test").unwrap(), WireName::parse("alias.test").unwrap()];
        let reverse = ReverseZones::new(["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        Self {
            cluster: Cluster::new(namespaces, Some(ObjectRef::new("one", "a"))),
            zone: Arc::new(Zone::new(Settings { apexes, ttl: 5, negative_ttl: 5, rules }, reverse)),
            rules,
        }
    }

    fn publish(&self, mut dirty: Vec<Contributor>) {
        dirty.sort();
        dirty.dedup();
        let name_server = NameServer::default();
        let contribute =
            |contributor: &Contributor| contribution(&self.cluster, contributor, self.rules, &name_server).0;
        self.zone.publish(dirty.iter().map(contribute).collect(), 0);
    }
}

/// Runs a history, and returns the remaining objects.
fn run(history: &[Event], follower: &mut Follower) -> BTreeMap<Key, Object> {
    let mut known: BTreeMap<Key, Object> = BTreeMap::new();
    for event in history {
        let dirty = match event {
            Event::Apply(object) => {
                let key = ObjectRef::new(object.namespace(), object.name());
                known.insert((Resource::for_object(object), key), object.clone());
                follower.cluster.apply(object.clone())
            }
            Event::Repeat(place) if !known.is_empty() => {
                let object = known.values().nth(place.index(known.len())).unwrap();
                let dirty = follower.cluster.apply(object.clone());
                assert!(dirty.is_empty(), "nothing changed, and {dirty:?} is dirty");
                dirty
            }
            Event::Delete(place) if !known.is_empty() => {
                let key = known.keys().nth(place.index(known.len())).unwrap().clone();
                known.remove(&key);
                follower.cluster.delete(key.0, &key.1)
            }
            Event::Relist(mask) => relist(*mask, &mut known, follower),
            _ => Vec::new(),
        };
        follower.publish(dirty);
    }
    known
}

fn relist(mask: u32, known: &mut BTreeMap<Key, Object>, follower: &mut Follower) -> Vec<Contributor> {
    let mut place = 0;
    known.retain(|_, _| {
        place += 1;
        mask & (1 << (place % 32)) == 0
    });
    for resource in Resource::ALL {
        follower.cluster.begin_relist(resource);
    }
    let mut dirty: Vec<Contributor> = Vec::new();
    for object in known.values().rev() {
        dirty.extend(follower.cluster.apply(object.clone()));
    }
    for resource in Resource::ALL {
        dirty.extend(follower.cluster.finish_relist(resource));
    }
    dirty
}

fn questions() -> Vec<WireName> {
    let mut names = vec!["z.test".to_string(), "svc.z.test".into(), "ns.dns.z.test".into(), "alias.test".into()];
    for namespace in NAMESPACES {
        names.push(format!("{namespace}.svc.z.test"));
        names.push(format!("{namespace}.pod.z.test"));
        names.push(format!("10-1-0-1.{namespace}.pod.z.test"));
        for service in SERVICES {
            let service = format!("{service}.{namespace}.svc.z.test");
            names.extend(HOSTS.iter().chain(&PODS).map(|host| format!("{host}.{service}")));
            names.extend(["10-1-0-1", "fd00--2"].map(|host| format!("{host}.{service}")));
            names.extend(["_tcp", "_udp"].map(|protocol| format!("{protocol}.{service}")));
            names.extend(["_http._tcp", "_db._udp"].map(|port| format!("{port}.{service}")));
            names.push(service);
        }
    }
    let mut names: Vec<WireName> = names.iter().map(|name| WireName::parse(name).unwrap()).collect();
    names.extend((1..6).map(|last| reverse_name(IpAddr::from([10, 1, 0, last]))));
    names.extend((1..4).map(|last| reverse_name(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]))));
    names.extend(["0.1.10.in-addr.arpa", "1.10.in-addr.arpa"].map(|name| WireName::parse(name).unwrap()));
    names
}

fn check(history: &[Event], rules: (NamingRules, Namespaces), questions: &[WireName]) {
    let mut follower = Follower::new(rules);
    let left = run(history, &mut follower);
    let mut fresh = Follower::new(rules);
    for object in left.into_values().rev() {
        fresh.cluster.apply(object);
    }
    fresh.publish(fresh.cluster.contributors());
    for origin in fresh.zone.origins() {
        let (stepwise, at_once) = (follower.zone.records(&origin), fresh.zone.records(&origin));
        assert_eq!(stepwise, at_once, "records of {origin}");
    }
    let mut engines = [&follower.zone, &fresh.zone].map(|zone| common::Engine::new(Arc::clone(zone)));
    for name in questions {
        for qtype in [rtype::A, rtype::AAAA, rtype::SRV, rtype::PTR] {
            let query = common::query(0xffff, name.octets(), qtype, Some(1232));
            // In step: both have been asked as often, and rotate RRsets alike.
            let [stepwise, at_once] = engines.each_mut().map(|engine| engine.ask(Transport::Udp, &query));
            assert_eq!(stepwise, at_once, "{name} {qtype}");
        }
    }
}

#[test]
fn any_history_converges_to_same_zone() {
    let cases = u32::try_from(common::scaled(100_000)).unwrap();
    let questions = questions();
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let result = runner.run(&(prop::collection::vec(event(), 1..40), rules()), |(history, rules)| {
        check(&history, rules, &questions);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}
