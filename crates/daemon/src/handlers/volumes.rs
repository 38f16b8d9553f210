//! Volumes. Owns their parameters.

use brig_api::volume::CreateRequest;
use hyper::StatusCode;

use crate::call::{Call, Outcome, blocking, json, no_content, ok};
use crate::router::Version;

/// `GET /volumes`
pub async fn list(call: Call) -> Outcome {
    ok(&call.engine.volumes.list(&call.query.filters()?)?)
}

/// `POST /volumes/create`
pub async fn create(call: Call) -> Outcome {
    let (request, call) = call.json::<CreateRequest>().await?;
    json(StatusCode::CREATED, &blocking(move || call.engine.volumes.create(request)).await?)
}

/// `GET /volumes/{name}`
pub async fn inspect(call: Call) -> Outcome {
    ok(&call.engine.volumes.inspect(call.param("name"))?)
}

/// `DELETE /volumes/{name}`
pub async fn remove(call: Call) -> Outcome {
    let (engine, name, force) = (call.engine.clone(), call.param("name").to_owned(), call.query.flag("force"));
    blocking(move || engine.volumes.remove(&name, force)).await?;
    no_content()
}

/// `POST /volumes/prune`: before API 1.42 every unused volume, since then only those without a name of their own.
pub async fn prune(call: Call) -> Outcome {
    let mut filters = call.query.filters()?;
    if call.version < Version::one(42) && !filters.contains("all") {
        filters.add("all", "true");
    }
    let engine = call.engine.clone();
    ok(&blocking(move || engine.volumes.prune(&filters)).await?)
}
