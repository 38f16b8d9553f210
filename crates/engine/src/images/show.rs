//! Images as Docker shows them: list, inspect, history. Reads the store only.

use std::collections::{BTreeMap, HashMap};

use brig_api::container::{Empty, HealthConfig};
use brig_api::filters::Filters;
use brig_api::image as api;
use brig_oci::{Digest, ImageConfig, Reference};
use brig_store::{ImageRecord, TagRecord};

use super::{Images, ListOptions, family, manifests};
use crate::error::{Error, Result, from_store};
use crate::id::parse_time;

/// `RepoTags` and `RepoDigests` of an image.
pub(super) fn names(tags: &[TagRecord]) -> (Vec<String>, Vec<String>) {
    let mut repo_tags = Vec::new();
    let mut repo_digests = Vec::new();
    for tag in tags {
        let Ok(reference) = Reference::parse(&tag.name) else { continue };
        if reference.digest().is_none() {
            repo_tags.push(reference.familiar());
        }
        if let Some(manifest) = tag.manifest.as_ref().or(reference.digest()) {
            let digest = format!("{}@{manifest}", reference.familiar_name());
            if !repo_digests.contains(&digest) {
                repo_digests.push(digest);
            }
        }
    }
    (repo_tags, repo_digests)
}

fn created(record: &ImageRecord) -> i64 {
    record.created.as_deref().and_then(parse_time).map_or(0, |at| at.as_second())
}

fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

pub(super) fn list(images: &Images, options: ListOptions, filters: &Filters) -> Result<Vec<api::Summary>> {
    filters.check(&["before", "dangling", "label", "label!", "reference", "since", "until"]).map_err(Error::invalid)?;
    let dangling =
        filters.contains("dangling").then(|| filters.boolean("dangling", false)).transpose().map_err(Error::invalid)?;
    let border =
        |key: &str| filters.get(key).next().map(|name| images.find(name).map(|image| created(&image))).transpose();
    let (before, since) = (border("before")?, border("since")?);
    let until = crate::until_limit(filters)?.map(|at| at.as_second());
    let all_tags = images.store.tags();
    let mut records = images.store.images();
    records.sort_by_key(|record| std::cmp::Reverse(created(record)));
    let parts = family::parts(&images.documents, &images.store, &all_tags);
    let shared = options.shared_size.then(|| manifests::shared_layers(images));
    let views = images.containers.views();
    let mut users = HashMap::<&str, usize>::new();
    views.iter().for_each(|view| *users.entry(view.record.image_id.as_str()).or_default() += 1);
    let mut list = Vec::new();
    for record in records {
        let tags: Vec<TagRecord> = all_tags.iter().filter(|tag| tag.image == record.id).cloned().collect();
        let at = created(&record);
        if tags.is_empty() && !options.all && parts.contains(&record.id) {
            continue;
        }
        if dangling.is_some_and(|wanted| wanted != tags.is_empty())
            || before.is_some_and(|limit| at >= limit)
            || since.is_some_and(|limit| at <= limit)
            || until.is_some_and(|limit| at >= limit)
        {
            continue;
        }
        let (mut repo_tags, mut repo_digests) = names(&tags);
        if filters.contains("reference") {
            repo_tags.retain(|tag| filters.get("reference").any(|pattern| matches_reference(pattern, tag)));
            let repository = |digest: &str| digest.split('@').next().unwrap_or_default().to_owned();
            let fits = |digest: &String| {
                filters.get("reference").any(|pattern| glob(pattern.as_bytes(), repository(digest).as_bytes()))
            };
            repo_digests.retain(fits);
            if repo_tags.is_empty() && repo_digests.is_empty() {
                continue;
            }
        }
        let labels = labels_of(images, &record.id);
        if !filters.matches_labels("label", &labels) || filters.matches_any_label("label!", &labels) {
            continue;
        }
        let family = tags.iter().find_map(|tag| images.family_of(tag.manifest.as_ref()?)).filter(|it| it.is_index);
        let family = family.or_else(|| images.family_of(record.manifest.as_ref()?));
        let mut summary = api::Summary {
            containers: i64::try_from(users.get(record.id.as_str()).copied().unwrap_or(0)).unwrap_or(i64::MAX),
            created: at,
            id: record.id.to_string(),
            labels: Some(labels).filter(|labels| !labels.is_empty()),
            repo_digests: Some(repo_digests),
            repo_tags: Some(repo_tags),
            shared_size: shared.as_ref().map_or(-1, |shared| size(manifests::shared_size(images, &record, shared))),
            size: size(manifests::unpacked(images, &record, family.as_ref())),
            ..api::Summary::default()
        };
        if options.manifests {
            summary.descriptor = family.as_ref().map(|family| manifests::descriptor(&family.top));
            summary.manifests = family.map(|family| manifests::summaries(images, &family));
        }
        list.push(summary);
    }
    Ok(list)
}

pub(super) fn labels_of(images: &Images, id: &Digest) -> BTreeMap<String, String> {
    // An image whose configuration is damaged is still listed, so that it can be removed.
    images.store.image_config(id).map(|config| config.config.labels).unwrap_or_default()
}

/// `*` and `?` do not cross slashes; a pattern without a tag matches any.
fn matches_reference(pattern: &str, name: &str) -> bool {
    let (repository, _) = name.rsplit_once(':').unwrap_or((name, ""));
    glob(pattern.as_bytes(), name.as_bytes()) || glob(pattern.as_bytes(), repository.as_bytes())
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.first(), text.first()) {
        (None, None) => true,
        (Some(b'*'), _) => {
            glob(&pattern[1..], text) || text.first().is_some_and(|b| *b != b'/' && glob(pattern, &text[1..]))
        }
        (Some(b'?'), Some(b)) if *b != b'/' => glob(&pattern[1..], &text[1..]),
        (Some(a), Some(b)) if a == b => glob(&pattern[1..], &text[1..]),
        _ => false,
    }
}

/// The image that a name means on a platform, as text or JSON; empty for this host's.
fn find(images: &Images, name: &str, platform: &str) -> Result<ImageRecord> {
    let platform = (!platform.is_empty()).then(|| super::archive::platform(platform)).transpose()?;
    images.find_for(name, platform.as_ref())
}

pub(super) fn inspect(images: &Images, name: &str, platform: &str, tree: bool) -> Result<api::InspectResponse> {
    let record = find(images, name, platform)?;
    let family = if tree { images.find_family(name)?.1 } else { None };
    let config = images.store.image_config(&record.id).map_err(from_store)?;
    // The image for another platform has the names of the one that it belongs to.
    let named = if platform.is_empty() { record.id.clone() } else { images.find(name)?.id };
    let tags = images.tags_of(&named);
    let (repo_tags, repo_digests) = names(&tags);
    let last_tag = tags.iter().map(|tag| tag.updated_at).max();
    let last_tag = last_tag.and_then(|at| jiff::Timestamp::from_second(at).ok());
    Ok(api::InspectResponse {
        id: record.id.to_string(),
        repo_tags,
        repo_digests,
        comment: comment(&config),
        created: record.created.clone().unwrap_or_default(),
        docker_version: config.docker_version.clone(),
        author: config.author.clone(),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        os: config.os.clone(),
        os_version: config.os_version.clone(),
        size: size(record.size_bytes),
        graph_driver: api::GraphDriver { data: Some(graph(images, record.chain_id.as_ref())), name: "overlay2".into() },
        root_fs: api::RootFs {
            type_: "layers".into(),
            layers: config.rootfs.diff_ids.iter().map(Digest::to_string).collect(),
        },
        metadata: api::Metadata {
            last_tag_time: last_tag.map_or_else(|| crate::id::ZERO_TIME.to_owned(), |at| at.to_string()),
        },
        config: Some(show_config(&config)),
        descriptor: family.as_ref().map(|family| manifests::descriptor(&family.top)),
        manifests: family.map(|family| manifests::summaries(images, &family)),
        ..api::InspectResponse::default()
    })
}

/// The image's comment, or the one of its last step.
fn comment(config: &ImageConfig) -> String {
    match config.comment.as_str() {
        "" => config.history.last().map(|step| step.comment.clone()).unwrap_or_default(),
        comment => comment.to_owned(),
    }
}

fn graph(images: &Images, chain: Option<&Digest>) -> BTreeMap<String, String> {
    let mut directories = Vec::new();
    let mut chain = chain.cloned();
    while let Some(layer) = chain.as_ref().and_then(|chain| images.store.layer(chain)) {
        let directory = images.store.root().join("layers").join(layer.chain_id.hex()).join("diff");
        directories.push(directory.to_string_lossy().into_owned());
        chain = layer.parent;
    }
    let mut data = BTreeMap::new();
    let mut directories = directories.into_iter();
    if let Some(upper) = directories.next() {
        data.insert("UpperDir".to_owned(), upper);
    }
    let lower: Vec<String> = directories.collect();
    if !lower.is_empty() {
        data.insert("LowerDir".to_owned(), lower.join(":"));
    }
    data
}

fn show_config(image: &ImageConfig) -> api::ImageConfig {
    let config = &image.config;
    let set = |names: Vec<&String>| {
        (!names.is_empty()).then(|| names.into_iter().map(|name| (name.clone(), Some(Empty::default()))).collect())
    };
    let list = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    api::ImageConfig {
        user: config.user.clone(),
        exposed_ports: set(config.exposed_ports.keys().collect()),
        env: list(&config.env),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        volumes: set(config.volumes.keys().collect()),
        working_dir: config.working_dir.clone(),
        labels: Some(config.labels.clone()).filter(|labels| !labels.is_empty()),
        stop_signal: config.stop_signal.clone(),
        args_escaped: config.args_escaped,
        healthcheck: config.healthcheck.as_ref().map(|check| HealthConfig {
            test: check.test.clone(),
            interval: check.interval,
            timeout: check.timeout,
            start_period: check.start_period,
            start_interval: check.start_interval,
            retries: check.retries,
        }),
        on_build: list(&config.on_build),
        shell: config.shell.clone(),
    }
}

pub(super) fn history(images: &Images, name: &str, platform: &str) -> Result<Vec<api::HistoryItem>> {
    let record = find(images, name, platform)?;
    let config = images.store.image_config(&record.id).map_err(from_store)?;
    let mut sizes = Vec::new();
    let mut chain = record.chain_id.clone();
    while let Some(layer) = chain.as_ref().and_then(|chain| images.store.layer(chain)) {
        sizes.push(layer.size_bytes);
        chain = layer.parent;
    }
    // `sizes` is topmost first and so is the answer.
    let mut sizes = sizes.into_iter();
    let (repo_tags, _) = names(&images.tags_of(&record.id));
    let mut items: Vec<api::HistoryItem> = config
        .history
        .iter()
        .rev()
        .map(|entry| api::HistoryItem {
            comment: entry.comment.clone(),
            created: entry.created.as_deref().and_then(parse_time).map_or(0, |at| at.as_second()),
            created_by: entry.created_by.clone(),
            id: "<missing>".into(),
            size: if entry.empty_layer { 0 } else { size(sizes.next().unwrap_or(0)) },
            tags: None,
        })
        .collect();
    if let Some(first) = items.first_mut() {
        first.id = record.id.to_string();
        first.tags = Some(repo_tags).filter(|tags| !tags.is_empty());
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::matches_reference;

    #[test]
    fn reference_patterns() {
        for (pattern, name, expected) in [
            ("busy*", "busybox:latest", true),
            ("busybox", "busybox:latest", true),
            ("busybox:1.?", "busybox:1.2", true),
            ("*box:*", "busybox:uclibc", true),
            ("*", "a/b:latest", false),
            ("*/*", "a/b:latest", true),
            ("busy", "busybox:latest", false),
        ] {
            assert_eq!(matches_reference(pattern, name), expected, "{pattern} {name}");
        }
    }
}
