//! `manifest inspect`: display an image manifest, or manifest list.
//! Owns its flags and what it prints.

use super::manifest_lists::{self, List};
use brig_api::image::{Descriptor, RegistryManifest};
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use serde_json::{Value, json};

const FLAGS: &[Flag] = &[
    Flag::switch("insecure", "Allow communication with an insecure registry (the daemon's settings decide)"),
    Flag::switch("verbose", "Output additional info including layers and platform").short('v'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["manifest inspect"],
    usage: "[OPTIONS] [MANIFEST_LIST] MANIFEST",
    about: "Display an image manifest, or manifest list",
    example: "manifest inspect debian:12",
    flags: &[FLAGS],
    args: Args::Between(1, 2),
    stops: false,
    complete: Complete::Nothing,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let verbose = m.bool("verbose");
    if let [list, entry] = &m.args[..] {
        let list = List::of(context, list)?;
        if !list.exists() {
            return Err(list.missing());
        }
        return show(context, &list.entry(entry)?, verbose).map(|()| 0);
    }
    let list = List::of(context, &m.args[0])?;
    if list.exists() {
        let entries = list.entries()?;
        let shown = match verbose {
            true => Value::Array(entries.iter().map(full).collect::<Result<_>>()?),
            false => json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
                "manifests": entries.iter().map(|entry| json!(entry.descriptor)).collect::<Vec<_>>(),
            }),
        };
        return manifest_lists::print(&shown).map(|()| 0);
    }
    show(context, &manifest_lists::look(context, &m.args[0])?, verbose).map(|()| 0)
}

fn show(context: &Context, manifest: &RegistryManifest, verbose: bool) -> Result<()> {
    let shown = match verbose {
        true if manifest_lists::is_list(manifest) => Value::Array(listed(context, manifest)?),
        true => full(manifest)?,
        false => text(manifest)?,
    };
    manifest_lists::print(&shown)
}

/// All that a list at a registry leads to, each asked for.
fn listed(context: &Context, list: &RegistryManifest) -> Result<Vec<Value>> {
    let broken = |e: serde_json::Error| Failure::new(format!("{}: {e}", list.ref_));
    let entries = text(list)?["manifests"].take();
    let entries: Vec<Descriptor> = serde_json::from_value(entries).map_err(broken)?;
    let name = list.ref_.split('@').next().unwrap_or_default();
    let one = |entry: Descriptor| {
        let ref_ = format!("{name}@{}", entry.digest);
        let manifest = manifest_lists::look(context, &ref_)?;
        full(&RegistryManifest { ref_, descriptor: entry, ..manifest })
    };
    entries.into_iter().map(one).collect()
}

/// The manifest itself.
fn text(manifest: &RegistryManifest) -> Result<Value> {
    serde_json::from_str(&manifest.raw).map_err(|e| Failure::new(format!("{}: {e}", manifest.ref_)))
}

fn full(manifest: &RegistryManifest) -> Result<Value> {
    let kind = if manifest.descriptor.media_type.contains("docker") { "SchemaV2Manifest" } else { "OCIManifest" };
    Ok(json!({ "Ref": manifest.ref_, "Descriptor": manifest.descriptor, kind: text(manifest)? }))
}
