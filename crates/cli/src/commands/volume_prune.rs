//! `volume prune`: remove unused local volumes.
//! Owns its flags and what it prints.

use brig_api::volume::PruneReport;
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::command::{filter_text, filters};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Kind, Matches};
use crate::terminal;

const FLAGS: &[Flag] = &[
    Flag::switch("all", "Remove all unused volumes, not just anonymous ones").short('a'),
    Flag::new("filter", Kind::List, "filter", "Provide filter values (e.g. \"label=<label>\").check(crate::command::check_filter)"),
    Flag::switch("force", "Do not prompt for confirmation").short('f'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["volume prune"],
    usage: "[OPTIONS]",
    about: "Remove unused local volumes",
    example: "volume prune",
    flags: &[FLAGS],
    args: Args::None,
    stops: false,
    complete: Complete::Nothing,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let mut filters = filters(&m.list("filter"))?;
    let all = m.bool("all");
    if all {
        if filters.contains("all") {
            return Err(Failure::new("conflicting options: cannot specify both --all and --filter all=1"));
        }
        filters.add("all", "true");
    }
    let what = if all { "all local volumes" } else { "anonymous local volumes" };
    let question =
        format!("WARNING! This will remove {what} not used by at least one container.\nAre you sure you want to continue?");
    if !m.bool("force") && !terminal::confirm(&question)? {
        return Ok(0);
    }
    let report: PruneReport =
        context.client()?.post_get(&Path::new("/volumes/prune", &[]).query_text("filters", &filter_text(&filters)))?;
    let deleted = report.volumes_deleted.unwrap_or_default();
    if !deleted.is_empty() {
        terminal::print(&format!("Deleted Volumes:\n{}\n\n", deleted.join("\n")))?;
    }
    super::reclaimed(report.space_reclaimed)
}
