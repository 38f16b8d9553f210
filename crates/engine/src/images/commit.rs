//! The image that a commit makes: what its configuration is, of the container's and what was asked for, in Docker's way.
//! Must not look at files; the layer is made by the store.

use brig_api::container as api;
use brig_oci::{ContainerConfig, Digest, Empty, Healthcheck, History, ImageConfig, Platform, Reference};
use brig_store::{ImageRecord, LayerInfo};

use super::Images;
use crate::container::Record;
use crate::error::{Error, Result, from_store};

/// What `commit` takes.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// Name to give it; empty for none.
    pub repository: String,
    /// Tag to give it; empty for the name's or `latest`.
    pub tag: String,
    /// Who made it.
    pub author: String,
    /// Comment.
    pub comment: String,
    /// Freeze the container meanwhile.
    pub pause: bool,
    /// Dockerfile instructions that change the configuration.
    pub changes: Vec<String>,
    /// A configuration that goes before the container's.
    pub config: Option<api::Config>,
    /// When it was made, in seconds since 1970, to make the same image again; `None` for now.
    pub timestamp: Option<i64>,
}

/// A commit that can be made.
pub struct Planned {
    target: Option<Reference>,
    config: ContainerConfig,
    author: String,
    comment: String,
    created: String,
    pub pause: bool,
}

/// What was made.
pub struct Made {
    /// The image's id.
    pub id: String,
    /// Its name as people write it, if it got one.
    pub name: String,
    /// The comment.
    pub comment: String,
}

/// Checks everything that can be checked before the container is touched.
pub fn plan_commit(commit: Commit, record: &Record) -> Result<Planned> {
    let target = target(&commit.repository, &commit.tag)?;
    let base = portable(&record.config);
    let mut config = commit.config.as_ref().map_or_else(|| base.clone(), portable);
    super::changes::apply(&mut config, &base, &commit.changes)?;
    merge(&mut config, &base);
    Ok(Planned {
        target,
        config,
        author: commit.author,
        comment: commit.comment,
        created: created(commit.timestamp)?,
        pause: commit.pause,
    })
}

/// `repository[:tag]` and a tag that goes before that; `None` for no name.
pub fn target(repository: &str, tag: &str) -> Result<Option<Reference>> {
    if repository.is_empty() {
        return Ok(None);
    }
    let invalid = |e: brig_oci::ReferenceError| Error::invalid(e.to_string());
    let name = Reference::parse_bare(repository).map_err(invalid)?;
    if name.digest().is_some() {
        return Err(Error::invalid("refusing to create a tag with a digest reference"));
    }
    let tag = if tag.is_empty() { name.tag().unwrap_or("latest").to_owned() } else { tag.to_owned() };
    name.with_tag(&tag).map(Some).map_err(invalid)
}

/// The time of an image: now, or the one that was asked for.
pub fn created(timestamp: Option<i64>) -> Result<String> {
    let Some(seconds) = timestamp else { return Ok(crate::id::now()) };
    jiff::Timestamp::from_second(seconds)
        .map(|at| at.to_string())
        .map_err(|_| Error::invalid(format!("timestamp {seconds} is out of range")))
}

/// Makes the image of a container; `layer` is what it changed, `None` if nothing. Blocking.
pub fn commit(images: &Images, planned: &Planned, record: &Record, layer: Option<&LayerInfo>) -> Result<Made> {
    let mut image = base(images, record)?;
    image.created = Some(planned.created.clone());
    image.author.clone_from(&planned.author);
    image.comment.clone_from(&planned.comment);
    image.docker_version.clear();
    image.history.push(History {
        created: image.created.clone(),
        created_by: record.config.cmd.clone().unwrap_or_default().join(" "),
        author: planned.author.clone(),
        comment: planned.comment.clone(),
        empty_layer: layer.is_none(),
    });
    image.rootfs.diff_ids.extend(layer.map(|layer| layer.diff_id.clone()));
    image.config = planned.config.clone();
    let bytes = serde_json::to_vec(&image).map_err(|e| Error::system(format!("encode the image: {e}")))?;
    let id = images.store.put_blob(&bytes).map_err(from_store)?;
    images.store.put_image(ImageRecord::new(id.clone(), None)).map_err(from_store)?;
    images.emit("create", id.as_str(), "");
    let mut name = String::new();
    if let Some(target) = &planned.target {
        images.store.tag(&target.canonical(), &id, None).map_err(from_store)?;
        name = target.familiar();
        images.emit("tag", id.as_str(), &name);
    }
    Ok(Made { id: id.to_string(), name, comment: planned.comment.clone() })
}

/// The configuration of the container's image; if that was removed meanwhile, one of the layers that it left.
fn base(images: &Images, record: &Record) -> Result<ImageConfig> {
    if let Some(config) = Digest::parse(&record.image_id).ok().and_then(|id| images.store.image_config(&id).ok()) {
        return Ok(config);
    }
    let mut image = ImageConfig::default();
    let platform = Platform::parse(&record.platform).unwrap_or_else(|_| Platform::host());
    (image.architecture, image.os, image.variant) = (platform.architecture, platform.os, platform.variant);
    let mut chain = record.chain.as_deref().and_then(|text| Digest::parse(text).ok());
    while let Some(layer) = chain.as_ref().and_then(|chain| images.store.layer(chain)) {
        image.rootfs.diff_ids.insert(0, layer.diff_id);
        image.history.push(History { comment: "from an image that was removed".into(), ..History::default() });
        chain = layer.parent;
    }
    Ok(image)
}

/// The part of a container's configuration that images have.
fn portable(config: &api::Config) -> ContainerConfig {
    let set = |names: &Option<std::collections::BTreeMap<String, Option<api::Empty>>>| {
        names.iter().flatten().map(|(name, _)| (name.clone(), Empty {})).collect()
    };
    ContainerConfig {
        user: config.user.clone(),
        exposed_ports: set(&config.exposed_ports),
        env: config.env.clone().unwrap_or_default(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        volumes: set(&config.volumes),
        working_dir: config.working_dir.clone(),
        labels: config.labels.clone().unwrap_or_default(),
        stop_signal: config.stop_signal.clone(),
        healthcheck: config.healthcheck.as_ref().map(|check| Healthcheck {
            test: check.test.clone(),
            interval: check.interval,
            timeout: check.timeout,
            start_period: check.start_period,
            start_interval: check.start_interval,
            retries: check.retries,
        }),
        args_escaped: config.args_escaped,
        on_build: config.on_build.clone().unwrap_or_default(),
        shell: config.shell.clone(),
        stop_timeout: config.stop_timeout,
    }
}

/// What the container says, where nothing else was asked for.
fn merge(config: &mut ContainerConfig, base: &ContainerConfig) {
    let or = |text: &mut String, other: &String| {
        if text.is_empty() {
            text.clone_from(other);
        }
    };
    or(&mut config.user, &base.user);
    or(&mut config.working_dir, &base.working_dir);
    or(&mut config.stop_signal, &base.stop_signal);
    let name = |entry: &String| entry.split('=').next().unwrap_or_default().to_owned();
    let own: Vec<String> = config.env.iter().map(name).collect();
    config.env.extend(base.env.iter().filter(|entry| !own.contains(&name(entry))).cloned());
    for (label, value) in &base.labels {
        config.labels.entry(label.clone()).or_insert_with(|| value.clone());
    }
    config.exposed_ports.extend(base.exposed_ports.clone());
    config.volumes.extend(base.volumes.clone());
    if config.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&base.cmd);
            config.args_escaped = base.args_escaped;
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&base.entrypoint);
        }
    }
    match (&mut config.healthcheck, &base.healthcheck) {
        (None, base) => config.healthcheck.clone_from(base),
        (Some(own), Some(base)) => {
            if own.test.is_empty() {
                own.test.clone_from(&base.test);
            }
            let or = |own: &mut i64, base: i64| {
                if *own == 0 {
                    *own = base;
                }
            };
            or(&mut own.interval, base.interval);
            or(&mut own.timeout, base.timeout);
            or(&mut own.start_period, base.start_period);
            or(&mut own.start_interval, base.start_interval);
            or(&mut own.retries, base.retries);
        }
        (Some(_), None) => {}
    }
    if config.shell.is_none() {
        config.shell.clone_from(&base.shell);
    }
    if config.stop_timeout.is_none() {
        config.stop_timeout = base.stop_timeout;
    }
    if config.on_build.is_empty() {
        config.on_build.clone_from(&base.on_build);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_fills_what_was_not_asked_for() {
        let words = |text: &str| Some(text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let base = ContainerConfig {
            env: vec!["PATH=/bin".into(), "A=0".into()],
            entrypoint: words("entry"),
            cmd: words("cmd arg"),
            labels: [("a".to_owned(), "0".to_owned()), ("b".to_owned(), "0".to_owned())].into(),
            user: "me".into(),
            ..ContainerConfig::default()
        };
        let mut config = ContainerConfig {
            env: vec!["A=1".into()],
            labels: [("a".to_owned(), "1".to_owned())].into(),
            ..ContainerConfig::default()
        };
        merge(&mut config, &base);
        assert_eq!(config.env, ["A=1", "PATH=/bin"]);
        assert_eq!((config.entrypoint, config.cmd, config.user.as_str()), (words("entry"), words("cmd arg"), "me"));
        assert_eq!(config.labels.into_values().collect::<Vec<_>>(), ["1", "0"]);
        // A new entry point does not take the old one's arguments along.
        let mut config = ContainerConfig { entrypoint: words("new"), ..ContainerConfig::default() };
        merge(&mut config, &base);
        assert_eq!((config.entrypoint, config.cmd), (words("new"), None));
    }

    #[test]
    fn names() {
        let name = |repository, tag| target(repository, tag).map(|name| name.map(|name| name.familiar()));
        assert_eq!(name("", "x").unwrap(), None);
        assert_eq!(name("a", "").unwrap().as_deref(), Some("a:latest"));
        assert_eq!(name("a:1", "2").unwrap().as_deref(), Some("a:2"));
        assert!(name("A", "").is_err());
        assert!(name(&format!("a@sha256:{}", "0".repeat(64)), "").is_err());
        assert_eq!(created(Some(0)).unwrap(), "1970-01-01T00:00:00Z");
    }
}
