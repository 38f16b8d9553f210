//! `history`: show the history of an image.
//! Owns its flags and what it prints.

use brig_api::image::HistoryItem;
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::{Flag, Matches};
use crate::template::Listing;
use crate::{human, terminal};
use serde_json::{Value, json};

const FLAGS: &[Flag] = &[
    Flag::text("format", "Format output using a custom template:\n'table':            Print output in table format with column headers (default)\n'table TEMPLATE':   Print output in table format using the given Go template\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates"),
    Flag::switch("human", "Print sizes and dates in human readable format").short('H').default("true"),
    Flag::switch("no-trunc", "Don't truncate output"),
    Flag::text("platform", "Show history for the given platform. Formatted as \"os[/arch[/variant]]\" (e.g., \"linux/amd64\")"),
    Flag::switch("quiet", "Only show image IDs").short('q'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["history", "image history"],
    usage: "[OPTIONS] IMAGE",
    about: "Show the history of an image",
    example: "history --no-trunc alpine",
    flags: &[FLAGS],
    args: Args::Exactly(1),
    stops: false,
    complete: Complete::Images,
    run,
};

const HEADS: &[(&str, &str)] = &[
    ("ID", "IMAGE"), ("CreatedSince", "CREATED"), ("CreatedAt", "CREATED AT"), ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"), ("Comment", "COMMENT"),
];

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let path = Path::new("/images/{}/history", &[&m.args[0]]).query_text("platform", &super::platform(m)?);
    let items: Vec<HistoryItem> = context.client()?.get(&path)?;
    let (short, nice) = (!m.bool("no-trunc"), m.bool("human"));
    let rows: Vec<Value> = items.iter().map(|item| row(item, short, nice, human::now())).collect();
    if m.bool("quiet") && m.text("format").is_empty() {
        return terminal::print(&super::lines(&rows, "ID")).map(|()| 0);
    }
    let table = if nice {
        "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
    } else {
        "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
    };
    let listing = Listing { format: m.text("format"), table, heads: HEADS, functions: &[] };
    terminal::print(&listing.render(&rows)?).map(|()| 0)
}

fn row(item: &HistoryItem, short: bool, nice: bool, now: i64) -> Value {
    let by = item.created_by.replace('\t', " ");
    let at = jiff::Timestamp::from_second(item.created).map(|t| t.to_string()).unwrap_or_default();
    json!({
        "ID": if short { human::short_id(&item.id) } else { &item.id },
        "CreatedSince": if nice && item.created > 0 { human::ago(item.created, now) } else if nice { "N/A".to_owned() } else { at.clone() },
        "CreatedAt": at,
        "CreatedBy": if short { human::ellipsis(&by, 45) } else { by },
        "Size": if nice { human::size3(item.size) } else { item.size.to_string() },
        "Comment": item.comment,
    })
}
