//! Host ports: which are taken, and a real socket on each so that every other program sees it too.
//! Owns claims and the choice of free ports. Translating packets is `firewall`'s; these sockets never answer.
//!
//! A claim's socket drops what reaches it instead of refusing it. While someone else has flushed the firewall,
//! established connections and new ones therefore wait for the healed table instead of being reset.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use crate::Port;
use crate::error::{Error, ErrorKind, Result};
use crate::net::Protocol;

/// Where ports are taken from when none is named.
pub const EPHEMERAL: RangeInclusive<u16> = 32768..=60999;

/// One port or a range of ports, as `8080` or `8000-8010`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port, at least `first`.
    pub last: u16,
}

impl PortRange {
    /// How many ports it spans.
    pub fn count(&self) -> usize {
        usize::from(self.last - self.first) + 1
    }
}

impl FromStr for PortRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<PortRange> {
        let port = |text: &str| -> Option<u16> {
            // Digits only: "+80" and " 80" are not ports.
            if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) { None } else { text.parse().ok() }
        };
        let range = match text.split_once('-') {
            None => port(text).map(|first| PortRange { first, last: first }),
            Some((first, last)) => port(first).zip(port(last)).map(|(first, last)| PortRange { first, last }),
        };
        match range {
            Some(range) if range.first <= range.last => Ok(range),
            Some(_) => Err(Error::new(ErrorKind::Invalid, format!("invalid range specified for port: {text}"))),
            None => Err(Error::new(ErrorKind::Invalid, format!("invalid port specification: \"{text}\""))),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// A wish to publish a container's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// The host's address; `None` or 0.0.0.0 for all IPv4 ones, :: for all IPv6 ones. `None` claims nothing for
    /// IPv6: an IPv6 packet can't be translated to a container's IPv4 address, and a listener that nobody serves
    /// would let clients of `localhost` hang instead of trying 127.0.0.1 next.
    pub host_ip: Option<IpAddr>,
    /// The port on the host, or a range to take the first free one of; `None` for any free port.
    pub host_ports: Option<PortRange>,
    /// The port in the container.
    pub container_port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

#[derive(Debug)]
struct Claim {
    host_ip: IpAddr,
    host_port: u16,
    protocol: Protocol,
    /// Held for its existence; `None` where the kernel has no such protocol.
    _socket: Option<OwnedFd>,
}

impl Claim {
    fn is(&self, host_ip: IpAddr, host_port: u16, protocol: Protocol) -> bool {
        self.host_ip == host_ip && self.host_port == host_port && self.protocol == protocol
    }

    fn conflicts(&self, host_ip: IpAddr, host_port: u16, protocol: Protocol) -> bool {
        self.host_port == host_port
            && self.protocol == protocol
            && self.host_ip.is_ipv4() == host_ip.is_ipv4()
            && (self.host_ip == host_ip || self.host_ip.is_unspecified() || host_ip.is_unspecified())
    }
}

/// Every claim of this process. All calls must be made in the network namespace that the ports belong to.
#[derive(Debug)]
pub(crate) struct Keeper {
    claims: BTreeMap<String, Vec<Claim>>,
    next: u16,
}

impl Keeper {
    pub(crate) fn new() -> Keeper {
        Keeper { claims: BTreeMap::new(), next: *EPHEMERAL.start() }
    }

    /// Finds and claims a host port for each wish; if one can't be had, none is kept.
    pub(crate) fn reserve(&mut self, owner: &str, wishes: &[Publish]) -> Result<Vec<Port>> {
        let mut ports = Vec::with_capacity(wishes.len());
        for wish in wishes {
            match self.reserve_one(owner, wish) {
                Ok(port) => ports.push(port),
                Err(error) => {
                    self.release_ports(owner, &ports);
                    return Err(error);
                }
            }
        }
        Ok(ports)
    }

    fn reserve_one(&mut self, owner: &str, wish: &Publish) -> Result<Port> {
        let host_ip = wish.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let port =
            |host_port| Port { host_ip, host_port, container_port: wish.container_port, protocol: wish.protocol };
        let wanted = wish.host_ports.filter(|range| *range != PortRange { first: 0, last: 0 });
        if let Some(range) = wanted {
            let mut last = None;
            for host_port in range.first..=range.last {
                match self.claim(owner, &port(host_port)) {
                    Ok(()) => return Ok(port(host_port)),
                    Err(error) if error.kind == ErrorKind::PortInUse => last = Some(error),
                    Err(error) => return Err(error),
                }
            }
            return Err(match last {
                Some(error) if range.count() == 1 => error,
                _ => Error::new(
                    ErrorKind::PortInUse,
                    format!("Bind for {host_ip}:{range} failed: all ports of the range are already allocated"),
                ),
            });
        }
        for _ in EPHEMERAL {
            let candidate = self.next;
            self.next = if candidate == *EPHEMERAL.end() { *EPHEMERAL.start() } else { candidate + 1 };
            match self.claim(owner, &port(candidate)) {
                Ok(()) => return Ok(port(candidate)),
                Err(error) if error.kind == ErrorKind::PortInUse => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(
            ErrorKind::PortInUse,
            format!(
                "no free port for {host_ip} between {} and {}: name one with --publish",
                EPHEMERAL.start(),
                EPHEMERAL.end()
            ),
        ))
    }

    /// Claims `port` for `owner`; that the owner has it already is fine.
    pub(crate) fn claim(&mut self, owner: &str, port: &Port) -> Result<()> {
        let Port { host_ip, host_port, protocol, .. } = *port;
        if self
            .claims
            .get(owner)
            .is_some_and(|claims| claims.iter().any(|claim| claim.is(host_ip, host_port, protocol)))
        {
            return Ok(());
        }
        if self.claims.values().flatten().any(|claim| claim.conflicts(host_ip, host_port, protocol)) {
            let address = SocketAddr::new(host_ip, host_port);
            let message = format!("Bind for {address} failed: port is already allocated");
            return Err(Error::new(ErrorKind::PortInUse, message));
        }
        let socket = open(host_ip, host_port, protocol)?;
        let claim = Claim { host_ip, host_port, protocol, _socket: socket };
        self.claims.entry(owner.to_owned()).or_default().push(claim);
        Ok(())
    }

    /// Whether `owner` holds this port.
    pub(crate) fn holds(&self, owner: &str, port: &Port) -> bool {
        let mut claims = self.claims.get(owner).into_iter().flatten();
        claims.any(|claim| claim.is(port.host_ip, port.host_port, port.protocol))
    }

    /// Gives up these ports of `owner`.
    pub(crate) fn release_ports(&mut self, owner: &str, ports: &[Port]) {
        if let Some(claims) = self.claims.get_mut(owner) {
            claims.retain(|claim| !ports.iter().any(|port| claim.is(port.host_ip, port.host_port, port.protocol)));
            if claims.is_empty() {
                self.claims.remove(owner);
            }
        }
    }

    /// Gives up everything that `owner` holds.
    pub(crate) fn release(&mut self, owner: &str) {
        self.claims.remove(owner);
    }

    /// Gives up everything of owners that `keep` does not name.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.claims.retain(|owner, _| keep(owner));
    }
}

fn open(host_ip: IpAddr, host_port: u16, protocol: Protocol) -> Result<Option<OwnedFd>> {
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, None),
        Protocol::Udp => (SocketType::DGRAM, None),
        Protocol::Sctp => (SocketType::STREAM, Some(ipproto::SCTP)),
    };
    let family = if host_ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let failed = |errno: Errno| {
        let address = SocketAddr::new(host_ip, host_port);
        let kind = match errno {
            Errno::ADDRINUSE => ErrorKind::PortInUse,
            Errno::ADDRNOTAVAIL => ErrorKind::NoAddress,
            _ => ErrorKind::System,
        };
        Error::new(kind, format!("failed to bind host port {address}/{protocol}: {}", reason(errno)))
    };
    let socket = match rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, number) {
        Ok(socket) => socket,
        // SCTP is often a module that is not loaded; translation works without the socket.
        Err(_) if protocol == Protocol::Sctp => return Ok(None),
        Err(errno) => return Err(failed(errno)),
    };
    if protocol != Protocol::Udp {
        // Connections of an earlier holder may still be in TIME_WAIT.
        sockopt::set_socket_reuseaddr(&socket, true).map_err(failed)?;
    }
    if host_ip.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true).map_err(failed)?;
    }
    brig_sys::netns::deafen(socket.as_fd())?;
    rustix::net::bind(&socket, &SocketAddr::new(host_ip, host_port)).map_err(failed)?;
    if protocol != Protocol::Udp {
        rustix::net::listen(&socket, 1).map_err(failed)?;
    }
    Ok(Some(socket))
}

/// As Go, and so Docker, words it.
fn reason(errno: Errno) -> String {
    match errno {
        Errno::ADDRINUSE => "address already in use".to_owned(),
        Errno::ADDRNOTAVAIL => "cannot assign requested address".to_owned(),
        Errno::ACCESS => "permission denied".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn wish(host_ip: Option<&str>, ports: Option<&str>, protocol: Protocol) -> Publish {
        Publish {
            host_ip: host_ip.map(|ip| ip.parse().expect("address")),
            host_ports: ports.map(|ports| ports.parse().expect("ports")),
            container_port: 80,
            protocol,
        }
    }

    /// A namespace of its own with `lo` up, so that no port of the machine is in the way.
    fn sealed(work: impl FnOnce() + Send) {
        let netns = brig_sys::netns::create().expect("namespace");
        brig_sys::netns::inside(netns.as_fd(), || {
            let mut links = crate::link::Links::open().expect("links");
            links.up(crate::link::LOOPBACK).expect("up");
            work();
        })
        .expect("inside");
    }

    #[test]
    fn reads_ranges() {
        assert_eq!("80".parse::<PortRange>().expect("port"), PortRange { first: 80, last: 80 });
        assert_eq!("8000-8010".parse::<PortRange>().expect("range").count(), 11);
        for text in ["", "-", "1-", "-1", "65536", "+80", " 80", "9-8", "a", "1-2-3"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn conflicts_are_named_as_docker_does() {
        sealed(|| {
            let mut keeper = Keeper::new();
            let port = keeper.reserve("a", &[wish(None, Some("8080"), Protocol::Tcp)]).expect("free");
            assert_eq!(port[0].host_port, 8080);
            let error = keeper.reserve("b", &[wish(None, Some("8080"), Protocol::Tcp)]).expect_err("taken");
            assert_eq!(error.to_string(), "Bind for 0.0.0.0:8080 failed: port is already allocated");
            let error =
                keeper.reserve("b", &[wish(Some("127.0.0.1"), Some("8080"), Protocol::Tcp)]).expect_err("taken");
            assert_eq!(error.to_string(), "Bind for 127.0.0.1:8080 failed: port is already allocated");
            keeper.reserve("b", &[wish(None, Some("8080"), Protocol::Udp)]).expect("another protocol");
            assert!(std::net::TcpListener::bind("0.0.0.0:8080").is_err(), "others must see the claim");
            assert!(std::net::UdpSocket::bind("127.0.0.1:8080").is_err(), "others must see the claim");
            keeper.release("a");
            let foreign = std::net::TcpListener::bind("0.0.0.0:8080").expect("released");
            let error = keeper.reserve("a", &[wish(None, Some("8080"), Protocol::Tcp)]).expect_err("foreign");
            assert_eq!(error.to_string(), "failed to bind host port 0.0.0.0:8080/tcp: address already in use");
            drop(foreign);
            let error =
                keeper.reserve("a", &[wish(Some("192.0.2.1"), Some("1"), Protocol::Tcp)]).expect_err("not ours");
            assert_eq!(error.to_string(), "failed to bind host port 192.0.2.1:1/tcp: cannot assign requested address");
        });
    }

    #[test]
    fn a_failed_reservation_keeps_nothing() {
        sealed(|| {
            let mut keeper = Keeper::new();
            keeper.reserve("a", &[wish(None, Some("81"), Protocol::Tcp)]).expect("free");
            let both = [wish(None, Some("80"), Protocol::Tcp), wish(None, Some("81"), Protocol::Tcp)];
            keeper.reserve("b", &both).expect_err("81 is taken");
            keeper.reserve("c", &[wish(None, Some("80"), Protocol::Tcp)]).expect("80 was given back");
        });
    }

    #[test]
    fn ranges_and_ephemeral_ports_skip_what_is_taken() {
        sealed(|| {
            let mut keeper = Keeper::new();
            let foreign = std::net::TcpListener::bind("127.0.0.1:8000").expect("free");
            let range = [wish(None, Some("8000-8002"), Protocol::Tcp)];
            assert_eq!(keeper.reserve("a", &range).expect("free")[0].host_port, 8001);
            assert_eq!(keeper.reserve("b", &range).expect("free")[0].host_port, 8002);
            let error = keeper.reserve("c", &range).expect_err("full");
            assert!(error.to_string().contains("8000-8002"), "{error}");
            drop(foreign);
            let _taken = std::net::TcpListener::bind("0.0.0.0:32769").expect("free");
            let any = wish(None, None, Protocol::Tcp);
            let ports = keeper.reserve("d", &[any.clone(), any.clone(), any]).expect("free");
            let numbers: Vec<u16> = ports.iter().map(|port| port.host_port).collect();
            assert_eq!(numbers, [32768, 32770, 32771]);
        });
    }
}
