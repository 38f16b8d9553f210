//! Network devices that move from the caller's network namespace into the container's (`linux.netDevices`).
//! Owns the move, the new name, and that addresses a person configured go along. Must not touch any other device, nor bring
//! them back after a container has lived: then the kernel returns what has a host, and ends what is virtual.
//!
//! Numbers: linux/include/uapi/linux/{rtnetlink,if_link,if_addr}.h.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use brig_oci::runtime::NetDevice;
use brig_sys::clone::{self, flags};
use brig_sys::netlink::{CREATE, DUMP, EXCL, Family, Message, Socket};
use brig_sys::{fdpass, pidfd};
use rustix::io::Errno;

use crate::error::{Error, Result, Step};
use crate::init;
use crate::wire::{self, Report};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const IFF_UP: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
/// What a person sets and the kernel does not find out by itself: no temporary, home agent or managed ones.
const IFA_F_KEPT: u32 = 0x2 | 0x200 | 0x400;
/// `RT_SCOPE_UNIVERSE`.
const GLOBAL: u8 = 0;

/// A device to move: its name here and inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    host: String,
    name: String,
}

/// An address as the kernel lists it, without what depends on the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    family: u8,
    prefix: u8,
    flags: u32,
    attributes: Vec<(u16, Vec<u8>)>,
}

#[derive(Debug)]
struct Device {
    host: String,
    /// What it is called inside now.
    inside: String,
    addresses: Vec<Address>,
    /// It was switched on here.
    up: bool,
}

/// Devices that are in the container.
#[derive(Debug)]
pub(crate) struct Moved {
    devices: Vec<Device>,
    outside: OwnedFd,
    inside: OwnedFd,
}

/// Checks `linux.netDevices`; `own` tells whether the container has a network namespace that is not the caller's.
pub(crate) fn check(list: &BTreeMap<String, NetDevice>, own: bool) -> Result<Vec<Wanted>> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    if !own {
        return Err(Error::invalid(
            "linux.netDevices: network devices cannot be moved without a network namespace in linux.namespaces",
        ));
    }
    let mut wanted: Vec<Wanted> = Vec::with_capacity(list.len());
    for (host, device) in list {
        let name = if device.name.is_empty() { host } else { &device.name };
        for name in [host, name] {
            if !valid(name) {
                return Err(Error::invalid(format!("linux.netDevices: {name:?} is no name of a network device")));
            }
        }
        if let Some(other) = wanted.iter().find(|other| other.name == *name) {
            return Err(Error::invalid(format!(
                "linux.netDevices: {:?} and {host:?} would both be called {name:?}",
                other.host
            )));
        }
        wanted.push(Wanted { host: host.clone(), name: name.clone() });
    }
    Ok(wanted)
}

/// The kernel's rule (`dev_valid_name`), and no pattern, which it would fill in.
fn valid(name: &str) -> bool {
    let plain = name.bytes().all(|byte| !byte.is_ascii_whitespace() && !b"/:%\0".contains(&byte));
    !name.is_empty() && name.len() < 16 && name != "." && name != ".." && plain
}

/// Moves all devices into the network namespace of `pid`, or none.
pub(crate) fn move_in(wanted: &[Wanted], pid: i32) -> Result<Option<Moved>> {
    if wanted.is_empty() {
        return Ok(None);
    }
    let step = || "linux.netDevices".to_owned();
    let outside = brig_sys::netns::current().step(step)?;
    let inside = brig_sys::namespace::of_process(pid, "net").step(step)?;
    if brig_sys::namespace::same(&outside, &inside).step(step)? {
        return Err(Error::invalid("linux.netDevices: the container's network namespace is the caller's own"));
    }
    let mut moved = Moved { devices: Vec::new(), outside, inside };
    match moved.enter(wanted) {
        Ok(()) => Ok(Some(moved)),
        Err(error) => {
            moved.give_back();
            Err(error).step(step)
        }
    }
}

impl Moved {
    fn enter(&mut self, wanted: &[Wanted]) -> Result<()> {
        within(self.inside.as_fd(), || {
            let mut links = Links::open()?;
            match wanted.iter().find(|wanted| links.find(&wanted.name).is_ok()) {
                Some(taken) => Err(Error::invalid(format!("the container has a device {:?} already", taken.name))),
                None => Ok(()),
            }
        })?;
        let mut links = Links::open()?;
        for wanted in wanted {
            let (index, up) = links.find(&wanted.host)?;
            let addresses = links.addresses(index)?;
            let sent = links.send(index, self.inside.as_fd(), &wanted.name);
            let inside = match sent {
                Ok(()) => &wanted.name,
                Err(_) if links.find(&wanted.host).is_ok() => return sent,
                // Moved, and then not renamed.
                Err(_) => &wanted.host,
            };
            let device = Device { host: wanted.host.clone(), inside: inside.clone(), addresses, up };
            self.devices.push(device);
            sent?;
        }
        within(self.inside.as_fd(), || {
            let mut links = Links::open()?;
            self.devices.iter().try_for_each(|device| links.configure(&device.inside, &device.addresses, true))
        })
    }

    /// Undoes the move, as far as that goes, for a container that could not be created.
    pub fn give_back(&self) {
        let leave = within(self.inside.as_fd(), || {
            let mut links = Links::open()?;
            for device in &self.devices {
                // One that is gone cannot be returned; the others can.
                if let Ok((index, _)) = links.find(&device.inside) {
                    links.send(index, self.outside.as_fd(), &device.host)?;
                }
            }
            Ok(())
        });
        let settled = leave.and_then(|()| {
            let mut links = Links::open()?;
            for device in &self.devices {
                links.configure(&device.host, &device.addresses, device.up)?;
            }
            Ok(())
        });
        // The error that led here is the one to be told.
        settled.unwrap_or_default();
    }
}

/// Runs `work` in another network namespace, in a process of its own: this one never leaves its own.
fn within(netns: BorrowedFd<'_>, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let (ours, theirs) = fdpass::pair()?;
    let child = clone::spawn(0, None, || {
        let done = brig_sys::namespace::join(netns, flags::NEWNET).map_err(Error::from).and_then(|()| work());
        init::finish(&theirs, done.map(|()| 0))
    })?;
    drop(theirs);
    let said = wire::next(&ours);
    pidfd::reap(child.pidfd.as_fd())?;
    match said? {
        None => Ok(()),
        Some((Report::Failed(error), _)) => Err(error),
        Some(_) => Err(Error::system("the process that sets devices up sent an unexpected report")),
    }
}

/// rtnetlink in the calling process's network namespace.
struct Links(Socket);

impl Links {
    fn open() -> Result<Links> {
        Ok(Links(Socket::open(Family::Route)?))
    }

    /// The index of a device, and whether it is switched on.
    fn find(&mut self, name: &str) -> Result<(u32, bool)> {
        let mut message = Message::new(RTM_GETLINK, 0, format!("RTM_GETLINK({name:?})"));
        message.raw(&link_header(0, 0, 0)).text(IFLA_IFNAME, name);
        let mut found = None;
        let word = |body: &[u8], at: usize| Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?));
        let asked = self.0.ask(message, |answer| {
            if answer.kind == RTM_NEWLINK {
                found = word(answer.body, 4).zip(word(answer.body, 8));
            }
        });
        match (asked, found) {
            (Err(error), _) if error.errno == Errno::NODEV => {
                Err(Error::invalid(format!("there is no network device {name:?}")))
            }
            (Err(error), _) => Err(error.into()),
            (Ok(()), Some((index, flags))) => Ok((index, flags & IFF_UP != 0)),
            (Ok(()), None) => Err(Error::system(format!("RTM_GETLINK({name:?}): the kernel's answer is no link"))),
        }
    }

    /// The addresses of a device that a person gave it: permanent and of global scope.
    fn addresses(&mut self, index: u32) -> Result<Vec<Address>> {
        let mut attempts = 0;
        loop {
            let mut message = Message::new(RTM_GETADDR, DUMP, "RTM_GETADDR(all)");
            message.raw(&[0; ADDRESS_HEADER]);
            let mut found = Vec::new();
            let asked = self.0.ask(message, |answer| {
                let Some(header) = answer.body.get(..ADDRESS_HEADER) else { return };
                let attributes = answer.attributes(ADDRESS_HEADER);
                let flags = attributes.u32(IFA_FLAGS).unwrap_or(u32::from(header[2]));
                let of = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
                if of != index || header[3] != GLOBAL || flags & IFA_F_PERMANENT == 0 {
                    return;
                }
                found.push(Address {
                    family: header[0],
                    prefix: header[1],
                    flags: flags & IFA_F_KEPT,
                    attributes: attributes
                        .filter(|(kind, _)| [IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST].contains(kind))
                        .map(|(kind, value)| (kind, value.to_vec()))
                        .collect(),
                });
            });
            match asked {
                // The list changed while it was read.
                Err(error) if error.errno == Errno::INTR && attempts < 20 => attempts += 1,
                other => return Ok(other.map(|()| found)?),
            }
        }
    }

    /// Switches a device off and moves it, renamed at once, so that no name is taken in between.
    fn send(&mut self, index: u32, netns: BorrowedFd<'_>, name: &str) -> Result<()> {
        let mut down = Message::new(RTM_NEWLINK, 0, format!("RTM_NEWLINK(index {index}, down)"));
        down.raw(&link_header(index, 0, IFF_UP));
        let mut leave =
            Message::new(RTM_NEWLINK, 0, format!("RTM_NEWLINK(index {index}, another namespace, name {name:?})"));
        leave.raw(&link_header(index, 0, 0)).u32(IFLA_NET_NS_FD, netns.as_raw_fd().cast_unsigned());
        leave.text(IFLA_IFNAME, name);
        self.0.execute(&mut [down])?;
        Ok(self.0.execute(&mut [leave])?)
    }

    /// Gives a device its addresses and switches it on.
    fn configure(&mut self, name: &str, addresses: &[Address], up: bool) -> Result<()> {
        let (index, _) = self.find(name)?;
        let mut messages = Vec::with_capacity(addresses.len() + 1);
        for address in addresses {
            let call = format!("RTM_NEWADDR({name:?}, {:?}/{})", address.attributes, address.prefix);
            let mut message = Message::new(RTM_NEWADDR, CREATE | EXCL, call);
            let [a, b, c, d] = index.to_ne_bytes();
            message.raw(&[address.family, address.prefix, 0, GLOBAL, a, b, c, d]);
            for (kind, value) in &address.attributes {
                message.attr(*kind, value);
            }
            message.u32(IFA_FLAGS, address.flags);
            if address.family == 2 {
                // IPv4's label names the device.
                message.text(IFA_LABEL, name);
            }
            messages.push(message);
        }
        if up {
            let mut message = Message::new(RTM_NEWLINK, 0, format!("RTM_NEWLINK({name:?}, up)"));
            message.raw(&link_header(index, IFF_UP, IFF_UP));
            messages.push(message);
        }
        messages.iter_mut().try_for_each(|message| Ok(self.0.execute(std::slice::from_mut(message))?))
    }
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["eth0", "a", "fifteen-letters", "ü"] {
            assert!(valid(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a:1", "a b", "a\tb", "sixteen-letters-", "veth%d", "a\0"] {
            assert!(!valid(bad), "{bad}");
        }
    }

    #[test]
    fn refusals() {
        let list = |pairs: &[(&str, &str)]| -> BTreeMap<String, NetDevice> {
            pairs.iter().map(|(host, name)| ((*host).to_owned(), NetDevice { name: (*name).to_owned() })).collect()
        };
        assert_eq!(check(&list(&[]), false).unwrap(), []);
        let wanted = |host: &str, name: &str| Wanted { host: host.into(), name: name.into() };
        let two = check(&list(&[("a0", ""), ("b0", "eth0")]), true).unwrap();
        assert_eq!(two, [wanted("a0", "a0"), wanted("b0", "eth0")]);
        for (pairs, own, why) in [
            (&[("a0", "")][..], false, "without a network namespace"),
            (&[("a/0", "")], true, "no name"),
            (&[("a0", "..")], true, "no name"),
            (&[("a0", "x"), ("b0", "x")], true, "both be called"),
            (&[("a0", "b0"), ("b0", "")], true, "both be called"),
        ] {
            let error = check(&list(pairs), own).unwrap_err();
            assert!(error.message.starts_with("linux.netDevices: ") && error.message.contains(why), "{error}");
        }
    }
}
