//! `network inspect`: display detailed information on one or more networks.
//! Owns its flags and what it prints.

use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::{Flag, Matches};
use super::inspecting::{self, Kind, Request};

const FLAGS: &[Flag] = &[
    Flag::text("format", "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates").short('f'),
    Flag::switch("verbose", "Verbose output for diagnostics").short('v'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["network inspect"],
    usage: "[OPTIONS] NETWORK [NETWORK...]",
    about: "Display detailed information on one or more networks",
    example: "network inspect bridge",
    flags: &[FLAGS],
    args: Args::AtLeast(1),
    stops: false,
    complete: Complete::Networks,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let request = Request { kinds: &[Kind::Network], format: m.text("format"), size: false, verbose: m.bool("verbose"), platform: String::new() };
    inspecting::show(context.client()?, &m.args, &request)
}
