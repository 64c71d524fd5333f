//! Parser of the configuration of this machine's resolver: `/etc/resolv.conf` (resolv.conf(5)), and the line `hosts` of
//! `/etc/nsswitch.conf` (nsswitch.conf(5)).
//!
//! Parses as glibc does: unknown lines are ignored. Not here: queries to the servers (`commands/doctor/mod.rs`,
//! `commands/forward.rs`).

use std::net::{IpAddr, Ipv4Addr};

/// Path of the file.
pub const PATH: &str = "/etc/resolv.conf";

/// Settings of `resolv.conf` that are used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvConf {
    /// Addresses of the servers, in the order of their use; their port is 53.
    pub servers: Vec<IpAddr>,
    /// Search list: domains that are appended to short names.
    pub search: Vec<String>,
    /// Number of dots from which a name is tried without the search list first; default 1, at most 15.
    pub ndots: u32,
}

impl ResolvConf {
    /// Parses the text of the file. Without a server in it, the server is 127.0.0.1.
    pub fn parse(text: &str) -> Self {
        let mut read = Self { servers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            match words.next() {
                // Skip addresses with a zone id (fe80::1%eth0), which `IpAddr` cannot hold.
                Some("nameserver") => read.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok())),
                // The last line of both kinds wins.
                Some("search" | "domain") => read.search = words.map(ToOwned::to_owned).collect(),
                Some("options") => {
                    let ndots = words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok()).next_back();
                    read.ndots = ndots.unwrap_or(read.ndots).min(15);
                }
                _ => {}
            }
        }
        if read.servers.is_empty() {
            read.servers.push(Ipv4Addr::LOCALHOST.into());
        }
        read
    }
}

/// Returns the module of multicast DNS that `nsswitch.conf` lists for host names before `dns`, if any.
pub fn mdns_module(nsswitch: &str) -> Option<&str> {
    let hosts = nsswitch.lines().find_map(|line| line.trim().strip_prefix("hosts:"))?;
    hosts.split_whitespace().take_while(|module| *module != "dns").find(|module| module.starts_with("mdns"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_services_before_dns() {
        for (line, expected) in [
            ("hosts: files mdns4_minimal [NOTFOUND=return] dns", Some("mdns4_minimal")),
            ("passwd: files\nhosts:\tfiles dns mdns4", None),
            ("hosts: files resolve [!UNAVAIL=return] dns", None),
            ("# hosts: mdns dns", None),
        ] {
            assert_eq!(mdns_module(line), expected, "{line}");
        }
    }

    #[test]
    fn parses_resolv_conf_like_glibc() {
        let text = "# written by hand\n; nameserver 192.0.2.9\nnameserver 192.0.2.1\nnameserver\t2001:db8::1 # first\n\
                    nameserver fe80::1%eth0\nnameserver name\ndomain old.example\nsearch a.example b.example\n\
                    options edns0 ndots:5 trust-ad\nsortlist x\n";
        let read = ResolvConf::parse(text);
        assert_eq!(read.servers, ["192.0.2.1".parse::<IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);
        assert_eq!((read.search.as_slice(), read.ndots), (&["a.example".to_owned(), "b.example".to_owned()][..], 5));
        let none = ResolvConf::parse("options ndots:99\n");
        assert_eq!((none.servers, none.ndots), (vec![IpAddr::from([127, 0, 0, 1])], 15));
    }
}
