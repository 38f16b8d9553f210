//! `manifest push`: push a manifest list to a repository.
//! Owns its flags and what it prints.

use super::manifest_lists::List;
use brig_api::image::{PushList, PushedList};
use crate::client::{Path, decode, encode};
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use crate::parse::reference::Reference;
use crate::{credentials, terminal};

const FLAGS: &[Flag] = &[
    Flag::switch("insecure", "Allow push to an insecure registry (the daemon's settings decide)"),
    Flag::switch("purge", "Remove the local manifest list after push").short('p'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["manifest push"],
    usage: "[OPTIONS] MANIFEST_LIST",
    about: "Push a manifest list to a repository",
    example: "manifest push --purge example.com/app:1",
    flags: &[FLAGS],
    args: Args::Exactly(1),
    stops: false,
    complete: Complete::Nothing,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let list = List::of(context, &m.args[0])?;
    if !list.exists() {
        return Err(list.missing());
    }
    let mut manifests = list.entries()?;
    for entry in &mut manifests {
        let platform = entry.descriptor.platform.as_ref();
        if platform.is_none_or(|platform| platform.os.is_empty() || platform.architecture.is_empty()) {
            let text = format!("manifest {} must have an OS and Architecture to be pushed to a registry", entry.ref_);
            return Err(Failure::new(text));
        }
        entry.raw.clear();
    }
    let domain = Reference::parse(&m.args[0])?.domain;
    let client = context.client()?;
    let path = Path::new("/brig/manifests/{}/push", &[&list.name]);
    let answer = client.request("POST", &path, &credentials::header(context, &domain), Some(&encode(&PushList { manifests })))?;
    let pushed: PushedList = decode(&client.finish(answer)?)?;
    if m.bool("purge") {
        list.remove()?;
    }
    terminal::line(&pushed.digest).map(|()| 0)
}
