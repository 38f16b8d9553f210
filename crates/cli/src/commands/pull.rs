//! `pull`: download an image from a registry.
//! Owns its flags and what it prints.

use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use crate::parse::reference::Reference;
use crate::{progress, terminal};
use super::creating;

const FLAGS: &[Flag] = &[
    Flag::switch("all-platforms", "Keep the images for all platforms, and what belongs to them, under the name"),
    Flag::switch("all-tags", "Download all tagged images in the repository").short('a'),
    Flag::switch("disable-content-trust", "Skip image verification").default("true").hidden(),
    Flag::text("platform", "Set platform if server is multi-platform capable"),
    Flag::switch("quiet", "Suppress verbose output").short('q'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["pull", "image pull"],
    usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
    about: "Download an image from a registry",
    example: "pull alpine:3.20",
    flags: &[FLAGS],
    args: Args::Exactly(1),
    stops: false,
    complete: Complete::Nothing,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let mut image = Reference::parse(&m.args[0])?;
    let all = m.bool("all-tags");
    if all && (image.tag.is_some() || image.digest.is_some()) {
        return Err(Failure::new("tag can't be used with --all-tags/-a"));
    }
    let quiet = m.bool("quiet");
    if !all && image.tag.is_none() && image.digest.is_none() {
        if !quiet {
            terminal::line("Using default tag: latest")?;
        }
        image.tag = Some("latest".to_owned());
    }
    let platform = m.given("platform").map_or_else(|| std::env::var("DOCKER_DEFAULT_PLATFORM").unwrap_or_default(), str::to_owned);
    let platform = match m.bool("all-platforms") {
        true if m.given("platform").is_some() => {
            return Err(Failure::new("conflicting options: --all-platforms and --platform"));
        }
        true => "all".to_owned(),
        false => platform,
    };
    let answer = creating::start_pull(context, context.client()?, &image, &platform)?;
    progress::draw(answer, quiet, false)?;
    let mut whole = if all { image.familiar_name() } else { image.familiar() };
    if image.domain == "docker.io" {
        whole = format!("docker.io/{}{}", image.path, &whole[image.familiar_name().len()..]);
    }
    terminal::line(&whole).map(|()| 0)
}
