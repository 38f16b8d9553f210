//! What a push tells about its progress. Data only.

/// A step of a push; layers go by the first 12 hex digits of their diff ids, as in Docker's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushEvent {
    /// The layer's turn will come.
    Preparing {
        /// The layer.
        id: String,
    },
    /// The registry has it.
    AlreadyExists {
        /// The layer.
        id: String,
    },
    /// The registry took it from another of its repositories.
    Mounted {
        /// The layer.
        id: String,
        /// The other repository, without the domain.
        from: String,
    },
    /// The layer may not be distributed: its manifest says where else it is to be had.
    Skipped {
        /// The layer.
        id: String,
    },
    /// Bytes are on their way.
    Pushing {
        /// The layer.
        id: String,
        /// Bytes that the registry has.
        current: u64,
        /// Bytes in all, compressed.
        total: u64,
    },
    /// The connection failed; waiting to go on where it stopped.
    Retrying {
        /// The layer.
        id: String,
        /// For how long.
        in_seconds: u64,
    },
    /// The registry has it now.
    Pushed {
        /// The layer.
        id: String,
    },
}
