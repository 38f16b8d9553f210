//! `manifest create`: create a local manifest list for annotating and pushing to a registry.
//! Owns its flags and what it prints.

use super::manifest_lists::{self, List};
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use crate::terminal;

const FLAGS: &[Flag] = &[
    Flag::switch("amend", "Amend an existing manifest list").short('a'),
    Flag::switch("insecure", "Allow communication with an insecure registry (the daemon's settings decide)"),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["manifest create"],
    usage: "MANIFEST_LIST MANIFEST [MANIFEST...]",
    about: "Create a local manifest list for annotating and pushing to a registry",
    example: "manifest create example.com/app:1 example.com/app:1-amd64 example.com/app:1-arm64",
    flags: &[FLAGS],
    args: Args::AtLeast(2),
    stops: false,
    complete: Complete::Nothing,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let list = List::of(context, &m.args[0])?;
    if list.exists() && !m.bool("amend") {
        return Err(Failure::new("refusing to amend an existing manifest list with no --amend flag"));
    }
    // All are looked at before the first is written down.
    let mut entries = Vec::new();
    for name in &m.args[1..] {
        let found = manifest_lists::look(context, name)?;
        if manifest_lists::is_list(&found) {
            return Err(Failure::new(format!("{name} is a manifest list")));
        }
        entries.push(found);
    }
    entries.iter().try_for_each(|entry| list.put(entry))?;
    terminal::line(&format!("Created manifest list {}", list.name)).map(|()| 0)
}
