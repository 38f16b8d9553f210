//! `push`: upload an image to a registry.
//! Owns its flags and what it prints.

use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use crate::parse::reference::Reference;
use crate::{credentials, progress, terminal};

const FLAGS: &[Flag] = &[
    Flag::switch("all-tags", "Push all tags of an image to the repository").short('a'),
    Flag::switch("disable-content-trust", "Skip image signing").default("true").hidden(),
    Flag::text(
        "platform",
        "Push a platform-specific manifest as a single-platform image to the registry. Formatted as \"os[/arch[/variant]]\" (e.g., \"linux/amd64\")",
    ),
    Flag::switch("quiet", "Suppress verbose output").short('q'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["push", "image push"],
    usage: "[OPTIONS] NAME[:TAG]",
    about: "Upload an image to a registry",
    example: "push registry.example.com/team/app:1.0",
    flags: &[FLAGS],
    args: Args::Exactly(1),
    stops: false,
    complete: Complete::Images,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let mut image = Reference::parse(&m.args[0])?;
    let (all, quiet) = (m.bool("all-tags"), m.bool("quiet"));
    if image.digest.is_some() {
        return Err(Failure::new("cannot push a digest reference"));
    }
    if all && image.tag.is_some() {
        return Err(Failure::new("tag can't be used with --all-tags/-a"));
    }
    if !all && image.tag.is_none() {
        image.tag = Some("latest".to_owned());
        if !quiet {
            terminal::line("Using default tag: latest")?;
        }
    }
    let path = Path::new("/images/{}/push", &[&image.familiar_name()])
        .query_text("tag", image.tag.as_deref().unwrap_or_default())
        .query_text("platform", &super::platform(m)?);
    let mut auth = credentials::header(context, &image.domain);
    if auth.is_empty() {
        // Daemons want the header even where there are no credentials.
        auth.push(("X-Registry-Auth", "e30=".to_owned()));
    }
    let answer = context.client()?.request("POST", &path, &auth, None)?;
    progress::draw(answer, quiet, false)?;
    if quiet {
        terminal::line(&if all { image.familiar_name() } else { image.familiar() })?;
    }
    Ok(0)
}
