//! TLS for TCP: the server's certificate, and the authority that clients' certificates must come from.
//! Owns reading of the files; must not listen.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// The options that name the files, for errors: certificate, key, authority.
pub type Flags = [&'static str; 3];

/// Makes the acceptor for connections. With `authority`, clients must show a certificate that it signed.
///
/// # Errors
/// Names the file, the option that named it, and what is wrong with it.
pub fn acceptor(certificate: &Path, key: &Path, authority: Option<&Path>, flags: Flags) -> Result<TlsAcceptor, String> {
    let [certificate_flag, key_flag, authority_flag] = flags;
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|e| format!("reading the TLS key {} ({key_flag}): {e}", key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS: {e}"))?;
    let builder = match authority {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path)? {
                roots.add(root).map_err(|e| format!("the authority {} ({authority_flag}): {e}", path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|e| format!("the authority {} ({authority_flag}): {e}", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, private).map_err(|e| {
        let (certificate, key) = (certificate.display(), key.display());
        format!("the certificate {certificate} ({certificate_flag}) and the key {key} ({key_flag}): {e}")
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |e: rustls::pki_types::pem::Error| format!("reading the certificates in {}: {e}", path.display());
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    if chain.is_empty() {
        return Err(format!("{} has no certificate in it", path.display()));
    }
    Ok(chain)
}
