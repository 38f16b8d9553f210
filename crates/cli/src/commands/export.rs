//! `export`: export a container's filesystem as a tar archive.
//! Owns its flags.

use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use crate::terminal;

const FLAGS: &[Flag] = &[Flag::text("output", "Write to a file, instead of STDOUT").short('o')];

/// The command.
pub const COMMAND: Command = Command {
    names: &["export", "container export"],
    usage: "[OPTIONS] CONTAINER",
    about: "Export a container's filesystem as a tar archive",
    example: "export -o web.tar web",
    flags: &[FLAGS],
    args: Args::Exactly(1),
    stops: false,
    complete: Complete::Containers,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let output = m.text("output");
    if output.is_empty() && terminal::stdout_is_tty() {
        return Err(Failure::new("cowardly refusing to save to a terminal. Use the -o flag or redirect"));
    }
    let path = Path::new("/containers/{}/export", &[&m.args[0]]);
    let mut answer = context.client()?.request("GET", &path, &[], None)?;
    super::receive(&mut answer, output, "failed to export container").map(|()| 0)
}
