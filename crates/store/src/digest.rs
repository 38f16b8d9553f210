//! Computing digests. The type itself is `brig_oci::Digest`; this is where bytes become one.
//! Must not read files: callers hash what they read, so that bytes seen are bytes hashed.

use std::io::{self, Read};

use brig_oci::Digest;
use sha2::Digest as _;
use sha2::{Sha256, Sha512};

/// The SHA-256 digest of `bytes`.
pub fn sha256_of(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

/// Whether `bytes` have this digest, whichever algorithm it uses.
pub fn matches(digest: &Digest, bytes: &[u8]) -> bool {
    let mut hasher = Hasher::like(digest);
    hasher.update(bytes);
    hasher.finish() == *digest
}

/// The chain id of a layer: its own diff id if it is the lowest, else the digest over both
/// (OCI image-spec, `config.md`, "Layer ChainID").
pub fn chain_id(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
    match parent {
        None => diff_id.clone(),
        Some(parent) => sha256_of(format!("{parent} {diff_id}").as_bytes()),
    }
}

/// The chain id of the topmost of these layers, lowest first; `None` if there are none.
pub fn top_chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    diff_ids.iter().fold(None, |parent, diff_id| Some(chain_id(parent.as_ref(), diff_id)))
}

/// A digest in the making.
#[derive(Clone)]
pub enum Hasher {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-512.
    Sha512(Sha512),
}

impl Hasher {
    /// For SHA-256.
    pub fn sha256() -> Hasher {
        Hasher::Sha256(Sha256::new())
    }

    /// For the algorithm of `digest`, to compare with it afterwards.
    pub fn like(digest: &Digest) -> Hasher {
        match digest.algorithm() {
            "sha512" => Hasher::Sha512(Sha512::new()),
            _ => Hasher::sha256(),
        }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all bytes added.
    pub fn finish(self) -> Digest {
        match self {
            Hasher::Sha256(hasher) => Digest::from_sha256(hasher.finalize().into()),
            Hasher::Sha512(hasher) => Digest::from_sha512(hasher.finalize().into()),
        }
    }
}

/// Passes a stream through, hashing and counting it.
pub struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
    /// Bytes read so far.
    pub count: u64,
}

impl<R: Read> HashingReader<R> {
    /// Hashes with `hasher` what is read from `inner`.
    pub fn new(inner: R, hasher: Hasher) -> HashingReader<R> {
        HashingReader { inner, hasher, count: 0 }
    }

    /// The digest of everything read.
    pub fn finish(self) -> Digest {
        self.hasher.finish()
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        self.count += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256_of(b"").as_str(), empty);
        assert!(matches(&sha256_of(b"x"), b"x") && !matches(&sha256_of(b"x"), b"y"));
        let mut sha512 = Hasher::Sha512(Sha512::new());
        sha512.update(b"x");
        assert!(matches(&sha512.finish(), b"x"));
    }

    #[test]
    fn chain_ids_fold_from_below() {
        let (a, b) = (sha256_of(b"a"), sha256_of(b"b"));
        assert_eq!(top_chain_id(std::slice::from_ref(&a)), Some(a.clone()));
        assert_eq!(top_chain_id(&[a.clone(), b.clone()]), Some(sha256_of(format!("{a} {b}").as_bytes())));
        assert_eq!(top_chain_id(&[]), None);
    }
}
