//! The verbs, one file each, and the list of them.
//! Owns the list and the few things that several verbs print alike.

mod container_config;
mod container_flags;
mod creating;
mod inspecting;
mod waiting;

use crate::command::{Command, Context};
use crate::host;
use serde_json::Value;

macro_rules! verbs {
    ($($module:ident),* $(,)?) => {
        $(mod $module;)*
        /// Every command.
        pub const ALL: &[&Command] = &[$(&$module::COMMAND),*];
    };
}

verbs! {
    run, create, start, attach, stop, kill, restart, rm, ps, logs, exec, inspect, container_inspect, image_inspect, network_inspect, volume_inspect, rename, pause, unpause, top, stats, port, wait, update, container_prune, images, pull, push, load, import, save, rmi, tag, history, image_prune, network_ls, volume_ls, volume_create, volume_rm, volume_prune, system_df, system_prune, info, events, version, login, logout, completion,
}

/// Shown first in the help.
pub const COMMON: &[&str] = &["run", "exec", "ps", "logs", "pull", "images", "stop", "rm", "login", "version", "info"];

/// Management groups.
pub const GROUPS: &[(&str, &str)] = &[
    ("container", "Manage containers"),
    ("image", "Manage images"),
    ("network", "Manage networks"),
    ("system", "Manage brig"),
    ("volume", "Manage volumes"),
];

/// What Docker has under this name and brig not yet, in a few words with what to do instead.
pub fn later(said: &str) -> Option<&'static str> {
    let group = said.split(' ').next().unwrap_or("");
    Some(match said {
        "build" | "image build" | "bake" => "build the image with another builder and bring it here with 'load'",
        "cp" | "container cp" => "stream files with 'exec', as in: exec -i CONTAINER tar -x < files.tar",
        "commit" | "container commit" => "use 'import' with a tar of the root file system",
        "diff" | "container diff" | "export" | "container export" => "look inside with 'exec'",
        "search" => "search the registry's website",
        "network create" | "network rm" | "network connect" | "network disconnect" | "network prune" => {
            "containers join the default bridge, 'host' or 'none'"
        }
        "volume update" => "it is for cluster volumes, which brig does not have",
        _ => match group {
            "builder" | "buildx" => "build the image with another builder and bring it here with 'load'",
            "compose" => "point docker compose at brig's socket with DOCKER_HOST=unix:///run/brig.sock",
            "swarm" | "node" | "service" | "stack" | "secret" | "config" => "brig runs containers on one machine",
            "checkpoint" => "stop and start the container",
            "plugin" | "trust" | "manifest" | "scout" | "model" | "init" | "debug" => "there is no replacement",
            "context" => "name the daemon with --host, DOCKER_HOST or --context",
            _ => return None,
        },
    })
}

/// One field of each row, a line each.
fn lines(rows: &[Value], field: &str) -> String {
    rows.iter().filter_map(|row| row[field].as_str()).map(|text| format!("{text}\n")).collect()
}

/// `--format`, or what the client's configuration file says for this list.
fn configured(context: &Context, format: &str, key: &str) -> String {
    if !format.is_empty() {
        return format.to_owned();
    }
    let file = host::config_dir(&context.options).join("config.json");
    let config = std::fs::read(file).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    config.and_then(|config| config.get(key).and_then(Value::as_str).map(str::to_owned)).unwrap_or_default()
}

/// The last line of every prune.
fn reclaimed(bytes: u64) -> crate::failure::Result<u8> {
    let size = crate::human::size(i64::try_from(bytes).unwrap_or(i64::MAX));
    crate::terminal::line(&format!("Total reclaimed space: {size}")).map(|()| 0)
}

/// `--platform os/arch[/variant]` as the JSON that the daemon takes; empty if not given.
fn platform(m: &crate::flags::Matches) -> crate::failure::Result<String> {
    let Some(text) = m.given("platform") else { return Ok(String::new()) };
    let parts: Vec<&str> = text.split('/').collect();
    match parts[..] {
        [os, architecture] => Ok(serde_json::json!({ "os": os, "architecture": architecture }).to_string()),
        [os, architecture, variant] => {
            Ok(serde_json::json!({ "os": os, "architecture": architecture, "variant": variant }).to_string())
        }
        _ => Err(crate::failure::Failure::new(format!(
            "invalid argument {text:?} for \"--platform\" flag: write os/architecture, as linux/arm64"
        ))),
    }
}
