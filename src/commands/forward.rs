//! From `--forward` and `--external-name-upstream` to the addresses of upstreams, none of which is this server. Not here:
//! queries to upstreams (`server/forward/`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use anyhow::{Context as _, bail};
use ipnet::IpNet;

use crate::config::resolv::{PATH, ResolvConf};
use crate::config::{self, ForwardConfig};
use crate::regular_file::{self, MAX_SMALL_FILE};
use crate::server::forward::{Forwarder, Upstream, UpstreamProtocol};
use headless_dns_core::answer::ForwardPolicy;
use headless_dns_core::name::special::SpecialNames;

/// Returns the forwarding policy and the forwarder; `None` without upstreams. This server listens on `own`, over TLS on
/// `own_tls`.
///
/// # Errors
///
/// If an upstream is this server, `/etc/resolv.conf` cannot be read, or TLS cannot be set up.
pub(super) fn forwarding(
    forward: &ForwardConfig,
    own: &[SocketAddr],
    own_tls: &[SocketAddr],
) -> anyhow::Result<Option<(ForwardPolicy, Forwarder)>> {
    if forward.to.is_empty() && forward.aliases.is_empty() {
        return Ok(None);
    }
    let (names, aliases) = (upstreams(&forward.to, own, own_tls)?, upstreams(&forward.aliases, own, own_tls)?);
    let special = SpecialNames::new(names.iter().all(|upstream| is_private(upstream.address.ip())));
    let names_for = if names.is_empty() { Vec::new() } else { forward.clients.clone() };
    let forwarder = Forwarder::new(&names, &aliases)?;
    Ok(Some((ForwardPolicy { allowed_clients: names_for, aliases: !aliases.is_empty(), special }, forwarder)))
}

fn upstreams(
    named: &[config::UpstreamSpec],
    own: &[SocketAddr],
    own_tls: &[SocketAddr],
) -> anyhow::Result<Vec<Upstream>> {
    let mut upstreams = Vec::new();
    for one in named {
        let (addresses, protocol) = match one {
            config::UpstreamSpec::System => {
                let text = regular_file::read_text(Path::new(PATH), MAX_SMALL_FILE)
                    .with_context(|| format!("cannot read {PATH}: name the upstreams in place of system"))?;
                let servers = ResolvConf::parse(&text).servers;
                (servers.into_iter().map(|ip| SocketAddr::new(ip, 53)).collect(), UpstreamProtocol::Plain)
            }
            config::UpstreamSpec::Plain(address) => (vec![*address], UpstreamProtocol::Plain),
            config::UpstreamSpec::Tls(address, name) => (vec![*address], UpstreamProtocol::Tls(name.clone())),
        };
        let own = if let UpstreamProtocol::Tls(_) = protocol { own_tls } else { own };
        if let Some(address) = addresses.iter().find(|address| is_one_of(**address, own)) {
            match one {
                config::UpstreamSpec::System => bail!(
                    "{PATH} names {address}, which is this server: it would forward to itself. Name the upstreams \
                     in place of system"
                ),
                _ => bail!("the upstream {one} is this server: it would forward to itself. Name another"),
            }
        }
        upstreams.extend(addresses.into_iter().map(|address| Upstream { address, protocol: protocol.clone() }));
    }
    upstreams.dedup();
    Ok(upstreams)
}

/// Returns whether datagrams to `address` reach one of the sockets `own`.
fn is_one_of(address: SocketAddr, own: &[SocketAddr]) -> bool {
    let ip = address.ip().to_canonical();
    own.iter().any(|own| {
        let same = own.ip() == ip
            // A wildcard socket receives for every address of this machine; only to these can a socket be bound.
            || own.ip().is_unspecified() && own.is_ipv4() == ip.is_ipv4() && UdpSocket::bind((ip, 0)).is_ok();
        same && own.port() == address.port()
    })
}

/// Returns whether an address is in a private network, so that its server may know names of private networks.
fn is_private(ip: IpAddr) -> bool {
    const SHARED: IpNet = IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10));
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local() || SHARED.contains(&ip),
        IpAddr::V6(v6) => v6 == Ipv6Addr::LOCALHOST || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_forwarding_to_itself() {
        for (upstream, own, expected) in [
            ("127.0.0.1:53", "127.0.0.1:53", true),
            ("127.0.0.1:53", "127.0.0.1:1053", false),
            ("127.0.0.2:53", "127.0.0.1:53", false),
            ("127.0.0.2:53", "0.0.0.0:53", true),
            ("192.0.2.1:53", "0.0.0.0:53", false),
            ("[::1]:53", "0.0.0.0:53", false),
            ("[::ffff:127.0.0.1]:53", "127.0.0.1:53", true),
        ] {
            let (upstream, own) = (upstream.parse().unwrap(), [own.parse().unwrap()]);
            assert_eq!(is_one_of(upstream, &own), expected, "{upstream} {own:?}");
        }
        let named = [config::UpstreamSpec::Plain("127.0.0.1:53".parse().unwrap())];
        let plain = ["0.0.0.0:53".parse().unwrap()];
        let error = upstreams(&named, &plain, &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the upstream 127.0.0.1:53 is this server: it would forward to itself. Name another"
        );
        let named = [config::UpstreamSpec::Tls("127.0.0.1:853".parse().unwrap(), None)];
        let error = upstreams(&named, &plain, &["127.0.0.1:853".parse().unwrap()]).unwrap_err();
        assert!(error.to_string().contains(" is this server: it would forward to itself."), "{error}");
    }

    #[test]
    fn recognizes_private_networks() {
        for (ip, expected) in [
            ("127.0.0.53", true),
            ("10.0.0.1", true),
            ("192.168.1.1", true),
            ("100.100.100.100", true),
            ("fd00::1", true),
            ("fe80::1", true),
            ("9.9.9.9", false),
            ("100.128.0.1", false),
            ("2620:fe::fe", false),
        ] {
            assert_eq!(is_private(ip.parse().unwrap()), expected, "{ip}");
        }
    }
}
