//! `volume ls`: list volumes.
//! Owns its flags and what it prints.

use brig_api::volume::{ListResponse, Volume};
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::command::{filter_text, filters};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Kind, Matches};
use crate::template::Listing;
use crate::{human, terminal};
use serde_json::{Value, json};

const FLAGS: &[Flag] = &[
    Flag::switch("cluster", "Display only cluster volumes, and use cluster volume list formatting").hidden(),
    Flag::new("filter", Kind::List, "filter", "Provide filter values (e.g. \"dangling=true\").check(crate::command::check_filter)").short('f'),
    Flag::text("format", "Format output using a custom template:\n'table':            Print output in table format with column headers (default)\n'table TEMPLATE':   Print output in table format using the given Go template\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates"),
    Flag::switch("quiet", "Only display volume names").short('q'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["volume ls", "volume list"],
    usage: "[OPTIONS]",
    about: "List volumes",
    example: "volume ls -q",
    flags: &[FLAGS],
    args: Args::None,
    stops: false,
    complete: Complete::Nothing,
    run,
};

/// Column heads by field.
pub const HEADS: &[(&str, &str)] = &[
    ("Name", "VOLUME NAME"), ("Driver", "DRIVER"), ("Scope", "SCOPE"), ("Mountpoint", "MOUNTPOINT"), ("Labels", "LABELS"),
    ("Links", "LINKS"), ("Size", "SIZE"), ("Availability", "AVAILABILITY"), ("Group", "GROUP"), ("Status", "STATUS"),
];

fn run(context: &Context, m: &Matches) -> Result<u8> {
    if m.bool("cluster") {
        return Err(Failure::new("brig has no cluster volumes: leave --cluster out"));
    }
    let path = Path::new("/volumes", &[]).query_text("filters", &filter_text(&filters(&m.list("filter"))?));
    let mut answer: ListResponse = context.client()?.get(&path)?;
    answer.volumes.sort_by(|a, b| a.name.cmp(&b.name));
    for warning in answer.warnings.unwrap_or_default() {
        terminal::say(&format!("WARNING: {warning}"));
    }
    let rows: Vec<Value> = answer.volumes.iter().map(row).collect();
    let format = m.text("format");
    if m.bool("quiet") && (format.is_empty() || format == "table") {
        return terminal::print(&super::lines(&rows, "Name")).map(|()| 0);
    }
    let config = super::configured(context, format, "volumesFormat");
    let listing = Listing { format: &config, table: "{{.Driver}}\t{{.Name}}", heads: HEADS, functions: &["LabelMap"] };
    terminal::print(&listing.render(&rows)?).map(|()| 0)
}

/// A volume's fields as Docker names and words them.
pub fn row(volume: &Volume) -> Value {
    let labels = volume.labels.clone().unwrap_or_default();
    let usage = volume.usage_data.as_ref();
    let known = |number: i64| (number >= 0).then_some(number);
    json!({
        "Name": volume.name,
        "Driver": volume.driver,
        "Scope": volume.scope,
        "Mountpoint": volume.mountpoint,
        "Labels": labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","),
        "LabelMap": labels,
        "Links": usage.and_then(|u| known(u.ref_count)).map_or_else(|| "N/A".to_owned(), |n| n.to_string()),
        "Size": usage.and_then(|u| known(u.size)).map_or_else(|| "N/A".to_owned(), human::size),
        "Availability": "N/A",
        "Group": "N/A",
        "Status": "N/A",
    })
}
