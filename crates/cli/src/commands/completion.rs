//! `completion`: print the script that makes a shell complete commands.
//! The words themselves come from `crate::completion`.

use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::Matches;
use crate::{completion, terminal};

/// The command.
pub const COMMAND: Command = Command {
    names: &["completion"],
    usage: "bash|zsh|fish|powershell",
    about: "Generate the autocompletion script for the specified shell",
    example: "completion bash > /etc/bash_completion.d/brig",
    flags: &[],
    args: Args::Exactly(1),
    stops: false,
    complete: Complete::Nothing,
    run,
};

fn run(_context: &Context, m: &Matches) -> Result<u8> {
    terminal::print(&completion::script(&m.args[0])?).map(|()| 0)
}
