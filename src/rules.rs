//! The choices an operator has in how names are made: which endpoints count, which PTR records stand, what the
//! `pod` branch answers.
//!
//! They are plain values for the pure files, which obey them. Not here: how they are asked for (`cli`) and
//! everything of the configuration that is not a rule of names (`config`).

/// Declares an enum whose variants are words that people write: its names, `Display`, and `FromStr` with a sentence
/// for an error.
macro_rules! choices {
    (
        $(#[$meta:meta])*
        pub enum $choice:ident { $($(#[$variant_meta:meta])* $variant:ident = $name:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub enum $choice {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $choice {
            /// How each is written, in the order in which they are shown.
            pub const NAMES: &[&str] = &[$($name,)+];

            /// How it is written.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }

        impl ::std::fmt::Display for $choice {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl ::std::str::FromStr for $choice {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($name => Ok(Self::$variant),)+
                    _ => Err(format!("{text:?} is none of {}", Self::NAMES.join(", "))),
                }
            }
        }
    };
}

pub(crate) use choices;

choices! {
    /// Which endpoints have a name of their own (`web-0.web.default.svc.Z`), whatever stands at the Service's name.
    pub enum Ordinals {
        /// Those that are ready, as the Service's own name (Kubernetes DNS specification 2.4.1).
        #[default]
        Ready = "ready",
        /// Those that serve too: also while they terminate.
        Serving = "serving",
        /// Every one that has an address.
        Any = "any",
    }
}

impl Ordinals {
    /// Whether an endpoint that its Service's name is not answered with keeps a name of its own (E2, E3).
    pub fn keeps(self, serving: bool) -> bool {
        match self {
            Self::Ready => false,
            Self::Serving => serving,
            Self::Any => true,
        }
    }
}

choices! {
    /// Which names of an endpoint its address points back to.
    pub enum Ptr {
        /// One PTR for each endpoint name.
        #[default]
        All = "all",
        /// Names made of a hostname; a dashed address only where there is no hostname.
        HostnameOnly = "hostname-only",
    }
}

choices! {
    /// What `10-2-1-10.NAMESPACE.pod.Z` answers.
    pub enum PodRecords {
        /// NXDOMAIN.
        #[default]
        Off = "off",
        /// Any address that the name spells, whether a Pod has it or not.
        Insecure = "insecure",
        /// An address only if a Pod of that namespace has it.
        Verified = "verified",
    }
}

choices! {
    /// Which objects say where a Service's endpoints are.
    pub enum EndpointsSource {
        /// EndpointSlices.
        #[default]
        Slices = "slices",
        /// The older Endpoints objects, deprecated since Kubernetes 1.33.
        Endpoints = "endpoints",
    }
}

/// How names are made from objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Which endpoints have a name of their own.
    pub ordinals: Ordinals,
    /// Which names an address points back to.
    pub ptr: Ptr,
    /// What the `pod` branch answers.
    pub pod_records: PodRecords,
    /// True if an endpoint without a hostname is called by its Pod's name, and its dashed address is an alias (N9).
    pub endpoint_pod_names: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_read_what_they_write() {
        for name in Ordinals::NAMES {
            assert_eq!(name.parse::<Ordinals>().unwrap().to_string(), *name);
        }
        assert_eq!("hostname-only".parse(), Ok(Ptr::HostnameOnly));
        assert_eq!("some".parse::<Ptr>(), Err("\"some\" is none of all, hostname-only".into()));
        assert_eq!(Rules::default().pod_records, PodRecords::Off);
    }
}
