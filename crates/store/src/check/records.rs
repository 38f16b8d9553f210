//! Checks images, names and writable layers: each leads to what it says, and has the size that it says.

use std::os::fd::AsFd;

use brig_oci::{Digest, ImageConfig};

use super::{Check, Finding, marks};
use crate::digest;
use crate::error::Result;
use crate::trash;

/// Each image's configuration, layers, manifest and size.
pub(super) fn images(check: &mut Check<'_>) -> Result<()> {
    for image in check.store.images() {
        let advice = check.pull_again(std::slice::from_ref(&image.id));
        let problem = match check.store.read_blob(&image.id).map(|bytes| ImageConfig::parse(&bytes)) {
            Err(error) => Some(format!("its configuration: {error}")),
            Ok(Err(error)) => Some(format!("its configuration: {error}")),
            Ok(Ok(config)) => {
                let chain = digest::top_chain_id(&config.rootfs.diff_ids);
                if chain != image.chain_id {
                    Some("it stands on other layers than its configuration says".into())
                } else if chain.as_ref().is_some_and(|chain| !check.store.is_whole(chain)) {
                    Some("not all of its layers are here and whole".into())
                } else {
                    None
                }
            }
        };
        let missing = image.manifest.as_ref().filter(|manifest| check.store.blob_size(manifest).is_none());
        if let Some(problem) = problem {
            // The row stays: by it a pull knows what is missing, and containers what they are made from.
            check.found(Finding { advice, ..Finding::new("image", &image.id, problem) });
            continue;
        }
        if let Some(manifest) = missing {
            let finding = Finding::new("image", &image.id, format!("its manifest {manifest} is gone"));
            check.found(Finding { advice, ..finding });
        }
        let size: u64 = match &image.chain_id {
            Some(chain) => check.store.catalog().chain(chain).iter().map(|layer| layer.size_bytes).sum(),
            None => 0,
        };
        if size != image.size_bytes {
            let finding = Finding::new("image", &image.id, format!("its size is {size}, not {}", image.size_bytes));
            let finding = match check.options.repair {
                true => {
                    check.store.put_image(image)?;
                    finding.mended("put right")
                }
                false => finding,
            };
            check.found(finding);
        }
    }
    Ok(())
}

/// Names that mean nothing.
pub(super) fn tags(check: &mut Check<'_>) -> Result<()> {
    for tag in check.store.tags() {
        let name = brig_oci::Reference::parse(&tag.name).map_or(tag.name.clone(), |name| name.familiar());
        if check.store.image(&tag.image).is_none() {
            let finding = Finding::new("tag", &name, format!("it names image {}, which is gone", tag.image.short()));
            let finding = match check.options.repair {
                true => {
                    check.store.untag(&tag.name)?;
                    finding.done("removed").advice(format!("brig pull {name}"))
                }
                false => finding.advice(format!("brig pull {name}")),
            };
            check.found(finding);
            continue;
        }
        let missing = tag.manifest.as_ref().filter(|manifest| check.store.blob_size(manifest).is_none());
        if let Some(manifest) = missing {
            let finding =
                Finding::new("tag", &name, format!("the manifest that it was pulled with, {manifest}, is gone"));
            check.found(finding.advice(format!("brig pull {name}")));
        }
    }
    Ok(())
}

/// Writable layers whose layers below are gone, and directories that belong to none.
pub(super) fn writable_layers(check: &mut Check<'_>) -> Result<()> {
    let mut keys = check.store.active_keys();
    keys.sort();
    for key in &keys {
        let chain: Option<Digest> = check.store.catalog().active.get(key).cloned().flatten();
        let Some(chain) = chain.filter(|chain| !marks::are_there(check.store, chain)) else { continue };
        let images = check.images_on(&chain);
        let finding = Finding::new("container", key, "not all layers below its own are here: it cannot be started");
        let advice = check.pull_again(&images).unwrap_or_else(|| "pull the image that it was made from".into());
        check.found(finding.advice(advice));
    }
    let root = check.store.inner.root.join("active");
    for name in trash::names(check.store.inner.dirs.active.as_fd(), &root)? {
        let gate = check.store.gate();
        let known = name.to_str().is_some_and(|name| check.store.catalog().active.contains_key(name));
        drop(gate);
        let path = root.join(&name);
        if !known && path.symlink_metadata().is_ok() {
            let finding = Finding::new("file", path.display(), "it is not the writable layer of a container");
            check.set_aside(finding, &path, true)?;
        }
    }
    Ok(())
}
