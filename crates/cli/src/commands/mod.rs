//! The verbs, one file each, and the list of them.
//! Owns the list and the few things that several verbs print alike.

mod container_config;
mod container_flags;
mod creating;
mod images_tree;
mod inspecting;
mod manifest_lists;
mod waiting;

use crate::command::{Command, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Kind, Matches};
use crate::parse::reference::Reference;
use crate::{host, terminal};
use serde_json::Value;
use std::io::{Read, Write};

macro_rules! verbs {
    ($($module:ident),* $(,)?) => {
        $(mod $module;)*
        /// Every command.
        pub const ALL: &[&Command] = &[$(&$module::COMMAND),*];
    };
}

verbs! {
    run, create, start, attach, stop, kill, restart, rm, ps, logs, exec, inspect, container_inspect, image_inspect, network_inspect, volume_inspect, rename, pause, unpause, top, stats, port, wait, update, commit, diff, export, container_prune, images, pull, push, search, load, import, save, rmi, tag, history, image_prune, manifest_annotate, manifest_create, manifest_inspect, manifest_push, manifest_rm, network_ls, volume_ls, volume_create, volume_rm, volume_prune, system_check, system_df, system_prune, info, events, version, login, logout, completion,
}

/// Shown first in the help.
pub const COMMON: &[&str] = &["run", "exec", "ps", "logs", "pull", "images", "stop", "rm", "login", "version", "info"];

/// Management groups.
pub const GROUPS: &[(&str, &str)] = &[
    ("container", "Manage containers"),
    ("image", "Manage images"),
    ("manifest", "Manage image manifests and manifest lists"),
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
        "network create" | "network rm" | "network connect" | "network disconnect" | "network prune" => {
            "containers join the default bridge, 'host' or 'none'"
        }
        "volume update" => "it is for cluster volumes, which brig does not have",
        _ => match group {
            "builder" | "buildx" => "build the image with another builder and bring it here with 'load'",
            "compose" => "point docker compose at brig's socket with DOCKER_HOST=unix:///run/brig.sock",
            "swarm" | "node" | "service" | "stack" | "secret" | "config" => "brig runs containers on one machine",
            "checkpoint" => "stop and start the container",
            "plugin" | "trust" | "scout" | "model" | "init" | "debug" => "there is no replacement",
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
    m.given("platform").map_or_else(|| Ok(String::new()), platform_json)
}

/// One platform as the JSON that the daemon takes.
fn platform_json(text: &str) -> Result<String> {
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

/// A name that is to be given to an image, of which a digest cannot be part.
fn without_digest(name: Reference) -> Result<Reference> {
    match name.digest {
        Some(_) => Err(Failure::new("refusing to create a tag with a digest reference")),
        None => Ok(name),
    }
}

/// Opens an archive to be sent. A directory can be opened too, but not read.
fn open_archive(name: &str) -> Result<std::fs::File> {
    let refusal = |doing: &str, error: &std::io::Error| {
        Failure::new(format!("{doing} {name}: {}", crate::parse::env::words(error)))
    };
    let file = std::fs::File::open(name).map_err(|error| refusal("open", &error))?;
    match file.metadata() {
        Ok(about) if about.is_dir() => Err(refusal("read", &std::io::ErrorKind::IsADirectory.into())),
        Ok(_) => Ok(file),
        Err(error) => Err(refusal("open", &error)),
    }
}

/// Writes an archive that comes from the daemon to standard output or, under its name only when it is whole, to a file.
fn receive(source: &mut impl Read, output: &str, failed: &str) -> Result<()> {
    if output.is_empty() {
        return copy(source, terminal::write);
    }
    let target = std::path::Path::new(output);
    let directory = target.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
    let fail = |e: std::io::Error| Failure::new(format!("{failed}: write {output}: {}", crate::parse::env::words(&e)));
    // Half a file under the final name would look like a whole one.
    let beside = directory.join(format!(".brig-save-{}", std::process::id()));
    let mut file = std::fs::File::create(&beside).map_err(fail)?;
    let written = copy(source, |bytes| file.write_all(bytes).map_err(fail))
        .and_then(|()| std::fs::rename(&beside, target).map_err(fail));
    if written.is_err() {
        // The first failure is the one to tell.
        let _left = std::fs::remove_file(&beside);
    }
    written
}

fn copy(source: &mut impl Read, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        match source.read(&mut buffer)? {
            0 => return Ok(()),
            read => sink(&buffer[..read])?,
        }
    }
}

/// When an image counts as made: the same container or archive then gives the same image.
const TIMESTAMP: Flag = Flag::new(
    "timestamp",
    Kind::Int,
    "seconds",
    "Set the image's creation time, in seconds since 1970 (default: $SOURCE_DATE_EPOCH, or now)",
);

/// The value of [`TIMESTAMP`]; empty for now.
fn timestamp(m: &Matches) -> String {
    match m.given("timestamp") {
        Some(given) => given.to_owned(),
        None => std::env::var("SOURCE_DATE_EPOCH").unwrap_or_default(),
    }
}
