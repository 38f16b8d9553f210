//! `create`: checks what is asked, merges it with the image, resolves mounts, and makes the record. Everything that can
//! be refused is refused here, before anything exists. Also what `update` may change.

use std::collections::BTreeMap;
use std::sync::Arc;

use brig_api::container::{Config, CreateRequest, CreateResponse, HostConfig, UpdateRequest};
use brig_api::network::EndpointSettings;
use brig_oci::{Digest, ImageConfig, Platform};

use super::modes::{Modes, NetworkMode};
use super::record::{Durability, Mount, Record};
use super::security::{self, SecurityOptions};
use super::{Shared, defaults, logging, mounts, resources, restart};
use crate::error::{Error, Result, from_store};
use crate::id::{is_valid_name, now, random_id};
use crate::images::Resolved;
use crate::names::random_name;
use crate::volumes::Volumes;

/// Makes a container that is not started. Blocking.
pub fn create(
    shared: &Arc<Shared>,
    name: Option<&str>,
    platform: Option<&str>,
    asked: CreateRequest,
) -> Result<CreateResponse> {
    let CreateRequest { mut config, host_config, networking_config } = asked;
    let mut host = host_config.unwrap_or_default();
    let mut warnings = Vec::new();
    let image = find_image(shared, &config, &host, platform)?;
    if let Some(image) = &image {
        if platform.is_none_or(str::is_empty)
            && let Some(foreign) = image.foreign()
        {
            warnings.push(format!(
                "The requested image's platform ({foreign}) does not match the detected host platform ({}) and no specific \
                 platform was requested",
                Platform::host()
            ));
        }
        merge_image(&mut config, &image.config);
    }
    check(&config, &mut host, shared, &mut warnings)?;
    defaults::fill(&mut host);
    let joined = join_network(&mut host, shared);
    let modes = Modes::of(&host)?;
    let endpoint = endpoint(&modes, networking_config.and_then(|n| n.endpoints_config).unwrap_or_default())?;
    let (path, args) = command(&config)?;
    let id = random_id()?;
    if config.hostname.is_empty() {
        config.hostname = match modes.network {
            NetworkMode::Host => shared.host_name.clone(),
            NetworkMode::None | NetworkMode::Container(_) | NetworkMode::Named(_) => {
                joined.unwrap_or_else(|| id[..12].to_owned())
            }
        };
    }
    let mounts = mounts::resolve(&config, &host, volumes_from(shared, &host)?)?;
    let record = Record {
        id: id.clone(),
        name: String::new(),
        created: now(),
        image: config.image.clone(),
        image_id: image.as_ref().map(|image| image.id.to_string()).unwrap_or_default(),
        chain: image.as_ref().and_then(|image| image.chain.as_ref()).map(Digest::to_string),
        platform: image.as_ref().map(|image| image.platform()).unwrap_or_else(|| "linux".into()),
        config,
        host_config: host,
        endpoint,
        mounts,
        path,
        args,
        restart_count: 0,
        stopped_by_user: false,
        run: None,
        start_error: None,
        was_started: false,
    };
    let record = shared.index.name(record, name)?;
    let made = make(shared, record);
    match made {
        Ok(()) => Ok(CreateResponse { id, warnings }),
        Err(e) => {
            shared.index.forget_name_of(&id);
            Err(e)
        }
    }
}

/// Notes the container whose network is joined by its id, which outlives a change of its name, and gives its host name,
/// which is shared too. One that does not exist is told at the start.
fn join_network(host: &mut HostConfig, shared: &Shared) -> Option<String> {
    let view = shared.index.view(host.network_mode.strip_prefix("container:")?).ok()?;
    host.network_mode = format!("container:{}", view.record.id);
    Some(view.record.config.hostname.clone())
}

/// Puts the record, the directories, the writable layer and the volumes in place, or leaves nothing.
fn make(shared: &Arc<Shared>, mut record: Record) -> Result<()> {
    // A user that does not exist could be told at start only; Docker does so too, but here it costs nothing to look.
    let paths = shared.paths(&record.id);
    let prepared = prepare(shared, &mut record, &paths);
    let record = Arc::new(record);
    let result = prepared.and_then(|()| shared.records.put(&record, Durability::PowerCut));
    if let Err(e) = result {
        if let Err(undo) = shared.erase_files(&record, &paths) {
            tracing::warn!(container = %record.short_id(), "undo of a failed create: {undo}");
        }
        return Err(e);
    }
    shared.volumes.claim(&record.id, volume_names(&record));
    shared.adopt(Arc::clone(&record));
    Ok(())
}

fn prepare(shared: &Shared, record: &mut Record, paths: &super::Paths) -> Result<()> {
    crate::volumes::make_directory(&paths.state, 0o700)?;
    if record.host_config.brig_rootfs.is_empty() {
        let chain = record.chain.as_deref().map(Digest::parse).transpose().map_err(|e| Error::system(e.to_string()))?;
        let layers = shared.store.prepare(&record.id, chain.as_ref()).map_err(from_store)?;
        // Empty, and in Docker too: by it scripts know that they are in a container.
        let marker = layers.upper.join(".dockerenv");
        std::fs::write(&marker, "").map_err(|e| Error::system(format!("write {}: {e}", marker.display())))?;
    }
    for index in 0..record.mounts.len() {
        prepare_mount(shared, record, index)?;
    }
    Ok(())
}

/// Makes a volume, or the missing source of a `-v` bind.
fn prepare_mount(shared: &Shared, record: &mut Record, index: usize) -> Result<()> {
    let Mount { point, copy_up, .. } = &record.mounts[index];
    match point.type_.as_str() {
        "volume" => {
            let anonymous = point.name.len() == 64 && point.name.bytes().all(|b| b.is_ascii_hexdigit());
            let labels = if anonymous { Volumes::anonymous_labels() } else { BTreeMap::new() };
            let data = shared.volumes.ensure(&point.name, labels)?;
            if *copy_up && record.host_config.brig_rootfs.is_empty() {
                shared.fill_volume(record, &point.destination, &data)?;
            }
            record.mounts[index].point.source = data.to_string_lossy().into_owned();
            Ok(())
        }
        "bind" if *copy_up => std::fs::create_dir_all(&point.source).or_else(|e| match e.kind() {
            // A file or a socket is as good a source as a directory.
            std::io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(Error::invalid(format!("error while creating mount source path '{}': {e}", point.source))),
        }),
        _ => Ok(()),
    }
}

/// The volumes that a record names.
pub fn volume_names(record: &Record) -> Vec<String> {
    record.mounts.iter().filter(|m| m.point.type_ == "volume").map(|m| m.point.name.clone()).collect()
}

fn find_image(shared: &Shared, config: &Config, host: &HostConfig, platform: Option<&str>) -> Result<Option<Resolved>> {
    if !host.brig_rootfs.is_empty() {
        if !config.image.is_empty() {
            return Err(Error::invalid("a container has an image or a --rootfs directory, not both"));
        }
        let directory = std::path::Path::new(&host.brig_rootfs);
        if !directory.is_absolute() || !directory.is_dir() {
            return Err(Error::invalid(format!("--rootfs {}: not a directory on this host", host.brig_rootfs)));
        }
        return Ok(None);
    }
    if config.image.is_empty() {
        return Err(Error::invalid("no image specified: name one, e.g. debian:12, or use --rootfs with a directory"));
    }
    shared.images.resolve_for_run(&config.image, platform).map(Some)
}

/// What the image says, where the client said nothing.
fn merge_image(config: &mut Config, image: &ImageConfig) {
    let base = &image.config;
    if config.user.is_empty() {
        config.user = base.user.clone();
    }
    for port in base.exposed_ports.keys() {
        config.exposed_ports.get_or_insert_default().entry(port.clone()).or_insert(Some(Default::default()));
    }
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut env = config.env.take().unwrap_or_default();
    let own: Vec<String> = env.iter().map(|entry| name(entry)).collect();
    env.extend(base.env.iter().filter(|entry| !own.contains(&name(entry))).cloned());
    config.env = Some(env);
    let mut labels = base.labels.clone();
    labels.extend(config.labels.take().unwrap_or_default());
    config.labels = Some(labels);
    // An entrypoint given anew does not take the image's arguments along.
    if config.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd = base.cmd.clone();
        }
        if config.entrypoint.is_none() {
            config.entrypoint = base.entrypoint.clone();
        }
    } else if config.entrypoint.as_deref() == Some(&[String::new()]) {
        // `--entrypoint ""` takes the image's entrypoint away.
        config.entrypoint = None;
    }
    config.volumes = config.volumes.take().filter(|volumes| !volumes.is_empty());
    for path in base.volumes.keys() {
        config.volumes.get_or_insert_default().entry(path.clone()).or_insert(Some(Default::default()));
    }
    if config.working_dir.is_empty() {
        config.working_dir = base.working_dir.clone();
    }
    if config.stop_signal.is_empty() {
        config.stop_signal = base.stop_signal.clone();
    }
    if config.shell.is_none() {
        config.shell = base.shell.clone();
    }
}

fn check(config: &Config, host: &mut HostConfig, shared: &Shared, warnings: &mut Vec<String>) -> Result<()> {
    resources::check(host)?;
    restart::check(host)?;
    let options = SecurityOptions::parse(host.security_opt.as_deref().unwrap_or_default())?;
    security::bounding(host)?;
    security::seccomp(host, &options)?;
    host.log_config = logging::resolve(&host.log_config, &shared.config.log_driver, &shared.config.log_opts)?;
    check_words(config)?;
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    if !config.stop_signal.is_empty() {
        super::signals::parse(&config.stop_signal)?;
    }
    if let Some(entry) = config.env.iter().flatten().find(|entry| entry.is_empty() || entry.starts_with('=')) {
        return Err(Error::invalid(format!("invalid environment variable: {entry}")));
    }
    if config.hostname.len() > 63 {
        return Err(Error::invalid(format!("invalid hostname format: {}: longer than 63 characters", config.hostname)));
    }
    if !matches!(host.runtime.as_str(), "" | "brig-rt" | "runc" | "io.containerd.runc.v2") {
        return Err(Error::invalid(format!("unknown or invalid runtime name: {}", host.runtime)));
    }
    if !matches!(host.isolation.as_str(), "" | "default") {
        return Err(Error::invalid(format!("invalid isolation {:?}: linux only supports 'default'", host.isolation)));
    }
    if host.storage_opt.as_ref().is_some_and(|options| !options.is_empty()) {
        return Err(Error::not_implemented("--storage-opt (a size for the writable layer) is not in brig yet"));
    }
    if host.links.as_ref().is_some_and(|links| !links.is_empty()) {
        return Err(Error::not_implemented("--link is not in brig yet: use --network container:NAME or --add-host"));
    }
    if host.ipc_mode.starts_with("container:") {
        return Err(Error::not_implemented("--ipc container:NAME is not in brig yet: /dev/shm could not be shared"));
    }
    if config.healthcheck.as_ref().is_some_and(|h| !h.test.is_empty() && h.test != ["NONE"]) {
        warnings.push("Health checks are not in brig yet: this container will show no health.".into());
    }
    if host.resources.oom_kill_disable == Some(true) && host.resources.memory <= 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources."
                .into(),
        );
    }
    check_network(config, host, warnings)?;
    crate::network::check_ports(config, host)
}

/// Refuses what contradicts the network mode, in Docker's words.
/// Words that no process can be given, whether a client or an image wrote them.
fn check_words(config: &Config) -> Result<()> {
    /// PATH_MAX with its NUL.
    const TOO_LONG: usize = 4096;
    let several =
        |what, list: &Option<Vec<String>>| list.iter().flatten().cloned().map(move |word| (what, word)).collect();
    let words: [Vec<(&str, String)>; 4] = [
        several("environment", &config.env),
        several("command", &config.cmd),
        several("entrypoint", &config.entrypoint),
        vec![("user", config.user.clone()), ("working directory", config.working_dir.clone())],
    ];
    if let Some((what, word)) = words.iter().flatten().find(|(_, word)| word.contains('\0')) {
        return Err(Error::invalid(format!("invalid {what} {word:?}: it contains a NUL byte")));
    }
    let length = config.working_dir.len();
    if length >= TOO_LONG {
        return Err(Error::invalid(format!("the working directory has {length} bytes: at most {}", TOO_LONG - 1)));
    }
    Ok(())
}

fn check_network(config: &Config, host: &HostConfig, warnings: &mut Vec<String>) -> Result<()> {
    let given = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let publishes = host.publish_all_ports || host.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty());
    let refuse = |what: &str| Err(Error::invalid(format!("conflicting options: {what} network mode")));
    match Modes::of(host)?.network {
        NetworkMode::Host if publishes => {
            warnings.push("Published ports are discarded when using host network mode".into());
            Ok(())
        }
        NetworkMode::Container(_) if !config.hostname.is_empty() => refuse("hostname and the"),
        NetworkMode::Container(_) if given(&host.dns) => refuse("dns and the"),
        NetworkMode::Container(_) if given(&host.extra_hosts) => refuse("custom host-to-IP mapping and the"),
        NetworkMode::Container(_) if publishes => refuse("port publishing and the container type"),
        NetworkMode::Host | NetworkMode::None | NetworkMode::Container(_) | NetworkMode::Named(_) => Ok(()),
    }
}

fn endpoint(modes: &Modes, mut given: BTreeMap<String, Option<EndpointSettings>>) -> Result<Option<EndpointSettings>> {
    let name = match &modes.network {
        NetworkMode::Named(name) => name.as_str(),
        NetworkMode::None => "none",
        NetworkMode::Host => "host",
        NetworkMode::Container(_) => return Ok(None),
    };
    // Whether the network, or a container whose namespaces are joined, exists is asked at the start, as in Docker: it may
    // be made until then, and clients take a 404 here for a missing image and pull.
    // Clients name the default network in three ways.
    let aliases: &[&str] = if name == "bridge" { &["bridge", "default", ""] } else { &[name] };
    let own = aliases.iter().find_map(|alias| given.remove(*alias)).flatten();
    if let Some(other) = given.keys().next() {
        return Err(Error::not_implemented(format!(
            "connecting a container to several networks ({name}, {other}) is not in brig yet"
        )));
    }
    Ok(own)
}

/// The program and its arguments: entrypoint, then command.
fn command(config: &Config) -> Result<(String, Vec<String>)> {
    let mut all = config.entrypoint.clone().unwrap_or_default();
    all.extend(config.cmd.clone().unwrap_or_default());
    let mut all = all.into_iter();
    match all.next() {
        Some(program) if !program.is_empty() => Ok((program, all.collect())),
        _ => Err(Error::invalid("no command specified: the image has none, so name one behind the image")),
    }
}

fn volumes_from(shared: &Shared, host: &HostConfig) -> Result<Vec<Mount>> {
    let mut inherited = Vec::new();
    for spec in host.volumes_from.iter().flatten() {
        let (name, mode) = spec.split_once(':').unwrap_or((spec, ""));
        let read_only = match mode {
            "" | "rw" | "z" | "Z" => false,
            "ro" => true,
            other => return Err(Error::invalid(format!("invalid mode: {other}"))),
        };
        // Not a 404: clients take that for a missing image and pull.
        let source = shared.index.view(name).map_err(|e| Error::invalid(e.message))?;
        for mount in source.record.mounts.iter().filter(|mount| mount.point.type_ != "tmpfs") {
            let mut mount = mount.clone();
            mount.copy_up = false;
            if read_only && mount.point.rw {
                mount.point.rw = false;
                mount.options.push("rro".into());
            }
            mounts::put(&mut inherited, mount);
        }
    }
    Ok(inherited)
}

/// A name for a container: the one given, checked, or a free one.
pub fn choose_name(given: Option<&str>, taken: impl Fn(&str) -> Option<String>) -> Result<String> {
    if let Some(given) = given.map(|name| name.trim_start_matches('/')).filter(|name| !name.is_empty()) {
        if !is_valid_name(given) {
            return Err(Error::invalid(format!(
                "Invalid container name ({given}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )));
        }
        return match taken(given) {
            Some(owner) => Err(Error::conflict(format!(
                "Conflict. The container name \"/{given}\" is already in use by container \"{owner}\". You have to remove (or rename) that container to be able to reuse that name."
            ))),
            None => Ok(given.to_owned()),
        };
    }
    for attempt in 0..50 {
        let name = random_name(attempt)?;
        if taken(&name).is_none() {
            return Ok(name);
        }
    }
    Err(Error::system("no free container name was found: name it yourself with --name"))
}

/// What is 0, empty or absent in an update stays as it is.
fn take<T: Default + PartialEq + Clone>(to: &mut T, from: &T) {
    if *from != T::default() {
        to.clone_from(from);
    }
}

/// Puts an update's limits over a container's, with the same checks as at creation.
pub fn merge_update(host: &mut HostConfig, update: &UpdateRequest) -> Result<()> {
    let mut changed = host.clone();
    let (to, from) = (&mut changed.resources, &update.resources);
    take(&mut to.blkio_weight, &from.blkio_weight);
    take(&mut to.cpu_shares, &from.cpu_shares);
    take(&mut to.cpu_period, &from.cpu_period);
    take(&mut to.cpu_quota, &from.cpu_quota);
    take(&mut to.cpu_realtime_period, &from.cpu_realtime_period);
    take(&mut to.cpu_realtime_runtime, &from.cpu_realtime_runtime);
    take(&mut to.cpuset_cpus, &from.cpuset_cpus);
    take(&mut to.cpuset_mems, &from.cpuset_mems);
    take(&mut to.memory, &from.memory);
    take(&mut to.memory_reservation, &from.memory_reservation);
    take(&mut to.memory_swap, &from.memory_swap);
    take(&mut to.nano_cpus, &from.nano_cpus);
    take(&mut to.pids_limit, &from.pids_limit);
    if from.nano_cpus != 0 {
        (to.cpu_period, to.cpu_quota) = (0, 0);
    }
    if !update.restart_policy.name.is_empty() {
        changed.restart_policy = update.restart_policy.clone();
        if changed.auto_remove {
            return Err(Error::conflict(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
    }
    resources::check(&changed)?;
    restart::check(&changed)?;
    *host = changed;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(entrypoint: &[&str], cmd: &[&str]) -> ImageConfig {
        let text = serde_json::json!({
            "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []},
            "config": {"Entrypoint": entrypoint, "Cmd": cmd, "Env": ["A=1", "B=2"], "User": "u"}
        });
        serde_json::from_value(text).unwrap()
    }

    fn merged(entrypoint: Option<&[&str]>, cmd: Option<&[&str]>) -> String {
        let own = |list: Option<&[&str]>| list.map(|l| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let mut config = Config { entrypoint: own(entrypoint), cmd: own(cmd), ..Config::default() };
        merge_image(&mut config, &image(&["e"], &["c"]));
        command(&config).map(|(p, a)| format!("{p} {}", a.join(" ")).trim().to_owned()).unwrap_or_else(|e| e.message)
    }

    #[test]
    fn what_belongs_to_the_joined_container_is_refused() {
        let refused = |config: Config, change: fn(&mut HostConfig)| {
            let mut host = HostConfig { network_mode: "container:x".into(), ..HostConfig::default() };
            change(&mut host);
            check_network(&config, &host, &mut Vec::new()).is_err()
        };
        assert!(!refused(Config::default(), |_| {}));
        assert!(refused(Config { hostname: "h".into(), ..Config::default() }, |_| {}));
        assert!(refused(Config::default(), |host| host.dns = Some(vec!["1.1.1.1".into()])));
        assert!(refused(Config::default(), |host| host.extra_hosts = Some(vec!["a:1.1.1.1".into()])));
        assert!(refused(Config::default(), |host| host.publish_all_ports = true));
    }

    #[test]
    fn entrypoint_and_command_merge_as_dockers() {
        assert_eq!(merged(None, None), "e c");
        assert_eq!(merged(None, Some(&["x"])), "e x");
        assert_eq!(merged(Some(&["f"]), None), "f");
        assert_eq!(merged(Some(&["f"]), Some(&["x"])), "f x");
        assert_eq!(merged(Some(&[""]), Some(&["x"])), "x");
        assert!(merged(Some(&[""]), None).starts_with("no command specified"));
    }

    #[test]
    fn environment_is_overridden_by_name() {
        let mut config = Config { env: Some(vec!["B=3".into(), "C".into()]), ..Config::default() };
        merge_image(&mut config, &image(&["e"], &[]));
        assert_eq!(config.env.unwrap(), ["B=3", "C", "A=1"]);
        assert_eq!(config.user, "u");
    }

    #[test]
    fn names_in_use_are_said_with_their_owner() {
        let error = choose_name(Some("/web"), |_| Some("abc".into())).unwrap_err();
        assert!(
            error.message.starts_with("Conflict. The container name \"/web\" is already in use by container \"abc\".")
        );
        assert!(choose_name(Some("a/b"), |_| None).is_err());
        assert!(choose_name(None, |_| None).unwrap().contains('_'));
    }

    #[test]
    fn updates_change_only_what_they_name() {
        let mut host = HostConfig::default();
        host.resources.memory = 64 << 20;
        let mut update = UpdateRequest::default();
        update.resources.cpu_shares = 512;
        merge_update(&mut host, &update).unwrap();
        assert_eq!((host.resources.memory, host.resources.cpu_shares), (64 << 20, 512));
        update.resources.memory = 1;
        assert!(merge_update(&mut host, &update).is_err());
        assert_eq!(host.resources.memory, 64 << 20);
    }
}
