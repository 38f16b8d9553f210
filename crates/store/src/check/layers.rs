//! Checks layers: each directory has its row and each row its directory; in a full check the archive that a layer came from
//! is made again from its files and compared, names, owners, modes and times with it.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::marks::{self, Damage};
use super::{Check, Finding};
use crate::apply;
use crate::catalog::LayerInfo;
use crate::durable;
use crate::error::Result;
use crate::layer::info;
use crate::recipe::{DIFF, LayerTar, RECIPE};
use crate::sweep;
use crate::tar::{Archive, Kind, Member};
use crate::trash;

/// What is only needed to make the archive again.
const UNPUSHABLE: &str = "what its archive is made from again";

impl Check<'_> {
    /// All rows and all directories.
    pub(super) fn layers(&mut self) -> Result<()> {
        let mut layers: Vec<LayerInfo> = self.store.catalog().layers.values().cloned().collect();
        layers.sort_by(|a, b| a.chain_id.cmp(&b.chain_id));
        for layer in &layers {
            let pin = self.store.pin(std::slice::from_ref(&layer.chain_id));
            self.layer(layer)?;
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
        let problem = match self.quick_problem(layer, &path) {
            None if self.options.full => full_problem(layer, &path)?,
            problem => problem,
        };
        let Some(problem) = problem.or_else(|| marked.clone().map(|damage| damage.why)) else {
            return self.size(layer, &path);
        };
        if !self.store.catalog().layers.contains_key(&layer.chain_id) {
            // Collected meanwhile.
            return Ok(());
        }
        let finding = Finding::new("layer", &layer.chain_id, problem.clone());
        let finding = Finding { advice: self.pull_again(&images), ..finding };
        let finding = match (self.options.repair, needed) {
            (false, _) => finding,
            (true, true) => {
                if marked.is_none() {
                    let usable = problem.contains(UNPUSHABLE);
                    marks::mark(self.store, &layer.chain_id, Damage { why: problem, usable })?;
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

    fn quick_problem(&self, layer: &LayerInfo, path: &Path) -> Option<String> {
        if !path.exists() {
            return Some("its directory is gone".into());
        }
        if !path.join(DIFF).is_dir() {
            return Some("its files are gone".into());
        }
        if crate::digest::chain_id(layer.parent.as_ref(), &layer.diff_id) != layer.chain_id {
            return Some("its row does not belong to it".into());
        }
        if let Some(parent) = &layer.parent
            && !self.store.catalog().layers.contains_key(parent)
        {
            return Some(format!("the layer below it, {parent}, is gone"));
        }
        match path.join(RECIPE).metadata() {
            Err(_) => Some(format!("{UNPUSHABLE} is gone: it can be used, but not saved or pushed")),
            Ok(metadata) if metadata.len() < 16 => {
                Some(format!("{UNPUSHABLE} is cut off: it can be used, but not saved or pushed"))
            }
            Ok(_) => None,
        }
    }

    /// The sum of the sizes of its regular files, as it is written down.
    fn size(&mut self, layer: &LayerInfo, path: &Path) -> Result<()> {
        let read = info::read(self.store.inner.dirs.layers.as_fd(), layer.chain_id.hex());
        if read.as_ref() == Some(layer) {
            return Ok(());
        }
        let finding =
            Finding::new("layer", &layer.chain_id, "what is written down beside it is not what the database says");
        let finding = match self.options.repair {
            true => {
                let dir = durable::open_directory(path)?;
                info::write(dir.as_fd(), layer)?;
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
                Some(layer) if full_problem(&layer, &path)?.is_none() => {
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

/// Makes the archive again and looks at every file.
fn full_problem(layer: &LayerInfo, path: &Path) -> Result<Option<String>> {
    let tar = match LayerTar::open(path, &layer.diff_id, None) {
        Ok(Some(tar)) => tar,
        Ok(None) => return Ok(Some(format!("{UNPUSHABLE} is gone"))),
        Err(error) => return Ok(Some(error.message)),
    };
    let mut archive = Archive::new(tar);
    let mut members = Members::default();
    loop {
        match archive.next_member() {
            Ok(Some(member)) => members.add(member),
            Ok(None) => break,
            Err(error) => return Ok(Some(error.message)),
        }
    }
    // The end, where the digest is verified, may be behind what an archive reader looks at.
    if let Err(error) = std::io::copy(&mut archive.into_inner(), &mut std::io::sink()) {
        return Ok(Some(error.to_string()));
    }
    members.compare(&path.join(DIFF))
}

/// What the archive says there should be.
#[derive(Default)]
struct Members {
    /// Path → the member, or `None` where there are several of that name.
    known: HashMap<PathBuf, Option<Member>>,
    links: HashSet<PathBuf>,
    /// An archive that goes through links of its own, or that has marks, is compared by its bytes alone.
    by_name: bool,
    started: bool,
}

impl Members {
    fn add(&mut self, member: Member) {
        if !std::mem::replace(&mut self.started, true) {
            self.by_name = true;
        }
        let Ok(path) = apply::clean(&member.name) else {
            self.by_name = false;
            return;
        };
        if path.ancestors().skip(1).any(|ancestor| self.links.contains(ancestor)) {
            self.by_name = false;
        }
        if member.kind == Kind::Symlink {
            self.links.insert(path.clone());
        }
        let entry = self.known.entry(path);
        let several = matches!(entry, std::collections::hash_map::Entry::Occupied(_));
        *entry.or_insert(None) = (!several).then_some(member);
    }

    /// What is not as the archive has it, the first such thing.
    fn compare(&self, diff: &Path) -> Result<Option<String>> {
        if !self.by_name {
            return Ok(None);
        }
        let mut implied = HashSet::new();
        self.known.keys().for_each(|path| implied.extend(path.ancestors().skip(1).map(Path::to_owned)));
        let mut todo = vec![PathBuf::new()];
        while let Some(directory) = todo.pop() {
            let Ok(entries) = std::fs::read_dir(diff.join(&directory)) else {
                return Ok(Some(format!("/{} cannot be read", directory.display())));
            };
            for entry in entries.flatten() {
                let path = directory.join(entry.file_name());
                let Ok(metadata) = entry.metadata() else { continue };
                let is_whiteout = metadata.file_type().is_char_device() && metadata.rdev() == 0;
                let is_directory = metadata.is_dir();
                match self.known.get(&path) {
                    Some(Some(member)) => {
                        if let Some(problem) = difference(member, &metadata) {
                            return Ok(Some(format!("/{}: {problem}", path.display())));
                        }
                    }
                    Some(None) => {}
                    None if is_whiteout || is_directory && implied.contains(&path) => {}
                    None if is_directory && self.made_by_whiteout(&path) => {}
                    None => return Ok(Some(format!("/{} was added to it", path.display()))),
                }
                if is_directory {
                    todo.push(path);
                }
            }
        }
        Ok(None)
    }

    /// A directory may be there only to hold whiteouts.
    fn made_by_whiteout(&self, path: &Path) -> bool {
        self.known.keys().any(|known| {
            known.file_name().is_some_and(|name| name.as_bytes().starts_with(b".wh.")) && known.starts_with(path)
        })
    }
}

/// What was changed about a file, if it is one that can be compared: a name of its own, and not a directory, whose
/// description may come from below.
fn difference(member: &Member, metadata: &std::fs::Metadata) -> Option<String> {
    if member.kind != Kind::File || metadata.nlink() != 1 {
        return None;
    }
    let (mode, was) = (metadata.mode() & 0o7777, member.mode & 0o7777);
    if !metadata.is_file() {
        return Some("it was a file".into());
    }
    if mode != was {
        return Some(format!("its mode was {was:o} and is {mode:o}"));
    }
    if (metadata.uid(), metadata.gid()) != (member.uid, member.gid) {
        let (uid, gid) = (metadata.uid(), metadata.gid());
        return Some(format!("its owner was {}:{} and is {uid}:{gid}", member.uid, member.gid));
    }
    None
}
