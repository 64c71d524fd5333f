//! The choices that decide which names exist: options of the command line, as values for the pure files.

/// Which endpoints have their own name besides the ready ones (`--ordinals`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ordinals {
    /// None: only what the Service's name answers with has a name of its own.
    #[default]
    Ready,
    /// Those that are serving: Pods that are terminating but still answer.
    Serving,
    /// All of them.
    Any,
}

/// Which names a reverse look-up gives (`--ptr`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ptr {
    /// All names of the address.
    #[default]
    All,
    /// Names made of the address itself only where there is no other.
    HostnameOnly,
}

/// Whether `10-2-1-10.NAMESPACE.pod.Z` is answered (`--pod-records`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodRecords {
    /// Never.
    #[default]
    Off,
    /// With whatever address the name spells.
    Insecure,
    /// With addresses of Pods in that namespace.
    Verified,
}

/// Which objects list the endpoints of a Service (`--endpoints-source`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointsSource {
    /// EndpointSlices.
    #[default]
    Slices,
    /// Endpoints, deprecated since Kubernetes 1.33.
    Endpoints,
}

/// All of them that decide which records an object makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Which endpoints have their own name besides the ready ones.
    pub ordinals: Ordinals,
    /// Which names a reverse look-up gives.
    pub ptr: Ptr,
    /// Whether names of Pod addresses are answered.
    pub pod_records: PodRecords,
    /// Whether an endpoint without a hostname is also found by its Pod's name.
    pub endpoint_pod_names: bool,
}
