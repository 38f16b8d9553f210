//! Processes in running containers: make and look at. Owns their parameters; starting one is in `attach`.

use brig_api::exec::{CreateRequest, CreateResponse};
use hyper::StatusCode;

use super::containers::console_size;
use crate::call::{Call, Outcome, empty, json, ok};

/// `POST /containers/{name}/exec`
pub async fn create(call: Call) -> Outcome {
    let (request, call) = call.json::<CreateRequest>().await?;
    let id = call.engine.containers.exec_create(call.params.get("name"), request).await?;
    json(StatusCode::CREATED, &CreateResponse { id })
}

/// `POST /exec/{name}/resize`
pub async fn resize(call: Call) -> Outcome {
    let (height, width) = console_size(&call)?;
    call.engine.containers.exec_resize(call.param("name"), height, width).await?;
    empty(StatusCode::OK)
}

/// `GET /exec/{name}/json`
pub async fn inspect(call: Call) -> Outcome {
    ok(&call.engine.containers.exec_inspect(call.param("name")).await?)
}
