//! `rm`: remove one or more containers.
//! Owns its flags and what it prints.

use crate::client::Path;
use crate::command::each;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::{Flag, Matches};
use crate::terminal;

const FLAGS: &[Flag] = &[
    Flag::switch("force", "Force the removal of a running container (uses SIGKILL)").short('f'),
    Flag::switch("link", "Remove the specified link").short('l'),
    Flag::switch("volumes", "Remove anonymous volumes associated with the container").short('v'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["rm", "container rm", "container remove"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Remove one or more containers",
    example: "rm -f web",
    flags: &[FLAGS],
    args: Args::AtLeast(1),
    stops: false,
    complete: Complete::Containers,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let client = context.client()?;
    each(&m.args, |name| {
        let name = name.trim_matches('/');
        let path = Path::new("/containers/{}", &[name])
            .query_flag("v", m.bool("volumes"))
            .query_flag("link", m.bool("link"))
            .query_flag("force", m.bool("force"));
        match client.delete::<serde_json::Value>(&path) {
            // With force the aim is that it be gone, and it is.
            Err(failure) if failure.not_found() && m.bool("force") => {
                terminal::say(&failure.message);
                return Ok(());
            }
            other => other?,
        };
        terminal::line(name)
    })
}
