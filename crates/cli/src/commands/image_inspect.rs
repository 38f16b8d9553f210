//! `image inspect`: display detailed information on one or more images.
//! Owns its flags and what it prints.

use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::{Flag, Matches};
use super::inspecting::{self, Kind, Request};

const FLAGS: &[Flag] = &[
    Flag::text("format", "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates").short('f'),
    Flag::text("platform", "Inspect a specific platform of the multi-platform image.\nIf the image or the server is not multi-platform capable, the command will error out if the platform does not match.\n'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)"),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["image inspect"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Display detailed information on one or more images",
    example: "image inspect -f '{{.Config.Cmd}}' alpine",
    flags: &[FLAGS],
    args: Args::AtLeast(1),
    stops: false,
    complete: Complete::Images,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let request = Request { kinds: &[Kind::Image], format: m.text("format"), size: false, verbose: false, platform: super::platform(m)? };
    inspecting::show(context.client()?, &m.args, &request)
}
