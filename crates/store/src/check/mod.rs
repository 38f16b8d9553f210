//! Looking through the whole store for damage, and mending what can be mended.
//!
//! Owns what counts as damage and what is done about it: rows that lead nowhere go, sizes are put right, what is no part of
//! the store or is not what its name says goes to the quarantine, and a layer that is not what it was is marked, so that the
//! next pull of an image with it brings it anew while containers that use it go on with what they have.
//! Must not delete anything, and changes nothing unless it is asked to repair.

mod blobs;
pub(crate) mod compare;
mod layers;
pub(crate) mod marks;
mod others;
mod records;

use std::collections::HashSet;
use std::fmt;

use brig_oci::Digest;

use crate::error::Result;
use crate::store::Store;
use crate::upkeep::Upkeep;

/// How a check goes about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Reads every byte: blobs are hashed, layers compared with the archives that they came from.
    pub full: bool,
    /// Mends what can be mended.
    pub repair: bool,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing it is: `layer`, `blob`, `packed` (a compressed form), `image`, `manifest`, `tag`, `repository`,
    /// `container`, `volume`, `database`, `file`.
    pub kind: &'static str,
    /// Which one.
    pub name: String,
    /// What is wrong with it, for people.
    pub problem: String,
    /// What was done about it, if anything.
    pub done: Option<String>,
    /// Whether nothing is wrong with it any more.
    pub mended: bool,
    /// What somebody has to do, if anything: a command.
    pub advice: Option<String>,
}

impl Finding {
    /// Something that is wrong, with nothing done about it yet.
    pub fn new(kind: &'static str, name: impl fmt::Display, problem: impl Into<String>) -> Finding {
        let problem = problem.into();
        Finding { kind, name: name.to_string(), problem, done: None, mended: false, advice: None }
    }

    /// What has to be done by somebody.
    #[must_use]
    pub fn advice(mut self, command: impl Into<String>) -> Finding {
        self.advice = Some(command.into());
        self
    }

    /// What was done, by which all is well again.
    #[must_use]
    pub fn mended(mut self, done: impl Into<String>) -> Finding {
        (self.done, self.mended) = (Some(done.into()), true);
        self
    }

    /// What was done, which leaves something for somebody to do.
    #[must_use]
    pub fn done(mut self, done: impl Into<String>) -> Finding {
        self.done = Some(done.into());
        self
    }
}

/// A check under way: what it looks at, how, and who is told.
struct Check<'a> {
    store: &'a Store,
    options: CheckOptions,
    report: &'a mut dyn FnMut(Finding),
    /// Layers whose files are not what they were.
    unsound: HashSet<Digest>,
}

impl Upkeep<'_> {
    /// Looks through everything in the store, and mends it if so asked. Findings are told as they come; an error means that
    /// the check itself could not go on. The store may be in use meanwhile.
    pub fn check(&self, options: CheckOptions, report: &mut dyn FnMut(Finding)) -> Result<()> {
        // Nothing that is looked at may be collected meanwhile.
        let mut check = Check { store: self.store, options, report, unsound: HashSet::new() };
        check.database()?;
        check.strays()?;
        check.layers()?;
        check.blobs()?;
        others::packed(&mut check)?;
        others::partials(&mut check)?;
        others::repositories(&mut check)?;
        records::images(&mut check)?;
        records::tags(&mut check)?;
        records::writable_layers(&mut check)
    }
}

impl Check<'_> {
    fn found(&mut self, finding: Finding) {
        (self.report)(finding);
    }

    /// Moves something to the quarantine if it may, and reports.
    fn set_aside(&mut self, finding: Finding, path: &std::path::Path, mended: bool) -> Result<()> {
        let finding = match self.options.repair {
            true => match self.store.inner.quarantine.take_path(path, finding.kind)? {
                Some(kept) if mended => finding.mended(format!("moved to {}", kept.display())),
                Some(kept) => finding.done(format!("moved to {}", kept.display())),
                None => return Ok(()),
            },
            false => finding,
        };
        self.found(finding);
        Ok(())
    }

    /// What brings back what these images have lost: a pull by each name.
    fn pull_again(&self, images: &[Digest]) -> Option<String> {
        let tags = self.store.tags();
        let names: Vec<String> = tags
            .iter()
            .filter(|tag| images.contains(&tag.image))
            .map(|tag| brig_oci::Reference::parse(&tag.name).map_or(tag.name.clone(), |name| name.familiar()))
            .collect();
        match (names.is_empty(), images.first()) {
            (false, _) => Some(names.iter().map(|name| format!("brig pull {name}")).collect::<Vec<_>>().join("; ")),
            (true, Some(image)) => Some(format!("load or build image {} again", image.short())),
            (true, None) => None,
        }
    }

    /// The images that stand on a layer.
    fn images_on(&self, chain: &Digest) -> Vec<Digest> {
        let catalog = self.store.catalog();
        let stands = |image: &&crate::ImageRecord| {
            let top = image.chain_id.as_ref();
            top.is_some_and(|top| top == chain || catalog.chain(top).iter().any(|layer| layer.chain_id == *chain))
        };
        catalog.images.values().filter(stands).map(|image| image.id.clone()).collect()
    }
}
