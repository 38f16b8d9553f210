//! `commit`: create a new image from a container's changes.
//! Owns its flags and what it prints.

use brig_api::image::CommitResponse;
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::{Flag, Matches};
use crate::parse::reference::Reference;
use crate::terminal;

const FLAGS: &[Flag] = &[
    Flag::text("author", "Author (e.g., \"John Hannibal Smith <hannibal@a-team.com>\")").short('a'),
    Flag::list("change", "Apply Dockerfile instruction to the created image").short('c'),
    Flag::text("message", "Commit message").short('m'),
    Flag::switch("no-pause", "Disable pausing container during commit"),
    Flag::switch("pause", "Pause container during commit").short('p').default("true").hidden(),
    super::TIMESTAMP,
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["commit", "container commit"],
    usage: "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    about: "Create a new image from a container's changes",
    example: "commit -m 'with curl' web me/web:2",
    flags: &[FLAGS],
    args: Args::Between(1, 2),
    stops: false,
    complete: Complete::Containers,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let mut path = Path::new("/commit", &[]).query("container", &m.args[0]);
    if let Some(name) = m.args.get(1) {
        let name = super::without_digest(Reference::parse(name)?)?;
        path = path.query("repo", &name.familiar_name()).query_text("tag", name.tag.as_deref().unwrap_or(""));
    }
    path = path.query_text("author", m.text("author")).query_text("comment", m.text("message"));
    for change in m.list("change") {
        path = path.query("changes", change);
    }
    if m.bool("no-pause") || !m.bool("pause") {
        path = path.query("pause", "0");
    }
    let made: CommitResponse = context.client()?.post_get(&path.query_text("timestamp", &super::timestamp(m)))?;
    terminal::line(&made.id).map(|()| 0)
}
