//! Owns the TLS side of a connection: which roots count, the per-registry certificates under `certs.d`, client
//! certificates, and the words for what can go wrong. The crypto provider is named here and nowhere else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::url::Origin;

/// No certificate file is larger (a bundle of all public roots is 220 kB).
const LARGEST_FILE: u64 = 4 << 20;

/// Whether the peer must prove who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Trust {
    /// By a certificate from the system's roots or the registry's `certs.d` directory.
    Verified,
    /// Not at all: registries configured as insecure.
    Unverified,
}

/// Makes TLS configurations.
#[derive(Debug)]
pub(crate) struct Tls {
    directories: Vec<PathBuf>,
    /// Files with authorities, by `host` or `host:port`; `*` is for all.
    authorities: BTreeMap<String, PathBuf>,
    roots: OnceLock<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

/// What a `certs.d/<host>` directory holds.
#[derive(Default)]
struct HostCertificates {
    authorities: Vec<CertificateDer<'static>>,
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Tls {
    /// `directories` hold one directory per registry, named as in image references.
    pub(crate) fn new(directories: Vec<PathBuf>, authorities: BTreeMap<String, PathBuf>) -> Tls {
        Tls {
            directories,
            authorities,
            roots: OnceLock::new(),
            provider: Arc::new(rustls::crypto::ring::default_provider()),
        }
    }

    /// The configuration for connections to `origin`. Reads files: call it where blocking is allowed.
    pub(crate) fn config(&self, origin: &Origin, trust: Trust) -> Result<ClientConfig, String> {
        let host = self.host_certificates(origin)?;
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("tls: {e}"))?;
        let verifier: Arc<dyn ServerCertVerifier> = match trust {
            Trust::Verified => Arc::new(self.verifier(host.authorities)?),
            Trust::Unverified => Arc::new(AcceptAny(self.provider.clone())),
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match host.client {
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| format!("tls: client certificate for {}: {e}", origin.host_port()))?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn verifier(&self, authorities: Vec<CertificateDer<'static>>) -> Result<Verifier, String> {
        let mut roots = self.roots.get_or_init(system_roots).clone();
        for certificate in &authorities {
            // One unreadable certificate in a bundle must not take the others down; the handshake will tell.
            roots.add_parsable_certificates([certificate.clone()]);
        }
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone());
        Ok(Verifier { inner: inner.build().map_err(|e| format!("tls: {e}"))?, pinned: authorities })
    }

    fn host_certificates(&self, origin: &Origin) -> Result<HostCertificates, String> {
        let mut found = HostCertificates::default();
        let mut names = vec![origin.host_port()];
        if origin.authority() != names[0] {
            names.push(origin.authority());
        }
        for directory in self.directories.iter().flat_map(|d| names.iter().map(move |n| d.join(n))) {
            found.read(&directory)?;
        }
        names.extend([origin.host.clone(), "*".to_owned()]);
        names.dedup();
        for file in names.iter().filter_map(|name| self.authorities.get(name)) {
            found.authorities.extend(certificates(file)?);
        }
        Ok(found)
    }
}

impl HostCertificates {
    /// `*.crt` are authorities, `NAME.cert` with `NAME.key` a client certificate, as dockerd has it.
    fn read(&mut self, directory: &Path) -> Result<(), String> {
        let Ok(entries) = std::fs::read_dir(directory) else {
            return Ok(());
        };
        let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
        paths.sort();
        for path in paths {
            match path.extension().and_then(|e| e.to_str()) {
                Some("crt") => self.authorities.extend(certificates(&path)?),
                Some("cert") => {
                    let key = path.with_extension("key");
                    let parsed = PrivateKeyDer::from_pem_slice(&read(&key)?);
                    let key = parsed.map_err(|e| format!("{}: no usable private key: {e}", key.display()))?;
                    self.client.get_or_insert((certificates(&path)?, key));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    parsed.map_err(|e| format!("{}: not a PEM certificate: {e}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let length = std::fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?.len();
    if length > LARGEST_FILE {
        return Err(format!("{}: {length} bytes is too large for a certificate file", path.display()));
    }
    std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// The usual verification, and one addition: a self-signed certificate that was itself put into `certs.d` is accepted for
/// its own host even if it is marked as an authority, which is what `openssl req -x509` makes and dockerd accepts.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let result = self.inner.verify_server_cert(leaf, intermediates, name, ocsp, now);
        // webpki looks at the dates before it looks at basic constraints, so this error means that they are right.
        let only_marked_as_ca = matches!(&result, Err(rustls::Error::InvalidCertificate(CertificateError::Other(other)))
            if other.0.to_string().contains("CaUsedAsEndEntity"));
        if only_marked_as_ca && self.pinned.iter().any(|p| p.as_ref() == leaf.as_ref()) {
            rustls::client::verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        result
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Encrypts to whoever answers.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What a server says, in an alert, about the certificate that it was shown, or was not: in the words of Go. It says so after the
/// handshake has ended for us (RFC 8446, section 4.4.2), and would say so again.
pub(crate) fn refused_certificate(error: &std::io::Error) -> Option<String> {
    use rustls::AlertDescription as Alert;
    let rustls::Error::AlertReceived(alert) = error.get_ref()?.downcast_ref::<rustls::Error>()? else { return None };
    let why = match alert {
        Alert::CertificateRequired => {
            "certificate required: put a client certificate and its key (*.cert, *.key) into the registry's directory in /etc/docker/certs.d"
        }
        Alert::BadCertificate => "bad certificate",
        Alert::UnsupportedCertificate => "unsupported certificate",
        Alert::CertificateRevoked => "revoked certificate",
        Alert::CertificateExpired => "expired certificate",
        Alert::CertificateUnknown => "unknown certificate",
        Alert::UnknownCA => "unknown certificate authority",
        Alert::AccessDenied => "access denied",
        Alert::DecryptError => "error decrypting message",
        _ => return None,
    };
    Some(format!("remote error: tls: {why}"))
}

/// The words Docker's users know for a failed handshake.
pub(crate) fn describe(error: &rustls::Error, host: &str) -> String {
    let certificate = match error {
        rustls::Error::InvalidCertificate(certificate) => certificate,
        // What it sent is no record of TLS: somebody serves HTTP there.
        rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            return format!(
                "http: server gave HTTP response to HTTPS client: if {host} is to be reached without TLS, name it in \"insecure-registries\""
            );
        }
        other => return format!("tls: {other}"),
    };
    let text = certificate.to_string();
    let why = match certificate {
        CertificateError::UnknownIssuer => "certificate signed by unknown authority".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("certificate has expired or is not yet valid ({text})")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("certificate has expired or is not yet valid ({text})")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("certificate is not valid for {host} ({text})")
        }
        _ => text,
    };
    format!("tls: failed to verify certificate: x509: {why}")
}
