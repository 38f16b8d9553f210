//! The engine itself: ping, info, version, disk usage, and the answers of what is not there. Owns their parameters.

use brig_api::system::CheckLine;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderName, HeaderValue, PRAGMA};
use serde::Serialize;

use crate::body::Body;
use crate::call::{Call, Outcome, blocking, ok, typed};
use crate::fault::Fault;

/// `GET /_ping` and `HEAD /_ping`
pub async fn ping(_call: Call) -> Outcome {
    let mut reply = typed(StatusCode::OK, "text/plain; charset=utf-8", Body::whole("OK"));
    let headers = reply.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    // No `Builder-Version`: there is no builder that a client could choose.
    headers.insert(HeaderName::from_static("swarm"), HeaderValue::from_static("inactive"));
    Ok(reply)
}

/// `GET /info`
pub async fn info(call: Call) -> Outcome {
    let engine = call.engine.clone();
    ok(&blocking(move || Ok(engine.system().info())).await?)
}

/// `GET /version`
pub async fn version(call: Call) -> Outcome {
    ok(&call.engine.system().version())
}

/// `POST /auth`
pub async fn auth(call: Call) -> Outcome {
    let (credentials, call) = call.json::<brig_api::system::AuthConfig>().await?;
    ok(&call.engine.images.check_auth(credentials).await?)
}

/// `GET /system/df`
pub async fn disk_usage(call: Call) -> Outcome {
    let wanted = call.query.all("type");
    if let Some(other) = wanted.iter().find(|t| !matches!(t.as_str(), "container" | "image" | "volume" | "build-cache"))
    {
        return Err(Fault::bad_request(format!("unknown object type: {other}")));
    }
    let engine = call.engine.clone();
    let has = move |kind: &str| wanted.is_empty() || wanted.iter().any(|w| w == kind);
    ok(&blocking(move || engine.system().disk_usage(&has)).await?)
}

/// `GET /plugins`: there are none.
pub async fn plugins(_call: Call) -> Outcome {
    ok(&Vec::<()>::new())
}

/// What `POST /build/prune` answers.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct BuildPrune {
    caches_deleted: Option<Vec<String>>,
    space_reclaimed: u64,
}

/// `POST /build/prune`: without a builder there is no cache, so nothing is freed. `docker system prune` asks for it.
pub async fn build_prune(_call: Call) -> Outcome {
    ok(&BuildPrune { caches_deleted: None, space_reclaimed: 0 })
}

/// `POST /brig/system/check`, which is brig's own: a line of JSON for each finding, the summary last.
pub async fn check(call: Call) -> Outcome {
    let mut lines = call.engine.system().check(call.query.flag("full"), call.query.flag("repair"));
    let encode = |line: CheckLine| {
        let mut bytes = serde_json::to_vec(&line).expect("the API's types are always JSON");
        bytes.push(b'\n');
        Bytes::from(bytes)
    };
    let body = futures_util::stream::poll_fn(move |context| lines.poll_recv(context).map(|line| line.map(encode)));
    Ok(typed(StatusCode::OK, "application/json", Body::stream(body)))
}
