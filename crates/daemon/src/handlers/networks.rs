//! Networks. Owns their parameters.

use brig_api::network::PruneReport;

use crate::call::{Call, Outcome, ok};

/// `GET /networks`
pub async fn list(call: Call) -> Outcome {
    ok(&call.engine.networks().list(&call.query.filters()?)?)
}

/// `GET /networks/{name}`
pub async fn inspect(call: Call) -> Outcome {
    ok(&call.engine.networks().inspect(call.param("name"))?)
}

/// `POST /networks/prune`: the networks that there are, `bridge`, `host` and `none`, always stay.
pub async fn prune(call: Call) -> Outcome {
    call.query.filters()?.check(&["label", "label!", "until"]).map_err(crate::fault::Fault::bad_request)?;
    ok(&PruneReport::default())
}
