//! `inspect`: return low-level information on Docker objects.
//! Owns its flags and what it prints.

use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use super::inspecting::{self, Kind, Request};

const FLAGS: &[Flag] = &[
    Flag::text("format", "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates").short('f'),
    Flag::switch("size", "Display total file sizes if the type is container").short('s'),
    Flag::text("type", "Only inspect objects of the given type"),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["inspect"],
    usage: "[OPTIONS] NAME|ID [NAME|ID...]",
    about: "Return low-level information on Docker objects",
    example: "inspect -f '{{.State.Status}}' web",
    flags: &[FLAGS],
    args: Args::AtLeast(1),
    stops: false,
    complete: Complete::Containers,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let wanted = m.text("type");
    let one = match wanted {
        "" => None,
        name => Some(Kind::named(name).ok_or_else(|| {
            Failure::new(format!("{name:?} is not a valid value for --type: name one of container, image, network, volume"))
        })?),
    };
    let kinds: &[Kind] = one.as_ref().map_or(&inspecting::ALL, std::slice::from_ref);
    let request = Request { kinds, format: m.text("format"), size: m.bool("size"), verbose: false, platform: String::new() };
    inspecting::show(context.client()?, &m.args, &request)
}
