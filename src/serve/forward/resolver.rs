//! Upstreams, asked through hickory-resolver: cache, retries, TCP where UDP is not enough, TLS.
//!
//! Why not the forwarder of hickory-server, which wraps the same resolver: it has no door for certificate authorities,
//! and hands out records without what was said about them. Here: what is asked of the resolver, and what its answers and
//! errors mean. Not here: how long anybody waits.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::net::{DnsError, NetError, NoRecords};
use hickory_server::proto::rr::{DNSClass, Name, Record, RecordData, RecordType};
use hickory_server::proto::serialize::binary::{BinDecodable, BinEncodable, BinEncoder, NameEncoding};
use hickory_server::resolver::TokioResolver;
use hickory_server::resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};

use super::{Protocol, Unanswered, Upstream};
use crate::answer::{Failure, ForeignRecord, Said};
use crate::names::{QueryName, WireName};
use crate::rtype;
use crate::wire::{MAX_UDP, rcode};

/// How long one try may take, and how many follow the first: together less than anybody waits.
const TRY: Duration = Duration::from_secs(2);
const TRIES_MORE: usize = 1;
/// How many answers are kept. Most are far below 1 KiB.
const KEPT: u64 = 4_096;
/// The longest that an answer is kept, whatever its TTL says (RFC 8767 section 4 recommends no more than a week).
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A resolver over some upstreams.
#[derive(Debug)]
pub(super) struct Resolver {
    resolver: TokioResolver,
}

impl Resolver {
    pub(super) fn new(upstreams: &[Upstream]) -> Result<Self> {
        let servers = upstreams.iter().map(server).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options();
        let builder = builder.with_tls_config(tls(upstreams)?);
        Ok(Self { resolver: builder.build().context("cannot prepare to ask the upstreams")? })
    }

    /// Looks up the records of one name and type.
    pub(super) async fn look_up(&self, name: &WireName, qtype: u16) -> Result<Said, Unanswered> {
        let unreadable = |_| Unanswered::ours("the resolver cannot read the name");
        let asked = Name::from_bytes(name.octets()).map_err(unreadable)?;
        match self.resolver.lookup(asked, RecordType::from(qtype)).await {
            Ok(lookup) => {
                let answer = chain(name, lookup.answers());
                let authority = if answer.is_empty() { authorities(lookup.authorities()) } else { Vec::new() };
                Ok(Said { rcode: rcode::NOERROR, answer, authority })
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => negative(&nothing),
            Err(error) => Err(unanswered(&error)),
        }
    }
}

fn server(upstream: &Upstream) -> NameServerConfig {
    let ip = upstream.address.ip();
    let connection = |protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = upstream.address.port();
        connection
    };
    let connections = match &upstream.protocol {
        Protocol::Plain => vec![connection(ProtocolConfig::Udp), connection(ProtocolConfig::Tcp)],
        Protocol::Tls(name) => {
            let server_name = name.as_deref().map_or_else(|| ip.to_string().into(), Arc::from);
            vec![connection(ProtocolConfig::Tls { server_name })]
        }
    };
    NameServerConfig::new(ip, true, connections)
}

fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = TRY;
    options.attempts = TRIES_MORE;
    options.cache_size = KEPT;
    options.positive_max_ttl = Some(LONGEST);
    options.negative_max_ttl = Some(LONGEST);
    options.use_hosts_file = ResolveHosts::Never;
    options.try_tcp_on_error = true;
    // RFC 9715 section 3.1, as for our own answers.
    options.edns_payload_len = MAX_UDP as u16;
    // Of one TCP or TLS connection: all questions of the lane may share it.
    options.max_active_requests = super::ROOM;
    options
}

/// With the authorities of this system where an upstream needs them. rustls-native-certs reads `SSL_CERT_FILE`.
fn tls(upstreams: &[Upstream]) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let with_tls = upstreams.iter().find_map(|upstream| match &upstream.protocol {
        Protocol::Plain => None,
        Protocol::Tls(name) => Some((upstream.address, name.as_deref())),
    });
    if let Some((address, name)) = with_tls {
        if let Some(name) = name {
            ServerName::try_from(name).with_context(|| format!("{name:?} is no name that a certificate can have"))?;
        }
        let (found, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        ensure!(
            found > 0,
            "the upstream {address} is asked over TLS, and there are no certificate authorities to judge it by: \
             install ca-certificates, or name a file of them in SSL_CERT_FILE"
        );
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().context("cannot prepare TLS")?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// RFC 2308 section 5: the SOA says how long the absence may be kept.
fn negative(nothing: &NoRecords) -> Result<Said, Unanswered> {
    let rcode = u16::from(nothing.response_code);
    if !matches!(rcode, rcode::NOERROR | rcode::NXDOMAIN) {
        return Err(refused(rcode));
    }
    let soa = nothing.soa.as_deref().and_then(foreign);
    // What the resolver kept has the TTL that is left of it.
    let authority = soa.map(|soa| ForeignRecord { ttl: nothing.negative_ttl.unwrap_or(soa.ttl), ..soa });
    let authority = authority.into_iter().collect();
    Ok(Said { rcode, answer: Vec::new(), authority })
}

fn unanswered(error: &NetError) -> Unanswered {
    match error {
        NetError::Dns(DnsError::ResponseCode(code)) => refused(u16::from(*code)),
        NetError::Timeout => Unanswered { failure: Failure::Unreachable("no upstream answered".into()), dead: true },
        NetError::NoConnections => {
            let text = "no upstream can be connected to; one with TLS needs a certificate for its name";
            Unanswered { failure: Failure::Network(text.into()), dead: true }
        }
        error => {
            Unanswered { failure: Failure::Network(format!("no upstream answered as it should: {error}")), dead: true }
        }
    }
}

/// The upstream is there, and has no answer either.
fn refused(code: u16) -> Unanswered {
    let text = format!("the upstream answered {}", crate::wire::client::rcode_name(code));
    Unanswered { failure: Failure::Unreachable(text), dead: false }
}

/// The records of `name`, and of those that its CNAMEs lead to. Nobody asked for others (RFC 5452 section 6).
fn chain(name: &WireName, records: &[Record]) -> Vec<ForeignRecord> {
    let mut left: Vec<ForeignRecord> = records.iter().filter_map(foreign).collect();
    let mut wanted = HashSet::from([name.clone()]);
    let mut chain = Vec::with_capacity(left.len());
    loop {
        let (found, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|record| wanted.contains(&record.owner));
        if found.is_empty() {
            return chain;
        }
        wanted.extend(found.iter().filter(|record| record.rtype == rtype::CNAME).filter_map(target));
        chain.extend(found);
        left = others;
    }
}

fn target(alias: &ForeignRecord) -> Option<WireName> {
    let mut name = QueryName::default();
    name.read(&alias.data)?;
    Some(name.to_wire())
}

fn authorities(records: &[Record]) -> Vec<ForeignRecord> {
    records.iter().filter(|record| record.record_type() == RecordType::SOA).filter_map(foreign).collect()
}

/// `None` for what cannot be passed on.
fn foreign<R: RecordData + BinEncodable>(record: &Record<R>) -> Option<ForeignRecord> {
    if record.dns_class != DNSClass::IN {
        return None;
    }
    let mut owner = QueryName::default();
    owner.read(&octets(&record.name)?)?;
    let data = octets(&record.data)?;
    let rtype = u16::from(record.record_type());
    (data.len() <= usize::from(u16::MAX)).then(|| ForeignRecord {
        owner: owner.to_wire(),
        rtype,
        ttl: record.ttl,
        data,
    })
}

/// In wire form, with no name compressed: it will stand elsewhere.
fn octets(value: &impl BinEncodable) -> Option<Box<[u8]>> {
    let mut octets = Vec::new();
    let mut encoder = BinEncoder::new(&mut octets);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    value.emit(&mut encoder).ok()?;
    Some(octets.into())
}
