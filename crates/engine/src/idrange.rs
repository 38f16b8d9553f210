//! Which range of host ids each running container's users are. Owns the bookkeeping; must not write any map.
//!
//! Every container with a user namespace of its own gets 65,536 ids that nobody else has while it runs. Files keep
//! their plain ids on disk (idmapped mounts), so a container need not get the same range again.

use std::collections::BTreeSet;
use std::sync::Mutex;

use crate::error::{Error, Result};

/// Ids per container: all that a 16-bit `/etc/passwd` can name.
pub const RANGE_SIZE: u32 = 65_536;
/// First id handed out: above anything that `useradd` puts into `/etc/subuid` on a machine of usual size.
const FIRST: u32 = 0x4000_0000;
/// Number of ranges between [`FIRST`] and the last id that is not reserved.
const RANGES: u32 = (u32::MAX - FIRST) / RANGE_SIZE - 1;

/// The ranges in use.
#[derive(Debug, Default)]
pub struct IdRanges {
    taken: Mutex<BTreeSet<u32>>,
}

impl IdRanges {
    /// Takes the lowest free range and gives its first host id.
    pub fn allocate(&self) -> Result<u32> {
        let mut taken = self.lock();
        let slot = (0..RANGES)
            .find(|slot| !taken.contains(slot))
            .ok_or_else(|| Error::system(format!("all {RANGES} id ranges are in use by running containers")))?;
        taken.insert(slot);
        Ok(FIRST + slot * RANGE_SIZE)
    }

    /// Marks the range that a container already uses, after a restart of the daemon.
    pub fn claim(&self, first: u32) {
        if let Some(slot) = slot_of(first) {
            self.lock().insert(slot);
        }
    }

    /// Gives a range back; giving it back twice is allowed.
    pub fn release(&self, first: u32) {
        if let Some(slot) = slot_of(first) {
            self.lock().remove(&slot);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        // A poisoned set is still a set: the panic happened between two whole operations on it.
        self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn slot_of(first: u32) -> Option<u32> {
    (first >= FIRST).then(|| (first - FIRST) / RANGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_never_overlap_and_come_back() {
        let ranges = IdRanges::default();
        let (a, b) = (ranges.allocate().unwrap(), ranges.allocate().unwrap());
        assert_eq!(b - a, RANGE_SIZE);
        ranges.release(a);
        ranges.release(a);
        assert_eq!(ranges.allocate().unwrap(), a);
        ranges.claim(b + RANGE_SIZE);
        assert_eq!(ranges.allocate().unwrap(), b + 2 * RANGE_SIZE);
        assert!(FIRST.checked_add(RANGES * RANGE_SIZE).is_some());
    }
}
