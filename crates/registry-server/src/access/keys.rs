//! The public keys that tokens are verified with, from PEM files with keys or certificates in them.
//! Owns the little of DER (X.690) that leads to a key, and which signature algorithm goes with which key. Must not know what
//! is signed.

use std::path::Path;

use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::pem::{PemObject as _, SectionKind};

/// A public key with the one kind of signature that it makes, by the name of RFC 7518.
pub(crate) struct Key {
    algorithm: &'static str,
    key: UnparsedPublicKey<Vec<u8>>,
}

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

const SEQUENCE: u8 = 0x30;
const OBJECT: u8 = 0x06;
const BITS: u8 = 0x03;
const VERSION: u8 = 0xa0;

impl Key {
    /// Whether this key signed the text, by the algorithm that the token names.
    pub(crate) fn verifies(&self, algorithm: &str, text: &[u8], signature: &[u8]) -> bool {
        self.algorithm == algorithm && self.key.verify(text, signature).is_ok()
    }

    /// All keys of a file.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub(crate) fn read(path: &Path) -> Result<Vec<Key>, String> {
        let wrong = |why: &str| format!("the keys for tokens in {}: {why}", path.display());
        let bytes = std::fs::read(path).map_err(|error| wrong(&error.to_string()))?;
        let mut keys = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&bytes) {
            let (kind, der) = section.map_err(|error| wrong(&error.to_string()))?;
            let key = match kind {
                SectionKind::PublicKey => Key::of_public_key(&der),
                SectionKind::Certificate => certified(&der).and_then(Key::of_public_key),
                _ => continue,
            };
            keys.push(key.ok_or_else(|| wrong("a key that is no RSA, P-256, P-384 or Ed25519 public key"))?);
        }
        if keys.is_empty() {
            return Err(wrong("there is no public key and no certificate in it"));
        }
        Ok(keys)
    }

    /// Reads a SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7).
    fn of_public_key(der: &[u8]) -> Option<Key> {
        let (info, _) = take(der, SEQUENCE)?;
        let (kind, rest) = take(info, SEQUENCE)?;
        let (bits, _) = take(rest, BITS)?;
        let (&0, key) = bits.split_first()? else { return None };
        let (object, parameters) = take(kind, OBJECT)?;
        let (algorithm, verifier): (_, &'static dyn VerificationAlgorithm) = match object {
            RSA => ("RS256", &signature::RSA_PKCS1_2048_8192_SHA256),
            ED25519 => ("EdDSA", &signature::ED25519),
            EC => match take(parameters, OBJECT)?.0 {
                P256 => ("ES256", &signature::ECDSA_P256_SHA256_FIXED),
                P384 => ("ES384", &signature::ECDSA_P384_SHA384_FIXED),
                _ => return None,
            },
            _ => return None,
        };
        Some(Key { algorithm, key: UnparsedPublicKey::new(verifier, key.to_vec()) })
    }
}

/// The SubjectPublicKeyInfo of a certificate (RFC 5280, section 4.1).
fn certified(der: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = take(der, SEQUENCE)?;
    let (mut body, _) = take(certificate, SEQUENCE)?;
    if body.first() == Some(&VERSION) {
        body = skip(body)?;
    }
    // Serial number, signature algorithm, issuer, validity, subject.
    for _ in 0..5 {
        body = skip(body)?;
    }
    let rest = skip(body)?;
    Some(&body[..body.len() - rest.len()])
}

/// The content of the first element, which must have this tag, and what comes after it.
fn take(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let (digits, after) =
            rest.split_at_checked(usize::from(first & 0x7f)).filter(|(digits, _)| digits.len() <= 4)?;
        length = digits.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        rest = after;
    }
    (found == tag).then_some(())?;
    rest.split_at_checked(length)
}

/// What comes after the first element, whatever that is.
fn skip(der: &[u8]) -> Option<&[u8]> {
    take(der, *der.first()?).map(|(_, rest)| rest)
}
