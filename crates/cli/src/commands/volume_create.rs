//! `volume create`: create a volume.
//! Owns its flags and what it prints.

use brig_api::volume::{CreateRequest, Volume};
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Kind, Matches};
use crate::parse::env;
use crate::terminal;

const FLAGS: &[Flag] = &[
    Flag::text("availability", "Cluster Volume availability (\"active\", \"pause\", \"drain\")").default("active"),
    Flag::text("driver", "Specify volume driver name").short('d').default("local"),
    Flag::text("group", "Cluster Volume group (cluster volumes)"),
    Flag::list("label", "Set metadata for a volume"),
    Flag::new("limit-bytes", Kind::Bytes, "bytes", "Minimum size of the Cluster Volume in bytes"),
    Flag::new("opt", Kind::List, "map", "Set driver specific options").short('o'),
    Flag::new("required-bytes", Kind::Bytes, "bytes", "Maximum size of the Cluster Volume in bytes"),
    Flag::text("scope", "Cluster Volume access scope (\"single\", \"multi\")").default("single"),
    Flag::new("secret", Kind::List, "map", "Cluster Volume secrets"),
    Flag::text("sharing", "Cluster Volume access sharing (\"none\", \"readonly\", \"onewriter\", \"all\")").default("none"),
    Flag::list("topology-preferred", "A topology that the Cluster Volume would be preferred in"),
    Flag::list("topology-required", "A topology that the Cluster Volume must be accessible from"),
    Flag::text("type", "Cluster Volume access type (\"mount\", \"block\")").default("block"),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["volume create"],
    usage: "[OPTIONS] [VOLUME]",
    about: "Create a volume",
    example: "volume create data",
    flags: &[FLAGS],
    args: Args::AtMost(1),
    stops: false,
    complete: Complete::Nothing,
    run,
};

const CLUSTER: [&str; 10] = [
    "availability", "group", "limit-bytes", "required-bytes", "scope", "secret", "sharing", "topology-preferred",
    "topology-required", "type",
];

fn run(context: &Context, m: &Matches) -> Result<u8> {
    if let Some(flag) = CLUSTER.iter().find(|flag| m.changed(flag)) {
        return Err(Failure::new(format!("--{flag} is for cluster volumes, which brig does not have: leave it out")));
    }
    let request = CreateRequest {
        name: m.args.first().cloned().unwrap_or_default(),
        driver: m.text("driver").to_owned(),
        driver_opts: Some(env::map(&m.list("opt"))),
        labels: Some(env::map(&m.list("label"))),
    };
    let volume: Volume = context.client()?.post_json(&Path::new("/volumes/create", &[]), &request)?;
    terminal::line(&volume.name).map(|()| 0)
}
