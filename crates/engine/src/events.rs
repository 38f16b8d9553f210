//! What happened: a bounded history and a stream for those who listen. Owns the bus; must not know why things happen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use brig_api::events::{Actor, Message};
use brig_api::filters::Filters;
use jiff::Timestamp;
use tokio::sync::{broadcast, mpsc};

/// How many past events `--since` can reach (Docker keeps as many).
const HISTORY: usize = 256;
/// How far a listener may lag before it loses events.
const LAG: usize = 1024;

/// The bus.
pub struct Events {
    past: Mutex<VecDeque<Message>>,
    live: broadcast::Sender<Message>,
}

impl Default for Events {
    fn default() -> Self {
        Self { past: Mutex::default(), live: broadcast::channel(LAG).0 }
    }
}

impl Events {
    /// Tells that unused things of this kind were removed, and how many bytes that gave back.
    pub fn pruned(&self, kind: &str, reclaimed: u64) {
        self.emit(kind, "prune", "", [("reclaimed".to_owned(), reclaimed.to_string())].into());
    }

    /// Tells everybody that `action` happened to the `kind` of thing with this id.
    pub fn emit(&self, kind: &str, action: &str, id: &str, attributes: BTreeMap<String, String>) {
        let now = Timestamp::now();
        let is_container = kind == "container";
        let old_form = is_container || kind == "image";
        let message = Message {
            status: if old_form { action.into() } else { String::new() },
            id: if old_form { id.into() } else { String::new() },
            from: if is_container { attributes.get("image").cloned().unwrap_or_default() } else { String::new() },
            type_: kind.into(),
            action: action.into(),
            actor: Actor { id: id.into(), attributes: Some(attributes) },
            scope: "local".into(),
            time: now.as_second(),
            time_nano: i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX),
        };
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == HISTORY {
            past.pop_front();
        }
        past.push_back(message.clone());
        // Sent under the lock, so that a subscriber sees each event either in the past or live. Nobody listening is fine.
        self.live.send(message).ok();
    }

    /// Past events from `since` on, then live ones until `until`; the stream ends when the listener lags too far.
    pub fn subscribe(
        &self,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        filters: Filters,
    ) -> mpsc::Receiver<Message> {
        let (sender, receiver) = mpsc::channel(64);
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let mut live = self.live.subscribe();
        let wanted = |message: &Message| since.is_some_and(|since| message.time_nano >= nanoseconds(since));
        let replay: Vec<Message> = past.iter().filter(|m| wanted(m)).cloned().collect();
        drop(past);
        let until_nano = until.map(nanoseconds);
        tokio::spawn(async move {
            for message in replay {
                let within = until_nano.is_none_or(|until| message.time_nano <= until);
                if within && matches(&filters, &message) && sender.send(message).await.is_err() {
                    return;
                }
            }
            let deadline = async {
                match until {
                    Some(until) => {
                        // The client has named the time.
                        let left = until.duration_since(Timestamp::now());
                        tokio::time::sleep(std::time::Duration::try_from(left).unwrap_or_default()).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::pin!(deadline);
            loop {
                tokio::select! {
                    biased;
                    message = live.recv() => {
                        let Ok(message) = message else { return };
                        if matches(&filters, &message) && sender.send(message).await.is_err() {
                            return;
                        }
                    }
                    () = &mut deadline => return,
                    () = sender.closed() => return,
                }
            }
        });
        receiver
    }
}

fn nanoseconds(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX)
}

/// A name without its tag and digest; a registry's port is no tag.
fn without_tag(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or(name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// Docker's event filters: the kinds are alternatives within a key, all keys must match.
fn matches(filters: &Filters, message: &Message) -> bool {
    let attribute =
        |name: &str| message.actor.attributes.as_ref().and_then(|all| all.get(name)).cloned().unwrap_or_default();
    filters.keys().all(|key| {
        filters.get(key).any(|wanted| match key {
            "type" => message.type_ == wanted,
            "event" => message.action == wanted || message.action.split(':').next() == Some(wanted),
            "scope" => message.scope == wanted,
            "label" => {
                let labels = message.actor.attributes.iter().flatten();
                labels.into_iter().any(|(name, value)| match wanted.split_once('=') {
                    Some((n, v)) => name == n && value == v,
                    None => name == wanted,
                })
            }
            "image" => {
                let image = if message.type_ == "image" { attribute("name") } else { attribute("image") };
                [&message.actor.id, &image].into_iter().any(|name| name == wanted || without_tag(name) == wanted)
            }
            kind => message.type_ == kind && (message.actor.id.starts_with(wanted) || attribute("name") == wanted),
        })
    })
}
