//! The server's certificate and its private key: two PEM files, which change while the server runs.
//!
//! Each listener has one [`ServerConfig`], which resolves the current pair at every handshake: a renewal needs no new
//! listener, and open connections stay open. An unusable pair changes nothing. Not here: when the files are read again
//! (`commands/serve/certificates.rs`). Read next: `tls/acceptor.rs`.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use anyhow::{Result, anyhow, bail, ensure};
use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{Error, InconsistentKeys};

use crate::duration::rough;
use crate::regular_file::{self, FileError, MAX_SMALL_FILE};
use headless_dns_core::lock::lock;

/// The current certificate chain and private key, with the files that they are read from. Clones share one pair.
#[derive(Clone, Debug)]
pub struct Certificates(Arc<ReloadableKey>);

struct ReloadableKey {
    /// Locked while the files are read: one reload at a time.
    files: Mutex<Files>,
    pair: ArcSwap<CertifiedKey>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificates {
    /// Reads a chain of certificates, the server's own first, and its private key (PKCS #8, SEC 1 or PKCS #1).
    ///
    /// # Errors
    ///
    /// A file cannot be read, or the pair cannot be used. The error names the file and the remedy.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self> {
        let files = Files { certificate: certificate.into(), key: key.into() };
        let pair = ArcSwap::from_pointee(files.read()?);
        Ok(Self(Arc::new(ReloadableKey { files: Mutex::new(files), pair })))
    }

    /// Reads the files again. Returns whether the certificate has changed.
    ///
    /// # Errors
    ///
    /// As [`Certificates::load`]; the current pair then stays.
    pub fn reload(&self) -> Result<bool> {
        let files = self.files();
        Ok(self.take(files.read()?))
    }

    /// Switches to other files, and reads them. Returns whether the certificate has changed.
    ///
    /// # Errors
    ///
    /// As [`Certificates::load`]; the current files and pair then stay.
    pub fn change(&self, certificate: &Path, key: &Path) -> Result<bool> {
        let mut files = self.files();
        let others = Files { certificate: certificate.into(), key: key.into() };
        let pair = others.read()?;
        *files = others;
        Ok(self.take(pair))
    }

    fn take(&self, pair: CertifiedKey) -> bool {
        // A certificate is for one key: an equal certificate has the same key.
        let is_new = self.0.pair.load().cert != pair.cert;
        if is_new {
            self.0.pair.store(Arc::new(pair));
        }
        is_new
    }

    /// Returns the paths of the certificate and the private key.
    pub fn paths(&self) -> [PathBuf; 2] {
        let Files { certificate, key } = self.files().clone();
        [certificate, key]
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        lock(&self.0.files)
    }

    /// Creates the TLS configuration of one listener: TLS 1.2 and 1.3, the application protocols `alpn` (RFC 7301), and
    /// always the current certificate. Sessions are resumed by tickets, so that the server stores nothing for clients.
    pub fn server_config(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("ring has ciphers for both versions");
        let resolver: Arc<ReloadableKey> = Arc::clone(&self.0);
        let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // The error is no random numbers: then each handshake fails too, and is logged.
        if let Ok(ticketer) = ring::Ticketer::new() {
            config.ticketer = ticketer;
        }
        Arc::new(config)
    }

    /// Returns the validity period of the server's certificate; `None` if it cannot be parsed.
    pub fn validity(&self) -> Option<(SystemTime, SystemTime)> {
        validity(self.0.pair.load().cert.first()?)
    }

    /// Returns a warning if the certificate is expired at `now`, or not yet valid.
    pub fn expiry_warning(&self, now: SystemTime) -> Option<String> {
        let (begins, ends) = self.validity()?;
        let path = self.files().certificate.display().to_string();
        if let Ok(late) = now.duration_since(ends) {
            return Some(format!("the certificate in {path} expired {} ago: clients refuse it", rough(late)));
        }
        let early = begins.duration_since(now).ok().filter(|early| !early.is_zero())?;
        let early = rough(early);
        Some(format!("the certificate in {path} is not good yet, and will be in {early}: clients refuse it until then"))
    }
}

impl ResolvesServerCert for ReloadableKey {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.pair.load_full())
    }
}

impl fmt::Debug for ReloadableKey {
    /// Formats the paths only: the private key must not be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Files {
    fn read(&self) -> Result<CertifiedKey> {
        let chain = chain(&self.certificate)?;
        let key = key(&self.key)?;
        let pair = CertifiedKey::new(chain, key);
        match pair.keys_match() {
            // Only a key outside this process has no public part to compare.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(pair),
            Err(Error::InconsistentKeys(_)) => Err(self.mismatch(&pair)),
            Err(error) => {
                let path = self.certificate.display();
                Err(anyhow!("the first certificate in {path} cannot be read: {error}"))
            }
        }
    }

    fn mismatch(&self, pair: &CertifiedKey) -> anyhow::Error {
        let (certificate, key) = (self.certificate.display(), self.key.display());
        let fits = |other: &CertificateDer<'static>| {
            CertifiedKey::new(vec![other.clone()], Arc::clone(&pair.key)).keys_match().is_ok()
        };
        match pair.cert.iter().position(fits) {
            Some(at) => anyhow!(
                "the private key in {key} is that of certificate {} in {certificate}: the server's own comes first, then \
                 those that lead to its authority",
                at + 1
            ),
            None => anyhow!(
                "the private key in {key} is not that of the certificate in {certificate}: both must come from one \
                 request"
            ),
        }
    }
}

/// Reads the certificates of a file, at least one.
fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = read(path, "certificate")?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|error| broken(path, &error))?;
    if chain.is_empty() {
        let shown = path.display();
        if PrivateKeyDer::from_pem_slice(&text).is_ok() {
            bail!("{shown} holds a private key and no certificate: are --tls-cert and --tls-key exchanged?");
        }
        bail!("{shown} holds no certificate{}", in_pem(&text, "x509", "CERTIFICATE"));
    }
    Ok(chain)
}

/// Reads the first private key of a file.
fn key(path: &Path) -> Result<Arc<dyn SigningKey>> {
    let text = read(path, "private key")?;
    let shown = path.display();
    // RFC 5958 section 3, and RFC 1421 section 4.6.1.1 for the older formats of OpenSSL.
    let is_encrypted = [&b"-----BEGIN ENCRYPTED PRIVATE KEY-----"[..], b"Proc-Type: 4,ENCRYPTED"];
    ensure!(
        !is_encrypted.iter().any(|mark| text.windows(mark.len()).any(|part| part == *mark)),
        "the private key in {shown} is encrypted, and nobody is there to say its password: write it without one, as \
         `openssl pkey -in {shown} -out NEW` does, for the server's user alone to read"
    );
    let der = match PrivateKeyDer::from_pem_slice(&text) {
        Ok(der) => der,
        Err(PemError::NoItemsFound) if CertificateDer::from_pem_slice(&text).is_ok() => {
            bail!("{shown} holds a certificate and no private key: are --tls-cert and --tls-key exchanged?")
        }
        Err(PemError::NoItemsFound) => bail!("{shown} holds no private key{}", in_pem(&text, "pkey", "PRIVATE KEY")),
        Err(error) => return Err(broken(path, &error)),
    };
    ring::sign::any_supported_type(&der).map_err(|error| {
        anyhow!(
            "the private key in {shown} cannot be used ({error}): take ECDSA with P-256 or P-384, Ed25519, or RSA with \
             2048 to 8192 bits"
        )
    })
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>> {
    regular_file::read(path, MAX_SMALL_FILE).map_err(|error| unreadable(path, what, error))
}

/// Returns the error for a file that cannot be read, with the remedy.
fn unreadable(path: &Path, what: &str, error: FileError) -> anyhow::Error {
    let cannot_read = format!("cannot read the {what} in {}", path.display());
    match error {
        FileError::TooLarge(max) => {
            anyhow!("{} is larger than {} KiB, and so no {what}", path.display(), max >> 10)
        }
        FileError::Io(error) if error.kind() == ErrorKind::PermissionDenied => anyhow!(
            "{cannot_read}: the server's user may not. Give the file to a group of that user, which may read it and pass the \
             folders above it"
        ),
        error => anyhow::Error::new(error).context(cannot_read),
    }
}

/// Returns the end of the error for a file without a PEM section: the format that it seems to have.
fn in_pem(text: &[u8], command: &str, label: &str) -> String {
    match text.first() {
        None => ": it is empty".into(),
        // DER begins with a SEQUENCE.
        Some(0x30) => format!(": it seems to be DER, and PEM is meant: `openssl {command} -inform der` writes it"),
        Some(_) => format!(": PEM is meant, with a line -----BEGIN {label}-----"),
    }
}

fn broken(path: &Path, error: &PemError) -> anyhow::Error {
    let shown = path.display();
    match error {
        PemError::MissingSectionEnd { .. } => anyhow!("{shown} is cut off: a line -----END is missing"),
        PemError::IllegalSectionStart { .. } => anyhow!("{shown} is broken: a line -----BEGIN does not end in -----"),
        PemError::Base64Decode(_) => anyhow!("{shown} is broken: what stands between BEGIN and END is no base64"),
        error => anyhow!("{shown} is broken: {error}"),
    }
}

/// Returns the validity period of a certificate (RFC 5280 section 4.1.2.5); `None` if it cannot be parsed.
#[cfg(any(feature = "tls", feature = "quic"))]
fn validity(certificate: &[u8]) -> Option<(SystemTime, SystemTime)> {
    use x509_cert::Certificate;
    use x509_cert::der::Decode as _;

    let certificate = Certificate::from_der(certificate).ok()?;
    let validity = certificate.tbs_certificate().validity();
    Some((validity.not_before.to_system_time(), validity.not_after.to_system_time()))
}

/// Returns `None`: without encrypted transports no certificate is parsed.
#[cfg(not(any(feature = "tls", feature = "quic")))]
fn validity(_certificate: &[u8]) -> Option<(SystemTime, SystemTime)> {
    None
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, date_time_ymd};

    use super::*;

    /// Creates a folder with files, given by name and text.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["dns.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn load(folder: &tempfile::TempDir) -> Result<Certificates> {
        Certificates::load(&folder.path().join("tls.crt"), &folder.path().join("tls.key"))
    }

    #[test]
    fn reports_errors_in_one_sentence() {
        let ((certificate, key), (other, other_key)) = (pair(), pair());
        let authority =
            CertifiedIssuer::self_signed(CertificateParams::default(), KeyPair::generate().unwrap()).unwrap();
        let behind = format!("{}{certificate}", authority.pem());
        let broken = certificate.replace("-----END", "-----ENDE");
        let no_base64 = key.replacen('\n', "\n!!", 1);
        let encrypted = key.replace("PRIVATE", "ENCRYPTED PRIVATE");
        let older = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        let (no_certificate, no_key) = (
            "-----BEGIN CERTIFICATE-----\nMAMCAQA=\n-----END CERTIFICATE-----\n",
            "-----BEGIN PRIVATE KEY-----\nMAMCAQA=\n-----END PRIVATE KEY-----\n",
        );
        for (certificate, key, sentence) in [
            ("", &key[..], "tls.crt holds no certificate: it is empty"),
            (
                "certificate",
                &key,
                "tls.crt holds no certificate: PEM is meant, with a line -----BEGIN CERTIFICATE-----",
            ),
            ("0\u{3}", &key, "tls.crt holds no certificate: it seems to be DER, and PEM is meant: `openssl x509"),
            (
                &key,
                &certificate,
                "tls.crt holds a private key and no certificate: are --tls-cert and --tls-key exchanged?",
            ),
            (&certificate, &certificate, "tls.key holds a certificate and no private key: are --tls-cert and"),
            (&certificate, "", "tls.key holds no private key: it is empty"),
            (
                &certificate,
                "0\u{3}",
                "tls.key holds no private key: it seems to be DER, and PEM is meant: `openssl pkey",
            ),
            (&broken, &key, "tls.crt is cut off: a line -----END is missing"),
            (&certificate, &no_base64, "tls.key is broken: what stands between BEGIN and END is no base64"),
            (
                &certificate,
                &encrypted,
                "tls.key is encrypted, and nobody is there to say its password: write it without",
            ),
            (&certificate, older, "tls.key is encrypted, and nobody is there"),
            (&other, &key, "tls.crt: both must come from one request"),
            (&certificate, &other_key, "tls.crt: both must come from one request"),
            (&behind, &key, "tls.key is that of certificate 2 in "),
            (no_certificate, &key, "the first certificate in "),
            (&certificate, no_key, "take ECDSA with P-256 or P-384, Ed25519, or RSA with 2048 to 8192 bits"),
        ] {
            let said = load(&folder(&[("tls.crt", certificate), ("tls.key", key)])).unwrap_err();
            let said = format!("{said:#}");
            assert!(said.contains(sentence) && !said.contains('\n'), "{said}");
        }
        let folder = folder(&[("tls.crt", &certificate)]);
        let said = format!("{:#}", load(&folder).unwrap_err());
        assert!(
            said.starts_with("cannot read the private key in /") && said.contains("tls.key: No such file"),
            "{said}"
        );
        fs::create_dir(folder.path().join("tls.key")).unwrap();
        let said = format!("{:#}", load(&folder).unwrap_err());
        assert!(said.ends_with("tls.key: it is a folder, and only a regular file is read"), "{said}");
        fs::remove_dir(folder.path().join("tls.key")).unwrap();
        // Not with a file: root, which may run the tests, reads every file.
        let said = unreadable(Path::new("tls.key"), "private key", FileError::Io(ErrorKind::PermissionDenied.into()))
            .to_string();
        assert!(said.starts_with("cannot read the private key in tls.key: the server's user may not. Give"), "{said}");
        fs::write(folder.path().join("tls.key"), vec![b'\n'; MAX_SMALL_FILE as usize + 1]).unwrap();
        let said = load(&folder).unwrap_err().to_string();
        assert!(said.ends_with("tls.key is larger than 1024 KiB, and so no private key"), "{said}");
    }

    #[test]
    fn keeps_certificate_if_new_pair_is_invalid() {
        let ((certificate, key), (other, other_key)) = (pair(), pair());
        let folder = folder(&[("tls.crt", &certificate), ("tls.key", &key)]);
        let certificates = load(&folder).unwrap();
        let shown = || certificates.0.pair.load().cert[0].clone();
        let first = shown();
        assert!(!certificates.reload().unwrap());
        fs::write(folder.path().join("tls.crt"), &other).unwrap();
        assert!(certificates.reload().is_err());
        assert_eq!(shown(), first);
        fs::write(folder.path().join("tls.key"), &other_key).unwrap();
        assert!(certificates.reload().unwrap());
        assert_ne!(shown(), first);
        assert!(certificates.change(&folder.path().join("tls.crt"), Path::new("/nowhere")).is_err());
        assert!(!certificates.reload().unwrap(), "it is still of the same files");
        let third = self::folder(&[("a", &certificate), ("b", &key)]);
        assert!(certificates.change(&third.path().join("a"), &third.path().join("b")).unwrap());
        assert_eq!((shown(), certificates.paths()[0].clone()), (first, third.path().join("a")));
        assert!(!format!("{certificates:?}").contains("PRIVATE"));
    }

    #[test]
    fn reads_validity_period() {
        let key = KeyPair::generate().unwrap();
        let day = |year, month, day| SystemTime::from(date_time_ymd(year, month, day));
        let certificates = |begin: (i32, u8, u8), end: (i32, u8, u8)| {
            let mut params = CertificateParams::new(["dns.example".to_owned()]).unwrap();
            (params.not_before, params.not_after) =
                (date_time_ymd(begin.0, begin.1, begin.2), date_time_ymd(end.0, end.1, end.2));
            let pem = params.self_signed(&key).unwrap().pem();
            load(&folder(&[("tls.crt", &pem), ("tls.key", &key.serialize_pem())])).unwrap()
        };
        // Years up to 2049 are written with two digits, later ones with four.
        let long = certificates((1999, 12, 31), (2050, 2, 28));
        assert_eq!(long.validity().unwrap(), (day(1999, 12, 31), day(2050, 2, 28)));
        assert_eq!(long.expiry_warning(day(2026, 1, 1)), None);
        let short = certificates((2024, 2, 29), (2024, 3, 1));
        let said = short.expiry_warning(day(2024, 3, 4)).unwrap();
        assert!(said.ends_with("tls.crt expired 3 d ago: clients refuse it"), "{said}");
        let said = short.expiry_warning(day(2024, 2, 29) - Duration::from_secs(7200)).unwrap();
        assert!(said.ends_with("tls.crt is not good yet, and will be in 2 h: clients refuse it until then"), "{said}");
    }
}
