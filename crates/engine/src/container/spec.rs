//! From a record to the runtime specification of its next run. Owns what a container's world looks like by default;
//! touches nothing: all it needs is handed in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use brig_oci::runtime::{ConsoleSize, IdMapping, Linux, LinuxNamespace, Mount as OciMount, Process, Root, Spec};

use super::modes::{Mode, Modes, NetworkMode};
use super::record::{Mount, Record};
use super::resources;
use super::security::{self, SecurityOptions};
use super::users::Accounts;
use crate::error::Result;
use crate::idrange::RANGE_SIZE;

/// What a run needs to know beyond its record.
pub struct Inputs<'a> {
    /// The record.
    pub record: &'a Record,
    /// Parsed modes.
    pub modes: &'a Modes,
    /// First host id of the container's own range, if it has one.
    pub id_base: Option<u32>,
    /// Process ids of containers whose namespaces are joined, by the name used in the modes.
    pub joined: &'a BTreeMap<String, i32>,
    /// Whether the joined containers have a user namespace of their own, which is then joined too.
    pub join_user: bool,
    /// The container's accounts.
    pub accounts: &'a Accounts,
    /// Directory with the generated `hosts`, `resolv.conf` and `hostname`.
    pub files: &'a Path,
    /// Sources of volumes by name.
    pub volume_paths: &'a BTreeMap<String, PathBuf>,
    /// `--default-ulimit`s.
    pub default_ulimits: &'a [(String, i64, i64)],
    /// `--no-new-privileges` of the daemon.
    pub no_new_privileges: bool,
    /// Parent of the container's cgroup.
    pub cgroup_parent: &'a str,
}

/// Builds the specification.
pub fn build(inputs: &Inputs<'_>) -> Result<Spec> {
    let Inputs { record, modes, .. } = inputs;
    let host = &record.host_config;
    let options = SecurityOptions::parse(host.security_opt.as_deref().unwrap_or_default())?;
    let shares_uts = modes.uts == Mode::Host;
    Ok(Spec {
        oci_version: "1.2.0".into(),
        process: Some(process(inputs, &options)?),
        root: Some(Root { path: "rootfs".into(), readonly: host.readonly_rootfs }),
        hostname: if shares_uts { String::new() } else { record.config.hostname.clone() },
        domainname: if shares_uts { String::new() } else { record.config.domainname.clone() },
        mounts: mounts(inputs),
        annotations: host.annotations.clone().unwrap_or_default(),
        linux: Some(linux(inputs, &options)?),
        ..Spec::default()
    })
}

fn process(inputs: &Inputs<'_>, options: &SecurityOptions) -> Result<Process> {
    let Inputs { record, .. } = inputs;
    let (config, host) = (&record.config, &record.host_config);
    let identity = inputs.accounts.resolve(&config.user, host.group_add.as_deref().unwrap_or_default())?;
    let [height, width] = host.console_size;
    let mut args = vec![record.path.clone()];
    args.extend(record.args.iter().cloned());
    Ok(Process {
        terminal: config.tty,
        console_size: (height > 0 && width > 0).then_some(ConsoleSize { height, width }),
        args,
        env: environment(config.env.as_deref().unwrap_or_default(), &config.hostname, config.tty, &identity.home),
        cwd: if config.working_dir.is_empty() { "/".into() } else { config.working_dir.clone() },
        capabilities: Some(security::capabilities(host, identity.user.uid)?),
        rlimits: resources::rlimits(host, inputs.default_ulimits)?,
        no_new_privileges: options.no_new_privileges.unwrap_or(inputs.no_new_privileges),
        apparmor_profile: options.apparmor.clone().unwrap_or_default(),
        oom_score_adj: i32::try_from(host.oom_score_adj).ok(),
        user: identity.user,
        ..Process::default()
    })
}

/// `PATH`, `HOSTNAME`, `TERM` and `HOME`, then what was given; a name without `=` takes a default away.
pub fn environment(given: &[String], hostname: &str, terminal: bool, home: &str) -> Vec<String> {
    let mut variables: Vec<(String, String)> = vec![
        ("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),
        ("HOSTNAME".into(), hostname.into()),
    ];
    if terminal {
        variables.push(("TERM".into(), "xterm".into()));
    }
    for entry in given {
        let (name, value) = match entry.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (entry.as_str(), None),
        };
        match (variables.iter().position(|(known, _)| known == name), value) {
            (Some(at), Some(value)) => variables[at].1 = value.into(),
            (None, Some(value)) => variables.push((name.into(), value.into())),
            (Some(at), None) => {
                variables.remove(at);
            }
            (None, None) => {}
        }
    }
    if !variables.iter().any(|(name, _)| name == "HOME") {
        variables.push(("HOME".into(), home.into()));
    }
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> OciMount {
    OciMount {
        destination: destination.into(),
        type_: kind.into(),
        source: Some(source.into()),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..OciMount::default()
    }
}

fn mounts(inputs: &Inputs<'_>) -> Vec<OciMount> {
    let Inputs { record, modes, .. } = inputs;
    let host = &record.host_config;
    let access = if host.privileged { "rw" } else { "ro" };
    let shm = format!("size={}", if host.shm_size > 0 { host.shm_size } else { 64 << 20 });
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &[access, "nosuid", "noexec", "nodev"]),
    ];
    match &modes.ipc {
        Mode::Host => {
            list.push(mount("/dev/mqueue", "bind", "/dev/mqueue", &["rbind", "nosuid", "noexec", "nodev"]));
            list.push(mount("/dev/shm", "bind", "/dev/shm", &["rbind", "nosuid", "noexec", "nodev"]));
            // A host without them has nothing to share.
            list.retain(|m| m.type_ != "bind" || m.source.as_deref().is_some_and(Path::exists));
        }
        Mode::Private | Mode::Container(_) => {
            list.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]));
            if host.ipc_mode != "none" {
                list.push(mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]));
            }
        }
    }
    for name in ["resolv.conf", "hostname", "hosts"] {
        let source = inputs.files.join(name);
        list.push(mount(&format!("/etc/{name}"), "bind", &source.to_string_lossy(), &["rbind", "rprivate"]));
    }
    for own in &record.mounts {
        let replaced = |m: &OciMount| m.destination == Path::new(&own.point.destination);
        list.retain(|m| !replaced(m));
        list.push(user_mount(own, inputs));
    }
    list
}

fn user_mount(own: &Mount, inputs: &Inputs<'_>) -> OciMount {
    let point = &own.point;
    let mut options = own.options.clone();
    if point.type_ == "tmpfs" {
        options.extend(own.data.iter().cloned());
        return OciMount {
            destination: point.destination.clone().into(),
            type_: "tmpfs".into(),
            source: Some("tmpfs".into()),
            options,
            ..OciMount::default()
        };
    }
    let mut source = match point.type_.as_str() {
        "volume" => inputs.volume_paths.get(&point.name).cloned().unwrap_or_else(|| PathBuf::from(&point.source)),
        _ => PathBuf::from(&point.source),
    };
    if !own.subpath.is_empty() {
        source.push(&own.subpath);
    }
    OciMount {
        destination: point.destination.clone().into(),
        type_: "bind".into(),
        source: Some(source),
        options,
        ..OciMount::default()
    }
}

fn linux(inputs: &Inputs<'_>, options: &SecurityOptions) -> Result<Linux> {
    let Inputs { record, .. } = inputs;
    let host = &record.host_config;
    let (devices, rules) = resources::devices(host)?;
    let mut limits = resources::convert(&host.resources);
    limits.devices = rules;
    let mappings: Vec<IdMapping> =
        inputs.id_base.map(|host_id| IdMapping { container_id: 0, host_id, size: RANGE_SIZE }).into_iter().collect();
    let open = host.privileged || options.unconfined_paths;
    let paths = |given: &Option<Vec<String>>, default: Vec<String>| match given {
        Some(list) => list.clone(),
        None if open => Vec::new(),
        None => default,
    };
    Ok(Linux {
        uid_mappings: mappings.clone(),
        gid_mappings: mappings,
        sysctl: sysctls(inputs),
        resources: Some(limits),
        cgroups_path: format!("/{}/{}", inputs.cgroup_parent.trim_matches('/'), record.id),
        namespaces: namespaces(inputs),
        devices,
        seccomp: security::seccomp(host, options)?,
        rootfs_propagation: propagation(record),
        masked_paths: paths(&host.masked_paths, security::masked_paths().to_vec()),
        readonly_paths: paths(&host.readonly_paths, security::READONLY_PATHS.map(str::to_owned).to_vec()),
        ..Linux::default()
    })
}

/// A shared or slave bind needs a root mount that lets events through.
fn propagation(record: &Record) -> String {
    let asked = |words: &[&str]| record.mounts.iter().any(|m| words.contains(&m.point.propagation.as_str()));
    if asked(&["shared", "rshared"]) {
        "rshared".into()
    } else if asked(&["slave", "rslave"]) {
        "rslave".into()
    } else {
        String::new()
    }
}

fn namespaces(inputs: &Inputs<'_>) -> Vec<LinuxNamespace> {
    let Inputs { modes, joined, .. } = inputs;
    let own = |kind: &str| LinuxNamespace { type_: kind.into(), path: None };
    let of = |kind: &str, file: &str, name: &str| LinuxNamespace {
        type_: kind.into(),
        path: joined.get(name).map(|pid| PathBuf::from(format!("/proc/{pid}/ns/{file}"))),
    };
    let mut list = vec![own("mount")];
    match &modes.user {
        Mode::Private if inputs.id_base.is_some() => list.push(own("user")),
        Mode::Container(name) if inputs.join_user => list.push(of("user", "user", name)),
        Mode::Private | Mode::Container(_) | Mode::Host => {}
    }
    match &modes.network {
        NetworkMode::None | NetworkMode::Named(_) => list.push(own("network")),
        NetworkMode::Container(name) => list.push(of("network", "net", name)),
        NetworkMode::Host => {}
    }
    for (mode, kind, file) in [(&modes.pid, "pid", "pid"), (&modes.ipc, "ipc", "ipc"), (&modes.uts, "uts", "uts")] {
        match mode {
            Mode::Private => list.push(own(kind)),
            Mode::Container(name) => list.push(of(kind, file, name)),
            Mode::Host => {}
        }
    }
    if modes.cgroup == Mode::Private {
        list.push(own("cgroup"));
    }
    list
}

/// Ports below 1024 and `ping` need no capability in an own network, as in Docker.
fn sysctls(inputs: &Inputs<'_>) -> BTreeMap<String, String> {
    let mut sysctls = BTreeMap::new();
    if matches!(inputs.modes.network, NetworkMode::None | NetworkMode::Named(_)) {
        sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "0".into());
        let last = if inputs.id_base.is_some() || inputs.join_user { RANGE_SIZE - 1 } else { i32::MAX.unsigned_abs() };
        sysctls.insert("net.ipv4.ping_group_range".into(), format!("0 {last}"));
    }
    sysctls.extend(inputs.record.host_config.sysctls.clone().unwrap_or_default());
    sysctls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_wins_over_defaults_and_a_bare_name_removes() {
        let given: Vec<String> = ["A=1", "PATH=/x", "HOSTNAME", "A=2"].map(str::to_owned).to_vec();
        assert_eq!(environment(&given, "h", true, "/root"), ["PATH=/x", "TERM=xterm", "A=2", "HOME=/root"]);
    }
}
