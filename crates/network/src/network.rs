//! [`Network`]: bridges and endpoints of one host namespace, in the order that makes failure harmless.
//! Owns the order of steps and their undoing. The encoding of each step is `link`'s and `firewall`'s.
//!
//! Order: the firewall before the thing it guards exists, ports before the interface, so that whatever fails,
//! nothing is reachable that should not be.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brig_sys::netns;

use crate::error::{Error, ErrorKind, Result};
use crate::firewall::{Firewall, State};
use crate::ipam::Used;
use crate::link::{LOOPBACK, Link, Links, Veth};
use crate::net::{IpNet, Protocol};
use crate::ports::{Keeper, Publish};
use crate::reaper::{Job, Reaper};
use crate::watch::Watch;
use crate::{Bridge, Endpoint, Port, sysctl};

const DEFAULT_MTU: u32 = 1500;

/// How a [`Network`] is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name of the nftables table (family inet). Two daemons on one host need two names.
    pub table: String,
    /// Whether, if IP forwarding was off and is switched on for containers, packets between interfaces that are
    /// none of ours are dropped: otherwise the machine would become a router for its neighbours.
    pub guard_forwarding: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config { table: "brig".to_owned(), guard_forwarding: true }
    }
}

/// The networks of the namespace in which it was made. Blocking; may be used from any thread.
///
/// Dropping it leaves bridges, endpoints and the table as they are; only the port claims end with it.
#[derive(Debug)]
pub struct Network {
    // Order matters: the watcher uses the world, so it must end first.
    _watch: Watch,
    reaper: Arc<Reaper>,
    home: OwnedFd,
    config: Config,
    links: Mutex<Links>,
    world: Arc<Mutex<World>>,
}

/// What is true, and the firewall that says so.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) firewall: Firewall,
    keeper: Keeper,
    /// Host interfaces that are being made right now.
    pending: BTreeSet<String>,
}

/// A panic elsewhere does not make the state wrong: it is only changed after each step succeeded.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// Opens sockets in the calling thread's network namespace and starts watching the table. Changes nothing.
    pub fn new(config: Config) -> Result<Network> {
        if config.table.is_empty() || config.table.len() > 31 || !config.table.bytes().all(is_word) {
            return Err(Error::new(ErrorKind::Invalid, format!("invalid nftables table name {:?}", config.table)));
        }
        let firewall = Firewall::open(&config.table)?;
        let own_port = firewall.port();
        let world = World { state: State::default(), firewall, keeper: Keeper::new(), pending: BTreeSet::new() };
        let world = Arc::new(Mutex::new(world));
        let reaper = Arc::new(Reaper::start()?);
        let watch = Watch::start(&config.table, own_port, Arc::clone(&world), Arc::clone(&reaper))?;
        let links = Mutex::new(Links::open()?);
        Ok(Network { _watch: watch, reaper, home: netns::current()?, config, links, world })
    }

    /// Makes the bridge as described, or what exists equal to it: interface, addresses, parameters, rules.
    pub fn ensure_bridge(&self, bridge: &Bridge) -> Result<()> {
        check_interface(&bridge.name)?;
        let before = self.links().find(&bridge.name)?;
        if let Some(link) = before.as_ref().filter(|link| link.kind.as_deref() != Some("bridge")) {
            let kind = link.kind.as_deref().unwrap_or("device");
            let message =
                format!("interface {} exists and is a {kind}, not a bridge: choose another name", bridge.name);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let previous = {
            let mut world = lock(&self.world);
            if self.config.guard_forwarding && !bridge.internal && self.forwarding_is_off()? {
                world.firewall.guard();
            }
            let previous = world.state.bridges.insert(bridge.name.clone(), bridge.clone());
            if previous.as_ref() != Some(bridge)
                && let Err(error) = world.rewrite()
            {
                world.put_back(&bridge.name, previous);
                return Err(error);
            }
            previous
        };
        self.make_bridge(bridge, before.as_ref()).inspect_err(|_| {
            let mut world = lock(&self.world);
            world.put_back(&bridge.name, previous);
            report(world.rewrite(), "restoring the firewall table");
            if before.is_none() {
                report(self.delete_link(&bridge.name), "removing the unfinished bridge");
            }
        })
    }

    fn make_bridge(&self, bridge: &Bridge, before: Option<&Link>) -> Result<()> {
        let mut links = self.links();
        if before.is_none() {
            let v4 = bridge.gateways.iter().find_map(|net| match net.address() {
                IpAddr::V4(v4) => Some(v4),
                IpAddr::V6(_) => None,
            });
            let mac = v4.map_or_else(|| mac_from_name(&bridge.name), crate::net::mac_for);
            links.create_bridge(&bridge.name, mac, bridge.mtu)?;
        }
        let index = links.find(&bridge.name)?.ok_or_else(|| no_bridge(&bridge.name))?.index;
        if let (Some(mtu), Some(_)) = (bridge.mtu, before) {
            links.set_mtu(index, mtu)?;
        }
        let present: Vec<IpNet> =
            links.addresses()?.into_iter().filter(|(of, _)| *of == index).map(|(_, net)| net).collect();
        let stale = present.iter().filter(|net| !bridge.gateways.contains(net) && !is_link_local(net.address()));
        for net in stale {
            links.remove_address(index, *net)?;
        }
        let ipv6 = bridge.gateways.iter().any(|net| net.address().is_ipv6());
        netns::inside_unless_there(self.home.as_fd(), || bridge_parameters(bridge, ipv6))??;
        for net in bridge.gateways.iter().filter(|net| !present.contains(net)) {
            links.add_address(index, *net)?;
        }
        Ok(links.up(index)?)
    }

    /// Removes the bridge and its rules; that it is gone already is fine. Refused while endpoints use it.
    pub fn remove_bridge(&self, name: &str) -> Result<()> {
        {
            let mut world = lock(&self.world);
            if let Some(user) = world.state.endpoints.values().find(|endpoint| endpoint.bridge == name) {
                let message = format!("bridge {name} has active endpoints: {} uses it", user.id);
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            if world.state.bridges.remove(name).is_some() {
                world.rewrite()?;
            }
        }
        self.delete_link(name)
    }

    /// Finds and claims a host port for each wish, under `owner`'s name. All or nothing. The result belongs into
    /// [`Endpoint::ports`]; claims end with [`Network::detach`] or [`Network::release_ports`].
    pub fn reserve_ports(&self, owner: &str, wishes: &[Publish]) -> Result<Vec<Port>> {
        let mut world = lock(&self.world);
        let keeper = &mut world.keeper;
        netns::inside_unless_there(self.home.as_fd(), || keeper.reserve(owner, wishes))?
    }

    /// Gives up every port that `owner` claims.
    pub fn release_ports(&self, owner: &str) {
        lock(&self.world).keeper.release(owner);
    }

    /// Joins the namespace to the bridge: a veth pair, addresses, routes and published ports, as described.
    /// Ports that are not reserved yet are claimed. On failure nothing is left.
    pub fn attach(&self, netns: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<()> {
        let (bridge, claimed) = self.begin(endpoint)?;
        let made = self.make_endpoint(netns, endpoint, &bridge);
        let mut world = lock(&self.world);
        world.pending.remove(&endpoint.host_interface);
        let published = made.and_then(|()| world.publish(endpoint));
        if let Err(error) = published {
            world.keeper.release_ports(&endpoint.id, &claimed);
            drop(world);
            report(self.delete_link(&endpoint.host_interface), "removing the unfinished veth pair");
            return Err(error.during(&format!("attaching {} to {}", endpoint.interface, endpoint.bridge)));
        }
        drop(world);
        self.forget_untranslated(&endpoint.ports);
        Ok(())
    }

    /// Checks, and claims ports. Returns the bridge and the ports that were claimed here.
    fn begin(&self, endpoint: &Endpoint) -> Result<(Bridge, Vec<Port>)> {
        check_interface(&endpoint.host_interface)?;
        check_interface(&endpoint.interface)?;
        let mut world = lock(&self.world);
        let bridge = world.state.bridges.get(&endpoint.bridge).cloned().ok_or_else(|| no_bridge(&endpoint.bridge))?;
        if world.state.endpoints.contains_key(&endpoint.host_interface)
            || !world.pending.insert(endpoint.host_interface.clone())
        {
            let message = format!("interface {} is attached already: detach it first", endpoint.host_interface);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let missing: Vec<Port> =
            endpoint.ports.iter().filter(|port| !world.keeper.holds(&endpoint.id, port)).cloned().collect();
        let claimed = if missing.is_empty() {
            Ok(())
        } else {
            let keeper = &mut world.keeper;
            netns::inside_unless_there(self.home.as_fd(), || {
                missing.iter().try_for_each(|port| keeper.claim(&endpoint.id, port))
            })
            .map_err(Error::from)
            .and_then(|claimed| claimed)
        };
        if let Err(error) = claimed {
            world.keeper.release_ports(&endpoint.id, &missing);
            world.pending.remove(&endpoint.host_interface);
            return Err(error);
        }
        Ok((bridge, missing))
    }

    fn make_endpoint(&self, netns: BorrowedFd<'_>, endpoint: &Endpoint, bridge: &Bridge) -> Result<()> {
        let bridge_index = self.links().find(&bridge.name)?.ok_or_else(|| no_bridge(&bridge.name))?.index;
        let alias = self.alias(&endpoint.id);
        let veth = Veth {
            host_name: &endpoint.host_interface,
            alias: &alias,
            bridge: bridge_index,
            isolated: !bridge.icc,
            mtu: bridge.mtu.unwrap_or(DEFAULT_MTU),
            peer_name: &endpoint.interface,
            peer_mac: endpoint.mac,
            peer_netns: netns,
        };
        netns::inside(netns, || {
            let mut inner = Links::open()?;
            self.make_veth(veth)?;
            let vanished = || Error::new(ErrorKind::NotFound, format!("interface {} has vanished", endpoint.interface));
            let index = inner.find(&endpoint.interface)?.ok_or_else(vanished)?.index;
            let ipv6 = endpoint.addresses.iter().any(|net| net.address().is_ipv6());
            sysctl::quiet_v6(&endpoint.interface, ipv6)?;
            inner.configure(index, &endpoint.addresses, &endpoint.gateways)?;
            if ipv6 {
                // IPv6 addresses are not used before their interface is operational.
                inner.settle(&endpoint.interface)?;
            }
            let mut links = self.links();
            links.settle(&endpoint.host_interface)?;
            Ok(links.settle(&bridge.name)?)
        })?
    }

    /// A pair of that name may still be there: its namespace is dying, or it was detached a moment ago.
    fn make_veth(&self, veth: Veth<'_>) -> Result<()> {
        let mut links = self.links();
        let failure = match links.create_veth(veth) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if failure.errno == rustix::io::Errno::EXIST
            && let Some(stale) = links.find(veth.host_name)?
            && stale.alias.is_some_and(|alias| alias.starts_with(&self.alias("")))
        {
            links.delete(stale.index)?;
            return Ok(links.create_veth(veth)?);
        }
        Err(failure.into())
    }

    /// Takes the namespace from the bridge again: ports, rules, and (a little later) the veth pair, which
    /// normally dies with its namespace. Works whatever is left of it.
    pub fn detach(&self, endpoint: &Endpoint) -> Result<()> {
        let index = self.own_link(&endpoint.host_interface)?.map(|link| link.index);
        let mut world = lock(&self.world);
        let known = world.state.endpoints.get(&endpoint.host_interface).cloned();
        let withdrawn = match known.filter(|known| known.id == endpoint.id) {
            Some(known) => world.withdraw(&known),
            None => Ok(()),
        };
        world.keeper.release_ports(&endpoint.id, &endpoint.ports);
        drop(world);
        if endpoint.ports.iter().any(|port| port.protocol == Protocol::Udp) {
            let by = endpoint.addresses.iter().map(IpNet::address).collect();
            self.reaper.push(Job::ForgetAnswered { by });
        }
        if let Some(index) = index {
            self.reaper.push(Job::Delete { index });
        }
        withdrawn
    }

    /// Switches on `lo` in the namespace: `--network none`.
    pub fn loopback(&self, netns: BorrowedFd<'_>) -> Result<()> {
        netns::inside(netns, || Ok(Links::open()?.up(LOOPBACK)?))?
    }

    /// Makes bridges, claims and the table equal to this, and removes veth pairs of ours that are not named.
    /// With nothing alive, call it with nothing: what an earlier daemon published ends then.
    /// A port that another program took meanwhile is logged and stays translated: its container still runs.
    pub fn restore(&self, bridges: &[Bridge], endpoints: &[Endpoint]) -> Result<()> {
        for bridge in bridges {
            self.ensure_bridge(bridge)?;
        }
        let mut world = lock(&self.world);
        world.state = State {
            bridges: bridges.iter().map(|bridge| (bridge.name.clone(), bridge.clone())).collect(),
            endpoints: endpoints.iter().map(|one| (one.host_interface.clone(), one.clone())).collect(),
        };
        world.rewrite()?;
        let keeper = &mut world.keeper;
        keeper.retain(|owner| endpoints.iter().any(|endpoint| endpoint.id == owner));
        netns::inside_unless_there(self.home.as_fd(), || {
            for (endpoint, port) in endpoints.iter().flat_map(|one| one.ports.iter().map(move |port| (one, port))) {
                if let Err(error) = keeper.claim(&endpoint.id, port) {
                    tracing::warn!(%error, id = endpoint.id, "a published port could not be claimed again");
                }
            }
        })?;
        drop(world);
        let prefix = self.alias("");
        for link in self.links().list()? {
            let ours = link.alias.as_ref().is_some_and(|alias| alias.starts_with(&prefix));
            if ours && !endpoints.iter().any(|endpoint| endpoint.host_interface == link.name) {
                self.reaper.push(Job::Delete { index: link.index });
            }
        }
        Ok(())
    }

    /// Removes the table, as a daemon does that leaves nothing behind; if IP forwarding was switched on here, it
    /// is switched off again. Bridges and veth pairs stay.
    pub fn remove_table(&self) -> Result<()> {
        let mut world = lock(&self.world);
        world.state = State::default();
        if world.firewall.is_guarded() {
            netns::inside_unless_there(self.home.as_fd(), || sysctl::write("ipv4/ip_forward", "0"))??;
        }
        world.firewall.delete()
    }

    /// The networks that the host's addresses and routes use, except those of the interfaces named in `except`:
    /// what [`crate::ipam::choose`] and [`crate::ipam::check`] avoid.
    pub fn used_networks(&self, except: &[&str]) -> Result<Vec<Used>> {
        let mut links = self.links();
        let names: HashMap<u32, String> = links.list()?.into_iter().map(|link| (link.index, link.name)).collect();
        let name = |index: u32| names.get(&index).map_or("?", String::as_str);
        let addresses = links.addresses()?.into_iter().map(|(index, net)| (index, net, "address"));
        let routes = links.routes()?.into_iter().map(|route| (route.interface, route.destination, "route"));
        Ok(routes
            .chain(addresses)
            .filter(|(index, _, _)| !except.contains(&name(*index)))
            .map(|(index, net, what)| Used { net, by: format!("{what} {net} dev {}", name(index)) })
            .collect())
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        lock(&self.links)
    }

    /// The mark by which a veth pair is known to be ours: names can be anybody's.
    fn alias(&self, id: &str) -> String {
        format!("{}: {}", self.config.table, id.get(..12).unwrap_or(id))
    }

    fn own_link(&self, name: &str) -> Result<Option<Link>> {
        let prefix = self.alias("");
        Ok(self.links().find(name)?.filter(|link| link.alias.as_ref().is_some_and(|alias| alias.starts_with(&prefix))))
    }

    fn delete_link(&self, name: &str) -> Result<()> {
        let mut links = self.links();
        match links.find(name)? {
            Some(link) => Ok(links.delete(link.index)?),
            None => Ok(()),
        }
    }

    fn forwarding_is_off(&self) -> Result<bool> {
        Ok(netns::inside_unless_there(self.home.as_fd(), || sysctl::read("ipv4/ip_forward").as_deref() == Some("0"))?)
    }

    /// Clients may have sent to the port before it was published; their flows are not translated until forgotten.
    fn forget_untranslated(&self, ports: &[Port]) {
        let udp = ports.iter().filter(|port| port.protocol == Protocol::Udp);
        let ports: Vec<u16> = udp.map(|port| port.host_port).collect();
        if !ports.is_empty() {
            self.reaper.push(Job::ForgetUntranslated { ports });
        }
    }
}

impl World {
    /// Whether there has to be a table: for bridges, or because forwarding was switched on for earlier ones.
    pub(crate) fn needs_table(&self) -> bool {
        !self.state.bridges.is_empty() || self.firewall.is_guarded()
    }

    /// Writes the table from the state, or removes it if there is no need for one.
    pub(crate) fn rewrite(&mut self) -> Result<()> {
        if self.needs_table() { self.firewall.write(&self.state) } else { self.firewall.delete() }
    }

    fn put_back(&mut self, name: &str, previous: Option<Bridge>) {
        match previous {
            Some(previous) => self.state.bridges.insert(name.to_owned(), previous),
            None => self.state.bridges.remove(name),
        };
    }

    fn publish(&mut self, endpoint: &Endpoint) -> Result<()> {
        self.state.endpoints.insert(endpoint.host_interface.clone(), endpoint.clone());
        self.firewall.add(endpoint, &self.state).inspect_err(|_| {
            self.state.endpoints.remove(&endpoint.host_interface);
        })
    }

    fn withdraw(&mut self, endpoint: &Endpoint) -> Result<()> {
        self.state.endpoints.remove(&endpoint.host_interface);
        self.firewall.remove(endpoint, &self.state)
    }
}

/// The interfaces of a namespace with their addresses.
pub fn interface_addresses(netns: BorrowedFd<'_>) -> Result<Vec<(String, Vec<IpNet>)>> {
    netns::inside(netns, || {
        let mut links = Links::open()?;
        let listed = links.list()?;
        let addresses = links.addresses()?;
        let of = |index: u32| addresses.iter().filter(|(at, _)| *at == index).map(|(_, net)| *net).collect();
        Ok(listed.into_iter().map(|link| (link.name, of(link.index))).collect())
    })?
}

fn bridge_parameters(bridge: &Bridge, ipv6: bool) -> Result<()> {
    sysctl::quiet_v6(&bridge.name, ipv6)?;
    if !bridge.internal {
        // Lets the host reach ports published on 127.0.0.1; the table's chain `early` keeps others from it.
        sysctl::write(&format!("ipv4/conf/{}/route_localnet", bridge.name), "1")?;
        sysctl::forward_v4()?;
        if ipv6 {
            sysctl::forward_v6()?;
        }
    }
    Ok(())
}

fn report(result: Result<()>, what: &str) {
    if let Err(error) = result {
        tracing::error!(%error, "{what} failed");
    }
}

fn no_bridge(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("bridge {name} does not exist: restart the daemon to make it again"))
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// As the kernel's `dev_valid_name`, and without the `%` by which it would choose a number itself.
fn check_interface(name: &str) -> Result<()> {
    let bad = name.is_empty()
        || name.len() > 15
        || name == "."
        || name == ".."
        || name.chars().any(|c| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control());
    if bad {
        return Err(Error::new(ErrorKind::Invalid, format!("invalid interface name {name:?}")));
    }
    Ok(())
}

fn mac_from_name(name: &str) -> [u8; 6] {
    let hash = Endpoint::host_interface_name(name, "");
    let mut mac = [0x02, 0x42, 0, 0, 0, 0];
    let digits = hash.bytes().skip(4);
    for (byte, digit) in mac[2..].iter_mut().zip(digits) {
        *byte = digit;
    }
    mac
}
