//! rtnetlink: links, addresses and routes of one network namespace. Owns the encoding of these requests.
//! Must not decide what is set up where: that is `bridge` and `endpoint`.
//!
//! Numbers: linux/include/uapi/linux/{rtnetlink,if_link,if_addr,veth}.h.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use brig_sys::netlink::{Answer, CREATE, DUMP, EXCL, Family, Message, REPLACE, Socket};
use rustix::io::Errno;

use crate::net::IpNet;

/// The index of `lo` in every network namespace (LOOPBACK_IFINDEX of linux/include/net/flow.h).
pub(crate) const LOOPBACK: u32 = 1;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
const IFF_UP: u32 = 1;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_HAIRPIN: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A link as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) kind: Option<String>,
    pub(crate) alias: Option<String>,
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: IpNet,
    pub(crate) interface: u32,
}

/// What [`Links::create_veth`] makes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Veth<'a> {
    pub(crate) host_name: &'a str,
    pub(crate) alias: &'a str,
    pub(crate) bridge: u32,
    pub(crate) isolated: bool,
    pub(crate) mtu: u32,
    pub(crate) peer_name: &'a str,
    pub(crate) peer_mac: [u8; 6],
    pub(crate) peer_netns: BorrowedFd<'a>,
}

/// A route socket of one network namespace.
#[derive(Debug)]
pub(crate) struct Links(Socket);

fn link_header(index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

impl Links {
    /// A socket in the calling thread's network namespace.
    pub(crate) fn open() -> brig_sys::Result<Links> {
        Socket::open(Family::Route).map(Links)
    }

    /// The link of that name, if there is one.
    pub(crate) fn find(&mut self, name: &str) -> brig_sys::Result<Option<Link>> {
        let mut message = Message::new(RTM_GETLINK, 0, format!("RTM_GETLINK({name:?})"));
        message.raw(&link_header(0, 0, 0)).text(IFLA_IFNAME, name);
        let mut found = None;
        match self.0.ask(message, |answer| found = link_of(&answer)) {
            Err(error) if error.errno == Errno::NODEV => Ok(None),
            other => other.map(|()| found),
        }
    }

    /// Waits until a link that has just got its carrier may carry packets. The kernel does that in its own time
    /// (the link watch work), and what is sent before, such as the first ARP request, is lost for a second.
    /// From Linux 6.8 on asking for the link is enough; before, it takes a moment.
    pub(crate) fn settle(&mut self, name: &str) -> brig_sys::Result<()> {
        const UP: &[u8] = &[6];
        for attempt in 0..50u64 {
            let mut message = Message::new(RTM_GETLINK, 0, format!("RTM_GETLINK({name:?})"));
            message.raw(&link_header(0, 0, 0)).text(IFLA_IFNAME, name);
            let mut up = false;
            self.0.ask(message, |answer| up = answer.attributes(LINK_HEADER).find(IFLA_OPERSTATE) == Some(UP))?;
            if up {
                return Ok(());
            }
            // Asked again rather than listened for: asking itself brings it about on new kernels, and whoever listens gets
            // every change of every link, too many while containers start together.
            std::thread::sleep(std::time::Duration::from_micros(50 * (attempt + 1)));
        }
        // Nothing is broken: the first packets of this link may come late.
        tracing::warn!(name, "the link is not operational after 60 ms");
        Ok(())
    }

    /// Every link.
    pub(crate) fn list(&mut self) -> brig_sys::Result<Vec<Link>> {
        let mut message = Message::new(RTM_GETLINK, DUMP, "RTM_GETLINK(all)");
        message.raw(&link_header(0, 0, 0));
        self.dump(message, |answer| link_of(&answer))
    }

    /// Makes a bridge with this MAC address, so that it does not change as ports come and go.
    pub(crate) fn create_bridge(&mut self, name: &str, mac: [u8; 6], mtu: Option<u32>) -> brig_sys::Result<()> {
        let mut message = Message::new(RTM_NEWLINK, CREATE | EXCL, format!("RTM_NEWLINK({name:?}, bridge)"));
        message.raw(&link_header(0, 0, 0)).text(IFLA_IFNAME, name).attr(IFLA_ADDRESS, &mac);
        if let Some(mtu) = mtu {
            message.u32(IFLA_MTU, mtu);
        }
        message.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "bridge");
        });
        self.0.execute(&mut [message])
    }

    /// Sets a link's MTU.
    pub(crate) fn set_mtu(&mut self, index: u32, mtu: u32) -> brig_sys::Result<()> {
        let mut message = Message::new(RTM_NEWLINK, 0, format!("RTM_NEWLINK(index {index}, mtu {mtu})"));
        message.raw(&link_header(index, 0, 0)).u32(IFLA_MTU, mtu);
        self.0.execute(&mut [message])
    }

    /// Switches a link on.
    pub(crate) fn up(&mut self, index: u32) -> brig_sys::Result<()> {
        self.0.execute(&mut [up_message(index)])
    }

    /// Makes the pair: the host's end up in the bridge, the peer directly in the other namespace under its
    /// final name and MAC, still down.
    pub(crate) fn create_veth(&mut self, veth: Veth<'_>) -> brig_sys::Result<()> {
        let call = format!("RTM_NEWLINK({:?}, veth, peer {:?})", veth.host_name, veth.peer_name);
        let mut create = Message::new(RTM_NEWLINK, CREATE | EXCL, call);
        create.raw(&link_header(0, 0, 0)).text(IFLA_IFNAME, veth.host_name).u32(IFLA_MTU, veth.mtu);
        create.u32(IFLA_MASTER, veth.bridge);
        create.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    peer.raw(&link_header(0, 0, 0)).text(IFLA_IFNAME, veth.peer_name).u32(IFLA_MTU, veth.mtu);
                    peer.attr(IFLA_ADDRESS, &veth.peer_mac);
                    peer.u32(IFLA_NET_NS_FD, veth.peer_netns.as_raw_fd().cast_unsigned());
                });
            });
        });
        let call = format!("RTM_NEWLINK({:?}, bridge port)", veth.host_name);
        let mut port = Message::new(RTM_NEWLINK, 0, call);
        port.raw(&link_header(0, 0, 0)).text(IFLA_IFNAME, veth.host_name);
        port.text(IFLA_IFALIAS, veth.alias);
        port.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |port| {
                // With br_netfilter loaded, a container's packet to its own published port goes back by the
                // port it came from.
                port.u8(IFLA_BRPORT_HAIRPIN, 1).u8(IFLA_BRPORT_ISOLATED, u8::from(veth.isolated));
            });
        });
        // The port of a bridge needs no IPv6 address of its own.
        port.nest(IFLA_AF_SPEC, |spec| {
            spec.nest(u16::from(AF_INET6), |inet6| {
                inet6.u8(IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_NONE);
            });
        });
        let mut up = Message::new(RTM_NEWLINK, 0, format!("RTM_NEWLINK({:?}, up)", veth.host_name));
        up.raw(&link_header(0, IFF_UP, IFF_UP)).text(IFLA_IFNAME, veth.host_name);
        self.0.execute(&mut [create, port, up])
    }

    /// Switches `lo` on, gives the link its addresses, switches it on and sets its default routes, in one go.
    pub(crate) fn configure(&mut self, index: u32, addresses: &[IpNet], gateways: &[IpAddr]) -> brig_sys::Result<()> {
        let mut messages = vec![up_message(LOOPBACK)];
        messages.extend(addresses.iter().map(|address| address_message(RTM_NEWADDR, CREATE | EXCL, index, *address)));
        messages.push(up_message(index));
        messages.extend(gateways.iter().map(|gateway| default_route(index, *gateway)));
        self.0.execute(&mut messages)
    }

    /// Adds an address to a link; that it is there already is fine.
    pub(crate) fn add_address(&mut self, index: u32, address: IpNet) -> brig_sys::Result<()> {
        match self.0.execute(&mut [address_message(RTM_NEWADDR, CREATE | REPLACE, index, address)]) {
            Err(error) if error.errno == Errno::EXIST => Ok(()),
            other => other,
        }
    }

    /// Takes an address from a link.
    pub(crate) fn remove_address(&mut self, index: u32, address: IpNet) -> brig_sys::Result<()> {
        self.0.execute(&mut [address_message(RTM_DELADDR, 0, index, address)])
    }

    /// Deletes a link; that it is gone already is fine. Slow (tens of milliseconds): not on a start or stop.
    pub(crate) fn delete(&mut self, index: u32) -> brig_sys::Result<()> {
        let mut message = Message::new(RTM_DELLINK, 0, format!("RTM_DELLINK(index {index})"));
        message.raw(&link_header(index, 0, 0));
        match self.0.execute(&mut [message]) {
            Err(error) if error.errno == Errno::NODEV => Ok(()),
            other => other,
        }
    }

    /// Every address with its link's index.
    pub(crate) fn addresses(&mut self) -> brig_sys::Result<Vec<(u32, IpNet)>> {
        let mut message = Message::new(RTM_GETADDR, DUMP, "RTM_GETADDR(all)");
        message.raw(&[0; ADDRESS_HEADER]);
        self.dump(message, |answer| {
            let prefix = *answer.body.get(1)?;
            let index = u32::from_ne_bytes(answer.body.get(4..8)?.try_into().ok()?);
            let attributes = answer.attributes(ADDRESS_HEADER);
            // IFA_LOCAL is the own address; IFA_ADDRESS is the peer's on point-to-point links.
            let address = address_of(attributes.find(2).or_else(|| attributes.find(1))?)?;
            Some((index, IpNet::new(address, prefix).ok()?))
        })
    }

    /// The unicast routes of the main table except default routes.
    pub(crate) fn routes(&mut self) -> brig_sys::Result<Vec<Route>> {
        const RT_TABLE_MAIN: u8 = 254;
        let mut message = Message::new(RTM_GETROUTE, DUMP, "RTM_GETROUTE(all)");
        message.raw(&[0; ROUTE_HEADER]);
        self.dump(message, |answer| {
            let header = answer.body.get(..ROUTE_HEADER)?;
            let attributes = answer.attributes(ROUTE_HEADER);
            if header[4] != RT_TABLE_MAIN || header[1] == 0 {
                return None;
            }
            let destination = IpNet::new(address_of(attributes.find(1)?)?, header[1]).ok()?;
            Some(Route { destination, interface: attributes.u32(4).unwrap_or(0) })
        })
    }

    /// Runs a list request, again if the kernel's table changed while it was read.
    fn dump<T>(&mut self, message: Message, read: impl Fn(Answer<'_>) -> Option<T> + Copy) -> brig_sys::Result<Vec<T>>
    where
        T: Sized,
    {
        let mut attempts = 0;
        loop {
            let mut found = Vec::new();
            match self.0.ask(message.clone(), |answer| found.extend(read(answer))) {
                Err(error) if error.errno == Errno::INTR && attempts < 20 => attempts += 1,
                other => return other.map(|()| found),
            }
        }
    }
}

fn up_message(index: u32) -> Message {
    let mut message = Message::new(RTM_NEWLINK, 0, format!("RTM_NEWLINK(index {index}, up)"));
    message.raw(&link_header(index, IFF_UP, IFF_UP));
    message
}

fn address_message(kind: u16, flags: u16, index: u32, net: IpNet) -> Message {
    const IFA_F_NODAD: u32 = 2;
    let verb = if kind == RTM_NEWADDR { "RTM_NEWADDR" } else { "RTM_DELADDR" };
    let mut message = Message::new(kind, flags, format!("{verb}({net}, index {index})"));
    let [a, b, c, d] = index.to_ne_bytes();
    message.raw(&[family(net.address()), net.prefix(), 0, 0, a, b, c, d]);
    let bytes = octets(net.address());
    message.attr(2, &bytes).attr(1, &bytes);
    if kind == RTM_NEWADDR {
        if let (IpAddr::V4(_), Some(last)) = (net.address(), net.last_v4().filter(|_| net.prefix() < 31)) {
            message.attr(4, &last.octets());
        } else if net.address().is_ipv6() {
            // Addresses come from our own pools: detecting duplicates would only delay the start by a second.
            message.u32(8, IFA_F_NODAD);
        }
    }
    message
}

fn default_route(index: u32, gateway: IpAddr) -> Message {
    const MAIN: u8 = 254;
    const RTPROT_BOOT: u8 = 3;
    const RTN_UNICAST: u8 = 1;
    let mut message = Message::new(RTM_NEWROUTE, CREATE | EXCL, format!("RTM_NEWROUTE(default via {gateway})"));
    message.raw(&[family(gateway), 0, 0, 0, MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0, 0, 0, 0]);
    message.attr(5, &octets(gateway)).u32(4, index);
    message
}

fn link_of(answer: &Answer<'_>) -> Option<Link> {
    if answer.kind != RTM_NEWLINK {
        return None;
    }
    let attributes = answer.attributes(LINK_HEADER);
    Some(Link {
        index: u32::from_ne_bytes(answer.body.get(4..8)?.try_into().ok()?),
        name: attributes.text(IFLA_IFNAME)?.to_owned(),
        kind: attributes.nested(IFLA_LINKINFO).text(IFLA_INFO_KIND).map(str::to_owned),
        alias: attributes.text(IFLA_IFALIAS).map(str::to_owned),
    })
}
