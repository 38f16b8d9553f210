//! `create`: create a new container.
//! Owns its flags and what it prints.

use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::{Flag, Matches};
use crate::terminal;
use super::container_flags;
use super::creating;

const FLAGS: &[Flag] = &[
    Flag::text("pull", "Pull image before creating (\"always\", \"|missing\", \"never\")").default("missing"),
    Flag::switch("quiet", "Suppress the pull output").short('q'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["create", "container create"],
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    about: "Create a new container",
    example: "create --name web -p 8080:80 nginx",
    flags: &[FLAGS, container_flags::FLAGS],
    args: Args::AtLeast(1),
    stops: true,
    complete: Complete::Images,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let request = creating::prepare(context, m).map_err(|f| f.of_run("create").with_code(125))?;
    let created = creating::create(context, m, &request)?;
    terminal::line(&created.id).map(|()| 0)
}
