//! `save`: save one or more images to a tar archive (streamed to STDOUT by default).
//! Owns its flags and what it prints.

use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use crate::terminal;
use std::io::{Read, Write};

const FLAGS: &[Flag] = &[
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
    let mut answer = context.client()?.request("GET", &path.query_text("platform", &super::platform(m)?), &[], None)?;
    if output.is_empty() {
        return copy(&mut answer, terminal::write).map(|()| 0);
    }
    let target = std::path::Path::new(output);
    let directory = target.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
    let fail = |e: std::io::Error| Failure::new(format!("failed to save image: write {output}: {e}"));
    // Half a file under the final name would look like a whole one.
    let beside = directory.join(format!(".brig-save-{}", std::process::id()));
    let mut file = std::fs::File::create(&beside).map_err(fail)?;
    let written = copy(&mut answer, |bytes| file.write_all(bytes).map_err(fail))
        .and_then(|()| std::fs::rename(&beside, target).map_err(fail));
    if written.is_err() {
        // The first failure is the one to tell.
        let _left = std::fs::remove_file(&beside);
    }
    written.map(|()| 0)
}

fn copy(source: &mut impl Read, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        match source.read(&mut buffer)? {
            0 => return Ok(()),
            read => sink(&buffer[..read])?,
        }
    }
}
