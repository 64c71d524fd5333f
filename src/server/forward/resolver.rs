//! Queries to upstreams, through hickory-resolver's pool of name servers: retries, TCP after truncation, TLS.
//!
//! Its `Resolver` is not used: it follows CNAMEs itself, so that it sends names of the zones to upstreams and loses the
//! CNAMEs before a negative response, takes records of every section, and has a cache without a bound on memory. Here:
//! queries, and the interpretation of responses and errors. Not here: the records taken from a response
//! ([`UpstreamResponse`]), and the timeout of a query (`mod.rs`).

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::net::xfer::{DnsHandle as _, FirstAnswer as _, RetryDnsHandle};
use hickory_server::net::{DnsError, NetError, NoRecords};
use hickory_server::proto::op::{DnsRequestOptions, Query};
use hickory_server::proto::rr::{DNSClass, Name, Record, RecordData, RecordType};
use hickory_server::proto::serialize::binary::{BinDecodable, BinEncodable, BinEncoder, NameEncoding};
use hickory_server::resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverOpts};
use hickory_server::resolver::{NameServerPool, PoolContext, TlsConfig};
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};

use super::cache::Cache;
use super::{Upstream, UpstreamError, UpstreamProtocol};
use headless_dns_core::answer::{UpstreamFailure, UpstreamRecord, UpstreamResponse};
use headless_dns_core::lock::lock;
use headless_dns_core::name::{QueryName, WireName};
use headless_dns_core::wire::{MAX_UDP, rcode};

/// Timeout of one attempt, and number of retries: together below the timeout of a query.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
const RETRIES: usize = 1;
/// A resolver over some upstreams, with a cache.
pub(super) struct Resolver {
    upstreams: RetryDnsHandle<NameServerPool<TokioRuntimeProvider>>,
    cache: Mutex<Cache>,
}

impl Resolver {
    pub(super) fn new(upstreams: &[Upstream]) -> Result<Self> {
        let context = Arc::new(PoolContext::new(options(), TlsConfig { config: tls(upstreams)? }));
        let servers = upstreams.iter().map(server);
        let pool = NameServerPool::from_config(servers, context, TokioRuntimeProvider::default());
        Ok(Self { upstreams: RetryDnsHandle::new(pool, RETRIES), cache: Mutex::default() })
    }

    /// Looks up the records of one name and type, in the cache or at the upstreams.
    pub(super) async fn look_up(&self, name: &WireName, qtype: u16) -> Result<Arc<UpstreamResponse>, UpstreamError> {
        if let Some(answer) = self.cache().get(name, qtype, Instant::now()) {
            return Ok(answer);
        }
        let answer = Arc::new(self.query_upstreams(name, qtype).await?);
        self.cache().insert(name.clone(), qtype, Arc::clone(&answer), Instant::now());
        Ok(answer)
    }

    async fn query_upstreams(&self, name: &WireName, qtype: u16) -> Result<UpstreamResponse, UpstreamError> {
        let unreadable = |_| UpstreamError::internal("the resolver cannot read the name");
        let question = Query::query(Name::from_bytes(name.octets()).map_err(unreadable)?, RecordType::from(qtype));
        let (rcode, answers, authorities) = match self.upstreams.lookup(question, request()).first_answer().await {
            Ok(response) => {
                let (rcode, message) = (response.response_code, response.into_message());
                (rcode, upstream_response(&message.answers), upstream_response(&message.authorities))
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, authorities, .. }))) => {
                (response_code, Vec::new(), upstream_response(authorities.iter().flat_map(|records| records.iter())))
            }
            Err(error) => return Err(upstream_error(&error)),
        };
        match u16::from(rcode) {
            rcode @ (rcode::NOERROR | rcode::NXDOMAIN) => {
                Ok(UpstreamResponse::new((name, qtype, rcode), answers, authorities))
            }
            rcode => Err(refused(rcode)),
        }
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        lock(&self.cache)
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
        UpstreamProtocol::Plain => vec![connection(ProtocolConfig::Udp), connection(ProtocolConfig::Tcp)],
        UpstreamProtocol::Tls(name) => {
            let server_name = name.as_deref().map_or_else(|| ip.to_string().into(), Arc::from);
            vec![connection(ProtocolConfig::Tls { server_name })]
        }
    };
    NameServerConfig::new(ip, true, connections)
}

fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = ATTEMPT_TIMEOUT;
    options.try_tcp_on_error = true;
    // The limit of one TCP or TLS connection, which all outstanding queries may share.
    options.max_active_requests = super::FORWARD_QUEUE_LEN;
    options
}

fn request() -> DnsRequestOptions {
    let mut options = DnsRequestOptions::default();
    options.use_edns = true;
    // RFC 9715 section 3.1, as for this server's own responses.
    options.edns_payload_len = MAX_UDP as u16;
    options
}

/// Returns the TLS configuration, with the system's certificate authorities if an upstream needs them.
/// rustls-native-certs reads `SSL_CERT_FILE`.
fn tls(upstreams: &[Upstream]) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let with_tls = upstreams.iter().find_map(|upstream| match &upstream.protocol {
        UpstreamProtocol::Plain => None,
        UpstreamProtocol::Tls(name) => Some((upstream.address, name.as_deref())),
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

fn upstream_error(error: &NetError) -> UpstreamError {
    match error {
        NetError::Dns(DnsError::ResponseCode(code)) => refused(u16::from(*code)),
        NetError::Timeout => {
            UpstreamError { failure: UpstreamFailure::Unreachable("no upstream answered".into()), dead: true }
        }
        NetError::NoConnections => {
            let text = "no upstream can be connected to; one with TLS needs a certificate for its name";
            UpstreamError { failure: UpstreamFailure::Network(text.into()), dead: true }
        }
        error => UpstreamError {
            failure: UpstreamFailure::Network(format!("no upstream answered as it should: {error}")),
            dead: true,
        },
    }
}

/// Returns the error for an upstream that responded with an error RCODE.
fn refused(code: u16) -> UpstreamError {
    let text = format!("the upstream answered {}", headless_dns_core::wire::client::rcode_name(code));
    UpstreamError { failure: UpstreamFailure::Unreachable(text), dead: false }
}

fn upstream_response<'r>(records: impl IntoIterator<Item = &'r Record>) -> Vec<UpstreamRecord> {
    records.into_iter().filter_map(upstream_record).collect()
}

/// Converts a record; `None` for one that cannot be passed on.
fn upstream_record<R: RecordData + BinEncodable>(record: &Record<R>) -> Option<UpstreamRecord> {
    if record.dns_class != DNSClass::IN {
        return None;
    }
    let mut owner = QueryName::default();
    owner.parse_wire(&octets(&record.name)?)?;
    let data = octets(&record.data)?;
    let rtype = u16::from(record.record_type());
    (data.len() <= usize::from(u16::MAX)).then(|| UpstreamRecord {
        owner: owner.to_wire(),
        rtype,
        ttl: record.ttl,
        data,
    })
}

/// Returns the wire form without compressed names, because the record will be at another offset.
fn octets(value: &impl BinEncodable) -> Option<Box<[u8]>> {
    let mut octets = Vec::new();
    let mut encoder = BinEncoder::new(&mut octets);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    value.emit(&mut encoder).ok()?;
    Some(octets.into())
}
