//! A packed layer of an archive, put aside as it is while it is unpacked: should a manifest list it, it is kept, so that a push
//! sends what was loaded. Owns that it is gone otherwise. Must not fail a load: what cannot be put aside is packed anew.

use std::io::{self, Read};

use brig_oci::{Descriptor, Digest};

use crate::durable;
use crate::packed::Packed;
use crate::partial::{LOADING, Partial};
use crate::store::Store;

/// The most layers of one archive that are put aside, each with a file that stays open.
pub(super) const MAX_SPOOLED: usize = 512;

/// The blob; gone when dropped.
pub(super) struct Spool(Option<Partial>);

impl Spool {
    /// Begins one.
    pub(super) fn begin(store: &Store) -> Spool {
        let opened = durable::unique_name().and_then(|name| store.partials().open(&format!("{LOADING}{name}")));
        let opened = opened.inspect_err(|error| tracing::warn!("a loaded layer is kept unpacked only: {error}"));
        let partial = opened.ok();
        partial.iter().for_each(Partial::abandon);
        Spool(partial)
    }

    /// Passes on what it reads, and writes it down.
    pub(super) fn tee<R: Read>(&mut self, inner: R) -> Tee<'_, R> {
        Tee { inner, spool: self }
    }

    /// Keeps it as the form of a layer that the manifest calls `descriptor`.
    pub(super) fn keep(self, store: &Store, descriptor: &Descriptor, diff_id: &Digest) {
        let Some(partial) = self.0 else { return };
        let kept = Packed::of(store).keep(partial, &descriptor.digest, diff_id, &descriptor.media_type);
        if let Err(error) = kept {
            tracing::warn!("layer {} is here, but not its packed form: {error}", descriptor.digest);
        }
    }
}

pub(super) struct Tee<'a, R> {
    inner: R,
    spool: &'a mut Spool,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        if let Some(partial) = &self.spool.0
            && length > 0
            && let Err(error) = partial.append(&buffer[..length])
        {
            tracing::warn!("a loaded layer is kept unpacked only: {error}");
            self.spool.0 = None;
        }
        Ok(length)
    }
}
