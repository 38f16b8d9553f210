//! The kernel's memory of connections, where it outlives a published port.
//! Owns forgetting UDP flows: a client that keeps sending from one port refreshes its entry for ever and would
//! go on talking to nobody, or to the container that had the address before. Must not decide which are stale.
//!
//! Numbers: linux/include/uapi/linux/netfilter/nfnetlink_conntrack.h.

use std::net::IpAddr;

use brig_sys::netlink::{Attributes, DUMP, Family, Message, Socket};
use rustix::io::Errno;

use crate::net::Protocol;

const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const HEADER: usize = 4;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_ID: u16 = 12;
const NESTED: u16 = 0x8000;

/// A tracked flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Where its first packet was sent.
    pub(crate) destination: IpAddr,
    /// The port there.
    pub(crate) port: u16,
    /// Who answers: the container, if the port is translated.
    pub(crate) answered_by: IpAddr,
}

/// Forgets the tracked flows of `protocol` that `stale` picks. Returns how many.
pub(crate) fn forget(
    socket: &mut Socket,
    protocol: Protocol,
    stale: impl Fn(&Flow) -> bool,
) -> brig_sys::Result<usize> {
    let mut list = Message::new(GET, DUMP, "conntrack list");
    list.raw(&[0; HEADER]);
    let mut doomed = Vec::new();
    let listed = socket.ask(list, |answer| {
        let attributes = answer.attributes(HEADER);
        let family = answer.body.first().copied().unwrap_or_default();
        let Some(tuple) = attributes.find(CTA_TUPLE_ORIG) else {
            return;
        };
        if Attributes(tuple).nested(CTA_TUPLE_PROTO).find(CTA_PROTO_NUM) == Some(&[protocol.number()])
            && flow(attributes).is_some_and(|flow| stale(&flow))
        {
            doomed.push((family, tuple.to_vec(), attributes.find(CTA_ID).map(<[u8]>::to_vec)));
        }
    });
    match listed {
        // A list that changed meanwhile still named what was there when we came by.
        Err(error) if error.errno == Errno::INTR => {}
        other => other?,
    }
    let mut forgotten = 0;
    for (family, tuple, id) in doomed {
        let mut message = Message::new(DELETE, 0, "conntrack delete");
        message.raw(&[family, 0, 0, 0]).attr(CTA_TUPLE_ORIG | NESTED, &tuple);
        if let Some(id) = id {
            message.attr(CTA_ID, &id);
        }
        match socket.execute(&mut [message]) {
            Ok(()) => forgotten += 1,
            // It timed out by itself, or was replaced.
            Err(error) if error.errno == Errno::NOENT => {}
            Err(error) => return Err(error),
        }
    }
    Ok(forgotten)
}

fn flow(attributes: Attributes<'_>) -> Option<Flow> {
    let address = |tuple: Attributes<'_>, v4: u16, v6: u16| -> Option<IpAddr> {
        let ip = tuple.nested(CTA_TUPLE_IP);
        let v4 = ip.find(v4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(IpAddr::from);
        v4.or_else(|| ip.find(v6).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(IpAddr::from))
    };
    let original = attributes.nested(CTA_TUPLE_ORIG);
    let port = original.nested(CTA_TUPLE_PROTO).find(CTA_PROTO_DST_PORT)?;
    Some(Flow {
        destination: address(original, 2, 4)?,
        port: u16::from_be_bytes(port.try_into().ok()?),
        answered_by: address(attributes.nested(CTA_TUPLE_REPLY), 1, 3)?,
    })
}

/// A socket for [`forget`] in the calling thread's network namespace.
pub(crate) fn open() -> brig_sys::Result<Socket> {
    Socket::open(Family::Netfilter)
}
