//! Networks. Owns their parameters.

use brig_api::network::PruneReport;

use hyper::StatusCode;

use crate::call::{Call, Outcome, ok};
use crate::fault::Fault;

/// `GET /networks`
pub async fn list(call: Call) -> Outcome {
    ok(&call.engine.networks().list(&call.query.filters()?)?)
}

/// `GET /networks/{name}`
pub async fn inspect(call: Call) -> Outcome {
    ok(&call.engine.networks().inspect(call.param("name"))?)
}

/// `DELETE /networks/{name}`: those that there are stay.
pub async fn remove(call: Call) -> Outcome {
    let network = call.engine.networks().inspect(call.param("name"))?;
    Err(Fault::new(StatusCode::FORBIDDEN, format!("{} is a pre-defined network and cannot be removed", network.name)))
}

/// `POST /networks/prune`: the networks that there are, `bridge`, `host` and `none`, always stay.
pub async fn prune(call: Call) -> Outcome {
    call.query.filters()?.check(&["label", "label!", "until"]).map_err(Fault::bad_request)?;
    ok(&PruneReport::default())
}
