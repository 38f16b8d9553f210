//! `stop`: stop one or more running containers.
//! Owns its flags and what it prints.

use crate::client::Path;
use crate::command::each;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::{Flag, Kind, Matches};
use crate::terminal;

const FLAGS: &[Flag] = &[
    Flag::text("signal", "Signal to send to the container").short('s'),
    Flag::new("timeout", Kind::Int, "int", "Seconds to wait before killing the container").short('t'),
    Flag::new("time", Kind::Int, "int", "").same_as("timeout"),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["stop", "container stop"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Stop one or more running containers",
    example: "stop -t 3 web",
    flags: &[FLAGS],
    args: Args::AtLeast(1),
    stops: false,
    complete: Complete::Running,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
        let client = context.client()?;
    each(&m.args, |name| {
        let path = Path::new("/containers/{}/stop", &[name])
            .query_text("signal", m.text("signal"))
            .query_text("t", m.text("timeout"));
        client.post(&path)?;
        terminal::line(name)
    })
}
