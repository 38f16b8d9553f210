//! `image prune`: remove unused images.
//! Owns its flags and what it prints.

use brig_api::image::PruneReport;
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::command::{filter_text, filters};
use crate::failure::Result;
use crate::flags::{Flag, Kind, Matches};
use crate::terminal;

const FLAGS: &[Flag] = &[
    Flag::switch("all", "Remove all unused images, not just dangling ones").short('a'),
    Flag::new("filter", Kind::List, "filter", "Provide filter values (e.g. \"until=<timestamp>\").check(crate::command::check_filter)"),
    Flag::switch("force", "Do not prompt for confirmation").short('f'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["image prune"],
    usage: "[OPTIONS]",
    about: "Remove unused images",
    example: "image prune -a",
    flags: &[FLAGS],
    args: Args::None,
    stops: false,
    complete: Complete::Nothing,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let mut filters = filters(&m.list("filter"))?;
    let all = m.bool("all");
    filters.add("dangling", if all { "false" } else { "true" });
    let what = if all {
        "WARNING! This will remove all images without at least one container associated to them."
    } else {
        "WARNING! This will remove all dangling images."
    };
    if !m.bool("force") && !terminal::confirm(&format!("{what}\nAre you sure you want to continue?"))? {
        return Ok(0);
    }
    let report: PruneReport =
        context.client()?.post_get(&Path::new("/images/prune", &[]).query_text("filters", &filter_text(&filters)))?;
    let deleted = report.images_deleted.unwrap_or_default();
    if !deleted.is_empty() {
        terminal::print(&format!("Deleted Images:\n{}\n", super::rmi::told(&deleted, ["untagged", "deleted"])))?;
    }
    super::reclaimed(report.space_reclaimed)
}
