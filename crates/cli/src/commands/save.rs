//! `save`: save one or more images to a tar archive (streamed to STDOUT by default).
//! Owns its flags and what it prints.

use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use crate::terminal;

const FLAGS: &[Flag] = &[
    Flag::switch("original", "Save manifests and layers as they came from a registry, so that digests stay the same (slower)"),
    Flag::text("output", "Write to a file, instead of STDOUT").short('o'),
    Flag::text("platform", "Save only the given platform variant. Formatted as \"os[/arch[/variant]]\" (e.g., \"linux/amd64\")"),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["save", "image save"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Save one or more images to a tar archive (streamed to STDOUT by default)",
    example: "save -o alpine.tar alpine",
    flags: &[FLAGS],
    args: Args::AtLeast(1),
    stops: false,
    complete: Complete::Images,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let output = m.text("output");
    if output.is_empty() && terminal::stdout_is_tty() {
        return Err(Failure::new("cowardly refusing to save to a terminal. Use the -o flag or redirect"));
    }
    let mut path = Path::new("/images/get", &[]);
    for name in &m.args {
        path = path.query("names", name);
    }
    path = path.query_text("platform", &super::platform(m)?);
    if m.changed("original") {
        // Else the daemon's setting counts.
        path = path.query("original", if m.bool("original") { "1" } else { "0" });
    }
    let mut answer = context.client()?.request("GET", &path, &[], None)?;
    super::receive(&mut answer, output, "failed to save image").map(|()| 0)
}
