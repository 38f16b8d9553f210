//! Networks and endpoints as they travel over the socket.
//! Data only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::go::{empty, null};

/// A network in a list or in `GET /networks/{id}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Network {
    /// Name of the network.
    #[serde(deserialize_with = "null")]
    pub name: String,
    /// ID that uniquely identifies a network on a single machine.
    #[serde(deserialize_with = "null")]
    pub id: String,
    /// Date and time at which the network was created in [RFC
    /// 3339](https://www.ietf.org/rfc/rfc3339.txt) format with nano-seconds.
    #[serde(deserialize_with = "null")]
    pub created: String,
    /// The level at which the network exists (e.g. `swarm` for cluster-wide or `local` for machine
    /// level)
    #[serde(deserialize_with = "null")]
    pub scope: String,
    /// The name of the driver used to create the network (e.g. `bridge`, `overlay`).
    #[serde(deserialize_with = "null")]
    pub driver: String,
    /// Whether the network was created with IPv4 enabled.
    #[serde(rename = "EnableIPv4", deserialize_with = "null")]
    pub enable_ipv4: bool,
    /// Whether the network was created with IPv6 enabled.
    #[serde(rename = "EnableIPv6", deserialize_with = "null")]
    pub enable_ipv6: bool,
    /// The network's IP Address Management.
    #[serde(rename = "IPAM", deserialize_with = "null")]
    pub ipam: Ipam,
    /// Whether the network is created to only allow internal networking connectivity.
    #[serde(deserialize_with = "null")]
    pub internal: bool,
    /// Whether a global / swarm scope network is manually attachable by regular containers from
    /// workers in swarm mode.
    #[serde(deserialize_with = "null")]
    pub attachable: bool,
    /// Whether the network is providing the routing-mesh for the swarm cluster.
    #[serde(deserialize_with = "null")]
    pub ingress: bool,
    /// The config-only network source to provide the configuration for this network.
    #[serde(deserialize_with = "null")]
    pub config_from: ConfigReference,
    /// Whether the network is a config-only network. Config-only networks are placeholder networks
    /// for network configurations to be used by other networks. Config-only networks cannot be used
    /// directly to run containers or services.
    #[serde(deserialize_with = "null")]
    pub config_only: bool,
    /// The endpoints by container id; empty in a list.
    #[serde(deserialize_with = "null")]
    pub containers: BTreeMap<String, EndpointResource>,
    /// Network-specific options uses when creating the network.
    #[serde(deserialize_with = "null")]
    pub options: BTreeMap<String, String>,
    /// Metadata specific to the network being created.
    #[serde(deserialize_with = "null")]
    pub labels: BTreeMap<String, String>,
}

/// How addresses of a network are chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Ipam {
    /// Name of the IPAM driver to use.
    #[serde(deserialize_with = "null")]
    pub driver: String,
    /// Driver-specific options, specified as a map.
    pub options: Option<BTreeMap<String, String>>,
    /// List of IPAM configuration options, specified as a map:
    pub config: Option<Vec<IpamConfig>>,
}

/// One address pool of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct IpamConfig {
    /// The subnet, as `172.20.0.0/16`.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub subnet: String,
    /// The part of it that addresses are taken from.
    #[serde(rename = "IPRange", deserialize_with = "null", skip_serializing_if = "empty")]
    pub ip_range: String,
    /// The gateway's address.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub gateway: String,
    /// Addresses in use by others, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auxiliary_addresses: Option<BTreeMap<String, String>>,
}

/// The config-only network that settings were taken from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ConfigReference {
    /// The name of the config-only network that provides the network's configuration. The specified
    /// network must be an existing config-only network. Only network names are allowed, not network
    /// IDs.
    #[serde(deserialize_with = "null")]
    pub network: String,
}

/// An endpoint in `GET /networks/{id}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct EndpointResource {
    /// Name of the container.
    #[serde(deserialize_with = "null")]
    pub name: String,
    /// Id of the endpoint.
    #[serde(rename = "EndpointID", deserialize_with = "null")]
    pub endpoint_id: String,
    /// MAC address.
    #[serde(deserialize_with = "null")]
    pub mac_address: String,
    /// IPv4 address with prefix length.
    #[serde(rename = "IPv4Address", deserialize_with = "null")]
    pub ipv4_address: String,
    /// IPv6 address with prefix length.
    #[serde(rename = "IPv6Address", deserialize_with = "null")]
    pub ipv6_address: String,
}

/// A container's place on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct EndpointSettings {
    /// EndpointIPAMConfig represents an endpoint's IPAM configuration.
    #[serde(rename = "IPAMConfig")]
    pub ipam_config: Option<EndpointIpamConfig>,
    /// Links to other containers, `name:alias` (legacy).
    pub links: Option<Vec<String>>,
    /// Further names of the container on this network.
    pub aliases: Option<Vec<String>>,
    /// MAC address for the endpoint on this network. The network driver might ignore this
    /// parameter.
    #[serde(deserialize_with = "null")]
    pub mac_address: String,
    /// DriverOpts is a mapping of driver options and values. These options are passed directly to
    /// the driver and are driver specific.
    pub driver_opts: Option<BTreeMap<String, String>>,
    /// This property determines which endpoint will provide the default gateway for a container.
    /// The endpoint with the highest priority will be used. If multiple endpoints have the same
    /// priority, endpoints are lexicographically sorted based on their network name, and the one
    /// that sorts first is picked.
    #[serde(deserialize_with = "null")]
    pub gw_priority: i64,
    /// Unique ID of the network.
    #[serde(rename = "NetworkID", deserialize_with = "null")]
    pub network_id: String,
    /// Unique ID for the service endpoint in a Sandbox.
    #[serde(rename = "EndpointID", deserialize_with = "null")]
    pub endpoint_id: String,
    /// Gateway address for this network.
    #[serde(deserialize_with = "null")]
    pub gateway: String,
    /// IPv4 address.
    #[serde(rename = "IPAddress", deserialize_with = "null")]
    pub ip_address: String,
    /// Mask length of the IPv4 address.
    #[serde(rename = "IPPrefixLen", deserialize_with = "null")]
    pub ip_prefix_len: i64,
    /// IPv6 gateway address.
    #[serde(rename = "IPv6Gateway", deserialize_with = "null")]
    pub ipv6_gateway: String,
    /// Global IPv6 address.
    #[serde(rename = "GlobalIPv6Address", deserialize_with = "null")]
    pub global_ipv6_address: String,
    /// Mask length of the global IPv6 address.
    #[serde(rename = "GlobalIPv6PrefixLen", deserialize_with = "null")]
    pub global_ipv6_prefix_len: i64,
    /// List of all DNS names an endpoint has on a specific network. This list is based on the
    /// container name, network aliases, container short ID, and hostname.
    #[serde(rename = "DNSNames")]
    pub dns_names: Option<Vec<String>>,
}

/// Addresses asked for on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct EndpointIpamConfig {
    /// IPv4 address asked for.
    #[serde(rename = "IPv4Address", deserialize_with = "null", skip_serializing_if = "empty")]
    pub ipv4_address: String,
    /// IPv6 address asked for.
    #[serde(rename = "IPv6Address", deserialize_with = "null", skip_serializing_if = "empty")]
    pub ipv6_address: String,
    /// Link-local addresses to add.
    #[serde(rename = "LinkLocalIPs", skip_serializing_if = "Option::is_none")]
    pub link_local_ips: Option<Vec<String>>,
}

/// The networks that a new container joins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkingConfig {
    /// The endpoints by network name or id.
    pub endpoints_config: Option<BTreeMap<String, Option<EndpointSettings>>>,
}

/// The body of `POST /networks/create`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CreateRequest {
    /// Name of the network.
    #[serde(deserialize_with = "null")]
    pub name: String,
    /// Obsolete; names are always unique.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check_duplicate: Option<bool>,
    /// The driver; empty means `bridge`.
    #[serde(deserialize_with = "null")]
    pub driver: String,
    /// `local`, `global` or `swarm`.
    #[serde(deserialize_with = "null")]
    pub scope: String,
    /// Addresses are IPv4; null means yes.
    #[serde(rename = "EnableIPv4", skip_serializing_if = "Option::is_none")]
    pub enable_ipv4: Option<bool>,
    /// Addresses are IPv6; null means the daemon's default.
    #[serde(rename = "EnableIPv6", skip_serializing_if = "Option::is_none")]
    pub enable_ipv6: Option<bool>,
    /// How addresses are chosen.
    #[serde(rename = "IPAM")]
    pub ipam: Option<Ipam>,
    /// Without a way out.
    #[serde(deserialize_with = "null")]
    pub internal: bool,
    /// Containers may join a swarm network by hand.
    #[serde(deserialize_with = "null")]
    pub attachable: bool,
    /// The routing-mesh network of a swarm.
    #[serde(deserialize_with = "null")]
    pub ingress: bool,
    /// Only a template for other networks.
    #[serde(deserialize_with = "null")]
    pub config_only: bool,
    /// The template to take settings from.
    pub config_from: Option<ConfigReference>,
    /// Options of the driver.
    pub options: Option<BTreeMap<String, String>>,
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
}

/// The answer to `POST /networks/create`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CreateResponse {
    /// The ID of the created network.
    #[serde(deserialize_with = "null")]
    pub id: String,
    /// Warnings encountered when creating the container
    #[serde(deserialize_with = "null")]
    pub warning: String,
}

/// The body of `POST /networks/{id}/connect`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ConnectRequest {
    /// The ID or name of the container to connect to the network.
    #[serde(deserialize_with = "null")]
    pub container: String,
    /// Configuration for a network endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_config: Option<EndpointSettings>,
}

/// The body of `POST /networks/{id}/disconnect`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DisconnectRequest {
    /// The ID or name of the container to disconnect from the network.
    #[serde(deserialize_with = "null")]
    pub container: String,
    /// Force the container to disconnect from the network.
    #[serde(deserialize_with = "null")]
    pub force: bool,
}

/// The answer to `POST /networks/prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PruneReport {
    /// Names of the removed networks.
    pub networks_deleted: Option<Vec<String>>,
}
