//! `diff`: inspect changes to files or directories on a container's filesystem.
//! Owns what it prints.

use brig_api::container::FilesystemChange;
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::Matches;
use crate::terminal;

/// The command.
pub const COMMAND: Command = Command {
    names: &["diff", "container diff"],
    usage: "CONTAINER",
    about: "Inspect changes to files or directories on a container's filesystem",
    example: "diff web",
    flags: &[],
    args: Args::Exactly(1),
    stops: false,
    complete: Complete::Containers,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let changes: Option<Vec<FilesystemChange>> =
        context.client()?.get(&Path::new("/containers/{}/changes", &[&m.args[0]]))?;
    let letter = |kind| match kind {
        0 => 'C',
        1 => 'A',
        _ => 'D',
    };
    let lines = changes.unwrap_or_default().into_iter();
    terminal::print(&lines.map(|change| format!("{} {}\n", letter(change.kind), change.path)).collect::<String>())?;
    Ok(0)
}
