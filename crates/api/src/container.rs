//! Containers as they travel over the socket: what `create` takes and what `inspect`, `ps` and the small answers give.
//! Data only: no decision about a value is taken here. Field order and nulls are those of Docker's Go structs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::go::{empty, null, strings};
pub use crate::host_config::{
    BindOptions, DeviceMapping, DeviceRequest, DriverConfig, HostConfig, ImageOptions, LogConfig, Mount, PortBinding,
    PortMap, Resources, RestartPolicy, ThrottleDevice, TmpfsOptions, Ulimit, VolumeOptions, WeightDevice,
};
use crate::image::Descriptor;
use crate::image::GraphDriver;
use crate::network::EndpointSettings;
use crate::network::NetworkingConfig;

/// Configuration for a container that is portable between hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Config {
    /// The hostname to use for the container, as a valid RFC 1123 hostname.
    #[serde(deserialize_with = "null")]
    pub hostname: String,
    /// The domain name to use for the container.
    #[serde(deserialize_with = "null")]
    pub domainname: String,
    /// Commands run as this user inside the container. If omitted, commands run as the user
    /// specified in the image the container was started from.
    #[serde(deserialize_with = "null")]
    pub user: String,
    /// Whether to attach to `stdin`.
    #[serde(deserialize_with = "null")]
    pub attach_stdin: bool,
    /// Whether to attach to `stdout`.
    #[serde(deserialize_with = "null")]
    pub attach_stdout: bool,
    /// Whether to attach to `stderr`.
    #[serde(deserialize_with = "null")]
    pub attach_stderr: bool,
    /// Ports the container listens on, as `port/protocol` keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Option<Empty>>>,
    /// Attach standard streams to a TTY, including `stdin` if it is not closed.
    #[serde(deserialize_with = "null")]
    pub tty: bool,
    /// Open `stdin`
    #[serde(deserialize_with = "null")]
    pub open_stdin: bool,
    /// Close `stdin` after one attached client disconnects
    #[serde(deserialize_with = "null")]
    pub stdin_once: bool,
    /// A list of environment variables to set inside the container in the form `["VAR=value",
    /// ...]`. A variable without `=` is removed from the environment, rather than to have an empty
    /// value.
    pub env: Option<Vec<String>>,
    /// Command to run, as a list (a single string is accepted).
    #[serde(deserialize_with = "strings")]
    pub cmd: Option<Vec<String>>,
    /// A test to perform to check that the container is healthy. Healthcheck commands should be
    /// side-effect free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// Command is already escaped (Windows only)
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub args_escaped: bool,
    /// The name (or reference) of the image to use when creating the container, or which was used
    /// when the container was created.
    #[serde(deserialize_with = "null")]
    pub image: String,
    /// An object mapping mount point paths inside the container to empty objects.
    pub volumes: Option<BTreeMap<String, Option<Empty>>>,
    /// The working directory for commands to run in.
    #[serde(deserialize_with = "null")]
    pub working_dir: String,
    /// The entry point, as a list (a single string is accepted).
    #[serde(deserialize_with = "strings")]
    pub entrypoint: Option<Vec<String>>,
    /// Networking is disabled for the container.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub network_disabled: bool,
    /// MAC address of the container (deprecated since API 1.44).
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub mac_address: String,
    /// `ONBUILD` metadata that were defined in the image's `Dockerfile`.
    pub on_build: Option<Vec<String>>,
    /// User-defined key/value metadata.
    pub labels: Option<BTreeMap<String, String>>,
    /// Signal to stop a container as a string or unsigned integer.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub stop_signal: String,
    /// Timeout to stop a container in seconds. If omitted, the daemon-wide default
    /// (`default-stop-timeout`) is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// Shell for the shell form of `RUN`, `CMD` and `ENTRYPOINT`.
    #[serde(deserialize_with = "strings", skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

/// Go's `struct{}`: an object with no fields, the value of the "set" maps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Empty {}

/// A test to perform to check that the container is healthy. Healthcheck commands should be
/// side-effect free.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HealthConfig {
    /// The test to perform: empty, `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub test: Vec<String>,
    /// Time between checks in nanoseconds; 0 inherits.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub interval: i64,
    /// Time before a check counts as hung, in nanoseconds; 0 inherits.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub timeout: i64,
    /// Grace time after start in which failures do not count, in nanoseconds; 0 inherits.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub start_period: i64,
    /// Time between checks during the start period, in nanoseconds; 0 inherits.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub start_interval: i64,
    /// Consecutive failures needed to be unhealthy; 0 inherits.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub retries: i64,
}

/// The body of `POST /containers/create`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CreateRequest {
    /// The portable part, in the top level of the object.
    #[serde(flatten)]
    pub config: Config,
    /// The part that depends on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_config: Option<HostConfig>,
    /// The networks to join.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networking_config: Option<NetworkingConfig>,
}

/// The answer to `POST /containers/create`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CreateResponse {
    /// The ID of the created container
    #[serde(deserialize_with = "null")]
    pub id: String,
    /// Warnings encountered when creating the container
    #[serde(deserialize_with = "null")]
    pub warnings: Vec<String>,
}

/// The answer to `GET /containers/{id}/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct InspectResponse {
    /// The ID of this container as a 128-bit (64-character) hexadecimal string (32 bytes).
    #[serde(deserialize_with = "null")]
    pub id: String,
    /// Date and time at which the container was created, formatted in [RFC
    /// 3339](https://www.ietf.org/rfc/rfc3339.txt) format with nano-seconds.
    #[serde(deserialize_with = "null")]
    pub created: String,
    /// The path to the command being run
    #[serde(deserialize_with = "null")]
    pub path: String,
    /// The arguments to the command being run
    #[serde(deserialize_with = "null")]
    pub args: Vec<String>,
    /// ContainerState stores container's running state. It's part of ContainerJSONBase and will be
    /// returned by the "inspect" command.
    pub state: Option<State>,
    /// The ID (digest) of the image that this container was created from.
    #[serde(deserialize_with = "null")]
    pub image: String,
    /// Location of the `/etc/resolv.conf` generated for the container on the host.
    #[serde(deserialize_with = "null")]
    pub resolv_conf_path: String,
    /// Location of the `/etc/hostname` generated for the container on the host.
    #[serde(deserialize_with = "null")]
    pub hostname_path: String,
    /// Location of the `/etc/hosts` generated for the container on the host.
    #[serde(deserialize_with = "null")]
    pub hosts_path: String,
    /// Location of the file used to buffer the container's logs. Depending on the logging-driver
    /// used for the container, this field may be omitted.
    #[serde(deserialize_with = "null")]
    pub log_path: String,
    /// The name associated with this container.
    #[serde(deserialize_with = "null")]
    pub name: String,
    /// Number of times the container was restarted since it was created, or since daemon was
    /// started.
    #[serde(deserialize_with = "null")]
    pub restart_count: i64,
    /// The storage-driver used for the container's filesystem (graph-driver or snapshotter).
    #[serde(deserialize_with = "null")]
    pub driver: String,
    /// The platform (operating system) for which the container was created.
    #[serde(deserialize_with = "null")]
    pub platform: String,
    /// SELinux mount label set for the container.
    #[serde(deserialize_with = "null")]
    pub mount_label: String,
    /// SELinux process label set for the container.
    #[serde(deserialize_with = "null")]
    pub process_label: String,
    /// The AppArmor profile set for the container.
    #[serde(deserialize_with = "null")]
    pub app_armor_profile: String,
    /// IDs of exec instances that are running in the container.
    #[serde(rename = "ExecIDs")]
    pub exec_ids: Option<Vec<String>>,
    /// What of the container depends on this host.
    pub host_config: Option<HostConfig>,
    /// How the root filesystem is stored.
    #[serde(deserialize_with = "null")]
    pub graph_driver: GraphDriver,
    /// The size of files that have been created or changed by this container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_rw: Option<i64>,
    /// The total size of all files in the read-only layers from the image that the container uses.
    /// These layers can be shared between containers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_root_fs: Option<i64>,
    /// List of mounts used by the container.
    #[serde(deserialize_with = "null")]
    pub mounts: Vec<MountPoint>,
    /// Configuration for a container that is portable between hosts.
    pub config: Option<Config>,
    /// NetworkSettings exposes the network settings in the API
    pub network_settings: Option<NetworkSettings>,
    /// The manifest that the container was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_manifest_descriptor: Option<Descriptor>,
}

/// ContainerState stores container's running state. It's part of ContainerJSONBase and will be
/// returned by the "inspect" command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct State {
    /// String representation of the container state. Can be one of "created", "running", "paused",
    /// "restarting", "removing", "exited", or "dead".
    #[serde(deserialize_with = "null")]
    pub status: String,
    /// Whether this container is running.
    #[serde(deserialize_with = "null")]
    pub running: bool,
    /// Whether this container is paused.
    #[serde(deserialize_with = "null")]
    pub paused: bool,
    /// Whether this container is restarting.
    #[serde(deserialize_with = "null")]
    pub restarting: bool,
    /// Whether a process within this container has been killed because it ran out of memory since
    /// the container was last started.
    #[serde(rename = "OOMKilled", deserialize_with = "null")]
    pub oom_killed: bool,
    /// Removal of the container began and did not finish.
    #[serde(deserialize_with = "null")]
    pub dead: bool,
    /// The process ID of this container
    #[serde(deserialize_with = "null")]
    pub pid: i64,
    /// The last exit code of this container
    #[serde(deserialize_with = "null")]
    pub exit_code: i64,
    /// Why the last start failed; empty if it did not.
    #[serde(deserialize_with = "null")]
    pub error: String,
    /// The time when this container was last started.
    #[serde(deserialize_with = "null")]
    pub started_at: String,
    /// The time when this container last exited.
    #[serde(deserialize_with = "null")]
    pub finished_at: String,
    /// Health stores information about the container's healthcheck results.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// What the health checks found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Health {
    /// `none`, `starting`, `healthy` or `unhealthy`.
    #[serde(deserialize_with = "null")]
    pub status: String,
    /// FailingStreak is the number of consecutive failures
    #[serde(deserialize_with = "null")]
    pub failing_streak: i64,
    /// Log contains the last few results (oldest first)
    pub log: Option<Vec<HealthcheckResult>>,
}

/// One run of the health check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HealthcheckResult {
    /// Date and time at which this check started in [RFC
    /// 3339](https://www.ietf.org/rfc/rfc3339.txt) format with nano-seconds.
    #[serde(deserialize_with = "null")]
    pub start: String,
    /// Date and time at which this check ended in [RFC 3339](https://www.ietf.org/rfc/rfc3339.txt)
    /// format with nano-seconds.
    #[serde(deserialize_with = "null")]
    pub end: String,
    /// ExitCode meanings:
    #[serde(deserialize_with = "null")]
    pub exit_code: i64,
    /// Output from last check
    #[serde(deserialize_with = "null")]
    pub output: String,
}

/// A mount as `inspect` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct MountPoint {
    /// `bind`, `volume`, `tmpfs` or `image`.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub type_: String,
    /// Name of the volume.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub name: String,
    /// Source location of the mount.
    #[serde(deserialize_with = "null")]
    pub source: String,
    /// Destination is the path relative to the container root (`/`) where the `Source` is mounted
    /// inside the container.
    #[serde(deserialize_with = "null")]
    pub destination: String,
    /// Driver is the volume driver used to create the volume (if it is a volume).
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub driver: String,
    /// Mode is a comma separated list of options supplied by the user when creating the bind/volume
    /// mount.
    #[serde(deserialize_with = "null")]
    pub mode: String,
    /// Whether the mount is mounted writable (read-write).
    #[serde(rename = "RW", deserialize_with = "null")]
    pub rw: bool,
    /// Propagation describes how mounts are propagated from the host into the mount point, and
    /// vice-versa. Refer to the [Linux kernel
    /// documentation](https://www.kernel.org/doc/Documentation/filesystems/sharedsubtree.txt) for
    /// details. This field is not used on Windows.
    #[serde(deserialize_with = "null")]
    pub propagation: String,
}

/// A container's networks as `inspect` shows them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkSettings {
    /// Obsolete; always empty.
    #[serde(deserialize_with = "null")]
    pub bridge: String,
    /// SandboxID uniquely represents a container's network stack.
    #[serde(rename = "SandboxID", deserialize_with = "null")]
    pub sandbox_id: String,
    /// SandboxKey is the full path of the netns handle
    #[serde(deserialize_with = "null")]
    pub sandbox_key: String,
    /// PortMap describes the mapping of container ports to host ports, using the container's
    /// port-number and protocol as key in the format `<port>/<protocol>`, for example, `80/udp`.
    pub ports: Option<PortMap>,
    /// Obsolete; always false.
    #[serde(deserialize_with = "null")]
    pub hairpin_mode: bool,
    /// Obsolete; always empty.
    #[serde(rename = "LinkLocalIPv6Address", deserialize_with = "null")]
    pub link_local_ipv6_address: String,
    /// Obsolete; always 0.
    #[serde(rename = "LinkLocalIPv6PrefixLen", deserialize_with = "null")]
    pub link_local_ipv6_prefix_len: i64,
    /// Obsolete; always null.
    #[serde(rename = "SecondaryIPAddresses")]
    pub secondary_ip_addresses: Option<Vec<Address>>,
    /// Obsolete; always null.
    #[serde(rename = "SecondaryIPv6Addresses")]
    pub secondary_ipv6_addresses: Option<Vec<Address>>,
    /// Endpoint on the default bridge network.
    #[serde(rename = "EndpointID", deserialize_with = "null")]
    pub endpoint_id: String,
    /// Gateway on the default bridge network.
    #[serde(deserialize_with = "null")]
    pub gateway: String,
    /// IPv6 address on the default bridge network.
    #[serde(rename = "GlobalIPv6Address", deserialize_with = "null")]
    pub global_ipv6_address: String,
    /// Prefix length of the IPv6 address.
    #[serde(rename = "GlobalIPv6PrefixLen", deserialize_with = "null")]
    pub global_ipv6_prefix_len: i64,
    /// IPv4 address on the default bridge network.
    #[serde(rename = "IPAddress", deserialize_with = "null")]
    pub ip_address: String,
    /// Prefix length of the IPv4 address.
    #[serde(rename = "IPPrefixLen", deserialize_with = "null")]
    pub ip_prefix_len: i64,
    /// IPv6 gateway on the default bridge network.
    #[serde(rename = "IPv6Gateway", deserialize_with = "null")]
    pub ipv6_gateway: String,
    /// MAC address on the default bridge network.
    #[serde(deserialize_with = "null")]
    pub mac_address: String,
    /// The endpoints by network name.
    pub networks: Option<BTreeMap<String, Option<EndpointSettings>>>,
}

/// An address with its prefix length.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Address {
    /// The address.
    #[serde(deserialize_with = "null")]
    pub addr: String,
    /// The prefix length.
    #[serde(deserialize_with = "null")]
    pub prefix_len: i64,
}

/// One entry of `GET /containers/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Summary {
    /// The ID of this container as a 128-bit (64-character) hexadecimal string (32 bytes).
    #[serde(deserialize_with = "null")]
    pub id: String,
    /// The names associated with this container. Most containers have a single name, but when using
    /// legacy "links", the container can have multiple names.
    #[serde(deserialize_with = "null")]
    pub names: Vec<String>,
    /// The name or ID of the image used to create the container.
    #[serde(deserialize_with = "null")]
    pub image: String,
    /// The ID (digest) of the image that this container was created from.
    #[serde(rename = "ImageID", deserialize_with = "null")]
    pub image_id: String,
    /// The manifest that the container was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_manifest_descriptor: Option<Descriptor>,
    /// Command to run when starting the container
    #[serde(deserialize_with = "null")]
    pub command: String,
    /// Date and time at which the container was created as a Unix timestamp (number of seconds
    /// since EPOCH).
    #[serde(deserialize_with = "null")]
    pub created: i64,
    /// Port-mappings for the container.
    #[serde(deserialize_with = "null")]
    pub ports: Vec<Port>,
    /// The size of files that have been created or changed by this container.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub size_rw: i64,
    /// The total size of all files in the read-only layers from the image that the container uses.
    /// These layers can be shared between containers.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub size_root_fs: i64,
    /// User-defined key/value metadata.
    #[serde(deserialize_with = "null")]
    pub labels: BTreeMap<String, String>,
    /// The state of this container.
    #[serde(deserialize_with = "null")]
    pub state: String,
    /// Additional human-readable status of this container (e.g. `Exit 0`)
    #[serde(deserialize_with = "null")]
    pub status: String,
    /// The few host settings shown in a list.
    #[serde(deserialize_with = "null")]
    pub host_config: SummaryHostConfig,
    /// Summary of the container's network settings
    pub network_settings: Option<SummaryNetworkSettings>,
    /// List of mounts used by the container.
    #[serde(deserialize_with = "null")]
    pub mounts: Vec<MountPoint>,
}

/// The host settings of a container in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SummaryHostConfig {
    /// The networking mode.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub network_mode: String,
    /// The annotations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// The networks of a container in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SummaryNetworkSettings {
    /// The endpoints by network name.
    pub networks: Option<BTreeMap<String, Option<EndpointSettings>>>,
}

/// A port of a container in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Port {
    /// Host address the port is published on.
    #[serde(rename = "IP", deserialize_with = "null", skip_serializing_if = "empty")]
    pub ip: String,
    /// Port in the container.
    #[serde(deserialize_with = "null")]
    pub private_port: u16,
    /// Port on the host; absent if not published.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub public_port: u16,
    /// `tcp`, `udp` or `sctp`.
    #[serde(deserialize_with = "null")]
    pub type_: String,
}

/// The answer to `GET /containers/{id}/top`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TopResponse {
    /// Each process running in the container, where each process is an array of values
    /// corresponding to the titles.
    pub processes: Option<Vec<Vec<String>>>,
    /// The ps column titles
    pub titles: Option<Vec<String>>,
}

/// Change in the container's filesystem.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Change {
    /// Path to file or directory that has changed.
    #[serde(deserialize_with = "null")]
    pub path: String,
    /// 0 modified, 1 added, 2 deleted.
    #[serde(deserialize_with = "null")]
    pub kind: u8,
}

/// The answer to `POST /containers/{id}/wait`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct WaitResponse {
    /// container waiting error, if any
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<WaitExitError>,
    /// Exit code of the container
    #[serde(deserialize_with = "null")]
    pub status_code: i64,
}

/// Why waiting failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct WaitExitError {
    /// Details of an error
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub message: String,
}

/// The body of `POST /containers/{id}/update`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct UpdateRequest {
    /// The limits to change; what is 0, empty or null stays.
    #[serde(flatten)]
    pub resources: Resources,
    /// The restart policy; an empty name stays.
    #[serde(deserialize_with = "null")]
    pub restart_policy: RestartPolicy,
}

/// The answer to `POST /containers/{id}/update`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct UpdateResponse {
    /// Warnings encountered when updating the container.
    pub warnings: Option<Vec<String>>,
}

/// The answer to `POST /containers/prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PruneReport {
    /// Ids of the removed containers.
    pub containers_deleted: Option<Vec<String>>,
    /// Disk space freed, in bytes.
    #[serde(deserialize_with = "null")]
    pub space_reclaimed: u64,
}

/// A file in a container, as in the header `X-Docker-Container-Path-Stat`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PathStat {
    /// Base name of the path.
    #[serde(deserialize_with = "null")]
    pub name: String,
    /// Size in bytes.
    #[serde(deserialize_with = "null")]
    pub size: i64,
    /// Go's `os.FileMode`: permission bits, type in the high bits.
    #[serde(deserialize_with = "null")]
    pub mode: u32,
    /// Time of the last change, RFC 3339.
    #[serde(deserialize_with = "null")]
    pub mtime: String,
    /// Target, if the path is a symbolic link.
    #[serde(deserialize_with = "null")]
    pub link_target: String,
}

/// One entry of the answer to `GET /containers/{id}/changes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct FilesystemChange {
    /// Path to file or directory that has changed.
    #[serde(deserialize_with = "null")]
    pub path: String,
    /// Kind of change: 0 modified, 1 added, 2 deleted.
    #[serde(deserialize_with = "null")]
    pub kind: u8,
}
