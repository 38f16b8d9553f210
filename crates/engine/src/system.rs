//! The engine about itself: `info`, `version`, `system df`. Reads only.

use std::collections::BTreeMap;
use std::fs;

use brig_api::system::{
    Commit, Component, DiskUsage, IndexInfo, Info, PluginsInfo, RegistryConfig, RegistryUsage, Runtime, SwarmInfo,
    Version, VersionPlatform,
};

use crate::Engine;
use crate::container::{ListOptions, Status, total_memory};
use crate::error::{Result, from_store};
use crate::id::now;
use crate::images::ListOptions as ImageListOptions;

/// This program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Facts about the engine and its host.
pub struct System<'a> {
    pub(crate) engine: &'a Engine,
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn kernel() -> String {
    read("/proc/sys/kernel/osrelease")
}

fn operating_system() -> (String, String) {
    let text = fs::read_to_string("/etc/os-release")
        .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
        .unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned()).unwrap_or_default()
    };
    (value("PRETTY_NAME"), value("VERSION_ID"))
}

/// Go's name of this architecture.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `2` where the unified hierarchy has the controllers, `1` otherwise.
fn cgroup_version() -> &'static str {
    let controllers = read("/sys/fs/cgroup/cgroup.controllers");
    if controllers.is_empty() { "1" } else { "2" }
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

fn driver_status() -> Vec<[String; 2]> {
    let pairs = [
        ("Supports d_type", "true"),
        ("Using metacopy", "false"),
        ("Native Overlay Diff", "true"),
        ("userxattr", "false"),
    ];
    pairs.into_iter().map(|(name, value)| [name.to_owned(), value.to_owned()]).collect()
}

fn plugins() -> PluginsInfo {
    PluginsInfo {
        volume: names(&["local"]),
        network: names(&["bridge", "host", "null"]),
        authorization: None,
        log: names(&["json-file", "none"]),
    }
}

impl System<'_> {
    /// `version`.
    pub fn version(&self) -> Version {
        let details = BTreeMap::from([
            ("ApiVersion".to_owned(), brig_api::API_VERSION.to_owned()),
            ("Arch".to_owned(), go_architecture().to_owned()),
            ("KernelVersion".to_owned(), kernel()),
            ("MinAPIVersion".to_owned(), brig_api::MIN_API_VERSION.to_owned()),
            ("Os".to_owned(), "linux".to_owned()),
        ]);
        let component = |name: &str, details| Component { name: name.into(), version: VERSION.into(), details };
        Version {
            platform: VersionPlatform { name: "brig".into() },
            components: vec![component("Engine", Some(details)), component("brig-rt", Some(BTreeMap::new()))],
            version: VERSION.into(),
            api_version: brig_api::API_VERSION.into(),
            min_api_version: brig_api::MIN_API_VERSION.into(),
            git_commit: String::new(),
            go_version: String::new(),
            os: "linux".into(),
            arch: go_architecture().into(),
            kernel_version: kernel(),
            ..Version::default()
        }
    }

    /// `info`.
    pub fn info(&self) -> Info {
        let engine = self.engine;
        let views = engine.index.views();
        let count =
            |wanted: &[Status]| i64::try_from(views.iter().filter(|v| wanted.contains(&v.status)).count()).unwrap_or(0);
        let (operating_system, os_version) = operating_system();
        let config = engine.settings();
        let root = engine.store.root();
        Info {
            id: engine.id.clone(),
            containers: i64::try_from(views.len()).unwrap_or(0),
            containers_running: count(&[Status::Running]),
            containers_paused: count(&[Status::Paused]),
            containers_stopped: count(&[
                Status::Created,
                Status::Exited,
                Status::Dead,
                Status::Removing,
                Status::Restarting,
            ]),
            images: i64::try_from(engine.images.count()).unwrap_or(0),
            driver: "overlay2".into(),
            driver_status: driver_status(),
            plugins: plugins(),
            memory_limit: true,
            swap_limit: std::path::Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
                || cgroup_version() == "2",
            cpu_cfs_period: true,
            cpu_cfs_quota: true,
            cpu_shares: true,
            cpu_set: true,
            pids_limit: true,
            ipv4_forwarding: read("/proc/sys/net/ipv4/ip_forward") == "1",
            debug: config.debug,
            n_fd: i64::try_from(fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)).unwrap_or(0),
            oom_kill_disable: cgroup_version() == "1",
            n_goroutines: 0,
            system_time: now(),
            logging_driver: config.log_driver.clone(),
            cgroup_driver: "cgroupfs".into(),
            cgroup_version: cgroup_version().into(),
            kernel_version: kernel(),
            operating_system,
            os_version,
            os_type: "linux".into(),
            architecture: std::env::consts::ARCH.into(),
            index_server_address: "https://index.docker.io/v1/".into(),
            registry_config: Some(self.registry_config()),
            ncpu: i64::try_from(std::thread::available_parallelism().map_or(1, usize::from)).unwrap_or(1),
            mem_total: i64::try_from(total_memory()).unwrap_or(i64::MAX),
            docker_root_dir: root.parent().unwrap_or(root).to_string_lossy().into_owned(),
            name: read("/proc/sys/kernel/hostname"),
            labels: config.labels.clone(),
            server_version: VERSION.into(),
            runtimes: BTreeMap::from([(
                "brig-rt".to_owned(),
                Runtime { path: "brig-rt".into(), ..Runtime::default() },
            )]),
            default_runtime: "brig-rt".into(),
            swarm: SwarmInfo { local_node_state: "inactive".into(), ..SwarmInfo::default() },
            live_restore_enabled: true,
            init_binary: "brig-rt".into(),
            containerd_commit: Commit::default(),
            runc_commit: Commit::default(),
            init_commit: Commit::default(),
            security_options: names(&["name=seccomp,profile=builtin", "name=userns", "name=cgroupns"]),
            ..Info::default()
        }
    }

    fn registry_config(&self) -> RegistryConfig {
        let config = self.engine.settings();
        let (networks, hosts): (Vec<String>, Vec<String>) =
            config.insecure_registries.iter().cloned().partition(|r| r.contains('/'));
        let mut index_configs: BTreeMap<String, IndexInfo> = hosts
            .into_iter()
            .map(|host| (host.clone(), IndexInfo { name: host, mirrors: Vec::new(), secure: false, official: false }))
            .collect();
        let official = IndexInfo {
            name: "docker.io".into(),
            mirrors: config.registry_mirrors.clone(),
            secure: true,
            official: true,
        };
        index_configs.insert("docker.io".into(), official);
        let mut cidrs = networks;
        cidrs.extend(["::1/128".into(), "127.0.0.0/8".into()]);
        RegistryConfig { insecure_registry_cidrs: cidrs, index_configs, mirrors: config.registry_mirrors.clone() }
    }

    /// `system df`: what `wanted` tells of kinds (`container`, `image`, `volume`, `build-cache`). Sizes are what `du` counts:
    /// a container's with its log, all images' with whatever is kept for them, but not what only the registry keeps. Blocking: it looks at every file of every
    /// volume and container, and once at those of every layer.
    pub fn disk_usage(&self, wanted: &dyn Fn(&str) -> bool) -> Result<DiskUsage> {
        let engine = self.engine;
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let mut usage = DiskUsage { build_cache: wanted("build-cache").then(Vec::new), ..DiskUsage::default() };
        if wanted("image") {
            let listed = ImageListOptions { all: true, shared_size: true, ..ImageListOptions::default() };
            let mut images = engine.images.list(listed, &brig_api::filters::Filters::new())?;
            let views = engine.index.views();
            for image in &mut images {
                let users = views.iter().filter(|view| view.record.image_id == image.id).count();
                image.containers = i64::try_from(users).unwrap_or(0);
            }
            usage.images = Some(images);
            let stays = |image: &brig_oci::Digest| engine.images.stays_in_prune(image);
            let measured = engine.store.upkeep().usage(&stays).map_err(from_store)?;
            usage.layers_size = number(measured.images);
            usage.brig_reclaimable = Some(number(measured.images.saturating_sub(measured.images_staying)));
            usage.brig_registry = (measured.registry_count > 0)
                .then(|| RegistryUsage { count: measured.registry_count, size: number(measured.registry) });
        }
        if wanted("container") {
            let all = ListOptions { all: true, size: true, ..ListOptions::default() };
            let mut containers = engine.containers.list(&all)?;
            for container in &mut containers {
                container.size_rw = number(engine.store.upkeep().container_usage(&container.id));
            }
            usage.containers = Some(containers);
        }
        if wanted("volume") {
            usage.volumes = Some(engine.volumes.usage());
        }
        Ok(usage)
    }
}
