//! `stats`: what containers use now, redrawn every second on a terminal.
//! Owns the arithmetic of percentages and the redrawing.

use brig_api::container::Summary;
use brig_api::stats::{CpuStats, MemoryStats, Stats};
use crate::client::{Client, Path};
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use crate::template::Listing;
use crate::{human, terminal};
use serde_json::{Value, json};
use std::sync::Arc;

const FLAGS: &[Flag] = &[
    Flag::switch("all", "Show all containers").short('a').default("shows just running"),
    Flag::text("format", "Format output using a custom template:\n'table':            Print output in table format with column headers (default)\n'table TEMPLATE':   Print output in table format using the given Go template\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates"),
    Flag::switch("no-stream", "Disable streaming stats and only pull the first result"),
    Flag::switch("no-trunc", "Do not truncate output"),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["stats", "container stats"],
    usage: "[OPTIONS] [CONTAINER...]",
    about: "Display a live stream of container(s) resource usage statistics",
    example: "stats --no-stream web",
    flags: &[FLAGS],
    args: Args::AtLeast(0),
    stops: false,
    complete: Complete::Running,
    run,
};

const HEADS: &[(&str, &str)] = &[
    ("Container", "CONTAINER"), ("Name", "NAME"), ("ID", "CONTAINER ID"), ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"), ("MemPerc", "MEM %"), ("NetIO", "NET I/O"), ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];
const TABLE: &str =
    "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let client = context.client()?;
    let once = m.bool("no-stream");
    let config = super::configured(context, m.text("format"), "statsFormat");
    let listing = Listing { format: &config, table: TABLE, heads: HEADS, functions: &[] };
    let redraw = !once && (config.is_empty() || config.starts_with("table"));
    loop {
        let names = match m.args.as_slice() {
            [] => running(client, m.bool("all"))?,
            given => given.to_vec(),
        };
        let rows = measure(client, &names, !m.bool("no-trunc"), m.args.is_empty())?;
        if redraw && terminal::stdout_is_tty() {
            terminal::print("\x1b[2J\x1b[H")?;
        }
        terminal::print(&listing.render(&rows)?)?;
        if once {
            return Ok(0);
        }
        // Each measurement takes the second that its percentages are over; with nothing to measure the pause is here.
        if names.is_empty() {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }
}

fn running(client: &Client, all: bool) -> Result<Vec<String>> {
    let list: Vec<Summary> = client.get(&Path::new("/containers/json", &[]).query_flag("all", all))?;
    Ok(list.into_iter().map(|c| c.id).collect())
}

/// Measures all at once, each over the same second. With `may_vanish` a container that has gone meanwhile is left out.
fn measure(client: &Arc<Client>, names: &[String], short: bool, may_vanish: bool) -> Result<Vec<Value>> {
    let threads: Vec<_> = names
        .iter()
        .map(|name| {
            let (client, name) = (Arc::clone(client), name.clone());
            std::thread::spawn(move || {
                let path = Path::new("/containers/{}/stats", &[&name]).query("stream", "0");
                client.get::<Stats>(&path).map(|stats| row(&name, &stats, short))
            })
        })
        .collect();
    let mut rows = Vec::new();
    for thread in threads {
        match thread.join().map_err(|_| Failure::new("measuring a container failed"))? {
            Ok(row) => rows.push(row),
            Err(failure) if may_vanish && failure.not_found() => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(rows)
}

#[expect(clippy::cast_precision_loss, reason = "percentages with two decimals")]
fn cpu_percent(before: &CpuStats, now: &CpuStats) -> f64 {
    let used = now.cpu_usage.total_usage as f64 - before.cpu_usage.total_usage as f64;
    let passed = now.system_cpu_usage as f64 - before.system_cpu_usage as f64;
    let cpus = match (now.online_cpus, &now.cpu_usage.percpu_usage) {
        (0, Some(list)) => list.len() as f64,
        (n, _) => f64::from(n),
    };
    if passed > 0.0 && used > 0.0 { used / passed * cpus * 100.0 } else { 0.0 }
}

/// Memory without the file cache that the kernel gives back when asked.
fn memory_used(memory: &MemoryStats) -> u64 {
    let stat = |name: &str| memory.stats.as_ref().and_then(|stats| stats.get(name)).copied();
    let cache = stat("total_inactive_file").or_else(|| stat("inactive_file")).unwrap_or(0);
    if cache < memory.usage { memory.usage - cache } else { memory.usage }
}

#[expect(clippy::cast_precision_loss, reason = "percentages with two decimals")]
fn row(name: &str, stats: &Stats, short: bool) -> Value {
    let used = memory_used(&stats.memory_stats);
    let limit = stats.memory_stats.limit;
    let share = if limit == 0 { 0.0 } else { used as f64 / limit as f64 * 100.0 };
    let networks = stats.networks.iter().flat_map(|n| n.values());
    let (received, sent) = networks.fold((0, 0), |(r, s), n| (r + n.rx_bytes, s + n.tx_bytes));
    let blocks = stats.blkio_stats.io_service_bytes_recursive.iter().flatten();
    let (read, written) = blocks.fold((0, 0), |(r, w), entry| match entry.op.to_ascii_lowercase().as_str() {
        "read" => (r + entry.value, w),
        "write" => (r, w + entry.value),
        _ => (r, w),
    });
    let size = |bytes: u64| human::size3(i64::try_from(bytes).unwrap_or(i64::MAX));
    json!({
        "Container": name,
        "Name": stats.name.trim_start_matches('/'),
        "ID": if short { human::short_id(&stats.id) } else { &stats.id },
        "CPUPerc": format!("{:.2}%", cpu_percent(&stats.precpu_stats, &stats.cpu_stats)),
        "MemUsage": format!("{} / {}", human::binary_size(used), human::binary_size(limit)),
        "MemPerc": format!("{share:.2}%"),
        "NetIO": format!("{} / {}", size(received), size(sent)),
        "BlockIO": format!("{} / {}", size(read), size(written)),
        "PIDs": stats.pids_stats.current.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages() {
        let stats: Stats = serde_json::from_value(json!({
            "name": "/web", "id": "0123456789abcdef", "pids_stats": {"current": 3},
            "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
            "cpu_stats": {"cpu_usage": {"total_usage": 150}, "system_cpu_usage": 1200, "online_cpus": 2},
            "memory_stats": {"usage": 3_145_728, "limit": 104_857_600, "stats": {"inactive_file": 1_048_576}},
            "networks": {"eth0": {"rx_bytes": 1500, "tx_bytes": 20}},
            "blkio_stats": {"io_service_bytes_recursive": [{"op": "Read", "value": 4096}, {"op": "write", "value": 1}]},
        }))
        .unwrap();
        let row = row("web", &stats, true);
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        assert_eq!(text("CPUPerc"), "50.00%");
        assert_eq!((text("MemUsage"), text("MemPerc")), ("2MiB / 100MiB".into(), "2.00%".into()));
        assert_eq!((text("NetIO"), text("BlockIO"), text("ID")), ("1.5kB / 20B".into(), "4.1kB / 1B".into(), "0123456789ab".into()));
    }
}
