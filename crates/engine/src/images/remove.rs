//! `rmi` and `image prune`: Docker's rules about what may go. Frees layers by the store's reachability, never by name.

use brig_api::filters::Filters;
use brig_api::image::{DeleteItem, PruneReport};
use brig_oci::{Digest, Reference};

use super::{Images, no_such};
use crate::error::{Error, Result, from_store};

pub(super) fn remove(images: &Images, wanted: &str, force: bool) -> Result<Vec<DeleteItem>> {
    let record = images.find(wanted)?;
    let tags = images.tags_of(&record.id);
    let named = Reference::parse(wanted).ok().filter(|_| !is_id(wanted, &record.id));
    let mut deleted = Vec::new();
    if let Some(reference) = named {
        let tag = tags
            .iter()
            .find(|tag| tag.name == reference.canonical())
            .or_else(|| {
                let digest = reference.digest()?;
                tags.iter().find(|tag| tag.manifest.as_ref() == Some(digest))
            })
            .ok_or_else(|| no_such(wanted))?;
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
        for (container, alive) in images.users_of(&record.id) {
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
        for tag in &tags {
            untag(images, &tag.name, &mut deleted)?;
        }
    }
    delete(images, &record.id, &mut deleted)?;
    Ok(deleted)
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

fn untag(images: &Images, name: &str, deleted: &mut Vec<DeleteItem>) -> Result<()> {
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

/// Takes an image out of the records; its files go with the next collection.
fn forget(images: &Images, id: &Digest, deleted: &mut Vec<DeleteItem>) -> Result<()> {
    images.store.remove_image(id).map_err(from_store)?;
    deleted.push(DeleteItem { deleted: id.to_string(), untagged: String::new() });
    images.emit("delete", id.as_str(), id.as_str());
    Ok(())
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
        for record in images.store.images() {
            let tags = images.tags_of(&record.id);
            let labels = images.store.image_config(&record.id).map(|config| config.config.labels).unwrap_or_default();
            let wanted = (!dangling_only || tags.is_empty())
                && images.users_of(&record.id).is_empty()
                && until.is_none_or(|limit| record.stored_at < limit)
                && filters.matches_labels("label", &labels)
                && !filters.matches_any_label("label!", &labels);
            if !wanted {
                continue;
            }
            for tag in &tags {
                untag(images, &tag.name, &mut deleted)?;
            }
            forget(images, &record.id, &mut deleted)?;
        }
        // Also when no image went: earlier failures may have left what nothing leads to.
        let freed = images.store.upkeep().prune().map_err(from_store)?;
        show_layers(&freed.layers, &mut deleted);
        Ok::<_, Error>(deleted)
    })?;
    images.events.pruned("image", space_reclaimed);
    Ok(PruneReport { images_deleted: Some(deleted), space_reclaimed })
}
