//! Networks as Docker knows them: `bridge`, `host` and `none`. Owns the addresses of the default bridge, the wishes to
//! publish ports, and the files about names that containers see; the kernel's side is the network crate's.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use brig_api::container::{Config as ContainerConfig, HostConfig};
use brig_api::filters::Filters;
use brig_api::network::{EndpointResource, EndpointSettings, Ipam, IpamConfig, Network as ApiNetwork};
use brig_network::ipam::{self, Pool};
use brig_network::ports::{PortRange, Publish};
use brig_network::{Bridge, Endpoint, IpNet, Network, Protocol, files, format_mac, mac_for};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::container::{Index, Modes, NetworkMode, Record, View};
use crate::error::{Error, ErrorKind, Result};
use crate::id::now;

/// Interface of the default bridge network.
const BRIDGE: &str = "brig0";
/// The networks that always exist, with their drivers.
const BUILT_IN: [(&str, &str); 3] = [("bridge", "bridge"), ("host", "host"), ("none", "null")];

/// A container's place on a bridge, while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    /// The network's id.
    pub network_id: String,
    /// An id for the endpoint.
    pub endpoint_id: String,
    /// What the kernel is told.
    pub endpoint: Endpoint,
}

/// A published port for showing.
pub struct Published {
    /// `80/tcp`.
    pub container: String,
    /// Host address.
    pub host_ip: String,
    /// Host port.
    pub host_port: u16,
}

impl Attachment {
    /// The published ports.
    pub fn published(&self) -> impl Iterator<Item = Published> + '_ {
        self.endpoint.ports.iter().map(|port| Published {
            container: format!("{}/{}", port.container_port, port.protocol),
            host_ip: port.host_ip.to_string(),
            host_port: port.host_port,
        })
    }

    /// The container's IPv4 address with its prefix.
    fn address(&self) -> Option<IpNet> {
        self.endpoint.addresses.first().copied()
    }

    fn gateway(&self) -> String {
        self.endpoint.gateways.first().map(ToString::to_string).unwrap_or_default()
    }

    /// Writes the live facts into what the client asked for.
    pub fn describe(&self, settings: &mut EndpointSettings) {
        settings.network_id.clone_from(&self.network_id);
        settings.endpoint_id.clone_from(&self.endpoint_id);
        settings.gateway = self.gateway();
        settings.mac_address = format_mac(self.endpoint.mac);
        if let Some(net) = self.address() {
            settings.ip_address = net.address().to_string();
            settings.ip_prefix_len = i64::from(net.prefix());
        }
    }
}

/// The id of a built-in network: stable, and different for each.
pub fn id_of(name: &str) -> String {
    brig_store::digest::sha256_of(format!("brig network {name}").as_bytes()).hex().to_owned()
}

struct State {
    bridge: Bridge,
    pool: Pool,
    gateway: Ipv4Addr,
    /// Whether the bridge is known to be in the kernel.
    made: bool,
}

/// The networks of this host.
pub struct Networks {
    kernel: Arc<Network>,
    config: Config,
    state: Arc<Mutex<State>>,
    created: String,
}

impl Networks {
    /// Prepares the default bridge network; the interface is made when the first container needs it, or by
    /// [`Networks::restore`].
    pub fn open(config: &Config) -> Result<Self> {
        let kernel = Arc::new(Network::new(brig_network::Config::default()).map_err(from_network)?);
        let subnet = choose_subnet(config, &kernel)?;
        let gateway = match subnet.address() {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => {
                return Err(Error::invalid("--bip must be an IPv4 address with a prefix, e.g. 172.17.0.1/16"));
            }
        };
        let mut pool = Pool::new(subnet.network(), None).map_err(from_network)?;
        pool.reserved.insert(gateway);
        let bridge = Bridge {
            name: BRIDGE.into(),
            gateways: vec![subnet],
            mtu: config.mtu,
            icc: config.icc,
            masquerade: config.ip_masq,
            internal: false,
        };
        let state = Arc::new(Mutex::new(State { bridge, pool, gateway, made: false }));
        Ok(Self { kernel, config: config.clone(), state, created: now() })
    }

    /// Makes the kernel's side equal to what the living containers have.
    pub fn restore(&self, living: &[Attachment]) -> Result<()> {
        let mut state = lock(&self.state);
        for attachment in living {
            if let Some(IpAddr::V4(address)) = attachment.address().map(|net| net.address())
                && state.pool.allocate(Some(address)).is_err()
            {
                tracing::warn!("address {address} of a running container is not free: it keeps it");
            }
        }
        let endpoints: Vec<Endpoint> = living.iter().map(|attachment| attachment.endpoint.clone()).collect();
        if endpoints.is_empty() {
            // Ports that a killed daemon published must not stay open for containers that are gone.
            return self.kernel.restore(&[], &[]).map_err(from_network);
        }
        let bridges = [state.bridge.clone()];
        self.kernel.restore(&bridges, &endpoints).map_err(from_network)?;
        state.made = true;
        Ok(())
    }

    /// Whether a container can ask for this network.
    pub fn check_exists(&self, name: &str) -> Result<()> {
        if BUILT_IN.iter().any(|(known, _)| name == *known)
            || BUILT_IN.iter().any(|(known, _)| id_of(known).starts_with(name) && name.len() >= 12)
        {
            return Ok(());
        }
        Err(Error::not_found(format!("network {name} not found")))
    }

    /// Takes an address and the host ports for a container that starts.
    pub async fn reserve(&self, network: &str, record: &Record) -> Result<Attachment> {
        self.check_exists(network)?;
        let wishes = wishes(&record.config, &record.host_config, self.config.default_host_ip)?;
        let (kernel, state) = (Arc::clone(&self.kernel), Arc::clone(&self.state));
        let (id, settings) = (record.id.clone(), record.endpoint.clone().unwrap_or_default());
        let mac =
            if settings.mac_address.is_empty() { record.config.mac_address.clone() } else { settings.mac_address };
        let requested = settings.ipam_config.map(|ipam| ipam.ipv4_address).filter(|text| !text.is_empty());
        let network = network.to_owned();
        on_pool(move || {
            let mut state = lock(&state);
            if !state.made {
                kernel.ensure_bridge(&state.bridge).map_err(from_network)?;
                state.made = true;
            }
            if requested.is_some() {
                return Err(Error::invalid(
                    "invalid config for network bridge: invalid endpoint settings:\nuser specified IP address is supported on user defined networks only",
                ));
            }
            let address = state.pool.allocate(None).map_err(from_network)?;
            let net = state.pool.with_prefix(address);
            let gateway = state.gateway;
            let give_back = |state: &mut State| state.pool.release(address);
            let mac = match parse_mac(&mac) {
                Ok(given) => given.unwrap_or_else(|| mac_for(address)),
                Err(e) => {
                    give_back(&mut state);
                    return Err(e);
                }
            };
            let ports = match kernel.reserve_ports(&id, &wishes) {
                Ok(ports) => ports,
                Err(e) => {
                    give_back(&mut state);
                    return Err(from_network(e).context("failed to set up container networking: driver failed programming external connectivity"));
                }
            };
            Ok(Attachment {
                network_id: id_of(&network),
                endpoint_id: id_of(&format!("{network} {id} {address}")),
                network,
                endpoint: Endpoint {
                    host_interface: Endpoint::host_interface_name(&id, BRIDGE),
                    id,
                    bridge: BRIDGE.into(),
                    interface: "eth0".into(),
                    mac,
                    addresses: vec![net],
                    gateways: vec![IpAddr::V4(gateway)],
                    ports,
                },
            })
        })
        .await
    }

    /// Joins the network namespace of a process to its bridge.
    pub async fn attach(&self, pid: i32, attachment: &Attachment) -> Result<()> {
        let (kernel, endpoint) = (Arc::clone(&self.kernel), attachment.endpoint.clone());
        on_pool(move || {
            let namespace = open_namespace(pid)?;
            kernel
                .attach(namespace.as_fd(), &endpoint)
                .map_err(|e| from_network(e).context("failed to set up container networking"))
        })
        .await
    }

    /// Brings up the loopback interface of a namespace that has nothing else.
    pub async fn loopback(&self, pid: i32) -> Result<()> {
        let kernel = Arc::clone(&self.kernel);
        on_pool(move || kernel.loopback(open_namespace(pid)?.as_fd()).map_err(from_network)).await
    }

    /// Undoes [`Networks::reserve`] and [`Networks::attach`]; may be called for either, and twice.
    pub async fn detach(&self, attachment: &Attachment) {
        let (kernel, state, attachment) = (Arc::clone(&self.kernel), Arc::clone(&self.state), attachment.clone());
        let done = on_pool(move || {
            let result = kernel.detach(&attachment.endpoint).map_err(from_network);
            kernel.release_ports(&attachment.endpoint.id);
            if let Some(IpAddr::V4(address)) = attachment.address().map(|net| net.address()) {
                lock(&state).pool.release(address);
            }
            result
        });
        if let Err(e) = done.await {
            tracing::warn!("leaving the network: {e}");
        }
    }

    /// Writes `hosts`, `hostname` and `resolv.conf` for a run. A container that joins another's network sees that
    /// container's names.
    pub fn write_files(
        &self,
        record: &Record,
        modes: &Modes,
        attachment: Option<&Attachment>,
        directory: &Path,
        containers: &Index,
    ) -> Result<()> {
        let config = &record.config;
        put(&directory.join("hostname"), &format!("{}\n", config.hostname))?;
        if let NetworkMode::Container(other) = &modes.network {
            let theirs = containers.find(other)?.paths.state.clone();
            for name in ["hosts", "resolv.conf"] {
                let text = fs::read_to_string(theirs.join(name)).unwrap_or_default();
                put(&directory.join(name), &text)?;
            }
            return Ok(());
        }
        put(&directory.join("resolv.conf"), &self.resolv_conf(&record.host_config, modes)?)?;
        put(&directory.join("hosts"), &self.hosts(record, modes, attachment)?)
    }

    fn hosts(&self, record: &Record, modes: &Modes, attachment: Option<&Attachment>) -> Result<String> {
        let gateway = IpAddr::V4(lock(&self.state).gateway);
        let mut extra = Vec::new();
        for entry in record.host_config.extra_hosts.iter().flatten() {
            let (name, target) = files::parse_extra_host(entry).map_err(from_network)?;
            extra.push((
                name,
                match target {
                    files::HostTarget::Address(address) => address,
                    files::HostTarget::Gateway => gateway,
                },
            ));
        }
        if modes.network == NetworkMode::Host {
            // The host's own names are right in the host's network.
            let mut text = fs::read_to_string("/etc/hosts").unwrap_or_default();
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            extra.iter().for_each(|(name, address)| text.push_str(&format!("{address}\t{name}\n")));
            return Ok(text);
        }
        let own: Vec<IpAddr> =
            attachment.into_iter().flat_map(|a| a.endpoint.addresses.iter().map(IpNet::address)).collect();
        let config = &record.config;
        let names = match config.domainname.as_str() {
            "" => vec![config.hostname.clone()],
            domain => vec![format!("{}.{domain}", config.hostname), config.hostname.clone()],
        };
        files::hosts(&extra, &own, &names).map_err(from_network)
    }

    fn resolv_conf(&self, host: &HostConfig, modes: &Modes) -> Result<String> {
        let mut text = fs::read_to_string(files::HOST_RESOLV_CONF).unwrap_or_default();
        if files::is_resolved_stub(&text)
            && let Ok(real) = fs::read_to_string(files::RESOLVED_RESOLV_CONF)
        {
            text = real;
        }
        let given = |own: &Option<Vec<String>>, default: &[String]| match own {
            Some(list) if !list.is_empty() => list.clone(),
            _ => default.to_vec(),
        };
        let mut servers = Vec::new();
        for server in host.dns.iter().flatten() {
            servers.push(server.parse().map_err(|_| Error::invalid(format!("invalid DNS server address: {server}")))?);
        }
        if servers.is_empty() {
            servers.clone_from(&self.config.dns);
        }
        let dns = files::Dns {
            servers,
            search: given(&host.dns_search, &self.config.dns_search),
            options: given(&host.dns_options, &self.config.dns_options),
        };
        if modes.network == NetworkMode::Host && dns == files::Dns::default() {
            return Ok(text);
        }
        files::resolv_conf(&text, &dns, &files::FALLBACK, false).map_err(from_network)
    }

    fn show(&self, name: &str, driver: &str, views: &[Arc<View>]) -> ApiNetwork {
        let ipam_config = (name == "bridge").then(|| {
            let state = lock(&self.state);
            vec![IpamConfig {
                subnet: state.pool.subnet.to_string(),
                gateway: state.gateway.to_string(),
                ..IpamConfig::default()
            }]
        });
        let members = views.iter().filter_map(|view| {
            let attachment = view.record.run.as_ref()?.attachment.as_ref().filter(|a| a.network == name)?;
            let resource = EndpointResource {
                name: view.record.name.clone(),
                endpoint_id: attachment.endpoint_id.clone(),
                mac_address: format_mac(attachment.endpoint.mac),
                ipv4_address: attachment.address().map(|net| net.to_string()).unwrap_or_default(),
                ipv6_address: String::new(),
            };
            Some((view.record.id.clone(), resource))
        });
        let mut options = BTreeMap::new();
        if name == "bridge" {
            let flag = |on: bool| on.to_string();
            options.insert("com.docker.network.bridge.default_bridge".into(), flag(true));
            options.insert("com.docker.network.bridge.enable_icc".into(), flag(self.config.icc));
            options.insert("com.docker.network.bridge.enable_ip_masquerade".into(), flag(self.config.ip_masq));
            options.insert(
                "com.docker.network.bridge.host_binding_ipv4".into(),
                self.config.default_host_ip.map_or_else(|| "0.0.0.0".into(), |ip| ip.to_string()),
            );
            options.insert("com.docker.network.bridge.name".into(), BRIDGE.into());
            options.insert("com.docker.network.driver.mtu".into(), self.config.mtu.unwrap_or(1500).to_string());
        }
        ApiNetwork {
            name: name.into(),
            id: id_of(name),
            created: self.created.clone(),
            scope: "local".into(),
            driver: driver.into(),
            enable_ipv4: true,
            ipam: Ipam { driver: "default".into(), options: None, config: ipam_config.or(Some(Vec::new())) },
            containers: members.collect(),
            options,
            ..ApiNetwork::default()
        }
    }

    /// The networks that pass the filters.
    pub fn list(&self, filters: &Filters, views: &[Arc<View>]) -> Result<Vec<ApiNetwork>> {
        filters.check(&["dangling", "driver", "id", "label", "name", "scope", "type"]).map_err(Error::invalid)?;
        if let Some(kind) = filters.get("type").find(|kind| !matches!(*kind, "custom" | "builtin")) {
            return Err(Error::invalid(format!("invalid filter: 'type'='{kind}'")));
        }
        let custom_only = filters.get("type").any(|kind| kind == "custom")
            || filters.boolean("dangling", false).map_err(Error::invalid)?;
        let wanted = |name: &str, driver: &str| {
            !custom_only
                && filters.matches("driver", driver)
                && filters.matches("scope", "local")
                && filters.matches_part("name", name)
                && filters.matches_part("id", &id_of(name))
                && !filters.contains("label")
        };
        let shown = BUILT_IN.iter().filter(|(name, driver)| wanted(name, driver));
        Ok(shown
            .map(|(name, driver)| ApiNetwork { containers: BTreeMap::new(), ..self.show(name, driver, views) })
            .collect())
    }

    /// One network, by name or the beginning of its id.
    pub fn inspect(&self, wanted: &str, views: &[Arc<View>]) -> Result<ApiNetwork> {
        let found = BUILT_IN
            .iter()
            .find(|(name, _)| *name == wanted || (!wanted.is_empty() && id_of(name).starts_with(wanted)));
        let (name, driver) = found.ok_or_else(|| Error::not_found(format!("network {wanted} not found")))?;
        Ok(self.show(name, driver, views))
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    // Every change is whole before anything that may panic.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn choose_subnet(config: &Config, kernel: &Network) -> Result<IpNet> {
    let used = kernel.used_networks(&[BRIDGE]).map_err(from_network)?;
    if let Some(bip) = &config.bip {
        let net: IpNet = bip.parse().map_err(|_| {
            Error::invalid(format!("invalid --bip {bip:?}: give an address with its prefix, e.g. 172.17.0.1/16"))
        })?;
        ipam::check(net.network(), &used).map_err(from_network)?;
        return Ok(net);
    }
    // The bridge of an earlier daemon keeps its addresses: containers may be using them.
    let all = kernel.used_networks(&[]).map_err(from_network)?;
    let suffix = format!("dev {BRIDGE}");
    let earlier = all.iter().find(|used| used.by.starts_with("address") && used.by.ends_with(&suffix));
    if let Some(earlier) = earlier.filter(|used| used.net.address().is_ipv4()) {
        return Ok(earlier.net);
    }
    let subnet = ipam::choose(&used).map_err(from_network)?;
    let IpAddr::V4(network) = subnet.network().address() else {
        return Err(Error::system(format!("{subnet} is no IPv4 network")));
    };
    IpNet::new(IpAddr::V4(Ipv4Addr::from(u32::from(network) + 1)), subnet.prefix()).map_err(from_network)
}

fn parse_mac(text: &str) -> Result<Option<[u8; 6]>> {
    if text.is_empty() {
        return Ok(None);
    }
    let bytes: Option<Vec<u8>> = text.split([':', '-']).map(|part| u8::from_str_radix(part, 16).ok()).collect();
    let mac: Option<[u8; 6]> = bytes.and_then(|bytes| bytes.try_into().ok());
    mac.map(Some).ok_or_else(|| Error::invalid(format!("invalid MAC address: {text}")))
}

fn open_namespace(pid: i32) -> Result<fs::File> {
    let path = format!("/proc/{pid}/ns/net");
    fs::File::open(&path).map_err(|e| Error::system(format!("open {path}: {e}")))
}

async fn on_pool<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Error::system(format!("network set-up was cut short: {e}"))))
}

/// Written in place: the container may have the file mounted.
fn put(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| Error::system(format!("write {}: {e}", path.display())))
}

fn from_network(e: brig_network::Error) -> Error {
    let kind = match e.kind {
        // Docker answers 500 to a port that is taken, and clients know it.
        brig_network::ErrorKind::PortInUse | brig_network::ErrorKind::System => ErrorKind::System,
        brig_network::ErrorKind::NoAddress | brig_network::ErrorKind::Invalid => ErrorKind::InvalidParameter,
        brig_network::ErrorKind::NotFound => ErrorKind::NotFound,
        brig_network::ErrorKind::Unsupported => ErrorKind::System,
    };
    Error::new(kind, e.message)
}

/// Parses `80`, `80/udp`.
fn parse_port(text: &str) -> Result<(u16, Protocol)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let bad = || Error::invalid(format!("invalid port specification: \"{text}\""));
    let number: u16 = number.parse().ok().filter(|n| *n > 0).ok_or_else(bad)?;
    Ok((number, protocol.parse().map_err(|_| Error::invalid(format!("invalid proto: {protocol}")))?))
}

/// What is to be published: `-p`s, and for `-P` every exposed port that no `-p` names.
fn wishes(config: &ContainerConfig, host: &HostConfig, default_ip: Option<IpAddr>) -> Result<Vec<Publish>> {
    let mut wishes = Vec::new();
    for (port, bindings) in host.port_bindings.iter().flatten() {
        let (container_port, protocol) = parse_port(port)?;
        let any = [Default::default()];
        let bindings = bindings.as_deref().filter(|list| !list.is_empty()).unwrap_or(&any);
        for binding in bindings {
            let host_ip = match binding.host_ip.as_str() {
                "" => default_ip,
                text => Some(text.parse().map_err(|_| Error::invalid(format!("invalid IP address: {text}")))?),
            };
            let host_ports = match binding.host_port.as_str() {
                "" | "0" => None,
                text => Some(text.parse::<PortRange>().map_err(from_network)?),
            };
            wishes.push(Publish { host_ip, host_ports, container_port, protocol });
        }
    }
    if host.publish_all_ports {
        for (port, _) in config.exposed_ports.iter().flatten() {
            let (container_port, protocol) = parse_port(port)?;
            if !wishes.iter().any(|w| w.container_port == container_port && w.protocol == protocol) {
                wishes.push(Publish { host_ip: default_ip, host_ports: None, container_port, protocol });
            }
        }
    }
    Ok(wishes)
}

/// Refuses ports that cannot be meant, when the container is created.
pub fn check_ports(config: &ContainerConfig, host: &HostConfig) -> Result<()> {
    for (port, _) in config.exposed_ports.iter().flatten() {
        parse_port(port)?;
    }
    for entry in host.extra_hosts.iter().flatten() {
        files::parse_extra_host(entry).map_err(from_network)?;
    }
    for server in host.dns.iter().flatten() {
        server.parse::<IpAddr>().map_err(|_| Error::invalid(format!("invalid DNS server address: {server}")))?;
    }
    parse_mac(&config.mac_address)?;
    wishes(config, host, None).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use brig_api::container::PortBinding;

    #[test]
    fn ports_are_wished_for() {
        let config = ContainerConfig {
            exposed_ports: Some([("80/tcp".to_owned(), None), ("53/udp".to_owned(), None)].into()),
            ..ContainerConfig::default()
        };
        let binding = PortBinding { host_ip: "127.0.0.1".into(), host_port: "8000-8010".into() };
        let host = HostConfig {
            publish_all_ports: true,
            port_bindings: Some([("80/tcp".to_owned(), Some(vec![binding]))].into()),
            ..HostConfig::default()
        };
        let wishes = wishes(&config, &host, None).unwrap();
        assert_eq!(wishes.len(), 2);
        assert_eq!(wishes[0].host_ports.unwrap().last, 8010);
        assert_eq!((wishes[1].container_port, wishes[1].protocol, wishes[1].host_ports), (53, Protocol::Udp, None));
    }

    #[test]
    fn nonsense_is_refused() {
        let with = |port: &str, ip: &str, host_port: &str| HostConfig {
            port_bindings: Some(
                [(port.to_owned(), Some(vec![PortBinding { host_ip: ip.into(), host_port: host_port.into() }]))].into(),
            ),
            ..HostConfig::default()
        };
        for bad in [
            with("0", "", ""),
            with("80/what", "", ""),
            with("80", "x", ""),
            with("80", "", "9-8"),
            with("80", "", "+1"),
        ] {
            assert!(check_ports(&ContainerConfig::default(), &bad).is_err(), "{:?}", bad.port_bindings);
        }
    }

    #[test]
    fn ids_of_built_in_networks_differ() {
        assert_eq!(id_of("bridge").len(), 64);
        assert_ne!(id_of("bridge"), id_of("host"));
    }
}
