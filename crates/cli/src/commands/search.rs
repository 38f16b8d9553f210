//! `search`: look for images in a registry.
//! Owns its flags and what it prints.

use brig_api::image::SearchResult;
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::command::{filter_text, filters};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Kind, Matches};
use crate::template::Listing;
use crate::{credentials, human, terminal};
use serde_json::{Value, json};

const FLAGS: &[Flag] = &[
    Flag::new("filter", Kind::List, "filter", "Filter output based on conditions provided").check(crate::command::check_filter).short('f'),
    Flag::text("format", "Pretty-print search using a Go template"),
    Flag::new("limit", Kind::Int, "int", "Max number of search results"),
    Flag::switch("no-trunc", "Don't truncate output"),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["search"],
    usage: "[OPTIONS] TERM",
    about: "Search Docker Hub, or the registry that TERM begins with, for images",
    example: "search --filter is-official=true nginx",
    flags: &[FLAGS],
    args: Args::Exactly(1),
    stops: false,
    complete: Complete::Nothing,
    run,
};

const HEADS: &[(&str, &str)] = &[
    ("Name", "NAME"), ("Description", "DESCRIPTION"), ("StarCount", "STARS"), ("IsOfficial", "OFFICIAL"), ("IsAutomated", "AUTOMATED"),
];

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let term = &m.args[0];
    let limit = m.given("limit").map_or(Ok(0), str::parse::<i64>);
    let limit = limit.map_err(|_| Failure::new("--limit takes a number"))?;
    let mut path = Path::new("/images/search", &[])
        .query("term", term)
        .query_text("filters", &filter_text(&filters(&m.list("filter"))?));
    if limit != 0 {
        path = path.query("limit", &limit.to_string());
    }
    let domain = term.split_once('/').map(|(first, _)| first).filter(|first| first.contains(['.', ':']) || *first == "localhost");
    let auth = credentials::header(context, domain.unwrap_or("docker.io"));
    let client = context.client()?;
    let answer = client.request("GET", &path, &auth, None)?;
    let mut results: Vec<SearchResult> = crate::client::decode(&client.finish(answer)?)?;
    // Best liked first, as Docker has it.
    results.sort_by_key(|result| std::cmp::Reverse(result.star_count));
    let rows: Vec<Value> = results.iter().map(|result| row(result, m.bool("no-trunc"))).collect();
    let table = "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}";
    let listing = Listing { format: m.text("format"), table, heads: HEADS, functions: &[] };
    terminal::print(&listing.render(&rows)?).map(|()| 0)
}

/// A result's fields as Docker names and words them.
fn row(result: &SearchResult, whole: bool) -> Value {
    let mark = |yes: bool| if yes { "[OK]" } else { "" };
    let description = result.description.replace(['\n', '\r'], " ");
    json!({
        "Name": result.name,
        "Description": if whole { description } else { human::ellipsis(&description, 45) },
        "StarCount": result.star_count.to_string(),
        "IsOfficial": mark(result.is_official),
        "IsAutomated": mark(result.is_automated),
    })
}
