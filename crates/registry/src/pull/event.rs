//! Owns what a pull reports while it runs. Data only; how it looks is the caller's.

use brig_oci::Digest;

/// One step of a pull, as Docker's progress stream shows them. `id` is the layer's digest shortened to 12 hex digits;
/// sizes are compressed bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullEvent {
    /// The name was found: "`tag`: Pulling from `repository`". `tag` is the digest where the reference has no tag.
    Resolved {
        /// Tag or digest.
        tag: String,
        /// Repository path, `library/alpine`.
        repository: String,
    },
    /// "Pulling fs layer".
    LayerQueued {
        /// The layer.
        id: String,
        /// Its compressed size.
        size: u64,
    },
    /// "Already exists".
    AlreadyExists {
        /// The layer.
        id: String,
    },
    /// "Downloading", at most ten times a second per layer.
    Downloading {
        /// The layer.
        id: String,
        /// Bytes so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// "Download complete".
    DownloadComplete {
        /// The layer.
        id: String,
    },
    /// "Extracting": layers are unpacked while they arrive, so this is only the rest.
    Extracting {
        /// The layer.
        id: String,
        /// Bytes so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// "Pull complete".
    PullComplete {
        /// The layer.
        id: String,
    },
    /// "Retrying in `in_seconds` seconds".
    Retrying {
        /// The layer, or the tag while the image is still being looked for.
        id: String,
        /// Time to wait, rounded up.
        in_seconds: u64,
    },
    /// "Digest: …": what the name points to.
    Digest(Digest),
}
