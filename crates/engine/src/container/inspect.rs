//! `inspect`: one picture as Docker shows it. Reads the picture only.

use std::collections::BTreeMap;

use brig_api::container::{InspectResponse, NetworkSettings, PortBinding, PortMap, State};
use brig_api::image::GraphDriver;
use brig_api::network::EndpointSettings;

use super::Paths;
use super::modes::{Modes, NetworkMode};
use super::policy::Status;
use super::record::Record;
use super::view::View;

/// What is not in the picture.
pub struct Extras {
    /// Ids of exec instances.
    pub exec_ids: Vec<String>,
    /// Bytes written and bytes in all, when asked for.
    pub sizes: Option<(i64, i64)>,
    /// Where the container's files lie.
    pub paths: Paths,
    /// Directories of its layers, topmost first, and its writable one.
    pub graph: BTreeMap<String, String>,
}

/// The whole answer.
pub fn inspect(view: &View, extras: Extras) -> InspectResponse {
    let record = &view.record;
    let file = |name: &str| extras.paths.state.join(name).to_string_lossy().into_owned();
    InspectResponse {
        id: record.id.clone(),
        created: record.created.clone(),
        path: record.path.clone(),
        args: record.args.clone(),
        state: Some(state(view)),
        image: record.image_id.clone(),
        resolv_conf_path: file("resolv.conf"),
        hostname_path: file("hostname"),
        hosts_path: file("hosts"),
        log_path: extras.paths.log.to_string_lossy().into_owned(),
        name: format!("/{}", record.name),
        restart_count: record.restart_count,
        driver: "overlay2".into(),
        platform: "linux".into(),
        exec_ids: Some(extras.exec_ids).filter(|ids| !ids.is_empty()),
        host_config: Some(record.host_config.clone()),
        graph_driver: GraphDriver { data: Some(extras.graph), name: "overlay2".into() },
        size_rw: extras.sizes.map(|(rw, _)| rw),
        size_root_fs: extras.sizes.map(|(_, all)| all),
        mounts: record.mounts.iter().map(|mount| mount.point.clone()).filter(|p| p.type_ != "tmpfs").collect(),
        config: Some(record.config.clone()),
        network_settings: Some(network_settings(view)),
        ..InspectResponse::default()
    }
}

fn state(view: &View) -> State {
    State {
        status: view.status.as_str().into(),
        running: view.status.is_alive() || view.status == Status::Restarting,
        paused: view.status == Status::Paused,
        restarting: view.status == Status::Restarting,
        oom_killed: view.oom_killed,
        dead: view.status == Status::Dead,
        pid: i64::from(view.pid),
        exit_code: view.exit_code,
        error: view.error.clone(),
        started_at: view.started_at.clone(),
        finished_at: view.finished_at.clone(),
        health: None,
    }
}

/// The network mode in the words of `docker ps`.
pub fn network_mode(record: &Record) -> String {
    match record.host_config.network_mode.as_str() {
        "" | "default" => "bridge".into(),
        other => other.into(),
    }
}

/// The endpoints by network name; addresses only while the container runs.
pub fn endpoints(view: &View) -> Option<BTreeMap<String, Option<EndpointSettings>>> {
    let record = &view.record;
    let name = match Modes::of(&record.host_config).ok()?.network {
        NetworkMode::Named(name) => name,
        NetworkMode::None => "none".into(),
        NetworkMode::Host => "host".into(),
        NetworkMode::Container(_) => return Some(BTreeMap::new()),
    };
    let mut settings = record.endpoint.clone().unwrap_or_default();
    if settings.network_id.is_empty() {
        settings.network_id = crate::network::id_of(&name);
    }
    if let Some(attachment) = record.run.as_ref().and_then(|run| run.attachment.as_ref()) {
        attachment.describe(&mut settings);
    }
    Some(BTreeMap::from([(name, Some(settings))]))
}

/// Ports with their bindings; exposed ones that are not published are there without.
pub fn ports(view: &View) -> Option<PortMap> {
    let record = &view.record;
    let attachment = record.run.as_ref().and_then(|run| run.attachment.as_ref());
    let mut map: PortMap = record.config.exposed_ports.iter().flatten().map(|(port, _)| (port.clone(), None)).collect();
    for port in attachment.iter().flat_map(|attachment| attachment.published()) {
        map.entry(port.container)
            .or_default()
            .get_or_insert_default()
            .push(PortBinding { host_ip: port.host_ip, host_port: port.host_port.to_string() });
    }
    Some(map)
}

fn network_settings(view: &View) -> NetworkSettings {
    let endpoints = endpoints(view);
    let bridge = endpoints.as_ref().and_then(|all| all.get("bridge")).cloned().flatten().unwrap_or_default();
    let alive = view.status.is_alive();
    NetworkSettings {
        sandbox_id: if alive { view.record.id.clone() } else { String::new() },
        sandbox_key: if alive { format!("/proc/{}/ns/net", view.pid) } else { String::new() },
        ports: if alive { ports(view) } else { Some(PortMap::new()) },
        endpoint_id: bridge.endpoint_id.clone(),
        gateway: bridge.gateway.clone(),
        ip_address: bridge.ip_address.clone(),
        ip_prefix_len: bridge.ip_prefix_len,
        mac_address: bridge.mac_address.clone(),
        networks: endpoints,
        ..NetworkSettings::default()
    }
}
