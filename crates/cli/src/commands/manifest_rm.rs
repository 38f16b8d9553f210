//! `manifest rm`: delete one or more manifest lists from local storage.

use super::manifest_lists::List;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::Matches;

/// The command.
pub const COMMAND: Command = Command {
    names: &["manifest rm"],
    usage: "MANIFEST_LIST [MANIFEST_LIST...]",
    about: "Delete one or more manifest lists from local storage",
    example: "manifest rm example.com/app:1",
    flags: &[],
    args: Args::AtLeast(1),
    stops: false,
    complete: Complete::Nothing,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let failed: Vec<String> = m
        .args
        .iter()
        .filter_map(|name| List::of(context, name).and_then(|list| list.remove()).err())
        .map(|failure| failure.message)
        .collect();
    if failed.is_empty() { Ok(0) } else { Err(Failure::new(failed.join("\n"))) }
}
