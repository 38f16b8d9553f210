//! `unpause`: unpause all processes within one or more containers.
//! Owns its flags and what it prints.

use crate::client::Path;
use crate::command::each;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::{Flag, Matches};
use crate::terminal;

const FLAGS: &[Flag] = &[
    ];

/// The command.
pub const COMMAND: Command = Command {
    names: &["unpause", "container unpause"],
    usage: "CONTAINER [CONTAINER...]",
    about: "Unpause all processes within one or more containers",
    example: "unpause web",
    flags: &[FLAGS],
    args: Args::AtLeast(1),
    stops: false,
    complete: Complete::Running,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let client = context.client()?;
    each(&m.args, |name| {
        client.post(&Path::new("/containers/{}/unpause", &[name]))?;
        terminal::line(name)
    })
}
