//! `volume rm`: remove one or more volumes. You cannot remove a volume that is in use by a container..
//! Owns its flags and what it prints.

use crate::client::Path;
use crate::command::each;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::{Flag, Matches};
use crate::terminal;

const FLAGS: &[Flag] = &[
    Flag::switch("force", "Force the removal of one or more volumes").short('f'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["volume rm", "volume remove"],
    usage: "[OPTIONS] VOLUME [VOLUME...]",
    about: "Remove one or more volumes. You cannot remove a volume that is in use by a container.",
    example: "volume rm data",
    flags: &[FLAGS],
    args: Args::AtLeast(1),
    stops: false,
    complete: Complete::Volumes,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let client = context.client()?;
    each(&m.args, |name| {
        client.delete::<serde_json::Value>(&Path::new("/volumes/{}", &[name]).query_flag("force", m.bool("force")))?;
        terminal::line(name)
    })
}
