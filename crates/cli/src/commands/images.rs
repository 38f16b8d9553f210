//! `images`: list images.
//! Owns its flags and what it prints.

use brig_api::image::Summary;
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::command::{filter_text, filters};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Kind, Matches};
use crate::parse::reference::Reference;
use crate::template::Listing;
use crate::{human, terminal};
use serde_json::{Value, json};

const FLAGS: &[Flag] = &[
    Flag::switch("all", "Show all images").short('a').default("hides intermediate images"),
    Flag::switch("digests", "Show digests"),
    Flag::new("filter", Kind::List, "filter", "Filter output based on conditions provided").check(crate::command::check_filter).short('f'),
    Flag::text("format", "Format output using a custom template:\n'table':            Print output in table format with column headers (default)\n'table TEMPLATE':   Print output in table format using the given Go template\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates"),
    Flag::switch("no-trunc", "Don't truncate output"),
    Flag::switch("quiet", "Only show image IDs").short('q'),
    Flag::switch("tree", "List multi-platform images as a tree"),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["images", "image ls", "image list"],
    usage: "[OPTIONS] [REPOSITORY[:TAG]]",
    about: "List images",
    example: "images --format '{{.Repository}}:{{.Tag}} {{.Size}}'",
    flags: &[FLAGS],
    args: Args::AtMost(1),
    stops: false,
    complete: Complete::Images,
    run,
};

/// Column heads by field.
pub const HEADS: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"), ("Repository", "REPOSITORY"), ("Tag", "TAG"), ("Digest", "DIGEST"), ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"), ("Size", "SIZE"), ("Containers", "CONTAINERS"), ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"), ("UniqueSize", "UNIQUE SIZE"),
];

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let tree = m.bool("tree");
    if let Some(other) = ["digests", "format", "no-trunc", "quiet"].into_iter().find(|other| tree && m.changed(other)) {
        return Err(Failure::new(format!("--{other} is not yet supported with --tree")));
    }
    let mut wanted = filters(&m.list("filter"))?;
    if let Some(name) = m.args.first() {
        wanted.add("reference", name.as_str());
    }
    let path = Path::new("/images/json", &[])
        .query_flag("all", m.bool("all"))
        .query_flag("manifests", tree)
        .query_text("filters", &filter_text(&wanted));
    let images: Vec<Summary> = context.client()?.get(&path)?;
    if tree {
        return terminal::print(&super::images_tree::draw(&images)).map(|()| 0);
    }
    let format = m.text("format");
    let digests = m.bool("digests");
    let rows = rows(&images, !m.bool("no-trunc"), digests || format.contains(".Digest"), wanted.contains("dangling"));
    if m.bool("quiet") && (format.is_empty() || format == "table") {
        let mut seen = std::collections::BTreeSet::new();
        let once: Vec<Value> = rows.into_iter().filter(|row| seen.insert(row["ID"].to_string())).collect();
        return terminal::print(&super::lines(&once, "ID")).map(|()| 0);
    }
    let table = if digests {
        "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
    } else {
        "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
    };
    let config = super::configured(context, format, "imagesFormat");
    let listing = Listing { format: &config, table, heads: HEADS, functions: &[] };
    terminal::print(&listing.render(&rows)?).map(|()| 0)
}

/// One row per name of an image; one with `<none>` for an image without names.
pub fn rows(images: &[Summary], short: bool, digests: bool, dangling: bool) -> Vec<Value> {
    let now = human::now();
    let mut rows = Vec::new();
    for image in images {
        let known = |list: &Option<Vec<String>>| -> Vec<Reference> {
            list.iter().flatten().filter_map(|name| Reference::parse(name).ok()).collect()
        };
        let (tags, by_digest) = (known(&image.repo_tags), known(&image.repo_digests));
        let mut names: Vec<(String, String, String)> = Vec::new();
        for tag in &tags {
            let repository = tag.familiar_name();
            let digest = by_digest.iter().find(|d| d.familiar_name() == repository).and_then(|d| d.digest.clone());
            let digest = digest.unwrap_or_else(|| "<none>".to_owned());
            names.push((repository, tag.tag.clone().unwrap_or_default(), digest));
        }
        if tags.is_empty() && !by_digest.is_empty() && (digests || !dangling) {
            let one = by_digest.iter().take(if digests { usize::MAX } else { 1 });
            names.extend(one.map(|d| (d.familiar_name(), "<none>".to_owned(), d.digest.clone().unwrap_or_default())));
        }
        if names.is_empty() {
            names.push(("<none>".to_owned(), "<none>".to_owned(), "<none>".to_owned()));
        }
        for (repository, tag, digest) in names {
            rows.push(json!({
                "ID": if short { human::short_id(&image.id) } else { &image.id },
                "Repository": repository,
                "Tag": tag,
                "Digest": digest,
                "CreatedSince": if image.created > 0 { human::ago(image.created, now) } else { "N/A".to_owned() },
                "CreatedAt": human::go_time(image.created),
                "Size": human::size3(image.size),
                "VirtualSize": human::size(image.size),
                "Containers": counted(image.containers),
                "SharedSize": sized(image.shared_size),
                "UniqueSize": if image.shared_size < 0 { "N/A".to_owned() } else { human::size(image.size - image.shared_size) },
            }));
        }
    }
    rows
}

fn counted(number: i64) -> String {
    if number < 0 { "N/A".to_owned() } else { number.to_string() }
}

fn sized(bytes: i64) -> String {
    if bytes < 0 { "N/A".to_owned() } else { human::size(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_digests() {
        let digest = format!("alpine@sha256:{}", "a".repeat(64));
        let image = Summary {
            id: format!("sha256:{}", "0123456789ab".repeat(5)),
            repo_tags: Some(vec!["alpine:3".into(), "me/x:1".into()]),
            repo_digests: Some(vec![digest]),
            size: 7_800_000,
            shared_size: -1,
            containers: -1,
            ..Summary::default()
        };
        let bare = Summary { id: "sha256:ff".into(), ..Summary::default() };
        let rows = rows(&[image, bare], true, false, false);
        let shown: Vec<String> =
            rows.iter().map(|r| format!("{} {} {}", r["Repository"], r["Tag"], r["Size"]).replace('"', "")).collect();
        assert_eq!(shown, ["alpine 3 7.8MB", "me/x 1 7.8MB", "<none> <none> 0B"]);
        assert!(rows[0]["Digest"].as_str().unwrap().starts_with("sha256:a") && rows[1]["Digest"] == "<none>");
    }
}
