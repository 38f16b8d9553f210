//! `wait`: block until one or more containers stop, then print their exit codes.
//! Owns its flags and what it prints.

use brig_api::container::WaitResponse;
use crate::client::Path;
use crate::command::each;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use crate::terminal;

const FLAGS: &[Flag] = &[
    ];

/// The command.
pub const COMMAND: Command = Command {
    names: &["wait", "container wait"],
    usage: "CONTAINER [CONTAINER...]",
    about: "Block until one or more containers stop, then print their exit codes",
    example: "wait web",
    flags: &[FLAGS],
    args: Args::AtLeast(1),
    stops: false,
    complete: Complete::Containers,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let client = context.client()?;
    each(&m.args, |name| {
        let told: WaitResponse = client.post_get(&Path::new("/containers/{}/wait", &[name]))?;
        match told.error.filter(|e| !e.message.is_empty()) {
            Some(error) => Err(Failure::new(error.message)),
            None => terminal::line(&told.status_code.to_string()),
        }
    })
}
