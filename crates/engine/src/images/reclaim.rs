//! Making room by itself when the disk fills up: between a high and a low mark, oldest use first, so much in one round.
//! Owns what may go by itself: what nothing leads to, then images without a name that no container uses and nobody has used
//! for a while; with a name only if the administrator says so. Must not touch anything in use, nor containers, nor volumes.

use std::time::Duration;

use brig_store::ImageRecord;

use super::Images;
use super::remove::{forget, untag};
use crate::error::{Error, Result, from_store};

/// When to make room, and of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageGc {
    /// Begin when this much of the disk is in use, in percent; above 100 means never.
    pub high: u8,
    /// Stop when no more than this is.
    pub low: u8,
    /// Images that were used within this time stay.
    pub keep: Duration,
    /// Images with a name may go, too.
    pub tagged: bool,
    /// How many images go in one round at most.
    pub budget: usize,
    /// How long a round waits for the next.
    pub every: Duration,
}

impl Default for StorageGc {
    fn default() -> Self {
        Self {
            high: 95,
            low: 90,
            keep: Duration::from_secs(24 * 3600),
            tagged: false,
            budget: 16,
            every: Duration::from_secs(60),
        }
    }
}

/// Makes room for as long as the daemon runs.
pub(crate) async fn keep_room(images: Images, policy: StorageGc) {
    if policy.high > 100 {
        return;
    }
    let mut clock = tokio::time::interval(policy.every);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let (images, policy) = (images.clone(), policy.clone());
        let round = tokio::task::spawn_blocking(move || make_room(&images, &policy)).await;
        match round {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!("making room on the disk: {}", e.message),
            Err(e) => tracing::warn!("making room on the disk was cut short: {e}"),
        }
    }
}

/// One round. Blocking.
fn make_room(images: &Images, policy: &StorageGc) -> Result<()> {
    let used = |images: &Images| images.store.upkeep().disk_in_use().map_err(from_store);
    let before = used(images)?;
    if before < policy.high {
        return Ok(());
    }
    let upkeep = images.store.upkeep();
    let (gone, freed) = upkeep.freed_by(|| {
        upkeep.prune().map_err(from_store)?;
        let mut gone = 0;
        for image in idle(images, policy) {
            images.store.wait_for_removals();
            if gone == policy.budget || used(images)? <= policy.low && policy.high > 0 {
                break;
            }
            // Someone may have begun to use it since it was chosen.
            if !images.users_of(&image.id).is_empty() {
                continue;
            }
            let mut deleted = Vec::new();
            for tag in images.tags_of(&image.id) {
                untag(images, &tag.name, &mut deleted)?;
            }
            forget(images, &image.id, &mut deleted)?;
            images.store.gc(&[]).map_err(from_store)?;
            gone += 1;
        }
        Ok::<_, Error>(gone)
    })?;
    if freed == 0 {
        return Ok(());
    }
    let after = used(images)?;
    tracing::info!(
        "the disk was {before}% full: {gone} unused images and leftovers of {freed} bytes were removed, it is {after}% full"
    );
    let attributes = [("reclaimed", freed.to_string()), ("images", gone.to_string()), ("disk", format!("{before}%"))];
    let attributes = attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    images.events.emit("image", "gc", "", attributes);
    Ok(())
}

/// What may go, the one whose last use is longest ago first.
fn idle(images: &Images, policy: &StorageGc) -> Vec<ImageRecord> {
    let now = jiff::Timestamp::now().as_second();
    let keep = i64::try_from(policy.keep.as_secs()).unwrap_or(i64::MAX);
    let mut idle: Vec<(i64, ImageRecord)> = images
        .store
        .images()
        .into_iter()
        .map(|image| (images.store.upkeep().last_use(&image.id).unwrap_or(0).max(image.stored_at), image))
        .filter(|(last, image)| {
            last.saturating_add(keep) <= now
                && (policy.tagged || images.tags_of(&image.id).is_empty())
                && images.users_of(&image.id).is_empty()
                && !super::shelf::is_being_pushed(images, &image.id)
        })
        .collect();
    idle.sort_by(|(a, first), (b, second)| (a, &first.id).cmp(&(b, &second.id)));
    idle.into_iter().map(|(_, image)| image).collect()
}
