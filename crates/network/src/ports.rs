//! Host ports: which are taken, and a real socket on each so that every other program sees it too.
//! Owns claims and the choice of free ports. Translating packets is `firewall`'s; these sockets never answer.
//!
//! A claim's socket drops what reaches it instead of refusing it. While someone else has flushed the firewall,
//! established connections and new ones therefore wait for the healed table instead of being reset.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;

use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, ipproto, sockopt};

use crate::Port;
use crate::error::{Error, ErrorKind, Result};
use crate::net::Protocol;

/// Where ports are taken from when none is named.
pub const EPHEMERAL: RangeInclusive<u16> = 32768..=60999;

/// How many UDP sockets are remembered after they were given back. It matters for the instant in which a child
/// process is started; whoever gives back more at once and wants one of the first again at once may be refused.
const REMEMBERED: usize = 4096;

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
    socket: Option<OwnedFd>,
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

impl Drop for Claim {
    /// Closing gives the port back only when no copy is left, and a program that some thread is just starting has
    /// copies of all descriptors until it executes. A listener that is shut down is in nobody's way meanwhile.
    /// (The kernel cannot do that to SCTP's; for UDP see [`Keeper::open`].)
    fn drop(&mut self) {
        if let (Protocol::Tcp, Some(socket)) = (self.protocol, &self.socket)
            && let Err(errno) = rustix::net::shutdown(socket, Shutdown::Both)
        {
            tracing::warn!(%errno, port = self.host_port, "a claimed port could not be shut down");
        }
    }
}

/// Every claim of this process. All calls must be made in the network namespace that the ports belong to.
#[derive(Debug)]
pub(crate) struct Keeper {
    claims: BTreeMap<String, Vec<Claim>>,
    next: u16,
    /// Inodes of UDP sockets that were given back and of which children may have copies for a moment.
    given_back: VecDeque<u64>,
}

impl Keeper {
    pub(crate) fn new() -> Keeper {
        Keeper { claims: BTreeMap::new(), next: *EPHEMERAL.start(), given_back: VecDeque::new() }
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
        let socket = self.open(host_ip, host_port, protocol)?;
        let claim = Claim { host_ip, host_port, protocol, socket };
        self.claims.entry(owner.to_owned()).or_default().push(claim);
        Ok(())
    }

    /// A socket on the port. Where only copies of a UDP socket that was given back are in the way (see
    /// [`Claim::drop`]), it is shared with them: both sides say so, and the claim takes it back at once.
    fn open(&self, host_ip: IpAddr, host_port: u16, protocol: Protocol) -> Result<Option<OwnedFd>> {
        let error = match open(host_ip, host_port, protocol, protocol != Protocol::Udp) {
            Err(error) if error.kind == ErrorKind::PortInUse && protocol == Protocol::Udp => error,
            other => return other,
        };
        let held_by = held_by(host_ip, host_port)
            .map_err(|cause| Error::new(ErrorKind::System, format!("{error}; who has it is not known: {cause}")))?;
        if !held_by.iter().all(|inode| self.given_back.contains(inode)) {
            return Err(error);
        }
        let socket = open(host_ip, host_port, protocol, true)?;
        if let Some(socket) = &socket {
            share(socket, false)?;
        }
        Ok(socket)
    }

    fn give_back(&mut self, which: impl Fn(&str, &Claim) -> bool) {
        let mut claims = Vec::new();
        self.claims.retain(|owner, held| {
            claims.extend(held.extract_if(.., |claim| which(owner, claim)));
            !held.is_empty()
        });
        for claim in claims.iter().filter(|claim| claim.protocol == Protocol::Udp) {
            let Some(socket) = &claim.socket else { continue };
            let inode = rustix::fs::fstat(socket).map(|stat| stat.st_ino);
            match inode
                .map_err(|errno| failed("fstat(socket)", errno))
                .and_then(|inode| share(socket, true).map(|()| inode))
            {
                Ok(inode) => self.given_back.push_back(inode),
                Err(error) => {
                    tracing::warn!(%error, port = claim.host_port, "a port that is given back may be busy for a moment")
                }
            }
        }
        let surplus = self.given_back.len().saturating_sub(REMEMBERED);
        self.given_back.drain(..surplus);
    }

    /// Whether `owner` holds this port.
    pub(crate) fn holds(&self, owner: &str, port: &Port) -> bool {
        let mut claims = self.claims.get(owner).into_iter().flatten();
        claims.any(|claim| claim.is(port.host_ip, port.host_port, port.protocol))
    }

    /// Gives up these ports of `owner`.
    pub(crate) fn release_ports(&mut self, owner: &str, ports: &[Port]) {
        self.give_back(|of, claim| {
            of == owner && ports.iter().any(|port| claim.is(port.host_ip, port.host_port, port.protocol))
        });
    }

    /// Gives up everything that `owner` holds.
    pub(crate) fn release(&mut self, owner: &str) {
        self.give_back(|of, _| of == owner);
    }

    /// Gives up everything of owners that `keep` does not name.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.give_back(|owner, _| !keep(owner));
    }
}

/// The inodes of this namespace's UDP sockets that are in the way of one at this address (proc(5), net/udp).
fn held_by(host_ip: IpAddr, host_port: u16) -> std::io::Result<Vec<u64>> {
    // Addresses stand there as 32-bit words in the machine's byte order.
    let words: Vec<u8> = match host_ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let word =
        |bytes: &[u8]| format!("{:08X}", bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte)).to_le());
    let own: String = words.chunks(4).map(word).collect();
    let mut inodes = Vec::new();
    for table in ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"] {
        let text = match std::fs::read_to_string(table) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other?,
        };
        inodes.extend(text.lines().filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (address, port) = fields.nth(1)?.split_once(':')?;
            let met = host_ip.is_unspecified() || address == own || address.bytes().all(|digit| digit == b'0');
            let here = u16::from_str_radix(port, 16).ok()? == host_port;
            if met && here { fields.nth(7)?.parse::<u64>().ok() } else { None }
        }));
    }
    Ok(inodes)
}

/// Whether the port of the socket may be had by others that agree to that as well.
fn share(socket: &OwnedFd, shared: bool) -> Result<()> {
    sockopt::set_socket_reuseaddr(socket, shared).map_err(|errno| failed("setsockopt(SO_REUSEADDR)", errno))
}

fn failed(call: &str, errno: Errno) -> Error {
    Error::new(ErrorKind::System, format!("{call}: {}", reason(errno)))
}

fn open(host_ip: IpAddr, host_port: u16, protocol: Protocol, reuse: bool) -> Result<Option<OwnedFd>> {
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
    if reuse {
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

    /// As a child process has that is being started while the port changes hands: a copy of every descriptor.
    fn copies(keeper: &Keeper) -> Vec<OwnedFd> {
        let sockets = keeper.claims.values().flatten().filter_map(|claim| claim.socket.as_ref());
        sockets.map(|socket| socket.try_clone().expect("dup")).collect()
    }

    #[test]
    fn a_port_is_free_again_although_a_child_that_is_starting_has_a_copy() {
        sealed(|| {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let mut keeper = Keeper::new();
                let wishes = [
                    wish(None, Some("8080"), protocol),
                    wish(Some("127.0.0.1"), Some("8081"), protocol),
                    wish(Some("::1"), Some("8082"), protocol),
                ];
                for round in 0..3 {
                    keeper.reserve("a", &wishes).unwrap_or_else(|error| panic!("{protocol}, round {round}: {error}"));
                    let copies = copies(&keeper);
                    assert_eq!(copies.len(), wishes.len());
                    keeper.release("a");
                    keeper.reserve("b", &wishes).unwrap_or_else(|error| panic!("{protocol}, round {round}: {error}"));
                    assert!(std::net::UdpSocket::bind("127.0.0.1:8081").is_err() || protocol != Protocol::Udp);
                    drop(copies);
                    keeper.release("b");
                }
            }
        });
    }

    #[test]
    fn a_udp_port_that_another_program_has_meanwhile_is_refused_however_ready_to_share_it_is() {
        sealed(|| {
            let mut keeper = Keeper::new();
            let wishes = [wish(None, Some("5353"), Protocol::Udp)];
            keeper.reserve("a", &wishes).expect("free");
            let copies = copies(&keeper);
            keeper.release("a");
            let foreign = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).expect("socket");
            sockopt::set_socket_reuseaddr(&foreign, true).expect("SO_REUSEADDR");
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 5353));
            rustix::net::bind(&foreign, &address).expect("given back");
            let error = keeper.reserve("a", &wishes).expect_err("foreign");
            assert_eq!(error.to_string(), "failed to bind host port 0.0.0.0:5353/udp: address already in use");
            drop(foreign);
            keeper.reserve("a", &wishes).expect("only copies of ours");
            let second = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).expect("socket");
            sockopt::set_socket_reuseaddr(&second, true).expect("SO_REUSEADDR");
            assert_eq!(rustix::net::bind(&second, &address), Err(Errno::ADDRINUSE), "what is claimed is not shared");
            drop(copies);
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
