//! `container prune`: remove all stopped containers.
//! Owns its flags and what it prints.

use brig_api::container::PruneReport;
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::command::{filter_text, filters};
use crate::failure::Result;
use crate::flags::{Flag, Kind, Matches};
use crate::terminal;

const FLAGS: &[Flag] = &[
    Flag::new("filter", Kind::List, "filter", "Provide filter values (e.g. \"until=<timestamp>\").check(crate::command::check_filter)"),
    Flag::switch("force", "Do not prompt for confirmation").short('f'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["container prune"],
    usage: "[OPTIONS]",
    about: "Remove all stopped containers",
    example: "container prune --filter until=24h",
    flags: &[FLAGS],
    args: Args::None,
    stops: false,
    complete: Complete::Nothing,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let filters = filters(&m.list("filter"))?;
    if !m.bool("force") && !terminal::confirm("WARNING! This will remove all stopped containers.\nAre you sure you want to continue?")? {
        return Ok(0);
    }
    let report: PruneReport =
        context.client()?.post_get(&Path::new("/containers/prune", &[]).query_text("filters", &filter_text(&filters)))?;
    let deleted = report.containers_deleted.unwrap_or_default();
    if !deleted.is_empty() {
        terminal::print(&format!("Deleted Containers:\n{}\n\n", deleted.join("\n")))?;
    }
    super::reclaimed(report.space_reclaimed)
}
