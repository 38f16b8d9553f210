//! Containers: make, change, look at, remove. Owns their parameters; streams are in `observe` and `attach`.

use brig_api::container::{Config, CreateRequest, UpdateRequest};
use brig_api::image::CommitResponse;
use brig_engine::{Commit, ListOptions, RemoveOptions};
use hyper::StatusCode;

use crate::body::BodyWriter;
use crate::call::{Call, Outcome, empty, json, no_content, ok, typed};
use crate::fault::Fault;
use crate::router::Version;

/// `GET /containers/json`
pub async fn list(call: Call) -> Outcome {
    let limit = call.query.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    let options = ListOptions {
        all: call.query.flag("all"),
        limit,
        size: call.query.flag("size"),
        filters: call.query.filters()?,
    };
    ok(&call.engine.containers.list(&options)?)
}

/// `POST /containers/create`
pub async fn create(call: Call) -> Outcome {
    let (mut request, call) = call.json::<CreateRequest>().await?;
    if request == CreateRequest::default() {
        return Err(Fault::bad_request("config cannot be empty in order to create a container"));
    }
    if call.version < Version::one(25)
        && let Some(host) = &mut request.host_config
    {
        // `--rm` was the client's work then.
        host.auto_remove = false;
    }
    let name = call.query.given("name").filter(|name| !name.is_empty());
    let platform = call.query.given("platform").filter(|platform| !platform.is_empty());
    json(StatusCode::CREATED, &call.engine.containers.create(name, platform, request).await?)
}

/// `GET /containers/{name}/json`
pub async fn inspect(call: Call) -> Outcome {
    ok(&call.engine.containers.inspect(call.param("name"), call.query.flag("size"))?)
}

/// `POST /containers/{name}/start`
pub async fn start(call: Call) -> Outcome {
    if !call.query.get("checkpoint").is_empty() {
        return Err(Fault::new(StatusCode::NOT_IMPLEMENTED, "checkpoints are not supported yet"));
    }
    call.engine.containers.start(call.param("name")).await?;
    no_content()
}

/// `POST /containers/{name}/stop`
pub async fn stop(call: Call) -> Outcome {
    let timeout = call.query.number("t")?;
    call.engine.containers.stop(call.param("name"), call.query.given("signal"), timeout).await?;
    no_content()
}

/// `POST /containers/{name}/restart`
pub async fn restart(call: Call) -> Outcome {
    let timeout = call.query.number("t")?;
    call.engine.containers.restart(call.param("name"), call.query.given("signal"), timeout).await?;
    no_content()
}

/// `POST /containers/{name}/kill`
pub async fn kill(call: Call) -> Outcome {
    call.engine.containers.kill(call.param("name"), call.query.given("signal")).await?;
    no_content()
}

/// `POST /containers/{name}/pause`
pub async fn pause(call: Call) -> Outcome {
    call.engine.containers.pause(call.param("name")).await?;
    no_content()
}

/// `POST /containers/{name}/unpause`
pub async fn unpause(call: Call) -> Outcome {
    call.engine.containers.unpause(call.param("name")).await?;
    no_content()
}

/// `POST /containers/{name}/rename`
pub async fn rename(call: Call) -> Outcome {
    call.engine.containers.rename(call.param("name"), call.query.get("name")).await?;
    no_content()
}

/// `POST /containers/{name}/update`
pub async fn update(call: Call) -> Outcome {
    let (request, call) = call.json::<UpdateRequest>().await?;
    ok(&call.engine.containers.update(call.params.get("name"), request).await?)
}

/// `POST /containers/{name}/resize`
pub async fn resize(call: Call) -> Outcome {
    let (height, width) = console_size(&call)?;
    call.engine.containers.resize(call.param("name"), height, width).await?;
    empty(StatusCode::OK)
}

/// `h` and `w`, in characters.
pub fn console_size(call: &Call) -> Result<(u16, u16), Fault> {
    let one = |name: &str| {
        let text = call.query.get(name);
        text.parse::<u16>().map_err(|_| {
            Fault::bad_request(format!("invalid resize {name} {text:?}: must be a number from 0 to 65535"))
        })
    };
    Ok((one("h")?, one("w")?))
}

/// `GET /containers/{name}/top`
pub async fn top(call: Call) -> Outcome {
    ok(&call.engine.containers.top(call.param("name"), call.query.get("ps_args")).await?)
}

/// `DELETE /containers/{name}`
pub async fn remove(call: Call) -> Outcome {
    if call.query.flag("link") {
        return Err(Fault::bad_request("removing a link between containers is not supported"));
    }
    let options = RemoveOptions { force: call.query.flag("force"), volumes: call.query.flag("v") };
    call.engine.containers.remove(call.param("name"), options).await?;
    no_content()
}

/// `POST /containers/prune`
pub async fn prune(call: Call) -> Outcome {
    ok(&call.engine.containers.prune(&call.query.filters()?).await?)
}

/// `GET /containers/{name}/changes`
pub async fn changes(call: Call) -> Outcome {
    ok(&call.engine.containers.changes(call.param("name")).await?)
}

/// `GET /containers/{name}/export`
pub async fn export(call: Call) -> Outcome {
    let archive = call.engine.containers.export(call.param("name")).await?;
    let (mut writer, body) = BodyWriter::new();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = archive.write(&mut writer) {
            tracing::error!("exporting a container was broken off: {error}");
            writer.fail(error);
        }
    });
    Ok(typed(StatusCode::OK, "application/octet-stream", body))
}

/// `POST /commit`
pub async fn commit(call: Call) -> Outcome {
    let (config, call) = call.json::<Option<Config>>().await?;
    let query = &call.query;
    let request = Commit {
        repository: query.get("repo").to_owned(),
        tag: query.get("tag").to_owned(),
        author: query.get("author").to_owned(),
        comment: query.get("comment").to_owned(),
        // Before 1.13 there was no choice, and no pause.
        pause: query.flag_or("pause", call.version >= Version::one(13)),
        changes: query.all("changes"),
        config,
        timestamp: query.number("timestamp")?,
    };
    let id = call.engine.containers.commit(query.get("container"), request).await?;
    json(StatusCode::CREATED, &CommitResponse { id })
}
