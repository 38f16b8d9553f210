//! Owns the layers of one pull: their flights begin together, and what has landed is committed from below, as much at once as
//! is there, so that many small layers wait for the disk a few times and not once each. It must not fetch or unpack.

use std::sync::Arc;
use std::time::Duration;

use brig_oci::{Descriptor, Digest};
use brig_store::{LayerIngest, Packed, Store};
use futures_util::future::try_join_all;
use tokio::sync::{OwnedMutexGuard, watch};

use super::download::{Arrival, Download};
use super::event::PullEvent;
use super::flight::{Flight, Stage, Wanted};
use super::{Progress, blocking};
use crate::client::Inner;
use crate::error::{Error, ErrorKind, Result};
use crate::session::Session;

/// How long a layer that has landed waits for others. A commit waits for the disk three times, and what others write meanwhile
/// with it: of forty small layers at most a few are worth a commit of their own. Until then a killed daemon has their blobs.
const GATHERING: Duration = Duration::from_millis(100);

/// The layers of one pull.
pub(super) struct Layers<'a> {
    pub(super) inner: &'a Inner,
    pub(super) store: &'a Store,
    pub(super) sources: &'a [Arc<Session>],
    pub(super) progress: Progress<'a>,
    /// The image is here already, so that of its layers there is nothing to tell.
    pub(super) known: bool,
}

/// How far a layer is.
#[derive(Clone)]
enum Place {
    /// On its way.
    Away,
    /// Unpacked and verified, waiting for those below or for its turn.
    Landed(Arc<Flight>),
    Committed,
    /// What had landed went to another pull that failed to commit it.
    Lost(Error),
}

/// A layer that is about to be committed.
struct Turn {
    wanted: Wanted,
    download: Arc<Download>,
    /// Locked for so long: a pull that shares this download must not look while a commit is under way.
    slot: OwnedMutexGuard<Option<LayerIngest>>,
}

impl Layers<'_> {
    /// Gets all layers into the store, bottom first. Returns whether any had to be fetched.
    pub(super) async fn all(&self, wanted: &[Wanted]) -> Result<bool> {
        let mut missing = Vec::new();
        for ((nth, layer), is_here) in wanted.iter().enumerate().zip(self.here(wanted).await?) {
            let id = short(layer);
            if is_here {
                if !self.known {
                    (self.progress)(PullEvent::AlreadyExists { id });
                }
            } else {
                (self.progress)(PullEvent::LayerQueued { id, size: layer.descriptor.size });
                missing.push(nth);
            }
        }
        // Layers that exist count as committed: a stack can only miss layers from some height on, or be shared in part.
        let there = |nth| if missing.contains(&nth) { Place::Away } else { Place::Committed };
        let (places, watched) = watch::channel((0..wanted.len()).map(there).collect::<Vec<_>>());
        // All downloads begin, in the order of the layers, before any is waited for.
        let followers: Vec<_> = missing
            .iter()
            .map(|&nth| {
                let flight = self.inner.flights.join(&wanted[nth], self.sources, self.store, &self.inner.limits);
                self.follow(flight, nth, &wanted[nth], &places, watched.clone())
            })
            .collect();
        let all = tokio::try_join!(try_join_all(followers), self.commit(wanted, &places, watched.clone()));
        if let Err(error) = all {
            self.commit_before_failing(wanted, &places).await;
            return Err(error);
        }
        let there = (0..wanted.len()).filter(|nth| !missing.contains(nth)).map(|nth| wanted[nth].clone());
        let lost = self.lost(there.collect()).await?;
        try_join_all(lost.iter().map(|layer| self.bring_form(layer))).await?;
        Ok(!(missing.is_empty() && lost.is_empty()))
    }

    /// Those of these layers, which are here, that are not here any more as they came.
    async fn lost(&self, there: Vec<Wanted>) -> Result<Vec<Wanted>> {
        if there.is_empty() {
            return Ok(Vec::new());
        }
        let store = self.store.clone();
        blocking(move || {
            let mut lost = Vec::new();
            for layer in there {
                if Packed::of(&store).is_lost(&layer.descriptor.digest)? {
                    lost.push(layer);
                }
            }
            Ok(lost)
        })
        .await
    }

    /// Gets the blob of a layer that is unpacked already.
    async fn bring_form(&self, layer: &Wanted) -> Result<()> {
        let id = short(layer);
        (self.progress)(PullEvent::LayerQueued { id: id.clone(), size: layer.descriptor.size });
        let limits = &self.inner.limits.downloads;
        let download = self.inner.flights.downloads.join(&layer.descriptor, self.sources, self.store, limits);
        download.verified().await?;
        (self.progress)(PullEvent::DownloadComplete { id: id.clone() });
        let (store, layer) = (self.store.clone(), layer.clone());
        blocking(move || {
            keep_packed(&store, &download, &layer);
            Ok(())
        })
        .await?;
        (self.progress)(PullEvent::PullComplete { id });
        Ok(())
    }

    /// Which of the layers are here, each for certain what this image wants: one that came of another blob is looked at first.
    async fn here(&self, wanted: &[Wanted]) -> Result<Vec<bool>> {
        let (store, wanted) = (self.store.clone(), wanted.to_vec());
        blocking(move || {
            let serves = |layer: &Wanted| brig_store::serves(&store, &layer.chain_id, Some(&layer.descriptor.digest));
            Ok(wanted.iter().map(serves).collect::<brig_store::Result<_>>()?)
        })
        .await
    }

    /// Follows one layer's download until it is committed.
    async fn follow(
        &self,
        (mut flight, mut joined): (Arc<Flight>, bool),
        nth: usize,
        layer: &Wanted,
        places: &watch::Sender<Vec<Place>>,
        mut watched: watch::Receiver<Vec<Place>>,
    ) -> Result<()> {
        loop {
            let landed = self.report_until_ready(&flight, layer).await;
            let outcome = match landed {
                Ok(()) => {
                    places.send_modify(|places| places[nth] = Place::Landed(flight.clone()));
                    settled(&mut watched, nth).await
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) => break,
                // Someone else's download failed, perhaps for want of their credentials: once, begin an own.
                Err(error) if joined => {
                    tracing::debug!("{}: a shared download failed: {error}; beginning anew", layer.descriptor.digest);
                    joined = false;
                    flight = self.inner.flights.join(layer, self.sources, self.store, &self.inner.limits).0;
                }
                Err(error) => return Err(error),
            }
        }
        (self.progress)(PullEvent::PullComplete { id: short(layer) });
        Ok(())
    }

    /// Commits what has landed, from below, until everything is.
    async fn commit(
        &self,
        wanted: &[Wanted],
        places: &watch::Sender<Vec<Place>>,
        mut watched: watch::Receiver<Vec<Place>>,
    ) -> Result<()> {
        while let Some((first, flights)) = turn(&mut watched).await? {
            self.commit_these(wanted, places, first, &flights).await?;
        }
        Ok(())
    }

    /// One layer could not be had: those below it that have landed are kept, for the next pull.
    async fn commit_before_failing(&self, wanted: &[Wanted], places: &watch::Sender<Vec<Place>>) {
        let landed = || next(&places.borrow()).filter(|(_, landed)| !landed.is_empty());
        while let Some((first, flights)) = landed() {
            let Err(error) = self.commit_these(wanted, places, first, &flights).await else { continue };
            tracing::debug!("layers that have landed are not kept: {error}");
            if error.kind == ErrorKind::Storage {
                // Room on a full disk is worth more than blobs that have arrived.
                flights.iter().for_each(|flight| flight.download.abandon());
            }
            return;
        }
    }

    async fn commit_these(
        &self,
        wanted: &[Wanted],
        places: &watch::Sender<Vec<Place>>,
        first: usize,
        flights: &[Arc<Flight>],
    ) -> Result<()> {
        let mut turns = Vec::with_capacity(flights.len());
        for (flight, wanted) in flights.iter().zip(&wanted[first..]) {
            // From below, as everybody does.
            let slot = flight.slot.clone().lock_owned().await;
            turns.push(Turn { wanted: wanted.clone(), download: flight.download.clone(), slot });
        }
        let (store, parent) = (self.store.clone(), first.checked_sub(1).map(|below| wanted[below].chain_id.clone()));
        let (committed, lost) = blocking(move || commit(&store, turns, parent.as_ref())).await?;
        places.send_modify(|places| {
            places[first..first + committed].fill(Place::Committed);
            if let Some(error) = lost {
                places[first + committed] = Place::Lost(error);
            }
        });
        Ok(())
    }

    async fn report_until_ready(&self, flight: &Flight, layer: &Wanted) -> Result<()> {
        let (id, total) = (short(layer), layer.descriptor.size);
        let (mut arrival, mut stage) = (flight.download.arrival.clone(), flight.stage.clone());
        let (mut complete, mut arriving) = (false, true);
        loop {
            match arrival.borrow_and_update().clone() {
                Arrival::Waiting | Arrival::Failed(_) => {}
                Arrival::Downloading { current } => {
                    (self.progress)(PullEvent::Downloading { id: id.clone(), current, total })
                }
                Arrival::Retrying { seconds } => {
                    (self.progress)(PullEvent::Retrying { id: id.clone(), in_seconds: seconds })
                }
                Arrival::Verified => {
                    if !std::mem::replace(&mut complete, true) {
                        (self.progress)(PullEvent::DownloadComplete { id: id.clone() });
                        (self.progress)(PullEvent::Extracting { id: id.clone(), current: total, total });
                    }
                }
            }
            match stage.borrow_and_update().clone() {
                Stage::Working => {}
                Stage::Ready if complete => return Ok(()),
                // Its last word on the download has yet to be told.
                Stage::Ready => continue,
                Stage::Failed(error) => return Err(error),
            }
            tokio::select! {
                changed = arrival.changed(), if arriving => arriving = changed.is_ok(),
                changed = stage.changed() => {
                    // The task ends right after its last word, which is read above.
                    if changed.is_err() && matches!(&*stage.borrow(), Stage::Working) {
                        return Err(Error::new(ErrorKind::Storage, "a download ended without a result"));
                    }
                }
            }
        }
    }
}

/// Waits until something can be committed, or everything is: see [`next`]. For what is still on its way it waits a little longer.
async fn turn(watched: &mut watch::Receiver<Vec<Place>>) -> Result<Option<(usize, Vec<Arc<Flight>>)>> {
    let can = |places: &Vec<Place>| next(places).is_none_or(|(_, landed)| !landed.is_empty());
    let all = |places: &Vec<Place>| !places.iter().any(|place| matches!(place, Place::Away));
    gathered(watched, can, all, GATHERING).await.map_err(|_| ended())?;
    Ok(next(&watched.borrow()))
}

/// Waits until there is something, and from then on so long for all of it.
async fn gathered<T>(
    watched: &mut watch::Receiver<T>,
    something: impl Fn(&T) -> bool,
    all: impl Fn(&T) -> bool,
    patience: Duration,
) -> Result<(), watch::error::RecvError> {
    watched.wait_for(|there| something(there)).await?;
    match tokio::time::timeout(patience, watched.wait_for(|there| all(there))).await {
        Ok(Err(closed)) => Err(closed),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

/// The lowest layer that is not committed, and what has landed from there on; `None` if all are committed.
fn next(places: &[Place]) -> Option<(usize, Vec<Arc<Flight>>)> {
    let first = places.iter().position(|place| !matches!(place, Place::Committed))?;
    let landed = places[first..].iter().map_while(|place| match place {
        Place::Landed(flight) => Some(flight.clone()),
        _ => None,
    });
    Some((first, landed.collect()))
}

/// Waits until a layer that has landed is committed, or lost.
async fn settled(watched: &mut watch::Receiver<Vec<Place>>, nth: usize) -> Result<()> {
    let place = watched.wait_for(|places| !matches!(places[nth], Place::Landed(_))).await.map_err(|_| ended())?;
    match &place[nth] {
        Place::Lost(error) => Err(error.clone()),
        _ => Ok(()),
    }
}

/// Commits layers, the first on top of `parent`. Tells how many are in the store now, and what is wrong with the next one,
/// if that had gone to another pull.
fn commit(store: &Store, turns: Vec<Turn>, parent: Option<&Digest>) -> Result<(usize, Option<Error>)> {
    let (mut ingests, mut done, mut lost) = (Vec::new(), Vec::new(), None);
    for mut turn in turns {
        match turn.slot.take() {
            Some(ingest) => ingests.push(ingest),
            // Another pull has committed it.
            None if store.layer(&turn.wanted.chain_id).is_some() => {
                // With what was brought for below it comes another turn.
                if !ingests.is_empty() {
                    break;
                }
            }
            None => {
                let text = "another pull of the same layer failed to commit it";
                lost = Some(Error::new(ErrorKind::Storage, text));
                break;
            }
        }
        done.push(turn);
    }
    let before = done.len() - ingests.len();
    let below = before.checked_sub(1).map(|last| &done[last].wanted.chain_id).or(parent);
    for (committed, turn) in LayerIngest::commit_all(ingests, below)?.iter().zip(&done[before..]) {
        let (expected, got) = (&turn.wanted.chain_id, &committed.chain_id);
        if expected != got {
            return Err(Error::mismatch(format!("layer chain mismatch: expected {expected}, got {got}")));
        }
    }
    done.iter().for_each(|turn| keep_packed(store, &turn.download, &turn.wanted));
    Ok((done.len(), lost))
}

fn ended() -> Error {
    Error::new(ErrorKind::Storage, "a layer below was not committed")
}

/// What a layer goes by in progress: twelve digits of its digest.
fn short(layer: &Wanted) -> String {
    layer.descriptor.digest.hex().chars().take(12).collect()
}

/// The compressed blob stays, or what it can be made again from. The layer is here whether that works or not.
fn keep_packed(store: &Store, download: &Download, layer: &Wanted) {
    let Some(spooled) = download.take() else { return };
    let Descriptor { digest, media_type, .. } = &layer.descriptor;
    if let Err(error) = Packed::of(store).keep(spooled, digest, &layer.diff_id, media_type) {
        tracing::warn!("layer {digest} is here, but not its compressed form: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long enough to be told apart from no wait at all.
    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn what_is_there_waits_for_the_rest_but_not_for_ever() {
        let (there, mut watched) = watch::channel(0);
        let wait = async {
            gathered(&mut watched, |there| *there > 0, |there| *there == 3, LONG).await.unwrap();
            *watched.borrow()
        };
        let come = async {
            for number in 1..=3 {
                tokio::task::yield_now().await;
                there.send_replace(number);
            }
        };
        assert_eq!(tokio::join!(wait, come).0, 3, "all are there");
        there.send_replace(1);
        gathered(&mut watched, |there| *there > 0, |there| *there == 3, Duration::from_millis(1)).await.unwrap();
        assert_eq!(*watched.borrow(), 1, "no more have come");
        drop(there);
        gathered(&mut watched, |there| *there > 1, |there| *there == 3, LONG).await.unwrap_err();
    }
}
