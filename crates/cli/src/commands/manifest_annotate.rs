//! `manifest annotate`: add additional information to a local image manifest.
//! Owns its flags.

use super::manifest_lists::List;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Kind, Matches};

const FLAGS: &[Flag] = &[
    Flag::text("arch", "Set architecture"),
    Flag::text("os", "Set operating system"),
    Flag::new("os-features", Kind::List, "strings", "Set operating system feature"),
    Flag::text("os-version", "Set operating system version"),
    Flag::text("variant", "Set architecture variant"),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["manifest annotate"],
    usage: "[OPTIONS] MANIFEST_LIST MANIFEST",
    about: "Add additional information to a local image manifest",
    example: "manifest annotate --arch arm64 --variant v8 example.com/app:1 example.com/app:1-arm64",
    flags: &[FLAGS],
    args: Args::Exactly(2),
    stops: false,
    complete: Complete::Nothing,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let list = List::of(context, &m.args[0])?;
    if !list.exists() {
        return Err(list.missing());
    }
    let mut entry = list.entry(&m.args[1])?;
    let platform = entry.descriptor.platform.get_or_insert_default();
    let set = |place: &mut String, flag: &str| {
        if let Some(value) = m.given(flag) {
            value.clone_into(place);
        }
    };
    set(&mut platform.architecture, "arch");
    set(&mut platform.os, "os");
    set(&mut platform.os_version, "os-version");
    set(&mut platform.variant, "variant");
    if m.changed("os-features") {
        let features = m.list("os-features").into_iter().flat_map(|list| list.split(','));
        platform.os_features = Some(features.map(str::to_owned).collect());
    }
    if platform.os.is_empty() || platform.architecture.is_empty() {
        return Err(Failure::new("manifest entry for image has unsupported os/arch combination: give --os and --arch"));
    }
    list.put(&entry).map(|()| 0)
}
