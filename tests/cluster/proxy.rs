//! A proxy between the server and the API server, which breaks watches or freezes. It terminates TLS itself.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, crypto};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::control_plane::ControlPlane;

/// Treatment of requests by the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Forward,
    /// Accepts watches, answers these octets and ends the connection; open watches are cut.
    Break(&'static str),
    /// Reads and writes nothing; connections stay open.
    Frozen,
}

/// A proxy that runs until it is dropped.
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    requests: Arc<Mutex<Vec<Instant>>>,
    kubeconfig: PathBuf,
    /// Its tasks end with it.
    _runtime: Runtime,
}

impl Proxy {
    #[allow(clippy::disallowed_methods, reason = "its connections end with its runtime")]
    pub fn start(plane: &ControlPlane) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let mode = watch::Sender::new(Mode::Forward);
        let requests = Arc::<Mutex<Vec<Instant>>>::default();
        let link = Arc::new(Link {
            acceptor: acceptor(),
            connector: connector(plane),
            upstream: plane.url().strip_prefix("https://").unwrap().to_owned(),
            requests: Arc::clone(&requests),
        });
        let modes = mode.subscribe();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (link, modes) = (Arc::clone(&link), modes.clone());
                // A peer that goes away ends its connection with an error.
                tokio::spawn(async move { link.serve(stream, modes).await.ok() });
            }
        });
        let kubeconfig = plane.folder().join("proxy.kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: it\n\
             contexts: [{{name: it, context: {{cluster: it, user: it}}}}]\n\
             clusters: [{{name: it, cluster: {{server: 'https://{address}', insecure-skip-tls-verify: true}}}}]\n\
             users: [{{name: it, user: {{token: server-token}}}}]\n"
        );
        fs::write(&kubeconfig, text).unwrap();
        Self { address, mode, requests, kubeconfig, _runtime: runtime }
    }

    /// Returns a kubeconfig for the server with this proxy as its API server.
    pub fn kubeconfig(&self) -> &PathBuf {
        &self.kubeconfig
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// The number of requests since a time.
    pub fn requests_since(&self, begun: Instant) -> usize {
        self.requests.lock().unwrap().iter().filter(|at| **at >= begun).count()
    }
}

struct Link {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    upstream: String,
    requests: Arc<Mutex<Vec<Instant>>>,
}

impl Link {
    /// Serves one request of a connection: after the response the connection ends.
    async fn serve(&self, stream: TcpStream, mut modes: watch::Receiver<Mode>) -> std::io::Result<()> {
        let is_moving = |mode: &Mode| *mode != Mode::Frozen;
        let _ = modes.wait_for(is_moving).await;
        let mut client = self.acceptor.accept(stream).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if client.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        self.requests.lock().unwrap().push(Instant::now());
        let head = String::from_utf8_lossy(&head).into_owned();
        let mode = *modes.wait_for(is_moving).await.unwrap();
        if let (Mode::Break(shape), true) = (mode, head.contains("watch=true")) {
            client.write_all(shape.as_bytes()).await?;
            return client.shutdown().await;
        }
        let mut upstream =
            self.connector.connect("127.0.0.1".try_into().unwrap(), TcpStream::connect(&self.upstream).await?).await?;
        upstream.write_all(head.replacen("\r\n", "\r\nconnection: close\r\n", 1).as_bytes()).await?;
        let mut octets = vec![0; 64 << 10];
        loop {
            tokio::select! {
                length = upstream.read(&mut octets) => match length? {
                    0 => return client.shutdown().await,
                    length => client.write_all(&octets[..length]).await?,
                },
                changed = modes.changed() => {
                    if changed.is_err() || matches!(*modes.borrow_and_update(), Mode::Break(_)) {
                        return Ok(());
                    }
                    let _ = modes.wait_for(is_moving).await;
                }
            }
        }
    }
}

fn acceptor() -> TlsAcceptor {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::from_pem_slice(certified.signing_key.serialize_pem().as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![certified.cert.der().clone()], key).unwrap()))
}

fn connector(plane: &ControlPlane) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(plane.ca()).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    TlsConnector::from(Arc::new(builder.with_no_client_auth()))
}
