//! Images: pull, push, import, load, save, look at, name, remove. Owns their parameters and the framing of progress; the
//! lines are the engine's.

use brig_api::image::PushList;
use brig_api::progress::Message;
use brig_engine::{Attestations, ImageListOptions, Import};
use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::body::{Body, BodyWriter};
use crate::call::{Call, Outcome, Query, blocking, empty, ok, typed};
use crate::fault::Fault;
use crate::progress_bar;
use crate::router::Version;

/// `GET /images/json`
pub async fn list(call: Call) -> Outcome {
    let mut filters = call.query.filters()?;
    let name = call.query.get("filter");
    if call.version < Version::one(41) && !name.is_empty() {
        filters.add("reference", name);
    }
    let options = ImageListOptions {
        all: call.query.flag("all"),
        shared_size: call.version >= Version::one(42) && call.query.flag("shared-size"),
        manifests: call.version >= Version::one(47) && call.query.flag("manifests"),
    };
    let engine = call.engine.clone();
    let mut images = blocking(move || engine.images.list(options, &filters)).await?;
    if call.version < Version::one(51) && !options.manifests {
        images.iter_mut().for_each(|image| image.containers = -1);
    }
    if call.version < Version::one(44) {
        for image in &mut images {
            image.virtual_size = Some(image.size);
        }
    }
    if call.version < Version::one(43) {
        // Older clients expect a name where there is none.
        for image in &mut images {
            let none = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
            if none(&image.repo_tags) && none(&image.repo_digests) {
                image.repo_tags = Some(vec!["<none>:<none>".into()]);
                image.repo_digests = Some(vec!["<none>@<none>".into()]);
            }
        }
    }
    ok(&images)
}

/// `POST /images/create`: pull with `fromImage`, import with `fromSrc`, which is `-` for the body or a URL.
pub async fn create(call: Call) -> Outcome {
    let platform = call.query.get("platform").to_owned();
    let from_image = call.query.get("fromImage").to_owned();
    if !from_image.is_empty() {
        let auth = call.registry_auth()?;
        let (tag, platform) = (call.query.given("tag"), Some(platform.as_str()).filter(|p| !p.is_empty()));
        return progress(call.engine.images.pull(&from_image, tag, platform, auth).await?).await;
    }
    import(call, platform).await
}

async fn import(call: Call, platform: String) -> Outcome {
    let source = call.query.get("fromSrc").to_owned();
    if source.is_empty() {
        return Err(Fault::bad_request("either fromImage or fromSrc must be given"));
    }
    let request = Import {
        repository: call.query.get("repo").to_owned(),
        tag: call.query.get("tag").to_owned(),
        message: call.query.get("message").to_owned(),
        changes: call.query.all("changes"),
        platform,
        timestamp: call.query.number("timestamp")?,
    };
    if source == "-" {
        let (reader, call) = call.reader();
        return progress(call.engine.images.import(Box::new(reader), request)?).await;
    }
    Ok(stream(None, call.engine.images.import_from(&source, request).await?))
}

/// `POST /images/load`
pub async fn load(call: Call) -> Outcome {
    let (reader, call) = call.reader();
    let quiet = call.query.flag_or("quiet", true);
    Ok(stream(None, call.engine.images.load(Box::new(reader), quiet, &platforms(&call.query))?))
}

/// `POST /images/{name}/push`
pub async fn push(call: Call) -> Outcome {
    let auth = call.registry_auth()?;
    let (tag, platform) = (call.query.get("tag"), call.query.get("platform"));
    Ok(stream(None, call.engine.images.push(call.param("name"), tag, platform, auth)?))
}

/// `GET /images/get?names=…`
pub async fn save(call: Call) -> Outcome {
    let names = call.query.all("names");
    send_archive(call, names).await
}

/// `GET /images/{name}/get`
pub async fn save_one(call: Call) -> Outcome {
    let name = call.param("name").to_owned();
    send_archive(call, vec![name]).await
}

async fn send_archive(call: Call, names: Vec<String>) -> Outcome {
    if names.iter().all(String::is_empty) {
        return Err(Fault::bad_request("no image was named: give at least one with the parameter names"));
    }
    let platforms = platforms(&call.query);
    let engine = call.engine.clone();
    // brig's own: for clients of Docker's, which do not ask for it, the daemon's setting counts.
    let original = call.query.flag_or("original", engine.saves_originals());
    let archive = blocking(move || engine.images.save(&names, &platforms, original)).await?;
    let (mut writer, body) = BodyWriter::new();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = archive.write(&mut writer) {
            tracing::error!("saving images was broken off: {error}");
            writer.fail(error);
        }
    });
    Ok(typed(StatusCode::OK, "application/x-tar", body))
}

/// The platforms that are asked for, each as text or as JSON.
fn platforms(query: &Query) -> Vec<String> {
    query.all("platform").into_iter().filter(|text| !text.is_empty()).collect()
}

/// A stream of progress. When its very first line is an error, nothing has happened yet and the status tells it.
async fn progress(mut lines: mpsc::Receiver<Message>) -> Outcome {
    let first = lines.recv().await;
    if let Some(error) = first.as_ref().filter(|line| !line.error.is_empty()) {
        return Err(Fault::new(StatusCode::INTERNAL_SERVER_ERROR, &error.error));
    }
    Ok(stream(first, lines))
}

fn stream(mut first: Option<Message>, mut lines: mpsc::Receiver<Message>) -> crate::call::Reply {
    let body = futures_util::stream::poll_fn(move |context| match first.take() {
        Some(line) => std::task::Poll::Ready(Some(encode(line))),
        None => lines.poll_recv(context).map(|line| line.map(encode)),
    });
    typed(StatusCode::OK, "application/json", Body::stream(body))
}

/// One line as Docker ends them, with the numbers drawn too.
fn encode(line: Message) -> Bytes {
    let progress = line.progress_detail.as_ref().map(progress_bar::text).unwrap_or_default();
    let mut bytes = serde_json::to_vec(&Message { progress, ..line }).expect("the API's types are always JSON");
    bytes.extend_from_slice(b"\r\n");
    Bytes::from(bytes)
}

/// `GET /images/{name}/json`
pub async fn inspect(call: Call) -> Outcome {
    let platform = if call.version >= Version::one(49) { call.query.get("platform") } else { "" };
    let manifests = call.version >= Version::one(48) && call.query.flag("manifests");
    if manifests && !platform.is_empty() {
        return Err(Fault::bad_request("conflicting options: manifests and platform options cannot both be set"));
    }
    let mut image = call.engine.images.inspect(call.param("name"), platform, manifests)?;
    if call.version < Version::one(44) {
        image.virtual_size = Some(image.size);
    }
    if call.version < Version::one(45) {
        image.container = Some(String::new());
        image.container_config = Some(brig_api::container::Config::default());
    }
    let mut image = serde_json::to_value(&image).expect("the API's types are always JSON");
    if let Some(config) = image.get_mut("Config").and_then(Value::as_object_mut) {
        with_old_fields(config, call.version);
    }
    ok(&image)
}

/// Fields of an image's configuration that clients up to API 1.51 find also where the image says nothing.
fn with_old_fields(config: &mut Map<String, Value>, version: Version) {
    let flags = ["AttachStderr", "AttachStdin", "AttachStdout", "OpenStdin", "StdinOnce", "Tty"];
    let set = |(name, value): (&str, Value)| _ = config.entry(name).or_insert(value);
    let lists = ["Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "Volumes"].map(|name| (name, Value::Null));
    let texts = ["User", "WorkingDir"].map(|name| (name, Value::from("")));
    // What only a container has.
    let older = ["Domainname", "Hostname", "Image"].map(|name| (name, Value::from("")));
    let older = older.into_iter().chain(flags.map(|name| (name, Value::from(false))));
    lists.into_iter().chain(texts).chain(older.filter(|_| version < Version::one(50))).for_each(set);
}

/// `GET /images/{name}/history`
pub async fn history(call: Call) -> Outcome {
    ok(&call.engine.images.history(call.param("name"), call.query.get("platform"))?)
}

/// `GET /images/{name}/attestations`, which Docker has from 1.55 on.
pub async fn attestations(call: Call) -> Outcome {
    let mut platforms = call.query.all("platform");
    if platforms.len() > 1 {
        return Err(Fault::bad_request("only one platform value is currently supported"));
    }
    let types = call.query.all("type");
    let types = types.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|kind| !kind.is_empty());
    let asked = Attestations {
        platform: platforms.pop().unwrap_or_default(),
        predicate_types: types.map(str::to_owned).collect(),
        statements: call.query.flag("statement"),
    };
    let (engine, name) = (call.engine.clone(), call.param("name").to_owned());
    ok(&blocking(move || engine.images.attestations(&name, &asked)).await?)
}

/// `POST /images/{name}/tag`
pub async fn tag(call: Call) -> Outcome {
    call.engine.images.tag(call.param("name"), call.query.get("repo"), call.query.get("tag"))?;
    empty(StatusCode::CREATED)
}

/// `DELETE /images/{name}`
pub async fn remove(call: Call) -> Outcome {
    let (engine, name, force) = (call.engine.clone(), call.param("name").to_owned(), call.query.flag("force"));
    let platforms = call.query.all("platforms").into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>();
    ok(&blocking(move || engine.images.remove(&name, force, &platforms)).await?)
}

/// `GET /images/search`
pub async fn search(call: Call) -> Outcome {
    let (auth, filters) = (call.registry_auth()?, call.query.filters()?);
    let limit = call.query.number("limit")?;
    ok(&call.engine.images.search(call.query.get("term"), limit, &filters, auth).await?)
}

/// `GET /distribution/{name}/json`
pub async fn distribution(call: Call) -> Outcome {
    let auth = call.registry_auth()?;
    ok(&call.engine.images.distribution(call.param("name"), auth).await?)
}

/// `POST /images/prune`
pub async fn prune(call: Call) -> Outcome {
    let (engine, filters) = (call.engine.clone(), call.query.filters()?);
    ok(&blocking(move || engine.images.prune(&filters)).await?)
}

/// `GET /brig/manifests/{name}/json`, brig's own: a name's manifest as its registry has it
pub async fn look(call: Call) -> Outcome {
    let auth = call.registry_auth()?;
    ok(&call.engine.images.look(call.param("name"), auth).await?)
}

/// `POST /brig/manifests/{name}/push`, brig's own: an index of what is in a registry
pub async fn push_list(call: Call) -> Outcome {
    let auth = call.registry_auth()?;
    let (list, call) = call.json::<PushList>().await?;
    ok(&call.engine.images.push_list(call.params.get("name"), list, auth).await?)
}
