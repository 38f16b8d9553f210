//! Containers as they travel over the socket: what `create` takes and what `inspect`, `ps` and the small answers give.
//! Data only: no decision about a value is taken here. Field order and nulls are those of Docker's Go structs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::go::{empty, null, strings};
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

/// What of a container depends on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HostConfig {
    /// Volume bindings, `source:destination[:options]`.
    pub binds: Option<Vec<String>>,
    /// Path to a file where the container ID is written
    #[serde(rename = "ContainerIDFile", deserialize_with = "null")]
    pub container_id_file: String,
    /// The logging driver and its options.
    #[serde(deserialize_with = "null")]
    pub log_config: LogConfig,
    /// Network mode to use for this container. Supported standard values are: `bridge`, `host`,
    /// `none`, and `container:<name|id>`. Any other value is taken as a custom network's name to
    /// which this container should connect to.
    #[serde(deserialize_with = "null")]
    pub network_mode: String,
    /// PortMap describes the mapping of container ports to host ports, using the container's
    /// port-number and protocol as key in the format `<port>/<protocol>`, for example, `80/udp`.
    pub port_bindings: Option<PortMap>,
    /// The behavior to apply when the container exits. The default is not to restart.
    #[serde(deserialize_with = "null")]
    pub restart_policy: RestartPolicy,
    /// Automatically remove the container when the container's process exits. This has no effect if
    /// `RestartPolicy` is set.
    #[serde(deserialize_with = "null")]
    pub auto_remove: bool,
    /// Driver that this container uses to mount volumes.
    #[serde(deserialize_with = "null")]
    pub volume_driver: String,
    /// A list of volumes to inherit from another container, specified in the form `<container
    /// name>[:<ro|rw>]`.
    pub volumes_from: Option<Vec<String>>,
    /// Initial console size, `[height, width]`.
    #[serde(deserialize_with = "null")]
    pub console_size: [u32; 2],
    /// Arbitrary non-identifying metadata attached to container and provided to the runtime when
    /// the container is started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Capabilities to add.
    #[serde(deserialize_with = "strings")]
    pub cap_add: Option<Vec<String>>,
    /// Capabilities to drop.
    #[serde(deserialize_with = "strings")]
    pub cap_drop: Option<Vec<String>>,
    /// Cgroup namespace mode: `""`, `private` or `host`.
    #[serde(deserialize_with = "null")]
    pub cgroupns_mode: String,
    /// A list of DNS servers for the container to use.
    pub dns: Option<Vec<String>>,
    /// A list of DNS options.
    pub dns_options: Option<Vec<String>>,
    /// A list of DNS search domains.
    pub dns_search: Option<Vec<String>>,
    /// A list of hostnames/IP mappings to add to the container's `/etc/hosts` file. Specified in
    /// the form `["hostname:IP"]`.
    pub extra_hosts: Option<Vec<String>>,
    /// A list of additional groups that the container process will run as.
    pub group_add: Option<Vec<String>>,
    /// IPC sharing: `none`, `private`, `shareable`, `container:<name|id>` or `host`.
    #[serde(deserialize_with = "null")]
    pub ipc_mode: String,
    /// Cgroup to use for the container.
    #[serde(deserialize_with = "null")]
    pub cgroup: String,
    /// A list of links for the container in the form `container_name:alias`.
    pub links: Option<Vec<String>>,
    /// An integer value containing the score given to the container in order to tune OOM killer
    /// preferences.
    #[serde(deserialize_with = "null")]
    pub oom_score_adj: i64,
    /// PID namespace: `""`, `container:<name|id>` or `host`.
    #[serde(deserialize_with = "null")]
    pub pid_mode: String,
    /// Gives the container full access to the host.
    #[serde(deserialize_with = "null")]
    pub privileged: bool,
    /// Allocates an ephemeral host port for all of a container's exposed ports.
    #[serde(deserialize_with = "null")]
    pub publish_all_ports: bool,
    /// Mount the container's root filesystem as read only.
    #[serde(deserialize_with = "null")]
    pub readonly_rootfs: bool,
    /// A list of string values to customize labels for MLS systems, such as SELinux.
    pub security_opt: Option<Vec<String>>,
    /// Storage driver options for this container, in the form `{"size": "120G"}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_opt: Option<BTreeMap<String, String>>,
    /// A map of container directories which should be replaced by tmpfs mounts, and their
    /// corresponding mount options. For example:
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs: Option<BTreeMap<String, String>>,
    /// UTS namespace to use for the container.
    #[serde(rename = "UTSMode", deserialize_with = "null")]
    pub uts_mode: String,
    /// Sets the usernamespace mode for the container when usernamespace remapping option is
    /// enabled.
    #[serde(deserialize_with = "null")]
    pub userns_mode: String,
    /// Size of `/dev/shm` in bytes. If omitted, the system uses 64MB.
    #[serde(deserialize_with = "null")]
    pub shm_size: i64,
    /// A list of kernel parameters (sysctls) to set in the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sysctls: Option<BTreeMap<String, String>>,
    /// Runtime to use with this container.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub runtime: String,
    /// Isolation technology of the container. (Windows only)
    #[serde(deserialize_with = "null")]
    pub isolation: String,
    /// The resource limits.
    #[serde(flatten)]
    pub resources: Resources,
    /// Specification for mounts to be added to the container.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub mounts: Vec<Mount>,
    /// The list of paths to be masked inside the container (this overrides the default set of
    /// paths).
    pub masked_paths: Option<Vec<String>>,
    /// The list of paths to be set as read-only inside the container (this overrides the default
    /// set of paths).
    pub readonly_paths: Option<Vec<String>>,
    /// brig's own: a directory of the host of which the container gets a read-only view with a throw-away writable
    /// layer, instead of an image (`brig run --rootfs`).
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub brig_rootfs: String,
    /// Run an init inside the container that forwards signals and reaps processes. This field is
    /// omitted if empty, and the default (as configured on the daemon) is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
}

/// Resource limits, as in `HostConfig` and in `update`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Resources {
    /// CPU weight relative to other containers; 0 means the default.
    #[serde(deserialize_with = "null")]
    pub cpu_shares: i64,
    /// Memory limit in bytes; 0 means unlimited.
    #[serde(deserialize_with = "null")]
    pub memory: i64,
    /// CPU quota in units of 10⁻⁹ CPUs.
    #[serde(alias = "NanoCPUs", deserialize_with = "null")]
    pub nano_cpus: i64,
    /// Parent cgroup, absolute or relative to the engine's.
    #[serde(deserialize_with = "null")]
    pub cgroup_parent: String,
    /// Block IO weight, 10 to 1000; 0 means the default.
    #[serde(deserialize_with = "null")]
    pub blkio_weight: u16,
    /// Block IO weights by device.
    pub blkio_weight_device: Option<Vec<WeightDevice>>,
    /// Read limits in bytes per second by device.
    pub blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
    /// Write limits in bytes per second by device.
    pub blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
    /// Read limits in operations per second by device.
    #[serde(rename = "BlkioDeviceReadIOps")]
    pub blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
    /// Write limits in operations per second by device.
    #[serde(rename = "BlkioDeviceWriteIOps")]
    pub blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
    /// Length of a CPU period in microseconds.
    #[serde(deserialize_with = "null")]
    pub cpu_period: i64,
    /// CPU time per period in microseconds.
    #[serde(deserialize_with = "null")]
    pub cpu_quota: i64,
    /// Length of a real-time CPU period in microseconds.
    #[serde(deserialize_with = "null")]
    pub cpu_realtime_period: i64,
    /// Real-time CPU time per period in microseconds.
    #[serde(deserialize_with = "null")]
    pub cpu_realtime_runtime: i64,
    /// CPUs to run on, as `0-3,5`.
    #[serde(deserialize_with = "null")]
    pub cpuset_cpus: String,
    /// Memory nodes to allocate from, as `0-3,5`.
    #[serde(deserialize_with = "null")]
    pub cpuset_mems: String,
    /// Host devices to give to the container.
    pub devices: Option<Vec<DeviceMapping>>,
    /// Device rules, as `c 13:* rwm`.
    pub device_cgroup_rules: Option<Vec<String>>,
    /// Devices asked for from device drivers.
    pub device_requests: Option<Vec<DeviceRequest>>,
    /// Kernel memory limit (obsolete; refused when set).
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub kernel_memory: i64,
    /// Kernel TCP buffer limit in bytes (cgroup v1).
    #[serde(
        rename = "KernelMemoryTCP",
        deserialize_with = "null",
        skip_serializing_if = "empty"
    )]
    pub kernel_memory_tcp: i64,
    /// Soft memory limit in bytes.
    #[serde(deserialize_with = "null")]
    pub memory_reservation: i64,
    /// Memory plus swap in bytes; -1 means unlimited swap.
    #[serde(deserialize_with = "null")]
    pub memory_swap: i64,
    /// Swappiness from 0 to 100 (cgroup v1).
    pub memory_swappiness: Option<i64>,
    /// Disable the OOM killer (cgroup v1).
    pub oom_kill_disable: Option<bool>,
    /// Limit of processes; 0, -1 or null means unlimited.
    pub pids_limit: Option<i64>,
    /// Resource limits of the first process.
    pub ulimits: Option<Vec<Ulimit>>,
    /// Usable CPUs (Windows).
    #[serde(deserialize_with = "null")]
    pub cpu_count: i64,
    /// Usable share of the CPUs (Windows).
    #[serde(deserialize_with = "null")]
    pub cpu_percent: i64,
    /// IO operations per second of the system drive (Windows).
    #[serde(rename = "IOMaximumIOps", deserialize_with = "null")]
    pub io_maximum_iops: u64,
    /// IO bytes per second of the system drive (Windows).
    #[serde(rename = "IOMaximumBandwidth", deserialize_with = "null")]
    pub io_maximum_bandwidth: u64,
}

/// One resource limit (`setrlimit`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Ulimit {
    /// Name of the limit, without `RLIMIT_` and in lower case.
    #[serde(deserialize_with = "null")]
    pub name: String,
    /// Hard limit; -1 means unlimited.
    #[serde(deserialize_with = "null")]
    pub hard: i64,
    /// Soft limit; -1 means unlimited.
    #[serde(deserialize_with = "null")]
    pub soft: i64,
}

/// A block IO weight for one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct WeightDevice {
    /// Path of the device on the host.
    #[serde(deserialize_with = "null")]
    pub path: String,
    /// Weight from 10 to 1000.
    #[serde(deserialize_with = "null")]
    pub weight: u16,
}

/// A block IO limit for one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ThrottleDevice {
    /// Path of the device on the host.
    #[serde(deserialize_with = "null")]
    pub path: String,
    /// Bytes or operations per second.
    #[serde(deserialize_with = "null")]
    pub rate: u64,
}

/// A device mapping between the host and container
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DeviceMapping {
    /// Path of the device on the host.
    #[serde(deserialize_with = "null")]
    pub path_on_host: String,
    /// Path of the device in the container.
    #[serde(deserialize_with = "null")]
    pub path_in_container: String,
    /// What the container may do: any of `r`, `w`, `m`.
    #[serde(deserialize_with = "null")]
    pub cgroup_permissions: String,
}

/// A request for devices to be sent to device drivers
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DeviceRequest {
    /// Name of the device driver.
    #[serde(deserialize_with = "null")]
    pub driver: String,
    /// How many devices; -1 means all.
    #[serde(deserialize_with = "null")]
    pub count: i64,
    /// Devices by id.
    #[serde(rename = "DeviceIDs")]
    pub device_ids: Option<Vec<String>>,
    /// Alternatives of capabilities that a device must have.
    pub capabilities: Option<Vec<Vec<String>>>,
    /// Driver-specific options.
    pub options: Option<BTreeMap<String, String>>,
}

/// A logging driver and its options.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct LogConfig {
    /// Name of the driver; empty means the daemon's default.
    #[serde(deserialize_with = "null")]
    pub type_: String,
    /// Options of the driver.
    pub config: Option<BTreeMap<String, String>>,
}

/// The behavior to apply when the container exits. The default is not to restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RestartPolicy {
    /// `""`, `no`, `always`, `unless-stopped` or `on-failure`.
    #[serde(deserialize_with = "null")]
    pub name: String,
    /// With `on-failure`: how often to retry before giving up; 0 means without end.
    #[serde(deserialize_with = "null")]
    pub maximum_retry_count: i64,
}

/// PortBinding represents a binding between a host IP address and a host port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PortBinding {
    /// Host address to bind to; empty means all.
    #[serde(deserialize_with = "null")]
    pub host_ip: String,
    /// Host port or range (`8000-8010`); empty means a free one.
    #[serde(deserialize_with = "null")]
    pub host_port: String,
}

/// Host ports by container port (`port/protocol`); `null` stands for an exposed port that is not published.
pub type PortMap = BTreeMap<String, Option<Vec<PortBinding>>>;

/// A mount asked for by `--mount`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Mount {
    /// `bind`, `volume`, `tmpfs`, `image`, `npipe` or `cluster`.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub type_: String,
    /// Mount source (e.g. a volume name, a host path). The source cannot be specified when using
    /// `Type=tmpfs`. For `Type=bind`, the source path must either exist, or the `CreateMountpoint`
    /// must be set to `true` to create the source path on the host if missing.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub source: String,
    /// Container path.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub target: String,
    /// Whether the mount should be read-only.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub read_only: bool,
    /// The consistency requirement for the mount: `default`, `consistent`, `cached`, or
    /// `delegated`.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub consistency: String,
    /// Optional configuration for the `bind` type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_options: Option<BindOptions>,
    /// Optional configuration for the `volume` type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeOptions>,
    /// Optional configuration for the `image` type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_options: Option<ImageOptions>,
    /// Optional configuration for the `tmpfs` type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions>,
    /// Optional configuration for the `cluster` type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_options: Option<Empty>,
}

/// Options of a `bind` mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct BindOptions {
    /// `[r]private`, `[r]shared` or `[r]slave`.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub propagation: String,
    /// Without the mounts below the source.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub non_recursive: bool,
    /// Create the source on the host if it is missing.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub create_mountpoint: bool,
    /// Leave submounts writable when the mount is read-only.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub read_only_non_recursive: bool,
    /// Fail if submounts cannot be made read-only.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub read_only_force_recursive: bool,
}

/// Options of a `volume` mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VolumeOptions {
    /// Do not fill an empty volume from the image.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub no_copy: bool,
    /// Labels of a volume made for this mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Path inside the volume to mount.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub subpath: String,
    /// Driver of a volume made for this mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_config: Option<DriverConfig>,
}

/// A volume driver and its options.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DriverConfig {
    /// Name of the driver.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub name: String,
    /// Options of the driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<BTreeMap<String, String>>,
}

/// Options of an `image` mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageOptions {
    /// Path inside the image to mount.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub subpath: String,
}

/// Options of a `tmpfs` mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TmpfsOptions {
    /// Size in bytes; 0 means the kernel's default.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub size_bytes: i64,
    /// Permission bits of the mount's root, as a number.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub mode: u32,
    /// Mount options, each a flag or a key and a value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Vec<Vec<String>>>,
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
    #[serde(
        rename = "IP",
        deserialize_with = "null",
        skip_serializing_if = "empty"
    )]
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
