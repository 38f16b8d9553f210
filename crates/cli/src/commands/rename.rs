//! `rename`: rename a container.
//! Owns its flags and what it prints.

use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};

const FLAGS: &[Flag] = &[
    ];

/// The command.
pub const COMMAND: Command = Command {
    names: &["rename", "container rename"],
    usage: "CONTAINER NEW_NAME",
    about: "Rename a container",
    example: "rename web old-web",
    flags: &[FLAGS],
    args: Args::Exactly(2),
    stops: false,
    complete: Complete::Containers,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let (old, new) = (m.args[0].trim(), m.args[1].trim());
    if old.is_empty() || new.is_empty() {
        return Err(Failure::new("neither old nor new names may be empty"));
    }
    context.client()?.post(&Path::new("/containers/{}/rename", &[old]).query("name", new)).map_err(|f| {
        let message = format!("{}\nError: failed to rename container named {old}", f.message);
        Failure { message, ..f }
    })?;
    Ok(0)
}
