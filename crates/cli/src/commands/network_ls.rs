//! `network ls`: list networks.
//! Owns its flags and what it prints.

use brig_api::network::Network;
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::command::{filter_text, filters};
use crate::failure::Result;
use crate::flags::{Flag, Kind, Matches};
use crate::template::Listing;
use crate::{human, terminal};
use serde_json::{Value, json};

const FLAGS: &[Flag] = &[
    Flag::new("filter", Kind::List, "filter", "Provide filter values (e.g. \"driver=bridge\").check(crate::command::check_filter)").short('f'),
    Flag::text("format", "Format output using a custom template:\n'table':            Print output in table format with column headers (default)\n'table TEMPLATE':   Print output in table format using the given Go template\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates"),
    Flag::switch("no-trunc", "Do not truncate the output"),
    Flag::switch("quiet", "Only display network IDs").short('q'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["network ls", "network list"],
    usage: "[OPTIONS]",
    about: "List networks",
    example: "network ls",
    flags: &[FLAGS],
    args: Args::None,
    stops: false,
    complete: Complete::Nothing,
    run,
};

const HEADS: &[(&str, &str)] = &[
    ("ID", "NETWORK ID"), ("Name", "NAME"), ("Driver", "DRIVER"), ("Scope", "SCOPE"), ("IPv4", "IPV4"), ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"), ("Labels", "LABELS"), ("CreatedAt", "CREATED AT"),
];

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let path = Path::new("/networks", &[]).query_text("filters", &filter_text(&filters(&m.list("filter"))?));
    let mut networks: Vec<Network> = context.client()?.get(&path)?;
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    let short = !m.bool("no-trunc");
    let rows: Vec<Value> = networks.iter().map(|network| row(network, short)).collect();
    let format = m.text("format");
    if m.bool("quiet") && (format.is_empty() || format == "table") {
        return terminal::print(&super::lines(&rows, "ID")).map(|()| 0);
    }
    let config = super::configured(context, format, "networksFormat");
    let listing =
        Listing { format: &config, table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}", heads: HEADS, functions: &["LabelMap"] };
    terminal::print(&listing.render(&rows)?).map(|()| 0)
}

fn row(network: &Network, short: bool) -> Value {
    let labels: Vec<String> = network.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    json!({
        "ID": if short { human::short_id(&network.id) } else { &network.id },
        "Name": network.name,
        "Driver": network.driver,
        "Scope": network.scope,
        "IPv4": network.enable_ipv4.to_string(),
        "IPv6": network.enable_ipv6.to_string(),
        "Internal": network.internal.to_string(),
        "Labels": labels.join(","),
        "LabelMap": network.labels,
        "CreatedAt": created(&network.created),
    })
}

/// The moment as Go prints a time.
fn created(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(at) => at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.f %z %Z").to_string(),
        Err(_) => text.to_owned(),
    }
}
