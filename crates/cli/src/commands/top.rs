//! `top`: display the running processes of a container.
//! Owns its flags and what it prints.

use brig_api::container::TopResponse;
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::{Flag, Matches};
use crate::{table, terminal};

const FLAGS: &[Flag] = &[
    ];

/// The command.
pub const COMMAND: Command = Command {
    names: &["top", "container top"],
    usage: "CONTAINER [ps OPTIONS]",
    about: "Display the running processes of a container",
    example: "top web -o pid,rss,comm",
    flags: &[FLAGS],
    args: Args::AtLeast(1),
    stops: true,
    complete: Complete::Running,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let path = Path::new("/containers/{}/top", &[&m.args[0]]).query_text("ps_args", &m.args[1..].join(" "));
    let answer: TopResponse = context.client()?.get(&path)?;
    let mut text = answer.titles.unwrap_or_default().join("\t");
    text.push('\n');
    for process in answer.processes.unwrap_or_default() {
        text.push_str(&process.join("\t"));
        text.push('\n');
    }
    terminal::print(&table::align_from(20, &text)).map(|()| 0)
}
