//! Attach and exec start: the two requests that become raw connections. Owns their parameters and the order of
//! errors (told by status) before the switch; the copying is `hijack`'s.

use std::time::Duration;

use brig_api::detach::{self, Detector};
use brig_api::exec::StartRequest;
use brig_api::frame;
use brig_engine::{AttachOptions, Attachment};
use bytes::Bytes;
use hyper::StatusCode;
use hyper::upgrade::OnUpgrade;
use tokio::sync::mpsc;

use crate::body;
use crate::call::{Call, Outcome, empty};
use crate::fault::Fault;
use crate::hijack::{self, Session};

/// How long a client gets to read the answer's head before a message follows it.
const HEAD_READ: Duration = Duration::from_millis(10);

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
    let reply = hijack::switching(!attachment.tty, call.version);
    hijack::run(upgrade, std::future::ready(session(attachment, keys)));
    Ok(reply)
}

/// `POST /exec/{name}/start`
pub async fn exec_start(mut call: Call) -> Outcome {
    let upgrade = take_upgrade(&mut call);
    let Call { engine, version, params, head, body, .. } = call;
    let request: StartRequest = body::json(&head.headers, body).await?;
    let detached = request.detach;
    let upgrade = if detached { None } else { Some(upgrade?) };
    let id = params.get("name");
    let asked = engine.containers.exec_inspect(id).await?;
    let keys = detach::parse(asked.detach_keys.as_deref().unwrap_or_default()).map_err(Fault::bad_request)?;
    let tty = asked.process_config.is_some_and(|process| process.tty);
    let Some(upgrade) = upgrade else {
        engine.containers.exec_start(id, request).await?;
        return empty(StatusCode::OK);
    };
    engine.containers.exec_check(id)?;
    let reply = hijack::switching(!tty, version);
    let id = id.to_owned();
    hijack::run(upgrade, async move {
        match engine.containers.exec_start(&id, request).await {
            Ok(Some(attachment)) => session(attachment, keys),
            Ok(None) => Session { replay: None, container: None, framed: !tty, detach: None, stdin: false },
            Err(error) => {
                // A process takes its time to print; this is there at once, so the client is given that time to read the
                // answer's head, which nothing reports.
                tokio::time::sleep(HEAD_READ).await;
                message(&error.message, tty)
            }
        }
    });
    Ok(reply)
}

/// A session that consists of one message: why a process could not be run. Clients take it from the streams, and its
/// exit code from the exec, as Docker tells them.
fn message(message: &str, tty: bool) -> Session {
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
    Session { replay: Some(replay), container: None, framed: !tty, detach: None, stdin: false }
}

fn take_upgrade(call: &mut Call) -> Result<OnUpgrade, Fault> {
    call.head.extensions.remove::<OnUpgrade>().ok_or_else(|| {
        Fault::bad_request("this request takes over its connection, which HTTP/1.0 and HTTP/2 do not allow")
    })
}

fn session(attachment: Attachment, keys: Vec<u8>) -> Session {
    let detach = (attachment.tty && attachment.stdin_open).then(|| Detector::new(keys));
    Session {
        container: attachment.stream,
        replay: attachment.replay,
        framed: !attachment.tty,
        detach,
        stdin: attachment.stdin_open,
    }
}
