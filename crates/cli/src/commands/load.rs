//! `load`: load an image from a tar archive or STDIN.
//! Owns its flags and what it prints.

use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use crate::{progress, terminal};
use std::io::Read;

const FLAGS: &[Flag] = &[
    Flag::text("input", "Read from tar archive file, instead of STDIN").short('i'),
    Flag::text("platform", "Load only the given platform variant. Formatted as \"os[/arch[/variant]]\" (e.g., \"linux/amd64\")"),
    Flag::switch("quiet", "Suppress the load output").short('q'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["load", "image load"],
    usage: "[OPTIONS]",
    about: "Load an image from a tar archive or STDIN",
    example: "load -i image.tar",
    flags: &[FLAGS],
    args: Args::None,
    stops: false,
    complete: Complete::Nothing,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let name = m.text("input");
    let mut source: Box<dyn Read> = if name.is_empty() {
        if terminal::stdin_is_tty() {
            return Err(Failure::new("requested load from stdin, but stdin is empty"));
        }
        Box::new(std::io::stdin())
    } else {
        Box::new(super::open_archive(name)?)
    };
    let quiet = m.bool("quiet") || !terminal::stdout_is_tty();
    let path = Path::new("/images/load", &[]).query_flag("quiet", quiet).query_text("platform", &super::platform(m)?);
    let answer = context.client()?.post_stream(&path, &mut *source, "application/x-tar")?;
    if answer.header("content-type") == Some("application/json") {
        return progress::draw(answer, false, false).map(|()| 0);
    }
    let mut text = String::new();
    { answer }.read_to_string(&mut text)?;
    terminal::print(&text).map(|()| 0)
}
