//! Link, address, ports and firewall for one network namespace at a time: netlink only, no programs are run.
//! Knows no containers and no names: an [`Endpoint`] is what joins a namespace to a bridge.
//!
//! Everything set up here has a teardown that may run twice, and [`Network::restore`] makes the kernel's state
//! equal to what the caller says is true.

mod conntrack;
mod error;
pub mod files;
mod firewall;
pub mod ipam;
mod link;
mod net;
mod network;
mod nft;
pub mod ports;
mod reaper;
mod sysctl;
mod watch;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use error::{Error, ErrorKind, Result};
pub use net::{IpNet, Protocol, format_mac, mac_for};
pub use network::{Config, Network, interface_addresses};

/// A bridge: a network on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// The interface's name.
    pub name: String,
    /// The host's own addresses on it, which containers use as gateways.
    pub gateways: Vec<IpNet>,
    /// The largest packet in bytes; `None`: 1,500.
    pub mtu: Option<u32>,
    /// Whether its containers may talk to each other.
    pub icc: bool,
    /// Whether containers leave by other interfaces under the host's address.
    pub masquerade: bool,
    /// Whether it has no way out and in.
    pub internal: bool,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The host's address; 0.0.0.0 or :: for all.
    pub host_ip: IpAddr,
    /// The port there.
    pub host_port: u16,
    /// The container's port.
    pub container_port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

/// What joins a namespace to a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Whose it is: the owner of its port claims (a container's id).
    pub id: String,
    /// The bridge's interface name.
    pub bridge: String,
    /// The name of the end on the host; see [`Endpoint::host_interface_name`].
    pub host_interface: String,
    /// The name of the end in the namespace, such as `eth0`.
    pub interface: String,
    /// The MAC address in the namespace; see [`mac_for`].
    pub mac: [u8; 6],
    /// The addresses in the namespace.
    pub addresses: Vec<IpNet>,
    /// Where default routes go, at most one per IP version.
    pub gateways: Vec<IpAddr>,
    /// The ports published on the host.
    pub ports: Vec<Port>,
}

impl Endpoint {
    /// A name for the host's end that is the same for the same owner and bridge: `veth` and eleven hex digits.
    pub fn host_interface_name(id: &str, bridge: &str) -> String {
        // FNV-1a, 64 bits: it has to be spread and stable, not secret.
        let hash = id
            .bytes()
            .chain([0])
            .chain(bridge.bytes())
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        format!("veth{:011x}", hash >> 20)
    }

    /// The address that a port on `host_ip` is translated to: the first one of the same IP version.
    fn address_for(&self, host_ip: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().map(IpNet::address).find(|address| address.is_ipv4() == host_ip.is_ipv4())
    }
}
