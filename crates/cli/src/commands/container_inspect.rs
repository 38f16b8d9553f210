//! `container inspect`: display detailed information on one or more containers.
//! Owns its flags and what it prints.

use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::{Flag, Matches};
use super::inspecting::{self, Kind, Request};

const FLAGS: &[Flag] = &[
    Flag::text("format", "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates").short('f'),
    Flag::switch("size", "Display total file sizes").short('s'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["container inspect"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Display detailed information on one or more containers",
    example: "container inspect -s web",
    flags: &[FLAGS],
    args: Args::AtLeast(1),
    stops: false,
    complete: Complete::Containers,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let request = Request { kinds: &[Kind::Container], format: m.text("format"), size: m.bool("size"), verbose: false, platform: String::new() };
    inspecting::show(context.client()?, &m.args, &request)
}
