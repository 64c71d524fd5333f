//! Certificates of a test's own authority, and clients that trust this authority only.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The name in every certificate.
pub const NAME: &str = "dns.example.test";

/// An authority, and a folder in which the files of a server are.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub folder: tempfile::TempDir,
}

/// A certificate and its key, in PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
    pub der: CertificateDer<'static>,
}

impl Authority {
    /// With the first pair in the files.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { issuer, folder: tempfile::tempdir().unwrap() };
        authority.write(&authority.pair());
        authority
    }

    /// A new certificate for [`NAME`], with a new key.
    pub fn pair(&self) -> Pair {
        self.pair_for(vec![NAME.to_owned()])
    }

    /// A new certificate for these names, with a new key.
    pub fn pair_for(&self, names: Vec<String>) -> Pair {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() }
    }

    /// Replaces both files, one after the other, as most that renew certificates do.
    pub fn write(&self, pair: &Pair) {
        for (path, text) in self.paths().iter().zip([&pair.certificate, &pair.key]) {
            let new = path.with_extension("new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, path).unwrap();
        }
    }

    /// The files of the certificate and of its key.
    pub fn paths(&self) -> [PathBuf; 2] {
        ["tls.crt", "tls.key"].map(|name| self.folder.path().join(name))
    }

    /// Returns the server's options for these files.
    pub fn options(&self) -> String {
        let [certificate, key] = self.paths();
        format!("--tls-cert {} --tls-key {}", certificate.display(), key.display())
    }

    /// The authority's own certificate, in a file.
    pub fn file(&self, folder: &Path) -> PathBuf {
        let path = folder.join("authority.pem");
        fs::write(&path, self.issuer.pem()).unwrap();
        path
    }

    /// A client that trusts this authority, and speaks these protocols.
    pub fn client(&self, alpn: &[&[u8]]) -> ClientConfig {
        self.client_with(alpn, rustls::ALL_VERSIONS)
    }

    pub fn client_with(&self, alpn: &[&[u8]], versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
        config(self.issuer.der().clone(), alpn, versions)
    }
}

/// A client that trusts this one certificate (PEM), and speaks DNS over TLS.
pub fn trusting(certificate: &[u8]) -> ClientConfig {
    config(CertificateDer::from_pem_slice(certificate).unwrap(), &[b"dot"], rustls::ALL_VERSIONS)
}

fn config(
    root: CertificateDer<'static>,
    alpn: &[&[u8]],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

/// Connects over TCP, and then with TLS.
pub async fn connect(config: &Arc<ClientConfig>, to: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
    shake(config, TcpStream::connect(to).await?).await
}

/// The handshake alone.
pub async fn shake(config: &Arc<ClientConfig>, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    TlsConnector::from(Arc::clone(config)).connect(ServerName::try_from(NAME).unwrap(), stream).await
}
