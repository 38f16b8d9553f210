//! Checks layers: each directory has its row and each row its directory; in a full check each is compared with the archive
//! that it came from (`compare`).

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::compare::{Verdict, compare};
use super::marks::{self, Damage};
use super::{Check, Finding};
use crate::catalog::LayerInfo;
use crate::durable;
use crate::error::Result;
use crate::layer::{self, info};
use crate::recipe::{DIFF, RECIPE, REPLACED};
use crate::sources;
use crate::sweep;
use crate::trash;

/// What is only needed to make the archive again.
pub(super) const UNPUSHABLE: &str = "what its archive is made from again";

impl Check<'_> {
    /// All rows and all directories.
    pub(super) fn layers(&mut self) -> Result<()> {
        let mut layers: Vec<(usize, LayerInfo)> = {
            let catalog = self.store.catalog();
            catalog.layers.values().map(|layer| (catalog.chain(&layer.chain_id).len(), layer.clone())).collect()
        };
        // Those below first: what came from a damaged one cannot be compared.
        layers.sort_by(|a, b| (a.0, &a.1.chain_id).cmp(&(b.0, &b.1.chain_id)));
        for (_, layer) in &layers {
            let pin = self.store.pin(std::slice::from_ref(&layer.chain_id));
            // A collection that had decided before that ends first.
            drop(self.store.gate());
            self.layer(layer)?;
            self.beside(layer)?;
            drop(pin);
        }
        self.directories()
    }

    fn layer(&mut self, layer: &LayerInfo) -> Result<()> {
        let path = self.store.inner.root.join("layers").join(layer.chain_id.hex());
        let images = self.images_on(&layer.chain_id);
        let users = self.store.catalog().active.values().flatten().any(|chain| *chain == layer.chain_id);
        let needed = !images.is_empty() || users;
        let marked = self.store.catalog().damaged.get(&layer.chain_id).cloned();
        let below = self.below(layer);
        let verdict = match self.quick_problem(layer, &path) {
            Some(damage) => Verdict::Damaged(damage),
            None if self.options.full => compare(self.store, layer, &path, below.as_deref())?,
            None => Verdict::Whole(layer.clone()),
        };
        let damage = match (verdict, &marked) {
            (Verdict::Damaged(damage), _) => damage,
            (Verdict::Whole(_), Some(damage)) => damage.clone(),
            (Verdict::Whole(actual), None) => {
                self.row(layer, &actual, &path)?;
                if self.options.full && self.options.repair && below.is_some() {
                    sources::compared(self.store, &layer.chain_id)?;
                }
                return Ok(());
            }
        };
        if !self.store.catalog().layers.contains_key(&layer.chain_id) {
            // Collected meanwhile.
            return Ok(());
        }
        if !damage.usable {
            self.unsound.insert(layer.chain_id.clone());
        }
        let finding = Finding::new("layer", &layer.chain_id, damage.why.clone());
        let finding = Finding { advice: self.pull_again(&images), ..finding };
        let finding = match (self.options.repair, needed) {
            (false, _) => finding,
            (true, true) => {
                if marked.is_none() {
                    marks::mark(self.store, &layer.chain_id, damage)?;
                }
                finding.done("marked: the next pull brings it anew, what uses it goes on with what is there")
            }
            (true, false) => {
                marks::forget(self.store, &layer.chain_id)?;
                let kept = self.store.inner.quarantine.take_path(&path, "layer")?;
                finding.mended(kept.map_or("forgotten: nothing uses it".to_owned(), |kept| {
                    format!("nothing uses it: moved to {}", kept.display())
                }))
            }
        };
        self.found(finding);
        Ok(())
    }

    /// What lies beside a layer's files and is no part of it.
    fn beside(&mut self, layer: &LayerInfo) -> Result<()> {
        let path = self.store.inner.root.join("layers").join(layer.chain_id.hex());
        let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
        let strays =
            entries.filter(|entry| ![DIFF, RECIPE, REPLACED, info::INFO].iter().any(|own| entry.file_name() == *own));
        for stray in strays {
            let path = stray.path();
            self.set_aside(Finding::new("file", path.display(), "it is no part of the layer"), &path, true)?;
        }
        Ok(())
    }

    /// The files of the layers below, topmost first; `None` if they are not what they were.
    fn below(&self, layer: &LayerInfo) -> Option<Vec<PathBuf>> {
        let Some(parent) = &layer.parent else { return Some(Vec::new()) };
        let catalog = self.store.catalog();
        let chain = catalog.chain(parent);
        let is_sound = chain.last().is_some_and(|lowest| lowest.parent.is_none())
            && chain.iter().all(|layer| !self.unsound.contains(&layer.chain_id));
        is_sound.then(|| self.store.diff_paths(&catalog, parent))
    }

    fn is_whole(&self, layer: &LayerInfo, path: &Path) -> Result<bool> {
        let verdict = compare(self.store, layer, path, self.below(layer).as_deref())?;
        Ok(matches!(verdict, Verdict::Whole(_)))
    }

    fn quick_problem(&self, layer: &LayerInfo, path: &Path) -> Option<Damage> {
        let damaged = |why: &str| Some(Damage { why: why.to_owned(), usable: false });
        let usable = |why: &str| {
            Some(Damage { why: format!("{UNPUSHABLE} {why}: it can be used, but not saved or pushed"), usable: true })
        };
        if !path.exists() {
            return damaged("its directory is gone");
        }
        if !path.join(DIFF).is_dir() {
            return damaged("its files are gone");
        }
        if crate::digest::chain_id(layer.parent.as_ref(), &layer.diff_id) != layer.chain_id {
            return damaged("its row does not belong to it");
        }
        if let Some(parent) = &layer.parent
            && !self.store.catalog().layers.contains_key(parent)
        {
            return damaged(&format!("the layer below it, {parent}, is gone"));
        }
        match path.join(RECIPE).metadata() {
            Err(_) => usable("is gone"),
            Ok(metadata) if metadata.len() < 16 => usable("is cut off"),
            Ok(_) => None,
        }
    }

    /// What the database says about it, and what is written beside it.
    fn row(&mut self, layer: &LayerInfo, actual: &LayerInfo, path: &Path) -> Result<()> {
        if actual != layer {
            let problem = format!("its files have {} bytes, not {}", actual.size_bytes, layer.size_bytes);
            let problem = if actual.opaque == layer.opaque { problem } else { "it hides other layers below it".into() };
            let finding = Finding::new("layer", &layer.chain_id, problem);
            let finding = match self.options.repair {
                true => {
                    let _gate = self.store.gate();
                    self.store.inner.database.write(|db| layer::record(db, actual))?;
                    self.store.catalog_mut().layers.insert(actual.chain_id.clone(), actual.clone());
                    finding.mended("put right")
                }
                false => finding,
            };
            self.found(finding);
        }
        let read = info::read(self.store.inner.dirs.layers.as_fd(), layer.chain_id.hex());
        if read.as_ref() == Some(actual) || actual != layer && !self.options.repair {
            return Ok(());
        }
        let problem = "what is written down beside it is not what the database says";
        let finding = Finding::new("layer", &layer.chain_id, problem);
        let finding = match self.options.repair {
            true => {
                let dir = durable::open_directory(path)?;
                info::write(dir.as_fd(), actual)?;
                finding.mended("written again")
            }
            false => finding,
        };
        self.found(finding);
        Ok(())
    }

    /// Directories that no row knows.
    fn directories(&mut self) -> Result<()> {
        let root = self.store.inner.root.join("layers");
        for name in trash::names(self.store.inner.dirs.layers.as_fd(), &root)? {
            let path = root.join(&name);
            // A layer that is published just now gets its row under the gate.
            let gate = self.store.gate();
            let text = name.to_str().unwrap_or_default();
            let known = self.store.catalog().layers.keys().any(|chain| chain.hex() == text);
            if known || !path.exists() {
                continue;
            }
            let lost = info::read(self.store.inner.dirs.layers.as_fd(), text);
            drop(gate);
            match lost {
                Some(layer) if self.is_whole(&layer, &path)? => {
                    let finding =
                        Finding::new("layer", &layer.chain_id, "it is whole, but the database does not know it");
                    let finding = match self.options.repair {
                        true => {
                            sweep::adopt(self.store, vec![layer])?;
                            finding.mended("taken up again")
                        }
                        false => finding,
                    };
                    self.found(finding);
                }
                Some(_) | None => {
                    let finding = Finding::new("file", path.display(), "it is not a layer of this store");
                    self.set_aside(finding, &path, true)?;
                }
            }
        }
        Ok(())
    }
}
