//! `system df`: show docker disk usage.
//! Owns its flags and what it prints.

use brig_api::system::DiskUsage;
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::{Flag, Matches};
use crate::template::{Format, Listing};
use crate::{human, terminal};
use serde_json::{Value, json};

const FLAGS: &[Flag] = &[
    Flag::text("format", "Format output using a custom template:\n'table':            Print output in table format with column headers (default)\n'table TEMPLATE':   Print output in table format using the given Go template\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates"),
    Flag::switch("verbose", "Show detailed information on space usage").short('v'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["system df"],
    usage: "[OPTIONS]",
    about: "Show docker disk usage",
    example: "system df -v",
    flags: &[FLAGS],
    args: Args::None,
    stops: false,
    complete: Complete::Nothing,
    run,
};

const HEADS: &[(&str, &str)] = &[
    ("Type", "TYPE"), ("TotalCount", "TOTAL"), ("Active", "ACTIVE"), ("Size", "SIZE"), ("Reclaimable", "RECLAIMABLE"),
];

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let format = m.text("format");
    let usage: DiskUsage = context.client()?.get(&Path::new("/system/df", &[]))?;
    if m.bool("verbose") && format == "json" {
        return terminal::line(&details(&usage).to_string()).map(|()| 0);
    }
    if m.bool("verbose") && !format.is_empty() && format != "table" {
        return terminal::line(&Format::parse(format)?.fill(&details(&usage))?).map(|()| 0);
    }
    if m.bool("verbose") {
        return terminal::print(&verbose(&usage)?).map(|()| 0);
    }
    let table = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
    let listing = Listing { format, table, heads: HEADS, functions: &[] };
    terminal::print(&listing.render(&rows(&usage))?).map(|()| 0)
}

fn row(kind: &str, total: usize, active: usize, size: i64, reclaimable: i64) -> Value {
    let share = if size > 0 { format!(" ({}%)", reclaimable.saturating_mul(100) / size) } else { String::new() };
    json!({
        "Type": kind,
        "TotalCount": total.to_string(),
        "Active": active.to_string(),
        "Size": human::size(size),
        "Reclaimable": format!("{}{share}", human::size(reclaimable)),
    })
}

fn rows(usage: &DiskUsage) -> Vec<Value> {
    let images = usage.images.as_deref().unwrap_or_default();
    let containers = usage.containers.as_deref().unwrap_or_default();
    let volumes = usage.volumes.as_deref().unwrap_or_default();
    let used: i64 = images.iter().filter(|i| i.containers > 0 && i.size >= 0 && i.shared_size >= 0).map(|i| i.size - i.shared_size).sum();
    let reclaimable = usage.brig_reclaimable.unwrap_or_else(|| (usage.layers_size - used).max(0));
    let runs = |state: &str| matches!(state, "running" | "paused" | "restarting");
    let writable: i64 = containers.iter().map(|c| c.size_rw).sum();
    let idle: i64 = containers.iter().filter(|c| !runs(&c.state)).map(|c| c.size_rw).sum();
    let measured = |v: &&brig_api::volume::Volume| v.usage_data.as_ref().is_some_and(|u| u.size >= 0);
    let in_use = |v: &&brig_api::volume::Volume| v.usage_data.as_ref().is_some_and(|u| u.ref_count > 0);
    let size = |v: &brig_api::volume::Volume| v.usage_data.as_ref().map_or(0, |u| u.size);
    let volume_size: i64 = volumes.iter().filter(measured).map(size).sum();
    let unused: i64 = volumes.iter().filter(measured).filter(|v| !in_use(v)).map(size).sum();
    let mut rows = vec![
        row("Images", images.len(), images.iter().filter(|i| i.containers > 0).count(), usage.layers_size, reclaimable),
        row("Containers", containers.len(), containers.iter().filter(|c| runs(&c.state)).count(), writable, idle),
        row("Local Volumes", volumes.len(), volumes.iter().filter(in_use).count(), volume_size, unused),
        row("Build Cache", usage.build_cache.as_ref().map_or(0, Vec::len), 0, 0, 0),
    ];
    // All of it is in use: what a registry was given is given back by deleting it there.
    rows.extend(usage.brig_registry.map(|held| {
        let count = usize::try_from(held.count).unwrap_or(usize::MAX);
        row("Registry", count, count, held.size, 0)
    }));
    rows
}

/// What takes room, for a template: a list of each kind.
fn details(usage: &DiskUsage) -> Value {
    json!({
        "Images": super::images::rows(usage.images.as_deref().unwrap_or_default(), false, false, false),
        "Containers": usage.containers.iter().flatten().map(container).collect::<Vec<_>>(),
        "Volumes": usage.volumes.iter().flatten().map(super::volume_ls::row).collect::<Vec<_>>(),
        "BuildCache": [],
    })
}

fn verbose(usage: &DiskUsage) -> Result<String> {
    let list = |table: &str, heads: &[(&str, &str)], rows: &[Value]| Listing { format: "", table, heads, functions: &[] }.render(rows);
    let images = super::images::rows(usage.images.as_deref().unwrap_or_default(), true, false, false);
    let containers: Vec<Value> =
        usage.containers.iter().flatten().map(container).collect();
    let volumes: Vec<Value> = usage.volumes.iter().flatten().map(super::volume_ls::row).collect();
    let mut out = "Images space usage:\n\n".to_owned();
    out.push_str(&list(
        "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
        super::images::HEADS,
        &images,
    )?);
    out.push_str("\nContainers space usage:\n\n");
    out.push_str(&list(
        "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}",
        super::ps::HEADS,
        &containers,
    )?);
    out.push_str("\nLocal Volumes space usage:\n\n");
    out.push_str(&list("{{.Name}}\t{{.Links}}\t{{.Size}}", super::volume_ls::HEADS, &volumes)?);
    out.push_str("\nBuild cache usage: 0B\n");
    if let Some(held) = usage.brig_registry {
        out.push_str(&format!("\nRegistry usage: {} in {} blobs, manifests and uploads\n", human::size(held.size), held.count));
    }
    Ok(out)
}

/// A container's row as in `ps`, its size without that of its image.
fn container(c: &brig_api::container::Summary) -> Value {
    let mut row = super::ps::row(c, true, human::now());
    row["Size"] = human::size(c.size_rw).into();
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary() {
        let mut usage: DiskUsage = serde_json::from_value(json!({
            "LayersSize": 1000, "Images": [{"Size": 600, "SharedSize": 0, "Containers": 1}, {"Size": 400, "SharedSize": 0}],
            "Containers": [{"State": "exited", "SizeRw": 10}, {"State": "running", "SizeRw": 5}],
            "Volumes": [{"Name": "v", "UsageData": {"RefCount": 0, "Size": 7}}],
        }))
        .unwrap();
        let listing = Listing { format: "{{.Type}} {{.TotalCount}} {{.Active}} {{.Size}} {{.Reclaimable}}", table: "", heads: HEADS, functions: &[] };
        let text = "Images 2 1 1kB 400B (40%)\nContainers 2 1 15B 10B (66%)\nLocal Volumes 1 0 7B 7B (100%)\nBuild Cache 0 0 0B 0B\n";
        assert_eq!(listing.render(&rows(&usage)).unwrap(), text);
        let all = Format::parse("{{range .Images}}{{.Size}} {{end}}{{len .Containers}} {{(index .Volumes 0).Name}}").unwrap();
        assert_eq!(all.fill(&details(&usage)).unwrap(), "600B 400B 2 v");
        usage.brig_reclaimable = Some(300);
        let text = text.replace("400B (40%)", "300B (30%)");
        usage.brig_registry = Some(brig_api::system::RegistryUsage { count: 3, size: 9 });
        assert_eq!(listing.render(&rows(&usage)).unwrap(), format!("{text}Registry 3 3 9B 0B (0%)\n"));
        assert!(verbose(&usage).unwrap().ends_with("\nRegistry usage: 9B in 3 blobs, manifests and uploads\n"));
    }
}
