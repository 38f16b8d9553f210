//! `kill`: kill one or more running containers.
//! Owns its flags and what it prints.

use crate::client::Path;
use crate::command::each;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::{Flag, Matches};
use crate::terminal;

const FLAGS: &[Flag] = &[
    Flag::text("signal", "Signal to send to the container").short('s'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["kill", "container kill"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Kill one or more running containers",
    example: "kill -s HUP web",
    flags: &[FLAGS],
    args: Args::AtLeast(1),
    stops: false,
    complete: Complete::Running,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let client = context.client()?;
    each(&m.args, |name| {
        client.post(&Path::new("/containers/{}/kill", &[name]).query_text("signal", m.text("signal")))?;
        terminal::line(name)
    })
}
