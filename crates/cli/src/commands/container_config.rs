//! From the flags of `run` and `create` to the request that makes the container, as Docker's client does it.
//! Owns what the client itself refuses; everything else is sent for the engine to judge.

use crate::failure::{Failure, Result};
use crate::flags::Matches;
use crate::parse::{device, env, mount, network, number, port, security};
use crate::terminal;
use brig_api::container::{
    Config, CreateRequest, DeviceRequest, Empty, HealthConfig, HostConfig, LogConfig, Mount, Resources, RestartPolicy,
    Ulimit,
};
use brig_api::network::{EndpointIpamConfig, EndpointSettings, NetworkingConfig};
use std::collections::BTreeMap;

/// Builds the request. The words after the flags are the image and its command, or only the command with `--rootfs`.
///
/// # Errors
/// Docker's words for what the client refuses.
pub fn request(m: &Matches) -> Result<CreateRequest> {
    let rootfs = rootfs(m)?;
    let (image, command) = match (&rootfs, m.args.split_first()) {
        (Some(_), _) => (String::new(), m.args.as_slice()),
        (None, Some((image, command))) => (image.clone(), command),
        (None, None) => return Err(Failure::new("no image was given")),
    };
    if rootfs.is_some() && command.is_empty() {
        return Err(Failure::new("--rootfs takes no image, but a command: run --rootfs DIR COMMAND [ARG...]"));
    }
    let bindings = port::publish(&m.list("publish"))?;
    let mut config = config(m, image, command)?;
    let mut exposed: BTreeMap<String, Option<Empty>> = BTreeMap::new();
    exposed.extend(port::expose(&m.list("expose"))?.into_iter().map(|port| (port, Some(Empty {}))));
    exposed.extend(bindings.keys().map(|port| (port.clone(), Some(Empty {}))));
    if !exposed.is_empty() {
        config.exposed_ports = Some(exposed);
    }
    let (binds, anonymous) = mount::volumes(&m.list("volume"));
    if !anonymous.is_empty() {
        config.volumes = Some(anonymous.into_iter().map(|path| (path, Some(Empty {}))).collect());
    }
    let mut host = host_config(m)?;
    host.binds = Some(binds).filter(|binds| !binds.is_empty());
    host.port_bindings = Some(bindings);
    host.brig_rootfs = rootfs.unwrap_or_default();
    let networking_config = networking(m, &mut host)?;
    Ok(CreateRequest { config, host_config: Some(host), networking_config: Some(networking_config) })
}

fn rootfs(m: &Matches) -> Result<Option<String>> {
    let Some(directory) = m.given("rootfs") else { return Ok(None) };
    let absolute = std::fs::canonicalize(directory).map_err(|e| {
        Failure::new(format!("--rootfs {directory}: {}; name a directory of this host", env::words(&e)))
    })?;
    if !absolute.is_dir() {
        return Err(Failure::new(format!("--rootfs {directory} is not a directory")));
    }
    Ok(Some(absolute.to_string_lossy().into_owned()))
}

fn optional(list: Vec<String>) -> Option<Vec<String>> {
    Some(list)
}

fn config(m: &Matches, image: String, command: &[String]) -> Result<Config> {
    let attach = m.list("attach");
    if let Some(other) = attach.iter().find(|a| !matches!(a.to_lowercase().as_str(), "stdin" | "stdout" | "stderr")) {
        let why = "valid streams are STDIN, STDOUT and STDERR";
        return Err(Failure::new(format!("invalid argument {other:?} for \"-a, --attach\" flag: {why}")));
    }
    let wants = |stream: &str| attach.iter().any(|a| a.eq_ignore_ascii_case(stream));
    let interactive = m.bool("interactive");
    let attach_stdin = interactive || wants("stdin");
    Ok(Config {
        hostname: m.text("hostname").to_owned(),
        domainname: m.text("domainname").to_owned(),
        user: m.text("user").to_owned(),
        attach_stdin,
        attach_stdout: attach.is_empty() || wants("stdout"),
        attach_stderr: attach.is_empty() || wants("stderr"),
        tty: m.bool("tty"),
        open_stdin: interactive,
        stdin_once: interactive && attach_stdin,
        env: Some(env::variables(&m.list("env-file"), &m.list("env"))?).filter(|list| !list.is_empty()),
        cmd: Some(command.to_vec()).filter(|words| !words.is_empty()),
        healthcheck: health(m)?,
        image,
        volumes: Some(BTreeMap::new()),
        working_dir: m.text("workdir").to_owned(),
        entrypoint: m.given("entrypoint").map(|program| vec![program.to_owned()]),
        labels: Some(env::labels(&m.list("label-file"), &m.list("label"))?),
        stop_signal: m.text("stop-signal").to_owned(),
        stop_timeout: m.changed("stop-timeout").then(|| m.int("stop-timeout")),
        ..Config::default()
    })
}

fn health(m: &Matches) -> Result<Option<HealthConfig>> {
    const TIMES: [&str; 4] = ["health-interval", "health-timeout", "health-start-period", "health-start-interval"];
    let command = m.text("health-cmd");
    let set = !command.is_empty() || TIMES.iter().any(|t| m.nanoseconds(t) != 0) || m.int("health-retries") != 0;
    if m.bool("no-healthcheck") {
        if set {
            return Err(Failure::new("--no-healthcheck conflicts with --health-* options"));
        }
        return Ok(Some(HealthConfig { test: vec!["NONE".to_owned()], ..HealthConfig::default() }));
    }
    if !set {
        return Ok(None);
    }
    for name in TIMES {
        if m.nanoseconds(name) < 0 {
            return Err(Failure::new(format!("--{name} cannot be negative")));
        }
    }
    if m.int("health-retries") < 0 {
        return Err(Failure::new("--health-retries cannot be negative"));
    }
    let test = if command.is_empty() { Vec::new() } else { vec!["CMD-SHELL".to_owned(), command.to_owned()] };
    Ok(Some(HealthConfig {
        test,
        interval: m.nanoseconds("health-interval"),
        timeout: m.nanoseconds("health-timeout"),
        start_period: m.nanoseconds("health-start-period"),
        start_interval: m.nanoseconds("health-start-interval"),
        retries: m.int("health-retries"),
    }))
}

fn one_of(flag: &str, what: &str, value: &str, plain: &[&str]) -> Result<String> {
    let joined = value.strip_prefix("container:").is_some_and(|name| !name.is_empty()) && plain.contains(&"container:");
    if value.is_empty() || plain.contains(&value) || joined {
        return Ok(value.to_owned());
    }
    Err(Failure::new(format!("--{flag}: invalid {what} mode")))
}

fn host_config(m: &Matches) -> Result<HostConfig> {
    let (security_opt, unmasked) = security::options(&m.list("security-opt"))?;
    let restart_policy = security::restart(m.text("restart"))?;
    let auto_remove = m.bool("rm");
    if auto_remove && !matches!(restart_policy.name.as_str(), "" | "no") {
        return Err(Failure::new("conflicting options: cannot specify both --restart and --rm"));
    }
    let log_options = env::map(&m.list("log-opt"));
    if m.text("log-driver") == "none" && !log_options.is_empty() {
        return Err(Failure::new("invalid logging opts for driver none"));
    }
    let storage = m.list("storage-opt");
    if storage.iter().any(|option| !option.contains('=')) {
        return Err(Failure::new("invalid storage option"));
    }
    let hosts: std::result::Result<Vec<String>, String> = m.list("add-host").into_iter().map(security::host).collect();
    let (height, width) = terminal::size().filter(|_| terminal::stdout_is_tty()).unwrap_or((0, 0));
    let (cap_add, cap_drop) = security::capabilities(&m.list("cap-add"), &m.list("cap-drop"));
    let some_map = |map: BTreeMap<String, String>| Some(map).filter(|map| !map.is_empty());
    Ok(HostConfig {
        container_id_file: m.text("cidfile").to_owned(),
        log_config: LogConfig { type_: m.text("log-driver").to_owned(), config: Some(log_options) },
        restart_policy: if restart_policy.name.is_empty() {
            RestartPolicy { name: "no".to_owned(), maximum_retry_count: 0 }
        } else {
            restart_policy
        },
        auto_remove,
        volume_driver: m.text("volume-driver").to_owned(),
        volumes_from: Some(m.strings("volumes-from")).filter(|list| !list.is_empty()),
        console_size: [u32::from(height), u32::from(width)],
        annotations: some_map(env::map(&m.list("annotation"))),
        cap_add,
        cap_drop,
        cgroupns_mode: one_of("cgroupns", "CGROUP", m.text("cgroupns"), &["private", "host"])?,
        dns: optional(m.strings("dns")),
        dns_options: optional(m.strings("dns-option")),
        dns_search: optional(m.strings("dns-search")),
        extra_hosts: Some(hosts?).filter(|list| !list.is_empty()),
        group_add: Some(m.strings("group-add")).filter(|list| !list.is_empty()),
        ipc_mode: m.text("ipc").to_owned(),
        oom_score_adj: m.int("oom-score-adj"),
        pid_mode: one_of("pid", "PID", m.text("pid"), &["host", "container:"])?,
        privileged: m.bool("privileged"),
        publish_all_ports: m.bool("publish-all"),
        readonly_rootfs: m.bool("read-only"),
        security_opt: Some(security_opt).filter(|list| !list.is_empty()),
        storage_opt: some_map(env::map(&storage)),
        tmpfs: some_map(mount::tmpfs_map(&m.list("tmpfs"))),
        uts_mode: one_of("uts", "UTS", m.text("uts"), &["host"])?,
        userns_mode: one_of("userns", "USER", m.text("userns"), &["host"])?,
        shm_size: m.bytes("shm-size"),
        sysctls: some_map(env::map(&m.list("sysctl"))),
        runtime: m.text("runtime").to_owned(),
        isolation: m.text("isolation").to_owned(),
        resources: resources(m)?,
        mounts: m.list("mount").into_iter().map(mount::mount).collect::<std::result::Result<Vec<Mount>, _>>()?,
        masked_paths: unmasked.then(Vec::new),
        readonly_paths: unmasked.then(Vec::new),
        init: m.changed("init").then(|| m.bool("init")),
        ..HostConfig::default()
    })
}

fn resources(m: &Matches) -> Result<Resources> {
    let swappiness = m.int("memory-swappiness");
    if swappiness != -1 && !(0..=100).contains(&swappiness) {
        return Err(Failure::new(format!("invalid value: {swappiness}. Valid memory swappiness range is 0-100")));
    }
    let (mut devices, mut requests) = (Vec::new(), Vec::new());
    let mut cdi = Vec::new();
    for value in m.list("device") {
        if device::is_cdi(value) {
            cdi.push(value.to_owned());
        } else {
            devices.push(device::mapping(value)?);
        }
    }
    for value in m.list("gpus") {
        requests.push(device::gpus(value)?);
    }
    if !cdi.is_empty() {
        requests.push(DeviceRequest { driver: "cdi".to_owned(), device_ids: Some(cdi), ..DeviceRequest::default() });
    }
    fn all<T>(values: Vec<&str>, read: fn(&str) -> std::result::Result<T, String>) -> Result<Option<Vec<T>>> {
        Ok(Some(values.into_iter().map(read).collect::<std::result::Result<Vec<T>, String>>()?))
    }
    // The last of a name wins.
    let ulimits = all(m.list("ulimit"), device::ulimit)?.unwrap_or_default();
    let ulimits: BTreeMap<String, Ulimit> = ulimits.into_iter().map(|limit| (limit.name.clone(), limit)).collect();
    let unsigned = |name: &str| number::uint(m.text(name)).unwrap_or_default();
    Ok(Resources {
        cpu_shares: m.int("cpu-shares"),
        memory: m.bytes("memory"),
        nano_cpus: number::nano_cpus(m.text("cpus")).unwrap_or_default(),
        cgroup_parent: m.text("cgroup-parent").to_owned(),
        blkio_weight: number::uint16(m.text("blkio-weight")).unwrap_or_default(),
        blkio_weight_device: all(m.list("blkio-weight-device"), device::weight)?,
        blkio_device_read_bps: all(m.list("device-read-bps"), device::rate_bytes)?,
        blkio_device_write_bps: all(m.list("device-write-bps"), device::rate_bytes)?,
        blkio_device_read_iops: all(m.list("device-read-iops"), device::rate_operations)?,
        blkio_device_write_iops: all(m.list("device-write-iops"), device::rate_operations)?,
        cpu_period: m.int("cpu-period"),
        cpu_quota: m.int("cpu-quota"),
        cpu_realtime_period: m.int("cpu-rt-period"),
        cpu_realtime_runtime: m.int("cpu-rt-runtime"),
        cpuset_cpus: m.text("cpuset-cpus").to_owned(),
        cpuset_mems: m.text("cpuset-mems").to_owned(),
        devices: Some(devices),
        device_cgroup_rules: Some(m.strings("device-cgroup-rule")).filter(|list| !list.is_empty()),
        device_requests: Some(requests).filter(|list| !list.is_empty()),
        memory_reservation: m.bytes("memory-reservation"),
        memory_swap: m.bytes("memory-swap"),
        memory_swappiness: Some(swappiness),
        oom_kill_disable: Some(m.bool("oom-kill-disable")),
        pids_limit: Some(m.int("pids-limit")),
        ulimits: Some(ulimits.into_values().collect()),
        cpu_count: m.int("cpu-count"),
        cpu_percent: m.int("cpu-percent"),
        io_maximum_iops: unsigned("io-maxiops"),
        io_maximum_bandwidth: u64::try_from(m.bytes("io-maxbandwidth")).unwrap_or_default(),
        ..Resources::default()
    })
}

fn networking(m: &Matches, host: &mut HostConfig) -> Result<NetworkingConfig> {
    let values = m.list("network");
    let mut networks = values.iter().map(|v| network::attachment(v)).collect::<std::result::Result<Vec<_>, _>>()?;
    let unnamed = networks.is_empty();
    if unnamed {
        networks.push(network::Attachment { target: "default".to_owned(), ..network::Attachment::default() });
    }
    let user_defined = networks.iter().filter(|n| n.user_defined()).count();
    if user_defined != 0 && user_defined != networks.len() {
        return Err(Failure::new(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
        ));
    }
    host.network_mode.clone_from(&networks[0].target);
    apply_flags(m, &mut networks[0], host)?;
    let mut endpoints = BTreeMap::new();
    let alone = networks.len() == 1;
    for network in networks {
        if endpoints.contains_key(&network.target) {
            return Err(Failure::new(format!("network {:?} is specified multiple times", network.target)));
        }
        if alone && !unnamed && network.plain() {
            break;
        }
        let name = network.target.clone();
        let settings = endpoint(network)?;
        endpoints.insert(name, Some(settings));
    }
    Ok(NetworkingConfig { endpoints_config: Some(endpoints) })
}

/// The flags from before networks had a long form belong to the first network.
fn apply_flags(m: &Matches, first: &mut network::Attachment, host: &mut HostConfig) -> Result<()> {
    let conflict = |flag: &str, option: &str| {
        Failure::new(format!("conflicting options: cannot specify both --{flag} and per-network {option}"))
    };
    let aliases = m.strings("network-alias");
    if !aliases.is_empty() && !first.aliases.is_empty() {
        return Err(conflict("network-alias", "alias"));
    }
    first.aliases.extend(aliases);
    let links = m.strings("link");
    if first.user_defined() {
        first.links.extend(links.iter().cloned());
    }
    host.links = Some(links).filter(|list| !list.is_empty());
    first.link_local_ips.extend(m.strings("link-local-ip"));
    for (flag, option) in [("ip", "IPv4 address"), ("ip6", "IPv6 address"), ("mac-address", "MAC address")] {
        let Some(value) = m.given(flag) else { continue };
        let slot = match flag {
            "ip" => &mut first.ip,
            "ip6" => &mut first.ip6,
            _ => &mut first.mac_address,
        };
        if !slot.is_empty() {
            return Err(conflict(flag, option));
        }
        value.clone_into(slot);
    }
    Ok(())
}

fn endpoint(network: network::Attachment) -> Result<EndpointSettings> {
    if !network.aliases.is_empty() && !network.user_defined() {
        return Err(Failure::new("network-scoped aliases are only supported for user-defined networks"));
    }
    if !network.mac_address.is_empty() {
        network::mac(&network.mac_address)?;
    }
    for address in [&network.ip, &network.ip6] {
        if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
            return Err(Failure::new(format!("invalid IP address: {address}")));
        }
    }
    let asked = !network.ip.is_empty() || !network.ip6.is_empty() || !network.link_local_ips.is_empty();
    let list = |values: Vec<String>| Some(values).filter(|v| !v.is_empty());
    Ok(EndpointSettings {
        ipam_config: asked.then(|| EndpointIpamConfig {
            ipv4_address: network.ip,
            ipv6_address: network.ip6,
            link_local_ips: list(network.link_local_ips),
        }),
        links: list(network.links),
        aliases: list(network.aliases),
        mac_address: network.mac_address,
        driver_opts: Some(network.driver_opts).filter(|map| !map.is_empty()),
        gw_priority: network.gw_priority,
        ..EndpointSettings::default()
    })
}
