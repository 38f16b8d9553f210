//! Attach and exec start: the two requests that become raw connections. Owns their parameters and the order of
//! errors (told by status) before the switch; the copying is `hijack`'s.

use brig_api::detach::{self, Detector};
use brig_api::exec::StartRequest;
use brig_api::frame;
use brig_engine::{AttachOptions, Attachment, ErrorKind};
use bytes::Bytes;
use hyper::StatusCode;
use hyper::upgrade::OnUpgrade;
use tokio::sync::mpsc;

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
    let detached = request.detach;
    let upgrade = if detached { None } else { Some(upgrade?) };
    let id = params.get("name");
    let asked = engine.containers.exec_inspect(id)?;
    let keys = detach::parse(asked.detach_keys.as_deref().unwrap_or_default()).map_err(Fault::bad_request)?;
    let tty = asked.process_config.is_some_and(|process| process.tty);
    match (engine.containers.exec_start(id, request).await, upgrade) {
        (Ok(Some(attachment)), Some(upgrade)) => Ok(begin(upgrade, attachment, keys, version)),
        (Ok(_), _) => empty(StatusCode::OK),
        (Err(error), Some(upgrade)) if error.kind != ErrorKind::Conflict && was_tried(&engine, id) => {
            Ok(tell(upgrade, &error.message, tty, version))
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// Whether a process was to be run and could not, as opposed to an exec that may not be started. Clients take the first
/// from the streams and the exit code, as Docker tells it, and only the second from the status.
fn was_tried(engine: &brig_engine::Engine, id: &str) -> bool {
    engine.containers.exec_inspect(id).is_ok_and(|exec| exec.pid == 0 && exec.exit_code.is_some())
}

/// A session that consists of one message.
fn tell(upgrade: OnUpgrade, message: &str, tty: bool, version: Version) -> crate::call::Reply {
    let text = format!("{message}\r\n");
    let mut bytes = Vec::new();
    if tty {
        bytes.extend_from_slice(text.as_bytes());
    } else {
        frame::encode(frame::Stream::Stdout, text.as_bytes(), &mut bytes);
    }
    let (sender, replay) = mpsc::channel(1);
    // There is room for the one message, so it cannot fail.
    sender.try_send(Ok(Bytes::from(bytes))).ok();
    let session = Session { replay: Some(replay), container: None, framed: !tty, detach: None, stdin: false };
    hijack::run(upgrade, session);
    hijack::switching(!tty, version)
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
