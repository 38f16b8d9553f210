//! Images: names, ids and what they resolve to. Owns Docker's rules about naming, listing and removing them; blobs and
//! layers are the store's, the wire is the registry's.

mod archive;
mod ask;
mod attestations;
mod changes;
mod commit;
mod family;
mod fetch;
mod lists;
mod manifests;
mod platforms;
mod push;
mod reclaim;
mod remove;
mod shelf;
mod show;
mod transfer;
mod words;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use brig_api::filters::Filters;
use brig_api::image as api;
use brig_api::system::AuthConfig;
use brig_oci::{Digest, ImageConfig, Platform, Reference};
use brig_registry::Client;
use brig_store::{ImageRecord, Store, TagRecord};

use crate::container::{Index, Record};
use crate::error::{Error, Result, from_store};
use crate::events::Events;
pub use archive::{Import, Save};
pub use attestations::Attestations;
pub use commit::{Commit, commit, plan_commit};
pub use reclaim::StorageGc;
pub(crate) use reclaim::keep_room;
pub use shelf::{Shelf, Taken};
pub use transfer::Progress;

/// The images of this host.
#[derive(Clone)]
pub struct Images {
    store: Store,
    client: Client,
    events: Arc<Events>,
    containers: Arc<Index>,
    documents: family::Documents,
    /// A pull that names no platform keeps all; may change while the engine runs.
    all_platforms: Arc<AtomicBool>,
}

/// What a list of images is to show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Also images that belong to another one's name, for other platforms.
    pub all: bool,
    /// Tell how much of each is shared with others.
    pub shared_size: bool,
    /// Tell what each name leads to.
    pub manifests: bool,
}

/// An image to run.
pub struct Resolved {
    /// Digest of its configuration.
    pub id: Digest,
    /// Its configuration.
    pub config: ImageConfig,
    /// Chain id of its topmost layer; `None` for an image without layers.
    pub chain: Option<Digest>,
}

impl Resolved {
    /// `os/architecture`.
    pub fn platform(&self) -> String {
        format!("{}/{}", self.config.os, self.config.architecture)
    }

    /// The platform it says it is for, if this machine's CPU is of another kind.
    pub(crate) fn foreign(&self) -> Option<Platform> {
        let platform = self.config.platform();
        let fits = Platform::host().select(std::iter::once(Some(&platform))).is_some();
        (!fits && !self.config.architecture.is_empty()).then_some(platform)
    }
}

impl Images {
    /// Other settings for registries from now on.
    pub(crate) fn reconfigure(&self, settings: brig_registry::Config) -> Result<()> {
        self.client.reconfigure(settings).map_err(transfer::from_registry)
    }

    pub(crate) fn new(store: Store, client: Client, events: Arc<Events>, containers: Arc<Index>) -> Self {
        Self {
            store,
            client,
            events,
            containers,
            documents: family::Documents::default(),
            all_platforms: Arc::default(),
        }
    }

    /// Whether pulls that begin from now on keep all platforms unless one is named.
    pub(crate) fn keep_all_platforms(&self, all_platforms: bool) {
        self.all_platforms.store(all_platforms, Ordering::Relaxed);
    }

    /// `GET /images/search`: repositories that have to do with `term`, which may begin with a registry's name.
    pub async fn search(
        &self,
        term: &str,
        limit: Option<i64>,
        filters: &Filters,
        auth: Option<AuthConfig>,
    ) -> Result<Vec<api::SearchResult>> {
        ask::search(self, term, limit, filters, auth).await
    }

    /// What a name is at its registry, with its text.
    pub async fn look(&self, name: &str, auth: Option<AuthConfig>) -> Result<api::RegistryManifest> {
        lists::look(self, name, auth.map(transfer::to_auth).as_ref()).await
    }

    /// Makes an index of what is in a registry and pushes it there.
    pub async fn push_list(
        &self,
        name: &str,
        list: api::PushList,
        auth: Option<AuthConfig>,
    ) -> Result<api::PushedList> {
        let digest = lists::push(self, name, list.manifests, auth.map(transfer::to_auth).as_ref()).await?;
        Ok(api::PushedList { digest: digest.to_string() })
    }

    /// `GET /distribution/{name}/json`: what a name means at its registry.
    pub async fn distribution(&self, name: &str, auth: Option<AuthConfig>) -> Result<api::DistributionInspect> {
        ask::distribution(self, name, auth).await
    }

    /// Finds an image by name, digest, id or unambiguous beginning of an id.
    fn find(&self, wanted: &str) -> Result<ImageRecord> {
        let missing = || no_such(wanted);
        let by_id = |id: &Digest| self.store.image(id);
        if let Some(record) = Digest::parse(wanted).ok().as_ref().and_then(by_id) {
            return Ok(record);
        }
        if let Ok(reference) = Reference::parse(wanted) {
            if let Some(tag) = self.store.resolve(&reference.canonical()) {
                return by_id(&tag.image).ok_or_else(missing);
            }
            if let Some(found) = reference.digest().and_then(|digest| self.find_by_digest(&reference, digest)) {
                return by_id(&found).ok_or_else(missing);
            }
        }
        let prefix = wanted.strip_prefix("sha256:").unwrap_or(wanted);
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(missing());
        }
        let mut matching = self.store.images().into_iter().filter(|image| image.id.hex().starts_with(prefix));
        match (matching.next(), matching.next()) {
            (Some(record), None) => Ok(record),
            (None, _) => Err(missing()),
            (Some(_), Some(_)) => Err(Error::invalid(format!("multiple IDs found with provided prefix: {prefix}"))),
        }
    }

    /// `name@digest`: the manifest that a tag of that name was pulled with, or the image itself.
    fn find_by_digest(&self, reference: &Reference, digest: &Digest) -> Option<Digest> {
        let name = reference.name();
        self.store
            .tags()
            .into_iter()
            .find(|tag| {
                let same = Reference::parse(&tag.name).is_ok_and(|tagged| tagged.name() == name);
                same && (tag.manifest.as_ref() == Some(digest) || tag.image == *digest)
            })
            .map(|tag| tag.image)
            .or_else(|| self.part_by_digest(&name, digest))
    }

    /// `name@digest` for a manifest that an index of that name lists.
    fn part_by_digest(&self, name: &str, digest: &Digest) -> Option<Digest> {
        let tags = self.store.tags().into_iter();
        let named = tags.filter(|tag| Reference::parse(&tag.name).is_ok_and(|tagged| tagged.name() == name));
        let mut families = named.filter_map(|tag| self.family_of(tag.manifest.as_ref()?));
        families.find_map(|family| {
            let found = family.images().find(|(member, _)| member.descriptor.digest == *digest);
            found.map(|(_, image)| image.id.clone())
        })
    }

    fn family_of(&self, top: &Digest) -> Option<family::Family> {
        self.documents.family(&self.store, top)
    }

    /// What a name (or id) leads to, as far as it is known, and the image that it means.
    fn find_family(&self, wanted: &str) -> Result<(ImageRecord, Option<family::Family>)> {
        let record = self.find(wanted)?;
        let tag = Reference::parse(wanted).ok().and_then(|name| self.store.resolve(&name.canonical()));
        let tag = tag.filter(|tag| tag.image == record.id);
        let top = tag.and_then(|tag| tag.manifest).or_else(|| record.manifest.clone());
        let family = top.and_then(|top| self.family_of(&top));
        Ok((record, family))
    }

    /// The image that a name means on a platform; without one the image that it means here.
    fn find_for(&self, wanted: &str, platform: Option<&Platform>) -> Result<ImageRecord> {
        let (record, family) = self.find_family(wanted)?;
        let Some(platform) = platform else { return Ok(record) };
        // An image whose configuration is damaged fits nothing.
        let own = self.store.image_config(&record.id).ok().and_then(|config| platform.rank(&config.platform()));
        match (own, family.as_ref().and_then(|family| family.select(platform))) {
            (Some(0), _) | (Some(_), None) => Ok(record),
            (_, Some(other)) => Ok(other.clone()),
            (None, None) => Err(Error::not_found(format!(
                "image with reference {wanted} was found but does not provide the specified platform ({platform})"
            ))),
        }
    }

    /// What a container is made from; an image of another platform than the one asked for is not found.
    pub fn resolve_for_run(&self, wanted: &str, platform: Option<&str>) -> Result<Resolved> {
        if Reference::parse(wanted).is_err() && self.find(wanted).is_err() {
            return Err(Error::invalid("invalid reference format"));
        }
        let platform = platform.filter(|text| !text.is_empty());
        let platform =
            platform.map(|text| Platform::parse(text).map_err(|e| Error::invalid(e.to_string()))).transpose()?;
        let record = self.find_for(wanted, platform.as_ref())?;
        let config = self.store.image_config(&record.id).map_err(from_store)?;
        self.note_use(&record.id);
        Ok(Resolved { chain: record.chain_id.clone(), id: record.id, config })
    }

    /// Whether the container's image is the named one or was made from it.
    pub fn is_ancestor(&self, wanted: &str, container: &Record) -> bool {
        let Ok(record) = self.find(wanted) else { return false };
        if container.image_id == record.id.as_str() {
            return true;
        }
        let mut chain = container.chain.as_deref().and_then(|text| Digest::parse(text).ok());
        while let Some(current) = chain {
            if Some(&current) == record.chain_id.as_ref() {
                return true;
            }
            chain = self.store.layer(&current).and_then(|layer| layer.parent);
        }
        false
    }

    /// Notes when an image was used, for what goes first when room is needed.
    pub(crate) fn note_use(&self, id: &Digest) {
        if let Err(e) = self.store.upkeep().note_use(id) {
            tracing::debug!("the last use of {id} could not be noted: {e}");
        }
    }

    fn tags_of(&self, id: &Digest) -> Vec<TagRecord> {
        self.store.tags().into_iter().filter(|tag| tag.image == *id).collect()
    }

    /// Gives an image another name.
    pub fn tag(&self, source: &str, repository: &str, tag: &str) -> Result<()> {
        let record = self.find(source)?;
        let target = Reference::parse_bare(repository).map_err(|e| Error::invalid(e.to_string()))?;
        if target.digest().is_some() {
            return Err(Error::invalid("refusing to create a tag with a digest reference"));
        }
        if target.familiar_name() == "sha256" {
            return Err(Error::invalid("refusing to create an ambiguous tag using digest algorithm as name"));
        }
        let tag = if tag.is_empty() { target.tag().unwrap_or("latest").to_owned() } else { tag.to_owned() };
        let target = target.with_tag(&tag).map_err(|e| Error::invalid(e.to_string()))?;
        // Images for several platforms keep together.
        let family = self.find_family(source)?.1.filter(family::Family::is_kept);
        let top = family.map(|family| family.top.digest);
        self.store.tag(&target.canonical(), &record.id, top.as_ref()).map_err(from_store)?;
        self.emit("tag", record.id.as_str(), &target.familiar());
        Ok(())
    }

    /// Tells what happened to an image, which `id` names, with its labels. Without a name of its own it goes by its id.
    fn emit(&self, action: &str, id: &str, name: &str) {
        // An id may be that of an image that has just gone.
        let image = Digest::parse(id).or_else(|_| self.find(id).map(|record| record.id));
        let mut attributes = image.map(|image| show::labels_of(self, &image)).unwrap_or_default();
        attributes.insert("name".to_owned(), if name.is_empty() { id } else { name }.to_owned());
        self.events.emit("image", action, id, attributes);
    }

    /// The containers made from an image: id and whether each has a live process.
    fn users_of(&self, id: &Digest) -> Vec<(String, bool)> {
        let views = self.containers.views();
        let users = views.iter().filter(|view| view.record.image_id == id.as_str());
        users.map(|view| (view.record.id.clone(), view.status.is_alive())).collect()
    }

    /// Whether `image prune -a` would leave this image: a container is of it, or it may be part of a push that goes on.
    pub(crate) fn stays_in_prune(&self, id: &Digest) -> bool {
        !self.users_of(id).is_empty() || self.tags_of(id).is_empty() && shelf::is_being_pushed(self, id)
    }

    /// The list.
    pub fn list(&self, options: ListOptions, filters: &Filters) -> Result<Vec<api::Summary>> {
        show::list(self, options, filters)
    }

    /// One in full, on a platform (as text or JSON; empty for this host's), and with what its name leads to if `manifests`.
    pub fn inspect(&self, name: &str, platform: &str, manifests: bool) -> Result<api::InspectResponse> {
        show::inspect(self, name, platform, manifests)
    }

    /// Pushes a tag, or without one all tags of a repository. What goes wrong is the last line, as in Docker. Dropping
    /// the receiver ends the push.
    pub fn push(&self, name: &str, tag: &str, platform: &str, auth: Option<AuthConfig>) -> Result<Progress> {
        push::push(self, name, tag, platform, auth)
    }

    /// Its layers and what made them, newest first; of the image for a platform as [`Images::inspect`] has it.
    pub fn history(&self, name: &str, platform: &str) -> Result<Vec<api::HistoryItem>> {
        show::history(self, name, platform)
    }

    /// The in-toto statements about it, as far as they are here.
    pub fn attestations(&self, name: &str, asked: &Attestations) -> Result<Vec<api::AttestationStatement>> {
        attestations::attestations(self, name, asked)
    }

    /// Removes a name, or the image with its last name; or of what a name leads to the images for these platforms only.
    pub fn remove(&self, name: &str, force: bool, platforms: &[String]) -> Result<Vec<api::DeleteItem>> {
        remove::remove(self, name, force, platforms)
    }

    /// Removes images that nothing names (all unused ones with `dangling=false`).
    pub fn prune(&self, filters: &Filters) -> Result<api::PruneReport> {
        remove::prune(self, filters)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.store.images().len()
    }
}

/// Whether a name still means this image, or leads to it as the one for a platform.
pub(crate) fn still_means(images: &Images, name: &str, id: &str) -> bool {
    let Ok((record, family)) = images.find_family(name) else { return false };
    let mut parts = family.iter().flat_map(family::Family::images);
    record.id.as_str() == id || parts.any(|(_, image)| image.id.as_str() == id)
}

/// The words that the command line matches on before it pulls.
fn no_such(wanted: &str) -> Error {
    let shown = match Reference::parse(wanted) {
        Ok(reference) if !brig_oci::is_identifier(wanted) => reference.familiar(),
        Ok(_) | Err(_) => wanted.to_owned(),
    };
    Error::not_found(format!("No such image: {shown}"))
}
