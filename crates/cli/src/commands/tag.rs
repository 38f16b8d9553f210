//! `tag`: create a tag TARGET_IMAGE that refers to SOURCE_IMAGE.
//! Owns its flags and what it prints.

use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use crate::parse::reference::Reference;

const FLAGS: &[Flag] = &[
    ];

/// The command.
pub const COMMAND: Command = Command {
    names: &["tag", "image tag"],
    usage: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    about: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    example: "tag alpine my/alpine:1",
    flags: &[FLAGS],
    args: Args::Exactly(2),
    stops: false,
    complete: Complete::Images,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let target = Reference::parse(&m.args[1])
        .map_err(|e| Failure::new(format!("Error parsing reference: {:?} is not a valid repository/tag: {e}", m.args[1])))?;
    let target = super::without_digest(target)?;
    let path = Path::new("/images/{}/tag", &[&m.args[0]])
        .query("repo", &target.familiar_name())
        .query("tag", target.tag.as_deref().unwrap_or("latest"));
    context.client()?.post(&path).map(|()| 0)
}
