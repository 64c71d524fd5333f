//! Naming rules: the operator's choices about which endpoints have names, which PTR records exist, and the `pod`
//! branch.
//!
//! Plain values, applied in `records` and `zone`. Not here: the options that set them (`cli`), and the rest of the
//! configuration (`config`). Rule ids (E2, N9) are those of `tests/rows.md`.

/// Declares an enum whose variants have names for users, with `NAMES`, `Display`, and `FromStr` with a sentence as the
/// error.
#[macro_export]
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
            /// Names of all variants, in the order of the help text.
            pub const NAMES: &[&str] = &[$($name,)+];

            /// Returns the variant's name.
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
                    _ => Err(format!("{text:?} is not one of {}", Self::NAMES.join(", "))),
                }
            }
        }
    };
}

choices! {
    /// Endpoints that have a name of their own (`web-0.web.default.svc.Z`), independent of the Service's name.
    pub enum Ordinals {
        /// Ready endpoints, as at the Service's own name (Kubernetes DNS specification 2.4.1).
        #[default]
        Ready = "ready",
        /// Serving endpoints too, also while they terminate.
        Serving = "serving",
        /// Every endpoint with an address.
        Any = "any",
    }
}

impl Ordinals {
    /// Returns whether an endpoint that does not count at the Service's name has a name of its own (E2, E3).
    pub fn keeps(self, serving: bool) -> bool {
        match self {
            Self::Ready => false,
            Self::Serving => serving,
            Self::Any => true,
        }
    }
}

choices! {
    /// Names of an endpoint that get PTR records at its address.
    pub enum Ptr {
        /// One PTR record for each endpoint name.
        #[default]
        All = "all",
        /// Names from hostnames; a dashed address only if there is no hostname.
        HostnameOnly = "hostname-only",
    }
}

choices! {
    /// Contents of `10-2-1-10.NAMESPACE.pod.Z`.
    pub enum PodRecords {
        /// NXDOMAIN.
        #[default]
        Off = "off",
        /// The address that the name spells, even if no Pod has it.
        Insecure = "insecure",
        /// The address that the name spells, if a Pod of the namespace has it.
        Verified = "verified",
    }
}

choices! {
    /// Objects that the endpoints of a Service are read from.
    pub enum EndpointsSource {
        /// EndpointSlices.
        #[default]
        Slices = "slices",
        /// Endpoints objects, deprecated since Kubernetes 1.33.
        Endpoints = "endpoints",
    }
}

/// Rules by which names are made from objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamingRules {
    /// Endpoints that have a name of their own.
    pub ordinals: Ordinals,
    /// Names that get PTR records.
    pub ptr: Ptr,
    /// Contents of the `pod` branch.
    pub pod_records: PodRecords,
    /// An endpoint without a hostname is named by its Pod, and its dashed address is an alias (N9).
    pub endpoint_pod_names: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_formatted_choices() {
        for name in Ordinals::NAMES {
            assert_eq!(name.parse::<Ordinals>().unwrap().to_string(), *name);
        }
        assert_eq!("hostname-only".parse(), Ok(Ptr::HostnameOnly));
        assert_eq!("some".parse::<Ptr>(), Err("\"some\" is not one of all, hostname-only".into()));
        assert_eq!(NamingRules::default().pod_records, PodRecords::Off);
    }
}
