//! What goes on for a while: waiting, logs, stats and events. Owns their parameters and pacing; each ends by itself when
//! its client leaves, since its stream is dropped then.

use std::time::Duration;

use brig_api::frame;
use brig_api::stats::Stats;
use brig_engine::{LogOptions, WaitCondition};
use bytes::Bytes;
use hyper::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::body::Body;
use crate::call::{Call, Outcome, ok, typed};
use crate::fault::Fault;
use crate::router::Version;

/// One reading of `stats` per this time.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// `POST /containers/{name}/wait`: the head is sent as soon as the wait is registered.
pub async fn wait(call: Call) -> Outcome {
    let condition = match call.query.get("condition") {
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(Fault::bad_request(format!("invalid condition: {other:?}"))),
    };
    let wait = call.engine.containers.wait(call.param("name"), condition)?;
    let body = futures_util::stream::once(async move {
        let response = wait.await.unwrap_or_else(|error| brig_api::container::WaitResponse {
            status_code: -1,
            error: Some(brig_api::container::WaitExitError { message: error.message }),
        });
        line(&response)
    });
    Ok(typed(StatusCode::OK, "application/json", Body::stream(body)))
}

/// `GET /containers/{name}/logs`
pub async fn logs(call: Call) -> Outcome {
    let query = &call.query;
    let options = LogOptions {
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        follow: query.flag("follow"),
        since: instant("since", query.get("since"))?,
        until: instant("until", query.get("until"))?,
        timestamps: query.flag("timestamps"),
        // As Docker: what is no number, such as `all`, is everything.
        tail: query.get("tail").parse().ok(),
        details: query.flag("details"),
    };
    let mut log = call.engine.containers.logs(call.param("name"), options)?;
    let framed = !log.tty;
    // An error before anything was sent still has a status.
    let first = match log.chunks.recv().await {
        Some(Err(error)) => return Err(error.into()),
        Some(Ok(bytes)) => Some(bytes),
        None => None,
    };
    let mut first = first;
    let body = futures_util::stream::poll_fn(move |context| match first.take() {
        Some(bytes) => std::task::Poll::Ready(Some(bytes)),
        None => log
            .chunks
            .poll_recv(context)
            .map(|item| item.map(|chunk| chunk.unwrap_or_else(|e| broken(&e.message, framed)))),
    });
    let media = if framed && call.version >= Version::one(42) {
        "application/vnd.docker.multiplexed-stream"
    } else {
        "application/vnd.docker.raw-stream"
    };
    Ok(typed(StatusCode::OK, media, Body::stream(body)))
}

/// An error in the middle of a stream, where no status can tell it.
pub fn broken(message: &str, framed: bool) -> Bytes {
    let text = format!("Error grabbing logs: {message}\n");
    if !framed {
        return Bytes::from(text);
    }
    let mut frame = Vec::new();
    frame::encode(frame::Stream::SystemError, text.as_bytes(), &mut frame);
    Bytes::from(frame)
}

/// `GET /containers/{name}/stats`
pub async fn stats(call: Call) -> Outcome {
    let name = call.param("name").to_owned();
    let stream = call.query.flag_or("stream", true);
    let one_shot = call.query.flag("one-shot");
    if stream && one_shot {
        return Err(Fault::bad_request("cannot have stream=true and one-shot=true"));
    }
    let first = call.engine.containers.stats(&name).await?;
    if one_shot {
        return ok(&first);
    }
    if !stream {
        // Two readings, so that the client can compute a rate: the time between them is what is measured over.
        tokio::time::sleep(STATS_INTERVAL).await;
        return ok(&after(&first, call.engine.containers.stats(&name).await?));
    }
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut before = first;
        let mut ticks = tokio::time::interval(STATS_INTERVAL);
        if sender.send(line(&before)).await.is_err() {
            return;
        }
        ticks.tick().await;
        loop {
            tokio::select! {
                () = sender.closed() => return,
                _ = ticks.tick() => {}
            }
            // A container that is removed ends the stream; one that is stopped gives zeros, as in Docker.
            let Ok(now) = call.engine.containers.stats(&name).await else {
                return;
            };
            let now = after(&before, now);
            if sender.send(line(&now)).await.is_err() {
                return;
            }
            before = now;
        }
    });
    Ok(typed(StatusCode::OK, "application/json", Body::channel(receiver)))
}

/// A reading with the one before it.
fn after(before: &Stats, mut now: Stats) -> Stats {
    now.preread.clone_from(&before.read);
    now.precpu_stats = before.cpu_stats.clone();
    now
}

/// `GET /events`
pub async fn events(call: Call) -> Outcome {
    let since = instant("since", call.query.get("since"))?;
    let until = instant("until", call.query.get("until"))?;
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        return Err(Fault::bad_request(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            call.query.get("since"),
            call.query.get("until")
        )));
    }
    let mut events = call.engine.events.subscribe(since, until, call.query.filters()?);
    let body = futures_util::stream::poll_fn(move |context| {
        events.poll_recv(context).map(|event| event.map(|event| line(&event)))
    });
    Ok(typed(StatusCode::OK, "application/json", Body::stream(body)))
}

/// One JSON object and a line break.
fn line<T: Serialize>(value: &T) -> Bytes {
    let mut bytes = serde_json::to_vec(value).expect("the API's types are always JSON");
    bytes.push(b'\n');
    Bytes::from(bytes)
}

/// A moment in a query: seconds since 1970 with a fraction, or RFC 3339. Absent, empty and `0` are `None`.
fn instant(name: &str, text: &str) -> Result<Option<Timestamp>, Fault> {
    let wrong = || {
        Fault::bad_request(format!("invalid value for {name:?}: failed to parse value as time or duration: {text:?}"))
    };
    if text.is_empty() || text == "0" {
        return Ok(None);
    }
    if text.contains('T') {
        return text.parse().map(Some).map_err(|_| wrong());
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().map_err(|_| wrong())?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: i32 = digits.parse().map_err(|_| wrong())?;
    Timestamp::new(seconds, nanoseconds).map(Some).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_in_dockers_forms() {
        let at = |text: &str| instant("since", text).map(|at| at.map(|at| at.as_nanosecond()));
        assert_eq!(at(""), Ok(None));
        assert_eq!(at("0"), Ok(None));
        assert_eq!(at("12"), Ok(Some(12_000_000_000)));
        assert_eq!(at("12.5"), Ok(Some(12_500_000_000)));
        assert_eq!(at("12.000000001"), Ok(Some(12_000_000_001)));
        assert_eq!(at("1970-01-01T00:00:12Z"), Ok(Some(12_000_000_000)));
        for bad in ["x", "1.x", "1.2.3", "-", "T"] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }
}
