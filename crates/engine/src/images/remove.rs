//! `rmi` and `image prune`: Docker's rules about what may go. Frees layers by the store's reachability, never by name.

use std::collections::HashSet;

use brig_api::filters::Filters;
use brig_api::image::{DeleteItem, PruneReport};
use brig_oci::{Digest, Platform, Reference};
use brig_store::{ImageRecord, TagRecord};

use super::{Images, family, no_such};
use crate::error::{Error, Result, from_store};

pub(super) fn remove(images: &Images, wanted: &str, force: bool, platforms: &[String]) -> Result<Vec<DeleteItem>> {
    if !platforms.is_empty() {
        let platforms = platforms.iter().map(|text| super::archive::platform(text)).collect::<Result<Vec<_>>>()?;
        return remove_platforms(images, wanted, force, &platforms);
    }
    let record = images.find(wanted)?;
    let tags = images.tags_of(&record.id);
    let parts = parts_of(images, &tags);
    let mut deleted = remove_named(images, wanted, force, &record, tags)?;
    if forget_orphans(images, parts, &mut deleted)? {
        let freed = images.store.gc(&[]).map_err(from_store)?;
        show_layers(&freed.layers, &mut deleted);
    }
    Ok(deleted)
}

/// The images for other platforms that these names lead to.
fn parts_of(images: &Images, tags: &[TagRecord]) -> HashSet<Digest> {
    let mut parts = family::parts(&images.documents, &images.store, tags);
    parts.retain(|part| !tags.iter().any(|tag| tag.image == *part));
    parts
}

/// Forgets those images that no name means or leads to any more, and no container uses; tells whether there were any.
pub(super) fn forget_orphans(images: &Images, parts: HashSet<Digest>, deleted: &mut Vec<DeleteItem>) -> Result<bool> {
    if parts.is_empty() {
        return Ok(false);
    }
    let still = family::parts(&images.documents, &images.store, &images.store.tags());
    let mut any = false;
    for id in parts {
        let is_named = still.contains(&id) || !images.tags_of(&id).is_empty();
        if !is_named && images.users_of(&id).is_empty() && images.store.image(&id).is_some() {
            any |= forget(images, &id, deleted)?;
        }
    }
    Ok(any)
}

/// Removes of what a name leads to the images for these platforms. The name stays with what is left, and goes with the last.
fn remove_platforms(images: &Images, wanted: &str, force: bool, platforms: &[Platform]) -> Result<Vec<DeleteItem>> {
    let (record, family) = images.find_family(wanted)?;
    let (mut going, mut staying) = (Vec::new(), Vec::new());
    for (member, image) in family.iter().flat_map(family::Family::images) {
        let fits =
            |platform: &Platform| member.descriptor.platform.as_ref().is_some_and(|has| platform.rank(has) == Some(0));
        if platforms.iter().any(fits) { going.push((member, image)) } else { staying.push(image) }
    }
    if let Some(missing) = platforms.iter().find(|platform| {
        !going
            .iter()
            .any(|(member, _)| member.descriptor.platform.as_ref().is_some_and(|has| platform.rank(has) == Some(0)))
    }) {
        return Err(Error::not_found(format!(
            "image with reference {wanted} was found but does not provide the specified platform ({missing})"
        )));
    }
    let Some(left) = staying.first() else { return remove(images, wanted, force, &[]) };
    for (_, image) in &going {
        refuse_in_use(images, &image.id, force)?;
    }
    let mut deleted = Vec::new();
    for tag in images.tags_of(&record.id).iter().filter(|_| going.iter().any(|(_, image)| image.id == record.id)) {
        images.store.tag(&tag.name, &left.id, tag.manifest.as_ref()).map_err(from_store)?;
    }
    for (_, image) in going {
        delete(images, &image.id, &mut deleted)?;
    }
    Ok(deleted)
}

/// Refuses to delete what containers are made from.
fn refuse_in_use(images: &Images, id: &Digest, force: bool) -> Result<()> {
    let short = id.short();
    for (container, alive) in images.users_of(id) {
        let container = &container[..12];
        if alive {
            return Err(Error::conflict(format!(
                "conflict: unable to delete {short} (cannot be forced) - image is being used by running container {container}"
            )));
        }
        if !force {
            return Err(Error::conflict(format!(
                "conflict: unable to delete {short} (must be forced) - image is being used by stopped container {container}"
            )));
        }
    }
    Ok(())
}

fn remove_named(
    images: &Images,
    wanted: &str,
    force: bool,
    record: &ImageRecord,
    tags: Vec<TagRecord>,
) -> Result<Vec<DeleteItem>> {
    let named = Reference::parse(wanted).ok().filter(|_| !is_id(wanted, &record.id));
    let mut deleted = Vec::new();
    if let Some(reference) = named {
        if forget_digest(images, &reference, &tags, &mut deleted)? {
            return Ok(deleted);
        }
        let tag = tags.iter().find(|tag| tag.name == reference.canonical()).ok_or_else(|| no_such(wanted))?;
        if tags.len() == 1 && !force {
            refuse_used(images, &record.id, &reference.familiar())?;
        }
        untag(images, &tag.name, &mut deleted)?;
        if tags.len() > 1 || !images.users_of(&record.id).is_empty() {
            return Ok(deleted);
        }
    } else {
        let repositories: std::collections::BTreeSet<String> =
            tags.iter().filter_map(|tag| Reference::parse(&tag.name).ok()).map(|reference| reference.name()).collect();
        let short = record.id.short();
        if repositories.len() > 1 && !force {
            return Err(Error::conflict(format!(
                "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
            )));
        }
        refuse_in_use(images, &record.id, force)?;
        for tag in &tags {
            untag(images, &tag.name, &mut deleted)?;
        }
    }
    delete(images, &record.id, &mut deleted)?;
    Ok(deleted)
}

/// `name@digest` beside a tag of that name: the tag stays and is no longer known by the digest. Tells whether it was so.
fn forget_digest(
    images: &Images,
    reference: &Reference,
    tags: &[TagRecord],
    deleted: &mut Vec<DeleteItem>,
) -> Result<bool> {
    let Some(digest) = reference.digest() else { return Ok(false) };
    let has_digest = |tag: &&TagRecord| {
        tag.manifest.as_ref() == Some(digest)
            && Reference::parse(&tag.name).is_ok_and(|tag| tag.name() == reference.name() && tag.digest().is_none())
    };
    let tagged: Vec<&TagRecord> = tags.iter().filter(has_digest).collect();
    if tagged.is_empty() {
        return Ok(false);
    }
    for tag in tagged {
        images.store.tag(&tag.name, &tag.image, None).map_err(from_store)?;
    }
    images.store.untag(&reference.canonical()).map_err(from_store)?;
    let name = format!("{}@{digest}", reference.familiar_name());
    if let Some(tag) = tags.first() {
        images.emit("untag", tag.image.as_str(), &name);
    }
    deleted.push(DeleteItem { untagged: name, deleted: String::new() });
    Ok(true)
}

fn is_id(wanted: &str, id: &Digest) -> bool {
    let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    // A name that happens to begin an id is a name if such a tag exists; `find` looked for that first.
    id.hex().starts_with(hex)
}

fn refuse_used(images: &Images, id: &Digest, name: &str) -> Result<()> {
    match images.users_of(id).first() {
        Some((container, _)) => Err(Error::conflict(format!(
            "conflict: unable to remove repository reference \"{name}\" (must force) - container {} is using its referenced image {}",
            &container[..12],
            id.short()
        ))),
        None => Ok(()),
    }
}

pub(super) fn untag(images: &Images, name: &str, deleted: &mut Vec<DeleteItem>) -> Result<()> {
    let Some(tag) = images.store.untag(name).map_err(from_store)? else { return Ok(()) };
    let (repo_tags, repo_digests) = super::show::names(std::slice::from_ref(&tag));
    let shown = repo_tags.iter().chain(&repo_digests);
    deleted.extend(shown.map(|name| DeleteItem { untagged: name.clone(), deleted: String::new() }));
    images.emit("untag", tag.image.as_str(), repo_tags.first().map_or(name, String::as_str));
    Ok(())
}

fn delete(images: &Images, id: &Digest, deleted: &mut Vec<DeleteItem>) -> Result<()> {
    forget(images, id, deleted)?;
    let freed = images.store.gc(&[]).map_err(from_store)?;
    show_layers(&freed.layers, deleted);
    Ok(())
}

/// Takes an image without a name out of the records, unless somebody has just given it one; its files go with the next
/// collection. Tells whether it went.
pub(super) fn forget(images: &Images, id: &Digest, deleted: &mut Vec<DeleteItem>) -> Result<bool> {
    if !brig_store::remove_unnamed_image(&images.store, id).map_err(from_store)? {
        return Ok(false);
    }
    deleted.push(DeleteItem { deleted: id.to_string(), untagged: String::new() });
    images.emit("delete", id.as_str(), id.as_str());
    Ok(true)
}

fn show_layers(layers: &[Digest], deleted: &mut Vec<DeleteItem>) {
    let layers = layers.iter().rev();
    deleted.extend(layers.map(|layer| DeleteItem { deleted: layer.to_string(), untagged: String::new() }));
}

/// Answers when the files are gone: the bytes that it tells of are free then.
pub(super) fn prune(images: &Images, filters: &Filters) -> Result<PruneReport> {
    filters.check(&["dangling", "label", "label!", "until"]).map_err(Error::invalid)?;
    let dangling_only = filters.boolean("dangling", true).map_err(Error::invalid)?;
    let until = crate::until_limit(filters)?.map(|at| at.as_second());
    let (deleted, space_reclaimed) = images.store.upkeep().freed_by(|| {
        let mut deleted = Vec::new();
        let parts = family::parts(&images.documents, &images.store, &images.store.tags());
        let mut orphans = HashSet::new();
        for record in images.store.images() {
            let tags = images.tags_of(&record.id);
            let labels = images.store.image_config(&record.id).map(|config| config.config.labels).unwrap_or_default();
            // What another name leads to goes with that.
            let is_part = tags.is_empty() && parts.contains(&record.id);
            let wanted = (!dangling_only || tags.is_empty())
                && !is_part
                && !images.stays_in_prune(&record.id)
                && until.is_none_or(|limit| record.stored_at < limit)
                && filters.matches_labels("label", &labels)
                && !filters.matches_any_label("label!", &labels);
            if !wanted {
                continue;
            }
            orphans.extend(parts_of(images, &tags));
            for tag in &tags {
                untag(images, &tag.name, &mut deleted)?;
            }
            forget(images, &record.id, &mut deleted)?;
        }
        forget_orphans(images, orphans, &mut deleted)?;
        // Also when no image went: earlier failures may have left what nothing leads to.
        let freed = images.store.upkeep().prune().map_err(from_store)?;
        show_layers(&freed.layers, &mut deleted);
        Ok::<_, Error>(deleted)
    })?;
    images.events.pruned("image", space_reclaimed);
    Ok(PruneReport { images_deleted: Some(deleted), space_reclaimed })
}
