//! The configuration of this machine's resolver: `/etc/resolv.conf` (resolv.conf(5)), and what comes before DNS.
//!
//! Read as glibc reads it: what it does not know is passed over. Not here: who asks the servers that it names.

use std::net::{IpAddr, Ipv4Addr};

/// Where it is.
pub const PATH: &str = "/etc/resolv.conf";

/// What matters of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvConf {
    /// The servers that are asked, on port 53, in this order.
    pub servers: Vec<IpAddr>,
    /// What is put behind short names.
    pub search: Vec<String>,
    /// A name with so many dots is asked for as it is first.
    pub ndots: u32,
}

impl ResolvConf {
    /// Reads the text of the file. Without a server in it, the server is this machine.
    pub fn parse(text: &str) -> Self {
        let mut read = Self { servers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            match words.next() {
                // A zone (fe80::1%eth0) has no place in an address here.
                Some("nameserver") => read.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok())),
                // The last of both wins.
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

/// The module of multicast DNS that `nsswitch.conf` asks for host names before DNS, if there is one (nsswitch.conf(5)).
pub fn mdns_module(nsswitch: &str) -> Option<&str> {
    let hosts = nsswitch.lines().find_map(|line| line.trim().strip_prefix("hosts:"))?;
    hosts.split_whitespace().take_while(|module| *module != "dns").find(|module| module.starts_with("mdns"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked_before_dns() {
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
    fn what_glibc_reads() {
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
