//! Attach and exec start: the two requests that become raw connections. Owns their parameters and the order of
//! errors (told by status) before the switch; the copying is `hijack`'s.

use brig_api::detach::{self, Detector};
use brig_api::exec::StartRequest;
use brig_engine::{AttachOptions, Attachment};
use hyper::StatusCode;
use hyper::upgrade::OnUpgrade;

use crate::body;
use crate::call::{Call, Outcome, empty};
use crate::fault::Fault;
use crate::hijack::{self, Session};
use crate::router::Version;

/// `POST /containers/{name}/attach`
pub async fn attach(mut call: Call) -> Outcome {
    let query = &call.query;
    let keys = detach::parse(query.get("detachKeys")).map_err(|error| {
        Fault::bad_request(format!("Invalid detach keys ({}) provided: {error}", query.get("detachKeys")))
    })?;
    let options = AttachOptions {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        stream: query.flag("stream"),
        logs: query.flag("logs"),
    };
    let upgrade = take_upgrade(&mut call)?;
    let attachment = call.engine.containers.attach(call.param("name"), options).await?;
    Ok(begin(upgrade, attachment, keys, call.version))
}

/// `POST /exec/{name}/start`
pub async fn exec_start(mut call: Call) -> Outcome {
    let upgrade = take_upgrade(&mut call);
    let Call { engine, version, params, head, body, .. } = call;
    let request: StartRequest = body::json(&head.headers, body).await?;
    let upgrade = if request.detach { None } else { Some(upgrade?) };
    let id = params.get("name");
    let keys = exec_keys(&engine, id)?;
    match (engine.containers.exec_start(id, request).await?, upgrade) {
        (Some(attachment), Some(upgrade)) => Ok(begin(upgrade, attachment, keys, version)),
        _ => empty(StatusCode::OK),
    }
}

/// The keys that the exec was made with.
fn exec_keys(engine: &brig_engine::Engine, id: &str) -> Result<Vec<u8>, Fault> {
    let asked = engine.containers.exec_inspect(id)?.detach_keys.unwrap_or_default();
    detach::parse(&asked).map_err(Fault::bad_request)
}

fn take_upgrade(call: &mut Call) -> Result<OnUpgrade, Fault> {
    call.head.extensions.remove::<OnUpgrade>().ok_or_else(|| {
        Fault::bad_request("this request takes over its connection, which HTTP/1.0 and HTTP/2 do not allow")
    })
}

fn begin(upgrade: OnUpgrade, attachment: Attachment, keys: Vec<u8>, version: Version) -> crate::call::Reply {
    let detach = (attachment.tty && attachment.stdin_open).then(|| Detector::new(keys));
    let reply = hijack::switching(!attachment.tty, version);
    hijack::run(
        upgrade,
        Session {
            container: attachment.stream,
            replay: attachment.replay,
            framed: !attachment.tty,
            detach,
            stdin: attachment.stdin_open,
        },
    );
    reply
}
