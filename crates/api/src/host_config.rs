//! What of a container depends on its host: limits, mounts, ports, namespaces. Re-exported by `container`.
//! Data only: no decision about a value is taken here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::container::Empty;
use crate::go::{empty, null, strings};

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
    #[serde(rename = "KernelMemoryTCP", deserialize_with = "null", skip_serializing_if = "empty")]
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
