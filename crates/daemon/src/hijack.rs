//! Attach and exec: a request becomes a raw connection between the client and a container's streams.
//! Owns the switch of protocols, the copying in both directions with half-close, and detaching by keys; must not know
//! what is at the other end.

use brig_api::detach::Detector;
use bytes::Bytes;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::body::Body;
use crate::call::Reply;
use crate::handlers::observe::broken;
use crate::router::Version;
use crate::socket::Socket;

/// Bytes copied at once.
const CHUNK: usize = 32 << 10;

/// The answer that switches protocols. `framed` streams have 8-byte headers, which clients from API 1.42 on are told.
pub fn switching(framed: bool, version: Version) -> Reply {
    let media = if framed && version >= Version::one(42) {
        "application/vnd.docker.multiplexed-stream"
    } else {
        "application/vnd.docker.raw-stream"
    };
    let mut reply = Response::new(Body::Whole(None));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    reply.extensions_mut().insert(ReasonPhrase::from_static(b"UPGRADED"));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
    reply
}

/// What goes between a client and a container.
pub struct Session {
    /// What was printed before, to be sent first.
    pub replay: Option<mpsc::Receiver<brig_engine::Result<Bytes>>>,
    /// The container's side, once it runs; none when only the replay is wanted.
    pub container: Option<oneshot::Receiver<UnixStream>>,
    /// Whether the container's side has frames.
    pub framed: bool,
    /// Keys that end the session, for terminals.
    pub detach: Option<Detector>,
    /// Whether what the client sends goes to the container.
    pub stdin: bool,
}

/// Runs a session on the connection once the protocols have been switched. What makes the session is begun only then:
/// clients that read the answer's head through a buffer lose output that comes along with it.
pub fn run(upgrade: OnUpgrade, session: impl Future<Output = Session> + Send + 'static) {
    tokio::spawn(async move {
        let upgraded = match upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => {
                tracing::debug!("a client left before its connection was handed over: {error}");
                return;
            }
        };
        let Ok(parts) = upgraded.downcast::<TokioIo<Socket>>() else {
            tracing::error!("a connection that was handed over is not one of this server's");
            return;
        };
        let (mut client, rest) = parts.io.into_inner().into_transport();
        let mut early = parts.read_buf.to_vec();
        early.extend(rest);
        let Session { replay, container, framed, detach, stdin } = session.await;
        if let Some(replay) = replay
            && !send_replay(&mut client, replay, framed).await
        {
            return;
        }
        let container = match container {
            Some(container) => container.await.ok(),
            None => None,
        };
        match container {
            Some(container) => copy(client, early, container, detach, stdin).await,
            // Nothing more will come: it never ran, or only the past was asked for.
            None => drop(client.shutdown().await),
        }
    });
}

/// Sends what was printed before; false when the client is gone.
async fn send_replay(
    client: &mut (impl AsyncWrite + Unpin),
    mut replay: mpsc::Receiver<brig_engine::Result<Bytes>>,
    framed: bool,
) -> bool {
    while let Some(chunk) = replay.recv().await {
        let bytes = chunk.unwrap_or_else(|error| broken(&error.message, framed));
        if client.write_all(&bytes).await.is_err() {
            return false;
        }
    }
    true
}

/// Copies until the container's output has ended, the client is gone, or the keys were pressed.
async fn copy<C>(client: C, early: Vec<u8>, container: UnixStream, detach: Option<Detector>, stdin: bool)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let (mut client_in, mut client_out) = tokio::io::split(client);
    let (container_out, mut container_in) = container.into_split();
    let output = async {
        let mut output = BufReader::with_capacity(CHUNK, container_out);
        tokio::io::copy_buf(&mut output, &mut client_out).await?;
        client_out.flush().await
    };
    let ended = {
        let input = Input { container: &mut container_in, detach, forward: stdin };
        let input = input.copy(&mut client_in, early);
        tokio::pin!(output);
        tokio::pin!(input);
        tokio::select! {
            result = &mut output => result,
            next = &mut input => match next {
                Next::Leave => Ok(()),
                Next::ReadOn => output.await,
            },
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a hijacked connection ended: {error}");
    }
    // Both sides learn of the end, whichever way it came; either may be gone already.
    client_out.shutdown().await.ok();
    container_in.shutdown().await.ok();
}

/// What happens to a session when its input has ended.
enum Next {
    /// The output goes on.
    ReadOn,
    /// The client is gone or wants to be.
    Leave,
}

/// The way from the client to the container.
struct Input<'a, W> {
    container: &'a mut W,
    detach: Option<Detector>,
    forward: bool,
}

impl<W: AsyncWrite + Unpin> Input<'_, W> {
    async fn copy(mut self, client: &mut (impl AsyncRead + Unpin), early: Vec<u8>) -> Next {
        let mut chunk = early;
        loop {
            if !chunk.is_empty()
                && self.forward
                && let Some(next) = self.pass_on(&chunk).await
            {
                return next;
            }
            chunk.resize(CHUNK, 0);
            match client.read(&mut chunk).await {
                Ok(0) => break,
                Ok(count) => chunk.truncate(count),
                // The client is gone altogether, not just done with its input.
                Err(_) => return Next::Leave,
            }
        }
        if !self.forward {
            return Next::ReadOn;
        }
        if let Some(detector) = &mut self.detach {
            let mut held_back = Vec::new();
            detector.finish(&mut held_back);
            if self.container.write_all(&held_back).await.is_err() {
                return Next::ReadOn;
            }
        }
        // The end of input is passed on; a container that is gone already does not need it.
        self.container.shutdown().await.ok();
        Next::ReadOn
    }

    /// Writes what is not the detach keys; an answer means that this was the end.
    async fn pass_on(&mut self, chunk: &[u8]) -> Option<Next> {
        let Some(detector) = &mut self.detach else {
            // A container that takes no more input may still have output.
            return self.container.write_all(chunk).await.is_err().then_some(Next::ReadOn);
        };
        let mut keys = Vec::with_capacity(chunk.len());
        let detached = detector.feed(chunk, &mut keys);
        let written = self.container.write_all(&keys).await;
        if detached { Some(Next::Leave) } else { written.is_err().then_some(Next::ReadOn) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use brig_api::detach;
    use std::time::Duration;

    struct Ends {
        client: UnixStream,
        container: UnixStream,
        task: tokio::task::JoinHandle<()>,
    }

    fn session(early: &[u8], keys: Option<&str>) -> Ends {
        let (client, here) = UnixStream::pair().unwrap();
        let (container, there) = UnixStream::pair().unwrap();
        let detach = keys.map(|keys| Detector::new(detach::parse(keys).unwrap()));
        let task = tokio::spawn(copy(here, early.to_vec(), there, detach, true));
        Ends { client, container, task }
    }

    #[tokio::test]
    async fn output_goes_on_after_the_end_of_input() {
        let Ends { mut client, mut container, task } = session(b"early ", None);
        client.write_all(b"late").await.unwrap();
        client.shutdown().await.unwrap();
        let mut input = String::new();
        container.read_to_string(&mut input).await.unwrap();
        assert_eq!(input, "early late");
        container.write_all(b"after").await.unwrap();
        drop(container);
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        assert_eq!(output, "after");
        task.await.unwrap();
    }

    #[tokio::test]
    async fn the_end_of_output_ends_the_session_though_input_is_open() {
        let Ends { mut client, container, task } = session(b"", None);
        drop(container);
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        assert_eq!(output, "");
        tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_keys_end_it_and_do_not_reach_the_container() {
        let Ends { mut client, mut container, task } = session(b"ls", Some(""));
        client.write_all(b"\x10").await.unwrap();
        client.write_all(b"\x11more").await.unwrap();
        tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
        let mut input = String::new();
        container.read_to_string(&mut input).await.unwrap();
        assert_eq!(input, "ls");
        let mut output = Vec::new();
        // Input that nobody read any more may reset the connection; what was sent before arrives.
        client.read_to_end(&mut output).await.ok();
        assert!(output.is_empty());
    }

    /// A connection whose requests are all hijacked, to a container that starts when the sender is used.
    fn hijacking(tty: bool) -> (UnixStream, oneshot::Sender<UnixStream>) {
        let (client, there) = UnixStream::pair().unwrap();
        let (started, container) = oneshot::channel();
        let container = std::sync::Mutex::new(Some(container));
        let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            let upgrade = request.extensions_mut().remove::<OnUpgrade>().unwrap();
            let container = container.lock().unwrap().take();
            let session = Session { replay: None, container, framed: !tty, detach: None, stdin: true };
            run(upgrade, std::future::ready(session));
            std::future::ready(Ok::<_, std::convert::Infallible>(switching(!tty, Version::one(42))))
        });
        tokio::spawn(async move {
            let socket = TokioIo::new(Socket::new(crate::socket::Transport::Unix(there)));
            hyper::server::conn::http1::Builder::new().serve_connection(socket, service).with_upgrades().await.unwrap();
        });
        (client, started)
    }

    async fn read_head(client: &mut UnixStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    #[tokio::test]
    async fn early_input_and_its_end_reach_a_container_that_starts_later() {
        for upgrade in ["", "Connection: Upgrade\r\nUpgrade: tcp\r\n"] {
            let (mut client, started) = hijacking(false);
            let request = format!("POST /containers/x/attach HTTP/1.1\r\nHost: d\r\n{upgrade}\r\nearly ");
            client.write_all(request.as_bytes()).await.unwrap();
            let head = read_head(&mut client).await;
            if upgrade.is_empty() {
                assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
                assert!(!head.to_lowercase().contains("upgrade"), "{head}");
            } else {
                assert!(head.starts_with("HTTP/1.1 101 UPGRADED\r\n"), "{head}");
                assert!(head.to_lowercase().contains("upgrade: tcp"), "{head}");
            }
            assert!(head.contains("application/vnd.docker.multiplexed-stream"), "{head}");
            assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
            client.write_all(b"late").await.unwrap();
            client.shutdown().await.unwrap();
            let (mut container, there) = UnixStream::pair().unwrap();
            started.send(there).unwrap();
            let mut input = String::new();
            container.read_to_string(&mut input).await.unwrap();
            assert_eq!(input, "early late");
            container.write_all(b"output").await.unwrap();
            drop(container);
            let mut output = String::new();
            client.read_to_string(&mut output).await.unwrap();
            assert_eq!(output, "output");
        }
    }

    #[tokio::test]
    async fn a_client_that_closes_its_side_with_the_request_is_still_attached() {
        let (mut client, started) = hijacking(true);
        client.write_all(b"POST /v1.41/exec/x/start HTTP/1.1\r\nHost: d\r\n\r\nall").await.unwrap();
        client.shutdown().await.unwrap();
        let head = read_head(&mut client).await;
        assert!(head.contains("application/vnd.docker.raw-stream"), "{head}");
        let (mut container, there) = UnixStream::pair().unwrap();
        started.send(there).unwrap();
        let mut input = String::new();
        container.read_to_string(&mut input).await.unwrap();
        assert_eq!(input, "all");
        container.write_all(b"done").await.unwrap();
        drop(container);
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        assert_eq!(output, "done");
    }

    #[tokio::test]
    async fn a_container_that_never_starts_ends_the_session() {
        let (mut client, started) = hijacking(true);
        client.write_all(b"POST /containers/x/attach HTTP/1.1\r\nHost: d\r\n\r\n").await.unwrap();
        read_head(&mut client).await;
        drop(started);
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        assert_eq!(output, "");
    }

    #[tokio::test]
    async fn megabytes_pass_in_both_directions() {
        let Ends { client, container, task } = session(b"", None);
        let data = vec![7u8; 3 << 20];
        let (mut read, mut write) = client.into_split();
        let (mut inner_read, mut inner_write) = container.into_split();
        let echo = tokio::spawn(async move {
            tokio::io::copy(&mut inner_read, &mut inner_write).await.unwrap();
            inner_write.shutdown().await.unwrap();
        });
        let sent = data.clone();
        let sender = tokio::spawn(async move {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut back = Vec::new();
        read.read_to_end(&mut back).await.unwrap();
        assert_eq!(back.len(), data.len());
        sender.await.unwrap();
        echo.await.unwrap();
        task.await.unwrap();
    }
}
