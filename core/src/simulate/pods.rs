//! Workloads -> the Pods that their controllers would make.
//!
//! Names, labels, hostnames and subdomains are those of the controllers. Letters that a controller draws at random come
//! from the hash of the workload's name. Not here: addresses (`mod.rs`) and EndpointSlices (`slices.rs`).

use std::collections::HashSet;
use std::fmt;

use super::addresses::hash;
use crate::name::is_label;
use crate::object::{
    Object, ObjectRef, OwnerRef, Pod, PodTemplate, Reason, Skipped, StatefulSet, Workload, WorkloadKind,
};

/// Workloads by kind, namespace and name.
pub(super) type ExistingWorkloads<'o> = HashSet<(&'o str, &'o str, &'o str)>;

/// Returns the workloads that have Pods, or ReplicaSets, in the files: they are not simulated.
pub(super) fn existing_workloads(objects: &[Object]) -> ExistingWorkloads<'_> {
    let mut occupied = ExistingWorkloads::new();
    for object in objects {
        match object {
            Object::Pod(pod) => match &pod.owner {
                Some(owner) => {
                    occupied.insert((&owner.kind, &pod.key.namespace, &owner.name));
                    // The files may lack the ReplicaSet between a Pod and its Deployment: the name of the ReplicaSet
                    // gives that of the Deployment.
                    if let Some(hash) = pod.labels.get("pod-template-hash")
                        && let Some(deployment) = owner.name.strip_suffix(hash)
                    {
                        occupied.insert(("Deployment", &pod.key.namespace, deployment.trim_end_matches('-')));
                    }
                }
                // The StatefulSet controller adopts a Pod that has the name of one of its own.
                None => {
                    if let Some((set, ordinal)) = pod.key.name.rsplit_once('-')
                        && ordinal.parse::<u32>().is_ok()
                    {
                        occupied.insert(("StatefulSet", &pod.key.namespace, set));
                    }
                }
            },
            Object::Workload(Workload { key, owner: Some(owner), .. }) => {
                occupied.insert((&owner.kind, &key.namespace, &owner.name));
            }
            _ => {}
        }
    }
    occupied
}

/// Pods to be made for one workload.
pub(super) struct PodPlan<'o> {
    kind: &'static str,
    key: &'o ObjectRef,
    template: &'o PodTemplate,
    scheme: Scheme<'o>,
    /// Number of Pods.
    pub(super) count: u32,
}

impl fmt::Display for PodPlan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}

/// Naming scheme of a workload's Pods.
enum Scheme<'o> {
    /// `<name>-<ordinal>`, with the governing Service as subdomain.
    Ordinals { start: u32, service: &'o str },
    /// `<name>-<5 letters>`, or for a Deployment `<name>-<10 letters>-<5 letters>`.
    Random { hash: Option<String> },
    /// `<name>-<index>-<5 letters>`, and the hostname without the letters.
    Indexed,
}

impl<'o> PodPlan<'o> {
    /// Returns the Pods that a workload's controller would make; `None` for an object that is no workload.
    pub(super) fn from_object(object: &'o Object) -> Option<Self> {
        match object {
            Object::StatefulSet(set) => Some(Self::stateful_set(set)),
            Object::Workload(workload) => Some(Self::workload(workload)),
            _ => None,
        }
    }

    fn stateful_set(set: &'o StatefulSet) -> Self {
        let scheme = Scheme::Ordinals { start: set.start, service: &set.service_name };
        Self { kind: "StatefulSet", key: &set.key, template: &set.template, scheme, count: set.replicas }
    }

    fn workload(workload: &'o Workload) -> Self {
        let key = &workload.key;
        let scheme = match workload.kind {
            WorkloadKind::Job { indexed: true } => Scheme::Indexed,
            WorkloadKind::Deployment | WorkloadKind::Rollout => {
                Scheme::Random { hash: Some(random_letters(hash(&["template", &key.namespace, &key.name]), 10)) }
            }
            _ => Scheme::Random { hash: None },
        };
        Self { kind: workload.kind.name(), key, template: &workload.template, scheme, count: workload.replicas }
    }

    /// Returns the key by which addresses are given in order, so that the order of the files does not matter.
    pub(super) fn sort_key(&self) -> (&ObjectRef, &str) {
        (self.key, self.kind)
    }

    /// Returns whether the workload has Pods, or a ReplicaSet, in the files.
    pub(super) fn is_occupied(&self, occupied: &ExistingWorkloads<'_>) -> bool {
        occupied.contains(&(self.kind, &*self.key.namespace, &*self.key.name))
    }

    /// Returns the error of a workload that gets no Pods although it asks for some.
    pub(super) fn name_error(&self) -> Option<Skipped> {
        let Scheme::Ordinals { start, .. } = self.scheme else { return None };
        let last = u64::from(start) + u64::from(self.count.saturating_sub(1));
        if self.count == 0 || is_label(&format!("{}-{last}", self.key.name)) {
            return None;
        }
        let text = format!(
            "{self}: the name {}-{last} of its last Pod is not a DNS label (1 to 63 letters, digits and inner \
             hyphens), as a Pod's hostname must be; the workload gets no Pods",
            self.key.name
        );
        Some(Skipped { reason: Reason::Name, object: Some(self.key.clone()), text })
    }

    /// Returns Pod number `index`, without an address; `None` if the files have another Pod of its name. `names` are
    /// the names of all Pods so far.
    pub(super) fn pod(&self, index: u32, names: &mut HashSet<ObjectRef>) -> Option<Pod> {
        let mut pod = Pod {
            key: self.key.clone(),
            labels: self.template.labels.clone(),
            spec: self.template.spec.clone(),
            owner: Some(OwnerRef { kind: self.kind.into(), name: self.key.name.clone() }),
            ready: Some(true),
            ..Pod::default()
        };
        let mut label = |key: &str, value: &str| pod.labels.insert(key.into(), value.into());
        if self.kind == "Job" {
            label("job-name", &self.key.name);
            label("batch.kubernetes.io/job-name", &self.key.name);
        }
        match &self.scheme {
            Scheme::Ordinals { start, service } => {
                let ordinal = u64::from(*start) + u64::from(index);
                let name = format!("{}-{ordinal}", self.key.name);
                label("statefulset.kubernetes.io/pod-name", &name);
                label("apps.kubernetes.io/pod-index", &ordinal.to_string());
                // pkg/controller/statefulset: initIdentity and updateIdentity.
                pod.spec.hostname = Some(name.as_str().into());
                pod.spec.subdomain = (!service.is_empty()).then(|| (*service).into());
                pod.key.name = name.into();
                names.insert(pod.key.clone()).then_some(pod)
            }
            Scheme::Indexed => {
                label("batch.kubernetes.io/job-completion-index", &index.to_string());
                // pkg/controller/job: the hostname is set in any case, even if the template has one.
                let hostname = format!("{}-{index}", self.key.name);
                pod.spec.hostname = Some(hostname.as_str().into());
                Some(self.name_randomly(pod, &hostname, index, names))
            }
            Scheme::Random { hash: Some(hash) } => {
                label("pod-template-hash", hash);
                let set = format!("{}-{hash}", self.key.name);
                pod.owner = Some(OwnerRef { kind: "ReplicaSet".into(), name: set.as_str().into() });
                Some(self.name_randomly(pod, &set, index, names))
            }
            Scheme::Random { hash: None } => Some(self.name_randomly(pod, &self.key.name, index, names)),
        }
    }

    /// Names a Pod as the API server does for `generateName`: the base cut to 58 octets, and five letters.
    fn name_randomly(&self, mut pod: Pod, base: &str, index: u32, names: &mut HashSet<ObjectRef>) -> Pod {
        let mut prefix = format!("{base}-");
        // A manifest's name may hold characters outside ASCII, which the API server would refuse.
        let end = (0..=58.min(prefix.len())).rev().find(|at| prefix.is_char_boundary(*at));
        prefix.truncate(end.unwrap_or_default());
        let mut seed = hash(&["pod", self.kind, &self.key.namespace, &self.key.name, &index.to_string()]);
        loop {
            pod.key.name = format!("{prefix}{}", random_letters(seed, 5)).into();
            if names.insert(pod.key.clone()) {
                return pod;
            }
            seed = seed.wrapping_add(1);
        }
    }
}

/// Returns `count` letters of a random name, from the API server's alphabet without vowels, so that no words result.
pub(super) fn random_letters(mut seed: u64, count: usize) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let letter = |_| {
        let letter = ALPHABET[(seed % 27) as usize];
        seed /= 27;
        char::from(letter)
    };
    (0..count).map(letter).collect()
}
