//! A request's body as handlers get it. Owns what happens to the part that nobody reads: a client that is still sending
//! when its answer is there must be able to finish, or it sees a broken pipe where it should see the answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

/// How long what is left of a body is read for nobody.
const DRAIN: Duration = Duration::from_secs(10);

/// How long a client may pause meanwhile: one that says no more gets its connection closed.
const PAUSE: Duration = Duration::from_secs(1);

/// The body. `Presence` is held until its end: the connection takes no other request before.
pub struct RequestBody {
    incoming: Option<Incoming>,
    presence: Option<Arc<dyn Send + Sync>>,
}

impl RequestBody {
    /// A body that came with a request.
    pub fn new(incoming: Incoming, presence: Arc<dyn Send + Sync>) -> Self {
        Self { incoming: Some(incoming), presence: Some(presence) }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match &mut self.get_mut().incoming {
            Some(incoming) => Pin::new(incoming).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let (incoming, presence) = (self.incoming.take(), self.presence.take());
        let Some(mut incoming) = incoming.filter(|incoming| !incoming.is_end_stream()) else { return };
        // Outside of a runtime there is no connection left to read from.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let rest = async { while let Ok(Some(Ok(_))) = tokio::time::timeout(PAUSE, incoming.frame()).await {} };
            if tokio::time::timeout(DRAIN, rest).await.is_err() {
                tracing::debug!("a client sends a body on that nobody reads");
            }
            drop(presence);
        });
    }
}
