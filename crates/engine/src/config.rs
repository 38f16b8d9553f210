//! What the daemon may be told about where and how to work. Owns defaults; must not read files or flags itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// The engine's settings. Names follow dockerd's options where they mean the same.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where images, containers and volumes are kept (`--data-root`).
    pub data_root: PathBuf,
    /// Where sockets and the state of running containers are kept; lost at a reboot (`--exec-root`).
    pub exec_root: PathBuf,
    /// The `brig-rt` program; when `None`, the one beside the running program, else the one in `PATH`.
    pub shim_binary: Option<PathBuf>,
    /// Whether layers are unpacked in a confined process of their own. Only for a program that calls [`crate::unpack`], and
    /// nothing else, when it is run with the one argument `unpack`.
    pub confined_unpacking: bool,
    /// Mirrors to ask before Docker Hub (`--registry-mirror`).
    pub registry_mirrors: Vec<String>,
    /// Registries (host:port or CIDR) that may be spoken to without verified TLS (`--insecure-registry`).
    pub insecure_registries: Vec<String>,
    /// Settings of single registries: `HOST=mirror=URL`, `HOST=insecure=true`, `HOST=ca=FILE` (`--registry`).
    pub registries: Vec<String>,
    /// How many layers are fetched at once (`--max-concurrent-downloads`).
    pub max_concurrent_downloads: usize,
    /// How many layers a push sends at once (`--max-concurrent-uploads`).
    pub max_concurrent_uploads: usize,
    /// How layers made here are compressed for a push: `gzip` or `zstd` (`--layer-compression`).
    pub layer_compression: String,
    /// Whether a pull that names no platform keeps all that the name leads to (`--pull-all-platforms`).
    pub pull_all_platforms: bool,
    /// Whether images are saved as they came, for clients that cannot ask for it (`--save-original`).
    pub save_original: bool,
    /// Name servers for containers (`--dns`).
    pub dns: Vec<IpAddr>,
    /// Search domains for containers (`--dns-search`).
    pub dns_search: Vec<String>,
    /// Resolver options for containers (`--dns-opt`).
    pub dns_options: Vec<String>,
    /// Address and prefix of the default bridge (`--bip`), e.g. `172.17.0.1/16`.
    pub bip: Option<String>,
    /// MTU of the default bridge in bytes (`--mtu`).
    pub mtu: Option<u32>,
    /// Whether containers on the default bridge may talk to each other (`--icc`).
    pub icc: bool,
    /// Host address that published ports bind to unless they name one (`--ip`).
    pub default_host_ip: Option<IpAddr>,
    /// Whether to switch on IPv4 forwarding (`--ip-forward`).
    pub ip_forward: bool,
    /// Whether containers' traffic to the outside is masqueraded (`--ip-masq`).
    pub ip_masq: bool,
    /// Log driver of containers that name none (`--log-driver`).
    pub log_driver: String,
    /// Options of that driver (`--log-opt`).
    pub log_opts: BTreeMap<String, String>,
    /// Resource limits of containers that name none (`--default-ulimit`), as (name, soft, hard).
    pub default_ulimits: Vec<(String, i64, i64)>,
    /// Size of `/dev/shm` in bytes (`--default-shm-size`).
    pub default_shm_size: i64,
    /// Cgroup that containers' groups are made below (`--cgroup-parent`).
    pub cgroup_parent: Option<String>,
    /// Whether containers may not gain privileges unless they say otherwise (`--no-new-privileges`).
    pub no_new_privileges: bool,
    /// When to make room on the disk by itself (`--storage-gc`).
    pub storage_gc: crate::StorageGc,
    /// Labels of this daemon (`--label`).
    pub labels: Vec<String>,
    /// Whether debugging output is on (`--debug`); shown by `info`.
    pub debug: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_root: PathBuf::from("/var/lib/brig"),
            exec_root: PathBuf::from("/run/brig"),
            shim_binary: None,
            confined_unpacking: false,
            registry_mirrors: Vec::new(),
            insecure_registries: Vec::new(),
            registries: Vec::new(),
            max_concurrent_uploads: 5,
            layer_compression: "gzip".to_owned(),
            pull_all_platforms: false,
            save_original: false,
            max_concurrent_downloads: 3,
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            bip: None,
            mtu: None,
            icc: true,
            default_host_ip: None,
            ip_forward: true,
            ip_masq: true,
            log_driver: "json-file".into(),
            log_opts: BTreeMap::new(),
            default_ulimits: Vec::new(),
            default_shm_size: 64 << 20,
            cgroup_parent: None,
            no_new_privileges: false,
            storage_gc: crate::StorageGc::default(),
            labels: Vec::new(),
            debug: false,
        }
    }
}
