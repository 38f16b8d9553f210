//! Creating a container: the request, the pull when the image is missing, the id file.
//! Shared by `run` and `create`; starts nothing.

use super::container_config;
use crate::client::{Client, Path, decode, encode};
use crate::command::Context;
use crate::failure::{Failure, Result};
use crate::flags::Matches;
use crate::parse::reference::Reference;
use crate::{credentials, progress, terminal};
use brig_api::container::{CreateRequest, CreateResponse, Mount};
use std::io::Write;

/// Makes the request from flags and refuses what can be refused before asking anyone.
///
/// # Errors
/// In Docker's words.
pub fn prepare(context: &Context, m: &Matches) -> Result<CreateRequest> {
    let pull = m.text("pull");
    if !matches!(pull, "always" | "missing" | "never") {
        return Err(Failure::new(format!(
            "invalid pull option: '{pull}': must be one of \"always\", \"missing\" or \"never\""
        )));
    }
    let mut request = container_config::request(m)?;
    if !request.config.image.is_empty() && !looks_like_id(&request.config.image) {
        Reference::parse(&request.config.image)?;
    }
    if m.bool("use-api-socket") {
        let socket = context.client()?.socket().map(std::path::Path::to_path_buf);
        let socket = socket
            .ok_or_else(|| Failure::new("flag --use-api-socket can only be used with a daemon on a unix socket"))?;
        let mount = Mount {
            type_: "bind".to_owned(),
            source: socket.to_string_lossy().into_owned(),
            target: "/var/run/docker.sock".to_owned(),
            ..Mount::default()
        };
        if let Some(host) = &mut request.host_config {
            host.mounts.push(mount);
        }
    }
    Ok(request)
}

/// Part of an image id, which has no registry to pull from.
fn looks_like_id(image: &str) -> bool {
    let hex = image.strip_prefix("sha256:").unwrap_or(image);
    hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Creates the container, pulling its image when it is not here.
///
/// # Errors
/// The daemon's refusals, a failed pull, an id file that exists.
pub fn create(context: &Context, m: &Matches, request: &CreateRequest) -> Result<CreateResponse> {
    let client = context.client()?;
    let id_file = IdFile::open(m.text("cidfile"))?;
    let (image, quiet) = (request.config.image.as_str(), m.bool("quiet"));
    let platform =
        m.given("platform").map_or_else(|| std::env::var("DOCKER_DEFAULT_PLATFORM").unwrap_or_default(), str::to_owned);
    let has_image = !image.is_empty();
    if has_image && m.text("pull") == "always" {
        pull(context, client, image, &platform, quiet)?;
    }
    let path =
        Path::new("/containers/create", &[]).query_text("name", m.text("name")).query_text("platform", &platform);
    let body = encode(request);
    let ask = || client.request("POST", &path, &[], Some(&body));
    let answer = match ask() {
        Err(failure)
            if failure.not_found() && has_image && m.text("pull") == "missing" && names_image(&failure, image) =>
        {
            let shown = Reference::parse(image).map_or_else(|_| image.to_owned(), |r| r.familiar());
            if !quiet {
                terminal::say(&format!("Unable to find image '{shown}' locally"));
            }
            pull(context, client, image, &platform, quiet)?;
            ask()?
        }
        other => other?,
    };
    let created: CreateResponse = decode(&client.finish(answer)?)?;
    for warning in &created.warnings {
        terminal::say(&format!("WARNING: {warning}"));
    }
    id_file.write(&created.id)?;
    Ok(created)
}

/// The missing thing is the image, not a network or a volume of the request.
fn names_image(failure: &Failure, image: &str) -> bool {
    failure.message.contains("No such image") || failure.message.contains(image)
}

/// Pulls an image, its progress on standard error.
fn pull(context: &Context, client: &Client, image: &str, platform: &str, quiet: bool) -> Result<()> {
    let mut reference = Reference::parse(image)?;
    if reference.tag.is_none() && reference.digest.is_none() {
        reference.tag = Some("latest".to_owned());
    }
    let answer = start_pull(context, client, &reference, platform)?;
    progress::draw(answer, quiet, true)
}

/// Asks the daemon to pull, all tags if none is named; the answer streams progress.
///
/// # Errors
/// The daemon's refusal.
pub fn start_pull(
    context: &Context,
    client: &Client,
    image: &Reference,
    platform: &str,
) -> Result<crate::http::Response> {
    let tag = match (&image.digest, &image.tag) {
        (Some(digest), _) => digest.clone(),
        (None, Some(tag)) => tag.clone(),
        (None, None) => String::new(),
    };
    let path = Path::new("/images/create", &[])
        .query("fromImage", &image.familiar_name())
        .query_text("tag", &tag)
        .query_text("platform", platform);
    let auth = credentials::header(context, &image.domain);
    client.request("POST", &path, &auth, None)
}

/// The file that the id goes to; taken away again if there never was one.
struct IdFile(Option<(std::path::PathBuf, std::fs::File)>);

impl IdFile {
    fn open(path: &str) -> Result<IdFile> {
        if path.is_empty() {
            return Ok(IdFile(None));
        }
        let file = std::fs::OpenOptions::new().write(true).create_new(true).open(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Failure::new(format!(
                "container ID file found, make sure the other container isn't running or delete {path}"
            )),
            _ => Failure::new(format!("failed to create the container ID file: open {path}: {e}")),
        })?;
        Ok(IdFile(Some((path.into(), file))))
    }

    fn write(mut self, id: &str) -> Result<()> {
        match self.0.take() {
            Some((_, mut file)) => Ok(file.write_all(id.as_bytes())?),
            None => Ok(()),
        }
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if let Some((path, _)) = &self.0 {
            // An empty file left over would refuse the next run; there is nothing better to do than try.
            let _left = std::fs::remove_file(path);
        }
    }
}
