//! The obvious combination, as a peer: hickory-server with a `RequestHandler` over a dashmap of prepared records.
//!
//! It serves zone files as `headless-dns records` writes them, on one thread, over UDP and TCP (with a certificate also
//! over TLS, HTTPS and QUIC), and says the same as the others: SRV with the addresses of its targets, negative answers
//! with the SOA record. Read next: `peers.rs`.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use dashmap::DashMap;
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Edns, Header, HeaderCounts, MessageType, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, PTR, SOA, SRV};
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use socket2::{Domain, Protocol, Socket, Type};

/// `hickory-peer PORT [--encrypted TLS HTTPS QUIC CERT KEY] FILE...`: serves the zones of these files until it is ended;
/// with the option also over TLS, HTTPS and QUIC, at these ports.
///
/// # Errors
///
/// A file that cannot be read or a line that is no record, by name and number; a port that is taken.
pub fn serve(arguments: &[String]) -> Result<()> {
    let [port, files @ ..] = arguments else { bail!("usage: hickory-peer PORT [--encrypted ...] FILE...") };
    let number = |port: &str| port.parse::<u16>().with_context(|| format!("{port} is no port"));
    let port = number(port)?;
    let (encrypted, files) = match files {
        [flag, tls, https, quic, chain, key, files @ ..] if flag == "--encrypted" => {
            let ports = [number(tls)?, number(https)?, number(quic)?];
            (Some((ports, Pair::read(chain, key)?)), files)
        }
        files => (None, files),
    };
    let zones = Zones::read(files)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut server = Server::new(zones);
        server.register_socket(tokio::net::UdpSocket::from_std(socket(port)?)?);
        server.register_listener(listener(port)?, TIMEOUT, 1024);
        if let Some(([tls, https, quic], pair)) = encrypted {
            server.register_tls_listener_with_tls_config(listener(tls)?, TIMEOUT, pair.config(b"dot")?)?;
            let (config, path) = (pair.config(b"h2")?, "/dns-query".to_owned());
            server.register_https_listener_with_tls_config(listener(https)?, TIMEOUT, config, None, path)?;
            let socket = tokio::net::UdpSocket::from_std(socket(quic)?)?;
            server.register_quic_listener_and_tls_config(socket, TIMEOUT, pair.config(b"doq")?)?;
        }
        server.block_until_done().await.context("hickory-server")
    })
}

const TIMEOUT: Duration = Duration::from_secs(30);

fn listener(port: u16) -> Result<tokio::net::TcpListener> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    Ok(tokio::net::TcpListener::from_std(listener)?)
}

/// A certificate, and its key.
struct Pair {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Pair {
    fn read(chain: &str, key: &str) -> Result<Self> {
        let all = CertificateDer::pem_file_iter(chain).with_context(|| chain.to_owned())?;
        Ok(Self {
            chain: all.collect::<Result<_, _>>().with_context(|| chain.to_owned())?,
            key: PrivateKeyDer::from_pem_file(key).with_context(|| key.to_owned())?,
        })
    }

    fn config(&self, protocol: &[u8]) -> Result<Arc<ServerConfig>> {
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
        let mut config = builder.with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Arc::new(config))
    }
}

/// With a receive buffer as large as the others ask for.
fn socket(port: u16) -> Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(4 << 20)?;
    socket.set_nonblocking(true)?;
    socket.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    Ok(socket.into())
}

/// The records of one name and type, and what stands beside them.
#[derive(Default)]
struct RrSet {
    answers: Vec<Record>,
    additionals: Vec<Record>,
}

/// What stands at a name; nothing where only names below it exist.
type Node = Vec<(RecordType, Arc<RrSet>)>;

struct Zones {
    nodes: DashMap<LowerName, Node>,
    /// The SOA record of each zone.
    apexes: Vec<(LowerName, Record)>,
    edns: Edns,
}

impl Zones {
    fn read(files: &[String]) -> Result<Self> {
        let mut sets: HashMap<(LowerName, RecordType), RrSet> = HashMap::new();
        let mut apexes = Vec::new();
        for path in files {
            let file = std::fs::File::open(path).with_context(|| path.clone())?;
            for (number, line) in BufReader::new(file).lines().enumerate() {
                let record = record(&line?).with_context(|| format!("{path}, line {}", number + 1))?;
                let Some(record) = record else { continue };
                let owner = LowerName::new(&record.name);
                if record.record_type() == RecordType::SOA {
                    apexes.push((owner.clone(), record.clone()));
                }
                sets.entry((owner, record.record_type())).or_default().answers.push(record);
            }
        }
        let zones = Self { nodes: DashMap::new(), apexes, edns: edns() };
        let addresses: HashMap<LowerName, Vec<Record>> = sets
            .iter()
            .filter(|((_, rtype), _)| *rtype == RecordType::A)
            .map(|((owner, _), set)| (owner.clone(), set.answers.clone()))
            .collect();
        for ((owner, rtype), mut set) in sets {
            let targets = set.answers.iter().filter_map(|record| match &record.data {
                RData::SRV(data) => addresses.get(&LowerName::new(&data.target)),
                _ => None,
            });
            set.additionals = targets.flatten().cloned().collect();
            zones.publish(owner, rtype, set);
        }
        Ok(zones)
    }

    fn publish(&self, owner: LowerName, rtype: RecordType, set: RrSet) {
        let mut above = owner.base_name();
        while !above.is_root() && !self.nodes.contains_key(&above) {
            self.nodes.insert(above.clone(), Node::new());
            above = above.base_name();
        }
        self.nodes.entry(owner).or_default().push((rtype, Arc::new(set)));
    }

    /// What there is, and whether the name exists.
    fn look_up(&self, name: &LowerName, rtype: RecordType) -> (Option<Arc<RrSet>>, bool) {
        let Some(node) = self.nodes.get(name) else { return (None, false) };
        (node.iter().find(|(of, _)| *of == rtype).map(|(_, set)| Arc::clone(set)), true)
    }

    async fn answer<R: ResponseHandler>(&self, request: &Request, mut to: R) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if request.edns.is_some() {
            builder.edns(&self.edns);
        }
        let sent = match request.request_info() {
            Ok(info) => {
                metadata.authoritative = true;
                let (set, exists) = self.look_up(info.query.name(), info.query.query_type());
                let apex = self.apexes.iter().find(|(apex, _)| apex.zone_of(info.query.name()));
                metadata.response_code = match (exists, apex) {
                    (true, _) => ResponseCode::NoError,
                    (false, Some(_)) => ResponseCode::NXDomain,
                    (false, None) => ResponseCode::Refused,
                };
                let soa = apex.map(|(_, record)| record).filter(|_| set.is_none());
                let (answers, additionals) =
                    set.as_deref().map_or((&[][..], &[][..]), |set| (&set.answers[..], &set.additionals[..]));
                to.send_response(builder.build(metadata, answers, [], soa, additionals)).await
            }
            Err(_) => to.send_response(builder.error_msg(&request.metadata, ResponseCode::FormErr)).await,
        };
        sent.unwrap_or_else(|_| {
            let mut metadata = Metadata::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
            metadata.response_code = ResponseCode::ServFail;
            Header { metadata, counts: HeaderCounts::default() }.into()
        })
    }
}

/// The signature is what `async_trait` makes of it.
impl RequestHandler for Zones {
    fn handle_request<'a, 'b, 'c, R, T>(
        &'a self,
        request: &'b Request,
        to: R,
    ) -> Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'c>>
    where
        R: ResponseHandler + 'c,
        T: Time + 'c,
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(self.answer(request, to))
    }
}

fn edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(1232).set_version(0);
    edns
}

/// `OWNER TTL IN TYPE DATA`, with tabs between; `None` for types that nobody asks for.
fn record(line: &str) -> Result<Option<Record>> {
    let [owner, ttl, _, rtype, data] = line.splitn(5, '\t').collect::<Vec<_>>()[..] else { bail!("no record: {line}") };
    let fields: Vec<&str> = data.split(' ').collect();
    let name = |text: &str| Name::from_str(text).with_context(|| format!("no name: {text}"));
    let data = match (rtype, &fields[..]) {
        ("A", [address]) => RData::A(A(address.parse()?)),
        ("PTR", [target]) => RData::PTR(PTR(name(target)?)),
        ("SRV", [priority, weight, port, target]) => {
            RData::SRV(SRV::new(priority.parse()?, weight.parse()?, port.parse()?, name(target)?))
        }
        ("SOA", [server, mailbox, serial, refresh, retry, expire, minimum]) => RData::SOA(SOA::new(
            name(server)?,
            name(mailbox)?,
            serial.parse()?,
            refresh.parse()?,
            retry.parse()?,
            expire.parse()?,
            minimum.parse()?,
        )),
        _ => return Ok(None),
    };
    Ok(Some(Record::from_rdata(name(owner)?, ttl.parse()?, data)))
}
