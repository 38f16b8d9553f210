//! `info`: display system-wide information.
//! Owns its flags and what it prints.

use brig_api::system::Info;
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use crate::template::Format;
use crate::{human, program, terminal};
use serde_json::{Value, json};

const FLAGS: &[Flag] = &[
    Flag::text("format", "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates").short('f'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["info", "system info"],
    usage: "[OPTIONS]",
    about: "Display system-wide information",
    example: "info -f '{{.ServerVersion}}'",
    flags: &[FLAGS],
    args: Args::None,
    stops: false,
    complete: Complete::Nothing,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let answer = context.client().and_then(|client| client.get_raw(&Path::new("/info", &[])));
    let own = json!({ "Debug": false, "Context": "default", "Plugins": [], "Warnings": null });
    let format = match m.text("format") {
        "json" => "{{json .}}",
        other => other,
    };
    if !format.is_empty() {
        let mut all: Value = crate::client::decode(&answer?)?;
        all["ClientInfo"] = own;
        return terminal::line(&Format::parse(format)?.fill(&all)?).map(|()| 0);
    }
    terminal::print(&format!("Client: {}\n Version:    {}\n Context:    default\n Debug Mode: false\n\nServer:\n", program(), env!("CARGO_PKG_VERSION")))?;
    let info: Info = match answer {
        Ok(bytes) => crate::client::decode(&bytes)?,
        Err(failure) => return Err(Failure::new(format!("{}\nerrors pretty printing info", failure.message))),
    };
    terminal::print(&plain(&info))?;
    for warning in info.warnings.unwrap_or_default() {
        terminal::say(&warning);
    }
    Ok(0)
}

fn plain(info: &Info) -> String {
    let mut lines: Vec<(usize, String, String)> = Vec::new();
    let mut add = |depth: usize, name: &str, value: String| lines.push((depth, name.to_owned(), value));
    add(1, "Containers", info.containers.to_string());
    add(2, "Running", info.containers_running.to_string());
    add(2, "Paused", info.containers_paused.to_string());
    add(2, "Stopped", info.containers_stopped.to_string());
    add(1, "Images", info.images.to_string());
    add(1, "Server Version", info.server_version.clone());
    add(1, "Storage Driver", info.driver.clone());
    for [name, value] in &info.driver_status {
        add(2, name, value.clone());
    }
    add(1, "Logging Driver", info.logging_driver.clone());
    add(1, "Cgroup Driver", info.cgroup_driver.clone());
    add(1, "Cgroup Version", info.cgroup_version.clone());
    add(1, "Plugins", String::new());
    add(2, "Volume", info.plugins.volume.join(" "));
    add(2, "Network", info.plugins.network.join(" "));
    add(2, "Log", info.plugins.log.join(" "));
    add(1, "Swarm", info.swarm.local_node_state.clone());
    add(1, "Runtimes", info.runtimes.keys().cloned().collect::<Vec<_>>().join(" "));
    add(1, "Default Runtime", info.default_runtime.clone());
    add(1, "Init Binary", info.init_binary.clone());
    add(1, "Security Options", String::new());
    for option in &info.security_options {
        let mut parts = option.split(',').map(|part| part.split_once('=').unwrap_or(("", part)));
        add(2, parts.next().map_or("", |(_, name)| name), "\u{0}".to_owned());
        for (name, value) in parts {
            add(3, name, value.to_owned());
        }
    }
    add(1, "Kernel Version", info.kernel_version.clone());
    add(1, "Operating System", info.operating_system.clone());
    add(1, "OSType", info.os_type.clone());
    add(1, "Architecture", info.architecture.clone());
    add(1, "CPUs", info.ncpu.to_string());
    add(1, "Total Memory", human::binary_size(u64::try_from(info.mem_total).unwrap_or_default()));
    add(1, "Name", info.name.clone());
    add(1, "ID", info.id.clone());
    add(1, "Docker Root Dir", info.docker_root_dir.clone());
    add(1, "Debug Mode", info.debug.to_string());
    add(1, "Experimental", info.experimental_build.to_string());
    if let Some(registries) = &info.registry_config {
        add(1, "Insecure Registries", String::new());
        for name in registries.index_configs.iter().filter(|(_, index)| !index.secure).map(|(name, _)| name) {
            add(2, name, "\u{0}".to_owned());
        }
        for cidr in &registries.insecure_registry_cidrs {
            add(2, cidr, "\u{0}".to_owned());
        }
        if !registries.mirrors.is_empty() {
            add(1, "Registry Mirrors", String::new());
        }
        for mirror in &registries.mirrors {
            add(2, mirror, "\u{0}".to_owned());
        }
    }
    add(1, "Live Restore Enabled", info.live_restore_enabled.to_string());
    let line = |(depth, name, value): &(usize, String, String)| {
        let indent = " ".repeat(*depth);
        match value.as_str() {
            "\u{0}" => format!("{indent}{name}\n"),
            "" => format!("{indent}{name}:\n"),
            value => format!("{indent}{name}: {value}\n"),
        }
    };
    lines.iter().map(line).collect()
}
