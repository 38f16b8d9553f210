//! Images from and to archives: load, import and save. Owns Docker's progress lines and what names mean to `save`;
//! reading and writing archives is the store's.

use std::io::{self, Read, Write};

use brig_api::progress::Message;
use brig_oci::{ContainerConfig, Digest, ImageConfig, Platform, Reference};
use brig_store::archive;
use tokio::sync::mpsc;

use super::Images;
use super::family::{Family, Member};
use super::fetch;
use super::transfer::{LINES, Progress, failure, status, with_detail};
use crate::error::{Error, Result, from_store};

impl Images {
    /// Loads images from an archive, those for `platforms` if any are named, as text or as JSON.
    pub fn load(&self, reader: Box<dyn Read + Send>, quiet: bool, platforms: &[String]) -> Result<Progress> {
        let platforms = platforms.iter().map(|text| platform(text)).collect::<Result<Vec<_>>>()?;
        let (sender, lines) = mpsc::channel(LINES);
        let images = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut show = |event: archive::LoadEvent| {
                if let Some(line) = load_line(event).filter(|_| !quiet) {
                    sender.blocking_send(line).ok();
                }
            };
            let last = match archive::load(&images.store, reader, &platforms, &mut show) {
                Ok(loaded) => loaded
                    .into_iter()
                    .map(|image| {
                        let name = image.name.as_deref().and_then(|name| Reference::parse(name).ok());
                        let shown = name.as_ref().map(Reference::familiar).unwrap_or_default();
                        images.emit("load", image.id.as_str(), &shown);
                        let text = match name {
                            Some(name) => format!("Loaded image: {}\n", name.familiar()),
                            None => format!("Loaded image ID: {}\n", image.id),
                        };
                        Message { stream: text, ..Message::default() }
                    })
                    .collect(),
                Err(e) => vec![failure(&from_store(e).message)],
            };
            for line in last {
                sender.blocking_send(line).ok();
            }
        });
        Ok(lines)
    }

    /// Makes an image of one layer from a tar of a root file system.
    pub fn import(&self, reader: Box<dyn Read + Send>, import: Import) -> Result<Progress> {
        let importing = self.importing(import, "-")?;
        let (sender, lines) = mpsc::channel(LINES);
        let images = self.clone();
        tokio::task::spawn_blocking(move || sender.blocking_send(images.import_now(importing, reader)).ok());
        Ok(lines)
    }

    /// Makes an image of the tar at a URL. What keeps the file from coming at all is the error; what happens later is the
    /// last line. Dropping the receiver ends it.
    pub async fn import_from(&self, url: &str, import: Import) -> Result<Progress> {
        fetch::import(self.clone(), url.to_owned(), import).await
    }

    /// Checks what an image from `source` is to be.
    pub(super) fn importing(&self, import: Import, source: &str) -> Result<Importing> {
        let target = super::commit::target(&import.repository, &import.tag)?;
        let platform = match import.platform.as_str() {
            "" => Platform::host(),
            text => Platform::parse(text).map_err(|e| Error::invalid(e.to_string()))?,
        };
        let comment = if import.message.is_empty() { format!("Imported from {source}") } else { import.message };
        let mut config = ImageConfig {
            created: Some(super::commit::created(import.timestamp)?),
            architecture: platform.architecture,
            os: platform.os,
            variant: platform.variant,
            comment,
            ..ImageConfig::default()
        };
        super::changes::apply(&mut config.config, &ContainerConfig::default(), &import.changes)?;
        Ok(Importing { target, config })
    }

    /// Imports, and tells the last line: the image's id, or what is wrong.
    pub(super) fn import_now(&self, importing: Importing, reader: impl Read) -> Message {
        let familiar = importing.target.as_ref().map(Reference::familiar).unwrap_or_default();
        let name = importing.target.as_ref().map(Reference::canonical);
        match archive::import(&self.store, reader, importing.config, name.as_deref()) {
            Ok(id) => {
                if !familiar.is_empty() {
                    self.emit("tag", id.as_str(), &familiar);
                }
                self.emit("import", id.as_str(), "");
                status(id.to_string(), "")
            }
            Err(e) => failure(&from_store(e).message),
        }
    }
}

/// An import that can begin.
pub(super) struct Importing {
    target: Option<Reference>,
    config: ImageConfig,
}

/// Images that are about to be written as one archive, all found and complete.
pub struct Save {
    saving: archive::Saving,
    saved: Vec<archive::Chosen>,
    images: Images,
}

impl Save {
    /// Writes the archive. An error means that what was written is no whole archive.
    pub fn write(self, output: &mut dyn Write) -> io::Result<()> {
        self.saving.write(output)?;
        for image in &self.saved {
            let name = image.names.first().map_or_else(|| image.id.to_string(), Reference::familiar);
            self.images.emit("save", image.id.as_str(), &name);
        }
        Ok(())
    }
}

impl Images {
    /// Finds images to be saved: a name with a tag stands for that name, one without for all tags of the repository, an
    /// id or digest for the image without a name. `platforms` are those asked for, as text or as JSON. With `original` manifests
    /// and layers are saved as they came, where that is possible: packing layers again takes time.
    pub fn save(&self, names: &[String], platforms: &[String], original: bool) -> Result<Save> {
        let platforms = platforms.iter().map(|text| platform(text)).collect::<Result<Vec<_>>>()?;
        let mut saved: Vec<archive::Chosen> = Vec::new();
        for name in names {
            for (id, name, index) in self.to_save(name, &platforms)? {
                let came = name.as_ref().and_then(|name| self.store.resolve(&name.canonical())?.manifest);
                let came = came.or_else(|| self.store.image(&id)?.manifest).filter(|_| original);
                let same = |image: &archive::Chosen| image.id == id && image.index == index && image.original == came;
                let known = saved.iter().position(same);
                let at = known.unwrap_or_else(|| {
                    saved.push(archive::Chosen { id, names: Vec::new(), index, original: came });
                    saved.len() - 1
                });
                let names = &mut saved[at].names;
                names.extend(name.filter(|name| !names.contains(name)));
            }
        }
        let saving = archive::save(&self.store, &saved).map_err(from_store)?;
        Ok(Save { saving, saved, images: self.clone() })
    }

    /// What one argument of `save` stands for: images, each with the name to save it under, and the index of that.
    fn to_save(&self, wanted: &str, platforms: &[Platform]) -> Result<Vec<ToSave>> {
        let bare = Reference::parse_bare(wanted).ok().filter(|name| name.tag().is_none() && name.digest().is_none());
        let mut found = Vec::new();
        if let Some(repository) = bare.map(|name| name.name()) {
            let tags = self.store.tags().into_iter();
            let named = tags.filter_map(|tag| Some((tag.image, Reference::parse(&tag.name).ok()?)));
            found.extend(named.filter(|(_, name)| name.name() == repository).map(|(id, name)| (id, Some(name))));
        }
        if found.is_empty() {
            let id = self.find(wanted)?.id;
            let name = Reference::parse(wanted).ok().filter(|name| name.tag().is_some() && name.digest().is_none());
            // What was found by its id may read like a name.
            let name = name.filter(|name| self.store.resolve(&name.canonical()).is_some());
            found.push((id, name));
        }
        let one = |(id, name): (Digest, Option<Reference>)| {
            let shown = name.as_ref().map_or_else(|| id.to_string(), Reference::familiar);
            let meant = self.find_for(&shown, platforms.first())?.id;
            let family = self.find_family(&shown)?.1.filter(|family| family.is_kept());
            Ok((meant, name, family.map(|family| listed(&family, platforms)).transpose()?.unwrap_or_default()))
        };
        found.into_iter().map(one).collect()
    }
}

/// An image, the name to save it under, and what the index of that name is to list.
type ToSave = (Digest, Option<Reference>, Vec<archive::Listed>);

/// What of an index is saved: all that is here, or the images for some platforms; a lone image needs no index.
fn listed(family: &Family, platforms: &[Platform]) -> Result<Vec<archive::Listed>> {
    let has = |member: &Member, platform: &Platform| {
        member.descriptor.platform.as_ref().is_some_and(|has| platform.rank(has) == Some(0))
    };
    if let Some(missing) = platforms.iter().find(|platform| !family.images().any(|(member, _)| has(member, platform)))
        && platforms.len() > 1
    {
        return Err(Error::not_found(format!("the image does not provide the specified platform ({missing})")));
    }
    let members = family.members.iter().filter(|member| {
        member.is_available() && (platforms.is_empty() || platforms.iter().any(|platform| has(member, platform)))
    });
    let listed: Vec<archive::Listed> = members
        .map(|member| archive::Listed {
            descriptor: member.descriptor.clone(),
            image: member.image.as_ref().map(|image| image.id.clone()),
        })
        .collect();
    Ok(if listed.len() > 1 { listed } else { Vec::new() })
}

/// A platform as clients send it: JSON from API 1.48 on, `os/architecture` as people write it.
pub(super) fn platform(text: &str) -> Result<Platform> {
    match text.starts_with('{') {
        true => serde_json::from_str(text).map_err(|e| Error::invalid(format!("invalid platform {text}: {e}"))),
        false => Platform::parse(text).map_err(|e| Error::invalid(e.to_string())),
    }
}

/// What `import` takes beside the tar.
#[derive(Debug, Clone, Default)]
pub struct Import {
    /// Name to give it; empty for none.
    pub repository: String,
    /// Tag to give it; empty for the name's or `latest`.
    pub tag: String,
    /// Comment.
    pub message: String,
    /// Dockerfile instructions that change the configuration.
    pub changes: Vec<String>,
    /// `os/architecture`; empty for this host's.
    pub platform: String,
    /// When it was made, in seconds since 1970, to make the same image again; `None` for now.
    pub timestamp: Option<i64>,
}

fn load_line(event: archive::LoadEvent) -> Option<Message> {
    match event {
        archive::LoadEvent::Layer { id, current, total } => Some(with_detail("Loading layer", &id, current, total)),
    }
}
