//! `ps`: list containers.
//! Owns its flags and what it prints.

use brig_api::container::{Port, Summary};
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::command::{filter_text, filters};
use crate::failure::Result;
use crate::flags::{Flag, Kind, Matches};
use crate::template::Listing;
use crate::{human, terminal};
use serde_json::{Value, json};

const FLAGS: &[Flag] = &[
    Flag::switch("all", "Show all containers").short('a').default("shows just running"),
    Flag::new("filter", Kind::List, "filter", "Filter output based on conditions provided").check(crate::command::check_filter).short('f'),
    Flag::text("format", "Format output using a custom template:\n'table':            Print output in table format with column headers (default)\n'table TEMPLATE':   Print output in table format using the given Go template\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates"),
    Flag::new("last", Kind::Int, "int", "Show n last created containers (includes all states)").short('n').default("-1"),
    Flag::switch("latest", "Show the latest created container (includes all states)").short('l'),
    Flag::switch("no-trunc", "Don't truncate output"),
    Flag::switch("quiet", "Only display container IDs").short('q'),
    Flag::switch("size", "Display total file sizes").short('s'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["ps", "container ls", "container list", "container ps"],
    usage: "[OPTIONS]",
    about: "List containers",
    example: "ps -a --filter status=exited --format '{{.Names}}: {{.Status}}'",
    flags: &[FLAGS],
    args: Args::None,
    stops: false,
    complete: Complete::Nothing,
    run,
};

/// Column heads by field.
pub const HEADS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"), ("Image", "IMAGE"), ("Command", "COMMAND"), ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"), ("Status", "STATUS"), ("HealthStatus", "HEALTH STATUS"), ("State", "STATE"),
    ("Ports", "PORTS"), ("Size", "SIZE"), ("Names", "NAMES"), ("Labels", "LABELS"), ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"), ("Networks", "NETWORKS"), ("Platform", "PLATFORM"),
];

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let mut last = m.int("last");
    if m.bool("latest") && !m.changed("last") {
        last = 1;
    }
    let format = m.text("format");
    let size = m.bool("size") || format.contains(".Size");
    let path = Path::new("/containers/json", &[])
        .query_flag("all", m.bool("all"))
        .query_text("limit", &if last > 0 { last.to_string() } else { String::new() })
        .query_flag("size", size)
        .query_text("filters", &filter_text(&filters(&m.list("filter"))?));
    let containers: Vec<Summary> = context.client()?.get(&path)?;
    let rows: Vec<Value> = containers.iter().map(|c| row(c, !m.bool("no-trunc"), human::now())).collect();
    if m.bool("quiet") && (format.is_empty() || format == "table") {
        return terminal::print(&super::lines(&rows, "ID")).map(|()| 0);
    }
    let mut table = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}".to_owned();
    if m.bool("size") {
        table.push_str("\t{{.Size}}");
    }
    let config = super::configured(context, format, "psFormat");
    let listing = Listing { format: &config, table: &table, heads: HEADS, functions: &["LabelMap", "HealthStatus"] };
    terminal::print(&listing.render(&rows)?).map(|()| 0)
}

/// A container's fields as Docker names and words them.
pub fn row(c: &Summary, short: bool, now: i64) -> Value {
    let image = if c.image.is_empty() { "<no image>" } else { &c.image };
    let image = if short && c.image_id.strip_prefix("sha256:").unwrap_or(&c.image_id).starts_with(image) && image.len() == 64 {
        human::short_id(image)
    } else {
        image.strip_prefix("sha256:").filter(|_| short).map_or(image, |hex| &hex[..hex.len().min(12)])
    };
    // Names with a second slash are links seen from another container.
    let names: Vec<&str> = c.names.iter().map(|n| n.strip_prefix('/').unwrap_or(n)).collect();
    let names: Vec<&str> = names.into_iter().filter(|n| !short || !n.contains('/')).collect();
    let command = format!("\"{}\"", if short { human::ellipsis(&c.command, 20) } else { c.command.clone() });
    let labels: Vec<String> = c.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let mounts: Vec<String> = c
        .mounts
        .iter()
        .map(|mount| if mount.name.is_empty() { &mount.source } else { &mount.name })
        .map(|name| if short { human::ellipsis(name, 15) } else { name.clone() })
        .collect();
    let networks = c.network_settings.as_ref().and_then(|n| n.networks.as_ref());
    let networks: Vec<&str> = networks.into_iter().flat_map(|n| n.keys()).map(String::as_str).collect();
    let mut size = human::size3(c.size_rw);
    if c.size_root_fs > 0 {
        size = format!("{size} (virtual {})", human::size3(c.size_root_fs));
    }
    json!({
        "ID": if short { human::short_id(&c.id) } else { &c.id },
        "Image": image,
        "Command": command,
        "CreatedAt": human::go_time(c.created),
        "RunningFor": human::ago(c.created, now),
        "Status": c.status,
        "HealthStatus": health(&c.status),
        "State": c.state,
        "Ports": ports(&c.ports),
        "Size": size,
        "Names": names.join(","),
        "Labels": labels.join(","),
        "LabelMap": c.labels,
        "Mounts": mounts.join(","),
        "LocalVolumes": c.mounts.iter().filter(|mount| mount.driver == "local").count().to_string(),
        "Networks": networks.join(","),
        "Platform": null,
    })
}

fn health(status: &str) -> &str {
    match status.rsplit_once('(').and_then(|(_, rest)| rest.strip_suffix(')')) {
        Some(word @ ("healthy" | "unhealthy")) => word,
        Some("health: starting") => "starting",
        _ => "",
    }
}

/// Ports with neighbours joined: `0.0.0.0:8000-8002->8000-8002/tcp, 53/udp`.
pub fn ports(ports: &[Port]) -> String {
    let mut sorted: Vec<&Port> = ports.iter().collect();
    sorted.sort_by(|a, b| {
        (a.private_port, &a.ip, a.public_port, &a.type_).cmp(&(b.private_port, &b.ip, b.public_port, &b.type_))
    });
    // Per address and protocol, a run of ports that count up together.
    struct Span<'a> {
        ip: &'a str,
        protocol: &'a str,
        inside: (u16, u16),
        outside: (u16, u16),
    }
    let mut spans: Vec<Span<'_>> = Vec::new();
    for port in sorted {
        let grown = spans.iter_mut().find(|span| {
            span.ip == port.ip
                && span.protocol == port.type_
                && span.inside.1.checked_add(1) == Some(port.private_port)
                && ((span.outside.1 == 0 && port.public_port == 0)
                    || (span.outside.1 != 0 && span.outside.1.checked_add(1) == Some(port.public_port)))
        });
        match grown {
            Some(span) => {
                span.inside.1 = port.private_port;
                span.outside.1 = port.public_port;
            }
            None => spans.push(Span {
                ip: &port.ip,
                protocol: &port.type_,
                inside: (port.private_port, port.private_port),
                outside: (port.public_port, port.public_port),
            }),
        }
    }
    let range = |(first, last): (u16, u16)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    let shown: Vec<String> = spans
        .iter()
        .map(|span| {
            let inside = format!("{}/{}", range(span.inside), span.protocol);
            match (span.ip, span.outside.0) {
                (_, 0) => inside,
                ("", _) => format!("{}->{inside}", range(span.outside)),
                (ip, _) if ip.contains(':') => format!("[{ip}]:{}->{inside}", range(span.outside)),
                (ip, _) => format!("{ip}:{}->{inside}", range(span.outside)),
            }
        })
        .collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(ip: &str, private_port: u16, public_port: u16, protocol: &str) -> Port {
        Port { ip: ip.into(), private_port, public_port, type_: protocol.into() }
    }

    #[test]
    fn port_ranges() {
        let list = [
            port("0.0.0.0", 81, 8081, "tcp"), port("0.0.0.0", 80, 8080, "tcp"), port("::", 80, 8080, "tcp"),
            port("", 53, 0, "udp"), port("0.0.0.0", 90, 9000, "tcp"),
        ];
        let text = "53/udp, 0.0.0.0:8080-8081->80-81/tcp, [::]:8080->80/tcp, 0.0.0.0:9000->90/tcp";
        assert_eq!(ports(&list), text);
    }

    #[test]
    fn a_row_in_the_table() {
        let c = Summary {
            id: "0123456789abcdef".into(),
            names: vec!["/web".into(), "/other/link".into()],
            image: "nginx".into(),
            command: "nginx -g 'daemon off;'".into(),
            created: 1000,
            status: "Up 3 seconds (healthy)".into(),
            state: "running".into(),
            size_rw: 1094,
            size_root_fs: 141_000_000,
            ..Summary::default()
        };
        let row = row(&c, true, 1100);
        assert_eq!(row["Command"], "\"nginx -g 'daemon of…\"");
        assert_eq!((row["Names"].as_str(), row["RunningFor"].as_str()), (Some("web"), Some("About a minute ago")));
        assert_eq!((row["Size"].as_str(), row["HealthStatus"].as_str()), (Some("1.09kB (virtual 141MB)"), Some("healthy")));
        let listing = Listing { format: "", table: "{{.ID}}\t{{.Image}}\t{{.Names}}", heads: HEADS, functions: &[] };
        let text = "CONTAINER ID   IMAGE     NAMES\n0123456789ab   nginx     web\n";
        assert_eq!(listing.render(&[row]).unwrap(), text);
    }
}
