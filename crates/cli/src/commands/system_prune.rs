//! `system prune`: remove unused data.
//! Owns its flags and what it prints.

use brig_api::{container, image, network, volume};
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::command::{filter_text, filters};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Kind, Matches};
use crate::terminal;

const FLAGS: &[Flag] = &[
    Flag::switch("all", "Remove all unused images not just dangling ones").short('a'),
    Flag::new("filter", Kind::List, "filter", "Provide filter values (e.g. \"label=<key>=<value>\").check(crate::command::check_filter)"),
    Flag::switch("force", "Do not prompt for confirmation").short('f'),
    Flag::switch("volumes", "Prune anonymous volumes"),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["system prune"],
    usage: "[OPTIONS]",
    about: "Remove unused data",
    example: "system prune -a --volumes",
    flags: &[FLAGS],
    args: Args::None,
    stops: false,
    complete: Complete::Nothing,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let given = filters(&m.list("filter"))?;
    if m.bool("volumes") && given.contains("until") {
        return Err(Failure::new("ERROR: The \"until\" filter is not supported with \"--volumes\""));
    }
    if !m.bool("force") && !terminal::confirm(&question(m))? {
        return Ok(0);
    }
    let client = context.client()?;
    let text = filter_text(&given);
    let mut freed = 0;
    let pruned: container::PruneReport = client.post_get(&Path::new("/containers/prune", &[]).query_text("filters", &text))?;
    freed += pruned.space_reclaimed;
    section("Containers", &pruned.containers_deleted.unwrap_or_default())?;
    match client.post_get::<network::PruneReport>(&Path::new("/networks/prune", &[]).query_text("filters", &text)) {
        Ok(pruned) => section("Networks", &pruned.networks_deleted.unwrap_or_default())?,
        // A daemon without networks of its own making has none to remove.
        Err(failure) if matches!(failure.status, Some(404 | 501)) => {}
        Err(failure) => return Err(failure),
    }
    if m.bool("volumes") {
        let pruned: volume::PruneReport = client.post_get(&Path::new("/volumes/prune", &[]).query_text("filters", &text))?;
        freed += pruned.space_reclaimed;
        section("Volumes", &pruned.volumes_deleted.unwrap_or_default())?;
    }
    let mut images = given;
    images.add("dangling", if m.bool("all") { "false" } else { "true" });
    let pruned: image::PruneReport =
        client.post_get(&Path::new("/images/prune", &[]).query_text("filters", &filter_text(&images)))?;
    freed += pruned.space_reclaimed;
    let deleted = pruned.images_deleted.unwrap_or_default();
    if !deleted.is_empty() {
        terminal::print(&format!("Deleted Images:\n{}\n", super::rmi::told(&deleted, ["untagged", "deleted"])))?;
    }
    super::reclaimed(freed)
}

fn section(what: &str, names: &[String]) -> Result<()> {
    if names.is_empty() { Ok(()) } else { terminal::print(&format!("Deleted {what}:\n{}\n\n", names.join("\n"))) }
}

fn question(m: &Matches) -> String {
    let mut lines = vec!["all stopped containers", "all networks not used by at least one container"];
    if m.bool("volumes") {
        lines.push("all anonymous volumes not used by at least one container");
    }
    lines.push(if m.bool("all") { "all images without at least one container associated to them" } else { "all dangling images" });
    let list: String = lines.iter().map(|line| format!("  - {line}\n")).collect();
    format!("WARNING! This will remove:\n{list}\nAre you sure you want to continue?")
}
