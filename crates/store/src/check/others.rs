//! Checks what is neither layer nor image: compressed forms, unfinished blobs, repositories.

use std::collections::HashMap;

use brig_oci::{Digest, Document, Reference};

use super::{Check, Finding};
use crate::error::Result;
use crate::packed::{self, Unsound};
use crate::repositories::found;
use crate::repositories::{UPLOAD, sound};

/// Compressed forms: each can be had, and no other file is there.
pub(super) fn packed(check: &mut Check<'_>) -> Result<()> {
    let (store, full) = (check.store, check.options.full);
    let mut names = None;
    packed::unsound(store, full, &mut |one| form(check, &one, &mut names))?;
    for path in packed::stray_names(store)? {
        let finding = Finding::new("file", path.display(), "it is no compressed form of a layer");
        check.set_aside(finding, &path, true)?;
    }
    Ok(())
}

/// The layer itself is whole, so that nothing but the exact bytes of the blob is lost. `names` is filled in when it is needed.
fn form(check: &mut Check<'_>, form: &Unsound, names: &mut Option<Names>) -> Result<()> {
    let finding = Finding::new("packed", &form.digest, form.why.clone());
    let names = names.get_or_insert_with(|| names_by_layer(check)).get(&form.digest);
    let finding = match check.options.repair {
        true => {
            let kept = packed::lose(check.store, &form.digest)?;
            let aside = kept.map_or(String::new(), |kept| format!(" and moved to {}", kept.display()));
            finding.mended(format!("forgotten{aside}; a push packs layer {} anew", form.diff_id))
        }
        false => finding,
    };
    let repair = if check.options.repair { "" } else { "brig system check --full --repair && " };
    let advice: Vec<String> = names.into_iter().flatten().map(|name| format!("{repair}brig pull {name}")).collect();
    let advice = (!advice.is_empty()).then(|| format!("to have its very bytes again: {}", advice.join("; ")));
    check.found(Finding { advice, ..finding });
    Ok(())
}

/// For each compressed layer the names of the images whose manifest lists it.
type Names = HashMap<Digest, Vec<String>>;

/// Reads every manifest once, however many forms are damaged.
fn names_by_layer(check: &Check<'_>) -> Names {
    let mut tags: HashMap<Digest, Vec<String>> = HashMap::new();
    for tag in check.store.tags() {
        let name = Reference::parse(&tag.name).map_or(tag.name.clone(), |name| name.familiar());
        tags.entry(tag.image).or_default().push(name);
    }
    let mut names = Names::new();
    for image in check.store.images() {
        let (Some(tags), Some(manifest)) = (tags.get(&image.id), &image.manifest) else { continue };
        let bytes = check.store.read_blob(manifest).ok();
        let Some(Document::Manifest(manifest)) = bytes.and_then(|bytes| Document::parse(&bytes, None).ok()) else {
            continue;
        };
        for layer in manifest.layers {
            let known = names.entry(layer.digest).or_default();
            known.extend(tags.iter().filter(|name| !known.contains(name)).cloned().collect::<Vec<_>>());
        }
    }
    names
}

/// Unfinished blobs: files that somebody may go on with, and nothing else.
pub(super) fn partials(check: &mut Check<'_>) -> Result<()> {
    let root = check.store.inner.root.join("partial");
    let open: Vec<String> =
        check.store.partials().list()?.into_iter().filter(|info| info.open).map(|info| info.name).collect();
    for (name, is_plain) in check.store.inner.partials.strays()? {
        let path = root.join(&name);
        let upload = name.to_str().and_then(|name| name.strip_prefix(UPLOAD));
        let problem = match upload.filter(|_| is_plain) {
            Some(id) => {
                let is_known = crate::Repositories::of(check.store).uploads().find(id)?.is_some();
                if is_known || open.iter().any(|open| *open == name.to_string_lossy()) {
                    continue;
                }
                "nobody knows of this upload any more, so that nobody can go on with it"
            }
            None if is_plain => continue,
            None => "it is no unfinished blob",
        };
        if path.symlink_metadata().is_ok() {
            check.set_aside(Finding::new("file", path.display(), problem), &path, true)?;
        }
    }
    Ok(())
}

/// Repositories: each row leads somewhere, and nobody's manifests are looked at.
pub(super) fn repositories(check: &mut Check<'_>) -> Result<()> {
    let found = found::count(check.store)?;
    if found > 0 {
        let problem = format!("it keeps {found} manifests whose names were lost with the database");
        let advice = "pull what is missed from there (its tags are lost-…), push it under its name, and delete the manifests there";
        check.found(Finding::new("repository", found::LOST_AND_FOUND, problem).advice(advice));
    }
    for fault in sound::faults(check.store, check.options.full)? {
        let finding = Finding::new(fault.kind, &fault.name, fault.why.clone());
        let again = format!("push to the registry again: {}", fault.push_again.join(", "));
        let finding = match (check.options.repair, fault.push_again.is_empty()) {
            (false, true) => finding,
            (false, false) => finding.advice(again),
            (true, is_mended) => {
                sound::mend(check.store, &fault)?;
                match is_mended {
                    true => finding.mended(fault.mending),
                    false => finding.done(fault.mending).advice(again),
                }
            }
        };
        check.found(finding);
    }
    Ok(())
}
