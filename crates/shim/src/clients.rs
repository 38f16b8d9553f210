//! All clients of one shim.
//!
//! Owns: who is connected, whom an event or a piece of output goes to, and who holds the container back. Must not: carry out
//! requests.

use std::os::unix::net::{UnixListener, UnixStream};

use serde::Serialize;

use crate::connection::{Connection, Role};
use crate::protocol::{Answer, Channel, Event, Failure, Streams, encode};
use crate::streams::SessionId;

/// The connected clients.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    list: Vec<Connection>,
    next: u64,
}

impl Clients {
    /// Takes a new client and returns its number.
    pub(crate) fn add(&mut self, socket: UnixStream, role: Role) -> std::io::Result<u64> {
        self.next += 1;
        self.list.push(Connection::new(self.next, socket, role)?);
        Ok(self.next)
    }

    /// Takes everyone who waits at `listener`.
    pub(crate) fn accept(&mut self, listener: &UnixListener) {
        // Errors mean that the client has gone again or that descriptors ran out; either way the loop goes on.
        while let Ok((socket, _)) = listener.accept() {
            if self.add(socket, Role::Requests).is_err() {
                break;
            }
        }
    }

    /// Answers the oldest request of a client.
    pub(crate) fn answer<T: Serialize>(&mut self, id: u64, outcome: Result<T, Failure>) {
        let answer = match outcome {
            Ok(value) => Answer::Ok(value),
            Err(failure) => Answer::Error(failure),
        };
        if let Some(client) = self.get(id) {
            client.send(&encode(&answer));
        }
    }

    /// From now on the connection carries streams of `session`, raw or in frames.
    pub(crate) fn turn_into_streams(&mut self, id: u64, session: SessionId, streams: Streams, raw: bool) {
        if let Some(client) = self.get(id) {
            client.role = Role::Streams(session, streams);
            client.raw = raw;
            if !streams.any() {
                client.finish();
            }
        }
    }

    /// One client.
    pub(crate) fn get(&mut self, id: u64) -> Option<&mut Connection> {
        self.list.iter_mut().find(|client| client.id == id)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.list.iter()
    }

    /// Sends an event to every subscriber.
    pub(crate) fn tell(&mut self, event: &Event) {
        self.list.iter_mut().for_each(|client| client.tell(event));
    }

    /// Sends output to everyone attached to it.
    pub(crate) fn fan_out(&mut self, session: SessionId, channel: Channel, output: &[u8]) {
        let attached = self.list.iter_mut().filter(|client| client.takes(session, channel));
        attached.for_each(|client| client.send_output(channel, output));
    }

    /// Whether everyone attached to this output can take more.
    pub(crate) fn have_room(&self, session: SessionId, channel: Channel) -> bool {
        self.list.iter().all(|client| !client.takes(session, channel) || client.has_room())
    }

    /// The streams of `session` have ended: close them once the clients have everything.
    pub(crate) fn finish(&mut self, session: SessionId) {
        let attached =
            self.list.iter_mut().filter(|client| matches!(client.role, Role::Streams(id, _) if id == session));
        attached.for_each(Connection::finish);
    }

    /// Drops those that are done or gone.
    pub(crate) fn forget_over(&mut self) {
        self.list.retain(|client| !client.is_over());
    }

    /// Ends the subscribers' connections once they have everything.
    pub(crate) fn dismiss_subscribers(&mut self) {
        let subscribers = self.list.iter_mut().filter(|client| client.role == Role::Subscriber);
        subscribers.for_each(Connection::finish);
    }

    /// Whether anybody receives events.
    pub(crate) fn has_subscriber(&self) -> bool {
        self.list.iter().any(|client| client.role == Role::Subscriber)
    }

    /// Whether anybody has not yet received what is waiting.
    pub(crate) fn has_unread(&self) -> bool {
        self.list.iter().any(Connection::has_unread)
    }
}
