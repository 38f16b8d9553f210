//! Manifest lists that are being made: one directory each in the client's configuration, one file for each manifest in them,
//! until they are pushed. Owns those files; what names mean the daemon asks the registry.

use std::path::{Path as FilePath, PathBuf};

use brig_api::image::RegistryManifest;

use crate::client::{Path, decode};
use crate::command::Context;
use crate::failure::{Failure, Result};
use crate::http::escape;
use crate::parse::reference::Reference;
use crate::{credentials, host};

/// A list's directory. It may not be there.
pub struct List {
    /// The whole name.
    pub name: String,
    directory: PathBuf,
}

/// The whole name of a manifest or a list.
pub fn whole(reference: &Reference) -> String {
    let rest = match (&reference.digest, &reference.tag) {
        (Some(digest), _) => format!("@{digest}"),
        (None, tag) => format!(":{}", tag.as_deref().unwrap_or("latest")),
    };
    format!("{}/{}{rest}", reference.domain, reference.path)
}

impl List {
    /// The list of this name.
    ///
    /// # Errors
    /// It is no name.
    pub fn of(context: &Context, name: &str) -> Result<List> {
        let name = whole(&Reference::parse(name)?);
        let directory = host::config_dir(&context.options).join("manifests").join(escape(&name));
        Ok(List { name, directory })
    }

    /// Whether it was begun.
    pub fn exists(&self) -> bool {
        self.directory.is_dir()
    }

    /// Docker's words if it was not begun.
    pub fn missing(&self) -> Failure {
        Failure::new(format!("No such manifest: {}", self.name))
    }

    fn file(&self, entry: &str) -> PathBuf {
        self.directory.join(format!("{}.json", escape(entry)))
    }

    /// All in it, by name.
    ///
    /// # Errors
    /// Its files cannot be read.
    pub fn entries(&self) -> Result<Vec<RegistryManifest>> {
        let failed = |path: &FilePath, e: std::io::Error| Failure::new(format!("read {}: {e}", path.display()));
        let mut files: Vec<PathBuf> = std::fs::read_dir(&self.directory)
            .map_err(|e| failed(&self.directory, e))?
            .map(|entry| entry.map(|entry| entry.path()).map_err(|e| failed(&self.directory, e)))
            .collect::<Result<_>>()?;
        files.sort();
        files.iter().map(|file| decode(&std::fs::read(file).map_err(|e| failed(file, e))?)).collect()
    }

    /// One in it.
    ///
    /// # Errors
    /// It is not in it.
    pub fn entry(&self, name: &str) -> Result<RegistryManifest> {
        let name = whole(&Reference::parse(name)?);
        let bytes = std::fs::read(self.file(&name))
            .map_err(|_| Failure::new(format!("manifest for image {name} does not exist in {}", self.name)))?;
        decode(&bytes)
    }

    /// Adds one, or replaces it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put(&self, entry: &RegistryManifest) -> Result<()> {
        let file = self.file(&entry.ref_);
        let failed = |e: std::io::Error| Failure::new(format!("write {}: {e}", file.display()));
        std::fs::create_dir_all(&self.directory).map_err(failed)?;
        std::fs::write(&file, crate::client::encode(entry)).map_err(failed)
    }

    /// Forgets it.
    ///
    /// # Errors
    /// It is not there, or cannot be removed.
    pub fn remove(&self) -> Result<()> {
        if !self.exists() {
            return Err(self.missing());
        }
        let failed = |e: std::io::Error| Failure::new(format!("remove {}: {e}", self.directory.display()));
        std::fs::remove_dir_all(&self.directory).map_err(failed)
    }
}

/// What a name is at its registry.
///
/// # Errors
/// The registry's refusal.
pub fn look(context: &Context, name: &str) -> Result<RegistryManifest> {
    let reference = Reference::parse(name)?;
    let client = context.client()?;
    let path = Path::new("/brig/manifests/{}/json", &[&whole(&reference)]);
    let auth = credentials::header(context, &reference.domain);
    let answer = client.request("GET", &path, &auth, None).map_err(|failure| match failure.status {
        Some(404) => Failure::new(format!("no such manifest: {}", whole(&reference))),
        _ => failure,
    })?;
    decode(&client.finish(answer)?)
}

/// Whether this is an index's media type.
pub fn is_list(manifest: &RegistryManifest) -> bool {
    let kind = &manifest.descriptor.media_type;
    kind.contains("manifest.list") || kind.contains("image.index")
}

/// JSON as `docker manifest` prints it, indented with tabs.
///
/// # Errors
/// It cannot be printed.
pub fn print(value: &serde_json::Value) -> Result<()> {
    let mut text = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, format);
    serde::Serialize::serialize(value, &mut serializer).map_err(|e| Failure::new(e.to_string()))?;
    text.push(b'\n');
    crate::terminal::write(&text)
}
