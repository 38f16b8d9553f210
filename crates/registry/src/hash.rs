//! Owns computing digests. It must not read files or decide what a mismatch means.

use brig_oci::Digest;
use sha2::{Digest as _, Sha256, Sha512};

/// A running digest of the algorithm that an expected digest names.
pub(crate) enum Hasher {
    Sha256(Box<Sha256>),
    Sha512(Box<Sha512>),
}

impl Hasher {
    /// A hasher to compare with `expected`.
    pub(crate) fn like(expected: &Digest) -> Hasher {
        match expected.algorithm() {
            "sha512" => Hasher::Sha512(Box::default()),
            _ => Hasher::Sha256(Box::default()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(h) => h.update(bytes),
            Hasher::Sha512(h) => h.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        match self {
            Hasher::Sha256(h) => Digest::from_sha256(h.finalize().into()),
            Hasher::Sha512(h) => Digest::from_sha512(h.finalize().into()),
        }
    }
}

/// The digest of `bytes`, by the algorithm of `expected`.
pub(crate) fn digest_of(bytes: &[u8], expected: &Digest) -> Digest {
    let mut hasher = Hasher::like(expected);
    hasher.update(bytes);
    hasher.finish()
}

/// The sha256 digest of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

/// The ids of layer stacks from the ids of their layers, bottom first (OCI image-spec, "Layer ChainID").
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chains: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff in diff_ids {
        chains.push(match chains.last() {
            None => diff.clone(),
            Some(below) => sha256(format!("{below} {diff}").as_bytes()),
        });
    }
    chains
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_and_algorithms() {
        let a = sha256(b"a");
        let b = sha256(b"b");
        assert_eq!(a.to_string(), "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb");
        let chains = chain_ids(&[a.clone(), b.clone()]);
        assert_eq!(chains, [a.clone(), sha256(format!("{a} {b}").as_bytes())]);
        let long = Digest::from_sha512([0; 64]);
        assert_eq!(digest_of(b"", &long).algorithm(), "sha512");
    }
}
