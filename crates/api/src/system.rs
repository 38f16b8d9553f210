//! The engine itself as it travels over the socket: info, version, disk usage, authentication.
//! Data only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::go::{empty, null};

/// The answer to `GET /info`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Info {
    /// Unique identifier of the daemon.
    #[serde(rename = "ID", deserialize_with = "null")]
    pub id: String,
    /// Total number of containers on the host.
    #[serde(deserialize_with = "null")]
    pub containers: i64,
    /// Number of containers with status `"running"`.
    #[serde(deserialize_with = "null")]
    pub containers_running: i64,
    /// Number of containers with status `"paused"`.
    #[serde(deserialize_with = "null")]
    pub containers_paused: i64,
    /// Number of containers with status `"stopped"`.
    #[serde(deserialize_with = "null")]
    pub containers_stopped: i64,
    /// Total number of images on the host.
    #[serde(deserialize_with = "null")]
    pub images: i64,
    /// Name of the storage driver in use.
    #[serde(deserialize_with = "null")]
    pub driver: String,
    /// Facts about the storage, as label and value.
    #[serde(deserialize_with = "null")]
    pub driver_status: Vec<[String; 2]>,
    /// Available plugins per type.
    #[serde(deserialize_with = "null")]
    pub plugins: PluginsInfo,
    /// Indicates if the host has memory limit support enabled.
    #[serde(deserialize_with = "null")]
    pub memory_limit: bool,
    /// Indicates if the host has memory swap limit support enabled.
    #[serde(deserialize_with = "null")]
    pub swap_limit: bool,
    /// The kernel limits kernel memory (obsolete).
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub kernel_memory: bool,
    /// The kernel limits TCP buffers (cgroup v1).
    #[serde(rename = "KernelMemoryTCP", deserialize_with = "null", skip_serializing_if = "empty")]
    pub kernel_memory_tcp: bool,
    /// Indicates if CPU CFS(Completely Fair Scheduler) period is supported by the host.
    #[serde(deserialize_with = "null")]
    pub cpu_cfs_period: bool,
    /// Indicates if CPU CFS(Completely Fair Scheduler) quota is supported by the host.
    #[serde(deserialize_with = "null")]
    pub cpu_cfs_quota: bool,
    /// Indicates if CPU Shares limiting is supported by the host.
    #[serde(rename = "CPUShares", deserialize_with = "null")]
    pub cpu_shares: bool,
    /// Indicates if CPUsets (cpuset.cpus, cpuset.mems) are supported by the host.
    #[serde(rename = "CPUSet", deserialize_with = "null")]
    pub cpu_set: bool,
    /// Indicates if the host kernel has PID limit support enabled.
    #[serde(deserialize_with = "null")]
    pub pids_limit: bool,
    /// Indicates IPv4 forwarding is enabled.
    #[serde(rename = "IPv4Forwarding", deserialize_with = "null")]
    pub ipv4_forwarding: bool,
    /// Bridged IPv4 packets pass the firewall.
    #[serde(deserialize_with = "null")]
    pub bridge_nf_iptables: bool,
    /// Bridged IPv6 packets pass the firewall.
    #[serde(deserialize_with = "null")]
    pub bridge_nf_ip6tables: bool,
    /// Indicates if the daemon is running in debug-mode / with debug-level logging enabled.
    #[serde(deserialize_with = "null")]
    pub debug: bool,
    /// The total number of file Descriptors in use by the daemon process.
    #[serde(deserialize_with = "null")]
    pub n_fd: i64,
    /// Indicates if OOM killer disable is supported on the host.
    #[serde(deserialize_with = "null")]
    pub oom_kill_disable: bool,
    /// Tasks of the daemon (goroutines in Docker's).
    #[serde(deserialize_with = "null")]
    pub n_goroutines: i64,
    /// Current system-time in [RFC 3339](https://www.ietf.org/rfc/rfc3339.txt) format with
    /// nano-seconds.
    #[serde(deserialize_with = "null")]
    pub system_time: String,
    /// The logging driver to use as a default for new containers.
    #[serde(deserialize_with = "null")]
    pub logging_driver: String,
    /// The driver to use for managing cgroups.
    #[serde(deserialize_with = "null")]
    pub cgroup_driver: String,
    /// The version of the cgroup.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub cgroup_version: String,
    /// Number of event listeners subscribed.
    #[serde(deserialize_with = "null")]
    pub n_events_listener: i64,
    /// Kernel version of the host.
    #[serde(deserialize_with = "null")]
    pub kernel_version: String,
    /// Name of the host's operating system, for example: "Ubuntu 24.04 LTS" or "Windows Server 2016
    /// Datacenter"
    #[serde(deserialize_with = "null")]
    pub operating_system: String,
    /// Version of the host's operating system
    #[serde(rename = "OSVersion", deserialize_with = "null")]
    pub os_version: String,
    /// Generic type of the operating system of the host, as returned by the Go runtime (`GOOS`).
    #[serde(rename = "OSType", deserialize_with = "null")]
    pub os_type: String,
    /// Hardware architecture of the host, as returned by the operating system. This is equivalent
    /// to the output of `uname -m` on Linux.
    #[serde(deserialize_with = "null")]
    pub architecture: String,
    /// Address / URL of the index server that is used for image search, and as a default for user
    /// authentication for Docker Hub and Docker Cloud.
    #[serde(deserialize_with = "null")]
    pub index_server_address: String,
    /// RegistryServiceConfig stores daemon registry services configuration.
    pub registry_config: Option<RegistryConfig>,
    /// The number of logical CPUs usable by the daemon.
    #[serde(rename = "NCPU", deserialize_with = "null")]
    pub ncpu: i64,
    /// Total amount of physical memory available on the host, in bytes.
    #[serde(deserialize_with = "null")]
    pub mem_total: i64,
    /// User-defined resources can be either Integer resources (e.g, `SSD=3`) or String resources
    /// (e.g, `GPU=UUID1`).
    pub generic_resources: Option<Vec<serde_json::Value>>,
    /// Root directory of persistent Docker state.
    #[serde(deserialize_with = "null")]
    pub docker_root_dir: String,
    /// HTTP-proxy configured for the daemon. This value is obtained from the
    /// [`HTTP_PROXY`](https://www.gnu.org/software/wget/manual/html_node/Proxies.html) environment
    /// variable. Credentials ([user info
    /// component](https://tools.ietf.org/html/rfc3986#section-3.2.1)) in the proxy URL are masked
    /// in the API response.
    #[serde(deserialize_with = "null")]
    pub http_proxy: String,
    /// HTTPS-proxy configured for the daemon. This value is obtained from the
    /// [`HTTPS_PROXY`](https://www.gnu.org/software/wget/manual/html_node/Proxies.html) environment
    /// variable. Credentials ([user info
    /// component](https://tools.ietf.org/html/rfc3986#section-3.2.1)) in the proxy URL are masked
    /// in the API response.
    #[serde(deserialize_with = "null")]
    pub https_proxy: String,
    /// Comma-separated list of domain extensions for which no proxy should be used. This value is
    /// obtained from the
    /// [`NO_PROXY`](https://www.gnu.org/software/wget/manual/html_node/Proxies.html) environment
    /// variable.
    #[serde(deserialize_with = "null")]
    pub no_proxy: String,
    /// Hostname of the host.
    #[serde(deserialize_with = "null")]
    pub name: String,
    /// User-defined labels (key/value metadata) as set on the daemon.
    #[serde(deserialize_with = "null")]
    pub labels: Vec<String>,
    /// Indicates if experimental features are enabled on the daemon.
    #[serde(deserialize_with = "null")]
    pub experimental_build: bool,
    /// Version string of the daemon.
    #[serde(deserialize_with = "null")]
    pub server_version: String,
    /// List of [OCI compliant](https://github.com/opencontainers/runtime-spec) runtimes configured
    /// on the daemon. Keys hold the "name" used to reference the runtime.
    #[serde(deserialize_with = "null")]
    pub runtimes: BTreeMap<String, Runtime>,
    /// Name of the default OCI runtime that is used when starting containers.
    #[serde(deserialize_with = "null")]
    pub default_runtime: String,
    /// Represents generic information about swarm.
    #[serde(deserialize_with = "null")]
    pub swarm: SwarmInfo,
    /// Indicates if live restore is enabled.
    #[serde(deserialize_with = "null")]
    pub live_restore_enabled: bool,
    /// Represents the isolation technology to use as a default for containers. The supported values
    /// are platform-specific.
    #[serde(deserialize_with = "null")]
    pub isolation: String,
    /// Name and, optional, path of the `docker-init` binary.
    #[serde(deserialize_with = "null")]
    pub init_binary: String,
    /// Commit holds the Git-commit (SHA1) that a binary was built from, as reported in the
    /// version-string of external tools, such as `containerd`, or `runC`.
    #[serde(deserialize_with = "null")]
    pub containerd_commit: Commit,
    /// Commit holds the Git-commit (SHA1) that a binary was built from, as reported in the
    /// version-string of external tools, such as `containerd`, or `runC`.
    #[serde(deserialize_with = "null")]
    pub runc_commit: Commit,
    /// Commit holds the Git-commit (SHA1) that a binary was built from, as reported in the
    /// version-string of external tools, such as `containerd`, or `runC`.
    #[serde(deserialize_with = "null")]
    pub init_commit: Commit,
    /// List of security features that are enabled on the daemon, such as apparmor, seccomp,
    /// SELinux, user-namespaces (userns), rootless and no-new-privileges.
    #[serde(deserialize_with = "null")]
    pub security_options: Vec<String>,
    /// Reports a summary of the product license on the daemon.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub product_license: String,
    /// Pools that subnets of new networks are taken from.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub default_address_pools: Vec<AddressPool>,
    /// Information about the daemon's firewalling configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firewall_backend: Option<FirewallInfo>,
    /// List of directories where (Container Device Interface) CDI specifications are located.
    #[serde(rename = "CDISpecDirs", deserialize_with = "null")]
    pub cdi_spec_dirs: Vec<String>,
    /// List of warnings / informational messages about missing features, or issues related to the
    /// daemon configuration.
    pub warnings: Option<Vec<String>>,
}

/// The drivers that are there, by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PluginsInfo {
    /// Names of available volume-drivers, and network-driver plugins.
    #[serde(deserialize_with = "null")]
    pub volume: Vec<String>,
    /// Names of available network-drivers, and network-driver plugins.
    #[serde(deserialize_with = "null")]
    pub network: Vec<String>,
    /// Names of available authorization plugins.
    pub authorization: Option<Vec<String>>,
    /// Names of available logging-drivers, and logging-driver plugins.
    #[serde(deserialize_with = "null")]
    pub log: Vec<String>,
}

/// The registries as configured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RegistryConfig {
    /// List of IP ranges of insecure registries, using the CIDR syntax ([RFC
    /// 4632](https://tools.ietf.org/html/4632)). Insecure registries accept un-encrypted (HTTP)
    /// and/or untrusted (HTTPS with certificates from unknown CAs) communication.
    #[serde(rename = "InsecureRegistryCIDRs", deserialize_with = "null")]
    pub insecure_registry_cidrs: Vec<String>,
    /// The registries by host.
    #[serde(deserialize_with = "null")]
    pub index_configs: BTreeMap<String, IndexInfo>,
    /// List of registry URLs that act as a mirror for the official (`docker.io`) registry.
    #[serde(deserialize_with = "null")]
    pub mirrors: Vec<String>,
}

/// One registry as configured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct IndexInfo {
    /// Name of the registry, such as "docker.io".
    #[serde(deserialize_with = "null")]
    pub name: String,
    /// List of mirrors, expressed as URIs.
    #[serde(deserialize_with = "null")]
    pub mirrors: Vec<String>,
    /// Indicates if the registry is part of the list of insecure registries.
    #[serde(deserialize_with = "null")]
    pub secure: bool,
    /// Indicates whether this is an official registry (i.e., Docker Hub / docker.io)
    #[serde(deserialize_with = "null")]
    pub official: bool,
}

/// A runtime that containers can ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Runtime {
    /// Program to run.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub path: String,
    /// Its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_args: Option<Vec<String>>,
    /// What it says about itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<BTreeMap<String, String>>,
}

/// The state of a swarm; always inactive here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SwarmInfo {
    /// Id of this node.
    #[serde(rename = "NodeID", deserialize_with = "null")]
    pub node_id: String,
    /// Address of this node.
    #[serde(deserialize_with = "null")]
    pub node_addr: String,
    /// `inactive`.
    #[serde(deserialize_with = "null")]
    pub local_node_state: String,
    /// This node is a manager.
    #[serde(deserialize_with = "null")]
    pub control_available: bool,
    /// What went wrong.
    #[serde(deserialize_with = "null")]
    pub error: String,
    /// The managers.
    pub remote_managers: Option<Vec<serde_json::Value>>,
}

/// The version of a helper program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Commit {
    /// What was found.
    #[serde(rename = "ID", deserialize_with = "null")]
    pub id: String,
    /// What was expected (obsolete).
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub expected: String,
}

/// A pool that subnets are taken from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AddressPool {
    /// The pool, as `172.20.0.0/16`.
    #[serde(deserialize_with = "null")]
    pub base: String,
    /// Prefix length of each subnet.
    #[serde(deserialize_with = "null")]
    pub size: i64,
}

/// The firewall in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct FirewallInfo {
    /// The name of the firewall backend driver.
    #[serde(deserialize_with = "null")]
    pub driver: String,
    /// Information about the firewall backend, provided as "label" / "value" pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<Vec<[String; 2]>>,
}

/// The answer to `GET /version`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Version {
    /// The product.
    #[serde(deserialize_with = "null")]
    pub platform: VersionPlatform,
    /// Information about system components
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub components: Vec<Component>,
    /// Version of the engine.
    #[serde(deserialize_with = "null")]
    pub version: String,
    /// The default (and highest) API version that is supported by the daemon
    #[serde(deserialize_with = "null")]
    pub api_version: String,
    /// The minimum API version that is supported by the daemon
    #[serde(rename = "MinAPIVersion", deserialize_with = "null", skip_serializing_if = "empty")]
    pub min_api_version: String,
    /// The Git commit of the source code that was used to build the daemon
    #[serde(deserialize_with = "null")]
    pub git_commit: String,
    /// Version of the compiler (Go in Docker's).
    #[serde(deserialize_with = "null")]
    pub go_version: String,
    /// The operating system that the daemon is running on ("linux" or "windows")
    #[serde(deserialize_with = "null")]
    pub os: String,
    /// Architecture of the daemon, as returned by the Go runtime (`GOARCH`).
    #[serde(deserialize_with = "null")]
    pub arch: String,
    /// The kernel version (`uname -r`) that the daemon is running on.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub kernel_version: String,
    /// Indicates if the daemon is started with experimental features enabled.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub experimental: bool,
    /// The date and time that the daemon was compiled.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub build_time: String,
}

/// The product that answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VersionPlatform {
    /// Its name.
    #[serde(deserialize_with = "null")]
    pub name: String,
}

/// One part of the product.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Component {
    /// Its name.
    #[serde(deserialize_with = "null")]
    pub name: String,
    /// Its version.
    #[serde(deserialize_with = "null")]
    pub version: String,
    /// Facts about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<BTreeMap<String, String>>,
}

/// The answer to `GET /system/df`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DiskUsage {
    /// Bytes in image layers.
    #[serde(deserialize_with = "null")]
    pub layers_size: i64,
    /// The images.
    pub images: Option<Vec<crate::image::Summary>>,
    /// The containers.
    pub containers: Option<Vec<crate::container::Summary>>,
    /// The volumes.
    pub volumes: Option<Vec<crate::volume::Volume>>,
    /// Records of the build cache.
    pub build_cache: Option<Vec<serde_json::Value>>,
    /// brig's own, told with the images: how many bytes `image prune -a` gives back. Docker's clients make a guess of it from
    /// the images' sizes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brig_reclaimable: Option<i64>,
    /// brig's own, told where there is any: what the registry over the engine's storage holds and no prune takes. Not part of
    /// `layers_size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brig_registry: Option<RegistryUsage>,
}

/// What only a registry holds: what was pushed to it and is no image, or is wanted by a push in flight, and uploads under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RegistryUsage {
    /// How many blobs, manifests and uploads that are.
    pub count: u64,
    /// Bytes of the disk.
    pub size: i64,
}

/// One line of the answer to `POST /brig/system/check`, which is brig's own: what was found, or at the end the summary.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CheckLine {
    /// What kind of thing is not as it should be: `layer`, `blob`, `image`, `tag`, `container`, `volume`, `database`, `file`.
    #[serde(skip_serializing_if = "empty")]
    pub kind: String,
    /// Which one.
    #[serde(skip_serializing_if = "empty")]
    pub name: String,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "empty")]
    pub problem: String,
    /// What was done about it.
    #[serde(skip_serializing_if = "empty")]
    pub done: String,
    /// Whether nothing is wrong with it any more.
    pub mended: bool,
    /// What somebody has to do.
    #[serde(skip_serializing_if = "empty")]
    pub advice: String,
    /// Why the check could not go on; the last line.
    #[serde(skip_serializing_if = "empty")]
    pub error: String,
    /// The last line of a check that came to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<CheckSummary>,
}

/// What a check found in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CheckSummary {
    /// Everything that was not as it should be.
    pub found: u64,
    /// How much of it was mended.
    pub mended: u64,
    /// What is left to be done.
    pub left: u64,
}

/// Credentials for a registry, as in `POST /auth` and the header `X-Registry-Auth`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AuthConfig {
    /// User name.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub username: String,
    /// Password.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub password: String,
    /// `user:password` in base64; an older form.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub auth: String,
    /// Obsolete.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub email: String,
    /// The registry.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub serveraddress: String,
    /// A refresh token, used instead of a password.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub identitytoken: String,
    /// A bearer token for the registry.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub registrytoken: String,
}

/// The answer to `POST /auth`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AuthResponse {
    /// An opaque token used to authenticate a user after a successful login
    #[serde(deserialize_with = "null")]
    pub identity_token: String,
    /// The status of the authentication
    #[serde(deserialize_with = "null")]
    pub status: String,
}

/// The body of every answer that is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ErrorResponse {
    /// The error message.
    #[serde(deserialize_with = "null")]
    pub message: String,
}
