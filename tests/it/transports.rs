//! Every question of every scenario over TLS, HTTPS and QUIC: hickory-dns's clients get the answer of TCP.
//!
//! The tests run the built program with the options of the scenario and a certificate of their own. `tests/it/scenarios.rs`
//! compares the answers with the expected ones.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::common::tls::{Authority, NAME};
use crate::common::{Question, header, scenarios, server};
use hickory_net::client::Client;
use hickory_net::h2::HttpsClientStream;
use hickory_net::quic::QuicClientStream;
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::tls::tls_exchange;
use hickory_net::xfer::{DnsHandle, FirstAnswer as _};
use hickory_proto::op::{DnsRequest, DnsResponse, Message};
use rustls::pki_types::ServerName;
use tokio::task::JoinSet;
use tokio::time::timeout;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// A response that is cut off is longer than this, in octets: no record of the scenarios has more than the rest.
const FULL: usize = 65_535 - 128;

/// A running server, and its addresses.
struct Server {
    _process: server::Server,
    plain: SocketAddr,
    tls: SocketAddr,
    https: SocketAddr,
    quic: SocketAddr,
}

impl Server {
    fn start(scenario: &Path, options: &str, authority: &Authority) -> Self {
        let mut command = server::serve();
        command.args(["--log", "off", "--manifests"]).arg(scenario);
        for option in ["--listen", "--listen-tls", "--listen-https", "--listen-quic"] {
            command.args([option, "127.0.0.1:0"]);
        }
        command.args(authority.options().split_whitespace()).args(options.split_whitespace());
        let process = server::Server::start(command);
        let over = |transport| process.listens(transport).unwrap_or_else(|| panic!("{transport}: {}", process.out()));
        let (plain, tls, https, quic) = (over("UDP and TCP"), over("TLS"), over("HTTPS"), over("QUIC"));
        Self { _process: process, plain, tls, https, quic }
    }

    /// Returns the response over TCP, without a client library.
    fn over_tcp(&self, query: &[u8]) -> Message {
        let mut stream = TcpStream::connect(self.plain).unwrap();
        stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        stream.write_all(&[&(query.len() as u16).to_be_bytes(), query].concat()).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut response = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut response).unwrap();
        Message::from_vec(&response).unwrap()
    }
}

async fn ask(what: &str, client: &impl DnsHandle, query: &[u8]) -> DnsResponse {
    let request = DnsRequest::from(Message::from_vec(query).unwrap());
    let response = timeout(WAIT_TIMEOUT, client.send(request).first_answer()).await.expect("answered in time");
    response.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// All of it but the ID, which is the client's. RRsets have no order (RFC 2181 section 5). One that is cut off has another
/// part of its records each time, and as many as there is room for.
fn content(message: &Message) -> Vec<String> {
    let metadata = &message.metadata;
    let (code, authoritative, cut) = (metadata.response_code, metadata.authoritative, metadata.truncation);
    let mut lines = vec![format!("{code} {authoritative} {cut} {:?} {:?}", message.queries, message.edns)];
    for section in [&message.answers, &message.authorities, &message.additionals] {
        let mut records: Vec<String> = section.iter().filter(|_| !cut).map(ToString::to_string).collect();
        records.sort_unstable();
        lines.push(records.join("\n"));
    }
    lines
}

async fn compare(what: &str, client: &impl DnsHandle, asked: &[(String, Vec<u8>, Message)]) {
    for (line, query, expected) in asked {
        let response = ask(&format!("{what}: {line}"), client, query).await;
        assert_eq!(content(&response), content(expected), "{what}: {line}");
        let length = response.as_buffer().len();
        assert!(!response.metadata.truncation || length > FULL, "{what}: {line}: cut off at {length} octets");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scenarios_answer_like_tcp() {
    let authority = Authority::new();
    let mut all = 0;
    for path in scenarios() {
        let Ok(written) = fs::read_to_string(path.with_extension("dig")) else { continue };
        let text = fs::read_to_string(&path).unwrap();
        let server = Server::start(&path, header(&text, "options").unwrap_or_default(), &authority);
        let lines = written.lines().filter(|line| line.starts_with("$ "));
        let asked: Vec<_> = lines
            .map(|line| {
                let query = Question::read(line).query(7);
                let expected = server.over_tcp(&query);
                (line.to_owned(), query, expected)
            })
            .collect();
        assert!(!asked.is_empty(), "{} asks something", path.display());
        all += asked.len();

        let about = |transport: &str| format!("{} over {transport}", path.display());
        let mut tasks = JoinSet::new();
        // The tasks of a client are its provider's.
        let provider = TokioRuntimeProvider::new();
        let name = ServerName::try_from(NAME).unwrap();
        let tls = tls_exchange(server.tls, name, authority.client(&[b"dot"]), WAIT_TIMEOUT, None, provider.clone());
        compare(&about("TLS"), &tls.await.unwrap(), &asked).await;

        let https = HttpsClientStream::builder(Arc::new(authority.client(&[b"h2"])), provider.clone());
        let https = https.build(server.https, NAME.into(), "/dns-query".into()).await.unwrap();
        let (client, exchange) = Client::<TokioRuntimeProvider>::from_sender(https);
        tasks.spawn(exchange);
        compare(&about("HTTPS"), &client, &asked).await;

        let quic = QuicClientStream::builder().crypto_config(authority.client(&[b"doq"]));
        let (client, exchange) =
            Client::<TokioRuntimeProvider>::from_sender(quic.build(server.quic, NAME.into()).await.unwrap());
        tasks.spawn(exchange);
        compare(&about("QUIC"), &client, &asked).await;
    }
    assert!(all > 300, "{all} questions");
}
